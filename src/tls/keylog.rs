//! A file of TLS secrets, with which captures can be decrypted.

use std::{
    fs::{File, Metadata},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// Writes the secrets of every connection in the NSS key log format, the one that Wireshark reads.
///
/// Whoever has the file can read every connection that it names.
#[derive(Clone, Debug)]
pub struct KeyLog {
    writer: Arc<Writer>,
}

impl KeyLog {
    /// Opens the file for appending, or creates it; either way its owner, and nobody else, may read it.
    ///
    /// # Errors
    ///
    /// When it cannot be created or written to, is no regular file (a symbolic link is none), or others may read it.
    pub fn open(path: &Path) -> Result<Self, KeyLogError> {
        let file = ArcSwap::from_pointee(open_judged(path)?);
        Ok(Self { writer: Arc::new(Writer { path: path.to_owned(), file, failed: AtomicBool::new(false) }) })
    }

    /// Opens the file anew, after it was moved away for example. Connections that there are write to the new one too.
    ///
    /// # Errors
    ///
    /// As for [`KeyLog::open`]; the old file stays in use then.
    pub fn reopen(&self) -> Result<(), KeyLogError> {
        self.writer.file.store(Arc::new(open_judged(&self.writer.path)?));
        self.writer.failed.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// What rustls writes to.
    pub(super) fn writer(&self) -> Arc<dyn rustls::KeyLog> {
        Arc::<Writer>::clone(&self.writer)
    }
}

/// A key log that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write TLS secrets to `{}`: {cause}", path.display())]
pub struct KeyLogError {
    path: PathBuf,
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("{0}")]
    Io(io::Error),
    #[error("it is not a regular file")]
    Irregular,
    #[error("others may read it (mode {mode:04o}); hint: `chmod 600` it, or name a new file")]
    Open { mode: u32 },
    #[error("it belongs to another user (uid {owner}); hint: name a new file")]
    Foreign { owner: u32 },
}

impl Cause {
    fn new(error: io::Error) -> Self {
        match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            // A symbolic link; a pipe that nobody reads, or a socket; a folder.
            Some(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO | rustix::io::Errno::ISDIR) => Self::Irregular,
            _ => Self::Io(error),
        }
    }
}

#[derive(Debug)]
struct Writer {
    path: PathBuf,
    file: ArcSwap<File>,
    failed: AtomicBool,
}

impl rustls::KeyLog for Writer {
    /// A line goes out in one write, so that connections do not mix theirs. A line that cannot be written is lost: a key log
    /// is for watching connections, and must not break them.
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let line = line(label, client_random, secret);
        let written = (&**self.file.load())
            .write(&line)
            .and_then(|count| if count == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) });
        if let Err(error) = written
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            let path = self.path.display();
            tracing::error!("cannot write TLS secrets to `{path}`: {error}; connections go on, some cannot be decrypted");
        }
    }
}

fn open_judged(path: &Path) -> Result<File, KeyLogError> {
    let failed = |cause| KeyLogError { path: path.to_owned(), cause };
    let file = open(path).map_err(|error| failed(Cause::new(error)))?;
    judge(&file.metadata().map_err(|error| failed(Cause::Io(error)))?).map_err(failed)?;
    Ok(file)
}

/// Neither follows a symbolic link nor waits for a pipe's reader.
fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    File::options().append(true).create(true).mode(0o600).custom_flags(flags.cast_signed()).open(path)
}

fn judge(file: &Metadata) -> Result<(), Cause> {
    let mode = file.mode() & 0o7777;
    if !file.is_file() {
        return Err(Cause::Irregular);
    }
    if file.uid() != rustix::process::geteuid().as_raw() {
        return Err(Cause::Foreign { owner: file.uid() });
    }
    if mode & 0o077 != 0 {
        return Err(Cause::Open { mode });
    }
    Ok(())
}

fn line(label: &str, client_random: &[u8], secret: &[u8]) -> Zeroizing<Vec<u8>> {
    // With room for all of it from the start: what grows leaves copies behind.
    let mut line = Zeroizing::new(Vec::with_capacity(label.len() + 2 * (client_random.len() + secret.len()) + 3));
    line.extend_from_slice(label.as_bytes());
    line.push(b' ');
    push_hex(&mut line, client_random);
    line.push(b' ');
    push_hex(&mut line, secret);
    line.push(b'\n');
    line
}

fn push_hex(line: &mut Vec<u8>, octets: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    line.extend(octets.iter().flat_map(|&octet| [DIGITS[usize::from(octet >> 4)], DIGITS[usize::from(octet & 15)]]));
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use super::*;

    fn refusal(path: &Path) -> String {
        KeyLog::open(path).unwrap_err().to_string()
    }

    #[test]
    fn lines_are_appended_to_a_file_of_the_owners() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        for secret in [[0x0f, 0xf0], [1, 2]] {
            KeyLog::open(&path).unwrap().writer().log("CLIENT_RANDOM", &[0xab], &secret);
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "CLIENT_RANDOM ab 0ff0\nCLIENT_RANDOM ab 0102\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("keys"), folder.path().join("keys.1"));
        let log = KeyLog::open(&path).unwrap();
        let writer = log.writer();
        writer.log("A", &[1], &[2]);
        fs::rename(&path, &old).unwrap();
        log.reopen().unwrap();
        writer.log("B", &[1], &[2]);
        assert_eq!([&old, &path].map(|path| fs::read_to_string(path).unwrap()), ["A 01 02\n", "B 01 02\n"]);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(log.reopen().unwrap_err().to_string().contains("others may read it"));
        writer.log("C", &[1], &[2]);
        assert!(fs::read_to_string(&path).unwrap().ends_with("C 01 02\n"), "the old one stays in use");
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        fs::write(&path, "").unwrap();
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let words = refusal(&path);
            assert!(words.contains(&format!("others may read it (mode {mode:04o}); hint: `chmod 600` it")), "{words}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        KeyLog::open(&path).unwrap();
    }

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let (link, pipe) = (folder.path().join("link"), folder.path().join("pipe"));
        symlink(folder.path().join("elsewhere"), &link).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        for path in [&link, &pipe, Path::new("/dev/null"), folder.path()] {
            let words = refusal(path);
            assert!(words.ends_with("it is not a regular file"), "{}: {words}", path.display());
        }
        assert!(!folder.path().join("elsewhere").exists());
        assert!(refusal(Path::new("/nonexistent/keys")).contains("No such file"));
    }

    #[test]
    fn a_write_that_fails_breaks_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // Open for reading only, so that every write fails.
        let writer = Writer {
            path: "keys".into(),
            file: ArcSwap::from_pointee(File::open(file.path()).unwrap()),
            failed: AtomicBool::new(false),
        };
        rustls::KeyLog::log(&writer, "CLIENT_RANDOM", &[1], &[2]);
        rustls::KeyLog::log(&writer, "CLIENT_RANDOM", &[1], &[2]);
        assert!(writer.failed.load(Ordering::Relaxed));
    }
}
