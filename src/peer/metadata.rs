//! Metadata in flight: the pieces of an info dictionary that several peers send (BEP 9), and who of them lies.
//!
//! It owns what has arrived, who was asked for what, and what was wrong. It knows no clock and no socket: `now` comes in.
//! It refuses to believe a peer: memory is taken for bytes that came, not for sizes that were claimed, and only what has
//! the info-hash is given out.
//!
//! Peers that claim the same size put one copy together, each asked for other pieces of it. A copy that is wrong was spoilt
//! by one of those who sent it, and nobody knows by whom: from then on each peer that claims this size makes a copy of its
//! own, a few of them at a time. Whose own copy is wrong is proven to lie, and when a right one is there, so is everybody
//! who sent something else.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::PeerKey;
use crate::hash::{Sha1Hash, sha1};
use crate::metainfo::InfoHash;
use crate::wire::metadata::{MAX_METADATA_LEN, MetadataLen};

/// Requests that one peer is sent before it has answered any of them.
const PIPELINE: usize = 4;
/// How long a piece is waited for before others are asked for it as well.
const PATIENCE: Duration = Duration::from_secs(2);
/// A peer that answers nothing for this long, although it was asked, is no use.
const STALLED: Duration = Duration::from_secs(20);
/// How long a peer is left alone after each time that it rejected a request, and how often it may.
const AFTER_REJECT: Duration = Duration::from_secs(5);
const MAX_REJECTS: u32 = 8;
/// How many copies that each come from one peer alone are made at a time.
const SOLE: usize = 4;
/// The bytes that all copies together may take.
const MAX_HELD: usize = 2 * MAX_METADATA_LEN as usize;
/// How many wrong copies are remembered, to find who spoilt them.
const MAX_SPOILT: usize = 16;

/// What peers have sent of one torrent's metadata. One lock around it, held for one step at a time; the longest is hashing
/// a whole copy, a few hundredths of a second for the largest.
pub(crate) struct Assembly {
    info_hash: InfoHash,
    peers: HashMap<PeerKey, Offer>,
    copies: Vec<Copy>,
    /// Sizes of which a common copy was wrong, and sizes that were given up to save memory.
    spoilt: BTreeSet<MetadataLen>,
    given_up: BTreeSet<MetadataLen>,
    /// Wrong copies: of each piece who sent it, and the SHA-1 of what was sent.
    wrong: Vec<(MetadataLen, Vec<(SocketAddr, Sha1Hash)>)>,
    found: bool,
}

/// What came of a piece that arrived.
#[derive(Debug, PartialEq)]
pub(crate) enum Arrival {
    /// It is kept, or was there already.
    Kept,
    /// Nobody asked for it, or not any more.
    Unasked,
    /// It is of metadata of another size than the peer had said.
    OtherSize,
    /// It was the last one, and the whole has the info-hash. With the peers that are now known to have lied.
    Found(Arc<[u8]>, Vec<SocketAddr>),
    /// It was the last one, and the whole is wrong. With the peer that lied, where that is certain.
    Wrong(Option<SocketAddr>),
}

/// One peer.
struct Offer {
    addr: SocketAddr,
    /// The size that it claims, if it has the metadata.
    len: Option<MetadataLen>,
    /// What it was asked for and has not answered.
    asked: Vec<(u32, Instant)>,
    /// When it last answered, or was first asked.
    answered: Instant,
    rejects: u32,
    /// Not to be asked before.
    not_before: Option<Instant>,
}

/// Metadata of one claimed size, as far as it has come.
struct Copy {
    len: MetadataLen,
    /// The only peer that it comes from; `None` for the common copy of all who claim this size.
    sole: Option<PeerKey>,
    pieces: BTreeMap<u32, (Box<[u8]>, SocketAddr)>,
    /// When something was last asked for or came.
    last: Instant,
}

impl Assembly {
    pub(crate) fn new(info_hash: InfoHash) -> Self {
        Self {
            info_hash,
            peers: HashMap::new(),
            copies: Vec::new(),
            spoilt: BTreeSet::new(),
            given_up: BTreeSet::new(),
            wrong: Vec::new(),
            found: false,
        }
    }

    /// A peer says whether it has the metadata, and of which size. `false`: it claims a size that nothing has.
    pub(crate) fn offers(&mut self, key: PeerKey, addr: SocketAddr, len: Option<u32>, now: Instant) -> bool {
        let believed = len.and_then(MetadataLen::new);
        let offer = self.peers.entry(key).or_insert_with(|| Offer {
            addr,
            len: None,
            asked: Vec::new(),
            answered: now,
            rejects: 0,
            not_before: None,
        });
        if offer.len != believed {
            offer.len = believed;
            offer.asked.clear();
            self.tidy(key);
        }
        len.is_none() || believed.is_some()
    }

