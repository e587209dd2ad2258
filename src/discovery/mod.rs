//! Where peers are found, and how they find us: the client side of trackers, the DHT, the local network, the gateway.
//!
//! Owns the threads and sockets that ask for peers. Refuses to decide what to do with an address: each one is a fact for
//! the torrent that asked. What the bytes of a tracker mean is `wire::tracker`'s.
//!
//! - [`tracker`]: the announcer of one torrent, a thread for each tier of BEP 12;
//! - `tiers`: which tracker of a tier is asked when, and about which event (pure, `now` is given);
//! - `host`: one tracker, whatever it speaks, over both address families;
//! - `http`, `udp_socket`: one exchange, blocking and interruptible; `udp_tracker` is the machine under the second;
//! - `lsd`: peers on the local network (BEP 14);
//! - `portmap`: the gateway is asked to let peers in (feature `upnp`);
//! - [`dht`]: a node of the DHT as a machine without I/O; `node`: the session's node, which drives it;
//! - `interrupt`, `resolve`: what makes a blocking call end when the torrent stops.

pub(crate) mod dht;
mod host;
mod http;
pub(crate) mod interrupt;
mod lsd;
mod node;
#[cfg(feature = "upnp")]
mod portmap;
mod resolve;
mod tiers;
mod tracker;
mod udp_socket;
mod udp_tracker;

pub use dht::DhtStats;
pub(crate) use http::{Tls, direct_agent};
pub(crate) use lsd::{Listening as LocalListening, LocalDiscovery, LocalPart};
pub(crate) use node::{ALONE, NodeHandle, Registration};
pub use node::{DhtState, DhtStatus};
#[cfg(feature = "upnp")]
pub use portmap::{MapProtocol, MapState};
#[cfg(feature = "upnp")]
pub(crate) use portmap::{PortMapSetup, PortMapper, Transport};
pub(crate) use resolve::look_up;
pub(crate) use tracker::{Announcer, Counters, Setup, Timing, TrackerFact};
pub use tracker::{TrackerState, TrackerStatus};

#[cfg(test)]
mod tests;
