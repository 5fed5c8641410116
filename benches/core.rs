//! The pure core, by itself: what cutting lines, labelling, redacting and encoding cost.
//!
//! ```text
//! cargo bench -p poptap-benches --bench core
//! ```
//!
//! Counts are of octets or of exchanges (a command and its reply); the machine's clock rate turns them into cycles.
#![allow(missing_docs, clippy::expect_used, clippy::wildcard_imports, reason = "a bench")]

use divan::{
    Bencher, black_box,
    counter::{BytesCount, ItemsCount},
};
use poptap::{
    policy::{Applicable, Facts, Question, Rules},
    pop3::{Body, Command, Peer, Stage},
    record::{Recorder, Store},
    tap::{Event, Observer, Untouched},
};
use std::sync::Arc;
use support::{Session, filter, message, recorder, rules, transcript};

fn main() {
    divan::main();
}

/// Exchanges in one round.
const EXCHANGES: usize = 1000;

/// Sees everything, and keeps nothing.
struct Nobody;

impl Observer for Nobody {
    fn ready(&self) -> bool {
        true
    }

    fn on(&mut self, event: &Event<'_>) {
        black_box(event);
    }
}

fn turn_and_rest(recorder: &mut Recorder) {
    recorder.rest();
    recorder.turn();
}

fn logged_in<O: Observer, F: poptap::tap::Filter>(observer: O, filter: F) -> Session<O, F> {
    let mut session = Session::new(observer, filter);
    session.say(Peer::Upstream, b"+OK ready\r\n");
    for command in [&b"USER bench\r\n"[..], b"PASS bench\r\n"] {
        session.say(Peer::Client, command);
        session.say(Peer::Upstream, b"+OK\r\n");
    }
    session
}

#[divan::bench]
fn command_lines(bencher: Bencher<'_, '_>) {
    let lines = [&b"NOOP"[..], b"RETR 17", b"UIDL", b"USER somebody@example.net", b"XYZZY"];
    bencher.counter(ItemsCount::new(lines.len())).bench(|| {
        for line in lines {
            black_box(Command::parse(black_box(line)));
        }
    });
}

#[divan::bench]
fn body_scanned(bencher: Bencher<'_, '_>) {
    let message = message(1 << 20);
    bencher.counter(BytesCount::new(message.len())).bench(|| {
        let (mut body, mut rest) = (Body::new(false), &message[..]);
        while !rest.is_empty() {
            rest = &rest[body.step(black_box(rest)).consumed..];
        }
    });
}

/// What the rules cost a command that none of them holds for.
mod judging {
    use super::*;

    fn applicable(count: usize, conditions: impl Fn(usize) -> String) -> Applicable {
        let rule = |number| format!("[[rule]]\nname = '{number}'\naction = 'deny'\nwhen = {{ {} }}\n", conditions(number));
        let rules = Arc::new(Rules::new(&rules(&(0..count).map(rule).collect::<String>())).expect("they compile"));
        let facts = Facts {
            client: [192, 0, 2, 1].into(),
            listener: ([127, 0, 0, 1], 1110).into(),
            upstream: "pop3://server.invalid",
            tls: false,
        };
        rules.for_session(&facts)
    }

    fn judge(bencher: Bencher<'_, '_>, rules: &Applicable) {
        let question = Question {
            line: b"NOOP",
            word: b"NOOP",
            stage: Stage::Transaction,
            user: Some("somebody@example.net"),
            user_pending: false,
            message: None,
            size: None,
        };
        assert!(rules.judge(&question).decides.is_none());
        bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
            black_box(rules.judge(black_box(&question)));
        });
    }

    #[divan::bench(args = [0, 1, 100])]
    fn lines(bencher: Bencher<'_, '_>, count: usize) {
        judge(bencher, &applicable(count, |number| format!("line = '^(top|retr) {number}( |$)'")));
    }

    #[divan::bench(args = [1, 100])]
    fn words(bencher: Bencher<'_, '_>, count: usize) {
        judge(bencher, &applicable(count, |number| format!("command = ['DELE', 'X{number}']")));
    }

    #[divan::bench(args = [1, 100])]
    fn users(bencher: Bencher<'_, '_>, count: usize) {
        judge(bencher, &applicable(count, |number| format!("stage = 'transaction', user = 'user{number}@.*'")));
    }
}

mod exchanges {
    use super::*;

