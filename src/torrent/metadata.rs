//! A torrent without metadata: what the owner thread does before it can be an owner.
//!
//! The search owns the address book, the announcer and the candidates, and when one of them has brought the metadata it
//! becomes the ordinary owner: the same thread and inbox, with the book, the announcer and the connections that there are.
//! What the candidates send is judged by what they share (`peer/metadata.rs`); nothing here believes a peer.
//!
//! ```text
//!   recall ──▶ search ◀──▶ paused        recall: is HASH.torrent of an earlier run there?
//!     │           │
//!     └─────┬─────┘
//!           ▼
//!   owner: opens the files, then the candidates become its peers
//! ```

mod candidates;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::dht::DhtPart;
use super::explain::Ledger;
use super::handle::{Event, Failure, PeerStats, State, Stats};
use super::inbox::{Command, INBOX, Inbox, StoreFact};
use super::look::Survey;
use super::services::Services;
use super::shared::{Shared, Snapshot};
use super::store::{self, Job};
use super::{Ending, Owner, Resources, STACK, announce, hash8, trust};
use crate::config::{AddOptions, Check, Priority, Start};
use crate::crew::NoThread;
use crate::discovery::{Announcer, TrackerFact, look_up};
use crate::metainfo::{Host, InfoHash, Magnet, Metainfo};
use crate::peer::{Activity, Hunt, PeerKey};
use crate::policy::{AddressBook, Source};
use candidates::Candidate;

/// How often the search looks around.
const TICK: Duration = Duration::from_millis(100);
/// Addresses of trackers, links and persons that are remembered, for a torrent that turns out to be private.
const VOUCHED: usize = 2_000;

/// Starts a torrent of which only the magnet link is known. Returns at once.
pub(crate) fn start(
    magnet: Magnet,
    info_hash: InfoHash,
    options: AddOptions,
    resources: Arc<Resources>,
) -> Result<Arc<Shared>, NoThread> {
    let (sender, inbox) = bounded(INBOX);
    let ledger = Ledger::new(resources.config.resources.workers.max(1), resources.port, Instant::now());
    let name = magnet.name.clone().unwrap_or_else(|| info_hash.to_string());
    let shared = Shared::new(info_hash, name, options.dir.clone(), sender, ledger);
    shared.publish_state(SEARCHING);
    let jobs = store::start(&resources, &shared, &options, &hash8(info_hash))?;
    let search = Search::new(Arc::clone(&shared), magnet, inbox, jobs.clone(), options, Arc::clone(&resources));
    resources.crew.spawn(format!("torrent-{}", hash8(info_hash)), STACK, move || search.run())?;
    jobs.send(Job::Recall).ok();
    Ok(shared)
}

/// What a search begins with.
const SEARCHING: State = State::Metadata { tried: 0, offering: 0, pieces: 0, total: 0 };

enum Phase {
    /// It is looked whether an earlier run has found it.
    Recalling,
    Searching,
    Paused,
    /// What all sockets are bound to is gone: until it is back.
    CutOff(Arc<str>),
    /// What has the info-hash cannot be used, or the files are somebody else's for now.
    Failed(Failure),
}

struct Search {
    shared: Arc<Shared>,
    resources: Arc<Resources>,
    options: AddOptions,
    magnet: Magnet,
    inbox: Receiver<Inbox>,
    jobs: Sender<Job>,
    phase: Phase,
    /// A pause was asked for before there was anything to pause.
    pause_wanted: bool,
    hunt: Arc<Hunt>,
    book: AddressBook,
    announcer: Option<Announcer>,
    services: Option<Services>,
    candidates: HashMap<PeerKey, Candidate>,
    /// Connections that were tried, ours and theirs.
    tried: usize,
    /// Addresses that a private torrent may use.
    vouched: HashMap<SocketAddr, Source>,
    metainfo: Option<Metainfo>,
    /// What is known of the situation, for the ledger.
    situation: Activity,
    next_tick: Instant,
    ended: Option<Ending>,
}

