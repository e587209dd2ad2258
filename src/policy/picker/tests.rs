use proptest::prelude::{Strategy, any, prop_oneof};
use proptest::{collection, prop_assert, prop_assert_eq, proptest};

use super::{Mode, Picker, PieceState, Priority, common};
use crate::bits::Bits;

const PRIORITIES: [Priority; 4] = [Priority::Skip, Priority::Low, Priority::Normal, Priority::High];

fn picker(pieces: u32) -> Picker {
    Picker::new(pieces, fastrand::Rng::with_seed(7))
}

/// A picker past its random phase: it has pieces 0 to 3.
fn settled(pieces: u32) -> Picker {
    let mut picker = picker(pieces);
    (0..4).for_each(|piece| assert!(picker.got(piece)));
    picker
}

fn bits(len: u32, set: impl IntoIterator<Item = u32>) -> Bits {
    let mut bits = Bits::new(len);
    set.into_iter().for_each(|index| assert!(bits.set(index)));
    bits
}

fn picked(picker: &mut Picker, has: &Bits, max: usize) -> Vec<u32> {
    let mut out = Vec::new();
    picker.pick(has, max, &mut out);
    out
}

#[test]
fn the_rarest_piece_comes_first_as_peers_come_and_go() {
    let mut picker = settled(10);
    picker.peer_joined(&Bits::full(10));
    picker.peer_joined(&bits(10, [4, 5, 6, 7, 8]));
    picker.peer_joined(&bits(10, [4, 5, 6, 7]));
    picker.peer_has(8);
    picker.peer_has(5);
    picker.peer_lost(7);
    picker.peer_lost(7);
    assert_eq!(picker.availability(5), 4);
    assert_eq!(picker.availability(9), 1);
    let order = picked(&mut picker, &Bits::full(10), 10);
    assert_eq!(order.len(), 6);
    let availability: Vec<u32> = order.iter().map(|&piece| picker.availability(piece)).collect();
    assert_eq!(availability, [1, 1, 3, 3, 3, 4]);
}

#[test]
fn ties_are_broken_at_random_by_the_seed() {
    let order = |seed| {
        let mut picker = Picker::new(100, fastrand::Rng::with_seed(seed));
        (0..4).for_each(|piece| assert!(picker.got(piece)));
        picked(&mut picker, &Bits::full(100), 100)
    };
    assert_eq!(order(1), order(1));
    assert_ne!(order(1), order(2));
    assert!(!order(1).is_sorted());
}

#[test]
fn picking_one_by_one_goes_by_rarity_like_picking_all_at_once() {
    let has = bits(1000, (0..1000).filter(|piece| piece % 3 != 0));
    let [mut all, mut single] = [settled(1000), settled(1000)];
    for picker in [&mut all, &mut single] {
        (2..20).for_each(|step| picker.peer_joined(&bits(1000, (0..1000).step_by(step))));
    }
    for piece in picked(&mut all, &has, 600) {
        let next = picked(&mut single, &has, 1)[0];
        assert_eq!(all.availability(piece), single.availability(next));
    }
    assert_eq!(single.in_flight_count(), 600);
}

#[test]
fn the_first_four_pieces_are_random_and_not_the_rarest() {
    let mut rare = 0;
    for seed in 0..200 {
        let mut picker = Picker::new(100, fastrand::Rng::with_seed(seed));
        picker.peer_joined(&bits(100, 10..100));
        rare += u32::from(picked(&mut picker, &Bits::full(100), 1)[0] < 10);
    }
    assert!((5..50).contains(&rare), "{rare} of 200, about 20 expected");
}

#[test]
fn the_random_phase_finds_the_only_piece_of_a_peer() {
    let mut picker = picker(10_000);
    assert_eq!(picked(&mut picker, &bits(10_000, [9_999]), 3), [9_999]);
    assert_eq!(picked(&mut picker, &bits(10_000, [0, 9_999]), 3), [0]);
}

