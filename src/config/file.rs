//! The configuration file as it is written: every key is optional, none is unknown. `config/poptap.toml` explains them to users.

use std::{
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    path::PathBuf,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::anomaly::Anomaly;

use super::{
    Accept, ApopPolicy, ClientCert, ContentPolicy, HashPolicy, ListingPolicy, LogFormat, LogRotation, OnError, OnFull, Pin,
    ProxyProtocol, StlsPolicy, Streams, TlsDemand, TlsVersion, UserPolicy, XclientPolicy,
    address::{Network, UpstreamUrl},
    http::{MetricsSection, WebSection},
    intercept::{DestinationSection, Otherwise, Source, Transparent},
    listen_place::ListenPlace,
    process::ProcessSection,
    routing::RouteSection,
    rule::{OneOrMany, RuleSection},
    values::{Period, Size, WaitLimit},
};

/// The JSON Schema of the configuration file, as JSON text that ends with a line feed.
#[must_use]
pub fn schema() -> String {
    format!("{:#}\n", schemars::schema_for!(File).to_value())
}

/// The configuration of poptap.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "poptap", rename = "poptap")]
pub(super) struct File {
    /// Addresses on which clients are accepted; one on 127.0.0.1:1110 when there is none.
    #[serde(default)]
    #[schemars(with = "Vec<ListenerSection>")]
    pub(super) listener: Vec<Spanned<ListenerSection>>,
    /// Mail servers.
    #[serde(default)]
    #[schemars(with = "Vec<UpstreamSection>")]
    pub(super) upstream: Vec<Spanned<UpstreamSection>>,
    /// What clients may do; the first rule whose conditions all hold decides.
    #[serde(default)]
    #[schemars(with = "Vec<RuleSection>")]
    pub(super) rule: Vec<Spanned<RuleSection>>,
    /// All rules together.
    #[serde(default)]
    pub(super) policy: PolicySection,
    /// Messages that are kept from being deleted.
    #[serde(default)]
    pub(super) shield: ShieldSection,
    /// The transcript store.
    #[serde(default)]
    pub(super) transcript: TranscriptSection,
    /// Bounds in number and size.
    #[serde(default)]
    pub(super) limits: LimitsSection,
    /// Bounds in time.
    #[serde(default)]
    pub(super) timeouts: TimeoutsSection,
    /// Who the process is, and what it may touch.
    #[serde(default)]
    pub(super) process: ProcessSection,
    /// The operational log.
    #[serde(default)]
    pub(super) log: LogSection,
    /// Counts for a monitoring system.
    #[serde(default)]
    pub(super) metrics: MetricsSection,
    /// The live page.
    #[serde(default)]
    pub(super) web: WebSection,
}

/// One address on which clients are accepted.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListenerSection {
    /// `ADDR:PORT`, `[v6]:PORT`, `PORT` for loopback, `:PORT` for all interfaces; port 0 lets the system choose. With
    /// `pop3s://` in front, TLS from the first octet; with `pop3+stls://`, STLS is offered. `systemd:NAME` is a socket that the
    /// service manager hands over.
    #[schemars(with = "Option<ListenPlace>")]
    pub(super) address: Option<Spanned<ListenPlace>>,
    /// The name of an `[[upstream]]`, or a URL, or a list of them that are tried in this order; may be left out where there is
    /// only one upstream.
    #[schemars(with = "Option<OneOrMany<String>>")]
    pub(super) upstream: Option<Spanned<OneOrMany<String>>>,
    /// Users by pattern: the first that matches says where a user is carried to. `upstream` is for all others.
    #[schemars(with = "Option<Vec<RouteSection>>")]
    pub(super) route: Option<Spanned<Vec<RouteSection>>>,
    /// A file of users, `user upstream [newname]` a line, that is asked before `route`.
    #[schemars(with = "Option<PathBuf>")]
    pub(super) map: Option<Spanned<PathBuf>>,
    /// What CAPA says before the login where users are routed; STLS is added where it is offered.
    #[schemars(with = "Option<Vec<String>>")]
    pub(super) capabilities: Option<Spanned<Vec<String>>>,
    /// Who may connect besides this host's own clients: networks, or `any`.
    pub(super) allow_from: Option<Vec<Network>>,
    /// Networks whose clients are refused, whatever `allow_from` says, and though they be on this host.
    #[schemars(with = "Option<Vec<Network>>")]
    pub(super) deny_from: Option<Spanned<Vec<Network>>>,
    /// Proxies that announce each client by the PROXY protocol, version 1 or 2. Nobody else may connect then.
    #[schemars(with = "Option<Vec<Network>>")]
    pub(super) proxy_from: Option<Spanned<Vec<Network>>>,
    /// Connections that may wait to be accepted.
    #[schemars(with = "Option<u32>", range(min = 1, max = 65535))]
    pub(super) backlog: Option<Spanned<u32>>,
    /// The network interface that connections have to come in by.
    #[schemars(with = "Option<String>")]
    pub(super) device: Option<Spanned<String>>,
    /// Whether the address may be one that this host does not have, or not yet.
    pub(super) freebind: Option<bool>,
    /// Whether an IPv6 address takes IPv6 clients only; without it, `[::]` takes IPv4 clients too, and no other does.
    #[schemars(with = "Option<bool>")]
    pub(super) v6only: Option<Spanned<bool>>,
    /// What becomes of a client's STLS where this listener and the upstream are plain.
    pub(super) stls: Option<StlsPolicy>,
    /// Whether clients must start TLS before they log in, where STLS is offered; or that TLS is carried unread.
    pub(super) tls: Option<TlsDemand>,
    /// PEM file with the certificate, and those that lead from it to its authority.
    #[schemars(with = "Option<PathBuf>")]
    pub(super) cert: Option<Spanned<PathBuf>>,
    /// PEM file with its private key; the certificate's own file when left out.
    pub(super) key: Option<PathBuf>,
    /// Further certificates, each for the clients that ask for one of its names.
    pub(super) certs: Option<Vec<KeyPairSection>>,
    /// An authority that issues a certificate for each name that is asked for and that no other has.
    pub(super) mint: Option<MintSection>,
    /// The oldest version of TLS that is spoken.
    pub(super) min_tls: Option<TlsVersion>,
    /// PEM file with the authorities whose certificates clients may present.
    pub(super) client_ca: Option<PathBuf>,
    /// Whether clients must present one.
    pub(super) client_cert: Option<ClientCert>,
    /// How connections are led here that were meant for others.
    #[schemars(with = "Option<Transparent>")]
    pub(super) transparent: Option<Spanned<Transparent>>,
    /// The only networks that these may be meant for.
    #[schemars(with = "Option<Vec<Network>>")]
    pub(super) allow_to: Option<Spanned<Vec<Network>>>,
    /// With `upstream = "original"`: where clients are carried to, by whom they wanted to reach. The first that fits holds.
    #[schemars(with = "Option<Vec<DestinationSection>>")]
    pub(super) destinations: Option<Spanned<Vec<DestinationSection>>>,
    /// What becomes of a destination without an entry.
    #[schemars(with = "Option<Otherwise>")]
    pub(super) otherwise: Option<Spanned<Otherwise>>,
    /// Whether servers are dialled from this host's own address, or from the client's.
    #[schemars(with = "Option<Source>")]
    pub(super) source: Option<Spanned<Source>>,
}

