//! The messages between peers after the handshake (BEP 3, 5, 6, 10), and the allowed-fast set (BEP 6).
//!
//! It owns their layout and their lengths; it refuses a length that its message cannot have before anybody allocates
//! it. Whether an index exists, a message was expected or an extension was agreed is for the caller to judge.
//!
//! ```text
//! 0  4 bytes  length of what follows; 0 is a keep-alive
//! 4  1 byte   message id
//! 5  ...      by message; a piece has 4 bytes index, 4 bytes begin, then the payload
//! ```
//!
//! A receiver calls [`peek`] on what it has: a piece's payload can then go from the socket to where it belongs without
//! passing through a message buffer, everything else is a [`Message`] to decode.

use std::net::IpAddr;

use super::{Reader, Truncated};
use crate::hash::sha1;
use crate::metainfo::InfoHash;

/// The longest payload of a piece message that is accepted, and the longest request that is worth answering: 128 KiB.
pub const MAX_BLOCK_LEN: u32 = 128 * 1024;

/// The longest message that is accepted, but for the bitfield of a torrent so large that it needs more.
const MAX_FRAME_LEN: u32 = 1024 * 1024;

/// Length prefix, id, index and begin: what stands before the payload of a piece message.
pub const PIECE_HEADER_LEN: usize = 13;

/// The ids that stand for a message on the wire.
mod id {
    pub(super) const CHOKE: u8 = 0;
    pub(super) const UNCHOKE: u8 = 1;
    pub(super) const INTERESTED: u8 = 2;
    pub(super) const NOT_INTERESTED: u8 = 3;
    pub(super) const HAVE: u8 = 4;
    pub(super) const BITFIELD: u8 = 5;
    pub(super) const REQUEST: u8 = 6;
    pub(super) const PIECE: u8 = 7;
    pub(super) const CANCEL: u8 = 8;
    pub(super) const PORT: u8 = 9;
    pub(super) const SUGGEST: u8 = 13;
    pub(super) const HAVE_ALL: u8 = 14;
    pub(super) const HAVE_NONE: u8 = 15;
    pub(super) const REJECT: u8 = 16;
    pub(super) const ALLOWED_FAST: u8 = 17;
    pub(super) const EXTENDED: u8 = 20;
}

/// One message. Indices, offsets and lengths are the sender's claims.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message<'a> {
    /// Nothing, sent to keep the connection open.
    KeepAlive,
    /// The sender will answer no requests.
    Choke,
    /// The sender will answer requests.
    Unchoke,
    /// The sender wants pieces that the receiver has.
    Interested,
    /// The sender wants nothing that the receiver has.
    NotInterested,
    /// The sender has this piece.
    Have(u32),
    /// The pieces that the sender has, most significant bit first.
    Bitfield(&'a [u8]),
    /// The sender wants these bytes.
    Request {
        /// The piece.
        index: u32,
        /// The first byte within the piece.
        begin: u32,
        /// How many bytes.
        len: u32,
    },
    /// Bytes of a piece.
    Piece {
        /// The piece.
        index: u32,
        /// The first byte within the piece.
        begin: u32,
        /// The bytes.
        data: &'a [u8],
    },
    /// The sender no longer wants these bytes.
    Cancel {
        /// The piece.
        index: u32,
        /// The first byte within the piece.
        begin: u32,
        /// How many bytes.
        len: u32,
    },
    /// The UDP port of the sender's DHT node (BEP 5).
    Port(u16),
    /// The receiver might like to ask for this piece (BEP 6).
    Suggest(u32),
    /// The sender has every piece; instead of a bitfield (BEP 6).
    HaveAll,
    /// The sender has no piece; instead of a bitfield (BEP 6).
    HaveNone,
    /// The sender will not answer this request (BEP 6).
    Reject {
        /// The piece.
        index: u32,
        /// The first byte within the piece.
        begin: u32,
        /// How many bytes.
        len: u32,
    },
    /// The receiver may ask for this piece even while it is choked (BEP 6).
    AllowedFast(u32),
    /// A message of the extension protocol (BEP 10).
    Extended {
        /// 0 is the extension handshake; the others mean what the receiver's handshake says.
        id: u8,
        /// What follows.
        payload: &'a [u8],
    },
    /// A message that this client does not know: to be ignored (BEP 3).
    Unknown {
        /// Its id.
        id: u8,
    },
}

