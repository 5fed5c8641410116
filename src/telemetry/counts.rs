//! What is counted over all sessions. Labels come from lists that stand here: nothing that a peer says becomes one.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::exposition::{constant, counters, gauge};
use crate::{
    pop3::{Keyword, Status},
    record::schema::{Hop, Summary},
};

/// The keywords, in the order of their declaration; the last stands for every other one.
const VERBS: [Keyword; 24] = [
    Keyword::Apop,
    Keyword::Auth,
    Keyword::Capa,
    Keyword::Dele,
    Keyword::Lang,
    Keyword::Last,
    Keyword::List,
    Keyword::Noop,
    Keyword::Pass,
    Keyword::Quit,
    Keyword::Retr,
    Keyword::Rpop,
    Keyword::Rset,
    Keyword::Stat,
    Keyword::Stls,
    Keyword::Top,
    Keyword::Uidl,
    Keyword::User,
    Keyword::Utf8,
    Keyword::Xclient,
    Keyword::Xoip,
    Keyword::Xsender,
    Keyword::Xtnd,
    Keyword::Unknown,
];

const STATUSES: [&str; 3] = ["+OK", "-ERR", OTHER];

/// Cells of replies by verb and status.
pub(super) const REPLIES: usize = VERBS.len() * STATUSES.len();

/// Upper ends of the latency histogram's buckets, in microseconds; one more is without end.
const BOUNDS_US: [u64; 15] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 10_000_000,
    30_000_000,
];

/// Buckets of the latency histogram.
pub(super) const BUCKETS: usize = BOUNDS_US.len() + 1;

/// How sessions end, as `reason` in the transcript says it; what is not in the list counts as `other`.
const OUTCOMES: [&str; 44] = [
    "quit",
    "eof",
    "reset",
    "truncated",
    "timeout-connect",
    "timeout-handshake",
    "timeout-greeting",
    "timeout-login",
    "timeout-idle",
    "timeout-half-closed",
    "timeout-client-handshake",
    "client-tls",
    "violation",
    "upstream-unreachable",
    "upstream-refused",
    "upstream-tls",
    "upstream-stls",
    "not-a-proxy",
    "proxy-header",
    "timeout-proxy-header",
    "not-redirected",
    "loop",
    "destination-refused",
    "not-allowed",
    "denied",
    "client-blocked",
    "user-blocked",
    "too-many-from-client",
    "too-many-of-user",
    "too-many-connections",
    "too-many-commands",
    "too-many-logins",
    "too-many-octets",
    "policy",
    "line-too-long",
    "malformed-line",
    "shield",
    "unknown-user",
    "transcript-failing",
    "transcript-full",
    "shutdown",
    "abandoned",
    "strict",
    OTHER,
];

/// Versions of TLS; `none` is plain text.
const VERSIONS: [&str; 4] = ["none", "TLSv1.2", "TLSv1.3", OTHER];

const OTHER: &str = "other";

/// Counts of the whole process. Nobody waits for anybody: each is one atomic number.
#[derive(Debug)]
pub struct Counts {
    opened: AtomicU64,
    ended: [AtomicU64; OUTCOMES.len()],
    replies: [AtomicU64; REPLIES],
    latency: [AtomicU64; BUCKETS],
    latency_us: AtomicU64,
    /// From clients, and from servers.
    octets: [AtomicU64; 2],
    login_failures: AtomicU64,
    /// Sessions by the version on the client's hop, and on the server's.
    tls: [[AtomicU64; VERSIONS.len()]; 2],
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            opened: AtomicU64::default(),
            ended: [const { AtomicU64::new(0) }; OUTCOMES.len()],
            replies: [const { AtomicU64::new(0) }; REPLIES],
            latency: [const { AtomicU64::new(0) }; BUCKETS],
            latency_us: AtomicU64::default(),
            octets: Default::default(),
            login_failures: AtomicU64::default(),
            tls: Default::default(),
        }
    }
}

/// The cell of replies for a command and the status of its reply.
pub(super) fn cell(keyword: Keyword, status: Option<Status>) -> usize {
    let status = match status {
        Some(Status::Ok) => 0,
        Some(Status::Err) => 1,
        Some(Status::Continue) | None => 2,
    };
    keyword as usize * STATUSES.len() + status
}

/// The bucket of the histogram for a reply that took so long.
pub(super) fn bucket(latency_us: u64) -> usize {
    BOUNDS_US.partition_point(|&bound| bound < latency_us)
}

impl Counts {
    pub(super) fn open(&self) {
        self.opened.fetch_add(1, Relaxed);
    }

    pub(super) fn reply(&self, cell: usize, count: u64) {
        add(self.replies.get(cell), count);
    }

    pub(super) fn took(&self, bucket: usize, count: u64) {
        add(self.latency.get(bucket), count);
    }

    pub(super) fn waited(&self, latency_us: u64) {
        self.latency_us.fetch_add(latency_us, Relaxed);
    }

    pub(super) fn passed(&self, octets: [u64; 2]) {
        for (total, octets) in self.octets.iter().zip(octets).filter(|(_, octets)| *octets > 0) {
            total.fetch_add(octets, Relaxed);
        }
    }

