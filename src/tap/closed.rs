//! The client's side of a session that fails closed: every line is judged whole, or refused.

use std::sync::Arc;

use super::{
    Action, Caps, Decision, Event, Filter, Hold, Line, Observer, REMEMBERED, Rule, Tap,
    client::{Fate, Then, line_in},
    cut::whole,
};
use crate::pop3::{ClientExpects, Command, Keyword, Ordinal, Stage};

impl<O: Observer, F: Filter> Tap<O, F> {
    /// Like `client_line`, where nothing is forwarded that was not judged.
    ///
    /// Lines behind a command whose reply decides what they are, or how they are to be judged, wait for it. What is to be
    /// forwarded is held until it is whole; SASL responses and initial responses that are longer than a command go on in
    /// pieces, as long as they are base64: no server can take the tail of one for a command with an argument.
    pub(super) fn judged_line(&mut self, expected: ClientExpects, caps: Caps) -> bool {
        if let Fate::Answered { .. } = self.fate {
            return self.drop_piece(caps);
        }
        if self.stash.is_some() || matches!(expected, ClientExpects::Doubtful(_)) {
            return false;
        }
        match (expected, &self.fate) {
            (_, Fate::Sasl { .. } | Fate::Command { .. }) => self.next_piece(caps),
            (ClientExpects::SaslResponse(auth), _) => self.response(auth, caps),
            _ if self.tracker.is_gated() => false,
            _ => self.judge(caps),
        }
    }

    fn judge(&mut self, caps: Caps) -> bool {
        if self.tracker.lines() == 0 && self.is_known_foreign() {
            let length = self.client.unlabelled().len();
            let fate = self.ask_filter(length, REMEMBERED);
            return self.settle(fate, length);
        }
        let Some(length) = self.whole_or_longest(caps.command) else { return false };
        let text = &self.client.unlabelled()[..length];
        let line = whole(text, 0, length).text;
        let refused = if length > caps.command {
            if self.is_long_login(line) {
                return self.first_piece(caps);
            }
            Some((TOO_LONG, Then::Dismiss, LINE_TOO_LONG))
        } else if is_malformed(line) {
            Some((MALFORMED, Then::GoOn, MALFORMED_LINE))
        } else {
            None
        };
        let fate = match refused {
            Some((text, then, rule)) => Some(answered(text, then, rule)),
            None => self.ask_filter(length, length),
        };
        self.settle(fate, length)
    }

    /// Whether the session's first octets are those of another protocol, which may have no line end.
    fn is_known_foreign(&self) -> bool {
        let unlabelled = self.client.unlabelled();
        self.filter.hold(&unlabelled[..unlabelled.len().min(REMEMBERED)], true) == Hold::Decide
    }

    /// The length of the line at whose start we are, or `cap + 1` where it is longer than `cap`; `None` when that is not
    /// known yet.
    fn whole_or_longest(&self, cap: usize) -> Option<usize> {
        let unlabelled = self.client.unlabelled();
        let most = &unlabelled[..unlabelled.len().min(cap + 1)];
        match line_in(most) {
            Some(line) => Some(line.len()),
            // At the end of the stream a line is judged by what there is of it: some servers take it for a whole one.
            None if most.len() > cap || self.client.is_ended() || self.client.is_full() => Some(most.len()),
            None => None,
        }
    }

    /// Does what was decided; whether anything was.
    fn settle(&mut self, fate: Option<Fate>, length: usize) -> bool {
        let lines = self.tracker.lines();
        match fate {
            Some(Fate::Answered { text, rule, then: Then::Dismiss, .. }) => self.dismiss_for(length, text, &rule),
            Some(fate) => {
                self.fate = fate;
                self.pass_client_piece();
            }
            // It was rewritten, has to wait, or the session is closed.
            None => {
                return self.violation.is_some()
                    || self.login.is_some()
                    || !self.client.may_insert()
                    || self.tracker.lines() > lines;
            }
        }
        true
    }

