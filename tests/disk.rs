//! Disks that are too small, full, read-only or changed under us, and very many files.

mod rig;

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rig::disk::Disk;
use rig::payload::Payload;
use rig::process::PATIENCE;
use rig::ropewalk::{Ropewalk, Said, seeder};
use ropewalk::metainfo::{Content, Creation, NewFile};
use ropewalk::{AddOptions, Config, Event, Metainfo, Priority, Session, State};

const PIECE: u32 = 32 * 1024;

fn cut_off(path: PathBuf) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap();
}

/// Fails unless the run ended for the disk, with all these words in its error.
fn assert_disk_error(said: &Said, words: &[&str]) {
    assert_eq!(said.code, Some(5), "{}", said.said);
    let summary = said.summary();
    let error = summary["error"].as_str().unwrap_or_default();
    assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
}

#[test]
fn a_torrent_larger_than_the_disk_is_refused_before_the_first_byte() {
    let Some(disk) = Disk::new(8 << 20) else { return };
    let payload = Payload::single(20_000_000, PIECE, None);
    let (session, seed, addr) = seeder(&payload, None);
    let said = Ropewalk::get(&payload, disk.path(), addr).end();
    assert_disk_error(&said, &["disk full", disk.path().to_str().unwrap(), "19.1 MiB needed in", "free"]);
    assert_eq!(seed.stats().uploaded, 0);
    assert!(!disk.path().join("payload.bin").exists());
    session.shutdown();
}

#[test]
fn a_disk_that_fills_up_makes_the_torrent_wait_until_there_is_room() {
    let Some(disk) = Disk::new(16 << 20) else { return };
    // Nothing is allocated in advance in memory, which this disk is.
    for payload in [Payload::many(600_000, 100, PIECE), Payload::single(8_000_000, PIECE, None)] {
        fill_up_under(&payload, &disk);
    }
}

fn fill_up_under(payload: &Payload, disk: &Disk) {
    let (session, _seed, addr) = seeder(payload, Some(2_000_000));
    let mut get = Ropewalk::get_with(payload, disk.path(), addr, &["--explain".as_ref()]);
    get.wait_until("some bytes", |event| event["done"].as_u64().is_some_and(|done| done > 0));
    let filler = disk.fill();
    let waiting = get.wait_until("waiting", |event| event["state"] == "waiting");
    let why = waiting["why"].as_str().unwrap();
    assert!(why.contains("disk full") && why.contains(disk.path().to_str().unwrap()), "{why}");
    // What had been asked for comes; nothing more does, however often it looks whether there is room.
    let look = |get: &mut Ropewalk| get.wait_until("progress", |event| event["event"] == "progress");
    let looks: Vec<_> = (0..9).map(|_| look(&mut get)).collect();
    assert!(looks.iter().all(|event| event["state"] == "waiting"), "{looks:?}");
    assert_eq!(looks[2]["downloaded"], looks[8]["downloaded"]);
    std::fs::remove_file(filler).unwrap();
    let said = get.end();
    assert_eq!(said.code, Some(0), "{}", said.said);
    let [downloaded, wasted] = ["downloaded", "wasted"].map(|what| said.summary()[what].as_u64().unwrap());
    assert!(wasted > 0 && downloaded - wasted <= payload.len(), "{downloaded} bytes, {wasted} of them in vain");
    // It tries again after seconds, and the one peer is there all the time.
    let explanation = &said.summary()["explanation"];
    let spent = |what: &str| explanation["connections"][what].as_f64().unwrap_or(0.0);
    assert!(spent("disk-full") > 1.0 && spent("work") < 1.0, "{explanation}");
    assert!(explanation["mean_connected"].as_f64().unwrap() < 1.1, "{explanation}");
    payload.assert_in(disk.path());
    session.shutdown();
}

#[test]
fn a_file_that_there_is_no_room_for_holds_up_nothing_once_it_is_unwanted() {
    let Some(disk) = Disk::new(16 << 20) else { return };
    let payload = Payload::many(20_000_000, 100, PIECE);
    let (session, _seed, addr) = seeder(&payload, Some(2_000_000));
    let layout = payload.metainfo.layout();
    let large = layout.file_indices().find(|&file| layout.file(file).len() == 20_000_000).unwrap();
    let wanted = |file| if file == large { Priority::Skip } else { Priority::Normal };
    let options = AddOptions {
        peers: vec![addr],
        priorities: layout.file_indices().map(wanted).collect(),
        ..AddOptions::new(disk.path())
    };
    let mut config = Config::default();
    config.dht.enabled = false;
    config.listen.ports = 0..=0;
    config.listen.bind = Some(std::net::IpAddr::from([127, 0, 0, 1]).into());
    let getting = Session::new(config).unwrap();
    let torrent = getting.add(payload.metainfo.clone(), options).unwrap();
    let events = torrent.events();
    torrent.set_priority(large, Priority::Normal).unwrap();
    while !matches!(events.recv_timeout(PATIENCE).unwrap(), Event::State(State::Waiting(_))) {}
    torrent.set_priority(large, Priority::Skip).unwrap();
    assert_eq!(torrent.wait(PATIENCE), State::Seeding);
    getting.shutdown();
    session.shutdown();
}

#[test]
fn a_download_larger_than_the_memory_for_pieces_keeps_memory_flat() {
    const LEN: u64 = 128 << 20;
    let payload = Payload::single(LEN as usize, 1 << 20, None);
    let (session, _seed, addr) = seeder(&payload, Some(40 << 20));
    let dir = payload.empty_folder("out");
    let mut get = Ropewalk::get(&payload, &dir, addr);
    get.wait_until("most of it", |event| event["done"].as_u64().is_some_and(|done| done > LEN * 7 / 8));
    // 64 MiB at most are in flight. What is stored is not to count, however much that is.
    let peak = get.peak_resident();
    assert!(peak < LEN * 3 / 4, "{peak} bytes resident");
    let said = get.end();
    assert_eq!(said.code, Some(0), "{}", said.said);
    session.shutdown();
}

