//! What is asked of a gateway, one question at a time: by datagrams (PCP, NAT-PMP) or over the web (UPnP).
//!
//! It owns the sockets and the times. It refuses to hear anybody but whom it asked, to follow where an answer leads
//! elsewhere, and to go on when it is told to stop. When to ask again, and what a mapping is good for, is for its owner.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Socket, Type};
use ureq::config::Config;

use super::super::http::direct_agent;
use super::super::interrupt::{Interrupt, Interrupted};
use super::MapProtocol;
use super::natpmp::{self, AnswerError, Granted, MapRequest};
use super::upnp::{self, Action, Service};
use crate::config::Bind;
use crate::net::bind;

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

/// Who asks: from where, and with what patience.
pub(super) struct Asker {
    bind: Option<Bind>,
    /// Where gateways of UPnP are looked for.
    search: SocketAddr,
    /// How long the end may take, which bounds what a web server may take.
    grace: Duration,
    /// What PCP knows our mappings by.
    nonce: [u8; 12],
}

/// A gateway and how to speak to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Via {
    Pcp(SocketAddr),
    NatPmp(SocketAddr),
    Upnp(Service),
}

/// Why a gateway has not done what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum MapError {
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

impl Asker {
    pub(super) fn new(bind: Option<Bind>, search: SocketAddr, grace: Duration) -> Self {
        Self { bind, search, grace, nonce: std::array::from_fn(|_| fastrand::u8(..)) }
    }

    /// Asks for a mapping.
    pub(super) fn map(&self, via: &Via, request: &MapRequest, stop: &Interrupt) -> Result<Granted, MapError> {
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

    /// Asks for the end of a mapping, by a request for no time at all.
    pub(super) fn unmap(&self, via: &Via, request: &MapRequest, stop: &Interrupt) -> Result<(), MapError> {
        let (transport, outside) = (request.transport, request.outside);
        match via {
            Via::Upnp(service) => self.soap(service, Action::Delete { transport, outside }, stop).map(drop),
            via => self.map(via, request, stop).map(drop),
        }
    }

    /// The address outside of a gateway of NAT-PMP, which a mapping does not tell.
    pub(super) fn address(&self, gateway: SocketAddr, stop: &Interrupt) -> Option<IpAddr> {
        self.exchange(gateway, &natpmp::ADDRESS_REQUEST, natpmp::decode_address, stop).ok().map(IpAddr::V4)
    }

    /// The services of the gateways that answer.
    pub(super) fn search(&self, stop: &Interrupt) -> Result<Vec<Service>, MapError> {
        let group = self.search;
        let bind = self.bind.as_ref();
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

    /// Asks, again and again, until the answer has come.
    fn exchange<T>(
        &self,
        gateway: SocketAddr,
        request: &[u8],
        decode: impl Fn(&[u8]) -> Result<T, AnswerError>,
        stop: &Interrupt,
    ) -> Result<T, MapError> {
        let socket = bind::dialling(self.bind.as_ref(), gateway, Type::DGRAM)?;
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
            .timeout_global(Some(HTTP.min(self.grace.max(Duration::from_secs(1)))))
            .build();
        let agent = direct_agent(config, self.bind.as_ref(), stop);
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

    /// The address that we have for the gateway.
    fn our_address(&self, gateway: SocketAddr) -> Result<IpAddr, MapError> {
        let socket = bind::dialling(self.bind.as_ref(), gateway, Type::DGRAM)?;
        socket.connect(&gateway.into())?;
        Ok(socket.local_addr()?.as_socket().ok_or(MapError::Nonsense)?.ip())
    }
}

impl Via {
    /// By what it is asked.
    pub(super) fn protocol(&self) -> MapProtocol {
        match self {
            Self::Pcp(_) => MapProtocol::Pcp,
            Self::NatPmp(_) => MapProtocol::NatPmp,
            Self::Upnp(_) => MapProtocol::Upnp,
        }
    }
}

fn left(until: Instant) -> Option<Duration> {
    Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
}

fn is_lull(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
