//! Swarms in Redis, for several trackers to share: whichever of them a peer announces to, they have one swarm, and more
//! servers than one where that is a Redis Cluster.
//!
//! An announce is one script, which Redis carries out as a whole ([`command`]); the announces of a batch are one pipeline for
//! each server, together with those of other threads ([`lane`]). It is answered once Redis has answered: what a client was
//! told is there, whatever becomes of this process. What of it outlives Redis is up to how that is run (`appendonly`).
//!
//! A swarm is three keys, in one slot of a cluster: a hash of its peers and, for each family of addresses, a string of these
//! that is copied into replies by the piece, from a random place on. The scripts themselves say more. Every key expires when
//! nobody announces. In a swarm that goes on, silent peers are struck off as others announce, 250 of a family at a time and at
//! most once a second: within a sixteenth of the time that peers are given where announces come that often and there are no
//! more than 40,000 peers. While most of those who are looked at have gone, as when a crowd leaves, it is 1000 at a time. With
//! their swarm go its downloads.
//!
//! Which swarms there are is kept in an index of 16 parts, of at most 65,536 swarms each, which is told of a swarm when it
//! comes or ends and each time that it is swept. So [`all`](Store::all), [`totals`](Store::totals) and the choice of the
//! largest swarms can be behind by a sixteenth of the time that peers are given, and on a cluster they are of as many moments
//! as it has servers. Swarms beyond that bound are served and not in these.
//!
//! While a slot of a cluster moves from one server to another, Redis refuses announces to swarms in it.
//!
//! While Redis does not answer, peers come from [`recent`] replies, with the word to announce again soon, for nothing is noted
//! then; where there are none of these, and for events that are to be counted, the store is unavailable.
//!
//! Redis has to be 6.2 or newer, or Valkey, and should not be told to evict keys (`maxmemory-policy noeviction`): when it is
//! full it says so, and so does the tracker. Connections are made by the crate `redis`, not by `net`.
//!
//! | thread | owns | waits on |
//! |---|---|---|
//! | `redis-PORT-N` | one connection | parcels of commands, or the server's answers |
//! | `redis-map` | nothing that lasts | a word that the map of a cluster may have changed |

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::Value;

use self::command::{INDEX_PARTS, Scripts};
pub use self::config::{RedisConfig, RedisPlace, RedisPlaceError};
use self::lane::{Silence, Terms};
use self::nodes::{Nodes, Trouble};
use self::recent::Recent;
use super::store::{Announce, Counts, Reply, Store, SwarmHealth, Totals, Unavailable};
use crate::metainfo::InfoHash;

mod command;
mod config;
mod lane;
mod nodes;
mod recent;
#[cfg(test)]
mod tests;

/// Swarms that the index is to hear of at the next tidying; of more it hears when they are swept again.
const DUE: usize = 50_000;

/// Swarms that one command on the index is about, so that it does not keep Redis from announces.
const INDEX_CHUNK: usize = 200;

/// The same for commands that only read.
const READ_CHUNK: usize = 1000;

/// Between two complaints in the log about what Redis refuses.
const COMPLAIN_EVERY: Duration = Duration::from_secs(30);

/// A store in Redis. Dropping it ends its threads.
pub(super) struct RedisStore {
    /// Its servers as they were named, without passwords.
    place: String,
    terms: Arc<Terms>,
    nodes: Nodes,
    recent: Recent,
    /// What the index is to hear; added to by the servers' threads, taken by the one that tidies.
    due: Mutex<HashMap<InfoHash, Counts>>,
    /// Peers that were not kept, as far as this tracker was asked; a counter and nothing else.
    no_room: AtomicU64,
    /// When something that Redis refused was last said; taken for that alone.
    complained: Mutex<Option<Instant>>,
}

impl RedisStore {
    /// Does not wait for a connection: until there is one, the store is unavailable.
    pub(super) fn start(config: &RedisConfig) -> io::Result<Self> {
        let scripts = Scripts::new(config.expiry, config.peers_per_torrent);
        let cluster = AtomicBool::new(config.place.cluster);
        let timeout = config.timeout.max(Duration::from_millis(1));
        let terms = Arc::new(Terms { scripts, timeout, cluster, cause: Mutex::default() });
        Ok(Self {
            place: config.place.to_string(),
            nodes: Nodes::start(config, terms.clone())?,
            terms,
            recent: Recent::new(config.recent, config.recent_for),
            due: Mutex::default(),
            no_room: AtomicU64::new(0),
            complained: Mutex::default(),
        })
    }

