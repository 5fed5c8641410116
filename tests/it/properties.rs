//! What holds for any octets from both sides, in any interleaving and any cuts.

use std::{collections::VecDeque, sync::Arc};

use poptap::{
    policy::{Builtin, Settings},
    pop3::{Command, Keyword, Peer, Wants},
    tap::{Action, Context, Edit, Filter, Hold, Replying, Rule, Untouched, Verdict},
};
use proptest::prelude::*;

use crate::support::play::{Player, Step, apart, pieces_of, play, random_pieces, said, sides, was_closed};

/// Fragments that lead into every corner of the tracker, and noise.
fn client_fragment() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        &b"USER tim\r\n"[..],
        b"PASS x y\r\n",
        b"STAT\r\n",
        b"LIST\r\n",
        b"LIST 1\r\n",
        b"RETR 1\r\n",
        b"TOP 1 0\n",
        b"UIDL \r\n",
        b"AUTH\r\n",
        b"AUTH PLAIN\r\n",
        b"AUTH PLAIN AHRp\r\n",
        b"AUTH NTLM\r\n",
        b"*\r\n",
        b"=\r\n",
        b"\r\n",
        b"CAPA\r\n",
        b"STLS\r\n",
        b" stls \n",
        b"XTND XMIT\r\n",
        b".\r\n",
        b"XCLIENT A=b\r\n",
        b"LANG\r\n",
        b"QUIT\r\n",
        b"\x16\x03\x01",
        b"NO\0OP\r\n",
        b"NOOP\rSTAT\r\n",
        b"S",
        b"ST",
        b"LS\r\n",
        b"\0\0\0\x04",
    ]);
    prop_oneof![
        6 => known.prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..20),
        1 => (400usize..700).prop_map(|length| [vec![b'N'; length], b"\r\n".to_vec()].concat()),
    ]
}

fn server_fragment() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        &b"+OK\r\n"[..],
        b"+OK ready <1@x>\r\n",
        b"-ERR no\r\n",
        b"+ \r\n",
        b"+\r\n",
        b"+ dGVzdA==\r\n",
        b"+OK\n",
        b".\r\n",
        b".\n",
        b"..\r\n",
        b"1 2\r\n",
        b"STLS\r\n",
        b"text\r\n\r\nmore",
        b"\r\n",
        b"\r",
        b"\n",
        b".",
        b"+",
        b"\0\0",
        b"+OK [XCLIENT]\r\n",
    ]);
    prop_oneof![
        6 => known.prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..20),
        1 => (400usize..700).prop_map(|length| [vec![b'a'; length], b"\r\n".to_vec()].concat()),
    ]
}

