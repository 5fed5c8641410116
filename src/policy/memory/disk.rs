//! Where the file is: a directory of its own, or what a test puts in its place.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::MemoryError;

/// The file of marks.
const FILE: &str = "shield.marks";

/// The one that will replace it.
const DRAFT: &str = "shield.marks.new";

/// The lock of the directory. It has a file of its own, since the other one is replaced.
const LOCK: &str = "shield.lock";

/// Whose turn it is, where processes share the directory.
const TURN: &str = "shield.turn";

/// A file of marks that is open.
pub(super) trait Marks: Send {
    /// Its length in octets.
    fn length(&self) -> io::Result<u64>;
    /// Fills the buffer with what stands at `at`.
    fn read_at(&self, octets: &mut [u8], at: u64) -> io::Result<()>;
    /// Writes to its end. After an error a part may be there.
    fn append(&mut self, octets: &[u8]) -> io::Result<()>;
    /// Cuts it back.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
    /// Waits until octets and length are on the disk.
    fn sync_data(&mut self) -> io::Result<()>;
    /// Waits until all about it is on the disk.
    fn sync_all(&mut self) -> io::Result<()>;
    /// Whether somebody has removed it: what is written to it would be lost in silence.
    fn is_removed(&self) -> io::Result<bool>;
}

/// Holds the file of marks and its successor.
pub(super) trait Disk: Send {
    /// The path of the file, for messages.
    fn file(&self) -> &Path;
    /// Opens the file, if there is one.
    fn open(&mut self) -> io::Result<Option<Box<dyn Marks>>>;
    /// Makes an empty successor, in place of one that is there already.
    fn draft(&mut self) -> io::Result<Box<dyn Marks>>;
    /// Removes the successor.
    fn discard(&mut self) -> io::Result<()>;
    /// Gives the successor the file's name.
    fn replace(&mut self) -> io::Result<()>;
    /// Waits until the names are on the disk.
    fn sync(&mut self) -> io::Result<()>;
    /// Lets in those who are to share it. From now on everybody takes turns.
    fn share(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// Waits for the turn, where there are others. Nobody else reads or writes while it is held.
    fn turn(&self) -> io::Result<Turn> {
        Ok(Turn(None))
    }
    /// The turn, if nobody has it.
    fn free_turn(&self) -> io::Result<Turn> {
        self.turn()
    }
}

/// Held while something is done with the file. Dropped, it is somebody else's turn.
pub(super) struct Turn(Option<File>);

impl Turn {
    /// Whether there are others who may have written since the last turn.
    pub(super) fn is_shared(&self) -> bool {
        self.0.is_some()
    }
}

/// Who may have a directory beside this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tenure {
    /// Nobody.
    Alone,
    /// The process that this one replaces, and those that will replace this one.
    Shared,
}

/// A directory that this process uses, alone or in turns with those that it replaces and that replace it.
pub(super) struct Directory {
    path: PathBuf,
    file: PathBuf,
    lock: File,
    tenure: Tenure,
}

impl Directory {
    /// Makes the directory if there is none, and takes its lock.
    pub(super) fn open(path: &Path, tenure: Tenure) -> Result<Self, MemoryError> {
        let failed = |action| move |source| MemoryError::Open { action, path: path.to_owned(), source };
        make(path).map_err(failed("create the shield's directory"))?;
        check(path, &fs::metadata(path).map_err(failed("look at the shield's directory"))?)?;
        let options = private().read(true).write(true).create(true).truncate(false).open(path.join(LOCK));
        let lock = options.map_err(failed("make a lock in the shield's directory"))?;
        match flock(&lock, tenure.lock()).map_err(io::Error::from) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(MemoryError::Held { path: path.to_owned() }),
            outcome => outcome.map_err(failed("lock the shield's directory")),
        }?;
        let mut directory = Self { path: path.to_owned(), file: path.join(FILE), lock, tenure };
        // A file that can be appended to, in a directory that it could not be replaced in, would fail much later.
        let probed = directory.turn().and_then(|_turn| directory.draft().and_then(|_| directory.discard()));
        probed.map(|()| directory).map_err(failed("write to the shield's directory"))
    }

    fn take_turn(&self, operation: FlockOperation) -> io::Result<Turn> {
        if self.tenure == Tenure::Alone {
            return Ok(Turn(None));
        }
        let path = self.path.join(TURN);
        loop {
            let file = private().read(true).write(true).create(true).truncate(false).open(&path)?;
            flock(&file, operation)?;
            // Somebody may have removed it meanwhile, and another process made it anew.
            if fs::metadata(&path).is_ok_and(|found| file.metadata().is_ok_and(|own| is_same(&found, &own))) {
                return Ok(Turn(Some(file)));
            }
        }
    }

    fn lock_is_ours(&self) -> io::Result<bool> {
        Ok(is_same(&fs::metadata(self.path.join(LOCK))?, &self.lock.metadata()?))
    }
}

