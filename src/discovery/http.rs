//! One HTTP GET to a tracker: over addresses already resolved, interruptible, every wait and every byte bounded.
//! Refuses to know what an announce is; the reply is a status and a body.
//!
//! ureq does the protocol. What it is not left to do: connect (so that the socket can be bound and shut down from outside),
//! resolve (so that the wait can be ended), keep connections (announces are half an hour apart), read a proxy from the
//! environment, and turn a status of 400 into an error, because trackers put their `failure reason` there.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use socket2::{Socket, Type};
use ureq::Agent;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, RustlsConnector, Transport,
};

use super::interrupt::{Interrupt, Interrupted, Registration};
use super::resolve::{ResolveError, resolve};
use crate::config::Bind;
use crate::net::bind;
use crate::wire::tracker::http::MAX_REPLY_LEN;

const MAX_REDIRECTS: u32 = 5;

/// The longest that a raise goes unnoticed by a connect on systems where a shutdown does not end it.
const CONNECT_SLICE: Duration = Duration::from_millis(250);

/// Stands for "no timeout" where a socket wants a number; every request has a deadline, so it is never reached.
const LONGEST_CALL: Duration = Duration::from_secs(3600);

/// The parsed certificate roots, for every `https` tracker of a process. Cloning shares them; they are loaded at the
/// first use.
#[derive(Clone, Default)]
pub(crate) struct Tls(Arc<RustlsConnector>);

/// A GET to make.
#[derive(Debug)]
pub(super) struct HttpGet<'a> {
    /// Absolute, percent-encoded.
    pub(super) url: &'a str,
    /// Where the host of `url` is: one address family.
    pub(super) addrs: &'a [SocketAddr],
    pub(super) user_agent: &'a str,
    /// What the connection is bound to.
    pub(super) bind: Option<&'a Bind>,
    /// The longest time for a connection to be made, all addresses together.
    pub(super) connect_timeout: Duration,
    /// When the whole exchange is over, redirects and body included.
    pub(super) deadline: Instant,
}

/// What came back, whatever the status.
#[derive(Debug)]
pub(super) struct HttpReply {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// Why nothing usable came back.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    #[error("the reply is larger than {MAX_REPLY_LEN} bytes")]
    TooLarge,
    #[error("the tracker did not answer in time")]
    TimedOut,
    #[error("cannot reach the tracker: {0}")]
    Unreachable(io::Error),
    #[error("the HTTP exchange failed: {0}")]
    Protocol(Box<ureq::Error>),
}

/// An agent for other fetches than announces, which leaves by nothing but what it is bound to, and uses no proxy.
pub(crate) fn direct_agent(config: Config, bind: Option<&Bind>, interrupt: &Interrupt) -> Agent {
    let dial = Dial { bind: bind.cloned(), interrupt: interrupt.clone() };
    Agent::with_parts(config, ().chain(dial).chain(Tls::default()), Wary(bind.cloned()))
}

impl HttpGet<'_> {
    /// Does it. A reply of any status is `Ok`.
    pub(super) fn run(&self, tls: &Tls, interrupt: &Interrupt) -> Result<HttpReply, HttpError> {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Err(HttpError::TimedOut);
        }
        let config = Config::builder()
            .http_status_as_error(false)
            .proxy(None)
            .user_agent(self.user_agent)
            .max_redirects(MAX_REDIRECTS)
            .max_redirects_will_error(true)
            .max_idle_connections(0)
            .timeout_global(Some(remaining))
            .timeout_connect(Some(self.connect_timeout.min(remaining)))
            .build();
        let connector = ().chain(Dial { bind: self.bind.cloned(), interrupt: interrupt.clone() }).chain(tls.clone());
        let resolver = Known {
            host: self.url.parse::<Uri>().ok().and_then(|uri| host_and_port(&uri)),
            addrs: self.addrs.to_vec(),
            interrupt: interrupt.clone(),
            deadline: self.deadline,
        };
        let agent = Agent::with_parts(config, connector, resolver);
        read_reply(agent.get(self.url).header("Connection", "close").call()).map_err(|error| {
            // Whatever a shut down socket looked like from inside, this is why.
            if interrupt.is_raised() { Interrupted.into() } else { error }
        })
    }
}

impl From<ureq::Error> for HttpError {
    fn from(error: ureq::Error) -> Self {
        match error {
            ureq::Error::Timeout(_) => Self::TimedOut,
            ureq::Error::Io(error) => match error.downcast::<ureq::Error>() {
                Ok(inner) => inner.into(),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => Self::TimedOut,
                Err(error) => Self::Unreachable(error),
            },
            other => Self::Protocol(Box::new(other)),
        }
    }
}

