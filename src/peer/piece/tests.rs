use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Arrival, PieceInFlight};
use crate::metainfo::{BLOCK_LEN, Block, Content, Creation, Layout};
use crate::peer::{BufferPool, PeerKey};
use crate::policy::Pace;

const A: PeerKey = PeerKey(1);
const B: PeerKey = PeerKey(2);
const C: PeerKey = PeerKey(3);

fn layout(len: u64, piece_length: u32) -> Arc<Layout> {
    let creation = Creation::new("x", Content::File { len, executable: false }, piece_length);
    Arc::clone(creation.prepare().unwrap().layout())
}

/// A piece of four blocks, the last of 100 bytes.
fn piece() -> PieceInFlight {
    let layout = layout(u64::from(BLOCK_LEN) * 3 + 100, BLOCK_LEN * 4);
    PieceInFlight::new(&layout, layout.piece(0).unwrap(), false, &Arc::default())
}

fn claim(piece: &PieceInFlight, peer: PeerKey, max: usize, now: Instant) -> Vec<Block> {
    let mut out = Vec::new();
    piece.claim(peer, max, None, now, &mut out);
    out
}

fn again(piece: &PieceInFlight, peer: PeerKey, patience: Duration, now: Instant) -> Vec<Block> {
    let mut out = Vec::new();
    piece.claim_again(peer, 10, patience, None, now, &mut out);
    out
}

fn arrive(piece: &PieceInFlight, peer: PeerKey, block: Block, byte: u8) -> Arrival {
    let mut buffer = BufferPool::new().take(block.len);
    buffer.as_mut().fill(byte);
    piece.arrive(peer, block, buffer)
}

#[test]
fn blocks_are_claimed_in_order_and_the_last_is_short() {
    let (piece, now) = (piece(), Instant::now());
    let blocks = claim(&piece, A, 3, now);
    assert_eq!(blocks.iter().map(|block| block.number()).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(claim(&piece, B, 3, now), [Block { piece: piece.index(), begin: BLOCK_LEN * 3, len: 100 }]);
    assert!(claim(&piece, B, 3, now).is_empty());
    assert_eq!(piece.unclaimed(), 0);
}

#[test]
fn the_first_copy_wins_and_the_piece_completes_once() {
    let (piece, now) = (piece(), Instant::now());
    let blocks = claim(&piece, A, 4, now);
    let late = now + Duration::from_secs(60);
    assert_eq!(again(&piece, B, Duration::from_secs(1), late).len(), 4);
    assert!(matches!(arrive(&piece, B, blocks[0], 2), Arrival::Kept(others) if others == [A]));
    assert!(matches!(arrive(&piece, A, blocks[0], 1), Arrival::Late));
    for &block in &blocks[1..3] {
        assert!(matches!(arrive(&piece, A, block, 1), Arrival::Kept(others) if others == [B]));
    }
    assert!(piece.take().is_none(), "it is not complete");
    assert!(matches!(arrive(&piece, A, blocks[3], 1), Arrival::Complete(others) if others == [B]));
    assert!(matches!(arrive(&piece, B, blocks[3], 2), Arrival::Late));
    assert_eq!(piece.abandon(), None, "what is complete is not given up");
    let contents = piece.take().unwrap();
    assert_eq!(contents.senders, [B, A, A, A]);
    assert!(contents.blocks.iter().zip([2, 1, 1, 1]).all(|(block, byte)| block.as_ref().iter().all(|&b| b == byte)));
    assert!(piece.take().is_none());
}

#[test]
fn a_claim_given_back_goes_to_the_next_and_is_seen_to() {
    let (piece, now) = (piece(), Instant::now());
    let blocks = claim(&piece, A, 4, now);
    assert_eq!((piece.unclaimed(), piece.released()), (0, 0));
    again(&piece, B, Duration::from_secs(1), now + Duration::from_secs(60));
    piece.release(A, blocks[0]);
    assert_eq!((piece.unclaimed(), piece.released()), (0, 0), "the other one was asked too");
    piece.release(B, blocks[0]);
    assert_eq!((piece.unclaimed(), piece.released()), (1, 1));
    piece.release(B, blocks[0]);
    assert_eq!((piece.unclaimed(), piece.released()), (1, 1), "once is enough");
    assert_eq!(claim(&piece, A, 4, now), [blocks[0]]);
}

#[test]
fn an_answer_without_a_claim_is_kept() {
    let (piece, now) = (piece(), Instant::now());
    let block = claim(&piece, A, 1, now)[0];
    piece.release(A, block);
    assert!(matches!(arrive(&piece, A, block, 1), Arrival::Kept(_)));
    assert_eq!((piece.unclaimed(), piece.arrived()), (3, 1));
}

#[test]
fn a_block_that_is_not_one_of_the_pieces_own_is_refused() {
    let piece = piece();
    for (begin, len) in [(1, BLOCK_LEN), (0, 5), (BLOCK_LEN * 9, 1)] {
        let block = Block { piece: piece.index(), begin, len };
        assert!(matches!(arrive(&piece, A, block, 1), Arrival::Late));
    }
    assert_eq!((piece.unclaimed(), piece.arrived()), (4, 0));
}

#[test]
fn a_quick_peer_is_not_asked_after_and_a_late_one_is() {
    let (piece, now) = (piece(), Instant::now());
    let pace = Pace { usual: Duration::from_millis(100), each: Duration::ZERO, slack: Duration::from_millis(200) };
    piece.claim(A, 4, Some(pace), now, &mut Vec::new());
    let patience = Duration::from_millis(80);
    assert!(again(&piece, B, patience, now).is_empty(), "it will answer about as soon");
    assert!(again(&piece, A, patience, now + Duration::from_secs(9)).is_empty(), "nobody is asked twice");
    assert_eq!(again(&piece, B, patience, now + Duration::from_secs(1)).len(), 4);
    assert!(again(&piece, B, patience, now + Duration::from_secs(9)).is_empty());
}

#[test]
fn what_a_slow_peer_has_queued_is_asked_again_the_last_block_first() {
    let (piece, now) = (piece(), Instant::now());
    let pace =
        Pace { usual: Duration::from_millis(300), each: Duration::from_millis(300), slack: Duration::from_secs(1) };
    let blocks = {
        let mut out = Vec::new();
        piece.claim(A, 4, Some(pace), now, &mut out);
        out
    };
    let patience = Duration::from_millis(200);
    let mut out = Vec::new();
    let quick =
        Pace { usual: Duration::from_millis(50), each: Duration::from_millis(10), slack: Duration::from_secs(9) };
    piece.claim_again(B, 9, patience, Some(quick), now, &mut out);
    assert_eq!(out, [blocks[3], blocks[2], blocks[1]], "the first comes soon enough");
    assert!(again(&piece, C, patience, now).is_empty(), "B is about to bring them");
    let late = now + Duration::from_millis(2200);
    assert_eq!(again(&piece, C, patience, late), [blocks[0]], "nobody else was asked for it");
}

#[test]
fn what_was_given_up_takes_nothing_more() {
    let (piece, now) = (piece(), Instant::now());
    let blocks = claim(&piece, A, 2, now);
    arrive(&piece, A, blocks[0], 1);
    assert!(piece.abandon().is_some());
    assert!(matches!(arrive(&piece, A, blocks[1], 1), Arrival::Late));
    piece.release(A, blocks[1]);
    assert!(claim(&piece, B, 4, now).is_empty());
    assert!(again(&piece, B, Duration::ZERO, now + Duration::from_secs(99)).is_empty());
    assert_eq!(piece.unclaimed(), 0);
    assert!(piece.take().is_none());
}
