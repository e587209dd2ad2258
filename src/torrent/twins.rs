//! Two connections between us and one peer: what the owner does about them.

use std::time::Instant;

use super::Owner;
use crate::peer::{Link, Outgoing, PeerKey};
use crate::policy::{DOUBT, Made, Stays, which_stays};
use crate::wire::message::Message;

/// An older connection to the same peer, which may be dead.
#[derive(Clone, Copy)]
pub(super) struct Doubt {
    older: PeerKey,
    until: Instant,
}

impl Owner {
    /// Hands are shaken with a peer: where it is connected already, one of the two connections goes, now or later.
    pub(super) fn meet_twin(&self, link: &Link, now: Instant) -> Option<Doubt> {
        let older = &self.peers.values().find(|peer| {
            // An id is no secret: one that comes from elsewhere may be stolen, and must not cost its owner the connection.
            let same = peer.link.peer_id == link.peer_id && peer.link.addr.ip() == link.addr.ip();
            same && !peer.link.is_closed()
        })?;
        let made = Made { incoming: older.link.incoming, age: now.saturating_duration_since(older.link.shaken) };
        let we_are_greater = self.resources.our_id.as_bytes() > link.peer_id.as_bytes();
        match which_stays(made, link.incoming, we_are_greater) {
            Stays::Older => link.close(),
            Stays::Newer => older.link.close(),
            Stays::Both => {
                log::debug!("{}: connected already as {}: is that one alive?", link.addr, older.link.addr);
                let mut probe = Vec::new();
                Message::KeepAlive.encode_into(&mut probe);
                older.link.send(Outgoing::Raw(probe.into()));
                return Some(Doubt { older: older.link.key, until: now + DOUBT });
            }
        }
        None
    }

    /// Ends the newer ones of connections of which the older one has turned out to be alive.
    pub(super) fn part_twins(&self, now: Instant) {
        for newer in self.peers.values().filter(|peer| !peer.link.is_closed()) {
            let settled = newer.doubt.filter(|doubt| doubt.until <= now && self.peers.contains_key(&doubt.older));
            if settled.is_some() {
                log::debug!("{}: ended, for it is connected as another", newer.link.addr);
                newer.link.close();
            }
        }
    }
}
