//! The tracker of what is shared: in this process, for this torrent alone.
//!
//! It owns its port, and that the seeder is registered with it under the addresses where others reach it. The seeder is
//! announced from here rather than by its session: before the link is told, so that it is good from then on, and also
//! where the session is bound to an interface, which cannot reach its own machine.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use crossbeam_channel::{RecvTimeoutError, Sender, TryRecvError, bounded};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use ropewalk::tracker::{AccessConfig, Tracker, TrackerConfig};
use ropewalk::wire::tracker::AnnounceReply;
use ropewalk::wire::tracker::http::Reply;
use ropewalk::{Bind, InfoHash, Torrent, fetch};

use crate::cli::exit::{Code, failed};
use crate::cli::signal::Stop;

/// Where trackers usually are.
pub const USUAL_PORT: u16 = 6969;
/// Where another port is looked for, and how often: the ports that nobody is registered with.
const FREE: RangeInclusive<u16> = 49152..=65535;
const TRIES: usize = 64;
/// How often the seeder is announced again, and hears who wants what it has.
const RENEWAL: Duration = Duration::from_secs(5);
/// The longest answer of the tracker that is read, in bytes.
const MAX_ANSWER: u64 = 64 * 1024;
const STACK: usize = 256 * 1024;

/// A tracker that serves what [`serve`](Self::serve) names, and nothing before.
pub struct OwnTracker {
    tracker: Tracker,
    port: u16,
    /// Holds the list of what is served, until the tracker has read it.
    folder: Option<tempfile::TempDir>,
}

impl OwnTracker {
    /// A tracker on these addresses, over HTTP and UDP: at the port that was asked for (0: any) or not at all, else at the
    /// usual one, else at any.
    pub fn start(ips: &[IpAddr], port: Option<u16>, stop: &Stop) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("ropewalk-share-").tempdir();
        let folder = folder.context("no temporary folder; set TMPDIR to another")?;
        stop.removes(folder.path());
        std::fs::write(list(&folder), "").context("cannot write into the temporary folder; set TMPDIR to another")?;
        let at = |port| at(ips, port, list(&folder));
        let (tracker, port) = match port {
            Some(port @ 1..) => (at(port).map_err(|error| told(&error))?, port),
            Some(0) => any(at)?,
            None => match at(USUAL_PORT) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => any(at)?,
                tracker => (tracker?, USUAL_PORT),
            },
        };
        Ok(Self { tracker, port, folder: Some(folder) })
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

fn at(ips: &[IpAddr], port: u16, list: PathBuf) -> io::Result<Tracker> {
    let addrs: Vec<_> = ips.iter().map(|&ip| SocketAddr::new(ip, port)).collect();
    let mut config = TrackerConfig { http: addrs.clone(), udp: addrs, ..TrackerConfig::default() };
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

/// The seeder's place in its tracker. The tracker ends with the same process, so that there is nobody to say farewell to.
pub struct Registration {
    urls: Vec<String>,
}

impl Registration {
    /// Announces the seeder at `port` by these announce URLs of its tracker.
    pub fn new(urls: &[String], info_hash: InfoHash, port: u16) -> anyhow::Result<Self> {
        let urls: Vec<_> = urls.iter().map(|url| format!("{url}?{}", query(info_hash, port))).collect();
        let mut is_there = false;
        let mut failure = None;
        for url in &urls {
            match announce(&format!("{url}&event=started")) {
                Ok(_) => is_there = true,
                Err(why) => failure = Some(why),
            }
        }
        match failure {
            Some(why) if is_there => log::warn!("the own tracker cannot be reached by all its addresses: {why}"),
            Some(why) => return Err(failed(Code::Other, format!("cannot reach the own tracker: {why}"))),
            None => {}
        }
        Ok(Self { urls })
    }

    /// Keeps the place until what this gives is dropped, and has the torrent call those who want it: some cannot call us, for
    /// there is a firewall before us, or they try uTP alone.
    pub fn keep(self, torrent: Torrent) -> io::Result<Kept> {
        let (stop, stopped) = bounded::<()>(0);
        let run = move || {
            let mut failing = false;
            while stopped.recv_timeout(RENEWAL) == Err(RecvTimeoutError::Timeout) {
                for url in &self.urls {
                    if stopped.try_recv() == Err(TryRecvError::Disconnected) {
                        return;
                    }
                    match announce(url) {
                        Ok(reply) => {
                            failing = false;
                            if reply.leechers.is_some_and(|leechers| leechers > 0) {
                                reply.peers.into_iter().for_each(|peer| torrent.add_peer(peer).unwrap_or_default());
                            }
                        }
                        // It may be that the machine has moved to another network, and may come back.
                        Err(why) if !std::mem::replace(&mut failing, true) => {
                            log::warn!("the own tracker cannot be reached: {why}");
                        }
                        Err(_) => {}
                    }
                }
            }
        };
        let thread = thread::Builder::new().name("announce-share".into()).stack_size(STACK).spawn(run)?;
        Ok(Kept { stop: Some(stop), thread: Some(thread) })
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

/// What is said of somebody who has everything (BEP 3).
fn query(info_hash: InfoHash, port: u16) -> String {
    let info_hash = percent_encode(info_hash.as_bytes(), NON_ALPHANUMERIC);
    let id: String = std::iter::repeat_with(fastrand::alphanumeric).take(12).collect();
    format!(
        "info_hash={info_hash}&peer_id=-RW0000-{id}&port={port}&uploaded=0&downloaded=0&left=0&compact=1&numwant=50"
    )
}

fn announce(url: &str) -> Result<AnnounceReply, String> {
    // From any address, so that the system takes the one that it goes to, and past any proxy, which would be registered.
    let any: IpAddr = if url.contains('[') { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let answer = fetch::fetch(url, Some(&Bind::Addr(any)), MAX_ANSWER).map_err(|error| error.to_string())?;
    match Reply::decode(&answer).map_err(|error| error.to_string())? {
        Reply::Announced(reply) => Ok(reply),
        Reply::Refused { reason, .. } => Err(reason),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, UdpSocket};
    use std::sync::LazyLock;

    use ropewalk::InfoHash;

    use super::{OwnTracker, Registration};
    use crate::cli::signal::Stop;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    static STOP: LazyLock<Stop> = LazyLock::new(|| Stop::on_signals().unwrap());

    #[test]
    fn it_serves_one_torrent_and_registers_the_seeder_once_for_each_address() {
        let mut tracker = OwnTracker::start(&[LOCAL], Some(0), &STOP).unwrap();
        let url = format!("http://127.0.0.1:{}/announce", tracker.port());
        let (ours, other) = (InfoHash::new([7; 20]), InfoHash::new([8; 20]));
        tracker.serve(ours).unwrap();
        Registration::new(std::slice::from_ref(&url), ours, 7777).unwrap();
        let stats = tracker.tracker.stats().unwrap();
        assert_eq!((stats.torrents, stats.seeders), (1, 1));
        let error = Registration::new(std::slice::from_ref(&url), other, 7777).err().unwrap();
        assert!(error.to_string().contains("not served"), "{error}");
        // The port of the tracker is nobody's to seed at.
        assert!(Registration::new(&[url], ours, tracker.port()).is_err());
    }

    #[test]
    fn a_port_that_is_taken_for_udp_alone_is_taken() {
        let taken = UdpSocket::bind((LOCAL, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = OwnTracker::start(&[LOCAL], Some(port), &STOP).err().unwrap().to_string();
        assert!(error.contains(&port.to_string()) && error.contains("--tracker-port"), "{error}");
    }
}