    fn round<O: Observer, F: poptap::tap::Filter>(bencher: Bencher<'_, '_>, mut session: Session<O, F>, turn: impl Fn(&mut O)) {
        let (commands, replies) = (b"NOOP\r\n".repeat(EXCHANGES), b"+OK\r\n".repeat(EXCHANGES));
        bencher.counter(ItemsCount::new(EXCHANGES)).bench_local(|| {
            turn(session.tap.observer());
            session.say(Peer::Client, &commands);
            session.say(Peer::Upstream, &replies)
        });
    }

    #[divan::bench]
    fn labelled(bencher: Bencher<'_, '_>) {
        round(bencher, logged_in(Nobody, Untouched), |_| {});
    }

    #[divan::bench]
    fn labelled_and_filtered(bencher: Bencher<'_, '_>) {
        round(bencher, logged_in(Nobody, filter()), |_| {});
    }

    #[divan::bench]
    fn not_recorded(bencher: Bencher<'_, '_>) {
        let store = Store::open(None, None).expect("nothing to open");
        round(bencher, logged_in(recorder(&store), filter()), turn_and_rest);
    }

    #[divan::bench]
    fn recorded(bencher: Bencher<'_, '_>) {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let mut transcript = transcript(folder.path(), &[]);
        transcript.buffer = u64::MAX / 4;
        let store = Store::open(Some(&transcript), None).expect("a store");
        round(bencher, logged_in(recorder(&store), filter()), turn_and_rest);
    }
}

mod messages {
    use super::*;

    fn round<O: Observer>(bencher: Bencher<'_, '_>, observer: O) {
        let message = message(1 << 20);
        let mut session = logged_in(observer, filter());
        bencher.counter(BytesCount::new(message.len())).bench_local(|| {
            session.say(Peer::Client, b"RETR 1\r\n");
            session.say(Peer::Upstream, b"+OK\r\n");
            session.say(Peer::Upstream, &message)
        });
    }

    #[divan::bench]
    fn labelled(bencher: Bencher<'_, '_>) {
        round(bencher, Nobody);
    }

    fn recorded(bencher: Bencher<'_, '_>, options: &[&str], change: impl Fn(&mut poptap::config::Transcript)) {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let mut transcript = transcript(folder.path(), options);
        transcript.buffer = u64::MAX / 4;
        change(&mut transcript);
        let store = Store::open(Some(&transcript), None).expect("a store");
        round(bencher, recorder(&store));
    }

    #[divan::bench]
    fn not_recorded(bencher: Bencher<'_, '_>) {
        round(bencher, recorder(&Store::open(None, None).expect("nothing to open")));
    }

    #[divan::bench]
    fn counted(bencher: Bencher<'_, '_>) {
        recorded(bencher, &[], |transcript| transcript.hash = poptap::config::HashPolicy::None);
    }

    #[divan::bench]
    fn hashed(bencher: Bencher<'_, '_>) {
        recorded(bencher, &[], |_| {});
    }

    #[divan::bench]
    fn kept(bencher: Bencher<'_, '_>) {
        recorded(bencher, &["--content", "full"], |transcript| transcript.hash = poptap::config::HashPolicy::None);
    }
}

mod encoding {
    use super::*;
    use poptap::record::schema::{Body, Command, Record, Reply, StatusWord, Text};

    fn line(text: &str) -> Text {
        Text { text: Some(text.to_owned()), octets: 6, offset: 123_456, ..Text::default() }
    }

    fn encode(bencher: Bencher<'_, '_>, body: Body) {
        let record = Record {
            v: 1,
            session: "5e4wenz43n1d".to_owned(),
            time: "2026-11-23T06:30:01.000042Z".to_owned(),
            at_us: 1_234_567,
            body,
        };
        let mut octets = Vec::new();
        bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
            octets.clear();
            serde_json::to_writer(&mut octets, black_box(&record)).expect("encodes");
        });
    }

    #[divan::bench]
    fn command(bencher: Bencher<'_, '_>) {
        encode(
            bencher,
            Body::Command(Command {
                n: 4711,
                keyword: "NOOP".to_owned(),
                line: line("NOOP"),
                mechanism: None,
                user: None,
                forwarded: true,
                own: false,
            }),
        );
    }

    #[divan::bench]
    fn reply(bencher: Bencher<'_, '_>) {
        let keyword = "NOOP".to_owned();
        encode(
            bencher,
            Body::Reply(Reply {
                n: 4711,
                keyword,
                status: StatusWord::Ok,
                line: line("+OK"),
                latency_us: 81,
                multi_line: false,
                local: false,
            }),
        );
    }
}
