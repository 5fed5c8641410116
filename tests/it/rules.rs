//! What holds for rules and the shield whatever the two sides send, in any chunking.

use std::{
    collections::VecDeque,
    sync::{Arc, LazyLock},
    time::Duration,
};

use poptap::{
    policy::{Facts, Memory, Policy, Rules, Settings, Terms},
    pop3::Peer,
    tap::Caps,
};
use proptest::prelude::*;

use crate::{
    properties::conversation,
    support::{
        play::{Played, Player, Step, pieces_of, play, random_pieces},
        rules,
    },
};

const CAPS: Caps = Caps { command: 512, sasl: 2048 };
const FACTS: Facts<'static> = Facts {
    client: std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    listener: std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1110),
    upstream: "server",
    tls: false,
};

fn policy(rules: &Arc<Rules>) -> Policy {
    Policy::new(Settings::default(), Some(Terms::of_rules(rules.for_session(&FACTS), CAPS)))
}

fn says(peer: Peer, text: &[u8]) -> Step {
    Step::Says(peer, text.to_vec())
}

// ── order ──

/// What a line of a random pipeline is, what becomes of it, and what the server says to what it gets.
#[derive(Clone, Copy, Debug)]
enum Sent {
    Retr,
    Denied,
    Answered,
    Rewritten,
    Listed,
    Allowed,
}

static MIXED: LazyLock<Arc<Rules>> = LazyLock::new(|| {
    rules::compiled(
        r#"
[[rule]]
name = "denied"
when = { command = "DELE" }
action = { deny = "denied" }
[[rule]]
name = "answered"
when = { command = "XANSWER" }
action = { reply = ["here", ".dot"] }
[[rule]]
name = "rewritten"
when = { line = "^top ([0-9]+) .*" }
action = { rewrite = "RETR $1" }
[[rule]]
name = "renamed"
when = { command = "STAT" }
action = { rewrite_reply = "changed", matching = "original" }
[[rule]]
name = "allowed"
when = { command = "NOOP" }
action = "allow"
"#,
    )
});

impl Sent {
    /// The client's line, what the server gets, what it says, and what the client gets.
    fn told(self, n: usize) -> (String, String, String, String) {
        let retr = format!("RETR {n}\r\n");
        let body = format!("+OK\r\nDELE {n}\r\n-ERR not a reply\r\n..\r\n.\r\n");
        let (none, err) = (String::new(), "-ERR denied\r\n".to_owned());
        match self {
            Self::Retr => (retr.clone(), retr, body.clone(), body),
            Self::Denied => (format!("dele\t {n}\r\n"), none.clone(), none, err),
            Self::Answered => ("XANSWER\n".to_owned(), none.clone(), none, "+OK here\r\n..dot\r\n.\r\n".to_owned()),
            Self::Rewritten => (format!(" TOP  {n} 7\r\n"), retr, body.clone(), body),
            Self::Listed => {
                let (said, shown) = ("+OK original\r\n".to_owned(), "+OK changed\r\n".to_owned());
                ("STAT\r\n".to_owned(), "STAT\r\n".to_owned(), said, shown)
            }
            Self::Allowed => {
                let ok = "+OK\r\n".to_owned();
                ("NOOP\r\n".to_owned(), "NOOP\r\n".to_owned(), ok.clone(), ok)
            }
        }
    }
}

