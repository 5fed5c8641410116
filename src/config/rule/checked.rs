//! What is written as text in a rule: each kind knows what it may hold.

use std::{borrow::Cow, fmt, ops::RangeInclusive, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Pattern;
use crate::{
    config::{fault::Malformed, values::Size},
    pop3::Status,
};

/// The word that a command begins with, in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandWord(String);

impl CommandWord {
    /// In upper case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CommandWord {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if is_word(text, LONGEST_COMMAND) {
            return Ok(Self(text.to_ascii_uppercase()));
        }
        Err(Malformed::new(
            "this is not a command's word",
            "write its first word, such as `DELE`; what follows it is matched by `line`",
        ))
    }
}

impl fmt::Display for CommandWord {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Texts that only have to pass a test.
macro_rules! tested {
    ($($(#[$doc:meta])* $name:ident: $test:path;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub(in crate::config) struct $name(pub(in crate::config) String);

        impl FromStr for $name {
            type Err = Malformed;

            fn from_str(text: &str) -> Result<Self, Malformed> {
                $test(text).map(|()| Self(text.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0)
            }
        }
    )*};
}

tested! {
    /// A rule's name.
    Name: name;
    /// Part of a line.
    Line: line;
    /// What follows `-ERR`.
    Text: text_of_refusal;
    /// A tag, or a capability's tag.
    Word: word;
}

fn name(text: &str) -> Result<(), Malformed> {
    let is_name = !text.is_empty() && text.chars().count() <= LONGEST_NAME && !text.contains(char::is_control);
    let fault = || Malformed::new("this is not a name for a rule", "write 1 to 64 characters, none of them a control character");
    if is_name { Ok(()) } else { Err(fault()) }
}

fn line(text: &str) -> Result<(), Malformed> {
    if text.contains(char::is_control) {
        return Err(Malformed::new("there is a control character in this text", "write one line; poptap adds the line end"));
    }
    if text.len() > LONGEST_TEXT {
        let message = format!("this text has {} octets, and {LONGEST_TEXT} fit into a line", text.len());
        return Err(Malformed::new(message, "make it shorter"));
    }
    Ok(())
}

fn text_of_refusal(text: &str) -> Result<(), Malformed> {
    line(text)?;
    match Status::of(text.as_bytes()) {
        Some(Status::Ok | Status::Err) => {
            Err(Malformed::new("this text begins with a status of its own", "leave it out: poptap writes `-ERR` in front"))
        }
        Some(Status::Continue) | None => Ok(()),
    }
}

fn word(text: &str) -> Result<(), Malformed> {
    let fault = || Malformed::new("this is not one word", "write up to 64 printable ASCII characters without blanks");
    if is_word(text, LONGEST_NAME) { Ok(()) } else { Err(fault()) }
}

fn is_word(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_graphic())
}

/// Octets of the longest command word; a line has no more (RFC 2449 §4).
const LONGEST_COMMAND: usize = 255;
/// Octets of the longest text: a status line has at most 512 with its status and its line end (RFC 1939 §3).
const LONGEST_TEXT: usize = 500;
/// Characters of the longest name.
pub(in crate::config) const LONGEST_NAME: usize = 64;

/// A pattern that is looked for in octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct OctetPattern(pub(in crate::config) Pattern);

/// A pattern that has to match a whole name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct NamePattern(pub(in crate::config) Pattern);

impl FromStr for OctetPattern {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        Pattern::octets(text).map(Self)
    }
}

impl FromStr for NamePattern {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        Pattern::name(text).map(Self)
    }
}

impl fmt::Display for OctetPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0.as_str())
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0.as_str())
    }
}

/// Bounds on the size of a message in octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeBound {
    /// `>`
    Over(u64),
    /// `>=`
    AtLeast(u64),
    /// `<`
    Under(u64),
    /// `<=`
    AtMost(u64),
}

impl SizeBound {
    /// Whether a message of so many octets is within it.
    #[must_use]
    pub fn holds(self, octets: u64) -> bool {
        match self {
            Self::Over(bound) => octets > bound,
            Self::AtLeast(bound) => octets >= bound,
            Self::Under(bound) => octets < bound,
            Self::AtMost(bound) => octets <= bound,
        }
    }
}

impl FromStr for SizeBound {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let text = text.trim();
        let [at_least, at_most, over, under] = [">=", "<=", ">", "<"].map(|sign| text.strip_prefix(sign));
        let octets = |size: &str| size.trim().parse::<Size>().map(|size| size.0);
        match (at_least, at_most, over, under) {
            (Some(size), ..) => octets(size).map(Self::AtLeast),
            (_, Some(size), ..) => octets(size).map(Self::AtMost),
            (_, _, Some(size), _) => octets(size).map(Self::Over),
            (_, _, _, Some(size)) => octets(size).map(Self::Under),
            _ => Err(Malformed::new(
                "it is not said whether messages are to be larger or smaller",
                "write `>10 MiB`, `>=10 MiB`, `<10 MiB` or `<=10 MiB`",
            )),
        }
    }
}

