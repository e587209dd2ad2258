//! The tracker as real clients see it, and its page as a browser does.

#[path = "interop/clients.rs"]
#[allow(dead_code, reason = "others use the rest")]
mod clients;
#[path = "tracker/page.rs"]
mod page;
mod rig;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use ropewalk::tracker::{Tracker, TrackerConfig};
use ropewalk::{AddOptions, Config, InfoHash, Session, State};
use serde_json::{Value, json};

use clients::Job;
use rig::need;
use rig::network::Network;
use rig::payload::Payload;
use rig::process::{PATIENCE, Process};

const PIECE: u32 = 16 * 1024;

/// Announces and scrapes by the package `bittorrent-tracker` of npm, and says what comes of it.
const NPM: &str = r#"
const [module, options] = process.argv.slice(1);
import(module).then(({ default: Client }) => {
  const o = JSON.parse(options);
  const client = new Client({ infoHash: o.infoHash, peerId: o.peerId, announce: [o.url], port: o.port });
  client.on('error', error => console.log('error', error.message));
  client.on('warning', error => console.log('error', error.message));
  client.on('peer', addr => console.log('peer', addr));
  client.on('scrape', data => {
    console.log('scraped', data.complete, data.incomplete);
    client.stop();
    client.once('update', data => { console.log('stopped', data.complete, data.incomplete); client.destroy(); });
  });
  client.once('update', data => {
    console.log('announced', data.complete, data.incomplete);
    client.scrape();
  });
  client.start({ left: o.left });
});
"#;

/// A tracker at a free port of `addr`, with its pages at another.
fn tracker(addr: SocketAddr, change: impl FnOnce(&mut TrackerConfig)) -> Tracker {
    let mut config = TrackerConfig { http: vec![addr], udp: vec![addr], admin: Some(addr), ..TrackerConfig::default() };
    change(&mut config);
    Tracker::with(config).unwrap()
}

fn udp_url(tracker: &Tracker) -> String {
    format!("udp://{}/announce", tracker.udp()[0])
}

/// The body of an answer to a request.
fn get(addr: SocketAddr, target: &str, headers: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\nHost: tracker\r\nConnection: close\r\n{headers}\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let body = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    answer.split_off(body)
}

fn stats(tracker: &Tracker) -> Value {
    serde_json::from_slice(&get(tracker.admin().unwrap(), "/stats.json", "")).unwrap()
}

/// Until the tracker knows so many seeders.
fn await_seeders(tracker: &Tracker, seeders: u64, client: &mut Process) {
    let deadline = Instant::now() + PATIENCE;
    while stats(tracker)["store"]["seeders"] != seeders {
        assert!(Instant::now() < deadline, "{:#}", stats(tracker));
        client.glance();
    }
}

/// What the client of npm says.
fn npm(module: &Path, url: &str, info_hash: InfoHash, port: u16, left: u64) -> String {
    let options = json!({
        "infoHash": info_hash.to_string(), "peerId": "2d4e504d303030312d".to_owned() + &"61".repeat(11),
        "url": url, "port": port, "left": left,
    });
    let mut command = Command::new("node");
    let (status, said) = Process::start(command.args(["-e", NPM]).arg(module).arg(options.to_string())).end();
    assert!(status.success() && !said.contains("error"), "{said}");
    said
}

/// Each of three clients gets the torrent from one that it can only know from the tracker.
fn clients_find_each_other(url: fn(&Tracker) -> String) {
    if !need::libtorrent() || !need::programs(&["aria2c", "transmission-cli"]) {
        return;
    }
    Network::run_off_loopback(|network| {
        let tracker = tracker(SocketAddr::new(network.ours, 0), |_| {});
        let payload = Payload::folder(PIECE, Some(&url(&tracker)));
        let (torrent, data) = (payload.torrent(), payload.data());
        // Each has an address of its own: Transmission knows one peer for each.
        let ip = |last| IpAddr::from([10, 99, 0, last]);
        let aria2 = |job: &Job<'_>, seed| {
            // Without the DHT it speaks to no tracker over UDP.
            let dht = format!("--dht-file-path={}", job.dir.with_file_name("dht.dat").display());
            let port = Network::free_port(job.ip).to_string();
            let listen = format!("--dht-listen-port={port}");
            clients::aria2_with(job, seed, port.parse().unwrap(), &["--enable-dht=true", &listen, &dht])
        };

        let mut seeder = aria2(&Job { torrent: &torrent, dir: &data, ip: ip(3) }, true);
        await_seeders(&tracker, 1, &mut seeder);
        let by_transmission = payload.empty_folder("transmission");
        let job = Job { torrent: &torrent, dir: &by_transmission, ip: ip(4) };
        let port = Network::free_port(job.ip);
        let mut transmission = clients::transmission(&job, port, &payload.empty_folder("config"), ("-et", false));
        await_seeders(&tracker, 2, &mut transmission);
        // Gone without a farewell: the next has to do with who is left.
        seeder.kill();

        let by_libtorrent = payload.empty_folder("libtorrent");
        let job = Job { torrent: &torrent, dir: &by_libtorrent, ip: ip(5) };
        let (mut libtorrent, _) = clients::libtorrent(&job, false, &[], &json!({}));
        libtorrent.wait_for("done");
        payload.assert_in(&by_libtorrent);
        await_seeders(&tracker, 3, &mut libtorrent);
        transmission.kill();

        let by_aria2 = payload.empty_folder("aria2");
        let (status, said) = aria2(&Job { torrent: &torrent, dir: &by_aria2, ip: ip(6) }, false).end();
        assert!(status.success(), "{said}");
        payload.assert_in(&by_aria2);

        let clients = stats(&tracker)["swarms"][0]["clients"].to_string();
        for name in ["libtorrent", "Transmission", "aria2"] {
            assert!(clients.contains(name), "{name}: {clients}");
        }
    });
}

