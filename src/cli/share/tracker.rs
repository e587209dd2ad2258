//! The tracker of what is shared: in this process, for this torrent alone.
//!
//! It owns its port, and that the seeder is registered with it under the addresses where others reach it: before the link
//! is told, so that it is good from then on. The session need not announce, which it could not where it is bound to an
//! interface: it would not reach its own machine.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use ropewalk::tracker::{AccessConfig, MemoryConfig, RequestRate, StoreConfig, Tracker, TrackerConfig};
use ropewalk::wire::handshake::PeerId;
use ropewalk::{InfoHash, Torrent};

use crate::cli::exit::{Code, failed};
use crate::cli::signal::Stop;

/// Where trackers usually are.
pub const USUAL_PORT: u16 = 6969;
/// Where another port is looked for, and how often: the ports that nobody is registered with.
const FREE: RangeInclusive<u16> = 49152..=65535;
const TRIES: usize = 64;
/// How often the seeder is announced again, and hears who wants what it has.
const RENEWAL: Duration = Duration::from_secs(5);
/// How many of those who want it are called at most, for each address of ours.
const CALLED: usize = 50;
/// Peers that the tracker knows at most: it serves a neighbourhood.
const PEERS: usize = 10_000;
const STACK: usize = 256 * 1024;

/// A tracker that serves what [`serve`](Self::serve) names, and nothing before.
pub struct OwnTracker {
    tracker: Arc<Tracker>,
    port: u16,
    /// Holds the list of what is served, until the tracker has read it.
    folder: Option<tempfile::TempDir>,
}

impl OwnTracker {
    /// A tracker on these addresses, over HTTP and UDP: at the port that was asked for (0: any) or not at all, else at the
    /// usual one, else at any.
    pub fn start(ips: &[IpAddr], interface: Option<&str>, port: Option<u16>, stop: &Stop) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("ropewalk-share-").tempdir();
        let folder = folder.context("no temporary folder; set TMPDIR to another")?;
        stop.removes(folder.path());
        std::fs::write(list(&folder), "").context("cannot write into the temporary folder; set TMPDIR to another")?;
        let at = |port| at(ips, interface, port, list(&folder));
        let (tracker, port) = match port {
            Some(port @ 1..) => (at(port).map_err(|error| told(&error))?, port),
            Some(0) => any(at)?,
            None => match at(USUAL_PORT) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => any(at)?,
                tracker => (tracker?, USUAL_PORT),
            },
        };
        Ok(Self { tracker: Arc::new(tracker), port, folder: Some(folder) })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Serves this torrent, and no other from now on.
    pub fn serve(&mut self, info_hash: InfoHash) -> anyhow::Result<()> {
        let Some(folder) = self.folder.take() else { return Ok(()) };
        std::fs::write(list(&folder), info_hash.to_string())
            .context("cannot write into the temporary folder; set TMPDIR to another")?;
        Ok(self.tracker.reload()?)
    }
}

fn list(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("served")
}

fn at(ips: &[IpAddr], interface: Option<&str>, port: u16, list: PathBuf) -> io::Result<Tracker> {
    let addrs: Vec<_> = ips.iter().map(|&ip| SocketAddr::new(ip, port)).collect();
    let mut config = TrackerConfig { http: addrs.clone(), udp: addrs, ..TrackerConfig::default() };
    config.interface = interface.map(str::to_owned);
    config.rate = Some(RequestRate::default());
    config.store = StoreConfig::Memory(MemoryConfig { torrents: 1, peers: PEERS, ..MemoryConfig::default() });
    config.access = AccessConfig { allow: Some(list), ..AccessConfig::default() };
    Tracker::with(config)
}

/// A tracker at a port that is free on all addresses, for TCP and UDP, which the system does not look for.
fn any(at: impl Fn(u16) -> io::Result<Tracker>) -> io::Result<(Tracker, u16)> {
    let mut taken = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        let port = fastrand::u16(FREE);
        match at(port) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => taken = error,
            tracker => return tracker.map(|tracker| (tracker, port)),
        }
    }
    Err(taken)
}

