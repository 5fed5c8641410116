//! What the tests stand on: each fixture starts something on a free loopback port and stops it by its own process id.

pub(crate) mod browser;
pub(crate) mod certificates;
pub(crate) mod clients;
pub(crate) mod connection;
pub(crate) mod courier;
pub(crate) mod cyrus;
pub(crate) mod dovecot;
pub(crate) mod haproxy;
pub(crate) mod inetd;
pub(crate) mod mailbox;
pub(crate) mod mailutils;
pub(crate) mod network;
pub(crate) mod owner;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod relay;
pub(crate) mod servers;
pub(crate) mod transcript;
pub(crate) mod wire;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use tempfile::TempDir;

/// How long anything in these tests may take before it counts as hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The owner of the mailbox.
pub(crate) const USER: &str = "tim";

/// Their password: nothing else in any output looks like it.
pub(crate) const PASSWORD: &str = "Wr9-kettle-Quince";

/// A temporary folder; gone when dropped.
pub(crate) fn scratch() -> TempDir {
    TempDir::with_prefix("poptap-real-").unwrap()
}

/// A port of 127.0.0.1 that nobody listens at just now.
pub(crate) fn free_port() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}
