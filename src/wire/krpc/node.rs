//! Nodes of the DHT: their ids and distances (BEP 5), ids that fit an address (BEP 42), compact forms (BEP 5, 32).
//!
//! It owns the arithmetic of 160 bits. It refuses randomness, which callers bring along, and any opinion on which
//! addresses are worth talking to.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::metainfo::InfoHash;
use crate::wire::tracker::{Family, compact_peers, encode_compact_peers};

/// The length in bits of an id.
pub const ID_BITS: u32 = 160;

/// A point of the DHT's key space: the id of a node, or what is looked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; 20]);

impl NodeId {
    /// The id with these bytes.
    pub const fn new(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// The 20 bytes.
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// How far another id is: the exclusive or, compared as a number.
    pub fn distance(&self, other: &Self) -> Distance {
        Distance(std::array::from_fn(|at| self.0[at] ^ other.0[at]))
    }

    /// How many bits both ids begin with alike: 0 to [`ID_BITS`]. It is the number of the bucket that the other belongs
    /// to in a routing table of this id, where buckets near this id have high numbers.
    pub fn common_prefix(&self, other: &Self) -> u32 {
        self.distance(other).leading_zeros()
    }

    /// An id that begins with the same `bits` bits as this one and differs in the next; the rest is from `random`. It
    /// lies in the bucket with that number. With [`ID_BITS`] or more it is this id.
    pub fn in_bucket(&self, bits: u32, random: [u8; 20]) -> Self {
        Self(std::array::from_fn(|at| {
            let kept = (i64::from(bits) - 8 * at as i64).clamp(0, 8) as u32;
            let keep = !(0xff_u16 >> kept) as u8;
            let flip = if kept < 8 && bits / 8 == at as u32 { 0x80 >> kept } else { 0 };
            ((self.0[at] ^ flip) & (keep | flip)) | (random[at] & !(keep | flip))
        }))
    }

    /// An id that fits a node's external address (BEP 42), the bits that are free from `random`.
    ///
    /// The text of BEP 42 wants the hash's last byte to be the random number, its code and its vectors the id's; and
    /// the text hashes 8 bytes where code and vectors hash the 4 of an IPv4 address. It is done as in the code, like
    /// everybody does.
    pub fn for_address(ip: IpAddr, random: [u8; 20]) -> Self {
        let prefix = address_prefix(ip, random[19]);
        let mut id = random;
        id[0] = prefix[0];
        id[1] = prefix[1];
        id[2] = prefix[2] & 0xf8 | random[2] & 0x07;
        Self(id)
    }

    /// Whether a node at this address may have this id (BEP 42). Addresses of private networks fit every id, as the
    /// address that the world sees is another.
    pub fn fits(&self, ip: IpAddr) -> bool {
        let prefix = address_prefix(ip, self.0[19]);
        is_exempt(ip) || (self.0[..2] == prefix[..2] && (self.0[2] ^ prefix[2]) & 0xf8 == 0)
    }
}

impl From<InfoHash> for NodeId {
    fn from(info_hash: InfoHash) -> Self {
        Self(*info_hash.as_bytes())
    }
}

impl From<NodeId> for InfoHash {
    fn from(id: NodeId) -> Self {
        Self::new(id.0)
    }
}

impl TryFrom<&[u8]> for NodeId {
    type Error = std::array::TryFromSliceError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes.try_into().map(Self)
    }
}

/// From 40 hexadecimal digits, of either case.
impl FromStr for NodeId {
    type Err = ParseNodeIdError;

    fn from_str(text: &str) -> Result<Self, ParseNodeIdError> {
        text.parse::<InfoHash>().map(Self::from).map_err(|_| ParseNodeIdError)
    }
}

impl fmt::Display for NodeId {
    /// 40 lower-case hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

/// The text is not the id of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the id of a node is 40 hexadecimal digits")]
pub struct ParseNodeIdError;

/// How far two ids are from each other (BEP 5); the smaller, the nearer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Distance([u8; 20]);

impl Distance {
    /// The number of leading bits that are zero, 0 to [`ID_BITS`].
    pub fn leading_zeros(&self) -> u32 {
        match self.0.iter().position(|byte| *byte != 0) {
            Some(at) => 8 * at as u32 + self.0[at].leading_zeros(),
            None => ID_BITS,
        }
    }
}

impl fmt::Debug for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Distance({})", NodeId(self.0))
    }
}

