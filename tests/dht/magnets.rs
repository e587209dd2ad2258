//! Magnet links whose peers only the DHT knows.

use std::time::{Duration, Instant};

use ropewalk::{AddOptions, DhtState, Event, Magnet, Session};

use crate::rig::payload::Payload;
use crate::{LOCAL, PIECE, add, await_that, config, finish, node};

#[test]
fn metadata_and_content_of_a_bare_link_come_by_the_dht_alone() {
    let payload = Payload::single(3_000_000, 4096, None);
    let (_node, addr) = node(LOCAL, &[]);
    let seeder = Session::new(config(LOCAL, &[addr])).unwrap();
    finish(&add(&seeder, &payload.metainfo, &payload.data(), &[]));
    let session = Session::new(config(LOCAL, &[addr])).unwrap();
    let folder = payload.empty_folder("out");
    let torrent = session.add_magnet(Magnet::new(payload.metainfo.info_hash()), AddOptions::new(&folder)).unwrap();
    // On a machine that is very busy the one connection may be lost; it is made again after a minute.
    torrent.wait(2 * crate::rig::process::PATIENCE);
    finish(&torrent);
    payload.assert_in(&folder);
}

#[test]
fn a_search_that_waits_finds_who_announces_soon() {
    let payload = Payload::single(3_000_000, 4096, None);
    let (_node, addr) = node(LOCAL, &[]);
    let session = Session::new(config(LOCAL, &[addr])).unwrap();
    let folder = payload.empty_folder("out");
    let torrent = session.add_magnet(Magnet::new(payload.metainfo.info_hash()), AddOptions::new(&folder)).unwrap();
    let events = torrent.events();
    await_that("joined", || torrent.stats().dht.is_some_and(|dht| dht.state == DhtState::Joined));
    let begun = Instant::now();
    let seeder = Session::new(config(LOCAL, &[addr])).unwrap();
    add(&seeder, &payload.metainfo, &payload.data(), &[]);
    // The seeder finds us as well: whoever calls first.
    let first = |event: &Event| matches!(event, Event::Piece { .. });
    let deadline = begun + crate::rig::process::PATIENCE;
    while !first(&events.recv_deadline(deadline).unwrap()) {}
    let took = begun.elapsed();
    // Some tenths of a second, hashing at the seeder included; the rest is for a machine that is busy.
    assert!(took < Duration::from_secs(4), "{took:?}");
    finish(&torrent);
    payload.assert_in(&folder);
}

#[test]
fn a_node_that_the_link_names_is_where_the_search_begins() {
    let payload = Payload::single(300_000, PIECE, None);
    let (_node, addr) = node(LOCAL, &[]);
    let seeder = Session::new(config(LOCAL, &[addr])).unwrap();
    finish(&add(&seeder, &payload.metainfo, &payload.data(), &[]));
    let session = Session::new(config(LOCAL, &[])).unwrap();
    let folder = payload.empty_folder("out");
    let mut magnet = Magnet::new(payload.metainfo.info_hash());
    magnet.nodes = vec![addr.to_string().parse().unwrap()];
    finish(&session.add_magnet(magnet, AddOptions::new(&folder)).unwrap());
    payload.assert_in(&folder);
}
