//! What peers say beside pieces: of other peers (BEP 11), of pieces that are no more (BEP 54), of wanting none (BEP 21).

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ropewalk::wire::extension::{
    Extension, ExtensionHandshake, decode_dont_have, decode_upload_only, encode_dont_have, encode_upload_only,
};
use ropewalk::wire::message::Message;
use ropewalk::wire::pex::{Contact, PexFlags, PexMessage};
use ropewalk::{Event, Priority, State};

use crate::support::payload::Payload;
use crate::support::scripted::{RESERVED, Server, Wire, random_id};
use crate::support::{Client, await_event, await_that, config};

/// The ids by which scripted peers want extension messages: others than ours.
const IDS: [(Extension, u8); 3] = [(Extension::Pex, 21), (Extension::DontHave, 22), (Extension::UploadOnly, 23)];

fn introduction() -> ExtensionHandshake {
    ExtensionHandshake { m: IDS.into_iter().collect(), ..ExtensionHandshake::default() }
}

fn introduce(wire: &mut Wire, handshake: &ExtensionHandshake) -> io::Result<()> {
    wire.send(&Message::Extended { id: 0, payload: &handshake.encode() })
}

/// Reads until a message of an extension comes, and gives what `read` makes of it.
#[track_caller]
fn hear<T>(wire: &mut Wire, wanted: u8, read: impl Fn(&[u8]) -> T) -> T {
    loop {
        let body = wire.receive().unwrap_or_else(|error| panic!("no message with id {wanted}: {error}"));
        if let Message::Extended { id, payload } = Message::decode(&body).unwrap()
            && id == wanted
        {
            return read(payload);
        }
    }
}

#[track_caller]
fn hear_introduction(wire: &mut Wire) -> ExtensionHandshake {
    hear(wire, 0, |payload| ExtensionHandshake::decode(payload).unwrap())
}

fn hear_pex(wire: &mut Wire) -> PexMessage {
    hear(wire, 21, |payload| PexMessage::decode(payload).unwrap())
}

/// Tells of peers, by the id that was asked for.
fn tell(wire: &mut Wire, id: u8, added: impl IntoIterator<Item = SocketAddr>, flags: PexFlags) -> io::Result<()> {
    let added = added.into_iter().map(|addr| Contact { addr, flags }).collect();
    let payload = PexMessage { added, dropped: Vec::new() }.encode();
    wire.send(&Message::Extended { id, payload: &payload })
}

fn our_id(handshake: &ExtensionHandshake, extension: Extension) -> u8 {
    handshake.m.id(extension).unwrap_or_else(|| panic!("{extension:?} is not offered"))
}

fn call(from: u8, client: &Client, payload: &Payload) -> Wire {
    // Before its files are open it takes nobody in.
    await_that("open", &client.torrent, || matches!(client.torrent.state(), State::Downloading | State::Seeding));
    Wire::call(Ipv4Addr::new(127, 0, 0, from), client.addr(), payload.metainfo.info_hash(), RESERVED).unwrap()
}

fn payload() -> Arc<Payload> {
    Arc::new(Payload::file("exchange.bin", 20 * 16384, 16384))
}

#[test]
fn two_that_know_only_a_third_find_each_other() {
    let payload = payload();
    // Nobody has anything, so that nobody is ever done.
    let b = Client::leeching(&payload, &[]);
    let a = Client::leeching(&payload, &[b.addr()]);
    let c = Client::leeching(&payload, &[a.addr()]);
    for client in [&a, &b, &c] {
        await_that("connected to both others", &client.torrent, || client.torrent.peers().len() == 2);
    }
}

#[test]
fn without_peer_exchange_nobody_finds_anybody_by_it() {
    let payload = payload();
    let mut config = config();
    config.peers.exchange = false;
    let client = Client::leeching_with(&payload, &[], config, |_| ());
    keeps_to_itself(&client, &payload);
}

#[test]
fn a_private_torrent_is_never_exchanged() {
    let payload = Payload::private("private.bin", 20 * 16384, 16384);
    assert!(payload.metainfo.is_private());
    keeps_to_itself(&Client::leeching(&payload, &[]), &payload);
}

