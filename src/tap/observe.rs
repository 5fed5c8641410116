//! What the tap says of a session: [`Event`]s, borrowed views of octets that are passing, and the [`Observer`] who is told.

use crate::pop3::{Keyword, LineEnd, Peer, Shape, Stage, Status};

/// Somebody who watches a session and can change nothing.
///
/// `on` cannot block, fail or touch a socket. `ready` is asked before *each* label, since one read of 16 KiB of bare
/// LFs makes 16,384 events; while it is false the octets stay in their [`Flow`](super::Flow), unlabelled and unforwarded.
pub trait Observer {
    /// May the tap label one thing more?
    fn ready(&self) -> bool;
    /// Something passed.
    fn on(&mut self, event: &Event<'_>);
}

/// The number of a client's command line within its session, counted from 1.
///
/// Every line of the client's that is or may be a command has one, SASL responses included, whether it was forwarded
/// or answered by poptap; a reply names the command that it answers by it.
pub type Ordinal = u64;

/// A line as the observer sees it.
///
/// The tap forwards lines of any length and keeps only their beginning: at most [`REMEMBERED`] octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The beginning of the line, without its line end; at most [`REMEMBERED`] octets.
    pub text: &'a [u8],
    /// All octets of the line, its line end included.
    pub octets: u64,
    /// Where in its direction's stream the line began: octets received before it.
    pub offset: u64,
    /// How it ended.
    pub end: LineEnd,
}

/// How many octets of a line are remembered for the record (a status line's limit, RFC 2449 §4).
pub const REMEMBERED: usize = 512;

impl Line<'_> {
    /// Whether `text` is the whole line.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.text.len() as u64 + self.end.octets() == self.octets
    }
}

/// One thing that happened in a session, in the order in which it was labelled.
///
/// Octets are borrowed from the flow and are **not redacted**: they may hold secrets. Which ones do follows from the
/// kind of the event, and the recorder redacts by that.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The server's first line (RFC 1939 §4).
    Greeting {
        /// `Ok` or `Err`; `None` when it is neither.
        status: Option<Status>,
        /// The line as received, before any edit.
        line: Line<'a>,
    },
    /// A line of the client's that is a command.
    Command {
        /// Its number.
        n: Ordinal,
        /// Its keyword.
        keyword: Keyword,
        /// The line; for PASS, APOP, AUTH and unknown keywords it holds a secret or may.
        line: Line<'a>,
        /// The stage as far as the replies so far have told.
        stage: Stage,
        /// Whether the server will see it; when not, a [`Event::Decision`] says why, and a [`Event::LocalReply`] follows in its turn.
        forwarded: bool,
        /// Whether it is the proxy's own: the client has not said it, and gets no reply to it.
        own: bool,
    },
    /// A line of the client's that is a SASL response, or may be one because an AUTH is unresolved (RFC 5034 §4). Always secret.
    SaslResponse {
        /// Its number.
        n: Ordinal,
        /// The AUTH command that it belongs to.
        auth: Ordinal,
        /// The line.
        line: Line<'a>,
    },
    /// A line of the server's that is a SASL challenge. Treated as secret.
    SaslChallenge {
        /// The AUTH command that it belongs to.
        auth: Ordinal,
        /// The line.
        line: Line<'a>,
    },
    /// A line that was taken for a SASL response turned out to be a command of its own, since AUTH was settled before it.
    /// Its text stays secret.
    Resolved {
        /// The line's number.
        n: Ordinal,
        /// The keyword that decides the shape of its reply.
        keyword: Keyword,
    },
    /// A status line that answers command `n`.
    Reply {
        /// The command that is answered.
        n: Ordinal,
        /// That command's keyword.
        keyword: Keyword,
        /// `Ok` or `Err`; `None` for a line that is neither but can only be this command's reply.
        status: Option<Status>,
        /// Whether [`Event::Content`] and [`Event::ReplyEnd`] follow.
        shape: Shape,
        /// The line.
        line: Line<'a>,
        /// The stage after this reply.
        stage: Stage,
    },
    /// A piece of a multi-line reply's body: dot-stuffing removed (RFC 1939 §3), terminator left out, cut anywhere.
    Content {
        /// The command that is answered.
        n: Ordinal,
        /// That command's keyword.
        keyword: Keyword,
        /// The octets.
        octets: &'a [u8],
    },
    /// Within the body of a multi-line reply stood a line with nothing but a dot that a bare LF ended. It is content here; some
    /// clients take it for the terminator.
    LfDot {
        /// The command that is answered.
        n: Ordinal,
        /// Where in the server's stream the dot stood: octets received before it.
        offset: u64,
    },
    /// A multi-line reply is over.
    ReplyEnd {
        /// The command that is answered.
        n: Ordinal,
        /// That command's keyword.
        keyword: Keyword,
        /// Octets of the body on the wire: stuffing and terminator included, status line not.
        octets: u64,
        /// False when the server ended the connection before the terminator: the body is truncated.
        complete: bool,
    },
    /// A piece of the message that the client sends after `XTND XMIT`, as it is on the wire.
    ClientData {
        /// The XTND command.
        n: Ordinal,
        /// How many octets.
        octets: u64,
        /// Whether this piece ends with the terminator.
        last: bool,
    },
    /// A line of the server's that answers nothing.
    Unsolicited {
        /// `Ok` or `Err`; `None` when it is neither: its text may be anything, secrets included.
        status: Option<Status>,
        /// The line.
        line: Line<'a>,
    },
    /// A filter decided something other than to forward a line as it is.
    Decision(Decision<'a>),
    /// A reply of poptap's own takes its place in the stream to the client.
    LocalReply {
        /// The command that is answered.
        n: Ordinal,
        /// The whole reply, line ends included.
        text: &'a [u8],
    },
    /// From here on the session is only carried, no longer understood; the pipe goes on.
    Opaque {
        /// Why.
        reason: OpaqueReason,
        /// How many local replies could no longer be placed.
        dropped_replies: usize,
    },
    /// Octets that passed while opaque.
    OpaqueOctets {
        /// Who sent them.
        from: Peer,
        /// How many.
        octets: u64,
    },
    /// A line that its sender began and never ended. Treated as secret.
    Unfinished {
        /// Who sent it.
        from: Peer,
        /// What there is of it.
        line: Line<'a>,
    },
    /// The session is being closed because a peer did what is not safe to pass on.
    Violation(Violation),
}

