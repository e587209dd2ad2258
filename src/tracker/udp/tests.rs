use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Bound;
use super::desk::{Client, Desk};
use super::ids::ConnectionIds;
use crate::metainfo::InfoHash;
use crate::tracker::config::{AccessConfig, RequestRate, TrackerConfig};
use crate::tracker::memory::Memory;
use crate::tracker::service::Service;
use crate::tracker::statistics::{Counter, Transport};
use crate::tracker::store::{Announce, Counts, Reply, Store, SwarmHealth, Totals, Unavailable};
use crate::wire::handshake::PeerId;
use crate::wire::tracker::udp::{Request, Response, ScrapeEntry};
use crate::wire::tracker::{AnnounceRequest, Crypto, Event, Family};

const TORRENT: InfoHash = InfoHash::new([0xff; 20]);

/// A desk and what it has sent.
struct Tracker {
    desk: Desk,
    service: Arc<Service>,
    now: Instant,
    sent: Vec<(Vec<u8>, SocketAddr)>,
}

impl Tracker {
    fn new(config: TrackerConfig, store: Box<dyn Store>) -> Self {
        let service = Service::new(config, store, &["127.0.0.1:6969".parse().unwrap()]).unwrap();
        let now = Instant::now();
        let desk = Desk::new(service.clone(), ConnectionIds::new([1, 2], now));
        Self { desk, service, now, sent: Vec::new() }
    }

    fn in_memory() -> Self {
        Self::new(TrackerConfig::default(), Box::new(Memory::new(&Default::default(), 1, Instant::now())))
    }

    fn take(&mut self, packet: &[u8], from: SocketAddr) {
        let client = Client { addr: from, at: None };
        self.desk.take(packet, client, self.now, &mut |packet, to| self.sent.push((packet.to_vec(), to.addr)));
    }

    /// What is sent in answer to one packet.
    fn ask(&mut self, packet: &[u8], from: SocketAddr) -> Option<Response> {
        self.take(packet, from);
        self.desk.answer(self.now, &mut |packet, to| self.sent.push((packet.to_vec(), to.addr)));
        assert!(self.sent.len() <= 1);
        self.sent.pop().map(|(packet, to)| {
            assert_eq!(to, from);
            Response::decode(&packet, Family::from(from.ip())).unwrap()
        })
    }

    fn connect(&mut self, from: SocketAddr) -> u64 {
        match self.ask(&Request::Connect { transaction_id: 7 }.encode(), from) {
            Some(Response::Connect { transaction_id: 7, connection_id }) => connection_id,
            other => panic!("{other:?}"),
        }
    }

    /// Connects and announces; the sizes and the peers of the answer.
    fn announce(&mut self, request: &AnnounceRequest, from: SocketAddr) -> (u32, u32, Vec<SocketAddr>) {
        let connection_id = self.connect(from);
        match self.ask(&announce(request, connection_id), from) {
            Some(Response::Announce { transaction_id: 8, interval: 1800, seeders, leechers, peers }) => {
                (seeders, leechers, peers)
            }
            other => panic!("{other:?}"),
        }
    }

    fn count(&self, counter: Counter) -> u64 {
        self.service.statistics.get(Transport::Udp, counter)
    }
}

fn client(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 5000))
}

fn request(number: u8, left: u64) -> AnnounceRequest {
    AnnounceRequest {
        info_hash: TORRENT,
        peer_id: PeerId::new([number; 20]),
        port: 6881,
        uploaded: 0,
        downloaded: 0,
        left,
        event: Some(Event::Started),
        numwant: None,
        key: number.into(),
        tracker_id: None,
        ipv4: Some(Ipv4Addr::new(203, 0, 113, 9)),
        ipv6: None,
        crypto: Crypto::None,
    }
}

fn announce(request: &AnnounceRequest, connection_id: u64) -> Vec<u8> {
    let url_data = b"/announce?a=b".to_vec();
    Request::Announce { connection_id, transaction_id: 8, announce: request.clone(), url_data }.encode()
}

fn scrape(info_hashes: Vec<InfoHash>, connection_id: u64) -> Vec<u8> {
    Request::Scrape { connection_id, transaction_id: 9, info_hashes }.encode()
}

#[test]
fn peers_meet_at_the_addresses_that_they_come_from() {
    let mut tracker = Tracker::in_memory();
    assert_eq!(tracker.announce(&request(1, 5), client(1)), (0, 1, vec![]));
    let first = SocketAddr::new(client(1).ip(), 6881);
    assert_eq!(tracker.announce(&request(2, 0), client(2)), (1, 1, vec![first]));
    let stopped = AnnounceRequest { event: Some(Event::Stopped), ..request(1, 5) };
    assert_eq!(tracker.announce(&stopped, client(1)), (1, 0, vec![]));
    assert_eq!((tracker.count(Counter::Announces), tracker.count(Counter::Connections)), (3, 3));
}

