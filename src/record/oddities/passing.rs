//! A body that is passing: its size, and how its lines end.

use memchr::memchr_iter;

use super::Answer;
use crate::{
    pop3::{Keyword, LineEnd},
    tap::Ordinal,
};

/// Octets at the beginning of a body in which bare LFs are looked for. Who sends them sends them everywhere.
const LOOKED_THROUGH: u64 = 16 * 1024;

/// What is to be known of it.
pub(super) struct Passing {
    pub(super) n: Ordinal,
    pub(super) keyword: Keyword,
    /// Where it begins in the server's stream.
    pub(super) offset: u64,
    /// Octets, dot-stuffing removed.
    pub(super) size: u64,
    /// The message's number.
    pub(super) message: Option<u64>,
    /// Its status line ended in a bare LF, so that its own lines need not be looked at.
    of_lf: bool,
    lines: u64,
    /// The first line that ended in a bare LF, and whether anything came behind it.
    bare: Option<(u64, bool)>,
    /// The last octets.
    tail: [u8; 3],
}

/// How a body's lines end that do not end as they should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// This line ended in a bare LF, and others followed.
    BareLf(u64),
    /// The last line did.
    LastLine,
}

impl Passing {
    pub(super) fn new(answer: Answer<'_>) -> Self {
        let Answer { n, keyword, message, line, .. } = answer;
        let (offset, of_lf) = (line.offset + line.octets, line.end == LineEnd::Lf);
        Self { n, keyword, offset, size: 0, message, of_lf, lines: 0, bare: None, tail: *b"\n\r\n" }
    }

    #[inline]
    pub(super) fn take(&mut self, octets: &[u8]) {
        match &mut self.bare {
            Some((_, followed)) => *followed = true,
            None if self.size < LOOKED_THROUGH && !self.of_lf => self.look_through(octets),
            None => {}
        }
        self.size += octets.len() as u64;
        let [_, before, last] = self.tail;
        self.tail = match *octets {
            [.., one, two, three] => [one, two, three],
            [one, two] => [last, one, two],
            [one] => [before, last, one],
            [] => self.tail,
        };
    }

    fn look_through(&mut self, octets: &[u8]) {
        for at in memchr_iter(b'\n', octets) {
            self.lines += 1;
            let before = if at == 0 { self.tail[2] } else { octets[at - 1] };
            if before != b'\r' {
                self.bare = Some((self.lines, at + 1 < octets.len()));
                return;
            }
        }
    }

    /// What is wrong with the line ends, once all of it has passed, or what came of it.
    pub(super) fn flaw(&self, complete: bool) -> Option<Flaw> {
        match (self.bare, self.tail) {
            (Some((line, true)), _) => Some(Flaw::BareLf(line)),
            (Some((line, false)), _) if !complete => Some(Flaw::BareLf(line)),
            (Some(_), _) => Some(Flaw::LastLine),
            (None, [_, before, b'\n']) if before != b'\r' && complete && !self.of_lf => Some(Flaw::LastLine),
            _ => None,
        }
    }

    /// Whether the last that came looks like the terminator behind a line that was not ended.
    pub(super) fn ends_like_a_message(&self) -> bool {
        self.size > 0 && self.tail == *b".\r\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pop3::{Shape, Stage, Status},
        tap::Line,
    };

    fn passing(end: LineEnd, body: &[u8], cut: usize) -> Passing {
        let line = Line { text: b"+OK", octets: 3 + end.octets(), offset: 10, end };
        let mut passing = Passing::new(Answer {
            n: 1,
            keyword: Keyword::Retr,
            status: Some(Status::Ok),
            shape: Shape::MultiLine,
            line: &line,
            stage: Stage::Transaction,
            latency_us: 0,
            message: None,
        });
        body.chunks(cut).for_each(|piece| passing.take(piece));
        passing
    }

    #[test]
    fn line_ends_in_every_chunking() {
        for (body, complete, flaw) in [
            (&b"a\r\nb\r\n"[..], true, None),
            (b"", true, None),
            (b"\n", true, Some(Flaw::LastLine)),
            (b"a\nb\r\n", true, Some(Flaw::BareLf(1))),
            (b"a\r\n\nb\n", true, Some(Flaw::BareLf(2))),
            (b"a\r\nb\n", true, Some(Flaw::LastLine)),
            (b"a\r\nb\n", false, Some(Flaw::BareLf(2))),
            (b"a\r\nb\nc", false, Some(Flaw::BareLf(2))),
            (b"a\r\r\n\r\n", true, None),
            (b"a\r\nhalf", false, None),
        ] {
            for cut in 1..=body.len().max(1) {
                let passing = passing(LineEnd::CrLf, body, cut);
                assert_eq!((passing.flaw(complete), passing.size), (flaw, body.len() as u64), "{} by {cut}", body.escape_ascii());
            }
        }
    }

    #[test]
    fn behind_a_status_line_with_a_bare_lf_none_is_told_of() {
        assert_eq!(passing(LineEnd::Lf, b"a\nb\n", 9).flaw(true), None);
    }

    #[test]
    fn far_into_a_body_only_its_last_line_counts() {
        let long = [&b"0123456789abcd\r\n".repeat(1024)[..], b"bare\nlast\r\n"].concat();
        assert_eq!(passing(LineEnd::CrLf, &long, 4096).flaw(true), None);
        assert_eq!(passing(LineEnd::CrLf, &long[..long.len() - 6], 4096).flaw(true), Some(Flaw::LastLine));
    }

    #[test]
    fn a_dot_behind_text_looks_like_an_end() {
        for cut in 1..9 {
            assert!(passing(LineEnd::CrLf, b"a\r\nb.\r\n", cut).ends_like_a_message());
            assert!(!passing(LineEnd::CrLf, b"a\r\nb\r\n", cut).ends_like_a_message());
        }
    }
}
