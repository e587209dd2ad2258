//! The servers, and which of them has what: of a cluster each has some of the slots, of a single one it has all.
//!
//! It owns the map of slots and the lanes to each server. It learns the map from any server that it knows, when one of them
//! does not answer or sends it elsewhere (`MOVED`); a thread `redis-map` asks. It refuses to know what is asked.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::RwLock;
use redis::{Client, ConnectionAddr, ConnectionInfo, RedisResult, ServerError, Value};

use super::config::RedisConfig;
use super::lane::{Lane, Parcel, Silence, Terms};

/// Slots of a cluster.
pub(super) const SLOTS: usize = 1 << 14;

/// How often a command is sent elsewhere: once to where its slot has gone, once because that is still moving, once more
/// because it was on the way.
const ROUNDS: usize = 4;

/// Between two looks at the map of a cluster.
const MAP_PAUSE: Duration = Duration::from_millis(100);

const STACK: usize = 512 * 1024;

/// Why a command has no answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Trouble {
    Silence(Silence),
    /// The server refused.
    Refused(ServerError),
}

/// All servers of a store.
pub(super) struct Nodes {
    shared: Arc<Shared>,
    /// Has the map looked at; dropped to end the thread.
    look: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    terms: Arc<Terms>,
    connections: usize,
    /// Servers as they were named.
    seeds: Vec<ConnectionInfo>,
    /// Protects the map; read for each batch, written when it has changed. Not held while anything is waited for.
    map: RwLock<Map>,
}

struct Map {
    nodes: HashMap<String, Arc<Node>>,
    /// The server of each slot.
    slots: Vec<Arc<Node>>,
}

/// One server.
struct Node {
    info: ConnectionInfo,
    lanes: Vec<Lane>,
    /// Counts up, so that lanes are taken in turn.
    turn: AtomicUsize,
}

/// Where a command is to go.
#[derive(Clone)]
enum Way {
    /// Where its slot is.
    Slot,
    /// There, this once, because the slot is moving (`ASK`).
    Asking(Arc<Node>),
}

/// What goes to one server in one round.
struct Bundle {
    node: Arc<Node>,
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// Which of the commands asked for each is; `None` for what only prepares the next.
    which: Vec<Option<usize>>,
}

impl Nodes {
    pub(super) fn start(config: &RedisConfig, terms: Arc<Terms>) -> std::io::Result<Self> {
        let seeds = config.place.servers.clone();
        let connections = config.connections.max(1);
        // Until more is known: of a cluster, it says where to go.
        let first = Arc::new(Node::start(seeds[0].clone(), connections, &terms)?);
        let nodes = HashMap::from([(first.info.addr().to_string(), first.clone())]);
        let map = RwLock::new(Map { nodes, slots: vec![first; SLOTS] });
        let shared = Arc::new(Shared { terms, connections, seeds, map });
        let (look, looks) = bounded(1);
        let run = {
            let shared = shared.clone();
            move || shared.keep_map(&looks)
        };
        let thread = thread::Builder::new().name("redis-map".into()).stack_size(STACK).spawn(run)?;
        let nodes = Self { shared, look: Some(look), thread: Some(thread) };
        if config.place.cluster {
            nodes.look();
        }
        Ok(nodes)
    }

    /// Sends commands to where their slots are and waits for all answers: so many, of which `slot` says the slot and
    /// `encode` appends the bytes.
    pub(super) fn ask(
        &self,
        count: usize,
        slot: impl Fn(usize) -> u16,
        mut encode: impl FnMut(usize, &mut Vec<u8>),
    ) -> Vec<Result<Value, Trouble>> {
        // Once on a connection that hangs, once more after it was made anew, and the time in the queue.
        let deadline = Instant::now() + 3 * self.shared.terms.timeout;
        let mut answers: Vec<_> = (0..count).map(|_| Err(Trouble::Silence(Silence::Late))).collect();
        let mut pending: Vec<_> = (0..count).map(|n| (n, Way::Slot)).collect();
        for _ in 0..ROUNDS {
            if pending.is_empty() {
                break;
            }
            let bundles = self.bundle(&pending, &slot, &mut encode);
            pending.clear();
            for (bundle, result) in exchange(bundles, deadline) {
                let values = match result {
                    Ok(values) => values,
                    Err(silence) => {
                        self.look_if_cluster();
                        bundle.which.iter().flatten().for_each(|&n| answers[n] = Err(Trouble::Silence(silence)));
                        continue;
                    }
                };
                for (which, value) in bundle.which.iter().zip(values) {
                    let &Some(n) = which else { continue };
                    match value {
                        Value::ServerError(error) => {
                            pending.extend(self.redirect(&bundle.node, slot(n), &error).map(|way| (n, way)));
                            answers[n] = Err(Trouble::Refused(error));
                        }
                        value => answers[n] = Ok(value),
                    }
                }
            }
        }
        answers
    }

