//! `replay` inside TLS, and with transcripts and clients that mean no good.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr},
    process::{Child, ChildStderr, Stdio},
};

use tempfile::TempDir;

use crate::support::{
    outside::{Client, command, run},
    secure::{Papers, Secure},
};

/// A store with one session, made by hand.
struct Store {
    folder: TempDir,
    papers: Papers,
}

impl Store {
    /// Of records that need their bodies only; each is a millisecond later.
    fn of(bodies: &[&str]) -> Self {
        let folder = TempDir::with_prefix("poptap-it-").unwrap();
        let opened = r#""event":"opened","client":"192.0.2.7:50312","listener":"192.0.2.1:1110","upstream":"pop3://192.0.2.9""#;
        let mut text = String::new();
        for (at, body) in std::iter::once(&opened).chain(bodies).enumerate() {
            let head = r#"{"v":1,"session":"s1","time":"2026-11-23T06:30:00.000000Z","at_us":"#;
            writeln!(text, "{head}{},{body}}}", at * 1000).unwrap();
        }
        std::fs::write(folder.path().join("events-20261123T063000Z-100-1.jsonl"), text).unwrap();
        Self { folder, papers: Papers::new() }
    }

    fn replay(&self, arguments: &[&str]) -> Replay {
        let mut replay = command(self.folder.path());
        replay.args(["replay", "-v", "--as-server", "s1", "--transcript"]).arg(self.folder.path()).args(arguments);
        if !arguments.contains(&"--listen") {
            replay.args(["--listen", "0"]);
        }
        let mut child = replay.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        let listen = line.split_once("listening on ").unwrap_or_else(|| panic!("{line}")).1.trim().to_owned();
        let address = listen.rsplit('/').next().unwrap().parse().unwrap();
        Replay { child, log, listen, address }
    }

    fn with_certificate(&self, listen: &str) -> Replay {
        let (cert, key) = (self.papers.path("cert.pem"), self.papers.path("key.pem"));
        self.replay(&["--listen", listen, "--cert", &cert, "--key", &key, "--timing", "fast"])
    }
}

/// A running `poptap replay`; killed when it is dropped.
struct Replay {
    child: Child,
    log: BufReader<ChildStderr>,
    listen: String,
    address: SocketAddr,
}

