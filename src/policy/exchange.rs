//! What peers tell each other of peers (BEP 11): whom to name to whom, how often to listen, whom to believe how much.
//!
//! It owns the limits of both directions. It refuses to know connections and messages: addresses come in, addresses come
//! out. What a peer names is hearsay. It waits in a bounded queue of that peer's until somebody is needed to be dialled,
//! and then each peer's queue gives one in turn: whoever names most does not get more of us than others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::Bound;
use std::time::{Duration, Instant};

/// How often a peer is told of others (BEP 11: at most once a minute).
const PERIOD: Duration = Duration::from_secs(60);

/// The most that one message names: of the first, and of each later one, where whoever left counts apart (BEP 11).
const FIRST: usize = 100;
const LATER: usize = 50;

/// The most that one peer knows of us at a time. It bounds the memory for what was told to whom.
const MOST_TOLD: usize = 200;

/// How many messages a peer may send in [`PERIOD`]: some clients tell a little earlier than they should.
const HEARD: usize = 3;

/// How many messages beyond that, in a row, are borne before the peer is cut off.
const MOST_IGNORED: u32 = 20;

/// The most that are taken of one message: as much as anybody should send.
const TAKEN: usize = 100;

/// The most that wait of what one peer named.
const MOST_WAITING: usize = 200;

/// What one peer has been told of our other peers.
#[derive(Debug)]
pub struct Told {
    named: BTreeSet<SocketAddr>,
    receiver: IpAddr,
    /// Where to go on in the order of addresses, so that not everybody is told of the same few.
    cursor: SocketAddr,
    last: Option<Instant>,
}

/// Who is told.
#[derive(Clone, Copy, Debug)]
pub struct Receiver<'a> {
    /// The addresses that are its own: it is not told of them.
    pub own: &'a [SocketAddr],
    /// Whether it has everything or wants no more: it has no use for those like it.
    pub seed: bool,
}

/// What to tell a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct News {
    /// We are connected to these, of which it has not been told.
    pub added: Vec<SocketAddr>,
    /// We are not connected any more to these, of which it was told.
    pub dropped: Vec<SocketAddr>,
}

impl Told {
    /// Nothing yet, to the peer at this address.
    pub fn new(receiver: SocketAddr) -> Self {
        Self { named: BTreeSet::new(), receiver: receiver.ip(), cursor: receiver, last: None }
    }

    /// Whether it may be told something now.
    pub fn is_due(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now.saturating_duration_since(last) >= PERIOD)
    }

    /// Whether it has been told anything.
    pub fn has_begun(&self) -> bool {
        self.last.is_some()
    }

    /// What to tell it now: what changed since the last time, at most 100 peers at first and 50 later, and at most 50 that
    /// left. `None` where it is too early or nothing changed. `connected` are the peers that may be named, each with whether
    /// it is a seed; those whom the peer cannot reach from where it is ([`may_name`]) are left out.
    pub fn news(
        &mut self,
        receiver: Receiver<'_>,
        connected: &BTreeMap<SocketAddr, bool>,
        now: Instant,
    ) -> Option<News> {
        if !self.is_due(now) {
            return None;
        }
        let dropped: Vec<SocketAddr> =
            self.named.iter().filter(|addr| !connected.contains_key(addr)).take(LATER).copied().collect();
        self.named.retain(|addr| !dropped.contains(addr));
        let most = if self.last.is_none() { FIRST } else { LATER };
        let room = MOST_TOLD.saturating_sub(self.named.len()).min(most);
        let behind = connected.range((Bound::Excluded(self.cursor), Bound::Unbounded));
        let added: Vec<SocketAddr> = behind
            .chain(connected.range(..=self.cursor))
            .filter(|(_, seed)| !receiver.seed || !**seed)
            .map(|(addr, _)| *addr)
            .filter(|addr| may_name(self.receiver, *addr) && !receiver.own.contains(addr) && !self.named.contains(addr))
            .take(room)
            .collect();
        if added.is_empty() && dropped.is_empty() {
            return None;
        }
        self.named.extend(&added);
        self.cursor = added.last().copied().unwrap_or(self.cursor);
        self.last = Some(now);
        Some(News { added, dropped })
    }
}

/// How often a peer tells us of others.
#[derive(Default, Debug)]
pub struct Frequency {
    /// The last messages that were listened to, the oldest first.
    recent: VecDeque<Instant>,
    /// How many were not, in a row.
    ignored: u32,
}

/// What to do about a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Take it in.
    Take,
    /// It comes too soon: leave it.
    Ignore,
    /// The peer floods: end the connection.
    Cut,
}