#[test]
fn priority_comes_before_rarity_and_skipped_pieces_never_come() {
    let mut picker = settled(10);
    picker.peer_joined(&bits(10, [9]));
    picker.set_priority(9, Priority::High);
    picker.set_priority(4, Priority::Skip);
    picker.set_priority(5, Priority::Low);
    let order = picked(&mut picker, &Bits::full(10), 10);
    assert_eq!((order[0], order[4], order.len()), (9, 5, 5));
    assert!(picker.all_wanted_open_or_had());
    assert_eq!(picker.wanted_left(), 5);
}

#[test]
fn sequential_mode_takes_the_lowest_number_within_a_priority() {
    let mut picker = picker(200);
    picker.set_mode(Mode::Sequential);
    picker.set_priority(150, Priority::High);
    picker.set_priority(1, Priority::Low);
    let order = picked(&mut picker, &bits(200, (0..200).filter(|piece| piece % 2 == 0 || *piece < 2)), 5);
    assert_eq!(order, [150, 0, 2, 4, 6]);
}

#[test]
fn urgent_windows_come_first_in_their_order_and_only_while_missing() {
    let mut picker = settled(100);
    picker.set_priority(60, Priority::High);
    picker.set_priority(51, Priority::Skip);
    picker.set_urgent((50..53).chain(20..22).chain([1, 500]));
    assert_eq!(picked(&mut picker, &Bits::full(100), 5)[..5], [50, 52, 20, 21, 60]);
    assert!(picker.got(50) && picker.give_back(20));
    assert_eq!(picked(&mut picker, &Bits::full(100), 1), [20]);
    assert!(picker.lost(50));
    assert_eq!(picked(&mut picker, &Bits::full(100), 1), [50]);
}

#[test]
fn a_peer_on_parole_opens_only_what_is_allowed() {
    let mut picker = settled(1000);
    let mut out = vec![77];
    picker.pick_where(&Bits::full(1000), 2, |piece| piece >= 998, &mut out);
    out.sort_unstable();
    assert_eq!(out, [77, 998, 999]);
    picker.pick_where(&Bits::full(1000), 2, |piece| piece >= 998, &mut out);
    assert_eq!(out.len(), 3);
}

#[test]
fn a_piece_goes_from_missing_to_in_flight_to_had_and_back() {
    let mut picker = picker(5);
    assert!(picker.open(3) && !picker.open(3));
    assert_eq!(picker.state(3), Some(PieceState::InFlight));
    assert!(picker.got(3) && !picker.got(3) && !picker.give_back(3));
    assert_eq!((picker.have_count(), picker.in_flight_count(), picker.wanted_left()), (1, 0, 4));
    assert!(!picker.interesting(&bits(5, [3])) && !picker.wants(3));
    assert!(picker.lost(3) && !picker.lost(3));
    assert!(picker.interesting(&bits(5, [3])) && picker.wants(3));
}

#[test]
fn pieces_that_do_not_exist_are_ignored() {
    let mut picker = picker(3);
    for piece in [3, 64, u32::MAX] {
        picker.peer_has(piece);
        picker.peer_lost(piece);
        picker.set_priority(piece, Priority::High);
        assert!(!picker.open(piece) && !picker.got(piece) && !picker.give_back(piece) && !picker.lost(piece));
        assert!(!picker.wants(piece) && picker.state(piece).is_none() && picker.availability(piece) == 0);
    }
    picker.peer_joined(&Bits::full(70));
    let mut order = picked(&mut picker, &Bits::full(70), 10);
    order.sort_unstable();
    assert_eq!(order, [0, 1, 2]);
    let mut none = Picker::new(0, fastrand::Rng::with_seed(1));
    none.peer_joined(&Bits::new(0));
    none.peer_left(&Bits::new(0));
    assert!(picked(&mut none, &Bits::full(9), 9).is_empty() && none.distributed_copies() == 0.0);
}

#[test]
fn distributed_copies_are_the_rarest_piece_and_the_share_above_it() {
    let mut picker = picker(4);
    picker.peer_joined(&Bits::full(4));
    picker.peer_joined(&bits(4, [0, 1, 2]));
    assert_eq!(picker.distributed_copies(), 1.75);
    picker.peer_has(3);
    assert_eq!(picker.distributed_copies(), 2.0);
}

