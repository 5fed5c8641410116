//! The way to one server, up to the point where a session can be relayed.

use std::{
    fmt,
    future::Future,
    io,
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use socket2::SockRef;
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, timeout, timeout_at},
};

use super::{
    ConnectError, DialError, Step, StlsFault, Stream, System, dial, dial_socket, proxy_protocol,
    stls::{await_greeting, greeting, negotiate},
};
use crate::{
    config::{ProxyProtocol, Timeouts, TlsMode, Upstream},
    escape::escape_line,
    record::schema,
    tls::{self, Expiry, HandshakeError, KeyLog, Presented},
};

pub use crate::tls::ClientError as TlsConfigError;

/// Connects to one server. Built once, since it holds whom to trust and the TLS sessions to resume.
#[derive(Clone, Debug)]
pub struct Connector {
    host: String,
    port: u16,
    /// In place of both.
    socket: Option<PathBuf>,
    security: Security,
    proxy_protocol: ProxyProtocol,
    from_client: bool,
    /// What is said on it is for the client alone.
    unread: bool,
    connect: Duration,
    handshake: Duration,
    greeting: Duration,
}

/// How the hop is protected, with what that takes.
#[derive(Clone, Debug)]
enum Security {
    Plain,
    Implicit(tls::Client),
    Stls(tls::Client),
}

/// For whom a connection is made: what a PROXY protocol header says.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    /// The client's address.
    pub client: SocketAddr,
    /// The address that it connected to.
    pub listener: SocketAddr,
    /// TLS on its hop, where there is any.
    pub tls: Option<schema::Tls>,
}

impl Origin {
    /// Of a connection that is poptap's own.
    #[must_use]
    pub fn own() -> Self {
        let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
        Self { client: nobody, listener: nobody, tls: None }
    }

    pub(super) fn is_own(&self) -> bool {
        *self == Self::own()
    }
}

/// Where a server was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// At this address.
    Address(SocketAddr),
    /// At a Unix socket with this path.
    Socket(PathBuf),
}

impl Endpoint {
    /// Whether nothing that is sent there leaves this host, as far as the address tells.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Address(address) => address.ip().to_canonical().is_loopback(),
            Self::Socket(_) => true,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(out),
            Self::Socket(path) => path.display().fmt(out),
        }
    }
}

/// A connection over which a session can be relayed.
#[derive(Debug)]
pub struct Connected {
    /// The connection; inside TLS where the upstream asks for it.
    pub stream: Stream,
    /// What the server has said already, byte for byte: the greeting before STLS, which **anybody on the way may have
    /// written**, or what [`Connector::await_greeting`] has read; otherwise empty.
    pub received: Vec<u8>,
    /// What the transcript says of TLS.
    pub tls: Option<schema::Tls>,
    /// Where it was reached.
    pub address: Endpoint,
    /// How long the name's lookup and TCP took.
    pub dialling: Duration,
    /// How long the rest took: STLS with the greeting before it, and the TLS handshake.
    pub securing: Duration,
}

/// What a test of the upstream found.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Where it was reached.
    pub address: Endpoint,
    /// TLS, where there is any.
    pub tls: Option<schema::Tls>,
    /// Whole days until the server's certificate expires.
    pub days_left: Option<i64>,
    /// The server's greeting without its line end, escaped.
    pub greeting: String,
    /// Whether the greeting says that the server would believe XCLIENT from this host.
    pub xclient: bool,
}

impl Connector {
    /// For one upstream.
    ///
    /// # Errors
    ///
    /// When TLS is asked for, and nobody can be trusted, no name verified, or no certificate presented.
    pub fn new(upstream: &Upstream, timeouts: &Timeouts, key_log: Option<&KeyLog>) -> Result<Self, TlsConfigError> {
        let security = match upstream.tls {
            TlsMode::Plain => Security::Plain,
            TlsMode::Implicit => Security::Implicit(tls::Client::of(upstream, key_log)?),
            TlsMode::Stls => Security::Stls(tls::Client::of(upstream, key_log)?),
        };
        Ok(Self {
            host: upstream.host.clone(),
            port: upstream.port,
            socket: upstream.socket.clone(),
            security,
            proxy_protocol: upstream.proxy_protocol,
            from_client: false,
            unread: false,
            connect: timeouts.connect,
            handshake: timeouts.handshake,
            greeting: timeouts.greeting,
        })
    }

