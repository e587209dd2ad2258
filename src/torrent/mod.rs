//! One torrent: the owner thread, which decides everything, and the handle, which looks and asks.
//!
//! The owner owns the picker, the choker, the address book, the peer table and the pieces in flight; nobody else touches
//! them, so there is no lock around them. It never waits for a peer, a disk or a tracker: it waits at its inbox.
//!
//! - [`handle`]: what users see. [`shared`]: what it has in common with the owner. [`inbox`]: all that can be told to an
//!   owner. [`reader`]: a file that is still arriving.
//! - [`resources`]: what all owners of a session share.
//! - [`control`]: what an owner is told to do. [`door`]: whom it calls and lets in. [`peer`]: what it knows of one that is
//!   connected. [`peers`]: what it does about what they say. [`giving`]: what it gives them. [`trust`]: whom it trusts.
//!   [`twins`]: peers that are connected twice. [`exchange`]: what peers say of peers. [`work`]: who fetches what.
//!   [`status`]: ticks and snapshots.
//! - [`claims`]: which files the torrents of a session are at work on.
//! - [`dht`]: how it takes part in the distributed hash table.
//! - [`desk`]: the pieces in flight. [`suspects`]: who lied. [`store`]: the thread that opens, checks and journals files.
//! - [`look`]: what the swarm looks like. [`explain`]: where the time went, [`words`]: the same in words.
//! - [`verify`]: the workers between a full piece and the files.
//! - [`metadata`]: what an owner is before a magnet link's metadata is there. [`announce`], [`services`]: where either asks
//!   for peers.

mod announce;
mod claims;
mod control;
mod desk;
mod dht;
mod door;
mod exchange;
mod explain;
mod giving;
mod handle;
mod inbox;
mod look;
mod metadata;
mod peer;
mod peers;
mod reader;
mod resources;
mod services;
mod shared;
mod status;
mod store;
mod suspects;
mod trust;
mod twins;
pub(crate) mod verify;
mod words;
mod work;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::RwLock;

use crate::bits::Bits;
use crate::config::{AddOptions, Order, Priority, Seeding};
use crate::crew::NoThread;
use crate::discovery::{Announcer, TrackerFact};
use crate::metainfo::{FileIndex, InfoHash, Layout, Metainfo};
use crate::net::Closer;
use crate::peer::{Activity, Context, Hunt, PeerKey, Roster, Traffic, Valve};
use crate::policy::{AddressBook, Choker, Mode, Picker, RateMeter, SlotRule, Source, SuperSeeder, Swaps};
use crate::storage::Storage;
use desk::Desk;
use exchange::Exchange;
use explain::Ledger;
use giving::Haves;
use inbox::StoreFact;
use peer::Peer;
use services::Services;
use store::{Job, Moment, Totals};
use suspects::Suspects;

pub(crate) use desk::Budget;
pub use explain::{Explanation, PeerTimes};
pub use handle::{Data, Ended, Event, Failure, PeerStats, State, Stats, Torrent};
pub(crate) use inbox::{Admission, Command, INBOX, Inbox};
pub use look::Survey;
pub(crate) use metadata::start as start_magnet;
pub use reader::{CancelRead, FileReader, OpenError};
pub(crate) use resources::Resources;
pub(crate) use shared::Shared;

/// The owner's stack.
const STACK: usize = 512 * 1024;
/// How many messages are taken in before the owner looks at the clock.
const BATCH: usize = 256;

/// What the threads of a torrent are called after.
fn hash8(info_hash: InfoHash) -> String {
    info_hash.to_string()[..8].to_owned()
}

/// Starts the owner of a torrent and says how to reach it. Returns at once; files are opened by another thread.
pub(crate) fn start(
    metainfo: Metainfo,
    options: AddOptions,
    resources: Arc<Resources>,
) -> Result<Arc<Shared>, NoThread> {
    let (sender, inbox) = bounded(INBOX);
    let ledger = Ledger::new(resources.config.resources.workers.max(1), resources.port, Instant::now());
    let (info_hash, name) = (metainfo.info_hash(), metainfo.name().to_owned());
    let shared = Shared::new(info_hash, name, options.dir.clone(), sender, ledger);
    shared.learn(metainfo);
    let hash8 = hash8(info_hash);
    let jobs = store::start(&resources, &shared, &options, &hash8)?;
    let (begin, first) = (jobs.clone(), store::first_job(&shared, &options));
    let owner = Owner::new(Arc::clone(&shared), inbox, jobs, options, Arc::clone(&resources));
    resources.crew.spawn(format!("torrent-{hash8}"), STACK, move || owner.run())?;
    // Not before there is an owner: without one the store thread ends and has touched no file.
    begin.send(first).ok();
    Ok(shared)
}

