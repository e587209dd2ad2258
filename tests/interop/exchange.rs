//! Peers that are found through others alone, with libtorrent on either side (BEP 11).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ropewalk::{Config, Session, Torrent};
use serde_json::json;

use crate::clients::{self, Job};
use crate::rig::network::Network;
use crate::rig::payload::Payload;
use crate::rig::process::{PATIENCE, Process};
use crate::{PIECE, add, need, session};

/// A libtorrent that has nothing and so is never done, and its address.
fn idle(network: Network, payload: &Payload, peers: &[SocketAddr]) -> (Process, SocketAddr) {
    let folder = payload.empty_folder(&format!("out-{}", fastrand::u64(..)));
    let job = Job { torrent: &payload.torrent(), dir: &folder, ip: network.theirs };
    let (client, port) = clients::libtorrent(&job, false, peers, &json!({}));
    (client, SocketAddr::new(network.theirs, port))
}

/// libtorrent looks once a second whether there is something to tell for the first time.
fn await_peers(torrent: &Torrent, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    while torrent.peers().len() < count {
        assert!(Instant::now() < deadline, "{:?} {:?}", torrent.stats(), torrent.peers());
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn ropewalk_finds_a_peer_that_libtorrent_names() {
    if !need::libtorrent() {
        return;
    }
    let payload = Payload::single(300_000, PIECE, None);
    Network::run(|network| {
        let (mut known, addr) = idle(network, &payload, &[]);
        let (_teller, teller) = idle(network, &payload, &[addr]);
        known.wait_for("peer_connect");
        // It does not listen, or it would be named to the other as well, and might be called by it first.
        let mut config = Config::default();
        config.dht.enabled = false;
        config.listen.accept = false;
        config.listen.bind = Some(network.ours.into());
        let session = Session::new(config).unwrap();
        let torrent = add(&session, &payload.metainfo, &payload.empty_folder("out"), &[teller]);
        await_peers(&torrent, 2);
        assert!(torrent.peers().iter().any(|peer| peer.addr == addr), "{:?}", torrent.peers());
        session.shutdown();
    });
}

#[test]
fn libtorrent_finds_a_peer_that_ropewalk_names() {
    if !need::libtorrent() {
        return;
    }
    let payload = Payload::single(300_000, PIECE, None);
    Network::run(|network| {
        let (mut first, first_addr) = idle(network, &payload, &[]);
        let (_second, second_addr) = idle(network, &payload, &[]);
        let session = session(network.ours);
        let folder = payload.empty_folder("out");
        let torrent = add(&session, &payload.metainfo, &folder, &[first_addr, second_addr]);
        await_peers(&torrent, 2);
        // Whichever of the two is the first to dial the other.
        let [ip, port] = [second_addr.ip().to_string(), second_addr.port().to_string()];
        first.wait_until("a connection to the other", |line| {
            (line.starts_with("peer_connect")
                && line.contains(&ip)
                && (line.contains(&port) || line.contains("incoming")))
            .then_some(())
        });
        session.shutdown();
    });
}
