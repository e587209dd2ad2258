//! Sessions among themselves.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use ropewalk::tracker::Tracker;
use ropewalk::wire::message::Message;
use ropewalk::{AddError, AddOptions, Data, Event, Order, Seeding, Session, Start, State};

use crate::support::payload::Payload;
use crate::support::scripted::{RESERVED, Server, Wire, random_id};
use crate::support::{Client, PATIENCE, await_event, await_that, config};

#[test]
fn one_seeder_feeds_one_downloader() {
    let payload = Payload::file("payload.bin", 5_000_000, 65536);
    let seeder = Client::seeding(&payload);
    let getter = Client::leeching(&payload, &[seeder.addr()]);
    getter.finishes(&payload);
    // What is said of all sessions is as new as what is said of this one.
    await_that("counted", &seeder.torrent, || seeder.torrent.stats().uploaded >= 5_000_000);
    let stats = seeder.torrent.stats();
    assert_eq!(stats.uploaded_ever, stats.uploaded);
    getter.session.shutdown();
    seeder.session.shutdown();
}

/// Nobody is given a peer: all find each other by a tracker.
fn swarm_of(leechers: usize, len: usize, piece_length: u32) {
    let tracker = Tracker::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let name = format!("swarm-{leechers}.bin");
    let payload = Payload::file_tracked(&name, len, piece_length, &[tracker.announce_url()]);
    let exchanges = leechers >= 5;
    let mut at_the_seeder = config();
    // One copy a second: whoever wants one sooner gets it from others, who have come by then.
    at_the_seeder.limits.up = exchanges.then_some(len as u64);
    let seeder = Client::seeding_with(&payload, at_the_seeder, |_| ());
    await_that("announced", &seeder.torrent, || {
        seeder.torrent.trackers().iter().any(|tracker| format!("{tracker:?}").contains("Working"))
    });
    let getters: Vec<Client> = (0..leechers).map(|_| Client::leeching(&payload, &[])).collect();
    getters.iter().for_each(|getter| getter.finishes(&payload));
    if exchanges {
        let sent = || getters.iter().map(|getter| getter.torrent.stats().uploaded).sum::<u64>();
        await_that("leechers exchanged pieces", &seeder.torrent, || sent() > 0);
    }
}

#[test]
fn a_swarm_of_3_finds_itself_by_a_tracker() {
    swarm_of(2, 3_000_000, 65536);
}

#[test]
fn a_swarm_of_10_exchanges_pieces() {
    swarm_of(9, 2_000_000, 32768);
}

#[test]
fn a_swarm_of_30_exchanges_pieces() {
    swarm_of(29, 1_000_000, 16384);
}

#[test]
fn odd_and_extreme_piece_lengths_arrive() {
    for (name, len, piece_length) in [
        ("one-byte", 1, 16384),
        ("odd-1K", 100 * 1024 + 1, 1024),
        ("odd-prime", 50_021, 1009),
        ("tiny", 3 * 16384 + 1, 16384),
        ("usual", 4 * 262_144 + 1, 262_144),
        ("exact", 4 * 262_144, 262_144),
        ("odd-large", 3_000_000, 1_000_003),
    ] {
        let payload = Payload::file(name, len, piece_length);
        let seeder = Client::seeding(&payload);
        let getter = Client::leeching(&payload, &[seeder.addr()]);
        getter.finishes(&payload);
    }
}

#[test]
fn pieces_of_16_mib_with_a_last_piece_of_one_byte_arrive_from_two_seeders() {
    let payload = Payload::file("large", (16 << 20) + 1, 16 << 20);
    let seeders = [Client::seeding(&payload), Client::seeding(&payload)];
    let getter = Client::leeching(&payload, &[seeders[0].addr(), seeders[1].addr()]);
    getter.finishes(&payload);
    await_that("counted", &seeders[0].torrent, || {
        seeders.iter().map(|seeder| seeder.torrent.stats().uploaded).sum::<u64>() > (16 << 20)
    });
}

