//! Dot-stuffing (RFC 1939 §3): what [`crate::pop3::Body`] takes off is put on again.

use std::io::{self, Write};

use memchr::{memchr_iter, memmem};

/// Writes lines on, a dot more before each that begins with one.
pub(super) struct Stuffed<'a, W: Write> {
    out: &'a mut W,
    at_line_start: bool,
    taken: u64,
    dots: u64,
    lines: u64,
    failed: bool,
}

impl<'a, W: Write> Stuffed<'a, W> {
    /// At the start of a line.
    pub(super) fn new(out: &'a mut W) -> Self {
        Self { out, at_line_start: true, taken: 0, dots: 0, lines: 0, failed: false }
    }

    /// Octets that came.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Octets that went on.
    pub(super) fn written(&self) -> u64 {
        self.taken + self.dots
    }

    /// Lines that ended.
    pub(super) fn lines(&self) -> u64 {
        self.lines
    }

    /// Whether a line would begin here.
    pub(super) fn at_line_start(&self) -> bool {
        self.at_line_start
    }

    /// `Err` when it was writing that failed, not where the octets came from.
    pub(super) fn check(&self, error: io::Error) -> io::Result<()> {
        if self.failed { Err(error) } else { Ok(()) }
    }

    fn put(&mut self, octets: &[u8]) -> io::Result<()> {
        self.out.write_all(octets).inspect_err(|_| self.failed = true)
    }
}

impl<W: Write> Write for Stuffed<'_, W> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let Some(&first) = octets.first() else { return Ok(0) };
        if self.at_line_start && first == b'.' {
            self.put(b".")?;
            self.dots += 1;
        }
        // Up to where the next line begins with a dot.
        let count = memmem::find(octets, b"\n.").map_or(octets.len(), |at| at + 1);
        let piece = &octets[..count];
        self.put(piece)?;
        self.lines += memchr_iter(b'\n', piece).count() as u64;
        self.at_line_start = piece.ends_with(b"\n");
        self.taken += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pop3::Body;

    const MESSAGE: &[u8] = b".\r\n..a\r\nb.\r\n\r\n.c\n.\nd";

    #[test]
    fn what_is_stuffed_is_read_again_in_every_chunking() {
        for size in 1..=MESSAGE.len() {
            let mut wire = Vec::new();
            let mut stuffed = Stuffed::new(&mut wire);
            for piece in MESSAGE.chunks(size) {
                stuffed.write_all(piece).unwrap();
            }
            assert_eq!((stuffed.taken(), stuffed.written(), stuffed.lines()), (20, 24, 6));
            assert!(!stuffed.at_line_start());
            assert_eq!(wire, b"..\r\n...a\r\nb.\r\n\r\n..c\n..\nd", "{size}");
            wire.extend(b"\r\n.\r\n");
            let (mut body, mut read, mut rest) = (Body::new(false), Vec::<u8>::new(), &wire[..]);
            while !rest.is_empty() {
                let step = body.step(rest);
                read.extend(step.content);
                rest = &rest[step.consumed..];
            }
            assert_eq!(read, [MESSAGE, b"\r\n"].concat());
        }
    }
}
