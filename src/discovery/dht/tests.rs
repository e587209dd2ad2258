//! Whole nodes: one that others query, attack and lie to, and thousands.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::sim::{Network, Plan, hops, info_hash, plan};
use super::{
    AnnouncePort, Body, Dht, DhtEvent, DhtSettings, Family, Message, Method, NodeId, NodeInfo, Reply, SampleFrom,
    SavedDht, Summary, Want,
};
use crate::metainfo::InfoHash;
use crate::wire::item::{Item, ItemValue};
use crate::wire::krpc::{ErrorCode, RemoteError};

const SEEDING: AnnouncePort = AnnouncePort { port: 7000, implied: false, seed: true };

#[test]
fn what_was_announced_is_found_while_a_third_of_the_nodes_are_silent_or_lie() {
    let mut network = Network::grown(plan(2_000, 0.15, 0.18), Instant::now());
    for torrent in 0..20 {
        let announcer = network.some_honest();
        let announce = network.tell(announcer, |dht, now| dht.get_peers(info_hash(torrent), Some(SEEDING), now));
        let events = network.finish(announcer, announce);
        assert!(summary(&events).stored >= 4, "{:?}", summary(&events));
        let asker = network.some_honest();
        let lookup = network.tell(asker, |dht, now| dht.get_peers(info_hash(torrent), None, now));
        let wanted = SocketAddr::new(network.addr(announcer).ip(), 7000);
        let events = network.finish(asker, lookup);
        assert!(peers(&events).contains(&wanted), "torrent {torrent}");
        let summary = summary(&events);
        assert!(summary.asked <= 120 && summary.hops <= 8, "{summary:?}");
    }
}

#[test]
fn the_hops_of_a_lookup_grow_with_the_logarithm_of_the_number_of_nodes() {
    let mut last = None;
    for nodes in [125_u32, 250, 500, 1_000, 2_000, 4_000] {
        let mut network = Network::grown(plan(nodes as usize, 0.0, 0.0), Instant::now());
        let (mean, most) = hops(&mut network, 20);
        let log = f64::from(nodes).log2();
        assert!(mean <= 1.0 + log / 4.0, "{mean} hops among {nodes} nodes");
        assert!(f64::from(most) <= 1.0 + log / 2.0, "{most} hops among {nodes} nodes");
        let growth = mean - last.unwrap_or(mean);
        assert!(growth < 1.0, "{growth} more hops for twice as many nodes, {nodes}");
        last = Some(mean);
    }
}

#[test]
fn items_are_found_in_their_latest_version_among_nodes_that_lie() {
    let mut network = Network::grown(plan(500, 0.15, 0.18), Instant::now());
    let (author, reader) = (network.some_honest(), network.some_honest());
    let version = |seq| Item::sign(&[7; 32], b"salt", seq, ItemValue::from_bytes(&[seq as u8]).unwrap()).unwrap();
    let fixed = Item::immutable(ItemValue::from_bytes(b"Hello World!").unwrap());
    for (item, salt) in [(version(1), &b"salt"[..]), (version(2), b"salt"), (fixed, b"")] {
        let put = network.tell(author, |dht, now| dht.put_item(item.clone(), None, now));
        assert!(summary(&network.finish(author, put)).stored >= 4);
        let get = network.tell(reader, |dht, now| dht.get_item(item.target(), salt, now));
        let events = network.finish(reader, get);
        let found = events.iter().rev().find_map(|event| match event {
            DhtEvent::Item { item, .. } => Some(item),
            _ => None,
        });
        assert_eq!(found, Some(&item));
    }
    let stale = network.tell(author, |dht, now| dht.put_item(version(1), None, now));
    let events = network.finish(author, stale);
    assert!(matches!(summary(&events).refused, Some(RemoteError { code: ErrorCode::Sequence, .. })));
    let swap = network.tell(author, |dht, now| dht.put_item(version(3), Some(1), now));
    let events = network.finish(author, swap);
    assert!(matches!(summary(&events).refused, Some(RemoteError { code: ErrorCode::Swapped, .. })));
}

