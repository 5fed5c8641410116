//! Handshakes that fail, stall, or come in the smallest of pieces.

use std::{io::Read as _, net::Shutdown, net::TcpStream};

use super::short_handshakes;
use crate::support::{
    outside::{Left, MESSAGE, SECRET, Server, converse, tls},
    secure::{BOTH, Dribble, End, Front, GREETING, Papers, Secure, Way, client_hello},
};

/// What begins like TLS and is none, or is not what a client begins with.
const NOT_A_HELLO: [&[u8]; 6] = [
    b"\x16\x03\x01\x00\x05hello",
    b"\x16\x03\x01\xff\xff",
    b"\x16\x99\x99\x00\x01\x00",
    b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
    b"\x16\x03\x01\x00\x00",
    b"\x16USER tim\r\n",
];

/// No login, no plain word behind the point of no return; a handshake that failed is the client's end.
fn assert_over(left: &Left, reason: &str, by: &str) {
    let session = left.session();
    assert_eq!((&session["reason"], &session["closed_by"]), (&reason.into(), &by.into()), "{session:#}\n{}", left.log);
    assert_eq!(left.count("tls", "hop", "client"), 0);
    assert!(session["verdict"].as_str().unwrap().contains("TLS with the client failed"), "{session:#}");
}

/// What a failed handshake may still bring to the client: an alert.
fn assert_no_word(heard: &[u8]) {
    assert!(heard.is_empty() || heard.starts_with(b"\x15\x03"), "{}", heard.escape_ascii());
}

/// A server that may or may not be reached: where the handshake comes first it is not.
fn assert_untouched(server: &Server, way: Way) {
    if way == Way::Stls {
        assert_eq!(server.heard(), b"");
    }
}

#[test]
fn there_is_no_way_back_to_plain_text_behind_a_failed_handshake() {
    for way in BOTH {
        for garbage in NOT_A_HELLO {
            let server = Server::once(converse);
            let mut front = Front::of(&server);
            let mut client = front.ready(way);
            client.say(&[garbage, format!("\r\nUSER tim\r\nPASS {SECRET}\r\nQUIT\r\n").as_bytes()].concat());
            // Where the garbage claimed to be longer than this, the rest would be waited for; poptap may have closed already.
            let _ = client.0.shutdown(Shutdown::Write);
            assert_no_word(&client.last());
            assert_untouched(&server, way);
            front.poptap.log_line("session closed");
            assert_over(&front.stop(), "client-tls", "client");
        }
    }
}

#[test]
fn a_hello_that_breaks_off_ends_the_session_on_both_sides() {
    let papers = Papers::new();
    let hello = client_hello(&papers.trust);
    let server = Server::times(1000, converse);
    let front = papers.front(&server, "pop3", "");
    let mut sessions = 0;
    for way in BOTH {
        for cut in [1, 4, 5, 6, 9, hello.len() / 2, hello.len() - 1] {
            for how in ["close", "half-close", "reset"] {
                let mut client = front.ready(way);
                client.say(&hello[..cut]);
                match how {
                    "close" => drop(client),
                    "reset" => client.reset(),
                    _ => {
                        client.0.shutdown(Shutdown::Write).unwrap();
                        assert_no_word(&client.last());
                    }
                }
                assert_untouched(&server, way);
                sessions += 1;
            }
        }
    }
    let left = front.stop();
    let ends: Vec<_> = left.sessions.iter().map(|session| (&session["reason"], &session["closed_by"])).collect();
    assert_eq!(ends.len(), sessions);
    assert!(ends.iter().all(|end| *end == (&"client-tls".into(), &"client".into())), "{ends:?}");
}

#[test]
fn a_client_that_leaves_before_its_handshake_is_named() {
    for way in BOTH {
        for is_reset in [false, true] {
            let server = Server::once(converse);
            let mut front = Front::of(&server);
            let client = front.ready(way);
            if is_reset {
                client.reset();
            } else {
                drop(client);
            }
            assert_untouched(&server, way);
            front.poptap.log_line("session closed");
            let left = front.stop();
            assert_eq!(left.session()["closed_by"], "client");
            assert_eq!(left.session()["reason"], if is_reset { "reset" } else { "eof" }, "{}", left.verdict());
        }
    }
}

#[test]
fn a_hello_in_single_octets_will_do() {
    for way in BOTH {
        let server = Server::once(converse);
        let front = Front::of(&server);
        let client = front.ready(way);
        let mut client = Secure::over(Dribble(client.0), &front.papers.trust).unwrap();
        if way == Way::Implicit {
            assert_eq!(client.line(), GREETING);
        }
        assert_eq!(client.ask("QUIT"), "+OK\r\n");
        assert_eq!(client.rest(), (String::new(), End::Goodbye));
        assert_eq!(server.heard(), b"QUIT\r\n");
        assert_eq!(front.stop().session()["reason"], "quit");
    }
}

