//! Against real servers, which are started on free ports.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use self::server::Server;
use super::*;
use crate::wire::handshake::PeerId;
use crate::wire::tracker::{Event, Family, compact_peers};

mod cluster;
mod index;
mod load;
mod outages;
mod server;
mod swarms;

/// How long a test waits for what is bound to come.
const PATIENCE: Duration = Duration::from_secs(30);

const TORRENT: InfoHash = InfoHash::new([0xff; 20]);

/// Until it holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        thread::yield_now();
    }
}

fn store(url: &str) -> RedisStore {
    store_with(url, |_| ())
}

fn store_with(url: &str, change: impl FnOnce(&mut RedisConfig)) -> RedisStore {
    let mut config = RedisConfig::new(url.parse().unwrap());
    change(&mut config);
    RedisStore::start(&config).unwrap()
}

/// A leecher with a number for an address, without a key.
fn leecher(number: u32) -> Announce {
    let [_, a, b, c] = number.to_be_bytes();
    Announce {
        info_hash: TORRENT,
        peer_id: peer_id(number),
        addr: SocketAddr::from(([10, a, b, c], 6881)),
        key: 0,
        left: 1,
        uploaded: 0,
        downloaded: 0,
        event: None,
        wanted: 50,
        both_families: false,
        with_ids: false,
    }
}

fn seeder(number: u32) -> Announce {
    Announce { left: 0, ..leecher(number) }
}

fn peer_id(number: u32) -> PeerId {
    let mut id = *b"-TR4050-\0\0\0\0\0\0\0\0\0\0\0\0";
    id[16..].copy_from_slice(&number.to_be_bytes());
    PeerId::new(id)
}

fn ask(store: &RedisStore, announce: &Announce) -> Result<Reply, Unavailable> {
    ask_at(store, announce, Instant::now())
}

fn ask_at(store: &RedisStore, announce: &Announce, now: Instant) -> Result<Reply, Unavailable> {
    let mut result = None;
    store.announce(std::slice::from_ref(announce), now, &mut Reply::default(), &mut |n, reply| {
        assert_eq!(n, 0);
        result = Some(reply.cloned().map_err(Clone::clone));
    });
    result.expect("every announce is answered")
}

fn addrs(reply: &Reply) -> Vec<SocketAddr> {
    compact_peers(&reply.v4, Family::V4).chain(compact_peers(&reply.v6, Family::V6)).collect()
}

/// The numbers of the peers in a reply, each at most once.
fn numbers(reply: &Reply) -> BTreeSet<u32> {
    let number = |addr: SocketAddr| match addr {
        SocketAddr::V4(addr) => addr.ip().to_bits() & 0xff_ffff,
        SocketAddr::V6(addr) => addr.ip().to_bits() as u32,
    };
    let all = addrs(reply);
    let numbers: BTreeSet<_> = all.iter().copied().map(number).collect();
    assert_eq!(numbers.len(), all.len(), "{all:?}");
    numbers
}

fn sizes(store: &RedisStore, info_hash: InfoHash) -> (u32, u32, u32) {
    let counts = store.scrape(&[info_hash], Instant::now()).unwrap()[0];
    (counts.seeders, counts.leechers, counts.downloaded)
}
