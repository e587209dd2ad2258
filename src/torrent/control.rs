//! What an owner is told to do, by handles and by circumstances: start, pause, fail, go on, change priorities.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handle::{Event, Failure};
use super::inbox::Command;
use super::services::Services;
use super::store::{self, Job, Moment};
use super::{Ending, Owner, Phase, announce, mode, wanted_files};
use crate::config::{Check, Priority};
use crate::metainfo::FileIndex;
use crate::peer::{Outgoing, PeerKey};
use crate::policy::Source;
use crate::storage::StorageError;

/// How often to look whether a full disk has room.
pub(super) const FULL_DISK_RETRY: Duration = Duration::from_secs(5);

impl Owner {
    pub(super) fn handle_command(&mut self, command: Command) {
        match command {
            // There are no files.
            Command::Priority(..) | Command::Recheck if self.is_looking() => {}
            Command::Stop => self.ended = Some(Ending::Stop),
            Command::Remove(data) => self.ended = Some(Ending::Remove(data)),
            Command::Pause => {
                self.pause_wanted = true;
                if matches!(self.phase, Phase::Running | Phase::Waiting { .. } | Phase::CutOff(_)) {
                    self.halt();
                    self.set_phase(Phase::Paused);
                } else {
                    self.part();
                }
            }
            Command::Resume => {
                self.pause_wanted = false;
                match self.phase {
                    Phase::Paused if self.context.is_some() => {
                        self.set_phase(Phase::Running);
                        self.go();
                    }
                    Phase::Failed(_) => self.reopen(),
                    _ => {}
                }
            }
            Command::Recheck => {
                if self.super_seeder.is_some() {
                    // Each peer knows of other pieces: nobody could be told what changed.
                    self.halt();
                }
                self.rest();
                self.options.check = match self.options.check {
                    Check::ReadOnly | Check::Hashed => Check::ReadOnly,
                    _ => Check::Full,
                };
                self.reopen();
            }
            Command::Peers(answer) => drop(answer.try_send(self.peer_stats(Instant::now()))),
            Command::Survey(answer) => drop(answer.try_send(self.survey())),
            Command::Priority(file, priority) => self.set_priority(file, priority),
            Command::Order(order) => self.picker.set_mode(mode(order)),
            Command::Limits(limits) => {
                self.valves.0.set_rate(limits.down, Instant::now());
                self.valves.1.set_rate(limits.up, Instant::now());
            }
            Command::AddPeers(addrs) => self.found(Source::Manual, None, &addrs),
            Command::Filter => self.filter_changed(),
            Command::Announce => {
                if let Some(dht) = self.dht() {
                    dht.search_now();
                }
                if let Some(announcer) = &self.announcer {
                    announcer.announce_now();
                }
            }
        }
    }

    /// Lets go of everything outside, and has the journal say what is there.
    pub(super) fn halt(&mut self) {
        self.part();
        self.journal(Moment::Leaving);
    }

    /// Lets go of everything outside: peers, trackers, pieces in flight.
    pub(super) fn part(&mut self) {
        self.resting = None;
        for peer in self.peers.values_mut() {
            peer.dismiss();
        }
        for (_, closer) in self.dialling.values() {
            closer.close();
        }
        for piece in self.desk.clear() {
            self.picker.give_back(piece.get());
        }
        self.services = None;
        self.hunt = None;
        if let Some(announcer) = self.announcer.take() {
            announce::stop(announcer, &self.resources);
        }
    }

    /// Peers stay while the files are hashed anew, but nothing is given to them or asked of them.
    fn rest(&mut self) {
        let now = Instant::now();
        self.send_haves();
        for (_, closer) in self.dialling.values() {
            closer.close();
        }
        for peer in self.peers.values_mut() {
            peer.link.pipeline.lock().rest(now);
            if peer.unchoked.take().is_some() && !peer.link.send(Outgoing::Choke) {
                peer.link.close();
            }
        }
        let keys: Vec<PeerKey> = self.peers.keys().copied().collect();
        keys.into_iter().for_each(|key| self.let_go(key));
        for piece in self.desk.clear() {
            self.picker.give_back(piece.get());
        }
        self.journal(Moment::Leaving);
        self.resting = self.context.take().or(self.resting.take());
    }

