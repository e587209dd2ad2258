//! The public face of a torrent: a handle that commands the owner and looks at what the owner last published.
//!
//! Nothing here waits on a network thread: commands go into the owner's inbox, looks are taken at a snapshot.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::explain::Explanation;
use super::inbox::{Command, Inbox};
use super::look::Survey;
use super::reader::{FileReader, OpenError};
use super::shared::Shared;
use crate::bits::Bits;
use crate::config::{Order, Priority, RateLimits};
use crate::discovery::{DhtStatus, TrackerFact, TrackerStatus};
use crate::metainfo::{FileIndex, InfoHash, Metainfo};
use crate::net::Transport;
use crate::peer::{Protection, Traffic};
use crate::policy::{Misses, Reciprocity, Record, Refused, Sources, Standing};

/// A torrent of a [`Session`](crate::Session). Clones are the same torrent; dropping them changes nothing.
#[derive(Clone)]
pub struct Torrent {
    shared: Arc<Shared>,
}

/// What a torrent is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Its files are opened and looked at: `done` of `total` pieces so far.
    #[default]
    Opening,
    /// It was added by a magnet link, and peers are looked for that have its metadata.
    Metadata {
        /// Connections that were tried so far, ours and theirs.
        tried: usize,
        /// Connected peers that say that they have it.
        offering: usize,
        /// Pieces of 16 KiB that came.
        pieces: u32,
        /// Of how many, as those peers say; 0 where none does.
        total: u32,
    },
    /// Its files are hashed: `done` of `total` pieces so far.
    Checking {
        /// Pieces hashed so far.
        done: u32,
        /// Pieces to hash.
        total: u32,
    },
    /// Wanted pieces are missing.
    Downloading,
    /// Everything that is wanted is there.
    Seeding,
    /// Connected only to see who is there ([`Start::Looking`](crate::Start::Looking)).
    Looking,
    /// Paused by [`Torrent::pause`].
    Paused,
    /// Waiting for something outside, such as room on the disk; it goes on by itself.
    Waiting(Arc<str>),
    /// Ended by an error that needs somebody's help.
    Failed(Failure),
    /// Removed, or its session has ended.
    Stopped,
}

impl State {
    /// Whether waiting longer changes nothing: everything wanted is there, nothing is, or it failed or ended.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Seeding | Self::Looking | Self::Failed(_) | Self::Stopped)
    }
}

/// Why a torrent failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong, with the path, and what to do next.
    pub message: Arc<str>,
    /// Whether a disk or its permissions are the cause.
    pub disk: bool,
}

/// A torrent in numbers. Bytes are bytes, rates are bytes per second over the last few seconds.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// What it is doing.
    pub state: State,
    /// Bytes in wanted pieces (padding included).
    pub wanted: u64,
    /// Of those, the bytes that are verified.
    pub done: u64,
    /// How many pieces are verified.
    pub pieces_have: u32,
    /// How many pieces there are.
    pub pieces_total: u32,
    /// Pieces being fetched.
    pub pieces_in_flight: u32,
    /// Payload received in this session.
    pub downloaded: u64,
    /// Payload sent in this session.
    pub uploaded: u64,
    /// Payload sent in all sessions.
    pub uploaded_ever: u64,
    /// Payload received in all sessions.
    pub downloaded_ever: u64,
    /// How often an optimistic unchoke was returned: what generosity brings in this swarm.
    pub reciprocity: Reciprocity,
    /// Payload received that was late, unasked or wrong, or for which a disk had no room.
    pub wasted: u64,
    /// Pieces that failed their hash.
    pub pieces_failed: u32,
    /// Rate of receiving.
    pub down_rate: u64,
    /// Rate of sending.
    pub up_rate: u64,
    /// Connected peers.
    pub peers: usize,
    /// Of those, the ones that have everything.
    pub seeds: usize,
    /// Connections being made.
    pub dialling: usize,
    /// Known addresses of peers.
    pub known: usize,
    /// Addresses of peers that were named and not taken in, by why.
    pub refused: Refused,
    /// Known addresses where nobody was met when they were called last, by why.
    pub missed: Misses,
    /// Callers that the filter blocks, of the whole session: they are refused before they say which torrent they want.
    pub blocked_callers: u64,
    /// How many copies of the torrent the connected peers have together.
    pub copies: f32,
    /// The node of the DHT by which peers are looked for; `None` where this torrent does not use it.
    pub dht: Option<DhtStatus>,
}

