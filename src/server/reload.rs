//! Exchanging listeners, certificates, keys and trust while sessions go on.

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError, atomic::Ordering},
};

use time::OffsetDateTime;

use super::{Common, Expiry, Inherited, Reloader, Route, Served, StartError, Terms, Way, Ways, bind, distinct, terms};
use crate::{
    config::{Config, Limits},
    record::Condition,
    tls::{KeyLog, KeyLogError},
};

/// Why nothing was exchanged.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// A file cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A certificate that poptap would present has expired.
    #[error("{} has expired on {}", expiry.what, expiry.not_after.date())]
    Expired {
        /// Which one.
        expiry: Expiry,
    },
}

/// What a reload has changed, besides the terms of what stayed.
#[derive(Debug)]
pub struct Reloaded {
    /// Listeners that were added.
    pub opened: Vec<Served>,
    /// The addresses of those that were taken away: no more clients are accepted there, and their sessions go on.
    pub closed: Vec<SocketAddr>,
    /// What stays as it was until a restart.
    pub notes: Vec<String>,
}

impl Reloader {
    /// Takes over what `config` says of listeners, TLS, upstreams, rules, limits and who may come. All of it, or nothing: what cannot
    /// be used leaves everything as it is. Sessions keep what they began with, also those of a listener that is taken away.
    ///
    /// Returns what came and went, and what cannot be taken over while running: limits that have a size from the start.
    ///
    /// # Errors
    ///
    /// [`ReloadError`], with what cannot be used.
    pub fn reload(&self, config: &Config) -> Result<Reloaded, ReloadError> {
        let house = &*self.house;
        let common = Common::new(config, &house.memory)?;
        let mut ways = Ways::new(house, self.ways());
        // One at a time; the list itself is free meanwhile, since others look into it while files are read here.
        let _alone = house.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = house.routes().clone();
        let (mut wanted, mut changed, mut added) = (Vec::new(), Vec::new(), Vec::new());
        let mut notes: Vec<_> = unchanged(&house.fixed, &config.limits).collect();
        for listener in &config.listeners {
            let Some(at) = left.iter().position(|route| route.asked_for == listener.address) else {
                let (socket, route) = bind(listener, &common, &mut ways, house, &mut Inherited::default())?;
                fit(&route.terms.load())?;
                wanted.push(Arc::clone(&route));
                added.push((socket, route));
                continue;
            };
            let (route, terms) = (left.remove(at), terms(listener, &common, &mut ways, house)?);
            fit(&terms)?;
            if route.socket != listener.socket {
                notes.push(format!("the socket of the listener {} stays as it is until a restart", route.address));
            }
            wanted.push(Arc::clone(&route));
            changed.push((route, terms));
        }
        // Nothing can fail any more.
        for (route, terms) in changed {
            exchange(&route, terms);
        }
        let opened = added.iter().map(|(_, route)| route.served()).collect();
        for bound in added {
            // Nobody takes it once the server drains.
            let _ = house.adding.send(bound);
        }
        for route in &left {
            route.unwanted.cancel();
        }
        *house.routes() = wanted;
        let closed = left.iter().map(|route| route.address).collect();
        Ok(Reloaded { opened, closed, notes })
    }

    /// Opens the file of TLS secrets anew; `None` where there is none.
    #[must_use]
    pub fn reopen_key_log(&self) -> Option<Result<(), KeyLogError>> {
        self.house.key_log.as_ref().map(KeyLog::reopen)
    }

    /// Why a monitoring system should send no clients here; `None` where they are welcome.
    #[must_use]
    pub fn unready(&self) -> Option<&'static str> {
        let house = &self.house;
        if house.stop.drain.is_cancelled() {
            Some("draining: no more clients are accepted")
        } else if house.deaf.load(Ordering::SeqCst) > 0 {
            Some("clients cannot be accepted: see the log")
        } else if house.store.condition().failing {
            Some("the transcript cannot be written: see the log")
        } else {
            None
        }
    }

    /// Listeners on which clients are accepted.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.house.routes().len()
    }

    /// Sessions at this moment.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.house.fixed.connections.saturating_sub(self.house.permits.available_permits())
    }

    /// The way to each upstream, once.
    #[must_use]
    pub fn ways(&self) -> Vec<Arc<Way>> {
        let terms: Vec<_> = self.house.routes().iter().map(|route| route.terms.load_full()).collect();
        distinct(terms.iter().flat_map(|terms| terms.all_ways()))
    }

    /// How the store of all sessions is doing.
    #[must_use]
    pub fn transcript(&self) -> Condition {
        self.house.store.condition()
    }

    /// Every certificate that poptap presents to anybody, once, with its end.
    #[must_use]
    pub fn expiries(&self) -> Vec<Expiry> {
        let mut found: Vec<Expiry> = Vec::new();
        for route in self.house.routes().iter() {
            for expiry in expiries(&route.terms.load()) {
                if !found.contains(&expiry) {
                    found.push(expiry);
                }
            }
        }
        found
    }
}

/// What is asked for of limits, and has to wait.
fn unchanged(fixed: &Limits, wanted: &Limits) -> impl Iterator<Item = String> {
    let sizes = [
        ("connections", fixed.connections, wanted.connections),
        ("tracked_addresses", fixed.tracked_addresses, wanted.tracked_addresses),
    ];
    sizes
        .into_iter()
        .filter(|(_, fixed, wanted)| fixed != wanted)
        .map(|(key, fixed, wanted)| format!("`limits.{key}` stays {fixed} until a restart, and is {wanted} then"))
}

fn exchange(route: &Route, terms: Terms) {
    route.terms.store(Arc::new(Terms { address: route.address, ..terms }));
}

fn fit(terms: &Terms) -> Result<(), ReloadError> {
    let now = OffsetDateTime::now_utc();
    let expired = expiries(terms).into_iter().find(|expiry| expiry.not_after < now);
    expired.map_or(Ok(()), |expiry| Err(ReloadError::Expired { expiry }))
}

fn expiries(terms: &Terms) -> Vec<Expiry> {
    let presented = terms.acceptor.as_ref().map(super::Acceptor::expiries).unwrap_or_default();
    presented.into_iter().chain(terms.all_ways().flat_map(|way| way.connector.expiries())).collect()
}
