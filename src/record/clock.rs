//! Time, as the recorder is told it.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use time::{OffsetDateTime, macros::format_description};

/// Says what time it is; a test has its own.
pub(super) trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Moment;
}

/// One reading of both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// The wall clock, which may be set forth and back.
    pub(super) wall: OffsetDateTime,
    /// Time since some fixed moment, which never goes back.
    pub(super) steady: Duration,
}

impl Moment {
    /// RFC 3339, UTC, microseconds.
    pub(super) fn stamp(&self) -> String {
        self.written(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"))
    }

    /// For names of files: RFC 3339's short form, UTC, seconds.
    pub(super) fn file_stamp(&self) -> String {
        self.written(format_description!("[year][month][day]T[hour][minute][second]Z"))
    }

    /// Microseconds from `earlier` to this.
    pub(super) fn micros_since(&self, earlier: &Self) -> u64 {
        u64::try_from(self.steady.saturating_sub(earlier.steady).as_micros()).unwrap_or(u64::MAX)
    }

    fn written(&self, description: &[time::format_description::BorrowedFormatItem<'_>]) -> String {
        // Nothing in the two descriptions can fail for a time of our own.
        self.wall.to_offset(time::UtcOffset::UTC).format(description).unwrap_or_default()
    }
}

/// The stamp of the moment that was asked for last. Within one second only its last digits change.
#[derive(Default)]
pub(super) struct Stamp {
    text: String,
    second: i64,
    micros: u32,
}

impl Stamp {
    /// As [`Moment::stamp`].
    pub(super) fn of(&mut self, moment: &Moment) -> &str {
        let (second, micros) = (moment.wall.unix_timestamp(), moment.wall.microsecond());
        if self.second != second || self.text.is_empty() {
            self.text = moment.stamp();
        } else if self.micros != micros {
            self.text.truncate("2026-11-23T06:30:01.".len());
            // A string takes whatever is written to it.
            let _ = write!(self.text, "{micros:06}Z");
        }
        (self.second, self.micros) = (second, micros);
        &self.text
    }
}

/// The system's clocks.
pub(super) struct SystemClock {
    start: Instant,
}

impl SystemClock {
    pub(super) fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        Moment { wall: OffsetDateTime::now_utc(), steady: self.start.elapsed() }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A clock that goes when it is told to; it starts at 2026-11-23T06:30:00Z.
    #[derive(Default)]
    pub(in crate::record) struct ManualClock {
        micros: AtomicU64,
    }

    impl ManualClock {
        pub(in crate::record) fn advance(&self, by: Duration) {
            self.micros.fetch_add(u64::try_from(by.as_micros()).unwrap(), Ordering::SeqCst);
        }
    }

    impl Clock for ManualClock {
        fn now(&self) -> Moment {
            let steady = Duration::from_micros(self.micros.load(Ordering::SeqCst));
            Moment { wall: OffsetDateTime::from_unix_timestamp(1_795_415_400).unwrap() + steady, steady }
        }
    }

    #[test]
    fn stamps() {
        let clock = ManualClock::default();
        clock.advance(Duration::from_micros(1_000_042));
        assert_eq!(clock.now().stamp(), "2026-11-23T06:30:01.000042Z");
        assert_eq!(clock.now().file_stamp(), "20261123T063001Z");
    }

    #[test]
    fn a_stamp_that_is_changed_is_the_one_that_is_made_anew() {
        let (clock, mut stamp) = (ManualClock::default(), Stamp::default());
        for micros in [0, 1, 0, 999_998, 1, 5, 1_000_000, 86_400_000_000, 999_999] {
            clock.advance(Duration::from_micros(micros));
            assert_eq!(stamp.of(&clock.now()), clock.now().stamp());
        }
    }
}
