use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Arrival, Assembly, MAX_REJECTS, PATIENCE, PIPELINE, SOLE, STALLED};
use crate::hash::sha1;
use crate::metainfo::InfoHash;
use crate::peer::PeerKey;
use crate::wire::metadata::{METADATA_PIECE_LEN, MetadataLen};

struct Swarm {
    metadata: Vec<u8>,
    assembly: Assembly,
    now: Instant,
}

fn addr(peer: u32) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, peer as u8], 6881))
}

impl Swarm {
    fn new(len: usize) -> Self {
        let metadata: Vec<u8> = (0..len).map(|n| (n * 7 + n / 251) as u8).collect();
        let assembly = Assembly::new(InfoHash::new(sha1([&metadata[..]])));
        Self { metadata, assembly, now: Instant::now() }
    }

    fn len(&self) -> MetadataLen {
        MetadataLen::new(self.metadata.len() as u32).unwrap()
    }

    fn offers(&mut self, peer: u32, len: usize) {
        assert!(self.assembly.offers(PeerKey(peer), addr(peer), Some(len as u32), self.now));
    }

    fn asks(&mut self, peer: u32) -> Option<u32> {
        self.assembly.next(PeerKey(peer), self.now)
    }

    /// Gives a piece; `lie` changes a byte.
    fn gives(&mut self, peer: u32, piece: u32, lie: bool) -> Arrival {
        let start = piece as usize * METADATA_PIECE_LEN;
        let end = self.metadata.len().min(start + METADATA_PIECE_LEN);
        let mut bytes = self.metadata[start..end].to_vec();
        bytes[0] ^= u8::from(lie);
        let len = self.len();
        self.assembly.arrived(PeerKey(peer), piece, len, &bytes, self.now)
    }

    /// Asks and gives until nothing more is asked for, or something comes of it.
    fn plays(&mut self, peer: u32, lie: bool) -> Option<Arrival> {
        while let Some(piece) = self.asks(peer) {
            match self.gives(peer, piece, lie) {
                Arrival::Kept => {}
                other => return Some(other),
            }
        }
        None
    }
}

#[test]
fn one_peer_is_asked_for_a_few_pieces_at_a_time_and_gives_the_whole() {
    let mut swarm = Swarm::new(10 * METADATA_PIECE_LEN + 1);
    swarm.offers(1, swarm.metadata.len());
    let asked: Vec<u32> = std::iter::from_fn(|| swarm.asks(1)).collect();
    assert_eq!(asked, (0..PIPELINE as u32).collect::<Vec<_>>());
    for piece in asked {
        assert_eq!(swarm.gives(1, piece, false), Arrival::Kept);
    }
    let whole: Arc<[u8]> = swarm.metadata.clone().into();
    assert_eq!(swarm.plays(1, false), Some(Arrival::Found(whole, vec![])));
    assert_eq!(swarm.asks(1), None);
}

#[test]
fn several_peers_are_asked_for_different_pieces() {
    let mut swarm = Swarm::new(6 * METADATA_PIECE_LEN);
    (1..=3).for_each(|peer| swarm.offers(peer, swarm.metadata.len()));
    let asked: Vec<(u32, u32)> = [1, 2, 3, 1, 2, 3].map(|peer| (peer, swarm.asks(peer).unwrap())).into();
    let mut pieces: Vec<u32> = asked.iter().map(|(_, piece)| *piece).collect();
    pieces.sort_unstable();
    assert_eq!(pieces, [0, 1, 2, 3, 4, 5]);
    assert_eq!(swarm.asks(1), None, "everything is asked for");
    let last = asked.into_iter().map(|(peer, piece)| swarm.gives(peer, piece, false)).last();
    assert!(matches!(last, Some(Arrival::Found(..))));
}