    fn bundle(
        &self,
        pending: &[(usize, Way)],
        slot: impl Fn(usize) -> u16,
        mut encode: impl FnMut(usize, &mut Vec<u8>),
    ) -> Vec<Bundle> {
        let mut bundles: Vec<Bundle> = Vec::new();
        let map = self.shared.map.read();
        for (n, way) in pending {
            let node = match way {
                Way::Slot => &map.slots[usize::from(slot(*n)) % SLOTS],
                Way::Asking(node) => node,
            };
            let found = bundles.iter().position(|bundle| Arc::ptr_eq(&bundle.node, node)).unwrap_or_else(|| {
                bundles.push(Bundle { node: node.clone(), bytes: Vec::new(), ends: Vec::new(), which: Vec::new() });
                bundles.len() - 1
            });
            let bundle = &mut bundles[found];
            if let Way::Asking(_) = way {
                super::command::write(&mut bundle.bytes, &[b"ASKING"]);
                bundle.ends.push(bundle.bytes.len());
                bundle.which.push(None);
            }
            encode(*n, &mut bundle.bytes);
            bundle.ends.push(bundle.bytes.len());
            bundle.which.push(Some(*n));
        }
        bundles
    }

    /// Where to send a command again that a server refused with this error; `None` where that would not help.
    fn redirect(&self, asked: &Node, slot: u16, error: &ServerError) -> Option<Way> {
        match error.code() {
            "TRYAGAIN" => Some(Way::Slot),
            code @ ("MOVED" | "ASK") => {
                self.shared.terms.cluster.store(true, Ordering::Relaxed);
                // `SLOT HOST:PORT`, without the host where it is the same.
                let (host, port) = error.details()?.split_once(' ')?.1.rsplit_once(':')?;
                let node = self.shared.node(asked.info.addr(), host, port.parse().ok()?)?;
                if code == "ASK" {
                    return Some(Way::Asking(node));
                }
                let old = std::mem::replace(&mut self.shared.map.write().slots[usize::from(slot) % SLOTS], node);
                // Without the lock, for it may have been the last to have that server.
                drop(old);
                self.look();
                Some(Way::Slot)
            }
            // What a failover looks like from a server that has lost, or is about to.
            "CLUSTERDOWN" | "READONLY" | "MASTERDOWN" => {
                self.look_if_cluster();
                None
            }
            _ => None,
        }
    }

    fn look(&self) {
        if let Some(look) = &self.look {
            // One that waits already does for both.
            let _ = look.try_send(());
        }
    }

