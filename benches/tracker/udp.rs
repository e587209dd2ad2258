//! Clients over UDP (BEP 15), all of them on one thread that never waits: what it costs is the same for every tracker.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ropewalk::metainfo::InfoHash;
use ropewalk::wire::handshake::PeerId;
use ropewalk::wire::tracker::udp::{Request, Response};
use ropewalk::wire::tracker::{AnnounceRequest, Crypto, Event, Family};

use crate::args::Args;

/// How long the first answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// An announce that is older than this is lost.
const LOST: Duration = Duration::from_millis(200);

/// How often a paced generator looks for answers: their times are up to so much too long.
const LOOK: Duration = Duration::from_micros(100);

/// A connection id is asked for again before a minute is over.
const RECONNECT: Duration = Duration::from_secs(45);

/// Announces whose times are kept: more are never under way.
const SLOTS: usize = 1 << 16;

/// The parts of an announce that differ from one to the next (BEP 15).
mod offset {
    use std::ops::Range;

    pub(super) const CONNECTION_ID: Range<usize> = 0..8;
    pub(super) const TRANSACTION_ID: Range<usize> = 12..16;
    pub(super) const INFO_HASH: Range<usize> = 16..20;
    /// Behind what says which client it is.
    pub(super) const PEER_ID: Range<usize> = 52..56;
    pub(super) const LEFT: usize = 71;
    pub(super) const KEY: Range<usize> = 88..92;
    pub(super) const PORT: Range<usize> = 96..98;
}

/// All clients.
pub(crate) struct Load {
    sockets: Vec<UdpSocket>,
    connection_id: u64,
    connected: Instant,
    family: Family,
    /// An announce, to be changed for each.
    packet: Vec<u8>,
    peers: u32,
    torrents: u32,
    window: usize,
    rng: fastrand::Rng,
    /// When what is under way was due, by transaction id.
    due: Vec<Option<Instant>>,
    /// The transaction id of the next announce, and how many are under way.
    next: u32,
    under_way: usize,
    /// When it was last looked for what is lost.
    looked: Instant,
}

/// What came of a load.
pub(crate) struct Outcome {
    /// Answers a second.
    pub(crate) rate: f64,
    /// Peers in each, on average.
    pub(crate) peers: f64,
    pub(crate) lost: u64,
    /// From when an announce was due until its answer was there, the quickest first.
    times: Vec<Duration>,
}

impl Outcome {
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        self.times[(self.times.len() - 1) * percent / 100]
    }
}

/// What answers every announce with so many peers, always the same: all that the sockets and the generator leave time for.
/// Ends when dropped.
pub(crate) struct Floor {
    pub(crate) addr: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Floor {
    pub(crate) fn start(peers: usize) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let (addr, stop) = (socket.local_addr()?, Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            // Both kinds of answer begin with what they are and whom for.
            let (mut packet, mut answer) = ([0; 2048], vec![0; 20 + 6 * peers]);
            while !stopped.load(Ordering::Relaxed) {
                let Ok((_, from)) = socket.recv_from(&mut packet) else { continue };
                answer[..8].copy_from_slice(&packet[8..16]);
                let len = if packet[8..12] == [0; 4] { 16 } else { answer.len() };
                let _ = socket.send_to(&answer[..len], from);
            }
        });
        Ok(Self { addr, stop, thread: Some(thread) })
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().into_iter().for_each(|thread| drop(thread.join()));
    }
}

/// What is counted meanwhile.
#[derive(Default)]
struct Count {
    answers: u64,
    peers: u64,
    lost: u64,
    times: Vec<Duration>,
}

