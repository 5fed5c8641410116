//! The log's file, which can be moved away and opened anew.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tracing_appender::rolling::{RollingFileAppender, Rotation};

use super::StartError;
use crate::config::LogRotation;

/// The file that the log goes to.
#[derive(Clone, Debug)]
pub struct LogFile {
    path: PathBuf,
    rotation: LogRotation,
    /// Opened anew, and not in use yet.
    fresh: Arc<Mutex<Option<RollingFileAppender>>>,
}

impl LogFile {
    pub(super) fn new(path: &Path, rotation: LogRotation) -> Self {
        Self { path: path.to_owned(), rotation, fresh: Arc::default() }
    }

    /// Its path, as it was configured.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it anew. What was logged before still goes to the old one, whatever its name is now.
    ///
    /// # Errors
    ///
    /// When it cannot be opened; the old one stays in use then.
    pub fn reopen(&self) -> Result<(), StartError> {
        let fresh = open(&self.path, self.rotation)?;
        *self.fresh.lock().unwrap_or_else(PoisonError::into_inner) = Some(fresh);
        Ok(())
    }

    /// What writes to it.
    pub(super) fn writer(&self) -> Result<FileWriter, StartError> {
        Ok(FileWriter { appender: open(&self.path, self.rotation)?, fresh: Arc::clone(&self.fresh) })
    }
}

pub(super) struct FileWriter {
    appender: RollingFileAppender,
    fresh: Arc<Mutex<Option<RollingFileAppender>>>,
}

impl Write for FileWriter {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.appender.write(octets)
    }

    /// Between two lines, so that none is cut in two by a new file.
    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.appender.flush();
        if let Some(fresh) = self.fresh.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.appender = fresh;
        }
        flushed
    }
}

fn open(path: &Path, rotation: LogRotation) -> Result<RollingFileAppender, StartError> {
    let failed = |source| StartError::File { path: path.to_owned(), source };
    let name = path.file_name().ok_or_else(|| failed(io::ErrorKind::IsADirectory.into()))?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The appender would create it, and a misspelt path would go unnoticed.
    if !directory.is_dir() {
        return Err(failed(io::ErrorKind::NotFound.into()));
    }
    let rotation = match rotation {
        LogRotation::Daily => Rotation::DAILY,
        LogRotation::Hourly => Rotation::HOURLY,
        LogRotation::Never => Rotation::NEVER,
    };
    let appender = RollingFileAppender::builder().rotation(rotation).filename_prefix(name.to_string_lossy());
    appender.build(directory).map_err(|error| failed(io::Error::other(error)))
}
