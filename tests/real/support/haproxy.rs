//! `HAProxy` in front of poptap, with ports of its own.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use tempfile::TempDir;

use super::process::{signal, wait};
use super::{PATIENCE, certificates, free_port, scratch};

/// A running `HAProxy`; stopped when dropped. Its health checks come five times a second to each backend.
pub(crate) struct Haproxy {
    scratch: TempDir,
    child: Option<Child>,
    /// Plain; announces clients by version 1 of the PROXY protocol.
    pub(crate) v1: SocketAddr,
    /// TLS from the first octet; announces clients by version 2.
    pub(crate) v2: SocketAddr,
}

impl Haproxy {
    /// Start one in front of `server`.
    pub(crate) fn start(server: SocketAddr) -> Self {
        let scratch = scratch();
        let home = scratch.path();
        certificates::make_for_listener(home);
        let both = [certificates::CHAIN, certificates::KEY].map(|name| fs::read_to_string(home.join(name)).unwrap()).concat();
        fs::write(home.join("both.pem"), both).unwrap();
        let (v1, v2) = (free_port(), free_port());
        fs::write(home.join("haproxy.cfg"), configuration(home, server, v1, v2)).unwrap();
        let mut command = Command::new("/usr/sbin/haproxy");
        command.arg("-db").arg("-f").arg(home.join("haproxy.cfg")).stdin(Stdio::null());
        command.stdout(File::create(home.join("output")).unwrap()).stderr(File::create(home.join("errors")).unwrap());
        let child = command.spawn().expect("start /usr/sbin/haproxy (run tests/run, which installs it)");
        let haproxy = Self { scratch, child: Some(child), v1, v2 };
        let deadline = Instant::now() + PATIENCE;
        while [v1, v2].iter().any(|address| TcpStream::connect(address).is_err()) {
            assert!(Instant::now() < deadline, "HAProxy does not listen\n{}", haproxy.output());
            thread::yield_now();
        }
        haproxy
    }

    /// The authority that signed its certificate for 127.0.0.1.
    pub(crate) fn authority(&self) -> PathBuf {
        self.scratch.path().join(certificates::AUTHORITY)
    }

    /// What it has said so far: among that each server that it takes for dead.
    pub(crate) fn output(&self) -> String {
        ["output", "errors"].map(|name| fs::read_to_string(self.scratch.path().join(name)).unwrap_or_default()).concat()
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            signal(child.id(), "TERM");
            wait(child);
        }
        if thread::panicking() {
            eprintln!("--- HAProxy\n{}", self.output());
        }
    }
}

fn configuration(home: &Path, server: SocketAddr, v1: SocketAddr, v2: SocketAddr) -> String {
    let pem = home.join("both.pem");
    format!(
        "global\n  log stdout format raw local0\n\
         defaults\n  mode tcp\n  log global\n  timeout connect 60s\n  timeout client 60s\n  timeout server 60s\n\
         frontend plain\n  bind {v1}\n  default_backend v1\n\
         frontend tls\n  bind {v2} ssl crt {pem}\n  default_backend v2\n\
         backend v1\n  server poptap {server} send-proxy check inter 200ms\n\
         backend v2\n  server poptap {server} send-proxy-v2 proxy-v2-options ssl,cert-cn,ssl-cipher,authority,crc32c check inter 200ms\n",
        pem = pem.display()
    )
}
