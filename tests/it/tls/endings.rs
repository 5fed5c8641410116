//! How streams end inside TLS, and that a cut never becomes an end that somebody meant.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
};

use rustls::{ServerConnection, StreamOwned};

use crate::support::{
    outside::{MESSAGE, SECRET, Server, end, read_line, reset, tls},
    secure::{BOTH, End, Front, GREETING, Papers, Secure, Way, hear_out},
};

type Tls = StreamOwned<ServerConnection, TcpStream>;

/// The beginning of a message, without the end.
const HALF: &str = "+OK 5\r\nSubject: x\r\n\r\nhel";

/// Answers the login, then `last` to the next line.
fn serve(stream: &mut (impl Read + Write), last: &str) {
    stream.write_all(GREETING.as_bytes()).unwrap();
    for reply in ["+OK\r\n", "+OK\r\n", last] {
        read_line(stream);
        stream.write_all(reply.as_bytes()).unwrap();
        stream.flush().unwrap();
    }
}

/// Ends as told, and waits for the other side.
fn leave(mut stream: Tls, how: End) {
    match how {
        End::Reset => return reset(stream.sock),
        End::Goodbye => {
            stream.conn.send_close_notify();
            stream.flush().unwrap();
        }
        End::Cut => {}
    }
    end(stream.sock);
}

fn log_in(client: &mut Secure) {
    assert_eq!([client.ask("USER tim"), client.ask(&format!("PASS {SECRET}"))], ["+OK\r\n", "+OK\r\n"]);
}

/// A TLS server that ends as told behind `last`.
fn ending(papers: &Papers, last: &'static str, how: End) -> Server {
    let config = papers.server.clone();
    Server::once(move |stream| {
        let mut stream = tls(stream, &config);
        serve(&mut stream, last);
        leave(stream, how);
        Vec::new()
    })
}

#[test]
fn a_cut_from_the_server_is_a_cut_for_the_client() {
    for (command, last, reason, verdict) in [
        ("RETR 1", HALF, "truncated", "server went away in the middle of message 1 (truncated)"),
        ("STAT", "+OK 1 5", "truncated", "server ended the session without QUIT: no messages retrieved"),
        ("STAT", "+OK 1 5\r\n", "truncated", "server ended the session without QUIT: no messages retrieved"),
        ("QUIT", "+OK bye\r\n", "quit", "complete: no messages retrieved"),
    ] {
        for way in BOTH {
            let papers = Papers::new();
            let server = ending(&papers, last, End::Cut);
            let front = papers.front(&server, "pop3s", "");
            let mut client = front.secure(way);
            log_in(&mut client);
            client.say(format!("{command}\r\n").as_bytes());
            assert_eq!(client.rest(), (last.to_owned(), End::Cut), "{command} {way:?}");
            server.heard();
            let left = front.stop();
            assert_eq!(left.session()["reason"], reason);
            assert_eq!(left.verdict(), verdict);
        }
    }
}

#[test]
fn an_end_that_the_server_means_is_one_for_the_client() {
    for scheme in ["pop3", "pop3s"] {
        for (command, last, reason) in [("QUIT", "+OK bye\r\n", "quit"), ("STAT", "+OK 1 5\r\n", "eof")] {
            for way in BOTH {
                let papers = Papers::new();
                let server = if scheme == "pop3s" { ending(&papers, last, End::Goodbye) } else { plain_ending(last) };
                let front = papers.front(&server, scheme, "");
                let mut client = front.secure(way);
                log_in(&mut client);
                client.say(format!("{command}\r\n").as_bytes());
                assert_eq!(client.rest(), (last.to_owned(), End::Goodbye), "{scheme} {command} {way:?}");
                server.heard();
                assert_eq!(front.stop().session()["reason"], reason);
            }
        }
    }
}

fn plain_ending(last: &'static str) -> Server {
    Server::once(move |mut stream| {
        serve(&mut stream, last);
        end(stream);
        Vec::new()
    })
}

/// In plain text an end and a cut look alike. In the middle of a message it is not for poptap to vouch that it was meant.
#[test]
fn an_end_in_the_middle_of_a_reply_is_a_cut_whatever_the_servers_hop_says() {
    for scheme in ["pop3", "pop3s"] {
        for (command, last) in [("RETR 1", HALF), ("CAPA", "+OK\r\nUS"), ("STAT", "+OK 1 5")] {
            for way in BOTH {
                let papers = Papers::new();
                let server = if scheme == "pop3s" { ending(&papers, last, End::Goodbye) } else { plain_ending(last) };
                let front = papers.front(&server, scheme, "");
                let mut client = front.secure(way);
                log_in(&mut client);
                client.say(format!("{command}\r\n").as_bytes());
                assert_eq!(client.rest(), (last.to_owned(), End::Cut), "{scheme} {command} {way:?}");
                server.heard();
                assert!(!front.stop().verdict().starts_with("complete"));
            }
        }
    }
}

