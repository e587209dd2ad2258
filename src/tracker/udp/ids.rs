//! Connection ids (BEP 15) that nobody has to remember: each is a keyed hash of who asked and when.
//!
//! ```text
//! 63..8  the upper bits of SipHash-2-4 of the address and the minute
//!  7..0  the lower bits of the minute
//! ```

use std::hash::Hasher;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// An id is valid in the slot of time in which it was given, and in the next: for two minutes at most, one at least.
const SLOT: Duration = Duration::from_secs(60);

/// Gives ids, and knows them again.
///
/// An id is bound to an address without the port: behind some NATs the next packet comes from another. What it proves is that
/// whoever sends it receives what is sent to the address.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionIds {
    key: [u64; 2],
    start: Instant,
}

impl ConnectionIds {
    /// `key` is to be drawn at random and kept secret.
    pub(super) fn new(key: [u64; 2], start: Instant) -> Self {
        Self { key, start }
    }

    pub(super) fn give(&self, to: IpAddr, now: Instant) -> u64 {
        self.id(to, self.slot(now))
    }

    pub(super) fn is_valid(&self, id: u64, from: IpAddr, now: Instant) -> bool {
        let slot = self.slot(now);
        let age = (slot as u8).wrapping_sub(id as u8);
        age <= 1 && self.id(from, slot.wrapping_sub(age.into())) == id
    }

    fn slot(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs() / SLOT.as_secs()
    }

    fn id(&self, ip: IpAddr, slot: u64) -> u64 {
        let ip = match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&ip.octets());
        bytes[16..].copy_from_slice(&slot.to_be_bytes());
        #[expect(
            deprecated,
            reason = "what is offered instead draws its keys itself and may be another function tomorrow"
        )]
        let mut hasher = std::hash::SipHasher::new_with_keys(self.key[0], self.key[1]);
        hasher.write(&bytes);
        hasher.finish() & !0xff | slot & 0xff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn an_id_is_valid_for_a_minute_at_least_and_two_at_most() {
        let start = Instant::now();
        let ids = ConnectionIds::new([1, 2], start);
        for given in [0_u64, 1, 59, 60, 119, 20_000] {
            let at = |seconds: u64| start + Duration::from_secs(given + seconds);
            let id = ids.give(WHO, at(0));
            assert!((0..=60).all(|seconds| ids.is_valid(id, WHO, at(seconds))), "given at {given} s");
            assert!((120..40_000).step_by(13).all(|seconds| !ids.is_valid(id, WHO, at(seconds))), "given at {given} s");
        }
    }

    #[test]
    fn an_id_is_of_no_use_to_others_nor_when_changed_nor_under_another_key() {
        let now = Instant::now();
        let ids = ConnectionIds::new([1, 2], now);
        let id = ids.give(WHO, now);
        assert!(ids.is_valid(id, WHO, now));
        for other in ["192.0.2.2", "2001:db8::1", "::192.0.2.1"] {
            assert!(!ids.is_valid(id, other.parse().unwrap(), now));
        }
        assert!((0..64).all(|bit| !ids.is_valid(id ^ 1 << bit, WHO, now)));
        assert!(!ConnectionIds::new([1, 3], now).is_valid(id, WHO, now));
        assert!(!ConnectionIds::new([0, 2], now).is_valid(id, WHO, now));
    }
}
