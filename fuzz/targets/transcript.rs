//! A store with anything in it: every command that reads one ends, and prints nothing that drives a terminal.
#![no_main]

use std::{fs, path::Path};

use libfuzzer_sys::fuzz_target;
use poptap::inspect::{self, Selection, View, Which, filter::Filter};
use tempfile::TempDir;

const EVENTS: &str = "events-20261123T063000Z-100-1.jsonl";
const SESSIONS: &str = "sessions-20261123T063000Z-100-1.jsonl";

fuzz_target!(|octets: &[u8]| {
    thread_local!(static FOLDER: TempDir = tempfile::tempdir_in(memory()).expect("a directory"));
    FOLDER.with(|folder| {
        // What stands before the first empty line are events, what stands behind it summaries.
        let at = octets.windows(2).position(|pair| pair == b"\n\n").map_or(octets.len(), |at| at + 1);
        fs::write(folder.path().join(EVENTS), &octets[..at]).expect("a file");
        fs::write(folder.path().join(SESSIONS), &octets[at..]).expect("a file");
        read(folder.path());
    });
});

fn read(store: &Path) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let selection = Selection::all();
    let of_commands = Selection { filter: Filter::parse("verb = RETR or latency > 1ms").expect("a filter"), ..Selection::all() };
    for view in [View::default(), View { json: true, ..View::default() }, View { bodies: true, ..View::default() }] {
        let _ = inspect::list(store, &selection, view, &mut out, &mut err);
        let _ = inspect::grep(store, &of_commands, view, &mut out, &mut err);
        let _ = inspect::show(store, &Which::Last, view, &mut out, &mut err);
    }
    for said in [out, err] {
        let text = String::from_utf8(said).expect("text");
        let harmful = text.chars().find(|character| character.is_control() && *character != '\n');
        assert_eq!(harmful, None, "{text:?}");
    }
}

/// Where files cost little.
fn memory() -> &'static str {
    if fs::metadata("/dev/shm").is_ok_and(|found| found.is_dir()) { "/dev/shm" } else { "/tmp" }
}
