//! One stream on its way into its segments: a buffer of whole lines, and the segment that is open.

use std::{
    io::{self, Write},
    time::Duration,
};

use super::{
    clock::Moment,
    segment::{Output, Storage, Stream},
};

/// A buffer is written when it holds this many octets.
const CHUNK: usize = 64 * 1024;

/// Octets of lines that are kept for later while the stream cannot be written.
const RETAINED: usize = 256 * 1024;

/// How long a stream that failed is left alone.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// One stream.
pub(super) struct Lane {
    pub(super) stream: Stream,
    /// Whole lines that are not written yet.
    buffer: Vec<u8>,
    segment: Option<Segment>,
    /// Set while the stream cannot be written.
    retry_at: Option<Duration>,
    /// The last write broke off in the middle of a line, and the rest could not be taken back.
    torn: bool,
}

/// A segment that is open.
struct Segment {
    stem: String,
    output: Box<dyn Output>,
    written: u64,
    since: Duration,
}

impl Lane {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, buffer: Vec::new(), segment: None, retry_at: None, torn: false }
    }

    /// Takes whole lines. False when they have no place, since the stream cannot be written.
    pub(super) fn push(&mut self, lines: &[u8]) -> bool {
        if self.is_down() && self.buffer.len() + lines.len() > RETAINED {
            return false;
        }
        self.buffer.extend_from_slice(lines);
        true
    }

    /// Whether there is so much to write that it should be.
    pub(super) fn is_full(&self) -> bool {
        !self.is_down() && self.buffer.len() >= CHUNK
    }

    pub(super) fn is_down(&self) -> bool {
        self.retry_at.is_some()
    }

    /// Whether the stream failed, and its pause is over.
    pub(super) fn may_retry(&self, now: &Moment) -> bool {
        self.retry_at.is_some_and(|at| now.steady >= at)
    }

    /// When something is to be done even though nothing comes: a retry, or the end of a segment's age.
    pub(super) fn deadline(&self, rotate_age: Duration) -> Option<Duration> {
        let aged = self.segment.as_ref().map(|segment| segment.since.saturating_add(rotate_age));
        self.retry_at.or(aged)
    }

    /// Writes what is buffered. On failure the segment is given up, and what was not written stays for the next try.
    pub(super) fn flush(&mut self, storage: &mut dyn Storage, now: &Moment) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let written = self.write(storage, now);
        if let Err(error) = written {
            self.give_up(storage, now);
            return Err(error);
        }
        self.retry_at = None;
        Ok(())
    }

    /// The stem of the segment that is open; opens one when none is.
    pub(super) fn stem(&mut self, storage: &mut dyn Storage, now: &Moment) -> io::Result<&str> {
        self.segment(storage, now).map(|segment| &*segment.stem)
    }

    /// Finishes the segment when it is full, with `beside` octets in its side file, or old enough. True when it did.
    pub(super) fn rotate(&mut self, storage: &mut dyn Storage, now: &Moment, beside: u64, size: u64, age: Duration) -> bool {
        let due = |segment: &Segment| segment.written + beside >= size || now.steady.saturating_sub(segment.since) >= age;
        let rotate = storage.rotates() && self.segment.as_ref().is_some_and(due);
        if rotate {
            self.close(storage);
        }
        rotate
    }

    /// Finishes the segment.
    pub(super) fn close(&mut self, storage: &mut dyn Storage) {
        if let Some(Segment { stem, output, .. }) = self.segment.take() {
            drop(output);
            storage.finished(self.stream, &stem);
        }
    }

    /// Gives up what is buffered; returns how many lines that were.
    pub(super) fn abandon(&mut self) -> u64 {
        memchr::memchr_iter(b'\n', &std::mem::take(&mut self.buffer)).count() as u64
    }

    fn segment(&mut self, storage: &mut dyn Storage, now: &Moment) -> io::Result<&mut Segment> {
        if self.segment.is_none() {
            let (stem, output) = storage.open(self.stream, now)?;
            self.segment = Some(Segment { stem, output, written: 0, since: now.steady });
        }
        self.segment.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn write(&mut self, storage: &mut dyn Storage, now: &Moment) -> io::Result<()> {
        let torn = self.torn;
        let mut buffer = std::mem::take(&mut self.buffer);
        let outcome = self.segment(storage, now).map_or_else(
            |error| (0, Err(error)),
            |segment| {
                // A line that was torn and could not be taken back is at least ended.
                let healed = if torn { segment.output.write_all(b"\n") } else { Ok(()) };
                healed.map_or_else(|error| (0, Err(error)), |()| write_counted(&mut *segment.output, &buffer))
            },
        );
        let (done, result) = outcome;
        let whole = memchr::memrchr(b'\n', &buffer[..done]).map_or(0, |at| at + 1);
        if let Some(segment) = &mut self.segment {
            segment.written += whole as u64;
        }
        self.torn = (torn && done == 0 && result.is_err()) || (done > whole && self.cut_back().is_err());
        buffer.drain(..whole);
        self.buffer = buffer;
        result
    }

    /// Removes the torn line from the segment's end.
    fn cut_back(&mut self) -> io::Result<()> {
        self.segment.as_mut().map_or(Ok(()), |segment| segment.output.truncate(segment.written))
    }

    fn give_up(&mut self, storage: &mut dyn Storage, now: &Moment) {
        self.retry_at = Some(now.steady + PAUSE);
        let Some(Segment { stem, output, written, .. }) = self.segment.take() else { return };
        drop(output);
        if storage.rotates() {
            // The next segment begins with a whole line.
            self.torn = false;
        }
        if written == 0 {
            storage.discard(self.stream, &stem);
        } else {
            storage.finished(self.stream, &stem);
        }
    }
}

/// Writes all of it, or says how many octets were written before the failure.
pub(super) fn write_counted(output: &mut dyn Output, octets: &[u8]) -> (usize, io::Result<()>) {
    let mut done = 0;
    while done < octets.len() {
        match output.write(&octets[done..]) {
            Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (done, Err(error)),
        }
    }
    (done, output.flush())
}
