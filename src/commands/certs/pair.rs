//! A certificate and its key as two new files: both of them, or neither.

use std::{
    fs::{self, Permissions},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tempfile::TempPath;

use crate::commands::{Failure, exit};

/// Where they go.
pub(super) struct Pair {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
}

impl Pair {
    /// `STEM.pem` and `STEM.key` in a directory.
    pub(super) fn within(directory: &Path, stem: &str) -> Self {
        // What is made here is typed again in the next command: `./` in front would only be in the way.
        let directory = if directory == Path::new(".") { Path::new("") } else { directory };
        Self { cert: directory.join(format!("{stem}.pem")), key: directory.join(format!("{stem}.key")) }
    }

    /// # Errors
    ///
    /// When one of the files is there already, a dangling link included, or both are the same.
    pub(super) fn must_be_free(&self) -> Result<(), Failure> {
        if self.cert == self.key {
            return Err(Failure::new(exit::USAGE, "the certificate and its key cannot go to the same file"));
        }
        let taken = [&self.key, &self.cert].into_iter().find(|path| path.symlink_metadata().is_ok());
        taken.map_or(Ok(()), |path| Err(exists(path)))
    }

    /// Writes both. Others can read the certificate, unless the umask forbids it; the key is its owner's alone from its first
    /// octet on. The directories are made where they are missing.
    ///
    /// # Errors
    ///
    /// When one of the files exists or cannot be written whole. Neither is there then, unless it was before.
    pub(super) fn write(&self, cert: &str, key: &str) -> Result<(), Failure> {
        self.must_be_free()?;
        let key = prepare(&self.key, key, 0o600)?;
        let cert = prepare(&self.cert, cert, 0o644)?;
        publish(key, &self.key)?;
        publish(cert, &self.cert).inspect_err(|_| {
            // A key without its certificate is of no use; that it could not be removed changes nothing about the fault.
            let _ = fs::remove_file(&self.key);
        })
    }
}

/// Writes the content under a passing name beside `path`; it disappears when it is dropped.
fn prepare(path: &Path, content: &str, mode: u32) -> Result<TempPath, Failure> {
    let written = || -> io::Result<TempPath> {
        let directory = directory_of(path);
        fs::create_dir_all(directory)?;
        let mut file = tempfile::Builder::new().permissions(Permissions::from_mode(mode)).tempfile_in(directory)?;
        file.write_all(content.as_bytes())?;
        file.as_file().sync_all()?;
        Ok(file.into_temp_path())
    };
    written().map_err(|error| cannot_write(path, &error))
}

/// Gives it its name, unless somebody else has taken that.
fn publish(file: TempPath, path: &Path) -> Result<(), Failure> {
    file.persist_noclobber(path).map_err(|failed| match failed.error.kind() {
        io::ErrorKind::AlreadyExists => exists(path),
        _ => cannot_write(path, &failed.error),
    })
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn exists(path: &Path) -> Failure {
    let hint = "nothing is ever overwritten: move it away, or write to another place";
    Failure::new(exit::CANT_CREATE, format!("cannot write `{}`: it exists\n  hint: {hint}", path.display()))
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    let hint = "choose a directory that you may write to, on a disk with room";
    Failure::new(exit::CANT_CREATE, format!("cannot write `{}`: {error}\n  hint: {hint}", path.display()))
}
