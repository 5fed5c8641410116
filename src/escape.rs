//! Text that can drive no terminal and forge no line, and back again.

use std::borrow::Cow;

/// Octets as text: control characters (C0, DEL, C1), bidirectional controls, line and paragraph separators, and octets that
/// are not UTF-8 become `\xNN`, one for each octet; a backslash becomes `\\`.
#[must_use]
pub fn escape(octets: &[u8]) -> String {
    escaped(octets).into_owned()
}

/// As [`escape`]; without a copy where there is nothing to escape.
#[must_use]
pub fn escaped(octets: &[u8]) -> Cow<'_, str> {
    let is_plain = |&octet: &u8| matches!(octet, b' '..=b'~') && octet != b'\\';
    match std::str::from_utf8(octets) {
        Ok(text) if octets.iter().all(is_plain) => Cow::Borrowed(text),
        _ => Cow::Owned(rewritten(octets)),
    }
}

fn rewritten(octets: &[u8]) -> String {
    let mut text = String::with_capacity(octets.len());
    for chunk in octets.utf8_chunks() {
        for character in chunk.valid().chars() {
            push(&mut text, character);
        }
        push_octets(&mut text, chunk.invalid());
    }
    text
}

/// A line of a stranger's, without its line end, escaped.
pub(crate) fn escape_line(line: &[u8]) -> String {
    let text = line.strip_suffix(b"\n").map_or(line, |line| line.strip_suffix(b"\r").unwrap_or(line));
    escape(text)
}

/// The octets that [`escape`] was given; `None` when `text` is not of its making.
#[must_use]
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        octets.extend_from_slice(&rest.as_bytes()[..at]);
        let sequence = &rest[at + 1..];
        if let Some(after) = sequence.strip_prefix('\\') {
            octets.push(b'\\');
            rest = after;
        } else {
            octets.push(hexadecimal(sequence.strip_prefix('x')?.get(..2)?)?);
            rest = &sequence[3..];
        }
    }
    octets.extend_from_slice(rest.as_bytes());
    Some(octets)
}

/// Lower-case hexadecimal digits, two for each octet.
pub(crate) fn hex(octets: &[u8]) -> String {
    octets.iter().flat_map(|&octet| [digit(octet >> 4), digit(octet & 15)]).collect()
}

fn push(text: &mut String, character: char) {
    if character == '\\' {
        text.push_str("\\\\");
    } else if is_dangerous(character) {
        push_octets(text, character.encode_utf8(&mut [0; 4]).as_bytes());
    } else {
        text.push(character);
    }
}

fn push_octets(text: &mut String, octets: &[u8]) {
    for &octet in octets {
        text.extend(['\\', 'x', digit(octet >> 4), digit(octet & 15)]);
    }
}

/// Whether a character could drive a terminal, end a line somewhere, or turn the order of what stands around it.
fn is_dangerous(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn digit(value: u8) -> char {
    char::from_digit(u32::from(value), 16).unwrap_or('0')
}

fn hexadecimal(digits: &str) -> Option<u8> {
    let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    plain.then(|| u8::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_escaped() {
        for (octets, expected) in [
            (&b"plain text"[..], "plain text"),
            (b"a\\b", r"a\\b"),
            (b"\x1b[31m\r\n\0\x7f", r"\x1b[31m\x0d\x0a\x00\x7f"),
            ("é \u{85}".as_bytes(), r"é \xc2\x85"),
            (b"\xff\xc3", r"\xff\xc3"),
            ("\u{202e}x\u{2066}\u{61c}\u{2028}".as_bytes(), r"\xe2\x80\xaex\xe2\x81\xa6\xd8\x9c\xe2\x80\xa8"),
        ] {
            assert_eq!(escape(octets), expected);
        }
    }

    #[test]
    fn a_line_loses_its_end_and_nothing_else() {
        for (line, expected) in [
            (&b"+OK ready <1@x>\r\n"[..], "+OK ready <1@x>"),
            (b"bare\n", "bare"),
            (b"two\r\nlines\r\n", r"two\x0d\x0alines"),
            (b"no end\r", r"no end\x0d"),
        ] {
            assert_eq!(escape_line(line), expected);
        }
    }

    #[test]
    fn what_is_not_of_our_making() {
        for text in [r"\", r"\x", r"\x1", r"\xg0", r"\n", r"\x+1", r"\xé"] {
            assert_eq!(unescape(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn escaping_round_trips(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            let text = escape(&octets);
            prop_assert!(!text.chars().any(is_dangerous));
            prop_assert_eq!(unescape(&text), Some(octets));
        }

        #[test]
        fn escaping_text_round_trips(text in any::<String>()) {
            prop_assert_eq!(unescape(&escape(text.as_bytes())), Some(text.into_bytes()));
        }
    }
}
