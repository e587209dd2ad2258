//! One seeder, many leechers at once: everybody gets a share, and a fair one.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ropewalk::policy::{Candidate, Choker, Role, SlotRule, Standing};
use ropewalk::wire::message::Message;
use ropewalk::{Config, RateLimits};

use crate::support::payload::Payload;
use crate::support::scripted::{RESERVED, Wire};
use crate::support::{Client, config};

const LEECHERS: usize = 100;
const BLOCK: u32 = 16 * 1024;
/// Requests that a leecher keeps outstanding.
const AHEAD: u32 = 8;
/// The time between two rounds of the choker: what is to happen without waiting for one is done well before.
const ROUND: Duration = Duration::from_secs(10);

/// A leecher that asks for one block after the other, over and over.
struct Leecher<'a> {
    wire: Wire,
    payload: &'a Payload,
    next: u32,
}

impl<'a> Leecher<'a> {
    /// Calls and waits to be unchoked.
    fn unchoked(payload: &'a Payload, seeder: SocketAddr) -> Self {
        let from = Ipv4Addr::new(127, 0, 0, 11);
        let mut wire = Wire::call(from, seeder, payload.metainfo.info_hash(), RESERVED).unwrap();
        wire.send(&Message::Interested).unwrap();
        wire.expect("unchoke", |message| matches!(message, Message::Unchoke));
        Self { wire, payload, next: 0 }
    }

    fn ask(&mut self) {
        let blocks = self.payload.bytes.len() as u32 / BLOCK;
        let at = u64::from(self.next % blocks * BLOCK);
        let piece_length = u64::from(self.payload.metainfo.layout().piece_length());
        let (index, begin) = ((at / piece_length) as u32, (at % piece_length) as u32);
        self.wire.send(&Message::Request { index, begin, len: BLOCK }).unwrap();
        self.next += 1;
    }

    /// Asks and receives until `enough`, which is told of each block, says so.
    fn leech(&mut self, enough: impl Fn() -> bool) {
        (0..AHEAD).for_each(|_| self.ask());
        while !enough() {
            self.wire.expect("block", |message| matches!(message, Message::Piece { .. }));
            self.ask();
        }
    }
}

/// How even shares are (Jain's index): 1 where all are equal, 1/n where one has everything.
fn evenness(shares: &[u64]) -> f64 {
    let sum: f64 = shares.iter().map(|&share| share as f64).sum();
    let squares: f64 = shares.iter().map(|&share| (share as f64).powi(2)).sum();
    sum * sum / (shares.len() as f64 * squares)
}

#[test]
fn a_hundred_leechers_at_once_share_a_limited_link_evenly() {
    /// Blocks that do not count: a limit lets a tenth of a second's go at once, to whichever leecher's thread runs first.
    const BURST: u64 = 4 * LEECHERS as u64;
    // 32 MiB/s are good for more than 100 slots.
    let limited = Config { limits: RateLimits { down: None, up: Some(32 << 20) }, ..config() };
    let payload = Payload::file("shared", 1 << 20, 65536);
    let seeder = Client::seeding_with(&payload, limited, |_| ());
    let shares: Vec<AtomicU64> = (0..LEECHERS).map(|_| AtomicU64::new(0)).collect();
    let (start, total) = (Barrier::new(LEECHERS), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for share in &shares {
            scope.spawn(|| {
                let mut leecher = Leecher::unchoked(&payload, seeder.addr());
                start.wait();
                leecher.leech(|| {
                    let before = total.fetch_add(1, Ordering::Relaxed);
                    share.fetch_add(u64::from(before >= BURST), Ordering::Relaxed);
                    before >= BURST + 30 * LEECHERS as u64
                });
            });
        }
    });
    let shares: Vec<u64> = shares.into_iter().map(AtomicU64::into_inner).collect();
    let evenness = evenness(&shares);
    println!("evenness {evenness:.3}: {shares:?}");
    assert!(evenness >= 0.9, "{evenness:.3}: {shares:?}");
    assert!(shares.iter().all(|&share| share >= 10), "{shares:?}");
}

