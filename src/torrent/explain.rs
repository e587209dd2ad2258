//! Where the time of a torrent went: the ledger of its connections, those that are over included, and the explanation
//! that is made of it when somebody asks.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::net::Transport;
use crate::peer::{Account, Activity, Link, PeerKey, Protection, Tally, Times, Traffic};

/// Peers that are gone and that are still told of one by one; the others only add to the sums.
const GONE: usize = 64;

/// Where the time of a torrent went, up to the moment at which it was made by [`Torrent::explain`](crate::Torrent::explain).
///
/// Displayed, it is a table with a sentence for each cause that matters, and what could be done about it.
///
/// ```no_run
/// # fn example(torrent: &ropewalk::Torrent) {
/// use ropewalk::Activity;
///
/// let explanation = torrent.explain();
/// if explanation.share(Activity::Unchoke) > 0.5 {
///     println!("most peers have no slot for us");
/// }
/// println!("{explanation}");
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Explanation {
    /// The torrent as a whole: what it was at since it was added.
    pub torrent: Times,
    /// All connections together, those of peers that are gone included.
    pub connections: Times,
    /// The sending threads of all connections together. What they read from the disk to send is part of sending.
    pub senders: Times,
    /// The verify workers, while there were peers. They serve all torrents of the session: what they do for another one
    /// counts as idle here.
    pub workers: Times,
    /// The number of verify workers.
    pub worker_threads: usize,
    /// Connections so far, those that are over included.
    pub connected: usize,
    /// Of those, the ones that the peer made.
    pub callers: usize,
    /// The port that peers can call; 0 where none is listened on.
    pub port: u16,
    /// The connected peers, and after them the last 64 that are gone, the latest first.
    pub peers: Vec<PeerTimes>,
}

/// Where the time of the connection to one peer went.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PeerTimes {
    /// Its address.
    pub addr: SocketAddr,
    /// Its client, as its id says.
    pub client: String,
    /// Whether it called us.
    pub incoming: bool,
    /// What the connection is, or was, made of.
    pub transport: Transport,
    /// How far it is, or was, encrypted.
    pub protection: Protection,
    /// The connection is over.
    pub gone: bool,
    /// What it is at, or was at the end.
    pub current: Activity,
    /// The connection, from the handshake on.
    pub connection: Times,
    /// The thread that sends to it.
    pub sender: Times,
    /// Payload received from it, in bytes.
    pub downloaded: u64,
    /// Payload sent to it, in bytes.
    pub uploaded: u64,
}

/// The accounts of one torrent. The owner says who comes and goes, anybody may ask.
pub(crate) struct Ledger {
    pub(crate) workers: Arc<Tally>,
    worker_threads: usize,
    port: u16,
    /// Locked to look or to change; no other lock is taken under it.
    books: Mutex<Books>,
}

struct Books {
    torrent: Account,
    live: HashMap<PeerKey, Arc<Link>>,
    /// All that the peers that are gone add to the sums.
    past: (Times, Times),
    connected: usize,
    callers: usize,
    gone: VecDeque<PeerTimes>,
}

impl Explanation {
    /// The share of an activity in its own kind, from 0 to 1: of the connections' time, the workers', the senders' or the
    /// torrent's. Time after completion and in pauses does not count.
    pub fn share(&self, activity: Activity) -> f64 {
        let of = |times: &Times| {
            let total = times.without(Activity::Seeding).without(Activity::Paused).total();
            if total.is_zero() { 0.0 } else { times.of(activity).as_secs_f64() / total.as_secs_f64() }
        };
        match activity {
            Activity::Files | Activity::Tracker | Activity::Dialling => of(&self.torrent),
            Activity::NoPeers | Activity::Connected | Activity::CutOff => of(&self.torrent),
            Activity::DiskFull => of(&self.torrent).max(of(&self.connections)),
            Activity::Sending | Activity::UploadLimit => of(&self.senders),
            Activity::Hashing | Activity::Storing => of(&self.workers),
            Activity::Paused | Activity::Seeding | Activity::Idle => 0.0,
            _ => of(&self.connections),
        }
    }

    /// How long it took so far, without pauses and without what came after completion.
    pub fn elapsed(&self) -> Duration {
        self.torrent.without(Activity::Seeding).without(Activity::Paused).total()
    }

