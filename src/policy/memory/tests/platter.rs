//! A disk in memory that knows what is on the platter and what is only on its way there, and fails when it is told to.

use std::{
    io,
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

use crate::policy::memory::disk::{Disk, Marks};

/// What may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Open,
    Read,
    Draft,
    Discard,
    Replace,
    SyncNames,
    Append,
    Truncate,
    SyncData,
    SyncAll,
}

/// What a crash leaves of what was not synced.
#[derive(Clone, Copy, Debug)]
pub(super) enum Crash {
    /// Everything: only the process has crashed.
    Process,
    /// Nothing.
    Nothing,
    /// The names, and no octets.
    Names,
    /// The octets, and no names.
    Octets,
    /// The names, and half of the octets.
    Half,
    /// The names, the length, and zeros in place of the octets.
    Zeros,
}

pub(super) const CRASHES: [Crash; 6] = [Crash::Process, Crash::Nothing, Crash::Names, Crash::Octets, Crash::Half, Crash::Zeros];

#[derive(Clone, Default)]
struct Inode {
    octets: Vec<u8>,
    synced: Vec<u8>,
    /// What a sync that failed has given up: it reads well, and no later sync brings it to the platter. Linux does so.
    given_up: Vec<Range<usize>>,
}

impl Inode {
    fn sync(&mut self) {
        self.synced.clone_from(&self.octets);
        for range in &self.given_up {
            self.synced[range.clone()].fill(0);
        }
    }

    fn truncate(&mut self, length: usize) {
        self.octets.truncate(length);
        self.given_up.iter_mut().for_each(|range| range.end = range.end.min(length));
        self.given_up.retain(|range| range.start < range.end);
    }
}

/// Which inode has which name.
#[derive(Clone, Copy, Default)]
struct Names {
    file: Option<usize>,
    draft: Option<usize>,
}

#[derive(Clone, Default)]
struct State {
    inodes: Vec<Inode>,
    names: Names,
    synced: Names,
    /// Everything fails after so many operations.
    left: Option<usize>,
    failing: Vec<Op>,
    done: usize,
}

impl State {
    fn operate(&mut self, op: Op) -> io::Result<()> {
        if self.left == Some(0) || self.failing.contains(&op) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.left = self.left.map(|left| left - 1);
        self.done += 1;
        Ok(())
    }
}

/// Clones share the disk.
#[derive(Clone, Default)]
pub(super) struct Platter(Arc<Mutex<State>>);

impl Platter {
    /// A disk whose file holds this.
    pub(super) fn holding(octets: &[u8]) -> Self {
        let platter = Self::default();
        let names = Names { file: Some(0), draft: None };
        let inodes = vec![Inode { octets: octets.to_vec(), synced: octets.to_vec(), ..Inode::default() }];
        *platter.state() = State { inodes, names, synced: names, ..State::default() };
        platter
    }

    /// What the file holds.
    pub(super) fn octets(&self) -> Vec<u8> {
        let state = self.state();
        state.names.file.map(|file| state.inodes[file].octets.clone()).unwrap_or_default()
    }

    /// Whether there is a draft.
    pub(super) fn has_draft(&self) -> bool {
        self.state().names.draft.is_some()
    }

    /// Operations that were done without a fault.
    pub(super) fn done(&self) -> usize {
        self.state().done
    }

    /// From now on these fail, and no others.
    pub(super) fn fail(&self, ops: &[Op]) {
        self.state().failing = ops.to_vec();
    }

    /// Everything fails after so many operations.
    pub(super) fn stop_after(&self, operations: usize) {
        self.state().left = Some(operations);
    }