#[test]
fn a_scrape_tells_about_how_many_there_are_and_a_sample_what() {
    let mut network = Network::grown(plan(200, 0.0, 0.0), Instant::now());
    let mut announcers = HashSet::new();
    while announcers.len() < 30 {
        let node = network.some_honest();
        let announce = AnnouncePort { seed: announcers.len() < 10, ..SEEDING };
        if announcers.insert(node) {
            let lookup = network.tell(node, |dht, now| dht.get_peers(info_hash(1), Some(announce), now));
            network.finish(node, lookup);
        }
    }
    let scrape = network.tell(0, |dht, now| dht.scrape(info_hash(1), now));
    let events = network.finish(0, scrape);
    let DhtEvent::Scraped { seeds, peers, .. } = events[events.len() - 2] else { panic!("{events:?}") };
    assert!((9..=11).contains(&seeds) && (18..=22).contains(&peers), "{seeds} seeds, {peers} peers");

    let sample = |dht: &mut Dht, now| dht.sample(SampleFrom::Toward(info_hash(1).into()), now);
    let lookup = network.tell(0, sample);
    let samples = |events: &[DhtEvent]| {
        let samples = events.iter().filter_map(|event| match event {
            DhtEvent::Samples { samples, .. } => Some(samples.clone()),
            _ => None,
        });
        samples.collect::<Vec<_>>()
    };
    let first = samples(&network.finish(0, lookup));
    assert!(first.iter().any(|samples| samples.samples.contains(&info_hash(1)) && samples.num == 1));
    let again = network.tell(0, sample);
    assert!(samples(&network.finish(0, again)).is_empty(), "nobody is asked again within the interval");
}

#[test]
fn strangers_find_each_other_through_one_node_and_know_it() {
    let mut network = Network::strangers(Plan { loss: 0.0, ..plan(40, 0.0, 0.0) }, Instant::now());
    network.pass(Duration::from_secs(3));
    assert_eq!(network.events(0), [DhtEvent::Alone { family: Family::V4 }]);
    let first = network.addr(0);
    (1..40).for_each(|node| network.tell(node, |dht, now| dht.add_node(first, now)));
    network.pass(Duration::from_secs(60));
    for node in 0..40 {
        let events = network.events(node);
        let joined = events.iter().any(|event| matches!(event, DhtEvent::Bootstrapped { .. }));
        assert!(joined, "{node}: {events:?}");
    }
    let announce = network.tell(7, |dht, now| dht.get_peers(info_hash(1), Some(SEEDING), now));
    network.finish(7, announce);
    let lookup = network.tell(31, |dht, now| dht.get_peers(info_hash(1), None, now));
    assert!(!peers(&network.finish(31, lookup)).is_empty());
    // Somebody who comes back knows where to begin.
    let saved = network.tell(31, |dht, _| dht.save());
    assert!(saved.nodes.len() > 8, "{} nodes", saved.nodes.len());
    assert!(network.tell(31, |dht, _| dht.stats().nodes_v4) >= saved.nodes.len());
}

#[test]
fn one_that_is_alone_asks_less_and_less_often() {
    let mut now = Instant::now();
    let settings = DhtSettings { bootstrap: vec![stranger(1)], families: vec![Family::V4], ..DhtSettings::default() };
    let mut dht = Dht::new(settings, SavedDht::default(), 1, now);
    let end = now + Duration::from_secs(3600);
    let mut asked = Vec::new();
    while now < end {
        dht.handle_timeout(now);
        asked.extend(std::iter::from_fn(|| dht.poll_transmit()).map(|_| now));
        assert!(asked.len() < 1000);
        now = dht.poll_timeout().unwrap().max(now + Duration::from_millis(1));
    }
    assert!((8..20).contains(&asked.len()), "{} in an hour", asked.len());
    assert_eq!(dht.poll_event(), Some(DhtEvent::Alone { family: Family::V4 }));
    assert_eq!(dht.poll_event(), None);
}

#[test]
fn two_that_know_each_other_only_find_what_the_other_announced() {
    let mut network = Network::strangers(Plan { loss: 0.0, ..plan(2, 0.0, 0.0) }, Instant::now());
    let first = network.addr(0);
    network.tell(1, |dht, now| dht.add_node(first, now));
    network.pass(Duration::from_secs(10));
    let announce = network.tell(0, |dht, now| dht.get_peers(info_hash(1), Some(SEEDING), now));
    assert_eq!(summary(&network.finish(0, announce)).stored, 1);
    // It is the other one that stored it.
    let lookup = network.tell(1, |dht, now| dht.get_peers(info_hash(1), None, now));
    assert_eq!(peers(&network.finish(1, lookup)), HashSet::from([SocketAddr::new(first.ip(), 7000)]));
}

