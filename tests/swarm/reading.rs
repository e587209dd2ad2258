//! Reading a file while it is still arriving.

use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

use ropewalk::{FileReader, State};

use crate::support::payload::Payload;
use crate::support::{Client, await_that, config};

const MIB: usize = 1 << 20;

fn open(client: &Client, file: u32) -> FileReader {
    let file = client.torrent.metainfo().unwrap().layout().file_index(file).unwrap();
    client.torrent.open(file).unwrap()
}

#[test]
fn what_is_read_while_it_arrives_is_right_to_the_last_byte() {
    let payload = Payload::folder("read", &[("a", 1_000), ("dir/b", 3 * MIB + 17), ("c", 5)], 65536, false);
    let seeder = Client::seeding(&payload);
    let getter = Client::leeching_with(&payload, &[seeder.addr()], config(), |options| {
        options.limits.down = Some(2 * MIB as u64);
    });
    let mut reader = open(&getter, 1);
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    assert!(read == payload.files[1].1);
    assert_eq!(reader.read(&mut [0; 10]).unwrap(), 0);
    reader.seek(SeekFrom::End(-7)).unwrap();
    let mut tail = [0; 7];
    reader.read_exact(&mut tail).unwrap();
    assert_eq!(tail, payload.files[1].1[payload.files[1].1.len() - 7..]);
    assert!(reader.seek(SeekFrom::Current(-i64::MAX)).is_err());
    getter.finishes(&payload);
}

#[test]
fn a_seek_moves_the_urgency() {
    let payload = Payload::file("seek", 32 * MIB, 262_144);
    let seeder = Client::seeding(&payload);
    // The whole takes 16 s; what is sought must not.
    let getter = Client::leeching_with(&payload, &[seeder.addr()], config(), |options| {
        options.limits.down = Some(2 * MIB as u64);
    });
    let mut reader = open(&getter, 0);
    let mut block = vec![0; 4096];
    let start = Instant::now();
    for at in [20 * MIB, 3 * MIB, 31 * MIB] {
        reader.seek(SeekFrom::Start(at as u64)).unwrap();
        reader.read_exact(&mut block).unwrap();
        assert!(block == payload.bytes[at..at + 4096]);
    }
    assert!(start.elapsed() < Duration::from_secs(6), "it took {:?}", start.elapsed());
    assert!(getter.torrent.state() == State::Downloading);
}

#[test]
fn a_read_that_waits_too_long_times_out_and_can_be_tried_again() {
    let payload = Payload::file("timeout", 100_000, 16384);
    let getter = Client::leeching(&payload, &[]);
    let mut reader = open(&getter, 0);
    reader.set_timeout(Some(Duration::from_millis(50)));
    let start = Instant::now();
    assert_eq!(reader.read(&mut [0; 10]).unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(start.elapsed() >= Duration::from_millis(50));
    let seeder = Client::seeding(&payload);
    getter.torrent.add_peer(seeder.addr()).unwrap();
    reader.set_timeout(None);
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    assert!(read == payload.bytes);
}

#[test]
fn a_cancelled_read_ends_for_good() {
    let payload = Payload::file("cancel", 100_000, 16384);
    let getter = Client::leeching(&payload, &[]);
    let mut reader = open(&getter, 0);
    let cancel = reader.canceller();
    // `read_to_end` and `read_exact` try again after some errors: not after this one.
    let waiting = std::thread::spawn(move || reader.read_to_end(&mut Vec::new()).map(|_| ()).unwrap_err());
    cancel.cancel();
    assert!(waiting.join().unwrap().to_string().contains("cancelled"));
}

#[test]
fn the_end_of_the_session_ends_a_read() {
    let payload = Payload::file("dropped", 100_000, 16384);
    let getter = Client::leeching(&payload, &[]);
    let mut reader = open(&getter, 0);
    let waiting = std::thread::spawn(move || reader.read_exact(&mut [0; 10]).unwrap_err().kind());
    await_that("running", &getter.torrent, || getter.torrent.state() == State::Downloading);
    drop(getter);
    assert_eq!(waiting.join().unwrap(), ErrorKind::BrokenPipe);
}

#[test]
fn a_skipped_file_can_be_read_all_the_same() {
    let payload = Payload::folder("skipped-read", &[("a", 200_000), ("b", 300_000)], 16384, false);
    let seeder = Client::seeding(&payload);
    let getter = Client::leeching_with(&payload, &[seeder.addr()], config(), |options| {
        options.priorities = vec![ropewalk::Priority::Normal, ropewalk::Priority::Skip];
    });
    assert_eq!(getter.torrent.wait(crate::support::PATIENCE), State::Seeding);
    let mut read = Vec::new();
    open(&getter, 1).read_to_end(&mut read).unwrap();
    assert!(read == payload.files[1].1);
}

#[test]
fn an_empty_file_reads_as_empty_and_padding_does_not_open() {
    let payload = Payload::folder("odd-files", &[("a", 5), ("empty", 0), ("b", 7)], 16384, true);
    let seeder = Client::seeding(&payload);
    let layout = payload.metainfo.layout();
    let mut seen = (0, 0);
    for file in layout.file_indices() {
        let entry = layout.file(file);
        if entry.is_padding() {
            assert!(seeder.torrent.open(file).is_err());
            seen.0 += 1;
        } else if entry.is_empty() {
            assert_eq!(seeder.torrent.open(file).unwrap().read(&mut [0; 10]).unwrap(), 0);
            seen.1 += 1;
        }
    }
    assert_eq!(seen, (1, 1));
}