    /// How many connections there were on average while there were any, and how many of those had been asked for blocks.
    pub fn mean_peers(&self) -> (f64, f64) {
        let time = self.torrent.of(Activity::Connected).as_secs_f64();
        let mean = |of: Duration| if time > 0.0 { of.as_secs_f64() / time } else { 0.0 };
        let asked = [
            Activity::Blocks,
            Activity::Stalled,
            Activity::Receiving,
            Activity::Processor,
            Activity::Limit,
            Activity::VerifyQueue,
        ];
        let asked = asked.map(|at| self.connections.of(at));
        (mean(self.connections.without(Activity::Seeding).total()), mean(asked.iter().sum()))
    }

    /// What is new since an earlier explanation of the same torrent: its sums, with the peers of this one.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            torrent: self.torrent.since(&earlier.torrent),
            connections: self.connections.since(&earlier.connections),
            senders: self.senders.since(&earlier.senders),
            workers: self.workers.since(&earlier.workers),
            ..self.clone()
        }
    }
}

impl Ledger {
    pub(crate) fn new(worker_threads: usize, port: u16, now: Instant) -> Self {
        let books = Books {
            torrent: Account::new(Activity::Files, now),
            live: HashMap::new(),
            past: (Times::default(), Times::default()),
            connected: 0,
            callers: 0,
            gone: VecDeque::new(),
        };
        Self { workers: Arc::default(), worker_threads, port, books: Mutex::new(books) }
    }

    /// The torrent as a whole is at something else.
    pub(super) fn switch(&self, to: Activity, now: Instant) {
        self.books.lock().torrent.switch(to, now);
    }

    pub(super) fn joined(&self, link: Arc<Link>) {
        let mut books = self.books.lock();
        books.connected += 1;
        books.callers += usize::from(link.incoming);
        books.live.insert(link.key, link);
    }

    pub(super) fn left(&self, link: &Link, client: &str, now: Instant) {
        let peer = PeerTimes { client: client.to_owned(), ..PeerTimes::of(link, true, now) };
        let mut books = self.books.lock();
        books.live.remove(&link.key);
        books.past.0.add_all(&peer.connection);
        books.past.1.add_all(&peer.sender);
        books.gone.truncate(GONE - 1);
        books.gone.push_front(peer);
    }

    pub(crate) fn explain(&self, now: Instant) -> Explanation {
        let (mut explanation, live) = {
            let books = self.books.lock();
            let explanation = Explanation {
                torrent: books.torrent.times(now),
                connections: books.past.0,
                senders: books.past.1,
                workers: self.workers.times(),
                worker_threads: self.worker_threads,
                connected: books.connected,
                callers: books.callers,
                port: self.port,
                peers: books.gone.iter().cloned().collect(),
            };
            (explanation, books.live.values().cloned().collect::<Vec<_>>())
        };
        let mut peers: Vec<_> = live.iter().map(|link| PeerTimes::of(link, false, now)).collect();
        for peer in &peers {
            explanation.connections.add_all(&peer.connection);
            explanation.senders.add_all(&peer.sender);
        }
        peers.append(&mut explanation.peers);
        explanation.peers = peers;
        let workers = &mut explanation.workers;
        let there = explanation.torrent.of(Activity::Connected) * self.worker_threads as u32;
        let queued = workers.of(Activity::Processor);
        *workers = workers.without(Activity::Processor);
        workers.add(Activity::Idle, there.saturating_sub(workers.total()));
        // A worker that waits for a core has been woken, or would not wait: seen from outside it was idle.
        workers.shift(Activity::Idle, Activity::Processor, queued);
        explanation
    }
}

impl PeerTimes {
    fn of(link: &Link, gone: bool, now: Instant) -> Self {
        let (connection, current, sender) = link.times(now);
        Self {
            addr: link.addr,
            client: link.peer_id.client_name(),
            incoming: link.incoming,
            transport: link.transport,
            protection: link.protection,
            gone,
            current,
            connection,
            sender,
            downloaded: Traffic::read(&link.traffic.down),
            uploaded: Traffic::read(&link.traffic.up),
        }
    }
}