#[test]
fn nothing_is_stored_without_the_token_of_the_address_that_asks() {
    let now = Instant::now();
    let mut dht = node(DhtSettings::default(), now);
    let target = info_hash(1);
    let token = |reply: Option<Body>| match reply {
        Some(Body::Reply(Reply { token: Some(token), .. })) => token,
        other => panic!("{other:?} instead of a token"),
    };
    let others = token(ask(&mut dht, stranger(2), get_peers(target), now));
    let own = token(ask(&mut dht, stranger(1), get_peers(target), now));
    let item = Item::immutable(ItemValue::from_bytes(b"x").unwrap()).as_unverified().clone();
    let announce = |token| Method::AnnouncePeer { info_hash: target, port: 1, implied_port: true, token, seed: false };
    let put = |token| Method::Put { item: item.clone(), cas: None, token };
    let refused = |reply| matches!(reply, Some(Body::Error(RemoteError { code: ErrorCode::Protocol, .. })));
    for token in [Vec::new(), vec![0; 8], others] {
        assert!(refused(ask(&mut dht, stranger(1), announce(token.clone()), now)));
        assert!(refused(ask(&mut dht, stranger(1), put(token), now)));
    }
    assert_eq!((dht.stats().peers, dht.stats().items), (0, 0));

    assert!(matches!(ask(&mut dht, stranger(1), announce(own.clone()), now), Some(Body::Reply(_))));
    assert!(matches!(ask(&mut dht, stranger(1), put(own.clone()), now), Some(Body::Reply(_))));
    assert_eq!((dht.stats().peers, dht.stats().items), (1, 1));
    let Some(Body::Reply(reply)) = ask(&mut dht, stranger(2), get_peers(target), now) else { panic!("no reply") };
    assert_eq!(reply.values, [stranger(1)]);

    let mut forged =
        Item::sign(&[7; 32], b"", 1, ItemValue::from_bytes(b"x").unwrap()).unwrap().as_unverified().clone();
    forged.value = ItemValue::from_bytes(b"y").unwrap();
    let reply = ask(&mut dht, stranger(1), Method::Put { item: forged, cas: None, token: own.clone() }, now);
    assert!(matches!(reply, Some(Body::Error(RemoteError { code: ErrorCode::Signature, .. }))));
    assert!(refused(ask(&mut dht, stranger(1), announce(own), now + Duration::from_secs(601))));
    assert_eq!((dht.stats().peers, dht.stats().items), (1, 1));
}

#[test]
fn a_flood_of_senders_leaves_nothing_behind_and_gets_at_most_one_answer_each() {
    // Bench `dht` does it with a million.
    let senders = if cfg!(debug_assertions) { 50_000 } else { 1_000_000 };
    let mut now = Instant::now();
    let mut dht = node(DhtSettings::default(), now);
    let (mut answers, mut pings) = (0, 0);
    for n in 0..senders {
        now += Duration::from_micros(10);
        let method = if n % 2 == 0 { get_peers(info_hash(1)) } else { find_node() };
        dht.handle_datagram(stranger(n), &query(id(n), method), now);
        while let Some((to, bytes)) = dht.poll_transmit() {
            match Message::decode(&bytes).unwrap().body {
                Body::Query(_) => pings += 1,
                _ => answers += usize::from(to == stranger(n)),
            }
        }
        dht.handle_timeout(now);
    }
    let seconds = senders.div_ceil(100_000);
    assert_eq!(answers, senders as usize);
    assert!(pings <= 10 * seconds + 1, "{pings} in {seconds} s");
    let stats = dht.stats();
    assert_eq!((stats.nodes_v4, stats.peers, stats.items, stats.info_hashes), (0, 0, 0, 0));
    assert!(stats.in_flight <= 20, "{} in flight", stats.in_flight);
}

