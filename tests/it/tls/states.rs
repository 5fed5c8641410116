//! What was said before TLS counts for nothing inside it; what may only be said inside is not forwarded before.

use crate::support::{
    outside::{Client, SECRET, Server, converse},
    secure::{AGREED, BOTH, End, Front, GREETING, Papers, Secure, Way},
};

const TOO_LATE: &str = "-ERR STLS has to come before any login\r\n";
const INSIDE: &str = "-ERR TLS is active already\r\n";
const TLS_FIRST: &str = "-ERR [SYS/PERM] no login without encryption: turn on STLS (STARTTLS) in your client\r\n";

/// Real servers keep a name across STLS: whoever injects one would have the client's password checked against it.
#[test]
fn stls_behind_the_first_step_of_a_login_is_refused() {
    let first_steps = ["USER tim", "user tim", " USER tim", "USER", "APOP tim 0123456789abcdef", "AUTH PLAIN", "RPOP tim"];
    for first in first_steps {
        for together in [true, false] {
            let server = Server::once(converse);
            let front = Front::of(&server);
            let mut client = Client::to(front.stls);
            assert_eq!(client.line(), GREETING);
            if together {
                client.say(format!("{first}\r\nSTLS\r\nQUIT\r\n").as_bytes());
                assert_eq!(client.line(), "+OK\r\n", "{first}");
            } else {
                assert_eq!(client.ask(first), "+OK\r\n", "{first}");
                client.say(b"STLS\r\nQUIT\r\n");
            }
            assert_eq!(client.rest(), format!("{TOO_LATE}+OK\r\n"), "{first}");
            assert_eq!(server.heard(), format!("{first}\r\nQUIT\r\n").as_bytes());
            assert!(front.stop().has_event("decision", "rule", "stls-refuse"));
        }
    }
}

/// Servers differ on what such a line says: it may begin a login.
#[test]
fn stls_behind_a_line_that_may_be_a_login_is_refused() {
    for first in ["NOOP\0USER tim", "NOOP\rUSER tim", &format!("NOOP {}USER tim", "a".repeat(8187))] {
        let server = Server::once(converse);
        let front = Front::of(&server);
        let mut client = Client::to(front.stls);
        assert_eq!([client.line(), client.ask(first), client.ask("STLS")], [GREETING, "+OK\r\n", TOO_LATE]);
        assert_eq!(server_after(client, &server), format!("{first}\r\n").as_bytes());
        front.stop();
    }
}

fn server_after(client: Client, server: &Server) -> Vec<u8> {
    drop(client);
    server.heard()
}

#[test]
fn there_is_no_stls_inside_tls() {
    for scheme in ["pop3", "pop3s"] {
        for way in BOTH {
            let papers = Papers::new();
            let config = papers.server.clone();
            let secure = scheme == "pop3s";
            let server =
                Server::once(
                    move |stream| {
                        if secure { converse(crate::support::outside::tls(stream, &config)) } else { converse(stream) }
                    },
                );
            let front = papers.front(&server, scheme, "");
            let mut client = front.secure(way);
            for stls in ["STLS", "stls", " STLS", "STLS now"] {
                assert_eq!(client.ask(stls), INSIDE, "{scheme} {way:?} {stls}");
            }
            client.say(format!("STLS\r\nUSER tim\r\nSTLS\r\nPASS {SECRET}\r\nSTLS\r\nCAPA\r\nQUIT\r\n").as_bytes());
            let expected = format!("{INSIDE}+OK\r\n{INSIDE}+OK\r\n{INSIDE}+OK\r\nUSER\r\n.\r\n+OK\r\n");
            // This server says no goodbye.
            assert_eq!(client.rest(), (expected, if secure { End::Cut } else { End::Goodbye }));
            assert_eq!(server.heard(), format!("USER tim\r\nPASS {SECRET}\r\nCAPA\r\nQUIT\r\n").as_bytes());
            assert_eq!(front.stop().session()["reason"], "quit");
        }
    }
}

#[test]
fn a_second_stls_in_clear_is_refused_like_anything_behind_the_first() {
    let server = Server::once(converse);
    let front = Front::of(&server);
    let mut client = Client::to(front.stls);
    assert_eq!(
        [client.line(), client.ask("STLS now"), client.ask("CAPA")],
        [GREETING, "-ERR STLS takes no argument\r\n", "+OK\r\n"]
    );
    client.say(b"STLS\r\nSTLS\r\n");
    let heard = String::from_utf8_lossy(&client.last()).into_owned();
    assert_eq!(heard.matches("begin TLS").count() + heard.matches("nothing may follow STLS").count(), 1, "{heard}");
    assert_eq!(server.heard(), b"CAPA\r\n");
    assert_eq!(front.stop().session()["reason"], "violation");
}

