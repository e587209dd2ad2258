//! The server on the loopback interface, with a store that says what the tests want to hear; and by subject what is asked
//! of it.

mod answers;
mod limits;
mod pages;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::poller::Poller;
use super::{Bound, start_with};
use crate::metainfo::InfoHash;
use crate::tracker::config::TrackerConfig;
use crate::tracker::service::Service;
use crate::tracker::statistics::{Counter, Transport};
use crate::tracker::store::{Announce, Counts, Reply, Store, SwarmHealth, Totals, Unavailable};

const PATIENCE: Duration = Duration::from_secs(20);

/// Torrents in the answer to a full scrape: more than any socket takes at once.
const TORRENTS: u32 = 200_000;

/// Answers with what the announce said: as many leechers as it has left, and its own address as a peer's, behind as many bytes
/// as it has uploaded.
#[derive(Default)]
struct Mirror {
    largest_batch: AtomicUsize,
    is_down: AtomicBool,
}

impl Mirror {
    fn check(&self) -> Result<(), Unavailable> {
        let down = Unavailable { why: "the store is away".into(), cause: None, retry: Duration::from_secs(90) };
        if self.is_down.load(Ordering::Relaxed) { Err(down) } else { Ok(()) }
    }
}

impl Store for Arc<Mirror> {
    fn announce(
        &self,
        batch: &[Announce],
        _now: Instant,
        scratch: &mut Reply,
        answer: &mut dyn FnMut(usize, Result<&Reply, &Unavailable>),
    ) {
        self.largest_batch.fetch_max(batch.len(), Ordering::Relaxed);
        for (at, announce) in batch.iter().enumerate() {
            *scratch = Reply::default();
            scratch.counts.leechers = announce.left as u32;
            scratch.v4.resize(announce.uploaded as usize, 0);
            let port = announce.addr.port().to_be_bytes();
            match announce.addr.ip() {
                IpAddr::V4(ip) => scratch.v4.extend([&ip.octets()[..], &port].concat()),
                IpAddr::V6(ip) => scratch.v6.extend([&ip.octets()[..], &port].concat()),
            }
            answer(at, self.check().as_ref().map(|()| &*scratch));
        }
    }

    fn scrape(&self, info_hashes: &[InfoHash], _now: Instant) -> Result<Vec<Counts>, Unavailable> {
        self.check()?;
        Ok(info_hashes.iter().map(|hash| Counts { seeders: hash.as_bytes()[0].into(), ..Counts::default() }).collect())
    }

    fn all(&self, most: usize, _now: Instant) -> Result<Vec<(InfoHash, Counts)>, Unavailable> {
        let hash = |number: u32| InfoHash::new(std::array::from_fn(|at| (number >> (at % 4 * 8)) as u8));
        Ok((0..TORRENTS).take(most).map(|number| (hash(number), Counts::default())).collect())
    }

    fn totals(&self, _now: Instant) -> Result<Totals, Unavailable> {
        self.check()?;
        Ok(Totals { torrents: 1, seeders: 2, leechers: 3, no_room: 4 })
    }

    fn health(&self, _most: usize, _now: Instant) -> Result<Vec<SwarmHealth>, Unavailable> {
        self.check()?;
        let clients = vec![("ropewalk 0.1.0".to_owned(), 5)];
        let counts = Counts { seeders: 2, leechers: 3, downloaded: 7 };
        let (seen, up_rate, down_rate) = (Duration::from_secs(9), 1000, 2000);
        Ok(vec![SwarmHealth { info_hash: InfoHash::new([0xab; 20]), counts, seen, up_rate, down_rate, clients }])
    }

    fn tidy(&self, _now: Instant) {}
}

/// A running server.
struct Server {
    addr: SocketAddr,
    admin: SocketAddr,
    store: Arc<Mirror>,
    service: Arc<Service>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    fn start(config: TrackerConfig) -> Self {
        Self::start_with(config, Poller::new)
    }

    fn start_with(config: TrackerConfig, poller: fn() -> rustix::io::Result<Poller>) -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let (bound, page) = (Bound::new(loopback, None, 2).unwrap(), Bound::new(loopback, None, 1).unwrap());
        let (addr, admin) = (bound.addr(), page.addr());
        let store = Arc::<Mirror>::default();
        let service = Service::new(config, Box::new(store.clone()), &[addr, admin]).unwrap();
        let mut threads = Vec::new();
        start_with(vec![bound], Some(page), &service, &mut threads, poller).unwrap();
        Self { addr, admin, store, service, threads }
    }

    fn client(&self) -> Client {
        Client::connect(self.addr)
    }

    /// Until it has counted so many over HTTP.
    fn await_count(&self, counter: Counter, number: u64) {
        let start = Instant::now();
        while self.service.statistics.get(Transport::Http, counter) != number {
            assert!(start.elapsed() < PATIENCE, "{:?}", self.service.statistics);
            std::thread::yield_now();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.service.interrupt.raise();
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

/// A connection to the server.
struct Client(TcpStream);

impl Client {
    fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }

    /// The next answer: its status, and its body with bytes that are no text escaped.
    fn hear(&mut self) -> (u16, String) {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            self.0.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let (_, length) = head.split_once("Content-Length: ").unwrap();
        let mut body = vec![0; length.split_once("\r\n").unwrap().0.parse().unwrap()];
        self.0.read_exact(&mut body).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (
            status,
            body.utf8_chunks().map(|chunk| format!("{}{}", chunk.valid(), chunk.invalid().escape_ascii())).collect(),
        )
    }

    fn ask(&mut self, target: &str) -> String {
        self.ask_with(target, "").1
    }

    fn ask_with(&mut self, target: &str, headers: &str) -> (u16, String) {
        self.say(&format!("GET {target} HTTP/1.1\r\nHost: x\r\n{headers}\r\n"));
        self.hear()
    }

    /// Until the server has closed the connection.
    fn await_end(mut self) -> usize {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(len) => len,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => rest.len(),
            Err(error) => panic!("{error}"),
        }
    }
}

fn announce(hash: &str, port: u16, left: u64) -> String {
    format!("/announce?info_hash={}&peer_id={}&port={port}&left={left}&compact=1", hash.repeat(20), "p".repeat(20))
}
