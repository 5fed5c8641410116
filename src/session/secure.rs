//! TLS with the client.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::closing::{TLS_PORT, cut_short, ended, last_words};
use crate::{
    config::Period,
    net::Stream,
    pop3::Peer,
    record::{Recorder, schema},
    server::House,
    tap::{Event, Observer as _, Violation, ViolationKind},
    tls::{AcceptError, Acceptor},
};

/// How TLS begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// With the first octet.
    Implicit,
    /// Behind STLS.
    Stls,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Implicit => "implicit",
            Self::Stls => "stls",
        }
    }
}

/// Does the handshake within its time limit. The plain connection is consumed: there is no way back to plain text.
///
/// # Errors
///
/// How the session ends; the client has been told what it can understand, and its connection is closed.
pub(super) async fn secure(
    client: Stream,
    acceptor: &Acceptor,
    mode: Mode,
    house: &House,
    recorder: &mut Recorder,
) -> Result<(Stream, schema::Tls), schema::Closed> {
    let limit = house.timeouts.handshake;
    let deadline = Instant::now() + limit;
    let stopped = async || match mode {
        // Nothing has begun that could be finished.
        Mode::Implicit => house.stop.drain.cancelled().await,
        Mode::Stls => house.stop.close.cancelled().await,
    };
    // Looked at and left where it is, so that a client which says nothing, or not TLS, can still be answered.
    let mut first = [0; 1];
    let begun = tokio::select! {
        begun = timeout_at(deadline, client.tcp().peek(&mut first)) => begun,
        () = stopped() => return Err(stop(mode, house)),
    };
    match begun {
        Err(_) => return Err(silent(client, mode, limit).await),
        Ok(Err(error)) => return Err(closed("client", "reset", error.to_string())),
        Ok(Ok(0)) => return Err(closed("client", "eof", "it left before the TLS handshake".to_owned())),
        Ok(Ok(_)) => {}
    }
    let accepted = tokio::select! {
        accepted = timeout_at(deadline, client.accept(acceptor)) => accepted,
        () = stopped() => return Err(stop(mode, house)),
    };
    match accepted {
        Err(_) => {
            Err(closed("poptap", "timeout-client-handshake", format!("the TLS handshake took longer than {}", Period(limit))))
        }
        Ok(Err(error)) => Err(failed(error, mode, recorder).await),
        Ok(Ok(stream)) => {
            let tls = stream.describe(mode.name()).ok_or_else(|| closed("poptap", "client-tls", String::new()))?;
            recorder.tls(tls.clone());
            Ok((stream, tls))
        }
    }
}

fn stop(mode: Mode, house: &House) -> schema::Closed {
    match mode {
        Mode::Implicit => ended("poptap", "shutdown"),
        Mode::Stls => cut_short(house),
    }
}

/// A client that waits for a greeting speaks plain POP3: the server speaks first in that.
async fn silent(client: Stream, mode: Mode, limit: Duration) -> schema::Closed {
    let limit = Period(limit);
    if mode == Mode::Stls {
        return closed("poptap", "timeout-client-handshake", format!("it agreed to STLS, and began no handshake for {limit}"));
    }
    last_words(client, TLS_PORT).await;
    let detail =
        format!("it said nothing for {limit}: perhaps it waits for a greeting in plain text; choose SSL/TLS in the client");
    closed("poptap", "timeout-client-handshake", detail)
}

async fn failed(error: AcceptError, mode: Mode, recorder: &mut Recorder) -> schema::Closed {
    let hint = error.hint().map(|hint| format!("; hint: {hint}")).unwrap_or_default();
    let detail = format!("{error}{hint}");
    let AcceptError::PlainText { http, tcp, .. } = error else { return closed("client", "client-tls", detail) };
    if mode == Mode::Stls {
        // Nothing of it was read, so nothing can be taken for a command inside TLS.
        let violation = Violation { fault: Peer::Client, kind: ViolationKind::PlaintextBehindStls };
        recorder.on(&Event::Violation(violation));
        return closed("poptap", "violation", detail);
    }
    let kind = if http { ViolationKind::HttpRequest } else { ViolationKind::PlaintextOnTlsPort };
    recorder.on(&Event::Violation(Violation { fault: Peer::Client, kind }));
    last_words(Stream::new(tcp), TLS_PORT).await;
    closed("poptap", "violation", detail)
}

fn closed(by: &str, reason: &str, detail: String) -> schema::Closed {
    schema::Closed { detail: Some(detail), ..ended(by, reason) }
}
