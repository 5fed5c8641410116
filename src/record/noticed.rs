//! The first session in which something odd was found: for those who wait for one.

use std::sync::OnceLock;

use tokio::sync::Notify;

use crate::anomaly::Anomaly;

/// A session that has ended, and the first anomaly in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noticed {
    /// The session's id.
    pub session: String,
    /// What was found first in it.
    pub anomaly: Anomaly,
}

/// Holds the first, and wakes who waits for it.
#[derive(Default)]
pub(super) struct Notice {
    first: OnceLock<Noticed>,
    there: Notify,
}

impl Notice {
    /// A session with an anomaly has ended.
    pub(super) fn give(&self, session: &str, anomaly: Anomaly) {
        if self.first.set(Noticed { session: session.to_owned(), anomaly }).is_ok() {
            // Whoever waits later finds it there.
            self.there.notify_waiters();
        }
    }

    /// The first, if there is one.
    pub(super) fn get(&self) -> Option<Noticed> {
        self.first.get().cloned()
    }

    /// Waits for the first.
    pub(super) async fn wait(&self) -> Noticed {
        loop {
            let there = self.there.notified();
            if let Some(noticed) = self.get() {
                return noticed;
            }
            there.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_is_told_to_all_who_wait_before_and_after() {
        let notice = Notice::default();
        let (noticed, ()) = tokio::join!(notice.wait(), async {
            notice.give("abc", Anomaly::BareLf);
            notice.give("def", Anomaly::SlowReply);
        });
        assert_eq!(noticed, Noticed { session: "abc".to_owned(), anomaly: Anomaly::BareLf });
        assert_eq!(notice.wait().await, noticed);
    }
}
