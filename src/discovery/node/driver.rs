//! The node on the thread `udp`: what it does with orders, datagrams, time, and what the machine tells.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, TrySendError};

use super::announces::{Announces, Lookup};
use super::names::Names;
use super::state::{self, StateFile};
use super::{ALONE, Desk, DhtState, DhtStatus, Order, Shared};
use crate::config::DhtConfig;
use crate::discovery::dht::{Dht, DhtEvent, DhtSettings, LookupId, SavedDht};
use crate::metainfo::InfoHash;
use crate::net::udp::Protocol;
use crate::wire::tracker::Family;

/// How long nobody may answer before that is said.
const ALONE_AFTER: Duration = Duration::from_secs(5);
/// How soon the bootstrap nodes are asked again where nobody answers, and the most that it takes after more failures.
const RETRY: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(5 * 60));
/// How often the node looks at itself, while it knows nobody and afterwards.
const LOOK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// How often the node is kept in its file, beside at the end.
const SAVE: Duration = Duration::from_secs(10 * 60);

/// The node, and what it is asked for while it has not begun.
pub(super) struct Node {
    shared: Arc<Shared>,
    config: DhtConfig,
    /// We are bound to a loopback address.
    loopback_only: bool,
    announces: Announces,
    names: Names,
    /// There once something called for it.
    life: Option<Life>,
}

/// A node that has begun.
struct Life {
    dht: Dht,
    lookups: HashMap<LookupId, Purpose>,
    file: Option<StateFile>,
    next_save: Instant,
    /// Since when it has not known a node that answers; `None` while it does.
    alone_since: Option<Instant>,
    said_alone: bool,
    /// When the bootstrap nodes are asked (again), and how long to wait after that.
    next_try: Instant,
    retry: Duration,
    next_look: Instant,
}

/// What a lookup is for.
enum Purpose {
    Torrent(InfoHash),
    Answer(Sender<DhtEvent>),
}

impl Node {
    pub(super) fn new(shared: Arc<Shared>, config: DhtConfig) -> Self {
        let loopback_only = shared.addrs.iter().all(|addr| addr.ip().is_loopback());
        let names = Names::new(loopback_only, shared.bind.clone());
        Self { shared, config, loopback_only, announces: Announces::default(), names, life: None }
    }

    fn handle_order(&mut self, order: Order, now: Instant) {
        match order {
            Order::Register { info_hash, number, port, found } => {
                self.announces.register(info_hash, number, port, found, now);
                self.begin(now);
            }
            Order::Unregister(info_hash, number) => {
                if self.announces.unregister(&info_hash, number)
                    && let Some(life) = &mut self.life
                {
                    life.stop_lookups(|purpose| matches!(purpose, Purpose::Torrent(other) if *other == info_hash));
                }
            }
            Order::Seed(info_hash, seed) => self.announces.set_seed(&info_hash, seed),
            Order::Lacking(info_hash, lacking) => self.announces.set_lacking(&info_hash, lacking),
            #[cfg(feature = "upnp")]
            Order::Port(port) => self.announces.set_port(port, now),
            Order::Search(info_hash) => self.announces.hurry(&info_hash, now),
            Order::Names(names) => names.iter().for_each(|name| self.add_name(name, now)),
            Order::Resolved((name, found)) => {
                self.names.ended();
                match found {
                    Ok(addrs) => addrs.into_iter().for_each(|addr| self.add_node(addr, now)),
                    Err(error) => log::debug!("{name}: no address: {error}"),
                }
            }
            Order::Begin => self.begin(now),
            Order::Ask(question, answers) => {
                self.begin(now);
                if let Some(life) = &mut self.life {
                    let lookup = question(&mut life.dht, now);
                    life.lookups.insert(lookup, Purpose::Answer(answers));
                }
            }
        }
    }

    fn begin(&mut self, now: Instant) {
        if self.life.is_none() {
            self.life = Some(Life::new(&self.shared, &self.config, now));
            self.look(now);
        }
    }

    fn add_name(&mut self, name: &str, now: Instant) {
        if let Some(addr) = self.names.ask(name) {
            self.add_node(addr, now);
        }
    }

    fn add_node(&mut self, addr: SocketAddr, now: Instant) {
        if let Some(life) = self.life.as_mut().filter(|_| addr.port() != 0) {
            life.dht.add_node(addr, now);
        }
    }

