//! Whether the files on the disk are what a torrent says, hashed with every core.
//!
//! It owns the verdict on each file. It refuses to change anything: nothing is created, written or repaired.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::bits::Bits;
use crate::hash::Hashing;
use crate::metainfo::{FileIndex, Metainfo};
use crate::storage::{Options, Storage, StorageError, Way, check};

/// Descriptors that are held at a time.
const OPEN_FILES: usize = 128;

/// What was found of a torrent's files.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// A verdict per file, padding left out, in the order of the metainfo.
    pub files: Vec<FileReport>,
    /// The pieces that are right.
    pub pieces: Bits,
}

/// What was found of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileReport {
    /// Which file of the torrent.
    pub file: FileIndex,
    /// Where it is, or should be.
    pub path: PathBuf,
    /// What is wrong with it, if anything.
    pub verdict: Verdict,
}

/// What is wrong with a file. Pieces that a file shares with its neighbours count for each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Every piece of it is right.
    Right,
    /// It is not there.
    Missing,
    /// It is longer than the torrent says; `wrong` of its pieces are wrong besides.
    TooLong {
        /// Its length in bytes.
        len: u64,
        /// Pieces that are wrong.
        wrong: u32,
    },
    /// It is shorter than the torrent says.
    TooShort {
        /// Its length in bytes.
        len: u64,
        /// Pieces that are wrong.
        wrong: u32,
    },
    /// So many of its pieces are wrong.
    Wrong {
        /// Pieces that are wrong.
        wrong: u32,
        /// Pieces that hold bytes of it.
        of: u32,
    },
}

impl Report {
    /// Whether every file is right.
    pub fn is_right(&self) -> bool {
        self.files.iter().all(|file| file.verdict == Verdict::Right)
    }
}

/// Why nothing can be said about the files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The folder or a file in it cannot be looked at.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The caller asked to stop.
    #[error("stopped before everything was hashed")]
    Stopped,
}

/// Hashes the torrent's files below the folder `dir` as `hashing` says. `progress` hears the bytes hashed so far and
/// the bytes in all, from several threads and in no particular order; `stop` ends the work early.
///
/// ```
/// use ropewalk::create::{CreateOptions, create};
/// use ropewalk::hash::Hashing;
/// use ropewalk::verify::{Verdict, verify};
/// use std::sync::atomic::AtomicBool;
///
/// let folder = tempfile::tempdir()?;
/// let (path, go_on) = (folder.path().join("hello.txt"), AtomicBool::new(false));
/// std::fs::write(&path, "hello")?;
/// let metainfo = create(&path, &CreateOptions::default(), &|_, _| {}, &go_on)?.metainfo;
/// assert!(verify(&metainfo, folder.path(), Hashing::default(), &|_, _| {}, &go_on)?.is_right());
///
/// std::fs::write(&path, "jello")?;
/// let report = verify(&metainfo, folder.path(), Hashing::default(), &|_, _| {}, &go_on)?;
/// assert_eq!(report.files[0].verdict, Verdict::Wrong { wrong: 1, of: 1 });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn verify(
    metainfo: &Metainfo,
    dir: &Path,
    hashing: Hashing,
    progress: &(dyn Fn(u64, u64) + Sync),
    stop: &AtomicBool,
) -> Result<Report, VerifyError> {
    let layout = metainfo.layout();
    let options = Options {
        state_dir: dir.join(".ropewalk"),
        name: metainfo.info_hash().to_string(),
        wanted: Vec::new(),
        read_only: true,
        way: Way::default(),
        max_open_files: OPEN_FILES,
    };
    let storage = Storage::open(layout.clone(), dir, options)?;
    let (done, total) = (AtomicU64::new(0), layout.total_len());
    let on_piece = |piece, _| {
        let len = u64::from(layout.piece_len(piece));
        progress(done.fetch_add(len, Ordering::Relaxed) + len, total);
    };
    let all = Bits::full(layout.piece_count());
    let pieces = check::check(&storage, &all, &|piece| *metainfo.piece_hash(piece), hashing, &on_piece, stop);
    if stop.load(Ordering::Relaxed) {
        return Err(VerifyError::Stopped);
    }
    let real = layout.file_indices().filter(|&file| !layout.file(file).is_padding());
    let files = real.map(|file| {
        let of = layout.pieces_of(file);
        let wrong = of.clone().filter(|&piece| !pieces.get(piece)).count() as u32;
        let verdict = match storage.found().files[file.get() as usize] {
            None => Verdict::Missing,
            Some(stamp) if stamp.len > layout.file(file).len() => Verdict::TooLong { len: stamp.len, wrong },
            Some(stamp) if stamp.len < layout.file(file).len() => Verdict::TooShort { len: stamp.len, wrong },
            Some(_) if wrong > 0 => Verdict::Wrong { wrong, of: of.len() as u32 },
            Some(_) => Verdict::Right,
        };
        FileReport { file, path: storage.path(file), verdict }
    });
    Ok(Report { files: files.collect(), pieces })
}
