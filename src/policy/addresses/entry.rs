//! One address in the book: who named it, what came of it, and when its turn is.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::time::Instant;

use super::super::reputation::Standing;
use super::{MAX_FAILURES, Miss};

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

impl Source {
    /// All of them, in order.
    pub const ALL: [Self; SOURCES] = [
        Self::Manual,
        Self::Local,
        Self::Tracker,
        Self::Incoming,
        Self::Exchange,
        Self::Dht,
        Self::Magnet,
        Self::Resume,
    ];

    /// In one word, as in `--json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Local => "local",
            Self::Tracker => "tracker",
            Self::Incoming => "incoming",
            Self::Exchange => "exchange",
            Self::Dht => "dht",
            Self::Magnet => "magnet",
            Self::Resume => "resume",
        }
    }
}

/// How many sources there are.
pub(super) const SOURCES: usize = 8;

/// A set of sources.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Sources(u8);

impl Sources {
    /// Adds one.
    pub fn insert(&mut self, source: Source) {
        self.0 |= 1 << source as u8;
    }

    /// Whether one is in it.
    pub fn contains(self, source: Source) -> bool {
        self.0 & (1 << source as u8) != 0
    }

    /// Those in it, in order.
    pub fn iter(self) -> impl Iterator<Item = Source> {
        Source::ALL.into_iter().filter(move |&source| self.contains(source))
    }

    /// How many are in it.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether it is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl From<Source> for Sources {
    fn from(source: Source) -> Self {
        let mut sources = Self::default();
        sources.insert(source);
        sources
    }
}

/// What is known of an address.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) sources: Sources,
    /// The peer or tracker that named it first, where that has an address.
    pub(super) teller: Option<IpAddr>,
    /// How many addresses of its network, or by its teller, were in the book before it.
    pub(super) crowd: u32,
    pub(super) state: State,
    /// Failures in a row.
    pub(super) failures: u32,
    /// Why the last call came to nothing, where it did.
    pub(super) miss: Option<Miss>,
    /// Not to be dialled before, or while gone not to be brought back before.
    pub(super) not_before: Option<Instant>,
    pub(super) useful: bool,
    pub(super) seed: bool,
    /// Whether somebody can be expected to listen there: not where only a connection came from there.
    pub(super) listens: bool,
    /// It hung up on an encrypted handshake and spoke plaintext then.
    pub(super) plaintext_only: bool,
    pub(super) standing: Standing,
    /// Canonical (BEP 40); 0 while our own address is not known.
    pub(super) priority: u32,
    pub(super) turn: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Idle,
    Dialling,
    Connected,
}

/// Addresses of one network or by one teller count as a crowd by so many: the first few of a home or an office do not.
const CROWD: u32 = 8;

impl Entry {
    pub(super) fn new(source: Source, turn: u64) -> Self {
        Self {
            sources: source.into(),
            teller: None,
            crowd: 0,
            state: State::Idle,
            failures: 0,
            miss: None,
            not_before: None,
            useful: false,
            seed: false,
            listens: true,
            plaintext_only: false,
            standing: Standing::Unknown,
            priority: 0,
            turn,
        }
    }

    pub(super) fn is_manual(&self) -> bool {
        self.sources.contains(Source::Manual)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.failures >= MAX_FAILURES && !self.is_manual()
    }

    /// The best of its sources, which it is counted under.
    pub(super) fn home(&self) -> Source {
        self.sources.iter().next().unwrap_or(Source::Incoming)
    }

    /// The order of dialling, lower first: a person's, useful ones that got lost, by reputation, by failures, the local
    /// network; then the sources take turns, as `turns` says; then crowds wait; then the better canonical priority
    /// (BEP 40), and who came first.
    pub(super) fn rank(&self, turns: &Turns) -> impl Ord + use<> {
        let near = self.sources.contains(Source::Local);
        let of_entry = (!self.is_manual(), Reverse(self.useful), self.standing, self.failures, !near);
        (of_entry, turns.of(self.sources).1, self.crowd / CROWD, Reverse(self.priority), self.turn)
    }
}

/// Whose turn it is among sources: each address costs its source a turn, and a source that had nothing to dial for a while
/// has saved nothing up.
#[derive(Debug, Default)]
pub(super) struct Turns {
    next: [u64; SOURCES],
    now: u64,
}

impl Turns {
    /// The source whose turn comes first, and when.
    fn of(&self, sources: Sources) -> (Option<Source>, u64) {
        let first = sources.iter().map(|source| (self.next[source as usize].max(self.now), source)).min();
        first.map_or((None, self.now), |(turn, source)| (Some(source), turn))
    }

    /// An address of these sources has been dialled.
    pub(super) fn take(&mut self, sources: Sources) {
        if let (Some(source), turn) = self.of(sources) {
            self.now = turn;
            self.next[source as usize] = turn + 1;
        }
    }
}
