//! Values that are written as text: sizes, durations, content policies; and how serde, the JSON Schema and clap read them.

use std::{borrow::Cow, ffi::OsStr, fmt, marker::PhantomData, str::FromStr, time::Duration};

use clap::{builder::TypedValueParser, error::ErrorKind};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::anomaly::Anomaly;

use super::{
    ContentPolicy, ListenPlace, Pin,
    address::{ListenAddress, Network, UpstreamUrl},
    fault::Malformed,
    http::HttpAddress,
    rule::{self, CommandWord, NamePattern, OctetPattern, SizeBound, Word},
};

/// A number of octets, at least 1: `64 MiB`, `10 MB`, `4096`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(
    /// Octets.
    pub u64,
);

impl FromStr for Size {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        match text.parse::<bytesize::ByteSize>() {
            Ok(size) if size.as_u64() > 0 => Ok(Self(size.as_u64())),
            Ok(_) => Err(Malformed::new("the size must be more than zero", "write a size such as `64 MiB`")),
            Err(_) => Err(Malformed::new(format!("`{text}` is not a size"), "write a number and its unit, such as `64 MiB`")),
        }
    }
}

impl fmt::Display for Size {
    /// In the largest unit that says it exactly.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B")];
        let exact = units.into_iter().find(|(unit, _)| self.0.is_multiple_of(*unit));
        exact.map_or(Ok(()), |(unit, name)| write!(out, "{} {name}", self.0 / unit))
    }
}

/// A length of time, more than zero: `10m`, `1h 30m`, `7 days`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period(
    /// The length.
    pub Duration,
);

impl FromStr for Period {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        match humantime::parse_duration(text) {
            Ok(duration) if !duration.is_zero() => Ok(Self(duration)),
            Ok(_) => Err(Malformed::new("the duration must be more than zero", "write a duration such as `30s` or `10m`")),
            Err(_) => Err(Malformed::new(
                format!("`{text}` is not a duration"),
                "write numbers and their units, such as `30s`, `10m`, `1h 30m` or `7 days`",
            )),
        }
    }
}

impl fmt::Display for Period {
    /// In the largest unit that says it exactly.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(86_400, " days"), (3600, "h"), (60, "m"), (1, "s")];
        let seconds = self.0.as_secs();
        match units.into_iter().find(|(unit, _)| self.0.subsec_nanos() == 0 && seconds.is_multiple_of(*unit)) {
            Some((86_400, _)) if seconds == 86_400 => out.write_str("1 day"),
            Some((unit, name)) => write!(out, "{}{name}", seconds / unit),
            None => humantime::format_duration(self.0).fmt(out),
        }
    }
}

/// How long to wait: a [`Period`], or `0` for as long as it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitLimit(
    /// `None` has no limit.
    pub Option<Duration>,
);

impl FromStr for WaitLimit {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text.trim() == "0" { Ok(Self(None)) } else { text.parse::<Period>().map(|period| Self(Some(period.0))) }
    }
}

impl fmt::Display for WaitLimit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(limit) => Period(limit).fmt(out),
            None => out.write_str("0"),
        }
    }
}

impl FromStr for ContentPolicy {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let hint = "write `none`, `headers`, `lines:N` or `full`";
        match text {
            "none" => Ok(Self::None),
            "headers" => Ok(Self::Headers),
            "full" => Ok(Self::Full),
            _ => {
                let lines = text.strip_prefix("lines:").and_then(|lines| lines.parse().ok()).filter(|lines| *lines > 0);
                lines.map(Self::Lines).ok_or_else(|| Malformed::new(format!("`{text}` is not a content policy"), hint))
            }
        }
    }
}

impl fmt::Display for ContentPolicy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => out.write_str("none"),
            Self::Headers => out.write_str("headers"),
            Self::Lines(lines) => write!(out, "lines:{lines}"),
            Self::Full => out.write_str("full"),
        }
    }
}

/// Gives a type that has `FromStr` and `Display` the same form in TOML, and a schema.
macro_rules! written_as_text {
    ($($type:ty: $name:literal, $pattern:literal, $description:literal;)*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text { expected: $description, read: PhantomData })
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                Cow::Borrowed($name)
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "description": $description })
            }
        }
    )*};
}

