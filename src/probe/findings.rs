//! What was found; as JSON, one object with the keys of these fields.

use serde::Serialize;
use time::OffsetDateTime;

use super::{ConnectError, Connected, Presented, Upstream, XclientPolicy, escape};
use crate::{
    config::TlsMode,
    record::schema,
    tls::{Certificate, rfc3339},
};

/// What was found of a server. All text of the server's is escaped. `docs/probe.md` describes the keys.
#[derive(Clone, Debug, Serialize)]
pub struct Findings {
    /// Whether nothing failed.
    pub ok: bool,
    /// The server.
    pub url: String,
    /// The addresses that its name resolves to; none for an address literal.
    pub addresses: Vec<String>,
    /// The connection that was made.
    #[serde(flatten)]
    pub link: Option<Link>,
    /// The name that its certificate has to have; absent without TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Whether it has that name; absent when no certificate was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_matches: Option<bool>,
    /// The certificates as presented, the server's own first.
    pub chain: Vec<Seen>,
    /// The greeting. With STLS, anybody on the way may have written it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub greeting: Option<String>,
    /// Whether there is an APOP timestamp in it.
    pub apop: bool,
    /// Whether the greeting says that the server would believe XCLIENT from this host.
    pub xclient: bool,
    /// CAPA's lines without TLS; absent when not seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities_plain: Option<Vec<String>>,
    /// CAPA's lines inside TLS; absent when not seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities_tls: Option<Vec<String>>,
    /// SASL mechanisms where a client would log in; absent when CAPA was not answered there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mechanisms: Option<Vec<String>>,
    /// What the login led to; absent when there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<LoggedIn>,
    /// What works, and deserves a second thought.
    pub warnings: Vec<String>,
    /// What failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
}

/// A connection that stands.
#[derive(Clone, Debug, Serialize)]
pub struct Link {
    /// The address that answered.
    pub address: String,
    #[serde(skip)]
    pub(super) is_loopback: bool,
    /// Milliseconds until TCP stood, name lookup included.
    pub connect_ms: u64,
    /// Milliseconds for TLS; with STLS, for the greeting before it, too. Absent without TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ms: Option<u64>,
    /// TLS as a transcript has it; absent without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<schema::Tls>,
}

/// A certificate as presented.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    /// Whose it is.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// When it begins, in RFC 3339.
    pub not_before: String,
    /// When it ends, in RFC 3339.
    pub not_after: String,
    /// Whole days until then, rounded down; negative afterwards.
    pub days_left: i64,
    /// DNS names and addresses.
    pub names: Vec<String>,
    /// Whether subject and issuer are the same.
    pub self_signed: bool,
    /// SHA-256, in hexadecimal.
    pub fingerprint: String,
    /// The public key's SHA-256, in hexadecimal.
    pub key_fingerprint: String,
}

/// A login that succeeded.
#[derive(Clone, Debug, Serialize)]
pub struct LoggedIn {
    /// Who.
    pub user: String,
    /// Messages in the mailbox.
    pub messages: u64,
    /// Their octets.
    pub octets: u64,
}

/// What failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// A fixed short name.
    pub code: String,
    /// One sentence.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Certificates that end sooner than this many days are warned of.
const SOON: i64 = 14;

impl Findings {
    pub(super) fn of(upstream: &Upstream) -> Self {
        let name = upstream.server_name.as_ref().unwrap_or(&upstream.host);
        Self {
            ok: false,
            url: upstream.url().to_string(),
            addresses: Vec::new(),
            link: None,
            server_name: (upstream.tls != TlsMode::Plain).then(|| escape(name.as_bytes())),
            name_matches: None,
            chain: Vec::new(),
            greeting: None,
            apop: false,
            xclient: false,
            capabilities_plain: None,
            capabilities_tls: None,
            mechanisms: None,
            login: None,
            warnings: Vec::new(),
            error: None,
        }
    }

    pub(super) fn present(&mut self, presented: Option<&Presented>, now: OffsetDateTime) {
        let Some(presented) = presented.filter(|presented| !presented.chain.is_empty()) else { return };
        self.name_matches = Some(presented.is_for_host);
        self.chain = presented.chain.iter().map(|certificate| Seen::of(certificate, now)).collect();
    }

