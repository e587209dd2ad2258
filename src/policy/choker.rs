//! Whom to unchoke.
//!
//! It owns the rounds, the optimistic slots and whose turn it is. It refuses to know peers beyond what a [`Candidate`]
//! says, and to send anything: it answers with those that are to be unchoked, and the caller compares.
//!
//! | what | number |
//! |---|---|
//! | a round | every 10 s |
//! | leeching: who counts as reciprocating | sent a block in the last 30 s, and is not snubbing us |
//! | leeching: optimistic slots | a fifth of all, at least one (with two slots or more); free regular slots as well |
//! | leeching: an optimistic slot goes on to another | after 30 s |
//! | leeching: a new peer's chance at one | 3 times that of others, for its first 45 s |
//! | leeching: the chance of one that was good before | twice that of an unknown one, four times that of a poor one |
//! | seeding: a turn | 20 s to 60 s; over once 8 MiB went to the peer or it takes nothing |
//! | slots | [`SlotRule`] |

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::reputation::Standing;

/// The time between two rounds (BEP 3: slow enough that connections get up to speed).
const ROUND: Duration = Duration::from_secs(10);

/// Who sent nothing for this long does not reciprocate.
const RECIPROCATES_FOR: Duration = Duration::from_secs(30);

/// How long an optimistic unchoke lasts (BEP 3: long enough to download, upload and be noticed in return).
const OPTIMISTIC_FOR: Duration = Duration::from_secs(30);

/// How long a peer is new, and how much likelier it is to be unchoked optimistically (BEP 3: three times).
const NEW_FOR: Duration = Duration::from_secs(45);
const NEW_WEIGHT: u64 = 3;

/// How likely optimistic unchokes are by how a peer behaved before: favoured, but others find out who they are.
const GOOD_WEIGHT: u64 = 4;
const UNKNOWN_WEIGHT: u64 = 2;
const POOR_WEIGHT: u64 = 1;

/// One optimistic slot for this many slots.
const SLOTS_PER_OPTIMISTIC: usize = 5;

/// The bounds of a turn while seeding. Shorter ones would end before the connection is up to speed; longer ones would
/// let others wait for slow peers.
const MIN_TURN: Duration = Duration::from_secs(20);
const MAX_TURN: Duration = Duration::from_secs(60);
const TURN_QUOTA: u64 = 8 * 1024 * 1024;

/// What the choker needs to know of one peer.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Names the peer; not used again for another one.
    pub id: u32,
    /// Whether it wants anything from us. Who does not is never unchoked.
    pub interested: bool,
    /// Bytes a second that it gives us.
    pub rate_down: u64,
    /// Bytes a second that we give it.
    pub rate_up: u64,
    /// When its last block arrived.
    pub last_block_from: Option<Instant>,
    /// Since when it is unchoked; `None` while it is choked.
    pub unchoked_since: Option<Instant>,
    /// Bytes that we gave it since then.
    pub uploaded_since_unchoke: u64,
    /// Since when it is connected.
    pub connected: Instant,
    /// Whether it left our requests unanswered; such a peer can have optimistic slots only.
    pub snubbed: bool,
    /// Whether it said that it will download nothing (BEP 21); such a peer is never unchoked.
    pub upload_only: bool,
    /// How it behaved before, in any torrent: among equals the better goes first, and optimistic unchokes are likelier for
    /// good ones and less likely for poor ones. A cheat is never unchoked.
    pub standing: Standing,
}

/// What we do in this torrent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// We want pieces: those who give are given to.
    Leeching,
    /// We want nothing: everybody gets a turn.
    Seeding,
}

/// How optimistic unchokes were answered: what generosity brings in this swarm.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reciprocity {
    /// How many optimistic unchokes were given.
    pub given: u64,
    /// After how many of them the peer reciprocated while it had the slot.
    pub returned: u64,
}

/// Decides who is unchoked. See the module for the numbers.
#[derive(Debug)]
pub struct Choker {
    rng: fastrand::Rng,
    last_round: Option<Instant>,
    /// Who has an optimistic slot, and since when.
    optimistic: Vec<(u32, Instant)>,
    /// When a peer's last turn ended, for those that had one.
    served: HashMap<u32, Instant>,
    reciprocity: Reciprocity,
}

/// How many peers to unchoke at a time.
///
/// A fixed number, or one that grows with the upload capacity as the square root: at 0.6 x the rate in KiB/s under the
/// root (the original client's rule), a peer's share grows with the capacity too, and no slot gets so little that it is
/// useless. With a limit the rate is the limit and there are at least 4 slots. Without one it is the measured rate and
/// there are at least 8. There are never more than 200. Slots come at once and go one by one, round by round, so that a
/// dip in the measured rate does not choke half of the swarm.
#[derive(Clone, Debug)]
pub struct SlotRule {
    fixed: Option<usize>,
    current: usize,
}