impl<'a> Message<'a> {
    /// Reads the body of a message: what follows the length prefix, to its end.
    pub fn decode(body: &'a [u8]) -> Result<Self, WireError> {
        let Some((&id, payload)) = body.split_first() else { return Ok(Self::KeepAlive) };
        let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
        check_len(id, len, None)?;
        // The length has been checked, so that no read is cut short; if one were, it is an error all the same.
        Self::decode_payload(id, payload).map_err(|Truncated { .. }| WireError::Length { id, len })
    }

    /// Appends the whole message, its length prefix included.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        match *self {
            Self::KeepAlive => out.extend([0; 4]),
            Self::Choke => frame(out, id::CHOKE, &[]),
            Self::Unchoke => frame(out, id::UNCHOKE, &[]),
            Self::Interested => frame(out, id::INTERESTED, &[]),
            Self::NotInterested => frame(out, id::NOT_INTERESTED, &[]),
            Self::Have(index) => frame(out, id::HAVE, &[&index.to_be_bytes()]),
            Self::Bitfield(bits) => frame(out, id::BITFIELD, &[bits]),
            Self::Request { index, begin, len } => frame_range(out, id::REQUEST, index, begin, len),
            Self::Piece { index, begin, data } => {
                frame(out, id::PIECE, &[&index.to_be_bytes(), &begin.to_be_bytes(), data]);
            }
            Self::Cancel { index, begin, len } => frame_range(out, id::CANCEL, index, begin, len),
            Self::Port(port) => frame(out, id::PORT, &[&port.to_be_bytes()]),
            Self::Suggest(index) => frame(out, id::SUGGEST, &[&index.to_be_bytes()]),
            Self::HaveAll => frame(out, id::HAVE_ALL, &[]),
            Self::HaveNone => frame(out, id::HAVE_NONE, &[]),
            Self::Reject { index, begin, len } => frame_range(out, id::REJECT, index, begin, len),
            Self::AllowedFast(index) => frame(out, id::ALLOWED_FAST, &[&index.to_be_bytes()]),
            Self::Extended { id, payload } => frame(out, id::EXTENDED, &[&[id], payload]),
            Self::Unknown { id } => frame(out, id, &[]),
        }
    }

    /// Whether this message may come only where both ends speak the Fast extension: BEP 6 wants the connection closed
    /// where it comes without.
    pub fn needs_fast(&self) -> bool {
        matches!(self, Self::Suggest(_) | Self::HaveAll | Self::HaveNone | Self::Reject { .. } | Self::AllowedFast(_))
    }

    fn decode_payload(id: u8, payload: &'a [u8]) -> Result<Self, Truncated> {
        let mut reader = Reader::new(payload);
        Ok(match id {
            id::CHOKE => Self::Choke,
            id::UNCHOKE => Self::Unchoke,
            id::INTERESTED => Self::Interested,
            id::NOT_INTERESTED => Self::NotInterested,
            id::HAVE => Self::Have(reader.u32()?),
            id::BITFIELD => Self::Bitfield(payload),
            id::REQUEST => Self::Request { index: reader.u32()?, begin: reader.u32()?, len: reader.u32()? },
            id::PIECE => Self::Piece { index: reader.u32()?, begin: reader.u32()?, data: reader.rest() },
            id::CANCEL => Self::Cancel { index: reader.u32()?, begin: reader.u32()?, len: reader.u32()? },
            id::PORT => Self::Port(reader.u16()?),
            id::SUGGEST => Self::Suggest(reader.u32()?),
            id::HAVE_ALL => Self::HaveAll,
            id::HAVE_NONE => Self::HaveNone,
            id::REJECT => Self::Reject { index: reader.u32()?, begin: reader.u32()?, len: reader.u32()? },
            id::ALLOWED_FAST => Self::AllowedFast(reader.u32()?),
            id::EXTENDED => Self::Extended { id: reader.u8()?, payload: reader.rest() },
            id => Self::Unknown { id },
        })
    }
}

/// What stands before the `len` bytes of payload of a piece message, for a sender whose payload lies elsewhere.
///
/// `len` must be at most [`MAX_BLOCK_LEN`], as every request that is answered is.
pub fn piece_header(index: u32, begin: u32, len: u32) -> [u8; PIECE_HEADER_LEN] {
    debug_assert!(len <= MAX_BLOCK_LEN, "a piece message of {len} bytes");
    let mut header = [0; PIECE_HEADER_LEN];
    header[..4].copy_from_slice(&(9 + len).to_be_bytes());
    header[4] = id::PIECE;
    header[5..9].copy_from_slice(&index.to_be_bytes());
    header[9..].copy_from_slice(&begin.to_be_bytes());
    header
}

