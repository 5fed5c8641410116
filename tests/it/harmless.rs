//! Whatever a client and a server send: no transcript, and nothing that is printed of one, can drive a terminal.

use std::{fs, path::Path, sync::Arc, time::Duration};

use clap::Parser as _;
use poptap::{
    cli::{Cli, Command},
    config,
    inspect::{self, Selection, View, Which},
    policy::{Builtin, Settings},
    pop3::Peer,
    record::{Recorder, Store, schema},
    tap::{Pool, Tap},
};
use proptest::prelude::*;

/// What a client or a server may say, and what terminals obey.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let evil = prop::sample::select(vec![
        &b"\x1b[2J"[..],
        b"\x1b]0;owned\x07",
        b"\xc2\x9b31m",
        b"\xe2\x80\xae",
        b"\xe2\x80\xa8",
        b"\r",
        b"\n",
        b"\x08\x7f\0",
        b"\x9b2J",
        b"=?utf-8?Q?=1B[2J=0D=0A?=",
        b"+OK fake\r\nC: PASS",
        b"\\x1B",
    ]);
    let frame = prop::sample::select(vec![
        &b"USER "[..],
        b"RETR 1\r\n",
        b"TOP 1 0\r\n",
        b"CAPA\r\n",
        b"LIST\r\n",
        b"UIDL\r\n",
        b"XFOO ",
        b"AUTH PLAIN\r\n",
        b"QUIT\r\n",
        b"\r\n",
        b"+OK ",
        b"+OK\r\n",
        b"-ERR ",
        b"Subject: ",
        b"From: ",
        b".\r\n",
        b"\r\n\r\n",
    ]);
    prop_oneof![evil.prop_map(<[u8]>::to_vec), frame.prop_map(<[u8]>::to_vec), prop::collection::vec(any::<u8>(), 0..12)]
}

fn says() -> impl Strategy<Value = (bool, Vec<u8>)> {
    (any::<bool>(), prop::collection::vec(fragment(), 1..6).prop_map(|fragments| fragments.concat()))
}

fn store(folder: &Path) -> Store {
    let folder = folder.to_str().unwrap();
    let words = ["poptap", "run", "pop3://server.invalid", "--transcript", folder, "--content", "full"];
    let Command::Run(arguments) = Cli::try_parse_from(words).unwrap().command else { unreachable!() };
    Store::open(config::load(&arguments).unwrap().config.transcript.as_ref(), None).unwrap()
}

fn record(store: &Store, said: &[(bool, Vec<u8>)]) {
    let opened = schema::Opened { client: "192.0.2.1:40000".to_owned(), ..schema::Opened::default() };
    let recorder: Recorder = store.recorder(opened);
    let mut tap = Tap::new(recorder, Builtin::new(Settings::default()), 100, Arc::new(Pool::new(2)));
    for (is_client, octets) in said {
        let peer = if *is_client { Peer::Client } else { Peer::Upstream };
        let mut rest = &octets[..];
        while !rest.is_empty() && tap.wants_read(peer) && tap.violation().is_none() {
            let space = tap.space(peer);
            let count = space.len().min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            tap.filled(peer, count);
            rest = &rest[count..];
            tap.advance();
            for from in [Peer::Client, Peer::Upstream] {
                while !tap.output(from).is_empty() {
                    let count = tap.output(from).len();
                    tap.wrote(from, count);
                    tap.advance();
                }
            }
        }
    }
    let closed = schema::Closed { by: "client".to_owned(), reason: "eof".to_owned(), ..schema::Closed::default() };
    let _summary = tap.into_observer().close(closed);
}

/// C0 but for line feeds, DEL, C1, and what turns the direction of writing.
fn drives_terminals(text: &str) -> Option<char> {
    let is_such = |character: char| {
        character.is_control() && character != '\n'
            || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().find(|character| is_such(*character))
}

fn printed(folder: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let (mut all, text) = (Vec::new(), View::default());
    let mut take = |name, command: &mut dyn FnMut(&mut Vec<u8>, &mut Vec<u8>)| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        command(&mut out, &mut err);
        out.extend(err);
        all.push((name, out));
    };
    take("show", &mut |out, err| inspect::show(folder, &Which::Last, text, out, err).unwrap());
    take("show --bodies", &mut |out, err| {
        inspect::show(folder, &Which::Last, View { bodies: true, ..text }, out, err).unwrap();
    });
    take("show --json", &mut |out, err| inspect::show(folder, &Which::Last, View { json: true, ..text }, out, err).unwrap());
    take("list", &mut |out, err| assert!(inspect::list(folder, &Selection::all(), text, out, err).unwrap()));
    let every_command = Selection { filter: "n > 0 or not running".parse().unwrap(), ..Selection::all() };
    take("grep", &mut |out, err| assert!(inspect::grep(folder, &every_command, text, out, err).unwrap()));
    take("grep --json", &mut |out, err| {
        assert!(inspect::grep(folder, &every_command, View { json: true, ..text }, out, err).unwrap());
    });
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn nothing_that_is_recorded_or_printed_drives_a_terminal(said in prop::collection::vec(says(), 1..30)) {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("t");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let store = store(&place);
        record(&store, &[&[(false, b"+OK ready\r\n".to_vec())][..], &said].concat());
        prop_assert!(runtime.block_on(store.finish(Duration::from_secs(60))).is_none());
        for entry in fs::read_dir(&place).unwrap() {
            let path = entry.unwrap().path();
            let octets = fs::read(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            let text = if path.extension().is_some_and(|ending| ending == "zst") { zstd::decode_all(&octets[..]).unwrap() } else { octets };
            if name.contains(".jsonl") {
                prop_assert_eq!(drives_terminals(std::str::from_utf8(&text).unwrap()), None, "{}", name);
            }
        }
        for (command, octets) in printed(&place) {
            prop_assert!(!octets.is_empty(), "{} printed nothing", command);
            prop_assert_eq!(drives_terminals(std::str::from_utf8(&octets).unwrap()), None, "{}", command);
        }
    }
}