/// A certificate and its private key.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyPairSection {
    /// PEM file with the certificate, and those that lead from it to its authority.
    pub(super) cert: PathBuf,
    /// PEM file with its private key; the certificate's own file when left out.
    pub(super) key: Option<PathBuf>,
}

/// An authority to issue certificates with.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MintSection {
    /// PEM file with the authority's certificate.
    pub(super) ca: PathBuf,
    /// PEM file with its private key; the certificate's own file when left out.
    pub(super) key: Option<PathBuf>,
}

/// A mail server.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UpstreamSection {
    /// Its name in records and for listeners; the URL when left out.
    #[schemars(with = "Option<String>")]
    pub(super) name: Option<Spanned<String>>,
    /// `pop3://host[:110]`, `pop3s://host[:995]` or `pop3+stls://host[:110]`; `pop3+unix:///path` or `pop3+stls+unix:///path`.
    #[schemars(with = "Option<UpstreamUrl>")]
    pub(super) url: Option<Spanned<UpstreamUrl>>,
    /// PEM file with the certificates to trust instead of the system's roots.
    #[schemars(with = "Option<PathBuf>")]
    pub(super) ca_file: Option<Spanned<PathBuf>>,
    /// PEM file with certificate revocation lists, one of each authority in the server's chain; only with `ca_file`.
    #[schemars(with = "Option<PathBuf>")]
    pub(super) crl_file: Option<Spanned<PathBuf>>,
    /// The digest of the server's certificate, or of its public key. Issuer, name and dates are then not looked at.
    #[schemars(with = "Option<Pin>")]
    pub(super) pin: Option<Spanned<Pin>>,
    /// Faults of the server's certificate that are accepted.
    #[schemars(with = "Option<Vec<Accept>>")]
    pub(super) accept: Option<Spanned<Vec<Accept>>>,
    /// PEM file with the certificate for a server that asks for one.
    #[schemars(with = "Option<PathBuf>")]
    pub(super) cert: Option<Spanned<PathBuf>>,
    /// PEM file with its private key; the certificate's own file when left out.
    #[schemars(with = "Option<PathBuf>")]
    pub(super) key: Option<Spanned<PathBuf>>,
    /// The name that is asked for and verified, in place of the URL's host.
    #[schemars(with = "Option<String>")]
    pub(super) server_name: Option<Spanned<String>>,
    /// Whether the server is told of the client by the PROXY protocol.
    pub(super) proxy_protocol: Option<ProxyProtocol>,
    /// What becomes of an APOP timestamp received before TLS.
    pub(super) apop: Option<ApopPolicy>,
    /// What becomes of XCLIENT and XOIP from clients.
    pub(super) xclient: Option<XclientPolicy>,
}

