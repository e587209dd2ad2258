//! Metadata between peers: the messages of `ut_metadata` (BEP 9).
//!
//! It owns their layout, and which size the metadata and each of its pieces may have. It refuses sizes beyond the bound
//! and data of another length than its place has; whether a size is true only the info-hash tells.
//!
//! ```text
//! d8:msg_typei0e5:piecei3ee                      request: piece 3, please
//! d8:msg_typei1e5:piecei3e10:total_sizei50000ee  data, followed by the bytes of the piece
//! d8:msg_typei2e5:piecei3ee                      reject: not from me
//! ```

use crate::bencode::{self, Item};

/// The length of every piece of metadata but the last, in bytes.
pub const METADATA_PIECE_LEN: usize = 16 * 1024;

/// The longest metadata that is taken, in bytes: 32 MiB, some 1.6 million pieces.
pub const MAX_METADATA_LEN: u32 = 32 << 20;

/// The most bytes that the dictionary of a message may take; real ones have some 50.
const MAX_DICT_LEN: usize = 1024;

/// A length that metadata may have: at least 1, at most [`MAX_METADATA_LEN`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MetadataLen(u32);

/// One message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetadataMessage<'a> {
    /// The sender wants a piece.
    Request {
        /// Which one; a claim.
        piece: u32,
    },
    /// A piece.
    Data {
        /// Which one; it exists in metadata of this length.
        piece: u32,
        /// The length of the whole, as the sender claims.
        total: MetadataLen,
        /// The bytes, as many as this piece has.
        bytes: &'a [u8],
    },
    /// The sender does not give a piece.
    Reject {
        /// Which one; a claim.
        piece: u32,
    },
}

/// Why bytes are no message of `ut_metadata`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// They do not begin with a dictionary.
    #[error("a metadata message that is no dictionary")]
    NotADictionary,
    /// `msg_type` or `piece` is missing or no number that it can be.
    #[error("a metadata message without a type or a piece")]
    Incomplete,
    /// Data without a `total_size` from 1 to 32 MiB.
    #[error("metadata with a total size that it cannot have")]
    Total,
    /// A piece that metadata of its size does not have, or of another length.
    #[error("metadata piece {piece} with {len} bytes, which it cannot have")]
    Piece {
        /// Which one.
        piece: u32,
        /// How many bytes came.
        len: usize,
    },
}

impl MetadataLen {
    /// A length in bytes; `None` where metadata may not have it.
    pub fn new(len: u32) -> Option<Self> {
        (1..=MAX_METADATA_LEN).contains(&len).then_some(Self(len))
    }

    /// The length in bytes.
    pub fn get(self) -> u32 {
        self.0
    }

    /// How many pieces it has: at most 2,048.
    pub fn pieces(self) -> u32 {
        self.0.div_ceil(METADATA_PIECE_LEN as u32)
    }

    /// The length of a piece in bytes; `None` where there is no such piece.
    pub fn piece_len(self, piece: u32) -> Option<usize> {
        let left = (self.0 as usize).checked_sub(piece as usize * METADATA_PIECE_LEN)?;
        (left > 0).then_some(left.min(METADATA_PIECE_LEN))
    }
}

impl<'a> MetadataMessage<'a> {
    /// Reads the payload of an extension message that has our id for `ut_metadata`. `None` for a type that BEP 9 does not
    /// have, which is to be ignored.
    pub fn decode(payload: &'a [u8]) -> Result<Option<Self>, MetadataError> {
        let dict = &payload[..payload.len().min(MAX_DICT_LEN)];
        let (tree, rest) = bencode::decode(dict).map_err(|_| MetadataError::NotADictionary)?;
        let root = tree.root();
        if !root.is_dict() {
            return Err(MetadataError::NotADictionary);
        }
        let number = |key: &str| root.get(key)?.as_int();
        let small = |key: &str| number(key).and_then(|int| u32::try_from(int).ok());
        let piece = small("piece").ok_or(MetadataError::Incomplete)?;
        match number("msg_type").ok_or(MetadataError::Incomplete)? {
            0 => Ok(Some(Self::Request { piece })),
            1 => {
                let total = small("total_size").and_then(MetadataLen::new).ok_or(MetadataError::Total)?;
                let bytes = &payload[dict.len() - rest.len()..];
                if total.piece_len(piece) != Some(bytes.len()) {
                    return Err(MetadataError::Piece { piece, len: bytes.len() });
                }
                Ok(Some(Self::Data { piece, total, bytes }))
            }
            2 => Ok(Some(Self::Reject { piece })),
            _ => Ok(None),
        }
    }

    /// The payload to send by the receiver's id for `ut_metadata`.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, piece, total) = match *self {
            Self::Request { piece } => (0, piece, None),
            Self::Data { piece, total, .. } => (1, piece, Some(total)),
            Self::Reject { piece } => (2, piece, None),
        };
        let mut out = Item::dict([
            ("msg_type", Some(Item::Int(kind))),
            ("piece", Some(Item::Int(piece.into()))),
            ("total_size", total.map(|total| Item::Int(total.get().into()))),
        ])
        .to_bytes();
        if let Self::Data { bytes, .. } = self {
            out.extend_from_slice(bytes);
        }
        out
    }
}

