//! The files of a torrent: verified pieces in, slices for uploads and bytes for readers out.
//!
//! It owns where each file's bytes are (a mapping, a plain file, or the parts file beside the journal) and what has
//! reached the disk. It refuses bytes that did not pass their hash: only a [`VerifiedPiece`] can be stored. Padding
//! (BEP 47) is never written and reads as zeros.
//!
//! - [`map`]: the mapping of one large file, the SIGBUS guard, what only Linux has; all `unsafe` is there.
//! - [`files`]: opening below the download folder without following links; the few descriptors in use.
//! - [`parts`]: bytes of skipped files that wanted pieces brought along.
//! - [`lent`]: bytes on their way to a socket.
//! - [`writeback`]: the way of stored bytes to the disk.
//! - [`lock`]: one at a time.
//! - [`resume`]: the journal that makes a restart quick.
//! - [`check`]: hashing what is there, with every core.
//!
//! Files below [`MAPPED_FROM`] are made when their first bytes arrive and go through pwrite and pread; larger ones are
//! allocated when the storage is opened (on a disk: in memory that would take the memory) and mapped while in use: uploads
//! are sent from the mapping. Pieces reach its pages by pwritev, unless told otherwise: a store through the mapping was
//! measured to cost the kernel one and a half times as much in memory and five times as much on ext4. Such a store is: make
//! the pages present (`MADV_POPULATE_WRITE`, whose result is checked), copy, let the pages go (`MADV_DONTNEED`). Either way
//! resident memory stays flat and a full disk or a file that was cut off is an error, not a signal.

pub(crate) mod check;
mod error;
mod files;
mod lent;
pub(crate) mod lock;
mod map;
mod parts;
pub(crate) mod resume;
#[cfg(test)]
mod tests;
mod transfer;
mod writeback;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use parking_lot::Mutex;

use crate::hash::VerifiedPiece;
use crate::metainfo::{FileIndex, Layout};

pub use self::error::StorageError;
pub(crate) use self::files::Stamp;
use self::files::{Access, Found, Recent, Root, Walk};
use self::lent::Ledger;
pub(crate) use self::lent::Lent;
use self::map::Map;
use self::parts::Parts;
use self::writeback::Writeback;

/// The length from which a file is mapped, in bytes; a map costs more than it saves below, and there are only so many.
const MAPPED_FROM: u64 = 640 * 1024;

/// How many files of one torrent are mapped at a time.
const MOST_MAPS: usize = 256;

/// How a torrent's files are kept.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Where the parts file goes; made when first needed.
    pub(crate) state_dir: PathBuf,
    /// What names the parts file (`NAME.parts`): the info-hash in hexadecimal digits.
    pub(crate) name: String,
    /// Which files are wanted, by number; those past the end are. Others are not created.
    pub(crate) wanted: Vec<bool>,
    /// Only read what is there (seeding, verifying): nothing is created, extended or written.
    pub(crate) read_only: bool,
    /// How bytes reach the files.
    pub(crate) way: Way,
    /// How many descriptors are held at a time.
    pub(crate) max_open_files: usize,
}

/// How bytes reach the files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Way {
    /// Stored by pwritev and lent from mappings where the system can.
    #[default]
    Written,
    /// Stored and lent through mappings where the system can.
    Mapped,
    /// As on systems that lack what Linux has: `set_len`, pwrite and pread.
    PortableOnly,
}

/// The files of one torrent. Shared: verify workers store, uploads and readers read, the owner of the torrent does the
/// rest. No call changes which pieces count as verified; that is the owner's.
#[derive(Debug)]
pub(crate) struct Storage {
    layout: Arc<Layout>,
    root: Root,
    read_only: bool,
    way: Way,
    /// There is no disk behind the folder.
    in_memory: bool,
    files: Box<[FileState]>,
    /// What was there before anything was made, for the resume journal.
    found: Stamps,
    /// The parts file, and with it the right to change any `FileState::place`. The one lock that is held across I/O:
    /// making a file, keeping bytes aside and moving them must exclude each other, and all three are rare.
    parts: Mutex<Parts>,
    /// Descriptors in use. Any thread; not held while opening.
    open: Mutex<Recent<File>>,
    /// Mappings in use. Any thread; not held while mapping.
    maps: Mutex<Recent<Map>>,
    /// What the journal has not looked at yet. Filled by the workers, emptied by the store thread.
    changed: Mutex<Changed>,
    /// What is not on the disk yet.
    writeback: Writeback,
    ledger: Arc<Ledger>,
}

/// Lengths and times of a torrent's files, as the journal records them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamps {
    /// By file; `None` where there is none.
    pub(crate) files: Vec<Option<Stamp>>,
    /// Of the parts file.
    pub(crate) parts: Option<Stamp>,
}

