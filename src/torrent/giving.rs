//! What we give: who is unchoked, who may ask while choked, and who hears of which piece.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Owner;
use super::peer::Peer;
use crate::bits::Bits;
use crate::metainfo::PieceIndex;
use crate::peer::{Outgoing, PeerKey, Traffic};
use crate::policy::{Candidate, Role};
use crate::wire::extension::{Extension, encode_dont_have};
use crate::wire::message::{Message, allowed_fast};

/// How many pieces a choked peer may ask for (BEP 6).
const ALLOWED_FAST: usize = 10;
/// A peer with this many pieces or more needs no allowed-fast set (BEP 6).
const ALLOWED_FAST_BELOW: u32 = 10;
/// Haves that wait for a peer that takes nothing in, after which it is too slow to keep.
const PENDING_HAVES: usize = 65_536;
/// How much later the next haves go for each peer that got some: waking a writer costs far more than the message, and
/// among hundreds of peers nobody waits for any one of us.
const HAVE_PACE: Duration = Duration::from_millis(2);
/// The most lost pieces that connected peers are told of; a peer that comes again takes less.
const LOST: usize = 4096;
/// The longest that haves wait for others to go with.
const HAVE_WAIT: Duration = Duration::from_secs(2);

/// The pieces that peers are to hear of, and when.
pub(super) struct Haves {
    /// For everybody, but for those that came after some of them.
    pieces: Vec<PieceIndex>,
    /// No more go before this.
    next: Instant,
    /// Some peers had no room for theirs.
    left: bool,
}

impl Haves {
    pub(super) fn new(now: Instant) -> Self {
        Self { pieces: Vec::new(), next: now, left: false }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether some peers wait for haves that others had.
    pub(super) fn left(&self) -> bool {
        self.left
    }

    /// When to send what waits; `None` where nothing does.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.pieces.is_empty()).then_some(self.next)
    }
}

impl Peer {
    /// Chokes or unchokes it, unless it is so already.
    fn set_choked(&mut self, choked: bool, now: Instant) {
        if choked == self.unchoked.is_none() {
            return;
        }
        if self.link.send(if choked { Outgoing::Choke } else { Outgoing::Unchoke }) {
            self.unchoked = (!choked).then(|| (now, Traffic::read(&self.link.traffic.up)));
        }
    }
}

impl Owner {
    /// Chooses anew who is unchoked: the round of every ten seconds.
    pub(super) fn choke_round(&mut self, now: Instant) {
        self.look_at_records();
        let candidates = self.candidates(|_| true);
        let slots = self.slots.update(self.upload_limit(), self.up_meter.rate(now));
        let chosen = self.choker.round(self.role(), &candidates, slots, now);
        self.unchoke_only(&chosen, now);
    }

    /// Lets more be unchoked, between rounds, where we turn out to be able to give more.
    pub(super) fn grow_slots(&mut self, now: Instant) {
        self.refill_slots |= self.slots.grow(self.upload_limit(), self.up_meter.rate(now));
    }

    /// Uses slots that are free, between rounds.
    pub(super) fn fill_slots(&mut self) {
        // Mostly nobody waits for one, and the rates of all need not be known.
        if self.peers.values().all(|peer| !peer.interested_in_us || peer.unchoked.is_some()) {
            return;
        }
        let candidates = self.candidates(|peer| peer.interested_in_us);
        let now = Instant::now();
        for chosen in self.choker.fill(self.role(), &candidates, self.slots.slots(), now) {
            if let Some(peer) = self.peers.get_mut(&PeerKey(chosen)) {
                peer.set_choked(false, now);
            }
        }
    }

    /// The lowest limit that holds now, whoever set it and when.
    fn upload_limit(&self) -> Option<u64> {
        [&self.resources.up, &self.valves.1].into_iter().filter_map(|valve| valve.rate()).min()
    }

    fn role(&self) -> Role {
        if self.finished { Role::Seeding } else { Role::Leeching }
    }

    fn candidates(&self, which: impl Fn(&Peer) -> bool) -> Vec<Candidate> {
        let now = Instant::now();
        let peers = self.peers.iter().filter(|(_, peer)| which(peer)).map(|(key, peer)| Candidate {
            id: key.0,
            interested: peer.interested_in_us,
            rate_down: peer.down.0.rate(now),
            rate_up: peer.up.0.rate(now),
            last_block_from: peer.last_block,
            unchoked_since: peer.unchoked.map(|(since, _)| since),
            uploaded_since_unchoke: peer
                .unchoked
                .map_or(0, |(_, before)| Traffic::read(&peer.link.traffic.up) - before),
            connected: peer.link.born(),
            snubbed: peer.snubs > 0,
            upload_only: peer.upload_only,
            standing: peer.standing,
        });
        peers.collect()
    }

    fn unchoke_only(&mut self, chosen: &[u32], now: Instant) {
        for (key, peer) in &mut self.peers {
            peer.set_choked(!chosen.contains(&key.0), now);
        }
    }

