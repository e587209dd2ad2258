//! SHA-1 over pieces: the one gate between bytes from a peer and the files.
//!
//! It owns the digest and the proof that a piece passed it ([`VerifiedPiece`]); it knows nothing of threads or files.
//!
//! - `lanes`: up to 16 streams side by side in vector registers, and which way is quickest here.
//! - `many`: streams of any length on top of that.

mod lanes;
mod many;

use sha1::{Digest, Sha1};

pub use self::lanes::{Backend, MAX_LANES, NoSuchBackend};
pub use self::many::ManyHasher;
use crate::metainfo::PieceIndex;

/// A SHA-1 digest: of a piece (BEP 3) or of a block.
pub type Sha1Hash = [u8; 20];

/// How files are hashed. Start from `Hashing::default()` and change what you need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hashing {
    /// So many threads. Default: one per core.
    pub threads: usize,
    /// The way each of them hashes. Default: the quickest on this processor.
    pub backend: Backend,
}

impl Default for Hashing {
    fn default() -> Self {
        Self { threads: std::thread::available_parallelism().map_or(2, usize::from), backend: Backend::best() }
    }
}

/// The SHA-1 of the parts, one after the other.
pub fn sha1<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Sha1Hash {
    let mut hasher = Sha1::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// The SHA-1 of each piece, given as its consecutive blocks; of as many side by side as `backend` has lanes, where that is
/// quicker. Quickest where the lanes are full, and the pieces equally long and cut into equal blocks.
pub fn sha1_many<B: AsRef<[u8]>>(backend: Backend, pieces: &[&[B]]) -> Vec<Sha1Hash> {
    hash_blocks(|streams| ManyHasher::new(backend, streams), pieces)
}

/// The same, in lanes however few the pieces: to measure or to test it.
pub fn sha1_many_by<B: AsRef<[u8]>>(backend: Backend, pieces: &[&[B]]) -> Vec<Sha1Hash> {
    hash_blocks(|streams| ManyHasher::by(backend, streams), pieces)
}

/// A whole piece whose bytes have the digest that the metainfo names: the only thing that storage takes.
#[derive(Debug)]
pub struct VerifiedPiece<B> {
    piece: PieceIndex,
    blocks: Vec<B>,
}

impl<B: AsRef<[u8]>> VerifiedPiece<B> {
    /// Hashes a piece given as its consecutive blocks; gives the blocks back where the digest is not `expected`.
    pub fn check(piece: PieceIndex, blocks: Vec<B>, expected: &Sha1Hash) -> Result<Self, Vec<B>> {
        if sha1(blocks.iter().map(AsRef::as_ref)) == *expected { Ok(Self { piece, blocks }) } else { Err(blocks) }
    }

    /// The same for many pieces, which are hashed side by side: which it is, its blocks and the digest it should have.
    /// The results are in the order of the pieces.
    pub fn check_many(backend: Backend, pieces: Vec<(PieceIndex, Vec<B>, &Sha1Hash)>) -> Vec<Result<Self, Vec<B>>> {
        let blocks: Vec<&[B]> = pieces.iter().map(|(_, blocks, _)| blocks.as_slice()).collect();
        let digests = sha1_many(backend, &blocks);
        let judged = pieces.into_iter().zip(digests);
        judged
            .map(
                |((piece, blocks, expected), digest)| {
                    if digest == *expected { Ok(Self { piece, blocks }) } else { Err(blocks) }
                },
            )
            .collect()
    }

    /// Which piece it is.
    pub fn piece(&self) -> PieceIndex {
        self.piece
    }

    /// Its bytes, as consecutive blocks.
    pub fn blocks(&self) -> impl Iterator<Item = &[u8]> {
        self.blocks.iter().map(AsRef::as_ref)
    }

    /// Gives the buffers back.
    pub fn into_blocks(self) -> Vec<B> {
        self.blocks
    }
}

fn hash_blocks<B: AsRef<[u8]>>(hasher: impl Fn(usize) -> ManyHasher, pieces: &[&[B]]) -> Vec<Sha1Hash> {
    let mut digests = Vec::with_capacity(pieces.len());
    // No more at a time than the lanes there can be, so that a piece's blocks are still in the cache, if they are at all.
    for group in pieces.chunks(MAX_LANES) {
        let mut hasher = hasher(group.len());
        for number in 0..group.iter().map(|blocks| blocks.len()).max().unwrap_or(0) {
            let data: Vec<&[u8]> =
                group.iter().map(|blocks| blocks.get(number).map_or(&[][..], AsRef::as_ref)).collect();
            hasher.update(&data);
        }
        digests.extend(hasher.finish());
    }
    digests
}

#[cfg(test)]
mod tests {
    use super::{Backend, VerifiedPiece, sha1, sha1_many, sha1_many_by};
    use crate::metainfo::{FileEntry, Layout};

    #[test]
    fn parts_hash_as_their_concatenation() {
        let whole = sha1([b"abc".as_slice()]);
        assert_eq!(whole[..4], [0xa9, 0x99, 0x3e, 0x36]);
        assert_eq!(sha1([b"a".as_slice(), b"", b"bc"]), whole);
    }

    /// Pieces of 8 KiB in blocks of their own, the last one short.
    fn pieces(count: usize) -> Vec<Vec<Vec<u8>>> {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut block = |len: usize| std::iter::repeat_with(|| rng.u8(..)).take(len).collect::<Vec<u8>>();
        let mut pieces: Vec<Vec<_>> = (0..count).map(|_| (0..16).map(|_| block(1 << 9)).collect()).collect();
        if let Some(last) = pieces.last_mut() {
            last.truncate(3);
            last.push(block(77));
        }
        pieces
    }

    #[test]
    fn any_number_of_pieces_in_blocks_hash_as_one_by_one() {
        for count in [0, 1, 2, 7, 16, 17] {
            let pieces = pieces(count);
            let slices: Vec<&[Vec<u8>]> = pieces.iter().map(Vec::as_slice).collect();
            let expected: Vec<_> = pieces.iter().map(|blocks| sha1(blocks.iter().map(Vec::as_slice))).collect();
            for backend in Backend::ALL {
                assert_eq!(sha1_many(backend, &slices), expected, "{backend:?}");
                assert_eq!(sha1_many_by(backend, &slices), expected, "{backend:?}");
            }
        }
    }

    #[test]
    fn of_many_pieces_only_the_wrong_ones_are_refused() {
        let entry = FileEntry {
            path: "f".into(),
            len: 20 << 13,
            offset: 0,
            attributes: crate::metainfo::Attributes::default(),
        };
        let layout = Layout::new(vec![entry], 1 << 13).unwrap();
        let pieces = pieces(20);
        let digests: Vec<_> = pieces.iter().map(|blocks| sha1(blocks.iter().map(Vec::as_slice))).collect();
        let mut given: Vec<_> =
            layout.pieces().zip(pieces).zip(&digests).map(|((at, blocks), d)| (at, blocks, d)).collect();
        for wrong in [3, 19] {
            given[wrong].1[0][5] ^= 1;
        }
        let results = VerifiedPiece::check_many(Backend::best(), given);
        for (at, (piece, result)) in layout.pieces().zip(&results).enumerate() {
            assert_eq!(result.as_ref().ok().map(VerifiedPiece::piece), (![3, 19].contains(&at)).then_some(piece));
        }
    }
}
