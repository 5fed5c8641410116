//! A mailbox in memory, and how its messages look on the wire.

use super::messages;

/// Messages in a fixed order; a session counts them from 1.
///
/// It never changes: what a session deletes is gone for that session only.
#[derive(Clone, Debug)]
pub struct Mailbox {
    messages: Vec<Message>,
}

impl Mailbox {
    /// A mailbox of these messages.
    #[must_use]
    pub fn new(messages: Vec<Message>) -> Self {
        Self { messages }
    }

    /// The sample: a handful of messages as a person may have them, the last of about 1 MiB. It is the same in every run.
    #[must_use]
    pub fn sample() -> Self {
        Self::new(messages::sample())
    }

    /// The messages; the one that a session calls 1 comes first.
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Octets of all messages together.
    #[must_use]
    pub fn size(&self) -> usize {
        self.messages.iter().map(Message::size).sum()
    }
}

/// One message: octets in lines that all end in CR LF, and an identifier that is unique in its mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    uid: String,
    octets: Vec<u8>,
}

impl Message {
    /// A message with `uid` as its UIDL (RFC 1939 §7: 1 to 70 octets from `!` to `~`).
    ///
    /// A bare LF becomes CR LF, and a last line without an end gets one, since POP3 carries nothing else.
    #[must_use]
    pub fn new(uid: impl Into<String>, text: &[u8]) -> Self {
        let octets = lines(text).flat_map(|line| [without_end(line), b"\r\n"].concat()).collect();
        Self { uid: uid.into(), octets }
    }

    /// Its UIDL.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The message itself, without dot-stuffing.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// Its octets, as LIST and STAT count them (RFC 1939 §11).
    #[must_use]
    pub fn size(&self) -> usize {
        self.octets.len()
    }

    /// What TOP gives: the headers, the blank line, and `count` lines of the body (RFC 1939 §7).
    #[must_use]
    pub fn top(&self, count: usize) -> &[u8] {
        let headers = lines(&self.octets).position(|line| line == b"\r\n").map_or(usize::MAX, |blank| blank + 1);
        let end = lines(&self.octets).take(headers.saturating_add(count)).map(<[u8]>::len).sum();
        &self.octets[..end]
    }
}

/// The body of a multi-line reply: `text` with every leading dot doubled, then the terminator (RFC 1939 §3).
///
/// Each line of `text` ends in CR LF.
#[must_use]
pub fn stuff(text: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(text.len() + text.len() / 64 + 3);
    for line in lines(text) {
        if line.first() == Some(&b'.') {
            body.push(b'.');
        }
        body.extend_from_slice(line);
    }
    body.extend_from_slice(b".\r\n");
    body
}

/// One line of a multi-line reply without its stuffing; `None` for the terminator.
#[must_use]
pub fn unstuff(line: &[u8]) -> Option<&[u8]> {
    (line != b".\r\n").then(|| line.strip_prefix(b".").unwrap_or(line))
}

/// A line without its end: one LF, and one CR in front of it.
#[must_use]
pub(super) fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The lines of `text` with their ends; the last one may lack its own.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|&octet| octet == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_line_gets_its_end() {
        assert_eq!(Message::new("a", b"one\ntwo\r\n\nthree").octets(), b"one\r\ntwo\r\n\r\nthree\r\n");
        assert_eq!(Message::new("a", b"").octets(), b"");
    }

    #[test]
    fn top_counts_lines_of_the_body() {
        let message = Message::new("a", b"S: x\n\none\ntwo\n");
        assert_eq!(message.top(0), b"S: x\r\n\r\n");
        assert_eq!(message.top(1), b"S: x\r\n\r\none\r\n");
        assert_eq!(message.top(usize::MAX), message.octets());
        assert_eq!(Message::new("b", b"S: headers only\n").top(0), b"S: headers only\r\n");
    }

    #[test]
    fn leading_dots_are_doubled() {
        assert_eq!(stuff(b".\r\n..\r\na.b\r\n.c\r\n"), b"..\r\n...\r\na.b\r\n..c\r\n.\r\n");
        assert_eq!(stuff(b""), b".\r\n");
    }

    #[test]
    fn the_sample_is_as_varied_as_it_claims() {
        let sample = Mailbox::sample();
        let has = |test: &dyn Fn(&[u8]) -> bool| sample.messages().iter().any(|message| test(message.octets()));
        assert!(has(&|octets| std::str::from_utf8(octets).is_err()), "a message that is not UTF-8");
        assert!(has(&|octets| lines(octets).any(|line| line == b".\r\n")), "a line that is a dot alone");
        assert!(has(&|octets| octets.len() > 1_000_000), "a large message");
        assert_eq!(sample.messages(), Mailbox::sample().messages());
        for (message, number) in sample.messages().iter().zip(1..) {
            assert!(message.uid().bytes().all(|octet| octet.is_ascii_graphic()) && message.uid().len() <= 70, "{number}");
            assert!(lines(message.octets()).all(|line| line.ends_with(b"\r\n") && line.len() <= 1000), "{number}");
            assert!(message.top(0).len() < message.size(), "message {number} has headers and a body");
        }
    }

    proptest! {
        #[test]
        fn stuffing_round_trips(lines in proptest::collection::vec("[.a-z]{0,4}", 0..8)) {
            let text: Vec<u8> = lines.iter().flat_map(|line| format!("{line}\r\n").into_bytes()).collect();
            let body = stuff(&text);
            let back: Vec<&[u8]> = super::lines(&body).map_while(unstuff).collect();
            prop_assert_eq!(back.concat(), text);
            prop_assert!(body.ends_with(b".\r\n"));
            prop_assert_eq!(super::lines(&body).filter(|line| unstuff(line).is_none()).count(), 1);
        }
    }
}
