//! Where a tracker keeps who takes part: what the servers ask for, and what a store answers.
//!
//! It owns the words between the two. It refuses to know how requests came in, and how peers are kept: in
//! [`memory`](super::memory), or behind a server that several trackers share.

use std::io;
use std::iter::Sum;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::metainfo::InfoHash;
use crate::wire::handshake::PeerId;
use crate::wire::tracker::Event;

/// What a peer says of itself, all of it checked: its address is where its request came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Announce {
    pub(super) info_hash: InfoHash,
    pub(super) peer_id: PeerId,
    /// Never with port 0. IPv4 is never mapped into IPv6.
    pub(super) addr: SocketAddr,
    /// By which a peer is known again at another address (BEP 3 `key`); 0 where it has none.
    pub(super) key: u32,
    pub(super) left: u64,
    /// Bytes since its first announce, as it says.
    pub(super) uploaded: u64,
    pub(super) downloaded: u64,
    pub(super) event: Option<Event>,
    /// The most peers to give; capped by the server.
    pub(super) wanted: usize,
    /// Whether peers of the other address family are of use, once there are no more of its own (BEP 7): over HTTP.
    pub(super) both_families: bool,
    /// Whether it wants the peers' ids, too.
    pub(super) with_ids: bool,
}

impl Announce {
    /// What somebody says who has everything, and wants nobody.
    pub(super) fn of_seeder(info_hash: InfoHash, peer_id: PeerId, addr: SocketAddr) -> Self {
        let (key, left, uploaded, downloaded, event) = (0, 0, 0, 0, None);
        let (wanted, both_families, with_ids) = (0, false, false);
        Self { info_hash, peer_id, addr, key, left, uploaded, downloaded, event, wanted, both_families, with_ids }
    }
}

/// The sizes of a swarm, both address families together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) seeders: u32,
    pub(super) leechers: u32,
    /// How often `completed` was announced.
    pub(super) downloaded: u32,
}

/// What an announce is answered with. Kept by the caller from one to the next, so that nothing is allocated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) counts: Counts,
    /// Peers, 6 bytes each (BEP 23). Never the one who asks.
    pub(super) v4: Vec<u8>,
    /// Peers, 18 bytes each (BEP 7).
    pub(super) v6: Vec<u8>,
    /// The ids of those of `v4`, then of `v6`, where they were asked for.
    pub(super) ids: Vec<PeerId>,
    /// When to announce again, where that is sooner than usual: the peers are from a moment ago, and the announce has not
    /// been taken note of, for the store cannot at present.
    pub(super) again: Option<Duration>,
}

/// A store cannot answer now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub(super) struct Unavailable {
    /// In words for the client's user.
    pub(super) why: String,
    /// Which store, and what it is that it or the system said: for who runs the tracker, not for clients.
    pub(super) cause: Option<String>,
    /// When to ask again (BEP 31 `retry in`).
    pub(super) retry: Duration,
}

impl Unavailable {
    /// All that is known of it, for who runs the tracker.
    pub(super) fn in_full(&self) -> String {
        self.cause.as_ref().map_or_else(|| self.why.clone(), |cause| format!("{} ({cause})", self.why))
    }
}

/// One swarm, for statistics.
#[derive(Clone, Debug)]
pub(super) struct SwarmHealth {
    pub(super) info_hash: InfoHash,
    pub(super) counts: Counts,
    /// How long ago somebody announced.
    pub(super) seen: Duration,
    /// Bytes per second that its peers have said they uploaded and downloaded, lately.
    pub(super) up_rate: u64,
    pub(super) down_rate: u64,
    /// Peers by client, as the first letters of their ids say (`wire::client`), most first.
    pub(super) clients: Vec<(String, u32)>,
}

/// All of them together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) torrents: u64,
    pub(super) seeders: u64,
    pub(super) leechers: u64,
    /// Announces of peers that were not kept, for there was no room.
    pub(super) no_room: u64,
}

impl Sum for Totals {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |sum, part| Self {
            torrents: sum.torrents + part.torrents,
            seeders: sum.seeders + part.seeders,
            leechers: sum.leechers + part.leechers,
            no_room: sum.no_room + part.no_room,
        })
    }
}

/// Who takes part in which torrent. Called by all servers' threads at once.
pub(super) trait Store: Send + Sync {
    /// Takes note of announces, and answers each, in their order: `answer` is called once for each with its place in the
    /// batch. `scratch` is what replies are put together in.
    fn announce(
        &self,
        batch: &[Announce],
        now: Instant,
        scratch: &mut Reply,
        answer: &mut dyn FnMut(usize, Result<&Reply, &Unavailable>),
    );

    /// The sizes of swarms, in the order asked for; zeros where nobody takes part.
    fn scrape(&self, info_hashes: &[InfoHash], now: Instant) -> Result<Vec<Counts>, Unavailable>;

    /// All torrents that somebody takes part in, at most `most`.
    fn all(&self, most: usize, now: Instant) -> Result<Vec<(InfoHash, Counts)>, Unavailable>;

    /// The sums.
    fn totals(&self, now: Instant) -> Result<Totals, Unavailable>;

    /// The largest swarms, at most `most`; looked at by people, so it may take a while.
    fn health(&self, most: usize, now: Instant) -> Result<Vec<SwarmHealth>, Unavailable>;

    /// What is to be done now and then, by a thread of the tracker's own.
    fn tidy(&self, now: Instant);

    /// A number that is another one once there is something more to save: 0 in the beginning.
    fn changes(&self) -> u64 {
        0
    }

    /// Keeps what there is for the next run, where there is a place for it. Called now and then, and in the end; never by two
    /// at once.
    fn save(&self, _now: Instant) -> io::Result<()> {
        Ok(())
    }
}