    /// The line is refused, and the client with it, however long it goes on.
    fn dismiss_for(&mut self, length: usize, text: Arc<[u8]>, rule: &Rule) {
        let line = whole(&self.client.unlabelled()[..length], self.client.labelled(), REMEMBERED);
        let (keyword, stage) = (Command::parse(line.text).keyword, self.tracker.stage());
        let n = self.tracker.dismiss(keyword, text);
        self.observer.on(&Event::Command { n, keyword, line, stage, forwarded: false, own: false });
        self.observer.on(&Event::Decision(Decision::of(Some(n), Action::Close, rule)));
        super::noted(&mut self.observer, &mut self.filter, Some(n));
        self.dismissal = Some(rule.clone());
        self.client.skip(length);
    }

    // ── lines that may be longer than a command ──

    /// Whether what there is of a line is an AUTH with its mechanism and the beginning of an initial response, before a login.
    fn is_long_login(&self, beginning: &[u8]) -> bool {
        let command = Command::parse(beginning);
        command.keyword == Keyword::Auth
            && self.tracker.stage() == Stage::Authorization
            && !is_malformed(beginning)
            && command.arguments().count() == 2
            && command.arguments().all(is_base64)
    }

    /// The beginning of a long AUTH is judged; when it may pass, the rest follows in pieces.
    fn first_piece(&mut self, caps: Caps) -> bool {
        let Some(length) = self.whole_or_longest(LONGEST_JUDGED) else { return false };
        let fate = match self.ask_filter(length, length) {
            Some(Fate::Command { wants }) => Fate::Command { wants },
            // All of it is dropped, however it goes on.
            other => return self.settle(other, length),
        };
        self.fate = fate;
        self.next_piece(caps)
    }

    /// A SASL response of a session that does not fail closed, before any of it goes on.
    pub(super) fn heard_response(&mut self, auth: Ordinal) -> bool {
        let Some(length) = self.whole_or_longest(LONGEST_JUDGED) else { return false };
        if !self.ask_about_response(auth, length) {
            return true;
        }
        self.fate = Fate::Sasl { auth };
        self.pass_client_piece()
    }

    /// More lines than one session may have. What was asked before is answered before.
    pub(super) fn too_many_commands(&mut self, expected: ClientExpects) -> bool {
        let unlabelled = self.client.unlabelled();
        let (length, text) = (line_in(unlabelled).unwrap_or(unlabelled).len(), Arc::from(TOO_MANY));
        let rule = Rule::BuiltIn(TOO_MANY_COMMANDS);
        match expected {
            ClientExpects::SaslResponse(auth) | ClientExpects::Doubtful(auth) => {
                self.dismiss_in_exchange(auth, length, text, rule);
            }
            _ => self.dismiss_for(length, text, &rule),
        }
        true
    }

    fn response(&mut self, auth: Ordinal, caps: Caps) -> bool {
        let Some(length) = self.whole_or_longest(LONGEST_JUDGED) else { return false };
        if !self.ask_about_response(auth, length) {
            return true;
        }
        self.fate = Fate::Sasl { auth };
        self.next_piece(caps)
    }

    /// What there is of a line that is forwarded as it comes. A CR waits for its LF: alone it would part words for some servers.
    fn next_piece(&mut self, caps: Caps) -> bool {
        let unlabelled = self.client.unlabelled();
        let line = line_in(unlabelled);
        let piece = match line {
            Some(line) => line,
            None if self.client.is_ended() => unlabelled,
            None => unlabelled.strip_suffix(b"\r").unwrap_or(unlabelled),
        };
        if piece.is_empty() {
            return false;
        }
        let octets = self.client_cut.octets() + piece.len() as u64;
        // Of a command only what follows the keyword and the mechanism, which were looked at when it began, is base64 alone.
        let checked = match self.fate {
            Fate::Command { .. } if self.client_cut.is_empty() => initial_response(piece),
            _ => piece,
        };
        let content = checked.strip_suffix(b"\n").map_or(checked, |text| text.strip_suffix(b"\r").unwrap_or(text));
        if octets <= caps.sasl && (is_base64(content) || content == b"*" && line.is_some()) {
            return self.pass_piece(piece.len());
        }
        let (text, rule) = if octets > caps.sasl { (TOO_LONG, LINE_TOO_LONG) } else { (MALFORMED, MALFORMED_LINE) };
        let auth = if let Fate::Sasl { auth } = self.fate { auth } else { 0 };
        self.break_off(auth, piece.len(), text, rule);
        true
    }

