//! What is odd about a session, found while its events pass.
//!
//! It changes nothing on the wire. Of the octets it keeps the few last of a body, and of a mailbox a number or two for each message.

mod mailbox;
mod passing;

use std::{borrow::Cow, collections::BTreeMap};

use memchr::memchr;

use super::{
    awaited::Awaited,
    outbox::Outbox,
    schema::{self, Body, Closed},
};
use crate::{
    anomaly::{Anomaly, Chosen, LONGEST_COMMAND, LONGEST_REPLY},
    config::Anomalies,
    pop3::{Keyword, LineEnd, Peer, Shape, Stage, Status},
    tap::{Line, OpaqueReason, Ordinal, Violation},
};
use mailbox::{Mailbox, Odd};
use passing::{Flaw, Passing};

/// Of one kind, so many are recorded in a session; further ones are only counted.
pub(super) const EACH: u32 = 16;

/// Follows one session.
pub(super) struct Oddities {
    strict: Chosen,
    /// A reply is slow after so many microseconds.
    slow_us: u64,
    first: Option<Anomaly>,
    objection: Option<Anomaly>,
    /// There once something was found.
    counts: Option<Box<[u32; Anomaly::ALL.len()]>>,
    /// When the server last said something, or an exchange within a command went on.
    heard_us: u64,
    asked: Ordinal,
    answered: Ordinal,
    /// The newest command when the last reply came: those up to it were sent without waiting.
    asked_by_then: Ordinal,
    mailbox: Mailbox,
    passing: Option<Passing>,
    /// A body that ended before its terminator.
    cut: Option<Passing>,
}

/// One that was found.
pub(super) struct Found {
    anomaly: Anomaly,
    n: Option<Ordinal>,
    fault: Option<Peer>,
    offset: Option<u64>,
    explanation: Cow<'static, str>,
}

impl Found {
    pub(super) fn new(anomaly: Anomaly) -> Self {
        let fault = anomaly.usual_fault();
        Self { anomaly, n: None, fault, offset: None, explanation: Cow::Borrowed(anomaly.sentence()) }
    }

    pub(super) fn by(self, peer: Peer) -> Self {
        Self { fault: Some(peer), ..self }
    }

    pub(super) fn at(self, offset: u64) -> Self {
        Self { offset: Some(offset), ..self }
    }

    fn about(self, n: Option<Ordinal>) -> Self {
        Self { n, ..self }
    }

    pub(super) fn saying(self, explanation: String) -> Self {
        Self { explanation: Cow::Owned(explanation), ..self }
    }
}

/// A status line, as it is looked at.
#[derive(Clone, Copy)]
pub(super) struct Answer<'a> {
    pub(super) n: Ordinal,
    pub(super) keyword: Keyword,
    pub(super) status: Option<Status>,
    pub(super) shape: Shape,
    pub(super) line: &'a Line<'a>,
    pub(super) stage: Stage,
    pub(super) latency_us: u64,
    /// The number of the message that the server was asked for.
    pub(super) message: Option<u64>,
}

impl Oddities {
    pub(super) fn new() -> Self {
        let Anomalies { strict, slow_reply } = Anomalies::default();
        Self {
            strict,
            slow_us: micros(slow_reply),
            first: None,
            objection: None,
            counts: None,
            heard_us: 0,
            asked: 0,
            answered: 0,
            asked_by_then: 0,
            mailbox: Mailbox::default(),
            passing: None,
            cut: None,
        }
    }

    pub(super) fn watch(&mut self, wanted: &Anomalies) {
        (self.strict, self.slow_us) = (wanted.strict, micros(wanted.slow_reply));
    }

    /// The first that was found of those that are to end the session.
    pub(super) fn objection(&self) -> Option<Anomaly> {
        self.objection
    }

    /// The first that was found.
    pub(super) fn first(&self) -> Option<Anomaly> {
        self.first
    }

    /// How many there were of each kind.
    pub(super) fn totals(&self) -> BTreeMap<String, u64> {
        let counts = self.counts.iter().flat_map(|counts| Anomaly::ALL.into_iter().zip(counts.iter()));
        counts.filter(|(_, count)| **count > 0).map(|(anomaly, count)| (anomaly.id().to_owned(), u64::from(*count))).collect()
    }

