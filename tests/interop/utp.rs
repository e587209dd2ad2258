//! uTP with clients that speak nothing else, or prefer it.

use std::net::SocketAddr;

use ropewalk::{Encryption, PeerConfig, Torrent, Transport, Transports};
use serde_json::{Value, json};

use super::clients::{self, Job};
use super::{PIECE, Seeding, add, finish, session_of};
use crate::rig::need;
use crate::rig::network::Network;
use crate::rig::payload::Payload;

/// libtorrent that makes and takes no connection by TCP.
fn only_utp() -> Value {
    json!({"enable_outgoing_tcp": false, "enable_incoming_tcp": false, "enable_outgoing_utp": true, "enable_incoming_utp": true})
}

fn over(transports: Transports) -> PeerConfig {
    PeerConfig { transports, ..PeerConfig::default() }
}

/// That what came or went did so over uTP.
fn assert_by_utp(torrent: &Torrent) {
    let explanation = torrent.explain();
    let used: Vec<_> = explanation.peers.iter().filter(|peer| peer.downloaded + peer.uploaded > 0).collect();
    assert!(!used.is_empty() && used.iter().all(|peer| peer.transport == Transport::Utp), "{used:?}");
}

/// Downloads from libtorrent: we dial it, or it calls us.
fn get_from_libtorrent(ours: PeerConfig, theirs: &Value, we_dial: bool) {
    if !need::libtorrent() {
        return;
    }
    Network::run(|network| {
        let payload = Payload::single(3_000_017, 256 * 1024, None);
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
        assert_by_utp(&torrent);
        session.shutdown();
        payload.assert_in(&folder);
    });
}

/// libtorrent downloads from us: we dial it, or it calls us.
fn give_to_libtorrent(ours: PeerConfig, theirs: &Value, we_dial: bool) {
    if !need::libtorrent() {
        return;
    }
    Network::run(|network| {
        let payload = Payload::folder(PIECE, None);
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
        assert_by_utp(&torrent);
        session.shutdown();
        payload.assert_in(&folder);
    });
}

#[test]
fn a_libtorrent_that_speaks_utp_alone_seeds_to_us() {
    for transports in [Transports::Both, Transports::Utp] {
        for we_dial in [true, false] {
            get_from_libtorrent(over(transports), &only_utp(), we_dial);
        }
    }
}

#[test]
fn a_libtorrent_that_speaks_utp_alone_downloads_from_us() {
    for transports in [Transports::Both, Transports::Utp] {
        for we_dial in [true, false] {
            give_to_libtorrent(over(transports), &only_utp(), we_dial);
        }
    }
}

#[test]
fn a_libtorrent_that_speaks_both_is_met_by_utp_where_we_speak_nothing_else() {
    let theirs = json!({"enable_outgoing_utp": true, "enable_incoming_utp": true});
    for we_dial in [true, false] {
        get_from_libtorrent(over(Transports::Utp), &theirs, we_dial);
        give_to_libtorrent(over(Transports::Utp), &theirs, we_dial);
    }
}

#[test]
fn rc4_goes_over_utp_both_ways() {
    let mut theirs = only_utp();
    for key in ["in_enc_policy", "out_enc_policy"] {
        theirs[key] = json!(0);
    }
    theirs["allowed_enc_level"] = json!(2);
    for we_dial in [true, false] {
        let ours = || PeerConfig { encryption: Encryption::Require, ..over(Transports::Utp) };
        get_from_libtorrent(ours(), &theirs, we_dial);
        give_to_libtorrent(ours(), &theirs, we_dial);
    }
}

#[test]
fn a_transmission_that_prefers_utp_downloads_from_us() {
    if need::programs(&["transmission-cli"]) {
        Network::run_off_loopback(|network| {
            let session = session_of(network.ours, over(Transports::Utp));
            let Seeding { session, torrent, tracker, payload } = Seeding::from(session, network, true);
            let folder = payload.empty_folder("out");
            let job = Job { torrent: &payload.torrent(), dir: &folder, ip: network.theirs };
            let port = Network::free_port(network.theirs);
            let getter = clients::transmission_with(&job, port, &payload.empty_folder("config"), "-et", true);
            tracker.wait_for(&["event=completed"]);
            assert_by_utp(&torrent);
            // It writes what it still holds on its way out.
            getter.interrupt();
            session.shutdown();
            payload.assert_bytes_in(&folder);
        });
    }
}

#[test]
fn a_transmission_that_speaks_utp_seeds_to_us() {
    if need::programs(&["transmission-cli"]) {
        Network::run_off_loopback(|network| {
            let payload = Payload::folder(PIECE, None);
            let port = Network::free_port(network.theirs);
            let data = payload.data();
            let job = Job { torrent: &payload.torrent(), dir: &data, ip: network.theirs };
            let config = payload.empty_folder("config");
            let mut seeder = clients::transmission_with(&job, port, &config, "-et", true);
            seeder.wait_for("Seeding");
            let folder = payload.empty_folder("out");
            let session = session_of(network.ours, over(Transports::Utp));
            let peers = [SocketAddr::new(network.theirs, port)];
            let torrent = add(&session, &payload.metainfo, &folder, &peers);
            finish(&torrent);
            assert_by_utp(&torrent);
            session.shutdown();
            payload.assert_in(&folder);
        });
    }
}

#[test]
fn an_rqbit_that_speaks_utp_alone_downloads_from_us() {
    if need::unpackaged("rqbit") {
        Network::run(|network| {
            let session = session_of(network.ours, PeerConfig::default());
            let Seeding { session, torrent, payload, tracker: _tracker } = Seeding::from(session, network, false);
            let folder = payload.empty_folder("out");
            let job = Job { torrent: &payload.torrent(), dir: &folder, ip: network.theirs };
            let only_utp = ["--experimental-enable-utp-listen", "--disable-tcp-connect", "--disable-tcp-listen"];
            let (status, said) = clients::rqbit_with(&job, &only_utp).end();
            assert!(status.success(), "{said}");
            assert_by_utp(&torrent);
            session.shutdown();
            payload.assert_in(&folder);
        });
    }
}
