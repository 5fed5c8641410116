//! Regular expressions: read once, and compiled in one way wherever they are used.

use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

use crate::config::fault::Malformed;

/// A regular expression in the syntax of the crate `regex`, known to compile. It matches in linear time, whatever the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

/// Octets that a compiled pattern may take.
const SIZE_LIMIT: usize = 1 << 20;

impl Pattern {
    /// One that is looked for anywhere in a line of octets: `.` is any octet, and case does not matter for ASCII letters.
    ///
    /// Octets, and not characters: `.` must match what is not UTF-8, or a stray octet would get a command past its rule.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or takes more than 1 MiB.
    pub fn octets(text: &str) -> Result<Self, Malformed> {
        Self::checked(text, Self::regex)
    }

    /// One that has to match the whole of a name: `.` is any character, and case does not matter.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or takes more than 1 MiB.
    pub fn name(text: &str) -> Result<Self, Malformed> {
        // By itself first: what is unbalanced by itself may be balanced between parentheses.
        Self::checked(text, |pattern| builder(&pattern.0, true).build().and_then(|_| builder(&whole(pattern), true).build()))
    }

    fn checked(text: &str, compile: impl Fn(&Self) -> Result<Regex, regex::Error>) -> Result<Self, Malformed> {
        let pattern = Self(text.to_owned());
        match compile(&pattern) {
            Ok(_) => Ok(pattern),
            Err(error) => Err(unreadable(&error)),
        }
    }

    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first group that a replacement names (`$1`, `${name}`) and that one of [`octets`](Self::octets) does not have.
    pub(in crate::config) fn missing_group(&self, replacement: &str) -> Option<String> {
        let regex = self.regex().ok()?;
        let is_there = |group: &str| match group.parse::<usize>() {
            Ok(number) => number < regex.captures_len(),
            Err(_) => regex.capture_names().flatten().any(|name| name == group),
        };
        groups(replacement).find(|group| !is_there(group)).map(str::to_owned)
    }

    /// Compiles one of [`octets`](Self::octets).
    pub(crate) fn regex(&self) -> Result<Regex, regex::Error> {
        builder(&self.0, false).build()
    }

    /// Compiles one of [`name`](Self::name).
    pub(in crate::config) fn name_regex(&self) -> Result<Regex, regex::Error> {
        builder(&whole(self), true).build()
    }

    /// Compiles several of [`octets`](Self::octets) together.
    pub(crate) fn set_of_octets(patterns: &[&Self]) -> Result<RegexSet, regex::Error> {
        set(patterns.iter().map(|pattern| pattern.0.clone()), patterns.len(), false)
    }

    /// Compiles several of [`name`](Self::name) together.
    pub(crate) fn set_of_names(patterns: &[&Self]) -> Result<RegexSet, regex::Error> {
        set(patterns.iter().map(|pattern| whole(pattern)), patterns.len(), true)
    }
}

/// The groups that a replacement names, as the crate `regex` reads it.
fn groups(replacement: &str) -> impl Iterator<Item = &str> {
    let mut rest = replacement;
    std::iter::from_fn(move || {
        loop {
            rest = &rest[rest.find('$')? + 1..];
            if let Some(behind) = rest.strip_prefix('$') {
                rest = behind;
                continue;
            }
            let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
            let end = rest.find(|letter| !is_of_name(letter)).unwrap_or(rest.len());
            let group = match rest.strip_prefix('{') {
                Some(braced) => braced.split_once('}').map_or("", |(group, _)| group),
                None => &rest[..end],
            };
            if !group.is_empty() {
                return Some(group);
            }
        }
    })
}

fn whole(pattern: &Pattern) -> String {
    format!(r"\A(?:{})\z", pattern.0)
}

fn builder(text: &str, unicode: bool) -> RegexBuilder {
    let mut builder = RegexBuilder::new(text);
    builder.unicode(unicode).case_insensitive(true).dot_matches_new_line(true).size_limit(SIZE_LIMIT);
    builder
}

fn set(texts: impl Iterator<Item = String>, count: usize, unicode: bool) -> Result<RegexSet, regex::Error> {
    let mut builder = RegexSetBuilder::new(texts);
    builder.unicode(unicode).case_insensitive(true).dot_matches_new_line(true);
    builder.size_limit(SIZE_LIMIT.saturating_mul(count.saturating_add(1))).build()
}

/// The pattern itself is not repeated: it may have several lines, and the fault shows its place.
fn unreadable(error: &regex::Error) -> Malformed {
    let said = error.to_string();
    let reason = said.lines().last().unwrap_or_default().trim_start_matches("error: ");
    match error {
        regex::Error::CompiledTooBig(_) => Malformed::new(
            "this pattern is too large: compiled, it takes more than 1 MiB",
            "repeat less in it, or make it two rules",
        ),
        _ if reason.contains("Unicode not allowed") => Malformed::new(
            "this pattern cannot be read: a line is octets, and not characters",
            r"put what is not ASCII between `(?u:` and `)`, or write its octets as `\xC3\xA4`",
        ),
        _ => Malformed::new(
            format!("this pattern cannot be read: {reason}"),
            r"`\` in front makes a special character an ordinary one; in TOML, single quotes keep `\` as it is",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_that_cannot_be_used_says_why_in_one_line() {
        for (text, said) in [
            ("(", "unclosed group"),
            ("a)|(b", "unopened group"),
            ("[b-a]", "invalid character class range"),
            (r"(a)\1", "backreferences are not supported"),
            ("(?x)a # no end", "unclosed group"),
            ("a{1000}{1000}", "more than 1 MiB"),
        ] {
            let refused = Pattern::name(text).unwrap_err();
            assert!(refused.message.contains(said) && !refused.message.contains('\n'), "{text}: {refused}");
        }
        let refused = Pattern::octets("[ä]").unwrap_err();
        assert!(refused.hint.contains("(?u:"), "{refused}");
        assert!(Pattern::octets("(?u:[ä])").unwrap().regex().unwrap().is_match("Ä".as_bytes()));
    }

    #[test]
    fn any_octet_is_any_octet() {
        let regex = Pattern::octets("^dele .*$").unwrap().regex().unwrap();
        for line in [&b"DELE 1"[..], b"dele \xff", b"Dele \xc3", b"DELE \r\n\0"] {
            assert!(regex.is_match(line), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn groups_of_a_replacement_have_to_be_there() {
        let pattern = Pattern::octets("(a)(?<word>b)").unwrap();
        for (replacement, missing) in [
            ("", None),
            ("$0$1 $2 ${1}x $word ${word}x", None),
            ("$3", Some("3")),
            ("$1x", Some("1x")),
            ("${wort}", Some("wort")),
            ("$$3 $ $, ${", None),
            ("$$$4", Some("4")),
        ] {
            assert_eq!(pattern.missing_group(replacement).as_deref(), missing, "{replacement}");
        }
    }

    #[test]
    fn a_name_is_matched_as_a_whole() {
        let set = Pattern::set_of_names(&[&Pattern::name("joe|archive@.*").unwrap(), &Pattern::name("é.").unwrap()]).unwrap();
        for (name, expected) in [
            ("joe", true),
            ("JOE", true),
            ("joey", false),
            ("a joe", false),
            ("joe\n", false),
            ("Archive@example.net", true),
            ("archive@\n", true),
            ("xarchive@a", false),
            ("Éß", true),
            ("é", false),
        ] {
            assert_eq!(set.is_match(name.as_bytes()), expected, "{name:?}");
        }
    }
}
