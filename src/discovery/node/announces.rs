//! When the DHT is asked for the peers of which torrent, and told that we are one of them.
//!
//! It owns the torrents that take part and the addresses that wait for their owners. It is pure: it knows neither the DHT
//! nor a clock, and hands an address on without looking at it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::discovery::dht::AnnouncePort;
use crate::metainfo::InfoHash;

/// How often a torrent is looked up and announced at most, once somebody was found. Nodes forget an announce after some
/// half an hour.
const INTERVAL: Duration = Duration::from_secs(15 * 60);
/// How soon a torrent of which nobody was found is looked up again: two that begin at the same moment miss each other.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// How much longer each such wait is than the one before.
const LONGER: u32 = 3;
/// How soon a torrent is looked up again that lacks peers although somebody was found, such as downloaders that have
/// nothing yet; each time in a row it takes twice as long.
const LACKING: Duration = Duration::from_secs(30);
/// Torrents that are looked up at the same time: a session of thousands must not flood its own line.
const AT_ONCE: usize = 8;
/// Addresses of one torrent that wait for its owner; what is more is let go of.
const WAITING: usize = 256;
/// How long an owner that had no room is left alone.
const NO_ROOM: Duration = Duration::from_millis(100);

/// Takes addresses to the owner of a torrent without waiting; `false` says that there was no room for them.
pub(crate) type Found = Box<dyn Fn(&[SocketAddr]) -> bool + Send>;

/// The torrents that take part in the DHT.
#[derive(Default)]
pub(super) struct Announces {
    torrents: HashMap<InfoHash, Torrent>,
    running: usize,
}

struct Torrent {
    /// Which of several registrations of the same torrent it is.
    number: u64,
    /// The TCP port to announce; `None` where we cannot be called.
    port: Option<u16>,
    /// We have all of it.
    seed: bool,
    found: Found,
    step: Step,
    /// How long to wait where nobody was found.
    wait: Duration,
    /// Nothing comes from whom it knows.
    lacking: bool,
    /// When it is looked up as long as it lacks peers, and how long to wait after that.
    sooner: Option<Instant>,
    patience: Duration,
    waiting: Vec<SocketAddr>,
    /// When the owner is offered what waits.
    offer: Option<Instant>,
}

enum Step {
    /// To be looked up at this time.
    Next(Instant),
    /// Being looked up; whether somebody else was found.
    Running { somebody: bool, again: bool },
}

/// A lookup to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lookup {
    pub(super) info_hash: InfoHash,
    /// The port to announce in the end.
    pub(super) port: Option<u16>,
    /// Whether to announce that we have all of it.
    pub(super) seed: bool,
}

impl Lookup {
    /// What is announced in the end.
    pub(super) fn announce(&self) -> Option<AnnouncePort> {
        self.port.map(|port| AnnouncePort { port, implied: false, seed: self.seed })
    }
}

impl Announces {
    /// A torrent takes part from now on.
    pub(super) fn register(&mut self, info_hash: InfoHash, number: u64, port: Option<u16>, found: Found, now: Instant) {
        let step = match self.torrents.remove(&info_hash) {
            Some(Torrent { step: Step::Running { somebody, .. }, .. }) => Step::Running { somebody, again: true },
            _ => Step::Next(now),
        };
        let torrent = Torrent {
            number,
            port,
            seed: false,
            found,
            step,
            wait: FIRST_RETRY,
            lacking: false,
            sooner: None,
            patience: LACKING,
            waiting: Vec::new(),
            offer: None,
        };
        self.torrents.insert(info_hash, torrent);
    }

    /// A torrent takes part no more; `false` where a later registration of it goes on.
    pub(super) fn unregister(&mut self, info_hash: &InfoHash, number: u64) -> bool {
        if self.torrents.get(info_hash).is_none_or(|torrent| torrent.number != number) {
            return false;
        }
        let gone = self.torrents.remove(info_hash);
        self.running -= usize::from(gone.is_some_and(|torrent| matches!(torrent.step, Step::Running { .. })));
        true
    }

