//! A session: the listening port, the threads and the limits that its torrents share.
//!
//! It owns the crew of threads and the registry of torrents. What a torrent does is its owner's.
//!
//! - `reception`: the listening sockets, and callers until a torrent admits them. `registry`: the torrents by name.
//! - `outlet`: whether what the session is bound to is there. `udp`: what is at the UDP port. `gateway`: the port outside
//!   (feature `upnp`).
//! - `records`: what is remembered of peers from one run to the next.

#[cfg(feature = "upnp")]
mod gateway;
mod outlet;
mod reception;
mod records;
mod registry;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};

use crate::config::{AddOptions, Bind, Config, RateLimits, Transports};
use crate::crew::{Crew, NoThread};
#[cfg(feature = "upnp")]
use crate::discovery::PortMapper;
use crate::discovery::{DhtStatus, LocalDiscovery, LocalListening, NodeHandle, Tls};
use crate::metainfo::{InfoHash, Magnet, Metainfo};
use crate::net::bind::is_cut_off;
use crate::net::udp::{UdpPort, Waker};
use crate::net::{BindError, Closer, Listener, Outlet, bind_listener};
use crate::peer::{BufferPool, Valve};
use crate::policy::IpFilter;
use crate::torrent::{self, Budget, Command, Resources, Shared, State, Torrent};
use crate::wire::handshake::PeerId;
use reception::{Doors, Greetings, Reception};
use registry::Torrents;

/// Ports to try, where any will do, until one is free for TCP and UDP.
const PORT_TRIES: usize = 16;
/// The stack of an accepting thread, and the measure for the others that the session starts for itself.
const STACK: usize = 128 * 1024;

/// Torrents that share a listening port, threads and limits. Dropping it stops everything and joins every thread.
///
/// ```no_run
/// use ropewalk::{AddOptions, Config, Metainfo, Session};
/// use std::time::Duration;
///
/// let session = Session::new(Config::default())?;
/// let metainfo = Metainfo::read("debian.iso.torrent".as_ref())?;
/// let torrent = session.add(metainfo, AddOptions::new("downloads"))?;
/// while !torrent.wait(Duration::from_secs(1)).is_final() {
///     let stats = torrent.stats();
///     println!("{} of {} bytes from {} peers", stats.done, stats.wanted, stats.peers);
/// }
/// session.shutdown();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Session {
    resources: Arc<Resources>,
    torrents: Registry,
    doors: Arc<Doors>,
    greetings: Arc<Greetings>,
    #[cfg(feature = "upnp")]
    port_map: Option<PortMapper>,
    /// Ends the thread at the UDP port, where there is one. The node of the DHT is kept in its file first.
    udp: Option<Arc<Waker>>,
    /// Ends the thread that looks after what the session is bound to.
    outlet_stop: Arc<Closer>,
}

/// The torrents by info-hash. Locked to look one up, to add or to remove one.
type Registry = Arc<RwLock<Torrents>>;

/// Why a session did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// No port could be listened on.
    #[error("cannot listen on port {}{}: {source}; choose another port or address", span(*.first, *.last), of(.bind))]
    Listen {
        /// The first port that was tried.
        first: u16,
        /// The last port that was tried.
        last: u16,
        /// What to bind to, if anything was given.
        bind: Option<Bind>,
        /// What the system said.
        source: io::Error,
    },
    /// What everything is to be bound to is not there.
    #[error("cannot bind to {bind}: {source}; bring it up, or choose another interface or address")]
    Bind {
        /// What was asked for.
        bind: Bind,
        /// Why not.
        source: BindError,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(String),
}

/// Why a torrent was not added.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// The session has this torrent.
    #[error("the torrent {0} is in the session already")]
    Duplicate(InfoHash),
    /// A magnet link that has no v1 info-hash.
    #[error(
        "the magnet link is of a v2-only torrent (BEP 52), which ropewalk cannot read; look for a v1 or hybrid one"
    )]
    V2Only,
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(String),
}

fn span(first: u16, last: u16) -> String {
    if first == last { first.to_string() } else { format!("{first} to {last}") }
}

fn of(bind: &Option<Bind>) -> String {
    bind.as_ref().map_or_else(String::new, |bind| format!(" of {bind}"))
}

