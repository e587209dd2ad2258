//! BitTorrent on plain OS threads: no async runtime, blocking sockets, and verified pieces straight into a memory map.
#![deny(missing_docs)]

pub mod bencode;
pub mod bits;
mod crew;
pub mod hash;
pub mod metainfo;
pub mod wire;

pub use metainfo::{InfoHash, Metainfo};
