//! Two connections, with a path between them that delays, loses, doubles and disorders.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use crate::net::utp::connection::{Connection, PAYLOAD};
use crate::net::utp::ends::Ends;
use crate::wire::utp::{Header, Kind, Packet};

const EARLY: usize = usize::MAX;

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What a path does to packets.
#[derive(Clone, Copy)]
pub(super) struct Path {
    pub(super) delay: Duration,
    /// Bytes a second, and how many may wait for their turn.
    pub(super) rate: f64,
    pub(super) queue: f64,
    /// In percent.
    pub(super) lost: u32,
    pub(super) doubled: u32,
    /// Delayed so much more, for nothing.
    pub(super) late: u32,
}

pub(super) const CLEAN: Path =
    Path { delay: Duration::from_millis(20), rate: 1e9, queue: 1e9, lost: 0, doubled: 0, late: 0 };

pub(super) struct Side {
    pub(super) connection: Option<Connection>,
    pub(super) ends: Ends,
    /// Until when what was sent from here keeps the path busy.
    pub(super) busy_until: Instant,
    /// What was read.
    pub(super) read: Vec<u8>,
    pub(super) reads: bool,
    pub(super) sent: Vec<Header>,
}

/// When, in the order of sending, to whom, and what.
type Arrival = (Instant, u64, usize, Vec<u8>);

pub(super) struct Pair {
    pub(super) sides: [Side; 2],
    pub(super) now: Instant,
    pub(super) path: Path,
    pub(super) random: fastrand::Rng,
    /// When what comes to whom, in the order of sending.
    pub(super) on_the_way: BinaryHeap<Reverse<Arrival>>,
    pub(super) sent: u64,
    /// The longest that anything waited for its turn.
    pub(super) longest_wait: Duration,
}

impl Pair {
    pub(super) fn new(path: Path, seed: u64) -> Self {
        let now = Instant::now();
        let side = || Side {
            connection: None,
            ends: Ends::default(),
            busy_until: now,
            read: Vec::new(),
            reads: true,
            sent: Vec::new(),
        };
        let mut sides = [side(), side()];
        sides[0].connection = Some(Connection::call(100, 65_530, now));
        let random = fastrand::Rng::with_seed(seed);
        Self { sides, now, path, random, on_the_way: BinaryHeap::new(), sent: 0, longest_wait: Duration::ZERO }
    }

    /// Two that have spoken.
    pub(super) fn connected(path: Path, seed: u64) -> Self {
        let mut pair = Self::new(path, seed);
        pair.write(0, b"hello");
        pair.run("the first words", |pair| pair.sides[1].read == b"hello");
        pair.sides[1].read.clear();
        pair
    }

    pub(super) fn write(&mut self, side: usize, bytes: &[u8]) {
        self.sides[side].ends.outgoing.extend(bytes);
        self.used(side);
    }

    /// A side that did not read reads all that waits, and what comes from now on.
    pub(super) fn read_again(&mut self, side: usize) {
        let Side { ends, read, reads, .. } = &mut self.sides[side];
        *reads = true;
        read.extend(ends.incoming.drain(..));
        self.used(side);
    }

    pub(super) fn close(&mut self, side: usize) {
        self.sides[side].ends.closed = true;
        self.used(side);
    }

    pub(super) fn used(&mut self, side: usize) {
        let Side { connection, ends, .. } = &mut self.sides[side];
        if let Some(connection) = connection {
            connection.handle_use(ends, self.now);
        }
    }

    pub(super) fn is_over(&self, side: usize) -> bool {
        self.sides[side].connection.as_ref().is_some_and(Connection::is_over)
    }

    /// Goes on until it holds; fails after ten minutes of the fake clock, or where nothing is to come any more.
    #[track_caller]
    pub(super) fn run(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let end = self.now + Duration::from_secs(600);
        while !holds(self) {
            assert!(self.now < end && (self.step() || holds(self)), "{what}");
        }
    }

    /// Goes on for a while.
    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.next().is_some_and(|next| next <= end) {
            self.step();
        }
        self.now = end;
    }

    pub(super) fn next(&mut self) -> Option<Instant> {
        self.transmit();
        let arrival = self.on_the_way.peek().map(|Reverse((at, ..))| *at);
        let timeouts = self.sides.iter().filter_map(|side| side.connection.as_ref()?.poll_timeout());
        timeouts.chain(arrival).min()
    }

    /// Does what comes next; false where nothing does.
    pub(super) fn step(&mut self) -> bool {
        let Some(next) = self.next() else { return false };
        self.now = self.now.max(next);
        while let Some(Reverse((at, ..))) = self.on_the_way.peek()
            && *at <= self.now
        {
            let Reverse((_, _, to, bytes)) = self.on_the_way.pop().unwrap();
            self.arrive(to, &bytes);
        }
        for side in &mut self.sides {
            if let Some(connection) = &mut side.connection
                && connection.poll_timeout().is_some_and(|at| at <= self.now)
            {
                connection.handle_timeout(&mut side.ends, self.now);
            }
        }
        true
    }

    pub(super) fn arrive(&mut self, to: usize, bytes: &[u8]) {
        let packet = Packet::decode(bytes).unwrap();
        let (side, now) = (&mut self.sides[to], self.now);
        match &mut side.connection {
            Some(connection) => connection.handle_packet(&packet, EARLY, &mut side.ends, now),
            None => {
                assert_eq!(packet.header.kind, Kind::Syn);
                side.connection = Some(Connection::answer(&packet.header, 65_000, now));
            }
        }
        if side.reads {
            let read = side.ends.incoming.drain(..);
            side.read.extend(read);
        }
        self.used(to);
    }

    pub(super) fn transmit(&mut self) {
        let mut out = Vec::new();
        for from in 0..2 {
            loop {
                let side = &mut self.sides[from];
                out.clear();
                let Some(connection) = &mut side.connection else { break };
                if !connection.poll_transmit(&mut side.ends, self.now, &mut out) {
                    break;
                }
                side.sent.push(Header::decode(&out).unwrap());
                assert!(out.len() <= PAYLOAD + 20);
                self.send(from, &out);
            }
        }
    }

    pub(super) fn send(&mut self, from: usize, bytes: &[u8]) {
        let wait = self.sides[from].busy_until.saturating_duration_since(self.now);
        let takes = Duration::from_secs_f64((bytes.len() + 28) as f64 / self.path.rate);
        if self.random.u32(..100) < self.path.lost || wait.as_secs_f64() * self.path.rate > self.path.queue {
            return;
        }
        self.longest_wait = self.longest_wait.max(wait);
        self.sides[from].busy_until = self.now + wait + takes;
        let times = 1 + u64::from(self.random.u32(..100) < self.path.doubled);
        for _ in 0..times {
            let late = if self.random.u32(..100) < self.path.late { self.path.delay } else { Duration::ZERO };
            self.sent += 1;
            let arrival = (self.now + wait + takes + self.path.delay + late, self.sent, 1 - from, bytes.to_vec());
            self.on_the_way.push(Reverse(arrival));
        }
    }
}

pub(super) fn bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; count];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}
