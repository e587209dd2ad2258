//! A file that keeps others out: whoever has it locked is the only one at work on what it stands beside.
//!
//! It owns the file, and refuses to wait for it. The system lets go of the lock with the process, however that ends; a file
//! that is left behind does no harm.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How often it is tried again where whoever had the file removed it meanwhile. More in a row would be no such accident.
const TRIES: u32 = 100;

/// A file that is locked for as long as this lives.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    file: File,
    made: bool,
}

/// Why it is not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Somebody has it.
    #[error("it is locked by somebody else")]
    Held,
    /// It cannot be opened, or its file system knows no locks.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Lock {
    /// Locks a file, which need not exist, in a folder that must.
    pub(crate) fn take(path: &Path) -> Result<Self, LockError> {
        for _ in 0..TRIES {
            let (file, made) = match open(path) {
                // Removed between two looks.
                Err(error) if error.kind() == ErrorKind::NotFound && path.parent().is_some_and(Path::exists) => {
                    continue;
                }
                opened => opened?,
            };
            match file.try_lock() {
                Ok(()) if is_at(&file, path) => return Ok(Self { path: path.into(), file, made }),
                // Whoever had it has removed it meanwhile: it would keep nobody out.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(LockError::Held),
                Err(TryLockError::Error(error)) => {
                    if made {
                        let _ = fs::remove_file(path);
                    }
                    return Err(error.into());
                }
            }
        }
        Err(io::Error::other("it is another file each time that it is looked at").into())
    }

    /// Whether there was no such file before.
    pub(crate) fn is_new(&self) -> bool {
        self.made
    }

    /// Removes the file, while nobody else has it, and lets go of it.
    pub(crate) fn remove(self) {
        // Where somebody has removed it before, what is there by now is somebody else's.
        if is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Opens the file, and says whether it was made.
fn open(path: &Path) -> io::Result<(File, bool)> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(file) => return Ok((file, true)),
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        Err(_) => {}
    }
    let existing = |options: &mut OpenOptions| options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    match existing(OpenOptions::new().write(true)) {
        // Another user's: what may be read can be locked, but for network file systems.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => existing(OpenOptions::new().read(true)),
        opened => opened,
    }
    .map(|file| (file, false))
}

/// Whether an open file is the one at this path.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(there)) => identity(open) == identity(there),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::{Lock, LockError, is_at, open};

    #[test]
    fn one_has_it_at_a_time_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let lock = Lock::take(&path).unwrap();
        assert!(lock.is_new());
        assert!(matches!(Lock::take(&path), Err(LockError::Held)));
        lock.remove();
        assert!(!path.exists());
        fs::write(&path, "left behind").unwrap();
        assert!(!Lock::take(&path).unwrap().is_new());
        assert!(!Lock::take(&path).unwrap().is_new(), "it goes with whoever had it");
    }

    #[test]
    fn a_file_that_was_removed_while_it_was_opened_is_not_taken_for_the_one_that_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let lock = Lock::take(&path).unwrap();
        let (waiting, _) = open(&path).unwrap();
        lock.remove();
        waiting.try_lock().unwrap();
        assert!(!is_at(&waiting, &path));
        let next = Lock::take(&path).unwrap();
        assert!(!is_at(&waiting, &path) && is_at(&next.file, &path));
    }

    #[test]
    fn of_many_at_once_one_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let (holders, turns) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while turns.load(Ordering::SeqCst) < 200 {
                        let Ok(lock) = Lock::take(&path) else { continue };
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two have it");
                        std::thread::yield_now();
                        holders.fetch_sub(1, Ordering::SeqCst);
                        turns.fetch_add(1, Ordering::SeqCst);
                        lock.remove();
                    }
                });
            }
        });
    }

    #[test]
    fn the_end_of_one_whose_file_was_removed_leaves_the_next_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let first = Lock::take(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = Lock::take(&path).unwrap();
        first.remove();
        assert!(path.exists());
        assert!(matches!(Lock::take(&path), Err(LockError::Held)));
        second.remove();
    }

    #[test]
    fn what_is_no_file_is_an_error_and_nobody_waits_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        assert!(matches!(Lock::take(&folder.path().join("none/x.lock")), Err(LockError::Io(_))));
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &path).unwrap();
        assert!(matches!(Lock::take(&path), Err(LockError::Io(_))));
        assert!(!folder.path().join("elsewhere").exists());
        fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
        assert!(matches!(Lock::take(&path), Err(LockError::Io(_))));
    }
}
