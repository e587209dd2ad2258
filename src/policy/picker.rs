//! Which piece to ask a peer for next.
//!
//! It owns, for every piece, how many peers have it, how much it is wanted and whether it is missing, in flight or had.
//! It refuses to know peers (the caller keeps each peer's [`Bits`] and reports every change once), blocks and bytes.
//!
//! Missing wanted pieces lie in buckets, one per priority and availability, each in random order; every piece knows its
//! place in its bucket. A `Have` moves one piece to the next bucket, which is a swap and a push, and a pick reads the
//! buckets from the rarest on. Peers that have everything change no order, so they are only counted.
//!
//! Pieces are plain numbers, because urgent windows and bitfields are; a number that does not exist is ignored.

use crate::bits::Bits;

/// Until this many pieces are had, picks are random: a newcomer needs something to trade soon, and the rarest pieces
/// are those that arrive slowest.
const RANDOM_FIRST: u32 = 4;

/// How many random numbers are tried in the random phase before the bitfields are searched instead.
const RANDOM_TRIES: usize = 32;

/// What a piece without a place in the buckets has as its position.
const NOWHERE: u32 = u32::MAX;

/// How much a piece is wanted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Priority {
    /// Not at all: it is never picked, urgent or not.
    Skip,
    /// After all others.
    Low,
    /// As usual.
    #[default]
    Normal,
    /// Before all others that are not urgent.
    High,
}

/// The order among pieces of one priority.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Mode {
    /// The piece that the fewest peers have first, in random order among equals.
    #[default]
    RarestFirst,
    /// The lowest number first.
    Sequential,
}

/// How far a piece has come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PieceState {
    /// Nobody is asked for it.
    Missing,
    /// Picked, and neither verified nor given back.
    InFlight,
    /// Verified.
    Have,
}

/// Picks the next pieces for a peer. See the module for how.
pub struct Picker {
    mode: Mode,
    rng: fastrand::Rng,
    /// Per piece: how many of the peers that are counted piece by piece have it.
    counts: Vec<u32>,
    /// How many peers are counted as having everything. The availability of a piece is its count plus this.
    seeds: u32,
    states: Vec<PieceState>,
    priorities: Vec<Priority>,
    /// Per piece: its place in its bucket, or [`NOWHERE`]. A piece is in a bucket while it is missing and wanted.
    positions: Vec<u32>,
    /// The missing pieces of priority High, Normal and Low.
    levels: [Level; 3],
    /// The pieces that are neither skipped nor had.
    wanted: Bits,
    have: u32,
    in_flight: u32,
    urgent: Vec<u32>,
    /// All pieces of `urgent` before this place are had.
    urgent_head: usize,
}

/// The missing pieces of one priority.
struct Level {
    /// The pieces with count `i` are in bucket `i`, in random order.
    buckets: Vec<Vec<u32>>,
    /// No bucket before this one has a piece.
    lowest: usize,
    /// The same pieces as a set.
    missing: Bits,
}

impl Picker {
    /// A picker for `pieces` pieces, all missing and of normal priority, before any peer is known.
    pub fn new(pieces: u32, rng: fastrand::Rng) -> Self {
        let count = pieces as usize;
        let mut picker = Self {
            mode: Mode::default(),
            rng,
            counts: vec![0; count],
            seeds: 0,
            states: vec![PieceState::Missing; count],
            priorities: vec![Priority::Normal; count],
            positions: vec![NOWHERE; count],
            levels: std::array::from_fn(|_| Level::new(pieces)),
            wanted: Bits::full(pieces),
            have: 0,
            in_flight: 0,
            urgent: Vec::new(),
            urgent_head: 0,
        };
        (0..pieces).for_each(|piece| picker.list(piece));
        picker
    }

