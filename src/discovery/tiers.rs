//! Which tracker of one tier is asked when, and about which event (BEP 3, BEP 12, BEP 31). A policy: `now` and the seed
//! are given, nothing here waits or sends.
//!
//! A tier is asked in rounds. In a round its trackers are tried in order until one accepts; that one moves to the front
//! and the next round comes after its interval. One that fails is left alone for a while that grows with each failure.

use std::time::{Duration, Instant};

use crate::wire::tracker::Event;

/// The times an announcer keeps. The defaults are for the open internet; tests make them small.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// Between announces when the tracker names no interval. Default 30 min.
    pub interval: Duration,
    /// The minimum between announces when the tracker names none; a shorter interval counts instead. Default 5 min.
    pub min_interval: Duration,
    /// The shortest interval and minimum interval that are believed. Default 30 s.
    pub shortest_interval: Duration,
    /// The longest interval that is believed. Default 1 day.
    pub longest_interval: Duration,
    /// How long a tracker is left alone after its first failure; doubles with each, and up to half is added at random.
    /// Default 5 s.
    pub first_retry: Duration,
    /// Where the doubling ends. Default 40 min, so one hour with the random part.
    pub longest_retry: Duration,
    /// For a name to be resolved. Default 15 s.
    pub resolve: Duration,
    /// For a TCP connection to be made. Default 10 s.
    pub connect: Duration,
    /// For a whole HTTP exchange: connect, redirects and the last byte. Default 60 s.
    pub http: Duration,
    /// The first wait for a UDP tracker's answer; doubles with each retransmission (BEP 15). Default 15 s.
    pub udp_first_wait: Duration,
    /// How often a UDP request is sent again before another address or tracker gets its turn; at most 8. The rest of
    /// BEP 15's schedule is the wait before the tracker is asked again. Default 2.
    pub udp_retransmits: u32,
}

/// What a tracker asks for in a reply that accepts an announce.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Terms {
    pub(super) interval: Option<Duration>,
    pub(super) min_interval: Option<Duration>,
}

/// When a tracker that failed may be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    /// The tracker did not say: exponential backoff.
    Backoff,
    /// As backoff, but not before this has passed.
    NotBefore(Duration),
    /// It said to wait this long (BEP 31).
    After(Duration),
    /// It said never (BEP 31), or it cannot ever work.
    Never,
}

/// One tier's trackers, named by their place in the list that [`Tier::new`] was told the length of.
#[derive(Debug)]
pub(super) struct Tier {
    timing: Timing,
    rng: fastrand::Rng,
    trackers: Vec<Tracker>,
    /// The order in which they are tried.
    order: Vec<usize>,
    /// When the next round is due; `None` if every tracker said never.
    next_round: Option<Instant>,
    /// Before this the tracker that works does not want to hear from us, unless about an event.
    not_before: Option<Instant>,
    completed: Completed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Completed {
    No,
    /// The download finished while we announced: some tracker is to hear of it.
    Pending,
    Told,
}

#[derive(Debug, Default)]
struct Tracker {
    /// It has accepted `started` and not been told `stopped`.
    started: bool,
    failures: u32,
    /// After a failure: not asked before this.
    blocked: Option<Blocked>,
}

#[derive(Clone, Copy, Debug)]
enum Blocked {
    Until(Instant),
    ForGood,
}

impl Tier {
    /// A tier of `count` trackers in random order, due at once.
    pub(super) fn new(count: usize, timing: Timing, seed: u64, now: Instant) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut order: Vec<_> = (0..count).collect();
        rng.shuffle(&mut order);
        Self {
            timing,
            rng,
            trackers: std::iter::repeat_with(Tracker::default).take(count).collect(),
            order,
            next_round: Some(now),
            not_before: None,
            completed: Completed::No,
        }
    }

    /// When the next round is due, `None` for never.
    pub(super) fn next_round(&self) -> Option<Instant> {
        self.next_round
    }

    /// The trackers to try now, in this order, until one accepts.
    pub(super) fn candidates(&self, now: Instant) -> Vec<usize> {
        let free = |&&tracker: &&usize| match self.trackers[tracker].blocked {
            None => true,
            Some(Blocked::Until(at)) => at <= now,
            Some(Blocked::ForGood) => false,
        };
        self.order.iter().filter(free).copied().collect()
    }

    /// What an announce to this tracker says: `started` until it has accepted one, then `completed` once per tier.
    pub(super) fn event(&self, tracker: usize) -> Option<Event> {
        match (self.trackers[tracker].started, self.completed) {
            (false, _) => Some(Event::Started),
            (true, Completed::Pending) => Some(Event::Completed),
            (true, _) => None,
        }
    }

