//! What one peer has been asked for: its pieces in flight, its outstanding requests, its window.
//!
//! It owns the claims that this peer holds and gives every one of them back when the peer chokes, stalls or goes. It
//! knows no socket and no thread; `now` comes in.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::PeerKey;
use super::buffer::Buffer;
use super::piece::{Arrival, Pace, PieceInFlight};
use crate::bits::Bits;
use crate::metainfo::{Block, PieceIndex};
use crate::policy::RequestWindow;

/// How many requests given up (cancelled, timed out) are remembered, so that their late answers are told from unasked
/// blocks.
const LATE: usize = 4096;

/// A piece to work on, from the owner to a peer.
#[derive(Clone)]
pub(crate) struct Work {
    pub(crate) piece: Arc<PieceInFlight>,
    /// `Some`: the endgame. Blocks that others were asked for are asked for again, where this peer would bring them sooner.
    pub(crate) again: Option<Again>,
}

/// How far a peer may go in the endgame.
#[derive(Clone, Copy)]
pub(crate) struct Again {
    /// The time that this peer needs for an answer.
    pub(crate) patience: Duration,
    /// How many blocks it may ask for again.
    pub(crate) most: usize,
}

/// The requests of one peer.
pub(crate) struct Pipeline {
    key: PeerKey,
    /// Pieces to claim blocks of, first things first.
    queue: VecDeque<Work>,
    outstanding: VecDeque<Asked>,
    late: VecDeque<Asked>,
    pub(crate) window: RequestWindow,
    pub(crate) choked: bool,
    /// The pieces that the peer sends even while it chokes us (BEP 6 allowed fast).
    allowed_fast: Option<Bits>,
    /// When the peer last did what it was asked: the snub clock.
    last_progress: Instant,
    /// Our own limits keep us from reading what it sends.
    held: bool,
    /// The owner was told that this peer wants work and has not answered yet.
    hungry: bool,
    unasked: u32,
    rejected: u32,
    /// Blocks that came and had been asked for.
    delivered: u64,
    /// The peer is gone: nothing is claimed for it any more, whatever still waits for it.
    ended: bool,
}

struct Asked {
    piece: Arc<PieceInFlight>,
    block: Block,
    at: Instant,
}

/// What a block was to the pipeline that it came to.
pub(crate) enum Delivered {
    /// Somebody else was first, or it was cancelled.
    Late,
    /// Kept; cancel it at the peers named.
    Kept(Vec<PeerKey>),
    /// Kept, and this piece is complete.
    Complete(Arc<PieceInFlight>, Vec<PeerKey>),
}

/// What the next requests are.
#[derive(Default)]
pub(crate) struct Refill {
    /// Ask for these, in order.
    pub(crate) requests: Vec<Block>,
    /// Tell the owner to give about this many blocks of work.
    pub(crate) hungry_for: Option<u32>,
}

impl Pipeline {
    pub(crate) fn new(key: PeerKey, now: Instant) -> Self {
        Self {
            key,
            queue: VecDeque::new(),
            outstanding: VecDeque::new(),
            late: VecDeque::new(),
            window: RequestWindow::default(),
            choked: true,
            allowed_fast: None,
            last_progress: now,
            held: false,
            hungry: false,
            unasked: 0,
            rejected: 0,
            delivered: 0,
            ended: false,
        }
    }

    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// Claims as many blocks as the window has room for, pulling pieces from `work` as they are needed.
    pub(crate) fn refill(&mut self, work: &Receiver<Work>, now: Instant) -> Refill {
        let mut refill = Refill::default();
        while let Ok(piece) = work.try_recv() {
            self.hungry = false;
            self.queue.push_back(piece);
        }
        if self.ended || (self.choked && self.allowed_fast.is_none()) {
            return refill;
        }
        let size = self.window.size() as usize;
        let pace = self.window.pace().map(|(usual, late)| Pace { usual, late });
        let mut at = 0;
        while let Some(work) = self.queue.get(at) {
            let room = size.saturating_sub(self.outstanding.len());
            if room == 0 {
                break;
            }
            let index = work.piece.index().get();
            if self.choked && !self.allowed_fast.as_ref().is_some_and(|allowed| allowed.get(index)) {
                at += 1;
                continue;
            }
            let before = refill.requests.len();
            match work.again {
                None => work.piece.claim(self.key, room, pace, now, &mut refill.requests),
                Some(again) => {
                    let most = room.min(again.most);
                    work.piece.claim_again(self.key, most, again.patience, now, &mut refill.requests);
                }
            }
            let piece = Arc::clone(&work.piece);
            let blocks = &refill.requests[before..];
            if blocks.len() < room || work.again.is_some() {
                self.queue.remove(at);
            }
            if self.outstanding.is_empty() && !blocks.is_empty() {
                self.last_progress = now;
                self.window.pause();
            }
            self.outstanding.extend(blocks.iter().map(|&block| Asked { piece: Arc::clone(&piece), block, at: now }));
        }
        refill.hungry_for = self.appetite();
        refill
    }

