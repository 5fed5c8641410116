//! The tap: two flows, a tracker and a filter. Octets go in, octets come out, and events tell what they were.
//!
//! It is pure: no socket, no clock, no file, no log. Whoever owns the sockets reads into [`Tap::space`], says so with
//! [`Tap::filled`], calls [`Tap::advance`], and writes what [`Tap::output`] gives to the other peer.

mod client;
mod closed;
mod cut;
mod filter;
mod flow;
mod login;
mod observe;
mod pool;
mod stash;
mod upstream;

pub use closed::{LINE_TOO_LONG, LONGEST_JUDGED, MALFORMED_LINE, is_malformed};
pub use filter::{
    Addition, After, Asked, Caps, Context, Edit, Filter, Hold, Note, Question, Replied, Replying, Rule, SaslVerdict, Told,
    Untouched, Verdict,
};
pub use flow::Flow;
pub use login::{Script, Secret};
pub use observe::{Action, Decision, Event, Line, Observer, OpaqueReason, Ordinal, REMEMBERED, Violation, ViolationKind};
pub use pool::{LARGE, Pool, SMALL};

use std::sync::Arc;

use crate::pop3::{Body, ClientExpects, Peer, ServerExpects, Stage, Tracker};
use client::Fate;
use cut::Cut;
use login::Login;
use stash::Stash;

/// Bounds on a session as a whole. The session is closed where one is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Lines of the client's, SASL responses included.
    pub commands: u64,
    /// Octets received from both sides.
    pub octets: u64,
}

impl Default for SessionLimits {
    /// None.
    fn default() -> Self {
        Self { commands: u64::MAX, octets: u64::MAX }
    }
}

/// Records what else the filter decided about command `n`.
#[inline]
fn noted(observer: &mut impl Observer, filter: &mut impl Filter, n: Option<Ordinal>) {
    while let Some(note) = filter.note() {
        let (enforced, tag) = (note.enforced, note.tag.as_deref());
        let decision = Decision { enforced, tag, ..Decision::of(n, note.action, &note.rule) };
        observer.on(&Event::Decision(decision));
    }
}

/// One session's two directions, and all that is known of them.
pub struct Tap<O, F> {
    client: Flow,
    upstream: Flow,
    tracker: Tracker,
    observer: O,
    filter: F,
    /// The client's line that is on its way, and what becomes of it.
    client_cut: Cut,
    fate: Fate,
    /// The scanner of the client's message behind XTND XMIT, and the last octet of it that has passed.
    client_body: Option<(Body, u8)>,
    /// The server's line that is on its way.
    upstream_cut: Cut,
    /// A status line of the server's that was taken in and has not gone out.
    stash: Option<Stash>,
    /// What is to be asked of the server next, on the proxy's own account.
    question: Option<Question>,
    /// A login that is held until its server is reached, or is under way there.
    login: Option<Box<Login>>,
    /// The rule for which the client was dismissed.
    dismissal: Option<Rule>,
    limits: SessionLimits,
    /// Whether the server ended its stream in the middle of a line or a body.
    broken_off: bool,
    violation: Option<Violation>,
    pool: Arc<Pool>,
}

impl<O: Observer, F: Filter> Tap<O, F> {
    /// A session that awaits its greeting. At most `outstanding` commands may await their replies; more stay unread.
    pub fn new(observer: O, filter: F, outstanding: usize, pool: Arc<Pool>) -> Self {
        Self {
            client: Flow::new(),
            upstream: Flow::new(),
            tracker: Tracker::new(outstanding),
            observer,
            filter,
            client_cut: Cut::default(),
            fate: Fate::Open,
            client_body: None,
            upstream_cut: Cut::default(),
            stash: None,
            question: None,
            login: None,
            dismissal: None,
            limits: SessionLimits::default(),
            broken_off: false,
            violation: None,
            pool,
        }
    }

    /// The same, with bounds on the session as a whole.
    #[must_use]
    pub fn within(self, limits: SessionLimits) -> Self {
        Self { limits, ..self }
    }

    // ── in ──

    /// Whether octets from `peer` are wanted. When not, it is to be left unread: that is all the back-pressure there is.
    #[must_use]
    pub fn wants_read(&self, peer: Peer) -> bool {
        let held = peer == Peer::Client && self.tracker.holds_client();
        self.violation.is_none() && !held && self.flow(peer).wants_read()
    }

    /// Room for octets from `peer`; not empty when they are wanted.
    pub fn space(&mut self, peer: Peer) -> &mut [u8] {
        match peer {
            Peer::Client => self.client.space(&self.pool),
            Peer::Upstream => self.upstream.space(&self.pool),
        }
    }

