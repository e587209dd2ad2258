//! What is remembered of peers: who gave, who lied, who broke the protocol, who stalled.
//!
//! It owns one record for an address (with the port on this machine's own addresses alone), across torrents, and its form
//! in a file, across runs. It is bounded, and forgets over time: good deeds by half in a week, bad ones in a day. It refuses
//! clocks and files. Times are of the system's clock, for they have to mean the same in the next run.

mod saved;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::addresses::person;
pub use saved::NotRecords;

/// In this time bad deeds count half.
const FORGIVEN_BY_HALF: Duration = Duration::from_secs(24 * 60 * 60);
/// In this time good deeds count half.
const FORGOTTEN_BY_HALF: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// From so many proven lies on a peer is a cheat: one is enough for a day, two for two days, four for three.
const CHEAT: f32 = 0.5;
/// Whoever gave less is no better known than others.
const GOOD: u64 = 1 << 20;
/// So many useful bytes make up for one stall, four times as many for a fault.
const MAKES_UP: f32 = (4 << 20) as f32;
const FAULT_WEIGHT: f32 = 4.0;
/// So many stalls, or what weighs as much, make a peer a poor one, where nothing makes up for them.
const POOR: f32 = 2.0;
/// A bad deed counts no more than so often.
const MOST: f32 = 1000.0;
/// What is below this is forgotten.
const LEAST_BYTES: u64 = 16 << 10;
const LEAST: f32 = 0.05;
/// When there are too many, so much of them goes at once: one in sixteen.
const SWEEP: usize = 16;

/// How a peer has behaved, the best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Standing {
    /// It gave a lot, and little was wrong.
    Good,
    /// Nothing much is known.
    #[default]
    Unknown,
    /// It stalled or broke the protocol more than it gave.
    Poor,
    /// It sent wrong bytes, as was proven. It is neither dialled nor taken in.
    Cheat,
}

/// What is remembered of one peer. Numbers of deeds are not whole: they fade.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct Record {
    /// Payload that came from it and was not wasted, in bytes.
    pub useful: u64,
    /// Pieces that it spoiled, as was proven.
    pub lies: f32,
    /// How often it broke the protocol.
    pub faults: f32,
    /// How often it left our requests unanswered.
    pub stalls: f32,
    /// When anything was last noted of it, in seconds since 1970.
    pub last_seen: u64,
}

/// Something to remember.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deed {
    /// It gave so many bytes that were of use.
    Useful(u64),
    /// It sent wrong bytes, as was proven.
    Lie,
    /// It broke the protocol.
    Fault,
    /// It left our requests unanswered.
    Stall,
}

/// The records of many peers.
#[derive(Clone, Debug)]
pub struct Reputation {
    records: HashMap<SocketAddr, Record>,
    max: usize,
}

impl Record {
    /// What the record amounts to.
    pub fn standing(&self) -> Standing {
        let trouble = self.faults * FAULT_WEIGHT + self.stalls;
        let credit = self.useful as f32 / MAKES_UP;
        match () {
            () if self.lies >= CHEAT => Standing::Cheat,
            () if trouble >= POOR && trouble > credit => Standing::Poor,
            () if self.useful >= GOOD && trouble <= credit => Standing::Good,
            () => Standing::Unknown,
        }
    }

    /// What is left of it now.
    fn faded(&self, now: u64) -> Self {
        let age = now.saturating_sub(self.last_seen) as f64;
        let left = |half: Duration| (-age / half.as_secs_f64()).exp2();
        let (good, bad) = (left(FORGOTTEN_BY_HALF), left(FORGIVEN_BY_HALF) as f32);
        Self {
            useful: (self.useful as f64 * good) as u64,
            lies: self.lies * bad,
            faults: self.faults * bad,
            stalls: self.stalls * bad,
            last_seen: self.last_seen,
        }
    }

    fn is_nothing(&self) -> bool {
        self.useful < LEAST_BYTES && self.lies < LEAST && self.faults < LEAST && self.stalls < LEAST
    }
}

impl Reputation {
    /// Nothing is known, and of no more than `max` peers anything ever will be.
    pub fn new(max: usize) -> Self {
        Self { records: HashMap::new(), max }
    }

    /// Remembers what the peer at an address did.
    pub fn note(&mut self, addr: SocketAddr, deed: Deed, now: SystemTime) {
        let now = seconds(now);
        let record = self.records.entry(person(addr)).or_default();
        *record = Record { last_seen: now, ..record.faded(now) };
        match deed {
            Deed::Useful(bytes) => record.useful = record.useful.saturating_add(bytes),
            Deed::Lie => record.lies = (record.lies + 1.0).min(MOST),
            Deed::Fault => record.faults = (record.faults + 1.0).min(MOST),
            Deed::Stall => record.stalls = (record.stalls + 1.0).min(MOST),
        }
        self.make_room(now);
    }

    /// What is remembered of the peer at an address.
    pub fn record(&self, addr: SocketAddr, now: SystemTime) -> Option<Record> {
        let record = self.records.get(&person(addr))?.faded(seconds(now));
        (!record.is_nothing()).then_some(record)
    }

    /// How the peer at an address has behaved.
    pub fn standing(&self, addr: SocketAddr, now: SystemTime) -> Standing {
        self.record(addr, now).map_or(Standing::Unknown, |record| record.standing())
    }

    /// Takes over what others know; of two records of the same peer the later one counts.
    pub fn merge(&mut self, other: Self, now: SystemTime) {
        for (addr, theirs) in other.records {
            let ours = self.records.entry(addr).or_insert(theirs);
            if theirs.last_seen > ours.last_seen {
                *ours = theirs;
            }
        }
        self.make_room(seconds(now));
    }

    /// Of how many peers something is remembered.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Where there are too many: forgets those that have faded, then those that matter least, the oldest first.
    fn make_room(&mut self, now: u64) {
        if self.records.len() <= self.max {
            return;
        }
        self.records.retain(|_, record| !record.faded(now).is_nothing());
        let keep = self.max - self.max / SWEEP;
        if self.records.len() <= keep {
            return;
        }
        let mut order: Vec<_> = self.records.iter().map(|(&addr, record)| (record.worth(now), addr)).collect();
        let (goes, ..) = order.select_nth_unstable(self.records.len() - keep);
        for (_, addr) in goes {
            self.records.remove(addr);
        }
    }
}

impl Record {
    /// What it is worth to remember it: cheats most, then good ones; of equals, the later.
    fn worth(&self, now: u64) -> (u8, u64) {
        let class = match self.faded(now).standing() {
            Standing::Cheat => 2,
            Standing::Good => 1,
            Standing::Unknown | Standing::Poor => 0,
        };
        (class, self.last_seen)
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
