//! How far the reading of a store has come, on a terminal.

use std::{
    io::{self, Write as _},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use super::paint::harmless;

/// Nothing is said of what takes less.
const PATIENCE: Duration = Duration::from_millis(700);

/// What is said on standard error; nothing where that is no terminal.
#[derive(Default)]
pub(super) struct Progress {
    since: Option<Instant>,
    files: usize,
}

/// Whether something stands there. There is one terminal, whoever writes on it.
static IS_SHOWN: AtomicBool = AtomicBool::new(false);

impl Progress {
    pub(super) fn new(shown: bool) -> Self {
        Self { since: shown.then(Instant::now), ..Self::default() }
    }

    /// The next file is read.
    pub(super) fn next(&mut self, name: &str) {
        self.files += 1;
        if self.since.is_none_or(|since| since.elapsed() < PATIENCE) {
            return;
        }
        IS_SHOWN.store(true, Ordering::Relaxed);
        say(&format!("\r\x1b[Kreading {} (file {})", harmless(name), self.files));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        hide();
    }
}

/// Takes back what stands there, before something else is written.
pub(super) fn hide() {
    if IS_SHOWN.swap(false, Ordering::Relaxed) {
        say("\r\x1b[K");
    }
}

/// That nobody can be told of the progress stops nothing.
fn say(text: &str) {
    let mut err = io::stderr().lock();
    let _told = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}
