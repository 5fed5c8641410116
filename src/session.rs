//! One client's life, from top to bottom.

mod announced;
mod closing;
mod misdirected;
mod reach;
mod routing;
mod secure;
mod unread;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    task::Poll,
};

use tokio::io::Interest;

use crate::{
    admission::Visit,
    config::{TlsDemand, TlsMode, Upstream},
    net::{ConnectError, Connected, Origin, Stream},
    policy::{self, Facts, ListenerHop, Policy, Settings},
    pop3::Peer,
    record::{Recorder, schema},
    relay::{HalfClose, Outcome, RecordFull, Recording, relay},
    server::{Caller, House, Refusal, Terms, Way, canonical},
    tap::{Caps, Event, Observer, SessionLimits, Tap},
};

pub(crate) use announced::announced;
use closing::{
    close, cut_off, cut_short, describe, dismissed, ended, is_client_there, is_cut, last_line, last_words, objection, strict,
    strict_line, ungreeted,
};
use misdirected::{Whither, turn_away};
use reach::{reach, settle};
use secure::{Mode, secure};

/// Carries one client to its server and back.
///
/// What a beginning and an end need is boxed: while a session only waits, it holds none of it.
pub(crate) async fn serve(client: Stream, caller: Caller, terms: &Terms, house: &House, visit: Visit) {
    let begun = match &terms.routing {
        None => Box::pin(begin(client, caller, terms, house, visit)).await,
        Some(_) => Box::pin(routing::begin(client, caller, terms, house, visit)).await,
    };
    let Some(mut session) = begun.map(Box::new) else { return };
    let outcome = loop {
        let outcome = session.relay().await;
        let goes_on = match outcome {
            Some(Outcome::StartTls) => Box::pin(session.start_tls()).await,
            Some(Outcome::LoginRefused) => Box::pin(routing::again(*session)).await,
            outcome => break outcome,
        };
        let Some(other) = goes_on else { return };
        *session = other;
    };
    Box::pin(session.end(outcome)).await;
}

/// Up to the point where octets can be relayed; `None` where there is no session.
async fn begin<'a>(client: Stream, caller: Caller, terms: &'a Terms, house: &'a House, visit: Visit) -> Option<Session<'a>> {
    let visit = Arc::new(Mutex::new(visit));
    let whither = Whither::of(&client, terms);
    let mut recorder = open(&caller, terms, house, &whither);
    let caller = Caller { destination: caller.destination.or(whither.destination), ..caller.settled() };
    let proxy = caller.proxy.map(tracing::field::display);
    tracing::info!(session = recorder.id(), client = %caller.address, proxy, upstream = whither.upstream(terms), "session opened");
    let led = match whither.led {
        Ok(led) => led,
        Err(error) => return turn_away(client, &error, terms, *recorder).await,
    };
    let dialled = led.as_ref().and_then(|led| led.dialled);
    if terms.demand == TlsDemand::Pass {
        let client = Client { stream: client, caller, tls: None, visit, dialled };
        Box::pin(unread::carry(client, led, recorder, terms, house)).await;
        return None;
    }
    let client = match (terms.tls, &terms.acceptor) {
        (TlsMode::Implicit, Some(acceptor)) => match secure(client, acceptor, Mode::Implicit, house, &mut recorder).await {
            Ok((stream, tls)) => Client { stream, caller, tls: Some(Box::new(tls)), visit, dialled },
            Err(closed) => return close_unsecured(*recorder, closed),
        },
        _ => Client { stream: client, caller, tls: None, visit, dialled },
    };
    let reached = tokio::select! {
        reached = reach(&client, led, terms, &terms.ways, &mut recorder) => reached,
        () = reset(&client.stream) => return over(*recorder, ended("client", "reset")),
        () = house.stop.close.cancelled() => return over(*recorder, cut_short(house)),
    };
    match reached {
        Ok((way, connected)) => Some(Session::new(client, way, connected, recorder, terms, house)),
        Err(error) => give_up(client.stream, &error, *recorder).await,
    }
}

