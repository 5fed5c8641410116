//! The stream of records to one browser, as server-sent events.
//!
//! A browser can draw so much and no more, so each gets a budget a second: one for what sessions begin and end with, and a smaller
//! one for all between. What is over is left out, counted, and told.

use std::{convert::Infallible, time::Duration};

use axum::body::{Body, Bytes};
use futures_util::stream;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::record::Subscription;

/// Records that open or sum up a session, a second.
const LANDMARKS: f64 = 1000.0;
/// All others, a second.
const OTHERS: f64 = 600.0;
/// A comment is sent when nothing else was for so long, which is how a browser's going is noticed.
const SILENCE: Duration = Duration::from_secs(10);

/// What a body is made of; it ends when told to stop.
pub(super) fn body(subscription: Subscription, stop: CancellationToken) -> Body {
    let viewer = Viewer { subscription, stop, landmarks: Budget::of(LANDMARKS), others: Budget::of(OTHERS), begun: false };
    Body::from_stream(stream::unfold(viewer, |mut viewer| async move {
        let octets = viewer.next().await?;
        Some((Ok::<_, Infallible>(octets), viewer))
    }))
}

struct Viewer {
    subscription: Subscription,
    stop: CancellationToken,
    landmarks: Budget,
    others: Budget,
    begun: bool,
}

impl Viewer {
    async fn next(&mut self) -> Option<Bytes> {
        if !self.begun {
            self.begun = true;
            // How long a browser waits before it comes back; and something at once, so that it knows that it is connected.
            return Some(Bytes::from_static(b"retry: 2000\n\n"));
        }
        let next = tokio::select! {
            () = self.stop.cancelled() => return None,
            next = timeout(SILENCE, self.subscription.next()) => next,
        };
        match next {
            Ok(lines) => lines.map(|lines| self.frame(&lines, Instant::now())),
            Err(_) => Some(Bytes::from_static(b":\n\n")),
        }
    }

    /// Lines as one event, and behind it how many records were left out. No line holds a CR or LF: JSON escapes them.
    fn frame(&mut self, lines: &[u8], now: Instant) -> Bytes {
        let (mut frame, mut hidden) = (Vec::with_capacity(lines.len() + lines.len() / 16 + 64), self.subscription.lost());
        for line in lines.split(|&octet| octet == b'\n').filter(|line| !line.is_empty()) {
            let budget = if is_landmark(line) { &mut self.landmarks } else { &mut self.others };
            if budget.spend(now) {
                frame.extend_from_slice(b"data: ");
                frame.extend_from_slice(line);
                frame.push(b'\n');
            } else {
                hidden += 1;
            }
        }
        frame.push(b'\n');
        if hidden > 0 {
            frame.extend_from_slice(format!("event: hidden\ndata: {hidden}\n\n").as_bytes());
        }
        frame.into()
    }
}

/// Whether a line opens or sums up a session. The kind stands behind id and times, which are of known length; a peer's text
/// comes later.
fn is_landmark(line: &[u8]) -> bool {
    let head = line.get(..160).unwrap_or(line);
    let Some(at) = memchr::memmem::find(head, br#""event":""#) else { return false };
    let kind = &head[at + br#""event":""#.len()..];
    kind.starts_with(b"session\"") || kind.starts_with(b"opened\"")
}

/// So many a second, and as many at once after a second of rest.
struct Budget {
    rate: f64,
    left: f64,
    since: Option<Instant>,
}

impl Budget {
    fn of(rate: f64) -> Self {
        Self { rate, left: rate, since: None }
    }

    fn spend(&mut self, now: Instant) -> bool {
        let rested = self.since.replace(now).map_or(0.0, |since| now.saturating_duration_since(since).as_secs_f64());
        self.left = (self.left + rested * self.rate).min(self.rate);
        let is_enough = self.left >= 1.0;
        if is_enough {
            self.left -= 1.0;
        }
        is_enough
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::record::Broadcast;

    fn viewer() -> Viewer {
        let subscription = Arc::new(Broadcast::default()).subscribe();
        let stop = CancellationToken::new();
        Viewer { subscription, stop, landmarks: Budget::of(2.0), others: Budget::of(3.0), begun: true }
    }

    fn line(kind: &str) -> String {
        format!(
            r#"{{"v":1,"session":"0123456789ab","time":"2026-11-24T18:00:00.000000Z","at_us":12,"event":"{kind}","text":"x"}}"#
        )
    }

    #[test]
    fn landmarks_have_a_budget_of_their_own() {
        let (mut viewer, now) = (viewer(), Instant::now());
        let lines = ["command"; 5].into_iter().chain(["opened", "session", "session"]).map(|kind| line(kind) + "\n");
        let frame = viewer.frame(lines.collect::<String>().as_bytes(), now);
        let text = String::from_utf8(frame.to_vec()).unwrap();
        let count = |kind: &str| text.matches(&format!("\"event\":\"{kind}\"")).count();
        assert_eq!((count("command"), count("opened"), count("session")), (3, 1, 1));
        assert!(text.ends_with("\n\nevent: hidden\ndata: 3\n\n"), "{text}");
        let later = viewer.frame((line("reply") + "\n").as_bytes(), now + Duration::from_secs(1));
        assert_eq!(&*later, format!("data: {}\n\n", line("reply")).as_bytes());
    }

    #[test]
    fn a_kind_is_not_taken_from_a_text() {
        assert!(!is_landmark(line("command").replace("\"x\"", r#""\"event\":\"session\"""#).as_bytes()));
        assert!(is_landmark(line("session").as_bytes()) && is_landmark(line("opened").as_bytes()));
        assert!(!is_landmark(b"{}") && !is_landmark(line("sessions").as_bytes()));
    }
}
