//! One HTTP listener: few connections, each with a time limit for what it asks.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::AllowFrom,
    server::{Inherited, canonical, listen},
};

/// Connections at one time; more wait in the system's queue.
const CONNECTIONS: usize = 16;
/// For a request's head, from the first moment of the connection or the end of the answer before.
const HEAD: Duration = Duration::from_secs(20);
/// Octets of a request's head, and of what is read ahead.
const BUFFER: usize = 16 * 1024;
/// Lines of a request's head.
const HEADERS: usize = 64;
/// The pause after an `accept` that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A socket for as long as it is open, and its name.
pub(super) type Handle = (String, Weak<TcpListener>);

/// A bound listener.
pub(super) struct Listener {
    socket: Arc<TcpListener>,
    name: String,
    address: SocketAddr,
    allow_from: AllowFrom,
}

impl Listener {
    /// Takes what is there under this name, or for this address, in `sockets`; or binds it.
    pub(super) fn bind(name: String, address: SocketAddr, allow_from: AllowFrom, sockets: &mut Inherited) -> io::Result<Self> {
        let socket = TcpListener::from_std(sockets.take_as(&name, address).map_or_else(|| listen(address), Ok)?.into())?;
        let address = socket.local_addr()?;
        Ok(Self { name, socket: Arc::new(socket), address, allow_from })
    }

    /// What it is called when it is handed over, and its socket for as long as it is open.
    pub(super) fn handle(&self) -> Handle {
        (self.name.clone(), Arc::downgrade(&self.socket))
    }

    /// The address that was bound.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until told to stop, and then what was asked before.
    pub(super) async fn serve(self, router: Router, stop: CancellationToken) {
        let (connections, places) = (TaskTracker::new(), Arc::new(Semaphore::new(CONNECTIONS)));
        loop {
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((client, address)) if self.allow_from.allows(canonical(address).ip()) => {
                    let served = converse(client, router.clone(), stop.clone());
                    connections.spawn(async move {
                        served.await;
                        drop(place);
                    });
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(listener = %self.address, "cannot accept a connection: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        connections.close();
        connections.wait().await;
    }
}

async fn converse(client: TcpStream, router: Router, stop: CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(BUFFER).max_headers(HEADERS);
    let connection = http.serve_connection(TokioIo::new(client), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("an HTTP connection ended: {error}");
    }
}
