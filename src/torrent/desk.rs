//! The pieces in flight of one torrent and the memory they may take.
//!
//! It owns the table of pieces being fetched, who works on each, and its share of the session's budget. It decides which
//! of them a peer joins; which new piece is opened is the picker's decision, and when, the owner's.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::metainfo::{BLOCK_LEN, Layout, PieceIndex};
use crate::peer::{PeerKey, PieceInFlight};

/// How long a piece that failed once is one peer's alone; twice as long for each further failure.
const ALONE: Duration = Duration::from_millis(500);

/// The bytes of all pieces in flight of a session.
pub(crate) struct Budget {
    most: u64,
    /// What the torrents have reserved together; each gives back what it took.
    used: AtomicU64,
}

impl Budget {
    pub(crate) fn new(most: u64) -> Self {
        Self { most, used: AtomicU64::new(0) }
    }

    fn reserve(&self, bytes: u64, force: bool) -> bool {
        let took = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            (force || used + bytes <= self.most).then_some(used + bytes)
        });
        took.is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The pieces in flight of one torrent.
pub(crate) struct Desk {
    flights: HashMap<u32, Flight>,
    /// The pieces that may have blocks which nobody was asked for. The others have none, unless blocks were released since
    /// `seen`. While much is under way it is few of many that have any.
    spare: Vec<Arc<PieceInFlight>>,
    /// There may be pieces that nobody works on: somebody let go, did not take what it was given, or released blocks.
    may_be_left: bool,
    /// How often blocks of any of the pieces became free again. Counted by the peers.
    released: Arc<AtomicU32>,
    /// That count as of the last look at all pieces.
    seen: u32,
    budget: Arc<Budget>,
    layout: Arc<Layout>,
    /// Bytes that had arrived in pieces given up, since somebody asked.
    dropped: u64,
}

struct Flight {
    piece: Arc<PieceInFlight>,
    bytes: u64,
    /// The peers it was handed to and that have not let go of it.
    holders: Vec<Holder>,
    /// Until then only one peer may work on it at a time, so that whoever spoils it is known: it failed before. After
    /// that anybody may, or a peer that hardly sends would keep it for good.
    alone_until: Option<Instant>,
}

struct Holder {
    peer: PeerKey,
    /// The piece's count of releases when it was handed over: once blocks became free after that, this peer may have
    /// left the piece before and can be handed it again.
    released: u32,
}

