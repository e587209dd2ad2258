//! SHA-1's compression function on several streams side by side, one in each 32-bit lane of a vector register.
//!
//! It owns the kernels and the choice between them ([`Backend`]). It knows only states and whole 64-byte blocks: lengths,
//! padding and pieces are its callers'. A single stream is the `sha1` crate's, which has the processor's own SHA-1
//! instructions; these work off one round after the other, while lanes share each instruction out to 8 or 16 streams.
//!
//! ```text
//!              lane 0      lane 1            lane 15
//! w[0]    | stream 0 | stream 1 |  ...  | stream 15 |   word 0 of each stream's block
//! ...
//! w[15]   |          |          |       |           |   word 15
//! h[0..5] |          |          |       |           |   the five words of each stream's state
//! ```
//!
//! A block lies in memory as a row of that table's transpose, so each step begins by loading one block of every stream
//! and transposing.
#![allow(unsafe_code, reason = "vector loads and stores, and calls of functions for certain processors only")]

use std::fmt;
use std::str::FromStr;

use sha1::block_api::compress as compress_one;

/// The most streams that any backend takes side by side.
pub const MAX_LANES: usize = 16;

/// The five words between two blocks.
pub(super) type State = [u32; 5];
/// What one application of the compression function takes in.
pub(super) type Block = [u8; 64];

/// A way to hash several streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backend {
    /// One stream after the other, by the `sha1` crate.
    Crate,
    /// Eight side by side, in AVX2 registers.
    Avx2,
    /// Sixteen side by side, in AVX-512 registers.
    Avx512,
}

impl Backend {
    /// All of them, available or not.
    pub const ALL: [Self; 3] = [Self::Crate, Self::Avx2, Self::Avx512];

    /// The quickest on this processor.
    pub fn best() -> Self {
        if Self::Avx512.is_available() {
            Self::Avx512
        } else if Self::Avx2.is_available() {
            Self::Avx2
        } else {
            Self::Crate
        }
    }

    /// Whether this processor has what it needs.
    pub fn is_available(self) -> bool {
        match self {
            Self::Crate => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw"),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The word that names it where a person chooses: `crate`, `avx2`, `avx512`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Crate => "crate",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// How many streams it takes side by side.
    pub fn lanes(self) -> usize {
        match self {
            Self::Crate => 1,
            Self::Avx2 => 8,
            Self::Avx512 => 16,
        }
    }

    /// From how many streams on it is quicker than one after the other: idle lanes cost what busy ones do.
    ///
    /// Measured on a Sapphire Rapids core, GB/s from its second-level cache: the `sha1` crate 1.9 with the processor's
    /// SHA-1 instructions and 0.8 without; AVX2 0.43 and AVX-512 0.41 for each busy lane, so 3.4 and 6.6 when full.
    pub fn fewest(self) -> usize {
        match self {
            Self::Crate => 1,
            Self::Avx2 | Self::Avx512 if has_sha_instructions() => 5,
            Self::Avx2 | Self::Avx512 => 3,
        }
    }
}

impl Default for Backend {
    /// The quickest on this processor.
    fn default() -> Self {
        Self::best()
    }
}

/// The word is not that of a [`Backend`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a way to hash; there are `crate`, `avx2` and `avx512`")]
pub struct NoSuchBackend;

impl FromStr for Backend {
    type Err = NoSuchBackend;

    /// Reads a backend's [`word`](Self::word), available or not.
    fn from_str(word: &str) -> Result<Self, NoSuchBackend> {
        Self::ALL.into_iter().find(|backend| backend.word() == word).ok_or(NoSuchBackend)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Crate if has_sha_instructions() => "SHA instructions",
            Self::Crate => "plain code",
            Self::Avx2 => "AVX2, 8 side by side",
            Self::Avx512 => "AVX-512, 16 side by side",
        })
    }
}

/// Feeds each stream's blocks to its state: `data[i]` to `states[i]`, as many blocks for one as for another, at most as
/// many streams as there are lanes. A backend that this processor does not have is replaced by [`Backend::Crate`].
pub(super) fn compress(backend: Backend, states: &mut [State], data: &[&[Block]]) {
    assert_eq!(states.len(), data.len(), "one state for each stream");
    #[cfg(target_arch = "x86_64")]
    match backend {
        Backend::Avx512 if backend.is_available() => {
            return in_lanes(states, data, |states, data| {
                // SAFETY: `is_available` found the features that the function is compiled for.
                unsafe { avx512::compress(states, data) }
            });
        }
        Backend::Avx2 if backend.is_available() => {
            return in_lanes(states, data, |states, data| {
                // SAFETY: as above.
                unsafe { avx2::compress(states, data) }
            });
        }
        _ => {}
    }
    let _ = backend;
    for (state, data) in states.iter_mut().zip(data) {
        compress_one(state, data);
    }
}