    /// A peer is gone. What it sent to a common copy stays.
    pub(crate) fn left(&mut self, key: PeerKey) {
        self.peers.remove(&key);
        self.tidy(key);
    }

    /// The next piece to ask this peer for, if any: it counts as asked from here on.
    pub(crate) fn next(&mut self, key: PeerKey, now: Instant) -> Option<u32> {
        let offer = self.peers.get(&key)?;
        let len = offer.len.filter(|len| !self.given_up.contains(len))?;
        let waits = offer.not_before.is_some_and(|until| now < until);
        if self.found || waits || offer.asked.len() >= PIPELINE {
            return None;
        }
        let sole = self.spoilt.contains(&len).then_some(key);
        let at = self.copy_for(len, sole, now)?;
        // What is being waited for, from others with patience, from this peer in any case.
        let fresh = |other: &PeerKey, asked: Instant| *other == key || now.duration_since(asked) < PATIENCE;
        let same =
            self.peers.iter().filter(|(other, offer)| offer.len == Some(len) && sole.is_none_or(|key| **other == key));
        let waited_for: HashSet<u32> = same
            .flat_map(|(other, offer)| offer.asked.iter().map(move |&(piece, asked)| (other, piece, asked)))
            .filter(|(other, _, asked)| fresh(other, *asked))
            .map(|(_, piece, _)| piece)
            .collect();
        let copy = &mut self.copies[at];
        let piece = (0..len.pieces()).find(|piece| !copy.pieces.contains_key(piece) && !waited_for.contains(piece))?;
        copy.last = now;
        let offer = self.peers.get_mut(&key)?;
        if offer.asked.is_empty() {
            offer.answered = now;
        }
        offer.asked.push((piece, now));
        Some(piece)
    }

    /// A peer does not give a piece. `false`: it gives none at all.
    pub(crate) fn rejected(&mut self, key: PeerKey, piece: u32, now: Instant) -> bool {
        let Some(offer) = self.peers.get_mut(&key) else { return true };
        let before = offer.asked.len();
        offer.asked.retain(|(asked, _)| *asked != piece);
        if offer.asked.len() < before {
            offer.rejects += 1;
            offer.answered = now;
            offer.not_before = Some(now + AFTER_REJECT * offer.rejects);
        }
        offer.rejects < MAX_REJECTS
    }

    /// A piece came; `bytes` are as many as a piece of metadata of this size has.
    pub(crate) fn arrived(
        &mut self,
        key: PeerKey,
        piece: u32,
        total: MetadataLen,
        bytes: &[u8],
        now: Instant,
    ) -> Arrival {
        let Some(offer) = self.peers.get_mut(&key) else { return Arrival::Unasked };
        let Some(at) = offer.asked.iter().position(|(asked, _)| *asked == piece) else { return Arrival::Unasked };
        offer.asked.swap_remove(at);
        if offer.len != Some(total) {
            return Arrival::OtherSize;
        }
        (offer.answered, offer.rejects) = (now, 0);
        let addr = offer.addr;
        let sole = self.spoilt.contains(&total).then_some(key);
        let find = |copy: &Copy| copy.len == total && copy.sole == sole;
        let Some(at) = self.copies.iter().position(find).filter(|_| !self.found) else { return Arrival::Unasked };
        let copy = &mut self.copies[at];
        copy.last = now;
        copy.pieces.entry(piece).or_insert_with(|| (bytes.into(), addr));
        if copy.pieces.len() < total.pieces() as usize {
            self.save_memory();
            return Arrival::Kept;
        }
        let copy = self.copies.swap_remove(at);
        if sha1(copy.pieces.values().map(|(bytes, _)| &bytes[..])) == *self.info_hash.as_bytes() {
            self.found(copy)
        } else {
            self.wrong(copy)
        }
    }

    /// Whether a peer was asked and has not answered for so long that it is no use.
    pub(crate) fn is_stalled(&self, key: PeerKey, now: Instant) -> bool {
        self.peers.get(&key).is_some_and(|offer| {
            !self.found && !offer.asked.is_empty() && now.duration_since(offer.answered) >= STALLED
        })
    }

    /// Whether a peer says that it has the metadata.
    pub(crate) fn is_offering(&self, key: PeerKey) -> bool {
        self.peers.get(&key).is_some_and(|offer| offer.len.is_some())
    }

