//! Many SHA-1 streams at a time.
//!
//! It owns what lies between bytes of any length and [`lanes`](super::lanes), which takes whole blocks of equally many
//! streams: what is left of a block, the padding at the end, and which streams go side by side. It holds no bytes beyond
//! a block per stream.

use super::Sha1Hash;
use super::lanes::{Backend, Block, INITIAL, State, compress};

/// Several SHA-1 digests in the making.
#[derive(Clone, Debug)]
pub struct ManyHasher {
    backend: Backend,
    /// Fewer streams than that go one after the other.
    fewest: usize,
    streams: Vec<Stream>,
}

#[derive(Clone, Debug)]
struct Stream {
    state: State,
    /// Bytes so far.
    len: u64,
    /// The last `len % 64` bytes, which do not fill a block yet.
    rest: Block,
}

/// Whole blocks for one stream.
struct Job<'a> {
    stream: usize,
    blocks: &'a [Block],
}

impl ManyHasher {
    /// So many streams without any bytes yet, side by side in `backend`'s lanes where that is quicker than one after the
    /// other. A backend that this processor does not have does the same, slowly.
    pub fn new(backend: Backend, streams: usize) -> Self {
        Self { fewest: backend.fewest(), ..Self::by(backend, streams) }
    }

    /// The same, in lanes however few the streams: to measure or to test it.
    pub fn by(backend: Backend, streams: usize) -> Self {
        let stream = Stream { state: INITIAL, len: 0, rest: [0; 64] };
        Self { backend, fewest: 1, streams: vec![stream; streams] }
    }

    /// Appends `data[i]` to stream `i`; any lengths, none included. Quickest where all are equally long.
    ///
    /// # Panics
    /// Where there are more or fewer slices than streams.
    pub fn update(&mut self, data: &[&[u8]]) {
        assert_eq!(data.len(), self.streams.len(), "one slice for each stream");
        let mut filled = Vec::new();
        let mut whole = Vec::with_capacity(data.len());
        for (at, (stream, data)) in self.streams.iter_mut().zip(data).enumerate() {
            let (block, data) = stream.fill(data);
            filled.extend(block.map(|block| (at, block)));
            let (blocks, rest) = data.as_chunks();
            stream.rest[..rest.len()].copy_from_slice(rest);
            stream.len += data.len() as u64;
            whole.push(Job { stream: at, blocks });
        }
        self.compress(
            filled.iter().map(|(stream, block)| Job { stream: *stream, blocks: std::slice::from_ref(block) }),
        );
        self.compress(whole.into_iter());
    }

    /// The digests, in the order of the streams.
    pub fn finish(mut self) -> Vec<Sha1Hash> {
        let last: Vec<_> = self.streams.iter().map(Stream::padded).collect();
        let jobs = last.iter().enumerate();
        self.compress(jobs.map(|(stream, (blocks, count))| Job { stream, blocks: &blocks[..*count] }));
        self.streams.iter().map(Stream::digest).collect()
    }

    /// Works off the jobs, at most one for each stream: as many side by side as there are lanes, the next one as soon as
    /// one ends.
    fn compress<'a>(&mut self, jobs: impl Iterator<Item = Job<'a>>) {
        let mut waiting = jobs.filter(|job| !job.blocks.is_empty()).fuse();
        let lanes = self.backend.lanes();
        let mut active: Vec<Job<'a>> = Vec::with_capacity(lanes);
        loop {
            active.extend(waiting.by_ref().take(lanes - active.len()));
            if active.len() < self.fewest {
                break;
            }
            let Some(step) = active.iter().map(|job| job.blocks.len()).min() else { break };
            let mut states: Vec<State> = active.iter().map(|job| self.streams[job.stream].state).collect();
            let data: Vec<&[Block]> = active.iter().map(|job| &job.blocks[..step]).collect();
            compress(self.backend, &mut states, &data);
            for (job, state) in active.iter_mut().zip(states) {
                self.streams[job.stream].state = state;
                job.blocks = &job.blocks[step..];
            }
            active.retain(|job| !job.blocks.is_empty());
        }
        for job in active {
            compress(Backend::Crate, std::slice::from_mut(&mut self.streams[job.stream].state), &[job.blocks]);
        }
    }
}

impl Stream {
    /// Completes the block that was begun, as far as `data` goes. Gives it, once it is complete, and what is left of
    /// `data`.
    fn fill<'a>(&mut self, data: &'a [u8]) -> (Option<Block>, &'a [u8]) {
        let begun = self.begun();
        if begun == 0 {
            return (None, data);
        }
        let (first, data) = data.split_at(data.len().min(self.rest.len() - begun));
        self.rest[begun..begun + first.len()].copy_from_slice(first);
        self.len += first.len() as u64;
        ((self.begun() == 0).then_some(self.rest), data)
    }

    /// The last block or two: what is left, a one bit, zeros, and the length in bits (FIPS 180-4, 5.1.1).
    fn padded(&self) -> ([Block; 2], usize) {
        let begun = self.begun();
        let mut blocks = [[0; 64]; 2];
        blocks[0][..begun].copy_from_slice(&self.rest[..begun]);
        blocks[0][begun] = 0x80;
        let count = if begun < 56 { 1 } else { 2 };
        blocks[count - 1][56..].copy_from_slice(&self.len.wrapping_mul(8).to_be_bytes());
        (blocks, count)
    }

    fn digest(&self) -> Sha1Hash {
        let mut digest = [0; 20];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        digest
    }

    fn begun(&self) -> usize {
        (self.len % 64) as usize
    }
}

#[cfg(test)]
mod tests;
