use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Budget, Desk};
use crate::metainfo::{BLOCK_LEN, Block, Content, Creation, PieceIndex};
use crate::peer::{BufferPool, PeerKey, PieceInFlight};

const A: PeerKey = PeerKey(1);
const B: PeerKey = PeerKey(2);

/// A torrent of ten pieces of two blocks, with room for so many pieces in flight.
fn desk(room: u64) -> (Desk, Arc<Budget>) {
    let len = u64::from(BLOCK_LEN) * 20;
    let creation = Creation::new("x", Content::File { len, executable: false }, BLOCK_LEN * 2);
    let budget = Arc::new(Budget::new(room * u64::from(BLOCK_LEN) * 2));
    (Desk::new(Arc::clone(creation.prepare().unwrap().layout()), Arc::clone(&budget)), budget)
}

fn index(desk: &Desk, piece: u32) -> PieceIndex {
    desk.layout.piece(piece).unwrap()
}

fn open(desk: &mut Desk, piece: u32, failures: u32) -> Option<Arc<PieceInFlight>> {
    desk.open(index(desk, piece), failures)
}

fn hand(desk: &mut Desk, piece: &PieceInFlight, peer: PeerKey, blocks: usize) -> Vec<Block> {
    let mut claimed = Vec::new();
    desk.handed(piece.index(), peer, piece.released());
    piece.claim(peer, blocks, None, Instant::now(), &mut claimed);
    claimed
}

fn arrive(piece: &PieceInFlight, peer: PeerKey, block: Block) {
    piece.arrive(peer, block, BufferPool::new().take(block.len));
}

fn numbers(pieces: &[PieceIndex]) -> Vec<u32> {
    pieces.iter().map(|piece| piece.get()).collect()
}

