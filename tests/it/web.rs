//! `run --web`: the live page, asked for over a bare socket. `tests/real/web.rs` opens it in a browser.

use std::{io::Write as _, net::SocketAddr};

use regex::Regex;
use serde_json::Value;

use crate::support::{
    http::{Answer, ask, get, post},
    outside::{Client, Poptap, Server, command, converse, read_line, run},
};

/// poptap with its page.
struct Watched {
    poptap: Poptap,
    address: SocketAddr,
    token: String,
}

impl Watched {
    fn start(url: &str, more: &[&str]) -> Self {
        Self::of(Poptap::start("", &[&["--upstream", url, "--web", "127.0.0.1:0"], more].concat()))
    }

    fn of(mut poptap: Poptap) -> Self {
        let line = poptap.said("/?token=");
        let (_, url) = line.split_once("http://").unwrap();
        let (address, token) = url.split_once("/?token=").unwrap();
        Self { address: address.parse().unwrap(), token: token.trim().to_owned(), poptap }
    }

    /// The cookie for the token.
    fn cookie(&self) -> String {
        let answer = get(self.address, &format!("/?token={}", self.token), &[]);
        assert_eq!((answer.status, answer.header("location")), (303, Some("/")), "{}", answer.head);
        let set = answer.header("set-cookie").unwrap();
        for word in ["HttpOnly", "SameSite=Strict", "Path=/"] {
            assert!(set.contains(word), "{set}");
        }
        set.split(';').next().unwrap().to_owned()
    }

    fn get(&self, path: &str) -> Answer {
        get(self.address, path, &[("Cookie", &self.cookie())])
    }

    fn events(&self) -> Events {
        let mut client = ask(self.address, "/api/events", &[("Cookie", &self.cookie())], "");
        assert!(client.line().contains(" 200 "));
        // What comes first says that it has begun.
        while !client.line().starts_with("retry: ") {}
        Events(client)
    }
}

/// A stream of records.
struct Events(Client);

impl Events {
    /// The next record of this kind.
    fn next(&mut self, kind: &str) -> Value {
        loop {
            let line = self.0.line();
            assert!(!line.is_empty(), "the stream ended before {kind}");
            let Some(record) = line.strip_prefix("data: ") else { continue };
            let record: Value = serde_json::from_str(record).unwrap();
            if record["event"] == kind {
                return record;
            }
        }
    }
}

#[test]
fn the_token_opens_the_page_and_nothing_else_does() {
    let watched = Watched::start("pop3://127.0.0.1:1", &[]);
    let cookie = watched.cookie();
    let (name, value) = cookie.split_once('=').unwrap();
    assert!(watched.token.len() == 32 && value.len() == 32 && value != watched.token);
    let wrong = format!("{name}={}", "0".repeat(32));
    let beginning = format!("{name}={}", &value[..31]);
    let other = format!("other={value}");
    for path in ["/", "/app.js", "/style.css", "/api/events", "/api/session/x", "/api/recent", "/nowhere"] {
        assert_eq!(get(watched.address, path, &[]).status, 401, "{path}");
        for cookie in [&wrong, &beginning, &other] {
            assert_eq!(get(watched.address, path, &[("Cookie", cookie)]).status, 401, "{path} {cookie}");
        }
    }
    for token in ["", "0", &"0".repeat(32), &watched.token[..31], &format!("{}0", watched.token)] {
        let answer = get(watched.address, &format!("/?token={token}"), &[]);
        assert!(answer.status == 403 && answer.header("set-cookie").is_none(), "{token}");
    }
    for (path, kind) in
        [("/", "text/html"), ("/app.js", "text/javascript"), ("/plots.js", "text/javascript"), ("/style.css", "text/css")]
    {
        let answer = get(watched.address, path, &[("Cookie", &format!("a=b; {cookie}"))]);
        assert!(answer.status == 200 && answer.header("content-type").unwrap().starts_with(kind), "{path}: {}", answer.head);
    }
    assert_eq!(watched.get("/nowhere").status, 404);
}

#[test]
fn every_answer_says_what_a_browser_may_do() {
    let watched = Watched::start("pop3://127.0.0.1:1", &[]);
    let token = format!("/?token={}", watched.token);
    let answers = [
        get(watched.address, "/", &[]),
        get(watched.address, "/?token=x", &[]),
        get(watched.address, &token, &[]),
        get(watched.address, "/", &[("Host", "evil.example")]),
        watched.get("/"),
        watched.get("/app.js"),
        watched.get("/api/session/zzz"),
        watched.get("/nowhere"),
    ];
    for answer in answers {
        let policy = answer.header("content-security-policy").unwrap();
        let expected = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                        frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
        assert_eq!(policy, expected, "{}", answer.head);
        for (name, value) in
            [("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer"), ("cache-control", "no-store")]
        {
            assert_eq!(answer.header(name), Some(value), "{}", answer.head);
        }
        assert!(answer.header("access-control-allow-origin").is_none());
    }
}