    /// Tells the index what it has not heard yet, and asks for the sums of parts of it.
    fn tell_index(&self, all_parts: bool) -> Result<Totals, Unavailable> {
        let due = std::mem::take(&mut *self.due.lock());
        let mut parts: BTreeMap<u8, Vec<_>> = BTreeMap::new();
        if all_parts {
            parts.extend((0..INDEX_PARTS).map(|part| (part, Vec::new())));
        }
        for (info_hash, counts) in due {
            parts.entry(command::index_part(&info_hash)).or_default().push((info_hash, counts));
        }
        // Those of one part after one another: the last answer counts.
        let commands: Vec<(u8, &[_])> = parts
            .iter()
            .flat_map(|(part, swarms)| {
                let chunks = swarms.chunks(INDEX_CHUNK).chain(swarms.is_empty().then_some(&[][..]));
                chunks.map(|chunk| (*part, chunk))
            })
            .collect();
        let answers = self.nodes.ask(
            commands.len(),
            |n| command::index_slot(commands[n].0),
            |n, out| self.terms.scripts.index(commands[n].0, commands[n].1, out),
        );
        let mut sums = BTreeMap::new();
        for ((part, _), answer) in commands.iter().zip(answers) {
            sums.insert(*part, self.read(answer, command::read_totals)?);
        }
        Ok(sums.into_values().sum())
    }

    /// The largest swarms of a part of the index, with the sizes that it has.
    fn largest_of(&self, part: u8, most: usize) -> Result<Vec<(InfoHash, Counts)>, Unavailable> {
        let slot = |_| command::index_slot(part);
        let mut found = Vec::new();
        let mut known = HashSet::new();
        let mut first = 0;
        while first < most {
            let count = READ_CHUNK.min(most - first);
            let mut answers = self.nodes.ask(1, slot, |_, out| command::largest(part, first, count, out));
            let mut hashes = self.read(answers.remove(0), command::read_largest)?;
            let last = hashes.len() < count;
            first += count;
            // A swarm that has shrunk meanwhile comes twice.
            hashes.retain(|info_hash| known.insert(*info_hash));
            if !hashes.is_empty() {
                let mut answers = self.nodes.ask(1, slot, |_, out| command::indexed(part, &hashes, out));
                let counts = self.read(answers.remove(0), command::read_indexed)?;
                found.extend(
                    hashes.into_iter().zip(counts).filter_map(|(info_hash, counts)| Some((info_hash, counts?))),
                );
            }
            if last {
                break;
            }
        }
        Ok(found)
    }