impl fmt::Display for SizeBound {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Over(bound) => write!(out, ">{}", Size(bound)),
            Self::AtLeast(bound) => write!(out, ">={}", Size(bound)),
            Self::Under(bound) => write!(out, "<{}", Size(bound)),
            Self::AtMost(bound) => write!(out, "<={}", Size(bound)),
        }
    }
}

/// Numbers of messages: `5`, `1-10`, `20-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct MessageRange(pub(in crate::config) RangeInclusive<u64>);

impl FromStr for MessageRange {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let number = |text: &str| text.trim().parse().ok().filter(|number: &u64| *number > 0);
        let range = match text.split_once('-') {
            None => number(text).map(|only| only..=only),
            Some((first, last)) if last.trim().is_empty() => number(first).map(|first| first..=u64::MAX),
            Some((first, last)) => number(first).zip(number(last)).map(|(first, last)| first..=last),
        };
        let fault = || Malformed::new("these are not numbers of messages", "write `5`, `\"1-10\"` or `\"20-\"`; the first is 1");
        range.filter(|range| !range.is_empty()).map(Self).ok_or_else(fault)
    }
}

impl fmt::Display for MessageRange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (*self.0.start(), *self.0.end()) {
            (first, u64::MAX) => write!(out, "{first}-"),
            (first, last) if first == last => write!(out, "{first}"),
            (first, last) => write!(out, "{first}-{last}"),
        }
    }
}

impl<'de> Deserialize<'de> for MessageRange {
    /// A number without quotes is read, too.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = MessageRange;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a message number, or a range such as \"1-10\"")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<MessageRange, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<MessageRange, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for MessageRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for MessageRange {
    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed("MessageRange")
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "integer", "minimum": 1 },
                { "type": "string", "pattern": r"^\s*[0-9]+\s*(-\s*[0-9]*\s*)?$" },
            ],
            "description": "a message number, or a range such as \"1-10\" or \"20-\"",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a text is shown as once it is read; `None` where it is refused.
    fn shown<T: FromStr + fmt::Display>(text: &str) -> Option<String> {
        text.parse::<T>().ok().map(|value| value.to_string())
    }

    #[test]
    fn command_words() {
        for (text, expected) in [("dele", Some("DELE")), ("X-1", Some("X-1")), ("", None), ("DELE 1", None), ("ü", None)] {
            assert_eq!(shown::<CommandWord>(text).as_deref(), expected, "{text}");
        }
        assert!("x".repeat(255).parse::<CommandWord>().is_ok() && "x".repeat(256).parse::<CommandWord>().is_err());
    }

    #[test]
    fn names_and_texts() {
        for (text, is_name, is_line, is_refusal, is_word) in [
            ("read-only", true, true, true, true),
            ("two words", true, true, true, false),
            ("", false, true, true, false),
            ("a\nb", false, false, false, false),
            ("a\u{85}", false, false, false, false),
            ("-err no", true, true, false, false),
            ("+OK", true, true, false, true),
            (&"é".repeat(64), true, true, true, false),
            (&"x".repeat(65), false, true, true, false),
            (&"x".repeat(501), false, false, false, false),
        ] {
            let found = (
                shown::<Name>(text).is_some(),
                shown::<Line>(text).is_some(),
                shown::<Text>(text).is_some(),
                shown::<Word>(text),
            );
            assert_eq!((found.0, found.1, found.2, found.3.is_some()), (is_name, is_line, is_refusal, is_word), "{text}");
        }
    }

    #[test]
    fn bounds_on_sizes() {
        for (text, expected, within) in [
            (">10 MiB", ">10 MiB", [false, false, true]),
            (" >= 10240KiB", ">=10 MiB", [false, true, true]),
            ("<10 MiB", "<10 MiB", [true, false, false]),
            ("<= 10 MiB", "<=10 MiB", [true, true, false]),
        ] {
            let bound: SizeBound = text.parse().unwrap();
            assert_eq!(bound.to_string(), expected);
            assert_eq!([(10 << 20) - 1, 10 << 20, (10 << 20) + 1].map(|octets| bound.holds(octets)), within, "{text}");
        }
        for text in ["10 MiB", "=10", ">", "> x", ">0", ""] {
            assert!(text.parse::<SizeBound>().is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_of_messages() {
        for (text, expected, shown) in
            [("5", 5..=5, "5"), ("1-10", 1..=10, "1-10"), ("20-", 20..=u64::MAX, "20-"), (" 2 - 2 ", 2..=2, "2")]
        {
            let range: MessageRange = text.parse().unwrap();
            assert_eq!((range.0.clone(), range.to_string().as_str()), (expected, shown));
        }
        for text in ["0", "0-5", "5-4", "-5", "", "-", "x", "1-2-3"] {
            assert!(text.parse::<MessageRange>().is_err(), "{text}");
        }
    }
}
