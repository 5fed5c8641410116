//! A listener with several upstreams: they are tried in order until one greets, and those that failed rest.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use rustls::{ServerConnection, StreamOwned};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::support::{
    http::get,
    outside::{MESSAGE, PATIENCE, Poptap, SECRET, Server, command, converse, listen, read_line, run, tls},
    secure::{Papers, client_hello},
};

const GREETING: &str = "+OK ready\r\n";
/// Longer than any test.
const NEVER: &str = "rest = '1h'\nlongest_rest = '1h'\n";

/// poptap with one listener for these upstreams: names with their keys.
fn front(upstreams: &[(&str, String)], timeouts: &str) -> Poptap {
    Poptap::as_configured(&configuration(upstreams, timeouts))
}

fn configuration(upstreams: &[(&str, String)], timeouts: &str) -> String {
    let names: Vec<_> = upstreams.iter().map(|(name, _)| *name).collect();
    let mut text = format!("[timeouts]\n{timeouts}[[listener]]\naddress = '127.0.0.1:0'\nupstream = {names:?}\n");
    for (name, keys) in upstreams {
        text.extend(["[[upstream]]\nname = '", name, "'\n", keys, "\n"]);
    }
    text
}

fn url(server: &Server) -> String {
    format!("url = '{}'", server.url("pop3"))
}

/// An address at which nobody listens, and nobody else can while it is held.
struct Dead(Socket);

impl Dead {
    fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        Self(socket)
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }

    fn url(&self) -> String {
        format!("url = 'pop3://{}'", self.address())
    }
}

/// An address that answers no connection any more: as many wait there as may.
fn black_hole() -> (Dead, Vec<Socket>) {
    let hole = Dead::new();
    hole.0.listen(0).unwrap();
    let mut waiting = Vec::new();
    loop {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        if socket.connect_timeout(&hole.address().into(), Duration::from_millis(200)).is_err() {
            return (hole, waiting);
        }
        waiting.push(socket);
    }
}

/// Says this to each client, and hears it out.
fn saying(octets: &'static [u8]) -> Server {
    Server::times(100, move |mut stream: TcpStream| {
        let _ = stream.write_all(octets);
        listen(stream)
    })
}

/// A whole session, which is served.
fn session(poptap: &Poptap) {
    let mut client = poptap.connect();
    client.log_in();
    client.say(b"QUIT\r\n");
    assert_eq!(client.rest(), "+OK\r\n");
}

/// What `sessions show` prints of the last session, once its end is recorded.
fn shown(poptap: &Poptap) -> String {
    let store = poptap.store.to_str().unwrap();
    let show = || run(command(&poptap.store).args(["sessions", "show", "--last", "--transcript", store])).stdout;
    let mut asked = std::iter::repeat_with(|| String::from_utf8(show()).unwrap()).take(500);
    asked.find(|text| text.contains("\n== ")).expect("the session's end is recorded")
}

/// Nobody can read a greeting inside a TLS that is the client's own: to take the connection is all that a server has to do.
#[test]
fn tls_that_is_carried_unread_goes_to_the_next_one_too() {
    let papers = Papers::new();
    let dead = Dead::new();
    let live = Server::once(|mut stream| {
        let mut heard = vec![0; 5];
        stream.read_exact(&mut heard).unwrap();
        heard
    });
    let upstreams = [("dead", dead.url()), ("live", url(&live))];
    let text = configuration(&upstreams, NEVER).replace("[[listener]]\n", "[[listener]]\ntls = 'pass'\n");
    let poptap = Poptap::as_configured(&text.replace("pop3://", "pop3s://"));
    let mut client = poptap.connect();
    client.say(&client_hello(&papers.trust));
    client.last();
    assert_eq!(live.heard()[..2], [0x16, 3]);
    let left = poptap.stop();
    assert_eq!((left.session()["upstream"].as_str(), left.session()["opaque"].as_str()), (Some("live"), Some("tls-passed")));
    assert!(
        left.has_event("unreached", "upstream", "dead") && left.has_event("reached", "upstream", "live"),
        "{:#?}",
        left.events
    );
}

