//! What poptap is told to do: command line and file, parsed once, validated once, and from then on only these types.

mod address;
mod anomalies;
mod effective;
mod fault;
mod file;
mod handed_over;
mod http;
mod intercept;
mod listen_place;
mod message_size;
mod process;
mod provision;
mod reading;
mod resolve;
mod routing;
mod rule;
mod security;
mod socket;
mod store;
#[cfg(test)]
mod tests;
mod values;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use clap::ValueEnum;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use address::{ListenAddress, Network, UpstreamUrl};
pub use anomalies::Anomalies;
pub use effective::effective;
pub use fault::{Fault, Faults, Malformed, Place as FilePlace};
pub use file::schema;
pub use handed_over::{HandedOver, handed_over};
pub use http::{HttpAddress, MetricsEndpoint, PageEndpoint};
pub use intercept::{Destination, Dial, Interception, Otherwise, Source, Table, Transparent};
pub use listen_place::ListenPlace;
pub use message_size::MessageSize;
pub use process::{Process, SandboxPolicy};
pub use provision::provision;
pub use resolve::{Loaded, Probed, load, probed};
pub use routing::{MapFault, Routed, Routing, UserMap, UserRoute};
pub use rule::{CommandWord, Pattern, ReplyShape, Rule, RuleAction, Shield, SizeBound, When};
pub use security::{Accept, ClientCert, KeyPair, Pin, ProxyProtocol, ServerTls, TlsDemand, TlsMode, TlsVersion};
pub use socket::SocketOptions;
pub use store::store;
pub use values::{Argument, Period, Size, WaitLimit};

/// The whole validated configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where clients are accepted; at least one.
    pub listeners: Vec<Listener>,
    /// What clients may do, those of the command line first; asked in this order.
    pub rules: Vec<Rule>,
    /// What becomes of anomalies.
    pub anomalies: Anomalies,
    /// Messages that rules keep from being deleted.
    pub shield: Shield,
    /// The transcript store; `None` when it is turned off.
    pub transcript: Option<Transcript>,
    /// Bounds in number and size.
    pub limits: Arc<Limits>,
    /// Bounds in time.
    pub timeouts: Timeouts,
    /// The operational log.
    pub log: Log,
    /// Where counts are served; `None` counts nothing.
    pub metrics: Option<MetricsEndpoint>,
    /// Where the live page is served.
    pub page: Option<PageEndpoint>,
    /// Who the process is, and what it may touch.
    pub process: Process,
    /// A file for the secrets of TLS connections, for decrypting captures. On the command line only.
    pub keylog: Option<PathBuf>,
}

/// One address on which clients are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The address; port 0 lets the system choose.
    pub address: SocketAddr,
    /// The name of the socket, where it is handed over: `systemd:NAME`.
    pub handed_over: Option<String>,
    /// Where its clients are carried to: tried in this order; at least one, each once.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Who may connect. Loopback clients always may.
    pub allow_from: AllowFrom,
    /// Who may not all the same; loopback clients too.
    pub deny_from: Vec<IpNet>,
    /// Proxies that announce each client by the PROXY protocol. Where there are any, nobody else may connect, and `allow_from` and
    /// `deny_from` are about the clients that they announce.
    pub proxy_from: Vec<IpNet>,
    /// How its socket is made.
    pub socket: SocketOptions,
    /// What becomes of an STLS command on it, where it is plain.
    pub stls: StlsPolicy,
    /// How its clients' hop is protected.
    pub tls: TlsMode,
    /// Whether its clients must start TLS before they log in, where STLS is offered.
    pub demand: TlsDemand,
    /// Certificates; there where `tls` is not plain.
    pub server_tls: Option<ServerTls>,
    /// Which server its users belong to; its `upstreams` are then for those of whom nothing else is said, and may be none.
    pub routing: Option<Routing>,
    /// There where it takes connections that were meant for others.
    pub interception: Option<Interception>,
    /// What servers are dialled from.
    pub source: Source,
}

/// Who may connect to a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowFrom {
    /// Clients on this host only: the default on a loopback address.
    Loopback,
    /// Clients on this host and in these networks.
    Networks(Vec<IpNet>),
    /// Everybody; said with `any`, and warned of.
    Any,
}

/// What becomes of a client's STLS where the upstream hop is plain. Where that hop is TLS already, STLS is always refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum StlsPolicy {
    /// Forwarded; after the server's `+OK` the session is opaque.
    #[default]
    Pass,
    /// Answered with `-ERR`, and left out of CAPA.
    Refuse,
}

