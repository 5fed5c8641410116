//! Who may begin a session: by address, by limits, by the room that is left.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tokio::{net::TcpStream, sync::OwnedSemaphorePermit};
use tokio_util::task::TaskTracker;

use super::{Caller, House, Refusal, Route, Terms, canonical};
use crate::{
    admission::{Visit, log_refused_client},
    config::AllowFrom,
    net::Stream,
    session,
};

/// Begins the session of a connection, or turns it away.
pub(super) fn admit(client: TcpStream, peer: SocketAddr, route: &Route, house: &Arc<House>, sessions: &TaskTracker) {
    let (client, terms, house, peer) = (Stream::new(client), route.terms.load_full(), Arc::clone(house), canonical(peer));
    if !terms.proxy_from.is_empty() {
        return admit_proxy(client, peer, terms, house, sessions);
    }
    let caller = Caller::direct(peer);
    match visit(&caller, &terms, &house).and_then(|visit| Ok((visit, room(&house)?))) {
        Ok((visit, permit)) => {
            sessions.spawn(async move {
                session::serve(client, caller, &terms, &house, visit).await;
                drop(permit);
            });
        }
        Err(refusal) => turn_away(client, caller, terms, house, sessions, refusal),
    }
}

/// A place under the cap is taken before the header is waited for; it is read in the session's own time.
fn admit_proxy(client: Stream, proxy: SocketAddr, terms: Arc<Terms>, house: Arc<House>, sessions: &TaskTracker) {
    let is_known = terms.proxy_from.iter().any(|network| network.contains(&proxy.ip()));
    let permit = match if is_known { room(&house) } else { Err(Refusal::NotAProxy) } {
        Ok(permit) => permit,
        Err(refusal) => return turn_away(client, Caller::direct(proxy), terms, house, sessions, refusal),
    };
    let tracker = sessions.clone();
    sessions.spawn(async move {
        let Some(caller) = session::announced(&client, proxy, &terms, &house).await else { return };
        match visit(&caller, &terms, &house) {
            Ok(visit) => session::serve(client, caller, &terms, &house, visit).await,
            Err(refusal) => turn_away(client, caller, terms, house, &tracker, refusal),
        }
        drop(permit);
    });
}

/// Said here, so that none is missing where many come at a time.
fn turn_away(client: Stream, caller: Caller, terms: Arc<Terms>, house: Arc<House>, sessions: &TaskTracker, refusal: Refusal) {
    log_refused_client(caller.address, terms.address, refusal.reason());
    if let Ok(permit) = Arc::clone(&house.refusals).try_acquire_owned() {
        sessions.spawn(async move {
            session::refuse(client, &caller, &terms, &house, refusal).await;
            drop(permit);
        });
    }
}

/// Counts a client, if it may come.
fn visit(caller: &Caller, terms: &Terms, house: &House) -> Result<Visit, Refusal> {
    let client = caller.address.ip();
    if terms.deny_from.iter().any(|network| network.contains(&client)) {
        return Err(Refusal::Denied);
    }
    // A proxy could announce anybody, so it may come for itself.
    if !caller.is_the_proxy() && !terms.allow_from.allows(client) {
        return Err(Refusal::NotAllowed);
    }
    house.admission.arrive(client, &terms.limits).map_err(Refusal::NotAdmitted)
}

/// A place for one more session.
fn room(house: &House) -> Result<OwnedSemaphorePermit, Refusal> {
    if !house.store.accepts_sessions() {
        return Err(Refusal::NoTranscript);
    }
    Arc::clone(&house.permits).try_acquire_owned().map_err(|_full| Refusal::TooMany)
}

impl AllowFrom {
    /// Whether a client with this address, in its canonical form, may come.
    pub(crate) fn allows(&self, client: IpAddr) -> bool {
        client.is_loopback()
            || match self {
                Self::Loopback => false,
                Self::Networks(networks) => networks.iter().any(|network| network.contains(&client)),
                Self::Any => true,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_connect() {
        let networks = AllowFrom::Networks(vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
        for (allow, client, expected) in [
            (&AllowFrom::Loopback, "127.0.0.9", true),
            (&AllowFrom::Loopback, "::1", true),
            (&AllowFrom::Loopback, "192.0.2.1", false),
            (&networks, "192.0.2.77", true),
            (&networks, "::ffff:192.0.2.77", true),
            (&networks, "198.51.100.1", false),
            (&networks, "2001:db8::5", true),
            (&AllowFrom::Any, "198.51.100.1", true),
        ] {
            let address = canonical(SocketAddr::new(client.parse().unwrap(), 1));
            assert_eq!(allow.allows(address.ip()), expected, "{allow:?} {client}");
        }
    }
}
