//! Four fixed dialogues through the core and its recorder, for counting instructions.
//!
//! ```text
//! cargo bench -p poptap-benches --bench dialogues -- sessions        one of: sessions, pipeline, message, rules
//! benches/instructions                             all four under callgrind, compared with what they took before
//! ```
//!
//! Nothing here depends on time, on sockets or on chance, so that the same program takes the same number of instructions.
#![allow(missing_docs, clippy::expect_used, reason = "a bench")]

use std::{
    env,
    hint::black_box,
    sync::{Arc, LazyLock},
};

use poptap::{
    config::HashPolicy,
    policy::Rules,
    pop3::Peer,
    record::{Recorder, Store, schema},
};
use support::{NO_RULES, Session, filter, filter_of, message, recorder, rules, transcript};

type Recorded = Session<Recorder, poptap::policy::Policy>;

fn main() {
    let chosen: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut transcript = transcript(folder.path(), &[]);
    // How fast SHA-256 is depends on the processor, and it is not ours. Nor may the speed of the disk play a part.
    (transcript.hash, transcript.buffer) = (HashPolicy::None, u64::MAX / 4);
    let store = Store::open(Some(&transcript), None).expect("a store");
    LazyLock::force(&NO_RULES);
    let (message, commands, replies) = (message(8 << 20), b"NOOP\r\n".repeat(20_000), b"+OK\r\n".repeat(20_000));
    let is_chosen = |name: &str| chosen.is_empty() || chosen.iter().any(|chosen| chosen == name);
    if is_chosen("sessions") {
        dialogue_sessions(&store);
    }
    if is_chosen("pipeline") {
        let mut session = logged_in(&store);
        dialogue_pipeline(&mut session, &commands, &replies);
        close(session);
    }
    if is_chosen("rules") {
        let mut session = Session::new(recorder(&store), filter_of(&hundred_rules()));
        session.say(Peer::Upstream, b"+OK ready\r\n");
        exchange(&mut session, b"USER bob\r\n", b"+OK\r\n");
        exchange(&mut session, b"PASS secret\r\n", b"+OK\r\n");
        dialogue_rules(&mut session, &commands, &replies);
        close(session);
    }
    if is_chosen("message") {
        let mut session = logged_in(&store);
        dialogue_message(&mut session, &message);
        close(session);
    }
}

/// A hundred whole sessions, one after the other: a login, the listings, three small messages, a deletion.
#[inline(never)]
fn dialogue_sessions(store: &Store) {
    // The sizes are true: others would be anomalies.
    const SMALL: &[u8] = b"+OK 63 octets\r\nFrom: somebody@example.net\r\nSubject: small\r\n\r\nA few words.\r\n..\r\n.\r\n";
    for _ in 0..100 {
        let mut session = logged_in(store);
        for (command, reply) in [
            (&b"CAPA\r\n"[..], &b"+OK\r\nTOP\r\nUIDL\r\nPIPELINING\r\nUSER\r\nSASL PLAIN\r\n.\r\n"[..]),
            (b"STAT\r\n", b"+OK 3 189\r\n"),
            (b"LIST\r\n", b"+OK\r\n1 63\r\n2 63\r\n3 63\r\n.\r\n"),
            (b"UIDL\r\n", b"+OK\r\n1 a\r\n2 b\r\n3 c\r\n.\r\n"),
            (b"RETR 1\r\n", SMALL),
            (b"RETR 2\r\n", SMALL),
            (b"RETR 3\r\n", SMALL),
            (b"DELE 3\r\n", b"+OK\r\n"),
            (b"QUIT\r\n", b"+OK bye\r\n"),
        ] {
            exchange(&mut session, command, reply);
        }
        close(session);
    }
}

/// 20,000 commands, and then their replies.
#[inline(never)]
fn dialogue_pipeline(session: &mut Recorded, commands: &[u8], replies: &[u8]) {
    black_box(session.say(Peer::Client, commands));
    black_box(session.say(Peer::Upstream, replies));
}

/// The same with a hundred rules of which none matches.
#[inline(never)]
fn dialogue_rules(session: &mut Recorded, commands: &[u8], replies: &[u8]) {
    // Two functions with one body become one, and then callgrind finds only one of their names.
    exchange(session, b"STAT\r\n", b"+OK 1 2\r\n");
    black_box(session.say(Peer::Client, commands));
    black_box(session.say(Peer::Upstream, replies));
}

/// Each has a pattern.
fn hundred_rules() -> Arc<Rules> {
    let rule = |number| {
        format!("[[rule]]\nname = '{number}'\nwhen = {{ line = '^(retr|dele|x{number}) [0-9]*{number}$' }}\naction = 'deny'\n")
    };
    Arc::new(Rules::new(&rules(&(0..100).map(rule).collect::<String>())).expect("the rules are valid"))
}

/// One message of 8 MiB.
#[inline(never)]
fn dialogue_message(session: &mut Recorded, message: &[u8]) {
    exchange(session, b"RETR 1\r\n", b"+OK\r\n");
    black_box(session.say(Peer::Upstream, message));
}

fn logged_in(store: &Store) -> Recorded {
    let mut session = Session::new(recorder(store), filter());
    session.say(Peer::Upstream, b"+OK ready\r\n");
    exchange(&mut session, b"USER somebody@example.net\r\n", b"+OK\r\n");
    exchange(&mut session, b"PASS hunter2\r\n", b"+OK logged in\r\n");
    session
}

/// A command, and a while later its reply.
fn exchange(session: &mut Recorded, command: &[u8], reply: &[u8]) {
    for (peer, octets) in [(Peer::Client, command), (Peer::Upstream, reply)] {
        session.tap.observer().turn();
        session.say(peer, octets);
        session.tap.observer().rest();
    }
}

fn close(session: Recorded) {
    let closed = schema::Closed { by: "client".to_owned(), reason: "quit".to_owned(), ..schema::Closed::default() };
    black_box(session.tap.into_observer().close(closed));
}
