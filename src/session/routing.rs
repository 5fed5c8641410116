//! A client whose server is known only when it logs in: answered by poptap alone until then.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::sleep,
};

use super::{
    Client, Session, close_unsecured, conclude, cut_short, ended, finish, policy, reset, secure::Mode, secure::secure, settings,
    tap,
};
use crate::{
    admission::Visit,
    config::TlsMode,
    net::{Connected, Stream},
    policy::{FrontTerms, ListenerHop, Policy, Settings},
    pop3::{Keyword, Ordinal, Stage, Status},
    record::{Recorder, schema},
    relay::{HalfClose, Hop, Outcome, relay},
    server::{Caller, House, Terms, Way},
    tap::{Action, After, Decision, Event, Observer as _, Replied, Rule, Tap},
};

/// A client without a server.
struct Front<'a> {
    client: Client,
    tap: Tap<Box<Recorder>, Policy>,
    terms: &'a Terms,
    house: &'a House,
    /// Logins that were refused so far.
    refused: usize,
}

/// Up to the point where a login's server has been reached; `None` where the session has ended.
pub(super) async fn begin<'a>(
    client: Stream,
    caller: Caller,
    terms: &'a Terms,
    house: &'a House,
    visit: Visit,
) -> Option<Session<'a>> {
    let visit = Arc::new(Mutex::new(visit));
    let mut recorder = super::open(&caller, terms, house, &super::Whither::of(&client, terms));
    let caller = caller.settled();
    tracing::info!(session = recorder.id(), client = %caller.address, "session opened");
    let client = match (terms.tls, &terms.acceptor) {
        (TlsMode::Implicit, Some(acceptor)) => match secure(client, acceptor, Mode::Implicit, house, &mut recorder).await {
            Ok((stream, tls)) => Client { stream, caller, tls: Some(Box::new(tls)), visit, dialled: None },
            Err(closed) => return close_unsecured(*recorder, closed),
        },
        _ => Client { stream: client, caller, tls: None, visit, dialled: None },
    };
    let mut tap = tap(recorder, front(&client, terms, 0)?, terms, house);
    tap.preload(GREETING);
    Front { client, tap, terms, house, refused: 0 }.run().await
}

