//! A part of all swarms, which is behind one lock: found by info-hash, and by when somebody in them may have gone.
//!
//! The latter is a wheel of lists of swarms. A swarm is in the list of the time at which the peer that announced longest ago
//! expires, unless it announces again; then the swarm is looked at and put into another list. So each swarm is looked at
//! about once in an expiry time, and none is while nobody can have gone.

use hashbrown::HashTable;

use super::keyed::Keyed;
use super::swarm::{Noted, Setting, Swarm};
use crate::metainfo::InfoHash;
use crate::tracker::store::{Announce, Counts, Reply, Totals};
use crate::wire::tracker::Event;

/// Lists in the wheel. A peer is kept at most so much longer than the expiry time as this divides it.
const SPOKES: u32 = 128;

/// No swarm.
const NONE: u32 = u32::MAX;

/// Some of the swarms.
#[derive(Debug)]
pub(super) struct Shard {
    keyed: Keyed,
    rng: fastrand::Rng,
    expiry: u16,
    /// By info-hash.
    table: HashTable<u32>,
    slots: Vec<Slot>,
    /// The first of the slots that are free.
    free: u32,
    wheel: Wheel,
    seeders: u64,
    leechers: u64,
    changes: u64,
}

/// A place for a swarm.
#[derive(Debug)]
struct Slot {
    /// `None` in a slot that is free: `next` is the next one then.
    swarm: Option<Swarm>,
    next: u32,
    previous: u32,
    /// In which list of the wheel.
    spoke: u32,
}

/// Lists of swarms by time.
#[derive(Debug)]
struct Wheel {
    /// Ticks from list to list.
    grain: u32,
    /// The first in each list.
    heads: Vec<u32>,
    /// The number of the list that is looked at next, counted on without end.
    next: u32,
}

/// What came of an announce.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    pub(super) no_room: bool,
    /// By how much the numbers of torrents and peers have changed.
    pub(super) torrents: isize,
    pub(super) peers: isize,
}

impl Shard {
    /// `expiry` and `tick` in seconds.
    pub(super) fn new(keyed: Keyed, seed: u64, expiry: u16, tick: u32) -> Self {
        // One list more for a rounding, and one that is looked at while others are filled.
        let grain = u32::from(expiry) / (SPOKES - 2) + 1;
        Self {
            keyed,
            rng: fastrand::Rng::with_seed(seed),
            expiry,
            table: HashTable::new(),
            slots: Vec::new(),
            free: NONE,
            wheel: Wheel { grain, heads: vec![NONE; SPOKES as usize], next: tick / grain },
            seeders: 0,
            leechers: 0,
            changes: 0,
        }
    }

    /// Takes note of an announce, and puts the reply together. `room` is whether there may be another torrent.
    pub(super) fn announce(
        &mut self,
        announce: &Announce,
        setting: &Setting,
        room: bool,
        reply: &mut Reply,
    ) -> Outcome {
        self.changes += 1;
        let found = self.find(&announce.info_hash);
        let at = match found {
            Some(at) => at,
            None if announce.event == Some(Event::Stopped) => return Outcome::default(),
            None if !(room && setting.room) => return Outcome { no_room: true, ..Outcome::default() },
            None => self.insert(Swarm::new(announce.info_hash), setting.tick + u32::from(self.expiry)),
        };
        let swarm = self.slots[at as usize].swarm.as_mut().expect("a slot that is listed has a swarm");
        let before = swarm.counts();
        let noted = swarm.announce(announce, setting, &mut self.rng, reply);
        let after = swarm.counts();
        let mut torrents = isize::from(found.is_none());
        if swarm.is_empty() {
            self.remove(at);
            torrents -= 1;
        }
        Outcome { no_room: noted == Noted::NoRoom, torrents, peers: self.count(before, after) }
    }

    pub(super) fn counts(&self, info_hash: &InfoHash) -> Option<Counts> {
        self.find(info_hash).map(|at| self.swarm(at).counts())
    }

    pub(super) fn get(&self, info_hash: &InfoHash) -> Option<&Swarm> {
        self.find(info_hash).map(|at| self.swarm(at))
    }

    pub(super) fn totals(&self) -> Totals {
        Totals { torrents: self.table.len() as u64, seeders: self.seeders, leechers: self.leechers, no_room: 0 }
    }

    /// How often it was announced to and somebody expired.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether it has this swarm.
    pub(super) fn has(&self, info_hash: &InfoHash) -> bool {
        self.find(info_hash).is_some()
    }

    pub(super) fn swarms(&self) -> impl Iterator<Item = &Swarm> {
        self.slots.iter().filter_map(|slot| slot.swarm.as_ref())
    }

    /// Adds a swarm as it was in another store, which this one does not have, the oldest peer of which announced `age` ticks
    /// ago.
    pub(super) fn restore(&mut self, swarm: Swarm, age: u16, tick: u32) {
        let counts = swarm.counts();
        self.insert(swarm, tick + u32::from(self.expiry - age.min(self.expiry)));
        self.count(Counts::default(), counts);
    }

