//! Stores made by hand, for the tests of this module.

use std::{fs, path::Path};

use tempfile::TempDir;

use super::{InspectError, Selection, View, Which, list, show};
use crate::record::schema::Record;

/// Text without colours.
pub(super) const TEXT: View = View { json: false, colour: false, width: None, bodies: false };
/// JSON Lines.
pub(super) const JSON: View = View { json: true, ..TEXT };

/// A store in a directory of its own.
pub(super) struct Shelf {
    directory: TempDir,
}

impl Shelf {
    pub(super) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn with(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        fs::write(self.path().join(name), content).unwrap();
        self
    }

    /// Output and reports of `sessions list`.
    pub(super) fn list(&self, view: View) -> (String, String) {
        self.list_of(&Selection::all(), view)
    }

    /// The same of a selection.
    pub(super) fn list_of(&self, selection: &Selection, view: View) -> (String, String) {
        let (result, out, err) = captured(|out, err| list(self.path(), selection, view, out, err));
        result.unwrap();
        (out, err)
    }

    /// Output and reports of `sessions show`.
    pub(super) fn show(&self, id: &str, view: View) -> (String, String) {
        let (result, out, err) = captured(|out, err| show(self.path(), &Which::Id(id.to_owned()), view, out, err));
        result.unwrap();
        (out, err)
    }

    /// The error of `sessions show`, without the directory's name.
    pub(super) fn error(&self, which: &Which) -> String {
        let (result, out, _) = captured(|out, err| show(self.path(), which, TEXT, out, err));
        assert_eq!(out, "");
        result.unwrap_err().to_string().replace(&*self.path().to_string_lossy(), "DIR")
    }
}

pub(super) fn captured<T>(
    command: impl FnOnce(&mut Vec<u8>, &mut Vec<u8>) -> Result<T, InspectError>,
) -> (Result<T, InspectError>, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let result = command(&mut out, &mut err);
    (result, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// A line of a transcript: the fields that all have, `at` in milliseconds, and those of `body`.
pub(super) fn line(session: &str, at: u64, body: &str) -> String {
    let (seconds, milliseconds) = (at / 1000, at % 1000);
    let time = format!("2026-11-23T06:30:{seconds:02}.{milliseconds:03}000Z");
    format!("{{\"v\":1,\"session\":\"{session}\",\"time\":\"{time}\",\"at_us\":{},{body}}}\n", at * 1000)
}

pub(super) fn record(line: &str) -> Record {
    serde_json::from_str(line).unwrap()
}

pub(super) fn opened(session: &str, at: u64) -> String {
    let body = r#""event":"opened","client":"127.0.0.1:50312","listener":"127.0.0.1:1110","upstream":"pop3s://pop.example.net""#;
    line(session, at, body)
}

/// A summary; `start` in seconds.
pub(super) fn summary(session: &str, start: u64, user: &str, verdict: &str) -> String {
    let body = format!(
        "\"event\":\"session\",\"start\":\"2026-11-23T06:30:{start:02}.000000Z\",\"duration_us\":1250000,\
         \"client\":\"127.0.0.1:50312\",\"listener\":\"127.0.0.1:1110\",\"upstream\":\"pop3s://pop.example.net\",\
         \"user\":\"{user}\",\"logged_in\":true,\"mechanism\":\"USER\",\"login_failures\":0,\"upstream_tls\":\"TLSv1.3\",\
         \"commands\":6,\"errors\":1,\"messages\":1,\"message_octets\":34400,\"deleted\":0,\"client_octets\":64,\
         \"upstream_octets\":35100,\"client_undelivered\":0,\"upstream_undelivered\":0,\
         \"closed_by\":\"client\",\"reason\":\"quit\",\"verdict\":\"{verdict}\""
    );
    line(session, start * 1000 + 1250, &body)
}

/// A whole session's events: TLS, a login, a listing, a message, a refusal of poptap's, an unknown word, a pipelined end.
pub(super) fn conversation(session: &str) -> String {
    [
        opened(session, 0),
        line(session, 41, r#""event":"tls","hop":"upstream","mode":"implicit","version":"TLSv1.3","cipher":"TLS13_AES_256_GCM_SHA384","subject":"CN=pop.example.net","issuer":"CN=Example CA","not_after":"2027-01-23T00:00:00Z","fingerprint":"ab12""#),
        line(session, 60, r#""event":"greeting","status":"+OK","text":"+OK ready","octets":11,"offset":0"#),
        command(session, 61, 1, "CAPA", r#""text":"CAPA","octets":6"#),
        line(session, 62, r#""event":"reply","n":1,"keyword":"CAPA","status":"+OK","text":"+OK","octets":5,"offset":11,"latency_us":1000,"multi_line":true"#),
        line(session, 62, r#""event":"decision","n":1,"action":"remove-line","rule":"stls-upstream""#),
        line(session, 62, r#""event":"content","n":1,"keyword":"CAPA","octets":15,"size":12,"lines":2,"complete":true,"total_us":1000,"listing":["TOP","UIDL"]"#),
        command(session, 70, 2, "USER", r#""text":"USER bob","octets":10"#),
        reply(session, 71, 2, "USER", "+OK", 1000),
        command(session, 72, 3, "PASS", r#""text":"PASS","redacted":"secret","octets":17"#),
        reply(session, 400, 3, "PASS", "+OK Logged in.", 328_000),
        command(session, 401, 4, "RETR", r#""text":"RETR 1","octets":8"#),
        reply(session, 402, 4, "RETR", "+OK 34400 octets", 1000).replace("\"latency_us\"", "\"multi_line\":true,\"latency_us\""),
        line(session, 410, r#""event":"content","n":4,"keyword":"RETR","octets":34410,"size":34400,"header_size":600,"lines":512,"sha256":"1a2b3c4d5e6f","complete":true,"total_us":9000,"policy":"headers","kept":[{"file":"content-x.bin","offset":12,"length":600}]"#),
        command(session, 420, 5, "?", r#""redacted":"unknown","octets":9"#),
        command(session, 420, 6, "QUIT", r#""text":"QUIT","octets":6"#),
        line(session, 421, r#""event":"reply","n":5,"keyword":"?","status":"-ERR","redacted":"echo","octets":20,"offset":9,"latency_us":1000"#),
        reply(session, 422, 6, "QUIT", "+OK Bye \\\\x1B", 2000),
        line(session, 423, r#""event":"closed","by":"client","reason":"quit","client_octets":64,"upstream_octets":35100,"client_undelivered":0,"upstream_undelivered":7"#),
    ]
    .concat()
}

pub(super) fn command(session: &str, at: u64, n: u64, keyword: &str, text: &str) -> String {
    line(
        session,
        at,
        &format!("\"event\":\"command\",\"n\":{n},\"keyword\":\"{keyword}\",\"offset\":0,\"forwarded\":true,{text}"),
    )
}

pub(super) fn reply(session: &str, at: u64, n: u64, keyword: &str, text: &str, latency: u64) -> String {
    let fields = format!("\"n\":{n},\"keyword\":\"{keyword}\",\"status\":\"+OK\",\"text\":\"{text}\",\"octets\":9,\"offset\":0");
    line(session, at, &format!("\"event\":\"reply\",{fields},\"latency_us\":{latency}"))
}
