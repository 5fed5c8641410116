//! Message content that was kept: raw octets in a segment's side file, read piece by piece.

use std::{
    fs::File,
    io::{self, BufReader, Read, Write},
    path::Path,
};

use crate::record::schema::Piece;

/// Reads pieces of side files, whether those were compressed since or not. Pieces that are asked for in the order in which they
/// were written are read in one pass over their file. Memory: one buffer.
pub(crate) struct Kept<'a> {
    directory: &'a Path,
    open: Option<Open>,
}

struct Open {
    name: String,
    source: Box<dyn Read>,
    /// Octets that were read of it.
    position: u64,
}

impl<'a> Kept<'a> {
    /// Of the store in `directory`.
    pub(crate) fn new(directory: &'a Path) -> Self {
        Self { directory, open: None }
    }

    /// Writes the octets of the pieces, one after the other.
    ///
    /// # Errors
    ///
    /// `NotFound` where the side file is gone (it has expired), `UnexpectedEof` where it is shorter than the record says,
    /// `InvalidInput` where the record names no file of the store, and whatever reading or writing fails with.
    pub(crate) fn copy(&mut self, pieces: &[Piece], out: &mut dyn Write) -> io::Result<()> {
        pieces.iter().try_for_each(|piece| self.piece(piece, out))
    }

    fn piece(&mut self, piece: &Piece, out: &mut dyn Write) -> io::Result<()> {
        let open = match self.open.take_if(|open| open.name == piece.file && open.position <= piece.offset) {
            Some(open) => open,
            None => open(self.directory, &piece.file)?,
        };
        let open = self.open.insert(open);
        let ahead = piece.offset - open.position;
        open.pass(ahead, &mut io::sink())?;
        open.pass(piece.length, out)
    }
}

impl Open {
    fn pass(&mut self, count: u64, out: &mut dyn Write) -> io::Result<()> {
        let passed = io::copy(&mut (&mut self.source).take(count), out)?;
        self.position += passed;
        if passed == count { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

fn open(directory: &Path, name: &str) -> io::Result<Open> {
    // A record is text that anybody may have written: it leads nowhere else.
    let is_plain = name.starts_with("content-") && !name.contains(['/', '\\', '\0']);
    if !is_plain {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the record names no file of the store"));
    }
    let source: Box<dyn Read> = match File::open(directory.join(name)) {
        Ok(file) => Box::new(BufReader::with_capacity(64 * 1024, file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Box::new(zstd::Decoder::new(File::open(directory.join(format!("{name}.zst")))?)?)
        }
        Err(error) => return Err(error),
    };
    Ok(Open { name: name.to_owned(), source, position: 0 })
}

#[cfg(test)]
mod tests {
    use super::{super::testing::Shelf, *};

    fn piece(file: &str, offset: u64, length: u64) -> Piece {
        Piece { file: file.to_owned(), offset, length }
    }

    #[test]
    fn pieces_of_plain_and_compressed_files_in_any_order() {
        let packed = zstd::encode_all(&b"0123456789"[..], 3).unwrap();
        let shelf = Shelf::new().with("content-a.bin", "abcdefghij").with("content-b.bin.zst", packed);
        let mut kept = Kept::new(shelf.path());
        let mut text = |pieces: &[Piece]| {
            let mut out = Vec::new();
            kept.copy(pieces, &mut out).map(|()| String::from_utf8(out).unwrap()).map_err(|error| error.kind())
        };
        let [a, b] = ["content-a.bin", "content-b.bin"];
        assert_eq!(text(&[piece(a, 2, 3), piece(a, 5, 1), piece(b, 8, 2), piece(b, 0, 1)]), Ok("cdef890".to_owned()));
        assert_eq!(text(&[piece(a, 8, 3)]), Err(io::ErrorKind::UnexpectedEof));
        assert_eq!(text(&[piece("content-c.bin", 0, 1)]), Err(io::ErrorKind::NotFound));
        for name in ["../content-a.bin", "content-/../a", "/etc/passwd"] {
            assert_eq!(text(&[piece(name, 0, 1)]), Err(io::ErrorKind::InvalidInput), "{name}");
        }
    }
}
