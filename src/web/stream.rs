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
/// Records that are looked at in a [`WINDOW`] at most: what comes beyond them is not even handed over, so that a page costs the
/// same however much passes.
const LOOKS: usize = 2000;
const WINDOW: Duration = Duration::from_millis(100);
/// A comment is sent when nothing else was for so long, which is how a browser's going is noticed.
const SILENCE: Duration = Duration::from_secs(10);

/// What a body is made of; it ends when told to stop.
pub(super) fn body(subscription: Subscription, stop: CancellationToken) -> Body {
    let (landmarks, others) = (Budget::of(LANDMARKS), Budget::of(OTHERS));
    let viewer = Viewer { subscription, stop, landmarks, others, looks: Looks::default(), begun: false };
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
    looks: Looks,
    begun: bool,
}

impl Viewer {
    async fn next(&mut self) -> Option<Bytes> {
        if !self.begun {
            self.begun = true;
            // How long a browser waits before it comes back; and something at once, so that it knows that it is connected.
            return Some(Bytes::from_static(b"retry: 2000\n\n"));
        }
        loop {
            let rest = self.looks.rest(Instant::now());
            self.subscription.set_enough(rest.is_some());
            let next = tokio::select! {
                () = self.stop.cancelled() => return None,
                next = timeout(rest.unwrap_or(SILENCE), self.subscription.next()) => next,
            };
            match next {
                Ok(lines) => return lines.map(|lines| self.frame(&lines, Instant::now())),
                Err(_) if rest.is_some() => {}
                Err(_) => return Some(Bytes::from_static(b":\n\n")),
            }
        }
    }

    /// Lines as one event, and behind it how many records were left out. No line holds a CR or LF: JSON escapes them.
    fn frame(&mut self, lines: &[u8], now: Instant) -> Bytes {
        let (mut frame, mut hidden) = (Vec::with_capacity(lines.len() + lines.len() / 16 + 64), self.subscription.lost());
        for line in lines.split(|&octet| octet == b'\n').filter(|line| !line.is_empty()) {
            self.looks.count(now);
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

/// How many records were looked at in the window that runs.
#[derive(Default)]
struct Looks {
    since: Option<Instant>,
    count: usize,
}

impl Looks {
    fn count(&mut self, now: Instant) {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW) {
            (self.since, self.count) = (Some(now), 0);
        }
        self.count += 1;
    }

    /// How long there have been enough; `None` where there have not.
    fn rest(&self, now: Instant) -> Option<Duration> {
        let left = WINDOW.checked_sub(now.saturating_duration_since(self.since?))?;
        Some(left).filter(|left| self.count >= LOOKS && !left.is_zero())
    }
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
        let (landmarks, others) = (Budget::of(2.0), Budget::of(3.0));
        Viewer { subscription, stop, landmarks, others, looks: Looks::default(), begun: true }
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
    fn so_many_records_are_looked_at_in_a_window() {
        let (mut looks, now) = (Looks::default(), Instant::now());
        (1..LOOKS).for_each(|_| looks.count(now));
        assert_eq!(looks.rest(now), None);
        looks.count(now);
        assert_eq!(looks.rest(now + WINDOW / 4), Some(WINDOW * 3 / 4));
        assert_eq!(looks.rest(now + WINDOW), None);
        looks.count(now + WINDOW);
        assert_eq!((looks.count, looks.rest(now + WINDOW)), (1, None));
    }

    #[test]
    fn a_kind_is_not_taken_from_a_text() {
        assert!(!is_landmark(line("command").replace("\"x\"", r#""\"event\":\"session\"""#).as_bytes()));
        assert!(is_landmark(line("session").as_bytes()) && is_landmark(line("opened").as_bytes()));
        assert!(!is_landmark(b"{}") && !is_landmark(line("sessions").as_bytes()));
    }
}
