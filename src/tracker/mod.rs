//! A tracker in the process: tells the peers of a torrent about each other over HTTP (BEP 3, 7, 23, 48).
//!
//! It owns a listening socket, a thread `tracker` that accepts, and a thread `tracker-conn` for each request under way.
//! Who takes part is kept in memory and lost with it. It refuses more connections than `MAX_CONNECTIONS`, requests
//! larger than `MAX_REQUEST`, clients slower than `REQUEST_TIME`, and to be told an address: a peer is where its
//! request came from.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Socket, Type};

use self::http::Request;
use self::swarms::{Limits, Swarms};
use crate::discovery::interrupt::Interrupt;

mod access;
mod config;
mod http;
mod network;
mod rates;
#[cfg(feature = "redis")]
mod redis;
mod service;
mod statistics;
mod store;
mod swarms;

pub use config::{AccessConfig, MemoryConfig, RequestLimits, RequestRate, StoreConfig, TrackerConfig};
pub use network::{IpNetwork, IpNetworkSyntax};
#[cfg(feature = "redis")]
pub use redis::{RedisConfig, RedisPlace, RedisPlaceError};

/// Requests under way at once; another one is answered by a closed connection.
const MAX_CONNECTIONS: usize = 64;

/// The longest header of a request, in bytes. A scrape of 100 torrents needs some 7,000.
const MAX_REQUEST: usize = 16 << 10;

/// From the first byte of a connection to the last of its answer.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// What clients are asked to wait between announces.
const INTERVAL: Duration = Duration::from_secs(30 * 60);

const LIMITS: Limits = Limits { torrents: 10_000, peers: 10_000, expiry: Duration::from_secs(45 * 60) };

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// How often silent peers are looked for.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);

/// The longest that a stop goes unnoticed on systems where the shutdown of a listening socket wakes nobody.
const TICK: Duration = Duration::from_millis(500);

const STACK: usize = 128 * 1024;

/// A running tracker. Dropping it stops it and joins its threads.
#[derive(Debug)]
pub struct Tracker {
    addr: SocketAddr,
    interrupt: Interrupt,
    acceptor: Option<JoinHandle<()>>,
}

