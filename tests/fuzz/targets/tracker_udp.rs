//! What clients send to a UDP tracker: nobody without a connection id gets more than he sends, every answer is one, and a
//! tracker with a key serves announces that have it alone.
//!
//! The input is packets, each behind two bytes: its length in 12 bits, whether it goes to the tracker with a key, whether it
//! comes over IPv6, and whether it gets the connection id of its sender.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ropewalk::fuzzing::{FUZZ_KEY, FuzzPacket, tracker_packets};
use ropewalk::wire::tracker::Family;
use ropewalk::wire::tracker::udp::{Request, RequestRef, Response};

const KEYED: u16 = 0x2000;
const V6: u16 = 0x4000;
const KNOWN: u16 = 0x8000;
const LEN: u16 = 0x0fff;

fuzz_target!(|data: &[u8]| {
    let mut packets = Vec::new();
    let mut rest = data;
    while let Some((head, behind)) = rest.split_first_chunk() {
        let head = u16::from_be_bytes(*head);
        let (packet, behind) = behind.split_at(usize::from(head & LEN).min(behind.len()));
        packets.push((packet.to_vec(), head));
        rest = behind;
    }
    let answers = tracker_packets(packets.iter_mut().map(|(bytes, head)| FuzzPacket {
        bytes,
        v6: *head & V6 != 0,
        known: *head & KNOWN != 0,
        keyed: *head & KEYED != 0,
    }));
    assert_eq!(answers.len(), packets.len());
    for ((packet, head), answers) in packets.iter().zip(&answers) {
        assert!(answers.len() <= 1);
        let Some(answer) = answers.first() else { continue };
        assert!(head & KNOWN != 0 || answer.len() <= packet.len());
        assert!(answer.len() <= 1280 - 40 - 8);
        let family = if head & V6 != 0 { Family::V6 } else { Family::V4 };
        let response = Response::decode(answer, family).expect("an answer");
        assert_eq!(packet[12..16], response.transaction_id().to_be_bytes());
        match (RequestRef::decode(packet).expect("nothing else is answered"), response) {
            (RequestRef::Connect { .. }, Response::Connect { .. }) | (_, Response::Error { .. }) => {}
            (RequestRef::Announce { announce, .. }, Response::Announce { peers, .. }) => {
                assert!(peers.len() <= announce.numwant.unwrap_or(50) as usize);
                assert!(head & KEYED == 0 || has_key(packet));
            }
            (RequestRef::Scrape { info_hashes, .. }, Response::Scrape { torrents, .. }) if head & KEYED == 0 => {
                assert_eq!(torrents.len(), info_hashes.len());
            }
            (request, response) => panic!("{request:?} is answered by {response:?}"),
        }
    }
});

fn has_key(packet: &[u8]) -> bool {
    let Ok(Request::Announce { url_data, .. }) = Request::decode(packet) else { return false };
    let path = url_data.split(|&byte| byte == b'?').next().unwrap_or_default();
    path == format!("/{FUZZ_KEY}/announce").as_bytes()
}
