//! The piece in flight: the one place where several peers work on the same piece.
//!
//! It owns the blocks of one piece until the piece is verified: which are wanted, who was asked for them, which have
//! arrived and from whom. Peers claim blocks, several peers may claim the same one, and the first copy wins; large
//! pieces, slow peers and the endgame are this one mechanism. It knows nothing of sockets, and it is closed before
//! its bytes leave, so nothing touches them during verification.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::PeerKey;
use super::buffer::Buffer;
use crate::metainfo::{Block, Layout, PieceIndex};
use crate::policy::Pace;

/// How long the first answer of a peer is waited for before others are asked too.
const UNKNOWN: Duration = Duration::from_millis(500);

/// One piece that is being fetched. Shared by the owner and by every peer that works on it.
pub(crate) struct PieceInFlight {
    index: PieceIndex,
    /// How many blocks nobody has claimed and nobody has sent. Written under the lock of `state`, read by the owner
    /// without it, to find work: one that finds 0 looks no more until `released_of_all` has changed, which therefore is
    /// counted after it.
    unclaimed: AtomicU32,
    /// How often a claim was given back and left its block without any. Written under the lock of `state`, read by the
    /// owner without it: a change says that those who once found nothing left to claim may look again.
    released: AtomicU32,
    /// The same of all pieces that one desk keeps, so that it need not look at each.
    released_of_all: Arc<AtomicU32>,
    /// This piece failed before: its blocks are hashed one by one, to find who lied.
    audited: bool,
    /// The blocks. Locked for a claim or an arrival, never across I/O or a send.
    state: Mutex<State>,
}

struct State {
    slots: Vec<Slot>,
    missing: u32,
    /// Nothing more is claimed or taken: the piece is complete or given up.
    closed: bool,
}

struct Slot {
    block: Block,
    /// The bytes and who sent them.
    data: Option<(Buffer, PeerKey)>,
    /// Who was asked first, and who was asked too. Rarely more than one: [`Vec::new`] costs nothing.
    claim: Option<Claim>,
    more: Vec<Claim>,
}

/// A block that a peer was asked for.
#[derive(Clone, Copy)]
struct Claim {
    holder: PeerKey,
    asked: Instant,
    pace: Option<Pace>,
}

/// What became of a block that arrived.
pub(crate) enum Arrival {
    /// It was not needed any more.
    Late,
    /// It was kept; the peers named had been asked for it too.
    Kept(Vec<PeerKey>),
    /// It was kept and the piece is complete: the caller hands it on for verification.
    Complete(Vec<PeerKey>),
}

/// A complete piece's blocks in order, each with its sender.
pub(crate) struct Contents {
    pub(crate) blocks: Vec<Buffer>,
    pub(crate) senders: Vec<PeerKey>,
}

impl PieceInFlight {
    /// `released_of_all` counts how often blocks of this or another piece became free again.
    pub(crate) fn new(layout: &Layout, index: PieceIndex, audited: bool, released_of_all: &Arc<AtomicU32>) -> Self {
        let count = layout.block_count(index);
        let slots = (0..count)
            .filter_map(|number| layout.block(index, number))
            .map(|block| Slot { block, data: None, claim: None, more: Vec::new() })
            .collect();
        let state = Mutex::new(State { slots, missing: count, closed: false });
        let (unclaimed, released) = (AtomicU32::new(count), AtomicU32::new(0));
        Self { index, unclaimed, released, released_of_all: Arc::clone(released_of_all), audited, state }
    }

    pub(crate) fn index(&self) -> PieceIndex {
        self.index
    }

    /// Whether it failed before and its blocks are to be hashed one by one.
    pub(crate) fn is_audited(&self) -> bool {
        self.audited
    }

    /// How many blocks `peer`, which answers within `patience`, could claim again: see [`PieceInFlight::claim_again`].
    pub(crate) fn overdue(&self, peer: PeerKey, patience: Duration, now: Instant) -> usize {
        let state = self.state.lock();
        if state.closed {
            return 0;
        }
        state.slots.iter().filter(|slot| slot.gain(peer, patience, now).is_some()).count()
    }

    /// How many blocks nobody was asked for.
    pub(crate) fn unclaimed(&self) -> u32 {
        self.unclaimed.load(Ordering::Relaxed)
    }

    /// How often blocks became free again.
    pub(crate) fn released(&self) -> u32 {
        self.released.load(Ordering::Relaxed)
    }

    /// How many blocks have arrived.
    pub(crate) fn arrived(&self) -> u32 {
        let state = self.state.lock();
        state.slots.len() as u32 - state.missing
    }

    /// Claims up to `max` blocks that nobody has claimed, in order (strict priority within a piece), for a peer that
    /// answers at this pace.
    pub(crate) fn claim(&self, peer: PeerKey, max: usize, pace: Option<Pace>, now: Instant, out: &mut Vec<Block>) {
        if self.unclaimed() == 0 {
            return;
        }
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        let mut left = max;
        for slot in state.slots.iter_mut() {
            if left == 0 {
                break;
            }
            if slot.claim.is_none() && slot.data.is_none() {
                let pace = pace.map(|pace| pace.after((max - left) as u32));
                slot.claim = Some(Claim { holder: peer, asked: now, pace });
                self.unclaimed.fetch_sub(1, Ordering::Relaxed);
                out.push(slot.block);
                left -= 1;
            }
        }
    }