    /// Records it, or counts it where there were many.
    #[cold]
    pub(super) fn found(&mut self, outbox: &mut Outbox, found: Found) {
        let Found { anomaly, n, fault, offset, explanation } = found;
        let counts = self.counts.get_or_insert_with(|| Box::new([0; Anomaly::ALL.len()]));
        let count = &mut counts[anomaly as usize];
        *count = count.saturating_add(1);
        if *count <= EACH {
            let (id, explanation) = (anomaly.id().to_owned(), explanation.into_owned());
            outbox.emit(&Body::Anomaly(schema::Anomaly { id, explanation, fault: fault.map(Into::into), n, offset }));
        }
        self.first.get_or_insert(anomaly);
        if self.strict.contains(anomaly) {
            self.objection.get_or_insert(anomaly);
        }
    }

    // ── the client ──

    /// A command went to the server.
    pub(super) fn asked(&mut self, n: Ordinal) {
        self.asked = n;
    }

    #[inline]
    pub(super) fn command(&mut self, outbox: &mut Outbox, n: Ordinal, line: &Line<'_>) {
        self.asked = n;
        if line.end != LineEnd::CrLf || line.octets > LONGEST_COMMAND || memchr(0, line.text).is_some() {
            self.odd_command(outbox, n, line);
        }
    }

    #[cold]
    fn odd_command(&mut self, outbox: &mut Outbox, n: Ordinal, line: &Line<'_>) {
        let of_line = |anomaly| Found::new(anomaly).by(Peer::Client).about(Some(n)).at(line.offset);
        if line.end == LineEnd::Lf {
            self.found(outbox, of_line(Anomaly::BareLf));
        }
        if line.octets > LONGEST_COMMAND {
            let octets = line.octets;
            let said = format!("it sent a command line of {octets} octets; {LONGEST_COMMAND} are the most");
            self.found(outbox, of_line(Anomaly::LongCommand).saying(said));
        }
        if line.text.contains(&0) {
            self.found(outbox, of_line(Anomaly::NulInCommand));
        }
    }

    /// A line within an exchange: it may be as long as the mechanism wants.
    pub(super) fn response(&mut self, outbox: &mut Outbox, n: Ordinal, line: &Line<'_>) {
        (self.asked, self.heard_us) = (n, outbox.at_us());
        if line.end == LineEnd::Lf {
            self.found(outbox, Found::new(Anomaly::BareLf).by(Peer::Client).about(Some(n)).at(line.offset));
        }
    }

    // ── the server ──

    /// Something of it came that is no status line.
    pub(super) fn heard(&mut self, outbox: &Outbox) {
        self.heard_us = outbox.at_us();
    }

    /// A line of the server's that is, or stands where, a status line is.
    #[inline]
    pub(super) fn status_line(&mut self, outbox: &mut Outbox, n: Option<Ordinal>, line: &Line<'_>) {
        if line.end != LineEnd::CrLf || line.octets > LONGEST_REPLY {
            self.odd_status_line(outbox, n, line);
        }
    }

    #[cold]
    fn odd_status_line(&mut self, outbox: &mut Outbox, n: Option<Ordinal>, line: &Line<'_>) {
        let of_line = |anomaly| Found::new(anomaly).by(Peer::Upstream).about(n).at(line.offset);
        if line.end == LineEnd::Lf {
            self.found(outbox, of_line(Anomaly::BareLf));
        }
        if line.octets > LONGEST_REPLY {
            let said = format!("it sent a status line of {} octets; {LONGEST_REPLY} are the most", line.octets);
            self.found(outbox, of_line(Anomaly::LongReply).saying(said));
        }
    }

    #[inline]
    pub(super) fn reply(&mut self, outbox: &mut Outbox, answer: Answer<'_>) {
        self.status_line(outbox, Some(answer.n), answer.line);
        if answer.latency_us >= self.slow_us {
            self.slow(outbox, answer);
        }
        self.heard_us = outbox.at_us();
        (self.answered, self.asked_by_then) = (answer.n, self.asked);
        match (answer.keyword, answer.status) {
            _ if answer.shape == Shape::MultiLine => self.body_begins(answer),
            (Keyword::List | Keyword::Uidl, Some(Status::Ok)) => self.one_of_a_listing(outbox, answer),
            (_, Some(Status::Err)) if self.mailbox.announces_anything() => self.refused(outbox, answer),
            _ => {}
        }
    }