/// Something other than to forward a line as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    /// The command concerned; `None` for the greeting.
    pub n: Option<Ordinal>,
    /// What was done, or would have been.
    pub action: Action,
    /// The rule that decided: a short fixed name such as `stls-refuse`, or the name of a rule of the user's.
    pub rule: &'a str,
    /// False for a dry run: nothing was done.
    pub enforced: bool,
    /// The line as it went on, its line end not included, where it was replaced. It may hold what the line that it replaces held.
    pub line: Option<&'a [u8]>,
    /// A word of the rule's.
    pub tag: Option<&'a str>,
}

impl<'a> Decision<'a> {
    /// One that is enforced.
    #[must_use]
    pub fn of(n: Option<Ordinal>, action: Action, rule: &'a str) -> Self {
        Self { n, action, rule, enforced: true, line: None, tag: None }
    }
}

/// What a filter's decision did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The command was forwarded where a later rule would have refused it.
    Allow,
    /// The command was not forwarded; poptap answered it.
    Answer,
    /// Another line was forwarded in the command's place.
    Rewrite,
    /// The deletion was kept from the server; poptap answered it.
    Shield,
    /// Nothing but this record.
    Tag,
    /// One line of a reply was left out.
    RemoveLine,
    /// One line of a reply was changed.
    EditLine,
    /// A line was added to a reply.
    AddLine,
    /// A login was led to a server.
    Route,
    /// A reply was held back.
    Delay,
    /// The session was closed.
    Close,
}

impl Action {
    /// Its name in records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Answer => "answer",
            Self::Rewrite => "rewrite",
            Self::Shield => "shield",
            Self::Tag => "tag",
            Self::RemoveLine => "remove-line",
            Self::EditLine => "edit-line",
            Self::AddLine => "add-line",
            Self::Route => "route",
            Self::Delay => "delay",
            Self::Close => "close",
        }
    }
}

