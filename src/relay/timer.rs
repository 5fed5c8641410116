//! The relay's time limits.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

use super::Limit;
use crate::{
    config::Timeouts,
    pop3::{Peer, Stage},
    tap::{Filter, Observer, Tap},
};

/// One timer for every limit, armed again only when it fires or a deadline comes nearer.
pub(super) struct Timer<'a> {
    timeouts: &'a Timeouts,
    /// When the relay was woken: exact enough for limits of seconds, since no turn lasts.
    now: Instant,
    started: Instant,
    greeted: Option<Instant>,
    last_client: Instant,
    last_upstream: Instant,
    last_write: Instant,
    /// When a reply that is held back may go on.
    pub(super) delayed: Option<Instant>,
    sleep: Pin<Box<Sleep>>,
    armed: Instant,
}

pub(super) enum Due {
    Limit(Limit),
    Replies,
    DelayOver,
}

impl<'a> Timer<'a> {
    pub(super) fn new(timeouts: &'a Timeouts) -> Self {
        let now = Instant::now();
        let armed = after(now, timeouts.greeting);
        let sleep = Box::pin(tokio::time::sleep_until(armed));
        let (last_client, last_upstream, last_write) = (now, now, now);
        let (greeted, delayed) = (None, None);
        Self { timeouts, now, started: now, greeted, last_client, last_upstream, last_write, delayed, sleep, armed }
    }

    pub(super) fn wake(&mut self) {
        self.now = Instant::now();
    }

    pub(super) fn has_read(&mut self, peer: Peer) {
        match peer {
            Peer::Client => self.last_client = self.now,
            Peer::Upstream => self.last_upstream = self.now,
        }
    }

    /// A client on a slow line is not silent: it takes what was read long ago.
    pub(super) fn has_written(&mut self) {
        self.last_write = self.now;
    }

    /// The next deadline, and what is due then.
    pub(super) fn next<R: Observer, F: Filter>(&mut self, tap: &Tap<R, F>, one_sided: bool) -> (Instant, Due) {
        let quiet_since = self.last_client.max(self.last_upstream).max(self.last_write);
        let mut next = if !tap.is_greeted() {
            (after(self.started, self.timeouts.greeting), Due::Limit(Limit::Greeting))
        } else if (tap.stage() == Stage::Authorization || tap.asks_first()) && !tap.is_opaque() {
            let greeted = *self.greeted.get_or_insert(self.last_upstream);
            (after(greeted, self.timeouts.login), Due::Limit(Limit::Login))
        } else {
            (after(quiet_since, self.timeouts.idle), Due::Limit(Limit::Idle))
        };
        let half_closed = after(quiet_since, self.timeouts.half_closed);
        if one_sided && half_closed < next.0 {
            next = (half_closed, Due::Limit(Limit::HalfClosed));
        }
        // Nothing moves: neither does the server answer, nor the client take what came. The cap may be what holds them up.
        let replies = after(quiet_since, self.timeouts.reply);
        let silent = tap.is_at_cap() && !tap.is_opaque();
        if silent && replies < next.0 {
            next = (replies, Due::Replies);
        }
        if let Some(delay) = tap.delay() {
            let over = *self.delayed.get_or_insert_with(|| after(self.now, Duration::from_millis(delay)));
            if over < next.0 {
                next = (over, Due::DelayOver);
            }
        }
        next
    }

    pub(super) fn poll(&mut self, deadline: Instant, context: &mut Context<'_>) -> Poll<()> {
        // A session that never runs dry uses up its turn, and a sleep polled then is not ready, whatever the time.
        if self.now >= deadline {
            return Poll::Ready(());
        }
        if deadline < self.armed || self.sleep.is_elapsed() {
            self.armed = deadline;
            self.sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(self.sleep.as_mut().poll(context));
            if self.armed >= deadline || self.now >= deadline {
                return Poll::Ready(());
            }
            self.armed = deadline;
            self.sleep.as_mut().reset(deadline);
        }
    }
}

/// Some thirty years from now where the limit is so long that it can't be added.
fn after(start: Instant, limit: Duration) -> Instant {
    start.checked_add(limit).unwrap_or_else(|| Instant::now() + Duration::from_secs(86400 * 365 * 30))
}