/// The login was refused: the client may try another one.
pub(super) async fn again(session: Session<'_>) -> Option<Session<'_>> {
    let Session { client, upstream, mut tap, terms, house, .. } = session;
    drop(upstream);
    let refused = tap.filter().refused() + 1;
    tap.unrouted(front(&client, terms, refused)?);
    Front { client, tap, terms, house, refused }.run().await
}

/// No timestamp for APOP: a digest is bound to the greeting of the server that checks it, and there is none yet.
const GREETING: &[u8] = b"+OK ready\r\n";
/// What a login that belongs nowhere waits for, about as long as servers let a refused one wait.
const REFUSAL: Duration = Duration::from_secs(2);
const NOBODY: &[u8] = b"-ERR [AUTH] login refused\r\n";

impl<'a> Front<'a> {
    async fn run(mut self) -> Option<Session<'a>> {
        loop {
            match self.relay().await {
                Some(Outcome::StartTls) => self = self.start_tls().await?,
                Some(Outcome::Login) => match self.login().await? {
                    Ok(session) => return Some(session),
                    Err(front) => self = front,
                },
                Some(Outcome::LoginRefused) => {
                    self.refused += 1;
                    let filter = front(&self.client, self.terms, self.refused)?;
                    self.tap.unrouted(filter);
                }
                outcome => {
                    conclude(self.client, self.tap, (self.terms, self.house), outcome, None).await;
                    return None;
                }
            }
        }
    }

    async fn relay(&mut self) -> Option<Outcome> {
        let mut nobody = Nobody::default();
        tokio::select! {
            outcome = relay(&mut self.client.stream, &mut nobody, &mut self.tap, &self.house.timeouts, HalfClose::AtOnce) => Some(outcome),
            () = self.house.stop.close.cancelled() => None,
        }
    }

    async fn start_tls(self) -> Option<Self> {
        let Self { client, mut tap, terms, house, refused } = self;
        let Some(acceptor) = &terms.acceptor else { return finish(tap, ended("poptap", "client-tls")) };
        let client = match secure(client.stream, acceptor, Mode::Stls, house, tap.observer()).await {
            Ok((stream, tls)) => Client { stream, tls: Some(Box::new(tls)), ..client },
            Err(closed) => return finish(tap, closed),
        };
        tap.secured(front(&client, terms, refused)?);
        Some(Self { client, tap, terms, house, refused })
    }

    /// Reaches the server that the login belongs to; the client is told where that fails. `None` where the session has ended.
    async fn login(mut self) -> Option<Result<Session<'a>, Self>> {
        let (Some(n), Some(routed)) = (self.tap.login(), self.tap.filter().routed().cloned()) else {
            return finish(self.tap, ended("poptap", "policy"));
        };
        let ways = self.ways(routed.upstream.as_deref());
        if ways.is_empty() {
            return self.belongs_nowhere(n).await.map(Err);
        }
        let chosen: Vec<_> = ways.iter().map(|way| way.upstream.name.as_str()).collect();
        let chosen = chosen.join(",");
        let decision = Decision { tag: Some(&chosen), ..Decision::of(Some(n), Action::Route, routed.rule) };
        self.tap.observer().on(&Event::Decision(decision));
        let dialled = async {
            let (way, mut connected) = super::reach(&self.client, None, self.terms, &ways, self.tap.observer()).await?;
            way.connector.await_greeting(&mut connected).await?;
            Ok((way, connected))
        };
        let reached = tokio::select! {
            reached = dialled => reached,
            () = reset(&self.client.stream) => return finish(self.tap, ended("client", "reset")),
            () = self.house.stop.close.cancelled() => return finish(self.tap, cut_short(self.house)),
        };
        match reached {
            Ok((way, connected)) => {
                // Where it is another one than the first, that has been said.
                if ways.first().is_some_and(|first| Arc::ptr_eq(first, &way)) {
                    let upstream = way.upstream.name.clone();
                    self.tap.observer().reached(schema::Reached { upstream, resting: Vec::new() });
                }
                Some(Ok(self.reached(way, connected)))
            }
            Err(error) => {
                let error: crate::net::ConnectError = error;
                tracing::warn!(session = self.tap.observer().id(), "{}", error.detail());
                self.tap.refuse_login(error.client_line().into_bytes().into(), &Rule::BuiltIn(error.reason()));
                Some(Err(self))
            }
        }
    }

    /// The ways to the upstream of this name; the listener's own where there is none.
    fn ways(&self, upstream: Option<&str>) -> Vec<Arc<Way>> {
        let Some(name) = upstream else { return self.terms.ways.to_vec() };
        let targets = self.terms.routing.iter().flat_map(|(_, ways)| ways.iter());
        targets.filter(|way| way.upstream.name == name).cloned().collect()
    }

    fn reached(self, way: Arc<Way>, connected: Connected) -> Session<'a> {
        let Self { client, mut tap, terms, house, .. } = self;
        if let Some(tls) = connected.tls {
            tap.observer().tls(tls);
        }
        tap.filter().reached(settings(&client, terms, &way.upstream));
        tap.reached();
        tap.preload(&connected.received);
        Session { client, upstream: connected.stream, way, tap, terms, house }
    }

    /// Nobody knows the user: refused as a server would, and counted.
    async fn belongs_nowhere(mut self, n: Ordinal) -> Option<Self> {
        let (status, stage) = (Some(Status::Err), Stage::Authorization);
        let replied = Replied { n, keyword: Keyword::Pass, status, stage, line: NOBODY };
        let (text, wait) = match self.tap.filter().login_refused(replied) {
            After::Dismiss { text, .. } => (text, REFUSAL),
            After::Delay(delay) => (Arc::from(NOBODY), REFUSAL.max(Duration::from_millis(delay))),
            After::GoOn => (Arc::from(NOBODY), REFUSAL),
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = reset(&self.client.stream) => return finish(self.tap, ended("client", "reset")),
            () = self.house.stop.close.cancelled() => return finish(self.tap, cut_short(self.house)),
        }
        self.tap.refuse_login(text, &Rule::BuiltIn("no-route"));
        Some(self)
    }
}

/// What decides until a server is known; `None` where every server is.
fn front(client: &Client, terms: &Terms, refused: usize) -> Option<Policy> {
    let (routing, _) = terms.routing.as_ref()?;
    let hop = ListenerHop { tls: terms.tls, demand: terms.demand, stls: terms.stls };
    let settings = Settings::without_server(hop, client.tls.is_some());
    let fallback = terms.first_choice();
    let front = FrontTerms {
        routing: Arc::clone(routing),
        rules: Arc::clone(&terms.rules),
        client: client.caller.address.ip(),
        listener: terms.asked_for,
        tls: client.tls.is_some(),
        fallback: fallback.to_owned(),
        refused,
    };
    Some(policy(client, terms, fallback, settings).routing(front))
}

/// A server that is not there: it says nothing, and is told nothing but the client's end.
#[derive(Debug, Default)]
struct Nobody {
    has_ended: bool,
}

impl AsyncRead for Nobody {
    fn poll_read(self: Pin<&mut Self>, _context: &mut Context<'_>, _space: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.has_ended { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl AsyncWrite for Nobody {
    fn poll_write(self: Pin<&mut Self>, _context: &mut Context<'_>, _octets: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.has_ended = true;
        Poll::Ready(Ok(()))
    }
}

impl Hop for Nobody {}
