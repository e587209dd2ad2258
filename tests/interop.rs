//! Clients that nobody here wrote: they seed to ropewalk and download from it, load its torrents and make some for it,
//! and bring two of it together.

mod rig;

#[path = "interop/announces.rs"]
mod announces;
#[path = "interop/clients.rs"]
mod clients;
#[path = "interop/encryption.rs"]
mod encryption;
#[path = "interop/exchange.rs"]
mod exchange;
#[path = "interop/libtorrent.rs"]
mod libtorrent;
#[path = "interop/magnets.rs"]
mod magnets;
#[path = "interop/opentracker.rs"]
mod opentracker;
#[path = "interop/torrents.rs"]
mod torrents;
#[path = "interop/utp.rs"]
mod utp;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use ropewalk::{AddOptions, Config, Encryption, Metainfo, PeerConfig, Session, State, Torrent};
use serde_json::{Value, json};

use announces::Announces;
use clients::Job;
use rig::need;
use rig::network::Network;
use rig::payload::Payload;
use rig::process::PATIENCE;

const PIECE: u32 = 32 * 1024;

fn session(ip: IpAddr) -> Session {
    session_of(ip, PeerConfig::default())
}

fn with(encryption: Encryption) -> PeerConfig {
    PeerConfig { encryption, ..PeerConfig::default() }
}

fn session_of(ip: IpAddr, peers: PeerConfig) -> Session {
    env_logger::builder().is_test(true).try_init().ok();
    let mut config = Config { peers, ..Config::default() };
    config.dht.enabled = false;
    config.listen.ports = 0..=0;
    config.listen.bind = Some(ip.into());
    Session::new(config).unwrap()
}

/// Adds a torrent that the tracker is not told of.
fn add(session: &Session, metainfo: &Metainfo, dir: &Path, peers: &[SocketAddr]) -> Torrent {
    let mut options = AddOptions::new(dir);
    options.peers = peers.to_vec();
    options.announce = false;
    session.add(metainfo.clone(), options).unwrap()
}

fn finish(torrent: &Torrent) {
    let state = torrent.wait(PATIENCE);
    assert_eq!(state, State::Seeding, "{:?} {:?}", torrent.stats(), torrent.peers());
}

/// ropewalk dials a libtorrent that has everything.
fn get_from_libtorrent(payload: &Payload, settings: &Value) {
    if !need::libtorrent() {
        return;
    }
    Network::run(|network| {
        let data = payload.data();
        let job = Job { torrent: &payload.torrent(), dir: &data, ip: network.theirs };
        let (mut seeder, port) = clients::libtorrent(&job, true, &[], settings);
        seeder.wait_for("done");
        let folder = payload.empty_folder("out");
        let session = session(network.ours);
        let torrent = add(&session, &payload.metainfo, &folder, &[SocketAddr::new(network.theirs, port)]);
        finish(&torrent);
        let stats = torrent.stats();
        assert_eq!((stats.downloaded, stats.pieces_failed), (payload.len(), 0), "{stats:?}");
        session.shutdown();
        payload.assert_in(&folder);
    });
}

#[test]
fn a_folder_comes_from_libtorrent() {
    get_from_libtorrent(&Payload::folder(PIECE, None), &json!({}));
}

#[test]
fn a_file_comes_from_libtorrent() {
    get_from_libtorrent(&Payload::single(3_000_017, 256 * 1024, None), &json!({}));
}

#[test]
fn a_file_comes_from_libtorrent_that_takes_three_requests_at_a_time() {
    get_from_libtorrent(&Payload::single(3_000_017, 256 * 1024, None), &json!({"max_allowed_in_request_queue": 3}));
}

#[test]
fn allowed_fast_pieces_come_from_libtorrent_that_keeps_everyone_choked() {
    let settings = json!({"unchoke_slots_limit": 0, "allowed_fast_set_size": 20});
    get_from_libtorrent(&Payload::single(300_000, PIECE, None), &settings);
}

