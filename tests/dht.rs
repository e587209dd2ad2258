//! The DHT as clients use it: sessions that find each other by nothing else, what they keep to themselves, and what they
//! keep for later; with libtorrent at the other end, too. Everything stays on loopback or in a namespace.

mod rig;

#[path = "dht/command.rs"]
mod command;
#[path = "dht/libtorrent.rs"]
mod libtorrent;
#[path = "dht/magnets.rs"]
mod magnets;
#[path = "dht/sessions.rs"]
mod sessions;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use ropewalk::dht::{Node, Options};
use ropewalk::{AddOptions, Config, DhtConfig, Metainfo, Session, State, Torrent};

use rig::process::PATIENCE;

const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const PIECE: u32 = 32 * 1024;

/// A node that others begin with.
fn node(ip: IpAddr, bootstrap: &[SocketAddr]) -> (Node, SocketAddr) {
    let bootstrap = bootstrap.iter().map(ToString::to_string).collect();
    let dht = DhtConfig { bootstrap, ..DhtConfig::default() };
    let node = Node::start(Options { bind: Some(ip.into()), port: 0, dht }).unwrap();
    let addr = node.addrs()[0];
    (node, addr)
}

/// A configuration of a session that knows these nodes.
fn config(ip: IpAddr, bootstrap: &[SocketAddr]) -> Config {
    env_logger::builder().is_test(true).try_init().ok();
    let mut config = Config::default();
    config.listen.ports = 0..=0;
    config.listen.bind = Some(ip.into());
    config.dht.bootstrap = bootstrap.iter().map(ToString::to_string).collect();
    config
}

/// Adds a torrent that knows these peers.
fn add(session: &Session, metainfo: &Metainfo, dir: &Path, peers: &[SocketAddr]) -> Torrent {
    let mut options = AddOptions::new(dir);
    options.peers = peers.to_vec();
    session.add(metainfo.clone(), options).unwrap()
}

#[track_caller]
fn finish(torrent: &Torrent) {
    let state = torrent.wait(PATIENCE);
    assert_eq!(state, State::Seeding, "{:#?}\n{:#?}", torrent.stats(), torrent.peers());
}

/// Waits until something is so that nobody tells of.
#[track_caller]
fn await_that(what: &str, is_it: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_it() {
        assert!(Instant::now() < deadline, "not {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
