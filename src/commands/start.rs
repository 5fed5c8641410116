//! What `run` does while it has one thread and all its privileges: it binds, and gives up what it does not need any more.

use super::{Failure, exit};
use crate::{
    cli::RunArgs,
    config::{self, Config},
    confine::{ConfineError, Confinement, IdentityError, confine},
    server::{InheritError, Inherited, Server, Succession, SuccessionError},
    web::{BindError, Web},
};

/// Every socket is bound, and the process is what it is going to be.
pub(super) struct Prepared {
    pub(super) sockets: Inherited,
    pub(super) confinement: Confinement,
    /// Sockets that were handed over, and are closed.
    unwanted: Vec<String>,
}

/// Takes what was handed over, and tells the configuration of it. To be called once, before there is a second thread.
pub(super) fn inherit(succession: Option<&Succession>) -> Result<Inherited, Failure> {
    let mut sockets = Inherited::from_environment()?;
    if let Some(succession) = succession {
        succession.receive(&mut sockets)?;
    }
    config::handed_over(sockets.known());
    Ok(sockets)
}

/// To be called before there is a second thread.
pub(super) fn prepare(args: &RunArgs, config: &Config, mut sockets: Inherited) -> Result<Prepared, Failure> {
    Server::reserve(config, &mut sockets)?;
    Web::reserve(config, &mut sockets)?;
    let unwanted = sockets.dismiss();
    let confinement = confine(config, args.config.as_deref())?;
    Ok(Prepared { sockets, confinement, unwanted })
}

impl Prepared {
    /// Says in the log what there was nobody to tell before.
    pub(super) fn announce(&self) {
        for socket in &self.unwanted {
            tracing::warn!(
                "the socket {socket} was handed over, and no listener asks for it: it is closed; hint: name it with \
                 `address = \"systemd:NAME\"`, or leave it out of the socket unit"
            );
        }
        self.confinement.announce();
    }
}

impl From<InheritError> for Failure {
    fn from(error: InheritError) -> Self {
        Self::new(exit::UNAVAILABLE, error)
    }
}

impl From<SuccessionError> for Failure {
    fn from(error: SuccessionError) -> Self {
        Self::new(exit::UNAVAILABLE, error)
    }
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        Self::new(exit::UNAVAILABLE, error)
    }
}

impl From<ConfineError> for Failure {
    fn from(error: ConfineError) -> Self {
        let is_configuration =
            matches!(error, ConfineError::Identity(IdentityError::Unknown { .. } | IdentityError::NotRoot { .. }));
        Self::new(if is_configuration { exit::CONFIG } else { exit::SOFTWARE }, error)
    }
}
