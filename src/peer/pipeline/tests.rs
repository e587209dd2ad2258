use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use proptest::prelude::{Strategy, prop_oneof};
use proptest::{collection, proptest};

use super::{Again, Delivered, Interest, Pipeline, Work};
use crate::metainfo::{BLOCK_LEN, Block, Content, Creation, Layout};
use crate::peer::{Activity, BufferPool, PeerKey, PieceInFlight};

/// Blocks of the pieces in these tests: several windows, one, and two of which the last is short.
const PIECES: usize = 3;
const PEERS: usize = 4;

#[derive(Clone, Debug)]
enum Step {
    Give(usize, usize),
    GiveAgain(usize, usize),
    Refill(usize),
    Arrive(usize, usize),
    ArriveLate(usize, usize),
    Cancel(usize, usize),
    Reject(usize, usize),
    Choke(usize, bool),
    Unchoke(usize),
    Snub(usize),
    Lose(usize, usize),
    Rest(usize),
    End(usize),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (peer, piece, nth) = (0..PEERS, 0..PIECES, 0..64usize);
    let step = prop_oneof![
        3 => (peer.clone(), piece.clone()).prop_map(|(peer, piece)| Step::Give(peer, piece)),
        2 => (peer.clone(), piece.clone()).prop_map(|(peer, piece)| Step::GiveAgain(peer, piece)),
        1 => (peer.clone(), piece).prop_map(|(peer, piece)| Step::Lose(peer, piece)),
        1 => peer.clone().prop_map(Step::Rest),
        4 => peer.clone().prop_map(Step::Refill),
        8 => (peer.clone(), nth.clone()).prop_map(|(peer, nth)| Step::Arrive(peer, nth)),
        1 => (peer.clone(), nth.clone()).prop_map(|(peer, nth)| Step::ArriveLate(peer, nth)),
        1 => (peer.clone(), nth.clone()).prop_map(|(peer, nth)| Step::Cancel(peer, nth)),
        1 => (peer.clone(), nth).prop_map(|(peer, nth)| Step::Reject(peer, nth)),
        1 => (peer.clone(), proptest::bool::ANY).prop_map(|(peer, fast)| Step::Choke(peer, fast)),
        2 => peer.clone().prop_map(Step::Unchoke),
        1 => peer.clone().prop_map(Step::Snub),
        1 => peer.prop_map(Step::End),
        2 => (1..4000u64).prop_map(Step::Wait),
    ];
    collection::vec(step, 0..200)
}

struct Peer {
    pipeline: Pipeline,
    give: Sender<Work>,
    work: Receiver<Work>,
}

/// Some peers, the pieces that they share, and what must be true of both.
struct Swarm {
    now: Instant,
    next: u32,
    peers: Vec<Peer>,
    pieces: Vec<Arc<PieceInFlight>>,
    pool: Arc<BufferPool>,
    /// Who sent each block first.
    first: HashMap<Block, PeerKey>,
    complete: HashSet<u32>,
}

impl Swarm {
    fn new() -> Self {
        let layout = layout();
        let pieces =
            layout.pieces().map(|piece| Arc::new(PieceInFlight::new(&layout, piece, false, &Arc::default()))).collect();
        let mut swarm = Self {
            now: Instant::now(),
            next: 0,
            peers: Vec::new(),
            pieces,
            pool: BufferPool::new(),
            first: HashMap::new(),
            complete: HashSet::new(),
        };
        (0..PEERS).for_each(|_| swarm.join());
        swarm
    }

