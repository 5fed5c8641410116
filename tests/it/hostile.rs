//! Peers that break off, lie, flood, stay silent, or are not what they should be: what the other side sees, and whether the
//! transcript tells the truth about it.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    sync::Arc,
    thread,
};

use poptap::tls::{Authority, Validity, server_config};
use rustls::ServerConfig;
use socket2::SockRef;
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

use crate::support::outside::{Left, MESSAGE, Poptap, SECRET, Server, converse, end, listen, read_line, reset, rest, tls};

/// Limits that a test can wait for; those that a test is not about are longer.
fn limits(short: &str) -> String {
    let mut text = "[timeouts]\n".to_owned();
    for limit in ["greeting", "handshake", "login", "idle", "half_closed", "reply", "drain"] {
        let value = if short == limit { "200ms" } else { "15s" };
        text.extend([limit, " = \"", value, "\"\n"]);
    }
    text
}

fn plain(script: impl Fn(TcpStream) -> Vec<u8> + Send + Sync + 'static) -> (Server, Poptap) {
    let server = Server::once(script);
    let poptap = Poptap::to(&server.url("pop3"));
    (server, poptap)
}

// ── the client breaks off ──

#[test]
fn a_client_that_goes_is_gone_for_the_server_too_and_no_quit_is_invented() {
    let login = format!("USER tim\r\nPASS {SECRET}\r\n");
    for (said, heard, verdict) in [
        ("", 1, "client left before a login"),
        ("US", 1, "client left before a login"),
        ("USER tim\r\n", 2, "client left before a login"),
        (&login, 3, "client left without QUIT: no messages retrieved"),
        (&format!("{login}DELE 1\r\n"), 4, "client left without QUIT: its deletions do not count"),
        (&format!("{login}RETR 1\r\n"), 9, "client left without QUIT: 1 message, 24 octets"),
    ] {
        for is_reset in [true, false] {
            let (server, poptap) = plain(converse);
            let mut client = poptap.connect();
            client.say(said.as_bytes());
            for _ in 0..heard {
                client.line();
            }
            if is_reset {
                client.reset();
            } else {
                drop(client);
            }
            assert_eq!(server.heard(), said.as_bytes(), "reset: {is_reset}");
            let left = poptap.stop();
            assert_eq!((left.verdict(), left.session()["closed_by"].as_str()), (verdict, Some("client")));
        }
    }
}

/// The server never begins its handshake; without a look at the client it would be waited for until the time limit.
#[test]
fn a_client_that_resets_while_the_server_is_being_reached_frees_it_at_once() {
    let (reached, is_reached) = std::sync::mpsc::channel();
    let server = Server::once(move |mut stream| {
        stream.read_exact(&mut [0; 3]).unwrap();
        reached.send(()).unwrap();
        listen(stream)
    });
    let poptap = Poptap::to(&server.url("pop3s"));
    let client = poptap.connect();
    is_reached.recv().unwrap();
    client.reset();
    server.heard();
    let left = poptap.stop();
    assert_eq!((left.verdict(), left.session()["closed_by"].as_str()), ("client left before a login", Some("client")));
}

#[test]
fn a_client_that_goes_in_the_middle_of_a_message_stops_the_server_at_once() {
    let (server, poptap) = plain(|mut stream| {
        stream.write_all(b"+OK ready\r\n+OK\r\n+OK\r\n+OK a message without end\r\n").unwrap();
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
        listen(stream)
    });
    let mut client = poptap.connect();
    client.say(format!("USER tim\r\nPASS {SECRET}\r\nRETR 1\r\n").as_bytes());
    client.0.read_exact(&mut vec![0; 65536]).unwrap();
    client.reset();
    server.heard();
    let left = poptap.stop();
    assert_eq!(left.verdict(), "client went away in the middle of message 1");
}

