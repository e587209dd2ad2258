//! What a download looked like over time, in bounded memory.
//!
//! It owns the timeline: time in equal bins, of which there are at most [`BINS`]; when they are full, two become one and
//! their width doubles. So a second and a week take the same room, and detail goes where it is not seen anyway. Pieces
//! share [`ROWS`] rows, of more than [`PEERS`] peers those that are gone and brought least lose their lines, marks of
//! which there are too many are thinned out: some 10 MiB at most, whatever the torrent and its peers are. It refuses to
//! look at a clock or a torrent: times since the start and what was seen come in.

mod marks;
mod span;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use ropewalk::Protection;
use ropewalk::bits::Bits;

pub use marks::{KINDS, Kind, Mark, Marks};
use span::{Span, halve};

/// The most bins.
pub const BINS: usize = 960;
/// The width of a bin at first.
pub const FINEST: Duration = Duration::from_millis(20);
/// The most rows of pieces.
pub const ROWS: u32 = 160;
/// The most peers with a line of their own.
pub const PEERS: usize = 256;
/// The longest text that a mark or a client's name may have, in characters.
const TEXT: usize = 160;

/// What the torrent is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Opening,
    Checking,
    Downloading,
    /// For something outside, such as room on the disk.
    Waiting,
    Seeding,
}

/// The number of phases.
pub const PHASES: usize = 5;

/// What a peer is doing for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It is not asked for anything.
    Idle,
    /// It is asked, and answers or will.
    Asked,
    /// It has what we want and does not answer.
    Choking,
    /// It was asked and let its time pass.
    Stalling,
}

/// The torrent at one moment. Bytes are since its start.
#[derive(Clone, Debug)]
pub struct Look {
    pub phase: Phase,
    pub down: u64,
    pub up: u64,
    pub peers: Vec<PeerLook>,
}

/// A connected peer at one moment. Bytes are since it connected.
#[derive(Clone, Debug)]
pub struct PeerLook {
    pub addr: SocketAddr,
    pub client: String,
    pub incoming: bool,
    pub protection: Protection,
    pub down: u64,
    pub up: u64,
    pub wasted: u64,
    pub doing: Doing,
}

/// The whole torrent during a bin. Times in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Total {
    pub down: u64,
    pub up: u64,
    /// The most peers connected.
    pub peers: u32,
    /// The time in each phase.
    pub phases: [u32; PHASES],
}

/// A peer during a bin. Times in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    pub down: u64,
    pub seen: u32,
    pub asked: u32,
    pub choked: u32,
    pub stalled: u32,
}

/// A peer's line, over all its connections.
#[derive(Clone, Debug)]
pub struct Row {
    pub addr: SocketAddr,
    pub client: String,
    pub incoming: bool,
    pub protection: Protection,
    pub first: Duration,
    pub last: Duration,
    pub down: u64,
    pub up: u64,
    pub wasted: u64,
    pub pieces: u32,
    pub stalls: u32,
    /// Why its last connection ended.
    pub gone: Option<String>,
    pub cells: Vec<Cell>,
    /// By which arrivals name it.
    id: u32,
    connections: u32,
    /// What it was at the last look, where it was connected.
    before: Option<PeerLook>,
    /// When that was, or when it connected: what moved since then is not known more exactly.
    since: Duration,
}

/// Pieces of a row that came in during a bin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub bin: u32,
    pub count: u32,
    /// The id of the peer that brought most of them.
    peer: Option<u32>,
    /// By how much it is ahead of the rest.
    votes: u32,
}

/// The timeline.
pub struct Recorder {
    pieces: u32,
    width: u64,
    end: Duration,
    looked: Duration,
    totals: Vec<Total>,
    had: Vec<u32>,
    seen: Bits,
    arrivals: Vec<Vec<Arrival>>,
    rows: Vec<Row>,
    index: HashMap<SocketAddr, usize>,
    next_id: u32,
    marks: [Marks; KINDS],
    before: (u64, u64),
    peers_ever: u64,
    finished: Option<Duration>,
}

impl Recorder {
    /// For a torrent of so many pieces.
    pub fn new(pieces: u32) -> Self {
        let rows = pieces.min(ROWS) as usize;
        Self {
            pieces,
            width: FINEST.as_millis() as u64,
            end: Duration::ZERO,
            looked: Duration::ZERO,
            totals: Vec::new(),
            had: vec![0; rows],
            seen: Bits::new(pieces),
            arrivals: vec![Vec::new(); rows],
            rows: Vec::new(),
            index: HashMap::new(),
            next_id: 0,
            marks: Default::default(),
            before: (0, 0),
            peers_ever: 0,
            finished: None,
        }
    }