#[test]
fn peers_of_ipv6_get_those_of_ipv6() {
    let mut tracker = Tracker::in_memory();
    let v6 = |number: u16| SocketAddr::new(format!("2001:db8::{number}").parse().unwrap(), 5000);
    tracker.announce(&request(1, 5), client(1));
    tracker.announce(&request(2, 5), v6(2));
    let (_, leechers, peers) = tracker.announce(&request(3, 5), v6(3));
    assert_eq!((leechers, peers), (3, vec![SocketAddr::new(v6(2).ip(), 6881)]));
}

#[test]
fn without_a_valid_connection_id_there_is_no_answer_but_one() {
    let mut tracker = Tracker::in_memory();
    let id = tracker.connect(client(1));
    let connect = Request::Connect { transaction_id: 1 }.encode();
    let whole = announce(&request(1, 5), id);
    // Somebody else's, one that is made up, and one that is too old.
    assert_eq!(tracker.ask(&whole, client(2)), None);
    assert_eq!(tracker.ask(&announce(&request(1, 5), id ^ 1 << 40), client(1)), None);
    assert_eq!(tracker.ask(&scrape(vec![TORRENT], id), client(2)), None);
    assert_eq!(tracker.count(Counter::ConnectionId), 3);
    for len in 0..98 {
        assert_eq!(tracker.ask(&whole[..len], client(1)), None);
    }
    for packet in [&connect[..15], b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe", &[0xff; 1500]] {
        assert_eq!(tracker.ask(packet, client(1)), None);
    }
    assert_eq!(tracker.count(Counter::Malformed), 98 + 3);
    tracker.now += Duration::from_secs(120);
    assert_eq!(tracker.ask(&whole, client(1)), None);
    // What is answered has the length of what asks.
    tracker.take(&connect, client(3));
    assert_eq!(tracker.sent.pop().unwrap().0.len(), connect.len());
    assert_eq!(tracker.service.store.totals(tracker.now).unwrap(), Totals::default());
}

