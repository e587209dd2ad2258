//! What the owner tells peers of peers and hears from them (BEP 11), and which peers it parts from because neither side has
//! anything for the other (BEP 21).
//!
//! The limits are [`Told`]'s and [`Hearsay`]'s, and those of how often a peer may tell us, which its reader keeps. Here is
//! who may be named at all, and when somebody is needed to be dialled.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Owner;
use super::peer::Peer;
use crate::net::Transport;
use crate::peer::{Outgoing, PeerKey};
use crate::policy::{Hearsay, Receiver, Source, Told};
use crate::wire::extension::Extension;
use crate::wire::message::Message;
use crate::wire::pex::{Contact, PexFlags, PexMessage};

/// How often it is looked whether there is news for anybody.
const LOOK: Duration = Duration::from_secs(1);
/// How many addresses are taken of what peers named at a time, and while how many are dialled no more are.
const TAKE: usize = 8;
const DIALLING: usize = 40;
/// Who can be dialled within this time is dialled before anybody whom peers only named.
const SOON: Duration = Duration::from_secs(2);
/// How long two that have nothing else for each other wait to hear of other peers.
const LINGER: Duration = Duration::from_secs(3);

/// What the owner keeps about naming peers.
pub(super) struct Exchange {
    hearsay: Hearsay,
    /// Those who may be named, and what is said of them, as of the last look.
    connected: BTreeMap<SocketAddr, PexFlags>,
    next_look: Instant,
}

/// What there is between us and one peer.
pub(super) struct Acquaintance {
    told: Told,
    /// It has told us of others.
    heard: bool,
    /// What it was told is up to date.
    current: bool,
}

impl Exchange {
    pub(super) fn new(now: Instant) -> Self {
        Self { hearsay: Hearsay::default(), connected: BTreeMap::new(), next_look: now }
    }
}

impl Acquaintance {
    pub(super) fn new(peer: SocketAddr) -> Self {
        Self { told: Told::new(peer), heard: false, current: false }
    }
}

impl Owner {
    /// Whether we exchange peers with peers: never those of a private torrent (BEP 27).
    pub(super) fn exchanges(&self) -> bool {
        self.resources.config.peers.exchange && !self.shared.metainfo().is_private()
    }

    /// What is to be done about it now and then.
    pub(super) fn keep_exchanging(&mut self, now: Instant) {
        if self.exchanges() {
            self.take_hearsay(now);
            if now >= self.exchange.next_look {
                self.exchange.next_look = now + LOOK;
                self.tell_of_others(now);
            }
        }
        self.part_from_seeds(now);
    }

    /// A peer told of its peers.
    pub(super) fn heard_of_others(&mut self, key: PeerKey, message: &PexMessage) {
        let exchanges = self.exchanges();
        let Some(peer) = self.peers.get_mut(&key).filter(|_| exchanges) else { return };
        peer.acquaintance.heard = true;
        let others = message.added.iter().map(|other| (other.addr, other.flags.has(PexFlags::UPLOAD_ONLY)));
        self.exchange.hearsay.dropped(key.0, &message.dropped);
        self.exchange.hearsay.named(key.0, peer.link.addr.ip(), others);
        log::debug!("{}: {} peers named, {} dropped", peer.link.addr, message.added.len(), message.dropped.len());
        self.take_hearsay(Instant::now());
    }

    /// A peer is gone: what it named and nobody was dialled for goes with it.
    pub(super) fn forget_hearsay(&mut self, key: PeerKey) {
        self.exchange.hearsay.forget(key.0);
    }

    /// Ends connections to those who have as little use for us as we for them, once both have said whom else they know.
    pub(super) fn part_from_seeds(&mut self, now: Instant) {
        if !self.finished {
            return;
        }
        let exchanges = self.exchanges();
        for peer in self.peers.values_mut().filter(|peer| !peer.dismissed && peer.is_seed()) {
            if peer.has_said_all(exchanges, now) {
                peer.dismiss();
            }
        }
    }

