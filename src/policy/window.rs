//! How many requests a peer should have outstanding, and how long to wait for it.
//!
//! It owns the arithmetic only. A slow start finds the rate: it grows by several for each block while answers come as
//! quickly as the path allows, by one while a queue builds up, and ends once the queue is long enough or the rate stays.
//! Then the window is as many blocks as the peer sends in the time that the path needs, several times over. A window that
//! follows the rate keeps a long path full and leaves little to give back when a slow peer dies. The path's own time is the
//! quickest answer; as a queue hides it, the window is now and then emptied of all but what the path holds, to look again.
//! The answer time is a smoothed mean and deviation, as TCP's (RFC 6298).

use std::time::{Duration, Instant};

use crate::metainfo::BLOCK_LEN;

/// Requests to start with.
const START: u32 = 16;
/// By how much a block lets the window grow in the slow start, while no queue is seen: a round trip makes it four times
/// as large.
const GROWTH: u32 = 3;
/// Never fewer than this, so that the peer always knows what comes next; but while the path is looked at, after a snub and
/// where the peer accepts no more.
const LEAST: u32 = 5;
/// Never more than this, whatever the peer allows: 32 MiB on the way covers 100 MB/s at 300 ms.
const MOST: u32 = 2048;
/// How far ahead we ask, beyond what the path itself holds: this many times the path's own delay, within bounds in
/// seconds. What is asked for far ahead is what a download waits for, or asks for twice, at its end.
const AHEAD: f64 = 8.0;
const LEAST_AHEAD: f64 = 0.05;
const MOST_AHEAD: f64 = 0.75;
/// What the path is taken to need at the most, in seconds: more than that is a queue.
const LONGEST_PATH: f64 = 2.0;
/// What a request is reckoned to take at the most, in seconds.
const LONGEST_WAIT: f64 = 600.0;
/// How much later than usual an answer may be at the least, in seconds: a busy machine is no slow peer.
const LEAST_SLACK: f64 = 0.1;
/// How often the rate is looked at, in seconds; not before the quickest answer could have come.
const SAMPLE: f64 = 0.1;
/// How much of the past the rate remembers, in seconds.
const MEMORY: f64 = 0.25;
/// Samples in a row without a better rate, at which the slow start ends: each is a round trip or more, in which the
/// window grew.
const FLAT: u32 = 3;
/// The path is looked at again when the quickest answer was not matched for so long,
const STALE: Duration = Duration::from_secs(10);
/// or when the rate has fallen to this part of its best, but then not at once again.
const FELL: f64 = 0.67;
const PROBE_PAUSE: Duration = Duration::from_secs(2);
/// Answers that a look at the path waits for.
const PROBE_ANSWERS: u32 = 2;

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
    /// Bytes per second, smoothed over some [`MEMORY`].
    rate: f64,
    sample: Option<Sample>,
    /// Samples in a row in which slow start did not raise the rate.
    flat: u32,
    /// The best rate since the slow start or the last look at the path.
    best: f64,
    /// Mean time to an answer and its deviation, in seconds.
    answer: Option<(f64, f64)>,
    path: Path,
}

/// How quickly a peer will answer what it is asked next.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The time to the answer to the first request.
    pub usual: Duration,
    /// What each further request adds to that.
    pub each: Duration,
    /// How much later an answer may be: four deviations, at least a tenth of a second.
    pub slack: Duration,
}

impl Pace {
    /// The pace of the request after `n` others.
    pub fn after(self, n: u32) -> Self {
        Self { usual: self.usual + self.each * n, ..self }
    }
}

/// What came since a moment.
#[derive(Debug)]
struct Sample {
    start: Instant,
    bytes: u64,
    /// The quickest answer, in seconds.
    quickest: f64,
}

/// What a request needs where nothing waits before it.
#[derive(Debug)]
struct Path {
    /// The quickest answer, in seconds; infinite before the first.
    quickest: f64,
    /// When an answer was last about as quick.
    seen: Option<Instant>,
    probe: Option<Probe>,
    /// When the last probe began.
    probed: Option<Instant>,
}

/// A look at the path: the window is so small meanwhile that nothing queues.
#[derive(Debug)]
struct Probe {
    since: Instant,
    quickest: f64,
    /// Answers to what was asked since.
    answers: u32,
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
            sample: None,
            flat: 0,
            best: 0.0,
            answer: None,
            path: Path { quickest: f64::INFINITY, seen: None, probe: None, probed: None },
        }
    }
}

impl RequestWindow {
    /// How many requests may be outstanding now.
    pub fn size(&self) -> u32 {
        if self.snubbed { 1 } else { self.size.min(self.allowed).min(self.share) }
    }

