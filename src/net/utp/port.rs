//! All connections of uTP at the UDP port: which packet is for which, and which of them has something to send.
//!
//! It owns the connections. Calls from elsewhere it answers; once a caller has shown that it hears us, it is handed on. It
//! is one of the machines that the thread `udp` drives.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Sender;

use super::connection::Connection;
use super::ends::Ends;
use super::pipe::{Bell, Pipe, UtpStream};
use super::refusal::Resets;
use crate::net::udp::Protocol;
use crate::policy::SourceLimits;
use crate::wire::utp::{HEADER_LEN, Header, Kind, Packet};

/// Callers that were answered and have not said anything yet.
pub(super) const CALLERS: usize = 256;
/// What each source may draw in answers to calls, in bytes a second: 50 of them, and 500 at once after a while. They are
/// no longer than calls.
const ANSWERS: u32 = 50 * HEADER_LEN as u32;
/// Sets of places for sources: 16 KiB.
const SOURCES: usize = 256;
/// Packets that a connection sends before it is the next one's turn: about as many as go by one call.
const TURN: usize = 48;
/// Connections over all.
const MOST: usize = 10_000;
/// Payload bytes that wait for others before them, of all connections; beyond, each may keep so many.
const EARLY_BYTES: usize = 32 << 20;
const EARLY_EACH: usize = 64 << 10;

/// The connections.
pub(crate) struct Connections {
    connections: HashMap<u64, Entry>,
    /// By whom a packet is from and its id.
    by_id: HashMap<(SocketAddr, u16), u64>,
    /// When something is due, and of which.
    due: BTreeSet<(Instant, u64)>,
    /// Which were used or heard of since the last lull, each once: their users are to be woken, and their moments noted.
    touched: Vec<u64>,
    /// Which may have something to send, each once.
    busy: VecDeque<u64>,
    /// How many packets the first of those has sent in its turn.
    in_turn: usize,
    /// A reset was sent before this turn.
    has_reset: bool,
    /// Those that wait for their first word, the oldest first.
    callers: BTreeSet<u64>,
    early_bytes: usize,
    bell: Arc<Bell>,
    /// Where callers are handed on; `None` where nobody takes any in.
    calls: Option<Sender<(UtpStream, SocketAddr)>>,
    resets: Resets,
    /// What each caller may draw in answers.
    answers: SourceLimits,
    /// What the numbers in answers are made with.
    numbers: RandomState,
}

struct Entry {
    connection: Connection,
    pipe: Arc<Pipe>,
    /// A caller that was not handed on yet: dropped, it is closed.
    caller: Option<UtpStream>,
    /// As in `due`.
    due: Option<Instant>,
    /// As in `touched`.
    is_touched: bool,
    /// As in `busy`.
    is_busy: bool,
    early_bytes: usize,
}

impl Connections {
    pub(super) fn new(bell: Arc<Bell>, calls: Option<Sender<(UtpStream, SocketAddr)>>, key: [u64; 2]) -> Self {
        let now = Instant::now();
        Self {
            connections: HashMap::new(),
            by_id: HashMap::new(),
            due: BTreeSet::new(),
            touched: Vec::new(),
            busy: VecDeque::new(),
            in_turn: 0,
            has_reset: false,
            callers: BTreeSet::new(),
            early_bytes: 0,
            bell,
            calls,
            resets: Resets::new(key, now),
            answers: SourceLimits::new(Some(ANSWERS), SOURCES, key, now),
            numbers: RandomState::new(),
        }
    }

