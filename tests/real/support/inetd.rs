//! A server program for each connection, as inetd starts it: the connection is its standard input and output.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::process::{signal, wait};

/// A port whose connections are each served by a process; these are stopped when it is dropped.
pub(crate) struct Inetd {
    address: SocketAddr,
    ends: Arc<AtomicBool>,
    children: Arc<Mutex<Vec<Child>>>,
    acceptor: Option<JoinHandle<()>>,
}

impl Inetd {
    /// Listen on a free port; `command` makes the command of one process.
    pub(crate) fn start(command: impl Fn() -> Command + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (ends, children) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Child>>>::default());
        let (told, started) = (Arc::clone(&ends), Arc::clone(&children));
        let acceptor = thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if told.load(Ordering::SeqCst) {
                    return;
                }
                let child = spawn(command(), client);
                let mut children = started.lock().unwrap();
                children.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
                children.push(child);
            }
        });
        Self { address, ends, children, acceptor: Some(acceptor) }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Inetd {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        // Wakes it.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        for mut child in self.children.lock().unwrap().drain(..) {
            if let Ok(None) = child.try_wait() {
                signal(child.id(), "TERM");
                wait(child);
            }
        }
    }
}

fn spawn(mut command: Command, client: TcpStream) -> Child {
    let output = client.try_clone().unwrap();
    command.stdin(Stdio::from(OwnedFd::from(client))).stdout(Stdio::from(OwnedFd::from(output)));
    command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error} (run tests/run, which brings it)"))
}
