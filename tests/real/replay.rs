//! Sessions of real clients with a real server, played to the same clients again without it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};

use crate::support::certificates;
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
        Self::start_with(home, &[])
    }

    /// With further options.
    fn start_with(home: &Path, options: &[&str]) -> Self {
        let mut replay = poptap(home);
        replay.args(["replay", "--as-server", "--last", "--listen", "0", "--timing", "fast"]).args(options).arg("--transcript");
        let mut child = replay.arg(home.join("transcript")).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let (_, address) = line.split_once("listening on ").unwrap_or_else(|| panic!("{line}"));
        let address = address.trim().rsplit('/').next().unwrap();
        Self { address: address.parse().unwrap(), child }
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

#[test]
fn clients_that_demand_tls_fetch_from_a_recording_inside_it() {
    let dovecot = Dovecot::start();
    for mode in [Mode::Stls, Mode::Implicit] {
        for client in CLIENTS.into_iter().filter(|client| client.speaks_tls(mode)) {
            let proxy = Proxy::start_with_every_listener(&dovecot, Mode::Implicit, &["--content", "full"]);
            let fetched = client.fetch_over(mode, proxy.listener(mode), &proxy.authority());
            let store = proxy.stop_and_keep();
            let place = |name: &str| store.path().join(name).to_str().unwrap().to_owned();
            let (cert, key) = (place(certificates::CHAIN), place(certificates::KEY));
            let replay = Replay::start_with(store.path(), &["--cert", &cert, "--key", &key]);
            let again = client.fetch_over(mode, replay.address, &store.path().join(certificates::AUTHORITY));
            assert_same(&fetched, &again, &format!("{client:?} from a recording inside TLS"));
        }
    }
}
