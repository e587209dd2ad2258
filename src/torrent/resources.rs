//! What all torrents of a session share: settings, limits, memory, and what is known of peers.
//!
//! Everything in it is immutable, an atomic, or behind a lock that is held to look or to note.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::Sender;
use parking_lot::{Mutex, RwLock};

use super::claims::Claims;
use super::desk::Budget;
use super::shared::Shared;
use super::trust;
use crate::config::Config;
use crate::crew::Crew;
use crate::discovery::{LocalDiscovery, NodeHandle, Tls};
use crate::net::Outlet;
use crate::net::utp::Utp;
use crate::peer::{BufferPool, Caller, FullPiece, PeerKey, Timeouts, Valve};
use crate::policy::{AddressBook, DialLimits, IpFilter, Reputation};
use crate::wire::handshake::PeerId;

/// Silence after which we send a keep-alive: peers give up after two minutes (BEP 3).
const KEEP_ALIVE: Duration = Duration::from_secs(100);

/// What all torrents of a session share.
pub(crate) struct Resources {
    pub(crate) config: Config,
    pub(crate) crew: Arc<Crew>,
    pub(crate) our_id: PeerId,
    /// The port we are reached at; 0 where we are not.
    pub(crate) port: u16,
    /// The port that we are known by outside: the same, unless a gateway gave us another.
    pub(crate) outside_port: Arc<AtomicU16>,
    /// What every socket is bound to, and whether it is there.
    pub(crate) outlet: Arc<Outlet>,
    /// Whole pieces for the verify workers, which end when this is taken and the last torrent is gone. Locked to look.
    pub(crate) verify: Mutex<Option<Sender<FullPiece>>>,
    pub(crate) budget: Arc<Budget>,
    /// Which files the torrents are at work on.
    pub(crate) claims: Arc<Claims>,
    pub(crate) pool: Arc<BufferPool>,
    pub(crate) down: Arc<Valve>,
    pub(crate) up: Arc<Valve>,
    pub(crate) tls: Tls,
    /// The session's node of the DHT, where it is one.
    pub(crate) dht: Option<NodeHandle>,
    /// What makes connections of uTP, where they are made.
    pub(crate) utp: Option<Utp>,
    /// The number of our UDP port; 0 where there is none.
    #[cfg(feature = "upnp")]
    pub(crate) udp_port: u16,
    /// Peers on the local network, where they are looked for.
    pub(crate) local: Option<LocalDiscovery>,
    /// By which a tracker knows us when our address changes.
    pub(crate) key_for_trackers: u32,
    /// Numbers the connections of the session.
    pub(crate) next_key: AtomicU32,
    /// Who is blocked. Written when a user changes it, read for each caller and by owners.
    pub(crate) filter: RwLock<Arc<IpFilter>>,
    /// Callers that were blocked.
    pub(crate) blocked_callers: AtomicU64,
    /// What is remembered of peers, from all torrents. Locked by owners to look something up or to note it.
    pub(crate) reputation: Mutex<Reputation>,
}

impl Resources {
    /// The port that others are told; 0 where we are not reached.
    pub(crate) fn told_port(&self) -> u16 {
        self.outside_port.load(Ordering::Relaxed)
    }

    pub(crate) fn key(&self) -> PeerKey {
        PeerKey(self.next_key.fetch_add(1, Ordering::Relaxed))
    }

    /// How the connections of a torrent are made.
    pub(super) fn caller(&self, shared: &Shared) -> Caller {
        Caller {
            info_hash: shared.info_hash,
            our_id: self.our_id,
            timeouts: Timeouts {
                connect: self.config.peers.connect_timeout,
                handshake: self.config.peers.handshake_timeout,
                keep_alive: KEEP_ALIVE,
            },
            encryption: self.config.peers.encryption,
            dht: self.has_dht_for(shared),
            bind: self.config.listen.bind.clone(),
            transports: self.config.peers.transports,
            utp: self.utp.clone(),
        }
    }

    /// An address book for a torrent.
    pub(super) fn book(&self) -> AddressBook {
        let dials_per_second = self.config.peers.dials_per_second;
        let mut book = AddressBook::new(DialLimits { dials_per_second, ..DialLimits::default() });
        book.set_filter(Arc::clone(&self.filter.read()));
        book.set_surroundings(trust::surroundings(self));
        book
    }
}
