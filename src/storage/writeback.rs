//! The way of stored bytes from memory to the disk.
//!
//! It owns the account of what was stored and is not on the disk yet, and how much of that may pile up. It refuses to
//! leave it to the kernel alone: that begins late (at a tenth of the memory, or after 30 seconds), so a `fdatasync` for
//! the journal, or the end of the program, would wait for gigabytes, and whoever stores would be held up meanwhile.
//!
//! The workers note what they store in batches. From [`BEGIN`] bytes on, [`Storage::writeback_due`] wakes the store thread,
//! which writes batch by batch ([`Storage::write_back`]) and so learns how fast the disk is. The workers wait a moment
//! for it when more is unwritten than the disk takes in [`BEHIND`].

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::mem::take;
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};

use super::{Place, Storage, StorageError, map};
use crate::metainfo::{FileIndex, Segment};

/// The unit of the amounts below. Tests get along with less.
const UNIT: u64 = if cfg!(test) { 1 << 16 } else { 1 << 20 };
/// From how many unwritten bytes on writing begins. Less is written by the journal's sync soon enough, and at once.
const BEGIN: u64 = 128 * UNIT;
/// How many bytes are written at a time: other work of the store thread waits that long.
const BATCH: u64 = 32 * UNIT;
/// How far the disk may be behind: enough that it may falter for a moment, and that a sync ends before the next is due.
const BEHIND: Duration = Duration::from_secs(2);
/// What may be unwritten in any case, in bytes, however slow the disk seems to be. More than where writing begins: nobody
/// is to wait while nothing is written.
const LEAST: u64 = 2 * BEGIN;
/// How long a worker waits for the disk before it stores one more piece, at the most. It is not to hang with the disk: it
/// works for all torrents, and those on other disks feel this pause.
const PAUSE: Duration = Duration::from_millis(200);
/// How much the newest measure of the disk's pace counts in the mean.
const NEWEST: f64 = 0.3;

/// From how many files on one `syncfs` is quicker than an `fdatasync` for each.
#[cfg(target_os = "linux")]
const SYNC_WHOLE_FROM: usize = 64;

/// What of a torrent's bytes is not on the disk.
#[derive(Debug)]
pub(super) struct Writeback {
    /// Filled by the workers, emptied by the store thread.
    unwritten: Mutex<Unwritten>,
    /// Told when there is room again for what workers store.
    room: Condvar,
    wake: Sender<()>,
    due: Receiver<()>,
}

#[derive(Debug, Default)]
struct Unwritten {
    /// What is being filled.
    open: Batch,
    /// What is full, oldest first.
    full: VecDeque<Batch>,
    /// The bytes of all of them, and of those being written.
    bytes: u64,
    /// What the disk needs for a byte, in seconds. A mean of times and not of rates, so that a batch that the kernel has
    /// written already makes little difference. 0 until it is known.
    pace: f64,
    /// Files with bytes that may not be on the disk.
    unsynced: BTreeSet<u32>,
    /// Folders with new entries.
    folders: BTreeSet<PathBuf>,
    /// Whether the parts file was written.
    parts: bool,
    /// A write that failed, by file. The kernel says so once, and nobody knows what else is lost: it stays.
    failed: Option<(u32, Option<i32>)>,
}

/// Ranges of files that are written together.
#[derive(Debug, Default)]
struct Batch {
    ranges: Vec<(u32, Range<u64>)>,
    bytes: u64,
}

impl Default for Writeback {
    fn default() -> Self {
        let (wake, due) = bounded(1);
        Self { unwritten: Mutex::default(), room: Condvar::new(), wake, due }
    }
}

impl Writeback {
    /// Takes down what was stored: after its bytes are in the page cache and before its piece is announced, so that a
    /// sync that follows the announcement covers them.
    pub(super) fn note(&self, segment: Segment) {
        let (file, len) = (segment.file.get(), u64::from(segment.len));
        let mut unwritten = self.unwritten.lock();
        unwritten.unsynced.insert(file);
        unwritten.bytes += len;
        unwritten.open.push(file, segment.offset..segment.offset + len);
        if unwritten.open.bytes >= BATCH {
            let full = take(&mut unwritten.open);
            unwritten.full.push_back(full);
            if unwritten.bytes >= BEGIN {
                self.wake();
            }
        }
    }

    /// Takes down that a file was stored to which need not be written before the next sync.
    pub(super) fn note_unsynced(&self, file: FileIndex) {
        self.unwritten.lock().unsynced.insert(file.get());
    }

