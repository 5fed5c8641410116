//! Trying out what a configuration needs, without listening: for `check`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
};

use super::{
    Config, Place, RuleAction,
    fault::{Fault, Faults},
};

/// Tries whether transcripts, log and what the shield remembers could be written as this user; what was created for it is removed again.
///
/// Certificates need no trying: [`load`](super::load) has read them.
///
/// # Errors
///
/// Every directory that cannot be written to.
pub fn provision(config: &Config) -> Result<(), Faults> {
    let store = config.transcript.as_ref().and_then(|transcript| match &transcript.place {
        Place::Directory(directory) => unwritable("transcripts", directory),
        Place::Stdout => None,
    });
    let log = config.log.file.as_ref().and_then(|file| {
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        unwritable("the log", parent.unwrap_or(Path::new(".")))
    });
    let shields = config.rules.iter().any(|rule| rule.action == RuleAction::Shield);
    let memory = config.shield.dir.as_ref().filter(|_| shields && config.shield.remember);
    let shield = memory.and_then(|directory| unwritable("shielded messages", directory));
    let faults: Vec<_> = store.into_iter().chain(log).chain(shield).collect();
    if faults.is_empty() { Ok(()) } else { Err(Faults(faults)) }
}

fn unwritable(what: &str, directory: &Path) -> Option<Fault> {
    let existing = nearest_existing(directory);
    let error = try_directory(&existing).err()?;
    let message = if existing == directory {
        format!("{what} cannot be written to `{}`: {error}", directory.display())
    } else {
        format!("the directory `{}` for {what} cannot be created in `{}`: {error}", directory.display(), existing.display())
    };
    Some(Fault::new(message, "choose another directory, or give this user the right to write there"))
}

/// The directory itself, or the first one above it that exists.
fn nearest_existing(directory: &Path) -> PathBuf {
    let existing = directory.ancestors().find(|ancestor| ancestor.symlink_metadata().is_ok());
    // The ancestors of a relative path end with the empty one.
    existing.unwrap_or(Path::new(".")).to_owned()
}

/// Permissions, read-only mounts and quotas have their say only when something is really created.
fn try_directory(directory: &Path) -> io::Result<()> {
    if !fs::metadata(directory)?.is_dir() {
        return Err(io::Error::from(io::ErrorKind::NotADirectory));
    }
    let probe = directory.join(format!(".poptap-check-{}", process::id()));
    fs::File::create_new(&probe)?;
    fs::remove_file(&probe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_can_be_created_is_no_fault_and_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(unwritable("transcripts", &root.path().join("a/b")), None);
        assert_eq!(unwritable("transcripts", root.path()), None);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_in_the_way_is_a_fault() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let fault = unwritable("transcripts", &file.join("t")).unwrap().to_string();
        assert!(fault.contains("cannot be created in") && fault.contains("not a directory"), "{fault}");
    }
}