#[test]
fn a_seed_that_gives_up_a_piece_is_counted_piece_by_piece() {
    let mut picker = picker(4);
    let mut has = Bits::full(4);
    picker.peer_joined(&has);
    picker.peer_lost(2);
    has.clear(2);
    assert_eq!([0, 1, 2, 3].map(|piece| picker.availability(piece)), [1, 1, 0, 1]);
    picker.peer_left(&has);
    assert_eq!(picker.distributed_copies(), 0.0);
    assert_eq!(picker.availability(0), 0);
}

/// What may happen to a picker.
#[derive(Clone, Debug)]
enum Operation {
    Join(Vec<bool>),
    Leave(usize),
    Has(usize, u32),
    Lost(usize, u32),
    SetPriority(u32, usize),
    SetMode(bool),
    SetUrgent(Vec<u32>),
    Pick { peer: usize, max: usize, refused: u32 },
    Got(u32),
    GiveBack(u32),
    LostOurs(u32),
}

fn operation() -> impl Strategy<Value = Operation> {
    let piece = || 0..72u32;
    prop_oneof![
        2 => collection::vec(any::<bool>(), 70).prop_map(Operation::Join),
        1 => proptest::strategy::Just(Operation::Join(vec![true; 70])),
        1 => (0..8usize).prop_map(Operation::Leave),
        4 => (0..8usize, piece()).prop_map(|(peer, piece)| Operation::Has(peer, piece)),
        2 => (0..8usize, piece()).prop_map(|(peer, piece)| Operation::Lost(peer, piece)),
        2 => (piece(), 0..4usize).prop_map(|(piece, priority)| Operation::SetPriority(piece, priority)),
        1 => any::<bool>().prop_map(Operation::SetMode),
        1 => collection::vec(piece(), 0..6).prop_map(Operation::SetUrgent),
        6 => (0..8usize, 0..5usize, piece()).prop_map(|(peer, max, refused)| Operation::Pick { peer, max, refused }),
        3 => piece().prop_map(Operation::Got),
        3 => piece().prop_map(Operation::GiveBack),
        1 => piece().prop_map(Operation::LostOurs),
    ]
}

/// The same rules without any structure.
struct Model {
    peers: Vec<Bits>,
    states: Vec<PieceState>,
    priorities: Vec<Priority>,
    urgent: Vec<u32>,
    mode: Mode,
}

impl Model {
    fn availability(&self, piece: u32) -> u32 {
        self.peers.iter().filter(|peer| peer.get(piece)).count() as u32
    }

    fn wanted(&self, piece: u32) -> bool {
        self.priorities[piece as usize] != Priority::Skip && self.states[piece as usize] != PieceState::Have
    }

    /// How good a pick a piece is, lower is better; `None` where it may not be picked.
    fn rank(&self, piece: u32, has: &Bits, refused: u32) -> Option<(usize, std::cmp::Reverse<Priority>, u32)> {
        let at = piece as usize;
        if self.states[at] != PieceState::Missing || !self.wanted(piece) || !has.get(piece) || piece == refused {
            return None;
        }
        if let Some(place) = self.urgent.iter().position(|&urgent| urgent == piece) {
            return Some((place, std::cmp::Reverse(Priority::High), 0));
        }
        let random = self.states.iter().filter(|&&state| state == PieceState::Have).count() < 4;
        let order = match self.mode {
            Mode::Sequential => piece,
            Mode::RarestFirst if random => 0,
            Mode::RarestFirst => self.availability(piece),
        };
        Some((usize::MAX, std::cmp::Reverse(self.priorities[at]), order))
    }
}

