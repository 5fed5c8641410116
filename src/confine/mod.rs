//! What the process gives up once its sockets are bound: core dumps, its privileges, and files that it has no business with.
//!
//! All of it happens before there is a second thread: Landlock and capabilities belong to threads, and who comes later inherits.

mod identity;
mod sandbox;

use std::path::Path;

use rustix::{
    process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit},
    thread::{CapabilitySet, set_no_new_privs},
};

use crate::config::{Config, Listener, Process, Source, Transparent};

pub use identity::IdentityError;
pub use sandbox::{Outside, SandboxError};

use sandbox::{Enforced, Places};

/// What holds for the process from now on.
#[derive(Debug)]
pub struct Confinement {
    process: Process,
    user: Option<String>,
    sandbox: Enforced,
}

/// The process cannot be confined as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// It cannot become the user.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The kernel holds it to nothing, and that was required.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

/// Gives up what `config` does not need. To be called once, when everything is bound, and before there are threads.
///
/// `file` is the configuration file, which a reload reads again.
///
/// # Errors
///
/// [`ConfineError`]; the process should end then.
pub fn confine(config: &Config, file: Option<&Path>) -> Result<Confinement, ConfineError> {
    let process = &config.process;
    let user = identity::change(process, needed(config))?;
    if !process.core_dumps {
        forbid_core_dumps();
    }
    // Nothing that is started from here gets more rights than poptap has. What an old kernel does not know, it does not enforce.
    let _ = set_no_new_privs(true);
    let sandbox = sandbox::enforce(process.sandbox, Places::of(config, file))?;
    Ok(Confinement { process: process.clone(), user, sandbox })
}

impl Confinement {
    /// Says in the log what holds. Nobody could listen before.
    pub fn announce(&self) {
        if let Some(user) = &self.user {
            tracing::info!("runs as {user} from here on");
        } else if rustix::process::geteuid().is_root() {
            tracing::info!("runs as root; hint: name a user with `--user` or `[process] user`, and everything is bound before");
        }
        self.sandbox.announce();
    }

    /// Whether a reload can use the files that `config` names; and what of it has to wait for a restart, in a sentence.
    ///
    /// # Errors
    ///
    /// [`Outside`], with the first file that is out of reach.
    pub fn admits(&self, config: &Config) -> Result<Option<String>, Outside> {
        self.sandbox.admits(&Places::of(config, None))?;
        let waits = config.process != self.process;
        Ok(waits.then(|| "what `[process]` says holds from the start: the changes wait for a restart".to_owned()))
    }
}

/// Capabilities that are needed after everything is bound.
fn needed(config: &Config) -> CapabilitySet {
    let is_tproxy = |listener: &Listener| listener.interception.as_ref().is_some_and(|it| it.how == Transparent::Tproxy);
    let uses_others = |listener: &Listener| listener.source == Source::Client || is_tproxy(listener);
    if config.listeners.iter().any(uses_others) { CapabilitySet::NET_ADMIN } else { CapabilitySet::empty() }
}

/// Changing the user makes a process dumpable or not as the system's settings want it, so this comes after.
fn forbid_core_dumps() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    // Either is enough, and where neither can be had the process is no worse off than before.
    let _ = setrlimit(Resource::Core, none);
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
