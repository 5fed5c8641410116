//! Takes connections from one listener, for as long as it is wanted.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use rustix::io::Errno;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};
use tokio_util::task::TaskTracker;

use super::{House, Route, admit::admit};

/// The pause after an `accept` that failed, as it does when no file descriptors are left; doubled each time up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often such failures are spoken of.
const SPOKEN_OF: Duration = Duration::from_secs(60);

/// Ends when the server drains, or when the listener is no longer wanted; then the socket is closed.
pub(super) async fn accept(listener: Arc<TcpListener>, route: Arc<Route>, house: Arc<House>, sessions: TaskTracker) {
    let mut pause = FIRST_PAUSE;
    loop {
        let accepted = tokio::select! {
            () = house.stop.drain.cancelled() => return,
            () = route.unwanted.cancelled() => return last(&listener, &route, &house, &sessions).await,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((client, address)) => {
                pause = FIRST_PAUSE;
                house.trouble.works();
                admit(client, address, &route, &house, &sessions);
            }
            Err(error) if concerns_one_client(&error) => {
                tracing::debug!(listener = %route.address, "a client left before it was accepted: {error}");
            }
            Err(error) => {
                house.trouble.failed(route.address, &error);
                house.deaf.fetch_add(1, Ordering::SeqCst);
                sleep(pause).await;
                house.deaf.fetch_sub(1, Ordering::SeqCst);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Whoever is connected already, as far as the system is concerned, is not turned away because the listener goes.
async fn last(listener: &TcpListener, route: &Arc<Route>, house: &Arc<House>, sessions: &TaskTracker) {
    while let Some((client, address)) = waiting(listener).await {
        admit(client, address, route, house, sessions);
    }
}

async fn waiting(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    poll_fn(|context| match listener.poll_accept(context) {
        Poll::Ready(accepted) => Poll::Ready(accepted.ok()),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// The connection failed before it was accepted: no reason to let others wait (`accept(2)`, "Error handling").
fn concerns_one_client(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::INTR
                | Errno::PERM
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::NONET
        )
    )
}

/// What goes wrong with accepting, over all listeners: told once a minute, with a count.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// Whether there is anything to be told.
    is_any: AtomicBool,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    at: Option<Instant>,
    /// Failures since then.
    failures: u64,
}

impl Told {
    fn is_due(&self, now: Instant) -> bool {
        self.at.is_none_or(|at| now.saturating_duration_since(at) >= SPOKEN_OF)
    }

    /// How many failures are to be told of now, if any.
    fn tell(&mut self, now: Instant) -> Option<u64> {
        if !self.is_due(now) {
            return None;
        }
        self.at = Some(now);
        Some(std::mem::take(&mut self.failures))
    }
}

impl Trouble {
    fn failed(&self, listener: SocketAddr, error: &io::Error) {
        self.is_any.store(true, Ordering::Relaxed);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.failures += 1;
        if let Some(failures) = told.tell(Instant::now()) {
            drop(told);
            tracing::warn!(%listener, failures, "cannot accept clients, who have to wait: {error}{}", hint(error));
        }
    }

    /// A client was accepted. What went wrong before may be over, but is told only when a minute has passed: while descriptors
    /// are scarce, one success follows another failure.
    fn works(&self) {
        if !self.is_any.load(Ordering::Relaxed) {
            return;
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(failures) = told.tell(Instant::now()) {
            self.is_any.store(false, Ordering::Relaxed);
            drop(told);
            tracing::info!(failures, "clients are accepted again");
        }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE) => {
            "; hint: a session takes two descriptors: raise the limit (`ulimit -n`, `LimitNOFILE=`), or lower `limits.connections`"
        }
        Some(Errno::NFILE) => "; hint: the whole system has no file descriptors left (`fs.file-max`)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_of_once_a_minute_with_a_count() {
        let (start, mut told) = (Instant::now(), Told::default());
        let mut fail = |seconds| {
            told.failures += 1;
            told.tell(start + Duration::from_secs(seconds))
        };
        let found: Vec<_> = [0, 1, 30, 59, 60, 61, 119, 121].map(&mut fail).into_iter().collect();
        assert_eq!(found, [Some(1), None, None, None, Some(4), None, None, Some(3)]);
    }

    #[test]
    fn a_client_that_left_holds_up_nobody() {
        for (errno, expected) in [
            (Errno::CONNABORTED, true),
            (Errno::PROTO, true),
            (Errno::MFILE, false),
            (Errno::NFILE, false),
            (Errno::NOBUFS, false),
        ] {
            assert_eq!(concerns_one_client(&errno.into()), expected, "{errno}");
        }
    }
}
