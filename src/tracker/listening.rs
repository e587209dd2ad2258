//! Which sockets a tracker is to have, and what is wrong where it cannot have one. It owns the words for that; the sockets are
//! their servers'.

use std::fmt;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};

/// What a tracker listens for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrackerServer {
    /// Announces and scrapes over HTTP ([`TrackerConfig::http`](super::TrackerConfig::http)).
    Http,
    /// The same over UDP ([`TrackerConfig::udp`](super::TrackerConfig::udp)).
    Udp,
    /// Requests for its pages ([`TrackerConfig::admin`](super::TrackerConfig::admin)).
    Pages,
}

/// Why a tracker cannot listen: inside the [`io::Error`] of [`Tracker::with`](super::Tracker::with), which has the kind of the
/// source.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for {server} on {addr}: {}", .itself.map_or_else(|| .source.to_string(), in_words))]
#[non_exhaustive]
pub struct ListenError {
    /// What it was to listen for.
    pub server: TrackerServer,
    /// Where.
    pub addr: SocketAddr,
    /// For what this tracker itself listens there already, which keeps it from doing so again.
    pub itself: Option<TrackerServer>,
    /// What the system said.
    pub source: io::Error,
}

/// The sockets that there are already.
#[derive(Debug, Default)]
pub(super) struct Listening(Vec<(TrackerServer, SocketAddr)>);

impl Listening {
    /// Binds to all addresses, but not to all of IPv6 where the system has none.
    pub(super) fn bind<T>(
        &mut self,
        server: TrackerServer,
        addrs: &[SocketAddr],
        bind: impl Fn(SocketAddr) -> io::Result<T>,
        local: impl Fn(&T) -> SocketAddr,
    ) -> io::Result<Vec<T>> {
        let mut bound = Vec::new();
        for &addr in addrs {
            match bind(addr) {
                Ok(socket) => {
                    self.0.push((server, local(&socket)));
                    bound.push(socket);
                }
                Err(error) if addr.ip() == Ipv6Addr::UNSPECIFIED && has_no_ipv6(&error) => {
                    log::info!("tracker: without IPv6: {error}");
                }
                Err(source) => {
                    let in_use = source.kind() == io::ErrorKind::AddrInUse;
                    let itself = if in_use { self.itself(server, addr) } else { None };
                    return Err(io::Error::new(source.kind(), ListenError { server, addr, itself, source }));
                }
            }
        }
        Ok(bound)
    }

    /// Where all of them are.
    pub(super) fn addrs(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|&(_, addr)| addr).collect()
    }

    fn itself(&self, server: TrackerServer, addr: SocketAddr) -> Option<TrackerServer> {
        let is_udp = |server| server == TrackerServer::Udp;
        let is_there = |&&(other, there): &&(TrackerServer, SocketAddr)| {
            is_udp(other) == is_udp(server)
                && there.port() == addr.port()
                && there.is_ipv4() == addr.is_ipv4()
                && (there.ip() == addr.ip() || there.ip().is_unspecified() || addr.ip().is_unspecified())
        };
        self.0.iter().find(is_there).map(|&(other, _)| other)
    }
}

impl fmt::Display for TrackerServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "HTTP",
            Self::Udp => "UDP",
            Self::Pages => "the tracker's pages",
        })
    }
}

fn in_words(itself: TrackerServer) -> String {
    format!("this tracker itself already listens there for {itself}")
}

fn has_no_ipv6(error: &io::Error) -> bool {
    let error = rustix::io::Errno::from_io_error(error);
    matches!(error, Some(rustix::io::Errno::AFNOSUPPORT | rustix::io::Errno::ADDRNOTAVAIL))
}
