//! One client's life, from top to bottom.

mod closing;
mod secure;

use std::{net::SocketAddr, task::Poll};

use tokio::io::Interest;

use crate::{
    config::TlsDemand,
    config::{ApopPolicy, ProxyProtocol, StlsPolicy, TlsMode, XclientPolicy},
    net::{ConnectError, Connected, Origin, Stream},
    policy::{Builtin, ClientHop, Settings},
    pop3::Peer,
    record::{Recorder, schema},
    relay::{HalfClose, Outcome, RecordFull, Recording, relay},
    server::{House, Refusal, Terms, canonical},
    tap::Tap,
};

use closing::{close, cut_off, cut_short, describe, ended, is_client_there, is_cut, last_line, last_words, ungreeted};
use secure::{Mode, secure};

/// Carries one client to its server and back.
///
/// What a beginning and an end need is boxed: while a session only waits, it holds none of it.
pub(crate) async fn serve(client: Stream, address: SocketAddr, terms: &Terms, house: &House) {
    let mut recorder = open(address, terms, house);
    tracing::info!(session = recorder.id(), client = %address, upstream = %terms.upstream.name, "session opened");
    let client = match (terms.tls, &terms.acceptor) {
        (TlsMode::Implicit, Some(acceptor)) => {
            let secured = Box::pin(secure(client, acceptor, Mode::Implicit, house, &mut recorder)).await;
            match secured {
                Ok((stream, tls)) => Client { stream, address, tls: Some(tls) },
                Err(closed) => return close_unsecured(recorder, closed),
            }
        }
        _ => Client { stream: client, address, tls: None },
    };
    let connected = tokio::select! {
        connected = connect(&client, terms) => connected,
        () = reset(&client.stream) => return close(recorder, ended("client", "reset")),
        () = house.stop.close.cancelled() => return close(recorder, cut_short(house)),
    };
    match connected {
        Ok(connected) => Session { client, terms, house }.carry(connected, recorder).await,
        Err(error) => Box::pin(give_up(client.stream, &error, recorder)).await,
    }
}

/// The client's hop.
struct Client {
    stream: Stream,
    address: SocketAddr,
    tls: Option<schema::Tls>,
}

async fn connect(client: &Client, terms: &Terms) -> Result<Connected, ConnectError> {
    // Where all interfaces are listened on, the address that the client chose is the one that tells something.
    let listener = client.stream.local_addr().map_or(terms.address, canonical);
    let origin = Origin { client: client.address, listener, tls: client.tls.clone() };
    terms.connector.connect(&origin).await
}

/// Waits until the client resets its connection. An orderly end is none: it may have sent all that it has to say.
async fn reset(client: &Stream) {
    while client.tcp().ready(Interest::ERROR).await.is_ok_and(|ready| !ready.is_error()) {
        tokio::task::yield_now().await;
    }
}

/// Turns a client away with one line.
pub(crate) async fn refuse(client: Stream, address: SocketAddr, terms: &Terms, house: &House, refusal: Refusal) {
    let (reason, line) = match refusal {
        Refusal::NotAllowed => ("not-allowed", "-ERR [SYS/PERM] your address is not allowed here\r\n"),
        Refusal::TooMany => ("too-many-connections", "-ERR [SYS/TEMP] too many connections, try again later\r\n"),
        Refusal::NoTranscript => ("transcript-failing", "-ERR [SYS/TEMP] the transcript cannot be written, try again later\r\n"),
    };
    tracing::warn!(client = %address, listener = %terms.address, reason, "client refused");
    let recorder = open(address, terms, house);
    // Where TLS comes first, a line in clear would be noise, and a handshake for it work that anybody can ask for.
    last_words(client, if terms.tls == TlsMode::Implicit { "" } else { line }).await;
    close(recorder, ended("poptap", reason));
}

fn open(address: SocketAddr, terms: &Terms, house: &House) -> Recorder {
    house.store.recorder(schema::Opened {
        client: address.to_string(),
        listener: terms.address.to_string(),
        upstream: terms.upstream.name.clone(),
        credentials_revealed: false,
    })
}

async fn give_up(client: Stream, error: &ConnectError, recorder: Recorder) {
    tracing::warn!(session = recorder.id(), "{}", error.detail());
    last_words(client, &error.client_line()).await;
    close(recorder, failed(error));
}

fn close_unsecured(recorder: Recorder, closed: schema::Closed) {
    if let Some(detail) = &closed.detail {
        tracing::warn!(session = recorder.id(), "{detail}");
    }
    close(recorder, closed);
}

fn failed(error: &ConnectError) -> schema::Closed {
    let by = if error.is_timeout() { "poptap" } else { "upstream" };
    schema::Closed { detail: Some(error.detail()), ..ended(by, error.reason()) }
}

/// A client whose server has been reached.
struct Session<'a> {
    client: Client,
    terms: &'a Terms,
    house: &'a House,
}

