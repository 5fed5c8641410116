//! Dovecot 2.3 with a configuration, a mailbox and ports of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use tempfile::TempDir;

use super::network::{Host, Network};
use super::owner::Owner;
use super::process::{signal, wait};
use super::{PASSWORD, PATIENCE, USER, certificates, free_port, mailbox};

/// How one hop is protected: how poptap reaches the server, or a client poptap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// `pop3://`: plain.
    Plain,
    /// `pop3s://`: TLS from the first octet.
    Implicit,
    /// `pop3+stls://`: TLS after STLS.
    Stls,
}

/// All of them.
pub(crate) const MODES: [Mode; 3] = [Mode::Plain, Mode::Implicit, Mode::Stls];

impl Mode {
    /// The mode's name in records.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Implicit => "implicit",
            Self::Stls => "stls",
        }
    }

    /// The scheme of URLs and listeners.
    pub(crate) fn scheme(self) -> &'static str {
        match self {
            Self::Plain => "pop3",
            Self::Implicit => "pop3s",
            Self::Stls => "pop3+stls",
        }
    }
}

/// A running Dovecot; stopped when dropped.
pub(crate) struct Dovecot {
    scratch: TempDir,
    child: Option<Child>,
    plain: SocketAddr,
    implicit: SocketAddr,
    announced: SocketAddr,
    authority: PathBuf,
    log: Arc<Log>,
}

impl Dovecot {
    /// Start one with the mailbox of [`mailbox::messages`].
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Start one with further settings, as lines of its configuration.
    pub(crate) fn start_with(settings: &[&str]) -> Self {
        // A port that was free a moment ago may have been taken since: then Dovecot ends at once, and we look again.
        for _ in 0..5 {
            if let Some(dovecot) = Self::try_start(settings, None) {
                return dovecot;
            }
        }
        panic!("start Dovecot: it ended at once five times, see above");
    }

    /// Start one on a host of a test's own network, at the usual ports of all its addresses.
    pub(crate) fn start_on(network: &Network, host: Host) -> Self {
        Self::try_start(&["listen = *, ::"], Some((network, host))).expect("start Dovecot in a network namespace")
    }

    /// The plain listener's address; it offers STLS.
    pub(crate) fn plain(&self) -> SocketAddr {
        self.plain
    }

    /// The listener with TLS from the first octet.
    pub(crate) fn implicit(&self) -> SocketAddr {
        self.implicit
    }

    /// The plain listener that is told of clients by the PROXY protocol.
    pub(crate) fn announced(&self) -> SocketAddr {
        self.announced
    }

    /// Wait for a line of its log that holds all of these texts, and return it.
    pub(crate) fn wait_for_log(&self, texts: &[&str]) -> String {
        let find = |lines: &Vec<String>| lines.iter().find(|line| texts.iter().all(|text| line.contains(text))).cloned();
        let lines = self.log.lines.lock().unwrap();
        let (lines, _) = self.log.grown.wait_timeout_while(lines, PATIENCE, |lines| find(lines).is_none()).unwrap();
        find(&lines).unwrap_or_else(|| panic!("Dovecot logged no line with all of {texts:?}"))
    }

    /// The URL for an upstream.
    pub(crate) fn url(&self, mode: Mode) -> String {
        match mode {
            Mode::Plain => format!("pop3://{}", self.plain),
            // By name, so that a name is resolved and checked: it stands for ::1 as well, where nobody listens.
            Mode::Implicit => format!("pop3s://localhost:{}", self.implicit.port()),
            Mode::Stls => format!("pop3+stls://{}", self.plain),
        }
    }

    /// The file with the authority that signed the server's certificate.
    pub(crate) fn authority(&self) -> &Path {
        &self.authority
    }

    /// Its only Maildir.
    pub(crate) fn maildir(&self) -> PathBuf {
        self.scratch.path().join("mail")
    }

