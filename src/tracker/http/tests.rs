//! The server on the loopback interface, with a store that says what the tests want to hear.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::poller::Poller;
use super::{Bound, start_with};
use crate::metainfo::InfoHash;
use crate::tracker::config::{AccessConfig, RequestLimits, RequestRate, TrackerConfig};
use crate::tracker::service::Service;
use crate::tracker::statistics::{Counter, Transport};
use crate::tracker::store::{Announce, Counts, Reply, Store, SwarmHealth, Totals, Unavailable};

const PATIENCE: Duration = Duration::from_secs(20);

/// Torrents in the answer to a full scrape: more than any socket takes at once.
const TORRENTS: u32 = 200_000;

/// Bytes of an answer that no socket takes at once.
const LARGE: usize = 14 << 20;

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

/// A request that is answered by more than [`LARGE`] bytes.
fn large_announce() -> String {
    format!("GET {}&uploaded={LARGE} HTTP/1.1\r\n\r\n", announce("a", 1, 1))
}

fn limits(change: impl FnOnce(&mut RequestLimits)) -> TrackerConfig {
    let mut config = TrackerConfig::default();
    change(&mut config.limits);
    config
}

fn many_requests_are_answered_in_their_order(poller: fn() -> rustix::io::Result<Poller>) {
    let server = Server::start_with(TrackerConfig::default(), poller);
    let mut clients: Vec<_> = (0..20).map(|_| server.client()).collect();
    for round in 0..5 {
        for (number, client) in clients.iter_mut().enumerate() {
            let request = |left: usize| match left % 10 {
                // Between announces, and answered in its place.
                9 => format!("GET /scrape?info_hash={} HTTP/1.1\r\n\r\n", "%07".repeat(20)),
                _ => format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", announce("%ff", 1000, (number * 100 + left) as u64)),
            };
            client.say(&(0..20 * round + 1).map(request).collect::<String>());
        }
        for (number, client) in clients.iter_mut().enumerate() {
            for left in 0..20 * round + 1 {
                let (status, body) = client.hear();
                let expected = match left % 10 {
                    9 => "8:completei7e".to_owned(),
                    _ => format!("10:incompletei{}e", number * 100 + left),
                };
                assert!(status == 200 && body.contains(&expected), "{expected}: {body}");
            }
        }
    }
    assert!(server.store.largest_batch.load(Ordering::Relaxed) > 1, "the store is asked about several at once");
}

#[test]
fn requests_are_answered_in_their_order() {
    many_requests_are_answered_in_their_order(Poller::new);
}

#[test]
fn requests_are_answered_in_their_order_where_there_is_no_epoll() {
    many_requests_are_answered_in_their_order(Poller::portable);
}

#[test]
fn a_connection_is_closed_when_the_client_wants_that() {
    let server = Server::start(TrackerConfig::default());
    let mut client = server.client();
    let (_, body) = client.ask_with(&announce("a", 1, 2), "Connection: close\r\n");
    assert!(body.contains("10:incompletei2e"), "{body}");
    assert_eq!(client.await_end(), 0);
    let mut old = server.client();
    old.say(&format!("GET {} HTTP/1.0\r\n\r\n", announce("a", 1, 2)));
    assert!(old.hear().1.contains("5:peers6:\\x7f") || old.await_end() == 0);
}

#[test]
fn a_peer_is_told_its_address() {
    let server = Server::start(TrackerConfig::default());
    let body = server.client().ask(&announce("a", 80, 2));
    assert!(body.contains("11:external ip4:\u{7f}\0\0\u{1}"), "{body:?}");
    assert!(body.ends_with("5:peers6:\u{7f}\0\0\u{1}\0Pe"), "{body:?}");
}

#[test]
fn only_a_trusted_proxy_says_where_a_peer_is() {
    let forwarded = "X-Forwarded-For: 198.51.100.1, 65.66.67.68\r\n";
    let server = Server::start(TrackerConfig::default());
    let (_, body) = server.client().ask_with(&announce("a", 80, 2), forwarded);
    assert!(body.ends_with("5:peers6:\u{7f}\0\0\u{1}\0Pe"), "{body:?}");
    let proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let server = Server::start(TrackerConfig { proxies, ..TrackerConfig::default() });
    let mut proxy = server.client();
    let (_, body) = proxy.ask_with(&announce("a", 80, 2), forwarded);
    assert!(body.ends_with("5:peers6:ABCD\0Pe"), "{body:?}");
    let (_, body) = proxy.ask_with(&announce("a", 80, 2), "X-Forwarded-For: 4142:4344::\r\n");
    assert!(body.contains(&format!("6:peers618:ABCD{}\0Pe", "\0".repeat(12))), "{body:?}");
    assert_eq!(proxy.ask_with(&announce("a", 80, 2), "X-Forwarded-For: me\r\n").0, 400);
}

