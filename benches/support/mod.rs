//! A session without sockets: what the relay does to the tap, and nothing else.
#![allow(clippy::expect_used, clippy::missing_panics_doc, clippy::must_use_candidate, missing_docs, reason = "a bench may fail")]

use std::{
    path::Path,
    sync::{Arc, LazyLock},
};

use clap::Parser as _;
use poptap::{
    cli::{Cli, Command},
    config::{self, Transcript},
    policy::{Facts, Policy, Rules, Settings, Terms},
    pop3::Peer,
    record::{Recorder, Store, schema},
    tap::{Caps, Filter, Observer, Pool, Tap},
};

/// What `poptap run pop3://server` would record into `folder`, with `options` besides.
pub fn transcript(folder: &Path, options: &[&str]) -> Transcript {
    let folder = folder.to_str().expect("a temporary directory has a plain name");
    let words = [&["poptap", "run", "pop3://server.invalid", "--transcript", folder], options].concat();
    let Command::Run(arguments) = Cli::try_parse_from(words).expect("the options are valid").command else {
        unreachable!("run was asked for")
    };
    config::load(&arguments).expect("the options are valid").config.transcript.expect("a transcript was asked for")
}

/// The rules of a configuration file.
pub fn rules(file: &str) -> Vec<config::Rule> {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("poptap.toml");
    std::fs::write(&path, file).expect("a temporary file");
    let path = path.to_str().expect("a temporary directory has a plain name");
    let words = ["poptap", "run", "pop3://server.invalid", "--no-transcript", "--config", path];
    let Command::Run(arguments) = Cli::try_parse_from(words).expect("the options are valid").command else {
        unreachable!("run was asked for")
    };
    config::load(&arguments).expect("the file is valid").config.rules
}

/// A recorder of a session that was just opened.
pub fn recorder(store: &Store) -> Recorder {
    store.recorder(schema::Opened {
        client: "192.0.2.1:40000".to_owned(),
        listener: "192.0.2.2:110".to_owned(),
        upstream: "pop3://server.invalid".to_owned(),
        ..schema::Opened::default()
    })
}

/// The filter of a session that is plain on both hops, as in a server: without any rule.
pub fn filter() -> Policy {
    filter_of(&NO_RULES)
}

/// Compiled once in a process, as in a server; a bench forces it before it begins to count.
pub static NO_RULES: LazyLock<Arc<Rules>> = LazyLock::new(|| Arc::new(Rules::new(&[]).expect("no rules")));

/// The same with rules.
pub fn filter_of(rules: &Arc<Rules>) -> Policy {
    let localhost = std::net::IpAddr::from([127, 0, 0, 1]);
    let facts = Facts { client: localhost, listener: (localhost, 1110).into(), upstream: "server", tls: false };
    let caps = Caps { command: 512, sasl: 64 * 1024 };
    Policy::new(Settings::default(), Some(Terms::of_rules(rules.for_session(&facts), caps)))
}

/// A body of about `octets` on the wire: headers, lines of 60 to 80 octets of which every fiftieth is dot-stuffed, the terminator.
pub fn message(octets: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(octets + 100);
    text.extend_from_slice(b"From: Somebody <somebody@example.net>\r\nSubject: a message\r\n\r\n");
    for number in 0_usize.. {
        if text.len() >= octets {
            break;
        }
        let start = if number.is_multiple_of(50) { ".." } else { "" };
        let filling = "The quick brown fox jumps over the lazy dog, and so on and on and on.";
        text.extend_from_slice(format!("{start}{number:06} {}\r\n", &filling[..52 + number % 17]).as_bytes());
    }
    text.extend_from_slice(b".\r\n");
    text
}

/// A tap over which octets are carried as the relay carries them.
pub struct Session<O, F> {
    pub tap: Tap<O, F>,
}

/// The buffers of all sessions, as in a server.
static POOL: LazyLock<Arc<Pool>> = LazyLock::new(|| Arc::new(Pool::new(2)));

impl<O: Observer, F: Filter> Session<O, F> {
    pub fn new(observer: O, filter: F) -> Self {
        Self { tap: Tap::new(observer, filter, 20_000, Arc::clone(&POOL)) }
    }

    /// `peer` says `octets`: read, labelled, and gone to the other side. Returns how many octets came out.
    pub fn say(&mut self, peer: Peer, mut octets: &[u8]) -> usize {
        let mut passed = 0;
        while !octets.is_empty() {
            assert!(self.tap.wants_read(peer), "a session that is not read any more");
            let space = self.tap.space(peer);
            let count = space.len().min(octets.len());
            space[..count].copy_from_slice(&octets[..count]);
            self.tap.filled(peer, count);
            octets = &octets[count..];
            self.tap.advance();
            passed += self.deliver();
        }
        self.tap.rest();
        passed
    }

    fn deliver(&mut self) -> usize {
        let mut passed = 0;
        for from in [Peer::Client, Peer::Upstream] {
            while !self.tap.output(from).is_empty() {
                let count = self.tap.output(from).len();
                self.tap.wrote(from, count);
                passed += count;
            }
        }
        passed
    }
}
