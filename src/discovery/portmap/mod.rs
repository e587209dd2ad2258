//! The thread `port-map`: asks the gateway to let peers in, by PCP, NAT-PMP or UPnP, whichever answers first.
//!
//! It owns the mappings: it renews them at half of their lifetime, asks for them anew when the gateway has forgotten them,
//! and deletes them in the end. It refuses to believe a gateway more than it has to: answers come from the address that was
//! asked, are bounded in size and time, and lead nowhere else.
//!
//! IPv4 only: over IPv6 there is no address to translate, and few gateways can be asked to open their firewall.

mod natpmp;
mod upnp;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{after, select};
use parking_lot::Mutex;
use socket2::{Socket, Type};
use ureq::config::Config;

use super::http::direct_agent;
use super::interrupt::{Interrupt, Interrupted};
use crate::config::{Bind, PortMapConfig};
use crate::net::bind;
use natpmp::{AnswerError, Granted, MapRequest};
use upnp::{Action, Service};

/// How long each question to a gateway is waited for before it is sent again (RFC 6886, 3.1), but not for the minute that
/// the RFC would.
const WAITS: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];
/// How long answers of UPnP gateways are collected.
const SEARCH: Duration = Duration::from_millis(2500);
/// How long a gateway's web server may take for one answer.
const HTTP: Duration = Duration::from_secs(5);
/// Gateways of which the description is read.
const MAX_GATEWAYS: usize = 4;
/// Other ports that are tried where somebody has ours.
const OTHER_PORTS: usize = 3;
/// How long to wait after nobody answered; doubled each time, up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(30 * 60));
/// The least time between renewals, whatever a gateway says.
const LEAST: Duration = Duration::from_millis(500);

/// What is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

/// By what a gateway was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapProtocol {
    /// The Port Control Protocol (RFC 6887).
    Pcp,
    /// NAT-PMP (RFC 6886).
    NatPmp,
    /// An Internet gateway device of UPnP.
    Upnp,
}

/// How it stands with the port at the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapState {
    /// Nobody is asked.
    Off,
    /// It was wanted, and nobody is asked, for this reason.
    Pointless(&'static str),
    /// The gateway is being asked.
    Asking,
    /// Peers outside can call us.
    Mapped {
        /// Where; the address is unspecified where the gateway does not tell it.
        external: SocketAddr,
        /// By what the gateway was asked.
        protocol: MapProtocol,
    },
    /// No gateway did what it was asked, for this reason. It is tried again.
    Failed(Arc<str>),
}

/// What the thread is told.
pub(crate) struct PortMapSetup {
    pub(crate) config: PortMapConfig,
    pub(crate) bind: Option<Bind>,
    /// The port here, and the one that is wanted outside.
    pub(crate) port: u16,
    pub(crate) transports: Vec<Transport>,
    /// How long the end may take.
    pub(crate) grace: Duration,
    /// Told of the first mapping and of each that differs from the one before, on the thread.
    pub(crate) mapped: Box<dyn Fn(SocketAddr) + Send>,
}

/// The handle of the thread. Clones share it.
#[derive(Clone)]
pub(crate) struct PortMapper {
    stop: Interrupt,
    /// Written by the thread, read by anyone.
    state: Arc<Mutex<MapState>>,
}

/// What the thread owns.
pub(crate) struct PortMapping {
    setup: PortMapSetup,
    handle: PortMapper,
    nonce: [u8; 12],
    held: Option<Held>,
}

/// Mappings that a gateway has granted.
struct Held {
    via: Via,
    granted: Vec<(Transport, Granted)>,
    since: Instant,
}

/// A gateway and how to speak to it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Via {
    Pcp(SocketAddr),
    NatPmp(SocketAddr),
    Upnp(Service),
}

