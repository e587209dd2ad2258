//! The encrypted handshake, both sides, of which each may lie: it ends the same way however the bytes are cut, and honestly
//! where nobody lies.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ropewalk::fuzzing::encrypted_handshake;

fuzz_target!(|data: &[u8]| {
    // The methods that both take and the length of what goes with the handshake; the portions; where the second mask
    // begins, in units of 8.
    let Some(([modes, step, split], masks)) = data.split_first_chunk() else { return };
    let (first, second) = masks.split_at(masks.len().min(usize::from(*split) * 8));
    let whole = encrypted_handshake(*modes, [first, second], 1 << 16);
    let portions = encrypted_handshake(*modes, [first, second], usize::from(*step).max(1));
    assert_eq!(whole, portions);
    if masks.iter().all(|byte| *byte == 0) {
        let rc4 = modes & 3 != 0;
        // IA is read behind the handshake.
        assert_eq!(whole, [Some(Ok((rc4, 0))), Some(Ok((rc4, usize::from(modes >> 2))))]);
    }
});