#[test]
fn a_server_that_repeats_what_it_was_told_does_not_bring_the_password_into_the_record() {
    for said in [
        format!("PASS {SECRET}\r\n"),
        // Only the beginning of such a line is remembered.
        format!("PASS{}{SECRET}\r\n", " ".repeat(600)),
        format!("NOOP {}PASS {SECRET}\r\n", "a".repeat(8187)),
        format!("NOOP\0PASS {SECRET}\r\n"),
        format!("{SECRET}\r\n"),
        // Some take the end of the stream for the end of the line.
        format!("PASS {SECRET}"),
        format!("PASS{}{SECRET}", " ".repeat(600)),
    ] {
        let (server, poptap) = plain(|mut stream| {
            stream.write_all(b"+OK ready\r\n").unwrap();
            let heard = read_line(&mut stream).unwrap();
            let last = heard.trim_ascii().rsplit(|&octet| octet == b' ').next().unwrap();
            stream.write_all(&[b"-ERR unknown command: ", last, b"\r\n"].concat()).unwrap();
            end(stream);
            heard
        });
        let mut client = poptap.connect();
        client.say(said.as_bytes()).0.shutdown(Shutdown::Write).unwrap();
        assert!(client.rest().contains(SECRET));
        assert_eq!(server.heard(), said.as_bytes());
        // It looks for the password in everything.
        poptap.stop();
    }
}

// ── the server breaks off ──

/// Answers the login, then `last` to the next line, and ends as told.
fn breaking_off(mut stream: TcpStream, last: &[u8], is_reset: bool) -> Vec<u8> {
    stream.write_all(b"+OK ready\r\n").unwrap();
    for reply in [&b"+OK\r\n"[..], b"+OK\r\n", last] {
        read_line(&mut stream);
        stream.write_all(reply).unwrap();
    }
    if is_reset {
        reset(stream);
    } else {
        end(stream);
    }
    Vec::new()
}

#[test]
fn a_server_that_goes_never_looks_complete() {
    for (last, verdict) in [
        (&b""[..], "server ended the session without QUIT: no messages retrieved"),
        (b"+OK 5", "server ended the session without QUIT: no messages retrieved"),
        (b"+OK 5\r\nSubject: x\r\n\r\nhel", "server went away in the middle of message 1 (truncated)"),
        (b"+OK 5\r\nSubject: x\r\n\r\nhello\r\n.", "server went away in the middle of message 1 (truncated)"),
    ] {
        for is_reset in [false, true] {
            let (_server, poptap) = plain(move |stream| breaking_off(stream, last, is_reset));
            let mut client = poptap.connect();
            client.log_in().say(b"RETR 1\r\n");
            // A reset throws away what the other side has not read.
            let seen = client.rest();
            assert!(if is_reset { last.starts_with(seen.as_bytes()) } else { seen.as_bytes() == last }, "{seen}");
            let left = poptap.stop();
            if !is_reset {
                assert_eq!(left.verdict(), verdict);
            }
            assert!(!left.verdict().starts_with("complete"), "{}", left.verdict());
        }
    }
}

/// The octets that the client sent in vain stay unread. Closing on them would be a reset, and that destroys what is on its way.
#[test]
fn what_a_server_left_behind_arrives_though_nobody_reads_the_client_any_more() {
    let (server, poptap) = plain(|mut stream| {
        let message = [b"+OK ready\r\n+OK\r\n+OK\r\n+OK\r\n".to_vec(), vec![b'x'; 300_000]].concat();
        stream.read_exact(&mut [0; 10]).unwrap();
        stream.write_all(&message).unwrap();
        reset(stream);
        Vec::new()
    });
    let mut client = poptap.connect();
    client.say(format!("USER tim\r\nPASS {SECRET}\r\nRETR 1\r\n").as_bytes());
    server.heard();
    for _ in 0..3000 {
        client.say(b"NOOP\r\n");
    }
    let (got, is_reset) = rest(&mut client.0);
    assert!(!is_reset && got.ends_with(b"x"), "{} octets, reset: {is_reset}", got.len());
    assert!(poptap.stop().verdict().starts_with("server went away in the middle of message 1"));
}

