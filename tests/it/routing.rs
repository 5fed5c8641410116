//! Users of one listener that belong to different servers.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::outside::{PATIENCE, Poptap, SECRET, Server, read_line};

/// Takes [`SECRET`], refuses every other password.
fn mailbox(mut stream: TcpStream) -> Vec<u8> {
    let (mut heard, mut response) = (Vec::new(), false);
    stream.write_all(b"+OK server <1@server>\r\n").unwrap();
    while let Some(line) = read_line(&mut stream) {
        heard.extend_from_slice(&line);
        let told = String::from_utf8_lossy(&line).into_owned();
        let decoded = told.split_whitespace().last().and_then(|word| STANDARD.decode(word).ok()).unwrap_or_default();
        let knows = told.contains(SECRET) || String::from_utf8_lossy(&decoded).contains(SECRET);
        let reply: &[u8] = match told.get(..4) {
            _ if std::mem::take(&mut response) && knows => b"+OK in\r\n",
            Some("AUTH") if told.trim_end() == "AUTH PLAIN" => {
                response = true;
                b"+ \r\n"
            }
            Some("PASS" | "AUTH") if knows => b"+OK in\r\n",
            Some("PASS" | "AUTH") => b"-ERR [AUTH] not you\r\n",
            Some("STAT") => b"+OK 3 14\r\n",
            _ => b"+OK\r\n",
        };
        if stream.write_all(reply).is_err() || told.starts_with("QUIT") {
            break;
        }
    }
    heard
}

struct House {
    old: Server,
    new: Server,
    folder: TempDir,
    poptap: Poptap,
}

const MAP: &str = "anna@old.example old\nbob old robert\n@gone.example gone\n";

impl House {
    fn new() -> Self {
        Self::with(Server::times(20, mailbox), "")
    }

    fn with(old: Server, keys: &str) -> Self {
        let (new, folder) = (Server::times(20, mailbox), TempDir::new().unwrap());
        let map = folder.path().join("users.map");
        fs::write(&map, MAP).unwrap();
        let configuration = format!(
            "[[listener]]\naddress = '127.0.0.1:0'\nmap = '{}'\n{keys}\n\
             route = [{{ user = '(.*)@new\\.example', upstream = 'new', rewrite = '$1' }}]\n\
             [[upstream]]\nname = 'old'\nurl = '{}'\n[[upstream]]\nname = 'new'\nurl = '{}'\n\
             [[upstream]]\nname = 'gone'\nurl = 'pop3://127.0.0.1:1'\n",
            map.display(),
            old.url("pop3"),
            new.url("pop3"),
        );
        Self { old, new, folder, poptap: Poptap::as_configured(&configuration) }
    }

    /// All that a client gets for all that it says, `cut` octets at a time.
    fn talk(&self, said: &[u8], cut: usize) -> String {
        let mut stream = self.poptap.connect().0;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        for piece in said.chunks(cut) {
            stream.write_all(piece).unwrap();
            thread::yield_now();
        }
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        heard
    }
}

#[test]
fn each_user_reaches_its_server_however_the_octets_are_cut() {
    let house = House::new();
    let said = format!("STAT\r\nUSER ANNA@old.example\r\nPASS {SECRET}\r\nSTAT\r\nQUIT\r\n");
    for cut in [1, 2, 7, 40, 1000] {
        let heard = house.talk(said.as_bytes(), cut);
        assert_eq!(heard, "+OK ready\r\n-ERR log in first\r\n+OK send PASS\r\n+OK in\r\n+OK 3 14\r\n+OK\r\n", "by {cut}");
        let expected = format!("USER ANNA@old.example\r\nPASS {SECRET}\r\nSTAT\r\nQUIT\r\n");
        assert_eq!(String::from_utf8(house.old.heard()).unwrap(), expected);
    }
    let left = house.poptap.stop();
    assert!(left.has_event("decision", "rule", "route-map") && left.has_event("decision", "tag", "old"));
    assert!(left.events.iter().chain(&left.sessions).all(|record| !record.to_string().contains(SECRET)));
    assert!(!left.log.contains(SECRET) && !left.log.contains("old.example"), "{}", left.log);
}

