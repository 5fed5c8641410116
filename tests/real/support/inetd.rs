//! Small POP3 servers that read lines each in their own way: one process for each connection, as inetd starts them.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use tempfile::TempDir;

use super::process::run;
use super::{PATIENCE, USER, scratch};

/// GNU Mailutils' pop3d with a mailbox of its own. Its acceptor ends with the test's process.
pub(crate) struct Mailutils {
    home: TempDir,
    address: SocketAddr,
}

impl Mailutils {
    /// Start one; it has no messages before [`Self::refill`]. Only root can: it takes the group `mail` before all else.
    pub(crate) fn start() -> Option<Self> {
        let home = scratch();
        if home.path().metadata().unwrap().uid() != 0 {
            return None;
        }
        let configuration = Self::configure(home.path());
        let address = accept(move |_| {
            let mut command = Command::new("/usr/sbin/pop3d");
            command.arg("--inetd").arg("--config-file").arg(&configuration);
            Some(command)
        });
        Some(Self { home, address })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Make the mailbox hold these messages and no others.
    pub(crate) fn refill(&self, messages: &[&str]) {
        let separated = |text: &&str| format!("From eve@example.com Mon Nov  2 10:00:00 2026\n{text}\n");
        let mbox: Vec<String> = messages.iter().map(separated).collect();
        fs::write(self.home.path().join("INBOX"), mbox.concat()).unwrap();
    }

    /// The mailbox and the user belong to whoever runs the test. A user without a domain is looked for under the address.
    fn configure(home: &Path) -> PathBuf {
        let id = |flag| String::from_utf8(run(Command::new("id").arg(flag)).stdout).unwrap().trim().to_owned();
        let line = format!("{USER}:{CRYPT}:{}:{}::{}:/bin/false\n", id("-u"), id("-g"), home.display());
        fs::create_dir(home.join("domains")).unwrap();
        fs::write(home.join("domains/127.0.0.1"), line).unwrap();
        let path = home.join("pop3d.conf");
        let text = format!(
            "mode inetd;\nauth {{ authorization virtdomain; authentication generic; }};\n\
             virtdomain {{ passwd-dir \"{}/domains\"; }};\nlogging {{ syslog no; }};\n",
            home.display()
        );
        fs::write(&path, text).unwrap();
        path
    }
}

/// Courier's courierpop3d on a Maildir of its own. It begins where a login ends: that much of the session is played here.
pub(crate) struct Courier {
    home: TempDir,
    address: SocketAddr,
}

impl Courier {
    /// Start one; it has no messages before [`Self::refill`].
    pub(crate) fn start() -> Self {
        let home = scratch();
        let folder = home.path().to_owned();
        let address = accept(move |client| {
            log_in(client).ok()?;
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/servers");
            let libraries = root.join("usr/lib");
            let mut command = Command::new(libraries.join("courier/courier/courierpop3d"));
            let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
            let path = format!("{}:{}", libraries.display(), libraries.join(triplet).display());
            command.env("LD_LIBRARY_PATH", path).env("AUTHENTICATED", USER).env("AUTHADDR", USER);
            command.env("TCPREMOTEIP", "127.0.0.1").current_dir(&folder).arg("Maildir");
            Some(command)
        });
        Self { home, address }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Make the mailbox hold these messages and no others.
    pub(crate) fn refill(&self, messages: &[&str]) {
        let maildir = self.home.path().join("Maildir");
        let _ = fs::remove_dir_all(&maildir);
        for folder in ["cur", "new", "tmp"] {
            fs::create_dir_all(maildir.join(folder)).unwrap();
        }
        for (index, text) in messages.iter().enumerate() {
            fs::write(maildir.join(format!("cur/{}.M{index}P1.localhost:2,S", 1_700_000_000 + index)), text).unwrap();
        }
    }
}

/// Greet, and take USER and PASS, whatever they are. The server answers PASS, and nothing behind its line may be read here.
fn log_in(mut client: &TcpStream) -> io::Result<()> {
    client.write_all(b"+OK ready\r\n")?;
    for reply in ["+OK\r\n", ""] {
        let mut octet = [0];
        while octet != *b"\n" {
            client.read_exact(&mut octet)?;
        }
        client.write_all(reply.as_bytes())?;
    }
    Ok(())
}

/// What crypt(3) makes of the password, with SHA-512.
const CRYPT: &str = "$6$poptap$uKf9UQB96vYJ2UQdSRTFONxfnMxzc5VF01BAwtVW6FpBji1.QTZcp8fP6p28rgU2U8cmnDlqnP740DS1jGSHq1";

/// Accept connections on a loopback port, and let a process serve each, with the socket for input and output. `prepare` may
/// speak first, and calls the whole thing off with `None`.
fn accept(prepare: impl Fn(&TcpStream) -> Option<Command> + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            if let Some(mut command) = prepare(&client) {
                command.stdin(Stdio::from(OwnedFd::from(client.try_clone().unwrap())));
                command.stdout(Stdio::from(OwnedFd::from(client))).stderr(Stdio::null());
                let mut child = command.spawn().expect("start a server (run tests/run, which installs it)");
                // The socket is the process's alone now, so that its end is the connection's.
                drop(command);
                thread::spawn(move || child.wait());
            }
        }
    });
    address
}
