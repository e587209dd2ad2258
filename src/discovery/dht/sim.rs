//! A network of nodes in memory, on a clock of its own: latency, loss, nodes that are silent, nodes that lie.
//!
//! The tests of this module and `benches/dht` both include this file; it names only what both have above it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::{
    Body, Dht, DhtEvent, DhtSettings, Family, InfoHash, LookupId, Message, Method, NodeId, NodeInfo, Reply, SavedDht,
};

/// How many nodes know each bucket's range at most: as in a table of theirs.
const K: usize = 8;

/// How a network is made.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// How many nodes.
    pub(crate) nodes: usize,
    /// Which part of them never answers.
    pub(crate) silent: f64,
    /// Which part of them lies, each in one of the ways of [`Lie`].
    pub(crate) liars: f64,
    /// Which part of the datagrams is lost.
    pub(crate) loss: f64,
    /// Between whom a datagram takes how long, at least and at most.
    pub(crate) latency: [Duration; 2],
    /// What chance follows from.
    pub(crate) seed: u64,
}

/// What a node does.
#[derive(Debug)]
enum Kind {
    Honest(Box<Dht>),
    Silent,
    Liar(Lie),
}

/// Ways to lie.
#[derive(Clone, Copy, Debug)]
enum Lie {
    /// Names nodes that are not there.
    Garbage,
    /// Names nodes next to whatever is asked for, at addresses of nobody and of other liars.
    Poison,
    /// Says that it is itself next to whatever is asked for.
    WrongId,
    /// Names peers that are none, takes announces and items, and keeps nothing.
    FalseValues,
}

#[derive(Debug)]
struct Node {
    id: NodeId,
    addr: SocketAddr,
    kind: Kind,
    wakes_at: Option<Instant>,
    events: Vec<DhtEvent>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Arrives { from: SocketAddr, to: usize, bytes: Vec<u8> },
    Wakes(usize),
}

/// A network; its first node is always honest.
#[derive(Debug)]
pub(crate) struct Network {
    plan: Plan,
    nodes: Vec<Node>,
    at: HashMap<SocketAddr, usize>,
    /// Whom liars refer to.
    liars: Vec<SocketAddr>,
    queue: BinaryHeap<Reverse<(Instant, u64, Happening)>>,
    turn: u64,
    now: Instant,
    rng: fastrand::Rng,
    /// Datagrams sent ever.
    pub(crate) datagrams: u64,
}

impl Network {
    /// A network in which everybody's table is as if it had been there for long.
    pub(crate) fn grown(plan: Plan, now: Instant) -> Self {
        let mut network = Self::strangers(plan, now);
        let mut sorted: Vec<NodeInfo> =
            network.nodes.iter().map(|node| NodeInfo { id: node.id, addr: node.addr }).collect();
        sorted.sort_unstable_by_key(|node| node.id);
        for node in &mut network.nodes {
            let mut known = Vec::new();
            // Those that share `bits` bits with this node are neighbours in the order of ids.
            let mut near = &sorted[..];
            for bits in 0..160 {
                let zeros = near.partition_point(|other| other.id.as_bytes()[bits / 8] & (0x80 >> (bits % 8)) == 0);
                let (zeros, ones) = near.split_at(zeros);
                let one = node.id.as_bytes()[bits / 8] & (0x80 >> (bits % 8)) != 0;
                let (own, others) = if one { (ones, zeros) } else { (zeros, ones) };
                match others.len() {
                    0..=K => known.extend_from_slice(others),
                    more => known.extend((0..K).map(|_| others[network.rng.usize(0..more)])),
                }
                near = own;
                if near.len() <= 1 {
                    break;
                }
            }
            if let Kind::Honest(dht) = &mut node.kind {
                dht.plant(known, now);
            }
        }
        network
    }

