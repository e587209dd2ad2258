//! The routing table of one address family: whom we know, ever more densely towards our own id (BEP 5).
//!
//! It owns the nodes, what became of asking them and when each wants to be asked again. It refuses to send. Only nodes
//! that answered us get in, since anybody can write any sender's address on a query.
//!
//! ```text
//! bucket 0     ids whose first bit is not ours        8 nodes, 8 replacements
//! bucket 1     first bit ours, second not             8 nodes, 8 replacements
//!   ...
//! last bucket  all that is nearer; split when full
//! ```
//!
//! Against one host that poses as many: one node for each IPv4 address or IPv6 /64 in the whole table, and one for each
//! /24 or /48 in a bucket. Addresses of private networks are spared: nobody reaches those from outside.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::wire::krpc::{Distance, ID_BITS, NodeId, NodeInfo};

use super::is_private;

/// How many nodes a bucket holds, and how many replies name (BEP 5).
pub(super) const K: usize = 8;

/// After so long without a sign of life, a node is asked whether it is there, and a bucket is refreshed (BEP 5).
pub(super) const QUIET: Duration = Duration::from_secs(15 * 60);

/// How long after a failure a node is asked again.
const RETRY: Duration = Duration::from_secs(30);

/// A node that failed so often in a row is bad: nobody hears of it, and a replacement takes its place.
const BAD: u8 = 2;

/// A node that failed so often in a row is forgotten, replacement or not.
const GONE: u8 = 5;

/// A node that is or was good.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) addr: SocketAddr,
    /// Whether the id fits the address (BEP 42).
    fits: bool,
    /// Failures in a row.
    failures: u8,
    rtt: Duration,
    /// When to ask whether it is still there.
    due: Instant,
}

#[derive(Debug, Default)]
struct Bucket {
    nodes: Vec<Node>,
    /// Good nodes for which there was no room; the best last.
    replacements: Vec<Node>,
    /// When a lookup for some id within it is due; `None` at once.
    refresh: Option<Instant>,
}

/// What became of a node that answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Added {
    /// It is in the table, now or already.
    Known,
    /// It waits for room.
    Spare,
    /// It is not wanted.
    Refused,
}

/// The nodes known, by their distance from our own id.
#[derive(Debug)]
pub(super) struct Table {
    own: NodeId,
    buckets: Vec<Bucket>,
}

impl Table {
    pub(super) fn new(own: NodeId) -> Self {
        Self { own, buckets: vec![Bucket::default()] }
    }

    pub(super) fn own(&self) -> NodeId {
        self.own
    }

    /// How many nodes there are, replacements and bad ones aside.
    pub(super) fn len(&self) -> usize {
        self.nodes().count()
    }

