//! What clients have deleted and the server still has: a small store of marks that survives a crash.
//!
//! Behind the shield a client is told that a message was deleted, and the server keeps it. Later sessions have to hide it, so
//! it is remembered by what names it for ever: its unique id (RFC 1939 §7), within one user's mailbox on one upstream.
//!
//! Neither ids nor users are on disk in clear. A [`Mark`] is 16 octets of a SHA-256 over upstream, user and id. The hash has no
//! key: who can read the file can find out whether it holds a message that he can name. It is its owner's alone to read.
//!
//! # What is promised
//!
//! * What [`Memory::remember`] has returned `Ok` for is there after a crash of the process or the machine; of what it returned an
//!   error for, nothing. (One gap remains: the disk fails to sync what it has written, poptap can neither take it back nor
//!   write the file anew, which it tries again whenever it is to remember something, and then ends or crashes.)
//! * An entry expires when it was not seen on the server for `keep`, in days of UTC, rounded up. It goes when the memory is
//!   opened, when its file is written anew, and when room is needed; until then it is still remembered.
//! * A clock that goes back expires nothing: no entry is dated before the latest day that was known. A clock that runs ahead
//!   expires entries early, if that is when the file is opened or written anew, since it cannot be told from time passing; and
//!   what is seen from then on is dated as it said, and stays longer.
//! * At most 4,000,000 entries. Beyond that [`Memory::remember`] fails, and nothing is dropped to make room.
//!
//! # Memory
//!
//! An entry takes 18 octets, and one for the map, which has 8/7 to 16/7 places for each: 22 to 44 octets. 4,000,000 entries are
//! spread over 256 maps of 32,768 places each, which take 152 MiB. A batch takes up to 18 MiB while it is read, and twice that
//! while it is written: below 190 MiB in all (175 MiB were measured). Entries are spread by a hash with a random key, so nobody can choose ids that all go to one map.
//!
//! # Locks
//!
//! [`Memory::remembers`] never waits for the disk. Each of the 256 maps has a lock of its own, which is held for longest when the
//! map is copied or rebuilt: some 16,000 entries when the memory is full. The file has its own lock, held while it is written
//! and synced, or written anew. [`Memory::remember`] waits for it, [`Memory::seen`] does not. A file that needs it is written
//! anew in a thread that ends with that: 72 MB when the memory is full. There has to be room for both files on the disk;
//! without it the old one is used on.
//!
//! # The file
//!
//! In the directory are `shield.marks`, `shield.lock`, which is locked (flock) while a process uses the directory, and for
//! moments `shield.marks.new`. Numbers are little-endian. A day is the number of days since 1970-01-01, in 2 octets.
//!
//! ```text
//! file     header batch*
//! header   89 "PTSHLD" 0a | version, 2 octets: 1 | latest day | check, 4 octets: SHA-256 over the 12 before it, truncated
//! batch    b5 "mrk" | number of entries, 4 octets: 1 to 1,048,576 | check, 8 octets | entry*
//! entry    mark, 16 octets | the day on which it was last seen
//! ```
//!
//! A batch's check is over the 8 octets before it and all entries: a SHA-256 as well, truncated.
//!
//! The file is appended to, a batch at a time. Of several entries for a mark the latest day counts, so their order does not
//! matter. What is no whole batch is dropped when the file is opened: a torn end, which is cut off, or damage, behind which
//! the next whole batch is looked for. Either is logged. When the file is over 64 KiB and more than twice as long as it need
//! be, it is written anew under another name, synced, renamed over the old one, and the directory is synced. A file whose header
//! is not as above is left as it is.
//!
//! # Two processes
//!
//! While one process replaces another (an upgrade), both use the directory. [`Memory::share`] turns the exclusive lock of the one
//! that was there into a shared one, which the other takes too ([`Memory::join`]); strangers, who want it exclusively, stay out. From then on whoever
//! does anything with the file takes a turn first: an exclusive lock on `shield.turn`, under which what the others have
//! appended is read, or the whole file where they have written it anew. So nobody replaces what he does not know, and
//! [`Memory::refresh`], before a session asks, finds whatever any of them has remembered.

mod disk;
mod format;
mod log;
mod table;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::digest::{Context, SHA256};

