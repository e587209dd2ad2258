//! Sessions of ropewalk among themselves.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ropewalk::metainfo::{Content, Creation};
use ropewalk::{DhtState, Event, Metainfo, Session};

use super::{LOCAL, PIECE, add, await_that, config, finish, node};
use crate::rig::payload::Payload;
use crate::rig::process::PATIENCE;

/// A socket in a node's place that says nothing.
fn silent() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((LOCAL, 0)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let addr = socket.local_addr().unwrap();
    (socket, addr)
}

/// All that came to a socket.
fn heard(socket: &UdpSocket) -> Vec<Vec<u8>> {
    let mut buffer = [0; 2048];
    let next = || socket.recv(&mut buffer).ok().map(|len| buffer[..len].to_vec());
    std::iter::from_fn(next).collect()
}

/// The payload's torrent with other words before its info dictionary's end: `private` or `nodes`.
fn remade(payload: &Payload, change: impl FnOnce(&mut Creation)) -> Metainfo {
    let layout = payload.metainfo.layout();
    assert!(!payload.metainfo.is_multi_file());
    let content = Content::File { len: layout.total_len(), executable: false };
    let mut creation = Creation::new(payload.metainfo.name(), content, layout.piece_length());
    change(&mut creation);
    let hashes: Vec<u8> = layout.pieces().flat_map(|piece| *payload.metainfo.piece_hash(piece)).collect();
    Metainfo::from_bytes(&creation.prepare().unwrap().finish(&hashes).unwrap()).unwrap()
}

#[test]
fn sessions_find_each_other_by_the_dht_alone() {
    let payload = Payload::folder(PIECE, None);
    let (first_node, first) = node(LOCAL, &[]);
    let (second_node, second) = node(LOCAL, &[first]);
    assert!(second_node.wait_until_joined(PATIENCE));
    let seeder = Session::new(config(LOCAL, &[first])).unwrap();
    finish(&add(&seeder, &payload.metainfo, &payload.data(), &[]));
    // Who finds others only does not look again for a while.
    await_that("announced", || [&first_node, &second_node].iter().all(|node| node.status().stats.peers > 0));
    let leechers: Vec<_> = (0..3)
        .map(|number| {
            let folder = payload.empty_folder(&format!("out{number}"));
            let session = Session::new(config(LOCAL, &[second])).unwrap();
            let torrent = add(&session, &payload.metainfo, &folder, &[]);
            (session, torrent, folder)
        })
        .collect();
    for (_, torrent, folder) in &leechers {
        finish(torrent);
        payload.assert_in(folder);
    }
    let status = seeder.dht().unwrap();
    assert_eq!(status.state, DhtState::Joined);
    // One number for both, where it is free.
    assert_eq!(seeder.dht_addrs().len(), 1);
}

#[test]
fn who_was_there_first_is_found_as_soon_as_the_other_looks() {
    let payload = Payload::single(300_000, PIECE, None);
    let (_node, addr) = node(LOCAL, &[]);
    let leecher = Session::new(config(LOCAL, &[addr])).unwrap();
    let folder = payload.empty_folder("out");
    let torrent = add(&leecher, &payload.metainfo, &folder, &[]);
    await_that("joined", || torrent.stats().dht.is_some_and(|dht| dht.state == DhtState::Joined));
    let begun = Instant::now();
    let seeder = Session::new(config(LOCAL, &[addr])).unwrap();
    add(&seeder, &payload.metainfo, &payload.data(), &[]);
    finish(&torrent);
    let took = begun.elapsed();
    // Some tenths of a second; the rest is for a machine that is busy.
    assert!(took < Duration::from_secs(4), "{took:?}");
    payload.assert_in(&folder);
}

#[test]
fn of_a_private_torrent_no_node_hears_a_word() {
    let payload = Payload::single(300_000, PIECE, None);
    let private = remade(&payload, |creation| creation.private = true);
    let (socket, addr) = silent();
    let seeder = Session::new(config(LOCAL, &[addr])).unwrap();
    finish(&add(&seeder, &private, &payload.data(), &[]));
    let leecher = Session::new(config(LOCAL, &[addr])).unwrap();
    let folder = payload.empty_folder("out");
    let torrent = add(&leecher, &private, &folder, &seeder.listen_addrs());
    finish(&torrent);
    assert!(torrent.stats().dht.is_none());
    assert_eq!(heard(&socket), [[0; 0]; 0], "nothing was sent before a torrent called for it");
    // The same session with a torrent that may use it: the node hears of that, and only of that.
    let public = add(&leecher, &payload.metainfo, &payload.empty_folder("public"), &[]);
    let heard_all = std::cell::RefCell::new(Vec::new());
    await_that("heard of", || {
        heard_all.borrow_mut().extend(heard(&socket));
        !heard_all.borrow().is_empty()
    });
    await_that("told", || public.stats().dht.is_some_and(|dht| dht.state == DhtState::Alone));
    leecher.shutdown();
    seeder.shutdown();
    let mut all = heard_all.into_inner();
    all.extend(heard(&socket));
    let names = |bytes: &Vec<u8>| bytes.windows(20).any(|part| part == private.info_hash().as_bytes());
    assert!(!all.iter().any(names), "{all:?}");
}

