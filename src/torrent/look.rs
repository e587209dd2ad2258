//! What a swarm looks like from here, and torrents that are added for nothing else.
//!
//! It owns the survey, which is made when somebody asks and costs nothing before. That a torrent is only looked at is said
//! here and heeded where somebody would become interesting (`peers`, without which nothing is fetched), where files would be
//! opened (`store`), and where somebody asks for either (`control`).

use std::collections::BTreeMap;

use super::Owner;
use super::peer::Peer;
use crate::config::Start;
use crate::policy::{Source, Sources};

/// A swarm as its connected peers show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Survey {
    /// How many of the known addresses of peers each source named; one that several named counts for each of them.
    pub known: BTreeMap<Source, usize>,
    /// For each piece, how many of the connected peers have it. We do not count.
    pub availability: Vec<u32>,
}

impl Owner {
    /// Whether nothing is to be fetched, given or kept.
    pub(super) fn is_looking(&self) -> bool {
        self.options.start == Start::Looking
    }

    pub(super) fn survey(&self) -> Survey {
        Survey {
            known: self.book.count_by_source(),
            availability: (0..self.picker.piece_count()).map(|piece| self.picker.availability(piece)).collect(),
        }
    }

    /// Where we know a peer from.
    pub(super) fn sources_of(&self, peer: &Peer) -> Sources {
        let mut sources = self.book.sources(peer.link.addr);
        if peer.link.incoming {
            sources.insert(Source::Incoming);
            // Others know it by the address that it listens at.
            peer.listens.iter().flat_map(|addr| self.book.sources(*addr).iter()).for_each(|it| sources.insert(it));
        }
        sources
    }
}
