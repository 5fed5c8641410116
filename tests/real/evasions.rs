//! Every known way to get a command past a filter, tried with servers that are open to it.
//!
//! Each trick is first played on the server itself, which shows who is open to it: the command is carried out. Behind rules it
//! must not be, and the session goes on or is closed as the documents say.

use std::net::SocketAddr;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use self::Denied::{Dele, FirstMessage, User};
use self::Then::{Closes, GoesOn};
use crate::support::owner::Owner;
use crate::support::proxy::Proxy;
use crate::support::servers::Make::{self, Courier, Cyrus, Dovecot, Mailutils};
use crate::support::servers::{SUBJECT, Server};
use crate::support::wire::Wire;
use crate::support::{PASSWORD, PATIENCE, USER, scratch};

#[test]
fn nothing_slips_past_to_courier() {
    hold(Courier);
}

#[test]
fn nothing_slips_past_to_cyrus() {
    hold(Cyrus);
}

#[test]
fn nothing_slips_past_to_dovecot() {
    hold(Dovecot);
}

#[test]
fn nothing_slips_past_to_mailutils() {
    // It takes the group `mail` before all else.
    assert!(Owner::of_servers().differs, "only root can start Mailutils' pop3d: run this test as root");
    hold(Mailutils);
}

/// A way to have a command carried out that a rule denies.
struct Trick {
    name: &'static str,
    /// What the rule denies.
    denied: Denied,
    /// Whether it is played behind the login.
    logged_in: bool,
    octets: Vec<u8>,
    /// Whether the stream ends there, in the middle of a line. Otherwise QUIT follows.
    unfinished: bool,
    /// Who is open to it.
    open: &'static [Make],
    /// What becomes of the session behind the rule.
    then: Then,
}

/// What a rule denies, and how it shows that the server did it all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Denied {
    /// DELE: a message less in the next session.
    Dele,
    /// RETR and TOP of message 1: it is shown.
    FirstMessage,
    /// USER: a message less in the next session, since the trick deletes one behind the login.
    User,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// QUIT is answered.
    GoesOn,
    /// It ends before that.
    Closes,
}

fn hold(make: Make) {
    let tricks = tricks();
    let server = Server::start(make, tricks.len() + 2);
    let mut left = messages(server.address());
    let proxies = [Dele, FirstMessage, User].map(|denied| (denied, proxy(server.address(), denied)));
    for trick in tricks {
        let (carried_out, direct) = play(&trick, server.address(), server.address(), &mut left);
        assert_eq!(carried_out, trick.open.contains(&make), "{make:?} and {}: {direct}", trick.name);
        let (_, proxy) = proxies.iter().find(|(denied, _)| *denied == trick.denied).unwrap();
        let (carried_out, proxied) = play(&trick, proxy.address(), server.address(), &mut left);
        assert!(!carried_out, "{make:?} carried out {} behind a rule: {proxied}", trick.name);
        let then = if proxied.lines().last().is_some_and(|line| line.starts_with("+OK")) { GoesOn } else { Closes };
        assert_eq!(then, trick.then, "{make:?}, {}: {proxied}", trick.name);
    }
    for (_, proxy) in proxies {
        proxy.stop();
    }
}

/// Whether the server carried it out, and what it said. `left` is how many messages it has.
fn play(trick: &Trick, address: SocketAddr, server: SocketAddr, left: &mut usize) -> (bool, String) {
    let mut wire = if trick.logged_in { log_in(address) } else { Wire::connect(address) };
    wire.send(&trick.octets);
    if !trick.unfinished {
        // It may have closed by now.
        let _ = wire.try_send(b"QUIT\r\n");
    }
    let _ = wire.try_finish_writing();
    let said = String::from_utf8_lossy(&wire.all_that_comes()).into_owned();
    let carried_out = match trick.denied {
        FirstMessage => said.contains(SUBJECT),
        Dele | User => {
            let before = std::mem::replace(left, messages(server));
            *left < before
        }
    };
    (carried_out, said)
}

fn messages(server: SocketAddr) -> usize {
    let mut wire = log_in(server);
    let reply = wire.ask("STAT");
    wire.quit();
    reply.split(' ').nth(1).and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("STAT was answered with {reply:?}"))
}

/// As soon as the session before is over: until then the mailbox may be locked.
fn log_in(address: SocketAddr) -> Wire {
    let begin = Instant::now();
    loop {
        let mut wire = Wire::connect(address);
        wire.ask(&format!("USER {USER}"));
        let reply = wire.ask(&format!("PASS {PASSWORD}"));
        if reply.starts_with("+OK") {
            return wire;
        }
        assert!(begin.elapsed() < PATIENCE, "the login was answered with {reply:?}");
    }
}

