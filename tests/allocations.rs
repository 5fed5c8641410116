//! What a busy session asks of the allocator. A binary of its own, since the counting allocator serves all of a process.

use std::sync::Arc;

use clap::Parser as _;
use poptap::{
    cli::{Cli, Command},
    config,
    policy::{Builtin, ClientHop, Facts, Question, Rules, Settings},
    pop3::{Peer, Stage},
    record::{Recorder, Store, schema},
    tap::{Event, Filter, Observer, Pool, Tap},
};

/// A pipeline of everything that a client says often, and the replies of one line or of many. The size is true: another would be
/// an anomaly.
const COMMANDS: &[u8] = b"NOOP\r\nSTAT\r\nLIST 1\r\nuidl 2\r\nTOP 1 0\r\nRETR 1\r\nDELE 1\r\nRSET\r\nXYZZY\r\n";
const REPLIES: &[u8] =
    b"+OK\r\n+OK 2 150\r\n+OK 1 12\r\n+OK 2 b\r\n+OK\r\na: b\r\n\r\n.\r\n+OK\r\na: b\r\n\r\n..c\r\n.\r\n+OK gone\r\n+OK\r\n-ERR what?\r\n";
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
fn judging_a_command_that_no_rule_holds_for_asks_for_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("poptap.toml");
    let conditions = ["line = '^DELE'", "command = 'RETR', user = 'b.*'", "stage = 'authorization', user = 'bob'"];
    let rule = |(number, when): (usize, &str)| format!("[[rule]]\nname = 'r{number}'\naction = 'deny'\nwhen = {{ {when} }}\n");
    std::fs::write(&file, conditions.into_iter().enumerate().map(rule).collect::<String>()).unwrap();
    let words = ["poptap", "run", "pop3://server.invalid", "--no-transcript", "--config", file.to_str().unwrap()];
    let Command::Run(arguments) = Cli::try_parse_from(words).unwrap().command else { panic!("run was asked for") };
    let rules = Arc::new(Rules::new(&config::load(&arguments).unwrap().config.rules).unwrap());
    let facts = Facts {
        client: [192, 0, 2, 1].into(),
        listener: ([127, 0, 0, 1], 1110).into(),
        upstream: "pop3://server.invalid",
        tls: false,
    };
    let rules = rules.for_session(&facts);
    let question = |line| Question {
        line,
        word: line,
        stage: Stage::Transaction,
        user: Some("bob"),
        user_pending: false,
        message: None,
        size: None,
    };
    // The first one may: patterns get their memory when they are first looked for.
    assert!(rules.judge(&question(b"NOOP")).decides.is_none());
    let asked = allocation_counter::measure(|| assert!(rules.judge(&question(b"NOOP")).decides.is_none()));
    assert_eq!(asked.count_total, 0);
    let asked = allocation_counter::measure(|| assert!(rules.judge(&question(b"DELE 1")).decides.is_some()));
    assert!(asked.count_total > 0, "and it is seen where one holds");
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
