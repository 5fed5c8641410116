//! Binds, accepts, admits, and drains.

mod common;
mod interception;
mod reload;
mod way;

pub(crate) use interception::{Interception, Led};
pub use reload::ReloadError;
pub use way::Way;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use common::{Common, OpenMemory};
use way::Ways;

use crate::{
    admission::{Admission, Denied, Visit, log_refused_client},
    config::{AllowFrom, Anomalies, Config, Limits, Listener, StlsPolicy, Timeouts, TlsDemand, TlsMode},
    net::{Stream, TlsConfigError},
    policy::{Memory, MemoryError, Rules},
    record::Store,
    session,
    tap::Pool,
    tls::{Acceptor, AcceptorError, Expiry, KeyLog, KeyLogError},
};

/// Large relay buffers over all sessions: 16 MiB, of which what is not written to takes no memory. Sessions beyond that go on
/// with small ones.
const LARGE_BUFFERS: usize = 64;
/// How often buffers that nobody needed since the last time are given back to the system.
const TRIM: Duration = Duration::from_secs(2);
/// Refusals that are being said at one time; beyond that, connections are closed without a word.
const REFUSALS: usize = 64;
/// The pause after an `accept` that failed, as it does when no file descriptors are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Everything is bound, and nothing accepted yet.
pub struct Server {
    bound: Vec<(TcpListener, Arc<Route>)>,
    house: Arc<House>,
}

/// What all sessions share.
pub(crate) struct House {
    pub(crate) store: Store,
    pub(crate) timeouts: Timeouts,
    pub(crate) pool: Arc<Pool>,
    pub(crate) stop: Stop,
    /// Sessions that were told to close before they had finished.
    pub(crate) cut_short: AtomicUsize,
    key_log: Option<KeyLog>,
    admission: Arc<Admission>,
    memory: OpenMemory,
    /// What cannot be changed any more: the size of what was made at the start.
    fixed: Arc<Limits>,
    permits: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    /// Listeners on which nobody can be accepted at this moment.
    deaf: AtomicUsize,
}

/// A bound listener.
struct Route {
    /// The address that was bound; with port 0, the one that the system chose.
    address: SocketAddr,
    /// The address that was asked for.
    asked_for: SocketAddr,
    /// Exchanged at a reload; a session keeps those that it began with.
    terms: ArcSwap<Terms>,
}

/// Where a listener's clients are carried to, and on what terms.
pub(crate) struct Terms {
    /// The address that was bound.
    pub(crate) address: SocketAddr,
    /// To the upstreams, tried in this order; at least one.
    pub(crate) ways: Arc<[Arc<Way>]>,
    pub(crate) stls: StlsPolicy,
    pub(crate) tls: TlsMode,
    pub(crate) demand: TlsDemand,
    /// There where `tls` is not plain.
    pub(crate) acceptor: Option<Acceptor>,
    pub(crate) limits: Arc<Limits>,
    /// The address that was asked for: what rules call the listener.
    pub(crate) asked_for: SocketAddr,
    pub(crate) rules: Arc<Rules>,
    pub(crate) anomalies: Anomalies,
    pub(crate) memory: Option<Arc<Memory>>,
    /// There where it takes connections that were meant for others.
    pub(crate) interception: Option<Interception>,
    allow_from: AllowFrom,
    deny_from: Vec<IpNet>,
}

/// A listener as others see it.
#[derive(Clone, Debug)]
pub struct Served {
    /// The address that was bound.
    pub address: SocketAddr,
    /// How its clients' hop is protected.
    pub tls: TlsMode,
    /// Where its clients are carried to, tried in this order.
    pub ways: Arc<[Arc<Way>]>,
}

/// Exchanges certificates, keys and trust while sessions go on.
#[derive(Clone)]
pub struct Reloader {
    routes: Vec<Arc<Route>>,
    house: Arc<House>,
}