#[test]
fn it_works_over_ipv6() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        return;
    }
    let payload = Payload::file("v6", 500_000, 65536);
    let v6 = || {
        let mut config = config();
        config.listen.bind = Some(IpAddr::V6(Ipv6Addr::LOCALHOST).into());
        config
    };
    let seeder = Client::seeding_with(&payload, v6(), |_| ());
    assert!(seeder.addr().is_ipv6());
    let getter = Client::leeching_with(&payload, &[seeder.addr()], v6(), |_| ());
    getter.finishes(&payload);
}

#[test]
fn two_that_have_half_each_complete_each_other_and_a_third() {
    let payload = Payload::file("halves", 40 * 65536, 65536);
    let half = |first: bool| {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = payload.bytes.clone();
        let (a, b) = bytes.split_at_mut(20 * 65536);
        if first { b } else { a }.fill(0);
        std::fs::write(dir.path().join("halves"), bytes).unwrap();
        Client::start(&payload, dir, config(), |_| ())
    };
    let (a, b) = (half(true), half(false));
    await_that("checked", &a.torrent, || a.torrent.stats().pieces_have == 20 && b.torrent.stats().pieces_have == 20);
    let c = Client::leeching(&payload, &[a.addr(), b.addr()]);
    a.torrent.add_peer(b.addr()).unwrap();
    [&a, &b, &c].into_iter().for_each(|client| client.finishes(&payload));
}

#[test]
fn sequential_order_is_asked_for_in_order() {
    let payload = Arc::new(Payload::file("sequence", 30 * 65536, 65536));
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seeder = {
        let (payload, asked) = (Arc::clone(&payload), Arc::clone(&asked));
        Server::start([127, 0, 0, 2], move |stream| {
            let mut wire = Wire::answer_seeding(stream, payload.metainfo.info_hash())?;
            loop {
                let (index, begin, len) = wire.next_request()?;
                asked.lock().unwrap().push((index, begin));
                wire.send(&Message::Piece { index, begin, data: payload.block(index, begin, len).unwrap() })?;
            }
        })
    };
    let getter = Client::leeching_with(&payload, &[seeder.addr], config(), |options| options.order = Order::Sequential);
    getter.finishes(&payload);
    assert!(asked.lock().unwrap().is_sorted());
}

#[test]
fn two_torrents_share_a_session() {
    let payloads = [Payload::file("first", 700_000, 65536), Payload::file("second", 900_000, 32768)];
    let seeder = Client::seeding(&payloads[0]);
    let second_dir = tempfile::tempdir().unwrap();
    payloads[1].write_to(second_dir.path());
    let second = seeder.session.add(payloads[1].metainfo.clone(), AddOptions::new(second_dir.path())).unwrap();
    assert_eq!(second.wait(PATIENCE), State::Seeding);
    let getter = Client::leeching(&payloads[0], &[seeder.addr()]);
    let mut options = AddOptions::new(getter.path());
    options.peers = vec![seeder.addr()];
    let second = getter.session.add(payloads[1].metainfo.clone(), options).unwrap();
    getter.finishes(&payloads[0]);
    assert_eq!(second.wait(PATIENCE), State::Seeding);
    payloads[1].assert_in(getter.path());
    assert_eq!(getter.session.torrents().len(), 2);
}

#[test]
fn a_torrent_that_is_there_is_refused_and_one_that_was_removed_is_not() {
    let payload = Payload::file("twice", 100_000, 16384);
    let client = Client::seeding(&payload);
    let again = || client.session.add(payload.metainfo.clone(), AddOptions::new(client.path()));
    assert!(matches!(again(), Err(AddError::Duplicate(hash)) if hash == payload.metainfo.info_hash()));
    client.torrent.remove(Data::Keep).unwrap();
    assert_eq!(client.torrent.wait(PATIENCE), State::Stopped);
    assert!(client.torrent.pause().is_err());
    payload.assert_in(client.path());
    let torrent = again().unwrap();
    assert_eq!(torrent.wait(PATIENCE), State::Seeding);
    torrent.remove(Data::Delete).unwrap();
    assert_eq!(torrent.wait(PATIENCE), State::Stopped);
    assert!(!client.path().join("twice").exists());
    assert!(client.session.torrents().is_empty());
}

