//! One tracker, by its URL: what it speaks, where it is, and what it wants to be told again. It makes a whole announce out
//! of the exchanges of `http` and `udp_socket`: resolve, then each address family. It refuses to know when.

use std::collections::HashMap;
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use url::Url;

use super::http::HttpGet;
use super::interrupt::Interrupt;
use super::resolve::resolve;
use super::tiers::{Retry, Terms};
use super::tracker::Setup;
use super::udp_socket::{UdpEndpoint, UdpError};
use super::udp_tracker::{Answer, Errand, Schedule};
use crate::config::Encryption;
use crate::net::bind;
use crate::wire::tracker::http::{self as wire_http, Reply};
use crate::wire::tracker::scrape::{decode_scrape, scrape_url};
use crate::wire::tracker::udp::{self as wire_udp, ScrapeEntry};
use crate::wire::tracker::{AnnounceReply, AnnounceRequest, Crypto, Event};

/// How long the second address family is left out after it has failed beside one that works.
const LEAVE_OUT: Duration = Duration::from_secs(60 * 60);

/// UDP retransmissions to an address while another address or tracker waits for its turn.
const IMPATIENT_RETRANSMITS: u32 = 1;

/// The first wait for a UDP answer when there is only the grace of a stop to wait in.
const FAREWELL_WAIT: Duration = Duration::from_secs(1);

/// A tracker and what is remembered about it between announces.
#[derive(Debug)]
pub(super) struct Host {
    /// As the torrent has it.
    name: Arc<str>,
    url: Url,
    protocol: Protocol,
    port: u16,
    /// To be sent back (BEP 3).
    tracker_id: Option<Vec<u8>>,
    endpoints: HashMap<SocketAddr, UdpEndpoint>,
    /// Until when a family is left out if the other one works: IPv4, IPv6.
    left_out: [Option<Instant>; 2],
}

/// An announce to make.
pub(super) struct Exchange<'a> {
    pub(super) setup: &'a Setup,
    pub(super) event: Option<Event>,
    pub(super) interrupt: &'a Interrupt,
    /// When it is over in any case.
    pub(super) until: Option<Instant>,
    /// Other trackers of the tier wait for this one to answer or fail.
    pub(super) others_wait: bool,
}

/// What one address family of a tracker answered.
#[derive(Debug)]
pub(super) struct Heard {
    /// The first answer to this announce.
    pub(super) first: bool,
    pub(super) terms: Terms,
    pub(super) peers: Vec<SocketAddr>,
    pub(super) external_ip: Option<IpAddr>,
    pub(super) warning: Option<String>,
    pub(super) seeders: Option<u32>,
    pub(super) leechers: Option<u32>,
}

/// Why the tracker did not accept, in words for a person.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) retry: Retry,
    pub(super) message: String,
    /// The tracker itself said no: its other addresses will say the same.
    refused: bool,
}

/// Why a URL is never asked.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UrlError {
    #[error("not a URL: {0}")]
    Syntax(#[from] url::ParseError),
    #[error("trackers over {0}:// are not supported; http, https and udp are")]
    Scheme(String),
    #[error("the URL has no host name")]
    NoHost,
    #[error("the URL of a UDP tracker must have a port")]
    NoPort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http,
    Udp,
}

impl Host {
    /// The tracker with this URL.
    pub(super) fn parse(name: Arc<str>) -> Result<Self, UrlError> {
        let url = Url::parse(&name)?;
        let protocol = match url.scheme() {
            "http" | "https" => Protocol::Http,
            "udp" => Protocol::Udp,
            other => return Err(UrlError::Scheme(other.to_owned())),
        };
        if url.host_str().is_none_or(str::is_empty) {
            return Err(UrlError::NoHost);
        }
        let port = url.port_or_known_default().filter(|port| *port != 0).ok_or(UrlError::NoPort)?;
        Ok(Self { name, url, protocol, port, tracker_id: None, endpoints: HashMap::new(), left_out: [None; 2] })
    }

