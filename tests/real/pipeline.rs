//! Sessions written in one piece, in the smallest pieces, and with one direction closed early.

use std::net::SocketAddr;

use crate::support::dovecot::{Dovecot, MODES, Mode};
use crate::support::proxy::Proxy;
use crate::support::wire::Wire;
use crate::support::{PASSWORD, USER, mailbox};

/// A whole session as a list of commands, every message included.
fn session() -> Vec<String> {
    let mut commands = vec![format!("USER {USER}"), format!("PASS {PASSWORD}")];
    commands.extend(["CAPA", "STAT", "LIST", "UIDL", "LIST 2", "UIDL 99", "TOP 1 0", "noop", "XFOO"].map(str::to_owned));
    commands.extend((1..=mailbox::messages().len()).map(|number| format!("RETR {number}")));
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

#[test]
fn a_session_in_one_write_is_answered_as_by_dovecot_itself() {
    let dovecot = Dovecot::start();
    let commands = session();
    let direct = replies_to(dovecot.plain(), &octets(&commands));
    for mode in MODES {
        let proxy = Proxy::start(&dovecot, mode);
        assert_replies(&replies_to(proxy.address(), &octets(&commands)), &direct, mode);
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
    let commands = session();
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
    let commands = session();
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
