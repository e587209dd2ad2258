//! Announces on the local network: bounded, and the same again after being encoded and decoded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ropewalk::wire::lsd::{Announce, GROUP_V4, GROUP_V6, MAX_TORRENTS};

fuzz_target!(|data: &[u8]| {
    let Ok(announce) = Announce::decode(data) else { return };
    assert!((1..=MAX_TORRENTS).contains(&announce.torrents.len()));
    for group in [GROUP_V4, GROUP_V6] {
        assert_eq!(Announce::decode(&announce.encode(group)).as_ref(), Ok(&announce));
    }
});
