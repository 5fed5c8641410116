//! The ways to upstreams: what connects to each, shared by all listeners that name it.

use std::sync::Arc;

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

/// Each of them once.
pub(super) fn distinct<'w>(all: impl IntoIterator<Item = &'w Arc<Way>>) -> Vec<Arc<Way>> {
    let mut ways: Vec<Arc<Way>> = Vec::new();
    for way in all {
        if !ways.iter().any(|known| Arc::ptr_eq(known, way)) {
            ways.push(Arc::clone(way));
        }
    }
    ways
}