#[test]
fn what_one_peer_sits_on_another_is_asked_for_in_time() {
    let mut swarm = Swarm::new(METADATA_PIECE_LEN);
    swarm.offers(1, swarm.metadata.len());
    swarm.offers(2, swarm.metadata.len());
    assert_eq!(swarm.asks(1), Some(0));
    assert_eq!(swarm.asks(2), None);
    swarm.now += PATIENCE;
    assert_eq!(swarm.asks(2), Some(0));
    assert_eq!(swarm.asks(1), None, "nobody is asked twice for the same");
    assert!(matches!(swarm.gives(2, 0, false), Arrival::Found(..)));
    assert_eq!(swarm.gives(1, 0, false), Arrival::Unasked);
}

#[test]
fn who_answers_nothing_is_stalled_in_the_end() {
    let mut swarm = Swarm::new(METADATA_PIECE_LEN);
    swarm.offers(1, swarm.metadata.len());
    assert!(!swarm.assembly.is_stalled(PeerKey(1), swarm.now + STALLED), "it was not asked");
    swarm.asks(1);
    assert!(swarm.assembly.is_stalled(PeerKey(1), swarm.now + STALLED));
}

#[test]
fn a_peer_whose_whole_copy_is_wrong_is_a_liar() {
    let mut swarm = Swarm::new(3 * METADATA_PIECE_LEN);
    swarm.offers(1, swarm.metadata.len());
    assert_eq!(swarm.plays(1, true), Some(Arrival::Wrong(Some(addr(1)))));
    swarm.assembly.left(PeerKey(1));
    swarm.offers(2, swarm.metadata.len());
    assert!(matches!(swarm.plays(2, false), Some(Arrival::Found(_, liars)) if liars.is_empty()));
}

#[test]
fn a_liar_among_several_is_found_when_the_right_copy_is_there() {
    let mut swarm = Swarm::new(4 * METADATA_PIECE_LEN);
    (1..=3).for_each(|peer| swarm.offers(peer, swarm.metadata.len()));
    let asked: Vec<(u32, u32)> = [1, 2, 3, 1].map(|peer| (peer, swarm.asks(peer).unwrap())).into();
    let outcome = asked.into_iter().map(|(peer, piece)| swarm.gives(peer, piece, peer == 2)).last();
    assert_eq!(outcome, Some(Arrival::Wrong(None)), "nobody knows yet who it was");
    // Each makes a copy of its own now; the liar's may come first.
    assert_eq!(swarm.plays(2, false), Some(Arrival::Found(swarm.metadata.clone().into(), vec![addr(2)])));
}

#[test]
fn after_a_wrong_copy_each_peer_makes_its_own_a_few_at_a_time() {
    let mut swarm = Swarm::new(2 * METADATA_PIECE_LEN);
    (1..=8).for_each(|peer| swarm.offers(peer, swarm.metadata.len()));
    let pieces = [1, 2].map(|peer| (peer, swarm.asks(peer).unwrap()));
    assert_eq!(pieces.map(|(peer, piece)| swarm.gives(peer, piece, peer == 1))[1], Arrival::Wrong(None));
    let active = (1..=8).filter(|&peer| swarm.asks(peer).is_some()).count();
    assert_eq!(active, SOLE);
    // Those who do not answer make room for others.
    swarm.now += PATIENCE;
    assert_eq!(swarm.gives(1, 0, true), Arrival::Kept);
    assert_eq!(swarm.plays(1, true), Some(Arrival::Wrong(Some(addr(1)))));
    assert!(matches!(swarm.plays(7, false), Some(Arrival::Found(_, liars)) if liars == [addr(1)]));
}

#[test]
fn sizes_do_not_get_in_each_others_way_and_a_wrong_size_is_a_lie() {
    let mut swarm = Swarm::new(2 * METADATA_PIECE_LEN);
    let wrong = MetadataLen::new(METADATA_PIECE_LEN as u32 + 7).unwrap();
    for peer in [1, 2] {
        swarm.offers(peer, wrong.get() as usize);
        let piece = swarm.asks(peer).unwrap();
        let bytes = vec![0; wrong.piece_len(piece).unwrap()];
        swarm.assembly.arrived(PeerKey(peer), piece, wrong, &bytes, swarm.now);
    }
    swarm.offers(3, swarm.metadata.len());
    assert!(matches!(swarm.plays(3, false), Some(Arrival::Found(_, liars)) if liars == [addr(1), addr(2)]));
}

