//! One client's life, from top to bottom.

use std::{net::SocketAddr, sync::atomic::Ordering, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::TcpStream,
    time::timeout,
};

use crate::{
    config::{ApopPolicy, StlsPolicy, TlsMode, XclientPolicy},
    net::{ConnectError, Connected, Origin},
    policy::{Builtin, Settings},
    pop3::Peer,
    record::{Recorder, schema},
    relay::{Ending, HalfClose, Limit, Outcome, RecordFull, Recording, relay},
    server::{House, Refusal, Route},
    tap::{Tap, Violation, ViolationKind},
};

/// How long a last line of poptap's own may take to reach the client.
const LINGER: Duration = Duration::from_secs(2);
/// Octets that are read and thrown away meanwhile: closing with unread input would send a reset, which destroys the line.
const LINGER_OCTETS: usize = 64 * 1024;

/// Carries one client to its server and back.
pub(crate) async fn serve(client: TcpStream, address: SocketAddr, route: &Route, house: &House) {
    let recorder = open(address, route, house);
    tracing::info!(session = recorder.id(), client = %address, upstream = %route.upstream.name, "session opened");
    // Small lines must not wait for one another (Nagle); a socket that refuses the option is slower, no more.
    let _ = client.set_nodelay(true);
    let origin = Origin { client: address, listener: route.address, tls: None };
    let connected = tokio::select! {
        connected = route.connector.connect(&origin) => connected,
        () = reset(&client) => return close(recorder, ended("client", "reset")),
        () = house.stop.close.cancelled() => return close(recorder, cut_short(house)),
    };
    match connected {
        Ok(connected) => carry(client, connected, recorder, route, house).await,
        Err(error) => give_up(client, &error, recorder).await,
    }
}

/// Waits until the client resets its connection. An orderly end is none: it may have sent all that it has to say.
async fn reset(client: &TcpStream) {
    while client.ready(Interest::ERROR).await.is_ok_and(|ready| !ready.is_error()) {
        tokio::task::yield_now().await;
    }
}

/// Turns a client away with one line.
pub(crate) async fn refuse(client: TcpStream, address: SocketAddr, route: &Route, house: &House, refusal: Refusal) {
    let (reason, line) = match refusal {
        Refusal::NotAllowed => ("not-allowed", "-ERR [SYS/PERM] your address is not allowed here\r\n"),
        Refusal::TooMany => ("too-many-connections", "-ERR [SYS/TEMP] too many connections, try again later\r\n"),
        Refusal::NoTranscript => ("transcript-failing", "-ERR [SYS/TEMP] the transcript cannot be written, try again later\r\n"),
    };
    tracing::warn!(client = %address, listener = %route.address, reason, "client refused");
    let recorder = open(address, route, house);
    last_words(client, line).await;
    close(recorder, ended("poptap", reason));
}

fn open(address: SocketAddr, route: &Route, house: &House) -> Recorder {
    house.store.recorder(schema::Opened {
        client: address.to_string(),
        listener: route.address.to_string(),
        upstream: route.upstream.name.clone(),
        credentials_revealed: false,
    })
}

async fn give_up(client: TcpStream, error: &ConnectError, recorder: Recorder) {
    tracing::warn!(session = recorder.id(), "{}", error.detail());
    last_words(client, &error.client_line()).await;
    close(recorder, failed(error));
}

fn failed(error: &ConnectError) -> schema::Closed {
    let by = if error.is_timeout() { "poptap" } else { "upstream" };
    schema::Closed { detail: Some(error.detail()), ..ended(by, error.reason()) }
}

