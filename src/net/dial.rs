//! From a host name to a TCP connection: all addresses, raced (RFC 8305).

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    path::Path,
    time::Duration,
};

use tokio::{
    net::{TcpStream, UnixStream, lookup_host},
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

use super::intercept::connect_from;

/// How long one attempt has the field to itself before the next begins (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// What dialling needs of the world; tests have their own.
pub trait Network: Clone + Send + Sync + 'static {
    /// What a connection is.
    type Socket: Send + 'static;
    /// All addresses of a name, best first.
    fn resolve(&self, host: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;
    /// One connection attempt.
    fn connect(&self, address: SocketAddr) -> impl Future<Output = io::Result<Self::Socket>> + Send;
}

/// The system's resolver and its TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct System {
    /// Whose address connections come from; this host's own, when there is none.
    pub source: Option<IpAddr>,
}

impl Network for System {
    type Socket = TcpStream;

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(lookup_host((host, port)).await?.collect())
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        match self.source {
            Some(client) => connect_from(client, address).await,
            None => TcpStream::connect(address).await,
        }
    }
}

/// Connects to `host`, a name or an address literal (an IPv6 one without brackets), within `limit`.
///
/// The two address families take turns, in the resolver's order within each; every address is tried, the next one as soon
/// as one fails and at the latest 250 ms later. The first that connects wins, and the others are dropped.
///
/// # Errors
///
/// [`DialError`]: no address, or none that could be connected to, with each one's cause.
pub async fn dial<N: Network>(network: &N, host: &str, port: u16, limit: Duration) -> Result<(N::Socket, SocketAddr), DialError> {
    let deadline = Instant::now() + limit;
    let addresses = match host.parse::<IpAddr>() {
        Ok(literal) => vec![SocketAddr::new(literal, port)],
        Err(_) => timeout_at(deadline, network.resolve(host, port))
            .await
            .map_err(|_| DialError::LookupTimedOut { limit })?
            .map_err(|error| DialError::lookup(&error))?,
    };
    if addresses.is_empty() {
        return Err(DialError::NotFound);
    }
    if let [address] = addresses[..] {
        return alone(network, address, deadline, limit).await;
    }
    Race::new(network, addresses).run(deadline, limit).await
}

/// Connects to the Unix socket at `path` within `limit`.
///
/// # Errors
///
/// [`DialError::Socket`], with the cause.
pub async fn dial_socket(path: &Path, limit: Duration) -> Result<UnixStream, DialError> {
    let connected = timeout(limit, UnixStream::connect(path)).await;
    connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|error| DialError::Socket {
        kind: error.kind(),
        cause: match error.kind() {
            io::ErrorKind::NotFound => "there is no such socket".to_owned(),
            io::ErrorKind::WouldBlock => "as many connections wait there as may".to_owned(),
            _ => cause(&error),
        },
    })
}

/// One address has nobody to race with, so it needs no task.
async fn alone<N: Network>(
    network: &N,
    address: SocketAddr,
    deadline: Instant,
    limit: Duration,
) -> Result<(N::Socket, SocketAddr), DialError> {
    match timeout_at(deadline, network.connect(address)).await {
        Ok(Ok(socket)) => Ok((socket, address)),
        Ok(Err(error)) => Err(DialError::Failed { attempts: vec![Attempt::failed(address, &error)] }),
        Err(_) => Err(DialError::TimedOut { limit, attempts: vec![Attempt::unanswered(address, "timed out")] }),
    }
}

/// Whether `addr` is one of this host's own addresses, loopback included.
///
/// A UDP socket can be bound to an address exactly when it is local, and nothing is sent. (A host with
/// `net.ipv4.ip_nonlocal_bind` says yes to all.) Multicast and broadcast addresses can be bound to as well, hence the exception.
#[must_use]
pub fn is_own_address(addr: IpAddr) -> bool {
    let addr = addr.to_canonical();
    let everybody = addr.is_multicast() || addr == IpAddr::from([255; 4]);
    addr.is_loopback() || (!everybody && UdpSocket::bind((addr, 0)).is_ok())
}

