//! A node of the DHT: how many queries it answers on one core, what a flood of a million senders leaves in memory, and how
//! many hops lookups take in simulated networks of many sizes.
//!
//! `cargo bench --bench dht` writes `hops.svg` and `results.json` beside this file; with `-- --test` it is brief and writes
//! nothing. Where a number is out of what is promised it fails.

mod chart;
#[path = "../../src/discovery/dht/sim.rs"]
#[allow(dead_code)]
mod sim;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use ropewalk::InfoHash;
use ropewalk::dht::{Dht, DhtEvent, DhtSettings, LookupId, SavedDht};
use ropewalk::wire::krpc::{Body, Message, Method, NodeId, NodeInfo, Reply, Want};
use ropewalk::wire::tracker::Family;
use serde_json::json;

use sim::{Network, hops, info_hash, plan};

/// Queries a second on one core at the least.
const PROMISED: f64 = 10_000.0;

/// How much memory a flood may leave behind, in bytes: mostly the table of sources, which is there before.
const MAX_LEFT: u64 = 4 << 20;

fn main() {
    let brief = std::env::args().any(|arg| arg == "--test");
    let (queries, senders) = if brief { (300_000, 1_000_000) } else { (3_000_000, 1_000_000) };

    // First, while no memory lies around that was used before.
    let left = left_by_flood(senders);
    println!("{:.2} MiB more memory after queries of {senders} senders", left as f64 / f64::from(1 << 20));
    assert!(left <= MAX_LEFT, "{left} bytes more after a flood");

    let rate = queries_a_second(queries);
    println!("{rate:.0} queries/s answered in processor time, find_node and get_peers in turns");
    assert!(rate >= PROMISED, "less than {PROMISED} queries/s");

    let sizes: &[usize] = if brief { &[125, 500, 2_000] } else { &[125, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000] };
    let sound: Vec<_> = sizes.iter().map(|&nodes| (nodes, measure(nodes, 0.0, 0.0))).collect();
    let hostile: Vec<_> = sizes.iter().map(|&nodes| (nodes, measure(nodes, 0.15, 0.18))).collect();
    for ((nodes, sound), (_, hostile)) in sound.iter().zip(&hostile) {
        println!("{nodes} nodes: {sound:.2} hops; {hostile:.2} where a third is silent or lies");
        // Each hop comes nearer by 3 bits at the least: a node knows 8 of each bucket.
        assert!(*sound <= 1.0 + (*nodes as f64).log2() / 3.0, "more than O(log n) hops");
    }
    if !brief {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/dht");
        std::fs::write(here.join("hops.svg"), chart::hops(&sound, &hostile)).expect("the folder of this bench");
        let points = |points: &[(usize, f64)]| {
            points.iter().map(|(nodes, hops)| json!({ "nodes": nodes, "hops": hops })).collect::<Vec<_>>()
        };
        let results = json!({
            "queries_per_second": rate.round(),
            "bytes_left_by_1000000_senders": left,
            "hops": points(&sound),
            "hops_where_a_third_is_silent_or_lies": points(&hostile),
        });
        std::fs::write(here.join("results.json"), format!("{results:#}\n")).expect("the folder of this bench");
    }
}

/// Answers queries of many senders, limits and all.
fn queries_a_second(queries: u32) -> f64 {
    const SENDERS: u32 = 100_000;
    let mut now = Instant::now();
    let mut dht = busy_node(now);
    let datagrams: Vec<_> = (0..SENDERS).map(query).collect();
    let (begin, mut answered) = (processor_time(), 0);
    for n in 0..queries {
        let (from, bytes) = &datagrams[(n % SENDERS) as usize];
        // As if 10,000 came in a second: no sender asks more often than it may.
        now += Duration::from_micros(100);
        dht.handle_datagram(*from, bytes, now);
        while let Some((to, _)) = dht.poll_transmit() {
            answered += u32::from(to == *from);
        }
        if dht.poll_timeout().is_some_and(|due| due <= now) {
            dht.handle_timeout(now);
        }
    }
    assert!(answered >= queries, "{answered} answers to {queries} queries");
    f64::from(queries) / (processor_time() - begin).as_secs_f64()
}

