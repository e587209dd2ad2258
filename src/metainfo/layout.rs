//! The arithmetic of a torrent: pieces, blocks and files, and how each maps onto the others.
//!
//! It owns the numbers only. It refuses an index, offset or length that does not exist, so that what it hands out
//! ([`PieceIndex`], [`FileIndex`], [`Block`]) is valid for the torrent that it came from.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// The length of a block, the unit of requests: 16 KiB (BEP 3).
pub const BLOCK_LEN: u32 = 16 * 1024;

/// The number of a piece that exists in its torrent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PieceIndex(u32);

impl PieceIndex {
    /// The number, from 0.
    pub fn get(self) -> u32 {
        self.0
    }
}

/// The number of a file that exists in its torrent, in the order of the metainfo (padding included).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileIndex(u32);

impl FileIndex {
    /// The number, from 0.
    pub fn get(self) -> u32 {
        self.0
    }
}

/// A range of bytes within one piece that exists: what a `request` names and a `piece` carries (BEP 3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Block {
    /// The piece it lies in.
    pub piece: PieceIndex,
    /// Its first byte's offset within the piece.
    pub begin: u32,
    /// Its length in bytes, at least 1.
    pub len: u32,
}

impl Block {
    /// Which of the piece's 16 KiB blocks this is, where it is exactly one of those that [`Layout::block`] gives.
    pub fn number(self) -> u32 {
        self.begin / BLOCK_LEN
    }
}

/// One file of a torrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    pub(crate) path: PathBuf,
    pub(crate) len: u64,
    pub(crate) offset: u64,
    pub(crate) attributes: Attributes,
}

/// What BEP 47 says of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Padding: zeros that are hashed and transferred but never written as a file.
    pub padding: bool,
    /// The file is to be executable.
    pub executable: bool,
    /// The file is to be hidden (no effect on Unix).
    pub hidden: bool,
    /// The file is a symbolic link; ropewalk does not create links from untrusted metainfo.
    pub symlink: bool,
}

impl FileEntry {
    /// The path below the download folder: safe, relative and without `..`; in a multi-file torrent it begins with
    /// the torrent's name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The offset of its first byte within the whole torrent.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The attributes of BEP 47.
    pub fn attributes(&self) -> Attributes {
        self.attributes
    }

    /// Whether these bytes are padding (BEP 47), which no file holds.
    pub fn is_padding(&self) -> bool {
        self.attributes.padding
    }
}

/// A range of one file: a part of a piece as it lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The file it lies in.
    pub file: FileIndex,
    /// The offset within that file.
    pub offset: u64,
    /// The length in bytes, at least 1.
    pub len: u32,
}

/// The pieces, blocks and files of one torrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    files: Vec<FileEntry>,
    piece_length: u32,
    total: u64,
    pieces: u32,
}

impl Layout {
    /// The layout of `files` in pieces of `piece_length` bytes. `None` where `piece_length` is 0, the lengths overflow,
    /// or the pieces or files do not fit in 32 bits. The files' offsets are set here.
    pub(crate) fn new(mut files: Vec<FileEntry>, piece_length: u32) -> Option<Self> {
        let mut total = 0u64;
        for file in &mut files {
            file.offset = total;
            total = total.checked_add(file.len)?;
        }
        u32::try_from(files.len()).ok()?;
        let pieces = u32::try_from(
            total.checked_add(u64::from(piece_length))?.checked_sub(1)?.checked_div(u64::from(piece_length))?,
        )
        .ok()?;
        Some(Self { files, piece_length, total, pieces })
    }

    /// The files in the order of the metainfo, padding included.
    pub fn files(&self) -> &[FileEntry] {
        &self.files
    }

    /// One file.
    pub fn file(&self, file: FileIndex) -> &FileEntry {
        &self.files[file.0 as usize]
    }

    /// The file numbered `index`, if it exists.
    pub fn file_index(&self, index: u32) -> Option<FileIndex> {
        ((index as usize) < self.files.len()).then_some(FileIndex(index))
    }

    /// Every file's number, in order.
    pub fn file_indices(&self) -> impl DoubleEndedIterator<Item = FileIndex> + use<> {
        (0..self.files.len() as u32).map(FileIndex)
    }

