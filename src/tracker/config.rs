//! What a tracker can be told, with the defaults that are documented here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::key::AccessKey;
use super::network::IpNetwork;

/// The port that trackers are usually at.
const PORT: u16 = 6969;

/// How a [`Tracker`](super::Tracker) works. Start from `TrackerConfig::default()` and change what you need.
#[derive(Clone, Debug)]
pub struct TrackerConfig {
    /// Where to listen for HTTP; port 0 takes a free one. An IPv6 address serves IPv6 alone. Where the system has no IPv6,
    /// an unspecified IPv6 address is left out. Default: all addresses, port 6969.
    pub http: Vec<SocketAddr>,
    /// The same for UDP (BEP 15). Default: all addresses, port 6969.
    pub udp: Vec<SocketAddr>,
    /// Where Linux runs: hear only who comes in by this network interface. Default: `None`, by any.
    pub interface: Option<String>,
    /// Where to serve pages for who runs the tracker: `/`, `/stats.json` and `/metrics`. They are served nowhere else.
    /// Default: `None`, no pages.
    pub admin: Option<SocketAddr>,
    /// Where it is kept who takes part. Default: in memory.
    pub store: StoreConfig,
    /// Where the memory's content is kept between runs: read at the start, if it is there, and written now and then and at the
    /// end. One tracker at a time has it: a file of that name with `.lock` behind it is locked. Default: `None`, nowhere.
    pub state_file: Option<PathBuf>,
    /// How often the state file is written while there is something new. A crash loses what came since. Default: 5 min.
    pub state_interval: Duration,
    /// What clients are asked to wait between announces. Default: 30 min.
    pub interval: Duration,
    /// Which torrents are served, and to whom.
    pub access: AccessConfig,
    /// Whose word is believed on where a request came from (`X-Forwarded-For`). Default: nobody's.
    pub proxies: Vec<IpNetwork>,
    /// How much one request may ask, and how many connections there may be.
    pub limits: RequestLimits,
    /// How often one address may ask; `None` for as often as it likes, which is the default.
    pub rate: Option<RequestRate>,
    /// Threads for each address that is listened on. Default: `None`, one for each core.
    pub workers: Option<NonZeroUsize>,
}

impl Default for TrackerConfig {
    fn default() -> Self {
        let all = vec![(Ipv4Addr::UNSPECIFIED, PORT).into(), (Ipv6Addr::UNSPECIFIED, PORT).into()];
        Self {
            http: all.clone(),
            udp: all,
            interface: None,
            admin: None,
            store: StoreConfig::default(),
            state_file: None,
            state_interval: Duration::from_secs(5 * 60),
            interval: Duration::from_secs(30 * 60),
            access: AccessConfig::default(),
            proxies: Vec::new(),
            limits: RequestLimits::default(),
            rate: None,
            workers: None,
        }
    }
}

/// Where it is kept who takes part.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StoreConfig {
    /// In this process.
    Memory(MemoryConfig),
    /// In Redis, which several trackers share.
    #[cfg(feature = "redis")]
    Redis(super::RedisConfig),
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self::Memory(MemoryConfig::default())
    }
}

/// The bounds of a store in memory.
#[derive(Clone, Debug)]
pub struct MemoryConfig {
    /// Torrents that are remembered; an announce of one more is answered without peers. Default: 1,000,000.
    pub torrents: usize,
    /// Peers that are remembered in all; one more gets an answer but is given to nobody. Default: 10,000,000.
    pub peers: usize,
    /// The same for one torrent. Default: 1,000,000.
    pub peers_per_torrent: usize,
    /// A peer that does not announce for this long has gone; more than 12 h is taken for 12 h. Default: 45 min, half as much
    /// again as the usual interval.
    pub expiry: Duration,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        let expiry = Duration::from_secs(45 * 60);
        Self { torrents: 1_000_000, peers: 10_000_000, peers_per_torrent: 1_000_000, expiry }
    }
}

/// What is served, and to whom. The files have an info-hash a line, 40 hexadecimal digits; what is behind a `#` is a comment.
/// [`Tracker::reload`](super::Tracker::reload) reads them again.
#[derive(Clone, Debug, Default)]
pub struct AccessConfig {
    /// Names the only torrents that are served. Default: `None`, all are.
    pub allow: Option<PathBuf>,
    /// Names torrents that are not served, even if they are allowed. Default: `None`, none.
    pub deny: Option<PathBuf>,
    /// Has the tracker serve only who knows its key, which stands in the path of announce URLs: `/KEY/announce`, and for HTTP
    /// `/KEY/scrape`. Over UDP clients say the path in announces (BEP 41) and not in scrapes, which are refused then. Default:
    /// `None`, it serves everybody.
    pub key: Option<AccessKey>,
}

/// How much one request may ask, and how many connections there may be.
#[derive(Clone, Debug)]
pub struct RequestLimits {
    /// The most peers in an answer. Default: 200.
    pub peers: usize,
    /// How many peers to give to who does not say. Default: 50.
    pub usual_peers: usize,
    /// The most torrents in one scrape over HTTP. Default: 100.
    pub scrape: usize,
    /// The most torrents in the answer to a scrape that names none, the largest answer that there is; 0 refuses it. Default: 0.
    pub full_scrape: usize,
    /// HTTP connections at once. Default: 20,000.
    pub connections: usize,
    /// HTTP connections at once from one IPv4 address or IPv6 network of 64 bits, [proxies](TrackerConfig::proxies)
    /// excepted. Default: 500.
    pub connections_per_address: usize,
    /// The longest head of an HTTP request, in bytes. A scrape of 100 torrents needs some 7,000. Default: 16,384.
    pub head: usize,
    /// How long a client may take over its request once it has begun, and then over taking the answer. Default: 10 s.
    pub request_time: Duration,
    /// How long a connection may stay without a request. Default: 60 s.
    pub idle_time: Duration,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            peers: 200,
            usual_peers: 50,
            scrape: 100,
            full_scrape: 0,
            connections: 20_000,
            connections_per_address: 500,
            head: 16 << 10,
            request_time: Duration::from_secs(10),
            idle_time: Duration::from_secs(60),
        }
    }
}

/// How often one IPv4 address or IPv6 network of 64 bits may ask.
#[derive(Clone, Copy, Debug)]
pub struct RequestRate {
    /// Announces and scrapes a minute, over time; a UDP client's asking for a connection id does not count. Default: 60.
    pub per_minute: u32,
    /// So many may come at once. Default: 120.
    pub burst: u32,
}

impl Default for RequestRate {
    fn default() -> Self {
        Self { per_minute: 60, burst: 120 }
    }
}

/// The part of an address that one customer of a network has: limits count by it.
pub(super) fn customer(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}