#[test]
fn a_session_of_records_that_hold_one_octet_each_changes_nothing() {
    let said = format!("CAPA\r\nUSER tim\r\nPASS {SECRET}\r\nRETR 1\r\nQUIT\r\n");
    for way in BOTH {
        let papers = Papers::new();
        let config = papers.server.clone();
        let server = Server::once(move |stream| converse(Dribble(tls(stream, &config))));
        let front = papers.front(&server, "pop3s", "");
        let client = front.secure(way);
        let Secure(stream) = client;
        let mut stream = Dribble(stream);
        std::io::Write::write_all(&mut stream, said.as_bytes()).unwrap();
        let (heard, end) = crate::support::secure::hear_out(&mut stream);
        let expected = [b"+OK\r\nUSER\r\n.\r\n+OK\r\n+OK\r\n", MESSAGE, b"+OK\r\n"].concat();
        assert_eq!((heard.escape_ascii().to_string(), end), (expected.escape_ascii().to_string(), End::Cut));
        assert_eq!(server.heard(), said.as_bytes());
        assert_eq!(front.stop().verdict(), "complete: 1 message, 24 octets");
    }
}

#[test]
fn a_silent_client_is_told_what_this_port_speaks_and_one_behind_stls_is_not() {
    for way in BOTH {
        let server = Server::once(converse);
        let front = Papers::new().front(&server, "pop3", &short_handshakes());
        let client = front.ready(way);
        let told = client.rest();
        let expected = match way {
            Way::Implicit => "-ERR [SYS/PERM] this port speaks TLS from the first octet: choose SSL/TLS in your client\r\n",
            // It was told to begin TLS: a line in clear is none that it could expect.
            Way::Stls => "",
        };
        assert_eq!(told, expected);
        assert_untouched(&server, way);
        assert_over(&front.stop(), "timeout-client-handshake", "poptap");
    }
}

#[test]
fn a_handshake_that_stalls_is_ended() {
    let papers = Papers::new();
    let hello = client_hello(&papers.trust);
    for way in BOTH {
        // Behind a whole hello the server's flight comes, and the client's never does.
        for said in [&hello[..1], &hello[..5], &hello[..hello.len() - 1], &hello[..]] {
            let server = Server::once(converse);
            let front = Papers::new().front(&server, "pop3", &short_handshakes());
            let mut client = front.ready(way);
            client.say(said);
            let heard = client.last();
            if said.len() < hello.len() {
                assert_no_word(&heard);
            } else {
                assert!(heard.starts_with(b"\x16\x03"), "{}", heard.escape_ascii());
            }
            assert_untouched(&server, way);
            assert_over(&front.stop(), "timeout-client-handshake", "poptap");
        }
    }
}

/// One octet now and then is no progress: the limit is on the whole handshake.
#[test]
fn a_handshake_that_trickles_is_ended() {
    let papers = Papers::new();
    let hello = client_hello(&papers.trust);
    let server = Server::once(converse);
    let front = papers.front(&server, "pop3", &short_handshakes());
    let mut client = front.ready(Way::Stls);
    client.0.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
    let ended = |stream: &mut TcpStream| match stream.read(&mut [0; 64]) {
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        Ok(_) => true,
    };
    // Long before the last octet its time is up.
    let sent =
        hello.iter().take_while(|&&octet| std::io::Write::write_all(&mut client.0, &[octet]).is_ok() && !ended(&mut client.0));
    assert!(sent.count() < hello.len(), "it was waited for");
    assert_untouched(&server, Way::Stls);
    assert_over(&front.stop(), "timeout-client-handshake", "poptap");
}

/// A client that does not trust the certificate says so with an alert, and nothing else of it arrives.
#[test]
fn a_client_that_refuses_the_certificate_is_quoted() {
    for way in BOTH {
        let server = Server::once(converse);
        let mut front = Front::of(&server);
        let stranger = Papers::new();
        let client = front.ready(way);
        let error = Secure::over(client.0, &stranger.trust).err().expect("not trusted");
        assert!(error.to_string().contains("invalid peer certificate"), "{error}");
        assert_untouched(&server, way);
        front.poptap.log_line("session closed");
        let left = front.stop();
        assert_eq!((&left.session()["reason"], &left.session()["closed_by"]), (&"client-tls".into(), &"client".into()));
    }
}

/// After a failure another client is served as if nothing had been.
#[test]
fn a_failed_handshake_harms_nobody_else() {
    let server = Server::times(2, converse);
    let front = Front::of(&server);
    let mut good = front.secure(Way::Stls);
    let mut bad = front.ready(Way::Implicit);
    bad.say(NOT_A_HELLO[0]);
    assert_no_word(&bad.last());
    assert_eq!(good.ask("NOOP"), "+OK\r\n");
    let mut other = front.secure(Way::Implicit);
    assert_eq!([other.ask("QUIT"), good.ask("QUIT")], ["+OK\r\n", "+OK\r\n"]);
    assert_eq!([other.rest(), good.rest()], [(String::new(), End::Goodbye), (String::new(), End::Goodbye)]);
    server.heard();
    server.heard();
    assert_eq!(front.stop().sessions.len(), 3);
}
