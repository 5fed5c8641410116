//! The store: opened once, it hands out recorders and is finished before the process ends.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use aws_lc_rs::{hmac, rand};
use tokio::sync::watch;

use super::{
    broadcast::Broadcast,
    clock::{Clock, SystemClock},
    content::Wanted,
    directory, live,
    noticed::{Notice, Noticed},
    queue::{Message, Queue},
    recorder::Recorder,
    schema::{Opened, Record},
    segment::{Standard, Storage},
    throttle::Throttle,
    writer::{Health, Plan, Writer},
};
use crate::{
    anomaly::Anomaly,
    config::{ContentPolicy, HashPolicy, OnError, OnFull, Place, Streams, Transcript, UserPolicy},
    telemetry::Counts,
};

/// Octets that may wait for the writer when there is a live view and no transcript.
const LIVE_BUFFER: u64 = 1024 * 1024;

/// A writer that stands still for this long with something to write hangs.
const STUCK: Duration = Duration::from_secs(5);

/// Digits of a session's id: Crockford's base 32 in lower case, which has no `i`, `l`, `o` and `u`.
const ID_DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// How many of them; 60 bits.
const ID_LENGTH: usize = 12;

/// Somebody who is shown records as they are written, redacted as they are written.
///
/// Called on a thread of its own. When it is slower than the sessions, it misses records and is told how many.
pub trait LiveView: Send {
    /// Shows a record.
    fn show(&mut self, record: &Record);
    /// So many records were not shown, for want of time.
    fn lost(&mut self, records: u64);
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Something was to be done in the directory and failed.
    #[error("cannot {action} `{}`: {source}; hint: choose another place with `--transcript DIR`", path.display())]
    Directory {
        /// Such as `create the transcript directory`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The directory is not safe to write to.
    #[error("transcript directory `{}` {problem}; hint: {hint}", path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// The system gave no random numbers for the key of hashed user names.
    #[error("cannot make a key for hashed user names: the system gives no random numbers")]
    Random,
    /// The writer could not be started.
    #[error("cannot start the transcript's writer thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// What a store lost, over its whole life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Events that were not recorded: there was no room, or they could not be written.
    pub events: u64,
    /// Session summaries that could not be written.
    pub summaries: u64,
    /// Octets of message content that could not be kept.
    pub content_octets: u64,
    /// Records that were still unwritten when the time limit was reached.
    pub unwritten: u64,
}

impl Loss {
    /// Whether nothing was lost.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Who is told of what passes, beside the transcript.
#[derive(Default)]
pub struct Beside {
    /// Shown each record.
    pub live: Option<Box<dyn LiveView>>,
    /// Where sessions are counted.
    pub counts: Option<Arc<Counts>>,
    /// Through which records go to whoever looks on.
    pub broadcast: Option<Arc<Broadcast>>,
}

/// How a store is doing at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Octets that wait for the writer.
    pub waiting_octets: u64,
    /// Octets that may wait before sessions do.
    pub buffer: u64,
    /// Records that wait for the writer.
    pub waiting_records: u64,
    /// A stream cannot be written, or the writer hangs.
    pub failing: bool,
    /// What was lost so far; what waits is not.
    pub loss: Loss,
}

/// Where the records of all sessions go. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    done: watch::Receiver<bool>,
}

impl Store {
    /// Opens the store: makes and checks the directory, and starts the writer's threads.
    ///
    /// Without a transcript and a live view, recorders only keep the summary.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the directory cannot be made, is not ours alone to write to, or cannot be written to.
    pub fn open(transcript: Option<&Transcript>, live: Option<Box<dyn LiveView>>) -> Result<Self, StoreError> {
        Self::open_beside(transcript, Beside { live, ..Beside::default() })
    }

