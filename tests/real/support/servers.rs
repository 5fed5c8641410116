//! Servers of several makes, each with a mailbox of small messages that are all alike.
//!
//! Debian lets nobody install two of their packages at once, so `tests/run` unpacks them below `target/servers` instead.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::courier::Courier;
use super::cyrus::Cyrus;
use super::dovecot::Dovecot;
use super::mailutils::Mailutils;
use super::owner::Owner;

/// Who made a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    Courier,
    Cyrus,
    Dovecot,
    Mailutils,
}

/// A running server; stopped when dropped.
pub(crate) enum Server {
    Courier(Courier),
    Cyrus(Cyrus),
    Dovecot(Box<Dovecot>),
    Mailutils(Mailutils),
}

impl Server {
    /// Start one with so many messages, of which [`SUBJECT`] tells. (Dovecot's first ones are others.)
    pub(crate) fn start(make: Make, messages: usize) -> Self {
        match make {
            Make::Courier => Self::Courier(Courier::start(messages)),
            Make::Cyrus => Self::Cyrus(Cyrus::start(messages)),
            Make::Mailutils => Self::Mailutils(Mailutils::start(messages)),
            Make::Dovecot => {
                let dovecot = Dovecot::start();
                for number in 1..=messages {
                    // Before those that are there.
                    let name = format!("{}.M{number}P1.localhost:2,S", 1_600_000_000 + number);
                    fs::write(dovecot.maildir().join("cur").join(name), message(number)).unwrap();
                }
                Owner::of_servers().take(&dovecot.maildir());
                Self::Dovecot(Box::new(dovecot))
            }
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Self::Courier(server) => server.address(),
            Self::Cyrus(server) => server.address(),
            Self::Dovecot(server) => server.plain(),
            Self::Mailutils(server) => server.address(),
        }
    }
}

/// What stands in every message, and nowhere else.
pub(crate) const SUBJECT: &str = "to be kept";

/// A message, as it lies on disk.
pub(super) fn message(number: usize) -> String {
    format!(
        "From: Eve <eve@example.com>\nTo: tim@example.com\nSubject: {SUBJECT}\nDate: Mon, 2 Nov 2026 10:00:00 +0000\n\
         Message-ID: <{number}@example.com>\n\nhello\n"
    )
}

/// A program of a package that was unpacked, with the libraries that came with it.
pub(super) fn unpacked(package: &str, program: &str) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/servers").join(package);
    let arch = std::env::consts::ARCH;
    let places = ["usr/lib".to_owned(), format!("usr/lib/{arch}-linux-gnu"), format!("lib/{arch}-linux-gnu")];
    let libraries: Vec<PathBuf> = places.iter().map(|place| root.join(place)).collect();
    let mut command = Command::new(root.join(program));
    command.env("LD_LIBRARY_PATH", std::env::join_paths(libraries).unwrap());
    command
}

/// A server's own user has to get in.
pub(super) fn open_to_all(folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
}
