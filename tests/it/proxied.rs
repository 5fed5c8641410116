//! Clients that proxies announce by the PROXY protocol: their address is the one that counts.

use std::io::{Read as _, Write as _};

use rustls::StreamOwned;
use serde_json::Value;

use crate::support::{
    outside::{Client, Left, Poptap, Server, converse, read_line},
    secure::{Papers, handshake},
};

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.2 40000 110\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// From 192.0.2.7:40000 to 198.51.100.2:110, over TLS.
fn v2() -> Vec<u8> {
    let tlv = |kind: u8, value: &[u8]| [&[kind][..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat();
    let ssl = [&[7, 0, 0, 0, 0][..], &tlv(0x21, b"TLSv1.3"), &tlv(0x22, b"joe"), &tlv(0x23, b"TLS_AES_128_GCM_SHA256")].concat();
    let addresses = [192, 0, 2, 7, 198, 51, 100, 2, 0x9c, 0x40, 0, 110];
    let rest = [&addresses[..], &tlv(1, b"pop3"), &tlv(2, b"pop.example.net"), &tlv(0x20, &ssl)].concat();
    [SIGNATURE, &[0x21, 0x11], &u16::try_from(rest.len()).unwrap().to_be_bytes(), &rest].concat()
}

fn local() -> Vec<u8> {
    [SIGNATURE, &[0x20, 0, 0, 0]].concat()
}

/// Proxies are at 127.0.0.1 and in 127.0.0.16/28; further settings of the listener, and sections behind it.
fn start(server: &Server, settings: &str, sections: &str) -> Poptap {
    let url = server.url("pop3");
    Poptap::as_configured(&format!(
        "[[upstream]]\nname = 'main'\nurl = '{url}'\n[[listener]]\naddress = '127.0.0.1:0'\nproxy_from = ['127.0.0.1', '127.0.0.16/28']\n\
         {settings}\n[timeouts]\nhandshake = '2s'\n{sections}"
    ))
}

const ALLOWED: &str = "allow_from = ['192.0.2.0/24']";

/// Sends octets from 127.0.0.`host`, in pieces.
fn send(poptap: &Poptap, host: u8, octets: &[u8], size: usize) -> Client {
    let mut client = Client::from(host, poptap.address);
    for piece in octets.chunks(size) {
        if client.0.write_all(piece).is_err() {
            break;
        }
        std::thread::yield_now();
    }
    client
}

fn quit(mut client: Client) {
    assert_eq!((client.line().as_str(), client.ask("QUIT").as_str()), ("+OK ready\r\n", "+OK\r\n"));
}

fn opened(left: &Left) -> Vec<&Value> {
    left.events.iter().filter(|event| event["event"] == "opened").collect()
}

#[test]
fn the_announced_address_is_the_client_s_however_the_header_comes() {
    let server = Server::times(8, converse);
    let mut poptap = start(&server, ALLOWED, "");
    for header in [V1.to_vec(), v2()] {
        for size in [1, 3, 16, 1000] {
            // What stands right behind the header is the client's.
            let mut client = send(&poptap, 17, &[&header[..], b"NOOP\r\n"].concat(), size);
            assert_eq!((client.line().as_str(), client.line().as_str()), ("+OK ready\r\n", "+OK\r\n"));
            assert_eq!(client.ask("QUIT"), "+OK\r\n");
            let line = poptap.log_line("session opened");
            assert!(line.contains("client=192.0.2.7:40000") && line.contains("proxy=127.0.0.17:"), "{line}");
            assert_eq!(server.heard(), b"NOOP\r\nQUIT\r\n");
        }
    }
    let left = poptap.stop();
    for session in &left.sessions {
        assert_eq!(session["client"], "192.0.2.7:40000");
        assert!(session["proxied_by"].as_str().unwrap().starts_with("127.0.0.17:"), "{session:#}");
    }
    let opened = opened(&left);
    assert_eq!((opened.len(), left.sessions.len()), (8, 8));
    let announced = &opened[7]["announced"];
    for (key, value) in [
        ("header", "v2"),
        ("destination", "198.51.100.2:110"),
        ("tls_version", "TLSv1.3"),
        ("tls_cipher", "TLS_AES_128_GCM_SHA256"),
        ("tls_name", "joe"),
        ("sni", "pop.example.net"),
        ("alpn", "pop3"),
    ] {
        assert_eq!(announced[key], value, "{announced:#}");
    }
    assert_eq!(opened[0]["announced"], serde_json::json!({ "header": "v1", "destination": "198.51.100.2:110" }));
}

#[test]
fn whoever_is_no_proxy_is_closed_without_a_word_and_loopback_is_none_by_itself() {
    let server = Server::times(1, converse);
    let mut poptap = start(&server, "allow_from = ['127.0.0.0/8', '192.0.2.0/24']", "");
    let client = send(&poptap, 2, V1, 1000);
    let line = poptap.log_line("client refused");
    assert!(line.contains("client=127.0.0.2 reason=not-a-proxy "), "{line}");
    assert_eq!(client.last(), b"");
    quit(send(&poptap, 1, V1, 1000));
    let left = poptap.stop();
    assert_eq!(left.count("closed", "reason", "not-a-proxy"), 1);
    assert_eq!(server.accepted(), 1, "the server was not bothered");
}

#[test]
fn what_is_no_header_ends_the_connection_with_one_line_of_the_log() {
    let server = Server::times(1, converse);
    let mut poptap = start(&server, ALLOWED, "");
    let long = [&b"PROXY UNKNOWN "[..], &[b'x'; 100]].concat();
    let much = [SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat();
    for (octets, said) in [
        (&b"USER tim\r\n"[..], "its first octets are not a header"),
        (b"\x16\x03\x01\x02\x00\x01", "its first octets are not a header"),
        (b"PROXY TCP4 nobody 198.51.100.2 1 2\r\n", "its header is malformed"),
        (&long, "longer than 107 octets"),
        (&much, "longer than 4096 octets"),
        (b"PROXY TCP4 19", "no PROXY protocol header within 2s"),
        (b"", "no PROXY protocol header within 2s"),
    ] {
        for size in [1, 1000] {
            let client = send(&poptap, 1, octets, size);
            let line = poptap.log_line("connection closed: ");
            assert!(line.contains(said) && line.contains("proxy=127.0.0.1:") && line.contains("hint: "), "{line}");
            assert_eq!(client.last(), b"", "{said}");
        }
    }
    let gone = send(&poptap, 1, b"PROXY ", 1000);
    drop(gone);
    let line = poptap.log_line("connection closed: ");
    assert!(line.contains("it left before its header was there, behind 6 octets"), "{line}");
    let left = poptap.stop();
    assert_eq!((left.count("closed", "reason", "proxy-header"), left.count("closed", "reason", "timeout-proxy-header")), (11, 4));
    assert_eq!(server.accepted(), 0, "the server was not bothered");
}

#[test]
fn rules_and_limits_are_about_the_announced_client() {
    let server = Server::times(5, converse);
    let rule = "[[rule]]\nname = 'seven'\nwhen = { client = '192.0.2.7', command = 'NOOP' }\naction = { deny = 'not you' }\n";
    let limits = "[limits]\nsessions_per_client = 1\n";
    let settings = "allow_from = ['192.0.2.0/24']\ndeny_from = ['192.0.2.66']";
    let mut poptap = start(&server, settings, &format!("{rule}{limits}"));
    let announce = |address: &str| format!("PROXY TCP4 {address} 198.51.100.2 40000 110\r\n");
    let mut seven = send(&poptap, 1, V1, 1000);
    assert_eq!((seven.line().as_str(), seven.ask("NOOP").as_str()), ("+OK ready\r\n", "-ERR not you\r\n"));
    for (address, reason, said) in [
        ("192.0.2.7", "too-many-from-client", "-ERR [SYS/TEMP] "),
        ("192.0.2.66", "denied", "-ERR [SYS/PERM] "),
        ("198.51.100.9", "not-allowed", "-ERR [SYS/PERM] "),
    ] {
        let mut client = send(&poptap, 1, announce(address).as_bytes(), 1000);
        let line = poptap.log_line("client refused");
        assert!(line.contains(&format!("client={address} reason={reason} ")), "{line}");
        assert!(client.line().starts_with(said), "{reason}");
    }
    // The same proxy, another client.
    let mut eight = send(&poptap, 1, announce("192.0.2.8").as_bytes(), 1000);
    assert_eq!((eight.line().as_str(), eight.ask("NOOP").as_str()), ("+OK ready\r\n", "+OK\r\n"));
    for mut client in [seven, eight] {
        assert_eq!(client.ask("QUIT"), "+OK\r\n");
    }
    poptap.stop();
}

#[test]
fn a_proxy_that_speaks_for_itself_is_answered_though_no_client_of_its_network_may_come() {
    let server = Server::times(2, converse);
    let poptap = start(&server, "allow_from = ['192.0.2.0/24']\ndeny_from = ['127.0.0.18']", "");
    for header in [local(), b"PROXY UNKNOWN\r\n".to_vec()] {
        quit(send(&poptap, 17, &header, 1));
    }
    assert!(send(&poptap, 18, &local(), 1000).line().starts_with("-ERR [SYS/PERM]"), "unless it is denied");
    let left = poptap.stop();
    for event in &opened(&left)[..2] {
        assert!(event["client"].as_str().unwrap().starts_with("127.0.0.17:"), "{event:#}");
        assert_eq!((&event["announced"]["anonymous"], &event["proxied_by"]), (&Value::Bool(true), &Value::Null));
    }
}

#[test]
fn connections_that_have_not_announced_anybody_count_under_the_cap() {
    let server = Server::times(1, converse);
    let poptap = start(&server, ALLOWED, "[limits]\nconnections = 2\n");
    let waiting = [send(&poptap, 1, b"P", 1), send(&poptap, 1, b"P", 1)];
    let refused = loop {
        // The two may still be on their way to being accepted.
        let mut third = send(&poptap, 1, V1, 1000);
        let line = third.line();
        if !line.starts_with("+OK") {
            break line;
        }
        let _ = third.ask("QUIT");
    };
    assert_eq!(refused, "-ERR [SYS/TEMP] too many connections, try again later\r\n");
    drop(waiting);
    poptap.stop();
}

#[test]
fn the_server_is_told_of_the_announced_client_and_of_where_it_came_in() {
    let server = Server::once(|mut stream| {
        let mut heard = [0; 28];
        stream.read_exact(&mut heard).unwrap();
        let _ = stream.write_all(b"+OK ready\r\n");
        let _ = read_line(&mut stream).map(|_| stream.write_all(b"+OK\r\n"));
        heard.to_vec()
    });
    let url = server.url("pop3");
    let poptap = Poptap::as_configured(&format!(
        "[[upstream]]\nurl = '{url}'\nproxy_protocol = 'v2'\n[[listener]]\naddress = '127.0.0.1:0'\nproxy_from = ['127.0.0.1']\n{ALLOWED}\n"
    ));
    quit(send(&poptap, 1, V1, 1000));
    let heard = server.heard();
    let addresses = &heard[16..28];
    assert_eq!(addresses, [192, 0, 2, 7, 198, 51, 100, 2, 0x9c, 0x40, 0, 110], "{}", heard.escape_ascii());
    poptap.stop();
}

#[test]
fn tls_begins_behind_the_header() {
    let server = Server::times(1, converse);
    let (papers, url) = (Papers::new(), server.url("pop3"));
    let (cert, key) = (papers.path("cert.pem"), papers.path("key.pem"));
    let poptap = Poptap::as_configured(&format!(
        "[[upstream]]\nurl = '{url}'\n[[listener]]\naddress = 'pop3s://127.0.0.1:0'\nproxy_from = ['127.0.0.1']\n\
         cert = '{cert}'\nkey = '{key}'\n"
    ));
    let client = send(&poptap, 1, &v2(), 7);
    let mut tls = StreamOwned::new(handshake(&papers.trust), client.0);
    assert_eq!(read_line(&mut tls).unwrap(), b"+OK ready\r\n");
    tls.write_all(b"QUIT\r\n").unwrap();
    assert_eq!(read_line(&mut tls).unwrap(), b"+OK\r\n");
    drop(tls);
    poptap.stop();
}
