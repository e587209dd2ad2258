//! The packets of the UDP tracker protocol (BEP 15) with the URL of BEP 41, as client and as tracker.
//!
//! It owns their layout; it refuses a packet too short for its kind, and ignores what follows, as BEP 15 wants.
//! When to send again, and whether a transaction or connection id is the right one, is for a machine to know.
//!
//! ```text
//! request                                          response
//! 0   8  connection id, or the magic to connect    0  4  action
//! 8   4  action                                    4  4  transaction id
//! 12  4  transaction id                            8     by action
//! 16     by action
//! ```

use std::net::{Ipv4Addr, SocketAddr};

use url::Url;

use super::{AnnounceRequest, Event, Family, MAX_PEERS, compact_peers, encode_compact_peers};
use crate::metainfo::InfoHash;
use crate::wire::handshake::PeerId;
use crate::wire::{Reader, Truncated, display_text};

/// What stands in the place of the connection id of a connect request.
const PROTOCOL_ID: u64 = 0x0417_2710_1980;

/// The most torrents in one scrape: what fits into a packet of an ordinary path (BEP 15).
pub const MAX_SCRAPE: usize = 74;

/// The longest URL that is put together from the options of an announce.
const MAX_URL_LEN: usize = 2048;

/// The most characters kept of a tracker's error.
const MAX_MESSAGE_CHARS: usize = 512;

/// The numbers that stand for what a packet is about.
mod action {
    pub(super) const CONNECT: u32 = 0;
    pub(super) const ANNOUNCE: u32 = 1;
    pub(super) const SCRAPE: u32 = 2;
    pub(super) const ERROR: u32 = 3;
}

/// The types of the options behind an announce (BEP 41).
mod option {
    pub(super) const END: u8 = 0;
    pub(super) const NOP: u8 = 1;
    pub(super) const URL_DATA: u8 = 2;
}

/// What a client sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Asks for a connection id.
    Connect {
        /// Drawn at random; the response has the same.
        transaction_id: u32,
    },
    /// Announces.
    Announce {
        /// What the response to `Connect` gave.
        connection_id: u64,
        /// Drawn at random; the response has the same.
        transaction_id: u32,
        /// What to announce; its tracker id, IPv6 address and [`Event::Paused`] have no place here and are not sent.
        announce: AnnounceRequest,
        /// Path and query of the tracker's URL (BEP 41), see [`url_data`]; nothing of it is sent where it is empty.
        url_data: Vec<u8>,
    },
    /// Asks for the numbers of some torrents.
    Scrape {
        /// What the response to `Connect` gave.
        connection_id: u64,
        /// Drawn at random; the response has the same.
        transaction_id: u32,
        /// The torrents, at most [`MAX_SCRAPE`]; those beyond are not sent, and not read.
        info_hashes: Vec<InfoHash>,
    },
}

impl Request {
    /// The packet.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Connect { transaction_id } => request_head(PROTOCOL_ID, action::CONNECT, *transaction_id),
            Self::Announce { connection_id, transaction_id, announce, url_data } => {
                let mut out = request_head(*connection_id, action::ANNOUNCE, *transaction_id);
                encode_announce(announce, &mut out);
                for chunk in url_data.chunks(u8::MAX.into()) {
                    out.extend([option::URL_DATA, chunk.len() as u8]);
                    out.extend(chunk);
                }
                out
            }
            Self::Scrape { connection_id, transaction_id, info_hashes } => {
                let mut out = request_head(*connection_id, action::SCRAPE, *transaction_id);
                info_hashes.iter().take(MAX_SCRAPE).for_each(|info_hash| out.extend(info_hash.as_bytes()));
                out
            }
        }
    }

    /// Reads a packet that a client sent.
    pub fn decode(packet: &[u8]) -> Result<Self, PacketError> {
        let mut reader = Reader::new(packet);
        let connection_id = reader.u64()?;
        let action = reader.u32()?;
        let transaction_id = reader.u32()?;
        match action {
            action::CONNECT if connection_id == PROTOCOL_ID => Ok(Self::Connect { transaction_id }),
            action::CONNECT => Err(PacketError::NotTheProtocol),
            action::ANNOUNCE => {
                let announce = decode_announce(&mut reader)?;
                let url_data = decode_options(reader)?;
                Ok(Self::Announce { connection_id, transaction_id, announce, url_data })
            }
            action::SCRAPE => {
                let (hashes, _incomplete) = reader.rest().as_chunks();
                let info_hashes = hashes.iter().take(MAX_SCRAPE).copied().map(InfoHash::new).collect();
                Ok(Self::Scrape { connection_id, transaction_id, info_hashes })
            }
            action => Err(PacketError::Action { action }),
        }
    }

    /// The number that its response will have.
    pub fn transaction_id(&self) -> u32 {
        match self {
            Self::Connect { transaction_id }
            | Self::Announce { transaction_id, .. }
            | Self::Scrape { transaction_id, .. } => *transaction_id,
        }
    }
}