impl Load {
    pub(crate) fn connect(server: SocketAddr, args: &Args) -> anyhow::Result<Self> {
        let local = if server.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        let socket = |_| -> anyhow::Result<_> {
            let socket = UdpSocket::bind(SocketAddr::new(local, 0))?;
            socket.connect(server)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let announce = AnnounceRequest {
            info_hash: InfoHash::new([0; 20]),
            peer_id: PeerId::new(*b"-LT20B0-abcdefghijkl"),
            port: 1,
            uploaded: 1 << 30,
            downloaded: 1 << 30,
            left: 0,
            event: Some(Event::Started),
            numwant: Some(args.wanted),
            key: 1,
            tracker_id: None,
            ipv4: None,
            ipv6: None,
            crypto: Crypto::None,
        };
        let (connection_id, transaction_id, url_data) = (0, 0, Vec::new());
        let mut load = Self {
            sockets: (0..args.sockets.get()).map(socket).collect::<Result<_, _>>()?,
            connection_id,
            connected: Instant::now(),
            family: Family::from(server.ip()),
            packet: Request::Announce { connection_id, transaction_id, announce, url_data }.encode(),
            peers: args.peers(),
            torrents: args.torrents(),
            window: args.window,
            rng: fastrand::Rng::with_seed(1),
            due: vec![None; SLOTS],
            next: 0,
            under_way: 0,
            looked: Instant::now(),
        };
        load.reconnect()?;
        Ok(load)
    }

    /// Has every peer announce once; how many do in a second.
    pub(crate) fn fill(&mut self, peers: u32) -> anyhow::Result<f64> {
        let start = Instant::now();
        let mut waiting: Vec<u32> = (0..peers).rev().collect();
        // What is lost is announced again.
        let mut sent_by: Vec<u32> = vec![0; SLOTS];
        let mut count = Count::default();
        while !waiting.is_empty() || self.under_way > 0 {
            while self.under_way < self.window
                && let Some(peer) = waiting.pop()
            {
                sent_by[self.next as usize % SLOTS] = peer;
                self.announce(peer, Instant::now())?;
            }
            self.receive(&mut count)?;
            self.give_up(&mut count, |slot| waiting.push(sent_by[slot]));
        }
        Ok(f64::from(peers) / start.elapsed().as_secs_f64())
    }

    /// As many announces as are answered.
    pub(crate) fn saturate(&mut self, time: Duration) -> anyhow::Result<Outcome> {
        let start = Instant::now();
        let mut count = Count::default();
        while start.elapsed() < time {
            while self.under_way < self.window {
                let peer = self.rng.u32(..self.peers);
                self.announce(peer, Instant::now())?;
            }
            self.receive(&mut count)?;
            self.give_up(&mut count, |_| {});
        }
        self.end(count, start.elapsed())
    }

    /// So many announces a second, whether they are answered or not. Sleeps in between, so that the tracker has the
    /// processor that it needs: a generator that spins has one core for itself.
    pub(crate) fn pace(&mut self, rate: f64, time: Duration) -> anyhow::Result<Outcome> {
        let start = Instant::now();
        let (mut count, mut sent) = (Count::default(), 0_u64);
        while start.elapsed() < time {
            let due = |sent: u64| start + Duration::from_secs_f64(sent as f64 / rate);
            while due(sent) <= Instant::now() && self.under_way < SLOTS {
                let peer = self.rng.u32(..self.peers);
                self.announce(peer, due(sent))?;
                sent += 1;
            }
            while self.receive(&mut count)? {}
            self.give_up(&mut count, |_| {});
            thread::sleep(LOOK);
        }
        self.end(count, start.elapsed())
    }

    /// Waits for what is under way.
    fn end(&mut self, mut count: Count, elapsed: Duration) -> anyhow::Result<Outcome> {
        let answers = count.answers;
        while self.under_way > 0 {
            self.receive(&mut count)?;
            self.give_up(&mut count, |_| {});
        }
        if count.answers == 0 {
            bail!("no announce was answered");
        }
        count.times.sort_unstable();
        Ok(Outcome {
            rate: answers as f64 / elapsed.as_secs_f64(),
            peers: count.peers as f64 / count.answers as f64,
            lost: count.lost,
            times: count.times,
        })
    }

    fn announce(&mut self, peer: u32, due: Instant) -> anyhow::Result<()> {
        if self.connected.elapsed() > RECONNECT {
            self.reconnect()?;
        }
        let mut put = |range: std::ops::Range<usize>, bytes: &[u8]| self.packet[range].copy_from_slice(bytes);
        let torrent = peer % self.torrents;
        put(offset::CONNECTION_ID, &self.connection_id.to_be_bytes());
        put(offset::TRANSACTION_ID, &self.next.to_be_bytes());
        // Those of a torrent differ in the port, and all in the rest.
        put(offset::INFO_HASH, &torrent.wrapping_mul(0x9e37_79b1).to_be_bytes());
        put(offset::PEER_ID, &peer.to_be_bytes());
        put(offset::KEY, &(peer + 1).to_be_bytes());
        put(offset::PORT, &((peer / self.torrents % 65_535) as u16 + 1).to_be_bytes());
        self.packet[offset::LEFT] = u8::from((peer / self.torrents).is_multiple_of(4));
        let slot = self.next as usize % SLOTS;
        // One that is lost in a full buffer is found to be.
        let _ = self.sockets[slot % self.sockets.len()].send(&self.packet);
        if self.due[slot].replace(due).is_none() {
            self.under_way += 1;
        }
        self.next = self.next.wrapping_add(1);
        Ok(())
    }

    /// Takes in what has come, a part of it if it is much, or lets others have the core; whether there was anything.
    fn receive(&mut self, count: &mut Count) -> anyhow::Result<bool> {
        let mut packet = [0; 4096];
        let mut idle = true;
        for socket in &self.sockets {
            // Not all at once, so that others are sent in between.
            for _ in 0..16 {
                let len = match socket.recv(&mut packet) {
                    Ok(len) => len,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("the tracker has gone"),
                };
                idle = false;
                let [kind, transaction_id] = [0, 4].map(|at| {
                    packet[..len]
                        .get(at..at + 4)
                        .map_or(u32::MAX, |bytes| u32::from_be_bytes(bytes.try_into().expect("four bytes")))
                });
                if kind != 1 {
                    bail!("no answer to an announce: {:?}", Response::decode(&packet[..len], self.family));
                }
                // What was given up and comes after all is counted as lost.
                if let Some(due) = self.due[transaction_id as usize % SLOTS].take() {
                    self.under_way -= 1;
                    count.answers += 1;
                    count.peers += (len as u64 - 20) / if self.family == Family::V4 { 6 } else { 18 };
                    count.times.push(due.elapsed());
                }
            }
        }
        if idle {
            // Both may have to share a core.
            thread::yield_now();
        }
        Ok(!idle)
    }

    /// Forgets what is lost.
    fn give_up(&mut self, count: &mut Count, mut lost: impl FnMut(usize)) {
        if self.looked.elapsed() < LOST / 4 {
            return;
        }
        self.looked = Instant::now();
        for (slot, due) in self.due.iter_mut().enumerate() {
            if due.take_if(|due| due.elapsed() >= LOST).is_some() {
                self.under_way -= 1;
                count.lost += 1;
                lost(slot);
            }
        }
    }

    fn reconnect(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut packet = [0; 4096];
        let socket = &self.sockets[0];
        let transaction_id = u32::MAX;
        socket.send(&Request::Connect { transaction_id }.encode())?;
        while start.elapsed() < PATIENCE {
            let Ok(len) = socket.recv(&mut packet) else {
                thread::yield_now();
                continue;
            };
            // Answers to announces that come meanwhile are taken for lost.
            if let Ok(Response::Connect { connection_id, .. }) = Response::decode(&packet[..len], self.family) {
                (self.connection_id, self.connected) = (connection_id, Instant::now());
                return Ok(());
            }
        }
        bail!("the tracker gives no connection id")
    }
}
