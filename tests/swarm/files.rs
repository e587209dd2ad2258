//! Many files: folders, priorities, rechecks, resuming.

use std::path::Path;

use ropewalk::metainfo::FileIndex;
use ropewalk::{AddOptions, Check, Config, Data, Event, Failure, Magnet, Priority, Session, State, Storing, Torrent};

use crate::support::payload::Payload;
use crate::support::{Client, PATIENCE, await_event, await_that, config};

fn index(client: &Client, file: u32) -> FileIndex {
    client.torrent.metainfo().unwrap().layout().file_index(file).unwrap()
}

#[test]
fn folders_with_empty_tiny_and_nested_files_arrive() {
    let files = [
        ("empty-first", 0),
        ("a", 1),
        ("nested/deep/er/b", 70_000),
        ("nested/empty", 0),
        ("nested/deep/c", 16384),
        ("d", 3),
        ("e", 700_001),
        ("z/last-empty", 0),
    ];
    for (name, align) in [("plain", false), ("padded", true)] {
        let payload = Payload::folder(name, &files, 32768, align);
        let seeder = Client::seeding(&payload);
        let getter = Client::leeching(&payload, &[seeder.addr()]);
        getter.finishes(&payload);
        assert!(!getter.path().join(name).join(".pad").exists(), "padding was written");
    }
}

#[test]
fn hundreds_of_tiny_files_arrive() {
    let names: Vec<String> = (0..400).map(|n| format!("{}/{n}", n % 17)).collect();
    let files: Vec<(&str, usize)> = names.iter().zip(0..).map(|(name, n)| (name.as_str(), n % 301)).collect();
    let payload = Payload::folder("many", &files, 16384, false);
    let seeder = Client::seeding(&payload);
    let getter = Client::leeching(&payload, &[seeder.addr()]);
    getter.finishes(&payload);
}

#[test]
fn pieces_arrive_and_are_seeded_whether_they_are_written_or_copied_into_the_map() {
    let payload = Payload::folder("written", &[("large", 3_000_000), ("small", 50_000)], 65_536, false);
    for storing in [Storing::Write, Storing::Map] {
        let storing = || {
            let mut config: Config = config();
            config.resources.storing = storing;
            config
        };
        let seeder = Client::seeding(&payload);
        let middle = Client::leeching_with(&payload, &[seeder.addr()], storing(), |_| ());
        middle.finishes(&payload);
        drop(seeder);
        let last = Client::leeching_with(&payload, &[middle.addr()], storing(), |_| ());
        last.finishes(&payload);
    }
}

#[test]
fn a_skipped_file_is_not_made_until_it_is_wanted() {
    // Pieces cross from each file into the next.
    let files = [("a", 50_000), ("b", 100_000), ("c", 50_000)];
    let payload = Payload::folder("skip", &files, 16384, false);
    let seeder = Client::seeding(&payload);
    let getter = Client::leeching_with(&payload, &[seeder.addr()], config(), |options| {
        options.priorities = vec![Priority::Normal, Priority::Skip, Priority::High];
    });
    assert_eq!(getter.torrent.wait(PATIENCE), State::Seeding);
    let path = |file: usize| getter.path().join(&payload.files[file].0);
    assert!(!path(1).exists(), "a skipped file was made");
    assert!(std::fs::read(path(0)).unwrap() == payload.files[0].1);
    assert!(std::fs::read(path(2)).unwrap() == payload.files[2].1);
    let stats = getter.torrent.stats();
    assert_eq!(stats.done, stats.wanted);
    assert!(stats.wanted < 150_000, "{}", stats.wanted);
    let events = getter.torrent.events();
    getter.torrent.set_priority(index(&getter, 1), Priority::Normal).unwrap();
    await_event(&events, |event| matches!(event, Event::State(State::Downloading)));
    getter.finishes(&payload);
    assert_eq!(getter.torrent.priorities()[1], Priority::Normal);
}