/// What a tracker sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Response {
    /// Gives a connection id.
    Connect {
        /// That of the request.
        transaction_id: u32,
        /// To be sent with other requests within a minute.
        connection_id: u64,
    },
    /// Answers an announce.
    Announce {
        /// That of the request.
        transaction_id: u32,
        /// How long to wait before the next announce, in seconds.
        interval: u32,
        /// How many peers have not all of it.
        leechers: u32,
        /// How many peers have all of it.
        seeders: u32,
        /// Other peers, never with port 0; at most [`MAX_PEERS`] are read.
        peers: Vec<SocketAddr>,
    },
    /// Answers a scrape.
    Scrape {
        /// That of the request.
        transaction_id: u32,
        /// As many as in the request, in its order; at most [`MAX_SCRAPE`] are read.
        torrents: Vec<ScrapeEntry>,
    },
    /// Refuses a request.
    Error {
        /// That of the request.
        transaction_id: u32,
        /// Why; of a received packet at most 512 characters, none of them control characters.
        message: String,
    },
}

/// The numbers of one torrent.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ScrapeEntry {
    /// How many peers have all of it.
    pub seeders: u32,
    /// How many peers have ever completed it.
    pub completed: u32,
    /// How many peers have not all of it.
    pub leechers: u32,
}

impl Response {
    /// The packet, to go to a client of this address family: peers of the other one are left out.
    pub fn encode(&self, family: Family) -> Vec<u8> {
        match self {
            Self::Connect { transaction_id, connection_id } => {
                let mut out = numbers([action::CONNECT, *transaction_id]);
                out.extend(connection_id.to_be_bytes());
                out
            }
            Self::Announce { transaction_id, interval, leechers, seeders, peers } => {
                let mut out = numbers([action::ANNOUNCE, *transaction_id, *interval, *leechers, *seeders]);
                encode_compact_peers(peers.iter().copied(), family, &mut out);
                out
            }
            Self::Scrape { transaction_id, torrents } => {
                let mut out = numbers([action::SCRAPE, *transaction_id]);
                for torrent in torrents {
                    out.extend(numbers([torrent.seeders, torrent.completed, torrent.leechers]));
                }
                out
            }
            Self::Error { transaction_id, message } => {
                let mut out = numbers([action::ERROR, *transaction_id]);
                out.extend(message.bytes());
                out
            }
        }
    }

    /// Reads a packet that came from a tracker of this address family.
    pub fn decode(packet: &[u8], family: Family) -> Result<Self, PacketError> {
        let mut reader = Reader::new(packet);
        let action = reader.u32()?;
        let transaction_id = reader.u32()?;
        match action {
            action::CONNECT => Ok(Self::Connect { transaction_id, connection_id: reader.u64()? }),
            action::ANNOUNCE => Ok(Self::Announce {
                transaction_id,
                interval: reader.u32()?,
                leechers: reader.u32()?,
                seeders: reader.u32()?,
                peers: compact_peers(reader.rest(), family).take(MAX_PEERS).collect(),
            }),
            action::SCRAPE => {
                let torrents = std::iter::from_fn(|| scrape_entry(&mut reader).ok()).take(MAX_SCRAPE).collect();
                Ok(Self::Scrape { transaction_id, torrents })
            }
            action::ERROR => {
                Ok(Self::Error { transaction_id, message: display_text(reader.rest(), MAX_MESSAGE_CHARS) })
            }
            action => Err(PacketError::Action { action }),
        }
    }

    /// The number of the request that it answers.
    pub fn transaction_id(&self) -> u32 {
        match self {
            Self::Connect { transaction_id, .. }
            | Self::Announce { transaction_id, .. }
            | Self::Scrape { transaction_id, .. }
            | Self::Error { transaction_id, .. } => *transaction_id,
        }
    }
}

/// Path and query of a tracker's URL, which a UDP announce would otherwise not carry (BEP 41).
pub fn url_data(tracker: &Url) -> Vec<u8> {
    let mut data = tracker.path().to_owned();
    if let Some(query) = tracker.query() {
        data.push('?');
        data.push_str(query);
    }
    data.into_bytes()
}

/// Why a packet is none of this protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PacketError {
    /// Too short for what it is about.
    #[error("UDP tracker packet is too short")]
    Truncated(#[from] Truncated),
    /// About something that BEP 15 does not know.
    #[error("UDP tracker packet with unknown action {action}")]
    Action {
        /// The action's number.
        action: u32,
    },
    /// A connect request without the protocol's magic number.
    #[error("UDP connect request without the protocol's magic number")]
    NotTheProtocol,
}

fn request_head(connection_id: u64, action: u32, transaction_id: u32) -> Vec<u8> {
    let mut out = connection_id.to_be_bytes().to_vec();
    out.extend(numbers([action, transaction_id]));
    out
}

