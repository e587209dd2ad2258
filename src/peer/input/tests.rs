//! Messages and blocks from streams that give their bytes in any portions.

use std::io::{self, IoSliceMut, Read};
use std::sync::Arc;

use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};

use super::{FEWEST_FRAMES, INPUT, Input, MOST_FRAMES};
use crate::peer::BufferPool;
use crate::wire::message::{Header, Limits, Message, PIECE_HEADER_LEN, peek};

const BLOCK_LEN: u32 = 64;

/// A stream that gives at most so many bytes by each call.
struct Drip {
    bytes: Vec<u8>,
    at: usize,
    steps: Vec<usize>,
    calls: usize,
}

impl Read for Drip {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.read_vectored(&mut [IoSliceMut::new(buf)])
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let step = self.steps[self.calls % self.steps.len()];
        self.calls += 1;
        let mut rest = &self.bytes[self.at..(self.at + step).min(self.bytes.len())];
        let before = rest.len();
        for buf in bufs {
            let _ = rest.read(buf)?;
        }
        let n = before - rest.len();
        self.at += n;
        Ok(n)
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Said {
    Nothing,
    Have(u32),
    Extended(Vec<u8>),
    Piece { index: u32, begin: u32, data: Vec<u8> },
}

impl Said {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Nothing => Message::KeepAlive.encode_into(out),
            Self::Have(index) => Message::Have(*index).encode_into(out),
            Self::Extended(payload) => Message::Extended { id: 1, payload }.encode_into(out),
            Self::Piece { index, begin, data } => {
                Message::Piece { index: *index, begin: *begin, data }.encode_into(out);
            }
        }
    }
}

/// Reads all there is, as a peer's reader does, expecting so many blocks at each step; with the calls that it took.
fn read_all(bytes: Vec<u8>, steps: Vec<usize>, expect: &[usize]) -> (Vec<Said>, usize) {
    let mut input = Input::new(Drip { bytes, at: 0, steps, calls: 0 }, BufferPool::new(), BLOCK_LEN);
    let (mut said, mut expect) = (Vec::new(), expect.iter().cycle());
    loop {
        input.expect(*expect.next().expect("it goes round"));
        match peek(input.head(), &Limits::for_pieces(8)).expect("it is well formed") {
            Header::NeedMore => {
                if !input.read_more().expect("it cannot fail") {
                    return (said, input.stream.calls);
                }
            }
            Header::KeepAlive => {
                input.put_in_order();
                assert_eq!(input.take(4), [0; 4]);
                said.push(Said::Nothing);
            }
            Header::Piece { index, begin, len } => {
                let (mut buffer, mut received) = input.take_block(len);
                while received < len as usize {
                    let n = input.read_rest(&mut buffer.as_mut()[received..]).expect("it cannot fail");
                    received += n.expect("the message is whole");
                }
                said.push(Said::Piece { index, begin, data: buffer.as_ref().to_vec() });
            }
            Header::Message { len } => {
                input.put_in_order();
                assert!(input.read_until(4 + len).expect("it cannot fail"));
                match Message::decode(&input.take(4 + len)[4..]).expect("it is well formed") {
                    Message::Have(index) => said.push(Said::Have(index)),
                    Message::Extended { payload, .. } => said.push(Said::Extended(payload.to_vec())),
                    other => panic!("{other:?} was not sent"),
                }
            }
        }
    }
}

fn written(said: &[Said]) -> Vec<u8> {
    let mut bytes = Vec::new();
    said.iter().for_each(|message| message.write(&mut bytes));
    bytes
}

fn block(number: u32) -> Said {
    Said::Piece { index: number, begin: 0, data: vec![number as u8; BLOCK_LEN as usize] }
}

#[test]
fn blocks_that_are_expected_are_received_by_few_calls() {
    // Each call receives twice as many as the one before, up to the most.
    let calls = [4, 8, 16, 32, 32];
    let blocks: Vec<Said> = (0..calls.iter().sum()).map(block).collect();
    let (said, count) = read_all(written(&blocks), vec![usize::MAX / 2], &[1000]);
    assert_eq!(said, blocks);
    // The last call finds the end.
    assert_eq!(count, calls.len() + 1);
}

