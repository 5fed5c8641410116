//! Where transcripts lie: the segments of a directory, in order, whatever stage of their life they are in.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

use super::{
    InspectError,
    brief::Brief,
    lines::{Lines, Reports},
    progress::Progress,
};

/// The two kinds of segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stream {
    /// One summary for each session.
    Sessions,
    /// Everything else.
    Events,
}

impl Stream {
    /// The kind of record that every session has one of in this stream.
    pub(super) fn landmark(self) -> &'static str {
        match self {
            Self::Sessions => "session",
            Self::Events => "opened",
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Sessions => "sessions-",
            Self::Events => "events-",
        }
    }
}

/// How a segment's name ends, in the order of its life: being written, finished, compressed.
///
/// Files are looked for in this order, so one that moves on meanwhile is still found: it is in its next stage before it
/// leaves the one before.
const ENDINGS: [&str; 3] = [".jsonl.open", ".jsonl", ".jsonl.zst"];

/// A time in a transcript: RFC 3339, UTC, microseconds.
const STAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// The time of the transcript that was so long ago.
#[must_use]
pub fn ago(period: Duration) -> String {
    // Where that is before the calendar, all is behind it.
    let then = OffsetDateTime::now_utc().checked_sub(period.try_into().unwrap_or(time::Duration::MAX));
    then.and_then(|then| then.format(STAMP).ok()).unwrap_or_default()
}

/// One segment. They are ordered by time, and those of one process as it wrote them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Segment {
    start: String,
    process: u64,
    number: u64,
    /// The file's name without its ending.
    stem: String,
}

impl Segment {
    /// When it was begun: digits of a time, which sort as times do.
    pub(super) fn start(&self) -> &str {
        &self.start
    }

    /// `name` taken apart; `None` when it is not a segment of this stream. A name that only begins and ends like one (put
    /// together by hand, say) counts too.
    fn parse(stream: Stream, name: &str) -> Option<Self> {
        let stem = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending))?;
        let rest = stem.strip_prefix(stream.prefix())?;
        let mut parts = rest.rsplitn(3, '-');
        let (number, process) = (number(parts.next()), number(parts.next()));
        let start = parts.next().unwrap_or(rest).to_owned();
        Some(Self { start, process, number, stem: stem.to_owned() })
    }
}

impl Segment {
    /// The process that wrote it, where its name says so.
    pub(super) fn process(&self) -> Option<u64> {
        (self.process > 0).then_some(self.process)
    }

    /// Whether it may have been begun before a time of the transcript.
    pub(super) fn may_begin_before(&self, time: &str) -> bool {
        let short: String = time.chars().take(19).filter(|character| !matches!(character, '-' | ':')).collect();
        let is_stamp = self.start.len() == 16 && self.start.as_bytes()[8] == b'T';
        !is_stamp || short.len() < 15 || self.start[..15] <= *short
    }
}

fn is_rollup(name: &str) -> bool {
    name.strip_prefix("audit-").is_some_and(|rest| rest.strip_suffix(".jsonl").is_some())
}

fn number(part: Option<&str>) -> u64 {
    part.and_then(|part| part.parse().ok()).unwrap_or_default()
}

/// A directory of transcripts, and what had to be skipped in it so far.
pub(super) struct Store<'a> {
    directory: &'a Path,
    /// What was skipped.
    pub(super) reports: Reports,
    progress: Progress,
}

impl<'a> Store<'a> {
    /// The store in `directory`.
    pub(super) fn new(directory: &'a Path) -> Self {
        Self { directory, reports: Reports::default(), progress: Progress::default() }
    }

    /// Where it is.
    pub(super) fn directory(&self) -> PathBuf {
        self.directory.to_owned()
    }

    /// Says on standard error how far the reading has come, where that is a terminal and it takes long.
    pub(super) fn show_progress(&mut self, shown: bool) {
        self.progress = Progress::new(shown);
    }

