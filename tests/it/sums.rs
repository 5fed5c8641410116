//! `poptap sessions audit` and `poptap sessions stats`, through the built binary.

use std::{fs, path::Path, process::Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    mailbox::{GREETING, WRONG, mailbox},
    outside::{Client, PATIENCE, Poptap, SECRET, Server, command, run},
    secure::{Papers, Secure},
};

/// A store that outlives the processes that write into it.
struct Kept(TempDir);

impl Kept {
    fn new() -> Self {
        Self(TempDir::with_prefix("poptap-it-").unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn start(&self, configuration: &str, server: &Server, more: &[&str]) -> Poptap {
        let (url, place) = (server.url("pop3"), self.path().to_str().unwrap());
        let arguments = [&["--upstream", &url, "--transcript", place], more].concat();
        Poptap::start_in(tempfile::tempdir().unwrap(), configuration, &arguments, Stdio::null())
    }

    /// Standard output and standard error of a command that succeeds.
    fn ask(&self, words: &[&str]) -> (String, String) {
        let output = run(command(self.path()).arg("sessions").args(words).arg("--transcript").arg(self.path()));
        let [out, err] = [output.stdout, output.stderr].map(|octets| String::from_utf8(octets).unwrap());
        assert!(output.status.success(), "{words:?}: {out}{err}");
        (out, err)
    }

    fn ask_json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.ask(&[words, &["--json"]].concat()).0).unwrap()
    }

    /// User, client, both hops, mechanism and sessions of each row.
    fn rows(&self, words: &[&str]) -> Vec<Value> {
        let told = self.ask_json(&[&["audit"], words].concat());
        let fields = ["user", "client", "client_tls", "upstream_tls", "mechanism", "sessions"];
        told["rows"].as_array().unwrap().iter().map(|row| json!(fields.map(|field| &row[field]))).collect()
    }