#[test]
fn a_folder_comes_from_libtorrent_that_calls_us() {
    if !need::libtorrent() {
        return;
    }
    let payload = Payload::folder(PIECE, None);
    Network::run(|network| {
        let folder = payload.empty_folder("out");
        let session = session(network.ours);
        let torrent = add(&session, &payload.metainfo, &folder, &[]);
        torrent.wait(std::time::Duration::ZERO);
        let data = payload.data();
        let job = Job { torrent: &payload.torrent(), dir: &data, ip: network.theirs };
        let _seeder = clients::libtorrent(&job, true, &session.listen_addrs(), &json!({}));
        finish(&torrent);
        session.shutdown();
        payload.assert_in(&folder);
    });
}

/// libtorrent dials ropewalk, which has everything.
fn give_to_libtorrent(payload: &Payload, settings: &Value) {
    if !need::libtorrent() {
        return;
    }
    Network::run(|network| {
        let session = session(network.ours);
        let torrent = add(&session, &payload.metainfo, &payload.data(), &[]);
        finish(&torrent);
        let folder = payload.empty_folder("out");
        let job = Job { torrent: &payload.torrent(), dir: &folder, ip: network.theirs };
        let (mut getter, _) = clients::libtorrent(&job, false, &session.listen_addrs(), settings);
        getter.wait_for("done");
        getter.kill();
        session.shutdown();
        payload.assert_in(&folder);
    });
}

#[test]
fn a_folder_goes_to_libtorrent() {
    give_to_libtorrent(&Payload::folder(PIECE, None), &json!({}));
}

#[test]
fn a_file_goes_to_libtorrent() {
    give_to_libtorrent(&Payload::single(3_000_017, 256 * 1024, None), &json!({}));
}

#[test]
fn a_folder_goes_to_libtorrent_that_we_call() {
    if !need::libtorrent() {
        return;
    }
    let payload = Payload::folder(PIECE, None);
    Network::run(|network| {
        let folder = payload.empty_folder("out");
        let job = Job { torrent: &payload.torrent(), dir: &folder, ip: network.theirs };
        let (mut getter, port) = clients::libtorrent(&job, false, &[], &json!({}));
        let session = session(network.ours);
        let _torrent = add(&session, &payload.metainfo, &payload.data(), &[SocketAddr::new(network.theirs, port)]);
        getter.wait_for("done");
        getter.kill();
        session.shutdown();
        payload.assert_in(&folder);
    });
}

#[test]
fn a_folder_comes_from_aria2() {
    if need::programs(&["aria2c"]) {
        Network::run(|network| {
            let tracker = Announces::start(network.ours, &[]);
            let payload = Payload::folder(PIECE, Some(&tracker.url()));
            let port = Network::free_port(network.theirs);
            let data = payload.data();
            let job = Job { torrent: &payload.torrent(), dir: &data, ip: network.theirs };
            let _seeder = clients::aria2(&job, true, port);
            tracker.wait_for(&["left=0"]);
            get_from(&payload, network, port);
        });
    }
}

#[test]
fn a_folder_comes_from_transmission() {
    from_transmission("-et", false, get_from);
}

/// transmission-cli seeds a folder, with this option about encryption, perhaps over uTP, and is there to be dialled.
fn from_transmission(encryption: &str, utp: bool, get: impl FnOnce(&Payload, Network, u16) + Send) {
    if need::programs(&["transmission-cli"]) {
        Network::run_off_loopback(|network| {
            let tracker = Announces::start(network.ours, &[]);
            let payload = Payload::folder(PIECE, Some(&tracker.url()));
            let port = Network::free_port(network.theirs);
            let data = payload.data();
            let job = Job { torrent: &payload.torrent(), dir: &data, ip: network.theirs };
            let mut seeder = clients::transmission(&job, port, &payload.empty_folder("config"), (encryption, utp));
            seeder.wait_for("Seeding");
            get(&payload, network, port);
        });
    }
}