#[test]
fn libtorrent_transmission_and_aria2_find_each_other_over_http() {
    clients_find_each_other(Tracker::announce_url);
}

#[test]
fn libtorrent_transmission_and_aria2_find_each_other_over_udp() {
    clients_find_each_other(udp_url);
}

/// One that only asks trackers.
fn session(ip: IpAddr) -> Session {
    let mut config = Config::default();
    config.dht.enabled = false;
    config.listen.ports = 0..=0;
    config.listen.bind = Some(ip.into());
    Session::new(config).unwrap()
}

/// Two, of which one is ropewalk's own, find each other with the key, and are told why without it.
fn clients_with_a_key_find_each_other(url: fn(&Tracker, &str) -> String) {
    if !need::libtorrent() {
        return;
    }
    Network::run_off_loopback(|network| {
        let tracker = tracker(SocketAddr::new(network.ours, 0), |config| {
            config.access.key = Some("sesame".parse().unwrap());
        });
        let ip = |last| IpAddr::from([10, 99, 0, last]);
        let payload = Payload::folder(PIECE, Some(&url(&tracker, "/sesame")));
        let (torrent, data) = (payload.torrent(), payload.data());
        let (mut seeder, _) =
            clients::libtorrent(&Job { torrent: &torrent, dir: &data, ip: ip(3) }, true, &[], &json!({}));
        await_seeders(&tracker, 1, &mut seeder);
        let folder = payload.empty_folder("ropewalk");
        let getter = session(network.ours);
        let download = getter.add(payload.metainfo.clone(), AddOptions::new(&folder)).unwrap();
        assert_eq!(download.wait(PATIENCE), State::Seeding, "{:?} {:?}", download.trackers(), download.peers());
        payload.assert_in(&folder);
        await_seeders(&tracker, 2, &mut seeder);
        seeder.kill();
        getter.shutdown();

        for path in ["", "/open"] {
            let payload = Payload::folder(PIECE, Some(&url(&tracker, path)));
            let folder = payload.empty_folder("libtorrent");
            let job = Job { torrent: &payload.torrent(), dir: &folder, ip: ip(5) };
            let (mut libtorrent, _) = clients::libtorrent(&job, false, &[], &json!({}));
            // It does not say the reason where that comes over UDP.
            libtorrent.wait_for("tracker sent a failure message");
            let other = session(network.ours);
            let refused = other.add(payload.metainfo.clone(), AddOptions::new(payload.empty_folder("out"))).unwrap();
            let deadline = Instant::now() + PATIENCE;
            while !refused.trackers().iter().any(|tracker| {
                tracker.error.as_ref().is_some_and(|message| message.contains("wants its key in the announce URL"))
            }) {
                assert!(Instant::now() < deadline, "{:?}", refused.trackers());
                libtorrent.glance();
            }
            other.shutdown();
        }
    });
}

#[test]
fn clients_with_the_key_are_served_over_http() {
    clients_with_a_key_find_each_other(|tracker, path| format!("http://{}{path}/announce", tracker.http()[0]));
}

#[test]
fn clients_with_the_key_are_served_over_udp() {
    clients_with_a_key_find_each_other(|tracker, path| format!("udp://{}{path}/announce", tracker.udp()[0]));
}

/// One that seeds is found by one that does not.
fn npms_clients_find_each_other(url: impl Fn(&Tracker) -> String, addr: &str) {
    let Some(module) = need::node_package("bittorrent-tracker/client.js") else { return };
    let tracker = tracker(addr.parse().unwrap(), |_| {});
    let (url, torrent) = (url(&tracker), InfoHash::new(std::array::from_fn(|at| 0xf3 ^ at as u8)));
    // One that seeds, and stays: the script says farewell.
    let hash: String = torrent.as_bytes().iter().map(|byte| format!("%{byte:02x}")).collect();
    let query = format!("info_hash={hash}&peer_id=-XX0000-000000000000&port=7001&left=0&compact=1");
    get(tracker.addr(), &format!("/announce?{query}"), "");
    let said = npm(&module, &url, torrent, 7002, 5);
    let peer = SocketAddr::new(tracker.addr().ip(), 7001);
    for line in [format!("peer {peer}"), "announced 1 1".into(), "scraped 1 1".into(), "stopped 1 0".into()] {
        assert!(said.lines().any(|said| said == line), "{line}: {said}");
    }
}

#[test]
fn npms_client_finds_a_peer_over_http() {
    npms_clients_find_each_other(Tracker::announce_url, "127.0.0.1:0");
}

#[test]
fn npms_client_finds_a_peer_over_http_on_ipv6() {
    npms_clients_find_each_other(Tracker::announce_url, "[::1]:0");
}

#[test]
fn lists_of_torrents_are_read_again_when_the_tracker_is_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let allow = folder.path().join("allow");
    std::fs::write(&allow, "# none yet\n").unwrap();
    let tracker = tracker("127.0.0.1:0".parse().unwrap(), |config| config.access.allow = Some(allow.clone()));
    let query = format!("info_hash={0}&peer_id={0}&port=7001&left=0", "a".repeat(20));
    let announce = || get(tracker.addr(), &format!("/announce?{query}"), "").starts_with(b"d8:complete");
    assert!(!announce());
    std::fs::write(&allow, format!("{}\n", "61".repeat(20))).unwrap();
    tracker.reload().unwrap();
    assert!(announce());
    std::fs::write(&allow, "61\n").unwrap();
    tracker.reload().unwrap_err();
    assert!(announce(), "the old list stays");
}

#[test]
fn npms_client_finds_a_peer_over_udp() {
    npms_clients_find_each_other(udp_url, "127.0.0.1:0");
}