    /// How many connections there are, and how many of them have not spoken yet.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> [usize; 2] {
        assert!(self.by_id.len() == self.connections.len() && self.due.len() <= self.connections.len());
        [self.connections.len(), self.callers.len()]
    }

    /// The number of the next new packet to a peer, by our id.
    #[cfg(test)]
    pub(super) fn next_number(&self, from: SocketAddr, id: u16) -> u16 {
        self.connections[&self.by_id[&(from, id)]].connection.next_number()
    }

    /// The connection that a packet is for.
    fn find(&self, from: SocketAddr, header: &Header) -> Option<u64> {
        let id = header.connection_id;
        match header.kind {
            // The id in it is that of the answers.
            Kind::Syn => self.by_id.get(&(from, id.wrapping_add(1))).copied(),
            // It may repeat the id of what it answers, which is that of the peer.
            Kind::Reset => [id, id.wrapping_sub(1), id.wrapping_add(1)].into_iter().find_map(|ours| {
                let number = *self.by_id.get(&(from, ours))?;
                let connection = &self.connections.get(&number)?.connection;
                [connection.receive_id, connection.send_id].contains(&id).then_some(number)
            }),
            _ => self.by_id.get(&(from, id)).copied(),
        }
    }

    /// Answers a caller, where there is room for one.
    fn answer(&mut self, from: SocketAddr, syn: &Header, now: Instant) {
        if self.calls.is_none() {
            return self.resets.answer(from, syn, now);
        }
        if self.connections.len() >= MOST || !self.answers.allows(from, now) {
            return;
        }
        self.answers.charge(from, HEADER_LEN, now);
        if self.callers.len() >= CALLERS
            && let Some(oldest) = self.callers.first().copied()
        {
            // Whoever means it has spoken before so many others came.
            self.remove(oldest);
        }
        let pipe = Pipe::new(from, &self.bell);
        // Not to be guessed: it is how a caller shows that it hears us.
        let connection = Connection::answer(syn, self.numbers.hash_one(pipe.number) as u16, now);
        self.callers.insert(pipe.number);
        let caller = Some(UtpStream::new(Arc::clone(&pipe)));
        self.insert(pipe, connection, caller, now);
    }

    fn call(&mut self, pipe: Arc<Pipe>, now: Instant) {
        let addr = pipe.addr;
        // A few tries find one that is free; where none does, an older connection to there breaks.
        let ids = std::iter::repeat_with(|| fastrand::u16(..u16::MAX)).take(16);
        let id = ids.into_iter().find(|id| !self.by_id.contains_key(&(addr, *id))).unwrap_or_default();
        let connection = Connection::call(id, fastrand::u16(..), now);
        self.insert(pipe, connection, None, now);
    }

    fn insert(&mut self, pipe: Arc<Pipe>, connection: Connection, caller: Option<UtpStream>, now: Instant) {
        let number = pipe.number;
        self.by_id.insert((pipe.addr, connection.receive_id), number);
        let entry = Entry { connection, pipe, caller, due: None, is_touched: false, is_busy: false, early_bytes: 0 };
        self.connections.insert(number, entry);
        self.touch(number, now, |_, _| ());
    }

    /// Does something with a connection, and has it polled afterwards.
    fn touch(&mut self, number: u64, now: Instant, act: impl FnOnce(&mut Connection, &mut Ends)) {
        let Some(entry) = self.connections.get_mut(&number) else { return };
        let early_bytes = {
            let mut middle = entry.pipe.lock();
            middle.answer_bell();
            act(&mut entry.connection, &mut middle.ends);
            entry.connection.handle_use(&mut middle.ends, now);
            middle.ends.early
        };
        self.early_bytes = self.early_bytes + early_bytes - entry.early_bytes;
        entry.early_bytes = early_bytes;
        if !std::mem::replace(&mut entry.is_busy, true) {
            self.busy.push_back(number);
        }
        if !std::mem::replace(&mut entry.is_touched, true) {
            self.touched.push(number);
        }
        if entry.connection.is_open()
            && let Some(caller) = entry.caller.take()
        {
            self.callers.remove(&number);
            // Where too many wait to be taken in, it is dropped, and thereby closed.
            let _ = self.calls.as_ref().map(|calls| calls.try_send((caller, entry.pipe.addr)));
        }
    }

    /// Wakes those who use a connection, and notes when something is due.
    fn settle(&mut self, number: u64) {
        let Some(entry) = self.connections.get_mut(&number) else { return };
        entry.is_touched = false;
        let due = entry.connection.poll_timeout();
        if entry.due != due {
            entry.due.map(|due| self.due.remove(&(due, number)));
            due.map(|due| self.due.insert((due, number)));
            entry.due = due;
        }
        entry.pipe.notify(entry.connection.appetite());
        if entry.connection.is_over() {
            self.remove(number);
        }
    }

    fn remove(&mut self, number: u64) {
        let Some(entry) = self.connections.remove(&number) else { return };
        entry.due.map(|due| self.due.remove(&(due, number)));
        let id = (entry.pipe.addr, entry.connection.receive_id);
        if self.by_id.get(&id) == Some(&number) {
            self.by_id.remove(&id);
        }
        self.early_bytes -= entry.early_bytes;
        self.callers.remove(&number);
    }
}

