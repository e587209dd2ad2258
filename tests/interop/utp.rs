//! uTP with clients that speak nothing else, or prefer it.

use std::net::SocketAddr;

use ropewalk::{Encryption, PeerConfig, Torrent, Transport, Transports};
use serde_json::{Value, json};

use super::clients::{self, Job};
use super::libtorrent::{self, assert_used};
use super::{PIECE, Seeding, add, finish, from_transmission, session_of, to_transmission};
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
    assert_used(torrent, |peer| peer.transport == Transport::Utp);
}

/// Downloads from libtorrent: we dial it, or it calls us.
fn get_from_libtorrent(ours: PeerConfig, theirs: &Value, we_dial: bool) {
    libtorrent::get(ours, theirs, Payload::single(3_000_017, 256 * 1024, None), we_dial, assert_by_utp);
}

/// libtorrent downloads from us: we dial it, or it calls us.
fn give_to_libtorrent(ours: PeerConfig, theirs: &Value, we_dial: bool) {
    libtorrent::give(ours, theirs, Payload::folder(PIECE, None), we_dial, assert_by_utp);
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
    to_transmission(over(Transports::Utp), ("-et", true), true, assert_by_utp);
}

#[test]
fn a_transmission_that_speaks_utp_seeds_to_us() {
    from_transmission("-et", true, |payload, network, port| {
        let folder = payload.empty_folder("out");
        let session = session_of(network.ours, over(Transports::Utp));
        let torrent = add(&session, &payload.metainfo, &folder, &[SocketAddr::new(network.theirs, port)]);
        finish(&torrent);
        assert_by_utp(&torrent);
        session.shutdown();
        payload.assert_in(&folder);
    });
}

#[test]
fn an_rqbit_that_speaks_utp_alone_downloads_from_us() {
    if need::unpackaged("rqbit") {
        Network::run(|network| {
            let Seeding { session, torrent, payload, tracker: _tracker } =
                Seeding::start(network, PeerConfig::default(), false);
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
