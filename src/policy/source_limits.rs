//! How many bytes each source may draw from us.
//!
//! It owns one bucket per source in a table that never grows. It refuses to keep every source: where a million pass by,
//! those that drew the least lately are forgotten, which loses little, and those that draw too much stay.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::Reach;

/// How many sources compete for a place.
const WAYS: usize = 4;

/// What a source that has been quiet may draw at once, in seconds of the rate.
const BURST_SECONDS: u64 = 10;

pub(crate) struct SourceLimits {
    places: Box<[Place]>,
    key: [u64; 2],
    /// Bytes a second; `None` is no limit.
    rate: Option<u32>,
    start: Instant,
}

#[derive(Clone, Copy, Default)]
struct Place {
    tag: u32,
    /// When all that was drawn is paid for, in milliseconds after `start`; 0 is free.
    paid: u64,
}

impl SourceLimits {
    /// `rate` bytes a second for each source, with `sets` (not 0) of [`WAYS`] places of 16 bytes. `key` keeps others from
    /// choosing sources that share places; all its bits should be random.
    pub(crate) fn new(rate: Option<u32>, sets: usize, key: [u64; 2], now: Instant) -> Self {
        let rate = rate.map(|rate| rate.max(1));
        let places = if rate.is_some() { sets.max(1) * WAYS } else { 0 };
        let places = vec![Place::default(); places].into();
        Self { places, key: [key[0], key[1] | 1], rate, start: now }
    }

    /// Whether this source may draw something now.
    pub(crate) fn allows(&self, from: SocketAddr, now: Instant) -> bool {
        if self.rate.is_none() {
            return true;
        }
        let (set, tag) = self.place(from);
        let paid = self.places[set..set + WAYS].iter().find(|place| place.tag == tag).map_or(0, |place| place.paid);
        paid <= self.millis(now) + 1000 * BURST_SECONDS
    }

    /// Takes note that this source has drawn so many bytes.
    pub(crate) fn charge(&mut self, from: SocketAddr, bytes: usize, now: Instant) {
        let Some(rate) = self.rate else { return };
        let now = self.millis(now);
        let (set, tag) = self.place(from);
        let places = &mut self.places[set..set + WAYS];
        let at = places.iter().position(|place| place.tag == tag).unwrap_or_else(|| {
            // The one that owes least.
            let at = (0..WAYS).min_by_key(|at| places[*at].paid).unwrap_or_default();
            places[at] = Place { tag, paid: 0 };
            at
        });
        let cost = (1000 * bytes as u64).div_ceil(u64::from(rate));
        places[at].paid = places[at].paid.max(now) + cost;
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_millis() as u64
    }

    /// The first place of a source's set, and its tag.
    fn place(&self, from: SocketAddr) -> (usize, u32) {
        let ip = from.ip().to_canonical();
        // On a private network one address may have many nodes, as in tests; nobody forges those from outside.
        let is_near = match ip {
            // Not a carrier's shared addresses: its customers can be forged by each other.
            IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
            IpAddr::V6(_) => matches!(Reach::of(ip), Reach::Private | Reach::Link | Reach::Machine),
        };
        let port = if is_near { u64::from(from.port()) << 1 | 1 } else { 0 };
        let source = match ip {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            // One customer has at least a /64.
            IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
        };
        let hash = fold(fold(source ^ self.key[0], self.key[1]) ^ port, self.key[1] ^ self.key[0] | 1);
        ((hash as usize % (self.places.len() / WAYS)) * WAYS, (hash >> 32) as u32)
    }
}

impl std::fmt::Debug for SourceLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceLimits").field("rate", &self.rate).finish_non_exhaustive()
    }
}

/// Both halves of a product in one.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::time::{Duration, Instant};

    use super::{SourceLimits, WAYS};

    const SETS: usize = 4096;
    const KEY: [u64; 2] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344];

    fn v4(n: u32) -> SocketAddr {
        (Ipv4Addr::from_bits(0x0b00_0000 + n), 6881).into()
    }

    #[test]
    fn a_source_draws_a_burst_and_then_its_rate() {
        let now = Instant::now();
        let mut limits = SourceLimits::new(Some(1000), SETS, KEY, now);
        let drawn = |limits: &mut SourceLimits, now| {
            (0..).take_while(|_| limits.allows(v4(1), now).then(|| limits.charge(v4(1), 100, now)).is_some()).count()
        };
        assert_eq!(drawn(&mut limits, now), 101);
        assert_eq!(drawn(&mut limits, now + Duration::from_secs(1)), 10);
        assert!(limits.allows(v4(2), now));
        assert_eq!(drawn(&mut limits, now + Duration::from_secs(3600)), 101);
    }

    #[test]
    fn a_million_sources_take_no_room_and_do_not_wash_out_one_that_draws_too_much() {
        let now = Instant::now();
        let mut limits = SourceLimits::new(Some(1000), SETS, KEY, now);
        let greedy = v4(0);
        while limits.allows(greedy, now) {
            limits.charge(greedy, 1000, now);
        }
        for n in 1..=1_000_000 {
            limits.charge(v4(n), 100, now);
        }
        assert_eq!(limits.places.len(), SETS * WAYS);
        assert!(!limits.allows(greedy, now));
        let refused = (2_000_000..2_010_000).filter(|n| !limits.allows(v4(*n), now)).count();
        assert_eq!(refused, 0, "strangers are not taken for others");
    }

    #[test]
    fn neighbours_within_a_64_are_one_source_and_private_addresses_are_told_apart_by_port() {
        let now = Instant::now();
        let mut limits = SourceLimits::new(Some(1), SETS, KEY, now);
        let spent = |limits: &mut SourceLimits, from: &str, to: &str| {
            limits.charge(from.parse().unwrap(), 1000, now);
            !limits.allows(to.parse().unwrap(), now)
        };
        assert!(spent(&mut limits, "[2001:db8::1]:1", "[2001:db8::2]:2"));
        assert!(!spent(&mut limits, "[2001:db8::1]:1", "[2001:db8:0:1::1]:1"));
        assert!(spent(&mut limits, "8.8.8.8:1", "[::ffff:8.8.8.8]:2"));
        assert!(!spent(&mut limits, "127.0.0.1:1", "127.0.0.1:2"));
    }
}