#[test]
fn a_server_that_leaves_without_a_word_is_named_to_the_client() {
    // A TLS server does so too, when a client speaks first in plain text.
    for is_reset in [false, true] {
        let (_server, poptap) = plain(move |mut stream| {
            stream.read_exact(&mut [0; 6]).unwrap();
            if is_reset {
                reset(stream);
            } else {
                end(stream);
            }
            Vec::new()
        });
        let mut client = poptap.connect();
        client.say(b"CAPA\r\n");
        let line = client.rest();
        assert!(line.starts_with("-ERR [SYS/TEMP] cannot read the greeting of `127.0.0.1:"), "{line}");
        assert_eq!(line.matches("\r\n").count(), 1);
        let left = poptap.stop();
        assert!(left.verdict().contains("it closed the connection before it said anything"), "{}", left.verdict());
        assert!(left.log.contains("use `pop3s://`"), "{}", left.log);
    }
}

#[test]
fn a_server_that_refuses_the_session_is_quoted() {
    for (scheme, expected) in [("pop3", "-ERR too many\r\n"), ("pop3+stls", "-ERR [SYS/TEMP] cannot open a session with")] {
        let server = Server::once(|mut stream| {
            stream.write_all(b"-ERR too many\r\n").unwrap();
            end(stream);
            Vec::new()
        });
        let poptap = Poptap::to(&server.url(scheme));
        let line = poptap.connect().rest();
        assert!(line.starts_with(expected), "{line}");
        assert!(poptap.stop().verdict().starts_with("the server refused the session"));
    }
}

#[test]
fn tls_without_a_goodbye_is_a_truncation_in_a_message_and_none_behind_quit() {
    for (command, last, verdict, reason) in [
        ("RETR 1", &b"+OK 5\r\nhel"[..], "server went away in the middle of message 1 (truncated)", "truncated"),
        ("QUIT", b"+OK bye\r\n", "complete: no messages retrieved", "quit"),
    ] {
        let (config, folder) = certified("127.0.0.1", Validity::days(1));
        let server = Server::once(move |stream| {
            let mut stream = tls(stream, &config);
            stream.write_all(b"+OK ready\r\n").unwrap();
            for reply in [&b"+OK\r\n"[..], b"+OK\r\n", last] {
                read_line(&mut stream);
                stream.write_all(reply).unwrap();
                stream.flush().unwrap();
            }
            end(stream.sock);
            Vec::new()
        });
        let poptap = over_tls(&server, &folder);
        let mut client = poptap.connect();
        client.log_in().say(format!("{command}\r\n").as_bytes());
        assert_eq!(client.rest().as_bytes(), last);
        let left = poptap.stop();
        assert_eq!((left.verdict(), left.session()["reason"].as_str()), (verdict, Some(reason)));
    }
}

// ── time limits ──

fn expired(
    limit: &str,
    script: fn(TcpStream) -> Vec<u8>,
    more: &str,
    talk: impl Fn(&mut crate::support::outside::Client),
) -> Left {
    let server = Server::once(script);
    let poptap = Poptap::start(&format!("{}{more}", limits(limit)), &["--upstream", &server.url("pop3")]);
    let mut client = poptap.connect();
    talk(&mut client);
    client.rest();
    server.heard();
    poptap.stop()
}

