//! What is announced when on the local network, and what is heard there (BEP 14). Sans-IO: `now` and datagrams come in.
//!
//! A torrent is announced every five minutes, and whatever is due goes into one announce, of which there is at most one a
//! minute. Nothing is answered: who hears of a torrent dials, and that is answer enough. A flood is bounded by the number
//! of announces that are read in a second and of addresses that are believed for a torrent.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use crate::metainfo::InfoHash;
use crate::wire::lsd::{Announce, MAX_TORRENTS};

/// How often a torrent is announced.
const EVERY: Duration = Duration::from_secs(5 * 60);
/// The least time between two announces.
const LEAST: Duration = Duration::from_secs(60);
/// How long the first announce waits for more torrents to go with it.
const GATHER: Duration = Duration::from_millis(250);
/// Announces that are read in a second.
const READ_PER_SECOND: u32 = 100;
/// Addresses that are believed for a torrent in each [`EVERY`].
const BELIEVED: usize = 64;

/// The announcing and hearing of a session.
#[derive(Debug)]
pub(crate) struct LocalMachine {
    cookie: String,
    /// `None` where nobody can call us: then there is nothing to announce.
    port: Option<NonZeroU16>,
    torrents: HashMap<InfoHash, Known>,
    /// Not to announce before.
    not_before: Instant,
    /// When the second began in which so many announces were read.
    reading: (Instant, u32),
    found: VecDeque<(InfoHash, SocketAddr)>,
}

#[derive(Debug)]
struct Known {
    due: Instant,
    /// Who was heard since, and is not told again.
    heard: (Instant, HashSet<SocketAddr>),
}

impl LocalMachine {
    /// `seed` makes the cookie; `port` is where peers can call us, 0 for nowhere.
    pub(crate) fn new(port: u16, seed: u32, now: Instant) -> Self {
        Self {
            cookie: format!("{seed:08x}"),
            port: NonZeroU16::new(port),
            torrents: HashMap::new(),
            not_before: now,
            reading: (now, 0),
            found: VecDeque::new(),
        }
    }

    /// Announces and listens for a torrent.
    pub(crate) fn join(&mut self, torrent: InfoHash, now: Instant) {
        self.not_before = self.not_before.max(now + GATHER);
        self.torrents.entry(torrent).or_insert_with(|| Known { due: now, heard: (now, HashSet::new()) });
    }

    /// There are other neighbours than before, to whom everything is new.
    pub(crate) fn handle_new_network(&mut self, now: Instant) {
        self.torrents.values_mut().for_each(|known| known.due = now);
    }

    /// Forgets a torrent.
    pub(crate) fn leave(&mut self, torrent: &InfoHash) {
        self.torrents.remove(torrent);
    }

