//! Peer exchange (BEP 11): the `ut_pex` message, in which peers tell each other whom they are connected to.
//!
//! It owns the layout and the bounds on what one message may hold. It refuses a payload that is no dictionary and leaves out
//! contacts without a port; whether a contact is believed is for the caller.
//!
//! ```text
//! d  5:added  N x (4 + 2 bytes)    7:added.f   N flags      6:added6  M x (16 + 2 bytes)   8:added6.f  M flags
//!    7:dropped  (4 + 2 bytes)...   8:dropped6  (16 + 2 bytes)...   e
//! ```

use std::net::SocketAddr;

use super::tracker::{Family, compact_peers, encode_compact_peers};
use crate::bencode::{self, Item, Value};

/// The longest message that is read; one with 100 contacts of each kind takes 6 KiB.
const MAX_LEN: usize = 64 * 1024;

/// The most contacts that are read of either list of a message, both families together; 50 is what may be sent.
pub const MAX_CONTACTS: usize = 200;

/// What a peer tells of its other peers: what changed since it told the last time.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct PexMessage {
    /// Whom it is connected to now.
    pub added: Vec<Contact>,
    /// Whom it is not connected to any more.
    pub dropped: Vec<SocketAddr>,
}

/// Somebody's peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Contact {
    /// Where it listens; never port 0 in a message that was read.
    pub addr: SocketAddr,
    /// What is said of it.
    pub flags: PexFlags,
}

/// What is said of a contact: one byte. Bits without a meaning yet are kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct PexFlags(u8);

impl PexFlags {
    /// It prefers encrypted connections.
    pub const PREFERS_ENCRYPTION: Self = Self(0x01);
    /// It downloads nothing (BEP 21), or has everything.
    pub const UPLOAD_ONLY: Self = Self(0x02);
    /// It speaks uTP (BEP 29).
    pub const UTP: Self = Self(0x04);
    /// It helps through address translation (BEP 55).
    pub const HOLEPUNCH: Self = Self(0x08);
    /// It was dialled and answered: it can be reached.
    pub const REACHABLE: Self = Self(0x10);

    /// The byte of a message.
    pub fn from_byte(byte: u8) -> Self {
        Self(byte)
    }

    /// The byte of a message.
    pub fn byte(self) -> u8 {
        self.0
    }

    /// Whether all flags of another are set.
    pub fn has(self, flag: Self) -> bool {
        self.0 & flag.0 == flag.0
    }

    /// These and another's, where that is so.
    #[must_use]
    pub fn with(self, flag: Self, so: bool) -> Self {
        if so { Self(self.0 | flag.0) } else { self }
    }
}

impl PexMessage {
    /// Reads the payload of a `ut_pex` message. At most [`MAX_CONTACTS`] of either list are read; missing flags are none
    /// set; those without a port, incomplete ones, entries of another type, unknown entries and bytes after the dictionary
    /// are left out.
    pub fn decode(payload: &[u8]) -> Result<Self, PexError> {
        if payload.len() > MAX_LEN {
            return Err(PexError::TooLong { len: payload.len() });
        }
        let (tree, _trailing) = bencode::decode(payload)?;
        let root = tree.root();
        if !root.is_dict() {
            return Err(PexError::NotADictionary);
        }
        let bytes = |key: &str| root.get(key).and_then(Value::as_bytes).unwrap_or_default();
        let added = contacts(bytes("added"), bytes("added.f"), Family::V4);
        let added6 = contacts(bytes("added6"), bytes("added6.f"), Family::V6);
        let dropped = compact_peers(bytes("dropped"), Family::V4);
        let dropped6 = compact_peers(bytes("dropped6"), Family::V6);
        Ok(Self {
            added: added.chain(added6).take(MAX_CONTACTS).collect(),
            dropped: dropped.chain(dropped6).take(MAX_CONTACTS).collect(),
        })
    }

    /// The payload to send. Lists without contacts are left out.
    pub fn encode(&self) -> Vec<u8> {
        let text = |bytes: Vec<u8>| (!bytes.is_empty()).then_some(Item::Bytes(bytes.into()));
        let list = |addrs: &mut dyn Iterator<Item = SocketAddr>, family| {
            let mut out = Vec::new();
            encode_compact_peers(addrs, family, &mut out);
            text(out)
        };
        let added = |family| list(&mut self.added.iter().map(|contact| contact.addr), family);
        let flags = |family| {
            let of_family = self.added.iter().filter(|contact| Family::from(contact.addr.ip()) == family);
            text(of_family.map(|contact| contact.flags.0).collect())
        };
        let dropped = |family| list(&mut self.dropped.iter().copied(), family);
        Item::dict([
            ("added", added(Family::V4)),
            ("added.f", flags(Family::V4)),
            ("added6", added(Family::V6)),
            ("added6.f", flags(Family::V6)),
            ("dropped", dropped(Family::V4)),
            ("dropped6", dropped(Family::V6)),
        ])
        .to_bytes()
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.dropped.is_empty()
    }
}

/// Why the payload of a `ut_pex` message cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PexError {
    /// Much longer than any real one.
    #[error("ut_pex message of {len} bytes, at most {MAX_LEN} are accepted")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// Not bencode.
    #[error("ut_pex message that is not bencode")]
    Bencode(#[from] bencode::DecodeError),
    /// Another value.
    #[error("ut_pex message that is not a dictionary")]
    NotADictionary,
}

