//! The resume journal: what was verified, so that a restart need not hash it again.
//!
//! It owns the file `NAME.resume` and the decision whom to trust. It refuses whatever does not decode to the last byte
//! with the right checksum for this very torrent: then everything is checked.
//!
//! ```text
//! "ropewalk-resume\n"  version u8  info-hash [20]  boot id [16]  clean u8
//! recorded_at i64 (ns since 1970)  window u64 (ns)  uploaded u64  downloaded u64
//! pieces u32, verified bits, durable bits
//! files u32, a priority u8 each
//! stamps u32, (file u32 ascending, len u64, mtime i64) each; parts u8 (0, 1), then len u64, mtime i64
//! SHA-1 of all that [20]                                                          all numbers big-endian
//! ```
//!
//! Who writes when: an *unclean* journal before the first piece is stored, then one every few seconds while pieces
//! arrive, and a *clean* one when nothing stores any more. A piece is in `verified` once it is stored and in `durable`
//! once [`Storage::sync`] returned after that. The files' stamps are taken after the set of pieces.
//!
//! Who is trusted: a recorded piece whose files still have the recorded length and time. Stores after the last record
//! change the times, so after an unclean end a time up to [`Journal::window`] after the last sign of life is accepted as
//! well: a change by someone else in that very window goes unnoticed, which is the price. The sign of life is the record
//! itself or a later [`touch`]. A piece that is not durable is trusted only within the same boot: the page cache survives
//! the process, not the machine. After a boot a time may also lie up to the window before the recorded one, since the
//! time of a file reaches the disk later than its bytes.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Stamp, Stamps, Storage, StorageError};
use crate::bits::Bits;
use crate::hash::sha1;
use crate::metainfo::{InfoHash, Layout};

const MAGIC: &[u8; 16] = b"ropewalk-resume\n";
const VERSION: u8 = 1;
/// Magic, version, info-hash, boot id, clean, four numbers.
const FIXED: u64 = 16 + 1 + 20 + 16 + 1 + 4 * 8;
const STAMP: u64 = 8 + 8;
const CHECKSUM: usize = 20;

/// What a journal says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Journal {
    /// The torrent.
    pub(crate) info_hash: InfoHash,
    /// Pieces that were stored.
    pub(crate) verified: Bits,
    /// Those of them that are on the disk.
    pub(crate) durable: Bits,
    /// Nothing was stored after this record.
    pub(crate) clean: bool,
    /// When this was recorded; with a later sign of life, that.
    pub(crate) recorded_at: SystemTime,
    /// How long after the last sign of life pieces may still have been stored: twice the time between records.
    pub(crate) window: Duration,
    /// The files as they were.
    pub(crate) stamps: Stamps,
    /// A number for each file, the torrent's business.
    pub(crate) priorities: Vec<u8>,
    /// Bytes uploaded so far.
    pub(crate) uploaded: u64,
    /// Bytes downloaded so far.
    pub(crate) downloaded: u64,
    /// The boot in which it was recorded; zeros where that is not known.
    boot: [u8; 16],
}

/// What is to be believed at the start, and what is to be hashed first. No piece is in both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trust {
    /// Pieces that are there.
    pub(crate) have: Bits,
    /// Pieces that may be there.
    pub(crate) recheck: Bits,
}

