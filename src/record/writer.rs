//! The writer: one thread that turns records into lines, and survives a disk that is full, failing or hung.
//!
//! While a stream cannot be written, a bounded number of its lines is kept, the rest is dropped and counted, and a new segment
//! is tried every second. Nobody waits for that: a queue that is being drained has room.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    broadcast::Broadcast,
    clock::{Clock, Moment},
    gap::Missing,
    lane::Lane,
    live::Feed,
    queue::{Message, Queue, Taken},
    schema::{self, Body, Piece, Record},
    segment::{Storage, Stream},
    side::{Side, append},
    store::Loss,
    throttle::Throttle,
};
use crate::{
    config::{Streams, Transcript},
    tap::Ordinal,
};

/// How often finished segments are looked after when nothing else happens.
const SWEEP: Duration = Duration::from_secs(600);

/// Room is given back to the sessions after this many octets, not only at the end of a batch.
const RELEASE: u64 = 64 * 1024;

/// Sessions whose losses are counted apart; more are counted together, under the session `-`.
const SESSIONS: usize = 4096;

/// Which streams are written, and when a segment is finished.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) streams: Streams,
    pub(super) rotate_size: u64,
    pub(super) rotate_age: Duration,
}

impl Plan {
    pub(super) fn of(transcript: &Transcript) -> Self {
        Self { streams: transcript.record, rotate_size: transcript.rotate_size, rotate_age: transcript.rotate_age }
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self { streams: Streams::Events, rotate_size: u64::MAX, rotate_age: Duration::MAX }
    }
}

/// What the sessions may know of the writer.
#[derive(Default)]
pub(super) struct Health {
    failing: AtomicBool,
    events: AtomicU64,
    summaries: AtomicU64,
    content_octets: AtomicU64,
}

impl Health {
    /// Whether a stream cannot be written at present.
    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::SeqCst)
    }

    /// Counts what never reached the writer.
    pub(super) fn count_lost(&self, events: u64, content_octets: u64) {
        self.events.fetch_add(events, Ordering::SeqCst);
        self.content_octets.fetch_add(content_octets, Ordering::SeqCst);
    }

    /// What was lost so far.
    pub(super) fn loss(&self) -> Loss {
        Loss {
            events: self.events.load(Ordering::SeqCst),
            summaries: self.summaries.load(Ordering::SeqCst),
            content_octets: self.content_octets.load(Ordering::SeqCst),
            unwritten: 0,
        }
    }
}

/// The writer.
pub(super) struct Writer {
    plan: Plan,
    /// `None` when there is only a live view.
    storage: Option<Box<dyn Storage>>,
    feed: Option<Feed>,
    broadcast: Option<Arc<Broadcast>>,
    clock: Arc<dyn Clock>,
    health: Arc<Health>,
    events: Lane,
    sessions: Lane,
    side: Option<Side>,
    kept: HashMap<Arc<str>, Kept>,
    /// What is missing of each session, for want of a disk.
    missing: BTreeMap<String, Absent>,
    /// How many events of each session were dropped: its summary says so.
    dropped: HashMap<String, u64>,
    complaint: Throttle,
    swept: Duration,
    line: Vec<u8>,
}

/// What is kept of the message that a session is passing.
#[derive(Default)]
struct Kept {
    /// The command that the message answers. The record of an earlier one may have been lost.
    n: Ordinal,
    pieces: Vec<Piece>,
    /// A piece was lost; what follows is not kept, so that what is kept is a beginning.
    broken: bool,
}

impl Writer {
    pub(super) fn new(
        plan: Plan,
        storage: Option<Box<dyn Storage>>,
        feed: Option<Feed>,
        clock: Arc<dyn Clock>,
        health: Arc<Health>,
    ) -> Self {
        let swept = clock.now().steady;
        Self {
            plan,
            storage,
            feed,
            broadcast: None,
            clock,
            health,
            events: Lane::new(Stream::Events),
            sessions: Lane::new(Stream::Sessions),
            side: None,
            kept: HashMap::new(),
            missing: BTreeMap::new(),
            dropped: HashMap::new(),
            complaint: Throttle::default(),
            swept,
            line: Vec::new(),
        }
    }

