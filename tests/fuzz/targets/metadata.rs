//! What peers send of metadata (BEP 9): a message that is accepted is within bounds, and survives the way there and back.
//! The bytes are also an info dictionary that somebody sent, in a .torrent file made of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ropewalk::Metainfo;
use ropewalk::wire::metadata::{METADATA_PIECE_LEN, MetadataMessage, answer};

fuzz_target!(|data: &[u8]| {
    if let Ok(Some(message)) = MetadataMessage::decode(data) {
        if let MetadataMessage::Data { piece, total, bytes } = message {
            assert!(piece < total.pieces() && total.piece_len(piece) == Some(bytes.len()));
            assert!(bytes.len() <= METADATA_PIECE_LEN);
        }
        let encoded = message.encode();
        assert_eq!(MetadataMessage::decode(&encoded), Ok(Some(message)));
    }
    for piece in [0, 1, u32::MAX] {
        let encoded = answer(data, piece).encode();
        assert!(matches!(MetadataMessage::decode(&encoded), Ok(Some(_))));
    }
    let urls = ["http://a.example/".to_owned()];
    if let Ok(metainfo) = Metainfo::from_info(data, &urls, &urls) {
        assert_eq!(metainfo.info_bytes(), data);
        assert_eq!((metainfo.trackers(), metainfo.web_seeds()), (&[urls.to_vec()][..], &urls[..]));
    }
});