/// A mail server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Its name in records: the file's `name`, or its URL.
    pub name: String,
    /// Host name or address literal, as written (an IPv6 literal without brackets).
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The path of a Unix socket, in place of host and port.
    pub socket: Option<PathBuf>,
    /// How the hop is protected.
    pub tls: TlsMode,
    /// PEM file with the certificates to trust instead of the system's roots.
    pub ca_file: Option<PathBuf>,
    /// PEM file with certificate revocation lists (RFC 5280 §5); only with `ca_file`.
    pub crl_file: Option<PathBuf>,
    /// The server's certificate or public key, in place of any authority.
    pub pin: Option<Pin>,
    /// Faults of its certificate that are accepted; sorted, each once.
    pub accept: Vec<Accept>,
    /// What poptap presents to the server when it is asked.
    pub client: Option<KeyPair>,
    /// The name that is asked for and verified, in place of the host's.
    pub server_name: Option<String>,
    /// Whether the server is told of the client.
    pub proxy_protocol: ProxyProtocol,
    /// What becomes of an APOP timestamp that was received before TLS (STLS only).
    pub apop: ApopPolicy,
    /// What becomes of XCLIENT and XOIP from clients, where the greeting says that the server would believe them.
    pub xclient: XclientPolicy,
}

/// What becomes of an APOP timestamp that arrived before TLS stood, and so may be an attacker's (RFC 1939 §7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ApopPolicy {
    /// Removed from the greeting, and recorded.
    #[default]
    Strip,
    /// Left in it.
    Pass,
}

/// What becomes of XCLIENT and XOIP from clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum XclientPolicy {
    /// `-ERR` where the greeting carries `[XCLIENT]`.
    #[default]
    Refuse,
    /// Forwarded.
    Pass,
}

/// The transcript store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transcript {
    /// Where it goes.
    pub place: Place,
    /// Which of the two streams are written.
    pub record: Streams,
    /// How much of a message's content is kept (RETR and TOP alike).
    pub content: ContentPolicy,
    /// The digest of each message.
    pub hash: HashPolicy,
    /// How much of LIST's and UIDL's listings is kept.
    pub listings: ListingPolicy,
    /// How user names are written.
    pub user: UserPolicy,
    /// Whether passwords are written. On the command line only.
    pub reveal_credentials: bool,
    /// A segment is finished at this many octets.
    pub rotate_size: u64,
    /// A segment is finished at this age.
    pub rotate_age: Duration,
    /// Finished segments are compressed with zstd.
    pub compress: bool,
    /// Retention of the events stream and of kept content.
    pub keep_events: Retention,
    /// Retention of the session summaries.
    pub keep_sessions: Retention,
    /// Rows of the roll-up that `sessions audit` reads, at most; with 0 none is kept.
    pub audit_rows: usize,
    /// Rows that were not seen for so long are removed from it.
    pub audit_keep: Duration,
    /// Octets that may wait for the writer, over all sessions.
    pub buffer: u64,
    /// What happens when that many wait.
    pub on_full: OnFull,
    /// How long `OnFull::Wait` waits before it writes a gap; `None` waits for ever.
    pub wait_limit: Option<Duration>,
    /// What happens when the store cannot be written.
    pub on_error: OnError,
}

/// Where a transcript goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Segments in this directory.
    Directory(PathBuf),
    /// JSON Lines on standard output; nothing is rotated, and message content is not kept.
    Stdout,
}

/// Which of the two streams are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Streams {
    /// Session summaries and events.
    #[default]
    Events,
    /// Session summaries only.
    Sessions,
}

/// How much of a message's content is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContentPolicy {
    /// Counts and digest only.
    #[default]
    None,
    /// Up to and including the blank line behind the headers.
    Headers,
    /// This many lines from the start.
    Lines(u64),
    /// All of it.
    Full,
}

/// The digest of each message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum HashPolicy {
    /// SHA-256 of the message with dot-stuffing removed.
    #[default]
    Sha256,
    /// None.
    None,
}

/// How much of LIST's and UIDL's listings is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ListingPolicy {
    /// The count and the first lines.
    #[default]
    Brief,
    /// Every line.
    Full,
}

/// How user names are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum UserPolicy {
    /// As the client gave them.
    #[default]
    Plain,
    /// As a keyed digest: equal within one store, of no use elsewhere.
    Hash,
}

/// What happens when the transcript's buffer is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OnFull {
    /// Sessions wait for the writer, up to `wait_limit`; then a counted gap.
    #[default]
    Wait,
    /// A counted gap at once.
    Mark,
    /// The session is closed.
    Close,
}

/// What happens when the store cannot be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// Sessions go on unrecorded, loudly.
    #[default]
    Continue,
    /// Sessions in progress go on; new ones are refused until the store can be written again.
    Refuse,
}