    /// Takes in how things are `at` this time. What moved since the last look is spread over the time since then.
    pub fn look(&mut self, at: Duration, look: Look) {
        let from = std::mem::replace(&mut self.looked, at).min(at);
        self.reach(at);
        let span = Span::new(from, at, self.width);
        let (down, up) = (look.down.saturating_sub(self.before.0), look.up.saturating_sub(self.before.1));
        self.before = (look.down, look.up);
        for part in span.parts() {
            let total = &mut self.totals[part.bin];
            total.down += part.of(down);
            total.up += part.of(up);
            total.peers = total.peers.max(look.peers.len() as u32);
            total.phases[look.phase as usize] += part.time();
        }
        let mut here = vec![false; self.rows.len()];
        for peer in look.peers {
            let Some(at) = self.line(peer.addr, from) else { continue };
            here.resize(here.len().max(at + 1), false);
            here[at] = true;
            if self.rows[at].look(peer, self.looked, self.width) {
                let addr = self.rows[at].addr;
                self.mark(self.end, Kind::Stall, &format!("{addr} stalls"), None);
            }
        }
        let gone = self.rows.iter_mut().zip(here).filter(|(_, here)| !here);
        gone.for_each(|(row, _)| row.before = None);
    }

    /// A piece is stored.
    pub fn piece(&mut self, at: Duration, piece: u32, from: Option<SocketAddr>) {
        if piece >= self.pieces || !self.seen.set(piece) {
            return;
        }
        self.reach(at);
        let row = from.and_then(|addr| self.line(addr, at));
        let peer = row.map(|row| {
            self.rows[row].pieces += 1;
            self.rows[row].id
        });
        let bin = (at.as_millis() as u64 / self.width) as u32;
        let number = self.row_of(piece);
        join(&mut self.arrivals[number], Arrival { bin, count: 1, peer, votes: 1 });
    }

    /// These pieces are there: those that nobody told of were there before, or, once it downloads, were brought by
    /// somebody unknown.
    pub fn pieces(&mut self, at: Duration, have: &Bits, before: bool) {
        for piece in have.iter() {
            if !before {
                self.piece(at, piece, None);
            } else if piece < self.pieces && self.seen.set(piece) {
                let row = self.row_of(piece);
                self.had[row] += 1;
            }
        }
    }

    /// A connection to a peer stands.
    pub fn connected(&mut self, at: Duration, addr: SocketAddr) {
        if let Some(row) = self.line(addr, at) {
            let row = &mut self.rows[row];
            row.connections += 1;
            row.gone = None;
            row.since = row.since.max(at);
        }
    }

    /// A connection ended, or did not come about.
    pub fn gone(&mut self, at: Duration, addr: SocketAddr, why: &str) {
        let row = self.index.get(&addr).map(|&row| &mut self.rows[row]).filter(|row| row.connections > 0);
        let kind = match row {
            Some(row) => {
                row.connections -= 1;
                row.gone = Some(short(why));
                row.last = row.last.max(at);
                Kind::Left
            }
            None => Kind::Unreachable,
        };
        // In the end all leave.
        if kind == Kind::Unreachable || self.finished.is_none() {
            self.mark(at, kind, &format!("{addr}: {why}"), None);
        }
    }

    /// Something happened.
    pub fn mark(&mut self, at: Duration, kind: Kind, text: &str, piece: Option<u32>) {
        self.marks[kind as usize].add(Mark { at, text: short(text), piece });
    }

    /// Everything wanted is there.
    pub fn finish(&mut self, at: Duration) {
        self.finished.get_or_insert(at);
    }

    /// How many pieces it knows to be there.
    pub fn known(&self) -> u32 {
        self.seen.count()
    }

    /// How long a bin is.
    pub fn width(&self) -> Duration {
        Duration::from_millis(self.width)
    }

    /// The last time that it was told of.
    pub fn end(&self) -> Duration {
        self.end
    }

    pub fn finished(&self) -> Option<Duration> {
        self.finished
    }

    pub fn piece_count(&self) -> u32 {
        self.pieces
    }

    pub fn totals(&self) -> &[Total] {
        &self.totals
    }

    /// For each row of pieces, how many were there before.
    pub fn had(&self) -> &[u32] {
        &self.had
    }

    /// For each row of pieces, what came when.
    pub fn arrivals(&self) -> &[Vec<Arrival>] {
        &self.arrivals
    }

    /// Peers with a line of their own, those that sent most first.
    pub fn rows(&self) -> Vec<&Row> {
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        rows.sort_by_key(|row| (std::cmp::Reverse(row.down), row.first, row.addr));
        rows
    }

    /// How many peers were connected at any time, those that lost their line included.
    pub fn peers_ever(&self) -> u64 {
        self.peers_ever
    }

    pub fn marks(&self, kind: Kind) -> &Marks {
        &self.marks[kind as usize]
    }

    fn row_of(&self, piece: u32) -> usize {
        (u64::from(piece) * self.arrivals.len() as u64 / u64::from(self.pieces)) as usize
    }

    /// Makes the timeline long enough for this time.
    fn reach(&mut self, at: Duration) {
        while at.as_millis() as u64 / self.width >= BINS as u64 {
            self.halve();
        }
        self.end = self.end.max(at);
        let bins = (at.as_millis() as u64 / self.width) as usize + 1;
        if bins > self.totals.len() {
            self.totals.resize(bins, Total::default());
        }
    }

