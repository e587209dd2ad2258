//! Bytes to types and back: the messages of a download, bencode, and the .torrent of a large folder.
//!
//! `cargo bench --bench decode`

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ropewalk::Metainfo;
use ropewalk::bencode;
use ropewalk::metainfo::{BLOCK_LEN, Content, Creation, NewFile};
use ropewalk::wire::message::{Header, Limits, Message, PIECE_HEADER_LEN, peek};

/// A torrent of so many files and pieces.
const FILES: u64 = 10_000;
const PIECES: u32 = 100_000;
const PIECE_LENGTH: u32 = 256 * 1024;

criterion_group!(benches, messages, metainfo);
criterion_main!(benches);

fn messages(criterion: &mut Criterion) {
    let limits = Limits::for_pieces(PIECES);
    let payload = vec![0x5a; BLOCK_LEN as usize];
    let blocks: Vec<_> =
        (0..64).map(|at| Message::Piece { index: 7, begin: at % 16 * BLOCK_LEN, data: &payload }).collect();
    let small: Vec<_> = (0..1024)
        .map(|index| match index % 4 {
            0 => Message::Have(index),
            1 => Message::Cancel { index, begin: 0, len: BLOCK_LEN },
            _ => Message::Request { index, begin: BLOCK_LEN, len: BLOCK_LEN },
        })
        .collect();

    for (name, messages) in [("blocks", blocks), ("small", small)] {
        let mut stream = Vec::new();
        messages.iter().for_each(|message| message.encode_into(&mut stream));
        let mut group = criterion.benchmark_group("messages");
        group.throughput(Throughput::Bytes(stream.len() as u64));
        group.bench_function(format!("peek_{name}"), |bencher| {
            bencher.iter(|| each(black_box(&stream), &limits, |_| ()));
        });
        group.bench_function(format!("decode_{name}"), |bencher| {
            bencher.iter(|| {
                each(black_box(&stream), &limits, |body| {
                    black_box(Message::decode(body).expect("what was encoded"));
                });
            });
        });
        let mut out = Vec::with_capacity(stream.len());
        group.bench_function(format!("encode_{name}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                black_box(&messages).iter().for_each(|message| message.encode_into(&mut out));
                out.len()
            });
        });
        group.finish();
    }
}

fn metainfo(criterion: &mut Criterion) {
    let file = |number| NewFile {
        path: format!("folder {}/file {number}.bin", number % 100).into(),
        len: u64::from(PIECES) * u64::from(PIECE_LENGTH) / FILES,
        executable: false,
    };
    let creation = Creation::new("large", Content::Folder((0..FILES).map(file).collect()), PIECE_LENGTH);
    let prepared = creation.prepare().expect("names and lengths are fine");
    let bytes = prepared.finish(&[0x5a; PIECES as usize * 20]).expect("20 bytes for each piece");
    // The same with a key out of order, which takes the second scan.
    let unsorted = [b"d1:z0:".as_slice(), &bytes[1..]].concat();

    let mut group = criterion.benchmark_group("large_torrent");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    for (name, bytes) in [("", &bytes), ("_unsorted", &unsorted)] {
        group.bench_function(format!("bencode{name}"), |bencher| {
            bencher.iter(|| black_box(bencode::decode(black_box(bytes)).expect("bencode")));
        });
        group.bench_function(format!("metainfo{name}"), |bencher| {
            bencher.iter(|| Metainfo::from_bytes(black_box(bytes)).expect("a torrent"));
        });
    }
    group.finish();
}

/// Gives the body of every message of a stream, as a peer's reader meets them.
fn each(mut stream: &[u8], limits: &Limits, mut body: impl FnMut(&[u8])) {
    while !stream.is_empty() {
        let len = match peek(stream, limits).expect("what was encoded") {
            Header::NeedMore => unreachable!("whole messages"),
            Header::KeepAlive => 4,
            Header::Message { len } => 4 + len,
            Header::Piece { len, .. } => PIECE_HEADER_LEN + len as usize,
        };
        body(&stream[4..len]);
        stream = &stream[len..];
    }
}
