//! Magnet links, which anybody may have written: what is read is within bounds and printed so that it is read the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ropewalk::Magnet;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let magnet: Magnet = match text.parse() {
        Ok(magnet) => magnet,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(magnet.info_hash.is_some() || magnet.info_hash_v2.is_some());
    assert!(magnet.trackers.len() + magnet.web_seeds.len() <= 128 && magnet.peers.len() + magnet.nodes.len() <= 256);
    let ranges = magnet.select.ranges();
    assert!(ranges.len() <= 1024 && ranges.iter().all(|range| !range.is_empty() && *range.end() < 10_000_000));
    assert!(ranges.windows(2).all(|two| *two[0].end() + 1 < *two[1].start()));
    let printed = magnet.to_string();
    // Escapes make a link at most three times as long.
    if printed.len() <= 64 * 1024 {
        assert_eq!(printed.parse(), Ok(magnet), "{printed}");
    }
});
