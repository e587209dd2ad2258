//! What we keep for others: peers by info-hash (BEP 5, 33, 51) and items (BEP 44).
//!
//! It owns bounds and expiry. It refuses nothing by who sent it: that the sender showed a valid token was checked before.
//! Whatever is announced, memory stays bounded, by [`StoreLimits`].

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::metainfo::InfoHash;
use crate::wire::item::{Item, Outdated};
use crate::wire::krpc::{NodeId, Scrape};

use super::is_private;

/// Clients announce again every half an hour at the latest; one that missed a turn is gone.
const PEER_LIFE: Duration = Duration::from_secs(45 * 60);

/// An item that nobody put again for so long is forgotten (BEP 44).
const ITEM_LIFE: Duration = Duration::from_secs(2 * 60 * 60);

/// How many ports of one address may be announced for one info-hash: a few clients may share it.
const MAX_PORTS: usize = 4;

/// How long the same sample of info-hashes is given out, where it holds not all of them (BEP 51).
const SAMPLE_LIFE: Duration = Duration::from_secs(10 * 60);

/// How many info-hashes a sample has at most: 20 bytes each, and a datagram should not be split.
pub(super) const MAX_SAMPLE: usize = 20;

/// How much a node keeps for others, for each address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// How many info-hashes have peers; 5,000 by default. A new one displaces the one with the fewest peers.
    pub max_info_hashes: usize,
    /// How many peers one info-hash has; 500 by default. A new one displaces the one that announced longest ago.
    pub max_peers_of_one: usize,
    /// How many peers there are in all; 50,000 by default.
    pub max_peers: usize,
    /// How many items; 1,000 by default, of some 1.2 KiB at most. A new one displaces the one put longest ago.
    pub max_items: usize,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self { max_info_hashes: 5_000, max_peers_of_one: 500, max_peers: 50_000, max_items: 1_000 }
    }
}

/// The peers that were announced to us over one address family.
#[derive(Debug)]
pub(super) struct PeerStore {
    limits: StoreLimits,
    swarms: HashMap<InfoHash, Swarm>,
    /// The peers of all of them.
    len: usize,
    sample: Vec<InfoHash>,
    sampled: Option<Instant>,
}

#[derive(Debug, Default)]
struct Swarm {
    /// In no order.
    peers: Vec<Peer>,
    /// The filters of BEP 33, once somebody asked; without those that expired since they were made.
    filters: Option<Box<Scrape>>,
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    addr: SocketAddr,
    seed: bool,
    announced: Instant,
}

impl PeerStore {
    pub(super) fn new(limits: StoreLimits) -> Self {
        Self { limits, swarms: HashMap::new(), len: 0, sample: Vec::new(), sampled: None }
    }

    /// How many info-hashes have peers.
    pub(super) fn info_hashes(&self) -> usize {
        self.swarms.len()
    }

    /// How many peers there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Keeps a peer, or its new state. One that does not fit displaces another.
    pub(super) fn announce(&mut self, info_hash: InfoHash, addr: SocketAddr, seed: bool, now: Instant) {
        if !self.swarms.contains_key(&info_hash) && self.swarms.len() >= self.limits.max_info_hashes {
            let smallest = self.swarms.iter().min_by_key(|(_, swarm)| swarm.peers.len()).map(|(hash, _)| *hash);
            if let Some(swarm) = smallest.and_then(|hash| self.swarms.remove(&hash)) {
                self.len -= swarm.peers.len();
            }
        }
        let swarm = self.swarms.entry(info_hash).or_default();
        self.len -= swarm.peers.len();
        swarm.announce(Peer { addr, seed, announced: now }, self.limits.max_peers_of_one);
        self.len += swarm.peers.len();
        if self.len > self.limits.max_peers
            && let Some(largest) = self.swarms.values_mut().max_by_key(|swarm| swarm.peers.len())
        {
            self.len -= usize::from(largest.forget_oldest());
        }
    }

    /// At most `max` peers, others each time where there are more; without seeds on request (BEP 33). `random` is any.
    pub(super) fn peers(&self, info_hash: &InfoHash, no_seeds: bool, max: usize, random: usize) -> Vec<SocketAddr> {
        let Some(swarm) = self.swarms.get(info_hash) else { return Vec::new() };
        let (end, begin) = swarm.peers.split_at(random % swarm.peers.len().max(1));
        let wanted = begin.iter().chain(end).filter(|peer| !(no_seeds && peer.seed));
        wanted.take(max).map(|peer| peer.addr).collect()
    }

    /// The filters of an info-hash that has peers (BEP 33).
    pub(super) fn filters(&mut self, info_hash: &InfoHash) -> Option<&Scrape> {
        let swarm = self.swarms.get_mut(info_hash)?;
        let filters = swarm.filters.get_or_insert_with(|| {
            let mut filters = Box::<Scrape>::default();
            swarm.peers.iter().for_each(|peer| peer.insert_into(&mut filters));
            filters
        });
        Some(filters)
    }