    /// Opens the files anew, as after a failure or for a recheck.
    pub(super) fn reopen(&mut self) {
        self.context = None;
        let pieces = self.shared.metainfo().layout().piece_count();
        for piece in 0..pieces {
            self.picker.lost(piece);
        }
        self.set_phase(Phase::Opening);
        self.openings += 1;
        if self.options.check == Check::Hashed {
            // That was then.
            self.options.check = Check::ReadOnly;
        }
        let wanted = wanted_files(&self.priorities);
        self.job(Job::Open { number: self.openings, check: self.options.check, wanted });
        for (file, _) in self.preparing.clone() {
            self.job(Job::Want(file, true));
        }
    }

    pub(super) fn fail_or_wait(&mut self, error: &StorageError) {
        let message: Arc<str> = error.to_string().into();
        log::error!("{}: {message}", self.shared.metainfo().name());
        if error.is_out_of_space() && self.context.is_some() {
            if !matches!(self.phase, Phase::Waiting { .. } | Phase::CutOff(_)) {
                let again = Instant::now() + FULL_DISK_RETRY;
                // Not a whole file: one that there is no room for may be unwanted again, and the others go on without it.
                let piece = u64::from(self.shared.metainfo().layout().piece_length());
                self.set_phase(Phase::Waiting { why: message, needed: error.needed().min(piece), again });
            }
        } else if !matches!(self.phase, Phase::Failed(_)) {
            self.halt();
            self.set_phase(Phase::Failed(Failure { message, disk: true }));
        }
    }

    /// Lets go of everybody when what all sockets are bound to is gone, and goes on when it is back.
    pub(super) fn heed_outlet(&mut self) {
        match (self.resources.outlet.closed(), &self.phase) {
            (Some(why), Phase::Running) => {
                self.halt();
                self.set_phase(Phase::CutOff(format!("nothing is sent or received: {why}").into()));
            }
            (None, Phase::CutOff(_)) => {
                self.set_phase(Phase::Running);
                self.go();
            }
            _ => {}
        }
    }

    pub(super) fn set_phase(&mut self, phase: Phase) {
        self.phase = phase;
        self.publish();
        self.shared.tell(&Event::State(self.shared.snapshot().stats.state.clone()));
    }

    pub(super) fn set_priority(&mut self, file: FileIndex, priority: Priority) {
        if let Some((_, later)) = self.preparing.iter_mut().find(|(preparing, _)| *preparing == file) {
            *later = priority;
            return;
        }
        let Some(slot) = self.priorities.get_mut(file.get() as usize) else { return };
        match (*slot, priority) {
            (Priority::Skip, Priority::Skip) => return,
            (Priority::Skip, _) => {
                // It is made, and gets what was kept aside, before pieces of it are asked for.
                self.preparing.push((file, priority));
                self.job(Job::Want(file, true));
                return;
            }
            _ => *slot = priority,
        }
        if priority == Priority::Skip {
            self.job(Job::Want(file, false));
        }
        self.reprioritise();
    }

    /// A file that becomes wanted is there.
    pub(super) fn prepared(&mut self, file: FileIndex) {
        let Some(at) = self.preparing.iter().position(|(preparing, _)| *preparing == file) else { return };
        let (_, priority) = self.preparing.swap_remove(at);
        if priority == Priority::Skip {
            self.job(Job::Want(file, false));
        } else {
            self.priorities[file.get() as usize] = priority;
            self.reprioritise();
        }
        self.shared.obeyed();
    }

