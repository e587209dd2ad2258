//! The announcer of one torrent: tells its trackers that it takes part and passes on the peers that they name.
//!
//! It owns one thread for each tier of BEP 12, `announce-HASH8-T`, so that a slow or dead tier delays no other. Within a
//! tier trackers are asked one after the other. Peers and troubles are facts for the owner; what to do about them is not
//! decided here. What a tier's thread does is in `runner`.
//!
//! A tracker whose name has addresses of both families is told over both, with the same key (BEP 7, BEP 15): first the
//! family that the system prefers, then, if that was accepted, the other one, whose failure is only logged. A family that
//! has failed so is left out for an hour.

mod runner;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU16;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use super::host::{Heard, Host};
pub(super) use super::http::Tls;
use super::interrupt::Interrupt;
pub(crate) use super::tiers::Timing;
use crate::config::{Bind, Encryption};
use crate::metainfo::InfoHash;
use crate::wire::handshake::PeerId;
use crate::wire::tracker::udp::ScrapeEntry;
use runner::TierRunner;

/// The most threads for one torrent; later tiers are merged into the last.
const MAX_TIERS: usize = 16;

/// The most trackers of one torrent; later ones are not used.
const MAX_TRACKERS: usize = 256;

/// Address space, not memory: TLS and the name service put large buffers on the stack.
const STACK: usize = 512 * 1024;

/// What an announcer is told at its start.
#[derive(Clone)]
pub(crate) struct Setup {
    /// The torrent.
    pub info_hash: InfoHash,
    /// Who we are to the tracker and to peers.
    pub peer_id: PeerId,
    /// The number by which a tracker knows us when our address changes.
    pub key: u32,
    /// Where peers outside reach us, as of each announce.
    pub port: Arc<AtomicU16>,
    /// The URLs, in the tiers of BEP 12. One that is repeated counts once.
    pub tiers: Vec<Vec<String>>,
    /// Asked on the announce threads, for each announce.
    pub counters: Arc<dyn Fn() -> Counters + Send + Sync>,
    /// Whether trackers that accept an announce are scraped as well.
    pub scrape: bool,
    /// How many peers to ask for.
    pub num_want: u32,
    /// The value of the HTTP header `User-Agent`.
    pub user_agent: String,
    /// What to announce from; only trackers of the families that it has are reached.
    pub bind: Option<Bind>,
    /// What is said of connections to peers.
    pub encryption: Encryption,
    /// Intervals and timeouts.
    pub timing: Timing,
    /// Shared by the torrents of a session.
    pub tls: Tls,
    /// For the order within a tier and the jitter of retries.
    pub seed: u64,
}

/// What has been moved since `started`, in bytes of payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Sent to peers.
    pub uploaded: u64,
    /// Received from peers.
    pub downloaded: u64,
    /// Lacking; 0 makes us a seeder.
    pub left: u64,
}

/// What a tracker told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum TrackerFact {
    /// Where peers are. May name ourselves, or the same peer again.
    Peers {
        /// Who says so.
        url: Arc<str>,
        /// At least one.
        peers: Vec<SocketAddr>,
    },
    /// How the world sees us (BEP 24).
    ExternalIp {
        /// Who says so.
        url: Arc<str>,
        /// The address.
        ip: IpAddr,
    },
    /// The tracker works, but someone should read this.
    Warning {
        /// Who says so.
        url: Arc<str>,
        /// In the tracker's words.
        message: String,
    },
    /// The announce failed. It will be tried again if that makes sense.
    Failed {
        /// Which tracker.
        url: Arc<str>,
        /// What went wrong, in words for a person.
        message: String,
    },
}

