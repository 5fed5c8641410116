//! What is odd is found, in every chunking, and what is nearly so is not; and what becomes of it with `strict` and
//! `--exit-on-anomaly`. Playbooks are written as in `tests/dialogues`; `L` stands for a login.

use std::{collections::BTreeSet, fs, io::Write as _, path::Path, time::Duration};

use poptap::{anomaly::Anomaly, policy::Settings, pop3::Peer};

use crate::{
    dialogues::{parse, policy},
    support::{
        outside::{Poptap, SECRET, Server, command, converse, listen, run},
        play::{Cuts, Player, Step, pieces_of, play_recorded, random_pieces},
    },
};

const LOGIN: &str = "S: +OK ready\n--\nC: USER tim\n--\nS: +OK\n--\nC: PASS x\n--\nS: +OK\n--";

/// What is found in the first playbook; in the second, nothing is.
const TABLE: [(&str, &str, &str); 38] = [
    ("bare-lf 1", "L|C- NOOP|S: +OK", "L|C: NOOP|S: +OK"),
    ("bare-lf 1", "L|C: NOOP|S- +OK", "L|C: NOOP|S: +OK\\r"),
    ("bare-lf 1", "L|C: RETR 1|S: +OK|S- a|S: b|S: .", "L|C: RETR 1|S: +OK|S: a\\rb\\r|S: .\\r|S: ."),
    ("bare-lf 1", "L|C: LIST|S: +OK|S- 1 3|S: 2 3|S: .", "L|C: LIST|S: +OK|S: 1 3|S: 2 3|S: ."),
    ("bare-lf 2", "L|C- LIST|S- +OK|S- 1 3|S- .", "L|C: LIST|S: +OK|S: ."),
    ("bare-lf 1, bare-lf-dot 1", "L|C: RETR 1|S: +OK|S: a|S- .|S: b|S: .", "L|C: RETR 1|S: +OK|S: a|S: ..|S: b|S: ."),
    ("missing-final-crlf 1", "L|C: RETR 1|S: +OK|S: a|S- b|S: .", "L|C: RETR 1|S: +OK|S: a|S: |S: ."),
    (
        "size-differs 1",
        "L|C: LIST|S: +OK|S: 1 4|S: .|C: RETR 1|S: +OK|S: a|S: .",
        "L|C: LIST|S: +OK|S: 1 3|S: .|C: RETR 1|S: +OK|S: a|S: .",
    ),
    (
        "size-differs 1",
        "L|C: LIST 7|S: +OK 7 5|C: RETR 7|S: +OK|S: ..a|S: .",
        "L|C: LIST 7|S: +OK 7 4|C: RETR 7|S: +OK|S: ..a|S: .",
    ),
    (
        "size-differs 1",
        "L|C: LIST 7|S: +OK 7 5|C: RETR 7|S: +OK|S: .",
        "L|C: LIST 7|S: +OK 7 5|C: RETR 8|S: +OK|S: .|C: TOP 7 0|S: +OK|S: .",
    ),
    ("duplicate-uidl 1", "L|C: UIDL|S: +OK|S: 1 a|S: 2 b|S: 3 a|S: .", "L|C: UIDL|S: +OK|S: 1 a|S: 2 b|S: 3 A|S: ."),
    (
        "changed-uidl 1",
        "L|C: UIDL|S: +OK|S: 1 a|S: .|C: UIDL 1|S: +OK 1 b",
        "L|C: UIDL|S: +OK|S: 1 a|S: .|C: UIDL 1|S: +OK 1 a|C: UIDL 2|S: +OK 2 b",
    ),
    ("long-command 1", "L|C: NOOP x*249|S: +OK", "L|C: NOOP x*248|S: +OK"),
    ("long-reply 1", "L|C: NOOP|S: +OK x*507", "L|C: NOOP|S: +OK x*506"),
    ("nul-in-command 1", "L|C: NOOP\\x00a|S: +OK", "L|C: NOOP \\x01a|S: +OK"),
    ("unsolicited-line 1", "L|S: nonsense|C: NOOP|S: +OK", "L|C: NOOP|S: +OK nonsense"),
    ("reply-without-command 1", "L|S: -ERR too late", "L|C: NOOP|S: -ERR too late"),
    ("command-without-reply 1", "L|C: STAT|S!|C!", "L|C: STAT|C!|S!"),
    ("command-without-reply 1", "S: +OK ready|C: NOOP|C: NOOP|S!|C!", "S: +OK ready|C: NOOP|C: NOOP|S: +OK|S: +OK|S!|C!"),
    (
        "capability-refused 1",
        "L|C: CAPA|S: +OK|S: TOP|S: .|C: TOP 1 0|S: -ERR Unknown command.",
        "L|C: CAPA|S: +OK|S: TOP|S: .|C: TOP 9 0|S: -ERR no such message",
    ),
    (
        "capability-refused 1",
        "S: +OK ready|C: CAPA|S: +OK|S: STLS|S: .|C: STLS|S: -ERR no",
        "S: +OK ready|C: CAPA|S: +OK|S: TOP|S: .|C: STLS|S: -ERR no",
    ),
    (
        "commands-lost 1",
        "S: +OK ready|C: USER tim|C: PASS x|C: STAT|C: LIST|S: +OK|S: +OK|S!|C!",
        "S: +OK ready|C: USER tim|C: PASS x|C: STAT|S: +OK|S: +OK|S: +OK 0 0|S!|C!",
    ),
    ("truncated-message 1", "L|C: RETR 1|S: +OK|S: a|S. half|S!|C!", "L|C: RETR 1|S: +OK|S: a|S. half|C!|S!"),
    ("truncated-listing 1", "L|C: UIDL|S: +OK|S: 1 a|S!|C!", "L|C: UIDL|S: +OK|S: 1 a|S: .|S!|C!"),
    ("slow-reply 1", "# slow|S: +OK ready|C: NOOP|S: +OK", "S: +OK ready|C: NOOP|S: +OK"),
    (
        "missing-final-crlf 1, slow-reply 1",
        "# slow|S: +OK ready|C: RETR 1|S: +OK|S: a.|C!",
        "S: +OK ready|C: RETR 1|S: +OK|S: a.|C!",
    ),
    (
        "commands-lost 1, slow-reply 1",
        "# slow|S: +OK ready|C: PASS x|C: STAT|S: +OK|C!",
        "S: +OK ready|C: PASS x|C: STAT|S: +OK|C!",
    ),
    ("unfinished-line 1", "L|C. NOO|C!|S!", "L|C: NOOP|S: +OK|C!|S!"),
    ("unexpected-line 1", "L|C: NOOP|S: nonsense", "L|C: NOOP|S: +ok nonsense"),
    ("reply-without-command 2, too-many-replies 1", "L|S: +OK|S: +OK|S: +OK", "L|C: NOOP|C: NOOP|C: NOOP|S: +OK|S: +OK|S: +OK"),
    ("ambiguous-command 1, nul-in-command 1", "L|C: NOOP\\x00a|C: NOOP|S: +OK", "L|C: NOOP a|C: NOOP|S: +OK"),
    ("plaintext-behind-stls 1", "S: +OK ready|C: STLS|S: +OK|C: NOOP", "S: +OK ready|C: STLS|S: -ERR|C: NOOP"),
    ("plaintext-behind-stls-reply 1", "S: +OK ready|C: STLS|S: +OK|S: +OK", "S: +OK ready|C: STLS|C: NOOP|S: -ERR|S: +OK"),
    (
        "tls-on-plain-port 1",
        "S: +OK ready|C. \\x16\\x03\\x01\\x02\\x00\\x01",
        "S: +OK ready|C: STLS|S: +OK|C. \\x16\\x03\\x01\\x02\\x00\\x01",
    ),
    ("http-request 1", "S: +OK ready|C: GET / HTTP/1.1", "S: +OK ready|C: GET"),
    ("unreadable-before-tls 1", "# require-stls|S: +OK ready|C: NOOP|S: nonsense", "# require-stls|S: +OK ready|C: NOOP|S: +OK"),
    ("bare-lf 20", "L|C. \\n*20", "L|C: NOOP"),
    ("", "L|C: AUTH PLAIN|S: + |C: x*400|S: +OK", "L|C: CAPA|S: +OK|S: TOP|S: .|C: QUIT|S: +OK|S!|C!"),
];

