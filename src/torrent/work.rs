//! Who fetches what: pieces to hungry peers, and what becomes of pieces that are complete.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handle::Event;
use super::peer::Peer;
use super::store::{Job, Moment};
use super::{Owner, Phase};
use crate::config::Priority;
use crate::hash::Sha1Hash;
use crate::metainfo::{BLOCK_LEN, PieceIndex};
use crate::peer::{Activity, Again, Audit, PeerKey, PieceInFlight, Traffic, Work};
use crate::policy::Deed;

/// The least time that a peer is reckoned to need for a block, in the endgame: it keeps the noise of a quick path from
/// being taken for slowness.
const LEAST: Duration = Duration::from_millis(20);
/// The same where memory for pieces in flight is full: only what is late indeed is asked for again.
const FULL: Duration = Duration::from_secs(1);
/// The same for a piece that a reader waits for.
const URGENT_PATIENCE: Duration = Duration::from_millis(150);
/// How soon a peer that found nothing to ask for looks again.
const LOOK: Duration = Duration::from_millis(20);
/// How many peers, the quickest, look at a time: where many wait for work, they would all ask for the same.
const LOOKERS: usize = 8;
/// What came twice may be this part of what came, before only what is late indeed is asked for again.
const TWICE: u64 = 200;
/// How many urgent pieces are watched for slow peers.
const URGENT: usize = 4;

impl Owner {
    /// What must follow whatever was handled: haves go out together, free slots are used, peers that found no work look
    /// again. Once for a whole batch, so that a flood of messages costs little more than one.
    pub(super) fn settle(&mut self) {
        self.send_due_haves();
        if std::mem::take(&mut self.refill_slots) {
            self.fill_slots();
        }
        let room = std::mem::take(&mut self.room);
        if std::mem::take(&mut self.refeed) {
            self.feed_hungry(false);
        } else if room {
            self.feed_hungry(true);
        }
    }

    /// Gives work to all who had none, those who need least first, so that nobody starves behind a large appetite; but
    /// those who stalled come last, or they would take up again what was just taken from them. Where `room` is all that is
    /// new, it ends with the room, and is of no use where no piece is left to open: what others are late with is looked
    /// for by the clock ([`Owner::look_for_late`]), not for each of them whenever a piece is stored.
    pub(super) fn feed_hungry(&mut self, room: bool) {
        if room && self.picker.all_wanted_open_or_had() {
            return;
        }
        let mut hungry: Vec<(bool, u32, PeerKey)> =
            self.peers.iter().filter_map(|(&key, peer)| Some((peer.snubs > 0, peer.hungry?, key))).collect();
        hungry.sort_unstable();
        for (.., key) in hungry {
            if room && !self.desk.has_room() {
                return;
            }
            self.feed(key);
        }
    }

    /// Finds work for a peer: urgent pieces first, then pieces that somebody left, then new ones, then what others work
    /// on. What others were asked for and do not send is looked for later, and by few.
    pub(super) fn feed(&mut self, key: PeerKey) {
        if matches!(self.phase, Phase::Waiting { .. })
            && let Some(peer) = self.peers.get(&key)
        {
            peer.link.pipeline.lock().starve(Activity::DiskFull, Instant::now());
        }
        if !matches!(self.phase, Phase::Running) || self.finished {
            return;
        }
        let Some(peer) = self.peers.get(&key) else { return };
        let Some(wanted) = peer.hungry else { return };
        if (peer.choking_us && peer.allowed_fast.is_none()) || !peer.we_interested {
            return;
        }
        let mut given = 0;
        if !self.urgent.is_empty() {
            given += self.give_urgent(key, again(peer, URGENT_PATIENCE));
        }
        while given < wanted {
            let Some(piece) = self.piece_for(key) else { break };
            let blocks = piece.unclaimed();
            if !self.give(key, Work { piece, again: None }) {
                break;
            }
            given += blocks.max(1);
        }
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if given > 0 {
            peer.hungry = None;
            return;
        }
        let lack = if self.desk.has_room() { Activity::Taken } else { Activity::Memory };
        peer.link.pipeline.lock().starve(lack, Instant::now());
        if self.desk.len() > 0 {
            self.next_look.get_or_insert_with(|| Instant::now() + LOOK);
        }
    }