use disk::{Directory, Disk, Tenure, Turn};
use log::{Log, Until};
use table::Table;

/// Days since 1970-01-01, UTC.
type Day = u16;

/// What the memory may grow to.
#[derive(Clone, Copy)]
struct Limits {
    entries: usize,
    /// A file of so many octets is left alone, however much of it is superseded.
    small: u64,
}

/// What is tried when it is another process's turn.
const WAIT: &str = "read what another process has written to";

const LIMITS: Limits = Limits { entries: 4_000_000, small: 64 * 1024 };

/// Why the memory could not be opened, or could not remember.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Something was to be done with the directory or the file when it was opened.
    #[error("cannot {action} `{}`: {source}; hint: the shield needs a directory that poptap may write to", path.display())]
    Open {
        /// Such as `create the shield's directory`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The directory is not safe to write to.
    #[error("the shield's directory `{}` {problem}; hint: {hint}", path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// Another process, or another memory in this one, has the directory.
    #[error("the shield's directory `{}` is in use; hint: is another poptap running? give each a directory of its own", path.display())]
    Held {
        /// The directory.
        path: PathBuf,
    },
    /// There is a file which is none of this format. It was left as it is.
    #[error("`{}` cannot be read as the shield's memory: {problem}; hint: move it away to begin with an empty one", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// A write failed. Nothing of what was to be remembered is; what was remembered before still is.
    #[error("cannot {action} `{}`: {source}; nothing new is remembered; hint: is the disk full?", path.display())]
    Write {
        /// Such as `write to`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There would be more entries than the memory may hold. Nothing was dropped, and nothing new is remembered.
    #[error("the shield's memory `{}` is full: it holds at most {limit} messages; hint: delete them on the server, or keep them for a shorter time", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// How many it may hold.
        limit: usize,
    },
    /// More marks than can be remembered at once. None of them is.
    #[error("cannot remember {marks} messages at once, {limit} at most")]
    TooMany {
        /// How many there were.
        marks: usize,
        /// How many there may be.
        limit: usize,
    },
}

/// Names a message for ever: 16 octets of a SHA-256 over upstream, user and unique id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark([u8; 16]);

impl Mark {
    /// The first 16 octets, of at least as many.
    fn of(octets: &[u8]) -> Self {
        Self(std::array::from_fn(|index| octets[index]))
    }
}

/// One user's mailbox on one upstream. Cheap to keep for a session.
#[derive(Clone)]
pub struct Account {
    /// Has been told upstream and user.
    begun: Context,
}

impl Account {
    /// The mark of the message that the server names `uid`, without line end: SHA-256 over upstream, NUL, lower-cased user,
    /// NUL, uid, of which the first 16 octets are taken.
    #[must_use]
    pub fn mark(&self, uid: &[u8]) -> Mark {
        let mut context = self.begun.clone();
        context.update(uid);
        Mark::of(context.finish().as_ref())
    }
}

