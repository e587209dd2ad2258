//! Magnet links between ropewalk and clients that nobody here wrote: metadata and content, both ways.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use ropewalk::metainfo::{Host, Magnet};
use ropewalk::{AddOptions, Session, Torrent};
use serde_json::json;

use crate::announces::Announces;
use crate::clients::{self, Job};
use crate::rig::need;
use crate::rig::network::Network;
use crate::rig::payload::Payload;
use crate::{PIECE, add, finish, session};

/// A payload with metadata of several pieces.
fn payload(tracker: Option<&str>) -> Payload {
    Payload::single(6_000_017, 2048, tracker)
}

fn add_magnet(session: &Session, magnet: Magnet, dir: &Path) -> Torrent {
    session.add_magnet(magnet, AddOptions::new(dir)).unwrap()
}

#[test]
fn metadata_and_content_come_from_libtorrent() {
    if !need::libtorrent() {
        return;
    }
    let payload = payload(None);
    Network::run(|network| {
        let data = payload.data();
        let job = Job { torrent: &payload.torrent(), dir: &data, ip: network.theirs };
        let (mut seeder, port) = clients::libtorrent(&job, true, &[], &json!({}));
        seeder.wait_for("done");
        let folder = payload.empty_folder("out");
        let session = session(network.ours);
        let mut magnet = Magnet::of(&payload.metainfo);
        magnet.peers = vec![Host::Addr(SocketAddr::new(network.theirs, port))];
        let torrent = add_magnet(&session, magnet, &folder);
        finish(&torrent);
        assert_eq!(torrent.explain().connected, 1, "one connection did");
        session.shutdown();
        payload.assert_in(&folder);
    });
}

#[test]
fn metadata_and_content_come_from_libtorrent_by_a_tracker() {
    if !need::libtorrent() {
        return;
    }
    Network::run(|network| {
        let bare = payload(None);
        let data = bare.data();
        let job = Job { torrent: &bare.torrent(), dir: &data, ip: network.theirs };
        let (mut seeder, port) = clients::libtorrent(&job, true, &[], &json!({}));
        seeder.wait_for("done");
        let tracker = Announces::start(network.ours, &[SocketAddr::new(network.theirs, port)]);
        let folder = bare.empty_folder("out");
        let session = session(network.ours);
        let mut magnet = Magnet::of(&bare.metainfo);
        magnet.trackers = vec![tracker.url()];
        finish(&add_magnet(&session, magnet, &folder));
        session.shutdown();
        bare.assert_in(&folder);
    });
}

#[test]
fn metadata_and_content_come_from_libtorrent_that_calls_us() {
    if !need::libtorrent() {
        return;
    }
    let payload = payload(None);
    Network::run(|network| {
        let folder = payload.empty_folder("out");
        let session = session(network.ours);
        let torrent = add_magnet(&session, Magnet::of(&payload.metainfo), &folder);
        let data = payload.data();
        let job = Job { torrent: &payload.torrent(), dir: &data, ip: network.theirs };
        let _seeder = clients::libtorrent(&job, true, &session.listen_addrs(), &json!({}));
        finish(&torrent);
        session.shutdown();
        payload.assert_in(&folder);
    });
}

#[test]
fn metadata_and_content_go_to_libtorrent() {
    if !need::libtorrent() {
        return;
    }
    let payload = payload(None);
    Network::run(|network| {
        let session = session(network.ours);
        finish(&add(&session, &payload.metainfo, &payload.data(), &[]));
        let folder = payload.empty_folder("out");
        let job = Job { torrent: &payload.torrent(), dir: &folder, ip: network.theirs };
        let magnet = Magnet::of(&payload.metainfo).to_string();
        let (mut getter, _) = clients::libtorrent_by_magnet(&job, &magnet, &session.listen_addrs());
        getter.wait_for("done");
        getter.kill();
        session.shutdown();
        payload.assert_in(&folder);
    });
}

/// Our links mean the same to libtorrent.
#[test]
fn our_links_are_read_by_libtorrent() {
    if !need::libtorrent() {
        return;
    }
    let read = "import sys, libtorrent as lt; p = lt.parse_magnet_uri(sys.argv[1])\n\
        print(p.info_hashes.v1, p.name, *p.trackers, *p.url_seeds, *p.peers, sep='|')";
    let payload = Payload::folder(PIECE, None);
    let mut magnet = Magnet::of(&payload.metainfo);
    magnet.name = Some("a & b \u{e4}+%".into());
    magnet.trackers = vec!["http://t.example/a?b=c&d=%20".into(), "udp://u.example:1".into()];
    magnet.web_seeds = vec!["http://w.example/x y".replace(' ', "%20")];
    magnet.peers = vec!["192.0.2.7:6881".parse().unwrap()];
    let output = Command::new("python3").args(["-c", read, &magnet.to_string()]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let hash = payload.metainfo.info_hash();
    let expected = format!(
        "{hash}|a & b \u{e4}+%|http://t.example/a?b=c&d=%20|udp://u.example:1|http://w.example/x%20y|('192.0.2.7', 6881)"
    );
    assert_eq!(said.trim(), expected, "{}", String::from_utf8_lossy(&output.stderr));
}