/// How many bytes more are resident after queries of so many senders.
fn left_by_flood(senders: u32) -> u64 {
    let mut now = Instant::now();
    let mut dht = busy_node(now);
    let before = resident();
    for n in 0..senders {
        let (from, bytes) = query(n);
        now += Duration::from_micros(10);
        dht.handle_datagram(from, &bytes, now);
        while dht.poll_transmit().is_some() {}
        dht.handle_timeout(now);
    }
    let stats = dht.stats();
    assert!(stats.in_flight < 100 && stats.peers <= 5_000 && stats.items == 0, "{stats:?}");
    resident().saturating_sub(before)
}

/// A node with a full table and some torrents.
fn busy_node(now: Instant) -> Dht {
    let mut dht = Dht::new(DhtSettings::default(), SavedDht::default(), 1, now);
    let mut rng = fastrand::Rng::with_seed(1);
    let nodes = (0..5_000).map(|n: u32| NodeInfo {
        id: NodeId::new(std::array::from_fn(|_| rng.u8(..))),
        addr: (Ipv4Addr::from_bits(0x5000_0000 + (n << 9)), 6881).into(),
    });
    dht.plant(nodes, now);
    // Each from an address of its own: there is a limit on what one may draw.
    for n in 0..5_000 {
        let from = SocketAddr::from((Ipv4Addr::from_bits(0x4000_0000 + n), 7000));
        announce(&mut dht, info_hash(u64::from(n) % 100), from, now);
    }
    assert_eq!(dht.stats().peers, 5_000);
    dht
}

fn announce(dht: &mut Dht, info_hash: InfoHash, from: SocketAddr, now: Instant) {
    let id = NodeId::new([7; 20]);
    let ask = Method::GetPeers { info_hash, want: Want::default(), noseed: false, scrape: false };
    dht.handle_datagram(from, &Message::query(*b"aa", id, ask).encode(), now);
    let sent = std::iter::from_fn(|| dht.poll_transmit()).collect::<Vec<_>>();
    let token = sent.iter().find_map(|(_, bytes)| match Message::decode(bytes).ok()?.body {
        Body::Reply(Reply { token, .. }) => token,
        _ => None,
    });
    let token = token.expect("every answer to get_peers has a token");
    let tell = Method::AnnouncePeer { info_hash, port: from.port(), implied_port: false, token, seed: false };
    dht.handle_datagram(from, &Message::query(*b"aa", id, tell).encode(), now);
    while dht.poll_transmit().is_some() {}
}

/// The query of a sender: `find_node` from one, `get_peers` from the next.
fn query(n: u32) -> (SocketAddr, Vec<u8>) {
    let target = NodeId::from(info_hash(u64::from(n) % 1_000));
    let method = match n % 2 {
        0 => Method::FindNode { target, want: Want::default() },
        _ => Method::GetPeers { info_hash: target.into(), want: Want::default(), noseed: false, scrape: false },
    };
    let id = NodeId::from(info_hash(1_000_000 + u64::from(n)));
    ((Ipv4Addr::from_bits(0x0b00_0000 + n), 6881).into(), Message::query(*b"aa", id, method).encode())
}

/// The mean number of hops in a network of so many nodes.
fn measure(nodes: usize, silent: f64, liars: f64) -> f64 {
    hops(&mut Network::grown(plan(nodes, silent, liars), Instant::now()), 100).0
}

/// How long this thread had a processor so far: others on the machine do not count.
fn processor_time() -> Duration {
    rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).try_into().expect("no time before the first")
}

/// The memory of this process that is resident, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()).unwrap_or_default() * 1024
}
