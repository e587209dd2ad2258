//! How often one address may ask. It owns a table of fixed size, whatever number of addresses ask, and refuses to forget
//! anybody before his time.
//!
//! Each address has a cell in each of four rows, which others may share. A cell holds the time until which its requests are
//! paid for (GCRA); an address has paid until the earliest of its four, and a request moves those up to its own new time that
//! are behind it. So an address is held to more than its own requests only if others are in all of its four cells.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::config::{RequestRate, customer};

/// Cells in a row. All of them together take 2 MiB.
const CELLS: usize = 1 << 16;
const ROWS: usize = 4;

/// What each address has asked for lately.
#[derive(Debug)]
pub(super) struct Rates {
    began: Instant,
    /// Nanoseconds that one request costs, and that may be paid ahead.
    cost: u64,
    ahead: u64,
    /// Keyed, so that nobody can choose whose cells to share.
    keys: RandomState,
    /// Nanoseconds since `began`. All servers' threads look and write at once; a request that goes uncounted when two of one
    /// address meet does no harm.
    cells: Vec<AtomicU64>,
}

impl Rates {
    pub(super) fn new(rate: RequestRate, now: Instant) -> Self {
        let cost = 60_000_000_000 / u64::from(rate.per_minute.max(1));
        let ahead = cost.saturating_mul(rate.burst.max(1).into());
        let cells = std::iter::repeat_with(AtomicU64::default).take(CELLS * ROWS).collect();
        Self { began: now, cost, ahead, keys: RandomState::new(), cells }
    }

    /// Takes note of a request; how long to wait, where it is one too many.
    pub(super) fn take(&self, ip: IpAddr, now: Instant) -> Result<(), Duration> {
        let now = now.saturating_duration_since(self.began).as_nanos() as u64;
        let hash = self.keys.hash_one(customer(ip));
        let row = |row: usize| &self.cells[row * CELLS + (hash >> (row * 16)) as usize % CELLS];
        let cells: [&AtomicU64; ROWS] = std::array::from_fn(row);
        let paid = cells.iter().map(|cell| cell.load(Ordering::Relaxed)).min().unwrap_or(0).max(now) + self.cost;
        if paid > now + self.ahead {
            return Err(Duration::from_nanos(paid - now - self.ahead));
        }
        for cell in cells {
            cell.fetch_max(paid, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: RequestRate = RequestRate { per_minute: 60, burst: 3 };

    fn taken(rates: &Rates, ip: &str, now: Instant) -> usize {
        let ip = ip.parse().unwrap();
        (0..10).filter(|_| rates.take(ip, now).is_ok()).count()
    }

    #[test]
    fn an_address_may_ask_so_many_at_once_and_then_at_its_rate() {
        let start = Instant::now();
        let rates = Rates::new(RATE, start);
        assert_eq!(taken(&rates, "192.0.2.1", start), 3);
        assert_eq!(rates.take("192.0.2.1".parse().unwrap(), start), Err(Duration::from_secs(1)));
        assert_eq!(taken(&rates, "192.0.2.1", start + Duration::from_secs(2)), 2);
        assert_eq!(taken(&rates, "192.0.2.1", start + Duration::from_secs(60)), 3);
    }

    #[test]
    fn others_may_ask_meanwhile_but_not_from_the_same_network_of_ipv6() {
        let start = Instant::now();
        let rates = Rates::new(RATE, start);
        assert_eq!(taken(&rates, "2001:db8::1", start), 3);
        assert_eq!(taken(&rates, "2001:db8::2", start), 0);
        assert_eq!(taken(&rates, "2001:db8:0:1::1", start), 3);
        assert_eq!(taken(&rates, "::ffff:192.0.2.1", start), 3);
        assert_eq!(taken(&rates, "192.0.2.1", start), 0);
    }

    #[test]
    fn a_crowd_of_others_does_not_use_up_what_an_address_may() {
        let start = Instant::now();
        let rates = Rates::new(RATE, start);
        for number in 0..10_000_u32 {
            for _ in 0..3 {
                rates.take(IpAddr::V4(number.into()), start).ok();
            }
        }
        let free =
            (0..1000_u32).filter(|number| rates.take(IpAddr::V4((number + (99 << 24)).into()), start).is_ok()).count();
        assert!(free > 990, "{free}");
    }
}
