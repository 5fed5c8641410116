//! `poptap rules test` and `poptap sessions stats`, through the built binary.

use std::process::Stdio;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::support::{
    mailbox::{GREETING, mailbox},
    outside::{Client, Poptap, SECRET, Server, command, run},
    secure::{AGREED, Papers, Secure},
};

const RULES: &str = r#"
[[upstream]]
name = "main"
url = "pop3://127.0.0.1:1"
[transcript]
enabled = false
[shield]
remember = false
[[rule]]
name = "noted"
when = { command = ["RETR", "DELE"] }
action = { tag = "seen" }
[[rule]]
name = "large"
when = { command = "RETR", size = ">10 MiB" }
action = { deny = "too large" }
[[rule]]
name = "archive"
when = { command = "DELE", user = "archive@.*" }
action = { deny = "read-only" }
[[rule]]
name = "from the lab"
mode = "dry-run"
when = { client = "10.1.0.0/16", tls = false }
action = "close"
[[rule]]
name = "top"
when = { line = '^top ([0-9]+) .*' }
action = { rewrite = "RETR $1" }
[[rule]]
name = "another login"
when = { line = '^XPASS (.*)' }
action = { rewrite = "PASS $1" }
"#;

/// What is printed, and the exit code.
fn tried(words: &[&str]) -> (String, i32) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.toml");
    std::fs::write(&file, RULES).unwrap();
    let output = run(command(folder.path()).args(["rules", "test"]).args(words).arg("--config").arg(&file));
    (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
}

fn objects(words: &[&str]) -> (Vec<Value>, i32) {
    let (text, code) = tried(&[words, &["--json"]].concat());
    (text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), code)
}

#[test]
fn what_rules_would_do_to_lines() {
    let (told, code) =
        objects(&["--user", "archive@example.net", "DELE 1", "TOP 2 0", "RETR 3", "NOOP", "--message", "3=11 MiB"]);
    let decisions: Vec<_> = told.iter().map(|told| [&told["line"], &told["decision"], &told["rule"]].map(Clone::clone)).collect();
    let expected = [
        [json!("DELE 1"), json!("answer"), json!("archive")],
        [json!("TOP 2 0"), json!("rewrite"), json!("top")],
        [json!("RETR 3"), json!("answer"), json!("large")],
        [json!("NOOP"), json!("forward"), Value::Null],
    ];
    assert_eq!((decisions, code), (expected.to_vec(), 1));
    assert_eq!(told[0]["client"], json!(["-ERR read-only"]));
    assert_eq!((&told[0]["server"], &told[1]["server"]), (&json!([]), &json!(["RETR 2"])));
    assert_eq!(told[0]["rules"][1], json!({"rule": "noted", "action": "tag", "enforced": true, "tag": "seen"}));
}

#[test]
fn the_exit_code_says_whether_all_would_pass() {
    for (words, expected) in [
        (&["--user", "bob", "DELE 1", "STAT"][..], 0),
        (&["--user", "archive@x", "DELE 1"], 1),
        (&["--user", "archive@x", "DELE 1", "--expect", "answer"], 0),
        (&["--user", "bob", "DELE 1", "--expect", "answer"], 1),
        (&["--client", "10.1.2.3", "NOOP"], 0),
        (&["NOOP", "--expect", "forward"], 0),
        (&["NOOP", "--user", "x", "--session", "y"], 64),
        (&[], 64),
        (&["--deny", "two words", "NOOP"], 64),
        (&["NOOP\nDELE 1"], 64),
        (&["--user", "a\nb", "NOOP"], 64),
        (&["--upstream", "nobody", "NOOP"], 64),
        (&["--upstream", "main", "NOOP"], 0),
        (&["--upstream", "pop3://127.0.0.1:1", "NOOP"], 0),
        (&["--listener", "127.0.0.1:9", "NOOP"], 64),
        (&["--deny", "PASS", "--user", "bob", "DELE 1"], 0),
        (&["--deny", "USER", "--deny", "AUTH", "--stage", "transaction", "STAT", "RETR 7"], 0),
        (&["--shield", "--user", "bob", "DELE 17", "--expect", "shield"], 0),
        (&["--shield", "--user", "bob", "--message", "1=1 KiB", "DELE 17", "--expect", "answer"], 0),
    ] {
        assert_eq!(tried(words).1, expected, "{words:?}");
    }
}