    /// Adds a warning for each thing that works and deserves a second thought.
    pub(super) fn warn(&mut self, upstream: &Upstream) {
        let mut warnings = Vec::new();
        let ends_soon = |seen: &&Seen| (0..=SOON).contains(&seen.days_left);
        warnings.extend(self.chain.iter().filter(ends_soon).map(|seen| {
            format!("the certificate of `{}` expires on {}: {} days left", seen.subject, seen.not_after, seen.days_left)
        }));
        if self.name_matches == Some(false) && self.error.is_none() {
            warnings.push("the certificate is not for this server's name, and is accepted nevertheless".to_owned());
        }
        let plain = self.capabilities_plain.as_deref();
        match upstream.tls {
            TlsMode::Plain if plain.is_some_and(|lines| announce(lines, "STLS")) => {
                warnings.push("nothing is encrypted, and the server offers STLS: use `pop3+stls://`".to_owned());
            }
            TlsMode::Plain if upstream.socket.is_some() || self.link.as_ref().is_some_and(|link| link.is_loopback) => {}
            TlsMode::Plain => warnings.push("nothing is encrypted: whoever is on the way reads passwords and mail".to_owned()),
            TlsMode::Stls => warnings.extend(plain.map_or_else(
                || Some("the server does not tell its capabilities before TLS".to_owned()),
                |lines| before_tls(lines).map(str::to_owned),
            )),
            TlsMode::Implicit => {}
        }
        if self.apop {
            let words = "the greeting offers APOP, which is weak: whoever sees a login can try passwords on it (RFC 1939 §7)";
            warnings.push(words.to_owned());
        }
        if self.xclient {
            let then = if upstream.xclient == XclientPolicy::Refuse { "refuses it to clients" } else { "passes it on" };
            warnings.push(format!("the server would believe XCLIENT from this host; poptap {then}"));
        }
        self.warnings.extend(warnings);
    }
}

/// What clients that do without TLS could do, or what keeps them from STLS.
fn before_tls(lines: &[String]) -> Option<&'static str> {
    let sasl = |line: &String| line.split_ascii_whitespace().skip(1).any(|word| word == "PLAIN" || word == "LOGIN");
    if announce(lines, "USER") || lines.iter().filter(|line| is_tag(line, "SASL")).any(sasl) {
        return Some("the server takes plain logins before TLS: a client that does without STLS shows its password");
    }
    (!announce(lines, "STLS")).then_some("the server does not announce STLS")
}

fn announce(lines: &[String], tag: &str) -> bool {
    lines.iter().any(|line| is_tag(line, tag))
}

fn is_tag(line: &str, tag: &str) -> bool {
    line.split_ascii_whitespace().next().is_some_and(|word| word.eq_ignore_ascii_case(tag))
}

impl Link {
    pub(super) fn of(connected: &Connected) -> Self {
        let milliseconds = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            address: connected.address.to_string(),
            is_loopback: connected.address.is_local(),
            connect_ms: milliseconds(connected.dialling),
            tls_ms: connected.tls.as_ref().map(|_| milliseconds(connected.securing)),
            tls: connected.tls.clone(),
        }
    }
}

impl Seen {
    fn of(certificate: &Certificate, now: OffsetDateTime) -> Self {
        Self {
            subject: certificate.subject.clone(),
            issuer: certificate.issuer.clone(),
            not_before: rfc3339(certificate.not_before),
            not_after: rfc3339(certificate.not_after),
            days_left: (certificate.not_after - now).whole_seconds().div_euclid(24 * 60 * 60),
            names: certificate.names.clone(),
            self_signed: certificate.self_signed,
            fingerprint: certificate.fingerprint.clone(),
            key_fingerprint: certificate.key_fingerprint.clone(),
        }
    }
}

impl Problem {
    const LOGIN_REFUSED: &str = "login-refused";
    const PLAIN_LOGIN: &str = "plain-login";
    const UNREACHABLE: &str = "unreachable";

    pub(super) fn of(error: &ConnectError) -> Self {
        let code = match error {
            ConnectError::Dial { .. } => Self::UNREACHABLE,
            error => error.reason(),
        };
        Self { code: code.to_owned(), message: error.to_string(), hint: error.hint().map(std::borrow::Cow::into_owned) }
    }

    pub(super) fn of_dialogue(keyword: &str, why: &str) -> Self {
        let hint = "see whether a POP3 server answers at that port, and what its log says".to_owned();
        Self { code: "dialogue".to_owned(), message: format!("{keyword} failed: {why}"), hint: Some(hint) }
    }

    pub(super) fn login_refused(user: &str, reply: &str) -> Self {
        let message = format!("cannot log in as `{}`: the server answered `{reply}`", escape(user.as_bytes()));
        Self { code: Self::LOGIN_REFUSED.to_owned(), message, hint: Some("see whether user and password are right".to_owned()) }
    }

    /// A login that was not tried.
    #[must_use]
    pub fn plain_login() -> Self {
        let hint = "use `pop3s://` or `pop3+stls://`, or accept that with `--allow-plain-login`".to_owned();
        let message = "the login would cross the network without encryption, and was not tried".to_owned();
        Self { code: Self::PLAIN_LOGIN.to_owned(), message, hint: Some(hint) }
    }

    /// Whether the server said no to the login.
    #[must_use]
    pub fn is_login_refused(&self) -> bool {
        self.code == Self::LOGIN_REFUSED
    }

    /// Whether the login was not even tried.
    #[must_use]
    pub fn is_plain_login(&self) -> bool {
        self.code == Self::PLAIN_LOGIN
    }

    /// Whether there was no connection at all.
    pub(super) fn is_unreachable(&self) -> bool {
        self.code == Self::UNREACHABLE
    }
}
