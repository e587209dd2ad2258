//! Connections on a fake clock: what they say, and what becomes of the bytes whatever the path does.

use std::io::ErrorKind;
use std::time::Duration;

use self::pair::{CLEAN, Pair, Path, bytes, ms};
use super::connection::PAYLOAD;
use super::ends::Status;
use crate::wire::utp::{HEADER_LEN, Header, Kind, Packet, SelectiveAck};

mod pair;
mod port;
mod sockets;

/// A packet that ends the connection of whoever has sent a packet with this number.
fn reset(ack_nr: u16) -> [u8; HEADER_LEN] {
    let (connection_id, timestamp, difference, window, seq_nr) = (101, 1, 0, 0, 7);
    Header { kind: Kind::Reset, connection_id, timestamp, difference, window, seq_nr, ack_nr }.encode()
}

#[test]
fn numbers_and_ids_are_those_that_others_use() {
    let mut pair = Pair::new(CLEAN, 1);
    pair.write(0, b"one");
    pair.run("the caller is heard", |pair| pair.sides[1].read == b"one");
    pair.transmit();
    pair.write(1, b"two");
    pair.run_for(ms(200));
    assert_eq!(pair.sides[0].read, b"two");
    let said = |side: usize| {
        let headers = pair.sides[side].sent.iter();
        headers.map(|header| (header.kind, header.connection_id, header.seq_nr, header.ack_nr)).collect::<Vec<_>>()
    };
    // What opens the connection has a number of its own, what answers it has that of the first bytes to come.
    assert_eq!(
        said(0),
        [(Kind::Syn, 100, 65_530, 0), (Kind::Data, 101, 65_531, 64_999), (Kind::State, 101, 65_532, 65_000)]
    );
    assert_eq!(
        said(1),
        [(Kind::State, 100, 65_000, 65_530), (Kind::State, 100, 65_000, 65_531), (Kind::Data, 100, 65_000, 65_531)]
    );
}

#[test]
fn bytes_go_both_ways_and_both_ends_close() {
    let mut pair = Pair::connected(CLEAN, 2);
    let (there, back) = (bytes(300_000, 1), bytes(200_000, 2));
    pair.write(0, &there);
    pair.write(1, &back);
    pair.close(0);
    pair.run("what was written before the end", |pair| pair.sides[1].read == there);
    pair.run("the end", |pair| pair.sides[1].ends.status == Status::Finished);
    pair.close(1);
    pair.run("both are over", |pair| pair.is_over(0) && pair.is_over(1));
    assert!(pair.sides.iter().all(|side| side.sent.iter().all(|header| header.kind != Kind::Reset)));
    assert_eq!(pair.sides[1].ends.status, Status::Finished);
}

#[test]
fn whatever_the_path_does_the_bytes_are_right() {
    let paths = [
        Path { lost: 10, ..CLEAN },
        Path { doubled: 30, ..CLEAN },
        Path { late: 30, ..CLEAN },
        Path { lost: 5, doubled: 10, late: 10, ..CLEAN },
        Path { rate: 1e6, queue: 20_000.0, ..CLEAN },
        Path { lost: 30, late: 30, delay: ms(1), ..CLEAN },
    ];
    for (number, path) in paths.into_iter().enumerate() {
        for seed in 0..10 {
            let mut pair = Pair::connected(Path { lost: 0, ..path }, seed);
            pair.path = path;
            let (there, back) = (bytes(200_000, seed), bytes(50_000, seed + 1));
            pair.write(0, &there);
            pair.write(1, &back);
            pair.run(&format!("path {number}, seed {seed}"), |pair| {
                pair.sides[1].read.len() >= there.len() && pair.sides[0].read.len() >= back.len()
            });
            assert!(pair.sides[1].read == there && pair.sides[0].read == back, "path {number}, seed {seed}");
            pair.close(0);
            pair.close(1);
            pair.run("both are over", |pair| pair.is_over(0) && pair.is_over(1));
        }
    }
}

#[test]
fn a_path_is_filled_and_its_queue_is_not() {
    // 4 MB/s, 50 ms there and back, and room for a whole second in front of it.
    let mut pair = Pair::connected(Path { delay: ms(25), rate: 4e6, queue: 4e6, ..CLEAN }, 3);
    let there = bytes(40_000_000, 3);
    let start = pair.now;
    pair.write(0, &there);
    pair.run("all of it", |pair| pair.sides[1].read.len() == there.len());
    let took = pair.now - start;
    assert!(took < ms(11_500), "10 s would do: {took:?}");
    assert!(pair.longest_wait < ms(200), "{:?}", pair.longest_wait);
}

