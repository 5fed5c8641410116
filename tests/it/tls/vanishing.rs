//! Clients that are gone before TLS stands, a poptap that is told to stop meanwhile, and one that is full.

use std::{io::Read as _, sync::mpsc::channel, time::Instant};

use crate::support::{
    outside::{Client, PATIENCE, Server, converse, listen, reset},
    secure::{AGREED, BOTH, End, Front, GREETING, Papers, Secure, Way, client_hello},
};

#[test]
fn a_client_that_resets_in_its_handshake_or_before_the_agreement_frees_the_server() {
    let papers = Papers::new();
    let hello = client_hello(&papers.trust);
    for said in [&b""[..], b"STLS\r\n", b"NOOP\r\nSTLS\r\n"] {
        for more in [0, 1, hello.len()] {
            let server = Server::once(converse);
            let front = Front::of(&server);
            let mut client = Client::to(front.stls);
            assert_eq!(client.line(), GREETING);
            client.say(said);
            if more > 0 && !said.is_empty() {
                let mut line = client.line();
                while line != AGREED {
                    line = client.line();
                }
                client.say(&hello[..more]);
            }
            client.reset();
            let heard = server.heard();
            assert!(b"NOOP\r\n".starts_with(&heard), "{}", heard.escape_ascii());
            let left = front.stop();
            assert_eq!(left.session()["closed_by"], "client", "{}", left.verdict());
        }
    }
}

/// The server never begins its handshake; without a look at the client it would be waited for until the time limit.
#[test]
fn a_client_that_resets_inside_tls_while_the_server_is_being_reached_frees_it_at_once() {
    let (reached, is_reached) = channel();
    let server = Server::once(move |mut stream| {
        stream.read_exact(&mut [0; 3]).unwrap();
        reached.send(()).unwrap();
        listen(stream)
    });
    let front = Papers::new().front(&server, "pop3s", "");
    let client = Secure::over(front.connect(Way::Implicit).0, &front.papers.trust).unwrap();
    is_reached.recv_timeout(PATIENCE).unwrap();
    reset(client.0.sock);
    server.heard();
    let left = front.stop();
    assert_eq!((&left.session()["reason"], &left.session()["closed_by"]), (&"reset".into(), &"client".into()));
}

/// The server cannot be reached: that is told inside TLS, and ended so that the client knows that it is all.
#[test]
fn a_server_that_cannot_be_reached_is_named_inside_tls() {
    let papers = Papers::new();
    let server = Server::once(|stream| {
        drop(stream);
        Vec::new()
    });
    let front = papers.front(&server, "pop3s", "");
    let client = Secure::over(front.connect(Way::Implicit).0, &front.papers.trust).unwrap();
    let (line, end) = client.rest();
    assert!(line.starts_with("-ERR [SYS/TEMP] cannot start TLS") && line.matches("\r\n").count() == 1, "{line}");
    assert_eq!(end, End::Goodbye);
    front.stop();
}

/// Both ends of the handshake wait for the client for ever; the drain's limit does not.
#[test]
fn a_stop_does_not_wait_for_handshakes_beyond_its_limit() {
    let papers = Papers::new();
    let hello = client_hello(&papers.trust);
    for way in BOTH {
        // Where TLS comes first nothing has begun that could be finished.
        let drain = if way == Way::Implicit { "1h" } else { "200ms" };
        let settings = format!("[timeouts]\nhandshake = \"1h\"\ndrain = \"{drain}\"\n");
        for said in [&b""[..], &hello[..9], &hello[..]] {
            let server = Server::once(converse);
            let mut front = Papers::new().front(&server, "pop3", &settings);
            let mut client = front.ready(way);
            client.say(said);
            // Until it is accepted, nobody could wait for it.
            front.poptap.log_line("session opened");
            let left = front.stop();
            let heard = client.last();
            assert!(heard.is_empty() || heard.starts_with(b"\x16\x03"), "{}", heard.escape_ascii());
            assert_eq!((&left.session()["reason"], &left.session()["closed_by"]), (&"shutdown".into(), &"poptap".into()));
            if way == Way::Stls {
                assert_eq!(server.heard(), b"");
            }
        }
    }
}

/// Where TLS comes first a line in clear would be noise; elsewhere it is what the client reads.
#[test]
fn who_is_turned_away_for_want_of_room_hears_it_where_there_is_plain_text() {
    for way in BOTH {
        let server = Server::times(2, converse);
        let mut front = Papers::new().front(&server, "pop3", "[limits]\nconnections = 1\n");
        let mut first = front.secure(way);
        let refused = front.connect(way).rest();
        let expected = if way == Way::Implicit { "" } else { "-ERR [SYS/TEMP] too many connections, try again later\r\n" };
        assert_eq!(refused, expected);
        front.poptap.log_line("session closed");
        assert_eq!(first.ask("QUIT"), "+OK\r\n");
        assert_eq!(first.rest(), (String::new(), End::Goodbye));
        server.heard();
        let left = front.stop();
        let reasons: Vec<_> = left.sessions.iter().map(|session| session["reason"].as_str().unwrap()).collect();
        assert_eq!(reasons, ["too-many-connections", "quit"]);
    }
}

/// A handshake takes a place as a session does, and gives it back.
#[test]
fn a_handshake_that_fails_gives_its_place_back() {
    let server = Server::once(converse);
    let front = Papers::new().front(&server, "pop3", "[limits]\nconnections = 1\n");
    let holder = front.connect(Way::Implicit);
    // Accepted in order: the second finds the place taken.
    assert_eq!(front.connect(Way::Implicit).rest(), "");
    drop(holder);
    let deadline = Instant::now() + PATIENCE;
    let mut client = loop {
        let client = front.connect(Way::Implicit);
        match Secure::over(client.0, &front.papers.trust) {
            Ok(client) => break client,
            Err(error) => assert!(Instant::now() < deadline, "the place is still taken: {error}"),
        }
    };
    assert_eq!([client.line(), client.ask("QUIT")], [GREETING, "+OK\r\n"]);
    drop(client);
    server.heard();
    let left = front.stop();
    assert!(left.has_event("closed", "reason", "too-many-connections"));
}
