//! The tracker's UDP (BEP 15, 41): a socket and a thread `tracker-udp-N` for each worker, which share a port.
//!
//! It owns sockets and threads; [`desk`] knows what to answer. A thread reads what is there, up to 32 packets by one call where
//! the system has such a call, answers them by as few, and waits only when there was nothing. An answer is sent from the
//! address that its request was sent to, whatever addresses the machine has.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Socket, Type};

use self::desk::{Client, Desk};
use self::ids::ConnectionIds;
use self::outbox::Outbox;
use super::service::Service;
use crate::net::hold_to;

mod desk;
#[cfg(fuzzing)]
pub(super) mod fuzz;
mod ids;
mod outbox;
#[cfg(test)]
mod tests;

/// Room for what is received as one: where packets come close together, the kernel makes one of several (UDP GRO). What is not
/// used takes no memory.
const MAX_PACKET: usize = 65_535;

/// What the system is asked to keep while a thread is busy; it gives what it may (Linux: `net.core.rmem_max`).
const RECEIVE_BUFFER: usize = 8 << 20;

/// The longest that a stop goes unnoticed on systems where the shutdown of a socket wakes nobody.
const TICK: Duration = Duration::from_millis(500);

const STACK: usize = 256 * 1024;

/// Sockets of one address, as many as there are to be threads.
pub(super) struct Bound {
    addr: SocketAddr,
    sockets: Vec<Arc<Socket>>,
}

impl Bound {
    /// Port 0 takes a free one, the same for all.
    pub(super) fn new(addr: SocketAddr, interface: Option<&str>, workers: NonZeroUsize) -> io::Result<Self> {
        // The first takes the port for itself and shares it afterwards: somebody else's is not shared by mistake.
        let first = socket(addr, interface)?;
        first.bind(&addr.into())?;
        let addr = first.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an IP socket"))?;
        if workers.get() > 1 {
            first.set_reuse_port(true)?;
        }
        let mut sockets = vec![Arc::new(first)];
        for _ in 1..workers.get() {
            let next = socket(addr, interface)?;
            next.set_reuse_port(true)?;
            next.bind(&addr.into())?;
            sockets.push(Arc::new(next));
        }
        Ok(Self { addr, sockets })
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// Starts a thread for each socket. They end with the service's interrupt.
pub(super) fn start(bound: Vec<Bound>, service: &Arc<Service>, threads: &mut Vec<JoinHandle<()>>) -> io::Result<()> {
    let mut key = [0; 16];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    let key = u128::from_ne_bytes(key);
    // The same for all sockets: the kernel may send a client's packets to another one when it comes from another port.
    let ids = ConnectionIds::new([key as u64, (key >> 64) as u64], Instant::now());
    for (number, socket) in bound.into_iter().flat_map(|bound| bound.sockets).enumerate() {
        let (desk, service) = (Desk::new(service.clone(), ids), service.clone());
        let run = move || {
            if let Err(error) = serve(&socket, desk, &service) {
                log::error!("tracker: UDP has ended: {error}");
            }
        };
        threads.push(thread::Builder::new().name(format!("tracker-udp-{number}")).stack_size(STACK).spawn(run)?);
    }
    Ok(())
}

fn socket(addr: SocketAddr, interface: Option<&str>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, None)?;
    if let Some(interface) = interface {
        hold_to(&socket, interface, true)?;
    }
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    // Less is slower under load, and no error.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    Ok(socket)
}

fn serve(socket: &Arc<Socket>, mut desk: Desk, service: &Service) -> io::Result<()> {
    let Ok(_registration) = service.interrupt.register(socket.clone()) else { return Ok(()) };
    let mut inlet = Inlet::new(socket)?;
    let mut outbox = Outbox::new(socket.try_clone()?.into())?;
    while !service.interrupt.is_raised() {
        match inlet.receive() {
            Ok(batch) => {
                let now = Instant::now();
                let mut send = |answer: &[u8], to| outbox.put(answer, to);
                for (packet, client) in batch {
                    desk.take(packet, client, now, &mut send);
                }
                desk.answer(now, &mut send);
                outbox.flush();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let timeout = Timespec { tv_sec: 0, tv_nsec: TICK.subsec_nanos().into() };
                // Whatever poll says, receiving says it better.
                let _ = poll(&mut [PollFd::new(&**socket, PollFlags::IN)], Some(&timeout));
            }
            // What the kernel tells of earlier packets is no reason to end.
            Err(error) => log::debug!("tracker: UDP: {error}"),
        }
    }
    Ok(())
}

/// A socket, and room for what comes from it.
struct Inlet {
    io: UdpSocket,
    state: UdpSocketState,
    /// Whether it has all addresses of the machine.
    is_anywhere: bool,
    /// Buffers of [`MAX_PACKET`] bytes.
    packets: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
}

impl Inlet {
    fn new(socket: &Socket) -> io::Result<Self> {
        let io: UdpSocket = socket.try_clone()?.into();
        let (state, is_anywhere) = (UdpSocketState::new((&io).into())?, io.local_addr()?.ip().is_unspecified());
        let (packets, metas) = (vec![0; BATCH_SIZE * MAX_PACKET], [RecvMeta::default(); BATCH_SIZE]);
        Ok(Self { io, state, is_anywhere, packets, metas })
    }

    /// What has come, and from whom.
    fn receive(&mut self) -> io::Result<impl Iterator<Item = (&[u8], Client)>> {
        let mut buffers = self.packets.chunks_exact_mut(MAX_PACKET).map(IoSliceMut::new);
        let mut buffers: [_; BATCH_SIZE] = std::array::from_fn(|_| buffers.next().expect("as many as there are"));
        let len = self.state.recv((&self.io).into(), &mut buffers, &mut self.metas)?;
        let received = self.packets.chunks_exact(MAX_PACKET).zip(&self.metas[..len]);
        Ok(received.flat_map(|(buffer, meta)| {
            let client = Client { addr: meta.addr, at: meta.dst_ip.filter(|_| self.is_anywhere) };
            // Packets of one client that came close together may have been put into one buffer.
            buffer[..meta.len].chunks(meta.stride.max(1)).map(move |packet| (packet, client))
        }))
    }
}
