//! Encrypted connections: who can talk with whom, and callers that misuse the encrypted handshake.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ropewalk::wire::handshake::Handshake;
use ropewalk::wire::message::Message;
use ropewalk::{Encryption, Event, Protection};

use crate::support::payload::Payload;
use crate::support::scripted::{RESERVED, Server, Wire, random_id};
use crate::support::veiled::{Caller, PLAINTEXT, RC4};
use crate::support::{Client, PATIENCE, await_event, await_that, config};

use Encryption::{Off, Prefer, Require};

fn with(encryption: Encryption) -> ropewalk::Config {
    let mut config = config();
    config.peers.encryption = encryption;
    config
}

/// How the connections of a torrent are protected, those that are over included.
fn protections(client: &Client) -> Vec<Protection> {
    client.torrent.explain().peers.iter().map(|peer| peer.protection).collect()
}

#[test]
fn whoever_has_a_way_in_common_exchanges_the_right_bytes_by_it() {
    let payload = Payload::file("matrix.bin", 700_001, 65536);
    for (getting, seeding, expected) in [
        (Prefer, Prefer, Protection::Handshake),
        (Prefer, Require, Protection::Rc4),
        (Prefer, Off, Protection::None),
        (Require, Prefer, Protection::Rc4),
        (Require, Require, Protection::Rc4),
        (Off, Prefer, Protection::None),
        (Off, Off, Protection::None),
    ] {
        let seeder = Client::seeding_with(&payload, with(seeding), |_| ());
        let getter = Client::leeching_with(&payload, &[seeder.addr()], with(getting), |_| ());
        getter.finishes(&payload);
        let stats = getter.torrent.stats();
        assert_eq!((stats.downloaded, stats.pieces_failed), (700_001, 0), "{getting:?} {seeding:?}");
        assert_eq!(protections(&getter), [expected], "{getting:?} {seeding:?}");
        assert_eq!(protections(&seeder), [expected], "{getting:?} {seeding:?}");
    }
}

#[test]
fn whoever_has_none_does_not() {
    let payload = Payload::file("strangers.bin", 100_000, 65536);
    for (getting, seeding) in [(Require, Off), (Off, Require)] {
        let seeder = Client::seeding_with(&payload, with(seeding), |_| ());
        let getter = Client::leeching_with(&payload, &[], with(getting), |_| ());
        let events = getter.torrent.events();
        getter.torrent.add_peer(seeder.addr()).unwrap();
        await_event(&events, |event| matches!(event, Event::PeerGone { .. }));
        assert_eq!((protections(&getter), protections(&seeder)), (vec![], vec![]), "{getting:?} {seeding:?}");
    }
}

#[test]
fn files_of_all_sizes_are_sent_encrypted() {
    // Mapped, not mapped, empty, and many in one block.
    let files: Vec<(String, usize)> = (0..60).map(|n| (format!("small/{n}"), n * 7)).collect();
    let mut all: Vec<(&str, usize)> = files.iter().map(|(path, len)| (path.as_str(), *len)).collect();
    all.push(("large", 2_000_003));
    let payload = Payload::folder("encrypted-folder", &all, 65536, false);
    let seeder = Client::seeding_with(&payload, with(Require), |_| ());
    let getters: Vec<_> =
        (0..3).map(|_| Client::leeching_with(&payload, &[seeder.addr()], with(Require), |_| ())).collect();
    getters.iter().for_each(|getter| getter.finishes(&payload));
}

