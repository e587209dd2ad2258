//! The owner's clock: ticks, timeouts, and the snapshot that everybody looks at.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::control::FULL_DISK_RETRY;
use super::dht::DhtPart;
use super::handle::{PeerStats, Stats};
use super::peer::Peer;
use super::shared::Snapshot;
use super::store::{Job, Moment, Totals};
use super::{Owner, Phase, State, announce};
use crate::config::Priority;
use crate::peer::{Activity, Traffic};

/// How often chokes are decided (BEP 3).
pub(super) const ROUND: Duration = Duration::from_secs(10);
/// What a look finds after a longer time is not counted as any older: a meter would have forgotten it.
const LATE: Duration = Duration::from_secs(4);
/// How often the owner looks around.
const TICK: Duration = Duration::from_millis(250);
/// How often the journal is written while pieces arrive.
pub(super) const JOURNAL: Duration = Duration::from_secs(5);

impl Owner {
    pub(super) fn tick(&mut self, now: Instant) {
        self.measure(now);
        self.hand_over_jobs();
        self.tell_dht();
        self.heed_outlet();
        match &mut self.phase {
            Phase::Running => {
                self.snub_stalled(now);
                self.share_memory();
                self.drop_silent(now);
                self.part_twins(now);
                if now >= self.next_choke {
                    self.next_choke = now + ROUND;
                    self.choke_round(now);
                }
                self.grow_slots(now);
                self.keep_exchanging(now);
                self.dial();
                if self.haves.left() {
                    self.send_haves();
                }
                self.feed_hungry(false);
                self.settle();
            }
            Phase::Paused if self.part_at.take_if(|at| *at <= now).is_some() => self.part(),
            // Not to be gone on with before: what is fetched for a disk that is full is fetched for nothing.
            Phase::Waiting { needed, again, .. } if now >= *again => {
                *again = now + FULL_DISK_RETRY;
                let needed = *needed;
                self.job(Job::Retry { needed });
            }
            _ => {}
        }
        if now >= self.next_journal {
            self.next_journal = now + JOURNAL;
            if self.shared.have.read().count() > self.journaled && !self.recording {
                self.journal(Moment::Underway);
            } else if matches!(self.phase, Phase::Running) && !self.finished {
                self.job(Job::Alive);
            }
        }
        self.publish();
        self.next_tick = now + TICK;
    }

    /// Tells the ledger when the torrent is at something else.
    pub(super) fn keep_ledger(&mut self, now: Instant) {
        let situation = self.situation();
        if std::mem::replace(&mut self.situation, situation) != situation {
            self.shared.ledger.switch(situation, now);
        }
    }

    fn situation(&self) -> Activity {
        match self.phase {
            Phase::Opening | Phase::Checking(..) => Activity::Files,
            Phase::Paused | Phase::Failed(_) => Activity::Paused,
            Phase::CutOff(_) => Activity::CutOff,
            Phase::Running if self.finished => Activity::Seeding,
            Phase::Running | Phase::Waiting { .. } if !self.peers.is_empty() => Activity::Connected,
            Phase::Waiting { .. } => Activity::DiskFull,
            Phase::Running if !self.dialling.is_empty() => Activity::Dialling,
            Phase::Running if self.announcer.as_ref().is_some_and(announce::is_asked) => Activity::Tracker,
            Phase::Running => Activity::NoPeers,
        }
    }

    fn measure(&mut self, now: Instant) {
        // What is found now went through since the last look: counted as of now, it would be more than its time.
        let since = std::mem::replace(&mut self.measured_at, now).max(now.checked_sub(LATE).unwrap_or(now));
        for peer in self.peers.values_mut() {
            peer.refused.retain(|_, until| *until > now);
            let traffic = &peer.link.traffic;
            let (down, up) = (Traffic::read(&traffic.down), Traffic::read(&traffic.up));
            let (got, sent) = (down - peer.down.1, up - peer.up.1);
            // Of many peers most are quiet, and what is not looked at need not come from memory.
            if got > 0 {
                peer.last_block = Some(now);
                // Bytes alone are no progress: a peer can trickle them for ever.
                let delivered = peer.link.pipeline.lock().delivered();
                if delivered > std::mem::replace(&mut peer.delivered, delivered) {
                    peer.snubs = 0;
                }
            }
            for (meter, news) in [(&mut peer.down.0, got), (&mut peer.up.0, sent)] {
                if news > 0 || !meter.has_begun() {
                    meter.add(news, since);
                }
            }
            (peer.down.1, peer.up.1) = (down, up);
        }
        let (down, up) = (Traffic::read(&self.traffic.down), Traffic::read(&self.traffic.up));
        self.down_meter.add(down - self.measured.0, since);
        self.up_meter.add(up - self.measured.1, since);
        self.measured = (down, up);
        Traffic::add(&self.traffic.wasted, self.desk.take_dropped());
    }