#[test]
fn a_paused_torrent_has_no_peers_and_goes_on_when_resumed() {
    let payload = Payload::file("paused", 4 << 20, 65536);
    let seeder = Client::seeding(&payload);
    let getter = Client::leeching_with(&payload, &[seeder.addr()], config(), |options| {
        options.limits.down = Some(1 << 20);
    });
    let events = getter.torrent.events();
    await_event(&events, |event| matches!(event, Event::Piece { .. }));
    getter.torrent.pause().unwrap();
    await_event(&events, |event| matches!(event, Event::State(State::Paused)));
    await_that("without peers", &getter.torrent, || getter.torrent.stats().peers == 0);
    assert!(getter.torrent.stats().done < 4 << 20);
    getter.torrent.set_limits(Default::default()).unwrap();
    getter.torrent.resume().unwrap();
    getter.finishes(&payload);
}

#[test]
fn a_torrent_that_starts_paused_waits() {
    let payload = Payload::file("waits", 100_000, 16384);
    let seeder = Client::seeding(&payload);
    let getter = Client::leeching_with(&payload, &[seeder.addr()], config(), |options| options.start = Start::Paused);
    await_that("paused", &getter.torrent, || getter.torrent.state() == State::Paused);
    assert_eq!(getter.torrent.stats().downloaded, 0);
    assert_eq!(getter.torrent.wait(Duration::from_millis(1)), State::Paused);
    getter.torrent.resume().unwrap();
    getter.finishes(&payload);
}

#[test]
fn a_super_seeder_uploads_little_more_than_one_copy() {
    let payload = Payload::file("super", 64 * 32768, 32768);
    let seeder = Client::seeding_with(&payload, config(), |options| options.seeding = Seeding::Super);
    let getters: Vec<Client> = (0..4).map(|_| Client::leeching(&payload, &[seeder.addr()])).collect();
    for (number, getter) in getters.iter().enumerate() {
        for other in &getters[..number] {
            getter.torrent.add_peer(other.addr()).unwrap();
        }
    }
    getters.iter().for_each(|getter| getter.finishes(&payload));
    let copies = seeder.torrent.stats().uploaded as f64 / payload.bytes.len() as f64;
    println!("super-seeding to 4: {copies:.2} copies");
    assert!(copies < 1.6, "{copies} copies");
}

#[test]
fn a_super_seeder_feeds_a_peer_that_is_alone() {
    let payload = Payload::file("alone", 10 * 32768, 32768);
    let seeder = Client::seeding_with(&payload, config(), |options| options.seeding = Seeding::Super);
    let getter = Client::leeching(&payload, &[seeder.addr()]);
    getter.finishes(&payload);
}

#[test]
fn a_super_seeder_feeds_peers_that_have_some_pieces_already() {
    let payload = Payload::file("some", 16 * 32768, 32768);
    let seeder = Client::seeding_with(&payload, config(), |options| options.seeding = Seeding::Super);
    let partly = || {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = payload.bytes.clone();
        bytes[8 * 32768..].fill(0);
        std::fs::write(dir.path().join("some"), bytes).unwrap();
        Client::start(&payload, dir, config(), |options| options.peers = vec![seeder.addr()])
    };
    let (a, b) = (partly(), partly());
    b.torrent.add_peer(a.addr()).unwrap();
    a.finishes(&payload);
    b.finishes(&payload);
}

#[test]
fn a_session_does_not_keep_itself_as_a_peer() {
    let payload = Payload::file("itself", 100_000, 16384);
    let client = Client::leeching(&payload, &[]);
    client.torrent.add_peer(client.addr()).unwrap();
    await_that("refused", &client.torrent, || client.torrent.stats().refused.own == 1);
    // Where it listens everywhere it does not know all of its addresses, and finds out by calling.
    let mut everywhere = config();
    everywhere.listen.bind = None;
    let client = Client::leeching_with(&payload, &[], everywhere, |_| ());
    let events = client.torrent.events();
    client.torrent.add_peer(([127, 0, 0, 1], client.session.port()).into()).unwrap();
    let gone = await_event(&events, |event| matches!(event, Event::PeerGone { .. }));
    assert!(format!("{gone:?}").contains("itself"), "{gone:?}");
    assert_eq!(client.torrent.stats().peers, 0);
}

