//! One address family: finding into the network, and keeping the table fresh.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::wire::krpc::{Method, NodeId, NodeInfo};
use crate::wire::tracker::Family;

use super::event::{DhtEvent, DhtSettings, LookupId, SavedDht};
use super::lookup::is_sound;
use super::ours::{Ours, Use};
use super::search::Purpose;
use super::store::PeerStore;
use super::table::{Added, Table};
use super::votes::Votes;
use super::{Dht, canonical};

/// How many addresses are remembered to begin with, of those given and of nodes lost.
const MAX_STARTS: usize = 200;

/// After how long to look for anybody again; it doubles each time, up to the second.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LAST_RETRY: Duration = Duration::from_secs(10 * 60);

/// How often the table is tended, at most and at least.
const MIN_TEND: Duration = Duration::from_secs(1);
const MAX_TEND: Duration = Duration::from_secs(60);

/// How many nodes are checked at the same time, and how often one more of those that asked us.
const MAX_CHECKS: usize = 16;
pub(super) const CHECK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Side {
    pub(super) family: Family,
    pub(super) table: Table,
    pub(super) ours: Ours,
    pub(super) votes: Votes,
    pub(super) peers: PeerStore,
    /// The search for our own neighbourhood.
    pub(super) bootstrap: Option<LookupId>,
    /// The search that keeps some bucket fresh.
    refresh: Option<LookupId>,
    /// There were nodes when the last bootstrap ended, and have been since.
    joined: bool,
    /// The last event was that there is nobody.
    alone: bool,
    /// Bootstraps in vain, in a row.
    failures: u32,
    bootstrap_at: Instant,
    tend_at: Instant,
    /// When a node that asked us may be checked.
    check_at: Instant,
    /// Where to begin: addresses that were given.
    given: VecDeque<SocketAddr>,
    /// And nodes that were good once.
    old: VecDeque<NodeInfo>,
}

impl Side {
    pub(super) fn new(family: Family, id: NodeId, settings: &DhtSettings, saved: &SavedDht, now: Instant) -> Self {
        let ours = |addr: &SocketAddr| Family::from(addr.ip()) == family && is_sound(*addr);
        let given = settings.bootstrap.iter().copied().map(canonical).filter(ours).take(MAX_STARTS).collect();
        let old = saved.nodes.iter().filter(|node| ours(&node.addr)).take(MAX_STARTS).copied().collect();
        Self {
            family,
            table: Table::new(id),
            ours: Ours::default(),
            votes: Votes::default(),
            peers: PeerStore::new(settings.store.clone()),
            bootstrap: None,
            refresh: None,
            joined: false,
            alone: false,
            failures: 0,
            bootstrap_at: now,
            tend_at: now,
            check_at: now,
            given,
            old,
        }
    }

    /// When something is due.
    pub(super) fn next_due(&self) -> Instant {
        self.ours.next_deadline().map_or(self.tend_at, |deadline| deadline.min(self.tend_at))
    }

    /// Nodes that are worth remembering: the good ones, or where there are none, those that were.
    pub(super) fn known(&self) -> Vec<NodeInfo> {
        let nodes = self.table.nodes().map(|node| NodeInfo { id: node.id, addr: node.addr });
        nodes.chain(self.old.iter().copied().filter(|_| !self.joined)).take(MAX_STARTS).collect()
    }

    /// Whom to ask where nobody is known: addresses that were given, and nodes that were good once.
    pub(super) fn starts(&self) -> (impl Iterator<Item = SocketAddr>, impl Iterator<Item = NodeInfo>) {
        (self.given.iter().copied(), self.old.iter().copied())
    }

    pub(super) fn is_joined(&self) -> bool {
        self.joined
    }

    /// Takes note that a node answered.
    pub(super) fn answered(&mut self, node: NodeInfo, rtt: Duration, now: Instant) {
        let added = self.table.answered(node, rtt, now);
        if added == Added::Known && !self.joined && self.bootstrap.is_none() {
            self.bootstrap_at = now;
            self.tend_at = now;
        }
    }

    /// Takes a node as if it had answered, into a table that needs no care yet.
    pub(super) fn plant(&mut self, node: NodeInfo, now: Instant) {
        self.table.answered(node, FIRST_RETRY / 100, now);
        self.table.set_refreshed(now);
        self.joined = true;
        self.tend_at = now + MAX_TEND;
    }

