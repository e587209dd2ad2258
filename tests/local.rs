//! Peers on the local network find each other (BEP 14), on networks that are the tests' own.

mod rig;

#[path = "interop/clients.rs"]
#[allow(dead_code, reason = "one client of several")]
mod clients;

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;

use clients::Job;
use rig::links::{Links, ip};
use rig::need;
use rig::payload::Payload;
use rig::process::PATIENCE;
use ropewalk::metainfo::{Content, Creation};
use ropewalk::wire::lsd::{Announce, GROUP_V4};
use ropewalk::{AddOptions, Bind, Config, Event, Metainfo, Session, State, Torrent};
use serde_json::json;
use socket2::{Domain, Socket, Type};

const PIECE: u32 = 32 * 1024;

fn config() -> Config {
    env_logger::builder().is_test(true).try_init().ok();
    let mut config = Config::default();
    config.listen.ports = 0..=0;
    config.local_discovery = true;
    config.dht.enabled = false;
    config
}

fn start(config: Config, metainfo: &Metainfo, dir: &Path) -> (Session, Torrent) {
    let session = Session::new(config).unwrap();
    let torrent = session.add(metainfo.clone(), AddOptions::new(dir)).unwrap();
    (session, torrent)
}

fn finish(torrent: &Torrent) {
    let state = torrent.wait(PATIENCE);
    assert_eq!(state, State::Seeding, "{:?} {:?}", torrent.stats(), torrent.peers());
}

/// Waits until it has connected to somebody, whom it tells.
fn connected(torrent: &Torrent, events: &crossbeam_channel::Receiver<Event>) -> IpAddr {
    loop {
        match events.recv_timeout(PATIENCE) {
            Ok(Event::PeerConnected(addr)) => return addr.ip(),
            Ok(_) => {}
            Err(error) => panic!("{error}: {:?}", torrent.stats()),
        }
    }
}

/// Two sessions that know nothing of each other: the one that was there first hears the other one.
fn meet(links: &Links, config: impl Fn() -> Config + Sync) -> IpAddr {
    let payload = Payload::single(300_000, PIECE, None);
    let dir = payload.empty_folder("got");
    let (_session, torrent) = start(config(), &payload.metainfo, &dir);
    let events = torrent.events();
    let (_other, seeding) = links.there(|| start(self::config(), &payload.metainfo, &payload.data()));
    finish(&seeding);
    finish(&torrent);
    payload.assert_in(&dir);
    connected(&torrent, &events)
}

#[test]
fn two_sessions_on_a_network_find_each_other_over_ipv4() {
    Links::run(|links| {
        ip("-6 addr flush dev a0");
        assert!(meet(links, config).is_ipv4());
    });
}

#[test]
fn two_sessions_on_a_network_find_each_other_over_ipv6() {
    Links::run(|links| {
        ip("-4 addr flush dev a0");
        assert!(meet(links, config).is_ipv6());
    });
}

#[test]
fn bound_to_an_interface_it_is_announced_there_alone() {
    Links::run(|links| {
        let capture = links.capture();
        meet(links, || {
            let mut config = config();
            config.listen.bind = Some(Bind::Interface("a0".into()));
            config
        });
        assert_eq!(capture.seen(), [""; 0]);
        // Not bound, the other network hears of it, too.
        meet(links, config);
        assert!(!capture.seen().is_empty());
    });
}

#[test]
fn a_private_torrent_is_not_announced() {
    Links::run(|links| {
        let heard = links.there(|| {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.bind(&GROUP_V4.into()).unwrap();
            let IpAddr::V4(group) = GROUP_V4.ip() else { unreachable!() };
            socket.join_multicast_v4(&group, &Ipv4Addr::new(10, 1, 0, 2)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            UdpSocket::from(socket)
        });
        let torrent = |name: &str, private| {
            let mut creation = Creation::new(name, Content::File { len: 1, executable: false }, 16384);
            creation.private = private;
            Metainfo::from_bytes(&creation.prepare().unwrap().finish(&[7; 20]).unwrap()).unwrap()
        };
        let dir = tempfile::tempdir().unwrap();
        let (session, private) = start(config(), &torrent("private", true), dir.path());
        let events = private.events();
        let _ = private.announce();
        while private.state() != State::Downloading {
            events.recv_timeout(PATIENCE).unwrap();
        }
        let public = session.add(torrent("public", false), AddOptions::new(dir.path())).unwrap();
        let mut datagram = [0; 2048];
        let (length, from) = heard.recv_from(&mut datagram).unwrap();
        let announce = Announce::decode(&datagram[..length]).unwrap();
        assert_eq!(from.ip(), IpAddr::from([10, 1, 0, 1]));
        assert_eq!((announce.torrents, announce.port.get()), (vec![public.info_hash()], session.port()));
    });
}

#[test]
fn it_hears_libtorrent() {
    if !need::libtorrent() {
        return;
    }
    Links::run(|links| {
        let payload = Payload::single(300_000, PIECE, None);
        let (dir, data) = (payload.empty_folder("got"), payload.data());
        let mut quiet = config();
        // Who cannot be called announces nothing: it has to hear the other one.
        quiet.listen.accept = false;
        let (_session, torrent) = start(quiet, &payload.metainfo, &dir);
        let job = Job { torrent: &payload.torrent(), dir: &data, ip: [10, 1, 0, 2].into() };
        let _seeder = links.there(|| clients::libtorrent(&job, true, &[], &json!({ "enable_lsd": true })));
        finish(&torrent);
        payload.assert_in(&dir);
    });
}

#[test]
fn libtorrent_hears_it() {
    if !need::libtorrent() {
        return;
    }
    Links::run(|links| {
        let payload = Payload::single(300_000, PIECE, None);
        let dir = payload.empty_folder("got");
        let job = Job { torrent: &payload.torrent(), dir: &dir, ip: [10, 1, 0, 2].into() };
        let (mut leecher, _) = links.there(|| clients::libtorrent(&job, false, &[], &json!({ "enable_lsd": true })));
        // It announced itself when it began, and does so in five minutes again: what follows comes from us.
        let (_session, torrent) = start(config(), &payload.metainfo, &payload.data());
        finish(&torrent);
        leecher.wait_for("done");
        payload.assert_in(&dir);
    });
}
