//! Where users are routed: what the client is answered until its server is known.

use std::{net::IpAddr, net::SocketAddr, sync::Arc};

use zeroize::Zeroizing;

use super::{Facts, Rules, ruling::refuse};
use crate::{
    config::{Routed, Routing},
    pop3::{Command, Keyword, Plain, Wants},
    tap::{Action, Caps, Rule, SaslVerdict, Script, Verdict},
};

/// What a front starts with.
#[derive(Clone)]
pub(crate) struct FrontTerms {
    /// Who belongs where.
    pub(crate) routing: Arc<Routing>,
    /// All rules: those that hold for an upstream are known when a user is named.
    pub(crate) rules: Arc<Rules>,
    /// The client's address.
    pub(crate) client: IpAddr,
    /// The listener that it came to, as configured.
    pub(crate) listener: SocketAddr,
    /// Whether the client's hop is TLS.
    pub(crate) tls: bool,
    /// The name of the upstream of those who belong nowhere else; empty where there is none.
    pub(crate) fallback: String,
    /// Logins that were refused in this session so far.
    pub(crate) refused: usize,
}

/// Answers in place of a server that is not known yet.
pub(super) struct Front {
    terms: FrontTerms,
    /// Whom USER named, and what a server is to be told in its place.
    user: Option<(String, Vec<u8>)>,
    /// Where the login leads.
    routed: Option<Routed>,
}

impl Front {
    /// How long lines may be here: each is judged whole.
    pub(super) const CAPS: Caps = Caps { command: 4000, sasl: 4000 };

    pub(super) fn new(terms: FrontTerms) -> Self {
        Self { terms, user: None, routed: None }
    }

    /// Where the login that is due leads.
    pub(super) fn routed(&self) -> Option<&Routed> {
        self.routed.as_ref()
    }

    /// Logins that were refused before this one.
    pub(super) fn refused(&self) -> usize {
        self.terms.refused
    }

    /// The upstream that whom a line names belongs to, with the facts that rules ask for.
    pub(super) fn rules_for(&self, user: &str) -> (super::Applicable, Arc<str>) {
        let routed = self.terms.routing.of(user);
        let upstream: Arc<str> = routed.upstream.unwrap_or_else(|| self.terms.fallback.as_str().into());
        let FrontTerms { client, listener, tls, .. } = self.terms;
        (self.terms.rules.for_session(&Facts { client, listener, upstream: &upstream, tls }), upstream)
    }

    /// Whom a command names, where it names anybody.
    pub(super) fn named(command: &Command<'_>) -> Option<String> {
        match command.keyword {
            Keyword::User => user_name(command).map(str::to_owned),
            Keyword::Auth => Plain::read(command.arguments().nth(1)?).map(|plain| plain.user().to_owned()),
            _ => None,
        }
    }

    /// The lines of CAPA, besides what is added to them.
    pub(super) fn capabilities(&self) -> Vec<String> {
        self.terms.routing.capabilities.iter().map(|line| format!("{line}\r\n")).collect()
    }

    /// What becomes of a command that nobody has refused. CAPA is answered elsewhere.
    pub(super) fn answer(&mut self, command: &Command<'_>, wants: Wants) -> Verdict {
        match command.keyword {
            Keyword::Quit if !command.has_argument() => Verdict::Dismiss { text: Arc::from(BYE), rule: Rule::BuiltIn("quit") },
            Keyword::User => self.user(command),
            Keyword::Pass => self.pass(command, wants),
            Keyword::Auth if !command.has_argument() => self.mechanisms(),
            Keyword::Auth => self.auth(command, wants),
            Keyword::Apop => refuse(NO_APOP, ROUTING),
            _ => refuse(LOG_IN, ROUTING),
        }
    }

    fn user(&mut self, command: &Command<'_>) -> Verdict {
        let Some(name) = user_name(command) else { return refuse(NO_NAME, ROUTING) };
        self.user = Some((name.to_owned(), command.line.to_vec()));
        local(NAMED)
    }

    fn pass(&mut self, command: &Command<'_>, wants: Wants) -> Verdict {
        let Some((name, line)) = self.user.take() else { return refuse(USER_FIRST, ROUTING) };
        if self.terms.refused >= MOST_LOGINS {
            return too_many();
        }
        let routed = self.terms.routing.of(&name);
        let first = routed.name.as_ref().map_or(line, |name| [b"USER ", name.as_bytes()].concat());
        if !routed.name.as_deref().is_none_or(is_name) {
            return refuse(NOWHERE, ROUTING);
        }
        self.routed = Some(routed);
        let script = Script { first: Some(with_end(&first)), last: with_end(command.line) };
        Verdict::Login { script: Some(script), wants }
    }

