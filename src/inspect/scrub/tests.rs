//! Copies of stores made by hand, and what can be found in them.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    escape::{escape, hex},
    inspect::{Export, ExportFormat, export, testing::*},
};

const EVENTS: &str = "events-20261123T063000Z-100-1.jsonl";
const SESSIONS: &str = "sessions-20261123T063000Z-100-1.jsonl";

fn copied(lines: &[Value]) -> Vec<String> {
    let records: Vec<Record> = lines.iter().map(|line| serde_json::from_value(line.clone()).unwrap()).collect();
    let mut names = Names::default();
    for record in &records {
        learn(record, &mut names);
    }
    records.into_iter().map(|record| serde_json::to_string(&record_without(record, &mut names)).unwrap()).collect()
}

fn event(kind: &str, mut fields: Value) -> Value {
    let head = json!({"v": 1, "session": "ab12", "time": "2026-11-23T06:30:00.000000Z", "at_us": 7, "event": kind});
    fields.as_object_mut().unwrap().extend(head.as_object().unwrap().clone());
    fields
}

/// A record of every kind, with what must not be found in each place where anybody but poptap chooses the words.
fn planted(secrets: &[String], address: &str) -> Vec<Value> {
    let all = secrets.iter().map(|secret| escape(secret.as_bytes())).collect::<Vec<_>>().join(" ");
    let encoded = secrets.iter().map(|secret| format!("{} {}", STANDARD.encode(secret), hex(secret.as_bytes())));
    let all = format!("{all} {} {address}", encoded.collect::<Vec<_>>().join(" "));
    let said = |begins: &str| json!({"text": format!("{begins}{all}"), "octets": 9, "offset": 0});
    let with = |mut line: Value, fields: Value| {
        line.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        line
    };
    let command = |keyword: &str, begins: &str| {
        event(
            "command",
            with(said(begins), json!({"n": 1, "keyword": keyword, "forwarded": true, "user": all, "mechanism": all})),
        )
    };
    let reply = |keyword: &str, begins: &str| {
        let fields = json!({"n": 1, "keyword": keyword, "status": "+OK", "latency_us": 5});
        event("reply", with(said(begins), fields))
    };
    let content = |keyword: &str| {
        let listing = json!([format!("1 {all}"), all, format!("SASL {all}")]);
        let kept = json!([{"file": all, "offset": 0, "length": 7}]);
        let sizes = json!({"n": 1, "keyword": keyword, "octets": 9, "size": 6, "lines": 1, "complete": true, "total_us": 3});
        event("content", with(sizes, json!({"listing": listing, "kept": kept, "sha256": all, "policy": "full"})))
    };
    let host = format!("{address}:1110");
    let mut planted = opening(&all, &host);
    planted.extend([
        event("greeting", with(said("+OK "), json!({"status": "+OK"}))),
        event("sasl", json!({"from": "client", "auth": 1, "octets": 9, "offset": 0, "user": all, "revealed": all})),
        event("unsolicited", with(said("-ERR ["), json!({"status": "-ERR"}))),
        event("decision", json!({"action": "rewrite", "rule": "r", "line": format!("USER {all}")})),
        event("decision", json!({"action": "answer", "rule": "r", "line": format!("-ERR {all}")})),
        event("decision", json!({"action": "route", "rule": "route-map", "tag": all})),
        event("opaque", json!({"reason": "starttls", "explanation": all})),
        event("anomaly", json!({"id": "bare-lf", "explanation": all})),
        event(
            "closed",
            json!({
                "by": "client", "reason": "eof", "detail": all, "client_octets": 1, "upstream_octets": 2,
                "client_undelivered": 0, "upstream_undelivered": 0,
            }),
        ),
    ]);
    for (keyword, begins) in [
        ("USER", "USER "),
        ("PASS", "PASS "),
        ("APOP", "apop "),
        ("AUTH", "AUTH PLAIN "),
        ("RETR", "RETR "),
        ("UIDL", "UIDL "),
        ("?", ""),
    ] {
        planted.extend([command(keyword, begins), reply(keyword, "+OK 1 "), reply(keyword, "")]);
    }
    planted.push(command(&all, "LIST "));
    planted.extend(["UIDL", "CAPA", "LIST", "RETR", "AUTH", "LANG"].map(content));
    planted.push(summary_of(&all, &host));
    planted
}