impl Tracker {
    /// Listens on `addr`; port 0 takes a free one.
    pub fn start(addr: SocketAddr) -> io::Result<Self> {
        let listener = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
        listener.set_reuse_address(true)?;
        listener.bind(&addr.into())?;
        listener.listen(BACKLOG)?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an IP socket"))?;
        let interrupt = Interrupt::new();
        let listener = Arc::new(listener);
        let acceptor = Acceptor {
            interrupt: interrupt.clone(),
            swarms: Arc::new(Mutex::new(Swarms::new(LIMITS, fastrand::u64(..)))),
            connections: Vec::new(),
        };
        let run = move || acceptor.run(&listener);
        let acceptor = Some(thread::Builder::new().name("tracker".into()).stack_size(STACK).spawn(run)?);
        Ok(Self { addr, interrupt, acceptor })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URL for a torrent's `announce`. A tracker on an unspecified address is named by the loopback one.
    pub fn announce_url(&self) -> String {
        let ip = match self.addr.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        format!("http://{}/announce", SocketAddr::new(ip, self.addr.port()))
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.interrupt.raise();
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// What the thread `tracker` owns.
struct Acceptor {
    interrupt: Interrupt,
    /// Protects all swarms; connection threads take it for one announce or scrape, never while they read or write.
    swarms: Arc<Mutex<Swarms>>,
    connections: Vec<JoinHandle<()>>,
}

impl Acceptor {
    fn run(mut self, listener: &Arc<Socket>) {
        let Ok(_registration) = self.interrupt.register(listener.clone()) else { return };
        let mut expired = Instant::now();
        while !self.interrupt.is_raised() {
            let timeout = Timespec { tv_sec: 0, tv_nsec: TICK.subsec_nanos().into() };
            // Whatever poll says, accept says it better.
            let _ = poll(&mut [PollFd::new(&**listener, PollFlags::IN)], Some(&timeout));
            self.connections.retain(|connection| !connection.is_finished());
            self.accept(listener);
            let now = Instant::now();
            if now - expired >= EXPIRE_EVERY {
                self.swarms.lock().expire(now);
                expired = now;
            }
        }
        // Their sockets have been shut down by the same raise.
        self.connections.into_iter().for_each(|connection| drop(connection.join()));
    }

    fn accept(&mut self, listener: &Socket) {
        match listener.accept() {
            Ok((socket, from)) => {
                let Some(from) = from.as_socket() else { return };
                if self.connections.len() >= MAX_CONNECTIONS {
                    log::debug!("tracker: {from} refused, {MAX_CONNECTIONS} requests are under way");
                    return;
                }
                let (interrupt, swarms) = (self.interrupt.clone(), self.swarms.clone());
                let serve = move || {
                    if let Err(error) = serve(socket, from.ip(), &interrupt, &swarms) {
                        log::debug!("tracker: {from}: {error}");
                    }
                };
                match thread::Builder::new().name("tracker-conn".into()).stack_size(STACK).spawn(serve) {
                    Ok(connection) => self.connections.push(connection),
                    Err(error) => log::warn!("tracker: no thread for {from}: {error}"),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                log::debug!("tracker: cannot accept: {error}");
                // Out of descriptors is no reason to spin; a connection that ends frees one.
                let _ = self.interrupt.signal().recv_timeout(TICK / 10);
            }
        }
    }
}

/// One connection: one request, one answer.
fn serve(socket: Socket, from: IpAddr, interrupt: &Interrupt, swarms: &Mutex<Swarms>) -> io::Result<()> {
    let deadline = Instant::now() + REQUEST_TIME;
    let socket = Arc::new(socket);
    let _registration = interrupt.register(socket.clone()).map_err(io::Error::other)?;
    socket.set_nonblocking(false)?;
    let Some(answer) = read_request(&socket, from, deadline)?.map(|request| match request {
        Ok(request) => answer(request, swarms),
        Err(error) => http::failure(&error),
    }) else {
        return Ok(());
    };
    socket.set_write_timeout(Some(left(deadline)?))?;
    (&*socket).write_all(&answer)?;
    socket.shutdown(std::net::Shutdown::Write)?;
    drain(&socket, deadline);
    Ok(())
}

/// `None` when the client went away.
fn read_request(
    socket: &Socket,
    from: IpAddr,
    deadline: Instant,
) -> io::Result<Option<Result<Request, http::RequestError>>> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 2048];
    loop {
        socket.set_read_timeout(Some(left(deadline)?))?;
        let amount = { socket }.read(&mut chunk)?;
        if amount == 0 {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk[..amount]);
        if let Some(request) = http::parse(&bytes, from).transpose() {
            return Ok(Some(request));
        }
        if bytes.len() >= MAX_REQUEST {
            return Ok(Some(Err(http::RequestError::Http)));
        }
    }
}

fn answer(request: Request, swarms: &Mutex<Swarms>) -> Vec<u8> {
    match request {
        Request::Announce { announce, form } => {
            let (counts, peers) = swarms.lock().announce(announce, Instant::now());
            http::announce_reply(INTERVAL, counts, &peers, form)
        }
        Request::Scrape(hashes) => {
            let swarms = swarms.lock();
            let known: Vec<_> = hashes.iter().filter_map(|hash| Some((*hash, swarms.counts(hash)?))).collect();
            drop(swarms);
            http::scrape_reply(&known)
        }
    }
}

/// Reads what is left of a request that was too large, so that closing does not reset the connection under the answer.
fn drain(socket: &Socket, deadline: Instant) {
    let mut chunk = [0; 2048];
    for _ in 0..MAX_REQUEST / chunk.len() {
        let Ok(()) = left(deadline).and_then(|left| socket.set_read_timeout(Some(left))) else { return };
        if !matches!({ socket }.read(&mut chunk), Ok(1..)) {
            return;
        }
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use crossbeam_channel::{Receiver, unbounded};

    use super::*;
    use crate::discovery::{Announcer, Counters, Setup, Timing, TrackerFact};
    use crate::metainfo::InfoHash;
    use crate::wire::handshake::PeerId;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    /// An announcer of the one torrent, listening on `port`, and the peers that it is told of.
    fn announcer(tracker: &Tracker, port: u16, left: u64) -> (Announcer, Receiver<Vec<SocketAddr>>) {
        let (sender, peers) = unbounded();
        let setup = Setup {
            info_hash: InfoHash::new([0x81; 20]),
            peer_id: PeerId::new([port as u8; 20]),
            key: 1,
            port: Arc::new(port.into()),
            tiers: vec![vec![tracker.announce_url()]],
            counters: Arc::new(move || Counters { left, ..Counters::default() }),
            scrape: false,
            num_want: 50,
            user_agent: "ropewalk/test".into(),
            bind: None,
            timing: Timing::default(),
            tls: Default::default(),
            seed: 1,
        };
        let facts = move |fact| match fact {
            TrackerFact::Peers { peers, .. } => drop(sender.send(peers)),
            other => panic!("{other:?}"),
        };
        (Announcer::start(setup, facts).unwrap(), peers)
    }

    /// Until the tracker has answered.
    fn await_leechers(announcer: &Announcer, leechers: u32) {
        let start = Instant::now();
        while announcer.snapshot()[0].leechers != Some(leechers) {
            assert!(start.elapsed() < PATIENCE, "{:?}", announcer.snapshot());
            thread::yield_now();
        }
    }

    fn get(tracker: &Tracker, request: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(tracker.addr()).unwrap();
        stream.write_all(request).unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).unwrap();
        reply
    }

    #[test]
    fn two_announcers_find_each_other_until_one_stops() {
        let tracker = Tracker::start(loopback()).unwrap();
        let (first, _) = announcer(&tracker, 1001, 5);
        await_leechers(&first, 1);
        let (second, peers) = announcer(&tracker, 1002, 5);
        assert_eq!(peers.recv_timeout(PATIENCE).unwrap(), [SocketAddr::from(([127, 0, 0, 1], 1001))]);
        await_leechers(&second, 2);
        first.stop(PATIENCE);
        let (third, peers) = announcer(&tracker, 1003, 0);
        assert_eq!(peers.recv_timeout(PATIENCE).unwrap(), [SocketAddr::from(([127, 0, 0, 1], 1002))]);
        await_leechers(&third, 1);
        let query = "%81".repeat(20);
        let reply = get(&tracker, format!("GET /scrape?info_hash={query} HTTP/1.0\r\n\r\n").as_bytes());
        assert!(reply.ends_with(b"d8:completei1e10:downloadedi0e10:incompletei1eeee"));
    }

    #[test]
    fn peers_meet_over_ipv6_too() {
        let Ok(tracker) = Tracker::start("[::1]:0".parse().unwrap()) else { return };
        assert!(tracker.announce_url().starts_with("http://[::1]:"));
        let (first, _) = announcer(&tracker, 1001, 5);
        await_leechers(&first, 1);
        let (_second, peers) = announcer(&tracker, 1002, 5);
        assert_eq!(peers.recv_timeout(PATIENCE).unwrap(), ["[::1]:1001".parse().unwrap()]);
    }

    #[test]
    fn clients_that_ask_for_dictionaries_get_them() {
        let tracker = Tracker::start(loopback()).unwrap();
        let (first, _) = announcer(&tracker, 1001, 5);
        await_leechers(&first, 1);
        let query = format!("info_hash={}&peer_id={}&port=7&left=1", "%81".repeat(20), "x".repeat(20));
        let reply = get(&tracker, format!("GET /announce?{query} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        let reply = String::from_utf8_lossy(&reply);
        assert!(reply.contains("5:peersld2:ip9:127.0.0.17:peer id20:"), "{reply}");
        assert!(reply.ends_with("4:porti1001eeee"), "{reply}");
    }

    #[test]
    fn nonsense_and_endless_requests_are_refused() {
        let tracker = Tracker::start(loopback()).unwrap();
        assert!(get(&tracker, b"\x13BitTorrent protocol\r\n\r\n").starts_with(b"HTTP/1.1 400 "));
        assert!(get(&tracker, b"GET / HTTP/1.1\r\n\r\n").starts_with(b"HTTP/1.1 404 "));
        assert!(get(&tracker, &b"GET /aaaaaaaaaaaaaaaaaaaaa".repeat(1000)).starts_with(b"HTTP/1.1 400 "));
    }

    #[test]
    fn dropping_it_ends_connections_that_say_nothing_and_frees_the_port() {
        let tracker = Tracker::start(loopback()).unwrap();
        let addr = tracker.addr();
        let mut silent: Vec<_> = (0..3).map(|_| TcpStream::connect(addr).unwrap()).collect();
        // Once this is answered the silent ones have been accepted.
        get(&tracker, b"GET / HTTP/1.1\r\n\r\n");
        let start = Instant::now();
        drop(tracker);
        assert!(start.elapsed() < Duration::from_secs(5));
        for stream in &mut silent {
            assert!(!matches!(stream.read(&mut [0; 1]), Ok(1..)));
        }
        assert!(TcpStream::connect(addr).is_err());
    }

    #[test]
    fn a_connection_beyond_the_bound_is_closed() {
        let tracker = Tracker::start(loopback()).unwrap();
        let _held: Vec<_> = (0..MAX_CONNECTIONS).map(|_| TcpStream::connect(tracker.addr()).unwrap()).collect();
        let mut refused = TcpStream::connect(tracker.addr()).unwrap();
        refused.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(refused.read(&mut [0; 1]).unwrap(), 0);
    }
}
