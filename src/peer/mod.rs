//! One peer: a thread that dials, shakes hands and reads, and a thread that writes.
//!
//! It owns the connection and this peer's requests. It decides nothing about the torrent: what the peer says goes to the
//! owner as a [`Fact`], work comes from the owner through a channel, whole pieces go to the verify queue. A peer's fault
//! ends this peer only.
//!
//! ```text
//!             work, outgoing                      blocks
//!   owner ───────────────────▶ tx-ADDR ─▶ socket ─▶ rx-ADDR ─▶ piece in flight ─▶ verify queue
//!     ▲                           ▲                    │
//!     └────────── facts ──────────┴───── wishes, kick ─┘
//! ```

mod buffer;
mod candidate;
mod clock;
mod dial;
mod input;
mod metadata;
mod outbox;
mod piece;
mod pipeline;
mod reader;
mod valve;
mod veil;
mod writer;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, TrySendError};
use parking_lot::{Mutex, RwLock};

use crate::bits::Bits;
use crate::config::{Bind, Encryption, Transports};
use crate::hash::Sha1Hash;
use crate::metainfo::{Block, InfoHash, Layout, Metainfo, PieceIndex};
use crate::net::mse::MseError;
use crate::net::utp::Utp;
use crate::net::{Closer, Transport};
use crate::policy::Miss;
use crate::storage::Storage;
use crate::wire::extension::ExtensionHandshake;
use crate::wire::handshake::{PeerId, Reserved};
use crate::wire::message::WireError;
use crate::wire::pex::PexMessage;

pub(crate) use buffer::{Buffer, BufferPool};
pub(crate) use candidate::{Hunt, court, seek};
pub(crate) use clock::{Account, Processor, Tally};
pub use clock::{Activity, Times};
pub(crate) use dial::{Callee, Door, Incoming, dial, greet};
use outbox::Outbox;
pub(crate) use piece::{Contents, PieceInFlight};
pub(crate) use pipeline::{Again, Interest, Pipeline, Work};
pub(crate) use valve::Valve;
pub use veil::Protection;

/// The stack of a peer's threads: nothing here recurses, and bencode is read with a depth limit.
pub(crate) const STACK: usize = 192 * 1024;
/// Pieces handed to a peer ahead of its claims.
const WORK: usize = 64;
/// How many requests of a peer wait for their upload (BEP 10 `reqq`, which we announce); more are rejected. 32 MiB of
/// blocks: what a path of 100 MB/s and 300 ms holds.
pub(crate) const REQUEST_QUEUE: u32 = 2048;
/// Our id for `ut_pex` messages (BEP 11), where we listen to them.
pub(crate) const PEX_ID: u8 = 1;
/// Our id for `ut_metadata` messages (BEP 9).
pub(crate) const METADATA_ID: u8 = 2;
/// Our id for `upload_only` messages (BEP 21), as our extension handshake says.
pub(crate) const UPLOAD_ONLY_ID: u8 = 3;
/// Our id for `lt_donthave` messages (BEP 54).
pub(crate) const DONT_HAVE_ID: u8 = 7;

/// The number of a connection, never used twice within a session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct PeerKey(pub(crate) u32);

/// What every peer of a torrent needs, made once.
pub(crate) struct Context {
    pub(crate) caller: Caller,
    pub(crate) metainfo: Metainfo,
    pub(crate) layout: Arc<Layout>,
    /// Where verified pieces are. Replaced by the owner when the files are opened anew among connected peers; locked to take
    /// or to replace it.
    pub(crate) storage: RwLock<Arc<Storage>>,
    /// The pieces that are verified and stored. Written by the owner alone, read before each upload.
    pub(crate) have: RwLock<Bits>,
    pub(crate) facts: Facts,
    /// Whole pieces, for the verify workers. A peer waits here when they are behind.
    pub(crate) verify: Sender<FullPiece>,
    pub(crate) pool: Arc<BufferPool>,
    /// Rate limits that hold for this torrent: its own and the session's.
    pub(crate) down: [Arc<Valve>; 2],
    pub(crate) up: [Arc<Valve>; 2],
    pub(crate) traffic: Arc<Traffic>,
    /// What the verify workers do for this torrent.
    pub(crate) workers: Arc<Tally>,
    /// Whether peers may tell us of others (BEP 11).
    pub(crate) exchange: bool,
}

