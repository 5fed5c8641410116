//! Files that are whole or not there, and never in the place of another unasked.

use std::{
    fs, io,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use super::ExportError;

/// A file that is being written beside its place, readable by its owner alone. Dropped, it leaves nothing behind.
pub(in crate::inspect) struct Draft {
    file: BufWriter<NamedTempFile>,
    place: PathBuf,
    force: bool,
}

impl Draft {
    /// Begins a file for this place; `force` says that another may stand there.
    pub(in crate::inspect) fn new(place: &Path, force: bool) -> Result<Self, ExportError> {
        // Also what is no file: a dangling link, a directory.
        if !force && place.symlink_metadata().is_ok() {
            return Err(ExportError::Exists(place.to_owned()));
        }
        let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let made = tempfile::Builder::new().prefix(".poptap-").tempfile_in(folder);
        let file = made.map_err(|cause| ExportError::Create { place: place.to_owned(), cause })?;
        Ok(Self { file: BufWriter::with_capacity(64 * 1024, file), place: place.to_owned(), force })
    }

    /// Puts the file in its place.
    pub(in crate::inspect) fn publish(self) -> Result<(), ExportError> {
        let Self { file, place, force } = self;
        let file = file.into_inner().map_err(|error| ExportError::create(&place, error.into_error()))?;
        let published = if force { file.persist(&place) } else { file.persist_noclobber(&place) };
        match published {
            Ok(_) => Ok(()),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Err(ExportError::Exists(place)),
            Err(error) => Err(ExportError::create(&place, error.error)),
        }
    }
}

impl Write for Draft {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.file.write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Makes a directory for its owner alone, unless it is there.
pub(in crate::inspect) fn folder(place: &Path) -> Result<(), ExportError> {
    use std::os::unix::fs::DirBuilderExt as _;

    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(place);
    made.map_err(|cause| ExportError::Create { place: place.to_owned(), cause })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_appears_whole_and_replaces_none_unasked() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("x");
        let write = |text: &str, force| {
            let mut draft = Draft::new(&place, force)?;
            draft.write_all(text.as_bytes()).unwrap();
            assert!(force || !place.exists());
            draft.publish()
        };
        write("one", false).unwrap();
        assert!(matches!(write("two", false), Err(ExportError::Exists(_))));
        assert_eq!(fs::read_to_string(&place).unwrap(), "one");
        write("three", true).unwrap();
        assert_eq!(fs::read_to_string(&place).unwrap(), "three");
        assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_appears_meanwhile_stays() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("x");
        let draft = Draft::new(&place, false).unwrap();
        fs::write(&place, "mine").unwrap();
        assert!(matches!(draft.publish(), Err(ExportError::Exists(_))));
        assert_eq!(fs::read_to_string(&place).unwrap(), "mine");
    }
}
