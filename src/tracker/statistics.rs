//! What the servers have done: counters by transport, and how they moved lately. It owns numbers only; what is in the store
//! the store says.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::store::Totals;

/// How many samples are kept: five minutes, with one a second.
const SAMPLES: usize = 300;

/// What a [`Tracker`](super::Tracker) has seen and done.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct TrackerStats {
    /// Torrents that somebody takes part in.
    pub torrents: u64,
    /// Peers that have all of a torrent, and those that have not.
    pub seeders: u64,
    /// See `seeders`.
    pub leechers: u64,
    /// Announces that were answered, and how many there were in the last second.
    pub announces: u64,
    /// See `announces`.
    pub announces_per_second: f64,
    /// Scrapes that were answered.
    pub scrapes: u64,
    /// Requests and connections that were not served, for whatever reason.
    pub refused: u64,
    /// Why the [state file](super::TrackerConfig::state_file) could not be written the last time; `None` where it could be.
    pub state_error: Option<String>,
}

/// How requests come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Http,
    Udp,
}

impl Transport {
    pub(super) const ALL: [Self; 2] = [Self::Http, Self::Udp];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Udp => "udp",
        }
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counter {
    /// Announces and scrapes that were answered with what was asked.
    Announces,
    Scrapes,
    /// TCP connections that were accepted; requests for a connection id.
    Connections,
    /// Requests that say nothing the protocol knows, or too much at once.
    Malformed,
    /// Requests with a connection id that is not, or no longer, the sender's.
    ConnectionId,
    /// Announces that name a port or an address which is not the peer's to name.
    Address,
    /// Torrents that are not served.
    NotServed,
    /// Requests without the key, where there is one.
    Key,
    /// Requests of an address that asked too often.
    TooOften,
    /// Requests that the store could not answer.
    Unavailable,
    /// Connections that were not accepted, for there were too many.
    Crowded,
    /// Connections of clients that were too slow.
    TooSlow,
}

impl Counter {
    const COUNT: usize = 12;

    /// Those that say what went wrong.
    pub(super) const ERRORS: [Self; 9] = [
        Self::Malformed,
        Self::ConnectionId,
        Self::Address,
        Self::NotServed,
        Self::Key,
        Self::TooOften,
        Self::Unavailable,
        Self::Crowded,
        Self::TooSlow,
    ];

    /// For a label.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Announces => "announces",
            Self::Scrapes => "scrapes",
            Self::Connections => "connections",
            Self::Malformed => "malformed",
            Self::ConnectionId => "connection_id",
            Self::Address => "address",
            Self::NotServed => "not_served",
            Self::Key => "key",
            Self::TooOften => "too_often",
            Self::Unavailable => "unavailable",
            Self::Crowded => "crowded",
            Self::TooSlow => "too_slow",
        }
    }
}

/// What one thread has counted and not yet added to the [`Statistics`].
#[derive(Debug, Default)]
pub(super) struct Tally([u64; Counter::COUNT]);

impl Tally {
    pub(super) fn count(&mut self, counter: Counter) {
        self.0[counter as usize] += 1;
    }
}

/// The sums of all threads.
#[derive(Debug)]
pub(super) struct Statistics {
    began: Instant,
    /// By transport, then by counter. Added to by all servers' threads.
    counters: [[AtomicU64; Counter::COUNT]; Transport::ALL.len()],
    /// Written by the thread `tracker-tidy`, read by pages.
    recent: Mutex<Recent>,
}

#[derive(Debug)]
struct Recent {
    /// When the last sample was taken, and what the counters were.
    taken: Instant,
    before: Sums,
    samples: VecDeque<Sample>,
}

/// Announces and scrapes by transport.
type Sums = [[u64; 2]; Transport::ALL.len()];

/// How many announces and scrapes there were a second, by transport.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sample {
    pub(super) announces: [f64; Transport::ALL.len()],
    pub(super) scrapes: [f64; Transport::ALL.len()],
}