    /// With somebody who may look on.
    pub(super) fn beside(self, broadcast: Option<Arc<Broadcast>>) -> Self {
        Self { broadcast, ..self }
    }

    /// Writes what comes through `queue`, until it is closed and empty.
    pub(super) fn run(&mut self, queue: &Queue) {
        loop {
            match queue.take(self.patience()) {
                Taken::Batch(messages) => self.batch(queue, messages),
                Taken::Nothing => {}
                Taken::Closed => return self.finish(),
            }
            self.tick();
        }
    }

    /// Takes a batch, gives its room back as it goes, and leaves nothing buffered.
    fn batch(&mut self, queue: &Queue, messages: Vec<Message>) {
        let (mut octets, mut records) = (0, 0);
        for message in messages {
            octets += message.weight();
            records += message.records();
            if let Some(buffer) = self.take(message) {
                queue.give_back(buffer);
            }
            if octets >= RELEASE {
                queue.release(std::mem::take(&mut octets), std::mem::take(&mut records));
            }
        }
        self.flush();
        queue.release(octets, records);
    }

    /// Takes one message; returns the buffer of content, which is needed no more.
    pub(super) fn take(&mut self, message: Message) -> Option<Vec<u8>> {
        match message {
            Message::Lines { octets, records } => self.lines(&octets, records),
            Message::Record(record) => self.complete(record),
            Message::Kept { session, n, octets } => {
                self.keep(&session, n, &octets);
                return Some(octets);
            }
        }
        None
    }

    /// Writes what is buffered, unless that failed a moment ago.
    pub(super) fn flush(&mut self) {
        let now = self.clock.now();
        for stream in [Stream::Events, Stream::Sessions] {
            if !self.lane(stream).is_down() {
                self.flush_lane(stream, &now);
            }
        }
    }

    /// What is due by the clock: new tries, segments that are old enough, the care of finished ones.
    pub(super) fn tick(&mut self) {
        let now = self.clock.now();
        for stream in [Stream::Events, Stream::Sessions] {
            if self.lane(stream).may_retry(&now) {
                self.retry(stream, &now);
            }
        }
        self.rotate(&now);
        if now.steady.saturating_sub(self.swept) >= SWEEP {
            self.swept = now.steady;
            self.storage.iter_mut().for_each(|storage| storage.sweep());
        }
    }

    /// Writes the last lines and finishes the segments.
    pub(super) fn finish(&mut self) {
        let now = self.clock.now();
        self.retry(Stream::Events, &now);
        self.retry(Stream::Sessions, &now);
        self.health.events.fetch_add(self.events.abandon(), Ordering::SeqCst);
        self.health.summaries.fetch_add(self.sessions.abandon(), Ordering::SeqCst);
        self.side = None;
        if let Some(storage) = &mut self.storage {
            self.events.close(&mut **storage);
            self.sessions.close(&mut **storage);
            storage.close();
        }
        if let Some(feed) = self.feed.take() {
            feed.finish();
        }
    }

    /// How long nothing needs to be done when nothing comes.
    fn patience(&self) -> Duration {
        let rotates = self.storage.as_ref().is_some_and(|storage| storage.rotates());
        let age = if rotates { self.plan.rotate_age } else { Duration::MAX };
        let deadlines = [self.events.deadline(age), self.sessions.deadline(age), Some(self.swept + SWEEP)];
        let next = deadlines.into_iter().flatten().min().unwrap_or_default();
        next.saturating_sub(self.clock.now().steady)
    }

