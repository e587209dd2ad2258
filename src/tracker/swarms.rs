//! Who takes part in which torrent: the memory of the tracker. A policy: `now` and the seed are given, addresses are only
//! compared and counted. Everything is bounded, because everyone may announce anything.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::store::{Announce, Counts, Reply, Store, SwarmHealth, Totals, Unavailable};
use crate::metainfo::InfoHash;
use crate::wire::handshake::PeerId;
use crate::wire::tracker::{Event, Family, encode_compact_peers};

/// The bounds of a [`Swarms`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Torrents that are remembered; an announce of one more is answered without peers.
    pub(super) torrents: usize,
    /// Peers that are remembered for one torrent; one more gets an answer but is given to nobody.
    pub(super) peers: usize,
    /// A peer that does not announce for this long has gone.
    pub(super) expiry: Duration,
}

/// Someone who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) addr: SocketAddr,
}

/// All swarms, for all threads.
pub(super) struct SharedSwarms(Mutex<Swarms>);

/// All swarms.
#[derive(Debug)]
pub(super) struct Swarms {
    limits: Limits,
    rng: fastrand::Rng,
    torrents: HashMap<InfoHash, Swarm>,
}

#[derive(Debug, Default)]
struct Swarm {
    seeders: Roster,
    leechers: Roster,
    downloaded: u32,
}

/// Members that can be found by key and drawn by number.
#[derive(Debug, Default)]
struct Roster {
    members: Vec<Member>,
    places: HashMap<Key, usize>,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    peer: Peer,
    seen: Instant,
}

/// One client is at most one member for each address family (BEP 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    id: PeerId,
    v6: bool,
}

impl Swarms {
    pub(super) fn new(limits: Limits, seed: u64) -> Self {
        Self { limits, rng: fastrand::Rng::with_seed(seed), torrents: HashMap::new() }
    }

    /// Takes note of an announce. Gives other members at random, never the one who asks, and no seeders to a seeder.
    pub(super) fn announce(&mut self, announce: Announce, now: Instant) -> (Counts, Vec<Peer>) {
        let room = self.torrents.len() < self.limits.torrents;
        let swarm = match self.torrents.entry(announce.info_hash) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) if room && announce.event != Some(Event::Stopped) => entry.insert(Swarm::default()),
            Entry::Vacant(_) => return (Counts::default(), Vec::new()),
        };
        let peer = Peer { id: announce.peer_id, addr: announce.addr };
        let key = peer.key();
        let was_seeder = swarm.seeders.remove(key);
        swarm.leechers.remove(key);
        if announce.event == Some(Event::Stopped) {
            let counts = swarm.counts();
            if swarm.is_empty() {
                self.torrents.remove(&announce.info_hash);
            }
            return (counts, Vec::new());
        }
        if announce.event == Some(Event::Completed) && !was_seeder {
            swarm.downloaded += 1;
        }
        let seeder = announce.left == 0;
        let peers = swarm.draw(announce.wanted, !seeder, &mut self.rng);
        if swarm.len() < self.limits.peers {
            let roster = if seeder { &mut swarm.seeders } else { &mut swarm.leechers };
            roster.insert(Member { peer, seen: now });
        }
        (swarm.counts(), peers)
    }

    /// The sizes of one swarm, if anyone takes part.
    pub(super) fn counts(&self, info_hash: &InfoHash) -> Option<Counts> {
        self.torrents.get(info_hash).map(Swarm::counts)
    }

    /// Forgets who has not announced for too long.
    pub(super) fn expire(&mut self, now: Instant) {
        let expiry = self.limits.expiry;
        self.torrents.retain(|_, swarm| {
            swarm.seeders.retain(|member| now.saturating_duration_since(member.seen) < expiry);
            swarm.leechers.retain(|member| now.saturating_duration_since(member.seen) < expiry);
            !swarm.is_empty()
        });
    }
}

impl SharedSwarms {
    pub(super) fn new(limits: Limits, seed: u64) -> Self {
        Self(Mutex::new(Swarms::new(limits, seed)))
    }
}

impl Store for SharedSwarms {
    fn announce(
        &self,
        batch: &[Announce],
        now: Instant,
        scratch: &mut Reply,
        answer: &mut dyn FnMut(usize, Result<&Reply, &Unavailable>),
    ) {
        for (at, announce) in batch.iter().enumerate() {
            let (counts, mut peers) = self.0.lock().announce(*announce, now);
            peers.sort_by_key(|peer| peer.addr.is_ipv6());
            *scratch = Reply { counts, ..Reply::default() };
            let addrs = || peers.iter().map(|peer| peer.addr);
            encode_compact_peers(addrs(), Family::V4, &mut scratch.v4);
            encode_compact_peers(addrs(), Family::V6, &mut scratch.v6);
            scratch.ids.extend(peers.iter().map(|peer| peer.id).filter(|_| announce.with_ids));
            answer(at, Ok(scratch));
        }
    }

