//! Why there is no connection to the server: for the log, the transcript and the client.

use std::{borrow::Cow, fmt::Write as _, io, time::Duration};

use humantime::format_duration;

use super::{DialError, StlsFault};
use crate::tls::{HandshakeError, hint_behind_handshake};

/// No usable connection to a server. `server` is its `host:port`.
///
/// No secret is in it: nothing but `STLS` and `QUIT` is ever sent before a connection stands. What the server said is escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// There is no upstream.
    #[error("there is no server to connect to")]
    Nowhere,
    /// Resolving and TCP.
    #[error("cannot connect to `{server}`: {cause}")]
    Dial {
        /// The server.
        server: String,
        /// Why.
        cause: DialError,
    },
    /// The PROXY protocol's header.
    #[error("cannot tell `{server}` of the client: {cause}")]
    Announce {
        /// The server.
        server: String,
        /// Why.
        cause: io::Error,
    },
    /// The TLS handshake.
    #[error("cannot start TLS with `{server}`: {cause}")]
    Tls {
        /// The server.
        server: String,
        /// Why.
        cause: HandshakeError,
    },
    /// TLS did not stand in time.
    #[error("cannot start TLS with `{server}`: it did not finish {} within {}", what(*stls), format_duration(*limit))]
    HandshakeTimeout {
        /// The server.
        server: String,
        /// The time limit.
        limit: Duration,
        /// Whether STLS is part of it.
        stls: bool,
    },
    /// The plain-text part of STLS.
    #[error("cannot start TLS with `{server}` by STLS: {cause}")]
    Stls {
        /// The server.
        server: String,
        /// Why.
        cause: StlsFault,
    },
    /// `-ERR` in place of a greeting.
    #[error("cannot open a session with `{server}`: it answered `{text}`")]
    Refused {
        /// The server.
        server: String,
        /// Its greeting, escaped.
        text: String,
    },
    /// No greeting that could be one. Nobody says so who relays whatever comes; STLS has its own words.
    #[error("cannot read the greeting of `{server}`: {cause}")]
    Greeting {
        /// The server.
        server: String,
        /// Why.
        cause: StlsFault,
    },
    /// No greeting in time.
    #[error("cannot read the greeting of `{server}`: it said nothing within {}", format_duration(*limit))]
    GreetingTimeout {
        /// The server.
        server: String,
        /// The time limit.
        limit: Duration,
        /// What to do, which depends on the URL.
        hint: String,
    },
    /// It closed the connection before it said anything.
    #[error("cannot read the greeting of `{server}`: it closed the connection before it said anything")]
    Left {
        /// The server.
        server: String,
        /// What to do, which depends on the URL.
        hint: String,
    },
}

impl ConnectError {
    /// A fixed short name, for the transcript's `closed`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Dial { cause: DialError::TimedOut { .. } | DialError::LookupTimedOut { .. }, .. } => "timeout-connect",
            Self::Dial { cause: DialError::Failed { attempts }, .. } => {
                unconnected(|kind| attempts.iter().all(|attempt| attempt.kind == Some(kind)))
            }
            Self::Dial { cause: DialError::Socket { kind, .. }, .. } => unconnected(|wanted| *kind == wanted),
            Self::Nowhere | Self::Dial { .. } | Self::Announce { .. } | Self::Greeting { .. } | Self::Left { .. } => {
                "upstream-unreachable"
            }
            Self::Tls { .. } => "upstream-tls",
            Self::HandshakeTimeout { .. } => "timeout-handshake",
            Self::Stls { .. } => "upstream-stls",
            Self::Refused { .. } => "upstream-refused",
            Self::GreetingTimeout { .. } => "timeout-greeting",
        }
    }

    /// Whether a time limit of ours ended it.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.reason().starts_with("timeout-")
    }

    /// The one line that the client gets in place of a greeting: at most 512 octets of printable ASCII with CR LF (RFC 1939 §3),
    /// `[SYS/TEMP]` where trying again may help and `[SYS/PERM]` where somebody has to change something first (RFC 3206 §4).
    #[must_use]
    pub fn client_line(&self) -> String {
        let code = if self.is_temporary() { "SYS/TEMP" } else { "SYS/PERM" };
        let mut line = format!("-ERR [{code}] {self}");
        line = line.chars().map(harmless).collect();
        if line.len() > LINE - CUT.len() {
            line.truncate(LINE - CUT.len());
            line.push_str(CUT);
        }
        line.push_str("\r\n");
        line
    }

    /// Everything, for the log: the cause, the certificate's subject, issuer, dates and names, and what to do.
    #[must_use]
    pub fn detail(&self) -> String {
        let mut detail = self.to_string();
        if let Self::Tls { cause, .. } = self
            && let Some(certificate) = cause.certificate()
        {
            // Writing into a String cannot fail.
            let _ = write!(detail, " ({certificate})");
        }
        if let Some(hint) = self.hint() {
            detail.push_str("; hint: ");
            detail.push_str(&hint);
        }
        detail
    }

    /// What to do about it, where that can be told.
    #[must_use]
    pub fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Dial { cause, .. } => Some(Cow::Borrowed(dial_hint(cause))),
            Self::Tls { cause, .. } => cause.hint().map(Cow::Borrowed),
            Self::HandshakeTimeout { stls: false, .. } => {
                Some("see whether this port is for TLS: 995 as a rule; `pop3+stls://` is for port 110".into())
            }
            Self::Stls { cause, .. } | Self::Greeting { cause, .. } => stls_hint(cause).map(Cow::Borrowed),
            Self::GreetingTimeout { hint, .. } | Self::Left { hint, .. } => Some(Cow::Borrowed(hint)),
            Self::Nowhere | Self::HandshakeTimeout { stls: true, .. } | Self::Announce { .. } | Self::Refused { .. } => None,
        }
    }

    /// Whether the connection stood, and the server did not greet as it should.
    #[must_use]
    pub fn is_of_greeting(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Greeting { .. } | Self::GreetingTimeout { .. } | Self::Left { .. })
    }

    /// Whether it may help to try again: otherwise somebody has to change something first.
    pub(crate) fn is_temporary(&self) -> bool {
        match self {
            Self::Nowhere => false,
            Self::Dial { cause, .. } => !matches!(cause, DialError::NotFound),
            Self::Tls { cause, .. } => matches!(cause, HandshakeError::Closed | HandshakeError::Io(_)),
            Self::Stls { cause, .. } | Self::Greeting { cause, .. } => {
                matches!(cause, StlsFault::Closed(_) | StlsFault::Io { .. })
            }
            Self::HandshakeTimeout { .. }
            | Self::Announce { .. }
            | Self::Refused { .. }
            | Self::GreetingTimeout { .. }
            | Self::Left { .. } => true,
        }
    }
}

