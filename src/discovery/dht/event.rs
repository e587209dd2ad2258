//! What the machine is told and what it tells: settings, commands' arguments, events.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::wire::item::Item;
use crate::wire::krpc::{NodeId, NodeInfo, RemoteError, Samples};
use crate::wire::tracker::Family;

use super::store::StoreLimits;

/// How a node behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhtSettings {
    /// The address families that there is a socket for; both by default.
    pub families: Vec<Family>,
    /// Nodes to ask where none is known; none by default.
    pub bootstrap: Vec<SocketAddr>,
    /// Ask, but answer nobody and be in nobody's table (BEP 43); false by default. For nodes that cannot be reached, and
    /// for those that leave soon.
    pub read_only: bool,
    /// How many bytes of answers one address gets in a second; 4 KiB by default, and 10 times that after a pause.
    /// `None` is no limit.
    pub bytes_per_source: Option<u32>,
    /// What is kept for others.
    pub store: StoreLimits,
    /// How many queries of one lookup may be under way at the same time in each address family; 4 by default.
    pub parallel: usize,
}

impl Default for DhtSettings {
    fn default() -> Self {
        Self {
            families: vec![Family::V4, Family::V6],
            bootstrap: Vec::new(),
            read_only: false,
            bytes_per_source: Some(4096),
            store: StoreLimits::default(),
            parallel: 4,
        }
    }
}

/// What is worth keeping for the next run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedDht {
    /// Our id towards IPv4 nodes. It is changed if it does not fit our address any more (BEP 42).
    pub id_v4: Option<NodeId>,
    /// Our id towards IPv6 nodes.
    pub id_v6: Option<NodeId>,
    /// Good nodes of both families.
    pub nodes: Vec<NodeInfo>,
}

/// Where peers reach us, for an announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnnouncePort {
    /// The TCP port.
    pub port: u16,
    /// That others should take the UDP port that they see instead: a router may have changed it.
    pub implied: bool,
    /// That we have all of it (BEP 33).
    pub seed: bool,
}

/// Whom to ask for a sample of info-hashes (BEP 51).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleFrom {
    /// One node.
    Node(SocketAddr),
    /// The nodes on the way to an id.
    Toward(NodeId),
}

/// The name of what a command began, in the events that come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LookupId(pub(super) u64);

/// What happened.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum DhtEvent {
    /// There are nodes to work with, where there were none.
    Bootstrapped {
        /// Of this family.
        family: Family,
        /// How many are known.
        nodes: usize,
    },
    /// No node of this family answers; all that are known are asked again, less and less often.
    Alone {
        /// The family.
        family: Family,
    },
    /// Enough nodes of different networks agree that they see us at this address.
    ExternalAddress {
        /// The address.
        ip: IpAddr,
    },
    /// A `get_peers` found peers that it had not found before. At most 5,000 in all.
    Peers {
        /// The command.
        lookup: LookupId,
        /// The peers; whether they are there, nobody has checked.
        peers: Vec<SocketAddr>,
    },
    /// A `get_item` found an item, or a later version of it; its signature or hash is right.
    Item {
        /// The command.
        lookup: LookupId,
        /// The item.
        item: Item,
    },
    /// A `scrape` is over: about how many addresses were announced.
    Scraped {
        /// The command.
        lookup: LookupId,
        /// With all of it.
        seeds: u32,
        /// Without.
        peers: u32,
    },
    /// A node gave a sample.
    Samples {
        /// The command.
        lookup: LookupId,
        /// Who.
        from: NodeInfo,
        /// Some info-hashes. The machine itself does not ask this node for others before the interval is over.
        samples: Samples,
    },
    /// A `ping` was answered.
    Pong {
        /// The command.
        lookup: LookupId,
        /// Who.
        from: NodeInfo,
        /// After how long.
        rtt: Duration,
    },
    /// The last event of every command that was not stopped.
    Done {
        /// The command.
        lookup: LookupId,
        /// How it went.
        summary: Summary,
    },
}

/// How a lookup went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// How many nodes were asked. None: we knew of none, and it may be worth to try again when there are.
    pub asked: usize,
    /// How many answered.
    pub answered: usize,
    /// How many referrals it took to learn of the nodes closest to the target: 1 where they stood in our own table.
    pub hops: u32,
    /// How many nodes confirmed that they stored an announce or an item.
    pub stored: usize,
    /// Why a node refused to store, the last one.
    pub refused: Option<RemoteError>,
    /// The nodes closest to the target that answered, at most 8 of each family.
    pub closest: Vec<NodeInfo>,
}

/// What a node knows and does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DhtStats {
    /// How many good nodes are in the IPv4 table.
    pub nodes_v4: usize,
    /// How many good nodes are in the IPv6 table.
    pub nodes_v6: usize,
    /// Our address as others see it, where they agree.
    pub external_v4: Option<IpAddr>,
    /// The same for IPv6.
    pub external_v6: Option<IpAddr>,
    /// Lookups under way, those that keep the table fresh included.
    pub lookups: usize,
    /// Queries of ours that wait for an answer.
    pub in_flight: usize,
    /// Queries that were answered, ever.
    pub answered: u64,
    /// Queries that were not, because their sender asked too much.
    pub dropped: u64,
    /// How many info-hashes have peers here.
    pub info_hashes: usize,
    /// How many peers they have.
    pub peers: usize,
    /// How many items are stored.
    pub items: usize,
}
