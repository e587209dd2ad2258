//! A TCP connection that several threads use at once: one reads, one writes, and anyone may end it.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::{Socket, TcpKeepalive, Type};

use super::bind;
use crate::config::Bind;

/// How long a write may make no progress at all.
const WRITE_TIMEOUT: Duration = Duration::from_secs(120);

/// A connected stream. Clones are the same connection; reading and writing are independent of each other.
#[derive(Clone)]
pub(crate) struct Stream {
    socket: Arc<Socket>,
}

/// Ends a connection from another thread, at any moment of its life: while it is being made, or before it began.
#[derive(Default)]
pub(crate) struct Closer {
    /// The socket once there is one. Locked only to look or to set, never across I/O that blocks.
    state: Mutex<CloserState>,
    closing: Condvar,
}

#[derive(Default)]
struct CloserState {
    closed: bool,
    socket: Option<Arc<Socket>>,
}

impl Closer {
    /// Ends the connection: whoever reads, writes or connects returns at once.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        if let Some(socket) = state.socket.take() {
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.closing.notify_all();
    }

    /// Waits for `time`, or less where the connection is ended meanwhile: then `true`.
    pub(crate) fn wait(&self, time: Duration) -> bool {
        let mut state = self.state.lock();
        self.closing.wait_while_for(&mut state, |state| !state.closed, time);
        state.closed
    }

    /// Whether [`Closer::close`] was called.
    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Takes charge of a socket and begins to use it, unless it is too late for that.
    fn attach(&self, socket: &Arc<Socket>, begin: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "stopped"));
        }
        state.socket = Some(Arc::clone(socket));
        begin()
    }
}

impl Stream {
    /// Connects to `to`, from `bind` where one is given, within `timeout`.
    pub(crate) fn connect(to: SocketAddr, bind: Option<&Bind>, timeout: Duration, closer: &Closer) -> io::Result<Self> {
        let socket = Arc::new(bind::dialling(bind, to, Type::STREAM)?);
        socket.set_nonblocking(true)?;
        // Begun under the closer's lock: an end that comes before finds no connection, one that comes after ends it.
        closer.attach(&socket, || match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
            result => result,
        })?;
        await_connection(&socket, timeout)?;
        socket.set_nonblocking(false)?;
        Self::made(socket)
    }

    /// A connection that somebody made to us.
    pub(crate) fn accepted(socket: Socket, closer: &Closer) -> io::Result<Self> {
        let socket = Arc::new(socket);
        closer.attach(&socket, || Ok(()))?;
        Self::made(socket)
    }

    fn made(socket: Arc<Socket>) -> io::Result<Self> {
        socket.set_tcp_nodelay(true)?;
        // A peer that takes nothing in, however often it says that it is there, is not waited for.
        socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
        // A peer behind a path that died without a word is noticed by the kernel even when nobody sends.
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(120)))?;
        Ok(Self { socket })
    }

    /// How long a read may wait; `None` for as long as it takes.
    pub(crate) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_read_timeout(timeout)
    }

    /// Ends the connection in both directions.
    pub(crate) fn close(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// Waits until a connection is made or refused.
fn await_connection(socket: &Socket, timeout: Duration) -> io::Result<()> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match rustix::event::poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&left)) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody answers")),
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    // An end from our side leaves no error behind.
    socket.peer_addr().map(drop)
}

/// An address with IPv4-mapped IPv6 written as IPv4.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self.socket).read(buf)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&*self.socket).read_vectored(bufs)
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (&*self.socket).write(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self.socket).write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