    fn join(&mut self) {
        let (give, work) = bounded(64);
        let mut pipeline = Pipeline::new(PeerKey(self.next), self.now);
        pipeline.unchoke(self.now);
        self.next += 1;
        self.peers.push(Peer { pipeline, give, work });
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Give(peer, piece) => self.give(peer, piece, None),
            Step::GiveAgain(peer, piece) => {
                self.give(peer, piece, Some(Again { patience: Duration::from_millis(100), most: 5 }));
            }
            Step::Refill(peer) => self.refill(peer),
            Step::Arrive(peer, nth) => {
                if let Some(block) = self.outstanding(peer, nth) {
                    self.arrive(peer, block);
                }
            }
            Step::ArriveLate(peer, nth) => {
                let late = &self.peers[peer].pipeline.late;
                if let Some(block) = (!late.is_empty()).then(|| late[nth % late.len()].block) {
                    self.arrive(peer, block);
                }
            }
            Step::Cancel(peer, nth) => {
                if let Some(block) = self.outstanding(peer, nth) {
                    assert!(self.peers[peer].pipeline.cancel(block));
                }
            }
            Step::Reject(peer, nth) => {
                if let Some(block) = self.outstanding(peer, nth) {
                    assert!(self.peers[peer].pipeline.reject(block, self.now).is_some());
                }
            }
            Step::Choke(peer, fast) => self.peers[peer].pipeline.choke(fast, self.now),
            Step::Unchoke(peer) => self.peers[peer].pipeline.unchoke(self.now),
            Step::Snub(peer) => self.peers[peer].pipeline.snub(self.now),
            Step::Lose(peer, piece) => {
                self.peers[peer].pipeline.lost(self.pieces[piece].index(), self.now);
                let left = &self.peers[peer].pipeline.outstanding;
                assert!(left.iter().all(|asked| asked.piece.index() != self.pieces[piece].index()));
            }
            Step::Rest(peer) => self.peers[peer].pipeline.rest(self.now),
            Step::End(peer) => self.end(peer),
            Step::Wait(millis) => self.now += Duration::from_millis(millis),
        }
    }

    fn give(&mut self, peer: usize, piece: usize, again: Option<Again>) {
        self.peers[peer].give.try_send(Work { piece: Arc::clone(&self.pieces[piece]), again }).ok();
    }

    fn refill(&mut self, peer: usize) {
        let Peer { pipeline, work, .. } = &mut self.peers[peer];
        let before = pipeline.outstanding();
        let requests = pipeline.refill(work, self.now).requests;
        assert_eq!(pipeline.outstanding(), before + requests.len());
        if !requests.is_empty() {
            assert!(pipeline.outstanding() <= pipeline.window.size() as usize, "more than the window holds");
        }
    }

    fn outstanding(&self, peer: usize, nth: usize) -> Option<Block> {
        let outstanding = &self.peers[peer].pipeline.outstanding;
        (!outstanding.is_empty()).then(|| outstanding[nth % outstanding.len()].block)
    }

    fn arrive(&mut self, peer: usize, block: Block) {
        let key = self.peers[peer].pipeline.key;
        let mut buffer = self.pool.take(block.len);
        buffer.as_mut().fill(key.0 as u8);
        let delivered = self.peers[peer].pipeline.arrived(block, buffer, self.now).expect("it was asked for");
        let others = match delivered {
            Delivered::Late => {
                assert!(self.first.contains_key(&block), "the first copy was refused");
                return;
            }
            Delivered::Kept(others) => others,
            Delivered::Complete(piece, others) => {
                assert!(self.complete.insert(piece.index().get()), "complete twice");
                others
            }
        };
        assert!(self.first.insert(block, key).is_none(), "a second copy was kept");
        // As the reader does: the others need not send it any more.
        for other in &mut self.peers {
            assert_eq!(others.contains(&other.pipeline.key), other.pipeline.position(block).is_some());
            other.pipeline.cancel(block);
        }
    }

    fn end(&mut self, peer: usize) {
        self.peers[peer].pipeline.end(self.now);
        // The writer may look once more, with work that nobody took.
        self.refill(peer);
        assert_eq!(self.peers[peer].pipeline.outstanding(), 0);
        self.peers.remove(peer);
        self.join();
    }

    fn check(&self) {
        for piece in &self.pieces {
            let mut free = 0;
            for (number, (arrived, mut claims)) in (0..).zip(piece.look()) {
                let is_it = |block: Block| block.piece == piece.index() && block.number() == number;
                let asked = |peer: &&Peer| peer.pipeline.outstanding.iter().any(|asked| is_it(asked.block));
                let mut askers: Vec<PeerKey> = self.peers.iter().filter(asked).map(|peer| peer.pipeline.key).collect();
                if arrived {
                    assert!(claims.is_empty() && askers.is_empty());
                    continue;
                }
                claims.sort_unstable();
                askers.sort_unstable();
                assert_eq!(claims, askers, "claims and requests differ");
                free += u32::from(claims.is_empty());
            }
            assert_eq!(piece.unclaimed(), free, "the counter is wrong");
        }
    }
}

