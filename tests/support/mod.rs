//! What several test binaries share: made-up torrents, sessions that keep to loopback, and scripted peers.
#![allow(dead_code, unreachable_pub, reason = "not every test binary uses all of it")]

pub mod link;
pub mod payload;
pub mod scripted;
pub mod veiled;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use payload::Payload;
use ropewalk::{AddOptions, Config, Event, Session, State, Torrent};
use tempfile::TempDir;

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A session on a free port of 127.0.0.1.
pub fn config() -> Config {
    let mut config = Config::default();
    config.dht.enabled = false;
    config.listen.ports = 0..=0;
    config.listen.bind = Some(IpAddr::from([127, 0, 0, 1]).into());
    config
}

/// A session with one torrent in a folder of its own.
pub struct Client {
    pub torrent: Torrent,
    pub session: Session,
    pub dir: TempDir,
}

impl Client {
    /// A session that has the whole payload.
    pub fn seeding(payload: &Payload) -> Self {
        Self::seeding_with(payload, config(), |_| ())
    }

    pub fn seeding_with(payload: &Payload, config: Config, change: impl FnOnce(&mut AddOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        payload.write_to(dir.path());
        let client = Self::start(payload, dir, config, change);
        client.finishes(payload);
        client
    }

    /// A session that has nothing and these peers.
    pub fn leeching(payload: &Payload, peers: &[SocketAddr]) -> Self {
        Self::leeching_with(payload, peers, config(), |_| ())
    }

    pub fn leeching_with(
        payload: &Payload,
        peers: &[SocketAddr],
        config: Config,
        change: impl FnOnce(&mut AddOptions),
    ) -> Self {
        Self::start(payload, tempfile::tempdir().unwrap(), config, |options| {
            options.peers = peers.to_vec();
            change(options);
        })
    }

    /// A session on what is in a folder.
    pub fn start(payload: &Payload, dir: TempDir, config: Config, change: impl FnOnce(&mut AddOptions)) -> Self {
        let session = Session::new(config).unwrap();
        let mut options = AddOptions::new(dir.path());
        change(&mut options);
        let torrent = session.add(payload.metainfo.clone(), options).unwrap();
        Self { torrent, session, dir }
    }

    /// Ends the session and keeps the folder.
    pub fn stop(self) -> TempDir {
        self.session.shutdown();
        self.dir
    }

    pub fn addr(&self) -> SocketAddr {
        self.session.listen_addrs()[0]
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Waits until everything is there, and compares it.
    #[track_caller]
    pub fn finishes(&self, payload: &Payload) {
        let state = self.torrent.wait(PATIENCE);
        assert_eq!(state, State::Seeding, "{:#?}\n{:#?}", self.torrent.stats(), self.torrent.peers());
        payload.assert_in(self.path());
    }
}

/// Waits for an event; everything before it is taken out of the channel.
#[track_caller]
pub fn await_event(events: &Receiver<Event>, is_it: impl Fn(&Event) -> bool) -> Event {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    loop {
        match events.recv_deadline(deadline) {
            Ok(event) if is_it(&event) => return event,
            Ok(event) => seen.push(event),
            Err(error) => panic!("the event did not come ({error}); these did: {seen:?}"),
        }
    }
}

/// Waits until something that only a snapshot shows is so. Snapshots are made by the owner's clock, so there is nothing
/// else to wait at.
#[track_caller]
pub fn await_that(what: &str, torrent: &Torrent, is_it: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_it() {
        assert!(Instant::now() < deadline, "not {what}: {:#?}\n{:#?}", torrent.stats(), torrent.peers());
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