fn told(error: &io::Error) -> anyhow::Error {
    let text = crate::cli::exit::without_number(&error.to_string());
    failed(Code::Other, format!("{text}; choose another port with --tracker-port, or leave it out for a free one"))
}

/// The seeder's place in its tracker, which both are in this process: nothing is sent for it, and there is nobody to say
/// farewell to.
pub struct Registration {
    tracker: Arc<Tracker>,
    info_hash: InfoHash,
    id: PeerId,
    addrs: Vec<SocketAddr>,
}

impl Registration {
    /// Registers the seeder at these addresses.
    pub fn new(tracker: &OwnTracker, info_hash: InfoHash, addrs: Vec<SocketAddr>) -> anyhow::Result<Self> {
        let id = PeerId::ropewalk(std::array::from_fn(|_| fastrand::u8(..)));
        let registration = Self { tracker: Arc::clone(&tracker.tracker), info_hash, id, addrs };
        registration.renew().context("the tracker does not take the seeder in")?;
        Ok(registration)
    }

    /// Keeps the place until what this gives is dropped, and has the torrent call those who want it: some cannot call us, for
    /// there is a firewall before us.
    pub fn keep(self, torrent: Torrent) -> io::Result<Kept> {
        let (stop, stopped) = bounded::<()>(0);
        let url = self.tracker.announce_url();
        let run = move || {
            let mut told = Vec::new();
            while stopped.recv_timeout(RENEWAL) == Err(RecvTimeoutError::Timeout) {
                // It took the seeder in before, and nobody else can have it refused.
                let Ok(mut wanting) = self.renew() else { continue };
                wanting.sort_unstable();
                if !wanting.is_empty() && wanting != told {
                    torrent.add_tracker_peers(&url, wanting.clone());
                }
                told = wanting;
            }
        };
        let thread = thread::Builder::new().name("announce-share".into()).stack_size(STACK).spawn(run)?;
        Ok(Kept { stop: Some(stop), thread: Some(thread) })
    }

    /// Who wants what the seeder has.
    fn renew(&self) -> io::Result<Vec<SocketAddr>> {
        let mut wanting = Vec::new();
        for &addr in &self.addrs {
            wanting.extend(self.tracker.register_seeder(self.info_hash, self.id, addr, CALLED)?);
        }
        Ok(wanting)
    }
}

/// A [`Registration`] that is renewed until this is dropped.
pub struct Kept {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
    use std::sync::LazyLock;

    use ropewalk::InfoHash;

    use super::{OwnTracker, Registration};
    use crate::cli::signal::Stop;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    static STOP: LazyLock<Stop> = LazyLock::new(|| Stop::on_signals().unwrap());

    #[test]
    fn it_serves_one_torrent_and_registers_the_seeder_once_for_each_address() {
        let mut tracker = OwnTracker::start(&[LOCAL], None, Some(0), &STOP).unwrap();
        let at = |port| vec![SocketAddr::new(LOCAL, port), SocketAddr::new(Ipv4Addr::new(127, 0, 0, 2).into(), port)];
        let (ours, other) = (InfoHash::new([7; 20]), InfoHash::new([8; 20]));
        tracker.serve(ours).unwrap();
        let _registration = Registration::new(&tracker, ours, at(7777)).unwrap();
        let stats = tracker.tracker.stats().unwrap();
        assert_eq!((stats.torrents, stats.seeders), (1, 2));
        let error = Registration::new(&tracker, other, at(7777)).err().unwrap();
        assert!(format!("{error:#}").contains("not served"), "{error:#}");
        // The port of the tracker is nobody's to seed at.
        assert!(Registration::new(&tracker, ours, at(tracker.port())).is_err());
    }

    #[test]
    fn a_port_that_is_taken_for_udp_alone_is_taken() {
        let taken = UdpSocket::bind((LOCAL, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = OwnTracker::start(&[LOCAL], None, Some(port), &STOP).err().unwrap().to_string();
        assert!(error.contains(&port.to_string()) && error.contains("--tracker-port"), "{error}");
    }
}
