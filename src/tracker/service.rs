//! What all servers of a tracker share, whatever transport they speak: the store, who may ask what, and what is counted.
//!
//! It owns the rules on requests that have nothing to do with how they came in, and the thread `tracker-tidy`. It refuses to
//! know sockets: a server binds its sockets first, so that what they are bound to can be told to [`Service::new`], and then
//! starts its threads with the service. It registers its sockets at the [`Interrupt`], which shuts them down when the tracker
//! stops, and looks at it after every wait.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use if_addrs::get_if_addrs;

use super::access::Access;
use super::config::TrackerConfig;
use super::rates::Rates;
use super::saving::Saving;
use super::statistics::{Counter, Statistics};
use super::store::{Announce, Store};
use crate::discovery::interrupt::Interrupt;
use crate::metainfo::InfoHash;

/// How often the store is tidied and the counters are looked at.
const TIDY_EVERY: Duration = Duration::from_secs(1);

const STACK: usize = 256 * 1024;

/// What all servers share.
pub(super) struct Service {
    pub(super) config: TrackerConfig,
    pub(super) store: Box<dyn Store>,
    pub(super) access: Access,
    pub(super) statistics: Statistics,
    pub(super) saving: Saving,
    pub(super) interrupt: Interrupt,
    rates: Option<Rates>,
    own: Own,
}

/// Why a request is not served, although it is well-formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("no peer can be reached at port 0")]
    Port,
    #[error("the address is the tracker's own")]
    Own,
    #[error("this torrent is not served here")]
    NotServed,
    #[error("this tracker wants its key in the announce URL: /KEY/announce")]
    Key,
    #[error("the options behind the announce are malformed")]
    Options,
    #[error("a scrape over UDP cannot have the key that this tracker wants; announce, or scrape over HTTP")]
    KeylessScrape,
    #[error("too many requests from this address")]
    TooOften {
        /// When to ask again.
        retry: Duration,
    },
}

/// Where the tracker itself is: peers sent there would only disturb it.
#[derive(Debug)]
struct Own {
    ips: Vec<IpAddr>,
    ports: Vec<u16>,
}

impl Service {
    /// `bound` are the addresses of all its sockets.
    pub(super) fn new(config: TrackerConfig, store: Box<dyn Store>, bound: &[SocketAddr]) -> io::Result<Arc<Self>> {
        let now = Instant::now();
        let access = Access::new(config.access.clone())?;
        let rates = config.rate.map(|rate| Rates::new(rate, now));
        let own = Own::new(bound)?;
        let (statistics, saving, interrupt) = (Statistics::new(now), Saving::new(now), Interrupt::new());
        Ok(Arc::new(Self { config, store, access, statistics, saving, interrupt, rates, own }))
    }

    /// How many peers to give to who asks for so many, or does not say.
    pub(super) fn wanted(&self, asked: Option<u64>) -> usize {
        let limits = &self.config.limits;
        asked.and_then(|asked| usize::try_from(asked).ok()).unwrap_or(limits.usual_peers).min(limits.peers)
    }

    /// Whether an announce may go to the store.
    pub(super) fn admit(&self, announce: &Announce, now: Instant) -> Result<(), Refusal> {
        if announce.addr.port() == 0 {
            return Err(Refusal::Port);
        }
        if self.own.is(announce.addr) {
            return Err(Refusal::Own);
        }
        if !self.access.allows(&announce.info_hash) {
            return Err(Refusal::NotServed);
        }
        self.admit_from(announce.addr.ip(), now)
    }

    /// Whether a scrape may go to the store: torrents that are not served are taken out of it.
    pub(super) fn admit_scrape(&self, from: IpAddr, hashes: &mut Vec<InfoHash>, now: Instant) -> Result<(), Refusal> {
        self.admit_from(from, now)?;
        hashes.retain(|hash| self.access.allows(hash));
        Ok(())
    }

    /// Whether this address may ask for anything now.
    pub(super) fn admit_from(&self, from: IpAddr, now: Instant) -> Result<(), Refusal> {
        let Some(rates) = &self.rates else { return Ok(()) };
        rates.take(from, now).map_err(|retry| Refusal::TooOften { retry })
    }

    /// What to tell who is refused before it is known what he asks for. It counts as any other request: keys cannot be tried
    /// out faster than one may ask.
    pub(super) fn refused(&self, refusal: Refusal, from: IpAddr, now: Instant) -> Refusal {
        self.admit_from(from, now).err().unwrap_or(refusal)
    }

    /// Starts the thread `tracker-tidy`, which ends with the interrupt.
    pub(super) fn start_tidying(self: &Arc<Self>) -> io::Result<JoinHandle<()>> {
        let service = self.clone();
        let run = move || {
            while service.interrupt.signal().recv_timeout(TIDY_EVERY) == Err(RecvTimeoutError::Timeout) {
                let now = Instant::now();
                service.statistics.sample(now);
                service.store.tidy(now);
            }
        };
        thread::Builder::new().name("tracker-tidy".into()).stack_size(STACK).spawn(run)
    }
}

impl Refusal {
    /// What it is counted as.
    pub(super) fn counter(self) -> Counter {
        match self {
            Self::Port | Self::Own => Counter::Address,
            Self::NotServed => Counter::NotServed,
            Self::Key | Self::KeylessScrape => Counter::Key,
            Self::Options => Counter::Malformed,
            Self::TooOften { .. } => Counter::TooOften,
        }
    }
}

impl Own {
    fn new(bound: &[SocketAddr]) -> io::Result<Self> {
        let mut ips: Vec<_> = get_if_addrs()?.iter().map(|interface| interface.ip()).collect();
        ips.extend(bound.iter().map(|addr| addr.ip().to_canonical()));
        Ok(Self { ips, ports: bound.iter().map(|addr| addr.port()).collect() })
    }

    fn is(&self, addr: SocketAddr) -> bool {
        self.ports.contains(&addr.port()) && (addr.ip().is_loopback() || self.ips.contains(&addr.ip()))
    }
}