impl Tenure {
    /// Whoever shares a directory keeps out those who want it for themselves.
    fn lock(self) -> FlockOperation {
        match self {
            Self::Alone => FlockOperation::NonBlockingLockExclusive,
            Self::Shared => FlockOperation::NonBlockingLockShared,
        }
    }
}

impl Disk for Directory {
    fn file(&self) -> &Path {
        &self.file
    }

    fn open(&mut self) -> io::Result<Option<Box<dyn Marks>>> {
        match private().read(true).append(true).open(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Ok(file) if !file.metadata()?.is_file() => Err(io::Error::other("it is no regular file")),
            outcome => outcome.map(|file| Some(Box::new(file) as Box<dyn Marks>)),
        }
    }

    fn draft(&mut self) -> io::Result<Box<dyn Marks>> {
        // Who has removed the lock may have let in another process, whose file this one would replace.
        if !self.lock_is_ours().unwrap_or(false) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "its lock was removed or replaced while it was held"));
        }
        let path = self.path.join(DRAFT);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Box::new(private().append(true).read(true).create_new(true).open(path)?))
    }

    fn discard(&mut self) -> io::Result<()> {
        fs::remove_file(self.path.join(DRAFT))
    }

    fn replace(&mut self) -> io::Result<()> {
        fs::rename(self.path.join(DRAFT), &self.file)
    }

    fn sync(&mut self) -> io::Result<()> {
        sync(&self.path)
    }

    fn share(&mut self) -> io::Result<()> {
        flock(&self.lock, Tenure::Shared.lock())?;
        self.tenure = Tenure::Shared;
        Ok(())
    }

    fn turn(&self) -> io::Result<Turn> {
        self.take_turn(FlockOperation::LockExclusive)
    }

    fn free_turn(&self) -> io::Result<Turn> {
        self.take_turn(FlockOperation::NonBlockingLockExclusive)
    }
}

impl Marks for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, octets: &mut [u8], at: u64) -> io::Result<()> {
        self.read_exact_at(octets, at)
    }

    fn append(&mut self, octets: &[u8]) -> io::Result<()> {
        self.write_all(octets)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn sync_all(&mut self) -> io::Result<()> {
        File::sync_all(self)
    }

    fn is_removed(&self) -> io::Result<bool> {
        Ok(self.metadata()?.nlink() == 0)
    }
}

fn is_same(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Options for a file that is nobody else's to read.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// Makes the directory and those above it that are missing, so that they are there after a crash too.
fn make(path: &Path) -> io::Result<()> {
    let missing: Vec<_> = path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    missing.iter().filter_map(|path| path.parent()).try_for_each(sync)
}

fn sync(directory: &Path) -> io::Result<()> {
    let here = directory.as_os_str().is_empty();
    File::open(if here { Path::new(".") } else { directory })?.sync_all()
}

/// Who else could write here could make messages vanish.
fn check(path: &Path, metadata: &fs::Metadata) -> Result<(), MemoryError> {
    let refused = |problem, hint| Err(MemoryError::Unsafe { path: path.to_owned(), problem, hint });
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return refused("belongs to another user", "change its owner, or choose another directory");
    }
    if metadata.mode() & 0o022 != 0 {
        return refused("may be written to by others", "`chmod 700` it, or choose another directory");
    }
    Ok(())
}
