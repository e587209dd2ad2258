//! The packets of uTP (BEP 29), version 1.
//!
//! It owns their layout; it refuses other versions, types that there are not, and extensions that reach beyond the packet.
//! Of extensions it knows the selective ack, and passes over what others say.
//!
//! ```text
//! 0       1       2               4
//! ├───────┼───────┼───────────────┤
//! │type│ver│ext   │ connection id │
//! ├───────┴───────┴───────────────┤
//! │ timestamp, microseconds       │
//! ├───────────────────────────────┤
//! │ difference of timestamps      │
//! ├───────────────────────────────┤
//! │ window, bytes                 │
//! ├───────────────┬───────────────┤
//! │ seq nr        │ ack nr        │
//! └───────────────┴───────────────┘   then extensions: the type of the next one, length, bytes
//! ```

use super::{Reader, Truncated};

/// How long a header is without extensions, in bytes.
pub const HEADER_LEN: usize = 20;

const VERSION: u8 = 1;

/// The extension that says what arrived out of order.
const SELECTIVE_ACK: u8 = 1;

/// What a packet is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It carries bytes.
    Data,
    /// The last one of a stream.
    Fin,
    /// It says what arrived.
    State,
    /// The connection is ended, or there is none.
    Reset,
    /// It asks for a connection.
    Syn,
}

/// A header, extensions aside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the packet is about.
    pub kind: Kind,
    /// Of a [`Syn`](Kind::Syn) the id by which it wants to be answered; of others that of the receiver.
    pub connection_id: u16,
    /// When it was sent, in microseconds by a clock of the sender's own.
    pub timestamp: u32,
    /// How much later, by the receiver's clock, the latest packet came than it was sent by the sender's.
    pub difference: u32,
    /// How many bytes the sender has room for.
    pub window: u32,
    /// The number of this packet.
    pub seq_nr: u16,
    /// The number of the last packet that arrived in order.
    pub ack_nr: u16,
}

/// A whole packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<'a> {
    /// Its header.
    pub header: Header,
    /// What arrived out of order.
    pub selective: SelectiveAck<'a>,
    /// The bytes of the stream that it carries.
    pub payload: &'a [u8],
}

/// A bit for each packet from the second after `ack_nr` on, those of a byte from the lowest up: whether it arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SelectiveAck<'a>(&'a [u8]);

/// Why a datagram is no packet of uTP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// It ends before the header, or an extension, does.
    #[error("the packet is too short: {0}")]
    Truncated(#[from] Truncated),
    /// It is of another version.
    #[error("uTP of version {0}")]
    Version(u8),
    /// It is of a type that there is not.
    #[error("a packet of type {0}")]
    Kind(u8),
}

impl Header {
    /// Whether a datagram that begins with this byte can be a packet of version 1.
    pub fn begins_with(first: u8) -> bool {
        first & 0xf == VERSION && Kind::from_number(first >> 4).is_some()
    }

    /// Reads the header of a packet.
    pub fn decode(packet: &[u8]) -> Result<Self, HeaderError> {
        Packet::decode(packet).map(|packet| packet.header)
    }

    /// The packet that consists of this header.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0] = self.kind.number() << 4 | VERSION;
        out[2..4].copy_from_slice(&self.connection_id.to_be_bytes());
        out[4..8].copy_from_slice(&self.timestamp.to_be_bytes());
        out[8..12].copy_from_slice(&self.difference.to_be_bytes());
        out[12..16].copy_from_slice(&self.window.to_be_bytes());
        out[16..18].copy_from_slice(&self.seq_nr.to_be_bytes());
        out[18..20].copy_from_slice(&self.ack_nr.to_be_bytes());
        out
    }
}

impl<'a> Packet<'a> {
    /// Reads a packet.
    pub fn decode(packet: &'a [u8]) -> Result<Self, HeaderError> {
        let mut reader = Reader::new(packet);
        let first = reader.u8()?;
        if first & 0xf != VERSION {
            return Err(HeaderError::Version(first & 0xf));
        }
        let kind = Kind::from_number(first >> 4).ok_or(HeaderError::Kind(first >> 4))?;
        let mut extension = reader.u8()?;
        let header = Header {
            kind,
            connection_id: reader.u16()?,
            timestamp: reader.u32()?,
            difference: reader.u32()?,
            window: reader.u32()?,
            seq_nr: reader.u16()?,
            ack_nr: reader.u16()?,
        };
        let mut selective = &[][..];
        while extension != 0 {
            let is_selective = extension == SELECTIVE_ACK;
            extension = reader.u8()?;
            let len = reader.u8()?;
            let said = reader.take(len.into())?;
            if is_selective {
                selective = said;
            }
        }
        Ok(Self { header, selective: SelectiveAck(selective), payload: reader.rest() })
    }

    /// Appends the packet.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let mut header = self.header.encode();
        let selective = self.selective.0;
        if !selective.is_empty() {
            header[1] = SELECTIVE_ACK;
        }
        out.extend_from_slice(&header);
        if let Ok(len @ 1..) = u8::try_from(selective.len()) {
            out.extend_from_slice(&[0, len]);
            out.extend_from_slice(selective);
        }
        out.extend_from_slice(self.payload);
    }
}

