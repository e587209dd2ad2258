//! What a torrent's owner and its handles share: what was published last, who waits for a change, and the way to the owner.
//!
//! It owns the locks between them. None is held for longer than it takes to look or to replace.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::{Condvar, Mutex, RwLock};

use super::explain::Ledger;
use super::handle::{Ended, Event, State, Stats};
use super::inbox::{Command, Inbox};
use crate::bits::Bits;
use crate::config::Priority;
use crate::discovery::TrackerStatus;
use crate::metainfo::{InfoHash, Metainfo};
use crate::peer::Traffic;
use crate::storage::Storage;

/// Events that a slow subscriber may leave unread before it misses some.
const EVENTS: usize = 4096;

/// What the owner and the handles share.
pub(crate) struct Shared {
    pub(crate) info_hash: InfoHash,
    /// What it is called while the metadata is not known.
    called: String,
    /// Set once: when the torrent is added, or when the metadata has come.
    metainfo: OnceLock<Metainfo>,
    pub(crate) dir: PathBuf,
    pub(crate) inbox: Sender<Inbox>,
    /// What the owner last published; replaced, never changed in place.
    snapshot: Mutex<Arc<Snapshot>>,
    /// Wakes those who wait for pieces or for a state.
    changed: Condvar,
    /// The pieces that we have: written by the owner, looked at by readers.
    pub(crate) have: RwLock<Bits>,
    /// Set once the files are open.
    pub(crate) storage: RwLock<Option<Arc<Storage>>>,
    /// Payload in both directions.
    pub(crate) traffic: Arc<Traffic>,
    /// Where the time goes.
    pub(crate) ledger: Ledger,
    /// What readers wait for: one window of pieces each.
    pub(crate) windows: Mutex<Vec<(u64, std::ops::Range<u32>)>>,
    subscribers: Mutex<Vec<Sender<Event>>>,
    /// Commands that the owner has not obeyed yet. Counted up by those who give them, down by the owner.
    commands: AtomicUsize,
    /// The torrent ends: long work on its files is to end early, and what the owner is asked from here on may go
    /// unanswered. Set once, by the owner.
    pub(crate) stopping: AtomicBool,
}

/// What can be seen of a torrent at one moment without asking its owner.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) stats: Stats,
    pub(crate) trackers: Vec<TrackerStatus>,
    pub(crate) priorities: Vec<Priority>,
}

impl Shared {
    /// A torrent that has no metainfo yet, and is called like this until then.
    pub(crate) fn new(
        info_hash: InfoHash,
        called: String,
        dir: PathBuf,
        inbox: Sender<Inbox>,
        ledger: Ledger,
    ) -> Arc<Self> {
        Arc::new(Self {
            info_hash,
            called,
            metainfo: OnceLock::new(),
            dir,
            inbox,
            snapshot: Mutex::default(),
            changed: Condvar::new(),
            have: RwLock::default(),
            storage: RwLock::new(None),
            traffic: Arc::default(),
            ledger,
            windows: Mutex::new(Vec::new()),
            subscribers: Mutex::new(Vec::new()),
            commands: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        })
    }

    /// The metainfo is there from now on.
    pub(crate) fn learn(&self, metainfo: Metainfo) {
        let pieces = metainfo.layout().piece_count();
        *self.have.write() = Bits::new(pieces);
        let mut current = self.snapshot.lock();
        let mut next = Snapshot::clone(&current);
        next.stats.pieces_total = pieces;
        *current = Arc::new(next);
        self.metainfo.get_or_init(|| metainfo);
    }

    /// The metainfo, for those who work on the files and pieces that it names.
    pub(crate) fn metainfo(&self) -> &Metainfo {
        // They begin when the owner of a torrent has learned it: a search for metadata has neither pieces nor files.
        self.metainfo.get().expect("an owner has learned the metainfo before it begins")
    }

    /// The metainfo, where it is there.
    pub(super) fn known(&self) -> Option<&Metainfo> {
        self.metainfo.get()
    }

    pub(crate) fn name(&self) -> &str {
        self.metainfo.get().map_or(&self.called, |metainfo| metainfo.name())
    }

    /// Whether it is known to be private (BEP 27).
    pub(crate) fn is_private(&self) -> bool {
        self.metainfo.get().is_some_and(Metainfo::is_private)
    }

    /// The nodes of the DHT that its file names, once it is there.
    pub(crate) fn dht_nodes(&self) -> &[String] {
        self.metainfo.get().map_or(&[], Metainfo::nodes)
    }

