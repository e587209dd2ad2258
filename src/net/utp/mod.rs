//! uTP (BEP 29): connections over UDP that yield to other traffic, made and accepted at the session's UDP port.
//!
//! - `connection`: one of them, a sans-IO machine, made of `sent`, `received`, `rtt` and `ledbat`.
//!   `ends`: its bytes, as both sides see them.
//! - `port`: all of them. `pipe`: what threads read and write. `refusal`: the no to whoever has no connection.
//!
//! The thread `udp` owns the connections. Whoever reads or writes one shares two buffers with it, under a lock, and wakes
//! it; it wakes them.

mod connection;
mod ends;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod ledbat;
mod pipe;
mod port;
mod received;
mod refusal;
mod rtt;
mod sent;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use self::pipe::Bell;
pub(crate) use self::pipe::{Pipe, UtpStream};
use self::port::Connections;
pub(crate) use self::refusal::{Refusal, Resets};
use super::udp::{Protocol, UdpPort};

/// Makes connections of uTP.
#[derive(Clone)]
pub(crate) struct Utp {
    bell: Arc<Bell>,
    /// Whether there is a socket for IPv4, and for IPv6.
    families: [bool; 2],
}

impl Utp {
    /// What makes them, and the machine for this port. Callers go to `calls`, where there is somebody who takes them in.
    /// `key` must not be guessable.
    pub(crate) fn new(
        port: &UdpPort,
        calls: Option<Sender<(UtpStream, SocketAddr)>>,
        key: [u64; 2],
    ) -> (Self, Box<dyn Protocol>) {
        let bell = Arc::new(Bell::new(port.waker()));
        let machine = Connections::new(Arc::clone(&bell), calls, key);
        let families = [true, false].map(|v4| port.addrs().iter().any(|addr| addr.is_ipv4() == v4));
        (Self { bell, families }, Box::new(machine))
    }

    /// Begins a connection to `to`. Dropping what is returned gives it up.
    pub(crate) fn begin(&self, to: SocketAddr) -> io::Result<UtpStream> {
        if !self.families[usize::from(to.is_ipv6())] {
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "no socket of its family"));
        }
        let pipe = Pipe::new(to, &self.bell);
        let stream = UtpStream::new(Arc::clone(&pipe));
        if !self.bell.call(&pipe) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "stopped"));
        }
        Ok(stream)
    }
}

impl UtpStream {
    /// Waits until the connection is made.
    pub(crate) fn await_open(&self, timeout: Duration) -> io::Result<()> {
        self.pipe().await_open(timeout)
    }
}
