//! Lines for people: what is said, in which colour, and never a control character.
//!
//! A transcript comes escaped, but a file can be forged or damaged: whatever enters a [`Line`] is escaped once more, so
//! that no record can drive a terminal or fake a line. Text without control characters passes unchanged.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write},
};

use anstyle::{AnsiColor, Style};

/// The kinds of text that look different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// As it comes.
    Plain,
    /// Times, withheld parts, remarks in brackets.
    Dim,
    /// What the client says.
    Client,
    /// What the server says.
    Server,
    /// What poptap did of its own.
    Own,
    /// TLS.
    Tls,
    /// Something is missing in the record.
    Gap,
    /// Something odd or unsafe.
    Anomaly,
    /// The session can no longer be read.
    Opaque,
    /// Headings and verdicts.
    Strong,
}

impl Look {
    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Dim => Style::new().dimmed(),
            Self::Client => AnsiColor::Cyan.on_default(),
            Self::Server => AnsiColor::Green.on_default(),
            Self::Own => AnsiColor::Yellow.on_default(),
            Self::Tls => AnsiColor::Blue.on_default(),
            Self::Gap => AnsiColor::BrightRed.on_default(),
            Self::Anomaly => AnsiColor::Red.on_default().bold(),
            Self::Opaque => AnsiColor::Magenta.on_default(),
            Self::Strong => Style::new().bold(),
        }
    }
}

/// One line of output, in pieces of one look each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    pieces: Vec<(Look, String)>,
}

impl Line {
    /// A line with one piece.
    pub(super) fn new(look: Look, text: &str) -> Self {
        Self::default().with(look, text)
    }

    /// The line with one piece more. Control characters in it are escaped here, and nowhere else.
    #[must_use]
    pub(super) fn with(mut self, look: Look, text: &str) -> Self {
        self.pieces.push((look, harmless(text).into_owned()));
        self
    }

    /// The line with the pieces of another behind it.
    #[must_use]
    pub(super) fn then(mut self, other: Self) -> Self {
        self.pieces.extend(other.pieces);
        self
    }

    /// The text alone.
    pub(super) fn text(&self) -> String {
        self.pieces.iter().map(|(_, text)| text.as_str()).collect()
    }

    /// Writes the line and a line feed.
    pub(super) fn write(&self, out: &mut dyn Write, colour: bool) -> io::Result<()> {
        for (look, text) in self.pieces.iter().filter(|(_, text)| !text.is_empty()) {
            let style = if colour { look.style() } else { Style::new() };
            write!(out, "{style}{text}{style:#}")?;
        }
        writeln!(out)
    }
}

/// The text with characters that could drive a terminal written as `\xNN`, one for each octet, as in the transcript.
pub(super) fn harmless(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_harmful(character) { escape(character, &mut escaped) } else { escaped.push(character) }
    }
    Cow::Owned(escaped)
}

/// Whether a character moves the cursor, the colours or the direction of writing: C0, DEL, C1, the controls of
/// bidirectional text, and the separators of lines and paragraphs.
pub(super) fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escape(character: char, out: &mut String) {
    for octet in character.encode_utf8(&mut [0; 4]).bytes() {
        // Writing to a String cannot fail.
        let _ = write!(out, "\\x{octet:02X}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(line: &Line, colour: bool) -> String {
        let mut out = Vec::new();
        line.write(&mut out, colour).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn colours_only_where_wanted() {
        let line = Line::new(Look::Client, "C: NOOP").with(Look::Plain, " ").with(Look::Dim, "(late)");
        assert_eq!(written(&line, false), "C: NOOP (late)\n");
        assert_eq!(written(&Line::new(Look::Dim, ""), true), "\n");
        assert_eq!(written(&line, true), "\x1b[36mC: NOOP\x1b[0m \x1b[2m(late)\x1b[0m\n");
    }

    #[test]
    fn escapes_of_the_transcript_pass_as_they_are() {
        let line = Line::new(Look::Plain, r"bell \x07, back-slash \\, é, 漢");
        assert_eq!(written(&line, false), "bell \\x07, back-slash \\\\, é, 漢\n");
    }

    #[test]
    fn raw_controls_are_escaped() {
        let line = Line::new(Look::Plain, "\x1b[2J\r\n\u{9b}31m\u{202e}\u{7f}\u{2028}");
        assert_eq!(written(&line, false), "\\x1B[2J\\x0D\\x0A\\xC2\\x9B31m\\xE2\\x80\\xAE\\x7F\\xE2\\x80\\xA8\n");
    }
}
