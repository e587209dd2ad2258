//! Those who look for peers beside the trackers: the one place where a torrent takes part in them and leaves them.
//!
//! A search for metadata begins it, and hands it on to the owner that it becomes; any other owner begins it when it goes.
//! What they find comes as [`Inbox::Found`]. A private torrent (BEP 27) takes part in none; whether it
//! is private shows only its metainfo, so a magnet link's torrent leaves them when that has come.

use super::dht::DhtPart;
use super::shared::Shared;
use super::{Inbox, Resources};
use crate::discovery::LocalPart;
use crate::metainfo::Host;
use crate::policy::Source;

/// The part that a torrent takes; dropping it ends that.
pub(super) struct Services {
    dht: Option<DhtPart>,
    /// Kept for its end.
    _local: Option<LocalPart>,
}

impl Services {
    /// Takes part from now on. `nodes` of the DHT are those that the torrent's magnet link names. `None` for a private
    /// torrent.
    pub(super) fn start(shared: &Shared, resources: &Resources, nodes: &[Host]) -> Option<Self> {
        if shared.is_private() {
            return None;
        }
        let of_link = nodes.iter().map(Host::to_string);
        let of_file = shared.dht_nodes().iter().cloned();
        let nodes: Vec<String> = of_link.chain(of_file).collect();
        let inbox = shared.inbox.clone();
        // The thread that tells serves other torrents, too: an owner that is too busy misses this.
        let found = move |peer| inbox.try_send(Inbox::Found(Source::Local, vec![peer])).unwrap_or_default();
        let local = resources.local.as_ref().map(|local| local.join(shared.info_hash, Box::new(found)));
        Some(Self { dht: DhtPart::join(shared, resources, &nodes), _local: local })
    }

    pub(super) fn dht(&self) -> Option<&DhtPart> {
        self.dht.as_ref()
    }

    pub(super) fn dht_mut(&mut self) -> Option<&mut DhtPart> {
        self.dht.as_mut()
    }
}
