//! Our queries that wait for an answer.
//!
//! It owns transaction ids and deadlines. An answer counts if it has the id of a query and comes from where that went. A
//! query is *slow* after the time that nearly all nodes answer within, as measured, so that another one may go beside it;
//! it is given up later.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::event::LookupId;

/// How many may be under way at once: lookups wait beyond it.
const MAX_IN_FLIGHT: usize = 1024;

/// The bounds of when a query is slow, and what holds before anything was measured.
const MIN_SLOW: Duration = Duration::from_millis(100);
const MAX_SLOW: Duration = Duration::from_secs(1);

/// The bounds of when it is given up: after four times that.
const MIN_LOST: Duration = Duration::from_millis(1500);

/// What an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// A step of a lookup.
    Step(LookupId),
    /// To store something at the end of a lookup.
    Store(LookupId),
    /// To see whether a node is there, for somebody.
    Ping(LookupId),
    /// One sample, for somebody.
    Sample(LookupId),
    /// To see whether a node is there, for the table.
    Check,
}

impl Use {
    pub(super) fn lookup(self) -> Option<LookupId> {
        match self {
            Self::Step(lookup) | Self::Store(lookup) | Self::Ping(lookup) | Self::Sample(lookup) => Some(lookup),
            Self::Check => None,
        }
    }
}

/// A query that waits for an answer.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) addr: SocketAddr,
    pub(super) used: Use,
    pub(super) sent: Instant,
    slow: bool,
}

/// What became of a query whose time was up.
#[derive(Debug)]
pub(super) enum Overdue {
    /// It may still be answered.
    Slow(Pending),
    /// It is given up.
    Lost(Pending),
}

#[derive(Debug, Default)]
pub(super) struct Ours {
    pending: HashMap<u32, Pending>,
    deadlines: BTreeSet<(Instant, u32)>,
    checks: usize,
    /// Mean and mean deviation of round trips.
    rtt: Option<(Duration, Duration)>,
}