#[test]
fn the_next_one_serves_whatever_is_wrong_with_the_first() {
    let papers = Papers::new();
    let (dead, (hole, _waiting)) = (Dead::new(), black_hole());
    let (refuses, silent, leaves) = (saying(b"-ERR [SYS/TEMP] not now\r\n"), saying(b""), Server::times(9, |_| Vec::new()));
    let (foreign, endless, half) = (
        saying(b"220 mail ESMTP\r\n"),
        saying(&[b'x'; 8192]),
        Server::times(9, |mut stream| {
            let _ = stream.write_all(b"+OK rea");
            Vec::new()
        }),
    );
    let untrusted = {
        let config = papers.server.clone();
        Server::times(9, move |stream| converse(tls(stream, &config)))
    };
    let no_stls = Server::times(9, |mut stream: TcpStream| {
        stream.write_all(b"+OK ready\r\n").unwrap();
        read_line(&mut stream);
        let _ = stream.write_all(b"-ERR unknown\r\n");
        listen(stream)
    });
    for (what, first, reason) in [
        ("nobody listens", dead.url(), "upstream-refused"),
        ("a black hole", hole.url(), "timeout-connect"),
        ("it refuses the session", url(&refuses), "upstream-refused"),
        ("it says nothing", url(&silent), "timeout-greeting"),
        ("it leaves at once", url(&leaves), "upstream-unreachable"),
        ("it leaves in its greeting", url(&half), "upstream-unreachable"),
        ("it speaks something else", url(&foreign), "upstream-unreachable"),
        ("its greeting has no end", url(&endless), "upstream-unreachable"),
        ("its certificate is nobody's", format!("url = '{}'", untrusted.url("pop3s")), "upstream-tls"),
        (
            "it does not speak TLS",
            format!("url = '{}'\nca_file = '{}'", refuses.url("pop3s"), papers.path("ca.pem")),
            "upstream-tls",
        ),
        (
            "it refuses STLS",
            format!("url = '{}'\nca_file = '{}'", no_stls.url("pop3+stls"), papers.path("ca.pem")),
            "upstream-stls",
        ),
    ] {
        let second = Server::once(converse);
        let limits = format!("{NEVER}connect = '300ms'\ngreeting = '300ms'\nhandshake = '5s'\n");
        let poptap = front(&[("first", first), ("second", url(&second))], &limits);
        let mut client = poptap.connect();
        // It speaks before it was greeted: nobody but the one that serves hears it.
        client.say(b"CAPA\r\n");
        assert_eq!(client.line(), GREETING, "{what}");
        assert_eq!((client.line(), client.body().len()), ("+OK\r\n".to_owned(), 2), "{what}");
        client.say(b"QUIT\r\n");
        assert_eq!(client.rest(), "+OK\r\n", "{what}");
        assert_eq!(second.heard(), b"CAPA\r\nQUIT\r\n", "{what}");
        let left = poptap.stop();
        assert_eq!((&left.session()["upstream"], &left.session()["reason"]), (&"second".into(), &"quit".into()), "{what}");
        let unreached: Vec<_> = left.events.iter().filter(|event| event["event"] == "unreached").collect();
        assert!(unreached.len() == 1 && unreached[0]["upstream"] == "first", "{what}: {unreached:?}");
        assert_eq!(unreached[0]["reason"], reason, "{what}: {unreached:?}");
        assert_eq!(left.count("reached", "upstream", "second"), 1, "{what}");
        assert_eq!(left.log.matches("an upstream is down").count(), 1, "{what}: {}", left.log);
    }
    for server in [refuses, silent, foreign] {
        let heard = server.heard();
        assert!(!heard.windows(4).any(|octets| octets == b"CAPA"), "{}", heard.escape_ascii());
    }
}

