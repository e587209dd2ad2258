//! Whom to dial next.
//!
//! It owns the addresses of a torrent's peers, what came of dialling them, who is banned and which addresses are our
//! own. It refuses to dial, and addresses that nobody can be dialled at. It is bounded, whatever others claim.
//!
//! An address is idle, being dialled or connected. A failed one waits 60 s for each failure in a row and is gone after
//! three; gone ones are remembered, so that hearing of them again does not bring them back for half an hour. Addresses
//! that a person gave are tried sooner and for ever. A useful peer that got lost is dialled again after 5 s.

use std::cmp::Reverse;
use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use super::limiter::Bucket;

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

/// How many bans and own addresses are remembered; the oldest is forgotten first.
const MAX_BANS: usize = 10_000;
const MAX_OWN: usize = 64;

/// Who named an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Source {
    /// A person.
    Manual,
    /// A peer on the local network (BEP 14).
    Local,
    /// A tracker.
    Tracker,
    /// The peer itself, which dialled us and said where it listens (BEP 10 `p`).
    Incoming,
    /// Another peer (BEP 11).
    Exchange,
    /// The DHT (BEP 5).
    Dht,
    /// A magnet link (BEP 9 `x.pe`).
    Magnet,
    /// An earlier run.
    Resume,
}

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
    half_open: usize,
    connected: usize,
    /// Counts dials instead of bytes.
    dials: Bucket,
    /// As [`ban_key`] names them.
    banned: Remembered<SocketAddr>,
    own: Remembered<SocketAddr>,
    seeding: bool,
    /// The next place in the queue among equals.
    turn: u64,
}

#[derive(Debug)]
struct Entry {
    source: Source,
    state: State,
    /// Failures in a row.
    failures: u32,
    /// Not to be dialled before, or while gone not to be brought back before.
    not_before: Option<Instant>,
    useful: bool,
    seed: bool,
    /// Whether somebody can be expected to listen there: not where only a connection came from there.
    listens: bool,
    /// It hung up on an encrypted handshake and spoke plaintext then.
    plaintext_only: bool,
    turn: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Idle,
    Dialling,
    Connected,
}