/// The reason where no address could be connected to; `is` says whether that is what happened.
fn unconnected(is: impl Fn(io::ErrorKind) -> bool) -> &'static str {
    if is(io::ErrorKind::ConnectionRefused) {
        "upstream-refused"
    } else if is(io::ErrorKind::TimedOut) {
        "timeout-connect"
    } else {
        "upstream-unreachable"
    }
}

/// Octets of a line that go before its CR LF.
const LINE: usize = 510;
const CUT: &str = "...";

/// A client may only be sent ASCII here. Angle brackets are left out, lest a client take what stands between them for an
/// APOP timestamp (RFC 1939 §7).
fn harmless(letter: char) -> char {
    match letter {
        '<' => '(',
        '>' => ')',
        ' '..='~' => letter,
        _ => '?',
    }
}

fn what(stls: bool) -> &'static str {
    if stls { "STLS and the handshake" } else { "the handshake" }
}

fn dial_hint(cause: &DialError) -> &'static str {
    match cause {
        DialError::NotFound => "see whether the name in the URL is right",
        DialError::Socket { .. } => {
            "see whether the path in the URL is right, the server is running, and poptap may connect there"
        }
        DialError::Lookup(_) | DialError::LookupTimedOut { .. } => "see whether this machine reaches its name server",
        DialError::Failed { .. } => "see whether the port in the URL is right and the server is running",
        DialError::TimedOut { .. } => "see whether a firewall stands between this machine and the server",
    }
}

fn stls_hint(cause: &StlsFault) -> Option<&'static str> {
    match cause {
        StlsFault::StlsRefused(_) => Some("the server may offer TLS on port 995: use `pop3s://`"),
        StlsFault::Injected(_) => Some("somebody on the way may be interfering; `pop3s://` is not open to this"),
        StlsFault::NotPop3(_) | StlsFault::TooLong(_) => Some("see whether the port in the URL is that of a POP3 server"),
        StlsFault::Io { cause, .. } => hint_behind_handshake(cause),
        StlsFault::Closed(_) | StlsFault::Refused(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Attempt, Step};

    fn stls(cause: StlsFault) -> ConnectError {
        ConnectError::Stls { server: "pop.example.net:110".into(), cause }
    }

    fn failed(kinds: &[io::ErrorKind]) -> ConnectError {
        let attempt = |(n, kind): (usize, &io::ErrorKind)| Attempt {
            address: ([192, 0, 2, u8::try_from(n).unwrap()], 110).into(),
            kind: Some(*kind),
            cause: format!("{kind}"),
        };
        let attempts = kinds.iter().enumerate().map(attempt).collect();
        ConnectError::Dial { server: "pop.example.net:110".into(), cause: DialError::Failed { attempts } }
    }

    #[test]
    fn the_client_line_is_one_short_line_of_ascii() {
        let nasty = format!("\x07 \u{fc} <apop@x> \r\n+OK {}", "x".repeat(600));
        let line = stls(StlsFault::StlsRefused(nasty)).client_line();
        assert_eq!(line.len(), 512);
        assert!(line.starts_with(
            "-ERR [SYS/PERM] cannot start TLS with `pop.example.net:110` by STLS: it refused STLS: `? ? (apop@x) ??+OK x"
        ));
        assert!(line.ends_with("x...\r\n"));
        assert!(line[..510].bytes().all(|octet| (b' '..=b'~').contains(&octet)));
    }

    #[test]
    fn what_may_pass_is_temporary() {
        let refused = failed(&[io::ErrorKind::ConnectionRefused]);
        assert_eq!(
            refused.client_line(),
            "-ERR [SYS/TEMP] cannot connect to `pop.example.net:110`: 192.0.2.0:110: connection refused\r\n"
        );
        assert!(stls(StlsFault::Closed(Step::Reply)).client_line().starts_with("-ERR [SYS/TEMP] "));
        assert!(stls(StlsFault::Injected(Step::Reply)).client_line().starts_with("-ERR [SYS/PERM] "));
    }

    #[test]
    fn reasons_follow_from_all_attempts() {
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, TimedOut};
        assert_eq!(failed(&[ConnectionRefused, ConnectionRefused]).reason(), "upstream-refused");
        assert_eq!(failed(&[TimedOut]).reason(), "timeout-connect");
        assert_eq!(failed(&[ConnectionRefused, HostUnreachable]).reason(), "upstream-unreachable");
    }

    #[test]
    fn the_detail_says_what_to_do() {
        let detail = stls(StlsFault::StlsRefused("-ERR no".into())).detail();
        assert!(
            detail.ends_with("it refused STLS: `-ERR no`; hint: the server may offer TLS on port 995: use `pop3s://`"),
            "{detail}"
        );
    }
}
