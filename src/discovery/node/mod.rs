//! The session's node of the DHT: drives the machine of [`dht`](super::dht) over the UDP port, for all torrents and for
//! whoever asks.
//!
//! It owns the machine, the announces of the torrents, the way in (nodes of the last run, bootstrap nodes, nodes that peers
//! and torrents name) and the file that a node is kept in. It lives on the thread `udp` and never waits there: orders come
//! through a desk that is locked for a moment, addresses go to owners that have room for them, and names are looked up by
//! threads of their own.
//!
//! It begins with the first torrent that takes part, or the first question: until then nothing is sent. From a loopback
//! address nothing is ever sent to any other.
//!
//! - `driver`: the node itself. `announces`: when which torrent is looked up (pure). `names`: host names on their way to
//!   addresses. `state`: the file.

mod announces;
mod driver;
mod names;
mod state;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use super::dht::{Dht, DhtEvent, DhtStats, LookupId};
use crate::config::{Bind, DhtConfig};
use crate::crew::{Crew, NoThread};
use crate::metainfo::InfoHash;
use crate::net::udp::{Protocol, UdpPort, Waker};
use announces::Found;
use driver::Node;
use names::Resolved;

/// What is said where no node answers.
pub(crate) const ALONE: &str = "no node of the DHT answers, so that peers are not found that way for now; \
                                check that UDP gets through, or name a node that runs";

/// The stack of the thread `udp`: bencode is read with a depth limit, and nothing else recurses.
const STACK: usize = 256 * 1024;
/// Nodes that peers and torrents named and that wait to be looked at; what is more is let go of.
const NODES: usize = 256;
/// Events that wait for whoever asked; what is more is let go of.
const ANSWERS: usize = 1024;

/// What a node of the DHT is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DhtState {
    /// Nothing has called for it yet, and nothing was sent.
    #[default]
    Idle,
    /// It looks for nodes.
    Joining,
    /// It knows nodes that answer.
    Joined,
    /// Nobody answers; it goes on trying.
    Alone,
}

/// How it goes with a node of the DHT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DhtStatus {
    /// What it is at.
    pub state: DhtState,
    /// What it knows and does.
    pub stats: DhtStats,
}

impl DhtStatus {
    /// How many good nodes it knows, of both address families.
    pub fn nodes(&self) -> usize {
        self.stats.nodes_v4 + self.stats.nodes_v6
    }
}

/// Orders the node about from any thread, without waiting. Clones are the same node.
#[derive(Clone)]
pub(crate) struct NodeHandle {
    shared: Arc<Shared>,
}

/// The part that a torrent takes; dropping it ends that.
pub(crate) struct Registration {
    node: NodeHandle,
    info_hash: InfoHash,
    number: u64,
}

struct Shared {
    desk: Mutex<Desk>,
    waker: Arc<Waker>,
    addrs: Vec<SocketAddr>,
    /// What the sockets are bound to.
    bind: Option<Bind>,
    /// Written by the node when it looks at itself, read by everybody.
    status: Mutex<DhtStatus>,
    /// Numbers registrations.
    next: AtomicU64,
}

/// Orders that the node has not looked at. Locked to add one or to take all.
#[derive(Default)]
struct Desk {
    /// As many as there are torrents that begin and end, and questions that somebody waits for.
    orders: VecDeque<Order>,
    /// At most [`NODES`]: these come from the network.
    nodes: Vec<SocketAddr>,
}

enum Order {
    Register {
        info_hash: InfoHash,
        number: u64,
        port: Option<u16>,
        found: Found,
    },
    Unregister(InfoHash, u64),
    Search(InfoHash),
    Seed(InfoHash, bool),
    Lacking(InfoHash, bool),
    #[cfg(feature = "upnp")]
    Port(u16),
    Names(Vec<String>),
    Resolved(Resolved),
    /// Begins the node although no torrent takes part.
    Begin,
    Ask(Question, Sender<DhtEvent>),
}

/// What somebody asks of the machine: the lookup of which the events are the answer.
pub(crate) type Question = Box<dyn FnOnce(&mut Dht, Instant) -> LookupId + Send>;

