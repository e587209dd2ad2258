//! Who may be in the book: nobody who cannot be reached from where we are, is blocked or banned, or is ourselves.
//!
//! It owns the bans, the filter, what is known of where we are, and the count of those that were turned away. It refuses to
//! know who is in the book: whoever has to go from there is the book's to remove.

use std::collections::{HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::super::filter::IpFilter;
use super::entry::Source;
use super::own::OwnAddress;
use super::special::{Surroundings, is_dialable, person};

/// How many bans and own addresses are remembered; the oldest is forgotten first.
const MAX_BANS: usize = 10_000;
const MAX_OWN: usize = 64;

/// What decides who may come in. The addresses that it is given are canonical, unless a method says otherwise.
#[derive(Debug)]
pub(super) struct Gate {
    /// As [`person`] names them.
    banned: Remembered<SocketAddr>,
    filter: Arc<IpFilter>,
    /// Where we found ourselves, or were told that we listen.
    own: Remembered<SocketAddr>,
    own_address: OwnAddress,
    surroundings: Surroundings,
    refused: Refused,
}

/// How many addresses were named and not taken in, by why.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Refused {
    /// The filter blocks them.
    pub blocked: u64,
    /// They cannot be reached from where we are: private, reserved, or no address of a host.
    pub unreachable: u64,
    /// Somebody there lied, in this torrent or before.
    pub banned: u64,
    /// They are our own.
    pub own: u64,
    /// The book is full of better ones.
    pub no_room: u64,
}

/// A bounded set that forgets its oldest member first.
#[derive(Debug)]
struct Remembered<T> {
    members: HashSet<T>,
    order: VecDeque<T>,
    max: usize,
}

impl Gate {
    /// Whether an address that `teller` named may be in the book; one that may not is counted.
    pub(super) fn admits(&mut self, addr: SocketAddr, source: Source, teller: Option<IpAddr>) -> bool {
        let count = match () {
            () if !is_dialable(addr) || !self.surroundings.reaches(addr.ip(), source, teller) => {
                &mut self.refused.unreachable
            }
            () if self.is_blocked(addr) => &mut self.refused.blocked,
            () if self.is_banned(addr) => &mut self.refused.banned,
            () if self.is_self(addr) => &mut self.refused.own,
            () => return true,
        };
        *count += 1;
        false
    }

    /// The book had no room for one that was admitted.
    pub(super) fn had_no_room(&mut self) {
        self.refused.no_room += 1;
    }

    /// How many addresses were refused, by why.
    pub(super) fn refused(&self) -> Refused {
        self.refused
    }

    /// Whether an address is not wanted any more, however it came in.
    pub(super) fn is_closed_to(&self, addr: SocketAddr) -> bool {
        self.is_banned(addr) || self.is_self(addr) || self.is_blocked(addr)
    }

    /// Bans whom [`person`] takes for the same.
    pub(super) fn ban(&mut self, addr: SocketAddr) {
        self.banned.insert(person(addr));
    }

    /// Whether an address, canonical or not, is banned.
    pub(super) fn is_banned(&self, addr: SocketAddr) -> bool {
        self.banned.members.contains(&person(addr))
    }

    /// What is blocked from now on.
    pub(super) fn set_filter(&mut self, filter: Arc<IpFilter>) {
        self.filter = filter;
    }

    /// Whether an address, canonical or not, is blocked.
    pub(super) fn is_blocked(&self, addr: SocketAddr) -> bool {
        self.filter.blocks(addr.ip())
    }

    /// Where we are.
    pub(super) fn set_surroundings(&mut self, surroundings: Surroundings) {
        self.surroundings = surroundings;
    }

    /// An address is our own.
    pub(super) fn learn_self(&mut self, addr: SocketAddr) {
        self.own.insert(addr);
    }

    /// Whether an address is known to be our own.
    pub(super) fn is_self(&self, addr: SocketAddr) -> bool {
        self.own.members.contains(&addr) || self.our_address(addr.is_ipv4()) == Some(addr)
    }

    /// A peer says at which address it sees us. Whether our address is another now.
    pub(super) fn peer_sees_us(&mut self, peer: SocketAddr, ours: IpAddr) -> bool {
        let before = [true, false].map(|v4| self.own_address.known(v4));
        self.own_address.peer_says(peer.ip(), ours);
        before != [true, false].map(|v4| self.own_address.known(v4))
    }

    /// A tracker says at which address it sees us.
    pub(super) fn tracker_sees_us(&mut self, ours: IpAddr) {
        self.own_address.tracker_says(ours);
    }

    /// The nodes of the DHT say at which address they see us.
    pub(super) fn dht_sees_us(&mut self, ours: IpAddr) {
        self.own_address.dht_says(ours);
    }

    /// At which address peers of this kind see us, as far as it is known.
    pub(super) fn our_address(&self, v4: bool) -> Option<SocketAddr> {
        let bound = self.surroundings.bound.filter(|ip| ip.is_ipv4() == v4 && !ip.is_unspecified());
        Some(SocketAddr::new(self.own_address.known(v4).or(bound)?, self.surroundings.port))
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            banned: Remembered::new(MAX_BANS),
            filter: Arc::default(),
            own: Remembered::new(MAX_OWN),
            own_address: OwnAddress::default(),
            surroundings: Surroundings::default(),
            refused: Refused::default(),
        }
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
