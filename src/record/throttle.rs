//! Says a thing at most once in some seconds.

use std::time::Duration;

/// How long a thing is not said again.
const PAUSE: Duration = Duration::from_secs(5);

/// Counts how often a thing was not said.
#[derive(Default)]
pub(super) struct Throttle {
    last: Option<Duration>,
    kept_quiet: u64,
}

impl Throttle {
    /// Whether it may be said at `now`, and how often it was not since it was said last.
    pub(super) fn allow(&mut self, now: Duration) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_sub(last) < PAUSE) {
            self.kept_quiet += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.kept_quiet))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_in_five_seconds() {
        let mut throttle = Throttle::default();
        let said: Vec<_> = [0, 1, 4, 5, 6, 20].map(|at| throttle.allow(Duration::from_secs(at))).into();
        assert_eq!(said, [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
