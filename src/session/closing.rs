//! How a session ends: for the transcript, for the log, and for the client's last line.

use std::{pin::Pin, sync::atomic::Ordering, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use crate::{
    anomaly::Anomaly,
    config::TlsMode,
    net::{ConnectError, Connector, Stream},
    pop3::Peer,
    record::{Recorder, schema},
    relay::{Ending, Hop, Limit, Outcome},
    server::{House, Terms},
    tap::{Rule, Violation, ViolationKind},
};

/// How long a last line of poptap's own may take to reach the client.
const LINGER: Duration = Duration::from_secs(2);
/// Octets that are read and thrown away meanwhile: closing with unread input would send a reset, which destroys the line.
const LINGER_OCTETS: usize = 64 * 1024;

pub(super) fn close(recorder: Recorder, closed: schema::Closed) {
    let id = recorder.id().to_owned();
    let (reason, detail) = (closed.reason.clone(), closed.detail.clone());
    let summary = recorder.close(closed);
    // Most verdicts say it already.
    let detail = detail.filter(|detail| !summary.verdict.contains(detail.as_str()));
    tracing::info!(
        session = id,
        reason,
        detail,
        client_octets = summary.client_octets,
        upstream_octets = summary.upstream_octets,
        "session closed: {}",
        summary.verdict
    );
}

pub(super) fn cut_short(house: &House) -> schema::Closed {
    house.cut_short.fetch_add(1, Ordering::SeqCst);
    ended("poptap", "shutdown")
}

pub(super) fn ended(by: &str, reason: &str) -> schema::Closed {
    schema::Closed { by: by.to_owned(), reason: reason.to_owned(), ..schema::Closed::default() }
}

/// Why there was no session, where the server was reached and did not greet.
pub(super) fn ungreeted(outcome: &Outcome, connector: &Connector) -> Option<ConnectError> {
    match outcome {
        Outcome::TimedOut(Limit::Greeting) => Some(connector.silent()),
        Outcome::NoGreeting => Some(connector.left()),
        _ => None,
    }
}

pub(super) fn describe(outcome: &Outcome, quit: bool) -> schema::Closed {
    match outcome {
        Outcome::Closed { by, .. } if quit => ended(name(*by), "quit"),
        Outcome::Closed { by, how } => ended(name(*by), ending(*how)),
        Outcome::NoGreeting => ended("upstream", "eof"),
        Outcome::TimedOut(limit) => ended("poptap", expired(*limit)),
        // Whoever runs the relay goes on with TLS.
        Outcome::StartTls => ended("poptap", "client-tls"),
        Outcome::Violation(Violation { kind: ViolationKind::TooManyOctets, .. }) => ended("poptap", "too-many-octets"),
        Outcome::Violation(violation) => schema::Closed { detail: Some(blame(*violation)), ..ended("poptap", "violation") },
        Outcome::RecordFull => ended("poptap", "transcript-full"),
        // Whoever knows the rule says it; behind a login the session goes on.
        Outcome::Dismissed | Outcome::Login | Outcome::LoginRefused => ended("poptap", "policy"),
    }
}

/// The anomaly that ended the session: its record would take nothing more.
pub(super) fn objection(outcome: &Outcome, recorder: &Recorder) -> Option<Anomaly> {
    recorder.objection().filter(|_| matches!(outcome, Outcome::RecordFull))
}

/// The end of a session that an anomaly ended.
pub(super) fn strict(anomaly: Option<Anomaly>) -> schema::Closed {
    schema::Closed { detail: anomaly.map(|anomaly| format!("`{anomaly}` is in `strict`")), ..ended("poptap", "strict") }
}

/// What the client is told then, where it can make something of it.
pub(super) fn strict_line(anomaly: Anomaly) -> String {
    format!("-ERR [SYS/PERM] the session is closed, since this anomaly is not allowed here: {anomaly}\r\n")
}

/// The end of a session that a rule or a limit ended.
pub(super) fn dismissed(rule: Option<&Rule>) -> schema::Closed {
    match rule {
        Some(Rule::BuiltIn(name)) => ended("poptap", name),
        Some(Rule::Named(name)) => schema::Closed { detail: Some(format!("rule `{name}`")), ..ended("poptap", "policy") },
        None => ended("poptap", "policy"),
    }
}

fn name(peer: Peer) -> &'static str {
    match peer {
        Peer::Client => "client",
        Peer::Upstream => "upstream",
    }
}