    /// Looks whether there are nodes, does something about it where there are none, and tells.
    fn look(&mut self, now: Instant) {
        let Some(life) = &mut self.life else { return };
        let stats = life.dht.stats();
        let alone_since = match (stats.nodes_v4 + stats.nodes_v6, life.alone_since) {
            (0, since) => Some(since.unwrap_or(now)),
            _ => None,
        };
        if std::mem::replace(&mut life.alone_since, alone_since).is_some() && alone_since.is_none() {
            life.retry = RETRY.0;
            self.announces.hurry_all(now);
        }
        let state = match alone_since {
            None => DhtState::Joined,
            Some(since) if now - since >= ALONE_AFTER => DhtState::Alone,
            Some(_) => DhtState::Joining,
        };
        if state == DhtState::Alone && !std::mem::replace(&mut life.said_alone, true) {
            log::warn!("{ALONE}");
        }
        let try_now = alone_since.is_some() && now >= life.next_try;
        if try_now {
            life.next_try = now + life.retry;
            life.retry = (life.retry * 2).min(RETRY.1);
        }
        life.next_look = now + if alone_since.is_some() { LOOK.0 } else { LOOK.1 };
        *self.shared.status.lock() = DhtStatus { state, stats };
        if try_now {
            for name in self.config.bootstrap.clone() {
                self.add_name(&name, now);
            }
        }
    }

    /// Does what orders, time and the machine call for.
    fn settle(&mut self, now: Instant) {
        self.announces.handle_timeout(now);
        let Some(life) = &mut self.life else { return };
        while let Some(event) = life.dht.poll_event() {
            life.hear(event, &mut self.announces, now);
        }
        // One that has no node to ask ends at once: it is tried when there are some.
        while life.alone_since.is_none()
            && let Some(lookup) = self.announces.poll_lookup(now)
        {
            life.look_up(lookup, now);
        }
        let shared = Arc::downgrade(&self.shared);
        self.names.start(move |resolved| {
            if let Some(shared) = shared.upgrade() {
                shared.order(Order::Resolved(resolved));
            }
        });
    }
}

impl Life {
    fn new(shared: &Shared, config: &DhtConfig, now: Instant) -> Self {
        let file = config
            .state_file
            .as_ref()
            .and_then(|path| StateFile::open(path).inspect_err(|error| log::warn!("{error}")).ok());
        let saved = file.as_ref().map_or_else(SavedDht::default, load);
        let families = shared.addrs.iter().map(|addr| Family::from(addr.ip())).collect();
        let settings = DhtSettings { families, read_only: config.read_only, ..DhtSettings::default() };
        Self {
            dht: Dht::new(settings, saved, fastrand::u64(..), now),
            lookups: HashMap::new(),
            file,
            next_save: now + SAVE,
            alone_since: Some(now),
            said_alone: false,
            next_try: now,
            retry: RETRY.0,
            next_look: now,
        }
    }

    fn look_up(&mut self, lookup: Lookup, now: Instant) {
        let id = self.dht.get_peers(lookup.info_hash, lookup.announce(), now);
        self.lookups.insert(id, Purpose::Torrent(lookup.info_hash));
    }

    /// Hands on what the machine tells.
    fn hear(&mut self, event: DhtEvent, announces: &mut Announces, now: Instant) {
        let Some(lookup) = event.lookup() else { return };
        let last = matches!(event, DhtEvent::Done { .. });
        match self.lookups.get(&lookup) {
            None => return,
            Some(Purpose::Torrent(info_hash)) => {
                if let DhtEvent::Peers { peers, .. } = &event {
                    announces.found(info_hash, peers, now);
                }
                if last {
                    announces.ended(info_hash, now);
                }
            }
            Some(Purpose::Answer(answers)) => {
                if let Err(TrySendError::Disconnected(_)) = answers.try_send(event) {
                    self.dht.stop_lookup(lookup);
                    self.lookups.remove(&lookup);
                }
            }
        }
        if last {
            self.lookups.remove(&lookup);
        }
    }

    fn stop_lookups(&mut self, which: impl Fn(&Purpose) -> bool) {
        let stopped: Vec<_> = self.lookups.extract_if(|_, purpose| which(purpose)).map(|(id, _)| id).collect();
        stopped.into_iter().for_each(|id| self.dht.stop_lookup(id));
    }

    fn save(&self) {
        let (Some(file), saved) = (&self.file, self.dht.save()) else { return };
        // Who knew nobody keeps what is there from before.
        if !saved.nodes.is_empty()
            && let Err(error) = file.store(&state::encode(&saved))
        {
            log::warn!("{error}");
        }
    }
}

impl Protocol for Node {
    fn claims(&self, first: u8) -> bool {
        first == b'd'
    }

    fn handle_datagram(&mut self, from: SocketAddr, bytes: &[u8], now: Instant) {
        if let Some(life) = &mut self.life {
            life.dht.handle_datagram(from, bytes, now);
            // The first node that answers is worth being noticed at once.
            if life.alone_since.is_some() {
                self.look(now);
            }
            self.settle(now);
        }
    }

