//! The poll loop over pipes in memory: how it ends. A paused clock moves only when nothing else can, so a relay that stands
//! still is one that a time limit ends.

mod flood;
mod limits;

use std::{io::ErrorKind, sync::Arc, sync::atomic::Ordering, time::Duration};

use poptap::{
    config::Timeouts,
    pop3::Peer,
    relay::{Ending, HalfClose, Outcome, relay},
    tap::{Filter, Pool, Tap, Untouched, ViolationKind},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex},
    join, select,
    time::timeout,
};

use crate::support::{
    odd::Odd,
    witness::{Space, Witness},
};

const GREETING: &str = "+OK ready\r\n";

/// The far end, and the one that the relay has.
fn pipe(capacity: usize) -> (DuplexStream, Odd) {
    let (far, near) = duplex(capacity);
    (far, Odd::new(near))
}

fn tap_with<F: Filter>(filter: F, outstanding: usize) -> Tap<Witness, F> {
    Tap::new(Witness::default(), filter, outstanding, Arc::new(Pool::new(2)))
}

fn tap() -> Tap<Witness, Untouched> {
    tap_with(Untouched, 1000)
}

/// Limits that differ, so that a test knows which one bit.
const LIMITS: Timeouts = Timeouts {
    connect: Duration::from_secs(1),
    handshake: Duration::from_secs(1),
    greeting: Duration::from_secs(20),
    login: Duration::from_secs(200),
    idle: Duration::from_secs(600),
    half_closed: Duration::from_secs(60),
    reply: Duration::from_secs(90),
    drain: Duration::from_secs(1),
    rest: Duration::from_secs(10),
    longest_rest: Duration::from_secs(300),
};

/// Runs both to their end; the clock is paused, so this hour passes only where nothing can move any more.
async fn both<A, B>(relaying: impl Future<Output = A>, dialogue: impl Future<Output = B>) -> (A, B) {
    timeout(Duration::from_secs(3600), async { join!(relaying, dialogue) }).await.expect("relay and dialogue stand still")
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
}

async fn hear(stream: &mut (impl AsyncRead + Unpin), text: &str) {
    let mut heard = vec![0; text.len()];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard.escape_ascii().to_string(), text.as_bytes().escape_ascii().to_string());
}

async fn hear_end(stream: &mut (impl AsyncRead + Unpin)) {
    assert_eq!(stream.read(&mut [0; 64]).await.unwrap(), 0, "the stream goes on");
}