#[test]
fn whose_address_is_abused_gets_little() {
    let mut now = Instant::now();
    let mut dht = node(DhtSettings::default(), now);
    let mut bytes = 0;
    for _ in 0..20_000 {
        now += Duration::from_millis(3);
        dht.handle_datagram(stranger(1), &query(id(1), get_peers(info_hash(1))), now);
        bytes += std::iter::from_fn(|| dht.poll_transmit()).map(|(_, bytes)| bytes.len()).sum::<usize>();
        dht.handle_timeout(now);
    }
    // 4 KiB a second for a minute, and the burst.
    assert!(bytes <= 71 * 4096, "{bytes} bytes");
    assert!(dht.stats().dropped > 10_000);
}

#[test]
fn a_read_only_node_says_so_and_is_neither_heard_nor_kept() {
    let now = Instant::now();
    let settings = DhtSettings { read_only: true, ..DhtSettings::default() };
    let mut dht = node(settings, now);
    assert_eq!(ask(&mut dht, stranger(1), Method::Ping, now), None);
    dht.ping(stranger(1), now);
    let (_, ping) = dht.poll_transmit().unwrap();
    let mut other = node(DhtSettings::default(), now);
    other.handle_datagram(stranger(2), &ping, now);
    let sent: Vec<_> = std::iter::from_fn(|| other.poll_transmit()).collect();
    assert_eq!(sent.len(), 1, "an answer, and no question");
}

#[test]
fn our_id_follows_from_the_address_that_others_see() {
    let now = Instant::now();
    let mut dht = node(DhtSettings::default(), now);
    let ours = SocketAddr::from((Ipv4Addr::new(45, 1, 2, 3), 6881));
    for n in 0..6 {
        dht.ping(stranger(n * 1000), now);
        let (to, bytes) = dht.poll_transmit().unwrap();
        let mut reply = Message::reply(Message::decode(&bytes).unwrap().transaction, Reply::new(id(n)));
        reply.ip = Some(ours);
        dht.handle_datagram(to, &reply.encode(), now);
    }
    assert!(std::iter::from_fn(|| dht.poll_event()).any(|event| event == DhtEvent::ExternalAddress { ip: ours.ip() }));
    let saved = dht.save();
    assert!(saved.id_v4.unwrap().fits(ours.ip()));
    assert_eq!(dht.stats().nodes_v4, 6, "who was known still is");
    assert_eq!(dht.stats().external_v4, Some(ours.ip()));
}

#[test]
fn an_answer_counts_from_where_the_question_went_and_once() {
    let now = Instant::now();
    let mut dht = node(DhtSettings::default(), now);
    let lookup = dht.ping(stranger(1), now);
    let (to, bytes) = dht.poll_transmit().unwrap();
    let reply = Message::reply(Message::decode(&bytes).unwrap().transaction, Reply::new(id(1))).encode();
    dht.handle_datagram(stranger(2), &reply, now);
    assert_eq!(dht.stats().nodes_v4, 0);
    (0..2).for_each(|_| dht.handle_datagram(to, &reply, now));
    let events: Vec<_> = std::iter::from_fn(|| dht.poll_event()).filter(|event| event.lookup().is_some()).collect();
    assert!(matches!(events[..], [DhtEvent::Pong { .. }, DhtEvent::Done { lookup: done, .. }] if done == lookup));
    assert_eq!(dht.stats().nodes_v4, 1);
}

#[test]
fn both_families_are_named_on_request_and_each_has_its_own_table() {
    let now = Instant::now();
    let mut dht = node(DhtSettings::default(), now);
    let v6 = |n: u16| SocketAddr::from(([0x2a00 + n, 0, 0, 0, 0, 0, 0, 1], 6881));
    dht.plant((0..4).map(|n| NodeInfo { id: id(n), addr: stranger(n * 1000) }), now);
    dht.plant((0..3).map(|n| NodeInfo { id: id(9 + u32::from(n)), addr: v6(n) }), now);
    let named = |dht: &mut Dht, from, want| match ask(dht, from, Method::FindNode { target: id(1), want }, now) {
        Some(Body::Reply(reply)) => [Family::V4, Family::V6].map(|family| reply.nodes_of(family).count()),
        other => panic!("{other:?} instead of nodes"),
    };
    assert_eq!(named(&mut dht, stranger(7), Want::default()), [4, 0]);
    assert_eq!(named(&mut dht, v6(9), Want::default()), [0, 3]);
    assert_eq!(named(&mut dht, v6(9), Want::BOTH), [4, 3]);
}

