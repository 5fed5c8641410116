//! The way from the sessions to the writer: a queue with one budget of octets over all of them.
//!
//! Nobody blocks here. A session asks whether there is room *before* it labels one thing more, so what is queued stays below
//! `limit` plus what the sessions that run at this moment hand over at once (16 KiB of lines and 256 KiB of content each), plus
//! the few small records that get a place all the same (`opened`, `closed`, `gap`, the summary). These find one up to twice `limit` and a [`RESERVE`], which
//! are used up only when the disk hangs while sessions come and go; then they are dropped and counted.

use std::{
    collections::HashMap,
    mem::size_of,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
    time::{Duration, Instant},
};

use super::schema::{Body, Record};
use crate::tap::Ordinal;

/// The writer wakes when this many octets wait for it, or a quarter of the limit …
const BATCH: u64 = 256 * 1024;

/// … or when the first of them has waited this long.
const LINGER: Duration = Duration::from_millis(20);

/// Octets of content in one piece.
pub(super) const CONTENT: usize = 256 * 1024;

/// Buffers of content that were written and may be filled again, at most …
const SPARE: usize = 8;

/// … and for how long nobody may need them before they are given up.
const SPARED: Duration = Duration::from_secs(1);

/// Lines are joined up to this many octets.
const JOINED: usize = 64 * 1024;

/// Room for the small records of sessions that come and go while the disk hangs, however small the limit is.
const RESERVE: u64 = 1024 * 1024;

/// What a record's short strings take on the heap, about: its id, its time, a keyword, a reason.
const SMALL_STRINGS: usize = 200;

/// What the writer is sent.
pub(super) enum Message {
    /// Lines of the events stream, as they are to be written; so many.
    Lines { octets: Vec<u8>, records: u64 },
    /// A record that the writer completes.
    Record(Box<Record>),
    /// A piece of the message that answers command `n`, for the side file.
    Kept { session: Arc<str>, n: Ordinal, octets: Vec<u8> },
}

impl Message {
    /// Octets that it takes from the budget: about what it holds in memory.
    pub(super) fn weight(&self) -> u64 {
        let octets = match self {
            Self::Kept { octets, .. } | Self::Lines { octets, .. } => octets.len(),
            Self::Record(record) => size_of::<Record>() + SMALL_STRINGS + text_of(&record.body),
        };
        octets as u64
    }

    /// How many records it holds.
    pub(super) fn records(&self) -> u64 {
        match self {
            Self::Lines { records, .. } => *records,
            Self::Record(_) => 1,
            Self::Kept { .. } => 0,
        }
    }
}

fn text_of(body: &Body) -> usize {
    match body {
        Body::Content(content) => content.listing.iter().map(|line| line.len() + size_of::<String>()).sum(),
        Body::Session(summary) => summary.verbs.octets(),
        _ => 0,
    }
}

/// The queue.
pub(super) struct Queue {
    limit: u64,
    batch: u64,
    used: AtomicU64,
    inner: Mutex<Inner>,
    wake: Condvar,
}

#[derive(Default)]
struct Inner {
    messages: Vec<Message>,
    octets: u64,
    since: Option<Instant>,
    /// Records that were sent and are neither written nor given up.
    unwritten: u64,
    /// Records that found no place.
    refused: u64,
    /// When the writer last moved on, or was last given something after it had nothing.
    progress: Option<Instant>,
    wakers: HashMap<Arc<str>, Waker>,
    /// Empty, of [`CONTENT`] octets each: memory that comes new from the system for each piece of content is cleared and mapped
    /// each time.
    spare: Vec<Vec<u8>>,
    closed: bool,
}

impl Inner {
    /// Lines join those before them: one message of many lines is dealt with at once.
    fn add(&mut self, message: Message) {
        match (self.messages.last_mut(), message) {
            (Some(Message::Lines { octets, records }), Message::Lines { octets: more, records: added })
                if octets.len() + more.len() <= JOINED =>
            {
                octets.reserve(JOINED - octets.len());
                octets.extend_from_slice(&more);
                *records += added;
            }
            (_, message) => self.messages.push(message),
        }
    }
}

