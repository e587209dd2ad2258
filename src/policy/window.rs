//! How many requests a peer should have outstanding, and how long to wait for it.
//!
//! It owns the arithmetic only: a slow start that grows by one for each block, while the rate still grows; then as many
//! blocks as the peer sends in the time that the path needs, several times over. A window that follows the rate keeps a
//! long path full and leaves little to give back when a slow peer dies. The answer time is a smoothed mean and deviation,
//! as TCP's (RFC 6298).

use std::time::{Duration, Instant};

use crate::metainfo::BLOCK_LEN;

/// Requests to start with.
const START: u32 = 16;
/// Never fewer than this, so that the peer always knows what comes next.
const LEAST: u32 = 5;
/// Never more than this, whatever the peer allows: 32 MiB on the way covers 100 MB/s at 300 ms.
const MOST: u32 = 2048;
/// How far ahead we ask, beyond what the path itself holds: this many times the path's own delay, within bounds in
/// seconds. What is asked for far ahead is what a download waits for, or asks for twice, at its end.
const AHEAD: f64 = 8.0;
const LEAST_AHEAD: f64 = 0.05;
const MOST_AHEAD: f64 = 0.75;
/// How often the rate is looked at.
const SAMPLE: Duration = Duration::from_millis(100);

/// The request window of one peer.
#[derive(Debug)]
pub struct RequestWindow {
    size: u32,
    /// What the peer accepts (BEP 10 `reqq`).
    allowed: u32,
    /// What the memory for pieces in flight allows.
    share: u32,
    slow_start: bool,
    snubbed: bool,
    /// Bytes per second, smoothed over about a second.
    rate: f64,
    sample_bytes: u64,
    sample_start: Option<Instant>,
    /// Samples in a row in which slow start did not raise the rate.
    flat: u32,
    /// The best rate that slow start has seen.
    best: f64,
    answer: Option<(f64, f64)>,
    fastest_answer: f64,
}

impl Default for RequestWindow {
    fn default() -> Self {
        Self {
            size: START,
            allowed: 250,
            share: MOST,
            slow_start: true,
            snubbed: false,
            rate: 0.0,
            sample_bytes: 0,
            sample_start: None,
            flat: 0,
            best: 0.0,
            answer: None,
            fastest_answer: f64::INFINITY,
        }
    }
}

impl RequestWindow {
    /// How many requests may be outstanding now.
    pub fn size(&self) -> u32 {
        if self.snubbed { 1 } else { self.size.min(self.allowed).min(self.share) }
    }

    /// The peer said how many requests it accepts (BEP 10 `reqq`).
    pub fn set_allowed(&mut self, reqq: u32) {
        self.allowed = reqq.clamp(1, MOST);
    }

    /// The peer's share of the memory for pieces in flight, in blocks: what it is asked for must find room.
    pub fn set_share(&mut self, blocks: u32) {
        self.share = blocks.clamp(LEAST, MOST);
    }

    /// A block of `len` bytes came, `waited` after it was asked for.
    pub fn arrived(&mut self, len: u32, waited: Duration, now: Instant) {
        self.snubbed = false;
        let waited = waited.as_secs_f64();
        self.fastest_answer = self.fastest_answer.min(waited);
        self.answer = Some(match self.answer {
            None => (waited, waited / 2.0),
            Some((mean, deviation)) => {
                (mean + (waited - mean) / 8.0, deviation + ((waited - mean).abs() - deviation) / 4.0)
            }
        });
        let start = *self.sample_start.get_or_insert(now);
        self.sample_bytes += u64::from(len);
        let elapsed = now.saturating_duration_since(start);
        if elapsed >= SAMPLE {
            self.sample(elapsed, now);
        }
        if self.slow_start {
            self.size = (self.size + 1).min(MOST);
        }
    }

    /// The peer let the answer time pass: one request at a time until it sends again.
    pub fn snub(&mut self) {
        self.snubbed = true;
        self.slow_start = false;
        self.size = LEAST;
        self.sample_start = None;
        self.sample_bytes = 0;
    }

    /// Whether the peer is snubbed.
    pub fn is_snubbed(&self) -> bool {
        self.snubbed
    }