proptest! {
    #[test]
    fn any_sequence_of_events_gives_what_a_naive_model_gives(
        pieces in 1..71u32,
        seed in any::<u64>(),
        operations in collection::vec(operation(), 1..120),
    ) {
        let mut picker = Picker::new(pieces, fastrand::Rng::with_seed(seed));
        let mut model = Model {
            peers: Vec::new(),
            states: vec![PieceState::Missing; pieces as usize],
            priorities: vec![Priority::Normal; pieces as usize],
            urgent: Vec::new(),
            mode: Mode::RarestFirst,
        };
        for operation in operations {
            match operation {
                Operation::Join(has) => {
                    let has = bits(pieces, (0..pieces).filter(|&piece| has[piece as usize]));
                    picker.peer_joined(&has);
                    model.peers.push(has);
                }
                Operation::Leave(peer) => if peer < model.peers.len() {
                    picker.peer_left(&model.peers.swap_remove(peer));
                },
                Operation::Has(peer, piece) => if model.peers.get_mut(peer).is_some_and(|has| has.set(piece)) {
                    picker.peer_has(piece);
                },
                Operation::Lost(peer, piece) => if model.peers.get_mut(peer).is_some_and(|has| has.clear(piece)) {
                    picker.peer_lost(piece);
                },
                Operation::SetPriority(piece, priority) => {
                    picker.set_priority(piece, PRIORITIES[priority]);
                    if let Some(to) = model.priorities.get_mut(piece as usize) {
                        *to = PRIORITIES[priority];
                    }
                }
                Operation::SetMode(sequential) => {
                    model.mode = if sequential { Mode::Sequential } else { Mode::RarestFirst };
                    picker.set_mode(model.mode);
                }
                Operation::SetUrgent(urgent) => {
                    picker.set_urgent(urgent.clone());
                    model.urgent = urgent;
                }
                Operation::Pick { peer, max, refused } => {
                    let has = model.peers.get(peer).cloned().unwrap_or_else(|| Bits::full(pieces));
                    let mut out = Vec::new();
                    picker.pick_where(&has, max, |piece| piece != refused, &mut out);
                    prop_assert!(out.len() <= max);
                    for _ in out.len()..max {
                        out.push(u32::MAX);
                    }
                    for piece in out {
                        let best = (0..pieces).filter_map(|piece| model.rank(piece, &has, refused)).min();
                        let rank = (piece < pieces).then(|| model.rank(piece, &has, refused)).flatten();
                        prop_assert_eq!(rank, best);
                        if let Some(state) = model.states.get_mut(piece as usize) {
                            *state = PieceState::InFlight;
                        }
                    }
                }
                Operation::Got(piece) => if picker.got(piece) {
                    model.states[piece as usize] = PieceState::Have;
                },
                Operation::GiveBack(piece) => if picker.give_back(piece) {
                    prop_assert_eq!(model.states[piece as usize], PieceState::InFlight);
                    model.states[piece as usize] = PieceState::Missing;
                },
                Operation::LostOurs(piece) => if picker.lost(piece) {
                    prop_assert_eq!(model.states[piece as usize], PieceState::Have);
                    model.states[piece as usize] = PieceState::Missing;
                },
            }
            for piece in 0..pieces {
                prop_assert_eq!(picker.availability(piece), model.availability(piece));
                prop_assert_eq!(picker.state(piece), Some(model.states[piece as usize]));
                prop_assert_eq!(picker.priority(piece), Some(model.priorities[piece as usize]));
                prop_assert_eq!(picker.wants(piece), model.wanted(piece));
            }
            for has in &model.peers {
                prop_assert_eq!(picker.interesting(has), has.iter().any(|piece| model.wanted(piece)));
            }
            let count = |state| model.states.iter().filter(|&&each| each == state).count() as u32;
            prop_assert_eq!(picker.have_count(), count(PieceState::Have));
            prop_assert_eq!(picker.in_flight_count(), count(PieceState::InFlight));
            prop_assert_eq!(picker.wanted_left(), (0..pieces).filter(|&piece| model.wanted(piece)).count() as u32);
            let missing = (0..pieces).any(|piece| model.rank(piece, &Bits::full(pieces), u32::MAX).is_some());
            prop_assert_eq!(picker.all_wanted_open_or_had(), !missing);
        }
    }

    #[test]
    fn common_bits_are_those_that_both_sets_have(
        a in collection::vec(any::<bool>(), 0..200),
        b in collection::vec(any::<bool>(), 0..200),
    ) {
        let set = |of: &[bool]| bits(of.len() as u32, (0..of.len() as u32).filter(|&index| of[index as usize]));
        let both = (0..a.len().min(b.len()) as u32).filter(|&index| a[index as usize] && b[index as usize]);
        prop_assert_eq!(common(&set(&a), &set(&b), 0).collect::<Vec<_>>(), both.collect::<Vec<_>>());
    }
}