/// Why a journal is of no use. The torrent then checks its files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(unreachable_pub, reason = "part of the public error type of a torrent")]
pub enum ResumeError {
    /// It could not be read or written.
    #[error("resume file {path:?}: {source}")]
    Io {
        /// The journal.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It ends too early, goes on too long, or was damaged.
    #[error("resume file: damaged ({0}); the files are checked instead")]
    Damaged(&'static str),
    /// It was written by another version of ropewalk.
    #[error("resume file: version {0} is not known; the files are checked instead")]
    Version(u8),
    /// It belongs to another torrent.
    #[error("resume file: belongs to another torrent ({0}); the files are checked instead")]
    OtherTorrent(InfoHash),
}

impl Journal {
    /// A journal of a torrent of which nothing is there, recorded now, unclean.
    pub(crate) fn new(info_hash: InfoHash, layout: &Layout, window: Duration) -> Self {
        Self {
            info_hash,
            verified: Bits::new(layout.piece_count()),
            durable: Bits::new(layout.piece_count()),
            clean: false,
            recorded_at: SystemTime::now(),
            window,
            stamps: Stamps { files: vec![None; layout.files().len()], parts: None },
            priorities: vec![0; layout.files().len()],
            uploaded: 0,
            downloaded: 0,
            boot: boot_id(),
        }
    }

    /// Reads the journal at `path`; `None` where there is none.
    pub(crate) fn load(path: &Path, info_hash: InfoHash, layout: &Layout) -> Result<Option<Self>, ResumeError> {
        let fail = |source| ResumeError::Io { path: path.to_path_buf(), source };
        let file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.map_err(fail)?,
        };
        let most = longest(layout);
        let mut bytes = Vec::new();
        (&file).take(most + 1).read_to_end(&mut bytes).map_err(fail)?;
        if bytes.len() as u64 > most {
            return Err(ResumeError::Damaged("too long"));
        }
        let mut journal = Self::decode(&bytes, info_hash, layout)?;
        if let Ok(touched) = file.metadata().and_then(|metadata| metadata.modified()) {
            journal.recorded_at = journal.recorded_at.max(touched);
        }
        Ok(Some(journal))
    }

    /// Decodes a journal of this torrent. Nothing is allocated that is not there.
    pub(crate) fn decode(bytes: &[u8], info_hash: InfoHash, layout: &Layout) -> Result<Self, ResumeError> {
        let damaged = ResumeError::Damaged;
        let (body, checksum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(damaged("too short"))?;
        let mut input = Input(body);
        if input.array::<16>()? != *MAGIC {
            return Err(damaged("not a resume file"));
        }
        let [version] = input.array()?;
        if version != VERSION {
            return Err(ResumeError::Version(version));
        }
        if sha1([body]) != *checksum {
            return Err(damaged("wrong checksum"));
        }
        let recorded = InfoHash::new(input.array()?);
        if recorded != info_hash {
            return Err(ResumeError::OtherTorrent(recorded));
        }
        let boot = input.array()?;
        let clean = input.flag()?;
        let recorded_at = from_nanos(input.i64()?);
        let window = Duration::from_nanos(input.u64()?);
        let (uploaded, downloaded) = (input.u64()?, input.u64()?);

        let pieces = layout.piece_count();
        if input.u32()? != pieces {
            return Err(damaged("another number of pieces"));
        }
        let mut bits = || {
            let wire = input.bytes(pieces.div_ceil(8) as usize)?;
            Bits::from_wire(wire, pieces).ok_or(damaged("spare bits"))
        };
        let (verified, durable) = (bits()?, bits()?);

        let files = layout.files().len();
        if input.u32()? as usize != files {
            return Err(damaged("another number of files"));
        }
        let priorities = input.bytes(files)?.to_vec();
        let mut stamps = Stamps { files: vec![None; files], parts: None };
        let mut least = 0;
        for _ in 0..input.u32()? {
            let file = input.u32()? as usize;
            if file < least || file >= files {
                return Err(damaged("file out of order"));
            }
            stamps.files[file] = Some(input.stamp()?);
            least = file + 1;
        }
        if input.flag()? {
            stamps.parts = Some(input.stamp()?);
        }
        if !input.0.is_empty() {
            return Err(damaged("too long"));
        }
        Ok(Self {
            info_hash,
            verified,
            durable,
            clean,
            recorded_at,
            window,
            stamps,
            priorities,
            uploaded,
            downloaded,
            boot,
        })
    }

    /// The journal's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.push(VERSION);
        out.extend_from_slice(self.info_hash.as_bytes());
        out.extend_from_slice(&self.boot);
        out.push(u8::from(self.clean));
        out.extend_from_slice(&to_nanos(self.recorded_at).to_be_bytes());
        out.extend_from_slice(&u64::try_from(self.window.as_nanos()).unwrap_or(u64::MAX).to_be_bytes());
        out.extend_from_slice(&self.uploaded.to_be_bytes());
        out.extend_from_slice(&self.downloaded.to_be_bytes());
        out.extend_from_slice(&self.verified.len().to_be_bytes());
        out.extend_from_slice(self.verified.as_wire());
        out.extend_from_slice(self.durable.as_wire());
        out.extend_from_slice(&(self.priorities.len() as u32).to_be_bytes());
        out.extend_from_slice(&self.priorities);
        let there = self.stamps.files.iter().flatten().count();
        out.extend_from_slice(&(there as u32).to_be_bytes());
        let put = |out: &mut Vec<u8>, stamp: &Stamp| {
            out.extend_from_slice(&stamp.len.to_be_bytes());
            out.extend_from_slice(&stamp.mtime.to_be_bytes());
        };
        for (file, stamp) in self.stamps.files.iter().enumerate() {
            if let Some(stamp) = stamp {
                out.extend_from_slice(&(file as u32).to_be_bytes());
                put(&mut out, stamp);
            }
        }
        out.push(u8::from(self.stamps.parts.is_some()));
        if let Some(stamp) = &self.stamps.parts {
            put(&mut out, stamp);
        }
        let checksum = sha1([out.as_slice()]);
        out.extend_from_slice(&checksum);
        out
    }

    /// Writes the journal so that after a crash at any moment either this one or the one before is there. The folder is
    /// made if missing.
    pub(crate) fn store(&self, path: &Path) -> Result<(), ResumeError> {
        replace(path, &self.encode())
    }

    /// Takes down how the files are now; to be called after the sets of pieces were set and before
    /// [`store`](Self::store).
    pub(crate) fn record(&mut self, storage: &Storage) -> Result<(), StorageError> {
        self.recorded_at = SystemTime::now();
        self.boot = boot_id();
        self.stamps = storage.stamps()?;
        Ok(())
    }

    /// What to believe of this journal, given the files that `storage` found when it was opened.
    pub(crate) fn trusted(&self, storage: &Storage) -> Trust {
        let layout = storage.layout();
        let same_boot = self.boot != [0; 16] && self.boot == boot_id();
        let believed = if same_boot { &self.verified } else { &self.durable };
        let files = |file: u32| (self.stamps.files[file as usize], storage.found().files[file as usize]);

        let mut have = Bits::new(layout.piece_count());
        let mut recheck = Bits::new(layout.piece_count());
        for piece in layout.pieces() {
            let (mut unchanged, mut complete, mut settled) = (true, true, true);
            for segment in layout.segments(layout.whole(piece)) {
                if layout.file(segment.file).is_padding() {
                    continue;
                }
                let (recorded, found) = match files(segment.file.get()) {
                    (None, None) => (self.stamps.parts, storage.found().parts),
                    file => file,
                };
                unchanged &= recorded.zip(found).is_some_and(|(was, is)| self.same(was, is, same_boot));
                settled &= recorded == found;
                complete &= found.is_some();
            }
            let recorded = self.verified.get(piece.get());
            if unchanged && believed.get(piece.get()) {
                have.set(piece.get());
            } else if recorded || (complete && !(settled && (self.clean || same_boot))) {
                // Either it was there and may still be, or its files changed after the record, in which case hashing is
                // cheaper than fetching.
                recheck.set(piece.get());
            }
        }
        Trust { have, recheck }
    }

    /// Whether a file that was `was` and is `is` can have been changed by nobody but us.
    fn same(&self, was: Stamp, is: Stamp, same_boot: bool) -> bool {
        let window = i64::try_from(self.window.as_nanos()).unwrap_or(i64::MAX);
        let until = to_nanos(self.recorded_at).saturating_add(window);
        let from = if same_boot { was.mtime } else { was.mtime.saturating_sub(window) };
        was == is || (!self.clean && was.len == is.len && (from..=until.max(was.mtime)).contains(&is.mtime))
    }
}

/// What to check where there is no journal: the pieces all of whose files were found.
pub(crate) fn without_journal(storage: &Storage) -> Trust {
    let layout = storage.layout();
    let mut recheck = Bits::new(layout.piece_count());
    for piece in layout.pieces() {
        let found = &storage.found();
        let there = layout.segments(layout.whole(piece)).all(|segment| {
            let end = segment.offset + u64::from(segment.len);
            let file = found.files[segment.file.get() as usize];
            layout.file(segment.file).is_padding() || file.map_or(found.parts.is_some(), |stamp| stamp.len >= end)
        });
        if there {
            recheck.set(piece.get());
        }
    }
    Trust { have: Bits::new(layout.piece_count()), recheck }
}

/// A sign of life, much cheaper than a record: for an unclean journal while nothing arrives that would be recorded, so
/// that the first piece after a pause falls into the window. To be called as often as records are made.
pub(crate) fn touch(path: &Path) {
    let _ = File::options().write(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

/// Replaces a file so that after a crash at any moment either the new content or the old is there. The folder is made if
/// missing.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), ResumeError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let write = || {
        std::fs::create_dir_all(folder)?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|source| ResumeError::Io { path: path.to_path_buf(), source })
}

/// Removes a journal, or what stands beside it.
pub(crate) fn remove(path: &Path) -> Result<(), ResumeError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(ResumeError::Io { path: path.to_path_buf(), source })
        }
        _ => Ok(()),
    }
}

