//! One lookup in one address family: which node to ask next, and when the closest ones are found (BEP 5).
//!
//! It owns the candidates and what became of asking each. It refuses to send and to know what is asked for.
//!
//! It ends when the [`K`] closest nodes that are not known to be dead have answered. Anybody can name nodes that are
//! closer still, of which there are none, or which are his; ids that fit their addresses (BEP 42) he cannot choose. So the
//! closest of those that fit are asked as well: others may crowd around the target, but they crowd nobody out.

use std::net::{IpAddr, SocketAddr};

use crate::wire::krpc::{Distance, NodeId, NodeInfo};

use super::is_private;
use super::table::{K, shared_bits};

/// How many candidates are remembered; the farthest are forgotten.
const MAX_CANDIDATES: usize = 160;

/// How many nodes are asked in one lookup, whatever the answers say. A lookup among 10 million takes some 60.
const MAX_ASKED: usize = 256;

/// How many nodes whose ids do not fit their addresses are asked where there are enough others: anybody can make up any
/// number of those that lie next to the target.
const MAX_MISFITS: usize = 4 * K;

/// How many nodes of one answer are looked at: more than a sound one has.
const MAX_REFERRALS: usize = 2 * K;

/// How many nodes said to be at one address are remembered, as all but one of them are wrong.
const MAX_CLAIMS: usize = 3;

#[derive(Debug)]
pub(super) struct Lookup {
    target: NodeId,
    own: NodeId,
    parallel: usize,
    /// The closest first.
    candidates: Vec<Candidate>,
    /// Addresses whose ids are not known.
    seeds: Vec<(SocketAddr, State)>,
    asked: usize,
    answered: usize,
}

#[derive(Debug)]
struct Candidate {
    distance: Distance,
    node: NodeInfo,
    /// Whether its id fits its address (BEP 42).
    fits: bool,
    /// How many referrals it took to learn of it.
    hop: u32,
    state: State,
    token: Option<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Fresh,
    Asked,
    /// Asked, and late.
    Slow,
    Answered,
    Failed,
}

/// A node that answered, at the end.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) node: NodeInfo,
    pub(super) token: Option<Vec<u8>>,
}

impl Lookup {
    pub(super) fn new(target: NodeId, own: NodeId, parallel: usize) -> Self {
        let parallel = parallel.max(1);
        Self { target, own, parallel, candidates: Vec::new(), seeds: Vec::new(), asked: 0, answered: 0 }
    }