#[test]
fn what_is_not_wanted_any_more_is_not_waited_for() {
    let payload = Payload::folder("unwanted", &[("a", 200_000), ("b", 200_000)], 16384, false);
    // This seeder has the first file only.
    let dir = tempfile::tempdir().unwrap();
    payload.write_to(dir.path());
    std::fs::remove_file(dir.path().join("unwanted/b")).unwrap();
    let seeder = Client::start(&payload, dir, config(), |options| {
        options.priorities = vec![Priority::Normal, Priority::Skip];
    });
    await_that("checked", &seeder.torrent, || seeder.torrent.stats().pieces_have == 12);
    let getter = Client::leeching(&payload, &[seeder.addr()]);
    let events = getter.torrent.events();
    // All but the piece that holds bytes of both.
    await_that("at the first file's end", &getter.torrent, || getter.torrent.stats().pieces_have >= 12);
    assert_eq!(getter.torrent.state(), State::Downloading);
    getter.torrent.set_priority(index(&getter, 0), Priority::Skip).unwrap();
    getter.torrent.set_priority(index(&getter, 1), Priority::Skip).unwrap();
    assert_eq!(getter.torrent.wait(PATIENCE), State::Seeding);
    await_event(&events, |event| matches!(event, Event::Finished));
}

#[test]
fn a_recheck_finds_what_was_damaged_and_fetches_it_again() {
    let payload = Payload::folder("recheck", &[("a", 200_000), ("b", 900_000)], 16384, false);
    let seeder = Client::seeding(&payload);
    let getter = Client::leeching(&payload, &[seeder.addr()]);
    getter.finishes(&payload);
    let path = getter.path().join("recheck/b");
    let mut damaged = std::fs::read(&path).unwrap();
    damaged[400_000..400_100].fill(0);
    std::fs::write(&path, &damaged).unwrap();
    let before = getter.torrent.stats().downloaded;
    let events = getter.torrent.events();
    getter.torrent.recheck().unwrap();
    await_event(&events, |event| matches!(event, Event::State(State::Downloading)));
    getter.finishes(&payload);
    assert_eq!(getter.torrent.stats().downloaded - before, 16384, "one piece was damaged");
}

#[test]
fn a_wait_after_a_recheck_waits_for_it() {
    let payload = Payload::file("wait-recheck", 3_000_000, 16384);
    let client = Client::seeding(&payload);
    std::fs::write(client.path().join("wait-recheck"), b"nothing").unwrap();
    client.torrent.recheck().unwrap();
    // Nobody is there to fetch it from.
    assert_ne!(client.torrent.wait(std::time::Duration::from_millis(300)), State::Seeding);
    await_that("empty", &client.torrent, || {
        client.torrent.state() == State::Downloading && client.torrent.stats().done == 0
    });
}

/// Starts what is in the folder anew, without peers.
fn resumed(payload: &Payload, dir: tempfile::TempDir) -> Client {
    let client = Client::start(payload, dir, config(), |options| options.start = ropewalk::Start::Paused);
    await_that("open", &client.torrent, || client.torrent.state() == State::Paused);
    client
}

/// Why it failed, or is about to.
#[track_caller]
fn failure_of(torrent: &Torrent) -> Failure {
    match torrent.wait(PATIENCE) {
        State::Failed(failure) => failure,
        state => panic!("{state:?}"),
    }
}

/// Changes a byte so that only hashing can find out.
fn damage_unseen(path: &Path, at: usize) {
    let modified = std::fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
    std::fs::File::options().append(true).open(path).unwrap().set_modified(modified).unwrap();
}

#[test]
fn after_a_clean_stop_nothing_is_hashed_or_fetched_again() {
    let payload = Payload::folder("resume", &[("a", 700_000), ("b", 10), ("c", 2_000_000)], 16384, false);
    let seeder = Client::seeding(&payload);
    let getter = Client::leeching(&payload, &[seeder.addr()]);
    getter.finishes(&payload);
    let dir = getter.stop();
    damage_unseen(&dir.path().join("resume/c"), 1_000_000);
    let again = resumed(&payload, dir);
    again.torrent.resume().unwrap();
    assert_eq!(again.torrent.wait(PATIENCE), State::Seeding, "it was hashed");
    assert_eq!(again.torrent.stats().downloaded, 0);
}

