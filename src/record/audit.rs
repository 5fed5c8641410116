//! Keeps the roll-up of logins: the writer counts, which takes it a look into a table, and a thread of its own writes.
//!
//! What was counted is on the disk about a second later, or after a pause where much is counted. A crash loses what is
//! younger. While the disk fails, rows stay in memory and are tried again.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use time::OffsetDateTime;

use super::{
    clock::Moment,
    rollup::{Key, Rollup, Second, Seen, address},
    schema::Summary,
    slot::Slot,
    store::{StoreError, spawn},
};
use crate::config::Transcript;

/// What comes within this time of the first change is written with it.
const SETTLE: Duration = Duration::from_secs(1);

/// From one writing to the next, at least …
const PAUSE: Duration = Duration::from_secs(10);

/// … and this many times as long as writing took.
const SHARE: u32 = 50;

/// How often rows are looked through for such as are too old when nothing comes.
const EXPIRY: Duration = Duration::from_secs(86_400);

/// The roll-up of a directory.
pub(super) struct Audit {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug)]
struct State {
    rollup: Rollup,
    /// There is something that is not on the disk.
    changed: bool,
    closed: bool,
}

impl Audit {
    /// Starts the thread; `None` where no roll-up is to be kept. The directory is not touched before there is something to keep.
    pub(super) fn start(directory: &Path, transcript: &Transcript) -> Result<Option<Self>, StoreError> {
        if transcript.audit_rows == 0 {
            return Ok(None);
        }
        let now = stamp(OffsetDateTime::now_utc());
        let state = State { rollup: Rollup::new(transcript.audit_rows, &now), changed: false, closed: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new() });
        let keeper = Keeper {
            directory: directory.to_owned(),
            limit: transcript.audit_rows,
            keep: transcript.audit_keep,
            shared: Arc::clone(&shared),
            slot: None,
            failing: false,
            written: None,
        };
        let thread = spawn("poptap-audit", move || keeper.run())?;
        Ok(Some(Self { shared, thread }))
    }

    /// Counts a session that is over, when somebody logged in.
    pub(super) fn count(&self, summary: &Summary) {
        let Some((key, seen)) = row(summary) else { return };
        let mut state = self.shared.lock();
        state.rollup.add(key, seen);
        if !std::mem::replace(&mut state.changed, true) {
            self.shared.wake.notify_all();
        }
    }

    /// Writes what is not written yet.
    pub(super) fn close(self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
        // A panic there has been reported on stderr; the file is as it was written last.
        let _ = self.thread.join();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something to write; says whether it is the last time.
    fn wait(&self, written: Option<(Instant, Duration)>) -> bool {
        let idle = |state: &mut State| !state.changed && !state.closed;
        let (state, _) = self.wake.wait_timeout_while(self.lock(), EXPIRY, idle).unwrap_or_else(PoisonError::into_inner);
        let pause = written.map_or(Duration::ZERO, |(at, took)| PAUSE.max(took * SHARE).saturating_sub(at.elapsed()));
        let open = |state: &mut State| !state.closed;
        let waited = self.wake.wait_timeout_while(state, pause.max(SETTLE), open);
        waited.unwrap_or_else(PoisonError::into_inner).0.closed
    }
}

/// The row that a session belongs to, and itself; `None` when nobody logged in.
fn row(summary: &Summary) -> Option<(Key, Seen)> {
    let boxed = |text: &Option<String>| text.as_deref().map(Box::from);
    let start = Second::of(&summary.start).filter(|_| summary.logged_in)?;
    let key = Key {
        user: boxed(&summary.user),
        client: address(&summary.client),
        client_tls: boxed(&summary.client_tls),
        upstream_tls: boxed(&summary.upstream_tls),
        mechanism: boxed(&summary.mechanism),
    };
    Some((key, Seen::once(start)))
}

/// The transcript's form of a time.
fn stamp(wall: OffsetDateTime) -> String {
    Moment { wall, steady: Duration::ZERO }.stamp()
}