impl Frequency {
    /// A message has come.
    pub fn heard(&mut self, now: Instant) -> Verdict {
        let full = self.recent.len() == HEARD;
        if full && self.recent.front().is_some_and(|first| now.saturating_duration_since(*first) < PERIOD) {
            self.ignored += 1;
            return if self.ignored > MOST_IGNORED { Verdict::Cut } else { Verdict::Ignore };
        }
        if full {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        self.ignored = 0;
        Verdict::Take
    }
}

/// The addresses that peers named and that nobody has been dialled at for it.
#[derive(Default, Debug)]
pub struct Hearsay {
    /// By peer, in the order in which it named them; none is empty.
    by_peer: BTreeMap<u32, VecDeque<Named>>,
    /// Whose turn was last.
    turn: u32,
}

#[derive(Clone, Copy, Debug)]
struct Named {
    addr: SocketAddr,
    seed: bool,
}

impl Hearsay {
    /// A peer, by number and address, names others, each with whether it says that it is a seed. At most 100 are taken in,
    /// and 200 wait of one peer. Left out are addresses that it cannot know to be of use ([`may_name`]), those that wait
    /// already, and further ports of an address, this machine's own (loopback) aside: BEP 11 warns of them.
    pub fn named(&mut self, by: u32, sender: IpAddr, others: impl IntoIterator<Item = (SocketAddr, bool)>) {
        let mut waiting = self.by_peer.remove(&by).unwrap_or_default();
        for (addr, seed) in others.into_iter().take(TAKEN) {
            if waiting.len() >= MOST_WAITING {
                break;
            }
            let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
            let same = |named: &Named| named.addr == addr || (named.addr.ip() == addr.ip() && !addr.ip().is_loopback());
            if may_name(sender, addr) && !waiting.iter().any(same) {
                waiting.push_back(Named { addr, seed });
            }
        }
        if !waiting.is_empty() {
            self.by_peer.insert(by, waiting);
        }
    }

    /// A peer says that these are not its peers any more.
    pub fn dropped(&mut self, by: u32, others: &[SocketAddr]) {
        if let Some(waiting) = self.by_peer.get_mut(&by) {
            waiting.retain(|named| !others.contains(&named.addr));
            if waiting.is_empty() {
                self.by_peer.remove(&by);
            }
        }
    }

    /// A peer is gone, and with it what it named.
    pub fn forget(&mut self, by: u32) {
        self.by_peer.remove(&by);
    }

    /// Forgets all that was named.
    pub fn clear(&mut self) {
        self.by_peer.clear();
    }

    /// Takes out up to `most` addresses to dial, one of each peer in turn, each with the number of the peer that named it.
    /// While we are `seeding`, those that are said to be seeds stay where they are.
    pub fn take(&mut self, most: usize, seeding: bool) -> Vec<(u32, SocketAddr)> {
        let mut taken = Vec::new();
        // A round through all peers that brings nothing ends it.
        let mut fruitless = 0;
        while taken.len() < most && fruitless < self.by_peer.len() {
            let behind = self.by_peer.range((Bound::Excluded(self.turn), Bound::Unbounded)).next();
            let Some((&by, _)) = behind.or_else(|| self.by_peer.first_key_value()) else { break };
            self.turn = by;
            let Some(waiting) = self.by_peer.get_mut(&by) else { break };
            let next = waiting.iter().position(|named| !(seeding && named.seed)).and_then(|at| waiting.remove(at));
            if waiting.is_empty() {
                self.by_peer.remove(&by);
            }
            fruitless = if next.is_some() { 0 } else { fruitless + 1 };
            taken.extend(next.map(|named| (by, named.addr)));
        }
        taken
    }

    /// How many addresses wait.
    pub fn len(&self) -> usize {
        self.by_peer.values().map(VecDeque::len).sum()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.by_peer.is_empty()
    }
}

/// Whether it makes sense that a peer names somebody at an address to us, or we to it: not where nobody can be dialled; and
/// an address of a private network or of this machine only where the peer itself is at such a one.
pub fn may_name(peer: IpAddr, named: SocketAddr) -> bool {
    named.port() != 0 && reach(named.ip()).is_some_and(|reach_of| Some(reach_of) >= reach(peer))
}

/// From how far an address can be reached, the nearest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Reach {
    Machine,
    Network,
    World,
}

/// `None` where nobody is reached. Of the reserved networks those count that others have been seen to be led to (RFC 6890).
fn reach(ip: IpAddr) -> Option<Reach> {
    let nobody = match ip.to_canonical() {
        ip if ip.is_unspecified() || ip.is_multicast() => true,
        IpAddr::V4(ip) => {
            // 0.0.0.0/8, 240.0.0.0/4 with broadcast, and the networks of documents.
            matches!(ip.octets()[0], 0 | 240..) || ip.is_documentation()
        }
        // A link-local address means nothing without the link, which is not named; 2001:db8::/32 is that of documents.
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.segments()[..2] == [0x2001, 0xdb8] || is_site_local(ip),
    };
    let near = match ip.to_canonical() {
        ip if ip.is_loopback() => Some(Reach::Machine),
        IpAddr::V4(ip) if ip.is_private() || ip.is_link_local() => Some(Reach::Network),
        // Shared address space behind a provider's translation (RFC 6598).
        IpAddr::V4(ip) if ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64 => Some(Reach::Network),
        IpAddr::V6(ip) if ip.is_unique_local() => Some(Reach::Network),
        _ => None,
    };
    (!nobody).then(|| near.unwrap_or(Reach::World))
}

/// fec0::/10, which nobody uses any more (RFC 3879).
fn is_site_local(ip: Ipv6Addr) -> bool {
    ip.segments()[0] & 0xffc0 == 0xfec0
}

#[cfg(test)]
mod tests;
