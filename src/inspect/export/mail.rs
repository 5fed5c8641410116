//! The messages of a session, out of what was kept of them.

use std::{
    io::{self, Read as _, Seek as _, Write},
    path::Path,
};

use tempfile::SpooledTempFile;
use time::{OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

use super::{ExportError, output::Draft};
use crate::{
    inspect::kept::Kept,
    record::schema::{Body, Content, Record},
};

/// Octets of a message that are held in memory at most; those of a larger one go to a file without a name.
const SPOOL: usize = 4 * 1024 * 1024;

/// How many messages were written, and how many were not since they were not kept whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Harvest {
    pub(super) written: u64,
    pub(super) left_out: u64,
}

/// Reads those messages of a session that were retrieved with RETR and kept whole.
pub(super) struct Messages<'a> {
    kept: Kept<'a>,
    pub(super) harvest: Harvest,
}

impl<'a> Messages<'a> {
    /// Of a session of the store in `directory`.
    pub(super) fn new(directory: &'a Path) -> Self {
        Self { kept: Kept::new(directory), harvest: Harvest::default() }
    }

    /// The message in a record, and the number of the command that retrieved it. One that is not there whole is counted.
    pub(super) fn of(&mut self, record: &Record) -> Option<(u64, SpooledTempFile)> {
        let Body::Content(content) = &record.body else { return None };
        if content.keyword != "RETR" {
            return None;
        }
        let message = self.whole(content);
        *(if message.is_some() { &mut self.harvest.written } else { &mut self.harvest.left_out }) += 1;
        Some((content.n, message?))
    }

    fn whole(&mut self, content: &Content) -> Option<SpooledTempFile> {
        let kept = content.kept.iter().fold(0u64, |sum, piece| sum.saturating_add(piece.length));
        if !content.complete || kept != content.size {
            return None;
        }
        let mut spool = SpooledTempFile::new(SPOOL);
        self.kept.copy(&content.kept, &mut spool).ok()?;
        spool.rewind().ok()?;
        Some(spool)
    }
}

/// Writes a message into a file of its own, octet for octet.
pub(super) fn eml(
    folder: &Path,
    session: &str,
    number: u64,
    force: bool,
    message: &mut SpooledTempFile,
) -> Result<(), ExportError> {
    let mut draft = Draft::new(&folder.join(format!("{session}-{number:04}.eml")), force)?;
    io::copy(message, &mut draft)?;
    draft.publish()
}

/// Adds a message to a mailbox (RFC 4155) in its `mboxrd` variety: lines end in LF, and a line of `From ` with any number of `>`
/// before it gets one more.
pub(super) fn mbox(record: &Record, message: &mut SpooledTempFile, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "From MAILER-DAEMON {}", date(&record.time))?;
    let mut lines = Quoted { out, begun: Vec::new(), state: At::LineStart };
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match message.read(&mut buffer)? {
            0 => return lines.finish(),
            count => lines.write_all(&buffer[..count])?,
        }
    }
}

/// As C's `asctime`, in UTC.
fn date(time: &str) -> String {
    let format =
        format_description!("[weekday repr:short] [month repr:short] [day padding:space] [hour]:[minute]:[second] [year]");
    let time = OffsetDateTime::parse(time, &Rfc3339).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time.format(format).unwrap_or_default()
}

/// Quotes lines on their way. Memory: the beginning of a line that may have to be quoted.
struct Quoted<'a> {
    out: &'a mut dyn Write,
    /// What was held back: a CR, or a part of `From ` and whatever stands before it.
    begun: Vec<u8>,
    state: At,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    LineStart,
    /// So many octets of `From ` were there.
    Word(usize),
    Within,
    Cr,
}

const FROM: &[u8] = b"From ";

impl Quoted<'_> {
    fn octet(&mut self, octet: u8, line: &mut Vec<u8>) {
        if self.state == At::Cr {
            if octet != b'\n' {
                line.push(b'\r');
            }
            self.state = At::Within;
        }
        self.state = match (self.state, octet) {
            (At::LineStart, b'>') => {
                line.push(b'>');
                return;
            }
            (At::LineStart, b'F') => At::Word(1),
            (At::Word(count), next) if FROM[count] == next && count + 1 == FROM.len() => {
                line.extend_from_slice(b">From ");
                self.state = At::Within;
                return;
            }
            (At::Word(count), next) if FROM[count] == next => At::Word(count + 1),
            (state, octet) => {
                if let At::Word(count) = state {
                    line.extend_from_slice(&FROM[..count]);
                }
                match octet {
                    b'\r' => At::Cr,
                    b'\n' => {
                        line.push(b'\n');
                        At::LineStart
                    }
                    _ => {
                        line.push(octet);
                        At::Within
                    }
                }
            }
        };
    }

    /// The last line gets its end, and an empty line parts the message from the next.
    fn finish(mut self) -> io::Result<()> {
        let mut line = std::mem::take(&mut self.begun);
        match self.state {
            At::Word(count) => line.extend_from_slice(&FROM[..count]),
            At::Cr => line.push(b'\r'),
            At::LineStart | At::Within => {}
        }
        if self.state != At::LineStart {
            line.push(b'\n');
        }
        line.push(b'\n');
        self.out.write_all(&line)
    }
}

impl Write for Quoted<'_> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let mut line = std::mem::take(&mut self.begun);
        line.clear();
        for &octet in octets {
            self.octet(octet, &mut line);
        }
        self.out.write_all(&line)?;
        line.clear();
        self.begun = line;
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::testing::{line, record};

    fn boxed(message: &[u8], size: usize) -> String {
        let mut out = Vec::new();
        let mut quoted = Quoted { out: &mut out, begun: Vec::new(), state: At::LineStart };
        for piece in message.chunks(size) {
            quoted.write_all(piece).unwrap();
        }
        quoted.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn from_lines_are_quoted_and_line_ends_are_those_of_a_mailbox() {
        for (message, expected) in [
            (&b"A: b\r\n\r\nFrom x\r\n>From y\r\n>>From z\r\n"[..], "A: b\n\n>From x\n>>From y\n>>>From z\n\n"),
            (b"Fro\r\nFrom\r\nFFrom \r\n >From \r\nFrom ", "Fro\nFrom\nFFrom \n >From \n>From \n\n"),
            (b"a\rb\n\r\r\nno end", "a\rb\n\r\nno end\n\n"),
            (b">F", ">F\n\n"),
            (b"", "\n"),
            (b"x\r", "x\r\n\n"),
        ] {
            for size in 1..8 {
                assert_eq!(boxed(message, size), expected, "{size}");
            }
        }
    }

    #[test]
    fn a_mailbox_has_a_separator_with_the_time() {
        let record = record(&line("a", 1500, r#""event":"anomaly","id":"x","explanation":"y""#));
        let mut spool = SpooledTempFile::new(SPOOL);
        spool.write_all(b"A: b\r\n\r\nc\r\n").unwrap();
        spool.rewind().unwrap();
        let mut out = Vec::new();
        mbox(&record, &mut spool, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "From MAILER-DAEMON Mon Nov 23 06:30:01 2026\nA: b\n\nc\n\n");
    }
}
