//! A small network of its own for one test: a client, a router and a server, each a network namespace of the system's.
//!
//! ```text
//!   client ──────────── router ──────────── server
//!   10.77.1.2  10.77.1.1     10.77.2.1  10.77.2.2
//!   fd77:1::2  fd77:1::1     fd77:2::1  fd77:2::2
//!              (lan0)        (wan0)
//! ```
//!
//! It takes root, `ip` and `nft`. Namespaces have the test's process in their name; they go with the test, and those that
//! were left by tests that were killed go with the next.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::clients::isolated;
use super::process::{run, run_unchecked};

/// The three hosts; removed when dropped.
pub(crate) struct Network {
    id: String,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Client,
    Router,
    Server,
}

/// Both families, the client's address first, then the router's towards the server, then the server's.
pub(crate) const FAMILIES: [[&str; 3]; 2] = [["10.77.1.2", "10.77.2.1", "10.77.2.2"], ["fd77:1::2", "fd77:2::1", "fd77:2::2"]];

/// The router's addresses towards the client.
pub(crate) const ROUTER: [&str; 2] = ["10.77.1.1", "fd77:1::1"];

const HOSTS: [Host; 3] = [Host::Client, Host::Router, Host::Server];
const PREFIX: &str = "poptap-test-";

impl Network {
    /// Make one; fails where the system does not let us.
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        sweep();
        let network = Self { id: format!("{PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst)) };
        for host in HOSTS {
            let mut add = Command::new("ip");
            let made = run_unchecked(add.args(["netns", "add", &network.name(host)]));
            assert!(
                made.status.success(),
                "these tests make network namespaces, which takes root and `ip` (tests/run installs it): {}",
                String::from_utf8_lossy(&made.stderr)
            );
        }
        network.wire();
        network
    }

    /// The namespace of a host.
    pub(crate) fn name(&self, host: Host) -> String {
        format!("{}-{}", self.id, format!("{host:?}").to_lowercase())
    }

    /// A command that will run on a host.
    pub(crate) fn command(&self, host: Host, program: &str, home: &Path) -> Command {
        let mut command = isolated("ip", home);
        command.args(["netns", "exec", &self.name(host), program]);
        command
    }

    /// Run a script on a host, and return what it printed.
    pub(crate) fn sh(&self, host: Host, script: &str) -> String {
        let mut command = self.command(host, "sh", Path::new("/"));
        String::from_utf8(run(command.args(["-e", "-c", script])).stdout).unwrap()
    }

    fn wire(&self) {
        let [client, router, server] = HOSTS.map(|host| self.name(host));
        for (end, other) in [(&client, "lan0"), (&server, "wan0")] {
            let mut add = Command::new("ip");
            run(add.args(["-n", end, "link", "add", "net0", "type", "veth", "peer", "name", other, "netns", &router]));
        }
        for (host, link, addresses) in [
            (Host::Client, "net0", ["10.77.1.2/24", "fd77:1::2/64"]),
            (Host::Router, "lan0", ["10.77.1.1/24", "fd77:1::1/64"]),
            (Host::Router, "wan0", ["10.77.2.1/24", "fd77:2::1/64"]),
            (Host::Server, "net0", ["10.77.2.2/24", "fd77:2::2/64"]),
        ] {
            let [four, six] = addresses;
            self.sh(
                host,
                &format!(
                    "ip link set lo up; ip link set {link} up; ip addr add {four} dev {link}; ip addr add {six} dev {link} nodad"
                ),
            );
        }
        self.sh(Host::Client, "ip route add default via 10.77.1.1; ip route add default via fd77:1::1");
        self.sh(Host::Server, "ip route add default via 10.77.2.1; ip route add default via fd77:2::1");
        self.sh(Host::Router, "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
        // An ordinary user's server may have the ports of mail.
        self.sh(Host::Server, "echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in HOSTS {
            let _ = Command::new("ip").args(["netns", "del", &self.name(host)]).output();
        }
    }
}

/// A host and port, as URLs have it.
pub(crate) fn authority(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>().unwrap() {
        IpAddr::V4(ip) => format!("{ip}:{port}"),
        IpAddr::V6(ip) => format!("[{ip}]:{port}"),
    }
}

/// Removes what a test left that was killed.
fn sweep() {
    let Ok(names) = fs::read_dir("/run/netns") else { return };
    for name in names.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}
