//! What an announce does to a swarm, and what it is answered with.

use std::collections::BTreeMap;

use redis::Value;

use super::*;

#[test]
fn two_trackers_on_one_redis_have_one_swarm() {
    let Some(server) = Server::start(&[]) else { return };
    let (one, other) = (store(&server.url()), store(&server.url()));
    ask(&one, &seeder(1)).unwrap();
    ask(&other, &leecher(2)).unwrap();
    let reply = ask(&one, &leecher(3)).unwrap();
    assert_eq!(numbers(&reply), BTreeSet::from([1, 2]));
    assert_eq!(reply.counts, Counts { seeders: 1, leechers: 2, downloaded: 0 });
    assert_eq!(reply.again, None);
    assert_eq!(sizes(&other, TORRENT), (1, 2, 0));
}

#[test]
fn a_seeder_gets_leechers_first_and_nobody_gets_itself() {
    let Some(server) = Server::start(&[]) else { return };
    let store = store(&server.url());
    ask(&store, &seeder(1)).unwrap();
    ask(&store, &seeder(2)).unwrap();
    assert_eq!(numbers(&ask(&store, &seeder(1)).unwrap()), BTreeSet::from([2]));
    ask(&store, &leecher(3)).unwrap();
    assert_eq!(numbers(&ask(&store, &leecher(3)).unwrap()), BTreeSet::from([1, 2]));
    assert_eq!(numbers(&ask(&store, &seeder(2)).unwrap()), BTreeSet::from([1, 3]));
    for _ in 0..20 {
        let one = Announce { wanted: 1, ..seeder(2) };
        assert_eq!(numbers(&ask(&store, &one).unwrap()), BTreeSet::from([3]));
    }
}

#[test]
fn a_sample_has_the_wanted_size_and_sees_everybody() {
    let Some(server) = Server::start(&[]) else { return };
    let store = store(&server.url());
    let all: Vec<_> = (1..=90).map(leecher).collect();
    store.announce(&all, Instant::now(), &mut Reply::default(), &mut |_, reply| assert!(reply.is_ok()));
    let mut seen = BTreeSet::new();
    for _ in 0..300 {
        let numbers = numbers(&ask(&store, &Announce { wanted: 7, ..leecher(40) }).unwrap());
        assert_eq!(numbers.len(), 7);
        seen.extend(numbers);
    }
    assert_eq!(seen.len(), 89);
    ask(&store, &seeder(100)).unwrap();
    for _ in 0..20 {
        let numbers = numbers(&ask(&store, &Announce { wanted: 3, ..leecher(40) }).unwrap());
        assert!(numbers.len() == 3 && numbers.contains(&100), "seeders come first: {numbers:?}");
    }
}

#[test]
fn a_batch_is_answered_in_its_order() {
    let Some(server) = Server::start(&[]) else { return };
    let store = store(&server.url());
    let batch: Vec<_> = (0..1000)
        .map(|number| Announce { info_hash: InfoHash::new([(number % 7) as u8; 20]), ..leecher(number) })
        .collect();
    let mut next = 0;
    store.announce(&batch, Instant::now(), &mut Reply::default(), &mut |n, reply| {
        assert_eq!(n, next);
        next += 1;
        assert_eq!(reply.unwrap().counts.leechers as usize, n / 7 + 1);
    });
    assert_eq!(next, 1000);
}

#[test]
fn a_peer_with_a_key_moves_and_one_without_does_not() {
    let Some(server) = Server::start(&[]) else { return };
    let store = store(&server.url());
    let with_key = Announce { key: 7, ..seeder(1) };
    ask(&store, &with_key).unwrap();
    ask(&store, &seeder(2)).unwrap();
    let moved = |announce: Announce, number| Announce { addr: leecher(number).addr, ..announce };
    ask(&store, &moved(with_key, 11)).unwrap();
    ask(&store, &moved(seeder(2), 12)).unwrap();
    // A stranger that has seen the id does not know the key.
    ask(&store, &moved(Announce { key: 8, ..with_key }, 13)).unwrap();
    assert_eq!(numbers(&ask(&store, &leecher(9)).unwrap()), BTreeSet::from([2, 11, 12, 13]));
}

#[test]
fn completing_is_counted_once_and_stopping_ends_it() {
    let Some(server) = Server::start(&[]) else { return };
    let store = store(&server.url());
    ask(&store, &leecher(1)).unwrap();
    let completed = Announce { event: Some(Event::Completed), ..seeder(1) };
    ask(&store, &completed).unwrap();
    assert_eq!(ask(&store, &completed).unwrap().counts, Counts { seeders: 1, leechers: 0, downloaded: 1 });
    let stopped = ask(&store, &Announce { event: Some(Event::Stopped), ..seeder(1) }).unwrap();
    assert_eq!(stopped.counts, Counts { seeders: 0, leechers: 0, downloaded: 1 });
    // One that was never there leaves nothing.
    let elsewhere = InfoHash::new([3; 20]);
    ask(&store, &Announce { info_hash: elsewhere, event: Some(Event::Stopped), ..seeder(1) }).unwrap();
    assert_eq!(sizes(&store, elsewhere), (0, 0, 0));
    assert!(!store.due.lock().contains_key(&elsewhere), "nor does the index hear of it");
}