/// Tells a server to stop: first to drain, then to close what is left.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// No more clients; sessions may finish.
    pub drain: CancellationToken,
    /// Sessions are closed at once.
    pub close: CancellationToken,
}

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address could not be bound.
    #[error("cannot listen on {address}: {source}{}", bind_hint(source))]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// TLS with clients cannot work.
    #[error("cannot prepare TLS for clients of {address}: {source}; hint: {}", source.hint())]
    Acceptor {
        /// The listener's address.
        address: SocketAddr,
        /// Why.
        source: AcceptorError,
    },
    /// The secrets of TLS connections cannot be written.
    #[error(transparent)]
    KeyLog(#[from] KeyLogError),
    /// The rules' patterns cannot be compiled together.
    #[error("cannot prepare the rules: {0}; hint: use fewer or smaller patterns")]
    Rules(regex::Error),
    /// What was shielded before cannot be read, or nothing can be remembered.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// TLS to an upstream cannot work.
    #[error("cannot prepare TLS to `{upstream}`: {source}; hint: {}", source.hint())]
    Tls {
        /// The upstream's name.
        upstream: String,
        /// Why.
        source: TlsConfigError,
    },
}

/// Why a client is turned away before its session begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Refusal {
    /// It is not in `allow_from`.
    NotAllowed,
    /// It is in `deny_from`.
    Denied,
    /// Its address is blocked, or has too many sessions.
    NotAdmitted(Denied),
    TooMany,
    NoTranscript,
}

impl Server {
    /// Prepares TLS and binds every listener.
    ///
    /// # Errors
    /// [`StartError`]; nothing stays bound.
    pub fn bind(config: &Config, store: Store, stop: Stop) -> Result<Self, StartError> {
        let key_log = config.keylog.as_deref().map(KeyLog::open).transpose()?;
        let house = House {
            store,
            timeouts: config.timeouts,
            pool: Arc::new(Pool::new(LARGE_BUFFERS)),
            stop,
            cut_short: AtomicUsize::new(0),
            key_log,
            admission: Arc::new(Admission::new(config.limits.tracked_addresses)),
            memory: OpenMemory::default(),
            fixed: Arc::clone(&config.limits),
            permits: Arc::new(Semaphore::new(config.limits.connections)),
            refusals: Arc::new(Semaphore::new(REFUSALS)),
            deaf: AtomicUsize::new(0),
        };
        let common = Common::new(config, &house.memory)?;
        let mut ways = Ways::new(&house.timeouts, house.key_log.as_ref());
        let bound = config.listeners.iter().map(|listener| bind(listener, &common, &mut ways, &house));
        let bound = bound.collect::<Result<_, _>>()?;
        Ok(Self { bound, house: Arc::new(house) })
    }

    /// Each bound listener.
    pub fn served(&self) -> impl Iterator<Item = Served> {
        self.bound.iter().map(|(_, route)| {
            let terms = route.terms.load();
            Served { address: route.address, tls: terms.tls, ways: Arc::clone(&terms.ways) }
        })
    }

    /// The way to each upstream, once.
    #[must_use]
    pub fn ways(&self) -> Vec<Arc<Way>> {
        let mut ways: Vec<Arc<Way>> = Vec::new();
        for way in self.served().flat_map(|served| served.ways.to_vec()) {
            if !ways.iter().any(|known| Arc::ptr_eq(known, &way)) {
                ways.push(way);
            }
        }
        ways
    }

    /// What exchanges certificates while the server runs.
    #[must_use]
    pub fn reloader(&self) -> Reloader {
        Reloader { routes: self.bound.iter().map(|(_, route)| Arc::clone(route)).collect(), house: Arc::clone(&self.house) }
    }