#[test]
fn addresses_that_lead_nowhere_are_refused() {
    let server = Server::start(TrackerConfig::default());
    let mut client = server.client();
    assert_eq!(client.ask(&announce("a", 0, 1)), "d14:failure reason32:no peer can be reached at port 0e");
    assert_eq!(
        client.ask(&announce("a", server.addr.port(), 1)),
        "d14:failure reason32:the address is the tracker's owne"
    );
    assert!(client.ask(&announce("a", 1, 1)).starts_with("d8:complete"));
    server.await_count(Counter::Address, 2);
}

#[test]
fn torrents_that_are_denied_are_not_served() {
    let folder = tempfile::tempdir().unwrap();
    let deny = folder.path().join("deny");
    std::fs::write(&deny, "61".repeat(20)).unwrap();
    let access = AccessConfig { deny: Some(deny.clone()), ..AccessConfig::default() };
    let server = Server::start(TrackerConfig { access, ..TrackerConfig::default() });
    let mut client = server.client();
    let refused = "d14:failure reason31:this torrent is not served heree";
    assert_eq!(client.ask(&announce("a", 1, 1)), refused);
    let scrape = format!("/scrape?info_hash={}&info_hash={}", "a".repeat(20), "b".repeat(20));
    assert_eq!(client.ask(&scrape).matches("8:complete").count(), 1);
    std::fs::write(&deny, "62".repeat(20)).unwrap();
    server.service.access.reload().unwrap();
    assert_eq!(client.ask(&announce("b", 1, 1)), refused);
    assert!(client.ask(&announce("a", 1, 1)).starts_with("d8:complete"));
}

#[test]
fn who_asks_too_often_is_told_when_to_ask_again() {
    let rate = Some(RequestRate { per_minute: 1, burst: 2 });
    let server = Server::start(TrackerConfig { rate, ..TrackerConfig::default() });
    let mut client = server.client();
    assert!(client.ask(&announce("a", 1, 1)).starts_with("d8:complete"));
    assert!(client.ask(&announce("a", 1, 1)).starts_with("d8:complete"));
    let refused = "d14:failure reason35:too many requests from this address8:retry ini1ee";
    assert_eq!(client.ask(&announce("a", 1, 1)), refused);
    server.await_count(Counter::TooOften, 1);
}

#[test]
fn a_store_that_is_away_is_a_failure_with_a_time_to_ask_again() {
    let server = Server::start(TrackerConfig::default());
    server.store.is_down.store(true, Ordering::Relaxed);
    let mut client = server.client();
    let failure = "d14:failure reason17:the store is away8:retry ini2ee";
    assert_eq!(client.ask(&announce("a", 1, 1)), failure);
    assert_eq!(client.ask(&format!("/scrape?info_hash={}", "a".repeat(20))), failure);
    server.await_count(Counter::Unavailable, 2);
}

#[test]
fn parameters_that_are_wrong_are_named_in_an_answer_that_clients_read() {
    let server = Server::start(TrackerConfig::default());
    let failure = "d14:failure reason45:the parameter info_hash is missing or invalide".to_owned();
    assert_eq!(server.client().ask_with("/announce?info_hash=abc", ""), (200, failure));
    server.await_count(Counter::Malformed, 1);
}

#[test]
fn a_full_scrape_is_served_where_it_is_allowed_and_only_then() {
    let refused = Server::start(TrackerConfig::default());
    assert!(refused.client().ask("/scrape").contains("a full scrape is not served"));
    let server = Server::start(limits(|limits| limits.full_scrape = TORRENTS as usize));
    // It does not fit into the sockets' buffers: the rest waits, and others are served.
    let mut slow = server.client();
    slow.say("GET /scrape HTTP/1.1\r\n\r\n");
    assert!(server.client().ask(&announce("a", 1, 1)).starts_with("d8:complete"));
    let (status, body) = slow.hear();
    assert_eq!((status, body.matches("8:complete").count()), (200, TORRENTS as usize));
    assert!(slow.ask(&announce("a", 1, 1)).starts_with("d8:complete"), "the connection goes on");
}