impl<In: Transport> Connector<In> for Tls {
    type Out = <RustlsConnector as Connector<In>>::Out;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        self.0.connect(details, chained)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

/// Connects, the right way out, so that an interrupt ends it.
#[derive(Debug)]
struct Dial {
    bind: Option<Bind>,
    interrupt: Interrupt,
}

impl Connector<()> for Dial {
    type Out = TcpTransport;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<TcpTransport>, ureq::Error> {
        let deadline = Instant::now().checked_add(*details.timeout.after);
        let mut error = io::Error::from(io::ErrorKind::TimedOut);
        let count = details.addrs.len() as u32;
        for (tried, addr) in details.addrs.iter().enumerate() {
            // What is left of the time is shared by the addresses that are left.
            let now = Instant::now();
            let left = deadline.map_or(LONGEST_CALL, |at| at.saturating_duration_since(now));
            match dial(*addr, self.bind.as_ref(), now + left / (count - tried as u32), &self.interrupt) {
                Ok((socket, registration)) => {
                    let config = details.config;
                    let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
                    return Ok(Some(TcpTransport { socket, buffers, _registration: registration }));
                }
                Err(failed) => error = failed,
            }
        }
        Err(error.into())
    }
}

/// A TCP connection that is shut down by an interrupt for as long as it lives.
#[derive(Debug)]
struct TcpTransport {
    socket: Arc<Socket>,
    buffers: LazyBuffers,
    _registration: Registration,
}

impl Transport for TcpTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let timeout = timeout.for_write();
        self.socket.set_write_timeout(Some(budget(timeout)?))?;
        let output = &self.buffers.output()[..amount];
        (&*self.socket).write_all(output).map_err(|error| timed_out(error, timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let timeout = timeout.for_read();
        self.socket.set_read_timeout(Some(budget(timeout)?))?;
        let input = self.buffers.input_append_buf();
        let amount = loop {
            match (&*self.socket).read(input) {
                Ok(amount) => break amount,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(timed_out(error, timeout)),
            }
        };
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        // Only asked before a connection is used again, and none is kept.
        false
    }
}

/// Knows the addresses of the tracker; looks up the hosts that it redirects to, within the same address family.
#[derive(Debug)]
struct Known {
    host: Option<(String, u16)>,
    addrs: Vec<SocketAddr>,
    interrupt: Interrupt,
    deadline: Instant,
}

impl Resolver for Known {
    fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let (host, port) = host_and_port(uri).ok_or(ureq::Error::HostNotFound)?;
        let found = if self.host.as_ref().is_some_and(|known| known.0 == host && known.1 == port) {
            self.addrs.clone()
        } else {
            resolve(&host, port, &self.interrupt, self.deadline).map_err(|error| match error {
                ResolveError::TimedOut { .. } => io::Error::from(io::ErrorKind::TimedOut),
                other => io::Error::other(other),
            })?
        };
        let wants_v4 = self.addrs.first().is_none_or(|addr| addr.is_ipv4());
        let mut addrs = self.empty();
        // `resolve` gives at most as many as fit; the bound keeps a longer list from a caller harmless.
        found.into_iter().filter(|addr| addr.is_ipv4() == wants_v4).take(16).for_each(|addr| addrs.push(addr));
        if addrs.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(addrs) }
    }
}

/// Looks names up only while there is a way out.
#[derive(Debug)]
struct Wary(Option<Bind>);

impl Resolver for Wary {
    fn resolve(&self, uri: &Uri, config: &Config, t: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        self.0.as_ref().map_or(Ok(()), Bind::check).map_err(io::Error::from)?;
        DefaultResolver::default().resolve(uri, config, t)
    }
}

fn host_and_port(uri: &Uri) -> Option<(String, u16)> {
    let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    Some((uri.host()?.to_ascii_lowercase(), uri.port_u16().unwrap_or(default)))
}

fn dial(
    addr: SocketAddr,
    bind: Option<&Bind>,
    deadline: Instant,
    interrupt: &Interrupt,
) -> io::Result<(Arc<Socket>, Registration)> {
    let socket = Arc::new(bind::dialling(bind, addr, Type::STREAM)?);
    let registration = interrupt.register(socket.clone()).map_err(io::Error::other)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&addr.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => await_connected(&socket, deadline, interrupt)?,
        Err(error) => return Err(error),
    }
    socket.set_nonblocking(false)?;
    socket.set_tcp_nodelay(true)?;
    Ok((socket, registration))
}

fn await_connected(socket: &Socket, deadline: Instant, interrupt: &Interrupt) -> io::Result<()> {
    loop {
        // Asked again after the registration, because a raise in between found nothing to shut down.
        if interrupt.is_raised() {
            return Err(io::Error::other(Interrupted));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let slice = left.min(CONNECT_SLICE);
        let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: slice.subsec_nanos().into() };
        match poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return socket.take_error()?.map_or(Ok(()), Err),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The time that one call may take; zero would mean for ever to the socket.
fn budget(timeout: NextTimeout) -> Result<Duration, ureq::Error> {
    let left = (*timeout.after).min(LONGEST_CALL);
    if left.is_zero() { Err(ureq::Error::Timeout(timeout.reason)) } else { Ok(left) }
}

/// A socket whose timeout ran out says that it would block.
fn timed_out(error: io::Error, timeout: NextTimeout) -> ureq::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ureq::Error::Timeout(timeout.reason),
        _ => error.into(),
    }
}

fn read_reply(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<HttpReply, HttpError> {
    let response = response?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    // ureq's own limit counts the bytes before decompression; this one those after.
    let limit = MAX_REPLY_LEN as u64 + 1;
    response.into_body().into_reader().take(limit).read_to_end(&mut body).map_err(ureq::Error::from)?;
    if body.len() > MAX_REPLY_LEN {
        return Err(HttpError::TooLarge);
    }
    Ok(HttpReply { status, body })
}