    /// The sum of the files' lengths in bytes, padding included.
    pub fn total_len(&self) -> u64 {
        self.total
    }

    /// The nominal length of a piece in bytes; the last piece may be shorter.
    pub fn piece_length(&self) -> u32 {
        self.piece_length
    }

    /// How many pieces there are.
    pub fn piece_count(&self) -> u32 {
        self.pieces
    }

    /// The piece numbered `index`, if it exists.
    pub fn piece(&self, index: u32) -> Option<PieceIndex> {
        (index < self.pieces).then_some(PieceIndex(index))
    }

    /// Every piece, in order.
    pub fn pieces(&self) -> impl DoubleEndedIterator<Item = PieceIndex> + use<> {
        (0..self.pieces).map(PieceIndex)
    }

    /// The offset of a piece's first byte within the whole torrent.
    pub fn piece_offset(&self, piece: PieceIndex) -> u64 {
        u64::from(piece.0) * u64::from(self.piece_length)
    }

    /// The length of a piece in bytes, at least 1.
    pub fn piece_len(&self, piece: PieceIndex) -> u32 {
        (self.total - self.piece_offset(piece)).min(u64::from(self.piece_length)) as u32
    }

    /// How many 16 KiB blocks a piece has.
    pub fn block_count(&self, piece: PieceIndex) -> u32 {
        self.piece_len(piece).div_ceil(BLOCK_LEN)
    }

    /// Block `number` of a piece, if it exists.
    pub fn block(&self, piece: PieceIndex, number: u32) -> Option<Block> {
        let begin = number.checked_mul(BLOCK_LEN)?;
        let left = self.piece_len(piece).checked_sub(begin)?;
        (left > 0).then_some(Block { piece, begin, len: left.min(BLOCK_LEN) })
    }

    /// The range that a message names, if it lies within one piece that exists and is not empty.
    pub fn range(&self, index: u32, begin: u32, len: u32) -> Option<Block> {
        let piece = self.piece(index)?;
        let end = begin.checked_add(len)?;
        (len > 0 && end <= self.piece_len(piece)).then_some(Block { piece, begin, len })
    }