#[test]
fn a_stop_amid_a_transfer_loses_nothing_that_was_verified() {
    let payload = Payload::file("stop", 6 << 20, 16384);
    let seeder = Client::seeding(&payload);
    let mut dir = tempfile::tempdir().unwrap();
    let (mut downloaded, mut damaged) = (0, None);
    for round in 1..=5 {
        let getter = resumed(&payload, dir);
        getter.torrent.resume().unwrap();
        getter.torrent.add_peer(seeder.addr()).unwrap();
        await_that("further", &getter.torrent, || getter.torrent.pieces().count() >= round * 60);
        let torrent = getter.torrent.clone();
        dir = getter.stop();
        downloaded += torrent.stats().downloaded;
        let have = torrent.pieces();
        if damaged.is_none() {
            damaged = have.iter().next();
            damage_unseen(&dir.path().join("stop"), damaged.unwrap() as usize * 16384);
        }
        let again = resumed(&payload, dir);
        let (now, before): (Vec<u32>, Vec<u32>) = (again.torrent.pieces().iter().collect(), have.iter().collect());
        assert_eq!(now, before, "hashed or lost in round {round}, {damaged:?} was damaged");
        dir = again.stop();
    }
    println!("{downloaded} bytes fetched in 5 runs of {}", payload.bytes.len());
    let getter = resumed(&payload, dir);
    getter.torrent.recheck().unwrap();
    getter.torrent.resume().unwrap();
    getter.torrent.add_peer(seeder.addr()).unwrap();
    getter.finishes(&payload);
}

#[test]
fn a_file_that_was_changed_meanwhile_is_hashed_and_fetched_again() {
    let payload = Payload::folder("changed", &[("a", 300_000), ("b", 300_000)], 16384, false);
    let seeder = Client::seeding(&payload);
    let getter = Client::leeching(&payload, &[seeder.addr()]);
    getter.finishes(&payload);
    let dir = getter.stop();
    std::fs::write(dir.path().join("changed/b"), vec![0; 300_000]).unwrap();
    let again = resumed(&payload, dir);
    assert_eq!(again.torrent.pieces().count(), 18);
    again.torrent.resume().unwrap();
    again.torrent.add_peer(seeder.addr()).unwrap();
    again.finishes(&payload);
}

#[test]
fn a_removed_file_is_made_and_fetched_again() {
    let payload = Payload::folder("removed", &[("a", 300_000), ("b", 300_000)], 16384, false);
    let seeder = Client::seeding(&payload);
    let getter = Client::leeching(&payload, &[seeder.addr()]);
    getter.finishes(&payload);
    let dir = getter.stop();
    std::fs::remove_file(dir.path().join("removed/a")).unwrap();
    let again = resumed(&payload, dir);
    again.torrent.resume().unwrap();
    again.torrent.add_peer(seeder.addr()).unwrap();
    again.finishes(&payload);
}

#[test]
fn removing_with_data_removes_files_folders_and_journal_and_nothing_else() {
    let payload = Payload::folder("remove", &[("a", 100_000), ("sub/b", 100_000), ("keep/c", 10)], 16384, false);
    let client = Client::seeding(&payload);
    std::fs::write(client.path().join("remove/keep/mine"), b"mine").unwrap();
    client.torrent.remove(Data::Delete).unwrap();
    assert_eq!(client.torrent.wait(PATIENCE), State::Stopped);
    let left = |path: &str| client.path().join(path).exists();
    assert!(!left("remove/a") && !left("remove/sub") && !left("remove/keep/c") && !left(".ropewalk"));
    assert!(left("remove/keep/mine"));
}

#[test]
fn read_only_files_are_seeded_and_not_touched() {
    let payload = Payload::folder("read-only", &[("a", 300_000), ("b", 70_000)], 16384, false);
    let seeder = Client::seeding_with(&payload, config(), |options| options.check = Check::ReadOnly);
    let getter = Client::leeching(&payload, &[seeder.addr()]);
    getter.finishes(&payload);
    assert!(!seeder.path().join(".ropewalk").exists());
}

#[test]
fn files_that_were_hashed_just_now_are_believed_by_their_lengths_until_they_are_opened_again() {
    let payload = Payload::folder("hashed", &[("a", 300_000), ("b", 70_000)], 16384, false);
    let seeder = Client::seeding_with(&payload, config(), |options| options.check = Check::Hashed);
    let getter = Client::leeching(&payload, &[seeder.addr()]);
    getter.finishes(&payload);
    assert!(!seeder.path().join(".ropewalk").exists());
    std::fs::write(seeder.path().join("hashed/b"), [0; 70_000]).unwrap();
    seeder.torrent.recheck().unwrap();
    await_that("hashed after all", &seeder.torrent, || {
        let stats = seeder.torrent.stats();
        stats.state == State::Downloading && stats.done < stats.wanted
    });

    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("hashed")).unwrap();
    std::fs::write(dir.path().join("hashed/a"), [0; 300_000]).unwrap();
    std::fs::write(dir.path().join("hashed/b"), [0; 69_999]).unwrap();
    let short = Client::start(&payload, dir, config(), |options| options.check = Check::Hashed);
    await_that("opened", &short.torrent, || short.torrent.state() == State::Downloading);
    let pieces = short.torrent.pieces();
    assert_eq!((pieces.count(), pieces.len()), (pieces.len() - 1, pieces.len()), "all but the one that is cut off");
}