    /// The nodes, replacements and bad ones aside, the farthest buckets first.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.buckets.iter().flat_map(|bucket| &bucket.nodes).filter(|node| node.failures < BAD)
    }

    /// Whether there is nobody in it, bad nodes included.
    pub(super) fn is_empty(&self) -> bool {
        self.buckets.iter().all(|bucket| bucket.nodes.is_empty())
    }

    pub(super) fn contains_addr(&self, addr: SocketAddr) -> bool {
        self.buckets.iter().flat_map(|bucket| &bucket.nodes).any(|node| node.addr == addr)
    }

    /// Whether a node that we heard of would find a place if it answered: worth a ping.
    pub(super) fn has_room_for(&self, node: &NodeInfo) -> bool {
        let index = self.index(&node.id);
        let bucket = &self.buckets[index];
        let last = index + 1 == self.buckets.len();
        let room = bucket.nodes.len() < K || last || bucket.replacements.len() < K;
        room && node.id != self.own
            && !bucket.nodes.iter().chain(&bucket.replacements).any(|known| known.id == node.id)
            && !self.crowds(node)
    }

    /// Takes note that a node answered us.
    pub(super) fn answered(&mut self, node: NodeInfo, rtt: Duration, now: Instant) -> Added {
        if node.id == self.own {
            return Added::Refused;
        }
        let index = self.index(&node.id);
        let bucket = &mut self.buckets[index];
        if let Some(known) = bucket.nodes.iter_mut().find(|known| known.id == node.id) {
            if known.addr != node.addr {
                // Ids can be copied. Whoever had it first keeps it as long as it answers.
                if known.failures < BAD {
                    return Added::Refused;
                }
                known.addr = node.addr;
                known.fits = node.id.fits(node.addr.ip());
                known.rtt = rtt;
            }
            known.failures = 0;
            // A mean of the last few.
            known.rtt = (known.rtt * 3 + rtt) / 4;
            known.due = now + QUIET;
            return Added::Known;
        }
        // At one address there is one node: it has changed its id.
        self.buckets.iter_mut().for_each(|bucket| bucket.nodes.retain(|known| known.addr != node.addr));
        if self.crowds(&node) {
            return Added::Refused;
        }
        let fits = node.id.fits(node.addr.ip());
        self.insert(Node { id: node.id, addr: node.addr, fits, failures: 0, rtt, due: now + QUIET })
    }

    /// Takes note that a node asked us something: one that is known and was good is alive (BEP 5).
    pub(super) fn asked(&mut self, node: &NodeInfo, now: Instant) {
        let index = self.index(&node.id);
        let mut nodes = self.buckets[index].nodes.iter_mut();
        let known = nodes.find(|known| known.id == node.id && known.addr == node.addr && known.failures == 0);
        if let Some(known) = known {
            known.due = now + QUIET;
        }
    }

    /// Takes note that a node did not answer; gives it if that was the last time.
    pub(super) fn failed(&mut self, addr: SocketAddr, now: Instant) -> Option<NodeInfo> {
        for bucket in &mut self.buckets {
            bucket.replacements.retain(|spare| spare.addr != addr);
            let Some(at) = bucket.nodes.iter().position(|node| node.addr == addr) else { continue };
            let node = &mut bucket.nodes[at];
            node.failures += 1;
            node.due = now + RETRY * u32::from(node.failures);
            if node.failures >= BAD
                && let Some(spare) = bucket.replacements.pop()
            {
                bucket.nodes[at] = spare;
            } else if node.failures >= GONE {
                let lost = bucket.nodes.swap_remove(at);
                return Some(NodeInfo { id: lost.id, addr: lost.addr });
            }
        }
        None
    }

    /// Puts the nodes closest to `target`, at most `max`, into `out`, the closest first. Bad ones are left out.
    pub(super) fn closest(&self, target: &NodeId, max: usize, out: &mut Vec<NodeInfo>) {
        let mut found: Vec<(Distance, &Node)> = Vec::with_capacity(4 * K);
        // The bucket of the target is nearest to it; those beyond it are as near to it as one another; then each one
        // before it is farther than the next.
        let index = self.index(target);
        let gather = |found: &mut Vec<(Distance, _)>, buckets: std::ops::Range<usize>| {
            let nodes = self.buckets[buckets].iter().flat_map(|bucket| &bucket.nodes);
            found.extend(nodes.filter(|node| node.failures < BAD).map(|node| (target.distance(&node.id), node)));
        };
        gather(&mut found, index..index + 1);
        if found.len() < max {
            gather(&mut found, index + 1..self.buckets.len());
        }
        for before in (0..index).rev() {
            if found.len() >= max {
                break;
            }
            gather(&mut found, before..before + 1);
        }
        found.sort_unstable_by_key(|(distance, _)| *distance);
        out.extend(found.iter().take(max).map(|(_, node)| NodeInfo { id: node.id, addr: node.addr }));
    }

    /// The node that has waited longest to be asked whether it is there, if one has; it counts as asked.
    pub(super) fn next_to_ping(&mut self, now: Instant) -> Option<NodeInfo> {
        let nodes = self.buckets.iter_mut().flat_map(|bucket| &mut bucket.nodes);
        let node = nodes.min_by_key(|node| node.due).filter(|node| node.due <= now)?;
        node.due = now + RETRY;
        Some(NodeInfo { id: node.id, addr: node.addr })
    }

    /// An id within a bucket that has not been looked into for long, if there is one; it counts as looked into.
    pub(super) fn next_to_refresh(&mut self, random: [u8; 20], now: Instant) -> Option<NodeId> {
        let due = |bucket: &Bucket| bucket.refresh.is_none_or(|at| at <= now);
        // The nearest first: they are the ones that others rely on us to know.
        let index = self.buckets.iter().rposition(due)?;
        self.buckets[index].refresh = Some(now + QUIET);
        // Of the last bucket, our own neighbourhood is what matters.
        let last = index + 1 == self.buckets.len();
        Some(if last { self.own } else { self.own.in_bucket(index as u32, random) })
    }

    /// Takes it that every bucket was looked into.
    pub(super) fn set_refreshed(&mut self, now: Instant) {
        self.buckets.iter_mut().for_each(|bucket| bucket.refresh = Some(now + QUIET));
    }

    /// When the next node or bucket is due, at the earliest.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let nodes = self.buckets.iter().flat_map(|bucket| &bucket.nodes).map(|node| node.due);
        nodes.chain(self.buckets.iter().map(|bucket| bucket.refresh.unwrap_or(now))).min()
    }

    /// Moves to another own id; the nodes find their places anew.
    pub(super) fn set_own(&mut self, own: NodeId) {
        let old = std::mem::replace(self, Self::new(own));
        let (nodes, spares): (Vec<_>, Vec<_>) =
            old.buckets.into_iter().map(|bucket| (bucket.nodes, bucket.replacements)).unzip();
        for node in nodes.into_iter().chain(spares).flatten() {
            let info = NodeInfo { id: node.id, addr: node.addr };
            if node.id != own && !self.crowds(&info) {
                self.insert(node);
            }
        }
    }

    fn index(&self, id: &NodeId) -> usize {
        (self.own.common_prefix(id) as usize).min(self.buckets.len() - 1)
    }

    fn insert(&mut self, node: Node) -> Added {
        loop {
            let index = self.index(&node.id);
            let splits = index + 1 == self.buckets.len() && index + 1 < ID_BITS as usize;
            let bucket = &mut self.buckets[index];
            bucket.replacements.retain(|spare| spare.id != node.id && spare.addr != node.addr);
            if bucket.nodes.len() < K {
                bucket.nodes.push(node);
                return Added::Known;
            }
            if splits {
                self.split();
                continue;
            }
            // Bad ones go first, then those whose ids do not fit their addresses (BEP 42), if the new one's does.
            let worst = bucket.nodes.iter_mut().max_by_key(|node| (node.failures, !node.fits, node.rtt));
            if let Some(worst) = worst
                && (worst.failures >= BAD || (node.fits && !worst.fits))
            {
                let worst = std::mem::replace(worst, node);
                if worst.failures == 0 {
                    bucket.keep_spare(worst);
                }
                return Added::Known;
            }
            bucket.keep_spare(node);
            return Added::Spare;
        }
    }

    /// Splits the last bucket into what shares its prefix only and what is nearer to us.
    fn split(&mut self) {
        let bits = self.buckets.len() as u32;
        let Some(last) = self.buckets.last_mut() else { return };
        let nearer = |node: &Node| self.own.common_prefix(&node.id) >= bits;
        let (near, far) = std::mem::take(&mut last.nodes).into_iter().partition(nearer);
        let (near_spares, far_spares) = std::mem::take(&mut last.replacements).into_iter().partition(nearer);
        last.nodes = far;
        last.replacements = far_spares;
        let refresh = last.refresh;
        self.buckets.push(Bucket { nodes: near, replacements: near_spares, refresh });
    }

    /// Whether another node sits too close by, in addresses. One with this very id is not another.
    fn crowds(&self, node: &NodeInfo) -> bool {
        let ip = node.addr.ip();
        if is_private(ip) {
            return false;
        }
        let others = |bucket: &'_ Bucket, bits: u32| {
            let near = |known: &Node| known.id != node.id && shared_bits(ip, known.addr.ip()) >= bits;
            bucket.nodes.iter().any(near)
        };
        let (host, net) = if ip.is_ipv4() { (32, 24) } else { (64, 48) };
        let own_bucket = self.index(&node.id);
        others(&self.buckets[own_bucket], net) || self.buckets.iter().any(|bucket| others(bucket, host))
    }
}

