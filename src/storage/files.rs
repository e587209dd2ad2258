//! Opening the torrent's files below the download folder, and keeping the few that are in use.
//!
//! It owns the way from a path of the torrent to a descriptor. It refuses to follow a link: each component below the
//! download folder is opened by itself with `O_NOFOLLOW`, so that neither a link made by another torrent nor one that
//! appears between a check and its use leads out of the folder. The download folder itself may be a link: it is the
//! user's choice.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::StorageError;

/// The download folder.
#[derive(Debug)]
pub(super) struct Root {
    folder: Arc<OwnedFd>,
    path: PathBuf,
}

/// How to open a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    /// An existing one, for reading.
    Read,
    /// An existing one, for reading and writing.
    Write,
    /// For reading and writing, made if missing, its folders too.
    Create,
}

/// What was found where a file belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Found {
    /// Length and time of the last change.
    pub(super) stamp: Stamp,
    /// Bytes of the disk that it occupies.
    pub(super) allocated: u64,
}

/// By what a change of a file is noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    /// Length in bytes.
    pub(crate) len: u64,
    /// Time of the last change of its contents, in nanoseconds since 1970.
    pub(crate) mtime: i64,
}

impl Root {
    /// Opens the folder, made if missing when `create` is set.
    pub(super) fn open(path: &Path, create: bool) -> Result<Self, StorageError> {
        if create {
            std::fs::create_dir_all(path).map_err(|error| match error.kind() {
                ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
                    StorageError::NotPlain { path: path.to_path_buf(), wanted: "folder" }
                }
                ErrorKind::NotFound => StorageError::NoFolder { path: path.to_path_buf() },
                _ => StorageError::new(path, 0, error),
            })?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
            Ok(folder) => Ok(Self { folder: Arc::new(folder), path: path.to_path_buf() }),
            Err(Errno::NOTDIR) => Err(StorageError::NotPlain { path: path.to_path_buf(), wanted: "folder" }),
            Err(error) => Err(StorageError::new(path, 0, error.into())),
        }
    }

    /// The folder's descriptor.
    pub(super) fn folder(&self) -> &OwnedFd {
        &self.folder
    }

    /// The folder's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file of the torrent.
    pub(super) fn file(&self, path: &Path, access: Access) -> Result<File, StorageError> {
        Walk::new(self).file(path, access)
    }

    /// Removes a file of the torrent, if it is there and a plain file.
    pub(super) fn remove_file(&self, path: &Path) -> Result<(), StorageError> {
        let mut walk = Walk::new(self);
        if matches!(walk.find(path), Ok(Some(_))) {
            let (folder, name) = walk.parent(path, false)?;
            ignore_missing(rustix::fs::unlinkat(&*folder, name, AtFlags::empty()))
                .map_err(|error| StorageError::new(&self.path.join(path), 0, error.into()))?;
        }
        Ok(())
    }

    /// Removes a folder of the torrent, if it is there and empty.
    pub(super) fn remove_folder(&self, path: &Path) {
        if let Ok((folder, name)) = Walk::new(self).parent(path, false) {
            let _ = rustix::fs::unlinkat(&*folder, name, AtFlags::REMOVEDIR);
        }
    }

    /// Makes the entries of a folder (`""`: the download folder) durable.
    pub(super) fn sync_folder(&self, path: &Path) -> Result<(), StorageError> {
        let folder = Walk::new(self).folder(path, false)?;
        rustix::fs::fsync(&*folder).map_err(|error| StorageError::new(&self.path.join(path), 0, error.into()))
    }
}

/// A way through many files in the torrent's order, which remembers the last folder: neighbours share it.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    root: &'a Root,
    last: Option<(PathBuf, Arc<OwnedFd>)>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(root: &'a Root) -> Self {
        Self { root, last: None }
    }

    /// As [`Root::file`].
    pub(super) fn file(&mut self, path: &Path, access: Access) -> Result<File, StorageError> {
        let (folder, name) = self.parent(path, access == Access::Create)?;
        let full = || self.root.path.join(path);
        // NONBLOCK, so that a pipe in the file's place does not hang us; it means nothing for plain files.
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let flags = flags
            | match access {
                Access::Read => OFlags::RDONLY,
                Access::Write => OFlags::RDWR,
                Access::Create => OFlags::RDWR | OFlags::CREATE,
            };
        let file =
            rustix::fs::openat(&*folder, name, flags, Mode::from_raw_mode(0o666)).map_err(|error| match error {
                Errno::LOOP | Errno::ISDIR | Errno::NXIO => StorageError::NotPlain { path: full(), wanted: "file" },
                error => StorageError::new(&full(), 0, error.into()),
            })?;
        let stat = rustix::fs::fstat(&file).map_err(|error| StorageError::new(&full(), 0, error.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(StorageError::NotPlain { path: full(), wanted: "file" });
        }
        Ok(File::from(file))
    }

    /// As [`Root::find`].
    pub(super) fn find(&mut self, path: &Path) -> Result<Option<Found>, StorageError> {
        let (folder, name) = match self.parent(path, false) {
            Err(StorageError::Missing { .. }) => return Ok(None),
            other => other?,
        };
        match rustix::fs::statat(&*folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => Ok(Some(Found::new(&stat))),
            Ok(_) => Err(StorageError::NotPlain { path: self.root.path.join(path), wanted: "file" }),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(StorageError::new(&self.root.path.join(path), 0, error.into())),
        }
    }

    /// The folder that holds `path`, and the last component.
    fn parent<'p>(&mut self, path: &'p Path, create: bool) -> Result<(Arc<OwnedFd>, &'p OsStr), StorageError> {
        let not_plain = || StorageError::NotPlain { path: self.root.path.join(path), wanted: "file" };
        let name = path.file_name().ok_or_else(not_plain)?;
        let folder = self.folder(path.parent().unwrap_or(Path::new("")), create)?;
        Ok((folder, name))
    }

    /// A folder of the torrent, component by component.
    fn folder(&mut self, path: &Path, create: bool) -> Result<Arc<OwnedFd>, StorageError> {
        if let Some((_, folder)) = self.last.as_ref().filter(|(last, _)| last == path) {
            return Ok(folder.clone());
        }
        let mut folder = self.root.folder.clone();
        let mut so_far = self.root.path.clone();
        for component in path.components() {
            so_far.push(component);
            // The metainfo lets only plain names through; were that to break, nothing is opened here.
            let Component::Normal(name) = component else {
                return Err(StorageError::NotPlain { path: so_far, wanted: "folder" });
            };
            folder = Arc::new(open_folder(&folder, name, create).map_err(|error| match error {
                Errno::LOOP | Errno::NOTDIR => StorageError::NotPlain { path: so_far.clone(), wanted: "folder" },
                error => StorageError::new(&so_far, 0, error.into()),
            })?);
        }
        self.last = Some((path.to_path_buf(), folder.clone()));
        Ok(folder)
    }
}