    /// As the torrent has it.
    pub(super) fn url(&self) -> &Arc<str> {
        &self.name
    }

    /// Announces, over each address family that works. `hear` gets each family's answer as it comes; the announce is
    /// accepted if there is one.
    pub(super) fn announce(&mut self, exchange: &Exchange<'_>, mut hear: impl FnMut(Heard)) -> Result<(), Failure> {
        let timing = &exchange.setup.timing;
        let families = self.families(exchange)?;
        let count = families.len();
        let mut outcome = Err(Failure::new("the tracker has no address of the family that we are bound to"));
        for (place, addrs) in families.into_iter().enumerate() {
            let now = Instant::now();
            let family = usize::from(addrs[0].is_ipv6());
            let extra = outcome.is_ok();
            if extra && self.left_out[family].is_some_and(|until| now < until) {
                continue;
            }
            // The family that is only told as well must not hold up what comes next for long.
            let time = if extra { timing.connect } else { timing.http };
            let deadline = exchange.until.unwrap_or(now + time);
            let impatient = extra || exchange.others_wait || place + 1 < count;
            // A tracker would count the download twice.
            let event = exchange.event.filter(|event| !(extra && *event == Event::Completed));
            let answer = match self.protocol {
                Protocol::Http => self.announce_http(exchange, event, &addrs, deadline),
                Protocol::Udp => {
                    let until = exchange.until.or(extra.then_some(deadline));
                    self.announce_udp(exchange, event, &addrs, until, impatient)
                }
            };
            let left_out = &mut self.left_out[family];
            match answer {
                Ok(reply) => {
                    *left_out = None;
                    hear(Heard::new(reply, !extra));
                    outcome = Ok(());
                }
                Err(failure) if extra => {
                    log::debug!("{}: the second address family: {}", self.name, failure.message);
                    *left_out = Some(now + LEAVE_OUT);
                }
                Err(failure) if failure.refused || exchange.interrupt.is_raised() => return Err(failure),
                Err(failure) => {
                    *left_out = Some(now + LEAVE_OUT);
                    outcome = Err(failure);
                }
            }
        }
        outcome
    }

    /// Asks how many peers the torrent has, by the first address family alone, and not for long: an announce has told the
    /// better part of it already.
    pub(super) fn scrape(&mut self, exchange: &Exchange<'_>) -> Result<ScrapeEntry, Failure> {
        let (setup, info_hash) = (exchange.setup, exchange.setup.info_hash);
        let addrs = self.families(exchange)?.into_iter().next();
        let addrs = addrs.ok_or_else(|| Failure::new("the tracker has no address that we can reach"))?;
        let deadline = Instant::now() + setup.timing.connect;
        match self.protocol {
            Protocol::Http => {
                let url = scrape_url(&self.url, info_hash)
                    .ok_or_else(|| Failure::new("the tracker's URL has no `announce`, it answers no scrapes"))?;
                let get = HttpGet {
                    url: &url,
                    addrs: &addrs,
                    user_agent: &setup.user_agent,
                    bind: setup.bind.as_ref(),
                    connect_timeout: setup.timing.connect,
                    deadline,
                };
                let reply = get.run(&setup.tls, exchange.interrupt).map_err(|error| Failure::from(&error))?;
                decode_scrape(&reply.body, info_hash).map_err(|error| Failure::from(&error))
            }
            Protocol::Udp => {
                let schedule = Schedule { first_wait: setup.timing.udp_first_wait, retransmits: IMPATIENT_RETRANSMITS };
                let errand = Errand::Scrape(info_hash);
                match self.exchange_udp(exchange, addrs[0], errand, schedule, Some(deadline)) {
                    Ok(Answer::Scraped(entry)) => Ok(entry),
                    // The machine gives to each errand its own answer.
                    Ok(Answer::Announced(_)) => Err(Failure::new("the tracker answered something else")),
                    Err(error) => Err(Failure::from(&error)),
                }
            }
        }
    }

