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
//! | seeding: a turn | 20 s to 60 s; over once 8 MiB went to the peer or it takes nothing |
//! | slots | [`SlotRule`] |

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// The time between two rounds (BEP 3: slow enough that connections get up to speed).
const ROUND: Duration = Duration::from_secs(10);

/// Who sent nothing for this long does not reciprocate.
const RECIPROCATES_FOR: Duration = Duration::from_secs(30);

/// How long an optimistic unchoke lasts (BEP 3: long enough to download, upload and be noticed in return).
const OPTIMISTIC_FOR: Duration = Duration::from_secs(30);

/// How long a peer is new, and how much likelier it is to be unchoked optimistically (BEP 3: three times).
const NEW_FOR: Duration = Duration::from_secs(45);
const NEW_WEIGHT: u64 = 3;

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
/// there are at least 8. There are never more than 200. Slots come at once and go one by one, round by round, so that a dip in the
/// measured rate does not choke half of the swarm.
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
            choked.sort_by_key(|candidate| self.waiting_since(candidate));
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
            if now.saturating_duration_since(candidate.connected) < NEW_FOR { NEW_WEIGHT } else { 1 }
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
        going_on.sort_by_key(|candidate| (Reverse(candidate.rate_up), candidate.id));
        waiting.sort_by_key(|candidate| (self.waiting_since(candidate), candidate.id));
        over.sort_by_key(|candidate| (Reverse(candidate.rate_up), candidate.id));
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
        self.interested && !self.upload_only
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
    giving.sort_by_key(|candidate| (Reverse(candidate.rate_down), candidate.rate_up, candidate.id));
    giving.into_iter().take(count).map(|candidate| candidate.id).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::{Duration, Instant};

    use proptest::prelude::any;
    use proptest::{collection, prop_assert, proptest};

    use super::{Candidate, Choker, ROUND, Reciprocity, Role, SlotRule};

    /// A swarm around us on a fake clock.
    struct Swarm {
        choker: Choker,
        now: Instant,
        slots: usize,
        role: Role,
        peers: Vec<Candidate>,
        /// Bytes a second that a peer takes while it is unchoked.
        takes: Vec<u64>,
        uploaded: Vec<u64>,
        rounds_unchoked: Vec<u32>,
    }

    impl Swarm {
        fn new(role: Role, peers: u32, slots: usize) -> Self {
            // The clock starts an hour in, so that peers can be old.
            let now = Instant::now() + Duration::from_secs(3600);
            Self {
                choker: Choker::new(fastrand::Rng::with_seed(3)),
                now,
                slots,
                role,
                peers: (0..peers).map(|id| candidate(id, now - Duration::from_secs(600))).collect(),
                takes: vec![100_000; peers as usize],
                uploaded: vec![0; peers as usize],
                rounds_unchoked: vec![0; peers as usize],
            }
        }

        /// This peer gives us so much from now on.
        fn giver(&mut self, peer: usize, rate: u64) {
            self.peers[peer].rate_down = rate;
            self.peers[peer].last_block_from = Some(self.now);
        }

        fn round(&mut self) -> Vec<u32> {
            let ids = self.choker.round(self.role, &self.peers, self.slots, self.now);
            for peer in &mut self.peers {
                if !ids.contains(&peer.id) {
                    peer.unchoked_since = None;
                }
            }
            self.unchoke(&ids);
            ids.iter().for_each(|&id| self.rounds_unchoked[id as usize] += 1);
            self.wait(ROUND);
            ids
        }

        fn fill(&mut self) -> Vec<u32> {
            let ids = self.choker.fill(self.role, &self.peers, self.slots, self.now);
            self.unchoke(&ids);
            ids
        }

        fn unchoke(&mut self, ids: &[u32]) {
            for &id in ids {
                let peer = &mut self.peers[id as usize];
                if peer.unchoked_since.is_none() {
                    (peer.unchoked_since, peer.uploaded_since_unchoke) = (Some(self.now), 0);
                }
            }
        }

        fn wait(&mut self, time: Duration) {
            self.now += time;
            for (at, peer) in self.peers.iter_mut().enumerate() {
                peer.rate_up = if peer.unchoked_since.is_some() { self.takes[at] } else { 0 };
                peer.uploaded_since_unchoke += peer.rate_up * time.as_secs();
                self.uploaded[at] += peer.rate_up * time.as_secs();
                if peer.rate_down > 0 {
                    peer.last_block_from = Some(self.now);
                }
            }
        }
    }

    fn candidate(id: u32, connected: Instant) -> Candidate {
        Candidate {
            id,
            interested: true,
            rate_down: 0,
            rate_up: 0,
            last_block_from: None,
            unchoked_since: None,
            uploaded_since_unchoke: 0,
            connected,
            snubbed: false,
            upload_only: false,
        }
    }

    #[test]
    fn a_seed_serves_30_equal_peers_within_24_rounds_and_equally() {
        let mut swarm = Swarm::new(Role::Seeding, 30, 8);
        for _ in 0..24 {
            assert_eq!(swarm.round().len(), 8);
        }
        assert!(swarm.rounds_unchoked.iter().all(|&rounds| rounds > 0));
        (0..200).for_each(|_| drop(swarm.round()));
        let (least, most) = (swarm.uploaded.iter().min().unwrap(), swarm.uploaded.iter().max().unwrap());
        assert!(*most <= 2 * least, "{least} to {most}");
    }

    #[test]
    fn a_fast_peer_ends_its_turn_at_the_quota_and_a_slow_one_after_a_minute() {
        let mut swarm = Swarm::new(Role::Seeding, 30, 8);
        for (at, rate) in swarm.takes.iter_mut().enumerate() {
            *rate = if at % 2 == 0 { 5_000_000 } else { 10_000 };
        }
        (0..300).for_each(|_| drop(swarm.round()));
        let (fast, slow) = (swarm.rounds_unchoked[0], swarm.rounds_unchoked[1]);
        assert!(slow >= 2 * fast, "{fast} and {slow} rounds");
        let fast: Vec<u64> = swarm.uploaded.iter().step_by(2).copied().collect();
        assert!(*fast.iter().max().unwrap() <= 2 * fast.iter().min().unwrap());
    }

    #[test]
    fn while_seeding_a_peer_that_takes_nothing_does_not_keep_its_slot() {
        let mut swarm = Swarm::new(Role::Seeding, 2, 1);
        swarm.takes[0] = 0;
        let first: Vec<u32> = (0..6).flat_map(|_| swarm.round()).collect();
        assert_eq!(first, [0, 0, 1, 1, 1, 1]);
    }

    #[test]
    fn while_seeding_nobody_is_choked_while_slots_are_free() {
        let mut swarm = Swarm::new(Role::Seeding, 5, 8);
        for _ in 0..30 {
            assert_eq!(swarm.round().len(), 5);
        }
    }

    #[test]
    fn the_best_reciprocators_stay_and_a_free_rider_gets_only_optimistic_slots() {
        let mut swarm = Swarm::new(Role::Leeching, 20, 5);
        (0..10).for_each(|peer| swarm.giver(peer, 1000 * (peer as u64 + 1)));
        for _ in 0..60 {
            let ids = swarm.round();
            assert_eq!(ids.len(), 5);
            assert!([6, 7, 8, 9].iter().all(|best| ids.contains(best)));
        }
        // One optimistic slot for 60 rounds, three rounds each: the 10 free riders share it with 6 slower givers.
        assert!(swarm.rounds_unchoked[10..].iter().all(|&rounds| rounds <= 15));
        assert!(swarm.rounds_unchoked[10..].iter().sum::<u32>() <= 57);
        let Reciprocity { given, returned } = swarm.choker.reciprocity();
        assert!(given == 20 && (1..20).contains(&returned), "{returned} of {given}");
    }

    #[test]
    fn an_optimistic_peer_that_gives_well_earns_a_regular_slot() {
        let mut swarm = Swarm::new(Role::Leeching, 10, 3);
        swarm.giver(0, 5_000);
        swarm.giver(1, 6_000);
        let ids = swarm.round();
        let lucky = ids.iter().copied().find(|&id| id > 1).unwrap();
        swarm.giver(lucky as usize, 10_000);
        swarm.wait(Duration::from_secs(1));
        (0..10).for_each(|_| assert!(swarm.round().contains(&lucky)));
        assert!(swarm.choker.reciprocity().returned >= 1);
    }

    #[test]
    fn who_sent_nothing_for_30_seconds_or_snubs_us_loses_its_regular_slot() {
        let mut swarm = Swarm::new(Role::Leeching, 10, 2);
        swarm.giver(0, 100_000);
        swarm.giver(1, 1_000);
        assert!(swarm.round().contains(&0));
        swarm.peers[0].last_block_from = Some(swarm.now - Duration::from_secs(31));
        let ids = swarm.choker.round(Role::Leeching, &swarm.peers, 1, swarm.now);
        assert_eq!(ids, [1]);
        swarm.peers[1].snubbed = true;
        swarm.giver(2, 10);
        assert_eq!(swarm.choker.round(Role::Leeching, &swarm.peers, 1, swarm.now), [2]);
    }

    #[test]
    fn an_optimistic_slot_goes_on_after_30_seconds_and_everybody_gets_it() {
        let mut swarm = Swarm::new(Role::Leeching, 11, 2);
        swarm.giver(0, 100);
        let mut holders = Vec::new();
        for _ in 0..200 {
            let held: Vec<u32> = (0..3).map(|_| swarm.round().into_iter().find(|&id| id != 0).unwrap()).collect();
            assert!(held.iter().all(|id| *id == held[0]));
            assert_ne!(holders.last(), Some(&held[0]));
            holders.push(held[0]);
        }
        assert_eq!(holders.into_iter().collect::<HashSet<_>>().len(), 10);
    }

    #[test]
    fn a_new_peer_is_three_times_as_likely_to_be_unchoked_optimistically() {
        let now = Instant::now() + Duration::from_secs(3600);
        let peers: Vec<_> =
            (0..4).map(|id| candidate(id, now - Duration::from_secs(if id == 0 { 10 } else { 60 }))).collect();
        let mut wins = 0;
        for seed in 0..2_000 {
            let mut choker = Choker::new(fastrand::Rng::with_seed(seed));
            wins += u32::from(choker.round(Role::Leeching, &peers, 1, now) == [0]);
        }
        assert!((900..1_100).contains(&wins), "{wins} of 2,000, half expected");
    }

    #[test]
    fn free_regular_slots_are_given_optimistically() {
        let mut swarm = Swarm::new(Role::Leeching, 20, 8);
        (0..10).for_each(|_| assert_eq!(swarm.round().len(), 8));
    }

    #[test]
    fn a_peer_that_becomes_interested_is_answered_at_once_if_a_slot_is_free() {
        for role in [Role::Leeching, Role::Seeding] {
            let mut swarm = Swarm::new(role, 6, 4);
            swarm.peers[3..].iter_mut().for_each(|peer| peer.interested = false);
            assert_eq!(swarm.round().len(), 3);
            assert!(swarm.fill().is_empty());
            swarm.peers[5].interested = true;
            assert_eq!(swarm.fill(), [5]);
            swarm.peers[4].interested = true;
            assert!(swarm.fill().is_empty());
            swarm.peers[0].interested = false;
            assert_eq!(swarm.fill(), [4]);
        }
    }

    #[test]
    fn who_wants_nothing_is_never_unchoked() {
        let mut swarm = Swarm::new(Role::Seeding, 2, 4);
        swarm.peers[0].interested = false;
        swarm.peers[1].upload_only = true;
        assert!(swarm.round().is_empty() && swarm.fill().is_empty());
    }

    #[test]
    fn rounds_are_due_every_10_seconds() {
        let mut swarm = Swarm::new(Role::Seeding, 1, 1);
        assert_eq!(swarm.choker.next_round(), None);
        swarm.round();
        assert_eq!(swarm.choker.next_round(), Some(swarm.now));
    }

    #[test]
    fn slots_grow_with_the_square_root_of_the_capacity_and_shrink_one_by_one() {
        let mut rule = SlotRule::growing();
        assert_eq!(rule.update(None, 0), 8);
        assert_eq!(rule.update(None, 10 << 20), 78);
        assert_eq!(rule.update(None, 0), 77);
        assert_eq!(rule.update(None, 1 << 40), 200);
        assert_eq!(SlotRule::growing().update(Some(20 << 10), 1 << 30), 4);
        assert_eq!(SlotRule::growing().update(Some(1 << 20), 0), 24);
        assert_eq!(SlotRule::fixed(3).update(Some(1 << 30), 1 << 30), 3);
    }

    proptest! {
        #[test]
        fn never_more_than_the_slots_never_twice_and_never_idle(
            seed in any::<u64>(),
            rounds in collection::vec((any::<bool>(), 0..6usize, collection::vec((any::<bool>(), 0..3u64), 8)), 1..30),
        ) {
            let mut swarm = Swarm::new(Role::Leeching, 8, 0);
            swarm.choker = Choker::new(fastrand::Rng::with_seed(seed));
            for (seeding, slots, peers) in rounds {
                swarm.role = if seeding { Role::Seeding } else { Role::Leeching };
                swarm.slots = slots;
                for (at, (interested, rate)) in peers.iter().enumerate() {
                    swarm.peers[at].interested = *interested;
                    swarm.giver(at, *rate);
                }
                let ids = swarm.round();
                let able = peers.iter().filter(|(interested, _)| *interested).count();
                prop_assert!(ids.len() == slots.min(able));
                prop_assert!(ids.iter().collect::<HashSet<_>>().len() == ids.len());
                prop_assert!(ids.iter().all(|&id| peers[id as usize].0));
                swarm.slots += 1;
                let more = swarm.fill();
                prop_assert!(more.len() == usize::from(able > slots));
                prop_assert!(more.iter().all(|id| !ids.contains(id)));
            }
        }
    }
}