impl Stats {
    /// Time to completion at the present rate; `None` where nothing comes in or nothing is missing, and while the torrent waits
    /// for something else than peers.
    pub fn eta(&self) -> Option<Duration> {
        let left = self.wanted.saturating_sub(self.done);
        let waits = matches!(self.state, State::Waiting(_));
        (left > 0 && self.down_rate > 0 && !waits).then(|| Duration::from_secs(left / self.down_rate))
    }

    /// Whether everything wanted is verified.
    pub fn is_complete(&self) -> bool {
        matches!(self.state, State::Seeding)
    }
}

/// One connected peer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PeerStats {
    /// Its address.
    pub addr: SocketAddr,
    /// Its client, as it calls itself or as its id says.
    pub client: String,
    /// Whether it called us.
    pub incoming: bool,
    /// How far the connection is encrypted.
    pub protection: Protection,
    /// Who named it; [`Source::Incoming`](crate::Source::Incoming) is among them where it called us.
    pub sources: Sources,
    /// What the connection is made of.
    pub transport: Transport,
    /// It says that it wants no more pieces (BEP 21).
    pub upload_only: bool,
    /// How many pieces it has.
    pub pieces: u32,
    /// Payload received from it.
    pub downloaded: u64,
    /// Payload sent to it.
    pub uploaded: u64,
    /// Payload received from it that was of no use.
    pub wasted: u64,
    /// Rate of receiving, bytes per second.
    pub down_rate: u64,
    /// Rate of sending, bytes per second.
    pub up_rate: u64,
    /// It does not answer our requests now.
    pub choking_us: bool,
    /// It wants pieces that we have.
    pub interested_in_us: bool,
    /// We do not answer its requests now.
    pub choked_by_us: bool,
    /// We want pieces that it has.
    pub interesting: bool,
    /// It stalled and has not sent since.
    pub snubbed: bool,
    /// Requests that it has not answered yet.
    pub outstanding: u32,
    /// How it behaved before, in this and other torrents and runs.
    pub standing: Standing,
}

impl PeerStats {
    /// Somebody of whom nothing is known yet, for there is no metadata.
    pub(super) fn of_candidate(addr: SocketAddr, incoming: bool) -> Self {
        Self {
            addr,
            client: String::new(),
            incoming,
            sources: Sources::default(),
            transport: Transport::Tcp,
            upload_only: false,
            pieces: 0,
            downloaded: 0,
            uploaded: 0,
            wasted: 0,
            down_rate: 0,
            up_rate: 0,
            choking_us: true,
            interested_in_us: false,
            choked_by_us: true,
            interesting: false,
            snubbed: false,
            outstanding: 0,
            protection: Protection::None,
            standing: Standing::Unknown,
        }
    }
}

/// What happened to a torrent.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// It does something else now.
    State(State),
    /// The metadata has come: [`Torrent::metainfo`] is there from now on.
    Metadata,
    /// A piece is verified and stored.
    Piece {
        /// Which one.
        index: u32,
        /// The peer that sent most of it, as far as it is known still.
        from: Option<SocketAddr>,
    },
    /// A piece failed its hash and is fetched again.
    PieceFailed(u32),
    /// Every piece of a file is verified.
    File(FileIndex),
    /// Everything wanted is verified.
    Finished,
    /// A connection to a peer stands.
    PeerConnected(SocketAddr),
    /// A connection ended, or did not come about.
    PeerGone {
        /// The peer.
        addr: SocketAddr,
        /// Why.
        why: String,
        /// What is remembered of it by now; `None` where that is nothing.
        record: Option<Record>,
    },
    /// A peer lied and is banned.
    PeerBanned(SocketAddr),
    /// A tracker answered or failed.
    Tracker(String),
    /// The DHT cannot be used now, and why: said once.
    Dht(String),
}