#[test]
fn auth_plain_with_and_without_initial_response_and_another_name() {
    let house = House::new();
    let message = |user: &str| STANDARD.encode(format!("\0{user}\0{SECRET}"));
    let (asked, told) = (message("eve@new.example"), message("eve"));
    let heard = house.talk(format!("AUTH PLAIN {asked}\r\nQUIT\r\n").as_bytes(), 1000);
    assert_eq!(heard, "+OK ready\r\n+OK in\r\n+OK\r\n");
    assert_eq!(String::from_utf8(house.new.heard()).unwrap(), format!("AUTH PLAIN {told}\r\nQUIT\r\n"));
    let heard = house.talk(format!("AUTH PLAIN\r\n*\r\nAUTH PLAIN\r\n{asked}\r\nSTAT\r\nQUIT\r\n").as_bytes(), 3);
    assert_eq!(heard, "+OK ready\r\n+ \r\n-ERR authentication cancelled\r\n+ \r\n+OK in\r\n+OK 3 14\r\n+OK\r\n");
    assert_eq!(String::from_utf8(house.new.heard()).unwrap(), format!("AUTH PLAIN\r\n{told}\r\nSTAT\r\nQUIT\r\n"));
}

#[test]
fn behind_a_refusal_another_user_may_try_another_server() {
    let house = House::new();
    let said = format!(
        "USER bob\r\nPASS wrong\r\nUSER x@gone.example\r\nPASS {SECRET}\r\nUSER eve@new.example\r\nPASS {SECRET}\r\nQUIT\r\n"
    );
    let heard = house.talk(said.as_bytes(), 1000);
    let replies: Vec<_> = heard.lines().collect();
    assert_eq!(replies[2], "-ERR [AUTH] not you");
    assert!(replies[4].starts_with("-ERR [SYS/TEMP] cannot connect"), "{heard}");
    assert_eq!(replies[6..], ["+OK in", "+OK"], "{heard}");
    assert_eq!(String::from_utf8(house.old.heard()).unwrap(), "USER robert\r\nPASS wrong\r\n");
    assert_eq!(String::from_utf8(house.new.heard()).unwrap(), format!("USER eve\r\nPASS {SECRET}\r\nQUIT\r\n"));
}

#[test]
fn a_server_that_lies_is_not_believed() {
    for (greeting, answer) in
        [(&b"-ERR busy\r\n"[..], &b""[..]), (b"+OK\r\n+OK early\r\n", b""), (b"+OK\r\n", b"+OK\r\n+OK in\r\n"), (b"+OK\r\n", b"")]
    {
        let server = Server::times(1, move |mut stream| {
            stream.write_all(greeting).unwrap();
            if greeting == b"+OK\r\n" {
                let line = read_line(&mut stream);
                stream.write_all(answer).unwrap();
                return line.unwrap_or_default();
            }
            read_line(&mut stream).unwrap_or_default()
        });
        let house = House::with(server, "");
        let heard = house.talk(format!("USER bob\r\nPASS {SECRET}\r\nQUIT\r\n").as_bytes(), 1000);
        assert!(heard.contains("-ERR [SYS/TEMP]") && heard.ends_with("+OK bye\r\n") && !heard.contains("+OK in"), "{heard}");
    }
}

#[test]
fn who_belongs_nowhere_is_refused_and_a_map_is_read_anew() {
    let mut house = House::new();
    let said = format!("USER carl\r\nPASS {SECRET}\r\nQUIT\r\n");
    assert_eq!(house.talk(said.as_bytes(), 1000), "+OK ready\r\n+OK send PASS\r\n-ERR [AUTH] login refused\r\n+OK bye\r\n");
    let map = house.folder.path().join("users.map");
    fs::write(&map, "carl new\ncarl old\n").unwrap();
    house.poptap.signal(Signal::HUP);
    let line = house.poptap.log_line("reload failed");
    assert!(line.contains("users.map:2: this name stands in line 1 already"), "{line}");
    fs::write(&map, "carl new\n").unwrap();
    house.poptap.signal(Signal::HUP);
    house.poptap.log_line("reloaded");
    assert!(house.talk(said.as_bytes(), 1000).contains("+OK in\r\n"));
}

/// The record names the server that serves, once, whichever of them it is.
#[test]
fn who_belongs_nowhere_falls_back_on_the_first_server_that_is_there() {
    for (fallback, expected) in [("['gone', 'new']", "new"), ("['old', 'gone']", "old")] {
        let house = House::with(Server::times(20, mailbox), &format!("upstream = {fallback}"));
        let heard = house.talk(format!("USER carol\r\nPASS {SECRET}\r\nQUIT\r\n").as_bytes(), 1000);
        assert_eq!(heard, "+OK ready\r\n+OK send PASS\r\n+OK in\r\n+OK\r\n", "{fallback}");
        let left = house.poptap.stop();
        assert_eq!(left.session()["upstream"], expected);
        let reached = left.events.iter().filter(|event| event["event"] == "reached").count();
        assert_eq!(reached, 1, "{fallback}: {:#?}", left.events);
    }
}