/// A node: what others say of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NodeInfo {
    /// Its id.
    pub id: NodeId,
    /// Where it is reached, by UDP; never port 0 where it was decoded.
    pub addr: SocketAddr,
}

/// The length in bytes of a node in its compact form: 26 or 38.
pub(super) fn compact_len(family: Family) -> usize {
    match family {
        Family::V4 => 26,
        Family::V6 => 38,
    }
}

/// The nodes of a compact list (BEP 5, 32): each an id, an address and a port. Those without a port and an incomplete
/// one at the end are left out.
pub fn compact_nodes(bytes: &[u8], family: Family) -> impl Iterator<Item = NodeInfo> {
    bytes.chunks_exact(compact_len(family)).filter_map(move |node| {
        let (id, endpoint) = node.split_first_chunk()?;
        Some(NodeInfo { id: NodeId(*id), addr: compact_peers(endpoint, family).next()? })
    })
}

/// Appends those nodes that have an address of this family as a compact list (BEP 5, 32).
pub fn encode_compact_nodes<'a>(nodes: impl IntoIterator<Item = &'a NodeInfo>, family: Family, out: &mut Vec<u8>) {
    for node in nodes.into_iter().filter(|node| Family::from(node.addr.ip()) == family) {
        out.extend(node.id.0);
        encode_compact_peers([node.addr], family, out);
    }
}

/// The bytes that ids at this address begin with, of which 21 bits count (BEP 42).
fn address_prefix(ip: IpAddr, random: u8) -> [u8; 4] {
    const V4_MASK: [u8; 4] = [0x03, 0x0f, 0x3f, 0xff];
    const V6_MASK: [u8; 8] = [0x01, 0x03, 0x07, 0x0f, 0x1f, 0x3f, 0x7f, 0xff];
    let mut octets = [0; 8];
    let len = match ip.to_canonical() {
        IpAddr::V4(ip) => {
            octets[..4].copy_from_slice(&ip.octets());
            octets.iter_mut().zip(V4_MASK).for_each(|(octet, mask)| *octet &= mask);
            4
        }
        IpAddr::V6(ip) => {
            octets.copy_from_slice(&ip.octets()[..8]);
            octets.iter_mut().zip(V6_MASK).for_each(|(octet, mask)| *octet &= mask);
            8
        }
    };
    octets[0] |= (random & 0x07) << 5;
    crc32c::crc32c(&octets[..len]).to_be_bytes()
}