    /// Takes note that a node did not answer.
    pub(super) fn failed(&mut self, addr: SocketAddr, now: Instant) {
        if let Some(lost) = self.table.failed(addr, now) {
            if self.old.len() >= MAX_STARTS {
                self.old.pop_front();
            }
            self.old.push_back(lost);
        }
        if self.joined && self.table.is_empty() {
            self.joined = false;
            self.bootstrap_at = now;
            self.tend_at = now;
        }
    }

    /// Whether an address that somebody gave us is of use. Where nobody is known, it is the place to begin.
    pub(super) fn wants_address(&mut self, addr: SocketAddr, now: Instant) -> bool {
        if self.joined {
            return self.ours.checks() < MAX_CHECKS && !self.table.contains_addr(addr) && !self.ours.is_checking(addr);
        }
        if self.given.contains(&addr) {
            return false;
        }
        if self.given.len() >= MAX_STARTS {
            self.given.pop_front();
        }
        self.given.push_back(addr);
        self.bootstrap_at = now;
        self.tend_at = now;
        true
    }

    /// Whether a node that asked us should be asked whether it is there. Few are, however many ask: anybody can write
    /// any sender's address on a query.
    pub(super) fn wants_check(&mut self, node: &NodeInfo, now: Instant) -> bool {
        if self.check_at > now
            || self.ours.checks() >= MAX_CHECKS
            || !self.table.has_room_for(node)
            || self.ours.is_checking(node.addr)
        {
            return false;
        }
        self.check_at = now + CHECK_EVERY;
        true
    }
}

impl Dht {
    /// Tends one side's table, if it is time to.
    pub(super) fn maintain(&mut self, at: usize, now: Instant) {
        let random = std::array::from_fn(|_| self.rng.u8(..));
        let Some(side) = self.sides[at].as_mut().filter(|side| side.tend_at <= now) else { return };
        side.tend_at = now + MAX_TEND;
        if !side.joined {
            if side.bootstrap.is_none() && side.bootstrap_at <= now {
                self.begin_on(at, Purpose::Bootstrap(at), None, now);
            } else if side.bootstrap.is_none() {
                side.tend_at = side.bootstrap_at;
            }
            return;
        }
        let ping = side.table.next_to_ping(now);
        let refresh = if side.refresh.is_none() { side.table.next_to_refresh(random, now) } else { None };
        let due = side.table.next_due(now).unwrap_or(now + MAX_TEND);
        side.tend_at = due.clamp(now + MIN_TEND, now + MAX_TEND);
        if let Some(node) = ping {
            self.ask(node.addr, Method::Ping, Use::Check, now);
        }
        if let Some(target) = refresh {
            self.begin_on(at, Purpose::Refresh(at), Some(target), now);
        }
    }

    /// Begins a search of the machine's own, in one family only; for our own id where there is no other target.
    fn begin_on(&mut self, at: usize, purpose: Purpose, target: Option<NodeId>, now: Instant) {
        let Some(own) = self.sides[at].as_ref().map(|side| side.table.own()) else { return };
        let bootstrap = matches!(purpose, Purpose::Bootstrap(_));
        let lookup = self.prepare(purpose, target.unwrap_or(own), &[at]);
        let Some(side) = &mut self.sides[at] else { return };
        *(if bootstrap { &mut side.bootstrap } else { &mut side.refresh }) = Some(lookup);
        self.with_search(lookup, now, |_, _| {});
    }

    /// Takes note of the end of a search of the machine's own.
    pub(super) fn own_search_done(&mut self, purpose: &Purpose, now: Instant) {
        match purpose {
            Purpose::Refresh(at) => {
                if let Some(side) = &mut self.sides[*at] {
                    side.refresh = None;
                }
            }
            Purpose::Bootstrap(at) => {
                let Some(side) = &mut self.sides[*at] else { return };
                side.bootstrap = None;
                let (family, nodes) = (side.family, side.table.len());
                side.joined = nodes > 0;
                side.tend_at = now;
                if side.joined {
                    side.failures = 0;
                    side.alone = false;
                    self.events.push_back(DhtEvent::Bootstrapped { family, nodes });
                    return;
                }
                let wait = FIRST_RETRY.saturating_mul(1 << side.failures.min(10)).min(LAST_RETRY);
                side.failures += 1;
                side.bootstrap_at = now + wait;
                side.tend_at = side.bootstrap_at;
                if !std::mem::replace(&mut side.alone, true) {
                    self.events.push_back(DhtEvent::Alone { family });
                }
            }
            _ => {}
        }
    }
}
