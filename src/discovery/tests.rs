//! Announcers against scripted trackers on loopback sockets.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};

use super::tiers::Timing;
use super::tracker::{Announcer, Counters, Setup, TrackerFact, TrackerState, TrackerStatus};
use crate::metainfo::InfoHash;
use crate::wire::handshake::PeerId;
use crate::wire::tracker::udp::{Request, Response};
use crate::wire::tracker::{Event, Family};

/// Nothing here takes as long; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between announces, where a test wants several.
const SHORT: Duration = Duration::from_millis(5);

/// A tracker whose every connection is handled by a script, on a thread of its own.
struct HttpScript {
    addr: SocketAddr,
    /// The targets that were asked for.
    targets: Receiver<String>,
    over: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl HttpScript {
    fn new(script: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (sender, targets) = unbounded();
        let over = Arc::new(AtomicBool::new(false));
        let (ended, script) = (over.clone(), Arc::new(script));
        let acceptor = thread::spawn(move || {
            let mut connections = Vec::new();
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    break;
                }
                let (sender, script, mut stream) = (sender.clone(), script.clone(), stream.unwrap());
                connections.push(thread::spawn(move || {
                    let Some(target) = read_target(&stream) else { return };
                    let _ = sender.send(target.clone());
                    script(&target, &mut stream);
                }));
            }
            connections.into_iter().for_each(|connection| connection.join().unwrap());
        });
        Self { addr, targets, over, acceptor: Some(acceptor) }
    }

    /// One that answers every announce with this body.
    fn answering(body: &'static [u8]) -> Self {
        Self::new(move |_, stream| send(stream, "200 OK", "", body))
    }

    /// One that takes the request and never answers.
    fn hanging() -> Self {
        Self::new(|_, stream| hang(stream))
    }

    fn url(&self) -> String {
        format!("http://{}/announce", self.addr)
    }

    fn target(&self) -> String {
        self.targets.recv_timeout(PATIENCE).unwrap()
    }
}

impl Drop for HttpScript {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.addr);
        let _ = self.acceptor.take().unwrap().join();
    }
}

/// A UDP tracker; the script says what to send back for each packet.
struct UdpScript {
    addr: SocketAddr,
    requests: Receiver<Request>,
    thread: Option<JoinHandle<()>>,
}

impl UdpScript {
    fn new(mut script: impl FnMut(&Request) -> Vec<Response> + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = socket.local_addr().unwrap();
        let (sender, requests) = unbounded();
        let thread = thread::spawn(move || {
            let mut buffer = [0; 2048];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).unwrap();
                let Ok(request) = Request::decode(&buffer[..length]) else { return };
                for response in script(&request) {
                    let _ = socket.send_to(&response.encode(Family::V4), from);
                }
                let _ = sender.send(request);
            }
        });
        Self { addr, requests, thread: Some(thread) }
    }

    fn url(&self) -> String {
        format!("udp://{}/announce", self.addr)
    }

    /// The next announce that arrives.
    fn announced(&self) -> crate::wire::tracker::AnnounceRequest {
        loop {
            if let Request::Announce { announce, .. } = self.requests.recv_timeout(PATIENCE).unwrap() {
                return announce;
            }
        }
    }
}

impl Drop for UdpScript {
    fn drop(&mut self) {
        // What is no request ends the thread.
        let _ = UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&[], self.addr);
        let _ = self.thread.take().unwrap().join();
    }
}

/// An announcer and what it has told.
struct Watched {
    announcer: Announcer,
    facts: Receiver<TrackerFact>,
}

impl Watched {
    fn start(tiers: &[&[String]]) -> Self {
        Self::with(setup(tiers))
    }

    fn with(setup: Setup) -> Self {
        let (sender, facts) = unbounded();
        let announcer = Announcer::start(setup, move |fact| drop(sender.send(fact))).unwrap();
        Self { announcer, facts }
    }

    fn fact(&self) -> TrackerFact {
        self.facts.recv_timeout(PATIENCE).unwrap()
    }

    fn peers(&self) -> Vec<SocketAddr> {
        loop {
            if let TrackerFact::Peers { peers, .. } = self.fact() {
                return peers;
            }
        }
    }

    fn failure(&self) -> String {
        loop {
            if let TrackerFact::Failed { message, .. } = self.fact() {
                return message;
            }
        }
    }

    /// The first tracker's status, once it is as wanted.
    fn status(&self, wanted: impl Fn(&TrackerStatus) -> bool) -> TrackerStatus {
        let start = Instant::now();
        loop {
            let status = self.announcer.snapshot().swap_remove(0);
            if wanted(&status) {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "{status:?}");
            thread::yield_now();
        }
    }
}