    /// A network in which nobody knows anybody.
    pub(crate) fn strangers(plan: Plan, now: Instant) -> Self {
        let mut rng = fastrand::Rng::with_seed(plan.seed);
        let mut network = Self {
            nodes: Vec::new(),
            at: HashMap::new(),
            liars: Vec::new(),
            queue: BinaryHeap::new(),
            turn: 0,
            now,
            rng: rng.fork(),
            datagrams: 0,
            plan: plan.clone(),
        };
        for at in 0..plan.nodes {
            let addr = network.free_address();
            let id = NodeId::for_address(addr.ip(), std::array::from_fn(|_| rng.u8(..)));
            let chance = if at == 0 { 1.0 } else { rng.f64() };
            let kind = if chance < plan.silent {
                Kind::Silent
            } else if chance < plan.silent + plan.liars {
                network.liars.push(addr);
                Kind::Liar([Lie::Garbage, Lie::Poison, Lie::WrongId, Lie::FalseValues][at % 4])
            } else {
                let saved = SavedDht { id_v4: Some(id), ..SavedDht::default() };
                Kind::Honest(Box::new(Dht::new(settings(), saved, rng.u64(..), now)))
            };
            network.add(id, addr, kind);
        }
        network
    }

    /// A node that is honest, other than the first.
    pub(crate) fn some_honest(&mut self) -> usize {
        loop {
            let at = self.rng.usize(1..self.nodes.len());
            if let Kind::Honest(_) = self.nodes[at].kind {
                return at;
            }
        }
    }

    /// The address of a node.
    pub(crate) fn addr(&self, node: usize) -> SocketAddr {
        self.nodes[node].addr
    }

    /// Gives an honest node a command, and the time.
    pub(crate) fn tell<T>(&mut self, node: usize, command: impl FnOnce(&mut Dht, Instant) -> T) -> T {
        let now = self.now;
        let Kind::Honest(dht) = &mut self.nodes[node].kind else { panic!("node {node} takes no commands") };
        let answer = command(dht, now);
        self.drain(node);
        answer
    }

    /// Lets time pass until a command of a node is done, an hour at most; gives the events that came of it.
    pub(crate) fn finish(&mut self, node: usize, lookup: LookupId) -> Vec<DhtEvent> {
        let until = self.now + Duration::from_secs(3600);
        let done = |event: &DhtEvent| matches!(event, DhtEvent::Done { lookup: done, .. } if *done == lookup);
        while !self.nodes[node].events.iter().any(done) {
            assert!(self.step(until), "{lookup:?} ends within an hour");
        }
        let mine = |event: &mut DhtEvent| event.lookup() == Some(lookup);
        self.nodes[node].events.extract_if(.., mine).collect()
    }