    /// Another disk: this one as it is found after a crash.
    pub(super) fn after(&self, crash: Crash) -> Self {
        let mut state = self.state().clone();
        if !matches!(crash, Crash::Process | Crash::Octets) {
            state.inodes.iter_mut().for_each(|inode| inode.octets = left(inode, crash));
        }
        if matches!(crash, Crash::Nothing | Crash::Octets) {
            state.names = state.synced;
        }
        if !matches!(crash, Crash::Process) {
            // After a crash of the process alone, what was not synced still is not.
            state.inodes.iter_mut().for_each(|inode| inode.synced.clone_from(&inode.octets));
            state.synced = state.names;
        }
        (state.left, state.failing) = (None, Vec::new());
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

fn left(inode: &Inode, crash: Crash) -> Vec<u8> {
    let Some(rest) = inode.octets.strip_prefix(&inode.synced[..]) else { return inode.synced.clone() };
    match crash {
        Crash::Half => [&inode.synced[..], &rest[..rest.len() / 2]].concat(),
        Crash::Zeros => [&inode.synced[..], &vec![0; rest.len()]].concat(),
        _ => inode.synced.clone(),
    }
}

impl Disk for Platter {
    fn file(&self) -> &Path {
        Path::new("/platter/shield.marks")
    }

    fn open(&mut self) -> io::Result<Option<Box<dyn Marks>>> {
        let mut state = self.state();
        state.operate(Op::Open)?;
        let file = |inode| Box::new(PlatterFile { platter: self.clone(), inode }) as Box<dyn Marks>;
        Ok(state.names.file.map(file))
    }

    fn draft(&mut self) -> io::Result<Box<dyn Marks>> {
        let mut state = self.state();
        state.operate(Op::Draft)?;
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.names.draft = Some(inode);
        Ok(Box::new(PlatterFile { platter: self.clone(), inode }))
    }

    fn discard(&mut self) -> io::Result<()> {
        let mut state = self.state();
        state.operate(Op::Discard)?;
        state.names.draft = None;
        Ok(())
    }

    fn replace(&mut self) -> io::Result<()> {
        let mut state = self.state();
        state.operate(Op::Replace)?;
        state.names = Names { file: state.names.draft, draft: None };
        assert!(state.names.file.is_some(), "there is a draft to rename");
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.state();
        state.operate(Op::SyncNames)?;
        state.synced = state.names;
        Ok(())
    }
}

struct PlatterFile {
    platter: Platter,
    inode: usize,
}

impl PlatterFile {
    fn sync(&self, op: Op) -> io::Result<()> {
        let mut state = self.platter.state();
        let outcome = state.operate(op);
        let tried = state.left != Some(0);
        let inode = &mut state.inodes[self.inode];
        if outcome.is_ok() {
            inode.sync();
        } else if tried && inode.synced.len() < inode.octets.len() {
            inode.given_up.push(inode.synced.len()..inode.octets.len());
        }
        outcome
    }
}

impl Marks for PlatterFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.platter.state().inodes[self.inode].octets.len() as u64)
    }

    fn read_at(&self, octets: &mut [u8], at: u64) -> io::Result<()> {
        let mut state = self.platter.state();
        state.operate(Op::Read)?;
        let at = usize::try_from(at).unwrap();
        octets.copy_from_slice(&state.inodes[self.inode].octets[at..at + octets.len()]);
        Ok(())
    }

    /// A write that fails is a short one.
    fn append(&mut self, octets: &[u8]) -> io::Result<()> {
        let mut state = self.platter.state();
        let outcome = state.operate(Op::Append);
        let written = if outcome.is_ok() { octets.len() } else { octets.len() / 2 };
        state.inodes[self.inode].octets.extend(&octets[..written]);
        outcome
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let mut state = self.platter.state();
        state.operate(Op::Truncate)?;
        state.inodes[self.inode].truncate(usize::try_from(length).unwrap());
        Ok(())
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.sync(Op::SyncData)
    }

    fn sync_all(&mut self) -> io::Result<()> {
        self.sync(Op::SyncAll)
    }

    fn is_removed(&self) -> io::Result<bool> {
        let names = self.platter.state().names;
        Ok(names.file != Some(self.inode) && names.draft != Some(self.inode))
    }
}
