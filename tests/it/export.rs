//! `poptap sessions export` and `sessions scrub`, through the built binary.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Output, Stdio},
};

use tempfile::TempDir;

use crate::support::{
    mailbox::{GREETING, mailbox},
    outside::{Client, Poptap, SECRET, Server, command, run},
};

/// The store of a session that retrieved one message, which was kept.
fn recorded() -> TempDir {
    let (server, kept) = (Server::once(mailbox), tempfile::tempdir().unwrap());
    let arguments = ["--upstream", &server.url("pop3"), "--transcript", kept.path().to_str().unwrap(), "--content", "full"];
    let poptap = Poptap::start_in(tempfile::tempdir().unwrap(), "", &arguments, Stdio::null());
    let mut client = Client::to(poptap.address);
    assert_eq!(client.line(), GREETING);
    for line in ["USER tim", &format!("PASS {SECRET}"), "RETR 1"] {
        assert!(client.ask(line).starts_with("+OK"), "{line}");
    }
    client.body();
    client.say(b"QUIT\r\n");
    client.rest();
    poptap.stop();
    kept
}

fn sessions(store: &Path, words: &[&str]) -> Output {
    run(command(store).arg("sessions").args(words).arg("--transcript").arg(store))
}

fn text(octets: &[u8]) -> String {
    String::from_utf8(octets.to_vec()).unwrap()
}

#[test]
fn a_session_is_exported_in_every_form() {
    let (store, folder) = (recorded(), tempfile::tempdir().unwrap());
    let shown = sessions(store.path(), &["show", "--last"]).stdout;
    assert_eq!(sessions(store.path(), &["export", "--last"]).stdout, shown);
    assert_eq!(sessions(store.path(), &["export", "--last", "--output", "-"]).stdout, shown);
    assert_eq!(sessions(store.path(), &["export", "--last", "--format", "eml", "--output", "-"]).status.code(), Some(64));
    let mbox = sessions(store.path(), &["export", "--last", "--format", "mbox"]);
    assert!(text(&mbox.stdout).ends_with("\nSubject: x\n\nhello\n.\n\n"), "{}", text(&mbox.stdout));
    assert_eq!(text(&mbox.stderr), "1 message written\n");
    let packets = sessions(store.path(), &["export", "--last", "--format", "pcapng"]).stdout;
    let (begins, said) = ([0x0a, 0x0d, 0x0d, 0x0a], b"hello\r\n..\r\n.\r\n");
    assert!(packets.starts_with(&begins) && packets.windows(said.len()).any(|window| window == said));
    assert!(!packets.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()));

    for format in ["text", "jsonl", "pcapng", "mbox", "eml"] {
        let place = folder.path().join(format);
        let words = ["export", "--last", "--format", format, "--output", place.to_str().unwrap()];
        let exported = sessions(store.path(), &words);
        assert!(exported.status.success() && exported.stdout.is_empty(), "{format}: {}", text(&exported.stderr));
        let file = if format == "eml" { fs::read_dir(&place).unwrap().next().unwrap().unwrap().path() } else { place.clone() };
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{format}");
        let before = fs::read(&file).unwrap();
        let again = sessions(store.path(), &words);
        assert_eq!(again.status.code(), Some(73), "{format}");
        assert!(text(&again.stderr).contains("--force replaces it"), "{format}");
        assert_eq!(fs::read(&file).unwrap(), before);
        assert!(sessions(store.path(), &[&words[..], &["--force"]].concat()).status.success(), "{format}");
    }
    assert_eq!(sessions(store.path(), &["export", "zzzz"]).status.code(), Some(69));
    assert_eq!(sessions(store.path(), &["export"]).status.code(), Some(64));
}

#[test]
fn a_scrubbed_copy_names_nobody_and_is_shown() {
    let (store, folder) = (recorded(), tempfile::tempdir().unwrap());
    let copy = folder.path().join("copy");
    let scrubbed = sessions(store.path(), &["scrub", "--last", "--output", copy.to_str().unwrap()]);
    assert!(scrubbed.status.success(), "{}", text(&scrubbed.stderr));
    let files = text(&scrubbed.stdout);
    assert_eq!(files.lines().count(), 2);
    for file in files.lines() {
        let written = fs::read_to_string(file).unwrap();
        for name in ["\"tim\"", " tim", "127.0.0.1", "ready", "mail", SECRET] {
            assert!(!written.contains(name), "{name} in {written}");
        }
    }
    let shown = text(&sessions(&copy, &["show", "--last"]).stdout);
    for expected in ["client    192.0.2.1:", "C: USER ", "C: RETR 1", "S: +OK 5", "== complete: 1 message, "] {
        assert!(shown.contains(expected), "{expected} in {shown}");
    }
    let [times, sizes] = ["at_us", "octets"].map(|name| {
        let of = |store: &Path| {
            let lines = text(&sessions(store, &["show", "--last", "--json"]).stdout);
            let values: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            values.iter().map(|value| value[name].clone()).collect::<Vec<_>>()
        };
        (of(store.path()), of(&copy))
    });
    assert!(times.0 == times.1 && sizes.0 == sizes.1, "{times:?} {sizes:?}");
}
