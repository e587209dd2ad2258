//! What a session and a torrent can be told, with the defaults that are documented here.

mod bind;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::hash::Backend;
use crate::metainfo::Metainfo;
use crate::policy::IpFilter;
pub(crate) use crate::policy::Priority;
pub use bind::{Bind, BindSyntax};

/// How a [`Session`](crate::Session) works. Start from `Config::default()` and change what you need.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Where peers can reach us.
    pub listen: ListenConfig,
    /// Limits for all torrents together.
    pub limits: RateLimits,
    /// How many peers, and how patient we are.
    pub peers: PeerConfig,
    /// Memory and threads.
    pub resources: ResourceConfig,
    /// How trackers are spoken to.
    pub trackers: TrackerConfig,
    /// Finding peers without a tracker, by the distributed hash table.
    pub dht: DhtConfig,
    /// Whether peers on the local network are looked for (BEP 14), which tells the torrents' info-hashes to everybody there;
    /// those of private torrents are not told. Default: false; the program `ropewalk` does it.
    pub local_discovery: bool,
    /// Whether the gateway is asked to let peers in. Without the feature `upnp` it is not.
    pub port_map: PortMapConfig,
    /// Where the resume journals are kept; `None` for the folder `.ropewalk` beside each torrent's files.
    pub state_dir: Option<PathBuf>,
}

/// Where peers can reach us.
#[derive(Clone, Debug)]
pub struct ListenConfig {
    /// The ports to try for TCP and UDP, in order; 0 is any free port. Default: 6881 to 6889, then any. One port serves IPv4
    /// and IPv6.
    pub ports: RangeInclusive<u16>,
    /// The one address or interface to use, for every socket and in both directions; `None` for what the system chooses.
    /// Where it is gone, torrents wait until it is back ([`State::Waiting`](crate::State::Waiting)) and nothing is sent
    /// any other way, with one exception: host names are looked up by the system, in its own way, as long as it is there.
    pub bind: Option<Bind>,
    /// Whether to listen at all. Default: true.
    pub accept: bool,
}

impl Default for ListenConfig {
    fn default() -> Self {
        Self { ports: 6881..=6889, bind: None, accept: true }
    }
}

/// Limits on payload, in bytes per second; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// What we receive.
    pub down: Option<u64>,
    /// What we send.
    pub up: Option<u64>,
}

/// How many peers, and how patient we are with them.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// Connections per torrent, dialled and accepted. Default: 200.
    pub per_torrent: usize,
    /// New connections that we begin per second and torrent. Default: 30.
    pub dials_per_second: u32,
    /// Peers that we upload to at the same time; `None` for as many as the measured capacity feeds (at least 8).
    pub upload_slots: Option<usize>,
    /// How long a connection may take to be made, over TCP and uTP together. Default: 10 s.
    pub connect_timeout: Duration,
    /// How long a handshake may take. Default: 10 s.
    pub handshake_timeout: Duration,
    /// A peer that sends nothing at all for this long is dropped. Default: 240 s.
    pub idle_timeout: Duration,
    /// Whether peers tell us of others and we tell them (peer exchange, BEP 11); never for private torrents. Default: true.
    pub exchange: bool,
    /// Whether connections are encrypted. Default: preferred.
    pub encryption: Encryption,
    /// What connections are made of. Default: TCP, and uTP where that leads nowhere.
    pub transports: Transports,
    /// Whom to have nothing to do with, in either direction, whoever names them. Another one can be put in its place by
    /// [`Session::set_filter`](crate::Session::set_filter). Default: nobody is blocked.
    pub filter: Arc<IpFilter>,
    /// The file that keeps what is remembered of peers (who gave, who lied, who stalled) from one run to the next: read when
    /// the session starts, written when it ends. Default: `None`, nothing is kept.
    pub reputation_file: Option<PathBuf>,
}

impl Default for PeerConfig {
    fn default() -> Self {
        Self {
            per_torrent: 200,
            dials_per_second: 30,
            upload_slots: None,
            connect_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(240),
            exchange: true,
            encryption: Encryption::Prefer,
            transports: Transports::Both,
            filter: Arc::default(),
            reputation_file: None,
        }
    }
}

