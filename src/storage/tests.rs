//! Whole storages, on each kind of file system at hand and both ways.

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use tempfile::TempDir;

use super::{Lent, MAPPED_FROM, Options, Storage, StorageError, Way};
use crate::hash::{Sha1Hash, VerifiedPiece, sha1};
use crate::metainfo::{Attributes, BLOCK_LEN, FileEntry, FileIndex, Layout, PieceIndex};

/// A torrent and its bytes.
pub(super) struct Case {
    pub(super) layout: Arc<Layout>,
    bytes: Vec<u8>,
}

impl Case {
    pub(super) fn new(layout: Layout) -> Self {
        let mut random = fastrand::Rng::with_seed(layout.total_len());
        let mut bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(layout.total_len() as usize).collect();
        for file in layout.files().iter().filter(|file| file.is_padding()) {
            bytes[file.offset() as usize..][..file.len() as usize].fill(0);
        }
        Self { layout: Arc::new(layout), bytes }
    }

    fn piece_bytes(&self, piece: PieceIndex) -> &[u8] {
        &self.bytes[self.layout.piece_offset(piece) as usize..][..self.layout.piece_len(piece) as usize]
    }

    pub(super) fn file_bytes(&self, file: FileIndex) -> &[u8] {
        let file = self.layout.file(file);
        &self.bytes[file.offset() as usize..][..file.len() as usize]
    }

    pub(super) fn hash(&self, piece: PieceIndex) -> Sha1Hash {
        sha1([self.piece_bytes(piece)])
    }

    pub(super) fn store(&self, storage: &Storage, piece: PieceIndex) -> Result<(), StorageError> {
        let blocks = self.piece_bytes(piece).chunks(BLOCK_LEN as usize).collect();
        storage.write_piece(&VerifiedPiece::check(piece, blocks, &self.hash(piece)).unwrap())
    }

    fn assert_reads(&self, storage: &Storage, piece: PieceIndex) {
        let mut whole = vec![1; self.layout.piece_len(piece) as usize];
        storage.read_at(self.layout.whole(piece), &mut whole).unwrap();
        assert!(whole == self.piece_bytes(piece), "{piece:?} as read");
        for number in 0..self.layout.block_count(piece) {
            let block = self.layout.block(piece, number).unwrap();
            let expected = &self.piece_bytes(piece)[block.begin as usize..][..block.len as usize];
            assert!(sent(&storage.lend(&[block], &[]).unwrap()) == expected, "{block:?} as lent");
        }
    }
}

/// Files of these lengths, padding or not, named by their number in a folder `t`.
pub(super) fn layout_of(files: &[(u64, bool)], piece_length: u32) -> Layout {
    let entry = |(number, &(len, padding)): (usize, &(u64, bool))| FileEntry {
        path: Path::new("t").join(if number % 4 == 2 { format!("sub/deep/{number}") } else { number.to_string() }),
        len,
        offset: 0,
        attributes: Attributes { padding, ..Attributes::default() },
    };
    Layout::new(files.iter().enumerate().map(entry).collect(), piece_length).unwrap()
}

pub(super) fn options(folder: &Path, way: Way) -> Options {
    let state_dir = folder.join("state");
    Options { state_dir, name: "x".into(), wanted: Vec::new(), read_only: false, way, max_open_files: 8 }
}

/// A folder on the disk that the tests were built on and, where there is one, in memory.
pub(super) fn folders() -> Vec<TempDir> {
    let disk = std::env::current_exe().unwrap();
    let memory = Path::new("/dev/shm");
    let mut folders = vec![tempfile::tempdir_in(disk.parent().unwrap()).unwrap()];
    folders.extend(memory.is_dir().then(|| tempfile::tempdir_in(memory).unwrap()));
    folders
}

/// What arrives when a block is written to a pipe by the kernel.
fn sent(lent: &Lent) -> Vec<u8> {
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    let mut received = Vec::new();
    for slice in (0..lent.len()).flat_map(|block| lent.io_slices(block)) {
        // A pipe holds 64 KiB.
        for slice in slice.chunks(BLOCK_LEN as usize) {
            writer.write_all(slice).unwrap();
            let before = received.len();
            received.resize(before + slice.len(), 0);
            reader.read_exact(&mut received[before..]).unwrap();
        }
    }
    received
}

