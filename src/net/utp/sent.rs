//! What was sent and has not arrived yet, as far as we know: which packets are on the way, and which are lost.
//!
//! It owns them until the peer says that it has them. A packet counts as lost once three that were sent after it have
//! arrived, or when too long nothing was heard. It decides nothing about when to send.
//!
//! ```text
//!   first                                     next
//!     │ Lost │ Arrived │ Flying │ Arrived │ … │
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::wire::utp::{Kind, SelectiveAck};

/// So many packets that were sent later have to arrive before one is lost.
const OVERTAKEN: usize = 3;

/// Packets that have numbers and have not all arrived.
pub(super) struct Sent {
    /// The number of the first of them.
    first: u16,
    packets: VecDeque<Packet>,
    /// Payload bytes that are on the way.
    in_flight: u32,
    /// How many packets are lost and not sent again yet.
    lost: usize,
    /// How often anything was sent.
    sendings: u64,
}

struct Packet {
    kind: Kind,
    payload: Box<[u8]>,
    fate: Fate,
    /// When it was last sent, and as the how manieth of all.
    at: Instant,
    order: u64,
    /// It was sent more than once: an answer does not say to which time.
    again: bool,
    /// How many that were sent later have arrived.
    overtaken: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Flying,
    Lost,
    Arrived,
}

/// What an acknowledgement said that was new.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Acked {
    /// Packets and payload bytes that arrived.
    pub(super) packets: usize,
    pub(super) bytes: u32,
    /// How long the answer to the latest of them took, where that is known.
    pub(super) rtt: Option<Duration>,
    /// The number of the last packet that is lost, where any is, newly.
    pub(super) lost: Option<u16>,
}

impl Sent {
    /// Nothing yet; the first packet will have this number.
    pub(super) fn new(first: u16) -> Self {
        Self { first, packets: VecDeque::new(), in_flight: 0, lost: 0, sendings: 0 }
    }

    /// The number of the first packet that has not arrived.
    pub(super) fn first(&self) -> u16 {
        self.first
    }

    /// The number that the next new packet will have.
    pub(super) fn next(&self) -> u16 {
        self.first.wrapping_add(self.packets.len() as u16)
    }

    /// How many packets have not arrived, or have behind one that has not.
    pub(super) fn len(&self) -> usize {
        self.packets.len()
    }

    /// Payload bytes that are on the way.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Whether any packet is to be sent again.
    pub(super) fn has_lost(&self) -> bool {
        self.lost > 0
    }

    /// Takes charge of a new packet that is sent now.
    pub(super) fn push(&mut self, kind: Kind, payload: Box<[u8]>, now: Instant) {
        self.in_flight += payload.len() as u32;
        self.sendings += 1;
        let (fate, at, order) = (Fate::Flying, now, self.sendings);
        self.packets.push_back(Packet { kind, payload, fate, at, order, again: false, overtaken: 0 });
    }

    /// The first packet that is lost, which is sent again now where its payload is no longer than `room`: its number, kind
    /// and payload.
    pub(super) fn resend(&mut self, room: u32, now: Instant) -> Option<(u16, Kind, &[u8])> {
        if self.lost == 0 {
            return None;
        }
        let at = self.packets.iter().position(|packet| packet.fate == Fate::Lost)?;
        let packet = &mut self.packets[at];
        if packet.payload.len() > room as usize {
            return None;
        }
        self.lost -= 1;
        self.in_flight += packet.payload.len() as u32;
        self.sendings += 1;
        (packet.fate, packet.at, packet.order) = (Fate::Flying, now, self.sendings);
        (packet.again, packet.overtaken) = (true, 0);
        Some((self.first.wrapping_add(at as u16), packet.kind, &packet.payload))
    }

    /// Takes in that all packets up to `ack_nr` arrived, and those in `selective`. `None`: that cannot be.
    pub(super) fn ack(&mut self, ack_nr: u16, selective: SelectiveAck<'_>, now: Instant) -> Option<Acked> {
        let count = usize::from(ack_nr.wrapping_sub(self.first).wrapping_add(1));
        if count > self.packets.len() {
            // What it said before, again, or out of order.
            let behind = self.first.wrapping_sub(ack_nr).wrapping_sub(1);
            return (behind < 1 << 15).then(Acked::default);
        }
        let mut acked = Acked::default();
        let mut latest = None;
        for _ in 0..count {
            let Some(packet) = self.packets.front_mut() else { break };
            arrive(packet, &mut self.in_flight, &mut self.lost, &mut acked, &mut latest);
            self.packets.pop_front();
            self.first = self.first.wrapping_add(1);
        }
        let mut orders = Vec::new();
        let mut last = 0;
        for distance in selective.arrived() {
            // The first one is missing, else it would have been in `ack_nr`.
            let Some(packet) = self.packets.get_mut(usize::from(distance)) else { break };
            if packet.fate != Fate::Arrived {
                arrive(packet, &mut self.in_flight, &mut self.lost, &mut acked, &mut latest);
                orders.push(packet.order);
                last = usize::from(distance);
            }
        }
        if !orders.is_empty() {
            acked.lost = self.overtake(last, &orders);
        }
        acked.rtt = latest.filter(|(_, again)| !again).map(|(at, _)| now.saturating_duration_since(at));
        Some(acked)
    }

    /// Counts for all packets before the one in place `last` how many were sent later and have arrived, and says which is
    /// the last that is lost.
    fn overtake(&mut self, last: usize, orders: &[u64]) -> Option<u16> {
        let mut lost = None;
        for (at, packet) in self.packets.iter_mut().enumerate().take(last) {
            if packet.fate == Fate::Flying {
                packet.overtaken += orders.iter().filter(|order| **order > packet.order).count();
                if packet.overtaken >= OVERTAKEN {
                    packet.lose(&mut self.in_flight, &mut self.lost);
                    lost = Some(self.first.wrapping_add(at as u16));
                }
            }
        }
        lost
    }

    /// The first packet is lost: the peer says again and again that it lacks it. Says its number.
    pub(super) fn lose_first(&mut self) -> Option<u16> {
        let packet = self.packets.front_mut().filter(|packet| packet.fate == Fate::Flying)?;
        packet.lose(&mut self.in_flight, &mut self.lost);
        Some(self.first)
    }

    /// All that is on the way is lost.
    pub(super) fn lose_all(&mut self) {
        for packet in self.packets.iter_mut().filter(|packet| packet.fate == Fate::Flying) {
            packet.lose(&mut self.in_flight, &mut self.lost);
        }
    }
}

impl Packet {
    fn lose(&mut self, in_flight: &mut u32, lost: &mut usize) {
        self.fate = Fate::Lost;
        *in_flight -= self.payload.len() as u32;
        *lost += 1;
    }
}

/// Takes note of a packet that arrived, if that is new, and of the latest sent one of those: when, and whether again.
fn arrive(
    packet: &mut Packet,
    in_flight: &mut u32,
    lost: &mut usize,
    acked: &mut Acked,
    latest: &mut Option<(Instant, bool)>,
) {
    match packet.fate {
        Fate::Arrived => return,
        Fate::Flying => *in_flight -= packet.payload.len() as u32,
        Fate::Lost => *lost -= 1,
    }
    packet.fate = Fate::Arrived;
    acked.packets += 1;
    acked.bytes += packet.payload.len() as u32;
    if latest.is_none_or(|(at, _)| packet.at >= at) {
        *latest = Some((packet.at, packet.again));
    }
}
