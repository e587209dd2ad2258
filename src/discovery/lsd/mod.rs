//! Peers on the local network (BEP 14): the thread `lsd`, and the sockets that it owns.
//!
//! One socket for each interface and address family, on the group's own address and port, so that it hears what is sent to
//! the group by that interface and nothing else. What is sent goes one hop and no further. Interfaces are looked at again
//! every few seconds: the loopback and point-to-point ones, which lead to no neighbours, are left out; where a session is
//! bound, the others are, too. It refuses to know what a torrent does with an address.

mod machine;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::config::Bind;
use crate::metainfo::InfoHash;
use crate::net::bind::{self, Interface};
use crate::wire::lsd::{GROUP_V4, GROUP_V6};
use machine::LocalMachine;

/// How often interfaces are looked at, and while there is none.
const LOOK: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(1));
/// More than what anybody announces in.
const DATAGRAM: usize = 2048;
/// Datagrams that are read from a socket before others have their turn.
const BATCH: usize = 64;
/// Interfaces that are announced on.
const MAX_INTERFACES: usize = 16;

/// Where a torrent is told of a peer. It is called on the thread, which does not wait: it is to refuse rather than block.
pub(crate) type Found = Box<dyn Fn(SocketAddr) + Send>;

/// How torrents reach the thread. Clones share it.
#[derive(Clone)]
pub(crate) struct LocalDiscovery {
    shared: Arc<Shared>,
}

/// The part that a torrent takes: dropped, it is neither announced nor told of any more.
pub(crate) struct LocalPart {
    discovery: LocalDiscovery,
    torrent: InfoHash,
}

struct Shared {
    /// What is announced and who wants to know; `None` once it ends. Locked to look or to change, never across I/O.
    state: Mutex<Option<State>>,
    /// A byte wakes the thread.
    waker: UnixStream,
}

struct State {
    machine: LocalMachine,
    facts: HashMap<InfoHash, Found>,
}

/// What the thread owns.
pub(crate) struct Listening {
    shared: Arc<Shared>,
    woken: UnixStream,
    bind: Option<Bind>,
    interfaces: Vec<Interface>,
    sockets: Vec<(UdpSocket, SocketAddr)>,
}

impl LocalDiscovery {
    /// `port` is where peers can call us. The second half is for the thread: [`Listening::run`].
    pub(crate) fn new(bind: Option<Bind>, port: u16) -> io::Result<(Self, Listening)> {
        let (waker, woken) = UnixStream::pair()?;
        waker.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let machine = LocalMachine::new(port, fastrand::u32(..), Instant::now());
        let state = Mutex::new(Some(State { machine, facts: HashMap::new() }));
        let shared = Arc::new(Shared { state, waker });
        let listening =
            Listening { shared: Arc::clone(&shared), woken, bind, interfaces: Vec::new(), sockets: Vec::new() };
        Ok((Self { shared }, listening))
    }

    /// Announces a torrent from now on, and tells who else has it.
    pub(crate) fn join(&self, torrent: InfoHash, found: Found) -> LocalPart {
        if let Some(state) = self.shared.state.lock().as_mut() {
            state.machine.join(torrent, Instant::now());
            state.facts.insert(torrent, found);
        }
        self.shared.wake();
        LocalPart { discovery: self.clone(), torrent }
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.shared.state.lock().take();
        self.shared.wake();
    }
}

impl Drop for LocalPart {
    fn drop(&mut self) {
        if let Some(state) = self.discovery.shared.state.lock().as_mut() {
            state.machine.leave(&self.torrent);
            state.facts.remove(&self.torrent);
        }
    }
}

impl Shared {
    fn wake(&self) {
        // Where there is no room for a byte it is about to wake anyway.
        let _ = (&self.waker).write(&[0]);
    }
}

impl Listening {
    /// Announces and listens until it is stopped.
    pub(crate) fn run(mut self) {
        let mut next_look = Instant::now();
        loop {
            let now = Instant::now();
            if now >= next_look {
                self.look(now);
                next_look = now + if self.sockets.is_empty() { LOOK.1 } else { LOOK.0 };
            }
            let Some(until) = self.announce(now) else { return };
            self.wait(until.into_iter().chain([next_look]).min().unwrap_or(next_look));
            while (&self.woken).read(&mut [0; 64]).is_ok_and(|length| length > 0) {}
            self.listen();
        }
    }

    /// Opens sockets anew where the interfaces have changed.
    fn look(&mut self, now: Instant) {
        let mut interfaces = bind::neighbourhoods(self.bind.as_ref()).unwrap_or_else(|error| {
            log::debug!("local peers are not looked for: {error}");
            Vec::new()
        });
        interfaces.truncate(MAX_INTERFACES);
        if interfaces == self.interfaces {
            return;
        }
        self.sockets.clear();
        for interface in &interfaces {
            let groups = [(GROUP_V4, interface.v4.is_some()), (GROUP_V6, interface.v6.is_some())];
            for (group, _) in groups.into_iter().filter(|(_, has)| *has) {
                match bind::multicast(self.bind.as_ref(), interface, group) {
                    Ok(socket) => self.sockets.push((socket.into(), group)),
                    Err(error) => log::debug!("local peers are not looked for on {}: {error}", interface.name),
                }
            }
        }
        log::debug!("local peers are looked for by {} sockets", self.sockets.len());
        self.interfaces = interfaces;
        if let Some(state) = self.shared.state.lock().as_mut() {
            state.machine.handle_new_network(now);
        }
    }

    /// Sends what is due, and says when that is next; `None` once it is stopped.
    fn announce(&self, now: Instant) -> Option<Option<Instant>> {
        let (announce, next) = {
            let mut state = self.shared.state.lock();
            let machine = &mut state.as_mut()?.machine;
            if self.sockets.is_empty() {
                return Some(None);
            }
            (machine.poll_transmit(now), machine.poll_timeout())
        };
        if let Some(announce) = announce {
            for (socket, group) in &self.sockets {
                if let Err(error) = socket.send_to(&announce.encode(*group), group) {
                    log::debug!("{group}: not announced: {error}");
                }
            }
        }
        Some(next)
    }

    fn wait(&self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        let Ok(left) = Timespec::try_from(left) else { return };
        let mut fds = vec![PollFd::new(&self.woken, PollFlags::IN)];
        fds.extend(self.sockets.iter().map(|(socket, _)| PollFd::new(socket, PollFlags::IN)));
        // An error is a signal, or shows at the next read.
        let _ = poll(&mut fds, Some(&left));
    }

    /// Takes in what has come, and tells of whom it names.
    fn listen(&self) {
        let mut buffer = [0; DATAGRAM];
        for (socket, _) in &self.sockets {
            for _ in 0..BATCH {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { break };
                let mut state = self.shared.state.lock();
                let Some(State { machine, facts }) = state.as_mut() else { return };
                machine.handle_datagram(from, &buffer[..length], Instant::now());
                while let Some((torrent, peer)) = machine.poll_found() {
                    log::info!("{peer} is on the local network and has {torrent}");
                    if let Some(found) = facts.get(&torrent) {
                        found(peer);
                    }
                }
            }
        }
    }
}
