//! A tracker in the process: tells the peers of a torrent about each other.
//!
//! [`Tracker`] owns the sockets and threads of all its servers, which share a service: the store of who takes part, and the
//! rules on who may ask what. Each server is an event loop for each core. A peer is where its request came from: it is not
//! believed when it says otherwise, unless a trusted proxy does.
//!
//! ```no_run
//! use ropewalk::tracker::{Tracker, TrackerConfig};
//!
//! let tracker = Tracker::with(TrackerConfig { admin: Some(([127, 0, 0, 1], 8080).into()), ..TrackerConfig::default() })?;
//! println!("{}", tracker.announce_url());
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Threads
//!
//! | thread | owns | waits on |
//! |---|---|---|
//! | `tracker-http-N` | connections, and a listening socket of the same address as others' | all of them |
//! | `tracker-udp-N` | a socket of the same address as others' | that |
//! | `tracker-page` | connections of who runs the tracker | all of them |
//! | `tracker-tidy` | the samples of the statistics; looks after the store | the next second |
//! | `tracker-save` | nothing that lasts; writes the state file, where there is one | the time for it |

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use self::listening::Listening;
use self::memory::Memory;
use self::service::Service;
use self::store::{Announce, Reply, Store};
use crate::metainfo::InfoHash;
use crate::wire::handshake::PeerId;
use crate::wire::tracker::{Family, compact_peers};

mod access;
mod config;
mod http;
mod key;
mod listening;
mod memory;
mod network;
mod rates;
#[cfg(feature = "redis")]
mod redis;
mod saving;
mod service;
mod statistics;
mod store;
mod udp;

#[cfg(fuzzing)]
pub(crate) use self::udp::fuzz::answer as fuzz_packets;
#[cfg(fuzzing)]
pub use self::udp::fuzz::{FUZZ_KEY, FuzzPacket};
pub use config::{AccessConfig, MemoryConfig, RequestLimits, RequestRate, StoreConfig, TrackerConfig};
#[cfg(fuzzing)]
pub(crate) use http::fuzz_requests;
pub use key::{AccessKey, AccessKeySyntax};
pub use listening::{ListenError, TrackerServer};
pub use network::{IpNetwork, IpNetworkSyntax};
#[cfg(feature = "redis")]
pub use redis::{RedisConfig, RedisPlace, RedisPlaceError};
pub use statistics::TrackerStats;

/// A running tracker. Dropping it stops it and joins its threads.
pub struct Tracker {
    http: Vec<SocketAddr>,
    udp: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    service: Arc<Service>,
    threads: Vec<JoinHandle<()>>,
}

impl Tracker {
    /// A tracker over HTTP on `addr`, with its peers in memory; port 0 takes a free one.
    pub fn start(addr: SocketAddr) -> io::Result<Self> {
        Self::with(TrackerConfig { http: vec![addr], udp: Vec::new(), ..TrackerConfig::default() })
    }

    /// A tracker as it is described. What cannot be listened on ([`ListenError`]), or read, is an error.
    pub fn with(config: TrackerConfig) -> io::Result<Self> {
        let workers = config.workers.or_else(|| thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
        let interface = config.interface.as_deref();
        let mut listening = Listening::default();
        let trackers = listening.bind(
            TrackerServer::Http,
            &config.http,
            |addr| http::Bound::new(addr, interface, workers.get()),
            http::Bound::addr,
        )?;
        let sockets = listening.bind(
            TrackerServer::Udp,
            &config.udp,
            |addr| udp::Bound::new(addr, interface, workers),
            udp::Bound::addr,
        )?;
        let admin = config.admin.as_slice();
        let admin = listening
            .bind(TrackerServer::Pages, admin, |addr| http::Bound::new(addr, None, 1), http::Bound::addr)?
            .pop();
        let http: Vec<_> = trackers.iter().map(http::Bound::addr).collect();
        let udp: Vec<_> = sockets.iter().map(udp::Bound::addr).collect();
        let admin_addr = admin.as_ref().map(http::Bound::addr);
        if http.is_empty() && udp.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a tracker needs an address to listen on"));
        }
        let store = store(&config)?;
        let service = Service::new(config, store, &listening.addrs())?;
        let mut tracker = Self { http, udp, admin: admin_addr, service, threads: Vec::new() };
        // Where one cannot be started, the others are stopped as the tracker is dropped.
        http::start(trackers, admin, &tracker.service, &mut tracker.threads)?;
        udp::start(sockets, &tracker.service, &mut tracker.threads)?;
        tracker.threads.push(tracker.service.start_tidying()?);
        if tracker.service.config.state_file.is_some() {
            tracker.threads.push(saving::start(&tracker.service)?);
        }
        Ok(tracker)
    }

