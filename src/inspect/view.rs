//! How the reader of a command's output wants it, and how such a command ends.

use std::io::{self, Write};

use anstream::{AutoStream, ColorChoice};

use super::{InspectError, paint::is_harmful, store::Store};

/// How the output is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// JSON Lines in place of text.
    pub json: bool,
    /// Whether text is coloured.
    pub colour: bool,
    /// Columns to which the lines of a table are cut; `None` cuts nothing.
    pub width: Option<usize>,
    /// Whether the content of messages that was kept is shown line by line.
    pub bodies: bool,
}

impl View {
    /// What suits standard output: on a terminal its width, and colours unless `NO_COLOR` is set; in a pipe neither.
    #[must_use]
    pub fn of_stdout(json: bool) -> Self {
        let width = terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0));
        Self { json, colour: coloured(), width, bodies: false }
    }
}

/// Whether standard output takes colours (`NO_COLOR`, `CLICOLOR_FORCE` and the kind of terminal are heeded).
pub(super) fn coloured() -> bool {
    AutoStream::choice(&io::stdout()) != ColorChoice::Never
}

/// Writes a record's line as it stands in the transcript, harmless for a terminal and equal in meaning.
pub(super) fn write_json(line: &[u8], out: &mut dyn Write) -> Result<(), InspectError> {
    let text = String::from_utf8_lossy(line);
    if !text.contains(is_harmful) {
        return Ok(writeln!(out, "{text}")?);
    }
    // Raw controls outside of strings are white space: written anew, only strings can hold any.
    let text = serde_json::from_slice(line).map(|value: serde_json::Value| value.to_string()).unwrap_or_default();
    let escape =
        |character: char| if is_harmful(character) { format!("\\u{:04x}", u32::from(character)) } else { character.into() };
    let escaped: String = text.chars().map(escape).collect();
    Ok(writeln!(out, "{escaped}")?)
}

/// Ends a command: flushes, reports what was skipped, and takes a closed pipe for a reader who has seen enough.
pub(super) fn finish(
    store: &Store<'_>,
    result: Result<(), InspectError>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<(), InspectError> {
    let result = result.and_then(|()| Ok(out.flush()?));
    if result.as_ref().is_err_and(InspectError::is_closed_pipe) {
        return Ok(());
    }
    let reported = store.reports.write(err);
    result.and(reported.map_err(InspectError::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(line: &str) -> String {
        let mut out = Vec::new();
        write_json(line.as_bytes(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn clean_lines_keep_their_very_octets() {
        assert_eq!(json(r#"{"b": 1,"a":"\\x1B é"}"#), "{\"b\": 1,\"a\":\"\\\\x1B é\"}\n");
    }

    #[test]
    fn forged_lines_mean_the_same_and_drive_nothing() {
        let forged = "{\"a\":\t\"\u{7f}\u{9b}31m\u{202e}\\u001b\"}";
        let written = json(forged);
        assert_eq!(written, "{\"a\":\"\\u007f\\u009b31m\\u202e\\u001b\"}\n");
        let [before, after] = [forged, &written].map(|text| serde_json::from_str::<serde_json::Value>(text).unwrap());
        assert_eq!(before, after);
    }
}