fn layout() -> Arc<Layout> {
    let block = u64::from(BLOCK_LEN);
    let creation = Creation::new("x", Content::File { len: block * 80 + block + 7, executable: false }, BLOCK_LEN * 40);
    let layout = Arc::clone(creation.prepare().unwrap().layout());
    assert_eq!(layout.piece_count() as usize, PIECES);
    layout
}

proptest! {
    #[test]
    fn whatever_peers_do_no_block_is_lost_or_kept_twice(steps in steps()) {
        let mut swarm = Swarm::new();
        for step in &steps {
            swarm.step(step);
            swarm.check();
        }
        // All go but one that behaves: it can complete everything.
        (0..PEERS).for_each(|_| swarm.end(0));
        swarm.check();
        for piece in 0..PIECES {
            swarm.give(0, piece, None);
        }
        loop {
            swarm.refill(0);
            let Some(block) = swarm.outstanding(0, 0) else { break };
            swarm.arrive(0, block);
        }
        assert_eq!(swarm.complete.len(), PIECES);
        for piece in &swarm.pieces {
            let contents = piece.take().expect("it is complete");
            for (number, (sender, bytes)) in (0..).zip(contents.senders.into_iter().zip(contents.blocks)) {
                let block = swarm.first.iter().find(|(block, _)| block.piece == piece.index() && block.number() == number);
                assert_eq!(block.map(|(_, first)| *first), Some(sender));
                assert!(bytes.as_ref().iter().all(|&byte| byte == sender.0 as u8));
            }
        }
    }
}

#[test]
fn a_peer_that_is_gone_claims_nothing_from_what_still_waits_for_it() {
    let mut swarm = Swarm::new();
    swarm.give(0, 0, None);
    swarm.peers[0].pipeline.end(swarm.now);
    swarm.refill(0);
    assert_eq!(swarm.pieces[0].unclaimed(), 40);
}

#[test]
fn hunger_is_said_once_until_there_is_work() {
    let mut swarm = Swarm::new();
    let Peer { pipeline, work, .. } = &mut swarm.peers[0];
    assert!(pipeline.refill(work, swarm.now).hungry_for.is_some());
    assert!(pipeline.refill(work, swarm.now).hungry_for.is_none());
    // A piece with nothing to claim is work as well: the owner may know of more.
    let piece = Arc::clone(&swarm.pieces[1]);
    piece.claim(PeerKey(99), 40, None, swarm.now, &mut Vec::new());
    swarm.give(0, 1, None);
    let Peer { pipeline, work, .. } = &mut swarm.peers[0];
    let refill = pipeline.refill(work, swarm.now);
    assert!(refill.requests.is_empty() && refill.hungry_for.is_some());
}

#[test]
fn the_writer_is_woken_for_work_at_once_or_once_blocks_have_made_room() {
    let mut swarm = Swarm::new();
    let Peer { pipeline, work, .. } = &mut swarm.peers[0];
    pipeline.refill(work, swarm.now);
    assert!(!pipeline.wants_refill(), "it is hungry, and there is nothing");
    assert!(pipeline.given() && pipeline.wants_refill());
    swarm.give(0, 0, None);
    swarm.refill(0);
    let pipeline = &mut swarm.peers[0].pipeline;
    assert!(!pipeline.given() && !pipeline.wants_refill(), "the window is full");
    while !swarm.peers[0].pipeline.wants_refill() {
        let block = swarm.outstanding(0, 0).unwrap();
        swarm.arrive(0, block);
    }
    assert!(swarm.outstanding(0, 0).is_some(), "before it is empty");
}