impl<'a> SelectiveAck<'a> {
    /// Of at most 252 bytes, a multiple of 4, as others expect it.
    pub fn new(bits: &'a [u8]) -> Self {
        Self(&bits[..bits.len().min(252)])
    }

    /// The packets that arrived, each as its distance from the one after `ack_nr`, which is missing; ascending.
    pub fn arrived(self) -> impl Iterator<Item = u16> + 'a {
        let bits = (0..8 * self.0.len()).filter(move |bit| self.0[bit / 8] >> (bit % 8) & 1 == 1);
        bits.map(|bit| bit as u16 + 1)
    }

    /// Marks a packet, by its distance from the one after `ack_nr`: the bits for it, where there is room.
    pub fn mark(bits: &mut [u8], distance: u16) {
        let Some(bit) = distance.checked_sub(1) else { return };
        if let Some(byte) = bits.get_mut(usize::from(bit / 8)) {
            *byte |= 1 << (bit % 8);
        }
    }
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Fin => 1,
            Self::State => 2,
            Self::Reset => 3,
            Self::Syn => 4,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::Data, Self::Fin, Self::State, Self::Reset, Self::Syn].into_iter().find(|kind| kind.number() == number)
    }
}

#[cfg(test)]
mod tests {
    use super::{Header, HeaderError, Kind, Packet, SelectiveAck};

    /// A packet that asks for a connection.
    const SYN: [u8; 20] = [0x41, 0, 0x12, 0x34, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0x10, 0, 0, 0xab, 0xcd, 0, 0];

    #[test]
    fn a_header_is_read_and_written_field_by_field() {
        let header = Header::decode(&SYN).unwrap();
        let expected = Header {
            kind: Kind::Syn,
            connection_id: 0x1234,
            timestamp: 0x0102_0304,
            difference: 0,
            window: 0x0010_0000,
            seq_nr: 0xabcd,
            ack_nr: 0,
        };
        assert_eq!(header, expected);
        assert_eq!(header.encode(), SYN);
        let other = Header { kind: Kind::Reset, difference: 7, ack_nr: 0xabcd, ..expected };
        assert_eq!(Header::decode(&other.encode()), Ok(other));
    }

    #[test]
    fn extensions_are_passed_over_and_none_reaches_beyond_the_packet() {
        let with = |tail: &[u8]| {
            let mut packet = SYN.to_vec();
            packet[1] = 2;
            packet.extend_from_slice(tail);
            Header::decode(&packet)
        };
        let bare = Header::decode(&SYN);
        assert_eq!(with(&[0, 8, 1, 2, 3, 4, 5, 6, 7, 8]), bare);
        assert_eq!(with(&[1, 2, 9, 9, 0, 1, 7]), bare);
        for tail in [&[][..], &[0], &[0, 1], &[1, 0], &[1, 1, 7, 0, 2, 1]] {
            assert!(matches!(with(tail), Err(HeaderError::Truncated(_))), "{tail:?}");
        }
    }

    #[test]
    fn a_packet_carries_bytes_and_says_what_arrived_out_of_order() {
        let header = Header { kind: Kind::Data, ..Header::decode(&SYN).unwrap() };
        let mut bits = [0; 4];
        for distance in [0, 1, 3, 8, 9, 32, 33] {
            SelectiveAck::mark(&mut bits, distance);
        }
        assert_eq!(bits, [0b1000_0101, 1, 0, 0x80]);
        let packet = Packet { header, selective: SelectiveAck::new(&bits), payload: b"bytes" };
        let mut out = Vec::new();
        packet.encode_into(&mut out);
        assert_eq!(out[..2], [0x01, 1]);
        assert_eq!(out[20..], [&[0, 4], &bits[..], b"bytes"].concat());
        assert_eq!(Packet::decode(&out), Ok(packet));
        assert_eq!(packet.selective.arrived().collect::<Vec<_>>(), [1, 3, 8, 9, 32]);
        let bare = Packet { selective: SelectiveAck::default(), ..packet };
        out.clear();
        bare.encode_into(&mut out);
        assert_eq!(out.len(), 25);
        assert_eq!(Packet::decode(&out), Ok(bare));
    }

    #[test]
    fn what_is_short_of_another_version_or_unheard_of_is_no_header() {
        for len in 0..SYN.len() {
            assert!(matches!(Header::decode(&SYN[..len]), Err(HeaderError::Truncated(_))), "{len} bytes");
        }
        let first = |first: u8| Header::decode(&[&[first], &SYN[1..]].concat());
        assert_eq!(first(0x40), Err(HeaderError::Version(0)));
        assert_eq!(first(0x51), Err(HeaderError::Kind(5)));
        let claimed: Vec<u8> = (0..=255).filter(|&first| Header::begins_with(first)).collect();
        assert_eq!(claimed, [0x01, 0x11, 0x21, 0x31, 0x41]);
    }
}