fn file(layout: &Layout, number: u32) -> FileIndex {
    layout.file_index(number).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_stored_in_any_order_with_any_files_skipped_read_back_and_skipped_files_are_not_made(
        files in proptest::collection::vec(
            (prop_oneof![Just(0u64), 1u64..5000, 1u64..300_000, MAPPED_FROM - 1..MAPPED_FROM + 2, 640_000u64..2_500_000],
             proptest::bool::weighted(0.2)), 1..7),
        piece_length in prop_oneof![1000u32..70_000, Just(16_384), Just(262_144), Just(1 << 21)],
        skipped in proptest::collection::vec(proptest::bool::weighted(0.4), 7),
        seed in any::<u64>(),
        way in prop_oneof![Just(Way::Mapped), Just(Way::Written), Just(Way::PortableOnly)],
    ) {
        let case = Case::new(layout_of(&files, piece_length));
        let layout = &case.layout;
        let wanted: Vec<bool> = skipped.iter().map(|skip| !skip).collect();
        let is_wanted = |file: FileIndex| wanted[file.get() as usize] && !layout.file(file).is_padding();
        for folder in folders() {
            let mut options = options(folder.path(), way);
            options.wanted = wanted.clone();
            options.max_open_files = 2;
            let storage = Storage::open(layout.clone(), folder.path(), options.clone()).unwrap();

            let mut pieces: Vec<_> = layout
                .pieces()
                .filter(|&piece| layout.segments(layout.whole(piece)).any(|segment| is_wanted(segment.file)))
                .collect();
            fastrand::Rng::with_seed(seed).shuffle(&mut pieces);
            for &piece in &pieces {
                case.store(&storage, piece).unwrap();
            }
            pieces.iter().for_each(|&piece| case.assert_reads(&storage, piece));
            storage.write_back();
            storage.sync().unwrap();
            for number in layout.file_indices() {
                let path = storage.path(number);
                if is_wanted(number) {
                    prop_assert!(std::fs::read(&path).unwrap() == case.file_bytes(number), "{:?}", path);
                } else {
                    prop_assert!(!path.exists(), "{:?}", path);
                }
            }

            // Some files are wanted now, at once or with the next start; nothing may be lost.
            options.wanted = vec![true; files.len()];
            let restarted = if seed % 2 == 0 {
                drop(storage);
                Storage::open(layout.clone(), folder.path(), options).unwrap()
            } else {
                for number in layout.file_indices() {
                    storage.set_wanted(number, true).unwrap();
                }
                storage
            };
            pieces.iter().for_each(|&piece| case.assert_reads(&restarted, piece));
            for piece in layout.pieces() {
                case.store(&restarted, piece).unwrap();
                case.assert_reads(&restarted, piece);
            }
            for number in layout.file_indices().filter(|&number| !layout.file(number).is_padding()) {
                prop_assert!(std::fs::read(restarted.path(number)).unwrap() == case.file_bytes(number));
            }
            std::fs::create_dir_all(folder.path().join("t")).unwrap();
            std::fs::write(folder.path().join("t/foreign"), b"stays").unwrap();
            restarted.remove_files().unwrap();
            let left: Vec<_> = std::fs::read_dir(folder.path().join("t")).unwrap().map(|e| e.unwrap().file_name()).collect();
            prop_assert_eq!(left, ["foreign"]);
        }
    }
}