fn proxy(server: SocketAddr, denied: Denied) -> Proxy {
    let when = match denied {
        Dele => "{ command = 'DELE' }",
        FirstMessage => "{ command = ['RETR', 'TOP'], message = 1 }",
        User => "{ command = 'USER' }",
    };
    let home = scratch();
    let text = format!(
        "[[listener]]\naddress = '127.0.0.1:0'\n[[upstream]]\nurl = 'pop3://{server}'\n\
         [[rule]]\nname = 'no'\nwhen = {when}\naction = 'deny'\n"
    );
    std::fs::write(home.path().join("poptap.toml"), text).unwrap();
    Proxy::start_from_file(home, 1, &[])
}

const ALL: &[Make] = &[Courier, Cyrus, Dovecot, Mailutils];
const NOBODY: &[Make] = &[];

fn tricks() -> Vec<Trick> {
    let login = format!("USER {USER}\r\nPASS {PASSWORD}\r\n");
    let credentials = STANDARD.encode(format!("\0{USER}\0{PASSWORD}"));
    // Some readers cut lines there, and take the rest for another one.
    let cut = |beginning: &str, place: usize, tail: &str| format!("{beginning}{}{tail}\r\n", "a".repeat(place - beginning.len()));
    let unfinished = |trick: Trick| Trick { unfinished: true, ..trick };
    let before_login = |trick: Trick| Trick { logged_in: false, ..trick };
    vec![
        // Spelling.
        trick("lower case", Dele, "dele 1\r\n", ALL, GoesOn),
        trick("a blank in front", Dele, " DELE 1\r\n", &[Courier, Mailutils], GoesOn),
        trick("a tab in front", Dele, "\tDELE 1\r\n", &[Courier, Mailutils], GoesOn),
        trick("a tab between", Dele, "DELE\t1\r\n", &[Courier, Cyrus, Mailutils], GoesOn),
        trick("two blanks between", Dele, "DELE  1\r\n", &[Courier, Cyrus, Dovecot], GoesOn),
        trick("a vertical tab in front", Dele, "\x0bDELE 1\r\n", NOBODY, GoesOn),
        // Line ends.
        trick("a bare LF", Dele, "DELE 1\n", ALL, GoesOn),
        trick("a bare LF behind another command", Dele, "NOOP\nDELE 1\r\n", ALL, GoesOn),
        trick("CR CR LF", Dele, "DELE 1\r\r\n", &[Courier, Mailutils], GoesOn),
        trick("a form feed behind", Dele, "DELE 1\x0c\r\n", &[Courier, Mailutils], GoesOn),
        trick("two tabs in front", Dele, "\t\tDELE 1\r\n", &[Courier, Mailutils], GoesOn),
        trick("a bare CR behind another command", Dele, "NOOP\rDELE 1\r\n", NOBODY, GoesOn),
        trick("a bare CR for the blank", Dele, "DELE\r1\r\n", &[Courier, Cyrus, Mailutils], GoesOn),
        trick("a bare CR in front", Dele, "\rDELE 1\r\n", &[Courier], GoesOn),
        trick("a bare CR and a command behind it", FirstMessage, "RETR 1\rQUIT\r\n", &[Courier, Mailutils], GoesOn),
        unfinished(trick("no line end", FirstMessage, "RETR 1", &[Courier, Cyrus, Mailutils], Closes)),
        // NUL.
        trick("a NUL at the end", Dele, "DELE 1\0x\r\n", &[Cyrus, Dovecot, Mailutils], GoesOn),
        trick("a NUL in the keyword", Dele, "DE\0LE 1\r\n", NOBODY, GoesOn),
        trick("a NUL that glues lines together", Dele, "DE\0\r\nLE 1\r\n", NOBODY, GoesOn),
        trick("a NUL that takes the line end away", Dele, "NOOP\0\r\nDELE 1\r\n", &[Cyrus, Dovecot, Mailutils], GoesOn),
        trick("a NUL that hides a line end", Dele, "NOOP\0\r\nSTAT\r\nDELE 1\r\n", ALL, GoesOn),
        trick("a NUL behind the number", Dele, "DELE 1\0\r\n2\r\n", ALL, GoesOn),
        // Long lines.
        trick("NOOP, cut at 8,191", Dele, &cut("NOOP ", 8191, "DELE 1"), &[Cyrus], Closes),
        trick("NOOP, cut at 8,192", Dele, &cut("NOOP ", 8192, "DELE 1"), &[Mailutils], Closes),
        trick("a word, cut at 8,191", Dele, &cut("", 8191, "DELE 1"), &[Cyrus], Closes),
        trick("a word, cut at 8,192", Dele, &cut("", 8192, "DELE 1"), &[Mailutils], Closes),
        trick("AUTH, cut at 8,191", Dele, &cut("AUTH PLAIN ", 8191, "DELE 1"), &[Cyrus], Closes),
        trick("AUTH, cut at 8,192", Dele, &cut("AUTH PLAIN ", 8192, "DELE 1"), &[Mailutils], Closes),
        // What may be a SASL response, and is none.
        trick("behind AUTH PLAIN", Dele, "AUTH PLAIN\r\nDELE 1\r\n", ALL, GoesOn),
        trick("behind an unknown mechanism", Dele, "AUTH XFOO\r\nDELE 1\r\n", ALL, GoesOn),
        trick("behind a cancelled AUTH", Dele, "AUTH PLAIN\r\n*\r\nDELE 1\r\n", ALL, GoesOn),
        // What may be TLS or a message, and is neither.
        trick("behind STLS", Dele, "STLS\r\nDELE 1\r\n", ALL, GoesOn),
        trick("in a message that nobody takes", Dele, "XTND XMIT\r\nDELE 1\r\n.\r\n", ALL, GoesOn),
        // Behind a login in one segment.
        before_login(trick("behind PASS", Dele, &format!("{login}DELE 1\r\n"), &[Cyrus, Dovecot, Mailutils], GoesOn)),
        before_login(trick(
            "behind AUTH and its response",
            Dele,
            &format!("AUTH PLAIN {credentials}\r\nDELE 1\r\n"),
            &[Dovecot],
            GoesOn,
        )),
        // Before the login.
        before_login(trick(
            "USER in AUTH, cut at 8,191",
            User,
            &(cut("AUTH PLAIN ", 8191, &login) + "DELE 1\r\n"),
            &[Cyrus],
            Closes,
        )),
        before_login(trick(
            "USER in AUTH, cut at 8,192",
            User,
            &(cut("AUTH PLAIN ", 8192, &login) + "DELE 1\r\n"),
            &[Mailutils],
            Closes,
        )),
        before_login(trick(
            "USER in a response, cut at 8,191",
            User,
            &(cut("AUTH PLAIN\r\n", 8191 + 12, &login) + "DELE 1\r\n"),
            &[Cyrus],
            Closes,
        )),
        before_login(trick(
            "USER in a response, cut at 8,192",
            User,
            &(cut("AUTH PLAIN\r\n", 8192 + 12, &login) + "DELE 1\r\n"),
            &[Mailutils],
            Closes,
        )),
        before_login(trick(
            "USER behind an unknown mechanism",
            User,
            &format!("AUTH XFOO\r\n{login}DELE 1\r\n"),
            &[Cyrus, Dovecot, Mailutils],
            GoesOn,
        )),
        before_login(trick("USER behind STLS", User, &format!("STLS\r\n{login}DELE 1\r\n"), &[Cyrus, Mailutils], GoesOn)),
        // Numbers.
        trick("DELE with a plus", Dele, "DELE +1\r\n", &[Courier, Mailutils], GoesOn),
        trick("DELE with a letter behind", Dele, "DELE 1x\r\n", &[Courier, Mailutils], GoesOn),
        trick("a zero in front", FirstMessage, "RETR 01\r\n", ALL, GoesOn),
        trick("a plus", FirstMessage, "RETR +1\r\n", &[Courier, Mailutils], GoesOn),
        trick("a blank behind", FirstMessage, "RETR 1 \r\n", &[Courier, Mailutils], GoesOn),
        trick("two blanks", FirstMessage, "RETR  1\r\n", &[Courier, Cyrus, Dovecot], GoesOn),
        trick("a letter behind", FirstMessage, "RETR 1x\r\n", &[Courier, Mailutils], GoesOn),
        trick("a fraction", FirstMessage, "RETR 1.5\r\n", &[Courier, Mailutils], GoesOn),
        trick("another argument", FirstMessage, "RETR 1 2\r\n", &[Courier], GoesOn),
        trick("hexadecimal", FirstMessage, "RETR 0x1\r\n", NOBODY, GoesOn),
        trick("2^32 more", FirstMessage, "RETR 4294967297\r\n", &[Courier], GoesOn),
        trick("2^64 more", FirstMessage, "RETR 18446744073709551617\r\n", NOBODY, GoesOn),
        trick("TOP with a zero in front", FirstMessage, "TOP 01 0\r\n", ALL, GoesOn),
        trick("TOP with a minus", FirstMessage, "TOP 1 -1\r\n", &[Courier, Mailutils], GoesOn),
    ]
}

fn trick(name: &'static str, denied: Denied, octets: &str, open: &'static [Make], then: Then) -> Trick {
    Trick { name, denied, logged_in: true, octets: octets.into(), unfinished: false, open, then }
}