/// What is known of one file. Read by any thread, changed under the lock of `Storage::parts`.
#[derive(Debug)]
struct FileState {
    place: AtomicU8,
    /// It has been given its full length, so that a shorter one was cut off by someone.
    full: AtomicBool,
    /// Not to be mapped: its file system cannot allocate, or its pages cannot be populated.
    portable: AtomicBool,
}

/// Where the bytes of a file are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Place {
    /// It has none: padding, or no bytes.
    Nowhere,
    /// In the file.
    Here,
    /// In the file, which is made when the first of them arrive.
    Later,
    /// In the parts file.
    Aside,
}

/// What changed since the last record of the journal.
#[derive(Debug, Default)]
struct Changed {
    /// Files to look at again.
    restamp: BTreeSet<u32>,
    /// The journal's stamps as of last time.
    stamps: Stamps,
}

impl Storage {
    /// Opens the files of a torrent in the folder `root`: looks at what is there, makes sure that there is room for what
    /// is missing, then makes empty files and large ones, allocated on a disk. A file that is longer than the torrent says, or not
    /// a plain file, is an error and left alone.
    pub(crate) fn open(layout: Arc<Layout>, root: &Path, options: Options) -> Result<Self, StorageError> {
        let Options { state_dir, name, wanted, read_only, way, max_open_files } = options;
        let root = Root::open(root, !read_only)?;
        let in_memory = map::in_memory(root.folder());
        let mut parts = Parts::new(&state_dir, &name, read_only);
        let wanted = |file: FileIndex| wanted.get(file.get() as usize).copied().unwrap_or(true);

        let mut found = Vec::with_capacity(layout.files().len());
        let mut walk = Walk::new(&root);
        for file in layout.file_indices() {
            let there = if layout.file(file).is_padding() { None } else { walk.find(layout.file(file).path())? };
            let expected = layout.file(file).len();
            if let Some(there) = there.filter(|there| there.stamp.len > expected && !read_only) {
                let path = root.path().join(layout.file(file).path());
                return Err(StorageError::TooLong { path, len: there.stamp.len, expected });
            }
            found.push(there);
        }
        let stamps =
            Stamps { files: found.iter().map(|there| there.map(|there| there.stamp)).collect(), parts: parts.stamp() };

        let files = layout.file_indices().zip(&found).map(|(file, there)| {
            let entry = layout.file(file);
            let place = match there {
                _ if entry.is_padding() || entry.is_empty() => Place::Nowhere,
                Some(_) => Place::Here,
                None if !wanted(file) => Place::Aside,
                None if read_only => Place::Here,
                None => Place::Later,
            };
            FileState {
                place: AtomicU8::new(place as u8),
                full: AtomicBool::new(there.is_some_and(|there| there.stamp.len >= entry.len())),
                portable: AtomicBool::new(way == Way::PortableOnly || entry.len() < MAPPED_FROM),
            }
        });
        let storage = Self {
            files: files.collect(),
            open: Mutex::new(Recent::new(max_open_files)),
            maps: Mutex::new(Recent::new(MOST_MAPS)),
            changed: Mutex::new(Changed { stamps: stamps.clone(), ..Changed::default() }),
            writeback: Writeback::default(),
            ledger: Arc::default(),
            parts: Mutex::new(parts),
            found: stamps,
            layout,
            root,
            read_only,
            way,
            in_memory,
        };
        if !read_only {
            storage.prepare(&found, wanted)?;
        }
        Ok(storage)
    }

    /// The storage of somebody who only looks at a swarm: there is no file, whatever is on the disk, and none is made.
    pub(crate) fn of_nothing(layout: Arc<Layout>) -> Result<Self, StorageError> {
        let nowhere = || FileState {
            place: AtomicU8::new(Place::Nowhere as u8),
            full: AtomicBool::new(false),
            portable: AtomicBool::new(true),
        };
        let root = Path::new("/");
        Ok(Self {
            files: layout.files().iter().map(|_| nowhere()).collect(),
            open: Mutex::new(Recent::new(1)),
            maps: Mutex::new(Recent::new(1)),
            changed: Mutex::default(),
            writeback: Writeback::default(),
            ledger: Arc::default(),
            parts: Mutex::new(Parts::new(root, "", true)),
            found: Stamps { files: vec![None; layout.files().len()], parts: None },
            root: Root::open(root, false)?,
            read_only: true,
            way: Way::PortableOnly,
            in_memory: false,
            layout,
        })
    }

    /// The torrent's layout.
    pub(crate) fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// What was there when the storage was opened, before it made anything.
    pub(crate) fn found(&self) -> &Stamps {
        &self.found
    }

    /// The full path of a file.
    pub(crate) fn path(&self, file: FileIndex) -> PathBuf {
        self.root.path().join(self.layout.file(file).path())
    }