    /// Takes down that a file was made, in these folders.
    pub(super) fn note_made(&self, file: u32, folders: impl Iterator<Item = PathBuf>) {
        let mut unwritten = self.unwritten.lock();
        unwritten.unsynced.insert(file);
        unwritten.folders.extend(folders);
    }

    /// Takes down that the parts file was written.
    pub(super) fn note_parts(&self) {
        self.unwritten.lock().parts = true;
    }

    /// Waits a moment if the disk is too far behind.
    pub(super) fn wait_for_room(&self) {
        let mut unwritten = self.unwritten.lock();
        let until = Instant::now() + PAUSE;
        while unwritten.is_too_much() && !self.room.wait_until(&mut unwritten, until).timed_out() {}
    }

    /// Forgets everything.
    pub(super) fn forget(&self) {
        *self.unwritten.lock() = Unwritten::default();
        self.room.notify_all();
    }

    /// Has [`Storage::writeback_due`] receive.
    fn wake(&self) {
        // Woken once is enough.
        let _ = self.wake.try_send(());
    }

    fn next(&self) -> Option<Batch> {
        self.unwritten.lock().full.pop_front()
    }

    /// Takes down that `bytes` were written, which `took` so long. Where there is more, that is due.
    fn written(&self, bytes: u64, took: Duration) {
        let mut unwritten = self.unwritten.lock();
        unwritten.bytes = unwritten.bytes.saturating_sub(bytes);
        let pace = took.as_secs_f64() / bytes.max(1) as f64;
        let before = if unwritten.pace > 0.0 { unwritten.pace } else { pace };
        unwritten.pace = before + (pace - before) * NEWEST;
        if !unwritten.full.is_empty() {
            self.wake();
        }
        drop(unwritten);
        self.room.notify_all();
    }

    fn failed(&self, file: u32, error: &io::Error) {
        self.unwritten.lock().failed.get_or_insert((file, error.raw_os_error()));
    }
}

impl Unwritten {
    /// Never before the first batch was written: nobody can tell yet.
    fn is_too_much(&self) -> bool {
        self.bytes > LEAST && self.bytes as f64 * self.pace > BEHIND.as_secs_f64()
    }
}

impl Batch {
    fn push(&mut self, file: u32, range: Range<u64>) {
        self.bytes += range.end - range.start;
        match self.ranges.last_mut() {
            Some((last, before)) if *last == file && before.end == range.start => before.end = range.end,
            _ => self.ranges.push((file, range)),
        }
    }

    /// In the order in which they lie on the disk, neighbours in one.
    fn merged(mut self) -> Vec<(u32, Range<u64>)> {
        self.ranges.sort_unstable_by_key(|(file, range)| (*file, range.start));
        let mut merged = Self::default();
        self.ranges.into_iter().for_each(|(file, range)| merged.push(file, range));
        merged.ranges
    }
}

impl Storage {
    /// Receives when [`write_back`](Self::write_back) should be called.
    pub(crate) fn writeback_due(&self) -> &Receiver<()> {
        &self.writeback.due
    }

    /// Writes one batch of what was stored to the disk and waits for it. Where there is more,
    /// [`writeback_due`](Self::writeback_due) receives again. What fails is an error of the next sync.
    pub(crate) fn write_back(&self) {
        let Some(batch) = self.writeback.next() else { return };
        let (began, bytes) = (Instant::now(), batch.bytes);
        let ranges = batch.merged();
        for way in [map::write, map::wait_for_writing] {
            for (file, range) in &ranges {
                // A file that is gone is met by the sync.
                let Some(Ok(there)) = self.layout.file_index(*file).map(|file| self.descriptor(file)) else { continue };
                if let Err(error) = way(&there, range.clone()) {
                    self.writeback.failed(*file, &error);
                }
            }
        }
        self.writeback.written(bytes, began.elapsed());
    }

    /// Makes durable what was stored before this call: after it, those pieces survive a crash of the machine.
    pub(crate) fn sync(&self) -> Result<(), StorageError> {
        let (files, folders, parts) = {
            let mut unwritten = self.writeback.unwritten.lock();
            if let Some((file, code)) = unwritten.failed {
                drop(unwritten);
                return Err(self.lost(file, code));
            }
            // The sync writes it all. What is stored meanwhile counts from now.
            (unwritten.open, unwritten.full, unwritten.bytes) = Default::default();
            let folders = take(&mut unwritten.folders);
            (take(&mut unwritten.unsynced), folders, take(&mut unwritten.parts))
        };
        self.writeback.room.notify_all();
        let result = self.sync_files(&files, &folders).and_then(|()| match parts {
            true => self.parts.lock().sync(),
            false => Ok(()),
        });
        if result.is_err() {
            let mut unwritten = self.writeback.unwritten.lock();
            unwritten.unsynced.extend(files);
            unwritten.folders.extend(folders);
            unwritten.parts |= parts;
        }
        result
    }