impl Protocol for Connections {
    fn claims(&self, first: u8) -> bool {
        Header::begins_with(first)
    }

    fn handle_datagram(&mut self, from: SocketAddr, bytes: &[u8], now: Instant) {
        let Ok(packet) = Packet::decode(bytes) else { return };
        match self.find(from, &packet.header) {
            Some(number) => {
                let early_room = if self.early_bytes < EARLY_BYTES { usize::MAX } else { EARLY_EACH };
                self.touch(number, now, |connection, ends| connection.handle_packet(&packet, early_room, ends, now));
            }
            None if packet.header.kind == Kind::Syn => self.answer(from, &packet.header, now),
            None if packet.header.kind == Kind::Reset => {}
            None => self.resets.answer(from, &packet.header, now),
        }
    }

    fn handle_wake(&mut self, now: Instant) {
        let news = self.bell.take();
        news.calls.into_iter().for_each(|pipe| self.call(pipe, now));
        news.used.into_iter().for_each(|number| self.touch(number, now, |_, _| ()));
    }

    fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, number)) = self.due.first().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, number));
            if let Some(entry) = self.connections.get_mut(&number) {
                entry.due = None;
            }
            self.touch(number, now, |connection, ends| connection.handle_timeout(ends, now));
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<SocketAddr> {
        // One between two turns: whoever draws many holds up nobody.
        if self.in_turn == 0
            && !std::mem::take(&mut self.has_reset)
            && let Some(to) = self.resets.poll_transmit(out)
        {
            self.has_reset = !self.busy.is_empty();
            return Some(to);
        }
        while let Some(number) = self.busy.pop_front() {
            let Some(entry) = self.connections.get_mut(&number) else { continue };
            let has_sent = entry.connection.poll_transmit(&mut entry.pipe.lock().ends, now, out);
            if !std::mem::replace(&mut entry.is_touched, true) {
                self.touched.push(number);
            }
            if has_sent {
                let to = entry.pipe.addr;
                self.in_turn += 1;
                if self.in_turn < TURN {
                    self.busy.push_front(number);
                } else {
                    self.in_turn = 0;
                    self.busy.push_back(number);
                }
                return Some(to);
            }
            self.in_turn = 0;
            entry.is_busy = false;
        }
        self.resets.poll_transmit(out)
    }

    fn handle_lull(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        touched.drain(..).for_each(|number| self.settle(number));
        // The memory serves again.
        self.touched = touched;
    }

    fn handle_end(&mut self, now: Instant) {
        let news = self.bell.end();
        // A connection that is to be made will not be.
        news.calls.iter().for_each(|pipe| pipe.close());
        let numbers: Vec<_> = self.connections.keys().copied().collect();
        for number in numbers {
            self.touch(number, now, |connection, ends| connection.abort(ends));
        }
        // Whoever waits does not wait for what is sent still.
        self.connections.values().for_each(|entry| entry.pipe.notify(0));
    }
}
