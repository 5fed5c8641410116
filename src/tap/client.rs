//! Labelling what the client sends.

use std::sync::Arc;

use super::{
    Action, Context, Event, Filter, Hold, Line, Observer, OpaqueReason, REMEMBERED, Tap, Verdict, Violation, ViolationKind,
    cut::whole,
};
use crate::pop3::{Body, ClientExpects, Command, Peer, Tracker};

/// What becomes of the client's line that is on its way. Settled before its first octet is forwarded or dropped.
#[derive(Clone, Debug)]
pub(super) enum Fate {
    /// Nothing of it was forwarded.
    Open,
    /// It is forwarded as it comes, as a command; `edit` says that the lines of its reply are to be edited.
    Command { edit: bool },
    /// It is forwarded as it comes, and is or may be a SASL response.
    Sasl { auth: u64 },
    /// It is dropped, and this is its reply; `stls` says that TLS starts behind that.
    Answered { text: Arc<[u8]>, rule: &'static str, stls: bool },
}

/// The first octet of a TLS handshake record (RFC 8446 §5.1).
const HANDSHAKE: u8 = 0x16;

impl<O: Observer, F: Filter> Tap<O, F> {
    /// Labels one thing from the client; false when there is nothing to label, or it has to wait.
    pub(super) fn label_client(&mut self) -> bool {
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

    fn client_data(&mut self, n: u64) -> bool {
        if !self.client.may_release() {
            return false;
        }
        let body = self.client_body.get_or_insert_with(|| Body::new(false));
        let step = body.step(self.client.unlabelled());
        let (octets, last) = (step.consumed, step.end);
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
        if matches!(self.fate, Fate::Open) {
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
            Hold::Stream if line.is_none() => Some(Fate::Command { edit: false }),
            _ if no_more || hold == Hold::Decide => self.ask_filter(),
            _ => None,
        }
    }

    fn ask_filter(&mut self) -> Option<Fate> {
        let unlabelled = self.client.unlabelled();
        let text = whole(line_in(unlabelled).unwrap_or(unlabelled), 0).text;
        let context = Context { stage: self.tracker.stage(), first: self.tracker.lines() == 0 };
        match self.filter.command(&Command::parse(text), context) {
            Verdict::Forward => Some(Fate::Command { edit: false }),
            Verdict::ForwardAndEdit => Some(Fate::Command { edit: true }),
            Verdict::Answer { text, rule } => Some(Fate::Answered { text, rule, stls: false }),
            Verdict::StartTls { text, rule } => Some(Fate::Answered { text, rule, stls: true }),
            Verdict::Close(violation) => {
                self.violate(violation);
                None
            }
        }
    }

    /// Passes on, or drops, what there is of the line.
    fn pass_client_piece(&mut self) -> bool {
        let dropped = matches!(self.fate, Fate::Answered { .. });
        if !dropped && !self.client.may_release() {
            return false;
        }
        let offset = self.client.labelled();
        let unlabelled = self.client.unlabelled();
        let line = line_in(unlabelled);
        let piece = line.unwrap_or(unlabelled);
        let count = piece.len();
        if line.is_some() && self.client_cut.is_empty() {
            let line = whole(piece, offset);
            label(&mut self.tracker, &mut self.observer, std::mem::replace(&mut self.fate, Fate::Open), line);
        } else {
            self.client_cut.push(piece, offset);
            if line.is_some() {
                let fate = std::mem::replace(&mut self.fate, Fate::Open);
                label(&mut self.tracker, &mut self.observer, fate, self.client_cut.line());
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
}

/// Tells tracker and observer of a complete line.
fn label(tracker: &mut Tracker, observer: &mut impl Observer, fate: Fate, line: Line<'_>) {
    let command = Command::parse(line.text);
    let (keyword, stage) = (command.keyword, tracker.stage());
    match fate {
        Fate::Answered { text, rule, stls } => {
            let n = if stls { tracker.agree_to_stls(text) } else { tracker.answer(keyword, text) };
            observer.on(&Event::Command { n, keyword, line, stage, forwarded: false });
            observer.on(&Event::Decision { n: Some(n), action: Action::Answer, rule });
        }
        Fate::Sasl { auth } => label_sasl(tracker, observer, &command, auth, line),
        Fate::Open | Fate::Command { .. } => {
            let edit = matches!(fate, Fate::Command { edit: true });
            let n = tracker.command(&command, line.text, line.octets, edit);
            observer.on(&Event::Command { n, keyword, line, stage, forwarded: true });
        }
    }
}

/// A line that began behind an unsettled AUTH. When AUTH was settled in its middle it is a command, but stays secret.
fn label_sasl(tracker: &mut Tracker, observer: &mut impl Observer, command: &Command<'_>, auth: u64, line: Line<'_>) {
    if let ClientExpects::SaslResponse(auth) | ClientExpects::Doubtful(auth) = tracker.client_expects() {
        let n = tracker.sasl_line(command, line.text, line.octets);
        observer.on(&Event::SaslResponse { n, auth, line });
    } else {
        let n = tracker.command(command, line.text, line.octets, false);
        observer.on(&Event::SaslResponse { n, auth, line });
        observer.on(&Event::Resolved { n, keyword: command.keyword });
    }
}

/// The first line of `octets`, its LF included.
fn line_in(octets: &[u8]) -> Option<&[u8]> {
    memchr::memchr(b'\n', octets).map(|at| &octets[..=at])
}