    /// Appends lines of the events stream as they are, where nobody has to look into them.
    fn lines(&mut self, lines: &[u8], records: u64) {
        if let Some(broadcast) = self.watched() {
            broadcast.send_page(lines, records);
        }
        let is_kept = self.storage.is_some() && self.plan.streams == Streams::Events;
        if self.feed.is_none() && (!is_kept || (!self.events.is_down() && self.missing.is_empty())) {
            if is_kept {
                self.events.push(lines);
                self.flush_when_full(Stream::Events);
            }
            return;
        }
        for line in lines.split_inclusive(|&octet| octet == b'\n') {
            match serde_json::from_slice(line) {
                Ok(record) => self.record(Box::new(record)),
                Err(error) => {
                    self.health.count_lost(1, 0);
                    tracing::error!(%error, "cannot read a record of the transcript that was made here");
                }
            }
        }
    }

    /// Somebody looks on.
    fn watched(&self) -> Option<&Broadcast> {
        self.broadcast.as_deref().filter(|broadcast| broadcast.is_watched())
    }

    /// Takes a record that only the writer can complete.
    fn complete(&mut self, mut record: Box<Record>) {
        if let Body::Content(content) = &mut record.body {
            let kept = self.kept.remove(&*record.session).filter(|kept| kept.n == content.n);
            content.kept = kept.map(|kept| kept.pieces).unwrap_or_default();
        }
        if let Body::Session(summary) = &mut record.body {
            self.kept.remove(&*record.session);
            summary.events_lost += self.dropped.remove(&*record.session).unwrap_or_default();
        }
        if let Some(broadcast) = self.watched()
            && let Ok(mut line) = serde_json::to_vec(&record)
        {
            line.push(b'\n');
            broadcast.send(&line);
        }
        self.record(record);
    }

    fn record(&mut self, record: Box<Record>) {
        self.write_missing(&record);
        self.write(&record);
        if let (Body::Session(summary), Some(storage)) = (&record.body, &mut self.storage) {
            storage.count(summary);
        }
        if let Some(feed) = &mut self.feed {
            feed.show(record);
        }
    }

    /// Appends a record to its stream, if that is written at all.
    fn write(&mut self, record: &Record) {
        let (stream, wanted) = match &record.body {
            Body::Session(_) => (Stream::Sessions, true),
            _ => (Stream::Events, self.plan.streams == Streams::Events),
        };
        if self.storage.is_none() || !wanted {
            return;
        }
        self.line.clear();
        if let Err(error) = serde_json::to_writer(&mut self.line, record) {
            tracing::error!(%error, session = record.session, "cannot encode a record of the transcript");
            return self.drop_record(record);
        }
        let mut line = std::mem::take(&mut self.line);
        line.push(b'\n');
        if !self.lane(stream).push(&line) {
            self.drop_record(record);
        }
        self.line = line;
        self.flush_when_full(stream);
    }

    fn flush_when_full(&mut self, stream: Stream) {
        if self.lane(stream).is_full() {
            let now = self.clock.now();
            self.flush_lane(stream, &now);
            self.rotate(&now);
        }
    }

    /// What a session missed is written before its next record, once there is a disk again.
    fn write_missing(&mut self, record: &Record) {
        if self.missing.is_empty() || self.events.is_down() {
            return;
        }
        if let Some(absent) = self.missing.remove(&record.session) {
            self.write(&absent.record(record.session.clone(), record.time.clone(), record.at_us));
        }
    }

    /// Counts a record that is not written.
    fn drop_record(&mut self, record: &Record) {
        if matches!(record.body, Body::Session(_)) {
            self.health.summaries.fetch_add(1, Ordering::SeqCst);
            return;
        }
        self.health.events.fetch_add(1, Ordering::SeqCst);
        let absent = self.absent(&record.session);
        absent.missing.count(&record.body);
        absent.at_us = record.at_us;
        if self.dropped.len() < SESSIONS {
            *self.dropped.entry(record.session.clone()).or_default() += 1;
        }
    }

    fn absent(&mut self, session: &str) -> &mut Absent {
        let known = self.missing.contains_key(session) || self.missing.len() < SESSIONS;
        self.missing.entry(if known { session } else { "-" }.to_owned()).or_default()
    }