impl Search {
    fn new(
        shared: Arc<Shared>,
        magnet: Magnet,
        inbox: Receiver<Inbox>,
        jobs: Sender<Job>,
        options: AddOptions,
        resources: Arc<Resources>,
    ) -> Self {
        let facts = {
            let inbox = shared.inbox.clone();
            Box::new(move |fact| inbox.send(Inbox::Peer(fact)).is_ok())
        };
        let caller = resources.caller(&shared);
        let hunt = Arc::new(Hunt::new(
            caller,
            Arc::clone(&resources.outside_port),
            resources.config.peers.idle_timeout,
            facts,
        ));
        let mut search = Self {
            book: resources.book(),
            hunt,
            pause_wanted: false,
            announcer: None,
            services: None,
            candidates: HashMap::new(),
            tried: 0,
            vouched: HashMap::new(),
            metainfo: None,
            situation: Activity::Files,
            next_tick: Instant::now(),
            ended: None,
            phase: Phase::Recalling,
            shared,
            resources,
            options,
            magnet,
            inbox,
            jobs,
        };
        let given = search.options.peers.clone();
        search.take_in(Source::Manual, None, &given);
        let named: Vec<SocketAddr> = search.magnet.peers.iter().filter_map(Host::addr).collect();
        search.take_in(Source::Magnet, None, &named);
        search
    }

