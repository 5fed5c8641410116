//! The side file: raw message content beside the events that say where it stands.

use std::io;

use super::{lane::write_counted, schema::Piece, segment::Output};

/// The side file of the events segment that is open.
pub(super) struct Side {
    name: String,
    output: Box<dyn Output>,
    written: u64,
}

impl Side {
    /// One that was just opened.
    pub(super) fn new(name: String, output: Box<dyn Output>) -> Self {
        Self { name, output, written: 0 }
    }

    /// Octets in it.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Appends `octets`, or leaves the file as it was.
    pub(super) fn append(&mut self, octets: &[u8]) -> io::Result<Piece> {
        let (done, result) = write_counted(&mut *self.output, octets);
        if let Err(error) = result {
            // When this fails too, the octets stay, and offsets must count them.
            if self.output.truncate(self.written).is_err() {
                self.written += done as u64;
            }
            return Err(error);
        }
        let piece = Piece { file: self.name.clone(), offset: self.written, length: octets.len() as u64 };
        self.written += piece.length;
        Ok(piece)
    }
}

/// Adds a piece, or lengthens the last one when it goes on where that ended.
pub(super) fn append(pieces: &mut Vec<Piece>, piece: Piece) {
    match pieces.last_mut() {
        Some(last) if last.file == piece.file && last.offset + last.length == piece.offset => last.length += piece.length,
        _ => pieces.push(piece),
    }
}