#[test]
fn where_no_node_answers_that_is_said_once_and_the_download_goes_on() {
    let payload = Payload::single(3_000_000, PIECE, None);
    let (socket, addr) = silent();
    let mut limited = config(LOCAL, &[addr]);
    limited.limits.up = Some(400_000);
    // A peer with a node would name it.
    limited.dht.enabled = false;
    let seeder = Session::new(limited).unwrap();
    finish(&add(&seeder, &payload.metainfo, &payload.data(), &[]));
    let leecher = Session::new(config(LOCAL, &[addr])).unwrap();
    let torrent = add(&leecher, &payload.metainfo, &payload.empty_folder("out"), &[]);
    let events = torrent.events();
    seeder.listen_addrs().into_iter().for_each(|addr| torrent.add_peer(addr).unwrap());
    finish(&torrent);
    let deadline = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    while !matches!(seen.last(), Some(Event::Dht(_))) {
        seen.push(events.recv_deadline(deadline).expect("an event that says so"));
    }
    assert_eq!(torrent.stats().dht.unwrap().state, DhtState::Alone);
    leecher.shutdown();
    assert!(!events.try_iter().any(|event| matches!(event, Event::Dht(_))), "it is said once");
    assert!(!heard(&socket).is_empty());
}

#[test]
fn a_node_is_kept_across_runs_and_a_damaged_file_is_no_obstacle() {
    let payload = Payload::single(1000, PIECE, None);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state/dht");
    let (_node, addr) = node(LOCAL, &[]);
    let run = |bootstrap: &[SocketAddr], state: DhtState| {
        let mut config = config(LOCAL, bootstrap);
        config.dht.state_file = Some(file.clone());
        let session = Session::new(config).unwrap();
        add(&session, &payload.metainfo, &payload.data(), &[]);
        await_that("as it should be", || session.dht().unwrap().state == state);
        session.shutdown();
        std::fs::read(&file).unwrap_or_default()
    };
    let first = run(&[addr], DhtState::Joined);
    let second = run(&[], DhtState::Joined);
    let id = |bytes: &[u8]| bytes[..30].to_vec();
    assert_eq!(id(&first), id(&second), "{}", first.escape_ascii());
    std::fs::write(&file, &first[..first.len() / 2]).unwrap();
    run(&[], DhtState::Alone);
    let third = run(&[addr], DhtState::Joined);
    assert_ne!(id(&first), id(&third));
}

#[test]
fn two_sessions_with_one_file_are_two_nodes() {
    let payload = Payload::single(1000, PIECE, None);
    let folder = tempfile::tempdir().unwrap();
    let (_node, addr) = node(LOCAL, &[]);
    let start = |data: &str| {
        let mut config = config(LOCAL, &[addr]);
        config.dht.state_file = Some(folder.path().join("dht"));
        let session = Session::new(config).unwrap();
        add(&session, &payload.metainfo, &folder.path().join(data), &[]);
        session
    };
    let sessions = ["one", "other"].map(start);
    for session in &sessions {
        await_that("joined", || session.dht().unwrap().state == DhtState::Joined);
    }
}

#[test]
fn a_peer_tells_where_its_node_is() {
    let payload = Payload::single(300_000, PIECE, None);
    let (_node, addr) = node(LOCAL, &[]);
    let seeder = Session::new(config(LOCAL, &[addr])).unwrap();
    finish(&add(&seeder, &payload.metainfo, &payload.data(), &[]));
    // It knows no node at all, only a peer.
    let leecher = Session::new(config(LOCAL, &[])).unwrap();
    let torrent = add(&leecher, &payload.metainfo, &payload.empty_folder("out"), &seeder.listen_addrs());
    finish(&torrent);
    await_that("joined", || leecher.dht().unwrap().state == DhtState::Joined);
}

#[test]
fn a_torrent_without_tracker_names_nodes_to_begin_with() {
    let payload = Payload::single(300_000, PIECE, None);
    let (_node, addr) = node(LOCAL, &[]);
    let bytes = payload.metainfo.as_bytes();
    let nodes = format!("5:nodesll{}:{}i{}eeee", addr.ip().to_string().len(), addr.ip(), addr.port());
    let metainfo = Metainfo::from_bytes(&[&bytes[..bytes.len() - 1], nodes.as_bytes()].concat()).unwrap();
    assert_eq!(metainfo.nodes(), [addr.to_string()]);
    let seeder = Session::new(config(LOCAL, &[])).unwrap();
    finish(&add(&seeder, &metainfo, &payload.data(), &[]));
    let leecher = Session::new(config(LOCAL, &[])).unwrap();
    finish(&add(&leecher, &metainfo, &payload.empty_folder("out"), &[]));
}

#[test]
fn a_torrent_that_is_paused_is_not_announced_any_more() {
    let payload = Payload::single(300_000, PIECE, None);
    let (_node, addr) = node(LOCAL, &[]);
    let seeder = Session::new(config(LOCAL, &[addr])).unwrap();
    let torrent = add(&seeder, &payload.metainfo, &payload.data(), &[]);
    await_that("in it", || torrent.stats().dht.is_some());
    torrent.pause().unwrap();
    await_that("out of it", || torrent.stats().dht.is_none());
    torrent.resume().unwrap();
    await_that("in it", || torrent.stats().dht.is_some());
}

#[test]
fn a_session_without_the_dht_has_no_node() {
    let mut config = config(LOCAL, &[]);
    config.dht.enabled = false;
    let session = Session::new(config).unwrap();
    assert!(session.dht().is_none() && session.dht_addrs().is_empty());
}

#[test]
fn a_session_ends_at_once_whatever_its_node_is_waiting_for() {
    let (_socket, addr) = silent();
    let payload = Payload::single(1000, PIECE, None);
    let session = Session::new(config(LOCAL, &[addr])).unwrap();
    add(&session, &payload.metainfo, &payload.data(), &[]);
    let ended = Arc::new(AtomicBool::new(false));
    let thread = {
        let ended = Arc::clone(&ended);
        std::thread::spawn(move || {
            session.shutdown();
            ended.store(true, Ordering::Relaxed);
        })
    };
    await_that("ended", || ended.load(Ordering::Relaxed));
    thread.join().unwrap();
}
