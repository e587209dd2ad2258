//! The memory that blocks arrive in: 16 KiB buffers that are used again and again.
//!
//! A block is received into a buffer of its own and the buffer is handed on, to the piece, to the verify worker, and
//! back here; the bytes are never copied on that way, and no two threads ever share a buffer.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::metainfo::BLOCK_LEN;

/// How many free buffers are kept: 16 MiB, about what is on the way from the sockets to the files at any moment. More than
/// that is given back to the allocator.
const KEEP: usize = 1024;

/// Where free buffers wait. The last one in is the first out: it is still in the processor's cache.
pub(crate) struct BufferPool {
    /// The free buffers; locked only to push or pop one.
    free: Mutex<Vec<Box<[u8]>>>,
}

impl BufferPool {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { free: Mutex::new(Vec::new()) })
    }

    /// A buffer of `len` bytes, at most a block, with unspecified contents.
    pub(crate) fn take(self: &Arc<Self>, len: u32) -> Buffer {
        let bytes = self.free.lock().pop().unwrap_or_else(|| vec![0; BLOCK_LEN as usize].into_boxed_slice());
        Buffer { bytes, len: len.min(BLOCK_LEN) as usize, pool: Arc::clone(self) }
    }

    /// Gives the free buffers back to the allocator: nothing more is expected for now.
    pub(crate) fn shrink(&self) {
        let free = std::mem::take(&mut *self.free.lock());
        drop(free);
    }
}

/// The bytes of one block, at most 16 KiB.
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    len: usize,
    pool: Arc<BufferPool>,
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({})", self.len)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut free = self.pool.free.lock();
        if free.len() < KEEP {
            free.push(bytes);
        }
    }
}
