//! What an expression can ask about.

/// A field of a session, or of a command and its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "FIELDS says what each is")]
pub enum Field {
    Session,
    Start,
    Lasted,
    Client,
    Listener,
    Destination,
    Upstream,
    User,
    LoggedIn,
    Mechanism,
    Refused,
    TlsClient,
    TlsUpstream,
    Commands,
    Errors,
    Messages,
    MessageOctets,
    Deleted,
    Octets,
    OctetsClient,
    OctetsUpstream,
    Anomaly,
    Opaque,
    Rule,
    RuleDry,
    Lost,
    Revealed,
    Running,
    Failed,
    By,
    Reason,
    Verdict,
    Verb,
    Line,
    Status,
    Reply,
    Latency,
    Size,
    N,
}

/// What kind of value a field has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text: `=` compares it whole, `~` looks for a pattern, neither minds case.
    Text,
    /// The same; there may be several, or none.
    Names,
    /// A number.
    Number,
    /// A number of octets, such as `10MiB`.
    Octets,
    /// A length of time, such as `5s`.
    Duration,
    /// A point in time, such as `2026-11-23` or `2026-11-23T06:30`, UTC.
    Time,
    /// An address: `=` takes a network such as 192.0.2.0/24 as well.
    Address,
    /// There or not: takes no value.
    Flag,
}

/// What a field belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The session.
    Session,
    /// One command and its reply.
    Exchange,
}

/// All there is to know of a field.
#[derive(Clone, Copy, Debug)]
pub struct FieldInfo {
    /// Which.
    pub field: Field,
    /// Its name in expressions.
    pub name: &'static str,
    /// What kind of value it has.
    pub kind: Kind,
    /// What it belongs to.
    pub scope: Scope,
    /// One sentence.
    pub about: &'static str,
}

impl Field {
    /// All there is to know of it.
    #[must_use]
    pub fn info(self) -> &'static FieldInfo {
        // The table is in the order of the variants; a test says so.
        &FIELDS[self as usize]
    }
}

const fn of_session(field: Field, name: &'static str, kind: Kind, about: &'static str) -> FieldInfo {
    FieldInfo { field, name, kind, scope: Scope::Session, about }
}

const fn of_exchange(field: Field, name: &'static str, kind: Kind, about: &'static str) -> FieldInfo {
    FieldInfo { field, name, kind, scope: Scope::Exchange, about }
}

/// All fields, in the order of [`Field`].
pub const FIELDS: [FieldInfo; 39] = [
    of_session(Field::Session, "session", Kind::Text, "its id"),
    of_session(Field::Start, "start", Kind::Time, "when it was opened, UTC"),
    of_session(Field::Lasted, "lasted", Kind::Duration, "how long it lasted"),
    of_session(Field::Client, "client", Kind::Address, "the client's address; `~` looks at address and port"),
    of_session(Field::Listener, "listener", Kind::Address, "the address that the client came to"),
    of_session(Field::Destination, "destination", Kind::Address, "the address that it wanted to reach, where it was led here"),
    of_session(Field::Upstream, "upstream", Kind::Text, "the server's name or URL"),
    of_session(Field::User, "user", Kind::Text, "the user that a login named"),
    of_session(Field::LoggedIn, "logged-in", Kind::Flag, "a login succeeded"),
    of_session(Field::Mechanism, "mechanism", Kind::Text, "how a login was tried last: `USER`, `APOP`, or a SASL mechanism"),
    of_session(Field::Refused, "refused", Kind::Number, "logins that the server refused"),
    of_session(Field::TlsClient, "tls.client", Kind::Text, "the TLS version on the client's hop; `none` where it is plain"),
    of_session(Field::TlsUpstream, "tls.upstream", Kind::Text, "the TLS version on the server's hop; `none` where it is plain"),
    of_session(Field::Commands, "commands", Kind::Number, "command lines"),
    of_session(Field::Errors, "errors", Kind::Number, "`-ERR` replies"),
    of_session(Field::Messages, "messages", Kind::Number, "messages that were retrieved whole"),
    of_session(Field::MessageOctets, "octets.messages", Kind::Octets, "their octets"),
    of_session(Field::Deleted, "deleted", Kind::Number, "messages marked as deleted"),
    of_session(Field::Octets, "octets", Kind::Octets, "octets of both sides"),
    of_session(Field::OctetsClient, "octets.client", Kind::Octets, "octets of the client's"),
    of_session(Field::OctetsUpstream, "octets.upstream", Kind::Octets, "octets of the server's"),
    of_session(Field::Anomaly, "anomaly", Kind::Names, "ids of what was odd or unsafe"),
    of_session(Field::Opaque, "opaque", Kind::Text, "why the session could no longer be read"),
    of_session(Field::Rule, "rule", Kind::Names, "rules that decided something"),
    of_session(Field::RuleDry, "rule.dry", Kind::Names, "rules that would have, in a dry run"),
    of_session(Field::Lost, "lost", Kind::Number, "events that were not recorded"),
    of_session(Field::Revealed, "revealed", Kind::Flag, "its events hold passwords"),
    of_session(Field::Running, "running", Kind::Flag, "it has no summary: it is running, or its end was lost"),
    of_session(Field::Failed, "failed", Kind::Flag, "nobody logged in, or it ended otherwise than by `QUIT`"),
    of_session(Field::By, "by", Kind::Text, "who ended it: `client`, `upstream`, `poptap`"),
    of_session(Field::Reason, "reason", Kind::Text, "why it ended, such as `quit` or `timeout-idle`"),
    of_session(Field::Verdict, "verdict", Kind::Text, "how it ended, in words"),
    of_exchange(Field::Verb, "verb", Kind::Text, "the command's keyword; `?` where it is unknown"),
    of_exchange(Field::Line, "line", Kind::Text, "the command line as it is recorded"),
    of_exchange(Field::Status, "status", Kind::Text, "the reply's status: `+OK` or `-ERR`"),
    of_exchange(Field::Reply, "reply", Kind::Text, "the reply's first line as it is recorded"),
    of_exchange(Field::Latency, "latency", Kind::Duration, "from the command to the reply's first line"),
    of_exchange(Field::Size, "size", Kind::Octets, "the body of the reply; for RETR, the message"),
    of_exchange(Field::N, "n", Kind::Number, "the command's number in its session"),
];
