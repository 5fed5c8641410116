//! The segments of a store that grow, read as far as they have grown.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead as _, BufReader},
};

use super::{
    InspectError,
    store::{Segment, Store, Stream},
};

/// The longest line that is waited for, in octets.
const LONGEST: usize = 4 * 1024 * 1024;

/// Segments that are being written.
pub(super) struct Tail {
    files: BTreeMap<Segment, Growing>,
    /// Those that were there before, whether they are read or not.
    known: BTreeSet<Segment>,
}

struct Growing {
    reader: BufReader<File>,
    /// The beginning of a line whose end is not written yet.
    line: Vec<u8>,
    /// Whether more of the line comes than is kept.
    too_long: bool,
    is_finished: bool,
}

impl Tail {
    /// From the beginning of what is being written now, and of what was written at `since` or later.
    pub(super) fn new(store: &Store<'_>, since: Option<&str>) -> Result<Self, InspectError> {
        let mut tail = Self { files: BTreeMap::new(), known: BTreeSet::new() };
        for stream in [Stream::Events, Stream::Sessions] {
            let recent = if since.is_some() { store.segments_since(stream, since)? } else { Vec::new() };
            let segments = store.segments(stream)?;
            let growing = store.growing(&segments);
            for segment in segments {
                let grows = growing.contains(&segment);
                if grows || recent.contains(&segment) {
                    tail.open(store, &segment, grows);
                }
                tail.known.insert(segment);
            }
        }
        Ok(tail)
    }

    /// Whether anything is being written.
    pub(super) fn is_live(&self) -> bool {
        self.files.values().any(|file| !file.is_finished)
    }

    /// Looks for new segments.
    pub(super) fn look(&mut self, store: &Store<'_>) -> Result<(), InspectError> {
        let mut there = BTreeSet::new();
        for stream in [Stream::Events, Stream::Sessions] {
            let segments = store.segments(stream)?;
            let growing = store.growing(&segments);
            for segment in segments {
                let grows = growing.contains(&segment);
                if !self.known.contains(&segment) {
                    self.open(store, &segment, grows);
                }
                if let Some(file) = self.files.get_mut(&segment) {
                    file.is_finished = !grows;
                }
                there.insert(segment);
            }
        }
        // One that went away was finished before.
        for (segment, file) in &mut self.files {
            file.is_finished |= !there.contains(segment);
        }
        self.known = there;
        Ok(())
    }

    fn open(&mut self, store: &Store<'_>, segment: &Segment, grows: bool) {
        // One that is compressed already was read, or never seen while it grew.
        if let Some(file) = store.plain(segment) {
            let reader = BufReader::with_capacity(64 * 1024, file);
            self.files.insert(segment.clone(), Growing { reader, line: Vec::new(), too_long: false, is_finished: !grows });
        }
    }

    /// Visits the lines that were written since: of each process, the events before the summaries.
    pub(super) fn read(&mut self, visit: &mut dyn FnMut(&[u8]) -> Result<(), InspectError>) -> Result<(), InspectError> {
        let mut ended = Vec::new();
        for (segment, file) in &mut self.files {
            let was_finished = file.is_finished;
            file.read(visit)?;
            if was_finished {
                ended.push(segment.clone());
            }
        }
        for segment in ended {
            self.files.remove(&segment);
        }
        Ok(())
    }
}

impl Growing {
    fn read(&mut self, visit: &mut dyn FnMut(&[u8]) -> Result<(), InspectError>) -> Result<(), InspectError> {
        loop {
            // A file that cannot be read any more has no more to tell.
            let Ok(buffer) = self.reader.fill_buf() else { return Ok(()) };
            if buffer.is_empty() {
                return Ok(());
            }
            let end = memchr::memchr(b'\n', buffer);
            let used = end.map_or(buffer.len(), |at| at + 1);
            self.too_long |= self.line.len() + used > LONGEST;
            if !self.too_long {
                self.line.extend_from_slice(&buffer[..used]);
            }
            self.reader.consume(used);
            if end.is_some() {
                if !self.too_long {
                    visit(self.line.trim_ascii_end())?;
                }
                self.line.clear();
                self.too_long = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::OpenOptions, io::Write as _};

    use super::super::testing::Shelf;
    use super::*;

    #[test]
    fn lines_as_they_are_completed_and_over_a_change_of_segments() {
        let [first, second] = ["events-20261123T063000Z-100-1.jsonl", "events-20261123T063100Z-100-3.jsonl"];
        let packed = zstd::encode_all(&b"packed\n"[..], 1).unwrap();
        let old = "events-20261122T063000Z-100-1.jsonl";
        let shelf = Shelf::new().with(old, "old\n").with("events-20261122T063000Z-99-1.jsonl.zst", packed).with(first, "one\ntw");
        let store = Store::new(shelf.path());
        let mut tail = Tail::new(&store, None).unwrap();
        let read = |tail: &mut Tail| {
            let mut lines = Vec::new();
            tail.read(&mut |line| {
                lines.push(String::from_utf8(line.to_vec()).unwrap());
                Ok(())
            })
            .unwrap();
            lines.join(" ")
        };
        let write = |name: &str, text: &str| {
            OpenOptions::new()
                .append(true)
                .create(true)
                .open(shelf.path().join(name))
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
        };
        assert!(tail.is_live());
        assert_eq!(read(&mut tail), "one");
        write(first, "o\nthree\n");
        assert_eq!(read(&mut tail), "two three");
        write(first, "four\n");
        write(second, "five\n");
        std::fs::remove_file(shelf.path().join(first)).unwrap();
        tail.look(&store).unwrap();
        assert_eq!(read(&mut tail), "four five");
        assert_eq!(read(&mut tail), "");
    }
}
