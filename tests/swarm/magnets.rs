//! Torrents added by their magnet link: metadata from peers, honest and not, and what comes after it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ropewalk::metainfo::{Content, Creation, Host, Magnet, Metainfo};
use ropewalk::wire::extension::{Extension, ExtensionHandshake};
use ropewalk::wire::handshake::Reserved;
use ropewalk::wire::message::Message;
use ropewalk::wire::metadata::{MetadataMessage, answer};
use ropewalk::{AddError, AddOptions, Choose, Config, Data, Event, OpenError, Priority, Session, Start, State};
use tempfile::TempDir;

use crate::support::payload::Payload;
use crate::support::scripted::{RESERVED, Server, Wire, random_id};
use crate::support::{Client, PATIENCE, await_event, await_that, config};

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// The id by which scripted peers are sent metadata messages.
const THEIR_ID: u8 = 77;

/// The link to a payload, with peers.
fn magnet(payload: &Payload, peers: &[SocketAddr]) -> Magnet {
    let mut magnet = Magnet::of(&payload.metainfo);
    magnet.peers = peers.iter().copied().map(Host::Addr).collect();
    magnet
}

fn start(payload: &Payload, peers: &[SocketAddr]) -> Client {
    start_in(tempfile::tempdir().unwrap(), magnet(payload, peers), config(), |_| ())
}

fn start_in(dir: TempDir, magnet: Magnet, config: Config, change: impl FnOnce(&mut AddOptions)) -> Client {
    let session = Session::new(config).unwrap();
    let mut options = AddOptions::new(dir.path());
    change(&mut options);
    let torrent = session.add_magnet(magnet, options).unwrap();
    Client { torrent, session, dir }
}

/// A payload whose metadata has several pieces: small pieces of content make many hashes.
fn large() -> Payload {
    Payload::file("large.bin", 4096 * 3000 + 5, 4096)
}

/// A scripted peer's connection on which metadata is offered.
struct Offering {
    wire: Wire,
    /// The other side's id for metadata messages.
    id: u8,
}

impl Offering {
    fn new(mut wire: Wire, size: Option<u32>) -> io::Result<Self> {
        let ours = ExtensionHandshake {
            m: [(Extension::Metadata, THEIR_ID)].into_iter().collect(),
            metadata_size: size,
            ..ExtensionHandshake::default()
        };
        wire.send(&Message::Extended { id: 0, payload: &ours.encode() })?;
        loop {
            let body = wire.receive()?;
            if let Message::Extended { id: 0, payload } = Message::decode(&body).map_err(io::Error::other)? {
                let theirs = ExtensionHandshake::decode(payload).map_err(io::Error::other)?;
                let id = theirs.m.id(Extension::Metadata).ok_or_else(|| io::Error::other("no ut_metadata"))?;
                return Ok(Self { wire, id });
            }
        }
    }

    fn answer(stream: TcpStream, payload: &Metainfo, size: Option<u32>) -> io::Result<Self> {
        Self::new(Wire::answer(stream, payload.info_hash(), RESERVED, random_id())?, size)
    }

    /// The next piece of metadata that it is asked for.
    fn asked(&mut self) -> io::Result<u32> {
        loop {
            let body = self.wire.receive()?;
            let Message::Extended { id: THEIR_ID, payload } = Message::decode(&body).map_err(io::Error::other)? else {
                continue;
            };
            if let Some(MetadataMessage::Request { piece }) =
                MetadataMessage::decode(payload).map_err(io::Error::other)?
            {
                return Ok(piece);
            }
        }
    }

    fn give(&mut self, metadata: &[u8], piece: u32) -> io::Result<()> {
        let payload = answer(metadata, piece).encode();
        self.wire.send(&Message::Extended { id: self.id, payload: &payload })
    }

    fn reject(&mut self, piece: u32) -> io::Result<()> {
        let payload = MetadataMessage::Reject { piece }.encode();
        self.wire.send(&Message::Extended { id: self.id, payload: &payload })
    }