    /// Where the bytes of a range lie, file by file; padding included (its entry says so), empty files left out.
    pub fn segments(&self, block: Block) -> impl Iterator<Item = Segment> + '_ {
        let mut at = self.piece_offset(block.piece) + u64::from(block.begin);
        let end = at + u64::from(block.len);
        // The last file that begins at or before `at` and, empty ones skipped, holds it.
        let mut file = self.files.partition_point(|file| file.offset + file.len <= at);
        std::iter::from_fn(move || {
            while at < end {
                let entry = &self.files[file];
                let upto = end.min(entry.offset + entry.len);
                let segment = Segment {
                    file: FileIndex(file as u32),
                    offset: at.saturating_sub(entry.offset),
                    len: upto.saturating_sub(at) as u32,
                };
                file += 1;
                if segment.len > 0 {
                    at = upto;
                    return Some(segment);
                }
            }
            None
        })
    }

    /// A whole piece as one range.
    pub fn whole(&self, piece: PieceIndex) -> Block {
        Block { piece, begin: 0, len: self.piece_len(piece) }
    }

    /// The numbers of the pieces that hold bytes of a file; empty for an empty file.
    pub fn pieces_of(&self, file: FileIndex) -> Range<u32> {
        let file = self.file(file);
        if file.len == 0 {
            return 0..0;
        }
        let length = u64::from(self.piece_length);
        (file.offset / length) as u32..((file.offset + file.len - 1) / length) as u32 + 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, prop_assert, prop_assert_eq, proptest};

    use super::{Attributes, BLOCK_LEN, Block, FileEntry, Layout};

    fn layout(lens: &[u64], piece_length: u32) -> Option<Layout> {
        let entry = |(at, &len): (usize, &u64)| FileEntry {
            path: at.to_string().into(),
            len,
            offset: u64::MAX,
            attributes: Attributes::default(),
        };
        Layout::new(lens.iter().enumerate().map(entry).collect(), piece_length)
    }

    fn layouts() -> impl Strategy<Value = Layout> {
        let lens = proptest::collection::vec(proptest::prop_oneof![0u64..3, 0u64..100_000], 0..8);
        let piece_length = proptest::prop_oneof![1u32..8, 1000u32..70_000];
        let small = |&(ref lens, length): &(Vec<u64>, u32)| lens.iter().sum::<u64>() / u64::from(length) < 5000;
        (lens, piece_length).prop_filter("pieces", small).prop_map(|(lens, length)| layout(&lens, length).unwrap())
    }

    #[test]
    fn numbers_that_do_not_fit_make_no_layout() {
        assert_eq!(layout(&[1], 0), None);
        assert_eq!(layout(&[u64::MAX, 1], 1 << 28), None);
        assert_eq!(layout(&[u64::MAX], 1), None);
        assert_eq!(layout(&[1 << 32], 1), None);
        assert_eq!(layout(&[(1 << 32) - 1], 1).unwrap().piece_count(), u32::MAX);
        assert_eq!(layout(&[0], 16).unwrap().piece_count(), 0);
    }

    #[test]
    fn only_ranges_within_a_piece_exist() {
        let layout = layout(&[20, 15], 32).unwrap();
        let piece = layout.piece(1).unwrap();
        assert_eq!(layout.piece(2), None);
        assert_eq!(layout.file_index(2), None);
        assert_eq!(layout.range(1, 1, 2), Some(Block { piece, begin: 1, len: 2 }));
        for (index, begin, len) in [(1, 0, 0), (1, 1, 3), (1, 3, 1), (2, 0, 1), (0, u32::MAX, 2), (0, 2, u32::MAX)] {
            assert_eq!(layout.range(index, begin, len), None, "{index} {begin} {len}");
        }
        assert_eq!(layout.block(piece, 1), None);
        assert_eq!(layout.block(piece, u32::MAX), None);
    }

    proptest! {
        #[test]
        fn the_segments_of_all_pieces_cover_every_file_once_in_order(layout in layouts()) {
            let mut covered = vec![0; layout.files().len()];
            for piece in layout.pieces() {
                let mut len = 0;
                for segment in layout.segments(layout.whole(piece)) {
                    let file = segment.file.get() as usize;
                    prop_assert!(segment.len > 0);
                    prop_assert_eq!(segment.offset, covered[file]);
                    prop_assert!(layout.pieces_of(segment.file).contains(&piece.get()));
                    covered[file] += u64::from(segment.len);
                    len += segment.len;
                }
                prop_assert_eq!(len, layout.piece_len(piece));
            }
            let lens: Vec<_> = layout.files().iter().map(|file| file.len()).collect();
            prop_assert_eq!(covered, lens);
        }

        #[test]
        fn the_blocks_of_a_piece_cover_it_once_and_their_segments_them(layout in layouts()) {
            for piece in layout.pieces().rev().take(50) {
                let mut end = 0;
                for number in 0..layout.block_count(piece) {
                    let block = layout.block(piece, number).unwrap();
                    prop_assert_eq!((block.begin, block.number()), (end, number));
                    prop_assert!(block.len > 0 && block.len <= BLOCK_LEN);
                    prop_assert_eq!(layout.range(piece.get(), block.begin, block.len), Some(block));
                    prop_assert_eq!(layout.segments(block).map(|segment| segment.len).sum::<u32>(), block.len);
                    end += block.len;
                }
                prop_assert_eq!(end, layout.piece_len(piece));
                prop_assert_eq!(layout.block(piece, layout.block_count(piece)), None);
            }
        }

        #[test]
        fn the_pieces_of_a_file_are_those_with_segments_in_it(layout in layouts()) {
            for file in layout.file_indices() {
                let pieces = layout.pieces_of(file);
                for piece in [pieces.start.wrapping_sub(1), pieces.end] {
                    let other = layout.piece(piece).map(|piece| layout.whole(piece));
                    prop_assert!(other.is_none_or(|whole| layout.segments(whole).all(|segment| segment.file != file)));
                }
                let len = layout.file(file).len();
                prop_assert_eq!(pieces.is_empty(), len == 0);
            }
        }
    }
}