#[test]
fn it_reads_as_text() {
    let (text, _) = tried(&["--client", "10.1.2.3", "--user", "archive@x", "DELE 1", "NOOP"]);
    let expected = "\
DELE 1
  rule    archive (answer)
  rule    noted (tag): seen
  client  -ERR read-only
  server  nothing
NOOP
  rule    from the lab (close, in a dry run)
  client  +OK
  server  NOOP
";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn a_password_is_not_repeated() {
    for words in [
        &["PASS hunter2"][..],
        &["APOP joe hunter2"],
        &["AUTH PLAIN hunter2"],
        &["--deny", "PASS", "PASS hunter2", "--json"],
        &["XPASS hunter2"],
    ] {
        let (text, _) = tried(words);
        assert!(text.contains("(withheld)") && !text.contains("hunter2"), "{text}");
    }
}

#[test]
fn an_exchange_is_played_and_its_responses_are_withheld() {
    let (told, code) = objects(&["AUTH LOGIN", "YXJjaGl2ZUB4", "aHVudGVyMg==", "DELE 1", "STLS", "CAPA"]);
    let seen: Vec<_> =
        told.iter().map(|told| [&told["line"], &told["client"][0], &told["server"][0]].map(Clone::clone)).collect();
    let withheld = json!("(the line, which may hold a secret)");
    let expected = [
        [json!("AUTH LOGIN"), json!("+ "), json!("AUTH LOGIN")],
        [json!("(a response) (withheld)"), json!("+ "), withheld.clone()],
        [json!("(a response) (withheld)"), json!("+OK"), withheld],
        [json!("DELE 1"), json!("-ERR read-only"), Value::Null],
        [json!("STLS"), json!("-ERR STLS is not available here"), Value::Null],
        [json!("CAPA"), json!("+OK"), json!("CAPA")],
    ];
    assert_eq!((seen, code), (expected.to_vec(), 1));
}

/// A recorded session, with and without rules when it was recorded.
#[test]
fn what_rules_would_do_to_a_recorded_session() {
    let server = Server::times(1, mailbox);
    let kept = tempfile::tempdir().unwrap();
    let place = kept.path().to_str().unwrap();
    let rules = "[[rule]]\nname = 'then'\nmode = 'dry-run'\nwhen = { command = 'DELE' }\naction = 'deny'\n";
    let arguments = ["--upstream", &server.url("pop3"), "--transcript", place];
    let poptap = Poptap::start_in(tempfile::tempdir().unwrap(), rules, &arguments, Stdio::null());
    let mut client = Client::to(poptap.address);
    assert_eq!(client.line(), GREETING);
    for line in ["USER tim".to_owned(), format!("PASS {SECRET}"), "STAT".to_owned(), "DELE 1".to_owned()] {
        assert!(client.ask(&line).starts_with("+OK"), "{line}");
    }
    client.say(b"QUIT\r\n");
    client.rest();
    poptap.stop();
    let asked = |words: &[&str]| {
        let output = run(command(kept.path()).args(words).args(["--transcript", place]));
        (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
    };
    let listed: Value = serde_json::from_str(&asked(&["sessions", "list", "--json"]).0).unwrap();
    let id = listed["session"].as_str().unwrap().to_owned();
    let (text, code) = asked(&["rules", "test", "--deny", "DELE", "--deny", "PASS", "--session", &id, "--json"]);
    let told: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let lines: Vec<_> = told.iter().map(|told| told["line"].as_str().unwrap()).collect();
    assert_eq!((lines, code), (vec!["PASS (withheld)", "DELE 1"], 1), "{text}");
    assert_eq!((&told[1]["n"], &told[1]["then"], &told[1]["otherwise"]), (&json!(4), &json!("forward"), &json!(true)));
    assert!(!text.contains(SECRET), "{text}");
    assert_eq!(asked(&["rules", "test", "--deny", "TOP", "--session", &id[..6]]).1, 0);
    assert_eq!(asked(&["rules", "test", "--deny", "TOP", "--session", "zzzz"]).1, 69);
    let (text, code) = asked(&["sessions", "stats", "--json", "--since", "1h"]);
    let stats: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&stats["sessions"], &stats["logged_in"], code), (&json!(1), &json!(1), 0));
    assert_eq!(stats["rules"], json!({"then": {"fired": 0, "would_have_fired": 1, "sessions": 1}}));
    let (text, _) = asked(&["sessions", "show", "--last"]);
    assert!(text.contains("poptap would answer it instead of the server, were this no dry run (rule then)"), "{text}");
}