/// Calls `kernel` with exactly as many streams as it has lanes; idle lanes do what the first does.
#[cfg(target_arch = "x86_64")]
fn in_lanes<const LANES: usize>(
    states: &mut [State],
    data: &[&[Block]],
    kernel: impl FnOnce(&mut [[u32; LANES]; 5], &[&[Block]; LANES]),
) {
    let Some(first) = data.first() else { return };
    assert!(data.len() <= LANES && data.iter().all(|data| data.len() == first.len()), "streams of equal length");
    let busy = |lane: usize| if lane < data.len() { lane } else { 0 };
    let mut words = std::array::from_fn(|word| std::array::from_fn(|lane| states[busy(lane)][word]));
    kernel(&mut words, &std::array::from_fn(|lane| data[busy(lane)]));
    for (lane, state) in states.iter_mut().enumerate() {
        *state = words.map(|word| word[lane]);
    }
}

/// Whether the `sha1` crate runs on instructions made for SHA-1.
fn has_sha_instructions() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("sha")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// The initial state and the four round constants (FIPS 180-4, 5.3.1 and 4.2.1).
pub(super) const INITIAL: State = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
#[cfg(target_arch = "x86_64")]
const K: [u32; 4] = [0x5a82_7999, 0x6ed9_eba1, 0x8f1b_bcdc, 0xca62_c1d6];

/// The compression function (FIPS 180-4, 6.1.2) over a vector type, for a module that defines `Vector`, `LANES`, `load`,
/// `store`, `splat`, `load_block` (transposed), `add`, `xor3`, `xor`, `choose`, `majority` and `rotate`.
#[cfg(target_arch = "x86_64")]
macro_rules! kernel {
    ($features:literal) => {
        #[target_feature(enable = $features)]
        pub(super) fn compress(states: &mut [[u32; LANES]; 5], data: &[&[Block]; LANES]) {
            let blocks = data.iter().map(|data| data.len()).min().unwrap_or(0);
            let mut h = [load(&states[0]), load(&states[1]), load(&states[2]), load(&states[3]), load(&states[4])];
            for at in 0..blocks {
                let mut w = load_blocks(data, at);
                let before = h;
                rounds!(h, w, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19);
                rounds!(h, w, 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39);
                rounds!(h, w, 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59);
                rounds!(h, w, 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79);
                for word in 0..5 {
                    h[word] = add(h[word], before[word]);
                }
            }
            for word in 0..5 {
                store(&mut states[word], h[word]);
            }
        }

        /// Round `T`. Instead of moving a to b, b to c and so on, the names move: a is at place 0 in round 0, at place 4
        /// in round 1. The message schedule keeps its last 16 words.
        #[inline]
        #[target_feature(enable = $features)]
        fn round<const T: usize>(h: &mut [Vector; 5], w: &mut [Vector; 16]) {
            let place = |name: usize| (name + 80 - T) % 5;
            let (a, b, c, d) = (h[place(0)], h[place(1)], h[place(2)], h[place(3)]);
            if T >= 16 {
                let mixed = xor3(w[(T - 3) % 16], w[(T - 8) % 16], w[(T - 14) % 16]);
                w[T % 16] = rotate::<1>(xor(mixed, w[T % 16]));
            }
            let f = match T / 20 {
                0 => choose(b, c, d),
                2 => majority(b, c, d),
                _ => xor3(b, c, d),
            };
            // Added so that what waits longest, f and the rotated a, comes last.
            let early = add(add(h[place(4)], splat(K[T / 20])), w[T % 16]);
            h[place(4)] = add(add(early, f), rotate::<5>(a));
            h[place(1)] = rotate::<30>(b);
        }
    };
}

#[cfg(target_arch = "x86_64")]
macro_rules! rounds {
    ($h:ident, $w:ident, $($round:literal)*) => { $(round::<$round>(&mut $h, &mut $w);)* };
}

