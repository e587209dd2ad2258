//! One connection of uTP (BEP 29): a sans-IO machine.
//!
//! It owns the order of packets, what is sent again, and when. The bytes of the stream it takes from and puts into [`Ends`],
//! which somebody else reads and writes. It holds no socket, thread or clock.
//!
//! ```text
//! Calling ── answer ──▶ Open ── both ends are closed, or nobody answers ──▶ Ended
//! Called ── first bytes ─▲
//! ```

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use super::ends::{Ends, Status, move_out};
use super::ledbat::Ledbat;
use super::received::{Received, Room};
use super::rtt::Rtt;
use super::sent::{Acked, Sent};
use crate::wire::utp::{HEADER_LEN, Header, Kind, Packet, SelectiveAck};

/// The payload of a full packet. With the headers of uTP, UDP and IPv6 it is 1280 bytes, which every path of IPv6 carries,
/// and nearly every other.
pub(super) const PAYLOAD: usize = 1280 - 40 - 8 - HEADER_LEN;
/// Packets that have not arrived, at the most: others keep room for 511 that come out of order.
const UNACKED: usize = 500;
/// How often in a row nobody has to answer until the connection is given up: half a minute.
const TIMEOUTS: u32 = 6;
/// The same once our end is closed.
const LAST_TIMEOUTS: u32 = 3;
/// How often the peer has to say that it lacks a packet until that is lost.
const REPEATED: u32 = 3;
/// How long we are silent before we say that we are there, so that gateways on the way do not forget us.
const KEEP_ALIVE: Duration = Duration::from_secs(29);
/// A caller that says nothing for this long after we answered is given up.
const CALLED: Duration = Duration::from_secs(10);
/// How long we try to get out what was written before our end was closed.
const LINGER: Duration = Duration::from_secs(20);
/// A reset answers something that we sent within so many packets.
const RECENT: u16 = 4096;

/// A connection.
pub(super) struct Connection {
    phase: Phase,
    /// The id in packets to us, and in ours.
    pub(super) receive_id: u16,
    pub(super) send_id: u16,
    /// The zero of our timestamps.
    born: Instant,
    sent: Sent,
    /// The number of the first packet with bytes of ours.
    first: u16,
    received: Received,
    rtt: Rtt,
    ledbat: Ledbat,
    /// Room that the peer says it has, in bytes.
    peer_window: usize,
    /// How much later the peer's latest packet came than it was sent, by two clocks.
    difference: u32,
    /// The peer is to be told what arrived.
    owes_ack: bool,
    /// A packet goes although the peer has no room: to see whether it has.
    probes: bool,
    /// How often in a row it said nothing new.
    repeated: u32,
    /// Up to this number losses are of one occasion.
    recovery: Option<u16>,
    fin_sent: bool,
    /// When the answer to what is on the way is late.
    late: Option<Instant>,
    /// When we last sent anything.
    spoke: Instant,
    /// When it is given up: the caller that said nothing yet, or what cannot be got out.
    give_up: Option<Instant>,
    /// The peer is to be told that it is over.
    owes_reset: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Calling,
    Called,
    Open,
    Ended,
}

impl Connection {
    /// Calls somebody, once: whoever has answered already would take a second time for somebody else. Both numbers should be
    /// random.
    pub(super) fn call(receive_id: u16, seq_nr: u16, now: Instant) -> Self {
        Self::new(Phase::Calling, receive_id, receive_id.wrapping_add(1), seq_nr, 0, now)
    }

    /// Answers a caller. `seq_nr` should be random: who knows it has received our answer.
    pub(super) fn answer(syn: &Header, seq_nr: u16, now: Instant) -> Self {
        let (receive_id, send_id) = (syn.connection_id.wrapping_add(1), syn.connection_id);
        let mut connection = Self::new(Phase::Called, receive_id, send_id, seq_nr, syn.seq_nr, now);
        connection.peer_window = syn.window as usize;
        connection.hear(syn, now);
        connection.owes_ack = true;
        connection.give_up = Some(now + CALLED);
        connection
    }

    fn new(phase: Phase, receive_id: u16, send_id: u16, seq_nr: u16, ack_nr: u16, now: Instant) -> Self {
        Self {
            phase,
            receive_id,
            send_id,
            born: now,
            sent: Sent::new(seq_nr),
            // A call has a number of its own.
            first: seq_nr.wrapping_add(u16::from(phase == Phase::Calling)),
            received: Received::new(ack_nr),
            rtt: Rtt::default(),
            ledbat: Ledbat::new(PAYLOAD as u32),
            peer_window: PAYLOAD,
            difference: 0,
            owes_ack: false,
            probes: false,
            repeated: 0,
            recovery: None,
            fin_sent: false,
            late: None,
            spoke: now,
            give_up: None,
            owes_reset: false,
        }
    }