    /// Whether we have all of a torrent.
    pub(super) fn set_seed(&mut self, info_hash: &InfoHash, seed: bool) {
        if let Some(torrent) = self.torrents.get_mut(info_hash) {
            torrent.seed = seed;
        }
    }

    /// Whether nothing comes from whom a torrent knows, so that it is looked up more often.
    pub(super) fn set_lacking(&mut self, info_hash: &InfoHash, lacking: bool) {
        if let Some(torrent) = self.torrents.get_mut(info_hash) {
            torrent.lacking = lacking;
        }
    }

    /// We are called at another port from now on, which others are told as soon as may be.
    #[cfg(any(feature = "upnp", test))]
    pub(super) fn set_port(&mut self, port: u16, now: Instant) {
        for torrent in self.torrents.values_mut().filter(|torrent| torrent.port.is_some_and(|told| told != port)) {
            torrent.port = Some(port);
            torrent.hurry(now);
        }
    }

    /// Looks a torrent up as soon as may be.
    pub(super) fn hurry(&mut self, info_hash: &InfoHash, now: Instant) {
        if let Some(torrent) = self.torrents.get_mut(info_hash) {
            torrent.hurry(now);
        }
    }

    /// As [`hurry`](Self::hurry) for all of which nobody was found yet: there are nodes to ask now.
    pub(super) fn hurry_all(&mut self, now: Instant) {
        for torrent in self.torrents.values_mut().filter(|torrent| torrent.wait < INTERVAL) {
            torrent.wait = FIRST_RETRY;
            torrent.hurry(now);
        }
    }

    /// A lookup that is due; it is running from now on.
    pub(super) fn poll_lookup(&mut self, now: Instant) -> Option<Lookup> {
        if self.running >= AT_ONCE {
            return None;
        }
        let due = |torrent: &Torrent| torrent.due().is_some_and(|due| due <= now);
        let (info_hash, torrent) = self.torrents.iter_mut().find(|(_, torrent)| due(torrent))?;
        torrent.step = Step::Running { somebody: false, again: false };
        self.running += 1;
        Some(Lookup { info_hash: *info_hash, port: torrent.port, seed: torrent.seed })
    }

    /// Peers were found by a lookup.
    pub(super) fn found(&mut self, info_hash: &InfoHash, peers: &[SocketAddr], now: Instant) {
        let Some(torrent) = self.torrents.get_mut(info_hash) else { return };
        if let Step::Running { somebody, .. } = &mut torrent.step {
            // We are found ourselves, from the second time on; somebody else who happens to have the port comes a bit later.
            *somebody |= peers.iter().any(|peer| Some(peer.port()) != torrent.port);
        }
        for &peer in peers {
            if torrent.waiting.len() < WAITING && !torrent.waiting.contains(&peer) {
                torrent.waiting.push(peer);
            }
        }
        torrent.offer(now);
    }

    /// A lookup is over.
    pub(super) fn ended(&mut self, info_hash: &InfoHash, now: Instant) {
        let Some(torrent) = self.torrents.get_mut(info_hash) else { return };
        let Step::Running { somebody, again } = torrent.step else { return };
        self.running -= 1;
        // Not all at the same time, for ever.
        let interval = INTERVAL - Duration::from_secs(u64::from(info_hash.as_bytes()[0]));
        let wait = if somebody { interval } else { torrent.wait.min(interval) };
        torrent.wait = if somebody { INTERVAL } else { (torrent.wait * LONGER).min(INTERVAL) };
        torrent.step = Step::Next(if again { now } else { now + wait });
        torrent.sooner = Some(now + torrent.patience);
        torrent.patience = if torrent.lacking { (torrent.patience * 2).min(INTERVAL) } else { LACKING };
    }