#[test]
fn large_answers_are_made_one_at_a_time() {
    let server = Server::start(limits(|limits| limits.full_scrape = TORRENTS as usize));
    let mut client = server.client();
    client.say(&"GET /scrape HTTP/1.1\r\n\r\n".repeat(3));
    server.await_count(Counter::Scrapes, 1);
    for _ in 0..3 {
        assert_eq!(client.hear().1.matches("8:complete").count(), TORRENTS as usize);
    }
    server.await_count(Counter::Scrapes, 3);
}

#[test]
fn requests_that_came_before_the_end_are_answered() {
    let server = Server::start(TrackerConfig::default());
    let mut client = server.client();
    client.say(&format!("GET {} HTTP/1.1\r\n\r\n", announce("a", 1, 1)).repeat(100));
    client.0.shutdown(std::net::Shutdown::Write).unwrap();
    for _ in 0..100 {
        assert!(client.hear().1.starts_with("d8:complete"));
    }
    assert_eq!(client.await_end(), 0);
}

#[test]
fn a_client_that_does_not_take_its_answer_is_cut_off() {
    let config = limits(|limits| {
        limits.full_scrape = TORRENTS as usize;
        limits.request_time = Duration::from_millis(300);
    });
    let server = Server::start(config);
    let mut client = server.client();
    client.say("GET /scrape HTTP/1.1\r\n\r\n");
    server.await_count(Counter::TooSlow, 1);
    assert!(client.await_end() < TORRENTS as usize * 50);
}

#[test]
fn a_client_that_takes_its_answer_too_slowly_is_cut_off() {
    let server = Server::start(limits(|limits| limits.request_time = Duration::from_millis(300)));
    let (mut client, start) = (server.client(), Instant::now());
    client.say(&large_announce());
    let mut some = vec![0; 64 << 10];
    // As much at a time as lets the server send more.
    while server.service.statistics.get(Transport::Http, Counter::TooSlow) == 0 {
        client.0.read_exact(&mut some).unwrap();
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(15));
    }
}

