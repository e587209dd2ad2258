//! The binary is killed at many moments, stopped, or finds files changed behind its back: in the end every byte is
//! right, and what was recorded is neither fetched nor hashed again.

mod rig;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rig::payload::Payload;
use rig::ropewalk::{Ropewalk, Said, seeder};
use ropewalk::Metainfo;

const PIECE: u32 = 32 * 1024;
const KILLS: u32 = 12;
/// What may be lost by a kill: the pieces that were not complete, and what was on its way.
const LOST_PER_KILL: u64 = 768 * 1024;

#[test]
fn a_download_that_is_killed_at_many_moments_is_right_and_fetches_little_twice() {
    let payload = Payload::many(12_000_000, 120, PIECE);
    // The limit is on the sending side, so that little is on its way when the receiver dies.
    let (session, seed, addr) = seeder(&payload, Some(3_000_000));
    let dir = payload.empty_folder("out");
    let mut random = fastrand::Rng::with_seed(7);
    let mut recorded = Recorded::default();
    let mut hashed = Vec::new();
    for kill in 0..KILLS {
        let mut get = Ropewalk::get(&payload, &dir, addr);
        // Anywhere between the very start and some files later.
        match kill {
            0 => drop(get.wait_for("added")),
            1 => drop(get.wait_for("peer")),
            _ => (0..random.u32(1..12)).for_each(|_| drop(get.wait_for("file"))),
        }
        let said = get.kill();
        recorded.assert_kept(&said, &payload.metainfo);
        recorded = Recorded::read(&dir, &payload.metainfo);
        hashed.push(said.hashed());
    }
    let said = Ropewalk::get(&payload, &dir, addr).end();
    assert_eq!(said.code, Some(0), "{}", said.said);
    recorded.assert_kept(&said, &payload.metainfo);
    payload.assert_in(&dir);
    let sent = seed.stats().uploaded;
    let most = payload.len() + u64::from(KILLS) * LOST_PER_KILL;
    assert!(sent >= payload.len() && sent <= most, "{sent} of {} bytes sent, hashed {hashed:?}", payload.len());
    session.shutdown();
}

#[test]
fn a_download_that_is_killed_after_its_journal_was_written_hashes_only_what_came_later() {
    let payload = Payload::single(24_000_000, PIECE, None);
    let (session, _seed, addr) = seeder(&payload, Some(1_500_000));
    let dir = payload.empty_folder("out");
    let mut get = Ropewalk::get(&payload, &dir, addr);
    // The journal is written every five seconds.
    get.wait_until("8 MB", |event| event["done"].as_u64().is_some_and(|done| done > 9_000_000));
    get.kill();
    let recorded = Recorded::read(&dir, &payload.metainfo);
    assert!(recorded.durable > 0 && !recorded.clean, "{recorded:?}");
    session.set_limits(ropewalk::RateLimits::default());
    let said = Ropewalk::get(&payload, &dir, addr).end();
    assert_eq!(said.code, Some(0), "{}", said.said);
    recorded.assert_kept(&said, &payload.metainfo);
    payload.assert_in(&dir);
    session.shutdown();
}

#[test]
fn a_kill_at_any_moment_loses_no_more_than_the_last_interval_of_the_journal() {
    /// The time between two records, and what the first needs to reach a busy disk.
    const INTERVAL: Duration = Duration::from_secs(5 + 3);
    let payload = Payload::single(60_000_000, PIECE, None);
    let (session, seed, addr) = seeder(&payload, Some(3_000_000));
    let dir = payload.empty_folder("out");
    let mut get = Ropewalk::get(&payload, &dir, addr);
    // Where it was when: said once a second.
    let mut progress = Vec::new();
    let moment = Duration::from_millis(fastrand::u64(11_000..15_000));
    let began = Instant::now();
    while began.elapsed() < moment {
        progress.push((get.wait_for("progress")["done"].as_u64().unwrap(), Instant::now()));
    }
    let killed = Instant::now();
    get.kill();
    // So much would be left even if the machine had gone down with it.
    let recorded = Recorded::read(&dir, &payload.metainfo);
    let earlier = progress.iter().rfind(|(_, at)| killed - *at > INTERVAL).map_or(0, |(done, _)| *done);
    let durable = u64::from(recorded.durable) * u64::from(PIECE);
    assert!(
        earlier > 0 && durable >= earlier,
        "{durable} bytes durable of {earlier} that were there {INTERVAL:?} before"
    );

    session.set_limits(ropewalk::RateLimits::default());
    let said = Ropewalk::get(&payload, &dir, addr).end();
    assert_eq!(said.code, Some(0), "{}", said.said);
    recorded.assert_kept(&said, &payload.metainfo);
    payload.assert_in(&dir);
    // The process alone has died, and what it stored after the record is found by hashing.
    let sent = seed.stats().uploaded;
    assert!(sent <= payload.len() + LOST_PER_KILL, "{sent} of {} bytes sent", payload.len());
    session.shutdown();
}

#[test]
fn a_download_that_is_stopped_by_ctrl_c_hashes_nothing_when_it_goes_on() {
    let payload = Payload::many(4_000_000, 40, PIECE);
    let (session, seed, addr) = seeder(&payload, Some(3_000_000));
    let dir = payload.empty_folder("out");
    let mut get = Ropewalk::get(&payload, &dir, addr);
    (0..5).for_each(|_| drop(get.wait_for("file")));
    let stopped = get.interrupt();
    assert_eq!((stopped.code, &stopped.summary()["result"]), (Some(3), &"stopped".into()), "{}", stopped.said);
    let recorded = Recorded::read(&dir, &payload.metainfo);
    assert!(recorded.clean && recorded.verified > 0, "{recorded:?}");

    let said = Ropewalk::get(&payload, &dir, addr).end();
    assert_eq!((said.code, said.hashed()), (Some(0), 0), "{}", said.said);
    recorded.assert_kept(&said, &payload.metainfo);
    payload.assert_in(&dir);
    assert!(seed.stats().uploaded < payload.len() + LOST_PER_KILL);

    let again = Ropewalk::get(&payload, &dir, addr).end();
    assert_eq!((again.code, again.hashed()), (Some(0), 0), "{}", again.said);
    assert_eq!(again.summary()["downloaded"], 0);
    session.shutdown();
}

