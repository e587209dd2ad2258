use std::time::{Duration, Instant};

use super::super::state::StateError;
use super::{EXPIRY, announce, config, counts, scraped, tell};
use crate::metainfo::InfoHash;
use crate::tracker::config::MemoryConfig;
use crate::tracker::memory::Memory;
use crate::tracker::store::{Announce, Counts, Store};
use crate::wire::tracker::Event;

#[test]
fn a_saved_state_is_loaded_with_the_time_that_peers_have_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sub/state");
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let memory = Memory::load(&path, &config(), 1, start).unwrap();
    for number in 1..=100 {
        tell(&memory, announce(number, u64::from(number % 2), Some(Event::Completed)), after(u64::from(number) / 4));
    }
    let v6 = Announce { addr: "[2001:db8::1]:1".parse().unwrap(), ..announce(1, 9, None) };
    tell(&memory, Announce { info_hash: InfoHash::new([1; 20]), ..v6 }, after(30));
    memory.save(after(40)).unwrap();
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 2, "nothing but the file and its lock");
    let totals = memory.totals(after(40)).unwrap();
    drop(memory);
    // Another run, another seed, another clock.
    let later = after(100_000);
    let again = Memory::load(&path, &config(), 2, later).unwrap();
    assert_eq!(scraped(&again, later), counts(50, 50, 100));
    assert_eq!(again.totals(later).unwrap(), totals);
    let reply = tell(&again, Announce { info_hash: InfoHash::new([1; 20]), ..announce(5, 9, None) }, later);
    assert_eq!(reply.counts, counts(0, 2, 0));
    // Those that had announced 40 to 15 s before the save are the first to go.
    again.tidy(later + Duration::from_secs(EXPIRY - 40 + 12));
    assert_eq!(scraped(&again, later).seeders + scraped(&again, later).leechers, 100 - 47);
    again.tidy(later + Duration::from_secs(EXPIRY - 15 + 1));
    assert_eq!(scraped(&again, later), Counts::default());
}

#[test]
fn a_link_to_a_state_file_is_that_file() {
    let folder = tempfile::tempdir().unwrap();
    let [real, link] = ["real", "link"].map(|name| folder.path().join(name));
    std::os::unix::fs::symlink("real", &link).unwrap();
    let now = Instant::now();
    // It leads to a file that is not there yet, then to one that is.
    for number in 1..=2 {
        let memory = Memory::load(&link, &config(), 1, now).unwrap();
        let other = Memory::load(&real, &config(), 1, now).unwrap_err();
        assert!(matches!(other, StateError::InUse(_)), "{other}");
        tell(&memory, announce(number, 9, None), now);
        memory.save(now).unwrap();
        drop(memory);
        assert!(link.is_symlink() && real.is_file());
        assert_eq!(Memory::load(&real, &config(), 1, now).unwrap().totals(now).unwrap().leechers, u64::from(number));
    }
}

#[test]
fn what_cannot_be_a_state_is_left_without_a_lock_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let [junk, sub] = ["junk", "sub"].map(|name| folder.path().join(name));
    std::fs::write(&junk, "no state of a tracker").unwrap();
    std::fs::create_dir(&sub).unwrap();
    let error = |path| Memory::load(path, &config(), 1, Instant::now()).unwrap_err();
    assert!(matches!(error(&junk), StateError::Foreign(_)));
    assert!(matches!(error(&sub), StateError::Folder(_)));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    assert_eq!(std::fs::read_dir(&sub).unwrap().count(), 0);
    // One that was there is somebody else's to remove.
    let lock = folder.path().join("junk.lock");
    std::fs::write(&lock, "").unwrap();
    error(&junk);
    assert!(lock.exists());
}

#[test]
fn links_in_a_circle_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("link", &link).unwrap();
    let error = Memory::load(&link, &config(), 1, Instant::now()).unwrap_err();
    assert!(matches!(error, StateError::Io { .. }), "{error}");
}