/// What is recorded before anybody has said anything.
fn opening(all: &str, host: &str) -> Vec<Value> {
    let announced = json!({
        "header": "v2", "destination": host, "tls_version": all, "tls_cipher": all, "tls_name": all, "sni": all, "alpn": all,
    });
    vec![
        event(
            "opened",
            json!({
                "client": host, "listener": all, "destination": host, "proxied_by": host, "announced": announced,
                "upstream": format!("pop3s://{all}"), "credentials_revealed": true,
            }),
        ),
        event("unreached", json!({"upstream": all, "reason": "upstream-tls", "detail": format!("cannot reach {all} at {host}")})),
        event("reached", json!({"upstream": format!("pop3+unix:///run/{all}"), "resting": [all, format!("pop3://{host}")]})),
        event(
            "tls",
            json!({
                "hop": "client", "mode": "implicit", "version": "TLSv1.3", "cipher": "TLS13_AES_256_GCM_SHA384", "sni": all,
                "alpn": [all], "subject": format!("CN={all}, O={all}"), "issuer": all, "fingerprint": all,
                "not_after": "2027-01-23T12:34:56Z",
            }),
        ),
    ]
}

fn summary_of(all: &str, address: &str) -> Value {
    let summary: Value = serde_json::from_str(&summary("ab12", 0, "bob", "complete")).unwrap();
    let mut fields = summary.as_object().unwrap().clone();
    let words = json!({"user": all, "verdict": all, "mechanism": all, "upstream": all, "client": address, "listener": all, "destination": address, "proxied_by": address});
    fields.extend(words.as_object().unwrap().clone());
    fields.into()
}

/// A secret as whoever looks for it would: whole and word by word, in every form.
fn forms(secret: &str) -> BTreeSet<String> {
    let words = secret.split(['@', '.', '-', ' ']).filter(|word| word.chars().count() > 3);
    let shapes = |word: &str| {
        let octets = word.as_bytes();
        [word.to_lowercase(), escape(octets).to_lowercase(), STANDARD.encode(octets).to_lowercase(), hex(octets)]
    };
    words.chain([secret]).flat_map(shapes).map(|form| form.trim_end_matches('=').to_owned()).collect()
}

fn a_secret() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{5,9}[0-9]{1,3}",
        "[A-Z][a-z]{6,9}\\.[a-z]{5,9}@[a-z]{6,9}\\.[a-z]{4}",
        "[a-zA-Z0-9]{12,24}",
        "[A-Za-z]{4,6}[_$%&*^~]{1,2}[0-9a-z]{4,6}",
        "[éßž日]{2,3}[a-zé]{4,6}",
        // A number that is somebody's name.
        "[1-9][0-9]{5,9}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn nothing_planted_is_found(
        secrets in prop::collection::vec(a_secret(), 1..5),
        address in (11u8..100, 1u8..100, 1u8..100, 1u8..100),
    ) {
        let address = format!("{}.{}.{}.{}", address.0, address.1, address.2, address.3);
        let planted = planted(&secrets, &address);
        let originals: String = planted.iter().map(Value::to_string).collect::<String>().to_lowercase();
        let copies = copied(&planted);
        let copy = copies.concat().to_lowercase();
        for secret in &secrets {
            prop_assert!(originals.contains(&secret.to_lowercase()));
            for form in forms(secret) {
                prop_assert!(!copy.contains(&form), "{form} of {secret} in {}", copies.iter().find(|line| line.to_lowercase().contains(&form)).unwrap());
            }
        }
        prop_assert!(!copy.contains(&address));
    }
}

#[test]
fn each_kind_of_record_has_its_copy() {
    let kinds: BTreeSet<_> = planted(&["x".to_owned()], "192.0.2.1").iter().map(|line| line["event"].to_string()).collect();
    // All but those that hold nothing but numbers and words of poptap's.
    assert_eq!(kinds.len(), 17 - 2, "{kinds:?}");
}