    /// Accepts clients until told to drain; then waits for the sessions, up to the limit or until told to close.
    ///
    /// Returns how many sessions were cut short.
    pub async fn run(self) -> usize {
        let (sessions, house) = (TaskTracker::new(), self.house);
        let accepting = TaskTracker::new();
        for (listener, route) in self.bound {
            accepting.spawn(accept(listener, route, Arc::clone(&house), sessions.clone()));
        }
        accepting.close();
        let served = async {
            accepting.wait().await;
            sessions.close();
            drain(&sessions, &house).await
        };
        tokio::select! {
            cut_short = served => cut_short,
            () = trim(&house.pool) => 0,
        }
    }
}

/// Never ends.
async fn trim(pool: &Pool) {
    loop {
        sleep(TRIM).await;
        pool.trim();
    }
}

async fn drain(sessions: &TaskTracker, house: &House) -> usize {
    if !sessions.is_empty() {
        tracing::info!(sessions = sessions.len(), limit = ?house.timeouts.drain, "waiting for sessions to finish; a second signal closes them");
    }
    let finished = async {
        tokio::select! {
            () = sessions.wait() => {}
            () = house.stop.close.cancelled() => {}
        }
    };
    let _ = timeout(house.timeouts.drain, finished).await;
    house.stop.close.cancel();
    sessions.wait().await;
    // Counted by the sessions: by the time that we learn of a second signal, some may have closed already.
    house.cut_short.load(Ordering::SeqCst)
}

async fn accept(listener: TcpListener, route: Arc<Route>, house: Arc<House>, sessions: TaskTracker) {
    loop {
        let accepted = tokio::select! {
            () = house.stop.drain.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((client, address)) => admit(client, canonical(address), &route, &house, &sessions),
            Err(error) => {
                tracing::warn!(listener = %route.address, "cannot accept a client: {error}");
                house.deaf.fetch_add(1, Ordering::SeqCst);
                sleep(ACCEPT_PAUSE).await;
                house.deaf.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}

fn admit(client: TcpStream, address: SocketAddr, route: &Route, house: &Arc<House>, sessions: &TaskTracker) {
    let (client, terms, house) = (Stream::new(client), route.terms.load_full(), Arc::clone(house));
    let refusal = match place(address.ip(), &terms, &house) {
        Ok((visit, permit)) => {
            sessions.spawn(async move {
                session::serve(client, address, &terms, &house, visit).await;
                drop(permit);
            });
            return;
        }
        Err(refusal) => refusal,
    };
    // Said here, so that none is missing where many come at a time.
    log_refused_client(address, terms.address, refusal.reason());
    if let Ok(permit) = Arc::clone(&house.refusals).try_acquire_owned() {
        sessions.spawn(async move {
            session::refuse(client, address, &terms, &house, refusal).await;
            drop(permit);
        });
    }
}

/// Finds a place for a client's session.
fn place(client: IpAddr, terms: &Terms, house: &House) -> Result<(Visit, OwnedSemaphorePermit), Refusal> {
    if terms.deny_from.iter().any(|network| network.contains(&client)) {
        return Err(Refusal::Denied);
    }
    if !terms.allow_from.allows(client) {
        return Err(Refusal::NotAllowed);
    }
    let visit = house.admission.arrive(client, &terms.limits).map_err(Refusal::NotAdmitted)?;
    if !house.store.accepts_sessions() {
        return Err(Refusal::NoTranscript);
    }
    let permit = Arc::clone(&house.permits).try_acquire_owned().map_err(|_full| Refusal::TooMany)?;
    Ok((visit, permit))
}

impl Terms {
    /// Whether clients have to begin with TLS: then a line in clear would be noise to them.
    pub(crate) fn begins_with_tls(&self) -> bool {
        self.tls == TlsMode::Implicit || self.demand == TlsDemand::Pass
    }

    /// The name of the upstream that is tried first: where a session is said to lead until another one is reached.
    pub(crate) fn first_choice(&self) -> &str {
        self.ways.first().map_or("", |way| &way.upstream.name)
    }
}

impl Refusal {
    /// The short name in the transcript and in the log.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NotAllowed => "not-allowed",
            Self::Denied => "denied",
            Self::NotAdmitted(denied) => denied.reason(),
            Self::TooMany => "too-many-connections",
            Self::NoTranscript => "transcript-failing",
        }
    }
}

impl AllowFrom {
    /// Whether a client with this address, in its canonical form, may come.
    pub(crate) fn allows(&self, client: IpAddr) -> bool {
        client.is_loopback()
            || match self {
                Self::Loopback => false,
                Self::Networks(networks) => networks.iter().any(|network| network.contains(&client)),
                Self::Any => true,
            }
    }
}

/// An IPv4 client of a dual-stack listener has an address that maps its own.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn bind(
    listener: &Listener,
    common: &Common,
    ways: &mut Ways<'_>,
    house: &House,
) -> Result<(TcpListener, Arc<Route>), StartError> {
    let mut terms = terms(listener, common, ways, house)?;
    let socket = listen_as(listener.address, |socket| interception::prepare(socket, listener))
        .map_err(|source| StartError::Bind { address: listener.address, source })?;
    terms.address = socket.local_addr().unwrap_or(listener.address);
    let route = Route { address: terms.address, asked_for: listener.address, terms: ArcSwap::from_pointee(terms) };
    Ok((socket, Arc::new(route)))
}

