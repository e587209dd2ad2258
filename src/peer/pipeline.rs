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
use super::clock::{Account, Activity};
use super::piece::{Arrival, PieceInFlight};
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
    /// We ourselves keep from reading what it sends: [`Activity::Limit`] or [`Activity::VerifyQueue`].
    held: Option<Activity>,
    /// What the peer is to us.
    interest: Interest,
    /// Why there is no work, as the owner said last.
    lack: Activity,
    /// Where the time of the connection goes.
    account: Account,
    /// The owner was told that this peer wants work and has not answered yet.
    hungry: bool,
    unasked: u32,
    rejected: u32,
    /// Blocks that came and had been asked for.
    delivered: u64,
    /// The peer is gone: nothing is claimed for it any more, whatever still waits for it.
    ended: bool,
}

/// What a peer is to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Interest {
    /// It has pieces that are wanted.
    Wanted,
    /// It has none, or has not said yet.
    Nothing,
    /// Nothing is missing here.
    Complete,
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
            held: None,
            interest: Interest::Nothing,
            lack: Activity::Work,
            account: Account::new(Activity::NothingWanted, now),
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
            self.lack = Activity::Work;
            self.queue.push_back(piece);
        }
        if self.ended || (self.choked && self.allowed_fast.is_none()) {
            return refill;
        }
        let size = self.window.size() as usize;
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
            let pace = self.window.pace(self.outstanding.len());
            match work.again {
                None => work.piece.claim(self.key, room, pace, now, &mut refill.requests),
                Some(again) => {
                    let most = room.min(again.most);
                    work.piece.claim_again(self.key, most, again.patience, pace, now, &mut refill.requests);
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
        self.note(now);
        refill
    }

    /// Whether it is worth waking the writer: the window has room for a batch of requests, and there is something to ask
    /// for or the owner to be told that there is not.
    pub(crate) fn wants_refill(&self) -> bool {
        if self.hungry && self.queue.is_empty() {
            return false;
        }
        self.has_room()
    }

    /// The owner has given a piece. Says whether the writer is to be woken for it; if not, it will be for the next blocks
    /// that come.
    pub(crate) fn given(&mut self) -> bool {
        self.hungry = false;
        self.has_room()
    }

    /// Whether the window has room for a batch of requests.
    fn has_room(&self) -> bool {
        let size = self.window.size() as usize;
        let open = size.saturating_sub(self.outstanding.len());
        open > 0 && (open >= self.window.batch() as usize || self.outstanding.len() <= 4)
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
        self.note(now);
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
    pub(crate) fn reject(&mut self, block: Block, now: Instant) -> Option<u32> {
        let at = self.position(block)?;
        let asked = self.outstanding.remove(at)?;
        asked.piece.release(self.key, asked.block);
        self.queue.retain(|work| work.piece.index() != block.piece);
        self.rejected += 1;
        self.note(now);
        Some(self.rejected)
    }

    /// The peer does not have this piece any more (BEP 54): what it was asked for of it goes back for others. A block that
    /// comes all the same is late.
    pub(crate) fn lost(&mut self, piece: PieceIndex, now: Instant) {
        self.queue.retain(|work| work.piece.index() != piece);
        while let Some(at) = self.outstanding.iter().position(|asked| asked.block.piece == piece) {
            self.give_up(at);
        }
        self.note(now);
    }

    /// Nothing is fetched for now: every claim goes back.
    pub(crate) fn rest(&mut self, now: Instant) {
        self.queue.clear();
        self.hungry = false;
        self.give_up_all();
        self.window.pause();
        self.note(now);
    }

    /// The peer choked us. Without the Fast extension every request is void now; with it each is answered or rejected.
    pub(crate) fn choke(&mut self, fast: bool, now: Instant) {
        self.choked = true;
        self.queue.clear();
        self.hungry = false;
        self.window.pause();
        if !fast {
            self.give_up_all();
        }
        self.note(now);
    }

    pub(crate) fn unchoke(&mut self, now: Instant) {
        self.choked = false;
        self.hungry = false;
        self.last_progress = now;
        self.note(now);
    }

    /// The peer sends this piece even while it chokes us (BEP 6).
    pub(crate) fn allow_fast(&mut self, piece: PieceIndex, pieces: u32) {
        self.allowed_fast.get_or_insert_with(|| Bits::new(pieces)).set(piece.get());
    }

    /// Whether the peer has owed us a block for longer than it may take.
    pub(crate) fn is_overdue(&self, now: Instant) -> bool {
        let oldest = self.outstanding.front().filter(|_| self.held.is_none());
        oldest.is_some_and(|oldest| {
            now.saturating_duration_since(self.last_progress.max(oldest.at)) >= self.window.patience()
        })
    }

    /// We ourselves keep from reading, for our limits or because the verify workers are behind: the snub clock stands.
    pub(crate) fn hold(&mut self, why: Activity, now: Instant) {
        self.held = Some(why);
        self.note(now);
    }

    /// We read again.
    pub(crate) fn go_on(&mut self, now: Instant) {
        self.held = None;
        self.last_progress = now;
        self.note(now);
    }

    /// The peer stalls: its claims go back for others, its window is one request until it sends again.
    pub(crate) fn snub(&mut self, now: Instant) {
        self.window.snub();
        self.queue.clear();
        self.hungry = false;
        self.give_up_all();
        self.last_progress = now;
        self.note(now);
    }

    /// The peer is gone: every claim goes back.
    pub(crate) fn end(&mut self, now: Instant) {
        self.ended = true;
        self.queue.clear();
        self.give_up_all();
        self.late.clear();
        self.account.close(now);
    }

    /// The owner knows what the peer is to us now.
    pub(crate) fn set_interest(&mut self, interest: Interest, now: Instant) {
        self.interest = interest;
        self.note(now);
    }

    /// The owner found no work for the peer, for this reason.
    pub(crate) fn starve(&mut self, lack: Activity, now: Instant) {
        self.lack = lack;
        self.note(now);
    }

    /// Where the time of the connection went.
    pub(crate) fn account(&self) -> &Account {
        &self.account
    }

    /// Keeps the account: after whatever may change what the connection waits for.
    #[inline]
    fn note(&mut self, now: Instant) {
        let activity = match (self.held, self.interest) {
            (_, Interest::Complete) => Activity::Seeding,
            (Some(held), _) => held,
            _ if !self.outstanding.is_empty() && self.window.is_snubbed() => Activity::Stalled,
            _ if !self.outstanding.is_empty() => Activity::Blocks,
            (_, Interest::Nothing) => Activity::NothingWanted,
            _ if self.choked => Activity::Unchoke,
            _ => self.lack,
        };
        self.account.switch(activity, now);
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
