//! Listening sockets, and what they accept. It owns what systems do differently there.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use socket2::{Domain, Socket, Type};

use crate::net::hold_to;

/// Connections that wait to be accepted, of which the system may allow fewer.
const BACKLOG: i32 = 1024;

/// Listens on `addr`: one socket for each of so many threads, between which Linux shares the connections out. Elsewhere all
/// share one.
pub(super) fn listen(
    addr: SocketAddr,
    interface: Option<&str>,
    threads: usize,
) -> io::Result<(SocketAddr, Vec<Arc<Socket>>)> {
    if cfg!(not(target_os = "linux")) {
        let listener = Arc::new(bind(addr, interface, false)?);
        listener.listen(BACKLOG)?;
        return Ok((local(&listener)?, vec![listener; threads]));
    }
    // Sockets that share an address let any other program of the same user share it, too. The first does not until it has the
    // address, and so finds out whether it is free.
    let first = bind(addr, interface, false)?;
    let addr = local(&first)?;
    if threads > 1 {
        share(&first, true)?;
    }
    let mut listeners = vec![Arc::new(first)];
    for _ in 1..threads {
        listeners.push(Arc::new(bind(addr, interface, true)?));
    }
    listeners.iter().try_for_each(|listener| listener.listen(BACKLOG))?;
    Ok((addr, listeners))
}

/// The next connection, which does not block, and who made it.
#[cfg(target_os = "linux")]
pub(super) fn accept(listener: &Socket) -> io::Result<(TcpStream, SocketAddr)> {
    use rustix::net::{SocketFlags, acceptfrom_with};

    let (socket, from) = acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    let from = from.and_then(|from| from.try_into().ok()).ok_or_else(|| io::Error::other("not an IP socket"))?;
    Ok((socket.into(), from))
}

/// The next connection, which does not block, and who made it.
#[cfg(not(target_os = "linux"))]
pub(super) fn accept(listener: &Socket) -> io::Result<(TcpStream, SocketAddr)> {
    let (socket, from) = listener.accept()?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    let from = from.as_socket().ok_or_else(|| io::Error::other("not an IP socket"))?;
    Ok((socket.into(), from))
}

fn bind(addr: SocketAddr, interface: Option<&str>, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    if let Some(interface) = interface {
        hold_to(&socket, interface, true)?;
    }
    socket.set_reuse_address(true)?;
    share(&socket, shared)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // What is accepted inherits it on Linux: answers are not to wait for one another.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// Whether other sockets may have the same address, which only Linux shares connections out for.
fn share(socket: &Socket, shared: bool) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    socket.set_reuse_port(shared)?;
    #[cfg(not(target_os = "linux"))]
    let _ = (socket, shared);
    Ok(())
}

fn local(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an IP socket"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_listened_on_is_not_free() {
        let (addr, first) = listen(([127, 0, 0, 1], 0).into(), None, 2).unwrap();
        assert_eq!(listen(addr, None, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        listen(addr, None, 2).unwrap();
    }

    #[test]
    fn sockets_of_one_address_all_get_connections() {
        let (addr, listeners) = listen(([127, 0, 0, 1], 0).into(), None, 2).unwrap();
        let (mut clients, mut waiting) = (Vec::new(), vec![0, 1]);
        // Which of them gets a connection is a hash of the client's port.
        while !waiting.is_empty() {
            clients.push(TcpStream::connect(addr).unwrap());
            assert!(clients.len() < 200, "{waiting:?} got none");
            waiting.retain(|&at: &usize| accept(&listeners[at]).is_err());
        }
    }
}
