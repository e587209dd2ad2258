//! Messages to bytes and back, and bytes that are none.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};

use super::{Header, Limits, MAX_BLOCK_LEN, Message, WireError, allowed_fast, peek, piece_header};
use crate::metainfo::InfoHash;

fn encoded(message: Message<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode_into(&mut out);
    out
}

const EXAMPLES: [(Message<'static>, &[u8]); 18] = [
    (Message::KeepAlive, &[0, 0, 0, 0]),
    (Message::Choke, &[0, 0, 0, 1, 0]),
    (Message::Unchoke, &[0, 0, 0, 1, 1]),
    (Message::Interested, &[0, 0, 0, 1, 2]),
    (Message::NotInterested, &[0, 0, 0, 1, 3]),
    (Message::Have(0x0102_0304), &[0, 0, 0, 5, 4, 1, 2, 3, 4]),
    (Message::Bitfield(&[0x80, 0x40]), &[0, 0, 0, 3, 5, 0x80, 0x40]),
    (Message::Request { index: 1, begin: 2, len: 3 }, &[0, 0, 0, 13, 6, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]),
    (Message::Piece { index: 1, begin: 2, data: b"xy" }, &[0, 0, 0, 11, 7, 0, 0, 0, 1, 0, 0, 0, 2, b'x', b'y']),
    (Message::Cancel { index: 1, begin: 2, len: 3 }, &[0, 0, 0, 13, 8, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]),
    (Message::Port(6881), &[0, 0, 0, 3, 9, 0x1a, 0xe1]),
    (Message::Suggest(7), &[0, 0, 0, 5, 13, 0, 0, 0, 7]),
    (Message::HaveAll, &[0, 0, 0, 1, 14]),
    (Message::HaveNone, &[0, 0, 0, 1, 15]),
    (Message::Reject { index: 1, begin: 2, len: 3 }, &[0, 0, 0, 13, 16, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]),
    (Message::AllowedFast(7), &[0, 0, 0, 5, 17, 0, 0, 0, 7]),
    (Message::Extended { id: 0, payload: b"de" }, &[0, 0, 0, 4, 20, 0, b'd', b'e']),
    (Message::Unknown { id: 99 }, &[0, 0, 0, 1, 99]),
];

#[test]
fn each_message_has_the_bytes_of_its_bep() {
    for (message, bytes) in EXAMPLES {
        assert_eq!(encoded(message), bytes);
        assert_eq!(Message::decode(&bytes[4..]), Ok(message));
    }
}

#[test]
fn a_message_cut_short_at_any_byte_is_never_another_message() {
    let limits = Limits::for_pieces(10);
    for (message, bytes) in EXAMPLES {
        for cut in 0..bytes.len().min(13) {
            match peek(&bytes[..cut], &limits) {
                Ok(Header::NeedMore) => {}
                Ok(Header::Message { len }) => assert_eq!(len, bytes.len() - 4, "{message:?}"),
                other => panic!("{message:?} cut at {cut}: {other:?}"),
            }
        }
        // A body cut short is an error, but where the length is free.
        for cut in 5..bytes.len() {
            match Message::decode(&bytes[4..cut]) {
                Err(WireError::Length { .. }) => {}
                Ok(Message::Bitfield(_) | Message::Piece { .. } | Message::Extended { .. }) => {}
                other => panic!("{message:?} cut at {cut}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_fixed_size_message_of_another_size_is_refused_before_its_body_comes() {
    let limits = Limits::for_pieces(10);
    for (message, bytes) in EXAMPLES {
        if let Message::KeepAlive | Message::Unknown { .. } | Message::Piece { .. } | Message::Extended { .. } = message
        {
            continue;
        }
        let mut longer = bytes[..5].to_vec();
        longer[3] += 1;
        assert!(peek(&longer, &limits).is_err(), "{message:?}");
    }
    assert_eq!(peek(&[0, 0, 0, 1, 20], &limits), Err(WireError::Length { id: 20, len: 1 }));
    assert_eq!(peek(&[0, 0, 0, 8, 7], &limits), Err(WireError::Length { id: 7, len: 8 }));
}

#[test]
fn a_piece_is_known_by_its_header_alone() {
    let limits = Limits::for_pieces(10);
    let header = piece_header(1, 16384, 16384);
    assert_eq!(peek(&header[..12], &limits), Ok(Header::NeedMore));
    assert_eq!(peek(&header, &limits), Ok(Header::Piece { index: 1, begin: 16384, len: 16384 }));
    assert_eq!(encoded(Message::Piece { index: 1, begin: 16384, data: &[7; 16384] })[..13], header);
}

#[test]
fn lengths_beyond_the_limits_are_refused_before_the_body_comes() {
    let limits = Limits::for_pieces(10);
    assert_eq!(
        peek(&[0xff, 0xff, 0xff, 0xff], &limits),
        Err(WireError::TooLong { id: None, len: u32::MAX, max: 1 << 20 })
    );
    assert_eq!(
        peek(&piece_header(0, 0, MAX_BLOCK_LEN), &limits),
        Ok(Header::Piece { index: 0, begin: 0, len: MAX_BLOCK_LEN })
    );
    let mut piece = (MAX_BLOCK_LEN + 10).to_be_bytes().to_vec();
    piece.push(7);
    let error = peek(&piece, &limits).unwrap_err();
    assert_eq!(error, WireError::PieceTooLong { len: MAX_BLOCK_LEN + 1 });
    assert_eq!(error.to_string(), "piece of 131073 bytes, at most 131072 are accepted");
}

#[test]
fn a_bitfield_has_the_length_that_the_torrent_gives_it() {
    let ten = Limits::for_pieces(10);
    assert_eq!(peek(&[0, 0, 0, 3, 5], &ten), Ok(Header::Message { len: 3 }));
    assert_eq!(peek(&[0, 0, 0, 4, 5], &ten), Err(WireError::BitfieldLength { len: 3, expected: 2 }));
    assert_eq!(peek(&[0, 0, 0, 4, 5], &Limits::without_metadata()), Ok(Header::Message { len: 4 }));
    let huge = Limits::for_pieces(u32::MAX);
    let mut bitfield = (1u32 + (1 << 29)).to_be_bytes().to_vec();
    bitfield.push(5);
    assert_eq!(peek(&bitfield, &huge), Ok(Header::Message { len: 1 + (1 << 29) }));
    bitfield[4] = 20;
    assert_eq!(peek(&bitfield, &huge), Err(WireError::TooLong { id: Some(20), len: 1 + (1 << 29), max: 1 << 20 }));
}

#[test]
fn errors_name_the_message_and_its_length() {
    assert_eq!(
        WireError::Length { id: 6, len: 12 }.to_string(),
        "message 6 (request) of 12 bytes, which it cannot have"
    );
    assert_eq!(
        WireError::TooLong { id: Some(20), len: 9, max: 8 }.to_string(),
        "message 20 (extended) of 9 bytes, at most 8 are accepted"
    );
}

#[test]
fn the_allowed_fast_sets_are_those_of_bep_6() {
    let info_hash = InfoHash::new([0xaa; 20]);
    let ip: IpAddr = "80.4.4.200".parse().unwrap();
    let nine = [1059, 431, 808, 1217, 287, 376, 1188, 353, 508];
    assert_eq!(allowed_fast(ip, &info_hash, 1313, 7), nine[..7]);
    assert_eq!(allowed_fast(ip, &info_hash, 1313, 9), nine);
    assert_eq!(allowed_fast("::ffff:80.4.4.1".parse().unwrap(), &info_hash, 1313, 9), nine);
}

#[test]
fn the_allowed_fast_set_is_the_same_within_an_ipv6_network() {
    let set = |ip: &str| allowed_fast(ip.parse().unwrap(), &InfoHash::new([1; 20]), 1000, 10);
    assert_eq!(set("2001:db8::1"), set("2001:db8::ffff:1"));
    assert_ne!(set("2001:db8::1"), set("2001:db8:0:1::1"));
    assert_eq!(set("2001:db8::1").len(), 10);
}

#[test]
fn a_torrent_with_few_pieces_allows_them_all() {
    for pieces in 0..12 {
        let mut set = allowed_fast(IpAddr::from([127, 0, 0, 1]), &InfoHash::new([1; 20]), pieces, 10);
        set.sort_unstable();
        set.dedup();
        assert_eq!(set.len(), pieces.min(10) as usize);
        assert!(set.iter().all(|index| *index < pieces));
    }
}

/// The message with its borrowed bytes made from `data`.
fn any_message(data: &'static [u8]) -> impl Strategy<Value = Message<'static>> {
    let range = || any::<(u32, u32, u32)>();
    prop_oneof![
        Just(Message::KeepAlive),
        Just(Message::Choke),
        Just(Message::Unchoke),
        Just(Message::Interested),
        Just(Message::NotInterested),
        any::<u32>().prop_map(Message::Have),
        (0..data.len()).prop_map(|len| Message::Bitfield(&data[..len])),
        range().prop_map(|(index, begin, len)| Message::Request { index, begin, len }),
        (any::<(u32, u32)>(), 0..data.len()).prop_map(|((index, begin), len)| Message::Piece {
            index,
            begin,
            data: &data[..len]
        }),
        range().prop_map(|(index, begin, len)| Message::Cancel { index, begin, len }),
        any::<u16>().prop_map(Message::Port),
        any::<u32>().prop_map(Message::Suggest),
        Just(Message::HaveAll),
        Just(Message::HaveNone),
        range().prop_map(|(index, begin, len)| Message::Reject { index, begin, len }),
        any::<u32>().prop_map(Message::AllowedFast),
        (any::<u8>(), 0..data.len()).prop_map(|(id, len)| Message::Extended { id, payload: &data[..len] }),
        (21u8..).prop_map(|id| Message::Unknown { id }),
    ]
}

static DATA: [u8; 1000] = [0x5a; 1000];

proptest! {
    #[test]
    fn a_message_survives_the_way_there_and_back(message in any_message(&DATA)) {
        let bytes = encoded(message);
        match peek(&bytes, &Limits::without_metadata()).unwrap() {
            Header::KeepAlive => prop_assert_eq!(message, Message::KeepAlive),
            Header::Message { len } => prop_assert_eq!(len, bytes.len() - 4),
            Header::Piece { index, begin, len } => {
                prop_assert_eq!(message, Message::Piece { index, begin, data: &bytes[13..][..len as usize] });
            }
            Header::NeedMore => panic!("a whole message needs no more"),
        }
        prop_assert_eq!(Message::decode(&bytes[4..]), Ok(message));
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..64), pieces: u32) {
        let _ = peek(&bytes, &Limits::for_pieces(pieces));
        let _ = Message::decode(&bytes);
        // Small lengths, so that the kinds of message are reached.
        let _ = peek(&[&[0, 0, 0][..], &bytes].concat(), &Limits::for_pieces(pieces));
    }
}
