//! Hashes for the tables of the memory store: quick, and keyed, so that nobody outside can aim at one place of a table.

/// A hash function, one of 2^128.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keyed {
    start: u64,
    factor: u64,
}

impl Keyed {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        // A factor of zero would make all hashes the same.
        Self { start: rng.u64(..), factor: rng.u64(..) | 1 }
    }

    /// Eight bytes at a time, each step a multiplication whose both halves are used. Only as good as tables need.
    pub(super) fn hash<const N: usize>(self, bytes: &[u8; N]) -> u64 {
        let (words, rest) = bytes.as_chunks::<8>();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let mixed = words.iter().fold(self.start, |state, word| fold(state ^ u64::from_le_bytes(*word), self.factor));
        fold(fold(mixed ^ u64::from_le_bytes(last), self.factor), !self.start)
    }
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::Keyed;

    #[test]
    fn inputs_that_differ_little_are_spread_over_all_bits() {
        let keyed = Keyed::new(1);
        let hashes: Vec<_> = (0..4096_u16)
            .map(|number| {
                let mut endpoint = [10, 0, 0, 1, 0, 0];
                endpoint[4..].copy_from_slice(&number.to_be_bytes());
                keyed.hash(&endpoint)
            })
            .collect();
        for shift in [0, 20, 52] {
            let seen: HashSet<_> = hashes.iter().map(|hash| hash >> shift & 0xfff).collect();
            // Random numbers would leave 1/e of the places empty.
            assert!(seen.len() > 2400, "{} of 4096 places at bit {shift}", seen.len());
        }
    }

    #[test]
    fn another_seed_is_another_function() {
        assert_ne!(Keyed::new(1).hash(&[7; 20]), Keyed::new(2).hash(&[7; 20]));
    }
}
