//! What is counted of the addresses, or of the users: in a bounded table, and in little time whatever it holds.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    time::{Duration, Instant},
};

use super::User;
use crate::config::Limits;

/// Sessions and refused logins by key.
#[derive(Debug)]
pub(super) struct Table<K> {
    /// Entries, besides those that have a session.
    most: usize,
    entries: HashMap<K, Entry>,
    /// Those without a session, by when they failed last, while they are not blocked.
    failed: BTreeSet<(Instant, K)>,
    /// Those without a session that were blocked, by when that ends.
    blocked: BTreeSet<(Instant, K)>,
}

/// A login that was refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    pub(super) at: Instant,
    pub(super) user: Option<User>,
}

/// What refused logins lead to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    failures: Option<usize>,
    window: Duration,
    block: Duration,
}

/// What one has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count {
    /// Refused logins that counted, with the one just now.
    pub(super) recent: usize,
    /// For how long it is blocked from now on, if it is.
    pub(super) blocked: Option<Duration>,
}

#[derive(Debug, Default)]
struct Entry {
    sessions: usize,
    /// Oldest first; at most [`Limits::FAILURES`].
    failures: Vec<Failure>,
    blocked_until: Option<Instant>,
}

impl Rules {
    pub(super) fn of(limits: &Limits) -> Self {
        Self { failures: limits.login_failures, window: limits.login_window, block: limits.login_block }
    }
}

impl<K: Copy + Ord + Hash> Table<K> {
    pub(super) fn new(most: usize) -> Self {
        Self { most, entries: HashMap::new(), failed: BTreeSet::new(), blocked: BTreeSet::new() }
    }

    pub(super) fn sessions(&self, key: K) -> usize {
        self.entries.get(&key).map_or(0, |entry| entry.sessions)
    }

    /// How long the block lasts from now on, if there is one.
    pub(super) fn blocked(&self, key: K, now: Instant) -> Option<Duration> {
        self.entries.get(&key).and_then(|entry| entry.left(now))
    }

    /// A session begins.
    pub(super) fn enter(&mut self, key: K, now: Instant) {
        self.change(key, now, |entry| entry.sessions += 1);
    }

    /// A session ends.
    pub(super) fn leave(&mut self, key: K, now: Instant) {
        self.change(key, now, |entry| entry.sessions = entry.sessions.saturating_sub(1));
    }

    /// A login was refused. Where there is a block already, none begins.
    pub(super) fn fail(&mut self, key: K, failure: Failure, now: Instant, rules: Rules) -> Count {
        self.expire(now, rules.window);
        self.change(key, now, |entry| entry.fail(failure, now, rules))
    }

    /// Takes back the refused logins that `which` picks.
    pub(super) fn forgive(&mut self, key: K, now: Instant, which: impl Fn(&Failure) -> bool) {
        if self.entries.contains_key(&key) {
            self.change(key, now, |entry| entry.failures.retain(|failure| !which(failure)));
        }
    }

    /// Changes an entry, which is made or removed as needed, and keeps the order of what may go.
    fn change<R>(&mut self, key: K, now: Instant, change: impl FnOnce(&mut Entry) -> R) -> R {
        self.unlist(key);
        let entry = self.entries.entry(key).or_default();
        let result = change(entry);
        entry.blocked_until = entry.blocked_until.filter(|until| *until > now);
        match (entry.sessions, entry.blocked_until, entry.failures.last()) {
            (0, Some(until), _) => _ = self.blocked.insert((until, key)),
            (0, None, Some(last)) => _ = self.failed.insert((last.at, key)),
            (0, None, None) => _ = self.entries.remove(&key),
            _ => {}
        }
        self.make_room(now);
        result
    }

    /// The entry is looked at anew by whoever calls.
    fn unlist(&mut self, key: K) {
        let Some(entry) = self.entries.get(&key) else { return };
        if let Some(until) = entry.blocked_until {
            self.blocked.remove(&(until, key));
        } else if let Some(last) = entry.failures.last() {
            self.failed.remove(&(last.at, key));
        }
    }

    fn make_room(&mut self, now: Instant) {
        while self.failed.len() + self.blocked.len() > self.most {
            let over = self.blocked.first().is_some_and(|(until, _)| *until <= now);
            let goes = if over { self.blocked.pop_first() } else { self.failed.pop_first().or_else(|| self.blocked.pop_last()) };
            let Some((_, key)) = goes else { return };
            self.entries.remove(&key);
        }
    }

    /// Lets go of some that no longer count, so that a table that was full once does not stay so.
    fn expire(&mut self, now: Instant, window: Duration) {
        for _ in 0..EXPIRED_AT_ONCE {
            let over = self.blocked.first().filter(|(until, _)| *until <= now);
            let old = self.failed.first().filter(|(last, _)| is_over(*last, now, window));
            let Some((_, key)) = over.or(old).copied() else { return };
            self.unlist(key);
            self.entries.remove(&key);
        }
    }
}

impl Entry {
    fn left(&self, now: Instant) -> Option<Duration> {
        self.blocked_until.map(|until| until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    fn fail(&mut self, failure: Failure, now: Instant, rules: Rules) -> Count {
        self.failures.retain(|failure| !is_over(failure.at, now, rules.window));
        if self.failures.len() == Limits::FAILURES {
            self.failures.remove(0);
        }
        self.failures.push(failure);
        let recent = self.failures.len();
        if rules.failures.is_some_and(|most| recent >= most) && self.left(now).is_none() {
            self.failures = Vec::new();
            self.blocked_until = later(now, rules.block);
        }
        Count { recent, blocked: self.left(now) }
    }
}

fn is_over(at: Instant, now: Instant, window: Duration) -> bool {
    now.saturating_duration_since(at) >= window
}

/// A time that a clock cannot tell is as good as any far one.
fn later(now: Instant, by: Duration) -> Option<Instant> {
    now.checked_add(by).or_else(|| now.checked_add(FAR))
}

/// Entries that are let go of at one time.
const EXPIRED_AT_ONCE: usize = 8;
/// A hundred years.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

#[cfg(test)]
impl<K> Table<K> {
    pub(super) fn len(&self) -> usize {
        assert!(self.failed.len() + self.blocked.len() <= self.entries.len(), "what is listed exists");
        self.entries.len()
    }
}