/// The client's hop.
struct Client {
    stream: Stream,
    caller: Caller,
    tls: Option<Box<schema::Tls>>,
    /// Counts the session for as long as it lasts; the filter tells it of logins.
    visit: Arc<Mutex<Visit>>,
    /// Whom it wanted to reach, where that address is dialled.
    dialled: Option<SocketAddr>,
}

async fn connect(client: &Client, terms: &Terms, way: &Way) -> Result<Connected, ConnectError> {
    // Where all interfaces are listened on, the address that the client chose is the one that tells something.
    let reached = client.caller.destination.or_else(|| client.stream.local_addr().ok());
    let listener = reached.map_or(terms.address, canonical);
    let origin = Origin { client: client.caller.address, listener, tls: client.tls.as_deref().cloned() };
    way.connector.connect(&origin).await
}

/// Waits until the client resets its connection. An orderly end is none: it may have sent all that it has to say.
async fn reset(client: &Stream) {
    while client.tcp().ready(Interest::ERROR).await.is_ok_and(|ready| !ready.is_error()) {
        tokio::task::yield_now().await;
    }
}

/// Turns a client away with one line.
pub(crate) async fn refuse(client: Stream, caller: &Caller, terms: &Terms, house: &House, refusal: Refusal) {
    let (line, detail) = match refusal {
        Refusal::NotAllowed | Refusal::Denied => ("-ERR [SYS/PERM] your address is not allowed here\r\n", None),
        // It may be anybody, and a proxy would not understand a line.
        Refusal::NotAProxy => ("", None),
        Refusal::NotAdmitted(denied) => (denied.client_line(), Some(denied.detail())),
        Refusal::TooMany => ("-ERR [SYS/TEMP] too many connections, try again later\r\n", None),
        Refusal::NoTranscript => ("-ERR [SYS/TEMP] the transcript cannot be written, try again later\r\n", None),
    };
    let recorder = open(caller, terms, house, &Whither::of(&client, terms));
    // Where TLS comes first, a line in clear would be noise, and a handshake for it work that anybody can ask for.
    last_words(client, if terms.begins_with_tls() { "" } else { line }).await;
    close(*recorder, schema::Closed { detail, ..ended("poptap", refusal.reason()) });
}

fn open(caller: &Caller, terms: &Terms, house: &House, whither: &Whither) -> Box<Recorder> {
    let mut recorder = Box::new(house.store.recorder(schema::Opened {
        client: caller.address.to_string(),
        listener: terms.address.to_string(),
        destination: whither.destination.map(|destination| destination.to_string()),
        upstream: whither.upstream(terms).to_owned(),
        proxied_by: caller.proxy.map(|proxy| proxy.to_string()),
        announced: caller.said.clone(),
        credentials_revealed: false,
    }));
    recorder.watch(&terms.anomalies);
    recorder
}

async fn give_up<T>(client: Stream, error: &ConnectError, recorder: Recorder) -> Option<T> {
    tracing::warn!(session = recorder.id(), "{}", error.detail());
    last_words(client, &error.client_line()).await;
    over(recorder, failed(error))
}

fn close_unsecured<T>(recorder: Recorder, closed: schema::Closed) -> Option<T> {
    if let Some(detail) = &closed.detail {
        tracing::warn!(session = recorder.id(), "{detail}");
    }
    over(recorder, closed)
}

/// Records the end: there is no session, or no longer.
fn over<T>(recorder: Recorder, closed: schema::Closed) -> Option<T> {
    close(recorder, closed);
    None
}

fn failed(error: &ConnectError) -> schema::Closed {
    let by = if error.is_timeout() { "poptap" } else { "upstream" };
    schema::Closed { detail: Some(error.detail()), ..ended(by, error.reason()) }
}

