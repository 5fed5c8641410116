//! Sessions of real clients with a real server, played to the same clients again without it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};

use crate::support::clients::CLIENTS;
use crate::support::dovecot::{Dovecot, Mode};
use crate::support::proxy::{Proxy, poptap};
use crate::support::transcript::assert_same;

/// A running `poptap replay`; killed when it is dropped.
struct Replay {
    child: Child,
    address: SocketAddr,
}

impl Replay {
    /// Plays the last session of the store below `home`.
    fn start(home: &Path) -> Self {
        let mut replay = poptap(home);
        replay.args(["replay", "--as-server", "--last", "--listen", "0", "--timing", "fast", "--transcript"]);
        let mut child = replay.arg(home.join("transcript")).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let (_, address) = line.split_once("listening on ").unwrap_or_else(|| panic!("{line}"));
        Self { address: address.trim().parse().unwrap(), child }
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn every_client_fetches_from_its_recorded_session_what_it_fetched_in_it() {
    let dovecot = Dovecot::start();
    for client in CLIENTS {
        let proxy = Proxy::start_with(&dovecot, Mode::Implicit, &["--content", "full"]);
        let fetched = client.fetch(proxy.address());
        let store = proxy.stop_and_keep();
        let replay = Replay::start(store.path());
        assert_same(&fetched, &client.fetch(replay.address), &format!("{client:?} from a recording"));
    }
}