    /// `count` octets from `peer` were put into [`Tap::space`].
    pub fn filled(&mut self, peer: Peer, count: usize) {
        self.flow_mut(peer).filled(count);
        if self.client.received() + self.upstream.received() > self.limits.octets {
            self.violate(Violation { fault: peer, kind: ViolationKind::TooManyOctets });
        }
    }

    /// `peer` will send nothing more.
    pub fn finish(&mut self, peer: Peer) {
        self.flow_mut(peer).finish();
    }

    /// Puts octets in front of what the server will send: a greeting that was read before TLS. At most [`SMALL`] octets.
    pub fn preload(&mut self, greeting: &[u8]) {
        self.upstream.preload(greeting, &self.pool);
    }

    /// Puts octets in front of what the client will send: those that were read to see what it speaks. At most [`SMALL`] octets.
    pub fn preload_client(&mut self, beginning: &[u8]) {
        self.client.preload(beginning, &self.pool);
    }

    /// The peers speak TLS with each other from the first octet on: the session is only carried.
    pub fn pass_tls(&mut self) {
        self.go_opaque(OpaqueReason::TlsPassed);
    }

    /// Labels and releases what can be. Returns whether anything was.
    pub fn advance(&mut self) -> bool {
        let mut moved = false;
        loop {
            let client = self.may_label() && self.label_client();
            let upstream = self.may_label() && self.label_upstream();
            if !(client || upstream) {
                return moved;
            }
            moved = true;
        }
    }

    fn may_label(&self) -> bool {
        self.violation.is_none() && self.observer.ready()
    }

    // ── out ──

    /// What to write to `from`'s other peer.
    #[must_use]
    pub fn output(&self, from: Peer) -> &[u8] {
        self.flow(from).output()
    }

    /// `count` octets of [`Tap::output`] were written.
    pub fn wrote(&mut self, from: Peer, count: usize) {
        self.flow_mut(from).wrote(count);
    }

    /// Whether `from` has ended its stream and all of it was dealt with, so that the end can be passed on.
    #[must_use]
    pub fn is_finished(&self, from: Peer) -> bool {
        let flow = self.flow(from);
        flow.is_ended() && flow.unlabelled().is_empty() && flow.is_drained() && self.is_settled(from)
    }

    /// Gives buffers without octets back to the pool.
    pub fn rest(&mut self) {
        self.client.rest();
        self.upstream.rest();
    }

    // ── state ──

    /// Whether the client has got the last that it gets.
    #[must_use]
    pub fn is_dismissed(&self) -> bool {
        self.tracker.is_dismissed() && self.upstream.is_drained()
    }

    /// The rule for which the client was dismissed, or is being.
    #[must_use]
    pub fn dismissal(&self) -> Option<&Rule> {
        self.dismissal.as_ref()
    }

    /// What a peer did that is not safe to pass on; nothing is labelled any more.
    #[must_use]
    pub fn violation(&self) -> Option<Violation> {
        self.violation
    }

