//! The file: appended to, and written anew.

use std::io;

use super::{
    Day, Mark, MemoryError,
    disk::{Disk, Marks, Turn},
    format::{self, Found, HEADER},
    table::Table,
};

/// Entries that are collected for a batch when the file is written anew.
const COLLECTED: usize = 4096;

/// After a failure to write the file anew, so many appends go by before it is tried again.
const PATIENCE: u32 = 100;

/// How an append has to end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// When the system has the octets: they survive the process, not the machine.
    Written,
    /// When the disk has them.
    Synced,
}

/// The file of marks, open for as long as the memory is.
pub(super) struct Log {
    disk: Box<dyn Disk>,
    file: Box<dyn Marks>,
    length: u64,
    /// The file cannot be relied on: it was removed, or damaged, or a failed write could not be taken back. Nothing is
    /// appended before it is written anew.
    suspect: bool,
    /// The file does not know of everything that was seen.
    behind: bool,
    /// Appends to go by before the file is written anew for want of nothing but room.
    patience: u32,
}

impl Log {
    /// Opens the file and gives out its entries, or makes one. Tells the latest day that it knows of, and what was dropped.
    pub(super) fn open(mut disk: Box<dyn Disk>, each: impl FnMut(Mark, Day)) -> Result<(Self, Day, u64), MemoryError> {
        let opened = disk.open();
        match opened.map_err(|source| cannot_open("open", &*disk, source))? {
            Some(file) => Self::read(disk, file, each),
            None => Self::create(disk).map(|log| (log, 0, 0)),
        }
    }

    fn read(
        mut disk: Box<dyn Disk>,
        mut file: Box<dyn Marks>,
        mut each: impl FnMut(Mark, Day),
    ) -> Result<(Self, Day, u64), MemoryError> {
        let (length, header) = beginning(&*file).map_err(|source| cannot_open("read", &*disk, source))?;
        let mut latest =
            format::latest_in(&header).map_err(|problem| MemoryError::Foreign { path: disk.file().to_owned(), problem })?;
        let scanned = format::scan(&*file, length, |mark, day| {
            latest = latest.max(day);
            each(mark, day);
        });
        let found = scanned.map_err(|source| cannot_open("read", &*disk, source))?;
        let settled = settle(&mut *disk, &mut *file, length, &found);
        settled.map_err(|source| cannot_open("bring to the disk what was found in", &*disk, source))?;
        let suspect = found.dropped > length - found.end;
        let log = Self { disk, file, length: found.end, suspect, behind: false, patience: 0 };
        Ok((log, latest, found.dropped))
    }

    fn create(mut disk: Box<dyn Disk>) -> Result<Self, MemoryError> {
        let created = write_new(&mut *disk, 0, &Table::new()).and_then(|new| disk.sync().map(|()| new));
        let (file, length) = created.map_err(|source| cannot_open("make", &*disk, source))?;
        Ok(Self { disk, file, length, suspect: false, behind: false, patience: 0 })
    }

    /// Lets in those who are to share the file.
    pub(super) fn share(&mut self) -> io::Result<()> {
        self.disk.share()
    }

    /// Waits for the turn, where the file is shared, and gives out what others have written since the last one.
    pub(super) fn turn(&mut self, each: impl FnMut(Mark, Day)) -> io::Result<Turn> {
        let turn = self.disk.turn()?;
        self.begin(turn, each)
    }

    /// The same, unless it is somebody else's turn.
    pub(super) fn free_turn(&mut self, each: impl FnMut(Mark, Day)) -> io::Result<Turn> {
        let turn = self.disk.free_turn()?;
        self.begin(turn, each)
    }

    /// Whether others may have written since the last turn. To be asked without a turn.
    pub(super) fn has_news(&self) -> bool {
        let is_as_known = || io::Result::Ok(!self.file.is_removed()? && self.file.length()? == self.length);
        !is_as_known().unwrap_or(false)
    }

    fn begin(&mut self, turn: Turn, each: impl FnMut(Mark, Day)) -> io::Result<Turn> {
        if turn.is_shared() {
            self.catch_up(each)?;
        }
        Ok(turn)
    }

    /// Reads what others have written: behind what is known, or to a file that has taken this one's place.
    fn catch_up(&mut self, each: impl FnMut(Mark, Day)) -> io::Result<()> {
        if self.file.is_removed()? {
            // Removed by somebody who does not share it: it is written anew.
            let Some(file) = self.disk.open()? else { return Ok(()) };
            format::latest_in(&beginning(&*file)?.1).map_err(io::Error::other)?;
            (self.file, self.length) = (file, HEADER as u64);
        }
        let length = self.file.length()?;
        if length == self.length {
            return Ok(());
        }
        let found = format::scan_from(&*self.file, self.length, length, each)?;
        // Whoever wrote what is torn has crashed, since it is our turn. And what a crashed process had not synced yet would be
        // taken for remembered, and not be written again: afterwards it is on the disk.
        let settled = if found.end < length { self.file.truncate(found.end) } else { Ok(()) };
        let settled = settled.and_then(|()| self.file.sync_data());
        self.suspect |= settled.is_err() || length < self.length || found.dropped > length.saturating_sub(found.end);
        self.length = found.end;
        settled
    }