/// A bounded set that forgets its oldest member first.
#[derive(Debug)]
struct Remembered<T> {
    members: HashSet<T>,
    order: VecDeque<T>,
    max: usize,
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
            half_open: 0,
            connected: 0,
            banned: Remembered::new(MAX_BANS),
            own: Remembered::new(MAX_OWN),
            seeding: false,
            turn: 0,
        }
    }

    /// Adds an address and says whether it is new here. Refused are: port 0, unspecified, multicast and broadcast
    /// addresses, banned ones, our own, gone ones for half an hour, and any if the book is full of better ones.
    ///
    /// A full book lets go of gone addresses first and then of the one with the most failures. Where none failed, only
    /// an address from a person replaces one, the newest: a flood of made-up addresses does not displace earlier ones.
    pub fn add(&mut self, addr: SocketAddr, source: Source, now: Instant) -> bool {
        let addr = canonical(addr);
        if !is_dialable(addr) || self.is_banned(addr) || self.is_self(addr) {
            return false;
        }
        let turn = self.next_turn();
        if let Some(entry) = self.entries.get_mut(&addr) {
            let manual = source == Source::Manual && entry.source != Source::Manual;
            let was_unknown = !entry.listens;
            entry.source = entry.source.min(source);
            entry.listens = true;
            let back = entry.is_gone() && entry.not_before.is_none_or(|until| until <= now);
            if manual || back {
                (entry.failures, entry.not_before, entry.turn) = (0, None, turn);
            }
            return back || was_unknown;
        }
        if self.entries.len() >= self.limits.max_addresses && !self.make_room(source) {
            return false;
        }
        self.entries.insert(addr, Entry::new(source, State::Idle, turn));
        true
    }

    /// The address to dial now, if any; it counts as being dialled from here on, until [`connected`](Self::connected),
    /// [`failed`](Self::failed) or [`not_dialled`](Self::not_dialled). First come those that a person gave, then useful
    /// ones that got lost, then by failures, then the local network, then who was added or failed first.
    pub fn next(&mut self, now: Instant) -> Option<SocketAddr> {
        if !self.dials.wait(1, now).is_zero() {
            return None;
        }
        let ready = self.candidates().filter(|(_, entry)| entry.not_before.is_none_or(|at| at <= now));
        let (&addr, _) = ready.min_by_key(|(_, entry)| entry.rank())?;
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
        if self.entries.get(&addr).is_some_and(|entry| entry.state == State::Idle) {
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
        if let Slot::Vacant(slot) = self.entries.entry(addr) {
            slot.insert(Entry { listens: false, ..Entry::new(Source::Incoming, State::Idle, turn) });
        }
        self.set_state(addr, State::Connected);
    }

    /// Dialling an address, or the handshake with it, failed.
    pub fn failed(&mut self, addr: SocketAddr, now: Instant) {
        self.ended(addr, now, false);
    }

    /// The peer at an address is not connected any more. One that was useful (gave or took anything) is dialled again
    /// soon; for another one it counts as a failure.
    pub fn disconnected(&mut self, addr: SocketAddr, now: Instant, was_useful: bool) {
        self.ended(addr, now, was_useful);
    }

    /// Bans an address with all its ports; on this machine's own addresses (loopback), where every peer has the same, that
    /// port alone. The caller closes what is connected there.
    pub fn ban(&mut self, addr: SocketAddr) {
        let key = ban_key(addr);
        self.banned.insert(key);
        self.entries.retain(|&addr, entry| ban_key(addr) != key || entry.state != State::Idle);
    }

    /// Whether an address is banned.
    pub fn is_banned(&self, addr: SocketAddr) -> bool {
        self.banned.members.contains(&ban_key(addr))
    }

    /// An address is our own: we listen there, or found ourselves there. It is never dialled again.
    pub fn learn_self(&mut self, addr: SocketAddr) {
        let addr = canonical(addr);
        self.own.insert(addr);
        if self.entries.get(&addr).is_some_and(|entry| entry.state == State::Idle) {
            self.entries.remove(&addr);
        }
    }

    /// Whether an address is known to be our own.
    pub fn is_self(&self, addr: SocketAddr) -> bool {
        self.own.members.contains(&canonical(addr))
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
        let unwanted = self.is_banned(addr) || self.is_self(addr);
        let Some(entry) = self.entries.get_mut(&addr).filter(|entry| entry.state != State::Idle) else { return };
        entry.turn = turn;
        entry.useful = was_useful;
        entry.failures = if was_useful { 0 } else { entry.failures.saturating_add(1) };
        let wait = match (entry.source, entry.failures) {
            (_, 0) => REDIAL,
            (Source::Manual, failures) => MANUAL_BACKOFF.saturating_mul(failures).min(MAX_MANUAL_BACKOFF),
            (_, MAX_FAILURES..) => GONE_FOR,
            (_, failures) => BACKOFF * failures,
        };
        entry.not_before = Some(now + wait);
        let forget = unwanted || !entry.listens;
        self.set_state(addr, State::Idle);
        if forget {
            self.entries.remove(&addr);
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

    /// Lets go of one address, if one is worse than a new one from this source.
    fn make_room(&mut self, source: Source) -> bool {
        let idle =
            self.entries.iter().filter(|(_, entry)| entry.state == State::Idle && entry.source != Source::Manual);
        let worst = idle.max_by_key(|(_, entry)| (entry.failures, entry.turn));
        let goes = worst.filter(|(_, entry)| entry.failures > 0 || source == Source::Manual).map(|(&addr, _)| addr);
        goes.is_some_and(|addr| self.entries.remove(&addr).is_some())
    }

    fn next_turn(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }
}

impl Entry {
    fn new(source: Source, state: State, turn: u64) -> Self {
        Self {
            source,
            state,
            failures: 0,
            not_before: None,
            useful: false,
            seed: false,
            listens: true,
            plaintext_only: false,
            turn,
        }
    }

    fn is_gone(&self) -> bool {
        self.failures >= MAX_FAILURES && self.source != Source::Manual
    }

    /// The order of dialling: lower comes first.
    fn rank(&self) -> impl Ord + use<> {
        let near = self.source == Source::Local;
        (self.source != Source::Manual, Reverse(self.useful), self.failures, !near, self.turn)
    }
}

impl<T: Copy + Eq + std::hash::Hash> Remembered<T> {
    fn new(max: usize) -> Self {
        Self { members: HashSet::new(), order: VecDeque::new(), max }
    }

    fn insert(&mut self, member: T) {
        if self.members.insert(member) {
            self.order.push_back(member);
        }
        if self.order.len() > self.max
            && let Some(oldest) = self.order.pop_front()
        {
            self.members.remove(&oldest);
        }
    }
}

/// One form for one address: IPv4 in IPv6 is IPv4, and of an IPv6 address only the scope of a link-local one is kept.
fn canonical(addr: SocketAddr) -> SocketAddr {
    match (addr.ip().to_canonical(), addr) {
        (IpAddr::V6(ip), SocketAddr::V6(v6)) if ip.is_unicast_link_local() => {
            SocketAddr::V6(SocketAddrV6::new(ip, v6.port(), 0, v6.scope_id()))
        }
        (ip, _) => SocketAddr::new(ip, addr.port()),
    }
}

fn is_dialable(addr: SocketAddr) -> bool {
    let broadcast = matches!(addr.ip(), IpAddr::V4(ip) if ip.is_broadcast());
    addr.port() != 0 && !addr.ip().is_unspecified() && !addr.ip().is_multicast() && !broadcast
}

/// What a ban holds: the address with port 0 for all ports.
fn ban_key(addr: SocketAddr) -> SocketAddr {
    let addr = canonical(addr);
    if addr.ip().is_loopback() { addr } else { SocketAddr::new(addr.ip(), 0) }
}

#[cfg(test)]
mod tests;
