//! One session's recorder: the events of the tap become redacted records.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use super::{
    awaited::Awaited,
    content,
    decided::Decided,
    encode,
    gap::Missing,
    oddities::{Answer, Found, Oddities},
    outbox::Outbox,
    redact::{Redactor, Shown},
    schema::{self, Body},
    store::Shared,
    summary::Tally,
};
use crate::{
    anomaly::Anomaly,
    config::{Anomalies, ContentPolicy},
    pop3::{Keyword, LineEnd, Peer, Shape, Stage, Status},
    tap::{self, Event, Line, Observer, Ordinal, Violation},
    telemetry,
};

/// The transcript's buffer is full, and `on_full` is `close`: end the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the transcript's buffer is full; hint: `on_full = \"wait\"` lets sessions wait instead")]
pub struct Full;

/// Records one session. It never blocks; [`Recorder::poll_ready`] says when to wait for the writer.
///
/// A recorder that is dropped without [`Recorder::close`] still writes that the session ended (reason `abandoned`).
pub struct Recorder {
    outbox: Outbox,
    redactor: Redactor,
    tally: Tally,
    /// This session's share of the counts, where they are kept. Boxed, since it is large.
    counted: Option<Box<telemetry::Tally>>,
    awaited: Awaited,
    oddities: Oddities,
    /// Boxed, since it is large and rarely there.
    body: Option<Box<content::Body>>,
    client_data: Option<(Ordinal, u64)>,
    decided: Decided,
    stage: Stage,
    /// Octets of each peer's that events were about: what an abandoned session can say of its totals.
    seen: [u64; 2],
    ended: bool,
}

impl Recorder {
    pub(super) fn new(shared: Arc<Shared>, id: String, mut opened: schema::Opened) -> Self {
        opened.credentials_revealed = shared.reveals();
        let redactor = Redactor::new(shared.user_key.clone(), shared.reveals());
        let tally = Tally::new(&opened, shared.clock.now().stamp());
        let counted = shared.counts.clone().map(|counts| Box::new(telemetry::Tally::begin(counts)));
        let mut outbox = Outbox::new(shared, id);
        outbox.insist(&Body::Opened(opened));
        outbox.hand_over();
        Self {
            outbox,
            redactor,
            tally,
            counted,
            awaited: Awaited::default(),
            oddities: Oddities::new(),
            body: None,
            client_data: None,
            decided: Decided::default(),
            stage: Stage::Authorization,
            seen: [0; 2],
            ended: false,
        }
    }

    /// The session's id: 12 random digits and letters.
    #[must_use]
    pub fn id(&self) -> &str {
        self.outbox.id()
    }

    /// Reads the clock. Called once in each turn of the relay's loop; every event in between has this time.
    pub fn turn(&mut self) {
        self.outbox.turn();
    }

    /// Gives the writer what was recorded. Called whenever the session rests, so that no record waits for the next event.
    pub fn rest(&mut self) {
        self.outbox.hand_over();
        if let Some(counted) = &mut self.counted {
            counted.rest(self.seen, self.tally.login_failures());
        }
    }