#[test]
fn a_folder_in_the_way_of_a_file_is_a_clear_failure() {
    let payload = Payload::file("in-the-way", 100_000, 16384);
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("in-the-way")).unwrap();
    let client = Client::start(&payload, dir, config(), |_| ());
    let failure = failure_of(&client.torrent);
    assert!(failure.disk && failure.message.contains("in-the-way"), "{failure:?}");
    std::fs::remove_dir(client.path().join("in-the-way")).unwrap();
    client.torrent.resume().unwrap();
    await_that("opened", &client.torrent, || client.torrent.state() == State::Downloading);
}

#[test]
fn one_session_at_a_time_downloads_into_a_folder() {
    let payload = Payload::file("shared", 1_000_000, 16384);
    let seeder = Client::seeding(&payload);
    let first = Client::leeching(&payload, &[]);
    await_that("opened", &first.torrent, || first.torrent.state() == State::Downloading);
    let session = Session::new(config()).unwrap();
    let second = session.add(payload.metainfo.clone(), AddOptions::new(first.path())).unwrap();
    let failure = failure_of(&second);
    assert!(failure.disk && failure.message.contains("another ropewalk"), "{failure:?}");
    // Whoever only reads is in nobody's way.
    let options = AddOptions { check: Check::ReadOnly, ..AddOptions::new(first.path()) };
    let reads = Session::new(config()).unwrap();
    let reading = reads.add(payload.metainfo.clone(), options).unwrap();
    await_that("read", &reading, || reading.state() == State::Downloading);

    first.torrent.add_peer(seeder.addr()).unwrap();
    first.finishes(&payload);
    let dir = first.stop();
    second.resume().unwrap();
    assert_eq!(second.wait(PATIENCE), State::Seeding, "the first one's journal is there for it");
    assert_eq!(second.stats().downloaded, 0);
    session.shutdown();
    let left = std::fs::read_dir(dir.path().join(".ropewalk")).unwrap();
    assert!(left.flatten().all(|entry| entry.path().extension().is_some_and(|of| of == "resume")));
}

#[test]
fn two_torrents_do_not_write_into_one_file_and_may_both_seed_it() {
    let payload = Payload::folder("same", &[("a", 500_000), ("b", 30_000)], 16384, false);
    let other = Payload::folder("same", &[("a", 500_000), ("b", 30_001)], 16384, false);
    let finer = Payload::folder("same", &[("a", 500_000), ("b", 30_000)], 32768, false);
    let seeder = Client::seeding(&payload);
    let client = Client::leeching(&payload, &[]);
    await_that("opened", &client.torrent, || client.torrent.state() == State::Downloading);
    let add = |payload: &Payload| client.session.add(payload.metainfo.clone(), AddOptions::new(client.path())).unwrap();
    for payload in [&other, &finer] {
        let second = add(payload);
        let failure = failure_of(&second);
        assert!(failure.disk && failure.message.contains("a file of another torrent"), "{failure:?}");
        assert!(failure.message.contains(client.path().join("same").to_str().unwrap()), "{failure:?}");
    }
    client.torrent.add_peer(seeder.addr()).unwrap();
    client.finishes(&payload);
    // Nothing is to be written any more: where all of it is there, it is seeded, too.
    let [other, finer] = [&other, &finer].map(|payload| {
        let torrents = client.session.torrents();
        torrents.into_iter().find(|torrent| torrent.info_hash() == payload.metainfo.info_hash()).unwrap()
    });
    await_that("seeded, too", &finer, || {
        finer.resume().unwrap();
        finer.wait(PATIENCE) == State::Seeding
    });
    other.resume().unwrap();
    assert!(matches!(other.wait(PATIENCE), State::Failed(_)), "{:?}", other.state());
    client.finishes(&payload);
}