#[test]
fn a_scrape_has_an_entry_for_each_torrent_in_the_order_asked_for() {
    let mut tracker = Tracker::in_memory();
    tracker.announce(&AnnounceRequest { event: Some(Event::Completed), ..request(1, 0) }, client(1));
    tracker.announce(&request(2, 5), client(2));
    let connection_id = tracker.connect(client(1));
    let mut hashes: Vec<_> = (0..80).map(|number| InfoHash::new([number; 20])).collect();
    hashes[5] = TORRENT;
    match tracker.ask(&scrape(hashes, connection_id), client(1)) {
        Some(Response::Scrape { transaction_id: 9, torrents }) => {
            assert_eq!(torrents.len(), 74);
            assert_eq!(torrents[5], ScrapeEntry { seeders: 1, completed: 1, leechers: 1 });
            assert!(torrents.iter().enumerate().all(|(at, entry)| at == 5 || *entry == ScrapeEntry::default()));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_batch_is_answered_to_each_who_asked() {
    let mut tracker = Tracker::in_memory();
    let ids: Vec<_> = (0..50).map(|number| tracker.connect(client(number))).collect();
    for number in 0..50 {
        let id = ids[usize::from(number)];
        let packet = if number % 5 == 4 { scrape(vec![TORRENT], id) } else { announce(&request(number, 5), id) };
        tracker.take(&packet, client(number));
    }
    assert_eq!(tracker.sent.len(), 0);
    tracker.desk.answer(tracker.now, &mut |packet, to| tracker.sent.push((packet.to_vec(), to.addr)));
    let mut leechers = 0;
    for (packet, to) in &tracker.sent {
        let IpAddr::V4(ip) = to.ip() else { panic!("{to}") };
        match Response::decode(packet, Family::V4).unwrap() {
            Response::Scrape { torrents, .. } => {
                assert_eq!((ip.octets()[3] % 5, torrents[0].leechers), (4, 40));
            }
            Response::Announce { leechers: known, peers, .. } => {
                leechers += 1;
                assert_eq!((known, peers.len()), (leechers, leechers as usize - 1));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((tracker.sent.len(), leechers), (50, 40));
}

#[test]
fn an_answer_fits_into_every_network_however_many_peers_are_wanted() {
    for v6 in [false, true] {
        let mut tracker = Tracker::in_memory();
        let from = |number: u16| {
            let ip = if v6 { format!("2001:db8::{number}") } else { format!("10.0.{}.{}", number / 250, number % 250) };
            SocketAddr::new(ip.parse().unwrap(), 5000)
        };
        for number in 0..300 {
            let id = PeerId::new([number as u8; 20]);
            tracker
                .announce(&AnnounceRequest { peer_id: id, key: 1 + u32::from(number), ..request(1, 5) }, from(number));
        }
        let greedy = AnnounceRequest { numwant: Some(i32::MAX as u32), key: 0, ..request(1, 5) };
        let connection_id = tracker.connect(from(500));
        tracker.take(&announce(&greedy, connection_id), from(500));
        tracker.desk.answer(tracker.now, &mut |packet, to| tracker.sent.push((packet.to_vec(), to.addr)));
        let len = tracker.sent.pop().unwrap().0.len();
        assert_eq!(len, if v6 { 20 + 67 * 18 } else { 20 + 200 * 6 });
    }
}

#[test]
fn what_is_refused_is_told_why_in_fewer_bytes_than_it_took_to_ask() {
    let mut tracker = Tracker::in_memory();
    let connection_id = tracker.connect(client(1));
    let packet = announce(&AnnounceRequest { port: 0, ..request(1, 5) }, connection_id);
    // Nobody asked for a key: what is malformed behind the announce is not looked at.
    let malformed = [packet.as_slice(), b"\x02\x09/"].concat();
    assert!(
        matches!(tracker.ask(&malformed, client(1)), Some(Response::Error { message, .. }) if message.contains("port"))
    );
    tracker.take(&packet, client(1));
    let (answer, _) = tracker.sent.pop().unwrap();
    assert!(answer.len() < packet.len());
    match Response::decode(&answer, Family::V4).unwrap() {
        Response::Error { transaction_id: 8, message } => assert!(message.contains("port 0"), "{message}"),
        other => panic!("{other:?}"),
    }
    tracker.desk.answer(tracker.now, &mut |_, _| unreachable!("it has been answered"));
    assert_eq!(tracker.count(Counter::Address), 2);
}

#[test]
fn with_a_key_announces_are_served_that_say_it_in_their_url() {
    let access = AccessConfig { key: Some("sesame".parse().unwrap()), ..AccessConfig::default() };
    let config = TrackerConfig { access, ..TrackerConfig::default() };
    let mut tracker = Tracker::new(config, Box::new(Memory::new(&Default::default(), 1, Instant::now())));
    let connection_id = tracker.connect(client(1));
    let plain = {
        let announce = request(1, 5);
        Request::Announce { connection_id, transaction_id: 8, announce, url_data: Vec::new() }.encode()
    };
    let mut answer = |options: &[u8]| match tracker.ask(&[&plain, options].concat(), client(1)) {
        Some(Response::Announce { .. }) => "served".to_owned(),
        Some(Response::Error { transaction_id: 8, message }) => message,
        other => panic!("{other:?}"),
    };
    assert_eq!(answer(b"\x02\x10/sesame/announce"), "served");
    assert_eq!(answer(b"\x01\x02\x05/sesa\x63\x02xx\x02\x0fme/announce?a=b\x00\x02\xff"), "served");
    for options in
        [&b""[..], b"\x02\x00", b"\x02\x09/announce", b"\x00\x02\x10/sesame/announce", b"\x63\x10/sesame/announce"]
    {
        let said = answer(options);
        assert!(said.contains("wants its key") && !said.contains("sesame"), "{said}");
    }
    assert!(answer(b"\x02\x10/sesame/announce\x02\x01").contains("malformed"));
    let refused = tracker.ask(&scrape(vec![TORRENT], connection_id), client(1));
    assert!(matches!(refused, Some(Response::Error { transaction_id: 9, message }) if message.contains("over HTTP")));
    assert_eq!((tracker.count(Counter::Announces), tracker.count(Counter::Key)), (2, 6));
    assert_eq!((tracker.count(Counter::Malformed), tracker.count(Counter::Scrapes)), (1, 0));
}

#[test]
fn keys_are_not_tried_out_faster_than_one_may_ask() {
    let access = AccessConfig { key: Some("sesame".parse().unwrap()), ..AccessConfig::default() };
    let rate = Some(RequestRate { per_minute: 1, burst: 1 });
    let config = TrackerConfig { access, rate, ..TrackerConfig::default() };
    let mut tracker = Tracker::new(config, Box::new(Memory::new(&Default::default(), 1, Instant::now())));
    let connection_id = tracker.connect(client(1));
    let mut said = |key: &str| {
        let url_data = format!("/{key}/announce").into_bytes();
        let announce = Request::Announce { connection_id, transaction_id: 8, announce: request(1, 5), url_data };
        match tracker.ask(&announce.encode(), client(1)) {
            Some(Response::Error { message, .. }) => message,
            other => panic!("{other:?}"),
        }
    };
    assert!(said("open").contains("key"));
    assert!(said("close").contains("too many"));
    assert!(said("sesame").contains("too many"), "a right guess is not told from a wrong one");
}

/// A store that cannot answer.
struct Broken;

impl Broken {
    fn why() -> Unavailable {
        Unavailable { why: "the store is away".into(), cause: None, retry: Duration::from_secs(9) }
    }
}

impl Store for Broken {
    fn announce(
        &self,
        batch: &[Announce],
        _now: Instant,
        _scratch: &mut Reply,
        answer: &mut dyn FnMut(usize, Result<&Reply, &Unavailable>),
    ) {
        (0..batch.len()).for_each(|number| answer(number, Err(&Self::why())));
    }

    fn scrape(&self, _: &[InfoHash], _: Instant) -> Result<Vec<Counts>, Unavailable> {
        Err(Self::why())
    }

    fn all(&self, _: usize, _: Instant) -> Result<Vec<(InfoHash, Counts)>, Unavailable> {
        Err(Self::why())
    }

    fn totals(&self, _: Instant) -> Result<Totals, Unavailable> {
        Err(Self::why())
    }

    fn health(&self, _: usize, _: Instant) -> Result<Vec<SwarmHealth>, Unavailable> {
        Err(Self::why())
    }

    fn tidy(&self, _: Instant) {}
}

#[test]
fn while_the_store_is_away_clients_are_told_so() {
    let mut tracker = Tracker::new(TrackerConfig::default(), Box::new(Broken));
    let connection_id = tracker.connect(client(1));
    for packet in [announce(&request(1, 5), connection_id), scrape(vec![TORRENT], connection_id)] {
        match tracker.ask(&packet, client(1)) {
            Some(Response::Error { message, .. }) => assert_eq!(message, "the store is away"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(tracker.count(Counter::Unavailable), 2);
}

/// Sends, and waits for what comes back.
fn exchange(socket: &UdpSocket, request: &Request, family: Family) -> Response {
    let mut packet = [0; 2048];
    socket.send(&request.encode()).unwrap();
    let len = socket.recv(&mut packet).unwrap();
    Response::decode(&packet[..len], family).unwrap()
}

/// Clients with sockets, of as many sockets of a tracker as there are to be, which they find `at` an address.
fn clients_meet(addr: &str, at: &str, workers: usize) {
    let workers = NonZeroUsize::new(workers).unwrap();
    let bound = Bound::new(addr.parse().unwrap(), None, workers).unwrap();
    let addr = bound.addr();
    assert!(Bound::new(addr, None, workers).is_err(), "another tracker cannot have the same port");
    let store = Memory::new(&Default::default(), 1, Instant::now());
    let service = Service::new(TrackerConfig::default(), Box::new(store), &[addr]).unwrap();
    let mut threads = Vec::new();
    super::start(vec![bound], &service, &mut threads).unwrap();
    let at = SocketAddr::new(at.parse().unwrap(), addr.port());
    let family = Family::from(at.ip());
    for number in 1..=20 {
        let socket = UdpSocket::bind((addr.ip(), 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // Hears nothing that comes from another address.
        socket.connect(at).unwrap();
        let Response::Connect { connection_id, .. } =
            exchange(&socket, &Request::Connect { transaction_id: 1 }, family)
        else {
            panic!("no connection id");
        };
        let announce = AnnounceRequest { port: 7000 + u16::from(number), ..request(number, 5) };
        let announce = Request::Announce { connection_id, transaction_id: 2, announce, url_data: Vec::new() };
        match exchange(&socket, &announce, family) {
            Response::Announce { transaction_id: 2, leechers, peers, .. } => {
                assert_eq!((leechers, peers.len()), (number.into(), usize::from(number) - 1));
            }
            other => panic!("{other:?}"),
        }
    }
    service.interrupt.raise();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn clients_meet_at_one_socket_and_at_several() {
    clients_meet("127.0.0.1:0", "127.0.0.1", 1);
    clients_meet("127.0.0.1:0", "127.0.0.1", 3);
}

#[test]
fn clients_meet_over_ipv6() {
    if UdpSocket::bind("[::1]:0").is_ok() {
        clients_meet("[::1]:0", "::1", 2);
        clients_meet("[::]:0", "::1", 1);
    }
}

/// The whole of 127.0.0.0/8 is Linux's loopback interface.
#[cfg(target_os = "linux")]
#[test]
fn an_answer_comes_from_the_address_that_was_asked() {
    clients_meet("0.0.0.0:0", "127.0.0.9", 2);
}
