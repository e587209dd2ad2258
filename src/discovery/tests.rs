//! Announcers against scripted trackers on loopback sockets: the scripts, and by subject what is asked of them.

mod http;
mod stopping;
mod tiers;
mod udp;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};

use super::tiers::Timing;
use super::tracker::{Announcer, Counters, Setup, TrackerFact, TrackerStatus};
use crate::config::Encryption;
use crate::metainfo::InfoHash;
use crate::wire::handshake::PeerId;
use crate::wire::tracker::Family;
use crate::wire::tracker::udp::{Request, Response};

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
        port: Arc::new(6881.into()),
        tiers: tiers.iter().map(|tier| tier.to_vec()).collect(),
        counters: Arc::new(|| Counters { uploaded: 11, downloaded: 22, left: 33 }),
        scrape: false,
        num_want: 80,
        user_agent: "ropewalk/test".into(),
        bind: None,
        encryption: Encryption::Require,
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

/// Connects, and answers announces with one peer.
fn udp_answer(request: &Request) -> Response {
    let transaction_id = request.transaction_id();
    match request {
        Request::Connect { .. } => Response::Connect { transaction_id, connection_id: 42 },
        _ => Response::Announce { transaction_id, interval: 1800, leechers: 1, seeders: 2, peers: vec![peer(7)] },
    }
}