/// No connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The name does not exist, or has no address.
    #[error("name not found")]
    NotFound,
    /// The name could not be looked up.
    #[error("name lookup failed: {0}")]
    Lookup(String),
    /// The lookup took all the time.
    #[error("name lookup took longer than {}", humantime::format_duration(*limit))]
    LookupTimedOut {
        /// The time limit.
        limit: Duration,
    },
    /// There is no connection to a Unix socket.
    #[error("{cause}")]
    Socket {
        /// What the system said.
        kind: io::ErrorKind,
        /// The cause in words.
        cause: String,
    },
    /// Every address failed.
    #[error("{}", list(attempts))]
    Failed {
        /// Each address with its cause.
        attempts: Vec<Attempt>,
    },
    /// The time limit passed before any address answered.
    #[error("no answer within {}: {}", humantime::format_duration(*limit), list(attempts))]
    TimedOut {
        /// The time limit.
        limit: Duration,
        /// Each address with its cause.
        attempts: Vec<Attempt>,
    },
}

impl DialError {
    /// The C library's resolver distinguishes its errors, Rust's passes only the text on.
    fn lookup(error: &io::Error) -> Self {
        let text = error.to_string();
        let text = text.rsplit_once("address information: ").map_or(text.as_str(), |(_, cause)| cause);
        let absent = ["not known", "does not resolve", "No address associated", "no address associated", "Host not found"];
        if error.kind() == io::ErrorKind::NotFound || absent.iter().any(|words| text.contains(words)) {
            return Self::NotFound;
        }
        Self::Lookup(text.to_owned())
    }
}

fn cause(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::TimedOut => "timed out".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network unreachable".to_owned(),
        io::ErrorKind::HostUnreachable => "host unreachable".to_owned(),
        io::ErrorKind::PermissionDenied => "not permitted".to_owned(),
        _ => error.to_string(),
    }
}

/// What became of one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The address.
    pub address: SocketAddr,
    /// What the system said; `None` when the time limit ended the attempt, or it was never made.
    pub kind: Option<io::ErrorKind>,
    /// The cause in words.
    pub cause: String,
}

impl Attempt {
    fn failed(address: SocketAddr, error: &io::Error) -> Self {
        let cause = match error.kind() {
            io::ErrorKind::PermissionDenied => "not permitted (a firewall of this host?)".to_owned(),
            _ => cause(error),
        };
        Self { address, kind: Some(error.kind()), cause }
    }

    fn unanswered(address: SocketAddr, cause: &str) -> Self {
        Self { address, kind: None, cause: cause.to_owned() }
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.address, self.cause)
    }
}

/// The attempts under way, those to come, and those that failed.
struct Race<'n, N: Network> {
    network: &'n N,
    waiting: VecDeque<SocketAddr>,
    running: JoinSet<(SocketAddr, io::Result<N::Socket>)>,
    addresses: Vec<SocketAddr>,
    failed: Vec<Attempt>,
}

impl<'n, N: Network> Race<'n, N> {
    fn new(network: &'n N, addresses: Vec<SocketAddr>) -> Self {
        let addresses = interleave(addresses);
        Self { network, waiting: addresses.clone().into(), running: JoinSet::new(), addresses, failed: Vec::new() }
    }

    async fn run(mut self, deadline: Instant, limit: Duration) -> Result<(N::Socket, SocketAddr), DialError> {
        match timeout_at(deadline, self.first()).await {
            Ok(Some(winner)) => Ok(winner),
            Ok(None) => Err(DialError::Failed { attempts: self.failed }),
            Err(_) => Err(DialError::TimedOut { limit, attempts: self.attempts() }),
        }
    }

    /// The first connection, or `None` when every address has failed. Dropping the race drops the attempts under way.
    async fn first(&mut self) -> Option<(N::Socket, SocketAddr)> {
        loop {
            self.start_next();
            let next = if self.waiting.is_empty() { Duration::MAX } else { ATTEMPT_DELAY };
            match timeout(next, self.running.join_next()).await {
                Ok(Some(Ok((address, Ok(socket))))) => return Some((socket, address)),
                Ok(Some(Ok((address, Err(error))))) => self.failed.push(Attempt::failed(address, &error)),
                Ok(None) if self.waiting.is_empty() => return None,
                // The delay is over, or a task panicked or was cancelled, which none of ours does.
                Err(_) | Ok(Some(Err(_)) | None) => {}
            }
        }
    }

    fn start_next(&mut self) {
        if let Some(address) = self.waiting.pop_front() {
            let network = self.network.clone();
            self.running.spawn(async move { (address, network.connect(address).await) });
        }
    }

    /// All addresses in their order, when the time is over.
    fn attempts(self) -> Vec<Attempt> {
        let outcome = |&address: &SocketAddr| {
            let failed = self.failed.iter().find(|attempt| attempt.address == address).cloned();
            let cause = if self.waiting.contains(&address) { "not tried" } else { "timed out" };
            failed.unwrap_or_else(|| Attempt::unanswered(address, cause))
        };
        self.addresses.iter().map(outcome).collect()
    }
}

