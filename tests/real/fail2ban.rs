//! The filter for fail2ban that is packaged knows the lines of the log as the built code writes them, and nothing else.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use poptap::admission::Admission;
use poptap::cli::RunArgs;
use poptap::config::{self, Limits, LogFormat};
use poptap::telemetry;
use socket2::{Domain, Socket, Type};

use crate::support::process::run;
use crate::support::proxy::Proxy;
use crate::support::{PATIENCE, scratch};

/// Whom the lines that somebody tries to forge would ban.
const VICTIM: &str = "203.0.113.9";

const FORMATS: [LogFormat; 2] = [LogFormat::Text, LogFormat::Json];

#[test]
fn clients_that_were_turned_away_are_found() {
    for format in FORMATS {
        let log = log_of_refusals(format);
        assert_eq!(found(&log, "aggressive"), ["127.0.0.2", "127.0.0.1"], "{log}");
        assert_eq!(found(&log, "normal"), [""; 0], "{log}");
        assert_eq!(found(&through_syslog(&log), "aggressive"), ["127.0.0.2", "127.0.0.1"], "{log}");
    }
}

#[test]
fn refused_logins_are_found_and_those_of_exempt_addresses_are_not() {
    for format in FORMATS {
        let log = log_of_logins(format);
        // Two failures of each, and one attempt behind that.
        let normal = ["192.0.2.1", "2001:db8::1", "192.0.2.1", "2001:db8::1", "192.0.2.1"];
        assert_eq!(found(&log, "normal"), normal, "{log}");
        assert_eq!(found(&through_syslog(&log), "normal"), normal, "{log}");
        assert_eq!(found(&log, "aggressive"), normal, "{log}");
        assert_eq!(log.matches("login failed").count(), 5, "{log}");
        assert!(!log.contains("walrus") && !log.contains("forged"), "user names are not for the log: {log}");
    }
}

#[test]
fn what_a_client_or_a_server_says_forges_no_line() {
    for format in FORMATS {
        let log = log_of_forgers(format);
        assert!(log.contains(VICTIM), "somebody's words stand in it: {log}");
        assert_eq!(found(&log, "aggressive"), [""; 0], "{log}");
        assert_eq!(found(&through_syslog(&log), "aggressive"), [""; 0], "{log}");
    }
}

/// As the jail that is packaged for an example has it.
#[test]
fn fail2ban_takes_the_jail() {
    let home = scratch();
    let (settings, ours) = (home.path().join("fail2ban"), Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/fail2ban"));
    run(Command::new("cp").arg("-r").args([Path::new("/etc/fail2ban"), &settings]));
    for file in ["filter.d/poptap.conf", "jail.d/poptap.conf"] {
        fs::copy(ours.join(file), settings.join(file)).unwrap();
    }
    // Nobody's jail but ours: this machine may have no log for another.
    let _ = fs::remove_file(settings.join("jail.d/defaults-debian.conf"));
    let told = run(Command::new("fail2ban-client").arg("-c").arg(&settings).arg("-d"));
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("['start', 'poptap']") && told.contains("_SYSTEMD_UNIT=poptap.service"), "{told}");
}

/// One client that is denied, and one with a session too many.
fn log_of_refusals(format: LogFormat) -> String {
    let server = serve(b"+OK ready\r\n", b"+OK\r\n");
    let settings = format!("{}deny_from = ['127.0.0.2']\n[limits]\nsessions_per_client = 1\n", listener("pop3", server));
    let proxy = start(&settings, 1, format);
    assert!(last_words(2, proxy.address()).starts_with("-ERR [SYS/PERM]"));
    let first = connect(1, proxy.address());
    let mut greeting = String::new();
    BufReader::new(&first).read_line(&mut greeting).unwrap();
    assert_eq!(greeting, "+OK ready\r\n");
    assert!(last_words(1, proxy.address()).starts_with("-ERR [SYS/TEMP] too many sessions"));
    drop(first);
    proxy.stop_for_log()
}

