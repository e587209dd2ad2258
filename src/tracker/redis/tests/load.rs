//! How many announces go through one Redis, and how long they take. Not a check: it is run by name, in release mode, and
//! prints what it finds.
//!
//! `cargo test --release --lib redis::tests::load -- --ignored --nocapture`

use std::sync::atomic::{AtomicBool, AtomicU64};

use super::*;

const PEERS: u32 = 50;
const SWARMS: u32 = 4000;
const TIME: Duration = Duration::from_secs(8);

/// Announces of that many threads, each in batches of that size; as many a second in all as asked for, or as go through.
struct Load {
    threads: u32,
    batch: usize,
    rate: Option<f64>,
}

#[test]
#[ignore = "a measurement"]
fn load() {
    let Some(server) = Server::start(&["--appendonly", "no"]) else { return };
    let store = store(&server.url());
    for peer in 0..PEERS {
        let batch: Vec<_> = (0..SWARMS).map(|swarm| someone(swarm, peer)).collect();
        for part in batch.chunks(100) {
            store.announce(part, Instant::now(), &mut Reply::default(), &mut |_, reply| assert!(reply.is_ok()));
        }
    }
    println!("{SWARMS} swarms of {PEERS} peers, a third of them seeders, 50 peers wanted");
    for (threads, batch) in [(2, 64), (4, 64), (8, 16), (32, 1)] {
        let most = run(&store, &Load { threads, batch, rate: None });
        run(&store, &Load { threads, batch, rate: Some(15_000.0) });
        assert!(most > 0.0);
    }
    let memory = server.text("INFO memory");
    let used = memory.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    println!("{} bytes of Redis for each peer", used.trim().parse::<u32>().unwrap() / (SWARMS * PEERS));
}

fn someone(swarm: u32, peer: u32) -> Announce {
    let mut hash = [7; 20];
    hash[..4].copy_from_slice(&swarm.wrapping_mul(0x9e37_79b9).to_be_bytes());
    let left = u64::from(!peer.is_multiple_of(3));
    Announce { info_hash: InfoHash::new(hash), key: peer + 1, left, uploaded: u64::from(peer), ..leecher(peer) }
}

/// Announces a second.
fn run(store: &RedisStore, load: &Load) -> f64 {
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Instant::now();
    let mut times: Vec<Duration> = thread::scope(|scope| {
        let threads: Vec<_> = (0..load.threads)
            .map(|_| {
                let (stop, done) = (&stop, &done);
                scope.spawn(move || {
                    let mut times = Vec::new();
                    let mut scratch = Reply::default();
                    let every = load
                        .rate
                        .map(|rate| Duration::from_secs_f64(f64::from(load.threads) * load.batch as f64 / rate));
                    let mut due = Instant::now() + every.unwrap_or_default().mul_f64(fastrand::f64());
                    while !stop.load(Ordering::Relaxed) {
                        let random = |_| someone(fastrand::u32(..SWARMS), fastrand::u32(..PEERS));
                        let batch: Vec<_> = (0..load.batch).map(random).collect();
                        if let Some(every) = every {
                            thread::sleep(due.saturating_duration_since(Instant::now()));
                            // Latency counts from when it should have been sent, so that a stall is not left out.
                            due += every;
                        }
                        let sent = every.map_or_else(Instant::now, |every| due - every);
                        store.announce(&batch, sent, &mut scratch, &mut |_, reply| {
                            assert!(reply.unwrap().again.is_none())
                        });
                        times.push(sent.elapsed());
                        done.fetch_add(batch.len() as u64, Ordering::Relaxed);
                    }
                    times
                })
            })
            .collect();
        thread::sleep(TIME);
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let rate = done.into_inner() as f64 / start.elapsed().as_secs_f64();
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "{} threads, batches of {}, {}: {rate:.0} announces/s, median {:.2} ms, p99 {:.2} ms",
        load.threads,
        load.batch,
        load.rate.map_or("at most".to_owned(), |rate| format!("{rate:.0}/s asked for")),
        at(0.5),
        at(0.99),
    );
    rate
}
