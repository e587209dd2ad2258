//! What a command makes of lookups: the same question over both families, what the answers say, and storing at the end.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::metainfo::InfoHash;
use crate::wire::item::{Item, Signed, UnverifiedItem};
use crate::wire::krpc::{Method, NodeId, NodeInfo, RemoteError, Reply, Scrape, Want};

use super::event::{AnnouncePort, DhtEvent, LookupId, Summary};
use super::lookup::{Lookup, is_sound};
use super::ours::Use;
use super::table::K;
use super::{Dht, canonical, index, is_private};

/// How many peers one `get_peers` gives, whatever the answers say.
const MAX_PEERS: usize = 5_000;

/// How many peers of one answer are looked at: more than a datagram holds.
const MAX_VALUES: usize = 300;

/// What a search is for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// Finding into the network, on one side.
    Bootstrap(usize),
    /// Keeping a bucket fresh, on one side.
    Refresh(usize),
    Nodes,
    Peers {
        info_hash: InfoHash,
        announce: Option<AnnouncePort>,
        found: HashSet<SocketAddr>,
    },
    Scrape {
        info_hash: InfoHash,
        sum: Box<Scrape>,
    },
    GetItem {
        salt: Vec<u8>,
        best: Option<Box<Item>>,
    },
    PutItem {
        item: Box<Item>,
        cas: Option<i64>,
    },
    Sample,
    /// One question to one node.
    Single,
}

impl Purpose {
    pub(super) fn peers(info_hash: InfoHash, announce: Option<AnnouncePort>) -> Self {
        Self::Peers { info_hash, announce, found: HashSet::new() }
    }

    /// What each node on the way is asked.
    fn question(&self, target: NodeId, want: Want) -> Method {
        match self {
            Self::Peers { info_hash, announce, .. } => {
                let noseed = announce.is_some_and(|announce| announce.seed);
                Method::GetPeers { info_hash: *info_hash, want, noseed, scrape: false }
            }
            Self::Scrape { info_hash, .. } => {
                Method::GetPeers { info_hash: *info_hash, want, noseed: false, scrape: true }
            }
            Self::GetItem { .. } => Method::Get { target, seq: None, want },
            // The token is what counts: nobody need send the version that this one replaces.
            Self::PutItem { item, .. } => Method::Get { target, seq: item.seq(), want },
            Self::Sample => Method::SampleInfohashes { target, want },
            Self::Bootstrap(_) | Self::Refresh(_) | Self::Nodes | Self::Single => Method::FindNode { target, want },
        }
    }

    /// What the closest nodes are asked to store.
    fn store(&self, token: Vec<u8>) -> Option<Method> {
        match self {
            Self::Peers { info_hash, announce: Some(announce), .. } => Some(Method::AnnouncePeer {
                info_hash: *info_hash,
                port: announce.port,
                implied_port: announce.implied,
                token,
                seed: announce.seed,
            }),
            Self::PutItem { item, cas } => Some(Method::Put { item: item.as_unverified().clone(), cas: *cas, token }),
            _ => None,
        }
    }

    fn is_own(&self) -> bool {
        matches!(self, Self::Bootstrap(_) | Self::Refresh(_))
    }
}

/// A command, or an errand of the machine's own, that is under way.
#[derive(Debug)]
pub(super) struct Search {
    purpose: Purpose,
    target: NodeId,
    walks: [Option<Lookup>; 2],
    /// The walks are over, and the closest nodes were asked to store.
    storing: bool,
    /// Questions that are not steps of a walk and wait for an answer.
    open: usize,
    /// Nothing more is to be learned.
    over: bool,
    summary: Summary,
}

impl Search {
    /// Takes an answer.
    pub(super) fn answered(
        &mut self,
        lookup: LookupId,
        used: Use,
        from: NodeInfo,
        rtt: Duration,
        reply: Reply,
        events: &mut VecDeque<DhtEvent>,
    ) {
        match used {
            Use::Step(_) => self.step(lookup, from, reply, events),
            Use::Store(_) => {
                self.open = self.open.saturating_sub(1);
                self.summary.stored += 1;
            }
            Use::Ping(_) | Use::Sample(_) | Use::Check => {
                self.open = self.open.saturating_sub(1);
                self.summary.answered += 1;
                if let Use::Ping(_) = used {
                    events.push_back(DhtEvent::Pong { lookup, from, rtt });
                } else if let Some(samples) = reply.samples {
                    events.push_back(DhtEvent::Samples { lookup, from, samples });
                }
                self.summary.closest = reply.nodes.into_iter().take(2 * K).collect();
            }
        }
    }

    /// Takes note that a node is late.
    pub(super) fn slow(&mut self, addr: SocketAddr) {
        if let Some(walk) = &mut self.walks[index(addr)] {
            walk.slow(addr);
        }
    }

