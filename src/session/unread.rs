//! TLS that client and server speak with each other (`tls = "pass"`): looked at as far as it is in clear, and carried unread.

use std::{io, sync::Arc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::{
    Client,
    closing::{TLS_PORT, cut_short, describe, ended, last_words},
    failed, finish, over,
    reach::reach,
    reset,
};
use crate::{
    config::Period,
    net::Stream,
    policy::{Policy, Settings},
    pop3::Peer,
    record::{
        Recorder,
        schema::{self, Hop},
    },
    relay::{HalfClose, relay},
    server::{House, Led, Terms},
    tap::{Event, Observer as _, SMALL, SessionLimits, Tap, Violation, ViolationKind},
    tls::{Begun, ClientHello, ServerHello},
};

type Unread = Tap<Box<Recorder>, Policy>;

/// Carries one client. Nothing is written to either side but what the other one said, and one line in clear to a client that
/// speaks no TLS.
pub(super) async fn carry(mut client: Client, led: Option<Led>, mut recorder: Box<Recorder>, terms: &Terms, house: &House) {
    let heard = hear(&mut client.stream, house).await;
    let (heard, hello) = match heard {
        Ok((_, Begun::Other)) => return turn_away(client.stream, recorder).await,
        Ok(heard) => heard,
        Err(closed) => return end(*recorder, closed),
    };
    let reached = tokio::select! {
        reached = reach(&client, led, terms, &terms.ways, &mut recorder) => reached,
        () = reset(&client.stream) => return end(*recorder, ended("client", "reset")),
        () = house.stop.close.cancelled() => return end(*recorder, cut_short(house)),
    };
    let mut upstream = match reached {
        Ok((_way, connected)) => connected.stream,
        Err(error) => return end(*recorder, failed(&error)),
    };
    let answered = tokio::select! {
        answered = ask(&mut upstream, &heard, matches!(hello, Begun::Whole(_)), house) => answered,
        () = reset(&client.stream) => Err(ended("client", "reset")),
        () = house.stop.close.cancelled() => Err(cut_short(house)),
    };
    let mut tap = tap(recorder, terms, house);
    tap.pass_tls();
    tap.preload_client(&heard);
    tap.advance();
    tap.wrote(Peer::Client, heard.len());
    let (client_hop, upstream_hop) = seen(hello, answered.as_deref().unwrap_or_default());
    tap.observer().tls(client_hop);
    let closed = match answered {
        Ok(answered) => {
            tap.observer().tls(upstream_hop);
            tap.preload(&answered);
            tokio::select! {
                outcome = relay(&mut client.stream, &mut upstream, &mut tap, &house.timeouts, HalfClose::AtOnce) => describe(&outcome, false),
                () = house.stop.close.cancelled() => cut_short(house),
            }
        }
        Err(closed) => closed,
    };
    drop(upstream);
    let _ended: Option<()> = finish(tap, closed);
}

/// What a client says first, up to the end of its hello, or to what a hello rarely reaches.
///
/// # Errors
///
/// How the session ends; the client has not been told.
async fn hear(client: &mut Stream, house: &House) -> Result<(Vec<u8>, Begun<ClientHello>), schema::Closed> {
    let limit = house.timeouts.handshake;
    let reading = async {
        let mut heard = Vec::with_capacity(BEGINNING);
        loop {
            let hello = ClientHello::read(&heard);
            if hello != Begun::Part || heard.len() >= SMALL {
                return Ok((heard, hello));
            }
            match read_on(client, &mut heard).await {
                Ok(0) if heard.is_empty() => return Err(closed("client", "eof", "it left before the TLS handshake".to_owned())),
                Ok(0) => return Ok((heard, Begun::Unreadable)),
                Ok(_) => {}
                Err(error) => return Err(closed("client", "reset", error.to_string())),
            }
        }
    };
    tokio::select! {
        heard = timeout(limit, reading) => heard.unwrap_or_else(|_| {
            let detail = format!("it did not begin TLS within {}: choose SSL/TLS in the client", Period(limit));
            Err(closed("poptap", "timeout-client-handshake", detail))
        }),
        // Nothing has begun that could be finished.
        () = house.stop.drain.cancelled() => Err(ended("poptap", "shutdown")),
    }
}

/// A client that speaks something else: whatever it is, the server would not understand it either, and it may be a password.
async fn turn_away(client: Stream, mut recorder: Box<Recorder>) {
    recorder.on(&Event::Violation(Violation { fault: Peer::Client, kind: ViolationKind::PlaintextOnTlsPort }));
    last_words(client, TLS_PORT).await;
    let detail = "it speaks plain text, not TLS; hint: choose SSL/TLS in the client, and never plain text, for this port";
    end(*recorder, closed("poptap", "violation", detail.to_owned()));
}

/// Passes the client's beginning on, and waits for the server's, if there is one to wait for.
///
/// # Errors
///
/// How the session ends.
async fn ask(upstream: &mut Stream, heard: &[u8], is_hello: bool, house: &House) -> Result<Vec<u8>, schema::Closed> {
    let limit = house.timeouts.handshake;
    let asking = async {
        upstream.write_all(heard).await?;
        upstream.flush().await?;
        let mut answered = Vec::with_capacity(BEGINNING);
        while is_hello && ServerHello::read(&answered) == Begun::Part && answered.len() < SMALL {
            if read_on(upstream, &mut answered).await? == 0 {
                break;
            }
        }
        Ok(answered)
    };
    match timeout(limit, asking).await {
        Ok(Ok(answered)) => Ok(answered),
        Ok(Err(error)) => Err(closed("upstream", "reset", io::Error::to_string(&error))),
        Err(_) => {
            let detail = format!("the server did not answer the client's TLS hello within {}", Period(limit));
            Err(closed("poptap", "timeout-handshake", detail))
        }
    }
}

async fn read_on(stream: &mut Stream, octets: &mut Vec<u8>) -> io::Result<usize> {
    let room = SMALL.saturating_sub(octets.len());
    stream.take(room as u64).read_buf(octets).await
}

fn tap(recorder: Box<Recorder>, terms: &Terms, house: &House) -> Unread {
    let limits = SessionLimits { octets: terms.limits.octets.unwrap_or(u64::MAX), ..SessionLimits::default() };
    Tap::new(recorder, Policy::new(Settings::default(), None), terms.limits.outstanding, Arc::clone(&house.pool)).within(limits)
}

/// What both said in clear, for either hop: it is the same TLS.
fn seen(hello: Begun<ClientHello>, answered: &[u8]) -> (schema::Tls, schema::Tls) {
    let (version, cipher) = match ServerHello::read(answered) {
        Begun::Whole(ServerHello { version, cipher }) => (version, cipher),
        _ => ("unknown".to_owned(), "unknown".to_owned()),
    };
    let hello = if let Begun::Whole(hello) = hello { hello } else { ClientHello::default() };
    let upstream = schema::Tls { hop: Hop::Upstream, mode: "pass".to_owned(), version, cipher, ..schema::Tls::default() };
    let client = schema::Tls { hop: Hop::Client, offered: hello.versions, alpn: hello.alpn, sni: hello.sni, ..upstream.clone() };
    (client, upstream)
}

fn end(recorder: Recorder, closed: schema::Closed) {
    if let Some(detail) = &closed.detail {
        tracing::warn!(session = recorder.id(), "{detail}");
    }
    let _ended: Option<()> = over(recorder, closed);
}

fn closed(by: &str, reason: &str, detail: String) -> schema::Closed {
    schema::Closed { detail: Some(detail), ..ended(by, reason) }
}

/// Octets that are made room for: most hellos are shorter.
const BEGINNING: usize = 2048;
