//! Streams: a blocking pair of byte halves, whatever is under it. It knows nothing of BitTorrent.

mod halves;
mod listener;
pub(crate) mod mse;
mod stream;
pub(crate) mod udp;
mod whereabouts;

pub(crate) use halves::{ReadHalf, WriteHalf, agreed, plain};
pub(crate) use listener::{Listener, bind_listener};
pub(crate) use stream::{Closer, Stream};
pub(crate) use whereabouts::local_addresses;
