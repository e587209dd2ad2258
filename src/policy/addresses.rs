//! Whom to dial next: the one place that decides it.
//!
//! It owns the addresses of a torrent's peers, who named them, what came of dialling them, who is banned or blocked, and
//! which addresses are our own. It refuses to dial, and addresses that nobody can be dialled at. It is bounded, whatever
//! others claim, and fair: no source, network or peer can fill it or keep others waiting with what only it says.
//!
//! An address is idle, being dialled or connected. A failed one waits 60 s for each failure in a row and is gone after
//! three; gone ones are remembered, so that hearing of them again does not bring them back for half an hour. Addresses
//! that a person gave are tried sooner and for ever. A useful peer that got lost is dialled again after 5 s.
//!
//! - [`entry`]: one address, and the order of dialling. [`room`]: who goes when the book is full.
//! - [`gate`]: who may be in the book. [`special`]: which ranges of addresses lead where.
//! - [`own`]: at which address the world sees us (BEP 24). [`priority`]: canonical peer priority (BEP 40).
//! - [`miss`]: why nobody was met.

mod entry;
mod gate;
mod miss;
mod own;
mod priority;
mod room;
mod special;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::filter::IpFilter;
use super::limiter::Bucket;
use super::reputation::Standing;
use entry::{Entry, State, Turns};
use gate::Gate;
use room::Census;
use special::canonical;

pub use entry::{Source, Sources};
pub use gate::Refused;
pub use miss::{Miss, Misses};
pub use priority::{Swaps, canonical_priority};
pub(crate) use special::person;
pub use special::{Reach, Surroundings};

/// After this many failures in a row an address is gone.
const MAX_FAILURES: u32 = 3;

/// How long to wait after a failure, for each failure in a row.
const BACKOFF: Duration = Duration::from_secs(60);

/// The same for an address that a person gave, and its bound.
const MANUAL_BACKOFF: Duration = Duration::from_secs(5);
const MAX_MANUAL_BACKOFF: Duration = Duration::from_secs(60);

/// How long after a useful peer got lost it is dialled again.
const REDIAL: Duration = Duration::from_secs(5);

/// How long a gone address stays gone, even if somebody names it again.
const GONE_FOR: Duration = Duration::from_secs(30 * 60);

/// How many dials may be made at once after a pause.
const DIAL_BURST: u64 = 10;

/// The bounds of an [`AddressBook`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialLimits {
    /// How many addresses are kept; 2,000 by default.
    pub max_addresses: usize,
    /// How many may be dialled at the same time; 50 by default.
    pub max_half_open: usize,
    /// How many dials may be made in a second; 30 by default, and 10 at once after a pause.
    pub dials_per_second: u32,
}

/// The addresses of one torrent's peers.
#[derive(Debug)]
pub struct AddressBook {
    limits: DialLimits,
    entries: HashMap<SocketAddr, Entry>,
    census: Census,
    turns: Turns,
    half_open: usize,
    connected: usize,
    /// Counts dials instead of bytes.
    dials: Bucket,
    gate: Gate,
    misses: Misses,
    seeding: bool,
    /// The next place in the queue among equals.
    turn: u64,
}

impl Default for DialLimits {
    fn default() -> Self {
        Self { max_addresses: 2_000, max_half_open: 50, dials_per_second: 30 }
    }
}

impl AddressBook {
    /// An empty book.
    pub fn new(limits: DialLimits) -> Self {
        Self {
            dials: Bucket::with_burst(Some(limits.dials_per_second.into()), DIAL_BURST),
            limits,
            entries: HashMap::new(),
            census: Census::default(),
            turns: Turns::default(),
            half_open: 0,
            connected: 0,
            gate: Gate::default(),
            misses: Misses::default(),
            seeding: false,
            turn: 0,
        }
    }

    /// Adds an address and says whether it is new here. Refused are: port 0, unspecified, multicast and broadcast
    /// addresses, what cannot be reached from where we are, blocked ones, banned ones, our own, gone ones for half an hour,
    /// and any if the book is full of better ones.
    ///
    /// A full book lets go of gone addresses first and then of the one with the most failures. Where none failed, it lets
    /// go of the newest of whoever has most: of the source with more addresses than the new one's, or, within its source,
    /// of a network (/24, /64) or a teller with more than the new one's. A flood of made-up addresses displaces only itself.
    pub fn add(&mut self, addr: SocketAddr, source: Source, now: Instant) -> bool {
        self.add_told(addr, source, None, now)
    }

