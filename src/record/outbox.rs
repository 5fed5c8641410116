//! What a session has recorded and the writer has not been given yet, and whether there is room for more.
//!
//! Lines are made in the session's own turn, without a lock, and handed over when the session rests, or earlier when there is
//! a page of them. So a busy session takes the queue's lock once in hundreds of records, and an idle one holds no buffer.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Sleep;

use super::{
    clock::Moment,
    encode::{self, Head},
    gap::Missing,
    queue::Message,
    recorder::Full,
    schema::{self, Body, Record},
    store::Shared,
};
use crate::{config::OnFull, pop3::Peer, tap::Ordinal};

/// Octets of lines at which a session hands them over though it does not rest.
const PAGE: usize = 16 * 1024;
/// Octets of a line with a command or a reply, as a rule.
const TYPICAL: usize = 256;
/// Octets of a message's content at which a session hands them over though it does not rest. Only a piece that is longer itself
/// makes more of them.
const CHUNK: usize = super::queue::CONTENT;

/// One session's. At most a [`PAGE`] and one record, and a [`CHUNK`] of content, are in it, and nothing while the session
/// rests.
pub(super) struct Outbox {
    id: Arc<str>,
    shared: Arc<Shared>,
    opened: Moment,
    now: Moment,
    at_us: u64,
    head: Head,
    /// Whether the head is that of this turn.
    is_dated: bool,
    lines: Vec<u8>,
    records: u64,
    /// Content of the message that answers this command.
    content: (Ordinal, Vec<u8>),
    /// What is missing since the buffer was full; while it is set, nothing is recorded.
    gap: Option<Missing>,
    /// Events in gaps that are over.
    lost: u64,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Outbox {
    pub(super) fn new(shared: Arc<Shared>, id: String) -> Self {
        let now = shared.clock.now();
        Self {
            head: Head::new(&id),
            id: id.into(),
            shared,
            opened: now,
            now,
            at_us: 0,
            is_dated: false,
            lines: Vec::new(),
            records: 0,
            content: (0, Vec::new()),
            gap: None,
            lost: 0,
            waiting: None,
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Reads the clock.
    pub(super) fn turn(&mut self) {
        self.now = self.shared.clock.now();
        self.at_us = self.now.micros_since(&self.opened);
        self.is_dated = false;
    }

    /// Microseconds since the session was opened.
    pub(super) fn at_us(&self) -> u64 {
        self.at_us
    }

    /// Events of this session that are missing for want of room, in gaps that are over.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    // ── room ──

    /// Whether one event more may be recorded, or recording was given up until there is room again.
    pub(super) fn is_ready(&self) -> bool {
        !self.shared.wants_events() || self.gap.is_some() || self.shared.on_full() == OnFull::Mark || self.has_room()
    }

    /// As [`Recorder::poll_ready`](super::Recorder::poll_ready).
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Full>> {
        if self.is_ready() {
            self.waiting = None;
            return Poll::Ready(Ok(()));
        }
        if self.shared.on_full() == OnFull::Close {
            return Poll::Ready(Err(Full));
        }
        self.hand_over();
        self.shared.wait(&self.id, cx.waker());
        // Room that was made before the waker was registered woke nobody.
        if self.has_room() {
            self.waiting = None;
            return Poll::Ready(Ok(()));
        }
        match self.shared.wait_limit() {
            Some(limit) if self.poll_wait(limit, cx).is_ready() => {
                self.give_up();
                Poll::Ready(Ok(()))
            }
            _ => Poll::Pending,
        }
    }

    fn has_room(&self) -> bool {
        self.shared.has_room_beside(self.lines.len() + self.content.1.len())
    }

    fn poll_wait(&mut self, limit: Duration, cx: &mut Context<'_>) -> Poll<()> {
        self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit))).as_mut().poll(cx)
    }

    /// Records nothing more until there is room again.
    fn give_up(&mut self) {
        self.waiting = None;
        self.gap = Some(Missing::default());
        self.shared.warn_of_gap(&self.id);
    }

    /// Whether events are recorded now; ends a gap when there is room again.
    fn is_recording(&mut self) -> bool {
        if self.gap.is_none() && self.shared.on_full() == OnFull::Mark && !self.has_room() {
            self.hand_over();
            if !self.has_room() {
                self.give_up();
            }
        }
        if self.gap.is_none() {
            return true;
        }
        let has_room = self.shared.has_much_room();
        if has_room {
            self.end_gap();
        }
        has_room
    }

