//! A seeder that is called by peers that misbehave.

use std::io::Write;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::time::Duration;

use ropewalk::wire::handshake::Reserved;
use ropewalk::wire::message::Message;
use ropewalk::wire::utp::{Header, Kind};
use ropewalk::{Session, Transports};

use crate::support::payload::Payload;
use crate::support::scripted::{RESERVED, Wire, random_id};
use crate::support::{Client, PATIENCE, config};

const LOOPBACK: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

struct Seeder {
    payload: Payload,
    client: Client,
}

impl Seeder {
    fn new() -> Self {
        let payload = Payload::file("called.bin", 10 * 65536 + 1, 65536);
        let mut config = config();
        config.peers.handshake_timeout = Duration::from_millis(500);
        let client = Client::seeding_with(&payload, config, |_| ());
        Self { payload, client }
    }

    fn plain(&self) -> TcpStream {
        let stream = TcpStream::connect(self.client.addr()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn call(&self) -> Wire {
        Wire::call(LOOPBACK, self.client.addr(), self.payload.metainfo.info_hash(), RESERVED).unwrap()
    }

    fn unchoked(&self) -> Wire {
        let mut wire = self.call();
        wire.send(&Message::Interested).unwrap();
        wire.expect("unchoke", |message| matches!(message, Message::Unchoke));
        wire
    }

    /// After whatever happened, somebody else gets everything.
    #[track_caller]
    fn still_serves(&self) {
        let getter = Client::leeching(&self.payload, &[self.client.addr()]);
        getter.finishes(&self.payload);
    }
}

#[test]
fn a_caller_that_is_no_peer_is_hung_up_on() {
    let seeder = Seeder::new();
    for greeting in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 100], b"\x13BitTorrent protokol", b""] {
        let stream = seeder.plain();
        let mut wire = Wire { stream, their_id: random_id() };
        wire.stream.write_all(greeting).unwrap();
        wire.expect_end();
    }
    seeder.still_serves();
}

#[test]
fn a_caller_for_another_torrent_is_hung_up_on() {
    let seeder = Seeder::new();
    let other = Payload::file("other", 10, 16384);
    assert!(Wire::call(LOOPBACK, seeder.client.addr(), other.metainfo.info_hash(), RESERVED).is_err());
    seeder.still_serves();
}

#[test]
fn five_hundred_callers_that_say_nothing_do_not_keep_others_out_for_long() {
    let seeder = Seeder::new();
    let silent: Vec<TcpStream> = (0..500).filter_map(|_| TcpStream::connect(seeder.client.addr()).ok()).collect();
    let getter = Client::leeching(&seeder.payload, &[seeder.client.addr()]);
    getter.finishes(&seeder.payload);
    drop(silent);
}

#[test]
fn a_request_is_answered_and_one_while_choked_is_rejected() {
    let seeder = Seeder::new();
    let mut wire = seeder.call();
    wire.expect("have all", |message| matches!(message, Message::HaveAll));
    wire.send(&Message::HaveNone).unwrap();
    let request = Message::Request { index: 10, begin: 0, len: 1 };
    // Piece 10 is the last one; unless it is allowed fast, it is rejected.
    wire.send(&request).unwrap();
    wire.expect("answer", |message| {
        matches!(message, Message::Reject { index: 10, .. } | Message::Piece { index: 10, .. })
    });
    wire.send(&Message::Interested).unwrap();
    wire.expect("unchoke", |message| matches!(message, Message::Unchoke));
    wire.send(&request).unwrap();
    let last = seeder.payload.bytes.last().copied().unwrap();
    wire.expect("piece", |message| matches!(message, Message::Piece { index: 10, begin: 0, data } if data == &[last]));
}

