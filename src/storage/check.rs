//! Hashing what is on the disk: a recheck, a verification, the piece hashes of a new torrent.
//!
//! It owns the threads that do it (`check-N`) and how they read: as many neighbouring pieces at a time as can be hashed side
//! by side, in steps that stay in a core's cache between being read and being hashed. It refuses to judge more than
//! hashes: what a bad piece means is the caller's.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustix::fs::{Advice, SeekFrom};

use super::files::Recent;
use super::{Place, Stamp, Storage, StorageError};
use crate::bits::Bits;
use crate::hash::{Backend, Hashing, ManyHasher, Sha1Hash, sha1};
use crate::metainfo::{Block, FileIndex, Layout, PieceIndex, Segment};

/// How much of a piece is read before it is hashed, in bytes: 16 of these are a part of a core's second-level cache.
const STEP: u32 = 64 * 1024;

/// How much a thread takes at a time at least, in bytes: long enough for the disk to be read in order.
const RUN: u32 = 4 * 1024 * 1024;

/// How much of each piece the disk is asked for ahead, in bytes: long enough to outweigh the way to the next piece, and
/// short enough that the memory of any machine holds two for each piece that is being hashed.
const AHEAD: u32 = 2 * 1024 * 1024;

/// How many of a piece's files are looked for before the first is read: as many as stay open until they are. Where there
/// are more they are small, and reading some of them in vain costs less than opening all of them twice.
const FILES_FIRST: usize = 4;

/// The stack of a checking thread, in bytes; the buffer is on the heap.
const STACK: usize = 256 * 1024;

/// How many descriptors hashing for a new torrent holds.
const MOST_SOURCES: usize = 64;

/// Says, piece by piece, whether it has the hash it should; called by the checking threads in no particular order.
pub(crate) type OnPiece<'a> = dyn Fn(PieceIndex, bool) + Sync + 'a;

/// Hashes the pieces `which` and gives those that are right. A piece whose file is missing or too
/// short is wrong, mostly without being read; one that cannot be read is wrong and logged. Where `stop` becomes true, the pieces
/// that were not looked at count as wrong and are not reported.
pub(crate) fn check(
    storage: &Storage,
    which: &Bits,
    hash_of: &(dyn Fn(PieceIndex) -> Sha1Hash + Sync),
    hashing: Hashing,
    on_piece: &OnPiece<'_>,
    stop: &AtomicBool,
) -> Bits {
    let layout = storage.layout();
    let right = Mutex::new(Bits::new(layout.piece_count()));
    let pieces: Vec<_> = which.iter().filter_map(|piece| layout.piece(piece)).collect();
    hash_pieces(storage, layout, &pieces, hashing, stop, &|piece, hash| {
        let good = match hash {
            Ok(hash) => hash == hash_of(piece),
            Err(StorageError::Missing { .. } | StorageError::Short { .. }) => false,
            Err(error) => {
                log::warn!("piece {} cannot be checked: {error}", piece.get());
                false
            }
        };
        if good {
            right.lock().set(piece.get());
        }
        on_piece(piece, good);
    });
    right.into_inner()
}

/// The hashes of all pieces of existing files, which `path_of` names, for a new torrent. `Ok(None)`: `stop` became true.
/// Padding counts as zeros.
pub(crate) fn hash_all(
    layout: &Layout,
    path_of: &(dyn Fn(FileIndex) -> PathBuf + Sync),
    hashing: Hashing,
    on_piece: &(dyn Fn(PieceIndex) + Sync),
    stop: &AtomicBool,
) -> Result<Option<Vec<Sha1Hash>>, StorageError> {
    let results = Mutex::new((vec![[0; 20]; layout.piece_count() as usize], Ok(())));
    let failed = AtomicBool::new(false);
    let sources = Paths { layout, path_of, open: Mutex::new(Recent::new(MOST_SOURCES)) };
    let pieces: Vec<_> = layout.pieces().collect();
    let halt = || stop.load(Ordering::Relaxed) || failed.load(Ordering::Relaxed);
    hash_pieces_until(&sources, layout, &pieces, hashing, &halt, &|piece, hash| {
        let mut results = results.lock();
        match hash {
            Ok(hash) => results.0[piece.get() as usize] = hash,
            Err(error) => {
                failed.store(true, Ordering::Relaxed);
                results.1 = Err(error);
            }
        }
        drop(results);
        on_piece(piece);
    });
    let (hashes, result) = results.into_inner();
    result.map(|()| (!stop.load(Ordering::Relaxed)).then_some(hashes))
}