/// The families in turn, beginning with that of the resolver's first choice; each address once.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut ours, mut others): (VecDeque<_>, VecDeque<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut order = Vec::with_capacity(ours.len() + others.len());
    while !(ours.is_empty() && others.is_empty()) {
        order.extend(ours.pop_front());
        order.extend(others.pop_front());
    }
    let mut seen = std::collections::HashSet::new();
    order.retain(|&address| seen.insert(address));
    order
}

fn list(attempts: &[Attempt]) -> String {
    attempts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc, sync::Mutex};

    use super::*;

    /// What an address does, and after how long: `None` never answers.
    type Does = Option<(u64, io::Result<()>)>;
    type Script = HashMap<SocketAddr, Does>;

    /// A network of a script; notes when each attempt began and which ones were dropped.
    #[derive(Clone, Default)]
    struct Fake {
        names: Vec<SocketAddr>,
        script: Arc<Mutex<Script>>,
        begun: Arc<Mutex<Vec<(SocketAddr, u128)>>>,
        dropped: Arc<Mutex<Vec<SocketAddr>>>,
        start: Option<Instant>,
    }

    struct Guard(SocketAddr, Arc<Mutex<Vec<SocketAddr>>>);

    impl Drop for Guard {
        fn drop(&mut self) {
            self.1.lock().unwrap().push(self.0);
        }
    }

    impl Fake {
        fn new(script: Vec<(&str, Does)>) -> Self {
            let script: Vec<_> = script.into_iter().map(|(address, does)| (address.parse().unwrap(), does)).collect();
            Self {
                names: script.iter().map(|(address, _)| *address).collect(),
                script: Arc::new(Mutex::new(script.into_iter().collect())),
                start: Some(Instant::now()),
                ..Self::default()
            }
        }

        fn begun(&self) -> Vec<(String, u128)> {
            self.begun.lock().unwrap().iter().map(|(address, at)| (address.to_string(), *at)).collect()
        }
    }

    impl Network for Fake {
        type Socket = SocketAddr;

        async fn resolve(&self, host: &str, _port: u16) -> io::Result<Vec<SocketAddr>> {
            match host {
                "slow.invalid" => std::future::pending().await,
                "absent.invalid" => Err(io::Error::other("failed to lookup address information: Name or service not known")),
                "later.invalid" => {
                    Err(io::Error::other("failed to lookup address information: Temporary failure in name resolution"))
                }
                _ => Ok(self.names.clone()),
            }
        }

        async fn connect(&self, address: SocketAddr) -> io::Result<SocketAddr> {
            let guard = Guard(address, self.dropped.clone());
            self.begun.lock().unwrap().push((address, self.start.unwrap().elapsed().as_millis()));
            let does = self.script.lock().unwrap().remove(&address).unwrap();
            let Some((after, result)) = does else { std::future::pending().await };
            tokio::time::sleep(Duration::from_millis(after)).await;
            std::mem::forget(guard);
            result.map(|()| address)
        }
    }

    fn refused() -> io::Result<()> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }

    const LIMIT: Duration = Duration::from_secs(10);

    async fn dial_name(network: &Fake) -> Result<String, DialError> {
        dial(network, "pop.invalid", 110, LIMIT).await.map(|(socket, address)| {
            assert_eq!(socket, address);
            address.to_string()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_black_hole_costs_a_quarter_of_a_second() {
        let network = Fake::new(vec![("[2001:db8::1]:110", None), ("192.0.2.1:110", Some((30, Ok(()))))]);
        assert_eq!(dial_name(&network).await.unwrap(), "192.0.2.1:110");
        assert_eq!(network.begun(), [("[2001:db8::1]:110".into(), 0), ("192.0.2.1:110".into(), 250)]);
        assert_eq!(network.start.unwrap().elapsed(), Duration::from_millis(280));
        tokio::task::yield_now().await;
        assert_eq!(*network.dropped.lock().unwrap(), ["[2001:db8::1]:110".parse().unwrap()]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_first_attempt_may_still_win() {
        let network = Fake::new(vec![("[2001:db8::1]:110", Some((260, Ok(())))), ("192.0.2.1:110", Some((30, Ok(()))))]);
        assert_eq!(dial_name(&network).await.unwrap(), "[2001:db8::1]:110");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_starts_the_next_at_once_and_the_families_take_turns() {
        let network = Fake::new(vec![
            ("[2001:db8::1]:110", Some((1, refused()))),
            ("[2001:db8::2]:110", Some((1, refused()))),
            ("192.0.2.1:110", Some((1, refused()))),
            ("192.0.2.2:110", Some((1, Ok(())))),
        ]);
        assert_eq!(dial_name(&network).await.unwrap(), "192.0.2.2:110");
        let order: Vec<_> = network.begun().into_iter().map(|(address, _)| address).collect();
        assert_eq!(order, ["[2001:db8::1]:110", "192.0.2.1:110", "[2001:db8::2]:110", "192.0.2.2:110"]);
        assert!(network.start.unwrap().elapsed() < Duration::from_millis(250));
    }

    #[tokio::test(start_paused = true)]
    async fn every_address_is_named_with_its_cause() {
        let unreachable = Err(io::ErrorKind::NetworkUnreachable.into());
        let network = Fake::new(vec![("[2001:db8::1]:110", Some((0, unreachable))), ("192.0.2.1:110", Some((1, refused())))]);
        let error = dial_name(&network).await.unwrap_err();
        assert_eq!(error.to_string(), "[2001:db8::1]:110: network unreachable, 192.0.2.1:110: connection refused");
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_limit_covers_everything() {
        let network = Fake::new(vec![("192.0.2.1:110", None), ("192.0.2.2:110", Some((1, refused())))]);
        let error = dial_name(&network).await.unwrap_err();
        assert_eq!(error.to_string(), "no answer within 10s: 192.0.2.1:110: timed out, 192.0.2.2:110: connection refused");
        assert_eq!(network.start.unwrap().elapsed(), LIMIT);
        let error = dial(&network, "slow.invalid", 110, LIMIT).await.unwrap_err();
        assert_eq!(error.to_string(), "name lookup took longer than 10s");
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_that_were_not_tried_are_named_too() {
        let network = Fake::new(vec![("192.0.2.1:110", None), ("192.0.2.2:110", None)]);
        let error = dial(&network, "pop.invalid", 110, Duration::from_millis(200)).await.unwrap_err();
        assert_eq!(error.to_string(), "no answer within 200ms: 192.0.2.1:110: timed out, 192.0.2.2:110: not tried");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_absent_differs_from_a_lookup_that_failed() {
        let network = Fake::new(vec![]);
        let absent = dial(&network, "absent.invalid", 110, LIMIT).await.unwrap_err();
        assert!(matches!(absent, DialError::NotFound));
        let later = dial(&network, "later.invalid", 110, LIMIT).await.unwrap_err();
        assert_eq!(later.to_string(), "name lookup failed: Temporary failure in name resolution");
        assert!(matches!(dial_name(&network).await, Err(DialError::NotFound)));
    }

    #[tokio::test(start_paused = true)]
    async fn literals_are_not_looked_up() {
        let network = Fake::new(vec![("[2001:db8::1]:110", Some((0, Ok(()))))]);
        let (_, address) = dial(&network, "2001:db8::1", 110, LIMIT).await.unwrap();
        assert_eq!(address.to_string(), "[2001:db8::1]:110");
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_fails_in_the_same_words() {
        let network = Fake::new(vec![("192.0.2.1:110", Some((1, refused())))]);
        let error = dial(&network, "192.0.2.1", 110, LIMIT).await.unwrap_err();
        assert_eq!(error.to_string(), "192.0.2.1:110: connection refused");
        let network = Fake::new(vec![("192.0.2.1:110", None)]);
        let error = dial_name(&network).await.unwrap_err();
        assert_eq!(error.to_string(), "no answer within 10s: 192.0.2.1:110: timed out");
        assert_eq!(network.start.unwrap().elapsed(), LIMIT);
    }

    #[test]
    fn each_address_is_tried_once() {
        let [one, two]: [SocketAddr; 2] = ["192.0.2.1:110".parse().unwrap(), "192.0.2.2:110".parse().unwrap()];
        assert_eq!(interleave(vec![one, two, one]), [one, two]);
    }

    #[test]
    fn own_addresses_are_known() {
        for own in ["127.0.0.1", "127.0.0.53", "::1", "::ffff:127.0.0.1"] {
            assert!(is_own_address(own.parse().unwrap()), "{own}");
        }
        for other in ["192.0.2.1", "2001:db8::1", "224.0.0.1", "255.255.255.255", "::ffff:192.0.2.1"] {
            assert!(!is_own_address(other.parse().unwrap()), "{other}");
        }
    }
}
