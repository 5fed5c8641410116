//! The lines of a transcript: one flat JSON object each. `docs/transcript.md` explains them to readers.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::verbs::Verbs;
use crate::pop3::{Peer, Status};

/// The version of this schema; it changes when a reader of the old one would misread the new one.
pub const VERSION: u32 = 1;

/// One line of either stream.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Record {
    /// Schema version.
    pub v: u32,
    /// The session's id.
    pub session: String,
    /// When, in RFC 3339, UTC, microseconds.
    pub time: String,
    /// Microseconds since the session was opened.
    pub at_us: u64,
    /// What.
    #[serde(flatten)]
    pub body: Body,
}

/// What a line says; `event` names the kind.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Body {
    /// A client was accepted.
    Opened(Opened),
    /// An upstream was tried in vain.
    Unreached(Unreached),
    /// Another upstream serves the session than the one that `opened` names.
    Reached(Reached),
    /// TLS stands on one hop.
    Tls(Tls),
    /// The server's first line.
    Greeting(Greeting),
    /// A command line of the client's.
    Command(Command),
    /// One line of a SASL exchange; its text is never kept.
    Sasl(Sasl),
    /// A status line of the server's, or a reply of poptap's own.
    Reply(Reply),
    /// The body of a multi-line reply is over.
    Content(Content),
    /// The message that the client sent after XTND XMIT is over.
    ClientData(ClientData),
    /// A line of the server's that answers nothing.
    Unsolicited(Unsolicited),
    /// poptap did something other than to forward.
    Decision(Decision),
    /// From here on the session could not be read any more.
    Opaque(Opaque),
    /// Something odd or unsafe.
    Anomaly(Anomaly),
    /// Events that were not recorded.
    Gap(Gap),
    /// The session is over.
    Closed(Closed),
    /// The summary of a whole session: the only line of the `sessions` stream. Boxed, since it is far the largest.
    Session(Box<Summary>),
}

/// A client was accepted.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Opened {
    /// Its address and port.
    pub client: String,
    /// The listener's address and port.
    pub listener: String,
    /// The address and port that it wanted to reach, where the connection was meant for another and led here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The URL or name of the upstream that is tried first; `reached` says where another one serves the session.
    pub upstream: String,
    /// The address and port of the proxy that the connection came from, where it announced the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxied_by: Option<String>,
    /// What the header of the PROXY protocol said, where there was one. Boxed, since it is rarely there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced: Option<Box<Announced>>,
    /// Whether passwords are written in this session: `--reveal-credentials`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub credentials_revealed: bool,
}

/// An upstream was tried in vain.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Unreached {
    /// Its URL or name.
    pub upstream: String,
    /// A fixed short name, as in `closed`.
    pub reason: String,
    /// What failed, and what to do about it.
    pub detail: String,
}

/// Another upstream serves the session than the one that `opened` names.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Reached {
    /// Its URL or name.
    pub upstream: String,
    /// Those before it in the listener's list that were not tried, since they had failed not long ago.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resting: Vec<String>,
}

/// What a proxy said of the connection that it handed on, in the header of the PROXY protocol.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Announced {
    /// The version of the header: `v1` or `v2`.
    pub header: String,
    /// Whether it named no client: `LOCAL`, a health check for example, or `UNKNOWN`. The connection counts as the peer's own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anonymous: bool,
    /// The address and port that the client connected to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The version of TLS between the client and the proxy, as that calls it; absent when plain or not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_version: Option<String>,
    /// Its cipher suite, as the proxy calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_cipher: Option<String>,
    /// The common name of the client's certificate, where the proxy verified one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_name: Option<String>,
    /// The name that the client asked the proxy for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// The protocol that was agreed on with the proxy (ALPN, RFC 7301).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpn: Option<String>,
}

/// One of the two hops.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Hop {
    /// Between the client and poptap.
    #[default]
    Client,
    /// Between poptap and the server.
    Upstream,
}

impl From<Peer> for Hop {
    fn from(peer: Peer) -> Self {
        match peer {
            Peer::Client => Self::Client,
            Peer::Upstream => Self::Upstream,
        }
    }
}

/// TLS stands on one hop.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Tls {
    /// Which hop.
    pub hop: Hop,
    /// `implicit` or `stls`; `pass` where client and server speak it with each other, and poptap carries it unread.
    pub mode: String,
    /// Such as `TLSv1.3`; `unknown` where it was carried unread, and the server's choice could not be seen.
    pub version: String,
    /// Such as `TLS13_AES_256_GCM_SHA384`; `unknown` as above.
    pub cipher: String,
    /// Where it was carried unread: the versions that the client offered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offered: Vec<String>,
    /// Where it was carried unread: the protocols that the client offered (ALPN, RFC 7301).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alpn: Vec<String>,
    /// The name that the client asked for (SNI, RFC 6066 §3), where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// Whom poptap trusted in a server's certificate: `system`, `ca_file` or `pin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<String>,
    /// Faults of a server's certificate that would have been accepted: `expired`, `self-signed`, `wrong-name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accept: Vec<String>,
    /// The peer certificate's subject; a client's, where it presented one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Its issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// When it expires, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
    /// The SHA-256 of the certificate, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