    /// How many peers say that they have the metadata, how many pieces have come of what has come furthest, and how many
    /// that has: 0 where nothing has.
    pub(crate) fn progress(&self) -> (usize, u32, u32) {
        let offering = self.peers.values().filter(|offer| offer.len.is_some()).count();
        let copies = self.copies.iter().map(|copy| (copy.pieces.len() as u32, copy.len.pieces()));
        let (pieces, total) = copies.max().unwrap_or_default();
        (offering, pieces, total)
    }

    /// The copy that a peer contributes to, opened where there is none yet; `None` where there are too many.
    fn copy_for(&mut self, len: MetadataLen, sole: Option<PeerKey>, now: Instant) -> Option<usize> {
        if let Some(at) = self.copies.iter().position(|copy| copy.len == len && copy.sole == sole) {
            return Some(at);
        }
        let is_active = |copy: &&Copy| copy.sole.is_some() && now.duration_since(copy.last) < PATIENCE;
        if sole.is_some() && self.copies.iter().filter(is_active).count() >= SOLE {
            return None;
        }
        self.copies.push(Copy { len, sole, pieces: BTreeMap::new(), last: now });
        Some(self.copies.len() - 1)
    }

    /// Drops the copies of a peer that is gone or says something else, and those that nobody has begun or claims any more.
    fn tidy(&mut self, key: PeerKey) {
        let claimed: BTreeSet<MetadataLen> = self.peers.values().filter_map(|offer| offer.len).collect();
        self.copies.retain(|copy| {
            copy.sole != Some(key) && (copy.sole.is_some() || !copy.pieces.is_empty() || claimed.contains(&copy.len))
        });
        if self.copies.is_empty() {
            self.given_up.clear();
        }
    }

    /// The right copy: whoever sent anything else is a liar.
    fn found(&mut self, copy: Copy) -> Arrival {
        let digests: Vec<Sha1Hash> = copy.pieces.values().map(|(bytes, _)| sha1([&bytes[..]])).collect();
        let mut liars = BTreeSet::new();
        for (len, sent) in std::mem::take(&mut self.wrong) {
            // Another size was a lie of all who sent pieces of it.
            let differs = |(at, (_, digest)): &(usize, &(SocketAddr, Sha1Hash))| {
                len != copy.len || digests.get(*at) != Some(digest)
            };
            liars.extend(sent.iter().enumerate().filter(differs).map(|(_, (addr, _))| *addr));
        }
        self.found = true;
        self.copies = Vec::new();
        let mut whole = Vec::with_capacity(copy.len.get() as usize);
        copy.pieces.values().for_each(|(bytes, _)| whole.extend_from_slice(bytes));
        Arrival::Found(whole.into(), liars.into_iter().collect())
    }

    fn wrong(&mut self, copy: Copy) -> Arrival {
        let senders: BTreeSet<SocketAddr> = copy.pieces.values().map(|(_, addr)| *addr).collect();
        if let (Some(&liar), 1) = (senders.first(), senders.len()) {
            return Arrival::Wrong(Some(liar));
        }
        self.spoilt.insert(copy.len);
        // What was asked for is of no use any more: each begins a copy of its own.
        self.peers.values_mut().filter(|offer| offer.len == Some(copy.len)).for_each(|offer| offer.asked.clear());
        if self.wrong.len() < MAX_SPOILT {
            let sent = copy.pieces.values().map(|(bytes, addr)| (*addr, sha1([&bytes[..]])));
            self.wrong.push((copy.len, sent.collect()));
        }
        Arrival::Wrong(None)
    }

    /// Where the copies take too much memory, the one goes that holds most for each peer that claims its size: a small one
    /// cannot be outvoted.
    fn save_memory(&mut self) {
        let mut held: BTreeMap<MetadataLen, usize> = BTreeMap::new();
        for copy in &self.copies {
            *held.entry(copy.len).or_default() += copy.pieces.values().map(|(bytes, _)| bytes.len()).sum::<usize>();
        }
        if held.values().sum::<usize>() <= MAX_HELD {
            return;
        }
        let claims = |len| self.peers.values().filter(|offer| offer.len == Some(len)).count().max(1);
        if let Some((_, len)) = held.into_iter().map(|(len, held)| (held / claims(len), len)).max() {
            self.given_up.insert(len);
            self.copies.retain(|copy| copy.len != len);
        }
    }
}

#[cfg(test)]
mod tests;
