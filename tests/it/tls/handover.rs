//! What holds for any octets from both sides while STLS is agreed to on the client's hop, in the core alone.

use poptap::{
    policy::{Builtin, ClientHop, Settings},
    pop3::Peer,
};
use proptest::prelude::*;

use crate::support::play::{Player, Step, random_pieces};

/// What a client may say before its STLS: commands that the server answers, that poptap answers, and those that forbid STLS.
fn before() -> impl Strategy<Value = &'static [u8]> {
    prop::sample::select(vec![
        &b"CAPA\r\n"[..],
        b"NOOP\r\n",
        b"AUTH\r\n",
        b"STLS x\r\n",
        b"XCLIENT A=b\r\n",
        b"LANG\r\n",
        b"nonsense\r\n",
        b"\r\n",
        b"USER tim\r\n",
        b"AUTH PLAIN\r\n",
        b"NO\0OP\r\n",
    ])
}

fn reply() -> impl Strategy<Value = &'static [u8]> {
    prop::sample::select(vec![
        &b"+OK\r\n"[..],
        b"-ERR no\r\n",
        b"+OK\r\nSTLS\r\n.\r\n",
        b".\r\n",
        b"+ \r\n",
        b"STLS\r\n",
        b"junk\r\n",
        b"+O",
        b"\n",
    ])
}

fn says(peer: Peer, octets: &[u8]) -> Step {
    Step::Says(peer, octets.to_vec())
}

fn session(required: bool, upstream_tls: bool) -> Player<Builtin> {
    let settings = Settings { client: ClientHop::Stls { required }, upstream_tls, ..Settings::default() };
    let mut player = Player::new(Builtin::new(settings), 1000);
    player.inside_tls = Some(Builtin::new(Settings { client: ClientHop::Tls, ..settings }));
    player
}

/// Whose octets in clear these are cannot be mistaken.
const BEHIND: &[u8] = b"BEHIND\r\n";
const HELD: &[u8] = b"+OK HELD\r\n";

