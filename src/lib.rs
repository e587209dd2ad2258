//! BitTorrent on plain OS threads: no async runtime, blocking sockets, and verified pieces straight into a memory map.
#![deny(missing_docs)]

pub mod bencode;
pub mod bits;
mod config;
mod crew;
mod discovery;
pub mod hash;
pub mod metainfo;
mod net;
mod peer;
pub mod policy;
mod session;
mod storage;
mod torrent;
pub mod wire;

pub use config::{
    AddOptions, Check, Config, ListenConfig, Order, PeerConfig, RateLimits, ResourceConfig, Seeding, Start,
    TrackerConfig,
};
pub use discovery::{TrackerState, TrackerStatus};
pub use metainfo::{InfoHash, Metainfo};
pub use policy::{Priority, Reciprocity};
pub use session::{AddError, Session, SessionError};
pub use storage::StorageError;
pub use torrent::{CancelRead, Data, Ended, Event, Failure, FileReader, OpenError, PeerStats, State, Stats, Torrent};
