//! The roll-up's file: one for each process that writes into a directory at the same time.
//!
//! A process takes the first of `audit-1`, `audit-2`, … that nobody holds, goes on where the one before left it, and writes it
//! anew each time: to a draft that then takes its name. The lock has a file of its own, since the other one is replaced.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, BufWriter, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{
    directory::{folder, lock, private},
    rollup::{Key, Reach, Rollup, Row, VERSION},
};

/// Processes that may write into one directory at the same time and keep a roll-up.
const SLOTS: u32 = 100;

/// A slot whose lock we hold.
#[derive(Debug)]
pub(super) struct Slot {
    directory: PathBuf,
    number: u32,
    lock: File,
}

impl Slot {
    /// Takes the first free slot. One with a file of a later version, or that is no roll-up, is left as it is.
    ///
    /// # Errors
    ///
    /// What the system said, or that all are held.
    pub(super) fn take(directory: &Path) -> io::Result<Self> {
        for number in 1..=SLOTS {
            if let Some(slot) = Self::hold(directory, number)? {
                return Ok(slot);
            }
        }
        Err(io::Error::new(io::ErrorKind::WouldBlock, format!("{SLOTS} processes keep one there already")))
    }

    /// Which one it is.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// The other slots that have a file and that nobody holds.
    pub(super) fn others(&self) -> Vec<Self> {
        let others = (1..=SLOTS).filter(|&number| number != self.number && file(&self.directory, number, "jsonl").exists());
        others.filter_map(|number| Self::hold(&self.directory, number).ok().flatten()).collect()
    }

    /// `None` when somebody else holds it, or when its file is not for us to write anew.
    fn hold(directory: &Path, number: u32) -> io::Result<Option<Self>> {
        let path = file(directory, number, "lock");
        let options = || private().read(true).write(true).create(true).truncate(false).open(&path);
        let lock_file = match options() {
            // Somebody cleared the directory away while we run.
            Err(error) if error.kind() == io::ErrorKind::NotFound => folder(directory).and_then(|()| options()),
            outcome => outcome,
        }?;
        match lock(&lock_file) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            outcome => outcome?,
        }
        let slot = Self { directory: directory.to_owned(), number, lock: lock_file };
        Ok(if slot.is_ours() && slot.is_readable()? { Some(slot) } else { None })
    }

    /// Whether the lock is still there. Who has removed it may have let in another process, whose file we would replace.
    pub(super) fn is_ours(&self) -> bool {
        let found = fs::metadata(file(&self.directory, self.number, "lock"));
        found.is_ok_and(|found| self.lock.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (found.dev(), found.ino())))
    }

    fn is_readable(&self) -> io::Result<bool> {
        Ok(match self.open()? {
            Some(mut reader) => reach(&mut reader)?.is_some(),
            None => true,
        })
    }

    fn open(&self) -> io::Result<Option<BufReader<File>>> {
        match File::open(file(&self.directory, self.number, "jsonl")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            outcome => outcome.map(|file| Some(BufReader::new(file))),
        }
    }

    /// Adds what the file holds to `rollup`; says how many of its lines could not be read.
    pub(super) fn load(&self, rollup: &mut Rollup) -> io::Result<u64> {
        let Some(mut reader) = self.open()? else { return Ok(0) };
        let Some(reach) = reach(&mut reader)? else { return Ok(0) };
        rollup.reaches(&reach);
        let mut unreadable = 0;
        for line in reader.split(b'\n') {
            match serde_json::from_slice::<Row<Key>>(&line?) {
                Ok(Row { key, seen }) => rollup.add(key, seen),
                Err(_) => unreadable += 1,
            }
        }
        Ok(unreadable)
    }

    /// Writes the file anew; it is whole and on the disk before it takes the place of the one before.
    pub(super) fn save(&self, reach: &Reach, rows: &[Row]) -> io::Result<()> {
        let draft = file(&self.directory, self.number, "draft");
        let mut writer = BufWriter::new(private().write(true).create(true).truncate(true).open(&draft)?);
        line(&mut writer, reach)?;
        for Row { key, seen } in rows {
            line(&mut writer, &Row { key: &**key, seen: *seen })?;
        }
        writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&draft, file(&self.directory, self.number, "jsonl"))?;
        File::open(&self.directory)?.sync_all()
    }
}

fn file(directory: &Path, number: u32, extension: &str) -> PathBuf {
    directory.join(format!("audit-{number}.{extension}"))
}

/// The first line; `None` where it is not one of ours.
fn reach(reader: &mut impl BufRead) -> io::Result<Option<Reach>> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line).ok().filter(|reach: &Reach| reach.v == VERSION))
}

fn line(writer: &mut impl Write, value: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *writer, value)?;
    writer.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::{
        super::rollup::{
            NEVER, Seen,
            tests::{SINCE, key, second},
        },
        *,
    };

    fn users(rollup: &Rollup) -> Vec<(String, u64)> {
        rollup.rows().iter().map(|row| (row.key.user.clone().unwrap().into(), row.seen.sessions)).collect()
    }

    fn save(slot: &Slot, user: &str) {
        let mut rollup = Rollup::new(10, SINCE);
        assert_eq!(slot.load(&mut rollup).unwrap(), 0);
        rollup.add(key(user), Seen::once(second(1)));
        slot.save(rollup.reach(), &rollup.rows()).unwrap();
    }

    fn loaded(slot: &Slot) -> Vec<(String, u64)> {
        let mut rollup = Rollup::new(10, NEVER);
        slot.load(&mut rollup).unwrap();
        assert_eq!(rollup.reach().since, SINCE);
        users(&rollup)
    }

    #[test]
    fn a_process_goes_on_where_the_one_before_ended() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            save(&Slot::take(folder.path()).unwrap(), "anna");
        }
        let first = Slot::take(folder.path()).unwrap();
        assert_eq!(loaded(&first), [("anna".to_owned(), 2)]);
        let second = Slot::take(folder.path()).unwrap();
        assert_eq!((first.number, second.number), (1, 2), "two at the same time have a file each");
        save(&second, "bob");
        assert!(first.others().is_empty());
        drop(second);
        assert_eq!(loaded(&first.others()[0]), [("bob".to_owned(), 1)]);
        let mode = fs::metadata(folder.path().join("audit-1.jsonl")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_is_not_ours_to_write_stays() {
        let folder = tempfile::tempdir().unwrap();
        for (number, content) in [(1, "{\"v\":2,\"since\":\"2026-11-23T06:30:00Z\"}\n"), (2, "nonsense"), (3, "")] {
            fs::write(file(folder.path(), number, "jsonl"), content).unwrap();
        }
        let slot = Slot::take(folder.path()).unwrap();
        assert_eq!(slot.number, 4);
        assert!(slot.others().is_empty());
    }

    #[test]
    fn lines_that_cannot_be_read_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let slot = Slot::take(folder.path()).unwrap();
        save(&slot, "anna");
        let path = file(folder.path(), 1, "jsonl");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}torn")).unwrap();
        let mut rollup = Rollup::new(10, NEVER);
        assert_eq!((slot.load(&mut rollup).unwrap(), users(&rollup).len()), (1, 1));
    }

    #[test]
    fn a_lock_that_was_removed_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let slot = Slot::take(folder.path()).unwrap();
        assert!(slot.is_ours());
        fs::remove_file(file(folder.path(), 1, "lock")).unwrap();
        assert!(!slot.is_ours());
    }
}