    fn look_if_cluster(&self) {
        if self.shared.terms.cluster.load(Ordering::Relaxed) {
            self.look();
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.look = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// What the thread `redis-map` does, until the store ends.
    fn keep_map(&self, looks: &Receiver<()>) {
        let mut wanted = false;
        while wanted || looks.recv().is_ok() {
            self.look();
            wanted = false;
            let until = Instant::now() + MAP_PAUSE;
            loop {
                match looks.recv_deadline(until) {
                    Ok(()) => wanted = true,
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        }
    }

    fn look(&self) {
        let mut known: Vec<_> = self.map.read().nodes.values().map(|node| node.info.clone()).collect();
        known.extend(self.seeds.iter().cloned());
        for info in known {
            match self.ask_map(&info) {
                Ok(ranges) if !ranges.is_empty() => return self.put_map(&info, &ranges),
                Ok(_) => log::debug!("redis: {} knows no map of the cluster", info.addr()),
                Err(error) => log::debug!("redis: {} does not tell the map of the cluster: {error}", info.addr()),
            }
        }
    }

    fn ask_map(&self, info: &ConnectionInfo) -> RedisResult<Vec<Range>> {
        let mut connection = Client::open(info.clone())?.get_connection_with_timeout(self.terms.timeout)?;
        connection.set_read_timeout(Some(self.terms.timeout))?;
        connection.set_write_timeout(Some(self.terms.timeout))?;
        let mut command = Vec::new();
        super::command::write(&mut command, &[b"CLUSTER", b"SLOTS"]);
        connection.send_packed_command(&command)?;
        match connection.recv_response()? {
            Value::Array(ranges) => Ok(ranges.iter().filter_map(Range::read).collect()),
            Value::ServerError(error) => Err(error.into()),
            _ => Ok(Vec::new()),
        }
    }

    fn put_map(&self, asked: &ConnectionInfo, ranges: &[Range]) {
        let mut slots = self.map.read().slots.clone();
        let mut nodes = HashMap::new();
        for range in ranges {
            let Some(node) = self.node(asked.addr(), &range.host, range.port) else { continue };
            slots[range.first..=range.last].fill(node.clone());
            nodes.insert(node.info.addr().to_string(), node);
        }
        let old = std::mem::replace(&mut *self.map.write(), Map { nodes, slots });
        // Joins the threads of servers that have left, without the lock.
        drop(old);
    }

    /// The server with this address, of which the host may be left out where it is that of who was asked.
    fn node(&self, asked: &ConnectionAddr, host: &str, port: u16) -> Option<Arc<Node>> {
        let place = |same: &str| if matches!(host, "" | "?") { same.to_owned() } else { host.to_owned() };
        let addr = match asked {
            ConnectionAddr::Tcp(same, _) => ConnectionAddr::Tcp(place(same), port),
            ConnectionAddr::TcpTls { host: same, insecure, tls_params, .. } => {
                let (insecure, tls_params) = (*insecure, tls_params.clone());
                ConnectionAddr::TcpTls { host: place(same), port, insecure, tls_params }
            }
            _ => return None,
        };
        let name = addr.to_string();
        if let Some(node) = self.map.read().nodes.get(&name) {
            return Some(node.clone());
        }
        let started = match Node::start(self.seeds[0].clone().set_addr(addr), self.connections, &self.terms) {
            Ok(node) => Arc::new(node),
            Err(error) => {
                log::warn!("redis: no thread for {name}: {error}");
                return None;
            }
        };
        // Another thread may have been quicker. What this one started for nothing ends without the lock: its threads are
        // joined, and they may be connecting.
        let node = self.map.write().nodes.entry(name).or_insert_with(|| started.clone()).clone();
        drop(started);
        Some(node)
    }
}

impl Node {
    fn start(info: ConnectionInfo, connections: usize, terms: &Arc<Terms>) -> std::io::Result<Self> {
        let lanes = (0..connections).map(|number| Lane::start(info.clone(), number, terms.clone()));
        Ok(Self { lanes: lanes.collect::<Result<_, _>>()?, info, turn: AtomicUsize::new(0) })
    }

    /// The next lane that there is hope for.
    fn lane(&self) -> Option<&Lane> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.lanes.len();
        let (before, from) = self.lanes.split_at(turn);
        from.iter().chain(before).find(|lane| lane.is_up())
    }
}

/// A stretch of slots and its server.
struct Range {
    first: usize,
    last: usize,
    host: String,
    port: u16,
}

impl Range {
    /// One of the entries of what `CLUSTER SLOTS` says: first slot, last slot, its master, replicas.
    fn read(value: &Value) -> Option<Self> {
        let Value::Array(entries) = value else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = entries.as_slice() else { return None };
        let [host, Value::Int(port), ..] = master.as_slice() else { return None };
        let host = match host {
            Value::BulkString(host) => String::from_utf8(host.clone()).ok()?,
            Value::SimpleString(host) => host.clone(),
            _ => String::new(),
        };
        let (first, last) = (usize::try_from(*first).ok()?, usize::try_from(*last).ok()?);
        (first <= last && last < SLOTS).then_some(())?;
        Some(Self { first, last, host, port: u16::try_from(*port).ok()? })
    }
}

/// Gives each server its bundle, and waits for all.
fn exchange(bundles: Vec<Bundle>, deadline: Instant) -> Vec<(Bundle, Result<Vec<Value>, Silence>)> {
    let (sender, answers) = bounded(bundles.len());
    let mut results: Vec<_> = bundles.into_iter().map(|bundle| (bundle, Err(Silence::Late))).collect();
    let mut waiting = 0;
    for (place, (bundle, result)) in results.iter_mut().enumerate() {
        let (bytes, ends) = (std::mem::take(&mut bundle.bytes), std::mem::take(&mut bundle.ends));
        let parcel = Parcel { bytes, ends, place, answers: sender.clone() };
        let sent = bundle.node.lane().ok_or(Silence::Unreachable).and_then(|lane| lane.send(parcel, deadline));
        match sent {
            Ok(()) => waiting += 1,
            Err(silence) => *result = Err(silence),
        }
    }
    // A lane that ends answers nothing.
    drop(sender);
    for _ in 0..waiting {
        let Ok((place, result)) = answers.recv_deadline(deadline) else { break };
        results[place].1 = result;
    }
    results
}
