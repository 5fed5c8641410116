//! `run --metrics`: the counts for a monitoring system, asked for over a bare socket.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::SocketAddr,
};

use poptap::cli::Cli;
use regex::Regex;
use rustix::process::Signal;

use crate::support::{
    http::{Answer, get},
    outside::{Client, Poptap, SECRET, Server, command, converse, read_line, run},
    secure::{Papers, Secure},
};

/// poptap with counts, and where they are.
fn counted(configuration: &str, url: &str, more: &[&str]) -> (Poptap, SocketAddr) {
    let arguments = [&["--upstream", url, "--metrics", "127.0.0.1:0"], more].concat();
    let mut poptap = Poptap::start(configuration, &arguments);
    let line = poptap.log_line("metrics are served at ");
    let (_, rest) = line.split_once("http://").unwrap();
    (poptap, rest.split('/').next().unwrap().parse().unwrap())
}

/// The samples of the page, by name and labels.
fn samples(address: SocketAddr) -> BTreeMap<String, String> {
    let Answer { status, body, head } = get(address, "/metrics", &[]);
    assert_eq!(status, 200, "{body}");
    assert!(head.to_lowercase().contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    let lines = body.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').unwrap()).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The samples once this one has this value: a session adds what it has counted a moment after its client has heard it.
fn once(address: SocketAddr, name: &str, value: &str) -> BTreeMap<String, String> {
    let mut asked = std::iter::repeat_with(|| samples(address)).take(5000);
    asked.find(|found| found[name] == value).unwrap_or_else(|| panic!("{name} never becomes {value}: {:#?}", samples(address)))
}

/// The samples once no session is left.
fn at_rest(address: SocketAddr) -> BTreeMap<String, String> {
    once(address, "poptap_sessions_active", "0")
}

#[test]
fn a_session_is_counted() {
    let server = Server::once(converse);
    let (poptap, address) = counted("", &server.url("pop3"), &[]);
    let mut client = poptap.connect();
    client.log_in();
    for line in ["XYZZ 1", "xyzz <script>", "STAT"] {
        assert_eq!(client.ask(line), "+OK\r\n");
    }
    client.say(b"RETR 1\r\n");
    client.line();
    client.body();
    let found = once(address, r#"poptap_commands_total{verb="RETR",status="+OK"}"#, "1");
    for (name, value) in [
        ("poptap_sessions_opened_total", "1"),
        ("poptap_sessions_active", "1"),
        (r#"poptap_commands_total{verb="USER",status="+OK"}"#, "1"),
        (r#"poptap_commands_total{verb="PASS",status="+OK"}"#, "1"),
        (r#"poptap_commands_total{verb="RETR",status="+OK"}"#, "1"),
        (r#"poptap_commands_total{verb="RETR",status="-ERR"}"#, "0"),
        (r#"poptap_commands_total{verb="other",status="+OK"}"#, "2"),
        ("poptap_reply_latency_seconds_count", "6"),
        (r#"poptap_reply_latency_seconds_bucket{le="+Inf"}"#, "6"),
        ("poptap_login_failures_total", "0"),
        ("poptap_transcript_failing", "0"),
        (r#"poptap_transcript_lost_records_total{what="events"}"#, "0"),
    ] {
        assert_eq!(found.get(name).map(String::as_str), Some(value), "{name} in {found:#?}");
    }
    assert_ne!(found["poptap_transcript_buffer_octets"], "0");
    let labels: Vec<_> = found.keys().filter(|name| name.to_lowercase().contains("xyzz") || name.contains("<script")).collect();
    assert!(labels.is_empty(), "{labels:?}");
    client.ask("QUIT");
    client.rest();
    let heard = server.heard();
    let found = at_rest(address);
    assert_eq!(found[r#"poptap_sessions_ended_total{outcome="quit"}"#], "1");
    assert_eq!(found[r#"poptap_octets_total{from="client"}"#], heard.len().to_string());
    let left = poptap.stop();
    assert_eq!(found[r#"poptap_octets_total{from="upstream"}"#], left.session()["upstream_octets"].to_string());
    assert_eq!(found[r#"poptap_sessions_tls_total{hop="client",version="none"}"#], "1");
    assert_eq!(found[r#"poptap_sessions_tls_total{hop="upstream",version="none"}"#], "1");
}

#[test]
fn refused_logins_and_other_ends_are_counted() {
    let server = Server::once(|mut stream| {
        stream.write_all(b"+OK\r\n").unwrap();
        for reply in ["+OK\r\n", "-ERR [AUTH] no\r\n"] {
            read_line(&mut stream);
            stream.write_all(reply.as_bytes()).unwrap();
        }
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        rest
    });
    let (poptap, address) = counted("", &server.url("pop3"), &[]);
    let mut client = poptap.connect();
    client.line();
    client.ask("USER tim");
    assert!(client.ask(&format!("PASS {SECRET}")).starts_with("-ERR"));
    client.reset();
    let ended = r#"poptap_sessions_ended_total{outcome="reset"}"#;
    let found = at_rest(address);
    assert_eq!((&*found[ended], &*found["poptap_login_failures_total"]), ("1", "1"), "{found:#?}");
    assert_eq!(found[r#"poptap_commands_total{verb="PASS",status="-ERR"}"#], "1");
}

#[test]
fn certificates_are_counted_down_and_versions_of_tls_are_counted() {
    let server = Server::once(converse);
    let papers = Papers::new();
    let (cert, key) = (papers.path("cert.pem"), papers.path("key.pem"));
    let more = ["--listen", "pop3s://127.0.0.1:0", "--cert", &cert, "--key", &key];
    let (poptap, address) = counted("", &server.url("pop3"), &more);
    let mut client = Secure::over(poptap.connect().0, &papers.trust).unwrap();
    assert_eq!(client.line(), "+OK ready\r\n");
    assert_eq!(client.ask("QUIT"), "+OK\r\n");
    client.rest();
    let found = at_rest(address);
    assert_eq!(found[r#"poptap_sessions_tls_total{hop="client",version="TLSv1.3"}"#], "1", "{found:#?}");
    let days: i64 = found[&format!(r#"poptap_certificate_days_left{{file="{cert}"}}"#)].parse().unwrap();
    assert!((0..=40).contains(&days), "{days}");
}

#[test]
fn it_is_ready_until_it_drains() {
    let server = Server::once(converse);
    let (mut poptap, address) = counted("", &server.url("pop3"), &[]);
    assert_eq!(get(address, "/healthz", &[]).status, 200);
    let ready = get(address, "/readyz", &[]);
    assert_eq!((ready.status, &*ready.body), (200, "ready\n"));
    let mut client = poptap.connect();
    client.log_in();
    poptap.signal(Signal::TERM);
    poptap.log_line("waiting for sessions to finish");
    let draining = get(address, "/readyz", &[]);
    assert!(draining.status == 503 && draining.body.contains("draining"), "{}", draining.body);
    assert_eq!(get(address, "/healthz", &[]).status, 200, "it lives, and is asked to the last");
    assert_eq!(samples(address)["poptap_sessions_active"], "1");
    client.ask("QUIT");
    client.rest();
    assert!(poptap.wait().status.success());
}

#[test]
fn nothing_else_is_there() {
    let (_poptap, address) = counted("", "pop3://127.0.0.1:1", &[]);
    for path in ["/", "/api/events", "/api/session/x", "/metrics/../api/events", "/metricsx"] {
        assert_eq!(get(address, path, &[]).status, 404, "{path}");
    }
    let mut client = Client::to(address);
    client.say(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    assert!(client.line().contains(" 405 "));
}

/// A peer that stays silent, one that sends a head without end, and one that speaks something else do not keep others waiting.
#[test]
fn strange_peers_are_borne() {
    let (_poptap, address) = counted("", "pop3://127.0.0.1:1", &[]);
    let _silent: Vec<_> = (0..10).map(|_| Client::to(address)).collect();
    let mut endless = Client::to(address);
    // The other side may have had enough of it already.
    let _ = endless.0.write_all(&[b"GET / HTTP/1.1\r\n".to_vec(), b"X: y\r\n".repeat(10_000)].concat());
    let mut garbage = Client::to(address);
    garbage.say(b"USER tim\r\n\r\n");
    let said = String::from_utf8_lossy(&garbage.last()).into_owned();
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 400"), "{said}");
    assert_eq!(get(address, "/healthz", &[]).status, 200);
}

#[test]
fn the_flag_and_the_file_say_who_may_ask() {
    use clap::Parser as _;
    assert!(Cli::try_parse_from(["poptap", "run", "pop3://mail", "--metrics", "pop3s://:1"]).is_err());
    let folder = tempfile::tempdir().unwrap();
    for (settings, arguments, said) in [
        ("[metrics]\nlisten = \":0\"\n", &[][..], "would be there for everybody"),
        ("", &["--metrics", ":0"], "would be there for everybody"),
        ("[metrics]\nlisten = \":0\"\nallow_from = [\"192.0.2.0/24\"]\n", &[], ""),
        ("", &["--metrics", ":0", "--metrics-allow-from", "any"], ""),
    ] {
        let file = folder.path().join("poptap.toml");
        std::fs::write(&file, settings).unwrap();
        let mut check = command(folder.path());
        check.args(["check", "pop3://192.0.2.1", "--no-transcript", "--config"]).arg(&file).args(arguments);
        let checked = run(&mut check);
        let told = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(checked.status.success() == said.is_empty() && told.contains(said), "{settings} {arguments:?}: {told}");
    }
}

/// What is described is there, and what is there is described.
#[test]
fn every_metric_is_described() {
    let (_poptap, address) = counted("", "pop3://127.0.0.1:1", &[]);
    let page = get(address, "/metrics", &[]).body;
    let page_names: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let described = include_str!("../../docs/metrics.md");
    for name in &page_names {
        assert!(described.contains(&format!("`{name}")), "docs/metrics.md does not name {name}");
    }
    for found in Regex::new("`(poptap_[a-z_]+)").unwrap().captures_iter(described) {
        let known = page_names.iter().any(|name| found[1].trim_end_matches("_total").trim_end_matches("_info") == *name);
        assert!(known || &found[1] == "poptap_certificate_days_left", "{} is not on the page", &found[1]);
    }
}
