//! A secret in every form that POP3 has, in one piece and octet by octet, and then a look into everything that was written:
//! the transcript, the conversation on standard output, the log, the counts, the live page, and what the reading commands print.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::Write,
    net::SocketAddr,
    path::Path,
    process::Stdio,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{
    http::{ask, get},
    outside::{Client, Poptap, Server, command, read_line, run},
};

/// Of each form: what a client sends, with `{}` for the secret, and what stands in `[[…]]` in base64. Behind each part it waits
/// for a reply.
const FORMS: [(&str, &[&str]); 24] = [
    ("PASS", &["USER tim\r\n", "PASS {}\r\n"]),
    ("lower case", &["user tim\r\n", "pass {}\r\n"]),
    ("blanks before", &["USER tim\r\n", "  PASS {}\r\n"]),
    ("a tab between", &["USER tim\r\n", "PASS\t{}\r\n"]),
    ("a bare line feed", &["USER tim\n", "PASS {}\n"]),
    ("blanks within", &["USER tim\r\n", "PASS  {} {}  {}\r\n"]),
    ("pipelined", &["USER tim\r\nPASS {}\r\nSTAT\r\n"]),
    ("PASS without USER", &["PASS {}\r\n"]),
    ("no keyword", &["USER tim\r\n", "{}\r\n"]),
    ("no keyword behind a failed login", &["USER tim\r\n", "PASS wrong\r\n", "{}\r\n"]),
    ("a wrong keyword", &["USER tim\r\n", "PAS {}\r\n"]),
    ("glued to the keyword", &["USER tim\r\n", "PASS{}\r\n"]),
    ("an APOP digest", &["APOP tim {}\r\n"]),
    ("AUTH PLAIN at once", &["AUTH PLAIN [[\0tim\0{}]]\r\n"]),
    ("AUTH PLAIN", &["AUTH PLAIN\r\n", "[[\0tim\0{}]]\r\n"]),
    ("AUTH PLAIN, pipelined", &["AUTH PLAIN\r\n[[\0tim\0{}]]\r\n"]),
    ("AUTH LOGIN", &["AUTH LOGIN\r\n", "[[tim]]\r\n", "[[{}]]\r\n"]),
    ("AUTH LOGIN with a name", &["AUTH LOGIN [[tim]]\r\n", "[[{}]]\r\n"]),
    ("AUTH CRAM-MD5", &["AUTH CRAM-MD5\r\n", "[[tim {}]]\r\n"]),
    ("AUTH XOAUTH2", &["AUTH XOAUTH2 [[user=tim\x01auth=Bearer {}\x01\x01]]\r\n"]),
    ("AUTH OAUTHBEARER", &["AUTH OAUTHBEARER [[n,a=tim,\x01auth=Bearer {}\x01\x01]]\r\n"]),
    ("AUTH SCRAM", &["AUTH SCRAM-SHA-256 [[n,,n=tim,r=abc]]\r\n", "[[c=biws,r=abc,p={}]]\r\n"]),
    ("AUTH that is not in base64", &["AUTH PLAIN\r\n", "tim {}\r\n"]),
    ("XCLIENT", &["XCLIENT ADDR=192.0.2.1 FORWARD=[[pass={}]]\r\n"]),
];

