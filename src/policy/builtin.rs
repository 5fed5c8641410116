//! The built-in handling: STLS, capabilities that are true for the client's hop, logins that have to wait for TLS, XCLIENT,
//! the APOP timestamp, peers that speak something else. It refuses nothing else.

use std::sync::Arc;

use super::mechanisms::Mechanisms;
use crate::{
    config::{ApopPolicy, StlsPolicy, TlsDemand, TlsMode, Upstream, XclientPolicy},
    pop3::{Capability, Command, Keyword, Ordinal, Peer, Stage, Wants, apop_timestamp},
    tap::{Action, Addition, Context, Edit, Filter, Hold, REMEMBERED, Replying, Rule, Verdict, Violation, ViolationKind},
};

/// What the built-in handling does in one session, or in the part of it before or after the client's STLS.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "switches that have nothing to do with each other")]
pub struct Settings {
    /// How the client's hop is protected.
    pub client: ClientHop,
    /// Whether the server's hop is inside TLS.
    pub upstream_tls: bool,
    /// On a plain hop: answer STLS with `-ERR` and leave it out of CAPA. Otherwise it is forwarded, unless the server's hop is
    /// inside TLS.
    pub refuse_stls: bool,
    /// Forward XCLIENT and XOIP whatever the greeting says.
    pub pass_xclient: bool,
    /// Remove the APOP timestamp from the greeting.
    pub strip_apop: bool,
    /// Leave out the greeting: the client has had one, from an earlier connection to the server.
    pub drop_greeting: bool,
}

/// How a listener is configured to protect its clients' hop.
#[derive(Clone, Copy, Debug)]
pub struct ListenerHop {
    /// How it is protected.
    pub tls: TlsMode,
    /// Whether clients must start TLS before they log in, where STLS is offered.
    pub demand: TlsDemand,
    /// What becomes of an STLS command where it is plain.
    pub stls: StlsPolicy,
}

impl Settings {
    /// What the client's hop asks for where there is no server yet.
    #[must_use]
    pub fn without_server(listener: ListenerHop, is_tls: bool) -> Self {
        Self { client: Self::hop(listener, is_tls), refuse_stls: true, ..Self::default() }
    }

    fn hop(listener: ListenerHop, is_tls: bool) -> ClientHop {
        match listener.tls {
            _ if is_tls => ClientHop::Tls,
            TlsMode::Stls => ClientHop::Stls { required: listener.demand == TlsDemand::Required },
            TlsMode::Plain | TlsMode::Implicit => ClientHop::Plain,
        }
    }

    /// What two hops ask for; `is_tls` says that the client's is inside TLS now.
    #[must_use]
    pub fn of_hops(listener: ListenerHop, upstream: &Upstream, is_tls: bool) -> Self {
        let client = Self::hop(listener, is_tls);
        // Its answer to the first connection's timestamp would not fit the second one's.
        let will_reconnect = matches!(client, ClientHop::Stls { .. }) && upstream.proxy_protocol.tells_tls();
        Self {
            client,
            upstream_tls: upstream.tls != TlsMode::Plain,
            refuse_stls: listener.stls == StlsPolicy::Refuse,
            pass_xclient: upstream.xclient == XclientPolicy::Pass,
            strip_apop: upstream.tls == TlsMode::Stls && upstream.apop == ApopPolicy::Strip || will_reconnect,
            drop_greeting: false,
        }
    }
}

/// How the client's hop is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientHop {
    /// Not at all.
    #[default]
    Plain,
    /// Not yet: STLS is offered.
    Stls {
        /// Whether logins have to wait for it.
        required: bool,
    },
    /// By TLS.
    Tls,
}

/// Names under which the built-in handling edits replies.
pub const BUILT_IN_EDITS: [&str; 5] = [LOGIN_NEEDS_TLS, "stls-capability", MECHANISMS, "second-greeting", "apop-strip"];

/// The filter that every session has.
#[derive(Debug)]
pub struct Builtin {
    settings: Settings,
    /// Whether the server believes XCLIENT, as its greeting says; until then, that it may.
    xclient_believed: bool,
    /// Whether the server has been sent anything that may be a login or a part of one. It keeps such a name across STLS.
    login_begun: bool,
    /// The CAPA in whose reply STLS stands already.
    stls_listed: Option<Ordinal>,
    mechanisms: Mechanisms,
}

