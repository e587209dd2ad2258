//! More callers than there is room for. A binary of its own: its threads and descriptors would be in the way of others'.

#[path = "support/mod.rs"]
mod support;

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ropewalk::wire::message::Message;
use rustix::process::{Resource, getrlimit, setrlimit};
use support::payload::Payload;
use support::scripted::{RESERVED, Wire};
use support::{Client, await_that, config};

/// Calls and waits for the first message after the handshake, by which it is known to be taken in.
fn call(to: SocketAddr, payload: &Payload, number: usize) -> Option<Wire> {
    let [.., high, low] = (number as u32 + 1).to_be_bytes();
    let from = Ipv4Addr::new(127, 60, high, low);
    let mut wire = Wire::call(from, to, payload.metainfo.info_hash(), RESERVED).ok()?;
    wire.receive().ok()?;
    Some(wire)
}

/// Many callers, a few at a time: those that were taken in.
fn call_all(to: SocketAddr, payload: &Arc<Payload>, calls: usize) -> Vec<Wire> {
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let payload = Arc::clone(payload);
            std::thread::spawn(move || {
                (thread..calls).step_by(8).filter_map(|number| call(to, &payload, number)).collect::<Vec<_>>()
            })
        })
        .collect();
    threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
}

/// Each connection is two descriptors here: the caller's and the session's.
fn allow_descriptors(connections: usize) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let most = limit.maximum.unwrap_or(u64::MAX);
    assert!(most > 2 * connections as u64 + 200, "the machine allows no more than {most} open files (ulimit -Hn)");
}

#[test]
fn a_thousand_callers_are_taken_in_and_those_beyond_are_let_go() {
    const ROOM: usize = 1000;
    allow_descriptors(ROOM);
    let payload = Arc::new(Payload::file("crowd.bin", 1 << 20, 65536));
    let mut config = config();
    config.peers.per_torrent = ROOM;
    let client = Client::seeding_with(&payload, config, |_| ());
    let mut taken = call_all(client.addr(), &payload, ROOM + 50);
    assert_eq!(taken.len(), ROOM);
    await_that("all counted", &client.torrent, || client.torrent.stats().peers == ROOM);

    // The session goes on: it serves those that it has,
    let mut one = taken.pop().unwrap();
    one.send(&Message::Interested).unwrap();
    one.expect("unchoke", |message| *message == Message::Unchoke);
    one.send(&Message::Request { index: 0, begin: 0, len: 16384 }).unwrap();
    one.expect("block", |message| matches!(message, Message::Piece { index: 0, .. }));
    // and whoever goes makes room.
    drop(one);
    await_that("room", &client.torrent, || client.torrent.stats().peers < ROOM);
    assert!(call(client.addr(), &payload, ROOM + 60).is_some());
    // Nobody was let go of for the sake of those that came later.
    for wire in &mut taken {
        wire.stream.set_nonblocking(true).unwrap();
        let mut buffer = [0; 4096];
        let end = loop {
            match wire.stream.read(&mut buffer) {
                Ok(0) => break None,
                Ok(_) => {}
                Err(error) => break Some(error.kind()),
            }
        };
        assert_eq!(end, Some(std::io::ErrorKind::WouldBlock));
    }
}

/// Counts what is logged of peers that are not dialled.
struct Counter {
    warned: AtomicUsize,
    said: AtomicUsize,
}

static COUNTER: Counter = Counter { warned: AtomicUsize::new(0), said: AtomicUsize::new(0) };

impl log::Log for Counter {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.args().to_string().contains("is not dialled") {
            self.said.fetch_add(1, Ordering::SeqCst);
            self.warned.fetch_add(usize::from(record.level() <= log::Level::Warn), Ordering::SeqCst);
        }
    }

    fn flush(&self) {}
}

#[test]
fn the_cap_of_threads_refuses_peers_and_is_warned_of_once() {
    log::set_logger(&COUNTER).unwrap();
    log::set_max_level(log::LevelFilter::Debug);
    let payload = Payload::file("cap.bin", 1 << 20, 65536);
    let mut config = config();
    config.resources.workers = 1;
    // The worker, those that accept, the one at the UDP port, two of the torrent, and three peers of two each.
    config.resources.max_threads = 1 + 2 + 1 + 2 + 3 * 2;
    let client = Client::leeching_with(&payload, &[], config, |_| ());
    await_that("open", &client.torrent, || client.torrent.state() == ropewalk::State::Downloading);
    let mut taken: Vec<Wire> = (0..3).map(|number| call(client.addr(), &payload, number).unwrap()).collect();
    for number in 3..20 {
        assert!(call(client.addr(), &payload, number).is_none());
    }
    await_that("counted", &client.torrent, || client.torrent.stats().peers == 3);

    // A peer to dial is kept for later, which is tried at each tick and said once.
    let seeder = Client::seeding(&payload);
    client.torrent.add_peer(seeder.addr()).unwrap();
    await_that("tried often", &client.torrent, || COUNTER.said.load(Ordering::SeqCst) >= 3);
    assert_eq!(COUNTER.warned.load(Ordering::SeqCst), 1);
    taken.pop();
    client.finishes(&payload);
}