/// The status indicator of a reply.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub enum StatusWord {
    /// Success.
    #[serde(rename = "+OK")]
    Ok,
    /// Failure.
    #[serde(rename = "-ERR")]
    Err,
    /// Neither.
    #[serde(rename = "?")]
    Other,
}

impl StatusWord {
    /// As it is written.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "+OK",
            Self::Err => "-ERR",
            Self::Other => "?",
        }
    }
}

impl From<Option<Status>> for StatusWord {
    fn from(status: Option<Status>) -> Self {
        match status {
            Some(Status::Ok) => Self::Ok,
            Some(Status::Err) => Self::Err,
            Some(Status::Continue) | None => Self::Other,
        }
    }
}

/// A line as it is kept: text with control characters, bidirectional controls and octets that are not UTF-8 escaped as
/// `\xNN` (a backslash as `\\`), and what was left out.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Text {
    /// The text, without its line end. Absent when all of it is withheld.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Why text was withheld or replaced: `secret`, `unknown`, `echo`, `user`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redacted: Option<String>,
    /// Octets of the whole line, its line end included.
    pub octets: u64,
    /// Octets before the line in its direction's stream.
    pub offset: u64,
    /// Present when the line did not end in CR LF: `lf` or `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line_end: Option<String>,
    /// Whether only the beginning of a long line is in `text`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

/// The server's first line.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Greeting {
    /// Its status.
    pub status: StatusWord,
    /// The line.
    #[serde(flatten)]
    pub line: Text,
}

/// A command line of the client's.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Command {
    /// Its number in the session, from 1.
    pub n: u64,
    /// Its keyword in upper case; `?` when unknown.
    pub keyword: String,
    /// The line; secrets left out.
    #[serde(flatten)]
    pub line: Text,
    /// The SASL mechanism (AUTH).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mechanism: Option<String>,
    /// The user that the line names (USER, APOP, AUTH with an initial response).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// False when poptap answered it and the server never saw it.
    pub forwarded: bool,
    /// Whether poptap asked it on its own account: the client did not say it, and got no reply to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own: bool,
}

/// One line of a SASL exchange.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Sasl {
    /// Who sent it.
    pub from: Hop,
    /// The AUTH command that it belongs to.
    pub auth: u64,
    /// The line's own number, when the client sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u64>,
    /// Octets, line end included.
    pub octets: u64,
    /// Octets before the line in its direction's stream.
    pub offset: u64,
    /// The user that a response named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// `*`: the client cancelled the exchange.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel: bool,
    /// The line itself, only where credentials are revealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revealed: Option<String>,
}

/// A status line.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Reply {
    /// The command that is answered.
    pub n: u64,
    /// That command's keyword.
    pub keyword: String,
    /// The status.
    pub status: StatusWord,
    /// The line.
    #[serde(flatten)]
    pub line: Text,
    /// Microseconds from the command to this line.
    pub latency_us: u64,
    /// Whether a body follows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub multi_line: bool,
    /// Whether poptap wrote it, not the server.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub local: bool,
}

/// The body of a multi-line reply.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Content {
    /// The command that is answered.
    pub n: u64,
    /// That command's keyword.
    pub keyword: String,
    /// Octets on the wire, dot-stuffing and terminator included, the status line not.
    pub octets: u64,
    /// Octets of the body itself: dot-stuffing and terminator removed. For RETR this is the message.
    pub size: u64,
    /// Of these, up to and including the blank line behind the headers (RETR, TOP).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header_size: Option<u64>,
    /// Lines.
    pub lines: u64,
    /// Digest of the body (RETR, TOP), in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// False when the server went before the terminator.
    pub complete: bool,
    /// Microseconds from the command to the terminator.
    pub total_us: u64,
    /// The lines of a listing (CAPA, AUTH, LIST, UIDL, LANG), all or the first, each escaped like `text`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listing: Vec<String>,
    /// What of a message is kept: `none`, `headers`, `lines:N`, `full`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Where that stands, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<Piece>,
}

/// A piece of kept content: raw octets in a side file.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct Piece {
    /// The side file's name, in the transcript's directory. When the segment was compressed since, `.zst` follows it.
    pub file: String,
    /// Octets before the piece.
    pub offset: u64,
    /// Octets of the piece.
    pub length: u64,
}

/// The message that the client sent after XTND XMIT.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct ClientData {
    /// The XTND command.
    pub n: u64,
    /// Octets on the wire.
    pub octets: u64,
    /// False when the client went before the terminator.
    pub complete: bool,
}