#[test]
fn each_time_limit_ends_the_session_and_is_named() {
    let greet_and_listen = |mut stream: TcpStream| {
        stream.write_all(b"+OK ready\r\n").unwrap();
        let heard = listen(&stream);
        // It never ends its own half.
        std::mem::forget(stream);
        heard
    };
    for (limit, script, talk) in [
        ("greeting", listen as fn(TcpStream) -> Vec<u8>, (|_| ()) as fn(&mut crate::support::outside::Client)),
        ("login", converse, |client| _ = client.say(b"USER tim\r\n")),
        ("idle", converse, |client| _ = client.log_in()),
        ("half_closed", greet_and_listen, |client| client.say(b"USER tim\r\n").0.shutdown(Shutdown::Write).unwrap()),
    ] {
        let left = expired(limit, script, "", talk);
        let reason = format!("timeout-{}", limit.replace('_', "-"));
        assert_eq!(left.session()["reason"], reason.as_str(), "{}", left.verdict());
        assert_eq!(left.session()["closed_by"], "poptap");
        assert!(left.has_event("closed", "reason", &reason));
    }
}

#[test]
fn a_server_that_swallows_pipelined_commands_costs_the_record_and_not_the_mail() {
    // Courier does, behind a login.
    let server = Server::once(|mut stream| {
        stream.write_all(b"+OK ready\r\n").unwrap();
        listen(stream)
    });
    let limits = format!("{}[limits]\noutstanding = 3\n", limits("reply"));
    let mut poptap = Poptap::start(&limits, &["--upstream", &server.url("pop3")]);
    let mut client = poptap.connect();
    let said = format!("PASS {SECRET}\r\n{}", "NOOP\r\n".repeat(50));
    client.say(said.as_bytes()).0.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.heard(), said.as_bytes());
    assert_eq!(client.rest(), "+OK ready\r\n");
    poptap.log_line("session closed");
    assert!(poptap.stop().has_event("opaque", "reason", "replies-missing"));
}

// ── STLS, and the wrong kind of port ──

#[test]
fn tls_on_a_plain_listener_is_told_in_one_line() {
    let (server, poptap) = plain(converse);
    let mut client = poptap.connect();
    assert_eq!(client.line(), "+OK ready\r\n");
    client.say(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    let line = client.rest();
    assert_eq!(line, "-ERR [SYS/PERM] this port speaks plain POP3: turn encryption off in your client\r\n");
    assert_eq!(server.heard(), b"");
    assert_eq!(poptap.stop().verdict(), "client's fault: it started TLS on a plain port");
}

#[test]
fn a_web_browser_is_turned_away() {
    let (server, poptap) = plain(converse);
    let mut client = poptap.connect();
    assert_eq!(client.line(), "+OK ready\r\n");
    client.say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.rest(), "-ERR [SYS/PERM] this is a POP3 server, not a web server\r\n");
    assert_eq!(server.heard(), b"");
    assert_eq!(poptap.stop().verdict(), "client's fault: it sent an HTTP request to a POP3 port");
}

#[test]
fn nothing_in_plain_text_crosses_an_stls_that_is_passed_on() {
    // What the client says at first and behind the reply, what the server replies, whose fault it is.
    let pass = format!("PASS {SECRET}\r\n");
    for (first, then, reply, fault) in [
        (format!("STLS\r\n{pass}"), String::new(), "+OK go\r\n", "client's fault"),
        ("STLS\r\nP".to_owned(), String::new(), "+OK go\r\n", "client's fault"),
        ("STLS\r\n".to_owned(), pass.clone(), "+OK go\r\n", "client's fault"),
        ("STLS\r\n".to_owned(), String::new(), "+OK go\r\n+OK injected\r\n", "server's fault"),
    ] {
        let (server, poptap) = plain(move |mut stream| {
            stream.write_all(b"+OK ready\r\n").unwrap();
            let mut heard = read_line(&mut stream).unwrap();
            stream.write_all(reply.as_bytes()).unwrap();
            heard.extend(listen(stream));
            heard
        });
        let mut client = poptap.connect();
        client.line();
        client.say(first.as_bytes());
        if !then.is_empty() {
            assert_eq!(client.line(), "+OK go\r\n");
            client.say(then.as_bytes());
        }
        assert!(!rest(&mut client.0).0.windows(8).any(|window| window == b"injected"));
        assert_eq!(server.heard(), b"STLS\r\n");
        let left = poptap.stop();
        assert!(left.verdict().starts_with(fault), "{}", left.verdict());
    }
}

