//! The threads of a session end with it. A binary of its own: nothing else may run threads in this process meanwhile.

#[path = "support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use ropewalk::Event;
use ropewalk::tracker::Tracker;
use support::payload::Payload;
use support::scripted::{RESERVED, Server, Wire};
use support::{Client, await_event, await_that, config};

/// The names of this process's threads, without those of the test harness.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    // A thread may end between the listing and the look.
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    let ours = ["accept", "announce", "rx-", "store-", "torrent-", "tx-", "udp", "verify-"];
    names.map(|name| name.trim().to_owned()).filter(|name| ours.iter().any(|start| name.starts_with(start))).collect()
}

#[test]
fn dropping_a_session_joins_every_thread() {
    let tracker = Tracker::start("127.0.0.1:0".parse().unwrap()).unwrap();
    // One tracker that answers, one that does not.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let trackers = [tracker.announce_url(), format!("http://{}/announce", silent.local_addr().unwrap())];
    let payload = Arc::new(Payload::file_tracked("threads.bin", 8 << 20, 65536, &trackers));
    assert_eq!(threads(), [""; 0]);
    let mut config = config();
    config.trackers.stop_grace = std::time::Duration::from_millis(500);
    // Peers that never say anything, that never take anything in, and that never end by themselves.
    let mute = Server::start([127, 0, 0, 2], |mut stream| std::io::copy(&mut stream, &mut std::io::sink()).map(drop));
    let stalling = {
        let payload = Arc::clone(&payload);
        Server::start([127, 0, 0, 3], move |stream| {
            let mut wire = Wire::answer_seeding(stream, payload.metainfo.info_hash())?;
            loop {
                wire.receive()?;
            }
        })
    };
    let unreachable: SocketAddr = "192.0.2.1:6881".parse().unwrap();
    let seeder = Client::seeding_with(&payload, config.clone(), |_| ());
    for _ in 0..3 {
        let peers = [mute.addr, stalling.addr, unreachable, seeder.addr()];
        let getter =
            Client::leeching_with(&payload, &peers, config.clone(), |options| options.limits.down = Some(1 << 20));
        let events = getter.torrent.events();
        await_event(&events, |event| matches!(event, Event::Piece { .. }));
        let caller = Wire::call([127, 0, 0, 4].into(), getter.addr(), payload.metainfo.info_hash(), RESERVED).unwrap();
        let greeting = std::net::TcpStream::connect(getter.addr()).unwrap();
        await_that("called", &getter.torrent, || getter.torrent.peers().iter().any(|peer| peer.incoming));
        let mut reader = getter.torrent.open(payload.metainfo.layout().file_index(0).unwrap()).unwrap();
        std::io::Seek::seek(&mut reader, std::io::SeekFrom::End(-1)).unwrap();
        let reading = std::thread::spawn(move || std::io::Read::read(&mut reader, &mut [0]).map(drop));
        let start = Instant::now();
        drop(getter);
        let took = start.elapsed();
        println!("a session with all kinds of peers ended in {took:?}");
        assert!(took.as_secs_f64() < 3.0, "it took {took:?}");
        reading.join().unwrap().ok();
        drop((caller, greeting));
    }
    drop(seeder);
    assert_eq!(threads(), [""; 0]);
}