    /// When there is something to announce next.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.port?;
        self.torrents.values().map(|known| known.due).min().map(|due| due.max(self.not_before))
    }

    /// What to announce now, to both groups and by every interface. It counts as announced.
    pub(crate) fn poll_transmit(&mut self, now: Instant) -> Option<Announce> {
        let port = self.port?;
        if self.poll_timeout().is_none_or(|at| now < at) {
            return None;
        }
        let mut due: Vec<_> = self.torrents.iter_mut().filter(|(_, known)| known.due <= now).collect();
        due.sort_by_key(|(torrent, known)| (known.due, *torrent.as_bytes()));
        due.truncate(MAX_TORRENTS);
        let torrents = due.iter().map(|(torrent, _)| **torrent).collect();
        due.into_iter().for_each(|(_, known)| known.due = now + EVERY);
        self.not_before = now + LEAST;
        Some(Announce { port, torrents, cookie: Some(self.cookie.clone()) })
    }

    /// Takes in what came to a group.
    pub(crate) fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        let (since, count) = &mut self.reading;
        if now.saturating_duration_since(*since) >= Duration::from_secs(1) {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        if *count > READ_PER_SECOND {
            return;
        }
        let announce = match Announce::decode(datagram) {
            Ok(announce) => announce,
            Err(error) => return log::debug!("{from}: {error}"),
        };
        // Our own comes back to us by each interface.
        if announce.cookie.as_deref() == Some(&*self.cookie) {
            return;
        }
        let mut peer = from;
        peer.set_port(announce.port.get());
        for torrent in announce.torrents {
            let Some(known) = self.torrents.get_mut(&torrent) else { continue };
            let (since, heard) = &mut known.heard;
            if now.saturating_duration_since(*since) >= EVERY {
                (*since, *heard) = (now, HashSet::new());
            }
            if heard.len() < BELIEVED && heard.insert(peer) {
                self.found.push_back((torrent, peer));
            }
        }
    }

    /// A peer that was heard of. To be asked after each datagram.
    pub(crate) fn poll_found(&mut self) -> Option<(InfoHash, SocketAddr)> {
        self.found.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::lsd::GROUP_V4;

    fn hash(at: u32) -> InfoHash {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&at.to_be_bytes());
        InfoHash::new(bytes)
    }

    fn from(host: u8) -> SocketAddr {
        SocketAddr::from(([192, 168, 0, host], 6771))
    }

    fn announce(torrents: Vec<InfoHash>, port: u16) -> Vec<u8> {
        Announce { port: NonZeroU16::new(port).unwrap(), torrents, cookie: Some("theirs".into()) }.encode(GROUP_V4)
    }

    #[test]
    fn a_torrent_is_announced_every_five_minutes_and_anything_once_a_minute_at_most() {
        let start = Instant::now();
        let mut machine = LocalMachine::new(6881, 1, start);
        assert_eq!(machine.poll_timeout(), None);
        machine.join(hash(1), start);
        machine.join(hash(2), start);
        let mut sent = Vec::new();
        let mut now = start;
        while let Some(at) = machine.poll_timeout().filter(|at| *at < start + Duration::from_secs(601)) {
            now = now.max(at);
            let announce = machine.poll_transmit(now).unwrap();
            assert_eq!(machine.poll_transmit(now), None);
            sent.push(((now - start).as_secs(), announce.torrents.len()));
            machine.join(hash(3), now);
        }
        // The third came just after the first announce; it has a round of its own from then on.
        assert_eq!(sent, [(0, 2), (60, 1), (300, 2), (360, 1), (600, 2)]);
    }

    #[test]
    fn on_another_network_all_is_announced_anew_but_no_sooner_than_a_minute_after_the_last_time() {
        let start = Instant::now();
        let mut machine = LocalMachine::new(6881, 1, start);
        machine.join(hash(1), start);
        machine.handle_new_network(start);
        let first = machine.poll_timeout().unwrap();
        assert!(machine.poll_transmit(first).is_some());
        machine.handle_new_network(first + Duration::from_secs(1));
        assert_eq!(machine.poll_timeout(), Some(first + LEAST));
    }

    #[test]
    fn of_more_torrents_than_fit_each_has_its_turn() {
        let mut now = Instant::now();
        let mut machine = LocalMachine::new(6881, 1, now);
        (0..200).for_each(|at| machine.join(hash(at), now));
        let mut seen = HashSet::new();
        let begun = now;
        for _ in 0..200_usize.div_ceil(MAX_TORRENTS) {
            now = machine.poll_timeout().unwrap();
            seen.extend(machine.poll_transmit(now).unwrap().torrents);
        }
        assert_eq!(seen.len(), 200);
        assert!(now - begun <= 9 * LEAST);
    }

    #[test]
    fn who_cannot_be_called_announces_nothing_and_hears_all_the_same() {
        let now = Instant::now();
        let mut machine = LocalMachine::new(0, 1, now);
        machine.join(hash(1), now);
        assert_eq!(machine.poll_timeout(), None);
        assert_eq!(machine.poll_transmit(now + EVERY), None);
        machine.handle_datagram(from(7), &announce(vec![hash(1)], 51413), now);
        assert_eq!(machine.poll_found(), Some((hash(1), SocketAddr::from(([192, 168, 0, 7], 51413)))));
    }

    #[test]
    fn torrents_of_others_and_our_own_announces_are_not_heard() {
        let now = Instant::now();
        let mut machine = LocalMachine::new(6881, 1, now);
        machine.join(hash(1), now);
        machine.handle_datagram(from(7), &announce(vec![hash(2)], 1), now);
        let own = machine.poll_transmit(now + LEAST).unwrap();
        machine.handle_datagram(from(7), &own.encode(GROUP_V4), now);
        assert_eq!(machine.poll_found(), None);
        machine.handle_datagram(from(7), &announce(vec![hash(2), hash(1)], 9), now);
        assert!(machine.poll_found().is_some());
        // Once is enough, for a while.
        machine.handle_datagram(from(7), &announce(vec![hash(1)], 9), now);
        assert_eq!(machine.poll_found(), None);
        machine.handle_datagram(from(7), &announce(vec![hash(1)], 9), now + EVERY);
        assert!(machine.poll_found().is_some());
        machine.leave(&hash(1));
        machine.handle_datagram(from(8), &announce(vec![hash(1)], 9), now + EVERY);
        assert_eq!(machine.poll_found(), None);
    }

    #[test]
    fn a_flood_is_read_in_part_and_believed_in_part() {
        let now = Instant::now();
        let mut machine = LocalMachine::new(6881, 1, now);
        machine.join(hash(1), now);
        let mut found = 0;
        for second in 0..10 {
            for port in 1..=10_000 {
                let datagram = announce(vec![hash(1)], port);
                machine.handle_datagram(from(second), &datagram, now + Duration::from_secs(second.into()));
                found += std::iter::from_fn(|| machine.poll_found()).count();
            }
        }
        assert_eq!(found, BELIEVED);
    }
}
