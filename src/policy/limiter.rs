//! Rates: how long to wait so that a limit holds, and how fast something is.
//!
//! It owns the arithmetic of a [`Bucket`] and of a [`RateMeter`]. It refuses to wait, to lock and to read a clock: the
//! caller does, and several callers of one bucket share it behind a lock that they hold for the call only.

use std::time::{Duration, Instant};

/// What may go at once after a pause, as a part of a second's worth: 100 ms.
const BURST: Duration = Duration::from_millis(100);

/// What may go at once after a pause at the least: one block, or no block could ever go at once.
const MIN_BURST: u64 = 16 * 1024;

/// No debt is longer than this, whatever is taken; it also keeps every sum of times in range.
const MAX_DEBT: Duration = Duration::from_secs(24 * 60 * 60);

/// A rate limit on bytes (or on anything that is counted).
///
/// Every take is a reservation: it moves the moment at which the bucket is free again, and the caller is told when its
/// own turn is. So takers are served in the order in which they took, a large one is not starved by small ones, and
/// nobody has to come back to ask again. This is the generic cell rate algorithm, with debt: one take may be larger
/// than the burst, and the next one pays for it.
///
/// After a pause, 100 ms of the rate may go at once, and at least 16 KiB.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Per second, at least 1; `None` is no limit.
    rate: Option<u64>,
    min_burst: u64,
    /// When all that was taken is paid for. `None` before the first take.
    paid: Option<Instant>,
}

/// How many bytes a second went through lately: a mean over a sliding window of 5 s.
///
/// In its first seconds the mean is over the time since the first byte, but never over less than 1 s, so that a first
/// block is not taken for a rate.
#[derive(Clone, Debug)]
pub struct RateMeter {
    /// When the first byte was counted; slot `i` begins `i * SLOT` later.
    first: Option<Instant>,
    /// The bytes of the last slots; slot `i` is at `i % SLOTS`.
    slots: [u64; SLOTS],
    /// The newest slot that was counted in.
    newest: u64,
    total: u64,
}

/// The parts of a meter's window: 20 of 250 ms.
const SLOTS: usize = 20;
const SLOT: Duration = Duration::from_millis(250);
const YOUNGEST: Duration = Duration::from_secs(1);

impl Bucket {
    /// A bucket that lets `rate` bytes a second through; `None` is no limit, and 0 counts as 1.
    pub fn new(rate: Option<u64>) -> Self {
        Self::with_burst(rate, MIN_BURST)
    }

    /// A bucket that lets at least `min_burst` go at once after a pause.
    pub(crate) fn with_burst(rate: Option<u64>, min_burst: u64) -> Self {
        Self { rate: rate.map(|rate| rate.max(1)), min_burst, paid: None }
    }

    /// The limit in bytes a second.
    pub fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// Changes the limit. Waits that were given out stay as they are; what they still owe is paid at the new rate, so a
    /// debt made under a low limit does not hold up those who take under a higher one. Without a limit it is forgotten.
    pub fn set_rate(&mut self, rate: Option<u64>, now: Instant) {
        let rate = rate.map(|rate| rate.max(1));
        self.paid = match (self.rate, rate, self.paid) {
            (Some(old), Some(new), Some(paid)) => {
                let owed = paid.saturating_duration_since(now).as_nanos().saturating_mul(u128::from(old));
                Some(now + capped(owed / u128::from(new)))
            }
            _ => None,
        };
        self.rate = rate;
    }

    /// Reserves `n` bytes and says how long the caller must wait before it moves them; zero is go.
    pub fn take(&mut self, n: u64, now: Instant) -> Duration {
        let wait = self.wait(n, now);
        if let Some(rate) = self.rate {
            let start = self.paid.map_or(now, |paid| paid.max(now));
            self.paid = Some((start + cost(n, rate)).min(now + MAX_DEBT));
        }
        wait
    }

