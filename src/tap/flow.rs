//! One direction's bounded buffer.

use std::{fmt, ops::Deref, sync::Arc};

use zeroize::Zeroizing;

use super::pool::{Buffer, Pool};

/// Octets of one direction: received, then released, then sent to the other peer.
///
/// ```text
///      head ≤ released ≤ released + gap ≤ end ≤ buffer.len() ≤ LARGE
///        │       │             │           │
///   ─────┼───────┼─────────────┼───────────┼─────── space for reading
///   sent │ to be │ interlude,  │ not yet   │
///        │ sent  │ gap dropped │ labelled  │
/// ```
///
/// Behind the released octets stands at most one *interlude*: a text of poptap's own (a local reply, an edited line). While
/// there is one, or a gap behind octets that are not sent yet, nothing more is released, so the buffer never grows.
pub struct Flow {
    buffer: Buffer,
    head: usize,
    released: usize,
    gap: usize,
    end: usize,
    interlude: Option<Interlude>,
    ended: bool,
    received: u64,
    sent: u64,
    dropped: u64,
}

struct Interlude {
    text: Text,
    sent: usize,
}

enum Text {
    Shared(Arc<[u8]>),
    Secret(Zeroizing<Vec<u8>>),
}

impl Deref for Text {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Shared(text) => text,
            Self::Secret(text) => text,
        }
    }
}

impl Flow {
    /// An empty flow without a buffer.
    #[must_use]
    pub fn new() -> Self {
        Self {
            buffer: Buffer::default(),
            head: 0,
            released: 0,
            gap: 0,
            end: 0,
            interlude: None,
            ended: false,
            received: 0,
            sent: 0,
            dropped: 0,
        }
    }

    // ── reading ──

    /// Whether there is use for more octets: the stream has not ended, and there is room.
    #[must_use]
    pub fn wants_read(&self) -> bool {
        !self.ended && (self.buffer.is_empty() || self.end < self.buffer.len() || self.can_compact())
    }

    /// Room for octets to be received; never empty when [`Flow::wants_read`]. Takes a buffer from the pool when there is none.
    pub fn space(&mut self, pool: &Arc<Pool>) -> &mut [u8] {
        if self.buffer.is_empty() {
            self.buffer = pool.take();
        }
        if self.end == self.buffer.len() && self.can_compact() {
            self.compact();
        }
        &mut self.buffer[self.end..]
    }

    /// `count` octets were written to [`Flow::space`].
    pub fn filled(&mut self, count: usize) {
        debug_assert!(count <= self.buffer.len() - self.end, "more octets than there was space");
        self.end += count;
        self.received += count as u64;
    }

    /// The stream has ended: nothing more will be received.
    pub fn finish(&mut self) {
        self.ended = true;
    }

    /// Whether the stream has ended.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whoever reads it begins anew, and will be told again of its end.
    pub fn read_on(&mut self) {
        self.ended = false;
    }

    /// Another stream takes this one's place: what is not labelled is dropped, and it has not ended.
    pub fn begin_anew(&mut self) {
        self.skip(self.unlabelled().len());
        self.ended = false;
    }

    /// Puts octets in front of all that will be read: a greeting that was received before TLS.
    pub fn preload(&mut self, octets: &[u8], pool: &Arc<Pool>) {
        let space = self.space(pool);
        let count = octets.len().min(space.len());
        space[..count].copy_from_slice(&octets[..count]);
        self.filled(count);
    }

    /// Gives the buffer back when there is nothing in it.
    pub fn rest(&mut self) {
        if self.head == self.end && !self.buffer.is_empty() {
            (self.head, self.released, self.gap, self.end) = (0, 0, 0, 0);
            self.buffer = Buffer::default();
        }
    }

    // ── labelling ──

    /// Octets that are not labelled yet.
    #[must_use]
    pub fn unlabelled(&self) -> &[u8] {
        &self.buffer[self.released + self.gap..self.end]
    }

    /// Whether the unlabelled octets fill all the room that there is, so that waiting for more of them is of no use.
    #[must_use]
    pub fn is_full(&self) -> bool {
        !self.buffer.is_empty() && self.end - (self.released + self.gap) == self.buffer.len()
    }

    /// Whether octets may be released.
    #[must_use]
    pub fn may_release(&self) -> bool {
        self.gap == 0 && self.interlude.is_none()
    }

    /// Whether octets may be dropped, and an interlude inserted.
    #[must_use]
    pub fn may_insert(&self) -> bool {
        self.interlude.is_none()
    }

    /// Lets the next `count` unlabelled octets go to the other peer.
    pub fn release(&mut self, count: usize) {
        debug_assert!(self.may_release() && count <= self.unlabelled().len(), "released too much or out of turn");
        self.released += count;
    }

    /// Drops the next `count` unlabelled octets.
    pub fn skip(&mut self, count: usize) {
        debug_assert!(self.may_insert() && count <= self.unlabelled().len(), "skipped too much or out of turn");
        self.gap += count;
        self.dropped += count as u64;
        self.close_gap();
    }