#[test]
fn an_stls_that_the_server_refuses_lets_the_held_commands_go() {
    let (server, poptap) = plain(|mut stream| {
        stream.write_all(b"+OK ready\r\n").unwrap();
        let mut heard = read_line(&mut stream).unwrap();
        stream.write_all(b"-ERR no\r\n").unwrap();
        heard.extend(read_line(&mut stream).unwrap());
        stream.write_all(b"+OK\r\n").unwrap();
        end(stream);
        heard
    });
    let mut client = poptap.connect();
    client.say(b"STLS\r\nUSER tim\r\n");
    assert_eq!(client.rest(), "+OK ready\r\n-ERR no\r\n+OK\r\n");
    assert_eq!(server.heard(), b"STLS\r\nUSER tim\r\n");
    poptap.stop();
}

#[test]
fn what_poptap_answers_itself_keeps_its_place_in_a_pipeline() {
    let server = Server::once(|mut stream| {
        stream.write_all(b"+OK [XCLIENT] ").unwrap();
        converse(stream)
    });
    let poptap = Poptap::start("", &["--upstream", &server.url("pop3"), "--stls", "refuse"]);
    let mut client = poptap.connect();
    client.say(format!("CAPA\r\nSTLS\r\nXCLIENT FORWARD={SECRET}\r\nUSER tim\r\nQUIT\r\n").as_bytes());
    let expected = "+OK [XCLIENT] +OK ready\r\n+OK\r\nUSER\r\n.\r\n-ERR STLS is not available here\r\n-ERR not available here\r\n+OK\r\n+OK\r\n";
    assert_eq!(client.rest(), expected);
    assert_eq!(server.heard(), b"CAPA\r\nUSER tim\r\nQUIT\r\n");
    poptap.stop();
}

#[test]
fn the_wrong_kind_of_port_is_told_to_the_client_and_what_to_do_to_the_log() {
    let refusing = |mut stream: TcpStream| {
        stream.write_all(b"+OK ready\r\n").unwrap();
        read_line(&mut stream);
        stream.write_all(b"-ERR unknown\r\n").unwrap();
        listen(stream)
    };
    let injecting = |mut stream: TcpStream| {
        stream.write_all(b"+OK ready\r\n").unwrap();
        read_line(&mut stream);
        stream.write_all(b"+OK go\r\n+OK injected\r\n").unwrap();
        listen(stream)
    };
    for (scheme, script, line, log) in [
        ("pop3s", converse as fn(TcpStream) -> Vec<u8>, "[SYS/PERM] cannot start TLS", "use `pop3://` (no TLS)"),
        ("pop3+stls", refusing, "[SYS/PERM] cannot start TLS", "use `pop3s://`"),
        ("pop3+stls", injecting, "[SYS/PERM] cannot start TLS", "interfering"),
        ("pop3+stls", listen, "[SYS/TEMP] cannot read the greeting", "use `pop3s://`"),
        ("pop3", listen, "[SYS/TEMP] cannot read the greeting", "use `pop3s://`"),
        ("pop3s", listen, "[SYS/TEMP] cannot start TLS", "995"),
    ] {
        let server = Server::once(script);
        let limit = if scheme == "pop3s" { limits("handshake") } else { limits("greeting") };
        let poptap = Poptap::start(&limit, &["--upstream", &server.url(scheme)]);
        let mut client = poptap.connect();
        client.say(format!("PASS {SECRET}\r\n").as_bytes());
        let told = client.rest();
        assert!(told.starts_with(&format!("-ERR {line}")) && told.matches("\r\n").count() == 1, "{scheme}: {told}");
        let heard = server.heard();
        let secret = SECRET.as_bytes();
        assert!(scheme == "pop3" || !heard.windows(secret.len()).any(|window| window == secret), "{scheme}");
        let left = poptap.stop();
        let warned = left.log.lines().any(|line| line.contains("WARN") && line.contains(log));
        assert!(warned, "{scheme}: {log} in\n{}", left.log);
    }
}

