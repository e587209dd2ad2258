//! What the fuzz targets in `tests/fuzz` need to see of the inside.
//!
//! It is compiled with `--cfg fuzzing`, as cargo-fuzz does, and is part of no other build: the crate's interface should
//! not grow for its tests.

use crate::bencode::{self, DecodeError, Tree};
use crate::metainfo::{InfoHash, Layout};
use crate::storage::resume::Journal;

/// [`bencode::decode`] by its second scan alone, which otherwise only sees what `bendy` refuses.
pub fn decode_in_any_order(source: &[u8]) -> Result<(Tree<'_>, &[u8]), DecodeError> {
    bencode::decode_in_any_order(source)
}

/// Decodes a resume journal and encodes it again; `None` where it is refused.
pub fn resume(bytes: &[u8], info_hash: InfoHash, layout: &Layout) -> Option<Vec<u8>> {
    Journal::decode(bytes, info_hash, layout).ok().map(|journal| journal.encode())
}
