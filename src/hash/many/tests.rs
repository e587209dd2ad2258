//! Every backend against the `sha1` crate, each in tests of its own: what a processor does not have is left out, and said.

use std::io::Write;

use proptest::prelude::{Strategy, TestCaseError, any, prop, prop_assert_eq, prop_oneof};

use super::ManyHasher;
use crate::hash::{Backend, sha1, sha1_many, sha1_many_by};

/// Bytes that begin anywhere in memory: the first few are skipped.
type Portion = (usize, Vec<u8>);

fn shown((skip, bytes): &Portion) -> &[u8] {
    &bytes[bytes.len().min(*skip)..]
}

/// Up to 40 streams, so that the lanes are filled more than twice; each is a few portions of any length.
fn streams() -> impl Strategy<Value = Vec<Vec<Portion>>> {
    let len = prop_oneof![4 => 0..200usize, 1 => 0..3000usize];
    let bytes = len.prop_flat_map(|len| any::<u64>().prop_map(move |seed| noise(seed, len)));
    prop::collection::vec(prop::collection::vec((0..64usize, bytes), 0..5), 0..40)
}

/// Pieces as they come from peers: so many, of one length but the last, in blocks of one length but their last.
fn pieces() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
    (0..40usize, 1..1500usize, 1..800usize, any::<u64>(), any::<u64>()).prop_map(|(count, len, block, cut, seed)| {
        let mut pieces: Vec<Vec<u8>> = (0..count as u64).map(|number| noise(seed ^ number, len)).collect();
        if let Some(last) = pieces.last_mut() {
            last.truncate(1 + (cut % len as u64) as usize);
        }
        pieces.iter().map(|piece| piece.chunks(block).map(<[u8]>::to_vec).collect()).collect()
    })
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// Whether this processor has the backend. A processor that does not makes no test fail, but nobody is to think that it
/// was tested: said where the test harness does not catch it.
fn is_here(backend: Backend) -> bool {
    if !backend.is_available() {
        writeln!(std::io::stderr(), "NOT TESTED: this processor cannot do {backend}").unwrap();
    }
    backend.is_available()
}

fn known_digests(backend: Backend) {
    let known: [(&[u8], &str); 3] = [
        (b"", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        (b"abc", "a9993e364706816aba3e25717850c26c9cd0d89d"),
        (b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", "84983e441c3bd26ebaae4aa1f95129e5e54670f1"),
    ];
    let mut hasher = ManyHasher::by(backend, known.len());
    hasher.update(&known.map(|(data, _)| data));
    for (digest, (_, expected)) in hasher.finish().iter().zip(known) {
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected);
    }
}

fn padding_in_every_lane(backend: Backend) {
    let bytes: Vec<u8> = (0..=255).cycle().take(400).collect();
    let mut hasher = ManyHasher::by(backend, bytes.len());
    let data: Vec<&[u8]> = (0..bytes.len()).map(|len| &bytes[bytes.len() - len..]).collect();
    hasher.update(&data);
    let expected: Vec<_> = data.iter().map(|data| sha1([*data])).collect();
    assert_eq!(hasher.finish(), expected);
}

fn streams_as_one_by_one(backend: Backend, streams: &[Vec<Portion>]) -> Result<(), TestCaseError> {
    let portions = streams.iter().map(Vec::len).max().unwrap_or(0);
    let expected: Vec<_> = streams.iter().map(|portions| sha1(portions.iter().map(shown))).collect();
    for mut hasher in [ManyHasher::by(backend, streams.len()), ManyHasher::new(backend, streams.len())] {
        for portion in 0..portions {
            let data = streams.iter().map(|stream| stream.get(portion).map_or(&[][..], shown));
            hasher.update(&data.collect::<Vec<_>>());
        }
        prop_assert_eq!(&hasher.finish(), &expected);
    }
    Ok(())
}

fn pieces_as_one_by_one(backend: Backend, pieces: &[Vec<Vec<u8>>]) -> Result<(), TestCaseError> {
    let expected: Vec<_> = pieces.iter().map(|blocks| sha1(blocks.iter().map(Vec::as_slice))).collect();
    let pieces: Vec<&[Vec<u8>]> = pieces.iter().map(Vec::as_slice).collect();
    prop_assert_eq!(&sha1_many(backend, &pieces), &expected);
    prop_assert_eq!(&sha1_many_by(backend, &pieces), &expected);
    Ok(())
}

macro_rules! tests_of {
    ($($module:ident: $backend:ident,)*) => { $(
        mod $module {
            use proptest::proptest;

            use super::{Backend, is_here, known_digests, padding_in_every_lane, pieces, pieces_as_one_by_one};
            use super::{streams, streams_as_one_by_one};

            const BACKEND: Backend = Backend::$backend;

            #[test]
            fn the_known_digests_are_right() {
                if is_here(BACKEND) {
                    known_digests(BACKEND);
                }
            }

            #[test]
            fn every_length_around_the_edges_of_blocks_is_padded_right_in_every_lane() {
                if is_here(BACKEND) {
                    padding_in_every_lane(BACKEND);
                }
            }

            #[test]
            fn any_streams_in_any_portions_at_any_alignment_hash_as_one_by_one() {
                if is_here(BACKEND) {
                    proptest!(|(streams in streams())| streams_as_one_by_one(BACKEND, &streams)?);
                }
            }

            #[test]
            fn pieces_of_any_length_and_number_hash_as_one_by_one() {
                if is_here(BACKEND) {
                    proptest!(|(pieces in pieces())| pieces_as_one_by_one(BACKEND, &pieces)?);
                }
            }
        }
    )* };
}

tests_of! {
    one_by_one: Crate,
    avx2: Avx2,
    avx512: Avx512,
}

#[test]
fn a_backend_that_is_not_here_does_the_same() {
    // On most processors one of them is missing; in an emulator that knows few instructions, all but the first.
    Backend::ALL.into_iter().for_each(known_digests);
}

#[test]
fn a_backend_is_read_by_its_word() {
    for backend in Backend::ALL {
        assert_eq!(backend.word().parse(), Ok(backend));
    }
    assert!("sse2".parse::<Backend>().is_err() && "".parse::<Backend>().is_err());
}
