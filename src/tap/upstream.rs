//! Labelling what the server sends, and putting local replies in their place.

use super::{
    Action, Addition, After, Decision, Edit, Event, Filter, Line, Observer, OpaqueReason, Ordinal, REMEMBERED, Replied, Replying,
    Tap, Violation, ViolationKind, cut::whole, noted, stash,
};
use crate::pop3::{Keyword, Labelled, Loss, Peer, ServerExpects, Status, Tracker};

impl<O: Observer, F: Filter> Tap<O, F> {
    /// Labels one thing from the server, or places one local reply; false when there is nothing to do, or it has to wait.
    pub(super) fn label_upstream(&mut self) -> bool {
        if self.is_delayed() {
            return false;
        }
        if self.place_local_reply() {
            return true;
        }
        if self.logs_in_in_vain() {
            return self.give_up_login();
        }
        if self.holds_server_for_login() {
            return false;
        }
        if self.asks_in_vain() {
            return self.dismiss_unanswered();
        }
        if self.upstream.unlabelled().is_empty() {
            return self.upstream.is_ended() && (self.truncated_body() | self.unfinished(Peer::Upstream));
        }
        if !self.upstream.may_release() {
            return false;
        }
        match self.tracker.server_expects() {
            ServerExpects::Anything => self.carry(Peer::Upstream),
            ServerExpects::Nothing => self.unasked_behind_stls(),
            ServerExpects::Held => false,
            ServerExpects::Body => self.body(),
            expected => self.status_line(expected == ServerExpects::Greeting),
        }
    }

    /// At the start of a line, when all that was asked before is answered.
    fn place_local_reply(&mut self) -> bool {
        if !self.upstream_cut.is_empty() || !self.upstream.may_insert() || self.stash.is_some() {
            return false;
        }
        if self.tracker.has_handover_next() && !self.client.unlabelled().is_empty() {
            self.violate(Violation { fault: Peer::Client, kind: ViolationKind::PlaintextBehindStls });
            return true;
        }
        if self.place_challenge() {
            return true;
        }
        let Some((n, text)) = self.tracker.take_local() else { return false };
        self.observer.on(&Event::LocalReply { n, text: &text });
        self.upstream.insert(text);
        true
    }

    fn unasked_behind_stls(&mut self) -> bool {
        self.violate(Violation { fault: Peer::Upstream, kind: ViolationKind::PlaintextBehindStlsReply });
        true
    }

    // ── status lines ──

    fn status_line(&mut self, greeting: bool) -> bool {
        if self.upstream_cut.is_empty() && self.security_layer_begins(Peer::Upstream) {
            return true;
        }
        if !greeting && self.tracker.wants_status() != (false, false) {
            return self.held_status_line();
        }
        let unlabelled = self.upstream.unlabelled();
        let line = memchr::memchr(b'\n', unlabelled).map(|at| at + 1);
        let must_go = line.is_some() || self.upstream.is_full() || self.upstream.is_ended();
        if greeting && !must_go {
            return false;
        }
        let count = line.unwrap_or(unlabelled.len());
        match (line, self.upstream_cut.is_empty()) {
            (Some(_), true) if greeting => self.greeting(count),
            (Some(_), true) => self.whole_status_line(count),
            _ => self.piece_of_status_line(count, line.is_some()),
        }
        true
    }

    fn whole_status_line(&mut self, count: usize) {
        let line = whole(&self.upstream.unlabelled()[..count], self.upstream.labelled(), REMEMBERED);
        let (labelled, _after) = label(&mut self.tracker, &mut self.observer, &mut self.filter, line);
        self.upstream.release(count);
        self.after_status_line(labelled, count as u64);
    }

    fn piece_of_status_line(&mut self, count: usize, last: bool) {
        self.upstream_cut.push(&self.upstream.unlabelled()[..count], self.upstream.labelled());
        self.upstream.release(count);
        if last {
            let (labelled, _after) = label(&mut self.tracker, &mut self.observer, &mut self.filter, self.upstream_cut.line());
            let octets = self.upstream_cut.octets();
            self.upstream_cut.clear();
            self.after_status_line(labelled, octets);
        }
    }