#[test]
fn of_two_connections_between_the_same_two_one_stays() {
    let payload = Payload::file("both-ways", 4 << 20, 65536);
    let limit = |options: &mut AddOptions| options.limits.down = Some(1 << 20);
    let (a, b) =
        (Client::leeching_with(&payload, &[], config(), limit), Client::leeching_with(&payload, &[], config(), limit));
    a.torrent.add_peer(b.addr()).unwrap();
    b.torrent.add_peer(a.addr()).unwrap();
    let one_each = || a.torrent.stats().peers == 1 && b.torrent.stats().peers == 1;
    await_that("connected once", &a.torrent, || {
        one_each() && a.torrent.stats().dialling == 0 && b.torrent.stats().dialling == 0
    });
    let (of_a, of_b) = (a.torrent.peers(), b.torrent.peers());
    assert_ne!(of_a[0].incoming, of_b[0].incoming, "each kept another one");
    // A seeder makes both complete over what was left.
    let seeder = Client::seeding(&payload);
    a.torrent.set_limits(Default::default()).unwrap();
    b.torrent.set_limits(Default::default()).unwrap();
    a.torrent.add_peer(seeder.addr()).unwrap();
    a.finishes(&payload);
    b.finishes(&payload);
}

#[test]
fn a_second_connection_by_the_same_peer_is_closed() {
    let payload = Payload::file("second-call", 100_000, 16384);
    let client = Client::seeding(&payload);
    let hash = payload.metainfo.info_hash();
    let (id, from) = (random_id(), [127, 0, 0, 2].into());
    let mut first = Wire::call_as(from, client.addr(), hash, RESERVED, id).unwrap();
    first.expect("have all", |message| matches!(message, Message::HaveAll));
    let mut second = Wire::call_as(from, client.addr(), hash, RESERVED, id).unwrap();
    second.expect_end();
    first.send(&Message::Interested).unwrap();
    first.expect("unchoke", |message| matches!(message, Message::Unchoke));
}

#[test]
fn no_more_peers_than_allowed_are_kept() {
    let payload = Payload::file("cap", 1_000_000, 65536);
    let mut few = config();
    few.peers.per_torrent = 3;
    let seeder = Client::seeding_with(&payload, few, |_| ());
    let hash = payload.metainfo.info_hash();
    let peers: Vec<_> = (2..12).map(|n| Wire::call([127, 0, 0, n].into(), seeder.addr(), hash, RESERVED)).collect();
    let mut peers: Vec<Wire> = peers.into_iter().flatten().collect();
    // Everybody is greeted; who is not admitted hears nothing more.
    let open = peers.iter_mut().map(Wire::receive).filter(Result::is_ok).count();
    assert!(open <= 3, "{open}");
    drop(peers);
    await_that("free again", &seeder.torrent, || seeder.torrent.stats().peers == 0);
    let getter = Client::leeching(&payload, &[seeder.addr()]);
    getter.finishes(&payload);
}

#[test]
fn at_the_thread_cap_peers_are_refused_and_nothing_breaks() {
    let payload = Payload::file("threads", 1_000_000, 65536);
    let seeders: Vec<Client> = (0..6).map(|_| Client::seeding(&payload)).collect();
    let mut few = config();
    // The torrent, its files, two workers, accepting: room for a peer or two.
    few.resources.workers = 2;
    few.resources.max_threads = 9;
    let peers: Vec<SocketAddr> = seeders.iter().map(Client::addr).collect();
    let getter = Client::leeching_with(&payload, &peers, few, |_| ());
    getter.finishes(&payload);
    let hash = payload.metainfo.info_hash();
    let callers: Vec<_> = (2..12).map(|n| Wire::call([127, 0, 0, n].into(), getter.addr(), hash, RESERVED)).collect();
    drop(callers);
    assert_eq!(getter.torrent.state(), State::Seeding);
    getter.session.shutdown();
}

