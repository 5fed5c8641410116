//! A stream in memory with the habits of awkward ones.

use std::{
    io::{self, ErrorKind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
};

use poptap::relay::Hop;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// One end of a pipe; by default it behaves like any other.
pub struct Odd {
    inner: DuplexStream,
    /// Octets that one write takes at most.
    pub write_most: usize,
    /// How many flushes come to nothing at first.
    pub lazy_flushes: u32,
    /// What reading fails with where the far end has ended.
    pub end: Option<ErrorKind>,
    /// What the next write fails with.
    pub write_error: Option<ErrorKind>,
    /// Neither takes nor gives anything.
    pub deaf: bool,
    shutdowns: Arc<AtomicU32>,
}

impl Odd {
    pub fn new(inner: DuplexStream) -> Self {
        let shutdowns = Arc::default();
        Self { inner, write_most: usize::MAX, lazy_flushes: 0, end: None, write_error: None, deaf: false, shutdowns }
    }

    /// How often its writing half was shut down.
    pub fn shutdowns(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.shutdowns)
    }
}

impl AsyncRead for Odd {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, space: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = space.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, space))?;
        match self.end {
            Some(kind) if space.filled().len() == before => Poll::Ready(Err(kind.into())),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Odd {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(kind) = self.write_error {
            return Poll::Ready(Err(kind.into()));
        }
        if self.deaf {
            return Poll::Pending;
        }
        let count = octets.len().min(self.write_most);
        Pin::new(&mut self.inner).poll_write(context, &octets[..count])
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lazy_flushes > 0 {
            self.lazy_flushes -= 1;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shutdowns.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl Hop for Odd {}
