//! The UDP port of a session: a socket for each address family, one thread that waits at them, and the protocols that
//! share them.
//!
//! It owns the sockets and the waiting. What a datagram means is a [`Protocol`]'s, which is a sans-IO machine: it is told
//! what came and when, and asked what to send. Which of several a datagram is for shows its first byte: a message of the
//! DHT is a bencoded dictionary and begins with `d` (BEP 5), a packet of uTP with its type and version (BEP 29: 0x01, 0x11
//! to 0x41), an answer of a UDP tracker with 0 (BEP 15). Nothing here blocks but the one wait, which a [`Waker`] ends.

use std::io::{self, IoSliceMut, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::Type;

use super::Outlet;
use super::bind;
use super::stream::canonical;
use crate::config::Bind;

/// The longest datagram that there is, and the most that the system puts together of several.
const LONGEST: usize = 64 << 10;
/// How many of those one call receives.
const BUFFERS: usize = 4;
/// Datagrams that are taken from a socket before what they call for is sent, and the other way round: also what a flood may
/// delay a wake by. One call may receive more.
const BATCH: usize = 128;
/// Bytes that go to one peer by one call, at the most.
const BURST: usize = 60_000;
/// What may wait in the kernel while the thread is busy, in bytes; the system may give less.
const BUFFER: usize = 1 << 20;
/// How often the port looks whether what it is bound to has changed.
const LOOK: Duration = Duration::from_secs(1);
/// How long to wait after a socket that fails, so that a lasting failure does not keep a core busy.
const AFTER_ERROR: Duration = Duration::from_millis(100);

/// A sans-IO machine that shares the port with others.
pub(crate) trait Protocol: Send {
    /// Whether a datagram that begins with this byte is one of its own.
    fn claims(&self, first: u8) -> bool;
    /// Takes in a datagram.
    fn handle_datagram(&mut self, from: SocketAddr, bytes: &[u8], now: Instant);
    /// Somebody woke the thread: there may be something to look at.
    fn handle_wake(&mut self, now: Instant);
    /// Does what is due.
    fn handle_timeout(&mut self, now: Instant);
    /// When something is due next.
    fn poll_timeout(&self) -> Option<Instant>;
    /// Appends the next datagram to send to `out`, and says whom to.
    fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<SocketAddr>;
    /// What there was to receive and to send is done for the moment: called before each wait.
    fn handle_lull(&mut self) {}
    /// The thread is about to end; what is to be sent still is sent after this.
    fn handle_end(&mut self, now: Instant);
}

/// The sockets, before a thread serves them.
pub(crate) struct UdpPort {
    sockets: Vec<Door>,
    addrs: Vec<SocketAddr>,
    wakes: UnixStream,
    waker: Arc<Waker>,
    bind: Option<Bind>,
    /// What the sockets are bound to, where that may change, and the generation of it that they are of.
    outlet: Option<(Arc<Outlet>, u64)>,
    /// What the system had no room for.
    held: Option<Burst>,
    /// Which of the protocols sends first the next time.
    first: usize,
}

/// A socket, and what the system can do with it: send and receive several datagrams in one.
struct Door {
    socket: UdpSocket,
    state: UdpSocketState,
}

/// Datagrams to one peer that go by one call: all of one length, but for the last, which may be shorter.
struct Burst {
    /// Which socket it goes by.
    place: usize,
    to: SocketAddr,
    bytes: Vec<u8>,
    /// The length of each.
    each: usize,
}

/// Ends the wait of the thread that serves a port.
pub(crate) struct Waker {
    pipe: UnixStream,
    /// A wake is on its way: another one would tell nothing new. Set by whoever wakes, cleared by the thread before it looks.
    pending: AtomicBool,
    /// The thread is to end. Set once.
    stopped: AtomicBool,
}

impl Waker {
    /// Has the protocols look at what there is for them, soon. Never waits.
    pub(crate) fn wake(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            // A pipe that is full has something to be read, which is what is wanted.
            let _ = (&self.pipe).write(&[1]);
        }
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        let _ = (&self.pipe).write(&[1]);
    }
}

impl UdpPort {
    /// Binds `port` (0: any free one) of the addresses that `bind` allows, or else of every address of both families.
    ///
    /// A machine or an interface that has no IPv6, or where another program has the port there, goes on with IPv4 alone.
    pub(crate) fn bind(bind: Option<&Bind>, port: u16) -> io::Result<Self> {
        let (sockets, addrs) = open_all(bind, port)?;
        let (pipe, wakes) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        wakes.set_nonblocking(true)?;
        let waker = Waker { pipe, pending: AtomicBool::new(false), stopped: AtomicBool::new(false) };
        Ok(Self {
            sockets,
            addrs,
            wakes,
            waker: Arc::new(waker),
            bind: bind.cloned(),
            outlet: None,
            held: None,
            first: 0,
        })
    }

