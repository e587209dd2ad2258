//! Peers of very different kinds at once: one that is quick, many that are slow, and some that stop in the middle of a
//! piece. The slow ones add what they can and hold up nothing.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, never, unbounded};
use ropewalk::wire::message::Message;

use crate::support::payload::Payload;
use crate::support::scripted::{RESERVED, Server, Wire, random_id};
use crate::support::{Client, PATIENCE, config};

/// A seeder that sends at a rate, in bytes per second, and stops for good after some blocks.
#[derive(Clone, Copy)]
struct Pace {
    rate: f64,
    blocks: usize,
}

/// What a seeder is asked.
enum Asked {
    For(u32, u32, u32),
    NotFor(u32, u32, u32),
}

fn seeder(payload: &Arc<Payload>, pace: Pace) -> Server {
    let payload = Arc::clone(payload);
    Server::start(Ipv4Addr::LOCALHOST, move |stream| {
        let mut wire = Wire::answer(stream, payload.metainfo.info_hash(), RESERVED, random_id())?;
        wire.send(&Message::HaveAll)?;
        wire.send(&Message::Unchoke)?;
        let out = wire.stream.try_clone()?;
        let (asked, requests) = unbounded();
        std::thread::scope(|scope| {
            scope.spawn(|| serve(&payload, pace, out, requests));
            listen(wire, asked)
        })
    })
}

fn listen(mut wire: Wire, asked: Sender<Asked>) -> io::Result<()> {
    loop {
        let said = match Message::decode(&wire.receive()?) {
            Ok(Message::Request { index, begin, len }) => Asked::For(index, begin, len),
            Ok(Message::Cancel { index, begin, len }) => Asked::NotFor(index, begin, len),
            _ => continue,
        };
        asked.send(said).ok();
    }
}

/// Sends a block whenever the time that it takes at the rate is over.
fn serve(payload: &Payload, pace: Pace, mut out: TcpStream, requests: Receiver<Asked>) -> io::Result<()> {
    let mut waiting: VecDeque<(u32, u32, u32)> = VecDeque::new();
    let (mut left, mut free) = (pace.blocks, Instant::now());
    loop {
        let next = waiting.front().filter(|_| left > 0);
        let due = next.map(|&(.., len)| free + Duration::from_secs_f64(f64::from(len) / pace.rate));
        let pause = due.map_or_else(never, crossbeam_channel::at);
        crossbeam_channel::select_biased! {
            recv(pause) -> now => {
                let Some((index, begin, len)) = waiting.pop_front() else { continue };
                left -= 1;
                // Not by when this thread woke up: that would make it slower than it is meant to be.
                free = due.or(now.ok()).unwrap_or(free);
                let data = payload.block(index, begin, len).ok_or(io::ErrorKind::InvalidInput)?;
                let mut message = Vec::new();
                Message::Piece { index, begin, data }.encode_into(&mut message);
                out.write_all(&message)?;
            }
            recv(requests) -> asked => match asked {
                Ok(Asked::For(index, begin, len)) => {
                    if waiting.is_empty() {
                        free = free.max(Instant::now());
                    }
                    waiting.push_back((index, begin, len));
                }
                Ok(Asked::NotFor(index, begin, len)) => {
                    if let Some(at) = waiting.iter().position(|&block| block == (index, begin, len)) {
                        waiting.remove(at);
                        let mut message = Vec::new();
                        Message::Reject { index, begin, len }.encode_into(&mut message);
                        out.write_all(&message)?;
                    }
                }
                Err(_) => return Ok(()),
            },
        }
    }
}

struct Outcome {
    took: Duration,
    /// What the rates of all peers together would need.
    needs: Duration,
    /// The part of all bytes received that was of no use.
    wasted: f64,
}

/// Downloads so many bytes from one peer of `fast` bytes per second, `slow` of 50 KB/s and `stalling` that stop.
fn download(len: usize, piece_length: u32, fast: f64, slow: usize, stalling: usize) -> Outcome {
    let payload = Arc::new(Payload::file("uneven", len, piece_length));
    let always = |rate| Pace { rate, blocks: usize::MAX };
    let quick = seeder(&payload, always(fast));
    let slow_ones: Vec<Server> = (0..slow).map(|_| seeder(&payload, always(50e3))).collect();
    let stops = (0..stalling).map(|n| seeder(&payload, Pace { rate: fast / 10.0, blocks: 3 + n }));
    let stops: Vec<Server> = stops.collect();
    let peers: Vec<_> = [&quick].into_iter().chain(&slow_ones).chain(&stops).map(|server| server.addr).collect();
    let mut config = config();
    config.peers.dials_per_second = 1000;
    let start = Instant::now();
    let getter = Client::leeching_with(&payload, &peers, config, |_| ());
    getter.torrent.wait(PATIENCE);
    let took = start.elapsed();
    getter.finishes(&payload);
    let stats = getter.torrent.stats();
    let wasted = stats.wasted as f64 / len as f64;
    let needs = Duration::from_secs_f64(len as f64 / (fast + slow as f64 * 50e3));
    println!(
        "{took:.2?} of {needs:.2?}, {:.2} x, wasted {:.2} %",
        took.as_secs_f64() / needs.as_secs_f64(),
        wasted * 100.0
    );
    Outcome { took, needs, wasted }
}

#[test]
fn slow_and_stalling_peers_hold_up_nothing() {
    let Outcome { took, needs, wasted } = download(24 << 20, 256 << 10, 8e6, 20, 5);
    assert!(took < needs.mul_f64(1.5) + Duration::from_secs(2), "{took:.2?} instead of {needs:.2?}");
    assert!(wasted < 0.01, "wasted {:.2} %", wasted * 100.0);
}

#[test]
fn nor_do_they_where_pieces_are_large() {
    let Outcome { took, needs, wasted } = download(16 << 20, 4 << 20, 8e6, 10, 2);
    assert!(took < needs.mul_f64(1.5) + Duration::from_secs(2), "{took:.2?} instead of {needs:.2?}");
    assert!(wasted < 0.01, "wasted {:.2} %", wasted * 100.0);
}

#[test]
#[ignore = "a measurement: it takes a while, and a quiet machine"]
fn slow_and_stalling_peers_add_what_they_can() {
    for piece_length in [256 << 10, 1 << 20, 4 << 20] {
        for _ in 0..3 {
            let Outcome { took, needs, wasted } = download(256 << 20, piece_length, 40e6, 20, 5);
            assert!(took < needs.mul_f64(1.1), "{took:.2?} instead of {needs:.2?}");
            assert!(wasted < 0.01, "wasted {:.2} %", wasted * 100.0);
        }
    }
}
