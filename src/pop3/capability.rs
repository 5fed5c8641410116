//! Capability lines (RFC 2449 §5) and the APOP timestamp (RFC 1939 §7).

use std::{ops::Range, sync::LazyLock};

use regex::bytes::Regex;

/// One line of a capability listing, or of the listing that a bare AUTH gets.
#[derive(Clone, Copy, Debug)]
pub struct Capability<'a> {
    line: &'a [u8],
}

impl<'a> Capability<'a> {
    /// Reads a line, with or without its line end.
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Self {
        Self { line: line.trim_ascii_end() }
    }

    /// The capability tag as written; tags are compared without regard to case.
    #[must_use]
    pub fn tag(&self) -> &'a [u8] {
        self.line.split(|octet| matches!(octet, b' ' | b'\t')).next().unwrap_or_default()
    }

    /// Whether this line announces `tag`.
    #[must_use]
    pub fn is(&self, tag: &str) -> bool {
        self.tag().eq_ignore_ascii_case(tag.as_bytes())
    }
}

/// Where the APOP timestamp stands in a greeting: `<…@…>`, not necessarily last.
///
/// Clients take anything of that form, so anything of that form is found.
#[must_use]
pub fn apop_timestamp(greeting: &[u8]) -> Option<Range<usize>> {
    static TIMESTAMP: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?-u)<[^<>\s]*@[^<>\s]*>").unwrap_or_else(|error| unreachable!("a fixed pattern: {error}")));
    TIMESTAMP.find(greeting).map(|found| found.range())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags() {
        assert!(Capability::parse(b"stls\r\n").is("STLS"));
        assert!(Capability::parse(b"SASL PLAIN LOGIN").is("SASL"));
        assert!(!Capability::parse(b"STLSX").is("STLS"));
        assert!(!Capability::parse(b"").is("STLS"));
    }

    #[test]
    fn timestamps() {
        for (greeting, expected) in [
            (&b"+OK ready <1896.697170952@dbc.mtview.ca.us>"[..], Some(&b"<1896.697170952@dbc.mtview.ca.us>"[..])),
            (b"+OK<a@b>ready", Some(b"<a@b>")),
            (b"+OK <no timestamp> <x@y> later", Some(b"<x@y>")),
            (b"+OK hello", None),
            (b"+OK <a b@c>", None),
        ] {
            assert_eq!(apop_timestamp(greeting).map(|range| &greeting[range]), expected);
        }
    }
}