/// Who ended the session, and how; anything else fails the test.
fn closed(outcome: &Outcome) -> (Peer, Ending) {
    match outcome {
        Outcome::Closed { by, how } => (*by, *how),
        other => panic!("not closed but {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_one_side_is_passed_on_once_and_the_other_side_goes_on() {
    for first in [Peer::Client, Peer::Upstream] {
        let ((mut client, mut to_client), (mut server, mut to_server)) = (pipe(64), pipe(64));
        let shutdowns = (to_client.shutdowns(), to_server.shutdowns());
        let mut tap = tap();
        let dialogue = async move {
            say(&mut server, GREETING).await;
            hear(&mut client, GREETING).await;
            let (ending, going_on) = if first == Peer::Client { (&mut client, &mut server) } else { (&mut server, &mut client) };
            ending.shutdown().await.unwrap();
            hear_end(going_on).await;
            say(going_on, "+OK NOOP\r\n").await;
            hear(ending, "+OK NOOP\r\n").await;
        };
        let (outcome, ()) = both(relay(&mut to_client, &mut to_server, &mut tap, &LIMITS, HalfClose::AtOnce), dialogue).await;
        assert_eq!(closed(&outcome), (first, Ending::Eof));
        assert_eq!((shutdowns.0.load(Ordering::Relaxed), shutdowns.1.load(Ordering::Relaxed)), (1, 1));
        assert_eq!((tap.totals(Peer::Client).1, tap.totals(Peer::Upstream).1), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_server_is_over_when_all_that_it_sent_is_delivered() {
    for (error, how) in [(ErrorKind::ConnectionReset, Ending::Reset), (ErrorKind::UnexpectedEof, Ending::Truncated)] {
        let ((mut client, mut to_client), (mut server, mut to_server)) = (pipe(16), pipe(4096));
        to_server.end = Some(error);
        let mut tap = tap();
        let body = "x".repeat(3000);
        let dialogue = async move {
            say(&mut client, "RETR 1\r\n").await;
            hear(&mut server, "RETR 1\r\n").await;
            say(&mut server, &format!("{GREETING}+OK\r\n{body}")).await;
            drop(server);
            hear(&mut client, &format!("{GREETING}+OK\r\n{body}")).await;
            hear_end(&mut client).await;
        };
        let (outcome, ()) = both(relay(&mut to_client, &mut to_server, &mut tap, &LIMITS, HalfClose::AtOnce), dialogue).await;
        assert_eq!(closed(&outcome), (Peer::Upstream, how));
        assert!(tap.into_observer().seen().iter().any(|line| line.contains("complete false")), "{how:?}");
    }
}

/// After a half-close the server's failure is what ended the session.
#[tokio::test(start_paused = true)]
async fn a_server_that_fails_behind_a_client_s_end_is_named() {
    let ((mut client, mut to_client), (mut server, mut to_server)) = (pipe(64), pipe(64));
    to_server.end = Some(ErrorKind::UnexpectedEof);
    let mut tap = tap();
    let dialogue = async move {
        say(&mut client, "RETR 1\r\n").await;
        client.shutdown().await.unwrap();
        hear(&mut server, "RETR 1\r\n").await;
        say(&mut server, "+OK ready\r\n+OK\r\nhalf a mess").await;
        drop(server);
        hear(&mut client, "+OK ready\r\n+OK\r\nhalf a mess").await;
        hear_end(&mut client).await;
    };
    let (outcome, ()) = both(relay(&mut to_client, &mut to_server, &mut tap, &LIMITS, HalfClose::AtOnce), dialogue).await;
    assert_eq!(closed(&outcome), (Peer::Upstream, Ending::Truncated));
}

/// Nobody is left to answer to, however much the server is silent.
#[tokio::test(start_paused = true)]
async fn a_client_that_resets_ends_the_session_at_once() {
    let ((mut client, mut to_client), (mut server, mut to_server)) = (pipe(64), pipe(64));
    to_client.end = Some(ErrorKind::ConnectionReset);
    let mut tap = tap();
    let started = tokio::time::Instant::now();
    let dialogue = async {
        say(&mut server, GREETING).await;
        hear(&mut client, GREETING).await;
        say(&mut client, "STAT\r\n").await;
        hear(&mut server, "STAT\r\n").await;
        drop(client);
    };
    let (outcome, ()) = both(relay(&mut to_client, &mut to_server, &mut tap, &LIMITS, HalfClose::AtOnce), dialogue).await;
    assert_eq!(closed(&outcome), (Peer::Client, Ending::Reset));
    assert_eq!(started.elapsed(), Duration::ZERO);
}

/// The server has ended its stream and does not read: that must not keep a client's ghost alive.
#[tokio::test(start_paused = true)]
async fn a_client_that_resets_behind_the_server_s_end_ends_the_session_at_once() {
    let ((mut client, mut to_client), (mut server, mut to_server)) = (pipe(64), pipe(64));
    to_client.end = Some(ErrorKind::ConnectionReset);
    to_server.deaf = true;
    let mut tap = tap();
    let started = tokio::time::Instant::now();
    let dialogue = async {
        say(&mut server, GREETING).await;
        server.shutdown().await.unwrap();
        hear(&mut client, GREETING).await;
        hear_end(&mut client).await;
        say(&mut client, "QUIT\r\n").await;
        drop(client);
    };
    let (outcome, ()) = both(relay(&mut to_client, &mut to_server, &mut tap, &LIMITS, HalfClose::AtOnce), dialogue).await;
    assert_eq!((closed(&outcome).0, started.elapsed()), (Peer::Upstream, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_side_that_cannot_be_written_to_has_ended() {
    for side in [Peer::Client, Peer::Upstream] {
        let ((mut client, mut to_client), (mut server, mut to_server)) = (pipe(64), pipe(64));
        let broken = if side == Peer::Client { &mut to_client } else { &mut to_server };
        broken.write_error = Some(ErrorKind::BrokenPipe);
        let mut tap = tap();
        let dialogue = async move {
            say(&mut server, GREETING).await;
            say(&mut client, "NOOP\r\n").await;
            if side == Peer::Upstream {
                hear(&mut client, GREETING).await;
                // What it still says is delivered, and the client's flood is left alone.
                let _ = client.write_all(&[b'\n'; 60]).await;
                say(&mut server, "-ERR bye\r\n").await;
                hear(&mut client, "-ERR bye\r\n").await;
                server.shutdown().await.unwrap();
                hear_end(&mut client).await;
            }
            (client, server)
        };
        let (outcome, _ends) = both(relay(&mut to_client, &mut to_server, &mut tap, &LIMITS, HalfClose::AtOnce), dialogue).await;
        assert_eq!(closed(&outcome), (side, Ending::Reset));
    }
}

/// Dovecot drops what it has not answered when it sees a `close_notify`.
#[tokio::test(start_paused = true)]
async fn over_tls_the_client_s_end_waits_for_the_replies() {
    let ((mut client, mut to_client), (mut server, mut to_server)) = (pipe(64), pipe(64));
    let shutdowns = to_server.shutdowns();
    let mut tap = tap();
    let dialogue = async move {
        say(&mut server, GREETING).await;
        say(&mut client, "STAT\r\nRETR 1\r\n").await;
        client.shutdown().await.unwrap();
        hear(&mut server, "STAT\r\nRETR 1\r\n").await;
        say(&mut server, "+OK 1 4\r\n+OK\r\ntext\r\n").await;
        hear(&mut client, "+OK ready\r\n+OK 1 4\r\n+OK\r\ntext\r\n").await;
        tokio::task::yield_now().await;
        assert_eq!(shutdowns.load(Ordering::Relaxed), 0, "the body is not over");
        say(&mut server, ".\r\n").await;
        hear_end(&mut server).await;
        drop(server);
        hear(&mut client, ".\r\n").await;
        hear_end(&mut client).await;
    };
    let (outcome, ()) = both(relay(&mut to_client, &mut to_server, &mut tap, &LIMITS, HalfClose::AfterReplies), dialogue).await;
    assert_eq!(closed(&outcome), (Peer::Client, Ending::Eof));
}

/// A client's process that ends sends FIN, and resets when more comes: that is noticed in the middle of a body.
#[tokio::test(start_paused = true)]
async fn over_tls_a_client_that_died_in_a_body_ends_the_session_at_once() {
    let ((mut client, mut to_client), (mut server, mut to_server)) = (pipe(64), pipe(64));
    let mut tap = tap();
    let started = tokio::time::Instant::now();
    let dialogue = async {
        say(&mut client, "RETR 1\r\n").await;
        say(&mut server, "+OK ready\r\n+OK\r\nfirst\r\n").await;
        hear(&mut client, "+OK ready\r\n+OK\r\nfirst\r\n").await;
        drop(client);
        let _ = server.write_all(b"second\r\n").await;
    };
    let (outcome, ()) = both(relay(&mut to_client, &mut to_server, &mut tap, &LIMITS, HalfClose::AfterReplies), dialogue).await;
    assert_eq!(closed(&outcome).0, Peer::Client);
    assert_eq!(started.elapsed(), Duration::ZERO);
}

/// Octets behind STLS wait for its reply; when both have gone, it never comes.
#[tokio::test(start_paused = true)]
async fn held_octets_do_not_keep_a_session_alive_that_both_have_left() {
    for half_close in [HalfClose::AtOnce, HalfClose::AfterReplies] {
        let ((mut client, mut to_client), (mut server, mut to_server)) = (pipe(64), pipe(64));
        let mut tap = tap();
        let started = tokio::time::Instant::now();
        let dialogue = async {
            say(&mut server, GREETING).await;
            say(&mut client, "STLS\r\nSTAT\r\n").await;
            hear(&mut server, "STLS\r\n").await;
            hear(&mut client, GREETING).await;
            drop(server);
            hear_end(&mut client).await;
            client.shutdown().await.unwrap();
        };
        let (outcome, ()) = both(relay(&mut to_client, &mut to_server, &mut tap, &LIMITS, half_close), dialogue).await;
        assert_eq!((closed(&outcome), started.elapsed()), ((Peer::Upstream, Ending::Eof), Duration::ZERO));
        assert_eq!(tap.totals(Peer::Client), (12, 6));
    }
}

#[tokio::test(start_paused = true)]
async fn octets_behind_an_agreed_stls_are_a_violation() {
    let ((mut client, mut to_client), (mut server, mut to_server)) = (pipe(64), pipe(64));
    let mut tap = tap();
    let dialogue = async {
        say(&mut server, GREETING).await;
        say(&mut client, "STLS\r\nUSER x\r\n").await;
        hear(&mut server, "STLS\r\n").await;
        say(&mut server, "+OK begin\r\n").await;
    };
    let (outcome, ()) = both(relay(&mut to_client, &mut to_server, &mut tap, &LIMITS, HalfClose::AtOnce), dialogue).await;
    assert!(matches!(&outcome, Outcome::Violation(found) if found.kind == ViolationKind::PlaintextBehindStls), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn one_octet_at_a_time_and_lazy_flushes_change_nothing() {
    let ((mut client, mut to_client), (mut server, mut to_server)) = (pipe(64), pipe(64));
    (to_client.write_most, to_client.lazy_flushes, to_server.write_most, to_server.lazy_flushes) = (1, 5, 1, 5);
    let mut tap = tap();
    let dialogue = async move {
        say(&mut server, GREETING).await;
        hear(&mut client, GREETING).await;
        say(&mut client, "RETR 1\r\nQUIT\r\n").await;
        hear(&mut server, "RETR 1\r\nQUIT\r\n").await;
        say(&mut server, "+OK\r\na\r\n.\r\n+OK bye\r\n").await;
        hear(&mut client, "+OK\r\na\r\n.\r\n+OK bye\r\n").await;
    };
    let (outcome, ()) = both(relay(&mut to_client, &mut to_server, &mut tap, &LIMITS, HalfClose::AtOnce), dialogue).await;
    assert_eq!(closed(&outcome).1, Ending::Eof);
    assert!(tap.has_quit());
}

#[tokio::test(start_paused = true)]
async fn a_full_record_delays_and_loses_nothing() {
    let ((mut client, mut to_client), (mut server, mut to_server)) = (pipe(64), pipe(64));
    let mut tap = tap();
    let room = Arc::clone(&tap.observer().room);
    let started = tokio::time::Instant::now();
    let dialogue = async move {
        say(&mut server, GREETING).await;
        hear(&mut client, GREETING).await;
        room.set(Space::None);
        say(&mut client, "NOOP\r\n").await;
        client.shutdown().await.unwrap();
        drop(server);
        tokio::time::sleep(Duration::from_secs(5)).await;
        room.set(Space::Enough);
        hear_end(&mut client).await;
    };
    let (outcome, ()) = both(relay(&mut to_client, &mut to_server, &mut tap, &LIMITS, HalfClose::AtOnce), dialogue).await;
    closed(&outcome);
    assert_eq!(started.elapsed(), Duration::from_secs(5), "the end does not overtake what is not recorded");
    let seen = tap.into_observer().seen();
    assert!(seen.iter().any(|line| line.contains("NOOP")), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_full_record_may_end_the_session() {
    let ((_client, mut to_client), (mut server, mut to_server)) = (pipe(64), pipe(64));
    let mut tap = tap();
    tap.observer().room.set(Space::Full);
    say(&mut server, GREETING).await;
    let outcome = relay(&mut to_client, &mut to_server, &mut tap, &LIMITS, HalfClose::AtOnce).await;
    assert!(matches!(outcome, Outcome::RecordFull), "{outcome:?}");
    assert_eq!(tap.totals(Peer::Upstream), (11, 11));
}

/// The relay is dropped after each poll, and another one goes on with the same tap and streams.
#[tokio::test(start_paused = true)]
async fn a_relay_may_be_dropped_anywhere() {
    for turns in 1..4 {
        let ((mut client, mut to_client), (mut server, mut to_server)) = (pipe(7), pipe(7));
        let mut tap = tap();
        let dialogue = async move {
            let commands = "RETR 1\r\nQUIT\r\n".repeat(50);
            let replies = "+OK\r\na line\r\n.\r\n+OK bye\r\n".repeat(50);
            say(&mut server, GREETING).await;
            join!(say(&mut client, &commands), hear(&mut server, &commands));
            hear(&mut client, GREETING).await;
            join!(say(&mut server, &replies), hear(&mut client, &replies));
        };
        let relaying = async {
            loop {
                select! {
                    biased;
                    outcome = relay(&mut to_client, &mut to_server, &mut tap, &LIMITS, HalfClose::AtOnce) => return outcome,
                    () = yields(turns) => {}
                }
            }
        };
        let (outcome, ()) = both(relaying, dialogue).await;
        assert_eq!(closed(&outcome).1, Ending::Eof);
        let totals = (tap.totals(Peer::Client), tap.totals(Peer::Upstream));
        assert_eq!(totals, ((700, 0), (1261, 0)));
        assert_eq!(tap.into_observer().accounted, (700, 1261));
    }
}

async fn yields(count: usize) {
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}
