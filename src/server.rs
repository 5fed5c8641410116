//! Binds, accepts, admits, and drains.

mod accept;
mod admit;
mod caller;
mod common;
pub(crate) mod health;
mod inherited;
mod interception;
mod reload;
mod socket;
mod upgrade;
mod way;

pub(crate) use caller::Caller;
pub use inherited::{InheritError, Inherited, Local, Unfit};
pub(crate) use interception::{Interception, Led};
pub use reload::{ReloadError, Reloaded};
pub(crate) use socket::listen;
pub(crate) use upgrade::handed;
pub use upgrade::{Answer, Handed, Offer, Succession, SuccessionError};
pub use way::{Standing, Way};

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use socket2::Socket;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use accept::{Trouble, accept};
use common::{Common, OpenMemory};
use socket::{bind_hint, listen_prepared};
use way::{Ways, distinct};

use crate::{
    admission::{Admission, Denied},
    config::{
        AllowFrom, Anomalies, Config, Limits, Listener, Routing, SocketOptions, StlsPolicy, Timeouts, TlsDemand, TlsMode,
        Upstream,
    },
    net::TlsConfigError,
    policy::{Memory, MemoryError, Rules},
    record::Store,
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

/// Everything is bound, and nothing accepted yet.
pub struct Server {
    bound: Vec<Bound>,
    /// Listeners that a reload has added.
    added: mpsc::UnboundedReceiver<Bound>,
    house: Arc<House>,
}

/// A listener that nobody accepts from yet.
type Bound = (Arc<TcpListener>, Arc<Route>);

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
    trouble: Trouble,
    /// Every listener that is wanted, in the order of the configuration.
    routes: Mutex<Vec<Arc<Route>>>,
    /// Held by the reload that is under way.
    reloading: Mutex<()>,
    /// Where a reload sends the listeners that it has added.
    adding: mpsc::UnboundedSender<Bound>,
}

/// A bound listener.
struct Route {
    /// The address that was bound; with port 0, the one that the system chose.
    address: SocketAddr,
    /// The address that was asked for.
    asked_for: SocketAddr,
    /// What its socket is called when it is handed over.
    name: String,
    /// Closed when nobody accepts from it any more.
    handle: Weak<TcpListener>,
    /// How the socket was made.
    socket: SocketOptions,
    /// Exchanged at a reload; a session keeps those that it began with.
    terms: ArcSwap<Terms>,
    /// Cancelled when a reload has taken the listener away.
    unwanted: CancellationToken,
}

/// Ways that are shared.
type WaysOf = Arc<[Arc<Way>]>;

/// Where a listener's clients are carried to, and on what terms.
pub(crate) struct Terms {
    /// The address that was bound.
    pub(crate) address: SocketAddr,
    /// To the upstreams, tried in this order; at least one.
    pub(crate) ways: Arc<[Arc<Way>]>,
    /// There where the server is known only when somebody logs in; with the ways to those that users belong to. `ways` may be
    /// none then.
    pub(crate) routing: Option<(Arc<Routing>, WaysOf)>,
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
    /// There where clients are announced by proxies, and by nobody else.
    proxy_from: Vec<IpNet>,
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

/// Exchanges listeners, certificates, keys and trust while sessions go on.
#[derive(Clone)]
pub struct Reloader {
    house: Arc<House>,
}

/// Tells a server to stop: first to drain, then to close what is left.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// No more clients; sessions may finish.
    pub drain: CancellationToken,
    /// Sessions are closed at once.
    pub close: CancellationToken,
    /// Another process accepts in place of this one. Cancelled before `drain` is.
    pub replaced: CancellationToken,
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
    /// Only proxies may connect, and it is none.
    NotAProxy,
    /// It is in `deny_from`.
    Denied,
    /// Its address is blocked, or has too many sessions.
    NotAdmitted(Denied),
    TooMany,
    NoTranscript,
}

impl Server {
    /// Binds every listener that was not handed over, without a runtime and without accepting: [`Server::bind`] takes it from
    /// `sockets`.
    ///
    /// # Errors
    /// [`StartError::Bind`].
    pub fn reserve(config: &Config, sockets: &mut Inherited) -> Result<(), StartError> {
        config.listeners.iter().try_for_each(|listener| {
            let reserved = sockets.reserve(listener.address, |_| open(listener));
            reserved.map_err(|source| StartError::Bind { address: listener.address, source })
        })
    }

    /// Prepares TLS, and binds every listener that is not in `sockets`.
    ///
    /// # Errors
    /// [`StartError`]; nothing stays bound.
    pub fn bind(config: &Config, store: Store, stop: Stop, sockets: &mut Inherited) -> Result<Self, StartError> {
        let (adding, added) = mpsc::unbounded_channel();
        let key_log = config.keylog.as_deref().map(KeyLog::open).transpose()?;
        let house = House {
            store,
            timeouts: config.timeouts,
            pool: Arc::new(Pool::new(LARGE_BUFFERS)),
            stop,
            cut_short: AtomicUsize::new(0),
            key_log,
            admission: Arc::new(Admission::new(config.limits.tracked_addresses)),
            memory: OpenMemory::new(sockets.is_shared_with_predecessor()),
            fixed: Arc::clone(&config.limits),
            permits: Arc::new(Semaphore::new(config.limits.connections)),
            refusals: Arc::new(Semaphore::new(REFUSALS)),
            deaf: AtomicUsize::new(0),
            trouble: Trouble::default(),
            routes: Mutex::default(),
            reloading: Mutex::default(),
            adding,
        };
        let common = Common::new(config, &house.memory)?;
        let mut ways = Ways::new(&house, Vec::new());
        let bound = config.listeners.iter().map(|listener| bind(listener, &common, &mut ways, &house, sockets));
        let bound: Vec<Bound> = bound.collect::<Result<_, _>>()?;
        *house.routes() = bound.iter().map(|(_, route)| Arc::clone(route)).collect();
        Ok(Self { bound, added, house: Arc::new(house) })
    }