#[test]
fn a_read_only_disk_is_named() {
    let Some(disk) = Disk::new(16 << 20) else { return };
    let payload = Payload::folder(PIECE, None);
    let (session, _seed, addr) = seeder(&payload, None);
    disk.make_read_only();
    let said = Ropewalk::get(&payload, disk.path(), addr).end();
    assert_disk_error(&said, &["read-only", disk.path().to_str().unwrap()]);
    session.shutdown();
}

#[test]
fn files_on_a_read_only_disk_are_seeded() {
    let Some(disk) = Disk::new(16 << 20) else { return };
    let payload = Payload::folder(PIECE, None);
    payload.write_to(disk.path());
    disk.make_read_only();
    let (_seeder, addr) = Ropewalk::seed(&payload, disk.path());
    let dir = payload.empty_folder("out");
    let said = Ropewalk::get(&payload, &dir, addr).end();
    assert_eq!(said.code, Some(0), "{}", said.said);
    payload.assert_in(&dir);
}

#[test]
fn a_file_that_is_cut_off_while_it_arrives_fails_the_torrent_and_not_the_process() {
    let payload = Payload::single(12_000_000, PIECE, None);
    let (session, _seed, addr) = seeder(&payload, Some(3_000_000));
    let dir = payload.empty_folder("out");
    let mut get = Ropewalk::get(&payload, &dir, addr);
    get.wait_until("some bytes", |event| event["done"].as_u64().is_some_and(|done| done > 0));
    cut_off(dir.join("payload.bin"));
    let said = get.end();
    assert_disk_error(&said, &["payload.bin", "truncated or removed"]);
    session.shutdown();
}

#[test]
fn a_file_that_is_cut_off_while_it_is_seeded_fails_the_torrent_and_not_the_process() {
    let payload = Payload::single(12_000_000, PIECE, None);
    let (seed, addr) = Ropewalk::seed(&payload, &payload.data());
    let mut config = Config::default();
    config.listen.ports = 0..=0;
    config.dht.enabled = false;
    config.limits.down = Some(3_000_000);
    let session = Session::new(config).unwrap();
    let mut options = AddOptions::new(payload.empty_folder("out"));
    options.peers = vec![addr];
    let torrent = session.add(payload.metainfo.clone(), options).unwrap();
    let events = torrent.events();
    let deadline = Instant::now() + PATIENCE;
    while !matches!(events.recv_deadline(deadline).expect("a piece"), ropewalk::Event::Piece { .. }) {}
    cut_off(payload.data().join("payload.bin"));
    let said = seed.end();
    assert_disk_error(&said, &["payload.bin"]);
    session.shutdown();
}

/// A torrent of so many files of 100 bytes, 1,000 in each folder, written to `dir`.
fn very_many_files(files: u32, dir: &Path) -> Metainfo {
    const LEN: usize = 100;
    let path = |file: u32| PathBuf::from(format!("{:03}/{:03}.txt", file / 1000, file % 1000));
    let content = (0..files).map(|file| NewFile { path: path(file), len: LEN as u64, executable: false });
    let creation = Creation::new("very many", Content::Folder(content.collect()), 64 * 1024);
    let bytes = |file: u32| [file.to_le_bytes(); LEN / 4].concat();
    let mut all = Vec::new();
    for file in 0..files {
        let path = dir.join("very many").join(path(file));
        if file.is_multiple_of(1000) {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        std::fs::write(path, bytes(file)).unwrap();
        all.extend(bytes(file));
    }
    let hashes: Vec<u8> = all.chunks(64 * 1024).flat_map(|piece| ropewalk::hash::sha1([piece])).collect();
    Metainfo::from_bytes(&creation.prepare().unwrap().finish(&hashes).unwrap()).unwrap()
}

#[test]
fn a_torrent_of_100_000_files_completes_within_the_usual_limits() {
    const FILES: u32 = 100_000;
    // In memory where that is possible: making so many files takes a busy disk a minute.
    let place = Some(PathBuf::from("/dev/shm")).filter(|folder| folder.is_dir()).unwrap_or_else(std::env::temp_dir);
    let folder = || tempfile::tempdir_in(&place).unwrap();
    let (data, dir) = (folder(), folder());
    let metainfo = very_many_files(FILES, data.path());
    let began = Instant::now();
    let again = Metainfo::from_bytes(metainfo.as_bytes()).unwrap();
    // A second is for an optimised build; this one is not, and the machine is busy with other tests.
    assert!(began.elapsed() < Duration::from_secs(10), "loaded in {:?}", began.elapsed());
    assert_eq!(again.layout().files().len(), FILES as usize);

    let payload = Payload::of(metainfo.clone());
    let (seed, addr) = Ropewalk::seed(&payload, data.path());
    let get = Ropewalk::get(&payload, dir.path(), addr);
    let said = get.end();
    assert_eq!(said.code, Some(0), "{}", &said.said[said.said.len().saturating_sub(3000)..]);
    for file in (0..FILES).step_by(97).chain([FILES - 1]) {
        let path = format!("very many/{:03}/{:03}.txt", file / 1000, file % 1000);
        assert_eq!(std::fs::read(dir.path().join(&path)).unwrap(), std::fs::read(data.path().join(&path)).unwrap());
    }
    drop(seed);
    // The journal of so many files is believed, too.
    let said = Ropewalk::get(&payload, dir.path(), addr).end();
    assert_eq!((said.code, said.hashed(), &said.summary()["downloaded"]), (Some(0), 0, &0.into()));
}
