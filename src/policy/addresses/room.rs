//! Who goes when the book is full, so that nobody fills it with what only he says.
//!
//! Each source has an equal share at least, each network (/24, /64) and each teller of a source within that: a newcomer
//! takes the place of an address of whoever has more than it. What failed goes first, what a person gave never.

use std::collections::HashMap;
use std::net::IpAddr;

use super::AddressBook;
use super::entry::{Entry, SOURCES, Source, State};
use super::special::network;

/// How many addresses each has in the book.
#[derive(Debug, Default)]
pub(super) struct Census {
    sources: [usize; SOURCES],
    networks: HashMap<IpAddr, u32>,
    tellers: HashMap<IpAddr, u32>,
}

impl Census {
    pub(super) fn joined(&mut self, ip: IpAddr, entry: &Entry) {
        self.sources[entry.home() as usize] += 1;
        *self.networks.entry(network(ip)).or_default() += 1;
        if let Some(teller) = entry.teller {
            *self.tellers.entry(teller).or_default() += 1;
        }
    }

    pub(super) fn left(&mut self, ip: IpAddr, entry: &Entry) {
        self.sources[entry.home() as usize] -= 1;
        take(&mut self.networks, network(ip));
        if let Some(teller) = entry.teller {
            take(&mut self.tellers, teller);
        }
    }

    /// An address that was counted under one source is counted under another.
    pub(super) fn moved(&mut self, from: Source, to: Source) {
        self.sources[from as usize] -= 1;
        self.sources[to as usize] += 1;
    }

    /// How many there are of the network of an address, or by a teller, whichever is more.
    pub(super) fn crowd(&self, ip: IpAddr, teller: Option<IpAddr>) -> u32 {
        let of_network = self.networks.get(&network(ip)).copied().unwrap_or(0);
        teller.and_then(|teller| self.tellers.get(&teller)).copied().unwrap_or(0).max(of_network)
    }
}

impl AddressBook {
    /// Lets go of one address, if one has less right to its place than a new one.
    pub(super) fn make_room(&mut self, ip: IpAddr, source: Source, teller: Option<IpAddr>) -> bool {
        let idle = || self.entries.iter().filter(|(_, entry)| entry.state == State::Idle && !entry.is_manual());
        let failed = idle().filter(|(_, entry)| entry.failures > 0);
        let failed = failed.max_by_key(|(_, entry)| (entry.failures, entry.turn));
        let goes = failed.or_else(|| {
            let ours = self.census.sources[source as usize];
            let (most, largest) =
                Source::ALL.into_iter().skip(1).map(|other| (self.census.sources[other as usize], other)).max()?;
            let (pool, least) = match source {
                // A person's takes the place of anything.
                Source::Manual => (largest, 0),
                _ if most > ours + 1 => (largest, 0),
                // Among its own, only that of a larger crowd.
                _ => (source, self.census.crowd(ip, teller) + 1),
            };
            let pool = idle().filter(|(_, entry)| entry.home() == pool && entry.crowd >= least);
            // Whom several sources name, and who came first, stays longest.
            pool.max_by_key(|(_, entry)| (entry.standing, entry.sources.len() == 1, entry.crowd, entry.turn))
        });
        let Some((&addr, _)) = goes else { return false };
        self.remove(addr);
        true
    }
}

fn take(counts: &mut HashMap<IpAddr, u32>, key: IpAddr) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}