fn setup(tiers: &[&[String]]) -> Setup {
    Setup {
        info_hash: InfoHash::new([0xfe; 20]),
        peer_id: PeerId::new(*b"-RW0001-abcdefghijkl"),
        key: 0xabcd,
        port: 6881,
        tiers: tiers.iter().map(|tier| tier.to_vec()).collect(),
        counters: Arc::new(|| Counters { uploaded: 11, downloaded: 22, left: 33 }),
        num_want: 80,
        user_agent: "ropewalk/test".into(),
        bind: None,
        timing: Timing {
            shortest_interval: SHORT,
            first_retry: SHORT,
            longest_retry: SHORT,
            udp_first_wait: Duration::from_millis(20),
            ..Timing::default()
        },
        tls: Default::default(),
        seed: 5,
    }
}

fn read_target(stream: &TcpStream) -> Option<String> {
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next()?.ok()?;
    let headers: Vec<_> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    assert!(headers.iter().any(|header| header.eq_ignore_ascii_case("user-agent: ropewalk/test")), "{headers:?}");
    Some(request.strip_prefix("GET ")?.strip_suffix(" HTTP/1.1")?.to_owned())
}

fn send(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) {
    let length = body.len();
    let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n");
    let _ = stream.write_all(body);
}

/// Until the client goes away.
fn hang(stream: &mut TcpStream) {
    let _ = stream.read(&mut [0; 1]);
}

fn peer(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 256 + u16::from(last)))
}

const ONE_PEER: &[u8] = b"d8:completei3e10:incompletei4e8:intervali1800e5:peers6:\x0a\0\0\x07\x01\x07e";

#[test]
fn an_announce_says_who_we_are_and_brings_compact_peers() {
    let tracker = HttpScript::answering(ONE_PEER);
    let watched = Watched::start(&[&[tracker.url()]]);
    assert_eq!(watched.peers(), [peer(7)]);
    let target = tracker.target();
    for part in [
        "/announce?",
        "info_hash=%FE%FE",
        "peer_id=-RW0001-abcdefghijkl",
        "port=6881",
        "uploaded=11",
        "downloaded=22",
        "left=33",
        "event=started",
        "compact=1",
        "numwant=80",
    ] {
        assert!(target.contains(part), "{part} in {target}");
    }
    let status = watched.status(|status| status.state == TrackerState::Working);
    assert_eq!((status.seeders, status.leechers, status.peers), (Some(3), Some(4), 1));
    assert_eq!((&*status.url, status.tier, status.error), (&*tracker.url(), 0, None));
}

#[test]
fn peers_may_come_as_dictionaries_in_chunks() {
    let tracker = HttpScript::new(|_, stream| {
        let _ = stream.write_all(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
              11\r\nd8:intervali1800e\r\n\
              25\r\n5:peersld2:ip8:10.0.0.14:porti257eeee\r\n0\r\n\r\n",
        );
    });
    let watched = Watched::start(&[&[tracker.url()]]);
    assert_eq!(watched.peers(), [peer(1)]);
}

#[test]
fn a_failure_reason_is_read_whatever_the_status() {
    let tracker = HttpScript::new(|_, stream| {
        send(stream, "400 Bad Request", "", b"d14:failure reason12:unregisterede");
    });
    let watched = Watched::start(&[&[tracker.url()]]);
    assert_eq!(watched.failure(), "the tracker refuses: unregistered");
    watched.status(|status| status.error.as_deref() == Some("the tracker refuses: unregistered"));
}

#[test]
fn a_status_without_a_reason_is_named() {
    let tracker = HttpScript::new(|_, stream| send(stream, "503 Service Unavailable", "", b"<html>"));
    let watched = Watched::start(&[&[tracker.url()]]);
    assert_eq!(watched.failure(), "the tracker answers with HTTP status 503");
}

#[test]
fn a_warning_and_our_own_address_are_passed_on() {
    let tracker =
        HttpScript::answering(b"d11:external ip4:\xc0\0\x02\x018:intervali1800e5:peers0:15:warning message4:hey!e");
    let watched = Watched::start(&[&[tracker.url()]]);
    let url: Arc<str> = tracker.url().into();
    assert_eq!(watched.fact(), TrackerFact::ExternalIp { url: url.clone(), ip: Ipv4Addr::new(192, 0, 2, 1).into() });
    assert_eq!(watched.fact(), TrackerFact::Warning { url, message: "hey!".into() });
    watched.status(|status| status.warning.as_deref() == Some("hey!"));
}