#[test]
fn unknown_queries_are_answered_with_nodes_or_an_error_and_noise_not_at_all() {
    let now = Instant::now();
    let mut dht = node(DhtSettings::default(), now);
    dht.plant([NodeInfo { id: id(1), addr: stranger(1) }], now);
    dht.handle_datagram(
        stranger(2),
        b"d1:ad2:id20:aaaaaaaaaaaaaaaaaaaa6:target20:bbbbbbbbbbbbbbbbbbbbe1:q4:vote1:t1:x1:y1:qe",
        now,
    );
    let (_, bytes) = dht.poll_transmit().unwrap();
    assert!(matches!(Message::decode(&bytes).unwrap().body, Body::Reply(Reply { nodes, .. }) if nodes.len() == 1));
    std::iter::from_fn(|| dht.poll_transmit()).count();
    dht.handle_datagram(stranger(2), b"d1:ad2:id20:aaaaaaaaaaaaaaaaaaaae1:q4:vote1:t1:x1:y1:qe", now);
    let (_, bytes) = dht.poll_transmit().unwrap();
    let body = Message::decode(&bytes).unwrap().body;
    assert!(matches!(body, Body::Error(RemoteError { code: ErrorCode::MethodUnknown, .. })));
    for noise in [&b""[..], b"d", b"i1e", b"de", &[0xff; 1500], b"d1:rd2:id20:aaaaaaaaaaaaaaaaaaaae1:t4:xxxx1:y1:re"] {
        dht.handle_datagram(stranger(3), noise, now);
        assert_eq!(dht.poll_transmit(), None);
    }
}

#[test]
fn a_lookup_that_is_stopped_is_not_heard_of_again() {
    let mut network = Network::grown(plan(100, 0.0, 0.0), Instant::now());
    let lookup = network.tell(0, |dht, now| dht.get_peers(info_hash(1), None, now));
    network.pass(Duration::from_millis(100));
    network.tell(0, |dht, _| dht.stop_lookup(lookup));
    assert_eq!(network.tell(0, |dht, _| (dht.stats().lookups, dht.stats().in_flight)), (0, 0));
    network.pass(Duration::from_secs(5));
    assert!(network.events(0).is_empty());
}

/// A node that has nobody to ask.
fn node(settings: DhtSettings, now: Instant) -> Dht {
    let mut dht = Dht::new(settings, SavedDht::default(), 1, now);
    dht.handle_timeout(now);
    assert_eq!(dht.poll_transmit(), None);
    dht
}

/// Lets somebody ask a node; what it answers.
fn ask(dht: &mut Dht, from: SocketAddr, method: Method, now: Instant) -> Option<Body> {
    dht.handle_datagram(from, &query(id(u32::from(from.port())), method), now);
    let sent: Vec<_> = std::iter::from_fn(|| dht.poll_transmit()).collect();
    let mut messages = sent.into_iter().map(|(to, bytes)| {
        assert_eq!(to, from);
        Message::decode(&bytes).unwrap()
    });
    let answer = messages.find(|message| !matches!(message.body, Body::Query(_)))?;
    assert_eq!(answer.ip, Some(from), "BEP 42");
    Some(answer.body)
}

fn query(id: NodeId, method: Method) -> Vec<u8> {
    Message::query(*b"aa", id, method).encode()
}

fn get_peers(info_hash: InfoHash) -> Method {
    Method::GetPeers { info_hash, want: Want::default(), noseed: false, scrape: false }
}

fn find_node() -> Method {
    Method::FindNode { target: id(1), want: Want::default() }
}

fn id(n: u32) -> NodeId {
    info_hash(1_000_000 + u64::from(n)).into()
}

/// An address on the Internet for each number.
fn stranger(n: u32) -> SocketAddr {
    (Ipv4Addr::from_bits(0x0b00_0000 + n), 6881).into()
}

fn summary(events: &[DhtEvent]) -> &Summary {
    match events.last() {
        Some(DhtEvent::Done { summary, .. }) => summary,
        other => panic!("{other:?} instead of the end"),
    }
}

fn peers(events: &[DhtEvent]) -> HashSet<SocketAddr> {
    let peers = events.iter().filter_map(|event| match event {
        DhtEvent::Peers { peers, .. } => Some(peers),
        _ => None,
    });
    peers.flatten().copied().collect()
}