// ── certificates ──

/// A server's TLS with a certificate for `name`, and the folder with its authority's `ca.pem`.
fn certified(name: &str, validity: Validity) -> (Arc<ServerConfig>, TempDir) {
    let authority = Authority::new("Test CA").unwrap();
    let issued = authority.issue(&[name], validity).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
    (server_config(issued.chain, issued.key).unwrap(), folder)
}

fn over_tls(server: &Server, folder: &TempDir) -> Poptap {
    let ca = folder.path().join("ca.pem");
    Poptap::start("", &["--upstream", &server.url("pop3s"), "--upstream-ca", ca.to_str().unwrap()])
}

#[test]
fn a_certificate_that_will_not_do_is_described() {
    let today = OffsetDateTime::now_utc();
    let past = Validity { from: today - Duration::days(20), to: today - Duration::days(10) };
    for (name, validity, trusted, cause) in [
        ("127.0.0.1", past, None, "expired"),
        ("pop.example.net", Validity::days(1), None, "is not for `127.0.0.1`"),
        ("127.0.0.1", Validity::days(1), Some("Another CA"), "who is not trusted"),
        ("127.0.0.1", Validity::days(1), Some("Test CA"), "that one did not sign it"),
    ] {
        let (config, mut folder) = certified(name, validity);
        if let Some(trusted) = trusted {
            folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("ca.pem"), Authority::new(trusted).unwrap().pem()).unwrap();
        }
        let server = Server::once(move |stream| converse(tls(stream, &config)));
        let poptap = over_tls(&server, &folder);
        let mut client = poptap.connect();
        client.say(format!("PASS {SECRET}\r\n").as_bytes());
        let told = client.rest();
        assert!(told.starts_with("-ERR [SYS/PERM] cannot start TLS") && told.contains(cause), "{told}");
        assert_eq!(server.heard(), b"");
        let left = poptap.stop();
        for expected in [cause, "subject `", "issuer `CN=Test CA`", "valid from ", "hint: "] {
            assert!(left.log.contains(expected), "{expected} in\n{}", left.log);
        }
    }
}

// ── floods ──

/// Writes and reads at once; returns how much was read.
fn flood(stream: TcpStream, line: &[u8], times: usize) -> usize {
    let mut reader = stream.try_clone().unwrap();
    let reading = thread::spawn(move || rest(&mut reader).0.len());
    let mut writer = stream;
    for _ in 0..times {
        writer.write_all(line).unwrap();
    }
    writer.shutdown(Shutdown::Write).unwrap();
    reading.join().unwrap()
}

/// A small buffer makes the peer's writes wait for our reads. (The receiving one can't be made smaller once it is announced.)
fn narrow(stream: &TcpStream) {
    SockRef::from(stream).set_send_buffer_size(8 * 1024).unwrap();
}

#[test]
fn both_sides_flood_at_once_and_everything_arrives() {
    let reply = [&b"+OK "[..], &[b'r'; 2000], b"\r\n"].concat();
    let count = 3000;
    let (server, poptap) = {
        let reply = reply.clone();
        plain(move |mut stream| {
            narrow(&stream);
            stream.write_all(b"+OK ready\r\n").unwrap();
            flood(stream, &reply, count).to_string().into_bytes()
        })
    };
    let client = poptap.connect();
    narrow(&client.0);
    let command = [&b"NOOP "[..], &[b'c'; 200], b"\r\n"].concat();
    assert_eq!(flood(client.0, &command, count), b"+OK ready\r\n".len() + count * reply.len());
    assert_eq!(server.heard(), (count * command.len()).to_string().into_bytes());
    poptap.stop();
}