    /// The segments of one stream, oldest first.
    pub(super) fn segments(&self, stream: Stream) -> Result<Vec<Segment>, InspectError> {
        let mut segments = Vec::new();
        for entry in fs::read_dir(self.directory).map_err(|error| self.unreadable(error))? {
            let name = entry.map_err(|error| self.unreadable(error))?.file_name();
            segments.extend(name.to_str().and_then(|name| Segment::parse(stream, name)));
        }
        // The same segment is seen twice while it is being compressed.
        segments.sort();
        segments.dedup();
        Ok(segments)
    }

    /// Those that were written to at `since` (a time of the transcript) or later: nothing younger is in the others.
    pub(super) fn segments_since(&self, stream: Stream, since: Option<&str>) -> Result<Vec<Segment>, InspectError> {
        let mut segments = self.segments(stream)?;
        if let Some(since) = since {
            segments.retain(|segment| self.modified(segment).is_none_or(|modified| *modified >= *since));
        }
        Ok(segments)
    }

    /// So many more files will be opened.
    pub(super) fn expect(&mut self, files: usize) {
        self.progress.expect(files);
    }

    /// Opens a segment that was read before, which is no progress.
    pub(super) fn open_again(&self, segment: &Segment) -> Option<Lines> {
        self.open_any(segment)?.1.ok()
    }

    /// Opens a segment whose end counts: where it is not compressed, behind the first line end of its last `octets`.
    pub(super) fn open_end(&self, segment: &Segment, octets: u64) -> Option<Lines> {
        for ending in &ENDINGS[..2] {
            let name = format!("{}{ending}", segment.stem);
            let Ok(mut file) = File::open(self.directory.join(&name)) else { continue };
            let is_longer = file.metadata().is_ok_and(|data| data.len() > octets);
            if is_longer && file.seek(SeekFrom::End(-i64::try_from(octets).ok()?)).is_err() {
                return None;
            }
            // The rest of a line in which it begins does not look like a record.
            return Lines::new(name, file).ok();
        }
        self.open_again(segment)
    }

    /// Opens a segment; `None` when it has been removed since (retention), or, and this is reported, when it cannot be opened.
    pub(super) fn open(&mut self, segment: &Segment) -> Option<Lines> {
        let opened = self.open_any(segment);
        self.progress.next(opened.as_ref().map_or(&segment.stem, |(name, _)| name));
        let (name, opened) = opened?;
        match opened {
            Ok(lines) => Some(lines),
            Err(error) => {
                self.reports.unread(&name, &error);
                None
            }
        }
    }

    /// A segment in the stage of its life that it has come to, with the file's name; `None` when it has been removed.
    fn open_any(&self, segment: &Segment) -> Option<(String, io::Result<Lines>)> {
        ENDINGS.iter().find_map(|ending| {
            let name = format!("{}{ending}", segment.stem);
            match File::open(self.directory.join(&name)).and_then(|file| Lines::new(name.clone(), file)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                opened => Some((name, opened)),
            }
        })
    }

    /// Those of a stream's segments, in order, that may be growing: of each process the last, unless it is compressed. A process
    /// that has gone leaves one, too.
    pub(super) fn growing(&self, segments: &[Segment]) -> BTreeSet<Segment> {
        let last: BTreeMap<u64, &Segment> = segments.iter().map(|segment| (segment.process, segment)).collect();
        last.into_values().filter(|segment| self.plain(segment).is_some()).cloned().collect()
    }

    /// The file of a segment that is not compressed.
    pub(super) fn plain(&self, segment: &Segment) -> Option<File> {
        ENDINGS[..2].iter().find_map(|ending| File::open(self.directory.join(format!("{}{ending}", segment.stem))).ok())
    }

