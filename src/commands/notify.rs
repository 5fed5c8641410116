//! What the service manager is told (`sd_notify(3)`); nothing where there is none.

use std::{
    env, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::{
    task,
    time::{MissedTickBehavior, interval},
};

use crate::{
    inspect::human::plural,
    server::{Reloader, Stop},
};

/// How often the status is looked at; the manager is told when it has changed.
const LOOK: Duration = Duration::from_secs(5);
/// How much longer the end may take, told anew at each look while poptap drains. The unit's `TimeoutStopSec` is for what hangs; how
/// long sessions may take is `timeouts.drain`.
const EXTENSION: Duration = Duration::from_secs(30);

/// Speaks to the service manager of one running server.
#[derive(Clone)]
pub(super) struct Manager(Option<Arc<Watched>>);

struct Watched {
    reloader: Reloader,
    stop: Stop,
    reload_failed: AtomicBool,
    /// Another process speaks to the manager.
    handed_over: AtomicBool,
}

impl Manager {
    /// Whoever started this process, if that wants to be told.
    pub(super) fn of_process(reloader: Reloader, stop: Stop) -> Self {
        let is_there = env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty());
        Self(is_there.then(|| {
            Arc::new(Watched { reloader, stop, reload_failed: AtomicBool::new(false), handed_over: AtomicBool::new(false) })
        }))
    }

    /// Says that clients are accepted, and from then on, for as long as the runtime lives, how that goes.
    pub(super) fn ready(&self) {
        let Some(watched) = &self.0 else { return };
        let status = watched.status();
        complain(sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&status)]));
        tokio::spawn(watch(Arc::clone(watched), status));
    }

    /// Says that a reload has begun. [`Manager::reloaded`] has to follow.
    pub(super) async fn reloading(&self) {
        let Some(watched) = &self.0 else { return };
        watched.tell(|_| sd_notify::notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now()?])).await;
    }

    /// Says that it has ended, one way or the other.
    pub(super) async fn reloaded(&self, successfully: bool) {
        let Some(watched) = &self.0 else { return };
        watched.reload_failed.store(!successfully, Ordering::SeqCst);
        watched.tell(|watched| sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&watched.status())])).await;
    }
}

impl Manager {
    /// Says that another process is the service from now on. This one says no more.
    pub(super) async fn handed_over(&self, successor: u32) {
        let Some(watched) = &self.0 else { return };
        watched.handed_over.store(true, Ordering::SeqCst);
        watched.tell(move |_| sd_notify::notify(&[NotifyState::MainPid(successor)])).await;
    }

    /// Says that it is this process after all.
    pub(super) async fn taken_back(&self) {
        let Some(watched) = &self.0 else { return };
        watched.tell(|_| sd_notify::notify(&[NotifyState::MainPid(std::process::id())])).await;
        watched.handed_over.store(false, Ordering::SeqCst);
    }
}

/// A runtime that hangs pings no watchdog: each ping is sent by a task, and after another one was run.
async fn watch(watched: Arc<Watched>, mut said: String) {
    let watchdog = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
    let mut looks = interval(watchdog.map_or(LOOK, |limit| LOOK.min(limit / 2)));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut draining = false;
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = watched.stop.drain.cancelled(), if !draining => {
                draining = true;
                if watched.handed_over.load(Ordering::SeqCst) {
                    return;
                }
                watched.tell(|_| sd_notify::notify(&[NotifyState::Stopping])).await;
            }
        }
        if task::spawn(async {}).await.is_err() {
            return;
        }
        let status = watched.status();
        let changed = (status != said).then(|| status.clone());
        said = status;
        watched.tell(move |_| notify_of(watchdog.is_some(), draining, changed.as_deref())).await;
    }
}

fn notify_of(watchdog: bool, draining: bool, status: Option<&str>) -> io::Result<()> {
    let extension = u32::try_from(EXTENSION.as_micros()).unwrap_or(u32::MAX);
    let states = [
        watchdog.then_some(NotifyState::Watchdog),
        draining.then_some(NotifyState::ExtendTimeoutUsec(extension)),
        status.map(NotifyState::Status),
    ];
    let states: Vec<_> = states.into_iter().flatten().collect();
    if states.is_empty() { Ok(()) } else { sd_notify::notify(&states) }
}

impl Watched {
    /// One line for `systemctl status`.
    fn status(&self) -> String {
        let sessions = plural(u64::try_from(self.reloader.sessions()).unwrap_or(u64::MAX), "session");
        if self.stop.drain.is_cancelled() {
            return format!("draining: {sessions} left");
        }
        let listeners = plural(u64::try_from(self.reloader.listeners()).unwrap_or(u64::MAX), "listener");
        let failed = self.reload_failed.load(Ordering::SeqCst).then_some("the last reload failed: see the log");
        let trouble = self.reloader.unready().or(failed);
        trouble.map_or_else(|| format!("{listeners}, {sessions}"), |trouble| format!("{listeners}, {sessions}; {trouble}"))
    }

    /// The manager may be slow to read: that holds up a thread of no session.
    async fn tell(self: &Arc<Self>, send: impl FnOnce(&Self) -> io::Result<()> + Send + 'static) {
        let watched = Arc::clone(self);
        // A thread that cannot be had is no reason to stop.
        if let Ok(told) = task::spawn_blocking(move || send(&watched)).await {
            complain(told);
        }
    }
}

fn complain(told: io::Result<()>) {
    if let Err(error) = told {
        tracing::warn!("cannot tell the service manager how poptap is: {error}; hint: NOTIFY_SOCKET must name its socket");
    }
}
