//! What is wrong with a configuration: every fault, each with its place and a hint.

use std::{fmt, ops::Range, path::PathBuf};

/// Every fault of a configuration; never empty.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n"))]
pub struct Faults(
    /// In the order of the file, the faults of the whole last.
    pub Vec<Fault>,
);

/// One fault: displayed over several lines, with the line of the file and a hint where there are any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where in the file; `None` for what came from the command line or concerns the whole.
    pub place: Option<Place>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// A place in the configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file as it was named.
    pub path: PathBuf,
    /// Its line, from 1.
    pub line: usize,
    /// The character within the line, from 1.
    pub column: usize,
    /// The line itself, without what may be a password.
    pub text: String,
    /// How many characters the fault covers; 0 when that can no longer be shown.
    pub width: usize,
}

impl Fault {
    /// A fault without a place.
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { place: None, message: message.into(), hint: Some(hint.into()) }
    }

    /// The same fault at a place.
    #[must_use]
    pub fn at(self, place: Option<Place>) -> Self {
        Self { place, ..self }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(out, "{}:{}:{}: ", place.path.display(), place.line, place.column)?;
        }
        out.write_str(&self.message)?;
        if let Some(place) = &self.place {
            write!(out, "{place}")?;
        }
        match &self.hint {
            Some(hint) => write!(out, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Place {
    /// The line, and carets under the fault.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.trim().is_empty() {
            return Ok(());
        }
        write!(out, "\n  {:>4} | {}", self.line, self.text)?;
        if self.width == 0 {
            return Ok(());
        }
        write!(out, "\n       | {}{}", " ".repeat(self.column - 1), "^".repeat(self.width))
    }
}

/// Why a single value cannot be read, and what to write instead.
///
/// Displayed, the hint follows on a line of its own: serde and clap carry errors as text alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}\n{hint}")]
pub struct Malformed {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

impl Malformed {
    /// The message may quote the value: a password in it is left out.
    pub(super) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: without_user_info(&message.into()), hint: hint.into() }
    }
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Self::new(malformed.message, malformed.hint)
    }
}

/// The configuration file as it was read.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

impl Source {
    /// The place that a range of octets is at.
    pub(super) fn place(&self, span: &Range<usize>) -> Place {
        let start = span.start.min(self.text.len());
        let line_start = self.text[..start].rfind('\n').map_or(0, |end| end + 1);
        let line_end = self.text[start..].find('\n').map_or(self.text.len(), |end| start + end);
        // One column each, and nothing that drives a terminal.
        let shown = |letter: char| if letter.is_control() { ' ' } else { letter };
        let line: String = self.text[line_start..line_end].trim_end().chars().map(shown).collect();
        let text = without_user_info(&line);
        let covered = self.text[start..span.end.clamp(start, line_end)].chars().count();
        Place {
            path: self.path.clone(),
            line: self.text[..line_start].matches('\n').count() + 1,
            column: self.text[line_start..start].chars().count() + 1,
            width: if text == line { covered.max(1) } else { 0 },
            text,
        }
    }
}

/// Leaves out what stands before the last `@`, back to the beginning of the value: it may be a password.
pub(super) fn without_user_info(text: &str) -> String {
    let Some(end) = text.rfind('@') else { return text.to_owned() };
    let value = text.find(['"', '\'', '`']).map(|quote| quote + 1);
    let authority = text.find("://").map(|colon| colon + 3);
    let start = value.into_iter().chain(authority).min().unwrap_or(0).min(end);
    format!("{}…{}", &text[..start], &text[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_shows_its_line() {
        let source = Source { path: "p.toml".into(), text: "a = 1\n[x]\nbé = \"c\"\n".to_owned() };
        let start = source.text.find('"').unwrap();
        let fault = Fault::new("no `c`", "write `d`").at(Some(source.place(&(start..start + 3))));
        assert_eq!(fault.to_string(), "p.toml:3:6: no `c`\n     3 | bé = \"c\"\n       |      ^^^\n  hint: write `d`");
    }

    #[test]
    fn a_place_may_be_at_the_end_of_the_file() {
        let source = Source { path: "p".into(), text: "a = ".to_owned() };
        assert_eq!((source.place(&(4..4)).line, source.place(&(4..4)).column), (1, 5));
        assert_eq!(source.place(&(9..12)).column, 5);
    }

    #[test]
    fn user_info_is_left_out() {
        for (text, expected) in [
            ("url = \"pop3://joe:pw@host\"", "url = \"…@host\""),
            ("url = pop3://joe:p@w@host", "url = pop3://…@host"),
            ("url = 'joe:pw@host'", "url = '…@host'"),
            ("joe:pw@host", "…@host"),
            ("url = 5", "url = 5"),
        ] {
            assert_eq!(without_user_info(text), expected);
        }
    }
}
