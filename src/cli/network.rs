//! The options about connections that `get` and `seed` share.

use std::ffi::OsString;
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::Args;
use etcetera::BaseStrategy;
use ropewalk::{Bind, Config, Encryption, Magnet, Metainfo, Session, Storing, Transports};
use serde_json::json;

use super::blocklist;
use super::exit::{Code, failed, io_text};
use super::hashing::hashing;
use super::json::Json;
use super::screen::Screen;
use super::signal::Stop;
use super::words::{read_host_port, read_ports, read_rate};

#[derive(Args)]
#[command(next_help_heading = "Connections")]
pub struct Network {
    /// Connect to this peer, tracker or not; can be repeated
    #[arg(long, value_name = "HOST:PORT")]
    pub peer: Vec<String>,
    /// Receive at most so much per second, all torrents together: 500KB, 2MB, 1.5MiB
    #[arg(long, value_name = "RATE", value_parser = read_rate)]
    pub limit_down: Option<u64>,
    /// Send at most so much per second
    #[arg(long, value_name = "RATE", value_parser = read_rate)]
    pub limit_up: Option<u64>,
    /// Listen on this port, or on the first free one of a range; 0 is any [default: 6881-6889, else any]
    #[arg(long, value_name = "PORT", value_parser = read_ports)]
    pub port: Option<RangeInclusive<u16>>,
    /// Use only this local address or network interface, for everything; wait where it is gone. Host names are looked up
    /// by the system, in its own way
    #[arg(long, value_name = "ADDR|INTERFACE")]
    pub bind: Option<Bind>,
    /// Connections per torrent
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max_peers: u32,
    /// Whether connections are encrypted. prefer: an encrypted handshake where the peer knows it, plaintext where not, and
    /// callers as they like; require: RC4 or no connection; off: plaintext only
    #[arg(long, value_name = "MODE", value_enum, default_value = "prefer")]
    pub encryption: Encrypt,
    /// What connections are made of. both: peers are dialled by TCP, and by uTP where that leads nowhere, and callers come
    /// by either; tcp or utp: that alone, in both directions
    #[arg(long, value_name = "MODE", value_enum, default_value = "both")]
    pub transport: Transport,
    /// Do not ask the torrent's trackers
    #[arg(long)]
    pub no_tracker: bool,
    /// Do not exchange addresses of peers with peers
    #[arg(long)]
    pub no_pex: bool,
    /// Do not look for peers by the DHT, nor answer its nodes; ROPEWALK_DHT=off does the same
    #[arg(long)]
    pub no_dht: bool,
    /// Ask this node of the DHT first; can be repeated
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "no_dht", value_parser = read_host_port)]
    pub dht_node: Vec<String>,
    /// Do not look for peers on the local network; never done for private torrents
    #[arg(long)]
    pub no_lsd: bool,
    /// Ask the gateway to let peers in, by PCP, NAT-PMP or UPnP
    #[cfg(feature = "upnp")]
    #[arg(long, overrides_with = "no_map_port")]
    pub map_port: bool,
    /// Do not ask the gateway [default]
    #[cfg(feature = "upnp")]
    #[arg(long)]
    pub no_map_port: bool,
    /// Neither dial the peers of this list nor let them in: P2P text, eMule DAT or CIDR, also gzipped; can be repeated
    #[arg(long, value_name = "FILE|URL")]
    pub blocklist: Vec<OsString>,
    /// Keep the resume journals here [default: the folder .ropewalk beside the files], and what is remembered of peers
    /// [default: ropewalk in the user's folder for state]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// How verified pieces get into files of 640 KiB and more: written into the pages of the memory map, or copied through
    /// the map, which takes the system more processor time; uploads are sent from the map either way
    #[arg(long, value_name = "WAY", value_enum, default_value = "write")]
    pub store_by: StoreBy,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub enum StoreBy {
    Write,
    Map,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Encrypt {
    Prefer,
    Require,
    Off,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Transport {
    Both,
    Tcp,
    Utp,
}

impl Network {
    /// A session as the options want it.
    pub fn session(&self, screen: &Screen, json: &Json, stop: &Stop) -> anyhow::Result<Session> {
        let mut config = self.config(screen, json, stop)?;
        config.peers.reputation_file = self.state_file("peers");
        if let Some(dir) = &self.state_dir {
            std::fs::create_dir_all(dir).map_err(|error| {
                let text = format!("cannot make {}: {}; choose another --state-dir", dir.display(), io_text(&error));
                failed(Code::Disk, text)
            })?;
        }
        config.state_dir.clone_from(&self.state_dir);
        let session = Session::new(config)?;
        let addrs: Vec<_> = session.listen_addrs().iter().map(ToString::to_string).collect();
        json.event("listening", json!({ "port": session.port(), "addresses": addrs }));
        log::info!("listening on {}", addrs.join(" and "));
        Ok(session)
    }

    /// A session that leaves nothing of its torrents behind, not even what it learned of peers, and tells nothing of itself.
    /// The nodes of the DHT are kept as ever: they belong to no torrent.
    pub fn passing_session(&self, screen: &Screen, stop: &Stop) -> anyhow::Result<Session> {
        Ok(Session::new(self.config(screen, &Json::new(false), stop)?)?)
    }

    fn config(&self, screen: &Screen, json: &Json, stop: &Stop) -> anyhow::Result<Config> {
        let mut config = Config::default();
        config.limits.down = self.limit_down;
        config.limits.up = self.limit_up;
        config.listen.bind.clone_from(&self.bind);
        if let Some(ports) = &self.port {
            config.listen.ports = ports.clone();
        }
        config.dht.enabled = self.has_dht();
        config.dht.bootstrap.splice(..0, self.dht_node.iter().cloned());
        config.dht.state_file = self.state_file("dht");
        config.local_discovery = !self.no_lsd;
        #[cfg(feature = "upnp")]
        {
            config.port_map.enabled = self.map_port && !self.no_map_port;
        }
        config.peers.per_torrent = self.max_peers as usize;
        config.peers.exchange = !self.no_pex;
        config.peers.encryption = match self.encryption {
            Encrypt::Prefer => Encryption::Prefer,
            Encrypt::Require => Encryption::Require,
            Encrypt::Off => Encryption::Off,
        };
        config.peers.transports = match self.transport {
            Transport::Both => Transports::Both,
            Transport::Tcp => Transports::Tcp,
            Transport::Utp => Transports::Utp,
        };
        config.peers.filter = blocklist::read(&self.blocklist, self.bind.as_ref(), screen, json, stop)?;
        config.resources.max_threads = config.resources.max_threads.max(self.max_peers as usize * 2 + 256);
        config.resources.storing = match self.store_by {
            StoreBy::Write => Storing::Write,
            StoreBy::Map => Storing::Map,
        };
        config.resources.hashing = hashing()?.backend;
        Ok(config)
    }

    /// Where what is not about one torrent is kept between runs; `None` where the system names no folder for that.
    fn state_file(&self, name: &str) -> Option<PathBuf> {
        if let Some(dir) = &self.state_dir {
            return Some(dir.join(name));
        }
        let dirs = etcetera::choose_base_strategy().ok()?;
        Some(dirs.state_dir().unwrap_or_else(|| dirs.cache_dir()).join("ropewalk").join(name))
    }

    /// Whether the DHT is used at all.
    fn has_dht(&self) -> bool {
        !self.no_dht && std::env::var_os("ROPEWALK_DHT").is_none_or(|value| value != "off")
    }

    /// The addresses of `--peer`.
    pub fn peers(&self) -> anyhow::Result<Vec<SocketAddr>> {
        let mut addrs = Vec::new();
        for peer in &self.peer {
            let port = peer.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none_or(|port| port == 0) {
                let text = format!("--peer {peer} has no port; write it like 192.0.2.7:6881 or host.example:6881");
                return Err(failed(Code::Usage, text));
            }
            if let Some(bind) = self.bind.as_ref().filter(|_| peer.parse::<SocketAddr>().is_err()) {
                // What has to be looked up is looked up by the system, so not without a way out.
                bind.check().map_err(|error| failed(Code::Other, format!("cannot use --bind {bind}: {error}")))?;
            }
            let found = peer.to_socket_addrs().map_err(|error| {
                let text = format!("cannot find --peer {peer}: {}; check the name", io_text(&error));
                failed(Code::NoPeers, text)
            })?;
            // From a bound address only its own family can be reached.
            let before = addrs.len();
            addrs.extend(found.filter(|addr| self.bind.as_ref().is_none_or(|bind| bind.may_reach(addr))));
            if let Some(Bind::Addr(bind)) = self.bind
                && addrs.len() == before
            {
                let family = if bind.is_ipv4() { "IPv4" } else { "IPv6" };
                let text = format!("--peer {peer} has no {family} address, and --bind {bind} can reach no other");
                return Err(failed(Code::Usage, text + "; change one of them"));
            }
        }
        Ok(addrs)
    }

    /// Whether there is anything that could lead to a peer.
    pub fn has_source(&self, metainfo: &Metainfo, peers: &[SocketAddr]) -> bool {
        let found = (self.has_dht() || !self.no_lsd) && !metainfo.is_private();
        found || !peers.is_empty() || self.has_tracker(metainfo.trackers().iter().flatten())
    }

    /// The same for the torrent of a magnet link.
    pub fn magnet_has_source(&self, magnet: &Magnet, peers: &[SocketAddr]) -> bool {
        self.has_dht()
            || !self.no_lsd
            || !peers.is_empty()
            || !magnet.peers.is_empty()
            || self.has_tracker(magnet.trackers.iter())
    }

    fn has_tracker<'a>(&self, mut urls: impl Iterator<Item = &'a String>) -> bool {
        let usable = |url: &String| ["http://", "https://", "udp://"].iter().any(|scheme| url.starts_with(scheme));
        !self.no_tracker && urls.any(usable)
    }
}
