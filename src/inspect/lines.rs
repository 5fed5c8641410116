//! One segment, line by line, in bounded memory; what cannot be read is counted and skipped.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
    ops::Range,
    path::Path,
};

use memchr::memchr;
use serde::{Deserialize, de::DeserializeOwned};

use super::{brief::Brief, human, paint::harmless};
use crate::record::schema::{Record, VERSION};

/// The longest line that is read, in octets. The longest that is written holds a listing of 64 KiB, escaped.
const LONGEST: usize = 4 * 1024 * 1024;

/// Octets that are read at once.
const BUFFER: usize = 128 * 1024;

/// The lines of one segment. Those that nobody asks about are only checked for their outline, which is cheap. Memory: one buffer, which
/// grows to at most twice [`LONGEST`] for a long line, and the decompressor's window.
pub(super) struct Lines {
    name: String,
    reader: Box<dyn Read>,
    /// What was read; taken up to `next`, filled up to `filled`.
    buffer: Vec<u8>,
    /// Where the line stands in it.
    line: Range<usize>,
    next: usize,
    filled: usize,
    /// Lines that looked like records, this one included.
    number: u64,
    faults: Faults,
}

/// What every line has, whatever it says.
#[derive(Deserialize)]
pub(super) struct Head<'a> {
    v: u32,
    /// The session's id.
    #[serde(borrow)]
    pub(super) session: Cow<'a, str>,
    /// The kind of the record.
    #[serde(borrow)]
    pub(super) event: Cow<'a, str>,
}

impl Lines {
    /// Reads `file`, which is called `name` in reports; a name that ends in `.zst` is decompressed.
    pub(super) fn new(name: String, file: File) -> io::Result<Self> {
        let compressed = Path::new(&name).extension().is_some_and(|extension| extension == "zst");
        let reader: Box<dyn Read> = if compressed { Box::new(zstd::Decoder::new(file)?) } else { Box::new(file) };
        let (buffer, faults) = (vec![0; BUFFER], Faults::default());
        Ok(Self { name, reader, buffer, line: 0..0, next: 0, filled: 0, number: 0, faults })
    }

    /// Goes on to the next line that looks like a record; false at the end of the file, or where it cannot be read on.
    pub(super) fn advance(&mut self) -> bool {
        loop {
            let taken = self.take();
            self.faults.settle(matches!(taken, Ok(Taken::End)));
            match taken {
                Ok(Taken::Line) if looks_like_a_record(self.line()) => {
                    self.number += 1;
                    return true;
                }
                Ok(Taken::Line) => self.faults.is_doubtful = true,
                Ok(Taken::TooLong) => self.faults.unreadable += 1,
                Ok(Taken::Torn) => self.faults.torn += 1,
                Ok(Taken::End) => return false,
                Err(error) => {
                    self.faults.broken = Some(error.to_string());
                    return false;
                }
            }
        }
    }

    /// The octets of the line, without its line end.
    pub(super) fn line(&self) -> &[u8] {
        self.buffer[self.line.clone()].trim_ascii()
    }