#[test]
fn no_secret_is_in_anything_that_is_written() {
    let found = searched(&FORMS, &[]);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Whoever asks for passwords gets them: so the search would find one that was not asked for.
#[test]
fn where_credentials_are_revealed_they_are_found() {
    let found = searched(&FORMS[..1], &["--reveal-credentials"]);
    for sink in ["the page's events", "the page's conversations", "what was shown", "the reading commands", "events-"] {
        assert!(found.iter().any(|leak| leak.starts_with(sink)), "{sink} holds none: {found:#?}");
    }
    for sink in ["the log", "the metrics"] {
        assert!(!found.iter().any(|leak| leak.starts_with(sink)), "{sink} holds one: {found:#?}");
    }
}

/// Has secrets sent in these forms, and says where one can be found.
fn searched(forms: &[(&str, &[&str])], more: &[&str]) -> Vec<String> {
    let count = 2 * forms.len();
    let server = Server::times(count, repeating);
    let folder = TempDir::with_prefix("poptap-it-").unwrap();
    let (store, shown) = (folder.path().join("transcript"), folder.path().join("shown"));
    let arguments = ["--transcript", store.to_str().unwrap(), "--upstream", &server.url("pop3"), "--live", "always"];
    let web = ["--metrics", "127.0.0.1:0", "--web", "127.0.0.1:0", "--content", "full"];
    let arguments = [&arguments[..], &web, more].concat();
    let mut poptap = Poptap::start_in(folder, "", &arguments, Stdio::from(File::create(&shown).unwrap()));
    let mut page = Page::open(&mut poptap);
    let metrics = address_in(&poptap.said("metrics are served at http://"));
    let mut secrets = Vec::new();
    for (number, (form, script)) in forms.iter().enumerate() {
        for (way, size) in [("whole", usize::MAX), ("octet by octet", 1)] {
            let secret = format!("Vq{number:02}x{}-quokka-Plum", usize::from(size == 1));
            talk(&poptap, script, &secret, size);
            secrets.push((format!("{form}, {way}"), secret));
        }
    }
    let sinks = [
        ("the metrics", get(metrics, "/metrics", &[]).body.into_bytes()),
        ("the page's events", page.events(count)),
        ("the page's conversations", page.conversations(&store)),
        ("what was shown", fs::read(&shown).unwrap()),
        ("the reading commands", read_back(&store)),
    ];
    assert!(sinks.iter().all(|(sink, octets)| octets.len() > 200 || panic!("{sink} is all but empty")));
    let mut found: Vec<String> = sinks.iter().flat_map(|(sink, octets)| leaks(sink, octets, &secrets)).collect();
    found.extend(poptap.files().iter().flat_map(|(file, octets)| leaks(file, octets, &secrets)));
    poptap.signal(Signal::TERM);
    let log = poptap.rest_of_the_log();
    assert!(log.contains("session closed"), "{log}");
    found.extend(leaks("the log", log.as_bytes(), &secrets));
    found
}

/// Greets, repeats every line in an `-ERR`, and asks on where that is AUTH: the worst that a server can do.
fn repeating(mut stream: std::net::TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    if stream.write_all(b"+OK ready <17.4@x> [XCLIENT]\r\n").is_err() {
        return heard;
    }
    let mut asked = 0;
    while let Some(line) = read_line(&mut stream) {
        heard.extend_from_slice(&line);
        let upper = line.to_ascii_uppercase();
        let (is_auth, is_user) = (upper.starts_with(b"AUTH"), upper.starts_with(b"USER"));
        asked = if is_auth { 2 } else { asked };
        let reply = if is_user {
            b"+OK\r\n".to_vec()
        } else if asked > 1 {
            b"+ VXNlcm5hbWU6\r\n".to_vec()
        } else {
            [&b"-ERR what is "[..], line.trim_ascii_end(), b" again\r\n"].concat()
        };
        asked = usize::saturating_sub(asked, 1);
        if stream.write_all(&reply).is_err() || upper.starts_with(b"QUIT") {
            break;
        }
    }
    heard
}

/// Says a script in pieces of so many octets, and goes.
fn talk(poptap: &Poptap, script: &[&str], secret: &str, size: usize) {
    let mut client = poptap.connect();
    client.line();
    for part in script {
        filled(part, secret).as_bytes().chunks(size).for_each(|piece| {
            client.say(piece);
        });
        client.line();
    }
    client.0.shutdown(std::net::Shutdown::Write).unwrap();
    client.last();
}

/// A part of a script with its secret.
fn filled(part: &str, secret: &str) -> String {
    let part = part.replace("{}", secret);
    match part.split_once("[[").and_then(|(before, rest)| Some((before, rest.split_once("]]")?))) {
        Some((before, (encoded, behind))) => format!("{before}{}{behind}", STANDARD.encode(encoded)),
        None => part,
    }
}

/// In clear, in base64 however it lies, in hexadecimal, and each of them backwards.
fn leaks(sink: &str, octets: &[u8], secrets: &[(String, String)]) -> Vec<String> {
    let mut found = Vec::new();
    let folded = octets.to_ascii_lowercase();
    for (form, secret) in secrets {
        // What stands before the last letters is enough to tell them apart.
        for (kind, needle) in forms_of(secret) {
            let haystack = if kind.starts_with("base64") { octets } else { &folded };
            let backwards: Vec<u8> = needle.iter().rev().copied().collect();
            if [needle, backwards].iter().any(|needle| memchr::memmem::find(haystack, needle).is_some()) {
                found.push(format!("{sink} holds the secret of `{form}` in {kind}"));
            }
        }
    }
    found
}

fn forms_of(secret: &str) -> Vec<(&'static str, Vec<u8>)> {
    let secret = secret.as_bytes();
    let hex = secret.iter().fold(String::new(), |mut hex, octet| {
        let _ = write!(hex, "{octet:02x}");
        hex
    });
    let mut forms = vec![("clear", secret.to_ascii_lowercase()), ("hexadecimal", hex.into_bytes())];
    for (before, kind) in [(0, "base64"), (1, "base64 behind one octet"), (2, "base64 behind two octets")] {
        let encoded = STANDARD.encode([&vec![b'x'; before], secret].concat());
        // The first and the last letters depend on what stands beside it.
        forms.push((kind, encoded.as_bytes()[4..encoded.len() - 4].to_vec()));
    }
    forms
}

/// What the commands print that read a transcript.
fn read_back(store: &Path) -> Vec<u8> {
    let mut printed = Vec::new();
    let ids = ids(store);
    let mut read = |arguments: &[&str]| {
        let output = run(command(store).args(["sessions", arguments[0], "--transcript"]).arg(store).args(&arguments[1..]));
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        printed.extend([output.stdout, output.stderr].concat());
    };
    read(&["list"]);
    read(&["list", "--json"]);
    read(&["grep", "commands > 0"]);
    read(&["stats"]);
    read(&["audit"]);
    for id in &ids {
        read(&["show", id]);
        read(&["export", id, "--format", "text"]);
        read(&["export", id, "--format", "jsonl"]);
    }
    printed
}

fn ids(store: &Path) -> Vec<String> {
    let output = run(command(store).args(["sessions", "list", "--json", "--transcript"]).arg(store));
    let text = String::from_utf8(output.stdout).unwrap();
    let id = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["session"].as_str().unwrap().to_owned();
    text.lines().map(id).collect()
}

fn address_in(line: &str) -> SocketAddr {
    let (_, url) = line.split_once("http://").unwrap();
    url.split('/').next().unwrap().parse().unwrap()
}

/// The live page, as a browser has it.
struct Page {
    address: SocketAddr,
    cookie: String,
    stream: Client,
}

impl Page {
    fn open(poptap: &mut Poptap) -> Self {
        let line = poptap.said("/?token=");
        let (address, token) = (address_in(&line), line.split_once("?token=").unwrap().1.trim().to_owned());
        let answer = get(address, &format!("/?token={token}"), &[]);
        let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        let stream = ask(address, "/api/events", &[("Cookie", &cookie)], "");
        Self { address, cookie, stream }
    }

    /// What it is sent until so many sessions have ended.
    fn events(&mut self, sessions: usize) -> Vec<u8> {
        let (mut all, mut ended) = (Vec::new(), 0);
        while ended < sessions {
            let line = self.stream.line();
            assert!(!line.is_empty(), "the stream ended behind {ended} sessions");
            ended += usize::from(line.contains(r#""event":"session""#));
            all.extend(line.into_bytes());
        }
        all
    }

    fn conversations(&self, store: &Path) -> Vec<u8> {
        let one = |id: &String| get(self.address, &format!("/api/session/{id}"), &[("Cookie", &self.cookie)]).body.into_bytes();
        ids(store).iter().flat_map(one).collect()
    }
}

#[test]
fn the_search_finds_what_it_looks_for() {
    let secrets = [("a form".to_owned(), "Vq00x0-quokka-Plum".to_owned())];
    let base64 = |before: &str| STANDARD.encode(format!("{before}Vq00x0-quokka-Plum\u{1}"));
    for hidden in ["Vq00x0-quokka-Plum", "xVQ00X0-QUOKKA-PLUMx", "mulP-akkouq-0x00qV", "567130307830"] {
        let found = leaks("a file", format!("..{hidden}2d71756f6b6b612d506c756d..").as_bytes(), &secrets);
        assert!(!found.is_empty(), "{hidden}");
    }
    for before in ["", "\0tim\0", "a", "ab", "abc"] {
        assert_eq!(leaks("a file", base64(before).as_bytes(), &secrets).len(), 1, "{before:?}");
    }
    assert!(leaks("a file", b"Vq00x0-quokka-Plu", &secrets).is_empty());
}
