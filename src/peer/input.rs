//! What comes from a peer: bytes in order, and blocks in buffers of their own.
//!
//! It owns the receive buffer and reads ahead: while blocks are expected, one call receives several of them, each
//! straight into the buffer that it stays in until it is stored. That works because most of what comes then is one `piece`
//! message after the other, all of the same length; whatever else comes between is put in order by a copy. It decides
//! nothing about what the bytes say.
//!
//! ```text
//!            ┌───────────────┬────────┬───────────┬────────┬───────────┬ ─ ─
//!  one call: │ rest of block │ header │ block     │ header │ block     │
//!            └───────────────┴────────┴───────────┴────────┴───────────┴ ─ ─
//! ```

use std::collections::VecDeque;
use std::io::{self, IoSliceMut, Read};
use std::sync::Arc;

use super::{Buffer, BufferPool};
use crate::wire::message::PIECE_HEADER_LEN;

/// The receive buffer: room for what stands between two blocks.
const INPUT: usize = 1024;
/// How many blocks one call receives ahead at the least.
const FEWEST_FRAMES: usize = 4;
/// The same at the most. A peer that stops in the middle of what it was asked for, after it had sent so much at once, keeps
/// their buffers, 512 KiB, beside the memory for pieces in flight.
const MOST_FRAMES: usize = 32;

/// The receiving end of a connection.
pub(super) struct Input<R> {
    stream: R,
    pool: Arc<BufferPool>,
    /// The length that blocks usually have.
    block_len: u32,
    /// Bytes in order, parsed up to `start`. There are none while `ahead` counts any.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Where the next messages are received if they are blocks.
    frames: VecDeque<Frame>,
    /// How many bytes of `frames` have been received.
    ahead: usize,
    /// How many blocks are expected.
    expected: usize,
    /// How many blocks the next call may receive ahead: twice what the last one received, within bounds; the fewest after
    /// anything else than a block.
    reach: usize,
}

/// Room for a `piece` message.
struct Frame {
    header: [u8; PIECE_HEADER_LEN],
    block: Buffer,
}

impl<R: Read> Input<R> {
    /// `block_len` is the length that blocks usually have, at most 16 KiB.
    pub(super) fn new(stream: R, pool: Arc<BufferPool>, block_len: u32) -> Self {
        let (bytes, frames) = (vec![0; INPUT], VecDeque::new());
        Self { stream, pool, block_len, bytes, start: 0, end: 0, frames, ahead: 0, expected: 0, reach: FEWEST_FRAMES }
    }

    /// The same for a stream of which these bytes were received already.
    pub(super) fn after(received: Vec<u8>, stream: R, pool: Arc<BufferPool>, block_len: u32) -> Self {
        let mut input = Self::new(stream, pool, block_len);
        if !received.is_empty() {
            (input.end, input.bytes) = (received.len(), received);
        }
        input
    }

    /// How many blocks are expected: as many are received ahead, up to a bound.
    pub(super) fn expect(&mut self, blocks: usize) {
        self.expected = blocks;
    }

    /// The beginning of what comes next, as far as it is received: all of it, or where that is a block that was received
    /// ahead, its header.
    pub(super) fn head(&self) -> &[u8] {
        match self.frames.front() {
            Some(frame) if self.ahead > 0 => &frame.header[..self.ahead.min(PIECE_HEADER_LEN)],
            _ => self.pending(),
        }
    }

    /// Receives more of what comes next. `false`: the stream ended.
    pub(super) fn read_more(&mut self) -> io::Result<bool> {
        match self.pending().len() {
            0 => Ok(self.read_rest(&mut [])?.is_some()),
            pending => self.read_until(pending + 1),
        }
    }