    /// Each bound listener.
    pub fn served(&self) -> impl Iterator<Item = Served> {
        self.bound.iter().map(|(_, route)| route.served())
    }

    /// The way to each upstream, once.
    #[must_use]
    pub fn ways(&self) -> Vec<Arc<Way>> {
        let served: Vec<_> = self.served().collect();
        distinct(served.iter().flat_map(|served| served.ways.iter()))
    }

    /// What exchanges listeners and certificates while the server runs.
    #[must_use]
    pub fn reloader(&self) -> Reloader {
        Reloader { house: Arc::clone(&self.house) }
    }

    /// Accepts clients until told to drain; then waits for the sessions, up to the limit or until told to close.
    ///
    /// Returns how many sessions were cut short.
    pub async fn run(self) -> usize {
        let Self { bound, mut added, house } = self;
        let (sessions, accepting) = (TaskTracker::new(), TaskTracker::new());
        let begin = |(listener, route): Bound| {
            accepting.spawn(accept(listener, route, Arc::clone(&house), sessions.clone()));
        };
        bound.into_iter().for_each(begin);
        let served = async {
            loop {
                tokio::select! {
                    () = house.stop.drain.cancelled() => break,
                    Some(bound) = added.recv() => begin(bound),
                }
            }
            // What was added in the last moment is closed, as all other listeners are.
            drop(added);
            accepting.close();
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

impl House {
    /// Nothing that holds the lock can leave the list half done.
    fn routes(&self) -> MutexGuard<'_, Vec<Arc<Route>>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Route {
    fn served(&self) -> Served {
        let terms = self.terms.load();
        Served { address: self.address, tls: terms.tls, ways: terms.all_ways().cloned().collect() }
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

impl Terms {
    /// Whether clients have to begin with TLS: then a line in clear would be noise to them.
    pub(crate) fn begins_with_tls(&self) -> bool {
        self.tls == TlsMode::Implicit || self.demand == TlsDemand::Pass
    }

    /// The name of the upstream that is tried first: where a session is said to lead until another one is reached.
    pub(crate) fn first_choice(&self) -> &str {
        self.ways.first().map_or("", |way| &way.upstream.name)
    }

    /// Each way that its sessions may take.
    fn all_ways(&self) -> impl Iterator<Item = &Arc<Way>> {
        self.ways.iter().chain(self.routing.iter().flat_map(|(_, ways)| ways.iter()))
    }
}

impl Refusal {
    /// The short name in the transcript and in the log.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NotAllowed => "not-allowed",
            Self::NotAProxy => "not-a-proxy",
            Self::Denied => "denied",
            Self::NotAdmitted(denied) => denied.reason(),
            Self::TooMany => "too-many-connections",
            Self::NoTranscript => "transcript-failing",
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
    sockets: &mut Inherited,
) -> Result<Bound, StartError> {
    let mut terms = terms(listener, common, ways, house)?;
    let socket = sockets.take_at(listener.address).map_or_else(|| open(listener), Ok);
    let socket = socket.and_then(|socket| TcpListener::from_std(socket.into()));
    let socket = socket.map_err(|source| StartError::Bind { address: listener.address, source })?;
    terms.address = socket.local_addr().unwrap_or(listener.address);
    let socket = Arc::new(socket);
    let route = Route {
        address: terms.address,
        asked_for: listener.address,
        name: listener.handed_over.clone().unwrap_or_else(|| listener.address.to_string()),
        handle: Arc::downgrade(&socket),
        socket: listener.socket.clone(),
        terms: ArcSwap::from_pointee(terms),
        unwanted: CancellationToken::new(),
    };
    Ok((socket, Arc::new(route)))
}

/// Binds a listener as it is configured. It takes no runtime, and at the start it is done with all privileges.
fn open(listener: &Listener) -> io::Result<Socket> {
    listen_prepared(listener.address, &listener.socket, |socket| interception::prepare(socket, listener))
}

/// Reads what TLS takes on both hops.
fn terms(listener: &Listener, common: &Common, ways: &mut Ways<'_>, house: &House) -> Result<Terms, StartError> {
    let (address, key_log) = (listener.address, house.key_log.as_ref());
    let interception = Interception::new(listener, Arc::clone(&common.own), ways)?;
    let mut to = |upstreams: &[Arc<Upstream>]| -> Result<Arc<[Arc<Way>]>, StartError> {
        let ways = ways.reach_each(upstreams)?;
        Ok(ways.iter().map(|way| interception::fitted(Arc::clone(way), listener)).collect())
    };
    let routing = match &listener.routing {
        Some(routing) => Some((Arc::new(routing.clone()), to(&routing.targets)?)),
        None => None,
    };
    let ways = to(&listener.upstreams)?;
    let acceptor = listener.server_tls.as_ref().map(|settings| Acceptor::new(settings, key_log)).transpose();
    let acceptor = acceptor.map_err(|source| StartError::Acceptor { address, source })?;
    let (stls, tls, demand, asked_for) = (listener.stls, listener.tls, listener.demand, listener.address);
    let (allow_from, deny_from) = (listener.allow_from.clone(), listener.deny_from.clone());
    let proxy_from = listener.proxy_from.clone();
    let Common { limits, rules, anomalies, memory, .. } = common.clone();
    Ok(Terms {
        address,
        ways,
        routing,
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
        proxy_from,
    })
}