fn numbers<const N: usize>(numbers: [u32; N]) -> Vec<u8> {
    numbers.into_iter().flat_map(u32::to_be_bytes).collect()
}

/// Bytes 16 to 98 of an announce.
fn encode_announce(announce: &AnnounceRequest, out: &mut Vec<u8>) {
    out.extend(announce.info_hash.as_bytes());
    out.extend(announce.peer_id.as_bytes());
    for count in [announce.downloaded, announce.left, announce.uploaded] {
        out.extend(count.to_be_bytes());
    }
    let event = match announce.event {
        None | Some(Event::Paused) => 0,
        Some(Event::Completed) => 1,
        Some(Event::Started) => 2,
        Some(Event::Stopped) => 3,
    };
    let ip = announce.ipv4.map_or(0, Ipv4Addr::to_bits);
    // A signed number on the wire, -1 for the tracker's own default.
    let numwant = announce.numwant.map_or(u32::MAX, |numwant| numwant.min(i32::MAX as u32));
    out.extend(numbers([event, ip, announce.key, numwant]));
    out.extend(announce.port.to_be_bytes());
}

fn decode_announce(reader: &mut Reader<'_>) -> Result<AnnounceRequest, Truncated> {
    let info_hash = InfoHash::new(reader.array()?);
    let peer_id = PeerId::new(reader.array()?);
    let (downloaded, left, uploaded) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let event = match reader.u32()? {
        1 => Some(Event::Completed),
        2 => Some(Event::Started),
        3 => Some(Event::Stopped),
        _ => None,
    };
    let ipv4 = Some(Ipv4Addr::from_bits(reader.u32()?)).filter(|ip| !ip.is_unspecified());
    let key = reader.u32()?;
    let numwant = Some(reader.u32()?).filter(|numwant| *numwant <= i32::MAX as u32);
    let port = reader.u16()?;
    Ok(AnnounceRequest {
        info_hash,
        peer_id,
        port,
        uploaded,
        downloaded,
        left,
        event,
        numwant,
        key,
        tracker_id: None,
        ipv4,
        ipv6: None,
    })
}

/// The URL that the options behind an announce make, cut at [`MAX_URL_LEN`] bytes (BEP 41).
fn decode_options(mut reader: Reader<'_>) -> Result<Vec<u8>, Truncated> {
    let mut url = Vec::new();
    while !reader.is_empty() {
        match reader.u8()? {
            option::END => break,
            option::NOP => {}
            kind => {
                let len = reader.u8()?;
                let data = reader.take(len.into())?;
                if kind == option::URL_DATA {
                    url.extend(data.iter().take(MAX_URL_LEN - url.len()));
                }
            }
        }
    }
    Ok(url)
}

fn scrape_entry(reader: &mut Reader<'_>) -> Result<ScrapeEntry, Truncated> {
    Ok(ScrapeEntry { seeders: reader.u32()?, completed: reader.u32()?, leechers: reader.u32()? })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
    use url::Url;

    use super::{MAX_URL_LEN, PacketError, Request, Response, ScrapeEntry, url_data};
    use crate::metainfo::InfoHash;
    use crate::wire::Truncated;
    use crate::wire::handshake::PeerId;
    use crate::wire::tracker::{AnnounceRequest, Event, Family};

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
        }
    }

    fn announce_packet(url_data: &[u8]) -> Vec<u8> {
        let request = Request::Announce {
            connection_id: 7,
            transaction_id: 9,
            announce: announce(),
            url_data: url_data.to_vec(),
        };
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
        assert_eq!(
            Response::decode(&packet, Family::V4),
            Ok(Response::Connect { transaction_id: 1, connection_id: 2 })
        );
    }

    #[test]
    fn an_error_is_shown_without_control_characters() {
        let packet = Response::Error { transaction_id: 1, message: "no\x1b[0m".to_owned() }.encode(Family::V4);
        let message = "no\u{fffd}[0m".to_owned();
        assert_eq!(Response::decode(&packet, Family::V4), Ok(Response::Error { transaction_id: 1, message }));
    }

    fn any_announce() -> impl Strategy<Value = AnnounceRequest> {
        let event = prop_oneof![
            Just(None),
            Just(Some(Event::Started)),
            Just(Some(Event::Completed)),
            Just(Some(Event::Stopped)),
        ];
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
            (any::<(u64, u32)>(), vec(any::<[u8; 20]>(), 0..74)).prop_map(
                |((connection_id, transaction_id), hashes)| {
                    let info_hashes = hashes.into_iter().map(InfoHash::new).collect();
                    Request::Scrape { connection_id, transaction_id, info_hashes }
                }
            ),
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
            (any::<u32>(), "[ -~]{0,50}")
                .prop_map(|(transaction_id, message)| Response::Error { transaction_id, message }),
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
}
