use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::Memory;
use crate::metainfo::InfoHash;
use crate::tracker::config::MemoryConfig;
use crate::tracker::store::{Announce, Counts, Reply, Store};
use crate::wire::handshake::PeerId;
use crate::wire::tracker::{Event, Family, compact_peers};

mod state;

const TORRENT: InfoHash = InfoHash::new([0xff; 20]);
const EXPIRY: u64 = 60;

fn config() -> MemoryConfig {
    MemoryConfig { torrents: 1000, peers: 100_000, peers_per_torrent: 10_000, expiry: Duration::from_secs(EXPIRY) }
}

fn announce(number: u16, left: u64, event: Option<Event>) -> Announce {
    let [high, low] = number.to_be_bytes();
    let mut id = [b'x'; 20];
    (id[0], id[1]) = (high, low);
    Announce {
        info_hash: TORRENT,
        peer_id: PeerId::new(id),
        addr: SocketAddr::from(([10, 0, high, low], 6881)),
        key: u32::from(number),
        left,
        uploaded: 0,
        downloaded: 0,
        event,
        wanted: 50,
        both_families: false,
        with_ids: false,
    }
}

/// Announces one, and gives its reply.
fn tell(memory: &Memory, announce: Announce, now: Instant) -> Reply {
    let (mut scratch, mut answered) = (Reply::default(), None);
    memory.announce(&[announce], now, &mut scratch, &mut |number, reply| {
        assert_eq!(number, 0);
        answered = Some(reply.unwrap().clone());
    });
    answered.unwrap()
}

/// The peers of a reply, in order.
fn peers(reply: &Reply) -> Vec<SocketAddr> {
    let mut peers: Vec<_> = compact_peers(&reply.v4, Family::V4).chain(compact_peers(&reply.v6, Family::V6)).collect();
    peers.sort();
    peers
}

fn addrs(numbers: &[u16]) -> Vec<SocketAddr> {
    numbers.iter().map(|number| announce(*number, 0, None).addr).collect()
}

fn counts(seeders: u32, leechers: u32, downloaded: u32) -> Counts {
    Counts { seeders, leechers, downloaded }
}

fn scraped(memory: &Memory, now: Instant) -> Counts {
    memory.scrape(&[TORRENT], now).unwrap()[0]
}

#[test]
fn a_peer_gets_the_others_and_never_itself() {
    let (now, memory) = (Instant::now(), Memory::new(&config(), 1, Instant::now()));
    for number in 1..=3 {
        tell(&memory, announce(number, 9, Some(Event::Started)), now);
    }
    let reply = tell(&memory, announce(2, 9, None), now);
    assert_eq!(peers(&reply), addrs(&[1, 3]));
    assert_eq!(reply.counts, counts(0, 3, 0));
}

#[test]
fn a_seeder_gets_leechers_first_and_seeders_where_that_is_too_few() {
    let (now, memory) = (Instant::now(), Memory::new(&config(), 1, Instant::now()));
    tell(&memory, announce(1, 0, Some(Event::Started)), now);
    tell(&memory, announce(2, 5, Some(Event::Started)), now);
    assert_eq!(peers(&tell(&memory, announce(3, 0, Some(Event::Started)), now)), addrs(&[1, 2]));
    let one = Announce { wanted: 1, ..announce(3, 0, None) };
    assert_eq!(peers(&tell(&memory, one, now)), addrs(&[2]));
    assert_eq!(peers(&tell(&memory, announce(4, 5, Some(Event::Started)), now)), addrs(&[1, 2, 3]));
}

#[test]
fn completing_and_stopping_are_counted() {
    let (now, memory) = (Instant::now(), Memory::new(&config(), 1, Instant::now()));
    tell(&memory, announce(1, 9, Some(Event::Started)), now);
    tell(&memory, announce(1, 0, Some(Event::Completed)), now);
    assert_eq!(tell(&memory, announce(1, 0, Some(Event::Completed)), now).counts, counts(1, 0, 1));
    let reply = tell(&memory, announce(1, 0, Some(Event::Stopped)), now);
    assert_eq!((reply.counts, peers(&reply)), (counts(0, 0, 1), vec![]));
    assert_eq!(scraped(&memory, now), Counts::default());
    assert_eq!(memory.totals(now).unwrap().torrents, 0);
    // One that nobody knows leaves nothing behind.
    tell(&memory, announce(1, 0, Some(Event::Stopped)), now);
    assert_eq!(memory.totals(now).unwrap().torrents, 0);
}

