//! Bloom filters of addresses, by which nodes tell how many seeds and peers they know (BEP 33).

use std::fmt;
use std::net::IpAddr;

use crate::hash::sha1;

/// The length of a filter in bytes.
pub const BLOOM_LEN: usize = 256;

/// The length of a filter in bits.
const BITS: usize = 8 * BLOOM_LEN;

/// A set of IP addresses that takes 256 bytes however many they are. What was inserted is contained; so are a few others,
/// and all of them from some 6,000 addresses on. Two filters are united by [`union`](Self::union).
#[derive(Clone, PartialEq, Eq)]
pub struct BloomFilter([u8; BLOOM_LEN]);

impl BloomFilter {
    /// The empty set.
    pub const EMPTY: Self = Self([0; BLOOM_LEN]);

    /// The filter with these bytes.
    pub const fn new(bytes: [u8; BLOOM_LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes, as they are sent.
    pub fn as_bytes(&self) -> &[u8; BLOOM_LEN] {
        &self.0
    }

    /// Adds an address; an IPv4-mapped one as IPv4.
    pub fn insert(&mut self, ip: IpAddr) {
        indices(ip).into_iter().for_each(|index| self.0[index / 8] |= 1 << (index % 8));
    }

    /// Whether the address may have been inserted; certainly not, where it is false.
    pub fn contains(&self, ip: IpAddr) -> bool {
        indices(ip).into_iter().all(|index| self.0[index / 8] & 1 << (index % 8) != 0)
    }

    /// Adds all that the other contains.
    pub fn union(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(byte, other)| *byte |= other);
    }

    /// About how many addresses were inserted: 0 for the empty filter, and some 7,800 for a full one, whatever went in.
    pub fn estimate(&self) -> f64 {
        let zeros: u32 = self.0.iter().map(|byte| byte.count_zeros()).sum();
        let bits = BITS as f64;
        // BEP 33 bounds the zeros at m - 1, which makes an empty filter hold half an address, and has no lower bound,
        // which makes a full one infinite.
        if zeros as usize == BITS {
            return 0.0;
        }
        (f64::from(zeros.max(1)) / bits).ln() / (2.0 * (1.0 - 1.0 / bits).ln())
    }
}

impl Default for BloomFilter {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl fmt::Debug for BloomFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BloomFilter(about {:.0})", self.estimate())
    }
}

/// The two bits that stand for an address.
fn indices(ip: IpAddr) -> [usize; 2] {
    let hash = match ip.to_canonical() {
        IpAddr::V4(ip) => sha1([ip.octets().as_slice()]),
        IpAddr::V6(ip) => sha1([ip.octets().as_slice()]),
    };
    [[hash[0], hash[1]], [hash[2], hash[3]]].map(|bytes| usize::from(u16::from_le_bytes(bytes)) % BITS)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use proptest::collection::vec;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::BloomFilter;

    const VECTOR: &str = "\
        F6C3F5EAA07FFD91BDE89F777F26FB2BFF37BDB8FB2BBAA2FD3DDDE7BACFFF75EE7CCBAE\
        FE5EEDB1FBFAFF67F6ABFF5E43DDBCA3FD9B9FFDF4FFD3E9DFF12D1BDF59DB53DBE9FA5B\
        7FF3B8FDFCDE1AFB8BEDD7BE2F3EE71EBBBFE93BCDEEFE148246C2BC5DBFF7E7EFDCF24F\
        D8DC7ADFFD8FFFDFDDFFF7A4BBEEDF5CB95CE81FC7FCFF1FF4FFFFDFE5F7FDCBB7FD79B3\
        FA1FC77BFE07FFF905B7B7FFC7FEFEFFE0B8370BB0CD3F5B7F2BD93FEB4386CFDD6F7FD5\
        BFAF2E9EBFFFFEECD67ADBF7C67F17EFD5D75EBA6FFEBA7FFF47A91EB1BFBB53E8ABFB57\
        62ABE8FF237279BFEFBFEEF5FFC5FEBFDFE5ADFFADFEE1FB737FFFFBFD9F6AEFFEEE76B6\
        FD8F72EF";

    #[test]
    fn the_filter_of_bep_33_comes_out() {
        let mut filter = BloomFilter::EMPTY;
        (0..=255).for_each(|last| filter.insert(Ipv4Addr::new(192, 0, 2, last).into()));
        (0..=0x3e7).for_each(|last| filter.insert(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).into()));
        let digits: String = filter.as_bytes().iter().map(|byte| format!("{byte:02X}")).collect();
        assert_eq!(digits, VECTOR);
        assert!((filter.estimate() - 1224.9308).abs() < 0.0001, "{}", filter.estimate());
    }

    #[test]
    fn the_estimate_is_a_number_at_both_ends() {
        assert_eq!(BloomFilter::EMPTY.estimate(), 0.0);
        let full = BloomFilter::new([0xff; 256]).estimate();
        assert!((7000.0..8000.0).contains(&full), "{full}");
        let mut one = BloomFilter::EMPTY;
        one.insert(Ipv4Addr::new(192, 168, 1, 1).into());
        assert!((0.9..1.1).contains(&one.estimate()), "{}", one.estimate());
    }

    proptest! {
        #[test]
        fn a_union_contains_what_each_contained(ips in vec(any::<IpAddr>(), 0..50), split in 0usize..50) {
            let (left, right) = ips.split_at(split.min(ips.len()));
            let mut all = BloomFilter::EMPTY;
            for part in [left, right] {
                let mut filter = BloomFilter::EMPTY;
                part.iter().for_each(|ip| filter.insert(*ip));
                all.union(&filter);
            }
            prop_assert!(ips.iter().all(|ip| all.contains(*ip)));
            let mut at_once = BloomFilter::EMPTY;
            ips.iter().for_each(|ip| at_once.insert(*ip));
            prop_assert_eq!(all, at_once);
        }
    }
}