    fn scrape(&self, info_hashes: &[InfoHash], _now: Instant) -> Result<Vec<Counts>, Unavailable> {
        let swarms = self.0.lock();
        Ok(info_hashes.iter().map(|hash| swarms.counts(hash).unwrap_or_default()).collect())
    }

    fn all(&self, most: usize, _now: Instant) -> Result<Vec<(InfoHash, Counts)>, Unavailable> {
        Ok(self.0.lock().torrents.iter().take(most).map(|(hash, swarm)| (*hash, swarm.counts())).collect())
    }

    fn totals(&self, now: Instant) -> Result<Totals, Unavailable> {
        let all = self.all(usize::MAX, now)?;
        let sum = |of: fn(&Counts) -> u32| all.iter().map(|(_, counts)| u64::from(of(counts))).sum();
        let (seeders, leechers) = (sum(|counts| counts.seeders), sum(|counts| counts.leechers));
        Ok(Totals { torrents: all.len() as u64, seeders, leechers, no_room: 0 })
    }

    fn health(&self, most: usize, now: Instant) -> Result<Vec<SwarmHealth>, Unavailable> {
        let health = |(info_hash, counts)| SwarmHealth {
            info_hash,
            counts,
            seen: Duration::ZERO,
            up_rate: 0,
            down_rate: 0,
            clients: Vec::new(),
        };
        Ok(self.all(most, now)?.into_iter().map(health).collect())
    }

    fn tidy(&self, now: Instant) {
        self.0.lock().expire(now);
    }
}

impl Peer {
    fn key(&self) -> Key {
        Key { id: self.id, v6: self.addr.is_ipv6() }
    }
}

impl Swarm {
    fn len(&self) -> usize {
        self.seeders.members.len() + self.leechers.members.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn counts(&self) -> Counts {
        let (seeders, leechers) = (self.seeders.members.len() as u32, self.leechers.members.len() as u32);
        Counts { seeders, leechers, downloaded: self.downloaded }
    }

    /// Up to `wanted` different members, leechers only or of both kinds (Floyd's sampling: no work for those not drawn).
    fn draw(&self, wanted: usize, with_seeders: bool, rng: &mut fastrand::Rng) -> Vec<Peer> {
        let leechers = self.leechers.members.as_slice();
        let seeders = if with_seeders { self.seeders.members.as_slice() } else { &[] };
        let peer = |at: usize| leechers.get(at).unwrap_or_else(|| &seeders[at - leechers.len()]).peer;
        let total = leechers.len() + seeders.len();
        if wanted >= total {
            return (0..total).map(peer).collect();
        }
        let mut drawn = HashSet::with_capacity(wanted);
        for last in total - wanted..total {
            if !drawn.insert(rng.usize(..=last)) {
                drawn.insert(last);
            }
        }
        drawn.into_iter().map(peer).collect()
    }
}

impl Roster {
    fn insert(&mut self, member: Member) {
        self.places.insert(member.peer.key(), self.members.len());
        self.members.push(member);
    }

    /// Whether it was there.
    fn remove(&mut self, key: Key) -> bool {
        let Some(place) = self.places.remove(&key) else { return false };
        self.members.swap_remove(place);
        if let Some(moved) = self.members.get(place) {
            self.places.insert(moved.peer.key(), place);
        }
        true
    }