fn contains(octets: &[u8], what: &[u8]) -> bool {
    octets.windows(what.len()).any(|window| window == what)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Between the agreement and TLS nothing moves, whatever either side sends; inside, what the server said meanwhile comes first.
    #[test]
    fn nothing_passes_a_closed_gate(
        commands in prop::collection::vec(before(), 0..6),
        replies in prop::collection::vec(reply(), 0..8),
        flags in any::<(bool, bool)>(),
        seed in any::<u64>(),
        most in 1usize..40,
    ) {
        let mut player = session(flags.0, flags.1);
        let mut cuts = random_pieces(seed, most);
        player.step(&says(Peer::Upstream, b"+OK ready\r\n"), &mut cuts);
        player.step(&says(Peer::Client, &[&commands.concat()[..], b"STLS\r\n"].concat()), &mut cuts);
        for reply in replies {
            player.step(&says(Peer::Upstream, reply), &mut cuts);
        }
        if !player.tap.is_handing_over() {
            return Ok(());
        }
        prop_assert!(player.reached().1.ends_with(b"+OK begin TLS now\r\n"));
        prop_assert!(!player.tap.wants_read(Peer::Client), "plain text behind STLS is left unread");
        let (to_upstream, to_client) = (player.reached().0.to_vec(), player.reached().1.to_vec());
        for octets in [BEHIND, b"\x16\x03\x01", b"\0"] {
            player.step(&says(Peer::Client, octets), &mut cuts);
            player.step(&says(Peer::Upstream, HELD), &mut cuts);
            prop_assert_eq!(player.reached(), (&to_upstream[..], &to_client[..]));
        }
        prop_assert!(player.tap.is_handing_over() && player.tap.violation().is_none());
        player.step(&Step::Secured, &mut cuts);
        player.step(&says(Peer::Client, b"QUIT\r\n"), &mut cuts);
        player.step(&says(Peer::Upstream, b"+OK bye\r\n"), &mut cuts);
        let played = player.end();
        prop_assert_eq!(played.to_upstream, [&to_upstream[..], b"QUIT\r\n"].concat());
        prop_assert!(played.to_client.starts_with(&[&to_client[..], b"(TLS)\n"].concat()));
        prop_assert!(played.to_client.ends_with(&[HELD, HELD, HELD, b"+OK bye\r\n"].concat()));
    }

    /// Octets that came in one piece with STLS: read already, and so neither forwarded nor kept for the inside.
    #[test]
    fn what_was_read_behind_stls_closes_the_session(
        commands in prop::collection::vec(before(), 0..6),
        behind in prop::collection::vec(any::<u8>(), 1..30),
        replies in prop::collection::vec(reply(), 0..8),
        flags in any::<(bool, bool)>(),
        seed in any::<u64>(),
    ) {
        let mut player = session(flags.0, flags.1);
        let mut cuts = random_pieces(seed, 1);
        player.step(&says(Peer::Upstream, b"+OK ready\r\n"), &mut cuts);
        let commands: Vec<&[u8]> = commands.into_iter().filter(|command| !begins_login(command)).collect();
        let lines = [&commands.concat()[..], b"STLS\r\n", BEHIND, &behind].concat();
        // Whole, or as large a piece as the buffer takes.
        player.step(&says(Peer::Client, &lines), &mut || usize::MAX);
        for reply in replies {
            player.step(&says(Peer::Upstream, reply), &mut cuts);
        }
        prop_assert!(!player.tap.is_handing_over(), "TLS may not begin");
        let (to_upstream, to_client) = player.reached();
        prop_assert!(!contains(to_upstream, b"BEHIND") && !contains(to_upstream, b"STLS\r\n"));
        prop_assert!(!contains(to_client, b"begin TLS"));
    }

    /// Where logins have to wait for TLS, no octet of one is forwarded before it, whatever comes from either side.
    #[test]
    fn no_login_is_forwarded_where_tls_is_required(
        parts in prop::collection::vec((before(), reply()), 0..12),
        ends in any::<bool>(),
        seed in any::<u64>(),
        most in 1usize..40,
    ) {
        let mut player = session(true, false);
        let mut cuts = random_pieces(seed, most);
        player.step(&says(Peer::Upstream, b"+OK ready\r\n"), &mut cuts);
        for (command, reply) in parts {
            player.step(&says(Peer::Client, command), &mut cuts);
            player.step(&says(Peer::Client, b"PASS LOGIN\r\n"), &mut cuts);
            player.step(&says(Peer::Upstream, reply), &mut cuts);
        }
        player.step(&says(Peer::Client, b"PASS LOGIN"), &mut cuts);
        if ends {
            player.step(&Step::Ends(Peer::Client), &mut cuts);
        }
        let to_upstream = player.reached().0;
        prop_assert!(!contains(to_upstream, b"LOGIN") && !contains(to_upstream, b"USER") && !contains(to_upstream, b"AUTH P"));
    }
}

fn begins_login(command: &[u8]) -> bool {
    [&b"USER tim\r\n"[..], b"AUTH PLAIN\r\n", b"NO\0OP\r\n"].contains(&command)
}

/// The server's replies cannot be matched any more while an STLS waits for its turn: the client would wait for ever, and take
/// the next line of the server's for the agreement.
#[test]
fn an_agreement_that_has_lost_its_place_closes_the_session() {
    for garbage in [&b"junk\r\n"[..], b"+ what\r\n"] {
        let mut player = session(false, false);
        let mut cuts = random_pieces(1, 10);
        player.step(&says(Peer::Upstream, b"+OK ready\r\n"), &mut cuts);
        player.step(&says(Peer::Client, b"NOOP\r\nSTLS\r\n"), &mut cuts);
        player.step(&says(Peer::Upstream, garbage), &mut cuts);
        player.step(&says(Peer::Upstream, b"+OK begin TLS now\r\n"), &mut cuts);
        assert!(player.tap.violation().is_some(), "nobody carries on");
        assert_eq!(player.reached().0, b"NOOP\r\n");
        assert!(!contains(player.reached().1, b"begin TLS"));
    }
}