    /// Until when there is a UDP connection id worth keeping a socket for.
    pub(super) fn fresh_until(&self) -> Option<Instant> {
        self.endpoints.values().filter_map(UdpEndpoint::fresh_until).min()
    }

    /// Closes the UDP sockets whose connection id has expired.
    pub(super) fn let_go(&mut self, now: Instant) {
        self.endpoints.retain(|_, endpoint| endpoint.fresh_until().is_some_and(|until| now < until));
    }

    /// The tracker's addresses by family, the one to try first in front.
    fn families(&self, exchange: &Exchange<'_>) -> Result<Vec<Vec<SocketAddr>>, Failure> {
        let host = self.url.host_str().unwrap_or_default();
        let now = Instant::now();
        let deadline = exchange.until.unwrap_or(now + exchange.setup.timing.resolve);
        // Without a way out not even a name is looked up, which the system would do in its own way.
        let way = match &exchange.setup.bind {
            Some(bind) => bind::look(bind).map_err(|error| Failure::from(&error))?,
            None => None,
        };
        let found = resolve(host, self.port, exchange.interrupt, deadline).map_err(|error| Failure::from(&error))?;
        let prefers_v6 = found[0].is_ipv6();
        let bound = exchange.setup.bind.as_ref();
        let allowed = |addr: &SocketAddr| match &way {
            Some(way) => {
                if addr.is_ipv6() {
                    way.v6.is_some()
                } else {
                    way.v4.is_some()
                }
            }
            None => bound.is_none_or(|bind| bind.may_reach(addr)),
        };
        let (v6, v4): (Vec<_>, Vec<_>) = found.into_iter().filter(allowed).partition(SocketAddr::is_ipv6);
        let mut families = if prefers_v6 { vec![v6, v4] } else { vec![v4, v6] };
        families.retain(|addrs| !addrs.is_empty());
        families.sort_by_key(|addrs| self.left_out[usize::from(addrs[0].is_ipv6())].is_some_and(|until| now < until));
        Ok(families)
    }

    fn announce_http(
        &mut self,
        exchange: &Exchange<'_>,
        event: Option<Event>,
        addrs: &[SocketAddr],
        deadline: Instant,
    ) -> Result<AnnounceReply, Failure> {
        let setup = exchange.setup;
        let url = wire_http::announce_url(&self.url, &self.request(setup, event));
        let get = HttpGet {
            url: &url,
            addrs,
            user_agent: &setup.user_agent,
            bind: setup.bind.as_ref(),
            connect_timeout: setup.timing.connect,
            deadline,
        };
        let reply = get.run(&setup.tls, exchange.interrupt).map_err(|error| Failure::from(&error))?;
        match Reply::decode(&reply.body) {
            Ok(Reply::Refused { reason, retry }) => Err(Failure {
                retry: match retry {
                    None => Retry::Backoff,
                    Some(wire_http::Retry::After(wait)) => Retry::After(wait),
                    Some(wire_http::Retry::Never) => Retry::Never,
                },
                message: format!("the tracker refuses: {reason}"),
                refused: true,
            }),
            Ok(Reply::Announced(announced)) if (200..300).contains(&reply.status) => {
                if announced.tracker_id.is_some() {
                    self.tracker_id.clone_from(&announced.tracker_id);
                }
                Ok(announced)
            }
            Err(error) if (200..300).contains(&reply.status) => Err(Failure::from(&error)),
            _ => {
                let message = format!("the tracker answers with HTTP status {}", reply.status);
                Err(Failure { retry: Retry::Backoff, message, refused: true })
            }
        }
    }