/// Where the bytes of a torrent come from.
trait Source: Sync {
    /// The file that holds a file's bytes, if they are in one of their own.
    fn plain(&self, file: FileIndex) -> Result<Option<Arc<File>>, StorageError>;

    /// Reads a part of a file into `buf`, which has its length. `plain` is what [`plain`](Self::plain) gave.
    fn read(&self, segment: Segment, plain: Option<&File>, buf: &mut [u8]) -> Result<(), StorageError>;
}

impl Source for Storage {
    fn plain(&self, file: FileIndex) -> Result<Option<Arc<File>>, StorageError> {
        match self.place(file) {
            Place::Later => Err(StorageError::Missing { path: self.path(file) }),
            _ => self.plain_file(file),
        }
    }

    fn read(&self, segment: Segment, plain: Option<&File>, buf: &mut [u8]) -> Result<(), StorageError> {
        match plain {
            Some(file) => read_exact(file, segment, buf, || self.path(segment.file)),
            None => self.read_segment(segment, buf),
        }
    }
}

/// Files anywhere, opened by their path.
struct Paths<'a> {
    layout: &'a Layout,
    path_of: &'a (dyn Fn(FileIndex) -> PathBuf + Sync),
    open: Mutex<Recent<File>>,
}

impl Source for Paths<'_> {
    fn plain(&self, file: FileIndex) -> Result<Option<Arc<File>>, StorageError> {
        if self.layout.file(file).is_padding() {
            return Ok(None);
        }
        let there = self.open.lock().get(file.get());
        if there.is_some() {
            return Ok(there);
        }
        let path = (self.path_of)(file);
        let opened = File::open(&path).and_then(|opened| Ok((Stamp::of(&opened)?, opened)));
        let (stamp, opened) = opened.map_err(|error| StorageError::new(&path, 0, error))?;
        let expected = self.layout.file(file).len();
        if stamp.len > expected {
            return Err(StorageError::TooLong { path, len: stamp.len, expected });
        }
        let (opened, gone) = self.open.lock().keep(file.get(), opened);
        drop(gone);
        Ok(Some(opened))
    }

    fn read(&self, segment: Segment, plain: Option<&File>, buf: &mut [u8]) -> Result<(), StorageError> {
        match plain {
            Some(file) => read_exact(file, segment, buf, || (self.path_of)(segment.file)),
            None => {
                buf.fill(0);
                Ok(())
            }
        }
    }
}

type OnHash<'a> = dyn Fn(PieceIndex, Result<Sha1Hash, StorageError>) + Sync + 'a;

fn hash_pieces(
    source: &dyn Source,
    layout: &Layout,
    pieces: &[PieceIndex],
    hashing: Hashing,
    stop: &AtomicBool,
    on_hash: &OnHash<'_>,
) {
    hash_pieces_until(source, layout, pieces, hashing, &|| stop.load(Ordering::Relaxed), on_hash);
}

