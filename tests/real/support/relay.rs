//! A plain TCP relay, with no idea of POP3: what the proxy is compared with.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// A relay on a loopback port of its own; its threads end with the test's process.
pub(crate) struct Relay {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Relay {
    /// Carry every octet to `upstream` and back, unchanged.
    pub(crate) fn start(upstream: SocketAddr) -> Self {
        Self::start_with(upstream, |octets| octets)
    }

    /// Carry every octet, after `change` has had each piece that comes from the server.
    pub(crate) fn start_with(upstream: SocketAddr, change: fn(Vec<u8>) -> Vec<u8>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(upstream) else { continue };
                counter.fetch_add(1, Ordering::SeqCst);
                let (from_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || pump(from_client, to_server, |octets| octets));
                thread::spawn(move || pump(server, client, change));
            }
        });
        Self { address, connections }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many clients it has carried so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, change: fn(Vec<u8>) -> Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return to.shutdown(Shutdown::Write);
        }
        to.write_all(&change(buffer[..length].to_vec()))?;
    }
}