type Refusal = (&'static [u8], &'static str);

impl Builtin {
    /// The handling of one session.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let beside_tls = settings.client != ClientHop::Plain;
        let mechanisms = Mechanisms {
            no_plus: beside_tls || settings.upstream_tls,
            no_external: beside_tls,
            no_bindable: settings.client == ClientHop::Tls && settings.upstream_tls,
            plus_offered: None,
        };
        Self { settings, xclient_believed: true, login_begun: false, stls_listed: None, mechanisms }
    }

    /// What is wrong with a client that speaks something else than POP3.
    pub(super) fn turns_away(command: &Command<'_>, context: Context) -> Option<Violation> {
        let kind = context.first.then(|| foreign(command)).flatten()?;
        Some(Violation { fault: Peer::Client, kind })
    }

    /// Whether the client may start TLS with us now.
    fn offers_stls(&self, stage: Stage) -> bool {
        matches!(self.settings.client, ClientHop::Stls { .. }) && !self.login_begun && stage == Stage::Authorization
    }

    /// Whether STLS is still to be listed in this reply.
    fn lacks_stls(&self, reply: Replying) -> bool {
        self.offers_stls(reply.stage) && self.stls_listed != Some(reply.n)
    }

    fn requires_tls(&self) -> bool {
        self.settings.client == ClientHop::Stls { required: true }
    }

    /// Whether every line has to be judged: as long as STLS is possible, or logins have to wait for it.
    fn watches_all(&self) -> bool {
        self.requires_tls() || matches!(self.settings.client, ClientHop::Stls { .. }) && !self.login_begun
    }

    fn passes_stls(&self) -> bool {
        self.settings.client == ClientHop::Plain && !self.settings.upstream_tls && !self.settings.refuse_stls
    }

    /// Whether listings of capabilities and mechanisms are edited at all.
    fn edits_listings(&self) -> bool {
        !self.passes_stls()
    }

    fn refuses(&self, keyword: Keyword) -> Option<Refusal> {
        match keyword {
            Keyword::Stls if !self.passes_stls() => Some((self.stls_refusal(), "stls-refuse")),
            Keyword::Xclient | Keyword::Xoip if self.xclient_believed && !self.settings.pass_xclient => {
                Some((XCLIENT_REFUSED, "xclient-refuse"))
            }
            _ => None,
        }
    }

    fn stls_refusal(&self) -> &'static [u8] {
        match self.settings.client {
            ClientHop::Plain => STLS_REFUSED,
            ClientHop::Stls { .. } => STLS_TOO_LATE,
            ClientHop::Tls => STLS_INSIDE_TLS,
        }
    }

    fn wants(&self, keyword: Keyword) -> bool {
        self.refuses(keyword).is_some() || matches!(keyword, Keyword::Capa | Keyword::Auth) && self.edits_listings()
    }

    fn stls(&self, command: &Command<'_>, stage: Stage) -> Verdict {
        if !self.offers_stls(stage) {
            return self.judge(command);
        }
        if command.has_argument() || is_irregular(command) {
            return answer((STLS_WITH_ARGUMENT, "stls-refuse"));
        }
        Verdict::StartTls { text: Arc::from(STLS_AGREED), rule: Rule::BuiltIn("stls-start") }
    }

    fn judge(&self, command: &Command<'_>) -> Verdict {
        match self.refuses(command.keyword) {
            Some(refusal) => answer(refusal),
            None if self.edits_reply_to(command) => Verdict::Forward(Wants::BODY),
            None => Verdict::Forward(Wants::default()),
        }
    }

    fn edits_reply_to(&self, command: &Command<'_>) -> bool {
        let lists = command.keyword == Keyword::Capa || command.keyword == Keyword::Auth && !command.has_argument();
        lists && self.edits_listings()
    }

    fn capability(&mut self, line: &[u8], reply: Replying) -> Edit {
        let capability = Capability::parse(line);
        if capability.is("STLS") {
            if self.lacks_stls(reply) {
                self.stls_listed = Some(reply.n);
                return Edit::Keep;
            }
            return Edit::Remove { rule: STLS_CAPABILITY };
        }
        if self.requires_tls() && (capability.is("USER") || capability.is("SASL")) {
            return Edit::Remove { rule: Rule::BuiltIn(LOGIN_NEEDS_TLS) };
        }
        if !capability.is("SASL") {
            return Edit::Keep;
        }
        match self.mechanisms.edit(line) {
            None => Edit::Keep,
            Some(text) if text.is_empty() => Edit::Remove { rule: Rule::BuiltIn(MECHANISMS) },
            Some(text) => Edit::Replace { text, rule: Rule::BuiltIn(MECHANISMS) },
        }
    }

    fn greeting_line(&self, line: &[u8]) -> Edit {
        if self.settings.drop_greeting {
            return Edit::Remove { rule: Rule::BuiltIn("second-greeting") };
        }
        without_timestamps(line).map_or(Edit::Keep, |text| Edit::Replace { text, rule: Rule::BuiltIn("apop-strip") })
    }
}