impl Choker {
    /// A choker before its first round.
    pub fn new(rng: fastrand::Rng) -> Self {
        Self {
            rng,
            last_round: None,
            optimistic: Vec::new(),
            served: HashMap::new(),
            reciprocity: Reciprocity::default(),
        }
    }

    /// When the next round is due; `None` before the first one, which is due at once.
    pub fn next_round(&self) -> Option<Instant> {
        self.last_round.map(|last| last + ROUND)
    }

    /// A round: all that are to be unchoked from now on, at most `slots`. Everybody else is to be choked.
    pub fn round(&mut self, role: Role, candidates: &[Candidate], slots: usize, now: Instant) -> Vec<u32> {
        self.last_round = Some(now);
        let present: HashSet<u32> = candidates.iter().map(|candidate| candidate.id).collect();
        self.served.retain(|id, _| present.contains(id));
        let able: Vec<&Candidate> = candidates.iter().filter(|candidate| candidate.may_be_unchoked()).collect();
        match role {
            Role::Leeching => self.tit_for_tat(&able, slots, now),
            Role::Seeding => self.take_turns(candidates, able, slots, now),
        }
    }

    /// Between rounds: those who are to be unchoked right now because slots are free. Nobody is choked for them.
    pub fn fill(&mut self, role: Role, candidates: &[Candidate], slots: usize, now: Instant) -> Vec<u32> {
        let able = candidates.iter().filter(|candidate| candidate.may_be_unchoked());
        let (unchoked, mut choked): (Vec<_>, Vec<_>) = able.partition(|candidate| candidate.unchoked_since.is_some());
        let free = slots.saturating_sub(unchoked.len());
        if role == Role::Seeding {
            choked.sort_by_key(|candidate| (self.waiting_since(candidate), candidate.standing));
            return choked.into_iter().take(free).map(|candidate| candidate.id).collect();
        }
        let mut ids = best_reciprocators(&choked, free, now);
        choked.retain(|candidate| !ids.contains(&candidate.id));
        ids.extend(self.draw_optimistic(choked, free - ids.len(), now));
        ids
    }

    /// How optimistic unchokes were answered so far.
    pub fn reciprocity(&self) -> Reciprocity {
        self.reciprocity
    }

    /// Leeching: those who give most, and a few at random to find out who else would.
    fn tit_for_tat(&mut self, able: &[&Candidate], slots: usize, now: Instant) -> Vec<u32> {
        let reserved = if slots < 2 { 0 } else { (slots / SLOTS_PER_OPTIMISTIC).max(1) };
        let mut unchoked = best_reciprocators(able, slots - reserved, now);
        // Whoever left, lost interest or earned a regular slot frees an optimistic one, and so does time. Those whose
        // time is over stay only where nobody else wants the slot.
        let (mut kept, mut expired) = (Vec::new(), Vec::new());
        for (id, since) in std::mem::take(&mut self.optimistic) {
            let Some(candidate) = able.iter().find(|candidate| candidate.id == id) else { continue };
            let over = now.saturating_duration_since(since) >= OPTIMISTIC_FOR;
            let returned = candidate.last_block_from.is_some_and(|last| last > since);
            let regular = unchoked.contains(&id);
            self.reciprocity.returned += u64::from(returned && (over || regular));
            match (regular, over) {
                (true, _) => {}
                (false, true) => expired.push(id),
                (false, false) => kept.push((id, since)),
            }
        }
        let free = slots - unchoked.len();
        kept.truncate(free);
        unchoked.extend(kept.iter().map(|(id, _)| *id));
        self.optimistic = kept;
        let others = able.iter().filter(|candidate| !unchoked.contains(&candidate.id)).copied();
        let (others, again): (Vec<_>, Vec<_>) = others.partition(|candidate| !expired.contains(&candidate.id));
        for group in [others, again] {
            let drawn = self.draw_optimistic(group, slots - unchoked.len(), now);
            unchoked.extend(drawn);
        }
        unchoked
    }

    /// Gives up to `count` optimistic slots to some of `able`, new ones likelier than others.
    fn draw_optimistic(&mut self, mut able: Vec<&Candidate>, count: usize, now: Instant) -> Vec<u32> {
        let weight = |candidate: &Candidate| {
            let new = now.saturating_duration_since(candidate.connected) < NEW_FOR;
            let history = match candidate.standing {
                Standing::Good => GOOD_WEIGHT,
                Standing::Unknown => UNKNOWN_WEIGHT,
                Standing::Poor | Standing::Cheat => POOR_WEIGHT,
            };
            history * if new { NEW_WEIGHT } else { 1 }
        };
        let mut drawn = Vec::new();
        while drawn.len() < count && !able.is_empty() {
            let mut ticket = self.rng.u64(0..able.iter().map(|candidate| weight(candidate)).sum());
            let holder = able.iter().position(|candidate| {
                let lies_here = ticket < weight(candidate);
                ticket = ticket.saturating_sub(weight(candidate));
                lies_here
            });
            let candidate = able.swap_remove(holder.expect("the ticket is below the sum of the weights"));
            self.optimistic.retain(|(id, _)| *id != candidate.id);
            self.optimistic.push((candidate.id, now));
            self.reciprocity.given += 1;
            drawn.push(candidate.id);
        }
        drawn
    }

