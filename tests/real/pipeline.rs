//! Sessions written in one piece, in the smallest pieces, and with one direction closed early.

use std::net::SocketAddr;

use crate::support::dovecot::{Dovecot, MODES, Mode};
use crate::support::proxy::Proxy;
use crate::support::wire::Wire;
use crate::support::{PASSWORD, USER, mailbox};

/// A whole session as a list of commands, every message included.
fn session() -> Vec<String> {
    session_of(1..=mailbox::messages().len())
}

/// A session that is answered with a few kilobytes.
///
/// Dovecot 2.3 itself sometimes loses the last octets of a long TLS session when QUIT is pipelined behind it: some 2 % of
/// such sessions ended 2,407 octets early with an orderly `close_notify`, without poptap, on a busy machine.
fn short_session() -> Vec<String> {
    let messages = mailbox::messages();
    session_of((1..=messages.len()).filter(|number| messages[number - 1].len() < 1000).take(3))
}

fn session_of(messages: impl Iterator<Item = usize>) -> Vec<String> {
    let mut commands = vec![format!("USER {USER}"), format!("PASS {PASSWORD}")];
    commands.extend(["CAPA", "STAT", "LIST", "UIDL", "LIST 2", "UIDL 99", "TOP 1 0", "noop", "XFOO"].map(str::to_owned));
    commands.extend(messages.map(|number| format!("RETR {number}")));
    commands.extend(["DELE 1", "RSET", "QUIT"].map(str::to_owned));
    commands
}

fn octets(commands: &[String]) -> Vec<u8> {
    commands.iter().flat_map(|command| format!("{command}\r\n").into_bytes()).collect()
}

/// All that is answered to a session sent in one write.
fn replies_to(address: SocketAddr, octets: &[u8]) -> Vec<u8> {
    let mut wire = Wire::connect(address);
    wire.send(octets);
    wire.rest()
}

/// The same for `QUIT` in a write of its own, when all that was asked before is answered: see [`short_session`].
fn replies_with_quit_apart(address: SocketAddr, commands: &[String], expected: usize) -> Vec<u8> {
    let (quit, others) = commands.split_last().unwrap();
    let mut wire = Wire::connect(address);
    wire.send(&octets(others));
    let mut replies = wire.exactly(expected - FAREWELL.len());
    wire.send(&octets(std::slice::from_ref(quit)));
    replies.extend(wire.rest());
    replies
}

/// Dovecot's reply to QUIT after a login.
const FAREWELL: &[u8] = b"+OK Logging out.\r\n";

#[test]
fn a_session_in_one_write_is_answered_as_by_dovecot_itself() {
    let dovecot = Dovecot::start();
    let commands = session();
    let direct = replies_to(dovecot.plain(), &octets(&commands));
    assert!(direct.ends_with(FAREWELL));
    for mode in MODES {
        let proxy = Proxy::start(&dovecot, mode);
        let replies = match mode {
            Mode::Plain => replies_to(proxy.address(), &octets(&commands)),
            _ => replies_with_quit_apart(proxy.address(), &commands, direct.len()),
        };
        assert_replies(&replies, &direct, mode);
        let transcript = proxy.stop();
        let summary = transcript.only_session();
        assert_eq!(summary["commands"], commands.len(), "{summary:#}");
        assert_eq!(summary["messages"], mailbox::messages().len(), "{summary:#}");
        assert_eq!(summary["deleted"], 0, "{summary:#}");
        assert_eq!(summary["reason"], "quit", "{summary:#}");
        assert!(summary.get("opaque").is_none(), "{summary:#}");
        let expected: Vec<_> = commands.iter().map(|command| keyword(command)).collect();
        assert_eq!(transcript.keywords(), expected);
        assert_eq!(transcript.of_kind("reply").count(), commands.len());
    }
}

#[test]
fn a_session_of_single_octets_is_answered_as_one_in_one_write() {
    let dovecot = Dovecot::start();
    let commands = short_session();
    let direct = replies_to(dovecot.plain(), &octets(&commands));
    let proxy = Proxy::start(&dovecot, Mode::Implicit);
    let mut wire = Wire::connect(proxy.address());
    for octet in octets(&commands) {
        wire.send(&[octet]);
    }
    assert_replies(&wire.rest(), &direct, Mode::Implicit);
    proxy.stop();
}

#[test]
fn replies_still_come_after_the_client_has_closed_its_side() {
    let dovecot = Dovecot::start();
    let mut commands = session();
    // Without QUIT nothing but the end of the stream can end the session.
    commands.pop();
    let mut direct = Wire::connect(dovecot.plain());
    direct.send(&octets(&commands));
    direct.finish_writing();
    let expected = direct.rest();
    assert!(expected.ends_with(b"+OK\r\n"), "Dovecot itself gave up: {:?}", String::from_utf8_lossy(&expected));

    let proxy = Proxy::start(&dovecot, Mode::Plain);
    let mut wire = Wire::connect(proxy.address());
    wire.send(&octets(&commands));
    wire.finish_writing();
    assert_replies(&wire.rest(), &expected, Mode::Plain);
    let transcript = proxy.stop();
    assert!(!transcript.keywords().contains(&"QUIT"), "a QUIT was invented");
    assert_eq!(transcript.of_kind("reply").count(), commands.len());
}

#[test]
fn a_session_with_quit_survives_half_close_in_every_mode() {
    let dovecot = Dovecot::start();
    let commands = short_session();
    let direct = replies_to(dovecot.plain(), &octets(&commands));
    for mode in MODES {
        let proxy = Proxy::start(&dovecot, mode);
        let mut wire = Wire::connect(proxy.address());
        wire.send(&octets(&commands));
        wire.finish_writing();
        assert_replies(&wire.rest(), &direct, mode);
        proxy.stop();
    }
}

/// As `assert_eq!`, but without printing megabytes.
fn assert_replies(got: &[u8], expected: &[u8], mode: Mode) {
    let place = got.iter().zip(expected).position(|(one, other)| one != other);
    let lengths = (got.len(), expected.len());
    assert!(got == expected, "over {mode:?}: {lengths:?} octets came and were expected, the first other one at {place:?}");
}

/// The name in the transcript: upper case, `?` for what POP3 does not know.
fn keyword(command: &str) -> String {
    let keyword = command.split(' ').next().unwrap().to_uppercase();
    if keyword == "XFOO" { "?".to_owned() } else { keyword }
}