/// What other tests provoke: `replies-missing` below; the others with sockets, with rules, or with limits.
const ELSEWHERE: [Anomaly; 6] = [
    Anomaly::RepliesMissing,
    Anomaly::PlaintextOnTlsPort,
    Anomaly::UnreadableUnderRules,
    Anomaly::ReplyLineTooLong,
    // tests/dialogues/rules-xtnd-xmit-bare-lf.pop3
    Anomaly::MalformedData,
    Anomaly::TooManyOctets,
];

#[test]
fn what_is_odd_is_found_and_what_is_nearly_so_is_not() {
    for (expected, odd, near) in TABLE {
        for (playbook, expected) in [(odd, expected), (near, "")] {
            for size in [1, 2, 3, 7, usize::MAX] {
                assert_eq!(found(playbook, &mut pieces_of(size)), expected, "{playbook} in pieces of {size}");
            }
            for seed in 1..8 {
                assert_eq!(found(playbook, &mut random_pieces(seed, 20)), expected, "{playbook} cut with seed {seed}");
            }
        }
    }
}

#[test]
fn every_anomaly_is_provoked_somewhere() {
    let told: BTreeSet<&str> =
        TABLE.iter().flat_map(|(found, ..)| found.split(", ")).filter_map(|one| one.split(' ').next()).collect();
    for anomaly in Anomaly::ALL {
        assert!(told.contains(anomaly.id()) || ELSEWHERE.contains(&anomaly), "{anomaly}");
    }
}

