//! The UDP port of a session: a socket for each address family, one thread that waits at them, and the protocols that
//! share them.
//!
//! It owns the sockets and the waiting. What a datagram means is a [`Protocol`]'s, which is a sans-IO machine: it is told
//! what came and when, and asked what to send. Which of several a datagram is for shows its first byte: a message of the
//! DHT is a bencoded dictionary and begins with `d` (BEP 5), a packet of uTP with its type and version (BEP 29: 0x01, 0x11
//! to 0x41), an answer of a UDP tracker with 0 (BEP 15). Nothing here blocks but the one wait, which a [`Waker`] ends.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::Type;

use super::Outlet;
use super::bind;
use super::stream::canonical;
use crate::config::Bind;

/// The longest datagram that there is.
const LONGEST: usize = 64 << 10;
/// Datagrams that are taken from a socket before what they call for is sent: also what a flood may delay a wake by.
const BATCH: usize = 64;
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
    /// The thread is about to end; what is to be sent still is sent after this.
    fn handle_end(&mut self, now: Instant);
}

/// The sockets, before a thread serves them.
pub(crate) struct UdpPort {
    sockets: Vec<UdpSocket>,
    addrs: Vec<SocketAddr>,
    wakes: UnixStream,
    waker: Arc<Waker>,
    bind: Option<Bind>,
    /// What the sockets are bound to, where that may change, and the generation of it that they are of.
    outlet: Option<(Arc<Outlet>, u64)>,
    /// What the system had no room for, and by which socket it goes.
    held: Option<(usize, SocketAddr, Vec<u8>)>,
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
        Ok(Self { sockets, addrs, wakes, waker: Arc::new(waker), bind: bind.cloned(), outlet: None, held: None })
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
        let mut buffer = vec![0; LONGEST];
        loop {
            self.reopen();
            let more = self.transmit(protocols);
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
        let held = self.held.as_ref().map(|(place, ..)| *place);
        polled.extend(self.sockets.iter().enumerate().map(|(place, socket)| {
            let room = if held == Some(place) { PollFlags::OUT } else { PollFlags::empty() };
            PollFd::new(socket, PollFlags::IN | room)
        }));
        match rustix::event::poll(&mut polled, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = |place: usize| polled.get(place).is_some_and(|fd: &PollFd<'_>| !fd.revents().is_empty());
        Ok(Ready { wake: ready(0), sockets: [ready(1), ready(2)] })
    }

    fn receive(&self, place: usize, buffer: &mut [u8], protocols: &mut [Box<dyn Protocol>]) {
        for _ in 0..BATCH {
            match self.sockets[place].recv_from(buffer) {
                Ok((len, from)) => {
                    let bytes = &buffer[..len];
                    let Some(&first) = bytes.first() else { continue };
                    if let Some(protocol) = protocols.iter_mut().find(|protocol| protocol.claims(first)) {
                        protocol.handle_datagram(canonical(from), bytes, Instant::now());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // Some systems report here that an earlier datagram found nobody.
                    log::trace!("receiving from UDP: {error}");
                    return;
                }
            }
        }
    }

    /// Sends what there is to send, up to a bound. Says whether there may be more that can be sent now.
    fn transmit(&mut self, protocols: &mut [Box<dyn Protocol>]) -> bool {
        if let Some((place, to, bytes)) = self.held.take() {
            self.send(place, to, bytes);
        }
        let mut bytes = Vec::new();
        let mut sent = 0;
        for protocol in protocols {
            while self.held.is_none() {
                if sent == BATCH {
                    return true;
                }
                bytes.clear();
                let Some(to) = protocol.poll_transmit(Instant::now(), &mut bytes) else { break };
                sent += 1;
                if let Some(place) = self.addrs.iter().position(|addr| addr.is_ipv4() == to.is_ipv4()) {
                    bytes = self.send(place, to, bytes);
                }
            }
        }
        false
    }

    /// Sends a datagram, or holds it where the system has no room. Gives the buffer back.
    fn send(&mut self, place: usize, to: SocketAddr, bytes: Vec<u8>) -> Vec<u8> {
        let Some(socket) = self.sockets.get(place) else { return bytes };
        match socket.send_to(&bytes, to) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.held = Some((place, to, bytes));
                return Vec::new();
            }
            // What cannot be sent is lost, as any datagram may be.
            Err(error) => log::trace!("{to}: a datagram was not sent: {error}"),
            Ok(_) => {}
        }
        bytes
    }

    fn clear_wakes(&mut self) {
        while matches!(self.wakes.read(&mut [0; 16]), Ok(1..)) {}
        // Cleared after that, and before anybody looks: who woke before is seen now, who wakes later is heard the next time.
        self.waker.pending.swap(false, Ordering::AcqRel);
    }
}

/// What the wait ended with.
struct Ready {
    wake: bool,
    sockets: [bool; 2],
}

/// The sockets of a port and their addresses, IPv4 first.
fn open_all(bind: Option<&Bind>, port: u16) -> io::Result<(Vec<UdpSocket>, Vec<SocketAddr>)> {
    let first = match open(bind, false, port) {
        Err(error) if bind::is_no_family(&error) => open(bind, true, port)?,
        first => first?,
    };
    let addr = first.local_addr()?;
    let mut sockets = vec![first];
    if addr.is_ipv4() {
        match open(bind, true, addr.port()) {
            Ok(socket) => sockets.push(socket),
            Err(error) => log::debug!("UDP port {} is of IPv4 alone: {error}", addr.port()),
        }
    }
    let addrs = sockets.iter().map(UdpSocket::local_addr).collect::<io::Result<_>>()?;
    Ok((sockets, addrs))
}

fn open(bind: Option<&Bind>, v6: bool, port: u16) -> io::Result<UdpSocket> {
    let socket = bind::listening(bind, v6, port, Type::DGRAM)?;
    socket.set_recv_buffer_size(BUFFER).ok();
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::thread;

    use crossbeam_channel::{Receiver, Sender, unbounded};

    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const SOON: Duration = Duration::from_secs(10);

    /// Sends back what begins with `first`, and tells what it was told.
    struct Echo {
        first: u8,
        told: Sender<&'static str>,
        out: Vec<(SocketAddr, Vec<u8>)>,
        due: Option<Instant>,
    }

    impl Protocol for Echo {
        fn claims(&self, first: u8) -> bool {
            first == self.first
        }

        fn handle_datagram(&mut self, from: SocketAddr, bytes: &[u8], _: Instant) {
            self.out.push((from, bytes.to_vec()));
        }

        fn handle_wake(&mut self, now: Instant) {
            self.due = Some(now);
            self.told.send("wake").unwrap();
        }

        fn handle_timeout(&mut self, _: Instant) {
            self.due = None;
            self.told.send("timeout").unwrap();
        }

        fn poll_timeout(&self) -> Option<Instant> {
            self.due
        }

        fn poll_transmit(&mut self, _: Instant, out: &mut Vec<u8>) -> Option<SocketAddr> {
            let (to, bytes) = self.out.pop()?;
            out.extend(bytes);
            Some(to)
        }

        fn handle_end(&mut self, _: Instant) {
            self.told.send("end").unwrap();
        }
    }

    fn echo(first: u8) -> (Box<dyn Protocol>, Receiver<&'static str>) {
        let (told, tells) = unbounded();
        (Box::new(Echo { first, told, out: Vec::new(), due: None }), tells)
    }

    #[test]
    fn a_datagram_goes_to_the_protocol_that_claims_its_first_byte() {
        let port = UdpPort::bind(Some(&Bind::Addr(LOCAL)), 0).unwrap();
        let (addr, waker) = (port.addrs()[0], port.waker());
        let thread = thread::spawn(move || port.run(&mut [echo(b'd').0, echo(1).0]));
        let socket = UdpSocket::bind((LOCAL, 0)).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let mut buffer = [0; 16];
        // Nobody's, and an empty one: no answer, and no harm.
        for bytes in [&b"x"[..], b"", b"d1", b"\x01two"] {
            socket.send_to(bytes, addr).unwrap();
        }
        let mut answers: Vec<_> = (0..2)
            .map(|_| {
                let (len, from) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!(from, addr);
                buffer[..len].to_vec()
            })
            .collect();
        answers.sort();
        assert_eq!(answers, [b"\x01two".to_vec(), b"d1".to_vec()]);
        waker.stop();
        thread.join().unwrap();
    }

    #[test]
    fn a_wake_is_heard_then_what_is_due_is_done_and_a_stop_ends_the_thread() {
        let port = UdpPort::bind(Some(&Bind::Addr(LOCAL)), 0).unwrap();
        let waker = port.waker();
        let (protocol, tells) = echo(0);
        let thread = thread::spawn(move || port.run(&mut [protocol]));
        for _ in 0..3 {
            waker.wake();
            assert_eq!(tells.recv_timeout(SOON), Ok("wake"));
            assert_eq!(tells.recv_timeout(SOON), Ok("timeout"));
        }
        waker.stop();
        thread.join().unwrap();
        assert_eq!(tells.try_iter().collect::<Vec<_>>(), ["end"]);
    }

    #[test]
    fn a_stop_before_the_start_is_not_forgotten() {
        let port = UdpPort::bind(Some(&Bind::Addr(LOCAL)), 0).unwrap();
        port.waker().stop();
        port.run(&mut []);
    }

    #[test]
    fn one_port_serves_both_families_where_there_are_two() {
        let port = UdpPort::bind(None, 0).unwrap();
        let ports: Vec<_> = port.addrs().iter().map(SocketAddr::port).collect();
        assert!(ports.iter().all(|&port| port == ports[0] && port != 0), "{ports:?}");
    }
}
