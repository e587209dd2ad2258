//! What is said at the UDP port to who has no connection of uTP (BEP 29): no, at once.
//!
//! Clients that try uTP before TCP wait some seconds for an answer; a reset has them turn to TCP without delay. Only a
//! whole packet is answered, by no more bytes than it had, and each source draws only so many: nobody gains by having us
//! answer somebody else.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use crate::net::udp::Protocol;
use crate::policy::SourceLimits;
use crate::wire::utp::{HEADER_LEN, Header, Kind};

/// What each source may draw, in bytes a second: 5 answers, and 50 at once after a while.
const RATE: u32 = 5 * HEADER_LEN as u32;
/// Sets of places for sources: 16 KiB.
const SOURCES: usize = 256;
/// Answers that wait to be sent; what is more is let go of.
const QUEUED: usize = 256;

/// Answers to packets that belong to no connection.
pub(crate) struct Resets {
    limits: SourceLimits,
    /// The zero of our timestamps.
    born: Instant,
    out: VecDeque<(SocketAddr, [u8; HEADER_LEN])>,
}

impl Resets {
    /// `key` must not be guessable.
    pub(crate) fn new(key: [u64; 2], now: Instant) -> Self {
        Self { limits: SourceLimits::new(Some(RATE), SOURCES, key, now), born: now, out: VecDeque::new() }
    }

    /// Says that there is no connection.
    pub(super) fn answer(&mut self, from: SocketAddr, header: &Header, now: Instant) {
        if self.out.len() >= QUEUED || !self.limits.allows(from, now) {
            return;
        }
        self.limits.charge(from, HEADER_LEN, now);
        let timestamp = now.saturating_duration_since(self.born).as_micros() as u32;
        let reset = Header {
            kind: Kind::Reset,
            connection_id: header.connection_id,
            timestamp,
            difference: timestamp.wrapping_sub(header.timestamp),
            window: 0,
            seq_nr: 0,
            ack_nr: header.seq_nr,
        };
        self.out.push_back((from, reset.encode()));
    }

    /// Appends the next answer to `out`, and says for whom it is.
    pub(super) fn poll_transmit(&mut self, out: &mut Vec<u8>) -> Option<SocketAddr> {
        let (to, reset) = self.out.pop_front()?;
        out.extend(reset);
        Some(to)
    }
}

/// Refuses every connection, and says nothing else.
pub(crate) struct Refusal(pub(crate) Resets);

impl Protocol for Refusal {
    fn claims(&self, first: u8) -> bool {
        Header::begins_with(first)
    }

    fn handle_datagram(&mut self, from: SocketAddr, bytes: &[u8], now: Instant) {
        if let Ok(header @ Header { kind: Kind::Syn, .. }) = Header::decode(bytes) {
            self.0.answer(from, &header, now);
        }
    }

    fn handle_wake(&mut self, _: Instant) {}

    fn handle_timeout(&mut self, _: Instant) {}

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn poll_transmit(&mut self, _: Instant, out: &mut Vec<u8>) -> Option<SocketAddr> {
        self.0.poll_transmit(out)
    }

    fn handle_end(&mut self, _: Instant) {}
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn peer(number: u8) -> SocketAddr {
        SocketAddr::from(([11, 0, 0, number], 6881))
    }

    fn syn(connection_id: u16) -> Header {
        Header { kind: Kind::Syn, connection_id, timestamp: 77, difference: 0, window: 1, seq_nr: 9, ack_nr: 0 }
    }

    fn answers(refusal: &mut Refusal) -> Vec<(SocketAddr, Header)> {
        let next = || {
            let mut bytes = Vec::new();
            let to = refusal.poll_transmit(Instant::now(), &mut bytes)?;
            Some((to, Header::decode(&bytes).unwrap()))
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn who_asks_for_a_connection_is_told_at_once_that_there_is_none() {
        let now = Instant::now();
        let mut refusal = Refusal(Resets::new([1, 2], now));
        refusal.handle_datagram(peer(1), &syn(0x1234).encode(), now + Duration::from_micros(100));
        let reset = Header {
            kind: Kind::Reset,
            connection_id: 0x1234,
            timestamp: 100,
            difference: 23,
            window: 0,
            seq_nr: 0,
            ack_nr: 9,
        };
        assert_eq!(answers(&mut refusal), [(peer(1), reset)]);
    }

    #[test]
    fn nothing_else_is_answered() {
        let now = Instant::now();
        let mut refusal = Refusal(Resets::new([1, 2], now));
        for kind in [Kind::Data, Kind::Fin, Kind::State, Kind::Reset] {
            refusal.handle_datagram(peer(1), &Header { kind, ..syn(1) }.encode(), now);
        }
        refusal.handle_datagram(peer(1), &syn(1).encode()[..HEADER_LEN - 1], now);
        refusal.handle_datagram(peer(1), b"\x41", now);
        assert_eq!(answers(&mut refusal), []);
    }

    #[test]
    fn an_answer_is_no_longer_than_the_question_and_a_source_draws_only_so_many() {
        let now = Instant::now();
        let mut refusal = Refusal(Resets::new([1, 2], now));
        let mut asked = 0;
        let mut answered = 0;
        for id in 0..1000 {
            let packet = syn(id).encode();
            refusal.handle_datagram(peer(1), &packet, now);
            asked += packet.len();
            answered += HEADER_LEN * answers(&mut refusal).len();
        }
        assert_eq!(answered, 51 * HEADER_LEN, "of {asked} bytes");
        refusal.handle_datagram(peer(2), &syn(1).encode(), now);
        assert_eq!(answers(&mut refusal).len(), 1, "others have their own");
        refusal.handle_datagram(peer(1), &syn(1).encode(), now + Duration::from_secs(1));
        assert_eq!(answers(&mut refusal).len(), 1, "later it is answered again");
    }

    #[test]
    fn what_waits_to_be_sent_is_bounded() {
        let now = Instant::now();
        let mut refusal = Refusal(Resets::new([1, 2], now));
        for number in 0..u32::from(u16::MAX) {
            let from = SocketAddr::from((std::net::Ipv4Addr::from_bits(0x0b00_0000 + number), 1));
            refusal.handle_datagram(from, &syn(1).encode(), now);
        }
        assert_eq!(answers(&mut refusal).len(), QUEUED);
    }
}