#[test]
fn a_tracker_that_hangs_delays_no_other_tier() {
    let (slow, quick) = (HttpScript::hanging(), HttpScript::answering(ONE_PEER));
    let watched = Watched::start(&[&[slow.url()], &[quick.url()]]);
    slow.target();
    assert_eq!(watched.peers(), [peer(7)]);
    watched.status(|status| status.state == TrackerState::Announcing);
}

#[test]
fn a_tier_falls_back_to_a_tracker_that_works_and_stays_with_it() {
    let broken = HttpScript::answering(b"d14:failure reason2:noe");
    let works = HttpScript::answering(b"d8:intervali0e5:peers6:\x0a\0\0\x07\x01\x07e");
    let mut setup = setup(&[&[broken.url(), works.url()]]);
    setup.timing.first_retry = Duration::from_secs(3600);
    setup.timing.longest_retry = Duration::from_secs(3600);
    let watched = Watched::with(setup);
    assert!(works.target().contains("event=started"));
    for _ in 0..3 {
        assert!(!works.target().contains("event="));
    }
    drop(watched);
    assert!(broken.targets.try_iter().count() <= 1);
}

#[test]
fn hurrying_moves_the_next_announce_up_to_the_minimum_interval() {
    let tracker = HttpScript::answering(b"d8:intervali7200e12:min intervali3600e5:peers0:e");
    let watched = Watched::start(&[&[tracker.url()]]);
    let after = |status: &TrackerStatus| status.next_announce.unwrap() - Instant::now();
    let working = watched.status(|status| status.state == TrackerState::Working && status.next_announce.is_some());
    assert!(after(&working) > Duration::from_secs(7000));
    watched.announcer.announce_now();
    let hurried = watched.status(|status| after(status) < Duration::from_secs(7000));
    assert!(after(&hurried) > Duration::from_secs(3500));
    assert_eq!(tracker.targets.len(), 1);
}

#[test]
fn the_tracker_id_is_sent_back() {
    let tracker = HttpScript::answering(b"d8:intervali0e5:peers0:10:tracker id3:a &e");
    let _watched = Watched::start(&[&[tracker.url()]]);
    assert!(!tracker.target().contains("trackerid"));
    assert!(tracker.target().contains("trackerid=a%20%26"));
}

#[test]
fn completed_is_sent_once_and_does_not_wait() {
    let tracker = HttpScript::answering(b"d8:intervali7200e12:min intervali7200e5:peers0:e");
    let watched = Watched::start(&[&[tracker.url()]]);
    assert!(tracker.target().contains("event=started"));
    watched.announcer.completed();
    watched.announcer.completed();
    assert!(tracker.target().contains("event=completed"));
    watched.announcer.stop(PATIENCE);
    assert!(tracker.target().contains("event=stopped"));
}

#[test]
fn a_torrent_that_was_complete_at_the_start_never_completes() {
    let tracker = HttpScript::answering(ONE_PEER);
    let mut setup = setup(&[&[tracker.url()]]);
    setup.counters = Arc::new(Counters::default);
    let watched = Watched::with(setup);
    watched.peers();
    watched.announcer.completed();
    watched.status(|status| status.state == TrackerState::Working);
    watched.announcer.stop(PATIENCE);
    assert!(tracker.target().contains("left=0&"));
    assert!(tracker.target().contains("event=stopped"));
}

#[test]
fn stopping_tells_the_trackers_that_accepted_us_with_the_last_counters() {
    let tracker = HttpScript::answering(ONE_PEER);
    let refusing = HttpScript::answering(b"d14:failure reason2:no8:retry in5:nevere");
    let uploaded = Arc::new(AtomicU64::new(1));
    let mut setup = setup(&[&[tracker.url()], &[refusing.url()]]);
    let counted = uploaded.clone();
    setup.counters = Arc::new(move || Counters { uploaded: counted.load(Ordering::SeqCst), downloaded: 0, left: 33 });
    let watched = Watched::with(setup);
    watched.status(|status| status.state == TrackerState::Working);
    watched.failure();
    uploaded.store(99, Ordering::SeqCst);
    watched.announcer.stop(PATIENCE);
    assert!(tracker.target().contains("uploaded=1&"));
    let stopped = tracker.target();
    assert!(stopped.contains("event=stopped") && stopped.contains("uploaded=99&") && stopped.contains("numwant=0"));
    assert_eq!(refusing.targets.try_iter().count(), 1);
}