    /// Where it listens: the first of [`http`](Self::http), or else of [`udp`](Self::udp).
    pub fn addr(&self) -> SocketAddr {
        *self.http.first().unwrap_or_else(|| &self.udp[0])
    }

    /// Where it listens for HTTP.
    pub fn http(&self) -> &[SocketAddr] {
        &self.http
    }

    /// Where it listens for UDP.
    pub fn udp(&self) -> &[SocketAddr] {
        &self.udp
    }

    /// Where its pages are.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The URL for a torrent's `announce`: of HTTP, if it listens for that, and with the [key](AccessConfig::key). A tracker on
    /// an unspecified address is named by the loopback one.
    pub fn announce_url(&self) -> String {
        let scheme = if self.http.is_empty() { "udp" } else { "http" };
        format!("{scheme}://{}{}", reachable(self.addr()), self.service.access.announce_path())
    }

    /// How many torrents and peers take part, and how often was asked. An error where the store does not answer: it says which
    /// store and why, but no password.
    pub fn stats(&self) -> io::Result<TrackerStats> {
        let totals = self.service.store.totals(Instant::now());
        let totals = totals.map_err(|unavailable| io::Error::other(unavailable.in_full()))?;
        let state_error = self.service.saving.last().error;
        Ok(TrackerStats { state_error, ..self.service.statistics.in_all(totals) })
    }

    /// Has a seeder at `addr` take part in a torrent, as if it had announced itself there, for as long as an announce lasts; and
    /// names at most so many of those who want the torrent, in the same address family. An error where the tracker would
    /// refuse it.
    pub fn register_seeder(
        &self,
        info_hash: InfoHash,
        peer_id: PeerId,
        addr: SocketAddr,
        most: usize,
    ) -> io::Result<Vec<SocketAddr>> {
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let seeder = Announce::of_seeder(info_hash, peer_id, addr);
        let now = Instant::now();
        self.service.admit(&seeder, now).map_err(io::Error::other)?;
        let ask = |wanted| {
            let (mut reply, mut failed) = (Reply::default(), None);
            let announce = Announce { wanted, ..seeder };
            self.service.store.announce(&[announce], now, &mut Reply::default(), &mut |_, answer| match answer {
                Ok(answer) => reply = answer.clone(),
                Err(error) => failed = Some(io::Error::other(error.to_string())),
            });
            failed.map_or(Ok(reply), Err)
        };
        let leechers = ask(0)?.counts.leechers as usize;
        let wanted = most.min(leechers);
        let reply = if wanted == 0 { Reply::default() } else { ask(wanted)? };
        let (peers, family) = match addr {
            SocketAddr::V4(_) => (reply.v4, Family::V4),
            SocketAddr::V6(_) => (reply.v6, Family::V6),
        };
        Ok(compact_peers(&peers, family).collect())
    }

    /// Reads the lists of torrents that are served, or not, again ([`AccessConfig`]). Where a file cannot be read, the lists
    /// that are in force stay.
    pub fn reload(&self) -> io::Result<()> {
        self.service.access.reload()
    }

    /// Stops it and joins its threads. What cannot be kept in [`TrackerConfig::state_file`] is an error here, and goes to the log
    /// where the tracker is only dropped.
    pub fn stop(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        self.service.interrupt.raise();
        if self.threads.is_empty() {
            return Ok(());
        }
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
        self.service.store.save(Instant::now())
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            log::error!("tracker: its state is not kept: {error}");
        }
    }
}

impl std::fmt::Debug for Tracker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracker")
            .field("http", &self.http)
            .field("udp", &self.udp)
            .field("admin", &self.admin)
            .finish_non_exhaustive()
    }
}

fn store(config: &TrackerConfig) -> io::Result<Box<dyn Store>> {
    let (seed, now) = (fastrand::u64(..), Instant::now());
    Ok(match (&config.store, &config.state_file) {
        (StoreConfig::Memory(memory), None) => Box::new(Memory::new(memory, seed, now)),
        (StoreConfig::Memory(memory), Some(file)) => {
            Box::new(Memory::load(file, memory, seed, now).map_err(io::Error::other)?)
        }
        #[cfg(feature = "redis")]
        (StoreConfig::Redis(redis), None) => Box::new(redis::RedisStore::start(redis)?),
        #[cfg(feature = "redis")]
        (StoreConfig::Redis(_), Some(_)) => {
            let text = "a state file keeps what is in memory; Redis keeps its own";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
    })
}

fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

#[cfg(test)]
mod tests;