impl Bucket {
    fn keep_spare(&mut self, spare: Node) {
        if self.replacements.len() >= K {
            // The first that does not fit its address, or the oldest.
            let at = self.replacements.iter().position(|spare| !spare.fits).unwrap_or(0);
            self.replacements.remove(at);
        }
        self.replacements.push(spare);
    }
}

/// How many bits two addresses begin with alike; none where they are of different families.
pub(super) fn shared_bits(a: IpAddr, b: IpAddr) -> u32 {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::time::{Duration, Instant};

    use super::{Added, K, QUIET, Table};
    use crate::wire::krpc::{NodeId, NodeInfo};

    const OWN: NodeId = NodeId::new([0; 20]);
    const RTT: Duration = Duration::from_millis(50);

    /// A node in a /24 of its own whose id shares so many bits with ours, and does not fit its address.
    fn node(bits: u32, n: u32) -> NodeInfo {
        let mut random = [0; 20];
        random[16..].copy_from_slice(&n.to_be_bytes());
        NodeInfo { id: OWN.in_bucket(bits, random), addr: (Ipv4Addr::from_bits(0x0b00_0000 + (n << 8)), 6881).into() }
    }

    fn closest(table: &Table, target: &NodeId, max: usize) -> Vec<NodeInfo> {
        let mut out = Vec::new();
        table.closest(target, max, &mut out);
        out
    }

    #[test]
    fn what_is_closest_is_what_a_search_through_all_finds() {
        let now = Instant::now();
        let mut rng = fastrand::Rng::with_seed(1);
        let mut table = Table::new(OWN);
        (0..2_000).for_each(|n| {
            table.answered(node(rng.u32(0..20), n), RTT, now);
        });
        let all: Vec<_> = table.nodes().map(|node| NodeInfo { id: node.id, addr: node.addr }).collect();
        assert!(all.len() > 100, "{} nodes", all.len());
        for _ in 0..200 {
            let target = OWN.in_bucket(rng.u32(0..30), std::array::from_fn(|_| rng.u8(..)));
            let mut sorted = all.clone();
            sorted.sort_by_key(|node| node.id.distance(&target));
            assert_eq!(closest(&table, &target, K), sorted[..K]);
        }
    }

    #[test]
    fn a_full_bucket_keeps_who_is_there_until_one_goes_bad() {
        let now = Instant::now();
        let mut table = Table::new(OWN);
        (0..8).for_each(|n| assert_eq!(table.answered(node(0, n), RTT, now), Added::Known));
        // The last bucket splits, and those of the first are full.
        assert_eq!(table.answered(node(3, 20), RTT, now), Added::Known);
        assert_eq!(table.answered(node(0, 9), RTT, now), Added::Spare);
        assert!(table.has_room_for(&node(0, 10)) && !table.has_room_for(&node(0, 9)));
        let bad = node(0, 3);
        assert_eq!(table.failed(bad.addr, now), None);
        assert!(closest(&table, &bad.id, K).contains(&bad), "once is an accident");
        table.failed(bad.addr, now);
        let left = closest(&table, &bad.id, K);
        assert!(!left.contains(&bad) && left.contains(&node(0, 9)));
        // Where nobody waits for the place, a bad node is not named but asked for a while.
        let lonely = node(3, 20);
        (0..4).for_each(|_| assert_eq!(table.failed(lonely.addr, now), None));
        assert!(!closest(&table, &lonely.id, 20).contains(&lonely) && table.contains_addr(lonely.addr));
        assert_eq!(table.failed(lonely.addr, now), Some(lonely));
    }

    #[test]
    fn one_host_cannot_pose_as_many() {
        let now = Instant::now();
        let mut table = Table::new(OWN);
        let at = |bits, n, addr: &str| NodeInfo { addr: addr.parse().unwrap(), ..node(bits, n) };
        assert_eq!(table.answered(at(0, 1, "11.0.0.1:1"), RTT, now), Added::Known);
        (10..18).for_each(|n| assert_eq!(table.answered(node(5, n), RTT, now), Added::Known));
        for (other, why) in [
            (at(5, 2, "11.0.0.1:2"), "another port"),
            (at(0, 3, "11.0.0.77:1"), "the same /24 in the same bucket"),
            (NodeInfo { id: OWN, ..node(0, 4) }, "our own id"),
        ] {
            assert_eq!(table.answered(other, RTT, now), Added::Refused, "{why}");
            assert!(!table.has_room_for(&other), "{why}");
        }
        // Nobody takes over the id of one that answers.
        assert_eq!(table.answered(at(0, 1, "12.0.0.1:1"), RTT, now), Added::Refused);
        assert_eq!(table.answered(at(3, 5, "11.0.0.77:1"), RTT, now), Added::Known, "in another bucket");
        (20..24).for_each(|n| {
            let addr = SocketAddr::from(([192, 168, 0, 1], n as u16));
            assert_eq!(table.answered(NodeInfo { addr, ..node(0, n) }, RTT, now), Added::Known, "a private network");
        });
    }

    #[test]
    fn ids_that_fit_their_addresses_displace_those_that_do_not() {
        let now = Instant::now();
        let mut table = Table::new(OWN);
        (0..8).for_each(|n| assert_eq!(table.answered(node(0, n), RTT, now), Added::Known));
        table.answered(node(1, 20), RTT, now);
        let addr: SocketAddr = "45.6.7.8:1".parse().unwrap();
        let mut rng = fastrand::Rng::with_seed(1);
        let ids = std::iter::repeat_with(|| NodeId::for_address(addr.ip(), std::array::from_fn(|_| rng.u8(..))));
        let fitting = NodeInfo { id: ids.take(100).find(|id| OWN.common_prefix(id) == 0).unwrap(), addr };
        assert_eq!(table.answered(fitting, RTT, now), Added::Known);
        assert!(closest(&table, &fitting.id, 20).contains(&fitting));
        assert_eq!(table.len(), 9);
    }

    #[test]
    fn quiet_nodes_are_asked_and_quiet_buckets_refreshed_in_turn() {
        let now = Instant::now();
        let mut table = Table::new(OWN);
        (0..9).for_each(|n| {
            table.answered(node(n % 2, n), RTT, now);
        });
        while table.next_to_refresh([1; 20], now).is_some() {}
        assert_eq!((table.next_to_ping(now), table.next_due(now)), (None, Some(now + QUIET)));
        let later = now + QUIET;
        table.answered(node(0, 0), RTT, later);
        let mut asked: Vec<_> = std::iter::from_fn(|| table.next_to_ping(later)).collect();
        asked.sort_by_key(|node| node.addr);
        assert_eq!(asked, (1..9).map(|n| node(n % 2, n)).collect::<Vec<_>>());
        assert_eq!(table.next_to_refresh([1; 20], later), Some(OWN), "our own neighbourhood comes first");
        assert_eq!(table.next_to_refresh([1; 20], later).map(|id| OWN.common_prefix(&id)), Some(0));
        assert_eq!(table.next_to_refresh([1; 20], later), None);
    }

    #[test]
    fn the_nodes_stay_when_our_id_changes() {
        let now = Instant::now();
        let mut table = Table::new(OWN);
        (0..9).for_each(|n| {
            table.answered(node(n, n), RTT, now);
        });
        let own = NodeId::new([0xff; 20]);
        table.set_own(own);
        assert_eq!(table.own(), own);
        assert_eq!(table.len(), 9);
        assert_eq!(closest(&table, &node(0, 0).id, 1), [node(0, 0)]);
    }
}