    fn run(mut self) {
        while self.ended.is_none() {
            if let Ok(message) = self.inbox.recv_deadline(self.next_tick) {
                self.handle(message);
            }
            if let Some(metainfo) = self.metainfo.take() {
                return self.become_owner(metainfo).run();
            }
            let now = Instant::now();
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
            Inbox::Found(source, addrs) => {
                self.take_in(source, None, &addrs);
                self.dial();
            }
            Inbox::Store(StoreFact::Recalled(found)) => match found {
                Some(metainfo) => self.recalled(&metainfo),
                None => self.begin(),
            },
            Inbox::Store(StoreFact::Failed(error)) => self.fail(error.to_string(), true),
            Inbox::Store(_) => {}
            Inbox::Call(addr, closer, answer) => {
                let admission = self.admit(addr, closer);
                answer.try_send(admission).ok();
            }
            Inbox::Command(command) => {
                self.handle_command(command);
                // The end has come only when everything is closed.
                if self.ended.is_none() {
                    self.shared.obeyed();
                }
            }
            #[cfg(feature = "upnp")]
            Inbox::Outside(addr) => self.book.learn_self(addr),
            Inbox::Windows => {}
        }
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Stop => self.ended = Some(Ending::Stop),
            Command::Remove(data) => self.ended = Some(Ending::Remove(data)),
            Command::Pause => {
                self.pause_wanted = true;
                if !self.is_looking() {
                    self.options.start = Start::Paused;
                }
                if matches!(self.phase, Phase::Searching | Phase::CutOff(_)) {
                    self.halt();
                    self.set_phase(Phase::Paused);
                }
            }
            Command::Resume => {
                self.pause_wanted = false;
                if !self.is_looking() {
                    self.options.start = Start::Running;
                }
                match &self.phase {
                    Phase::Paused => self.go(),
                    // Whoever was at work on its files may have gone.
                    Phase::Failed(failure) if failure.disk => {
                        self.set_phase(Phase::Recalling);
                        // What was asked before is answered, so that there is room.
                        self.jobs.try_send(Job::Recall).ok();
                    }
                    _ => {}
                }
            }
            Command::Order(order) => self.options.order = order,
            Command::Limits(limits) => self.options.limits = limits,
            Command::AddPeers(addrs) => {
                self.take_in(Source::Manual, None, &addrs);
                self.dial();
            }
            Command::Filter => {
                self.book.set_filter(Arc::clone(&self.resources.filter.read()));
                let blocked = self.candidates.values().filter(|candidate| self.book.is_blocked(candidate.addr));
                blocked.for_each(|candidate| candidate.closer.close());
            }
            Command::Peers(answer) => {
                let connected = self.candidates.values().filter(|candidate| candidate.since.is_some());
                let peers = connected.map(|it| PeerStats::of_candidate(it.addr, it.incoming)).collect();
                answer.try_send(peers).ok();
            }
            Command::Survey(answer) => {
                let survey = Survey { known: self.book.count_by_source(), ..Survey::default() };
                answer.try_send(survey).ok();
            }
            Command::Announce => {
                self.services.as_ref().and_then(Services::dht).into_iter().for_each(DhtPart::search_now);
                self.announcer.iter().for_each(Announcer::announce_now);
            }
            // Nobody knows yet which files and pieces there are.
            Command::Recheck | Command::Priority(..) => {}
        }
    }

    fn is_looking(&self) -> bool {
        self.options.start == Start::Looking
    }

    /// There is nothing from an earlier run.
    fn begin(&mut self) {
        if self.pause_wanted {
            // Who called meanwhile goes.
            self.halt();
            self.set_phase(Phase::Paused);
        } else {
            self.go();
        }
    }

    /// Begins, or goes on, to look for peers.
    fn go(&mut self) {
        if self.announcer.is_none() && self.options.announce && !self.magnet.trackers.is_empty() {
            let tiers = self.magnet.trackers.iter().map(|url| vec![url.clone()]).collect();
            self.announcer = announce::start(&self.shared, &self.resources, tiers, self.is_looking());
        }
        if self.services.is_none() {
            self.services = Services::start(&self.shared, &self.resources, &self.magnet.nodes);
        }
        let names: Vec<_> = self.magnet.peers.iter().filter_map(Host::name).collect();
        if !names.is_empty() {
            let inbox = self.shared.inbox.clone();
            look_up(self.resources.config.listen.bind.clone(), names, move |addrs| {
                inbox.send(Inbox::Found(Source::Magnet, addrs)).is_ok()
            });
        }
        self.book.hurry();
        self.set_phase(Phase::Searching);
        self.dial();
    }

    fn take_in(&mut self, source: Source, teller: Option<IpAddr>, addrs: &[SocketAddr]) {
        self.resources.take_in(&mut self.book, source, teller, addrs);
        let vouched = matches!(source, Source::Manual | Source::Magnet | Source::Tracker);
        for &addr in addrs {
            if vouched && self.vouched.len() < VOUCHED {
                let known = self.vouched.entry(addr).or_insert(source);
                *known = source.min(*known);
            }
        }
    }

    fn handle_tracker(&mut self, fact: TrackerFact) {
        announce::tell(&self.shared, &fact);
        match fact {
            TrackerFact::Peers { url, peers } => {
                self.take_in(Source::Tracker, trust::address_of(&url), &peers);
                self.dial();
            }
            TrackerFact::ExternalIp { ip, .. } => self.book.tracker_sees_us(ip),
            _ => {}
        }
    }

    /// An earlier run has found it. The link may name other trackers than that one's did.
    fn recalled(&mut self, metainfo: &Metainfo) {
        let mut trackers = self.magnet.trackers.clone();
        trackers.extend(metainfo.trackers().concat());
        let mut seen = HashSet::new();
        trackers.retain(|url| seen.insert(url.clone()));
        let mut seeds = self.magnet.web_seeds.clone();
        seeds.extend(metainfo.web_seeds().iter().filter(|url| !self.magnet.web_seeds.contains(url)).cloned());
        log::info!("{}: the metadata is there from an earlier run", metainfo.name());
        match Metainfo::from_info(metainfo.info_bytes(), &trackers, &seeds) {
            Ok(metainfo) => self.metainfo = Some(metainfo),
            Err(error) => log::warn!("{}: {error}", metainfo.name()),
        }
        if self.metainfo.is_none() {
            self.begin();
        }
    }

    /// The metadata is there, and has the info-hash.
    fn found(&mut self, info: &[u8]) {
        self.hunt.found(Instant::now());
        match Metainfo::from_info(info, &self.magnet.trackers, &self.magnet.web_seeds) {
            Ok(metainfo) => self.metainfo = Some(metainfo),
            Err(error) => self.fail(
                format!("the metadata has the right info-hash and cannot be used: {error}; look for another torrent"),
                false,
            ),
        }
    }

    fn fail(&mut self, message: String, disk: bool) {
        log::error!("{}: {message}", self.shared.name());
        self.halt();
        self.set_phase(Phase::Failed(Failure { message: message.into(), disk }));
    }

    /// The owner of the torrent that was found, with all that there is already.
    fn become_owner(mut self, metainfo: Metainfo) -> Owner {
        log::info!("{}: metadata of {} bytes, {}", self.shared.info_hash, metainfo.info_bytes().len(), metainfo.name());
        if !matches!(self.options.check, Check::ReadOnly | Check::Hashed) {
            self.jobs.try_send(Job::Keep(metainfo.clone())).ok();
        }
        self.hunt.found(Instant::now());
        if metainfo.is_private() {
            self.keep_to_vouched();
        }
        let places = metainfo.layout().files().len() as u32;
        let select = &self.magnet.select;
        // A link that selects nothing that is there means nothing by it.
        if let Some(choose) = &self.options.choose {
            self.options.priorities = choose.priorities(&metainfo);
        } else if self.options.priorities.is_empty() && (0..places).any(|file| select.contains(file)) {
            let priority = |file| if select.contains(file) { Priority::Normal } else { Priority::Skip };
            self.options.priorities = (0..places).map(priority).collect();
        }
        self.shared.learn(metainfo);
        let first = store::first_job(&self.shared, &self.options);
        let mut owner = Owner::new(self.shared, self.inbox, self.jobs, self.options, self.resources);
        owner.book = self.book;
        owner.announcer = self.announcer;
        owner.services = self.services;
        owner.listening = self.candidates.iter().filter_map(|(&key, it)| Some((key, it.listens?))).collect();
        owner.dialling = self.candidates.into_iter().map(|(key, it)| (key, (it.addr, it.closer))).collect();
        owner.hunt = Some(self.hunt);
        owner.recount();
        owner.publish();
        owner.shared.tell(&Event::Metadata);
        owner.shared.tell(&Event::State(State::Opening));
        owner.job(first);
        owner
    }

    /// Lets go of everything outside.
    fn halt(&mut self) {
        self.services = None;
        for candidate in self.candidates.values() {
            candidate.closer.close();
        }
        if let Some(announcer) = self.announcer.take() {
            announce::stop(announcer, &self.resources);
        }
    }

    fn end(mut self) {
        self.shared.stop();
        self.phase = Phase::Paused;
        self.halt();
        let deadline = Instant::now() + self.resources.config.trackers.stop_grace;
        while !self.candidates.is_empty() {
            match self.inbox.recv_deadline(deadline) {
                Ok(message @ Inbox::Peer(_)) => self.handle(message),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        if let Some(Ending::Remove(data)) = self.ended {
            self.jobs.send(Job::Remove(data)).ok();
        }
        self.shared.close(&self.inbox);
        // The store thread ends with us, and says so.
    }

    fn tick(&mut self, now: Instant) {
        self.next_tick = now + TICK;
        match (self.resources.outlet.closed(), &self.phase) {
            (Some(why), Phase::Searching) => {
                self.halt();
                self.set_phase(Phase::CutOff(format!("nothing is sent or received: {why}").into()));
            }
            (None, Phase::CutOff(_)) => self.go(),
            _ => {}
        }
        self.dial();
        let offered = self.hunt.assembly.lock().progress().0 > 0;
        if let Some(dht) = self.services.as_mut().and_then(Services::dht_mut) {
            dht.tell_lacking(!offered);
            dht.tell_address(&mut self.book);
            dht.tell_if_alone(&self.shared);
        }
        self.publish();
        let connected = self.candidates.values().any(|candidate| candidate.since.is_some());
        let situation = match self.phase {
            Phase::Recalling => Activity::Files,
            Phase::Paused | Phase::Failed(_) => Activity::Paused,
            Phase::CutOff(_) => Activity::CutOff,
            Phase::Searching if connected => Activity::Connected,
            Phase::Searching if !self.candidates.is_empty() => Activity::Dialling,
            Phase::Searching if self.announcer.as_ref().is_some_and(announce::is_asked) => Activity::Tracker,
            Phase::Searching => Activity::NoPeers,
        };
        if std::mem::replace(&mut self.situation, situation) != situation {
            self.shared.ledger.switch(situation, now);
        }
    }

    fn set_phase(&mut self, phase: Phase) {
        self.phase = phase;
        self.publish();
        self.shared.tell(&Event::State(self.state()));
    }

    fn state(&self) -> State {
        match &self.phase {
            Phase::Recalling | Phase::Searching => {
                let (offering, pieces, total) = self.hunt.assembly.lock().progress();
                State::Metadata { tried: self.tried, offering, pieces, total }
            }
            Phase::Paused => State::Paused,
            Phase::CutOff(why) => State::Waiting(Arc::clone(why)),
            Phase::Failed(failure) => State::Failed(failure.clone()),
        }
    }

    fn publish(&self) {
        let connected = self.candidates.values().filter(|candidate| candidate.since.is_some()).count();
        let stats = Stats {
            state: self.state(),
            peers: connected,
            dialling: self.candidates.len() - connected,
            known: self.book.len(),
            refused: self.book.refused(),
            missed: self.book.misses(),
            blocked_callers: self.resources.blocked_callers.load(Ordering::Relaxed),
            dht: self.services.as_ref().and_then(Services::dht).map(DhtPart::status),
            ..Stats::default()
        };
        let trackers = self.announcer.as_ref().map_or_else(Vec::new, Announcer::snapshot);
        self.shared.publish(Snapshot { stats, trackers, priorities: Vec::new() });
    }
}