    /// How many nodes were asked and how many of them answered.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.asked, self.answered)
    }

    /// Adds nodes that we know ourselves.
    pub(super) fn add_known(&mut self, nodes: impl IntoIterator<Item = NodeInfo>) {
        nodes.into_iter().for_each(|node| self.add(node, 1));
    }

    /// Adds an address whose id is not known; it is asked where others do not answer, or are too few.
    pub(super) fn add_seed(&mut self, addr: SocketAddr) {
        if self.seeds.len() < MAX_CANDIDATES && !self.seeds.iter().any(|(known, _)| *known == addr) {
            self.seeds.push((addr, State::Fresh));
        }
    }

    /// The next node to ask, if it is time to; it counts as asked.
    pub(super) fn next(&mut self) -> Option<SocketAddr> {
        if self.asked >= MAX_ASKED {
            return None;
        }
        let states = self.candidates.iter().map(|candidate| candidate.state);
        let under_way = states.chain(self.seeds.iter().map(|(_, state)| *state));
        if under_way.filter(|state| *state == State::Asked).count() >= self.parallel {
            return None;
        }
        loop {
            let fresh = self.window().find(|at| self.candidates[*at].state == State::Fresh);
            let Some(at) = fresh.filter(|_| !self.wants_seed()) else { return self.next_seed() };
            let addr = self.candidates[at].node.addr;
            let same = |other: &Candidate| other.state != State::Fresh && same_host(other.node.addr, addr);
            if self.candidates.iter().any(same) {
                // Another id was said to be there, and that one was asked.
                self.candidates[at].state = State::Failed;
                continue;
            }
            self.candidates[at].state = State::Asked;
            self.asked += 1;
            return Some(addr);
        }
    }

    /// Takes an answer: who gave it, its token, and the nodes that it names. Whoever was thought to have another id has
    /// the one that it says.
    pub(super) fn answered(
        &mut self,
        from: NodeInfo,
        token: Option<Vec<u8>>,
        referrals: impl Iterator<Item = NodeInfo>,
    ) {
        let mut hop = 1;
        let seed = self.seeds.iter_mut().find(|(addr, state)| *addr == from.addr && state.is_waiting());
        if let Some((_, state)) = seed {
            *state = State::Answered;
        }
        let asked = |candidate: &Candidate| candidate.node.addr == from.addr && candidate.state.is_waiting();
        if let Some(at) = self.candidates.iter().position(asked) {
            hop = self.candidates[at].hop;
            if self.candidates[at].node.id != from.id {
                self.candidates.remove(at);
            }
        }
        if from.id == self.own {
            return;
        }
        self.answered += 1;
        self.candidates.retain(|candidate| candidate.node != from || candidate.state.is_waiting());
        if !self.candidates.iter().any(|candidate| candidate.node == from) {
            self.insert(from, hop);
        }
        if let Some(candidate) = self.candidates.iter_mut().find(|candidate| candidate.node == from) {
            candidate.state = State::Answered;
            candidate.token = token;
        }
        for node in referrals.take(MAX_REFERRALS) {
            // Nobody on a private network is known to the world.
            if !is_private(node.addr.ip()) || is_private(from.addr.ip()) {
                self.add(node, hop + 1);
            }
        }
    }

    /// Takes note that an answer is late.
    pub(super) fn slow(&mut self, addr: SocketAddr) {
        self.set(addr, State::Asked, State::Slow);
    }

    /// Takes note that there is no answer, or none that helps.
    pub(super) fn failed(&mut self, addr: SocketAddr) {
        self.set(addr, State::Asked, State::Failed);
        self.set(addr, State::Slow, State::Failed);
    }

    /// Whether the closest nodes are found, or all that could be asked were.
    pub(super) fn is_done(&self) -> bool {
        let spent = self.asked >= MAX_ASKED;
        let open = |state: State| state.is_waiting() || (state == State::Fresh && !spent);
        let seeds = self.answered < K && self.seeds.iter().any(|(_, state)| open(*state));
        !seeds && !self.window().any(|at| open(self.candidates[at].state))
    }

    /// The closest nodes that answered; [`K`], and if ids of some of them do not fit, [`K`] whose ids do, besides.
    pub(super) fn closest(&self) -> Vec<Found> {
        let window = self.window().map(|at| &self.candidates[at]);
        let answered = window.filter(|candidate| candidate.state == State::Answered);
        answered.map(|candidate| Found { node: candidate.node, token: candidate.token.clone() }).collect()
    }

    /// How many referrals it took at most to learn of the [`K`] closest; of those whose ids fit, as others lie about
    /// where they are, if there are any.
    pub(super) fn hops(&self) -> u32 {
        let answered = || self.candidates.iter().filter(|candidate| candidate.state == State::Answered);
        let fitting = answered().filter(|candidate| candidate.fits).take(K).map(|candidate| candidate.hop).max();
        fitting.or_else(|| answered().take(K).map(|candidate| candidate.hop).max()).unwrap_or_default()
    }

    /// The candidates that matter: the [`K`] closest that did not fail, and the [`K`] closest whose ids fit. Of those that
    /// do not fit only so many, where there are enough others.
    fn window(&self) -> impl Iterator<Item = usize> {
        let alive = || self.candidates.iter().enumerate().filter(|(_, candidate)| candidate.state != State::Failed);
        let misfits = self.candidates.iter().filter(|candidate| !candidate.fits && candidate.state != State::Fresh);
        let enough = misfits.count() >= MAX_MISFITS && alive().filter(|(_, candidate)| candidate.fits).count() >= K;
        let (mut all, mut fitting) = (0, 0);
        let wanted = alive().filter(move |(_, candidate)| {
            if enough && !candidate.fits && candidate.state == State::Fresh {
                return false;
            }
            all += 1;
            fitting += usize::from(candidate.fits);
            all <= K || (candidate.fits && fitting <= K)
        });
        wanted.map(|(at, _)| at)
    }

    fn add(&mut self, node: NodeInfo, hop: u32) {
        let at_host = |candidate: &&Candidate| same_host(candidate.node.addr, node.addr);
        if let Some(known) = self.candidates.iter_mut().find(|candidate| candidate.node == node) {
            known.hop = known.hop.min(hop);
        } else if node.id != self.own
            && is_sound(node.addr)
            && self.candidates.iter().filter(at_host).count() < MAX_CLAIMS
        {
            self.insert(node, hop);
        }
    }

    fn insert(&mut self, node: NodeInfo, hop: u32) {
        let distance = self.target.distance(&node.id);
        let at = self.candidates.partition_point(|candidate| candidate.distance <= distance);
        if at >= MAX_CANDIDATES {
            return;
        }
        let fits = node.id.fits(node.addr.ip());
        self.candidates.insert(at, Candidate { distance, node, fits, hop, state: State::Fresh, token: None });
        if self.candidates.len() > MAX_CANDIDATES {
            // The farthest goes; rather one that was not asked and does not fit, unless those are near only.
            let spare = |candidate: &Candidate| candidate.state == State::Fresh && !candidate.fits;
            let settled = |candidate: &Candidate| !candidate.state.is_waiting();
            let at = self.candidates.iter().rposition(spare).filter(|at| *at > 2 * K);
            let at = at.or_else(|| self.candidates.iter().rposition(settled));
            self.candidates.remove(at.unwrap_or(MAX_CANDIDATES));
        }
    }

    /// Whether to ask a seed although there are other nodes: the first of those did not answer soon.
    fn wants_seed(&self) -> bool {
        let late = |candidate: &Candidate| matches!(candidate.state, State::Slow | State::Failed);
        self.answered == 0
            && self.candidates.iter().any(late)
            && self.seeds.iter().any(|(_, state)| *state == State::Fresh)
    }

    fn next_seed(&mut self) -> Option<SocketAddr> {
        let (addr, state) = self.seeds.iter_mut().find(|(_, state)| *state == State::Fresh)?;
        if self.answered >= K {
            return None;
        }
        *state = State::Asked;
        self.asked += 1;
        Some(*addr)
    }

    fn set(&mut self, addr: SocketAddr, from: State, to: State) {
        let candidates = self.candidates.iter_mut().map(|candidate| (candidate.node.addr, &mut candidate.state));
        let seeds = self.seeds.iter_mut().map(|(addr, state)| (*addr, state));
        for (_, state) in candidates.chain(seeds).filter(|(at, state)| *at == addr && **state == from) {
            *state = to;
        }
    }
}

