//! What is remembered, in memory: 256 maps with a lock each, so that no lock is held for long.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{
        PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{Day, Mark};

/// A power of two.
const SHARDS: usize = 256;

// What `super` says about memory is computed from this.
const _: () = assert!(size_of::<(Mark, Day)>() == 18);

type Shard = HashMap<Mark, Day>;

/// Marks, and the day on which each was last seen.
pub(super) struct Table {
    shards: Box<[RwLock<Shard>]>,
    /// Chooses the shard. Its key is random, and not that of the maps.
    spread: RandomState,
    length: AtomicUsize,
}

impl Table {
    pub(super) fn new() -> Self {
        let shards = (0..SHARDS).map(|_| RwLock::default()).collect();
        Self { shards, spread: RandomState::new(), length: AtomicUsize::new(0) }
    }

    pub(super) fn len(&self) -> usize {
        self.length.load(Ordering::Relaxed)
    }

    pub(super) fn get(&self, mark: &Mark) -> Option<Day> {
        read(self.shard(mark)).get(mark).copied()
    }

    /// Adds a mark, or says that it was seen on this day too.
    pub(super) fn add(&self, mark: Mark, day: Day) {
        let mut shard = write(self.shard(&mark));
        let before = shard.len();
        let latest = shard.entry(mark).or_insert(day);
        *latest = day.max(*latest);
        self.length.fetch_add(shard.len() - before, Ordering::Relaxed);
    }

    /// Says that a mark was seen on this day; whether that is news about a mark which is there.
    pub(super) fn raise(&self, mark: &Mark, day: Day) -> bool {
        if self.get(mark).is_none_or(|known| known >= day) {
            return false;
        }
        let mut shard = write(self.shard(mark));
        let older = shard.get_mut(mark).filter(|known| **known < day);
        older.map(|known| *known = day).is_some()
    }

    /// How many were last seen on such a day.
    pub(super) fn count(&self, is_such: impl Fn(Day) -> bool) -> usize {
        self.shards.iter().map(|shard| read(shard).values().filter(|day| is_such(**day)).count()).sum()
    }

    /// Removes those that were last seen on such a day.
    ///
    /// A map from which something is removed is made anew. Otherwise what removal leaves behind in it would count when it is
    /// full, and it would grow beyond what its entries need.
    pub(super) fn remove(&self, is_such: impl Fn(Day) -> bool) {
        for shard in &self.shards {
            let mut shard = write(shard);
            let left = shard.values().filter(|day| !is_such(**day)).count();
            let removed = shard.len() - left;
            if removed > 0 {
                let mut kept = Shard::with_capacity(left);
                kept.extend(shard.drain().filter(|(_, day)| !is_such(*day)));
                *shard = kept;
                self.length.fetch_sub(removed, Ordering::Relaxed);
            }
        }
    }

    /// Copies everything, a shard at a time: what stands in it is added to what `each` was given before and has left there.
    pub(super) fn copy<E>(&self, mut each: impl FnMut(&mut Vec<(Mark, Day)>) -> Result<(), E>) -> Result<Vec<(Mark, Day)>, E> {
        let mut copied = Vec::new();
        for shard in &self.shards {
            copied.extend(read(shard).iter().map(|(mark, day)| (*mark, *day)));
            each(&mut copied)?;
        }
        Ok(copied)
    }

    fn shard(&self, mark: &Mark) -> &RwLock<Shard> {
        // What is cut off a 64-bit hash does not matter.
        #[allow(clippy::cast_possible_truncation, reason = "see above")]
        let hash = self.spread.hash_one(mark) as usize;
        &self.shards[hash % SHARDS]
    }
}

// Nothing that is done with a shard can panic half way, but for want of memory.

fn read(shard: &RwLock<Shard>) -> RwLockReadGuard<'_, Shard> {
    shard.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(shard: &RwLock<Shard>) -> RwLockWriteGuard<'_, Shard> {
    shard.write().unwrap_or_else(PoisonError::into_inner)
}