#[test]
fn who_comes_from_a_new_address_with_its_id_and_its_key_replaces_its_old_entry() {
    let (now, memory) = (Instant::now(), Memory::new(&config(), 1, Instant::now()));
    for number in 1..=100 {
        tell(&memory, announce(number, 9, None), now);
    }
    let moved = Announce { addr: announce(200, 0, None).addr, ..announce(7, 9, None) };
    assert_eq!(tell(&memory, moved, now).counts, counts(0, 100, 0));
    let all = peers(&tell(&memory, Announce { wanted: 200, ..announce(1, 9, None) }, now));
    assert!(all.contains(&moved.addr) && !all.contains(&announce(7, 0, None).addr));
    // With another key, or none, it is somebody who has only heard of the id.
    for key in [0, 8] {
        let other = Announce { addr: announce(300 + key as u16, 0, None).addr, key, ..moved };
        tell(&memory, other, now);
    }
    assert_eq!(scraped(&memory, now), counts(0, 102, 0));
}

#[test]
fn another_client_at_an_endpoint_takes_the_place_of_the_one_that_was_there() {
    let (now, memory) = (Instant::now(), Memory::new(&config(), 1, Instant::now()));
    tell(&memory, announce(1, 9, None), now);
    tell(&memory, Announce { addr: announce(1, 9, None).addr, ..announce(2, 9, None) }, now);
    assert_eq!(scraped(&memory, now), counts(0, 1, 0));
    // The one that was there has nothing to say there any more.
    tell(&memory, announce(1, 9, Some(Event::Stopped)), now);
    assert_eq!(scraped(&memory, now), counts(0, 1, 0));
}

#[test]
fn a_client_on_both_families_counts_twice_and_is_not_given_to_itself() {
    let (now, memory) = (Instant::now(), Memory::new(&config(), 1, Instant::now()));
    let v6 = |number| Announce {
        addr: SocketAddr::new(format!("2001:db8::{number}").parse().unwrap(), 6881),
        both_families: true,
        with_ids: true,
        ..announce(number, 9, None)
    };
    for number in [1, 2] {
        tell(&memory, announce(number, 9, None), now);
        tell(&memory, v6(number), now);
    }
    let reply = tell(&memory, v6(1), now);
    assert_eq!(reply.counts, counts(0, 4, 0));
    assert_eq!(peers(&reply), [announce(2, 9, None).addr, v6(2).addr]);
    assert_eq!(reply.ids, [v6(2).peer_id; 2]);
    // Those of its own family come first.
    assert_eq!(peers(&tell(&memory, Announce { wanted: 1, ..v6(1) }, now)), [v6(2).addr]);
    assert_eq!(peers(&tell(&memory, Announce { both_families: false, ..v6(1) }, now)), [v6(2).addr]);
}

#[test]
fn a_silent_peer_expires() {
    let start = Instant::now();
    let memory = Memory::new(&config(), 1, start);
    let after = |seconds| start + Duration::from_secs(seconds);
    tell(&memory, announce(1, 9, None), start);
    tell(&memory, announce(2, 9, None), after(30));
    tell(&memory, announce(3, 9, None), after(30));
    memory.tidy(after(EXPIRY));
    assert_eq!(scraped(&memory, after(EXPIRY)).leechers, 3);
    memory.tidy(after(EXPIRY + 1));
    assert_eq!(scraped(&memory, after(EXPIRY + 1)).leechers, 2);
    tell(&memory, announce(2, 9, None), after(80));
    memory.tidy(after(30 + EXPIRY + 1));
    assert_eq!(scraped(&memory, after(91)).leechers, 1);
    // However long nobody has looked.
    memory.tidy(after(5000));
    assert_eq!(memory.totals(after(5000)).unwrap().torrents, 0);
    tell(&memory, announce(1, 9, None), after(9000));
    memory.tidy(after(9000 + EXPIRY));
    assert_eq!(scraped(&memory, after(9000)).leechers, 1);
    memory.tidy(after(9000 + EXPIRY + 1));
    assert_eq!(scraped(&memory, after(9000)).leechers, 0);
}

