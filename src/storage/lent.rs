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

/// The bytes of a block, lent for an upload. Holds what it needs (a mapping, or a copy of bytes that are not mapped) and
/// may outlive the storage.
///
/// A peer that gets `EFAULT` while sending one has met a file that was cut off: `Storage::read_at` of the same block
/// says which.
#[derive(Debug)]
pub(crate) struct Lent {
    parts: Vec<Part>,
    ledger: Arc<Ledger>,
}

/// One file's share of a block.
#[derive(Debug)]
pub(super) enum Part {
    Mapped { map: Arc<Map>, range: Range<u64> },
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
    pub(super) fn new(parts: Vec<Part>, ledger: &Arc<Ledger>) -> Self {
        Self { parts, ledger: ledger.clone() }
    }

    /// The block's bytes as slices for `write_vectored` on a socket or file. They are for the kernel only: whoever reads
    /// them in user space may see them change, or fault (the guard then gives zeros). To read a block, as encryption
    /// does, use `Storage::read_at`.
    pub(crate) fn io_slices(&self) -> impl Iterator<Item = IoSlice<'_>> {
        self.parts.iter().map(|part| match part {
            Part::Mapped { map, range } => map.io_slice(range.start, (range.end - range.start) as usize),
            Part::Owned(bytes) => IoSlice::new(bytes),
        })
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mapped = self.parts.drain(..).filter_map(|part| match part {
            Part::Mapped { map, range } => Some((map, range)),
            Part::Owned(_) => None,
        });
        let mapped: Vec<_> = mapped.collect();
        let len: u64 = mapped.iter().map(|(_, range)| range.end - range.start).sum();
        let due = {
            let mut sent = self.ledger.sent.lock();
            sent.ranges.extend(mapped);
            sent.bytes += len;
            if sent.bytes < RELEASE_EVERY {
                return;
            }
            std::mem::take(&mut *sent)
        };
        release(due.ranges);
    }
}

/// Lets the pages of what was sent go, neighbours in one call: pieces are mostly asked for in order.
fn release(mut sent: Vec<(Arc<Map>, Range<u64>)>) {
    sent.sort_unstable_by_key(|(map, range)| (Arc::as_ptr(map) as usize, range.start));
    let mut ranges = sent.into_iter();
    let Some((mut map, mut range)) = ranges.next() else { return };
    for (next, more) in ranges {
        if Arc::ptr_eq(&map, &next) && more.start <= range.end {
            range.end = range.end.max(more.end);
        } else {
            map.release(range);
            (map, range) = (next, more);
        }
    }
    map.release(range);
}