/// Neither offers peer exchange, nor tells of peers, nor takes in what is told all the same.
fn keeps_to_itself(client: &Client, payload: &Payload) {
    let listener = std::net::TcpListener::bind((Ipv4Addr::new(127, 0, 0, 9), 0)).unwrap();
    let mut first = call(2, client, payload);
    introduce(&mut first, &ExtensionHandshake { p: Some(1), ..introduction() }).unwrap();
    let mut second = call(3, client, payload);
    introduce(&mut second, &ExtensionHandshake { p: Some(2), ..introduction() }).unwrap();
    assert_eq!(hear_introduction(&mut second).m.id(Extension::Pex), None);
    // By the id that others use.
    tell(&mut second, 1, [listener.local_addr().unwrap()], PexFlags::default()).unwrap();
    second.send(&Message::Have(0)).unwrap();
    // Two callers, and where they listen.
    await_that("heard", &client.torrent, || {
        client.torrent.peers().iter().any(|peer| peer.pieces == 1) && client.torrent.stats().known >= 4
    });
    assert_eq!(client.torrent.stats().known, 4);
    // Longer than it would take to be told.
    second.stream.set_read_timeout(Some(Duration::from_millis(2500))).unwrap();
    loop {
        match second.receive() {
            Ok(body) => {
                let message = Message::decode(&body).unwrap();
                assert!(!matches!(message, Message::Extended { id: 21, .. }), "it tells of peers");
            }
            Err(error) => {
                break assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
            }
        }
    }
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "it dialled whom it heard of");
}

#[test]
fn peers_are_told_of_those_who_listen_and_of_nobody_else() {
    let payload = payload();
    let holepunch = {
        let payload = Arc::clone(&payload);
        Server::start([127, 0, 0, 5], move |stream| {
            let mut wire = Wire::answer(stream, payload.metainfo.info_hash(), RESERVED, random_id())?;
            let m = [(Extension::Holepunch, 4)].into_iter().collect();
            introduce(&mut wire, &ExtensionHandshake { m, e: Some(true), ..ExtensionHandshake::default() })?;
            wire.send(&Message::HaveAll)?;
            loop {
                wire.receive()?;
            }
        })
    };
    let client = Client::leeching(&payload, &[holepunch.addr]);
    await_that("connected", &client.torrent, || client.torrent.peers().iter().any(|peer| peer.pieces > 0));
    // One that listens, and one that does not say so.
    let mut listens = call(2, &client, &payload);
    introduce(&mut listens, &ExtensionHandshake { p: Some(7), upload_only: Some(false), ..introduction() }).unwrap();
    let _silent = call(3, &client, &payload);
    await_that("all there", &client.torrent, || client.torrent.peers().len() == 3 && client.torrent.stats().known == 4);
    let mut told = call(4, &client, &payload);
    introduce(&mut told, &ExtensionHandshake { p: Some(8), ..introduction() }).unwrap();
    let message = hear_pex(&mut told);
    let flags = PexFlags::REACHABLE
        .with(PexFlags::UPLOAD_ONLY, true)
        .with(PexFlags::HOLEPUNCH, true)
        .with(PexFlags::PREFERS_ENCRYPTION, true);
    let dialled = Contact { addr: holepunch.addr, flags };
    let listening = Contact { addr: ([127, 0, 0, 2], 7).into(), flags: PexFlags::default() };
    assert_eq!(message.dropped, []);
    assert!(message.added.contains(&dialled) && message.added.contains(&listening), "{message:?}");
    assert_eq!(message.added.len(), 2, "{message:?}");
}

#[test]
fn whom_a_peer_names_is_dialled() {
    let payload = payload();
    let seeder = Client::seeding(&payload);
    let client = Client::leeching(&payload, &[]);
    let mut teller = call(2, &client, &payload);
    introduce(&mut teller, &introduction()).unwrap();
    let id = our_id(&hear_introduction(&mut teller), Extension::Pex);
    tell(&mut teller, id, [seeder.addr()], PexFlags::UPLOAD_ONLY).unwrap();
    client.finishes(&payload);
}