    fn try_start(settings: &[&str], place: Option<(&Network, Host)>) -> Option<Self> {
        let scratch = TempDir::with_prefix("poptap-dovecot-").unwrap();
        let directory = scratch.path();
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
        let authority = certificates::make(directory);
        mailbox::write(&directory.join("mail"));
        fs::write(directory.join("users"), format!("{USER}:{{PLAIN}}{PASSWORD}::::::\n")).unwrap();

        let owner = Owner::of_servers();
        let usual = [110, 995, 1110].map(|port| SocketAddr::from(([0, 0, 0, 0], port)));
        let ports = if place.is_some() { usual } else { [free_port(), free_port(), free_port()] };
        let greeting = format!("ready as {}", directory.file_name().unwrap().to_string_lossy());
        let text = configuration(directory, &owner, ports, &greeting, settings);
        let file = directory.join("dovecot.conf");
        fs::write(&file, text).unwrap();

        let mut command = match place {
            None => Command::new("/usr/sbin/dovecot"),
            // Only root can go there, and then becomes somebody else.
            Some((network, host)) => {
                let mut command = network.command(host, "setpriv", directory);
                command.args([&format!("--reuid={}", owner.uid), &format!("--regid={}", owner.gid), "--clear-groups"]);
                command.arg("/usr/sbin/dovecot");
                command
            }
        };
        command.arg("-F").arg("-c").arg(&file).stdin(Stdio::null());
        command.stdout(fs::File::create(directory.join("output")).unwrap());
        command.stderr(Stdio::piped());
        if owner.differs {
            owner.take(directory);
        }
        if owner.differs && place.is_none() {
            command.uid(owner.uid).gid(owner.gid);
        }
        let mut child = command.spawn().expect("start /usr/sbin/dovecot (run tests/run, which installs it)");
        let log = Arc::default();
        let started = keep_log(child.stderr.take().unwrap(), Arc::clone(&log));
        let [plain, implicit, announced] = ports;
        let mut dovecot = Self { child: Some(child), plain, implicit, announced, authority, log, scratch };
        // Nobody else is where it has a place of its own.
        let greeting = Some(greeting.as_str()).filter(|_| place.is_none());
        if dovecot.is_ready(&started, greeting) {
            return Some(dovecot);
        }
        eprintln!("{}", dovecot.log());
        None
    }

    /// Waits until it has said that it starts, which it does behind binding its ports; false when it ended instead.
    fn is_ready(&mut self, started: &Receiver<()>, greeting: Option<&str>) -> bool {
        match started.recv_timeout(PATIENCE) {
            Ok(()) => greeting.is_none_or(|greeting| greets(self.plain, greeting)),
            Err(RecvTimeoutError::Disconnected) => {
                wait(self.child.take().unwrap());
                false
            }
            Err(RecvTimeoutError::Timeout) => panic!("start Dovecot: it said nothing for {PATIENCE:?}\n{}", self.log()),
        }
    }

    fn log(&self) -> String {
        let output = fs::read(self.scratch.path().join("output")).unwrap_or_default();
        format!("--- Dovecot\n{}{}", String::from_utf8_lossy(&output), self.log.lines.lock().unwrap().join("\n"))
    }
}

/// What Dovecot has logged so far.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    grown: Condvar,
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.log());
        }
        if let Some(child) = self.child.take() {
            signal(child.id(), "TERM");
            wait(child);
        }
    }
}

/// Fill in the template; Dovecot takes the last of several values, so `settings` win.
fn configuration(directory: &Path, owner: &Owner, ports: [SocketAddr; 3], greeting: &str, settings: &[&str]) -> String {
    let values = [
        ("@directory@", directory.display().to_string()),
        ("@uid@", owner.uid.to_string()),
        ("@gid@", owner.gid.to_string()),
        ("@user@", owner.user.clone()),
        ("@group@", owner.group.clone()),
        ("@plain@", ports[0].port().to_string()),
        ("@implicit@", ports[1].port().to_string()),
        ("@announced@", ports[2].port().to_string()),
        ("@greeting@", greeting.to_owned()),
    ];
    let filled = values.iter().fold(TEMPLATE.to_owned(), |text, (name, value)| text.replace(name, value));
    format!("{filled}{}\n", settings.join("\n"))
}

const TEMPLATE: &str = include_str!("dovecot.conf");

/// Keeps the log, and tells when Dovecot says that it starts. The receiver is disconnected when it ended.
fn keep_log(stderr: ChildStderr, log: Arc<Log>) -> Receiver<()> {
    let (sender, started) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.contains("starting up") {
                // A test that is over does not need it.
                let _ = sender.send(());
            }
            log.lines.lock().unwrap().push(line);
            log.grown.notify_all();
        }
    });
    started
}

/// Whether our own server answers there, and not whoever took the port meanwhile.
fn greets(address: SocketAddr, greeting: &str) -> bool {
    let Ok(stream) = TcpStream::connect(address) else { return false };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).is_ok() && line.contains(greeting)
}