#[test]
fn several_workers_store_neighbouring_pieces_at_once() {
    let case = Case::new(layout_of(&[(5 << 20, false), (100_000, false), (3 << 20, false)], 50_001));
    for (folder, way) in
        [Way::Written, Way::Mapped].into_iter().flat_map(|way| folders().into_iter().map(move |dir| (dir, way)))
    {
        let storage = Storage::open(case.layout.clone(), folder.path(), options(folder.path(), way)).unwrap();
        let pieces: Vec<_> = case.layout.pieces().collect();
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let (case, storage, pieces) = (&case, &storage, &pieces);
                scope.spawn(move || {
                    for &piece in pieces.iter().skip(worker).step_by(4) {
                        case.store(storage, piece).unwrap();
                        case.assert_reads(storage, piece);
                    }
                });
            }
        });
        case.layout.pieces().for_each(|piece| case.assert_reads(&storage, piece));
    }
}

#[test]
fn a_file_that_becomes_wanted_while_pieces_are_stored_loses_none() {
    let case = Case::new(layout_of(&[(1500, false); 200], 1000));
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path(), Way::default());
    options.wanted = vec![false; 200];
    let storage = Storage::open(case.layout.clone(), folder.path(), options).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| case.layout.pieces().for_each(|piece| case.store(&storage, piece).unwrap()));
        scope.spawn(|| case.layout.pieces().rev().for_each(|piece| case.store(&storage, piece).unwrap()));
        case.layout.file_indices().for_each(|file| storage.set_wanted(file, true).unwrap());
    });
    for number in case.layout.file_indices() {
        assert!(std::fs::read(storage.path(number)).unwrap() == case.file_bytes(number));
    }
}

#[test]
fn large_files_are_allocated_on_a_disk_and_empty_ones_made() {
    let layout = Arc::new(layout_of(&[(8 << 20, false), (0, false), (1000, false)], 1 << 18));
    for folder in folders() {
        let storage = Storage::open(layout.clone(), folder.path(), options(folder.path(), Way::default())).unwrap();
        let large = std::fs::metadata(storage.path(file(&layout, 0))).unwrap();
        assert_eq!(large.len(), 8 << 20);
        assert!(storage.in_memory || !folder.path().starts_with("/dev/shm"));
        // In memory that would take it before it is needed.
        assert_eq!(large.blocks() * 512 >= 8 << 20, !storage.in_memory);
        assert_eq!(std::fs::metadata(storage.path(file(&layout, 1))).unwrap().len(), 0);
        assert!(!storage.path(file(&layout, 2)).exists(), "small ones come with their bytes");
        let result = storage.read_at(layout.whole(layout.piece(32).unwrap()), &mut [0; 1000]);
        assert!(matches!(result, Err(StorageError::Missing { .. })), "{result:?}");
    }
}

#[test]
fn a_torrent_larger_than_the_disk_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Arc::new(layout_of(&[(1000, false), (1 << 60, false)], 1 << 30));
    let result = Storage::open(layout, folder.path(), options(folder.path(), Way::default()));
    let Err(error @ StorageError::NotEnoughSpace { needed, .. }) = result else { panic!("{result:?}") };
    assert!(error.is_out_of_space() && needed == (1 << 60) + 1000);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_longer_file_is_left_alone_and_a_shorter_one_extended() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Arc::new(layout_of(&[(1_000_000, false)], 1 << 18));
    let path = folder.path().join("t/0");
    std::fs::create_dir(folder.path().join("t")).unwrap();
    std::fs::write(&path, vec![1; 1_000_001]).unwrap();
    let open = |read_only| {
        let options = Options { read_only, ..options(folder.path(), Way::default()) };
        Storage::open(layout.clone(), folder.path(), options)
    };
    assert!(matches!(open(false), Err(StorageError::TooLong { len: 1_000_001, expected: 1_000_000, .. })));
    assert!(open(true).is_ok());
    std::fs::write(&path, b"begun").unwrap();
    assert!(open(true).is_ok());
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 5, "only read");
    assert!(open(false).is_ok());
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 1_000_000);
    assert!(std::fs::read(&path).unwrap().starts_with(b"begun"));
}