/// A line of the server's that answers nothing.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Unsolicited {
    /// Its status.
    pub status: StatusWord,
    /// The line.
    #[serde(flatten)]
    pub line: Text,
}

/// poptap did something other than to forward.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Decision {
    /// The command concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u64>,
    /// `allow`, `answer`, `rewrite`, `shield`, `tag`, `remove-line`, `edit-line`, `add-line`, `route`, `delay`, `close`.
    pub action: String,
    /// The rule that decided.
    pub rule: String,
    /// False for a dry run: this is what would have happened, and nothing was done.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub enforced: bool,
    /// The word of a rule that takes note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The line as it went on, where it was replaced and may be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
    /// Written when a reply is over in which the same was done again: how many times more.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub again: u64,
}

fn yes() -> bool {
    true
}

/// From here on the session could not be read any more.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Opaque {
    /// A fixed short name.
    pub reason: String,
    /// One sentence.
    pub explanation: String,
    /// Local replies that could no longer be placed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped_replies: u64,
}

/// Something odd or unsafe.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Anomaly {
    /// A fixed short name.
    pub id: String,
    /// One sentence.
    pub explanation: String,
    /// Whose fault it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Hop>,
    /// The command concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u64>,
    /// Octets before it in that peer's stream; of what is found in a body, octets before the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

/// Events that were not recorded.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Gap {
    /// Why: `full` (the buffer), `error` (the store could not be written).
    pub reason: String,
    /// How many events are missing.
    pub events: u64,
    /// Octets from the client that they were about.
    pub client_octets: u64,
    /// Octets from the server that they were about.
    pub upstream_octets: u64,
    /// Octets of message content that should have been kept and were not.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub content_octets: u64,
}

/// The session is over.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Closed {
    /// Who ended it: `client`, `upstream`, `poptap`.
    pub by: String,
    /// A fixed short name, such as `quit`, `eof`, `reset`, `truncated`, `timeout-idle`, `upstream-refused`, `shutdown`.
    pub reason: String,
    /// What the log and the client were told, when something failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Octets received from the client.
    pub client_octets: u64,
    /// Octets received from the server, inside TLS.
    pub upstream_octets: u64,
    /// Octets received from the client that the server never got.
    pub client_undelivered: u64,
    /// Octets received from the server that the client never got.
    pub upstream_undelivered: u64,
}

/// The summary of a whole session.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Summary {
    /// When the session was opened, in RFC 3339, UTC, microseconds.
    pub start: String,
    /// Microseconds that it lasted.
    pub duration_us: u64,
    /// The client's address and port.
    pub client: String,
    /// The listener's address and port.
    pub listener: String,
    /// The address and port that the client wanted to reach, where the connection was meant for another and led here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The URL or name of the upstream that served it; of the first in the list where none did.
    pub upstream: String,
    /// The address and port of the proxy that the connection came from, where it announced the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxied_by: Option<String>,
    /// The user, once a login named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Whether a login succeeded.
    pub logged_in: bool,
    /// How it was tried last: `USER`, `APOP`, or a SASL mechanism.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mechanism: Option<String>,
    /// Logins that the server refused.
    pub login_failures: u64,
    /// TLS version on the client's hop; absent when plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_tls: Option<String>,
    /// TLS version on the server's hop; absent when plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_tls: Option<String>,
    /// Command lines.
    pub commands: u64,
    /// `-ERR` replies.
    pub errors: u64,
    /// The commands by keyword, with their errors and the latencies of replies.
    #[serde(default, skip_serializing_if = "Verbs::is_empty")]
    pub verbs: Verbs,
    /// Messages that were retrieved whole with RETR.
    pub messages: u64,
    /// Their octets, dot-stuffing removed.
    pub message_octets: u64,
    /// Messages marked as deleted (`DELE` answered `+OK`, less those taken back by `RSET`).
    pub deleted: u64,
    /// Of these, those that a rule kept from the server: it was not asked to delete them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shielded: u64,
    /// Octets received from the client.
    pub client_octets: u64,
    /// Octets received from the server, inside TLS.
    pub upstream_octets: u64,
    /// Octets received from the client that the server never got.
    pub client_undelivered: u64,
    /// Octets received from the server that the client never got.
    pub upstream_undelivered: u64,
    /// The reason why the session became opaque, when it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opaque: Option<String>,
    /// How often each rule decided.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rules: BTreeMap<String, u64>,
    /// How often each rule would have decided, in a dry run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rules_dry: BTreeMap<String, u64>,
    /// How often each anomaly was found, by its id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub anomalies: BTreeMap<String, u64>,
    /// Events that were not recorded.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub events_lost: u64,
    /// Whether passwords are written in this session's events.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub credentials_revealed: bool,
    /// Who ended it.
    pub closed_by: String,
    /// Why, as in `closed`.
    pub reason: String,
    /// How it ended, in words.
    pub verdict: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