/// Whether connections to peers are encrypted (message stream encryption, MSE). It hides from who looks on that a
/// connection is BitTorrent; it is not made to withstand more than that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// Peers are dialled with an encrypted handshake. One that hangs up on it is dialled again in plaintext, which is
    /// remembered for its address. Callers may do either. Behind an encrypted handshake the payload is plaintext if the
    /// other side agrees, which costs nothing, else RC4.
    #[default]
    Prefer,
    /// Everything is encrypted with RC4, in both directions; nothing else is dialled or let in.
    Require,
    /// Plaintext only; callers that encrypt are hung up on.
    Off,
}

/// What connections to peers are made of. uTP (BEP 29) goes over the UDP port, of the same number as the TCP port where that
/// is free, and yields to other traffic; it takes more processor time than TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transports {
    /// Peers are dialled by TCP, and where nobody answers, the call is refused, or it is hung up on before a handshake, once
    /// more by uTP. Callers may use either.
    #[default]
    Both,
    /// TCP alone. Who calls by uTP is told at once that it is not spoken.
    Tcp,
    /// uTP alone. Who calls by TCP is hung up on. The UDP port has to be free.
    Utp,
}

/// Memory and threads.
#[derive(Clone, Debug)]
pub struct ResourceConfig {
    /// The bytes of all pieces in flight, those that wait for verification included. One piece per torrent is always
    /// allowed. Default: 64 MiB.
    pub in_flight: u64,
    /// The threads of peers, torrents and workers together; those that announce or check files are not counted. A peer
    /// takes two, a torrent two. Default: 4,096.
    pub max_threads: usize,
    /// Threads that verify and store pieces, and that check files. Default: one per core.
    pub workers: usize,
    /// How verified pieces get into mapped files. Default: whichever takes less processor time there.
    pub storing: Storing,
    /// How the workers hash. Default: the quickest way on this processor.
    pub hashing: Backend,
}

impl Default for ResourceConfig {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(2, usize::from);
        Self { in_flight: 64 << 20, max_threads: 4096, workers, storing: Storing::Write, hashing: Backend::best() }
    }
}

/// How verified pieces get into files that are mapped. Either way the mapping is what uploads are sent from, and small
/// files are never mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storing {
    /// Written to their offsets by `pwritev(2)`, into the same pages of the page cache that the mapping shows. The kernel
    /// takes less time for that than for the page faults of a mapping: a fifth on ext4, two thirds in memory (tmpfs).
    #[default]
    Write,
    /// Copied into the mapping at their offsets.
    Map,
}

/// How trackers are spoken to.
#[derive(Clone, Debug)]
pub struct TrackerConfig {
    /// How many peers to ask for. Default: 200.
    pub numwant: u32,
    /// How long the end of a session waits for the last announces. Default: 3 s.
    pub stop_grace: Duration,
}

impl Default for TrackerConfig {
    fn default() -> Self {
        Self { numwant: 200, stop_grace: Duration::from_secs(3) }
    }
}

/// Finding peers without a tracker: the distributed hash table (BEP 5), of which a session becomes a node.
///
/// Nothing is sent before there is a torrent that may use it, which a private one (BEP 27) may not. A session that is bound
/// to a loopback address keeps to loopback: it looks no name up and sends nothing elsewhere.
#[derive(Clone, Debug)]
pub struct DhtConfig {
    /// Whether there is a node at all. Default: true.
    pub enabled: bool,
    /// Nodes to begin with, as `HOST:PORT`, where those of the last run do not answer. Default: four that are run for
    /// everybody.
    pub bootstrap: Vec<String>,
    /// Whether to ask only, and to tell others that they get no answers (BEP 43). For nodes that cannot be reached, or that
    /// will not live long. Default: false.
    pub read_only: bool,
    /// Where the node's id and the nodes that it knows are kept between runs; `None` for nowhere. A file that cannot be
    /// understood is ignored, and written anew. Default: `None`.
    pub state_file: Option<PathBuf>,
}

impl Default for DhtConfig {
    fn default() -> Self {
        let bootstrap = [
            "router.bittorrent.com:6881",
            "dht.transmissionbt.com:6881",
            "dht.libtorrent.org:25401",
            "router.utorrent.com:6881",
        ];
        Self { enabled: true, bootstrap: bootstrap.map(str::to_owned).into(), read_only: false, state_file: None }
    }
}

