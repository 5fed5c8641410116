//! `/metrics`, `/healthz` and `/readyz`: for whoever may connect, without a token. No transcript is within reach from here.

use std::{fmt, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    metrics::info::Info,
    registry::Registry,
};
use time::OffsetDateTime;

use crate::{
    record::Condition,
    server::Reloader,
    telemetry::{Counts, constant, counters, gauge, gauges},
};

/// `OpenMetrics` 1.0.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const SECONDS_A_DAY: i64 = 24 * 60 * 60;

/// The three pages.
pub(super) fn router(counts: &Arc<Counts>, reloader: &Reloader) -> Router {
    let mut registry = Registry::with_prefix("poptap");
    registry.register("build", "The program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    registry.register_collector(Box::new(Arc::clone(counts)));
    registry.register_collector(Box::new(Standing(reloader.clone())));
    let probes = Router::new().route("/healthz", get(async || "ok\n")).route("/readyz", get(readyz)).with_state(reloader.clone());
    Router::new().route("/metrics", get(metrics)).with_state(Arc::new(registry)).merge(probes)
}

async fn metrics(State(registry): State<Arc<Registry>>) -> Response {
    let mut page = String::new();
    match text::encode(&mut page, &registry) {
        Ok(()) => ([(CONTENT_TYPE, OPENMETRICS)], page).into_response(),
        // A string takes whatever is written to it.
        Err(fmt::Error) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn readyz(State(reloader): State<Reloader>) -> Response {
    match reloader.unready() {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

/// What is looked at only when somebody asks.
struct Standing(Reloader);

impl fmt::Debug for Standing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Standing").finish_non_exhaustive()
    }
}

impl Collector for Standing {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let out = &mut encoder;
        let Condition { waiting_octets, buffer, waiting_records, failing, loss } = self.0.transcript();
        gauge(out, "transcript_waiting_octets", "Octets that wait for the transcript's writer", waiting_octets)?;
        gauge(out, "transcript_buffer_octets", "Octets that may wait before sessions do", buffer)?;
        gauge(out, "transcript_waiting_records", "Records that wait for the transcript's writer", waiting_records)?;
        gauge(out, "transcript_failing", "1 while the transcript cannot be written", u64::from(failing))?;
        let lost = [("events", loss.events), ("summaries", loss.summaries)].map(|(what, count)| ([("what", what)], count));
        counters(out, "transcript_lost_records", "Records that could not be kept", lost)?;
        let help = "Octets of messages that should have been kept and could not be";
        constant(out, "transcript_lost_content_octets", help, loss.content_octets)?;
        self.upstreams(out)?;
        self.certificates(out)
    }
}

impl Standing {
    fn upstreams(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let standings: Vec<_> = self.0.ways().iter().map(|way| way.standing()).collect();
        let up = standings.iter().map(|standing| (standing.upstream.clone(), i64::from(standing.is_up)));
        gauges(
            out,
            "upstream_up",
            "1 where an upstream could serve when it was tried last, or was not tried yet",
            "upstream",
            up,
        )?;
        let failures = standings.iter().map(|standing| ([("upstream", standing.upstream.as_str())], standing.failures));
        counters(out, "upstream_failures", "Sessions that an upstream could not serve", failures)
    }

    /// Of two certificates in one file that are both in use (before and after a reload), the one that ends first.
    fn certificates(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut expiries = self.0.expiries();
        expiries.sort_by(|one, other| (&one.file, one.not_after).cmp(&(&other.file, other.not_after)));
        expiries.dedup_by(|later, first| later.file == first.file);
        let now = OffsetDateTime::now_utc();
        let days = expiries.iter().map(|expiry| {
            let days = (expiry.not_after - now).whole_seconds().div_euclid(SECONDS_A_DAY);
            (expiry.file.display().to_string(), days)
        });
        gauges(out, "certificate_days_left", "Whole days until a certificate ends, negative afterwards", "file", days)
    }
}