/// The message that answers a request for a piece of the metadata that we have; a reject where there is no such piece.
pub fn answer(metadata: &[u8], piece: u32) -> MetadataMessage<'_> {
    let total = u32::try_from(metadata.len()).ok().and_then(MetadataLen::new);
    let found = total.and_then(|total| Some((total, total.piece_len(piece)?)));
    let start = piece as usize * METADATA_PIECE_LEN;
    match found {
        Some((total, len)) => MetadataMessage::Data { piece, total, bytes: &metadata[start..start + len] },
        None => MetadataMessage::Reject { piece },
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::{MAX_METADATA_LEN, METADATA_PIECE_LEN, MetadataError, MetadataLen, MetadataMessage, answer};

    #[test]
    fn messages_are_those_of_the_specification() {
        let request = MetadataMessage::Request { piece: 0 };
        assert_eq!(request.encode(), b"d8:msg_typei0e5:piecei0ee");
        assert_eq!(MetadataMessage::decode(b"d8:msg_typei0e5:piecei0ee"), Ok(Some(request)));
        let reject = MetadataMessage::Reject { piece: 7 };
        assert_eq!(reject.encode(), b"d8:msg_typei2e5:piecei7ee");
        assert_eq!(MetadataMessage::decode(&reject.encode()), Ok(Some(reject)));
        let total = MetadataLen::new(16384 + 3).unwrap();
        let data = MetadataMessage::Data { piece: 1, total, bytes: b"xyz" };
        assert_eq!(data.encode(), b"d8:msg_typei1e5:piecei1e10:total_sizei16387eexyz");
        assert_eq!(MetadataMessage::decode(&data.encode()), Ok(Some(data)));
        assert_eq!(MetadataMessage::decode(b"d8:msg_typei9e5:piecei0ee"), Ok(None));
    }

    #[test]
    fn data_has_exactly_the_length_of_its_place() {
        let data = |piece: u32, total: u32, len: usize| {
            let head = format!("d8:msg_typei1e5:piecei{piece}e10:total_sizei{total}ee");
            let bytes = [head.as_bytes(), &vec![b'x'; len]].concat();
            MetadataMessage::decode(&bytes).map(|message| message.is_some())
        };
        assert_eq!(data(0, 16384, 16384), Ok(true));
        assert_eq!(data(1, 16385, 1), Ok(true));
        for (piece, total, len) in [(1, 16384, 0), (0, 16384, 16383), (0, 16384, 16385), (1, 16385, 16384), (0, 5, 0)] {
            assert_eq!(data(piece, total, len), Err(MetadataError::Piece { piece, len }), "{piece} {total} {len}");
        }
        assert_eq!(data(0, 0, 0), Err(MetadataError::Total));
        assert_eq!(data(0, MAX_METADATA_LEN + 1, 16384), Err(MetadataError::Total));
        assert_eq!(data(u32::MAX, MAX_METADATA_LEN, 1), Err(MetadataError::Piece { piece: u32::MAX, len: 1 }));
    }

    #[test]
    fn what_is_incomplete_is_refused() {
        let decode = MetadataMessage::decode;
        assert_eq!(decode(b""), Err(MetadataError::NotADictionary));
        assert_eq!(decode(b"le"), Err(MetadataError::NotADictionary));
        assert_eq!(decode(b"d8:msg_typei0ee"), Err(MetadataError::Incomplete));
        assert_eq!(decode(b"d5:piecei0ee"), Err(MetadataError::Incomplete));
        assert_eq!(decode(b"d8:msg_typei0e5:piecei-1ee"), Err(MetadataError::Incomplete));
        assert_eq!(decode(b"d8:msg_typei0e5:piecei4294967296ee"), Err(MetadataError::Incomplete));
        assert_eq!(decode(b"d8:msg_typei1e5:piecei0e10:total_sizei4294967295ee"), Err(MetadataError::Total));
    }

    #[test]
    fn an_answer_is_the_piece_or_a_reject() {
        let metadata: Vec<u8> = (0..METADATA_PIECE_LEN + 5).map(|n| n as u8).collect();
        assert!(matches!(answer(&metadata, 0), MetadataMessage::Data { bytes, .. } if bytes == &metadata[..16384]));
        assert!(matches!(answer(&metadata, 1), MetadataMessage::Data { bytes, .. } if bytes == &metadata[16384..]));
        assert_eq!(answer(&metadata, 2), MetadataMessage::Reject { piece: 2 });
        assert_eq!(answer(&metadata, u32::MAX), MetadataMessage::Reject { piece: u32::MAX });
        assert_eq!(answer(&[], 0), MetadataMessage::Reject { piece: 0 });
    }

    proptest! {
        #[test]
        fn the_pieces_of_any_metadata_make_it_up_again(metadata in vec(any::<u8>(), 1..80_000)) {
            let total = MetadataLen::new(metadata.len() as u32).unwrap();
            let mut whole = Vec::new();
            for piece in 0..total.pieces() {
                let payload = answer(&metadata, piece).encode();
                match MetadataMessage::decode(&payload) {
                    Ok(Some(MetadataMessage::Data { bytes, .. })) => whole.extend_from_slice(bytes),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            prop_assert_eq!(whole, metadata);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in "[ilde0-9:a-z_]{0,60}") {
            let _ = MetadataMessage::decode(bytes.as_bytes());
        }
    }
}
