//! What a busy session asks of the allocator. A binary of its own, since the counting allocator serves all of a process.

use std::sync::Arc;

use clap::Parser as _;
use poptap::{
    cli::{Cli, Command},
    config,
    policy::{Builtin, ClientHop, Settings},
    pop3::Peer,
    record::{Recorder, Store, schema},
    tap::{Event, Filter, Observer, Pool, Tap},
};

/// A pipeline of everything that a client says often, and the replies of one line or of many.
const COMMANDS: &[u8] = b"NOOP\r\nSTAT\r\nLIST 1\r\nuidl 2\r\nTOP 1 0\r\nRETR 1\r\nDELE 1\r\nRSET\r\nXYZZY\r\n";
const REPLIES: &[u8] =
    b"+OK\r\n+OK 2 150\r\n+OK 1 74\r\n+OK 2 b\r\n+OK\r\na: b\r\n\r\n.\r\n+OK\r\na: b\r\n\r\n..c\r\n.\r\n+OK gone\r\n+OK\r\n-ERR what?\r\n";
const IN_ONE: u64 = 9;

/// Sees everything, and keeps nothing.
struct Nobody;

impl Observer for Nobody {
    fn ready(&self) -> bool {
        true
    }

    fn on(&mut self, _: &Event<'_>) {}
}

fn logged_in<O: Observer, F: Filter>(observer: O, filter: F) -> Tap<O, F> {
    let mut tap = Tap::new(observer, filter, 10_000, Arc::new(Pool::new(2)));
    say(&mut tap, Peer::Upstream, b"+OK ready\r\n");
    for command in ["USER bob\r\n", "PASS hunter2\r\n", "NOOP\r\n"] {
        say(&mut tap, Peer::Client, command.as_bytes());
        say(&mut tap, Peer::Upstream, b"+OK\r\n");
    }
    tap
}

fn say<O: Observer, F: Filter>(tap: &mut Tap<O, F>, peer: Peer, octets: &[u8]) {
    tap.space(peer)[..octets.len()].copy_from_slice(octets);
    tap.filled(peer, octets.len());
    tap.advance();
    while !tap.output(peer).is_empty() {
        tap.wrote(peer, tap.output(peer).len());
    }
    assert_eq!(tap.totals(peer).1, 0, "all of it passed");
}

/// How often the allocator is asked for memory while the pipeline passes so many times.
fn asked<O: Observer, F: Filter>(tap: &mut Tap<O, F>, times: u64) -> u64 {
    let pass = |tap: &mut Tap<O, F>| {
        say(tap, Peer::Client, COMMANDS);
        say(tap, Peer::Upstream, REPLIES);
    };
    // What grows to its size once does so now.
    pass(tap);
    allocation_counter::measure(|| (0..times).for_each(|_| pass(tap))).count_total
}

#[test]
fn labelling_a_command_asks_for_no_memory() {
    for client in [ClientHop::Plain, ClientHop::Tls] {
        for upstream_tls in [false, true] {
            let filter = Builtin::new(Settings { client, upstream_tls, ..Settings::default() });
            assert_eq!(asked(&mut logged_in(Nobody, filter), 10), 0, "{client:?}, server inside TLS: {upstream_tls}");
        }
    }
}

#[test]
fn recording_a_command_asks_for_memory_by_the_page() {
    let folder = tempfile::tempdir().unwrap();
    let words = ["poptap", "run", "pop3://server.invalid", "--transcript", folder.path().to_str().unwrap()];
    let Command::Run(arguments) = Cli::try_parse_from(words).unwrap().command else { panic!("run") };
    let transcript = config::load(&arguments).unwrap().config.transcript.unwrap();
    let store = Store::open(Some(&config::Transcript { hash: config::HashPolicy::None, ..transcript }), None).unwrap();
    let recorder: Recorder = store.recorder(schema::Opened::default());
    let mut tap = logged_in(recorder, Builtin::new(Settings::default()));
    let without_bodies = |tap: &mut Tap<Recorder, Builtin>| {
        say(tap, Peer::Client, b"NOOP\r\nSTAT\r\nLIST 1\r\nUIDL 2\r\nDELE 1\r\nRSET\r\n");
        say(tap, Peer::Upstream, b"+OK\r\n+OK 2 150\r\n+OK 1 74\r\n+OK 2 b\r\n+OK\r\n+OK\r\n");
    };
    without_bodies(&mut tap);
    let commands = 600;
    let count = allocation_counter::measure(|| (0..commands / 6).for_each(|_| without_bodies(&mut tap))).count_total;
    assert!(count > 0 && count * 20 < commands, "{count} times for {commands} commands");
    // Each message has a record of its own beside those of its command and reply.
    let (times, messages) = (100, 2);
    let count = asked(&mut tap, times);
    assert!(count < times * (IN_ONE + 10 * messages), "{count} times for {times} pipelines");
}
