//! The live view's thread. The writer feeds it and never waits for it.

use std::{
    io,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread,
};

use super::{schema::Record, store::LiveView};

/// Records that may wait to be shown.
const WAITING: usize = 4096;

enum Item {
    Record(Box<Record>),
    Lost(u64),
}

/// The writer's end.
pub(super) struct Feed {
    /// `None` once the view is gone.
    sender: Option<SyncSender<Item>>,
    lost: u64,
    thread: Option<thread::JoinHandle<()>>,
}

/// Starts the thread of a view.
pub(super) fn start(view: Box<dyn LiveView>) -> io::Result<Feed> {
    let (sender, receiver) = sync_channel(WAITING);
    let thread = thread::Builder::new().name("poptap-live".to_owned()).spawn(move || run(view, &receiver))?;
    Ok(Feed { sender: Some(sender), lost: 0, thread: Some(thread) })
}

impl Feed {
    /// Has a record shown, or counts it as lost when the view is behind.
    pub(super) fn show(&mut self, record: Box<Record>) {
        if self.lost > 0 && self.send(Item::Lost(self.lost)) {
            self.lost = 0;
        }
        if self.lost > 0 || !self.send(Item::Record(record)) {
            self.lost += 1;
        }
    }

    /// Waits until everything was shown.
    pub(super) fn finish(mut self) {
        if let Some(sender) = self.sender.take().filter(|_| self.lost > 0) {
            // The view may be gone; then nobody is left to be told.
            let _ = sender.send(Item::Lost(self.lost));
        }
        if let Some(thread) = self.thread.take() {
            // A view that panicked has said so on stderr; the transcript does not depend on it.
            let _ = thread.join();
        }
    }

    fn send(&mut self, item: Item) -> bool {
        match self.sender.as_ref().map(|sender| sender.try_send(item)) {
            Some(Ok(())) => true,
            Some(Err(TrySendError::Full(_))) => false,
            Some(Err(TrySendError::Disconnected(_))) | None => {
                self.sender = None;
                true
            }
        }
    }
}

fn run(mut view: Box<dyn LiveView>, items: &Receiver<Item>) {
    for item in items {
        match item {
            Item::Record(record) => view.show(&record),
            Item::Lost(records) => view.lost(records),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::record::schema::{Body, Closed};

    /// Shows nothing before it is told to go on.
    struct Slow {
        gate: Receiver<()>,
        seen: mpsc::Sender<Result<(), u64>>,
    }

    impl LiveView for Slow {
        fn show(&mut self, _: &Record) {
            let _ = self.gate.recv();
            self.seen.send(Ok(())).unwrap();
        }

        fn lost(&mut self, records: u64) {
            self.seen.send(Err(records)).unwrap();
        }
    }

    #[test]
    fn a_slow_view_loses_records_and_is_told() {
        let (go, gate) = mpsc::channel();
        let (sender, seen) = mpsc::channel();
        let mut feed = start(Box::new(Slow { gate, seen: sender })).unwrap();
        let body = Body::Closed(Closed::default());
        let record = Record { v: 1, session: String::new(), time: String::new(), at_us: 0, body };
        let sent = WAITING + 100;
        for _ in 0..sent {
            feed.show(Box::new(record.clone()));
        }
        drop(go);
        feed.finish();
        let seen: Vec<_> = seen.into_iter().collect();
        let shown = seen.iter().filter(|item| item.is_ok()).count();
        let lost: u64 = seen.iter().filter_map(|item| item.err()).sum();
        assert!(shown >= WAITING && lost >= 99, "{shown} shown, {lost} lost");
        assert_eq!(shown as u64 + lost, sent as u64);
    }
}