#[test]
fn many_that_expire_together_are_removed_by_and_by() {
    let (start, memory) = (Instant::now(), Memory::new(&config(), 1, Instant::now()));
    let v6 = |number| SocketAddr::new(format!("2001:db8::{number}").parse().unwrap(), 6881);
    for number in 1..=200 {
        tell(&memory, announce(number, u64::from(number % 2), None), start);
        tell(&memory, Announce { addr: v6(number), ..announce(number, 9, None) }, start);
    }
    let now = start + Duration::from_secs(2 * EXPIRY);
    tell(&memory, announce(50, 9, None), now);
    let remove = || {
        let (outcome, more) = memory.shard(&TORRENT).lock().expire(memory.tick(now), 64, 150);
        memory.count(outcome);
        (outcome.peers, more)
    };
    assert_eq!([remove(), remove()], [(-150, true), (-150, true)]);
    assert_eq!(remove(), (-99, false));
    assert_eq!(scraped(&memory, now), counts(0, 1, 0));
    memory.tidy(now + Duration::from_secs(2 * EXPIRY));
    assert_eq!(memory.totals(now).unwrap().torrents, 0);
}

#[test]
fn a_sample_of_ids_has_seeders_and_leechers_as_there_are() {
    let (now, memory) = (Instant::now(), Memory::new(&config(), 1, Instant::now()));
    (1..=400).for_each(|number| drop(tell(&memory, announce(number, u64::from(number % 4 == 0), None), now)));
    let shard = memory.shard(&TORRENT).lock();
    let ids: Vec<_> = shard.get(&TORRENT).unwrap().ids(40).collect();
    let number = |id: &PeerId| u16::from_be_bytes([id.as_bytes()[0], id.as_bytes()[1]]);
    assert_eq!((ids.len(), ids.iter().filter(|id| number(id) % 4 == 0).count()), (40, 10));
    assert_eq!(shard.get(&TORRENT).unwrap().ids(1000).count(), 400);
}

#[test]
fn what_is_full_answers_newcomers_and_keeps_whom_it_has() {
    let now = Instant::now();
    let check = |config: MemoryConfig| {
        let memory = Memory::new(&config, 1, now);
        tell(&memory, announce(1, 9, None), now);
        tell(&memory, announce(2, 9, None), now);
        let reply = tell(&memory, announce(3, 9, None), now);
        assert_eq!((peers(&reply), reply.counts), (addrs(&[1, 2]), counts(0, 2, 0)));
        assert_eq!(tell(&memory, announce(1, 0, None), now).counts, counts(1, 1, 0));
        assert_eq!(memory.totals(now).unwrap().no_room, 1);
        tell(&memory, announce(1, 0, Some(Event::Stopped)), now);
        assert_eq!(tell(&memory, announce(3, 9, None), now).counts, counts(0, 2, 0));
        memory
    };
    check(MemoryConfig { peers: 2, ..config() });
    check(MemoryConfig { peers_per_torrent: 2, ..config() });
    let memory = check(MemoryConfig { torrents: 1, peers_per_torrent: 2, ..config() });
    let other = Announce { info_hash: InfoHash::new([1; 20]), ..announce(9, 9, None) };
    assert_eq!(tell(&memory, other, now).counts, Counts::default());
    assert_eq!((memory.totals(now).unwrap().torrents, memory.totals(now).unwrap().no_room), (1, 2));
    memory.tidy(now + Duration::from_secs(EXPIRY + 1));
    assert_eq!(tell(&memory, other, now).counts, counts(0, 1, 0));
}

#[test]
fn a_batch_is_answered_in_its_order() {
    let (now, memory) = (Instant::now(), Memory::new(&config(), 1, Instant::now()));
    let batch: Vec<_> = (0..100).map(|number| announce(number, 9, None)).collect();
    let mut answered = Vec::new();
    memory.announce(&batch, now, &mut Reply::default(), &mut |number, reply| {
        answered.push((number, reply.unwrap().counts.leechers));
    });
    assert_eq!(answered, (0..100).map(|number| (number, number as u32 + 1)).collect::<Vec<_>>());
}

