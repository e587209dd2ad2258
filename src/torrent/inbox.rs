//! Everything that an owner can be told.

use std::net::SocketAddr;
use std::sync::Arc;

use super::handle::Data;
use super::store::Totals;
use crate::bits::Bits;
use crate::config::{Order, Priority, RateLimits};
use crate::discovery::TrackerFact;
use crate::metainfo::FileIndex;
use crate::peer::{Fact, PeerKey};
use crate::policy::Source;
use crate::storage::{Storage, StorageError};

/// Facts and commands that wait for the owner. A leaf that finds it full waits.
pub(crate) const INBOX: usize = 1024;

/// A message to the owner of a torrent.
pub(crate) enum Inbox {
    /// From a peer's threads or a verify worker.
    Peer(Fact),
    /// From an announce thread.
    Tracker(TrackerFact),
    /// Addresses of peers, from whatever finds some beside the trackers.
    #[expect(dead_code, reason = "peer exchange, the DHT and the local network are about to use it")]
    Found(Source, Vec<SocketAddr>),
    /// From the store thread.
    Store(StoreFact),
    /// Somebody called us: may its thread live on as a peer of this torrent?
    Call(SocketAddr, Arc<crate::net::Closer>, crossbeam_channel::Sender<Option<Admission>>),
    /// From a handle or the session.
    Command(Command),
    /// A reader waits for something new.
    Windows,
}

/// What a caller needs to become a peer.
pub(crate) struct Admission {
    pub(crate) key: PeerKey,
    pub(crate) context: Arc<crate::peer::Context>,
    pub(crate) roster: Arc<crate::peer::Roster>,
}

/// What a handle asks for.
pub(crate) enum Command {
    Pause,
    Resume,
    Recheck,
    Remove(Data),
    /// The session ends.
    Stop,
    Priority(FileIndex, Priority),
    Order(Order),
    Limits(RateLimits),
    AddPeers(Vec<SocketAddr>),
    Announce,
    /// The session's filter is another one.
    Filter,
}

/// What the store thread tells.
pub(crate) enum StoreFact {
    /// Hashing goes on: pieces done, of how many.
    Progress(u32, u32),
    /// The files are open and these pieces are right: the answer to the opening of this number.
    Ready { opening: u32, storage: Arc<Storage>, have: Bits, totals: Totals },
    /// The journal was written; whether the bytes were made durable first.
    Recorded { synced: bool },
    /// What a file that becomes wanted needs has been done, or has failed.
    Prepared(FileIndex),
    /// The files could not be opened or changed.
    Failed(StorageError),
}