    /// As [`add`](Self::add), for an address that `teller` named: a peer (BEP 11), or a tracker that has an address for a
    /// name. Who is on our private network or on this machine may name others there.
    pub fn add_told(&mut self, addr: SocketAddr, source: Source, teller: Option<IpAddr>, now: Instant) -> bool {
        let addr = canonical(addr);
        self.gate.admits(addr, source, teller) && self.take_in(addr, source, teller.map(|ip| ip.to_canonical()), now)
    }

    fn take_in(&mut self, addr: SocketAddr, source: Source, teller: Option<IpAddr>, now: Instant) -> bool {
        let turn = self.next_turn();
        if let Some(entry) = self.entries.get_mut(&addr) {
            let manual = source == Source::Manual && !entry.is_manual();
            let was_unknown = !entry.listens;
            let home = entry.home();
            entry.sources.insert(source);
            self.census.moved(home, entry.home());
            entry.listens = true;
            let back = entry.is_gone() && entry.not_before.is_none_or(|until| until <= now);
            if manual || back {
                (entry.failures, entry.not_before, entry.turn) = (0, None, turn);
            }
            return back || was_unknown;
        }
        if self.entries.len() >= self.limits.max_addresses && !self.make_room(addr.ip(), source, teller) {
            self.gate.had_no_room();
            return false;
        }
        let crowd = self.census.crowd(addr.ip(), teller);
        self.insert(addr, Entry { teller, crowd, ..Entry::new(source, turn) });
        true
    }

    /// The address to dial now, if any; it counts as being dialled from here on, until [`connected`](Self::connected),
    /// [`failed`](Self::failed) or [`not_dialled`](Self::not_dialled). First come those that a person gave, then useful
    /// ones that got lost, then those with the better reputation, with fewer failures, on the local network. Among equals
    /// sources take turns; within one, crowds of one network or teller wait for others, the better canonical priority
    /// (BEP 40) comes first where our address is known, and then who was added or failed first.
    pub fn next(&mut self, now: Instant) -> Option<SocketAddr> {
        if !self.dials.wait(1, now).is_zero() {
            return None;
        }
        let ready = self.candidates().filter(|(_, entry)| entry.not_before.is_none_or(|at| at <= now));
        let (&addr, _) = ready.min_by_key(|(_, entry)| entry.rank(&self.turns))?;
        self.dialled(addr, now);
        Some(addr)
    }

