//! Packets of UDP trackers to bytes and back, and bytes that are none.

use std::net::SocketAddr;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use url::Url;

use super::{MAX_URL_LEN, PacketError, Request, Response, ScrapeEntry, url_data, url_parts};
use crate::metainfo::InfoHash;
use crate::wire::Truncated;
use crate::wire::handshake::PeerId;
use crate::wire::tracker::{AnnounceRequest, Crypto, Event, Family};

fn announce() -> AnnounceRequest {
    AnnounceRequest {
        info_hash: InfoHash::new([0xaa; 20]),
        peer_id: PeerId::new([0xbb; 20]),
        port: 6881,
        uploaded: 3,
        downloaded: 1,
        left: 2,
        event: Some(Event::Started),
        numwant: None,
        key: 5,
        tracker_id: None,
        ipv4: Some([1, 2, 3, 4].into()),
        ipv6: None,
        crypto: Crypto::None,
    }
}

fn announce_packet(url_data: &[u8]) -> Vec<u8> {
    let request =
        Request::Announce { connection_id: 7, transaction_id: 9, announce: announce(), url_data: url_data.to_vec() };
    request.encode()
}

fn url_of(packet: &[u8]) -> Result<Vec<u8>, PacketError> {
    match Request::decode(packet)? {
        Request::Announce { url_data, .. } => Ok(url_data),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_connect_has_the_bytes_of_bep_15() {
    let packet = Request::Connect { transaction_id: 0x0102_0304 }.encode();
    assert_eq!(packet, [0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80, 0, 0, 0, 0, 1, 2, 3, 4]);
    let response = Response::Connect { transaction_id: 0x0102_0304, connection_id: 5 };
    assert_eq!(response.encode(Family::V4), [0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 5]);
}

#[test]
fn an_announce_has_the_bytes_of_bep_15() {
    let mut expected = vec![0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 9];
    expected.extend([0xaa; 20]);
    expected.extend([0xbb; 20]);
    expected.extend([0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3]);
    expected.extend([0, 0, 0, 2, 1, 2, 3, 4, 0, 0, 0, 5, 0xff, 0xff, 0xff, 0xff, 0x1a, 0xe1]);
    assert_eq!(expected.len(), 98);
    assert_eq!(announce_packet(b""), expected);

    let response = Response::Announce {
        transaction_id: 9,
        interval: 1800,
        leechers: 1,
        seeders: 2,
        peers: ["1.2.3.4:258", "[2001:db8::1]:1"].map(|peer| peer.parse().unwrap()).into(),
    };
    let head = [0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 7, 8, 0, 0, 0, 1, 0, 0, 0, 2];
    assert_eq!(response.encode(Family::V4), [head.as_slice(), &[1, 2, 3, 4, 1, 2]].concat());
    assert_eq!(response.encode(Family::V6)[20..], [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1]);
}

#[test]
fn the_url_goes_into_options_of_at_most_255_bytes() {
    let url = Url::parse("udp://tracker.example.com:80/dir?a=b&c=d").unwrap();
    assert_eq!(announce_packet(&url_data(&url))[98..], *b"\x02\x0c/dir?a=b&c=d");
    assert_eq!(url_data(&Url::parse("udp://tracker.example.com:80").unwrap()), b"");
    let long = vec![b'x'; 300];
    let packet = announce_packet(&long);
    assert_eq!((packet[98..100].to_vec(), packet[355..357].to_vec()), (vec![2, 255], vec![2, 45]));
    assert_eq!(url_of(&packet), Ok(long));
    assert_eq!(url_of(&announce_packet(&[b'x'; 5000])).unwrap().len(), MAX_URL_LEN);
}

#[test]
fn options_are_read_as_bep_41_says() {
    let with = |options: &[u8]| url_of(&[announce_packet(b"").as_slice(), options].concat());
    assert_eq!(with(b"\x02\x0c/dir?a=b&c=d\x01\x01\x00\x02\x01x"), Ok(b"/dir?a=b&c=d".to_vec()));
    assert_eq!(with(b"\x02\x00"), Ok(Vec::new()));
    assert_eq!(with(b"\x63\x02ab\x02\x01/"), Ok(b"/".to_vec()));
    assert_eq!(with(b"\x02\x05/"), Err(Truncated { wanted: 5, left: 1 }.into()));
    assert_eq!(with(b"\x02"), Err(Truncated { wanted: 1, left: 0 }.into()));
    let parts = |options| url_parts(options).collect::<Vec<_>>();
    assert_eq!(parts(b"\x02\x02/a\x01\x63\x00\x02\x01b\x00\x02\x01c"), [Ok(&b"/a"[..]), Ok(b"b")]);
    assert_eq!(parts(b"\x02\x01/\x02\x02ab\x02\x09\x02\x01")[2], Err(Truncated { wanted: 9, left: 2 }));
    assert_eq!(parts(b"\x63\xff\x02\x01/").len(), 1, "an error is the last");
}

#[test]
fn what_bep_15_does_not_know_is_refused() {
    assert_eq!(Request::decode(&[0; 16]), Err(PacketError::NotTheProtocol));
    assert_eq!(Response::decode(&[0, 0, 0, 4, 0, 0, 0, 1], Family::V4), Err(PacketError::Action { action: 4 }));
}

#[test]
fn longer_packets_are_read_as_if_they_ended() {
    let mut packet = Response::Connect { transaction_id: 1, connection_id: 2 }.encode(Family::V4);
    packet.push(9);
    assert_eq!(Response::decode(&packet, Family::V4), Ok(Response::Connect { transaction_id: 1, connection_id: 2 }));
}

#[test]
fn an_error_is_shown_without_control_characters() {
    let packet = Response::Error { transaction_id: 1, message: "no\x1b[0m".to_owned() }.encode(Family::V4);
    let message = "no\u{fffd}[0m".to_owned();
    assert_eq!(Response::decode(&packet, Family::V4), Ok(Response::Error { transaction_id: 1, message }));
}

fn any_announce() -> impl Strategy<Value = AnnounceRequest> {
    let event =
        prop_oneof![Just(None), Just(Some(Event::Started)), Just(Some(Event::Completed)), Just(Some(Event::Stopped)),];
    let ids = (any::<[u8; 20]>(), any::<[u8; 20]>(), any::<u16>(), any::<u32>());
    let counts = (any::<u64>(), any::<u64>(), any::<u64>());
    (ids, counts, event, option::of(..=i32::MAX as u32), option::of(1u32..)).prop_map(
        |((info_hash, peer_id, port, key), (uploaded, downloaded, left), event, numwant, ipv4)| AnnounceRequest {
            info_hash: InfoHash::new(info_hash),
            peer_id: PeerId::new(peer_id),
            port,
            uploaded,
            downloaded,
            left,
            event,
            numwant,
            key,
            tracker_id: None,
            ipv4: ipv4.map(Into::into),
            ipv6: None,
            crypto: Crypto::None,
        },
    )
}

fn any_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        any::<u32>().prop_map(|transaction_id| Request::Connect { transaction_id }),
        (any::<(u64, u32)>(), any_announce(), vec(any::<u8>(), 0..600)).prop_map(
            |((connection_id, transaction_id), announce, url_data)| Request::Announce {
                connection_id,
                transaction_id,
                announce,
                url_data
            }
        ),
        (any::<(u64, u32)>(), vec(any::<[u8; 20]>(), 0..74)).prop_map(|((connection_id, transaction_id), hashes)| {
            let info_hashes = hashes.into_iter().map(InfoHash::new).collect();
            Request::Scrape { connection_id, transaction_id, info_hashes }
        }),
    ]
}