/// How the connections of a torrent are made: all that is known of it before its metadata is.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) info_hash: InfoHash,
    pub(crate) our_id: PeerId,
    pub(crate) timeouts: Timeouts,
    pub(crate) encryption: Encryption,
    /// What its sockets are bound to.
    pub(crate) bind: Option<Bind>,
    /// Over what peers are dialled.
    pub(crate) transports: Transports,
    /// What makes connections of uTP, where there is a UDP port.
    pub(crate) utp: Option<Utp>,
    /// Whether we are a node of the DHT as far as peers of this torrent may know.
    pub(crate) dht: bool,
}

/// How often those who wait at a limit look whether it was changed.
const LIMIT_LOOK: Duration = Duration::from_millis(250);

impl Context {
    pub(crate) fn storage(&self) -> Arc<Storage> {
        Arc::clone(&self.storage.read())
    }

    /// Changes of the limits in one direction: see [`Valve::changes`].
    fn changes(valves: &[Arc<Valve>; 2]) -> u32 {
        valves.iter().fold(0, |sum, valve| sum.wrapping_add(valve.changes()))
    }
}

/// Where facts go: `false` says that nobody listens any more.
pub(crate) type Facts = Box<dyn Fn(Fact) -> bool + Send + Sync>;

/// How long the other side may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    pub(crate) handshake: Duration,
    /// Silence after which we send a keep-alive (BEP 3).
    pub(crate) keep_alive: Duration,
}

/// Payload bytes of a torrent or of one peer. Written by its threads, read by anyone; the numbers stand alone.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// Payload received, wasted bytes included.
    pub(crate) down: AtomicU64,
    /// Payload sent.
    pub(crate) up: AtomicU64,
    /// Payload received that was of no use: late, unasked or in a piece that failed.
    pub(crate) wasted: AtomicU64,
}