/// How it goes with one tracker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackerStatus {
    /// As the torrent has it.
    pub url: Arc<str>,
    /// Its tier, from 0, as the torrent has it.
    pub tier: usize,
    /// What it is at.
    pub state: TrackerState,
    /// The last failure, in words for a person.
    pub error: Option<String>,
    /// The last warning, in the tracker's words.
    pub warning: Option<String>,
    /// When its tier announces next; `None` for never.
    pub next_announce: Option<Instant>,
    /// As the tracker counts them.
    pub seeders: Option<u32>,
    /// As the tracker counts them.
    pub leechers: Option<u32>,
    /// What the tracker says to a scrape (BEP 15, 48), where it was asked: for torrents that were added to be looked at
    /// ([`Start::Looking`](crate::Start::Looking)).
    pub scrape: Option<ScrapeEntry>,
    /// How many the last reply had.
    pub peers: usize,
}

/// What a tracker is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrackerState {
    /// Not asked yet: a better one of its tier works, or its turn has not come.
    Untried,
    /// Asked, not answered.
    Announcing,
    /// The last announce was accepted.
    Working,
    /// The last announce failed.
    Failed,
    /// This kind of URL is never asked.
    Unsupported,
}

/// One torrent's announce threads. Dropping it stops them at once, without telling the trackers.
pub(crate) struct Announcer {
    shared: Arc<Shared>,
    orders: Vec<Orders>,
    complete_at_start: bool,
    /// Emptied by the first stop. Nobody but stops takes the lock, so it may be held while they join.
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Disconnected when the last thread is through.
    through: Receiver<()>,
}

impl Announcer {
    /// Starts the threads, which announce at once. `facts` is called on them: while it blocks, its tier stands still.
    pub(crate) fn start(setup: Setup, facts: impl Fn(TrackerFact) + Send + Sync + 'static) -> io::Result<Self> {
        let complete_at_start = (setup.counters)().left == 0;
        let (statuses, tiers) = list_trackers(&setup.tiers);
        let name: String = setup.info_hash.to_string().chars().take(8).collect();
        let shared = Arc::new(Shared {
            setup,
            facts: Box::new(facts),
            statuses: Mutex::new(statuses),
            announces: Interrupt::new(),
            farewells: Interrupt::new(),
            farewell_until: Mutex::new(None),
        });
        let (alive, through) = bounded(0);
        let mut announcer =
            Self { shared: shared.clone(), orders: Vec::new(), complete_at_start, threads: Mutex::default(), through };
        for (number, hosts) in tiers.into_iter().enumerate() {
            // One place each: an order that already waits need not be given again.
            let (hurry, hurries) = bounded(1);
            let (complete, completes) = bounded(1);
            let runner = TierRunner::new(shared.clone(), number, hosts, hurries, completes);
            let alive = alive.clone();
            let run = move || {
                runner.run();
                drop(alive);
            };
            let builder = thread::Builder::new().name(format!("announce-{name}-{number}")).stack_size(STACK);
            // On an error the announcer is dropped, which ends the threads that run already.
            announcer.threads.get_mut().push(builder.spawn(run)?);
            announcer.orders.push(Orders { hurry, complete });
        }
        Ok(announcer)
    }

    /// More peers are wanted: announces as soon as each tracker's minimum interval allows.
    pub(crate) fn announce_now(&self) {
        for orders in &self.orders {
            let _ = orders.hurry.try_send(());
        }
    }

    /// The download has finished: sends `completed`, once, unless it was complete at the start.
    pub(crate) fn completed(&self) {
        if self.complete_at_start {
            return;
        }
        for orders in &self.orders {
            let _ = orders.complete.try_send(());
        }
    }

    /// Ends what is under way, sends `stopped` to the trackers that accepted `started`, all tiers in parallel, and waits
    /// for their answers for at most `grace`; then joins the threads. A second stop does nothing.
    pub(crate) fn stop(&self, grace: Duration) {
        let mut threads = self.threads.lock();
        let until = Instant::now() + grace;
        *self.shared.farewell_until.lock() = Some(until);
        if grace.is_zero() {
            self.shared.farewells.raise();
        }
        self.shared.announces.raise();
        // Nothing is ever sent here: either all threads are through, or the time is.
        let _ = self.through.recv_deadline(until);
        self.shared.farewells.raise();
        threads.drain(..).for_each(|thread| drop(thread.join()));
    }

