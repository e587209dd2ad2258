//! Journals as they are written, cut off, falsified and read.

use std::fs::{File, FileTimes};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::{ProptestConfig, any, prop_assert_eq, proptest};

use super::{CHECKSUM, Journal, ResumeError, longest, remove, without_journal};
use crate::bits::Bits;
use crate::hash::sha1;
use crate::metainfo::InfoHash;
use crate::storage::tests::{Case, folders, layout_of, options};
use crate::storage::{Options, Stamp, Storage, Way};

const HASH: InfoHash = InfoHash::new([7; 20]);
const WINDOW: Duration = Duration::from_secs(10);

/// A torrent of two files, 4 pieces each, complete and recorded.
fn recorded(folder: &Path, clean: bool) -> (Case, Journal, Options) {
    let case = Case::new(layout_of(&[(1 << 20, false), (1 << 20, false)], 1 << 18));
    let options = options(folder, Way::default());
    let storage = Storage::open(case.layout.clone(), folder, options.clone()).unwrap();
    let mut journal = Journal::new(HASH, &case.layout, WINDOW);
    case.layout.pieces().for_each(|piece| case.store(&storage, piece).unwrap());
    journal.verified = Bits::full(8);
    journal.clean = clean;
    journal.record(&storage).unwrap();
    (case, journal, options)
}

fn reopened(case: &Case, folder: &Path, options: &Options) -> Storage {
    Storage::open(case.layout.clone(), folder, options.clone()).unwrap()
}

fn change_time(path: &Path, by: impl FnOnce(SystemTime) -> SystemTime) {
    let file = File::options().write(true).open(path).unwrap();
    let time = by(file.metadata().unwrap().modified().unwrap());
    file.set_times(FileTimes::new().set_modified(time)).unwrap();
}

fn pieces(bits: &Bits) -> Vec<u32> {
    bits.iter().collect()
}

#[test]
fn what_was_recorded_is_trusted_without_hashing() {
    for folder in folders() {
        for clean in [true, false] {
            let (case, journal, options) = recorded(folder.path(), clean);
            let path = folder.path().join("state/x.resume");
            journal.store(&path).unwrap();
            let journal = Journal::load(&path, HASH, &case.layout).unwrap().unwrap();
            let trust = journal.trusted(&reopened(&case, folder.path(), &options));
            assert!(trust.have.is_full() && trust.recheck.count() == 0, "{trust:?}");
            std::fs::remove_dir_all(folder.path().join("t")).unwrap();
        }
    }
}

#[test]
fn a_file_changed_behind_our_back_is_rechecked_and_only_that() {
    let folder = tempfile::tempdir().unwrap();
    let (case, journal, options) = recorded(folder.path(), true);
    change_time(&folder.path().join("t/0"), |time| time + Duration::from_millis(1));
    let trust = journal.trusted(&reopened(&case, folder.path(), &options));
    assert_eq!((pieces(&trust.have), pieces(&trust.recheck)), (vec![4, 5, 6, 7], vec![0, 1, 2, 3]));
}

#[test]
fn stores_after_the_last_record_of_a_killed_process_do_not_cost_a_recheck_of_what_was_recorded() {
    for folder in folders() {
        let case = Case::new(layout_of(&[(2 << 20, false)], 1 << 18));
        let options = options(folder.path(), Way::default());
        let storage = Storage::open(case.layout.clone(), folder.path(), options.clone()).unwrap();
        let mut journal = Journal::new(HASH, &case.layout, WINDOW);
        let [first, second] = [0, 5].map(|piece| case.layout.piece(piece).unwrap());
        case.store(&storage, first).unwrap();
        journal.verified.set(0);
        journal.record(&storage).unwrap();
        // Out of the clock tick of the first store.
        change_time(&storage.path(case.layout.file_index(0).unwrap()), |time| time - Duration::from_millis(50));
        let before = storage.stamp(case.layout.file_index(0).unwrap()).unwrap();
        journal.stamps.files[0] = before;
        case.store(&storage, second).unwrap();
        assert_ne!(storage.stamp(case.layout.file_index(0).unwrap()).unwrap(), before, "a store moves the time");
        drop(storage);

        let storage = reopened(&case, folder.path(), &options);
        let trust = journal.trusted(&storage);
        assert_eq!(pieces(&trust.have), [0]);
        assert_eq!(pieces(&trust.recheck), [1, 2, 3, 4, 5, 6, 7], "cheaper hashed than fetched");
        journal.clean = true;
        assert_eq!(pieces(&journal.trusted(&storage).have), [0u32; 0], "after a clean end nobody may have stored");
    }
}