#[test]
fn who_does_not_read_is_not_sent_more_than_he_has_room_for_and_is_sent_the_rest_when_he_reads() {
    let mut pair = Pair::connected(CLEAN, 4);
    pair.sides[1].reads = false;
    let there = bytes(3 << 20, 4);
    pair.write(0, &there);
    pair.run_for(Duration::from_secs(20));
    let held = pair.sides[1].ends.incoming.len();
    assert!(held <= 1 << 20 && held + PAYLOAD > 1 << 20, "{held}");
    assert_eq!(pair.sides[0].ends.status, Status::Open, "a full house is no silence");
    pair.read_again(1);
    pair.run("the rest", |pair| pair.sides[1].read.len() == there.len());
    assert!(pair.sides[1].read == there);
}

#[test]
fn room_that_was_told_of_in_vain_is_found_by_trying() {
    let mut pair = Pair::connected(CLEAN, 5);
    pair.sides[1].reads = false;
    let there = bytes(2 << 20, 5);
    pair.write(0, &there);
    pair.run_for(Duration::from_secs(20));
    // What would tell of the room is lost.
    pair.path.lost = 100;
    pair.read_again(1);
    pair.run_for(ms(1));
    pair.path.lost = 0;
    pair.run("the rest", |pair| pair.sides[1].read.len() == there.len());
}

#[test]
fn whoever_keeps_much_that_is_early_does_not_answer_answers() {
    let mut pair = Pair::connected(CLEAN, 12);
    let data = |number: u16| {
        let header = Header {
            kind: Kind::Data,
            connection_id: 101,
            timestamp: 1,
            difference: 1,
            window: 1 << 20,
            seq_nr: 65_532_u16.wrapping_add(number),
            ack_nr: 64_999,
        };
        let mut out = Vec::new();
        Packet { header, selective: SelectiveAck::default(), payload: &[0; 1200] }.encode_into(&mut out);
        out
    };
    // All but the first.
    for number in 1..500 {
        pair.arrive(1, &data(number));
    }
    pair.transmit();
    let before = pair.sides[1].sent.len();
    let state = Header { kind: Kind::State, ..Header::decode(&data(0)).unwrap() };
    for _ in 0..10 {
        pair.arrive(1, &state.encode());
        pair.transmit();
    }
    assert_eq!(pair.sides[1].sent.len(), before);
    pair.arrive(1, &data(0));
    assert_eq!(pair.sides[1].read.len(), 500 * 1200);
}

#[test]
fn what_is_sent_when_there_is_room_again_is_not_late_at_once() {
    let mut pair = Pair::connected(CLEAN, 13);
    pair.sides[1].reads = false;
    pair.write(0, &bytes(2 << 20, 13));
    pair.run_for(Duration::from_secs(20));
    pair.read_again(1);
    let before = pair.sides[0].sent.len();
    pair.run("the rest", |pair| pair.sides[1].read.len() == 2 << 20);
    let again = pair.sides[0].sent[before..].iter().map(|header| header.seq_nr).collect::<Vec<_>>();
    let distinct: std::collections::BTreeSet<_> = again.iter().collect();
    assert!(again.len() - distinct.len() <= 1, "{} of {}", again.len() - distinct.len(), again.len());
}

#[test]
fn nothing_can_be_written_where_it_would_never_be_sent() {
    let mut pair = Pair::connected(CLEAN, 14);
    pair.write(1, b"bye");
    pair.close(1);
    pair.run("the end", |pair| pair.sides[0].ends.status == Status::Finished);
    assert!(!pair.sides[0].ends.is_gone, "it may still be answered");
    pair.arrive(0, &reset(65_531));
    assert!(pair.sides[0].ends.is_gone);
    assert_eq!(pair.sides[0].ends.status, Status::Finished, "what came before can be read");
}

#[test]
fn a_peer_that_is_gone_is_given_up_after_a_while() {
    let mut pair = Pair::connected(CLEAN, 6);
    pair.path.lost = 100;
    pair.write(0, b"anybody?");
    let start = pair.now;
    pair.run("it is given up", |pair| pair.sides[0].ends.status == Status::Broken(ErrorKind::TimedOut));
    let took = pair.now - start;
    assert!((ms(20_000)..ms(90_000)).contains(&took), "{took:?}");
    // Whoever has closed his end does not wait so long.
    let mut pair = Pair::connected(CLEAN, 6);
    pair.path.lost = 100;
    pair.write(0, b"anybody?");
    pair.close(0);
    let start = pair.now;
    pair.run("it is given up", |pair| pair.sides[0].ends.status == Status::Broken(ErrorKind::TimedOut));
    assert!(pair.now - start < ms(10_000), "{:?}", pair.now - start);
}