    /// How long a [`take`](Self::take) of `n` bytes would have to wait, without taking.
    pub fn wait(&self, n: u64, now: Instant) -> Duration {
        let (Some(rate), Some(paid)) = (self.rate, self.paid) else { return Duration::ZERO };
        let burst = cost(self.min_burst, rate).max(BURST);
        // What is larger than the burst starts when the whole burst is free.
        (paid.max(now) + cost(n, rate).min(burst)).saturating_duration_since(now + burst)
    }

    /// Gives back `n` reserved bytes that were not moved (their peer died while it waited).
    pub fn refund(&mut self, n: u64, now: Instant) {
        if let (Some(rate), Some(paid)) = (self.rate, self.paid) {
            self.paid = Some(paid.checked_sub(cost(n, rate)).map_or(now, |paid| paid.max(now)));
        }
    }
}

impl RateMeter {
    /// A meter that has counted nothing.
    pub fn new() -> Self {
        Self { first: None, slots: [0; SLOTS], newest: 0, total: 0 }
    }

    /// Counts `n` bytes. Who looks only now and then, at what went through since the last look, counts it as of that one.
    pub fn add(&mut self, n: u64, now: Instant) {
        let first = *self.first.get_or_insert(now);
        let slot = slot_of(first, now).max(self.newest);
        // The slots in between had nothing; what they held left the window.
        for stale in (self.newest + 1..=slot).rev().take(SLOTS) {
            self.slots[stale as usize % SLOTS] = 0;
        }
        self.newest = slot;
        let here = &mut self.slots[slot as usize % SLOTS];
        *here = here.saturating_add(n);
        self.total = self.total.saturating_add(n);
    }