#[test]
fn a_stop_waits_no_longer_than_the_grace() {
    let tracker = HttpScript::new(|target, stream| match target.contains("event=stopped") {
        true => hang(stream),
        false => send(stream, "200 OK", "", ONE_PEER),
    });
    let watched = Watched::start(&[&[tracker.url()]]);
    watched.status(|status| status.state == TrackerState::Working);
    let start = Instant::now();
    watched.announcer.stop(Duration::from_millis(100));
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_stop_does_not_wait_for_an_announce_that_hangs() {
    let hanging = HttpScript::hanging();
    let dripping = HttpScript::new(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nd8:int");
        hang(stream);
    });
    let silent = UdpScript::new(|_| Vec::new());
    let watched = Watched::start(&[&[hanging.url()], &[dripping.url()], &[silent.url()]]);
    hanging.target();
    dripping.target();
    silent.requests.recv_timeout(PATIENCE).unwrap();
    let start = Instant::now();
    watched.announcer.stop(PATIENCE);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_stop_does_not_wait_for_a_connection_that_is_not_accepted() {
    // A full backlog leaves further connections without an answer, as a host that is gone does.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap().as_socket().unwrap();
    let fill = || TcpStream::connect_timeout(&addr, Duration::from_millis(200));
    let filled: Vec<_> = std::iter::from_fn(|| fill().ok()).take(16).collect();
    let watched = Watched::start(&[&[format!("http://{addr}/announce")]]);
    watched.status(|status| status.state == TrackerState::Announcing);
    let start = Instant::now();
    watched.announcer.stop(PATIENCE);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(watched.facts.is_empty(), "the connect did not hang");
    drop(filled);
}

#[test]
fn a_reply_that_is_too_large_is_refused() {
    let tracker = HttpScript::new(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b'x'; 65536]).is_ok() {}
    });
    let watched = Watched::start(&[&[tracker.url()]]);
    assert!(watched.failure().contains("larger than"));
}

#[test]
fn a_reply_that_is_too_large_once_decompressed_is_refused() {
    /// 64 KiB of zeros by gzip.
    const MEMBER: [u8; 96] = *b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xed\xc1\x01\x01\x00\x00\x00\x80\x90\xfe\xaf\xee\x08\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x6a\xeb\x8e\x97\xd7\x00\x00\x01\x00";
    let tracker = HttpScript::new(|_, stream| send(stream, "200 OK", "Content-Encoding: gzip\r\n", &MEMBER.repeat(64)));
    let watched = Watched::start(&[&[tracker.url()]]);
    assert!(watched.failure().contains("larger than"));
}

#[test]
fn a_redirect_is_followed_and_a_circle_is_not() {
    let tracker = HttpScript::answering(ONE_PEER);
    let url = tracker.url();
    let moved = HttpScript::new(move |target, stream| {
        let query = target.split_once('?').unwrap().1;
        send(stream, "302 Found", &format!("Location: {url}?{query}\r\n"), b"");
    });
    let circle = HttpScript::new(|target, stream| {
        send(stream, "301 Moved Permanently", &format!("Location: {target}\r\n"), b"");
    });
    let watched = Watched::start(&[&[moved.url()], &[circle.url()]]);
    assert_eq!(watched.peers(), [peer(7)]);
    circle.target();
    drop(watched);
    assert!(tracker.target().contains("info_hash=%FE%FE"));
}

#[test]
fn raw_characters_in_a_url_are_escaped_and_escapes_are_kept() {
    let tracker = HttpScript::answering(ONE_PEER);
    let url = format!("http://{}/a b|\u{e9}/%41nnounce?key=\"<\u{e9}>&x=%ff", tracker.addr);
    let watched = Watched::start(&[&[url]]);
    assert_eq!(watched.peers(), [peer(7)]);
    let target = tracker.target();
    assert!(target.starts_with("/a%20b|%C3%A9/%41nnounce?key=%22%3C%C3%A9%3E&x=%ff&info_hash="), "{target}");
}

#[test]
fn a_tls_handshake_with_what_speaks_no_tls_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/announce", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        hang(&mut stream);
    });
    let mut setup = setup(&[&[url]]);
    setup.timing.first_retry = PATIENCE;
    setup.timing.longest_retry = PATIENCE;
    let watched = Watched::with(setup);
    assert!(!watched.failure().is_empty());
    server.join().unwrap();
}

#[test]
fn what_cannot_be_asked_is_shown_and_never_tried() {
    let urls = ["ws://127.0.0.1:1/", "wss://127.0.0.1:1/", "udp://127.0.0.1/announce", "nonsense", "http:///x y"];
    let urls: Vec<_> = urls.map(String::from).into();
    let watched = Watched::start(&[&urls]);
    let statuses = watched.announcer.snapshot();
    assert_eq!(statuses.len(), 5);
    assert!(statuses[0].error.as_ref().unwrap().contains("ws://"));
    assert!(statuses[..4].iter().all(|status| status.state == TrackerState::Unsupported && status.error.is_some()));
}

