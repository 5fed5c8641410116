//! Who may begin a session, and who may try to log in: sessions and refused logins are counted for each address and each user.
//!
//! One [`Admission`] lives as long as the process. Every session has its [`Visit`], which counts it for as long as it is held.
//! What counts as too much is said by the [`Limits`] that were in effect when the session began.
//!
//! * An IPv4 client is its address. An IPv6 client is its /64, since whoever has one address there has all of them.
//! * A user is the name in lower case, and only a digest of it is kept, with a key that dies with the process. Which
//!   names a server takes for one mailbox poptap does not know.
//! * A login that the server refuses counts for the address and for the user while it is younger than `login_window`. So
//!   many of them block the address, or the user, for `login_block`; they count no longer then, and attempts that are turned
//!   away meanwhile do not prolong the block. Attempts that are under way at one time are all let through:
//!   `sessions_per_client` bounds these.
//! * A login that succeeds takes back what counts for its user, and at the address what counts there for that same user.
//!   Whoever has an account of their own cannot wash off with it what they tried on others. It lifts no block.
//! * All of that is counted without limits too: the log tells of it, and a reload may bring limits.
//!
//! The tables hold `tracked_addresses` addresses and as many users, besides those that have a session. When a place is needed,
//! those go first that no longer count, then those that failed least recently, and never one that is blocked: to push a
//! block out takes as many further blocks as there are places, and does not work even then. What finds no place is not counted.

mod denied;
mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::BuildHasher as _,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::config::Limits;

pub use denied::Denied;
use table::{Count, Failure, Rules, Table};

/// The counts of the whole process.
pub struct Admission {
    tables: Mutex<Tables>,
    digest: RandomState,
    now: Box<dyn Fn() -> Instant + Send + Sync>,
}

/// One session's stay; dropped, it gives its places back.
#[derive(Debug)]
pub struct Visit {
    admission: Arc<Admission>,
    limits: Arc<Limits>,
    address: IpAddr,
    /// `None` where the address is exempt.
    client: Option<Client>,
    /// Whose session it is, once somebody has logged in.
    user: Option<User>,
}

/// What follows from a login that the server refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// For how long the reply is to be held back; at most [`Limits::LONGEST_DELAY`].
    pub delay: Duration,
    /// The address or the user is blocked now: the session is to be closed.
    pub denied: Option<Denied>,
}

#[derive(Debug)]
struct Tables {
    clients: Table<Client>,
    users: Table<User>,
}

/// Addresses that count as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Client {
    V4(u32),
    /// The first 64 bits.
    V6(u64),
}

/// The digest of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct User(u64);

impl Admission {
    /// With nobody there. `tracked` is the number of addresses, and that of users, of which refused logins are remembered.
    #[must_use]
    pub fn new(tracked: usize) -> Self {
        Self::with_clock(tracked, Instant::now)
    }

    /// With a clock of one's own, which must not go back.
    pub fn with_clock(tracked: usize, now: impl Fn() -> Instant + Send + Sync + 'static) -> Self {
        let tables = Tables { clients: Table::new(tracked), users: Table::new(tracked) };
        Self { tables: Mutex::new(tables), digest: RandomState::new(), now: Box::new(now) }
    }

    /// Takes a client in, before anything is done for it.
    ///
    /// # Errors
    ///
    /// [`Denied`], where its address is blocked or has as many sessions as it may have.
    pub fn arrive(self: &Arc<Self>, client: IpAddr, limits: &Arc<Limits>) -> Result<Visit, Denied> {
        let address = client.to_canonical();
        let client = Some(Client::of(address)).filter(|_| !limits.exempt.iter().any(|network| network.contains(&address)));
        if let Some(client) = client {
            let (now, mut tables) = ((self.now)(), self.tables());
            if let Some(left) = tables.clients.blocked(client, now) {
                return Err(Denied::ClientBlocked { left });
            }
            if let Some(limit) = limits.sessions_per_client.filter(|limit| tables.clients.sessions(client) >= *limit) {
                return Err(Denied::TooManyFromClient { limit });
            }
            tables.clients.enter(client, now);
        }
        Ok(Visit { admission: Arc::clone(self), limits: Arc::clone(limits), address, client, user: None })
    }

    fn user(&self, name: &str) -> User {
        User(self.digest.hash_one(name.to_lowercase()))
    }

