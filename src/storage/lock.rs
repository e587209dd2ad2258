//! A file that keeps others out: whoever has it locked is the only one at work on what it stands beside.
//!
//! The system lets go of it with the process, however that ends. A file that is left behind does no harm.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file that is locked for as long as this lives.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    _file: File,
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
        loop {
            let (file, made) = match OpenOptions::new().create_new(true).write(true).open(path) {
                Ok(file) => (file, true),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    (OpenOptions::new().create(true).truncate(false).write(true).open(path)?, false)
                }
                Err(error) => return Err(error.into()),
            };
            match file.try_lock() {
                // Else whoever had it has removed it meanwhile: it would keep nobody out.
                Ok(()) if is_at(&file, path) => return Ok(Self { path: path.into(), _file: file, made }),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(LockError::Held),
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
        }
    }

    /// Whether there was no such file before.
    pub(crate) fn is_new(&self) -> bool {
        self.made
    }

    /// Removes the file, while nobody else has it, and lets go of it.
    pub(crate) fn remove(self) {
        let _ = fs::remove_file(&self.path);
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

#[cfg(test)]
mod tests {
    use super::{Lock, LockError};

    #[test]
    fn one_has_it_at_a_time_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let lock = Lock::take(&path).unwrap();
        assert!(lock.is_new());
        assert!(matches!(Lock::take(&path), Err(LockError::Held)));
        lock.remove();
        assert!(!path.exists());
        std::fs::write(&path, "left behind").unwrap();
        assert!(!Lock::take(&path).unwrap().is_new());
        assert!(!Lock::take(&path).unwrap().is_new(), "it goes with whoever had it");
    }

    #[test]
    fn a_file_that_is_removed_meanwhile_keeps_nobody_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let (taken, others) = (std::sync::atomic::AtomicU32::new(0), 4);
        std::thread::scope(|scope| {
            for _ in 0..others {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let Ok(lock) = Lock::take(&path) else { continue };
                        let before = taken.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        taken.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        lock.remove();
                        assert_eq!(before, 0, "two have it");
                    }
                });
            }
        });
    }
}