    /// No peer is asked for more than its share of the memory for pieces in flight.
    fn share_memory(&self) {
        let senders = self.peers.values().filter(|peer| !peer.choking_us && peer.we_interested);
        let share = self.desk.share(senders.clone().count());
        senders.for_each(|peer| peer.link.pipeline.lock().window.set_share(share));
    }

    /// Peers that have not said a word for too long.
    fn drop_silent(&mut self, now: Instant) {
        let most = self.resources.config.peers.idle_timeout;
        for peer in self.peers.values().filter(|peer| peer.link.silent_for(now) > most) {
            log::debug!("{}: silent for too long", peer.link.addr);
            peer.link.close();
        }
    }

    /// Replaces the snapshot.
    pub(super) fn publish(&mut self) {
        let now = Instant::now();
        let stats = self.stats(now);
        let trackers = self.announcer.as_ref().map_or_else(Vec::new, |announcer| announcer.snapshot());
        self.shared.publish(Snapshot { stats, trackers, priorities: self.priorities.clone() });
    }

    fn state(&self) -> State {
        match &self.phase {
            Phase::Opening => State::Opening,
            Phase::Checking(done, total) => State::Checking { done: *done, total: *total },
            Phase::Running if self.is_looking() => State::Looking,
            Phase::Running if self.finished => State::Seeding,
            Phase::Running => State::Downloading,
            Phase::Paused => State::Paused,
            Phase::Waiting { why, .. } | Phase::CutOff(why) => State::Waiting(why.clone()),
            Phase::Failed(failure) => State::Failed(failure.clone()),
        }
    }

    fn stats(&self, now: Instant) -> Stats {
        let have = self.shared.have.read();
        let (wanted, done) = self.progress;
        // Read once, so that the sums hold as much of this session as is said of it.
        let (before, totals) = (self.before.unwrap_or_default(), self.totals());
        Stats {
            state: self.state(),
            wanted,
            done,
            pieces_have: have.count(),
            pieces_total: have.len(),
            pieces_in_flight: self.desk.len() as u32,
            downloaded: totals.downloaded - before.downloaded,
            uploaded: totals.uploaded - before.uploaded,
            uploaded_ever: totals.uploaded,
            downloaded_ever: totals.downloaded,
            reciprocity: self.choker.reciprocity(),
            wasted: Traffic::read(&self.traffic.wasted),
            pieces_failed: self.failed_pieces,
            down_rate: self.down_meter.rate(now),
            up_rate: self.up_meter.rate(now),
            peers: self.peers.len(),
            seeds: self.peers.values().filter(|peer| peer.has.is_full()).count(),
            dialling: self.dialling.len(),
            known: self.book.len(),
            refused: self.book.refused(),
            missed: self.book.misses(),
            blocked_callers: self.resources.blocked_callers.load(Ordering::Relaxed),
            copies: self.picker.distributed_copies(),
            dht: self.dht().map(DhtPart::status),
        }
    }

    /// Payload over all sessions.
    pub(super) fn totals(&self) -> Totals {
        let before = self.before.unwrap_or_default();
        Totals {
            uploaded: before.uploaded + Traffic::read(&self.traffic.up),
            downloaded: before.downloaded + Traffic::read(&self.traffic.down),
        }
    }

    /// Counts the wanted bytes and those of them that are verified, after either changed as a whole.
    pub(super) fn recount(&mut self) {
        let layout = self.shared.metainfo().layout();
        let have = self.shared.have.read();
        let wanted = layout.pieces().filter(|piece| self.picker.priority(piece.get()) != Some(Priority::Skip));
        self.progress = wanted.fold((0, 0), |(wanted, done), piece| {
            let bytes = u64::from(layout.piece_len(piece));
            (wanted + bytes, done + if have.get(piece.get()) { bytes } else { 0 })
        });
    }

    /// Who is connected. Made for who asks alone: it allocates for every peer and looks each up in the address book.
    pub(super) fn peer_stats(&self, now: Instant) -> Vec<PeerStats> {
        self.peers.values().map(|peer| self.stats_of(peer, now)).collect()
    }

    fn stats_of(&self, peer: &Peer, now: Instant) -> PeerStats {
        let (outstanding, snubbed) = {
            let pipeline = peer.link.pipeline.lock();
            (pipeline.outstanding() as u32, pipeline.window.is_snubbed())
        };
        PeerStats {
            addr: peer.link.addr,
            client: peer.client.clone(),
            incoming: peer.link.incoming,
            protection: peer.link.protection,
            sources: self.sources_of(peer),
            transport: peer.link.transport,
            upload_only: peer.upload_only,
            pieces: peer.has.count(),
            downloaded: Traffic::read(&peer.link.traffic.down),
            uploaded: Traffic::read(&peer.link.traffic.up),
            wasted: Traffic::read(&peer.link.traffic.wasted),
            down_rate: peer.down.0.rate(now),
            up_rate: peer.up.0.rate(now),
            choking_us: peer.choking_us,
            interested_in_us: peer.interested_in_us,
            choked_by_us: peer.unchoked.is_none(),
            interesting: peer.we_interested,
            snubbed,
            outstanding,
            standing: peer.standing,
        }
    }
}
