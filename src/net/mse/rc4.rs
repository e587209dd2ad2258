//! RC4, as message stream encryption uses it: the first 1,024 bytes of the key stream are thrown away.
//!
//! A loop of its own, because the `rc4` crate's does not half as much per second: here the next entry of the table is
//! loaded before the swap is stored, so that a byte need not wait for the byte before it to reach memory and come back,
//! and entries are words, of which loads follow stores quicker than of bytes. The crate is the oracle in tests.
//!
//! RC4 is broken as a cipher. What it is for here is that a connection does not look like BitTorrent to who looks on.

/// How much of the key stream is thrown away.
const DROPPED: usize = 1024;

/// One direction of a connection: bytes are encrypted and decrypted by the same call, in their order.
#[derive(Clone)]
pub(crate) struct Rc4 {
    /// Entries are bytes; see the module's text.
    table: [u32; 256],
    position: Position,
}

/// Where the key stream is.
#[derive(Clone, Copy)]
struct Position {
    /// The entry that is swapped next.
    i: u8,
    j: u8,
    /// What entry `i` holds.
    x: u8,
}

impl Rc4 {
    /// The key stream of a key, from its 1,025th byte on.
    pub(crate) fn new(key: &[u8; 20]) -> Self {
        Self::with_key(key)
    }

    fn with_key(key: &[u8]) -> Self {
        let mut table: [u8; 256] = std::array::from_fn(|entry| entry as u8);
        let mut j = 0u8;
        for (i, byte) in (0..table.len()).zip(key.iter().cycle()) {
            j = j.wrapping_add(table[i]).wrapping_add(*byte);
            table.swap(i, usize::from(j));
        }
        let table = table.map(u32::from);
        let mut rc4 = Self { table, position: Position { i: 1, j: 0, x: table[1] as u8 } };
        rc4.apply(&mut [0; DROPPED]);
        rc4
    }

    /// Encrypts or decrypts the next bytes.
    pub(crate) fn apply(&mut self, bytes: &mut [u8]) {
        let (table, mut position) = (&mut self.table, self.position);
        let (words, rest) = bytes.as_chunks_mut::<8>();
        for word in words {
            let key: [u8; 8] = std::array::from_fn(|_| position.next(table));
            *word = (u64::from_ne_bytes(*word) ^ u64::from_ne_bytes(key)).to_ne_bytes();
        }
        for byte in rest {
            *byte ^= position.next(table);
        }
        self.position = position;
    }
}

impl Position {
    /// The next byte of the key stream.
    #[inline(always)]
    fn next(&mut self, table: &mut [u32; 256]) -> u8 {
        let Self { i, j, x } = *self;
        let next = i.wrapping_add(1);
        let before_swap = table[usize::from(next)] as u8;
        let j = j.wrapping_add(x);
        let y = table[usize::from(j)] as u8;
        table[usize::from(i)] = y.into();
        table[usize::from(j)] = x.into();
        // The swap has changed the next entry only where `j` is that one.
        *self = Self { i: next, j, x: if j == next { x } else { before_swap } };
        table[usize::from(x.wrapping_add(y))] as u8
    }
}

impl std::fmt::Debug for Rc4 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rc4")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};
    use rc4::{KeyInit, StreamCipher};

    use super::{DROPPED, Rc4};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// RFC 6229; its offset 1024 is where the key stream begins here.
    #[test]
    fn the_key_stream_is_that_of_the_vectors() {
        for (len, at_1024, at_4096) in [
            (5, "30abbcc7c20b01609f23ee2d5f6bb7df", "ff25b58995996707e51fbdf08b34d875"),
            (16, "bdf0324e6083dcc6d3cedd3ca8c53c16", "a36a4c301ae8ac13610ccbc12256cacc"),
            (32, "7fec5bfd9f9b89ce6548309092d7e958", "f3e4c0a2e02d1d01f7f0a74618af2b48"),
        ] {
            let key: Vec<u8> = (1..=len).collect();
            let mut stream = [0; 4096 - DROPPED + 16];
            Rc4::with_key(&key).apply(&mut stream);
            assert_eq!(hex(&stream[..16]), at_1024);
            assert_eq!(hex(&stream[4096 - DROPPED..]), at_4096);
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_crate_however_the_bytes_are_cut(
            key in any::<[u8; 20]>(),
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..700), 0..8),
        ) {
            let mut ours = Rc4::new(&key);
            let mut oracle = rc4::Rc4::new_from_slice(&key).expect("a length that it takes");
            oracle.apply_keystream(&mut [0; DROPPED]);
            for part in parts {
                let (mut got, mut expected) = (part.clone(), part);
                ours.apply(&mut got);
                oracle.apply_keystream(&mut expected);
                prop_assert_eq!(got, expected);
            }
        }
    }
}
