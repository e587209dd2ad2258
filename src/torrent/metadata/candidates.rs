//! Those who may have the metadata: whom the search dials and admits, and what becomes of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Phase, Search};
use crate::net::{self, Closer};
use crate::peer::{self, Fact, PeerError, Protection, seek};
use crate::policy::{Deed, Source};
use crate::torrent::door::PER_ADDRESS;
use crate::torrent::handle::Event;
use crate::torrent::inbox::Admission;

/// A candidate that has nothing for us makes room for another one after this long, where there are too many.
const USELESS_AFTER: Duration = Duration::from_secs(20);

/// Somebody who is dialled, or who is asked for metadata.
pub(super) struct Candidate {
    pub(super) addr: SocketAddr,
    pub(super) closer: Arc<Closer>,
    pub(super) incoming: bool,
    /// Since when hands are shaken.
    pub(super) since: Option<Instant>,
    /// Where one that called us can be called.
    pub(super) listens: Option<SocketAddr>,
}

impl Search {
    pub(super) fn handle_peer(&mut self, fact: Fact) {
        match fact {
            Fact::Candidate { key, addr, protection } => {
                self.book.connected(addr);
                if let Some(candidate) = self.candidates.get_mut(&key) {
                    candidate.since = Some(Instant::now());
                    if !candidate.incoming {
                        self.book.set_plaintext_only(addr, protection == Protection::None);
                    }
                }
                self.shared.tell(&Event::PeerConnected(addr));
            }
            Fact::CandidateListens { key, port } => {
                if let Some(candidate) = self.candidates.get_mut(&key).filter(|candidate| candidate.incoming) {
                    let addr = SocketAddr::new(candidate.addr.ip(), port);
                    candidate.listens = Some(addr);
                    self.book.add(addr, Source::Incoming, Instant::now());
                    // Not to be dialled while it is connected.
                    self.book.connected(addr);
                }
            }
            Fact::CandidateGone { key, addr, why } => {
                let gone = self.candidates.remove(&key);
                let unmet = gone.as_ref().is_some_and(|candidate| candidate.since.is_none());
                if unmet {
                    // It may have learnt to encrypt, or somebody else may be there by now.
                    self.book.set_plaintext_only(addr, false);
                }
                log::debug!("{addr}: gone: {why}");
                let now = Instant::now();
                if matches!(why, PeerError::Ourselves) {
                    self.book.learn_self(addr);
                } else if why.is_fault() {
                    self.resources.note(addr, Deed::Fault);
                }
                for addr in gone.and_then(|candidate| candidate.listens).into_iter().chain([addr]) {
                    // The other connection of two between the same two lives on.
                    if self.candidates.values().any(|other| other.addr == addr || other.listens == Some(addr)) {
                        continue;
                    }
                    match &why {
                        // It was we who gave up, or who could not.
                        PeerError::Stopped => self.book.disconnected(addr, now, true),
                        PeerError::Connect(error) if net::bind::is_cut_off(error) => self.book.not_dialled(addr, now),
                        _ if unmet => self.book.missed(addr, why.miss(), now),
                        _ => self.book.failed(addr, now),
                    }
                }
                self.shared.tell(&Event::PeerGone { addr, why: why.to_string(), record: self.resources.record(addr) });
                self.dial();
            }
            Fact::Liars(liars) => liars.into_iter().for_each(|liar| self.ban(liar)),
            Fact::Metadata(info) => self.found(&info),
            // There are no peers yet.
            _ => {}
        }
    }

    fn ban(&mut self, addr: SocketAddr) {
        if self.book.is_banned(addr) {
            return;
        }
        log::warn!("{addr}: banned: it sent wrong metadata");
        self.book.ban(addr);
        self.resources.note(addr, Deed::Lie);
        self.shared.tell(&Event::PeerBanned(addr));
        for candidate in self.candidates.values().filter(|candidate| self.book.is_banned(candidate.addr)) {
            candidate.closer.close();
        }
    }

    /// Dials as many as limits and the book allow.
    pub(super) fn dial(&mut self) {
        if !matches!(self.phase, Phase::Searching) {
            return;
        }
        let now = Instant::now();
        while self.has_room(now) {
            let Some(to) = self.resources.next_to_dial(&mut self.book, now) else { return };
            let addr = to.addr;
            let key = self.resources.key();
            let closer = Arc::new(Closer::default());
            let thread = {
                let (hunt, closer, crew) =
                    (Arc::clone(&self.hunt), Arc::clone(&closer), Arc::clone(&self.resources.crew));
                move || seek(key, to, &hunt, &closer, &crew)
            };
            if let Err(error) = self.resources.crew.spawn(format!("rx-{addr}"), peer::STACK, thread) {
                log::debug!("{addr} is not dialled: {error}");
                self.book.not_dialled(addr, now);
                return;
            }
            self.tried += 1;
            self.candidates.insert(key, Candidate { addr, closer, incoming: false, since: None, listens: None });
        }
    }

    /// Whether there is room for one more; the longest connected of those who do not have the metadata makes some.
    fn has_room(&self, now: Instant) -> bool {
        if self.candidates.len() < self.resources.config.peers.per_torrent {
            return true;
        }
        let longest = {
            let assembly = self.hunt.assembly.lock();
            let useless = self.candidates.iter().filter(|(key, candidate)| {
                let long = candidate.since.is_some_and(|since| now.duration_since(since) >= USELESS_AFTER);
                long && !assembly.is_offering(**key)
            });
            useless.min_by_key(|(_, candidate)| candidate.since).map(|(_, longest)| Arc::clone(&longest.closer))
        };
        if let Some(longest) = longest {
            longest.close();
        }
        false
    }

    pub(super) fn admit(&mut self, addr: SocketAddr, closer: Arc<Closer>) -> Option<Admission> {
        let now = Instant::now();
        let welcome = matches!(self.phase, Phase::Searching | Phase::Recalling) && !self.pause_wanted;
        let same = self.candidates.values().filter(|it| it.addr.ip() == addr.ip()).count();
        let crowd = same >= PER_ADDRESS && !addr.ip().is_loopback();
        if !welcome || crowd || !self.resources.welcomes(&self.book, addr) || !self.has_room(now) {
            return None;
        }
        let key = self.resources.key();
        self.tried += 1;
        self.candidates.insert(key, Candidate { addr, closer, incoming: true, since: None, listens: None });
        Some(Admission::Candidate { key, hunt: Arc::clone(&self.hunt) })
    }

    /// It is private (BEP 27): whom others than its trackers, a person or the link itself named is let go.
    pub(super) fn keep_to_vouched(&mut self) {
        self.services = None;
        self.book = self.resources.book();
        let now = Instant::now();
        for (&addr, &source) in &self.vouched {
            self.resources.take_in(&mut self.book, source, None, &[addr]);
        }
        for candidate in self.candidates.values_mut() {
            candidate.listens = None;
            if !candidate.incoming && !self.vouched.contains_key(&candidate.addr) {
                candidate.closer.close();
            } else {
                self.book.dialled(candidate.addr, now);
            }
        }
    }
}
