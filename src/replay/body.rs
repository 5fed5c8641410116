//! Messages on the wire: what was kept of them, and lines that stand for the rest.

use std::io::{self, Write};

use crate::{
    inspect::Kept,
    record::schema::{Content, Piece},
};

/// A message, or the top of one, as far as the record tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pieces: Vec<Piece>,
    /// Octets, dot-stuffing and terminator removed.
    size: u64,
    lines: u64,
    complete: bool,
    /// Octets on the wire.
    octets: u64,
}

impl Message {
    /// What a record says of it.
    #[must_use]
    pub fn of(content: Content) -> Self {
        Self {
            pieces: content.kept,
            size: content.size,
            lines: content.lines,
            complete: content.complete,
            octets: content.octets,
        }
    }

    /// Writes it as a server does: with its dots doubled, and the terminator behind it if that came then. It has as many octets as
    /// it had, and where that can be as many lines, whatever of it was kept and is still there; but no more than `most` octets are
    /// made up. Returns how many are missing for that.
    ///
    /// # Errors
    ///
    /// What `out` fails with.
    pub(super) fn write(&self, kept: &mut Kept<'_>, most: u64, out: &mut dyn Write) -> io::Result<u64> {
        let mut wire = Wire { out, is_line_start: true, octets: 0, lines: 0, failed: None };
        // A side file that has expired is no reason to stop: the rest is made up.
        let _ = kept.copy(&self.pieces, &mut wire);
        if let Some(error) = wire.failed.take() {
            return Err(error);
        }
        let (octets, lines) = (self.size.saturating_sub(wire.octets), self.lines.saturating_sub(wire.lines));
        let head = if wire.octets == 0 { HEADER } else { REMARK };
        fill(octets.min(most), lines, head, &mut wire)?;
        if self.complete {
            let end: &[u8] = if wire.is_line_start { b".\r\n" } else { b"\r\n.\r\n" };
            wire.out.write_all(end)?;
        }
        Ok(octets.saturating_sub(most))
    }

    /// Octets on the wire, as recorded.
    pub(super) fn octets(&self) -> u64 {
        self.octets
    }
}

/// What a message begins with of which nothing was kept.
const HEADER: &[&str] = &[
    "Subject: synthetic message",
    "X-Poptap-Replay: of this message only the size was recorded",
    "",
    "poptap made this text up. It has as many octets as the message had.",
];

/// What stands behind the beginning that was kept.
const REMARK: &[&str] = &["[poptap made up what follows: no more of this message was kept]"];

/// What made-up lines consist of.
const PATTERN: &[u8] = b"synthetic ";

/// Writes so many octets in so many lines, or in fewer where they would have no room for their ends.
fn fill(mut octets: u64, lines: u64, head: &[&str], out: &mut dyn Write) -> io::Result<()> {
    let mut lines = lines.min(octets / 2).max(1);
    let (head_octets, head_lines) = (head.iter().map(|line| line.len() as u64 + 2).sum::<u64>(), head.len() as u64);
    if lines > head_lines && octets >= head_octets + 2 * (lines - head_lines) {
        head.iter().try_for_each(|line| write!(out, "{line}\r\n"))?;
        (octets, lines) = (octets - head_octets, lines - head_lines);
    }
    if octets < 2 {
        return out.write_all(&b"\n"[..usize::try_from(octets).unwrap_or(0)]);
    }
    let many = PATTERN.repeat(64);
    let (each, longer) = (octets / lines, octets % lines);
    for line in 0..lines {
        let mut text = each + u64::from(line < longer) - 2;
        while text > 0 {
            let piece = usize::try_from(text).unwrap_or(many.len()).min(many.len());
            out.write_all(&many[..piece])?;
            text -= piece as u64;
        }
        out.write_all(b"\r\n")?;
    }
    Ok(())
}

/// Doubles leading dots (RFC 1939 §3), and counts what passes.
struct Wire<'a> {
    out: &'a mut dyn Write,
    is_line_start: bool,
    octets: u64,
    lines: u64,
    /// What went wrong with `out`, as opposed to what is read from.
    failed: Option<io::Error>,
}