/// The contacts of a compact list with their flags, one byte each; the flags of one without a port go with it.
fn contacts(endpoints: &[u8], flags: &[u8], family: Family) -> impl Iterator<Item = Contact> {
    let flags = flags.iter().copied().chain(std::iter::repeat(0));
    endpoints
        .chunks_exact(family.endpoint_len())
        .zip(flags)
        .filter_map(move |(endpoint, flags)| Some((compact_peers(endpoint, family).next()?, flags)))
        .map(|(addr, flags)| Contact { addr, flags: PexFlags(flags) })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::{Contact, MAX_CONTACTS, MAX_LEN, PexError, PexFlags, PexMessage};

    fn contact(addr: &str, flags: u8) -> Contact {
        Contact { addr: addr.parse().unwrap(), flags: PexFlags(flags) }
    }

    #[test]
    fn a_message_of_both_families_is_understood() {
        let payload = b"d5:added12:\x0a\0\0\x01\x1a\xe1\x0a\0\0\x02\0\x017:added.f2:\x12\x01\
            6:added618: \x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x1a\xe18:added6.f1:\x02\
            7:dropped6:\x0a\0\0\x03\0\x098:dropped618: \x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\0\x09e";
        let message = PexMessage::decode(payload).unwrap();
        let added = [contact("10.0.0.1:6881", 0x12), contact("10.0.0.2:1", 0x01), contact("[2001:db8::1]:6881", 0x02)];
        assert_eq!(message.added, added);
        assert_eq!(message.dropped, ["10.0.0.3:9", "[2001:db8::2]:9"].map(|addr| addr.parse().unwrap()));
        assert!(added[0].flags.has(PexFlags::REACHABLE) && added[0].flags.has(PexFlags::UPLOAD_ONLY));
        assert!(!added[1].flags.has(PexFlags::UPLOAD_ONLY) && added[1].flags.has(PexFlags::PREFERS_ENCRYPTION));
        assert_eq!(message.encode(), payload);
    }

    #[test]
    fn flags_are_combined() {
        let flags = PexFlags::default().with(PexFlags::UTP, true).with(PexFlags::HOLEPUNCH, true);
        assert_eq!(flags.with(PexFlags::REACHABLE, false).byte(), 0x0c);
        assert_eq!(PexFlags::from_byte(0xff).byte(), 0xff);
    }

    #[test]
    fn what_makes_no_sense_is_left_out_and_flags_stay_with_their_contacts() {
        let payload = b"d5:added19:\x0a\0\0\x01\0\0\x0a\0\0\x02\0\x01\x0a\0\0\x03\0\x01\x0a7:added.f2:\x02\x04\
            6:added6i7e7:dropped5:abcde3:fooleee";
        let message = PexMessage::decode(payload).unwrap();
        assert_eq!(message.added, [contact("10.0.0.2:1", 4), contact("10.0.0.3:1", 0)]);
        assert!(message.dropped.is_empty());
        assert_eq!(PexMessage::decode(b"detrailing"), Ok(PexMessage::default()));
        assert!(PexMessage::default().is_empty() && PexMessage::default().encode() == b"de");
    }

    #[test]
    fn a_message_with_more_contacts_than_anybody_has_is_read_in_part() {
        let mut payload = b"d5:added60000:".to_vec();
        payload.extend((0..10_000u16).flat_map(|n| [10, 0, (n >> 8) as u8, n as u8, 0, 1]));
        payload.push(b'e');
        assert_eq!(PexMessage::decode(&payload).unwrap().added.len(), MAX_CONTACTS);
    }

    #[test]
    fn what_is_no_dictionary_is_refused() {
        assert!(matches!(PexMessage::decode(b""), Err(PexError::Bencode(_))));
        assert!(matches!(PexMessage::decode(b"d5:added"), Err(PexError::Bencode(_))));
        assert_eq!(PexMessage::decode(b"i1e"), Err(PexError::NotADictionary));
        let len = MAX_LEN + 1;
        assert_eq!(PexMessage::decode(&vec![b'd'; len]), Err(PexError::TooLong { len }));
    }

    proptest! {
        #[test]
        fn a_message_survives_the_way_there_and_back(
            v4 in vec(any::<([u8; 4], u16, u8)>(), 0..40), v6 in vec(any::<([u16; 7], u16, u8)>(), 0..40),
        ) {
            // Never IPv4 in IPv6, which comes back as IPv4.
            let v6 = v6.into_iter().map(|(ip, port, flags)| {
                let ip: [u16; 8] = std::array::from_fn(|at| if at == 0 { 0x2001 } else { ip[at - 1] });
                ((ip, port.max(1)).into(), flags)
            });
            let v4 = v4.into_iter().map(|(ip, port, flags)| ((ip, port.max(1)).into(), flags));
            let added: Vec<_> = v4.chain(v6).map(|(addr, flags)| Contact { addr, flags: PexFlags(flags) }).collect();
            let message = PexMessage { dropped: added.iter().map(|contact| contact.addr).collect(), added };
            let payload = message.encode();
            prop_assert_eq!(PexMessage::decode(&payload), Ok(message));
            for cut in 0..payload.len() {
                prop_assert!(PexMessage::decode(&payload[..cut]).is_err());
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..200), dict in "d(5:added|6:added6|7:dropped|[0-9e:l])*e") {
            let _ = PexMessage::decode(&bytes);
            let _ = PexMessage::decode(dict.as_bytes());
        }
    }
}