/// How long a peer's messages may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    max_frame: u32,
    /// The bytes of the torrent's bitfield; `None` where its metadata is still unknown.
    bitfield: Option<u32>,
}

impl Limits {
    /// For a torrent of `pieces` pieces: a bitfield must have exactly their length, no message is longer than that
    /// or 1 MiB.
    pub fn for_pieces(pieces: u32) -> Self {
        let bitfield = pieces.div_ceil(8);
        Self { max_frame: MAX_FRAME_LEN.max(bitfield + 1), bitfield: Some(bitfield) }
    }

    /// For a torrent whose number of pieces is not known yet: no message is longer than 1 MiB.
    pub fn without_metadata() -> Self {
        Self { max_frame: MAX_FRAME_LEN, bitfield: None }
    }

    /// The longest message that is accepted, in bytes without the length prefix.
    pub fn max_frame_len(&self) -> u32 {
        self.max_frame
    }
}

/// What the next bytes of a connection are, as [`peek`] finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Header {
    /// The bytes do not say yet: read more, 13 are always enough.
    NeedMore,
    /// A keep-alive: 4 bytes.
    KeepAlive,
    /// A piece message: 13 bytes of header, then its payload.
    Piece {
        /// The piece.
        index: u32,
        /// The first byte within the piece.
        begin: u32,
        /// The length of the payload, at most [`MAX_BLOCK_LEN`].
        len: u32,
    },
    /// Another message: 4 bytes of length prefix, then its body for [`Message::decode`].
    Message {
        /// The length of the body, its id included, within the limits.
        len: usize,
    },
}

/// Says what message begins at the start of `buf`, and refuses one whose length is wrong for its kind or beyond the
/// limits. At most the first 13 bytes are looked at; nothing is consumed.
pub fn peek(buf: &[u8], limits: &Limits) -> Result<Header, WireError> {
    let mut reader = Reader::new(buf);
    let Ok(len) = reader.u32() else { return Ok(Header::NeedMore) };
    if len == 0 {
        return Ok(Header::KeepAlive);
    }
    let id = reader.u8().ok();
    // Only a bitfield may be as long as a large torrent's bitfield.
    let max = if matches!(id, None | Some(id::BITFIELD)) { limits.max_frame } else { MAX_FRAME_LEN };
    if len > max {
        return Err(WireError::TooLong { id, len, max });
    }
    let Some(id) = id else { return Ok(Header::NeedMore) };
    check_len(id, len, limits.bitfield)?;
    if id != id::PIECE {
        return Ok(Header::Message { len: len as usize });
    }
    let (Ok(index), Ok(begin)) = (reader.u32(), reader.u32()) else { return Ok(Header::NeedMore) };
    Ok(Header::Piece { index, begin, len: len - 9 })
}

/// How a peer broke the protocol: the connection to it has to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// A message longer than any that this torrent needs.
    #[error("message {} of {len} bytes, at most {max} are accepted", id.map_or("of unknown kind", name))]
    TooLong {
        /// Its id, where it has come.
        id: Option<u8>,
        /// Its length, id included.
        len: u32,
        /// The greatest length accepted.
        max: u32,
    },
    /// A message whose length its kind cannot have.
    #[error("message {} of {len} bytes, which it cannot have", name(*id))]
    Length {
        /// Its id.
        id: u8,
        /// Its length, id included.
        len: u32,
    },
    /// A bitfield that is not one bit for each piece, rounded up to bytes.
    #[error("bitfield of {len} bytes, where the torrent's has {expected}")]
    BitfieldLength {
        /// The bytes that the peer claims to send.
        len: u32,
        /// The bytes that the torrent's number of pieces makes.
        expected: u32,
    },
    /// A piece message with more payload than anybody asks for.
    #[error("piece of {len} bytes, at most {MAX_BLOCK_LEN} are accepted")]
    PieceTooLong {
        /// The length of the payload.
        len: u32,
    },
}

