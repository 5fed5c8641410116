//! The large buffers of all sessions.

use std::{
    mem,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use memmap2::MmapMut;

/// Octets of a buffer from the pool.
pub const LARGE: usize = 256 * 1024;
/// Octets of a buffer when the pool is exhausted: the longest line that is looked at whole has room in it.
pub const SMALL: usize = 8 * 1024;
/// Where in its mapping a large buffer begins: in the middle of a page. The kernel's copies, which come from the beginning of a
/// page as often as not, take two to four times as long on some processors (AMD's Zen 3 and 4) where both sides begin at about
/// the same place of a page.
const START: usize = 2048;

/// The buffers of all sessions: at most a fixed number of [`LARGE`] ones; when all are in use, whoever needs one goes on with a
/// [`SMALL`] one.
///
/// A buffer is held only while there are octets in it, so an idle session costs none. Each large one is a mapping of its own:
/// an allocator that gets buffers back keeps them, spread over the sessions, but a mapping that is given up is gone. What was
/// in a buffer stays there until it is written over; its holder never reads more of it than it has filled.
#[derive(Debug)]
pub struct Pool {
    shelf: Mutex<Shelf>,
}

#[derive(Debug)]
struct Shelf {
    free: Vec<MmapMut>,
    /// The fewest that were free since the last [`Pool::trim`].
    spare: usize,
    unmade: usize,
}

impl Pool {
    /// A pool of at most `count` large buffers, made when they are first needed.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self { shelf: Mutex::new(Shelf { free: Vec::new(), spare: 0, unmade: count }) }
    }

    /// A large buffer, or a small one.
    pub(crate) fn take(self: &Arc<Self>) -> Buffer {
        let large = self.shelf().take();
        large.map_or_else(|| Buffer(Room::Small(vec![0; SMALL].into())), |octets| Buffer(Room::Large(octets, Arc::clone(self))))
    }

    /// Gives back to the system what nobody needed since the last call. Whoever has a clock calls it every few seconds.
    pub fn trim(&self) {
        let mut shelf = self.shelf();
        let spare = mem::replace(&mut shelf.spare, 0).min(shelf.free.len());
        // Taken from the top and given back to it: what lies at the bottom was not touched.
        let unneeded: Vec<_> = shelf.free.drain(..spare).collect();
        shelf.unmade += unneeded.len();
        shelf.spare = shelf.free.len();
        drop(shelf);
        drop(unneeded);
    }

    fn give(&self, octets: MmapMut) {
        self.shelf().free.push(octets);
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // Nothing in there is ever half done.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn take(&mut self) -> Option<MmapMut> {
        let known = self.free.pop();
        self.spare = self.spare.min(self.free.len());
        if known.is_some() || self.unmade == 0 {
            return known;
        }
        // A system that is out of memory leaves us with small ones.
        let made = MmapMut::map_anon(START + LARGE).ok()?;
        self.unmade -= 1;
        Some(made)
    }
}

/// Room for octets, or none. It goes home to its pool when it is dropped, however its session ended.
#[derive(Debug, Default)]
pub(crate) struct Buffer(Room);

#[derive(Debug, Default)]
enum Room {
    #[default]
    None,
    Small(Box<[u8]>),
    Large(MmapMut, Arc<Pool>),
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Room::None => &[],
            Room::Small(octets) => octets,
            Room::Large(octets, _) => &octets[START..],
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Room::None => &mut [],
            Room::Small(octets) => octets,
            Room::Large(octets, _) => &mut octets[START..],
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Room::Large(octets, home) = mem::take(&mut self.0) {
            home.give(octets);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Flow, *};

    fn free(pool: &Pool) -> (usize, usize) {
        let shelf = pool.shelf();
        (shelf.free.len(), shelf.unmade)
    }

    #[test]
    fn an_exhausted_pool_gives_small_buffers_and_an_empty_flow_gives_its_own_back() {
        let pool = Arc::new(Pool::new(1));
        let (mut first, mut second) = (Flow::new(), Flow::new());
        assert_eq!(first.space(&pool).len(), LARGE);
        assert_eq!(second.space(&pool).len(), SMALL);
        first.rest();
        second.rest();
        assert_eq!(second.space(&pool).len(), LARGE);
    }

    #[test]
    fn a_flow_that_is_dropped_gives_its_buffer_back() {
        let pool = Arc::new(Pool::new(1));
        for _ in 0..3 {
            let mut flow = Flow::new();
            assert_eq!(flow.space(&pool).len(), LARGE);
            flow.filled(1);
        }
    }

    #[test]
    fn what_nobody_needed_between_two_trims_is_given_up() {
        let pool = Arc::new(Pool::new(4));
        let busy: Vec<_> = (0..3).map(|_| pool.take()).collect();
        drop(busy);
        assert_eq!(free(&pool), (3, 1));
        pool.trim();
        assert_eq!(free(&pool), (3, 1), "all were in use since the last time");
        drop(pool.take());
        pool.trim();
        assert_eq!(free(&pool), (1, 3), "one was");
        pool.trim();
        assert_eq!(free(&pool), (0, 4));
        assert_eq!(pool.take().len(), LARGE, "and can be had again");
    }

    #[test]
    fn a_buffer_that_is_lent_is_not_trimmed() {
        let pool = Arc::new(Pool::new(1));
        let mut lent = pool.take();
        lent[LARGE - 1] = 7;
        pool.trim();
        pool.trim();
        assert_eq!((lent[LARGE - 1], free(&pool)), (7, (0, 0)));
    }

    #[test]
    fn octets_of_another_session_are_never_shown() {
        let pool = Arc::new(Pool::new(1));
        let mut first = Flow::new();
        first.preload(&[b'1'; 1000], &pool);
        drop(first);
        let mut second = Flow::new();
        assert!(second.space(&pool).starts_with(&[b'1'; 1000]), "the same buffer, with what it held");
        assert!(second.unlabelled().is_empty() && second.output().is_empty());
        second.filled(3);
        assert_eq!(second.unlabelled().len(), 3);
        second.release(3);
        assert_eq!(second.output().len(), 3);
        second.wrote(3);
        assert!(second.unlabelled().is_empty() && second.output().is_empty());
    }
}
