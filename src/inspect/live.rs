//! The conversation as it passes, on a terminal.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use super::{
    human,
    paint::{Line, Look},
    render::{self, Conversation},
    view,
};
use crate::record::schema::{Body, Record};

/// Sessions that are remembered. Beyond that (the ends of some were lost) all are forgotten: their numbering starts anew.
const REMEMBERED: usize = 16_384;

/// How much of a session's id stands before its lines when several are at work.
const SHORT: usize = 5;

/// The live view: each record becomes a line or a few; each session ends with its verdict.
///
/// It writes at once and blocks when the terminal does; whoever feeds it decides what to drop then, and says so with
/// [`lost`](Self::lost). When the output is closed it falls silent.
pub struct Terminal<W> {
    out: W,
    colour: bool,
    sessions: BTreeMap<String, Conversation>,
    begun: bool,
    closed: bool,
}

impl Terminal<io::Stdout> {
    /// On standard output, in colour where that suits it (`NO_COLOR` is honoured).
    #[must_use]
    pub fn stdout() -> Self {
        Self::new(io::stdout(), view::coloured())
    }
}

impl<W: Write> Terminal<W> {
    /// On any output.
    pub fn new(out: W, colour: bool) -> Self {
        Self { out, colour, sessions: BTreeMap::new(), begun: false, closed: false }
    }

    /// Shows a record.
    pub fn show(&mut self, record: &Record) {
        // An output that went away must not stop the proxy, and nobody is left to be told.
        self.closed = self.closed || self.try_show(record).is_err();
    }

    /// Shows a record.
    ///
    /// # Errors
    ///
    /// When the output cannot be written.
    pub fn try_show(&mut self, record: &Record) -> io::Result<()> {
        if self.sessions.len() >= REMEMBERED {
            self.sessions.clear();
        }
        // A blank line between sessions that follow one another.
        if matches!(record.body, Body::Opened(_)) && self.sessions.is_empty() && self.begun {
            self.try_write("", &[Line::default()])?;
        }
        self.begun = true;
        let conversation = self.sessions.entry(record.session.clone()).or_default();
        let mut lines = conversation.lines(record, None);
        lines.extend(hint(&record.body));
        let written = self.try_write(&record.session, &lines);
        if let Body::Session(_) = record.body {
            self.sessions.remove(&record.session);
        }
        written
    }

    /// Says that so many records were dropped, because this terminal is too slow.
    pub fn lost(&mut self, records: u64) {
        let text =
            format!("{} not shown: this terminal is too slow; the transcript is not concerned", human::plural(records, "record"));
        self.closed = self.closed || self.try_write("", &[render::alarm(Look::Gap, &text)]).is_err();
    }

    fn try_write(&mut self, session: &str, lines: &[Line]) -> io::Result<()> {
        let several = self.sessions.len() > 1;
        let short: String = session.chars().take(SHORT).collect();
        for line in lines {
            let prefix = if several { format!("{short:SHORT$} ") } else { String::new() };
            Line::new(Look::Dim, &prefix).then(line.clone()).write(&mut self.out, self.colour)?;
        }
        self.out.flush()
    }
}

/// What to do about a session that could not be read.
fn hint(body: &Body) -> Option<Line> {
    match body {
        Body::Opaque(opaque) if opaque.reason == "starttls" => {
            let text = "the client started TLS with the server; I can't read on; `--stls refuse` to see everything";
            Some(Line::new(Look::Plain, &" ".repeat(10)).then(render::remark(Look::Opaque, text)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    fn shown(lines: &str) -> String {
        let mut terminal = Terminal::new(Vec::new(), false);
        lines.lines().for_each(|line| terminal.show(&record(line)));
        String::from_utf8(terminal.out).unwrap()
    }

    #[test]
    fn one_session_has_no_prefix_and_ends_with_its_verdict() {
        let end = [
            command("ab12cd34ef56", 10, 1, "QUIT", r#""text":"QUIT","octets":6"#),
            summary("ab12cd34ef56", 0, "bob", "complete"),
        ];
        assert_eq!(
            shown(&(opened("ab12cd34ef56", 0) + &end.concat())),
            "  +0.000  -- session ab12cd34ef56: 127.0.0.1:50312 → 127.0.0.1:1110 → pop3s://pop.example.net
  +0.010  C: QUIT
  +1.250  == complete
"
        );
    }

    #[test]
    fn several_are_told_apart_while_they_last() {
        let quit = |id| command(id, 10, 1, "QUIT", r#""text":"QUIT","octets":6"#);
        let both = [
            opened("one1234", 0),
            opened("two1234", 1),
            quit("one1234"),
            summary("one1234", 0, "b", "complete"),
            quit("two1234"),
        ];
        let lines = shown(&both.concat());
        let prefixes: Vec<_> = lines.lines().map(|line| &line[..8]).collect();
        assert_eq!(prefixes, ["  +0.000", "two12   ", "one12   ", "one12   ", "  +0.010"]);
    }

    #[test]
    fn a_blank_line_stands_between_sessions() {
        let one = |id| opened(id, 0) + &summary(id, 0, "b", "complete");
        let lines = shown(&(one("one1234") + &one("two1234")));
        let lines: Vec<_> = lines.lines().map(|line| line.contains("complete")).collect();
        assert_eq!(lines, [false, true, false, false, true]);
        assert!(shown(&one("one1234")).starts_with("  +0.000"));
    }

    #[test]
    fn starttls_says_how_to_read_on() {
        let opaque = r#""event":"opaque","reason":"starttls","explanation":"the client started TLS with the server""#;
        assert_eq!(
            shown(&line("ab12", 5, opaque)),
            "  +0.005  -- opaque from here on: the client started TLS with the server; octets still pass, but are not understood
          -- the client started TLS with the server; I can't read on; `--stls refuse` to see everything
"
        );
    }

    #[test]
    fn what_is_dropped_is_said() {
        let mut terminal = Terminal::new(Vec::new(), false);
        terminal.lost(12);
        assert_eq!(terminal.out, b"!! 12 records not shown: this terminal is too slow; the transcript is not concerned\n");
    }

    #[test]
    fn many_sessions_without_an_end_cost_no_memory() {
        let mut terminal = Terminal::new(io::sink(), false);
        (0..3 * REMEMBERED).for_each(|number| terminal.show(&record(&opened(&format!("s{number}"), 0))));
        assert!(terminal.sessions.len() <= REMEMBERED);
    }

    #[test]
    fn a_closed_output_is_borne() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        let mut terminal = Terminal::new(Closed, true);
        terminal.show(&record(&opened("ab12", 0)));
        terminal.lost(1);
        assert!(terminal.closed);
    }
}
