//! Lines as poptap writes them, read without a parser: flat, without blanks, most of them without escapes.
//!
//! Whatever is written otherwise is left to `serde`, and what is read here is what `serde` would make of it; a property test says so.

use std::borrow::Cow;

use memchr::{memchr, memmem};
use serde::Deserialize;

/// What counts of an event about a command or a reply.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Event<'a> {
    pub(super) v: u32,
    #[serde(default)]
    pub(super) n: u64,
    pub(super) at_us: u64,
    #[serde(borrow, default)]
    pub(super) keyword: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) status: Option<Cow<'a, str>>,
    pub(super) latency_us: Option<u64>,
    #[serde(default)]
    pub(super) multi_line: bool,
    pub(super) size: Option<u64>,
    #[serde(default)]
    pub(super) own: bool,
}

impl<'a> Event<'a> {
    /// From a line.
    ///
    /// # Errors
    ///
    /// As `serde` has it.
    pub(super) fn read(line: &'a [u8]) -> serde_json::Result<Self> {
        Self::scan(line).map_or_else(|| serde_json::from_slice(line), Ok)
    }

    /// `None` where the line is not such as poptap writes.
    fn scan(line: &'a [u8]) -> Option<Self> {
        let (mut event, mut seen, mut fields) = (Self::default(), 0_u32, Fields::of(line));
        while let Step::Field(key, value) = fields.next()? {
            let place = match (key, value) {
                (b"v", Value::Number(number)) => set(&mut event.v, u32::try_from(number).ok()?, V),
                (b"n", Value::Number(number)) => set(&mut event.n, number, 2),
                (b"at_us", Value::Number(number)) => set(&mut event.at_us, number, AT),
                (b"keyword", Value::Text(text)) => set(&mut event.keyword, str_of(text)?.into(), 8),
                (b"text", Value::Text(text)) => set(&mut event.text, Some(str_of(text)?.into()), 16),
                (b"status", Value::Text(text)) => set(&mut event.status, Some(str_of(text)?.into()), 32),
                (b"latency_us", Value::Number(number)) => set(&mut event.latency_us, Some(number), 64),
                (b"multi_line", Value::Flag(flag)) => set(&mut event.multi_line, flag, 128),
                (b"size", Value::Number(number)) => set(&mut event.size, Some(number), 256),
                (b"own", Value::Flag(flag)) => set(&mut event.own, flag, 512),
                (
                    b"v" | b"n" | b"at_us" | b"keyword" | b"text" | b"status" | b"latency_us" | b"multi_line" | b"size" | b"own",
                    _,
                ) => return None,
                _ => 0,
            };
            if seen & place != 0 {
                return None;
            }
            seen |= place;
        }
        (seen & (V | AT) == V | AT).then_some(event)
    }
}

/// Marks of the fields that every line has.
const V: u32 = 1;
const AT: u32 = 4;

fn str_of(text: &[u8]) -> Option<&str> {
    std::str::from_utf8(text).ok()
}

fn set<T>(field: &mut T, value: T, mark: u32) -> u32 {
    *field = value;
    mark
}

/// What tells of an opening or a close that it is a whole line of a version that we know; `None` where it takes a parser to say.
pub(super) fn is_whole_landmark(line: &[u8], version: u32) -> bool {
    let wanted = |line| {
        let (mut fields, mut marks) = (Fields::of(line), [0_u8; 5]);
        while let Step::Field(key, value) = fields.next()? {
            match (key, value) {
                (b"v", Value::Number(number)) if number == u64::from(version) => marks[0] += 1,
                (b"session", Value::Text(text)) if !text.is_empty() => marks[1] += 1,
                (b"time", Value::Text(text)) if !text.is_empty() => marks[2] += 1,
                (b"event", Value::Text(b"closed")) => (marks[3], marks[4]) = (marks[3] + 1, 1),
                (b"event", Value::Text(b"opened")) => marks[3] += 1,
                (b"client", Value::Text(text)) if !text.is_empty() => marks[4] += 1,
                (b"v" | b"session" | b"time" | b"event" | b"client", _) => return None,
                _ => {}
            }
        }
        Some(marks)
    };
    wanted(line) == Some([1; 5])
}

/// A value of a flat line.
#[derive(Clone, Copy)]
enum Value<'a> {
    Text(&'a [u8]),
    Number(u64),
    Flag(bool),
}

/// What comes next in a flat line.
enum Step<'a> {
    Field(&'a [u8], Value<'a>),
    End,
}

