//! A link with a delay and a rate between two clients, in user space.
//!
//! Each connection has the link to itself, and each direction is a clock: what arrives leaves when all before it has left
//! at the link's rate, and gets there a delay later. A direction takes in no more than [`QUEUE`] holds beside what is under
//! way, as a router's buffer does. Loss, and what TCP itself makes of a delay, are not imitated.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::scripted::Server;

/// What a direction holds besides what is under way, in time at its rate.
const QUEUE: Duration = Duration::from_millis(200);
const CHUNK: usize = 64 << 10;

/// How far and how wide.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub round_trip: Duration,
    /// Bytes per second in each direction.
    pub rate: f64,
}

impl Path {
    /// Milliseconds there and back, and megabytes per second.
    pub fn new(round_trip: u64, rate: u32) -> Self {
        Self { round_trip: Duration::from_millis(round_trip), rate: f64::from(rate) * 1e6 }
    }

    /// How long the link alone takes for so many bytes.
    pub fn needs(&self, bytes: usize) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.rate)
    }
}

/// Listens, and forwards whoever calls to `target`, until it is dropped.
pub fn link(target: SocketAddr, path: Path) -> Server {
    Server::start(Ipv4Addr::LOCALHOST, move |from| {
        let to = TcpStream::connect(target)?;
        to.set_nodelay(true)?;
        let (there, back) = ((from.try_clone()?, to.try_clone()?), (to, from));
        std::thread::scope(|scope| {
            for (from, to) in [there, back] {
                let (send, receive) = unbounded();
                scope.spawn(move || take_in(from, path, &send));
                scope.spawn(move || let_out(to, &receive));
            }
        });
        Ok(())
    })
}

fn take_in(mut from: TcpStream, path: Path, chunks: &Sender<(Instant, Vec<u8>)>) {
    let mut buffer = vec![0; CHUNK];
    let mut free = Instant::now();
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        let now = Instant::now();
        free = free.max(now) + path.needs(len);
        if chunks.send((free + path.round_trip / 2, buffer[..len].to_vec())).is_err() {
            return;
        }
        // The time that this takes is what is tested.
        std::thread::sleep(free.saturating_duration_since(now + QUEUE));
    }
}

fn let_out(mut to: TcpStream, chunks: &Receiver<(Instant, Vec<u8>)>) {
    for (due, chunk) in chunks {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&chunk).is_err() {
            break;
        }
    }
    // Whoever reads from here ends as well, and with it the other direction.
    to.shutdown(Shutdown::Both).ok();
}