#[test]
fn the_budget_bounds_what_is_open_and_all_of_it_comes_back() {
    let (mut desk, budget) = desk(2);
    let first = open(&mut desk, 0, 0).unwrap();
    assert!(desk.has_room());
    open(&mut desk, 1, 0).unwrap();
    assert!(!desk.has_room());
    assert!(open(&mut desk, 2, 0).is_none());
    assert!(desk.remove(&first));
    assert!(!desk.remove(&first), "it is off the desk");
    assert!(desk.has_room());
    drop(desk);
    assert_eq!(budget.used.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[test]
fn one_piece_is_always_allowed_however_full_the_budget_is() {
    let (mut desk, budget) = desk(0);
    assert!(desk.has_room());
    let piece = open(&mut desk, 3, 0).unwrap();
    assert!(!desk.has_room());
    assert!(open(&mut desk, 4, 0).is_none());
    assert!(desk.remove(&piece));
    assert_eq!(budget.used.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[test]
fn a_piece_is_handed_to_a_peer_once_until_blocks_of_it_are_free_again() {
    let (mut desk, _) = desk(10);
    let piece = open(&mut desk, 0, 0).unwrap();
    hand(&mut desk, &piece, A, 1);
    assert!(desk.joinable(A, |_| true).is_none());
    assert!(desk.joinable(B, |_| true).is_some());
    let of_b = hand(&mut desk, &piece, B, 1);
    assert!(desk.joinable(A, |_| true).is_none(), "nothing is free");
    // B goes: what it had claimed is free, and A, which was done with the piece, may have it.
    piece.release(B, of_b[0]);
    assert!(desk.let_go(B).is_empty());
    assert!(desk.joinable(A, |_| true).is_some());
    assert!(desk.orphan(A, |_| true).is_some(), "nobody is known to work on what is free");
    assert!(desk.orphan(A, |_| false).is_none());
    desk.handed(piece.index(), A, piece.released());
    assert!(desk.joinable(A, |_| true).is_none());
}

#[test]
fn a_piece_that_a_peer_did_not_take_is_found_for_another() {
    let (mut desk, _) = desk(10);
    let piece = open(&mut desk, 0, 0).unwrap();
    hand(&mut desk, &piece, A, 1);
    assert!(desk.orphan(B, |_| true).is_none(), "A works on it");
    let other = open(&mut desk, 1, 0).unwrap();
    desk.refused();
    assert!(Arc::ptr_eq(&desk.orphan(B, |_| true).unwrap(), &other));
    hand(&mut desk, &other, B, 2);
    assert!(desk.orphan(A, |_| true).is_none() && desk.spare.len() == 1);
}

#[test]
fn of_a_peer_that_lets_go_only_what_is_empty_is_given_up() {
    let (mut desk, _) = desk(10);
    let (begun, empty) = (open(&mut desk, 0, 0).unwrap(), open(&mut desk, 1, 0).unwrap());
    let shared = open(&mut desk, 2, 0).unwrap();
    let blocks = hand(&mut desk, &begun, A, 2);
    arrive(&begun, A, blocks[0]);
    hand(&mut desk, &empty, A, 2);
    hand(&mut desk, &shared, A, 1);
    hand(&mut desk, &shared, B, 1);
    assert_eq!(numbers(&desk.let_go(A)), [1]);
    assert!(desk.get(0).is_some() && desk.get(1).is_none() && desk.get(2).is_some());
}

#[test]
fn a_piece_that_failed_is_one_peer_s_alone_for_a_while() {
    let (mut desk, _) = desk(10);
    let piece = open(&mut desk, 0, 1).unwrap();
    assert!(piece.is_audited());
    hand(&mut desk, &piece, A, 1);
    assert!(!desk.takes(0, B));
    assert!(desk.joinable(B, |_| true).is_none());
    let flight = desk.flights.get_mut(&0).unwrap();
    assert!(flight.alone_until.is_some_and(|until| until > Instant::now()));
    flight.alone_until = Some(Instant::now());
    assert!(desk.takes(0, B), "A had its time");
    let again = open(&mut desk, 1, 3).unwrap();
    hand(&mut desk, &again, A, 1);
    let until = desk.flights[&1].alone_until.unwrap();
    assert!(until > Instant::now() + Duration::from_millis(1500), "longer after each failure");
}

#[test]
fn what_is_complete_stays_until_it_is_verified() {
    let (mut desk, _) = desk(10);
    let (complete, begun) = (open(&mut desk, 0, 0).unwrap(), open(&mut desk, 1, 0).unwrap());
    for block in hand(&mut desk, &complete, A, 2) {
        arrive(&complete, A, block);
    }
    hand(&mut desk, &begun, A, 1);
    assert_eq!(numbers(&desk.clear()), [1]);
    assert_eq!(desk.len(), 1);
    assert!(complete.take().is_some(), "its bytes are there");
    assert!(desk.remove(&complete));
}

#[test]
fn room_is_made_by_giving_up_what_nobody_works_on_and_has_least() {
    let (mut desk, _) = desk(10);
    let (one, none, held) =
        (open(&mut desk, 0, 0).unwrap(), open(&mut desk, 1, 0).unwrap(), open(&mut desk, 2, 0).unwrap());
    let block = hand(&mut desk, &one, A, 1)[0];
    arrive(&one, A, block);
    desk.let_go(A);
    hand(&mut desk, &held, B, 1);
    assert_eq!(numbers(&desk.make_room()), [1]);
    assert!(Arc::ptr_eq(desk.get(0).unwrap(), &one) && none.unclaimed() == 0);
    assert_eq!(numbers(&desk.make_room()), [0]);
    assert!(desk.make_room().is_empty(), "somebody works on what is left");
}

#[test]
fn unwanted_pieces_are_given_up_even_while_peers_work_on_them() {
    let (mut desk, _) = desk(10);
    for piece in 0..4 {
        let piece = open(&mut desk, piece, 0).unwrap();
        hand(&mut desk, &piece, A, 1);
    }
    let mut gone = numbers(&desk.retain(|piece| piece % 2 == 0));
    gone.sort_unstable();
    assert_eq!(gone, [1, 3]);
    assert_eq!(desk.len(), 2);
}