#[derive(Debug, thiserror::Error)]
enum MapError {
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    #[error("no gateway answers")]
    Silent,
    #[error("{0}")]
    Answer(#[from] AnswerError),
    #[error("the gateway refuses: UPnP error {0}")]
    Soap(u16),
    #[error("the gateway's answer makes no sense")]
    Nonsense,
    #[error("cannot ask the gateway: {0}")]
    Io(#[from] io::Error),
}

impl PortMapper {
    /// The second half is for the thread: [`PortMapping::run`].
    pub(crate) fn new(setup: PortMapSetup) -> (Self, PortMapping) {
        let handle = Self { stop: Interrupt::new(), state: Arc::new(Mutex::new(MapState::Asking)) };
        let nonce = std::array::from_fn(|_| fastrand::u8(..));
        (handle.clone(), PortMapping { setup, handle, nonce, held: None })
    }

    /// How it stands.
    pub(crate) fn state(&self) -> MapState {
        self.state.lock().clone()
    }

    /// Has the thread delete what is mapped, within the grace, and end.
    pub(crate) fn stop(&self) {
        self.stop.raise();
    }
}

impl PortMapping {
    /// Maps, renews and in the end deletes.
    pub(crate) fn run(mut self) {
        let stop = self.handle.stop.clone();
        let mut retry = RETRY.0;
        while !stop.is_raised() {
            let wait = match self.ask(&stop) {
                Ok(lifetime) => {
                    retry = RETRY.0;
                    (lifetime / 2).max(LEAST)
                }
                Err(MapError::Interrupted(_)) => break,
                Err(error) => {
                    self.tell(MapState::Failed(error.to_string().into()));
                    self.held = None;
                    let wait = retry;
                    retry = (retry * 2).min(RETRY.1);
                    wait
                }
            };
            select! {
                recv(stop.signal()) -> _ => break,
                recv(after(wait)) -> _ => {}
            }
        }
        self.delete();
    }

    /// Asks for every mapping, of the gateway that granted the last ones first, and gives the shortest lifetime.
    fn ask(&mut self, stop: &Interrupt) -> Result<Duration, MapError> {
        let mut why = MapError::Silent;
        let known = self.held.as_ref().map(|held| held.via.clone());
        if let Some(via) = known {
            match self.map_all(&via, stop) {
                Ok(lifetime) => return Ok(lifetime),
                Err(error) => log::info!("{}: {error}", via.protocol()),
            }
        }
        let gateway = self.setup.config.gateway.or_else(|| default_gateway(self.setup.bind.as_ref()));
        let direct = gateway.into_iter().flat_map(|gateway| [Via::Pcp(gateway), Via::NatPmp(gateway)]);
        for via in direct {
            match self.map_all(&via, stop) {
                Ok(lifetime) => return Ok(lifetime),
                Err(MapError::Interrupted(stopped)) => return Err(stopped.into()),
                Err(error) => note(&mut why, error, via.protocol()),
            }
        }
        for service in self.search(stop)? {
            match self.map_all(&Via::Upnp(service), stop) {
                Ok(lifetime) => return Ok(lifetime),
                Err(MapError::Interrupted(stopped)) => return Err(stopped.into()),
                Err(error) => note(&mut why, error, MapProtocol::Upnp),
            }
        }
        Err(why)
    }

    fn map_all(&mut self, via: &Via, stop: &Interrupt) -> Result<Duration, MapError> {
        let lifetime = u32::try_from(self.setup.config.lifetime.as_secs()).unwrap_or(u32::MAX).max(1);
        let mut granted = Vec::new();
        let mut address = None;
        for &transport in &self.setup.transports {
            // The port that it was before, so that nobody has to be told of another.
            let before = self.held.as_ref().filter(|held| held.via == *via);
            let before = before.and_then(|held| held.granted.iter().find(|(other, _)| *other == transport));
            let outside = before.map_or(self.setup.port, |(_, granted)| granted.outside);
            let request = MapRequest { transport, inside: self.setup.port, outside, lifetime };
            let answer = self.map(via, &request, stop)?;
            address = address.or(answer.address);
            granted.push((transport, answer));
        }
        if let Via::NatPmp(gateway) = via {
            address =
                self.exchange(*gateway, &natpmp::ADDRESS_REQUEST, natpmp::decode_address, stop).ok().map(IpAddr::V4);
        }
        let now = Instant::now();
        if let (Some(held), [(_, first), ..]) = (&self.held, &granted[..])
            && held.via == *via
            && has_restarted(held, first, now)
        {
            log::info!("the gateway has forgotten its mappings; it was asked for them anew");
        }
        let shortest = granted.iter().map(|(_, granted)| granted.lifetime).min().unwrap_or(lifetime);
        let outside = granted.first().map_or(0, |(_, granted)| granted.outside);
        self.held = Some(Held { via: via.clone(), granted, since: now });
        let external = SocketAddr::new(address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), outside);
        self.tell(MapState::Mapped { external, protocol: via.protocol() });
        // No gateway is asked more often than it was asked to remember.
        Ok(Duration::from_secs(shortest.min(lifetime).into()))
    }

    fn map(&self, via: &Via, request: &MapRequest, stop: &Interrupt) -> Result<Granted, MapError> {
        match via {
            Via::NatPmp(gateway) => {
                self.exchange(*gateway, &request.encode_natpmp(), |bytes| request.decode_natpmp(bytes), stop)
            }
            Via::Pcp(gateway) => {
                let ours = self.our_address(*gateway)?;
                let bytes = request.encode_pcp(ours, self.nonce);
                self.exchange(*gateway, &bytes, |bytes| request.decode_pcp(bytes, self.nonce), stop)
            }
            Via::Upnp(service) => self.map_upnp(service, request, stop),
        }
    }

    /// Asks, again and again, until the answer has come.
    fn exchange<T>(
        &self,
        gateway: SocketAddr,
        request: &[u8],
        decode: impl Fn(&[u8]) -> Result<T, AnswerError>,
        stop: &Interrupt,
    ) -> Result<T, MapError> {
        let socket = bind::dialling(self.setup.bind.as_ref(), gateway, Type::DGRAM)?;
        // Only the gateway is heard.
        socket.connect(&gateway.into())?;
        let socket: UdpSocket = socket.into();
        let _registration = stop.register(Arc::new(Socket::from(socket.try_clone()?)))?;
        let mut buffer = [0; natpmp::MAX_DATAGRAM];
        for wait in WAITS {
            socket.send(request)?;
            let until = Instant::now() + wait;
            while let Some(left) = left(until) {
                socket.set_read_timeout(Some(left))?;
                match socket.recv(&mut buffer) {
                    _ if stop.is_raised() => return Err(Interrupted.into()),
                    Ok(length) => match decode(&buffer[..length]) {
                        Err(AnswerError::Other) => {}
                        answer => return Ok(answer?),
                    },
                    // Nobody listens there.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Err(MapError::Silent),
                    Err(error) if is_lull(&error) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Err(MapError::Silent)
    }

    /// The services of the gateways that answer.
    fn search(&self, stop: &Interrupt) -> Result<Vec<Service>, MapError> {
        let group = self.setup.config.search;
        let bind = self.setup.bind.as_ref();
        let socket = match bind::dialling(bind, group, Type::DGRAM) {
            Ok(socket) => socket,
            Err(error) if bind::is_no_family(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        if let (SocketAddr::V4(_), Some(Some(way))) =
            (group, bind.map(bind::look).transpose().map_err(io::Error::from)?)
            && let Some(ours) = way.v4
        {
            socket.set_multicast_if_v4(&ours)?;
        }
        socket.set_multicast_ttl_v4(2)?;
        let socket: UdpSocket = socket.into();
        let _registration = stop.register(Arc::new(Socket::from(socket.try_clone()?)))?;
        let mut sent = Ok(0);
        for target in upnp::TARGETS {
            sent = socket.send_to(&upnp::search(target, &group.to_string()), group);
        }
        if let Err(error) = sent {
            log::debug!("UPnP gateways cannot be looked for: {error}");
            return Ok(Vec::new());
        }
        let (mut buffer, mut seen, mut services) = ([0; 2048], Vec::new(), Vec::new());
        let until = Instant::now() + SEARCH;
        while let Some(left) = left(until).filter(|_| services.is_empty() && seen.len() < MAX_GATEWAYS) {
            socket.set_read_timeout(Some(left))?;
            let received = socket.recv_from(&mut buffer);
            if stop.is_raised() {
                return Err(Interrupted.into());
            }
            let Ok((length, from)) = received else { continue };
            let Some(url) = upnp::location(&buffer[..length], from.ip()).filter(|url| !seen.contains(url)) else {
                continue;
            };
            seen.push(url.clone());
            match self.http(url.as_str(), None, stop) {
                Ok((200, text)) => services.extend(upnp::service(&text, &url, from.ip())),
                Ok((status, _)) => log::debug!("{url}: HTTP status {status}"),
                Err(error) => log::debug!("{url}: {error}"),
            }
        }
        Ok(services)
    }

    fn map_upnp(&self, service: &Service, request: &MapRequest, stop: &Interrupt) -> Result<Granted, MapError> {
        let host = service.control.socket_addrs(|| Some(80))?.first().copied().ok_or(MapError::Nonsense)?;
        let IpAddr::V4(client) = self.our_address(host)? else { return Err(MapError::Nonsense) };
        let mut outside = request.outside;
        let mut lease = request.lifetime;
        let mut others = OTHER_PORTS;
        loop {
            let add = Action::Add { transport: request.transport, outside, inside: request.inside, client, lease };
            match self.soap(service, add, stop) {
                Ok(_) => break,
                // It knows permanent mappings alone.
                Err(MapError::Soap(725)) if lease > 0 => lease = 0,
                // Somebody else has the port.
                Err(MapError::Soap(718)) if others > 0 => {
                    others -= 1;
                    outside = fastrand::u16(1024..);
                }
                Err(error) => return Err(error),
            }
        }
        let address = self.soap(service, Action::Address, stop).ok().and_then(|text| upnp::address(&text));
        Ok(Granted { outside, address: address.map(IpAddr::V4), lifetime: request.lifetime, epoch: 0 })
    }

    fn soap(&self, service: &Service, action: Action, stop: &Interrupt) -> Result<String, MapError> {
        let header = format!("\"{}#{}\"", service.kind, action.name());
        match self.http(service.control.as_str(), Some((&header, &action.encode(service.kind))), stop)? {
            (200, text) => Ok(text),
            (_, text) => Err(upnp::error_code(&text).map_or(MapError::Nonsense, MapError::Soap)),
        }
    }

    /// A request to a gateway's web server: without redirects, and no longer than is good.
    fn http(&self, url: &str, action: Option<(&str, &str)>, stop: &Interrupt) -> Result<(u16, String), MapError> {
        let config = Config::builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(0)
            .user_agent(concat!("ropewalk/", env!("CARGO_PKG_VERSION"), " UPnP/1.1"))
            .timeout_global(Some(HTTP.min(self.setup.grace.max(Duration::from_secs(1)))))
            .build();
        let agent = direct_agent(config, self.setup.bind.as_ref(), stop);
        let response = match action {
            None => agent.get(url).header("Connection", "close").call(),
            Some((header, body)) => {
                let post = agent.post(url).header("Connection", "close").header("SOAPAction", header);
                post.header("Content-Type", "text/xml; charset=\"utf-8\"").send(body)
            }
        };
        let failed = |error: ureq::Error| match () {
            () if stop.is_raised() => MapError::Interrupted(Interrupted),
            () => MapError::Io(io::Error::other(error)),
        };
        let mut response = response.map_err(failed)?;
        let bytes = response.body_mut().with_config().limit(upnp::MAX_ANSWER).read_to_vec().map_err(failed)?;
        Ok((response.status().as_u16(), String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Gives back what is mapped, as far as the grace allows.
    fn delete(&mut self) {
        let Some(held) = self.held.take() else { return };
        let farewell = Interrupt::new();
        let until = Instant::now() + self.setup.grace;
        for (transport, granted) in held.granted {
            if left(until).is_none() {
                return;
            }
            let (inside, outside) = (self.setup.port, granted.outside);
            let request = MapRequest { transport, inside, outside, lifetime: 0 };
            let deleted = match &held.via {
                Via::Upnp(service) => self.soap(service, Action::Delete { transport, outside }, &farewell).map(drop),
                via => self.map(via, &request, &farewell).map(drop),
            };
            match deleted {
                Ok(()) => log::info!("port {outside} ({transport}) is not mapped any more"),
                Err(error) => log::debug!("port {outside} ({transport}) stays mapped until it expires: {error}"),
            }
        }
    }

    /// The address that we have for the gateway.
    fn our_address(&self, gateway: SocketAddr) -> Result<IpAddr, MapError> {
        let socket = bind::dialling(self.setup.bind.as_ref(), gateway, Type::DGRAM)?;
        socket.connect(&gateway.into())?;
        Ok(socket.local_addr()?.as_socket().ok_or(MapError::Nonsense)?.ip())
    }

    fn tell(&self, new: MapState) {
        let old = std::mem::replace(&mut *self.handle.state.lock(), new.clone());
        if old == new {
            return;
        }
        match new {
            MapState::Mapped { external, protocol } => {
                log::info!("peers can call {external}, which the gateway passes on ({protocol})");
                (self.setup.mapped)(external);
            }
            MapState::Failed(why) => log::info!("the port is not mapped: {why}"),
            MapState::Off | MapState::Pointless(_) | MapState::Asking => {}
        }
    }
}

impl Via {
    fn protocol(&self) -> MapProtocol {
        match self {
            Self::Pcp(_) => MapProtocol::Pcp,
            Self::NatPmp(_) => MapProtocol::NatPmp,
            Self::Upnp(_) => MapProtocol::Upnp,
        }
    }
}

impl MapProtocol {
    /// Its name for programs: `pcp`, `nat-pmp` or `upnp`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pcp => "pcp",
            Self::NatPmp => "nat-pmp",
            Self::Upnp => "upnp",
        }
    }
}

impl fmt::Display for MapProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP",
        })
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Udp { "UDP" } else { "TCP" })
    }
}

/// Keeps the reason that says most: a refusal more than silence.
fn note(why: &mut MapError, error: MapError, protocol: MapProtocol) {
    log::debug!("{protocol}: {error}");
    if !matches!(error, MapError::Silent | MapError::Answer(AnswerError::Version)) {
        *why = error;
    }
}

/// Whether a gateway's clock went back, or slower than ours by more than an eighth (RFC 6887, 8.5).
fn has_restarted(held: &Held, answer: &Granted, now: Instant) -> bool {
    let Some((_, before)) = held.granted.first() else { return false };
    let elapsed = u32::try_from(now.saturating_duration_since(held.since).as_secs()).unwrap_or(u32::MAX);
    answer.epoch.saturating_add(2) < before.epoch.saturating_add(elapsed - elapsed / 8)
}

/// The default gateway for IPv4, of the interface that we are bound to if we are.
#[cfg(target_os = "linux")]
fn default_gateway(bind: Option<&Bind>) -> Option<SocketAddr> {
    let way = bind.map_or(Ok(None), bind::look).ok()?;
    // Of the thread's own network: another thread may be in another one.
    let table = std::fs::read_to_string("/proc/thread-self/net/route").ok()?;
    let gateway = gateway_in(&table, way.as_ref().map(|way| way.name.as_str()))?;
    Some(SocketAddr::new(gateway.into(), natpmp::PORT))
}

#[cfg(not(target_os = "linux"))]
fn default_gateway(_: Option<&Bind>) -> Option<SocketAddr> {
    None
}

/// The gateway of the default route with the least metric. Addresses are in hexadecimal, in the processor's order.
#[cfg(any(target_os = "linux", test))]
fn gateway_in(table: &str, interface: Option<&str>) -> Option<Ipv4Addr> {
    const HAS_GATEWAY: u32 = 2;
    let routes = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [name, "00000000", gateway, flags, _, _, metric, "00000000", ..] = fields[..] else { return None };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        let gateway = Ipv4Addr::from(u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes());
        let usable = flags & HAS_GATEWAY != 0 && interface.is_none_or(|wanted| wanted == name);
        usable.then_some((metric.parse::<u32>().ok()?, gateway))
    });
    routes.min().map(|(_, gateway)| gateway)
}

fn left(until: Instant) -> Option<Duration> {
    Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
}

fn is_lull(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests;