impl Session {
    /// Listens and starts the threads that all torrents share.
    pub fn new(config: Config) -> Result<Self, SessionError> {
        let bind = config.listen.bind.clone();
        let outlet = Outlet::new(bind.clone()).map_err(|source| match bind {
            Some(bind) => SessionError::Bind { bind, source },
            None => unreachable!("without anything to bind to nothing is looked for"),
        })?;
        let outlet = Arc::new(outlet);
        let (listeners, udp) =
            if config.listen.accept { listen(&config)? } else { (Vec::new(), udp::bind(&config, 0)) };
        let port = port_of(&listeners);
        let local = if config.local_discovery { local_discovery(&config, port) } else { None };
        let crew = Arc::new(Crew::new(config.resources.max_threads));
        let thread = |error: NoThread| SessionError::Thread(error.to_string());
        let verify = torrent::verify::start(&crew, &config.resources).map_err(thread)?;
        let udp = udp::start(udp, &config, &crew, &outlet);
        let resources = Arc::new(Resources {
            crew: Arc::clone(&crew),
            our_id: PeerId::ropewalk(std::array::from_fn(|_| fastrand::u8(..))),
            port,
            outside_port: Arc::new(port.into()),
            outlet,
            verify: Mutex::new(Some(verify)),
            budget: Arc::new(Budget::new(config.resources.in_flight)),
            claims: Arc::default(),
            pool: BufferPool::new(),
            down: Arc::new(Valve::new(config.limits.down)),
            up: Arc::new(Valve::new(config.limits.up)),
            tls: Tls::default(),
            dht: udp.dht,
            utp: udp.utp,
            #[cfg(feature = "upnp")]
            udp_port: udp.port,
            local: local.as_ref().map(|(local, _)| local.clone()),
            key_for_trackers: fastrand::u32(..),
            next_key: AtomicU32::new(0),
            filter: RwLock::new(Arc::clone(&config.peers.filter)),
            blocked_callers: AtomicU64::new(0),
            reputation: Mutex::new(records::load(config.peers.reputation_file.as_deref())),
            config,
        });
        let torrents = Registry::default();
        let (doors, greetings) = (Arc::<Doors>::default(), Arc::new(Greetings::new()));
        #[cfg_attr(not(feature = "upnp"), expect(unused_mut, reason = "only the port map comes later"))]
        let mut session = Self {
            resources,
            torrents,
            doors,
            greetings,
            #[cfg(feature = "upnp")]
            port_map: None,
            udp: udp.waker,
            outlet_stop: Arc::default(),
        };
        let reception = Reception {
            resources: Arc::clone(&session.resources),
            torrents: Arc::clone(&session.torrents),
            greetings: Arc::clone(&session.greetings),
        };
        reception.open(listeners, &session.doors).map_err(thread)?;
        if let Some(calls) = udp.calls {
            reception.take_calls(calls).map_err(thread)?;
        }
        outlet::start(reception, Arc::clone(&session.doors), Arc::clone(&session.outlet_stop)).map_err(thread)?;
        if let Some((_, listening)) = local {
            session.resources.crew.spawn("lsd".into(), STACK, move || listening.run()).map_err(thread)?;
        }
        #[cfg(feature = "upnp")]
        session.map_port().map_err(thread)?;
        Ok(session)
    }

    /// Adds a torrent and returns at once: its files are opened and checked meanwhile.
    pub fn add(&self, metainfo: Metainfo, options: AddOptions) -> Result<Torrent, AddError> {
        let info_hash = metainfo.info_hash();
        self.take_in(info_hash, || torrent::start(metainfo, options, Arc::clone(&self.resources)))
    }

    /// Adds the torrent of a magnet link and returns at once. Peers are looked for that have its metadata
    /// ([`State::Metadata`]); then it is like any other ([`Event::Metadata`](crate::Event::Metadata)), downloads what the
    /// link selects, or what [`AddOptions::priorities`] say where they say anything, and keeps its .torrent file beside the
    /// journal, so that the next time nothing has to be looked for. [`Start::Paused`](crate::Start::Paused) is for what
    /// comes after that: the metadata is looked for all the same.
    pub fn add_magnet(&self, magnet: Magnet, options: AddOptions) -> Result<Torrent, AddError> {
        let info_hash = magnet.info_hash.ok_or(AddError::V2Only)?;
        self.take_in(info_hash, || torrent::start_magnet(magnet, info_hash, options, Arc::clone(&self.resources)))
    }

    /// Starts a torrent and registers it, unless it is there.
    fn take_in(
        &self,
        info_hash: InfoHash,
        start: impl FnOnce() -> Result<Arc<Shared>, NoThread>,
    ) -> Result<Torrent, AddError> {
        let mut torrents = self.torrents.write();
        // One that was removed, or has ended, makes room for the same one again.
        torrents.retain(|_, shared| !matches!(shared.snapshot().stats.state, State::Stopped));
        if torrents.contains_key(&info_hash) {
            return Err(AddError::Duplicate(info_hash));
        }
        let shared = start().map_err(|error| AddError::Thread(error.to_string()))?;
        torrents.insert(info_hash, Arc::clone(&shared));
        Ok(Torrent::new(shared))
    }

    /// The torrents of the session.
    pub fn torrents(&self) -> Vec<Torrent> {
        let torrents = self.torrents.read();
        let live = torrents.values().filter(|shared| !matches!(shared.snapshot().stats.state, State::Stopped));
        live.map(|shared| Torrent::new(Arc::clone(shared))).collect()
    }

    /// The addresses that peers can reach us at, with the port: none where the session does not listen.
    pub fn listen_addrs(&self) -> Vec<SocketAddr> {
        self.doors.addrs()
    }

    /// The port that peers can reach us at; 0 where the session does not listen.
    pub fn port(&self) -> u16 {
        self.resources.port
    }