fn scrubbed(shelf: &Shelf, output: &Path) -> Result<Vec<PathBuf>, ExportError> {
    scrub(&Scrub { directory: shelf.path(), which: &[Which::Id("s1".to_owned())], output, force: false }, &mut Vec::new())
}

fn one_session() -> Shelf {
    let events = conversation("s1") + &opened("s2", 0);
    Shelf::new().with(EVENTS, events).with(SESSIONS, summary("s1", 0, "bob", "complete: 1 message, 34 kB"))
}

#[test]
fn a_copy_is_a_store_that_can_be_shown() {
    let shelf = one_session();
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("copy");
    let files = scrubbed(&shelf, &store).unwrap();
    assert!(files.iter().all(|file| fs::metadata(file).unwrap().permissions().mode() & 0o777 == 0o600));
    let mut out = Vec::new();
    crate::inspect::show(&store, &Which::Last, TEXT, &mut out, &mut Vec::new()).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text, COPY);
    assert!(matches!(scrubbed(&shelf, &store), Err(ExportError::Exists(_))));
}

const COPY: &str = "\
session   s1
opened    2026-11-23 06:30:00 UTC, lasted 1.2 s
client    192.0.2.1:50312 on 192.0.2.1:1110, plain
upstream  pop3s://xxa.xxxxxxa.xxb, TLSv1.3 (implicit, TLS13_AES_256_GCM_SHA384)
          certificate CN=xxa.xxxxxxa.xxb
          issued by CN=xxxxxxa xa
          valid until 2027-01-23T00:00:00Z
          SHA-256 xxxa
user      xxc, logged in with USER

  +0.041  -- TLS with the server (implicit): TLSv1.3, TLS13_AES_256_GCM_SHA384; certificate CN=xxa.xxxxxxa.xxb; issued by CN=xxxxxxa xa; valid until 2027-01-23T00:00:00Z
  +0.060  S: +OK xxxxa
  +0.061  C: CAPA
  +0.062  S: +OK  (after 1.0 ms)
  +0.062  -- command 1: poptap leaves a line out of the server's answer (rule stls-upstream)
  +0.062  S: TOP
          S: UIDL
          S: .
  +0.070  C: USER xxc
  +0.071  S: +OK  (after 1.0 ms)
  +0.072  C: PASS <withheld, 17 octets>
  +0.400  S: +OK xxxxxa xb.  (after 328 ms)
  +0.401  C: RETR 1
  +0.402  S: +OK 34400 octets  (after 1.0 ms)
  +0.410  S: [message: 512 lines, 34 kB]
  +0.420  C: [5] <unknown, so withheld, 9 octets>
  +0.420  C: [6] QUIT
  +0.421  S: [5] <withheld, since it repeats a secret, 20 octets>  (after 1.0 ms)
  +0.422  S: [6] +OK xxd \\x1b  (after 2.0 ms)
  +0.423  -- closed by the client (quit)
          !! 7 octets of the server's never reached the client

== complete: 1 message, 34 kB
   6 commands (64 octets from the client, 35 kB from the server), 1 message retrieved (34 kB), 1 answered -ERR
";

#[test]
fn a_copy_may_be_one_file_and_be_exported() {
    let shelf = one_session();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events-copy.jsonl");
    assert_eq!(scrubbed(&shelf, &file).unwrap(), [file.as_path()]);
    let lines = fs::read_to_string(&file).unwrap();
    assert_eq!(lines.lines().count(), conversation("s1").lines().count() + 1);
    let which = Which::Last;
    let job = Export {
        directory: folder.path(),
        which: &which,
        format: ExportFormat::Pcapng,
        output: None,
        force: false,
        filler: 100_000,
    };
    export(&job, &mut Vec::new(), &mut Vec::new()).unwrap();
}

#[test]
fn a_session_that_is_not_there_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let shelf = Shelf::new().with(EVENTS, opened("s2", 0));
    assert!(matches!(scrubbed(&shelf, &folder.path().join("copy")), Err(ExportError::Inspect(_))));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
