//! Labelling what the client sends.

use std::sync::Arc;

use super::{
    Action, Context, Decision, Event, Filter, Hold, Line, Observer, OpaqueReason, Ordinal, REMEMBERED, Rule, SaslVerdict, Tap,
    Verdict, Violation, ViolationKind, cut::whole, noted,
};
use crate::pop3::{Body, ClientExpects, Command, Peer, Tracker, Wants};

/// What becomes of the client's line that is on its way. Settled before its first octet is forwarded or dropped.
#[derive(Clone, Debug)]
pub(super) enum Fate {
    /// Nothing of it was forwarded.
    Open,
    /// It is forwarded as it comes, as a command.
    Command { wants: Wants },
    /// It is forwarded as it comes, and is or may be a SASL response.
    Sasl { auth: Ordinal },
    /// It is dropped, and this is its reply.
    Answered { text: Arc<[u8]>, rule: Rule, action: Action, then: Then },
}

/// What follows when the reply to a line that was dropped has gone out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    GoOn,
    StartTls,
    Dismiss,
}

/// The first octet of a TLS handshake record (RFC 8446 §5.1).
const HANDSHAKE: u8 = 0x16;

impl<O: Observer, F: Filter> Tap<O, F> {
    /// Labels one thing from the client; false when there is nothing to label, or it has to wait.
    pub(super) fn label_client(&mut self) -> bool {
        if self.put_question() {
            return true;
        }
        if self.holds_for_login() && !self.tracker.is_opaque() {
            return self.tell_login();
        }
        if self.client.unlabelled().is_empty() {
            return self.client.is_ended() && self.unfinished(Peer::Client);
        }
        match self.tracker.client_expects() {
            ClientExpects::Anything if matches!(self.fate, Fate::Answered { .. }) => self.drop_rest_of_line(),
            ClientExpects::Anything => self.carry(Peer::Client),
            ClientExpects::Nothing => false,
            ClientExpects::Handshake => self.client_handshake(),
            ClientExpects::Data(n) => self.client_data(n),
            expected => self.client_line(expected),
        }
    }

    /// A refused line during which the session became opaque: none of it is forwarded, and its reply has no place any more.
    fn drop_rest_of_line(&mut self) -> bool {
        let unlabelled = self.client.unlabelled();
        let line = line_in(unlabelled).map(<[u8]>::len);
        let count = line.unwrap_or(unlabelled.len());
        self.client.skip(count);
        self.observer.on(&Event::OpaqueOctets { from: Peer::Client, octets: count as u64 });
        if line.is_some() {
            self.fate = Fate::Open;
        }
        true
    }

    fn client_handshake(&mut self) -> bool {
        if self.client.unlabelled()[0] == HANDSHAKE && !self.tracker.has_commands_behind_stls() {
            self.go_opaque(OpaqueReason::StartTls);
        } else {
            self.violate(Violation { fault: Peer::Client, kind: ViolationKind::PlaintextBehindStls });
        }
        true
    }

    fn client_data(&mut self, n: Ordinal) -> bool {
        if !self.client.may_release() {
            return false;
        }
        let (body, before) = self.client_body.get_or_insert_with(|| (Body::new(false), b'\n'));
        let step = body.step(self.client.unlabelled());
        let (octets, last) = (step.consumed, step.end);
        let data = &self.client.unlabelled()[..octets];
        if self.filter.caps().is_some() && !is_in_lines(*before, data) {
            self.violate(Violation { fault: Peer::Client, kind: ViolationKind::MalformedData });
            return true;
        }
        *before = data.last().copied().unwrap_or(*before);
        self.client.release(octets);
        self.observer.on(&Event::ClientData { n, octets: octets as u64, last });
        if last {
            self.client_body = None;
            self.tracker.client_data_ended();
        }
        true
    }

    fn client_line(&mut self, expected: ClientExpects) -> bool {
        self.client_body = None;
        if self.client_cut.is_empty() && self.security_layer_begins(Peer::Client) {
            return true;
        }
        if self.client_cut.is_empty() && self.tracker.is_at_cap() || !self.client.may_insert() {
            return false;
        }
        if self.client_cut.is_empty() && self.tracker.lines() >= self.limits.commands {
            return self.too_many_commands(expected);
        }
        if let Some(caps) = self.filter.caps() {
            return self.judged_line(expected, caps);
        }
        if self.is_delayed() && self.client_cut.is_empty() {
            return false;
        }
        if matches!(self.fate, Fate::Open) {
            match expected {
                ClientExpects::SaslResponse(auth) if self.filter.hears_responses() => return self.heard_response(auth),
                ClientExpects::Doubtful(_) if self.filter.hears_responses() => return false,
                _ => {}
            }
            let Some(fate) = self.decide(expected) else { return self.violation.is_some() };
            self.fate = fate;
        }
        self.pass_client_piece()
    }

