//! A line that is being forwarded while it arrives: its beginning, for the record.

use zeroize::Zeroize;

use super::{Line, REMEMBERED};
use crate::pop3::LineEnd;

/// The line of one direction of which some octets have passed already.
#[derive(Default)]
pub(super) struct Cut {
    /// The first octets; never more than [`REMEMBERED`].
    text: Vec<u8>,
    octets: u64,
    offset: u64,
    /// The last two octets.
    tail: [u8; 2],
}

impl Cut {
    /// Whether no octet of a line has passed.
    pub(super) fn is_empty(&self) -> bool {
        self.octets == 0
    }

    pub(super) fn octets(&self) -> u64 {
        self.octets
    }

    /// The next octets of the line, up to and including its LF. `offset` is where they stand in their stream.
    pub(super) fn push(&mut self, piece: &[u8], offset: u64) {
        if self.is_empty() {
            self.offset = offset;
        }
        let room = REMEMBERED - self.text.len();
        self.text.extend_from_slice(&piece[..room.min(piece.len())]);
        self.octets += piece.len() as u64;
        self.tail = match piece {
            [.., last_but_one, last] => [*last_but_one, *last],
            [last] => [self.tail[1], *last],
            [] => self.tail,
        };
    }

    /// The line so far.
    pub(super) fn line(&self) -> Line<'_> {
        let end = line_end(&self.tail[2 - self.octets.min(2) as usize..]);
        let content = self.octets - end.octets();
        let kept = content.min(self.text.len() as u64);
        Line { text: &self.text[..usize::try_from(kept).unwrap_or(REMEMBERED)], octets: self.octets, offset: self.offset, end }
    }

    /// Forgets the line.
    pub(super) fn clear(&mut self) {
        self.text.zeroize();
        *self = Self { text: std::mem::take(&mut self.text), ..Self::default() };
    }
}

/// A line that arrived in one piece, its line end included; `most` octets of it are shown.
pub(super) fn whole(piece: &[u8], offset: u64, most: usize) -> Line<'_> {
    let end = line_end(piece);
    let content = &piece[..piece.len() - usize::from(end != LineEnd::None) - usize::from(end == LineEnd::CrLf)];
    Line { text: &content[..content.len().min(most)], octets: piece.len() as u64, offset, end }
}

fn line_end(octets: &[u8]) -> LineEnd {
    match octets {
        [.., b'\r', b'\n'] => LineEnd::CrLf,
        [.., b'\n'] => LineEnd::Lf,
        _ => LineEnd::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_in_pieces_is_the_line_in_one_piece() {
        for length in [0, 1, 2, 509, 510, 511, 512, 513, 2000] {
            for end in ["\r\n", "\n", "", "\r", "\r\r\n"] {
                let wire = [vec![b'x'; length], end.as_bytes().to_vec()].concat();
                for size in [1, 2, 7, 511, 512, 513] {
                    let mut cut = Cut::default();
                    let mut offset = 40;
                    for piece in wire.chunks(size) {
                        cut.push(piece, offset);
                        offset += piece.len() as u64;
                    }
                    if !wire.is_empty() {
                        assert_eq!(cut.line(), whole(&wire, 40, REMEMBERED), "{length} octets and {end:?} by {size}");
                    }
                    cut.clear();
                    assert!(cut.is_empty());
                }
            }
        }
    }
}
