//! Text without what differs from session to session anyway: numbers, times, ids.

/// Names of days and months, as dates have them.
const CALENDAR: [&str; 19] = [
    "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov",
    "Dec",
];

/// A word of at least so many characters that has a digit is an id.
const ID: usize = 8;

/// The text with `#` for each number, word of a date and id, and `<…>` for each message-id or timestamp (RFC 1939 §7).
pub(super) fn normalised(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '<' => timestamp(rest),
            _ => rest.find(|character: char| !character.is_ascii_alphanumeric()).unwrap_or(rest.len()),
        };
        let (word, after) = rest.split_at(length.max(first.len_utf8()));
        match (first, length) {
            ('<', 1..) => out.push_str("<…>"),
            (_, 0) => out.push_str(word),
            _ => push(word, &mut out),
        }
        rest = after;
    }
    out
}

/// The length of the `<left@right>` that `text` begins with, or 0.
fn timestamp(text: &str) -> usize {
    let end = text.find(|character: char| character == '>' || character.is_whitespace());
    end.filter(|&end| text[end..].starts_with('>') && text[..end].contains('@')).map_or(0, |end| end + 1)
}

fn push(word: &str, out: &mut String) {
    let has_digit = word.bytes().any(|octet| octet.is_ascii_digit());
    if CALENDAR.contains(&word) || has_digit && word.len() >= ID {
        return out.push('#');
    }
    let mut was_digit = false;
    for character in word.chars() {
        match (character.is_ascii_digit(), was_digit) {
            (true, true) => {}
            (true, false) => out.push('#'),
            (false, _) => out.push(character),
        }
        was_digit = character.is_ascii_digit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_varies_and_what_does_not() {
        for (text, expected) in [
            ("+OK 34400 octets", "+OK # octets"),
            ("+OK ready <1896.697170952@dbc.mtview.ca.us>", "+OK ready <…>"),
            ("-ERR [AUTH] wrong", "-ERR [AUTH] wrong"),
            ("+OK Mon, 23 Nov 2026 06:30:00 +0100", "+OK #, # # # #:#:# +#"),
            ("+OK id 5e4wenz43n1d at é1", "+OK id # at é#"),
            ("C: PASS <withheld, 17 octets>", "C: PASS <withheld, # octets>"),
            ("a <b", "a <b"),
            ("<>", "<>"),
            ("pop3s", "pop#s"),
            ("", ""),
        ] {
            assert_eq!(normalised(text), expected, "{text}");
        }
    }
}