    /// Writes down what is missing, if anything is.
    pub(super) fn end_gap(&mut self) {
        let Some(missing) = self.gap.take() else { return };
        self.lost += missing.events();
        self.shared.count_lost(missing.events(), 0);
        self.insist(&Body::Gap(missing.into_gap("full")));
    }

    // ── records ──

    /// Whether the next event is recorded; if it is wanted and cannot be, `count` is told.
    fn takes(&mut self, count: impl FnOnce(&mut Missing)) -> bool {
        if !self.shared.wants_events() {
            return false;
        }
        self.waiting = None;
        let recording = self.is_recording();
        if let Some(missing) = &mut self.gap {
            count(missing);
        }
        recording
    }

    /// Records something, or counts it as missing.
    pub(super) fn emit(&mut self, body: &Body) {
        if self.takes(|missing| missing.count(body)) {
            self.insist(body);
        }
    }

    /// As [`Outbox::emit`], for a command.
    pub(super) fn command(&mut self, command: encode::Command<'_>) {
        if self.takes(|missing| missing.line(Peer::Client, command.line.octets)) {
            self.write(|lines, head| encode::command(lines, head, command));
        }
    }

    /// As [`Outbox::emit`], for a reply.
    pub(super) fn reply(&mut self, reply: encode::Reply<'_>) {
        let octets = if reply.local { 0 } else { reply.line.octets };
        if self.takes(|missing| missing.line(Peer::Upstream, octets)) {
            self.write(|lines, head| encode::reply(lines, head, reply));
        }
    }

    /// Records something whatever room there is: small things, of which a session has few.
    pub(super) fn insist(&mut self, body: &Body) {
        if !self.shared.wants_events() {
            return;
        }
        let mut failure = None;
        self.write(|lines, head| failure = encode::record(lines, head, body).err());
        if let Some(error) = failure {
            // It was counted as a record, and none of it is there.
            self.records = self.records.saturating_sub(1);
            self.shared.count_lost(1, 0);
            tracing::error!(%error, session = &*self.id, "cannot encode a record of the transcript");
        }
    }

    /// Records what the writer has to complete: behind all that was recorded before.
    pub(super) fn emit_unfinished(&mut self, body: Body) {
        if self.takes(|missing| missing.count(&body)) {
            self.send_record(body);
        }
    }

    /// Sends the summary.
    pub(super) fn send_summary(&mut self, summary: schema::Summary) {
        self.send_record(Body::Session(Box::new(summary)));
    }

    fn send_record(&mut self, body: Body) {
        self.hand_over();
        let (session, time, at_us) = (self.id.to_string(), self.now.stamp(), self.at_us);
        self.shared.send(Message::Record(Box::new(Record { v: schema::VERSION, session, time, at_us, body })));
    }

    fn write(&mut self, line: impl FnOnce(&mut Vec<u8>, &Head)) {
        if !self.is_dated {
            self.head.turn(&self.now, self.at_us);
            self.is_dated = true;
        }
        self.lines.reserve(TYPICAL);
        line(&mut self.lines, &self.head);
        self.records += 1;
        if self.lines.len() >= PAGE {
            self.hand_over();
            self.lines.reserve(PAGE + TYPICAL);
        }
    }

    // ── content ──

    /// Keeps a piece of the message that answers command `n`; false when there is no room for it.
    pub(super) fn keep(&mut self, n: Ordinal, piece: &[u8]) -> bool {
        self.waiting = None;
        let recording = self.is_recording();
        if recording {
            if self.content.0 != n || self.content.1.len() + piece.len() > CHUNK {
                self.hand_over_content();
                self.content = (n, self.shared.buffer());
            }
            self.content.1.extend_from_slice(piece);
        }
        recording
    }

    // ── handing over ──

    /// Gives the writer all that there is; nothing stays here, no room either.
    pub(super) fn hand_over(&mut self) {
        self.hand_over_content();
        let (octets, records) = (std::mem::take(&mut self.lines), std::mem::take(&mut self.records));
        if !octets.is_empty() {
            self.shared.send(Message::Lines { octets, records });
        }
    }

    fn hand_over_content(&mut self) {
        if !self.content.1.is_empty() {
            let (n, mut octets) = std::mem::take(&mut self.content);
            // What waits for the writer takes no more memory than was counted.
            if octets.len() <= CHUNK / 2 {
                let short = octets.clone();
                self.shared.give_back(std::mem::replace(&mut octets, short));
            }
            self.shared.send(Message::Kept { session: Arc::clone(&self.id), n, octets });
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.shared.forget(&self.id);
    }
}