async fn carry(mut client: TcpStream, connected: Connected, mut recorder: Recorder, route: &Route, house: &House) {
    if let Some(tls) = connected.tls {
        recorder.tls(tls);
    }
    let mut upstream = connected.stream;
    let filter = Builtin::new(settings(route));
    let mut tap = Tap::new(recorder, filter, house.limits.outstanding, house.pool.clone());
    tap.preload(&connected.received);
    let outcome = tokio::select! {
        outcome = relay(&mut client, &mut upstream, &mut tap, &house.timeouts, half_close(route)) => Some(outcome),
        () = house.stop.close.cancelled() => None,
    };
    let ungreeted = outcome.as_ref().and_then(|outcome| ungreeted(outcome, route));
    if let Some(error) = &ungreeted {
        tracing::warn!(session = tap.observer().id(), "{}", error.detail());
    }
    let mut closed = match (&ungreeted, &outcome) {
        (Some(error), _) => failed(error),
        (None, Some(outcome)) => describe(outcome, tap.has_quit()),
        (None, None) => cut_short(house),
    };
    // The server's side ends first: nothing of the client's may reach it any more.
    drop(upstream);
    (closed.client_octets, closed.client_undelivered) = tap.totals(Peer::Client);
    (closed.upstream_octets, closed.upstream_undelivered) = tap.totals(Peer::Upstream);
    let at_line_end = tap.output(Peer::Upstream).is_empty();
    let line = ungreeted.as_ref().map(ConnectError::client_line).or_else(|| outcome.as_ref().and_then(last_line));
    if outcome.as_ref().is_some_and(is_client_there) {
        last_words(client, &line.filter(|_| at_line_end).unwrap_or_default()).await;
    }
    close(tap.into_observer(), closed);
}

fn settings(route: &Route) -> Settings {
    let plain = route.upstream.tls == TlsMode::Plain;
    Settings {
        refuse_stls: !plain || route.stls == StlsPolicy::Refuse,
        pass_xclient: route.upstream.xclient == XclientPolicy::Pass,
        strip_apop: route.upstream.tls == TlsMode::Stls && route.upstream.apop == ApopPolicy::Strip,
    }
}

fn half_close(route: &Route) -> HalfClose {
    if route.upstream.tls == TlsMode::Plain { HalfClose::AtOnce } else { HalfClose::AfterReplies }
}

fn close(recorder: Recorder, closed: schema::Closed) {
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

fn cut_short(house: &House) -> schema::Closed {
    house.cut_short.fetch_add(1, Ordering::SeqCst);
    ended("poptap", "shutdown")
}

fn ended(by: &str, reason: &str) -> schema::Closed {
    schema::Closed { by: by.to_owned(), reason: reason.to_owned(), ..schema::Closed::default() }
}

/// Why there was no session, where the server was reached and did not greet.
fn ungreeted(outcome: &Outcome, route: &Route) -> Option<ConnectError> {
    match outcome {
        Outcome::TimedOut(Limit::Greeting) => Some(route.connector.silent()),
        Outcome::NoGreeting => Some(route.connector.left()),
        _ => None,
    }
}

fn describe(outcome: &Outcome, quit: bool) -> schema::Closed {
    match outcome {
        Outcome::Closed { by, .. } if quit => ended(name(*by), "quit"),
        Outcome::Closed { by, how } => ended(name(*by), ending(*how)),
        Outcome::NoGreeting => ended("upstream", "eof"),
        Outcome::TimedOut(limit) => ended("poptap", expired(*limit)),
        Outcome::Violation(violation) => schema::Closed { detail: Some(blame(*violation)), ..ended("poptap", "violation") },
        Outcome::RecordFull => ended("poptap", "transcript-full"),
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
fn is_client_there(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::Closed { by: Peer::Client, how: Ending::Reset })
}

/// What the client is told last, where it can make something of it.
fn last_line(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Violation(Violation { kind: ViolationKind::TlsOnPlainPort, .. }) => {
            Some("-ERR [SYS/PERM] this port speaks plain POP3: turn encryption off in your client\r\n".to_owned())
        }
        _ => None,
    }
}

/// Sends a last line and closes so that it arrives: our end, then the client's octets up to a limit, then the close.
async fn last_words(mut client: TcpStream, line: &str) {
    let said = async {
        client.write_all(line.as_bytes()).await?;
        client.shutdown().await?;
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

impl Recording for Recorder {
    fn turn(&mut self) {
        Recorder::turn(self);
    }

    fn poll_ready(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), RecordFull>> {
        Recorder::poll_ready(self, context).map_err(|_full| RecordFull)
    }
}