    /// Takes up what peers named, where there is nobody better to dial.
    fn take_hearsay(&mut self, now: Instant) {
        let busy = self.dialling.len() >= DIALLING
            || self.peers.len() + self.dialling.len() >= self.resources.config.peers.per_torrent;
        if busy || self.exchange.hearsay.is_empty() {
            return;
        }
        if self.book.next_deadline(now).is_none_or(|next| next > now + SOON) {
            let named = self.exchange.hearsay.take(TAKE, self.finished);
            for (key, addr) in named {
                let teller = self.addr_of(PeerKey(key)).map(|teller| teller.ip());
                self.found(Source::Exchange, teller, &[addr]);
            }
        }
    }

    /// Tells peers what changed among the others, those whose time has come.
    fn tell_of_others(&mut self, now: Instant) {
        let connected = self.nameable();
        if connected != self.exchange.connected {
            self.peers.values_mut().for_each(|peer| peer.acquaintance.current = false);
            self.exchange.connected = connected;
        }
        let connected = &self.exchange.connected;
        let seeds: BTreeMap<SocketAddr, bool> =
            connected.iter().map(|(addr, flags)| (*addr, flags.has(PexFlags::UPLOAD_ONLY))).collect();
        for peer in self.peers.values_mut().filter(|peer| !peer.dismissed && !peer.acquaintance.current) {
            let Some(id) = peer.extensions.id(Extension::Pex) else { continue };
            if !peer.acquaintance.told.is_due(now) {
                continue;
            }
            peer.acquaintance.current = true;
            let own: Vec<SocketAddr> = peer.listens.into_iter().chain([peer.link.addr]).map(canonical).collect();
            let receiver = Receiver { own: &own, seed: peer.is_seed() };
            let Some(news) = peer.acquaintance.told.news(receiver, &seeds, now) else { continue };
            // There may be more than one message holds.
            peer.acquaintance.current = false;
            let contact = |addr| Contact { addr, flags: connected.get(&addr).copied().unwrap_or_default() };
            let message = PexMessage { added: news.added.into_iter().map(contact).collect(), dropped: news.dropped };
            let mut out = Vec::new();
            Message::Extended { id, payload: &message.encode() }.encode_into(&mut out);
            if !peer.link.send(Outgoing::Raw(out.into())) {
                // Else it would never hear of these.
                peer.link.close();
            }
        }
    }

    /// The connected peers that others may be told of: those that listen, as far as we know.
    fn nameable(&self) -> BTreeMap<SocketAddr, PexFlags> {
        let named = self.peers.values().filter(|peer| !peer.dismissed).filter_map(|peer| {
            let addr = if peer.link.incoming { peer.listens? } else { peer.link.addr };
            let flags = PexFlags::default()
                .with(PexFlags::PREFERS_ENCRYPTION, peer.prefers_encryption)
                .with(PexFlags::UTP, peer.link.transport == Transport::Utp)
                .with(PexFlags::UPLOAD_ONLY, peer.is_seed())
                .with(PexFlags::HOLEPUNCH, peer.extensions.id(Extension::Holepunch).is_some())
                .with(PexFlags::REACHABLE, !peer.link.incoming);
            (!self.book.is_banned(addr) && !self.book.is_self(addr)).then_some((canonical(addr), flags))
        });
        named.collect()
    }
}

impl Peer {
    /// Whether nothing more is to be heard from a peer, nor said to it, that has no pieces for us and wants none.
    fn has_said_all(&self, exchanges: bool, now: Instant) -> bool {
        if !self.link.reserved.extended() || now.saturating_duration_since(self.link.born()) >= LINGER {
            return true;
        }
        let both = exchanges && self.extensions.id(Extension::Pex).is_some();
        self.introduced && (!both || (self.acquaintance.heard && self.acquaintance.told.has_begun()))
    }
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