    /// Has the sockets opened anew when what they are bound to is back, on the same port.
    pub(crate) fn follow(&mut self, outlet: Arc<Outlet>) {
        let generation = outlet.generation();
        self.outlet = Some((outlet, generation)).filter(|(outlet, _)| outlet.may_close());
    }

    /// The local addresses, IPv4 first.
    pub(crate) fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// What it is bound to.
    pub(crate) fn bound_to(&self) -> Option<&Bind> {
        self.bind.as_ref()
    }

    /// What ends the wait and the thread.
    pub(crate) fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Serves the port until it is stopped: the work of the thread `udp`.
    pub(crate) fn run(mut self, protocols: &mut [Box<dyn Protocol>]) {
        let mut buffer = vec![0; BUFFERS * LONGEST];
        loop {
            self.reopen();
            let more = self.transmit(protocols);
            protocols.iter_mut().for_each(|protocol| protocol.handle_lull());
            let now = Instant::now();
            let until = protocols.iter().filter_map(|protocol| protocol.poll_timeout());
            let until = until.chain(self.outlet.iter().map(|_| now + LOOK)).chain(more.then_some(now)).min();
            let ready = match self.wait(until) {
                Ok(ready) => ready,
                Err(error) => {
                    log::debug!("the UDP port: {error}");
                    if self.waker.stopped.load(Ordering::Acquire) {
                        break;
                    }
                    std::thread::park_timeout(AFTER_ERROR);
                    continue;
                }
            };
            for place in (0..self.sockets.len()).filter(|&place| ready.sockets[place]) {
                self.receive(place, &mut buffer, protocols);
            }
            if self.waker.stopped.load(Ordering::Acquire) {
                break;
            }
            let now = Instant::now();
            if ready.wake {
                self.clear_wakes();
                protocols.iter_mut().for_each(|protocol| protocol.handle_wake(now));
            }
            for protocol in protocols.iter_mut() {
                if protocol.poll_timeout().is_some_and(|due| due <= now) {
                    protocol.handle_timeout(now);
                }
            }
        }
        let now = Instant::now();
        protocols.iter_mut().for_each(|protocol| protocol.handle_end(now));
        while self.transmit(protocols) {}
    }

    /// Opens the sockets anew, where those that there are lead nowhere any more.
    fn reopen(&mut self) {
        let Some((outlet, generation)) = &mut self.outlet else { return };
        if outlet.generation() == *generation || outlet.closed().is_some() {
            return;
        }
        let port = self.addrs.first().map_or(0, SocketAddr::port);
        // The old ones hold the port, and are of no use.
        self.sockets.clear();
        self.held = None;
        match open_all(outlet.bind(), port) {
            Ok((sockets, addrs)) => {
                *generation = outlet.generation();
                (self.sockets, self.addrs) = (sockets, addrs);
            }
            Err(error) => log::debug!("UDP port {port} is not there again yet: {error}"),
        }
    }

    /// Waits for a datagram, a wake, or a moment.
    fn wait(&self, until: Option<Instant>) -> io::Result<Ready> {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        let mut polled = vec![PollFd::new(&self.wakes, PollFlags::IN)];
        let held = self.held.as_ref().map(|burst| burst.place);
        polled.extend(self.sockets.iter().enumerate().map(|(place, door)| {
            let room = if held == Some(place) { PollFlags::OUT } else { PollFlags::empty() };
            PollFd::new(&door.socket, PollFlags::IN | room)
        }));
        match rustix::event::poll(&mut polled, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = |place: usize| polled.get(place).is_some_and(|fd: &PollFd<'_>| !fd.revents().is_empty());
        Ok(Ready { wake: ready(0), sockets: [ready(1), ready(2)] })
    }

    fn receive(&self, place: usize, buffer: &mut [u8], protocols: &mut [Box<dyn Protocol>]) {
        let Door { socket, state } = &self.sockets[place];
        let mut taken = 0;
        while taken < BATCH {
            let mut buffers = buffer.chunks_exact_mut(LONGEST).map(IoSliceMut::new);
            let mut buffers: [_; BUFFERS] = std::array::from_fn(|_| buffers.next().expect("as many as there are"));
            let mut metas = [RecvMeta::default(); BUFFERS];
            let count = match state.recv(socket.into(), &mut buffers, &mut metas) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // Some systems report here that an earlier datagram found nobody.
                    log::trace!("receiving from UDP: {error}");
                    return;
                }
            };
            let now = Instant::now();
            for (bytes, meta) in buffer.chunks_exact(LONGEST).zip(&metas[..count]) {
                // Several of one peer that came close together may have been put into one buffer.
                for bytes in bytes[..meta.len].chunks(meta.stride.max(1)) {
                    taken += 1;
                    if let Some(protocol) = protocols.iter_mut().find(|protocol| protocol.claims(bytes[0])) {
                        protocol.handle_datagram(canonical(meta.addr), bytes, now);
                    }
                }
            }
        }
    }