    /// The endgame: peers that found nothing to ask for are given what others are late with. At the end of a download
    /// nothing else is left to ask for; before it, memory is full of what others were asked for.
    pub(super) fn look_for_late(&mut self) {
        let now = Instant::now();
        if !matches!(self.phase, Phase::Running) || self.finished || self.desk.len() == 0 {
            return;
        }
        let idle = self.peers.iter().filter(|(_, peer)| peer.hungry.is_some() && peer.we_interested);
        let mut idle: Vec<(bool, Reverse<u64>, PeerKey)> =
            idle.map(|(&key, peer)| (peer.snubs > 0, Reverse(peer.down.0.rate(now)), key)).collect();
        if idle.is_empty() {
            return;
        }
        self.next_look = Some(now + LOOK);
        let least = if self.desk.has_room() && !self.is_wasteful() { LEAST } else { FULL };
        idle.sort_unstable();
        // Those that stalled come last, and those that can ask for nothing now keep nobody from looking.
        let able = idle.into_iter().filter_map(|(.., key)| Some((key, again(self.peers.get(&key)?, least))));
        let able: Vec<(PeerKey, Again)> = able.filter(|(_, again)| again.most > 0).take(LOOKERS).collect();
        for (key, again) in able {
            if self.give_overdue(key, again) > 0
                && let Some(peer) = self.peers.get_mut(&key)
            {
                peer.hungry = None;
            }
        }
    }

    /// Whether much has come twice. On a machine that is too busy to tell slow peers from others, asking again costs more
    /// than it gains.
    fn is_wasteful(&self) -> bool {
        let failed = u64::from(self.failed_pieces) * u64::from(self.shared.metainfo().layout().piece_length());
        let twice = Traffic::read(&self.traffic.wasted).saturating_sub(failed);
        twice > Traffic::read(&self.traffic.down) / TWICE
    }

    fn give(&mut self, key: PeerKey, work: Work) -> bool {
        let Some(peer) = self.peers.get(&key) else { return false };
        // Before it is given: the peer may be done with it, and have left blocks, before we write that down.
        let (index, released) = (work.piece.index(), work.piece.released());
        let given = peer.link.give(work).is_ok();
        match given {
            true => self.desk.handed(index, key, released),
            false => self.desk.refused(),
        }
        given
    }

    /// A piece that somebody left, or a new one, or one that others work on. Where memory is full, a new one comes last; and
    /// where only pieces that nobody works on hold it, one of them goes.
    fn piece_for(&mut self, key: PeerKey) -> Option<Arc<PieceInFlight>> {
        if let Some(orphan) = self.orphan_for(key) {
            return Some(orphan);
        }
        if !self.desk.has_room() {
            if let Some(joinable) = self.joinable_for(key) {
                return Some(joinable);
            }
            for piece in self.desk.make_room() {
                self.picker.give_back(piece.get());
            }
            if !self.desk.has_room() {
                return None;
            }
        }
        self.open_for(key).or_else(|| self.joinable_for(key))
    }

    fn orphan_for(&mut self, key: PeerKey) -> Option<Arc<PieceInFlight>> {
        let peer = self.peers.get(&key)?;
        self.desk.orphan(key, |piece| peer.sends(piece))
    }

    fn joinable_for(&mut self, key: PeerKey) -> Option<Arc<PieceInFlight>> {
        let peer = self.peers.get(&key)?;
        self.desk.joinable(key, |piece| peer.sends(piece))
    }

