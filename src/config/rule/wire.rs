//! Texts of rules → replies as they are sent, and back.

use std::sync::Arc;

use crate::pop3::Status;

/// `-ERR` and the text.
pub(in crate::config) fn refusal(text: &str) -> Arc<[u8]> {
    line("-ERR", text).into_bytes().into()
}

/// A status line: the text, behind `+OK` unless it begins with a status of its own.
pub(in crate::config) fn single_line(text: &str) -> Arc<[u8]> {
    status_line(text).into_bytes().into()
}

/// A status line, the other texts dot-stuffed (RFC 1939 §3), and the terminator.
pub(in crate::config) fn multi_line<'a>(first: &str, body: impl Iterator<Item = &'a str>) -> Arc<[u8]> {
    let mut whole = status_line(first);
    for text in body {
        if text.starts_with('.') {
            whole.push('.');
        }
        whole.push_str(text);
        whole.push_str("\r\n");
    }
    whole.push_str(".\r\n");
    whole.into_bytes().into()
}

fn status_line(text: &str) -> String {
    match Status::of(text.as_bytes()) {
        Some(Status::Ok | Status::Err) => format!("{text}\r\n"),
        Some(Status::Continue) | None => line("+OK", text),
    }
}

fn line(status: &str, text: &str) -> String {
    let gap = if text.is_empty() { "" } else { " " };
    format!("{status}{gap}{text}\r\n")
}

/// The text of a [`refusal`].
pub(in crate::config) fn to_text(refusal: &[u8]) -> String {
    let shown = String::from_utf8_lossy(refusal);
    let text = shown.strip_suffix("\r\n").unwrap_or(&shown);
    let text = text.strip_prefix("-ERR").unwrap_or(text);
    text.strip_prefix(' ').unwrap_or(text).to_owned()
}

/// The lines of a [`single_line`] or [`multi_line`] reply, and whether it is one of the latter.
pub(in crate::config) fn reply(whole: &[u8]) -> (Vec<String>, bool) {
    let shown = String::from_utf8_lossy(whole);
    let mut lines: Vec<&str> = shown.strip_suffix("\r\n").unwrap_or(&shown).split("\r\n").collect();
    let is_multi_line = lines.len() > 1;
    if is_multi_line {
        lines.pop();
    }
    if let Some(first) = lines.first_mut() {
        *first = without_ok(first);
    }
    let unstuffed = lines.iter().map(|line| line.strip_prefix('.').unwrap_or(line).to_owned());
    (unstuffed.collect(), is_multi_line)
}

/// Without the `+OK` that [`status_line`] would put there: with it, a text may be longer than a text may be.
fn without_ok(line: &str) -> &str {
    let text = line.strip_prefix("+OK ").filter(|text| status_line(text).strip_suffix("\r\n") == Some(line));
    text.unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals() {
        for (text, sent) in [("no", "-ERR no\r\n"), ("", "-ERR\r\n"), (" two ", "-ERR  two \r\n")] {
            assert_eq!(&*refusal(text), sent.as_bytes());
            assert_eq!(to_text(sent.as_bytes()), text);
        }
    }

    #[test]
    fn replies_begin_with_a_status() {
        for (text, sent) in [
            ("hello", "+OK hello\r\n"),
            ("", "+OK\r\n"),
            ("+OK", "+OK\r\n"),
            ("+ok hello", "+ok hello\r\n"),
            ("-ERR no", "-ERR no\r\n"),
            ("+OKAY", "+OK +OKAY\r\n"),
            ("+ dGVzdA==", "+OK + dGVzdA==\r\n"),
        ] {
            assert_eq!(&*single_line(text), sent.as_bytes(), "{text}");
            let (lines, is_multi_line) = reply(sent.as_bytes());
            assert!(!is_multi_line);
            assert_eq!(&*single_line(&lines[0]), sent.as_bytes());
        }
    }

    #[test]
    fn bodies_are_stuffed_and_ended() {
        for (lines, sent) in [
            (&["here it is", "line", ".dotted", "", "."][..], "+OK here it is\r\nline\r\n..dotted\r\n\r\n..\r\n.\r\n"),
            (&["+OK"], "+OK\r\n.\r\n"),
            (&["", ""], "+OK\r\n\r\n.\r\n"),
        ] {
            let made = multi_line(lines[0], lines[1..].iter().copied());
            assert_eq!(&*made, sent.as_bytes(), "{lines:?}");
            let (again, is_multi_line) = reply(&made);
            assert!(is_multi_line);
            assert_eq!(again[1..], lines[1..]);
            assert_eq!(multi_line(&again[0], again[1..].iter().map(String::as_str)), made);
        }
    }
}
