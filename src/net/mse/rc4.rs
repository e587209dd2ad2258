//! RC4, as message stream encryption uses it: the first 1,024 bytes of the key stream are thrown away.
//!
//! A loop of its own, because the `rc4` crate's does not half as much per second: here the next entry of the table is
//! loaded before the swap is stored, so that a byte need not wait for the byte before it to reach memory and come back,
//! and entries are words, of which loads follow stores quicker than of bytes. The crate is the oracle in tests.
//!
//! RC4 is broken as a cipher. What it is for here is that a connection does not look like BitTorrent to who looks on.

/// How much of the key stream is thrown away.
pub(super) const DROPPED: usize = 1024;

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

    /// The same for a key of any length but 0.
    pub(super) fn with_key(key: &[u8]) -> Self {
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