fn sent() -> impl Strategy<Value = Sent> {
    prop::sample::select(vec![Sent::Retr, Sent::Denied, Sent::Answered, Sent::Rewritten, Sent::Listed, Sent::Allowed])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Random pipelines with random verdicts against a model: each line is answered in its turn, and the server sees no more
    /// than it may.
    #[test]
    fn replies_keep_order_whatever_the_rules_say(lines in prop::collection::vec(sent(), 0..40), lag in 0usize..10, seed in any::<u64>()) {
        let mut cuts = random_pieces(seed, 30);
        let mut player = Player::new(policy(&MIXED), 1000);
        player.step(&says(Peer::Upstream, b"+OK ready\r\n"), &mut cuts);
        let (mut owed, mut to_server, mut to_client) = (VecDeque::new(), String::new(), "+OK ready\r\n".to_owned());
        for (n, line) in lines.iter().enumerate() {
            let (line, got, said, shown) = line.told(n);
            player.step(&says(Peer::Client, line.as_bytes()), &mut cuts);
            owed.push_back(said);
            to_server += &got;
            to_client += &shown;
            while owed.len() > lag {
                player.step(&says(Peer::Upstream, owed.pop_front().unwrap().as_bytes()), &mut cuts);
            }
        }
        for said in owed {
            player.step(&says(Peer::Upstream, said.as_bytes()), &mut cuts);
        }
        let played = player.end();
        prop_assert_eq!(String::from_utf8(played.to_upstream).unwrap(), to_server);
        prop_assert_eq!(String::from_utf8(played.to_client).unwrap(), to_client);
    }
}

// ── dry run ──

static EVERYTHING_DRY: LazyLock<Arc<Rules>> = LazyLock::new(|| {
    rules::compiled(
        r#"
[policy]
dry_run = true
[[rule]]
name = "greet"
action = { rewrite_greeting = "x", matching = "." }
[[rule]]
name = "hide"
action = { remove_capability = ["STLS", "TOP", "1"] }
[[rule]]
name = "add"
action = { add_capability = ["X"] }
[[rule]]
name = "change"
action = { rewrite_reply = "", matching = ".*" }
[[rule]]
name = "large"
when = { size = ">1" }
action = "close"
[[rule]]
name = "shield"
action = "shield"
[[rule]]
name = "tim"
when = { user = "tim" }
action = "deny"
[[rule]]
name = "all"
when = { line = "." }
action = { rewrite = "NOOP" }
[[rule]]
name = "close"
action = "close"
"#,
    )
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Octet for octet what the built-in handling alone lets through, when it does.
    #[test]
    fn a_dry_run_changes_nothing(steps in conversation(), seed in any::<u64>(), most in 1usize..60) {
        let bare = play(Policy::new(Settings::default(), None), &steps, &mut random_pieces(seed, most));
        let dry = play(policy(&EVERYTHING_DRY), &steps, &mut random_pieces(seed, most));
        prop_assert_eq!((&bare.to_upstream, &bare.to_client, bare.ended), (&dry.to_upstream, &dry.to_client, dry.ended));
    }
}

// ── failing closed ──

static NO_DELE: LazyLock<Arc<Rules>> = LazyLock::new(|| {
    rules::compiled(
        r#"
[[rule]]
name = "no dele"
when = { command = ["DELE"] }
action = "deny"
"#,
    )
});

/// Octets that have got past some filter.
fn hostile_fragment() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        &b"DELE 1\r\n"[..],
        b" DELE 1\r\n",
        b"\tdele\t1\n",
        b"DELE 1",
        b"DE",
        b"LE 1\r\n",
        b"\rDELE 1\r\n",
        b"\0DELE 1\r\n",
        b"NOOP\0",
        b"AUTH PLAIN\r\n",
        b"AUTH XFOO\r\n",
        b"AUTH PLAIN AAAA",
        b"*\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"PASS x\r\n",
        b"APOP a b\r\n",
        b"STLS\r\n",
        b"XTND XMIT\r\n",
        b".\r\n",
        b"RETR 1\rQUIT\r\n",
        b"\x0c",
        b"\x0bDELE\x0c1\r\n",
    ]);
    prop_oneof![
        8 => known.prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..20),
        2 => (300usize..2300).prop_map(|length| vec![b'A'; length]),
    ]
}

fn reply_fragment() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec![&b"+OK\r\n"[..], b"-ERR\r\n", b"+ \r\n", b"+OK\n", b".\r\n", b"text\r\n", b"+OK 1 2\r\n"])
        .prop_map(<[u8]>::to_vec)
}