/// The marks of all messages that are hidden. Shared by all sessions.
pub struct Memory {
    shared: Arc<Shared>,
    /// The thread that writes the file anew, or did.
    compaction: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Memory {
    /// Opens the memory in a directory of its own, which is made (mode 0700) if there is none, as is the file (mode 0600).
    ///
    /// Entries expire when they were not seen for `keep`, rounded up to whole days. `now` is the clock: [`SystemTime::now`],
    /// except in tests. Reads the whole file, up to some 150 MB: seconds.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] when the directory is in use, is not ours alone to write to, or cannot be written to, and when there is
    /// a file that cannot be read as one of this format. That file is left as it is.
    pub fn open(
        directory: &Path,
        keep: Duration,
        now: impl Fn() -> SystemTime + Send + Sync + 'static,
    ) -> Result<Self, MemoryError> {
        Self::assemble(Box::new(Directory::open(directory, Tenure::Alone)?), keep, Box::new(now), LIMITS)
    }

    /// As [`Memory::open`], beside the process that this one replaces and that has called [`Memory::share`].
    ///
    /// # Errors
    ///
    /// As [`Memory::open`].
    pub fn join(
        directory: &Path,
        keep: Duration,
        now: impl Fn() -> SystemTime + Send + Sync + 'static,
    ) -> Result<Self, MemoryError> {
        let memory = Self::assemble(Box::new(Directory::open(directory, Tenure::Shared)?), keep, Box::new(now), LIMITS)?;
        memory.shared.takes_turns.store(true, Ordering::Release);
        Ok(memory)
    }

    /// Puts a memory together; a test brings disk, clock and limits of its own.
    fn assemble(disk: Box<dyn Disk>, keep: Duration, now: Clock, limits: Limits) -> Result<Self, MemoryError> {
        let path = disk.file().to_owned();
        let cannot_wait = |source| MemoryError::Open { action: WAIT, path: path.clone(), source };
        let turn = disk.turn().map_err(cannot_wait)?;
        let (lifetime, today, mut table) = (lifetime(keep), day_of(now()), Table::new());
        let load = |table: &Table, today: Day, mark: Mark, day: Day| {
            if !is_expired(day, lifetime, today) && table.len() <= limits.entries {
                table.add(mark, day);
            }
        };
        let (log, latest, dropped) = Log::open(disk, |mark, day| load(&table, today, mark, day))?;
        if table.len() > limits.entries && latest > today {
            // The clock has gone back behind a day on which some of them had expired and made room for others.
            table = Table::new();
            log.entries(|mark, day| load(&table, latest, mark, day))?;
        }
        drop(turn);
        if table.len() > limits.entries {
            return Err(MemoryError::Full { path, limit: limits.entries });
        }
        if dropped > 0 {
            tracing::warn!(path = %path.display(), octets = dropped, "the shield's memory was damaged or torn, as after a crash; what could not be read was dropped, everything else is remembered");
        }
        let latest = AtomicU16::new(latest.max(today));
        let file = Mutex::new(Written { log, expired: (today, 0) });
        let (compacting, takes_turns) = (AtomicBool::new(false), AtomicBool::new(false));
        let raised = Mutex::default();
        let shared = Shared { path, table, file, raised, lifetime, now, latest, limits, compacting, takes_turns, dropped };
        Ok(Self { shared: Arc::new(shared), compaction: Mutex::default() })
    }

    /// The mailbox of a user, whose name is taken without regard to case, on an upstream, by the name that it is configured
    /// with.
    #[must_use]
    pub fn account(&self, upstream: &str, user: &str) -> Account {
        Self::account_of(upstream, user)
    }

    /// The same without a memory.
    pub(super) fn account_of(upstream: &str, user: &str) -> Account {
        let mut begun = Context::new(&SHA256);
        for part in [upstream, "\0", &user.to_lowercase(), "\0"] {
            begun.update(part.as_bytes());
        }
        Account { begun }
    }

    /// Lets the process in that is to replace this one: by [`Memory::join`]. That holds from now on.
    ///
    /// Waits until what is being written is written.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Write`] when the lock cannot be had.
    pub fn share(&self) -> Result<(), MemoryError> {
        let mut file = self.shared.file();
        file.log.share().map_err(|source| self.shared.cannot("share", source))?;
        self.shared.takes_turns.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether other processes may use the directory too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.shared.takes_turns.load(Ordering::Acquire)
    }

    /// Learns what other processes have remembered. Blocks, but only while one of them writes, or when there is something new.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Write`] when that cannot be read: [`Memory::remembers`] may then not know of everything.
    pub fn refresh(&self) -> Result<(), MemoryError> {
        if !self.is_shared() {
            return Ok(());
        }
        let mut file = self.shared.file();
        if file.log.has_news() { self.shared.turn(&mut file).map(drop) } else { Ok(()) }
    }

    /// Whether the message is to be hidden. Never waits for the disk.
    #[must_use]
    pub fn remembers(&self, mark: &Mark) -> bool {
        self.shared.table.get(mark).is_some()
    }

    /// Remembers that these messages are to be hidden: all of them, on the disk, or none.
    ///
    /// Blocks until the disk has synced them; it may have to wait for others, and while the file is written anew.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Write`], [`MemoryError::Full`] (over 4,000,000 entries) and [`MemoryError::TooMany`] (over 1,048,576 at
    /// once). Then none of those that were not remembered before is, and all that were still are. It can be tried again.
    pub fn remember(&self, marks: &[Mark]) -> Result<(), MemoryError> {
        if marks.len() > format::BATCH {
            return Err(MemoryError::TooMany { marks: marks.len(), limit: format::BATCH });
        }
        let mut file = self.shared.file();
        let turn = self.shared.turn(&mut file)?;
        let outcome = self.shared.remember(&mut file, marks);
        self.shared.write_raised(&mut file);
        drop(turn);
        self.compact_if_due(file);
        outcome
    }

    /// Says that these messages were seen on the server today: they do not expire. Those that are not remembered are ignored.
    ///
    /// Waits for no lock of the file and no sync: what is seen while the file is in use is written by the next call, and a crash
    /// of the machine may lose it. For a mark that was seen today already, no more than [`Memory::remembers`].
    pub fn seen(&self, marks: &[Mark]) {
        let day = self.shared.stamp();
        let raised: Vec<_> = marks.iter().copied().filter(|mark| self.shared.table.raise(mark, day)).collect();
        if raised.is_empty() {
            return;
        }
        lock(&self.shared.raised).extend(raised);
        let mut file = match self.shared.file.try_lock() {
            Ok(file) => file,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let Ok(turn) = self.shared.free_turn(&mut file) else { return };
        self.shared.write_raised(&mut file);
        drop(turn);
        self.compact_if_due(file);
    }

    /// How many messages are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.table.len()
    }

    /// Whether no message is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Octets of the file that could not be read when it was opened, and were dropped: a torn end, or damage.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped
    }