/// Whether and how the gateway is asked to pass the port on to us: by PCP, NAT-PMP or UPnP, whichever answers.
#[derive(Clone, Debug)]
pub struct PortMapConfig {
    /// Whether it is asked. Default: false.
    pub enabled: bool,
    /// Where PCP and NAT-PMP are spoken; `None` for the default gateway. Default: `None`.
    pub gateway: Option<SocketAddr>,
    /// Where gateways of UPnP are looked for. Default: 239.255.255.250:1900, the local network.
    pub search: SocketAddr,
    /// For how long a mapping is asked for; it is renewed at half of that. Default: 1 h.
    pub lifetime: Duration,
}

impl Default for PortMapConfig {
    fn default() -> Self {
        let search = SocketAddr::from(([239, 255, 255, 250], 1900));
        Self { enabled: false, gateway: None, search, lifetime: Duration::from_secs(60 * 60) }
    }
}

/// How one torrent is added. Start from [`AddOptions::new`] and change what you need.
#[derive(Clone, Debug)]
pub struct AddOptions {
    /// The folder that the torrent's files go into.
    pub dir: PathBuf,
    /// What to begin with.
    pub start: Start,
    /// In which order pieces are fetched.
    pub order: Order,
    /// A priority per file, in the order of the metainfo; what is missing is [`Priority::Normal`].
    pub priorities: Vec<Priority>,
    /// Says a priority per file when the metadata of a magnet link has come, before any file is made; instead of
    /// `priorities` and of what the link selects.
    pub choose: Option<Choose>,
    /// Peers to connect to, tracker or not.
    pub peers: Vec<SocketAddr>,
    /// Limits for this torrent, beside those of the session.
    pub limits: RateLimits,
    /// What to trust of the files that are there.
    pub check: Check,
    /// How to seed.
    pub seeding: Seeding,
    /// Whether the trackers of the metainfo are announced to. Default: true.
    pub announce: bool,
}

impl AddOptions {
    /// Downloads everything into `dir`, rarest pieces first.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            start: Start::Running,
            order: Order::RarestFirst,
            priorities: Vec::new(),
            choose: None,
            peers: Vec::new(),
            limits: RateLimits::default(),
            check: Check::Journal,
            seeding: Seeding::Normal,
            announce: true,
        }
    }
}

/// Chooses among the files of a torrent that are not known when it is added. Called once, by the torrent's own thread, which
/// waits for it.
#[derive(Clone)]
pub struct Choose(Arc<Chooser>);

type Chooser = dyn Fn(&Metainfo) -> Vec<Priority> + Send + Sync;

impl Choose {
    /// `choose` gives a priority per file, in the order of the metainfo; what is missing is [`Priority::Normal`].
    pub fn new(choose: impl Fn(&Metainfo) -> Vec<Priority> + Send + Sync + 'static) -> Self {
        Self(Arc::new(choose))
    }

    pub(crate) fn priorities(&self, metainfo: &Metainfo) -> Vec<Priority> {
        (self.0)(metainfo)
    }
}

impl std::fmt::Debug for Choose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Choose")
    }
}

/// What a torrent begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Connect, download, seed.
    Running,
    /// Check the files, then wait for [`Torrent::resume`](crate::Torrent::resume).
    Paused,
    /// Connect only to see who is there ([`Torrent::survey`](crate::Torrent::survey)): nothing is fetched or given, no
    /// file is looked at or made, no journal is kept. To trackers and peers we are somebody who has nothing yet.
    Looking,
}

/// In which order pieces are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The rarest first: best for the swarm and, over time, for us.
    RarestFirst,
    /// From the first to the last.
    Sequential,
}

/// What to trust of the files that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The resume journal, where it fits the files; everything else is hashed.
    Journal,
    /// Nothing: hash everything.
    Full,
    /// The files are complete and are only read, never written or created; a journal is not kept. Everything is hashed.
    ReadOnly,
    /// As `ReadOnly`, for files that the caller has hashed just now, such as by [`create`](crate::create::create): files of
    /// the right length are believed. When the torrent is opened once more, everything is hashed.
    Hashed,
}

/// How to seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seeding {
    /// Everybody sees all that we have.
    Normal,
    /// Each peer is shown one piece at a time, so that the first copies spread with the least upload (BEP 16). For the
    /// only seed of a new torrent.
    Super,
}