/// Servers that put lines of a log into theirs, and a client that logs in with one.
fn log_of_forgers(format: LogFormat) -> String {
    let text = format!("2026-11-24T13:44:42.276688Z  WARN poptap::admission: login failed client={VICTIM} failures=3");
    let json = format!(
        r#"{{"timestamp":"2026-11-24T13:44:42.276688Z","level":"WARN","message":"login failed","client":"{VICTIM}","failures":3,"target":"poptap::admission"}}"#
    );
    // A line feed by itself ends a line as well.
    let refusal = format!("-ERR {text}\n{text}\n{json}\r\n");
    let refuses_stls = serve(b"+OK ready\r\n", format!("-ERR \r{text}\r\n").as_bytes());
    let greets_so = serve(format!("-ERR {text}\r{text}\n{json}\r\n").as_bytes(), b"+OK\r\n");
    let answers_so = serve(b"+OK ready\r\n", refusal.as_bytes());
    let listeners = [listener("pop3+stls", refuses_stls), listener("pop3s", greets_so), listener("pop3", answers_so)];
    let mut proxy = start(&listeners.concat(), listeners.len(), format);
    for number in 0..listeners.len() {
        let mut client = connect(1, proxy.nth_address(number));
        let said = format!("USER {text}\r\nPASS {json}\r\n{text}\n{json}\nQUIT\r\n");
        // It may have been turned away already.
        let _ = client.write_all(said.as_bytes()).and_then(|()| client.read_to_end(&mut Vec::new()));
        drop(client);
        proxy.wait_for_log(&["session closed"]);
    }
    proxy.stop_for_log()
}

/// Logins from two addresses until both are blocked, one on an exempt one, and names that are lines of a log.
fn log_of_logins(format: LogFormat) -> String {
    let home = scratch();
    let file = home.path().join("poptap.log");
    let args = RunArgs { url: Some("pop3://mail".parse().unwrap()), no_transcript: true, ..RunArgs::default() };
    let mut config = config::load(&args).unwrap().config;
    (config.log.file, config.log.format, config.log.rotation) = (Some(file.clone()), format, config::LogRotation::Never);
    let exempt = vec!["192.0.2.8/32".parse().unwrap()];
    let limits = Arc::new(Limits { login_failures: Some(2), exempt, ..(*config.limits).clone() });
    let (dispatch, guard) = telemetry::prepare(&config.log, 0, false).unwrap();
    tracing::dispatcher::with_default(&dispatch, || {
        let admission = Arc::new(Admission::new(1000));
        let arrive = |client: &str| admission.arrive(client.parse().unwrap(), &limits).unwrap();
        let forged = format!("forged\n2026-11-24T13:44:42Z  WARN poptap::admission: login failed client={VICTIM} failures=3");
        let (mut one, mut two, mut exempt) = (arrive("::ffff:192.0.2.1"), arrive("2001:db8::1"), arrive("192.0.2.8"));
        for (visit, user) in [(&mut one, "walrus"), (&mut two, "walrus2"), (&mut exempt, "walrus")] {
            visit.attempt(Some(user)).unwrap();
            visit.failed(Some(user));
        }
        one.failed(Some(&forged));
        two.failed(Some(&forged));
        assert_eq!(one.attempt(None).unwrap_err().reason(), "client-blocked");
        assert_eq!(exempt.attempt(Some("walrus")).unwrap_err().reason(), "user-blocked");
    });
    drop((dispatch, guard));
    fs::read_to_string(file).unwrap()
}

/// The addresses that fail2ban takes from a log, one for each line that matches.
fn found(log: &str, mode: &str) -> Vec<String> {
    let home = scratch();
    let file = home.path().join("poptap.log");
    fs::write(&file, log).unwrap();
    let filter = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/fail2ban/filter.d/poptap.conf");
    let filter = format!("{}[mode={mode}]", filter.display());
    let output = run(Command::new("fail2ban-regex").args(["-o", "ip"]).arg(&file).arg(filter));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// The same log as syslog would have written it.
fn through_syslog(log: &str) -> String {
    log.lines().flat_map(|line| ["Nov 24 13:44:42 mail poptap[77]: ", line, "\n"]).collect()
}

fn start(settings: &str, listeners: usize, format: LogFormat) -> Proxy {
    let home = scratch();
    fs::write(home.path().join("poptap.toml"), settings).unwrap();
    let format = if format == LogFormat::Json { "json" } else { "text" };
    Proxy::start_from_file(home, listeners, &["--log-format", format, "-vv"])
}

/// A listener in front of a server, the last of its section: further keys may follow.
fn listener(scheme: &str, server: SocketAddr) -> String {
    let url = format!("{scheme}://{server}");
    format!("[[upstream]]\nurl = '{url}'\n[[listener]]\naddress = '127.0.0.1:0'\nupstream = '{url}'\n")
}

/// A server that greets its only client so, answers all that it says first so, and leaves.
fn serve(greeting: &[u8], answer: &[u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, greeting, answer) = (listener.local_addr().unwrap(), greeting.to_vec(), answer.to_vec());
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        // Who asked may have gone.
        let _ = client.write_all(&greeting).and_then(|()| client.read(&mut [0; 1024])).and_then(|_| client.write_all(&answer));
    });
    address
}

/// A client on 127.0.0.`host`.
fn connect(host: u8, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, host)), 0).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn last_words(host: u8, address: SocketAddr) -> String {
    let mut said = String::new();
    connect(host, address).read_to_string(&mut said).unwrap();
    said
}
