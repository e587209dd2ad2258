//! Sockets, and streams: a blocking pair of byte halves, whatever is under it. It knows nothing of BitTorrent.
//!
//! - [`bind`]: where every socket is made, bound as a person asked for. [`outlet`]: whether that is possible now.
//! - `listener`: the ports that peers call. `stream`: a connection, over TCP or uTP.
//! - `udp`: the UDP port and the protocols that share it. `utp`: the connections that are made there.

pub(crate) mod bind;
mod halves;
mod listener;
pub(crate) mod mse;
mod outlet;
mod stream;
pub(crate) mod udp;
pub(crate) mod utp;
mod whereabouts;

pub use bind::BindError;
pub(crate) use bind::hold_to;
pub(crate) use halves::{ReadHalf, WriteHalf, agreed, plain};
pub(crate) use listener::{Listener, bind_listener};
pub(crate) use outlet::Outlet;
pub use stream::Transport;
pub(crate) use stream::{Arrival, Closer, Stream};
pub use whereabouts::local_addresses;
