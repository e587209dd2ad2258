//! All peers but the measured one: each at a loopback address of its own, on few threads.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use ropewalk::bits::Bits;
use ropewalk::wire::handshake::{Handshake, PeerId, Reserved};
use ropewalk::wire::message::{Message, piece_header};
use ropewalk::{InfoHash, Metainfo};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::ClockId;
use serde_json::{Value, json};

use crate::THREADS;
use crate::numbers::nanos;
use crate::payload::{pattern, slice};

/// How often a growing peer gets a piece.
const GROWS: Duration = Duration::from_millis(250);
/// Bytes that wait to be written beyond which no more requests are read.
const ENOUGH: usize = 4 << 20;

/// What a scripted peer is like.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Has everything and answers every request.
    Sender,
    /// Has half, chokes us, and gets more.
    Growing,
    /// Has nothing and wants everything.
    Wanting,
    /// Has half, lets us ask and has nothing that it would send.
    Silent,
}

/// Says where the peers listen, lets the senders unchoke when it is told to, and ends with its input.
pub(crate) fn peers(task: &Value) -> anyhow::Result<()> {
    let number = |key: &str| task[key].as_u64().unwrap_or(0) as usize;
    let (senders, others) = (number("senders"), number("others"));
    let metainfo = Metainfo::read(task["torrent"].as_str().context("a torrent")?.as_ref())?;
    let world = Arc::new(World {
        info_hash: metainfo.info_hash(),
        pieces: metainfo.layout().piece_count(),
        piece_length: metainfo.layout().piece_length(),
        pattern: pattern(),
        going: AtomicBool::new(false),
        first_word: AtomicU64::new(0),
    });
    let mut crews: Vec<Crew> = (0..THREADS).map(|_| Crew { world: Arc::clone(&world), seats: Vec::new() }).collect();
    let mut addrs = Vec::new();
    for number in 0..senders + others {
        let kind = match number {
            _ if number < senders => Kind::Sender,
            _ => [Kind::Growing, Kind::Wanting, Kind::Silent][number % 3],
        };
        let listener = TcpListener::bind((address(number), 0))?;
        listener.set_nonblocking(true)?;
        addrs.push(listener.local_addr()?.to_string());
        crews[number % THREADS].seats.push(Seat { number, kind, listener, line: None });
    }
    for crew in crews {
        std::thread::Builder::new().name("peers".into()).spawn(move || crew.run())?;
    }
    println!("{}", json!({"addrs": addrs}));
    let mut word = String::new();
    std::io::stdin().read_line(&mut word)?;
    world.going.store(true, Ordering::SeqCst);
    println!("{}", json!({"first_word": world.first_word.load(Ordering::SeqCst)}));
    std::io::stdin().read_to_string(&mut word)?;
    Ok(())
}

/// The loopback address of a peer.
pub(crate) fn address(number: usize) -> Ipv4Addr {
    let [.., high, low] = (number as u32 + 1).to_be_bytes();
    Ipv4Addr::new(127, 50, high, low)
}

/// What all scripted peers share.
struct World {
    info_hash: InfoHash,
    pieces: u32,
    piece_length: u32,
    pattern: Vec<u8>,
    /// The senders unchoke.
    going: AtomicBool,
    /// When the first message came after a handshake, in nanoseconds of the monotonic clock.
    first_word: AtomicU64,
}

/// A thread that plays some peers.
struct Crew {
    world: Arc<World>,
    seats: Vec<Seat>,
}

struct Seat {
    number: usize,
    kind: Kind,
    listener: TcpListener,
    line: Option<Line>,
}

/// A scripted peer's connection.
struct Line {
    stream: TcpStream,
    input: Vec<u8>,
    output: VecDeque<u8>,
    shaken: bool,
    unchoked: bool,
    /// The pieces that it has said to have got, and when it says the next.
    grown: u32,
    next: Instant,
}

impl Crew {
    fn run(mut self) {
        let mut chunk = vec![0; 256 << 10];
        loop {
            let ready = self.wait();
            let going = self.world.going.load(Ordering::Relaxed);
            for (seat, ready) in self.seats.iter_mut().zip(ready) {
                if seat.line.is_none() && ready {
                    seat.line = seat.listener.accept().ok().and_then(|(stream, _)| Line::new(stream).ok());
                }
                let Some(line) = &mut seat.line else { continue };
                if line.work(&self.world, seat.number, seat.kind, going, ready, &mut chunk).is_err() {
                    seat.line = None;
                }
            }
        }
    }