    /// As [`Store::open`], with others who are told of what passes.
    ///
    /// # Errors
    ///
    /// As [`Store::open`].
    pub fn open_beside(transcript: Option<&Transcript>, beside: Beside) -> Result<Self, StoreError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let storage: Option<Box<dyn Storage>> = match transcript {
            None => None,
            Some(transcript) => Some(match &transcript.place {
                Place::Stdout => Box::new(Standard),
                Place::Directory(path) => Box::new(directory::open(path, transcript)?),
            }),
        };
        Self::assemble(transcript, beside, storage, clock)
    }

    /// Puts a store together; a test brings storage and clock of its own.
    pub(super) fn assemble(
        transcript: Option<&Transcript>,
        Beside { live, counts, broadcast }: Beside,
        storage: Option<Box<dyn Storage>>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let user_key =
            transcript.filter(|transcript| transcript.user == UserPolicy::Hash).map(user_key).transpose()?.map(Arc::new);
        let health = Arc::new(Health::default());
        let (finished, done) = watch::channel(false);
        let mut shared = Shared {
            transcript: transcript.cloned(),
            user_key,
            clock: Arc::clone(&clock),
            queue: None,
            health: Arc::clone(&health),
            full: Mutex::new(Throttle::default()),
            live: live.is_some(),
            counts,
            broadcast: broadcast.clone(),
            notice: Notice::default(),
        };
        if storage.is_some() || live.is_some() || broadcast.is_some() {
            let queue = Arc::new(Queue::new(transcript.map_or(LIVE_BUFFER, |transcript| transcript.buffer)));
            shared.queue = Some(Arc::clone(&queue));
            let plan = transcript.map(Plan::of).unwrap_or_default();
            let feed = live.map(live::start).transpose().map_err(StoreError::Thread)?;
            let mut writer = Writer::new(plan, storage, feed, clock, health).beside(broadcast);
            spawn("poptap-record", move || {
                writer.run(&queue);
                drop(finished);
            })?;
        }
        Ok(Self { shared: Arc::new(shared), done })
    }

    /// Begins the record of a session: draws its id and records that it was opened.
    #[must_use]
    pub fn recorder(&self, opened: Opened) -> Recorder {
        Recorder::new(Arc::clone(&self.shared), draw_id(), opened)
    }

    /// Waits until a session has ended in which something odd was found: the first since the store was opened.
    pub async fn first_anomaly(&self) -> Noticed {
        self.shared.notice.wait().await
    }

    /// The same, if there was one.
    #[must_use]
    pub fn noticed(&self) -> Option<Noticed> {
        self.shared.notice.get()
    }

    /// Whether new sessions may be accepted: false while `on_error` is `refuse` and the store cannot be written, or hangs.
    #[must_use]
    pub fn accepts_sessions(&self) -> bool {
        let refuses = self.shared.transcript.as_ref().is_some_and(|transcript| transcript.on_error == OnError::Refuse);
        !(refuses && self.shared.is_failing())
    }

    /// How it is doing.
    #[must_use]
    pub fn condition(&self) -> Condition {
        let queue = self.shared.queue.as_ref();
        Condition {
            waiting_octets: queue.map_or(0, |queue| queue.used()),
            buffer: queue.map_or(0, |queue| queue.limit()),
            waiting_records: queue.map_or(0, |queue| queue.unwritten()),
            failing: self.shared.is_failing(),
            loss: self.shared.health.loss(),
        }
    }

    /// Writes what waits, finishes the segments (compressing them, where that is wanted), and says what was lost.
    ///
    /// Records made after this are dropped, and counted as unwritten. Waits at most `limit`, even when the disk hangs.
    pub async fn finish(&self, limit: Duration) -> Loss {
        if let Some(queue) = &self.shared.queue {
            queue.close();
            // The writer drops its end when it is done.
            let mut done = self.done.clone();
            let _ = tokio::time::timeout(limit, async { while done.changed().await.is_ok() {} }).await;
        }
        let unwritten = self.shared.queue.as_ref().map_or(0, |queue| queue.unwritten());
        Loss { unwritten, ..self.shared.health.loss() }
    }
}

/// What all recorders share.
pub(super) struct Shared {
    transcript: Option<Transcript>,
    pub(super) user_key: Option<Arc<hmac::Key>>,
    pub(super) clock: Arc<dyn Clock>,
    queue: Option<Arc<Queue>>,
    health: Arc<Health>,
    full: Mutex<Throttle>,
    live: bool,
    /// Where sessions are counted, if they are.
    pub(super) counts: Option<Arc<Counts>>,
    broadcast: Option<Arc<Broadcast>>,
    notice: Notice,
}

impl Shared {
    /// Whether anybody takes events; when not, only the summary is kept.
    pub(super) fn wants_events(&self) -> bool {
        self.keeps_events() || self.is_watched()
    }

    fn keeps_events(&self) -> bool {
        self.transcript.as_ref().is_some_and(|transcript| transcript.record == Streams::Events)
    }

    /// Whether somebody is shown what passes at this moment.
    fn is_watched(&self) -> bool {
        self.live || self.broadcast.as_ref().is_some_and(|broadcast| broadcast.is_watched())
    }

    /// Whether a stream cannot be written, or the writer stands still.
    fn is_failing(&self) -> bool {
        self.health.is_failing() || self.queue.as_ref().is_some_and(|queue| queue.is_stuck(STUCK))
    }

    pub(super) fn reveals(&self) -> bool {
        self.transcript.as_ref().is_some_and(|transcript| transcript.reveal_credentials)
    }