#[test]
fn a_seed_does_not_dial_those_who_are_said_to_be_seeds() {
    let payload = payload();
    let client = Client::seeding(&payload);
    let events = client.torrent.events();
    let seed = std::net::TcpListener::bind((Ipv4Addr::new(127, 0, 0, 8), 0)).unwrap();
    let leech = Client::leeching(&payload, &[]);
    let mut teller = call(2, &client, &payload);
    introduce(&mut teller, &introduction()).unwrap();
    let id = our_id(&hear_introduction(&mut teller), Extension::Pex);
    tell(&mut teller, id, [seed.local_addr().unwrap()], PexFlags::UPLOAD_ONLY).unwrap();
    tell(&mut teller, id, [leech.addr()], PexFlags::default()).unwrap();
    await_event(&events, |event| matches!(event, Event::PeerConnected(addr) if *addr == leech.addr()));
    seed.set_nonblocking(true).unwrap();
    assert_eq!(seed.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_peer_that_floods_addresses_is_cut_off_and_fills_nothing() {
    let payload = payload();
    let client = Client::leeching(&payload, &[]);
    let events = client.torrent.events();
    let mut flood = call(2, &client, &payload);
    introduce(&mut flood, &introduction()).unwrap();
    let id = our_id(&hear_introduction(&mut flood), Extension::Pex);
    // 200 messages of 50: refused at once, or accepted by nobody.
    let addr = |n: u32| SocketAddr::from(([127, 100, (n >> 8) as u8, n as u8], 9));
    for message in 0..200 {
        if tell(&mut flood, id, (message * 50..message * 50 + 50).map(addr), PexFlags::default()).is_err() {
            break;
        }
    }
    flood.expect_end();
    let gone = await_event(
        &events,
        |event| matches!(event, Event::PeerGone { addr, .. } if addr.ip() == Ipv4Addr::new(127, 0, 0, 2)),
    );
    assert!(matches!(&gone, Event::PeerGone { why, .. } if why.contains("ut_pex")), "{gone:?}");
    let known = client.torrent.stats().known;
    assert!(known <= 160, "{known} addresses");
}

#[test]
fn whoever_names_thousands_does_not_keep_others_from_being_heard() {
    let payload = payload();
    let honest = Client::seeding(&payload);
    let client = Client::leeching(&payload, &[]);
    let (mut loud, mut quiet) = (call(2, &client, &payload), call(3, &client, &payload));
    let id = [&mut loud, &mut quiet].map(|wire| {
        introduce(wire, &introduction()).unwrap();
        our_id(&hear_introduction(wire), Extension::Pex)
    })[0];
    let addr = |n: u32| SocketAddr::from(([127, 100, (n >> 8) as u8, n as u8], 9));
    for message in 0..3 {
        tell(&mut loud, id, (message * 100..message * 100 + 100).map(addr), PexFlags::default()).unwrap();
    }
    tell(&mut quiet, id, [honest.addr()], PexFlags::default()).unwrap();
    client.finishes(&payload);
}

#[test]
fn a_piece_that_a_peer_lost_is_not_waited_for() {
    let payload = payload();
    // It loses whatever it is asked for first, and never answers that.
    let forgetful = {
        let payload = Arc::clone(&payload);
        Server::start([127, 0, 0, 2], move |stream| {
            let mut wire = Wire::answer(stream, payload.metainfo.info_hash(), RESERVED, random_id())?;
            introduce(&mut wire, &introduction())?;
            let id = our_id(&hear_introduction(&mut wire), Extension::DontHave);
            wire.send(&Message::HaveAll)?;
            wire.send(&Message::Unchoke)?;
            let (lost, ..) = wire.next_request()?;
            wire.send(&Message::Extended { id, payload: &encode_dont_have(lost) })?;
            // Requests may have been on their way.
            let mut late = 64;
            loop {
                let (index, begin, len) = wire.next_request()?;
                if index == lost {
                    late -= 1;
                    assert!(late > 0, "it asks on and on for what is not there");
                    continue;
                }
                wire.send(&Message::Piece { index, begin, data: payload.block(index, begin, len).unwrap() })?;
            }
        })
    };
    let client = Client::leeching(&payload, &[forgetful.addr]);
    let pieces = payload.pieces();
    await_that("all but one there", &client.torrent, || client.torrent.stats().pieces_have == pieces - 1);
    await_that("told", &client.torrent, || {
        client.torrent.peers().iter().any(|peer| (peer.pieces, peer.outstanding) == (pieces - 1, 0))
    });
    let honest = Client::seeding(&payload);
    client.torrent.add_peer(honest.addr()).unwrap();
    client.finishes(&payload);
    let stats = client.torrent.stats();
    assert_eq!((stats.wasted, stats.downloaded), (0, payload.bytes.len() as u64));
}

#[test]
fn connected_peers_hear_which_pieces_a_recheck_found_lost() {
    let payload = payload();
    let client = Client::seeding(&payload);
    let mut wire = call(2, &client, &payload);
    introduce(&mut wire, &introduction()).unwrap();
    assert_eq!(hear_introduction(&mut wire).upload_only, Some(true));
    wire.send(&Message::Have(3)).unwrap();
    await_that("connected", &client.torrent, || client.torrent.peers().iter().any(|peer| peer.pieces == 1));
    // One that could not be told is let go instead.
    let mut plain = call(3, &client, &payload);
    plain.send(&Message::HaveNone).unwrap();
    await_that("connected", &client.torrent, || client.torrent.peers().len() == 2);
    damage(&client, 5);
    client.torrent.recheck().unwrap();
    assert_eq!(hear(&mut wire, 22, decode_dont_have), Ok(5));
    assert_eq!(hear(&mut wire, 23, decode_upload_only), Ok(false));
    plain.expect_end();
    // Fetched again from somebody else, it is there again.
    let other = Client::seeding(&payload);
    client.torrent.add_peer(other.addr()).unwrap();
    wire.expect("have", |message| *message == Message::Have(5));
    assert_eq!(hear(&mut wire, 23, decode_upload_only), Ok(true));
    client.finishes(&payload);
}

#[test]
fn a_recheck_in_the_middle_of_a_transfer_costs_no_connection() {
    let payload = Arc::new(Payload::file("amid.bin", 6 << 20, 65536));
    let seeder = Client::seeding(&payload);
    let getter =
        Client::leeching_with(&payload, &[seeder.addr()], config(), |options| options.limits.down = Some(4 << 20));
    let events = getter.torrent.events();
    await_that("begun", &getter.torrent, || getter.torrent.stats().pieces_have > 5);
    getter.torrent.recheck().unwrap();
    seeder.torrent.recheck().unwrap();
    getter.torrent.set_limits(ropewalk::RateLimits::default()).unwrap();
    getter.finishes(&payload);
    let ended = events.try_iter().take_while(|event| !matches!(event, Event::Finished));
    assert_eq!(ended.filter(|event| matches!(event, Event::PeerGone { .. })).count(), 0);
}

fn damage(client: &Client, piece: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(client.path().join("exchange.bin")).unwrap();
    file.write_all_at(&[0x55; 100], piece * 16384).unwrap();
}

#[test]
fn peers_hear_when_we_have_enough_and_when_we_want_more_again() {
    let payload = Payload::folder("enough", &[("a", 4 * 16384), ("b", 2 * 16384)], 16384, true);
    let seeder = Client::seeding(&payload);
    let client = Client::leeching_with(&payload, &[], config(), |options| {
        options.priorities = vec![Priority::Normal, Priority::Skip];
    });
    let mut wire = call(2, &client, &payload);
    introduce(&mut wire, &introduction()).unwrap();
    assert_eq!(hear_introduction(&mut wire).upload_only, None);
    wire.send(&Message::Have(0)).unwrap();
    await_that("heard", &client.torrent, || client.torrent.peers().iter().any(|peer| peer.pieces == 1));
    client.torrent.add_peer(seeder.addr()).unwrap();
    assert_eq!(hear(&mut wire, 23, decode_upload_only), Ok(true));
    // From now on by another id (BEP 10: a later handshake changes ids).
    let m = [(Extension::UploadOnly, 33)].into_iter().collect();
    introduce(&mut wire, &ExtensionHandshake { m, ..ExtensionHandshake::default() }).unwrap();
    wire.send(&Message::Have(1)).unwrap();
    await_that("heard", &client.torrent, || client.torrent.peers().iter().any(|peer| peer.pieces == 2));
    let second = client.torrent.metainfo().unwrap().layout().file_indices().nth(1).unwrap();
    client.torrent.set_priority(second, Priority::Normal).unwrap();
    assert_eq!(hear(&mut wire, 33, decode_upload_only), Ok(false));
    assert_eq!(hear(&mut wire, 33, decode_upload_only), Ok(true));
    client.finishes(&payload);
}

#[test]
fn a_seed_parts_from_peers_that_want_nothing_and_stays_with_those_that_do() {
    let payload = payload();
    let client = Client::seeding(&payload);
    let mut wants = call(2, &client, &payload);
    introduce(&mut wants, &introduction()).unwrap();
    wants.send(&Message::Have(0)).unwrap();
    // By a message, and by the handshake.
    let mut later = call(3, &client, &payload);
    introduce(&mut later, &introduction()).unwrap();
    let id = our_id(&hear_introduction(&mut later), Extension::UploadOnly);
    later.send(&Message::Extended { id, payload: &encode_upload_only(true) }).unwrap();
    let mut at_once = call(4, &client, &payload);
    introduce(&mut at_once, &ExtensionHandshake { upload_only: Some(true), ..introduction() }).unwrap();
    at_once.expect_end();
    later.expect_end();
    assert_eq!(client.torrent.state(), State::Seeding);
    assert_eq!(client.torrent.peers().iter().filter(|peer| peer.pieces == 1).count(), 1);
}

#[test]
fn two_seeds_tell_each_other_of_peers_before_they_part() {
    let payload = payload();
    let client = Client::seeding(&payload);
    let leech = Client::leeching_with(&payload, &[], config(), |options| options.limits.down = Some(1));
    let mut known = call(2, &client, &payload);
    introduce(&mut known, &ExtensionHandshake { p: Some(7), ..introduction() }).unwrap();
    await_that("known", &client.torrent, || client.torrent.stats().known == 2);
    let mut seed = call(3, &client, &payload);
    seed.send(&Message::HaveAll).unwrap();
    introduce(&mut seed, &ExtensionHandshake { upload_only: Some(true), ..introduction() }).unwrap();
    let id = our_id(&hear_introduction(&mut seed), Extension::Pex);
    assert_eq!(hear_pex(&mut seed).added.len(), 1);
    tell(&mut seed, id, [leech.addr()], PexFlags::default()).unwrap();
    seed.expect_end();
    await_that("dialled", &leech.torrent, || leech.torrent.peers().iter().any(|peer| peer.pieces == payload.pieces()));
}

#[test]
fn messages_of_unknown_extensions_are_ignored() {
    let payload = payload();
    let client = Client::leeching(&payload, &[]);
    let answered = Arc::new(AtomicBool::new(false));
    let server = {
        let (payload, answered) = (Arc::clone(&payload), Arc::clone(&answered));
        Server::start([127, 0, 0, 2], move |stream| {
            let mut wire = Wire::answer_seeding(stream, payload.metainfo.info_hash())?;
            for id in [5, 99, 255] {
                wire.send(&Message::Extended { id, payload: b"d3:foo3:bare" })?;
                wire.send(&Message::Extended { id, payload: b"" })?;
            }
            answered.store(true, Ordering::SeqCst);
            loop {
                let (index, begin, len) = wire.next_request()?;
                wire.send(&Message::Piece { index, begin, data: payload.block(index, begin, len).unwrap() })?;
            }
        })
    };
    client.torrent.add_peer(server.addr).unwrap();
    client.finishes(&payload);
    assert!(answered.load(Ordering::SeqCst));
}