#[test]
fn those_who_hold_most_make_room_for_the_others() {
    let server = Server::start(limits(|limits| limits.request_time = PATIENCE));
    let mut others: Vec<_> = (0..8).map(|_| server.client()).collect();
    others.iter_mut().for_each(|client| client.say("GET "));
    let mut greedy: Vec<_> = (0..20).map(|_| server.client()).collect();
    greedy.iter_mut().for_each(|client| client.say(&large_announce()));
    let start = Instant::now();
    while server.service.statistics.get(Transport::Http, Counter::Crowded) == 0 {
        assert!(start.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    for client in &mut others {
        client.say(&format!("{} HTTP/1.1\r\n\r\n", announce("a", 1, 1)));
        assert!(client.hear().1.starts_with("d8:complete"));
    }
}

#[test]
fn a_request_that_trickles_in_is_cut_off() {
    let server = Server::start(limits(|limits| limits.request_time = Duration::from_millis(300)));
    let (mut client, start) = (server.client(), Instant::now());
    let mut sent = 0;
    // Each byte comes soon after the one before; the deadline is the request's.
    while client.0.write_all(b"GET /"[sent.min(4)..][..1].as_ref()).is_ok() {
        assert!(start.elapsed() < PATIENCE);
        sent += 1;
        client.0.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        if matches!(client.0.read(&mut [0]), Ok(0)) {
            break;
        }
    }
    assert!(start.elapsed() >= Duration::from_millis(300));
    server.await_count(Counter::TooSlow, 1);
}

#[test]
fn a_connection_without_requests_ends_after_a_while() {
    let server = Server::start(limits(|limits| limits.idle_time = Duration::from_millis(300)));
    let (mut client, start) = (server.client(), Instant::now());
    client.ask(&announce("a", 1, 1));
    assert_eq!(client.await_end(), 0);
    assert!(start.elapsed() >= Duration::from_millis(300));
    server.await_count(Counter::TooSlow, 0);
}

#[test]
fn a_head_that_is_too_long_is_refused_and_the_client_can_read_why() {
    let server = Server::start(limits(|limits| limits.head = 1000));
    for text in [
        format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(1000)),
        "a".repeat(5000),
        format!("GET / HTTP/1.1\r\n{}", "A: b\r\n".repeat(500)),
    ] {
        let mut client = server.client();
        client.say(&text);
        let status = client.hear().0;
        assert!(status == 431 || status == 400, "{status}");
        drop(client.0.write_all(b"more"));
        client.0.shutdown(std::net::Shutdown::Write).ok();
        assert_eq!(client.await_end(), 0);
    }
}

#[test]
fn connections_are_bounded() {
    let config = limits(|limits| (limits.connections, limits.connections_per_address) = (5, 3));
    let server = Server::start(config);
    let mut held: Vec<_> = (0..3).map(|_| server.client()).collect();
    held.iter_mut().for_each(|client| assert!(client.ask(&announce("a", 1, 1)).starts_with("d8:complete")));
    assert_eq!(server.client().await_end(), 0);
    server.await_count(Counter::Crowded, 1);
    // Who runs the tracker is let in.
    assert_eq!(Client::connect(server.admin).ask_with("/metrics", "").0, 200);
    held.pop().unwrap().0.shutdown(std::net::Shutdown::Both).unwrap();
    let start = Instant::now();
    loop {
        let mut client = server.client();
        client.say("GET /scrape HTTP/1.1\r\n\r\n");
        if matches!(client.0.read(&mut [0]), Ok(1)) {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "a place that is given back is free");
    }
}

#[test]
fn pages_are_at_their_own_address_only() {
    let server = Server::start(TrackerConfig::default());
    let mut client = server.client();
    for path in ["/", "/stats.json", "/metrics"] {
        assert_eq!(client.ask_with(path, "").0, 404, "{path}");
        assert_eq!(Client::connect(server.admin).ask_with(path, "").0, 200, "{path}");
    }
    for path in ["/stats", &announce("a", 1, 1)] {
        let (status, said) = Client::connect(server.admin).ask_with(path, "");
        assert_eq!((status, said.as_str()), (404, "There is nothing here. See /, /stats.json or /metrics.\n"));
    }
}

#[test]
fn what_was_done_is_told_in_json_and_to_prometheus() {
    let server = Server::start(TrackerConfig::default());
    let mut client = server.client();
    client.ask(&announce("a", 1, 1));
    client.ask(&announce("a", 0, 1));
    server.await_count(Counter::Address, 1);
    server.service.statistics.sample(Instant::now() + Duration::from_secs(1));
    let mut admin = Client::connect(server.admin);
    let stats: Value = serde_json::from_str(&admin.ask("/stats.json")).unwrap();
    assert_eq!(stats["store"]["leechers"], 3);
    assert_eq!((&stats["transports"]["http"]["announces"], &stats["open_http_connections"]), (&1.into(), &1.into()));
    assert_eq!(stats["transports"]["http"]["errors"]["address"], 1);
    assert_eq!(stats["recent"]["announces"].as_array().unwrap().len(), 1);
    let swarm = &stats["swarms"][0];
    assert_eq!((&swarm["info_hash"], &swarm["seeders"]), (&"ab".repeat(20).into(), &2.into()));
    assert_eq!(swarm["clients"][0][0], "ropewalk 0.1.0");
    let metrics = admin.ask("/metrics");
    for line in [
        "ropewalk_tracker_announces_total{transport=\"http\"} 1",
        "ropewalk_tracker_errors_total{transport=\"http\",kind=\"address\"} 1",
        "ropewalk_tracker_peers{kind=\"seeder\"} 2",
        "# TYPE ropewalk_tracker_torrents gauge",
    ] {
        assert!(metrics.lines().any(|there| there == line), "{line}:\n{metrics}");
    }
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("ropewalk_tracker_") && value.parse::<u64>().is_ok(), "{line}");
    }
}

#[test]
fn pages_say_that_the_store_is_away() {
    let server = Server::start(TrackerConfig::default());
    server.store.is_down.store(true, Ordering::Relaxed);
    let mut admin = Client::connect(server.admin);
    let stats: Value = serde_json::from_str(&admin.ask("/stats.json")).unwrap();
    assert_eq!(stats["store"]["error"], "the store is away");
    assert!(admin.ask("/metrics").contains("\nropewalk_tracker_store_up 0\n"));
}