    /// Appends a piece of a message to the side file.
    fn keep(&mut self, session: &Arc<str>, n: Ordinal, octets: &[u8]) {
        let broken = self.kept.get(session).is_some_and(|kept| kept.n == n && kept.broken);
        let placed = if broken { None } else { self.write_side(octets) };
        let kept = self.kept.entry(Arc::clone(session)).or_default();
        if kept.n != n {
            *kept = Kept { n, ..Kept::default() };
        }
        if let Some(piece) = placed {
            append(&mut kept.pieces, piece);
            return;
        }
        kept.broken = true;
        self.health.count_lost(0, octets.len() as u64);
        self.absent(session).missing.content(octets.len() as u64);
    }

    /// Writes to the side file; on failure takes back what was written and says so in the log.
    fn write_side(&mut self, octets: &[u8]) -> Option<Piece> {
        let now = self.clock.now();
        if self.events.is_down() {
            return None;
        }
        let outcome = self.side(&now).and_then(|side| side.append(octets));
        outcome.inspect_err(|error| self.complain(Stream::Events, error, &now)).ok()
    }

    fn side(&mut self, now: &Moment) -> io::Result<&mut Side> {
        if self.side.is_none() {
            let storage = self.storage.as_mut().ok_or(io::ErrorKind::Unsupported)?;
            let stem = self.events.stem(&mut **storage, now)?;
            let (name, output) = storage.open_side(stem)?;
            self.side = Some(Side::new(name, output));
        }
        self.side.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn lane(&mut self, stream: Stream) -> &mut Lane {
        match stream {
            Stream::Events => &mut self.events,
            Stream::Sessions => &mut self.sessions,
        }
    }

    fn flush_lane(&mut self, stream: Stream, now: &Moment) {
        let Some(storage) = &mut self.storage else { return };
        let lane = match stream {
            Stream::Events => &mut self.events,
            Stream::Sessions => &mut self.sessions,
        };
        if let Err(error) = lane.flush(&mut **storage, now) {
            if stream == Stream::Events {
                self.side = None;
            }
            self.complain(stream, &error, now);
        }
        self.health.failing.store(self.events.is_down() || self.sessions.is_down(), Ordering::SeqCst);
    }

    /// Tries to write again; when it works, says what is missing.
    fn retry(&mut self, stream: Stream, now: &Moment) {
        let was_down = self.lane(stream).is_down();
        self.flush_lane(stream, now);
        if stream == Stream::Events && !self.events.is_down() {
            for (session, absent) in std::mem::take(&mut self.missing) {
                let at_us = absent.at_us;
                self.write(&absent.record(session, now.stamp(), at_us));
            }
            self.flush_lane(stream, now);
        }
        if was_down && !self.lane(stream).is_down() {
            tracing::warn!(stream = stream.name(), "the transcript can be written again");
        }
    }

    fn rotate(&mut self, now: &Moment) {
        let Some(storage) = &mut self.storage else { return };
        let Plan { rotate_size, rotate_age, .. } = self.plan;
        let side = self.side.as_ref().map_or(0, Side::written);
        if self.events.rotate(&mut **storage, now, side, rotate_size, rotate_age) {
            self.side = None;
        }
        self.sessions.rotate(&mut **storage, now, 0, rotate_size, rotate_age);
    }

    fn complain(&mut self, stream: Stream, error: &io::Error, now: &Moment) {
        if let Some(kept_quiet) = self.complaint.allow(now.steady) {
            let lost = self.health.events.load(Ordering::SeqCst);
            tracing::error!(%error, stream = stream.name(), lost, kept_quiet, "cannot write the transcript; sessions go on without it");
        }
    }
}

/// What is missing of one session, and how far it had come then.
#[derive(Default)]
struct Absent {
    missing: Missing,
    at_us: u64,
}

impl Absent {
    fn record(self, session: String, time: String, at_us: u64) -> Record {
        Record { v: schema::VERSION, session, time, at_us, body: Body::Gap(self.missing.into_gap("error")) }
    }
}
