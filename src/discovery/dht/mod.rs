//! A node of the DHT as a machine without I/O: finds peers without a tracker, and helps others to (BEP 5).
//!
//! [`Dht`] owns what a node knows and is busy with, for both address families. It refuses sockets, threads, clocks and
//! randomness: datagrams and the time come in by `handle_*`, datagrams to send and [events](DhtEvent) are taken out by
//! `poll_*`, and everything random follows from one seed. Embed it under a socket of your own, or under thousands of
//! simulated ones, as its tests do.
//!
//! ```
//! use std::time::Instant;
//! use ropewalk::dht::{Dht, DhtEvent, DhtSettings, SavedDht};
//!
//! let now = Instant::now();
//! let (alice, bob) = ("192.168.1.2:6881".parse()?, "192.168.1.3:6881".parse()?);
//! let mut a = Dht::new(DhtSettings::default(), SavedDht::default(), 1, now);
//! let mut b = Dht::new(DhtSettings::default(), SavedDht::default(), 2, now);
//! let ping = a.ping(bob, now);
//! // The network: what one sends, the other gets.
//! while let Some((to, bytes)) = a.poll_transmit() {
//!     assert_eq!(to, bob);
//!     b.handle_datagram(alice, &bytes, now);
//! }
//! while let Some((_, bytes)) = b.poll_transmit() {
//!     a.handle_datagram(bob, &bytes, now);
//! }
//! assert!(matches!(a.poll_event(), Some(DhtEvent::Pong { lookup, .. }) if lookup == ping));
//! # Ok::<(), std::net::AddrParseError>(())
//! ```
//!
//! - `table`: who is known, in buckets (BEP 5), per family (BEP 32);
//! - `lookup`: one iterative lookup; `search`: what a command makes of it, over both families;
//! - `ours`: our queries that wait for an answer;
//! - `answer`: answers to others (BEP 5, 33, 43, 44, 51); `tokens`, `store`: who may store, and what;
//! - `side`: one family: keeping the table fresh, finding into the network; `votes`: our own address (BEP 42).

mod answer;
mod event;
mod lookup;
mod ours;
mod search;
mod side;
#[cfg(test)]
mod sim;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod tokens;
mod votes;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::hash::sha1;
use crate::metainfo::InfoHash;
use crate::policy::SourceLimits;
use crate::wire::item::Item;
use crate::wire::krpc::{Body, Message, Method, NodeId, NodeInfo, RemoteError, Reply, Scrape, Want};
use crate::wire::tracker::Family;

pub use event::{AnnouncePort, DhtEvent, DhtSettings, DhtStats, LookupId, SampleFrom, SavedDht, Summary};
pub use store::StoreLimits;

use ours::{Overdue, Pending, Use};
use search::{Purpose, Search};
use side::Side;
use store::ItemStore;
use tokens::Tokens;

/// `v`: this client.
const VERSION: [u8; 4] = *b"RW01";

/// Sets of places for sources that are limited: 256 KiB.
const SOURCES: usize = 4096;

/// How many datagrams may wait to be taken out; answers beyond them are dropped.
const MAX_QUEUED: usize = 4096;

/// How often the stores are looked through for what has expired.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);

/// How many nodes are remembered as not to be asked for samples yet (BEP 51).
const MAX_SAMPLED: usize = 2000;

/// A node of the DHT.
///
/// After every call that takes `now`, take out datagrams and events until there are none, and call
/// [`handle_timeout`](Self::handle_timeout) when [`poll_timeout`](Self::poll_timeout) says.
///
/// IPv4-mapped IPv6 addresses count as IPv4, and are given out as that.
#[derive(Debug)]
pub struct Dht {
    settings: DhtSettings,
    /// IPv4 and IPv6.
    sides: [Option<Side>; 2],
    items: ItemStore,
    tokens: Tokens,
    limits: SourceLimits,
    searches: BTreeMap<LookupId, Search>,
    next_lookup: u64,
    /// Lookups had to wait for others.
    crowded: bool,
    /// When which nodes may be asked for samples again.
    sampled: HashMap<SocketAddr, Instant>,
    expire_at: Instant,
    answered: u64,
    dropped: u64,
    rng: fastrand::Rng,
    transmits: VecDeque<(SocketAddr, Vec<u8>)>,
    events: VecDeque<DhtEvent>,
}

