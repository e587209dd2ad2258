//! What is found in files that were there before.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use super::{check, hash_all};
use crate::bits::Bits;
use crate::hash::{Backend, Hashing};
use crate::metainfo::{FileIndex, PieceIndex};
use crate::storage::tests::{Case, folders, layout_of, options};
use crate::storage::{Options, Storage, StorageError, Way};

fn by(backend: Backend) -> Hashing {
    Hashing { threads: 3, backend }
}

fn stopped(storage: &Storage, case: &Case, stop: bool) -> Bits {
    let seen = Mutex::new(Bits::new(case.layout.piece_count()));
    let on_piece = |piece: PieceIndex, _| assert!(seen.lock().set(piece.get()), "reported twice");
    let all = Bits::full(case.layout.piece_count());
    let right = check(storage, &all, &|piece| case.hash(piece), Hashing::default(), &on_piece, &AtomicBool::new(stop));
    assert_eq!(seen.lock().is_full(), !stop);
    right
}

#[test]
fn right_wrong_unwritten_and_missing_pieces_are_told_apart() {
    for folder in folders() {
        let case = Case::new(layout_of(&[(3 << 20, false), (1000, true), (700_000, false), (5000, false)], 100_000));
        let storage =
            Storage::open(case.layout.clone(), folder.path(), options(folder.path(), Way::default())).unwrap();
        let stored = |piece: &PieceIndex| piece.get() % 3 != 1;
        for piece in case.layout.pieces().filter(stored) {
            case.store(&storage, piece).unwrap();
        }
        let first = storage.plain_file(case.layout.file_index(0).unwrap()).unwrap().unwrap();
        first.write_all_at(b"not what it was", 200_100).unwrap();
        std::fs::remove_file(folder.path().join("t/3")).unwrap();
        let Options { state_dir, .. } = options(folder.path(), Way::default());
        let fresh = Options { read_only: true, state_dir, ..options(folder.path(), Way::default()) };
        let storage = Storage::open(case.layout.clone(), folder.path(), fresh).unwrap();
        let right = stopped(&storage, &case, false);
        let lost = case.layout.pieces_of(case.layout.file_index(3).unwrap());
        for piece in case.layout.pieces() {
            let expected = stored(&piece) && piece.get() != 2 && !lost.contains(&piece.get());
            assert_eq!(right.get(piece.get()), expected, "{piece:?}");
        }
        assert_eq!(stopped(&storage, &case, true).count(), 0);
    }
}

#[test]
fn a_piece_of_zeros_that_was_never_written_is_right_where_the_torrent_says_zeros() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Arc::new(layout_of(&[(1_000_000, false)], 1 << 18));
    let storage = Storage::open(layout.clone(), folder.path(), options(folder.path(), Way::default())).unwrap();
    let hash_of = |piece| crate::hash::sha1([vec![0; layout.piece_len(piece) as usize].as_slice()]);
    let right = check(&storage, &Bits::full(4), &hash_of, Hashing::default(), &|_, _| {}, &AtomicBool::new(false));
    assert!(right.is_full());
}

#[test]
fn the_hashes_of_a_new_torrent_are_those_of_its_files_wherever_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let case = Case::new(layout_of(&[(300_000, false), (0, false), (777, true), (1, false), (70_000, false)], 1 << 16));
    for file in case.layout.file_indices() {
        std::fs::write(folder.path().join(format!("f{}", file.get())), case.file_bytes(file)).unwrap();
    }
    let path_of = |file: FileIndex| folder.path().join(format!("f{}", file.get()));
    let go = AtomicBool::new(false);
    for backend in Backend::ALL {
        let hashes = hash_all(&case.layout, &path_of, by(backend), &|_| {}, &go).unwrap().unwrap();
        assert_eq!(hashes, case.layout.pieces().map(|piece| case.hash(piece)).collect::<Vec<_>>(), "{backend:?}");
    }
    assert!(hash_all(&case.layout, &path_of, by(Backend::best()), &|_| {}, &AtomicBool::new(true)).unwrap().is_none());
    std::fs::write(path_of(case.layout.file_index(4).unwrap()), b"shrunk").unwrap();
    let result = hash_all(&case.layout, &path_of, by(Backend::best()), &|_| {}, &go);
    assert!(matches!(result, Err(StorageError::Short { .. })), "{result:?}");
}