    /// Opens the next piece for a peer, where the budget has room.
    fn open_for(&mut self, key: PeerKey) -> Option<Arc<PieceInFlight>> {
        let peer = self.peers.get(&key)?;
        let mut picked = Vec::with_capacity(1);
        if peer.choking_us || !peer.refused.is_empty() {
            self.picker.pick_where(&peer.has, 1, |piece| peer.sends(piece), &mut picked);
        } else {
            self.picker.pick(&peer.has, 1, &mut picked);
        }
        let index = *picked.first()?;
        let failures = self.suspects.failures(index);
        let opened = self.shared.metainfo().layout().piece(index).and_then(|piece| self.desk.open(piece, failures));
        if opened.is_none() {
            self.picker.give_back(index);
        }
        opened
    }

    /// Pieces that a reader waits for and that others are slow with.
    fn give_urgent(&mut self, key: PeerKey, again: Again) -> u32 {
        let Some(peer) = self.peers.get(&key) else { return 0 };
        let now = Instant::now();
        let urgent: Vec<u32> = (self.urgent.iter().copied().take(URGENT)).filter(|&piece| peer.sends(piece)).collect();
        let mut given = 0;
        for index in urgent {
            let Some(piece) = self.desk.get(index).cloned() else { continue };
            if piece.unclaimed() > 0 && self.desk.takes(index, key) {
                let blocks = piece.unclaimed();
                given += if self.give(key, Work { piece, again: None }) { blocks } else { 0 };
            } else if again.most > 0 && !self.suspects.has(index) && piece.overdue(key, again.patience, now) > 0 {
                given += u32::from(self.give(key, Work { piece, again: Some(again) }));
            }
        }
        given
    }

    /// The endgame: blocks that others were asked for, asked for again.
    fn give_overdue(&mut self, key: PeerKey, again: Again) -> u32 {
        let Some(peer) = self.peers.get(&key) else { return 0 };
        let pieces = self.desk.overdue(key, again.patience, again.most, |piece| peer.sends(piece));
        let mut given = 0;
        let mut left = again.most;
        for (piece, blocks) in pieces {
            let most = left.min(blocks);
            left -= most;
            given += u32::from(self.give(key, Work { piece, again: Some(Again { most, ..again }) }));
        }
        given
    }

    /// A piece is in the files.
    pub(super) fn stored(&mut self, piece: &Arc<PieceInFlight>, from: Option<PeerKey>, audit: Option<Audit>) {
        let index = piece.index();
        self.desk.remove(piece);
        if let Some(audit) = audit {
            let digests: Vec<Sha1Hash> = audit.blocks.iter().map(|(_, digest)| *digest).collect();
            for liar in self.suspects.passed(index.get(), &digests) {
                self.ban(liar);
            }
        }
        if !self.shared.have.write().set(index.get()) {
            return;
        }
        if let Some(context) = &self.context {
            context.have.write().set(index.get());
        }
        self.picker.got(index.get());
        if self.picker.priority(index.get()) != Some(Priority::Skip) {
            self.progress.1 += u64::from(self.shared.metainfo().layout().piece_len(index));
        }
        self.urgent.retain(|&piece| piece != index.get());
        self.spread(index);
        self.room = true;
        self.shared.wake();
        if self.shared.has_subscribers() {
            let from = from.and_then(|key| self.addr_of(key));
            self.shared.tell(&Event::Piece { index: index.get(), from });
        }
        self.complete_files(index);
        if self.picker.wanted_left() == 0 {
            self.finish();
        }
    }

    /// Files whose last piece this was.
    fn complete_files(&mut self, piece: PieceIndex) {
        let layout = Arc::clone(self.shared.metainfo().layout());
        let have = self.shared.have.read();
        let mut complete = Vec::new();
        for segment in layout.segments(layout.whole(piece)) {
            let entry = layout.file(segment.file);
            // From the end, where something is missing for longest when a file comes in order: from its start each piece
            // of a large file would cost a look at all before it.
            if !entry.is_padding() && layout.pieces_of(segment.file).rev().all(|piece| have.get(piece)) {
                complete.push(segment.file);
            }
        }
        drop(have);
        complete.iter().for_each(|&file| self.shared.tell(&Event::File(file)));
        if !complete.is_empty() {
            self.job(Job::Finish(complete));
        }
    }

