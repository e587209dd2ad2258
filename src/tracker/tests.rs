//! The tracker as a whole, and announcers that find each other through it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};

use super::{RequestLimits, Tracker, TrackerConfig};
use crate::config::Encryption;
use crate::discovery::{Announcer, Counters, Setup, Timing, TrackerFact};
use crate::metainfo::InfoHash;
use crate::wire::handshake::PeerId;

const PATIENCE: Duration = Duration::from_secs(20);

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// An announcer of the one torrent, listening on `port`, and the peers that it is told of.
fn announcer(tracker: &Tracker, port: u16, left: u64) -> (Announcer, Receiver<Vec<SocketAddr>>) {
    announcer_at(tracker.announce_url(), port, left)
}

fn announcer_at(url: String, port: u16, left: u64) -> (Announcer, Receiver<Vec<SocketAddr>>) {
    let (sender, peers) = unbounded();
    let setup = Setup {
        info_hash: InfoHash::new([0x81; 20]),
        peer_id: PeerId::new([port as u8; 20]),
        key: port.into(),
        port: Arc::new(port.into()),
        tiers: vec![vec![url]],
        counters: Arc::new(move || Counters { left, ..Counters::default() }),
        scrape: false,
        num_want: 50,
        user_agent: "ropewalk/test".into(),
        bind: None,
        encryption: Encryption::Off,
        timing: Timing::default(),
        tls: Default::default(),
        seed: 1,
    };
    let facts = move |fact| match fact {
        TrackerFact::Peers { peers, .. } => drop(sender.send(peers)),
        TrackerFact::ExternalIp { ip, .. } => assert!(ip.is_loopback()),
        other => panic!("{other:?}"),
    };
    (Announcer::start(setup, facts).unwrap(), peers)
}

/// Until the tracker has answered.
fn await_leechers(announcer: &Announcer, leechers: u32) {
    let start = Instant::now();
    while announcer.snapshot()[0].leechers != Some(leechers) {
        assert!(start.elapsed() < PATIENCE, "{:?}", announcer.snapshot());
        thread::yield_now();
    }
}

fn get(tracker: &Tracker, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(tracker.addr()).unwrap();
    stream.write_all(request).unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    reply
}

#[test]
fn two_announcers_find_each_other_until_one_stops() {
    let tracker = Tracker::start(loopback()).unwrap();
    let (first, _) = announcer(&tracker, 1001, 5);
    await_leechers(&first, 1);
    let (second, peers) = announcer(&tracker, 1002, 5);
    assert_eq!(peers.recv_timeout(PATIENCE).unwrap(), [SocketAddr::from(([127, 0, 0, 1], 1001))]);
    await_leechers(&second, 2);
    first.stop(PATIENCE);
    let (third, peers) = announcer(&tracker, 1003, 0);
    assert_eq!(peers.recv_timeout(PATIENCE).unwrap(), [SocketAddr::from(([127, 0, 0, 1], 1002))]);
    await_leechers(&third, 1);
    let query = "%81".repeat(20);
    let reply = get(&tracker, format!("GET /scrape?info_hash={query} HTTP/1.0\r\n\r\n").as_bytes());
    assert!(reply.ends_with(b"d8:completei1e10:downloadedi0e10:incompletei1eeee"));
}

#[test]
fn a_seeder_of_the_same_program_is_found_and_told_who_wants_what_it_has() {
    let tracker = Tracker::start(loopback()).unwrap();
    let (hash, id) = (InfoHash::new([0x81; 20]), PeerId::new([1; 20]));
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!(tracker.register_seeder(hash, id, at(11), 50).unwrap(), []);
    let (wanting, found) = announcer(&tracker, 12, 9);
    assert_eq!(found.recv_timeout(PATIENCE).unwrap(), [at(11)]);
    let (seeding, _) = announcer(&tracker, 13, 0);
    await_leechers(&seeding, 1);
    assert_eq!(tracker.register_seeder(hash, id, at(11), 50).unwrap(), [at(12)], "and not of other seeders");
    assert_eq!(tracker.register_seeder(hash, id, at(11), 0).unwrap(), []);
    assert_eq!(tracker.stats().unwrap().seeders, 2);
    assert!(tracker.register_seeder(hash, id, at(0), 50).is_err());
    drop(wanting);
}