/// The thread's.
struct Keeper {
    directory: PathBuf,
    limit: usize,
    keep: Duration,
    shared: Arc<Shared>,
    /// `None` until there is something to write.
    slot: Option<Slot>,
    failing: bool,
    /// When it was written last, and how long that took.
    written: Option<(Instant, Duration)>,
}

impl Keeper {
    fn run(mut self) {
        loop {
            let closed = self.shared.wait(self.written);
            let begun = Instant::now();
            let outcome = self.expire_and_save(OffsetDateTime::now_utc());
            self.report(outcome);
            self.written = Some((begun, begun.elapsed()));
            if closed {
                return;
            }
        }
    }

    /// Removes what is too old, and writes the file anew where anything changed.
    fn expire_and_save(&mut self, now: OffsetDateTime) -> io::Result<()> {
        let before = self.keep.try_into().ok().and_then(|keep| now.checked_sub(keep)).and_then(|then| Second::of(&stamp(then)));
        {
            let mut state = self.shared.lock();
            state.changed |= before.is_some_and(|before| state.rollup.expire(before));
            if !state.changed {
                return Ok(());
            }
        }
        self.hold(before)?;
        let (reach, rows) = {
            let mut state = self.shared.lock();
            state.changed = false;
            if let Some(before) = before {
                state.rollup.expire(before);
            }
            (state.rollup.reach().clone(), state.rollup.rows())
        };
        let saved = self.slot.as_ref().map_or(Ok(()), |slot| slot.save(&reach, &rows));
        saved.inspect_err(|_| self.shared.lock().changed = true)
    }

    /// Sees to it that a file is ours, and that what it held is counted.
    fn hold(&mut self, before: Option<Second>) -> io::Result<()> {
        let lost = match &self.slot {
            Some(slot) if slot.is_ours() => return Ok(()),
            lost => lost.as_ref().map(Slot::number),
        };
        let slot = Slot::take(&self.directory)?;
        // What we wrote to it ourselves is counted already.
        if lost != Some(slot.number()) {
            let mut rollup = self.load(&slot)?;
            let mut state = self.shared.lock();
            rollup.reaches(state.rollup.reach());
            state.rollup.rows().into_iter().for_each(|row| rollup.add((*row.key).clone(), row.seen));
            state.rollup = rollup;
        }
        if let Some(before) = before {
            slot.others().iter().try_for_each(|other| self.expire_in(other, before))?;
        }
        self.slot = Some(slot);
        Ok(())
    }

    /// What a process wrote that ended and whose place nobody took gets old, too.
    fn expire_in(&self, slot: &Slot, before: Second) -> io::Result<()> {
        let mut rollup = self.load(slot)?;
        if rollup.expire(before) { slot.save(rollup.reach(), &rollup.rows()) } else { Ok(()) }
    }

    fn load(&self, slot: &Slot) -> io::Result<Rollup> {
        let since = self.shared.lock().rollup.reach().since.clone();
        let mut rollup = Rollup::new(self.limit, &since);
        let unreadable = slot.load(&mut rollup)?;
        if unreadable > 0 {
            tracing::warn!(unreadable, directory = %self.directory.display(), "lines of the roll-up of logins could not be read, and are gone");
        }
        Ok(rollup)
    }

