//! A directory of segments: made and checked, files created in it that nobody else may read.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::mpsc::{Sender, channel},
    thread,
};

use rustix::fs::{FlockOperation, flock};

use super::{
    archive::{Archivist, Job},
    audit::Audit,
    clock::Moment,
    schema::Summary,
    segment::{Output, Storage, Stream},
    store::{StoreError, spawn},
};
use crate::config::Transcript;

/// Octets of the key for hashed user names.
pub(super) const KEY_LENGTH: usize = 32;

/// Where that key is kept.
const KEY_FILE: &str = "user.key";

/// How often another name is tried when a segment of that name exists.
const TRIES: usize = 100;

/// Opens the directory and starts the thread that looks after finished segments.
pub(super) fn open(path: &Path, transcript: &Transcript) -> Result<Directory, StoreError> {
    prepare(path)?;
    let (jobs, receiver) = channel();
    let archivist = Archivist::new(path, transcript);
    let thread = spawn("poptap-archive", move || archivist.run(&receiver))?;
    let audit = Audit::start(path, transcript)?;
    Ok(Directory { path: path.to_owned(), sequence: 0, jobs: Some(jobs), thread: Some(thread), audit })
}

/// The key for hashed user names: the one that the directory holds, or `fresh`, which it holds from now on.
pub(super) fn key(path: &Path, fresh: [u8; KEY_LENGTH]) -> Result<[u8; KEY_LENGTH], StoreError> {
    let file = path.join(KEY_FILE);
    let made = make_key(&file, &fresh);
    let kept = made.and_then(|()| read_key(&file));
    kept.map_err(|source| StoreError::Directory { action: "read or make the key for hashed user names", path: file, source })
}

/// A directory that segments are written to.
pub(super) struct Directory {
    path: PathBuf,
    sequence: u64,
    jobs: Option<Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
    /// `None` when no roll-up is kept.
    audit: Option<Audit>,
}

impl Directory {
    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // The thread ends before its channel only when it panicked; segments then stay as they are, which is harmless.
            let _ = jobs.send(job);
        }
    }
}

impl Storage for Directory {
    fn rotates(&self) -> bool {
        true
    }