    /// Takes the `piece` message that comes next, with a payload of `len` bytes, at most 16 KiB, and says how many of them
    /// are received.
    pub(super) fn take_block(&mut self, len: u32) -> (Buffer, usize) {
        if self.ahead > 0
            && len == self.block_len
            && let Some(frame) = self.frames.pop_front()
        {
            let received = self.ahead.min(PIECE_HEADER_LEN + len as usize);
            self.ahead -= received;
            return (frame.block, received - PIECE_HEADER_LEN);
        }
        self.put_in_order();
        self.start += PIECE_HEADER_LEN;
        let mut block = self.pool.take(len);
        let bytes = block.as_mut();
        let received = bytes.len().min(self.pending().len());
        bytes[..received].copy_from_slice(&self.pending()[..received]);
        self.start += received;
        (block, received)
    }

    /// Takes `len` bytes in order, all of which are received.
    pub(super) fn take(&mut self, len: usize) -> &[u8] {
        let at = self.start;
        self.start += len;
        &self.bytes[at..self.start]
    }

    /// What is received and not taken, in order.
    pub(super) fn pending(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Puts what was received ahead in order: it is not what was expected.
    pub(super) fn put_in_order(&mut self) {
        let mut left = std::mem::take(&mut self.ahead);
        if left == 0 {
            return;
        }
        self.reach = FEWEST_FRAMES;
        self.bytes.clear();
        for part in self.frames.iter().flat_map(|frame| [&frame.header[..], frame.block.as_ref()]) {
            let n = left.min(part.len());
            self.bytes.extend_from_slice(&part[..n]);
            left -= n;
        }
        (self.start, self.end) = (0, self.bytes.len());
    }

    /// Reads on in order until `len` bytes wait to be parsed. `false`: the stream ended before.
    pub(super) fn read_until(&mut self, len: usize) -> io::Result<bool> {
        self.make_room(len);
        while self.pending().len() < len {
            let n = retry(|| self.stream.read(&mut self.bytes[self.end..]))?;
            if n == 0 {
                return Ok(false);
            }
            self.end += n;
        }
        Ok(true)
    }

    /// Reads once, where nothing is pending: into `rest`, and what comes after it into the frames. Says how much of `rest`
    /// is filled, or `None` at the end of the stream.
    pub(super) fn read_rest(&mut self, rest: &mut [u8]) -> io::Result<Option<usize>> {
        let wanted = self.expected.min(self.reach).max(usize::from(self.ahead > 0));
        self.frames.truncate(wanted);
        while self.frames.len() < wanted {
            self.frames.push_back(Frame { header: [0; PIECE_HEADER_LEN], block: self.pool.take(self.block_len) });
        }
        let of_rest = rest.len();
        let mut parts = Vec::with_capacity(2 + 2 * wanted);
        parts.push(IoSliceMut::new(rest));
        self.make_room(0);
        if wanted == 0 {
            // Whatever comes instead is short.
            self.reach = FEWEST_FRAMES;
            parts.push(IoSliceMut::new(&mut self.bytes));
        }
        let frames = self.frames.iter_mut().flat_map(|frame| [&mut frame.header[..], frame.block.as_mut()]);
        parts.extend(frames.map(IoSliceMut::new));
        let mut parts = &mut parts[..];
        if of_rest == 0 {
            // The part of a header that is received already.
            IoSliceMut::advance_slices(&mut parts, self.ahead);
        }
        let n = retry(|| self.stream.read_vectored(parts))?;
        if n == 0 {
            return Ok(None);
        }
        let behind = n.saturating_sub(of_rest);
        if wanted == 0 {
            self.end = behind;
        } else {
            self.ahead += behind;
            let received = behind.div_ceil(PIECE_HEADER_LEN + self.block_len as usize);
            self.reach = (2 * received).clamp(FEWEST_FRAMES, MOST_FRAMES);
        }
        Ok(Some(n - behind))
    }

    /// Room for `len` bytes from `start` on; `len` is within the limits. A large message's room is given back after it.
    fn make_room(&mut self, len: usize) {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let wanted = INPUT.max(len).max(self.end);
        if wanted != self.bytes.len() {
            self.bytes.resize(wanted, 0);
            self.bytes.shrink_to_fit();
        }
    }
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests;
