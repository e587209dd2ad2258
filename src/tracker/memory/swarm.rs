//! One torrent's swarm: who is in it, and what its peers have said.

use std::net::SocketAddr;

use super::keyed::Keyed;
use super::roster::{Detail, Place, Rather, Roster};
use crate::metainfo::InfoHash;
use crate::tracker::store::{Announce, Counts, Reply};
use crate::wire::handshake::PeerId;
use crate::wire::tracker::Event;

/// Peers' counters are kept in so many bytes, up to 64 TiB.
pub(super) const UNIT: u64 = 16 << 10;

/// Over so many seconds throughput is averaged: about an announce interval, in which every peer speaks once.
const AVERAGED: f32 = 1800.0;

/// The peers of one torrent.
#[derive(Debug)]
pub(super) struct Swarm {
    pub(super) info_hash: InfoHash,
    pub(super) v4: Roster<6>,
    /// Apart, as many swarms have none.
    pub(super) v6: Option<Box<Roster<18>>>,
    /// How often `completed` was announced.
    pub(super) downloaded: u32,
    /// The tick of the last announce.
    pub(super) seen: u32,
    rates: Rates,
}

/// What is the same for all swarms of a store, or at least of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    pub(super) keyed: Keyed,
    pub(super) tick: u32,
    /// Peers that a swarm may have.
    pub(super) most: usize,
    /// Whether there may be one more peer in the store.
    pub(super) room: bool,
}

/// Whether a peer is known now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    /// It takes part.
    At(usize),
    /// It has left.
    Gone,
    /// There was no room for it.
    NoRoom,
}

/// What all peers together have sent and received, in units a second.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    up: f32,
    down: f32,
    /// Up to which tick.
    tick: u32,
}

impl Swarm {
    pub(super) fn new(info_hash: InfoHash) -> Self {
        let (v4, v6, rates) = (Roster::default(), None, Rates::default());
        Self { info_hash, v4, v6, downloaded: 0, seen: 0, rates }
    }