    /// How many requests are worth a message of their own, which wakes two programs: a quarter of all, or half on a short
    /// path, whose rate is high and which what is asked for ahead covers many times. Where the peer or memory allows less
    /// than that, it may not.
    pub fn batch(&self) -> u32 {
        let is_short = self.path.seconds() * AHEAD < LEAST_AHEAD;
        let is_found = !self.slow_start && self.path.probe.is_none() && self.size() == self.size;
        self.size() / if is_short && is_found { 2 } else { 4 }
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
        let seconds = waited.as_secs_f64();
        self.answer = Some(match self.answer {
            None => (seconds, seconds / 2.0),
            Some((mean, deviation)) => {
                (mean + (seconds - mean) / 8.0, deviation + ((seconds - mean).abs() - deviation) / 4.0)
            }
        });
        if let Some(longer) = self.path.answered(waited, now) {
            if longer {
                // The rate that it lets through has yet to be found.
                (self.slow_start, self.flat, self.best) = (true, 0, 0.0);
            }
            self.follow_rate();
        }
        // The first block opens a sample and is not part of it: the time that it took came before.
        let Some(sample) = &mut self.sample else {
            self.sample = Some(Sample { start: now, bytes: 0, quickest: f64::INFINITY });
            self.grow(seconds);
            return;
        };
        sample.bytes += u64::from(len);
        sample.quickest = sample.quickest.min(seconds);
        let elapsed = now.saturating_duration_since(sample.start).as_secs_f64();
        if elapsed >= SAMPLE.max(self.path.seconds()) {
            self.take_sample(elapsed, now);
        }
        self.grow(seconds);
    }

    /// The peer let the answer time pass: one request at a time until it sends again.
    pub fn snub(&mut self) {
        self.snubbed = true;
        self.slow_start = false;
        self.size = LEAST;
        self.path.probe = None;
        self.sample = None;
    }

    /// Whether the peer is snubbed.
    pub fn is_snubbed(&self) -> bool {
        self.snubbed
    }

    /// A pause that was not the peer's slowness (choked, nothing to ask): what was measured before it stays, and the
    /// pause does not count.
    pub fn pause(&mut self) {
        self.sample = None;
    }

    /// How long to wait for the next block before the peer counts as snubbed: mean and four deviations, within 2 and
    /// 60 s; 10 s while nothing is known.
    pub fn patience(&self) -> Duration {
        match self.answer {
            None => Duration::from_secs(10),
            Some((mean, deviation)) => Duration::from_secs_f64((mean + 4.0 * deviation).clamp(2.0, 60.0)),
        }
    }

    /// How quickly it will answer a request, with `outstanding` before it; `None` while no block has come. What waits
    /// before a request says more of its time than the mean of the past: a window that grows makes every answer late.
    pub fn pace(&self, outstanding: usize) -> Option<Pace> {
        let (mean, deviation) = self.answer?;
        let seconds = |seconds: f64| Duration::from_secs_f64(seconds.min(LONGEST_WAIT));
        let slack = seconds((4.0 * deviation).max(LEAST_SLACK));
        if self.rate == 0.0 {
            return Some(Pace { usual: seconds(mean), each: Duration::ZERO, slack });
        }
        let each = f64::from(BLOCK_LEN) / self.rate;
        // The quickest answer has the time of one block in it.
        let queued = self.path.quickest.max(each * (outstanding + 1) as f64);
        Some(Pace { usual: seconds(queued), each: seconds(each), slack })
    }

    /// Bytes per second over the last quarter of a second or so, or over the last round trip where that is longer.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// The slow start, after an answer.
    fn grow(&mut self, waited: f64) {
        if self.slow_start {
            let queued = waited > 1.5 * self.path.quickest + 0.002;
            self.size = (self.size + if queued { 1 } else { GROWTH }).min(MOST);
        }
    }

    fn take_sample(&mut self, elapsed: f64, now: Instant) {
        let Some(sample) = self.sample.replace(Sample { start: now, bytes: 0, quickest: f64::INFINITY }) else {
            return;
        };
        let rate = sample.bytes as f64 / elapsed;
        self.rate = if self.rate == 0.0 { rate } else { self.rate + (rate - self.rate) * elapsed / (elapsed + MEMORY) };
        if self.slow_start {
            self.flat = if rate > self.best * 1.1 { 0 } else { self.flat + 1 };
            self.best = self.best.max(rate);
            // A queue as long as it is meant to be, or a rate that stays while the window grows: the path's or the peer's own.
            self.slow_start = self.flat < FLAT && sample.quickest < self.path.seconds() + self.path.ahead();
            if self.slow_start {
                return;
            }
            self.rate = self.rate.max(rate);
        }
        self.best = self.best.max(self.rate);
        if self.path.is_doubtful(self.rate < self.best * FELL, now) {
            self.path.look(now);
            self.best = self.rate;
        }
        self.follow_rate();
    }