#[test]
fn one_that_failed_rests_and_is_not_touched() {
    let (first, second) = (saying(b"-ERR not now\r\n"), Server::times(4, converse));
    let poptap = front(&[("first", url(&first)), ("second", url(&second))], NEVER);
    for _ in 0..4 {
        session(&poptap);
    }
    assert_eq!((first.accepted(), second.accepted()), (1, 4));
    let shown = shown(&poptap);
    assert!(shown.contains("\nupstream  second, plain\n"), "the heading names the one that served: {shown}");
    assert!(shown.contains("-- carried to second, since not long ago there was no answer from first"), "{shown}");
    let left = poptap.stop();
    assert_eq!(left.count("unreached", "upstream", "first"), 1);
    let reached: Vec<_> = left.events.iter().filter(|event| event["event"] == "reached").collect();
    assert_eq!(reached.len(), 4);
    assert!(reached[0].get("resting").is_none() && reached[3]["resting"][0] == "first", "{reached:?}");
    assert_eq!(left.log.matches("an upstream is down").count(), 1, "{}", left.log);
}

#[test]
fn one_that_rested_serves_again() {
    let (dead, second) = (Dead::new(), Server::times(100_000, converse));
    let mut poptap = front(&[("first", dead.url()), ("second", url(&second))], "rest = '20ms'\nlongest_rest = '40ms'\n");
    session(&poptap);
    poptap.said("an upstream is down");
    dead.0.listen(100).unwrap();
    let listener: std::net::TcpListener = dead.0.try_clone().unwrap().into();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || converse(stream.unwrap()));
        }
    });
    let deadline = Instant::now() + PATIENCE;
    let mut sessions = 1;
    loop {
        let before = second.accepted();
        session(&poptap);
        sessions += 1;
        if second.accepted() == before {
            break;
        }
        assert!(Instant::now() < deadline, "the first one was not tried again");
    }
    poptap.said("an upstream is up again");
    let left = poptap.stop();
    assert_eq!(left.sessions.len(), sessions);
    assert_eq!(left.sessions.last().unwrap()["upstream"], "first");
}

#[test]
fn where_all_rest_the_one_that_rests_longest_is_tried() {
    let servers = [saying(b"-ERR a\r\n"), saying(b"-ERR b\r\n"), saying(b"-ERR c\r\n")];
    let [a, b, c] = servers.each_ref().map(url);
    let poptap = front(&[("a", a), ("b", b), ("c", c)], NEVER);
    let accepted = || servers.each_ref().map(Server::accepted);
    for (said, expected) in [("-ERR c", [1, 1, 1]), ("-ERR a", [2, 1, 1]), ("-ERR b", [2, 2, 1]), ("-ERR c", [2, 2, 2])] {
        let line = poptap.connect().rest();
        assert!(line.starts_with("-ERR [SYS/TEMP] cannot open a session with") && line.contains(said), "{line}");
        assert_eq!((line.lines().count(), accepted()), (1, expected));
    }
    let left = poptap.stop();
    assert_eq!(left.count("reached", "event", "reached"), 0);
    assert!(left.sessions.iter().all(|session| session["reason"] == "upstream-refused"), "{:#?}", left.sessions);
}

/// A client that is told that somebody has to change something first does not come again.
#[test]
fn an_error_that_may_pass_is_told_rather_than_one_that_will_not() {
    let papers = Papers::new();
    let untrusted = {
        let config = papers.server.clone();
        Server::times(9, move |stream| converse(tls(stream, &config)))
    };
    let dead = Dead::new();
    let poptap = front(&[("first", dead.url()), ("second", format!("url = '{}'", untrusted.url("pop3s")))], NEVER);
    let line = poptap.connect().rest();
    assert!(line.starts_with("-ERR [SYS/TEMP] cannot connect to"), "{line}");
    let left = poptap.stop();
    assert!(left.verdict().contains("connection refused"), "{}", left.verdict());
    assert_eq!(left.count("unreached", "reason", "upstream-tls"), 1);
}