    /// Gives out the file's entries again.
    pub(super) fn entries(&self, each: impl FnMut(Mark, Day)) -> Result<(), MemoryError> {
        let scanned = format::scan(&*self.file, self.length, each);
        scanned.map(drop).map_err(|source| cannot_open("read", &*self.disk, source))
    }

    /// Whether the file has to be written anew before anything can be appended.
    pub(super) fn is_suspect(&mut self) -> bool {
        self.suspect |= self.file.is_removed().unwrap_or(true);
        self.suspect
    }

    /// Whether the file, which need hold no more than so many entries, is worth being written anew.
    pub(super) fn is_due(&self, entries: usize, small: u64) -> bool {
        let needed = (HEADER + entries * format::ENTRY) as u64;
        let wasteful = self.length > small && self.length / 2 > needed;
        (wasteful || self.behind || self.suspect) && self.patience == 0
    }

    /// The file is to be written anew when that is possible: it does not know of everything that was seen.
    pub(super) fn is_behind(&mut self) {
        self.behind = true;
    }

    /// Appends a batch. After an error the file is as it was, or suspect.
    pub(super) fn append(&mut self, entries: &[(Mark, Day)], until: Until) -> Result<(), MemoryError> {
        let octets = format::batch(entries);
        self.patience = self.patience.saturating_sub(1);
        let written = self.file.append(&octets);
        let cannot_sync = |source| (true, source);
        let outcome = written.map_err(|source| (false, source)).and_then(|()| match until {
            Until::Written => Ok(()),
            // What the disk has after this failed is not known, and asking again would not tell.
            Until::Synced => self.file.sync_data().map_err(cannot_sync),
        });
        outcome.map(|()| self.length += octets.len() as u64).map_err(|(suspect, source)| {
            self.suspect |= suspect | self.file.truncate(self.length).is_err();
            self.cannot_write("write to", source)
        })
    }

    /// Writes all that is in the table to a new file, which takes the old one's place. After an error the old one is still
    /// used, or the new one is suspect.
    pub(super) fn rewrite(&mut self, latest: Day, table: &Table) -> Result<(), MemoryError> {
        let outcome = self.replace(latest, table);
        if outcome.is_err() {
            (self.behind, self.patience) = (true, PATIENCE);
        }
        outcome.map_err(|source| self.cannot_write("write anew", source))
    }

    fn replace(&mut self, latest: Day, table: &Table) -> io::Result<()> {
        (self.file, self.length) = write_new(&mut *self.disk, latest, table)?;
        // After a crash the name may still mean the old file, until the directory is on the disk.
        self.suspect = true;
        self.disk.sync()?;
        (self.suspect, self.behind, self.patience) = (false, false, 0);
        Ok(())
    }

    fn cannot_write(&self, action: &'static str, source: io::Error) -> MemoryError {
        MemoryError::Write { action, path: self.disk.file().to_owned(), source }
    }
}

/// The length, and the header or what there is of one.
fn beginning(file: &dyn Marks) -> io::Result<(u64, Vec<u8>)> {
    let length = file.length()?;
    let mut header = vec![0; usize::try_from(length).unwrap_or(HEADER).min(HEADER)];
    file.read_at(&mut header, 0).map(|()| (length, header))
}

/// Takes away what stands behind the last whole batch. What is there may be there for this process only, if the one before
/// crashed between writing and syncing: afterwards it is on the disk, for it will not be written again.
fn settle(disk: &mut dyn Disk, file: &mut dyn Marks, length: u64, found: &Found) -> io::Result<()> {
    if found.end < length {
        file.truncate(found.end)?;
    }
    file.sync_all()?;
    disk.sync()
}

/// Writes a new file and gives it the name of the old one. The name is not on the disk yet.
fn write_new(disk: &mut dyn Disk, latest: Day, table: &Table) -> io::Result<(Box<dyn Marks>, u64)> {
    let written = disk.draft().and_then(|mut draft| {
        let length = write_all(&mut *draft, latest, table)?;
        draft.sync_all()?;
        disk.replace()?;
        Ok((draft, length))
    });
    if written.is_err() {
        // What cannot be removed is removed before the next try.
        let _ = disk.discard();
    }
    written
}

fn write_all(draft: &mut dyn Marks, latest: Day, table: &Table) -> io::Result<u64> {
    draft.append(&format::header(latest))?;
    let mut length = HEADER as u64;
    let mut write = |entries: &mut Vec<(Mark, Day)>| {
        for entries in entries.chunks(format::BATCH) {
            let octets = format::batch(entries);
            draft.append(&octets)?;
            length += octets.len() as u64;
        }
        entries.clear();
        Ok(())
    };
    let mut rest = table.copy(|entries| if entries.len() < COLLECTED { Ok(()) } else { write(entries) })?;
    write(&mut rest).map(|()| length)
}

fn cannot_open(action: &'static str, disk: &dyn Disk, source: io::Error) -> MemoryError {
    MemoryError::Open { action, path: disk.file().to_owned(), source }
}