impl NodeHandle {
    /// Starts the thread `udp` on a port, with a node that begins when it is needed, and what else there is `beside` it.
    pub(crate) fn start(
        port: UdpPort,
        config: DhtConfig,
        beside: Vec<Box<dyn Protocol>>,
        crew: &Crew,
    ) -> Result<Self, NoThread> {
        let shared = Arc::new(Shared {
            desk: Mutex::default(),
            waker: port.waker(),
            addrs: port.addrs().to_vec(),
            bind: port.bound_to().cloned(),
            status: Mutex::default(),
            next: AtomicU64::new(0),
        });
        let mut protocols = beside;
        protocols.push(Box::new(Node::new(Arc::clone(&shared), config)));
        crew.spawn("udp".into(), STACK, move || port.run(&mut protocols))?;
        Ok(Self { shared })
    }

    /// Ends the thread, which keeps the node in its file first. Whoever started it joins it.
    pub(crate) fn stop(&self) {
        self.shared.waker.stop();
    }

    /// A torrent takes part: it is looked up now and then, announced with `port` if there is one, and what is found is
    /// handed to `found`, which must not wait.
    pub(crate) fn register(&self, info_hash: InfoHash, port: Option<u16>, found: Found) -> Registration {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        self.order(Order::Register { info_hash, number, port, found });
        Registration { node: self.clone(), info_hash, number }
    }

    /// Torrents that are announced with a port are announced with this one from now on.
    #[cfg(feature = "upnp")]
    pub(crate) fn set_port(&self, port: u16) {
        self.order(Order::Port(port));
    }

    /// Somebody said that there is a node here.
    pub(crate) fn add_node(&self, addr: SocketAddr) {
        let mut desk = self.shared.desk.lock();
        if desk.nodes.len() < NODES {
            desk.nodes.push(addr);
            drop(desk);
            self.shared.waker.wake();
        }
    }

    /// Somebody said that there are nodes here, as `HOST:PORT`.
    pub(crate) fn add_names(&self, names: &[String]) {
        if !names.is_empty() {
            self.order(Order::Names(names.to_vec()));
        }
    }

    /// Begins at once, not when something calls for it.
    pub(crate) fn begin(&self) {
        self.order(Order::Begin);
    }

    /// Asks the machine for something, and gives what comes of it. The channel ends with the last event; dropping it ends
    /// the lookup.
    pub(crate) fn ask(&self, question: Question) -> Receiver<DhtEvent> {
        let (sender, answers) = bounded(ANSWERS);
        self.order(Order::Ask(question, sender));
        answers
    }

    /// Where the node is heard by somebody at `ip`.
    pub(crate) fn port(&self, ip: IpAddr) -> Option<u16> {
        self.addrs().iter().find(|addr| addr.is_ipv4() == ip.is_ipv4()).map(SocketAddr::port)
    }

    /// The local addresses of the node.
    pub(crate) fn addrs(&self) -> &[SocketAddr] {
        &self.shared.addrs
    }

    /// How it goes.
    pub(crate) fn status(&self) -> DhtStatus {
        self.shared.status.lock().clone()
    }

    fn order(&self, order: Order) {
        self.shared.order(order);
    }
}

impl Registration {
    /// Looks for peers as soon as may be.
    pub(crate) fn search_now(&self) {
        self.node.order(Order::Search(self.info_hash));
    }

    /// Whether we have all of it: announces say so from now on (BEP 33).
    pub(crate) fn set_seed(&self, seed: bool) {
        self.node.order(Order::Seed(self.info_hash, seed));
    }

    /// Whether nothing comes from whom we know: others are looked for more often as long as it is so.
    pub(crate) fn set_lacking(&self, lacking: bool) {
        self.node.order(Order::Lacking(self.info_hash, lacking));
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.node.order(Order::Unregister(self.info_hash, self.number));
    }
}

impl Shared {
    fn order(&self, order: Order) {
        self.desk.lock().orders.push_back(order);
        self.waker.wake();
    }
}