    /// A random choice of info-hashes, the same one for a while (BEP 51), and after how long to ask for another.
    pub(super) fn sample(&mut self, rng: &mut fastrand::Rng, now: Instant) -> (&[InfoHash], Duration) {
        let age = |sampled: Instant| now.saturating_duration_since(sampled);
        let stale = self.sampled.is_none_or(|sampled| age(sampled) >= SAMPLE_LIFE);
        if stale || (self.sample.len() < MAX_SAMPLE && self.sample.len() != self.swarms.len()) {
            // Where there are few, one that was forgotten may be in it until then.
            self.sample = rng.choose_multiple(self.swarms.keys().copied(), MAX_SAMPLE);
            self.sampled = Some(now);
        }
        let left = SAMPLE_LIFE.saturating_sub(self.sampled.map_or(Duration::ZERO, age));
        (&self.sample, left)
    }

    /// Forgets peers that did not announce again.
    pub(super) fn expire(&mut self, now: Instant) {
        let mut len = 0;
        self.swarms.retain(|_, swarm| {
            let before = swarm.peers.len();
            swarm.peers.retain(|peer| now.saturating_duration_since(peer.announced) < PEER_LIFE);
            if swarm.peers.len() != before {
                swarm.filters = None;
            }
            len += swarm.peers.len();
            !swarm.peers.is_empty()
        });
        self.len = len;
    }
}

impl Swarm {
    fn announce(&mut self, peer: Peer, max: usize) {
        let ip = peer.addr.ip();
        match self.peers.iter_mut().find(|known| known.addr == peer.addr) {
            Some(known) => {
                if known.seed && !peer.seed {
                    self.filters = None;
                }
                *known = peer;
            }
            None => {
                let shares = |known: &Peer| known.addr.ip() == ip && !is_private(ip);
                if self.peers.iter().filter(|known| shares(known)).count() >= MAX_PORTS {
                    self.peers.retain(|known| !shares(known));
                }
                if self.peers.len() >= max {
                    self.forget_oldest();
                }
                self.peers.push(peer);
            }
        }
        if let Some(filters) = &mut self.filters {
            peer.insert_into(filters);
        }
    }

    fn forget_oldest(&mut self) -> bool {
        let oldest = (0..self.peers.len()).min_by_key(|at| self.peers[*at].announced);
        oldest.map(|at| self.peers.swap_remove(at)).is_some()
    }
}

impl Peer {
    fn insert_into(&self, filters: &mut Scrape) {
        let filter = if self.seed { &mut filters.seeds } else { &mut filters.peers };
        filter.insert(self.addr.ip());
    }
}

/// The items that were put here.
#[derive(Debug)]
pub(super) struct ItemStore {
    max: usize,
    items: HashMap<NodeId, (Item, Instant)>,
}