#[test]
fn more_are_unchoked_as_soon_as_the_link_proves_fast() {
    let payload = Payload::file("fast", 1 << 20, 65536);
    let seeder = Client::seeding(&payload);
    let (begun, waiting) = (Instant::now(), AtomicU64::new(30));
    std::thread::scope(|scope| {
        for _ in 0..30 {
            scope.spawn(|| {
                let mut leecher = Leecher::unchoked(&payload, seeder.addr());
                waiting.fetch_sub(1, Ordering::Relaxed);
                leecher.leech(|| waiting.load(Ordering::Relaxed) == 0);
            });
        }
    });
    assert!(begun.elapsed() < ROUND, "{:?} until the last of them was unchoked", begun.elapsed());
}

#[test]
fn a_slot_that_nobody_wants_any_more_goes_to_the_next_of_a_hundred() {
    let mut few = config();
    few.peers.upload_slots = Some(4);
    let payload = Payload::file("queue", 1 << 18, 65536);
    let seeder = Client::seeding_with(&payload, few, |_| ());
    let done = Barrier::new(LEECHERS);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..LEECHERS {
            scope.spawn(|| {
                let mut leecher = Leecher::unchoked(&payload, seeder.addr());
                let blocks = AtomicU64::new(payload.bytes.len() as u64 / u64::from(BLOCK));
                leecher.leech(|| blocks.fetch_sub(1, Ordering::Relaxed) == 1);
                leecher.wire.send(&Message::NotInterested).unwrap();
                // It stays connected: what frees the slot is what it said.
                done.wait();
            });
        }
    });
    assert!(begun.elapsed() < 2 * ROUND, "{:?} for a hundred, four at a time", begun.elapsed());
}

#[test]
fn with_few_slots_a_hundred_leechers_take_turns_and_get_the_same_in_the_end() {
    const RATE: u64 = 100_000;
    // A clock of our own: turns take minutes.
    let start = Instant::now() + Duration::from_secs(3600);
    let mut choker = Choker::new(fastrand::Rng::with_seed(1));
    let mut peers: Vec<Candidate> = (0..LEECHERS as u32)
        .map(|id| Candidate {
            id,
            interested: true,
            rate_down: 0,
            rate_up: 0,
            last_block_from: None,
            unchoked_since: None,
            uploaded_since_unchoke: 0,
            connected: start,
            snubbed: false,
            upload_only: false,
            standing: Standing::Unknown,
        })
        .collect();
    let mut shares = vec![0; LEECHERS];
    for round in 0..1000 {
        let now = start + round * ROUND;
        let unchoked = choker.round(Role::Seeding, &peers, 8, now);
        assert_eq!(unchoked.len(), 8);
        for peer in &mut peers {
            let serve = unchoked.contains(&peer.id);
            let since = peer.unchoked_since.filter(|_| serve);
            let before = since.map_or(0, |_| peer.uploaded_since_unchoke);
            let bytes = if serve { RATE * ROUND.as_secs() } else { 0 };
            (peer.unchoked_since, peer.rate_up) = (serve.then(|| since.unwrap_or(now)), bytes / ROUND.as_secs());
            peer.uploaded_since_unchoke = before + bytes;
            shares[peer.id as usize] += bytes;
        }
        // A turn is a minute at most, so after 100 / 8 minutes everybody has had one.
        assert!(round < 6 * 13 || shares.iter().all(|&share| share > 0), "{shares:?}");
    }
    assert!(evenness(&shares) > 0.95, "{shares:?}");
}

#[test]
fn between_rounds_slots_only_grow() {
    let mut rule = SlotRule::growing();
    assert_eq!(rule.update(None, 0), 8);
    assert!(!rule.grow(None, 10 << 10) && rule.slots() == 8);
    assert!(rule.grow(None, 10 << 20) && rule.slots() == 78);
    assert!(!rule.grow(None, 0) && rule.slots() == 78);
    let mut fixed = SlotRule::fixed(3);
    assert!(!fixed.grow(None, 10 << 20) && fixed.slots() == 3);
}