fn found(playbook: &str, cuts: Cuts<'_>) -> String {
    let playbook = playbook.split('|').map(|line| if line == "L" { LOGIN } else { line }).collect::<Vec<_>>().join("\n");
    let slow = if playbook.starts_with("# slow") { Duration::ZERO } else { Duration::from_secs(10) };
    let (settings, steps) = parse(&playbook);
    let played = play_recorded(policy(settings, None, false), None, &steps, slow, cuts);
    played.anomalies.iter().map(|(id, count)| format!("{id} {count}")).collect::<Vec<_>>().join(", ")
}

#[test]
fn a_server_that_says_nothing_more_is_found() {
    let mut player = Player::new(policy(Settings::default(), None, false), 1);
    player.record(Duration::from_secs(10));
    player.step(&Step::Says(Peer::Client, b"NOOP\r\nNOOP\r\n".to_vec()), &mut pieces_of(9));
    player.tap.give_up_on_replies();
    assert_eq!(player.end().anomalies.keys().collect::<Vec<_>>(), ["replies-missing"]);
}

#[test]
fn an_anomaly_is_recorded_with_its_place_and_the_rest_are_counted() {
    let server = Server::once(converse);
    let poptap = Poptap::to(&server.url("pop3"));
    let mut client = poptap.connect();
    client.log_in();
    for _ in 0..20 {
        client.say(b"NOOP\n").line();
    }
    client.ask("QUIT");
    client.rest();
    let left = poptap.stop();
    let events: Vec<_> = left.events.iter().filter(|event| event["event"] == "anomaly").collect();
    assert_eq!(events.len(), 16, "{events:#?}");
    let login = u64::try_from("USER tim\r\nPASS \r\n".len() + SECRET.len()).unwrap();
    let first = events[0];
    assert_eq!(
        (&first["id"], &first["fault"], &first["n"], &first["offset"]),
        (&"bare-lf".into(), &"client".into(), &3.into(), &login.into())
    );
    assert_eq!(left.session()["anomalies"], serde_json::json!({ "bare-lf": 20 }));
    assert_eq!(left.session()["reason"], "quit", "nothing changes on the wire");
}

#[test]
fn with_strict_the_chosen_ones_close_the_session_and_others_do_not() {
    let file = "[policy]\nstrict = ['bare-lf', 'http-request']\n";
    for (settings, flags, said, reason) in [
        (file, &[][..], &b"NOOP\n"[..], "strict"),
        ("", &["--strict", "bare-lf"], b"NOOP\n", "strict"),
        (file, &[], b"NOOP \0\r\n", "quit"),
        ("", &[], b"NOOP\n", "quit"),
        (file, &[], b"RETR 1\r\nNOOP\n", "strict"),
    ] {
        let server = Server::once(converse);
        let url = server.url("pop3");
        let poptap = Poptap::start(settings, &[&["--upstream", url.as_str()][..], flags].concat());
        let mut client = poptap.connect();
        client.log_in().say(said);
        if reason == "quit" {
            client.line();
            client.say(b"QUIT\r\n");
        }
        let heard = String::from_utf8(client.last()).unwrap();
        let left = poptap.stop();
        let session = left.session();
        assert_eq!(session["reason"], reason, "{settings} {}: {session:#}", said.escape_ascii());
        if reason == "strict" {
            assert_eq!(
                (&session["closed_by"], &session["verdict"]),
                (&"poptap".into(), &"closed for an anomaly: `bare-lf` is in `strict`".into())
            );
            assert!(heard.is_empty() || heard.contains("bare-lf") || heard.contains("+OK"), "{heard}");
        }
    }
}