/// ropewalk dials the other client.
fn get_from(payload: &Payload, network: Network, port: u16) {
    let folder = payload.empty_folder("out");
    let session = session(network.ours);
    let torrent = add(&session, &payload.metainfo, &folder, &[SocketAddr::new(network.theirs, port)]);
    finish(&torrent);
    assert_eq!(torrent.stats().pieces_failed, 0);
    session.shutdown();
    payload.assert_in(&folder);
}

/// What the other client learns of from a tracker: ropewalk, which has everything.
struct Seeding {
    session: Session,
    torrent: Torrent,
    tracker: Announces,
    payload: Payload,
}

impl Seeding {
    fn start(network: Network, peers: PeerConfig, single: bool) -> Self {
        let session = session_of(network.ours, peers);
        let tracker = Announces::start(network.ours, &session.listen_addrs());
        let payload = match single {
            true => Payload::single(3_000_017, 256 * 1024, Some(&tracker.url())),
            false => Payload::folder(PIECE, Some(&tracker.url())),
        };
        let torrent = add(&session, &payload.metainfo, &payload.data(), &[]);
        finish(&torrent);
        Self { session, torrent, tracker, payload }
    }
}

fn give_to_aria2(single: bool) {
    if need::programs(&["aria2c"]) {
        Network::run(|network| {
            let Seeding { session, payload, tracker: _tracker, .. } =
                Seeding::start(network, PeerConfig::default(), single);
            let folder = payload.empty_folder("out");
            let job = Job { torrent: &payload.torrent(), dir: &folder, ip: network.theirs };
            let (status, said) = clients::aria2(&job, false, Network::free_port(network.theirs)).end();
            assert!(status.success(), "{said}");
            session.shutdown();
            payload.assert_in(&folder);
        });
    }
}

#[test]
fn a_folder_goes_to_aria2() {
    give_to_aria2(false);
}

#[test]
fn a_file_goes_to_aria2() {
    give_to_aria2(true);
}

/// transmission-cli, with this option about encryption and perhaps preferring uTP, learns of us from its tracker and calls us.
fn to_transmission(ours: PeerConfig, theirs: (&str, bool), single: bool, check: impl FnOnce(&Torrent) + Send) {
    if need::programs(&["transmission-cli"]) {
        Network::run_off_loopback(|network| {
            let Seeding { session, torrent, tracker, payload } = Seeding::start(network, ours, single);
            let folder = payload.empty_folder("out");
            let job = Job { torrent: &payload.torrent(), dir: &folder, ip: network.theirs };
            let port = Network::free_port(network.theirs);
            let getter = clients::transmission(&job, port, &payload.empty_folder("config"), theirs);
            tracker.wait_for(&["event=completed"]);
            check(&torrent);
            // It writes what it still holds on its way out.
            getter.interrupt();
            session.shutdown();
            payload.assert_bytes_in(&folder);
        });
    }
}

#[test]
fn a_folder_goes_to_transmission() {
    to_transmission(PeerConfig::default(), ("-et", false), false, |_| ());
}

#[test]
fn a_file_goes_to_transmission() {
    to_transmission(PeerConfig::default(), ("-et", false), true, |_| ());
}

#[test]
fn a_folder_goes_to_rqbit() {
    if need::unpackaged("rqbit") {
        Network::run(|network| {
            let Seeding { session, payload, tracker: _tracker, .. } =
                Seeding::start(network, PeerConfig::default(), false);
            let folder = payload.empty_folder("out");
            let job = Job { torrent: &payload.torrent(), dir: &folder, ip: network.theirs };
            let (status, said) = clients::rqbit(&job).end();
            assert!(status.success(), "{said}");
            session.shutdown();
            payload.assert_in(&folder);
        });
    }
}
