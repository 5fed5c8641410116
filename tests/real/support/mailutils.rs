//! GNU Mailutils' `pop3d`, a process for each connection, with a domain and an mbox of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use tempfile::TempDir;

use super::USER;
use super::inetd::Inetd;
use super::owner::Owner;
use super::servers::{message, open_to_all, unpacked};

/// A running Mailutils.
pub(crate) struct Mailutils {
    inetd: Inetd,
    _scratch: TempDir,
}

impl Mailutils {
    /// Start one with so many messages.
    pub(crate) fn start(messages: usize) -> Self {
        let scratch = TempDir::with_prefix("poptap-mailutils-").unwrap();
        let (home, owner) = (scratch.path().to_owned(), Owner::of_servers());
        open_to_all(&home);
        let mbox: String = (1..=messages).flat_map(|number| [SEPARATOR, &message(number), "\n"].map(str::to_owned)).collect();
        fs::write(home.join("INBOX"), mbox).unwrap();
        write_accounts(&home, &owner);
        owner.take(&home);
        let inetd = Inetd::start(move || {
            let mut command = unpacked("mailutils-pop3d", "usr/sbin/pop3d");
            command.arg("--config-file").arg(home.join("pop3d.conf")).stderr(log(&home));
            command
        });
        Self { inetd, _scratch: scratch }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.inetd.address()
    }
}

/// It takes who connects without naming a domain for a user of the domain that its own address is named after.
fn write_accounts(home: &Path, owner: &Owner) {
    let (uid, gid) = (owner.uid, owner.gid);
    let account = format!("{USER}:{DIGEST}:{uid}:{gid}::{}:/bin/false\n", home.display());
    let domains = home.join("domains");
    fs::create_dir(&domains).unwrap();
    for domain in ["localhost", "127.0.0.1"] {
        fs::write(domains.join(domain), &account).unwrap();
    }
    let text = format!(
        "mode inetd;\nauth {{ authorization virtdomain; authentication generic; }};\n\
         virtdomain {{ passwd-dir {}; }};\nlogging {{ syslog no; }};\n",
        domains.display()
    );
    fs::write(home.join("pop3d.conf"), text).unwrap();
}

fn log(home: &Path) -> Stdio {
    fs::OpenOptions::new().append(true).create(true).open(home.join("log")).unwrap().into()
}

/// What stands before each message in an mbox.
const SEPARATOR: &str = "From eve@example.com Mon Nov  2 10:00:00 2026\n";

/// That of [`PASSWORD`](super::PASSWORD), as `openssl passwd -5` makes it.
const DIGEST: &str = "$5$poptap$tl.GfNpIV2pHOYNTNsQx5ucQdCmZ4kQwaA/vRZT6ag9";