    /// The stage, as far as the replies so far have told.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.tracker.stage()
    }

    /// Whether the greeting has come.
    #[must_use]
    pub fn is_greeted(&self) -> bool {
        self.tracker.is_greeted()
    }

    /// Whether the session is only carried.
    #[must_use]
    pub fn is_opaque(&self) -> bool {
        self.tracker.is_opaque()
    }

    /// Whether QUIT was answered.
    #[must_use]
    pub fn has_quit(&self) -> bool {
        self.tracker.has_quit()
    }

    /// Whether the client is not read because too many of its commands await their replies.
    #[must_use]
    pub fn is_at_cap(&self) -> bool {
        self.tracker.is_at_cap()
    }

    /// Whether a command awaits its reply, or the rest of it.
    #[must_use]
    pub fn awaits_server(&self) -> bool {
        self.tracker.awaits_server()
    }

    /// Whether the client was told to start TLS, and has to be told all of it: then its handshake is due.
    #[must_use]
    pub fn is_handing_over(&self) -> bool {
        self.tracker.is_handing_over() && self.upstream.is_drained()
    }

    /// TLS stands on the client's hop: all that was known is forgotten, and `filter` decides from here on. What the server
    /// has sent meanwhile goes to the client inside TLS.
    pub fn secured(&mut self, filter: F) {
        self.filter = filter;
        self.login = None;
        self.tracker.secured(true);
        self.client_cut.clear();
        self.fate = Fate::Open;
    }

    /// Like [`Tap::secured`], where the server's side is a new connection that is still to greet. What the old one has sent
    /// and was not passed on is dropped.
    pub fn secured_anew(&mut self, filter: F) {
        self.secured(filter);
        self.tracker.secured(false);
        self.upstream_cut.clear();
        self.upstream.begin_anew();
    }

    /// Whether the client has got the beginning of a line or a body, and the rest is still to come.
    #[must_use]
    pub fn is_within_reply(&self) -> bool {
        let within_line = !self.upstream.is_drained() || !self.upstream_cut.is_empty();
        self.broken_off || within_line || self.tracker.server_expects() == ServerExpects::Body
    }

    /// Whether the server ended its stream in the middle of a line or a body: however it did, that was no end of the reply.
    #[must_use]
    pub fn has_broken_off(&self) -> bool {
        self.broken_off
    }

    /// Octets received from `peer`, and those of them that should have reached the other one and did not.
    #[must_use]
    pub fn totals(&self, peer: Peer) -> (u64, u64) {
        (self.flow(peer).received(), self.flow(peer).undelivered())
    }

    /// The filter.
    #[must_use]
    pub fn filter(&mut self) -> &mut F {
        &mut self.filter
    }

    /// The observer.
    pub fn observer(&mut self) -> &mut O {
        &mut self.observer
    }

    /// The observer, when the session is over.
    pub fn into_observer(self) -> O {
        self.observer
    }

    /// The server stayed silent with the cap on outstanding commands reached: from here on the session is only carried.
    pub fn give_up_on_replies(&mut self) {
        self.go_opaque(OpaqueReason::RepliesMissing);
    }

    // ── shared by both directions ──

    fn flow(&self, peer: Peer) -> &Flow {
        match peer {
            Peer::Client => &self.client,
            Peer::Upstream => &self.upstream,
        }
    }

    fn flow_mut(&mut self, peer: Peer) -> &mut Flow {
        match peer {
            Peer::Client => &mut self.client,
            Peer::Upstream => &mut self.upstream,
        }
    }

    fn is_settled(&self, from: Peer) -> bool {
        match from {
            _ if self.login_is_unsettled() => false,
            Peer::Client => self.client_cut.is_empty(),
            Peer::Upstream => {
                let body = self.tracker.server_expects() == ServerExpects::Body;
                self.upstream_cut.is_empty() && !body && !self.tracker.has_local_next() && self.stash.is_none()
            }
        }
    }

    fn violate(&mut self, violation: Violation) {
        self.observer.on(&Event::Violation(violation));
        self.violation = Some(violation);
    }

    fn go_opaque(&mut self, reason: OpaqueReason) {
        // An STLS that was agreed to would lose its reply, and what follows it would be carried on.
        let bears = self.filter.bears_opaque();
        if self.tracker.agrees_to_stls() || bears.is_err() {
            let kind = bears.err().unwrap_or(ViolationKind::UnreadableBeforeTls);
            return self.violate(Violation { fault: Peer::Upstream, kind });
        }
        if let Some(body) = self.tracker.receiving() {
            let (n, keyword, octets) = (body.n, body.keyword, body.body.octets());
            self.observer.on(&Event::ReplyEnd { n, keyword, octets, complete: false });
        }
        let dropped_replies = self.tracker.go_opaque();
        self.observer.on(&Event::Opaque { reason, dropped_replies });
        for (from, cut) in [(Peer::Client, &mut self.client_cut), (Peer::Upstream, &mut self.upstream_cut)] {
            if !cut.is_empty() {
                self.observer.on(&Event::OpaqueOctets { from, octets: cut.octets() });
            }
            cut.clear();
        }
        if !matches!(self.fate, Fate::Answered { .. }) {
            self.fate = Fate::Open;
        }
    }

    /// Opaque octets go on as they are.
    fn carry(&mut self, from: Peer) -> bool {
        let flow = self.flow_mut(from);
        let count = flow.unlabelled().len();
        if !flow.may_release() || count == 0 {
            return false;
        }
        flow.release(count);
        self.observer.on(&Event::OpaqueOctets { from, octets: count as u64 });
        true
    }

    /// An octet 0 where a line begins: a security layer's length field.
    fn security_layer_begins(&mut self, from: Peer) -> bool {
        let begins = self.tracker.layer_possible() && self.flow(from).unlabelled().first() == Some(&0);
        if begins {
            self.go_opaque(OpaqueReason::SecurityLayer);
        }
        begins
    }

    fn unfinished(&mut self, from: Peer) -> bool {
        let cut = if from == Peer::Client { &mut self.client_cut } else { &mut self.upstream_cut };
        if cut.is_empty() {
            return false;
        }
        self.observer.on(&Event::Unfinished { from, line: cut.line() });
        cut.clear();
        self.broken_off |= from == Peer::Upstream;
        true
    }

    fn client_awaits_handshake(&self) -> bool {
        self.tracker.client_expects() == ClientExpects::Handshake
    }

    fn client_sends_data(&self) -> bool {
        matches!(self.tracker.client_expects(), ClientExpects::Data(_))
    }
}