    /// The rest of a long line that was refused.
    fn drop_piece(&mut self, caps: Caps) -> bool {
        if self.client_cut.octets() <= caps.sasl {
            return self.pass_client_piece();
        }
        let length = self.client.unlabelled().len();
        self.break_off(0, length, TOO_LONG, LINE_TOO_LONG);
        true
    }

    /// A line that is secret, and of which some has been forwarded, is broken off, and the client dismissed.
    fn break_off(&mut self, auth: Ordinal, length: usize, text: &'static [u8], rule: &'static str) {
        let offset = self.client.labelled();
        self.client_cut.push(&self.client.unlabelled()[..length], offset);
        let text = Arc::from(text);
        let in_exchange = matches!(self.fate, Fate::Sasl { .. });
        let n = if in_exchange { self.tracker.dismiss_in_exchange(text) } else { self.tracker.dismiss(Keyword::Auth, text) };
        let line: Line<'_> = self.client_cut.line();
        self.observer.on(&Event::SaslResponse { n, auth, line });
        self.observer.on(&Event::Decision(Decision::of(Some(n), Action::Close, &Rule::BuiltIn(rule))));
        self.dismissal = Some(Rule::BuiltIn(rule));
        self.client_cut.clear();
        self.fate = Fate::Open;
        self.client.skip(length);
    }
}

/// So many octets of a SASL response, or of an AUTH with an initial response, are looked at before any goes on; less than
/// [`SMALL`](super::SMALL).
pub const LONGEST_JUDGED: usize = 4000;

/// What is recorded where a line over the cap is refused, and the client with it.
pub const LINE_TOO_LONG: &str = "line-too-long";
/// What is recorded where a line that servers would read differently is refused.
pub const MALFORMED_LINE: &str = "malformed-line";
/// Why a session is closed that has more lines of the client's than it may.
const TOO_MANY_COMMANDS: &str = "too-many-commands";
const TOO_MANY: &[u8] = b"-ERR [SYS/PERM] too many commands for one session\r\n";
const TOO_LONG: &[u8] = b"-ERR the line is too long\r\n";
const MALFORMED: &[u8] = b"-ERR the line is malformed\r\n";

fn answered(text: &'static [u8], then: Then, rule: &'static str) -> Fate {
    Fate::Answered { text: Arc::from(text), rule: Rule::BuiltIn(rule), action: Action::Answer, then }
}

/// Whether a line, without its end, holds what servers read each in their own way: a NUL cuts it or glues the next one on, a
/// bare CR ends a word, and other control characters are blanks for some. A tab is one for all.
#[must_use]
pub fn is_malformed(line: &[u8]) -> bool {
    line.iter().any(|octet| octet.is_ascii_control() && *octet != b'\t')
}

/// The third word of an AUTH line, and all that follows.
fn initial_response(line: &[u8]) -> &[u8] {
    let command = Command::parse(line);
    let rest = command.rest.trim_ascii_start();
    let mechanism = rest.iter().position(|octet| matches!(octet, b' ' | b'\t')).unwrap_or(rest.len());
    rest[mechanism..].trim_ascii_start()
}

/// Whether all octets may stand in base64 (RFC 4648 §4), or in a mechanism's name: none of them parts words.
fn is_base64(octets: &[u8]) -> bool {
    octets.iter().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'+' | b'/' | b'=' | b'-' | b'_'))
}