    pub(crate) fn has_metainfo(&self) -> bool {
        self.metainfo.get().is_some()
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.lock())
    }

    /// Replaces the snapshot and wakes those who wait.
    pub(crate) fn publish(&self, snapshot: Snapshot) {
        *self.snapshot.lock() = Arc::new(snapshot);
        self.changed.notify_all();
    }

    /// Changes the state alone.
    pub(crate) fn publish_state(&self, state: State) {
        let mut current = self.snapshot.lock();
        let mut next = Snapshot::clone(&current);
        next.stats.state = state;
        *current = Arc::new(next);
        self.changed.notify_all();
    }

    /// Wakes those who wait for pieces.
    pub(crate) fn wake(&self) {
        drop(self.snapshot.lock());
        self.changed.notify_all();
    }

    /// The events from now on.
    pub(super) fn subscribe(&self) -> Receiver<Event> {
        let (sender, receiver) = bounded(EVENTS);
        self.subscribers.lock().push(sender);
        receiver
    }

    /// Tells every subscriber; one that is gone is forgotten, one that does not read misses this.
    pub(crate) fn tell(&self, event: &Event) {
        let mut subscribers = self.subscribers.lock();
        subscribers
            .retain(|subscriber| !matches!(subscriber.try_send(event.clone()), Err(TrySendError::Disconnected(_))));
    }

    pub(crate) fn has_subscribers(&self) -> bool {
        !self.subscribers.lock().is_empty()
    }

    /// Waits until `is_it` holds for the state or the deadline is over, and says what the state is then.
    pub(crate) fn wait_until(&self, deadline: Option<Instant>, is_it: impl Fn(&State) -> bool) -> State {
        let mut snapshot = self.snapshot.lock();
        loop {
            if is_it(&snapshot.stats.state) {
                return snapshot.stats.state.clone();
            }
            match deadline {
                Some(deadline) => {
                    if self.changed.wait_until(&mut snapshot, deadline).timed_out() {
                        return snapshot.stats.state.clone();
                    }
                }
                None => self.changed.wait(&mut snapshot),
            }
        }
    }

    /// Waits for the next change, at most until `deadline`, unless `ready` already holds; `false` at the deadline.
    pub(crate) fn wait_for_change(&self, deadline: Option<Instant>, ready: impl Fn(&State) -> bool) -> bool {
        let mut snapshot = self.snapshot.lock();
        if ready(&snapshot.stats.state) {
            return true;
        }
        match deadline {
            Some(deadline) => !self.changed.wait_until(&mut snapshot, deadline).timed_out(),
            None => {
                self.changed.wait(&mut snapshot);
                true
            }
        }
    }

    pub(crate) fn command(&self, command: Command) -> Result<(), Ended> {
        if matches!(self.snapshot().stats.state, State::Stopped) {
            return Err(Ended);
        }
        self.commands.fetch_add(1, Ordering::AcqRel);
        // An owner that has ended obeys no more, and its last state is final whatever the count is.
        self.inbox.send(Inbox::Command(command)).map_err(|_| Ended)
    }

    /// Asks the owner something and waits for the answer: a moment, for it waits for nobody.
    pub(super) fn ask<T>(&self, question: impl FnOnce(Sender<T>) -> Command) -> Result<T, Ended> {
        let (sender, answer) = bounded(1);
        self.command(question(sender))?;
        self.await_answer(&answer).ok_or(Ended)
    }

    /// Waits for what the owner was asked, and has put into the inbox, before.
    pub(crate) fn await_answer<T>(&self, answer: &Receiver<T>) -> Option<T> {
        if self.stopping.load(Ordering::SeqCst) {
            // It may have come when the owner had looked into its inbox for the last time, and stays there: a channel keeps
            // what it has as long as it has a sender. What is answered at all is answered by now.
            return answer.try_recv().ok();
        }
        answer.recv().ok()
    }

    /// The owner begins to end: who asks it something from here on does not wait for an answer.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// The owner, which was [stopped](Self::stop), listens to nobody any more: who asked it something before that gets no
    /// answer, instead of waiting for one.
    pub(super) fn close(&self, inbox: &Receiver<Inbox>) {
        while inbox.try_recv().is_ok() {}
    }

    /// Whether every command so far has taken effect.
    pub(super) fn has_obeyed(&self) -> bool {
        self.commands.load(Ordering::Acquire) == 0
    }

    /// A command has taken effect.
    pub(crate) fn obeyed(&self) {
        self.commands.fetch_sub(1, Ordering::AcqRel);
        self.wake();
    }
}
