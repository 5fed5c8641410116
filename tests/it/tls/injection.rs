//! Plain text where TLS has to begin: from the client behind STLS, from the server while STLS is being answered.

use std::{
    io::Write,
    net::TcpStream,
    sync::{Mutex, mpsc::channel},
};

use super::answering_when_told;
use crate::support::{
    outside::{Client, Left, SECRET, Server, converse, listen, read_line},
    secure::{AGREED, BOTH, End, Front, GREETING, Papers, Secure, Way, client_hello, handshake},
};

/// What somebody on the way to poptap puts behind the client's STLS.
const INJECTED: [&[u8]; 6] = [b"CAPA\r\n", b"USER x\r\n", b"STLS\r\n", b"\r\n", b"\0", b"x"];

/// Neither `what` nor its reply may be in what the client hears behind its greeting: poptap's own word, an alert, no more.
fn assert_not_run(heard: &[u8], what: &[u8]) {
    let behind = heard.strip_prefix(GREETING.as_bytes()).unwrap_or(heard);
    let own = [&b""[..], AGREED.as_bytes(), b"-ERR [SYS/PERM] nothing may follow STLS before TLS stands\r\n"];
    let alert = |octets: &[u8]| octets.is_empty() || octets.starts_with(b"\x15\x03");
    let allowed = own.into_iter().any(|own| behind.strip_prefix(own).is_some_and(alert));
    assert!(allowed, "behind {}: {}", what.escape_ascii(), heard.escape_ascii());
}

fn assert_all_violations(left: &Left, sessions: usize) {
    let ends: Vec<_> = left.sessions.iter().map(|session| (&session["closed_by"], &session["reason"])).collect();
    assert_eq!(ends.len(), sessions);
    assert!(ends.iter().all(|(by, reason)| *by == "poptap" && *reason == "violation"), "{ends:?}\n{}", left.log);
    assert_eq!(left.count("anomaly", "id", "plaintext-behind-stls"), sessions);
    assert_eq!(left.count("anomaly", "fault", "client"), sessions);
    assert_eq!(left.count("closed", "reason", "violation"), sessions);
    assert_eq!(left.count("tls", "hop", "client"), 0);
}

#[test]
fn plain_text_behind_stls_is_neither_forwarded_nor_run_however_it_is_cut() {
    let wires: Vec<_> = INJECTED.iter().map(|&injected| (injected, [b"STLS\r\n", injected].concat())).collect();
    let sessions = wires.iter().map(|(_, wire)| wire.len()).sum();
    let server = Server::times(sessions, converse);
    let front = Front::of(&server);
    for (injected, wire) in &wires {
        for cut in 0..wire.len() {
            let mut client = Client::to(front.stls);
            client.say(&wire[..cut]);
            // With a turn of its own between the two parts, as far as the cut comes before the end of STLS.
            assert_eq!(client.line(), GREETING);
            // It may have been closed by the first part.
            let _ = client.0.write_all(&wire[cut..]);
            assert_not_run(&client.last(), injected);
            assert_eq!(server.heard(), b"", "{} cut at {cut}", wire.escape_ascii());
        }
    }
    assert_all_violations(&front.stop(), sessions);
}

#[test]
fn plain_text_behind_the_agreement_is_neither_forwarded_nor_run() {
    let server = Server::times(INJECTED.len(), converse);
    let front = Front::of(&server);
    for injected in INJECTED {
        let mut client = front.ready(Way::Stls);
        client.say(injected);
        let heard = client.last();
        assert_not_run(&heard, injected);
        assert_eq!(server.heard(), b"", "{}", injected.escape_ascii());
    }
    assert_all_violations(&front.stop(), INJECTED.len());
}

#[test]
fn a_genuine_handshake_does_not_make_up_for_plain_text_before_it() {
    for together in [true, false] {
        let server = Server::once(converse);
        let front = Front::of(&server);
        let mut client = Client::to(front.stls);
        assert_eq!(client.line(), GREETING);
        if together {
            client.say(&[b"STLS\r\nNOOP\r\n", &client_hello(&front.papers.trust)[..]].concat());
        } else {
            assert_eq!(client.ask("STLS"), AGREED);
            client.say(&[b"NOOP\r\n", &client_hello(&front.papers.trust)[..]].concat());
        }
        assert_not_run(&client.last(), b"NOOP");
        assert_eq!(server.heard(), b"");
        assert_all_violations(&front.stop(), 1);
    }
}

#[test]
fn commands_before_stls_are_answered_first_and_in_order() {
    let (go, told) = channel();
    let told = Mutex::new(told);
    let server = Server::once(move |stream| {
        let (stream, heard) = answering_when_told(stream, 2, &told);
        [heard, converse(stream)].concat()
    });
    let front = Front::of(&server);
    let mut client = Client::to(front.stls);
    client.say(b"NOOP\r\nNOOP 2\r\nSTLS\r\n");
    assert_eq!(client.line(), GREETING);
    // STLS waits: a word of the server's comes first, and then the replies.
    go.send(()).unwrap();
    assert_eq!([client.line(), client.line(), client.line()], ["+OK\r\n", "+OK\r\n", AGREED]);
    let mut client = Secure::over(client.0, &front.papers.trust).unwrap();
    assert_eq!(client.line(), GREETING, "this server greets a second time, and is heard inside TLS");
    assert_eq!([client.ask("USER tim"), client.ask("QUIT")], ["+OK\r\n", "+OK\r\n"]);
    assert_eq!(client.rest(), (String::new(), End::Goodbye));
    assert_eq!(server.heard(), b"NOOP\r\nNOOP 2\r\nUSER tim\r\nQUIT\r\n");
    let left = front.stop();
    assert_eq!(left.session()["reason"], "quit");
    assert!(!left.has_event("anomaly", "id", "plaintext-behind-stls"));
}

