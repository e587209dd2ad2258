//! Everything that an owner can be told.

use std::net::SocketAddr;
use std::sync::Arc;

use super::handle::Data;
use super::store::Totals;
use crate::bits::Bits;
use crate::config::{Order, Priority, RateLimits};
use crate::crew::Crew;
use crate::discovery::TrackerFact;
use crate::metainfo::{FileIndex, Metainfo};
use crate::peer::{Context, Fact, Hunt, Incoming, PeerKey, Roster, court};
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
    Found(Source, Vec<SocketAddr>),
    /// Where the world sees us.
    #[cfg(feature = "upnp")]
    Outside(SocketAddr),
    /// From the store thread.
    Store(StoreFact),
    /// Somebody called us: may its thread live on as a peer of this torrent?
    Call(SocketAddr, Arc<crate::net::Closer>, crossbeam_channel::Sender<Option<Admission>>),
    /// From a handle or the session.
    Command(Command),
    /// A reader waits for something new.
    Windows,
}

/// What a caller needs to stay.
pub(crate) enum Admission {
    /// It becomes a peer.
    Peer { key: PeerKey, context: Arc<Context>, roster: Arc<Roster> },
    /// It is asked for the metadata first.
    Candidate { key: PeerKey, hunt: Arc<Hunt> },
}

impl Admission {
    /// Reads what the caller says until the end, in the thread that greeted it.
    pub(crate) fn live(self, caller: Incoming, crew: &Crew) {
        match self {
            Self::Peer { key, context, roster } => caller.live(key, context, roster, crew),
            Self::Candidate { key, hunt } => court(key, caller, true, &hunt, crew),
        }
    }
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
    /// Who is connected; the answer goes into the channel.
    Peers(crossbeam_channel::Sender<Vec<super::PeerStats>>),
    /// What the swarm looks like from here; the answer goes into the channel.
    Survey(crossbeam_channel::Sender<super::Survey>),
}

/// What the store thread tells.
pub(crate) enum StoreFact {
    /// Hashing goes on: pieces done, of how many.
    Progress(u32, u32),
    /// The files are open and these pieces are right: the answer to the opening of this number.
    Ready { opening: u32, storage: Arc<Storage>, have: Bits, totals: Totals },
    /// The metainfo that an earlier run has kept, if there is any.
    Recalled(Option<Metainfo>),
    /// The journal was written; whether the bytes were made durable first.
    Recorded { synced: bool },
    /// What a file that becomes wanted needs has been done, or has failed.
    Prepared(FileIndex),
    /// The disk that was full has room again.
    Room,
    /// The files could not be opened or changed.
    Failed(StorageError),
}