    /// Which seats have something to do.
    fn wait(&self) -> Vec<bool> {
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(self.seats.len());
        for seat in &self.seats {
            fds.push(match &seat.line {
                None => PollFd::from_borrowed_fd(seat.listener.as_fd(), PollFlags::IN),
                Some(line) => {
                    let mut flags = PollFlags::empty();
                    flags.set(PollFlags::OUT, !line.output.is_empty());
                    flags.set(PollFlags::IN, line.output.len() < ENOUGH);
                    PollFd::from_borrowed_fd(line.stream.as_fd(), flags)
                }
            });
        }
        let most = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        poll(&mut fds, Some(&most)).ok();
        fds.iter().map(|fd| !fd.revents().is_empty()).collect()
    }
}

impl Line {
    fn new(stream: TcpStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let (input, output) = (Vec::new(), VecDeque::new());
        Ok(Self { stream, input, output, shaken: false, unchoked: false, grown: 0, next: Instant::now() })
    }

    fn work(
        &mut self,
        world: &World,
        number: usize,
        kind: Kind,
        going: bool,
        ready: bool,
        chunk: &mut [u8],
    ) -> std::io::Result<()> {
        if ready && self.output.len() < ENOUGH {
            match self.stream.read(chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.input.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if !self.shaken {
            if self.input.len() < Handshake::LEN {
                return Ok(());
            }
            self.input.drain(..Handshake::LEN);
            self.shaken = true;
            self.greet(world, number, kind);
        }
        self.answer(world, kind)?;
        if going && !self.unchoked {
            self.unchoked = true;
            if matches!(kind, Kind::Sender) {
                self.put(&Message::Unchoke);
            }
            self.next = Instant::now() + GROWS.mul_f64(f64::from(number as u32 % 64) / 64.0);
        }
        if going && kind == Kind::Growing && Instant::now() >= self.next && self.grown < world.pieces / 2 {
            self.next += GROWS;
            self.put(&Message::Have(world.pieces / 2 + self.grown));
            self.grown += 1;
        }
        while !self.output.is_empty() {
            match self.stream.write(self.output.as_slices().0) {
                Ok(n) => drop(self.output.drain(..n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn greet(&mut self, world: &World, number: usize, kind: Kind) {
        self.output.extend(handshake(world.info_hash, number).encode());
        let half = || {
            let mut has = Bits::new(world.pieces);
            for piece in 0..world.pieces / 2 {
                has.set(piece);
            }
            has
        };
        match kind {
            Kind::Sender => self.put(&Message::HaveAll),
            Kind::Growing | Kind::Silent => self.put(&Message::Bitfield(half().as_wire())),
            Kind::Wanting => {
                self.put(&Message::HaveNone);
                self.put(&Message::Interested);
            }
        }
    }

    fn put(&mut self, message: &Message<'_>) {
        let mut out = Vec::new();
        message.encode_into(&mut out);
        self.output.extend(out);
    }

    /// Reads what came and answers requests.
    fn answer(&mut self, world: &World, kind: Kind) -> std::io::Result<()> {
        let mut at = 0;
        while let Some((len, rest)) = self.input[at..].split_first_chunk::<4>() {
            let len = u32::from_be_bytes(*len) as usize;
            let Some(body) = rest.get(..len) else { break };
            at += 4 + len;
            if world.first_word.load(Ordering::Relaxed) == 0 {
                world.first_word.store(nanos(ClockId::Monotonic), Ordering::SeqCst);
            }
            let message = Message::decode(body).map_err(std::io::Error::other)?;
            if let (Message::Request { index, begin, len }, Kind::Sender) = (message, kind) {
                let offset = u64::from(index) * u64::from(world.piece_length) + u64::from(begin);
                self.output.extend(piece_header(index, begin, len));
                self.output.extend(slice(&world.pattern, offset, len as usize));
            }
        }
        self.input.drain(..at);
        Ok(())
    }
}

/// What a peer says first.
pub(crate) fn handshake(info_hash: InfoHash, number: usize) -> Handshake {
    let mut id = *b"-XX0000-000000000000";
    id[12..].copy_from_slice(format!("{number:08}").as_bytes());
    Handshake { reserved: Reserved::NONE.with_fast().with_extended(), info_hash, peer_id: PeerId::new(id) }
}