impl Wire<'_> {
    fn stuff(&mut self, octets: &[u8]) -> io::Result<()> {
        for part in octets.split_inclusive(|&octet| octet == b'\n') {
            if self.is_line_start && part.starts_with(b".") {
                self.out.write_all(b".")?;
            }
            self.out.write_all(part)?;
            self.is_line_start = part.ends_with(b"\n");
            self.lines += u64::from(self.is_line_start);
        }
        self.octets += octets.len() as u64;
        Ok(())
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.stuff(octets) {
            let kind = error.kind();
            self.failed = Some(error);
            return Err(kind.into());
        }
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const NAME: &str = "content-a.bin";

    /// The message's octets on the wire; of it, `kept` was kept.
    fn wire(kept: &[u8], size: u64, lines: u64, complete: bool) -> String {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(NAME), kept).unwrap();
        let pieces = vec![Piece { file: NAME.to_owned(), offset: 0, length: kept.len() as u64 }];
        let mut out = Vec::new();
        Message { pieces, size, lines, complete, octets: size }.write(&mut Kept::new(folder.path()), u64::MAX, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_was_kept_whole_is_sent_as_it_was() {
        for (kept, expected) in [
            ("Subject: x\r\n\r\n.\r\n..two\r\nbare\n.lf\r\n", "Subject: x\r\n\r\n..\r\n...two\r\nbare\n..lf\r\n.\r\n"),
            ("", ".\r\n"),
            ("no end", "no end\r\n.\r\n"),
        ] {
            let lines = kept.matches('\n').count() as u64;
            assert_eq!(wire(kept.as_bytes(), kept.len() as u64, lines, true), expected);
        }
        assert_eq!(wire(b"a\r\nb", 4, 2, false), "a\r\nb");
    }

    #[test]
    fn made_up_messages_have_the_size_and_the_lines_of_the_real_ones() {
        for (size, lines) in [(34_400, 512), (300, 10), (20, 10), (2, 1), (1_000_000, 5), (175, 5), (64, 1), (173, 4)] {
            let text = wire(b"", size, lines, true);
            let body = text.strip_suffix(".\r\n").unwrap();
            assert_eq!((body.len() as u64, body.matches("\r\n").count() as u64), (size, lines), "{size} {lines}");
            assert_eq!(body.starts_with("Subject: synthetic message\r\n"), size >= 175 && lines > 4, "{body}");
        }
        // Nothing has that many lines in so few octets.
        assert_eq!(wire(b"", 5, 9, true), "s\r\n\r\n.\r\n");
        assert_eq!(wire(b"", 1, 1, true), "\n.\r\n");
        assert_eq!(wire(b"", 0, 0, true), ".\r\n");
    }

    #[test]
    fn behind_what_was_kept_the_rest_is_made_up() {
        let text = wire(b"Subject: x\r\n\r\n", 500, 20, true);
        let body = text.strip_suffix(".\r\n").unwrap();
        assert!(body.starts_with("Subject: x\r\n\r\n[poptap made up what follows: "), "{body}");
        assert_eq!((body.len(), body.matches("\r\n").count()), (500, 20));
    }

    #[test]
    fn content_that_has_expired_is_made_up() {
        let pieces = vec![Piece { file: NAME.to_owned(), offset: 0, length: 300 }];
        let mut out = Vec::new();
        let folder = tempfile::tempdir().unwrap();
        let message = Message { pieces, size: 300, lines: 10, complete: true, octets: 303 };
        message.write(&mut Kept::new(folder.path()), u64::MAX, &mut out).unwrap();
        assert!(out.starts_with(b"Subject: synthetic") && out.len() == 303);
    }

    #[test]
    fn no_more_is_made_up_than_is_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let mut out = Vec::new();
        let message = Message { size: 1 << 60, lines: u64::MAX, complete: true, ..Message::default() };
        assert_eq!(message.write(&mut Kept::new(folder.path()), 1000, &mut out).unwrap(), (1 << 60) - 1000);
        assert_eq!(out.len(), 1003);
    }
}