/// A name of an attacker's that leads to 127.0.0.1 must not be a way to the page (DNS rebinding).
#[test]
fn foreign_hosts_are_turned_away() {
    let watched = Watched::start("pop3://127.0.0.1:1", &[]);
    let (cookie, port) = (watched.cookie(), watched.address.port());
    for (host, status) in [
        ("evil.example".to_owned(), 421),
        (format!("evil.example:{port}"), 421),
        (format!("localhost.evil.example:{port}"), 421),
        (format!("192.0.2.1:{port}"), 421),
        (format!("user@localhost:{port}"), 421),
        (String::new(), 421),
        (format!("localhost:{port}"), 200),
        (format!("127.0.0.1:{port}"), 200),
    ] {
        assert_eq!(get(watched.address, "/", &[("Host", &host), ("Cookie", &cookie)]).status, status, "{host}");
    }
    let token = format!("/?token={}", watched.token);
    assert_eq!(get(watched.address, &token, &[("Host", "evil.example")]).status, 421, "the token does not help");
}

const HOSTILE: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>";

#[test]
fn a_session_is_streamed_and_hostile_text_is_nothing_but_text() {
    let server = Server::once(|mut stream| {
        stream.write_all(format!("+OK {HOSTILE}\r\n").as_bytes()).unwrap();
        while let Some(line) = read_line(&mut stream) {
            stream.write_all(format!("+OK {HOSTILE}\r\n").as_bytes()).unwrap();
            if line.starts_with(b"QUIT") {
                break;
            }
        }
        Vec::new()
    });
    let watched = Watched::start(&server.url("pop3"), &[]);
    let mut events = watched.events();
    let mut client = watched.poptap.connect();
    assert!(client.line().contains("<script>"));
    let opened = events.next("opened");
    let id = opened["session"].as_str().unwrap().to_owned();
    let greeting = events.next("greeting");
    assert_eq!(greeting["text"], format!("+OK {HOSTILE}"));
    client.ask(&format!("USER {HOSTILE}"));
    assert_eq!(events.next("command")["user"], HOSTILE);
    client.ask("QUIT");
    client.rest();
    let summary = events.next("session");
    assert_eq!((&summary["session"], &summary["user"]), (&opened["session"], &Value::from(HOSTILE)));

    let since = opened["time"].as_str().unwrap();
    let stored = watched.get(&format!("/api/session/{id}?since={since}"));
    assert_eq!((stored.status, stored.header("content-type")), (200, Some("application/json")), "{}", stored.body);
    let stored: Value = serde_json::from_str(&stored.body).unwrap();
    let kinds: Vec<_> = stored["records"].as_array().unwrap().iter().map(|record| record["event"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["opened", "greeting", "command", "reply", "command", "reply", "closed", "session"]);
    assert_eq!(stored["cut"], false);
    let recent = watched.get("/api/recent");
    assert_eq!((recent.status, recent.header("content-type")), (200, Some("application/x-ndjson")), "{}", recent.body);
    assert_eq!(serde_json::from_str::<Value>(&recent.body).unwrap(), summary);
    for answer in [
        watched.get("/api/session/zzzzzzzzzzzz"),
        watched.get("/api/session/..%2f..%2fetc"),
        watched.get("/api/session/%3Cscript%3E"),
    ] {
        assert!(answer.status == 404 && answer.header("content-type").unwrap().starts_with("text/plain"), "{}", answer.head);
    }
    // A page that is open does not hold up the end.
    watched.poptap.stop();
    assert!(!events.0.rest().contains("data:"));
}

/// Nothing is recorded for nobody: without a transcript, events are there as long as the page is.
#[test]
fn without_a_transcript_the_page_lives_on_what_passes() {
    let server = Server::times(2, converse);
    let folder = tempfile::TempDir::with_prefix("poptap-it-").unwrap();
    let arguments = ["--upstream", &server.url("pop3"), "--web", "127.0.0.1:0", "--no-transcript"];
    let watched = Watched::of(Poptap::start_in(folder, "", &arguments, std::process::Stdio::null()));
    let mut events = watched.events();
    let mut client = watched.poptap.connect();
    client.log_in();
    let opened = events.next("opened");
    assert_eq!(events.next("command")["keyword"], "USER");
    assert_eq!(events.next("command")["redacted"], "secret");
    client.ask("QUIT");
    client.rest();
    assert_eq!(events.next("session")["session"], opened["session"]);
    let stored = watched.get(&format!("/api/session/{}", opened["session"].as_str().unwrap()));
    assert!(stored.status == 404 && stored.body.contains("no events are kept"), "{}", stored.body);
    assert_eq!(watched.get("/api/recent").status, 404);
}

/// Where only summaries are kept, events are for the page alone, and no file has them.
#[test]
fn where_summaries_alone_are_kept_the_page_has_events() {
    let server = Server::once(converse);
    let settings = "[transcript]\nrecord = \"sessions\"\n";
    let watched = Watched::of(Poptap::start(settings, &["--upstream", &server.url("pop3"), "--web", "127.0.0.1:0"]));
    let mut events = watched.events();
    let mut client = watched.poptap.connect();
    client.log_in();
    assert_eq!(events.next("command")["keyword"], "USER");
    client.ask("QUIT");
    client.rest();
    let summary = events.next("session");
    let left = watched.poptap.stop();
    assert_eq!((left.session()["session"].as_str(), left.events.len()), (summary["session"].as_str(), 0));
}

/// More than a browser gets in a second, to one that reads nothing: the session goes on, and the transcript has it all.
#[test]
fn a_viewer_that_does_not_read_holds_up_nobody() {
    const COMMANDS: usize = 20_000;
    let server = Server::once(converse);
    let watched = Watched::start(&server.url("pop3"), &[]);
    let _deaf = watched.events();
    let mut reader = watched.events();
    let mut client = watched.poptap.connect();
    client.log_in();
    let mut writer = client.0.try_clone().unwrap();
    let saying = std::thread::spawn(move || writer.write_all(&b"NOOP\r\n".repeat(COMMANDS)).unwrap());
    for _ in 0..COMMANDS {
        assert_eq!(client.line(), "+OK\r\n");
    }
    saying.join().unwrap();
    client.ask("QUIT");
    client.rest();
    let mut hidden = 0;
    loop {
        let line = reader.0.line();
        assert!(!line.is_empty());
        if line.starts_with("event: hidden") {
            hidden += reader.0.line().trim_start_matches("data: ").trim().parse::<usize>().unwrap();
        }
        if line.contains(r#""event":"session""#) {
            break;
        }
    }
    assert!(hidden > COMMANDS, "of commands and replies, {hidden} were left out and told");
    let left = watched.poptap.stop();
    assert_eq!(left.session()["commands"], COMMANDS + 3);
    assert!(left.session().get("events_lost").is_none());
}

#[test]
fn the_filter_is_answered_to_who_may_see_the_page() {
    let watched = Watched::start("pop3://127.0.0.1:1", &[]);
    let question = r#"{"filter":"user ~ ti","sessions":[{"facts":{"session":"a","user":"Tim"}},{"facts":{"session":"b"}}]}"#;
    assert_eq!(post(watched.address, "/api/filter", &[], question).status, 401);
    let cookie = watched.cookie();
    let ask = |question: &str| post(watched.address, "/api/filter", &[("Cookie", &cookie)], question);
    let answer = ask(question);
    assert_eq!((answer.status, &*answer.body), (200, r#"{"exchanges":false,"holds":[true,false]}"#));
    let wrong: Value = serde_json::from_str(&ask(r#"{"filter":"user ~","sessions":[]}"#).body).unwrap();
    assert!(wrong["wrong"]["column"].is_u64(), "{wrong}");
    assert_eq!(ask("{}").status, 400);
}

#[test]
fn off_loopback_somebody_has_to_say_so() {
    let folder = tempfile::tempdir().unwrap();
    for (settings, arguments, succeeds, said) in [
        ("[web]\nlisten = \":0\"\n", &[][..], false, "could be reached from other hosts"),
        ("", &["--web", ":0"], false, "could be reached from other hosts"),
        ("[web]\nlisten = \":0\"\nallow_remote = true\n", &[], true, "without encryption"),
        ("", &["--web", ":0", "--web-allow-remote"], true, "without encryption"),
        ("", &["--web", "8110"], true, ""),
    ] {
        let file = folder.path().join("poptap.toml");
        std::fs::write(&file, settings).unwrap();
        let mut check = command(folder.path());
        check.args(["check", "pop3://192.0.2.1", "--no-transcript", "--config"]).arg(&file).args(arguments);
        let checked = run(&mut check);
        let told = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(checked.status.success() == succeeds && told.contains(said), "{settings} {arguments:?}: {told}");
    }
}

/// What the page is made of names nothing from elsewhere, and puts in what strangers said as text alone.
#[test]
fn the_page_s_own_files_keep_to_the_rules() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/web/assets");
    let forbidden = Regex::new(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser|srcdoc|createContextualFragment|https?://|\bon[a-z]+=|style=|javascript:|localStorage",
    )
    .unwrap();
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap().replace("http://www.w3.org/2000/svg", "");
        assert!(!forbidden.is_match(&text), "{}: {}", path.display(), forbidden.find(&text).unwrap().as_str());
        files += 1;
    }
    assert_eq!(files, 5);
}