    fn read<T>(
        &self,
        answer: Result<Value, Trouble>,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<T, Unavailable> {
        let value = answer.map_err(|trouble| self.unavailable(&trouble))?;
        read(&value).ok_or_else(|| {
            self.complain(format_args!("an answer of another kind than expected"));
            unavailable("the tracker's store answers nonsense", self.place.clone())
        })
    }

    /// What clients are told, who shall not learn where the store is, and what its cause is.
    fn unavailable(&self, trouble: &Trouble) -> Unavailable {
        let error = match trouble {
            Trouble::Silence(Silence::Unreachable) => {
                let cause = self.terms.cause.lock().clone().unwrap_or_else(|| self.place.clone());
                return unavailable("the tracker does not reach its store", cause);
            }
            Trouble::Silence(Silence::Late) => {
                return unavailable("the tracker's store does not answer in time", self.place.clone());
            }
            Trouble::Refused(error) => error,
        };
        let said = format!("{} {}", error.code(), error.details().unwrap_or_default());
        let why = match error.code() {
            "LOADING" => "the tracker's store is starting",
            "CLUSTERDOWN" | "MASTERDOWN" | "READONLY" | "MOVED" | "ASK" | "TRYAGAIN" => "the tracker's store is moving",
            code => {
                self.complain(format_args!("{said}"));
                if code == "OOM" { "the tracker's store is full" } else { "the tracker's store refuses" }
            }
        };
        unavailable(why, format!("{}: {}", self.place, said.trim_end()))
    }

    fn complain(&self, what: std::fmt::Arguments<'_>) {
        let now = Instant::now();
        let mut complained = self.complained.lock();
        if complained.is_none_or(|at| now.saturating_duration_since(at) >= COMPLAIN_EVERY) {
            *complained = Some(now);
            drop(complained);
            log::warn!("redis: {what}");
        }
    }
}

impl Store for RedisStore {
    fn announce(
        &self,
        batch: &[Announce],
        now: Instant,
        scratch: &mut Reply,
        answer: &mut dyn FnMut(usize, Result<&Reply, &Unavailable>),
    ) {
        let answers = self.nodes.ask(
            batch.len(),
            |n| command::swarm_slot(&batch[n].info_hash),
            |n, out| self.terms.scripts.announce(&batch[n], fastrand::u32(..), out),
        );
        for (n, (announce, result)) in batch.iter().zip(answers).enumerate() {
            match self.read(result, |value| command::read_reply(value, scratch)) {
                Ok(flags) => {
                    if flags.no_room {
                        self.no_room.fetch_add(1, Ordering::Relaxed);
                    }
                    if flags.index_due {
                        let mut due = self.due.lock();
                        if due.len() < DUE {
                            due.insert(announce.info_hash, scratch.counts);
                        }
                    }
                    self.recent.note(announce, scratch, now);
                    answer(n, Ok(scratch));
                }
                Err(unavailable) if self.recent.recall(announce, now, scratch) => {
                    scratch.again = Some(unavailable.retry);
                    answer(n, Ok(scratch));
                }
                Err(unavailable) => answer(n, Err(&unavailable)),
            }
        }
    }

    fn scrape(&self, info_hashes: &[InfoHash], _now: Instant) -> Result<Vec<Counts>, Unavailable> {
        let answers = self.nodes.ask(
            info_hashes.len(),
            |n| command::swarm_slot(&info_hashes[n]),
            |n, out| command::scrape(&info_hashes[n], out),
        );
        answers.into_iter().map(|answer| self.read(answer, command::read_scrape)).collect()
    }

    fn all(&self, most: usize, _now: Instant) -> Result<Vec<(InfoHash, Counts)>, Unavailable> {
        self.tell_index(false)?;
        let mut all = Vec::new();
        for part in 0..INDEX_PARTS {
            all.extend(self.largest_of(part, most)?);
        }
        all.sort_by_key(|(_, counts)| std::cmp::Reverse(u64::from(counts.seeders) + u64::from(counts.leechers)));
        all.truncate(most);
        Ok(all)
    }

    fn totals(&self, _now: Instant) -> Result<Totals, Unavailable> {
        let totals = self.tell_index(true)?;
        Ok(Totals { no_room: self.no_room.load(Ordering::Relaxed), ..totals })
    }

    fn health(&self, most: usize, now: Instant) -> Result<Vec<SwarmHealth>, Unavailable> {
        let largest = self.all(most, now)?;
        let answers = self.nodes.ask(
            largest.len(),
            |n| command::swarm_slot(&largest[n].0),
            |n, out| self.terms.scripts.health(&largest[n].0, out),
        );
        let mut health = Vec::new();
        for ((info_hash, _), answer) in largest.iter().zip(answers) {
            let value = answer.map_err(|trouble| self.unavailable(&trouble))?;
            // One that has ended since is left out.
            health.extend(self.terms.scripts.read_health(*info_hash, &value));
        }
        Ok(health)
    }

    fn tidy(&self, _now: Instant) {
        if self.due.lock().is_empty() {
            return;
        }
        if let Err(error) = self.tell_index(false) {
            log::debug!("redis: the index has not heard of some swarms: {error}");
        }
    }
}

/// With a time to ask again that is not the same for all.
fn unavailable(why: &str, cause: String) -> Unavailable {
    Unavailable { why: why.to_owned(), cause: Some(cause), retry: Duration::from_secs(fastrand::u64(30..=90)) }
}