    pub(super) fn login_failed(&self, times: u64) {
        add(Some(&self.login_failures), times);
    }

    /// A session ended. Its hop to the server counts only where the server has said something.
    pub(super) fn end(&self, summary: &Summary) {
        let outcome = OUTCOMES.iter().position(|known| *known == summary.reason).unwrap_or(OUTCOMES.len() - 1);
        add(self.ended.get(outcome), 1);
        self.tls_of(Hop::Client, summary.client_tls.as_deref());
        if summary.upstream_tls.is_some() || summary.upstream_octets > 0 {
            self.tls_of(Hop::Upstream, summary.upstream_tls.as_deref());
        }
    }

    fn tls_of(&self, hop: Hop, version: Option<&str>) {
        let version = version.unwrap_or("none");
        let at = VERSIONS.iter().position(|known| *known == version).unwrap_or(VERSIONS.len() - 1);
        add(self.tls[hop as usize].get(at), 1);
    }

    fn latency(&self, encoder: &mut DescriptorEncoder<'_>) -> std::fmt::Result {
        let help = "Time from a command to the server's reply";
        let mut metric = encoder.encode_descriptor("reply_latency_seconds", help, None, MetricType::Histogram)?;
        let ends = BOUNDS_US.iter().map(|&bound| seconds(bound)).chain([f64::INFINITY]);
        let buckets: Vec<_> = ends.zip(&self.latency).map(|(end, count)| (end, count.load(Relaxed))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        metric.encode_histogram::<NoLabelSet>(seconds(self.latency_us.load(Relaxed)), count, &buckets, None)
    }
}

impl Collector for Counts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let out = &mut encoder;
        let ended: Vec<_> = self.ended.iter().map(|count| count.load(Relaxed)).collect();
        // What ended was opened before, so that this never falls below zero.
        let opened = self.opened.load(Relaxed);
        constant(out, "sessions_opened", "Sessions that were opened, clients that were turned away included", opened)?;
        let active = opened.saturating_sub(ended.iter().sum());
        gauge(out, "sessions_active", "Sessions at this moment", active)?;
        let ended = OUTCOMES.into_iter().zip(ended).map(|(outcome, count)| ([("outcome", outcome)], count));
        counters(out, "sessions_ended", "Sessions that ended, by how", ended)?;
        let replies = self.replies.iter().enumerate().map(|(cell, count)| {
            let (verb, status) = (VERBS[cell / STATUSES.len()], STATUSES[cell % STATUSES.len()]);
            ([("verb", name(verb)), ("status", status)], count.load(Relaxed))
        });
        counters(out, "commands", "Commands that were answered, by the server or by poptap", replies)?;
        let octets = ["client", "upstream"].into_iter().zip(&self.octets);
        let octets = octets.map(|(from, octets)| ([("from", from)], octets.load(Relaxed)));
        counters(out, "octets", "Octets received, inside TLS", octets)?;
        constant(out, "login_failures", "Logins that the server refused", self.login_failures.load(Relaxed))?;
        let tls = ["client", "upstream"].into_iter().zip(&self.tls).flat_map(|(hop, counts)| {
            let versions = VERSIONS.into_iter().zip(counts);
            versions.map(move |(version, count)| ([("hop", hop), ("version", version)], count.load(Relaxed)))
        });
        counters(out, "sessions_tls", "Sessions that ended, by the version of TLS on each hop", tls)?;
        self.latency(out)
    }
}

fn add(total: Option<&AtomicU64>, count: u64) {
    if let Some(total) = total.filter(|_| count > 0) {
        total.fetch_add(count, Relaxed);
    }
}

fn name(verb: Keyword) -> &'static str {
    if verb == Keyword::Unknown { OTHER } else { verb.name() }
}

#[allow(clippy::cast_precision_loss, reason = "exact for 285 years")]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_verb_has_its_place_and_its_name() {
        for (place, verb) in VERBS.into_iter().enumerate() {
            assert_eq!(verb as usize, place, "{verb:?}");
        }
        assert_eq!(VERBS.map(name).into_iter().collect::<BTreeSet<_>>().len(), VERBS.len());
        assert_eq!(cell(Keyword::Unknown, None), REPLIES - 1);
    }

    #[test]
    fn buckets_hold_their_upper_end() {
        for (latency_us, expected) in [(0, 0), (250, 0), (251, 1), (1_000_000, 11), (30_000_000, 14), (u64::MAX, 15)] {
            assert_eq!(bucket(latency_us), expected, "{latency_us}");
        }
    }

    /// A reason that is missing here would be counted as `other`.
    #[test]
    fn outcomes_are_the_reasons_that_the_transcript_s_page_lists() {
        let page = include_str!("../../docs/transcript.md");
        let (_, listed) = page.split_once("Values of `reason`:").unwrap();
        let listed = listed.split("\n\n").next().unwrap();
        let words = listed.split('`').skip(1).step_by(2);
        let reasons: BTreeSet<_> = words.filter(|word| !matches!(*word, "detail" | "on_error = \"refuse\"")).collect();
        let missing: Vec<_> = reasons.iter().filter(|reason| !OUTCOMES.contains(reason)).collect();
        assert!(reasons.len() > 30 && missing.is_empty(), "{missing:?}");
    }
}
