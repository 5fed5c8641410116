//! How an upstream is doing: whether it is tried, or left alone for a while since it failed.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::config::{Period, Timeouts};

/// What sessions have found of one upstream. Shared by all that lead there, and kept over a reload.
#[derive(Debug, Default)]
pub(crate) struct Health {
    state: Mutex<State>,
    failures: AtomicU64,
}

/// How long an upstream that failed is left alone: doubled with each failure that follows, up to a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rest {
    first: Duration,
    longest: Duration,
}

/// How far a connection to a server came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// It stands, TLS included where that is asked for.
    Connected,
    /// The server has said `+OK`.
    Greeted,
}

/// A session's try. One that is dropped without a word has told nothing.
#[derive(Debug)]
pub(crate) struct Try<'h> {
    health: &'h Health,
    /// The number of the last failure that was known when it began.
    known: u64,
    /// It alone tries a server that had rested.
    is_trial: bool,
    /// It was made though the server rests.
    is_forced: bool,
}

/// What changed with the outcome of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// As before.
    None,
    /// It is left alone for so long.
    Down(Duration),
    /// It is there again.
    Up,
}

#[derive(Debug, Default)]
struct State {
    down: Option<Down>,
    /// The number of the last failure that counted.
    failure: u64,
}

#[derive(Debug)]
struct Down {
    /// What a connection has to reach to be proof of the contrary.
    stage: Stage,
    /// Failures in a row that counted, less one.
    doubled: u32,
    /// When it was tried in vain the last time.
    since: Instant,
    /// Until when it is left alone.
    until: Instant,
    /// One session has gone to see.
    is_tried: bool,
}

impl Health {
    /// A try, where the server is up or has rested. After a rest one session goes to see, and others wait for what it finds.
    pub(crate) fn try_it(&self) -> Option<Try<'_>> {
        let mut state = self.state();
        let is_trial = match &mut state.down {
            None => false,
            Some(down) if down.is_tried || Instant::now() < down.until => return None,
            Some(down) => {
                down.is_tried = true;
                true
            }
        };
        Some(Try { health: self, known: state.failure, is_trial, is_forced: false })
    }

    /// A try, however the server is doing.
    pub(crate) fn try_anyway(&self) -> Try<'_> {
        let state = self.state();
        Try { health: self, known: state.failure, is_trial: false, is_forced: state.down.is_some() }
    }

    /// Since when it has been left alone; `None` where it is up.
    pub(crate) fn down_since(&self) -> Option<Instant> {
        self.state().down.as_ref().map(|down| down.since)
    }

    /// Whether the last thing that was heard of it was good; so it is at the start.
    pub(crate) fn is_up(&self) -> bool {
        self.state().down.is_none()
    }

    /// Tries that failed so far.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Try<'_> {
    /// The connection came so far. It is up then, unless it was found to fail later on than that.
    pub(crate) fn reached(self, stage: Stage) -> Change {
        let mut state = self.health.state();
        match &state.down {
            Some(down) if down.stage <= stage => {
                state.down = None;
                Change::Up
            }
            _ => Change::None,
        }
    }

    /// It failed on the way to `stage`. Of several that were under way when the server went, one failure counts.
    pub(crate) fn failed(self, stage: Stage, rest: Rest) -> Change {
        self.health.failures.fetch_add(1, Relaxed);
        let now = Instant::now();
        let mut state = self.health.state();
        let is_news = !self.is_forced && self.known == state.failure;
        if is_news {
            state.failure += 1;
        }
        match &mut state.down {
            Some(down) => {
                down.since = now;
                down.stage = down.stage.max(stage);
                if is_news {
                    down.doubled += 1;
                    down.until = now + rest.after(down.doubled);
                }
                Change::None
            }
            // It was found to be up meanwhile.
            None if !is_news => Change::None,
            None => {
                let length = rest.after(0);
                state.down = Some(Down { stage, doubled: 0, since: now, until: now + length, is_tried: false });
                Change::Down(length)
            }
        }
    }
}

/// Another session may go to see.
impl Drop for Try<'_> {
    fn drop(&mut self) {
        if self.is_trial
            && let Some(down) = &mut self.health.state().down
        {
            down.is_tried = false;
        }
    }
}

impl Rest {
    pub(crate) fn of(timeouts: &Timeouts) -> Self {
        Self { first: timeouts.rest, longest: timeouts.longest_rest }
    }

    fn after(self, doubled: u32) -> Duration {
        let factor = 2_u32.checked_pow(doubled).unwrap_or(u32::MAX);
        self.first.checked_mul(factor).unwrap_or(self.longest).min(self.longest)
    }
}

impl Change {
    /// Says it in the log.
    pub(crate) fn tell(self, upstream: &str, why: &str) {
        match self {
            Self::None => {}
            Self::Down(rest) => tracing::warn!(upstream, rest = %Period(rest), "an upstream is down: {why}"),
            Self::Up => tracing::info!(upstream, "an upstream is up again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const REST: Rest = Rest { first: Duration::from_secs(10), longest: Duration::from_secs(35) };

    /// A failure, and how many seconds the next try has to wait.
    async fn fails(health: &Health, expected: u64) {
        health.try_it().expect("it may be tried").failed(Stage::Connected, REST);
        advance(Duration::from_millis(expected * 1000 - 1)).await;
        assert!(health.try_it().is_none(), "it rests for {expected} s");
        advance(Duration::from_millis(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn it_rests_for_twice_as_long_each_time_up_to_a_limit() {
        let health = Health::default();
        for expected in [10, 20, 35, 35] {
            fails(&health, expected).await;
        }
        assert_eq!(health.try_it().unwrap().reached(Stage::Connected), Change::Up);
        fails(&health, 10).await;
        assert_eq!(health.failures(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn one_session_goes_to_see_and_gives_its_place_back() {
        let health = Health::default();
        fails(&health, 10).await;
        let first = health.try_it().unwrap();
        assert!(health.try_it().is_none(), "the others wait for what it finds");
        drop(first);
        let second = health.try_it().unwrap();
        assert_eq!(second.reached(Stage::Greeted), Change::Up);
        assert!(health.try_it().is_some() && health.is_up());
    }

    #[tokio::test(start_paused = true)]
    async fn of_those_that_were_under_way_one_failure_counts() {
        let health = Health::default();
        let tries = [health.try_it().unwrap(), health.try_it().unwrap(), health.try_it().unwrap()];
        let changes = tries.map(|attempt| attempt.failed(Stage::Connected, REST));
        assert_eq!(changes, [Change::Down(REST.first), Change::None, Change::None]);
        advance(REST.first).await;
        assert!(health.try_it().is_some(), "its rest was not doubled");
        assert_eq!(health.failures(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_that_was_made_all_the_same_does_not_prolong_the_rest() {
        let health = Health::default();
        health.try_it().unwrap().failed(Stage::Connected, REST);
        let down = health.down_since();
        advance(Duration::from_secs(9)).await;
        assert_eq!(health.try_anyway().failed(Stage::Connected, REST), Change::None);
        assert!(health.down_since() > down, "now another one rests the longest");
        advance(Duration::from_secs(1)).await;
        assert!(health.try_it().is_some());
        assert_eq!(health.try_anyway().reached(Stage::Connected), Change::Up);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_greet_is_not_up_because_it_can_be_connected_to() {
        let health = Health::default();
        health.try_it().unwrap().failed(Stage::Greeted, REST);
        assert_eq!(health.try_anyway().reached(Stage::Connected), Change::None);
        assert!(!health.is_up());
        assert_eq!(health.try_anyway().reached(Stage::Greeted), Change::Up);
    }
}