/// What [`Queue::take`] found.
pub(super) enum Taken {
    /// These, in order.
    Batch(Vec<Message>),
    /// Nothing, for the time given.
    Nothing,
    /// Nothing, and nothing will come.
    Closed,
}

impl Queue {
    pub(super) fn new(limit: u64) -> Self {
        let batch = BATCH.min(limit / 4);
        Self { limit, batch, used: AtomicU64::new(0), inner: Mutex::default(), wake: Condvar::new() }
    }

    /// Whether one event more may be made beside so many octets that are on their way here.
    pub(super) fn has_room_beside(&self, octets: u64) -> bool {
        self.used.load(Ordering::SeqCst).saturating_add(octets) < self.limit
    }

    /// Octets that wait here.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::SeqCst)
    }

    /// Octets that may wait before there is no room.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether there is so much room that recording may be taken up again after a gap; without the distance, a store
    /// that is a little too slow would write gap after gap.
    pub(super) fn has_much_room(&self) -> bool {
        self.used.load(Ordering::SeqCst) <= self.limit / 2
    }

    /// Sends a message. After [`Queue::close`], or with twice the limit and the reserve in use, it is dropped and stays unwritten.
    pub(super) fn send(&self, message: Message) {
        let (weight, records) = (message.weight(), message.records());
        let mut inner = self.lock();
        if self.used.load(Ordering::SeqCst) >= self.limit.saturating_mul(2).saturating_add(RESERVE) {
            inner.refused += records;
            return;
        }
        if inner.unwritten == 0 {
            inner.progress = Some(Instant::now());
        }
        inner.unwritten += records;
        if inner.closed {
            return;
        }
        self.used.fetch_add(weight, Ordering::SeqCst);
        inner.add(message);
        let before = inner.octets;
        inner.octets += weight;
        inner.since.get_or_insert_with(Instant::now);
        if before == 0 || (before < self.batch && inner.octets >= self.batch) {
            self.wake.notify_one();
        }
    }

    /// Has `waker` woken when there is room. Ask for room again after this.
    pub(super) fn wait(&self, session: &Arc<str>, waker: &Waker) {
        self.lock().wakers.insert(Arc::clone(session), waker.clone());
    }

    /// The session waits no more.
    pub(super) fn forget(&self, session: &str) {
        self.lock().wakers.remove(session);
    }

    /// The writer's side: waits for a batch, at most for `patience` when nothing comes.
    pub(super) fn take(&self, patience: Duration) -> Taken {
        let inner = self.lock();
        let idle = |inner: &mut Inner| inner.messages.is_empty() && !inner.closed;
        let patience = if inner.spare.is_empty() { patience } else { patience.min(SPARED) };
        let (mut inner, waited) = self.wake.wait_timeout_while(inner, patience, idle).unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            inner.spare = Vec::new();
        }
        let linger = inner.since.map_or(Duration::ZERO, |since| LINGER.saturating_sub(since.elapsed()));
        let filling = |inner: &mut Inner| !inner.messages.is_empty() && inner.octets < self.batch && !inner.closed;
        let (mut inner, _) = self.wake.wait_timeout_while(inner, linger, filling).unwrap_or_else(PoisonError::into_inner);
        inner.octets = 0;
        inner.since = None;
        match std::mem::take(&mut inner.messages) {
            messages if !messages.is_empty() => Taken::Batch(messages),
            _ if inner.closed => Taken::Closed,
            _ => Taken::Nothing,
        }
    }

    /// The writer's side: gives back the room of messages that were dealt with, `records` of them records.
    pub(super) fn release(&self, octets: u64, records: u64) {
        self.used.fetch_sub(octets, Ordering::SeqCst);
        let mut inner = self.lock();
        inner.unwritten = inner.unwritten.saturating_sub(records);
        inner.progress = Some(Instant::now());
        if !self.has_room_beside(0) || inner.wakers.is_empty() {
            return;
        }
        let wakers = std::mem::take(&mut inner.wakers);
        drop(inner);
        wakers.into_values().for_each(Waker::wake);
    }

    /// An empty buffer for [`CONTENT`] octets of content.
    pub(super) fn buffer(&self) -> Vec<u8> {
        let known = self.lock().spare.pop();
        known.unwrap_or_else(|| Vec::with_capacity(CONTENT))
    }

    /// A buffer of content is needed no more, and may be filled again.
    pub(super) fn give_back(&self, mut buffer: Vec<u8>) {
        let mut inner = self.lock();
        if buffer.capacity() >= CONTENT && inner.spare.len() < SPARE {
            buffer.clear();
            inner.spare.push(buffer);
        }
    }

    /// Nothing more will be sent; what waits is still taken.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    /// Records that were sent and not written.
    pub(super) fn unwritten(&self) -> u64 {
        let inner = self.lock();
        inner.unwritten + inner.refused
    }

    /// Whether there is something to write and the writer has not moved on for longer than `patience`: its disk hangs.
    pub(super) fn is_stuck(&self, patience: Duration) -> bool {
        let inner = self.lock();
        inner.unwritten > 0 && inner.progress.is_some_and(|progress| progress.elapsed() > patience)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn piece(octets: usize) -> Message {
        Message::Kept { session: "s".into(), n: 1, octets: vec![0; octets] }
    }

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl std::task::Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn room_is_given_back_and_waiters_are_woken() {
        let queue = Queue::new(100);
        let bell = Arc::new(Bell::default());
        queue.send(piece(60));
        assert!(queue.has_room_beside(0) && !queue.has_much_room());
        queue.send(piece(60));
        assert!(!queue.has_room_beside(0));
        queue.wait(&"s".into(), &Arc::clone(&bell).into());
        queue.release(10, 0);
        assert_eq!(bell.0.load(Ordering::SeqCst), 0);
        queue.release(60, 0);
        assert_eq!(bell.0.load(Ordering::SeqCst), 1);
        assert!(queue.has_much_room());
    }

    #[test]
    fn a_disk_that_hangs_for_ever_costs_a_bounded_amount() {
        let queue = Queue::new(4096);
        for _ in 0..2000 {
            queue.send(piece(1024));
        }
        let Taken::Batch(batch) = queue.take(Duration::ZERO) else { panic!("no batch") };
        assert_eq!(batch.iter().map(Message::weight).sum::<u64>(), RESERVE + 8192);
    }

    #[test]
    fn buffers_are_filled_again_until_nobody_needs_them() {
        let queue = Queue::new(1 << 20);
        let buffer = queue.buffer();
        let place = buffer.as_ptr();
        queue.give_back(Vec::with_capacity(10));
        queue.give_back(buffer);
        let mut again = queue.buffer();
        assert_eq!((again.as_ptr(), again.len()), (place, 0), "the large one");
        again.extend_from_slice(b"content");
        queue.give_back(again);
        assert!(queue.lock().spare.iter().all(Vec::is_empty) && queue.lock().spare.len() == 1);
        assert!(matches!(queue.take(Duration::ZERO), Taken::Nothing));
        assert!(queue.lock().spare.is_empty());
    }

    #[test]
    fn batches_come_in_order_and_then_the_end() {
        let queue = Queue::new(100);
        assert!(matches!(queue.take(Duration::ZERO), Taken::Nothing));
        queue.send(piece(1));
        queue.send(piece(2));
        queue.close();
        queue.send(piece(3));
        let Taken::Batch(batch) = queue.take(Duration::MAX) else { panic!("no batch") };
        assert_eq!(batch.iter().map(Message::weight).collect::<Vec<_>>(), [1, 2]);
        assert!(matches!(queue.take(Duration::MAX), Taken::Closed));
    }
}