const STLS_AGREED: &[u8] = b"+OK begin TLS now\r\n";
const STLS_REFUSED: &[u8] = b"-ERR STLS is not available here\r\n";
const STLS_TOO_LATE: &[u8] = b"-ERR STLS has to come before any login\r\n";
const STLS_INSIDE_TLS: &[u8] = b"-ERR TLS is active already\r\n";
const STLS_WITH_ARGUMENT: &[u8] = b"-ERR STLS takes no argument\r\n";
const TLS_FIRST: &[u8] = b"-ERR [SYS/PERM] no login without encryption: turn on STLS (STARTTLS) in your client\r\n";
const XCLIENT_REFUSED: &[u8] = b"-ERR not available here\r\n";
const LOGIN_NEEDS_TLS: &str = "login-needs-tls";
const STLS_CAPABILITY: Rule = Rule::BuiltIn("stls-capability");
const MECHANISMS: &str = "sasl-mechanisms";
/// The keywords that [`Builtin::wants`] may name.
const KEYWORDS: [(Keyword, &[u8]); 5] = [
    (Keyword::Stls, b"STLS"),
    (Keyword::Capa, b"CAPA"),
    (Keyword::Auth, b"AUTH"),
    (Keyword::Xclient, b"XCLIENT"),
    (Keyword::Xoip, b"XOIP"),
];
/// The start of a TLS handshake record (RFC 8446 §5.1).
const CLIENT_HELLO: [u8; 2] = [0x16, 0x03];
/// The methods of HTTP (RFC 9110 §9.3, RFC 5789), and the word that HTTP/2 begins with (RFC 9113 §3.4).
const HTTP_METHODS: [&[u8]; 10] =
    [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH", b"PRI"];

impl Filter for Builtin {
    fn hold(&self, beginning: &[u8], first: bool) -> Hold {
        if first && beginning.first() == Some(&CLIENT_HELLO[0]) {
            match beginning.get(1) {
                None => return Hold::More,
                Some(&second) if second == CLIENT_HELLO[1] => return Hold::Decide,
                Some(_) => {}
            }
        }
        if self.watches_all() {
            return Hold::More;
        }
        let start = Start::of(beginning);
        let wanted = KEYWORDS.iter().any(|&(keyword, name)| self.wants(keyword) && start.may_be(name));
        let http = first && start.text.len() < REMEMBERED && HTTP_METHODS.into_iter().any(|name| start.may_be(name));
        if wanted || http { Hold::More } else { Hold::Stream }
    }

    fn command(&mut self, command: &Command<'_>, context: Context) -> Verdict {
        if let Some(violation) = Self::turns_away(command, context) {
            return Verdict::Close(violation);
        }
        if command.keyword == Keyword::Stls {
            return self.stls(command, context.stage);
        }
        if begins_login(command) {
            if self.requires_tls() {
                return answer((TLS_FIRST, LOGIN_NEEDS_TLS));
            }
            self.login_begun |= is_irregular(command) || !self.edits_reply_to(command);
        }
        self.judge(command)
    }

    fn greeting(&mut self, line: &[u8]) -> bool {
        self.xclient_believed = line.to_ascii_uppercase().windows(9).any(|window| window == b"[XCLIENT]");
        self.settings.drop_greeting || self.settings.strip_apop && apop_timestamp(line).is_some()
    }

    fn response_line(&mut self, reply: Replying, line: &[u8]) -> Edit {
        match reply.keyword {
            None => self.greeting_line(line),
            Some(Keyword::Capa) => self.capability(line, reply),
            Some(Keyword::Auth) if self.mechanisms.drops_line(line) => Edit::Remove { rule: Rule::BuiltIn(MECHANISMS) },
            Some(_) => Edit::Keep,
        }
    }

    fn last_line(&mut self, reply: Replying) -> Option<Addition> {
        if reply.keyword != Some(Keyword::Capa) || !self.lacks_stls(reply) {
            return None;
        }
        self.stls_listed = Some(reply.n);
        Some(Addition { text: Arc::from(&b"STLS\r\n"[..]), rule: STLS_CAPABILITY })
    }

    fn bears_opaque(&self) -> Result<(), ViolationKind> {
        if self.requires_tls() { Err(ViolationKind::UnreadableBeforeTls) } else { Ok(()) }
    }
}

/// Whether the keyword of a line that begins so may become one of `names`.
pub(super) fn may_become(beginning: &[u8], names: &[&[u8]]) -> bool {
    let start = Start::of(beginning);
    names.iter().any(|name| start.may_be(name))
}

/// The start of a line, as far as it has come.
struct Start<'a> {
    text: &'a [u8],
    word: &'a [u8],
    /// Whether the word can't become a longer one.
    complete: bool,
}

