//! Bytes on their way from a mapping to a socket.
//!
//! It owns the guard that keeps a mapping alive while a peer's writer sends from it, and the account of what uploads
//! made resident. It refuses to let anyone read the bytes: they go to a system call or nowhere.

use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::map::Map;

/// After how many uploaded bytes their pages are let go: few enough to keep resident memory flat, enough that the calls
/// cost nothing.
const RELEASE_EVERY: u64 = 4 * 1024 * 1024;
/// The same for the number of ranges, each of which has to be remembered: a peer may ask for single bytes.
const MOST_RANGES: usize = 1024;

/// The bytes of some blocks, lent for an upload. Holds what it needs (mappings, and copies of bytes that are not mapped)
/// and may outlive the storage.
///
/// A peer that gets `EFAULT` while sending one has met a file that was cut off: `Storage::read_at` of the same blocks
/// says which.
#[derive(Debug)]
pub(crate) struct Lent {
    parts: Vec<Part>,
    /// For each block, how many parts there are up to its end.
    ends: Vec<usize>,
    /// What the mapped parts lie in.
    maps: Vec<Arc<Map>>,
    ledger: Arc<Ledger>,
}

/// One file's share of a block, or neighbours that had to be copied.
#[derive(Debug)]
enum Part {
    /// Of the map of this number.
    Mapped {
        map: usize,
        range: Range<u64>,
    },
    Owned(Vec<u8>),
}

/// What was sent from mappings and is still resident.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Filled by whichever writer is done with a block.
    sent: Mutex<Sent>,
}

/// Ranges of mappings, and the sum of their lengths in bytes.
#[derive(Debug, Default)]
struct Sent {
    ranges: Vec<(Arc<Map>, Range<u64>)>,
    bytes: u64,
}

impl Lent {
    pub(super) fn new(ledger: &Arc<Ledger>, blocks: usize) -> Self {
        let (parts, ends) = (Vec::with_capacity(blocks), Vec::with_capacity(blocks));
        Self { parts, ends, maps: Vec::with_capacity(1), ledger: ledger.clone() }
    }

    /// Adds a range of a mapping to the block that is being put together.
    pub(super) fn add_mapped(&mut self, map: &Arc<Map>, range: Range<u64>) {
        let last = self.maps.last().is_some_and(|last| Arc::ptr_eq(last, map));
        if !last {
            self.maps.push(Arc::clone(map));
        }
        self.parts.push(Part::Mapped { map: self.maps.len() - 1, range });
    }

    /// Adds room for copied bytes to the block that is being put together: beside those before, where there are any, so
    /// that a block of many small files is one slice.
    pub(super) fn add_owned(&mut self, len: usize) -> &mut [u8] {
        let begun = self.parts.len() > self.ends.last().copied().unwrap_or(0);
        if !begun || !matches!(self.parts.last(), Some(Part::Owned(_))) {
            self.parts.push(Part::Owned(Vec::new()));
        }
        let Some(Part::Owned(bytes)) = self.parts.last_mut() else { return &mut [] };
        let before = bytes.len();
        bytes.resize(before + len, 0);
        &mut bytes[before..]
    }

    /// Ends the block that is being put together.
    pub(super) fn end_block(&mut self) {
        self.ends.push(self.parts.len());
    }

    /// How many blocks are lent.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of the block of this number as slices for `write_vectored` on a socket or file. They are for the kernel
    /// only: whoever reads them in user space may see them change, or fault (the guard then gives zeros). To read a
    /// block, as encryption does, use `Storage::read_at`.
    pub(crate) fn io_slices(&self, block: usize) -> impl Iterator<Item = IoSlice<'_>> {
        let start = block.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.parts[start..self.ends[block]].iter().map(|part| match part {
            Part::Mapped { map, range } => self.maps[*map].io_slice(range.start, (range.end - range.start) as usize),
            Part::Owned(bytes) => IoSlice::new(bytes),
        })
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // Most often the whole of it is one range.
        let mut ranges: Vec<(usize, Range<u64>)> = Vec::new();
        for part in self.parts.drain(..) {
            let Part::Mapped { map, range } = part else { continue };
            match ranges.last_mut() {
                Some((before, joined)) if *before == map && joined.end == range.start => joined.end = range.end,
                _ => ranges.push((map, range)),
            }
        }
        if ranges.is_empty() {
            return;
        }
        let due = {
            let mut sent = self.ledger.sent.lock();
            for (map, range) in ranges {
                sent.bytes += range.end - range.start;
                sent.ranges.push((Arc::clone(&self.maps[map]), range));
            }
            if sent.bytes < RELEASE_EVERY && sent.ranges.len() < MOST_RANGES {
                return;
            }
            std::mem::take(&mut *sent)
        };
        release(due.ranges);
    }
}

/// Lets the pages of what was sent go, all of a mapping in one call: neighbours are, as pieces are mostly asked for in
/// order, and what lies between others is walked past by the kernel more quickly than it is called again.
fn release(mut sent: Vec<(Arc<Map>, Range<u64>)>) {
    sent.sort_unstable_by_key(|(map, _)| Arc::as_ptr(map) as usize);
    for of_map in sent.chunk_by(|(one, _), (other, _)| Arc::ptr_eq(one, other)) {
        let start = of_map.iter().map(|(_, range)| range.start).min();
        let end = of_map.iter().map(|(_, range)| range.end).max();
        if let (Some(start), Some(end)) = (start, end) {
            of_map[0].0.release(start..end);
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::sync::Arc;

    use super::{Ledger, Lent, MOST_RANGES};
    use crate::storage::map::Map;

    #[test]
    fn single_bytes_do_not_pile_up_in_the_account() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let map = Arc::new(Map::new(&file, 1 << 20, false).unwrap());
        let ledger = Arc::<Ledger>::default();
        for at in (0..).step_by(2).take(2 * MOST_RANGES) {
            let mut lent = Lent::new(&ledger, 1);
            lent.add_mapped(&map, at..at + 1);
            lent.end_block();
            drop(lent);
            assert!(ledger.sent.lock().ranges.len() < MOST_RANGES);
        }
    }
}
