//! What a peer sends: handshake, messages in a stream, extension payloads. A message that is accepted encodes to the
//! bytes that it came as, and what `peek` promises `decode` keeps.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ropewalk::wire::extension::{self, ExtensionHandshake, ExtensionMap};
use ropewalk::wire::handshake::{Handshake, HandshakeHead, PeerId};
use ropewalk::wire::message::{Header, Limits, MAX_BLOCK_LEN, Message, PIECE_HEADER_LEN, peek, piece_header};

fuzz_target!(|data: &[u8]| {
    handshake(data);
    let _ = Message::decode(data);
    extension(data);
    // The first two bytes: the torrent's number of pieces, 0 where it is not known.
    let Some((pieces, stream)) = data.split_first_chunk() else { return };
    let limits = match u16::from_be_bytes(*pieces) {
        0 => Limits::without_metadata(),
        pieces => Limits::for_pieces(pieces.into()),
    };
    messages(stream, &limits);
});

fn handshake(data: &[u8]) {
    let Some((bytes, _)) = data.split_first_chunk::<{ Handshake::LEN }>() else { return };
    let (head, id) = bytes.split_first_chunk().expect("longer than the head");
    let Ok(head) = HandshakeHead::decode(head) else { return };
    assert!((0..=data.len()).all(|len| HandshakeHead::may_begin_with(&data[..len])));
    let peer_id = PeerId::new(id.try_into().expect("what the head leaves"));
    assert_eq!(head.with_peer_id(peer_id).encode(), *bytes);
    let name = peer_id.client_name();
    assert!(name.len() <= 48 && name.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{name:?}");
}

fn messages(mut stream: &[u8], limits: &Limits) {
    let mut encoded = Vec::new();
    loop {
        let header = peek(stream, limits);
        // Fewer bytes say the same or nothing.
        for len in 0..stream.len().min(PIECE_HEADER_LEN) {
            let earlier = peek(&stream[..len], limits);
            assert!(matches!(earlier, Ok(Header::NeedMore) | Err(_)) || earlier == header, "{earlier:?} {header:?}");
            assert!(earlier.is_ok() || header.is_err(), "{earlier:?} {header:?}");
        }
        let len = match header {
            Err(_) => return,
            Ok(Header::NeedMore) => return assert!(stream.len() < PIECE_HEADER_LEN),
            Ok(Header::KeepAlive) => 4,
            Ok(Header::Message { len }) => 4 + len,
            Ok(Header::Piece { index, begin, len }) => {
                assert!(len <= MAX_BLOCK_LEN);
                assert_eq!(piece_header(index, begin, len), stream[..PIECE_HEADER_LEN]);
                PIECE_HEADER_LEN + len as usize
            }
        };
        assert!(len - 4 <= limits.max_frame_len() as usize);
        let Some((bytes, rest)) = stream.split_at_checked(len) else { return };
        let message = Message::decode(&bytes[4..]).expect("its length was checked");
        encoded.clear();
        message.encode_into(&mut encoded);
        match message {
            Message::Unknown { id } => assert_eq!((id, encoded.len()), (bytes[4], 5)),
            Message::Extended { payload, .. } => {
                assert_eq!(encoded, bytes);
                extension(payload);
            }
            _ => assert_eq!(encoded, bytes),
        }
        stream = rest;
    }
}

fn extension(payload: &[u8]) {
    if let Ok(piece) = extension::decode_dont_have(payload) {
        assert_eq!(extension::encode_dont_have(piece), payload);
    }
    let _ = extension::decode_upload_only(payload);
    let Ok(handshake) = ExtensionHandshake::decode(payload) else { return };
    let again = ExtensionHandshake::decode(&handshake.encode()).expect("what was encoded decodes");
    assert_eq!(again, handshake);
    assert!(handshake.m.unknown().count() <= 32);
    let mut map = ExtensionMap::default();
    map.update(&handshake.m);
    assert_eq!(map, handshake.m);
}
