//! Who is unchoked, in a swarm on a fake clock.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use proptest::prelude::any;
use proptest::{collection, prop_assert, proptest};

use super::{Candidate, Choker, ROUND, Reciprocity, Role, SlotRule, Standing};

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
        standing: Standing::Unknown,
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
fn a_peer_with_a_good_history_is_likelier_to_be_unchoked_optimistically_than_one_with_a_poor_one() {
    let start = Instant::now();
    let connected = start.checked_sub(Duration::from_secs(3600)).unwrap_or(start);
    let mut choker = Choker::new(fastrand::Rng::with_seed(3));
    let mut unchoked = [0; 3];
    let standings = [Standing::Good, Standing::Unknown, Standing::Poor];
    let peers: Vec<_> =
        (0..3).map(|id| Candidate { standing: standings[id as usize], ..candidate(id, connected) }).collect();
    for _ in 0..7000 {
        choker
            .fill(Role::Leeching, &peers, 1, start + Duration::from_secs(7200))
            .iter()
            .for_each(|&id| unchoked[id as usize] += 1);
    }
    for (count, expected) in unchoked.into_iter().zip([4000, 2000, 1000]) {
        assert!((expected - 200..expected + 200).contains(&count), "{unchoked:?}");
    }
}

#[test]
fn of_equal_givers_the_one_with_the_better_history_is_unchoked_and_a_cheat_never_is() {
    let now = Instant::now();
    let mut choker = Choker::new(fastrand::Rng::with_seed(3));
    let giver =
        |id, standing| Candidate { rate_down: 1000, last_block_from: Some(now), standing, ..candidate(id, now) };
    let peers =
        [giver(0, Standing::Poor), giver(1, Standing::Unknown), giver(2, Standing::Good), giver(3, Standing::Cheat)];
    assert_eq!(choker.round(Role::Leeching, &peers, 1, now), [2]);
    let mut all = choker.round(Role::Leeching, &peers, 9, now);
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2]);
    let faster = Candidate { rate_down: 1001, ..peers[0].clone() };
    assert_eq!(choker.round(Role::Leeching, &[faster, peers[2].clone()], 1, now), [0], "who gives more comes first");
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
