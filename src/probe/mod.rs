//! `poptap probe`: one look at a mail server. What it is found to be, in words or as JSON.
//!
//! Everything goes through the [`Connector`] that sessions use, so that what is found is what they will find. There is no
//! second, laxer way to connect: of a server whose certificate was refused, it is the refusal that tells what it presented.

mod dialogue;
mod findings;
pub mod password;
mod words;

use std::{io, net::IpAddr};

use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::{
    config::{Timeouts, TlsMode, Upstream, XclientPolicy},
    escape::{escape, escape_line},
    net::{ConnectError, Connected, Connector, Network as _, Origin, System, TlsConfigError},
    pop3::apop_timestamp,
    tls::Presented,
};

use dialogue::{Answer, Broken, Dialogue};
pub use findings::{Findings, Link, LoggedIn, Problem, Seen};

/// Who logs in.
pub struct Login {
    /// The user, without control characters.
    pub user: String,
    /// The password, without line ends and NULs; wiped from memory behind its use.
    pub password: Zeroizing<Vec<u8>>,
    /// Whether it may cross a network without encryption.
    pub allow_plain: bool,
}

/// Looks at a server: connects, starts TLS where it is asked for, reads the greeting and the capabilities, logs in where it
/// is asked to, and leaves. Each step has its usual time limit.
///
/// # Errors
///
/// When TLS cannot even be prepared. What is wrong with the server is in [`Findings::error`].
pub async fn probe(upstream: &Upstream, timeouts: &Timeouts, login: Option<&Login>) -> Result<Findings, TlsConfigError> {
    let connector = Connector::new(upstream, timeouts, None)?;
    let mut findings = Findings::of(upstream);
    findings.addresses = addresses(upstream, timeouts).await;
    let looked = Look { upstream, timeouts, connector: &connector, findings: &mut findings }.look(login).await;
    if let Err(problem) = looked {
        findings.error = Some(problem);
    }
    // The server stood: it was not the name or the port that failed.
    if upstream.tls == TlsMode::Stls && findings.error.as_ref().is_none_or(|error| !error.is_unreachable()) {
        look_before_tls(upstream, timeouts, &mut findings).await;
    }
    findings.ok = findings.error.is_none();
    findings.warn(upstream);
    Ok(findings)
}

/// Whether a login there would cross a network in clear text, as far as the name tells.
#[must_use]
pub fn is_plain_off_loopback(upstream: &Upstream) -> bool {
    use std::net::ToSocketAddrs as _;
    // A name that cannot be resolved is reported by whoever connects to it.
    let addresses = (upstream.host.as_str(), upstream.port).to_socket_addrs();
    upstream.tls == TlsMode::Plain && addresses.is_ok_and(|mut addresses| addresses.any(|address| !is_loopback(address.ip())))
}

/// Nothing when the lookup fails: the connection then says why.
async fn addresses(upstream: &Upstream, timeouts: &Timeouts) -> Vec<String> {
    if upstream.socket.is_some() || upstream.host.parse::<IpAddr>().is_ok() {
        return Vec::new();
    }
    let found = tokio::time::timeout(timeouts.connect, System::default().resolve(&upstream.host, upstream.port)).await;
    let mut shown: Vec<String> = Vec::new();
    for address in found.ok().and_then(io::Result::ok).unwrap_or_default() {
        let address = address.to_string();
        if !shown.contains(&address) {
            shown.push(address);
        }
    }
    shown
}

/// One look, and where its findings go.
struct Look<'a> {
    upstream: &'a Upstream,
    timeouts: &'a Timeouts,
    connector: &'a Connector,
    findings: &'a mut Findings,
}