    /// Puts a text behind all that was released.
    pub fn insert(&mut self, text: Arc<[u8]>) {
        debug_assert!(self.may_insert(), "one interlude at a time");
        self.interlude = (!text.is_empty()).then_some(Interlude { text: Text::Shared(text), sent: 0 });
    }

    /// The same with a text that is overwritten when it has gone out, or is dropped.
    pub fn insert_secret(&mut self, text: Zeroizing<Vec<u8>>) {
        debug_assert!(self.may_insert(), "one interlude at a time");
        self.interlude = (!text.is_empty()).then_some(Interlude { text: Text::Secret(text), sent: 0 });
    }

    // ── writing ──

    /// What to write next to the other peer; empty when there is nothing.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        match &self.interlude {
            Some(interlude) if self.head == self.released => &interlude.text[interlude.sent..],
            _ => &self.buffer[self.head..self.released],
        }
    }

    /// `count` octets of [`Flow::output`] were written.
    pub fn wrote(&mut self, count: usize) {
        debug_assert!(count <= self.output().len(), "wrote more than there was");
        match &mut self.interlude {
            Some(interlude) if self.head == self.released => {
                interlude.sent += count;
                if interlude.sent == interlude.text.len() {
                    self.interlude = None;
                }
            }
            _ => {
                self.head += count;
                self.sent += count as u64;
            }
        }
        self.close_gap();
    }

    /// Whether all that may be written was.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.head == self.released && self.interlude.is_none()
    }

    /// Octets received so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Octets received so far that were labelled.
    #[must_use]
    pub fn labelled(&self) -> u64 {
        self.received - self.unlabelled().len() as u64
    }

    /// Octets received that neither went to the other peer nor were dropped on purpose.
    #[must_use]
    pub fn undelivered(&self) -> u64 {
        self.received - self.sent - self.dropped
    }

    fn close_gap(&mut self) {
        if self.is_drained() {
            self.released += self.gap;
            self.head = self.released;
            self.gap = 0;
            if self.head == self.end {
                (self.head, self.released, self.end) = (0, 0, 0);
            }
        }
    }

    /// Moving octets is worth it when none wait to be sent, or at least half of the room is won.
    fn can_compact(&self) -> bool {
        self.head > 0 && (self.head == self.released || self.head >= self.buffer.len() / 2)
    }

    fn compact(&mut self) {
        self.buffer.copy_within(self.head..self.end, 0);
        self.released -= self.head;
        self.end -= self.head;
        self.head = 0;
    }
}

impl Default for Flow {
    fn default() -> Self {
        Self::new()
    }
}

/// Without the octets: they may hold secrets.
impl fmt::Debug for Flow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Flow")
            .field("head", &self.head)
            .field("released", &self.released)
            .field("gap", &self.gap)
            .field("end", &self.end)
            .field("capacity", &self.buffer.len())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::LARGE, *};

    fn filled(text: &[u8]) -> (Flow, Arc<Pool>) {
        let (mut flow, pool) = (Flow::new(), Arc::new(Pool::new(1)));
        flow.preload(text, &pool);
        (flow, pool)
    }

    fn drain(flow: &mut Flow, by: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !flow.output().is_empty() {
            let count = by.min(flow.output().len());
            all.extend_from_slice(&flow.output()[..count]);
            flow.wrote(count);
        }
        all
    }

    #[test]
    fn an_interlude_stands_where_a_line_was_replaced() {
        let (mut flow, _pool) = filled(b"one two three");
        flow.release(4);
        flow.skip(4);
        flow.insert(Arc::from(&b"2 "[..]));
        assert!(!flow.may_release() && !flow.may_insert());
        assert_eq!(flow.unlabelled(), b"three");
        assert_eq!(drain(&mut flow, 3), b"one 2 ");
        assert!(flow.may_release());
        flow.release(5);
        assert_eq!(drain(&mut flow, 2), b"three");
        assert_eq!((flow.received(), flow.undelivered()), (13, 0));
    }

    #[test]
    fn gaps_add_up_until_they_close() {
        let (mut flow, _pool) = filled(b"abcdef");
        flow.release(1);
        flow.skip(1);
        flow.skip(2);
        assert!(!flow.may_release(), "unsent octets stand before the gap");
        assert_eq!(drain(&mut flow, 1), b"a");
        flow.release(2);
        assert_eq!(drain(&mut flow, 9), b"ef");
    }

    #[test]
    fn a_full_buffer_is_compacted_when_its_octets_were_sent() {
        let (mut flow, pool) = filled(&vec![b'x'; LARGE]);
        assert!(!flow.wants_read() && flow.is_full());
        flow.release(10);
        assert!(!flow.wants_read(), "nothing was sent yet");
        flow.wrote(10);
        assert!(flow.wants_read() && !flow.is_full());
        assert_eq!(flow.space(&pool).len(), 10);
        assert_eq!(flow.unlabelled().len(), LARGE - 10);
    }
}