    /// How it goes with each tracker, in the order of the torrent. Never waits for the network.
    pub(crate) fn snapshot(&self) -> Vec<TrackerStatus> {
        self.shared.statuses.lock().clone()
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

impl fmt::Debug for Announcer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Announcer").field("info_hash", &self.shared.setup.info_hash).finish_non_exhaustive()
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup").field("info_hash", &self.info_hash).field("tiers", &self.tiers).finish_non_exhaustive()
    }
}

/// What the owner tells a tier's thread.
struct Orders {
    hurry: Sender<()>,
    complete: Sender<()>,
}

struct Shared {
    setup: Setup,
    facts: Box<dyn Fn(TrackerFact) + Send + Sync>,
    /// Protects what [`Announcer::snapshot`] copies; the announce threads write their own trackers' entries.
    statuses: Mutex<Vec<TrackerStatus>>,
    /// Ends announces, when a stop begins.
    announces: Interrupt,
    /// Ends the sending of `stopped`, when the grace is over.
    farewells: Interrupt,
    /// Set by a stop before it raises `announces`; read by the threads after.
    farewell_until: Mutex<Option<Instant>>,
}

impl Shared {
    fn status(&self, slot: usize, change: impl FnOnce(&mut TrackerStatus)) {
        change(&mut self.statuses.lock()[slot]);
    }

    /// One family's reply: into the status, and to the owner.
    fn hear(&self, slot: usize, url: &Arc<str>, heard: Heard) {
        self.status(slot, |status| {
            if heard.first {
                (status.peers, status.warning) = (0, None);
            }
            status.peers += heard.peers.len();
            status.warning = heard.warning.clone().or(status.warning.take());
            status.seeders = heard.seeders.or(status.seeders);
            status.leechers = heard.leechers.or(status.leechers);
        });
        if !heard.peers.is_empty() {
            (self.facts)(TrackerFact::Peers { url: url.clone(), peers: heard.peers });
        }
        if let Some(ip) = heard.external_ip {
            (self.facts)(TrackerFact::ExternalIp { url: url.clone(), ip });
        }
        if let Some(message) = heard.warning {
            (self.facts)(TrackerFact::Warning { url: url.clone(), message });
        }
    }

    fn fail(&self, slot: usize, url: &Arc<str>, message: String) {
        self.status(slot, |status| {
            (status.state, status.error) = (TrackerState::Failed, Some(message.clone()));
        });
        (self.facts)(TrackerFact::Failed { url: url.clone(), message });
    }
}

/// The trackers as they are first shown, and those that can be asked, by thread.
fn list_trackers(tiers: &[Vec<String>]) -> (Vec<TrackerStatus>, Vec<Vec<(usize, Host)>>) {
    let mut statuses = Vec::<TrackerStatus>::new();
    let mut threads = Vec::<Vec<(usize, Host)>>::new();
    for (number, tier) in tiers.iter().enumerate() {
        let mut hosts = Vec::new();
        for url in tier {
            if statuses.len() == MAX_TRACKERS || statuses.iter().any(|status| *status.url == **url) {
                continue;
            }
            let url: Arc<str> = url.as_str().into();
            let (state, error) = match Host::parse(url.clone()) {
                Ok(host) => {
                    hosts.push((statuses.len(), host));
                    (TrackerState::Untried, None)
                }
                Err(error) => (TrackerState::Unsupported, Some(error.to_string())),
            };
            statuses.push(TrackerStatus {
                url,
                tier: number,
                state,
                error,
                warning: None,
                next_announce: None,
                seeders: None,
                leechers: None,
                scrape: None,
                peers: 0,
            });
        }
        let full = threads.len() == MAX_TIERS;
        match threads.last_mut().filter(|_| full) {
            Some(last) => last.extend(hosts),
            None if hosts.is_empty() => {}
            None => threads.push(hosts),
        }
    }
    (statuses, threads)
}