    /// The priorities of files changed: so do those of pieces, and whether we are done.
    fn reprioritise(&mut self) {
        self.apply_priorities();
        // What a reader waits for stays wanted.
        self.look_at_windows();
        let picker = &self.picker;
        for piece in self.desk.retain(|piece| picker.wants(piece)) {
            self.picker.give_back(piece.get());
        }
        let complete = self.picker.wanted_left() == 0;
        let begins_again = self.finished && !complete;
        if begins_again {
            self.finished = false;
            self.tell_upload_only();
            self.book.set_seeding(false);
            self.book.hurry();
        } else if complete && self.context.is_some() {
            self.finish();
        }
        self.refeed = true;
        self.update_interest();
        self.publish();
        if begins_again {
            self.shared.tell(&Event::State(self.shared.snapshot().stats.state.clone()));
        }
    }

    /// The priority of a piece is the highest of the files that it holds bytes of.
    pub(super) fn apply_priorities(&mut self) {
        let layout = Arc::clone(self.shared.metainfo().layout());
        let mut pieces = vec![Priority::Skip; layout.piece_count() as usize];
        for file in layout.file_indices().filter(|&file| !layout.file(file).is_padding()) {
            let priority = self.priorities[file.get() as usize];
            for piece in layout.pieces_of(file) {
                let slot = &mut pieces[piece as usize];
                *slot = priority.max(*slot);
            }
        }
        for (piece, priority) in (0..).zip(pieces) {
            self.picker.set_priority(piece, priority);
        }
        self.recount();
    }

    /// Has the journal say what is verified.
    pub(super) fn journal(&mut self, moment: Moment) {
        let have = self.shared.have.read().clone();
        if self.context.is_some() {
            if moment != Moment::Finished {
                self.journaled = have.count();
            }
            self.recording = moment == Moment::Underway;
            let totals = self.totals();
            let priorities = self.priorities.clone();
            self.job(Job::Record(store::Record { have, priorities, totals, moment }));
        }
    }

    /// Hands work to the store thread without waiting for it.
    pub(super) fn job(&mut self, job: Job) {
        self.backlog.push_back(job);
        self.hand_over_jobs();
    }

    pub(super) fn hand_over_jobs(&mut self) {
        while let Some(job) = self.backlog.pop_front() {
            if let Err(error) = self.jobs.try_send(job) {
                self.backlog.push_front(error.into_inner());
                return;
            }
        }
    }

    pub(super) fn look_at_windows(&mut self) {
        if self.is_looking() {
            return;
        }
        let windows = self.shared.windows.lock().clone();
        let have = self.shared.have.read().clone();
        let pieces: Vec<u32> =
            windows.into_iter().flat_map(|(_, window)| window).filter(|&piece| !have.get(piece)).collect();
        // A reader waits for a piece whatever its file's priority is.
        let skipped: Vec<u32> =
            pieces.iter().copied().filter(|&piece| self.picker.priority(piece) == Some(Priority::Skip)).collect();
        for &piece in &skipped {
            self.picker.set_priority(piece, Priority::High);
        }
        if !skipped.is_empty() {
            self.recount();
            if std::mem::take(&mut self.finished) {
                self.book.set_seeding(false);
                self.book.hurry();
                self.tell_upload_only();
                self.publish();
                self.shared.tell(&Event::State(self.shared.snapshot().stats.state.clone()));
            }
        }
        self.urgent.clone_from(&pieces);
        self.picker.set_urgent(pieces);
        self.refeed = true;
        self.update_interest();
    }

    /// Connects, announces, works.
    pub(super) fn go(&mut self) {
        self.look_around();
        self.book.set_seeding(self.finished);
        self.book.hurry();
        let tiers = self.shared.metainfo().trackers();
        if self.options.announce && !tiers.is_empty() && self.announcer.is_none() {
            self.announcer = announce::start(&self.shared, &self.resources, tiers.to_vec(), self.is_looking());
        }
        if self.services.is_none() {
            self.services = Services::start(&self.shared, &self.resources, &[]);
        }
        if let (Some(hunt), Some(context)) = (self.hunt.take(), &self.context) {
            hunt.ready(Arc::clone(context), Arc::clone(&self.roster));
        }
        self.next_tick = Instant::now();
        self.dial();
    }
}
