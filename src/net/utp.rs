//! What is said at the UDP port to who calls by uTP (BEP 29), which ropewalk does not speak: no, at once.
//!
//! Clients that try uTP before TCP wait some seconds for an answer; a reset has them turn to TCP without delay. Only a
//! whole packet that asks for a connection is answered, by fewer bytes than it had or as many, and each source draws only
//! so many: nobody gains by having us answer somebody else.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use super::udp::Protocol;
use crate::policy::SourceLimits;
use crate::wire::utp::{HEADER_LEN, Header, Kind};

/// What each source may draw, in bytes a second: 5 answers, and 50 at once after a while.
const RATE: u32 = 5 * HEADER_LEN as u32;
/// Sets of places for sources: 16 KiB.
const SOURCES: usize = 256;
/// Answers that wait to be sent; what is more is let go of.
const QUEUED: usize = 256;

/// Refuses every connection.
pub(crate) struct Refusal {
    limits: SourceLimits,
    /// The zero of our timestamps.
    born: Instant,
    out: VecDeque<(SocketAddr, [u8; HEADER_LEN])>,
}

impl Refusal {
    /// `key` must not be guessable.
    pub(crate) fn new(key: [u64; 2], now: Instant) -> Self {
        Self { limits: SourceLimits::new(Some(RATE), SOURCES, key, now), born: now, out: VecDeque::new() }
    }
}

impl Protocol for Refusal {
    fn claims(&self, first: u8) -> bool {
        Header::begins_with(first)
    }

    fn handle_datagram(&mut self, from: SocketAddr, bytes: &[u8], now: Instant) {
        let Ok(header) = Header::decode(bytes) else { return };
        if header.kind != Kind::Syn || self.out.len() >= QUEUED || !self.limits.allows(from, now) {
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

    fn handle_wake(&mut self, _: Instant) {}

    fn handle_timeout(&mut self, _: Instant) {}

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.out.pop_front().map(|(to, reset)| (to, reset.to_vec()))
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
        let next = || refusal.poll_transmit();
        std::iter::from_fn(next).map(|(to, bytes)| (to, Header::decode(&bytes).unwrap())).collect()
    }

    #[test]
    fn who_asks_for_a_connection_is_told_at_once_that_there_is_none() {
        let now = Instant::now();
        let mut refusal = Refusal::new([1, 2], now);
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
        let mut refusal = Refusal::new([1, 2], now);
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
        let mut refusal = Refusal::new([1, 2], now);
        let mut asked = 0;
        let mut answered = 0;
        for id in 0..1000 {
            let packet = syn(id).encode();
            refusal.handle_datagram(peer(1), &packet, now);
            asked += packet.len();
            answered += std::iter::from_fn(|| refusal.poll_transmit()).map(|(_, bytes)| bytes.len()).sum::<usize>();
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
        let mut refusal = Refusal::new([1, 2], now);
        for number in 0..u32::from(u16::MAX) {
            let from = SocketAddr::from((std::net::Ipv4Addr::from_bits(0x0b00_0000 + number), 1));
            refusal.handle_datagram(from, &syn(1).encode(), now);
        }
        assert_eq!(answers(&mut refusal).len(), QUEUED);
    }
}
