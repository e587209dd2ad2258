//! What clients send to a UDP tracker: nobody without a connection id gets more than he sends, and every answer is one.
//!
//! The input is packets, each behind two bytes: its length in 12 bits, whether it comes over IPv6, and whether it gets the
//! connection id of its sender.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ropewalk::fuzzing::tracker_packets;
use ropewalk::wire::tracker::Family;
use ropewalk::wire::tracker::udp::{RequestRef, Response};

const V6: u16 = 0x4000;
const KNOWN: u16 = 0x8000;
const LEN: u16 = 0x0fff;

fuzz_target!(|data: &[u8]| {
    let mut packets = Vec::new();
    let mut rest = data;
    while let Some((head, behind)) = rest.split_first_chunk() {
        let head = u16::from_be_bytes(*head);
        let (packet, behind) = behind.split_at(usize::from(head & LEN).min(behind.len()));
        packets.push((packet.to_vec(), head & V6 != 0, head & KNOWN != 0));
        rest = behind;
    }
    let answers = tracker_packets(packets.iter_mut().map(|(packet, v6, known)| (packet.as_mut_slice(), *v6, *known)));
    assert_eq!(answers.len(), packets.len());
    for ((packet, v6, known), answers) in packets.iter().zip(&answers) {
        assert!(answers.len() <= 1);
        let Some(answer) = answers.first() else { continue };
        assert!(*known || answer.len() <= packet.len());
        assert!(answer.len() <= 1280 - 40 - 8);
        let family = if *v6 { Family::V6 } else { Family::V4 };
        let response = Response::decode(answer, family).expect("an answer");
        assert_eq!(packet[12..16], response.transaction_id().to_be_bytes());
        match (RequestRef::decode(packet).expect("nothing else is answered"), response) {
            (RequestRef::Connect { .. }, Response::Connect { .. }) | (_, Response::Error { .. }) => {}
            (RequestRef::Announce { announce, .. }, Response::Announce { peers, .. }) => {
                assert!(peers.len() <= announce.numwant.unwrap_or(50) as usize);
            }
            (RequestRef::Scrape { info_hashes, .. }, Response::Scrape { torrents, .. }) => {
                assert_eq!(torrents.len(), info_hashes.len());
            }
            (request, response) => panic!("{request:?} is answered by {response:?}"),
        }
    }
});