#[test]
fn a_call_that_nobody_answers_is_made_once_and_waits_for_its_caller() {
    let mut pair = Pair::new(Path { lost: 100, ..CLEAN }, 7);
    pair.run_for(Duration::from_secs(60));
    assert_eq!(pair.sides[0].sent.len(), 1);
    assert_eq!(pair.sides[0].ends.status, Status::Opening);
    pair.close(0);
    pair.transmit();
    assert!(pair.is_over(0));
}

#[test]
fn a_caller_that_never_says_anything_is_given_up() {
    let mut pair = Pair::new(CLEAN, 8);
    pair.run("the call is answered", |pair| pair.sides[0].ends.status == Status::Open);
    assert!(!pair.sides[1].connection.as_ref().unwrap().is_open());
    pair.run_for(Duration::from_secs(15));
    assert!(pair.is_over(1));
}

#[test]
fn a_caller_that_has_not_seen_the_answer_is_no_caller() {
    let mut pair = Pair::new(CLEAN, 9);
    pair.run("the call is answered", |pair| pair.sides[0].ends.status == Status::Open);
    let guess = Header {
        kind: Kind::Data,
        connection_id: 101,
        timestamp: 1,
        difference: 0,
        window: 1000,
        seq_nr: 65_531,
        ack_nr: 64_998,
    };
    let arrive = |pair: &mut Pair, header| {
        let mut out = Vec::new();
        Packet { header, selective: SelectiveAck::default(), payload: b"x" }.encode_into(&mut out);
        pair.arrive(1, &out);
        pair.sides[1].connection.as_ref().unwrap().is_open()
    };
    assert!(!arrive(&mut pair, guess));
    assert!(arrive(&mut pair, Header { ack_nr: 64_999, ..guess }));
}

#[test]
fn a_reset_ends_it_if_it_answers_something_that_was_sent() {
    let after = |ack_nr| {
        let mut pair = Pair::connected(CLEAN, 10);
        pair.arrive(0, &reset(ack_nr));
        pair.sides[0].ends.status
    };
    let broken = Status::Broken(ErrorKind::ConnectionReset);
    assert_eq!(
        [65_531, 65_530, 65_532, 65_534, 40_000, 100].map(after),
        [broken, broken, broken, Status::Open, Status::Open, Status::Open]
    );
    let mut pair = Pair::new(Path { lost: 100, ..CLEAN }, 10);
    pair.transmit();
    let syn = pair.sides[0].sent[0];
    pair.arrive(0, &Header { kind: Kind::Reset, ack_nr: syn.seq_nr, ..syn }.encode());
    assert_eq!(pair.sides[0].ends.status, Status::Broken(ErrorKind::ConnectionRefused));
}

#[test]
fn gateways_on_the_way_are_reminded_of_a_quiet_connection() {
    let mut pair = Pair::connected(CLEAN, 11);
    pair.run_for(Duration::from_secs(5));
    let before = [0, 1].map(|side| pair.sides[side].sent.len());
    pair.run_for(Duration::from_secs(290));
    for (side, before) in before.into_iter().enumerate() {
        assert!((9..=11).contains(&(pair.sides[side].sent.len() - before)));
        assert_eq!(pair.sides[side].ends.status, Status::Open);
    }
}

#[test]
fn no_packet_whatever_it_says_does_harm() {
    for seed in 0..200 {
        let mut pair = Pair::connected(CLEAN, seed);
        let mut random = fastrand::Rng::with_seed(seed);
        pair.write(0, &bytes(20_000, seed));
        pair.transmit();
        for _ in 0..200 {
            let near = |random: &mut fastrand::Rng, number: u16| match random.bool() {
                true => number.wrapping_add(random.u16(..40)).wrapping_sub(20),
                false => random.u16(..),
            };
            let header = Header {
                kind: [Kind::Data, Kind::Fin, Kind::State, Kind::State, Kind::Syn][random.usize(..5)],
                connection_id: 100,
                timestamp: random.u32(..),
                difference: random.u32(..),
                window: [0, random.u32(..), 1000][random.usize(..3)],
                seq_nr: near(&mut random, 65_001),
                ack_nr: near(&mut random, 65_535),
            };
            let (bits, payload) = (bytes(random.usize(..256), seed), bytes(random.usize(..1500), seed));
            let mut out = Vec::new();
            Packet { header, selective: SelectiveAck::new(&bits), payload: &payload }.encode_into(&mut out);
            pair.arrive(0, &out);
            pair.sides[0].ends.incoming.clear();
            pair.transmit();
            let wait = ms(random.u64(..200));
            pair.run_for(wait);
        }
    }
}
