//! The end of a connection of uTP that threads use: it blocks like a socket.
//!
//! It owns the bytes between those threads and the thread at the UDP port, which owns the connection itself.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::ends::{Ends, Status, move_out};
use crate::net::stream::WRITE_TIMEOUT;
use crate::net::udp::Waker;

/// Bytes that are taken in to be sent, at the least; more where more may be on the way.
const LEAST_OUTGOING: usize = 64 << 10;

/// A connection as threads use it; clones are the same one. When the last one is dropped, it is closed.
#[derive(Clone)]
pub(crate) struct UtpStream(Arc<Handle>);

struct Handle(Arc<Pipe>);

/// What lies between who uses a connection and the thread at the UDP port.
pub(crate) struct Pipe {
    pub(super) number: u64,
    pub(super) addr: SocketAddr,
    /// Locked by who reads or writes and by the thread at the port, to move bytes; never across I/O.
    middle: Mutex<Middle>,
    /// There is something to read, or the status is another.
    readable: Condvar,
    /// There is room to write, or the status is another.
    writable: Condvar,
    bell: Arc<Bell>,
}

pub(super) struct Middle {
    pub(super) ends: Ends,
    read_timeout: Option<Duration>,
    /// How many bytes are taken in to be sent.
    outgoing_limit: usize,
    /// The thread at the port is to look already.
    rung: bool,
}

/// Has the thread at the UDP port look at connections.
pub(super) struct Bell {
    waker: Arc<Waker>,
    /// Locked to put in or to take out.
    news: Mutex<News>,
}

/// What the thread at the port has not seen: each connection at most once as used, and once as closed.
#[derive(Default)]
pub(super) struct News {
    /// Connections that were used.
    pub(super) used: Vec<u64>,
    /// Connections to be made.
    pub(super) calls: Vec<Arc<Pipe>>,
    /// The thread has ended, or is about to.
    pub(super) ended: bool,
    /// How many connections there were: their numbers.
    count: u64,
}

impl Bell {
    pub(super) fn new(waker: Arc<Waker>) -> Self {
        Self { waker, news: Mutex::default() }
    }

    pub(super) fn take(&self) -> News {
        let mut news = self.news.lock();
        let (ended, count) = (news.ended, news.count);
        std::mem::replace(&mut *news, News { ended, count, ..News::default() })
    }

    /// Nobody looks any more. What was to be looked at still.
    pub(super) fn end(&self) -> News {
        self.news.lock().ended = true;
        self.take()
    }

    fn ring(&self, number: u64) {
        let mut news = self.news.lock();
        if !news.ended {
            news.used.push(number);
            drop(news);
            self.waker.wake();
        }
    }

    /// Has a connection made. `false`: nobody is there to do it.
    pub(super) fn call(&self, pipe: &Arc<Pipe>) -> bool {
        let mut news = self.news.lock();
        if !news.ended {
            news.calls.push(Arc::clone(pipe));
        }
        let is_heard = !news.ended;
        drop(news);
        if is_heard {
            self.waker.wake();
        }
        is_heard
    }
}

impl Pipe {
    pub(super) fn new(addr: SocketAddr, bell: &Arc<Bell>) -> Arc<Self> {
        let number = {
            let mut news = bell.news.lock();
            news.count += 1;
            news.count
        };
        let middle = Middle { ends: Ends::default(), read_timeout: None, outgoing_limit: LEAST_OUTGOING, rung: false };
        let (readable, writable) = (Condvar::new(), Condvar::new());
        Arc::new(Self { number, addr, middle: Mutex::new(middle), readable, writable, bell: Arc::clone(bell) })
    }

