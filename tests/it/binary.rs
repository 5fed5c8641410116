//! The program from the outside: signals, exit codes, what it prints, and a store that fails.

use std::{
    fs::{self, OpenOptions},
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener},
    process::{Output, Stdio},
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::outside::{Poptap, SECRET, Server, command, converse, run};

fn logged_in() -> (Server, Poptap, crate::support::outside::Client) {
    let server = Server::once(converse);
    let poptap = Poptap::to(&server.url("pop3"));
    let mut client = poptap.connect();
    client.log_in();
    (server, poptap, client)
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

// ── signals ──

#[test]
fn the_first_signal_lets_a_session_finish() {
    let (_server, mut poptap, mut client) = logged_in();
    poptap.signal(Signal::TERM);
    poptap.log_line("waiting for sessions to finish");
    assert!(std::net::TcpStream::connect(poptap.address).is_err(), "a new client was accepted");
    assert!(client.ask("RETR 1").starts_with("+OK"));
    client.say(b"QUIT\r\n").0.shutdown(Shutdown::Write).unwrap();
    assert!(client.rest().ends_with("\r\n+OK\r\n"));
    let left = poptap.wait();
    assert!(left.status.success());
    assert_eq!(left.verdict(), "complete: 1 message, 24 octets");
}

#[test]
fn the_second_signal_closes_sessions_at_once_and_without_quit() {
    let (server, mut poptap, client) = logged_in();
    poptap.signal(Signal::INT);
    poptap.log_line("waiting for sessions to finish");
    poptap.signal(Signal::TERM);
    assert_eq!(client.rest(), "");
    assert_eq!(text(&server.heard()), format!("USER tim\r\nPASS {SECRET}\r\n"));
    let left = poptap.wait();
    assert!(left.status.success() && left.log.contains("closed before they had finished"), "{}", left.log);
    assert_eq!(left.verdict(), "stopped by the operator");
}

#[test]
fn what_was_recorded_before_a_kill_can_be_read() {
    let (_server, poptap, mut client) = logged_in();
    client.ask("STAT");
    let folder = poptap.store.clone();
    let line = poll(|| find(&folder, "\"keyword\":\"STAT\",\"status\""));
    poptap.signal(Signal::KILL);
    OpenOptions::new().append(true).open(line).unwrap().write_all(b"{\"v\":1,\"session\":\"to").unwrap();
    for arguments in [&["list"][..], &["show", "--last"], &["show", "--last", "--json"]] {
        let output = run(command(&folder).arg("sessions").args(arguments).arg("--transcript").arg(&folder));
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success() && !out.is_empty() && !out.contains(SECRET), "{out}{err}");
        assert!(err.contains("1 torn line skipped"), "{err}");
    }
    assert!(!poptap.wait().status.success());
}

/// Asks until there is an answer: what is waited for is written by another process.
fn poll<T>(mut question: impl FnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + crate::support::outside::PATIENCE;
    loop {
        if let Some(answer) = question() {
            return answer;
        }
        assert!(std::time::Instant::now() < deadline, "it never happened");
        std::thread::yield_now();
    }
}

/// The file below `folder` that holds `wanted`.
fn find(folder: &std::path::Path, wanted: &str) -> Option<std::path::PathBuf> {
    let paths = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    paths.into_iter().find(|path| fs::read(path).is_ok_and(|octets| text(&octets).contains(wanted)))
}

// ── the store ──

/// Two whole sessions must pass, whatever becomes of their record.
fn two_sessions_pass(poptap: &Poptap) {
    for _ in 0..2 {
        let mut client = poptap.connect();
        client.log_in().say(b"RETR 1\r\nQUIT\r\n");
        assert!(client.rest().ends_with("hello\r\n..\r\n.\r\n+OK\r\n"));
    }
}

