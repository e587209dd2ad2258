//! How long an answer takes, and how long to wait for one (BEP 29, as RFC 6298 for TCP).

use std::time::Duration;

/// How long to wait before anything is known.
const FIRST: Duration = Duration::from_secs(1);
/// Bounds of the wait.
const LEAST: Duration = Duration::from_millis(500);
const MOST: Duration = Duration::from_secs(30);

/// The round trips of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rtt {
    mean: Duration,
    deviation: Duration,
    /// How often the wait was doubled since the last answer.
    doubled: u32,
}

impl Rtt {
    /// An answer to a packet that was sent once took so long.
    pub(super) fn handle_sample(&mut self, sample: Duration) {
        if self.mean.is_zero() {
            (self.mean, self.deviation) = (sample.max(Duration::from_micros(1)), sample / 2);
        } else {
            self.deviation = (self.deviation * 3 + self.mean.abs_diff(sample)) / 4;
            self.mean = (self.mean * 7 + sample) / 8;
        }
    }

    /// Something arrived there: it answers.
    pub(super) fn handle_answer(&mut self) {
        self.doubled = 0;
    }

    /// No answer came in time.
    pub(super) fn handle_timeout(&mut self) {
        self.doubled = self.doubled.saturating_add(1);
    }

    /// How often in a row no answer came in time.
    pub(super) fn timeouts(&self) -> u32 {
        self.doubled
    }

    /// How long to wait for an answer.
    pub(super) fn timeout(&self) -> Duration {
        let once = if self.mean.is_zero() { FIRST } else { (self.mean + 4 * self.deviation).max(LEAST) };
        once.saturating_mul(1 << self.doubled.min(10)).min(MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_wait_follows_the_path_and_doubles_while_nobody_answers() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(), ms(1000));
        rtt.handle_timeout();
        assert_eq!(rtt.timeout(), ms(2000));
        rtt.handle_answer();
        rtt.handle_sample(ms(400));
        assert_eq!(rtt.timeout(), ms(1200));
        for _ in 0..100 {
            rtt.handle_sample(ms(400));
        }
        assert_eq!(rtt.timeout(), ms(500), "at the least");
        for _ in 0..100 {
            rtt.handle_timeout();
        }
        assert_eq!((rtt.timeout(), rtt.timeouts()), (MOST, 100));
        rtt.handle_answer();
        assert_eq!(rtt.timeout(), ms(500));
    }
}