/// A client whose server has been reached. The recorder is boxed, since it is large, and moved about until the relay runs.
struct Session<'a> {
    client: Client,
    upstream: Stream,
    /// The one that was reached.
    way: Arc<Way>,
    tap: Tap<Box<Recorder>, Policy>,
    terms: &'a Terms,
    house: &'a House,
}

impl<'a> Session<'a> {
    fn new(
        client: Client,
        way: Arc<Way>,
        connected: Connected,
        mut recorder: Box<Recorder>,
        terms: &'a Terms,
        house: &'a House,
    ) -> Self {
        if let Some(tls) = connected.tls {
            recorder.tls(tls);
        }
        let filter = policy(&client, terms, &way.upstream.name, settings(&client, terms, &way.upstream));
        let mut tap = tap(recorder, filter, terms, house);
        tap.preload(&connected.received);
        Self { client, upstream: connected.stream, way, tap, terms, house }
    }

    async fn relay(&mut self) -> Option<Outcome> {
        let half_close = if self.way.upstream.tls == TlsMode::Plain { HalfClose::AtOnce } else { HalfClose::AfterReplies };
        tokio::select! {
            outcome = relay(&mut self.client.stream, &mut self.upstream, &mut self.tap, &self.house.timeouts, half_close) => Some(outcome),
            () = self.house.stop.close.cancelled() => None,
        }
    }

    /// The client was told to begin. Its plain stream is consumed; what was known of the session is forgotten. `None` where the
    /// session has ended.
    ///
    /// Where the server is told of the client's hop, it is connected to anew: the first connection was said to be plain.
    async fn start_tls(self) -> Option<Self> {
        let Self { client, mut upstream, way, mut tap, terms, house } = self;
        let Some(acceptor) = &terms.acceptor else { return finish(tap, ended("poptap", "client-tls")) };
        let client = match secure(client.stream, acceptor, Mode::Stls, house, tap.observer()).await {
            Ok((stream, tls)) => Client { stream, tls: Some(Box::new(tls)), ..client },
            Err(closed) => return finish(tap, closed),
        };
        let settings = settings(&client, terms, &way.upstream);
        if !way.upstream.proxy_protocol.tells_tls() {
            tap.secured(policy(&client, terms, &way.upstream.name, settings));
            return Some(Self { client, upstream, way, tap, terms, house });
        }
        drop(upstream);
        let connected = tokio::select! {
            connected = connect(&client, terms, &way) => connected,
            () = house.stop.close.cancelled() => return finish(tap, cut_short(house)),
        };
        match connected {
            Ok(connected) => {
                if let Some(tls) = connected.tls {
                    tap.observer().tls(tls);
                }
                tap.secured_anew(policy(&client, terms, &way.upstream.name, Settings { drop_greeting: true, ..settings }));
                tap.preload(&connected.received);
                upstream = connected.stream;
                Some(Self { client, upstream, way, tap, terms, house })
            }
            Err(error) => {
                last_words(client.stream, &error.client_line()).await;
                finish(tap, failed(&error))
            }
        }
    }

    async fn end(self, outcome: Option<Outcome>) {
        let Self { client, upstream, way, mut tap, terms, house } = self;
        // The server's side ends first: nothing of the client's may reach it any more.
        drop(upstream);
        let ungreeted = outcome.as_ref().and_then(|outcome| ungreeted(outcome, &way.connector));
        settle(&way, ungreeted.as_ref(), tap.observer().is_greeted());
        conclude(client, tap, (terms, house), outcome, ungreeted).await;
    }
}