    fn remove(&self, prefixes: &[&str]) {
        for entry in fs::read_dir(self.path()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

fn plain_session(mut client: Client, user: &str, password: &str) -> Vec<String> {
    assert_eq!(client.line(), GREETING);
    let mut said = vec![client.ask(&format!("USER {user}")), client.ask(&format!("PASS {password}"))];
    said.push(client.ask("STAT"));
    client.say(b"QUIT\r\n");
    client.rest();
    said
}

#[test]
fn whom_to_call_is_known_when_summaries_and_processes_are_gone() {
    let (kept, papers) = (Kept::new(), Papers::new());
    let server = Server::times(5, mailbox);
    let (cert, key) = (papers.path("cert.pem"), papers.path("key.pem"));
    let listen = ["--listen", "127.0.0.1:0", "--listen", "pop3s://127.0.0.1:0", "--cert", &cert, "--key", &key];
    let mut poptap = kept.start("", &server, &listen);
    let line = poptap.log_line("listening on ");
    let secure = line.split_once("listening on ").unwrap().1.split_whitespace().next().unwrap().parse().unwrap();
    for _ in 0..2 {
        plain_session(Client::from(2, poptap.address), "anna", SECRET);
    }
    let mut client = Secure::over(Client::to(secure).0, &papers.trust).unwrap();
    assert_eq!(client.line(), GREETING);
    for line in ["USER b,\"ob\"".to_owned(), format!("PASS {SECRET}"), "QUIT".to_owned()] {
        assert!(client.ask(&line).starts_with("+OK"), "{line}");
    }
    drop(client);
    assert_eq!(plain_session(poptap.connect(), "mallory", "guess")[1], WRONG);
    poptap.stop();

    kept.remove(&["sessions-", "events-"]);
    let anna = |sessions: u64| json!(["anna", "127.0.0.2", "plain", "plain", "USER", sessions]);
    let bob = json!(["b,\"ob\"", "127.0.0.1", "TLSv1.3", "plain", "USER", 1]);
    assert_eq!(kept.rows(&[]), [anna(2), bob.clone()]);
    assert_eq!(kept.rows(&["--plain", "--since", "1h"]), [anna(2)]);
    let (csv, err) = kept.ask(&["audit", "--csv"]);
    assert!(csv.contains("\r\n\"b,\"\"ob\"\"\",127.0.0.1,TLSv1.3,plain,USER,1,20"), "{csv}");
    assert!(err.starts_with("counted since ") && !err.contains("gone"), "{err}");
    let (table, _) = kept.ask(&["audit"]);
    assert!(table.contains("\n\ncounted since "), "{table}");

    // The next process goes on; what it counted is there though it is killed.
    let poptap = kept.start("", &server, &[]);
    plain_session(Client::from(2, poptap.address), "anna", SECRET);
    let deadline = std::time::Instant::now() + PATIENCE;
    while kept.rows(&[]) != [anna(3), bob.clone()] {
        assert!(std::time::Instant::now() < deadline, "{:?}", kept.rows(&[]));
    }
    poptap.signal(Signal::KILL);
    poptap.wait();
    assert_eq!(kept.rows(&[]), [anna(3), bob], "the session is counted once, though it has a summary too");
}

#[test]
fn two_processes_share_a_directory() {
    let kept = Kept::new();
    let server = Server::times(2, mailbox);
    let both = [kept.start("", &server, &[]), kept.start("", &server, &[])];
    for poptap in &both {
        plain_session(poptap.connect(), "anna", SECRET);
    }
    for poptap in both {
        poptap.stop();
    }
    assert_eq!(kept.rows(&[]), [json!(["anna", "127.0.0.1", "plain", "plain", "USER", 2])]);
}

#[test]
fn a_store_without_roll_up_is_read_from_its_summaries() {
    let kept = Kept::new();
    let server = Server::times(2, mailbox);
    let poptap = kept.start("[transcript]\naudit_rows = 0\nuser = 'hash'\n", &server, &[]);
    plain_session(poptap.connect(), "anna", SECRET);
    poptap.stop();
    let (table, _) = kept.ask(&["audit"]);
    assert!(table.contains("no roll-up is kept here") && table.contains("user:") && !table.contains("anna"), "{table}");
    let told = kept.ask_json(&["audit"]);
    assert_eq!((&told["rolled_up"], &told["from_summaries"]), (&json!(false), &json!(1)));

    // An upgrade, as it were: what is older comes from the summaries, what is newer from the roll-up, and nothing twice.
    let poptap = kept.start("[transcript]\nuser = 'hash'\n", &server, &[]);
    plain_session(poptap.connect(), "anna", SECRET);
    poptap.stop();
    let told = kept.ask_json(&["audit"]);
    assert_eq!((&told["rolled_up"], &told["from_summaries"], &told["rows"][0]["sessions"]), (&json!(true), &json!(1), &json!(2)));
    let file = fs::read_to_string(kept.path().join("audit-1.jsonl")).unwrap();
    assert!(file.contains("\"user\":\"user:") && !file.contains("anna"), "{file}");
}

#[test]
fn summaries_add_up() {
    let kept = Kept::new();
    let server = Server::times(3, mailbox);
    let poptap = kept.start("", &server, &["--deny", "TOP"]);
    for (user, password) in [("anna", SECRET), ("anna", SECRET), ("bob", "guess")] {
        plain_session(poptap.connect(), user, password);
    }
    poptap.stop();
    let sums = kept.ask_json(&["stats", "--top", "1", "--since", "1h"]);
    let expected = json!({"top": [{"name": "anna", "sessions": 2}], "others": 0, "distinct": 1, "short_by": 0});
    assert_eq!(sums["users"], expected);
    assert_eq!((&sums["sessions"], &sums["plain_logins"], &sums["login_failures"]), (&json!(3), &json!(2), &json!(1)));
    assert_eq!(sums["client_tls"], json!({"plain": 3}));
    let verbs: Vec<_> =
        sums["verbs"].as_array().unwrap().iter().map(|verb| [&verb["keyword"], &verb["count"], &verb["errors"]]).collect();
    let [pass, quit, stat, user] = ["PASS", "QUIT", "STAT", "USER"].map(|name| json!(name));
    let (three, one, none) = (json!(3), json!(1), json!(0));
    let expected = [[&pass, &three, &one], [&quit, &three, &none], [&stat, &three, &none], [&user, &three, &none]];
    assert_eq!(verbs, expected);
    assert!(sums["verbs"][0]["p99_us"].as_u64().unwrap() >= 64, "{sums}");
    let begun: u64 = sums["begun"].as_object().unwrap().values().map(|sessions| sessions.as_u64().unwrap()).sum();
    assert_eq!(begun, 3);
    let (text, _) = kept.ask(&["stats", "--by", "day"]);
    assert!(text.contains("\n         2  anna\n") && text.contains("COMMAND"), "{text}");
}