/// Reads what TLS takes on both hops.
fn terms(listener: &Listener, common: &Common, ways: &mut Ways<'_>, house: &House) -> Result<Terms, StartError> {
    let (address, key_log) = (listener.address, house.key_log.as_ref());
    let interception = Interception::new(listener, Arc::clone(&common.own), ways)?;
    let ways = ways.to_each(&listener.upstreams)?;
    let ways = ways.iter().map(|way| interception::fitted(Arc::clone(way), listener)).collect();
    let acceptor = listener.server_tls.as_ref().map(|settings| Acceptor::new(settings, key_log)).transpose();
    let acceptor = acceptor.map_err(|source| StartError::Acceptor { address, source })?;
    let (stls, tls, demand, asked_for) = (listener.stls, listener.tls, listener.demand, listener.address);
    let (allow_from, deny_from) = (listener.allow_from.clone(), listener.deny_from.clone());
    let Common { limits, rules, anomalies, memory, .. } = common.clone();
    Ok(Terms {
        address,
        ways,
        stls,
        tls,
        demand,
        acceptor,
        limits,
        asked_for,
        rules,
        anomalies,
        memory,
        interception,
        allow_from,
        deny_from,
    })
}

/// A wildcard IPv6 address takes IPv4 clients too.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    listen_as(address, |_socket| Ok(()))
}

/// The same, with what `prepare` does before it is bound.
fn listen_as(address: SocketAddr, prepare: impl FnOnce(&Socket) -> io::Result<()>) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    prepare(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

fn bind_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; hint: something listens there already; choose another port with `--listen`",
        io::ErrorKind::PermissionDenied => "; hint: ports below 1024 need a privilege; choose a higher one with `--listen`",
        io::ErrorKind::AddrNotAvailable => "; hint: this host does not have that address",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_connect() {
        let networks = AllowFrom::Networks(vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
        for (allow, client, expected) in [
            (&AllowFrom::Loopback, "127.0.0.9", true),
            (&AllowFrom::Loopback, "::1", true),
            (&AllowFrom::Loopback, "192.0.2.1", false),
            (&networks, "192.0.2.77", true),
            (&networks, "::ffff:192.0.2.77", true),
            (&networks, "198.51.100.1", false),
            (&networks, "2001:db8::5", true),
            (&AllowFrom::Any, "198.51.100.1", true),
        ] {
            let address = canonical(SocketAddr::new(client.parse().unwrap(), 1));
            assert_eq!(allow.allows(address.ip()), expected, "{allow:?} {client}");
        }
    }
}