/// What the owner is doing; the public [`State`] is made from it.
enum Phase {
    Opening,
    Checking(u32, u32),
    Running,
    Paused,
    /// A disk is full: whether so many bytes are free is looked at again at this time.
    Waiting {
        why: Arc<str>,
        needed: u64,
        again: Instant,
    },
    /// What all sockets are bound to is gone: until it is back.
    CutOff(Arc<str>),
    Failed(Failure),
}

/// Everything of one torrent.
struct Owner {
    shared: Arc<Shared>,
    resources: Arc<Resources>,
    options: AddOptions,
    inbox: Receiver<Inbox>,
    /// Work for the store thread.
    jobs: Sender<Job>,
    /// Work that the store thread has had no room for yet.
    backlog: VecDeque<Job>,
    phase: Phase,
    /// A pause was asked for while files were being checked.
    pause_wanted: bool,
    /// How often the files were asked to be opened: only the last opening counts.
    openings: u32,
    /// There once the files are open.
    context: Option<Arc<Context>>,
    /// The same while the files are hashed anew among connected peers.
    resting: Option<Arc<Context>>,
    traffic: Arc<Traffic>,
    valves: (Arc<Valve>, Arc<Valve>),
    roster: Arc<Roster>,
    picker: Picker,
    desk: Desk,
    suspects: Suspects,
    book: AddressBook,
    exchange: Exchange,
    /// Who goes for a better newcomer, where we are full.
    swaps: Swaps,
    peers: HashMap<PeerKey, Peer>,
    /// The addresses of peers that are gone, the latest last: their pieces may still be on the way through verification.
    departed: VecDeque<(PeerKey, SocketAddr)>,
    /// Connections being made.
    dialling: HashMap<PeerKey, (SocketAddr, Arc<Closer>)>,
    /// Where those of them can be called that called us while the metadata was looked for.
    listening: HashMap<PeerKey, SocketAddr>,
    /// Those who helped to find the metadata, and wait among the connections being made for the files to be open.
    hunt: Option<Arc<Hunt>>,
    /// Those who look for peers beside the trackers.
    services: Option<Services>,
    /// When more are dialled, where there were too many for once.
    dial_on: Option<Instant>,
    /// There was no thread to dial the last one by, which was said.
    no_threads: bool,
    choker: Choker,
    slots: SlotRule,
    next_choke: Instant,
    super_seeder: Option<SuperSeeder>,
    announcer: Option<Announcer>,
    priorities: Vec<Priority>,
    /// Files that become wanted once the store thread has made them.
    preparing: Vec<(FileIndex, Priority)>,
    /// The number of verified pieces that the journal knows to be durable.
    journaled: u32,
    /// The journal is being written, which may take as long as the disk does.
    recording: bool,
    next_journal: Instant,
    next_tick: Instant,
    /// When a pause that began with what a search for metadata had found lets go of that: whoever resumes at once has it.
    part_at: Option<Instant>,
    haves: Haves,
    /// When peers that found nothing to ask for look whether others have become late: they wait for time to pass, not for
    /// anything to happen.
    next_look: Option<Instant>,
    /// Somebody may find work now who did not before.
    refeed: bool,
    /// Memory for pieces in flight was given back.
    room: bool,
    /// A slot may be free, or somebody new may want one.
    refill_slots: bool,
    finished: bool,
    failed_pieces: u32,
    /// Payload of earlier sessions, once the journal has told.
    before: Option<Totals>,
    down_meter: RateMeter,
    up_meter: RateMeter,
    /// The traffic that the meters have seen, and when they last looked.
    measured: (u64, u64),
    measured_at: Instant,
    /// Wanted bytes, and those of them that are verified.
    progress: (u64, u64),
    /// The pieces that readers wait for, first things first.
    urgent: Vec<u32>,
    /// What the torrent as a whole is at, as the ledger knows.
    situation: Activity,
    ended: Option<Ending>,
}

/// How a torrent ends.
enum Ending {
    Stop,
    Remove(Data),
}