    /// The same server, as its name is verified and its hop protected, at another address.
    #[must_use]
    pub fn towards(&self, address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port(), socket: None, ..self.clone() }
    }

    /// For connections that client and server protect themselves.
    #[must_use]
    pub fn without_tls(self) -> Self {
        Self { security: Security::Plain, unread: true, ..self }
    }

    /// Whether a greeting can be read on its connections.
    #[must_use]
    pub fn reads_greetings(&self) -> bool {
        !self.unread
    }

    /// Connects from the address of the client that a connection is for. Linux only; needs `CAP_NET_ADMIN`.
    #[must_use]
    pub fn from_client(self) -> Self {
        Self { from_client: true, ..self }
    }

    /// When each certificate expires that is presented to the server.
    #[must_use]
    pub fn expiries(&self) -> Vec<Expiry> {
        self.client().and_then(tls::Client::expiry).into_iter().cloned().collect()
    }

    /// Resolves, connects, tells the server of the client where that is configured, and starts TLS, each within its time
    /// limit.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]; the connection is closed then, and no octet but the PROXY protocol's, STLS' and the handshake's was
    /// sent.
    pub async fn connect(&self, origin: &Origin) -> Result<Connected, ConnectError> {
        // Boxed: what dialling and handshakes need is freed before the caller goes on.
        Box::pin(async {
            let begun = Instant::now();
            let dialled = self.dial(origin).await;
            let (mut stream, address) = dialled.map_err(|cause| ConnectError::Dial { server: self.server(), cause })?;
            let dialling = begun.elapsed();
            self.announce(&mut stream, origin).await?;
            Ok(Connected { dialling, ..self.secure(stream, address).await? })
        })
        .await
    }

    async fn dial(&self, origin: &Origin) -> Result<(Stream, Endpoint), DialError> {
        let Some(path) = &self.socket else {
            let network = System { source: Some(origin.client.ip()).filter(|_| self.from_client && !origin.is_own()) };
            let (tcp, address) = dial(&network, &self.host, self.port, self.connect).await?;
            return Ok((Stream::new(tcp), Endpoint::Address(address)));
        };
        let unwatched = |error: io::Error| DialError::Socket { kind: error.kind(), cause: error.to_string() };
        let stream = Stream::of_unix(dial_socket(path, self.connect).await?).map_err(unwatched)?;
        Ok((stream, Endpoint::Socket(path.clone())))
    }

    /// What the server has presented on this connection; `None` where there is no TLS.
    #[must_use]
    pub fn presented(&self, connected: &Connected) -> Option<Presented> {
        connected.stream.presented(self.client()?)
    }

    /// The PROXY protocol's header goes ahead of everything, TLS included.
    async fn announce(&self, stream: &mut Stream, origin: &Origin) -> Result<(), ConnectError> {
        let Some(header) = proxy_protocol::header(self.proxy_protocol, origin) else { return Ok(()) };
        let sent = timeout(self.connect, stream.write_all(&header)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        sent.map_err(|cause| ConnectError::Announce { server: self.server(), cause })
    }

    /// Tests the server: connects, reads its greeting, says QUIT and closes.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]; among them a greeting that never comes or is not `+OK`.
    pub async fn probe(&self) -> Result<Report, ConnectError> {
        let mut connected = self.connect(&Origin::own()).await?;
        let line = self.greet(&mut connected).await?;
        let Connected { mut stream, tls, address, .. } = connected;
        quit(&mut stream).await;
        let days_left = tls.as_ref().and_then(|tls| tls::days_left(tls, OffsetDateTime::now_utc()));
        let xclient = line.windows(XCLIENT.len()).any(|octets| octets.eq_ignore_ascii_case(XCLIENT));
        Ok(Report { address, tls, days_left, greeting: escape_line(&line), xclient })
    }

    /// The server's greeting, within its time limit: the one that came before STLS, or the next line.
    pub(crate) async fn greet(&self, connected: &mut Connected) -> Result<Vec<u8>, ConnectError> {
        if !connected.received.is_empty() {
            return Ok(connected.received.clone());
        }
        let read = self.within_greeting(greeting(&mut connected.stream)).await?;
        read.map_err(|cause| self.greeting_fault(cause, |server, cause| ConnectError::Greeting { server, cause }))
    }

    /// Waits until the server has greeted, within its time limit, and leaves what it sent in `received`.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], where it does not say `+OK`; the connection is of no use then.
    pub async fn await_greeting(&self, connected: &mut Connected) -> Result<(), ConnectError> {
        if !connected.received.is_empty() {
            return Ok(());
        }
        let read = self.within_greeting(await_greeting(&mut connected.stream, &mut connected.received)).await?;
        let has_spoken = !connected.received.is_empty();
        read.map_err(|cause| match cause {
            StlsFault::Closed(_) | StlsFault::Io { .. } if !has_spoken => self.left(),
            cause => self.greeting_fault(cause, |server, cause| ConnectError::Greeting { server, cause }),
        })
    }

    async fn secure(&self, stream: Stream, address: Endpoint) -> Result<Connected, ConnectError> {
        let begun = Instant::now();
        let (stream, received, tls) = match &self.security {
            Security::Plain => (stream, Vec::new(), None),
            Security::Implicit(client) => {
                let stream = self.implicit(stream, client).await?;
                let tls = stream.describe("implicit").map(|tls| client.annotate(tls));
                (stream, Vec::new(), tls)
            }
            Security::Stls(client) => {
                let (stream, received) = self.stls(stream, client).await?;
                let tls = stream.describe("stls").map(|tls| client.annotate(tls));
                (stream, received, tls)
            }
        };
        Ok(Connected { stream, received, tls, address, dialling: Duration::ZERO, securing: begun.elapsed() })
    }

    fn client(&self) -> Option<&tls::Client> {
        match &self.security {
            Security::Plain => None,
            Security::Implicit(client) | Security::Stls(client) => Some(client),
        }
    }

    async fn implicit(&self, stream: Stream, client: &tls::Client) -> Result<Stream, ConnectError> {
        match timeout(self.handshake, stream.upgrade(client)).await {
            Ok(result) => result.map_err(|cause| ConnectError::Tls { server: self.server(), cause }),
            Err(_) => Err(ConnectError::HandshakeTimeout { server: self.server(), limit: self.handshake, stls: false }),
        }
    }

    /// The greeting has its own time limit; STLS, its reply and the handshake share one.
    async fn stls(&self, mut stream: Stream, client: &tls::Client) -> Result<(Stream, Vec<u8>), ConnectError> {
        let fault = |cause| self.stls_fault(cause);
        let received = self.within_greeting(greeting(&mut stream)).await?.map_err(fault)?;
        let handshake = async {
            quiet(&stream, Step::Greeting).map_err(fault)?;
            negotiate(&mut stream).await.map_err(fault)?;
            quiet(&stream, Step::Reply).map_err(fault)?;
            stream.upgrade(client).await.map_err(|cause| self.handshake_fault(cause))
        };
        match timeout(self.handshake, handshake).await {
            Ok(upgraded) => Ok((upgraded?, received)),
            Err(_) => Err(ConnectError::HandshakeTimeout { server: self.server(), limit: self.handshake, stls: true }),
        }
    }

    async fn within_greeting<T>(&self, reading: impl Future<Output = T>) -> Result<T, ConnectError> {
        timeout(self.greeting, reading).await.map_err(|_| self.silent())
    }

    /// The server stands, and did not greet in time.
    #[must_use]
    pub fn silent(&self) -> ConnectError {
        ConnectError::GreetingTimeout { server: self.server(), limit: self.greeting, hint: self.silence_hint() }
    }

    /// The server closed the connection and had said nothing.
    #[must_use]
    pub fn left(&self) -> ConnectError {
        ConnectError::Left { server: self.server(), hint: self.silence_hint() }
    }

    /// What to try when a server never greets: one that expects TLS waits for the client to begin.
    fn silence_hint(&self) -> String {
        match self.security {
            _ if self.proxy_protocol != ProxyProtocol::Off => {
                "see whether the server expects the PROXY protocol at that port, and trusts this host to speak it".to_owned()
            }
            Security::Implicit(_) => "see whether a POP3 server answers at that port, and what its log says".to_owned(),
            _ if self.port == 995 => "port 995 is for TLS: use `pop3s://`".to_owned(),
            _ => "perhaps it expects TLS from the first octet: use `pop3s://`".to_owned(),
        }
    }

    fn stls_fault(&self, cause: StlsFault) -> ConnectError {
        self.greeting_fault(cause, |server, cause| ConnectError::Stls { server, cause })
    }

    /// A server that refuses the session is at one with itself: that is no fault of STLS or TLS.
    fn greeting_fault(&self, cause: StlsFault, other: fn(String, StlsFault) -> ConnectError) -> ConnectError {
        match cause {
            StlsFault::Refused(text) => ConnectError::Refused { server: self.server(), text },
            cause => other(self.server(), cause),
        }
    }

    /// Plain text in place of the handshake, after a clean `+OK`: the same injection, only later.
    fn handshake_fault(&self, cause: HandshakeError) -> ConnectError {
        match cause {
            HandshakeError::PlainText { .. } => self.stls_fault(StlsFault::Injected(Step::Reply)),
            cause => ConnectError::Tls { server: self.server(), cause },
        }
    }

    fn server(&self) -> String {
        if let Some(path) = &self.socket {
            return path.display().to_string();
        }
        match self.host.parse::<IpAddr>() {
            Ok(address) => SocketAddr::new(address, self.port).to_string(),
            Err(_) => format!("{}:{}", self.host, self.port),
        }
    }
}

const XCLIENT: &[u8] = b"[XCLIENT]";

/// How long a server may take to answer QUIT before it is left.
const FAREWELL: Duration = Duration::from_secs(2);

/// Nobody has logged in, so that QUIT commits nothing (RFC 1939 §5). Whether it arrives does not matter: it is politeness.
async fn quit(stream: &mut Stream) {
    let deadline = Instant::now() + FAREWELL;
    let _ = timeout_at(deadline, async {
        stream.write_all(b"QUIT\r\n").await?;
        stream.flush().await?;
        // Unread, its answer would turn the close into a reset.
        let _octets = stream.read(&mut [0; 512]).await?;
        stream.shutdown().await
    })
    .await;
}

/// Fails when the server has sent anything that was not read: asked of the socket itself, since tokio may not know yet.
fn quiet(stream: &Stream, step: Step) -> Result<(), StlsFault> {
    match SockRef::from(stream.tcp()).peek(&mut [MaybeUninit::uninit()]) {
        Ok(0) => Err(StlsFault::Closed(Step::Reply)),
        Ok(_) => Err(StlsFault::Injected(step)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(cause) => Err(StlsFault::Io { step: Step::Reply, cause }),
    }
}

#[cfg(test)]
mod tests;
