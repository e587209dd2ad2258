//! A set of piece indices as a bitfield: what a peer has, what we have, what is wanted.
//!
//! It owns the bits and their wire form (BEP 3: most significant bit first); it knows nothing of peers or files.

/// A fixed-length set of bits, numbered from 0, in the order that the wire uses.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Bits {
    /// Bit `i` is `0x80 >> (i % 8)` of byte `i / 8`; the bits past `len` in the last byte are always zero.
    bytes: Vec<u8>,
    len: u32,
    ones: u32,
}

impl Bits {
    /// A set of `len` bits, all clear.
    pub fn new(len: u32) -> Self {
        Self { bytes: vec![0; len.div_ceil(8) as usize], len, ones: 0 }
    }

    /// A set of `len` bits, all set.
    pub fn full(len: u32) -> Self {
        let mut bits = Self { bytes: vec![0xff; len.div_ceil(8) as usize], len, ones: len };
        if let (Some(last), 1..) = (bits.bytes.last_mut(), len % 8) {
            *last = 0xff << (8 - len % 8);
        }
        bits
    }

    /// The set in its wire form. `None` where the length is not that of `len` bits or a spare bit is set
    /// (BEP 3 calls both an error).
    pub fn from_wire(bytes: &[u8], len: u32) -> Option<Self> {
        if bytes.len() != len.div_ceil(8) as usize {
            return None;
        }
        if let (Some(last), spare @ 1..) = (bytes.last(), (8 - len % 8) % 8)
            && last & ((1u8 << spare) - 1) != 0
        {
            return None;
        }
        let ones = bytes.iter().map(|byte| byte.count_ones()).sum();
        Some(Self { bytes: bytes.to_vec(), len, ones })
    }

    /// The wire form (BEP 3 `bitfield`).
    pub fn as_wire(&self) -> &[u8] {
        &self.bytes
    }

    /// How many bits there are, set or not.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there are no bits at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bits are set.
    pub fn count(&self) -> u32 {
        self.ones
    }

    /// Whether every bit is set.
    pub fn is_full(&self) -> bool {
        self.ones == self.len
    }

    /// Whether bit `index` is set; `false` past the end.
    pub fn get(&self, index: u32) -> bool {
        index < self.len && self.bytes[index as usize / 8] & (0x80 >> (index % 8)) != 0
    }

    /// Sets bit `index` and says whether it was clear before. Past the end nothing happens.
    pub fn set(&mut self, index: u32) -> bool {
        let fresh = index < self.len && !self.get(index);
        if fresh {
            self.bytes[index as usize / 8] |= 0x80 >> (index % 8);
            self.ones += 1;
        }
        fresh
    }

    /// Clears bit `index` and says whether it was set before.
    pub fn clear(&mut self, index: u32) -> bool {
        let was = self.get(index);
        if was {
            self.bytes[index as usize / 8] &= !(0x80 >> (index % 8));
            self.ones -= 1;
        }
        was
    }

    /// The indices of the set bits, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.bytes.iter().enumerate().flat_map(|(at, &byte)| {
            (0..8).filter(move |bit| byte & (0x80u8 >> bit) != 0).map(move |bit| at as u32 * 8 + bit)
        })
    }
}

impl std::fmt::Debug for Bits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bits({} of {})", self.ones, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::Bits;

    #[test]
    fn the_wire_form_is_most_significant_bit_first_and_has_no_spare_bits() {
        let mut bits = Bits::new(10);
        assert!(bits.set(0) && bits.set(9) && !bits.set(9) && !bits.set(10));
        assert_eq!(bits.as_wire(), [0x80, 0x40]);
        assert_eq!(Bits::from_wire(&[0x80, 0x40], 10), Some(bits.clone()));
        assert_eq!(Bits::from_wire(&[0x80, 0x60], 10), None);
        assert_eq!(Bits::from_wire(&[0x80], 10), None);
        assert_eq!(bits.iter().collect::<Vec<_>>(), [0, 9]);
        assert!(bits.clear(0) && !bits.clear(0));
        assert_eq!(bits.count(), 1);
    }

    #[test]
    fn a_full_set_of_any_length_is_its_own_wire_form() {
        for len in 0..40 {
            let full = Bits::full(len);
            assert!(full.is_full() && full.count() == len);
            assert_eq!(Bits::from_wire(full.as_wire(), len), Some(full));
        }
    }
}