#[test]
fn a_client_is_told_why_its_session_is_closed() {
    let server = Server::once(|mut stream| {
        stream.write_all(b"+OK ready\r\n+OK again\r\n").unwrap();
        listen(stream)
    });
    let poptap = Poptap::start("", &["--upstream", &server.url("pop3"), "--strict", "reply-without-command"]);
    let heard = poptap.connect().rest();
    let last = "-ERR [SYS/PERM] the session is closed, since this anomaly is not allowed here: reply-without-command\r\n";
    assert!(heard.starts_with("+OK ready\r\n") && heard.ends_with(last), "{heard}");
    assert_eq!(poptap.stop().session()["reason"], "strict");
}

#[test]
fn the_process_ends_after_the_first_session_with_an_anomaly() {
    let server = Server::times(2, converse);
    let poptap = Poptap::start("", &["--upstream", &server.url("pop3"), "--exit-on-anomaly"]);
    for quit in ["QUIT\r\n", "QUIT\n"] {
        let mut client = poptap.connect();
        client.log_in().say(quit.as_bytes());
        client.last();
    }
    let left = poptap.wait();
    assert_eq!(left.status.code(), Some(1), "{}", left.log);
    let odd =
        left.sessions.iter().find(|session| session["anomalies"] == serde_json::json!({ "bare-lf": 1 })).expect("a summary");
    let id = odd["session"].as_str().unwrap();
    assert!(left.log.contains(&format!("poptap: stopped at the first anomaly: bare-lf in session {id}")), "{}", left.log);
    assert_eq!(left.sessions.len(), 2);
}

#[test]
fn an_unknown_id_is_refused_and_the_nearest_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("poptap.toml");
    fs::write(&file, "[policy]\nstrict = ['bare_lf', 'http-request']\nslow_reply = '3s'\n").unwrap();
    let check =
        |arguments: &[&str]| run(command(folder.path()).args(["check", "pop3://192.0.2.1", "--no-transcript"]).args(arguments));
    let refused = check(&["--config", file.to_str().unwrap()]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(78) && said.contains(":2:11: ") && said.contains("did you mean `bare-lf`?"), "{said}");
    let refused = check(&["--strict", "bare_lf"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(64) && said.contains("did you mean `bare-lf`?"), "{said}");
    fs::write(&file, "[policy]\nstrict = ['http-request', 'bare-lf']\nslow_reply = '3s'\n").unwrap();
    let checked = check(&["--config", file.to_str().unwrap(), "--strict", "long-reply"]);
    let said = String::from_utf8(checked.stdout).unwrap();
    for expected in ["\"bare-lf\"", "\"long-reply\"", "\"http-request\"", "slow_reply = \"3s\""] {
        assert!(said.contains(expected), "{expected} in {said}");
    }
}

/// Both ways: each anomaly has its section, with its sentence, and each section its anomaly.
#[test]
fn the_catalogue_and_its_document_agree() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/anomalies.md")).unwrap();
    let sections: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let ids: BTreeSet<&str> = Anomaly::ALL.iter().map(|anomaly| anomaly.id()).collect();
    assert_eq!(sections.iter().copied().collect::<BTreeSet<_>>(), ids);
    assert_eq!(sections.len(), ids.len());
    for anomaly in Anomaly::ALL {
        let (_, section) = page.split_once(&format!("\n### {anomaly}\n")).unwrap();
        let section = section.split("\n##").next().unwrap();
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
        assert!(
            words(section).contains(&words(anomaly.sentence())),
            "the section of {anomaly} does not say: {}",
            anomaly.sentence()
        );
        for part in ["**Why it matters.**", "**Who does it.**", "**What to do.**"] {
            assert!(section.contains(part), "{anomaly} lacks {part}");
        }
    }
}