    /// What becomes of the line at whose start we are; `None` when it has to wait, or the session is closed.
    fn decide(&mut self, expected: ClientExpects) -> Option<Fate> {
        let unlabelled = self.client.unlabelled();
        let line = line_in(unlabelled);
        let beginning = &line.unwrap_or(unlabelled)[..line.unwrap_or(unlabelled).len().min(REMEMBERED)];
        let hold = self.filter.hold(beginning, self.tracker.lines() == 0);
        match expected {
            ClientExpects::SaslResponse(auth) => return Some(Fate::Sasl { auth }),
            // It would be a command that the filter wants, if AUTH is settled before it: the reply will tell.
            ClientExpects::Doubtful(auth) => return (hold == Hold::Stream).then_some(Fate::Sasl { auth }),
            _ => {}
        }
        // At the end of the stream a line is judged by what there is of it: some servers take it for a whole one.
        let no_more = line.is_some() || beginning.len() == REMEMBERED || self.client.is_full() || self.client.is_ended();
        match hold {
            Hold::Stream => Some(Fate::Command { wants: Wants::default() }),
            _ if no_more || hold == Hold::Decide => {
                let length = line.unwrap_or(unlabelled).len();
                self.ask_filter(length, REMEMBERED)
            }
            _ => None,
        }
    }

    /// What becomes of the next `length` octets, of which the filter sees `most`.
    pub(super) fn ask_filter(&mut self, length: usize, most: usize) -> Option<Fate> {
        let context = self.context();
        let text = whole(&self.client.unlabelled()[..length], 0, most).text;
        match self.filter.command(&Command::parse(text), context) {
            Verdict::Forward(wants) => Some(Fate::Command { wants }),
            Verdict::Answer { text, action, rule } => Some(Fate::Answered { text, rule, action, then: Then::GoOn }),
            Verdict::StartTls { text, rule } => Some(Fate::Answered { text, rule, action: Action::Answer, then: Then::StartTls }),
            Verdict::Dismiss { text, rule } => {
                self.dismissal = Some(rule.clone());
                Some(Fate::Answered { text, rule, action: Action::Close, then: Then::Dismiss })
            }
            Verdict::Rewrite { text, rule, wants } => {
                self.rewrite(length, text, &rule, wants);
                None
            }
            Verdict::Login { script, wants } => {
                self.hold_login(length, wants, script);
                None
            }
            Verdict::Wait => None,
            Verdict::Close(violation) => {
                self.violate(violation);
                None
            }
        }
    }

    fn context(&self) -> Context {
        let lines = self.tracker.lines();
        Context { n: lines + 1, stage: self.tracker.stage(), first: lines == 0, idle: !self.tracker.awaits_server() }
    }

    /// Passes on, or drops, what there is of the line.
    pub(super) fn pass_client_piece(&mut self) -> bool {
        let unlabelled = self.client.unlabelled();
        self.pass_piece(line_in(unlabelled).unwrap_or(unlabelled).len())
    }

    /// Passes on, or drops, `count` octets of the line, or all that is left of it.
    pub(super) fn pass_piece(&mut self, count: usize) -> bool {
        let dropped = matches!(self.fate, Fate::Answered { .. });
        if !dropped && !self.client.may_release() {
            return false;
        }
        let offset = self.client.labelled();
        let piece = &self.client.unlabelled()[..count];
        let is_end = piece.ends_with(b"\n");
        if is_end && self.client_cut.is_empty() {
            let line = whole(piece, offset, REMEMBERED);
            let fate = std::mem::replace(&mut self.fate, Fate::Open);
            label(&mut self.tracker, &mut self.observer, &mut self.filter, fate, line);
        } else {
            self.client_cut.push(piece, offset);
            if is_end {
                let fate = std::mem::replace(&mut self.fate, Fate::Open);
                label(&mut self.tracker, &mut self.observer, &mut self.filter, fate, self.client_cut.line());
                self.client_cut.clear();
            }
        }
        if dropped {
            self.client.skip(count);
        } else {
            self.client.release(count);
        }
        true
    }

    /// Sends `text` on in place of the next `length` octets, a whole line.
    fn rewrite(&mut self, length: usize, text: Arc<[u8]>, rule: &Rule, wants: Wants) {
        let line = whole(&self.client.unlabelled()[..length], self.client.labelled(), REMEMBERED);
        let stage = self.tracker.stage();
        let keyword = Command::parse(line.text).keyword;
        let sent = whole(&text, 0, text.len());
        let n = self.tracker.command(&Command::parse(sent.text), sent.text, sent.octets, wants);
        self.observer.on(&Event::Command { n, keyword, line, stage, forwarded: true, own: false });
        let decision = Decision { line: Some(sent.text), ..Decision::of(Some(n), Action::Rewrite, rule) };
        self.observer.on(&Event::Decision(decision));
        noted(&mut self.observer, &mut self.filter, Some(n));
        self.client.skip(length);
        self.client.insert(text);
    }

