//! Sessions that were recorded are compared (`sessions diff`), and played to clients again (`replay`).

use std::{
    io::{BufRead as _, BufReader, Read as _, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    process::{Child, ChildStderr, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::outside::{Client, Poptap, SECRET, Server, command, read_line, rest, run};

/// What the scripted server says; a test changes some of it.
#[derive(Clone, Copy)]
struct Mailbox {
    capabilities: &'static str,
    dele: &'static str,
    message: &'static str,
}

const USUAL: Mailbox = Mailbox {
    capabilities: "+OK here you are\r\nTOP\r\nUIDL\r\nUSER\r\n.\r\n",
    dele: "+OK deleted\r\n",
    message: "+OK 47 octets\r\nSubject: dots\r\n\r\n..\r\n...two\r\nbare LF\n\u{e9}\r\n.\r\n",
};

/// A session with pipelined commands, an unknown one, and one that is refused.
fn lines() -> String {
    format!("CAPA\r\nUSER tim\r\nPASS {SECRET}\r\nSTAT\r\nLIST\r\nUIDL\r\nRETR 1\r\nDELE 1\r\nXFOO bar\r\nTOP 1 0\r\nQUIT\r\n")
}

fn converse(mut stream: TcpStream, mailbox: Mailbox) -> Vec<u8> {
    let mut said = stream.write_all(b"+OK ready\r\n");
    while let (Ok(()), Some(line)) = (said, read_line(&mut stream)) {
        let reply = match line.get(..4) {
            Some(b"CAPA") => mailbox.capabilities,
            Some(b"STAT") => "+OK 5 5000\r\n",
            Some(b"LIST") => "+OK\r\n1 47\r\n2 1000\r\n3 1000\r\n4 1000\r\n5 1000\r\n.\r\n",
            Some(b"UIDL") => "+OK\r\n1 a\r\n2 b\r\n3 c\r\n.\r\n",
            Some(b"RETR") => mailbox.message,
            Some(b"TOP ") => "+OK\r\nSubject: dots\r\n\r\n.\r\n",
            Some(b"DELE") => mailbox.dele,
            Some(b"XFOO") => "-ERR unknown\r\n",
            Some(b"QUIT") => "+OK bye\r\n",
            _ => "+OK\r\n",
        };
        said = stream.write_all(reply.as_bytes());
        if line.starts_with(b"QUIT") {
            break;
        }
    }
    Vec::new()
}

/// A store, which outlives the poptap that wrote it.
struct Store(TempDir);

impl Store {
    fn new() -> Self {
        Self(TempDir::with_prefix("poptap-it-").unwrap())
    }

    fn path(&self) -> String {
        self.0.path().join("transcript").display().to_string()
    }

    /// Records a session with this server, and returns its id and all that the client got.
    fn record(&self, mailbox: Mailbox, content: &str) -> (String, Vec<u8>) {
        let server = Server::once(move |stream| converse(stream, mailbox));
        let (url, store) = (server.url("pop3"), self.path());
        let arguments = ["--upstream", &url, "--transcript", &store, "--content", content];
        let poptap = Poptap::start_in(tempfile::tempdir().unwrap(), "", &arguments, Stdio::null());
        let got = played(poptap.address, &lines());
        assert!(poptap.stop().status.success());
        let listed = self.poptap(&["sessions", "list", "--json", "-t", &store]);
        let listed = String::from_utf8(listed.stdout).unwrap();
        let last: Value = serde_json::from_str(listed.lines().last().unwrap()).unwrap();
        (last["session"].as_str().unwrap().to_owned(), got)
    }

    fn poptap(&self, arguments: &[&str]) -> Output {
        run(command(self.0.path()).args(arguments))
    }

    fn diff(&self, one: &str, other: &str, more: &[&str]) -> (Option<i32>, String) {
        let store = self.path();
        let output = self.poptap(&[&["sessions", "diff", one, other, "-t", &store], more].concat());
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }

    fn replay(&self, arguments: &[&str]) -> Replay {
        let mut replay = command(self.0.path());
        replay.args(["replay", "-v", "--listen", "0", "--transcript", &self.path()]).args(arguments);
        let mut child = replay.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        let address = line.split_once("listening on ").unwrap_or_else(|| panic!("{line}")).1.trim().parse().unwrap();
        Replay { address, child, log }
    }
}

/// A running `poptap replay`; killed when it is dropped.
struct Replay {
    address: SocketAddr,
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Replay {
    /// Waits for its end, and returns the rest of its log, in which no secret may be.
    fn end(mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        assert!(!log.contains(SECRET), "{log}");
        (self.child.wait().unwrap().code(), log)
    }

    fn stop(self) -> (Option<i32>, String) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        self.end()
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        // It may have ended, and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All that a client gets that says this at once.
fn played(address: SocketAddr, lines: &str) -> Vec<u8> {
    let mut client = Client::to(address);
    client.say(lines.as_bytes());
    rest(&mut client.0).0
}

fn text(octets: &[u8]) -> String {
    octets.escape_ascii().to_string()
}

// ── replay ──

#[test]
fn a_client_gets_the_octets_that_it_got_then() {
    let store = Store::new();
    let (id, got) = store.record(USUAL, "full");
    assert!(got.windows(9).any(|octets| octets == b"\n...two\r\n"), "{}", text(&got));
    let replay = store.replay(&["--as-server", &id, "--timing", "fast"]);
    // LIST was recorded as its first three lines: the sizes of the others are those that are made up, and happen to be right.
    for _ in 0..2 {
        assert_eq!(text(&played(replay.address, &lines())), text(&got));
    }
    let mut client = Client::to(replay.address);
    assert_eq!(client.line(), "+OK ready\r\n");
    for (asked, answered) in [
        ("USER somebody else", "+OK\r\n"),
        ("PASS anything", "+OK\r\n"),
        ("NOOP", "+OK\r\n"),
        ("RETR 2", "-ERR not in this recording\r\n"),
        ("STAT", "+OK 5 5000\r\n"),
        ("QUIT", "+OK bye\r\n"),
    ] {
        assert_eq!(client.ask(asked), answered, "{asked}");
    }
    assert_eq!(client.rest(), "");
    let (status, log) = replay.stop();
    assert_eq!(status, Some(0));
    assert!(log.contains("client 1: RETR 1: answered as command 7 was\n"), "{log}");
    assert!(log.contains("client 3: RETR 2: not in the recording: -ERR not in this recording\n"), "{log}");
    assert!(log.ends_with("3 clients, 28 commands, 2 of them not in the recording\n"), "{log}");
}

#[test]
fn what_was_not_kept_has_the_size_that_it_had() {
    let store = Store::new();
    for (content, begins) in [("none", "+OK 47 octets\r\nsynth"), ("headers", "+OK 47 octets\r\nSubject: dots\r\n\r\n")] {
        let (_, got) = store.record(USUAL, content);
        let replay = store.replay(&["--as-server", "--last", "--timing", "recorded", "--max-delay", "1s"]);
        let again = played(replay.address, "RETR 1\r\nQUIT\r\n");
        let again = text(&again);
        let message = again.strip_prefix("+OK ready\\r\\n").unwrap();
        assert!(message.starts_with(&text(begins.as_bytes())), "{message}");
        // Dots are doubled on the way, three in the message and none in what stands for it.
        let length = |text: &str| text.replace("\\r\\n", "__").replace("\\n", "_").len();
        let stuffed = length(&text(USUAL.message.as_bytes()).replace("\\xc3\\xa9", "__"));
        assert_eq!(length(message.strip_suffix("+OK bye\\r\\n").unwrap()), stuffed - 2, "{message}\n{}", text(&got));
        assert_eq!(replay.stop().0, Some(0));
    }
}

#[test]
fn a_replay_survives_its_clients() {
    let store = Store::new();
    let (id, _) = store.record(USUAL, "none");
    let replay = store.replay(&["--as-server", &id, "--timing", "fast"]);
    let mut endless = Client::to(replay.address);
    // The server may end the connection before all of it has gone.
    let _ = endless.0.write_all(&[b'x'; 9000]);
    assert!(text(&endless.last()).starts_with("+OK ready"));
    Client::to(replay.address).reset();
    let mut silent = Client::to(replay.address);
    silent.say(b"\r\n\0\r\n\xff\xfe\r\nRETR 1").0.shutdown(Shutdown::Write).unwrap();
    // The record withholds what XFOO was, so any unknown command may be it.
    assert_eq!(silent.rest(), format!("+OK ready\r\n{}", "-ERR unknown\r\n".repeat(3)));
    let mut gone = Client::to(replay.address);
    gone.say(&b"RETR 1\r\n".repeat(100));
    gone.reset();
    assert!(text(&played(replay.address, "QUIT\r\n")).ends_with("+OK bye\\r\\n"));
    assert_eq!(replay.stop().0, Some(0));
}

#[test]
fn once_is_enough_where_that_is_said() {
    let store = Store::new();
    store.record(USUAL, "none");
    let replay = store.replay(&["--as-server", "--last", "--once", "--timing", "fast"]);
    played(replay.address, "QUIT\r\n");
    let (status, log) = replay.end();
    assert!(status == Some(0) && log.ends_with("1 client, 1 command, 0 of them not in the recording\n"), "{status:?} {log}");
}

#[test]
fn what_cannot_be_replayed_says_why() {
    let store = Store::new();
    let (id, _) = store.record(USUAL, "none");
    let path = store.path();
    for (words, code, said) in [
        (format!("--as-server {id} --listen :0"), 64, "cannot replay to other hosts"),
        (format!("--as-server {id} --listen pop3s://127.0.0.1:0"), 64, "cannot replay over TLS without a certificate"),
        (format!("--as-server {id} --last"), 64, "either its id, or --last"),
        ("--as-server".to_owned(), 64, "either its id, or --last"),
        ("--last".to_owned(), 64, "--as-server"),
        ("--as-server nosuch".to_owned(), 69, "no session in"),
    ] {
        let arguments: Vec<_> = ["replay", "--transcript", &path].into_iter().chain(words.split(' ')).collect();
        let output = store.poptap(&arguments);
        let all = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(code) && all.contains(said), "{words}: {}\n{all}", output.status);
    }
}

// ── diff ──

#[test]
fn a_difference_is_shown_and_is_the_exit_code() {
    let store = Store::new();
    let (usual, _) = store.record(USUAL, "none");
    let (again, _) = store.record(USUAL, "none");
    let (capabilities, _) =
        store.record(Mailbox { capabilities: "+OK here you are\r\nTOP\r\nPIPELINING\r\nUSER\r\n.\r\n", ..USUAL }, "none");
    let (refused, _) = store.record(Mailbox { dele: "-ERR no\r\n", ..USUAL }, "none");
    let message = "+OK 48 octets\r\nSubject: dots\r\n\r\n..\r\n...two\r\nbare LF\n\u{e9}!\r\n.\r\n";
    let (longer, _) = store.record(Mailbox { message, ..USUAL }, "none");

    for same in [&usual, &again] {
        let (code, text) = store.diff(&usual, same, &[]);
        assert!(code == Some(0) && text.starts_with("== no difference: 11 commands in both"), "{code:?} {text}");
    }
    for (other, expected) in [
        (&capabilities, &["@@ -1 +1 @@ CAPA", "-S: UIDL", "+S: PIPELINING"][..]),
        (&refused, &["@@ -8 +8 @@ DELE 1", "-S: +OK deleted", "+S: -ERR no"]),
        (&longer, &["@@ -7 +7 @@ RETR 1", "-S: [message: 6 lines, 39 octets]", "+S: [message: 6 lines, 40 octets]"]),
    ] {
        let (code, text) = store.diff(&usual, other, &[]);
        let wanted = |line: &str| {
            expected.contains(&line) || ["-S: [sha256 ", "+S: [sha256 "].iter().any(|digest| line.starts_with(digest))
        };
        assert!(code == Some(1) && expected.iter().all(|line| text.lines().any(|there| there == *line)), "{code:?} {text}");
        let others = text.lines().skip(2).filter(|line| line.starts_with(['-', '+', '@']) && !wanted(line));
        assert_eq!(others.count(), 0, "{text}");
        let (code, json) = store.diff(&usual, other, &["--json", "--timing", "none"]);
        let found: Value = serde_json::from_str(&json).unwrap();
        assert!(code == Some(1) && found["differences"].as_array().unwrap().len() == 1, "{json}");
    }
    assert_eq!(store.diff(&usual, "nosuch", &[]).0, Some(69));
    assert_eq!(store.diff(&usual, &again, &["--timing", "fast"]).0, Some(64));
    assert_eq!(store.diff(&usual, &again, &["--timing", "100000"]).0, Some(0));
}

#[test]
fn a_session_is_compared_though_a_hostile_server_spoke_in_it() {
    let store = Store::new();
    let (usual, _) = store.record(USUAL, "none");
    let (hostile, _) = store.record(Mailbox { dele: "-ERR \u{1b}[2J\u{202e}\u{9b}31m\r\n", ..USUAL }, "none");
    let (code, text) = store.diff(&usual, &hostile, &[]);
    assert_eq!(code, Some(1));
    assert!(text.contains("\\x1b[2J") && text.chars().all(|character| !character.is_control() || character == '\n'), "{text}");
}