/// The fields of a flat line, in order.
struct Fields<'a> {
    line: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn of(line: &'a [u8]) -> Self {
        Self { line, at: 0 }
    }

    /// The next one; `None` where the line is not such as poptap writes.
    fn next(&mut self) -> Option<Step<'a>> {
        match self.octet()? {
            b'}' if self.at > 0 => return (self.at + 1 == self.line.len()).then_some(Step::End),
            b'{' if self.at == 0 => {}
            b',' if self.at > 0 => {}
            _ => return None,
        }
        self.at += 1;
        let key = self.text()?;
        if self.octet()? != b':' {
            return None;
        }
        self.at += 1;
        let value = match self.octet()? {
            b'"' => Value::Text(self.text()?),
            b'0'..=b'9' => Value::Number(self.number()?),
            b't' => self.word("true", true)?,
            b'f' => self.word("false", false)?,
            _ => return None,
        };
        Some(Step::Field(key, value))
    }

    fn octet(&self) -> Option<u8> {
        self.line.get(self.at).copied()
    }

    /// A text without escapes.
    fn text(&mut self) -> Option<&'a [u8]> {
        let text = self.line.get(self.at..)?.strip_prefix(b"\"")?;
        let length = text.iter().position(|&octet| octet == b'"' || octet == b'\\' || octet < b' ')?;
        self.at += length + 2;
        (text[length] == b'"').then(|| &text[..length])
    }

    /// Of at most 19 digits, which always fit.
    fn number(&mut self) -> Option<u64> {
        let rest = &self.line[self.at..];
        let length = rest.iter().position(|octet| !octet.is_ascii_digit())?;
        let is_plain = length <= 19 && (rest[0] != b'0' || length == 1);
        self.at += length;
        is_plain.then(|| rest[..length].iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
    }

    fn word(&mut self, word: &str, flag: bool) -> Option<Value<'a>> {
        self.line.get(self.at..)?.strip_prefix(word.as_bytes())?;
        self.at += word.len();
        Some(Value::Flag(flag))
    }
}

/// Finds what tells whether a line is worth reading. One that is written otherwise than poptap writes it may have neither.
pub(super) struct Outline {
    event: memmem::Finder<'static>,
    session: memmem::Finder<'static>,
}

impl Outline {
    pub(super) fn new() -> Self {
        Self { event: memmem::Finder::new(b"\"event\":\""), session: memmem::Finder::new(b"\"session\":\"") }
    }

    /// The kind of the line, and the session's id.
    pub(super) fn of<'a>(&self, line: &'a [u8]) -> Option<(&'a [u8], &'a str)> {
        let (kind, session) = in_place(line).or_else(|| Some((self.kind(line)?, value(&self.session, 11, line)?)))?;
        Some((kind, std::str::from_utf8(session).ok()?))
    }

    /// The kind alone.
    pub(super) fn kind<'a>(&self, line: &'a [u8]) -> Option<&'a [u8]> {
        in_place(line).map(|(kind, _)| kind).or_else(|| value(&self.event, 9, line))
    }
}

fn value<'a>(finder: &memmem::Finder<'_>, length: usize, line: &'a [u8]) -> Option<&'a [u8]> {
    Some(until_quote(&line[finder.find(line)? + length..])?.0)
}

/// The same where id, time and kind stand in their usual order, which is found sooner.
fn in_place(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (session, rest) = until_quote(line.strip_prefix(b"{\"v\":1,\"session\":\"")?)?;
    let (_, rest) = until_quote(rest.strip_prefix(b",\"time\":\"")?)?;
    let rest = rest.strip_prefix(b",\"at_us\":")?;
    let digits = rest.iter().position(|octet| !octet.is_ascii_digit())?;
    let (kind, _) = until_quote(rest[digits..].strip_prefix(b",\"event\":\"")?)?;
    Some((kind, session))
}