    /// A status line that the filter wants whole, or that answers a question of the proxy's own.
    fn held_status_line(&mut self) -> bool {
        let unlabelled = self.upstream.unlabelled();
        let Some(count) = memchr::memchr(b'\n', unlabelled).map(|at| at + 1) else {
            if self.upstream.is_ended() {
                self.piece_of_status_line(unlabelled.len(), false);
                return true;
            }
            return self.is_line_too_long();
        };
        let line = whole(&unlabelled[..count], self.upstream.labelled(), REMEMBERED);
        let (_, own) = self.tracker.wants_status();
        let (labelled, after) = label(&mut self.tracker, &mut self.observer, &mut self.filter, line);
        match labelled {
            Labelled::Reply { status, .. } if own && self.login.is_some() => {
                self.first_answered(status == Some(Status::Ok), count);
            }
            Labelled::Reply { status, .. } if own => self.own_status_line(status, count),
            Labelled::Reply { n, keyword, .. } => {
                self.wanted_status_line(n, keyword, count, after);
                self.login_answered(n);
            }
            _ if self.of_login(labelled, count) => {}
            // What it is supposed to answer is none of the client's.
            _ if own => self.upstream.skip(count),
            _ => self.upstream.release(count),
        }
        self.after_status_line(labelled, count as u64);
        true
    }

    /// A line that has to be looked at whole and is longer than any should be: the session is closed.
    fn is_line_too_long(&mut self) -> bool {
        let is_too_long = self.upstream.unlabelled().len() > LONGEST_EDITED || self.upstream.is_full();
        if is_too_long {
            self.violate(Violation { fault: Peer::Upstream, kind: ViolationKind::ReplyLineTooLong });
        }
        is_too_long
    }

    fn after_status_line(&mut self, labelled: Labelled, octets: u64) {
        match labelled {
            Labelled::Lost(loss) => {
                self.go_opaque(reason(loss));
                self.observer.on(&Event::OpaqueOctets { from: Peer::Upstream, octets });
            }
            Labelled::Reply { keyword: Keyword::Auth, .. } => self.resolve(),
            Labelled::Reply { keyword: Keyword::Xtnd, .. } if self.client_sends_data() && !self.client_cut.is_empty() => {
                self.go_opaque(OpaqueReason::AmbiguousCommand);
            }
            Labelled::Reply { keyword: Keyword::Stls, .. } if self.client_awaits_handshake() => self.stls_agreed(),
            _ => {}
        }
    }

    /// The lines behind an AUTH that is settled now were commands.
    fn resolve(&mut self) {
        while let Some((n, keyword)) = self.tracker.next_resolved() {
            self.observer.on(&Event::Resolved { n, keyword });
        }
    }

    fn stls_agreed(&mut self) {
        if !self.upstream.unlabelled().is_empty() {
            self.unasked_behind_stls();
        } else if self.tracker.has_commands_behind_stls() || !self.client_cut.is_empty() {
            self.violate(Violation { fault: Peer::Client, kind: ViolationKind::PlaintextBehindStls });
        }
    }

    // ── edited lines ──

    fn greeting(&mut self, count: usize) {
        let octets = &self.upstream.unlabelled()[..count];
        let line = whole(octets, self.upstream.labelled(), REMEMBERED);
        label(&mut self.tracker, &mut self.observer, &mut self.filter, line);
        let edit =
            if self.filter.greeting(line.text) { self.filter.response_line(self.replying(0, None), octets) } else { Edit::Keep };
        noted(&mut self.observer, &mut self.filter, None);
        self.apply(edit, None, count);
    }

    pub(super) fn apply(&mut self, edit: Edit, n: Option<Ordinal>, count: usize) {
        match edit {
            Edit::Keep => self.upstream.release(count),
            Edit::Remove { rule } => {
                self.observer.on(&Event::Decision(Decision::of(n, Action::RemoveLine, &rule)));
                self.upstream.skip(count);
            }
            Edit::Replace { text, rule } => {
                self.observer.on(&Event::Decision(stash::edited(n, &text, &rule)));
                self.upstream.skip(count);
                self.upstream.insert(text);
            }
        }
    }

    // ── bodies ──

    fn body(&mut self) -> bool {
        let Some(receiving) = self.tracker.receiving() else { return false };
        let line = memchr::memchr(b'\n', self.upstream.unlabelled()).map(|at| at + 1);
        let own = receiving.own;
        if line.is_none() && receiving.edit {
            let closes = self.filter.caps().is_some() || own;
            if closes && !self.upstream.is_ended() {
                return self.is_line_too_long();
            }
            receiving.edit = !(self.upstream.is_full() || self.upstream.is_ended());
        }
        if !receiving.edit {
            return self.piece_of_body();
        }
        let Some(count) = line else { return false };
        if own || !self.add_last_line(count) {
            self.line_of_body(count);
        }
        true
    }

    fn piece_of_body(&mut self) -> bool {
        let Some((count, _)) = self.step(self.upstream.unlabelled().len().min(PIECE)) else { return false };
        self.upstream.release(count);
        true
    }