    /// How it goes with the session's node of the DHT; `None` where it is none.
    pub fn dht(&self) -> Option<DhtStatus> {
        self.resources.dht.as_ref().map(NodeHandle::status)
    }

    /// The addresses at which the session's node of the DHT is heard: UDP, the ports of
    /// [`listen_addrs`](Self::listen_addrs) where they are free.
    pub fn dht_addrs(&self) -> Vec<SocketAddr> {
        self.resources.dht.as_ref().map_or_else(Vec::new, |node| node.addrs().to_vec())
    }

    /// The limits of all torrents together from now on.
    pub fn set_limits(&self, limits: RateLimits) {
        let now = Instant::now();
        self.resources.down.set_rate(limits.down, now);
        self.resources.up.set_rate(limits.up, now);
    }

    /// Has nothing to do with those that this filter blocks from now on: their connections are closed, in all torrents.
    /// Whom the filter before it blocked is welcome again, when somebody names him.
    pub fn set_filter(&self, filter: Arc<IpFilter>) {
        *self.resources.filter.write() = filter;
        // The registry is not locked while an owner's inbox may be full. Torrents that are added from here on know.
        let torrents: Vec<Arc<Shared>> = self.torrents.read().values().cloned().collect();
        for shared in torrents {
            shared.command(Command::Filter).ok();
        }
    }

    /// Stops everything and joins every thread: journals are written, trackers are told, for at most a few seconds
    /// ([`TrackerConfig::stop_grace`](crate::TrackerConfig::stop_grace)). The same as dropping the session.
    pub fn shutdown(self) {}
}

impl Drop for Session {
    fn drop(&mut self) {
        self.outlet_stop.close();
        if let Some(local) = &self.resources.local {
            local.stop();
        }
        #[cfg(feature = "upnp")]
        if let Some(port_map) = &self.port_map {
            port_map.stop();
        }
        self.doors.shut();
        self.greetings.stop();
        // The registry is not locked while an owner's inbox may be full: callers that wait in it look something up first.
        let torrents: Vec<Arc<Shared>> = self.torrents.read().values().cloned().collect();
        for shared in torrents {
            shared.command(Command::Stop).ok();
        }
        if let Some(udp) = &self.udp {
            udp.stop();
        }
        // The verify workers end with the last sender; all others go with their torrents.
        self.resources.verify.lock().take();
        self.resources.crew.join();
        records::save(self.resources.config.peers.reputation_file.as_deref(), &self.resources.reputation.lock());
    }
}

/// Without it there are other ways to find peers, so that an error is only said.
fn local_discovery(config: &Config, port: u16) -> Option<(LocalDiscovery, LocalListening)> {
    let made = LocalDiscovery::new(config.listen.bind.clone(), port);
    made.inspect_err(|error| log::warn!("peers on the local network are not looked for: {error}")).ok()
}

/// Listens, and binds the UDP port: of the same number, if there is one that is free for both. Where uTP is all that is
/// spoken, there has to be.
fn listen(config: &Config) -> Result<(Vec<Listener>, Option<io::Result<UdpPort>>), SessionError> {
    let (bind, ports) = (config.listen.bind.as_ref(), config.listen.ports.clone());
    let (first, last) = (*ports.start(), *ports.end());
    let refused = |source| SessionError::Listen { first, last, bind: bind.cloned(), source };
    let only_utp = config.peers.transports == Transports::Utp;
    if !config.listen.accept {
        return match udp::bind(config, 0) {
            Some(Err(error)) if only_utp => Err(refused(error)),
            udp => Ok((Vec::new(), udp)),
        };
    }
    // The default range is a habit of the field, not a need.
    let is_default = ports == crate::config::ListenConfig::default().ports;
    let any = std::iter::repeat_n(0, if is_default || ports.contains(&0) { PORT_TRIES } else { 0 });
    let mut error = io::Error::new(io::ErrorKind::InvalidInput, "the range of ports is empty");
    // Those before are held meanwhile, so that any port is another one.
    let mut half_free = Vec::new();
    for port in ports.chain(any) {
        let listeners = match bind_listener(bind, port..=port) {
            Ok(listeners) => listeners,
            // The next port will not bring the interface back.
            Err(cut_off) if is_cut_off(&cut_off) => return Err(refused(cut_off)),
            Err(taken) => {
                error = taken;
                continue;
            }
        };
        match udp::bind(config, port_of(&listeners)) {
            Some(Err(taken)) if taken.kind() == io::ErrorKind::AddrInUse => half_free.push((listeners, taken)),
            udp => return Ok((listeners, udp)),
        }
    }
    match half_free.into_iter().next() {
        None => Err(refused(error)),
        Some((_, taken)) if only_utp => Err(refused(taken)),
        Some((listeners, taken)) => Ok((listeners, Some(Err(taken)))),
    }
}

/// The port that is listened on; 0 where none is.
fn port_of(listeners: &[Listener]) -> u16 {
    listeners.first().map_or(0, |listener| listener.addr().port())
}