    fn handle_wake(&mut self, now: Instant) {
        let Desk { orders, nodes } = std::mem::take(&mut *self.shared.desk.lock());
        if orders.is_empty() && nodes.is_empty() {
            // It was for somebody else at the port.
            return;
        }
        orders.into_iter().for_each(|order| self.handle_order(order, now));
        nodes.into_iter().for_each(|addr| self.add_node(addr, now));
        self.settle(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        if let Some(life) = &mut self.life {
            if life.dht.poll_timeout().is_some_and(|due| due <= now) {
                life.dht.handle_timeout(now);
            }
            if life.next_save <= now {
                life.next_save = now + SAVE;
                life.save();
            }
            if life.next_look <= now {
                self.look(now);
            }
        }
        self.settle(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let life = self.life.as_ref()?;
        let lookups = self.announces.poll_timeout().filter(|_| life.alone_since.is_none());
        let file = life.file.as_ref().map(|_| life.next_save);
        [life.dht.poll_timeout(), lookups, file, Some(life.next_look)].into_iter().flatten().min()
    }

    fn poll_transmit(&mut self, _: Instant, out: &mut Vec<u8>) -> Option<SocketAddr> {
        let life = self.life.as_mut()?;
        loop {
            let (to, bytes) = life.dht.poll_transmit()?;
            if !self.loopback_only || to.ip().is_loopback() {
                out.extend(bytes);
                return Some(to);
            }
        }
    }

    fn handle_end(&mut self, _: Instant) {
        if let Some(life) = &self.life {
            life.save();
        }
    }
}

/// The node of the last run; a new one where there is none that can be understood.
fn load(file: &StateFile) -> SavedDht {
    let bytes = match file.load() {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return SavedDht::default(),
        Err(error) => {
            log::warn!("{error}");
            return SavedDht::default();
        }
    };
    state::decode(&bytes).unwrap_or_else(|| {
        log::warn!("{} is damaged: it is ignored, and written anew", file.path().display());
        SavedDht::default()
    })
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::net::udp::UdpPort;

    /// A node at an address, which has to be one of this machine, with a bootstrap node on and one off loopback.
    fn node(bind: &str) -> Node {
        let port = UdpPort::bind(Some(&bind.parse().unwrap()), 0).unwrap();
        let shared = Shared {
            desk: Mutex::default(),
            waker: port.waker(),
            addrs: port.addrs().to_vec(),
            bind: None,
            status: Mutex::default(),
            next: 0.into(),
        };
        let bootstrap = ["127.0.0.1:9", "192.0.2.1:9", "node.invalid:9"].map(str::to_owned).into();
        let config = DhtConfig { bootstrap, ..DhtConfig::default() };
        Node::new(Arc::new(shared), config)
    }

    fn sent(node: &mut Node) -> Vec<SocketAddr> {
        std::iter::from_fn(|| node.poll_transmit(Instant::now(), &mut Vec::new())).collect()
    }

    #[test]
    fn nothing_is_sent_before_something_calls_for_it_and_from_loopback_nothing_leaves() {
        let mut node = node("127.0.0.1");
        let now = Instant::now();
        node.add_node("127.0.0.1:7".parse().unwrap(), now);
        node.handle_datagram(
            "127.0.0.1:7".parse().unwrap(),
            b"d1:ad2:id20:aaaaaaaaaaaaaaaaaaaae1:q4:ping1:t1:x1:y1:qe",
            now,
        );
        node.handle_wake(now);
        assert_eq!((sent(&mut node), node.poll_timeout()), (Vec::new(), None));
        node.handle_order(Order::Begin, now);
        node.settle(now);
        let to = sent(&mut node);
        assert!(!to.is_empty() && to.iter().all(|to| to.ip().is_loopback()), "{to:?}");
    }

    #[test]
    fn where_nobody_answers_it_is_alone_after_a_while_and_goes_on_trying() {
        let mut node = node("127.0.0.1");
        let begun = Instant::now();
        node.handle_order(Order::Begin, begun);
        node.settle(begun);
        assert_eq!(node.shared.status.lock().state, DhtState::Joining);
        let mut asked = 0;
        while let Some(due) = node.poll_timeout().filter(|due| *due < begun + Duration::from_secs(60)) {
            asked += sent(&mut node).len();
            node.handle_timeout(due);
            let expected = if due - begun >= ALONE_AFTER { DhtState::Alone } else { DhtState::Joining };
            let state = node.shared.status.lock().state;
            // It looks once a second.
            assert!(state == expected || due - begun < ALONE_AFTER + LOOK.0, "{state:?} after {:?}", due - begun);
        }
        assert!((3..60).contains(&asked), "{asked} datagrams in a minute");
    }
}