    /// When calling [`next`](Self::next) again is worth it, if nothing else happens before; `None` if only another call
    /// can change its answer.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let first = self.candidates().map(|(_, entry)| entry.not_before.unwrap_or(now)).min()?;
        Some(first.max(now + self.dials.wait(1, now)))
    }

    /// The caller dials an address that it chose itself; for one from [`next`](Self::next) this changes nothing. One
    /// that is not in the book is not kept.
    pub fn dialled(&mut self, addr: SocketAddr, now: Instant) {
        let addr = canonical(addr);
        if let Some(entry) = self.entries.get(&addr).filter(|entry| entry.state == State::Idle) {
            self.turns.take(entry.sources);
            self.set_state(addr, State::Dialling);
            self.dials.take(1, now);
        }
    }

    /// The caller could not dial an address from [`next`](Self::next) after all: idle again, without a failure.
    pub fn not_dialled(&mut self, addr: SocketAddr, now: Instant) {
        let addr = canonical(addr);
        if self.entries.get(&addr).is_some_and(|entry| entry.state == State::Dialling) {
            self.set_state(addr, State::Idle);
            self.dials.refund(1, now);
        }
    }

    /// The peer at an address is connected, dialled or incoming. An address that is not in the book is kept in it until
    /// it disconnects, so that it is not dialled meanwhile.
    pub fn connected(&mut self, addr: SocketAddr) {
        let addr = canonical(addr);
        let turn = self.next_turn();
        if !self.entries.contains_key(&addr) {
            self.insert(addr, Entry { listens: false, ..Entry::new(Source::Incoming, turn) });
        }
        self.set_state(addr, State::Connected);
        self.set_miss(addr, None);
    }

    /// Dialling an address, or the handshake with it, failed.
    pub fn failed(&mut self, addr: SocketAddr, now: Instant) {
        self.ended(addr, now, false);
    }

    /// The same, for a call of which it is known why it came to nothing.
    pub fn missed(&mut self, addr: SocketAddr, why: Miss, now: Instant) {
        self.set_miss(canonical(addr), Some(why));
        self.failed(addr, now);
    }

    /// The peer at an address is not connected any more. One that was useful (gave or took anything) is dialled again
    /// soon; for another one it counts as a failure.
    pub fn disconnected(&mut self, addr: SocketAddr, now: Instant, was_useful: bool) {
        self.ended(addr, now, was_useful);
    }

    /// Bans an address with all its ports; on this machine's own addresses (loopback), where every peer has the same, that
    /// port alone. The caller closes what is connected there.
    pub fn ban(&mut self, addr: SocketAddr) {
        let key = person(addr);
        self.gate.ban(addr);
        self.forget(|addr| person(addr) == key);
    }

    /// Whether an address is banned.
    pub fn is_banned(&self, addr: SocketAddr) -> bool {
        self.gate.is_banned(addr)
    }

    /// How the peer at an address has behaved so far, as is remembered of it elsewhere: a cheat is banned, others are
    /// dialled in that order. An address that is not in the book is not kept.
    pub fn set_standing(&mut self, addr: SocketAddr, standing: Standing) {
        if standing == Standing::Cheat {
            self.ban(addr);
        } else if let Some(entry) = self.entries.get_mut(&canonical(addr)) {
            entry.standing = standing;
        }
    }

    /// What is blocked from now on. The caller closes what is connected there.
    pub fn set_filter(&mut self, filter: Arc<IpFilter>) {
        self.gate.set_filter(Arc::clone(&filter));
        self.forget(|addr| filter.blocks(addr.ip()));
    }

    /// Whether an address is blocked.
    pub fn is_blocked(&self, addr: SocketAddr) -> bool {
        self.gate.is_blocked(addr)
    }

    /// Where we are. Only what is named from now on is judged by it.
    pub fn set_surroundings(&mut self, surroundings: Surroundings) {
        self.gate.set_surroundings(surroundings);
        self.our_address_changed();
    }

    /// An address is our own: we listen there, or found ourselves there. It is never dialled again.
    pub fn learn_self(&mut self, addr: SocketAddr) {
        let addr = canonical(addr);
        self.gate.learn_self(addr);
        self.forget(|other| other == addr);
    }

    /// A peer says at which address it sees us (BEP 10 `yourip`): one voice of many.
    pub fn peer_sees_us(&mut self, peer: SocketAddr, ours: IpAddr) {
        if self.gate.peer_sees_us(peer, ours) {
            self.our_address_changed();
        }
    }

    /// A tracker says at which address it sees us (BEP 24).
    pub fn tracker_sees_us(&mut self, ours: IpAddr) {
        self.gate.tracker_sees_us(ours);
        self.our_address_changed();
    }

    /// The nodes of the DHT say at which address they see us (BEP 42): believed where neither trackers nor peers say.
    pub fn dht_sees_us(&mut self, ours: IpAddr) {
        self.gate.dht_sees_us(ours);
        self.our_address_changed();
    }

    /// At which address peers of this kind see us, as far as it is known.
    pub fn our_address(&self, v4: bool) -> Option<SocketAddr> {
        self.gate.our_address(v4)
    }

    /// The canonical priority of a peer at an address (BEP 40); `None` while our own address is not known.
    pub fn priority(&self, addr: SocketAddr) -> Option<u32> {
        let addr = canonical(addr);
        Some(canonical_priority(self.our_address(addr.is_ipv4())?, addr))
    }

    /// Whether an address is known to be our own.
    pub fn is_self(&self, addr: SocketAddr) -> bool {
        self.gate.is_self(canonical(addr))
    }

    /// Whether a person named an address.
    pub fn is_manual(&self, addr: SocketAddr) -> bool {
        self.sources(addr).contains(Source::Manual)
    }

    /// Who named an address; nobody, where it is not in the book.
    pub fn sources(&self, addr: SocketAddr) -> Sources {
        self.entries.get(&canonical(addr)).map_or_else(Sources::default, |entry| entry.sources)
    }

    /// How many addresses were refused, by why.
    pub fn refused(&self) -> Refused {
        self.gate.refused()
    }

    /// How many of the addresses were called in vain when they were called last, by why.
    pub fn misses(&self) -> Misses {
        self.misses
    }

    /// The peer at an address has everything, or downloads nothing: no need to dial it while we are seeding.
    pub fn mark_seed(&mut self, addr: SocketAddr) {
        if let Some(entry) = self.entries.get_mut(&canonical(addr)) {
            entry.seed = true;
        }
    }

    /// The peer at an address does not encrypt, or does after all.
    pub fn set_plaintext_only(&mut self, addr: SocketAddr, plaintext_only: bool) {
        if let Some(entry) = self.entries.get_mut(&canonical(addr)) {
            entry.plaintext_only = plaintext_only;
        }
    }

    /// Whether the peer at an address is known not to encrypt.
    pub fn is_plaintext_only(&self, addr: SocketAddr) -> bool {
        self.entries.get(&canonical(addr)).is_some_and(|entry| entry.plaintext_only)
    }

    /// Whether we are seeding, and so do not dial seeds.
    pub fn set_seeding(&mut self, seeding: bool) {
        self.seeding = seeding;
    }

    /// We want peers again after we let them all go (a pause, a recheck): whoever did not fail by itself may be dialled
    /// at once.
    pub fn hurry(&mut self) {
        for entry in self.entries.values_mut().filter(|entry| entry.state == State::Idle && entry.failures == 0) {
            entry.not_before = None;
        }
    }

    /// How many addresses are kept, gone ones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no address is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many addresses are being dialled.
    pub fn half_open(&self) -> usize {
        self.half_open
    }

    /// How many addresses are connected.
    pub fn connected_count(&self) -> usize {
        self.connected
    }

    /// How many addresses each source named; one that several named counts for each of them.
    pub fn count_by_source(&self) -> BTreeMap<Source, usize> {
        let mut counts = BTreeMap::new();
        let sources = self.entries.values().flat_map(|entry| entry.sources.iter());
        sources.for_each(|source| *counts.entry(source).or_default() += 1);
        counts
    }

    /// How many addresses might be dialled now or later.
    pub fn dialable_count(&self) -> usize {
        self.entries.values().filter(|entry| self.may_be_dialled(entry)).count()
    }

    /// What may be dialled now or later, unless too many are being dialled.
    fn candidates(&self) -> impl Iterator<Item = (&SocketAddr, &Entry)> {
        let room = self.half_open < self.limits.max_half_open;
        self.entries.iter().filter(move |(_, entry)| room && self.may_be_dialled(entry))
    }

    fn may_be_dialled(&self, entry: &Entry) -> bool {
        entry.state == State::Idle && entry.listens && !entry.is_gone() && !(self.seeding && entry.seed)
    }

    fn ended(&mut self, addr: SocketAddr, now: Instant, was_useful: bool) {
        let addr = canonical(addr);
        let turn = self.next_turn();
        let unwanted = self.gate.is_closed_to(addr);
        let Some(entry) = self.entries.get_mut(&addr).filter(|entry| entry.state != State::Idle) else { return };
        entry.turn = turn;
        entry.useful = was_useful;
        entry.failures = if was_useful { 0 } else { entry.failures.saturating_add(1) };
        let wait = match (entry.is_manual(), entry.failures) {
            (_, 0) => REDIAL,
            (true, failures) => MANUAL_BACKOFF.saturating_mul(failures).min(MAX_MANUAL_BACKOFF),
            (_, MAX_FAILURES..) => GONE_FOR,
            (_, failures) => BACKOFF * failures,
        };
        entry.not_before = Some(now + wait);
        let forget = unwanted || !entry.listens;
        self.set_state(addr, State::Idle);
        if forget {
            self.remove(addr);
        }
    }

    fn set_state(&mut self, addr: SocketAddr, state: State) {
        let Some(entry) = self.entries.get_mut(&addr) else { return };
        for (which, count) in [(State::Dialling, &mut self.half_open), (State::Connected, &mut self.connected)] {
            *count -= usize::from(entry.state == which);
            *count += usize::from(state == which);
        }
        entry.state = state;
    }

    fn insert(&mut self, addr: SocketAddr, mut entry: Entry) {
        entry.priority = self.priority(addr).unwrap_or(0);
        self.census.joined(addr.ip(), &entry);
        self.entries.insert(addr, entry);
    }

    fn remove(&mut self, addr: SocketAddr) {
        if let Some(entry) = self.entries.remove(&addr) {
            self.census.left(addr.ip(), &entry);
            self.misses.replace(entry.miss, None);
        }
    }

    fn set_miss(&mut self, addr: SocketAddr, miss: Option<Miss>) {
        if let Some(entry) = self.entries.get_mut(&addr) {
            self.misses.replace(std::mem::replace(&mut entry.miss, miss), miss);
        }
    }

    /// Removes the idle ones among some addresses; the others go when they are idle.
    fn forget(&mut self, goes: impl Fn(SocketAddr) -> bool) {
        let idle = self.entries.iter().filter(|(addr, entry)| entry.state == State::Idle && goes(**addr));
        let addrs: Vec<SocketAddr> = idle.map(|(&addr, _)| addr).collect();
        addrs.into_iter().for_each(|addr| self.remove(addr));
    }

    /// Our address is another: so are all priorities, and what is our own.
    fn our_address_changed(&mut self) {
        let ours = [true, false].map(|v4| self.our_address(v4));
        self.forget(|addr| ours.contains(&Some(addr)));
        for (addr, entry) in &mut self.entries {
            let ours = ours[usize::from(addr.is_ipv6())];
            entry.priority = ours.map_or(0, |ours| canonical_priority(ours, *addr));
        }
    }

    fn next_turn(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }
}

#[cfg(test)]
mod tests;