/// The pieces that a peer may ask for while it is choked: at most `k`, in the canonical order (BEP 6), fewer where the
/// torrent has no more pieces.
///
/// `ip` is the address of the peer that will be told. BEP 6 masks an IPv4 address to its /24 and says nothing of
/// IPv6: here an IPv6 address is masked to its /64, the least that one subscriber has, and enters the hash as 16 bytes.
/// Only the sender computes the set, so the two ends need not agree. An IPv4-mapped address counts as IPv4.
pub fn allowed_fast(ip: IpAddr, info_hash: &InfoHash, pieces: u32, k: usize) -> Vec<u32> {
    if usize::try_from(pieces).is_ok_and(|pieces| pieces <= k) {
        return (0..pieces).collect();
    }
    let mut hash = match ip.to_canonical() {
        IpAddr::V4(ip) => sha1([(ip.to_bits() & !0xff).to_be_bytes().as_slice(), info_hash.as_bytes()]),
        IpAddr::V6(ip) => sha1([(ip.to_bits() & !u128::from(u64::MAX)).to_be_bytes().as_slice(), info_hash.as_bytes()]),
    };
    let mut set = Vec::new();
    // There are more pieces than `k`, so that new ones keep coming.
    while set.len() < k {
        let mut reader = Reader::new(&hash);
        while let (Ok(number), true) = (reader.u32(), set.len() < k) {
            let index = number % pieces;
            if !set.contains(&index) {
                set.push(index);
            }
        }
        hash = sha1([hash.as_slice()]);
    }
    set
}

/// Refuses a body length, id included, that a message of this id cannot have. `bitfield` is the length of the torrent's
/// bitfield where it is known.
fn check_len(id: u8, len: u32, bitfield: Option<u32>) -> Result<(), WireError> {
    let fits = match id {
        id::CHOKE | id::UNCHOKE | id::INTERESTED | id::NOT_INTERESTED | id::HAVE_ALL | id::HAVE_NONE => len == 1,
        id::HAVE | id::SUGGEST | id::ALLOWED_FAST => len == 5,
        id::REQUEST | id::CANCEL | id::REJECT => len == 13,
        id::PORT => len == 3,
        id::EXTENDED => len >= 2,
        id::PIECE if len > 9 + MAX_BLOCK_LEN => return Err(WireError::PieceTooLong { len: len - 9 }),
        id::PIECE => len >= 9,
        id::BITFIELD => match bitfield {
            Some(expected) if expected != len - 1 => {
                return Err(WireError::BitfieldLength { len: len - 1, expected });
            }
            _ => true,
        },
        _ => true,
    };
    if fits { Ok(()) } else { Err(WireError::Length { id, len }) }
}

/// Appends a message: its length, its id and its payload in parts.
fn frame(out: &mut Vec<u8>, id: u8, payload: &[&[u8]]) {
    let len = 1 + payload.iter().map(|part| part.len()).sum::<usize>();
    let prefix = u32::try_from(len).expect("what this client sends is far below 4 GiB");
    out.reserve(4 + len);
    out.extend(prefix.to_be_bytes());
    out.push(id);
    payload.iter().for_each(|part| out.extend_from_slice(part));
}

/// Appends a message that names a range of a piece.
fn frame_range(out: &mut Vec<u8>, id: u8, index: u32, begin: u32, len: u32) {
    frame(out, id, &[&index.to_be_bytes(), &begin.to_be_bytes(), &len.to_be_bytes()]);
}

/// A message's name and id, for errors.
fn name(id: u8) -> &'static str {
    match id {
        id::CHOKE => "0 (choke)",
        id::UNCHOKE => "1 (unchoke)",
        id::INTERESTED => "2 (interested)",
        id::NOT_INTERESTED => "3 (not interested)",
        id::HAVE => "4 (have)",
        id::BITFIELD => "5 (bitfield)",
        id::REQUEST => "6 (request)",
        id::PIECE => "7 (piece)",
        id::CANCEL => "8 (cancel)",
        id::PORT => "9 (port)",
        id::SUGGEST => "13 (suggest piece)",
        id::HAVE_ALL => "14 (have all)",
        id::HAVE_NONE => "15 (have none)",
        id::REJECT => "16 (reject request)",
        id::ALLOWED_FAST => "17 (allowed fast)",
        id::EXTENDED => "20 (extended)",
        _ => "of unknown kind",
    }
}

#[cfg(test)]
mod tests;
