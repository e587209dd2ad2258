//! The listening sockets: one port, IPv4 and IPv6.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Socket, Type};

use super::bind;
use super::stream::{Closer, canonical};
use crate::config::Bind;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 128;
/// How long to wait after an error such as too many open files.
const AFTER_ERROR: Duration = Duration::from_millis(100);

/// A listening socket that another thread can stop.
#[derive(Clone)]
pub(crate) struct Listener {
    socket: Arc<Socket>,
    addr: SocketAddr,
    stopped: Arc<Closer>,
}

impl Listener {
    /// Waits for the next connection. An error after [`Listener::stop`] is the end.
    pub(crate) fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        let (socket, addr) = self.socket.accept()?;
        let addr = addr.as_socket().ok_or_else(|| io::Error::other("not an IP connection"))?;
        Ok((socket, canonical(addr)))
    }

    /// The address it listens on.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Waits a moment after an error; `true` says that the listener was stopped.
    pub(crate) fn pause(&self) -> bool {
        self.stopped.wait(AFTER_ERROR)
    }

    /// Wakes whoever waits in [`Listener::accept`], which fails from now on.
    pub(crate) fn stop(&self) {
        self.stopped.close();
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// Listens on the first free port of `ports` (0: any), on the addresses that `bind` allows or else on every address of both
/// families.
///
/// A machine or an interface that has no IPv6 listens on IPv4 alone, an interface without IPv4 on IPv6.
pub(crate) fn bind_listener(bind: Option<&Bind>, ports: RangeInclusive<u16>) -> io::Result<Vec<Listener>> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "the range of ports is empty");
    for port in ports {
        match bind_port(bind, port) {
            Ok(listeners) => return Ok(listeners),
            // The next port will not bring the interface back.
            Err(error) if bind::is_cut_off(&error) => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bind_port(bind: Option<&Bind>, port: u16) -> io::Result<Vec<Listener>> {
    let v4 = match listen(bind, false, port) {
        Ok(v4) => v4,
        Err(error) if bind.is_some() && bind::is_no_family(&error) => return Ok(vec![listen(bind, true, port)?]),
        Err(error) => return Err(error),
    };
    // The same port for IPv6, so that one number serves both.
    match listen(bind, true, v4.addr.port()) {
        Ok(v6) => Ok(vec![v4, v6]),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        Err(_) => Ok(vec![v4]),
    }
}

fn listen(bind: Option<&Bind>, v6: bool, port: u16) -> io::Result<Listener> {
    let socket = bind::listening(bind, v6, port, Type::STREAM)?;
    socket.listen(BACKLOG)?;
    let addr = socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an IP socket"))?;
    Ok(Listener { socket: Arc::new(socket), addr, stopped: Arc::default() })
}