    /// The how-manieth line it is of those that look like records, from 1; the same whenever the segment is read.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whose line it is and what kind; `None`, and counted, when it is not a record of a version that we know.
    pub(super) fn head(&mut self) -> Option<Head<'_>> {
        match serde_json::from_slice::<Head<'_>>(&self.buffer[self.line.clone()]) {
            Ok(head) if head.v == VERSION => Some(head),
            Ok(_) => {
                self.faults.foreign += 1;
                None
            }
            Err(_) => {
                self.faults.is_doubtful = true;
                None
            }
        }
    }

    /// The line as a summary; `None` when it is another record, and, counted, when it is none of a version that we know.
    pub(super) fn brief(&mut self) -> Option<Brief<'_>> {
        match serde_json::from_slice::<Brief<'_>>(&self.buffer[self.line.clone()]) {
            Ok(brief) if brief.v == VERSION && brief.event != "session" => None,
            Ok(brief) if brief.v == VERSION && !brief.start.is_empty() => Some(brief),
            Ok(_) => {
                self.faults.foreign += 1;
                None
            }
            Err(_) => {
                self.faults.is_doubtful = true;
                None
            }
        }
    }

    /// The line as something else than a record; `None`, and counted, when it is not that.
    pub(super) fn other<T: DeserializeOwned>(&mut self) -> Option<T> {
        let other = serde_json::from_slice(self.line()).ok();
        self.faults.unreadable += u64::from(other.is_none());
        other
    }

    /// The whole record; `None`, and counted, when its event is not one that we know. To be asked behind `head`.
    pub(super) fn record(&mut self) -> Option<Record> {
        let record = serde_json::from_slice(self.line()).ok();
        self.faults.foreign += u64::from(record.is_none());
        record
    }

    /// Adds what was skipped to the reports.
    pub(super) fn finish(mut self, reports: &mut Reports) {
        let is_end = self.next == self.filled && self.fill().is_ok_and(|more| !more);
        self.faults.settle(is_end);
        reports.note(&self.name, self.faults);
    }

    fn take(&mut self) -> io::Result<Taken> {
        // How much of what lies behind `next` has no line end.
        let (mut searched, mut too_long) = (0, false);
        loop {
            if let Some(at) = memchr(b'\n', &self.buffer[self.next + searched..self.filled]) {
                let end = self.next + searched + at + 1;
                self.line = self.next..end;
                self.next = end;
                too_long |= self.line.len() > LONGEST;
                return Ok(if too_long { Taken::TooLong } else { Taken::Line });
            }
            if self.filled - self.next > LONGEST {
                too_long = true;
                self.next = self.filled;
            }
            searched = self.filled - self.next;
            if !self.fill()? {
                self.next = self.filled;
                return Ok(if too_long || searched > 0 { Taken::Torn } else { Taken::End });
            }
        }
    }

    /// Reads on behind what is not taken yet, which moves to the front; false at the end.
    fn fill(&mut self) -> io::Result<bool> {
        self.line = 0..0;
        self.buffer.copy_within(self.next..self.filled, 0);
        (self.next, self.filled) = (0, self.filled - self.next);
        if self.filled == self.buffer.len() {
            self.buffer.resize(2 * self.filled, 0);
        }
        loop {
            match self.reader.read(&mut self.buffer[self.filled..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => {
                    let read = read?;
                    self.filled += read;
                    return Ok(read > 0);
                }
            }
        }
    }
}

enum Taken {
    Line,
    TooLong,
    Torn,
    End,
}

/// Cheap enough for every line of a store: an object, and UTF-8.
fn looks_like_a_record(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    line.starts_with(b"{") && line.ends_with(b"}") && std::str::from_utf8(line).is_ok()
}

/// What was skipped in one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Faults {
    torn: u64,
    unreadable: u64,
    foreign: u64,
    broken: Option<String>,
    /// The line before is no record, and what it is depends on whether there is another one.
    is_doubtful: bool,
}

impl Faults {
    /// A line that is no record is torn when it is the last one, since a crash leaves such.
    fn settle(&mut self, is_end: bool) {
        if std::mem::take(&mut self.is_doubtful) {
            *(if is_end { &mut self.torn } else { &mut self.unreadable }) += 1;
        }
    }
}

/// What was skipped in all files. A file that is read twice is reported once.
#[derive(Default)]
pub(super) struct Reports {
    files: BTreeMap<String, Faults>,
}

impl Reports {
    /// A file that could not be read at all.
    pub(super) fn unread(&mut self, name: &str, error: &io::Error) {
        self.note(name, Faults { broken: Some(error.to_string()), ..Faults::default() });
    }

    fn note(&mut self, name: &str, faults: Faults) {
        if faults == Faults::default() {
            return;
        }
        let file = self.files.entry(name.to_owned()).or_default();
        file.torn = file.torn.max(faults.torn);
        file.unreadable = file.unreadable.max(faults.unreadable);
        file.foreign = file.foreign.max(faults.foreign);
        file.broken = faults.broken.or(file.broken.take());
    }