    fn open(&mut self, stream: Stream, now: &Moment) -> io::Result<(String, Box<dyn Output>)> {
        for _ in 0..TRIES {
            self.sequence += 1;
            let stem = format!("{}-{}-{:04}", now.file_stamp(), std::process::id(), self.sequence);
            match create(&self.path.join(format!("{}-{stem}.jsonl", stream.name()))) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists || error.kind() == io::ErrorKind::WouldBlock => {}
                // Somebody cleared it away while we run.
                Err(error) if error.kind() == io::ErrorKind::NotFound => folder(&self.path)?,
                outcome => return outcome.map(|file| (stem, Box::new(Named(file)) as Box<dyn Output>)),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn open_side(&mut self, stem: &str) -> io::Result<(String, Box<dyn Output>)> {
        let name = format!("content-{stem}.bin");
        let file = private().append(true).create_new(true).open(self.path.join(&name))?;
        Ok((name, Box::new(Named(file))))
    }

    fn discard(&mut self, stream: Stream, stem: &str) {
        if stream == Stream::Events && self.path.join(format!("content-{stem}.bin")).exists() {
            // Records that wait to be written may point to it.
            return self.finished(stream, stem);
        }
        // An empty segment that cannot be removed is removed at the next start.
        let _ = fs::remove_file(self.path.join(format!("{}-{stem}.jsonl", stream.name())));
    }

    fn finished(&mut self, stream: Stream, stem: &str) {
        self.send(Job::Finish(stream, stem.to_owned()));
    }

    fn sweep(&mut self) {
        self.send(Job::Sweep);
    }

    fn count(&mut self, summary: &Summary) {
        if let Some(audit) = &self.audit {
            audit.count(summary);
        }
    }

    fn close(&mut self) {
        if let Some(audit) = self.audit.take() {
            audit.close();
        }
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported on stderr; the segments stay as they are.
            let _ = thread.join();
        }
    }
}

/// A file that has a name. Once somebody has removed it, what is written to it would be lost in silence.
pub(super) struct Named(pub(super) File);

impl Write for Named {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        if self.0.metadata()?.nlink() == 0 {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the file was removed while it was written"));
        }
        self.0.write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Output for Named {
    fn truncate(&mut self, octets: u64) -> io::Result<()> {
        self.0.set_len(octets)
    }
}

/// Options for a file that is nobody else's to read.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// Whether the lock of a segment could be had: nobody writes it, and nobody else looks after it.
pub(super) fn lock(file: &File) -> io::Result<()> {
    flock(file, FlockOperation::NonBlockingLockExclusive).map_err(io::Error::from)
}

/// Creates a segment and takes its lock, which is held while it is written.
///
/// Between the two, somebody who looks for segments of crashed processes may have taken it for one of them and removed it. And
/// a segment of that name may have been finished and compressed already: compressing this one would replace it.
fn create(path: &Path) -> io::Result<File> {
    let file = private().append(true).create_new(true).open(path)?;
    lock(&file)?;
    if path.with_extension("jsonl.zst").exists() {
        fs::remove_file(path)?;
        return Err(io::ErrorKind::WouldBlock.into());
    }
    let same = fs::metadata(path).is_ok_and(|found| file.metadata().is_ok_and(|own| own.ino() == found.ino()));
    if same { Ok(file) } else { Err(io::ErrorKind::WouldBlock.into()) }
}

fn prepare(path: &Path) -> Result<(), StoreError> {
    let failed = |action| move |source| StoreError::Directory { action, path: path.to_owned(), source };
    folder(path).map_err(failed("create the transcript directory"))?;
    check(path, &fs::metadata(path).map_err(failed("look at the transcript directory"))?)?;
    probe(path).map_err(failed("write to the transcript directory"))
}

pub(super) fn folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Who else could write here could change or plant what is read as a transcript.
fn check(path: &Path, metadata: &fs::Metadata) -> Result<(), StoreError> {
    let refused = |problem, hint| Err(StoreError::Unsafe { path: path.to_owned(), problem, hint });
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return refused("belongs to another user", "change its owner, or choose another place with `--transcript DIR`");
    }
    if metadata.mode() & 0o022 != 0 {
        return refused("may be written to by others", "`chmod 700` it, or choose another place with `--transcript DIR`");
    }
    if metadata.mode() & 0o055 != 0 {
        tracing::warn!(path = %path.display(), "others may look into the transcript directory; its files are for you alone, `chmod 700` hides their names too");
    }
    Ok(())
}

fn probe(path: &Path) -> io::Result<()> {
    let file = path.join(format!("probe-{}.draft", std::process::id()));
    let outcome = private().write(true).create(true).truncate(true).open(&file).map(drop);
    outcome.and_then(|()| fs::remove_file(&file))
}

/// Makes the key file unless it exists; whole at once, since another process may do the same.
fn make_key(file: &Path, key: &[u8; KEY_LENGTH]) -> io::Result<()> {
    if file.exists() {
        return Ok(());
    }
    let draft = file.with_extension(format!("{}.draft", std::process::id()));
    let written = private().write(true).create(true).truncate(true).open(&draft).and_then(|mut open| open.write_all(key));
    let linked = written.and_then(|()| fs::hard_link(&draft, file));
    fs::remove_file(&draft)?;
    linked.or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
}

fn read_key(file: &Path) -> io::Result<[u8; KEY_LENGTH]> {
    let mut key = [0; KEY_LENGTH];
    File::open(file)?.read_exact(&mut key).map(|()| key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_of_our_own() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("a/b");
        prepare(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        fs::set_permissions(temporary.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = prepare(temporary.path()).unwrap_err().to_string();
        assert!(error.contains("may be written to by others; hint: `chmod 700` it"), "{error}");
    }

    #[test]
    fn a_file_in_the_way() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = prepare(file.path()).unwrap_err().to_string();
        assert!(error.starts_with("cannot create the transcript directory"), "{error}");
    }

    #[test]
    fn the_key_is_made_once() {
        let temporary = tempfile::tempdir().unwrap();
        assert_eq!(key(temporary.path(), [1; KEY_LENGTH]).unwrap(), [1; KEY_LENGTH]);
        assert_eq!(key(temporary.path(), [2; KEY_LENGTH]).unwrap(), [1; KEY_LENGTH]);
        let metadata = fs::metadata(temporary.path().join(KEY_FILE)).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 1);
    }
}
