//! libtorrent, with us as somebody wants us, as a seeder and as a downloader: we dial it, or it calls us.

use std::net::SocketAddr;

use ropewalk::{PeerConfig, PeerTimes, Torrent};
use serde_json::Value;

use super::clients::{self, Job};
use super::{add, finish, session_of};
use crate::rig::need;
use crate::rig::network::Network;
use crate::rig::payload::Payload;

/// Downloads from libtorrent, and checks how.
pub(crate) fn get(
    ours: PeerConfig,
    theirs: &Value,
    payload: Payload,
    we_dial: bool,
    check: impl FnOnce(&Torrent) + Send,
) {
    if !need::libtorrent() {
        return;
    }
    Network::run(|network| {
        let folder = payload.empty_folder("out");
        let session = session_of(network.ours, ours);
        let torrent = add(&session, &payload.metainfo, &folder, &[]);
        torrent.wait(std::time::Duration::ZERO);
        let data = payload.data();
        let job = Job { torrent: &payload.torrent(), dir: &data, ip: network.theirs };
        let to_call = if we_dial { Vec::new() } else { session.listen_addrs() };
        let (mut seeder, port) = clients::libtorrent(&job, true, &to_call, theirs);
        seeder.wait_for("done");
        if we_dial {
            torrent.add_peer(SocketAddr::new(network.theirs, port)).unwrap();
        }
        finish(&torrent);
        check(&torrent);
        session.shutdown();
        payload.assert_in(&folder);
    });
}

/// Has libtorrent download from us, and checks how.
pub(crate) fn give(
    ours: PeerConfig,
    theirs: &Value,
    payload: Payload,
    we_dial: bool,
    check: impl FnOnce(&Torrent) + Send,
) {
    if !need::libtorrent() {
        return;
    }
    Network::run(|network| {
        let session = session_of(network.ours, ours);
        let torrent = add(&session, &payload.metainfo, &payload.data(), &[]);
        finish(&torrent);
        let folder = payload.empty_folder("out");
        let job = Job { torrent: &payload.torrent(), dir: &folder, ip: network.theirs };
        let to_call = if we_dial { Vec::new() } else { session.listen_addrs() };
        let (mut getter, port) = clients::libtorrent(&job, false, &to_call, theirs);
        if we_dial {
            torrent.add_peer(SocketAddr::new(network.theirs, port)).unwrap();
        }
        getter.wait_for("done");
        getter.kill();
        check(&torrent);
        session.shutdown();
        payload.assert_in(&folder);
    });
}

/// That this holds for all connections that brought or took payload, of which there are some.
pub(crate) fn assert_used(torrent: &Torrent, holds: impl Fn(&PeerTimes) -> bool) {
    let explanation = torrent.explain();
    let used: Vec<_> = explanation.peers.iter().filter(|peer| peer.downloaded + peer.uploaded > 0).collect();
    assert!(!used.is_empty() && used.iter().all(|peer| holds(peer)), "{used:?}");
}