/// Shares `pieces` out to the threads, run by run, until they are all hashed or `stop` says so.
fn hash_pieces_until(
    source: &dyn Source,
    layout: &Layout,
    pieces: &[PieceIndex],
    hashing: Hashing,
    stop: &(dyn Fn() -> bool + Sync),
    on_hash: &OnHash<'_>,
) {
    let backend = hashing.backend;
    let threads = hashing.threads.max(1);
    // Enough to fill the lanes, and to be read in order, but not so much that a thread gets nothing.
    let run =
        ((RUN / layout.piece_length().max(1)) as usize).max(backend.lanes()).min(pieces.len().div_ceil(threads)).max(1);
    let next = AtomicUsize::new(0);
    let zeros = OnceLock::new();
    let work = || {
        let mut hasher = Hasher { source, layout, zeros: &zeros, backend, buffers: Vec::new(), stop, on_hash };
        loop {
            let start = next.fetch_add(run, Ordering::Relaxed).min(pieces.len());
            let mine = &pieces[start..pieces.len().min(start + run)];
            if mine.is_empty() || stop() {
                return;
            }
            // While this run is being hashed the disk reads the one that this thread is likely to take next. The first ones
            // nobody asked for.
            if start < run * threads {
                hasher.read_ahead(mine);
            }
            let coming = (start + run * threads).min(pieces.len());
            hasher.read_ahead(&pieces[coming..pieces.len().min(coming + run)]);
            hasher.run(mine);
        }
    };
    std::thread::scope(|scope| {
        let useful = pieces.len().div_ceil(run).min(threads);
        let spawn = |number| {
            let builder = std::thread::Builder::new().name(format!("check-{number}")).stack_size(STACK);
            builder.spawn_scoped(scope, work)
        };
        // Where the system has no more threads, the caller's does what they would have done.
        let running = (0..useful).map(spawn).filter(Result::is_ok).count();
        if running == 0 {
            work();
        }
    });
}

/// One thread's way of hashing pieces.
struct Hasher<'a> {
    source: &'a dyn Source,
    layout: &'a Layout,
    /// The hash of a full piece of zeros, made when the first hole is met.
    zeros: &'a OnceLock<Sha1Hash>,
    /// How pieces are hashed side by side.
    backend: Backend,
    /// A step of each of those that are.
    buffers: Vec<Vec<u8>>,
    stop: &'a (dyn Fn() -> bool + Sync),
    on_hash: &'a OnHash<'a>,
}

/// A piece that is being read.
struct Reading {
    piece: PieceIndex,
    len: u32,
    /// How much was read.
    done: u32,
    /// The file that was read last: mostly the one that is read next, too.
    file: Option<(FileIndex, Option<Arc<File>>)>,
    error: Option<StorageError>,
}

impl Hasher<'_> {
    /// Hashes and reports the pieces of a run, group by group; stops in between where it is to stop.
    fn run(&mut self, run: &[PieceIndex]) {
        let mut pieces = run.iter();
        loop {
            let mut group = Vec::with_capacity(self.backend.lanes());
            while group.len() < self.backend.lanes()
                && let Some(&piece) = pieces.next()
            {
                if (self.stop)() {
                    return;
                }
                match self.open(piece) {
                    Ok(Some(reading)) => group.push(reading),
                    Ok(None) => (self.on_hash)(piece, Ok(self.zeros())),
                    Err(error) => (self.on_hash)(piece, Err(error)),
                }
            }
            if group.is_empty() || !self.group(group) {
                return;
            }
        }
    }

    /// Makes sure that the files of a piece are there, so that nothing is read in vain. `None`: it was never written and
    /// is known without reading it.
    fn open(&self, piece: PieceIndex) -> Result<Option<Reading>, StorageError> {
        let whole = self.layout.whole(piece);
        let mut first = None;
        for segment in self.layout.segments(whole).take(FILES_FIRST) {
            let plain = self.source.plain(segment.file)?;
            first.get_or_insert((segment, plain));
        }
        // A large download that was interrupted early is mostly a hole (or allocated and never written, which `lseek`
        // calls the same).
        if let Some((segment, Some(plain))) = &first
            && segment.len == whole.len
            && segment.len == self.layout.piece_length()
            && is_hole(plain, *segment)
        {
            return Ok(None);
        }
        let file = first.map(|(segment, plain)| (segment.file, plain));
        Ok(Some(Reading { piece, len: whole.len, done: 0, file, error: None }))
    }

    /// Reads and hashes the pieces side by side and reports them. `false`: it was to stop before the end.
    fn group(&mut self, mut group: Vec<Reading>) -> bool {
        let step = STEP.min(self.layout.piece_length()) as usize;
        self.buffers.resize_with(group.len().max(self.buffers.len()), || vec![0; step]);
        let mut hasher = ManyHasher::new(self.backend, group.len());
        while group.iter().any(Reading::has_more) {
            if (self.stop)() {
                return false;
            }
            for reading in group.iter().filter(|reading| reading.has_more() && reading.done % AHEAD == 0) {
                if reading.done > 0 {
                    self.read_ahead_from(reading.piece, reading.done);
                }
            }
            let steps: Vec<&[u8]> = group
                .iter_mut()
                .zip(&mut self.buffers)
                .map(|(reading, buffer)| reading.step(self.source, self.layout, buffer))
                .collect();
            hasher.update(&steps);
        }
        for (reading, hash) in group.into_iter().zip(hasher.finish()) {
            (self.on_hash)(reading.piece, reading.error.map_or(Ok(hash), Err));
        }
        true
    }

    /// Has the disk read the first part of each piece of a run.
    fn read_ahead(&self, run: &[PieceIndex]) {
        for &piece in run {
            self.read_ahead_from(piece, 0);
        }
    }

    /// Has the disk read a part of a piece while what comes before it is being hashed.
    fn read_ahead_from(&self, piece: PieceIndex, begin: u32) {
        let len = AHEAD.min(self.layout.piece_len(piece) - begin);
        for segment in self.layout.segments(Block { piece, begin, len }) {
            // What is read at once needs no more than that.
            if self.layout.file(segment.file).len() <= u64::from(STEP) {
                continue;
            }
            if let Ok(Some(file)) = self.source.plain(segment.file) {
                let len = std::num::NonZeroU64::new(u64::from(segment.len));
                let _ = rustix::fs::fadvise(&*file, segment.offset, len, Advice::WillNeed);
            }
        }
    }

    fn zeros(&self) -> Sha1Hash {
        *self.zeros.get_or_init(|| zeros_hash(self.layout.piece_length()))
    }
}

