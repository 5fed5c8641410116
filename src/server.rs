//! Binds, accepts, admits, and drains.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::{AllowFrom, Config, Limits, Listener, StlsPolicy, Timeouts, Upstream},
    net::{Connector, TlsConfigError},
    record::Store,
    session,
    tap::Pool,
};

/// Large relay buffers over all sessions: 8 MiB. Sessions beyond that go on with small ones.
const LARGE_BUFFERS: usize = 128;
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
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) pool: Arc<Pool>,
    pub(crate) stop: Stop,
    /// Sessions that were told to close before they had finished.
    pub(crate) cut_short: AtomicUsize,
    permits: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
}

/// Where a listener's clients are carried to, and on what terms.
pub(crate) struct Route {
    /// The address that was bound; with port 0, the one that the system chose.
    pub(crate) address: SocketAddr,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) connector: Connector,
    pub(crate) stls: StlsPolicy,
    allow_from: AllowFrom,
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
    NotAllowed,
    TooMany,
    NoTranscript,
}

impl Server {
    /// Prepares TLS and binds every listener.
    ///
    /// # Errors
    /// [`StartError`]; nothing stays bound.
    pub fn bind(config: &Config, store: Store, stop: Stop) -> Result<Self, StartError> {
        let house = House {
            store,
            limits: config.limits,
            timeouts: config.timeouts,
            pool: Arc::new(Pool::new(LARGE_BUFFERS)),
            stop,
            cut_short: AtomicUsize::new(0),
            permits: Arc::new(Semaphore::new(config.limits.connections)),
            refusals: Arc::new(Semaphore::new(REFUSALS)),
        };
        let bound = config.listeners.iter().map(|listener| bind(listener, &config.timeouts)).collect::<Result<_, _>>()?;
        Ok(Self { bound, house: Arc::new(house) })
    }

    /// Each bound address with its upstream and what connects to it.
    pub fn routes(&self) -> impl Iterator<Item = (SocketAddr, &Upstream, &Connector)> {
        self.bound.iter().map(|(_, route)| (route.address, &*route.upstream, &route.connector))
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
        accepting.wait().await;
        sessions.close();
        drain(&sessions, &house).await
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
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(client: TcpStream, address: SocketAddr, route: &Arc<Route>, house: &Arc<House>, sessions: &TaskTracker) {
    let (route, house) = (Arc::clone(route), Arc::clone(house));
    let refusal = if !route.allow_from.allows(address.ip()) {
        Refusal::NotAllowed
    } else if !house.store.accepts_sessions() {
        Refusal::NoTranscript
    } else if let Ok(permit) = Arc::clone(&house.permits).try_acquire_owned() {
        sessions.spawn(async move {
            session::serve(client, address, &route, &house).await;
            drop(permit);
        });
        return;
    } else {
        Refusal::TooMany
    };
    if let Ok(permit) = Arc::clone(&house.refusals).try_acquire_owned() {
        sessions.spawn(async move {
            session::refuse(client, address, &route, &house, refusal).await;
            drop(permit);
        });
    }
}

impl AllowFrom {
    fn allows(&self, client: IpAddr) -> bool {
        client.is_loopback()
            || match self {
                Self::Loopback => false,
                Self::Networks(networks) => networks.iter().any(|network| network.contains(&client)),
                Self::Any => true,
            }
    }
}

/// An IPv4 client of a dual-stack listener has an address that maps its own.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn bind(listener: &Listener, timeouts: &Timeouts) -> Result<(TcpListener, Arc<Route>), StartError> {
    let upstream = Arc::clone(&listener.upstream);
    let connector = Connector::new(&upstream, timeouts, None)
        .map_err(|source| StartError::Tls { upstream: upstream.name.clone(), source })?;
    let socket = listen(listener.address).map_err(|source| StartError::Bind { address: listener.address, source })?;
    let address = socket.local_addr().unwrap_or(listener.address);
    let route = Route { address, upstream, connector, stls: listener.stls, allow_from: listener.allow_from.clone() };
    Ok((socket, Arc::new(route)))
}

/// A wildcard IPv6 address takes IPv4 clients too.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
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