#[test]
fn a_choked_peer_without_fast_gets_silence_for_its_requests() {
    let seeder = Seeder::new();
    let hash = seeder.payload.metainfo.info_hash();
    let mut wire = Wire::call(LOOPBACK, seeder.client.addr(), hash, Reserved::NONE).unwrap();
    wire.expect("bitfield", |message| matches!(message, Message::Bitfield(_)));
    wire.send(&Message::Request { index: 0, begin: 0, len: 16384 }).unwrap();
    wire.send(&Message::Interested).unwrap();
    let body = wire.receive().unwrap();
    assert_eq!(Message::decode(&body), Ok(Message::Unchoke));
    wire.send(&Message::Request { index: 1, begin: 0, len: 16384 }).unwrap();
    wire.expect("piece", |message| {
        assert!(!matches!(message, Message::Piece { index: 0, .. } | Message::Reject { .. }), "{message:?}");
        matches!(message, Message::Piece { index: 1, .. })
    });
}

#[test]
fn requests_of_up_to_128_kib_are_answered_and_beyond_end_the_connection() {
    // Pieces larger than that.
    let payload = Payload::file("large-requests", 300_000, 262_144);
    let client = Client::seeding(&payload);
    let mut wire = Wire::call(LOOPBACK, client.addr(), payload.metainfo.info_hash(), RESERVED).unwrap();
    wire.send(&Message::Interested).unwrap();
    wire.expect("unchoke", |message| matches!(message, Message::Unchoke));
    wire.send(&Message::Request { index: 0, begin: 1000, len: 128 << 10 }).unwrap();
    wire.expect("piece", |message| {
        matches!(message, Message::Piece { index: 0, begin: 1000, data } if data[..] == payload.bytes[1000..1000 + (128 << 10)])
    });
    wire.send(&Message::Request { index: 0, begin: 0, len: (128 << 10) + 1 }).unwrap();
    wire.expect_end();
}

#[test]
fn each_kind_of_nonsense_ends_the_connection() {
    let seeder = Seeder::new();
    let pieces = seeder.payload.pieces();
    let raw = |id: u8, len: u32| [&len.to_be_bytes()[..], &[id]].concat();
    let mut nonsense: Vec<Vec<u8>> =
        vec![vec![0xff; 100], raw(20, 2 << 20), raw(0, 2), raw(4, 4), raw(6, 14), raw(7, 8)];
    for message in [
        Message::Have(pieces),
        Message::Request { index: pieces, begin: 0, len: 1 },
        Message::Request { index: 0, begin: 65536, len: 1 },
        Message::Request { index: 0, begin: 0, len: 0 },
        Message::Request { index: 0, begin: u32::MAX, len: u32::MAX },
        Message::Cancel { index: 0, begin: 65535, len: 2 },
        Message::Piece { index: pieces, begin: 0, data: &[1] },
        Message::Bitfield(&[0xff; 2]),
        Message::Bitfield(&[0; 3]),
        Message::Suggest(pieces),
        Message::AllowedFast(pieces),
        Message::Extended { id: 0, payload: b"not bencode" },
    ] {
        let mut bytes = Vec::new();
        message.encode_into(&mut bytes);
        nonsense.push(bytes);
    }
    for bytes in nonsense {
        let mut wire = seeder.call();
        wire.stream.write_all(&bytes).unwrap();
        // So that even a message that lacks its end is seen to be wrong by its beginning.
        wire.expect_end();
    }
    seeder.still_serves();
}

#[test]
fn ten_thousand_requests_at_once_harm_nobody() {
    let seeder = Seeder::new();
    let mut wire = seeder.unchoked();
    let mut out = Vec::new();
    (0..10_000).for_each(|n| Message::Request { index: n % 10, begin: 0, len: 16384 }.encode_into(&mut out));
    // The seeder may end this at any moment.
    wire.stream.write_all(&out).ok();
    seeder.still_serves();
}