    pub(super) fn len(&self) -> usize {
        self.v4.len() + self.v6.as_ref().map_or(0, |v6| v6.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn counts(&self) -> Counts {
        let seeders = self.v4.seeders() + self.v6.as_ref().map_or(0, |v6| v6.seeders());
        Counts { seeders: seeders as u32, leechers: (self.len() - seeders) as u32, downloaded: self.downloaded }
    }

    /// Takes note of an announce, and puts the reply to it together.
    pub(super) fn announce(
        &mut self,
        announce: &Announce,
        setting: &Setting,
        rng: &mut fastrand::Rng,
        reply: &mut Reply,
    ) -> Noted {
        let (noted, said) = match announce.addr {
            SocketAddr::V4(addr) => {
                let others = self.v6.as_ref().map_or(0, |v6| v6.len());
                note(&mut self.v4, endpoint(addr.ip().octets(), addr.port()), announce, others, setting)
            }
            SocketAddr::V6(addr) => {
                let (others, v6) = (self.v4.len(), self.v6.get_or_insert_default());
                note(v6, endpoint(addr.ip().octets(), addr.port()), announce, others, setting)
            }
        };
        self.downloaded = self.downloaded.saturating_add(said.completed.into());
        if said.uploaded | said.downloaded != 0 {
            self.rates = self.rates.after(said.uploaded, said.downloaded, setting.tick);
        }
        self.seen = setting.tick;
        self.drop_empty();
        reply.counts = self.counts();
        if noted != Noted::Gone {
            self.draw(announce, noted, setting.keyed, rng, reply);
        }
        noted
    }

    /// Removes who announced longer than `expiry` ticks ago, at most `room`, which becomes as many fewer. The longest time
    /// since, of those who stay: longer than `expiry` where there was no room for all.
    pub(super) fn expire(&mut self, tick: u32, expiry: u16, room: &mut usize, keyed: Keyed) -> Option<u16> {
        let oldest = self.v4.expire(tick as u16, expiry, room, keyed);
        let oldest = oldest.max(self.v6.as_mut().and_then(|v6| v6.expire(tick as u16, expiry, room, keyed)));
        self.drop_empty();
        oldest
    }

    /// What its peers say they upload and download, in bytes a second.
    pub(super) fn rates(&self, tick: u32) -> (u64, u64) {
        let rates = self.rates.at(tick);
        ((rates.up * UNIT as f32) as u64, (rates.down * UNIT as f32) as u64)
    }

    /// Some ids, at most `most`, of seeders and leechers as there are.
    pub(super) fn ids(&self, most: usize) -> impl Iterator<Item = PeerId> {
        let step = self.len().div_ceil(most).max(1);
        self.v4.ids(step).chain(self.v6.iter().flat_map(move |v6| v6.ids(step))).take(most)
    }

    fn drop_empty(&mut self) {
        self.v6.take_if(|v6| v6.is_empty());
    }

    /// Fills in the peers of a reply: of the asking peer's family and, if they are too few, of the other.
    fn draw(&self, announce: &Announce, noted: Noted, keyed: Keyed, rng: &mut fastrand::Rng, reply: &mut Reply) {
        let rather = if announce.left == 0 { Rather::Leechers } else { Rather::Seeders };
        let asking = if let Noted::At(at) = noted { Some(at) } else { None };
        let mut ids = announce.with_ids.then_some(&mut reply.ids);
        let v6 = self.v6.as_deref();
        let available = match announce.addr {
            SocketAddr::V4(_) => self.v4.available(asking),
            SocketAddr::V6(_) => v6.map_or(0, |v6| v6.available(asking)),
        };
        let own = announce.wanted.min(available);
        let other = if announce.both_families { announce.wanted - own } else { 0 };
        // A client on both families should not get itself.
        let (id, key) = (announce.peer_id, if other > 0 { announce.key } else { 0 });
        let (wanted_v4, asking_v4, wanted_v6, asking_v6) = match announce.addr {
            SocketAddr::V4(_) => {
                let itself = v6.filter(|_| key != 0).and_then(|v6| v6.with_key(id, key, keyed));
                (own, asking, other, itself)
            }
            SocketAddr::V6(_) => {
                let itself = if key == 0 { None } else { self.v4.with_key(id, key, keyed) };
                (other, itself, own, asking)
            }
        };
        self.v4.draw(rather, asking_v4, wanted_v4, rng, &mut reply.v4, ids.as_deref_mut());
        if let Some(v6) = v6 {
            v6.draw(rather, asking_v6, wanted_v6, rng, &mut reply.v6, ids);
        }
    }
}

impl Rates {
    /// What they have come down to, if nothing was said since.
    fn at(self, tick: u32) -> Self {
        let kept = (-(tick.saturating_sub(self.tick) as f32) / AVERAGED).exp();
        Self { up: self.up * kept, down: self.down * kept, tick }
    }

    /// With so many more units.
    fn after(self, uploaded: u32, downloaded: u32, tick: u32) -> Self {
        let rates = self.at(tick);
        Self { up: rates.up + uploaded as f32 / AVERAGED, down: rates.down + downloaded as f32 / AVERAGED, tick }
    }
}

/// What is new in an announce.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    completed: bool,
    /// In units, since the announce before.
    uploaded: u32,
    downloaded: u32,
}

/// The endpoint as it stands in compact lists.
fn endpoint<const IP: usize, const N: usize>(ip: [u8; IP], port: u16) -> [u8; N] {
    let mut endpoint = [0; N];
    endpoint[..IP].copy_from_slice(&ip);
    endpoint[IP..].copy_from_slice(&port.to_be_bytes());
    endpoint
}

/// Takes note of who announces from this endpoint, in a swarm with so many `others` in the other family.
///
/// A peer is the one that was at its endpoint, or the one that had its id and its key elsewhere, which nobody else can know
/// (BEP 7). An endpoint has one peer: another that was there has gone.
fn note<const N: usize>(
    roster: &mut Roster<N>,
    endpoint: [u8; N],
    announce: &Announce,
    others: usize,
    setting: &Setting,
) -> (Noted, Said) {
    let keyed = setting.keyed;
    let (id, key) = (announce.peer_id, announce.key);
    let there = roster.at_endpoint(&endpoint, keyed);
    let same_id = there.filter(|&at| roster.detail(at).id == id);
    let is_it = same_id.is_some_and(|at| roster.detail(at).key == key);
    let mut elsewhere = if is_it || key == 0 { None } else { roster.with_key(id, key, keyed) };
    if announce.event == Some(Event::Stopped) {
        if let Some(at) = elsewhere.or(same_id) {
            roster.remove(at, keyed);
        }
        return (Noted::Gone, Said::default());
    }
    if let (Some(at), Some(_)) = (there, elsewhere) {
        roster.remove(at, keyed);
        elsewhere = roster.with_key(id, key, keyed);
    }
    let known = elsewhere.or(same_id);
    let place = Place { endpoint, seen: setting.tick as u16 };
    let units = |bytes| u32::try_from(bytes / UNIT).unwrap_or(u32::MAX);
    let detail = Detail { id, key, uploaded: units(announce.uploaded), downloaded: units(announce.downloaded) };
    let seeder = announce.left == 0;
    let said = Said {
        completed: announce.event == Some(Event::Completed) && !known.is_some_and(|at| roster.is_seeder(at)),
        // What was said before the tracker knew it may have been any time ago.
        uploaded: known.map_or(0, |at| detail.uploaded.saturating_sub(roster.detail(at).uploaded)),
        downloaded: known.map_or(0, |at| detail.downloaded.saturating_sub(roster.detail(at).downloaded)),
    };
    let noted = match elsewhere.or(there) {
        Some(at) => Noted::At(roster.replace(at, place, detail, seeder, keyed)),
        None if setting.room && roster.len() + others < setting.most => {
            Noted::At(roster.insert(place, detail, seeder, keyed))
        }
        None => Noted::NoRoom,
    };
    (noted, said)
}
