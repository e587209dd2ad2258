//! The file that the memory's content is kept in: one tracker's at a time, and replaced as a whole or not at all. What is in
//! it is [`state`](super::state)'s business.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, BufWriter, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::state::StateError;

/// A file of which this tracker is the only user.
#[derive(Debug)]
pub(super) struct StateFile {
    /// Where it is, whatever links lead there: the lock is beside it, and it is not the link that is replaced.
    path: PathBuf,
    /// Locked for as long as it is open, which is no longer than the process lives, however it ends.
    _lock: File,
    /// Whether the lock's file was not there before, and is to go again.
    made_lock: bool,
}

impl StateFile {
    /// Takes hold of a file, which need not exist, nor its folder.
    pub(super) fn take(path: &Path) -> Result<Self, StateError> {
        let failed = |source| StateError::Io { path: path.into(), source };
        let real = real(path).map_err(failed)?;
        if real.is_dir() {
            return Err(StateError::Folder(path.into()));
        }
        // Beside it, as the file itself becomes another one each time that it is written.
        let beside = beside(&real, "lock");
        loop {
            let made = OpenOptions::new().create_new(true).write(true).open(&beside);
            let (lock, made_lock) = match made {
                Ok(lock) => (lock, true),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    (OpenOptions::new().create(true).truncate(false).write(true).open(&beside).map_err(failed)?, false)
                }
                Err(error) => return Err(failed(error)),
            };
            match lock.try_lock() {
                // Else whoever had it has removed it meanwhile: it would keep nobody out.
                Ok(()) if is_at(&lock, &beside) => return Ok(Self { path: real, _lock: lock, made_lock }),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(StateError::InUse(path.into())),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// `None` where there is none yet, or nothing in it, as `mktemp` makes one.
    pub(super) fn open(&self) -> io::Result<Option<File>> {
        match File::open(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(file) => Ok((file.metadata()?.len() > 0).then_some(file)),
        }
    }

    /// Puts what is written in the place of what there was, once all of it is on the disk.
    pub(super) fn replace(&self, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
        // What a process left that was killed while it wrote is written over.
        let temporary = beside(&self.path, "new");
        let whole = || {
            let mut file = BufWriter::new(File::create(&temporary)?);
            write(&mut file)?;
            file.into_inner()?.sync_all()?;
            fs::rename(&temporary, &self.path)
        };
        whole().inspect_err(|_| drop(fs::remove_file(&temporary)))?;
        File::open(folder(&self.path))?.sync_all()
    }
}

impl Drop for StateFile {
    fn drop(&mut self) {
        if self.made_lock {
            // While it is still locked, so that it is nobody else's. What is left behind does no harm.
            let _ = fs::remove_file(beside(&self.path, "lock"));
        }
    }
}

/// Whether an open file is the one at this path.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => identity(open) == identity(there),
        _ => false,
    }
}

/// The file that a path leads to, which need not exist. Its folder is made.
fn real(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_path_buf();
    loop {
        match fs::canonicalize(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            found => return found,
        }
        // A link that leads nowhere yet, or none. Links in a circle are another error above.
        let (folder, link) = (folder(&path), fs::read_link(&path));
        path = match link {
            Ok(target) => folder.join(target),
            Err(_) => {
                let name = path.file_name().ok_or(ErrorKind::InvalidFilename)?;
                fs::create_dir_all(folder)?;
                return Ok(fs::canonicalize(folder)?.join(name));
            }
        };
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(what);
    path.with_file_name(name)
}