    /// The rate in bytes a second.
    pub fn rate(&self, now: Instant) -> u64 {
        let Some(first) = self.first else { return 0 };
        let slot = slot_of(first, now).max(self.newest);
        let oldest = slot.saturating_sub(SLOTS as u64 - 1);
        let inside = (oldest..=self.newest).map(|slot| self.slots[slot as usize % SLOTS]);
        let bytes = inside.fold(0u64, u64::saturating_add);
        let begin = first + SLOT.saturating_mul(u32::try_from(oldest).unwrap_or(u32::MAX));
        let time = now.saturating_duration_since(begin).max(YOUNGEST);
        u64::try_from(u128::from(bytes) * 1_000_000_000 / time.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Whether it was told of anything: its time counts from then on. Who has nothing to add later need not say so.
    pub fn has_begun(&self) -> bool {
        self.first.is_some()
    }

    /// How many bytes were counted ever.
    pub fn total(&self) -> u64 {
        self.total
    }
}

impl Default for RateMeter {
    fn default() -> Self {
        Self::new()
    }
}

/// How long `n` bytes take at a rate. Rounded down, so that the parts of a burst never cost more than the burst.
fn cost(n: u64, rate: u64) -> Duration {
    capped(u128::from(n) * 1_000_000_000 / u128::from(rate))
}

fn capped(nanoseconds: u128) -> Duration {
    u64::try_from(nanoseconds).map_or(MAX_DEBT, |nanoseconds| Duration::from_nanos(nanoseconds).min(MAX_DEBT))
}

fn slot_of(first: Instant, now: Instant) -> u64 {
    (now.saturating_duration_since(first).as_nanos() / SLOT.as_nanos()) as u64
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::{collection, prop_assert, prop_assert_eq, proptest};

    use super::{Bucket, RateMeter};

    const KIB: u64 = 1024;
    const MIB: u64 = 1024 * KIB;

    /// What passes in a time when so many takers each take a block again as soon as their last one went.
    fn passed(bucket: &mut Bucket, takers: usize, block: u64, start: Instant, time: Duration) -> (u64, Vec<u64>) {
        let mut ready = vec![start; takers];
        let mut each = vec![0; takers];
        loop {
            let (taker, &now) = ready.iter().enumerate().min_by_key(|(_, at)| **at).expect("there are takers");
            let at = now + bucket.take(block, now);
            if now >= start + time {
                return (each.iter().sum(), each);
            }
            if at < start + time {
                each[taker] += block;
            }
            // A taker that need not wait still takes a little time, or it would take for ever.
            ready[taker] = at + Duration::from_nanos(1);
        }
    }

    #[test]
    fn a_limit_holds_within_5_percent_over_10_seconds_with_many_takers() {
        for (rate, takers, block) in [
            (MIB, 1, 16 * KIB),
            (MIB, 100, 16 * KIB),
            (50 * MIB, 30, 128 * KIB),
            (100 * KIB, 10, 4 * KIB),
            (1 << 30, 200, 16 * KIB),
        ] {
            let mut bucket = Bucket::new(Some(rate));
            let (bytes, each) = passed(&mut bucket, takers, block, Instant::now(), Duration::from_secs(10));
            let share = bytes as f64 / (rate * 10) as f64;
            assert!((0.95..1.05).contains(&share), "{share} of {rate} with {takers} takers");
            let (least, most) = (each.iter().min().unwrap(), each.iter().max().unwrap());
            assert!(most - least <= 3 * block.max(rate / 10 / takers as u64), "{least} to {most}");
        }
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let mut bucket = Bucket::new(None);
        assert!((0..100).all(|_| bucket.take(u64::MAX, Instant::now()).is_zero()));
    }

    #[test]
    fn after_a_pause_a_tenth_of_a_second_goes_at_once_but_at_least_a_block() {
        let now = Instant::now();
        let mut fast = Bucket::new(Some(10 * MIB));
        assert!((0..64).all(|_| fast.take(16 * KIB, now).is_zero()));
        assert!(!fast.take(16 * KIB, now).is_zero());
        let later = now + Duration::from_secs(60);
        assert!((0..64).all(|_| fast.take(16 * KIB, later).is_zero()));
        assert!(!fast.take(16 * KIB, later).is_zero());
        let mut slow = Bucket::new(Some(KIB));
        assert_eq!(slow.take(16 * KIB, now), Duration::ZERO);
        assert_eq!(slow.take(16 * KIB, now), Duration::from_secs(16));
    }

    #[test]
    fn what_is_larger_than_the_burst_goes_and_the_next_one_pays() {
        let now = Instant::now();
        let mut bucket = Bucket::new(Some(MIB));
        assert_eq!(bucket.take(2 * MIB, now), Duration::ZERO);
        assert_eq!(bucket.take(MIB, now), Duration::from_secs(2));
        assert!(bucket.take(1, now) > Duration::from_millis(2800));
    }

    #[test]
    fn a_new_rate_is_felt_by_whoever_takes_next() {
        let now = Instant::now();
        let mut bucket = Bucket::new(Some(KIB));
        for _ in 0..51 {
            bucket.take(16 * KIB, now);
        }
        assert_eq!(bucket.wait(16 * KIB, now), Duration::from_secs(16 * 51));
        bucket.set_rate(Some(16 * MIB), now);
        assert!(bucket.take(16 * KIB, now) < Duration::from_millis(60));
        bucket.set_rate(None, now);
        assert!(bucket.take(MIB, now).is_zero());
        bucket.set_rate(Some(MIB), now);
        assert!(bucket.take(16 * KIB, now).is_zero());
        let (bytes, _) = passed(&mut bucket, 5, 16 * KIB, now, Duration::from_secs(10));
        assert!(bytes.abs_diff(10 * MIB) < MIB / 2);
    }

    #[test]
    fn a_refund_lets_the_next_one_go_sooner() {
        let now = Instant::now();
        let mut bucket = Bucket::new(Some(MIB));
        bucket.take(MIB, now);
        bucket.take(MIB, now);
        bucket.refund(MIB, now);
        assert_eq!(bucket.take(MIB, now), Duration::from_secs(1));
        bucket.refund(u64::MAX, now);
        assert_eq!(bucket.take(MIB, now), Duration::ZERO);
    }

    #[test]
    fn absurd_rates_and_sizes_neither_panic_nor_overflow() {
        let now = Instant::now();
        for rate in [0, 1, u64::MAX] {
            let mut bucket = Bucket::new(Some(rate));
            for n in [0, 1, u64::MAX, u64::MAX] {
                assert!(bucket.take(n, now) <= Duration::from_secs(24 * 60 * 60));
            }
            bucket.set_rate(Some(1), now);
            bucket.set_rate(Some(u64::MAX), now);
            bucket.refund(u64::MAX, now);
        }
        let mut meter = RateMeter::new();
        meter.add(u64::MAX, now);
        meter.add(u64::MAX, now);
        assert_eq!(meter.rate(now + Duration::from_secs(1 << 32)), 0);
    }

    proptest! {
        #[test]
        fn takers_go_in_the_order_in_which_they_took_and_never_above_the_rate(
            rate in 1_000..10_000_000u64,
            takes in collection::vec((0..200_000u64, 0..50u64), 1..100),
        ) {
            let start = Instant::now();
            let (mut now, mut last, mut bytes) = (start, start, 0);
            let mut bucket = Bucket::new(Some(rate));
            for (n, pause) in takes {
                now += Duration::from_millis(pause);
                let expected = bucket.wait(n, now);
                let at = now + bucket.take(n, now);
                prop_assert_eq!(at, now + expected);
                prop_assert!(at >= last);
                // All that went before this one is paid for, save the burst.
                let burst = (rate / 10).max(16 * KIB);
                prop_assert!(bytes as f64 <= rate as f64 * (at - start).as_secs_f64() + burst as f64 + 100.0);
                last = at;
                bytes += n;
            }
        }

        #[test]
        fn a_meter_tells_the_rate_of_the_last_5_seconds(
            adds in collection::vec((0..1_000_000u64, 0..3_000u64), 1..100),
            idle in 0..10_000u64,
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut meter = RateMeter::new();
            let mut seen = Vec::new();
            for (n, pause) in adds {
                now += Duration::from_millis(pause);
                meter.add(n, now);
                seen.push((now, n));
            }
            now += Duration::from_millis(idle);
            let since = |window: u64| -> u64 {
                seen.iter().filter(|(at, _)| now - *at <= Duration::from_millis(window)).map(|(_, n)| n).sum()
            };
            // The window is 4.75 to 5 s long, or as long as the meter is old, or 1 s.
            prop_assert!(meter.rate(now) <= since(5_000));
            prop_assert!(meter.rate(now) >= since(4_750) / 5);
            prop_assert_eq!(meter.total(), seen.iter().map(|(_, n)| n).sum::<u64>());
        }
    }

    #[test]
    fn a_flow_that_is_looked_at_four_times_a_second_is_metered_at_its_rate() {
        let start = Instant::now();
        let mut meter = RateMeter::new();
        // Looks are late by some, as they are.
        let looks = (1..=100u64).map(|tick| start + Duration::from_millis(tick * 250 + tick % 7));
        let mut last = start;
        for now in looks {
            meter.add((now - last).as_millis() as u64 * 10_000, last);
            last = now;
            let rate = meter.rate(now);
            assert!(now - start < Duration::from_secs(1) || rate.abs_diff(10_000_000) < 150_000, "{rate}");
        }
    }

    #[test]
    fn a_steady_flow_is_metered_at_its_rate_and_a_stopped_one_fades_to_nothing() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut meter = RateMeter::new();
        assert_eq!(meter.rate(start), 0);
        (0..2_000u64).for_each(|tick| meter.add(10 * KIB, at(tick * 10)));
        assert!(meter.rate(at(20_000)).abs_diff(1_000 * KIB) < 60 * KIB);
        assert!(meter.rate(at(22_500)).abs_diff(500 * KIB) < 60 * KIB);
        assert_eq!(meter.rate(at(25_000)), 0);
        assert_eq!(meter.total(), 20_000 * KIB);
    }
}
