//! Nodes of the DHT (BEP 5), for those who look at networks or have a use of their own for it.
//!
//! A [`Session`](crate::Session) has a node of its own, which finds peers for its torrents. A [`Node`] has no torrents: it
//! asks what it is told to and hands on what comes of it; it owns the UDP port and the thread. A [`Dht`] is the machine
//! inside of both, without a socket, a thread or a clock.
//!
//! ```no_run
//! use ropewalk::dht::{DhtEvent, Node, Options};
//!
//! let node = Node::start(Options::default())?;
//! node.wait_until_joined(std::time::Duration::from_secs(30));
//! for event in node.get_peers("6853ab2b86b2cb6a3a778b8aafe3dffd94321bf5".parse()?, None) {
//!     if let DhtEvent::Peers { peers, .. } = event {
//!         println!("{peers:?}");
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::config::{Bind, DhtConfig};
use crate::crew::Crew;
use crate::discovery::{DhtState, DhtStatus, NodeHandle};
use crate::metainfo::InfoHash;
use crate::net::udp::UdpPort;
use crate::wire::item::Item;
use crate::wire::krpc::NodeId;

pub use crate::discovery::dht::{
    AnnouncePort, Dht, DhtEvent, DhtSettings, DhtStats, LookupId, SampleFrom, SavedDht, StoreLimits, Summary,
};

/// How often a wait looks at the node.
const LOOK: Duration = Duration::from_millis(20);

/// How a node is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The one address or interface to use; `None` for all, of both families.
    pub bind: Option<Bind>,
    /// The UDP port; 0, the default, for any.
    pub port: u16,
    /// The rest; [`DhtConfig::enabled`] has no meaning here.
    pub dht: DhtConfig,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The port could not be had.
    #[error("cannot use UDP port {port}: {source}; choose another port or address")]
    Port {
        /// The port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(String),
}

/// A running node. Dropping it ends it and joins its thread.
///
/// What asks returns at once; the channel that it gives ends after [`DhtEvent::Done`], and dropping the channel ends the
/// question. Who asks before any node is known gets an answer at once that says so.
pub struct Node {
    handle: NodeHandle,
    crew: Crew,
}

impl Node {
    /// Binds the port and begins to look for other nodes.
    pub fn start(options: Options) -> Result<Self, StartError> {
        let port = UdpPort::bind(options.bind.as_ref(), options.port);
        let port = port.map_err(|source| StartError::Port { port: options.port, source })?;
        let crew = Crew::new(1);
        let handle = NodeHandle::start(port, options.dht, Vec::new(), &crew);
        let handle = handle.map_err(|error| StartError::Thread(error.to_string()))?;
        handle.begin();
        Ok(Self { handle, crew })
    }

    /// The local addresses.
    pub fn addrs(&self) -> &[SocketAddr] {
        self.handle.addrs()
    }

    /// How it goes.
    pub fn status(&self) -> DhtStatus {
        self.handle.status()
    }

    /// Waits until it knows nodes that answer, but no longer than `timeout`; `false` where it knows none.
    pub fn wait_until_joined(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        while self.status().state != DhtState::Joined {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            std::thread::park_timeout(left.min(LOOK));
        }
        true
    }

    /// There may be a node at this address.
    pub fn add_node(&self, addr: SocketAddr) {
        self.handle.add_node(addr);
    }

    /// Looks for the peers of a torrent, and then announces ourselves as one of them, if asked to.
    pub fn get_peers(&self, info_hash: InfoHash, announce: Option<AnnouncePort>) -> Receiver<DhtEvent> {
        self.handle.ask(Box::new(move |dht, now| dht.get_peers(info_hash, announce, now)))
    }

    /// Asks one node whether it is there.
    pub fn ping(&self, addr: SocketAddr) -> Receiver<DhtEvent> {
        self.handle.ask(Box::new(move |dht, now| dht.ping(addr, now)))
    }

    /// Looks for an item (BEP 44). `salt` is that of a mutable one, which a reply does not carry.
    pub fn get_item(&self, target: NodeId, salt: Vec<u8>) -> Receiver<DhtEvent> {
        self.handle.ask(Box::new(move |dht, now| dht.get_item(target, &salt, now)))
    }

    /// Has nodes store an item (BEP 44), which they forget after two hours. With `cas` those refuse it that have another
    /// version of it than this one.
    pub fn put_item(&self, item: Item, cas: Option<i64>) -> Receiver<DhtEvent> {
        self.handle.ask(Box::new(move |dht, now| dht.put_item(item, cas, now)))
    }

    /// Estimates how many peers a torrent has (BEP 33).
    pub fn scrape(&self, info_hash: InfoHash) -> Receiver<DhtEvent> {
        self.handle.ask(Box::new(move |dht, now| dht.scrape(info_hash, now)))
    }

    /// Looks which nodes are closest to an id: [`Summary::closest`].
    pub fn find_node(&self, target: NodeId) -> Receiver<DhtEvent> {
        self.handle.ask(Box::new(move |dht, now| dht.find_node(target, now)))
    }

    /// Asks for some of the torrents that nodes know (BEP 51).
    pub fn sample(&self, from: SampleFrom) -> Receiver<DhtEvent> {
        self.handle.ask(Box::new(move |dht, now| dht.sample(from, now)))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.handle.stop();
        self.crew.join();
    }
}