    /// As many blocks as the rate and the path want; while the path is looked at, those that fill it without a queue.
    fn follow_rate(&mut self) {
        if self.slow_start {
            return;
        }
        // With nothing ahead, a slow peer's next request would wait for the one before: one at a time is enough then.
        let (ahead, least) = if self.path.probe.is_some() { (0.0, 1) } else { (self.path.ahead(), LEAST) };
        let blocks = self.rate * (self.path.seconds() + ahead) / f64::from(BLOCK_LEN);
        self.size = (blocks as u32).clamp(least, MOST);
    }
}

impl Path {
    fn seconds(&self) -> f64 {
        self.quickest.min(LONGEST_PATH)
    }

    /// How far ahead to ask, in seconds.
    fn ahead(&self) -> f64 {
        (self.seconds() * AHEAD).clamp(LEAST_AHEAD, MOST_AHEAD)
    }

    /// Takes in the time of an answer. `Some`: a look at the path has ended, and whether the path has become longer.
    fn answered(&mut self, waited: Duration, now: Instant) -> Option<bool> {
        let seconds = waited.as_secs_f64();
        if seconds <= self.quickest * 1.1 {
            self.seen = Some(now);
            self.quickest = self.quickest.min(seconds);
        }
        let probe = self.probe.as_mut().filter(|probe| waited <= now.saturating_duration_since(probe.since))?;
        probe.quickest = probe.quickest.min(seconds);
        probe.answers += 1;
        if probe.answers < PROBE_ANSWERS {
            return None;
        }
        let before = std::mem::replace(&mut self.quickest, probe.quickest);
        self.seen = Some(now);
        self.probe = None;
        Some(self.quickest > 1.5 * before)
    }

    /// Whether the quickest answer may not be the path's time any more: after a while, or where the rate `fell`.
    fn is_doubtful(&self, fell: bool, now: Instant) -> bool {
        let before = |then: Option<Instant>, time| then.is_none_or(|then| now.saturating_duration_since(then) > time);
        self.probe.is_none() && (before(self.seen, STALE) || (fell && before(self.probed, PROBE_PAUSE)))
    }