    /// Claims up to `max` blocks that others were asked for and that `peer`, which answers within `patience`, would bring
    /// sooner: the endgame. That is so where all the others are late by their own measure, or need more than twice as long
    /// still. Those that would take longest come first.
    pub(crate) fn claim_again(
        &self,
        peer: PeerKey,
        max: usize,
        patience: Duration,
        pace: Option<Pace>,
        now: Instant,
        out: &mut Vec<Block>,
    ) {
        let mut state = self.state.lock();
        if state.closed || max == 0 {
            return;
        }
        let slots = state.slots.iter().enumerate();
        let mut waiting: Vec<(Reverse<Duration>, usize)> =
            slots.filter_map(|(at, slot)| Some((Reverse(slot.gain(peer, patience, now)?), at))).collect();
        waiting.sort_unstable();
        for (n, (_, at)) in (0..).zip(waiting.into_iter().take(max)) {
            let pace = pace.map(|pace| pace.after(n));
            state.slots[at].more.push(Claim { holder: peer, asked: now, pace });
            out.push(state.slots[at].block);
        }
    }

    /// Gives back a claim; what has arrived stays.
    pub(crate) fn release(&self, peer: PeerKey, block: Block) {
        let mut state = self.state.lock();
        let Some(slot) = state.slots.get_mut(block.number() as usize) else { return };
        slot.more.retain(|other| other.holder != peer);
        if let Some(claim) = slot.claim
            && claim.holder == peer
        {
            slot.claim = slot.more.pop();
            if slot.claim.is_none() && slot.data.is_none() && !state.closed {
                self.unclaimed.fetch_add(1, Ordering::Relaxed);
                self.released.fetch_add(1, Ordering::Relaxed);
                // Last: whoever sees it sees the block that is free.
                self.released_of_all.fetch_add(1, Ordering::Release);
            }
        }
    }

    /// Takes in a block that `peer` sent, whether it still holds a claim or not.
    pub(crate) fn arrive(&self, peer: PeerKey, block: Block, data: Buffer) -> Arrival {
        let mut state = self.state.lock();
        if state.closed {
            return Arrival::Late;
        }
        let Some(slot) = state.slots.get_mut(block.number() as usize).filter(|slot| slot.block == block) else {
            return Arrival::Late;
        };
        if slot.data.is_some() {
            return Arrival::Late;
        }
        if slot.claim.is_none() {
            self.unclaimed.fetch_sub(1, Ordering::Relaxed);
        }
        let claims = std::mem::take(&mut slot.more).into_iter().chain(slot.claim.take());
        let others = claims.map(|claim| claim.holder).filter(|&other| other != peer).collect();
        slot.data = Some((data, peer));
        state.missing -= 1;
        if state.missing > 0 {
            return Arrival::Kept(others);
        }
        state.closed = true;
        Arrival::Complete(others)
    }

    /// The bytes of a complete piece. `None` where it is not complete or they were taken before.
    pub(crate) fn take(&self) -> Option<Contents> {
        let mut state = self.state.lock();
        if state.missing > 0 {
            return None;
        }
        let slots = std::mem::take(&mut state.slots);
        let (blocks, senders): (Vec<_>, Vec<_>) = slots.into_iter().filter_map(|slot| slot.data).unzip();
        (!blocks.is_empty()).then_some(Contents { blocks, senders })
    }

    /// Gives the piece up, unless it is complete: its bytes go, nothing is claimed or taken any more. `None` where it is
    /// complete, else how many bytes were for nothing.
    pub(crate) fn abandon(&self) -> Option<u64> {
        let mut state = self.state.lock();
        if state.missing == 0 {
            return None;
        }
        state.closed = true;
        self.unclaimed.store(0, Ordering::Relaxed);
        let arrived = state.slots.iter_mut().filter_map(|slot| slot.data.take().map(|_| u64::from(slot.block.len)));
        Some(arrived.sum())
    }
}

#[cfg(test)]
impl PieceInFlight {
    /// For each block whether it has arrived and who is asked for it.
    pub(crate) fn look(&self) -> Vec<(bool, Vec<PeerKey>)> {
        let state = self.state.lock();
        let asked = |slot: &Slot| slot.claims().map(|claim| claim.holder).collect();
        state.slots.iter().map(|slot| (slot.data.is_some(), asked(slot))).collect()
    }
}

impl Slot {
    fn claims(&self) -> impl Iterator<Item = &Claim> {
        self.claim.iter().chain(&self.more)
    }

    /// How long those who were asked may take still; `None` where `peer`, which answers within `patience`, would not bring
    /// it in half the time.
    fn gain(&self, peer: PeerKey, patience: Duration, now: Instant) -> Option<Duration> {
        if self.data.is_some() || self.claims().any(|claim| claim.holder == peer) {
            return None;
        }
        let left = self.claims().map(|claim| claim.left(patience, now)).min()?;
        (left > patience * 2).then_some(left)
    }
}

impl Claim {
    /// How long the holder will take still, to one who would need `patience`; [`Duration::MAX`] where it is late by its own
    /// measure: there is no telling.
    fn left(&self, patience: Duration, now: Instant) -> Duration {
        let waited = now.saturating_duration_since(self.asked);
        match self.pace {
            Some(pace) if waited < pace.usual + pace.slack + patience => pace.usual.saturating_sub(waited),
            None if waited < (patience * 2).max(UNKNOWN) => Duration::ZERO,
            _ => Duration::MAX,
        }
    }
}

#[cfg(test)]
mod tests;