#[test]
fn a_standard_output_that_cannot_be_written_costs_the_record_and_not_the_mail() {
    let full = Stdio::from(OpenOptions::new().write(true).open("/dev/full").unwrap());
    let (reader, closed) = std::io::pipe().unwrap();
    drop(reader);
    for stdout in [full, Stdio::from(closed)] {
        let server = Server::times(2, converse);
        let arguments = ["--upstream", &server.url("pop3"), "--transcript", "-"];
        let poptap = Poptap::start_in(tempfile::tempdir().unwrap(), "", &arguments, stdout);
        two_sessions_pass(&poptap);
        let left = poptap.stop();
        assert!(left.log.contains("cannot write the transcript"), "{}", left.log);
        assert!(left.log.contains("the transcript is incomplete events=24 summaries=2"), "{}", left.log);
    }
}

#[test]
fn a_store_that_is_removed_under_way_is_made_again() {
    let server = Server::times(3, converse);
    // Inside its sandbox poptap may write within the store, and make nothing beside it.
    let mut poptap = Poptap::start("[process]\nsandbox = 'off'\n", &["--upstream", &server.url("pop3")]);
    let mut client = poptap.connect();
    client.log_in();
    let store = poptap.store.clone();
    poll(|| find(&store, "\"keyword\":\"PASS\",\"status\""));
    fs::remove_dir_all(&store).unwrap();
    client.say(b"QUIT\r\n");
    client.rest();
    poptap.log_line("cannot write the transcript");
    two_sessions_pass(&poptap);
    let left = poptap.stop();
    let complete = left.sessions.iter().filter(|session| session["verdict"] == "complete: 1 message, 24 octets").count();
    assert_eq!(complete, 2, "{:#?}\n{}", left.sessions, left.log);
    assert!(left.events.iter().any(|event| event["keyword"] == "RETR"), "{}", left.log);
}

#[test]
fn two_processes_share_a_store() {
    let server = Server::times(4, converse);
    let one = Poptap::to(&server.url("pop3"));
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--upstream", &server.url("pop3"), "--transcript", one.store.to_str().unwrap()];
    let other = Poptap::start_in(folder, "", &arguments, Stdio::null());
    two_sessions_pass(&other);
    two_sessions_pass(&one);
    other.stop();
    let left = one.stop();
    assert_eq!(left.sessions.len(), 4);
    assert!(left.sessions.iter().all(|session| session["verdict"] == "complete: 1 message, 24 octets"));
}

#[test]
fn the_record_can_reveal_credentials_and_says_so_everywhere() {
    let server = Server::once(converse);
    let arguments = ["--upstream", &server.url("pop3"), "--transcript", "-", "--reveal-credentials"];
    let (mut reader, stdout) = std::io::pipe().unwrap();
    let poptap = Poptap::start_in(tempfile::tempdir().unwrap(), "", &arguments, Stdio::from(stdout));
    let mut client = poptap.connect();
    client.log_in().say(b"QUIT\r\n");
    client.rest();
    // The log holds no password even then.
    let left = poptap.stop();
    assert!(left.log.contains("passwords are written into the transcript"), "{}", left.log);
    let mut record = String::new();
    reader.read_to_string(&mut record).unwrap();
    assert!(record.contains(SECRET));
    assert_eq!(record.matches("\"credentials_revealed\":true").count(), 2, "{record}");
}

// ── limits ──

#[test]
fn one_connection_more_than_allowed_is_turned_away() {
    let server = Server::times(2, converse);
    let poptap = Poptap::start("[limits]\nconnections = 1\n", &["--upstream", &server.url("pop3")]);
    let mut first = poptap.connect();
    first.log_in();
    let second = poptap.connect();
    assert_eq!(second.rest(), "-ERR [SYS/TEMP] too many connections, try again later\r\n");
    assert_eq!(first.ask("QUIT"), "+OK\r\n");
    first.rest();
    server.heard();
    let left = poptap.stop();
    assert_eq!(left.sessions.len(), 2);
    assert!(left.has_event("closed", "reason", "too-many-connections"));
}