/// How many blocks ahead of the one that is hashed the next is called into the first-level cache: the processor's own
/// prefetching loses track of 16 streams. Measured: 6.6 instead of 4.8 GB/s from the third level; 2 to 24 do the same.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 8;

#[cfg(target_arch = "x86_64")]
#[inline]
fn prefetch(data: &[Block], at: usize) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch is a hint: no address makes it fail, so the end of the data does not matter.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(data.as_ptr().wrapping_add(at + AHEAD).cast()) }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512i, _mm_set_epi8, _mm512_add_epi32, _mm512_broadcast_i32x4, _mm512_loadu_si512, _mm512_rol_epi32,
        _mm512_set1_epi32, _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_shuffle_i32x4, _mm512_storeu_si512,
        _mm512_ternarylogic_epi32, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
        _mm512_unpacklo_epi64, _mm512_xor_si512,
    };

    use super::{Block, K, prefetch};

    type Vector = __m512i;
    const LANES: usize = 16;

    kernel!("avx512f,avx512bw");

    /// Block `at` of every stream, transposed: word by word, with stream `i` in lane `i`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn load_blocks(data: &[&[Block]; LANES], at: usize) -> [Vector; 16] {
        let big_endian = _mm512_broadcast_i32x4(_mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3));
        let mut rows = [_mm512_setzero_si512(); 16];
        for (row, data) in rows.iter_mut().zip(data) {
            prefetch(data, at);
            // SAFETY: a block has the 64 bytes that are read, and they may lie anywhere.
            let block = unsafe { _mm512_loadu_si512(data[at].as_ptr().cast()) };
            *row = _mm512_shuffle_epi8(block, big_endian);
        }
        // Four rows at a time: word j of all four in each quarter, where quarter q has word 4 q + j.
        let mut fours = [_mm512_setzero_si512(); 16];
        for four in 0..4 {
            let [r0, r1, r2, r3] = [rows[4 * four], rows[4 * four + 1], rows[4 * four + 2], rows[4 * four + 3]];
            let (low01, high01) = (_mm512_unpacklo_epi32(r0, r1), _mm512_unpackhi_epi32(r0, r1));
            let (low23, high23) = (_mm512_unpacklo_epi32(r2, r3), _mm512_unpackhi_epi32(r2, r3));
            fours[4 * four] = _mm512_unpacklo_epi64(low01, low23);
            fours[4 * four + 1] = _mm512_unpackhi_epi64(low01, low23);
            fours[4 * four + 2] = _mm512_unpacklo_epi64(high01, high23);
            fours[4 * four + 3] = _mm512_unpackhi_epi64(high01, high23);
        }
        // Then the quarters of the four fours.
        let mut words = [_mm512_setzero_si512(); 16];
        for j in 0..4 {
            let [f0, f1, f2, f3] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
            let (low01, high01) = (_mm512_shuffle_i32x4::<0x44>(f0, f1), _mm512_shuffle_i32x4::<0xee>(f0, f1));
            let (low23, high23) = (_mm512_shuffle_i32x4::<0x44>(f2, f3), _mm512_shuffle_i32x4::<0xee>(f2, f3));
            words[j] = _mm512_shuffle_i32x4::<0x88>(low01, low23);
            words[4 + j] = _mm512_shuffle_i32x4::<0xdd>(low01, low23);
            words[8 + j] = _mm512_shuffle_i32x4::<0x88>(high01, high23);
            words[12 + j] = _mm512_shuffle_i32x4::<0xdd>(high01, high23);
        }
        words
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(words: &[u32; LANES]) -> Vector {
        // SAFETY: 64 bytes are there, anywhere.
        unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store(words: &mut [u32; LANES], vector: Vector) {
        // SAFETY: 64 bytes are there, anywhere, and nobody else's.
        unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), vector) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn splat(word: u32) -> Vector {
        _mm512_set1_epi32(word.cast_signed())
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn add(x: Vector, y: Vector) -> Vector {
        _mm512_add_epi32(x, y)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn xor(x: Vector, y: Vector) -> Vector {
        _mm512_xor_si512(x, y)
    }

    // A ternary function's number is its truth table: bit 4 x + 2 y + z is its value for x, y and z.

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn xor3(x: Vector, y: Vector, z: Vector) -> Vector {
        _mm512_ternarylogic_epi32::<0b1001_0110>(x, y, z)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn choose(x: Vector, y: Vector, z: Vector) -> Vector {
        _mm512_ternarylogic_epi32::<0b1100_1010>(x, y, z)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn majority(x: Vector, y: Vector, z: Vector) -> Vector {
        _mm512_ternarylogic_epi32::<0b1110_1000>(x, y, z)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn rotate<const BY: i32>(x: Vector) -> Vector {
        _mm512_rol_epi32::<BY>(x)
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm_cvtsi32_si128, _mm256_add_epi32, _mm256_and_si256, _mm256_loadu_si256, _mm256_or_si256,
        _mm256_permute2x128_si256, _mm256_set_epi8, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_shuffle_epi8,
        _mm256_sll_epi32, _mm256_srl_epi32, _mm256_storeu_si256, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64,
        _mm256_unpacklo_epi32, _mm256_unpacklo_epi64, _mm256_xor_si256,
    };

    use super::{Block, K, prefetch};

    type Vector = __m256i;
    const LANES: usize = 8;

    kernel!("avx2");

    /// Block `at` of every stream, transposed: word by word, with stream `i` in lane `i`.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn load_blocks(data: &[&[Block]; LANES], at: usize) -> [Vector; 16] {
        #[rustfmt::skip]
        let big_endian = _mm256_set_epi8(
            12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3,
            12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3,
        );
        let mut words = [_mm256_setzero_si256(); 16];
        data.iter().for_each(|data| prefetch(data, at));
        for side in 0..2 {
            let mut rows = [_mm256_setzero_si256(); 8];
            for (row, data) in rows.iter_mut().zip(data) {
                let half: &[u8; 32] = if side == 0 { data[at].first_chunk() } else { data[at].last_chunk() }
                    .expect("a block has two halves of 32 bytes");
                // SAFETY: the half has the 32 bytes that are read, and they may lie anywhere.
                let half = unsafe { _mm256_loadu_si256(half.as_ptr().cast()) };
                *row = _mm256_shuffle_epi8(half, big_endian);
            }
            // Four rows at a time: word j of all four in each half, where half q has word 4 q + j.
            let mut fours = [_mm256_setzero_si256(); 8];
            for four in 0..2 {
                let [r0, r1, r2, r3] = [rows[4 * four], rows[4 * four + 1], rows[4 * four + 2], rows[4 * four + 3]];
                let (low01, high01) = (_mm256_unpacklo_epi32(r0, r1), _mm256_unpackhi_epi32(r0, r1));
                let (low23, high23) = (_mm256_unpacklo_epi32(r2, r3), _mm256_unpackhi_epi32(r2, r3));
                fours[4 * four] = _mm256_unpacklo_epi64(low01, low23);
                fours[4 * four + 1] = _mm256_unpackhi_epi64(low01, low23);
                fours[4 * four + 2] = _mm256_unpacklo_epi64(high01, high23);
                fours[4 * four + 3] = _mm256_unpackhi_epi64(high01, high23);
            }
            // Then the halves of the two fours.
            for j in 0..4 {
                words[8 * side + j] = _mm256_permute2x128_si256::<0x20>(fours[j], fours[4 + j]);
                words[8 * side + 4 + j] = _mm256_permute2x128_si256::<0x31>(fours[j], fours[4 + j]);
            }
        }
        words
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(words: &[u32; LANES]) -> Vector {
        // SAFETY: 32 bytes are there, anywhere.
        unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn store(words: &mut [u32; LANES], vector: Vector) {
        // SAFETY: 32 bytes are there, anywhere, and nobody else's.
        unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), vector) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn splat(word: u32) -> Vector {
        _mm256_set1_epi32(word.cast_signed())
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn add(x: Vector, y: Vector) -> Vector {
        _mm256_add_epi32(x, y)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn xor(x: Vector, y: Vector) -> Vector {
        _mm256_xor_si256(x, y)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn xor3(x: Vector, y: Vector, z: Vector) -> Vector {
        xor(xor(x, y), z)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn choose(x: Vector, y: Vector, z: Vector) -> Vector {
        xor(_mm256_and_si256(x, xor(y, z)), z)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn majority(x: Vector, y: Vector, z: Vector) -> Vector {
        xor(_mm256_and_si256(xor(x, y), xor(y, z)), y)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn rotate<const BY: i32>(x: Vector) -> Vector {
        let (left, right) = (_mm_cvtsi32_si128(BY), _mm_cvtsi32_si128(32 - BY));
        _mm256_or_si256(_mm256_sll_epi32(x, left), _mm256_srl_epi32(x, right))
    }
}