/// What is left to decode.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], ResumeError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(ResumeError::Damaged("too short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ResumeError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(ResumeError::Damaged("too short"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn flag(&mut self) -> Result<bool, ResumeError> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(ResumeError::Damaged("neither yes nor no")),
        }
    }

    fn u32(&mut self) -> Result<u32, ResumeError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, ResumeError> {
        self.array().map(u64::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, ResumeError> {
        self.array().map(i64::from_be_bytes)
    }

    fn stamp(&mut self) -> Result<Stamp, ResumeError> {
        Ok(Stamp { len: self.u64()?, mtime: self.i64()? })
    }
}

/// The length of the longest journal that a torrent can have, in bytes.
fn longest(layout: &Layout) -> u64 {
    let (pieces, files) = (u64::from(layout.piece_count()), layout.files().len() as u64);
    FIXED + 4 + 2 * pieces.div_ceil(8) + 4 + files + 4 + files * (4 + STAMP) + 1 + STAMP + CHECKSUM as u64
}

/// Nanoseconds since 1970.
fn to_nanos(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
    }
}

/// As [`to_nanos`], back; what the system cannot hold becomes 1970.
fn from_nanos(nanos: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanos.unsigned_abs());
    let time = if nanos < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    time.unwrap_or(UNIX_EPOCH)
}

/// What names the running boot of this machine; zeros where the system does not tell.
fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    if digits.len() == 32 { u128::from_str_radix(&digits, 16).unwrap_or(0).to_be_bytes() } else { [0; 16] }
}

#[cfg(test)]
mod tests;