/// Why a session can no longer be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpaqueReason {
    /// The client started TLS with the server, end to end.
    StartTls,
    /// TLS from the first octet, between client and server.
    TlsPassed,
    /// A SASL security layer is in force (RFC 5034 §4).
    SecurityLayer,
    /// The server sent something that is neither a reply nor expected.
    UnexpectedLine,
    /// The server sent more replies than there were commands.
    TooManyReplies,
    /// A line over [`REMEMBERED`] octets, or with a NUL or bare CR, had commands behind it: servers send none, one or several replies to it.
    AmbiguousCommand,
    /// Nothing moved with the cap on outstanding commands reached: the server stayed silent, or the client read no replies.
    RepliesMissing,
}

impl OpaqueReason {
    /// A fixed short name, and one sentence.
    #[must_use]
    pub fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::StartTls => ("starttls", "the client started TLS with the server"),
            Self::TlsPassed => ("tls-passed", "client and server speak TLS with each other, and it is carried unread"),
            Self::SecurityLayer => ("security-layer", "a SASL security layer is in force"),
            Self::UnexpectedLine => ("unexpected-line", "the server sent a line that is neither a reply nor expected"),
            Self::TooManyReplies => ("too-many-replies", "the server sent more replies than there were commands"),
            Self::AmbiguousCommand => {
                ("ambiguous-command", "a malformed command line had others behind it, so replies can no longer be matched")
            }
            Self::RepliesMissing => ("replies-missing", "too many commands awaited their replies, and nothing moved"),
        }
    }
}

/// Something that is not safe to pass on, and whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Who did it.
    pub fault: Peer,
    /// What was done.
    pub kind: ViolationKind,
}

/// The kinds of [`Violation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ViolationKind {
    /// The client sent plain text after the server had agreed to STLS.
    PlaintextBehindStls,
    /// The server sent plain text behind its `+OK` to STLS.
    PlaintextBehindStlsReply,
    /// A client began a TLS handshake where plain POP3 is spoken.
    TlsOnPlainPort,
    /// A client sent an HTTP request: a browser, or whoever uses one against its owner.
    HttpRequest,
    /// A client spoke plain text where TLS begins with the first octet.
    PlaintextOnTlsPort,
    /// The session could no longer be understood while logins had to wait for TLS, so that nobody could have refused them.
    UnreadableBeforeTls,
    /// The session could no longer be understood while rules were in force, so that nobody could have held it to them.
    UnreadableUnderRules,
    /// A line of a reply that had to be looked at as a whole was too long for that.
    ReplyLineTooLong,
    /// A client sent a message (XTND XMIT) whose lines servers would end each in their own way, while rules were in force: for
    /// some server it was over, and commands followed.
    MalformedData,
    /// More octets passed than may in one session.
    TooManyOctets,
}

impl ViolationKind {
    /// A fixed short name, and one sentence.
    #[must_use]
    pub fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::PlaintextBehindStls => ("plaintext-behind-stls", "it sent plain text where a TLS handshake had to follow STLS"),
            Self::PlaintextBehindStlsReply => (
                "plaintext-behind-stls-reply",
                "it sent plain text behind its reply to STLS, where a TLS handshake had to follow",
            ),
            Self::TlsOnPlainPort => ("tls-on-plain-port", "it started TLS on a plain port"),
            Self::HttpRequest => ("http-request", "it sent an HTTP request to a POP3 port"),
            Self::PlaintextOnTlsPort => ("plaintext-on-tls-port", "it spoke plain text on a port for TLS"),
            Self::UnreadableUnderRules => {
                ("unreadable-under-rules", "its replies could no longer be matched while rules were in force")
            }
            Self::ReplyLineTooLong => ("reply-line-too-long", "it sent a line that is too long to be judged as a whole"),
            Self::MalformedData => {
                ("malformed-data", "it sent a message with a bare CR, a bare LF or a NUL while rules were in force")
            }
            Self::TooManyOctets => ("too-many-octets", "more octets passed than may in one session"),
            Self::UnreadableBeforeTls => {
                ("unreadable-before-tls", "its replies could no longer be matched while logins had to wait for TLS")
            }
        }
    }
}