    /// Ready when one event more may be recorded, or when recording was given up until there is room again (a gap).
    ///
    /// With `on_full = "wait"` the task is woken when there is room, or when `wait_limit` is over.
    ///
    /// # Errors
    ///
    /// [`Full`] when there is no room and `on_full` is `close`.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Full>> {
        self.outbox.poll_ready(cx)
    }

    /// An upstream was tried in vain.
    pub fn unreached(&mut self, unreached: schema::Unreached) {
        self.turn();
        self.outbox.emit(&Body::Unreached(unreached));
        self.rest();
    }

    /// Another upstream serves the session than the one that it was opened for.
    pub fn reached(&mut self, reached: schema::Reached) {
        self.turn();
        self.tally.reached(&reached.upstream);
        self.outbox.insist(&Body::Reached(reached));
        self.rest();
    }

    /// Whether the server has said `+OK` in its greeting.
    #[must_use]
    pub fn is_greeted(&self) -> bool {
        self.tally.is_greeted()
    }

    /// TLS stands on one of the hops.
    pub fn tls(&mut self, tls: schema::Tls) {
        self.tally.tls(&tls);
        self.outbox.emit(&Body::Tls(tls));
        self.rest();
    }

    /// What is watched for: from here on, `wanted.strict` makes [`Recorder::objection`], and replies are slow when it says so.
    pub fn watch(&mut self, wanted: &Anomalies) {
        self.oddities.watch(wanted);
    }

    /// The anomaly for which the session is to be closed. Once there is one, nothing more may be labelled.
    #[must_use]
    pub fn objection(&self) -> Option<Anomaly> {
        self.oddities.objection()
    }

    /// Something odd that the tap does not know of.
    pub fn anomaly(&mut self, anomaly: Anomaly, fault: Peer, offset: u64) {
        self.oddities.found(&mut self.outbox, Found::new(anomaly).by(fault).at(offset));
        self.rest();
    }

    /// The session is over: writes `closed` and the summary, and returns the latter with its verdict in words.
    #[must_use]
    pub fn close(mut self, closed: schema::Closed) -> schema::Summary {
        self.end(closed)
    }

    fn end(&mut self, closed: schema::Closed) -> schema::Summary {
        self.ended = true;
        self.turn();
        self.decided_again();
        self.oddities.closed(&mut self.outbox, &self.awaited, &closed);
        if let Some((n, octets)) = self.client_data.take() {
            self.outbox.emit(&Body::ClientData(schema::ClientData { n, octets, complete: false }));
        }
        self.outbox.end_gap();
        self.tally.lost(self.outbox.lost());
        let mut summary = self.tally.finish(&closed, self.outbox.at_us());
        summary.anomalies = self.oddities.totals();
        if let Some(counted) = &mut self.counted {
            counted.end(&summary);
        }
        self.outbox.insist(&Body::Closed(closed));
        self.outbox.send_summary(summary.clone());
        if let Some(anomaly) = self.oddities.first() {
            self.outbox.shared().notice(self.outbox.id(), anomaly);
        }
        summary
    }

    /// A line has passed, up to this place in its peer's stream.
    fn passed(&mut self, peer: Peer, line: &Line<'_>) {
        self.seen[peer as usize] = line.offset + line.octets;
    }

    fn since_asked(&mut self, n: Ordinal) -> u64 {
        let now = self.outbox.at_us();
        self.awaited.answered(n).map_or(0, |asked| now.saturating_sub(asked.at_us))
    }

    /// Tells the tally of the reply to a command of the client's.
    fn answered(&mut self, n: Ordinal, keyword: Keyword, status: Option<Status>, latency_us: u64) {
        // When the session can no longer be matched, nobody knows how long a reply took.
        if self.awaited.answered(n).is_some_and(|asked| !asked.own) {
            self.tally.answered(keyword, status, latency_us);
        }
    }

    fn greeting(&mut self, status: Option<Status>, line: &Line<'_>) {
        self.passed(Peer::Upstream, line);
        self.tally.greeting(status);
        let shown = self.redactor.server_line(status, line).to_text();
        self.outbox.emit(&Body::Greeting(schema::Greeting { status: status.into(), line: shown }));
        self.oddities.status_line(&mut self.outbox, None, line);
    }

    fn command(&mut self, n: Ordinal, keyword: Keyword, line: &Line<'_>, stage: Stage, forwarded: bool) {
        self.passed(Peer::Client, line);
        self.tally.command(keyword);
        self.stage = stage;
        let Shown { line: shown, mechanism, user } = self.redactor.command(n, keyword, line, stage);
        if user.is_some() || mechanism.is_some() {
            self.tally.attempt(n, user.as_deref(), mechanism);
        }
        self.awaited.ask(n, keyword, self.outbox.at_us(), line.text);
        if !forwarded {
            self.awaited.spare();
        }
        let user = user.as_deref();
        let (keyword, own) = (keyword.name(), false);
        self.outbox.command(encode::Command { n, keyword, line: &shown, mechanism, user, forwarded, own });
        self.oddities.command(&mut self.outbox, n, line);
    }

    /// poptap's own: it stands in no stream of the client's.
    fn own_command(&mut self, n: Ordinal, keyword: Keyword, line: &Line<'_>, stage: Stage) {
        let Shown { line: shown, .. } = self.redactor.command(n, keyword, line, stage);
        self.awaited.ask(n, keyword, self.outbox.at_us(), line.text);
        self.awaited.own();
        let (keyword, mechanism, user) = (keyword.name(), None, None);
        self.outbox.command(encode::Command { n, keyword, line: &shown, mechanism, user, forwarded: true, own: true });
        self.oddities.asked(n);
    }

    fn sasl_response(&mut self, n: Ordinal, auth: Ordinal, line: &Line<'_>) {
        self.passed(Peer::Client, line);
        let sasl = self.redactor.response(n, auth, line);
        if let Some(user) = &sasl.user {
            self.tally.attempt(auth, Some(user), self.redactor.mechanism(auth));
        }
        if sasl.cancel {
            self.tally.cancelled(auth);
        }
        self.awaited.ask(n, Keyword::Unknown, self.outbox.at_us(), b"");
        self.awaited.spare();
        self.outbox.emit(&Body::Sasl(sasl));
        self.oddities.response(&mut self.outbox, n, line);
    }

    fn sasl_challenge(&mut self, auth: Ordinal, line: &Line<'_>) {
        self.passed(Peer::Upstream, line);
        let sasl = self.redactor.challenge(auth, line);
        self.outbox.emit(&Body::Sasl(sasl));
        self.oddities.heard(&self.outbox);
    }

    /// A line behind an AUTH was a command of its own; its text stays withheld, its reply will name the keyword.
    fn resolved(&mut self, n: Ordinal, keyword: Keyword) {
        self.tally.command(keyword);
        self.awaited.resolve(n, keyword);
    }

    fn reply(&mut self, n: Ordinal, keyword: Keyword, status: Option<Status>, shape: Shape, line: &Line<'_>, stage: Stage) {
        self.passed(Peer::Upstream, line);
        let latency_us = self.since_asked(n);
        self.answered(n, keyword, status, latency_us);
        let shown = self.redactor.server_line(status, line);
        let multi_line = shape == Shape::MultiLine;
        if multi_line {
            self.body = Some(Box::new(content::Body::new(n, keyword, self.outbox.shared().wanted())));
            self.message_begins(n, keyword);
        }
        self.tally.reply(n, keyword, status, stage);
        self.count(keyword, status, Some(latency_us));
        self.settled(n, stage);
        let (name, word) = (keyword.name(), status.into());
        self.outbox.reply(encode::Reply { n, keyword: name, status: word, line: &shown, latency_us, multi_line, local: false });
        let asked = (keyword == Keyword::Retr).then(|| self.awaited.answered(n)).flatten();
        let message = asked.and_then(|asked| asked.at_server);
        let answer = Answer { n, keyword, status, shape, line, stage, latency_us, message };
        self.oddities.reply(&mut self.outbox, answer);
    }

    fn count(&mut self, keyword: Keyword, status: Option<Status>, latency_us: Option<u64>) {
        if let Some(counted) = &mut self.counted {
            counted.reply(keyword, status, latency_us);
        }
    }

    fn message_begins(&mut self, n: Ordinal, keyword: Keyword) {
        if matches!(keyword, Keyword::Retr | Keyword::Top) {
            let message = self.awaited.answered(n).and_then(|asked| asked.message);
            self.tally.message_begins(message);
        }
    }

    fn settled(&mut self, n: Ordinal, stage: Stage) {
        self.stage = stage;
        self.redactor.answered(n, stage);
    }

    fn local_reply(&mut self, n: Ordinal, text: &[u8]) {
        let latency_us = self.since_asked(n);
        let keyword = self.awaited.answered(n).map_or(Keyword::Unknown, |asked| asked.keyword);
        let end = memchr::memchr(b'\n', text).map_or(text.len(), |at| at + 1);
        let first = text[..end].trim_ascii_end();
        let line = Line { text: first, octets: text.len() as u64, offset: 0, end: LineEnd::CrLf };
        let status = Status::of(first);
        self.answered(n, keyword, status, latency_us);
        let mut shown = self.redactor.server_line(status, &line);
        shown.cut = end < text.len();
        self.tally.reply(n, keyword, status, self.stage);
        self.count(keyword, status, None);
        self.settled(n, self.stage);
        self.oddities.answered_by_us(n);
        let (keyword, status, line) = (keyword.name(), status.into(), &shown);
        self.outbox.reply(encode::Reply { n, keyword, status, line, latency_us, multi_line: false, local: true });
    }

    /// Keeps what is to be kept of a piece, or counts it as missing, and then everything behind it.
    fn content(&mut self, octets: &[u8]) {
        self.oddities.content(&mut self.outbox, octets);
        let Some(body) = &mut self.body else { return };
        let keep = body.take(octets);
        if keep > 0 && self.outbox.shared().keeps_content() && (body.lost() > 0 || !self.outbox.keep(body.n(), &octets[..keep])) {
            body.lose(keep);
        }
    }

    /// Says how much of a body could not be kept.
    fn content_missing(&mut self, octets: u64) {
        if octets > 0 {
            self.outbox.shared().count_lost(0, octets);
            self.outbox.emit(&Body::Gap(Missing::of_content(octets).into_gap("full")));
        }
    }

    fn reply_end(&mut self, n: Ordinal, octets: u64, complete: bool) {
        self.seen[Peer::Upstream as usize] += octets;
        let total_us = self.since_asked(n);
        self.decided_again();
        let Some(body) = self.body.take() else { return };
        self.content_missing(body.lost());
        let keyword = body.keyword();
        let mut content = body.finish(octets, complete, total_us, |line| self.redactor.hides(line));
        let keeps_content = self.outbox.shared().keeps_content();
        if content.policy.is_some() {
            self.tally.message_ends(keyword, content.size, complete);
            content.policy = content.policy.filter(|_| keeps_content).or(Some(content::describe(ContentPolicy::None)));
        }
        if keeps_content {
            // Where the content stands, only the writer knows.
            self.outbox.emit_unfinished(Body::Content(content));
        } else {
            self.outbox.emit(&Body::Content(content));
        }
        self.oddities.reply_end(&mut self.outbox, complete);
    }

    fn client_data(&mut self, n: Ordinal, octets: u64, last: bool) {
        self.seen[Peer::Client as usize] += octets;
        self.oddities.heard(&self.outbox);
        let total = self.client_data.take().map_or(0, |(_, total)| total) + octets;
        if last {
            self.outbox.emit(&Body::ClientData(schema::ClientData { n, octets: total, complete: true }));
        } else {
            self.client_data = Some((n, total));
        }
    }

    fn unsolicited(&mut self, status: Option<Status>, line: &Line<'_>) {
        self.passed(Peer::Upstream, line);
        let shown = self.redactor.server_line(status, line).to_text();
        self.outbox.emit(&Body::Unsolicited(schema::Unsolicited { status: status.into(), line: shown }));
        self.oddities.unsolicited(&mut self.outbox, status, line);
    }

    fn decision(&mut self, decision: &tap::Decision<'_>) {
        if let (tap::Action::Rewrite, Some(n), Some(line)) = (decision.action, decision.n, decision.line) {
            self.awaited.rewritten(n, line);
        }
        let line = decision.line.and_then(|line| self.redactor.replaced(line));
        self.tally.decision(decision);
        for decision in self.decided.take(decision, line) {
            self.outbox.emit(&Body::Decision(decision));
        }
    }

    fn decided_again(&mut self) {
        if let Some(decision) = self.decided.finish() {
            self.outbox.emit(&Body::Decision(decision));
        }
    }

    fn opaque(&mut self, reason: crate::tap::OpaqueReason, dropped_replies: usize) {
        self.tally.opaque(reason);
        self.decided_again();
        self.awaited.clear();
        let body = self.body.take();
        self.content_missing(body.map_or(0, |body| body.lost()));
        self.oddities.opaque(&mut self.outbox, reason, self.seen);
        let (name, explanation) = reason.describe();
        let dropped_replies = dropped_replies as u64;
        self.outbox.emit(&Body::Opaque(schema::Opaque {
            reason: name.to_owned(),
            explanation: explanation.to_owned(),
            dropped_replies,
        }));
    }

    /// Of a line that never ended, nobody knows what it would have become: its text is withheld.
    fn unfinished(&mut self, from: Peer, line: &Line<'_>) {
        self.passed(from, line);
        if from == Peer::Client {
            self.redactor.unfinished(line);
        }
        let explanation = format!("a line of {} octets was begun and never ended", line.octets);
        let found = Found::new(Anomaly::UnfinishedLine).by(from).at(line.offset).saying(explanation);
        self.oddities.found(&mut self.outbox, found);
    }

    fn violation(&mut self, violation: Violation) {
        self.tally.violation(violation);
        self.oddities.violation(&mut self.outbox, violation, self.seen);
    }
}