    /// A pause that was not the peer's slowness (choked, nothing to ask): what was measured before it stays, and the
    /// pause does not count.
    pub fn pause(&mut self) {
        self.sample_start = None;
        self.sample_bytes = 0;
    }

    /// How long to wait for the next block before the peer counts as snubbed: mean and four deviations, within 2 and
    /// 60 s; 10 s while nothing is known.
    pub fn patience(&self) -> Duration {
        match self.answer {
            None => Duration::from_secs(10),
            Some((mean, deviation)) => Duration::from_secs_f64((mean + 4.0 * deviation).clamp(2.0, 60.0)),
        }
    }

    /// How long a request takes to be answered, on average, and the time after which an answer is late (mean and four
    /// deviations); `None` while no block has come.
    pub fn pace(&self) -> Option<(Duration, Duration)> {
        let seconds = Duration::from_secs_f64;
        self.answer.map(|(mean, deviation)| (seconds(mean), seconds(mean + 4.0 * deviation)))
    }

    /// Bytes per second over the last second or so.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    fn sample(&mut self, elapsed: Duration, now: Instant) {
        let rate = self.sample_bytes as f64 / elapsed.as_secs_f64();
        self.rate = if self.rate == 0.0 { rate } else { self.rate + (rate - self.rate) * 0.3 };
        self.sample_start = Some(now);
        self.sample_bytes = 0;
        if self.slow_start {
            // The window doubles in each round trip, so a rate that stays is the path's or the peer's own.
            self.flat = if rate > self.best * 1.1 { 0 } else { self.flat + 1 };
            self.best = self.best.max(rate);
            self.slow_start = self.flat < 5;
        }
        if !self.slow_start {
            let path = self.fastest_answer.min(2.0);
            let ahead = (path * AHEAD).clamp(LEAST_AHEAD, MOST_AHEAD);
            let blocks = self.rate * (ahead + path) / f64::from(BLOCK_LEN);
            self.size = (blocks as u32).clamp(LEAST, MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LEAST, MOST, RequestWindow};
    use crate::metainfo::BLOCK_LEN;
    use std::time::{Duration, Instant};

    /// A link that sends `rate` bytes per second after `delay`, asked with the window's size: the bytes after `time`.
    fn run(window: &mut RequestWindow, rate: f64, delay: Duration, time: Duration) -> f64 {
        let start = Instant::now();
        let mut asked = std::collections::VecDeque::new();
        let (mut now, mut free, mut bytes) = (start, start, 0.0);
        while now < start + time {
            while asked.len() < window.size() as usize {
                asked.push_back(now);
            }
            let at: Instant = asked.pop_front().expect("the window is never 0");
            free = free.max(at + delay) + Duration::from_secs_f64(f64::from(BLOCK_LEN) / rate);
            now = now.max(free);
            window.arrived(BLOCK_LEN, now - at, now);
            bytes += f64::from(BLOCK_LEN);
        }
        bytes
    }

    #[test]
    fn a_long_fat_path_is_filled() {
        for (rate, millis) in [(40e6, 100), (100e6, 200), (1e6, 200), (10e6, 10)] {
            let mut window = RequestWindow::default();
            window.set_allowed(2000);
            run(&mut window, rate, Duration::from_millis(millis), Duration::from_secs(3));
            let bytes = run(&mut window, rate, Duration::from_millis(millis), Duration::from_secs(5));
            assert!(bytes > 0.95 * rate * 5.0, "{rate} B/s at {millis} ms: {bytes}");
        }
    }

    #[test]
    fn a_slow_peer_holds_few_blocks() {
        let mut window = RequestWindow::default();
        run(&mut window, 50e3, Duration::from_millis(20), Duration::from_secs(20));
        assert!(window.size() <= 8, "{window:?}");
    }

    #[test]
    fn the_window_stays_within_what_the_peer_allows_and_a_snub_leaves_one() {
        let mut window = RequestWindow::default();
        window.set_allowed(30);
        run(&mut window, 100e6, Duration::from_millis(50), Duration::from_secs(2));
        assert_eq!(window.size(), 30);
        window.snub();
        assert_eq!(window.size(), 1);
        window.arrived(BLOCK_LEN, Duration::from_millis(5), Instant::now());
        assert!((LEAST..MOST).contains(&window.size()));
        assert!(window.patience() >= Duration::from_secs(2));
    }
}
