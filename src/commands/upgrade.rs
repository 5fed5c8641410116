//! Upgrade without loss: at SIGUSR2 the program is started anew, gets the listening sockets, and this process lets its sessions finish.

use std::{
    env,
    ffi::OsString,
    fs, io,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf, absolute},
    pin::pin,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::spawn_blocking,
    time::timeout,
};

use super::{Failure, exit, notify::Manager};
use crate::{
    policy::MemoryError,
    server::{Answer, Offer, Reloader, Stop},
    web::Handing,
};

/// How long the new process may take until it could accept.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one may take to end that has said why it cannot run.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// What the service manager tells a single process, and would be wrong for the next one. Without `WATCHDOG_PID` a watchdog is
/// for whoever reads of it.
const NOT_INHERITED: [&str; 4] = ["WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// How this process was started.
#[derive(Clone, Debug)]
pub(super) struct Program {
    path: PathBuf,
    name: OsString,
    arguments: Vec<OsString>,
}

/// What is replaced.
pub(super) struct Upgrade {
    pub(super) program: Program,
    pub(super) reloader: Reloader,
    pub(super) web: Handing,
    pub(super) stop: Stop,
    pub(super) manager: Manager,
}

/// Why there is no new process.
#[derive(Debug, thiserror::Error)]
enum UpgradeError {
    #[error("cannot start `{}`: {source}; hint: the program has to be where it was when this process was started", path.display())]
    Start { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error("cannot speak to the new process: {0}")]
    Link(#[from] io::Error),
    #[error("the new process cannot run: {0}")]
    Failed(String),
    #[error("the new process ended before it was ready, with {0}; hint: see what it wrote to standard error")]
    Ended(ExitStatus),
    #[error("the new process was not ready within {} s, and was ended", PATIENCE.as_secs())]
    NotReady,
    #[error("the thread that was to start it failed: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

impl Program {
    /// To be called when the process starts: later the program may have been replaced, and the name that the system has for it
    /// (`/proc/self/exe`) is that of a deleted file.
    pub(super) fn of_process() -> Self {
        let mut words = env::args_os();
        let name = words.next().unwrap_or_default();
        let path = find(&name, env::var_os("PATH").as_deref());
        let path = path.or_else(|| env::current_exe().ok()).unwrap_or_else(|| PathBuf::from(&name));
        Self { path, name, arguments: words.collect() }
    }

    /// Starts it with the arguments, the environment and the directory of this process, and hands it the sockets.
    fn start(&self, reloader: &Reloader, web: &Handing) -> Result<Started, UpgradeError> {
        let mut sockets = reloader.hand_over()?;
        sockets.extend(web.sockets());
        let (offer, link) = Offer::new()?;
        let (variable, value) = Offer::variable();
        let mut command = Command::new(&self.path);
        command.arg0(&self.name).args(&self.arguments).env(variable, value).stdin(Stdio::from(link));
        for variable in NOT_INHERITED {
            command.env_remove(variable);
        }
        let child = command.spawn().map_err(|source| UpgradeError::Start { path: self.path.clone(), source })?;
        // It has the other end: with this copy open, its end would not be noticed.
        drop(command);
        let started = Started { child: Some(child), offer };
        match started.offer.send(&sockets) {
            Ok(()) => Ok(started),
            // It has ended. What it said tells more than that.
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(started),
            Err(error) => Err(error.into()),
        }
    }
}

/// Where the program is that is called so.
fn find(name: &OsString, path: Option<&std::ffi::OsStr>) -> Option<PathBuf> {
    let named = Path::new(name);
    if named.components().count() > 1 || named.is_absolute() {
        return absolute(named).ok();
    }
    let is_program =
        |file: &PathBuf| fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
    let mut candidates = path.map(env::split_paths)?.filter_map(|directory| absolute(directory.join(named)).ok());
    candidates.find(is_program)
}

/// A new process, which is ended with this unless it was let go.
struct Started {
    child: Option<Child>,
    offer: Offer,
}

impl Started {
    fn number(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Waits until it could accept.
    async fn ready(&mut self) -> Result<(), UpgradeError> {
        match timeout(PATIENCE, self.offer.answer()).await.map_err(|_| UpgradeError::NotReady)?? {
            Answer::Ready => Ok(()),
            Answer::Failed(why) => {
                // It may have more to write. What it does not finish in time is not missed.
                let _ = timeout(LAST_WORDS, self.offer.answer()).await;
                Err(UpgradeError::Failed(why))
            }
            Answer::Gone => Err(self.ended().await?),
        }
    }

    /// It has closed its end, which only its own end does.
    async fn ended(&mut self) -> Result<UpgradeError, UpgradeError> {
        let Some(mut child) = self.child.take() else { return Ok(UpgradeError::NotReady) };
        let status = spawn_blocking(move || child.wait()).await??;
        Ok(UpgradeError::Ended(status))
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // One that has ended already is only waited for.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// From now on SIGUSR2 does not end the process.
pub(super) fn signals() -> Result<Signal, Failure> {
    signal(SignalKind::user_defined2()).map_err(|error| Failure::new(exit::SOFTWARE, format!("cannot catch signals: {error}")))
}

/// Upgrades at each SIGUSR2, until that has worked.
pub(super) fn watch(mut signals: Signal, upgrade: Upgrade) {
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            if upgrade.stop.drain.is_cancelled() {
                tracing::warn!("SIGUSR2 is ignored: this process accepts no more clients, and lets its sessions finish");
                continue;
            }
            match upgrade.prepare(&mut signals).await {
                Ok(Some(started)) => upgrade.commit(started).await,
                Ok(None) => tracing::warn!("the upgrade is given up: this process was told to stop"),
                Err(error) => tracing::error!("the upgrade failed, and this process goes on as before: {error}"),
            }
        }
    });
}

impl Upgrade {
    /// A new process that could accept; `None` where this one was told to stop meanwhile.
    async fn prepare(&self, signals: &mut Signal) -> Result<Option<Started>, UpgradeError> {
        tracing::info!("upgrading: starting `{}`", self.program.path.display());
        let mut work = pin!(self.start());
        loop {
            tokio::select! {
                started = &mut work => return started.map(Some),
                () = self.stop.drain.cancelled() => return Ok(None),
                Some(()) = signals.recv() => tracing::warn!("SIGUSR2 is ignored: an upgrade is under way"),
            }
        }
    }

    async fn start(&self) -> Result<Started, UpgradeError> {
        let (program, reloader, web) = (self.program.clone(), self.reloader.clone(), self.web.clone());
        let mut started = spawn_blocking(move || program.start(&reloader, &web)).await??;
        tracing::info!("upgrading: started process {}", started.number());
        started.ready().await?;
        Ok(started)
    }

    /// The service manager is told first: it believes the new process only when it knows of it.
    async fn commit(&self, mut started: Started) {
        let number = started.number();
        self.manager.handed_over(number).await;
        if let Err(error) = started.offer.yours() {
            tracing::error!("the upgrade failed, and this process goes on as before: the new process has ended: {error}");
            self.manager.taken_back().await;
            return;
        }
        self.web.handed_over();
        self.stop.replaced.cancel();
        self.stop.drain.cancel();
        tracing::info!("process {number} has taken over: no more clients are accepted here");
        // Whoever is to stop it has its number. It is waited for when it ends before this process.
        started.child = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_looked_for_as_the_shell_does() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("a"), folder.path().join("b"));
        for (directory, mode) in [(&first, 0o644), (&second, 0o755)] {
            fs::create_dir(directory).unwrap();
            fs::write(directory.join("poptap"), "").unwrap();
            fs::set_permissions(directory.join("poptap"), fs::Permissions::from_mode(mode)).unwrap();
        }
        let path = env::join_paths([&first, &second]).unwrap();
        let here = env::current_dir().unwrap();
        for (name, expected) in [
            ("poptap", Some(second.join("poptap"))),
            ("nothing-of-that-name", None),
            ("/usr/bin/poptap", Some(PathBuf::from("/usr/bin/poptap"))),
            ("target/debug/poptap", Some(here.join("target/debug/poptap"))),
            ("./poptap", Some(here.join("poptap"))),
        ] {
            assert_eq!(find(&name.into(), Some(&path)), expected, "{name}");
        }
        assert_eq!(find(&"poptap".into(), None), None);
    }
}
