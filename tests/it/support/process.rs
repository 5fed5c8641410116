//! The built `poptap`, as a process that can be looked at from outside.

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// How long it may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(30);
/// Lines of the log that are kept for who has to find out why a test failed.
const LOG: usize = 50;

/// A running poptap with one listener and a transcript of its own; killed when it is dropped.
pub struct Poptap {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
    log: Option<thread::JoinHandle<VecDeque<String>>>,
}

impl Poptap {
    /// Starts one in front of this server; `settings` are the configuration file's.
    pub fn start(upstream: &str, settings: &str, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("poptap.toml");
        fs::write(&config, settings).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_poptap"));
        for name in ["POPTAP_LOG", "RUST_LOG"] {
            command.env_remove(name);
        }
        command.args(["run", "--listen", "127.0.0.1:0", "--upstream", upstream, "--config"]).arg(config);
        command.arg("--transcript").arg(folder.path().join("transcript")).args(options);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (address, log) = follow(child.stderr.take().unwrap());
        // The address is a place holder until poptap says which one it chose.
        let mut poptap = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)), folder, log: Some(log) };
        poptap.address = address.recv_timeout(PATIENCE).expect("poptap said where it is listening");
        poptap
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A number of KiB out of `/proc/PID/status`: `VmRSS`, what is resident, or `VmHWM`, the most that ever was.
    pub fn memory(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).expect("the field exists");
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// What its open descriptors refer to.
    pub fn descriptors(&self) -> Vec<String> {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        // One that was closed since the folder was read is not open.
        entries.filter_map(|entry| Some(fs::read_link(entry.unwrap().path()).ok()?.display().to_string())).collect()
    }

    /// Sends SIGTERM, waits for the end, which must be a success, and returns the summaries of its sessions.
    pub fn stop(mut self) -> Vec<Value> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).unwrap();
        let (ended, waiting) = mpsc::channel::<()>();
        let watch = thread::spawn(move || {
            if waiting.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                kill_process(pid, Signal::KILL).unwrap();
            }
        });
        let status = self.child.wait().unwrap();
        drop(ended);
        watch.join().unwrap();
        assert!(status.success(), "poptap ended with {status}");
        summaries(&self.folder.path().join("transcript"))
    }
}

impl Drop for Poptap {
    fn drop(&mut self) {
        // One that has ended already is only waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = self.log.take().and_then(|log| log.join().ok()).unwrap_or_default();
        if thread::panicking() {
            eprintln!("--- the end of poptap's log\n{}", Vec::from(log).join("\n"));
        }
    }
}

/// Reads a log to its end: the address that is in it, and its last lines.
fn follow(stderr: ChildStderr) -> (Receiver<SocketAddr>, thread::JoinHandle<VecDeque<String>>) {
    let (sender, address) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut last = VecDeque::new();
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if let Some((_, address)) = line.split_once("listening on ") {
                let address = address.split_whitespace().next().and_then(|address| address.parse().ok());
                // Who asked may have lost patience.
                let _ = address.map(|address| sender.send(address));
            }
            last.push_back(line);
            if last.len() > LOG {
                last.pop_front();
            }
        }
        last
    });
    (address, reader)
}

fn summaries(folder: &Path) -> Vec<Value> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("sessions-"));
    let mut summaries = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()));
        summaries.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
    }
    summaries
}