/// Nobody waits for the greeting of an only one: what it says is passed on as it comes.
#[test]
fn an_only_one_is_tried_each_time_and_what_it_says_passes() {
    let server = saying(b"-ERR not now\r\n");
    let poptap = front(&[("only", url(&server))], NEVER);
    for _ in 0..3 {
        let mut client = poptap.connect();
        assert_eq!(client.line(), "-ERR not now\r\n");
    }
    assert_eq!(server.accepted(), 3);
    let left = poptap.stop();
    assert_eq!(left.count("unreached", "event", "unreached") + left.count("reached", "event", "reached"), 0);
}

/// It was read while nobody could tell yet whether the session begins.
#[test]
fn what_comes_with_a_greeting_passes_octet_for_octet() {
    let said = "+OK \u{e9} <1@x>\n+OK and this\r\n".as_bytes();
    let server = Server::once(move |mut stream: TcpStream| {
        stream.write_all(said).unwrap();
        Vec::new()
    });
    let poptap = front(&[("first", url(&server)), ("second", Dead::new().url())], NEVER);
    assert_eq!(poptap.connect().last(), said);
    poptap.stop();
}

#[test]
fn monitoring_sees_who_is_up_and_counts_failures() {
    let (first, second) = (saying(b"-ERR not now\r\n"), Server::times(4, converse));
    let upstreams = [("first", url(&first)), ("second", url(&second))];
    let text = format!("{}[metrics]\nlisten = '127.0.0.1:0'\n", configuration(&upstreams, NEVER));
    let mut poptap = Poptap::as_configured(&text);
    let line = poptap.said("metrics are served at ");
    let metrics: SocketAddr = line.split_once("http://").unwrap().1.split('/').next().unwrap().parse().unwrap();
    let page = || get(metrics, "/metrics", &[]).body;
    let value = |page: &str, name: &str| {
        let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {page}"));
        line.rsplit_once(' ').unwrap().1.to_owned()
    };
    assert_eq!(value(&page(), "poptap_upstream_up{upstream=\"first\"}"), "1");
    session(&poptap);
    session(&poptap);
    for (name, expected) in [
        ("poptap_upstream_up{upstream=\"first\"}", "0"),
        ("poptap_upstream_up{upstream=\"second\"}", "1"),
        ("poptap_upstream_failures_total{upstream=\"first\"}", "1"),
        ("poptap_upstream_failures_total{upstream=\"second\"}", "0"),
    ] {
        assert_eq!(value(&page(), name), expected, "{name}");
    }
    assert_eq!(get(metrics, "/readyz", &[]).status, 200, "clients can be served");
    // What is known of an upstream outlives a reload.
    poptap.signal(Signal::HUP);
    poptap.said("reloaded: ");
    session(&poptap);
    assert_eq!((first.accepted(), second.accepted()), (1, 3));
    poptap.stop();
}

/// Behind STLS the server is told of the client anew: the one that was reached, though another comes first.
#[test]
fn a_server_that_is_told_of_the_client_is_the_same_behind_stls() {
    let papers = Papers::new();
    let (dead, second) = (
        Dead::new(),
        Server::times(2, |mut stream: TcpStream| {
            let mut header = [0; 16];
            stream.read_exact(&mut header).unwrap();
            let mut rest = vec![0; usize::from(u16::from_be_bytes([header[14], header[15]]))];
            stream.read_exact(&mut rest).unwrap();
            converse(stream)
        }),
    );
    let keys = |url: String| format!("{url}\nproxy_protocol = 'v2'");
    let upstreams = [("first", keys(dead.url())), ("second", keys(url(&second)))];
    let (cert, key) = (papers.path("cert.pem"), papers.path("key.pem"));
    let text = configuration(&upstreams, NEVER)
        .replace("'127.0.0.1:0'", &format!("'pop3+stls://127.0.0.1:0'\ncert = '{cert}'\nkey = '{key}'"));
    let poptap = Poptap::as_configured(&text);
    let mut client = poptap.connect();
    assert_eq!(client.line(), GREETING);
    assert!(client.ask("STLS").starts_with("+OK"));
    let mut client = crate::support::secure::Secure::over(client.0, &papers.trust).unwrap();
    for line in ["USER tim".to_owned(), format!("PASS {SECRET}"), "QUIT".to_owned()] {
        assert_eq!(client.ask(&line), "+OK\r\n");
    }
    client.rest();
    assert_eq!(second.heard(), b"");
    assert!(second.heard().ends_with(b"QUIT\r\n"));
    assert_eq!(second.accepted(), 2);
    assert_eq!(poptap.stop().session()["upstream"], "second");
}