impl ItemStore {
    pub(super) fn new(limits: &StoreLimits) -> Self {
        Self { max: limits.max_items, items: HashMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn get(&self, target: &NodeId) -> Option<&Item> {
        self.items.get(target).map(|(item, _)| item)
    }

    /// Keeps an item, unless a later version is here already, or another than the author thinks to replace.
    pub(super) fn put(&mut self, item: Item, cas: Option<i64>, now: Instant) -> Result<(), Outdated> {
        if self.max == 0 {
            return Ok(());
        }
        let target = item.target();
        if self.items.len() >= self.max && !self.items.contains_key(&target) {
            let oldest = self.items.iter().min_by_key(|(_, (_, put))| *put).map(|(target, _)| *target);
            oldest.map(|oldest| self.items.remove(&oldest));
        }
        match self.items.entry(target) {
            Entry::Occupied(mut stored) => {
                item.may_replace(&stored.get().0, cas)?;
                stored.insert((item, now));
            }
            Entry::Vacant(vacant) => {
                vacant.insert((item, now));
            }
        }
        Ok(())
    }

    /// Forgets items that nobody put again.
    pub(super) fn expire(&mut self, now: Instant) {
        self.items.retain(|_, (_, put)| now.saturating_duration_since(*put) < ITEM_LIFE);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::time::{Duration, Instant};

    use super::{ItemStore, MAX_SAMPLE, PeerStore, StoreLimits};
    use crate::metainfo::InfoHash;
    use crate::wire::item::{Item, ItemValue};

    const LIMITS: StoreLimits = StoreLimits { max_info_hashes: 3, max_peers_of_one: 5, max_peers: 8, max_items: 2 };

    fn peer(n: u32) -> SocketAddr {
        (Ipv4Addr::from_bits(0x0b00_0000 + n), 6881).into()
    }

    fn hash(n: u8) -> InfoHash {
        InfoHash::new([n; 20])
    }

    fn value(n: i64) -> ItemValue {
        ItemValue::from_bencode(format!("i{n}e").as_bytes()).unwrap()
    }

    #[test]
    fn peers_are_given_out_in_turns_until_they_expire() {
        let now = Instant::now();
        let mut store = PeerStore::new(LIMITS);
        for n in 0..4 {
            store.announce(hash(1), peer(n), n == 3, now + Duration::from_secs(600 * u64::from(n)));
        }
        assert_eq!(store.peers(&hash(1), false, 2, 0), [peer(0), peer(1)]);
        assert_eq!(store.peers(&hash(1), false, 2, 3), [peer(3), peer(0)]);
        assert_eq!(store.peers(&hash(1), true, 9, 2), [peer(2), peer(0), peer(1)]);
        assert!(store.peers(&hash(2), false, 9, 7).is_empty());
        store.expire(now + Duration::from_secs(3000));
        assert_eq!(store.peers(&hash(1), false, 9, 0), [peer(1), peer(2), peer(3)]);
        store.expire(now + Duration::from_secs(90_000));
        assert_eq!((store.info_hashes(), store.len()), (0, 0));
    }

    #[test]
    fn whatever_is_announced_the_store_stays_within_its_bounds() {
        let now = Instant::now();
        let mut store = PeerStore::new(LIMITS);
        let mut rng = fastrand::Rng::with_seed(1);
        for n in 0..2_000 {
            let at = now + Duration::from_secs(n);
            store.announce(hash(rng.u8(0..9)), peer(rng.u32(0..50)), rng.bool(), at);
            assert!(store.info_hashes() <= 3 && store.len() <= 8);
            let counts: Vec<_> = (0..9).map(|n| store.peers(&hash(n), false, 99, 0).len()).collect();
            assert!(counts.iter().all(|count| *count <= 5));
            assert_eq!(counts.iter().sum::<usize>(), store.len());
        }
    }

    #[test]
    fn one_address_does_not_fill_a_swarm_with_its_ports() {
        let now = Instant::now();
        let mut store = PeerStore::new(StoreLimits::default());
        store.announce(hash(1), peer(1), false, now);
        for port in 1..1000 {
            store.announce(hash(1), SocketAddr::new(peer(2).ip(), port), false, now);
        }
        assert!(store.len() <= 5, "{}", store.len());
    }

    #[test]
    fn filters_hold_seeds_and_peers_as_they_are_now() {
        let now = Instant::now();
        let mut store = PeerStore::new(StoreLimits::default());
        assert!(store.filters(&hash(1)).is_none());
        store.announce(hash(1), peer(1), true, now);
        assert!(store.filters(&hash(1)).unwrap().seeds.contains(peer(1).ip()));
        store.announce(hash(1), peer(2), false, now);
        store.announce(hash(1), peer(1), false, now + Duration::from_secs(2000));
        let filters = store.filters(&hash(1)).unwrap();
        assert!(!filters.seeds.contains(peer(1).ip()));
        assert!(filters.peers.contains(peer(1).ip()) && filters.peers.contains(peer(2).ip()));
        store.expire(now + Duration::from_secs(3000));
        assert!(!store.filters(&hash(1)).unwrap().peers.contains(peer(2).ip()));
    }

    #[test]
    fn a_sample_is_all_there_is_or_stays_the_same_for_a_while() {
        let now = Instant::now();
        let mut rng = fastrand::Rng::with_seed(1);
        let mut store = PeerStore::new(StoreLimits::default());
        assert!(store.sample(&mut rng, now).0.is_empty());
        (0..5).for_each(|n| store.announce(hash(n), peer(1), false, now));
        assert_eq!(store.sample(&mut rng, now).0.len(), 5);
        (0..200).for_each(|n| store.announce(hash(n), peer(1), false, now));
        let first = store.sample(&mut rng, now).0.to_vec();
        assert_eq!(first.len(), MAX_SAMPLE);
        let (same, left) = store.sample(&mut rng, now + Duration::from_secs(599));
        assert_eq!((same, left), (&first[..], Duration::from_secs(1)));
        assert_ne!(store.sample(&mut rng, now + Duration::from_secs(600)).0, first);
    }

    #[test]
    fn a_later_version_replaces_an_item_and_an_earlier_one_does_not() {
        let now = Instant::now();
        let mut store = ItemStore::new(&LIMITS);
        let item = |seq, n| Item::sign(&[7; 32], b"salt", seq, value(n)).unwrap();
        let target = item(1, 1).target();
        store.put(item(2, 1), None, now).unwrap();
        store.put(item(2, 1), None, now).unwrap();
        store.put(item(1, 2), None, now).unwrap_err();
        store.put(item(2, 2), None, now).unwrap_err();
        store.put(item(3, 2), Some(1), now).unwrap_err();
        assert_eq!(store.get(&target), Some(&item(2, 1)));
        store.put(item(3, 2), Some(2), now).unwrap();
        assert_eq!(store.get(&target), Some(&item(3, 2)));
    }

    #[test]
    fn items_are_few_and_expire() {
        let now = Instant::now();
        let mut store = ItemStore::new(&LIMITS);
        let items: Vec<_> = (0..3).map(|n| Item::immutable(value(n))).collect();
        for (n, item) in items.iter().enumerate() {
            store.put(item.clone(), None, now + Duration::from_secs(n as u64)).unwrap();
        }
        assert_eq!(store.len(), 2);
        assert!(store.get(&items[0].target()).is_none());
        store.expire(now + Duration::from_secs(7201));
        assert_eq!(store.get(&items[2].target()), Some(&items[2]));
        assert_eq!(store.len(), 1);
    }
}