impl Replay {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.log.read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        // It may have ended, and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const GREETING: &str = r#""event":"greeting","status":"+OK","text":"+OK ready","octets":11,"offset":0"#;
const IMPLICIT: &str = r#""event":"tls","hop":"client","mode":"implicit","version":"TLSv1.3","cipher":"x""#;
const STLS: &str = r#""event":"command","n":1,"keyword":"STLS","text":"STLS","octets":6,"offset":0,"forwarded":false"#;
const BEGIN: &str = r#""event":"reply","n":1,"keyword":"STLS","status":"+OK","text":"+OK begin","octets":11,"offset":0,"latency_us":1,"local":true"#;
const STAT: &str = r#""event":"command","n":2,"keyword":"STAT","text":"STAT","octets":6,"offset":0,"forwarded":true"#;
const FOUND: &str =
    r#""event":"reply","n":2,"keyword":"STAT","status":"+OK","text":"+OK 2 200","octets":11,"offset":0,"latency_us":1"#;

fn stls() -> Store {
    Store::of(&[GREETING, STLS, BEGIN, STAT, FOUND])
}

#[test]
fn tls_from_the_first_octet_is_played_where_there_is_a_certificate() {
    let store = Store::of(&[IMPLICIT, GREETING, STAT, FOUND]);
    for listen in ["0", "pop3s://127.0.0.1:0"] {
        let replay = store.with_certificate(listen);
        assert_eq!(replay.listen, format!("pop3s://{}", replay.address));
        let mut client = Secure::over(Client::to(replay.address).0, &store.papers.trust).unwrap();
        assert_eq!([client.line(), client.ask("STAT")], ["+OK ready\r\n", "+OK 2 200\r\n"]);
        assert_eq!(client.ask("STLS"), "-ERR TLS stands already\r\n");
    }
    let mut replay = store.replay(&[]);
    assert!(replay.line().starts_with("the session was inside TLS: it is played in clear"));
    assert_eq!(Client::to(replay.address).line(), "+OK ready\r\n");
}

#[test]
fn stls_is_played_and_what_comes_before_tls_never_counts_inside() {
    let store = stls();
    let replay = store.with_certificate("0");
    assert_eq!(replay.listen, format!("pop3+stls://{}", replay.address));
    let mut client = Client::to(replay.address);
    assert_eq!([client.line(), client.ask("CAPA")], ["+OK ready\r\n", "+OK not in this recording\r\n"]);
    assert_eq!(client.body(), ["USER", "STLS"]);
    assert_eq!(client.ask("STLS"), "+OK begin\r\n");
    let mut client = Secure::over(client.0, &store.papers.trust).unwrap();
    assert_eq!(client.ask("CAPA"), "+OK not in this recording\r\n");
    assert_eq!([client.line(), client.line()], ["USER\r\n", ".\r\n"]);
    assert_eq!([client.ask("STAT"), client.ask("STLS")], ["+OK 2 200\r\n", "-ERR TLS stands already\r\n"]);

    let mut pipelined = Client::to(replay.address);
    pipelined.line();
    let refused = "-ERR nothing may be sent between STLS and TLS\r\n";
    assert_eq!(
        {
            pipelined.say(b"STLS\r\nSTAT\r\nQUIT\r\n");
            pipelined.rest()
        },
        refused
    );
    let mut late = Client::to(replay.address);
    late.line();
    assert_eq!(late.ask("STLS"), "+OK begin\r\n");
    assert_eq!(
        {
            late.say(b"STAT\r\n");
            late.last()
        },
        b""
    );

    let replay = store.replay(&["--timing", "fast"]);
    let mut client = Client::to(replay.address);
    assert_eq!(
        [client.line(), client.ask("STLS"), client.ask("STAT")],
        ["+OK ready\r\n", "-ERR TLS is not replayed\r\n", "+OK 2 200\r\n"]
    );
}

#[test]
fn no_handshake_that_fails_ends_a_replay() {
    let store = stls();
    for listen in ["pop3s://0", "pop3+stls://0"] {
        let replay = store.with_certificate(listen);
        for garbage in [&b"\x16\x03\x01\x00\x05hello"[..], b"GET / HTTP/1.0\r\n\r\n", b"\x80\x2e\x01", b"\x16", b""] {
            let begin = |client: &mut Client| {
                if listen.contains("stls") {
                    assert_eq!([client.line(), client.ask("STLS")], ["+OK ready\r\n", "+OK begin\r\n"]);
                }
            };
            let mut half = Client::to(replay.address);
            begin(&mut half);
            // It may be closed before all has gone.
            let _ = half.0.write_all(garbage);
            let _ = half.0.shutdown(Shutdown::Write);
            half.last();
            let mut gone = Client::to(replay.address);
            begin(&mut gone);
            let _ = gone.0.write_all(garbage);
            gone.reset();
        }
        let mut client = Client::to(replay.address);
        if listen.contains("stls") {
            client.line();
            client.ask("STLS");
        }
        let mut client = Secure::over(client.0, &store.papers.trust).unwrap();
        assert!(
            {
                client.say(b"STAT\r\nQUIT\r\n");
                client.rest()
            }
            .0
            .contains("+OK 2 200\r\n")
        );
    }
}

#[test]
fn a_certificate_is_made_on_demand_and_nothing_is_overwritten() {
    let store = stls();
    let place = store.folder.path().join("made.pem");
    let place = place.to_str().unwrap();
    let replay = store.replay(&["--listen", "pop3s://0", "--self-signed", place]);
    let pem = std::fs::read_to_string(place).unwrap();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----") && !pem.contains("KEY"), "{pem}");
    drop(replay);
    for (more, code, said) in [
        (&["--listen", "pop3s://0"][..], 64, "cannot replay over TLS without a certificate"),
        (&["--listen", "0", "--self-signed", place], 73, "no file is overwritten"),
        (&["--listen", "0", "--cert", "/nonexistent.pem"], 78, "/nonexistent.pem"),
        (&["--listen", "0", "--cert", place, "--self-signed"], 64, "--self-signed"),
    ] {
        let mut replay = command(store.folder.path());
        replay.args(["replay", "--as-server", "s1", "--transcript"]).arg(store.folder.path());
        let output = run(replay.args(more));
        let all = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(code) && all.contains(said), "{more:?}: {}\n{all}", output.status);
    }
}

#[test]
fn xtnd_xmit_and_lines_of_the_servers_own_accord_are_played() {
    let store = Store::of(&[
        GREETING,
        r#""event":"unsolicited","status":"?","text":"* hello","octets":9,"offset":0"#,
        r#""event":"command","n":1,"keyword":"XTND","text":"XTND XMIT","octets":11,"offset":0,"forwarded":true"#,
        r#""event":"reply","n":1,"keyword":"XTND","status":"+OK","text":"+OK go","octets":8,"offset":0,"latency_us":1"#,
        r#""event":"client-data","n":1,"octets":20,"complete":true"#,
        r#""event":"reply","n":1,"keyword":"XTND","status":"+OK","text":"+OK sent","octets":10,"offset":0,"latency_us":1"#,
        STAT,
        FOUND,
        r#""event":"unsolicited","status":"-ERR","text":"-ERR idle","octets":11,"offset":0"#,
        r#""event":"closed","by":"upstream","reason":"eof","client_octets":1,"upstream_octets":1,"client_undelivered":0,"upstream_undelivered":0"#,
    ]);
    for timing in ["fast", "recorded"] {
        let replay = store.replay(&["--timing", timing]);
        let mut client = Client::to(replay.address);
        assert_eq!([client.line(), client.line()], ["+OK ready\r\n", "* hello\r\n"]);
        assert_eq!(client.ask("XTND XMIT"), "+OK go\r\n");
        client.say(b"From: x\r\n\r\n..\r\nQUIT\r\n");
        assert_eq!(client.ask("."), "+OK sent\r\n");
        assert_eq!(
            {
                client.say(b"STAT\r\n");
                client.rest()
            },
            "+OK 2 200\r\n-ERR idle\r\n"
        );
        let mut pipelined = Client::to(replay.address);
        let all = pipelined.say(b"XTND XMIT\r\nbody\r\n.\r\nSTAT\r\nQUIT\r\n").0.shutdown(Shutdown::Write);
        assert!(all.is_ok());
        assert_eq!(pipelined.rest(), "+OK ready\r\n* hello\r\n+OK go\r\n+OK sent\r\n+OK 2 200\r\n-ERR idle\r\n");
    }
}