/// A server at a Unix socket that plays `script` to each client, and the socket's path.
fn at_a_socket(folder: &TempDir, script: impl Fn(UnixStream) + Send + Sync + 'static) -> String {
    let path = folder.path().join("pop3.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let script = Arc::new(script);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, script) = (stream.unwrap(), Arc::clone(&script));
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            thread::spawn(move || script(stream));
        }
    });
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_server_at_a_unix_socket_serves() {
    let folder = TempDir::with_prefix("poptap-it-").unwrap();
    let path = at_a_socket(&folder, |stream| drop(converse(stream)));
    let url = format!("pop3+unix://{path}");
    let poptap = Poptap::to(&url);
    for _ in 0..2 {
        let mut client = poptap.connect();
        client.log_in().say(b"RETR 1\r\nRETR 1\r\nQUIT\r\n");
        let message = String::from_utf8(MESSAGE.to_vec()).unwrap();
        assert_eq!(client.rest(), format!("{message}{message}+OK\r\n"));
    }
    let left = poptap.stop();
    assert!(left.sessions.iter().all(|session| session["upstream"] == url.as_str() && session["reason"] == "quit"));
    // With nobody there any more, clients are told.
    let gone = Poptap::to(&format!("pop3+unix://{path}.gone"));
    let line = gone.connect().rest();
    assert!(line.starts_with("-ERR [SYS/TEMP] cannot connect to `/") && line.contains("there is no such socket"), "{line}");
    assert_eq!(gone.stop().session()["reason"], "upstream-unreachable");
}

#[test]
fn stls_works_over_a_unix_socket_and_verifies_the_name_that_was_given() {
    let (papers, folder) = (Papers::new(), TempDir::with_prefix("poptap-it-").unwrap());
    let config = Arc::clone(&papers.server);
    let path = at_a_socket(&folder, move |mut stream| {
        stream.write_all(b"+OK before TLS\r\n").unwrap();
        assert_eq!(read_line(&mut stream).unwrap(), b"STLS\r\n");
        stream.write_all(b"+OK\r\n").unwrap();
        let mut tls = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
        while let Some(line) = read_line(&mut tls) {
            if tls.write_all(b"+OK\r\n").and_then(|()| tls.flush()).is_err() || line.starts_with(b"QUIT") {
                break;
            }
        }
    });
    let keys = |name: &str| {
        let ca = papers.path("ca.pem");
        format!("url = 'pop3+stls+unix://{path}'\nca_file = '{ca}'\nserver_name = '{name}'")
    };
    let poptap = front(&[("only", keys("127.0.0.1"))], NEVER);
    let mut client = poptap.connect();
    client.log_in().say(b"QUIT\r\n");
    assert_eq!(client.rest(), "+OK\r\n");
    assert!(poptap.stop().session()["upstream_tls"].as_str().unwrap().starts_with("TLSv1."));
    let poptap = front(&[("only", keys("pop.example.net"))], NEVER);
    assert!(poptap.connect().rest().starts_with("-ERR [SYS/PERM] cannot start TLS"));
    assert_eq!(poptap.stop().session()["reason"], "upstream-tls");
}