    /// Whether message content has a place to be kept in.
    pub(super) fn keeps_content(&self) -> bool {
        self.transcript.as_ref().is_some_and(|transcript| {
            let directory = matches!(transcript.place, Place::Directory(_));
            directory && transcript.record == Streams::Events && transcript.content != ContentPolicy::None
        })
    }

    /// What is wanted of a body: no digest where no transcript would hold it, and nothing where nobody would be told.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        let events = self.transcript.as_ref().filter(|transcript| transcript.record == Streams::Events);
        let measured =
            events.map(|transcript| Wanted { content: transcript.content, hash: transcript.hash, listings: transcript.listings });
        measured.or_else(|| self.is_watched().then_some(Wanted { hash: HashPolicy::None, ..Wanted::default() }))
    }

    /// Events that nobody keeps, for a live view or a page alone, never hold a session up.
    pub(super) fn on_full(&self) -> OnFull {
        let kept = self.transcript.as_ref().filter(|_| self.keeps_events());
        kept.map_or(OnFull::Mark, |transcript| transcript.on_full)
    }

    pub(super) fn wait_limit(&self) -> Option<Duration> {
        self.transcript.as_ref().and_then(|transcript| transcript.wait_limit)
    }

    /// Whether there is room, with so many octets counted in that are on their way.
    pub(super) fn has_room_beside(&self, octets: usize) -> bool {
        self.queue.as_ref().is_none_or(|queue| queue.has_room_beside(octets as u64))
    }

    pub(super) fn has_much_room(&self) -> bool {
        self.queue.as_ref().is_none_or(|queue| queue.has_much_room())
    }

    pub(super) fn send(&self, message: Message) {
        if let Some(queue) = &self.queue {
            queue.send(message);
        }
    }

    /// An empty buffer for a piece of content.
    pub(super) fn buffer(&self) -> Vec<u8> {
        self.queue.as_ref().map(|queue| queue.buffer()).unwrap_or_default()
    }

    /// A buffer is needed no more.
    pub(super) fn give_back(&self, buffer: Vec<u8>) {
        if let Some(queue) = &self.queue {
            queue.give_back(buffer);
        }
    }

    pub(super) fn wait(&self, session: &Arc<str>, waker: &std::task::Waker) {
        if let Some(queue) = &self.queue {
            queue.wait(session, waker);
        }
    }

    pub(super) fn forget(&self, session: &str) {
        if let Some(queue) = &self.queue {
            queue.forget(session);
        }
    }

    /// A session with an anomaly has ended.
    pub(super) fn notice(&self, session: &str, anomaly: Anomaly) {
        self.notice.give(session, anomaly);
    }

    /// Counts what sessions could not have recorded for want of room.
    pub(super) fn count_lost(&self, events: u64, content_octets: u64) {
        self.health.count_lost(events, content_octets);
    }

    /// Says in the log that events are not recorded, at most once in some seconds over all sessions.
    pub(super) fn warn_of_gap(&self, session: &str) {
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept_quiet) = full.allow(self.clock.now().steady) {
            tracing::warn!(
                session,
                kept_quiet,
                "the transcript's buffer is full: events of sessions are not recorded until the writer has caught up"
            );
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(queue) = &self.queue {
            queue.close();
        }
    }
}

/// Starts a thread of the store's.
pub(super) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>, StoreError> {
    thread::Builder::new().name(name.to_owned()).spawn(work).map_err(StoreError::Thread)
}

fn user_key(transcript: &Transcript) -> Result<hmac::Key, StoreError> {
    let mut key = [0; directory::KEY_LENGTH];
    rand::fill(&mut key).map_err(|_| StoreError::Random)?;
    if let Place::Directory(path) = &transcript.place {
        key = directory::key(path, key)?;
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &key))
}

fn draw_id() -> String {
    let mut random = [0_u8; ID_LENGTH];
    // From the system, since an id need not be secret: the cryptographic generator gathers entropy first, in each thread, which
    // takes it a tenth of a second.
    if getrandom::fill(&mut random).is_err() {
        // The clock's digits are a last resort.
        let nanos = time::OffsetDateTime::now_utc().unix_timestamp_nanos().to_le_bytes();
        random.copy_from_slice(&nanos[..ID_LENGTH]);
    }
    random.iter().map(|octet| char::from(ID_DIGITS[usize::from(octet & 31)])).collect()
}

#[cfg(test)]
impl Store {
    /// The way to the writer, for tests.
    pub(super) fn queue(&self) -> &Queue {
        self.shared.queue.as_ref().unwrap()
    }
}
