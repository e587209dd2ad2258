//! Where callers are taken in: the listening sockets, and the greeting of each caller until a torrent admits it.
//!
//! It owns the accepting threads, a thread for each caller, and how many are greeted at once. It turns away who is blocked
//! and, in a crowd, who comes last; whether a torrent has room for a caller is the torrent's to say.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::bounded;
use parking_lot::Mutex;

use super::udp::Calls;
use super::{Registry, STACK};
use crate::config::Transports;
use crate::crew::NoThread;
use crate::net::{Arrival, Closer, Listener};
use crate::peer::{self, Door, Incoming, PeerError};
use crate::torrent::{Admission, Inbox, Resources};

/// Connections that are being greeted, over all: a flood of callers that say nothing costs no more threads than this.
const GREETINGS: usize = 256;

/// Where callers are taken in, and what they may ask for.
#[derive(Clone)]
pub(super) struct Reception {
    pub(super) resources: Arc<Resources>,
    pub(super) torrents: Registry,
    pub(super) greetings: Arc<Greetings>,
}

impl Reception {
    /// Starts a thread for each listening socket.
    pub(super) fn open(&self, listeners: Vec<Listener>, doors: &Doors) -> Result<(), NoThread> {
        for listener in listeners {
            let (reception, door) = (self.clone(), listener.clone());
            if doors.add(listener) {
                self.resources.crew.spawn("accept".into(), STACK, move || reception.run(&door))?;
            }
        }
        Ok(())
    }

    /// Starts a thread for those who call by uTP. It ends with the one at the UDP port.
    pub(super) fn take_calls(&self, calls: Calls) -> Result<(), NoThread> {
        let reception = self.clone();
        let run = move || calls.iter().for_each(|(stream, addr)| reception.receive(Arrival::Utp(stream), addr));
        self.resources.crew.spawn("accept-utp".into(), STACK, run)
    }

    fn run(&self, listener: &Listener) {
        let hangs_up = self.resources.config.peers.transports == Transports::Utp;
        loop {
            match listener.accept() {
                Ok((_, addr)) if hangs_up => log::debug!("{addr}: refused, it calls by TCP"),
                Ok((socket, addr)) => self.receive(Arrival::Tcp(socket), addr),
                Err(error) => {
                    // Out of descriptors, or a caller that hung up: neither is a reason to stop listening.
                    if listener.pause() {
                        return;
                    }
                    log::debug!("accept: {error}");
                }
            }
        }
    }

    fn receive(&self, arrival: Arrival, addr: SocketAddr) {
        if self.resources.filter.read().blocks(addr.ip()) {
            self.resources.blocked_callers.fetch_add(1, Ordering::Relaxed);
            log::debug!("{addr}: refused, it is blocked");
            return;
        }
        let closer = Arc::new(Closer::default());
        let Some(id) = self.greetings.begin(&closer) else {
            log::debug!("{addr}: refused, too many callers at once");
            return;
        };
        let (resources, torrents) = (Arc::clone(&self.resources), Arc::clone(&self.torrents));
        let greetings = Arc::clone(&self.greetings);
        let caller = move || {
            let admitted = greet(arrival, addr, closer, &resources, &torrents);
            greetings.end(id);
            match admitted {
                Ok(Some((incoming, admission))) => {
                    admission.live(incoming, &resources.crew);
                }
                Ok(None) => log::debug!("{addr}: not admitted"),
                Err(error) => log::debug!("{addr}: {error}"),
            }
        };
        if let Err(error) = self.resources.crew.spawn(format!("rx-{addr}"), peer::STACK, caller) {
            self.greetings.end(id);
            log::debug!("{addr}: refused: {error}");
        }
    }
}

/// The listening sockets; `None` once the session ends. Locked to look, to add, or to close them.
pub(super) struct Doors(Mutex<Option<Vec<Listener>>>);

impl Default for Doors {
    fn default() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }
}

impl Doors {
    pub(super) fn addrs(&self) -> Vec<SocketAddr> {
        self.0.lock().iter().flatten().map(Listener::addr).collect()
    }

    /// `false` where the session ends: then nobody listens.
    fn add(&self, listener: Listener) -> bool {
        self.0.lock().as_mut().map(|doors| doors.push(listener)).is_some()
    }

    /// Ends those that there are.
    pub(super) fn close(&self) {
        let doors = self.0.lock().as_mut().map(std::mem::take);
        doors.iter().flatten().for_each(Listener::stop);
    }

    /// Ends those that there are, and any that would be added.
    pub(super) fn shut(&self) {
        let doors = self.0.lock().take();
        doors.iter().flatten().for_each(Listener::stop);
    }
}

/// Callers that have not said yet which torrent they call for.
pub(super) struct Greetings {
    /// What ends each of them; `None` once nobody is greeted any more. Locked to add, to remove, or to end them all.
    open: Mutex<Option<HashMap<u64, Arc<Closer>>>>,
    next: AtomicU64,
}

impl Greetings {
    pub(super) fn new() -> Self {
        Self { open: Mutex::new(Some(HashMap::new())), next: AtomicU64::new(0) }
    }

    /// Makes room for one more caller; `None` where too many are being greeted.
    fn begin(&self, closer: &Arc<Closer>) -> Option<u64> {
        let mut open = self.open.lock();
        let open = open.as_mut()?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        (open.len() < GREETINGS).then(|| open.insert(id, Arc::clone(closer)))?;
        Some(id)
    }

    fn end(&self, id: u64) {
        if let Some(open) = self.open.lock().as_mut() {
            open.remove(&id);
        }
    }

    pub(super) fn stop(&self) {
        let open = self.open.lock().take();
        open.into_iter().flatten().for_each(|(_, closer)| closer.close());
    }
}

/// Hears which torrent a caller wants and asks its owner.
fn greet(
    arrival: Arrival,
    addr: SocketAddr,
    closer: Arc<Closer>,
    resources: &Resources,
    torrents: &Registry,
) -> Result<Option<(Incoming, Admission)>, PeerError> {
    let peers = &resources.config.peers;
    let door = Door {
        timeout: peers.handshake_timeout,
        encryption: peers.encryption,
        find: &|info_hash| {
            let torrents = torrents.read();
            let shared = torrents.get(info_hash)?;
            Some((resources.our_id, resources.has_dht_for(shared)))
        },
        find_hidden: &|name| torrents.read().find_hidden(name),
    };
    let (info_hash, incoming) = peer::greet(arrival, addr, Arc::clone(&closer), &door)?;
    let Some(shared) = torrents.read().get(&info_hash).cloned() else { return Ok(None) };
    let (answer, admission) = bounded(1);
    if shared.inbox.send(Inbox::Call(addr, closer, answer)).is_err() {
        return Ok(None);
    }
    Ok(shared.await_answer(&admission).flatten().map(|admission| (incoming, admission)))
}
