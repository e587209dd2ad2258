//! opentracker brings two sessions together, over HTTP and over UDP, and sees them go.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ropewalk::{AddOptions, State};

use crate::rig::need;
use crate::rig::network::Network;
use crate::rig::payload::Payload;
use crate::rig::process::{PATIENCE, Process};
use crate::{PIECE, finish, session};

/// Runs until it takes announces of the payload.
fn start(addr: SocketAddr, dir: &Path, payload: &Payload) -> Process {
    std::fs::write(dir.join("whitelist"), format!("{}\n", payload.metainfo.info_hash())).unwrap();
    // It goes on as the user nobody, who has to get here.
    for folder in [dir, dir.parent().unwrap()] {
        std::fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    }
    let port = addr.port().to_string();
    let mut command = Command::new("opentracker");
    command.args(["-i", &addr.ip().to_string(), "-p", &port, "-P", &port, "-w", "whitelist", "-d"]).arg(dir);
    let mut process = Process::start(command.current_dir(dir));
    let deadline = Instant::now() + PATIENCE;
    // It says nothing when it is ready, nor when it has read the list.
    let query = "port=1&uploaded=0&downloaded=0&left=1&event=stopped&peer_id=-XX0000-000000000000";
    while ask(addr, "announce", payload, query).is_none_or(|reply| reply.contains("failure reason")) {
        assert!(Instant::now() < deadline, "opentracker does not take announces");
        process.glance();
    }
    process
}

/// The reply to a request over HTTP; `None` where nobody listens.
fn ask(tracker: SocketAddr, what: &str, payload: &Payload, query: &str) -> Option<String> {
    let hash = payload.metainfo.info_hash();
    let hash: String = hash.as_bytes().iter().map(|byte| format!("%{byte:02x}")).collect();
    let mut stream = TcpStream::connect(tracker).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /{what}?info_hash={hash}&{query} HTTP/1.0\r\n\r\n").ok()?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).ok()?;
    Some(String::from_utf8_lossy(&reply).into_owned())
}

/// What opentracker answers to a scrape: complete and incomplete peers.
fn scrape(tracker: SocketAddr, payload: &Payload) -> (u32, u32) {
    let reply = ask(tracker, "scrape", payload, "").unwrap();
    let number = |key: &str| {
        let (_, rest) = reply.split_once(&format!("{}:{key}i", key.len()))?;
        rest.split_once('e')?.0.parse().ok()
    };
    // A torrent that nobody is in any more is not listed.
    (number("complete").unwrap_or(0), number("incomplete").unwrap_or(0))
}

fn brings_two_together(scheme: &str) {
    if !need::programs(&["opentracker"]) {
        return;
    }
    Network::run(|network| {
        let port = Network::free_port(network.theirs);
        let addr = SocketAddr::new(network.theirs, port);
        let payload = Payload::folder(PIECE, Some(&format!("{scheme}://{addr}/announce")));
        let mut tracker = start(addr, &payload.empty_folder("tracker"), &payload);

        let seeder = session(network.ours);
        let seed = seeder.add(payload.metainfo.clone(), AddOptions::new(payload.data())).unwrap();
        finish(&seed);
        let deadline = Instant::now() + PATIENCE;
        while scrape(addr, &payload) != (1, 0) {
            assert!(Instant::now() < deadline, "the seeder was not announced: {:?}", seed.trackers());
            tracker.glance();
        }

        let folder = payload.empty_folder("out");
        let getter = session(network.ours);
        let get = getter.add(payload.metainfo.clone(), AddOptions::new(&folder)).unwrap();
        finish(&get);
        payload.assert_in(&folder);
        getter.shutdown();
        assert_eq!(scrape(addr, &payload), (1, 0), "the downloader's stop was not seen");
        seeder.shutdown();
        assert_eq!(scrape(addr, &payload), (0, 0), "the seeder's stop was not seen");
        assert_eq!(seed.wait(Duration::ZERO), State::Stopped);
    });
}

#[test]
fn opentracker_brings_two_sessions_together_over_http() {
    brings_two_together("http");
}

#[test]
fn opentracker_brings_two_sessions_together_over_udp() {
    brings_two_together("udp");
}