fn until_quote(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr(b'"', text)?;
    Some((&text[..end], &text[end + 1..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::testing::*, *};

    fn is_same(line: &str) -> Result<(), TestCaseError> {
        if let Some(scanned) = Event::scan(line.as_bytes()) {
            let parsed = serde_json::from_str::<Event<'_>>(line).map_err(|error| error.to_string());
            prop_assert_eq!(Ok(scanned), parsed, "{}", line);
        }
        Ok(())
    }

    #[test]
    fn lines_of_poptap_s_own_are_read_without_a_parser() {
        for line in conversation("aaaaaaaaaaaa").lines().filter(|line| !line.contains('[') && !line.contains("\\\\")) {
            let scanned = Event::scan(line.as_bytes());
            assert_eq!(scanned, serde_json::from_str(line).ok(), "{line}");
            assert!(scanned.is_some(), "{line}");
        }
    }

    #[test]
    fn what_is_unusual_is_left_to_the_parser() {
        for line in [
            "{}",
            "{\"v\":1,\"at_us\":5,\"n\":1,\"n\":2}",
            "{\"v\":1,\"at_us\":5,\"n\":01}",
            "{\"v\":1,\"at_us\":5,\"n\":-1}",
            "{\"v\":1,\"at_us\":5,\"n\":1.5}",
            "{\"v\":1,\"at_us\":5,\"n\":\"1\"}",
            "{\"v\":1,\"at_us\":5,\"n\":18446744073709551616}",
            "{\"v\":4294967297,\"at_us\":5}",
            "{\"v\":1}",
            "{\"v\":1,\"at_us\":5,\"text\":\"a\\\"b\"}",
            "{\"v\":1,\"at_us\":5,\"text\":\"a\tb\"}",
            "{\"v\":1,\"at_us\":5,\"text\":null}",
            "{\"v\":1,\"at_us\":5,\"own\":truer}",
            "{\"v\":1,\"at_us\":5,}",
            "{\"v\":1,\"at_us\":5}}",
            "{\"v\":1 ,\"at_us\":5}",
            "{\"v\":1,\"at_us\":5,\"kept\":[]}",
            "{\"v\":1,\"at_us\":5",
            "{\"v\":1,\"at_us\":5\"n\":1}",
        ] {
            assert_eq!(Event::scan(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn the_outline_is_the_same_wherever_it_is_looked_for() {
        let outline = Outline::new();
        for line in conversation("aaaaaaaaaaaa").lines() {
            let expected = (value(&outline.event, 9, line.as_bytes()), value(&outline.session, 11, line.as_bytes()));
            let found = in_place(line.as_bytes()).map(|(kind, session)| (Some(kind), Some(session)));
            assert_eq!(found, Some(expected), "{line}");
        }
        assert_eq!(outline.of(b"{\"event\":\"reply\",\"session\":\"x\"}"), Some((&b"reply"[..], "x")));
    }

    #[test]
    fn openings_and_closes_that_tell_too_little_are_left_to_the_parser() {
        let line = opened("aaaaaaaaaaaa", 5);
        let line = line.trim();
        assert!(is_whole_landmark(line.as_bytes(), 1));
        for (from, to) in [("127.0.0.1:50312", ""), ("aaaaaaaaaaaa", ""), ("\"v\":1", "\"v\":2"), ("\"client\"", "\"other\"")] {
            assert!(!is_whole_landmark(line.replace(from, to).as_bytes(), 1), "{from}");
        }
    }

    fn field() -> impl Strategy<Value = String> {
        let key = prop_oneof![
            Just("v"),
            Just("n"),
            Just("at_us"),
            Just("keyword"),
            Just("text"),
            Just("status"),
            Just("latency_us"),
            Just("multi_line"),
            Just("size"),
            Just("own"),
            Just("x"),
            Just(""),
            Just("te\\u0078t"),
        ];
        let value = prop_oneof![
            any::<u64>().prop_map(|number| number.to_string()),
            (0..3_u32).prop_map(|number| number.to_string()),
            Just("true".to_owned()),
            Just("false".to_owned()),
            Just("null".to_owned()),
            Just("-1".to_owned()),
            Just("1e3".to_owned()),
            Just("[1]".to_owned()),
            Just("{\"v\":1}".to_owned()),
            ".{0,9}".prop_map(|text| serde_json::to_string(&text).unwrap()),
            "[ -~]{0,9}".prop_map(|text| format!("\"{text}\"")),
        ];
        (key, value).prop_map(|(key, value)| format!("\"{key}\":{value}"))
    }

    proptest! {
        /// Whole lines, with whatever fields.
        #[test]
        fn what_is_scanned_is_what_is_parsed(fields in proptest::collection::vec(field(), 0..8)) {
            is_same(&format!("{{\"v\":1,\"at_us\":7,{}}}", fields.join(",")))?;
            is_same(&format!("{{{}}}", fields.join(",")))?;
        }

        /// Lines of poptap's with one octet gone wrong.
        #[test]
        fn a_damaged_line_is_never_read_otherwise(at in 0..4000_usize, octet in "[ -~\t]") {
            let story = conversation("aaaaaaaaaaaa");
            let line = story.lines().nth(at % story.lines().count()).unwrap();
            let place = at / 7 % line.len();
            is_same(&format!("{}{octet}{}", &line[..place], &line[place + 1..]))?;
            is_same(&line[..place])?;
        }
    }
}
