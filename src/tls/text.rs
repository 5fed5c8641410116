//! Text from strangers, made safe to show.

use std::fmt::Write as _;

/// `octets` as one line of printable text, without its line end: control characters, bidirectional controls and octets
/// that are not UTF-8 become `\xNN`, and a backslash `\\`, so that it can be reversed and cannot drive a terminal or
/// forge a line.
pub(crate) fn escape(octets: &[u8]) -> String {
    let octets = octets.strip_suffix(b"\n").map_or(octets, |line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut text = String::with_capacity(octets.len());
    for chunk in octets.utf8_chunks() {
        chunk.valid().chars().for_each(|letter| push(&mut text, letter));
        push_octets(&mut text, chunk.invalid());
    }
    text
}

fn push(text: &mut String, letter: char) {
    match letter {
        '\\' => text.push_str("\\\\"),
        _ if letter.is_control() || drives_direction(letter) => {
            push_octets(text, letter.encode_utf8(&mut [0; 4]).as_bytes());
        }
        _ => text.push(letter),
    }
}

fn push_octets(text: &mut String, octets: &[u8]) {
    for octet in octets {
        // Writing into a String cannot fail.
        let _ = write!(text, "\\x{octet:02x}");
    }
}

/// Line and paragraph separators count too: some viewers break lines at them.
fn drives_direction(letter: char) -> bool {
    matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_drives_a_terminal_passes() {
        let cases: [(&[u8], &str); 7] = [
            (b"+OK ready <1@x>\r\n", "+OK ready <1@x>"),
            (b"bare\n", "bare"),
            (b"two\r\nlines\r\n", "two\\x0d\\x0alines"),
            (b"\x1b[31m\0", "\\x1b[31m\\x00"),
            (b"back\\slash", "back\\\\slash"),
            ("gr\u{fc}n \u{9b}\u{202e}".as_bytes(), "gr\u{fc}n \\xc2\\x9b\\xe2\\x80\\xae"),
            (b"\xff-", "\\xff-"),
        ];
        for (octets, text) in cases {
            assert_eq!(escape(octets), text);
        }
    }
}