#[test]
fn a_listener_on_all_interfaces_takes_both_families() {
    let server = Server::times(3, converse);
    let poptap = Poptap::start("", &["--upstream", &server.url("pop3"), "--listen", ":0", "--allow-from", "192.0.2.0/24"]);
    drop(poptap.connect());
    assert!(poptap.address.ip().is_unspecified() && poptap.address.is_ipv6(), "{}", poptap.address);
    let port = poptap.address.port();
    for host in ["127.0.0.1", "[::1]"] {
        let address: std::net::SocketAddr = format!("{host}:{port}").parse().unwrap();
        let mut client = crate::support::outside::Client(std::net::TcpStream::connect(address).unwrap());
        assert_eq!(client.line(), "+OK ready\r\n");
    }
    poptap.stop();
}

// ── what is wrong with a command line ──

fn outcome(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn what_cannot_start_says_why_and_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join(".local/state/poptap")).unwrap();
    for (words, code, said) in [
        ("run", 78, "give its URL"),
        ("run http://mail", 64, "`pop3s://`"),
        ("run pop3://tim:secret@mail", 64, "cannot hold a user name"),
        ("run pop3://mail --listen nonsense", 64, "`ADDR:PORT`"),
        ("run pop3://mail --listen 99999", 64, "up to 65535"),
        ("run pop3://mail --listen :0", 78, "--allow-from"),
        ("run pop3://mail --listen :0 --allow-from 192.0.2.0/40", 64, "is not a network"),
        (&format!("run pop3://mail --listen {taken}"), 69, "choose another port"),
        ("run pop3://mail --transcript /proc/poptap", 74, "choose another place"),
        ("run pop3://mail --transcript /dev/null", 74, "choose another place"),
        ("run pop3s://mail --upstream-ca /etc/passwd", 78, "BEGIN CERTIFICATE"),
        ("run --config /nowhere.toml", 78, "/nowhere.toml"),
        ("sessions show nosuch", 69, "poptap sessions list"),
        ("sessions show --last", 69, "no session is recorded"),
        ("frobnicate", 64, "unrecognized subcommand"),
    ] {
        let (status, all) = outcome(&run(command(folder.path()).args(words.split_whitespace())));
        assert!(status == Some(code) && all.contains(said), "{words}: {status:?}\n{all}");
        assert!(!all.contains("secret") && !all.contains("panicked"), "{words}: {all}");
    }
}

#[test]
fn the_environment_can_be_wrong_too() {
    let folder = tempfile::tempdir().unwrap();
    for (name, value, words, said) in [
        ("HOME", "", "run pop3://mail", "--transcript DIR"),
        ("HOME", "", "sessions list", "--transcript DIR"),
        ("POPTAP_LOG", "poptap=loud=er", "run pop3://mail --listen 0", "POPTAP_LOG"),
        ("POPTAP_CONFIG", "/nowhere.toml", "check", "/nowhere.toml"),
    ] {
        let (status, all) = outcome(&run(command(folder.path()).env(name, value).args(words.split_whitespace())));
        assert!(status == Some(78) && all.contains(said), "{name}={value} {words}: {status:?}\n{all}");
    }
}

#[test]
fn a_reader_who_has_gone_is_no_failure_and_a_full_disk_is() {
    let folder = tempfile::tempdir().unwrap();
    for words in ["man", "completions bash", "config schema", "check pop3://mail --no-transcript", "demo"] {
        let (reader, closed) = std::io::pipe().unwrap();
        drop(reader);
        let child = command(folder.path()).args(words.split_whitespace()).stdout(closed).stderr(Stdio::piped()).spawn().unwrap();
        let (status, all) = outcome(&child.wait_with_output().unwrap());
        assert!(status == Some(0) && !all.contains("panicked"), "{words}: {status:?}\n{all}");
    }
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let child = command(folder.path()).arg("man").stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    assert_eq!(outcome(&child.wait_with_output().unwrap()).0, Some(74));
}

#[test]
fn the_demo_needs_nothing_and_ends_by_itself_when_piped() {
    let folder: TempDir = tempfile::tempdir().unwrap();
    let output = run(command(folder.path()).arg("demo").env_remove("HOME"));
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for expected in ["C: CAPA", "S: +OK", "PASS <withheld", "complete: "] {
        assert!(shown.contains(expected), "{expected} in\n{shown}");
    }
    assert!(!shown.contains('\x1b'), "{shown}");
}