/// How long and how much is kept; the oldest finished segments go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Segments older than this are removed.
    pub age: Duration,
    /// The stream's segments hold no more than this many octets together.
    pub octets: u64,
    /// There are no more than this many segments.
    pub segments: u64,
}

/// Bounds in number and size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at one time, over all listeners.
    pub connections: usize,
    /// Sessions of one address at one time; of one /64 for IPv6.
    pub sessions_per_client: Option<usize>,
    /// Sessions of one user at one time.
    pub sessions_per_user: Option<usize>,
    /// After so many refused logins within `login_window`, an address or a user is blocked; at most [`Limits::FAILURES`].
    pub login_failures: Option<usize>,
    /// For how long a refused login counts.
    pub login_window: Duration,
    /// How long a block lasts.
    pub login_block: Duration,
    /// What the reply to a refused login is held back for, times the number of those that count; at most
    /// [`Limits::LONGEST_DELAY`].
    pub login_delay: Option<Duration>,
    /// Commands of one session.
    pub commands: Option<u64>,
    /// Octets of one session, both directions together.
    pub octets: Option<u64>,
    /// Addresses, and as many users, of which refused logins are remembered.
    pub tracked_addresses: usize,
    /// Networks whose clients are not counted per address.
    pub exempt: Vec<IpNet>,
    /// Commands of one session that may await their reply; more stay unread.
    pub outstanding: usize,
    /// Octets of a command line with its line end, where there are rules: 64 to 4000.
    pub command_line: usize,
    /// The same of an AUTH line and of a SASL response: 1 KiB to 1 MiB.
    pub sasl_line: u64,
}

/// Bounds in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To reach the server: name resolution and TCP.
    pub connect: Duration,
    /// For a TLS handshake, STLS included.
    pub handshake: Duration,
    /// From the connection to the server's greeting.
    pub greeting: Duration,
    /// From the greeting to a successful login, with what the shield asks behind it.
    pub login: Duration,
    /// Without an octet from either side, after login (RFC 1939 §3: at least 10 minutes).
    pub idle: Duration,
    /// Without an octet, when one side has ended its stream.
    pub half_closed: Duration,
    /// For a reply when the cap on outstanding commands is reached; then the session goes opaque.
    pub reply: Duration,
    /// For sessions to finish after SIGTERM or SIGINT.
    pub drain: Duration,
    /// How long an upstream that failed is not tried where there is another one; doubled with each failure that follows.
    pub rest: Duration,
    /// The longest that becomes.
    pub longest_rest: Duration,
}

/// The operational log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A file in place of stderr.
    pub file: Option<PathBuf>,
    /// When the file is changed for a new one.
    pub rotation: LogRotation,
    /// Text or JSON.
    pub format: LogFormat,
    /// A tracing filter: `info`, `poptap=debug`, …
    pub filter: String,
}

/// When the log file is changed for a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogRotation {
    /// Each day.
    #[default]
    Daily,
    /// Each hour.
    Hourly,
    /// Never.
    Never,
}

/// The form of a line of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

impl Limits {
    /// Refused logins that are remembered of one address or user.
    pub const FAILURES: usize = 100;
    /// The longest time that a reply to a refused login is held back.
    pub const LONGEST_DELAY: Duration = Duration::from_secs(30);
}

impl Listener {
    /// Whether a client may log in without encryption.
    #[must_use]
    pub fn may_be_plain(&self) -> bool {
        self.tls.may_be_plain(self.demand)
    }

    /// Its upstreams, and then those that its users are routed to.
    pub fn all_upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.iter().chain(self.routing.iter().flat_map(|routing| &routing.targets))
    }

    /// The names of its upstreams, in their order.
    #[must_use]
    pub fn upstream_names(&self) -> String {
        self.upstreams.iter().map(|upstream| upstream.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

impl Upstream {
    /// The server at `url`, with every setting at its default.
    #[must_use]
    pub fn at(url: &UpstreamUrl) -> Self {
        Self {
            name: url.to_string(),
            host: url.host.clone(),
            port: url.port,
            socket: url.socket.clone(),
            tls: url.tls,
            ca_file: None,
            crl_file: None,
            pin: None,
            accept: Vec::new(),
            client: None,
            server_name: None,
            proxy_protocol: ProxyProtocol::default(),
            apop: ApopPolicy::default(),
            xclient: XclientPolicy::default(),
        }
    }

    /// Its URL in one form, the port left out where it is the scheme's own.
    #[must_use]
    pub fn url(&self) -> UpstreamUrl {
        UpstreamUrl { tls: self.tls, host: self.host.clone(), port: self.port, socket: self.socket.clone() }
    }
}