    /// Seeding: those in the middle of their turn, then those who waited longest, then the fastest of the rest.
    fn take_turns(&mut self, all: &[Candidate], able: Vec<&Candidate>, slots: usize, now: Instant) -> Vec<u32> {
        self.optimistic.clear();
        let (mut going_on, rest): (Vec<_>, Vec<_>) = able.into_iter().partition(|candidate| candidate.has_turn(now));
        let (mut over, mut waiting): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|candidate| candidate.unchoked_since.is_some());
        going_on.sort_by_key(|candidate| (Reverse(candidate.rate_up), candidate.standing, candidate.id));
        waiting.sort_by_key(|candidate| (self.waiting_since(candidate), candidate.standing, candidate.id));
        over.sort_by_key(|candidate| (Reverse(candidate.rate_up), candidate.standing, candidate.id));
        let order = going_on.into_iter().chain(waiting).chain(over);
        let unchoked: Vec<u32> = order.take(slots).map(|candidate| candidate.id).collect();
        for candidate in all.iter().filter(|candidate| candidate.unchoked_since.is_some()) {
            if !unchoked.contains(&candidate.id) {
                self.served.insert(candidate.id, now);
            }
        }
        unchoked
    }

    fn waiting_since(&self, candidate: &Candidate) -> Instant {
        self.served.get(&candidate.id).copied().unwrap_or(candidate.connected)
    }
}

impl Candidate {
    fn may_be_unchoked(&self) -> bool {
        self.interested && !self.upload_only && self.standing != Standing::Cheat
    }

    fn reciprocates(&self, now: Instant) -> bool {
        let recent = |last| now.saturating_duration_since(last) <= RECIPROCATES_FOR;
        self.rate_down > 0 && !self.snubbed && self.last_block_from.is_some_and(recent)
    }

    /// Whether it is unchoked and its turn (while seeding) goes on.
    fn has_turn(&self, now: Instant) -> bool {
        self.unchoked_since.is_some_and(|since| {
            let time = now.saturating_duration_since(since);
            let done = self.uploaded_since_unchoke >= TURN_QUOTA || self.rate_up == 0;
            time < MIN_TURN || (time < MAX_TURN && !done)
        })
    }
}

impl SlotRule {
    /// Always `slots`.
    pub fn fixed(slots: usize) -> Self {
        Self { fixed: Some(slots), current: slots }
    }

    /// As many as the capacity is good for.
    pub fn growing() -> Self {
        Self { fixed: None, current: 0 }
    }

    /// The slots for the next round, given the upload limit and the measured upload rate in bytes a second. Call it
    /// once a round.
    pub fn update(&mut self, limit: Option<u64>, measured: u64) -> usize {
        self.current = self.fixed.unwrap_or(wanted(limit, measured).max(self.current.saturating_sub(1)));
        self.current
    }

    /// Between rounds: whether a rate that has risen since is good for more slots, which are there from now on. So those
    /// who wait at a fast link wait for a second or two, not for a round.
    pub fn grow(&mut self, limit: Option<u64>, measured: u64) -> bool {
        let before = self.current;
        self.current = self.fixed.unwrap_or(wanted(limit, measured).max(before));
        self.current > before
    }

    /// The slots that the last update or growth gave.
    pub fn slots(&self) -> usize {
        self.current
    }
}

/// The slots that a rate is good for.
fn wanted(limit: Option<u64>, measured: u64) -> usize {
    let (rate, least) = limit.map_or((measured, 8), |limit| (limit, 4));
    ((rate as f64 / 1024.0 * 0.6).sqrt() as usize).clamp(least, 200)
}

/// Up to `count` of those who gave us something lately: the fastest first; of equally fast ones that which got less.
fn best_reciprocators(able: &[&Candidate], count: usize, now: Instant) -> Vec<u32> {
    let mut giving: Vec<_> = able.iter().filter(|candidate| candidate.reciprocates(now)).collect();
    giving.sort_by_key(|candidate| (Reverse(candidate.rate_down), candidate.standing, candidate.rate_up, candidate.id));
    giving.into_iter().take(count).map(|candidate| candidate.id).collect()
}

#[cfg(test)]
mod tests;
