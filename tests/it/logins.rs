//! Limits on logins and on sessions, through the real server: what the client is told, what the server gets to see, what the
//! transcript and the log say.

use std::{
    io::ErrorKind,
    sync::{Arc, Barrier},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::support::{
    mailbox::{DIGEST, GREETING, WRONG, mailbox},
    outside::{Client, Left, Poptap, SECRET, Server, converse},
};

const ADDRESS_BLOCKED: &str = "-ERR [SYS/TEMP] too many failed logins from your address, try again later\r\n";
const USER_BLOCKED: &str = "-ERR [SYS/TEMP] too many failed logins, try again later\r\n";
const IN_USE: &str = "-ERR [IN-USE] too many sessions of this user, end one or try again later\r\n";

fn start(limits: &str) -> (Server, Poptap) {
    let server = Server::times(100, mailbox);
    let poptap = Poptap::start(&format!("[limits]\n{limits}"), &["--upstream", &server.url("pop3")]);
    (server, poptap)
}

fn greeted(host: u8, poptap: &Poptap) -> Client {
    let mut client = Client::from(host, poptap.address);
    assert_eq!(client.line(), GREETING);
    client
}

fn quit(mut client: Client) {
    client.say(b"QUIT\r\n");
    assert_eq!(client.rest(), "+OK\r\n");
}

/// A way to log in: says all that it takes, and returns what the client is told last.
#[derive(Clone, Copy, Debug)]
enum Way {
    Pass,
    Apop,
    PlainAtOnce,
    Plain,
    /// The response is sent without waiting for the challenge.
    PlainPipelined,
    Login,
}

const WAYS: [Way; 6] = [Way::Pass, Way::Apop, Way::PlainAtOnce, Way::Plain, Way::PlainPipelined, Way::Login];

impl Way {
    fn log_in(self, client: &mut Client, user: &str, password: &str) -> String {
        let plain = STANDARD.encode(format!("\0{user}\0{password}"));
        match self {
            Self::Pass => {
                client.ask(&format!("USER {user}"));
                client.ask(&format!("PASS {password}"))
            }
            Self::Apop => {
                let digest = if password == SECRET { DIGEST } else { "0123456789abcdef0123456789abcdef" };
                client.ask(&format!("APOP {user} {digest}"))
            }
            Self::PlainAtOnce => client.ask(&format!("AUTH PLAIN {plain}")),
            Self::Plain => {
                client.ask("AUTH PLAIN");
                client.ask(&plain)
            }
            Self::PlainPipelined => {
                client.say(format!("AUTH PLAIN\r\n{plain}\r\n").as_bytes());
                client.line();
                client.line()
            }
            Self::Login => {
                client.ask("AUTH LOGIN");
                // A limit may end it here: the name is all that it takes.
                match client.ask(&STANDARD.encode(user)) {
                    challenge if challenge.starts_with('+') => client.ask(&STANDARD.encode(password)),
                    refusal => refusal,
                }
            }
        }
    }
}

fn verdicts(left: &Left) -> Vec<&str> {
    left.sessions.iter().map(|session| session["verdict"].as_str().unwrap()).collect()
}

#[test]
fn refused_logins_block_the_address_and_the_user_whichever_way_they_are_tried() {
    for way in WAYS {
        let (server, mut poptap) = start("login_failures = 3\n");
        let (mut client, mut early) = (greeted(1, &poptap), greeted(2, &poptap));
        for (failures, told) in [(1, WRONG), (2, WRONG), (3, ADDRESS_BLOCKED)] {
            assert_eq!(way.log_in(&mut client, "tim", "guess"), told, "{way:?}");
            let line = poptap.log_line("login failed");
            let expected = format!("WARN poptap::admission: login failed client=127.0.0.1 failures={failures}");
            assert!(line.ends_with(&expected), "{way:?}: {line}");
        }
        assert_eq!(client.rest(), "");
        server.heard();
        assert_eq!(Client::to(poptap.address).rest(), ADDRESS_BLOCKED, "{way:?}");
        poptap.log_line("client refused client=127.0.0.1 reason=client-blocked");
        assert_eq!(server.accepted(), 2, "{way:?}: no connection is made for a blocked address");
        // The right password from elsewhere: who is blocked gets no answer to whether it is.
        assert_eq!(way.log_in(&mut early, "TIM", SECRET), USER_BLOCKED, "{way:?}");
        assert_eq!(early.rest(), "");
        poptap.log_line("login refused client=127.0.0.2 reason=user-blocked");
        let heard = String::from_utf8(server.heard()).unwrap();
        assert!(["", "USER TIM\r\n", "AUTH PLAIN\r\n", "AUTH LOGIN\r\n"].contains(&heard.as_str()), "{way:?}: {heard}");
        let mut other = greeted(2, &poptap);
        assert_eq!(way.log_in(&mut other, "eve", SECRET), "+OK logged in\r\n", "{way:?}");
        quit(other);
        let left = poptap.stop();
        assert_eq!(left.count("closed", "reason", "client-blocked"), 2, "{way:?}");
        assert_eq!(left.count("closed", "reason", "user-blocked"), 1, "{way:?}");
        let verdicts = verdicts(&left).join("\n");
        assert!(verdicts.contains("client turned away: too many failed logins from its address"), "{way:?}: {verdicts}");
        assert!(verdicts.contains("client turned away: too many failed logins of this user"), "{way:?}: {verdicts}");
    }
}

#[test]
fn the_reply_to_a_refused_login_is_held_back_and_others_are_not() {
    let (_server, mut poptap) = start("login_delay = '30s'\n");
    let (mut guessing, mut other) = (greeted(1, &poptap), greeted(2, &poptap));
    assert_eq!(guessing.ask("USER tim"), "+OK\r\n");
    guessing.say(b"PASS guess\r\nNOOP\r\n");
    poptap.log_line("login failed");
    assert_eq!(Way::Pass.log_in(&mut other, "eve", SECRET), "+OK logged in\r\n");
    quit(other);
    guessing.0.set_nonblocking(true).unwrap();
    let waiting = guessing.0.peek(&mut [0]).map_err(|error| error.kind());
    assert_eq!(waiting, Err(ErrorKind::WouldBlock), "neither that reply nor those behind it have come");
    guessing.reset();
    let left = poptap.stop();
    assert_eq!((left.count("decision", "action", "delay"), left.count("decision", "rule", "login-delay")), (1, 1));
}

#[test]
fn a_reply_that_was_held_back_comes_and_the_session_goes_on() {
    for way in WAYS {
        let (_server, poptap) = start("login_delay = '1ms'\n");
        let mut client = greeted(1, &poptap);
        for _ in 0..3 {
            assert_eq!(way.log_in(&mut client, "tim", "guess"), WRONG, "{way:?}");
        }
        assert_eq!(way.log_in(&mut client, "tim", SECRET), "+OK logged in\r\n", "{way:?}");
        assert_eq!(client.ask("STAT"), "+OK 2 30000100\r\n");
        quit(client);
        let left = poptap.stop();
        assert_eq!(left.count("decision", "action", "delay"), 3, "{way:?}");
        assert_eq!(left.session()["login_failures"], 3, "{way:?}");
    }
}

#[test]
fn a_success_takes_back_what_its_user_failed() {
    for way in WAYS {
        let (_server, mut poptap) = start("login_failures = 2\n");
        for password in ["guess", SECRET, "guess"] {
            let mut client = greeted(1, &poptap);
            let told = way.log_in(&mut client, "tim", password);
            assert_eq!(told.starts_with("+OK"), password == SECRET, "{way:?}: {told}");
            if password != SECRET {
                assert!(poptap.log_line("login failed").ends_with("failures=1"), "{way:?}");
            }
            quit(client);
        }
        poptap.stop();
    }
}

/// An account of one's own must not wash off, nor count as, what is tried on others: names that are pipelined behind a login
/// are not its own.
#[test]
fn a_name_behind_a_login_is_not_its_user() {
    let (server, mut poptap) = start("login_failures = 2\n");
    for (failures, told) in [(1, WRONG), (2, ADDRESS_BLOCKED)] {
        let mut client = greeted(1, &poptap);
        client.say(b"USER tim\r\nPASS guess\r\nUSER junk\r\n");
        assert_eq!((client.line().as_str(), client.line().as_str()), ("+OK\r\n", told));
        assert!(poptap.log_line("login failed").ends_with(&format!("failures={failures}")));
        client.reset();
    }
    // The second one is told of the address; that the user is blocked as well shows from elsewhere.
    let mut mine = greeted(2, &poptap);
    mine.say(format!("USER eve\r\nPASS {SECRET}\r\nUSER tim\r\n").as_bytes());
    assert_eq!([mine.line(), mine.line()], ["+OK\r\n", "+OK logged in\r\n"]);
    let mut victim = greeted(3, &poptap);
    assert_eq!(Way::Pass.log_in(&mut victim, "tim", SECRET), USER_BLOCKED);
    assert!(server.accepted() == 4);
    mine.reset();
    poptap.stop();
}

/// A `*` behind credentials that were sent does not take the attempt back.
#[test]
fn an_exchange_that_is_cancelled_behind_its_credentials_counts() {
    let (_server, mut poptap) = start("");
    let mut client = greeted(1, &poptap);
    let plain = STANDARD.encode("\0tim\0guess");
    client.say(format!("AUTH PLAIN {plain}\r\n*\r\n").as_bytes());
    assert_eq!(client.line(), WRONG);
    poptap.log_line("login failed client=127.0.0.1 failures=1");
    client.line();
    // Before any was sent it is none.
    assert_eq!([client.ask("AUTH PLAIN"), client.ask("*")], ["+ \r\n", "-ERR cancelled\r\n"]);
    assert_eq!(Way::Plain.log_in(&mut client, "tim", "guess"), WRONG);
    poptap.log_line("login failed client=127.0.0.1 failures=2");
    quit(client);
    poptap.stop();
}

#[test]
fn guesses_that_are_sent_at_once_are_let_through_one_by_one() {
    let (server, mut poptap) = start("login_failures = 3\n");
    let mut client = greeted(1, &poptap);
    client.say("USER tim\r\nPASS guess\r\n".repeat(20).as_bytes());
    let rest = client.rest();
    assert!(rest.ends_with(ADDRESS_BLOCKED), "{rest}");
    poptap.log_line("login failed client=127.0.0.1 failures=3");
    let heard = String::from_utf8(server.heard()).unwrap();
    assert_eq!(heard.matches("PASS").count(), 3, "{heard}");
    poptap.stop();
}

#[test]
fn a_login_that_a_rule_refuses_is_none_that_failed() {
    let rule = "[[rule]]\nname = 'not tim'\nwhen = { stage = 'authorization', user = 'tim' }\naction = { deny = 'not tim' }\n";
    let (_server, mut poptap) = start(&format!("login_failures = 1\n{rule}"));
    let mut client = greeted(1, &poptap);
    assert_eq!(client.ask("AUTH LOGIN"), "+ VXNlcm5hbWU6\r\n");
    assert_eq!(client.ask(&STANDARD.encode("tim")), "-ERR not tim\r\n");
    assert_eq!(Way::Login.log_in(&mut client, "eve", "guess"), ADDRESS_BLOCKED);
    poptap.log_line("login failed client=127.0.0.1 failures=1");
    poptap.stop();
}

#[test]
fn a_user_has_so_many_sessions() {
    for way in WAYS {
        let (server, mut poptap) = start("sessions_per_user = 1\n");
        let (mut first, mut second) = (greeted(1, &poptap), greeted(2, &poptap));
        assert_eq!(way.log_in(&mut first, "tim", SECRET), "+OK logged in\r\n", "{way:?}");
        assert_eq!(way.log_in(&mut second, "Tim", SECRET), IN_USE, "{way:?}");
        assert_eq!(second.rest(), "");
        poptap.log_line("login refused client=127.0.0.2 reason=too-many-of-user");
        let heard = String::from_utf8(server.heard()).unwrap();
        assert!(["", "USER Tim\r\n", "AUTH PLAIN\r\n", "AUTH LOGIN\r\n"].contains(&heard.as_str()), "{way:?}: {heard}");
        quit(first);
        let left = poptap.stop();
        assert_eq!(left.count("closed", "reason", "too-many-of-user"), 1, "{way:?}");
        let verdict = "client turned away: too many sessions of this user";
        assert!(verdicts(&left).iter().any(|said| said.starts_with(verdict)), "{way:?}: {:?}", verdicts(&left));
    }
}

/// Both logins are on their way when the first of them is accepted.
#[test]
fn of_two_logins_at_the_same_moment_one_gets_the_last_place() {
    let together = Arc::new(Barrier::new(2));
    let server = Server::times(2, move |stream| {
        let mut waiting = Some(&together);
        converse(Hook {
            stream,
            at: b"PASS",
            act: move || {
                if let Some(barrier) = waiting.take() {
                    barrier.wait();
                }
            },
        })
    });
    let mut poptap = Poptap::start("[limits]\nsessions_per_user = 1\n", &["--upstream", &server.url("pop3")]);
    let mut clients = [1, 2].map(|host| Client::from(host, poptap.address));
    for client in &mut clients {
        assert_eq!((client.line().as_str(), client.ask("USER tim").as_str()), ("+OK ready\r\n", "+OK\r\n"));
        client.say(format!("PASS {SECRET}\r\n").as_bytes());
    }
    let mut told = clients.each_mut().map(Client::line);
    told.sort();
    assert_eq!(told, ["+OK\r\n", IN_USE]);
    poptap.log_line("reason=too-many-of-user");
    clients.into_iter().for_each(Client::reset);
    let left = poptap.stop();
    assert_eq!(left.count("closed", "reason", "too-many-of-user"), 1);
}

/// A stream that does something before what was just read is answered.
struct Hook<S, H> {
    stream: S,
    at: &'static [u8],
    act: H,
}

impl<S: std::io::Read, H: FnMut()> std::io::Read for Hook<S, H> {
    fn read(&mut self, space: &mut [u8]) -> std::io::Result<usize> {
        let count = self.stream.read(space)?;
        let next = self.at.first().copied();
        if count == 1 && next == Some(space[0]) {
            self.at = &self.at[1..];
            if self.at.is_empty() {
                (self.act)();
            }
        }
        Ok(count)
    }
}

impl<S: std::io::Write, H> std::io::Write for Hook<S, H> {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        self.stream.write(octets)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

#[test]
fn a_session_has_so_many_commands() {
    let (server, poptap) = start("commands = 4\n");
    let mut client = greeted(1, &poptap);
    assert_eq!(Way::Pass.log_in(&mut client, "tim", SECRET), "+OK logged in\r\n");
    client.say(b"NOOP\r\nNOOP\r\nDELE 1\r\nQUIT\r\n");
    assert_eq!(client.rest(), "+OK\r\n+OK\r\n-ERR [SYS/PERM] too many commands for one session\r\n");
    assert_eq!(server.heard(), format!("USER tim\r\nPASS {SECRET}\r\nNOOP\r\nNOOP\r\n").into_bytes());
    let left = poptap.stop();
    assert!(left.has_event("closed", "reason", "too-many-commands"), "{:#?}", left.session());
    assert!(left.has_event("decision", "rule", "too-many-commands"));
    assert_eq!(left.verdict(), "closed: more commands than one session may have");
    assert!(left.log.contains("session closed: closed: more commands"), "{}", left.log);
}

#[test]
fn a_session_has_so_many_octets() {
    let (_server, poptap) = start("octets = '200 B'\n");
    let mut client = greeted(1, &poptap);
    assert_eq!(Way::Pass.log_in(&mut client, "tim", SECRET), "+OK logged in\r\n");
    let mut said = client.ask("NOOP");
    while said == "+OK\r\n" {
        said = client.ask("NOOP");
    }
    assert_eq!(said, "-ERR [SYS/PERM] too much data for one session\r\n");
    assert_eq!(client.rest(), "");
    let left = poptap.stop();
    assert!(left.has_event("closed", "reason", "too-many-octets"), "{:#?}", left.session());
    assert!(left.has_event("anomaly", "id", "too-many-octets"));
    assert_eq!(left.verdict(), "closed: more octets than one session may have");
}