#[test]
fn a_session_without_enough_threads_says_so() {
    let mut few = config();
    few.resources.max_threads = 1;
    few.resources.workers = 2;
    let error = Session::new(few).map(drop).unwrap_err();
    assert!(error.to_string().contains("thread"), "{error}");
}

#[test]
fn events_tell_the_story() {
    let payload = Payload::folder("story", &[("a", 100_000), ("b", 0), ("c", 1)], 16384, false);
    let seeder = Client::seeding(&payload);
    let getter = Client::leeching(&payload, &[]);
    let events = getter.torrent.events();
    getter.torrent.add_peer(seeder.addr()).unwrap();
    await_event(&events, |event| matches!(event, Event::PeerConnected(addr) if *addr == seeder.addr()));
    let mut pieces = 0;
    let mut files = Vec::new();
    loop {
        match events.recv_timeout(PATIENCE).unwrap() {
            Event::Piece { from, .. } => {
                assert_eq!(from, Some(seeder.addr()));
                pieces += 1;
            }
            Event::File(file) => files.push(file.get()),
            Event::Finished => break,
            _ => {}
        }
    }
    files.sort_unstable();
    assert_eq!((pieces, files), (payload.pieces(), vec![0, 2]));
    await_event(&events, |event| matches!(event, Event::State(State::Seeding)));
    await_event(&events, |event| matches!(event, Event::PeerGone { .. }));
    getter.torrent.remove(Data::Keep).unwrap();
    await_event(&events, |event| matches!(event, Event::State(State::Stopped)));
}

#[test]
fn a_wait_ends_at_its_time_and_at_the_end_of_the_session() {
    let payload = Payload::file("wait", 100_000, 16384);
    let client = Client::leeching(&payload, &[]);
    await_that("downloading", &client.torrent, || client.torrent.state() == State::Downloading);
    assert_eq!(client.torrent.wait(Duration::from_millis(10)), State::Downloading);
    let torrent = client.torrent.clone();
    let waiter = std::thread::spawn(move || torrent.wait(PATIENCE));
    let torrent = client.torrent.clone();
    drop(client);
    assert_eq!(waiter.join().unwrap(), State::Stopped);
    assert_eq!(torrent.wait(Duration::MAX), State::Stopped);
    assert!(torrent.resume().is_err());
}

#[test]
fn a_session_ends_at_once_amid_a_transfer_and_with_peers_that_never_close() {
    let payload = Arc::new(Payload::file("ends", 8 << 20, 65536));
    let seeder = Client::seeding(&payload);
    let stalling: Vec<_> = (2..8)
        .map(|n| crate::vices::Vice::NeverReads.serve([127, 0, 0, n].into(), &payload))
        .chain((8..12).map(|n| crate::vices::Vice::NeverGreets.serve([127, 0, 0, n].into(), &payload)))
        .collect();
    let peers: Vec<SocketAddr> = stalling.iter().map(|server| server.addr).chain([seeder.addr()]).collect();
    let getter = Client::leeching_with(&payload, &peers, config(), |options| options.limits.down = Some(2 << 20));
    let events = getter.torrent.events();
    await_event(&events, |event| matches!(event, Event::Piece { .. }));
    let start = std::time::Instant::now();
    getter.session.shutdown();
    assert!(start.elapsed() < Duration::from_secs(2), "it took {:?}", start.elapsed());
}

#[test]
fn who_asks_a_torrent_that_ends_does_not_wait_for_ever() {
    let payload = Payload::file("asked", 100_000, 16384);
    for _ in 0..20 {
        let client = Client::leeching(&payload, &[]);
        let (done, ends) = crossbeam_channel::bounded(4);
        for _ in 0..4 {
            let (torrent, done) = (client.torrent.clone(), done.clone());
            std::thread::spawn(move || {
                while torrent.survey().is_ok() {}
                assert!(torrent.peers().is_empty());
                done.send(()).unwrap();
            });
        }
        await_that("downloading", &client.torrent, || client.torrent.state() == State::Downloading);
        drop(client);
        for _ in 0..4 {
            ends.recv_timeout(PATIENCE).expect("an answer, or none");
        }
    }
}