impl Look<'_> {
    async fn look(mut self, login: Option<&Login>) -> Result<(), Problem> {
        let mut connected = self.connect().await?;
        let greeting = self.connector.greet(&mut connected).await.map_err(|error| Problem::of(&error))?;
        self.greeted(&greeting);
        let is_local = connected.address.is_local();
        let mut dialogue = Dialogue::new(connected.stream, self.timeouts.reply);
        let capabilities = dialogue.capabilities().await.map_err(|broken| broken_at("CAPA", &broken))?;
        if self.upstream.tls == TlsMode::Plain {
            self.findings.capabilities_plain.clone_from(&capabilities);
        } else {
            self.findings.capabilities_tls.clone_from(&capabilities);
        }
        self.findings.mechanisms = Some(mechanisms(capabilities.as_deref().unwrap_or_default()));
        let logged_in = match login {
            Some(login) => self.log_in(login, is_local, &mut dialogue).await,
            None => Ok(()),
        };
        dialogue.quit().await;
        logged_in
    }

    async fn connect(&mut self) -> Result<Connected, Problem> {
        match self.connector.connect(&Origin::own()).await {
            Ok(connected) => {
                self.findings.link = Some(Link::of(&connected));
                self.findings.present(self.connector.presented(&connected).as_ref(), OffsetDateTime::now_utc());
                Ok(connected)
            }
            Err(error) => {
                let presented = match &error {
                    ConnectError::Tls { cause, .. } => cause.presented(),
                    _ => None,
                };
                self.findings.present(presented, OffsetDateTime::now_utc());
                Err(Problem::of(&error))
            }
        }
    }

    fn greeted(&mut self, greeting: &[u8]) {
        self.findings.greeting = Some(escape_line(greeting));
        self.findings.apop = apop_timestamp(greeting).is_some();
        let mark = b"[XCLIENT]";
        self.findings.xclient = greeting.windows(mark.len()).any(|octets| octets.eq_ignore_ascii_case(mark));
    }

    /// USER, PASS and STAT (RFC 1939 §7).
    async fn log_in<S>(&mut self, login: &Login, is_local: bool, dialogue: &mut Dialogue<S>) -> Result<(), Problem>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        if self.upstream.tls == TlsMode::Plain && !is_local && !login.allow_plain {
            return Err(Problem::plain_login());
        }
        for (keyword, argument) in [("USER", login.user.as_bytes()), ("PASS", &login.password)] {
            let answer = dialogue.ask(keyword, argument).await.map_err(|broken| broken_at(keyword, &broken))?;
            if let Answer::Err(line) = answer {
                return Err(Problem::login_refused(&login.user, &without(&line, &login.password)));
            }
        }
        let answer = dialogue.ask("STAT", b"").await.map_err(|broken| broken_at("STAT", &broken))?;
        let (messages, octets) = match &answer {
            Answer::Ok(line) => mailbox(line),
            Answer::Err(_) => None,
        }
        .ok_or_else(|| Problem::of_dialogue("STAT", &format!("it answered `{}`", without(answer.line(), &login.password))))?;
        self.findings.login = Some(LoggedIn { user: escape(login.user.as_bytes()), messages, octets });
        Ok(())
    }
}

/// On a connection of its own, which ends before TLS. What it hears, anybody on the way may have written.
async fn look_before_tls(upstream: &Upstream, timeouts: &Timeouts, findings: &mut Findings) {
    let plain = Upstream { tls: TlsMode::Plain, ..upstream.clone() };
    let look = async {
        let connector = Connector::new(&plain, timeouts, None).ok()?;
        let mut connected = connector.connect(&Origin::own()).await.ok()?;
        let greeting = connector.greet(&mut connected).await.ok()?;
        findings.greeting.get_or_insert_with(|| escape_line(&greeting));
        let mut dialogue = Dialogue::new(connected.stream, timeouts.reply);
        let capabilities = dialogue.capabilities().await.ok()?;
        dialogue.quit().await;
        capabilities
    };
    findings.capabilities_plain = look.await;
}

/// What STAT tells: messages and octets.
fn mailbox(line: &[u8]) -> Option<(u64, u64)> {
    let text = std::str::from_utf8(line).ok()?;
    let mut words = text.split_ascii_whitespace().skip(1).map(str::parse);
    Some((words.next()?.ok()?, words.next()?.ok()?))
}

/// The mechanisms of SASL (RFC 5034 §3), and `USER`, which is none but logs in as well.
fn mechanisms(capabilities: &[String]) -> Vec<String> {
    let words = |line: &str| line.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let lines = capabilities.iter().map(|line| words(line));
    lines
        .filter(|words| words.first().is_some_and(|tag| tag.eq_ignore_ascii_case("SASL")))
        .flat_map(|words| words.into_iter().skip(1))
        .collect()
}

/// A line of the server's, escaped; withheld when it repeats the password.
fn without(line: &[u8], password: &[u8]) -> String {
    if !password.is_empty() && memchr::memmem::find(line, password).is_some() {
        return "(withheld: it repeats the password)".to_owned();
    }
    escape_line(line)
}

fn broken_at(keyword: &str, broken: &Broken) -> Problem {
    Problem::of_dialogue(keyword, &broken.to_string())
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_that_repeats_the_password_is_withheld() {
        assert_eq!(without(b"-ERR no \x1b\r\n", b"secret"), "-ERR no \\x1b");
        assert_eq!(without(b"-ERR `PASS secret`?\r\n", b"secret"), "(withheld: it repeats the password)");
    }

    #[test]
    fn what_stat_tells() {
        for (line, expected) in [
            (&b"+OK 2 320\r\n"[..], Some((2, 320))),
            (b"+OK 0 0 and a word\r\n", Some((0, 0))),
            (b"+OK\r\n", None),
            (b"+OK two 320\r\n", None),
            (b"+OK 2 \xff\r\n", None),
        ] {
            assert_eq!(mailbox(line), expected);
        }
    }

    #[test]
    fn mechanisms_are_gathered() {
        let lines = ["TOP", "sasl PLAIN LOGIN", "SASLX no", "SASL"].map(str::to_owned);
        assert_eq!(mechanisms(&lines), ["PLAIN", "LOGIN"]);
    }
}