    /// Each address in turn, until one answers.
    fn announce_udp(
        &mut self,
        exchange: &Exchange<'_>,
        event: Option<Event>,
        addrs: &[SocketAddr],
        until: Option<Instant>,
        impatient: bool,
    ) -> Result<AnnounceReply, Failure> {
        let timing = &exchange.setup.timing;
        let announce = self.request(exchange.setup, event);
        let errand = Errand::Announce { announce, url_data: wire_udp::url_data(&self.url) };
        let first_wait = match exchange.until {
            Some(_) => timing.udp_first_wait.min(FAREWELL_WAIT),
            None => timing.udp_first_wait,
        };
        let mut failure = Failure::new("the tracker has no address");
        for (place, &addr) in addrs.iter().enumerate() {
            let retransmits = match impatient || place + 1 < addrs.len() {
                true => timing.udp_retransmits.min(IMPATIENT_RETRANSMITS),
                false => timing.udp_retransmits,
            };
            let schedule = Schedule { first_wait, retransmits };
            match self.exchange_udp(exchange, addr, errand.clone(), schedule, until) {
                Ok(Answer::Announced(reply)) => return Ok(reply),
                // The machine gives to each errand its own answer.
                Ok(Answer::Scraped(_)) => continue,
                Err(error) => {
                    failure = Failure::from(&error);
                    match error {
                        UdpError::Refused(_) => failure.refused = true,
                        UdpError::Interrupted(_) => {}
                        UdpError::TimedOut { .. } => {
                            // What is left of BEP 15's schedule is waited for without the tier.
                            let rest = first_wait.saturating_mul(1 << (retransmits.min(8) + 1));
                            failure.retry = Retry::NotBefore(rest);
                            continue;
                        }
                        UdpError::Unreachable { .. } => continue,
                    }
                    break;
                }
            }
        }
        Err(failure)
    }

    fn exchange_udp(
        &mut self,
        exchange: &Exchange<'_>,
        addr: SocketAddr,
        errand: Errand,
        schedule: Schedule,
        until: Option<Instant>,
    ) -> Result<Answer, UdpError> {
        let mut endpoint = match self.endpoints.remove(&addr) {
            Some(endpoint) => endpoint,
            None => UdpEndpoint::open(addr, exchange.setup.bind.as_ref(), fastrand::u64(..))?,
        };
        let reply = endpoint.ask(errand, exchange.interrupt, until, schedule);
        // One that did not work is not worth its socket.
        if reply.is_ok() {
            self.endpoints.insert(addr, endpoint);
        }
        reply
    }

    fn request(&self, setup: &Setup, event: Option<Event>) -> AnnounceRequest {
        let counters = (setup.counters)();
        AnnounceRequest {
            info_hash: setup.info_hash,
            peer_id: setup.peer_id,
            port: setup.port.load(Ordering::Relaxed),
            uploaded: counters.uploaded,
            downloaded: counters.downloaded,
            left: counters.left,
            event,
            numwant: Some(if event == Some(Event::Stopped) { 0 } else { setup.num_want }),
            key: setup.key,
            tracker_id: self.tracker_id.clone(),
            ipv4: None,
            ipv6: None,
            crypto: match setup.encryption {
                Encryption::Off => Crypto::None,
                Encryption::Prefer => Crypto::Supported,
                Encryption::Require => Crypto::Required,
            },
        }
    }
}

impl Heard {
    fn new(reply: AnnounceReply, first: bool) -> Self {
        Self {
            first,
            terms: Terms { interval: reply.interval, min_interval: reply.min_interval },
            peers: reply.peers,
            external_ip: reply.external_ip,
            warning: reply.warning,
            seeders: reply.seeders,
            leechers: reply.leechers,
        }
    }
}

impl Failure {
    fn new(message: &str) -> Self {
        Self { retry: Retry::Backoff, message: message.to_owned(), refused: false }
    }
}

impl<E: Error> From<&E> for Failure {
    /// With the sources of the error behind it.
    fn from(error: &E) -> Self {
        let sources = std::iter::successors(error.source(), |&inner| inner.source());
        Self::new(&sources.fold(error.to_string(), |message, inner| format!("{message}: {inner}")))
    }
}