#[test]
fn a_cancelled_request_is_not_answered_twice() {
    let seeder = Seeder::new();
    let mut wire = seeder.unchoked();
    for _ in 0..3 {
        wire.send(&Message::Request { index: 2, begin: 0, len: 16384 }).unwrap();
        wire.send(&Message::Cancel { index: 2, begin: 0, len: 16384 }).unwrap();
        wire.expect("answer", |message| matches!(message, Message::Piece { .. } | Message::Reject { .. }));
    }
    wire.send(&Message::Request { index: 3, begin: 0, len: 5 }).unwrap();
    wire.expect("the last piece and nothing else", |message| {
        assert!(!matches!(message, Message::Reject { .. } | Message::Piece { index: 2, .. }), "{message:?}");
        matches!(message, Message::Piece { index: 3, .. })
    });
}

#[test]
fn somebody_interested_does_not_cost_others_their_slots() {
    let seeder = Seeder::new();
    let mut first = seeder.unchoked();
    let _second =
        Wire::call([127, 0, 0, 10].into(), seeder.client.addr(), seeder.payload.metainfo.info_hash(), RESERVED)
            .map(|mut wire| {
                wire.send(&Message::Interested).unwrap();
                wire.expect("unchoke", |message| matches!(message, Message::Unchoke));
                wire
            })
            .unwrap();
    first.send(&Message::Request { index: 0, begin: 0, len: 1 }).unwrap();
    first.expect("piece", |message| {
        assert!(!matches!(message, Message::Choke), "choked although there are slots enough");
        matches!(message, Message::Piece { .. })
    });
}

#[test]
fn a_peer_that_calls_again_is_served_although_its_older_connection_seems_to_stand() {
    let seeder = Seeder::new();
    let hash = seeder.payload.metainfo.info_hash();
    let id = random_id();
    let call = || Wire::call_as(LOOPBACK, seeder.client.addr(), hash, RESERVED, id).unwrap();
    let mut older = call();
    older.expect("have all", |message| matches!(message, Message::HaveAll));
    let mut newer = call();
    newer.send(&Message::Interested).unwrap();
    newer.expect("unchoke", |message| matches!(message, Message::Unchoke));
    // What a dead one would answer with a reset.
    while !older.receive().unwrap().is_empty() {}
    drop(older);
    newer.send(&Message::Request { index: 0, begin: 0, len: 1 }).unwrap();
    newer.expect("piece", |message| matches!(message, Message::Piece { index: 0, .. }));
}

#[test]
fn toggling_interest_ten_thousand_times_harms_nobody() {
    let seeder = Seeder::new();
    let mut wire = seeder.call();
    let mut out = Vec::new();
    for _ in 0..10_000 {
        Message::Interested.encode_into(&mut out);
        Message::NotInterested.encode_into(&mut out);
    }
    wire.stream.write_all(&out).ok();
    seeder.still_serves();
}

#[test]
fn who_calls_by_utp_where_that_is_not_spoken_is_told_so_at_once_with_a_node_of_the_dht_and_without() {
    for node in [false, true] {
        let mut config = config();
        config.peers.transports = Transports::Tcp;
        config.dht.enabled = node;
        config.dht.bootstrap.clear();
        // The UDP port of the same number may be somebody else's.
        let sessions = (0..20).map(|_| Session::new(config.clone()).unwrap());
        let answer = sessions.into_iter().find_map(|session| called_by_utp(session.port()));
        let answer = answer.expect("an answer");
        assert_eq!((answer.kind, answer.connection_id, answer.ack_nr), (Kind::Reset, 77, 1));
    }
}

/// What is answered to who asks for a connection by uTP, if anything is.
fn called_by_utp(port: u16) -> Option<Header> {
    let socket = UdpSocket::bind((LOOPBACK, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    socket.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let (timestamp, difference, window) = (1, 0, 1 << 20);
    let syn = Header { kind: Kind::Syn, connection_id: 77, timestamp, difference, window, seq_nr: 1, ack_nr: 0 };
    socket.send(&syn.encode()).unwrap();
    let mut answer = [0; 100];
    let len = socket.recv(&mut answer).ok()?;
    Some(Header::decode(&answer[..len]).unwrap())
}
