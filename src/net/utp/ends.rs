//! The bytes of a connection between whoever uses it and the machine, and how it stands.

use std::collections::VecDeque;
use std::io::ErrorKind;

/// Bytes that may wait for whoever reads: what a path of 10 MB/s and 100 ms holds.
const WINDOW: usize = 1 << 20;
/// Memory that is given back when it is empty, in bytes.
const LARGE: usize = 512 << 10;

/// What whoever uses the connection and the machine share.
#[derive(Default)]
pub(super) struct Ends {
    /// What came from the peer and was not read.
    pub(super) incoming: VecDeque<u8>,
    /// What was written and not sent.
    pub(super) outgoing: VecDeque<u8>,
    /// Our end is closed: what comes is of no use, and when all was sent, that is the end.
    pub(super) closed: bool,
    pub(super) status: Status,
    /// The connection takes nothing more to send.
    pub(super) is_gone: bool,
    /// Room for more that the peer was last told of, in bytes.
    pub(super) told: usize,
    /// What waits for others before it, in bytes.
    pub(super) early: usize,
}

/// What is known of a connection by whoever uses it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Status {
    /// It is being made.
    #[default]
    Opening,
    Open,
    /// The peer has sent all that it will.
    Finished,
    /// It is gone.
    Broken(ErrorKind),
}

impl Ends {
    /// How many bytes more may wait to be read.
    pub(super) fn room(&self) -> usize {
        WINDOW.saturating_sub(self.incoming.len())
    }

    /// What the peer is told of that: without what is kept for others before it.
    pub(super) fn free_room(&self) -> usize {
        self.room().saturating_sub(self.early)
    }

    /// Whether the peer should be told how much room there is, which it does not know.
    pub(super) fn has_news(&self) -> bool {
        self.told < WINDOW / 2 && self.free_room() >= self.told + WINDOW / 4
    }
}

/// Moves as many bytes as there are and fit, and says how many. Memory that is not needed any more is given back, where it is
/// much.
pub(super) fn move_out(from: &mut VecDeque<u8>, to: &mut [u8]) -> usize {
    let len = from.len().min(to.len());
    let (first, second) = from.as_slices();
    let from_first = len.min(first.len());
    to[..from_first].copy_from_slice(&first[..from_first]);
    to[from_first..len].copy_from_slice(&second[..len - from_first]);
    from.drain(..len);
    if from.is_empty() && from.capacity() > LARGE {
        *from = VecDeque::new();
    }
    len
}