    /// Whether a SASL response goes on, of which `length` octets are there; it was dealt with when not.
    pub(super) fn ask_about_response(&mut self, auth: Ordinal, length: usize) -> bool {
        let beginning = &self.client.unlabelled()[..length];
        let line = whole(beginning, self.client.labelled(), REMEMBERED);
        let verdict = self.filter.sasl(auth, whole(beginning, 0, length).text, beginning.ends_with(b"\n"));
        noted(&mut self.observer, &mut self.filter, Some(auth));
        match verdict {
            SaslVerdict::Forward => return true,
            SaslVerdict::Cancel { rule } => {
                self.tracker.want_status(auth);
                let n = self.tracker.sasl_line(&Command::parse(CANCELS), CANCELS, CANCELS.len() as u64);
                self.observer.on(&Event::SaslResponse { n, auth, line });
                self.observer.on(&Event::Decision(Decision::of(Some(n), Action::Rewrite, &rule)));
                self.client.skip(length);
                self.client.insert(Arc::from(CANCELS));
            }
            SaslVerdict::Login { script } => self.hold_response(auth, length, Ok(script)),
            SaslVerdict::Refuse { text, rule } => self.hold_response(auth, length, Err((text, rule))),
            SaslVerdict::Dismiss { text, rule } => self.dismiss_in_exchange(auth, length, text, rule),
        }
        false
    }

    /// A line that is, or may be, a SASL response is refused, and the client with it.
    pub(super) fn dismiss_in_exchange(&mut self, auth: Ordinal, length: usize, text: Arc<[u8]>, rule: Rule) {
        let line = whole(&self.client.unlabelled()[..length], self.client.labelled(), REMEMBERED);
        let n = self.tracker.dismiss_in_exchange(text);
        self.observer.on(&Event::SaslResponse { n, auth, line });
        self.observer.on(&Event::Decision(Decision::of(Some(n), Action::Close, &rule)));
        self.dismissal = Some(rule);
        self.client.skip(length);
    }
}

/// What the client says to cancel a SASL exchange (RFC 5034 §4).
const CANCELS: &[u8] = b"*\r\n";

/// Tells tracker, observer and filter of a complete line.
fn label(tracker: &mut Tracker, observer: &mut impl Observer, filter: &mut impl Filter, fate: Fate, line: Line<'_>) {
    let command = Command::parse(line.text);
    let (keyword, stage) = (command.keyword, tracker.stage());
    match fate {
        Fate::Answered { text, rule, action, then } => {
            let n = match then {
                Then::GoOn => tracker.answer(keyword, text),
                Then::StartTls => tracker.agree_to_stls(text),
                Then::Dismiss => tracker.dismiss(keyword, text),
            };
            observer.on(&Event::Command { n, keyword, line, stage, forwarded: false, own: false });
            observer.on(&Event::Decision(Decision::of(Some(n), action, &rule)));
            noted(observer, filter, Some(n));
        }
        Fate::Sasl { auth } => {
            label_sasl(tracker, observer, &command, auth, line);
            if filter.caps().is_none() && !filter.hears_responses() {
                filter.responded(auth, line.text, line.is_whole());
                noted(observer, filter, Some(auth));
            }
        }
        Fate::Open | Fate::Command { .. } => {
            let wants = if let Fate::Command { wants } = fate { wants } else { Wants::default() };
            let (first, idle) = (tracker.lines() == 0, !tracker.awaits_server());
            let n = tracker.command(&command, line.text, line.octets, wants);
            observer.on(&Event::Command { n, keyword, line, stage, forwarded: true, own: false });
            filter.passed(&command, Context { n, stage, first, idle });
            noted(observer, filter, Some(n));
        }
    }
}

/// A line that began behind an unsettled AUTH. When AUTH was settled in its middle it is a command, but stays secret.
fn label_sasl(tracker: &mut Tracker, observer: &mut impl Observer, command: &Command<'_>, auth: Ordinal, line: Line<'_>) {
    if let ClientExpects::SaslResponse(auth) | ClientExpects::Doubtful(auth) = tracker.client_expects() {
        let n = tracker.sasl_line(command, line.text, line.octets);
        observer.on(&Event::SaslResponse { n, auth, line });
    } else {
        let n = tracker.command(command, line.text, line.octets, Wants::default());
        observer.on(&Event::SaslResponse { n, auth, line });
        observer.on(&Event::Resolved { n, keyword: command.keyword });
    }
}

/// Whether what follows `before` has CR and LF only as the two of them, and no NUL. A bare one ends a line for some servers, so
/// that a dot behind it ends the message; where a line is cut, its CR may be the last octet.
fn is_in_lines(mut before: u8, octets: &[u8]) -> bool {
    octets.iter().all(|&octet| {
        let last = std::mem::replace(&mut before, octet);
        octet != 0 && (last == b'\r') == (octet == b'\n')
    })
}

/// The first line of `octets`, its LF included.
pub(super) fn line_in(octets: &[u8]) -> Option<&[u8]> {
    memchr::memchr(b'\n', octets).map(|at| &octets[..=at])
}