    /// For the thread at the port: what both share.
    pub(super) fn lock(&self) -> MutexGuard<'_, Middle> {
        self.middle.lock()
    }

    /// For the thread at the port: wakes those who wait for what is there now.
    pub(super) fn notify(&self, appetite: usize) {
        let mut middle = self.middle.lock();
        middle.outgoing_limit = (2 * appetite).max(LEAST_OUTGOING);
        let (opening, has_bytes) = (middle.ends.status == Status::Opening, !middle.ends.incoming.is_empty());
        let is_over = !matches!(middle.ends.status, Status::Opening | Status::Open);
        let has_room = middle.ends.outgoing.len() < middle.outgoing_limit;
        drop(middle);
        if has_bytes || is_over {
            self.readable.notify_one();
        }
        if !opening && (has_room || is_over) {
            self.writable.notify_one();
        }
    }

    /// Ends the connection in both directions; what was written is sent still.
    pub(crate) fn close(&self) {
        let mut middle = self.middle.lock();
        let was_closed = std::mem::replace(&mut middle.ends.closed, true);
        middle.ends.incoming = VecDeque::new();
        middle.rung = true;
        drop(middle);
        if !was_closed {
            self.readable.notify_all();
            self.writable.notify_all();
            self.bell.ring(self.number);
        }
    }

    /// Has the thread at the port look, if it is not about to.
    fn ring(&self, mut middle: MutexGuard<'_, Middle>) {
        let was_rung = std::mem::replace(&mut middle.rung, true);
        drop(middle);
        if !was_rung {
            self.bell.ring(self.number);
        }
    }

    /// Waits until the connection is made.
    pub(super) fn await_open(&self, timeout: Duration) -> io::Result<()> {
        let deadline = Instant::now() + timeout;
        let mut middle = self.middle.lock();
        loop {
            match middle.ends.status {
                _ if middle.ends.closed => return Err(io::Error::new(ErrorKind::ConnectionAborted, "stopped")),
                Status::Opening => {}
                Status::Open | Status::Finished => return Ok(()),
                Status::Broken(kind) => return Err(kind.into()),
            }
            if self.writable.wait_until(&mut middle, deadline).timed_out() {
                return Err(io::Error::new(ErrorKind::TimedOut, "nobody answers"));
            }
        }
    }

    fn read(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut middle = self.middle.lock();
        let deadline = middle.read_timeout.map(|timeout| Instant::now() + timeout);
        while middle.ends.incoming.is_empty() {
            match middle.ends.status {
                _ if middle.ends.closed => return Ok(0),
                Status::Finished => return Ok(0),
                Status::Broken(kind) => return Err(kind.into()),
                Status::Opening | Status::Open => {}
            }
            match deadline {
                None => self.readable.wait(&mut middle),
                Some(deadline) => {
                    if self.readable.wait_until(&mut middle, deadline).timed_out() && middle.ends.incoming.is_empty() {
                        return Err(ErrorKind::WouldBlock.into());
                    }
                }
            }
        }
        let read = bufs.iter_mut().map(|buf| move_out(&mut middle.ends.incoming, buf)).sum();
        if middle.ends.has_news() {
            self.ring(middle);
        }
        Ok(read)
    }

    fn write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let deadline = Instant::now() + WRITE_TIMEOUT;
        let mut middle = self.middle.lock();
        loop {
            match middle.ends.status {
                Status::Broken(kind) if !middle.ends.closed => return Err(kind.into()),
                _ if middle.ends.closed || middle.ends.is_gone => return Err(ErrorKind::BrokenPipe.into()),
                _ => {}
            }
            let room = middle.outgoing_limit.saturating_sub(middle.ends.outgoing.len());
            if room > 0 {
                let mut written = 0;
                for buf in bufs {
                    let some = &buf[..buf.len().min(room - written)];
                    middle.ends.outgoing.extend(some);
                    written += some.len();
                }
                self.ring(middle);
                return Ok(written);
            }
            if self.writable.wait_until(&mut middle, deadline).timed_out() {
                return Err(io::Error::new(ErrorKind::TimedOut, "it takes nothing in"));
            }
        }
    }
}

impl Middle {
    /// Takes note that the thread at the port looks now.
    pub(super) fn answer_bell(&mut self) {
        self.rung = false;
    }
}

impl UtpStream {
    pub(super) fn new(pipe: Arc<Pipe>) -> Self {
        Self(Arc::new(Handle(pipe)))
    }

    /// What ends it.
    pub(crate) fn pipe(&self) -> &Arc<Pipe> {
        &self.0.0
    }

    /// How long a read may wait; `None` for as long as it takes.
    pub(crate) fn set_read_timeout(&self, timeout: Option<Duration>) {
        self.pipe().middle.lock().read_timeout = timeout;
    }

    /// Reads what is there, once there is anything; nothing at the end.
    pub(crate) fn read_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.pipe().read(bufs)
    }

    /// Writes as much as there is room for, once there is any.
    pub(crate) fn write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.pipe().write(bufs)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}
