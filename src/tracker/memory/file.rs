//! The file that the memory's content is kept in: one tracker's at a time, and replaced as a whole or not at all. What is in
//! it is [`state`](super::state)'s business.

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind};
use std::path::{Path, PathBuf};

use super::state::StateError;
use crate::storage::lock::{Lock, LockError};

/// A file of which this tracker is the only user.
#[derive(Debug)]
pub(super) struct StateFile {
    /// Where it is, whatever links lead there: the lock is beside it, and it is not the link that is replaced.
    path: PathBuf,
    /// Beside it. Always there, until this is dropped.
    lock: Option<Lock>,
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
        match Lock::take(&beside) {
            Ok(lock) => Ok(Self { path: real, lock: Some(lock) }),
            Err(LockError::Held) => Err(StateError::InUse(path.into())),
            Err(LockError::Io(source)) => Err(failed(source)),
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
        // One that was there before is somebody else's to remove.
        if let Some(lock) = self.lock.take_if(|lock| lock.is_new()) {
            lock.remove();
        }
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