impl Found {
    #[allow(clippy::unnecessary_cast, reason = "the fields' types differ between platforms")]
    fn new(stat: &Stat) -> Self {
        Self { stamp: Stamp::new(stat), allocated: (stat.st_blocks as u64).saturating_mul(512) }
    }
}

impl Stamp {
    #[allow(clippy::unnecessary_cast, reason = "the fields' types differ between platforms")]
    fn new(stat: &Stat) -> Self {
        let mtime = (stat.st_mtime as i64).saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec as i64);
        Self { len: u64::try_from(stat.st_size).unwrap_or(0), mtime }
    }

    /// The stamp of an open file.
    pub(super) fn of(file: &File) -> std::io::Result<Self> {
        Ok(Self::new(&rustix::fs::fstat(file)?))
    }
}

/// The things used last, by number, at most so many.
#[derive(Debug)]
pub(super) struct Recent<T> {
    entries: HashMap<u32, (Arc<T>, u64)>,
    clock: u64,
    most: usize,
}

impl<T> Recent<T> {
    pub(super) fn new(most: usize) -> Self {
        Self { entries: HashMap::new(), clock: 0, most: most.max(1) }
    }

    pub(super) fn get(&mut self, key: u32) -> Option<Arc<T>> {
        self.clock += 1;
        let (value, used) = self.entries.get_mut(&key)?;
        *used = self.clock;
        Some(value.clone())
    }

    /// Keeps `value`, unless another thread was faster, whose is then the one to use. Gives back what had to go, to be
    /// dropped when no lock is held.
    pub(super) fn keep(&mut self, key: u32, value: T) -> (Arc<T>, Option<Arc<T>>) {
        if let Some(there) = self.get(key) {
            return (there, Some(Arc::new(value)));
        }
        let full = self.entries.len() >= self.most;
        let oldest = || self.entries.iter().min_by_key(|(_, (_, used))| *used).map(|(&key, _)| key);
        let gone = full.then(oldest).flatten().and_then(|key| self.entries.remove(&key)).map(|(value, _)| value);
        let value = Arc::new(value);
        self.entries.insert(key, (value.clone(), self.clock));
        (value, gone)
    }

    pub(super) fn forget(&mut self, key: u32) -> Option<Arc<T>> {
        self.entries.remove(&key).map(|(value, _)| value)
    }

    pub(super) fn forget_all(&mut self) {
        self.entries.clear();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

fn open_folder(parent: &OwnedFd, name: &OsStr, create: bool) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Err(Errno::NOENT) if create => {
            match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            rustix::fs::openat(parent, name, flags, Mode::empty())
        }
        other => other,
    }
}

fn ignore_missing(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::{Access, Recent, Root};
    use crate::storage::StorageError;

    #[test]
    fn no_link_below_the_download_folder_is_followed() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(outside.path(), dir.path().join("folder")).unwrap();
        symlink(outside.path().join("target"), dir.path().join("file")).unwrap();
        std::fs::create_dir(dir.path().join("dir")).unwrap();
        let root = Root::open(dir.path(), false).unwrap();
        for path in ["folder/x", "folder/sub/x", "file", "dir", "../x", "file/x", "/etc/x"] {
            for access in [Access::Create, Access::Write, Access::Read] {
                let result = root.file(Path::new(path), access);
                assert!(matches!(result, Err(StorageError::NotPlain { .. })), "{path}: {result:?}");
            }
        }
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        rustix::fs::mknodat(
            root.folder(),
            "pipe",
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(matches!(root.file(Path::new("pipe"), Access::Write), Err(StorageError::NotPlain { .. })));
        assert!(matches!(root.file(Path::new("none"), Access::Write), Err(StorageError::Missing { .. })));
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut recent = Recent::new(2);
        recent.keep(1, "one");
        recent.keep(2, "two");
        recent.get(1);
        let (_, gone) = recent.keep(3, "three");
        assert_eq!(gone.as_deref(), Some(&"two"));
        assert!(recent.get(2).is_none() && recent.get(1).is_some() && recent.len() == 2);
    }
}
