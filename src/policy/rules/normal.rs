//! Lines in one form, however a client wrote them.

use std::borrow::Cow;

/// The line that patterns are looked for in: without its line end and the blanks at its ends, and with one space for each run of
/// blanks within. It is borrowed where that changes nothing.
///
/// Blanks are what ends a word for some server: spaces and tabs, and also a bare CR (Courier) and a NUL (Dovecot, Cyrus).
#[must_use]
pub fn normalise(line: &[u8]) -> Cow<'_, [u8]> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let start = line.iter().position(|octet| !is_blank(*octet)).unwrap_or(line.len());
    let end = line.iter().rposition(|octet| !is_blank(*octet)).map_or(start, |last| last + 1);
    let line = &line[start..end];
    if is_normal(line) { Cow::Borrowed(line) } else { Cow::Owned(joined(line)) }
}

fn is_normal(line: &[u8]) -> bool {
    let is_blank_behind_blank = |pair: &[u8]| is_blank(pair[0]) && is_blank(pair[1]);
    line.iter().all(|octet| !is_blank(*octet) || *octet == b' ') && !line.windows(2).any(is_blank_behind_blank)
}

fn joined(line: &[u8]) -> Vec<u8> {
    let mut made = Vec::with_capacity(line.len());
    for word in line.split(|octet| is_blank(*octet)).filter(|word| !word.is_empty()) {
        if !made.is_empty() {
            made.push(b' ');
        }
        made.extend_from_slice(word);
    }
    made
}

fn is_blank(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t' | b'\r' | 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_one_form() {
        for (line, expected, is_borrowed) in [
            (&b"DELE 1"[..], &b"DELE 1"[..], true),
            (b"DELE 1\r\n", b"DELE 1", true),
            (b" \t dele 1 \t\n", b"dele 1", true),
            (b"DELE  1", b"DELE 1", false),
            (b"DELE\t1", b"DELE 1", false),
            (b"DELE \t \t1  2", b"DELE 1 2", false),
            (b"RETR 1\rQUIT\r\n", b"RETR 1 QUIT", false),
            (b"NOOP\0x", b"NOOP x", false),
            (b"", b"", true),
            (b" \t\r\n", b"", true),
            (b"\xff \xfe", b"\xff \xfe", true),
        ] {
            let made = normalise(line);
            assert_eq!((&*made, matches!(made, Cow::Borrowed(_))), (expected, is_borrowed), "{}", line.escape_ascii());
            assert!(matches!(normalise(&made), Cow::Borrowed(again) if again == &*made), "its own normal form");
        }
    }
}
