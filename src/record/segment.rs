//! Where segments are written to: a directory, standard output, or what a test puts in their place.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
};

use super::{clock::Moment, schema::Summary};

/// The two streams of a transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Events,
    Sessions,
}

impl Stream {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Sessions => "sessions",
        }
    }
}

/// A file that is being written.
pub(super) trait Output: Write + Send {
    /// Cuts it back to `octets`, after a write that failed half way.
    fn truncate(&mut self, octets: u64) -> io::Result<()>;
}

/// Makes files and takes them back.
pub(super) trait Storage: Send {
    /// Whether segments are finished by size and age.
    fn rotates(&self) -> bool;
    /// Opens a new segment; returns the stem of its name too.
    fn open(&mut self, stream: Stream, now: &Moment) -> io::Result<(String, Box<dyn Output>)>;
    /// Opens the side file of an events segment; returns its name too.
    fn open_side(&mut self, stem: &str) -> io::Result<(String, Box<dyn Output>)>;
    /// Nothing was written to this segment: it is not needed.
    fn discard(&mut self, stream: Stream, stem: &str);
    /// This segment, and its side file, will not be written to any more.
    fn finished(&mut self, stream: Stream, stem: &str);
    /// Time to look after finished segments.
    fn sweep(&mut self);
    /// A session is over: counts it in the roll-up, where there is one.
    fn count(&mut self, _: &Summary) {}
    /// Waits until all finished segments are looked after.
    fn close(&mut self);
}

/// Standard output takes both streams, line by line.
pub(super) struct Standard;

impl Storage for Standard {
    fn rotates(&self) -> bool {
        false
    }

    fn open(&mut self, stream: Stream, _: &Moment) -> io::Result<(String, Box<dyn Output>)> {
        Ok((stream.name().to_owned(), Box::new(StandardOutput(File::from(io::stdout().as_fd().try_clone_to_owned()?)))))
    }

    fn open_side(&mut self, _: &str) -> io::Result<(String, Box<dyn Output>)> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "message content is not kept on standard output"))
    }

    fn discard(&mut self, _: Stream, _: &str) {}

    fn finished(&mut self, _: Stream, _: &str) {}

    fn sweep(&mut self) {}

    fn close(&mut self) {}
}

/// Not [`io::Stdout`], whose buffer would hide how much of a write was done.
struct StandardOutput(File);

impl Write for StandardOutput {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Output for StandardOutput {
    fn truncate(&mut self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
