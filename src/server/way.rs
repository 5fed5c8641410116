//! The ways to upstreams: what connects to each, shared by all listeners that name it.

use std::{net::SocketAddr, sync::Arc};

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

impl Way {
    /// As it is, but dialled at `destination`. One that stands for every server there is has its name from that.
    pub(super) fn towards(&self, destination: SocketAddr) -> Self {
        let (host, port) = (destination.ip().to_string(), destination.port());
        let mut upstream = Upstream { host, port, ..(*self.upstream).clone() };
        if self.upstream.is_original() {
            upstream.name = upstream.url().to_string();
        }
        Self { upstream: Arc::new(upstream), connector: self.connector.towards(destination) }
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
        Self { upstream: Arc::clone(&self.upstream), connector }
    }
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