impl Owner {
    fn new(
        shared: Arc<Shared>,
        inbox: Receiver<Inbox>,
        jobs: Sender<Job>,
        options: AddOptions,
        resources: Arc<Resources>,
    ) -> Self {
        let layout = Arc::clone(shared.metainfo().layout());
        let now = Instant::now();
        let mut picker = Picker::new(layout.piece_count(), fastrand::Rng::new());
        picker.set_mode(mode(options.order));
        let priorities = priorities(&layout, &options.priorities);
        let mut book = resources.book();
        for &addr in &options.peers {
            book.add(addr, Source::Manual, now);
        }
        let mut owner = Self {
            backlog: VecDeque::new(),
            phase: Phase::Opening,
            pause_wanted: options.start == crate::config::Start::Paused,
            openings: 0,
            context: None,
            resting: None,
            traffic: Arc::clone(&shared.traffic),
            valves: (Arc::new(Valve::new(options.limits.down)), Arc::new(Valve::new(options.limits.up))),
            roster: Arc::default(),
            desk: Desk::new(Arc::clone(&layout), Arc::clone(&resources.budget)),
            suspects: Suspects::default(),
            book,
            exchange: Exchange::new(now),
            swaps: Swaps::default(),
            peers: HashMap::new(),
            departed: VecDeque::new(),
            dialling: HashMap::new(),
            listening: HashMap::new(),
            hunt: None,
            services: None,
            dial_on: None,
            no_threads: false,
            choker: Choker::new(fastrand::Rng::new()),
            slots: resources.config.peers.upload_slots.map_or_else(SlotRule::growing, SlotRule::fixed),
            next_choke: now,
            super_seeder: (options.seeding == Seeding::Super).then(|| SuperSeeder::new(layout.piece_count())),
            announcer: None,
            priorities,
            preparing: Vec::new(),
            journaled: 0,
            recording: false,
            next_journal: now,
            next_tick: now,
            part_at: None,
            haves: Haves::new(now),
            next_look: None,
            refeed: false,
            room: false,
            refill_slots: false,
            finished: false,
            failed_pieces: 0,
            before: None,
            down_meter: RateMeter::new(),
            up_meter: RateMeter::new(),
            measured: (0, 0),
            measured_at: now,
            progress: (0, 0),
            urgent: Vec::new(),
            situation: Activity::Files,
            ended: None,
            picker,
            shared,
            inbox,
            jobs,
            options,
            resources,
        };
        owner.apply_priorities();
        owner
    }

    fn run(mut self) {
        while self.ended.is_none() {
            let sooner = [self.haves.due(), self.next_look, self.dial_on].into_iter().flatten();
            if let Ok(message) = self.inbox.recv_deadline(sooner.fold(self.next_tick, Instant::min)) {
                self.handle(message);
                for _ in 0..BATCH {
                    let Ok(message) = self.inbox.try_recv() else { break };
                    self.handle(message);
                }
            }
            self.settle();
            let now = Instant::now();
            if self.dial_on.take_if(|at| *at <= now).is_some() {
                self.dial();
            }
            self.keep_ledger(now);
            if self.next_look.take_if(|look| *look <= now).is_some() {
                self.look_for_late();
            }
            if now >= self.next_tick {
                self.tick(now);
            }
        }
        self.end();
    }

    fn handle(&mut self, message: Inbox) {
        match message {
            Inbox::Peer(fact) => self.handle_peer(fact),
            Inbox::Tracker(fact) => self.handle_tracker(fact),
            // On its way when the metadata said that it is private (BEP 27).
            Inbox::Found(Source::Dht | Source::Exchange | Source::Local, _) if self.shared.is_private() => {}
            Inbox::Found(source, addrs) => self.found(source, None, &addrs),
            #[cfg(feature = "upnp")]
            Inbox::Outside(addr) => self.book.learn_self(addr),
            Inbox::Store(fact) => self.handle_store(fact),
            Inbox::Call(addr, closer, answer) => {
                let admission = self.admit(addr, closer);
                answer.try_send(admission).ok();
            }
            Inbox::Command(command) => {
                let preparing = self.preparing.len();
                self.handle_command(command);
                // The end has come only when everything is closed, and a file is wanted only when it is there.
                if self.ended.is_none() && self.preparing.len() == preparing {
                    self.shared.obeyed();
                }
            }
            Inbox::Windows => self.look_at_windows(),
        }
    }

    fn handle_tracker(&mut self, fact: TrackerFact) {
        announce::tell(&self.shared, &fact);
        match fact {
            TrackerFact::Peers { url, peers } => self.found(Source::Tracker, trust::address_of(&url), &peers),
            TrackerFact::ExternalIp { ip, .. } => {
                self.book.tracker_sees_us(ip);
            }
            _ => {}
        }
    }