    fn look(&mut self, now: Instant) {
        self.probe = Some(Probe { since: now, quickest: f64::INFINITY, answers: 0 });
        self.probed = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::{Duration, Instant};

    use super::{LEAST, MOST, RequestWindow, START};
    use crate::metainfo::BLOCK_LEN;

    /// A peer behind a link, asked for as many blocks as the window has room for: one clock, no sleep.
    struct Line {
        window: RequestWindow,
        /// Bytes per second.
        rate: f64,
        /// From a request to the first byte of its answer, in seconds, where nothing waits.
        path: f64,
        now: Instant,
        /// When the link has sent everything that it was asked for so far.
        free: Instant,
        asked: VecDeque<Instant>,
    }

    impl Line {
        fn new(rate: f64, path: f64) -> Self {
            let mut window = RequestWindow::default();
            window.set_allowed(2000);
            let now = Instant::now();
            Self { window, rate, path, now, free: now, asked: VecDeque::new() }
        }

        /// Lets some seconds pass, and asks as a writer does, batch by batch; the part of them that the link was idle.
        fn idle_in(&mut self, seconds: f64) -> f64 {
            let end = self.now + Duration::from_secs_f64(seconds);
            let mut bytes = 0.0;
            loop {
                let open = (self.window.size() as usize).saturating_sub(self.asked.len());
                if open >= self.window.batch() as usize || self.asked.len() <= 4 {
                    self.asked.extend(std::iter::repeat_n(self.now, open));
                }
                let at = *self.asked.front().expect("the window is never 0");
                let block = Duration::from_secs_f64(f64::from(BLOCK_LEN) / self.rate);
                let free = self.free.max(at + Duration::from_secs_f64(self.path)) + block;
                if free > end {
                    self.now = end;
                    return seconds - bytes / self.rate;
                }
                self.free = free;
                self.now = free.max(self.now);
                self.asked.pop_front();
                self.window.arrived(BLOCK_LEN, self.now - at, self.now);
                bytes += f64::from(BLOCK_LEN);
            }
        }

        /// How long the link takes for all that it was asked for, in seconds.
        fn queue(&self) -> f64 {
            self.asked.len() as f64 * f64::from(BLOCK_LEN) / self.rate
        }
    }

    /// Round trips from 1 to 200 ms, rates from 1 to 100 MB/s.
    fn paths() -> impl Iterator<Item = (f64, f64)> {
        [0.001, 0.005, 0.01, 0.05, 0.1, 0.2]
            .into_iter()
            .flat_map(|path| [1e6, 10e6, 40e6, 100e6].map(|rate| (rate, path)))
    }

    #[test]
    fn the_window_opens_in_a_few_round_trips() {
        for (rate, path) in paths() {
            let mut line = Line::new(rate, path);
            let lost = line.idle_in(3.0) / path;
            // The first answer takes one. The window is four times as large after each further one.
            let blocks = rate * path / f64::from(BLOCK_LEN) / f64::from(START);
            let least = 1.0 + blocks.max(1.0).log(4.0).ceil();
            println!("{rate:.0} B/s, {path} s: lost {lost:.1} round trips, {least} at the most");
            assert!(lost < least + 0.05 / path, "{rate} B/s, {path} s: lost {lost} round trips");
        }
    }

    #[test]
    fn a_path_stays_full() {
        for (rate, path) in paths() {
            let mut line = Line::new(rate, path);
            line.idle_in(3.0);
            let idle = line.idle_in(60.0);
            println!("{rate:.0} B/s, {path} s: idle {idle:.2} of 60 s, {:.2} s asked ahead", line.queue());
            assert!(idle < 0.4, "{rate} B/s, {path} s: idle for {idle} of 60 s");
            assert!(line.queue() < path + 1.0, "{rate} B/s, {path} s: {} s asked ahead", line.queue());
        }
    }

    #[test]
    fn a_rate_that_falls_and_comes_back_is_followed() {
        for (rate, path) in paths() {
            let mut line = Line::new(rate, path);
            line.idle_in(3.0);
            line.rate = rate / 20.0;
            let idle = line.idle_in(20.0);
            let queue = line.queue();
            line.rate = rate;
            let lost = line.idle_in(3.0);
            println!("{rate:.0} B/s, {path} s: idle {idle:.2} of 20 s, queue {queue:.2} s, then lost {lost:.2} s");
            assert!(idle < 1.0, "{rate} B/s, {path} s: idle for {idle} s while the link was slow");
            let block = f64::from(BLOCK_LEN) / rate * 20.0;
            assert!(queue < 2.0 + f64::from(LEAST) * block, "{rate} B/s, {path} s: {queue} s asked ahead");
            assert!(lost < 0.2 + 4.0 * path, "{rate} B/s, {path} s: {lost} s until the rate was back");
        }
    }

    #[test]
    fn a_path_that_becomes_longer_is_noticed() {
        for (rate, path) in paths() {
            let mut line = Line::new(rate, path);
            line.idle_in(3.0);
            line.path = path * 10.0;
            let lost = line.idle_in(10.0);
            let idle = line.idle_in(10.0);
            println!("{rate:.0} B/s, {path} s: lost {lost:.2} s, then {idle:.2} of 10 s");
            // 2,000 blocks, which is all that it allows, do not fill the longest of these.
            let best = f64::from(MOST) * f64::from(BLOCK_LEN) / line.path;
            if best > 1.2 * rate {
                assert!(lost < 2.0 + 27.0 * path, "{rate} B/s, {path} s: lost {lost} s");
                assert!(idle < 0.3, "{rate} B/s, {path} s: idle for {idle} of 10 s");
            }
        }
    }

    #[test]
    fn a_short_path_is_asked_by_half_of_the_window_once_its_rate_is_known() {
        for (path, part) in [(0.001, 2), (0.005, 2), (0.01, 4), (0.1, 4)] {
            let mut line = Line::new(40e6, path);
            assert_eq!(line.window.batch(), START / 4);
            line.idle_in(5.0);
            assert_eq!(line.window.batch(), line.window.size() / part, "{path} s");
            line.window.set_share(20);
            assert_eq!(line.window.batch(), 5, "{path} s");
        }
    }

    #[test]
    fn a_slow_peer_holds_few_blocks() {
        let mut line = Line::new(50e3, 0.02);
        let mut most = 0;
        for _ in 0..400 {
            line.idle_in(0.05);
            most = most.max(line.asked.len());
        }
        assert!(most <= 24, "{most} at the start");
        assert!(line.window.size() <= 8, "{:?}", line.window);
    }

    #[test]
    fn the_window_stays_within_what_the_peer_allows_and_a_snub_leaves_one() {
        let mut line = Line::new(100e6, 0.05);
        line.window.set_allowed(30);
        line.idle_in(2.0);
        let mut window = line.window;
        assert_eq!(window.size(), 30);
        window.snub();
        assert_eq!(window.size(), 1);
        window.arrived(BLOCK_LEN, Duration::from_millis(5), line.now);
        assert!((LEAST..MOST).contains(&window.size()));
        assert!(window.patience() >= Duration::from_secs(2));
    }
}