    fn retain(&mut self, keep: impl Fn(&Member) -> bool) {
        let gone: Vec<_> = self.members.iter().filter(|member| !keep(member)).map(|member| member.peer.key()).collect();
        for key in gone {
            self.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { torrents: 4, peers: 100, expiry: Duration::from_secs(60) };
    const TORRENT: InfoHash = InfoHash::new([0xff; 20]);

    fn announce(number: u8, left: u64, event: Option<Event>) -> Announce {
        let addr = SocketAddr::from(([10, 0, 0, number], 6881));
        let (info_hash, peer_id) = (TORRENT, PeerId::new([number; 20]));
        let (uploaded, downloaded, key, wanted) = (0, 0, 0, 50);
        let (both_families, with_ids) = (true, false);
        Announce { info_hash, peer_id, addr, key, left, uploaded, downloaded, event, wanted, both_families, with_ids }
    }

    fn ports(peers: &[Peer]) -> Vec<u8> {
        let mut numbers: Vec<_> = peers.iter().map(|peer| peer.id.as_bytes()[0]).collect();
        numbers.sort();
        numbers
    }

    #[test]
    fn a_peer_gets_the_others_and_never_itself() {
        let (mut swarms, now) = (Swarms::new(LIMITS, 1), Instant::now());
        for number in 1..=3 {
            swarms.announce(announce(number, 9, Some(Event::Started)), now);
        }
        let (counts, peers) = swarms.announce(announce(2, 9, None), now);
        assert_eq!(ports(&peers), [1, 3]);
        assert_eq!(counts, Counts { seeders: 0, leechers: 3, downloaded: 0 });
    }

    #[test]
    fn a_seeder_gets_no_seeders() {
        let (mut swarms, now) = (Swarms::new(LIMITS, 1), Instant::now());
        swarms.announce(announce(1, 0, Some(Event::Started)), now);
        swarms.announce(announce(2, 5, Some(Event::Started)), now);
        assert_eq!(ports(&swarms.announce(announce(3, 0, Some(Event::Started)), now).1), [2]);
        assert_eq!(ports(&swarms.announce(announce(4, 5, Some(Event::Started)), now).1), [1, 2, 3]);
    }

    #[test]
    fn a_sample_has_the_wanted_size_and_no_repeats() {
        let (mut swarms, now) = (Swarms::new(LIMITS, 1), Instant::now());
        for number in 1..=90 {
            swarms.announce(announce(number, u64::from(number % 2), Some(Event::Started)), now);
        }
        let mut seen = HashSet::new();
        for _ in 0..200 {
            let (_, peers) = swarms.announce(Announce { wanted: 7, ..announce(100, 5, None) }, now);
            let numbers = ports(&peers);
            assert_eq!(numbers.iter().collect::<HashSet<_>>().len(), 7);
            seen.extend(numbers);
        }
        assert_eq!(seen.len(), 90);
    }

    #[test]
    fn completing_and_stopping_are_counted() {
        let (mut swarms, now) = (Swarms::new(LIMITS, 1), Instant::now());
        swarms.announce(announce(1, 9, Some(Event::Started)), now);
        swarms.announce(announce(1, 0, Some(Event::Completed)), now);
        let (counts, _) = swarms.announce(announce(1, 0, Some(Event::Completed)), now);
        assert_eq!(counts, Counts { seeders: 1, leechers: 0, downloaded: 1 });
        swarms.announce(announce(1, 0, Some(Event::Stopped)), now);
        assert_eq!(swarms.counts(&TORRENT), None);
    }

    #[test]
    fn a_silent_peer_expires() {
        let (mut swarms, start) = (Swarms::new(LIMITS, 1), Instant::now());
        swarms.announce(announce(1, 9, Some(Event::Started)), start);
        swarms.announce(announce(2, 9, Some(Event::Started)), start + Duration::from_secs(30));
        swarms.expire(start + Duration::from_secs(61));
        assert_eq!(swarms.counts(&TORRENT).unwrap().leechers, 1);
        swarms.expire(start + Duration::from_secs(100));
        assert_eq!(swarms.counts(&TORRENT), None);
    }

    #[test]
    fn a_client_counts_once_for_each_address_family() {
        let (mut swarms, now) = (Swarms::new(LIMITS, 1), Instant::now());
        let mut v6 = announce(1, 9, Some(Event::Started));
        v6.addr = "[2001:db8::1]:6881".parse().unwrap();
        swarms.announce(announce(1, 9, Some(Event::Started)), now);
        assert_eq!(swarms.announce(v6, now).0.leechers, 2);
        assert_eq!(swarms.announce(v6, now).0.leechers, 2);
    }

    #[test]
    fn the_number_of_torrents_and_peers_is_bounded() {
        let (mut swarms, now) = (Swarms::new(Limits { peers: 2, ..LIMITS }, 1), Instant::now());
        for number in 1..=3 {
            swarms.announce(announce(number, 9, Some(Event::Started)), now);
        }
        assert_eq!(swarms.counts(&TORRENT).unwrap().leechers, 2);
        for number in 0..10 {
            let info_hash = InfoHash::new([number; 20]);
            swarms.announce(Announce { info_hash, ..announce(1, 9, Some(Event::Started)) }, now);
        }
        assert_eq!(swarms.torrents.len(), 4);
    }
}
