//! Peers that speak something else, something older, or on the wrong kind of port.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
};

use super::short_handshakes;
use crate::support::{
    outside::{Client, PATIENCE, Server, converse},
    secure::{BOTH, Front, GREETING, Papers, Way, client_hello},
};

const TLS_PORT: &str = "-ERR [SYS/PERM] this port speaks TLS from the first octet: choose SSL/TLS in your client\r\n";

#[test]
fn plain_text_on_a_port_for_tls_is_answered_in_plain_text() {
    for (said, anomaly) in [
        ("USER tim\r\n", "plaintext-on-tls-port"),
        ("CAPA\r\n", "plaintext-on-tls-port"),
        ("capa\n", "plaintext-on-tls-port"),
        ("AUTH PLAIN\r\n", "plaintext-on-tls-port"),
        ("\r\n", "plaintext-on-tls-port"),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "http-request"),
        ("POST /login HTTP/1.0\r\n\r\nPASS x\r\n", "http-request"),
    ] {
        let server = Server::once(converse);
        let front = Front::of(&server);
        let mut client = front.connect(Way::Implicit);
        client.say(said.as_bytes());
        assert_eq!(client.rest(), TLS_PORT, "{said:?}");
        let left = front.stop();
        assert_eq!(left.count("anomaly", "id", anomaly), 1, "{said:?}: {}", left.log);
        assert_eq!((&left.session()["reason"], &left.session()["closed_by"]), (&"violation".into(), &"poptap".into()));
        assert!(left.verdict().starts_with("client's fault: "), "{}", left.verdict());
    }
}

/// One octet is enough to know, and a client that says no more is not waited for until its time is up.
#[test]
fn a_single_octet_of_plain_text_is_enough() {
    for way in BOTH {
        let server = Server::once(converse);
        let front = Front::of(&server);
        let mut client = front.ready(way);
        client.say(b"U");
        let heard = client.last();
        let expected = if way == Way::Implicit { TLS_PORT } else { "" };
        assert_eq!(String::from_utf8_lossy(&heard), expected);
        assert_eq!(front.stop().session()["reason"], "violation");
    }
}

#[test]
fn tls_where_plain_text_comes_first_is_told_in_one_line() {
    let plain = "-ERR [SYS/PERM] this port speaks plain POP3: turn encryption off in your client\r\n";
    let stls = "-ERR [SYS/PERM] TLS begins with STLS here: choose STARTTLS instead of SSL/TLS in your client\r\n";
    for (is_stls, expected) in [(false, plain), (true, stls)] {
        for piece in [usize::MAX, 1] {
            let server = Server::once(converse);
            let front = Front::of(&server);
            let mut client = Client::to(if is_stls { front.stls } else { front.poptap.address });
            assert_eq!(client.line(), GREETING);
            let hello = client_hello(&front.papers.trust);
            for piece in hello.chunks(piece.min(hello.len())) {
                // It may have been turned away by what came before.
                let _ = client.0.write_all(piece);
            }
            let heard = client.last();
            assert_eq!(String::from_utf8_lossy(&heard), expected);
            assert_eq!(server.heard(), b"");
            assert_eq!(front.stop().verdict(), "client's fault: it started TLS on a plain port");
        }
    }
}

/// A hello as they were before TLS 1.2: `version` in the record and in the message, and no extension that offers more.
fn old_hello(version: u8) -> Vec<u8> {
    let mut message = vec![3, version];
    message.extend([7; 32]);
    // No session; AES-128-CBC-SHA with RSA and with ECDHE, 3DES; no compression.
    message.extend([0, 0, 6, 0x00, 0x2f, 0xc0, 0x13, 0x00, 0x0a, 1, 0]);
    let length = u8::try_from(message.len()).unwrap();
    let handshake = [&[1, 0, 0, length][..], &message].concat();
    [&[0x16, 3, version, 0, length + 4][..], &handshake].concat()
}

#[test]
fn a_client_of_the_last_century_is_refused_with_an_alert_and_the_log_names_a_way() {
    for version in [0, 1, 2] {
        for way in BOTH {
            let server = Server::once(converse);
            let mut front = Front::of(&server);
            let mut client = front.ready(way);
            client.say(&old_hello(version));
            let heard = client.last();
            assert!(heard.starts_with(b"\x15\x03") && heard.len() == 7, "an alert: {}", heard.escape_ascii());
            if way == Way::Stls {
                assert_eq!(server.heard(), b"");
            }
            front.poptap.log_line("session closed");
            let left = front.stop();
            assert_eq!(left.session()["reason"], "client-tls", "{}", left.verdict());
            let line = left.log.lines().find(|line| line.contains("WARN") && line.contains("TLS 1.")).expect(&left.log);
            assert!(line.contains("hint: "), "{line}");
        }
    }
}

/// A renegotiation asked for inside TLS 1.2, by OpenSSL's client. rustls refuses it; what counts is that nobody else notices.
#[test]
fn a_renegotiation_is_refused_and_nobody_else_notices() {
    for way in BOTH {
        let server = Server::times(2, converse);
        let front = Papers::new().front(&server, "pop3", &short_handshakes());
        let address = front.address(way).to_string();
        let mut command = Command::new("openssl");
        command.args(["s_client", "-tls1_2", "-connect", &address]);
        if way == Way::Stls {
            command.args(["-starttls", "pop3"]);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("openssl");
        let mut stdin = child.stdin.take().unwrap();
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let wait_for = |wanted: &str| {
            while !lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no `{wanted}`")).starts_with(wanted) {}
        };
        if way == Way::Implicit {
            wait_for("+OK ready");
        }
        writeln!(stdin, "NOOP").unwrap();
        wait_for("+OK");
        writeln!(stdin, "R").unwrap();
        // OpenSSL takes a refusal for the end, and leaves. It must not have to wait for anything else to be said.
        while lines.recv_timeout(PATIENCE).map_err(|error| assert_eq!(error, RecvTimeoutError::Disconnected)).is_ok() {}
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(stderr.contains("RENEGOTIATING") && stderr.contains("no renegotiation"), "{stderr}");
        assert_eq!(server.heard().trim_ascii_end(), b"NOOP");
        let mut other = front.secure(way);
        assert_eq!(other.ask("QUIT"), "+OK\r\n");
        drop(other);
        assert_eq!(server.heard(), b"QUIT\r\n");
        let left = front.stop();
        assert!(!left.log.contains("panicked"), "{}", left.log);
        let versions: Vec<_> =
            left.events.iter().filter(|event| event["event"] == "tls").filter_map(|event| event["version"].as_str()).collect();
        assert_eq!(versions, ["TLSv1.2", "TLSv1.3"]);
    }
}
