//! The sockets that the service manager handed to this process.

use std::{net::SocketAddr, sync::OnceLock};

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandedOver {
    /// Its name, or its number where it has none.
    pub name: String,
    /// Where it is bound; `None` for a Unix socket.
    pub address: Option<SocketAddr>,
}

/// What is known since the start; a reload asks again.
static KNOWN: OnceLock<Vec<HandedOver>> = OnceLock::new();

/// Tells [`load`](super::load) which sockets there are. Until then, as for `check`, it takes every one that is named for existing.
/// The first call counts.
pub fn handed_over(sockets: Vec<HandedOver>) {
    // A second one would mean a second start.
    let _ = KNOWN.set(sockets);
}

/// What [`handed_over`] was told.
pub(super) fn known() -> Option<Vec<HandedOver>> {
    KNOWN.get().cloned()
}