    /// Looks at no more than `most` swarms in which somebody may have expired, and removes no more than `room` peers. What has
    /// changed, and whether there is more to look at.
    pub(super) fn expire(&mut self, tick: u32, most: usize, mut room: usize) -> (Outcome, bool) {
        let mut outcome = Outcome::default();
        for _ in 0..most {
            let Some(at) = self.wheel.due(tick) else { return (outcome, false) };
            let swarm = self.slots[at as usize].swarm.as_mut().expect("a slot that is listed has a swarm");
            let before = swarm.counts();
            let oldest = swarm.expire(tick, self.expiry, &mut room, self.keyed);
            let after = swarm.counts();
            let peers = self.count(before, after);
            self.changes += u64::from(peers != 0);
            outcome.peers += peers;
            match oldest {
                // The swarm stays in the list, and is the next that is looked at.
                Some(age) if age > self.expiry => break,
                Some(age) => {
                    self.unlink(at);
                    self.link(at, tick + u32::from(self.expiry - age));
                }
                None => {
                    self.remove(at);
                    outcome.torrents -= 1;
                }
            }
        }
        (outcome, true)
    }

    fn count(&mut self, before: Counts, after: Counts) -> isize {
        self.seeders = self.seeders + u64::from(after.seeders) - u64::from(before.seeders);
        self.leechers = self.leechers + u64::from(after.leechers) - u64::from(before.leechers);
        let peers = |counts: Counts| counts.seeders as isize + counts.leechers as isize;
        peers(after) - peers(before)
    }

    fn find(&self, info_hash: &InfoHash) -> Option<u32> {
        let hash = self.keyed.hash(info_hash.as_bytes());
        self.table.find(hash, |&at| self.swarm(at).info_hash == *info_hash).copied()
    }

    fn swarm(&self, at: u32) -> &Swarm {
        self.slots[at as usize].swarm.as_ref().expect("a slot that is listed has a swarm")
    }

    /// Adds a swarm in which nobody expires until after `last`.
    fn insert(&mut self, swarm: Swarm, last: u32) -> u32 {
        let hash = self.keyed.hash(swarm.info_hash.as_bytes());
        let slot = Slot { swarm: Some(swarm), next: NONE, previous: NONE, spoke: 0 };
        let at = match self.slots.get_mut(self.free as usize) {
            Some(free) => {
                let at = self.free;
                self.free = free.next;
                *free = slot;
                at
            }
            None => {
                if self.slots.len() == self.slots.capacity() {
                    self.slots.reserve_exact(self.slots.len() / 8 + 8);
                }
                self.slots.push(slot);
                self.slots.len() as u32 - 1
            }
        };
        let Self { table, slots, keyed, .. } = self;
        table.insert_unique(hash, at, |&at| {
            let swarm = slots[at as usize].swarm.as_ref().expect("a slot that is listed has a swarm");
            keyed.hash(swarm.info_hash.as_bytes())
        });
        self.link(at, last);
        at
    }

    fn remove(&mut self, at: u32) {
        let hash = self.keyed.hash(self.swarm(at).info_hash.as_bytes());
        if let Ok(listed) = self.table.find_entry(hash, |&listed| listed == at) {
            listed.remove();
        }
        self.unlink(at);
        let slot = &mut self.slots[at as usize];
        (slot.swarm, slot.next) = (None, self.free);
        self.free = at;
        if self.table.is_empty() {
            // Whoever fills a tracker for once should not have it stay large for ever.
            (self.table, self.slots, self.free) = (HashTable::new(), Vec::new(), NONE);
        }
    }

    /// Puts a swarm into the list that is looked at after the tick `last`.
    fn link(&mut self, at: u32, last: u32) {
        let spoke = self.wheel.spoke(last);
        let head = std::mem::replace(&mut self.wheel.heads[spoke as usize], at);
        if let Some(next) = self.slots.get_mut(head as usize) {
            next.previous = at;
        }
        let slot = &mut self.slots[at as usize];
        (slot.next, slot.previous, slot.spoke) = (head, NONE, spoke);
    }

    fn unlink(&mut self, at: u32) {
        let Slot { next, previous, spoke, .. } = self.slots[at as usize];
        match self.slots.get_mut(previous as usize) {
            Some(slot) => slot.next = next,
            None => self.wheel.heads[spoke as usize] = next,
        }
        if let Some(slot) = self.slots.get_mut(next as usize) {
            slot.previous = previous;
        }
    }
}

impl Wheel {
    /// The list for what expires after the tick `last`: the first that is looked at later. Never the one that is being looked
    /// at, and for what is further than once around, which is when nobody has looked for long, an earlier one.
    fn spoke(&self, last: u32) -> u32 {
        (last / self.grain + 1).clamp(self.next + 1, self.next + SPOKES - 1) % SPOKES
    }

    /// A swarm of a list whose time has come. It is to be taken out of it.
    fn due(&mut self, tick: u32) -> Option<u32> {
        // Once around at most, after a long time without a look.
        self.next = self.next.max((tick / self.grain).saturating_sub(SPOKES - 1));
        while self.next <= tick / self.grain {
            match self.heads[(self.next % SPOKES) as usize] {
                NONE => self.next += 1,
                at => return Some(at),
            }
        }
        None
    }
}
