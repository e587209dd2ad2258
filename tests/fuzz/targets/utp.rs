//! A connection of uTP, dialled or called: whatever it hears, it keeps within its bounds, and time goes on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ropewalk::fuzzing::utp_packets;

fuzz_target!(|data: &[u8]| {
    if let Some((first, packets)) = data.split_first() {
        utp_packets(first & 1 == 1, packets);
    }
});
