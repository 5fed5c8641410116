//! Cyrus, with a configuration, partitions and ports of its own.
//!
//! Its master starts the POP3 server, and the LMTP server through which the messages come. About passwords it asks a daemon,
//! which here is one of our own that knows one user.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::owner::Owner;
use super::process::{signal, wait};
use super::servers::{message, open_to_all, unpacked};
use super::wire::Wire;
use super::{PASSWORD, PATIENCE, USER, free_port};

/// A running Cyrus; stopped when dropped.
pub(crate) struct Cyrus {
    master: Option<Child>,
    pop: SocketAddr,
    lmtp: SocketAddr,
    scratch: TempDir,
}

impl Cyrus {
    /// Start one with so many messages.
    pub(crate) fn start(messages: usize) -> Self {
        let scratch = TempDir::with_prefix("poptap-cyrus-").unwrap();
        let (home, owner) = (scratch.path(), Owner::of_servers());
        open_to_all(home);
        let (pop, lmtp) = (free_port(), free_port());
        write_configuration(home, &owner, pop, lmtp);
        owner.take(home);
        know_the_user(home);
        let mut command = unpacked("cyrus-pop3d", "usr/lib/cyrus/bin/master");
        command.arg("-C").arg(home.join("imapd.conf")).arg("-M").arg(home.join("cyrus.conf")).arg("-p").arg(home.join("pid"));
        // No mechanisms but USER and PASS: those of this machine are not everybody's.
        command.env("SASL_PATH", home.join("mechanisms"));
        // When it ends it signals its whole group of processes, and we are not of it.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let master = command.spawn().expect("start Cyrus (run tests/run, which brings it)");
        let cyrus = Self { master: Some(master), pop, lmtp, scratch };
        cyrus.wait_for_greeting();
        // It makes the mailbox when its user comes for the first time.
        Wire::log_in(pop).quit();
        cyrus.deliver(messages).unwrap();
        cyrus
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.pop
    }

    /// Asks for its greeting until it comes; the name in it tells that it is ours.
    fn wait_for_greeting(&self) {
        let (name, begin) = (server_name(self.scratch.path()), Instant::now());
        while begin.elapsed() < PATIENCE {
            if greeting(self.pop).is_ok_and(|line| line.contains(&name)) {
                return;
            }
            // It does not say when it is ready; we leave it the processor meanwhile.
            thread::sleep(Duration::from_millis(10));
        }
        panic!("Cyrus did not answer within {PATIENCE:?}");
    }

    /// RFC 2033.
    fn deliver(&self, messages: usize) -> io::Result<()> {
        let mut lmtp = BufReader::new(TcpStream::connect(self.lmtp)?);
        lmtp.get_ref().set_read_timeout(Some(PATIENCE))?;
        expect(&mut lmtp, "220")?;
        say(&mut lmtp, "LHLO localhost\r\n", "250")?;
        for number in 1..=messages {
            say(&mut lmtp, "MAIL FROM:<eve@example.com>\r\n", "250")?;
            say(&mut lmtp, &format!("RCPT TO:<{USER}>\r\n"), "250")?;
            say(&mut lmtp, "DATA\r\n", "354")?;
            say(&mut lmtp, &format!("{}.\r\n", message(number).replace('\n', "\r\n")), "250")?;
        }
        say(&mut lmtp, "QUIT\r\n", "221")
    }
}

impl Drop for Cyrus {
    fn drop(&mut self) {
        if let Some(master) = self.master.take() {
            signal(master.id(), "TERM");
            wait(master);
        }
    }
}

fn server_name(home: &Path) -> String {
    format!("cyrus-{}", home.file_name().unwrap().to_string_lossy().rsplit('-').next().unwrap())
}

fn greeting(address: SocketAddr) -> io::Result<String> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

/// Sends it, and reads the reply to its last line.
fn say(lmtp: &mut BufReader<TcpStream>, text: &str, code: &str) -> io::Result<()> {
    lmtp.get_mut().write_all(text.as_bytes())?;
    expect(lmtp, code)
}

fn expect(lmtp: &mut BufReader<TcpStream>, code: &str) -> io::Result<()> {
    loop {
        let mut line = String::new();
        lmtp.read_line(&mut line)?;
        assert!(line.starts_with(code), "Cyrus's LMTP server said {line:?}");
        if line.as_bytes().get(3) != Some(&b'-') {
            return Ok(());
        }
    }
}

fn write_configuration(home: &Path, owner: &Owner, pop: SocketAddr, lmtp: SocketAddr) {
    for folder in ["state", "state/proc", "state/db", "partition", "sockets", "mechanisms"] {
        fs::create_dir(home.join(folder)).unwrap();
    }
    let values = [
        ("@home@", home.display().to_string()),
        ("@name@", server_name(home)),
        ("@user@", owner.user.clone()),
        ("@group@", owner.group.clone()),
        ("@bin@", unpacked("cyrus-pop3d", "usr/lib/cyrus/bin").get_program().to_string_lossy().into_owned()),
        ("@pop@", pop.to_string()),
        ("@lmtp@", lmtp.to_string()),
    ];
    for (name, template) in [("imapd.conf", SETTINGS), ("cyrus.conf", SERVICES)] {
        let text = values.iter().fold(template.to_owned(), |text, (name, value)| text.replace(name, value));
        fs::write(home.join(name), text).unwrap();
    }
}

const SETTINGS: &str = "\
configdirectory: @home@/state
proc_path: @home@/state/proc
partition-default: @home@/partition
defaultpartition: default
servername: @name@
cyrus_user: @user@
cyrus_group: @group@
allowplaintext: yes
sasl_pwcheck_method: saslauthd
sasl_saslauthd_path: @home@/sockets/mux
autocreate_quota: 0
autocreate_users: anyone
lmtpsocket: @home@/sockets/lmtp
idlesocket: @home@/sockets/idle
notifysocket: @home@/sockets/notify
duplicatesuppression: no
";

const SERVICES: &str = "\
START {
  recover cmd=\"@bin@/ctl_cyrusdb -C @home@/imapd.conf -r\"
}
SERVICES {
  pop cmd=\"@bin@/pop3d -C @home@/imapd.conf\" listen=\"@pop@\" prefork=0
  lmtp cmd=\"@bin@/lmtpd -C @home@/imapd.conf -a\" listen=\"@lmtp@\" prefork=0
}
EVENTS {
}
";

/// The password daemon: it ends with the test's process.
fn know_the_user(home: &Path) {
    let path = home.join("sockets/mux");
    let listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            // Who hangs up is not answered.
            let _ = answer(client);
        }
    });
}

/// User, password, service and realm, each behind its length; the answer too.
fn answer(mut client: UnixStream) -> io::Result<()> {
    let mut field = || {
        let mut length = [0; 2];
        client.read_exact(&mut length)?;
        let mut text = vec![0; u16::from_be_bytes(length).into()];
        client.read_exact(&mut text)?;
        Ok::<_, io::Error>(text)
    };
    let fields = [field()?, field()?, field()?, field()?];
    let known = fields[0] == USER.as_bytes() && fields[1] == PASSWORD.as_bytes();
    client.write_all(if known { b"\0\x02OK" } else { b"\0\x02NO" })
}