    /// Whether it is worth waking the writer: the window has room for a batch of requests, and there is something to ask
    /// for or the owner to be told that there is not.
    pub(crate) fn wants_refill(&self) -> bool {
        if self.hungry && self.queue.is_empty() {
            return false;
        }
        let size = self.window.size() as usize;
        let open = size.saturating_sub(self.outstanding.len());
        open > 0 && (open >= size / 4 || self.outstanding.len() <= 4)
    }

    /// Takes in a block. `None` where nobody asked for it.
    pub(crate) fn arrived(&mut self, block: Block, data: Buffer, now: Instant) -> Option<Delivered> {
        let asked = match self.position(block) {
            Some(at) => {
                let asked = self.outstanding.remove(at)?;
                self.window.arrived(block.len, now.duration_since(asked.at), now);
                self.last_progress = now;
                self.rejected = 0;
                asked
            }
            None => {
                let at = self.late.iter().position(|asked| asked.block == block)?;
                // A peer that answers late is slow, not silent.
                self.last_progress = now;
                self.late.remove(at)?
            }
        };
        self.delivered += 1;
        Some(match asked.piece.arrive(self.key, block, data) {
            Arrival::Late => Delivered::Late,
            Arrival::Kept(others) => Delivered::Kept(others),
            Arrival::Complete(others) => Delivered::Complete(asked.piece, others),
        })
    }

    /// How many blocks have come that had been asked for, in time or not.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// The peer sent a block that nobody asked for. Says how many there were.
    pub(crate) fn unasked(&mut self) -> u32 {
        self.unasked += 1;
        self.unasked
    }

    /// Somebody else was first with this block: gives up the request and says whether to send `cancel`.
    pub(crate) fn cancel(&mut self, block: Block) -> bool {
        let Some(at) = self.position(block) else { return false };
        self.give_up(at);
        true
    }

    /// The peer rejects a request (BEP 6). Says whether it was outstanding and how many were in a row.
    pub(crate) fn reject(&mut self, block: Block) -> Option<u32> {
        let at = self.position(block)?;
        let asked = self.outstanding.remove(at)?;
        asked.piece.release(self.key, asked.block);
        self.queue.retain(|work| work.piece.index() != block.piece);
        self.rejected += 1;
        Some(self.rejected)
    }

    /// The peer choked us. Without the Fast extension every request is void now; with it each is answered or rejected.
    pub(crate) fn choke(&mut self, fast: bool) {
        self.choked = true;
        self.queue.clear();
        self.hungry = false;
        self.window.pause();
        if !fast {
            self.give_up_all();
        }
    }

    pub(crate) fn unchoke(&mut self, now: Instant) {
        self.choked = false;
        self.hungry = false;
        self.last_progress = now;
    }

    /// The peer sends this piece even while it chokes us (BEP 6).
    pub(crate) fn allow_fast(&mut self, piece: PieceIndex, pieces: u32) {
        self.allowed_fast.get_or_insert_with(|| Bits::new(pieces)).set(piece.get());
    }

    /// How long the peer has owed us a block beyond its usual time; `None` while it is in time.
    pub(crate) fn overdue(&self, now: Instant) -> Option<Duration> {
        let oldest = self.outstanding.front().filter(|_| !self.held)?;
        let silent = now.saturating_duration_since(self.last_progress.max(oldest.at));
        silent.checked_sub(self.window.patience())
    }

    /// Our own limits keep us from reading: the snub clock stands.
    pub(crate) fn hold(&mut self) {
        self.held = true;
    }

    /// We read again.
    pub(crate) fn go_on(&mut self, now: Instant) {
        self.held = false;
        self.last_progress = now;
    }

    /// The peer stalls: its claims go back for others, its window is one request until it sends again.
    pub(crate) fn snub(&mut self, now: Instant) {
        self.window.snub();
        self.queue.clear();
        self.hungry = false;
        self.give_up_all();
        self.last_progress = now;
    }

    /// The peer is gone: every claim goes back.
    pub(crate) fn end(&mut self) {
        self.ended = true;
        self.queue.clear();
        self.give_up_all();
        self.late.clear();
    }

    fn position(&self, block: Block) -> Option<usize> {
        self.outstanding.iter().position(|asked| asked.block == block)
    }

    fn give_up(&mut self, at: usize) {
        if let Some(asked) = self.outstanding.remove(at) {
            asked.piece.release(self.key, asked.block);
            if self.late.len() == LATE {
                self.late.pop_front();
            }
            self.late.push_back(asked);
        }
    }

    fn give_up_all(&mut self) {
        while !self.outstanding.is_empty() {
            self.give_up(0);
        }
    }

    /// How much work to ask the owner for: enough that the queue never drains before the answer comes.
    fn appetite(&mut self) -> Option<u32> {
        if self.hungry {
            return None;
        }
        let queued: u32 =
            self.queue.iter().filter(|work| work.again.is_none()).map(|work| work.piece.unclaimed()).sum();
        let wanted = self.window.size().div_ceil(2).max(2);
        if queued >= wanted {
            return None;
        }
        self.hungry = true;
        Some(self.window.size().saturating_sub(self.outstanding.len() as u32) + wanted - queued)
    }
}

#[cfg(test)]
mod tests;