    /// A line of a body that the filter wants.
    fn line_of_body(&mut self, count: usize) {
        let Some(receiving) = self.tracker.receiving() else { return };
        let (n, keyword, own) = (receiving.n, receiving.keyword, receiving.own);
        let (mut done, mut ended) = (0, false);
        while done < count {
            let Some((consumed, end)) = self.step_from(done, count) else { break };
            done += consumed;
            ended |= end;
        }
        if own {
            return self.own_line(count, ended);
        }
        let edit = if ended {
            Edit::Keep
        } else {
            self.filter.response_line(self.replying(n, Some(keyword)), &self.upstream.unlabelled()[..count])
        };
        self.apply(edit, Some(n), count);
    }

    /// Asks the filter, before the terminator passes, what else there is to say. Returns whether there was something.
    fn add_last_line(&mut self, line: usize) -> bool {
        let unlabelled = &self.upstream.unlabelled()[..line];
        let Some(receiving) =
            self.tracker.receiving().filter(|receiving| !receiving.added && receiving.body.ends_with(unlabelled))
        else {
            return false;
        };
        let (n, keyword) = (receiving.n, receiving.keyword);
        let Some(Addition { text, rule }) = self.filter.last_line(self.replying(n, Some(keyword))) else {
            if let Some(receiving) = self.tracker.receiving() {
                receiving.added = true;
            }
            return false;
        };
        self.observer.on(&Event::Decision(Decision::of(Some(n), Action::AddLine, &rule)));
        self.upstream.insert(text);
        true
    }

    fn replying(&self, n: Ordinal, keyword: Option<Keyword>) -> Replying {
        Replying { n, keyword, stage: self.tracker.stage() }
    }

    fn step(&mut self, count: usize) -> Option<(usize, bool)> {
        self.step_from(0, count)
    }

    /// One step of the scanner over the unlabelled octets `from..to`: how many it consumed, and whether the body is over.
    fn step_from(&mut self, from: usize, to: usize) -> Option<(usize, bool)> {
        let receiving = self.tracker.receiving()?;
        let (n, keyword) = (receiving.n, receiving.keyword);
        let step = receiving.body.step(&self.upstream.unlabelled()[from..to]);
        let octets = receiving.body.octets();
        if step.lf_dot {
            let offset = (self.upstream.labelled() + from as u64).saturating_sub(1);
            self.observer.on(&Event::LfDot { n, offset });
        }
        if !step.content.is_empty() {
            self.observer.on(&Event::Content { n, keyword, octets: step.content });
            if keyword == Keyword::List {
                self.filter.listed(n, step.content);
            }
        }
        if step.end {
            self.tracker.body_ended();
            self.observer.on(&Event::ReplyEnd { n, keyword, octets, complete: true });
        }
        Some((step.consumed, step.end))
    }

    fn truncated_body(&mut self) -> bool {
        let Some(receiving) = self.tracker.receiving() else { return false };
        let (n, keyword, octets) = (receiving.n, receiving.keyword, receiving.body.octets());
        self.tracker.body_ended();
        self.broken_off = true;
        self.observer.on(&Event::ReplyEnd { n, keyword, octets, complete: false });
        true
    }
}

/// Octets of a body that are looked at in one step: what has just been searched for dots is still near the processor when an
/// observer counts and digests it.
const PIECE: usize = 16 * 1024;

/// A longer line of a reply that has to be looked at whole closes the session.
const LONGEST_EDITED: usize = super::SMALL;

/// Tells tracker, observer and filter of a complete line at which a status line is expected.
fn label(tracker: &mut Tracker, observer: &mut impl Observer, filter: &mut impl Filter, line: Line<'_>) -> (Labelled, After) {
    let labelled = tracker.status_line(line.text, line.end);
    let mut after = After::GoOn;
    match labelled {
        Labelled::Greeting(status) => observer.on(&Event::Greeting { status, line }),
        Labelled::Challenge(auth) => observer.on(&Event::SaslChallenge { auth, line }),
        Labelled::Unsolicited(status) => observer.on(&Event::Unsolicited { status, line }),
        Labelled::Reply { n, keyword, status, shape } => {
            let stage = tracker.stage();
            observer.on(&Event::Reply { n, keyword, status, shape, line, stage });
            after = filter.replied(Replied { n, keyword, status, stage, line: line.text });
            noted(observer, filter, Some(n));
        }
        Labelled::Lost(_) => {}
    }
    (labelled, after)
}

fn reason(loss: Loss) -> OpaqueReason {
    match loss {
        Loss::UnexpectedLine => OpaqueReason::UnexpectedLine,
        Loss::TooManyReplies => OpaqueReason::TooManyReplies,
        Loss::AmbiguousCommand => OpaqueReason::AmbiguousCommand,
    }
}
