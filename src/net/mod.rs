//! Streams: a blocking pair of byte halves, whatever is under it. It knows nothing of BitTorrent.

mod listener;
mod stream;

pub(crate) use listener::{Listener, bind_listener};
pub(crate) use stream::{Closer, Stream};