/// Whether BEP 42 lets nodes at this address have any id.
fn is_exempt(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::{Family, ID_BITS, NodeId, NodeInfo, compact_nodes, encode_compact_nodes};
    use crate::metainfo::InfoHash;

    /// Address, random number, an id from BEP 42 or libtorrent, and the 21 bits at its head.
    const ADDRESSES: [(&str, u8, &str, [u8; 3]); 6] = [
        ("124.31.75.21", 1, "5fbfbff10c5d6a4ec8a88e4c6ab4c28b95eee401", [0x5f, 0xbf, 0xb8]),
        ("21.75.31.124", 86, "5a3ce9c14e7a08645677bbd1cfe7d8f956d53256", [0x5a, 0x3c, 0xe8]),
        ("65.23.51.170", 22, "a5d43220bc8f112a3d426c84764f8c2a1150e616", [0xa5, 0xd4, 0x30]),
        ("84.124.73.14", 65, "1b0321dd1bb1fe518101ceef99462b947a01ff41", [0x1b, 0x03, 0x20]),
        ("43.213.53.83", 90, "e56f6cbf5b7c4be0237986d5243b87aa6d51305a", [0xe5, 0x6f, 0x68]),
        ("2001:b829:2123:be84:e16c:d6ae:5290:49f1", 4, "0a8ad123be84e16cd6ae529049f1f1bbe9ebb304", [0x0a, 0x8a, 0xd0]),
    ];

    #[test]
    fn crc32c_is_castagnoli() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn ids_fit_addresses_as_in_the_vectors_of_bep_42() {
        for (ip, random, example, head) in ADDRESSES {
            let ip: IpAddr = ip.parse().unwrap();
            let example: NodeId = example.parse().unwrap();
            assert!(example.fits(ip), "{example} at {ip}");
            let mut bytes = [0; 20];
            bytes[19] = random;
            assert_eq!(NodeId::for_address(ip, bytes).0[..3], head, "{ip}");
            // The bits that are free are those of the random bytes.
            assert_eq!(NodeId::for_address(ip, example.0), example);
        }
        let (first, second) = (ADDRESSES[0], ADDRESSES[1]);
        assert!(!first.2.parse::<NodeId>().unwrap().fits(second.0.parse().unwrap()));
    }

    #[test]
    fn any_id_fits_an_address_of_a_private_network() {
        for ip in ["10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.1.1", "127.0.0.1", "::1", "fe80::1", "fd00::1"] {
            assert!(NodeId([7; 20]).fits(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["8.8.8.8", "172.32.0.1", "2a00::1"] {
            assert!(!NodeId([7; 20]).fits(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn ids_are_written_as_40_digits() {
        let id = NodeId(*b"mnopqrstuvwxyz123456");
        assert_eq!(id.to_string(), "6d6e6f707172737475767778797a313233343536");
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
        assert!("6d".parse::<NodeId>().is_err());
        assert_eq!(NodeId::from(InfoHash::from(id)), id);
    }

    #[test]
    fn compact_nodes_are_an_id_an_address_and_a_port_each() {
        let node = |id, addr: &str| NodeInfo { id: NodeId([id; 20]), addr: addr.parse().unwrap() };
        let nodes = [node(1, "1.2.3.4:258"), node(2, "[2001:db8::1]:6881"), node(3, "5.6.7.8:1")];
        let mut bytes = Vec::new();
        encode_compact_nodes(&nodes, Family::V4, &mut bytes);
        assert_eq!(bytes.len(), 52);
        assert_eq!(bytes[18..26], [1, 1, 1, 2, 3, 4, 1, 2]);
        assert_eq!(compact_nodes(&bytes, Family::V4).collect::<Vec<_>>(), [nodes[0], nodes[2]]);
        bytes[25] = 0;
        bytes[24] = 0;
        assert_eq!(compact_nodes(&bytes[..51], Family::V4).count(), 0);
        bytes.clear();
        encode_compact_nodes(&nodes, Family::V6, &mut bytes);
        assert_eq!(bytes.len(), 38);
        assert_eq!(compact_nodes(&bytes, Family::V6).collect::<Vec<_>>(), nodes[1..2]);
    }

    proptest! {
        #[test]
        fn distance_is_that_of_exclusive_or(a: [u8; 20], b: [u8; 20], c: [u8; 20]) {
            let (a, b, c) = (NodeId(a), NodeId(b), NodeId(c));
            prop_assert_eq!(a.distance(&a).leading_zeros(), ID_BITS);
            prop_assert_eq!(a.distance(&b), b.distance(&a));
            // There is exactly one point at each distance from another.
            prop_assert_eq!(a.distance(&b) == a.distance(&c), b == c);
            prop_assert!(a.common_prefix(&c) >= a.common_prefix(&b).min(b.common_prefix(&c)));
        }

        #[test]
        fn an_id_can_be_made_for_each_bucket(own: [u8; 20], random: [u8; 20], bits in 0..=ID_BITS) {
            let own = NodeId(own);
            prop_assert_eq!(own.common_prefix(&own.in_bucket(bits, random)), bits);
        }

        #[test]
        fn an_id_made_for_an_address_fits_it(ip: IpAddr, random in any::<[u8; 20]>()) {
            prop_assert!(NodeId::for_address(ip, random).fits(ip));
        }
    }
}
