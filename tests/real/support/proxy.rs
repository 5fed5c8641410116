//! The built `poptap`, as a person starts it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use tempfile::TempDir;

use super::clients::isolated;
use super::dovecot::{Dovecot, MODES, Mode};
use super::network::{Host, Network};
use super::process::{signal, wait};
use super::transcript::Transcript;
use super::{PATIENCE, certificates, scratch};

/// A running poptap; killed when dropped, unless [`Proxy::stop`] ended it properly before.
pub(crate) struct Proxy {
    scratch: TempDir,
    child: Option<Child>,
    addresses: Vec<SocketAddr>,
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
        let mut command = poptap(scratch.path());
        command.args(["run", "--listen", "127.0.0.1:0", "--upstream", url, "--upstream-ca"]).arg(authority);
        command.arg("--transcript").arg(scratch.path().join("transcript")).args(options);
        Self::spawn(command, scratch, 1)
    }

    /// Start one with three listeners, in the order of [`MODES`], and a certificate for `localhost` and 127.0.0.1 by an
    /// authority of its own: what Dovecot presents does not pass for it.
    pub(crate) fn start_with_every_listener(dovecot: &Dovecot, mode: Mode, options: &[&str]) -> Self {
        let scratch = scratch();
        let home = scratch.path();
        certificates::make_for_listener(home);
        let mut command = poptap(home);
        command.args(["run", "--upstream", &dovecot.url(mode), "--upstream-ca"]).arg(dovecot.authority());
        for mode in MODES {
            command.args(["--listen", &format!("{}://127.0.0.1:0", mode.scheme())]);
        }
        command.arg("--cert").arg(home.join(certificates::CHAIN)).arg("--key").arg(home.join(certificates::KEY));
        command.arg("--transcript").arg(home.join("transcript")).args(options);
        Self::spawn(command, scratch, MODES.len())
    }

    /// Start one as a file says, whose text stands in `home` as `poptap.toml`, with so many listeners.
    pub(crate) fn start_from_file(home: TempDir, listeners: usize, options: &[&str]) -> Self {
        let mut command = poptap(home.path());
        command.arg("run").arg("--config").arg(home.path().join("poptap.toml"));
        command.arg("--transcript").arg(home.path().join("transcript")).args(options);
        Self::spawn(command, home, listeners)
    }

    /// The same, on a host of a test's own network.
    pub(crate) fn start_on(network: &Network, host: Host, home: TempDir, listeners: usize) -> Self {
        let mut command = poptap_in(network, host, home.path());
        command.arg("run").arg("--config").arg(home.path().join("poptap.toml"));
        command.arg("--transcript").arg(home.path().join("transcript"));
        Self::spawn(command, home, listeners)
    }

    /// Where it listens; where it does so first.
    pub(crate) fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Where it listens for the `number`th time, from 0.
    pub(crate) fn nth_address(&self, number: usize) -> SocketAddr {
        self.addresses[number]
    }

    /// Where the listener of that kind is, of those that [`Self::start_with_every_listener`] started.
    pub(crate) fn listener(&self, mode: Mode) -> SocketAddr {
        self.addresses[MODES.iter().position(|other| *other == mode).unwrap()]
    }

    /// The authority that signed the certificate of its listeners, where there is one.
    pub(crate) fn authority(&self) -> PathBuf {
        self.home().join(certificates::AUTHORITY)
    }

    /// Its home: certificates, configuration, transcript.
    pub(crate) fn home(&self) -> &Path {
        self.scratch.path()
    }

    /// Send it a signal, by name.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.as_ref().unwrap().id(), name);
    }

    /// Wait for a further line of the log that holds one of these texts, and return it.
    pub(crate) fn wait_for_log(&mut self, texts: &[&str]) -> String {
        while let Ok(line) = self.output.recv_timeout(PATIENCE) {
            self.log.push(line.clone());
            if texts.iter().any(|text| line.contains(text)) {
                return line;
            }
        }
        panic!("poptap logged none of {texts:?}");
    }

    /// A line that it has printed, or will.
    pub(crate) fn said(&mut self, text: &str) -> String {
        let known = self.log.iter().find(|line| line.contains(text)).cloned();
        known.unwrap_or_else(|| self.wait_for_log(&[text]))
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

    /// As [`Self::stop`]; returns the whole log instead, a line each.
    pub(crate) fn stop_for_log(mut self) -> String {
        self.end();
        self.log.iter().flat_map(|line| [line, "\n"]).collect()
    }

    fn end(&mut self) {
        let child = self.child.take().unwrap();
        signal(child.id(), "TERM");
        let status = wait(child).unwrap_or_else(|| panic!("poptap did not end within {PATIENCE:?} of SIGTERM"));
        self.drain_log();
        assert!(status.success(), "poptap ended with {status}");
    }

    fn spawn(mut command: Command, scratch: TempDir, listeners: usize) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start poptap");
        let (sender, output) = mpsc::channel();
        let on_stdout = sender.clone();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| on_stdout.send(line)));
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));

        let mut proxy = Self { scratch, child: Some(child), addresses: Vec::new(), output, log: Vec::new() };
        for _ in 0..listeners {
            // Fails with the log, which says why, when poptap ends instead: then nobody holds the sender any more.
            let line = proxy.wait_for_log(&["listening on "]);
            proxy.addresses.push(listening_on(&line).unwrap());
        }
        proxy
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

/// The built binary, with nothing of the system's own set-up.
pub(crate) fn poptap(home: &Path) -> Command {
    without_settings(isolated(env!("CARGO_BIN_EXE_poptap"), home))
}

/// The same, on a host of a test's own network.
pub(crate) fn poptap_in(network: &Network, host: Host, home: &Path) -> Command {
    without_settings(network.command(host, env!("CARGO_BIN_EXE_poptap"), home))
}

fn without_settings(mut command: Command) -> Command {
    for name in ["POPTAP_CONFIG", "POPTAP_LOG", "RUST_LOG", "STATE_DIRECTORY"] {
        command.env_remove(name);
    }
    command
}

/// The address in a log line that says `listening on ADDR:PORT`, be it text or JSON.
fn listening_on(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listening on ")?;
    rest.split([' ', '"']).next()?.trim_end_matches([',', ';', '.']).parse().ok()
}
