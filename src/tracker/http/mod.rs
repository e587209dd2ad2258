//! The tracker over HTTP (BEP 3), and pages for who runs it.
//!
//! It owns the listening sockets and threads `tracker-http-N` and `tracker-page`, each with an event loop ([`worker`]) for many
//! connections. A round takes the requests that have come ([`request`]), has the store answer them by one call
//! ([`batch`]) and sends what comes of it ([`reply`]); a connection at rest costs its entry in a table. [`crowd`] bounds how many there are. It refuses to know how
//! peers are kept.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use socket2::Socket;

use self::crowd::Crowd;
use self::pages::Pages;
use self::poller::Poller;
use self::worker::{Role, Worker};
use super::service::Service;

mod batch;
mod connection;
mod crowd;
mod listen;
mod pages;
mod poller;
mod reply;
pub(super) mod request;
mod worker;

const STACK: usize = 256 * 1024;

/// Sockets that listen, before there is anything to serve.
pub(super) struct Bound {
    addr: SocketAddr,
    listeners: Vec<Arc<Socket>>,
}

impl Bound {
    /// Listens on `addr`, for so many threads.
    pub(super) fn new(addr: SocketAddr, interface: Option<&str>, threads: usize) -> io::Result<Self> {
        let (addr, listeners) = listen::listen(addr, interface, threads)?;
        Ok(Self { addr, listeners })
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// Starts threads for trackers at these sockets, and for pages at that one. They end with the service's interrupt; those that
/// could be started are in `threads` after an error, too.
pub(super) fn start(
    trackers: Vec<Bound>,
    admin: Option<Bound>,
    service: &Arc<Service>,
    threads: &mut Vec<JoinHandle<()>>,
) -> io::Result<()> {
    start_with(trackers, admin, service, threads, Poller::new)
}

fn start_with(
    trackers: Vec<Bound>,
    admin: Option<Bound>,
    service: &Arc<Service>,
    threads: &mut Vec<JoinHandle<()>>,
    poller: fn() -> rustix::io::Result<Poller>,
) -> io::Result<()> {
    let crowd = Crowd::new(&service.config.limits);
    let mut start = |name: String, role, crowd, listener| {
        let worker = Worker::new(service.clone(), role, crowd, listener, poller()?)?;
        let thread = thread::Builder::new().name(name).stack_size(STACK).spawn(|| worker.run())?;
        threads.push(thread);
        io::Result::Ok(())
    };
    for (number, listener) in trackers.into_iter().flat_map(|bound| bound.listeners).enumerate() {
        start(format!("tracker-http-{number}"), Role::Tracker, crowd.clone(), listener)?;
    }
    for listener in admin.into_iter().flat_map(|bound| bound.listeners) {
        let pages = Pages::new(crowd.clone());
        // Whoever crowds the tracker must not keep out who runs it.
        start("tracker-page".into(), Role::Pages(pages), Crowd::new(&service.config.limits), listener)?;
    }
    Ok(())
}

/// Takes all requests out of `bytes`, as a worker would: the bytes that they have together, and a body to answer each with.
/// For the fuzz target, which looks at what comes of it.
#[cfg(fuzzing)]
pub(crate) fn fuzz_requests(bytes: &[u8], proxies: &[super::IpNetwork]) -> (usize, Vec<Vec<u8>>) {
    use std::time::Duration;

    use self::request::{Head, Query};
    use super::store::{Counts, Reply};

    let (from, mut begin, mut bodies, mut torrents) = ([127, 0, 0, 1].into(), 0, Vec::new(), Vec::new());
    while let Ok(Some(head)) = Head::parse(&bytes[begin..], from, proxies) {
        let before = Head::parse(&bytes[begin..begin + head.len - 1], from, proxies);
        assert!(matches!(before, Ok(None)), "a request has one end");
        assert!(!proxies.is_empty() || head.client == from);
        begin += head.len;
        let mut body = Vec::new();
        match head.query(&mut torrents, 100, |asked| asked.unwrap_or(50).min(200) as usize) {
            Ok(Query::Announce(announce, form)) => {
                assert!(announce.wanted <= 200 && announce.addr.ip() == head.client);
                let v4 = [announce.addr.port().to_be_bytes(); 3].concat().repeat(announce.wanted);
                let ids = if announce.with_ids { vec![announce.peer_id; announce.wanted] } else { Vec::new() };
                let reply = Reply { v4, v6: vec![1; 18], ids, ..Reply::default() };
                let announced = reply::Announced { interval: Duration::from_secs(60), client: head.client, form };
                reply::announced(&mut body, &announced, &reply);
            }
            Ok(Query::Scrape) => {
                assert!(torrents.len() <= 100 && torrents.is_sorted_by(|one, other| one.as_bytes() < other.as_bytes()));
                reply::scraped(&mut body, torrents.iter().map(|hash| (*hash, Counts::default())));
            }
            Err(error) => reply::failure(&mut body, error, None),
        }
        bodies.push(body);
    }
    (begin, bodies)
}

#[cfg(test)]
mod tests;