/// Octets of the client's that nobody reads any more: closing on them would reset the connection, and destroy the message's.
#[test]
fn the_last_octets_arrive_though_the_client_goes_on_speaking() {
    for how in [End::Cut, End::Reset, End::Goodbye] {
        let papers = Papers::new();
        let config = papers.server.clone();
        let server = Server::once(move |stream| {
            let mut stream = tls(stream, &config);
            serve(&mut stream, "+OK\r\n");
            stream.write_all(&vec![b'x'; 300_000]).unwrap();
            stream.flush().unwrap();
            leave(stream, how);
            Vec::new()
        });
        let front = papers.front(&server, "pop3s", "");
        let mut client = front.secure(Way::Implicit);
        log_in(&mut client);
        client.say(b"RETR 1\r\n");
        for _ in 0..500 {
            // The connection may have ended; what has come by then is still to be read.
            if client.0.write_all(b"NOOP\r\n").is_err() {
                break;
            }
        }
        let (heard, ended) = client.rest();
        assert!(heard.ends_with('x') && ended == End::Cut, "{} octets, {ended:?}", heard.len());
        // A reset throws away what poptap has not read.
        assert!(how == End::Reset || heard.len() == "+OK\r\n".len() + 300_000, "{how:?}: {}", heard.len());
        server.heard();
        assert!(front.stop().verdict().starts_with("server went away in the middle of message 1"));
    }
}

// ── the client ends ──

/// A TLS server that hears until the end, and tells what kind of end it was.
fn hearing(papers: &Papers) -> Server {
    let config = papers.server.clone();
    Server::once(move |stream| {
        let mut stream = tls(stream, &config);
        stream.write_all(GREETING.as_bytes()).unwrap();
        let heard = read_line(&mut stream).unwrap_or_default();
        stream.write_all(b"+OK\r\n").unwrap();
        let (more, how) = hear_out(&mut stream);
        leave(stream, End::Goodbye);
        [heard, more, format!("({how:?})").into_bytes()].concat()
    })
}

#[test]
fn the_clients_end_reaches_the_server_as_what_it_was() {
    for (how, expected, reason) in
        [(End::Goodbye, "Goodbye", "eof"), (End::Cut, "Cut", "truncated"), (End::Reset, "Cut", "reset")]
    {
        for behind in ["", "PASS"] {
            for way in BOTH {
                let papers = Papers::new();
                let server = hearing(&papers);
                let front = papers.front(&server, "pop3s", "");
                let mut client = front.secure(way);
                assert_eq!(client.ask("USER tim"), "+OK\r\n");
                client.say(behind.as_bytes());
                let there = end_as_told(client, how);
                let heard = String::from_utf8(server.heard()).unwrap();
                // A reset overtakes what was said just before it.
                let forwarded = if how == End::Reset && !heard.contains("PASS") { "" } else { behind };
                assert_eq!(heard, format!("USER tim\r\n{forwarded}({expected})"), "{how:?} {way:?}");
                drop(there);
                let left = front.stop();
                assert_eq!((&left.session()["closed_by"], &left.session()["reason"]), (&"client".into(), &reason.into()));
            }
        }
    }
}

/// Ends the client's half as told; unless that took the whole connection, the client is still there.
fn end_as_told(mut client: Secure, how: End) -> Option<Secure> {
    match how {
        End::Goodbye => _ = client.goodbye(),
        End::Cut => client.0.sock.shutdown(Shutdown::Write).unwrap(),
        End::Reset => {
            reset(client.0.sock);
            return None;
        }
    }
    Some(client)
}

/// Dovecot drops what it has not answered when a `close_notify` comes; over TCP servers go on.
#[test]
fn a_clients_goodbye_does_not_cost_the_replies_that_are_due() {
    for scheme in ["pop3", "pop3s"] {
        for way in BOTH {
            let papers = Papers::new();
            let config = papers.server.clone();
            let is_tls = scheme == "pop3s";
            let server = Server::once(
                move |stream| {
                    if is_tls { reluctant(&mut tls(stream, &config)) } else { reluctant(&mut { stream }) }
                },
            );
            let front = papers.front(&server, scheme, "");
            let mut client = front.secure(way);
            let said = format!("USER tim\r\nPASS {SECRET}\r\nRETR 1\r\nQUIT\r\n");
            client.say(said.as_bytes()).goodbye();
            let expected = ["+OK\r\n+OK\r\n", std::str::from_utf8(MESSAGE).unwrap(), "+OK bye\r\n"].concat();
            assert_eq!(client.rest(), (expected, if is_tls { End::Cut } else { End::Goodbye }), "{scheme} {way:?}");
            assert_eq!(server.heard(), said.as_bytes());
            assert_eq!(front.stop().verdict(), "complete: 1 message, 24 octets");
        }
    }
}

/// Reads all four commands before it answers any, and ends without a word.
fn reluctant(stream: &mut (impl Read + Write)) -> Vec<u8> {
    stream.write_all(GREETING.as_bytes()).unwrap();
    let heard: Vec<u8> = (0..4).flat_map(|_| read_line(stream).unwrap_or_default()).collect();
    for reply in [b"+OK\r\n", b"+OK\r\n", MESSAGE, b"+OK bye\r\n"] {
        stream.write_all(reply).unwrap();
    }
    stream.flush().unwrap();
    heard
}

/// A plain client's end is the one that TCP has; the server hears that it was meant, as far as anybody can know.
#[test]
fn a_plain_clients_end_is_told_to_a_tls_server() {
    let papers = Papers::new();
    let server = hearing(&papers);
    let front: Front = papers.front(&server, "pop3s", "");
    let mut client = front.poptap.connect();
    assert_eq!([client.line(), client.ask("USER tim")], [GREETING, "+OK\r\n"]);
    client.0.shutdown(Shutdown::Write).unwrap();
    assert_eq!(String::from_utf8(server.heard()).unwrap(), "USER tim\r\n(Goodbye)");
    client.last();
    front.stop();
}
