//! `poptap sessions list`, `grep` and `follow`, through the built binary.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

use serde_json::Value;

use crate::support::{
    mailbox::{GREETING, mailbox},
    outside::{Client, PATIENCE, Poptap, SECRET, Server, command, run},
};

/// Standard output and error, and the exit code.
fn asked(store: &Path, words: &[&str]) -> (String, String, i32) {
    let output = run(command(store).args(["sessions"]).args(words).arg("--transcript").arg(store));
    let [out, err] = [output.stdout, output.stderr].map(|octets| String::from_utf8(octets).unwrap());
    (out, err, output.status.code().unwrap())
}

fn session(poptap: &Poptap, user: &str, password: &str, lines: &[&str]) {
    let mut client = Client::to(poptap.address);
    assert_eq!(client.line(), GREETING);
    for line in [&format!("USER {user}"), &format!("PASS {password}")] {
        client.ask(line);
    }
    for line in lines {
        client.ask(line);
    }
    client.say(b"QUIT\r\n");
    client.rest();
}

/// A proxy that records into `store`.
fn proxy(server: &Server, store: &Path) -> Poptap {
    let arguments = ["--upstream", &server.url("pop3"), "--transcript", store.to_str().unwrap()];
    Poptap::start_in(tempfile::tempdir().unwrap(), "", &arguments, Stdio::null())
}

#[test]
fn what_is_found_in_a_store() {
    let (server, kept) = (Server::times(3, mailbox), tempfile::tempdir().unwrap());
    let store = kept.path();
    let poptap = proxy(&server, store);
    session(&poptap, "anna", SECRET, &["STAT"]);
    session(&poptap, "bob", "wrong", &[]);
    session(&poptap, "bob", SECRET, &["NOOP", "STAT"]);
    poptap.stop();
    let users = |words: &[&str]| {
        let (out, _, code) = asked(store, &[words, &["--json"]].concat());
        let users = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["user"].as_str().unwrap().to_owned());
        assert_eq!(code, 0);
        users.collect::<Vec<_>>().join(" ")
    };
    for (words, expected) in [
        (&["list"][..], "anna bob bob"),
        (&["list", "--user", "anna"], "anna"),
        (&["list", "--failed"], "bob"),
        (&["list", "--client", "127.0.0.0/8", "--user", "bob"], "bob bob"),
        (&["list", "--client", "10.0.0.0/8"], ""),
        (&["list", "--limit", "2"], "bob bob"),
        (&["list", "--since", "1h", "--filter", "logged-in"], "anna bob"),
        (&["list", "--filter", "verb = NOOP"], "bob"),
        (&["grep", "logged-in and commands >= 5"], "bob"),
    ] {
        assert_eq!(users(words), expected, "{words:?}");
    }
    let (out, _, code) = asked(store, &["grep", "verb = STAT and user = anna"]);
    assert!(code == 0 && out.contains("  C: [3] STAT\n") && out.contains("  S: [3] +OK 2 30000100"), "{out}");
    let (out, _, code) = asked(store, &["grep", "verb = PASS", "--json"]);
    assert!(code == 0 && out.lines().count() == 3 && !out.contains(SECRET), "{out}");
    assert_eq!(asked(store, &["grep", "status = -ERR", "--count"]).0, "1\n");
    let (out, err, code) = asked(store, &["grep", "verb = XYZZY"]);
    assert_eq!((out.as_str(), code), ("", 1), "{err}");
    let (out, err, code) = asked(store, &["grep", "user ~ anna and latencyy > 5s"]);
    assert_eq!((out.as_str(), code), ("", 64));
    assert!(err.contains("column 17: `latencyy` is no field") && err.contains("did you mean `latency`?"), "{err}");
    let (_, err, code) = asked(store, &["list", "--client", "nobody"]);
    assert!(code == 64 && err.contains("`nobody` is no address"), "{err}");
}

struct Follower {
    child: Child,
    lines: Receiver<String>,
}

impl Follower {
    fn start(store: &Path, words: &[&str]) -> Self {
        let mut command = command(store);
        command.args(["sessions", "follow"]).args(words).arg("--transcript").arg(store);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (sender, lines) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    /// The lines up to and with the first that holds this.
    fn until(&self, wanted: &str) -> Vec<String> {
        let mut lines = Vec::new();
        while !lines.last().is_some_and(|line: &String| line.contains(wanted)) {
            lines.push(self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {wanted} in {lines:#?}")));
        }
        lines
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn sessions_are_followed_as_they_pass() {
    let (server, kept) = (Server::times(2, mailbox), tempfile::tempdir().unwrap());
    let poptap = proxy(&server, kept.path());
    let all = Follower::start(kept.path(), &["--since", "1h"]);
    let some = Follower::start(kept.path(), &["--since", "1h", "verb = STAT"]);
    let mut client = Client::to(poptap.address);
    assert_eq!(client.line(), GREETING);
    // The session is still running when its first lines are seen.
    all.until("S: +OK ready");
    for line in ["USER anna".to_owned(), format!("PASS {SECRET}"), "STAT".to_owned()] {
        assert!(client.ask(&line).starts_with("+OK"));
    }
    all.until("C: USER anna");
    all.until("S: +OK 2 30000100");
    let lines = some.until("S: +OK 2 30000100");
    assert!(lines.len() == 3 && lines[0].contains("-- session") && lines[1].contains("C: STAT"), "{lines:#?}");
    client.say(b"QUIT\r\n");
    client.rest();
    all.until("== complete");
    // What begins later is followed, too, and the other one's lines were not shown.
    session(&poptap, "bob", SECRET, &["NOOP"]);
    let lines = all.until("== complete");
    assert!(lines.iter().any(|line| line.contains("USER bob")) && !lines.iter().any(|line| line.contains(SECRET)), "{lines:#?}");
    poptap.stop();
}