    /// Takes note that there is no answer, or an error.
    pub(super) fn failed(&mut self, used: Use, addr: SocketAddr, error: Option<RemoteError>) {
        match used {
            Use::Step(_) => {
                if let Some(walk) = &mut self.walks[index(addr)] {
                    walk.failed(addr);
                }
            }
            _ => self.open = self.open.saturating_sub(1),
        }
        if let (Use::Store(_), Some(error)) = (used, error) {
            self.summary.refused = Some(error);
        }
    }

    pub(super) fn add_seed(&mut self, addr: SocketAddr) {
        if let Some(walk) = &mut self.walks[index(addr)] {
            walk.add_seed(addr);
        }
    }

    /// Takes peers that somebody names.
    pub(super) fn peers(
        &mut self,
        lookup: LookupId,
        peers: impl IntoIterator<Item = SocketAddr>,
        events: &mut VecDeque<DhtEvent>,
    ) {
        let Purpose::Peers { found, .. } = &mut self.purpose else { return };
        let mut fresh = Vec::new();
        for peer in peers {
            if found.len() < MAX_PEERS && is_sound(peer) && found.insert(peer) {
                fresh.push(peer);
            }
        }
        if !fresh.is_empty() {
            events.push_back(DhtEvent::Peers { lookup, peers: fresh });
        }
    }

    /// Takes an item that somebody sent; whoever asked for it knows the salt.
    pub(super) fn item(&mut self, lookup: LookupId, item: UnverifiedItem, events: &mut VecDeque<DhtEvent>) {
        let Purpose::GetItem { salt, best } = &mut self.purpose else { return };
        let signed = item.signed.map(|signed| Signed { salt: salt.clone(), ..signed });
        let item = UnverifiedItem { signed, ..item };
        // Signatures are dear: only those are looked at that would make a difference.
        let seq = item.signed.as_ref().map(|signed| signed.seq);
        if item.target() != self.target || best.as_ref().is_some_and(|best| seq <= best.seq()) {
            return;
        }
        if let Ok(item) = item.verify() {
            // There is no later version of what is named by its hash.
            self.over = item.seq().is_none();
            *best = Some(Box::new(item.clone()));
            events.push_back(DhtEvent::Item { lookup, item });
        }
    }

    fn step(&mut self, lookup: LookupId, from: NodeInfo, reply: Reply, events: &mut VecDeque<DhtEvent>) {
        if self.storing || self.over {
            return;
        }
        let side = index(from.addr);
        // Nobody on a private network is known to the world.
        let trusted = |addr: &SocketAddr| !is_private(addr.ip()) || is_private(from.addr.ip());
        for (at, walk) in self.walks.iter_mut().enumerate() {
            let Some(walk) = walk else { continue };
            let nodes = reply.nodes.iter().copied().filter(|node| index(node.addr) == at && trusted(&node.addr));
            if at == side {
                walk.answered(from, reply.token.clone(), nodes);
            } else {
                walk.add_known(nodes.take(K));
            }
        }
        let values = reply.values.into_iter().take(MAX_VALUES).map(canonical).filter(trusted);
        match &mut self.purpose {
            Purpose::Peers { .. } => self.peers(lookup, values, events),
            Purpose::Scrape { sum, .. } => match reply.scrape {
                Some(scrape) => {
                    sum.seeds.union(&scrape.seeds);
                    sum.peers.union(&scrape.peers);
                }
                // A node that does not know BEP 33 names peers at least.
                None => values.for_each(|peer| sum.peers.insert(peer.ip())),
            },
            Purpose::GetItem { .. } => {
                if let Some(item) = reply.item {
                    self.item(lookup, item, events);
                }
            }
            Purpose::Sample => {
                if let Some(samples) = reply.samples {
                    events.push_back(DhtEvent::Samples { lookup, from, samples });
                }
            }
            _ => {}
        }
    }

    fn walked(&self) -> bool {
        self.walks.iter().flatten().all(Lookup::is_done)
    }

    fn summary(&self) -> Summary {
        let mut summary = self.summary.clone();
        for walk in self.walks.iter().flatten() {
            let (asked, answered) = walk.counts();
            summary.asked += asked;
            summary.answered += answered;
            summary.hops = summary.hops.max(walk.hops());
            summary.closest.extend(walk.closest().into_iter().take(K).map(|found| found.node));
        }
        summary
    }
}

impl Dht {
    /// Begins a search over all families.
    pub(super) fn begin(&mut self, purpose: Purpose, target: NodeId, now: Instant) -> LookupId {
        let lookup = self.prepare(purpose, target, &[0, 1]);
        self.with_search(lookup, now, |_, _| {});
        lookup
    }

