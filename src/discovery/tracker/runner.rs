//! The thread of one tier: waits until a round is due, asks the tier's trackers one after the other until one accepts, and
//! in the end sends `stopped` to those that are owed it.
//!
//! It owns the trackers of its tier. Which one is asked when, and about which event, is decided in `tiers`; how an announce
//! is made, in `host`. What is heard goes to what the announcer shares with its threads.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, at, never, select};

use super::super::host::{Exchange, Host};
use super::super::tiers::{Terms, Tier};
use super::{STACK, Shared, TrackerState};
use crate::wire::tracker::Event;

/// What the thread of one tier owns.
pub(super) struct TierRunner {
    shared: Arc<Shared>,
    tier: Tier,
    hosts: Vec<(usize, Host)>,
    hurries: Receiver<()>,
    completes: Receiver<()>,
}

impl TierRunner {
    /// `hosts` are the trackers of the tier with their places among the statuses.
    pub(super) fn new(
        shared: Arc<Shared>,
        number: usize,
        hosts: Vec<(usize, Host)>,
        hurries: Receiver<()>,
        completes: Receiver<()>,
    ) -> Self {
        // Tiers must not draw the same numbers.
        let seed = shared.setup.seed.wrapping_add((number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let tier = Tier::new(hosts.len(), shared.setup.timing, seed, Instant::now());
        Self { shared, tier, hosts, hurries, completes }
    }

    pub(super) fn run(mut self) {
        while self.wait() {
            self.round();
        }
        self.farewell();
    }

    /// Until a round is due; `false` once a stop has begun.
    fn wait(&mut self) -> bool {
        loop {
            let now = Instant::now();
            if self.shared.announces.is_raised() {
                return false;
            }
            if self.completes.try_recv().is_ok() {
                self.tier.complete(now);
            }
            let next = self.tier.next_round();
            if next.is_some_and(|next| next <= now) {
                return true;
            }
            self.hosts.iter_mut().for_each(|(_, host)| host.let_go(now));
            let idle = self.hosts.iter().filter_map(|(_, host)| host.fresh_until()).min();
            let timer = next.into_iter().chain(idle).min().map_or_else(never, at);
            select! {
                recv(self.shared.announces.signal()) -> _ => return false,
                recv(self.completes) -> _ => self.tier.complete(Instant::now()),
                recv(self.hurries) -> _ => self.tier.hurry(Instant::now()),
                recv(timer) -> _ => {}
            }
            self.tell_next_announce();
        }
    }

    /// Tries trackers until one accepts.
    fn round(&mut self) {
        let candidates = self.tier.candidates(Instant::now());
        for (place, &tracker) in candidates.iter().enumerate() {
            let event = self.tier.event(tracker);
            let others_wait = place + 1 < candidates.len();
            let shared = self.shared.clone();
            let (slot, host) = &mut self.hosts[tracker];
            shared.status(*slot, |status| status.state = TrackerState::Announcing);
            let url = host.url().clone();
            let exchange =
                Exchange { setup: &shared.setup, event, interrupt: &shared.announces, until: None, others_wait };
            let mut terms: Option<Terms> = None;
            let outcome = host.announce(&exchange, |heard| {
                let terms = terms.get_or_insert(heard.terms);
                terms.interval = terms.interval.max(heard.terms.interval);
                terms.min_interval = terms.min_interval.max(heard.terms.min_interval);
                shared.hear(*slot, &url, heard);
            });
            let slot = *slot;
            let now = Instant::now();
            match outcome {
                Ok(()) => {
                    self.tier.accepted(tracker, event, terms.unwrap_or_default(), now);
                    shared.status(slot, |status| (status.state, status.error) = (TrackerState::Working, None));
                    self.tell_next_announce();
                    if shared.setup.scrape {
                        match self.hosts[tracker].1.scrape(&exchange) {
                            Ok(entry) => shared.status(slot, |status| status.scrape = Some(entry)),
                            Err(failure) => log::debug!("{url}: no scrape: {}", failure.message),
                        }
                    }
                    return;
                }
                Err(_) if shared.announces.is_raised() => return,
                Err(failure) => {
                    self.tier.failed(tracker, failure.retry, now);
                    shared.fail(slot, &url, failure.message);
                }
            }
        }
        self.tier.round_failed(Instant::now());
        self.tell_next_announce();
    }

    /// Sends `stopped` to all that are owed it, in parallel.
    fn farewell(&mut self) {
        let shared = self.shared.clone();
        let Some(until) = *shared.farewell_until.lock() else { return };
        if shared.farewells.is_raised() {
            return;
        }
        let owed = self.tier.owed_stopped();
        let hosts = self.hosts.iter_mut().enumerate().filter(|(tracker, _)| owed.contains(tracker));
        thread::scope(|scope| {
            let mut hosts = hosts.map(|(_, (_, host))| host).peekable();
            while let Some(host) = hosts.next() {
                let mut say = || {
                    let exchange = Exchange {
                        setup: &shared.setup,
                        event: Some(Event::Stopped),
                        interrupt: &shared.farewells,
                        until: Some(until),
                        others_wait: false,
                    };
                    if let Err(failure) = host.announce(&exchange, |_| {}) {
                        log::debug!("{}: stopped was not accepted: {}", host.url(), failure.message);
                    }
                };
                if hosts.peek().is_none() {
                    say();
                    break;
                }
                // Without a thread this tracker will have to notice by itself.
                let builder = thread::Builder::new().name("announce-stopped".into()).stack_size(STACK);
                if let Err(error) = builder.spawn_scoped(scope, say) {
                    log::debug!("no thread to send stopped: {error}");
                }
            }
        });
    }

    fn tell_next_announce(&self) {
        let next = self.tier.next_round();
        let mut statuses = self.shared.statuses.lock();
        self.hosts.iter().for_each(|(slot, _)| statuses[*slot].next_announce = next);
    }
}