    /// The pieces that a peer with few may ask for while it is choked (BEP 6).
    pub(super) fn grant_fast(&self, key: PeerKey) {
        let Some(peer) = self.peers.get(&key) else { return };
        let hide = self.super_seeder.is_some();
        if !peer.link.fast() || hide || peer.has.count() >= ALLOWED_FAST_BELOW {
            return;
        }
        let layout = self.shared.metainfo().layout();
        let have = self.shared.have.read();
        let set = allowed_fast(peer.link.addr.ip(), &self.shared.info_hash, layout.piece_count(), ALLOWED_FAST);
        let pieces: Box<[PieceIndex]> =
            set.into_iter().filter(|&piece| have.get(piece)).filter_map(|piece| layout.piece(piece)).collect();
        if !pieces.is_empty() {
            peer.link.send(Outgoing::AllowFast(pieces));
        }
    }

    /// Lets everybody know that we have a piece. Those who have it themselves may be super-seeding, or may tell it on as
    /// our share; only to peers that have everything it is no news.
    pub(super) fn spread(&mut self, piece: PieceIndex) {
        if self.super_seeder.is_some() && self.finished {
            return;
        }
        self.haves.pieces.push(piece);
    }

    /// Sends the haves that wait, where their time has come.
    pub(super) fn send_due_haves(&mut self) {
        if self.haves.due().is_some_and(|due| Instant::now() >= due) {
            self.send_haves();
        }
    }

    /// Sends the haves that wait; a peer that does not take them in is too slow.
    pub(super) fn send_haves(&mut self) {
        let pieces: Arc<[PieceIndex]> = std::mem::take(&mut self.haves.pieces).into();
        let mut told = 0;
        self.haves.left = false;
        for peer in self.peers.values_mut() {
            let known = std::mem::take(&mut peer.known_haves);
            if peer.has.is_full() {
                continue;
            }
            let news = if known == 0 && peer.pending_haves.is_empty() {
                Arc::clone(&pieces)
            } else {
                // It was told of some when it came, or could not be told of earlier ones.
                peer.pending_haves.drain(..).chain(pieces.iter().skip(known).copied()).collect()
            };
            if news.is_empty() {
                continue;
            }
            told += 1;
            if !peer.link.send(Outgoing::Have(Arc::clone(&news))) {
                peer.pending_haves = news.to_vec();
                self.haves.left = true;
                if peer.pending_haves.len() > PENDING_HAVES {
                    peer.link.close();
                }
            }
        }
        self.haves.next = Instant::now() + (HAVE_PACE * told).min(HAVE_WAIT);
    }

    /// The files were hashed anew among connected peers: they hear which pieces were lost (BEP 54) and which were found.
    /// Whoever does not understand that, or would have to be told of very many, is let go: it may come again.
    pub(super) fn tell_changes(&mut self, before: &Bits) {
        let have = self.shared.have.read().clone();
        let lost: Vec<u32> = before.iter().filter(|&piece| !have.get(piece)).collect();
        for peer in self.peers.values_mut() {
            peer.pending_haves.retain(|piece| have.get(piece.get()));
            if lost.is_empty() {
                continue;
            }
            let Some(id) = peer.extensions.id(Extension::DontHave).filter(|_| lost.len() <= LOST) else {
                peer.dismiss();
                continue;
            };
            let mut out = Vec::new();
            for &piece in &lost {
                Message::Extended { id, payload: &encode_dont_have(piece) }.encode_into(&mut out);
            }
            if !peer.link.send(Outgoing::Raw(out.into())) {
                peer.link.close();
            }
        }
        let layout = Arc::clone(self.shared.metainfo().layout());
        let found = have.iter().filter(|&piece| !before.get(piece)).filter_map(|piece| layout.piece(piece));
        found.for_each(|piece| self.spread(piece));
        self.tell_upload_only();
        self.update_interest();
        (self.refeed, self.refill_slots) = (true, true);
    }

    /// Super-seeding: somebody has a piece that we showed to somebody else; that one has earned the next.
    pub(super) fn reveal_after_have(&mut self, from: PeerKey, piece: PieceIndex) {
        let Some(seeder) = &mut self.super_seeder else { return };
        if !self.finished {
            return;
        }
        for (key, next) in seeder.has(from.0, piece.get(), |piece| self.picker.availability(piece)) {
            let Some(next) = self.shared.metainfo().layout().piece(next) else { continue };
            if let Some(peer) = self.peers.get(&PeerKey(key)) {
                peer.link.send(Outgoing::Have([next].into()));
            }
        }
    }

    /// Super-seeding: what a peer has already need not be shown to it.
    pub(super) fn reveal_after_pieces(&mut self, key: PeerKey) {
        let (Some(seeder), Some(peer)) = (&mut self.super_seeder, self.peers.get(&key)) else { return };
        if !self.finished {
            return;
        }
        if let Some(next) = seeder.knows(key.0, &peer.has, |piece| self.picker.availability(piece))
            && let Some(next) = self.shared.metainfo().layout().piece(next)
        {
            peer.link.send(Outgoing::Have([next].into()));
        }
    }
}
