//! How much may be on the way: the congestion control of uTP (LEDBAT, BEP 29 and RFC 6817).
//!
//! It owns the window and what is known of the path's delay. It keeps the delay that we add to the path near a target, so
//! that others on the same path are not held up, and yields to loss like anybody. Until it first meets a limit it doubles
//! the window in each round trip. It knows no packets and no clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The delay that we may add to the path, in microseconds.
const TARGET: i64 = 100_000;
/// What the window grows by in a round trip in which we add no delay, in bytes.
const GAIN: i64 = 3000;
/// Beyond this part of the target (in percent) the window is not doubled any more.
const ENOUGH: i64 = 75;
/// The window at the start and at the least, in packets.
const FIRST: u32 = 4;
const LEAST: u32 = 2;
/// The window at the most, in bytes: more than any peer has room for.
const MOST: u32 = 2 << 20;
/// How long the least delay is remembered, in pieces of this length, and how many of them: the clocks of both sides run
/// apart, and routes change.
const PERIOD: Duration = Duration::from_secs(60);
const PERIODS: usize = 3;
/// Of so many samples the least counts: what delays a single packet is not the path.
const SAMPLES: usize = 4;

/// The window of one direction of a connection.
pub(super) struct Ledbat {
    /// In bytes.
    window: u32,
    /// The payload of a full packet.
    packet: u32,
    is_doubling: bool,
    /// The least sample of each of the last periods; the first is the latest.
    least: VecDeque<u32>,
    /// When the latest period began.
    since: Option<Instant>,
    samples: VecDeque<u32>,
}

impl Ledbat {
    /// For packets with a payload of `packet` bytes.
    pub(super) fn new(packet: u32) -> Self {
        let (least, samples) = (VecDeque::new(), VecDeque::new());
        Self { window: FIRST * packet, packet, is_doubling: true, least, since: None, samples }
    }

    /// How many bytes may be on the way.
    pub(super) fn window(&self) -> u32 {
        self.window
    }

    /// Takes note of how much later, by the peer's clock, a packet of ours came than it was sent by ours.
    pub(super) fn handle_sample(&mut self, sample: u32, now: Instant) {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= PERIOD) {
            self.since = Some(now);
            self.least.push_front(sample);
            self.least.truncate(PERIODS);
        }
        if let Some(least) = self.least.front_mut().filter(|least| is_less(sample, **least)) {
            *least = sample;
        }
        self.samples.push_front(sample);
        self.samples.truncate(SAMPLES);
    }

    /// The delay that there is beyond that of the empty path, in microseconds.
    fn added(&self) -> i64 {
        let least = |samples: &VecDeque<u32>| samples.iter().copied().reduce(|a, b| if is_less(a, b) { a } else { b });
        let (Some(base), Some(sample)) = (least(&self.least), least(&self.samples)) else { return 0 };
        // Clocks that differ by any amount differ by the same one in both.
        i64::from(sample.wrapping_sub(base))
    }

    /// So many bytes arrived. The window grows only where it `was_full`. `rtt`: how long the answer took, which is more than
    /// the delay; some count how long they had nothing to say in it.
    pub(super) fn handle_ack(&mut self, bytes: u32, rtt: Option<Duration>, was_full: bool) {
        let added = rtt.map_or(self.added(), |rtt| self.added().min(rtt.as_micros() as i64));
        if added >= TARGET * ENOUGH / 100 {
            self.is_doubling = false;
        }
        let change = if self.is_doubling {
            i64::from(bytes)
        } else {
            let distance = (TARGET - added).clamp(-TARGET, TARGET);
            GAIN * i64::from(bytes) / i64::from(self.window.max(bytes).max(1)) * distance / TARGET
        };
        if change < 0 || was_full {
            self.set(i64::from(self.window) + change);
        }
    }

    /// Something was lost, for the first time since what is on the way was sent.
    pub(super) fn handle_loss(&mut self) {
        self.is_doubling = false;
        self.set(i64::from(self.window / 2));
    }

    /// Nothing came for long: the window is looked for anew.
    pub(super) fn handle_timeout(&mut self) {
        self.is_doubling = true;
        self.set(0);
    }

    fn set(&mut self, window: i64) {
        let window = u32::try_from(window.max(0)).unwrap_or(MOST);
        self.window = window.clamp(LEAST * self.packet, MOST);
    }
}

/// Whether one point of a clock that wraps is before another.
fn is_less(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: u32 = 1000;

    fn acked(ledbat: &mut Ledbat, sample: u32, now: Instant) {
        for _ in 0..SAMPLES {
            ledbat.handle_sample(sample, now);
        }
        ledbat.handle_ack(PACKET, None, true);
    }

    #[test]
    fn the_window_doubles_until_the_path_fills_and_then_keeps_the_delay_near_the_target() {
        let now = Instant::now();
        // The peer's clock is anywhere, and about to wrap.
        let clock = u32::MAX - 10;
        let mut ledbat = Ledbat::new(PACKET);
        acked(&mut ledbat, clock, now);
        assert_eq!(ledbat.window(), 5 * PACKET);
        for _ in 0..95 {
            acked(&mut ledbat, clock.wrapping_add(20_000), now);
        }
        assert_eq!(ledbat.window(), 100 * PACKET);
        acked(&mut ledbat, clock.wrapping_add(90_000), now);
        assert_eq!(ledbat.window(), 100 * PACKET + 3, "a tenth of the gain, for a hundredth of the window");
        acked(&mut ledbat, clock.wrapping_add(150_000), now);
        assert_eq!(ledbat.window(), 100 * PACKET + 3 - 14);
        acked(&mut ledbat, clock, now);
        assert_eq!(ledbat.window(), 100 * PACKET + 3 - 14 + 30, "it does not double again");
    }

    #[test]
    fn loss_halves_it_silence_ends_it_and_it_never_ends_below_two_packets() {
        let mut ledbat = Ledbat::new(PACKET);
        for _ in 0..16 {
            ledbat.handle_ack(PACKET, None, true);
        }
        ledbat.handle_loss();
        assert_eq!(ledbat.window(), 10 * PACKET);
        ledbat.handle_timeout();
        assert_eq!(ledbat.window(), 2 * PACKET);
        ledbat.handle_loss();
        assert_eq!(ledbat.window(), 2 * PACKET);
        for _ in 0..10_000 {
            ledbat.handle_timeout();
            ledbat.handle_ack(1 << 20, None, true);
        }
        assert!(ledbat.window() <= MOST);
    }

    #[test]
    fn who_does_not_fill_the_window_gets_no_larger_one() {
        let mut ledbat = Ledbat::new(PACKET);
        ledbat.handle_ack(PACKET, None, false);
        assert_eq!(ledbat.window(), 4 * PACKET);
    }

    #[test]
    fn what_is_longer_than_the_whole_answer_took_is_no_delay() {
        let now = Instant::now();
        let mut ledbat = Ledbat::new(PACKET);
        acked(&mut ledbat, 0, now);
        for _ in 0..SAMPLES {
            ledbat.handle_sample(500_000, now);
        }
        ledbat.handle_ack(PACKET, Some(Duration::from_millis(10)), true);
        assert_eq!(ledbat.window(), 6 * PACKET);
    }

    #[test]
    fn the_delay_of_a_route_that_was_is_forgotten() {
        let start = Instant::now();
        let mut ledbat = Ledbat::new(PACKET);
        acked(&mut ledbat, 1000, start);
        for minute in 0..=PERIODS as u32 {
            acked(&mut ledbat, 91_000, start + minute * PERIOD);
        }
        assert_eq!(ledbat.added(), 0);
    }
}