#[test]
fn health_names_the_largest_swarms_their_clients_and_what_they_say_they_transfer() {
    let start = Instant::now();
    let memory = Memory::new(&config(), 1, start);
    let after = |seconds| start + Duration::from_secs(seconds);
    for number in 0..30 {
        for torrent in 0..=number % 3 {
            let info_hash = InfoHash::new([torrent as u8; 20]);
            let id: &[u8; 20] = if number % 5 == 0 { b"-TR4050-abcdefghijkl" } else { b"-LT20B0-abcdefghijkl" };
            let counters = Announce { peer_id: PeerId::new(*id), uploaded: 1 << 40, ..announce(number, 9, None) };
            let first = Announce { info_hash, ..counters };
            tell(&memory, first, start);
            // Half a MiB a second from each.
            tell(&memory, Announce { uploaded: first.uploaded + (30 << 20), ..first }, after(60));
        }
    }
    let largest = memory.health(2, after(90)).unwrap();
    assert_eq!(largest.iter().map(|swarm| swarm.info_hash.as_bytes()[0]).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(largest[0].counts, counts(0, 30, 0));
    assert_eq!(largest[0].seen, Duration::from_secs(30));
    assert_eq!(largest[0].clients, [("libtorrent 2.0.11".into(), 24), ("Transmission 4.0.5".into(), 6)]);
    // 900 MiB were said, of which half an hour takes its share.
    let expected = (900_u64 << 20) / 1800;
    assert!((expected * 9 / 10..=expected).contains(&largest[0].up_rate), "{}", largest[0].up_rate);
    assert_eq!(largest[0].down_rate, 0);
    let later = memory.health(1, after(90 + 10 * 1800)).unwrap();
    assert!(later[0].up_rate < expected / 1000);
}

/// What the store should do, done as simply as possible.
#[derive(Default)]
struct Model {
    /// By torrent and family.
    peers: BTreeMap<(InfoHash, bool), Vec<Known>>,
    downloaded: BTreeMap<InfoHash, u32>,
}

struct Known {
    addr: SocketAddr,
    id: PeerId,
    key: u32,
    seeder: bool,
    seen: u64,
}

impl Model {
    fn announce(&mut self, announce: &Announce, second: u64) {
        let Announce { info_hash, addr, peer_id, key, .. } = *announce;
        let peers = self.peers.entry((info_hash, addr.is_ipv6())).or_default();
        let is_it = |known: &Known| known.id == peer_id && (known.addr == addr || key != 0 && known.key == key);
        // By its key rather than by its endpoint, where they are two.
        let by_key = peers.iter().position(|known| key != 0 && known.key == key && known.id == peer_id);
        let known = by_key.or_else(|| peers.iter().position(is_it));
        if announce.event == Some(Event::Stopped) {
            known.map(|at| peers.remove(at));
        } else {
            let was_seeder = known.is_some_and(|at| peers[at].seeder);
            if announce.event == Some(Event::Completed) && !was_seeder {
                *self.downloaded.entry(info_hash).or_default() += 1;
            }
            peers.retain(|known| known.addr != addr && !(key != 0 && known.key == key && known.id == peer_id));
            peers.push(Known { addr, id: peer_id, key, seeder: announce.left == 0, seen: second });
        }
        self.forget();
    }

    fn tidy(&mut self, second: u64) {
        self.peers.values_mut().for_each(|peers| peers.retain(|known| second - known.seen <= EXPIRY));
        self.forget();
    }

    /// A torrent without peers is not remembered.
    fn forget(&mut self) {
        self.peers.retain(|_, peers| !peers.is_empty());
        let peers = &self.peers;
        self.downloaded.retain(|torrent, _| peers.keys().any(|(known, _)| known == torrent));
    }

    fn counts(&self, info_hash: InfoHash) -> Counts {
        let all = || [false, true].into_iter().filter_map(|v6| self.peers.get(&(info_hash, v6))).flatten();
        let seeders = all().filter(|known| known.seeder).count();
        let downloaded = self.downloaded.get(&info_hash).copied().unwrap_or_default();
        counts(seeders as u32, (all().count() - seeders) as u32, downloaded)
    }

    /// Whom a peer may be given, of one family.
    fn others(&self, announce: &Announce, v6: bool) -> BTreeSet<SocketAddr> {
        let known = self.peers.get(&(announce.info_hash, v6));
        let itself = |known: &Known| {
            known.addr == announce.addr
                || announce.key != 0 && known.key == announce.key && known.id == announce.peer_id
        };
        known.into_iter().flatten().filter(|known| !itself(known)).map(|known| known.addr).collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Announce(Announce),
    Wait(u64),
    Tidy,
}

/// Few of everything, so that they meet.
fn step() -> impl Strategy<Value = Step> {
    let event = prop_oneof![
        4 => Just(None),
        1 => Just(Some(Event::Started)),
        1 => Just(Some(Event::Completed)),
        1 => Just(Some(Event::Stopped)),
    ];
    let places = (0..2_u8, 0..80_u16, any::<bool>());
    let who = (0..60_u16, 0..3_u32);
    let announces = (places, who, 0..2_u64, event, 0..50_usize, any::<[bool; 2]>()).prop_map(
        |((torrent, place, v6), (number, key), left, event, wanted, [both_families, with_ids])| {
            let ip = if v6 { format!("2001:db8::{place}") } else { format!("10.0.0.{place}") };
            Step::Announce(Announce {
                info_hash: InfoHash::new([torrent; 20]),
                addr: SocketAddr::new(ip.parse().unwrap(), 1),
                key,
                wanted,
                both_families,
                with_ids,
                ..announce(number, left, event)
            })
        },
    );
    prop_oneof![30 => announces, 1 => (0..40_u64).prop_map(Step::Wait), 1 => Just(Step::Tidy)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_a_simple_model_does(steps in proptest::collection::vec(step(), 1..600), seed: u64) {
        let start = Instant::now();
        let (memory, mut model) = (Memory::new(&config(), seed, start), Model::default());
        let mut second = 0;
        for step in steps {
            let now = start + Duration::from_secs(second);
            match step {
                Step::Wait(seconds) => second += seconds,
                Step::Tidy => {
                    memory.tidy(now);
                    model.tidy(second);
                }
                Step::Announce(announce) => {
                    let reply = tell(&memory, announce, now);
                    let before = model.counts(announce.info_hash).downloaded;
                    model.announce(&announce, second);
                    let counts = model.counts(announce.info_hash);
                    if announce.event == Some(Event::Stopped) {
                        prop_assert!(peers(&reply).is_empty());
                        // What is forgotten with its last peer is told to that one.
                        prop_assert!(reply.counts == counts || counts == Counts::default() && reply.counts.downloaded == before);
                        continue;
                    }
                    prop_assert_eq!(reply.counts, counts);
                    let v6 = announce.addr.is_ipv6();
                    let (own, other) = (model.others(&announce, v6), model.others(&announce, !v6));
                    let from_own = announce.wanted.min(own.len());
                    let from_other =
                        if announce.both_families { other.len().min(announce.wanted - from_own) } else { 0 };
                    let given: BTreeSet<_> = peers(&reply).into_iter().collect();
                    prop_assert_eq!(given.len(), peers(&reply).len(), "no repeats");
                    prop_assert_eq!(given.intersection(&own).count(), from_own);
                    prop_assert_eq!(given.intersection(&other).count(), from_other);
                    prop_assert_eq!(given.len(), from_own + from_other);
                    prop_assert_eq!(reply.ids.len(), if announce.with_ids { given.len() } else { 0 });
                }
            }
            let totals = memory.totals(now).unwrap();
            let all = [0, 1].map(|torrent| model.counts(InfoHash::new([torrent; 20])));
            prop_assert_eq!(totals.seeders, all.iter().map(|counts| u64::from(counts.seeders)).sum::<u64>());
            prop_assert_eq!(totals.leechers, all.iter().map(|counts| u64::from(counts.leechers)).sum::<u64>());
            prop_assert_eq!(totals.torrents as usize, memory.all(9, now).unwrap().len());
        }
    }
}