#[test]
fn a_forged_record_makes_nobody_wait_or_run_out_of_memory() {
    let huge = 1_u64 << 60;
    let body = |n: u64, keyword: &str| {
        format!(
            r#""event":"content","n":{n},"keyword":"{keyword}","octets":{huge},"size":{huge},"lines":{huge},"complete":true,"total_us":{max},"policy":"full","kept":[{{"file":"content-x.bin","offset":{huge},"length":{huge}}}]"#,
            max = u64::MAX
        )
    };
    let asked = |n: u64, text: &str| {
        let keyword = text.split(' ').next().unwrap();
        format!(
            r#""event":"command","n":{n},"keyword":"{keyword}","text":"{text}","octets":{huge},"offset":{huge},"forwarded":true"#
        )
    };
    let cut = |n: u64, keyword: &str| {
        format!(
            r#""event":"reply","n":{n},"keyword":"{keyword}","status":"+OK","text":"+OK x","cut":true,"octets":{huge},"offset":{huge},"latency_us":{max},"multi_line":true"#,
            max = u64::MAX
        )
    };
    let data = format!(r#""event":"client-data","n":77,"octets":{huge},"complete":false"#);
    let bodies = [
        body(9, "RETR"),
        GREETING.to_owned(),
        asked(1, "RETR 1"),
        cut(1, "RETR"),
        body(1, "RETR"),
        body(1, "LIST"),
        body(1, "RETR"),
        data,
        asked(2, "UIDL"),
        cut(2, "UIDL"),
        body(2, "UIDL"),
        asked(2, "NOOP"),
        cut(2, "NOOP"),
        r#""event":"unsolicited","status":"?","octets":0,"offset":0,"cut":true"#.to_owned(),
    ];
    let bodies: Vec<_> = bodies.iter().map(String::as_str).collect();
    let store = Store::of(&bodies);
    let replay = store.replay(&["--max-octets", "100kB", "--max-delay", "10ms"]);
    let mut gone = Client::to(replay.address);
    gone.say(&b"RETR 1\r\nUIDL\r\n".repeat(50));
    gone.reset();
    let mut client = Client::to(replay.address);
    let got = {
        client.say(b"RETR 1\r\nQUIT\r\n");
        client.rest()
    };
    assert!(got.len() < 300_000 && got.ends_with("\r\n.\r\n+OK not in this recording, but goodbye\r\n"), "{}", got.len());

    let place = store.folder.path().join("x.pcapng");
    let mut export = command(store.folder.path());
    export.args(["sessions", "export", "s1", "--format", "pcapng", "--max-octets", "100kB", "--transcript"]);
    let output = run(export.arg(store.folder.path()).arg("--output").arg(&place));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("more not kept, and left out: that would be more filler"), "{said}");
    assert!(std::fs::metadata(&place).unwrap().len() < 300_000);
}

#[test]
fn the_log_of_a_replay_says_what_was_not_made_up() {
    let message = r#""event":"content","n":1,"keyword":"RETR","octets":5003,"size":5000,"lines":50,"complete":true,"total_us":1,"policy":"none""#;
    let asked = r#""event":"command","n":1,"keyword":"RETR","text":"RETR 1","octets":8,"offset":0,"forwarded":true"#;
    let reply = r#""event":"reply","n":1,"keyword":"RETR","status":"+OK","text":"+OK","octets":5,"offset":0,"latency_us":1,"multi_line":true"#;
    let store = Store::of(&[GREETING, asked, reply, message]);
    let mut replay = store.replay(&["--max-octets", "1kB", "--once"]);
    let mut client = Client::to(replay.address);
    client.say(b"RETR 1\r\nQUIT\r\n");
    client.last();
    let mut log = String::new();
    replay.log.read_to_string(&mut log).unwrap();
    assert!(log.contains("client 1: 4000 octets of the message were not made up: see --max-octets\n"), "{log}");
}
