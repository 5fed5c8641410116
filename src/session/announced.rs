//! A client that a proxy announces.

use std::net::SocketAddr;

use tokio::time::timeout;

use super::{closing::ended, misdirected::Whither, open, over};
use crate::{
    config::Period,
    net::{Announcement, Stream, read_header},
    record::schema,
    server::{Caller, House, Terms},
};

/// Reads the header with which `proxy` announces a client, within the time limit for handshakes. What follows it stays unread.
///
/// `None` where there is none that can be used: that has been logged and recorded, and the connection is to be closed.
pub(crate) async fn announced(client: &Stream, proxy: SocketAddr, terms: &Terms, house: &House) -> Option<Caller> {
    let limit = house.timeouts.handshake;
    let read = tokio::select! {
        read = timeout(limit, read_header(client.tcp())) => read,
        // Nothing has begun that could be finished.
        () = house.stop.drain.cancelled() => return unannounced(proxy, terms, house, ended("poptap", "shutdown")),
    };
    let closed = match read {
        Ok(Ok(Announcement { addresses, said })) => return Some(Caller::announced(proxy, addresses, said)),
        Ok(Err(fault)) => schema::Closed { detail: Some(format!("{fault}; hint: {HINT}")), ..ended("poptap", "proxy-header") },
        Err(_) => {
            let detail = format!("no PROXY protocol header within {}; hint: {HINT}", Period(limit));
            schema::Closed { detail: Some(detail), ..ended("poptap", "timeout-proxy-header") }
        }
    };
    unannounced(proxy, terms, house, closed)
}

const HINT: &str = "with `proxy_from`, the proxy has to send the header of the PROXY protocol first (`send-proxy-v2` in HAProxy)";

fn unannounced<T>(proxy: SocketAddr, terms: &Terms, house: &House, closed: schema::Closed) -> Option<T> {
    let recorder = open(&Caller::direct(proxy), terms, house, &Whither::nowhere());
    if let Some(detail) = &closed.detail {
        tracing::warn!(session = recorder.id(), %proxy, listener = %terms.address, "connection closed: {detail}");
    }
    over(*recorder, closed)
}
