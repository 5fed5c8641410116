//! What is served over HTTP: the counts for a monitoring system, and the live page.
//!
//! Each has a listener of its own, with few connections and short patience; HTTP itself is hyper's and axum's. Neither can hold
//! up a session: the one reads atomic numbers, the other is fed through a channel that drops what finds no place.

mod filtering;
mod gate;
mod listener;
mod metrics;
mod page;
mod stream;

use std::{io, net::SocketAddr, os::fd::AsFd as _, sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::{AllowFrom, Config, MetricsEndpoint},
    record::Broadcast,
    server::{Handed, Inherited, Reloader, handed, listen},
    telemetry::Counts,
};

use gate::Gate;
use listener::{Handle, Listener};
use page::Page;

/// How long the end waits for answers that are under way.
const FINISH: Duration = Duration::from_secs(1);
/// What is served, as errors call it.
const METRICS: &str = "metrics";
const PAGE: &str = "the live page";

/// Everything is bound, and nothing served yet.
#[derive(Default)]
pub struct Web {
    metrics: Option<(Listener, Arc<Counts>)>,
    page: Option<(Listener, Gate, Arc<Broadcast>)>,
}

/// What is being served.
pub struct Serving {
    stop: CancellationToken,
    open: Arc<[Handle]>,
    tasks: TaskTracker,
}

/// Its sockets, for whoever hands them over.
#[derive(Clone)]
pub struct Handing {
    stop: CancellationToken,
    open: Arc<[Handle]>,
}

/// HTTP cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// An address could not be bound.
    #[error("cannot serve {what} on {address}: {source}; hint: {}", hint(source))]
    Address {
        /// What was to be served.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// There is no token for the page.
    #[error("cannot make a token for the live page: the system gives no random numbers")]
    Random,
}

impl Web {
    /// Binds what is configured and was not handed over, without a runtime: [`Web::bind`] takes it from `sockets`.
    ///
    /// # Errors
    ///
    /// [`BindError::Address`].
    pub fn reserve(config: &Config, sockets: &mut Inherited) -> Result<(), BindError> {
        let metrics = config.metrics.iter().map(|endpoint| (METRICS, endpoint.address));
        let page = config.page.iter().map(|endpoint| (PAGE, endpoint.address));
        metrics.chain(page).try_for_each(|(what, address)| {
            sockets.reserve_as(name_of(what, address), address, listen).map_err(|source| BindError::Address {
                what,
                address,
                source,
            })
        })
    }

    /// Binds what is configured and not in `sockets`.
    ///
    /// # Errors
    ///
    /// [`BindError`]; nothing stays bound.
    pub fn bind(config: &Config, sockets: &mut Inherited) -> Result<Self, BindError> {
        let metrics = config.metrics.as_ref().map(|MetricsEndpoint { address, allow_from }| {
            Ok((bind(METRICS, *address, allow_from.clone(), sockets)?, Arc::new(Counts::default())))
        });
        let metrics = metrics.transpose()?;
        let page = config.page.map(|endpoint| {
            let allow_from = if endpoint.allow_remote { AllowFrom::Any } else { AllowFrom::Loopback };
            let listener = bind(PAGE, endpoint.address, allow_from, sockets)?;
            let gate = Gate::new(listener.address(), endpoint).map_err(|_| BindError::Random)?;
            Ok((listener, gate, Arc::default()))
        });
        Ok(Self { metrics, page: page.transpose()? })
    }

    /// What sessions are to be counted in.
    #[must_use]
    pub fn counts(&self) -> Option<Arc<Counts>> {
        self.metrics.as_ref().map(|(_, counts)| Arc::clone(counts))
    }

    /// Through which records are to be sent.
    #[must_use]
    pub fn broadcast(&self) -> Option<Arc<Broadcast>> {
        self.page.as_ref().map(|(_, _, broadcast)| Arc::clone(broadcast))
    }

    /// Where the page is served, with its token: for whoever started poptap, and for no log.
    #[must_use]
    pub fn page_url(&self) -> Option<String> {
        self.page.as_ref().map(|(_, gate, _)| gate.url())
    }

    /// Where the counts are served.
    #[must_use]
    pub fn metrics_url(&self) -> Option<String> {
        self.metrics.as_ref().map(|(listener, _)| format!("http://{}/metrics", listener.address()))
    }

    /// Serves until [`Serving::stop`]. To be called within the runtime.
    #[must_use]
    pub fn serve(self, config: &Config, reloader: &Reloader) -> Serving {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let metrics = self.metrics.iter().map(|(listener, _)| listener.handle());
        let open = metrics.chain(self.page.iter().map(|(listener, _, _)| listener.handle())).collect();
        if let Some((listener, counts)) = self.metrics {
            tasks.spawn(listener.serve(metrics::router(&counts, reloader), stop.clone()));
        }
        if let Some((listener, gate, broadcast)) = self.page {
            let page = Page::new(config, broadcast, stop.clone());
            tasks.spawn(listener.serve(page::router(page, gate), stop.clone()));
        }
        tasks.close();
        Serving { stop, open, tasks }
    }
}

impl Handing {
    /// The sockets that are open.
    #[must_use]
    pub fn sockets(&self) -> Vec<Handed> {
        self.open.iter().filter_map(|(name, socket)| handed(name, socket.upgrade()?.as_fd())).collect()
    }

    /// Somebody else accepts from now on.
    pub fn handed_over(&self) {
        self.stop.cancel();
    }
}

impl Serving {
    /// For whoever hands the sockets over.
    #[must_use]
    pub fn handing(&self) -> Handing {
        Handing { stop: self.stop.clone(), open: Arc::clone(&self.open) }
    }

    /// Lets answers that are under way finish, for a second at most.
    pub async fn stop(self) {
        self.stop.cancel();
        // Whoever does not read is not waited for.
        let _ = tokio::time::timeout(FINISH, self.tasks.wait()).await;
    }
}

fn bind(what: &'static str, address: SocketAddr, allow_from: AllowFrom, sockets: &mut Inherited) -> Result<Listener, BindError> {
    Listener::bind(name_of(what, address), address, allow_from, sockets).map_err(|source| BindError::Address {
        what,
        address,
        source,
    })
}

/// What a socket is called that is handed over: with port 0, it is told by that alone.
fn name_of(what: &str, address: SocketAddr) -> String {
    format!("{what} {address}")
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "something listens there already; choose another port",
        io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege; choose a higher one",
        _ => "choose an address of this host",
    }
}