#[test]
fn plain_text_that_comes_while_earlier_commands_are_answered_is_not_run_either() {
    let (go, told) = channel();
    let told = Mutex::new(told);
    let server = Server::once(move |stream| {
        let (stream, heard) = answering_when_told(stream, 1, &told);
        [heard, listen(stream)].concat()
    });
    let front = Front::of(&server);
    let mut client = Client::to(front.stls);
    client.say(b"NOOP\r\nSTLS\r\n");
    assert_eq!(client.line(), GREETING);
    client.say(format!("USER tim\r\nPASS {SECRET}\r\n").as_bytes());
    go.send(()).unwrap();
    let heard = client.last();
    let heard = heard.strip_prefix(b"+OK\r\n").unwrap_or_else(|| panic!("NOOP comes first: {}", heard.escape_ascii()));
    assert_not_run(heard, b"USER");
    assert_eq!(server.heard(), b"NOOP\r\n");
    assert_all_violations(&front.stop(), 1);
}

/// With the client's Finished goes its first record: nothing of that may be lost, nor taken for plain text.
#[test]
fn the_first_record_may_carry_a_pipeline() {
    let said = format!("CAPA\r\nUSER tim\r\nPASS {SECRET}\r\nQUIT\r\n");
    for way in BOTH {
        let server = Server::once(converse);
        let front = Front::of(&server);
        let client = front.ready(way);
        let mut connection = handshake(&front.papers.trust);
        connection.writer().write_all(said.as_bytes()).unwrap();
        let client = Secure::beginning(client.0, connection).unwrap();
        let greeting = if way == Way::Implicit { GREETING } else { "" };
        assert_eq!(client.rest(), (format!("{greeting}+OK\r\nUSER\r\n.\r\n+OK\r\n+OK\r\n+OK\r\n"), End::Goodbye));
        assert_eq!(server.heard(), said.as_bytes());
        let left = front.stop();
        assert_eq!((&left.session()["reason"], &left.session()["user"]), (&"quit".into(), &"tim".into()));
    }
}

/// Writes lines that answer nothing until the connection ends, beside a conversation.
fn chattering(mut stream: TcpStream) -> Vec<u8> {
    let mut writer = stream.try_clone().unwrap();
    stream.write_all(GREETING.as_bytes()).unwrap();
    let chatter = std::thread::spawn(move || while writer.write_all(b"+OK injected\r\n").is_ok() {});
    let mut heard = Vec::new();
    while let Some(line) = read_line(&mut stream) {
        heard.extend(line);
    }
    chatter.join().unwrap();
    heard
}

/// The server's side, or whoever is on its plain hop, speaks all the time. Behind the agreement nothing of it is in clear: the
/// client's handshake would fail on a single octet.
#[test]
fn what_the_server_says_during_the_handshake_arrives_inside_tls() {
    for speaks_at_once in [true, false] {
        let (go, told) = channel::<()>();
        let told = Mutex::new(told);
        let server = Server::once(move |mut stream| {
            stream.write_all(GREETING.as_bytes()).unwrap();
            if !speaks_at_once {
                told.lock().unwrap().recv().unwrap();
            }
            // More than any buffer in between would let pass at once.
            stream.write_all(b"+OK injected\r\n").unwrap();
            let mut heard = read_line(&mut stream).unwrap_or_default();
            stream.write_all(b"+OK bye\r\n").unwrap();
            heard.extend(listen(stream));
            heard
        });
        let front = Front::of(&server);
        let mut client = Client::to(front.stls);
        assert_eq!(client.line(), GREETING);
        let mut reply = client.ask("STLS");
        let mut injected = 0;
        if reply != AGREED {
            // It answered nothing yet: in clear, as everything before.
            assert_eq!((reply.as_str(), speaks_at_once), ("+OK injected\r\n", true));
            injected = 1;
            reply = client.line();
        }
        assert_eq!(reply, AGREED);
        let _ = go.send(());
        let mut client = Secure::over(client.0, &front.papers.trust).expect("nothing in clear");
        client.say(b"QUIT\r\n").goodbye();
        let expected = format!("{}+OK bye\r\n", "+OK injected\r\n".repeat(1 - injected));
        assert_eq!(client.rest().0, expected);
        assert_eq!(server.heard(), b"QUIT\r\n");
        front.stop();
    }
}

#[test]
fn a_server_that_never_stops_talking_gets_nothing_into_the_handshake() {
    let server = Server::once(chattering);
    let front = Papers::new().strict_front(&server);
    let mut client = Client::to(front.stls);
    client.say(b"STLS\r\n");
    let mut line = client.line();
    while matches!(line.as_str(), GREETING | "+OK injected\r\n") {
        line = client.line();
    }
    if line == AGREED {
        let mut client = Secure::over(client.0, &front.papers.trust).expect("nothing in clear");
        assert_eq!(client.line(), "+OK injected\r\n");
    } else {
        // Too much of it came before, and the session could not be understood any more.
        assert_eq!(line, "-ERR [SYS/TEMP] the server's answers could not be understood\r\n");
    }
    assert_eq!(server.heard(), b"");
    front.stop();
}
