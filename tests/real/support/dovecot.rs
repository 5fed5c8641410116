//! Dovecot 2.3 with a configuration, a mailbox and ports of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::certificates::Certificates;
use super::process::{run, signal, wait};
use super::{PASSWORD, PATIENCE, USER, mailbox};

/// How poptap reaches the server.
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

/// A running Dovecot; stopped when dropped.
pub(crate) struct Dovecot {
    scratch: TempDir,
    child: Option<Child>,
    plain: SocketAddr,
    implicit: SocketAddr,
    certificates: Certificates,
}

impl Dovecot {
    /// Start one with the mailbox of [`mailbox::messages`], without APOP.
    pub(crate) fn start() -> Self {
        Self::start_with("plain login")
    }

    /// Start one with these authentication mechanisms.
    pub(crate) fn start_with(mechanisms: &str) -> Self {
        // A port that was free a moment ago may have been taken since: then Dovecot ends at once, and we look again.
        for _ in 0..5 {
            if let Some(dovecot) = Self::try_start(mechanisms) {
                return dovecot;
            }
        }
        panic!("start Dovecot: it ended at once five times, see above");
    }

    /// The plain listener's address; it offers STLS.
    pub(crate) fn plain(&self) -> SocketAddr {
        self.plain
    }

    /// The URL for an upstream.
    pub(crate) fn url(&self, mode: Mode) -> String {
        match mode {
            Mode::Plain => format!("pop3://{}", self.plain),
            Mode::Implicit => format!("pop3s://{}", self.implicit),
            Mode::Stls => format!("pop3+stls://{}", self.plain),
        }
    }

    /// The file with the authority that signed the server's certificate.
    pub(crate) fn authority(&self) -> &Path {
        &self.certificates.authority
    }

    fn try_start(mechanisms: &str) -> Option<Self> {
        let scratch = TempDir::with_prefix("poptap-dovecot-").unwrap();
        let directory = scratch.path();
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
        let certificates = Certificates::make(directory);
        mailbox::write(&directory.join("mail"));
        fs::write(directory.join("users"), format!("{USER}:{{PLAIN}}{PASSWORD}::::::\n")).unwrap();

        let owner = Owner::of_server();
        let (plain, implicit) = (free_port(), free_port());
        let greeting = format!("ready as {}", directory.file_name().unwrap().to_string_lossy());
        let text = configuration(directory, &certificates, &owner, (plain, implicit), mechanisms, &greeting);
        let file = directory.join("dovecot.conf");
        fs::write(&file, text).unwrap();

        let mut command = Command::new("/usr/sbin/dovecot");
        command.arg("-F").arg("-c").arg(&file).stdin(Stdio::null());
        command.stdout(fs::File::create(directory.join("output")).unwrap());
        command.stderr(fs::File::options().append(true).open(directory.join("output")).unwrap());
        if owner.differs {
            run(Command::new("chown").arg("-R").arg(format!("{}:{}", owner.uid, owner.gid)).arg(directory));
            command.uid(owner.uid).gid(owner.gid);
        }
        let child = command.spawn().expect("start /usr/sbin/dovecot (run tests/run, which installs it)");
        let mut dovecot = Self { child: Some(child), plain, implicit, certificates, scratch };
        if dovecot.wait_until_ready(&greeting) {
            return Some(dovecot);
        }
        eprintln!("{}", dovecot.log());
        None
    }

    /// Connect until it greets; false when it ended instead.
    fn wait_until_ready(&mut self, greeting: &str) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                self.child = None;
                return false;
            }
            if greets(self.plain, greeting) {
                return true;
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("start Dovecot: no greeting from {} in {PATIENCE:?}\n{}", self.plain, self.log());
    }

    fn log(&self) -> String {
        let read = |name: &str| {
            let octets = fs::read(self.scratch.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&octets).into_owned()
        };
        format!("--- Dovecot\n{}{}", read("output"), read("log"))
    }
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

/// Whom Dovecot runs as. It refuses to deliver mail as root, so root's Dovecot runs as `nobody`, and everybody else's as
/// themselves: either way as an ordinary user, and with the same configuration.
struct Owner {
    uid: u32,
    gid: u32,
    user: String,
    group: String,
    differs: bool,
}

impl Owner {
    fn of_server() -> Self {
        let probe = tempfile::tempfile().unwrap();
        let differs = probe.metadata().unwrap().uid() == 0;
        let id = |flag: &str| {
            let mut command = Command::new("id");
            command.arg(flag);
            if differs {
                command.arg("nobody");
            }
            String::from_utf8(run(&mut command).stdout).unwrap().trim().to_owned()
        };
        Self { uid: id("-u").parse().unwrap(), gid: id("-g").parse().unwrap(), user: id("-un"), group: id("-gn"), differs }
    }
}

fn configuration(
    directory: &Path,
    certificates: &Certificates,
    owner: &Owner,
    (plain, implicit): (SocketAddr, SocketAddr),
    mechanisms: &str,
    greeting: &str,
) -> String {
    let directory = directory.display();
    let (chain, key) = (certificates.chain.display(), certificates.key.display());
    let Owner { uid, gid, user, group, .. } = owner;
    let (plain_port, implicit_port) = (plain.port(), implicit.port());
    format!(
        "protocols = pop3
listen = 127.0.0.1
base_dir = {directory}/run
state_dir = {directory}/state
log_path = {directory}/log
login_greeting = {greeting}
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
ssl = yes
ssl_cert = <{chain}
ssl_key = <{key}
disable_plaintext_auth = no
auth_mechanisms = {mechanisms}
first_valid_uid = 1
mail_uid = {uid}
mail_gid = {gid}
mail_location = maildir:{directory}/mail
mail_max_userip_connections = 100
passdb {{
  driver = passwd-file
  args = {directory}/users
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={directory}/home
}}
service pop3-login {{
  chroot =
  inet_listener pop3 {{
    port = {plain_port}
  }}
  inet_listener pop3s {{
    port = {implicit_port}
    ssl = yes
  }}
}}
service anvil {{
  chroot =
  # Failed logins must not slow down those of the tests that follow.
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
"
    )
}

fn free_port() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// Whether our own server answers there, and not whoever took the port meanwhile.
fn greets(address: SocketAddr, greeting: &str) -> bool {
    let Ok(stream) = TcpStream::connect(address) else { return false };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).is_ok() && line.contains(greeting)
}

/// Where a test keeps its own files.
pub(crate) fn scratch() -> (TempDir, PathBuf) {
    let scratch = TempDir::with_prefix("poptap-real-").unwrap();
    let path = scratch.path().to_owned();
    (scratch, path)
}