    /// Sets the order among pieces of one priority.
    pub fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
    }

    /// Sets how much a piece is wanted. A piece that is skipped while in flight stays so until it is got or given back.
    pub fn set_priority(&mut self, piece: u32, priority: Priority) {
        if let Some(state) = self.state(piece) {
            self.change(piece, state, priority);
        }
    }

    /// Replaces the pieces that come before all others, in this order: the windows of streaming readers. Urgency does
    /// not make a skipped piece wanted.
    pub fn set_urgent(&mut self, pieces: impl IntoIterator<Item = u32>) {
        let count = self.piece_count();
        self.urgent.clear();
        self.urgent.extend(pieces.into_iter().filter(|&piece| piece < count));
        self.urgent_head = 0;
    }

    /// Counts a peer with what it has. Costs a step per piece, or one step where it has everything.
    pub fn peer_joined(&mut self, has: &Bits) {
        if self.is_seed(has) {
            self.seeds += 1;
        } else {
            has.iter().for_each(|piece| self.count_up(piece));
        }
    }

    /// Forgets a peer, given all that it has now: what it joined with and what was reported since.
    pub fn peer_left(&mut self, has: &Bits) {
        if self.is_seed(has) && self.seeds > 0 {
            // Even if this one was counted piece by piece and another as a seed: the sums come out the same.
            self.seeds -= 1;
        } else {
            has.iter().for_each(|piece| self.count_down(piece));
        }
    }

    /// A peer has one more piece (BEP 3 `have`). Call it only when the peer did not have it before.
    pub fn peer_has(&mut self, piece: u32) {
        self.count_up(piece);
    }

    /// A peer no longer has a piece (BEP 54 `lt_donthave`). Call it only when the peer had it before.
    pub fn peer_lost(&mut self, piece: u32) {
        self.count_down(piece);
    }

    /// Takes up to `max` missing pieces that a peer has, makes them in flight and appends them to `out`, best first:
    /// urgent ones in their order, then by priority, then by the mode (or at random, while few pieces are had).
    pub fn pick(&mut self, has: &Bits, max: usize, out: &mut Vec<u32>) {
        self.pick_where(has, max, |_| true, out);
    }

    /// Like [`Picker::pick`], among the pieces that `allow` admits: those that this peer may open.
    pub fn pick_where(&mut self, has: &Bits, max: usize, allow: impl Fn(u32) -> bool, out: &mut Vec<u32>) {
        let mut left = self.pick_urgent(has, max, &allow, out);
        for level in 0..self.levels.len() {
            if left == 0 {
                return;
            }
            let start = out.len();
            match self.mode {
                Mode::Sequential => {
                    let pieces = common(has, &self.levels[level].missing, 0);
                    out.extend(pieces.filter(|&piece| allow(piece)).take(left));
                }
                Mode::RarestFirst if self.have < RANDOM_FIRST => {
                    while out.len() - start < left
                        && let Some(piece) = self.random(level, has, &allow)
                    {
                        self.open(piece);
                        out.push(piece);
                    }
                }
                Mode::RarestFirst => self.rarest(level, has, left, &allow, out),
            }
            left -= out.len() - start;
            for &piece in &out[start..] {
                self.open(piece);
            }
        }
    }

    /// Makes one given piece in flight, skipped or not, if it is missing; says whether it was.
    pub fn open(&mut self, piece: u32) -> bool {
        self.transition(piece, |state| state == PieceState::Missing, PieceState::InFlight)
    }

    /// The piece is verified: had from now on. Says whether it was not had before.
    pub fn got(&mut self, piece: u32) -> bool {
        self.transition(piece, |state| state != PieceState::Have, PieceState::Have)
    }

    /// The piece will not be finished (it failed, or nobody works on it): missing again, if it was in flight.
    pub fn give_back(&mut self, piece: u32) -> bool {
        self.transition(piece, |state| state == PieceState::InFlight, PieceState::Missing)
    }

    /// The piece turned out not to be had (a recheck): missing again, if it was had.
    pub fn lost(&mut self, piece: u32) -> bool {
        // A reader may want it again, wherever its window's had part ended.
        self.urgent_head = 0;
        self.transition(piece, |state| state == PieceState::Have, PieceState::Missing)
    }

    /// Whether a peer has anything that is wanted and not had: whether we are interested (BEP 3). Stops at the first
    /// such piece and compares 64 pieces in a step.
    pub fn interesting(&self, has: &Bits) -> bool {
        common_words(has, &self.wanted, 0).any(|word| word != 0)
    }

    /// Whether a piece is wanted and not had: whether a peer's `have` of it makes us interested. One step.
    pub fn wants(&self, piece: u32) -> bool {
        self.wanted.get(piece)
    }

    /// How many wanted pieces are not had yet.
    pub fn wanted_left(&self) -> u32 {
        self.wanted.count()
    }

    /// Whether no wanted piece is missing: all are had or in flight, which is when the endgame begins (or the end).
    pub fn all_wanted_open_or_had(&self) -> bool {
        self.levels.iter().all(|level| level.missing.count() == 0)
    }

    /// How many peers have a piece; 0 for one that does not exist.
    pub fn availability(&self, piece: u32) -> u32 {
        self.counts.get(piece as usize).map_or(0, |count| count + self.seeds)
    }

    /// How many whole copies the connected peers have: the availability of the rarest piece, plus the share of pieces
    /// that are less rare. 0 for no pieces. Costs a step per piece.
    pub fn distributed_copies(&self) -> f32 {
        let Some(&rarest) = self.counts.iter().min() else { return 0.0 };
        let above = self.counts.iter().filter(|&&count| count > rarest).count();
        (self.seeds + rarest) as f32 + above as f32 / self.counts.len() as f32
    }

    /// How far a piece has come; `None` for one that does not exist.
    pub fn state(&self, piece: u32) -> Option<PieceState> {
        self.states.get(piece as usize).copied()
    }

    /// How much a piece is wanted; `None` for one that does not exist.
    pub fn priority(&self, piece: u32) -> Option<Priority> {
        self.priorities.get(piece as usize).copied()
    }

    /// How many pieces there are.
    pub fn piece_count(&self) -> u32 {
        self.wanted.len()
    }

    /// How many pieces are had, skipped ones included.
    pub fn have_count(&self) -> u32 {
        self.have
    }

    /// How many pieces are in flight.
    pub fn in_flight_count(&self) -> u32 {
        self.in_flight
    }

    /// Takes urgent pieces; says how many of `max` are left to pick.
    fn pick_urgent(&mut self, has: &Bits, max: usize, allow: &impl Fn(u32) -> bool, out: &mut Vec<u32>) -> usize {
        let had = |piece: &&u32| self.states[**piece as usize] == PieceState::Have;
        self.urgent_head += self.urgent[self.urgent_head..].iter().take_while(had).count();
        let mut left = max;
        for at in self.urgent_head..self.urgent.len() {
            if left == 0 {
                break;
            }
            let piece = self.urgent[at];
            if self.positions[piece as usize] != NOWHERE && has.get(piece) && allow(piece) {
                self.open(piece);
                out.push(piece);
                left -= 1;
            }
        }
        left
    }

    /// Any piece of a level that a peer has, each equally likely unless they are few.
    fn random(&mut self, level: usize, has: &Bits, allow: &impl Fn(u32) -> bool) -> Option<u32> {
        let missing = &self.levels[level].missing;
        if missing.count() == 0 {
            return None;
        }
        for _ in 0..RANDOM_TRIES {
            let piece = self.rng.u32(0..missing.len());
            if missing.get(piece) && has.get(piece) && allow(piece) {
                return Some(piece);
            }
        }
        let from = self.rng.u32(0..missing.len());
        let mut onward = common(has, missing, from).chain(common(has, missing, 0));
        onward.find(|&piece| allow(piece))
    }

    /// The rarest pieces of a level that a peer has: up to `max`, rarest first.
    fn rarest(&self, level: usize, has: &Bits, max: usize, allow: &impl Fn(u32) -> bool, out: &mut Vec<u32>) {
        let level = &self.levels[level];
        let missing = level.missing.count() as usize;
        let found = common_words(has, &level.missing, 0).map(|word| word.count_ones() as usize).sum::<usize>();
        // Read the buckets until enough is found, which takes about `max * missing / found` steps, or sort what the
        // peer has, which takes about `found` steps. Both give the same order.
        if found.saturating_mul(found) < max.saturating_mul(missing) {
            let mut few: Vec<u32> = common(has, &level.missing, 0).filter(|&piece| allow(piece)).collect();
            few.sort_unstable_by_key(|&piece| (self.counts[piece as usize], self.positions[piece as usize]));
            out.extend(few.into_iter().take(max));
        } else {
            let ordered = level.buckets[level.lowest..].iter().flatten().copied();
            // `found` ends the reading early where all that this peer has was seen.
            let possible = ordered.filter(|&piece| has.get(piece)).take(found);
            out.extend(possible.filter(|&piece| allow(piece)).take(max));
        }
    }

    fn transition(&mut self, piece: u32, from: impl Fn(PieceState) -> bool, to: PieceState) -> bool {
        let applies = self.state(piece).is_some_and(from);
        if applies {
            self.change(piece, to, self.priorities[piece as usize]);
        }
        applies
    }

    /// Gives an existing piece its state and priority, and everything that depends on them.
    fn change(&mut self, piece: u32, state: PieceState, priority: Priority) {
        let at = piece as usize;
        self.unlist(piece);
        for (which, count) in [(PieceState::Have, &mut self.have), (PieceState::InFlight, &mut self.in_flight)] {
            *count -= u32::from(self.states[at] == which);
            *count += u32::from(state == which);
        }
        self.states[at] = state;
        self.priorities[at] = priority;
        if priority != Priority::Skip && state != PieceState::Have {
            self.wanted.set(piece);
        } else {
            self.wanted.clear(piece);
        }
        self.list(piece);
    }

    fn is_seed(&self, has: &Bits) -> bool {
        has.is_full() && has.len() == self.piece_count()
    }

    fn count_up(&mut self, piece: u32) {
        let at = piece as usize;
        if at < self.counts.len() {
            self.unlist(piece);
            self.counts[at] += 1;
            self.list(piece);
        }
    }

    fn count_down(&mut self, piece: u32) {
        let at = piece as usize;
        if at >= self.counts.len() {
            return;
        }
        if self.counts[at] == 0 {
            if self.seeds == 0 {
                return;
            }
            // A peer that was counted as a seed is none any more: from now on it is counted piece by piece. This
            // happens at most once for each peer that joined with everything.
            self.seeds -= 1;
            (0..self.piece_count()).for_each(|piece| self.count_up(piece));
        }
        self.unlist(piece);
        self.counts[at] -= 1;
        self.list(piece);
    }

    /// Puts an existing piece into its bucket, if it is missing and wanted.
    fn list(&mut self, piece: u32) {
        let at = piece as usize;
        let (PieceState::Missing, Some(level)) = (self.states[at], level_of(self.priorities[at])) else { return };
        let level = &mut self.levels[level];
        let count = self.counts[at] as usize;
        if level.buckets.len() <= count {
            level.buckets.resize_with(count + 1, Vec::new);
        }
        // One step of a shuffle: a random place, whose piece moves to the end.
        let bucket = &mut level.buckets[count];
        bucket.push(piece);
        let place = self.rng.usize(0..bucket.len());
        let end = bucket.len() - 1;
        bucket.swap(place, end);
        self.positions[bucket[end] as usize] = end as u32;
        self.positions[at] = place as u32;
        level.lowest = level.lowest.min(count);
        level.missing.set(piece);
    }

    /// Takes an existing piece out of its bucket, if it is in one.
    fn unlist(&mut self, piece: u32) {
        let at = piece as usize;
        let place = std::mem::replace(&mut self.positions[at], NOWHERE);
        let Some(level) = level_of(self.priorities[at]).filter(|_| place != NOWHERE) else { return };
        let level = &mut self.levels[level];
        let bucket = &mut level.buckets[self.counts[at] as usize];
        bucket.swap_remove(place as usize);
        if let Some(&moved) = bucket.get(place as usize) {
            self.positions[moved as usize] = place;
        }
        // Pieces wander from bucket to bucket as peers come; without this every bucket would keep room for all.
        if bucket.capacity() > 64 && bucket.len() < bucket.capacity() / 4 {
            bucket.shrink_to(bucket.len() * 2);
        }
        while level.buckets.get(level.lowest).is_some_and(Vec::is_empty) {
            level.lowest += 1;
        }
        level.missing.clear(piece);
    }
}