    /// What is at a file's path now, if anything.
    #[cfg(test)]
    fn stamp(&self, file: FileIndex) -> Result<Option<Stamp>, StorageError> {
        Ok(Walk::new(&self.root).find(self.layout.file(file).path())?.map(|there| there.stamp))
    }

    /// Lengths and times of all files now, for the journal. Looks only at those written since the last call.
    pub(crate) fn stamps(&self) -> Result<Stamps, StorageError> {
        let files = std::mem::take(&mut self.changed.lock().restamp);
        let mut walk = Walk::new(&self.root);
        let mut fresh = Vec::with_capacity(files.len());
        for &file in &files {
            match walk.find(self.layout.files()[file as usize].path()) {
                Ok(there) => fresh.push((file, there.map(|there| there.stamp))),
                Err(error) => {
                    self.changed.lock().restamp.extend(files);
                    return Err(error);
                }
            }
        }
        let parts = self.parts.lock().stamp();
        let mut changed = self.changed.lock();
        for (file, stamp) in fresh {
            changed.stamps.files[file as usize] = stamp;
        }
        changed.stamps.parts = parts;
        Ok(changed.stamps.clone())
    }

    /// Bytes that are free where the files are.
    pub(crate) fn free_space(&self) -> Result<u64, StorageError> {
        match rustix::fs::fstatvfs(self.root.folder()) {
            Ok(space) => Ok(space.f_bavail.saturating_mul(space.f_frsize)),
            Err(error) => Err(StorageError::new(self.root.path(), 0, error.into())),
        }
    }

    /// Says whether a file is wanted. One that becomes wanted is made and gets its bytes from the parts file; one that
    /// is no longer wanted stays as it is, or is never made.
    pub(crate) fn set_wanted(&self, file: FileIndex, wanted: bool) -> Result<(), StorageError> {
        if self.read_only {
            return Ok(());
        }
        let mut parts = self.parts.lock();
        match self.place(file) {
            Place::Later if !wanted => self.put(file, Place::Aside),
            Place::Aside if wanted => {
                self.need(self.layout.file(file).len())?;
                self.make(file, &mut Walk::new(&self.root))?;
                self.move_in(file, &mut parts)?;
                self.put(file, Place::Here);
            }
            Place::Here if wanted && !self.state(file).full.load(Ordering::Relaxed) => {
                self.make(file, &mut Walk::new(&self.root))?;
            }
            Place::Nowhere if wanted && self.is_made_empty(file) => self.make(file, &mut Walk::new(&self.root))?,
            _ => {}
        }
        Ok(())
    }

    /// To be called when a file is complete: makes it executable if the metainfo says so (BEP 47 attribute `x`), for
    /// those who may read it.
    pub(crate) fn finish_file(&self, file: FileIndex) -> Result<(), StorageError> {
        if !self.layout.file(file).attributes().executable || self.read_only || self.layout.file(file).is_padding() {
            return Ok(());
        }
        let made = self.root.file(self.layout.file(file).path(), Access::Read)?;
        let change = || {
            let mode = made.metadata()?.permissions().mode();
            made.set_permissions(PermissionsExt::from_mode(mode | (mode & 0o444) >> 2))
        };
        change().map_err(|error| StorageError::new(&self.path(file), 0, error))
    }

    /// Removes the parts file alone.
    pub(crate) fn remove_parts(&self) -> Result<(), StorageError> {
        self.parts.lock().remove()
    }

    /// Removes the torrent's files, those of its folders that are then empty, and the parts file; nothing else. Nothing
    /// can be stored or read afterwards.
    pub(crate) fn remove_files(&self) -> Result<(), StorageError> {
        let mut parts = self.parts.lock();
        self.maps.lock().forget_all();
        self.open.lock().forget_all();
        let mut folders = BTreeSet::new();
        let mut result = parts.remove();
        for file in self.layout.files().iter().filter(|file| !file.is_padding()) {
            result = result.and(self.root.remove_file(file.path()));
            folders.extend(ancestors(file.path()));
        }
        // A folder sorts before what is in it.
        for folder in folders.iter().rev().filter(|folder| !folder.as_os_str().is_empty()) {
            self.root.remove_folder(folder);
        }
        *self.changed.lock() = Changed::default();
        self.writeback.forget();
        result
    }