/// Whether [`Torrent::remove`] leaves the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// The files and the resume journal stay.
    Keep,
    /// The torrent's files, its folders where they are empty, and the journal go. What another torrent of the session has,
    /// too, stays with all files, and everything does where another session is at work on the torrent.
    Delete,
}

/// The torrent was removed or its session has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the torrent is not part of a session any more")]
pub struct Ended;

impl Torrent {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The name of the torrent in the swarm.
    pub fn info_hash(&self) -> InfoHash {
        self.shared.info_hash
    }

    /// What its .torrent file says; `None` as long as its metadata is looked for (see [`Event::Metadata`]). There for good
    /// once it is there.
    pub fn metainfo(&self) -> Option<&Metainfo> {
        self.shared.known()
    }

    /// What it is called: by its metainfo or, before that is there, by its magnet link; its info-hash where that has no name.
    pub fn name(&self) -> &str {
        self.shared.name()
    }

    /// The folder that its files are in.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Where one of its files is, whether it exists yet or not; the folder as long as there is no metadata.
    pub fn path_of(&self, file: FileIndex) -> PathBuf {
        let metainfo = self.shared.known();
        metainfo.map_or_else(|| self.shared.dir.clone(), |it| self.shared.dir.join(it.layout().file(file).path()))
    }

    /// Its numbers, at most a fraction of a second old. Never waits for the network.
    pub fn stats(&self) -> Stats {
        let mut stats = self.shared.snapshot().stats.clone();
        let (up, down) = (Traffic::read(&self.shared.traffic.up), Traffic::read(&self.shared.traffic.down));
        // What came since it was published belongs to the sums, too.
        stats.uploaded_ever += up.saturating_sub(stats.uploaded);
        stats.downloaded_ever += down.saturating_sub(stats.downloaded);
        (stats.uploaded, stats.downloaded) = (up, down);
        stats
    }

    /// What it is doing.
    pub fn state(&self) -> State {
        self.shared.snapshot().stats.state.clone()
    }

    /// Whether its end has begun: all its connections end, trackers are told, and [`State::Stopped`] follows.
    pub fn is_ending(&self) -> bool {
        self.shared.stopping.load(Ordering::Relaxed)
    }

    /// Its connected peers as they are now; none once it has ended. Waits for the torrent's owner, who waits for nobody: a
    /// moment at most. Costs something for each peer, and nothing while nobody asks.
    pub fn peers(&self) -> Vec<PeerStats> {
        self.shared.ask(Command::Peers).unwrap_or_default()
    }

    /// Where the time of this download went so far, and what could be done about it. Peers that are gone are in the sums.
    /// Costs a lock for each peer, and nothing while nobody asks; never waits for the network.
    pub fn explain(&self) -> Explanation {
        self.shared.ledger.explain(Instant::now())
    }

    /// What its swarm looks like from here. Waits for the torrent's owner, who waits for nobody: a moment at most.
    pub fn survey(&self) -> Result<Survey, Ended> {
        self.shared.ask(Command::Survey)
    }

    /// Its trackers.
    pub fn trackers(&self) -> Vec<TrackerStatus> {
        self.shared.snapshot().trackers.clone()
    }

    /// The verified pieces.
    pub fn pieces(&self) -> Bits {
        self.shared.have.read().clone()
    }

    /// The verified bytes of a file.
    pub fn file_done(&self, file: FileIndex) -> u64 {
        let Some(metainfo) = self.metainfo() else { return 0 };
        let layout = metainfo.layout();
        let (entry, have) = (layout.file(file), self.shared.have.read());
        let (start, end) = (entry.offset(), entry.offset() + entry.len());
        let pieces = layout.pieces_of(file).filter(|&piece| have.get(piece)).filter_map(|piece| layout.piece(piece));
        pieces
            .map(|piece| {
                let from = layout.piece_offset(piece);
                end.min(from + u64::from(layout.piece_len(piece))) - start.max(from)
            })
            .sum()
    }