    /// Offers owners what waits for them.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for torrent in self.torrents.values_mut() {
            if torrent.offer.is_some_and(|offer| offer <= now) {
                torrent.offer(now);
            }
        }
    }

    /// When something is due next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let full = self.running >= AT_ONCE;
        let lookup = |torrent: &Torrent| torrent.due().filter(|_| !full);
        self.torrents.values().flat_map(|torrent| lookup(torrent).into_iter().chain(torrent.offer)).min()
    }
}

impl Torrent {
    /// When it is looked up next; `None` while it is.
    fn due(&self) -> Option<Instant> {
        match self.step {
            Step::Next(next) => Some(self.sooner.filter(|_| self.lacking).map_or(next, |sooner| sooner.min(next))),
            Step::Running { .. } => None,
        }
    }

    fn hurry(&mut self, now: Instant) {
        match &mut self.step {
            Step::Next(next) => *next = now.min(*next),
            Step::Running { again, .. } => *again = true,
        }
    }

    fn offer(&mut self, now: Instant) {
        if self.waiting.is_empty() || (self.found)(&self.waiting) {
            self.waiting.clear();
            self.offer = None;
        } else {
            self.offer = Some(now + NO_ROOM);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use parking_lot::Mutex;

    use super::*;

    const PORT: Option<u16> = Some(6881);

    fn hash(number: u8) -> InfoHash {
        InfoHash::new([number; 20])
    }

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn nowhere() -> Found {
        Box::new(|_| true)
    }

    fn one(now: Instant) -> Announces {
        let mut announces = Announces::default();
        announces.register(hash(0), 1, PORT, nowhere(), now);
        announces
    }

    /// The next lookup and how long after `now` it is due, in seconds.
    fn next(announces: &mut Announces, now: Instant) -> u64 {
        let due = announces.poll_timeout().unwrap();
        assert_eq!(announces.poll_lookup(due - Duration::from_nanos(1)), None);
        assert_eq!(announces.poll_lookup(due), Some(Lookup { info_hash: hash(0), port: PORT, seed: false }));
        (due - now).as_secs()
    }

    #[test]
    fn a_torrent_is_looked_up_at_once_and_then_every_quarter_of_an_hour() {
        let now = Instant::now();
        let mut announces = one(now);
        assert_eq!(announces.poll_lookup(now).unwrap().info_hash, hash(0));
        assert_eq!((announces.poll_lookup(now), announces.poll_timeout()), (None, None));
        announces.found(&hash(0), &[peer(7)], now);
        announces.ended(&hash(0), now);
        assert_eq!(next(&mut announces, now), 900);
    }

    #[test]
    fn where_only_we_are_found_it_is_looked_up_again_soon_and_then_less_and_less_often() {
        let now = Instant::now();
        let mut announces = one(now);
        announces.poll_lookup(now).unwrap();
        let waits: Vec<_> = (0..9)
            .map(|_| {
                announces.found(&hash(0), &[peer(6881)], now);
                announces.ended(&hash(0), now);
                next(&mut announces, now)
            })
            .collect();
        assert_eq!(waits, [1, 3, 9, 27, 81, 243, 729, 900, 900]);
    }

    #[test]
    fn who_gets_nothing_from_whom_was_found_looks_again_sooner_and_less_and_less_often() {
        let now = Instant::now();
        let mut announces = one(now);
        announces.set_lacking(&hash(0), true);
        announces.poll_lookup(now).unwrap();
        let wait = |announces: &mut Announces| {
            announces.found(&hash(0), &[peer(7)], now);
            announces.ended(&hash(0), now);
            next(announces, now)
        };
        let waits: Vec<_> = (0..200).map(|_| wait(&mut announces)).collect();
        assert_eq!(waits[..7], [30, 60, 120, 240, 480, 900, 900]);
        assert!(waits[7..].iter().all(|&wait| wait == 900));
        // Once something comes, it is as for all others, and the next time it begins anew.
        announces.set_lacking(&hash(0), false);
        assert_eq!(wait(&mut announces), 900);
        announces.found(&hash(0), &[peer(7)], now);
        announces.ended(&hash(0), now);
        assert_eq!(announces.poll_timeout(), Some(now + INTERVAL));
        announces.set_lacking(&hash(0), true);
        assert_eq!(next(&mut announces, now), 30);
    }

    #[test]
    fn another_port_is_announced_at_once_and_to_nobody_where_there_is_none() {
        let now = Instant::now();
        let mut announces = one(now);
        announces.register(hash(1), 1, None, nowhere(), now);
        for _ in 0..2 {
            let lookup = announces.poll_lookup(now).unwrap();
            announces.found(&lookup.info_hash, &[peer(7)], now);
            announces.ended(&lookup.info_hash, now);
        }
        announces.set_port(6881, now);
        assert_eq!(announces.poll_lookup(now), None, "it is no other");
        announces.set_port(7000, now);
        assert_eq!(announces.poll_lookup(now), Some(Lookup { info_hash: hash(0), port: Some(7000), seed: false }));
        assert_eq!(announces.poll_lookup(now), None);
    }

    #[test]
    fn who_is_in_a_hurry_is_looked_up_now_or_after_the_lookup_that_runs() {
        let now = Instant::now();
        let mut announces = one(now);
        announces.poll_lookup(now).unwrap();
        announces.hurry(&hash(0), now);
        announces.found(&hash(0), &[peer(7)], now);
        announces.ended(&hash(0), now);
        assert_eq!(next(&mut announces, now), 0);
        announces.found(&hash(0), &[peer(7)], now);
        announces.ended(&hash(0), now);
        // Somebody is known: new nodes are no reason.
        announces.hurry_all(now);
        assert_eq!(announces.poll_lookup(now), None);
        announces.hurry(&hash(0), now);
        assert_eq!(next(&mut announces, now), 0);
    }

    #[test]
    fn few_torrents_are_looked_up_at_the_same_time_and_one_that_leaves_makes_room() {
        let now = Instant::now();
        let mut announces = Announces::default();
        (0..20).for_each(|number| announces.register(hash(number), 1, PORT, nowhere(), now));
        let running: Vec<_> = std::iter::from_fn(|| announces.poll_lookup(now)).collect();
        assert_eq!((running.len(), announces.poll_timeout()), (AT_ONCE, None));
        assert!(announces.unregister(&running[0].info_hash, 1));
        assert!(announces.poll_lookup(now).is_some() && announces.poll_lookup(now).is_none());
        announces.ended(&running[1].info_hash, now);
        assert!(announces.poll_lookup(now).is_some() && announces.poll_lookup(now).is_none());
    }

    #[test]
    fn addresses_wait_for_an_owner_without_room_and_are_bounded() {
        let now = Instant::now();
        let (room, got) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let found = {
            let (room, got) = (Arc::clone(&room), Arc::clone(&got));
            move |peers: &[SocketAddr]| {
                let has_room = room.load(Ordering::Relaxed) > 0;
                if has_room {
                    got.lock().extend_from_slice(peers);
                }
                has_room
            }
        };
        let mut announces = Announces::default();
        announces.register(hash(0), 1, PORT, Box::new(found), now);
        announces.poll_lookup(now).unwrap();
        let many: Vec<_> = (1..1000).chain(1..1000).map(peer).collect();
        announces.found(&hash(0), &many, now);
        assert_eq!(announces.poll_timeout(), Some(now + NO_ROOM));
        room.store(1, Ordering::Relaxed);
        announces.handle_timeout(now + NO_ROOM);
        assert_eq!(*got.lock(), many[..WAITING]);
        assert_eq!(announces.poll_timeout(), None);
    }

    #[test]
    fn a_late_farewell_does_not_end_a_new_registration() {
        let now = Instant::now();
        let mut announces = one(now);
        announces.register(hash(0), 2, PORT, nowhere(), now);
        assert!(!announces.unregister(&hash(0), 1));
        assert!(announces.poll_lookup(now).is_some());
        assert!(announces.unregister(&hash(0), 2));
        assert_eq!(announces.poll_timeout(), None);
        announces.ended(&hash(0), now);
        announces.found(&hash(0), &[peer(1)], now);
    }
}
