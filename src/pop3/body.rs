//! The body of a multi-line reply (RFC 1939 §3): dot-stuffed lines up to `.` alone on one.

use std::sync::LazyLock;

use memchr::memmem::Finder;

/// Finds the terminator of a body that arrives in pieces of any size, and what of it is content.
///
/// `.CRLF` at the start of a line ends a body; `.LF` ends it only where the status line ended in a bare LF too.
#[derive(Debug)]
pub struct Body {
    state: State,
    lf_ends: bool,
    octets: u64,
}

/// What [`Body::step`] found.
#[derive(Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// Octets of the input that are dealt with.
    pub consumed: usize,
    /// Content among them, dot-stuffing removed.
    pub content: &'a [u8],
    /// Whether the terminator is among them.
    pub end: bool,
    /// Whether the input begins with the bare LF of a line with nothing but a dot, which does not end this body.
    pub lf_dot: bool,
}

/// Named for what has been seen of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    LineStart,
    Dot,
    DotCr,
    Within,
}

impl Body {
    /// A body that begins behind a status line; `lf_ends` says that the status line ended in a bare LF.
    #[must_use]
    pub fn new(lf_ends: bool) -> Self {
        Self { state: State::LineStart, lf_ends, octets: 0 }
    }

    /// Octets seen so far: stuffing and terminator included.
    #[must_use]
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Whether `line`, which comes next, is the terminator.
    #[must_use]
    pub fn ends_with(&self, line: &[u8]) -> bool {
        self.state == State::LineStart && (line == b".\r\n" || self.lf_ends && line == b".\n")
    }

    /// Deals with the next piece of `input`, which must not be empty; call again with what it leaves.
    ///
    /// A step may consume nothing and still get on: a withheld CR turns out to be content.
    pub fn step<'a>(&mut self, input: &'a [u8]) -> Step<'a> {
        let step = self.next(input);
        self.octets += step.consumed as u64;
        step
    }

    fn next<'a>(&mut self, input: &'a [u8]) -> Step<'a> {
        match (self.state, input[0]) {
            (State::LineStart, b'.') => self.withhold(State::Dot),
            (State::Dot, b'\r') => self.withhold(State::DotCr),
            (State::DotCr, b'\n') => END,
            (State::Dot, b'\n') if self.lf_ends => END,
            (State::Dot, b'\n') => Step { lf_dot: true, ..self.content(input) },
            (State::DotCr, _) => {
                self.state = State::Within;
                Step { consumed: 0, content: b"\r", end: false, lf_dot: false }
            }
            _ => self.content(input),
        }
    }

    fn withhold(&mut self, state: State) -> Step<'static> {
        self.state = state;
        Step { consumed: 1, content: b"", end: false, lf_dot: false }
    }

    /// All up to the next line that begins with a dot; that dot is consumed with it.
    fn content<'a>(&mut self, input: &'a [u8]) -> Step<'a> {
        if let Some(at) = DOT_AT_LINE_START.find(input) {
            self.state = State::Dot;
            return Step { consumed: at + 2, content: &input[..=at], end: false, lf_dot: false };
        }
        self.state = if input.ends_with(b"\n") { State::LineStart } else { State::Within };
        Step { consumed: input.len(), content: input, end: false, lf_dot: false }
    }
}

/// Built once: to build it takes as long as to search a kilobyte.
static DOT_AT_LINE_START: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\n."));

const END: Step<'static> = Step { consumed: 1, content: b"", end: true, lf_dot: false };

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `wire` through in pieces of `size` octets: the content, and how many octets the body took.
    fn run(wire: &[u8], lf_ends: bool, size: usize) -> (Vec<u8>, Option<usize>) {
        let (mut body, mut content, mut at) = (Body::new(lf_ends), Vec::new(), 0);
        for piece in wire.chunks(size) {
            let mut rest = piece;
            while !rest.is_empty() {
                let step = body.step(rest);
                content.extend_from_slice(step.content);
                at += step.consumed;
                rest = &rest[step.consumed..];
                if step.end {
                    assert_eq!(body.octets(), at as u64);
                    return (content, Some(at));
                }
            }
        }
        (content, None)
    }

    #[test]
    fn bodies_in_every_chunking() {
        for (wire, lf_ends, content, end) in [
            (&b".\r\n"[..], false, &b""[..], Some(3)),
            (b"a\r\n.\r\n+OK", false, b"a\r\n", Some(6)),
            (b"..\r\n...\r\n.x\r\n.\r\n", false, b".\r\n..\r\nx\r\n", Some(16)),
            (b"a\n.\nb\r\n.\r\n", false, b"a\n\nb\r\n", Some(10)),
            (b"a\n.\nb", true, b"a\n", Some(4)),
            (b"a\r\n.\r\r\n.\r\n", false, b"a\r\n\r\r\n", Some(10)),
            (b"a\r\n.\rb\r\n.\r\n", false, b"a\r\n\rb\r\n", Some(11)),
            (b"\0\xff\r\r\n.\r\n", false, b"\0\xff\r\r\n", Some(8)),
            (b"no end", false, b"no end", None),
            (b"a.\r\n.\r\n", false, b"a.\r\n", Some(7)),
        ] {
            for size in 1..=wire.len() {
                assert_eq!(run(wire, lf_ends, size), (content.to_vec(), end), "{} by {size}", wire.escape_ascii());
            }
        }
    }
}