    /// The tracker accepted an announce with this event: the round is over.
    pub(super) fn accepted(&mut self, tracker: usize, event: Option<Event>, terms: Terms, now: Instant) {
        let timing = self.timing;
        let believed = |asked: Duration| asked.clamp(timing.shortest_interval, timing.longest_interval);
        let interval = believed(terms.interval.unwrap_or(timing.interval));
        let min_interval = terms.min_interval.map_or(timing.min_interval.min(interval), believed);
        let state = &mut self.trackers[tracker];
        state.started = true;
        state.failures = 0;
        state.blocked = None;
        if event == Some(Event::Completed) {
            self.completed = Completed::Told;
        }
        if let Some(place) = self.order.iter().position(|&other| other == tracker) {
            self.order[..=place].rotate_right(1);
        }
        self.not_before = Some(now + min_interval);
        let event_waits = self.completed == Completed::Pending;
        self.next_round = Some(if event_waits { now } else { now + interval.max(min_interval) });
    }

    /// The tracker did not accept.
    pub(super) fn failed(&mut self, tracker: usize, retry: Retry, now: Instant) {
        let state = &mut self.trackers[tracker];
        let doubled =
            self.timing.first_retry.saturating_mul(1 << state.failures.min(20)).min(self.timing.longest_retry);
        state.failures += 1;
        let backoff = doubled + doubled.mul_f64(self.rng.f64() / 2.0);
        let wait = match retry {
            Retry::Backoff => backoff,
            Retry::NotBefore(wait) => backoff.max(wait),
            Retry::After(wait) => wait.clamp(self.timing.shortest_interval, self.timing.longest_interval),
            Retry::Never => {
                state.blocked = Some(Blocked::ForGood);
                return;
            }
        };
        state.blocked = Some(Blocked::Until(now + wait));
    }

    /// No tracker accepted: the next round comes when the first of them may be asked again.
    pub(super) fn round_failed(&mut self, now: Instant) {
        let free_at = |tracker: &Tracker| match tracker.blocked {
            None => Some(now),
            Some(Blocked::Until(at)) => Some(at),
            Some(Blocked::ForGood) => None,
        };
        self.not_before = None;
        self.next_round = self.trackers.iter().filter_map(free_at).min();
    }

    /// More peers are wanted: the next round comes as soon as the tracker's minimum interval allows. A failing tracker's
    /// backoff stays as it is.
    pub(super) fn hurry(&mut self, now: Instant) {
        if let (Some(next), Some(not_before)) = (self.next_round, self.not_before) {
            self.next_round = Some(next.min(not_before.max(now)));
        }
    }

    /// The download has finished. An event does not wait for the interval, nor for the minimum (BEP 3, BEP 15).
    pub(super) fn complete(&mut self, now: Instant) {
        if self.completed != Completed::No {
            return;
        }
        self.completed = Completed::Pending;
        // After a failed round the backoff holds, and before the first one `started` comes first.
        if self.not_before.is_some() {
            self.next_round = Some(now);
        }
    }

    /// The trackers to which `stopped` is owed.
    pub(super) fn owed_stopped(&self) -> Vec<usize> {
        (0..self.trackers.len()).filter(|&tracker| self.trackers[tracker].started).collect()
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30 * 60),
            min_interval: Duration::from_secs(5 * 60),
            shortest_interval: Duration::from_secs(30),
            longest_interval: Duration::from_secs(24 * 60 * 60),
            first_retry: Duration::from_secs(5),
            longest_retry: Duration::from_secs(40 * 60),
            resolve: Duration::from_secs(15),
            connect: Duration::from_secs(10),
            http: Duration::from_secs(60),
            udp_first_wait: Duration::from_secs(15),
            udp_retransmits: 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    fn tier(count: usize) -> (Tier, Instant) {
        let now = Instant::now();
        (Tier::new(count, Timing::default(), 7, now), now)
    }

    fn terms(interval: u64, min_interval: Option<u64>) -> Terms {
        Terms { interval: Some(SECOND * interval as u32), min_interval: min_interval.map(Duration::from_secs) }
    }

    #[test]
    fn a_tier_is_shuffled_by_its_seed() {
        let now = Instant::now();
        let order = |seed| Tier::new(8, Timing::default(), seed, now).candidates(now);
        assert_eq!(order(1), order(1));
        assert!((2..20).any(|seed| order(seed) != order(1)));
    }

    #[test]
    fn a_tracker_that_works_moves_to_the_front() {
        let (mut tier, now) = tier(3);
        let before = tier.candidates(now);
        tier.accepted(before[2], Some(Event::Started), Terms::default(), now);
        assert_eq!(tier.candidates(now), [before[2], before[0], before[1]]);
    }