#[test]
fn a_slow_peer_holds_few_buffers() {
    let len = PIECE_HEADER_LEN + BLOCK_LEN as usize;
    let blocks: Vec<Said> = (0..120).map(block).collect();
    let steps = [vec![usize::MAX / 2; 4], vec![len; 60]].concat();
    let mut input = Input::new(Drip { bytes: written(&blocks), at: 0, steps, calls: 0 }, BufferPool::new(), BLOCK_LEN);
    input.expect(1000);
    let mut most = Vec::new();
    while input.read_more().expect("it cannot fail") {
        most.push(input.frames.len());
        while input.head().len() >= PIECE_HEADER_LEN {
            let (_, received) = input.take_block(BLOCK_LEN);
            assert_eq!(received, BLOCK_LEN as usize);
        }
    }
    assert_eq!(most[..4], [4, 8, 16, MOST_FRAMES]);
    assert_eq!(most[4..6], [MOST_FRAMES, FEWEST_FRAMES]);
    assert!(most[6..].iter().all(|&frames| frames == FEWEST_FRAMES), "{most:?}");
}

#[test]
fn after_anything_else_than_a_block_little_is_held() {
    // Three calls receive 28 blocks, the next one all the rest.
    let said: Vec<Said> = (0..28).map(block).chain([Said::Have(3)]).chain((0..10).map(block)).collect();
    let bytes = written(&said);
    let mut input =
        Input::new(Drip { bytes, at: 0, steps: vec![usize::MAX / 2], calls: 0 }, BufferPool::new(), BLOCK_LEN);
    input.expect(1000);
    loop {
        match peek(input.head(), &Limits::for_pieces(8)).expect("it is well formed") {
            Header::Piece { len, .. } => drop(input.take_block(len)),
            Header::Message { len } => {
                assert_eq!(input.frames.len(), MOST_FRAMES);
                input.put_in_order();
                input.take(4 + len);
            }
            _ if !input.read_more().expect("it cannot fail") => break,
            _ => {}
        }
    }
    assert_eq!((input.frames.len(), input.bytes.len()), (FEWEST_FRAMES, INPUT));
}

#[test]
fn buffers_are_held_only_for_what_is_expected() {
    let pool = BufferPool::new();
    let bytes = written(&[Said::Nothing]);
    let mut input = Input::new(Drip { bytes, at: 0, steps: vec![1], calls: 0 }, Arc::clone(&pool), BLOCK_LEN);
    input.expect(1000);
    assert!(input.read_more().expect("it cannot fail"));
    assert_eq!(input.frames.len(), FEWEST_FRAMES);
    input.expect(0);
    assert!(input.read_more().expect("it cannot fail"));
    assert_eq!(input.frames.len(), 1, "what is begun is finished");
    input.put_in_order();
    input.take(2);
    assert!(input.read_more().expect("it cannot fail"));
    input.take(1);
    assert!(input.read_more().expect("it cannot fail"));
    input.take(1);
    assert!(!input.read_more().expect("it cannot fail"));
    assert!(input.frames.is_empty());
}

proptest! {
    #[test]
    fn whatever_comes_between_blocks_and_however_it_is_cut_nothing_is_lost(
        said in proptest::collection::vec(message(), 0..60),
        steps in proptest::collection::vec(prop_oneof![1usize..400, 400usize..4000], 1..8),
        expect in proptest::collection::vec(0usize..48, 1..5),
    ) {
        let (read, _) = read_all(written(&said), steps, &expect);
        prop_assert_eq!(read, said);
    }
}

fn message() -> impl Strategy<Value = Said> {
    let piece = |data| (0u32..8, 0u32..4, data).prop_map(|(index, begin, data)| Said::Piece { index, begin, data });
    let bytes = |len| proptest::collection::vec(any::<u8>(), len);
    prop_oneof![
        6 => piece(bytes(BLOCK_LEN as usize..BLOCK_LEN as usize + 1)),
        2 => piece(bytes(1..BLOCK_LEN as usize)),
        1 => Just(Said::Nothing),
        1 => any::<u32>().prop_map(Said::Have),
        // As long as a block's message, to be taken for one if anything can.
        1 => bytes(PIECE_HEADER_LEN + BLOCK_LEN as usize - 6..PIECE_HEADER_LEN + BLOCK_LEN as usize - 5)
            .prop_map(Said::Extended),
        1 => bytes(0..2000).prop_map(Said::Extended),
    ]
}