fn any_response(family: Family) -> impl Strategy<Value = Response> {
    let peer = (any::<[u8; 4]>(), 1u16..).prop_map(move |(ip, port)| match family {
        Family::V4 => SocketAddr::from((ip, port)),
        Family::V6 => SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, ip[0].into(), ip[1].into()], port)),
    });
    prop_oneof![
        any::<(u32, u64)>()
            .prop_map(|(transaction_id, connection_id)| Response::Connect { transaction_id, connection_id }),
        (any::<(u32, u32, u32, u32)>(), vec(peer, 0..50)).prop_map(
            |((transaction_id, interval, leechers, seeders), peers)| Response::Announce {
                transaction_id,
                interval,
                leechers,
                seeders,
                peers
            }
        ),
        (any::<u32>(), vec(any::<(u32, u32, u32)>(), 0..74)).prop_map(|(transaction_id, torrents)| {
            let entry = |(seeders, completed, leechers)| ScrapeEntry { seeders, completed, leechers };
            Response::Scrape { transaction_id, torrents: torrents.into_iter().map(entry).collect() }
        }),
        (any::<u32>(), "[ -~]{0,50}").prop_map(|(transaction_id, message)| Response::Error { transaction_id, message }),
    ]
}

proptest! {
    #[test]
    fn a_request_survives_the_way_there_and_back(request in any_request()) {
        let packet = request.encode();
        let whole = Request::decode(&packet);
        prop_assert_eq!(whole.as_ref(), Ok(&request));
        let fixed = match &request {
            Request::Announce { .. } => 98,
            _ => 16,
        };
        for cut in 0..packet.len() {
            let short = Request::decode(&packet[..cut]);
            prop_assert!(short.as_ref() != Ok(&request));
            prop_assert!(cut >= fixed || matches!(short, Err(PacketError::Truncated(_))));
        }
    }

    #[test]
    fn a_response_survives_the_way_there_and_back(
        (family, response) in prop_oneof![Just(Family::V4), Just(Family::V6)]
            .prop_flat_map(|family| (Just(family), any_response(family))),
    ) {
        let packet = response.encode(family);
        let whole = Response::decode(&packet, family);
        prop_assert_eq!(whole.as_ref(), Ok(&response));
        let fixed = match &response {
            Response::Connect { .. } => 16,
            Response::Announce { .. } => 20,
            Response::Scrape { .. } | Response::Error { .. } => 8,
        };
        for cut in 0..packet.len() {
            let short = Response::decode(&packet[..cut], family);
            prop_assert!(short.as_ref() != Ok(&response));
            prop_assert_eq!(cut < fixed, matches!(short, Err(PacketError::Truncated(_))));
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..200), action in 0u8..5) {
        let _ = Request::decode(&bytes);
        let _ = Response::decode(&bytes, Family::V4);
        let _ = Request::decode(&[&[0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80, 0, 0, 0, action], bytes.as_slice()].concat());
        let _ = Response::decode(&[&[0, 0, 0, action], bytes.as_slice()].concat(), Family::V6);
    }
}