impl Statistics {
    pub(super) fn new(now: Instant) -> Self {
        let recent = Recent { taken: now, before: Sums::default(), samples: VecDeque::with_capacity(SAMPLES) };
        Self { began: now, counters: Default::default(), recent: Mutex::new(recent) }
    }

    /// Adds what a thread has counted, and empties it.
    pub(super) fn add(&self, transport: Transport, tally: &mut Tally) {
        for (sum, number) in self.counters[transport as usize].iter().zip(&mut tally.0) {
            if *number != 0 {
                sum.fetch_add(std::mem::take(number), Ordering::Relaxed);
            }
        }
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    pub(super) fn get(&self, transport: Transport, counter: Counter) -> u64 {
        self.counters[transport as usize][counter as usize].load(Ordering::Relaxed)
    }

    /// Takes note of how far the counters have come.
    pub(super) fn sample(&self, now: Instant) {
        let sums = Transport::ALL
            .map(|transport| [Counter::Announces, Counter::Scrapes].map(|counter| self.get(transport, counter)));
        let recent = &mut *self.recent.lock();
        let seconds = now.saturating_duration_since(recent.taken).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let rate = |what: usize| {
            std::array::from_fn(|transport| {
                sums[transport][what].saturating_sub(recent.before[transport][what]) as f64 / seconds
            })
        };
        let sample = Sample { announces: rate(0), scrapes: rate(1) };
        if recent.samples.len() == SAMPLES {
            recent.samples.pop_front();
        }
        recent.samples.push_back(sample);
        (recent.taken, recent.before) = (now, sums);
    }

    /// Everything in one, beside what is in the store.
    pub(super) fn in_all(&self, totals: Totals) -> TrackerStats {
        let sum = |counters: &[Counter]| {
            let each = Transport::ALL.into_iter().flat_map(|transport| counters.iter().map(move |&it| (transport, it)));
            each.map(|(transport, counter)| self.get(transport, counter)).sum()
        };
        let last = self.recent.lock().samples.back().copied().unwrap_or_default();
        TrackerStats {
            torrents: totals.torrents,
            seeders: totals.seeders,
            leechers: totals.leechers,
            announces: sum(&[Counter::Announces]),
            announces_per_second: last.announces.iter().sum(),
            scrapes: sum(&[Counter::Scrapes]),
            refused: sum(&Counter::ERRORS),
            state_error: None,
        }
    }

    /// The last samples, the oldest first.
    pub(super) fn recent(&self) -> Vec<Sample> {
        self.recent.lock().samples.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn samples_say_how_many_there_were_a_second() {
        let start = Instant::now();
        let statistics = Statistics::new(start);
        let mut tally = Tally::default();
        (0..10).for_each(|_| tally.count(Counter::Announces));
        tally.count(Counter::TooOften);
        statistics.add(Transport::Udp, &mut tally);
        statistics.add(Transport::Udp, &mut tally);
        assert_eq!(statistics.get(Transport::Udp, Counter::Announces), 10);
        assert_eq!(statistics.get(Transport::Udp, Counter::TooOften), 1);
        assert_eq!(statistics.get(Transport::Http, Counter::Announces), 0);
        statistics.sample(start + Duration::from_secs(2));
        statistics.sample(start + Duration::from_secs(3));
        let samples = statistics.recent();
        assert_eq!(samples[0], Sample { announces: [0.0, 5.0], scrapes: [0.0; 2] });
        assert_eq!(samples[1], Sample::default());
    }

    #[test]
    fn only_the_last_samples_are_kept() {
        let start = Instant::now();
        let statistics = Statistics::new(start);
        (1..=2 * SAMPLES as u64).for_each(|second| statistics.sample(start + Duration::from_secs(second)));
        assert_eq!(statistics.recent().len(), SAMPLES);
    }

    #[test]
    fn every_counter_has_its_place() {
        let all = [Counter::Announces, Counter::Scrapes, Counter::Connections].into_iter().chain(Counter::ERRORS);
        assert_eq!(all.map(|counter| counter as usize).collect::<Vec<_>>(), (0..Counter::COUNT).collect::<Vec<_>>());
    }
}