#[test]
fn files_that_another_torrent_has_are_not_deleted() {
    let payload = Payload::folder("same", &[("a", 500_000), ("b", 30_000)], 16384, false);
    let coarser = Payload::folder("same", &[("a", 500_000), ("b", 30_000)], 32768, false);
    let client = Client::seeding(&payload);
    let second = client.session.add(coarser.metainfo.clone(), AddOptions::new(client.path())).unwrap();
    assert_eq!(second.wait(PATIENCE), State::Seeding);
    second.remove(Data::Delete).unwrap();
    assert_eq!(second.wait(PATIENCE), State::Stopped);
    client.finishes(&payload);
    // Both at once: the last one deletes them.
    let third = client.session.add(coarser.metainfo.clone(), AddOptions::new(client.path())).unwrap();
    assert_eq!(third.wait(PATIENCE), State::Seeding);
    for torrent in [&third, &client.torrent] {
        torrent.remove(Data::Delete).unwrap();
    }
    for torrent in [&third, &client.torrent] {
        assert_eq!(torrent.wait(PATIENCE), State::Stopped);
    }
    assert_eq!(std::fs::read_dir(client.path()).unwrap().count(), 0);
}

#[test]
fn a_link_whose_torrent_another_session_has_goes_on_when_that_one_has_ended() {
    let payload = Payload::file("linked", 300_000, 16384);
    let seeder = Client::seeding(&payload);
    let first = Client::leeching(&payload, &[]);
    await_that("opened", &first.torrent, || first.torrent.state() == State::Downloading);
    let session = Session::new(config()).unwrap();
    let link = Magnet::new(payload.metainfo.info_hash());
    let options = AddOptions { peers: vec![seeder.addr()], ..AddOptions::new(first.path()) };
    let second = session.add_magnet(link, options).unwrap();
    let failure = failure_of(&second);
    assert!(failure.disk && failure.message.contains("another ropewalk"), "{failure:?}");
    let _dir = first.stop();
    second.resume().unwrap();
    assert_eq!(second.wait(PATIENCE), State::Seeding);
}

#[test]
fn what_another_session_is_at_work_on_is_not_removed() {
    let payload = Payload::file("kept", 1_000_000, 16384);
    let seeder = Client::seeding(&payload);
    let client = Client::leeching(&payload, &[seeder.addr()]);
    client.finishes(&payload);
    let journal = client.path().join(format!(".ropewalk/{}.resume", payload.metainfo.info_hash()));
    await_that("recorded", &client.torrent, || journal.exists());
    let session = Session::new(config()).unwrap();
    for check in [Check::Journal, Check::ReadOnly] {
        let other = session.add(payload.metainfo.clone(), AddOptions { check, ..AddOptions::new(client.path()) });
        let other = other.unwrap();
        await_that("opened", &other, || matches!(other.state(), State::Failed(_) | State::Seeding));
        other.remove(Data::Delete).unwrap();
        assert_eq!(other.wait(PATIENCE), State::Stopped);
        assert!(journal.exists() && client.path().join("kept").exists(), "{check:?}");
    }
}

#[test]
fn a_folder_for_journals_that_the_user_made_stays_and_what_a_killed_one_left_is_in_nobodys_way() {
    let payload = Payload::file("in-the-way", 100_000, 16384);
    let state = tempfile::tempdir().unwrap();
    let config = || Config { state_dir: Some(state.path().into()), ..config() };
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("in-the-way")).unwrap();
    let dir = Client::start(&payload, dir, config(), |_| ()).stop();
    assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0);

    std::fs::remove_dir(dir.path().join("in-the-way")).unwrap();
    std::fs::write(state.path().join(format!("{}.lock", payload.metainfo.info_hash())), "").unwrap();
    let client = Client::start(&payload, dir, config(), |_| ());
    await_that("opened", &client.torrent, || client.torrent.state() == State::Downloading);
    client.stop();
    assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 1, "the journal alone");
}

#[test]
fn where_nothing_can_begin_no_folder_for_a_journal_is_left() {
    let payload = Payload::file("in-the-way", 100_000, 16384);
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("in-the-way")).unwrap();
    let dir = Client::start(&payload, dir, config(), |_| ()).stop();
    assert!(!dir.path().join(".ropewalk").exists());
}