    /// What was asked first is answered first: only from the last thing heard on is the server slow with this.
    #[cold]
    fn slow(&mut self, outbox: &mut Outbox, answer: Answer<'_>) {
        let silent_us = answer.latency_us.min(outbox.at_us().saturating_sub(self.heard_us));
        if silent_us >= self.slow_us {
            let (keyword, tenths) = (answer.keyword.name(), silent_us / 100_000);
            let said = format!("it let {keyword} wait {}.{} s for its reply", tenths / 10, tenths % 10);
            self.found(outbox, of_reply(Anomaly::SlowReply, answer).saying(said));
        }
    }

    fn body_begins(&mut self, answer: Answer<'_>) {
        self.mailbox.listing_begins(answer.keyword);
        self.passing = Some(Passing::new(answer));
    }

    fn one_of_a_listing(&mut self, outbox: &mut Outbox, answer: Answer<'_>) {
        // Behind `+OK`.
        let text = answer.line.text.get(3..).unwrap_or_default().trim_ascii_start();
        if let Some(odd) = self.mailbox.entry(answer.keyword, text) {
            self.changed(outbox, odd, Some(answer.n), answer.line.offset);
        }
    }

    fn refused(&mut self, outbox: &mut Outbox, answer: Answer<'_>) {
        if self.mailbox.is_refused(answer.keyword, answer.stage, answer.line.text) {
            let said = format!("it refused {}, which its CAPA had announced", answer.keyword.name());
            self.found(outbox, of_reply(Anomaly::CapabilityRefused, answer).saying(said));
        }
    }

    #[cold]
    fn changed(&mut self, outbox: &mut Outbox, odd: Odd, n: Option<Ordinal>, offset: u64) {
        let found = match odd {
            Odd::Changed(number) => {
                let said = format!("it changed the unique-id of message {number} within the session");
                Found::new(Anomaly::ChangedUidl).saying(said)
            }
            Odd::Same(one, other) => {
                let said = format!("it gave the messages {one} and {other} the same unique-id");
                Found::new(Anomaly::DuplicateUidl).saying(said)
            }
        };
        self.found(outbox, found.about(n).at(offset));
    }

    /// A reply of poptap's own: the server owes none.
    pub(super) fn answered_by_us(&mut self, n: Ordinal) {
        self.answered = n;
    }

    pub(super) fn unsolicited(&mut self, outbox: &mut Outbox, status: Option<Status>, line: &Line<'_>) {
        self.status_line(outbox, None, line);
        let anomaly = if status.is_some() { Anomaly::ReplyWithoutCommand } else { Anomaly::UnsolicitedLine };
        self.found(outbox, Found::new(anomaly).at(line.offset));
    }

    // ── bodies ──

    #[inline]
    pub(super) fn content(&mut self, outbox: &mut Outbox, octets: &[u8]) {
        let Some(passing) = &mut self.passing else { return };
        passing.take(octets);
        if matches!(passing.keyword, Keyword::Capa | Keyword::List | Keyword::Uidl) {
            self.listing(outbox, octets);
        }
    }

    fn listing(&mut self, outbox: &mut Outbox, octets: &[u8]) {
        let Some((keyword, n, offset)) = self.passing.as_ref().map(|passing| (passing.keyword, passing.n, passing.offset)) else {
            return;
        };
        let mut rest = octets;
        while let Some(odd) = self.mailbox.lines(keyword, &mut rest) {
            self.changed(outbox, odd, Some(n), offset);
        }
    }

    pub(super) fn lf_dot(&mut self, outbox: &mut Outbox, n: Ordinal, offset: u64) {
        self.found(outbox, Found::new(Anomaly::BareLfDot).about(Some(n)).at(offset));
    }

    pub(super) fn reply_end(&mut self, outbox: &mut Outbox, complete: bool) {
        self.heard_us = outbox.at_us();
        let Some(passing) = self.passing.take() else { return };
        if let Some(flaw) = passing.flaw(complete) {
            self.flawed(outbox, &passing, flaw);
        }
        if !complete {
            self.cut = Some(passing);
            return;
        }
        match passing.keyword {
            Keyword::Retr => self.compare_size(outbox, &passing),
            Keyword::Uidl => {
                for odd in self.mailbox.duplicates(EACH as usize) {
                    self.changed(outbox, odd, Some(passing.n), passing.offset);
                }
            }
            _ => {}
        }
    }