impl Traffic {
    pub(crate) fn read(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    pub(crate) fn add(counter: &AtomicU64, bytes: u64) {
        counter.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A complete piece on its way to a verify worker.
pub(crate) struct FullPiece {
    pub(crate) piece: Arc<PieceInFlight>,
    pub(crate) context: Arc<Context>,
}

/// What the owner and the two threads of a peer share.
pub(crate) struct Link {
    pub(crate) key: PeerKey,
    pub(crate) addr: SocketAddr,
    pub(crate) incoming: bool,
    pub(crate) transport: Transport,
    pub(crate) protection: Protection,
    pub(crate) peer_id: PeerId,
    pub(crate) reserved: Reserved,
    /// Its first messages went while the metadata was looked for: it was told then that we have nothing.
    pub(crate) introduced: bool,
    /// This peer's requests. Locked for one step at a time, never across I/O or a send.
    pub(crate) pipeline: Mutex<Pipeline>,
    /// Looked at by handles of the torrent, too.
    pub(crate) traffic: Arc<Traffic>,
    /// What the writer does.
    sender: Tally,
    /// The processor time of the reader.
    processor: Processor,
    /// Milliseconds from `born` to the last bytes received.
    heard: AtomicU64,
    born: Instant,
    /// When hands were shaken: earlier, for who helped to find the metadata first.
    pub(crate) shaken: Instant,
    outbox: Outbox,
    /// What the peer asked for and the writer has not looked at: at most twice what it may have outstanding. Filled by the
    /// reader, emptied by the writer; locked for that only.
    work: Sender<Work>,
    closer: Arc<Closer>,
    /// Links of peers that share claims with this one, to cancel at: filled by the owner's roster.
    roster: Arc<Roster>,
}

/// The peers of a torrent by key, for the rare message from one peer's thread to another peer.
#[derive(Default)]
pub(crate) struct Roster {
    /// Locked to look one up or to change the set.
    links: RwLock<std::collections::HashMap<PeerKey, std::sync::Weak<Link>>>,
}

impl Roster {
    fn find(&self, key: PeerKey) -> Option<Arc<Link>> {
        self.links.read().get(&key)?.upgrade()
    }
}

/// What goes to a peer's writer.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// Bytes of whole messages, as they are.
    Raw(Box<[u8]>),
    /// `have` for these pieces.
    Have(Arc<[PieceIndex]>),
    Choke,
    Unchoke,
    Interested,
    NotInterested,
    /// A piece of the metadata that it asked for, by its id for `ut_metadata` (BEP 9).
    Metadata {
        id: u8,
        piece: u32,
    },
    /// The peer may ask for these pieces while it is choked (BEP 6).
    AllowFast(Box<[PieceIndex]>),
    /// Somebody else sent us this block first.
    Cancel(Block),
    /// What the peer asked for, in its order with what it is told.
    Wish(Wish),
}

/// What a peer asks of us.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wish {
    Upload(Block),
    /// It does not want this block any more.
    Forget(Block),
}

/// What a peer's threads tell the owner.
pub(crate) enum Fact {
    /// Hands are shaken with somebody who may have the metadata that we look for.
    Candidate { key: PeerKey, addr: SocketAddr, protection: Protection },
    /// A candidate that called us can be called at this port of its address.
    CandidateListens { key: PeerKey, port: u16 },
    /// A candidate is gone, or never came about.
    CandidateGone { key: PeerKey, addr: SocketAddr, why: PeerError },
    /// The metadata, which has the info-hash.
    Metadata(Arc<[u8]>),
    /// Peers that are proven to have sent wrong metadata.
    Liars(Vec<SocketAddr>),
    /// No connection came about.
    Unreachable { key: PeerKey, addr: SocketAddr, why: PeerError },
    /// Hands are shaken.
    Joined(Arc<Link>),
    /// The peer said something that changes its state.
    Said(PeerKey, Said),
    /// The peer can take about this many blocks of work.
    Hungry(PeerKey, u32),
    /// The connection is over; every claim is back.
    Gone { key: PeerKey, why: PeerError },
    /// A verify worker stored this piece, of which `from` sent most.
    Stored { piece: Arc<PieceInFlight>, from: Option<PeerKey>, audit: Option<Audit> },
    /// A piece did not hash to what it should.
    Corrupt { piece: Arc<PieceInFlight>, audit: Audit },
    /// A verified piece could not be stored.
    NotStored { piece: Arc<PieceInFlight>, error: crate::storage::StorageError },
    /// Bytes that we have could not be read.
    Unreadable { error: crate::storage::StorageError },
}

/// Who sent which bytes of a piece: what finds the liar among several senders.
pub(crate) struct Audit {
    /// One entry a block: its sender and the SHA-1 of what it sent.
    pub(crate) blocks: Vec<(PeerKey, Sha1Hash)>,
}

/// What a peer says of its state.
pub(crate) enum Said {
    Choke,
    Unchoke,
    Interested,
    NotInterested,
    Have(PieceIndex),
    /// Its pieces, all at once: `bitfield`, `have all` or `have none`.
    Pieces(Bits),
    AllowedFast(PieceIndex),
    /// It does not have this piece after all (BEP 54).
    DontHave(PieceIndex),
    /// It rejects a request for this piece although it unchokes us (BEP 6).
    Refused(PieceIndex),
    Extension(Box<ExtensionHandshake>),
    UploadOnly(bool),
    /// What it tells of its other peers (BEP 11).
    Exchange(Box<PexMessage>),
    /// It is a node of the DHT, at this UDP port (BEP 5).
    Node(u16),
}

/// Why a peer ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error("no connection: {0}")]
    Connect(std::io::Error),
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    #[error("it closed the connection")]
    Closed,
    #[error("no answer to the handshake in time")]
    HandshakeTimeout,
    #[error("it is not a BitTorrent peer")]
    NotBitTorrent,
    #[error("it does not encrypt")]
    NotEncrypted,
    #[error("it hung up on an encrypted handshake, and no other is allowed")]
    HungUpOnEncryption,
    #[error("encrypted handshake: {0}")]
    Encryption(#[from] MseError),
    #[error("it answered for another torrent")]
    OtherTorrent,
    #[error("it is this client itself")]
    Ourselves,
    #[error("it does not answer requests for metadata")]
    NoMetadata,
    #[error("it sent wrong metadata")]
    WrongMetadata,
    #[error("protocol error: {0}")]
    Wire(#[from] WireError),
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    #[error("disk: {0}")]
    Storage(#[from] crate::storage::StorageError),
    #[error("{0}")]
    Thread(#[from] crate::crew::NoThread),
    #[error("stopped")]
    Stopped,
}

impl PeerError {
    /// Whether the peer broke the protocol, rather than the network the connection.
    pub(crate) fn is_fault(&self) -> bool {
        matches!(
            self,
            Self::Wire(_) | Self::Protocol(_) | Self::NotBitTorrent | Self::Encryption(_) | Self::WrongMetadata
        )
    }

    /// Whether a call that ended so was answered by nothing but a no.
    fn is_turned_away(&self) -> bool {
        match self {
            Self::Connect(error) => {
                matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset)
            }
            Self::Closed | Self::Io(_) | Self::HungUpOnEncryption => true,
            _ => false,
        }
    }

    /// What a call that ended so is to the address book.
    pub(crate) fn miss(&self) -> Miss {
        match self {
            Self::Connect(error) if error.kind() == ErrorKind::TimedOut => Miss::Silent,
            Self::Connect(error) if error.kind() == ErrorKind::ConnectionRefused => Miss::Refused,
            Self::Connect(_) => Miss::Unreachable,
            Self::HandshakeTimeout => Miss::Silent,
            Self::Closed | Self::Io(_) => Miss::HungUp,
            Self::NotEncrypted | Self::HungUpOnEncryption => Miss::Unencrypted,
            _ => Miss::Other,
        }
    }
}

impl Link {
    /// Sends to the writer without ever waiting. `false`: the peer lets its messages pile up, or is gone.
    pub(crate) fn send(&self, message: Outgoing) -> bool {
        self.outbox.put(message)
    }

    /// Hands work to the peer, without waiting; gives it back where the peer has enough.
    pub(crate) fn give(&self, work: Work) -> Result<(), Work> {
        let is_late = work.again.is_some();
        self.work.try_send(work).map_err(TrySendError::into_inner)?;
        // The channel first: who is woken for blocks finds it there.
        if self.pipeline.lock().given() || is_late {
            self.kick();
        }
        Ok(())
    }

    /// Has the writer look at its work and its window.
    pub(crate) fn kick(&self) {
        self.outbox.kick();
    }

    /// Ends the connection; a [`Fact::Gone`] follows.
    pub(crate) fn close(&self) {
        self.closer.close();
    }

    /// Whether the connection is ended or about to be.
    pub(crate) fn is_closed(&self) -> bool {
        self.closer.is_closed()
    }

    /// Where the time of the connection went up to now, what it is at, and where the writer's went.
    pub(crate) fn times(&self, now: Instant) -> (Times, Activity, Times) {
        let (mut connection, current) = {
            let pipeline = self.pipeline.lock();
            (pipeline.account().times(now), pipeline.account().current())
        };
        self.processor.split(&mut connection);
        let mut sender = self.sender.times();
        sender.add(Activity::Idle, connection.total().saturating_sub(sender.total()));
        (connection, current, sender)
    }

    /// How long nothing has come from the peer.
    pub(crate) fn silent_for(&self, now: Instant) -> Duration {
        let heard = self.born + Duration::from_millis(self.heard.load(Ordering::Relaxed));
        now.saturating_duration_since(heard)
    }

    /// Whether both sides speak the Fast extension (BEP 6).
    pub(crate) fn fast(&self) -> bool {
        self.reserved.fast()
    }

    /// When hands were shaken.
    pub(crate) fn born(&self) -> Instant {
        self.born
    }
}
