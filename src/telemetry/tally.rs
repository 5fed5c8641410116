//! One session's share of the counts: kept in the session, and added to the whole when it rests.
//!
//! A pipelined batch of a thousand commands so costs a thousand additions in memory of its own, and a few in memory that all
//! threads share.

use std::sync::Arc;

use super::counts::{BUCKETS, Counts, REPLIES, bucket, cell};
use crate::{
    pop3::{Keyword, Status},
    record::schema::Summary,
};

/// What was counted and not added yet.
pub(crate) struct Tally {
    counts: Arc<Counts>,
    replies: [u32; REPLIES],
    /// A bit for each of `replies` that is not zero.
    touched: u128,
    latency: [u32; BUCKETS],
    latency_us: u64,
    /// What was added so far.
    octets: [u64; 2],
    login_failures: u64,
}

impl Tally {
    /// A session begins.
    pub(crate) fn begin(counts: Arc<Counts>) -> Self {
        counts.open();
        Self {
            counts,
            replies: [0; REPLIES],
            touched: 0,
            latency: [0; BUCKETS],
            latency_us: 0,
            octets: [0; 2],
            login_failures: 0,
        }
    }

    /// A command was answered; by the server after so many microseconds, or by poptap.
    pub(crate) fn reply(&mut self, keyword: Keyword, status: Option<Status>, latency_us: Option<u64>) {
        let cell = cell(keyword, status);
        if let Some(count) = self.replies.get_mut(cell) {
            *count = count.saturating_add(1);
            self.touched |= 1 << cell;
        }
        if let Some((latency_us, count)) = latency_us.and_then(|us| Some((us, self.latency.get_mut(bucket(us))?))) {
            *count = count.saturating_add(1);
            self.latency_us += latency_us;
        }
    }

    /// The session rests: adds what was counted since the last time. `octets` and `login_failures` are the session's so far.
    pub(crate) fn rest(&mut self, octets: [u64; 2], login_failures: u64) {
        let more = [0, 1].map(|at| octets[at].saturating_sub(self.octets[at]));
        self.counts.passed(more);
        self.octets = [0, 1].map(|at| self.octets[at].max(octets[at]));
        self.counts.login_failed(login_failures.saturating_sub(self.login_failures));
        self.login_failures = login_failures;
        if self.touched != 0 {
            self.add();
        }
    }

    /// The session is over.
    pub(crate) fn end(&mut self, summary: &Summary) {
        self.rest([summary.client_octets, summary.upstream_octets], summary.login_failures);
        self.counts.end(summary);
    }

    fn add(&mut self) {
        while self.touched != 0 {
            let cell = self.touched.trailing_zeros() as usize;
            self.touched &= self.touched - 1;
            self.counts.reply(cell, self.replies.get_mut(cell).map(std::mem::take).unwrap_or_default().into());
        }
        for (at, count) in self.latency.iter_mut().enumerate() {
            self.counts.took(at, std::mem::take(count).into());
        }
        if self.latency_us > 0 {
            self.counts.waited(std::mem::take(&mut self.latency_us));
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text, registry::Registry};

    use super::*;

    fn page(counts: &Arc<Counts>) -> String {
        let mut registry = Registry::with_prefix("poptap");
        registry.register_collector(Box::new(Arc::clone(counts)));
        let mut page = String::new();
        text::encode(&mut page, &registry).unwrap();
        page
    }

    #[test]
    fn a_session_is_counted_when_it_rests_and_when_it_ends() {
        let counts = Arc::new(Counts::default());
        let mut tally = Tally::begin(Arc::clone(&counts));
        tally.reply(Keyword::User, Some(Status::Ok), Some(400));
        tally.reply(Keyword::Pass, Some(Status::Err), Some(2_000_000));
        tally.reply(Keyword::Unknown, None, None);
        assert!(page(&counts).contains(r#"poptap_commands_total{verb="USER",status="+OK"} 0"#));
        tally.rest([10, 20], 1);
        tally.rest([10, 20], 1);
        let first = page(&counts);
        for line in [
            "poptap_sessions_opened_total 1",
            "poptap_sessions_active 1",
            r#"poptap_commands_total{verb="USER",status="+OK"} 1"#,
            r#"poptap_commands_total{verb="PASS",status="-ERR"} 1"#,
            r#"poptap_commands_total{verb="other",status="other"} 1"#,
            r#"poptap_octets_total{from="client"} 10"#,
            r#"poptap_octets_total{from="upstream"} 20"#,
            "poptap_login_failures_total 1",
            r#"poptap_reply_latency_seconds_bucket{le="0.00025"} 0"#,
            r#"poptap_reply_latency_seconds_bucket{le="0.0005"} 1"#,
            r#"poptap_reply_latency_seconds_bucket{le="+Inf"} 2"#,
            "poptap_reply_latency_seconds_sum 2.0004",
            "poptap_reply_latency_seconds_count 2",
        ] {
            assert!(first.lines().any(|there| there == line), "{line} in\n{first}");
        }
        let tls = Some("TLSv1.3".to_owned());
        tally.end(&Summary {
            client_octets: 12,
            upstream_octets: 50,
            client_tls: tls,
            reason: "quit".to_owned(),
            login_failures: 1,
            ..Summary::default()
        });
        Tally::begin(Arc::clone(&counts)).end(&Summary { reason: "<script>".to_owned(), ..Summary::default() });
        let last = page(&counts);
        for line in [
            "poptap_sessions_active 0",
            r#"poptap_sessions_ended_total{outcome="quit"} 1"#,
            r#"poptap_sessions_ended_total{outcome="other"} 1"#,
            r#"poptap_octets_total{from="client"} 12"#,
            "poptap_login_failures_total 1",
            r#"poptap_sessions_tls_total{hop="client",version="TLSv1.3"} 1"#,
            r#"poptap_sessions_tls_total{hop="client",version="none"} 1"#,
            r#"poptap_sessions_tls_total{hop="upstream",version="none"} 1"#,
        ] {
            assert!(last.lines().any(|there| there == line), "{line} in\n{last}");
        }
        assert!(last.ends_with("# EOF\n") && !last.contains("<script"));
    }
}
