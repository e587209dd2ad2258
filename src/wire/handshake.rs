//! The first 68 bytes of a connection between peers (BEP 3), and the id by which a peer names itself.
//!
//! It owns the layout; it refuses another protocol string, and leaves it to the caller to compare the info-hash.
//!
//! ```text
//! 0   19                         the length of the protocol string
//! 1   "BitTorrent protocol"
//! 20  8 reserved bytes           extension bits
//! 28  20 bytes                   info-hash
//! 48  20 bytes                   peer id
//! ```
//!
//! The receiver of a connection can answer when it has the first 48 bytes, so decoding goes in these two steps:
//! [`HandshakeHead::decode`], then [`HandshakeHead::with_peer_id`].

use std::fmt;

use super::client;
use crate::metainfo::InfoHash;

/// The protocol string with its length byte.
const PROTOCOL: &[u8; 20] = b"\x13BitTorrent protocol";

/// What ropewalk's peer ids begin with: Azureus style (BEP 20), version 0.1.0.
const PEER_ID_PREFIX: &[u8; 8] = b"-RW0100-";

/// A whole handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handshake {
    /// The extension bits.
    pub reserved: Reserved,
    /// The torrent that the connection is for.
    pub info_hash: InfoHash,
    /// Who sent it.
    pub peer_id: PeerId,
}

impl Handshake {
    /// The length in bytes.
    pub const LEN: usize = HandshakeHead::LEN + PeerId::LEN;

    /// The bytes to send.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..20].copy_from_slice(PROTOCOL);
        bytes[20..28].copy_from_slice(&self.reserved.0);
        bytes[28..48].copy_from_slice(self.info_hash.as_bytes());
        bytes[48..].copy_from_slice(&self.peer_id.0);
        bytes
    }
}

/// A handshake up to its info-hash: enough to decide whether to answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HandshakeHead {
    /// The extension bits.
    pub reserved: Reserved,
    /// The torrent that the connection is for.
    pub info_hash: InfoHash,
}

impl HandshakeHead {
    /// The length in bytes.
    pub const LEN: usize = 48;

    /// Reads the first 48 bytes.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, HandshakeError> {
        let (protocol, rest) = bytes.split_at(PROTOCOL.len());
        let (reserved, info_hash) = rest.split_at(8);
        if protocol != PROTOCOL {
            return Err(HandshakeError::NotBitTorrent);
        }
        Ok(Self {
            reserved: Reserved(reserved.try_into().expect("split at 8")),
            info_hash: InfoHash::new(info_hash.try_into().expect("48 bytes less 20 and 8")),
        })
    }

    /// The whole handshake, once the last 20 bytes are there.
    pub fn with_peer_id(self, peer_id: PeerId) -> Handshake {
        Handshake { reserved: self.reserved, info_hash: self.info_hash, peer_id }
    }

    /// Whether a connection that begins with these bytes, few or many, can still be a plaintext handshake. What is not
    /// may be an encrypted one, or another protocol.
    pub fn may_begin_with(bytes: &[u8]) -> bool {
        bytes.iter().zip(PROTOCOL).all(|(got, wanted)| got == wanted)
    }
}

/// Why bytes are no handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// Another protocol string, or an encrypted handshake.
    #[error("the handshake does not begin with \"BitTorrent protocol\"")]
    NotBitTorrent,
}

/// The eight reserved bytes of a handshake: which extensions its sender speaks. An extension is in use only where
/// both ends set its bit.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Reserved([u8; 8]);

impl Reserved {
    /// No extension.
    pub const NONE: Self = Self([0; 8]);

    /// These eight bytes.
    pub const fn new(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// The eight bytes.
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }

    /// With the extension protocol's bit set (BEP 10).
    pub const fn with_extended(mut self) -> Self {
        self.0[5] |= 0x10;
        self
    }

    /// With the Fast extension's bit set (BEP 6).
    pub const fn with_fast(mut self) -> Self {
        self.0[7] |= 0x04;
        self
    }

    /// With the DHT's bit set (BEP 5).
    pub const fn with_dht(mut self) -> Self {
        self.0[7] |= 0x01;
        self
    }

    /// Whether the sender speaks the extension protocol (BEP 10).
    pub const fn extended(self) -> bool {
        self.0[5] & 0x10 != 0
    }