    /// Gives whatever it is asked for.
    fn give_all(&mut self, metadata: &[u8]) -> io::Result<()> {
        loop {
            let piece = self.asked()?;
            self.give(metadata, piece)?;
        }
    }
}

fn size_of(payload: &Payload) -> Option<u32> {
    Some(payload.metainfo.info_bytes().len() as u32)
}

/// A peer that gives the metadata, changed by `lie`, and counts what it gave.
fn server(payload: &Payload, lie: impl FnOnce(&mut Vec<u8>)) -> (Server, Arc<AtomicUsize>) {
    let metainfo = payload.metainfo.clone();
    let mut metadata = metainfo.info_bytes().to_vec();
    lie(&mut metadata);
    let given = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&given);
    let server = Server::start(LOOPBACK, move |stream| {
        let mut peer = Offering::answer(stream, &metainfo, Some(metadata.len() as u32))?;
        loop {
            let piece = peer.asked()?;
            peer.give(&metadata, piece)?;
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    (server, given)
}

#[test]
fn who_calls_while_metadata_is_looked_for_and_says_where_it_listens_is_not_dialled_there() {
    let payload = large();
    let called = Arc::new(AtomicUsize::new(0));
    let listener = |count: Arc<AtomicUsize>| {
        Server::start(LOOPBACK, move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
    };
    let (theirs, other) = (listener(Arc::clone(&called)), Arc::new(AtomicUsize::new(0)));
    let elsewhere = listener(Arc::clone(&other));
    let client = start(&payload, &[]);
    let mut caller = Wire::call(LOOPBACK, client.addr(), payload.metainfo.info_hash(), RESERVED).unwrap();
    let hello = ExtensionHandshake { p: Some(theirs.addr.port()), ..ExtensionHandshake::default() };
    caller.send(&Message::Extended { id: 0, payload: &hello.encode() }).unwrap();
    // Its connection, and where it listens.
    await_that("the port to be known", &client.torrent, || client.torrent.stats().known == 2);
    client.torrent.add_peer(theirs.addr).unwrap();
    client.torrent.add_peer(elsewhere.addr).unwrap();
    await_that("somebody else to be dialled", &client.torrent, || other.load(Ordering::SeqCst) > 0);
    assert_eq!(called.load(Ordering::SeqCst), 0);
}

#[test]
fn metadata_and_content_come_from_another_ropewalk_over_one_connection() {
    let payload = large();
    let seeder = Client::seeding(&payload);
    let client = start_in(tempfile::tempdir().unwrap(), magnet(&payload, &[]), config(), |_| ());
    assert!(matches!(client.torrent.state(), State::Metadata { .. }));
    assert_eq!((client.torrent.metainfo(), client.torrent.name()), (None, payload.metainfo.name()));
    let events = client.torrent.events();
    client.torrent.add_peer(seeder.addr()).unwrap();
    await_event(&events, |event| matches!(event, Event::Metadata));
    assert_eq!(client.torrent.metainfo().map(Metainfo::info_hash), Some(payload.metainfo.info_hash()));
    client.finishes(&payload);
    assert_eq!(client.torrent.explain().connected, 1, "nobody was called twice");
    assert!(!events.try_iter().any(|event| matches!(event, Event::PeerConnected(_))), "nor told of twice");
}

#[test]
fn adding_the_same_twice_or_a_v2_torrent_is_an_error() {
    let payload = Payload::file("twice", 10, 16384);
    let client = start(&payload, &[]);
    let options = AddOptions::new(client.path());
    let again = client.session.add_magnet(magnet(&payload, &[]), options.clone());
    assert!(matches!(again, Err(AddError::Duplicate(_))));
    let again = client.session.add(payload.metainfo.clone(), options.clone());
    assert!(matches!(again, Err(AddError::Duplicate(_))));
    let v2 = format!("magnet:?xt=urn:btmh:1220{}", "ab".repeat(32)).parse().unwrap();
    assert!(matches!(client.session.add_magnet(v2, options), Err(AddError::V2Only)));
}

#[test]
fn the_first_pieces_of_metadata_come_from_several_peers_at_once() {
    let payload = large();
    let servers: Vec<_> = (0..4).map(|_| server(&payload, |_| ())).collect();
    let seeder = Client::seeding(&payload);
    let addrs: Vec<SocketAddr> = servers.iter().map(|(server, _)| server.addr).collect();
    let client = start(&payload, &addrs);
    let events = client.torrent.events();
    await_that("metadata", &client.torrent, || client.torrent.metainfo().is_some());
    drop(events);
    client.torrent.add_peer(seeder.addr()).unwrap();
    client.finishes(&payload);
    let given: Vec<usize> = servers.iter().map(|(_, given)| given.load(Ordering::SeqCst)).collect();
    assert!(given.iter().sum::<usize>() >= 4, "{given:?}");
}

#[test]
fn peers_that_have_a_part_each_make_up_the_whole() {
    let payload = large();
    let pieces = payload.metainfo.info_bytes().len().div_ceil(16384) as u32;
    assert!(pieces >= 3);
    let part = |own: u32| {
        let metainfo = payload.metainfo.clone();
        Server::start(LOOPBACK, move |stream| {
            let size = metainfo.info_bytes().len() as u32;
            let mut peer = Offering::answer(stream, &metainfo, Some(size))?;
            loop {
                match peer.asked()? {
                    piece if piece % 2 == own => peer.give(metainfo.info_bytes(), piece)?,
                    piece => peer.reject(piece)?,
                }
            }
        })
    };
    let (even, odd) = (part(0), part(1));
    let client = start(&payload, &[even.addr, odd.addr]);
    await_that("metadata", &client.torrent, || client.torrent.metainfo().is_some());
}

#[test]
fn a_liar_alone_is_banned_and_the_next_one_believed() {
    let payload = large();
    let (liar, _) = server(&payload, |metadata| metadata[100] ^= 1);
    let client = start(&payload, &[]);
    let events = client.torrent.events();
    client.torrent.add_peer(liar.addr).unwrap();
    await_event(&events, |event| matches!(event, Event::PeerBanned(addr) if *addr == liar.addr));
    assert!(client.torrent.metainfo().is_none());
    let seeder = Client::seeding(&payload);
    client.torrent.add_peer(seeder.addr()).unwrap();
    client.finishes(&payload);
}

#[test]
fn a_liar_among_several_is_found_out() {
    let payload = large();
    let (metainfo, size) = (payload.metainfo.clone(), size_of(&payload));
    let liar = Server::start(LOOPBACK, move |stream| {
        let mut peer = Offering::answer(stream, &metainfo, size)?;
        let wrong: Vec<u8> = metainfo.info_bytes().iter().map(|byte| byte ^ 1).collect();
        let piece = peer.asked()?;
        peer.give(&wrong, piece)?;
        // One piece is enough to spoil everybody's copy.
        loop {
            peer.asked()?;
        }
    });
    let client = start(&payload, &[]);
    let events = client.torrent.events();
    client.torrent.add_peer(liar.addr).unwrap();
    await_that("the lie there", &client.torrent, || {
        matches!(client.torrent.state(), State::Metadata { pieces: 1, .. })
    });
    let (honest, _) = server(&payload, |_| ());
    client.torrent.add_peer(honest.addr).unwrap();
    await_event(&events, |event| match event {
        Event::PeerBanned(addr) => *addr == liar.addr,
        Event::Metadata => panic!("the liar was not found out"),
        _ => false,
    });
    await_event(&events, |event| matches!(event, Event::Metadata));
    assert!(!events.try_iter().any(|event| matches!(event, Event::PeerBanned(_))), "nobody else was banned");
}

#[test]
fn claims_of_more_metadata_than_there_can_be_cost_nothing() {
    let payload = large();
    for claim in ["i4294967296e", "i4294967295e", "i33554433e", "i0e", "i-1e"] {
        let metainfo = payload.metainfo.clone();
        let liar = Server::start(LOOPBACK, move |stream| {
            let mut wire = Wire::answer(stream, metainfo.info_hash(), RESERVED, random_id())?;
            let handshake = format!("d1:md11:ut_metadatai{THEIR_ID}ee13:metadata_size{claim}e");
            wire.send(&Message::Extended { id: 0, payload: handshake.as_bytes() })?;
            loop {
                let body = wire.receive()?;
                let asked = matches!(Message::decode(&body), Ok(Message::Extended { id: THEIR_ID, .. }));
                assert!(!asked, "nobody is asked for what cannot be");
            }
        });
        let seeder = Client::seeding(&payload);
        let client = start(&payload, &[liar.addr]);
        client.torrent.add_peer(seeder.addr()).unwrap();
        client.finishes(&payload);
    }
}

#[test]
fn a_peer_that_stalls_does_not_hold_others_up() {
    let payload = large();
    let metainfo = payload.metainfo.clone();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let stalling = Server::start(LOOPBACK, move |stream| {
        let mut peer = Offering::answer(stream, &metainfo, Some(metainfo.info_bytes().len() as u32))?;
        loop {
            peer.asked()?;
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let client = start(&payload, &[stalling.addr]);
    await_that("asked", &client.torrent, || asked.load(Ordering::SeqCst) > 0);
    let seeder = Client::seeding(&payload);
    client.torrent.add_peer(seeder.addr()).unwrap();
    client.finishes(&payload);
}

#[test]
fn what_a_peer_says_before_there_is_metadata_counts_afterwards() {
    let payload = Payload::file("early.bin", 3 * 16384, 16384);
    let (metainfo, bytes) = (payload.metainfo.clone(), payload.bytes.clone());
    let peer = Server::start(LOOPBACK, move |stream| {
        let mut wire = Wire::answer(stream, metainfo.info_hash(), RESERVED, random_id())?;
        // Pieces 0 and 1, then 2, then the unchoke: all of it is over when the metadata comes, and never said again.
        wire.send(&Message::Bitfield(&[0b1100_0000]))?;
        wire.send(&Message::Have(2))?;
        wire.send(&Message::Unchoke)?;
        let mut peer = Offering::new(wire, Some(metainfo.info_bytes().len() as u32))?;
        let piece = peer.asked()?;
        peer.give(metainfo.info_bytes(), piece)?;
        loop {
            let (index, begin, len) = peer.wire.next_request()?;
            let at = (index * 16384 + begin) as usize;
            peer.wire.send(&Message::Piece { index, begin, data: &bytes[at..at + len as usize] })?;
        }
    });
    let client = start(&payload, &[peer.addr]);
    client.finishes(&payload);
}

#[test]
fn a_peer_that_says_too_much_before_there_is_metadata_is_dropped() {
    let payload = large();
    let metainfo = payload.metainfo.clone();
    let chatty = Server::start(LOOPBACK, move |stream| {
        let mut wire = Wire::answer(stream, metainfo.info_hash(), RESERVED, random_id())?;
        loop {
            wire.send(&Message::Bitfield(&[0xff; 100_000]))?;
        }
    });
    let client = start(&payload, &[]);
    let events = client.torrent.events();
    client.torrent.add_peer(chatty.addr).unwrap();
    let gone = await_event(&events, |event| matches!(event, Event::PeerGone { .. }));
    assert!(matches!(gone, Event::PeerGone { why, .. } if why.contains("too much")));
}

#[test]
fn somebody_who_calls_during_the_search_is_asked_and_stays() {
    let payload = large();
    let client = start(&payload, &[]);
    // The peer that calls learns of us from nobody but us.
    let seeder = Client::seeding(&payload);
    seeder.torrent.add_peer(client.addr()).unwrap();
    client.finishes(&payload);
    assert_eq!(client.torrent.explain().callers, 1);
}

#[test]
fn a_scripted_caller_gives_metadata_too() {
    let payload = large();
    let client = start(&payload, &[]);
    let wire = Wire::call(LOOPBACK, client.addr(), payload.metainfo.info_hash(), RESERVED).unwrap();
    let mut peer = Offering::new(wire, size_of(&payload)).unwrap();
    let metadata = payload.metainfo.info_bytes().to_vec();
    let giver = std::thread::spawn(move || peer.give_all(&metadata));
    await_that("metadata", &client.torrent, || client.torrent.metainfo().is_some());
    client.stop();
    giver.join().unwrap().unwrap_err();
}

#[test]
fn the_metadata_is_kept_for_the_next_time() {
    let payload = large();
    let seeder = Client::seeding(&payload);
    let client = start(&payload, &[seeder.addr()]);
    client.finishes(&payload);
    let dir = client.stop();
    let kept = dir.path().join(".ropewalk").join(format!("{}.torrent", payload.metainfo.info_hash()));
    assert_eq!(Metainfo::read(&kept).unwrap().info_bytes(), payload.metainfo.info_bytes());
    // Nobody is there to ask; the link brings another tracker.
    let mut link = magnet(&payload, &[]);
    link.trackers.push("http://127.0.0.1:9/announce".into());
    let client = start_in(dir, link, config(), |_| ());
    client.finishes(&payload);
    assert_eq!(client.torrent.metainfo().unwrap().trackers(), [["http://127.0.0.1:9/announce"]]);
    assert_eq!(client.torrent.stats().downloaded, 0);
    let events = client.torrent.events();
    client.torrent.remove(Data::Delete).unwrap();
    await_event(&events, |event| matches!(event, Event::State(State::Stopped)));
    assert!(!kept.exists());
}

#[test]
fn a_kept_file_that_is_broken_is_looked_for_again() {
    let payload = large();
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join(".ropewalk");
    std::fs::create_dir(&state).unwrap();
    std::fs::write(state.join(format!("{}.torrent", payload.metainfo.info_hash())), b"d4:infode").unwrap();
    let seeder = Client::seeding(&payload);
    let client = start_in(dir, magnet(&payload, &[seeder.addr()]), config(), |_| ());
    client.finishes(&payload);
}

fn folder() -> Payload {
    Payload::folder("set", &[("a.bin", 20_000), ("b.bin", 40_000), ("c.bin", 5_000)], 16384, false)
}

#[test]
fn a_link_selects_files() {
    let payload = folder();
    let seeder = Client::seeding(&payload);
    let mut link = magnet(&payload, &[seeder.addr()]);
    link.select = [1].into_iter().collect();
    let client = start_in(tempfile::tempdir().unwrap(), link, config(), |_| ());
    assert_eq!(client.torrent.wait(PATIENCE), State::Seeding);
    assert_eq!(client.torrent.priorities(), [Priority::Skip, Priority::Normal, Priority::Skip]);
    assert!(client.path().join("set/b.bin").exists() && !client.path().join("set/a.bin").exists());
}

#[test]
fn a_link_that_selects_nothing_that_is_there_means_everything() {
    let payload = folder();
    let seeder = Client::seeding(&payload);
    let mut link = magnet(&payload, &[seeder.addr()]);
    link.select = [7].into_iter().collect();
    start_in(tempfile::tempdir().unwrap(), link, config(), |_| ()).finishes(&payload);
}

#[test]
fn files_are_chosen_when_they_are_known_and_others_are_never_made() {
    let payload = folder();
    let seeder = Client::seeding(&payload);
    let link = magnet(&payload, &[seeder.addr()]);
    let client = start_in(tempfile::tempdir().unwrap(), link, config(), |options| {
        options.choose = Some(Choose::new(|metainfo| {
            let files = metainfo.layout().files().iter();
            files.map(|file| if file.path().ends_with("c.bin") { Priority::High } else { Priority::Skip }).collect()
        }));
    });
    assert_eq!(client.torrent.wait(PATIENCE), State::Seeding);
    assert!(client.path().join("set/c.bin").exists() && !client.path().join("set/a.bin").exists());
}

#[test]
fn web_seeds_and_trackers_of_the_link_are_in_the_metainfo() {
    let payload = large();
    let seeder = Client::seeding(&payload);
    let mut link = magnet(&payload, &[seeder.addr()]);
    link.web_seeds = vec!["http://127.0.0.1:9/x".into()];
    link.trackers = vec!["http://127.0.0.1:9/a".into(), "udp://127.0.0.1:9".into()];
    let client = start_in(tempfile::tempdir().unwrap(), link, config(), |_| ());
    client.finishes(&payload);
    let metainfo = client.torrent.metainfo().unwrap();
    assert_eq!(metainfo.web_seeds(), ["http://127.0.0.1:9/x"]);
    assert_eq!(metainfo.trackers(), [["http://127.0.0.1:9/a"], ["udp://127.0.0.1:9"]]);
}

#[test]
fn started_paused_the_metadata_is_fetched_and_the_content_waits() {
    let payload = large();
    let seeder = Client::seeding(&payload);
    let link = magnet(&payload, &[seeder.addr()]);
    let client = start_in(tempfile::tempdir().unwrap(), link, config(), |options| options.start = Start::Paused);
    await_that("paused", &client.torrent, || client.torrent.state() == State::Paused);
    assert!(client.torrent.metainfo().is_some());
    assert_eq!(client.torrent.stats().downloaded, 0);
    client.torrent.resume().unwrap();
    client.finishes(&payload);
    assert_eq!(client.torrent.explain().connected, 1, "the connection waited, too");
}

#[test]
fn a_search_is_paused_resumed_and_removed() {
    let payload = large();
    let client = start(&payload, &[]);
    let events = client.torrent.events();
    client.torrent.pause().unwrap();
    await_event(&events, |event| matches!(event, Event::State(State::Paused)));
    let refused = Wire::call(LOOPBACK, client.addr(), payload.metainfo.info_hash(), RESERVED);
    if let Ok(mut wire) = refused {
        wire.expect_end();
    }
    client.torrent.resume().unwrap();
    await_event(&events, |event| matches!(event, Event::State(State::Metadata { .. })));
    client.torrent.remove(Data::Delete).unwrap();
    await_event(&events, |event| matches!(event, Event::State(State::Stopped)));
    assert!(client.session.torrents().is_empty());
}

#[test]
fn a_file_cannot_be_opened_before_it_is_known() {
    let payload = large();
    let client = start(&payload, &[]);
    let file = payload.metainfo.layout().file_index(0).unwrap();
    assert!(matches!(client.torrent.open(file), Err(OpenError::NoMetadata)));
    assert_eq!(client.torrent.file_done(file), 0);
    assert_eq!(client.torrent.path_of(file), client.path());
}

#[test]
fn metadata_that_has_the_hash_and_is_no_torrent_fails_with_the_reason() {
    let info = b"d4:name1:xe".to_vec();
    let info_hash = ropewalk::InfoHash::new(ropewalk::hash::sha1([&info[..]]));
    let peer = Server::start(LOOPBACK, move |stream| {
        let wire = Wire::answer(stream, info_hash, RESERVED, random_id())?;
        Offering::new(wire, Some(info.len() as u32))?.give_all(&info)
    });
    let mut link = Magnet::new(info_hash);
    link.peers = vec![Host::Addr(peer.addr)];
    let client = start_in(tempfile::tempdir().unwrap(), link, config(), |_| ());
    let State::Failed(failure) = client.torrent.wait(PATIENCE) else { panic!("{:?}", client.torrent.state()) };
    assert!(failure.message.contains("cannot be used") && !failure.disk, "{}", failure.message);
}

#[test]
fn peers_that_cannot_give_metadata_are_kept_for_the_content() {
    let payload = Payload::file("plain.bin", 5 * 16384, 16384);
    let metainfo = payload.metainfo.clone();
    let bytes = payload.bytes.clone();
    // Neither the Fast extension nor the extension protocol.
    let plain = Server::start(LOOPBACK, move |stream| {
        let mut wire = Wire::answer(stream, metainfo.info_hash(), Reserved::NONE, random_id())?;
        wire.send(&Message::Bitfield(&[0b1111_1000]))?;
        wire.send(&Message::Unchoke)?;
        loop {
            let (index, begin, len) = wire.next_request()?;
            let at = (index * 16384 + begin) as usize;
            wire.send(&Message::Piece { index, begin, data: &bytes[at..at + len as usize] })?;
        }
    });
    let client = start(&payload, &[plain.addr]);
    await_that("connected", &client.torrent, || client.torrent.stats().peers == 1);
    // This one has the metadata and none of the content.
    let (giver, _) = server(&payload, |_| ());
    client.torrent.add_peer(giver.addr).unwrap();
    client.finishes(&payload);
}

#[test]
fn an_ordinary_torrent_gives_its_metadata_and_bounds_how_often() {
    let payload = large();
    let seeder = Client::seeding(&payload);
    let wire = Wire::call(LOOPBACK, seeder.addr(), payload.metainfo.info_hash(), RESERVED).unwrap();
    let mut peer = Offering::new(wire, None).unwrap();
    let metadata = payload.metainfo.info_bytes();
    let pieces = metadata.len().div_ceil(16384) as u32;
    let came = |peer: &mut Offering, piece: u32| {
        let request = MetadataMessage::Request { piece }.encode();
        peer.wire.send(&Message::Extended { id: peer.id, payload: &request }).unwrap();
        loop {
            let body = peer.wire.receive().unwrap();
            if let Ok(Message::Extended { id: THEIR_ID, payload }) = Message::decode(&body) {
                return MetadataMessage::decode(payload).unwrap().unwrap().encode();
            }
        }
    };
    for piece in 0..pieces {
        assert_eq!(came(&mut peer, piece), answer(metadata, piece).encode());
    }
    assert_eq!(came(&mut peer, pieces), MetadataMessage::Reject { piece: pieces }.encode());
    // Ten thousand more at once end with the bound, and harm nobody.
    let mut out = Vec::new();
    let request = MetadataMessage::Request { piece: 0 }.encode();
    (0..10_000).for_each(|_| Message::Extended { id: peer.id, payload: &request }.encode_into(&mut out));
    std::io::Write::write_all(&mut peer.wire.stream, &out).ok();
    start(&payload, &[seeder.addr()]).finishes(&payload);
}

/// A torrent of a private tracker.
fn private() -> Payload {
    let mut payload = Payload::file("private.bin", 5 * 16384, 16384);
    let content = Content::File { len: payload.bytes.len() as u64, executable: false };
    let creation = Creation { private: true, ..Creation::new("private.bin", content, 16384) };
    let hashes: Vec<u8> = payload.bytes.chunks(16384).flat_map(|piece| ropewalk::hash::sha1([piece])).collect();
    let bytes = creation.prepare().unwrap().finish(&hashes).unwrap();
    payload.metainfo = Metainfo::from_bytes(&bytes).unwrap();
    payload
}

#[test]
fn a_private_torrent_keeps_its_metadata_to_itself() {
    let payload = private();
    let seeder = Client::seeding(&payload);
    let mut wire = Wire::call(LOOPBACK, seeder.addr(), payload.metainfo.info_hash(), RESERVED).unwrap();
    let ours = ExtensionHandshake {
        m: [(Extension::Metadata, THEIR_ID)].into_iter().collect(),
        ..ExtensionHandshake::default()
    };
    wire.send(&Message::Extended { id: 0, payload: &ours.encode() }).unwrap();
    wire.expect("a handshake without metadata", |message| match message {
        Message::Extended { id: 0, payload } => {
            let theirs = ExtensionHandshake::decode(payload).unwrap();
            assert_eq!((theirs.m.id(Extension::Metadata), theirs.metadata_size), (None, None));
            true
        }
        _ => false,
    });
    let request = MetadataMessage::Request { piece: 0 }.encode();
    wire.send(&Message::Extended { id: 2, payload: &request }).unwrap();
    wire.expect("a reject", |message| match message {
        Message::Extended { id: THEIR_ID, payload } => {
            assert_eq!(MetadataMessage::decode(payload), Ok(Some(MetadataMessage::Reject { piece: 0 })));
            true
        }
        _ => false,
    });
}

#[test]
fn a_private_torrent_of_a_link_comes_from_whom_the_link_names() {
    let payload = private();
    let (giver, _) = server(&payload, |_| ());
    let seeder = Client::seeding(&payload);
    let client = start(&payload, &[giver.addr, seeder.addr()]);
    client.finishes(&payload);
    assert!(client.torrent.metainfo().unwrap().is_private());
}
