//! Moments at which something happened.
//!
//! It owns how many of them are kept: enough to see when things happened, however often they did.

use std::time::Duration;

/// The most marks of a kind.
pub const MARKS: usize = 200;

/// What can happen at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A tracker answered or failed.
    Tracker,
    /// A file is complete.
    File,
    /// A piece failed its hash.
    Failed,
    /// A peer stalled.
    Stall,
    /// A peer is banned.
    Banned,
    /// A peer left.
    Left,
    /// An address did not answer.
    Unreachable,
    /// The torrent waits for something, or failed.
    Trouble,
}

/// The number of kinds.
pub const KINDS: usize = 8;

/// Marks of one kind, at most [`MARKS`]: when they are full, every second goes, and from then on only every second, fourth,
/// eighth ... is taken.
#[derive(Clone, Debug)]
pub struct Marks {
    pub list: Vec<Mark>,
    /// How many there were.
    pub seen: u64,
    every: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub at: Duration,
    pub text: String,
    pub piece: Option<u32>,
}

impl Marks {
    pub fn add(&mut self, mark: Mark) {
        self.seen += 1;
        if !(self.seen - 1).is_multiple_of(self.every) {
            return;
        }
        if self.list.len() == MARKS {
            let mut number = 0;
            self.list.retain(|_| {
                number += 1;
                number % 2 == 1
            });
            self.every *= 2;
        }
        self.list.push(mark);
    }
}

impl Default for Marks {
    fn default() -> Self {
        Self { list: Vec::new(), seen: 0, every: 1 }
    }
}