#[test]
fn something_else_in_the_place_of_a_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Arc::new(layout_of(&[(1_000, false)], 1 << 18));
    std::fs::create_dir_all(folder.path().join("t/0")).unwrap();
    let open = || Storage::open(layout.clone(), folder.path(), options(folder.path(), Way::default()));
    assert!(matches!(open(), Err(StorageError::NotPlain { wanted: "file", .. })));
    std::fs::remove_dir_all(folder.path().join("t")).unwrap();
    std::os::unix::fs::symlink("/tmp", folder.path().join("t")).unwrap();
    assert!(matches!(open(), Err(StorageError::NotPlain { wanted: "folder", .. })));
}

#[test]
fn a_file_truncated_or_removed_behind_our_back_is_an_error_that_names_it_and_is_not_extended() {
    for way in [Way::Mapped, Way::Written, Way::PortableOnly] {
        for folder in folders() {
            let case = Case::new(layout_of(&[(2 << 20, false), (1000, false)], 1 << 18));
            let storage = Storage::open(case.layout.clone(), folder.path(), options(folder.path(), way)).unwrap();
            let [first, last, small] = [0, 7, 8].map(|piece| case.layout.piece(piece).unwrap());
            case.store(&storage, first).unwrap();
            let lent = storage.lend(&[case.layout.block(first, 0).unwrap()], &[]).unwrap();
            let path = storage.path(file(&case.layout, 0));
            std::fs::File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
            for _ in 0..2 {
                let result = case.store(&storage, last);
                let Err(StorageError::Vanished { path: named }) = result else { panic!("{result:?}") };
                assert_eq!(named, path);
            }
            assert_eq!(std::fs::metadata(&path).unwrap().len(), 4096);
            let result = storage.read_at(case.layout.whole(last), &mut vec![0; 1 << 18]);
            assert!(matches!(result, Err(StorageError::Short { .. })), "{result:?}");
            if way != Way::PortableOnly {
                let (_reader, mut writer) = std::io::pipe().unwrap();
                let slices: Vec<_> = lent.io_slices(0).collect();
                let sent = writer.write_vectored(&slices);
                assert!(!matches!(sent, Ok(len) if len > 4096), "{sent:?}");
            }
            case.store(&storage, small).unwrap();
            std::fs::remove_file(storage.path(file(&case.layout, 1))).unwrap();
            assert!(matches!(case.store(&storage, small), Err(StorageError::Vanished { .. })));
            assert!(matches!(case.store(&storage, small), Err(StorageError::Missing { .. })));
        }
    }
}

#[test]
fn read_only_reads_and_makes_nothing() {
    let case = Case::new(layout_of(&[(1 << 20, false), (0, false), (1000, false)], 1 << 18));
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(case.layout.clone(), folder.path(), options(folder.path(), Way::default())).unwrap();
    case.layout.pieces().for_each(|piece| case.store(&storage, piece).unwrap());
    std::fs::remove_file(storage.path(file(&case.layout, 1))).unwrap();
    let options = Options { read_only: true, ..options(folder.path(), Way::default()) };
    let reading = Storage::open(case.layout.clone(), folder.path(), options.clone()).unwrap();
    case.layout.pieces().for_each(|piece| case.assert_reads(&reading, piece));
    assert!(!reading.path(file(&case.layout, 1)).exists());
    let nowhere = Storage::open(case.layout.clone(), &folder.path().join("none"), options);
    assert!(matches!(nowhere, Err(StorageError::Missing { .. })));
}

#[test]
fn an_executable_file_is_made_so_when_it_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    let attributes = Attributes { executable: true, ..Attributes::default() };
    let entry = FileEntry { path: "run".into(), len: 700_000, offset: 0, attributes };
    let layout = Arc::new(Layout::new(vec![entry], 1 << 18).unwrap());
    let storage = Storage::open(layout.clone(), folder.path(), options(folder.path(), Way::default())).unwrap();
    let mode = || std::fs::metadata(folder.path().join("run")).unwrap().permissions().mode() & 0o111;
    assert_eq!(mode(), 0);
    storage.finish_file(file(&layout, 0)).unwrap();
    assert_ne!(mode() & 0o100, 0);
}

