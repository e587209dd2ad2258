//! The thread `port-map`: asks the gateway to let peers in, by PCP, NAT-PMP or UPnP, whichever answers first.
//!
//! It owns the mappings: it renews them at half of their lifetime, asks for them anew when the gateway has forgotten them,
//! and deletes them in the end. It refuses to believe a gateway more than it has to: answers come from the address that was
//! asked, are bounded in size and time, and lead nowhere else.
//!
//! IPv4 only: over IPv6 there is no address to translate, and few gateways can be asked to open their firewall.
//!
//! - `asker`: one question to a gateway, and its answer. `route`: which gateway is the default one.
//! - `natpmp`: the datagrams of PCP and NAT-PMP (pure). `upnp`: the words of UPnP (pure).

mod asker;
mod natpmp;
mod route;
mod upnp;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{after, select};
use parking_lot::Mutex;

use super::interrupt::Interrupt;
use crate::config::{Bind, PortMapConfig};
use asker::{Asker, MapError, Via};
use natpmp::{AnswerError, Granted, MapRequest};

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
    asker: Asker,
    held: Option<Held>,
}

/// Mappings that a gateway has granted.
struct Held {
    via: Via,
    granted: Vec<(Transport, Granted)>,
    since: Instant,
}

impl PortMapper {
    /// The second half is for the thread: [`PortMapping::run`].
    pub(crate) fn new(setup: PortMapSetup) -> (Self, PortMapping) {
        let handle = Self { stop: Interrupt::new(), state: Arc::new(Mutex::new(MapState::Asking)) };
        let asker = Asker::new(setup.bind.clone(), setup.config.search, setup.grace);
        (handle.clone(), PortMapping { setup, handle, asker, held: None })
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
        let gateway = self.setup.config.gateway.or_else(|| route::default_gateway(self.setup.bind.as_ref()));
        let direct = gateway.into_iter().flat_map(|gateway| [Via::Pcp(gateway), Via::NatPmp(gateway)]);
        for via in direct {
            match self.map_all(&via, stop) {
                Ok(lifetime) => return Ok(lifetime),
                Err(MapError::Interrupted(stopped)) => return Err(stopped.into()),
                Err(error) => note(&mut why, error, via.protocol()),
            }
        }
        for service in self.asker.search(stop)? {
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
            let answer = self.asker.map(via, &request, stop)?;
            address = address.or(answer.address);
            granted.push((transport, answer));
        }
        if let Via::NatPmp(gateway) = via {
            address = self.asker.address(*gateway, stop);
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

    /// Gives back what is mapped, as far as the grace allows.
    fn delete(&mut self) {
        let Some(held) = self.held.take() else { return };
        let farewell = Interrupt::new();
        let until = Instant::now() + self.setup.grace;
        for (transport, granted) in held.granted {
            if Instant::now() >= until {
                return;
            }
            let (inside, outside) = (self.setup.port, granted.outside);
            let request = MapRequest { transport, inside, outside, lifetime: 0 };
            match self.asker.unmap(&held.via, &request, &farewell) {
                Ok(()) => log::info!("port {outside} ({transport}) is not mapped any more"),
                Err(error) => log::debug!("port {outside} ({transport}) stays mapped until it expires: {error}"),
            }
        }
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

#[cfg(test)]
mod tests;