#[test]
#[cfg(target_os = "linux")]
fn one_that_hears_a_single_interface_is_heard_by_it_and_an_unknown_one_is_an_error() {
    let on = |interface: &str| {
        let (http, udp) = (vec![loopback()], vec![loopback()]);
        Tracker::with(TrackerConfig { http, udp, interface: Some(interface.into()), ..TrackerConfig::default() })
    };
    let tracker = on("lo").unwrap();
    assert!(get(&tracker, b"GET /announce HTTP/1.0\r\n\r\n").starts_with(b"HTTP/1."));
    let error = on("nowhere0").unwrap_err();
    assert!(error.to_string().contains("nowhere0"), "{error}");
}

#[test]
fn peers_meet_over_ipv6_too() {
    let Ok(tracker) = Tracker::start("[::1]:0".parse().unwrap()) else { return };
    assert!(tracker.announce_url().starts_with("http://[::1]:"));
    let (first, _) = announcer(&tracker, 1001, 5);
    await_leechers(&first, 1);
    let (_second, peers) = announcer(&tracker, 1002, 5);
    assert_eq!(peers.recv_timeout(PATIENCE).unwrap(), ["[::1]:1001".parse().unwrap()]);
}

#[test]
fn clients_that_ask_for_dictionaries_get_them() {
    let tracker = Tracker::start(loopback()).unwrap();
    let (first, _) = announcer(&tracker, 1001, 5);
    await_leechers(&first, 1);
    let query = format!("info_hash={}&peer_id={}&port=7&left=1&compact=0", "%81".repeat(20), "x".repeat(20));
    let reply =
        get(&tracker, format!("GET /announce?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes());
    let reply = String::from_utf8_lossy(&reply);
    assert!(reply.contains("5:peersld2:ip9:127.0.0.17:peer id20:"), "{reply}");
    assert!(reply.ends_with("4:porti1001eeee"), "{reply}");
}

#[test]
fn nonsense_and_endless_requests_are_refused() {
    let tracker = Tracker::start(loopback()).unwrap();
    assert!(get(&tracker, b"\x13BitTorrent protocol\r\n\r\n").starts_with(b"HTTP/1.1 400 "));
    assert!(get(&tracker, b"GET / HTTP/1.0\r\n\r\n").starts_with(b"HTTP/1.1 404 "));
    assert!(get(&tracker, &b"GET /aaaaaaaaaaaaaaaaaaaaa".repeat(1000)).starts_with(b"HTTP/1.1 400 "));
    assert!(get(&tracker, &[b"GET /".as_slice(), &[b'a'; 20_000]].concat()).starts_with(b"HTTP/1.1 431 "));
}

#[test]
fn dropping_it_ends_connections_that_say_nothing_and_frees_the_port() {
    let tracker = Tracker::start(loopback()).unwrap();
    let addr = tracker.addr();
    let mut silent: Vec<_> = (0..3).map(|_| TcpStream::connect(addr).unwrap()).collect();
    // Once this is answered the silent ones have been accepted.
    get(&tracker, b"GET / HTTP/1.0\r\n\r\n");
    let start = Instant::now();
    drop(tracker);
    assert!(start.elapsed() < Duration::from_secs(5));
    for stream in &mut silent {
        assert!(!matches!(stream.read(&mut [0; 1]), Ok(1..)));
    }
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn a_connection_beyond_the_bound_is_closed() {
    let limits = RequestLimits { connections_per_address: 3, ..RequestLimits::default() };
    let config = TrackerConfig { http: vec![loopback()], udp: Vec::new(), limits, ..TrackerConfig::default() };
    let tracker = Tracker::with(config).unwrap();
    let held: Vec<_> = (0..3).map(|_| TcpStream::connect(tracker.addr()).unwrap()).collect();
    let mut refused = TcpStream::connect(tracker.addr()).unwrap();
    refused.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(refused.read(&mut [0; 1]).unwrap(), 0);
    drop(held);
}

#[test]
fn a_tracker_without_an_address_does_not_start() {
    let nowhere = TrackerConfig { http: Vec::new(), udp: Vec::new(), ..TrackerConfig::default() };
    Tracker::with(nowhere).unwrap_err();
}

#[test]
fn an_address_in_use_is_named() {
    let tracker = Tracker::start(loopback()).unwrap();
    let error = Tracker::start(tracker.addr()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen for HTTP on {}: ", tracker.addr())), "{error}");
}

#[test]
fn announcers_over_udp_find_those_over_http() {
    let tracker =
        Tracker::with(TrackerConfig { http: vec![loopback()], udp: vec![loopback()], ..TrackerConfig::default() })
            .unwrap();
    let (first, _) = announcer_at(tracker.announce_url(), 1001, 5);
    await_leechers(&first, 1);
    let (second, peers) = announcer_at(format!("udp://{}/announce", tracker.udp()[0]), 1002, 5);
    assert_eq!(peers.recv_timeout(PATIENCE).unwrap(), [SocketAddr::from(([127, 0, 0, 1], 1001))]);
    await_leechers(&second, 2);
}

#[test]
fn a_tracker_that_starts_again_knows_its_swarms() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state");
    let start = || {
        let state_file = Some(file.clone());
        Tracker::with(TrackerConfig { http: Vec::new(), udp: vec![loopback()], state_file, ..TrackerConfig::default() })
    };
    let tracker = start().unwrap();
    let (first, _) = announcer(&tracker, 1001, 5);
    await_leechers(&first, 1);
    tracker.stop().unwrap();
    drop(first);
    let tracker = start().unwrap();
    let (_second, peers) = announcer(&tracker, 1002, 5);
    assert_eq!(peers.recv_timeout(PATIENCE).unwrap(), [SocketAddr::from(([127, 0, 0, 1], 1001))]);
    assert!(start().unwrap_err().to_string().contains("state is in use by another tracker; stop that one"));
    drop(tracker);
    std::fs::write(&file, "something else").unwrap();
    assert!(start().unwrap_err().to_string().contains("state is not a tracker's state; name another"));
}

#[test]
fn a_tracker_that_cannot_save_says_so_serves_on_and_saves_when_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sub/state");
    let tracker = Tracker::with(TrackerConfig {
        http: vec![loopback()],
        udp: Vec::new(),
        admin: Some(loopback()),
        state_file: Some(file.clone()),
        state_interval: Duration::from_millis(1),
        ..TrackerConfig::default()
    })
    .unwrap();
    // Where it would be written there is a folder: that holds for root, too.
    let obstacle = folder.path().join("sub/state.new");
    std::fs::create_dir(&obstacle).unwrap();
    let until = |what: &str, holds: &dyn Fn() -> bool| {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < PATIENCE, "{what}: {:?}", tracker.stats());
            thread::yield_now();
        }
    };
    let (first, _) = announcer(&tracker, 1001, 5);
    until("it cannot be saved", &|| tracker.stats().unwrap().state_error.is_some());
    let error = tracker.stats().unwrap().state_error.unwrap();
    assert!(error.starts_with(&format!("{}: ", file.display())), "{error}");
    let page = |path: &str| {
        let mut stream = TcpStream::connect(tracker.admin().unwrap()).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        page
    };
    assert!(page("/metrics").contains("\nropewalk_tracker_state_failing 1\n"));
    let stats = page("/stats.json");
    assert!(stats.contains("\"saved_seconds_ago\":") && !stats.contains("\"state\":null"), "{stats}");
    await_leechers(&first, 1);
    std::fs::remove_dir(&obstacle).unwrap();
    until("it is saved again", &|| tracker.stats().unwrap().state_error.is_none());
    assert!(file.is_file());
    assert!(page("/metrics").contains("\nropewalk_tracker_state_failing 0\n"));
    drop(first);
}