impl Ours {
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= MAX_IN_FLIGHT
    }

    /// How many of them are checks.
    pub(super) fn checks(&self) -> usize {
        self.checks
    }

    /// Whether somebody at this address is being checked.
    pub(super) fn is_checking(&self, addr: SocketAddr) -> bool {
        self.pending.values().any(|pending| pending.addr == addr && pending.used == Use::Check)
    }

    /// Takes note of a query that is sent now; gives its transaction id.
    pub(super) fn sent(&mut self, addr: SocketAddr, used: Use, rng: &mut fastrand::Rng, now: Instant) -> u32 {
        let mut transaction = rng.u32(..);
        while self.pending.contains_key(&transaction) {
            transaction = transaction.wrapping_add(1);
        }
        self.checks += usize::from(used == Use::Check);
        self.pending.insert(transaction, Pending { addr, used, sent: now, slow: false });
        self.deadlines.insert((now + self.slow_after(), transaction));
        transaction
    }

    /// The query that this answers, which is done with that.
    pub(super) fn answered(&mut self, from: SocketAddr, transaction: &[u8], now: Instant) -> Option<Pending> {
        let transaction = u32::from_be_bytes(transaction.try_into().ok()?);
        self.pending.get(&transaction).filter(|pending| pending.addr == from)?;
        let pending = self.pending.remove(&transaction)?;
        self.checks -= usize::from(pending.used == Use::Check);
        let rtt = now.saturating_duration_since(pending.sent);
        self.rtt = Some(match self.rtt {
            None => (rtt, rtt / 2),
            // As TCP does (RFC 6298).
            Some((mean, deviation)) => ((mean * 7 + rtt) / 8, (deviation * 3 + mean.abs_diff(rtt)) / 4),
        });
        Some(pending)
    }

    /// When the next query is overdue. Of those that were answered it may tell, too.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The next query whose time is up.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<Overdue> {
        while let Some((deadline, transaction)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(deadline, transaction));
            let lost_after = self.lost_after();
            let Some(pending) = self.pending.get_mut(&transaction) else { continue };
            if !pending.slow {
                pending.slow = true;
                let again = (pending.sent + lost_after).max(deadline);
                self.deadlines.insert((again, transaction));
                return Some(Overdue::Slow(pending.clone()));
            }
            let pending = self.pending.remove(&transaction)?;
            self.checks -= usize::from(pending.used == Use::Check);
            return Some(Overdue::Lost(pending));
        }
        None
    }

    /// Forgets the queries of a lookup that was stopped.
    pub(super) fn forget(&mut self, lookup: LookupId) {
        self.pending.retain(|_, pending| pending.used.lookup() != Some(lookup));
    }

    fn slow_after(&self) -> Duration {
        self.rtt.map_or(MAX_SLOW, |(mean, deviation)| (mean + deviation * 4).clamp(MIN_SLOW, MAX_SLOW))
    }

    fn lost_after(&self) -> Duration {
        (self.slow_after() * 4).max(MIN_LOST)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::{Duration, Instant};

    use super::{LookupId, MAX_SLOW, MIN_LOST, MIN_SLOW, Ours, Overdue, Use};

    fn addr(n: u8) -> SocketAddr {
        ([11, 0, 0, n], 6881).into()
    }

    #[test]
    fn a_query_is_slow_first_and_lost_later() {
        let now = Instant::now();
        let mut rng = fastrand::Rng::with_seed(1);
        let mut ours = Ours::default();
        ours.sent(addr(1), Use::Check, &mut rng, now);
        assert!(ours.overdue(now).is_none());
        assert!(matches!(ours.overdue(now + MAX_SLOW), Some(Overdue::Slow(pending)) if pending.addr == addr(1)));
        assert!(ours.overdue(now + MAX_SLOW).is_none());
        assert_eq!((ours.len(), ours.checks()), (1, 1));
        assert!(matches!(ours.overdue(now + 4 * MAX_SLOW), Some(Overdue::Lost(_))));
        assert_eq!((ours.len(), ours.checks(), ours.next_deadline()), (0, 0, None));
    }

    #[test]
    fn the_time_to_wait_follows_from_how_long_answers_took() {
        let now = Instant::now();
        let mut rng = fastrand::Rng::with_seed(1);
        let mut ours = Ours::default();
        let mut answer = |ours: &mut Ours, rtt| {
            let transaction = ours.sent(addr(1), Use::Ping(LookupId(1)), &mut rng, now);
            assert!(ours.answered(addr(2), &transaction.to_be_bytes(), now + rtt).is_none(), "from elsewhere");
            assert!(ours.answered(addr(1), &[0; 3], now + rtt).is_none(), "another transaction");
            assert!(ours.answered(addr(1), &transaction.to_be_bytes(), now + rtt).is_some());
            assert!(ours.answered(addr(1), &transaction.to_be_bytes(), now + rtt).is_none(), "twice");
        };
        (0..50).for_each(|_| answer(&mut ours, Duration::from_millis(1)));
        assert_eq!((ours.slow_after(), ours.lost_after()), (MIN_SLOW, MIN_LOST));
        (0..50).for_each(|_| answer(&mut ours, Duration::from_millis(300)));
        assert!((300..450).contains(&(ours.slow_after().as_millis() as u64)), "{:?}", ours.slow_after());
        (0..50).for_each(|_| answer(&mut ours, Duration::from_secs(3)));
        assert_eq!(ours.slow_after(), MAX_SLOW);
    }

    #[test]
    fn what_a_stopped_lookup_asked_is_forgotten() {
        let now = Instant::now();
        let mut rng = fastrand::Rng::with_seed(1);
        let mut ours = Ours::default();
        let transaction = ours.sent(addr(1), Use::Step(LookupId(1)), &mut rng, now);
        ours.sent(addr(1), Use::Step(LookupId(2)), &mut rng, now);
        ours.forget(LookupId(1));
        assert_eq!(ours.len(), 1);
        assert!(ours.answered(addr(1), &transaction.to_be_bytes(), now).is_none());
        assert!(
            matches!(ours.overdue(now + MAX_SLOW), Some(Overdue::Slow(pending)) if pending.used == Use::Step(LookupId(2)))
        );
    }
}