impl Reading {
    fn has_more(&self) -> bool {
        self.error.is_none() && self.done < self.len
    }

    /// Reads the next step into `buffer` and gives it; nothing at the end or where that fails.
    fn step<'b>(&mut self, source: &dyn Source, layout: &Layout, buffer: &'b mut [u8]) -> &'b [u8] {
        if !self.has_more() {
            return &[];
        }
        let len = (buffer.len() as u32).min(self.len - self.done);
        let buffer = &mut buffer[..len as usize];
        match self.read(source, layout, buffer) {
            Ok(()) => {
                self.done += len;
                buffer
            }
            Err(error) => {
                self.error = Some(error);
                &[]
            }
        }
    }

    fn read(&mut self, source: &dyn Source, layout: &Layout, mut buffer: &mut [u8]) -> Result<(), StorageError> {
        let next = Block { piece: self.piece, begin: self.done, len: buffer.len() as u32 };
        for segment in layout.segments(next) {
            let plain = match self.file.take() {
                Some((file, plain)) if file == segment.file => plain,
                _ => source.plain(segment.file)?,
            };
            let (part, rest) = buffer.split_at_mut(segment.len as usize);
            source.read(segment, plain.as_deref(), part)?;
            self.file = Some((segment.file, plain));
            buffer = rest;
        }
        Ok(())
    }
}

fn read_exact(
    file: &File,
    segment: Segment,
    buf: &mut [u8],
    path: impl FnOnce() -> PathBuf,
) -> Result<(), StorageError> {
    file.read_exact_at(buf, segment.offset).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            StorageError::Short { path: path(), end: segment.offset + u64::from(segment.len) }
        }
        _ => StorageError::new(&path(), 0, error),
    })
}

/// Whether a part of a file was never written. (The descriptor's position, which this moves, is used by nobody.)
fn is_hole(file: &File, segment: Segment) -> bool {
    #[cfg(target_os = "linux")]
    {
        let end = segment.offset + u64::from(segment.len);
        Stamp::of(file).is_ok_and(|stamp| stamp.len >= end)
            && match rustix::fs::seek(file, SeekFrom::Data(segment.offset)) {
                Ok(data) => data >= end,
                Err(error) => error == rustix::io::Errno::NXIO,
            }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (file, segment);
        false
    }
}

fn zeros_hash(len: u32) -> Sha1Hash {
    let zeros = vec![0; STEP as usize];
    let (full, rest) = (len / STEP, len % STEP);
    let full = (0..full).map(|_| zeros.as_slice());
    sha1(full.chain([&zeros[..rest as usize]]))
}

#[cfg(test)]
mod tests;