impl Observer for Recorder {
    fn ready(&self) -> bool {
        self.outbox.is_ready() && self.oddities.objection().is_none()
    }

    fn on(&mut self, event: &Event<'_>) {
        self.tally.at(self.outbox.at_us());
        match *event {
            Event::Greeting { status, line } => self.greeting(status, &line),
            Event::Command { n, keyword, line, stage, own: true, .. } => self.own_command(n, keyword, &line, stage),
            Event::Command { n, keyword, line, stage, forwarded, .. } => self.command(n, keyword, &line, stage, forwarded),
            Event::SaslResponse { n, auth, line } => self.sasl_response(n, auth, &line),
            Event::SaslChallenge { auth, line } => self.sasl_challenge(auth, &line),
            Event::Resolved { n, keyword } => self.resolved(n, keyword),
            Event::Reply { n, keyword, status, shape, line, stage } => self.reply(n, keyword, status, shape, &line, stage),
            Event::Content { octets, .. } => self.content(octets),
            Event::LfDot { n, offset } => self.oddities.lf_dot(&mut self.outbox, n, offset),
            Event::ReplyEnd { n, octets, complete, .. } => self.reply_end(n, octets, complete),
            Event::ClientData { n, octets, last } => self.client_data(n, octets, last),
            Event::Unsolicited { status, line } => self.unsolicited(status, &line),
            Event::Decision(decision) => self.decision(&decision),
            Event::LocalReply { n, text } => self.local_reply(n, text),
            Event::Opaque { reason, dropped_replies } => self.opaque(reason, dropped_replies),
            Event::OpaqueOctets { from, octets } => self.seen[from as usize] += octets,
            Event::Unfinished { from, line } => self.unfinished(from, &line),
            Event::Violation(violation) => self.violation(violation),
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if !self.ended {
            let [client_octets, upstream_octets] = self.seen;
            let (by, reason) = ("poptap".to_owned(), "abandoned".to_owned());
            let _ = self.end(schema::Closed { by, reason, client_octets, upstream_octets, ..schema::Closed::default() });
        }
    }
}