/// The end of a session whose server's side has ended, or was never there.
async fn conclude(
    client: Client,
    mut tap: Tap<Box<Recorder>, Policy>,
    (terms, house): (&Terms, &House),
    outcome: Option<Outcome>,
    ungreeted: Option<ConnectError>,
) {
    let objection = outcome.as_ref().and_then(|outcome| objection(outcome, tap.observer()));
    let closed = match (&ungreeted, &outcome) {
        _ if objection.is_some() => strict(objection),
        (Some(error), _) => failed(error),
        (None, Some(Outcome::Dismissed)) => dismissed(tap.dismissal()),
        (None, Some(outcome)) => describe(outcome, tap.has_quit()),
        (None, None) => cut_short(house),
    };
    let own = outcome.as_ref().and_then(|outcome| last_line(outcome, terms)).unwrap_or_default();
    let own = objection.map_or_else(|| own.to_owned(), strict_line);
    let line = ungreeted.as_ref().map_or(own, ConnectError::client_line);
    if outcome.as_ref().is_some_and(is_client_there) {
        if tap.is_within_reply() || outcome.as_ref().is_some_and(is_cut) {
            cut_off(client.stream).await;
        } else {
            last_words(client.stream, &line).await;
        }
    }
    let _ended: Option<()> = finish(tap, closed);
}

fn tap(recorder: Box<Recorder>, filter: Policy, terms: &Terms, house: &House) -> Tap<Box<Recorder>, Policy> {
    let limits = &terms.limits;
    let (commands, octets) = (limits.commands.unwrap_or(u64::MAX), limits.octets.unwrap_or(u64::MAX));
    Tap::new(recorder, filter, limits.outstanding, house.pool.clone()).within(SessionLimits { commands, octets })
}

/// What decides in a session from here on.
fn policy(client: &Client, terms: &Terms, upstream: &str, settings: Settings) -> Policy {
    let facts = Facts { client: client.caller.address.ip(), listener: terms.asked_for, upstream, tls: client.tls.is_some() };
    let guard = policy::Terms {
        rules: terms.rules.for_session(&facts),
        caps: Caps { command: terms.limits.command_line, sasl: terms.limits.sasl_line },
        memory: terms.memory.clone(),
        upstream: client.dialled.map_or_else(|| upstream.to_owned(), |there| format!("{upstream} {there}")).into(),
        visit: Some(Arc::clone(&client.visit)),
    };
    Policy::new(settings, Some(guard))
}

fn settings(client: &Client, terms: &Terms, upstream: &Upstream) -> Settings {
    let hop = ListenerHop { tls: terms.tls, demand: terms.demand, stls: terms.stls };
    Settings::of_hops(hop, upstream, client.tls.is_some())
}

/// Writes the end into the transcript and into the log.
fn finish<T>(mut tap: Tap<Box<Recorder>, Policy>, mut closed: schema::Closed) -> Option<T> {
    if closed.reason != "quit"
        && let Some(detail) = &closed.detail
    {
        tracing::warn!(session = tap.observer().id(), "{detail}");
    }
    (closed.client_octets, closed.client_undelivered) = tap.totals(Peer::Client);
    (closed.upstream_octets, closed.upstream_undelivered) = tap.totals(Peer::Upstream);
    over(*tap.into_observer(), closed)
}

impl Observer for Box<Recorder> {
    fn ready(&self) -> bool {
        (**self).ready()
    }

    fn on(&mut self, event: &Event<'_>) {
        (**self).on(event);
    }
}

impl Recording for Box<Recorder> {
    fn turn(&mut self) {
        Recorder::turn(self);
    }

    fn rest(&mut self) {
        Recorder::rest(self);
    }

    fn poll_ready(&mut self, context: &mut std::task::Context<'_>) -> Poll<Result<(), RecordFull>> {
        if self.objection().is_some() {
            return Poll::Ready(Err(RecordFull));
        }
        Recorder::poll_ready(self, context).map_err(|_full| RecordFull)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the future that a call of `function` makes.
    fn size<F>(_function: impl FnOnce(Stream, Caller, &'static Terms, &'static House, Visit) -> F) -> usize {
        size_of::<F>()
    }

    /// It was 12.7 KB once, since each step moved the session on into the next one's future.
    #[test]
    fn a_session_that_waits_is_small() {
        let (waiting, recorder) = (size(serve), size_of::<Recorder>());
        assert!(waiting <= 2048, "{waiting} octets, besides {recorder} of the recorder");
    }
}
