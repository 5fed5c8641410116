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
    /// Files that were begun, and those that are known to come, these included.
    files: usize,
    of: usize,
}

/// Whether something stands there. There is one terminal, whoever writes on it.
static IS_SHOWN: AtomicBool = AtomicBool::new(false);

impl Progress {
    pub(super) fn new(shown: bool) -> Self {
        Self { since: shown.then(Instant::now), ..Self::default() }
    }

    /// So many more files will be read.
    pub(super) fn expect(&mut self, files: usize) {
        self.of += files;
    }

    /// The next file is read.
    pub(super) fn next(&mut self, name: &str) {
        self.files += 1;
        if self.since.is_none_or(|since| since.elapsed() < PATIENCE) {
            return;
        }
        IS_SHOWN.store(true, Ordering::Relaxed);
        say(&format!("\r\x1b[K{}", self.text(name)));
    }

    /// Where files are read once more (for the commands in them), more come to be known on the way.
    fn text(&self, name: &str) -> String {
        let of = if self.of >= self.files { format!(" of {}", self.of) } else { String::new() };
        format!("reading {} (file {}{of})", harmless(name), self.files)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_many_files_there_are_to_go() {
        let mut progress = Progress::new(false);
        progress.next("a");
        assert_eq!(progress.text("a\x1b"), format!("reading {} (file 1)", harmless("a\x1b")));
        progress.expect(17);
        progress.next("b");
        progress.next("c");
        assert_eq!(progress.text("c"), "reading c (file 3 of 17)");
    }
}
