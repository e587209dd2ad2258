//! The picker in a large swarm: 100,000 pieces, 1,000 peers of which 50 are seeds.
//!
//! `cargo bench --bench picker`

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ropewalk::bits::Bits;
use ropewalk::policy::{Mode, Picker};

const PIECES: u32 = 100_000;
const PEERS: u32 = 1_000;
const SEEDS: u32 = 50;

criterion_group!(benches, picker);
criterion_main!(benches);

fn picker(criterion: &mut Criterion) {
    let mut rng = fastrand::Rng::with_seed(1);
    let (mut picker, peers) = swarm(&mut rng);
    let mut out = Vec::new();

    for (name, has) in [
        ("pick_4_from_a_seed", Bits::full(PIECES)),
        ("pick_4_from_a_peer_with_half", some(&mut rng, 0.5)),
        ("pick_4_from_a_peer_with_a_thousandth", some(&mut rng, 0.001)),
    ] {
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| {
                picker.pick(black_box(&has), 4, &mut out);
                out.drain(..).for_each(|piece| assert!(picker.give_back(piece)));
            });
        });
    }

    // The worst for a pick that reads the rarest first: what this peer has is what most have.
    criterion.bench_function("pick_4_from_a_peer_with_the_commonest_half", |bencher| {
        let mut order: Vec<u32> = (0..PIECES).collect();
        order.sort_unstable_by_key(|&piece| picker.availability(piece));
        let mut has = Bits::new(PIECES);
        for &piece in &order[order.len() / 2..] {
            has.set(piece);
        }
        bencher.iter(|| {
            picker.pick(black_box(&has), 4, &mut out);
            out.drain(..).for_each(|piece| assert!(picker.give_back(piece)));
        });
    });

    // As while downloading: each peer gets a piece now and then, and says so.
    criterion.bench_function("pick_1_after_20_haves", |bencher| {
        let mut peers = peers.clone();
        bencher.iter(|| {
            for _ in 0..20 {
                let peer = rng.usize(0..peers.len());
                let piece = rng.u32(0..PIECES);
                if peers[peer].set(piece) {
                    picker.peer_has(piece);
                } else if peers[peer].clear(piece) {
                    picker.peer_lost(piece);
                }
            }
            let from = rng.usize(0..peers.len());
            picker.pick(black_box(&peers[from]), 1, &mut out);
            out.drain(..).for_each(|piece| assert!(picker.give_back(piece)));
        });
    });

    criterion.bench_function("pick_4_sequentially", |bencher| {
        picker.set_mode(Mode::Sequential);
        bencher.iter(|| {
            picker.pick(black_box(&peers[1]), 4, &mut out);
            out.drain(..).for_each(|piece| assert!(picker.give_back(piece)));
        });
        picker.set_mode(Mode::RarestFirst);
    });

    criterion.bench_function("have", |bencher| {
        bencher.iter(|| {
            let piece = rng.u32(0..PIECES);
            picker.peer_has(black_box(piece));
            picker.peer_lost(piece);
        });
    });

    criterion.bench_function("join_and_leave_with_half", |bencher| {
        let has = some(&mut rng, 0.5);
        bencher.iter(|| {
            picker.peer_joined(black_box(&has));
            picker.peer_left(&has);
        });
    });

    criterion.bench_function("interesting_for_1000_peers", |bencher| {
        bencher.iter(|| peers.iter().filter(|has| picker.interesting(has)).count());
    });

    criterion.bench_function("download_everything", |bencher| {
        bencher.iter_batched(
            || swarm(&mut fastrand::Rng::with_seed(2)),
            |(mut picker, peers)| {
                let mut out = Vec::new();
                for has in peers.iter().cycle() {
                    picker.pick(has, 4, &mut out);
                    out.drain(..).for_each(|piece| assert!(picker.got(piece)));
                    if picker.wanted_left() == 0 {
                        break;
                    }
                }
                picker
            },
            BatchSize::PerIteration,
        );
    });
}

/// A picker past its random phase, with all peers joined.
fn swarm(rng: &mut fastrand::Rng) -> (Picker, Vec<Bits>) {
    let mut picker = Picker::new(PIECES, rng.fork());
    (0..4).for_each(|piece| assert!(picker.got(piece)));
    let peers: Vec<Bits> = (0..PEERS)
        .map(|peer| if peer % (PEERS / SEEDS) == 0 { Bits::full(PIECES) } else { some(rng, f64::from(peer) / 1e3) })
        .collect();
    peers.iter().for_each(|has| picker.peer_joined(has));
    (picker, peers)
}

/// Each piece with the given probability.
fn some(rng: &mut fastrand::Rng, probability: f64) -> Bits {
    let mut bits = Bits::new(PIECES);
    for piece in 0..PIECES {
        if rng.f64() < probability {
            bits.set(piece);
        }
    }
    bits
}
