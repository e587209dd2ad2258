//! Who takes part, kept in this process: swarms in shards, each behind one lock, all of it bounded.
//!
//! It owns the policy on what is kept. What is full stays as it is until somebody leaves or expires: a newcomer is answered as
//! others are, but nobody is told of it. It refuses clocks and randomness: `now` and the seed are given.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use self::file::StateFile;
use self::keyed::Keyed;
use self::shard::{Outcome, Shard};
use self::swarm::Setting;
use super::config::MemoryConfig;
use super::store::{Announce, Counts, Reply, Store, SwarmHealth, Totals, Unavailable};
use crate::metainfo::InfoHash;

mod file;
mod health;
mod keyed;
mod roster;
mod shard;
mod state;
mod swarm;
#[cfg(test)]
mod tests;

/// So many that a few threads seldom wait for each other.
const SHARDS: usize = 64;

/// The longest expiry time: ticks of peers are kept in 16 bits.
const MAX_EXPIRY: Duration = Duration::from_secs(12 * 3600);

/// The tick at which a store begins, so that what a saved state tells of earlier ones has a number.
const FIRST_TICK: u32 = 1 << 20;

/// Swarms that are looked at, and peers that are removed, before the lock of their shard is given to whoever waits for it.
const TIDIED_AT_ONCE: usize = 64;
const REMOVED_AT_ONCE: usize = 4096;

/// Swarms in memory.
#[derive(Debug)]
pub(super) struct Memory {
    config: MemoryConfig,
    /// Where its content is kept.
    file: Option<StateFile>,
    keyed: Keyed,
    start: Instant,
    /// Each protects its swarms. One is taken at a time, by whoever announces, scrapes or tidies, and is not held while a
    /// caller is called back.
    shards: Vec<Mutex<Shard>>,
    /// How many there are in all shards. They may be too many by as many as there are threads.
    torrents: AtomicUsize,
    peers: AtomicUsize,
    no_room: AtomicU64,
}

impl Memory {
    /// An empty store. An expiry time of more than 12 h is taken for 12 h.
    pub(super) fn new(config: &MemoryConfig, seed: u64, now: Instant) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let keyed = Keyed::new(rng.u64(..));
        let expiry = config.expiry.min(MAX_EXPIRY).as_secs() as u16;
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard::new(keyed, rng.u64(..), expiry, FIRST_TICK))).collect();
        Self {
            config: config.clone(),
            file: None,
            keyed,
            start: now,
            shards,
            torrents: AtomicUsize::new(0),
            peers: AtomicUsize::new(0),
            no_room: AtomicU64::new(0),
        }
    }

    /// Seconds, with an offset.
    fn tick(&self, now: Instant) -> u32 {
        FIRST_TICK + now.saturating_duration_since(self.start).as_secs() as u32
    }

    fn shard(&self, info_hash: &InfoHash) -> &Mutex<Shard> {
        // Other bits than the tables use.
        &self.shards[(self.keyed.hash(info_hash.as_bytes()) >> 40) as usize % SHARDS]
    }

    fn setting(&self, tick: u32) -> Setting {
        let room = self.peers.load(Ordering::Relaxed) < self.config.peers;
        Setting { keyed: self.keyed, tick, most: self.config.peers_per_torrent, room }
    }

    fn count(&self, outcome: Outcome) {
        // Most announces change nothing.
        for (counter, change) in [(&self.torrents, outcome.torrents), (&self.peers, outcome.peers)] {
            if change != 0 {
                counter.fetch_add(change as usize, Ordering::Relaxed);
            }
        }
        if outcome.no_room {
            self.no_room.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Store for Memory {
    fn announce(
        &self,
        batch: &[Announce],
        now: Instant,
        scratch: &mut Reply,
        answer: &mut dyn FnMut(usize, Result<&Reply, &Unavailable>),
    ) {
        let tick = self.tick(now);
        for (number, announce) in batch.iter().enumerate() {
            clear(scratch);
            let setting = self.setting(tick);
            let room = self.torrents.load(Ordering::Relaxed) < self.config.torrents;
            let outcome = self.shard(&announce.info_hash).lock().announce(announce, &setting, room, scratch);
            self.count(outcome);
            answer(number, Ok(scratch));
        }
    }

    fn scrape(&self, info_hashes: &[InfoHash], _now: Instant) -> Result<Vec<Counts>, Unavailable> {
        let counts = |info_hash| self.shard(info_hash).lock().counts(info_hash).unwrap_or_default();
        Ok(info_hashes.iter().map(counts).collect())
    }

    fn all(&self, most: usize, _now: Instant) -> Result<Vec<(InfoHash, Counts)>, Unavailable> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            all.extend(shard.swarms().take(most - all.len()).map(|swarm| (swarm.info_hash, swarm.counts())));
        }
        Ok(all)
    }

    fn totals(&self, _now: Instant) -> Result<Totals, Unavailable> {
        let totals: Totals = self.shards.iter().map(|shard| shard.lock().totals()).sum();
        Ok(Totals { no_room: self.no_room.load(Ordering::Relaxed), ..totals })
    }

    fn health(&self, most: usize, now: Instant) -> Result<Vec<SwarmHealth>, Unavailable> {
        Ok(self.largest(most, self.tick(now)))
    }

    fn tidy(&self, now: Instant) {
        let tick = self.tick(now);
        for shard in &self.shards {
            loop {
                let (outcome, more) = shard.lock().expire(tick, TIDIED_AT_ONCE, REMOVED_AT_ONCE);
                self.count(outcome);
                if !more {
                    break;
                }
            }
        }
    }

    fn changes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().changes()).sum()
    }

    fn save(&self, now: Instant) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| self.save_to(file, now).map_err(io::Error::other))
    }
}

fn clear(reply: &mut Reply) {
    reply.counts = Counts::default();
    reply.v4.clear();
    reply.v6.clear();
    reply.ids.clear();
}
