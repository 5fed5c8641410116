//! Whom the servers run as.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use super::process::run;

/// Whom a server and its mailbox belong to. Servers refuse to deliver mail as root, so root's run as `nobody`, and everybody
/// else's as themselves: either way as an ordinary user, and with the same configuration.
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) user: String,
    pub(crate) group: String,
    /// Whether we are somebody else.
    pub(crate) differs: bool,
}

impl Owner {
    /// That of all servers.
    pub(crate) fn of_servers() -> Self {
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

    /// Make everything below a folder theirs.
    pub(crate) fn take(&self, folder: &Path) {
        if self.differs {
            run(Command::new("chown").arg("-R").arg(format!("{}:{}", self.uid, self.gid)).arg(folder));
        }
    }
}