    /// Lets so much time pass.
    pub(crate) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
        self.now = until;
    }

    /// The events of a node that nobody took yet.
    pub(crate) fn events(&mut self, node: usize) -> Vec<DhtEvent> {
        std::mem::take(&mut self.nodes[node].events)
    }

    /// The next thing that happens until then, if one does.
    fn step(&mut self, until: Instant) -> bool {
        if self.queue.peek().is_none_or(|Reverse((at, _, _))| *at > until) {
            return false;
        }
        let Some(Reverse((at, _, happening))) = self.queue.pop() else { return false };
        self.now = at;
        match happening {
            Happening::Wakes(node) => {
                self.nodes[node].wakes_at = None;
                if let Kind::Honest(dht) = &mut self.nodes[node].kind {
                    dht.handle_timeout(at);
                }
                self.drain(node);
            }
            Happening::Arrives { from, to, bytes } => match &mut self.nodes[to].kind {
                Kind::Honest(dht) => {
                    dht.handle_datagram(from, &bytes, at);
                    self.drain(to);
                }
                Kind::Silent => {}
                Kind::Liar(lie) => {
                    let lie = *lie;
                    if let Some(answer) = self.lie(lie, to, &bytes) {
                        self.send(self.nodes[to].addr, from, answer);
                    }
                }
            },
        }
        true
    }

    /// Takes out what a node has to say.
    fn drain(&mut self, node: usize) {
        let Node { addr: from, kind: Kind::Honest(dht), events, wakes_at: known, .. } = &mut self.nodes[node] else {
            return;
        };
        let from = *from;
        let mut out = Vec::new();
        while let Some(datagram) = dht.poll_transmit() {
            out.push(datagram);
        }
        while let Some(event) = dht.poll_event() {
            events.push(event);
        }
        if let Some(wakes_at) = dht.poll_timeout()
            && known.is_none_or(|known| wakes_at < known)
        {
            *known = Some(wakes_at);
            self.push(wakes_at.max(self.now), Happening::Wakes(node));
        }
        for (to, bytes) in out {
            assert!(bytes.len() <= 1400, "a datagram of {} bytes", bytes.len());
            self.send(from, to, bytes);
        }
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        self.datagrams += 1;
        let Some(to) = self.at.get(&to).copied() else { return };
        if self.rng.f64() < self.plan.loss {
            return;
        }
        let [least, most] = self.plan.latency;
        let takes = least + (most - least).mul_f64(self.rng.f64());
        self.push(self.now + takes, Happening::Arrives { from, to, bytes });
    }

    fn push(&mut self, at: Instant, happening: Happening) {
        self.turn += 1;
        self.queue.push(Reverse((at, self.turn, happening)));
    }

    fn add(&mut self, id: NodeId, addr: SocketAddr, kind: Kind) {
        let node = self.nodes.len();
        self.at.insert(addr, node);
        self.nodes.push(Node { id, addr, kind, wakes_at: None, events: Vec::new() });
        self.drain(node);
    }

    /// An address on the Internet at which nobody is.
    fn free_address(&mut self) -> SocketAddr {
        loop {
            let ip = Ipv4Addr::from_bits(self.rng.u32(0x0b00_0000..0x6400_0000));
            let addr = SocketAddr::from((ip, 6881));
            if !self.at.contains_key(&addr) {
                return addr;
            }
        }
    }

    fn lie(&mut self, lie: Lie, node: usize, query: &[u8]) -> Option<Vec<u8>> {
        let query = Message::decode(query).ok()?;
        let Body::Query(body) = query.body else { return None };
        let target = match body.method {
            Method::FindNode { target, .. } | Method::Get { target, .. } => target,
            Method::GetPeers { info_hash, .. } => info_hash.into(),
            _ => return Some(Message::reply(query.transaction, Reply::new(self.nodes[node].id)).encode()),
        };
        let near = |rng: &mut fastrand::Rng| {
            let mut bytes = *target.as_bytes();
            bytes[16..].copy_from_slice(&rng.u32(..).to_be_bytes());
            NodeId::new(bytes)
        };
        let mut reply = Reply::new(self.nodes[node].id);
        reply.token = Some(b"lie".to_vec());
        let mut rng = self.rng.fork();
        for at in 0..K {
            let nobody = self.free_address();
            let fellow = rng.choice(&self.liars).copied().unwrap_or(nobody);
            let node = match lie {
                Lie::Garbage => NodeInfo { id: NodeId::new(std::array::from_fn(|_| rng.u8(..))), addr: nobody },
                Lie::Poison if at % 2 == 0 => NodeInfo { id: near(&mut rng), addr: nobody },
                Lie::Poison | Lie::WrongId | Lie::FalseValues => NodeInfo { id: near(&mut rng), addr: fellow },
            };
            reply.nodes.push(node);
            if let Lie::FalseValues = lie {
                reply.values.push(nobody);
            }
        }
        if let Lie::WrongId = lie {
            reply.id = near(&mut rng);
        }
        Some(Message::reply(query.transaction, reply).encode())
    }
}

/// An info-hash from a number.
pub(crate) fn info_hash(n: u64) -> InfoHash {
    let mut rng = fastrand::Rng::with_seed(n);
    InfoHash::new(std::array::from_fn(|_| rng.u8(..)))
}

/// The mean of how many referrals lookups take, and the most.
pub(crate) fn hops(network: &mut Network, lookups: usize) -> (f64, u32) {
    let mut hops = Vec::new();
    for at in 0..lookups {
        let node = network.some_honest();
        let lookup = network.tell(node, |dht, now| dht.find_node(info_hash(1_000 + at as u64).into(), now));
        if let Some(DhtEvent::Done { summary, .. }) = network.finish(node, lookup).pop() {
            hops.push(summary.hops);
        }
    }
    let most = hops.iter().copied().max().unwrap_or_default();
    (f64::from(hops.iter().sum::<u32>()) / lookups as f64, most)
}

/// As many nodes as this, a few of which are gone or lie, at distances as on the Internet.
pub(crate) fn plan(nodes: usize, silent: f64, liars: f64) -> Plan {
    let latency = [Duration::from_millis(20), Duration::from_millis(150)];
    Plan { nodes, silent, liars, loss: 0.01, latency, seed: nodes as u64 }
}

/// Settings of a node among thousands in one process: IPv4, and no table of sources.
fn settings() -> DhtSettings {
    DhtSettings { families: vec![Family::V4], bytes_per_source: None, ..DhtSettings::default() }
}
