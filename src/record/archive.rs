//! What becomes of finished segments: compressed, kept for a while, removed. One thread of its own, so that nobody waits.
//!
//! A segment that is written holds a lock on its file, and so does whoever works on a finished one. A segment without a lock
//! is finished: its process closed it, or died.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    sync::mpsc::Receiver,
    time::{Duration, SystemTime},
};

use super::{
    directory::{lock, private},
    retention::{Segment, doomed},
    segment::Stream,
};
use crate::config::{Retention, Transcript};

/// The level of compression: zstd's default.
const LEVEL: i32 = 3;

/// Something to do.
pub(super) enum Job {
    /// This segment is finished.
    Finish(Stream, String),
    /// Look whether segments are to be removed.
    Sweep,
}

/// Looks after the finished segments of a directory.
pub(super) struct Archivist {
    directory: PathBuf,
    compress: bool,
    events: Retention,
    sessions: Retention,
}

impl Archivist {
    pub(super) fn new(directory: &Path, transcript: &Transcript) -> Self {
        Self {
            directory: directory.to_owned(),
            compress: transcript.compress,
            events: transcript.keep_events,
            sessions: transcript.keep_sessions,
        }
    }

    /// Finishes what crashed processes left behind, and then does what comes, until nobody can send any more.
    pub(super) fn run(&self, jobs: &Receiver<Job>) {
        self.report(self.recover(), "finish what a crashed process left in");
        self.report(self.sweep(SystemTime::now()), "remove old segments from");
        for job in jobs {
            if let Job::Finish(stream, stem) = job {
                self.report(self.finish(stream, &stem), "finish a segment in");
            }
            self.report(self.sweep(SystemTime::now()), "remove old segments from");
        }
    }

    /// Finishes all segments that nobody writes any more, and removes drafts that nobody works on.
    pub(super) fn recover(&self) -> io::Result<()> {
        for name in self.names()? {
            if has_extension(&name, "tmp") {
                remove_unlocked(&self.directory.join(&name))?;
            } else if let Some((stream, stem)) = parse(&name).filter(|_| has_extension(&name, "jsonl")) {
                self.finish(stream, stem)?;
            }
        }
        Ok(())
    }

    /// Compresses a segment and its side file, unless somebody else has its lock. An empty one is removed.
    pub(super) fn finish(&self, stream: Stream, stem: &str) -> io::Result<()> {
        let path = self.directory.join(format!("{}-{stem}.jsonl", stream.name()));
        let Some(_locked) = open_locked(&path)? else { return Ok(()) };
        let side = self.directory.join(format!("content-{stem}.bin"));
        let empty = fs::metadata(&path)?.len() == 0;
        if self.compress && stream == Stream::Events && side.exists() {
            compress(&side)?;
        }
        match (empty, self.compress) {
            (true, _) => fs::remove_file(&path),
            (false, true) => compress(&path),
            (false, false) => Ok(()),
        }
    }

    /// Removes what is too old or too much.
    pub(super) fn sweep(&self, now: SystemTime) -> io::Result<()> {
        for (stream, keep) in [(Stream::Events, &self.events), (Stream::Sessions, &self.sessions)] {
            let segments = self.segments(stream, now)?;
            for segment in doomed(&segments, keep) {
                self.remove(stream, &segment.stem)?;
            }
        }
        Ok(())
    }

    /// The segments of a stream, the oldest first.
    fn segments(&self, stream: Stream, now: SystemTime) -> io::Result<Vec<Segment>> {
        let mut segments: Vec<Segment> = Vec::new();
        let mut names = self.names()?;
        names.sort_by(|one, other| stem(one).cmp(&stem(other)));
        for name in names {
            let Some((_, stem)) = parse(&name).filter(|(found, _)| *found == stream) else { continue };
            // Another process may have removed it since.
            let Ok(metadata) = fs::metadata(self.directory.join(&name)) else { continue };
            let age = metadata.modified().ok().and_then(|modified| now.duration_since(modified).ok()).unwrap_or(Duration::ZERO);
            match segments.last_mut().filter(|last| last.stem == stem) {
                Some(last) => {
                    last.octets += metadata.len();
                    last.age = last.age.min(age);
                }
                None => segments.push(Segment { stem: stem.to_owned(), octets: metadata.len(), age }),
            }
        }
        Ok(segments)
    }

    /// Removes a segment, its side file first; one that is written or worked on stays.
    fn remove(&self, stream: Stream, stem: &str) -> io::Result<()> {
        let plain = self.directory.join(format!("{}-{stem}.jsonl", stream.name()));
        let locked = if plain.exists() { open_locked(&plain)? } else { None };
        if plain.exists() && locked.is_none() {
            return Ok(());
        }
        if stream == Stream::Events {
            remove_if_there(&self.directory.join(format!("content-{stem}.bin")))?;
            remove_if_there(&self.directory.join(format!("content-{stem}.bin.zst")))?;
        }
        remove_if_there(&plain.with_extension("jsonl.zst"))?;
        remove_if_there(&plain)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(&self.directory)?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    /// Nothing is lost by a failure here: the segment stays as it is, and the next start tries again.
    fn report(&self, outcome: io::Result<()>, what: &str) {
        if let Err(error) = outcome {
            tracing::error!(%error, directory = %self.directory.display(), "cannot {what} the transcript directory");
        }
    }
}

/// The stream and stem of a segment's file; a side file belongs to the events.
fn parse(name: &str) -> Option<(Stream, &str)> {
    let plain = name.strip_suffix(".zst").unwrap_or(name);
    let (stream, rest, suffix) = match plain.split_once('-')? {
        ("events", rest) => (Stream::Events, rest, ".jsonl"),
        ("content", rest) => (Stream::Events, rest, ".bin"),
        ("sessions", rest) => (Stream::Sessions, rest, ".jsonl"),
        _ => return None,
    };
    Some((stream, rest.strip_suffix(suffix)?))
}

fn has_extension(name: &str, extension: &str) -> bool {
    Path::new(name).extension().is_some_and(|found| found == extension)
}

fn stem(name: &str) -> Option<&str> {
    parse(name).map(|(_, stem)| stem)
}

/// A file with its lock; `None` when somebody else has it, or when the file is gone.
fn open_locked(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(lock(&file).is_ok().then_some(file).filter(|_| path.exists())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Compresses a file beside itself; whole and on the disk before the other is removed.
fn compress(path: &Path) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".zst");
    let target = PathBuf::from(&name);
    name.push(".tmp");
    let draft = PathBuf::from(name);
    let source = File::open(path)?;
    let modified = source.metadata()?.modified()?;
    let file = private().write(true).create(true).truncate(true).open(&draft)?;
    lock(&file)?;
    let mut writer = BufWriter::new(file);
    zstd::stream::copy_encode(BufReader::new(source), &mut writer, LEVEL)?;
    writer.flush()?;
    // Its age is that of what it holds.
    writer.get_ref().set_modified(modified)?;
    writer.get_ref().sync_all()?;
    fs::rename(&draft, &target)?;
    fs::remove_file(path)
}

fn remove_unlocked(path: &Path) -> io::Result<()> {
    open_locked(path)?.map_or(Ok(()), |_locked| remove_if_there(path))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