fn ending(how: Ending) -> &'static str {
    match how {
        Ending::Eof => "eof",
        Ending::Truncated => "truncated",
        Ending::Reset => "reset",
    }
}

fn expired(limit: Limit) -> &'static str {
    match limit {
        Limit::Greeting => "timeout-greeting",
        Limit::Login => "timeout-login",
        Limit::Idle => "timeout-idle",
        Limit::HalfClosed => "timeout-half-closed",
    }
}

fn blame(violation: Violation) -> String {
    let whose = match violation.fault {
        Peer::Client => "client's fault",
        Peer::Upstream => "server's fault",
    };
    format!("{whose}: {}", violation.kind.describe().1)
}

/// Whether the client may still be reading: then a close with octets of its own unread would destroy the last ones to it.
pub(super) fn is_client_there(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::Closed { by: Peer::Client, how: Ending::Reset })
}

/// Whether the server's stream was cut: then the client's is, too.
pub(super) fn is_cut(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Closed { by: Peer::Upstream, how: Ending::Truncated | Ending::Reset })
}

/// What the client is told last, where it can make something of it.
pub(super) fn last_line(outcome: &Outcome, terms: &Terms) -> Option<&'static str> {
    let Outcome::Violation(Violation { kind, .. }) = outcome else { return None };
    Some(match (kind, terms.tls) {
        (ViolationKind::TlsOnPlainPort, TlsMode::Stls) => {
            "-ERR [SYS/PERM] TLS begins with STLS here: choose STARTTLS instead of SSL/TLS in your client\r\n"
        }
        (ViolationKind::TlsOnPlainPort, _) => {
            "-ERR [SYS/PERM] this port speaks plain POP3: turn encryption off in your client\r\n"
        }
        (ViolationKind::HttpRequest, _) => "-ERR [SYS/PERM] this is a POP3 server, not a web server\r\n",
        // Before its +OK; behind the +OK of a server there is no place for a line in clear.
        (ViolationKind::PlaintextBehindStls, TlsMode::Stls) => "-ERR [SYS/PERM] nothing may follow STLS before TLS stands\r\n",
        (ViolationKind::UnreadableBeforeTls | ViolationKind::UnreadableUnderRules | ViolationKind::ReplyLineTooLong, _) => {
            "-ERR [SYS/TEMP] the server's answers could not be understood\r\n"
        }
        (ViolationKind::TooManyOctets, _) => "-ERR [SYS/PERM] too much data for one session\r\n",
        _ => return None,
    })
}

/// Tells a client that speaks something else than TLS where TLS is spoken. It gets plain text, since that is what it reads.
pub(super) const TLS_PORT: &str = "-ERR [SYS/PERM] this port speaks TLS from the first octet: choose SSL/TLS in your client\r\n";

/// Sends a last line and closes so that it arrives: our end, then the client's octets up to a limit, then the close.
pub(super) async fn last_words(client: Stream, line: &str) {
    let_go(client, line, false).await;
}

/// Closes in the middle of a reply, so that over TLS nobody takes it for the end of one.
pub(super) async fn cut_off(client: Stream) {
    let_go(client, "", true).await;
}

async fn let_go(mut client: Stream, line: &str, cut: bool) {
    let said = async {
        client.write_all(line.as_bytes()).await?;
        if cut {
            std::future::poll_fn(|context| Pin::new(&mut client).poll_cut(context)).await?;
        } else {
            client.shutdown().await?;
        }
        let (mut thrown_away, mut octets) = (0, [0; 4096]);
        while thrown_away < LINGER_OCTETS {
            match client.read(&mut octets).await? {
                0 => break,
                count => thrown_away += count,
            }
        }
        std::io::Result::Ok(())
    };
    // A client that has gone, or does not read, misses its line.
    let _ = timeout(LINGER, said).await;
}