    /// Sends what there is to send, up to a bound. Says whether there may be more that can be sent now.
    fn transmit(&mut self, protocols: &mut [Box<dyn Protocol>]) -> bool {
        if let Some(burst) = self.held.take() {
            self.send(burst);
        }
        let mut more = false;
        let mut next = Vec::new();
        // In turns: none of them has the port for itself, however much it has to send.
        self.first = (self.first + 1) % protocols.len().max(1);
        let (after, from) = protocols.split_at_mut(self.first);
        for protocol in from.iter_mut().chain(after) {
            let mut burst: Option<Burst> = None;
            for sent in 0.. {
                if self.held.is_some() || sent == BATCH {
                    more = true;
                    break;
                }
                next.clear();
                let Some(to) = protocol.poll_transmit(Instant::now(), &mut next) else { break };
                let Some(place) = self.place_of(to) else { continue };
                match &mut burst {
                    Some(burst) if burst.to == to && burst.takes(next.len(), self.most(place)) => {
                        burst.bytes.extend(&next)
                    }
                    _ => {
                        let begun = Burst { place, to, each: next.len(), bytes: std::mem::take(&mut next) };
                        burst.replace(begun).into_iter().for_each(|burst| self.send(burst));
                    }
                }
            }
            burst.into_iter().for_each(|burst| self.send(burst));
        }
        more && self.held.is_none()
    }

    /// By which socket somebody is reached.
    fn place_of(&self, to: SocketAddr) -> Option<usize> {
        let place = self.addrs.iter().position(|addr| addr.is_ipv4() == to.is_ipv4())?;
        (place < self.sockets.len()).then_some(place)
    }

    /// How many datagrams the system takes in one.
    fn most(&self, place: usize) -> usize {
        self.sockets[place].state.max_gso_segments()
    }

    /// Sends datagrams, or holds them where the system has no room.
    fn send(&mut self, burst: Burst) {
        let Some(Door { socket, state }) = self.sockets.get(burst.place) else { return };
        let segment_size = (burst.bytes.len() > burst.each).then_some(burst.each);
        let transmit =
            Transmit { destination: burst.to, ecn: None, contents: &burst.bytes, segment_size, src_ip: None };
        match state.try_send(socket.into(), &transmit) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if self.held.is_none() {
                    self.held = Some(burst);
                }
            }
            // What cannot be sent is lost, as any datagram may be.
            Err(error) => log::trace!("{}: a datagram was not sent: {error}", burst.to),
            Ok(()) => {}
        }
    }

    fn clear_wakes(&mut self) {
        while matches!(self.wakes.read(&mut [0; 16]), Ok(1..)) {}
        // Cleared after that, and before anybody looks: who woke before is seen now, who wakes later is heard the next time.
        self.waker.pending.swap(false, Ordering::AcqRel);
    }
}

impl Burst {
    /// Whether one more of this length may go with it, where no more than `most` do.
    fn takes(&self, len: usize, most: usize) -> bool {
        let all_alike = self.bytes.len().is_multiple_of(self.each.max(1));
        let fits = self.bytes.len() + len <= BURST && self.bytes.len() / self.each.max(1) < most;
        (1..=self.each).contains(&len) && all_alike && fits
    }
}

/// What the wait ended with.
struct Ready {
    wake: bool,
    sockets: [bool; 2],
}

/// The sockets of a port and their addresses, IPv4 first.
fn open_all(bind: Option<&Bind>, port: u16) -> io::Result<(Vec<Door>, Vec<SocketAddr>)> {
    let first = match open(bind, false, port) {
        Err(error) if bind::is_no_family(&error) => open(bind, true, port)?,
        first => first?,
    };
    let addr = first.socket.local_addr()?;
    let mut sockets = vec![first];
    if addr.is_ipv4() {
        match open(bind, true, addr.port()) {
            Ok(socket) => sockets.push(socket),
            Err(error) => log::debug!("UDP port {} is of IPv4 alone: {error}", addr.port()),
        }
    }
    let addrs = sockets.iter().map(|door| door.socket.local_addr()).collect::<io::Result<_>>()?;
    Ok((sockets, addrs))
}

fn open(bind: Option<&Bind>, v6: bool, port: u16) -> io::Result<Door> {
    let socket = bind::listening(bind, v6, port, Type::DGRAM)?;
    socket.set_recv_buffer_size(BUFFER).ok();
    socket.set_nonblocking(true)?;
    let socket = UdpSocket::from(socket);
    Ok(Door { state: UdpSocketState::new((&socket).into())?, socket })
}

#[cfg(test)]
mod tests;
