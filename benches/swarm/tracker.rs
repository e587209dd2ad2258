//! A tracker that knows all peers, and when it was asked.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::time::ClockId;

use crate::numbers::nanos;

/// A tracker that knows all peers.
pub(crate) struct Tracker {
    pub(crate) url: String,
    peers: Arc<Mutex<Vec<SocketAddrV4>>>,
    /// When the last leecher that began asked, in nanoseconds of the monotonic clock.
    pub(crate) announced: Arc<AtomicU64>,
}

impl Tracker {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let url = format!("http://{}/announce", listener.local_addr()?);
        let tracker = Self { url, peers: Arc::default(), announced: Arc::default() };
        let (peers, announced) = (Arc::clone(&tracker.peers), Arc::clone(&tracker.announced));
        std::thread::Builder::new().name("tracker".into()).spawn(move || {
            for stream in listener.incoming() {
                let answered = stream.and_then(|stream| answer(stream, &peers, &announced));
                if let Err(error) = answered {
                    eprintln!("tracker: {error}");
                }
            }
        })?;
        Ok(tracker)
    }

    pub(crate) fn answer_with(&self, peers: Vec<SocketAddrV4>) {
        *self.peers.lock().expect("nobody panics while holding it") = peers;
    }
}

fn answer(mut stream: TcpStream, peers: &Mutex<Vec<SocketAddrV4>>, announced: &AtomicU64) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut lines = BufReader::new(&stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    lines.find(|line| line.as_ref().is_ok_and(String::is_empty) || line.is_err());
    if request.contains("event=started") {
        announced.store(nanos(ClockId::Monotonic), Ordering::SeqCst);
    }
    let peers = peers.lock().expect("nobody panics while holding it");
    let mut body = b"d8:intervali1800e5:peers".to_vec();
    write!(body, "{}:", 6 * peers.len())?;
    peers.iter().for_each(|peer| body.extend([&peer.ip().octets()[..], &peer.port().to_be_bytes()].concat()));
    body.push(b'e');
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), &body].concat())
}