    /// Says that what is there of these pieces may not be on the disk, as after a process that was killed or did not wait
    /// for it: the next [`sync`](Self::sync) sees to it.
    pub(crate) fn distrust(&self, pieces: impl Iterator<Item = u32>) {
        let pieces = pieces.filter_map(|piece| self.layout.piece(piece));
        let segments = pieces.flat_map(|piece| self.layout.segments(self.layout.whole(piece)));
        let files: BTreeSet<_> = segments.map(|segment| segment.file).collect();
        let mut unwritten = self.writeback.unwritten.lock();
        for file in files {
            match self.place(file) {
                Place::Here => drop(unwritten.unsynced.insert(file.get())),
                Place::Aside => unwritten.parts = true,
                Place::Nowhere | Place::Later => {}
            }
        }
    }

    fn sync_files(&self, files: &BTreeSet<u32>, folders: &BTreeSet<PathBuf>) -> Result<(), StorageError> {
        #[cfg(target_os = "linux")]
        if files.len() >= SYNC_WHOLE_FROM {
            return rustix::fs::syncfs(self.root.folder())
                .map_err(|error| StorageError::new(self.root.path(), 0, error.into()));
        }
        for file in files.iter().filter_map(|&file| self.layout.file_index(file)) {
            // Empty files have only an entry in their folder.
            if !self.layout.file(file).is_empty() {
                let result = self.descriptor(file)?.sync_data();
                result.map_err(|error| {
                    self.writeback.failed(file.get(), &error);
                    StorageError::new(&self.path(file), 0, error)
                })?;
            }
        }
        folders.iter().try_for_each(|folder| self.root.sync_folder(folder))
    }

    /// The error of a write that failed earlier.
    fn lost(&self, file: u32, code: Option<i32>) -> StorageError {
        let error = code.map_or_else(|| io::ErrorKind::Other.into(), io::Error::from_raw_os_error);
        let path = self.layout.file_index(file).map_or_else(|| self.root.path().to_path_buf(), |file| self.path(file));
        StorageError::new(&path, 0, error)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{BATCH, BEGIN, LEAST, UNIT, Writeback};
    use crate::metainfo::Segment;
    use crate::storage::tests::layout_of;

    /// Notes so many bytes, a unit at a time and from the end of the file to its start.
    fn stored(writeback: &Writeback, bytes: u64) {
        let file = layout_of(&[(1 << 40, false)], 1 << 20).file_index(0).unwrap();
        for offset in (0..bytes / UNIT).rev().map(|unit| unit * UNIT) {
            writeback.note(Segment { file, offset, len: UNIT as u32 });
        }
    }

    #[test]
    fn little_wakes_nobody_and_what_piles_up_is_given_out_batch_by_batch_in_the_order_on_the_disk() {
        let writeback = Writeback::default();
        stored(&writeback, BEGIN - BATCH);
        assert!(writeback.due.is_empty());
        stored(&writeback, BATCH);
        assert!(writeback.due.try_recv().is_ok());
        for number in 1..=BEGIN / BATCH {
            let batch = writeback.next().unwrap();
            assert_eq!(batch.bytes, BATCH);
            assert_eq!(batch.merged().len(), 1, "neighbours in one");
            writeback.written(BATCH, Duration::from_millis(1));
            assert_eq!(writeback.due.try_recv().is_ok(), number < BEGIN / BATCH);
        }
        assert!(writeback.next().is_none());
        assert_eq!(writeback.unwritten.lock().bytes, 0);
    }

    #[test]
    fn workers_wait_only_for_a_disk_that_is_too_far_behind() {
        let writeback = Writeback::default();
        let too_much = || writeback.unwritten.lock().is_too_much();
        stored(&writeback, 4 * LEAST);
        assert!(!too_much(), "nobody knows yet");
        writeback.next();
        writeback.written(BATCH, Duration::from_secs(1) / 1000);
        assert!(!too_much(), "a quick disk");
        for _ in 0..20 {
            writeback.written(0, Duration::ZERO);
            writeback.next();
            writeback.written(BATCH / 32, Duration::from_secs(1));
        }
        assert!(too_much());
        writeback.unwritten.lock().bytes = LEAST;
        assert!(!too_much(), "so much may always be");
    }
}