    /// Said once, and once more when it is over.
    fn report(&mut self, outcome: io::Result<()>) {
        let directory = self.directory.display();
        match outcome {
            Err(error) if !self.failing => {
                tracing::error!(%error, %directory, "cannot write the roll-up of logins for `sessions audit`; it is kept in memory and tried again");
                self.failing = true;
            }
            Ok(()) if self.failing => {
                tracing::warn!(%directory, "the roll-up of logins can be written again");
                self.failing = false;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{super::rollup::tests, *};

    fn keeper(directory: &Path, limit: usize) -> Keeper {
        let state = State { rollup: Rollup::new(limit, tests::SINCE), changed: false, closed: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new() });
        let keep = Duration::from_secs(60);
        Keeper { directory: directory.to_owned(), limit, keep, shared, slot: None, failing: false, written: None }
    }

    fn at(number: u32) -> OffsetDateTime {
        // The second of the roll-up's tests.
        OffsetDateTime::from_unix_timestamp(1_795_413_600 + i64::from(number)).unwrap()
    }

    fn count(keeper: &Keeper, user: &str, number: u32) {
        let start = tests::second(number).to_string();
        let summary =
            Summary { start, client: "192.0.2.1:4000".into(), user: Some(user.into()), logged_in: true, ..Summary::default() };
        let (key, seen) = row(&summary).unwrap();
        let mut state = keeper.shared.lock();
        state.rollup.add(key, seen);
        state.changed = true;
    }

    fn file(directory: &Path, number: u32) -> String {
        fs::read_to_string(directory.join(format!("audit-{number}.jsonl"))).unwrap_or_default()
    }

    #[test]
    fn who_did_not_log_in_is_not_counted() {
        let summary = Summary { start: "2026-11-23T06:30:00Z".into(), client: "192.0.2.1:1".into(), ..Summary::default() };
        assert!(row(&summary).is_none());
        assert!(row(&Summary { logged_in: true, ..summary }).is_some());
    }

    #[test]
    fn nothing_is_made_before_there_is_something_to_keep() {
        let folder = tempfile::tempdir().unwrap();
        keeper(folder.path(), 10).expire_and_save(at(0)).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn rows_outlive_their_process_and_expire() {
        let folder = tempfile::tempdir().unwrap();
        for number in [1, 2] {
            let mut keeper = keeper(folder.path(), 10);
            count(&keeper, "anna", number);
            keeper.expire_and_save(at(number)).unwrap();
        }
        assert!(file(folder.path(), 1).contains(r#""sessions":2,"first":"2026-11-23T06:00:01Z""#), "{}", file(folder.path(), 1));
        let mut keeper = keeper(folder.path(), 10);
        count(&keeper, "bob", 70);
        keeper.expire_and_save(at(70)).unwrap();
        let text = file(folder.path(), 1);
        assert!(!text.contains("anna") && text.contains(r#""expired":1"#), "{text}");
        keeper.expire_and_save(at(200)).unwrap();
        assert!(!file(folder.path(), 1).contains("bob"), "an idle process forgets too");
    }

    #[test]
    fn a_file_that_nobody_goes_on_with_expires() {
        let folder = tempfile::tempdir().unwrap();
        let (mut one, mut two) = (keeper(folder.path(), 10), keeper(folder.path(), 10));
        for (keeper, user) in [(&mut one, "anna"), (&mut two, "bob")] {
            count(keeper, user, 1);
            keeper.expire_and_save(at(1)).unwrap();
        }
        assert!(file(folder.path(), 2).contains("bob"));
        drop((one, two));
        let mut three = keeper(folder.path(), 10);
        count(&three, "carol", 100);
        three.expire_and_save(at(100)).unwrap();
        assert!(file(folder.path(), 1).contains("carol") && !file(folder.path(), 2).contains("bob"));
    }

    #[test]
    fn a_disk_that_fails_costs_nothing_once_it_works() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("store");
        fs::write(&place, "a file in the way").unwrap();
        let mut keeper = keeper(&place, 10);
        count(&keeper, "anna", 1);
        assert!(keeper.expire_and_save(at(1)).is_err());
        fs::remove_file(&place).unwrap();
        keeper.expire_and_save(at(2)).unwrap();
        assert!(file(&place, 1).contains("anna"));
        fs::remove_dir_all(&place).unwrap();
        count(&keeper, "anna", 3);
        keeper.expire_and_save(at(3)).unwrap();
        assert!(file(&place, 1).contains(r#""sessions":2"#), "what was cleared away is written again");
    }

    #[test]
    fn the_bound_holds_for_what_was_there_before() {
        let folder = tempfile::tempdir().unwrap();
        for user in ["anna", "bob"] {
            let mut keeper = keeper(folder.path(), 1);
            count(&keeper, user, u32::from(user == "bob"));
            keeper.expire_and_save(at(1)).unwrap();
        }
        let text = file(folder.path(), 1);
        assert!(text.contains("bob") && !text.contains("anna") && text.contains(r#""dropped":1"#), "{text}");
    }
}