/// Each may be a login, or the beginning of one, for some server.
const LOGINS: [&str; 22] = [
    "USER tim\r\n",
    "user tim\r\n",
    "uSeR tim\r\n",
    " USER tim\r\n",
    "\t USER tim\r\n",
    "USER\ttim\r\n",
    "USER tim\n",
    "USER\r\n",
    "PASS Wr9-kettle-Quince\r\n",
    "pass Wr9-kettle-Quince\r\n",
    "PASS  Wr9-kettle-Quince \r\n",
    "APOP tim 0123456789abcdef0123456789abcdef\r\n",
    "apop tim x\n",
    "AUTH PLAIN\r\n",
    "AUTH PLAIN AHRpbQBXcjkta2V0dGxlLVF1aW5jZQ==\r\n",
    "auth login\r\n",
    " AUTH\tPLAIN\r\n",
    "RPOP tim\r\n",
    "USER\0tim\r\n",
    "NOOP\0\r\n",
    "NOOP\rUSER tim\r\n",
    "XYZZY\r USER tim\r\n",
];

#[test]
fn where_tls_is_required_no_login_is_forwarded_before_it() {
    let server = Server::once(converse);
    let front = Papers::new().strict_front(&server);
    let mut client = Client::to(front.stls);
    assert_eq!(client.line(), GREETING);
    for login in LOGINS {
        assert_eq!(client.say(login.as_bytes()).line(), TLS_FIRST, "{login:?}");
    }
    let long = format!("NOOP {}PASS {SECRET}\r\n", "a".repeat(8187));
    assert_eq!(client.say(long.as_bytes()).line(), TLS_FIRST);
    // All at once, and STLS with them.
    client.say(format!("{}NOOP\r\nSTLS\r\n", LOGINS.concat()).as_bytes());
    for _ in LOGINS {
        assert_eq!(client.line(), TLS_FIRST);
    }
    assert_eq!([client.line(), client.line()], ["+OK\r\n", AGREED]);
    let mut client = Secure::over(client.0, &front.papers.trust).unwrap();
    assert_eq!([client.ask("USER inside"), client.ask(&format!("PASS {SECRET}")), client.ask("QUIT")], ["+OK\r\n"; 3]);
    drop(client);
    assert_eq!(server.heard(), format!("NOOP\r\nUSER inside\r\nPASS {SECRET}\r\nQUIT\r\n").as_bytes());
    let left = front.stop();
    assert_eq!((&left.session()["user"], &left.session()["reason"]), (&"inside".into(), &"quit".into()));
}

/// In pieces, over segments: a login may not slip through as the beginning of something longer.
#[test]
fn where_tls_is_required_a_login_in_pieces_is_refused_too() {
    let server = Server::once(converse);
    let front = Papers::new().strict_front(&server);
    let mut client = Client::to(front.stls);
    assert_eq!(client.line(), GREETING);
    for login in LOGINS {
        for octet in login.as_bytes() {
            client.say(&[*octet]);
        }
        assert_eq!(client.line(), TLS_FIRST, "{login:?}");
    }
    assert_eq!([client.ask("QUIT")], ["+OK\r\n"]);
    drop(client);
    assert_eq!(server.heard(), b"QUIT\r\n");
    front.stop();
}

/// Some servers take the end of the stream for the end of a line.
#[test]
fn where_tls_is_required_an_unfinished_login_is_not_forwarded_either() {
    let server = Server::times(LOGINS.len(), converse);
    let front = Papers::new().strict_front(&server);
    for login in LOGINS {
        let mut client = Client::to(front.stls);
        assert_eq!(client.line(), GREETING);
        client.say(login.trim_end_matches(['\r', '\n']).as_bytes()).0.shutdown(std::net::Shutdown::Write).unwrap();
        client.last();
        assert_eq!(server.heard(), b"", "{login:?}");
    }
    front.stop();
}

/// Neither the name nor the counts of what was said in clear are the session's.
#[test]
fn the_transcript_names_who_logged_in_inside_tls() {
    let server = Server::once(converse);
    let front = Papers::new().strict_front(&server);
    let mut client = Client::to(front.stls);
    assert_eq!([client.line(), client.ask("USER mallory"), client.ask("STLS")], [GREETING, TLS_FIRST, AGREED]);
    let mut client = Secure::over(client.0, &front.papers.trust).unwrap();
    assert_eq!([client.ask(&format!("PASS {SECRET}")), client.ask("QUIT")], ["+OK\r\n", "+OK\r\n"]);
    drop(client);
    assert_eq!(server.heard(), format!("PASS {SECRET}\r\nQUIT\r\n").as_bytes());
    let left = front.stop();
    assert!(left.session().get("user").is_none(), "{:#}", left.session());
    assert_eq!(left.count("tls", "hop", "client"), 1);
}

/// On the listener with TLS from the first octet there is nothing to require; the same options serve all.
#[test]
fn what_is_required_before_tls_is_no_hindrance_inside() {
    for way in BOTH {
        let server = Server::once(converse);
        let front = Papers::new().strict_front(&server);
        let mut client = front.secure(way);
        assert_eq!([client.ask("USER tim"), client.ask(&format!("PASS {SECRET}")), client.ask("QUIT")], ["+OK\r\n"; 3]);
        assert_eq!(client.rest(), (String::new(), End::Goodbye));
        server.heard();
        let mode = if way == Way::Implicit { "implicit" } else { "stls" };
        assert!(front.stop().has_event("tls", "mode", mode));
    }
}