    #[test]
    fn started_is_said_until_it_is_accepted_and_then_nothing() {
        let (mut tier, now) = tier(1);
        assert_eq!(tier.event(0), Some(Event::Started));
        tier.failed(0, Retry::Backoff, now);
        tier.round_failed(now);
        assert_eq!(tier.event(0), Some(Event::Started));
        assert!(tier.owed_stopped().is_empty());
        tier.accepted(0, Some(Event::Started), Terms::default(), now);
        assert_eq!(tier.event(0), None);
        assert_eq!(tier.owed_stopped(), [0]);
    }

    #[test]
    fn completed_is_said_once_and_at_once() {
        let (mut tier, now) = tier(1);
        tier.accepted(0, Some(Event::Started), terms(1800, Some(900)), now);
        tier.complete(now + SECOND);
        assert_eq!(tier.next_round(), Some(now + SECOND));
        assert_eq!(tier.event(0), Some(Event::Completed));
        tier.accepted(0, Some(Event::Completed), terms(1800, Some(900)), now + SECOND);
        tier.complete(now + SECOND);
        assert_eq!(tier.event(0), None);
        assert_eq!(tier.next_round(), Some(now + SECOND + 30 * MINUTE));
    }

    #[test]
    fn completed_before_started_was_accepted_follows_it() {
        let (mut tier, now) = tier(1);
        tier.complete(now);
        assert_eq!(tier.event(0), Some(Event::Started));
        tier.accepted(0, Some(Event::Started), Terms::default(), now);
        assert_eq!(tier.event(0), Some(Event::Completed));
        assert_eq!(tier.next_round(), Some(now));
    }

    #[test]
    fn the_interval_is_kept_and_clamped() {
        let (mut tier, now) = tier(1);
        tier.accepted(0, Some(Event::Started), terms(600, None), now);
        assert_eq!(tier.next_round(), Some(now + 10 * MINUTE));
        tier.accepted(0, None, terms(0, None), now);
        assert_eq!(tier.next_round(), Some(now + 30 * SECOND));
        tier.accepted(0, None, terms(u64::from(u32::MAX), None), now);
        assert_eq!(tier.next_round(), Some(now + 24 * 60 * MINUTE));
        tier.accepted(0, None, Terms::default(), now);
        assert_eq!(tier.next_round(), Some(now + 30 * MINUTE));
    }

    #[test]
    fn hurrying_waits_for_the_minimum_interval() {
        let (mut tier, now) = tier(1);
        tier.accepted(0, Some(Event::Started), terms(1800, Some(300)), now);
        tier.hurry(now + MINUTE);
        assert_eq!(tier.next_round(), Some(now + 5 * MINUTE));
        tier.hurry(now + 6 * MINUTE);
        assert_eq!(tier.next_round(), Some(now + 5 * MINUTE));
        tier.accepted(0, None, terms(120, None), now);
        tier.hurry(now);
        assert_eq!(tier.next_round(), Some(now + 2 * MINUTE));
    }

    #[test]
    fn failures_back_off_ever_longer_and_hurrying_does_not_help() {
        let (mut tier, mut now) = tier(1);
        let mut last = Duration::ZERO;
        for _ in 0..9 {
            tier.failed(0, Retry::Backoff, now);
            tier.round_failed(now);
            let next = tier.next_round().unwrap();
            tier.hurry(now);
            assert_eq!(tier.next_round(), Some(next));
            assert!(tier.candidates(now).is_empty());
            assert!(next - now > last, "{:?} after {last:?}", next - now);
            last = next - now;
            now = next;
        }
        for _ in 0..40 {
            tier.failed(0, Retry::Backoff, now);
        }
        tier.round_failed(now);
        assert!(tier.next_round().unwrap() - now <= 60 * MINUTE);
    }

    #[test]
    fn a_failed_tracker_is_passed_over_until_its_time_comes() {
        let (mut tier, now) = tier(2);
        let [first, second] = tier.candidates(now)[..] else { panic!() };
        tier.failed(first, Retry::After(10 * MINUTE), now);
        tier.accepted(second, Some(Event::Started), Terms::default(), now);
        assert_eq!(tier.candidates(now + 9 * MINUTE), [second]);
        assert_eq!(tier.candidates(now + 10 * MINUTE), [second, first]);
    }

    #[test]
    fn a_tracker_that_says_never_is_never_asked_again() {
        let (mut tier, now) = tier(1);
        tier.failed(0, Retry::Never, now);
        tier.round_failed(now);
        assert_eq!(tier.next_round(), None);
        assert!(tier.candidates(now + 1000 * MINUTE).is_empty());
    }

    #[test]
    fn a_round_of_failures_ends_at_the_earliest_retry() {
        let (mut tier, now) = tier(2);
        tier.failed(0, Retry::After(20 * MINUTE), now);
        tier.failed(1, Retry::NotBefore(10 * MINUTE), now);
        tier.round_failed(now);
        assert_eq!(tier.next_round(), Some(now + 10 * MINUTE));
    }
}
