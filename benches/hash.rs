//! SHA-1 in memory, by the sha1 crate and by this one, and of a cached file by all cores: `create` and `verify`.
//!
//! `cargo bench --bench hash`; the last lines compare these two with cores x the sha1 crate's own rate.

use std::hint::black_box;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use ropewalk::create::{CreateOptions, create};
use ropewalk::hash::{Backend, Hashing, MAX_LANES, sha1, sha1_many_by};
use ropewalk::verify::verify;
use sha1::{Digest, Sha1};

const PIECE: usize = 256 * 1024;
/// Large against the start of threads, small enough for the page cache.
const FILE: usize = 512 << 20;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    memory(&mut criterion);
    side_by_side(&mut criterion);
    files(&mut criterion);
    criterion.final_summary();
}

fn memory(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sha1_one_core");
    for kib in [16, 256, 16 << 10] {
        let piece = data(kib << 10);
        group.throughput(Throughput::Bytes(piece.len() as u64));
        group.bench_function(format!("sha1_crate/{kib}_KiB"), |bencher| {
            bencher.iter(|| black_box(Sha1::digest(black_box(&piece))));
        });
        group.bench_function(format!("ropewalk_in_blocks/{kib}_KiB"), |bencher| {
            bencher.iter(|| black_box(sha1(black_box(&piece).chunks(16 << 10))));
        });
    }
    group.finish();
}

/// Pieces side by side, in blocks of their own as they arrive from peers: every way that this processor has, from one piece
/// to as many as there are lanes. Where a way overtakes `Crate` is its [`Backend::fewest`].
fn side_by_side(criterion: &mut Criterion) {
    let blocks: Vec<Vec<u8>> = data(MAX_LANES * PIECE).chunks(16 << 10).map(<[u8]>::to_vec).collect();
    let pieces: Vec<&[Vec<u8>]> = blocks.chunks(PIECE >> 14).collect();
    let mut group = criterion.benchmark_group(format!("sha1_side_by_side (here: {})", Backend::best()));
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(500));
    for backend in Backend::ALL.into_iter().filter(|backend| backend.is_available()) {
        for count in [1, 2, 3, 4, 5, 6, 8, 12, 16] {
            group.throughput(Throughput::Bytes((count * PIECE) as u64));
            group.bench_function(format!("{backend:?}/{count}"), |bencher| {
                bencher.iter(|| black_box(sha1_many_by(backend, black_box(&pieces[..count]))));
            });
        }
    }
    group.finish();
}

fn files(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("payload.bin");
    let content = data(FILE);
    std::fs::write(&path, &content).expect("room for the file");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let options = CreateOptions { piece_length: Some(PIECE as u32), ..CreateOptions::default() };
    let (progress, stop) = (|_, _| (), AtomicBool::new(false));
    let made = || create(&path, &options, &progress, &stop).expect("a torrent").metainfo;
    let metainfo = made();
    let verified = || {
        verify(&metainfo, folder.path(), Hashing::default(), &progress, &stop)
            .expect("files that can be read")
            .is_right()
    };

    let mut group = criterion.benchmark_group(format!("sha1_{cores}_cores"));
    group.throughput(Throughput::Bytes(FILE as u64)).sample_size(10);
    let (mut creations, mut verifications) = (Vec::new(), Vec::new());
    group.bench_function("create_from_a_cached_file", |bencher| {
        bencher.iter_custom(|times| measure(times, &mut creations, || assert!(made() == metainfo)));
    });
    group.bench_function("verify_a_cached_file", |bencher| {
        bencher.iter_custom(|times| measure(times, &mut verifications, || assert!(verified())));
    });
    group.finish();

    let mut alone = Vec::new();
    measure(5, &mut alone, || content.chunks(PIECE).for_each(|piece| _ = black_box(Sha1::digest(piece))));
    let rate = |times: &[Duration]| times.iter().min().map(|time| FILE as f64 / time.as_secs_f64() / 1e9);
    for (name, times) in [("create", creations), ("verify", verifications)] {
        // Nothing was measured where the names of other benches were given.
        if let (Some(rate), Some(alone)) = (rate(&times), rate(&alone)) {
            println!(
                "{name}: {rate:.2} GB/s, {:.0} % of {cores} cores x {alone:.2} GB/s of the sha1 crate (the best of each)",
                100.0 * rate / (alone * cores as f64)
            );
        }
    }
}

/// Does the work so many times, takes down how long each took, and gives the sum.
fn measure(times: u64, each: &mut Vec<Duration>, mut work: impl FnMut()) -> Duration {
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    let first = each.len();
    each.extend((0..times).map(time));
    each[first..].iter().sum()
}

fn data(len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes
}