#[test]
fn sizes_that_nothing_has_are_not_believed() {
    let mut swarm = Swarm::new(5);
    for len in [u32::MAX, 33 << 20, 0] {
        assert!(!swarm.assembly.offers(PeerKey(1), addr(1), Some(len), swarm.now));
        assert_eq!(swarm.asks(1), None);
    }
    assert_eq!(swarm.assembly.progress(), (0, 0, 0));
    swarm.offers(1, 5);
    swarm.asks(1);
    let other = MetadataLen::new(6).unwrap();
    assert_eq!(swarm.assembly.arrived(PeerKey(1), 0, other, b"123456", swarm.now), Arrival::OtherSize);
}

#[test]
fn a_reject_leaves_the_piece_to_others_and_the_peer_alone_for_a_while() {
    let mut swarm = Swarm::new(METADATA_PIECE_LEN);
    swarm.offers(1, swarm.metadata.len());
    swarm.offers(2, swarm.metadata.len());
    assert_eq!(swarm.asks(1), Some(0));
    assert!(swarm.assembly.rejected(PeerKey(1), 0, swarm.now));
    assert_eq!(swarm.asks(1), None);
    assert_eq!(swarm.asks(2), Some(0));
    swarm.assembly.left(PeerKey(2));
    for _ in 1..MAX_REJECTS {
        swarm.now += Duration::from_secs(60);
        assert_eq!(swarm.asks(1), Some(0));
        assert!(swarm.assembly.rejected(PeerKey(1), 5, swarm.now), "a reject of what it was not asked for is nothing");
        swarm.assembly.rejected(PeerKey(1), 0, swarm.now);
    }
    assert!(!swarm.assembly.rejected(PeerKey(1), 0, swarm.now));
}

#[test]
fn memory_is_taken_for_what_comes_and_is_bounded() {
    let mut swarm = Swarm::new(5);
    // Each of many liars claims another size near the bound, and sends all but one piece of it.
    let sizes: Vec<_> = (0..4).map(|n| MetadataLen::new((32 << 20) - n).unwrap()).collect();
    for (peer, len) in (1..).zip(&sizes) {
        swarm.offers(peer, len.get() as usize);
        for _ in 1..len.pieces() {
            let Some(piece) = swarm.asks(peer) else { break };
            let bytes = vec![0; len.piece_len(piece).unwrap()];
            swarm.assembly.arrived(PeerKey(peer), piece, *len, &bytes, swarm.now);
        }
        let held = swarm.assembly.copies.iter().flat_map(|copy| copy.pieces.values());
        assert!(held.map(|(bytes, _)| bytes.len()).sum::<usize>() <= super::MAX_HELD);
    }
    swarm.offers(9, 5);
    assert!(matches!(swarm.plays(9, false), Some(Arrival::Found(..))));
}

#[test]
fn liars_in_the_majority_do_not_have_a_small_size_given_up() {
    let mut swarm = Swarm::new(3 * METADATA_PIECE_LEN);
    swarm.offers(1, 3 * METADATA_PIECE_LEN);
    let first = swarm.asks(1).unwrap();
    assert_eq!(swarm.gives(1, first, false), Arrival::Kept);
    // Two for each of three large sizes, and all but one piece of each.
    let sizes: Vec<_> = (0..3).map(|n| MetadataLen::new((32 << 20) - n).unwrap()).collect();
    for (peer, len) in (1..).zip(&sizes) {
        swarm.offers(10 * peer, len.get() as usize);
        swarm.offers(10 * peer + 1, len.get() as usize);
        for _ in 1..len.pieces() {
            let Some(piece) = swarm.asks(10 * peer) else { break };
            let bytes = vec![0; len.piece_len(piece).unwrap()];
            swarm.assembly.arrived(PeerKey(10 * peer), piece, *len, &bytes, swarm.now);
        }
    }
    assert!(matches!(swarm.plays(1, false), Some(Arrival::Found(..))));
}