#[test]
fn storing_and_lending_keep_little_in_memory() {
    let case = Case::new(layout_of(&[(48 << 20, false)], 16 << 20));
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(case.layout.clone(), folder.path(), options(folder.path(), Way::Mapped)).unwrap();
    case.layout.pieces().for_each(|piece| case.store(&storage, piece).unwrap());
    // Of the shared mappings only: other tests run in this process as well, so by this file's name.
    let path = storage.path(file(&case.layout, 0));
    let resident = || -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
        let mut ours = maps.split(path.to_str().unwrap()).skip(1);
        let rss = |entry: &str| {
            entry.lines().find_map(|line| line.strip_prefix("Rss:"))?.split_whitespace().next()?.parse::<u64>().ok()
        };
        ours.by_ref().filter_map(rss).sum()
    };
    assert!(resident() < 1024, "{} KiB after storing", resident());
    let mut most = 0;
    for piece in case.layout.pieces() {
        for number in 0..case.layout.block_count(piece) {
            sent(&storage.lend(&[case.layout.block(piece, number).unwrap()], &[]).unwrap());
            if number % 64 == 0 {
                most = most.max(resident());
            }
        }
    }
    assert!(most > 0 && most < 6 * 1024, "{most} KiB while lending");
}

#[test]
fn small_files_are_lent_as_one_slice_a_block_and_a_few_blocks_at_a_time() {
    let case = Case::new(layout_of(&vec![(1000, false); 2000], 1 << 20));
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(case.layout.clone(), folder.path(), options(folder.path(), Way::default())).unwrap();
    case.layout.pieces().for_each(|piece| case.store(&storage, piece).unwrap());
    let piece = case.layout.piece(0).unwrap();
    let blocks: Vec<_> = (0..64).map(|number| case.layout.block(piece, number).unwrap()).collect();
    let lent = storage.lend(&blocks, &[]).unwrap();
    assert_eq!(lent.len(), 16, "256 KiB");
    assert!((0..lent.len()).all(|block| lent.io_slices(block).count() == 1));
    assert!(sent(&lent) == case.piece_bytes(piece)[..16 * BLOCK_LEN as usize]);
    assert_eq!(storage.lend(&blocks[..1], &blocks[1..]).unwrap().len(), 1);
}

#[test]
#[cfg(target_os = "linux")]
fn what_piles_up_is_written_to_the_disk_before_anybody_syncs() {
    for way in [Way::Written, Way::Mapped] {
        assert_writing_keeps_up(way);
    }
}

#[cfg(target_os = "linux")]
fn assert_writing_keeps_up(way: Way) {
    let case = Case::new(layout_of(&[(24 << 20, false)], 1 << 18));
    let folder = folders().swap_remove(0);
    let storage = Storage::open(case.layout.clone(), folder.path(), options(folder.path(), way)).unwrap();
    let mut written = 0;
    for piece in case.layout.pieces() {
        case.store(&storage, piece).unwrap();
        while storage.writeback_due().try_recv().is_ok() {
            storage.write_back();
            written += 1;
        }
    }
    assert!(written > 0);
    let there = std::fs::File::open(storage.path(file(&case.layout, 0))).unwrap();
    // What did not suffice to begin again.
    let dirty = super::map::dirty_bytes(&there).unwrap_or_default();
    assert!(dirty <= 8 << 20, "{dirty} bytes are in memory only after {written} batches");
    storage.sync().unwrap();
    assert_eq!(super::map::dirty_bytes(&there).unwrap_or_default(), 0);
}

#[test]
fn a_hundred_thousand_small_files_open_within_default_limits_and_quickly() {
    let layout = Arc::new(layout_of(&vec![(700, false); 100_000], 1 << 20));
    let folder = tempfile::tempdir().unwrap();
    let start = std::time::Instant::now();
    let storage = Storage::open(layout.clone(), folder.path(), options(folder.path(), Way::default())).unwrap();
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    let case = Case { bytes: vec![5; layout.total_len() as usize], layout };
    case.store(&storage, case.layout.piece(3).unwrap()).unwrap();
    case.assert_reads(&storage, case.layout.piece(3).unwrap());
    storage.sync().unwrap();
    assert!(storage.open.lock().len() <= 8);
}
