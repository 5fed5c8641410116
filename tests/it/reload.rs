//! What SIGHUP brings: rules and limits for new sessions, and nothing where the file cannot be used.

use std::{fs, path::Path};

use rustix::process::Signal;

use crate::support::{
    mailbox::{GREETING, mailbox},
    outside::{Client, Poptap, SECRET, Server},
};

const NO_DELE: &str = "[[rule]]\nname = 'no dele'\nwhen = { command = 'DELE' }\naction = { deny = 'not here' }\n";
const SHIELD: &str = "[[rule]]\nname = 'kept'\naction = 'shield'\n";
const DENIED: &str = "-ERR not here\r\n";

fn start(configuration: &str) -> (Server, Poptap) {
    let server = Server::times(100, mailbox);
    let poptap = Poptap::start(configuration, &["--upstream", &server.url("pop3")]);
    (server, poptap)
}

fn reload(poptap: &mut Poptap, configuration: &str) {
    poptap.reconfigure(configuration);
    poptap.signal(Signal::HUP);
    poptap.log_line("reloaded: ");
}

fn logged_in(poptap: &Poptap) -> Client {
    let mut client = poptap.connect();
    assert_eq!(client.line(), GREETING);
    for line in ["USER tim".to_owned(), format!("PASS {SECRET}")] {
        assert!(client.ask(&line).starts_with("+OK"));
    }
    client
}

fn quit(mut client: Client) {
    client.say(b"QUIT\r\n");
    assert_eq!(client.rest(), "+OK\r\n");
}

#[test]
fn rules_come_and_go_for_new_sessions_and_a_session_keeps_its_own() {
    let (_server, mut poptap) = start("");
    let mut before = logged_in(&poptap);
    reload(&mut poptap, NO_DELE);
    let mut between = logged_in(&poptap);
    assert_eq!((before.ask("DELE 1").as_str(), between.ask("DELE 1").as_str()), ("+OK\r\n", DENIED));
    reload(&mut poptap, "");
    let mut after = logged_in(&poptap);
    for (client, said) in [(&mut before, "+OK\r\n"), (&mut between, DENIED), (&mut after, "+OK\r\n")] {
        assert_eq!(client.ask("DELE 1"), said);
    }
    [before, between, after].into_iter().for_each(quit);
    let left = poptap.stop();
    assert_eq!(left.count("decision", "rule", "no dele"), 2);
}

#[test]
fn limits_on_logins_and_sessions_come_too() {
    let (server, mut poptap) = start("");
    let mut before = logged_in(&poptap);
    reload(&mut poptap, "[limits]\ncommands = 3\nsessions_per_user = 1\n");
    let mut after = poptap.connect();
    assert_eq!((after.line().as_str(), after.ask("USER tim").as_str()), (GREETING, "+OK\r\n"));
    let denied = after.ask(&format!("PASS {SECRET}"));
    assert_eq!(denied, "-ERR [IN-USE] too many sessions of this user, end one or try again later\r\n", "the one before counts");
    assert_eq!(server.heard(), b"USER tim\r\n", "the login was not passed on");
    for _ in 0..5 {
        assert_eq!(before.ask("NOOP"), "+OK\r\n", "a session keeps the limits that it began with");
    }
    quit(before);
    poptap.stop();
}

#[test]
fn a_file_with_a_fault_changes_nothing_and_the_log_says_what_it_is() {
    let (_server, mut poptap) = start(NO_DELE);
    for (faulty, said) in [
        ("[[rule]]\nname = 'x'\nwhen = { line = '(' }\naction = 'deny'\n", "poptap.toml:3"),
        ("[[rule]]\nname = 'x'\naction = 'explode'\n", "poptap.toml:3"),
        ("[limits]\ncommand_line = 5\n", "poptap.toml:2"),
        (&format!("{SHIELD}[shield]\ndir = '/dev/null/shield'\n"), "/dev/null/shield"),
    ] {
        poptap.reconfigure(faulty);
        poptap.signal(Signal::HUP);
        let line = poptap.log_line("reload failed, and everything stays as it was");
        if !line.contains(said) {
            poptap.log_line(said);
        }
        let mut client = logged_in(&poptap);
        assert_eq!(client.ask("DELE 1"), DENIED, "{faulty}");
        quit(client);
    }
    poptap.stop();
}

#[test]
fn a_shield_that_a_reload_turns_on_remembers_and_keeps_its_memory_at_the_next_one() {
    // Its directory is one that nobody named at the start.
    let (server, mut poptap) = start("[process]\nsandbox = 'off'\n");
    let dir = poptap.store.with_file_name("memory");
    let shield = format!("{SHIELD}[shield]\ndir = '{}'\n", dir.display());
    let mut unshielded = logged_in(&poptap);
    assert!(!dir.exists());
    reload(&mut poptap, &shield);
    assert!(!is_empty(&dir), "the memory is open");
    let mut client = logged_in(&poptap);
    assert!(client.ask("DELE 1").starts_with("+OK"));
    quit(client);
    assert!(!String::from_utf8(server.heard()).unwrap().contains("DELE"));
    // One process holds a directory once: opening it again would fail.
    reload(&mut poptap, &format!("{shield}\n{NO_DELE}"));
    assert_eq!(stat(&poptap), "+OK 1 30000000\r\n", "what was deleted before the reload stays hidden");
    reload(&mut poptap, "");
    assert_eq!(stat(&poptap), "+OK 2 30000100\r\n", "without a shield nothing is");
    reload(&mut poptap, &shield);
    assert_eq!(stat(&poptap), "+OK 1 30000000\r\n");
    assert_eq!(unshielded.ask("DELE 1"), "+OK\r\n");
    quit(unshielded);
    assert!(String::from_utf8_lossy(&poptap_heard(&server)).contains("DELE 1"), "the session from before was not shielded");
    poptap.stop();
}

/// What the server heard in the last of four sessions.
fn poptap_heard(server: &Server) -> Vec<u8> {
    let heard: Vec<_> = (0..4).map(|_| server.heard()).collect();
    heard.into_iter().next_back().unwrap()
}

fn stat(poptap: &Poptap) -> String {
    let mut client = logged_in(poptap);
    let said = client.ask("STAT");
    quit(client);
    said
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}