    /// Begins a question to one node; it ends at once where there is none.
    pub(super) fn begin_single(
        &mut self,
        addr: SocketAddr,
        question: Option<Method>,
        used: fn(LookupId) -> Use,
        now: Instant,
    ) -> LookupId {
        let addr = canonical(addr);
        let lookup = self.prepare(Purpose::Single, NodeId::new([0; 20]), &[]);
        let usable = is_sound(addr) && self.sides[index(addr)].as_ref().is_some_and(|side| !side.ours.is_full());
        if let (true, Some(question)) = (usable, question) {
            if let Some(search) = self.searches.get_mut(&lookup) {
                search.open = 1;
                search.summary.asked = 1;
            }
            self.ask(addr, question, used(lookup), now);
        }
        self.with_search(lookup, now, |_, _| {});
        lookup
    }

    /// Makes a search that walks on these sides, from what their tables hold.
    pub(super) fn prepare(&mut self, purpose: Purpose, target: NodeId, sides: &[usize]) -> LookupId {
        let lookup = LookupId(self.next_lookup);
        self.next_lookup += 1;
        let mut walks = [None, None];
        for at in sides.iter().copied() {
            let Some(side) = &self.sides[at] else { continue };
            let mut walk = Lookup::new(target, side.table.own(), self.settings.parallel);
            let mut nodes = Vec::with_capacity(K);
            side.table.closest(&target, K, &mut nodes);
            walk.add_known(nodes);
            if side.table.is_empty() || matches!(purpose, Purpose::Bootstrap(_)) {
                let (given, old) = side.starts();
                walk.add_known(old);
                given.for_each(|addr| walk.add_seed(addr));
            }
            walks[at] = Some(walk);
        }
        let search =
            Search { purpose, target, walks, storing: false, open: 0, over: false, summary: Summary::default() };
        self.searches.insert(lookup, search);
        lookup
    }

    /// Tells a search something, and lets it go on.
    pub(super) fn with_search(
        &mut self,
        lookup: LookupId,
        now: Instant,
        tell: impl FnOnce(&mut Search, &mut VecDeque<DhtEvent>),
    ) {
        let Some(mut search) = self.searches.remove(&lookup) else { return };
        tell(&mut search, &mut self.events);
        if !search.storing && !search.over {
            self.step(lookup, &mut search, now);
            if search.walked() {
                self.store(lookup, &mut search, now);
            }
        }
        if search.over || (search.storing && search.open == 0) {
            self.finish(lookup, search, now);
        } else {
            self.searches.insert(lookup, search);
        }
    }

    /// Lets those searches go on that had to wait for others.
    pub(super) fn run_crowded(&mut self, now: Instant) {
        if std::mem::take(&mut self.crowded) {
            let lookups: Vec<_> = self.searches.keys().copied().collect();
            lookups.into_iter().for_each(|lookup| self.with_search(lookup, now, |_, _| {}));
        }
    }

    fn step(&mut self, lookup: LookupId, search: &mut Search, now: Instant) {
        for at in 0..search.walks.len() {
            let Some(walk) = &mut search.walks[at] else { continue };
            loop {
                if self.sides[at].as_ref().is_none_or(|side| side.ours.is_full()) {
                    self.crowded = true;
                    break;
                }
                let Some(addr) = walk.next() else { break };
                // BEP 51: not before its interval is over. It still knows the way.
                let waits = self.sampled.get(&addr).is_some_and(|until| *until > now);
                let question = match &search.purpose {
                    Purpose::Sample if waits => Purpose::Nodes.question(search.target, self.want()),
                    purpose => purpose.question(search.target, self.want()),
                };
                self.ask(addr, question, Use::Step(lookup), now);
            }
        }
    }

    fn store(&mut self, lookup: LookupId, search: &mut Search, now: Instant) {
        search.storing = true;
        let found = search.walks.iter().flatten().flat_map(Lookup::closest);
        for found in found.collect::<Vec<_>>() {
            let Some(method) = found.token.and_then(|token| search.purpose.store(token)) else { continue };
            search.open += 1;
            self.ask(found.node.addr, method, Use::Store(lookup), now);
        }
    }

    fn finish(&mut self, lookup: LookupId, search: Search, now: Instant) {
        self.sides.iter_mut().flatten().for_each(|side| side.ours.forget(lookup));
        if search.purpose.is_own() {
            self.own_search_done(&search.purpose, now);
            return;
        }
        if let Purpose::Scrape { sum, .. } = &search.purpose {
            let [seeds, peers] = [&sum.seeds, &sum.peers].map(|filter| filter.estimate().round() as u32);
            self.events.push_back(DhtEvent::Scraped { lookup, seeds, peers });
        }
        self.events.push_back(DhtEvent::Done { lookup, summary: search.summary() });
    }
}