impl State {
    fn is_waiting(self) -> bool {
        matches!(self, Self::Asked | Self::Slow)
    }
}

/// Whether somebody can be there.
pub(super) fn is_sound(addr: SocketAddr) -> bool {
    let ip = addr.ip();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast() || ip.octets()[0] == 0);
    addr.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

/// Whether only one node can be expected at both: on private networks one address may have many.
fn same_host(a: SocketAddr, b: SocketAddr) -> bool {
    let bits = if a.is_ipv4() { 32 } else { 64 };
    if is_private(a.ip()) { a == b } else { shared_bits(a.ip(), b.ip()) >= bits }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::{K, Lookup, MAX_ASKED, NodeId, NodeInfo};

    const TARGET: NodeId = NodeId::new([0; 20]);
    const OWN: NodeId = NodeId::new([0xff; 20]);

    /// A node at this distance, whose id does not fit its address.
    fn node(distance: u32, host: u32) -> NodeInfo {
        let mut id = [0; 20];
        id[..4].copy_from_slice(&distance.to_be_bytes());
        NodeInfo { id: NodeId::new(id), addr: addr(host) }
    }

    fn addr(host: u32) -> SocketAddr {
        (Ipv4Addr::from_bits(0x0b00_0000 + host), 6881).into()
    }

    fn lookup(nodes: impl IntoIterator<Item = NodeInfo>) -> Lookup {
        let mut lookup = Lookup::new(TARGET, OWN, 3);
        lookup.add_known(nodes);
        lookup
    }

    fn asked(lookup: &mut Lookup) -> Vec<SocketAddr> {
        std::iter::from_fn(|| lookup.next()).collect()
    }

    #[test]
    fn the_closest_are_asked_first_and_only_so_many_at_a_time() {
        let mut lookup = lookup((1..=20).rev().map(|n| node(n, n)));
        assert_eq!(asked(&mut lookup), [addr(1), addr(2), addr(3)]);
        lookup.slow(addr(1));
        assert_eq!(asked(&mut lookup), [addr(4)], "one that is late makes room");
        lookup.failed(addr(2));
        lookup.answered(node(3, 3), None, [node(0, 30)].into_iter());
        assert_eq!(asked(&mut lookup), [addr(30), addr(5)]);
        lookup.answered(node(1, 1), Some(vec![1]), std::iter::empty());
        assert_eq!(lookup.closest()[0].token, Some(vec![1]), "late is not never");
    }

    #[test]
    fn it_ends_when_the_closest_have_answered() {
        let mut lookup = lookup((1..=20).map(|n| node(n, n)));
        let mut turns = 0;
        while !lookup.is_done() {
            let next = lookup.next().unwrap();
            let host = u32::from_be_bytes(
                lookup.candidates.iter().find(|c| c.node.addr == next).unwrap().node.id.as_bytes()[..4]
                    .try_into()
                    .unwrap(),
            );
            match host {
                2 => lookup.failed(next),
                _ => lookup.answered(node(host, host), None, std::iter::empty()),
            }
            turns += 1;
        }
        assert_eq!(turns, K + 1);
        assert_eq!(lookup.closest().len(), K);
        assert_eq!(lookup.hops(), 1);
        assert_eq!(lookup.next(), None);
    }

    #[test]
    fn those_whose_ids_fit_are_asked_though_others_crowd_around_the_target() {
        let fitting = |n: u32| {
            let addr = addr(n << 8);
            NodeInfo { id: NodeId::for_address(addr.ip(), [n as u8; 20]), addr }
        };
        let honest: Vec<_> = (1..=4).map(fitting).collect();
        let mut lookup = lookup(honest.iter().copied());
        lookup.add_known((1..=100).map(|n| node(n, n)));
        let mut all = Vec::new();
        while let Some(next) = lookup.next() {
            all.push(next);
            let answering = lookup.candidates.iter().find(|c| c.node.addr == next).unwrap().node;
            lookup.answered(answering, None, std::iter::empty());
        }
        assert!(lookup.is_done());
        assert_eq!(all.len(), K + honest.len());
        assert!(honest.iter().all(|node| lookup.closest().iter().any(|found| found.node == *node)));
    }

    #[test]
    fn made_up_nodes_do_not_hold_up_a_lookup_that_has_enough_others() {
        let fitting = (1..=8).map(|n: u32| {
            let addr = addr(n << 16);
            NodeInfo { id: NodeId::for_address(addr.ip(), [n as u8; 20]), addr }
        });
        let mut lookup = lookup(fitting);
        lookup.add_known((1..=100).map(|n| node(n, n)));
        while let Some(next) = lookup.next() {
            let node = lookup.candidates.iter().find(|candidate| candidate.node.addr == next).unwrap().node;
            match node.id.fits(next.ip()) {
                true => lookup.answered(node, None, std::iter::empty()),
                false => lookup.failed(next),
            }
        }
        assert!(lookup.is_done());
        assert!(lookup.counts().0 <= super::MAX_MISFITS + K + 3, "{:?}", lookup.counts());
    }

    #[test]
    fn whoever_says_that_it_has_another_id_has_that() {
        let mut lookup = lookup([node(1, 1), node(5, 5)]);
        assert_eq!(asked(&mut lookup).len(), 2);
        lookup.answered(node(9, 1), None, std::iter::empty());
        lookup.answered(node(5, 5), None, std::iter::empty());
        let closest: Vec<_> = lookup.closest().iter().map(|found| found.node).collect();
        assert_eq!(closest, [node(5, 5), node(9, 1)]);
        assert!(lookup.is_done());
    }

    #[test]
    fn an_answer_cannot_name_more_than_a_few_nor_keep_a_lookup_going_for_ever() {
        let mut lookup = lookup([node(u32::MAX, 1)]);
        let mut host = 1;
        let mut distance = u32::MAX;
        while let Some(next) = lookup.next() {
            let answering = lookup.candidates.iter().find(|c| c.node.addr == next).unwrap().node;
            // Always one that is closer, and a thousand.
            let closer = (0..1000).map(|n| node(distance - n, host + 1 + n)).collect::<Vec<_>>();
            host += 1000;
            distance -= 1000;
            lookup.answered(answering, None, closer.into_iter());
            assert!(lookup.candidates.len() <= super::MAX_CANDIDATES);
        }
        assert_eq!(lookup.counts(), (MAX_ASKED, MAX_ASKED));
        assert!(lookup.is_done());
    }

    #[test]
    fn private_addresses_count_from_private_addresses_only() {
        let private = NodeInfo { addr: "192.168.1.1:1".parse().unwrap(), ..node(1, 1) };
        for (from, named) in [(node(9, 9), 1), (NodeInfo { addr: "10.0.0.1:1".parse().unwrap(), ..node(9, 9) }, 2)] {
            let mut lookup = lookup([from]);
            lookup.next();
            lookup.answered(from, None, [private].into_iter());
            assert_eq!(lookup.candidates.len(), named);
        }
    }

    #[test]
    fn addresses_without_ids_are_asked_where_nodes_are_few_or_late() {
        let mut lookup = lookup((1..=10).map(|n| node(n, n)));
        lookup.add_seed(addr(99));
        assert_eq!(asked(&mut lookup), [addr(1), addr(2), addr(3)]);
        lookup.slow(addr(1));
        assert_eq!(asked(&mut lookup), [addr(99)]);
        lookup.failed(addr(99));
        let mut alone = super::Lookup::new(TARGET, OWN, 3);
        alone.add_seed(addr(99));
        assert!(!alone.is_done());
        assert_eq!(asked(&mut alone), [addr(99)]);
        alone.answered(node(1, 99), None, [node(2, 2)].into_iter());
        assert_eq!(asked(&mut alone), [addr(2)]);
    }
}