    fn handle_store(&mut self, fact: StoreFact) {
        match fact {
            StoreFact::Progress(done, total) => {
                self.phase = Phase::Checking(done, total);
                self.publish();
            }
            // It was asked to be opened anew meanwhile: peers must not begin to work with files that are let go of.
            StoreFact::Ready { opening, .. } if opening != self.openings => {}
            StoreFact::Ready { storage, have, totals, .. } => {
                self.before.get_or_insert(totals);
                // A piece that was stored while the files were looked at counts only if it was seen.
                for piece in 0..have.len() {
                    let _ = if have.get(piece) { self.picker.got(piece) } else { self.picker.lost(piece) };
                }
                self.journaled = have.count();
                let before = std::mem::replace(&mut *self.shared.have.write(), have.clone());
                *self.shared.storage.write() = Some(Arc::clone(&storage));
                let rested = self.resting.take();
                self.context = rested.clone().or_else(|| self.make_context(Arc::clone(&storage)));
                let Some(context) = &self.context else { return };
                // What is replaced goes when nothing is locked.
                let _before = std::mem::replace(&mut *context.storage.write(), storage);
                *context.have.write() = have;
                self.recount();
                self.finished = self.picker.wanted_left() == 0 && !self.is_looking();
                if self.pause_wanted {
                    self.part_at = Some(Instant::now() + KEPT);
                    self.set_phase(Phase::Paused);
                } else {
                    self.set_phase(Phase::Running);
                    if rested.is_some() {
                        self.tell_changes(&before);
                    }
                    self.go();
                }
            }
            // Asked for by a search for metadata, which this owner was.
            StoreFact::Recalled(_) => {}
            StoreFact::Recorded { synced } => self.recording &= !synced,
            StoreFact::Prepared(file) => self.prepared(file),
            StoreFact::Room if matches!(self.phase, Phase::Waiting { .. }) => {
                self.set_phase(Phase::Running);
                self.refeed = true;
            }
            StoreFact::Room => {}
            StoreFact::Failed(error) => self.fail_or_wait(&error),
        }
    }

    /// What the peers of this torrent need; `None` where the session ends.
    fn make_context(&self, storage: Arc<Storage>) -> Option<Arc<Context>> {
        let inbox = self.shared.inbox.clone();
        let resources = &self.resources;
        let layout = Arc::clone(self.shared.metainfo().layout());
        Some(Arc::new(Context {
            metainfo: self.shared.metainfo().clone(),
            caller: resources.caller(&self.shared),
            have: RwLock::new(Bits::new(layout.piece_count())),
            layout,
            storage: RwLock::new(storage),
            facts: Box::new(move |fact| inbox.send(Inbox::Peer(fact)).is_ok()),
            verify: resources.verify.lock().clone()?,
            pool: Arc::clone(&resources.pool),
            down: [Arc::clone(&resources.down), Arc::clone(&self.valves.0)],
            up: [Arc::clone(&resources.up), Arc::clone(&self.valves.1)],
            traffic: Arc::clone(&self.traffic),
            workers: Arc::clone(&self.shared.ledger.workers),
            exchange: self.exchanges(),
        }))
    }

    fn end(mut self) {
        let grace = self.resources.config.trackers.stop_grace;
        self.shared.stop();
        let announcer = self.announcer.take();
        // Nobody is dialled or admitted any more.
        self.phase = Phase::Paused;
        self.keep_ledger(Instant::now());
        self.halt();
        let until = Instant::now() + grace;
        self.drain(grace);
        if self.shared.have.read().count() > self.journaled {
            self.journal(Moment::Leaving);
        }
        // From here on nobody listens, so that nobody waits to be heard.
        self.shared.close(&self.inbox);
        drop(std::mem::replace(&mut self.inbox, crossbeam_channel::never()));
        if let Some(announcer) = announcer {
            announcer.stop(until.saturating_duration_since(Instant::now()).max(FAREWELL));
        }
        if let Some(Ending::Remove(data)) = self.ended {
            self.backlog.push_back(Job::Remove(data));
        }
        for job in std::mem::take(&mut self.backlog) {
            self.jobs.send(job).ok();
        }
        // The store thread ends when its jobs are done, and says so.
    }

    /// Takes in facts until every peer's threads have ended, so that none of them waits for us, and complete pieces are
    /// in the files.
    fn drain(&mut self, most: Duration) {
        let deadline = Instant::now() + most;
        while !(self.peers.is_empty() && self.dialling.is_empty() && self.desk.len() == 0) {
            let Ok(message) = self.inbox.recv_deadline(deadline) else { return };
            if matches!(message, Inbox::Peer(_)) {
                self.handle(message);
            }
        }
    }
}

/// The least time that trackers have for a farewell, where peers took the rest of it.
const FAREWELL: Duration = Duration::from_millis(500);
/// How long a torrent that is paused when its metadata is there keeps the peers and services of the search.
const KEPT: Duration = Duration::from_secs(10);

fn mode(order: Order) -> Mode {
    match order {
        Order::RarestFirst => Mode::RarestFirst,
        Order::Sequential => Mode::Sequential,
    }
}

fn wanted_files(priorities: &[Priority]) -> Vec<bool> {
    priorities.iter().map(|&priority| priority != Priority::Skip).collect()
}

fn priorities(layout: &Layout, given: &[Priority]) -> Vec<Priority> {
    (0..layout.files().len()).map(|file| given.get(file).copied().unwrap_or(Priority::Normal)).collect()
}
