//! Records as they pass, for whoever looks on at this moment: the live page's way to them.
//!
//! The writer hands over the lines that it writes, as they are. While nobody looks on, that costs it a look at one number; and it
//! waits for nobody: what finds no place with a viewer is counted as lost to that viewer.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use tokio::sync::mpsc::{self, Receiver, Sender, error::TrySendError};

/// Pieces that may wait for one viewer. A piece is at most 64 KiB of lines, and a few records more.
const WAITING: usize = 32;

/// The writer's end.
#[derive(Default)]
pub struct Broadcast {
    /// How many look on.
    viewers: AtomicUsize,
    feeds: Mutex<Vec<Feed>>,
}

struct Feed {
    sender: Sender<Arc<[u8]>>,
    lost: Arc<AtomicU64>,
    has_enough: Arc<AtomicBool>,
}

/// A viewer's end.
pub struct Subscription {
    broadcast: Arc<Broadcast>,
    receiver: Receiver<Arc<[u8]>>,
    lost: Arc<AtomicU64>,
    has_enough: Arc<AtomicBool>,
}

impl Broadcast {
    /// Looks on from now on.
    #[must_use]
    pub fn subscribe(self: &Arc<Self>) -> Subscription {
        let ((sender, receiver), lost, has_enough) = (mpsc::channel(WAITING), Arc::default(), Arc::default());
        self.feeds().push(Feed { sender, lost: Arc::clone(&lost), has_enough: Arc::clone(&has_enough) });
        self.viewers.fetch_add(1, Ordering::SeqCst);
        Subscription { broadcast: Arc::clone(self), receiver, lost, has_enough }
    }

    /// Whether anybody looks on.
    pub(super) fn is_watched(&self) -> bool {
        self.viewers.load(Ordering::Relaxed) > 0
    }

    /// Gives a page of whole lines, so many records, to all who look on and have not enough for now.
    pub(super) fn send_page(&self, lines: &[u8], records: u64) {
        self.send_where(lines, records, |feed| !feed.has_enough.load(Ordering::Relaxed) && feed.sender.capacity() > 0);
    }

    /// Gives one line to all who look on.
    pub(super) fn send(&self, line: &[u8]) {
        self.send_where(line, 1, |_| true);
    }

    /// What nobody takes is not copied either.
    fn send_where(&self, lines: &[u8], records: u64, takes: impl Fn(&Feed) -> bool) {
        let mut shared: Option<Arc<[u8]>> = None;
        self.feeds().retain(|feed| {
            let is_there = !feed.sender.is_closed();
            if is_there && !takes(feed) {
                feed.lost.fetch_add(records, Ordering::Relaxed);
                return true;
            }
            match feed.sender.try_send(Arc::clone(shared.get_or_insert_with(|| lines.into()))) {
                Ok(()) => true,
                Err(TrySendError::Full(_)) => {
                    feed.lost.fetch_add(records, Ordering::Relaxed);
                    true
                }
                Err(TrySendError::Closed(_)) => false,
            }
        });
    }

    fn feeds(&self) -> MutexGuard<'_, Vec<Feed>> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// The next lines, each a record of the transcript; `None` when there will be none.
    pub async fn next(&mut self) -> Option<Arc<[u8]>> {
        self.receiver.recv().await
    }

    /// Whether it has enough for now: then whole pages are lost to it at once, and only what comes by itself still comes.
    pub fn set_enough(&mut self, enough: bool) {
        self.has_enough.store(enough, Ordering::Relaxed);
    }

    /// How many records were lost to this viewer since the last time that it asked.
    pub fn lost(&mut self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.broadcast.viewers.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_who_look_on_get_the_lines_and_one_who_does_not_read_loses_them() {
        let broadcast = Arc::new(Broadcast::default());
        assert!(!broadcast.is_watched());
        let (mut quick, mut slow) = (broadcast.subscribe(), broadcast.subscribe());
        for piece in 0..WAITING + 5 {
            broadcast.send_page(format!("{piece}\n").as_bytes(), 2);
            assert_eq!(&*quick.next().await.unwrap(), format!("{piece}\n").as_bytes());
        }
        assert_eq!((quick.lost(), slow.lost(), slow.lost()), (0, 10, 0));
        for piece in 0..WAITING {
            assert_eq!(&*slow.next().await.unwrap(), format!("{piece}\n").as_bytes());
        }
        drop(slow);
        assert!(broadcast.is_watched());
        broadcast.send(b"x\n");
        assert_eq!(broadcast.feeds().len(), 1);
        quick.set_enough(true);
        broadcast.send_page(b"page\n", 7);
        broadcast.send(b"y\n");
        quick.set_enough(false);
        broadcast.send_page(b"z\n", 1);
        for expected in ["x\n", "y\n", "z\n"] {
            assert_eq!(&*quick.next().await.unwrap(), expected.as_bytes());
        }
        assert_eq!(quick.lost(), 7);
        drop(quick);
        assert!(!broadcast.is_watched());
    }
}