    #[cold]
    fn flawed(&mut self, outbox: &mut Outbox, passing: &Passing, flaw: Flaw) {
        let found = match flaw {
            Flaw::BareLf(line) => {
                let said = format!("line {line} of its reply to {} ends in a bare LF, not in CR LF", passing.keyword.name());
                Found::new(Anomaly::BareLf).by(Peer::Upstream).saying(said)
            }
            Flaw::LastLine => Found::new(Anomaly::MissingFinalCrLf),
        };
        self.found(outbox, found.about(Some(passing.n)).at(passing.offset));
    }

    fn compare_size(&mut self, outbox: &mut Outbox, passing: &Passing) {
        let Some(number) = passing.message else { return };
        let Some(told) = self.mailbox.size(number).filter(|told| *told != passing.size) else { return };
        let said = format!("its message {number} has {} octets, and its LIST had told {told}", passing.size);
        self.found(outbox, Found::new(Anomaly::SizeDiffers).about(Some(passing.n)).at(passing.offset).saying(said));
    }

    // ── the end ──

    pub(super) fn opaque(&mut self, outbox: &mut Outbox, reason: OpaqueReason, seen: [u64; 2]) {
        // Whoever stops reading has not seen the end of anything.
        (self.passing, self.cut) = (None, None);
        if let Some(anomaly) = Anomaly::of_opaque(reason) {
            let offset = anomaly.usual_fault().map_or(0, |peer| seen[peer as usize]);
            self.found(outbox, Found::new(anomaly).at(offset));
        }
    }

    pub(super) fn violation(&mut self, outbox: &mut Outbox, violation: Violation, seen: [u64; 2]) {
        let found = Found::new(Anomaly::of_violation(violation.kind)).by(violation.fault);
        self.found(outbox, found.at(seen[violation.fault as usize]));
    }

    /// The session is over. Whether the server owed anything depends on who left, and after how long.
    pub(super) fn closed(&mut self, outbox: &mut Outbox, awaited: &Awaited, closed: &Closed) {
        let last = awaited.outstanding(self.answered).map(|asked| asked.at_us).max().unwrap_or_default();
        let silent = outbox.at_us().saturating_sub(self.heard_us.max(last)) >= self.slow_us;
        let by_server = closed.by == "upstream";
        let waited_for = closed.reason.starts_with("timeout-") || closed.by == "client" && silent;
        if closed.reason == "quit" || !(by_server || waited_for) {
            return;
        }
        match (self.cut.take(), self.passing.take()) {
            (Some(body), _) => self.truncated(outbox, &body),
            (None, Some(body)) if by_server => self.truncated(outbox, &body),
            (None, Some(body)) if body.ends_like_a_message() => {
                let said = "its body ends with a dot that does not begin a line, and nothing followed".to_owned();
                let found = Found::new(Anomaly::MissingFinalCrLf).about(Some(body.n)).at(body.offset);
                self.found(outbox, found.saying(said));
            }
            (None, Some(_)) => {}
            (None, None) => self.unanswered(outbox, awaited),
        }
    }

    fn truncated(&mut self, outbox: &mut Outbox, body: &Passing) {
        let is_message = matches!(body.keyword, Keyword::Retr | Keyword::Top);
        let anomaly = if is_message { Anomaly::TruncatedMessage } else { Anomaly::TruncatedListing };
        self.found(outbox, Found::new(anomaly).about(Some(body.n)).at(body.offset));
    }

    fn unanswered(&mut self, outbox: &mut Outbox, awaited: &Awaited) {
        let mut outstanding = awaited.outstanding(self.answered);
        let Some((n, keyword)) = outstanding.next().map(|asked| (asked.n, asked.keyword)) else { return };
        let count = 1 + outstanding.count();
        let found = if n > self.asked_by_then || self.answered == 0 {
            Found::new(Anomaly::CommandWithoutReply).saying(format!("it never answered {}", keyword.name()))
        } else {
            let though = if self.mailbox.announces_pipelining() { ", though it announces PIPELINING" } else { "" };
            let what = if count == 1 { "1 command that was".to_owned() } else { format!("{count} commands that were") };
            Found::new(Anomaly::CommandsLost).saying(format!("it never answered {what} sent without waiting{though}"))
        };
        self.found(outbox, found.about(Some(n)));
    }
}

fn of_reply(anomaly: Anomaly, answer: Answer<'_>) -> Found {
    Found::new(anomaly).about(Some(answer.n)).at(answer.line.offset)
}

fn micros(period: std::time::Duration) -> u64 {
    u64::try_from(period.as_micros()).unwrap_or(u64::MAX)
}
