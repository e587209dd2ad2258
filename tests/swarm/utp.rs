//! Connections over uTP between sessions: who can talk with whom, and over a path that loses packets.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ropewalk::wire::utp::HEADER_LEN;
use ropewalk::{AddOptions, Config, Event, Magnet, Session, State, Transport, Transports};

use crate::support::payload::Payload;
use crate::support::{Client, PATIENCE, await_event, config};

use Transports::{Both, Tcp, Utp};

fn with(transports: Transports) -> Config {
    let mut config = config();
    config.peers.transports = transports;
    config
}

/// What the connections of a torrent are made of, those that are over included.
fn transports(client: &Client) -> Vec<Transport> {
    client.torrent.explain().peers.iter().map(|peer| peer.transport).collect()
}

#[test]
fn whoever_has_a_way_in_common_exchanges_the_right_bytes_by_it() {
    let payload = Payload::file("ways.bin", 700_001, 65536);
    for (getting, seeding, expected) in [
        (Both, Both, Transport::Tcp),
        (Both, Tcp, Transport::Tcp),
        (Both, Utp, Transport::Utp),
        (Tcp, Both, Transport::Tcp),
        (Tcp, Tcp, Transport::Tcp),
        (Utp, Both, Transport::Utp),
        (Utp, Utp, Transport::Utp),
    ] {
        let seeder = Client::seeding_with(&payload, with(seeding), |_| ());
        let getter = Client::leeching_with(&payload, &[seeder.addr()], with(getting), |_| ());
        getter.finishes(&payload);
        let stats = getter.torrent.stats();
        assert_eq!((stats.downloaded, stats.pieces_failed), (700_001, 0), "{getting:?} {seeding:?}");
        assert_eq!(transports(&getter), [expected], "{getting:?} {seeding:?}");
        assert_eq!(transports(&seeder), [expected], "{getting:?} {seeding:?}");
    }
}

#[test]
fn whoever_has_none_does_not() {
    let payload = Payload::file("strangers.bin", 100_000, 65536);
    for (getting, seeding) in [(Tcp, Utp), (Utp, Tcp)] {
        let seeder = Client::seeding_with(&payload, with(seeding), |_| ());
        let getter = Client::leeching_with(&payload, &[], with(getting), |_| ());
        let events = getter.torrent.events();
        getter.torrent.add_peer(seeder.addr()).unwrap();
        await_event(&events, |event| matches!(event, Event::PeerGone { .. }));
        assert_eq!(getter.torrent.stats().downloaded, 0);
        assert_eq!((transports(&getter), transports(&seeder)), (Vec::new(), Vec::new()));
    }
}

#[test]
fn metadata_and_content_of_a_magnet_link_come_over_utp() {
    let payload = Payload::file("linked.bin", 700_001, 16384);
    let seeder = Client::seeding_with(&payload, with(Utp), |_| ());
    let session = Session::new(with(Utp)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let options = AddOptions { peers: vec![seeder.addr()], ..AddOptions::new(folder.path()) };
    let torrent = session.add_magnet(Magnet::new(payload.metainfo.info_hash()), options).unwrap();
    assert_eq!(torrent.wait(PATIENCE), State::Seeding, "{:?}", torrent.stats());
    payload.assert_in(folder.path());
}

#[test]
fn over_a_path_that_loses_packets_the_right_bytes_arrive_and_none_of_them_twice() {
    let payload = Payload::file("lossy.bin", 2_000_001, 65536);
    let seeder = Client::seeding(&payload);
    let relay = Relay::start(seeder.addr());
    // TCP is refused there.
    let getter = Client::leeching_with(&payload, &[relay.addr], config(), |_| ());
    getter.finishes(&payload);
    let stats = getter.torrent.stats();
    assert_eq!((stats.downloaded, stats.pieces_failed), (2_000_001, 0));
    assert_eq!(transports(&getter), [Transport::Utp]);
    assert!(relay.lost.load(Ordering::Relaxed) > 10);
}

/// Stands between one who calls and one who is called, and loses one in 40 of their larger packets.
struct Relay {
    addr: SocketAddr,
    lost: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    fn start(called: SocketAddr) -> Self {
        let here = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = here.local_addr().unwrap();
        let there = UdpSocket::bind("127.0.0.1:0").unwrap();
        there.connect(called).unwrap();
        // The first packet says who calls.
        let (lost, stop) = (Arc::<AtomicU32>::default(), Arc::<AtomicBool>::default());
        let mut relay = Self { addr, lost, stop, threads: Vec::new() };
        for socket in [&here, &there] {
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        }
        let back = (there.try_clone().unwrap(), here.try_clone().unwrap());
        relay.carry(here, there);
        relay.carry(back.0, back.1);
        relay
    }

    /// Carries packets from one socket to another, which is connected with who sent the first.
    fn carry(&mut self, from: UdpSocket, to: UdpSocket) {
        let (lost, stop) = (Arc::clone(&self.lost), Arc::clone(&self.stop));
        self.threads.push(thread::spawn(move || {
            let mut packet = [0; 2048];
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, sender)) = from.recv_from(&mut packet) else { continue };
                if from.peer_addr().is_err() {
                    from.connect(sender).unwrap();
                }
                count += u32::from(length > HEADER_LEN);
                if length > HEADER_LEN && count.is_multiple_of(40) {
                    lost.fetch_add(1, Ordering::Relaxed);
                } else {
                    to.send(&packet[..length]).ok();
                }
            }
        }));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}