    /// Two bins become one.
    fn halve(&mut self) {
        self.width *= 2;
        halve(&mut self.totals, Total::merge);
        for row in &mut self.rows {
            halve(&mut row.cells, Cell::merge);
        }
        for row in &mut self.arrivals {
            let finer = std::mem::take(row);
            finer.into_iter().for_each(|arrival| join(row, Arrival { bin: arrival.bin / 2, ..arrival }));
        }
    }

    /// A peer's line. Where there is none left, the peer that is gone and brought least loses its own; `None` where all are
    /// connected.
    fn line(&mut self, addr: SocketAddr, at: Duration) -> Option<usize> {
        if let Some(&row) = self.index.get(&addr) {
            return Some(row);
        }
        let row = Row::new(addr, self.next_id, at);
        if self.rows.len() < PEERS {
            self.rows.push(row);
            self.index.insert(addr, self.rows.len() - 1);
        } else {
            let idle = |(_, row): &(usize, &Row)| row.before.is_none() && row.connections == 0;
            let (place, old) = self.rows.iter().enumerate().filter(idle).min_by_key(|(_, row)| (row.down, row.last))?;
            self.index.remove(&old.addr);
            self.index.insert(addr, place);
            self.rows[place] = row;
        }
        self.next_id += 1;
        self.peers_ever += 1;
        self.index.get(&addr).copied()
    }
}

impl Row {
    fn new(addr: SocketAddr, id: u32, at: Duration) -> Self {
        Self {
            addr,
            client: String::new(),
            incoming: false,
            protection: Protection::None,
            first: at,
            last: at,
            down: 0,
            up: 0,
            wasted: 0,
            pieces: 0,
            stalls: 0,
            gone: None,
            cells: Vec::new(),
            id,
            connections: 0,
            before: None,
            since: at,
        }
    }

    /// Takes in how the peer is at this time; says whether it has begun to stall.
    fn look(&mut self, mut peer: PeerLook, at: Duration, width: u64) -> bool {
        let span = Span::new(std::mem::replace(&mut self.since, at).min(at), at, width);
        let since = |now: u64, before: fn(&PeerLook) -> u64| {
            let before = self.before.as_ref().map_or(0, before);
            // Less than before: another connection of the same peer.
            if now < before { now } else { now - before }
        };
        let (down, up, wasted) = (
            since(peer.down, |peer| peer.down),
            since(peer.up, |peer| peer.up),
            since(peer.wasted, |peer| peer.wasted),
        );
        self.down += down;
        self.up += up;
        self.wasted += wasted;
        self.last = self.last.max(at);
        (self.incoming, self.protection) = (peer.incoming, peer.protection);
        let client = std::mem::take(&mut peer.client);
        if self.client != client {
            self.client = short(&client);
        }
        for part in span.parts() {
            if self.cells.len() <= part.bin {
                self.cells.resize(part.bin + 1, Cell::default());
            }
            let cell = &mut self.cells[part.bin];
            cell.down += part.of(down);
            cell.seen += part.time();
            match peer.doing {
                Doing::Idle => {}
                Doing::Asked => cell.asked += part.time(),
                Doing::Choking => cell.choked += part.time(),
                Doing::Stalling => cell.stalled += part.time(),
            }
        }
        let stalled = |peer: &PeerLook| peer.doing == Doing::Stalling;
        let begins = stalled(&peer) && !self.before.as_ref().is_some_and(stalled);
        self.stalls += u32::from(begins);
        self.before = Some(peer);
        begins
    }
}

impl Arrival {
    /// Which of these peers brought most of it.
    pub fn by(&self, rows: &[&Row]) -> Option<usize> {
        rows.iter().position(|row| Some(row.id) == self.peer)
    }
}

impl Total {
    fn merge(&mut self, other: &Self) {
        self.down += other.down;
        self.up += other.up;
        self.peers = self.peers.max(other.peers);
        self.phases.iter_mut().zip(other.phases).for_each(|(time, more)| *time += more);
    }
}

impl Cell {
    fn merge(&mut self, other: &Self) {
        self.down += other.down;
        self.seen += other.seen;
        self.asked += other.asked;
        self.choked += other.choked;
        self.stalled += other.stalled;
    }
}

/// Adds an arrival to a row whose last one is not later. Of two peers the one with more votes stays.
fn join(row: &mut Vec<Arrival>, next: Arrival) {
    let Some(last) = row.last_mut().filter(|last| last.bin >= next.bin) else { return row.push(next) };
    last.count += next.count;
    if last.peer == next.peer {
        last.votes += next.votes;
    } else if last.votes >= next.votes {
        last.votes -= next.votes;
    } else {
        (last.peer, last.votes) = (next.peer, next.votes - last.votes);
    }
}

/// Text from outside, not longer than it may be.
fn short(text: &str) -> String {
    let mut letters = text.chars();
    let mut short: String = letters.by_ref().take(TEXT).collect();
    if letters.next().is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests;