    /// Whether the sender speaks the Fast extension (BEP 6).
    pub const fn fast(self) -> bool {
        self.0[7] & 0x04 != 0
    }

    /// Whether the sender is a node of the DHT (BEP 5).
    pub const fn dht(self) -> bool {
        self.0[7] & 0x01 != 0
    }
}

impl fmt::Debug for Reserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reserved({:016x})", u64::from_be_bytes(self.0))
    }
}

/// The 20 bytes by which a peer names itself. They are its own choice: proof of nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId([u8; 20]);

impl PeerId {
    /// The length in bytes.
    pub const LEN: usize = 20;

    /// The peer id with these bytes.
    pub const fn new(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// A peer id of this client: `-RW0100-` and 12 bytes that the caller draws at random.
    pub fn ropewalk(random: [u8; 12]) -> Self {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(PEER_ID_PREFIX);
        bytes[8..].copy_from_slice(&random);
        Self(bytes)
    }

    /// The 20 bytes.
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// The client that such a peer id belongs to, as "libtorrent 2.0.11". Where the style (BEP 20) or the client is not known,
    /// the id's printable form. Printable ASCII always, at most some 40 characters.
    ///
    /// The extension handshake's `v` (BEP 10) is the better source where there is one.
    ///
    /// ```
    /// use ropewalk::wire::handshake::PeerId;
    ///
    /// assert_eq!(PeerId::new(*b"-LT20B0-abcdefghijkl").client_name(), "libtorrent 2.0.11");
    /// assert_eq!(PeerId::new(*b"A2-1-37-0-abcdefghij").client_name(), "aria2 1.37.0");
    /// ```
    pub fn client_name(&self) -> String {
        client::name_of(&self.0)
    }
}

impl fmt::Display for PeerId {
    /// The printable form: what is not printable ASCII as a dot.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&client::printable(&self.0))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::{Handshake, HandshakeError, HandshakeHead, PeerId, Reserved};
    use crate::metainfo::InfoHash;

    #[test]
    fn a_handshake_has_the_bytes_of_bep_3() {
        let handshake = Handshake {
            reserved: Reserved::NONE.with_extended().with_fast().with_dht(),
            info_hash: InfoHash::new([0xaa; 20]),
            peer_id: PeerId::ropewalk(*b"abcdefghijkl"),
        };
        let mut expected = b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\x05".to_vec();
        expected.extend([0xaa; 20]);
        expected.extend(b"-RW0100-abcdefghijkl");
        assert_eq!(handshake.encode().as_slice(), expected);
    }

    #[test]
    fn each_extension_has_its_own_bit() {
        let (extended, fast, dht) =
            (Reserved::NONE.with_extended(), Reserved::NONE.with_fast(), Reserved::NONE.with_dht());
        assert!(extended.extended() && !extended.fast() && !extended.dht());
        assert!(!fast.extended() && fast.fast() && !fast.dht());
        assert!(!dht.extended() && !dht.fast() && dht.dht());
    }

    #[test]
    fn another_protocol_string_is_refused_at_its_first_byte() {
        let mut bytes = [0; 48];
        bytes[..20].copy_from_slice(b"\x13BitTorrent Protocol");
        assert_eq!(HandshakeHead::decode(&bytes), Err(HandshakeError::NotBitTorrent));
        assert!(HandshakeHead::may_begin_with(b""));
        assert!(HandshakeHead::may_begin_with(b"\x13BitTorrent "));
        assert!(!HandshakeHead::may_begin_with(b"\x13BitTorrent P"));
        assert!(!HandshakeHead::may_begin_with(b"GET "));
    }

    proptest! {
        #[test]
        fn a_handshake_survives_the_way_there_and_back(reserved: [u8; 8], info_hash: [u8; 20], peer_id: [u8; 20]) {
            let handshake = Handshake {
                reserved: Reserved::new(reserved), info_hash: InfoHash::new(info_hash), peer_id: PeerId::new(peer_id),
            };
            let bytes = handshake.encode();
            let head = HandshakeHead::decode(bytes.first_chunk().unwrap()).unwrap();
            prop_assert_eq!(head.with_peer_id(PeerId::new(*bytes.last_chunk().unwrap())), handshake);
            prop_assert!(HandshakeHead::may_begin_with(&bytes));
        }
    }
}