impl Dht {
    /// A node that begins to find its way into the network at once. `seed` must not be guessable: tokens follow from it.
    pub fn new(settings: DhtSettings, saved: SavedDht, seed: u64, now: Instant) -> Self {
        let derived = |label: &str| sha1([label.as_bytes(), &seed.to_be_bytes()]);
        let number = |label| u64::from_be_bytes(std::array::from_fn(|at| derived(label)[at]));
        let side = |family, id: Option<NodeId>, label| {
            let id = id.unwrap_or(NodeId::new(derived(label)));
            settings.families.contains(&family).then(|| Side::new(family, id, &settings, &saved, now))
        };
        Self {
            sides: [side(Family::V4, saved.id_v4, "id4"), side(Family::V6, saved.id_v6, "id6")],
            items: ItemStore::new(&settings.store),
            tokens: Tokens::new(derived("tokens"), now),
            limits: SourceLimits::new(settings.bytes_per_source, SOURCES, [number("limits"), number("places")], now),
            searches: BTreeMap::new(),
            next_lookup: 0,
            crowded: false,
            sampled: HashMap::new(),
            expire_at: now + EXPIRE_EVERY,
            answered: 0,
            dropped: 0,
            rng: fastrand::Rng::with_seed(number("rng")),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            settings,
        }
    }