    /// Whether it is over and nothing is to be sent any more.
    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Ended && !self.owes_reset && !self.owes_ack
    }

    /// Whether the peer has shown that it hears us.
    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// The number of the next new packet.
    #[cfg(test)]
    pub(super) fn next_number(&self) -> u16 {
        self.sent.next()
    }

    /// How many bytes are worth having ready to be sent.
    pub(super) fn appetite(&self) -> usize {
        self.ledbat.window() as usize
    }

    /// Takes in a packet for this connection. `early_room`: how many bytes may wait for others before them.
    pub(super) fn handle_packet(&mut self, packet: &Packet<'_>, early_room: usize, ends: &mut Ends, now: Instant) {
        let header = &packet.header;
        match (self.phase, header.kind) {
            (Phase::Ended, _) => {}
            (_, Kind::Reset) => self.handle_reset(header, ends),
            // Our answer was lost; or it is somebody else who chose the same id.
            (Phase::Called | Phase::Open, Kind::Syn) => self.owes_ack |= self.phase == Phase::Called,
            // Bytes that overtook the answer come again.
            (Phase::Calling, Kind::Syn | Kind::Data) => {}
            // Some say no in this way.
            (Phase::Calling, Kind::Fin) => self.end(ends, ErrorKind::ConnectionRefused),
            (Phase::Calling, Kind::State) => {
                if header.ack_nr == self.sent.next().wrapping_sub(1) {
                    // The number of the first packet to come: an answer has none of its own.
                    self.received = Received::new(header.seq_nr.wrapping_sub(1));
                    self.open(ends);
                    self.handle(packet, early_room, ends, now);
                }
            }
            (Phase::Called, _) => {
                // Who has not received our answer cannot know its number.
                if header.kind != Kind::State && header.ack_nr == self.sent.next().wrapping_sub(1) {
                    self.open(ends);
                    self.handle(packet, early_room, ends, now);
                }
            }
            (Phase::Open, _) => self.handle(packet, early_room, ends, now),
        }
    }

    fn handle_reset(&mut self, header: &Header, ends: &mut Ends) {
        // Whoever sends one has seen a packet of ours.
        if self.sent.next().wrapping_sub(header.ack_nr) <= RECENT {
            let refused = self.phase == Phase::Calling;
            self.end(ends, if refused { ErrorKind::ConnectionRefused } else { ErrorKind::ConnectionReset });
        }
    }

    fn open(&mut self, ends: &mut Ends) {
        self.phase = Phase::Open;
        self.give_up = None;
        ends.status = Status::Open;
    }

    fn handle(&mut self, packet: &Packet<'_>, early_room: usize, ends: &mut Ends, now: Instant) {
        let header = &packet.header;
        let before = self.sent.in_flight();
        let Some(acked) = self.sent.ack(header.ack_nr, packet.selective, now) else { return };
        self.hear(header, now);
        // Up to which number all has arrived, as far as we know; less is an old packet.
        let is_latest = header.ack_nr == self.sent.first().wrapping_sub(1);
        let peer_window = if is_latest { header.window as usize } else { self.peer_window };
        let is_repetition = is_latest
            && header.kind == Kind::State
            && packet.selective == SelectiveAck::default()
            && peer_window == self.peer_window;
        self.peer_window = peer_window;
        // Whoever has no room takes nothing in, and is there.
        if acked.packets > 0 || is_latest && peer_window < PAYLOAD {
            self.rtt.handle_answer();
        }
        if acked.packets > 0 {
            self.handle_ack(&acked, header.difference, before, now);
        } else if is_repetition && self.sent.len() > 0 {
            self.repeated += 1;
            if self.repeated == REPEATED {
                let lost = self.sent.lose_first();
                self.lose(lost);
            }
        }
        if matches!(header.kind, Kind::Data | Kind::Fin) {
            self.receive(packet, early_room, ends);
        }
        if self.fin_sent && self.sent.len() == 0 {
            // What came last is acknowledged still.
            let owes_ack = self.owes_ack;
            self.end(ends, ErrorKind::BrokenPipe);
            self.owes_ack = owes_ack;
        }
    }

    fn hear(&mut self, header: &Header, now: Instant) {
        self.difference = self.clock(now).wrapping_sub(header.timestamp);
    }

    fn handle_ack(&mut self, acked: &Acked, sample: u32, before: u32, now: Instant) {
        self.repeated = 0;
        if let Some(rtt) = acked.rtt {
            self.rtt.handle_sample(rtt);
        }
        // Some say this where they know none.
        if sample != 0 && sample != i32::MAX as u32 {
            self.ledbat.handle_sample(sample, now);
        }
        if acked.lost.is_some() {
            self.lose(acked.lost);
        } else {
            self.ledbat.handle_ack(acked.bytes, acked.rtt, before + PAYLOAD as u32 >= self.ledbat.window());
        }
        // Forgotten in time: numbers come again.
        self.recovery = self.recovery.filter(|recovery| (self.sent.first().wrapping_sub(*recovery) as i16) <= 0);
        self.late = (self.sent.len() > 0).then(|| now + self.rtt.timeout());
    }

    /// Yields once for all that was on the way together.
    fn lose(&mut self, lost: Option<u16>) {
        let Some(lost) = lost else { return };
        if self.recovery.is_none_or(|recovery| (lost.wrapping_sub(recovery) as i16) > 0) {
            self.recovery = Some(self.sent.next().wrapping_sub(1));
            self.ledbat.handle_loss();
        }
    }

    fn receive(&mut self, packet: &Packet<'_>, early_room: usize, ends: &mut Ends) {
        let Header { kind, seq_nr, .. } = packet.header;
        let is_fin = kind == Kind::Fin;
        self.owes_ack = true;
        let room = Room { all: ends.room(), early: if ends.closed { 0 } else { early_room } };
        self.received.take(seq_nr, packet.payload, is_fin, room, &mut ends.incoming);
        if ends.closed {
            ends.incoming.clear();
        }
        ends.early = self.received.early_bytes();
        if self.received.is_over() && ends.status == Status::Open {
            ends.status = Status::Finished;
        }
    }

    /// Takes note that whoever uses the connection read, wrote or closed its end.
    pub(super) fn handle_use(&mut self, ends: &mut Ends, now: Instant) {
        if ends.closed {
            match self.phase {
                // Nothing was said: nothing is owed.
                Phase::Open if self.sent.next() == self.first && ends.outgoing.is_empty() => self.abort(ends),
                Phase::Open => _ = self.give_up.get_or_insert(now + LINGER),
                Phase::Calling | Phase::Called => self.abort(ends),
                Phase::Ended => {}
            }
            self.received.forget_early();
            ends.early = 0;
        }
        if ends.has_news() {
            self.owes_ack |= self.phase == Phase::Open;
        }
    }

    /// Ends it without ceremony.
    pub(super) fn abort(&mut self, ends: &mut Ends) {
        if self.phase != Phase::Ended {
            // A caller that may be made up is sent no more than it was.
            self.owes_reset = self.phase != Phase::Called;
            self.end(ends, ErrorKind::ConnectionAborted);
        }
    }

    fn end(&mut self, ends: &mut Ends, why: ErrorKind) {
        self.phase = Phase::Ended;
        (self.late, self.give_up, self.owes_ack) = (None, None, false);
        (ends.outgoing, ends.is_gone) = (VecDeque::new(), true);
        if ends.status != Status::Finished {
            ends.status = Status::Broken(why);
        }
    }

    /// When something is due next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let keep_alive = (self.phase == Phase::Open).then(|| self.spoke + KEEP_ALIVE);
        [self.late, self.give_up, keep_alive].into_iter().flatten().min()
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, ends: &mut Ends, now: Instant) {
        if self.give_up.is_some_and(|at| at <= now) {
            self.abort(ends);
        }
        if self.late.is_some_and(|at| at <= now) {
            self.late = None;
            self.rtt.handle_timeout();
            if self.rtt.timeouts() > if ends.closed { LAST_TIMEOUTS } else { TIMEOUTS } {
                self.owes_reset = self.phase == Phase::Open;
                self.end(ends, ErrorKind::TimedOut);
                return;
            }
            if self.sent.len() > 0 {
                self.sent.lose_all();
                self.recovery = Some(self.sent.next().wrapping_sub(1));
                self.ledbat.handle_timeout();
            } else {
                self.probes = true;
            }
        }
        if self.phase == Phase::Open && now.saturating_duration_since(self.spoke) >= KEEP_ALIVE {
            self.owes_ack = true;
        }
    }

    /// Appends the next packet to send to `out`. `false`: there is none now.
    pub(super) fn poll_transmit(&mut self, ends: &mut Ends, now: Instant, out: &mut Vec<u8>) -> bool {
        if ends.closed && self.give_up.is_none() {
            // Closed since it was last looked at.
            self.handle_use(ends, now);
        }
        let told = ends.free_room();
        let sent = self.poll_reset(out, now) || self.poll_packet(ends, told, now, out) || self.poll_ack(told, now, out);
        if sent {
            self.spoke = now;
            ends.told = told;
        }
        sent
    }

    fn poll_reset(&mut self, out: &mut Vec<u8>, now: Instant) -> bool {
        let owed = std::mem::take(&mut self.owes_reset);
        if owed {
            out.extend(self.header(Kind::Reset, self.sent.next(), 0, now).encode());
        }
        owed
    }

    /// A packet that has a number.
    fn poll_packet(&mut self, ends: &mut Ends, told: usize, now: Instant, out: &mut Vec<u8>) -> bool {
        if matches!(self.phase, Phase::Called | Phase::Ended) {
            return false;
        }
        let idle = self.sent.in_flight() == 0;
        let room = self.ledbat.window().saturating_sub(self.sent.in_flight());
        // One packet is always allowed, else there would be no answer.
        let resend_room = if idle { u32::MAX } else { room };
        let header = self.header(Kind::Data, 0, told, now);
        if let Some((seq_nr, kind, payload)) = self.sent.resend(resend_room, now) {
            let header = Header { kind, seq_nr, ..header };
            Packet { header, selective: SelectiveAck::default(), payload }.encode_into(out);
            self.late.get_or_insert(now + self.rtt.timeout());
        } else {
            let Some((kind, payload)) = self.next(ends, room, now) else { return false };
            let connection_id = if kind == Kind::Syn { self.receive_id } else { self.send_id };
            let header = Header { kind, seq_nr: self.sent.next(), connection_id, ..header };
            Packet { header, selective: SelectiveAck::default(), payload: &payload }.encode_into(out);
            self.sent.push(kind, payload, now);
            if kind == Kind::Syn {
                return true;
            }
            // With nothing on the way, it was the moment to try a peer without room.
            let is_only_one = self.sent.len() == 1;
            let late = self.late.filter(|_| !is_only_one);
            self.late = late.or(Some(now + self.rtt.timeout()));
        }
        self.probes = false;
        // What is early is told by a packet of its own.
        self.owes_ack &= self.received.is_missing_some();
        true
    }

    /// What comes next in the stream, where it may be sent.
    fn next(&mut self, ends: &mut Ends, room: u32, now: Instant) -> Option<(Kind, Box<[u8]>)> {
        if self.phase == Phase::Calling {
            return (self.sent.len() == 0).then(|| (Kind::Syn, Box::default()));
        }
        if self.phase != Phase::Open || self.sent.has_lost() || self.fin_sent || self.sent.len() >= UNACKED {
            return None;
        }
        if ends.outgoing.is_empty() {
            self.fin_sent = ends.closed;
            return ends.closed.then(|| (Kind::Fin, Box::default()));
        }
        let len = ends.outgoing.len().min(PAYLOAD);
        let in_flight = self.sent.in_flight() as usize;
        if in_flight + len > self.peer_window && !self.probes {
            if self.sent.len() == 0 {
                // Nothing else would bring an answer.
                self.late.get_or_insert(now + self.rtt.timeout());
            }
            return None;
        }
        (len <= room as usize || in_flight == 0).then(|| {
            let mut payload = vec![0; len];
            move_out(&mut ends.outgoing, &mut payload);
            (Kind::Data, payload.into())
        })
    }

    fn poll_ack(&mut self, told: usize, now: Instant, out: &mut Vec<u8>) -> bool {
        let owed = std::mem::take(&mut self.owes_ack);
        if owed {
            let header = self.header(Kind::State, self.sent.next(), told, now);
            let bits = self.received.selective();
            Packet { header, selective: SelectiveAck::new(&bits), payload: &[] }.encode_into(out);
        }
        owed
    }

    fn header(&self, kind: Kind, seq_nr: u16, window: usize, now: Instant) -> Header {
        Header {
            kind,
            connection_id: self.send_id,
            timestamp: self.clock(now),
            difference: self.difference,
            window: u32::try_from(window).unwrap_or(u32::MAX),
            seq_nr,
            ack_nr: self.received.last(),
        }
    }

    /// Our time, in microseconds.
    fn clock(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.born).as_micros() as u32
    }
}