impl std::fmt::Debug for Picker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picker({} had and {} in flight of {})", self.have, self.in_flight, self.piece_count())
    }
}

impl Level {
    fn new(pieces: u32) -> Self {
        Self { buckets: Vec::new(), lowest: 0, missing: Bits::new(pieces) }
    }
}

/// Which of the levels holds the pieces of a priority.
fn level_of(priority: Priority) -> Option<usize> {
    match priority {
        Priority::High => Some(0),
        Priority::Normal => Some(1),
        Priority::Low => Some(2),
        Priority::Skip => None,
    }
}

/// The bits that both sets have, 64 at a time from that of `from` on, the first in the most significant place.
fn common_words<'a>(a: &'a Bits, b: &'a Bits, from: u32) -> impl Iterator<Item = u64> + 'a {
    let end = a.as_wire().len().min(b.as_wire().len());
    let start = (from as usize / 64 * 8).min(end);
    let (a, a_tail) = a.as_wire()[start..end].as_chunks::<8>();
    let (b, b_tail) = b.as_wire()[start..end].as_chunks::<8>();
    let mut tail = [0; 8];
    for ((to, a), b) in tail.iter_mut().zip(a_tail).zip(b_tail) {
        *to = a & b;
    }
    let whole = a.iter().zip(b).map(|(a, b)| u64::from_be_bytes(*a) & u64::from_be_bytes(*b));
    whole.chain([u64::from_be_bytes(tail)])
}

/// The indices that both sets have, ascending, from some 63 at most before `from` on.
fn common<'a>(a: &'a Bits, b: &'a Bits, from: u32) -> impl Iterator<Item = u32> + 'a {
    common_words(a, b, from).zip(from / 64..).flat_map(|(mut word, at)| {
        std::iter::from_fn(move || {
            let bit = (word != 0).then(|| word.leading_zeros())?;
            word &= !(1 << (63 - bit));
            Some(at * 64 + bit)
        })
    })
}

#[cfg(test)]
mod tests;