/// The transcript store.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TranscriptSection {
    /// Whether transcripts are written.
    pub(super) enabled: Option<bool>,
    /// The directory, or `-` for JSON Lines on standard output.
    #[schemars(with = "Option<PathBuf>")]
    pub(super) dir: Option<Spanned<PathBuf>>,
    /// Events and summaries, or summaries only.
    pub(super) record: Option<Streams>,
    /// How much of a message is kept.
    pub(super) content: Option<ContentPolicy>,
    /// The digest of each message.
    pub(super) hash: Option<HashPolicy>,
    /// How much of LIST's and UIDL's listings is kept.
    pub(super) listings: Option<ListingPolicy>,
    /// How user names are written.
    pub(super) user: Option<UserPolicy>,
    /// A segment is finished at this size.
    pub(super) rotate_size: Option<Size>,
    /// A segment is finished at this age.
    pub(super) rotate_age: Option<Period>,
    /// Whether finished segments are compressed.
    pub(super) compress: Option<bool>,
    /// Rows of the roll-up that `sessions audit` reads, at most; with 0 none is kept.
    pub(super) audit_rows: Option<u32>,
    /// Rows that were not seen for so long are removed from it.
    pub(super) audit_keep: Option<Period>,
    /// Octets that may wait for the writer, over all sessions.
    pub(super) buffer: Option<Size>,
    /// What happens when that many wait.
    pub(super) on_full: Option<OnFull>,
    /// How long a session waits for the writer at most.
    pub(super) wait_limit: Option<WaitLimit>,
    /// What happens when the store cannot be written.
    pub(super) on_error: Option<OnError>,
    /// What is kept of the events and of message content.
    #[serde(default)]
    pub(super) keep_events: KeepSection,
    /// What is kept of the session summaries.
    #[serde(default)]
    pub(super) keep_sessions: KeepSection,
}

/// How long and how much is kept.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeepSection {
    /// Segments older than this are removed.
    pub(super) age: Option<Period>,
    /// All segments together are no larger than this.
    pub(super) size: Option<Size>,
    /// There are no more segments than this.
    pub(super) segments: Option<NonZeroU64>,
}

/// All rules together, and anomalies.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicySection {
    /// Whether no rule acts, and it is only recorded what they would do.
    pub(super) dry_run: Option<bool>,
    /// Anomalies for which a session is closed: ids of docs/anomalies.md.
    pub(super) strict: Option<Vec<Anomaly>>,
    /// A command that waits for its reply for so long has a slow one.
    pub(super) slow_reply: Option<Period>,
}