impl Session<'_> {
    async fn carry(mut self, connected: Connected, mut recorder: Recorder) {
        if let Some(tls) = connected.tls {
            recorder.tls(tls);
        }
        let filter = Builtin::new(self.settings());
        let mut tap = Tap::new(recorder, filter, self.house.limits.outstanding, self.house.pool.clone());
        tap.preload(&connected.received);
        let mut upstream = connected.stream;
        let mut outcome = self.relay(&mut upstream, &mut tap).await;
        if matches!(outcome, Some(Outcome::StartTls)) {
            match Box::pin(self.start_tls(upstream, &mut tap)).await {
                Ok((session, stream)) => (self, upstream) = (session, stream),
                Err(closed) => return finish(tap, closed),
            }
            outcome = self.relay(&mut upstream, &mut tap).await;
        }
        // The server's side ends first: nothing of the client's may reach it any more.
        drop(upstream);
        Box::pin(self.end(outcome, tap)).await;
    }

    async fn relay(&mut self, upstream: &mut Stream, tap: &mut Tap<Recorder, Builtin>) -> Option<Outcome> {
        let half_close = self.half_close();
        tokio::select! {
            outcome = relay(&mut self.client.stream, upstream, tap, &self.house.timeouts, half_close) => Some(outcome),
            () = self.house.stop.close.cancelled() => None,
        }
    }

    /// The client was told to begin. Its plain stream is consumed; what was known of the session is forgotten.
    ///
    /// Where the server is told of the client's hop, it is connected to anew: the first connection was said to be plain.
    async fn start_tls(mut self, upstream: Stream, tap: &mut Tap<Recorder, Builtin>) -> Result<(Self, Stream), schema::Closed> {
        let Some(acceptor) = &self.terms.acceptor else { return Err(ended("poptap", "client-tls")) };
        let (stream, tls) = secure(self.client.stream, acceptor, Mode::Stls, self.house, tap.observer()).await?;
        self.client = Client { stream, tls: Some(tls), ..self.client };
        if self.terms.upstream.proxy_protocol == ProxyProtocol::Off {
            tap.secured(Builtin::new(self.settings()));
            return Ok((self, upstream));
        }
        drop(upstream);
        let connected = tokio::select! {
            connected = connect(&self.client, self.terms) => connected,
            () = self.house.stop.close.cancelled() => return Err(cut_short(self.house)),
        };
        match connected {
            Ok(connected) => {
                if let Some(tls) = connected.tls {
                    tap.observer().tls(tls);
                }
                tap.secured_anew(Builtin::new(Settings { drop_greeting: true, ..self.settings() }));
                tap.preload(&connected.received);
                Ok((self, connected.stream))
            }
            Err(error) => {
                last_words(self.client.stream, &error.client_line()).await;
                Err(failed(&error))
            }
        }
    }

    async fn end(self, outcome: Option<Outcome>, tap: Tap<Recorder, Builtin>) {
        let ungreeted = outcome.as_ref().and_then(|outcome| ungreeted(outcome, self.terms));
        let closed = match (&ungreeted, &outcome) {
            (Some(error), _) => failed(error),
            (None, Some(outcome)) => describe(outcome, tap.has_quit()),
            (None, None) => cut_short(self.house),
        };
        let own = outcome.as_ref().and_then(|outcome| last_line(outcome, self.terms)).unwrap_or_default();
        let line = ungreeted.as_ref().map_or_else(|| own.to_owned(), ConnectError::client_line);
        if outcome.as_ref().is_some_and(is_client_there) {
            if tap.is_within_reply() || outcome.as_ref().is_some_and(is_cut) {
                cut_off(self.client.stream).await;
            } else {
                last_words(self.client.stream, &line).await;
            }
        }
        finish(tap, closed);
    }

    fn settings(&self) -> Settings {
        let (upstream, tls) = (&self.terms.upstream, self.client.tls.is_some());
        let client = match self.terms.tls {
            _ if tls => ClientHop::Tls,
            TlsMode::Stls => ClientHop::Stls { required: self.terms.demand == TlsDemand::Required },
            TlsMode::Plain | TlsMode::Implicit => ClientHop::Plain,
        };
        // Its answer to the first connection's timestamp would not fit the second one's.
        let will_reconnect = matches!(client, ClientHop::Stls { .. }) && upstream.proxy_protocol != ProxyProtocol::Off;
        Settings {
            client,
            upstream_tls: upstream.tls != TlsMode::Plain,
            refuse_stls: self.terms.stls == StlsPolicy::Refuse,
            pass_xclient: upstream.xclient == XclientPolicy::Pass,
            strip_apop: upstream.tls == TlsMode::Stls && upstream.apop == ApopPolicy::Strip || will_reconnect,
            drop_greeting: false,
        }
    }

    fn half_close(&self) -> HalfClose {
        if self.terms.upstream.tls == TlsMode::Plain { HalfClose::AtOnce } else { HalfClose::AfterReplies }
    }
}

/// Writes the end into the transcript and into the log.
fn finish(mut tap: Tap<Recorder, Builtin>, mut closed: schema::Closed) {
    if closed.reason != "quit"
        && let Some(detail) = &closed.detail
    {
        tracing::warn!(session = tap.observer().id(), "{detail}");
    }
    (closed.client_octets, closed.client_undelivered) = tap.totals(Peer::Client);
    (closed.upstream_octets, closed.upstream_undelivered) = tap.totals(Peer::Upstream);
    close(tap.into_observer(), closed);
}

impl Recording for Recorder {
    fn turn(&mut self) {
        Recorder::turn(self);
    }

    fn rest(&mut self) {
        Recorder::rest(self);
    }

    fn poll_ready(&mut self, context: &mut std::task::Context<'_>) -> Poll<Result<(), RecordFull>> {
        Recorder::poll_ready(self, context).map_err(|_full| RecordFull)
    }
}