/// Every beginning of a command that some server would find in what reached it: behind a line end, a bare CR or a NUL, and
/// wherever a long line may be cut. The data behind XTND XMIT is no command.
fn commands_in(octets: &[u8]) -> Vec<Vec<u8>> {
    let parts = octets.split(|octet| matches!(octet, b'\n' | b'\r' | 0x0b | 0x0c | 0));
    parts.map(|part| part.trim_ascii_start().to_ascii_uppercase()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn no_server_ever_finds_a_denied_command(
        steps in prop::collection::vec(prop_oneof![
            3 => hostile_fragment().prop_map(|octets| Step::Says(Peer::Client, octets)),
            1 => reply_fragment().prop_map(|octets| Step::Says(Peer::Upstream, octets)),
        ], 0..30),
        ends in any::<bool>(),
        seed in any::<u64>(),
        most in 1usize..200,
    ) {
        let mut steps = steps;
        steps.insert(0, says(Peer::Upstream, b"+OK ready\r\n"));
        steps.extend(ends.then_some(Step::Ends(Peer::Client)));
        let played = play(policy(&NO_DELE), &steps, &mut random_pieces(seed, most));
        let data = played.events.iter().any(|event| event.contains("client data"));
        if !data {
            for command in commands_in(&played.to_upstream) {
                let is_dele = command.starts_with(b"DELE") && command.get(4).is_some_and(|octet| !octet.is_ascii_alphanumeric());
                prop_assert!(!is_dele, "{:#?}", played.events);
                prop_assert!(command.len() <= 512 || command.starts_with(b"AUTH ") || !command.contains(&b' '));
            }
        }
    }
}

#[test]
fn a_sasl_response_that_becomes_a_command_is_broken_off() {
    for tail in ["DELE 1\r\n", " DELE 1\r\n", "\rDELE 1\r\n", "\0DELE 1\r\n", "\tDELE\r\n"] {
        for size in [1, 7, 600, usize::MAX] {
            let response = [&[b'B'; 1500][..], tail.as_bytes()].concat();
            let steps = [
                says(Peer::Upstream, b"+OK ready\r\n"),
                says(Peer::Client, b"AUTH XOAUTH2\r\n"),
                says(Peer::Upstream, b"+ \r\n"),
                Step::Says(Peer::Client, response),
            ];
            let played = play(policy(&NO_DELE), &steps, &mut pieces_of(size));
            let behind = &played.to_upstream[b"AUTH XOAUTH2\r\n".len()..];
            assert!(!behind.contains(&b'\n') && !behind.contains(&b' '), "{tail:?} by {size}: {}", behind.escape_ascii());
            let end = String::from_utf8_lossy(&played.to_client);
            assert!(end.ends_with("+ \r\n-ERR the line is malformed\r\n"), "{tail:?} by {size}: {end}");
        }
    }
}

#[test]
fn lines_over_their_caps_are_never_complete() {
    for (line, cap) in [("NOOP ", 512), ("AUTH XOAUTH2 ", 2048), ("AUTH XOAUTH2", 2048)] {
        for size in [1, 100, usize::MAX] {
            let mut steps = vec![says(Peer::Upstream, b"+OK ready\r\n"), says(Peer::Client, line.as_bytes())];
            if !line.ends_with(' ') {
                steps.extend([says(Peer::Client, b"\r\n"), says(Peer::Upstream, b"+ \r\n")]);
            }
            steps.push(Step::Says(Peer::Client, vec![b'A'; cap]));
            steps.push(says(Peer::Client, b"\r\nDELE 1\r\n"));
            let played = play(policy(&NO_DELE), &steps, &mut pieces_of(size));
            let lines = played.to_upstream.split(|&octet| octet == b'\n').count() - 1;
            assert_eq!(lines, usize::from(!line.ends_with(' ')), "{line} by {size}");
            assert!(played.to_upstream.len() <= line.len() + 2 + cap, "{line} by {size}");
            assert!(played.events.iter().any(|event| event.contains("line-too-long")), "{line} by {size}: {:#?}", played.events);
        }
    }
}

/// A token may be longer than what is looked at before any of it goes on, and OAUTHBEARER need not name a user (RFC 7628 §3.1).
#[test]
fn a_long_login_that_names_nobody_passes_where_no_rule_asks_for_the_user() {
    let of_users = "[[rule]]\nname = 'not bob'\nwhen = { command = 'AUTH', user = 'bob' }\naction = 'deny'";
    let of_none = "[[rule]]\nname = 'keep'\nwhen = { command = 'DELE' }\naction = 'deny'";
    for (rules, passes) in [(of_none, true), (of_users, false)] {
        let terms = Terms::of_rules(rules::compiled(rules).for_session(&FACTS), Caps { command: 512, sasl: 65536 });
        let steps = [
            says(Peer::Upstream, b"+OK ready\r\n"),
            says(Peer::Client, b"AUTH OAUTHBEARER\r\n"),
            says(Peer::Upstream, b"+ \r\n"),
            says(Peer::Client, b"biwsAWF1dGg9QmVhcmVyIA"),
            Step::Says(Peer::Client, vec![b'A'; 5000]),
            says(Peer::Client, b"\r\n"),
        ];
        let played = play(Policy::new(Settings::default(), Some(terms)), &steps, &mut pieces_of(1000));
        assert_eq!(played.to_upstream.len() > 5000, passes, "{rules}: {:#?}", played.events);
        assert_eq!(played.to_client.ends_with(b"this login does not tell it\r\n"), !passes, "{rules}");
    }
}

/// Behind XTND XMIT a dot alone ends the message for many a server however its line ends; what follows would be commands.
#[test]
fn no_command_hides_in_a_message_of_the_clients() {
    for (message, ends) in [
        (&b"a\n.\nDELE 1\r\n.\r\n"[..], "bare LF"),
        (b"a\r.\rDELE 1\r\n.\r\n", "bare CR"),
        (b"a\r\n.\nDELE 1\r\n.\r\n", "bare LF behind a dot"),
        (b"a\r\n.\0\r\nDELE 1\r\n.\r\n", "NUL"),
        (b".\nDELE 1\r\n.\r\n", "bare LF in the first line"),
    ] {
        for size in [1, 2, 3, 7, usize::MAX] {
            let steps = [
                says(Peer::Upstream, b"+OK ready\r\n"),
                says(Peer::Client, b"XTND XMIT\r\n"),
                says(Peer::Upstream, b"+OK send it\r\n"),
                says(Peer::Client, message),
            ];
            let played = play(policy(&NO_DELE), &steps, &mut pieces_of(size));
            let sent = played.to_upstream.escape_ascii().to_string();
            assert!(!sent.contains("DELE"), "{ends} by {size}: {sent}");
            assert!(played.events.iter().any(|event| event.contains("MalformedData")), "{ends} by {size}: {:#?}", played.events);
        }
    }
}

#[test]
fn a_reply_line_that_cannot_be_judged_whole_closes() {
    let rules = rules::compiled("[[rule]]\nname = 'hide'\naction = { remove_capability = ['TOP'] }");
    for (line, closes) in [(8 * 1024, false), (8 * 1024 + 1, true)] {
        let mut player = Player::new(policy(&rules), 1000);
        let steps = [
            says(Peer::Upstream, b"+OK ready\r\n"),
            says(Peer::Client, b"CAPA\r\n"),
            says(Peer::Upstream, b"+OK\r\n"),
            Step::Says(Peer::Upstream, vec![b'X'; line]),
        ];
        for step in &steps {
            player.step(step, &mut pieces_of(1000));
        }
        let played = player.end();
        let closed = played.events.iter().any(|event| event.contains("ReplyLineTooLong"));
        assert_eq!(closed, closes, "{line}: {:#?}", played.events);
        assert_eq!(played.to_client, b"+OK ready\r\n+OK\r\n", "nothing of the line has passed");
    }
}

// ── the shield ──

#[test]
fn half_an_answer_to_a_question_is_no_reply_to_the_login() {
    let rules = rules::compiled(SHIELD);
    for answer in ["", "+OK", "+OK\r\n1 10\r\n2", "+OK\r\n1 10\r\n.\r", "+OK\r\n"] {
        for size in [1, usize::MAX] {
            let mut player = Player::new(policy(&rules), 1000);
            let mut steps = vec![
                says(Peer::Upstream, b"+OK ready\r\n"),
                says(Peer::Client, b"USER bob\r\nPASS x\r\nDELE 1\r\n"),
                says(Peer::Upstream, b"+OK\r\n+OK welcome\r\n"),
            ];
            if !answer.is_empty() {
                steps.push(says(Peer::Upstream, answer.as_bytes()));
            }
            steps.push(Step::Ends(Peer::Upstream));
            for step in &steps {
                player.step(step, &mut pieces_of(size));
            }
            assert!(player.tap.is_dismissed(), "{answer:?}");
            let shown = String::from_utf8(player.end().to_client).unwrap();
            let last = shown.strip_prefix("+OK ready\r\n+OK\r\n").unwrap_or_default();
            assert!(last.starts_with("-ERR [SYS/TEMP]") && last.matches('\n').count() == 1, "{answer:?}: {shown}");
        }
    }
}

/// A mailbox of five messages, answering whatever arrives.
fn serve(request: &str) -> String {
    let number = |line: &str| line.split(' ').nth(1).map(str::to_owned);
    match request.split(' ').next().unwrap_or_default() {
        "STAT" => "+OK 5 150\r\n".to_owned(),
        "LIST" | "UIDL" => {
            let of = |n: &str| if request.starts_with("LIST") { format!("{n} {n}0") } else { format!("{n} uid-{n}") };
            if let Some(n) = number(request) {
                return format!("+OK {}\r\n", of(&n));
            }
            let lines: String = ["1", "2", "3", "4", "5"].map(|n| of(n) + "\r\n").concat();
            format!("+OK 5 messages (150 octets)\r\n{lines}.\r\n")
        }
        "RETR" | "TOP" => format!("+OK\r\nmessage {}\r\n.\r\n", number(request).unwrap_or_default()),
        "LAST" => "+OK 4\r\n".to_owned(),
        _ => "+OK\r\n".to_owned(),
    }
}

/// One session: what the client gets for each line, and what the server was asked.
fn session(policy: Policy, lines: &[&str]) -> (Vec<String>, Vec<String>, Played) {
    let mut player = Player::new(policy, 1000);
    player.step(&says(Peer::Upstream, b"+OK ready\r\n"), &mut pieces_of(100));
    let (mut served, mut got, mut shown) = (0, Vec::new(), Vec::new());
    for line in lines {
        let before = player.to_client().len();
        player.step(&says(Peer::Client, format!("{line}\r\n").as_bytes()), &mut pieces_of(100));
        while let Some(end) = player.to_upstream()[served..].iter().position(|&octet| octet == b'\n') {
            let request = String::from_utf8(player.to_upstream()[served..served + end].to_vec()).unwrap();
            served += end + 1;
            player.step(&says(Peer::Upstream, serve(request.trim_end()).as_bytes()), &mut pieces_of(100));
            got.push(request.trim_end().to_owned());
        }
        shown.push(String::from_utf8(player.to_client()[before..].to_vec()).unwrap().replace("\r\n", "|"));
    }
    (shown, got, player.end())
}

const SHIELD: &str = "[[rule]]\nname = 'keep'\naction = 'shield'";

#[test]
fn what_was_shielded_stays_hidden_and_the_rest_is_numbered_anew() {
    let folder = tempfile::tempdir().unwrap();
    let memory = Arc::new(Memory::open(folder.path(), Duration::from_secs(86_400), std::time::SystemTime::now).unwrap());
    let rules = rules::compiled(SHIELD);
    let shielded = || {
        let terms = Terms::of_rules(rules.for_session(&FACTS), CAPS).remembering(Arc::clone(&memory), "server");
        Policy::new(Settings::default(), Some(terms))
    };
    let (shown, got, _) = session(shielded(), &["USER bob", "PASS x", "DELE 2", "DELE 4", "QUIT"]);
    assert_eq!(shown, ["+OK|", "+OK|", "+OK message 2 deleted|", "+OK message 4 deleted|", "+OK|"]);
    assert_eq!(got, ["USER bob", "PASS x", "LIST", "UIDL", "QUIT"]);

    let lines = [
        "USER BOB",
        "PASS x",
        "STAT",
        "LIST",
        "UIDL",
        "LIST 2",
        "UIDL 3",
        "RETR 2",
        "TOP 3 5",
        "DELE 2",
        "STAT",
        "LIST 2",
        "LAST",
        "LIST 4",
        "RETR 5",
        "RSET",
        "LIST",
        "XTND XLST a",
        "NOOP",
    ];
    let (shown, got, _) = session(shielded(), &lines);
    let expected = [
        "+OK|",
        "+OK|",
        "+OK 3 90|",
        "+OK listing follows|1 10|2 30|3 50|.|",
        "+OK listing follows|1 uid-1|2 uid-3|3 uid-5|.|",
        "+OK 2 30|",
        "+OK 3 uid-5|",
        "+OK|message 3|.|",
        "+OK|message 5|.|",
        "+OK message 2 deleted|",
        "+OK 2 60|",
        "-ERR message is deleted|",
        "+OK 2|",
        "-ERR no such message|",
        "-ERR no such message|",
        "+OK|",
        "+OK listing follows|1 10|2 30|3 50|.|",
        "-ERR not available here|",
        "+OK|",
    ];
    assert_eq!(shown, expected);
    assert!(got.iter().any(|line| line == "TOP 5 5") && got.iter().all(|line| !line.starts_with("DELE")), "{got:?}");

    let (shown, ..) = session(shielded(), &["USER bob", "PASS x", "STAT"]);
    assert_eq!(shown[2], "+OK 3 90|", "RSET, and no QUIT: nothing more is hidden");
    let (shown, ..) = session(shielded(), &["USER eve", "PASS x", "STAT"]);
    assert_eq!(shown[2], "+OK 5 150|", "another mailbox");
    let (shown, _, played) = session(shielded(), &["AUTH GSSAPI", "STAT"]);
    assert!(shown[0].contains("-ERR [SYS/PERM] rules are in force that need the user's name"), "{:#?}", played.events);
}

#[test]
fn the_login_fails_where_the_mailbox_cannot_be_shielded() {
    let folder = tempfile::tempdir().unwrap();
    let memory = Arc::new(Memory::open(folder.path(), Duration::from_secs(86_400), std::time::SystemTime::now).unwrap());
    let rules = rules::compiled(SHIELD);
    for (answers, said) in [
        (&["-ERR"][..], "the server has no LIST"),
        (&["+OK\r\n1 10\r\nx\r\n."], "gives a LIST that cannot be understood"),
        (&["+OK\r\n1 10\r\n.", "-ERR unknown"], "the server has no UIDL"),
        (&["+OK\r\n1 10\r\n.", "+OK\r\n2 a\r\n."], "gives a UIDL that cannot be understood"),
        (&["+OK\r\n1 10\r\n2 20\r\n.", "+OK\r\n1 a\r\n."], "gives a UIDL that cannot be understood"),
    ] {
        let terms = Terms::of_rules(rules.for_session(&FACTS), CAPS).remembering(Arc::clone(&memory), "server");
        let mut player = Player::new(Policy::new(Settings::default(), Some(terms)), 1000);
        let mut steps = vec![
            says(Peer::Upstream, b"+OK ready\r\n"),
            says(Peer::Client, b"USER bob\r\nPASS x\r\nDELE 1\r\nQUIT\r\n"),
            says(Peer::Upstream, b"+OK\r\n"),
            says(Peer::Upstream, b"+OK welcome\r\n"),
        ];
        steps.extend(answers.iter().map(|answer| says(Peer::Upstream, format!("{answer}\r\n").as_bytes())));
        for step in &steps {
            player.step(step, &mut pieces_of(3));
        }
        assert!(player.tap.is_dismissed(), "{said}");
        let shown = String::from_utf8(player.end().to_client).unwrap();
        assert!(shown.contains(said) && !shown.contains("welcome") && shown.ends_with("\r\n"), "{said}: {shown}");
    }
}