    /// Says what was skipped, a line for each kind and file.
    pub(super) fn write(&self, err: &mut dyn Write) -> io::Result<()> {
        for (name, faults) in &self.files {
            let name = harmless(name);
            let kinds = [
                (faults.torn, "torn line"),
                (faults.unreadable, "unreadable line"),
                (faults.foreign, "line of another version of poptap"),
            ];
            for (number, kind) in kinds.into_iter().filter(|(number, _)| *number > 0) {
                writeln!(err, "{} skipped in {name}", many(number, kind))?;
            }
            if let Some(error) = &faults.broken {
                writeln!(err, "{name} could not be read to its end: {}", harmless(error))?;
            }
        }
        Ok(())
    }
}

/// `human::plural` for nouns that go on behind `line`.
fn many(number: u64, kind: &str) -> String {
    match kind.split_once(" of ") {
        Some((noun, rest)) => format!("{} of {rest}", human::plural(number, noun)),
        None => human::plural(number, kind),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;

    const SESSIONS: &str = "sessions-20261123T063000Z-100-1.jsonl";

    /// What `list` still shows, and what it reports.
    fn listed(name: &str, content: &[u8]) -> (Vec<String>, String) {
        let (out, err) = Shelf::new().with(name, content).list(JSON);
        (out.lines().map(|line| record(line).session).collect(), err)
    }

    #[test]
    fn a_torn_last_line() {
        let whole = summary("one", 0, "bob", "complete");
        let torn = &whole.as_bytes()[..40];
        let reported = format!("1 torn line skipped in {SESSIONS}\n");
        let nuls = [0; 100];
        for tail in [torn, &[torn, b"\n"].concat(), &nuls] {
            assert_eq!(
                listed(SESSIONS, &[whole.as_bytes(), tail].concat()),
                (vec!["one".to_owned()], reported.clone()),
                "{tail:?}"
            );
        }
        let (sessions, reports) = listed(SESSIONS, whole.trim_end().as_bytes());
        assert!(sessions.is_empty() && reports.ends_with(&reported), "{reports}");
    }

    #[test]
    fn unreadable_and_foreign_lines_in_the_middle() {
        let foreign = summary("two", 0, "bob", "complete").replace("\"v\":1", "\"v\":2");
        let incomplete = "{\"v\":1,\"session\":\"three\",\"event\":\"session\"}\n";
        let content =
            ["nonsense\n", "\u{e9}{\"session\"}\n", &foreign, incomplete, &summary("one", 0, "bob", "complete")].concat();
        let reports =
            format!("2 unreadable lines skipped in {SESSIONS}\n2 lines of another version of poptap skipped in {SESSIONS}\n");
        assert_eq!(listed(SESSIONS, content.as_bytes()), (vec!["one".to_owned()], reports));
    }

    #[test]
    fn a_line_without_end_costs_no_memory() {
        let mut content = vec![b'x'; 2 * super::LONGEST];
        content.push(b'\n');
        content.extend(summary("one", 0, "bob", "complete").bytes());
        let reports = format!("1 unreadable line skipped in {SESSIONS}\n");
        assert_eq!(listed(SESSIONS, &content), (vec!["one".to_owned()], reports));
    }

    #[test]
    fn compressed_and_torn() {
        let content: String =
            (0..3000).map(|number| summary(&format!("s{number}"), 0, &format!("{}", number * 7919), "complete")).collect();
        let packed = zstd::encode_all(content.as_bytes(), 3).unwrap();
        let name = format!("{SESSIONS}.zst");
        assert_eq!(listed(&name, &packed), ((0..3000).map(|number| format!("s{number}")).collect(), String::new()));
        let (sessions, reports) = listed(&name, &packed[..packed.len() / 2]);
        assert!(!sessions.is_empty() && sessions.len() < 3000, "{}", sessions.len());
        assert!(reports.contains(&format!("{name} could not be read to its end: ")), "{reports}");
    }

    #[test]
    fn a_file_that_is_read_twice_is_reported_once() {
        let shelf = Shelf::new().with("events-20261123T063000Z-100-1.jsonl", opened("one", 0) + "torn");
        assert_eq!(shelf.show("one", TEXT).1, "1 torn line skipped in events-20261123T063000Z-100-1.jsonl\n");
    }
}
