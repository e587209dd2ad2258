//! A connection that several threads use at once, over TCP or uTP: one reads, one writes, and anyone may end it.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::{Socket, TcpKeepalive, Type};

use super::bind;
use super::utp::{Pipe, Utp, UtpStream};
use crate::config::Bind;

/// How long a write may make no progress at all.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(120);

/// How long the first try of uTP waits for an answer where there is time for another one.
const FIRST_UTP_TRY: Duration = Duration::from_millis(1500);

/// A connected stream. Clones are the same connection; reading and writing are independent of each other.
#[derive(Clone)]
pub(crate) enum Stream {
    Tcp(Arc<Socket>),
    Utp(UtpStream),
}

/// A connection that somebody made to us.
pub(crate) enum Arrival {
    Tcp(Socket),
    Utp(UtpStream),
}

/// What a connection is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// TCP.
    Tcp,
    /// uTP (BEP 29): over UDP, yielding to other traffic on the way.
    Utp,
}

impl Transport {
    /// In one word: `tcp` or `utp`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Utp => "utp",
        }
    }
}

/// Ends a connection from another thread, at any moment of its life: while it is being made, or before it began.
#[derive(Default)]
pub(crate) struct Closer {
    /// The connection once there is one. Locked only to look or to set, never across I/O that blocks.
    state: Mutex<CloserState>,
    closing: Condvar,
}

#[derive(Default)]
struct CloserState {
    closed: bool,
    line: Option<Line>,
}

/// What can be cut.
enum Line {
    Tcp(Arc<Socket>),
    Utp(Arc<Pipe>),
}

impl Line {
    fn cut(&self) {
        match self {
            Self::Tcp(socket) => _ = socket.shutdown(Shutdown::Both),
            Self::Utp(pipe) => pipe.close(),
        }
    }
}

impl Closer {
    /// Ends the connection: whoever reads, writes or connects returns at once.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let line = state.line.take();
        drop(state);
        line.iter().for_each(Line::cut);
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

    /// Takes charge of a connection and begins to use it, unless it is too late for that.
    fn attach(&self, line: Line, begin: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "stopped"));
        }
        state.line = Some(line);
        begin()
    }
}

impl Stream {
    /// Connects by TCP to `to`, from `bind` where one is given, within `timeout`.
    pub(crate) fn connect(to: SocketAddr, bind: Option<&Bind>, timeout: Duration, closer: &Closer) -> io::Result<Self> {
        let socket = Arc::new(bind::dialling(bind, to, Type::STREAM)?);
        socket.set_nonblocking(true)?;
        // Begun under the closer's lock: an end that comes before finds no connection, one that comes after ends it.
        closer.attach(Line::Tcp(Arc::clone(&socket)), || match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
            result => result,
        })?;
        await_connection(&socket, timeout)?;
        socket.set_nonblocking(false)?;
        Self::made(socket)
    }

    /// Connects by uTP to `to` within `timeout`.
    pub(crate) fn connect_utp(to: SocketAddr, utp: &Utp, timeout: Duration, closer: &Closer) -> io::Result<Self> {
        let deadline = Instant::now() + timeout;
        let mut wait = FIRST_UTP_TRY;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let stream = utp.begin(to)?;
            let made = Self::Utp(stream.clone());
            closer.attach(made.line(), || Ok(()))?;
            match stream.await_open(wait.min(left)) {
                // What was asked or answered may be lost. It is asked anew, as somebody else would.
                Err(error) if error.kind() == io::ErrorKind::TimedOut && wait < left => wait = timeout,
                result => return result.map(|()| made),
            }
        }
    }

    /// Takes a connection that somebody made to us.
    pub(crate) fn accepted(arrival: Arrival, closer: &Closer) -> io::Result<Self> {
        let stream = match arrival {
            Arrival::Tcp(socket) => Self::Tcp(Arc::new(socket)),
            Arrival::Utp(stream) => Self::Utp(stream),
        };
        closer.attach(stream.line(), || Ok(()))?;
        match stream {
            Self::Tcp(socket) => Self::made(socket),
            Self::Utp(_) => Ok(stream),
        }
    }

    /// What can be cut of it.
    fn line(&self) -> Line {
        match self {
            Self::Tcp(socket) => Line::Tcp(Arc::clone(socket)),
            Self::Utp(stream) => Line::Utp(Arc::clone(stream.pipe())),
        }
    }

    fn made(socket: Arc<Socket>) -> io::Result<Self> {
        socket.set_tcp_nodelay(true)?;
        // A peer that takes nothing in, however often it says that it is there, is not waited for.
        socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
        // A peer behind a path that died without a word is noticed by the kernel even when nobody sends.
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(120)))?;
        Ok(Self::Tcp(socket))
    }

    /// How long a read may wait; `None` for as long as it takes.
    pub(crate) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_read_timeout(timeout),
            Self::Utp(stream) => {
                stream.set_read_timeout(timeout);
                Ok(())
            }
        }
    }

    /// Whether the system itself takes what is written from where that lies: a page that is gone is an error then. From
    /// others it is copied here.
    pub(crate) fn is_served_by_kernel(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// What carries it.
    pub(crate) fn transport(&self) -> Transport {
        match self {
            Self::Tcp(_) => Transport::Tcp,
            Self::Utp(_) => Transport::Utp,
        }
    }

    /// Ends the connection in both directions.
    pub(crate) fn close(&self) {
        self.line().cut();
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
        match self {
            Self::Tcp(socket) => (&**socket).read(buf),
            Self::Utp(stream) => stream.read_vectored(&mut [IoSliceMut::new(buf)]),
        }
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => (&**socket).read_vectored(bufs),
            Self::Utp(stream) => stream.read_vectored(bufs),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => (&**socket).write(buf),
            Self::Utp(stream) => stream.write_vectored(&[IoSlice::new(buf)]),
        }
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => (&**socket).write_vectored(bufs),
            Self::Utp(stream) => stream.write_vectored(bufs),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