written_as_text! {
    Size: "Size", r"^[0-9.]+\s*[A-Za-z]*$", "a size such as \"64 MiB\"";
    Period: "Period", r"^[0-9.]+\s*[A-Za-zµ]+", "a duration such as \"10m\" or \"7 days\"";
    WaitLimit: "WaitLimit", r"^(0|[0-9.]+\s*[A-Za-zµ]+.*)$", "a duration such as \"5s\", or \"0\" for as long as it takes";
    ContentPolicy: "Content", r"^(none|headers|lines:[0-9]+|full)$", "\"none\", \"headers\", \"lines:N\" or \"full\"";
    ListenPlace: "ListenPlace", r"^(.*[0-9]/?|([A-Za-z3+]+://)?systemd:[!-9;-~]*)$", "an address such as \"127.0.0.1:1110\", or \"systemd:NAME\"";
    ListenAddress: "ListenAddress", r"^.*[0-9]/?$", "an address such as \"127.0.0.1:1110\"";
    HttpAddress: "HttpAddress", r"^(http://)?[0-9a-fA-F.:\[\]]*[0-9]/?$", "an address such as \"127.0.0.1:8110\"";
    UpstreamUrl: "UpstreamUrl", r"^[A-Za-z3+]+://", "a URL such as \"pop3s://pop.example.net\"";
    Pin: "Pin", r"^sha256(:|//)[0-9A-Za-z+/=:]+$", "a pin: \"sha256:\" and 64 hexadecimal digits, or base64";
    Anomaly: "Anomaly", r"^[a-z-]+$", "the id of an anomaly, such as \"bare-lf\"";
    Network: "Network", r"^([Aa][Nn][Yy]|[0-9a-fA-F.:]+(/[0-9]+)?)$", "a network such as \"192.0.2.0/24\", or \"any\"";
    CommandWord: "CommandWord", r"^[!-~]{1,255}$", "the word that a command begins with, such as \"DELE\"";
    rule::Name: "RuleName", r"^[^\x00-\x1f\x7f-\x9f]{1,64}$", "1 to 64 characters";
    rule::Line: "Line", r"^[^\x00-\x1f\x7f-\x9f]{0,500}$", "up to 500 octets of text in one line";
    rule::Text: "Text", r"^[^\x00-\x1f\x7f-\x9f]{0,500}$", "up to 500 octets of text in one line, without a status";
    Word: "Word", r"^[!-~]{1,64}$", "one word";
    OctetPattern: "OctetPattern", r"", "a regular expression that is looked for in octets";
    NamePattern: "NamePattern", r"", "a regular expression for a whole name";
    SizeBound: "SizeBound", r"^\s*[<>]=?\s*[0-9.]+\s*[A-Za-z]*\s*$", "a bound such as \">10 MiB\"";
}

struct Text<T> {
    expected: &'static str,
    read: PhantomData<T>,
}

impl<T: FromStr<Err = Malformed>> de::Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

/// Reads an argument of the command line as a `T`.
///
/// Unlike clap's own way, a refusal does not repeat the argument: a URL may hold a password.
#[derive(Debug)]
pub struct Argument<T>(PhantomData<fn() -> T>);

impl<T> Argument<T> {
    /// The parser.
    #[must_use]
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T> Default for Argument<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for Argument<T> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl<T: FromStr<Err = Malformed> + Clone + Send + Sync + 'static> TypedValueParser for Argument<T> {
    type Value = T;

    fn parse_ref(&self, command: &clap::Command, argument: Option<&clap::Arg>, value: &OsStr) -> Result<T, clap::Error> {
        value.to_string_lossy().parse().map_err(|Malformed { message, hint }| {
            let name = argument.map_or_else(String::new, |argument| format!(" for '{argument}'"));
            let text = format!("invalid value{name}: {message}\n  hint: {hint}\n");
            clap::Error::raw(ErrorKind::ValueValidation, text).with_cmd(command)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, octets, shown) in
            [("64 MiB", 64 << 20, "64 MiB"), ("1GiB", 1 << 30, "1 GiB"), ("10 kB", 10_000, "10000 B"), ("1025", 1025, "1025 B")]
        {
            assert_eq!(text.parse::<Size>().unwrap().0, octets, "{text}");
            assert_eq!(Size(octets).to_string(), shown);
            assert_eq!(shown.parse::<Size>().unwrap().0, octets);
        }
        for (text, said) in [("0", "more than zero"), ("", "not a size"), ("-1", "not a size"), ("5 apples", "not a size")] {
            assert!(text.parse::<Size>().unwrap_err().to_string().contains(said), "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, milliseconds, shown) in [
            ("600s", 600_000, "10m"),
            ("1h 30m", 5_400_000, "90m"),
            ("24h", 86_400_000, "1 day"),
            ("90 days", 7_776_000_000, "90 days"),
            ("1m 1500ms", 61_500, "1m 1s 500ms"),
        ] {
            let period: Period = text.parse().unwrap();
            assert_eq!(period.0, Duration::from_millis(milliseconds), "{text}");
            assert_eq!(period.to_string(), shown);
            assert_eq!(shown.parse::<Period>().unwrap(), period);
        }
        for (text, said) in [("0s", "more than zero"), ("0", "more than zero"), ("10", "not a duration"), ("", "not a duration")]
        {
            assert!(text.parse::<Period>().unwrap_err().to_string().contains(said), "{text}");
        }
        assert_eq!("0".parse::<WaitLimit>().unwrap().0, None);
        assert_eq!("5s".parse::<WaitLimit>().unwrap().0, Some(Duration::from_secs(5)));
        assert_eq!(WaitLimit(None).to_string(), "0");
    }

    #[test]
    fn content_policies() {
        for text in ["none", "headers", "lines:10", "full"] {
            assert_eq!(text.parse::<ContentPolicy>().unwrap().to_string(), text);
        }
        for text in ["lines:x", "lines:0", "lines", "all", ""] {
            assert!(text.parse::<ContentPolicy>().is_err(), "{text}");
        }
    }
}