    /// What came from `from`. Whatever it is, it is no error.
    pub fn handle_datagram(&mut self, from: SocketAddr, bytes: &[u8], now: Instant) {
        let from = canonical(from);
        if self.sides[index(from)].is_none() || !lookup::is_sound(from) {
            return;
        }
        match Message::decode(bytes) {
            Ok(Message { transaction, body: Body::Query(query), read_only, .. }) => {
                self.handle_query(from, transaction, query, read_only, now);
            }
            Ok(Message { transaction, body: Body::Reply(reply), ip, .. }) => {
                self.handle_reply(from, &transaction, reply, ip, now);
            }
            Ok(Message { transaction, body: Body::Error(error), .. }) => {
                self.handle_error(from, &transaction, error, now);
            }
            Err(error) => {
                if let Some(answer) = error.answer() {
                    self.send_answer(from, answer, now);
                }
            }
        }
        self.run_crowded(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        for at in 0..self.sides.len() {
            while let Some(overdue) = self.sides[at].as_mut().and_then(|side| side.ours.overdue(now)) {
                match overdue {
                    Overdue::Slow(pending) => {
                        if let Use::Step(lookup) = pending.used {
                            self.with_search(lookup, now, |search, _| search.slow(pending.addr));
                        }
                    }
                    Overdue::Lost(pending) => {
                        if let Some(side) = &mut self.sides[at] {
                            side.failed(pending.addr, now);
                        }
                        self.fail(&pending, None, now);
                    }
                }
            }
            self.maintain(at, now);
        }
        if self.expire_at <= now {
            self.expire_at = now + EXPIRE_EVERY;
            self.sides.iter_mut().flatten().for_each(|side| side.peers.expire(now));
            self.items.expire(now);
            self.sampled.retain(|_, until| *until > now);
        }
        self.run_crowded(now);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Instant> {
        let sides = self.sides.iter().flatten().map(Side::next_due);
        sides.chain([self.expire_at]).min()
    }

    /// The next datagram to send, and where to.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<DhtEvent> {
        self.events.pop_front()
    }

    /// Looks for peers of a torrent, and announces us to the nodes closest to it.
    ///
    /// To stay known, announce again every 15 minutes or so, and after [`DhtEvent::Bootstrapped`].
    pub fn get_peers(&mut self, info_hash: InfoHash, announce: Option<AnnouncePort>, now: Instant) -> LookupId {
        // Others may have told us: in a small network we are among the closest nodes.
        let random = self.rng.usize(..);
        let sides = self.sides.iter().flatten();
        let peers: Vec<_> = sides.flat_map(|side| side.peers.peers(&info_hash, false, 500, random)).collect();
        let lookup = self.begin(Purpose::peers(info_hash, announce), info_hash.into(), now);
        self.with_search(lookup, now, |search, events| search.peers(lookup, peers, events));
        lookup
    }

    /// Looks how many seeds and peers were announced (BEP 33).
    pub fn scrape(&mut self, info_hash: InfoHash, now: Instant) -> LookupId {
        let mut own = Scrape::default();
        for filters in self.sides.iter_mut().flatten().filter_map(|side| side.peers.filters(&info_hash)) {
            own.seeds.union(&filters.seeds);
            own.peers.union(&filters.peers);
        }
        self.begin(Purpose::Scrape { info_hash, sum: Box::new(own) }, info_hash.into(), now)
    }

    /// Looks for an item (BEP 44): an immutable one by the hash of its value, or the latest version of a mutable one by
    /// the hash of key and salt; of the latter the salt must be said, too.
    pub fn get_item(&mut self, target: NodeId, salt: &[u8], now: Instant) -> LookupId {
        let own = self.items.get(&target).cloned();
        let lookup = self.begin(Purpose::GetItem { salt: salt.to_vec(), best: None }, target, now);
        if let Some(item) = own {
            self.with_search(lookup, now, |search, events| search.item(lookup, item.as_unverified().clone(), events));
        }
        lookup
    }

    /// Stores an item with the nodes closest to it (BEP 44), for two hours; `cas` makes them refuse it where they have
    /// another version than this one.
    pub fn put_item(&mut self, item: Item, cas: Option<i64>, now: Instant) -> LookupId {
        let target = item.target();
        self.begin(Purpose::PutItem { item: Box::new(item), cas }, target, now)
    }

    /// Asks for samples of info-hashes that others know (BEP 51). A node that was asked before is not asked before its
    /// interval is over.
    pub fn sample(&mut self, from: SampleFrom, now: Instant) -> LookupId {
        match from {
            SampleFrom::Toward(target) => self.begin(Purpose::Sample, target, now),
            SampleFrom::Node(addr) => {
                let target = NodeId::new(std::array::from_fn(|_| self.rng.u8(..)));
                let waits = self.sampled.get(&canonical(addr)).is_some_and(|until| *until > now);
                let method = Method::SampleInfohashes { target, want: self.want() };
                self.begin_single(addr, (!waits).then_some(method), Use::Sample, now)
            }
        }
    }

    /// Looks which nodes are closest to an id: [`Summary::closest`].
    pub fn find_node(&mut self, target: NodeId, now: Instant) -> LookupId {
        self.begin(Purpose::Nodes, target, now)
    }

    /// Asks a node whether it is there.
    pub fn ping(&mut self, addr: SocketAddr, now: Instant) -> LookupId {
        self.begin_single(addr, Some(Method::Ping), Use::Ping, now)
    }

    /// Takes the address of what may be a node, from a peer (BEP 5 `port`), a magnet or a person.
    pub fn add_node(&mut self, addr: SocketAddr, now: Instant) {
        let addr = canonical(addr);
        let Some(side) = &mut self.sides[index(addr)] else { return };
        if !lookup::is_sound(addr) || !side.wants_address(addr, now) {
            return;
        }
        match side.bootstrap {
            Some(lookup) => self.with_search(lookup, now, |search, _| search.add_seed(addr)),
            None if side.is_joined() => self.ask(addr, Method::Ping, Use::Check, now),
            None => self.maintain(index(addr), now),
        }
    }

    /// Ends what a command began; no event comes of it any more.
    pub fn stop_lookup(&mut self, lookup: LookupId) {
        self.searches.remove(&lookup);
        self.sides.iter_mut().flatten().for_each(|side| side.ours.forget(lookup));
        self.events.retain(|event| event.lookup() != Some(lookup));
    }

    /// What the node knows and does.
    pub fn stats(&self) -> DhtStats {
        let [v4, v6] = &self.sides;
        let nodes = |side: &Option<Side>| side.as_ref().map_or(0, |side| side.table.len());
        let external = |side: &Option<Side>| side.as_ref().and_then(|side| side.votes.elected());
        let sum = |count: fn(&Side) -> usize| self.sides.iter().flatten().map(count).sum();
        DhtStats {
            nodes_v4: nodes(v4),
            nodes_v6: nodes(v6),
            external_v4: external(v4),
            external_v6: external(v6),
            lookups: self.searches.len(),
            in_flight: sum(|side| side.ours.len()),
            answered: self.answered,
            dropped: self.dropped,
            info_hashes: sum(|side| side.peers.info_hashes()),
            peers: sum(|side| side.peers.len()),
            items: self.items.len(),
        }
    }

    /// What to keep for the next run.
    pub fn save(&self) -> SavedDht {
        let id = |side: &Option<Side>| side.as_ref().map(|side| side.table.own());
        SavedDht {
            id_v4: id(&self.sides[0]),
            id_v6: id(&self.sides[1]),
            nodes: self.sides.iter().flatten().flat_map(Side::known).collect(),
        }
    }

    /// Takes nodes as if they had answered, without asking them: for networks that are simulated.
    #[doc(hidden)]
    pub fn plant(&mut self, nodes: impl IntoIterator<Item = NodeInfo>, now: Instant) {
        for node in nodes {
            if let Some(side) = &mut self.sides[index(node.addr)] {
                side.plant(node, now);
            }
        }
    }

    fn handle_reply(
        &mut self,
        from: SocketAddr,
        transaction: &[u8],
        reply: Reply,
        ip: Option<SocketAddr>,
        now: Instant,
    ) {
        let Some(side) = &mut self.sides[index(from)] else { return };
        let Some(pending) = side.ours.answered(from, transaction, now) else { return };
        let rtt = now.saturating_duration_since(pending.sent);
        let node = NodeInfo { id: reply.id, addr: from };
        side.answered(node, rtt, now);
        if let Some(ip) = ip
            && let Some(ip) = side.votes.vote(from.ip(), ip.ip())
        {
            if !side.table.own().fits(ip) {
                // BEP 42: others believe in ids that follow from the address.
                side.table.set_own(NodeId::for_address(ip, std::array::from_fn(|_| self.rng.u8(..))));
            }
            self.events.push_back(DhtEvent::ExternalAddress { ip });
        }
        if let Some(samples) = &reply.samples
            && (self.sampled.len() < MAX_SAMPLED || self.sampled.contains_key(&from))
        {
            self.sampled.insert(from, now + samples.interval);
        }
        if let Some(lookup) = pending.used.lookup() {
            self.with_search(lookup, now, |search, events| {
                search.answered(lookup, pending.used, node, rtt, reply, events)
            });
        }
    }

    fn handle_error(&mut self, from: SocketAddr, transaction: &[u8], error: RemoteError, now: Instant) {
        let side = self.sides[index(from)].as_mut();
        if let Some(pending) = side.and_then(|side| side.ours.answered(from, transaction, now)) {
            self.fail(&pending, Some(error), now);
        }
    }

    /// Tells a lookup that there will be no answer, or none that helps.
    fn fail(&mut self, pending: &Pending, error: Option<RemoteError>, now: Instant) {
        if let Some(lookup) = pending.used.lookup() {
            self.with_search(lookup, now, |search, _| search.failed(pending.used, pending.addr, error));
        }
    }

    /// Sends a query.
    fn ask(&mut self, addr: SocketAddr, method: Method, used: Use, now: Instant) {
        let Some(side) = &mut self.sides[index(addr)] else { return };
        let transaction = side.ours.sent(addr, used, &mut self.rng, now);
        let mut message = Message::query(transaction.to_be_bytes(), side.table.own(), method);
        message.read_only = self.settings.read_only;
        message.version = Some(VERSION);
        self.transmits.push_back((addr, message.encode()));
    }

    /// Of which families nodes are asked for: where there are both, each helps the other (BEP 32).
    fn want(&self) -> Want {
        if self.sides.iter().all(Option::is_some) { Want::BOTH } else { Want::default() }
    }
}

impl DhtEvent {
    /// The command that it comes of.
    pub fn lookup(&self) -> Option<LookupId> {
        match self {
            Self::Peers { lookup, .. }
            | Self::Item { lookup, .. }
            | Self::Scraped { lookup, .. }
            | Self::Samples { lookup, .. }
            | Self::Pong { lookup, .. }
            | Self::Done { lookup, .. } => Some(*lookup),
            Self::Bootstrapped { .. } | Self::Alone { .. } | Self::ExternalAddress { .. } => None,
        }
    }
}

/// Which of the sides an address belongs to.
fn index(addr: SocketAddr) -> usize {
    match Family::from(addr.ip()) {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Whether an address is within somebody's own network, which BEP 42 spares: nobody can be there from outside.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unique_local(),
    }
}
