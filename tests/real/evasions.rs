//! Commands spelt so that a server runs them and a filter overlooks them: each runs where it is sent directly, and none
//! gets past a rule.

use std::net::SocketAddr;

use crate::support::inetd::{Courier, Mailutils};
use crate::support::proxy::Proxy;
use crate::support::wire::Wire;
use crate::support::{certificates, scratch};

const MESSAGES: [&str; 2] = ["Subject: one\n\nfirst\n", "Subject: two\n\nsecond\n"];

/// All these delete the first message.
#[test]
fn no_spelling_of_dele_reaches_mailutils() {
    let Some(server) = Mailutils::start() else {
        eprintln!("not tried: only root can start Mailutils' pop3d");
        return;
    };
    assert_evaded_by_none(
        server.address(),
        || server.refill(&MESSAGES),
        &[
            ("lower case", b"dele 1\r\n"),
            ("a bare LF", b"DELE 1\n"),
            ("a leading blank", b" DELE 1\r\n"),
            ("leading tabs", b"\t\tDELE 1\r\n"),
            ("a tab for a blank", b"DELE\t1\r\n"),
            ("a sign", b"DELE +1\r\n"),
            ("two line ends", b"DELE 1\r\r\n"),
            ("a form feed behind it", b"DELE 1\x0c\r\n"),
            ("behind another command", b"NOOP\nDELE 1\r\n"),
        ],
    );
}

/// Courier glues the next line on where a NUL is, and takes control characters for blanks.
#[test]
fn no_spelling_of_dele_reaches_courier() {
    let server = Courier::start();
    assert_evaded_by_none(
        server.address(),
        || server.refill(&MESSAGES),
        &[
            ("lower case", b"dele 1\r\n"),
            ("a bare LF", b"DELE 1\n"),
            ("a leading blank", b" DELE 1\r\n"),
            ("leading tabs", b"\t\tDELE 1\r\n"),
            ("a tab for a blank", b"DELE\t1\r\n"),
            ("letters behind the number", b"DELE 1x\r\n"),
            ("a bare CR behind the keyword", b"DELE\r1\r\n"),
            ("a bare CR before the keyword", b"\rDELE 1\r\n"),
            ("a NUL that hides the line end", b"NOOP\0\r\nSTAT\r\nDELE 1\r\n"),
            ("a NUL behind the number", b"DELE 1\0\r\n2\r\n"),
        ],
    );
}

/// Each of these deletes a message when the server gets it, and none does behind a rule against DELE.
fn assert_evaded_by_none(server: SocketAddr, refill: impl Fn(), evasions: &[(&str, &[u8])]) {
    let unused = scratch();
    let url = format!("pop3://{server}");
    let proxy = Proxy::start_towards(&url, &certificates::make(unused.path()), &["--deny", "DELE"]);
    for (name, octets) in evasions {
        refill();
        let replies = say(server, octets);
        assert_eq!(count(server), MESSAGES.len() - 1, "{name}: the server does not run it: {replies:?}");

        refill();
        let replies = say(proxy.address(), octets);
        assert_eq!(count(server), MESSAGES.len(), "{name}: it got past the rule: {replies:?}");
        let agreed = replies.lines().filter(|line| line.starts_with("+OK")).count();
        let harmless = octets.windows(4).filter(|word| word == b"NOOP").count();
        assert!(agreed <= 1 + harmless, "{name}: more than QUIT was answered: {replies:?}");
        assert!(replies.contains("-ERR"), "{name}: it was not refused: {replies:?}");
    }
    proxy.stop();
}

/// Log in, send that and QUIT, and return what is answered.
fn say(address: SocketAddr, octets: &[u8]) -> String {
    let mut wire = Wire::log_in(address);
    wire.send(&[octets, b"QUIT\r\n"].concat());
    String::from_utf8(wire.rest()).unwrap()
}

fn count(server: SocketAddr) -> usize {
    let mut wire = Wire::log_in(server);
    let count = wire.ask_for_lines("LIST").len();
    wire.quit();
    count
}
