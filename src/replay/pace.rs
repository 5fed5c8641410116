//! How fast a session is played.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How fast it is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Every answer comes as soon as it can.
    Fast,
    /// Every answer, and what follows it, takes as long as it took, and at most so long.
    Recorded {
        /// The longest wait.
        most: Duration,
    },
}

impl Pace {
    /// How long to wait for what was waited for so many microseconds.
    pub(super) fn wait(self, recorded_us: u64) -> Duration {
        match self {
            Self::Fast => Duration::ZERO,
            Self::Recorded { most } => Duration::from_micros(recorded_us).min(most),
        }
    }

    /// Spreads `octets` over the time that they took.
    pub(super) fn spread(self, octets: u64, recorded_us: u64) -> Spread {
        Spread { start: Instant::now(), lasts: self.wait(recorded_us), octets, sent: 0 }
    }
}

/// Octets leave at least this often while they are spread over a time.
const TICK: Duration = Duration::from_millis(50);
/// A piece has at most so many octets.
const PIECE: u64 = 64 * 1024;

/// Octets on their way, evenly spread over a time.
#[derive(Debug)]
pub(super) struct Spread {
    start: Instant,
    lasts: Duration,
    octets: u64,
    sent: u64,
}

impl Spread {
    /// Octets of the next piece, of so many that there are.
    pub(super) fn piece(&self, there: usize) -> usize {
        let ticks = u64::try_from(self.lasts.as_micros() / TICK.as_micros()).unwrap_or(u64::MAX).max(1);
        // Beyond the recorded number all are late.
        let piece = if self.sent >= self.octets { PIECE } else { (self.octets / ticks).clamp(1, PIECE) };
        there.min(usize::try_from(piece).unwrap_or(usize::MAX))
    }

    /// Waits until this piece is due: the last one when all the time has passed.
    pub(super) async fn due(&mut self, piece: usize) {
        self.sent = self.sent.saturating_add(piece as u64);
        if !self.lasts.is_zero() {
            sleep_until(self.start + self.after()).await;
        }
    }

    fn after(&self) -> Duration {
        let share = u128::from(self.sent.min(self.octets)) * self.lasts.as_micros() / u128::from(self.octets.max(1));
        Duration::from_micros(u64::try_from(share).unwrap_or(u64::MAX)).min(self.lasts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When each piece left, in milliseconds.
    async fn sent(pace: Pace, octets: u64, really: usize, recorded_ms: u64) -> Vec<u128> {
        let (start, mut left, mut times) = (Instant::now(), really, Vec::new());
        let mut spread = pace.spread(octets, recorded_ms * 1000);
        while left > 0 {
            let piece = spread.piece(left);
            spread.due(piece).await;
            left -= piece;
            times.push(start.elapsed().as_millis());
        }
        times
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_takes_as_long_as_it_took_and_never_longer_than_allowed() {
        let recorded = Pace::Recorded { most: Duration::from_secs(2) };
        assert_eq!(sent(Pace::Fast, 1000, 1000, 60_000).await, [0]);
        assert_eq!(sent(recorded, 5, 5, 20).await, [20]);
        let times = sent(recorded, 1000, 1000, 1000).await;
        assert_eq!((times.len(), times.first(), times.last()), (20, Some(&50), Some(&1000)));
        assert_eq!(sent(recorded, 1000, 1000, 600_000).await.last(), Some(&2000));
    }

    #[tokio::test(start_paused = true)]
    async fn numbers_that_contradict_each_other_hold_nothing_up() {
        let recorded = Pace::Recorded { most: Duration::from_secs(2) };
        let times = sent(recorded, 1, 10_000_000, u64::MAX / 1000).await;
        assert!(times.len() < 200 && times.last() == Some(&2000), "{times:?}");
        assert_eq!(sent(recorded, u64::MAX, 1000, 1000).await, [0]);
        assert_eq!(sent(recorded, 0, 3, 1000).await, [0]);
    }
}
