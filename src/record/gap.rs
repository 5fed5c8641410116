//! What is missing from a transcript.

use super::schema::{Body, Gap, Hop};
use crate::pop3::Peer;

/// Counts what was not recorded.
#[derive(Clone, Debug, Default)]
pub(super) struct Missing {
    gap: Gap,
}

impl Missing {
    /// Nothing but octets of content.
    pub(super) fn of_content(octets: u64) -> Self {
        Self { gap: Gap { content_octets: octets, ..Gap::default() } }
    }

    /// Counts one event; of a gap's own record, what it counted.
    pub(super) fn count(&mut self, body: &Body) {
        self.gap.events += u64::from(!matches!(body, Body::Gap(_)));
        match body {
            Body::Command(command) => self.gap.client_octets += command.line.octets,
            Body::Sasl(sasl) if sasl.from == Hop::Client => self.gap.client_octets += sasl.octets,
            Body::Sasl(sasl) => self.gap.upstream_octets += sasl.octets,
            Body::ClientData(data) => self.gap.client_octets += data.octets,
            Body::Greeting(greeting) => self.gap.upstream_octets += greeting.line.octets,
            Body::Reply(reply) if !reply.local => self.gap.upstream_octets += reply.line.octets,
            Body::Content(content) => self.gap.upstream_octets += content.octets,
            Body::Unsolicited(line) => self.gap.upstream_octets += line.line.octets,
            Body::Gap(gap) => self.merge(gap),
            _ => {}
        }
    }

    /// Counts one event about a line of `octets` from `peer`.
    pub(super) fn line(&mut self, peer: Peer, octets: u64) {
        self.gap.events += 1;
        match peer {
            Peer::Client => self.gap.client_octets += octets,
            Peer::Upstream => self.gap.upstream_octets += octets,
        }
    }

    /// Counts content that should have been kept.
    pub(super) fn content(&mut self, octets: u64) {
        self.gap.content_octets += octets;
    }

    pub(super) fn events(&self) -> u64 {
        self.gap.events
    }

    /// The record of it; `reason` is `full` or `error`.
    pub(super) fn into_gap(self, reason: &str) -> Gap {
        Gap { reason: reason.to_owned(), ..self.gap }
    }

    fn merge(&mut self, gap: &Gap) {
        self.gap.events += gap.events;
        self.gap.client_octets += gap.client_octets;
        self.gap.upstream_octets += gap.upstream_octets;
        self.gap.content_octets += gap.content_octets;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::schema::{Closed, Content};

    #[test]
    fn a_lost_gap_counts_for_what_it_counted() {
        let mut missing = Missing::of_content(7);
        missing.count(&Body::Content(Content { octets: 100, ..Content::default() }));
        missing.count(&Body::Closed(Closed::default()));
        let gap = missing.into_gap("full");
        let mut missing = Missing::default();
        missing.count(&Body::Gap(gap.clone()));
        assert_eq!((gap.events, gap.upstream_octets, gap.content_octets), (2, 100, 7));
        assert_eq!(missing.into_gap("full"), gap);
    }
}