impl Desk {
    pub(crate) fn new(layout: Arc<Layout>, budget: Arc<Budget>) -> Self {
        let (flights, spare, released) = (HashMap::new(), Vec::new(), Arc::default());
        Self { flights, spare, may_be_left: false, released, seen: 0, budget, layout, dropped: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.flights.len()
    }

    /// How many bytes had arrived in pieces that were given up since the last call.
    pub(crate) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// How many blocks each of `peers` may be asked for, so that all of them together find room; twice that, for not all
    /// use their share.
    pub(crate) fn share(&self, peers: usize) -> u32 {
        let blocks = self.budget.most / u64::from(BLOCK_LEN) * 2 / peers.max(1) as u64;
        u32::try_from(blocks).unwrap_or(u32::MAX)
    }

    /// Whether a new piece of the torrent's size fits the budget; a torrent without any always gets one.
    pub(crate) fn has_room(&self) -> bool {
        let bytes = u64::from(self.layout.piece_length());
        let room = self.budget.reserve(bytes, self.flights.is_empty());
        if room {
            self.budget.give_back(bytes);
        }
        room
    }

    /// Opens a piece that failed so many times before. `None` where the budget has no room.
    pub(crate) fn open(&mut self, index: PieceIndex, failures: u32) -> Option<Arc<PieceInFlight>> {
        let bytes = u64::from(self.layout.piece_len(index));
        if !self.budget.reserve(bytes, self.flights.is_empty()) {
            return None;
        }
        let piece = Arc::new(PieceInFlight::new(&self.layout, index, failures > 0, &self.released));
        let alone_until = failures.checked_sub(1).map(|again| Instant::now() + ALONE * 2u32.pow(again.min(7)));
        let flight = Flight { piece: Arc::clone(&piece), bytes, holders: Vec::new(), alone_until };
        if let Some(old) = self.flights.insert(index.get(), flight) {
            self.budget.give_back(old.bytes);
        }
        self.spare.push(Arc::clone(&piece));
        Some(piece)
    }

    /// Takes a piece off the desk: stored, failed or given up. `false` where it was not this very one.
    pub(crate) fn remove(&mut self, piece: &Arc<PieceInFlight>) -> bool {
        let index = piece.index().get();
        if !self.flights.get(&index).is_some_and(|flight| Arc::ptr_eq(&flight.piece, piece)) {
            return false;
        }
        if let Some(flight) = self.flights.remove(&index) {
            self.budget.give_back(flight.bytes);
        }
        true
    }

    /// Notes that a peer did not take the piece that it was given.
    pub(crate) fn refused(&mut self) {
        self.may_be_left = true;
    }

    /// Notes that a peer was handed a piece, of which blocks had been `released` so often before.
    pub(crate) fn handed(&mut self, piece: PieceIndex, to: PeerKey, released: u32) {
        if let Some(flight) = self.flights.get_mut(&piece.get()) {
            flight.holders.retain(|holder| holder.peer != to);
            flight.holders.push(Holder { peer: to, released });
        }
    }

    /// A peer no longer works on anything: choked, stalled or gone. Gives up pieces of which nothing has arrived and that
    /// nobody else holds, and says which.
    pub(crate) fn let_go(&mut self, peer: PeerKey) -> Vec<PieceIndex> {
        self.may_be_left = true;
        let mut empty = Vec::new();
        for flight in self.flights.values_mut() {
            let before = flight.holders.len();
            flight.holders.retain(|holder| holder.peer != peer);
            if flight.holders.len() < before && flight.holders.is_empty() && flight.piece.arrived() == 0 {
                empty.push(Arc::clone(&flight.piece));
            }
        }
        self.discard(empty)
    }

    /// A piece that nobody works on although blocks of it are missing, and that the peer could go on with.
    pub(crate) fn orphan(&mut self, peer: PeerKey, can: impl Fn(u32) -> bool) -> Option<Arc<PieceInFlight>> {
        let left = self.orphans();
        left.into_iter().find(|piece| can(piece.index().get()) && self.takes(piece.index().get(), peer))
    }

    /// The piece with the most blocks that nobody was asked for, among those that others work on.
    pub(crate) fn joinable(&mut self, peer: PeerKey, can: impl Fn(u32) -> bool) -> Option<Arc<PieceInFlight>> {
        self.look_at_spare();
        let joinable =
            self.spare.iter().filter(|piece| can(piece.index().get()) && self.takes(piece.index().get(), peer));
        joinable.max_by_key(|piece| piece.unclaimed()).cloned()
    }

    /// Pieces with blocks that others were asked for and that a peer which answers within `patience` would bring sooner,
    /// each with how many: at most `max` blocks of them, or a little more.
    pub(crate) fn overdue(
        &self,
        peer: PeerKey,
        patience: Duration,
        max: usize,
        can: impl Fn(u32) -> bool,
    ) -> Vec<(Arc<PieceInFlight>, usize)> {
        let now = Instant::now();
        let mut found = Vec::new();
        let mut blocks = 0;
        for (&index, flight) in &self.flights {
            if blocks >= max {
                break;
            }
            if can(index) && !flight.is_alone() {
                let overdue = flight.piece.overdue(peer, patience, now);
                if overdue > 0 {
                    blocks += overdue;
                    found.push((Arc::clone(&flight.piece), overdue));
                }
            }
        }
        found
    }

    /// One piece in flight, to look at.
    pub(crate) fn get(&self, index: u32) -> Option<&Arc<PieceInFlight>> {
        self.flights.get(&index).map(|flight| &flight.piece)
    }

    /// Whether a peer may work on a piece in flight that it does not hold yet.
    pub(crate) fn takes(&self, index: u32, peer: PeerKey) -> bool {
        self.flights.get(&index).is_some_and(|flight| flight.takes(peer))
    }

    /// Gives up a piece that nobody works on and of which the least has arrived, so that another can be opened.
    pub(crate) fn make_room(&mut self) -> Vec<PieceIndex> {
        let least = self.orphans().into_iter().min_by_key(|piece| piece.arrived());
        self.discard(least.into_iter().collect())
    }

    /// Gives up everything that is not complete; what is complete stays until a verify worker is done with it.
    pub(crate) fn clear(&mut self) -> Vec<PieceIndex> {
        let all = self.flights.values().map(|flight| Arc::clone(&flight.piece)).collect();
        self.discard(all)
    }

    /// Gives up the pieces for which `keep` is false.
    pub(crate) fn retain(&mut self, keep: impl Fn(u32) -> bool) -> Vec<PieceIndex> {
        let unwanted = self.flights.iter().filter(|(index, _)| !keep(**index));
        let unwanted = unwanted.map(|(_, flight)| Arc::clone(&flight.piece)).collect();
        self.discard(unwanted)
    }

    /// The pieces that nobody works on although blocks of them are missing.
    fn orphans(&mut self) -> Vec<Arc<PieceInFlight>> {
        self.look_at_spare();
        if !self.may_be_left {
            return Vec::new();
        }
        let flight = |piece: &PieceInFlight| self.flights.get(&piece.index().get());
        let left = self.spare.iter().filter(|piece| flight(piece).is_some_and(Flight::is_left));
        let left: Vec<_> = left.cloned().collect();
        self.may_be_left = !left.is_empty();
        left
    }

    /// Leaves in `spare` what has blocks that nobody was asked for. What is off the desk has none.
    fn look_at_spare(&mut self) {
        let released = self.released.load(Ordering::Acquire);
        if std::mem::replace(&mut self.seen, released) != released {
            self.may_be_left = true;
            self.spare = self.flights.values().map(|flight| Arc::clone(&flight.piece)).collect();
        }
        self.spare.retain(|piece| piece.unclaimed() > 0);
    }

    /// Blocks arrive meanwhile: what they complete stays.
    fn discard(&mut self, mut pieces: Vec<Arc<PieceInFlight>>) -> Vec<PieceIndex> {
        pieces.retain(|piece| {
            let dropped = piece.abandon().filter(|_| self.remove(piece));
            self.dropped += dropped.unwrap_or(0);
            dropped.is_some()
        });
        self.spare.retain(|piece| piece.unclaimed() > 0);
        pieces.iter().map(|piece| piece.index()).collect()
    }
}

impl Flight {
    fn takes(&self, peer: PeerKey) -> bool {
        let mut at_it = self.holders.iter().filter(|holder| self.is_current(holder));
        if self.is_alone() { at_it.next().is_none() } else { at_it.all(|holder| holder.peer != peer) }
    }

    fn is_alone(&self) -> bool {
        self.alone_until.is_some_and(|until| Instant::now() < until)
    }

    /// Whether nobody is known to work on it.
    fn is_left(&self) -> bool {
        !self.holders.iter().any(|holder| self.is_current(holder))
    }

    fn is_current(&self, holder: &Holder) -> bool {
        holder.released == self.piece.released()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        for flight in self.flights.values() {
            self.budget.give_back(flight.bytes);
        }
    }
}

#[cfg(test)]
mod tests;
