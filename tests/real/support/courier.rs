//! Courier's POP3 server, a process for each connection, with a Maildir of its own.
//!
//! It asks a daemon about passwords, at a place that was compiled in. A few lines of C, loaded before its libraries, lead it
//! to one of our own, which knows one user.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use tempfile::TempDir;

use super::inetd::Inetd;
use super::owner::Owner;
use super::process::run;
use super::servers::{message, open_to_all, unpacked};
use super::{PASSWORD, USER};

/// A running Courier.
pub(crate) struct Courier {
    inetd: Inetd,
    _scratch: TempDir,
}

impl Courier {
    /// Start one with so many messages.
    pub(crate) fn start(messages: usize) -> Self {
        let scratch = TempDir::with_prefix("poptap-courier-").unwrap();
        let (home, owner) = (scratch.path().to_owned(), Owner::of_servers());
        open_to_all(&home);
        for folder in ["cur", "new", "tmp"] {
            fs::create_dir_all(home.join("Maildir").join(folder)).unwrap();
        }
        for number in 1..=messages {
            let name = format!("{}.M{number}P1.localhost:2,S", 1_700_000_000 + number);
            fs::write(home.join("Maildir/cur").join(name), message(number)).unwrap();
        }
        owner.take(&home);
        lead_to_our_daemon(&home);
        know_the_user(&home, &owner);
        let inetd = Inetd::start(move || command(&home));
        Self { inetd, _scratch: scratch }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.inetd.address()
    }
}

fn command(home: &Path) -> Command {
    let folder = "usr/lib/courier/courier";
    let mut command = unpacked("courier-pop", &format!("{folder}/courierpop3login"));
    command.arg(unpacked("courier-pop", &format!("{folder}/courierpop3d")).get_program()).arg("Maildir");
    command.env("LD_PRELOAD", home.join(SHIM)).env("AUTHDAEMON_SOCKET", home.join(SOCKET)).env("POP3AUTH", "LOGIN PLAIN");
    command.env("TCPLOCALPORT", "110").env("TCPREMOTEIP", "127.0.0.1").env("TCPREMOTEPORT", "1024");
    command.stderr(Stdio::null());
    command
}

fn lead_to_our_daemon(home: &Path) {
    fs::write(home.join("courier.c"), include_str!("courier.c")).unwrap();
    run(Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(home.join(SHIM)).arg(home.join("courier.c")));
}

/// The daemon: it ends with the test's process.
fn know_the_user(home: &Path, owner: &Owner) {
    let listener = UnixListener::bind(home.join(SOCKET)).unwrap();
    let (uid, gid, home) = (owner.uid, owner.gid, home.display());
    let account = format!("UID={uid}\nGID={gid}\nHOME={home}\nADDRESS={USER}\nNAME={USER}\n.\n");
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            // Who hangs up is not answered.
            let _ = answer(&client, &account);
        }
    });
}

/// `AUTH` and a length, and so many octets: the service, the kind of login, the user and the password, each on a line.
fn answer(mut client: &UnixStream, account: &str) -> io::Result<()> {
    let mut reader = BufReader::new(client);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        if let Some(length) = line.strip_prefix("AUTH ") {
            let mut question = vec![0; length.trim().parse().unwrap()];
            reader.read_exact(&mut question)?;
            let question = String::from_utf8_lossy(&question);
            let known = question.lines().skip(2).take(2).eq([USER, PASSWORD]);
            return client.write_all(if known { account } else { "FAIL\n" }.as_bytes());
        }
        line.clear();
    }
    Ok(())
}

const SOCKET: &str = "authdaemon";
const SHIM: &str = "courier.so";