    /// Visits the summaries in all segments that `wanted` does not leave out.
    pub(super) fn each_summary(
        &mut self,
        wanted: impl Fn(&Self, &Segment) -> bool,
        mut visit: impl FnMut(&Brief<'_>),
    ) -> Result<(), InspectError> {
        for segment in self.segments(Stream::Sessions)? {
            if !wanted(self, &segment) {
                continue;
            }
            let Some(mut lines) = self.open(&segment) else { continue };
            while lines.advance() {
                lines.brief().iter().for_each(&mut visit);
            }
            lines.finish(&mut self.reports);
        }
        Ok(())
    }

    /// The files of roll-ups, as lines.
    pub(super) fn rollups(&mut self) -> Result<Vec<Lines>, InspectError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.directory).map_err(|error| self.unreadable(error))? {
            let name = entry.map_err(|error| self.unreadable(error))?.file_name();
            names.extend(name.to_str().filter(|name| is_rollup(name)).map(str::to_owned));
        }
        names.sort();
        let mut rollups = Vec::new();
        for name in names {
            match File::open(self.directory.join(&name)).and_then(|file| Lines::new(name.clone(), file)) {
                Ok(lines) => rollups.push(lines),
                Err(error) => self.reports.unread(&name, &error),
            }
        }
        Ok(rollups)
    }

    /// When a segment was written to last, as the transcript writes times; nothing in it is younger.
    pub(super) fn modified(&self, segment: &Segment) -> Option<String> {
        let in_stage = |ending| fs::metadata(self.directory.join(format!("{}{ending}", segment.stem)));
        let modified = ENDINGS.into_iter().find_map(|ending| in_stage(ending).and_then(|data| data.modified()).ok())?;
        // Clocks of file systems lag a little: a second more is on the safe side.
        (OffsetDateTime::from(modified) + time::Duration::SECOND).format(STAMP).ok()
    }

    fn unreadable(&self, cause: io::Error) -> InspectError {
        let directory = self.directory();
        if cause.kind() == io::ErrorKind::NotFound {
            return InspectError::Missing(directory);
        }
        InspectError::Directory { directory, cause }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::Shelf, *};

    #[test]
    fn segments_come_in_the_order_of_their_making_and_once() {
        let names = [
            "events-20261123T063000Z-100-10.jsonl",
            "events-20261123T063000Z-100-9.jsonl.zst",
            "events-20261123T063000Z-100-9.jsonl",
            "events-20261123T063000Z-100-11.jsonl.open",
            "events-20261122T063000Z-7-1.jsonl",
            "events-20261122T063000Z-7-1.jsonl.zst.tmp",
            "sessions-20261123T063000Z-100-1.jsonl",
            "content-20261123T063000Z-100-1.bin",
        ];
        let shelf = names.into_iter().fold(Shelf::new(), |shelf, name| shelf.with(name, ""));
        let segments = Store::new(shelf.path()).segments(Stream::Events).unwrap();
        let stems: Vec<_> = segments.iter().map(|segment| segment.stem.as_str()).collect();
        let expected = [
            "events-20261122T063000Z-7-1",
            "events-20261123T063000Z-100-9",
            "events-20261123T063000Z-100-10",
            "events-20261123T063000Z-100-11",
        ];
        assert_eq!(stems, expected);
    }

    #[test]
    fn a_file_that_moved_on_is_still_found_and_one_that_went_is_no_fault() {
        let shelf = Shelf::new().with("events-a-1-1.jsonl.open", "").with("events-b-1-2.jsonl", "");
        let mut store = Store::new(shelf.path());
        let segments = store.segments(Stream::Events).unwrap();
        fs::rename(shelf.path().join("events-a-1-1.jsonl.open"), shelf.path().join("events-a-1-1.jsonl.zst")).unwrap();
        fs::remove_file(shelf.path().join("events-b-1-2.jsonl")).unwrap();
        assert!(store.open(&segments[0]).is_some());
        assert!(store.open(&segments[1]).is_none());
        let mut reports = Vec::new();
        store.reports.write(&mut reports).unwrap();
        assert_eq!(reports, b"");
    }

    #[test]
    fn no_directory() {
        let error = Store::new(Path::new("/nowhere/at\x1ball")).segments(Stream::Events).unwrap_err();
        assert!(error.to_string().starts_with("no transcripts to read: the directory `/nowhere/at"), "{error}");
    }
}
