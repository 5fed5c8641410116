//! What is served over HTTP: the counts for a monitoring system, and the live page.
//!
//! Each has a listener of its own, with few connections and short patience; HTTP itself is hyper's and axum's. Neither can hold
//! up a session: the one reads atomic numbers, the other is fed through a channel that drops what finds no place.

mod listener;
mod metrics;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::{AllowFrom, Config, MetricsEndpoint},
    server::Reloader,
    telemetry::Counts,
};

use listener::Listener;

/// How long the end waits for answers that are under way.
const FINISH: Duration = Duration::from_secs(1);

/// Everything is bound, and nothing served yet.
#[derive(Default)]
pub struct Web {
    metrics: Option<(Listener, Arc<Counts>)>,
}

/// What is being served.
pub struct Serving {
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// An address could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve {what} on {address}: {source}; hint: {}", hint(source))]
pub struct BindError {
    what: &'static str,
    address: SocketAddr,
    source: io::Error,
}

impl Web {
    /// Binds what is configured.
    ///
    /// # Errors
    ///
    /// [`BindError`]; nothing stays bound.
    pub fn bind(config: &Config) -> Result<Self, BindError> {
        let metrics = config.metrics.as_ref().map(|MetricsEndpoint { address, allow_from }| {
            Ok((bind("metrics", *address, allow_from.clone())?, Arc::new(Counts::default())))
        });
        Ok(Self { metrics: metrics.transpose()? })
    }

    /// What sessions are to be counted in.
    #[must_use]
    pub fn counts(&self) -> Option<Arc<Counts>> {
        self.metrics.as_ref().map(|(_, counts)| Arc::clone(counts))
    }

    /// Where the counts are served.
    #[must_use]
    pub fn metrics_url(&self) -> Option<String> {
        self.metrics.as_ref().map(|(listener, _)| format!("http://{}/metrics", listener.address()))
    }

    /// Serves until [`Serving::stop`]. To be called within the runtime.
    #[must_use]
    pub fn serve(self, reloader: &Reloader) -> Serving {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        if let Some((listener, counts)) = self.metrics {
            tasks.spawn(listener.serve(metrics::router(&counts, reloader), stop.clone()));
        }
        tasks.close();
        Serving { stop, tasks }
    }
}

impl Serving {
    /// Lets answers that are under way finish, for a second at most.
    pub async fn stop(self) {
        self.stop.cancel();
        // Whoever does not read is not waited for.
        let _ = tokio::time::timeout(FINISH, self.tasks.wait()).await;
    }
}

fn bind(what: &'static str, address: SocketAddr, allow_from: AllowFrom) -> Result<Listener, BindError> {
    Listener::bind(address, allow_from).map_err(|source| BindError { what, address, source })
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "something listens there already; choose another port",
        io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege; choose a higher one",
        _ => "choose an address of this host",
    }
}
