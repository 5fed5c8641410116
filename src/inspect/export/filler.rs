//! Octets in the place of those that are not there: as many, in as many lines.

use std::io::{self, Read as _, Write};

/// The first line of a message that was not kept.
pub(super) const NOT_KEPT: &str = "X-Poptap: content was not kept";

/// The first line of what is missing of a message that was kept in part.
pub(super) const NOT_ALL_KEPT: &str = "X-Poptap: the rest was not kept";

/// How much filler may still be written: a record may claim any size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowance {
    left: u64,
    /// Octets that were not written for that.
    pub(super) refused: u64,
}

impl Allowance {
    /// So many octets.
    pub(super) fn of(octets: u64) -> Self {
        Self { left: octets, refused: 0 }
    }

    /// How many of so many octets of filler may be written.
    pub(super) fn take(&mut self, octets: u64) -> u64 {
        let taken = octets.min(self.left);
        self.left -= taken;
        self.refused = self.refused.saturating_add(octets - taken);
        taken
    }
}

/// Octets of a line where nothing says how long lines were.
const USUAL: u64 = 78;

/// Writes so many `x`.
pub(super) fn filler(octets: u64, out: &mut dyn Write) -> io::Result<()> {
    io::copy(&mut io::repeat(b'x').take(octets), out).map(drop)
}

/// Writes so many octets as so many lines, or as near as can be; 0 lines: as many as are usual.
pub(super) fn lines(octets: u64, lines: u64, out: &mut dyn Write) -> io::Result<()> {
    if octets < 2 {
        return out.write_all(&b"\n"[..usize::try_from(octets).unwrap_or_default()]);
    }
    let lines = if lines == 0 { octets.div_ceil(USUAL) } else { lines }.clamp(1, octets / 2);
    let (each, longer) = (octets / lines, octets % lines);
    for line in 0..lines {
        filler(each + u64::from(line < longer) - 2, out)?;
        out.write_all(b"\r\n")?;
    }
    Ok(())
}

/// Writes a message of so many octets and lines, of which `header` (where that is known) are its header and the empty line
/// behind it. Where there is room for it, its first line says what it is.
pub(super) fn message(octets: u64, lines: u64, header: Option<u64>, out: &mut dyn Write) -> io::Result<()> {
    let least = NOT_KEPT.len() as u64 + 4;
    if octets < least {
        return self::lines(octets, lines, out);
    }
    let header = header.map_or(least, |header| header.clamp(least, octets));
    out.write_all(NOT_KEPT.as_bytes())?;
    let folds = folded(header - least, out)?;
    out.write_all(b"\r\n\r\n")?;
    self::lines(octets - header, lines.saturating_sub(2 + folds), out)
}

/// Writes what is missing of a message behind what was kept of it.
pub(super) fn rest(octets: u64, lines: u64, out: &mut dyn Write) -> io::Result<()> {
    let note = NOT_ALL_KEPT.len() as u64 + 2;
    if octets < note {
        return self::lines(octets, lines, out);
    }
    write!(out, "{NOT_ALL_KEPT}\r\n")?;
    self::lines(octets - note, lines.saturating_sub(1), out)
}

/// Makes a header field longer by so many octets, in lines that continue it (RFC 5322 §2.2.3); returns how many.
fn folded(octets: u64, out: &mut dyn Write) -> io::Result<u64> {
    let (mut left, mut folds) = (octets, 0);
    while left > 3 {
        let line = left.min(USUAL);
        out.write_all(b"\r\n ")?;
        filler(line - 3, out)?;
        left -= line;
        folds += 1;
    }
    filler(left, out)?;
    Ok(folds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl Fn(&mut dyn Write) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_it_looks_like() {
        assert_eq!(written(|out| lines(9, 2, out)), "xxx\r\nxx\r\n");
        assert_eq!(written(|out| message(40, 3, None, out)), "X-Poptap: content was not kept\r\n\r\nxxxx\r\n");
        assert_eq!(written(|out| message(46, 4, Some(40), out)), "X-Poptap: content was not kept\r\n xxx\r\n\r\nxxxx\r\n");
        assert_eq!(written(|out| rest(40, 2, out)), "X-Poptap: the rest was not kept\r\nxxxxx\r\n");
        assert_eq!(written(|out| message(5, 1, Some(3), out)), "xxx\r\n");
    }

    proptest! {
        #[test]
        fn the_size_is_always_right(octets in 0u64..3000, count in 0u64..200, header in prop::option::of(0u64..4000)) {
            let size = |write: &dyn Fn(&mut dyn Write) -> io::Result<()>| written(write).len() as u64;
            prop_assert_eq!(size(&|out| lines(octets, count, out)), octets);
            prop_assert_eq!(size(&|out| message(octets, count, header, out)), octets);
            prop_assert_eq!(size(&|out| rest(octets, count, out)), octets);
        }

        #[test]
        fn the_lines_are_too_where_they_can_be(count in 1u64..100, more in 0u64..5000) {
            prop_assert_eq!(written(|out| lines(2 * count + more, count, out)).lines().count() as u64, count);
        }
    }
}
