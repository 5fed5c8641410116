//! Time limits, to the millisecond.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use poptap::{
    config::Timeouts,
    policy::{Facts, Policy, Settings, Terms},
    relay::{HalfClose, Limit, Outcome, relay},
    tap::{Caps, Untouched},
};
use tokio::{
    io::{self, AsyncReadExt as _, AsyncWriteExt as _},
    join,
    time::{Instant, sleep, timeout},
};

use crate::support::rules::compiled;

use super::{GREETING, LIMITS, both, closed, hear, pipe, say, tap, tap_with};

const SECOND: Duration = Duration::from_secs(1);
const LOGIN: &str = "USER u\r\nPASS p\r\n";
const LOGGED_IN: &str = "+OK\r\n+OK\r\n";

fn expired(outcome: &Outcome) -> Limit {
    match outcome {
        Outcome::TimedOut(limit) => *limit,
        other => panic!("no limit expired but {other:?}"),
    }
}

/// What the timer counts in.
fn assert_elapsed(started: Instant, seconds: u64) {
    let (elapsed, expected) = (started.elapsed(), Duration::from_secs(seconds));
    assert!((expected..expected + Duration::from_millis(2)).contains(&elapsed), "{elapsed:?} in place of {expected:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing() {
    let ((mut client, mut to_client), (_server, mut to_server)) = (pipe(64), pipe(64));
    let (mut tap, started) = (tap(), Instant::now());
    // The client is not meant to speak yet; that it does is no greeting.
    let dialogue = async {
        sleep(19 * SECOND).await;
        say(&mut client, "CAPA\r\n").await;
    };
    let (outcome, ()) = both(relay(&mut to_client, &mut to_server, &mut tap, &LIMITS, HalfClose::AtOnce), dialogue).await;
    assert_eq!(expired(&outcome), Limit::Greeting);
    assert_elapsed(started, 20);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_log_in() {
    let ((mut client, mut to_client), (mut server, mut to_server)) = (pipe(64), pipe(64));
    let (mut tap, started) = (tap(), Instant::now());
    let dialogue = async {
        sleep(10 * SECOND).await;
        say(&mut server, GREETING).await;
        for _ in 0..19 {
            sleep(10 * SECOND).await;
            say(&mut client, "NOOP\r\n").await;
            hear(&mut server, "NOOP\r\n").await;
            say(&mut server, "-ERR\r\n").await;
        }
    };
    let (outcome, ()) = both(relay(&mut to_client, &mut to_server, &mut tap, &LIMITS, HalfClose::AtOnce), dialogue).await;
    assert_eq!(expired(&outcome), Limit::Login, "whatever else it says");
    assert_elapsed(started, 210);
}

/// The client has not heard of its login: to it, this is one.
#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_the_shield() {
    let ((mut client, mut to_client), (mut server, mut to_server)) = (pipe(64), pipe(64));
    let facts = Facts { client: [127, 0, 0, 1].into(), listener: ([127, 0, 0, 1], 1110).into(), upstream: "server", tls: false };
    let rules = compiled("[[rule]]\nname = 'keep'\naction = 'shield'").for_session(&facts);
    let policy = Policy::new(Settings::default(), Some(Terms::of_rules(rules, Caps { command: 512, sasl: 2048 })));
    let (mut tap, started) = (tap_with(policy, 1000), Instant::now());
    let dialogue = async {
        say(&mut server, GREETING).await;
        for (line, heard) in [("USER u\r\n", "USER u\r\n"), ("PASS p\r\n", "PASS p\r\n")] {
            say(&mut client, line).await;
            hear(&mut server, heard).await;
            say(&mut server, "+OK\r\n").await;
        }
        hear(&mut server, "LIST\r\n").await;
        sleep(100 * SECOND).await;
        say(&mut server, "+OK\r\n1 1").await;
    };
    let (outcome, ()) = both(relay(&mut to_client, &mut to_server, &mut tap, &LIMITS, HalfClose::AtOnce), dialogue).await;
    assert_eq!(expired(&outcome), Limit::Login);
    assert_elapsed(started, 200);
}

#[tokio::test(start_paused = true)]
async fn silence_after_login() {
    let ((mut client, mut to_client), (mut server, mut to_server)) = (pipe(64), pipe(64));
    let (mut tap, started) = (tap(), Instant::now());
    let dialogue = async {
        say(&mut server, GREETING).await;
        say(&mut client, LOGIN).await;
        hear(&mut server, LOGIN).await;
        say(&mut server, LOGGED_IN).await;
        sleep(599 * SECOND).await;
        say(&mut client, "NOOP\r\n").await;
        sleep(599 * SECOND).await;
        say(&mut server, "+OK\r\n").await;
    };
    let (outcome, ()) = both(relay(&mut to_client, &mut to_server, &mut tap, &LIMITS, HalfClose::AtOnce), dialogue).await;
    assert_eq!(expired(&outcome), Limit::Idle);
    assert_elapsed(started, 599 + 599 + 600);
}

#[tokio::test(start_paused = true)]
async fn silence_when_one_side_has_ended() {
    for half_close in [HalfClose::AtOnce, HalfClose::AfterReplies] {
        let ((mut client, mut to_client), (mut server, mut to_server)) = (pipe(64), pipe(64));
        let (mut tap, started) = (tap(), Instant::now());
        let dialogue = async {
            say(&mut server, GREETING).await;
            say(&mut client, LOGIN).await;
            client.shutdown().await.unwrap();
            sleep(50 * SECOND).await;
            say(&mut server, "+OK\r\n").await;
        };
        let (outcome, ()) = both(relay(&mut to_client, &mut to_server, &mut tap, &LIMITS, half_close), dialogue).await;
        assert_eq!(expired(&outcome), Limit::HalfClosed);
        assert_elapsed(started, 110);
    }
}

/// A server closes behind its last octet, and a client on a slow line takes its time: writing is not silence.
#[tokio::test(start_paused = true)]
async fn a_slow_client_gets_all_that_a_server_left_behind() {
    let ((mut client, mut to_client), (mut server, mut to_server)) = (pipe(1), pipe(4096));
    let mut tap = tap();
    let dialogue = async move {
        say(&mut server, GREETING).await;
        say(&mut server, &"x".repeat(150)).await;
        drop(server);
        let mut heard = 0;
        loop {
            sleep(SECOND).await;
            match client.read(&mut [0; 64]).await.unwrap() {
                0 => return heard,
                count => heard += count,
            }
        }
    };
    let (outcome, heard) = both(relay(&mut to_client, &mut to_server, &mut tap, &LIMITS, HalfClose::AtOnce), dialogue).await;
    closed(&outcome);
    assert_eq!(heard, GREETING.len() + 150);
}

/// Courier swallows what is pipelined behind a login, and the cap fills up.
#[tokio::test(start_paused = true)]
async fn a_server_that_answers_no_more_at_the_cap() {
    let ((mut client, mut to_client), (mut server, mut to_server)) = (pipe(64), pipe(64));
    let mut tap = tap_with(Untouched, 2);
    let started = Instant::now();
    let dialogue = async {
        say(&mut server, GREETING).await;
        say(&mut client, LOGIN).await;
        say(&mut client, "STAT\r\n").await;
        hear(&mut server, LOGIN).await;
        hear(&mut server, "STAT\r\n").await;
        assert_elapsed(started, 90);
        say(&mut server, "+OK late\r\n").await;
        hear(&mut client, "+OK ready\r\n+OK late\r\n").await;
    };
    let relaying =
        timeout(100 * SECOND, async { relay(&mut to_client, &mut to_server, &mut tap, &LIMITS, HalfClose::AtOnce).await });
    let (outcome, ()) = both(relaying, dialogue).await;
    assert!(outcome.is_err(), "it goes on: {outcome:?}");
    assert!(tap.is_opaque());
}

/// The client takes its replies slowly: as long as something moves, nobody is silent, and the record goes on.
#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_does_not_blind_the_record() {
    let ((mut client, mut to_client), (mut server, mut to_server)) = (pipe(64), pipe(64));
    let mut tap = tap_with(Untouched, 2);
    let body = "x".repeat(1500);
    let dialogue = async move {
        say(&mut server, &format!("{GREETING}{LOGGED_IN}")).await;
        say(&mut client, &format!("{LOGIN}RETR 1\r\nSTAT\r\nSTAT\r\n")).await;
        hear(&mut client, &format!("{GREETING}{LOGGED_IN}")).await;
        hear(&mut server, &format!("{LOGIN}RETR 1\r\n")).await;
        let reply = format!("+OK\r\n{body}\r\n.\r\n+OK 1 1\r\n+OK 1 1\r\n");
        join!(say(&mut server, &reply), async {
            for piece in reply.as_bytes().chunks(50) {
                sleep(80 * SECOND).await;
                hear(&mut client, std::str::from_utf8(piece).unwrap()).await;
            }
        });
    };
    let (outcome, ()) = both(relay(&mut to_client, &mut to_server, &mut tap, &LIMITS, HalfClose::AtOnce), dialogue).await;
    closed(&outcome);
    assert!(!tap.is_opaque());
}

/// The scheduler takes its turn away from a session that never runs dry, and with it the sleep that ends it.
#[tokio::test(start_paused = true)]
async fn a_flood_does_not_put_a_limit_off() {
    let (mut client, to_client) = pipe(64);
    say(&mut client, "RETR 1\r\n").await;
    let mut to_client = io::join(to_client, io::sink());
    let mut to_server = io::join((&b"+OK\r\n+OK\r\n"[..]).chain(io::repeat(b'x')), io::sink());
    let (mut tap, limits) = (tap(), Timeouts { login: Duration::ZERO, ..LIMITS });
    let mut relaying = pin!(relay(&mut to_client, &mut to_server, &mut tap, &limits, HalfClose::AtOnce));
    let polled = poll_fn(|context| Poll::Ready(relaying.as_mut().poll(context))).await;
    assert!(matches!(polled, Poll::Ready(Outcome::TimedOut(Limit::Login))), "{polled:?}");
}