#[test]
fn both_sides_flood_over_tls_and_everything_arrives() {
    let (config, folder) = certified("127.0.0.1", Validity::days(1));
    let reply = [&b"+OK "[..], &[b'r'; 2000], b"\r\n"].concat();
    let (count, line) = (3000, reply.clone());
    let server = Server::once(move |stream| {
        narrow(&stream);
        // It answers each line before it reads the next one, as servers do.
        let mut stream = tls(stream, &config);
        stream.write_all(b"+OK ready\r\n").unwrap();
        let mut commands = std::io::BufReader::new(stream);
        for _ in 0..count {
            read_line(&mut commands).unwrap();
            commands.get_mut().write_all(&line).unwrap();
        }
        commands.get_mut().flush().unwrap();
        listen(commands)
    });
    let poptap = over_tls(&server, &folder);
    let client = poptap.connect();
    narrow(&client.0);
    let command = [&b"NOOP "[..], &[b'c'; 200], b"\r\n"].concat();
    let stream = client.0;
    let mut reader = stream.try_clone().unwrap();
    let expected = b"+OK ready\r\n".len() + count * reply.len();
    let writing = thread::spawn(move || (0..count).try_for_each(|_| (&stream).write_all(&command)).map(|()| stream));
    let mut all = vec![0; expected];
    reader.read_exact(&mut all).unwrap();
    drop(writing.join().unwrap().unwrap());
    drop(reader);
    assert_eq!(server.heard(), b"");
    poptap.stop();
}

#[test]
fn lines_without_end_pass_in_bounded_memory() {
    let endless = vec![b'x'; 10 * 1024 * 1024];
    let nuls = vec![0; 10 * 1024 * 1024];
    for (greeting, said, answered) in [
        (&b""[..], &b""[..], &endless),
        (b"+OK ready\r\n", b"NOOP\r\n", &endless),
        (b"+OK ready\r\n", b"NOOP\r\n", &nuls),
        (b"+OK ready\r\n", &endless, &Vec::new()),
        (b"+OK ready\r\n+OK\r\n", b"CAPA\r\n", &endless),
    ] {
        let (greeting, answer, length) = (greeting.to_vec(), answered.clone(), said.len());
        let server = Server::once(move |mut stream| {
            stream.write_all(&greeting).unwrap();
            stream.read_exact(&mut vec![0; length]).unwrap();
            stream.write_all(&answer).unwrap();
            end(stream);
            Vec::new()
        });
        let poptap = Poptap::start("", &["--upstream", &server.url("pop3"), "--stls", "refuse"]);
        let mut client = poptap.connect();
        client.say(said);
        let heard = rest(&mut client.0).0;
        assert!(heard.ends_with(answered) && heard.len() < answered.len() + 30);
        drop(client);
        server.heard();
        assert!(poptap.peak_memory() < 64 * 1024, "{} KiB", poptap.peak_memory());
        poptap.stop();
    }
}

/// A stream that is written one octet at a time.
struct Dribble(TcpStream);

impl Read for Dribble {
    fn read(&mut self, space: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(space)
    }
}

impl Write for Dribble {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        self.0.write(&octets[..octets.len().min(1)])
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn one_octet_per_segment_changes_nothing() {
    let (server, poptap) = plain(|stream| converse(Dribble(stream)));
    let client = poptap.connect();
    let said = format!("USER tim\r\npass {SECRET}\r\nRETR 1\r\nQUIT\r\n");
    Dribble(client.0.try_clone().unwrap()).write_all(said.as_bytes()).unwrap();
    let expected = [b"+OK ready\r\n+OK\r\n+OK\r\n", MESSAGE, b"+OK\r\n"].concat();
    assert_eq!(client.rest().as_bytes(), expected);
    assert_eq!(server.heard(), said.as_bytes());
    assert_eq!(poptap.stop().verdict(), "complete: 1 message, 24 octets");
}