    /// Waits until everything wanted is verified, or the torrent has failed or ended, or the time is over; and says what
    /// it is doing then. What was commanded before has taken effect: a wait after [`Torrent::recheck`] does not see the
    /// state before it.
    pub fn wait(&self, timeout: Duration) -> State {
        let over = |state: &State| state.is_final() && (self.shared.has_obeyed() || matches!(state, State::Stopped));
        self.shared.wait_until(Instant::now().checked_add(timeout), over)
    }

    /// Closes all connections and waits for [`Torrent::resume`]. Returns at once.
    pub fn pause(&self) -> Result<(), Ended> {
        self.shared.command(Command::Pause)
    }

    /// Goes on after a pause or a failure. Returns at once.
    pub fn resume(&self) -> Result<(), Ended> {
        self.shared.command(Command::Resume)
    }

    /// Takes the torrent out of its session. Returns at once; [`Torrent::wait`] sees the end.
    pub fn remove(&self, data: Data) -> Result<(), Ended> {
        self.shared.command(Command::Remove(data))
    }

    /// Hashes all files again. Returns at once. Peers stay connected meanwhile and hear which pieces turned out to be lost
    /// (BEP 54); those that do not understand that are let go.
    pub fn recheck(&self) -> Result<(), Ended> {
        self.shared.command(Command::Recheck)
    }

    /// The priority of a file. A skipped file is not created; a piece that it shares with a wanted file is kept aside.
    pub fn set_priority(&self, file: FileIndex, priority: Priority) -> Result<(), Ended> {
        self.shared.command(Command::Priority(file, priority))
    }

    /// The priorities of the files, in the order of the metainfo.
    pub fn priorities(&self) -> Vec<Priority> {
        self.shared.snapshot().priorities.clone()
    }

    /// The order in which pieces are fetched from now on.
    pub fn set_order(&self, order: Order) -> Result<(), Ended> {
        self.shared.command(Command::Order(order))
    }

    /// The limits of this torrent from now on, beside those of its session.
    pub fn set_limits(&self, limits: RateLimits) -> Result<(), Ended> {
        self.shared.command(Command::Limits(limits))
    }

    /// Peers that a tracker of the program's own knows, which is not announced to. They are dialled like those of other trackers,
    /// no sooner and for no longer; never waits.
    pub fn add_tracker_peers(&self, tracker: &str, peers: Vec<SocketAddr>) {
        let fact = TrackerFact::Peers { url: tracker.into(), peers };
        // An owner that is busy learns of them the next time.
        self.shared.inbox.try_send(Inbox::Tracker(fact)).ok();
    }

    /// Connects to a peer, tracker or not.
    pub fn add_peer(&self, addr: SocketAddr) -> Result<(), Ended> {
        self.shared.command(Command::AddPeers(vec![addr]))
    }

    /// Asks the trackers for peers now, where their minimum interval allows it.
    pub fn announce(&self) -> Result<(), Ended> {
        self.shared.command(Command::Announce)
    }

    /// The events from now on. A subscriber that leaves 4,096 of them unread misses what follows, so that nobody has to
    /// wait for it; [`Torrent::stats`] always has the truth.
    pub fn events(&self) -> Receiver<Event> {
        self.shared.subscribe()
    }

    /// Opens a file for reading while it is still arriving: reads wait until their bytes are verified, and what is read
    /// next is fetched first.
    pub fn open(&self, file: FileIndex) -> Result<FileReader, OpenError> {
        FileReader::open(Arc::clone(&self.shared), file)
    }
}

impl std::fmt::Debug for Torrent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Torrent({} {})", self.info_hash(), self.name())
    }
}