    /// Has the file written anew in a thread, when that is worth it and is not being done.
    fn compact_if_due(&self, mut file: MutexGuard<'_, Written>) {
        let due = self.shared.is_due(&mut file);
        drop(file);
        let mut compaction = lock(&self.compaction);
        if !due || self.shared.compacting.swap(true, Ordering::AcqRel) {
            return;
        }
        join(&mut compaction);
        let shared = Arc::clone(&self.shared);
        let started = thread::Builder::new().name("poptap-shield".to_owned()).spawn(move || shared.compact());
        match started {
            Ok(thread) => *compaction = Some(thread),
            Err(error) => {
                self.shared.compacting.store(false, Ordering::Release);
                tracing::warn!(%error, "cannot start the thread that writes the shield's memory anew; it is tried again");
            }
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        join(&mut lock(&self.compaction));
        let mut file = self.shared.file();
        // Without the turn it is lost, as after a crash.
        if let Ok(_turn) = self.shared.turn(&mut file) {
            self.shared.write_raised(&mut file);
        }
    }
}

/// Waits for the end of a thread, after which it does not hold the directory any more.
fn join(thread: &mut Option<thread::JoinHandle<()>>) {
    if let Some(thread) = thread.take() {
        // A panic there has been reported on stderr; the file is whole at every step.
        let _ = thread.join();
    }
}

type Clock = Box<dyn Fn() -> SystemTime + Send + Sync>;

struct Shared {
    path: PathBuf,
    table: Table,
    file: Mutex<Written>,
    /// Marks whose day in the table is newer than in the file. Each is here once a day at most.
    raised: Mutex<Vec<Mark>>,
    /// How many days an entry stays after the one on which it was last seen.
    lifetime: Day,
    now: Clock,
    /// The latest day that the clock was known to have reached.
    latest: AtomicU16,
    limits: Limits,
    compacting: AtomicBool,
    /// Whether other processes may write to the file.
    takes_turns: AtomicBool,
    dropped: u64,
}

struct Written {
    log: Log,
    /// How many had expired in the table when they were last counted, and on which day that was.
    expired: (Day, usize),
}

impl Shared {
    fn file(&self) -> MutexGuard<'_, Written> {
        lock(&self.file)
    }

    /// The turn, where the file is shared; then all that others have written is known.
    fn turn(&self, file: &mut Written) -> Result<Turn, MemoryError> {
        file.log.turn(|mark, day| self.learn(mark, day)).map_err(|source| self.cannot(WAIT, source))
    }

    /// The same, unless it is somebody else's turn.
    fn free_turn(&self, file: &mut Written) -> io::Result<Turn> {
        file.log.free_turn(|mark, day| self.learn(mark, day))
    }

    fn learn(&self, mark: Mark, day: Day) {
        self.table.add(mark, day);
        self.latest.fetch_max(day, Ordering::Relaxed);
    }

    fn cannot(&self, action: &'static str, source: io::Error) -> MemoryError {
        MemoryError::Write { action, path: self.path.clone(), source }
    }

