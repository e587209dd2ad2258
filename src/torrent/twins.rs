//! Two connections between us and one peer: what the owner does about them.

use std::time::Instant;

use super::Owner;
use crate::peer::{Link, Outgoing, PeerKey};
use crate::policy::{DOUBT, Made, Stays, which_stays, which_stays_at_last};
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
        let twins = self.peers.values().filter(|peer| {
            // An id is no secret: one that comes from elsewhere may be stolen, and must not cost its owner the connection.
            let same = peer.link.peer_id == link.peer_id && peer.link.addr.ip() == link.addr.ip();
            same && !peer.link.is_closed()
        });
        let older = twins.min_by_key(|peer| peer.link.shaken)?;
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

    /// Ends one of two connections of which the older one has not turned out to be dead.
    pub(super) fn part_twins(&self, now: Instant) {
        for newer in self.peers.values() {
            let Some(doubt) = newer.doubt.filter(|doubt| doubt.until <= now) else { continue };
            if newer.link.is_closed() {
                continue;
            }
            let Some(older) = self.peers.get(&doubt.older).filter(|peer| !peer.link.is_closed()) else { continue };
            let we_are_greater = self.resources.our_id.as_bytes() > newer.link.peer_id.as_bytes();
            let goes = match which_stays_at_last(older.link.incoming, newer.link.incoming, we_are_greater) {
                Stays::Newer => older,
                Stays::Older | Stays::Both => newer,
            };
            log::debug!("{}: ended, for it is connected as another", goes.link.addr);
            goes.link.close();
        }
    }
}