pub(crate) fn conversation() -> impl Strategy<Value = Vec<Step>> {
    let said = prop_oneof![
        client_fragment().prop_map(|octets| Step::Says(Peer::Client, octets)),
        server_fragment().prop_map(|octets| Step::Says(Peer::Upstream, octets)),
    ];
    (prop::collection::vec(said, 0..40), any::<(bool, bool)>()).prop_map(|(mut steps, (client, upstream))| {
        steps.extend(client.then_some(Step::Ends(Peer::Client)));
        steps.extend(upstream.then_some(Step::Ends(Peer::Upstream)));
        steps
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn output_equals_input_without_filters(steps in conversation(), seed in any::<u64>(), most in 1usize..60) {
        let played = play(Untouched, &steps, &mut random_pieces(seed, most));
        let (client, upstream) = (said(&steps, Peer::Client), said(&steps, Peer::Upstream));
        prop_assert!(client.starts_with(&played.to_upstream) && upstream.starts_with(&played.to_client));
        let held = played.to_upstream.len() < client.len();
        if held && !was_closed(&played) {
            // Only two things hold octets back: an STLS whose reply has not come, and the greeting of which only a part has.
            let gated = played.events.iter().any(|event| event.contains("STLS"));
            prop_assert!(gated, "octets are missing: {:#?}", played.events);
        }
        if played.to_client.len() < upstream.len() && !was_closed(&played) {
            prop_assert!(played.to_client.is_empty() && !upstream.contains(&b'\n'), "octets are missing: {:#?}", played.events);
        }
    }

    /// One octet at a time or all at once: the same events, in each direction's own order.
    #[test]
    fn labels_do_not_depend_on_chunking(steps in conversation(), seed in any::<u64>(), most in 1usize..60) {
        let settings = Settings { refuse_stls: seed % 2 == 0, ..Settings::default() };
        let steps = apart(steps);
        let whole = play(Builtin::new(settings), &steps, &mut pieces_of(usize::MAX));
        let cut = play(Builtin::new(settings), &steps, &mut random_pieces(seed, most));
        prop_assert_eq!(sides(&whole), sides(&cut));
        if !was_closed(&whole) {
            prop_assert_eq!((whole.to_upstream, whole.to_client), (cut.to_upstream, cut.to_client));
        }
    }

    #[test]
    fn every_octet_is_accounted_for_once(steps in conversation(), seed in any::<u64>(), most in 1usize..60) {
        let mut steps = steps;
        steps.push(Step::Ends(Peer::Client));
        steps.push(Step::Ends(Peer::Upstream));
        let played = play(Untouched, &steps, &mut random_pieces(seed, most));
        if !was_closed(&played) && played.to_upstream.len() as u64 == played.received.0 {
            prop_assert_eq!(played.accounted, played.received, "{:#?}", played.events);
        }
    }

    /// An observer that is not ready delays, and changes nothing.
    #[test]
    fn a_slow_observer_changes_nothing(steps in conversation(), seed in any::<u64>()) {
        let steps = apart(steps);
        let expected = play(Untouched, &steps, &mut pieces_of(7));
        let mut player = Player::new(Untouched, 1000);
        for (at, step) in steps.iter().enumerate() {
            player.tap.observer().stall.set(u32::try_from(seed.rotate_left(u32::try_from(at).unwrap()) % 5).unwrap());
            player.step(step, &mut pieces_of(7));
        }
        prop_assert_eq!(player.end(), expected);
    }

    #[test]
    fn nothing_passes_a_closed_gate(before in prop::collection::vec(client_fragment(), 0..5), behind in prop::collection::vec(any::<u8>(), 1..50), seed in any::<u64>()) {
        let mut player = Player::new(Untouched, 1000);
        let mut cuts = random_pieces(seed, 20);
        player.step(&Step::Says(Peer::Upstream, b"+OK ready\r\n".to_vec()), &mut cuts);
        let before: Vec<u8> = before.into_iter().filter(|line| is_plain_command(line)).flatten().collect();
        player.step(&Step::Says(Peer::Client, [&before[..], b"STLS\r\n", &behind].concat()), &mut cuts);
        let played = player.end();
        prop_assert_eq!(played.to_upstream, [&before[..], b"STLS\r\n"].concat());
    }

    #[test]
    fn plaintext_behind_stls_never_reaches_the_server(behind in prop::collection::vec(any::<u8>(), 1..50), seed in any::<u64>()) {
        prop_assume!(behind[0] != 0x16);
        let steps = [
            Step::Says(Peer::Upstream, b"+OK ready\r\n".to_vec()),
            Step::Says(Peer::Client, [b"STLS\r\n", &behind[..]].concat()),
            Step::Says(Peer::Upstream, b"+OK begin\r\n".to_vec()),
        ];
        let played = play(Untouched, &steps, &mut random_pieces(seed, 20));
        prop_assert!(was_closed(&played));
        prop_assert_eq!(played.to_upstream, b"STLS\r\n".to_vec());
    }

    /// Random pipelines with random verdicts, against a model: one reply for each line, in the order of the lines.
    #[test]
    fn replies_keep_order_under_deny(lines in prop::collection::vec(any::<bool>(), 0..60), lag in 0usize..10, seed in any::<u64>()) {
        let mut player = Player::new(DenyDele, 1000);
        let mut cuts = random_pieces(seed, 30);
        player.step(&Step::Says(Peer::Upstream, b"+OK ready\r\n".to_vec()), &mut cuts);
        let (mut server, mut expected) = (VecDeque::new(), b"+OK ready\r\n".to_vec());
        for (n, &denied) in lines.iter().enumerate() {
            let line = if denied { format!("DELE {n}\r\n") } else { format!("RETR {n}\r\n") };
            player.step(&Step::Says(Peer::Client, line.into_bytes()), &mut cuts);
            if denied {
                expected.extend(b"-ERR denied\r\n");
            } else {
                let reply = format!("+OK {n}\r\nDELE {n}\r\n..\r\n.\r\n").into_bytes();
                expected.extend(&reply);
                server.push_back(reply);
            }
            while server.len() > lag {
                player.step(&Step::Says(Peer::Upstream, server.pop_front().unwrap()), &mut cuts);
            }
        }
        for reply in server {
            player.step(&Step::Says(Peer::Upstream, reply), &mut cuts);
        }
        let played = player.end();
        prop_assert_eq!(played.to_client, expected);
        prop_assert!(!played.to_upstream.windows(4).any(|window| window == b"DELE"));
    }

    /// A peer that is never written to: no more than a buffer of the other one's octets is taken.
    #[test]
    fn buffers_never_exceed_limit(pieces in prop::collection::vec(server_fragment(), 1..400)) {
        let mut player = Player::new(Untouched, 1000);
        let mut taken = 0;
        for piece in pieces.iter().cycle().take(5000) {
            let space = if player.tap.wants_read(Peer::Upstream) { player.tap.space(Peer::Upstream) } else { break };
            let count = piece.len().min(space.len());
            space[..count].copy_from_slice(&piece[..count]);
            player.tap.filled(Peer::Upstream, count);
            player.tap.advance();
            taken += count;
        }
        prop_assert!(taken <= poptap::tap::LARGE);
    }
}

/// 100,000 conversations of random octets and fragments: no panic, no octet lost.
#[test]
fn a_hundred_thousand_random_streams() {
    let mut next = random_pieces(20_261_123, usize::MAX >> 34);
    let fragments: [&[u8]; 24] = [
        b"USER a\r\n",
        b"PASS b\r\n",
        b"AUTH PLAIN\r\n",
        b"AUTH X y\r\n",
        b"*\r\n",
        b"RETR 1\r\n",
        b"LIST\r\n",
        b"CAPA\r\n",
        b"STLS\r\n",
        b"XTND XMIT\r\n",
        b"+OK\r\n",
        b"-ERR\r\n",
        b"+ \r\n",
        b".\r\n",
        b"..\n",
        b"\r",
        b"\n",
        b"\0",
        b"+OK\n",
        b"x",
        b"\x16\x03",
        b"QUIT\r\n",
        b"NOOP \0\r\n",
        b"LANG\r\n",
    ];
    for round in 0..100_000u64 {
        let mut steps = Vec::new();
        for _ in 0..next() % 24 {
            let peer = if next().is_multiple_of(2) { Peer::Client } else { Peer::Upstream };
            let octets = match next() % 4 {
                0 => (0..next() % 12).map(|_| next().to_le_bytes()[0]).collect(),
                _ => fragments[next() % fragments.len()].to_vec(),
            };
            steps.push(Step::Says(peer, octets));
        }
        let played = play(Untouched, &steps, &mut random_pieces(round + 1, 9));
        let (client, upstream) = (said(&steps, Peer::Client), said(&steps, Peer::Upstream));
        assert!(client.starts_with(&played.to_upstream) && upstream.starts_with(&played.to_client), "round {round}: {steps:?}");
        let gated = played.events.iter().any(|event| event.contains("STLS"));
        assert!(gated || was_closed(&played) || played.to_upstream == client, "round {round} lost octets: {steps:?}");
    }
}

/// Behind an unsettled AUTH a line that the filter wants waits, however it ends: nobody knows yet what it is.
#[test]
fn a_bare_line_feed_does_not_slip_past_the_filter() {
    for line in ["STLS\r\n", "STLS\n", "CAPA\n", "\tstls\n", "XCLIENT ADDR=192.0.2.1\n"] {
        let filter = Builtin::new(Settings { refuse_stls: true, ..Settings::default() });
        let played = play(
            filter,
            &[
                Step::Says(Peer::Upstream, b"+OK [XCLIENT] ready\r\n".to_vec()),
                Step::Says(Peer::Client, format!("AUTH X\r\n{line}").into_bytes()),
            ],
            &mut pieces_of(100),
        );
        assert_eq!(played.to_upstream.escape_ascii().to_string(), "AUTH X\\r\\n", "{line:?}");
    }
    // An empty response can be no command.
    for line in ["\r\n", "\n", "*\r\n", "Y2Fw\n"] {
        let filter = Builtin::new(Settings { refuse_stls: true, ..Settings::default() });
        let steps = [Step::Says(Peer::Client, format!("AUTH X\r\n{line}").into_bytes())];
        let played = play(filter, &steps, &mut pieces_of(100));
        assert_eq!(String::from_utf8(played.to_upstream).unwrap(), format!("AUTH X\r\n{line}"));
    }
}

/// The server waits for it, so it must not wait for the server.
#[test]
fn a_response_that_is_due_passes_at_the_cap() {
    let mut player = Player::new(Untouched, 1);
    for (peer, text) in [
        (Peer::Upstream, "+OK ready\r\n"),
        (Peer::Client, "AUTH PLAIN\r\n"),
        (Peer::Upstream, "+ \r\n"),
        (Peer::Client, "AHUAcA==\r\n"),
    ] {
        player.step(&Step::Says(peer, text.as_bytes().to_vec()), &mut pieces_of(100));
    }
    assert_eq!(String::from_utf8(player.end().to_upstream).unwrap(), "AUTH PLAIN\r\nAHUAcA==\r\n");
}

/// Refuses DELE.
struct DenyDele;

impl Filter for DenyDele {
    fn hold(&self, beginning: &[u8], _first: bool) -> Hold {
        if b"DELE".starts_with(&beginning[..beginning.len().min(4)]) { Hold::More } else { Hold::Stream }
    }

    fn command(&mut self, command: &Command<'_>, _context: Context) -> Verdict {
        match command.keyword {
            Keyword::Dele => {
                Verdict::Answer { text: Arc::from(&b"-ERR denied\r\n"[..]), action: Action::Answer, rule: Rule::BuiltIn("test") }
            }
            _ => Verdict::Forward(Wants::default()),
        }
    }

    fn greeting(&mut self, _line: &[u8]) -> bool {
        false
    }

    fn response_line(&mut self, _reply: Replying, _line: &[u8]) -> Edit {
        Edit::Keep
    }
}

fn is_plain_command(line: &[u8]) -> bool {
    let keyword = Command::parse(line).keyword;
    line.ends_with(b"\n") && !matches!(keyword, Keyword::Stls | Keyword::Auth | Keyword::Xtnd) && line[0] != 0
}