    /// What the clock says.
    fn today(&self) -> Day {
        let today = day_of((self.now)());
        self.latest.fetch_max(today, Ordering::Relaxed);
        today
    }

    /// The day that entries get: today, unless the clock has gone back.
    fn stamp(&self) -> Day {
        let today = self.today();
        self.latest.load(Ordering::Relaxed).max(today)
    }

    fn remember(&self, file: &mut Written, marks: &[Mark]) -> Result<(), MemoryError> {
        if file.log.is_suspect() {
            self.rewrite(file)?;
        }
        if self.table.len() + marks.len() > self.limits.entries {
            self.expire(file);
        }
        let day = self.stamp();
        let older = |mark: &Mark| self.table.get(mark).is_none_or(|known| known < day);
        let mut entries: Vec<_> = marks.iter().filter(|mark| older(mark)).map(|mark| (*mark, day)).collect();
        entries.sort_unstable();
        entries.dedup();
        let added = entries.iter().filter(|(mark, _)| self.table.get(mark).is_none()).count();
        if added > 0 && self.table.len() + added > self.limits.entries {
            return Err(MemoryError::Full { path: self.path.clone(), limit: self.limits.entries });
        }
        if !entries.is_empty() {
            file.log.append(&entries, Until::Synced)?;
        }
        for (mark, day) in entries {
            self.table.add(mark, day);
        }
        Ok(())
    }

    /// Appends what was seen. If that fails, it is written when the file is written anew.
    fn write_raised(&self, file: &mut Written) {
        let raised = std::mem::take(&mut *lock(&self.raised));
        if raised.is_empty() {
            return;
        }
        if file.log.is_suspect() {
            return file.log.is_behind();
        }
        let day_of = |mark: Mark| self.table.get(&mark).map(|day| (mark, day));
        for marks in raised.chunks(format::BATCH) {
            let entries: Vec<_> = marks.iter().copied().filter_map(day_of).collect();
            if entries.is_empty() {
                continue;
            }
            if let Err(error) = file.log.append(&entries, Until::Written) {
                tracing::warn!(%error, "the shield's memory cannot note which messages were seen today; it is tried again");
                return file.log.is_behind();
            }
        }
    }

    fn is_due(&self, file: &mut Written) -> bool {
        let expired = self.expired(file);
        file.log.is_due(self.table.len().saturating_sub(expired), self.limits.small)
    }

    /// How many have expired, counted once a day.
    fn expired(&self, file: &mut Written) -> usize {
        let today = self.today();
        if file.expired.0 != today {
            file.expired = (today, self.table.count(|day| is_expired(day, self.lifetime, today)));
        }
        file.expired.1
    }

    /// Forgets what has expired.
    fn expire(&self, file: &mut Written) {
        if self.expired(file) > 0 {
            let today = file.expired.0;
            self.table.remove(|day| is_expired(day, self.lifetime, today));
            file.expired.1 = 0;
        }
    }

    fn rewrite(&self, file: &mut Written) -> Result<(), MemoryError> {
        self.expire(file);
        // The table knows them.
        lock(&self.raised).clear();
        file.log.rewrite(self.latest.load(Ordering::Relaxed), &self.table)
    }

    /// Writes the file anew, on a thread of its own.
    fn compact(&self) {
        let mut file = self.file();
        let outcome = self.turn(&mut file).and_then(|_turn| self.rewrite(&mut file));
        drop(file);
        if let Err(error) = outcome {
            tracing::warn!(%error, "the shield's memory goes on with its old file; it is tried again");
        }
        self.compacting.store(false, Ordering::Release);
    }
}

fn day_of(time: SystemTime) -> Day {
    let days = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / DAY);
    Day::try_from(days).unwrap_or(Day::MAX)
}

fn lifetime(keep: Duration) -> Day {
    let seconds = keep.as_secs().saturating_add(u64::from(keep.subsec_nanos() > 0));
    Day::try_from(seconds.div_ceil(DAY)).unwrap_or(Day::MAX)
}

fn is_expired(day: Day, lifetime: Day, today: Day) -> bool {
    today > day.saturating_add(lifetime)
}

const DAY: u64 = 24 * 60 * 60;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(super) mod tests;
