//! The ways to upstreams: what connects to each, shared by all listeners that name it.

use std::{net::SocketAddr, sync::Arc};

use super::{
    House, StartError,
    health::{Health, Rest, Stage, Try},
};
use crate::{
    config::Upstream,
    net::{ConnectError, Connector},
};

/// An upstream, and what connects to it.
#[derive(Debug)]
pub struct Way {
    /// The mail server.
    pub upstream: Arc<Upstream>,
    /// What connects to that.
    pub connector: Connector,
    /// Kept over a reload.
    pub(crate) health: Arc<Health>,
    rest: Rest,
}

/// What a monitoring system is told of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The upstream's name.
    pub upstream: String,
    /// Whether it answered the last time.
    pub is_up: bool,
    /// How often it did not, since the start.
    pub failures: u64,
}

impl Way {
    /// How the upstream is doing.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing { upstream: self.upstream.name.clone(), is_up: self.health.is_up(), failures: self.health.failures() }
    }

    /// A connection came so far.
    pub(crate) fn came_to(&self, stage: Stage, attempt: Try<'_>) {
        attempt.reached(stage).tell(&self.upstream.name, "");
    }

    /// There was no connection over which a session could be held.
    pub(crate) fn failed(&self, error: &ConnectError, attempt: Try<'_>) {
        let stage = if error.is_of_greeting() { Stage::Greeted } else { Stage::Connected };
        attempt.failed(stage, self.rest).tell(&self.upstream.name, &error.detail());
    }
}

impl Way {
    /// As it is, but dialled at `destination`. One that stands for every server there is has its name from that.
    pub(super) fn towards(&self, destination: SocketAddr) -> Self {
        let (host, port) = (destination.ip().to_string(), destination.port());
        let mut upstream = Upstream { host, port, socket: None, ..(*self.upstream).clone() };
        if self.upstream.is_original() {
            upstream.name = upstream.url().to_string();
        }
        // Others that are spoken with in the same way may be well.
        let health = Arc::default();
        Self { upstream: Arc::new(upstream), connector: self.connector.towards(destination), health, rest: self.rest }
    }

    /// As some listeners' clients take it: without TLS of poptap's own, from the client's address.
    pub(super) fn fitted(&self, unread: bool, from_client: bool) -> Self {
        let mut connector = self.connector.clone();
        if unread {
            connector = connector.without_tls();
        }
        if from_client {
            connector = connector.from_client();
        }
        Self { upstream: Arc::clone(&self.upstream), connector, health: Arc::clone(&self.health), rest: self.rest }
    }
}

/// Makes ways while listeners are read, one to each upstream.
pub(super) struct Ways<'a> {
    house: &'a House,
    former: Vec<Arc<Way>>,
    made: Vec<Arc<Way>>,
}

impl<'a> Ways<'a> {
    /// What was found of an upstream on the `former` ways holds on.
    pub(super) fn new(house: &'a House, former: Vec<Arc<Way>>) -> Self {
        Self { house, former, made: Vec::new() }
    }

    /// Those to `upstreams`, in their order.
    pub(super) fn reach_each(&mut self, upstreams: &[Arc<Upstream>]) -> Result<Arc<[Arc<Way>]>, StartError> {
        upstreams.iter().map(|upstream| self.reach(upstream)).collect()
    }

    /// The one to `upstream`, whose files are read when it is asked for first.
    pub(super) fn reach(&mut self, upstream: &Arc<Upstream>) -> Result<Arc<Way>, StartError> {
        if let Some(way) = self.made.iter().find(|way| way.upstream == *upstream) {
            return Ok(Arc::clone(way));
        }
        let connector = Connector::new(upstream, &self.house.timeouts, self.house.key_log.as_ref())
            .map_err(|source| StartError::Tls { upstream: upstream.name.clone(), source })?;
        let is_same = |way: &&Arc<Way>| way.upstream.name == upstream.name && way.upstream.url() == upstream.url();
        let health = self.former.iter().find(is_same).map(|way| Arc::clone(&way.health)).unwrap_or_default();
        let way = Arc::new(Way { upstream: Arc::clone(upstream), connector, health, rest: Rest::of(&self.house.timeouts) });
        self.made.push(Arc::clone(&way));
        Ok(way)
    }
}

/// Each of them once, however listeners' clients take it.
pub(super) fn distinct<'w>(all: impl IntoIterator<Item = &'w Arc<Way>>) -> Vec<Arc<Way>> {
    let mut ways: Vec<Arc<Way>> = Vec::new();
    for way in all {
        if !ways.iter().any(|known| Arc::ptr_eq(&known.health, &way.health)) {
            ways.push(Arc::clone(way));
        }
    }
    ways
}