    /// Everything wanted is there.
    pub(super) fn finish(&mut self) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        self.book.set_seeding(true);
        self.send_haves();
        self.update_interest();
        self.tell_upload_only();
        self.part_from_seeds(Instant::now());
        self.journal(Moment::Finished);
        self.resources.pool.shrink();
        self.publish();
        // Trackers are told what is published: not that it is complete and lacks the last pieces.
        if let Some(announcer) = &self.announcer {
            announcer.completed();
        }
        self.shared.tell(&Event::Finished);
        self.shared.tell(&Event::State(self.shared.snapshot().stats.state.clone()));
        self.choke_round(Instant::now());
    }

    /// A piece did not hash to what it should: it is fetched again, from one peer alone, and whoever lied is found.
    pub(super) fn corrupt(&mut self, piece: &Arc<PieceInFlight>, audit: Audit) {
        let index = piece.index();
        if !self.desk.remove(piece) {
            return;
        }
        self.failed_pieces += 1;
        let bytes = u64::from(self.shared.metainfo().layout().piece_len(index));
        Traffic::add(&self.traffic.wasted, bytes);
        self.picker.give_back(index.get());
        self.shared.tell(&Event::PieceFailed(index.get()));
        let senders: HashSet<PeerKey> = audit.blocks.iter().map(|(sender, _)| *sender).collect();
        log::warn!("piece {} failed its hash, sent by {} peers", index.get(), senders.len());
        let blocks: Vec<(SocketAddr, Sha1Hash)> =
            audit.blocks.iter().filter_map(|(sender, digest)| Some((self.addr_of(*sender)?, *digest))).collect();
        // Without the address of every sender there is nothing to compare later.
        if blocks.len() == audit.blocks.len()
            && let Some(liar) = self.suspects.failed(index.get(), blocks)
        {
            self.ban(liar);
        }
        self.refeed = true;
    }

    /// Peers that let their answer time pass: their claims go to others.
    pub(super) fn snub_stalled(&mut self, now: Instant) {
        let overdue = |peer: &Peer| {
            let mut pipeline = peer.link.pipeline.lock();
            let stalled = pipeline.is_overdue(now);
            if stalled {
                pipeline.snub(now);
            }
            stalled
        };
        let stalled: Vec<PeerKey> = self.peers.iter().filter(|(_, peer)| overdue(peer)).map(|(&key, _)| key).collect();
        for key in stalled {
            let Some(peer) = self.peers.get_mut(&key) else { continue };
            peer.snubs += 1;
            peer.hungry = None;
            let addr = peer.link.addr;
            log::debug!("{addr}: stalls");
            if peer.snubs >= SNUBS {
                peer.link.close();
            } else {
                peer.link.kick();
            }
            self.note(addr, Deed::Stall);
            self.let_go(key);
        }
    }
}

/// How far a peer may go in the endgame, where it is reckoned to need the `least` for an answer.
fn again(peer: &Peer, least: Duration) -> Again {
    let pipeline = peer.link.pipeline.lock();
    let outstanding = pipeline.outstanding();
    let usual = pipeline.window.pace(outstanding).map_or(URGENT_PATIENCE, |pace| pace.usual);
    let patience = usual.max(least);
    // What it brings in that time and until the next look: more would only make it slow itself. And no more than it can
    // ask for now, or it would come back at once, as hungry as before.
    let most = (pipeline.window.rate() * (patience + LOOK).as_secs_f64() / f64::from(BLOCK_LEN)) as usize;
    let most = most.max(1).min(pipeline.window.size() as usize);
    Again { patience, most: most.saturating_sub(outstanding) }
}

/// Stalls in a row, without a single block between them, after which a peer is dropped.
const SNUBS: u32 = 4;