#[test]
fn a_peer_that_hangs_up_on_encryption_is_remembered() {
    let payload = Arc::new(Payload::file("plain-only.bin", 300_000, 65536));
    let (hung_up, answered) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let peer = {
        let (payload, hung_up, answered) = (Arc::clone(&payload), Arc::clone(&hung_up), Arc::clone(&answered));
        Server::start([127, 0, 0, 1], move |stream| {
            let mut first = [0; 20];
            while stream.peek(&mut first)? < first.len() {}
            if &first != b"\x13BitTorrent protocol" {
                hung_up.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            answered.fetch_add(1, Ordering::SeqCst);
            let mut wire = Wire::answer(stream, payload.metainfo.info_hash(), RESERVED, random_id())?;
            wire.send(&Message::HaveNone)?;
            loop {
                wire.receive()?;
            }
        })
    };
    let getter = Client::leeching_with(&payload, &[], with(Prefer), |_| ());
    let events = getter.torrent.events();
    getter.torrent.add_peer(peer.addr).unwrap();
    for round in 1..=3 {
        await_event(&events, |event| matches!(event, Event::PeerConnected(_)));
        assert_eq!((hung_up.load(Ordering::SeqCst), answered.load(Ordering::SeqCst)), (1, round));
        getter.torrent.pause().unwrap();
        await_event(&events, |event| matches!(event, Event::PeerGone { .. }));
        getter.torrent.resume().unwrap();
    }
}

struct Seeder {
    payload: Payload,
    client: Client,
}

impl Seeder {
    fn new(encryption: Encryption) -> Self {
        let payload = Payload::file("veiled.bin", 10 * 65536 + 1, 65536);
        let mut config = with(encryption);
        config.peers.handshake_timeout = Duration::from_millis(500);
        let client = Client::seeding_with(&payload, config, |_| ());
        Self { payload, client }
    }

    fn call(&self) -> Caller {
        Caller::call(self.client.addr()).unwrap()
    }

    #[track_caller]
    fn hangs_up_on(&self, stream: TcpStream) {
        Wire { stream, their_id: random_id() }.expect_end();
    }

    /// After whatever happened, somebody else gets everything.
    #[track_caller]
    fn still_serves(&self) {
        let getter = Client::leeching(&self.payload, &[self.client.addr()]);
        getter.finishes(&self.payload);
        assert!(protections(&self.client).iter().all(|protection| *protection != Protection::None));
    }
}

/// What a peer may say at once, before it has been answered: its handshake, its pieces, a request.
fn first_words(payload: &Payload) -> Vec<u8> {
    let handshake = Handshake { reserved: RESERVED, info_hash: payload.metainfo.info_hash(), peer_id: random_id() };
    let mut first = handshake.encode().to_vec();
    Message::Bitfield(&[0; 2]).encode_into(&mut first);
    Message::Interested.encode_into(&mut first);
    first
}

#[test]
fn what_comes_with_the_handshake_is_read_whatever_follows_it() {
    let seeder = Seeder::new(Prefer);
    let len = first_words(&seeder.payload).len();
    for (provided, selected) in [(PLAINTEXT | RC4, PLAINTEXT), (RC4, RC4), (PLAINTEXT, PLAINTEXT)] {
        // None of it, part of the handshake, the handshake alone, some of the next message, all of it.
        for early in [0, 30, 68, 71, len] {
            // Another id each time: the last one may still be connected as far as the seeder knows.
            let first = first_words(&seeder.payload);
            let hash = seeder.payload.metainfo.info_hash();
            let mut peer = seeder.call().offer(hash, provided, &first[..early]).unwrap();
            assert_eq!(peer.selected, selected);
            peer.send(&first[early..]).unwrap();
            let theirs = peer.receive(Handshake::LEN).unwrap();
            assert_eq!(theirs[28..48], *hash.as_bytes());
            while Message::decode(&peer.message().unwrap()) != Ok(Message::Unchoke) {}
            let mut request = Vec::new();
            Message::Request { index: 3, begin: 16384, len: 16384 }.encode_into(&mut request);
            peer.send(&request).unwrap();
            loop {
                let body = peer.message().unwrap();
                if let Message::Piece { index, begin, data } = Message::decode(&body).unwrap() {
                    assert_eq!(data, seeder.payload.block(index, begin, 16384).unwrap());
                    break;
                }
            }
        }
    }
}

#[test]
fn a_caller_for_another_torrent_is_hung_up_on() {
    let seeder = Seeder::new(Prefer);
    let other = Payload::file("another", 10, 16384);
    // One that is not there, and one that is while the handshake inside names another.
    assert!(seeder.call().offer(other.metainfo.info_hash(), RC4, &[]).is_err());
    let hash = seeder.payload.metainfo.info_hash();
    let peer = seeder.call().offer(hash, RC4, &first_words(&other)).unwrap();
    seeder.hangs_up_on(peer.stream);
    seeder.still_serves();
}

#[test]
fn callers_that_require_what_is_not_given_are_hung_up_on() {
    let seeder = Seeder::new(Require);
    let hash = seeder.payload.metainfo.info_hash();
    assert!(seeder.call().offer(hash, PLAINTEXT, &first_words(&seeder.payload)).is_err());
    assert!(Wire::call([127, 0, 0, 9].into(), seeder.client.addr(), hash, RESERVED).is_err());
    seeder.still_serves();
    let off = Seeder::new(Off);
    assert!(Caller::call(off.client.addr()).is_err());
}

#[test]
fn garbage_endless_padding_and_a_slow_drip_end_the_connection_in_time() {
    let seeder = Seeder::new(Prefer);
    let begun = Instant::now();
    let mut garbage = TcpStream::connect(seeder.client.addr()).unwrap();
    garbage.set_read_timeout(Some(PATIENCE)).unwrap();
    garbage.write_all(&[0xfe; 90]).unwrap();
    // The rest of a key, and padding that is more than may be.
    let mut endless = seeder.call();
    endless.stream.write_all(&[1; 4096]).ok();
    seeder.hangs_up_on(endless.stream);
    seeder.hangs_up_on(garbage);
    let mut dripping = seeder.call();
    dripping.stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    // Each byte comes in time, all of them together do not.
    let mut ended = false;
    while !ended {
        assert!(begun.elapsed() < PATIENCE);
        let dead = dripping.stream.write_all(&[1]).is_err();
        let mut buffer = [0; 1024];
        ended = dead || matches!(dripping.stream.read(&mut buffer), Ok(0));
    }
    seeder.still_serves();
}

#[test]
fn callers_without_end_are_served_beside_peers() {
    let seeder = Seeder::new(Prefer);
    // Each has the keys computed and goes away.
    for _ in 0..200 {
        drop(seeder.call());
    }
    seeder.still_serves();
    await_that("rid of them", &seeder.client.torrent, || seeder.client.torrent.stats().dialling == 0);
}
