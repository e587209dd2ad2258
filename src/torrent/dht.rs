//! How a torrent takes part in the distributed hash table: it is looked up and announced, and its peers and its file name
//! nodes. A private torrent (BEP 27) takes no part in any of it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crossbeam_channel::TrySendError;

use super::handle::Event;
use super::peer::Peer;
use super::services::Services;
use super::shared::Shared;
use super::{Inbox, Owner, Phase, Resources};
use crate::discovery::{DhtState, DhtStats, DhtStatus, NodeHandle, Registration};
use crate::peer::{Link, Outgoing, PeerKey};
use crate::policy::{AddressBook, Source};
use crate::wire::message::Message;

/// The part that a torrent takes; dropping it ends that.
pub(super) struct DhtPart {
    node: NodeHandle,
    registration: Registration,
    /// It was said that no node answers.
    said_alone: bool,
    /// What the node was told of our having all.
    said_seed: bool,
    /// What it was told of our lacking peers.
    said_lacking: bool,
    /// Where the DHT sees us, of IPv4 and of IPv6, as the address book knows.
    sees_us: [Option<IpAddr>; 2],
}

impl DhtPart {
    /// Takes part from now on, where that is allowed. `nodes` are those that the torrent or its magnet link names, as
    /// `HOST:PORT`.
    pub(super) fn join(shared: &Shared, resources: &Resources, nodes: &[String]) -> Option<Self> {
        let node = resources.dht.clone().filter(|_| !shared.is_private())?;
        let inbox = shared.inbox.clone();
        let found = move |peers: &[SocketAddr]| {
            let sent = inbox.try_send(Inbox::Found(Source::Dht, peers.to_vec()));
            !matches!(sent, Err(TrySendError::Full(_)))
        };
        let port = Some(resources.told_port()).filter(|&port| port != 0);
        let registration = node.register(shared.info_hash, port, Box::new(found));
        node.add_names(nodes);
        Some(Self { node, registration, said_alone: false, said_seed: false, said_lacking: false, sees_us: [None; 2] })
    }

    pub(super) fn status(&self) -> DhtStatus {
        self.node.status()
    }

    /// Says once that no node of the DHT answers; the node has said it in the log.
    pub(super) fn tell_if_alone(&mut self, shared: &Shared) {
        if !self.said_alone && self.status().state == DhtState::Alone {
            self.said_alone = true;
            shared.tell(&Event::Dht(crate::discovery::ALONE.to_owned()));
        }
    }

    /// Tells the node whether nothing comes from the peers that we know.
    pub(super) fn tell_lacking(&mut self, lacking: bool) {
        if std::mem::replace(&mut self.said_lacking, lacking) != lacking {
            self.registration.set_lacking(lacking);
        }
    }

    /// Tells the address book where the DHT sees us, where that is news.
    pub(super) fn tell_address(&mut self, book: &mut AddressBook) {
        let DhtStats { external_v4, external_v6, .. } = self.status().stats;
        let sees_us = [external_v4, external_v6];
        for (known, ip) in std::mem::replace(&mut self.sees_us, sees_us).into_iter().zip(sees_us) {
            if let Some(ip) = ip.filter(|ip| Some(*ip) != known) {
                book.dht_sees_us(ip);
            }
        }
    }

    /// Looks for peers as soon as may be.
    pub(super) fn search_now(&self) {
        self.registration.search_now();
    }
}

impl Resources {
    /// Whether we are a node of the DHT as far as this torrent is concerned.
    pub(crate) fn has_dht_for(&self, shared: &Shared) -> bool {
        self.dht.is_some() && !shared.is_private()
    }
}

impl Owner {
    pub(super) fn dht(&self) -> Option<&DhtPart> {
        self.services.as_ref().and_then(Services::dht)
    }

    /// Tells a peer that is a node of the DHT where ours is (BEP 5).
    pub(super) fn name_our_node(&self, link: &Arc<Link>) {
        let Some(dht) = self.dht().filter(|_| link.reserved.dht()) else { return };
        let Some(port) = dht.node.port(link.addr.ip()) else { return };
        let mut out = Vec::new();
        Message::Port(port).encode_into(&mut out);
        link.send(Outgoing::Raw(out.into()));
    }

    /// A peer said where its node is.
    pub(super) fn learn_node(&self, key: PeerKey, port: u16) {
        if let (Some(dht), Some(peer)) = (self.dht(), self.peers.get(&key)) {
            dht.node.add_node(SocketAddr::new(peer.link.addr.ip(), port));
        }
    }

    /// Tells the node whether we have all and whether we lack peers, users that no node answers, and the address book where
    /// nodes see us.
    pub(super) fn tell_dht(&mut self) {
        let serves = |peer: &Peer| peer.we_interested && !peer.choking_us;
        let lacking = matches!(self.phase, Phase::Running)
            && !self.finished
            && !self.is_looking()
            && !self.peers.values().any(serves);
        let Some(dht) = self.services.as_mut().and_then(Services::dht_mut) else { return };
        if std::mem::replace(&mut dht.said_seed, self.finished) != self.finished {
            dht.registration.set_seed(self.finished);
        }
        dht.tell_lacking(lacking);
        dht.tell_address(&mut self.book);
        dht.tell_if_alone(&self.shared);
    }
}