#[test]
fn a_change_after_the_window_of_an_unclean_journal_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (case, journal, options) = recorded(folder.path(), false);
    change_time(&folder.path().join("t/1"), |time| time + WINDOW + Duration::from_secs(1));
    let trust = journal.trusted(&reopened(&case, folder.path(), &options));
    assert_eq!((pieces(&trust.have), pieces(&trust.recheck)), (vec![0, 1, 2, 3], vec![4, 5, 6, 7]));

    let path = folder.path().join("x.resume");
    journal.store(&path).unwrap();
    let later = SystemTime::now() + Duration::from_secs(5);
    File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
    let alive = Journal::load(&path, HASH, &case.layout).unwrap().unwrap();
    let trust = alive.trusted(&reopened(&case, folder.path(), &options));
    assert!(trust.have.is_full(), "a sign of life moves the window");
}

#[test]
fn after_another_boot_only_durable_pieces_are_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let (case, mut journal, options) = recorded(folder.path(), false);
    journal.boot = [1; 16];
    journal.durable.set(2);
    let trust = journal.trusted(&reopened(&case, folder.path(), &options));
    assert_eq!((pieces(&trust.have), trust.recheck.count()), (vec![2], 7));
}

#[test]
fn a_missing_or_short_file_is_not_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let (case, journal, options) = recorded(folder.path(), false);
    std::fs::remove_file(folder.path().join("t/0")).unwrap();
    File::options().write(true).open(folder.path().join("t/1")).unwrap().set_len(1000).unwrap();
    let trust = journal.trusted(&reopened(&case, folder.path(), &options));
    assert_eq!((trust.have.count(), trust.recheck.count()), (0, 8));
}

#[test]
fn without_a_journal_what_was_found_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let (case, _, options) = recorded(folder.path(), true);
    std::fs::remove_file(folder.path().join("t/0")).unwrap();
    let trust = without_journal(&reopened(&case, folder.path(), &options));
    assert_eq!((trust.have.count(), pieces(&trust.recheck)), (0, vec![4, 5, 6, 7]));
}

#[test]
fn a_journal_cut_off_or_changed_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (case, journal, _) = recorded(folder.path(), true);
    let bytes = journal.encode();
    assert!(bytes.len() as u64 <= longest(&case.layout));
    assert_eq!(Journal::decode(&bytes, HASH, &case.layout).unwrap(), journal);
    for len in 0..bytes.len() {
        assert!(Journal::decode(&bytes[..len], HASH, &case.layout).is_err());
    }
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Journal::decode(&bytes, HASH, &case.layout).is_err());
    }
    let other = InfoHash::new([8; 20]);
    assert!(matches!(Journal::decode(&bytes, other, &case.layout), Err(ResumeError::OtherTorrent(HASH))));
    let path = folder.path().join("x.resume");
    std::fs::write(&path, vec![0; longest(&case.layout) as usize + 1]).unwrap();
    assert!(matches!(Journal::load(&path, HASH, &case.layout), Err(ResumeError::Damaged("too long"))));
    remove(&path).unwrap();
    assert_eq!(Journal::load(&path, HASH, &case.layout).unwrap(), None);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The fields with a right checksum over them: what a checksum does not catch.
    #[test]
    fn forged_fields_are_an_error_or_a_journal_and_never_a_panic(
        at in 16usize..200, with in proptest::collection::vec(any::<u8>(), 1..9), cut in 0usize..40,
    ) {
        let layout = Arc::new(layout_of(&[(100_000, false), (1 << 20, false)], 1 << 16));
        let mut journal = Journal::new(HASH, &layout, WINDOW);
        journal.stamps.files = vec![Some(Stamp { len: 5, mtime: 6 }); 2];
        let bytes = journal.encode();
        let mut body = bytes[..bytes.len() - CHECKSUM - cut].to_vec();
        for (to, from) in body.iter_mut().skip(at).zip(with) {
            *to = from;
        }
        let checksum = sha1([body.as_slice()]);
        body.extend_from_slice(&checksum);
        if let Ok(journal) = Journal::decode(&body, HASH, &layout) {
            prop_assert_eq!(journal.encode(), body);
        }
    }
}