#[test]
fn another_client_at_an_endpoint_takes_the_place_of_the_one_that_was_there_and_nothing_else() {
    let Some(server) = Server::start(&[]) else { return };
    let store = store(&server.url());
    let other = Announce { addr: seeder(1).addr, downloaded: 1 << 40, ..seeder(2) };
    ask(&store, &seeder(1)).unwrap();
    // The seeder that was there has not completed it.
    ask(&store, &Announce { event: Some(Event::Completed), ..other }).unwrap();
    assert_eq!(sizes(&store, TORRENT), (1, 0, 1));
    assert_eq!(store.health(1, Instant::now()).unwrap()[0].down_rate, 0);
    // The one that was there has nothing to say there any more.
    ask(&store, &Announce { event: Some(Event::Stopped), ..seeder(1) }).unwrap();
    assert_eq!(sizes(&store, TORRENT), (1, 0, 1));
    ask(&store, &Announce { event: Some(Event::Stopped), ..other }).unwrap();
    assert_eq!(sizes(&store, TORRENT), (0, 0, 1));
}

#[test]
fn peers_of_both_families_are_told_apart_and_given_with_their_ids() {
    let Some(server) = Server::start(&[]) else { return };
    let store = store(&server.url());
    let v6 = |announce: Announce, number: u128| Announce {
        addr: SocketAddr::from((std::net::Ipv6Addr::from_bits((0x2001_0db8 << 96) | number), 6881)),
        ..announce
    };
    ask(&store, &leecher(1)).unwrap();
    ask(&store, &v6(seeder(2), 2)).unwrap();
    ask(&store, &v6(leecher(3), 3)).unwrap();
    let reply = ask(&store, &leecher(4)).unwrap();
    assert_eq!((numbers(&reply), reply.counts.seeders, reply.counts.leechers), (BTreeSet::from([1]), 1, 3));
    assert_eq!(numbers(&ask(&store, &v6(leecher(5), 5)).unwrap()), BTreeSet::from([2, 3]));
    let all = ask(&store, &Announce { both_families: true, with_ids: true, ..leecher(4) }).unwrap();
    assert_eq!((all.v4.len(), all.v6.len()), (6, 3 * 18));
    let by_addr: Vec<_> = addrs(&all).into_iter().zip(&all.ids).collect();
    assert_eq!(by_addr.len(), 4);
    assert_eq!(all.ids[0], peer_id(1));
    assert!(by_addr.contains(&(v6(leecher(3), 3).addr, &peer_id(3))));
    let few = ask(&store, &Announce { both_families: true, wanted: 2, ..leecher(4) }).unwrap();
    assert_eq!((few.v4.len(), few.v6.len()), (6, 18));
}

#[test]
fn a_full_swarm_keeps_no_more_and_still_answers() {
    let Some(server) = Server::start(&[]) else { return };
    let store = store_with(&server.url(), |config| config.peers_per_torrent = 2);
    ask(&store, &leecher(1)).unwrap();
    ask(&store, &leecher(2)).unwrap();
    let reply = ask(&store, &leecher(3)).unwrap();
    assert_eq!((numbers(&reply), reply.counts.leechers), (BTreeSet::from([1, 2]), 2));
    // Who is in it may change.
    assert_eq!(ask(&store, &seeder(2)).unwrap().counts, Counts { seeders: 1, leechers: 1, downloaded: 0 });
    assert_eq!(store.totals(Instant::now()).unwrap().no_room, 1);
}

#[test]
fn a_silent_peer_expires_and_then_everything_does() {
    let Some(server) = Server::start(&[]) else { return };
    let store = store_with(&server.url(), |config| config.expiry = Duration::from_secs(2));
    ask(&store, &Announce { key: 5, ..seeder(1) }).unwrap();
    until("the silent one is struck off", || ask(&store, &leecher(2)).unwrap().counts.seeders == 0);
    assert_eq!(numbers(&ask(&store, &leecher(3)).unwrap()), BTreeSet::from([2]));
    store.tidy(Instant::now());
    assert_ne!(server.text("DBSIZE"), "0");
    let Value::Array(keys) = server.command(&[b"KEYS", b"*"]) else { panic!("no keys") };
    for key in keys {
        let Value::BulkString(key) = key else { panic!("{key:?}") };
        let ttl = server.command(&[b"TTL", &key]);
        assert!(matches!(ttl, Value::Int(0..=10)), "{}: {ttl:?}", String::from_utf8_lossy(&key));
    }
    until("all keys have expired", || server.text("DBSIZE") == "0");
    assert_eq!(sizes(&store, TORRENT), (0, 0, 0));
}