#[test]
fn many_tiers_share_the_last_thread() {
    let tracker = HttpScript::answering(ONE_PEER);
    let dead: Vec<_> = (1..=18).map(|port| vec![format!("http://127.0.0.1:{port}/announce")]).collect();
    let mut tiers: Vec<&[String]> = dead.iter().map(Vec::as_slice).collect();
    let last = [tracker.url()];
    tiers.push(&last);
    let watched = Watched::start(&tiers);
    assert_eq!(watched.peers(), [peer(7)]);
    assert_eq!(watched.announcer.snapshot().last().unwrap().tier, 18);
}

/// Connects, and answers announces with one peer.
fn udp_answer(request: &Request) -> Response {
    let transaction_id = request.transaction_id();
    match request {
        Request::Connect { .. } => Response::Connect { transaction_id, connection_id: 42 },
        _ => Response::Announce { transaction_id, interval: 1800, leechers: 1, seeders: 2, peers: vec![peer(7)] },
    }
}

#[test]
fn a_udp_tracker_is_announced_to_and_told_of_the_stop_on_the_same_connection() {
    let tracker = UdpScript::new(|request| vec![udp_answer(request)]);
    let watched = Watched::start(&[&[tracker.url()]]);
    assert_eq!(watched.peers(), [peer(7)]);
    watched.status(|status| status.state == TrackerState::Working && status.seeders == Some(2));
    let started = tracker.announced();
    assert_eq!((started.event, started.left, started.numwant), (Some(Event::Started), 33, Some(80)));
    watched.announcer.stop(PATIENCE);
    let Request::Announce { announce, connection_id, url_data, .. } = tracker.requests.recv().unwrap() else {
        panic!()
    };
    assert_eq!((announce.event, connection_id), (Some(Event::Stopped), 42));
    assert_eq!(url_data, b"/announce");
}

#[test]
fn lost_udp_packets_are_sent_again_and_strangers_ignored() {
    let mut lost = 0;
    let tracker = UdpScript::new(move |request| {
        lost += 1;
        // Every second packet is lost; before each answer comes one to a request that nobody made.
        if lost % 2 == 1 {
            return Vec::new();
        }
        let transaction_id = request.transaction_id().wrapping_add(1);
        vec![Response::Error { transaction_id, message: "forged".into() }, udp_answer(request)]
    });
    let watched = Watched::start(&[&[tracker.url()]]);
    assert!(matches!(watched.fact(), TrackerFact::Peers { peers, .. } if peers == [peer(7)]));
}

#[test]
fn a_udp_error_is_passed_on_in_the_trackers_words() {
    let tracker = UdpScript::new(|request| match request {
        Request::Connect { .. } => vec![udp_answer(request)],
        _ => vec![Response::Error { transaction_id: request.transaction_id(), message: "go away".into() }],
    });
    let watched = Watched::start(&[&[tracker.url()]]);
    assert_eq!(watched.failure(), "the tracker refuses: go away");
}

#[test]
fn a_udp_tracker_that_is_not_there_fails_at_once_and_one_that_is_silent_in_time() {
    let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let watched = Watched::start(&[&[format!("udp://{gone}")]]);
    assert!(watched.failure().starts_with("cannot reach the tracker"));
    let silent = UdpScript::new(|_| Vec::new());
    let watched = Watched::start(&[&[silent.url()]]);
    assert!(watched.failure().ends_with("did not answer"));
}

#[test]
fn a_name_with_several_addresses_reaches_the_one_that_answers() {
    let http = HttpScript::answering(ONE_PEER);
    let udp = UdpScript::new(|request| vec![udp_answer(request)]);
    for url in
        [format!("http://localhost:{}/announce", http.addr.port()), format!("udp://localhost:{}", udp.addr.port())]
    {
        let watched = Watched::start(&[&[url]]);
        assert_eq!(watched.peers(), [peer(7)]);
    }
}

#[test]
fn a_tracker_of_the_family_we_are_not_bound_to_is_not_asked() {
    let tracker = HttpScript::answering(ONE_PEER);
    let mut setup = setup(&[&[tracker.url()]]);
    setup.bind = Some("::1".parse().unwrap());
    assert!(Watched::with(setup.clone()).failure().contains("bound"));
    setup.bind = Some("127.0.0.1".parse().unwrap());
    assert_eq!(Watched::with(setup).peers(), [peer(7)]);
}
