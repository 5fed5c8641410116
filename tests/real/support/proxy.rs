//! The built `poptap`, as a person starts it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use tempfile::TempDir;

use super::clients::isolated;
use super::dovecot::{Dovecot, Mode};
use super::process::{signal, wait};
use super::transcript::Transcript;
use super::{PATIENCE, scratch};

/// A running poptap; killed when dropped, unless [`Proxy::stop`] ended it properly before.
pub(crate) struct Proxy {
    scratch: TempDir,
    child: Option<Child>,
    address: SocketAddr,
    output: Receiver<String>,
    log: Vec<String>,
}

impl Proxy {
    /// Start one with one listener and no further options.
    pub(crate) fn start(dovecot: &Dovecot, mode: Mode) -> Self {
        Self::start_with(dovecot, mode, &[])
    }

    /// Start one with further options on the command line.
    pub(crate) fn start_with(dovecot: &Dovecot, mode: Mode, options: &[&str]) -> Self {
        Self::start_towards(&dovecot.url(mode), dovecot.authority(), options)
    }

    /// Start one in front of any server, trusting any authority.
    pub(crate) fn start_towards(url: &str, authority: &Path, options: &[&str]) -> Self {
        let scratch = scratch();
        let mut command = isolated(env!("CARGO_BIN_EXE_poptap"), scratch.path());
        for name in ["POPTAP_CONFIG", "POPTAP_LOG", "RUST_LOG", "STATE_DIRECTORY"] {
            command.env_remove(name);
        }
        command.args(["run", "--listen", "127.0.0.1:0", "--upstream", url, "--upstream-ca"]).arg(authority);
        command.arg("--transcript").arg(scratch.path().join("transcript")).args(options);
        Self::spawn(command, scratch)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its transcript stands.
    pub(crate) fn folder(&self) -> PathBuf {
        self.scratch.path().join("transcript")
    }

    /// As [`Self::stop`]; returns what it left behind instead, with the transcript in the folder `transcript`.
    pub(crate) fn stop_and_keep(mut self) -> TempDir {
        let kept = std::mem::replace(&mut self.scratch, scratch());
        self.end();
        kept
    }

    /// Send SIGTERM, wait for the end, which must be a success, and read what was recorded.
    pub(crate) fn stop(mut self) -> Transcript {
        self.end();
        Transcript::read(&self.folder(), self.log.join("\n"))
    }

    fn end(&mut self) {
        let child = self.child.take().unwrap();
        signal(child.id(), "TERM");
        let status = wait(child).unwrap_or_else(|| panic!("poptap did not end within {PATIENCE:?} of SIGTERM"));
        self.drain_log();
        assert!(status.success(), "poptap ended with {status}");
    }

    fn spawn(mut command: Command, scratch: TempDir) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start poptap");
        let (sender, output) = mpsc::channel();
        let on_stdout = sender.clone();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| on_stdout.send(line)));
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));

        // The address is a place holder until poptap says which one it chose.
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut proxy = Self { scratch, child: Some(child), address, output, log: Vec::new() };
        proxy.address = proxy.wait_until_ready();
        proxy
    }

    fn wait_until_ready(&mut self) -> SocketAddr {
        // Fails with the log, which says why, when poptap ends instead: then nobody holds the sender any more.
        while let Ok(line) = self.output.recv_timeout(PATIENCE) {
            let address = listening_on(&line);
            self.log.push(line);
            if let Some(address) = address {
                return address;
            }
        }
        panic!("poptap did not say where it is listening");
    }

    fn drain_log(&mut self) {
        while let Ok(line) = self.output.recv_timeout(PATIENCE) {
            self.log.push(line);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            signal(child.id(), "KILL");
            wait(child);
            self.drain_log();
        }
        if thread::panicking() {
            eprintln!("--- poptap\n{}", self.log.join("\n"));
        }
    }
}

/// The address in a log line that says `listening on ADDR:PORT`.
fn listening_on(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listening on ")?;
    rest.split_whitespace().next()?.trim_end_matches([',', ';', '.']).parse().ok()
}