#[test]
fn only_allowed_pieces_are_asked_of_a_peer_that_chokes() {
    let mut swarm = Swarm::new();
    swarm.peers[0].pipeline.choke(true, swarm.now);
    let allowed = swarm.pieces[2].index();
    swarm.peers[0].pipeline.allow_fast(allowed, PIECES as u32);
    (0..PIECES).for_each(|piece| swarm.give(0, piece, None));
    let Peer { pipeline, work, .. } = &mut swarm.peers[0];
    let requests = pipeline.refill(work, swarm.now).requests;
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|block| block.piece == allowed));
}

#[test]
fn a_peer_is_overdue_after_its_patience_and_in_time_after_a_block() {
    let mut swarm = Swarm::new();
    swarm.give(0, 0, None);
    swarm.refill(0);
    let start = swarm.now;
    assert!(!swarm.peers[0].pipeline.is_overdue(start + Duration::from_secs(9)));
    assert!(swarm.peers[0].pipeline.is_overdue(start + Duration::from_secs(11)));
    swarm.now += Duration::from_secs(9);
    let block = swarm.outstanding(0, 0).unwrap();
    swarm.arrive(0, block);
    assert!(!swarm.peers[0].pipeline.is_overdue(start + Duration::from_secs(11)));
}

#[test]
fn the_account_says_what_the_connection_waited_for() {
    let mut swarm = Swarm::new();
    let start = swarm.now;
    let at = |seconds| start + Duration::from_secs(seconds);
    let peer = &mut swarm.peers[0];
    let (pipeline, work) = (&mut peer.pipeline, peer.work.clone());
    pipeline.choke(true, start);
    pipeline.set_interest(Interest::Wanted, at(1));
    pipeline.unchoke(at(3));
    pipeline.refill(&work, at(4));
    pipeline.starve(Activity::Memory, at(5));
    swarm.give(0, 1, None);
    let pipeline = &mut swarm.peers[0].pipeline;
    pipeline.refill(&work, at(9));
    pipeline.hold(Activity::Limit, at(14));
    pipeline.go_on(at(20));
    pipeline.set_interest(Interest::Complete, at(27));
    pipeline.end(at(35));
    let times = pipeline.account().times(at(99));
    let seconds = |activity| times.of(activity).as_secs();
    assert_eq!((seconds(Activity::NothingWanted), seconds(Activity::Unchoke), seconds(Activity::Work)), (1, 2, 2));
    assert_eq!((seconds(Activity::Memory), seconds(Activity::Blocks), seconds(Activity::Limit)), (4, 12, 6));
    assert_eq!((seconds(Activity::Seeding), times.total().as_secs()), (8, 35));
}

#[test]
fn a_peer_that_is_snubbed_stalls_from_its_next_request_to_its_next_block() {
    let mut swarm = Swarm::new();
    let start = swarm.now;
    swarm.peers[0].pipeline.set_interest(Interest::Wanted, start);
    swarm.give(0, 0, None);
    swarm.refill(0);
    swarm.now += Duration::from_secs(11);
    let now = swarm.now;
    swarm.peers[0].pipeline.snub(now);
    swarm.give(0, 0, None);
    swarm.refill(0);
    assert_eq!(swarm.peers[0].pipeline.account().current(), Activity::Stalled);
    swarm.now += Duration::from_secs(3);
    let block = swarm.outstanding(0, 0).unwrap();
    swarm.arrive(0, block);
    swarm.refill(0);
    let account = swarm.peers[0].pipeline.account();
    assert_eq!(account.times(swarm.now).of(Activity::Stalled), Duration::from_secs(3));
    assert_ne!(account.current(), Activity::Stalled);
}