    /// Nothing that holds the lock can leave the tables half done.
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Visit {
    /// The limits that hold for this session.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether any limit concerns logins: without one, every attempt is let through, and no reply is held back.
    #[must_use]
    pub fn watches_logins(&self) -> bool {
        let limits = &self.limits;
        limits.sessions_per_user.is_some() || limits.login_failures.is_some() || limits.login_delay.is_some()
    }

    /// Before credentials go to the server: whether `user` (`None`: a name that cannot be read) may try from here.
    ///
    /// # Errors
    ///
    /// [`Denied`], where the address or the user is blocked, or the user has as many sessions as they may have. The log has
    /// been told.
    pub fn attempt(&mut self, user: Option<&str>) -> Result<(), Denied> {
        let user = user.map(|name| self.admission.user(name));
        let allowed = self.may_try(user);
        allowed.inspect_err(|denied| log_refused_login(self.address, denied))
    }

    /// The server refused the login. To be told always, since the log is told in turn.
    pub fn failed(&mut self, user: Option<&str>) -> Failed {
        let user = user.map(|name| self.admission.user(name));
        let (now, rules) = ((self.admission.now)(), Rules::of(&self.limits));
        let (of_client, of_user) = {
            let (mut tables, failure) = (self.admission.tables(), Failure { at: now, user });
            let of_client = self.client.map(|client| tables.clients.fail(client, failure, now, rules));
            (of_client, user.map(|user| tables.users.fail(user, failure, now, rules)))
        };
        log_failed_login(self.address, of_client.map(|count| count.recent));
        let blocked = |count: Option<Count>| count.and_then(|count| count.blocked);
        let denied = blocked(of_client).map(|left| Denied::ClientBlocked { left });
        Failed {
            delay: self.delay([of_client, of_user].into_iter().flatten().map(|count| count.recent).max()),
            denied: denied.or(blocked(of_user).map(|left| Denied::UserBlocked { left })),
        }
    }

    /// The server accepted the login: the session counts as one of `user`'s from now on.
    ///
    /// # Errors
    ///
    /// [`Denied`], where others took the user's last place since the attempt. The session counts for nobody then, and is to
    /// be closed. The log has been told.
    pub fn logged_in(&mut self, user: Option<&str>) -> Result<(), Denied> {
        let Some(user) = user.map(|name| self.admission.user(name)) else { return Ok(()) };
        let now = (self.admission.now)();
        self.leave_user(now);
        let limit = {
            let mut tables = self.admission.tables();
            let limit = self.limits.sessions_per_user.filter(|limit| tables.users.sessions(user) >= *limit);
            tables.users.forgive(user, now, |_| true);
            if let Some(client) = self.client {
                tables.clients.forgive(client, now, |failure| failure.user == Some(user));
            }
            if limit.is_none() {
                tables.users.enter(user, now);
            }
            limit
        };
        let Some(limit) = limit else {
            self.user = Some(user);
            return Ok(());
        };
        let denied = Denied::TooManyOfUser { limit };
        log_refused_login(self.address, &denied);
        Err(denied)
    }

    fn may_try(&self, user: Option<User>) -> Result<(), Denied> {
        let (now, tables) = ((self.admission.now)(), self.admission.tables());
        if let Some(left) = self.client.and_then(|client| tables.clients.blocked(client, now)) {
            return Err(Denied::ClientBlocked { left });
        }
        let Some(user) = user else { return Ok(()) };
        if let Some(left) = tables.users.blocked(user, now) {
            return Err(Denied::UserBlocked { left });
        }
        let full = self.limits.sessions_per_user.filter(|limit| tables.users.sessions(user) >= *limit);
        full.map_or(Ok(()), |limit| Err(Denied::TooManyOfUser { limit }))
    }

    fn delay(&self, failures: Option<usize>) -> Duration {
        let times = failures.map_or(0, |failures| u32::try_from(failures).unwrap_or(u32::MAX));
        self.limits.login_delay.map_or(Duration::ZERO, |delay| delay.saturating_mul(times).min(Limits::LONGEST_DELAY))
    }

    fn leave_user(&mut self, now: Instant) {
        if let Some(user) = self.user.take() {
            self.admission.tables().users.leave(user, now);
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let now = (self.admission.now)();
        self.leave_user(now);
        if let Some(client) = self.client {
            self.admission.tables().clients.leave(client, now);
        }
    }
}

impl Client {
    fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            #[allow(clippy::cast_possible_truncation, reason = "the upper half has 64 bits")]
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

impl fmt::Debug for Admission {
    /// Neither addresses nor digests of names are for a log.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Admission").finish_non_exhaustive()
    }
}

// The lines below are read by programs: docs/limits.md promises their form, packaging/fail2ban knows it. A line has nothing in
// it that a client may have chosen.

/// A client was turned away before its session began.
pub(crate) fn log_refused_client(client: SocketAddr, listener: SocketAddr, reason: &str) {
    tracing::warn!(target: TARGET, client = %client.ip(), reason = %reason, listener = %listener, "client refused");
}

fn log_refused_login(client: IpAddr, denied: &Denied) {
    tracing::warn!(target: TARGET, client = %client, reason = %denied.reason(), "login refused");
}

/// Without a number the address is exempt: whoever bans by these lines should let it be.
fn log_failed_login(client: IpAddr, failures: Option<usize>) {
    if let Some(failures) = failures {
        tracing::warn!(target: TARGET, client = %client, failures, "login failed");
    } else {
        tracing::warn!(target: TARGET, client = %client, exempt = true, "login failed");
    }
}

/// Whatever becomes of the modules.
const TARGET: &str = "poptap::admission";