    /// Makes what has to be there from the start: empty files, large ones, and the rest of those that are too short.
    fn prepare(&self, found: &[Option<Found>], wanted: impl Fn(FileIndex) -> bool) -> Result<(), StorageError> {
        let wanted = || self.layout.file_indices().filter(|&file| wanted(file) && !self.layout.file(file).is_padding());
        let missing = |file: FileIndex| {
            let len = self.layout.file(file).len();
            let there = found[file.get() as usize].map_or(0, |there| match len >= MAPPED_FROM {
                true => there.allocated,
                false => there.stamp.len,
            });
            len.saturating_sub(there)
        };
        self.need(wanted().map(missing).fold(0, u64::saturating_add))?;

        let mut parts = self.parts.lock();
        let kept_aside = parts.exists();
        let mut walk = Walk::new(&self.root);
        for file in wanted() {
            let len = self.layout.file(file).len();
            let make = match found[file.get() as usize] {
                None if len == 0 => self.is_made_empty(file),
                None => len >= MAPPED_FROM || kept_aside,
                Some(there) => {
                    there.stamp.len < len
                        || (len >= MAPPED_FROM && self.way != Way::PortableOnly && there.allocated < len)
                }
            };
            if make {
                self.make(file, &mut walk)?;
            }
            if make && len > 0 && found[file.get() as usize].is_none() {
                self.move_in(file, &mut parts)?;
                self.put(file, Place::Here);
            }
        }
        Ok(())
    }

    /// An error unless so many bytes are free.
    fn need(&self, needed: u64) -> Result<(), StorageError> {
        let available = if needed > 0 { self.free_space()? } else { 0 };
        match needed > available {
            true => Err(StorageError::NotEnoughSpace { path: self.root.path().to_path_buf(), needed, available }),
            false => Ok(()),
        }
    }

    /// Makes a file and its folders, and gives it its full length: allocated where it will be mapped. That takes a moment on a
    /// disk; in memory each page of it would be work, and gone for others before it is needed.
    fn make(&self, index: FileIndex, walk: &mut Walk<'_>) -> Result<(), StorageError> {
        let (entry, state) = (self.layout.file(index), self.state(index));
        let file = walk.file(entry.path(), Access::Create)?;
        let allocate = || {
            if !map::in_memory(&file) && !state.portable.load(Ordering::Relaxed) {
                if map::allocate(&file, entry.len())? {
                    return Ok(());
                }
                log::info!("{:?}: cannot be allocated here, goes by pwrite", entry.path());
                state.portable.store(true, Ordering::Relaxed);
            }
            match Stamp::of(&file)?.len < entry.len() {
                true => file.set_len(entry.len()),
                false => Ok(()),
            }
        };
        allocate().map_err(|error| StorageError::new(&self.path(index), entry.len(), error))?;
        state.full.store(true, Ordering::Relaxed);
        self.changed.lock().restamp.insert(index.get());
        self.writeback.note_made(index.get(), ancestors(entry.path()));
        Ok(())
    }

    /// Moves what the parts file has of a file into it. Only its first and last piece can reach into another file, so
    /// only they can have brought something along.
    fn move_in(&self, file: FileIndex, parts: &mut Parts) -> Result<(), StorageError> {
        let entry = self.layout.file(file);
        let pieces = self.layout.pieces_of(file);
        let ends = [Some(pieces.start), pieces.end.checked_sub(1).filter(|&last| last != pieces.start)];
        if pieces.is_empty() || !parts.exists() {
            return Ok(());
        }
        let to = self.descriptor(file)?;
        for piece in ends.into_iter().flatten().filter_map(|piece| self.layout.piece(piece)) {
            let start = self.layout.piece_offset(piece);
            let end = start + u64::from(self.layout.piece_len(piece));
            let range = start.max(entry.offset())..end.min(entry.offset() + entry.len());
            parts.each(range, |offset, bytes| {
                std::os::unix::fs::FileExt::write_all_at(&*to, bytes, offset - entry.offset())
                    .map_err(|error| StorageError::new(&self.path(file), bytes.len() as u64, error))
            })?;
        }
        Ok(())
    }

    /// Whether this is a file without bytes that is to be created. Links (BEP 47) are not: untrusted metainfo does not
    /// get to make them.
    fn is_made_empty(&self, file: FileIndex) -> bool {
        let entry = self.layout.file(file);
        entry.is_empty() && !entry.is_padding() && !entry.attributes().symlink
    }

    fn state(&self, file: FileIndex) -> &FileState {
        &self.files[file.get() as usize]
    }

    fn place(&self, file: FileIndex) -> Place {
        match self.state(file).place.load(Ordering::Acquire) {
            place if place == Place::Here as u8 => Place::Here,
            place if place == Place::Later as u8 => Place::Later,
            place if place == Place::Aside as u8 => Place::Aside,
            _ => Place::Nowhere,
        }
    }

    /// Only with `parts` locked.
    fn put(&self, file: FileIndex, place: Place) {
        self.state(file).place.store(place as u8, Ordering::Release);
    }
}

/// The folders that hold `path`, up to the download folder (`""`).
fn ancestors(path: &Path) -> impl Iterator<Item = PathBuf> + '_ {
    path.ancestors().skip(1).map(Path::to_path_buf)
}