impl<'a> Start<'a> {
    fn of(beginning: &'a [u8]) -> Self {
        let text = beginning.strip_suffix(b"\n").unwrap_or(beginning);
        let word = Command::parse(text).word;
        let complete = text.len() < beginning.len() || text.trim_ascii_start().len() > word.len();
        Self { text, word, complete }
    }

    fn may_be(&self, name: &[u8]) -> bool {
        let word = self.word;
        let begins = word.len() <= name.len() && name[..word.len()].eq_ignore_ascii_case(word);
        begins && (word.len() == name.len() || !self.complete)
    }
}

fn answer((text, rule): Refusal) -> Verdict {
    Verdict::Answer { text: Arc::from(text), action: Action::Answer, rule: Rule::BuiltIn(rule) }
}

/// Whether a command is, or may be for some server, the beginning of a login. A bare AUTH asks for the mechanisms.
fn begins_login(command: &Command<'_>) -> bool {
    matches!(command.keyword, Keyword::User | Keyword::Pass | Keyword::Apop | Keyword::Auth | Keyword::Rpop)
        || is_irregular(command)
}

/// Whether servers differ on what the line says: they cut it or glue it at a NUL or bare CR, or take its tail for a command.
fn is_irregular(command: &Command<'_>) -> bool {
    let line = command.line.strip_suffix(b"\r").unwrap_or(command.line);
    line.len() >= REMEMBERED - 2 || memchr::memchr2(0, b'\r', line).is_some()
}

/// What a session's first line is, if it is not POP3.
fn foreign(command: &Command<'_>) -> Option<ViolationKind> {
    if command.word.starts_with(&CLIENT_HELLO) {
        return Some(ViolationKind::TlsOnPlainPort);
    }
    let method = HTTP_METHODS.iter().any(|method| command.word.eq_ignore_ascii_case(method));
    let version = command.arguments().last().is_some_and(|word| word.starts_with(b"HTTP/"));
    (method && version).then_some(ViolationKind::HttpRequest)
}

/// The greeting without anything that a client could take for a timestamp, and without the blank before it.
fn without_timestamps(line: &[u8]) -> Option<Arc<[u8]>> {
    let mut text = line.to_vec();
    while let Some(mut range) = apop_timestamp(&text) {
        if range.start > 0 && text[range.start - 1] == b' ' {
            range.start -= 1;
        }
        text.drain(range);
    }
    (text != line).then(|| Arc::from(text))
}

#[cfg(test)]
mod tests;