/// Messages that a `shield` rule keeps from being deleted.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ShieldSection {
    /// Whether they stay hidden in later sessions.
    pub(super) remember: Option<bool>,
    /// For how long after they were last seen on the server.
    pub(super) keep: Option<Period>,
    /// The directory for what is remembered.
    #[schemars(with = "Option<PathBuf>")]
    pub(super) dir: Option<Spanned<PathBuf>>,
}

/// Bounds in number and size.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitsSection {
    /// Connections at one time, over all listeners.
    pub(super) connections: Option<NonZeroUsize>,
    /// Sessions of one address at one time; of one /64 for IPv6.
    pub(super) sessions_per_client: Option<NonZeroUsize>,
    /// Sessions of one user at one time.
    pub(super) sessions_per_user: Option<NonZeroUsize>,
    /// After so many refused logins within `login_window`, an address or a user is blocked for `login_block`; at most 100.
    #[schemars(with = "Option<NonZeroU32>", range(max = 100))]
    pub(super) login_failures: Option<Spanned<NonZeroU32>>,
    /// For how long a refused login counts.
    pub(super) login_window: Option<Period>,
    /// How long a block lasts.
    pub(super) login_block: Option<Period>,
    /// The reply to a refused login is held back for this long, times the number of those that count; at most 30 s.
    #[schemars(with = "Option<Period>")]
    pub(super) login_delay: Option<Spanned<Period>>,
    /// Commands of one session.
    pub(super) commands: Option<NonZeroU64>,
    /// Octets of one session, both directions together.
    pub(super) octets: Option<Size>,
    /// Addresses, and users, of which failures are remembered.
    pub(super) tracked_addresses: Option<NonZeroUsize>,
    /// Networks that no limit for an address holds for.
    #[schemars(with = "Option<Vec<Network>>")]
    pub(super) exempt: Option<Spanned<Vec<Network>>>,
    /// Commands of one session that may await their reply.
    pub(super) outstanding: Option<NonZeroUsize>,
    /// Octets of a command line with its line end, where there are rules.
    #[schemars(with = "Option<usize>", range(min = 64, max = 4000))]
    pub(super) command_line: Option<Spanned<usize>>,
    /// The same of an AUTH line and of a SASL response: 1 KiB to 1 MiB.
    #[schemars(with = "Option<Size>")]
    pub(super) sasl_line: Option<Spanned<Size>>,
}

/// Bounds in time.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TimeoutsSection {
    /// To reach the server: name resolution and TCP.
    pub(super) connect: Option<Period>,
    /// For a TLS handshake.
    pub(super) handshake: Option<Period>,
    /// From the connection to the server's greeting.
    pub(super) greeting: Option<Period>,
    /// From the greeting to a successful login, with what the shield asks behind it.
    pub(super) login: Option<Period>,
    /// Without an octet from either side, after login.
    pub(super) idle: Option<Period>,
    /// Without an octet, when one side has ended its stream.
    pub(super) half_closed: Option<Period>,
    /// For a reply when the cap on outstanding commands is reached.
    pub(super) reply: Option<Period>,
    /// For sessions to finish after SIGTERM or SIGINT.
    pub(super) drain: Option<Period>,
    /// How long an upstream that failed is not tried where there is another one; doubled with each failure that follows.
    pub(super) rest: Option<Period>,
    /// The longest that becomes.
    #[schemars(with = "Option<Period>")]
    pub(super) longest_rest: Option<Spanned<Period>>,
}

/// The operational log.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LogSection {
    /// A file in place of standard error; its directory must exist.
    #[schemars(with = "Option<PathBuf>")]
    pub(super) file: Option<Spanned<PathBuf>>,
    /// When the file is changed for a new one.
    pub(super) rotation: Option<LogRotation>,
    /// Text for people, or one JSON object a line.
    pub(super) format: Option<LogFormat>,
    /// A tracing filter, such as `info` or `poptap=debug`.
    #[schemars(with = "Option<String>")]
    pub(super) filter: Option<Spanned<String>>,
}
