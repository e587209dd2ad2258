//! A resume journal: refused, or it says exactly what its bytes do.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use ropewalk::InfoHash;
use ropewalk::fuzzing::resume;
use ropewalk::metainfo::{Content, Creation, Layout, NewFile};
use sha1::{Digest, Sha1};

/// Three files in 20 pieces, so that the bits leave some over.
static LAYOUT: LazyLock<Arc<Layout>> = LazyLock::new(|| {
    let file = |(name, len): (&str, u64)| NewFile { path: name.into(), len, executable: false };
    let files = [("a", 100_000), ("b", 0), ("c", 1_200_000)].map(file).into();
    Arc::clone(Creation::new("t", Content::Folder(files), 1 << 16).prepare().expect("a torrent").layout())
});

fuzz_target!(|data: &[u8]| {
    let info_hash = InfoHash::new([7; 20]);
    if let Some(encoded) = resume(data, info_hash, &LAYOUT) {
        assert_eq!(encoded, data);
    }
    // Under a right checksum, which mutation does not find.
    let mut summed = data[..data.len().saturating_sub(20)].to_vec();
    summed.extend(Sha1::digest(&summed));
    if let Some(encoded) = resume(&summed, info_hash, &LAYOUT) {
        assert_eq!(encoded, summed);
    }
});
