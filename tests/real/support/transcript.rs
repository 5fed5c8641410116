//! What poptap recorded, read as anybody would read it: JSON Lines, with no help from poptap's own code.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::PASSWORD;

/// All that a proxy left behind.
pub(crate) struct Transcript {
    /// The lines of the events stream, in order.
    pub(crate) events: Vec<Value>,
    /// The lines of the sessions stream, in order.
    pub(crate) sessions: Vec<Value>,
    /// Every file of the transcript's folder, whatever it is, decompressed where it was compressed; and the log.
    sinks: Vec<(PathBuf, Vec<u8>)>,
}

impl Transcript {
    /// Read a transcript's folder; `log` is what poptap printed.
    pub(crate) fn read(folder: &Path, log: String) -> Self {
        let mut sinks = files(folder);
        let stream = |name: &str| {
            let of_stream = |path: &Path| path.file_name().unwrap().to_string_lossy().starts_with(name);
            sinks.iter().filter(|(path, _)| of_stream(path)).flat_map(|(path, octets)| lines(path, octets)).collect()
        };
        let (events, sessions) = (stream("events-"), stream("sessions-"));
        sinks.push((PathBuf::from("the log"), log.into_bytes()));
        let transcript = Self { events, sessions, sinks };
        transcript.assert_no_secret(PASSWORD.as_bytes());
        transcript.assert_well_formed();
        transcript
    }

    /// The events of one kind.
    pub(crate) fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.events.iter().filter(move |event| event["event"] == kind)
    }

    /// The keywords of the commands, in order.
    pub(crate) fn keywords(&self) -> Vec<&str> {
        self.of_kind("command").map(|event| event["keyword"].as_str().unwrap()).collect()
    }

    /// The digests of the messages that a session retrieved, in order.
    pub(crate) fn digests_of(&self, session: &str) -> Vec<&str> {
        let messages = self.of_kind("content").filter(|event| event["session"] == session && event["keyword"] == "RETR");
        messages.map(|event| event["sha256"].as_str().expect("a digest of each message")).collect()
    }

    /// The only session there was.
    pub(crate) fn only_session(&self) -> &Value {
        assert_eq!(self.sessions.len(), 1, "{:#?}", self.sessions);
        &self.sessions[0]
    }

    /// Fail when a secret stands anywhere, as it is or in base64, alone or as a part of something longer.
    pub(crate) fn assert_no_secret(&self, secret: &[u8]) {
        for form in forms_of(secret) {
            for (path, octets) in &self.sinks {
                let found = octets.windows(form.len()).any(|window| window == form);
                assert!(!found, "{} holds a secret, as {:?}", path.display(), String::from_utf8_lossy(&form));
            }
        }
    }

    /// Each line has the fields that all have, and each session an end and a summary.
    fn assert_well_formed(&self) {
        assert!(!self.events.is_empty(), "nothing was recorded");
        for line in self.events.iter().chain(&self.sessions) {
            assert_eq!(line["v"], 1, "{line}");
            assert!(line["session"].is_string() && line["time"].is_string() && line["at_us"].is_u64(), "{line}");
        }
        let (opened, closed) = (self.of_kind("opened").count(), self.of_kind("closed").count());
        assert_eq!((opened, closed), (self.sessions.len(), self.sessions.len()), "sessions opened, closed, and summed up");
        assert_eq!(self.of_kind("gap").count(), 0, "the record has gaps");
    }
}

/// SHA-256 in lower-case hexadecimal.
pub(crate) fn sha256(octets: &[u8]) -> String {
    digest(&SHA256, octets).as_ref().iter().fold(String::new(), |mut text, octet| {
        let _ = write!(text, "{octet:02x}");
        text
    })
}

/// As `assert_eq!` of two mailboxes, but without printing megabytes.
pub(crate) fn assert_same(expected: &[Vec<u8>], got: &[Vec<u8>], what: &str) {
    assert_eq!(expected.len(), got.len(), "{what}: the number of messages");
    for (index, (expected, got)) in expected.iter().zip(got).enumerate() {
        let place = expected.iter().zip(got).position(|(one, other)| one != other);
        let number = index + 1;
        assert!(expected == got, "{what}: message {number}: {} octets became {}, from {place:?} on", expected.len(), got.len());
    }
}

/// How a secret may look: as it is, or in base64 at each of the three places where it can begin in a group of octets.
/// Characters that also depend on its neighbours are left out.
pub(crate) fn forms_of(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![secret.to_vec()];
    for before in 0..3 {
        let shifted = [&vec![0; before], secret].concat();
        let whole = shifted.len() / 3 * 3;
        let text = STANDARD.encode(&shifted[..whole]);
        let certain = if before == 0 { 0 } else { 4 };
        forms.push(text.as_bytes()[certain..].to_vec());
    }
    forms
}

/// All files below a folder, by name; what is compressed is decompressed.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("read {}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            found.extend(files(&path));
            continue;
        }
        let octets = fs::read(&path).unwrap();
        let compressed = path.extension().is_some_and(|extension| extension == "zst");
        let octets = if compressed { zstd::decode_all(octets.as_slice()).unwrap() } else { octets };
        found.push((path, octets));
    }
    found
}

fn lines(path: &Path, octets: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(octets).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(text.is_empty() || text.ends_with('\n'), "{} ends in the middle of a line", path.display());
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}
