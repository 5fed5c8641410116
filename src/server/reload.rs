//! Exchanging certificates, keys and trust while sessions go on.

use std::sync::{Arc, atomic::Ordering};

use time::OffsetDateTime;

use super::{Common, Expiry, Reloader, Route, StartError, Terms, Ways, terms};
use crate::{
    config::{Config, Limits},
    record::Condition,
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

impl Reloader {
    /// Takes over what `config` says of TLS, upstreams, rules, limits and who may come. All of it, or nothing: a file that cannot be
    /// used leaves everything as it is. Sessions keep what they began with.
    ///
    /// Returns what cannot be taken over while running: listeners that came or went, and limits that have a size from the start.
    ///
    /// # Errors
    ///
    /// [`ReloadError`], with what cannot be used.
    pub fn reload(&self, config: &Config) -> Result<Vec<String>, ReloadError> {
        let common = Common::new(config, &self.house.memory)?;
        let mut ways = Ways::new(&self.house.timeouts, self.house.key_log.as_ref());
        let mut wanted: Vec<_> = config.listeners.iter().collect();
        let (mut fresh, mut notes) = (Vec::new(), Vec::new());
        for route in &self.routes {
            let Some(at) = wanted.iter().position(|listener| listener.address == route.asked_for) else {
                notes.push(format!("the listener {} is no longer configured, and stays until a restart", route.address));
                continue;
            };
            let terms = terms(wanted.remove(at), &common, &mut ways, &self.house)?;
            fit(&terms)?;
            fresh.push((route, terms));
        }
        notes.extend(
            wanted.iter().map(|listener| format!("the listener {} is new, and has to wait for a restart", listener.address)),
        );
        notes.extend(unchanged(&self.house.fixed, &config.limits));
        for (route, terms) in fresh {
            exchange(route, terms);
        }
        Ok(notes)
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

    /// How the store of all sessions is doing.
    #[must_use]
    pub fn transcript(&self) -> Condition {
        self.house.store.condition()
    }

    /// Every certificate that poptap presents to anybody, once, with its end.
    #[must_use]
    pub fn expiries(&self) -> Vec<Expiry> {
        let mut found: Vec<Expiry> = Vec::new();
        for route in &self.routes {
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
    presented.into_iter().chain(terms.ways.iter().flat_map(|way| way.connector.expiries())).collect()
}