/// Downloads, lets `change` do something to the large file, and downloads again.
fn repaired_after(change: impl Fn(&Path)) -> (Payload, Said) {
    let payload = Payload::many(2_000_000, 10, PIECE);
    let (session, _seed, addr) = seeder(&payload, None);
    let dir = payload.empty_folder("out");
    let first = Ropewalk::get(&payload, &dir, addr).end();
    assert_eq!(first.code, Some(0), "{}", first.said);
    payload.assert_in(&dir);
    change(&dir);
    let second = Ropewalk::get(&payload, &dir, addr).end();
    session.shutdown();
    (payload, second)
}

#[test]
fn a_byte_that_somebody_changed_is_found_and_repaired() {
    let (payload, said) = repaired_after(|dir| {
        let file = OpenOptions::new().write(true).open(dir.join("many/large")).unwrap();
        let mut byte = [0];
        File::open(dir.join("many/large")).unwrap().read_exact_at(&mut byte, 1_000_000).unwrap();
        file.write_all_at(&[!byte[0]], 1_000_000).unwrap();
    });
    assert_eq!(said.code, Some(0), "{}", said.said);
    payload.assert_in(&payload.data().with_file_name("out"));
    assert_eq!(said.summary()["downloaded"], PIECE);
    // The pieces of the large file, and no others.
    assert!((60..=63).contains(&said.hashed()), "{}", said.said);
}

#[test]
fn a_file_that_somebody_cut_off_is_found_and_repaired() {
    let (payload, said) = repaired_after(|dir| {
        OpenOptions::new().write(true).open(dir.join("many/large")).unwrap().set_len(1_000_000).unwrap();
    });
    assert_eq!(said.code, Some(0), "{}", said.said);
    payload.assert_in(&payload.data().with_file_name("out"));
    let fetched = said.summary()["downloaded"].as_u64().unwrap();
    assert!((1_000_000..1_000_000 + 2 * u64::from(PIECE)).contains(&fetched), "{fetched}");
}

#[test]
fn a_file_that_somebody_removed_is_fetched_again() {
    let (payload, said) = repaired_after(|dir| std::fs::remove_file(dir.join("many/small/003")).unwrap());
    assert_eq!(said.code, Some(0), "{}", said.said);
    payload.assert_in(&payload.data().with_file_name("out"));
    assert!(said.summary()["downloaded"].as_u64().unwrap() <= 3 * u64::from(PIECE));
}

#[test]
fn a_file_that_is_too_long_is_left_alone_and_named() {
    let (payload, said) = repaired_after(|dir| {
        OpenOptions::new().write(true).open(dir.join("many/large")).unwrap().set_len(2_000_001).unwrap();
    });
    assert_eq!(said.code, Some(5), "{}", said.said);
    let error = said.summary()["error"].as_str().unwrap().to_owned();
    assert!(error.contains("many/large") && error.contains("2000001") && error.contains("2000000"), "{error}");
    let out = payload.data().with_file_name("out/many/large");
    assert_eq!(std::fs::metadata(out).unwrap().len(), 2_000_001);
}

/// What the resume journal says. Its layout is that of `src/storage/resume.rs`.
#[derive(Debug, Default)]
struct Recorded {
    clean: bool,
    /// Pieces stored, and of those the ones that were on the disk.
    verified: u32,
    durable: u32,
    /// The bytes of the stored ones.
    bytes: u64,
}

impl Recorded {
    /// Nothing where there is no journal yet.
    fn read(dir: &Path, metainfo: &Metainfo) -> Self {
        let path = dir.join(".ropewalk").join(format!("{}.resume", metainfo.info_hash()));
        let Ok(bytes) = std::fs::read(path) else { return Self::default() };
        let layout = metainfo.layout();
        let (pieces, bits) = (86 + 4, layout.piece_count().div_ceil(8) as usize);
        let (verified, durable) = (&bytes[pieces..pieces + bits], &bytes[pieces + bits..pieces + 2 * bits]);
        let count = |bits: &[u8]| bits.iter().map(|byte| byte.count_ones()).sum();
        let there = layout.pieces().filter(|piece| verified[piece.get() as usize / 8] & 128 >> (piece.get() % 8) != 0);
        Self {
            clean: bytes[53] == 1,
            verified: count(verified),
            durable: count(durable),
            bytes: there.map(|piece| u64::from(layout.piece_len(piece))).sum(),
        }
    }

    /// Fails unless a later run had all of it from the start, and hashed none of it.
    fn assert_kept(&self, later: &Said, metainfo: &Metainfo) {
        let hashed = later.hashed();
        assert!(
            hashed + self.verified <= metainfo.layout().piece_count(),
            "{hashed} pieces hashed though {self:?}:\n{}",
            later.said
        );
        // A run that was killed before it began has not said what it has.
        let begun = later.events("progress").iter().any(|event| event["state"] == "downloading");
        assert!(!begun || later.done_at_first() >= self.bytes, "{self:?}:\n{}", later.said);
    }
}