const IN_FORCE: &str = r#"
[[rule]]
name = "archive"
when = { command = "DELE", user = "archive", tls = true }
action = { deny = "read-only" }
[[rule]]
name = "no top"
action = { remove_capability = "TOP" }
[[rule]]
name = "last"
when = { line = '^noop$' }
action = { rewrite = "STAT" }
"#;

/// What was decided then is played again to the same end: behind STLS, and for a user whom only an exchange tells.
#[test]
fn a_session_under_the_rules_that_were_in_force_shows_no_difference() {
    let server = Server::times(1, mailbox);
    let (kept, papers) = (tempfile::tempdir().unwrap(), Papers::new());
    let (url, cert, key) = (server.url("pop3"), papers.path("cert.pem"), papers.path("key.pem"));
    let place = kept.path().to_str().unwrap();
    let arguments =
        ["--upstream", &url, "--transcript", place, "--listen", "pop3+stls://127.0.0.1:0", "--cert", &cert, "--key", &key];
    let poptap = Poptap::start_in(tempfile::tempdir().unwrap(), IN_FORCE, &arguments, Stdio::null());
    let mut client = Client::to(poptap.address);
    assert_eq!(client.line(), GREETING);
    assert_eq!(client.ask("STLS"), AGREED);
    let mut client = Secure::over(client.0, &papers.trust).unwrap();
    assert_eq!(client.ask("CAPA"), "+OK\r\n");
    while client.line() != ".\r\n" {}
    for (line, expected) in [
        ("AUTH LOGIN".to_owned(), "+ VXNlcm5hbWU6\r\n"),
        (STANDARD.encode("archive"), "+ UGFzc3dvcmQ6\r\n"),
        (STANDARD.encode(SECRET), "+OK logged in\r\n"),
        ("DELE 1".to_owned(), "-ERR read-only\r\n"),
        ("NOOP".to_owned(), "+OK 2 30000100\r\n"),
        ("DELE x".to_owned(), "-ERR the message number is malformed\r\n"),
        ("QUIT".to_owned(), "+OK\r\n"),
    ] {
        assert_eq!(client.ask(&line), expected, "{line}");
    }
    drop(client);
    poptap.stop();
    let asked = |words: &[&str], rules: &str| {
        let file = kept.path().join("rules.toml");
        std::fs::write(&file, format!("[[upstream]]\nname = 'main'\nurl = '{url}'\n{rules}")).unwrap();
        let output = run(command(kept.path()).args(words).args(["--transcript", place, "--config"]).arg(&file));
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap(), output.status.code().unwrap())
    };
    let listed: Value = serde_json::from_str(&asked(&["sessions", "list", "--json"], "").0).unwrap();
    let id = listed["session"].as_str().unwrap().to_owned();
    let tried = |rules: &str| {
        let (text, error, code) = asked(&["rules", "test", "--json", "--session", &id], rules);
        let told: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let otherwise =
            told.iter().filter(|told| told["otherwise"] == true).map(|told| told["line"].as_str().unwrap().to_owned());
        (otherwise.collect::<Vec<_>>(), code, error)
    };
    assert_eq!(tried(IN_FORCE).0, Vec::<String>::new(), "{:?}", asked(&["rules", "test", "--session", &id], IN_FORCE));
    assert_eq!(tried(IN_FORCE).1, 0);
    let (otherwise, code, error) = tried(&IN_FORCE.replace("read-only", "kept").replace("TOP", "UIDL").replace("STAT", "LAST"));
    assert_eq!((otherwise, code), (vec!["DELE 1".to_owned(), "NOOP".to_owned()], 1), "{error}");
    let (otherwise, code, _) = tried(&IN_FORCE.replace("\"archive\", tls", "\"somebody\", tls").replace("no top", "none"));
    assert_eq!((otherwise, code), (vec!["CAPA".to_owned(), "DELE 1".to_owned()], 1));
    assert_eq!(tried("").0, ["CAPA", "DELE 1", "NOOP", "DELE x"]);
}