#[test]
fn many_that_expire_at_once_are_swept_by_and_by() {
    let Some(server) = Server::start(&[]) else { return };
    let store = store_with(&server.url(), |config| config.expiry = Duration::from_secs(2));
    let all: Vec<_> = (0..1000).map(|n| if n % 3 == 0 { seeder(n) } else { leecher(n) }).collect();
    store.announce(&all, Instant::now(), &mut Reply::default(), &mut |_, reply| assert!(reply.is_ok()));
    let (mut left, mut most) = (1001, 0);
    until("they are struck off", || {
        let counts = ask(&store, &seeder(2000)).unwrap().counts;
        let now = counts.seeders + counts.leechers;
        most = most.max(left - now);
        left = now;
        (counts.seeders, counts.leechers) == (1, 0)
    });
    assert!(most > 250, "a crowd goes faster than others: {most} at a time");
}

#[test]
fn a_swarm_whose_keys_have_come_apart_begins_anew() {
    let Some(server) = Server::start(&[]) else { return };
    // It is swept every second.
    let store = store_with(&server.url(), |config| config.expiry = Duration::from_secs(16));
    (1..=5).for_each(|number| drop(ask(&store, &leecher(number)).unwrap()));
    server.command(&[b"DEL", format!("rw:{{{}}}:4", "ff".repeat(20)).as_bytes()]);
    until("the loss is found", || ask(&store, &leecher(9)).unwrap().counts.leechers == 1);
    assert_eq!(numbers(&ask(&store, &leecher(1)).unwrap()), BTreeSet::from([9]));
}

/// What a swarm is, said in the plainest way.
#[derive(Default)]
struct Model {
    /// Address to who is there.
    peers: BTreeMap<SocketAddr, Announce>,
    downloaded: u32,
}

impl Model {
    fn announce(&mut self, announce: &Announce) {
        let elsewhere = |addr: &SocketAddr, peer: &Announce| {
            let known = (peer.peer_id, peer.key) == (announce.peer_id, announce.key) && announce.key != 0;
            *addr != announce.addr && known && addr.is_ipv4() == announce.addr.is_ipv4()
        };
        let from = self.peers.iter().find(|(addr, peer)| elsewhere(addr, peer)).map(|(addr, _)| *addr);
        let same = self.peers.get(&announce.addr).copied().filter(|peer| peer.peer_id == announce.peer_id);
        // Who stops has nothing to say of another that is there.
        if same.is_some() || announce.event != Some(Event::Stopped) {
            self.peers.remove(&announce.addr);
        }
        let there = from.and_then(|addr| self.peers.remove(&addr));
        let was = same.or(there);
        if announce.event == Some(Event::Completed) && was.is_none_or(|was| was.left > 0) {
            self.downloaded += 1;
        }
        if announce.event != Some(Event::Stopped) {
            self.peers.insert(announce.addr, *announce);
        }
    }

    fn counts(&self) -> Counts {
        let seeders = self.peers.values().filter(|peer| peer.left == 0).count() as u32;
        Counts { seeders, leechers: self.peers.len() as u32 - seeders, downloaded: self.downloaded }
    }
}

#[test]
fn whatever_peers_do_the_swarm_is_that_of_the_model() {
    let Some(server) = Server::start(&[]) else { return };
    let store = store(&server.url());
    let seed = fastrand::u64(..);
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut model = Model::default();
    for step in 0..3000 {
        let mut announce = leecher(rng.u32(1..30));
        if rng.u32(..4) == 0 {
            let bits = (0x2001_0db8 << 96) | u128::from(rng.u32(1..10));
            announce.addr = SocketAddr::from((std::net::Ipv6Addr::from_bits(bits), 6881));
        }
        announce.peer_id = peer_id(rng.u32(1..20));
        announce.key = rng.u32(..3);
        announce.left = rng.u64(..2);
        announce.both_families = rng.bool();
        announce.with_ids = rng.bool();
        announce.wanted = rng.usize(..40);
        announce.event = match rng.u32(..6) {
            0 => Some(Event::Stopped),
            1 if announce.left == 0 => Some(Event::Completed),
            _ => None,
        };
        model.announce(&announce);
        let reply = ask(&store, &announce).unwrap();
        let place = format!("seed {seed}, step {step}: {announce:?}");
        assert_eq!(reply.counts, model.counts(), "{place}");
        let addrs = addrs(&reply);
        let given: BTreeSet<_> = addrs.iter().copied().collect();
        assert_eq!(given.len(), addrs.len(), "{place}");
        let fits = |peer: &&Announce| {
            let family = announce.both_families || peer.addr.is_ipv4() == announce.addr.is_ipv4();
            family && peer.addr != announce.addr
        };
        let of_use: Vec<_> = model.peers.values().filter(fits).collect();
        let wanted = if announce.event == Some(Event::Stopped) { 0 } else { announce.wanted.min(of_use.len()) };
        assert_eq!(given.len(), wanted, "{place}");
        assert!(given.iter().all(|addr| of_use.iter().any(|peer| peer.addr == *addr)), "{place}");
        assert_eq!(reply.ids.len(), if announce.with_ids { given.len() } else { 0 }, "{place}");
        for (addr, id) in addrs.iter().zip(&reply.ids) {
            assert_eq!(model.peers[addr].peer_id, *id, "{place}");
        }
    }
}