#[test]
fn a_state_file_that_is_cut_or_changed_is_an_error_wherever_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let now = Instant::now();
    let memory = Memory::load(&path, &config(), 1, now).unwrap();
    (1..=3).for_each(|number| drop(tell(&memory, announce(number, 9, None), now)));
    memory.save(now).unwrap();
    drop(memory);
    let whole = std::fs::read(&path).unwrap();
    let load = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Memory::load(&path, &config(), 1, now)
    };
    load(&whole).unwrap();
    // As one that was made to be written.
    assert_eq!(load(&[]).unwrap().totals(now).unwrap().torrents, 0);
    for at in 0..whole.len() {
        let cut = load(&whole[..at.max(1)]).unwrap_err();
        assert!(
            matches!(cut, StateError::Damaged(_)) || at < 8 && matches!(cut, StateError::Foreign(_)),
            "{at}: {cut}"
        );
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        let error = load(&changed).unwrap_err();
        match at {
            0..8 => assert!(matches!(error, StateError::Foreign(_)), "{at}: {error}"),
            8..12 => assert!(matches!(error, StateError::Version { .. }), "{at}: {error}"),
            _ => assert!(matches!(error, StateError::Damaged(_)), "{at}: {error}"),
        }
    }
    assert!(matches!(load(&[whole.as_slice(), b"x"].concat()), Err(StateError::Damaged(_))));
}

#[test]
fn of_a_state_file_no_more_is_kept_than_there_may_be() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let now = Instant::now();
    let memory = Memory::load(&path, &config(), 1, now).unwrap();
    for number in 0..40 {
        let info_hash = InfoHash::new([number as u8 % 4; 20]);
        tell(&memory, Announce { info_hash, ..announce(number, 9, None) }, now);
    }
    memory.save(now).unwrap();
    drop(memory);
    let kept = |config| {
        let totals = Memory::load(&path, &config, 1, now).unwrap().totals(now).unwrap();
        (totals.torrents, totals.leechers)
    };
    assert_eq!(kept(config()), (4, 40));
    assert_eq!(kept(MemoryConfig { torrents: 3, ..config() }), (3, 30));
    assert_eq!(kept(MemoryConfig { peers_per_torrent: 2, ..config() }), (4, 8));
    assert_eq!(kept(MemoryConfig { peers: 15, ..config() }), (2, 15));
}

#[test]
fn who_announces_while_the_state_is_written_has_all_of_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let start = Instant::now();
    let memory = Memory::load(&path, &config(), 1, start).unwrap();
    assert_eq!(memory.changes(), 0);
    tell(&memory, announce(1, 9, None), start + Duration::from_secs(3));
    assert_ne!(memory.changes(), 0);
    // It began earlier than that.
    memory.save(start).unwrap();
    drop(memory);
    let again = Memory::load(&path, &config(), 2, start).unwrap();
    again.tidy(start + Duration::from_secs(EXPIRY));
    assert_eq!(scraped(&again, start), counts(0, 1, 0));
    assert_eq!(again.changes(), 0);
    again.tidy(start + Duration::from_secs(EXPIRY + 2));
    assert_eq!(scraped(&again, start), Counts::default());
    assert_ne!(again.changes(), 0, "that it is gone is to be saved");
}

#[test]
fn one_state_file_has_one_user_who_can_write_it_over_what_was_left_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let now = Instant::now();
    let first = Memory::load(&path, &config(), 1, now).unwrap();
    let error = Memory::load(&path, &config(), 1, now).unwrap_err();
    assert!(matches!(&error, StateError::InUse(named) if *named == path), "{error}");
    // As if it had been killed in the middle.
    std::fs::write(folder.path().join("state.new"), "half").unwrap();
    drop(first);
    let second = Memory::load(&path, &config(), 1, now).unwrap();
    second.save(now).unwrap();
    assert!(!folder.path().join("state.new").exists());
}