    fn mechanisms(&self) -> Verdict {
        let has_plain = self.terms.routing.capabilities.iter().any(|line| line.eq_ignore_ascii_case("SASL PLAIN"));
        if has_plain { local(b"+OK\r\nPLAIN\r\n.\r\n") } else { refuse(LOG_IN, ROUTING) }
    }

    fn auth(&mut self, command: &Command<'_>, wants: Wants) -> Verdict {
        let mut arguments = command.arguments();
        let is_plain = arguments.next().is_some_and(|mechanism| mechanism.eq_ignore_ascii_case(b"PLAIN"));
        if !is_plain {
            return refuse(NOT_PLAIN, ROUTING);
        }
        if self.terms.refused >= MOST_LOGINS {
            return too_many();
        }
        if command.line.len() >= Self::CAPS.command {
            return Verdict::Dismiss { text: Arc::from(TOO_LONG), rule: Rule::BuiltIn(crate::tap::LINE_TOO_LONG) };
        }
        let Some(response) = arguments.next() else { return Verdict::Login { script: None, wants } };
        match self.exchange(response) {
            Some(response) => {
                let line = Zeroizing::new([b"AUTH PLAIN ", &response[..]].concat());
                Verdict::Login { script: Some(Script { first: None, last: with_end(&line) }), wants }
            }
            None => refuse(MALFORMED, ROUTING),
        }
    }

    /// A SASL response that nobody has refused, without its line end.
    pub(super) fn response(&mut self, line: &[u8], whole: bool) -> SaslVerdict {
        let refuse = |text: &'static [u8]| SaslVerdict::Refuse { text: Arc::from(text), rule: Rule::BuiltIn(ROUTING) };
        if !whole {
            return SaslVerdict::Dismiss { text: Arc::from(TOO_LONG), rule: Rule::BuiltIn(crate::tap::LINE_TOO_LONG) };
        }
        if line == b"*" {
            return refuse(CANCELLED);
        }
        match self.exchange(line) {
            Some(response) => {
                let script = Script { first: Some(with_end(b"AUTH PLAIN")), last: with_end(&response) };
                SaslVerdict::Login { script }
            }
            None => refuse(MALFORMED),
        }
    }

    /// What the server is told in place of a message of SASL PLAIN.
    fn exchange(&mut self, response: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let plain = Plain::read(response)?;
        let routed = self.terms.routing.of(plain.user());
        let line = match &routed.name {
            Some(name) if !is_name(name) => return None,
            Some(name) => plain.rewritten(name),
            None => Zeroizing::new(response.to_vec()),
        };
        self.routed = Some(routed);
        Some(line)
    }
}

/// After so many logins that were refused, a session has no other.
const MOST_LOGINS: usize = 5;
/// What is recorded where poptap answers in place of a server that is not known yet.
const ROUTING: &str = "routing";
const BYE: &[u8] = b"+OK bye\r\n";
const NAMED: &[u8] = b"+OK send PASS\r\n";
const LOG_IN: &[u8] = b"-ERR log in first\r\n";
const NO_NAME: &[u8] = b"-ERR USER takes a name\r\n";
const USER_FIRST: &[u8] = b"-ERR USER comes first\r\n";
const NO_APOP: &[u8] = b"-ERR APOP is not available here\r\n";
const NOT_PLAIN: &[u8] = b"-ERR only PLAIN is available here\r\n";
const NOWHERE: &[u8] = b"-ERR [AUTH] login refused\r\n";
const MALFORMED: &[u8] = b"-ERR [AUTH] the response is malformed\r\n";
const CANCELLED: &[u8] = b"-ERR authentication cancelled\r\n";
const TOO_LONG: &[u8] = b"-ERR the line is too long\r\n";
const TOO_MANY: &[u8] = b"-ERR [AUTH] too many logins were refused\r\n";

pub(super) fn local(text: &[u8]) -> Verdict {
    Verdict::Answer { text: Arc::from(text), action: Action::Answer, rule: Rule::BuiltIn(ROUTING) }
}

fn too_many() -> Verdict {
    Verdict::Dismiss { text: Arc::from(TOO_MANY), rule: Rule::BuiltIn("too-many-logins") }
}

fn user_name<'a>(command: &Command<'a>) -> Option<&'a str> {
    std::str::from_utf8(command.rest.trim_ascii()).ok().filter(|name| is_name(name))
}

/// Whether a server can be told this name on a line.
fn is_name(name: &str) -> bool {
    !name.trim().is_empty() && name.len() <= 255 && !name.contains(char::is_control)
}

fn with_end(line: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new([line, b"\r\n"].concat())
}
