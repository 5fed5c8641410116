//! The ways to upstreams: what connects to each, shared by all listeners that name it.

use std::sync::Arc;

use super::StartError;
use crate::{
    config::{Timeouts, Upstream},
    net::Connector,
    tls::KeyLog,
};

/// An upstream, and what connects to it.
#[derive(Debug)]
pub struct Way {
    /// The mail server.
    pub upstream: Arc<Upstream>,
    /// What connects to that.
    pub connector: Connector,
}

/// Makes ways while listeners are read, one to each upstream.
pub(super) struct Ways<'a> {
    timeouts: &'a Timeouts,
    key_log: Option<&'a KeyLog>,
    made: Vec<Arc<Way>>,
}

impl<'a> Ways<'a> {
    pub(super) fn new(timeouts: &'a Timeouts, key_log: Option<&'a KeyLog>) -> Self {
        Self { timeouts, key_log, made: Vec::new() }
    }

    /// Those to `upstreams`, in their order.
    pub(super) fn to_each(&mut self, upstreams: &[Arc<Upstream>]) -> Result<Arc<[Arc<Way>]>, StartError> {
        upstreams.iter().map(|upstream| self.to(upstream)).collect()
    }

    /// The one to `upstream`, read from files when it is asked for first.
    pub(super) fn to(&mut self, upstream: &Arc<Upstream>) -> Result<Arc<Way>, StartError> {
        if let Some(way) = self.made.iter().find(|way| way.upstream == *upstream) {
            return Ok(Arc::clone(way));
        }
        let connector = Connector::new(upstream, self.timeouts, self.key_log)
            .map_err(|source| StartError::Tls { upstream: upstream.name.clone(), source })?;
        let way = Arc::new(Way { upstream: Arc::clone(upstream), connector });
        self.made.push(Arc::clone(&way));
        Ok(way)
    }
}
