//! Everything that a peer who is called can do wrong.

use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;

use ropewalk::wire::handshake::Reserved;
use ropewalk::wire::message::Message;

use crate::support::payload::Payload;
use crate::support::scripted::{RESERVED, Server, Wire, random_id};

/// What a misbehaving peer does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Vice {
    HangsUp,
    GreetsWithGarbage,
    GreetsForAnotherTorrent,
    NeverGreets,
    GreetsHalf,
    ClaimsToBeUs,
    SendsAnEndlessMessage,
    HasAPieceThatDoesNotExist,
    SetsSpareBits,
    SendsAShortBitfield,
    SendsTwoBitfields,
    SpeaksFastUnasked,
    SendsBrokenExtensions,
    SendsUnaskedBlocks,
    SendsTooMuchOfABlock,
    SendsHugeBlocks,
    SendsBlocksOutside,
    SendsEmptyBlocks,
    SendsShiftedBlocks,
    AsksOutside,
    AsksForTooMuch,
    FloodsRequests,
    FloodsChokes,
    FloodsInterest,
    FloodsHaves,
    FloodsKeepAlives,
    NeverReads,
    DiesMidBlock,
    DiesAfterAFewBlocks,
    ChokesForever,
    Stalls,
    StallsAfterAFewBlocks,
    Trickles,
    RejectsEverything,
    SendsWrongBytes,
    SendsSomeWrongBytes,
    ChokesMidPiece,
    AllowsFastAndStalls,
}

impl Vice {
    pub(crate) const ALL: [Self; 38] = [
        Self::HangsUp,
        Self::GreetsWithGarbage,
        Self::GreetsForAnotherTorrent,
        Self::NeverGreets,
        Self::GreetsHalf,
        Self::ClaimsToBeUs,
        Self::SendsAnEndlessMessage,
        Self::HasAPieceThatDoesNotExist,
        Self::SetsSpareBits,
        Self::SendsAShortBitfield,
        Self::SendsTwoBitfields,
        Self::SpeaksFastUnasked,
        Self::SendsBrokenExtensions,
        Self::SendsUnaskedBlocks,
        Self::SendsTooMuchOfABlock,
        Self::SendsHugeBlocks,
        Self::SendsBlocksOutside,
        Self::SendsEmptyBlocks,
        Self::SendsShiftedBlocks,
        Self::AsksOutside,
        Self::AsksForTooMuch,
        Self::FloodsRequests,
        Self::FloodsChokes,
        Self::FloodsInterest,
        Self::FloodsHaves,
        Self::FloodsKeepAlives,
        Self::NeverReads,
        Self::DiesMidBlock,
        Self::DiesAfterAFewBlocks,
        Self::ChokesForever,
        Self::Stalls,
        Self::StallsAfterAFewBlocks,
        Self::Trickles,
        Self::RejectsEverything,
        Self::SendsWrongBytes,
        Self::SendsSomeWrongBytes,
        Self::ChokesMidPiece,
        Self::AllowsFastAndStalls,
    ];

    /// A peer that does this to each caller.
    pub(crate) fn serve(self, ip: Ipv4Addr, payload: &Arc<Payload>) -> Server {
        let payload = Arc::clone(payload);
        Server::start(ip, move |stream| self.play(stream, &payload))
    }

    fn play(self, mut stream: TcpStream, payload: &Payload) -> io::Result<()> {
        let info_hash = payload.metainfo.info_hash();
        let pieces = payload.pieces();
        match self {
            Self::HangsUp => return Ok(()),
            Self::GreetsWithGarbage => {
                stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")?;
                return drain(&mut stream);
            }
            Self::NeverGreets => return drain(&mut stream),
            Self::GreetsHalf => {
                stream.write_all(b"\x13BitTorrent pro")?;
                return drain(&mut stream);
            }
            Self::GreetsForAnotherTorrent => {
                let other = Payload::file("another", 10, 16384);
                let mut wire = Wire::answer(stream, other.metainfo.info_hash(), RESERVED, random_id())?;
                return drain(&mut wire.stream);
            }
            Self::ClaimsToBeUs => {
                use io::Read;
                let mut theirs = [0; 68];
                stream.read_exact(&mut theirs)?;
                stream.write_all(&theirs)?;
                return drain(&mut stream);
            }
            _ => {}
        }
        let reserved = if self == Self::SpeaksFastUnasked { Reserved::NONE } else { RESERVED };
        let mut wire = Wire::answer(stream, info_hash, reserved, random_id())?;
        let mut bits = vec![0xff; pieces.div_ceil(8) as usize];
        if !pieces.is_multiple_of(8) {
            *bits.last_mut().unwrap() <<= 8 - pieces % 8;
        }
        match self {
            Self::SendsAnEndlessMessage => wire.stream.write_all(&[0xff; 64])?,
            Self::SetsSpareBits => {
                assert!(!pieces.is_multiple_of(8), "there must be spare bits");
                wire.send(&Message::Bitfield(&vec![0xff; bits.len()]))?;
            }
            Self::SendsAShortBitfield => wire.send(&Message::Bitfield(&bits[1..]))?,
            Self::SendsTwoBitfields => {
                wire.send(&Message::Bitfield(&bits))?;
                wire.send(&Message::Bitfield(&bits))?;
            }
            Self::FloodsHaves => {
                wire.send(&Message::HaveNone)?;
                for round in 0..50 {
                    let mut out = Vec::new();
                    (0..pieces).for_each(|piece| Message::Have(piece).encode_into(&mut out));
                    wire.stream.write_all(&out)?;
                    if round == 0 {
                        wire.send(&Message::Choke)?;
                    }
                }
            }
            _ => wire.send(&Message::HaveAll)?,
        }
        match self {
            Self::HasAPieceThatDoesNotExist => wire.send(&Message::Have(pieces))?,
            Self::SendsBrokenExtensions => wire.send(&Message::Extended { id: 0, payload: b"d1:md" })?,
            Self::SendsUnaskedBlocks => {
                for index in (0..pieces).cycle().take(10_000) {
                    let data = payload.block(index, 0, 1).map_or(&[][..], |_| block_at(payload, index, 0));
                    wire.send(&Message::Piece { index, begin: 0, data })?;
                }
            }
            Self::SendsHugeBlocks => {
                wire.send(&Message::Piece { index: 0, begin: 0, data: &vec![0; 200 << 10] })?;
            }
            Self::SendsBlocksOutside => wire.send(&Message::Piece { index: pieces, begin: 0, data: &[1; 100] })?,
            Self::SendsEmptyBlocks => wire.send(&Message::Piece { index: 0, begin: 0, data: &[] })?,
            Self::AsksOutside => wire.send(&Message::Request { index: 0, begin: u32::MAX - 100, len: 16384 })?,
            Self::AsksForTooMuch => {
                let len = payload.metainfo.layout().piece_length().max(128 << 10) + 1;
                wire.send(&Message::Request { index: 0, begin: 0, len })?;
            }
            Self::FloodsRequests => {
                let mut out = Vec::new();
                (0..10_000).for_each(|_| Message::Request { index: 0, begin: 0, len: 16384 }.encode_into(&mut out));
                wire.stream.write_all(&out)?;
            }
            Self::FloodsChokes => {
                let mut out = Vec::new();
                for _ in 0..1000 {
                    Message::Unchoke.encode_into(&mut out);
                    Message::Choke.encode_into(&mut out);
                }
                (0..50).try_for_each(|_| wire.stream.write_all(&out))?;
            }
            Self::FloodsInterest => {
                let mut out = Vec::new();
                for _ in 0..1000 {
                    Message::Interested.encode_into(&mut out);
                    Message::NotInterested.encode_into(&mut out);
                }
                (0..50).try_for_each(|_| wire.stream.write_all(&out))?;
            }
            Self::FloodsKeepAlives => loop {
                wire.stream.write_all(&[0; 4096])?;
            },
            Self::NeverReads => {
                wire.send(&Message::Unchoke)?;
                wire.send(&Message::Interested)?;
                // Only the end of the connection ends this peek at what is never taken out.
                loop {
                    std::thread::park_timeout(std::time::Duration::from_millis(20));
                    wire.stream.set_nonblocking(true)?;
                    wire.stream.take_error()?.map_or(Ok(()), Err)?;
                    wire.stream.set_nonblocking(false)?;
                    // A keep-alive fails once the other side has closed.
                    wire.send(&Message::KeepAlive)?;
                }
            }
            Self::AllowsFastAndStalls => {
                (0..pieces.min(20)).try_for_each(|piece| wire.send(&Message::AllowedFast(piece)))?;
            }
            _ => {}
        }
        self.answer_requests(&mut wire, payload)
    }

    fn answer_requests(self, wire: &mut Wire, payload: &Payload) -> io::Result<()> {
        let mut answered = 0;
        loop {
            let body = wire.receive()?;
            let message = Message::decode(&body).map_err(io::Error::other)?;
            let (index, begin, len) = match message {
                Message::Interested if !matches!(self, Self::ChokesForever | Self::AllowsFastAndStalls) => {
                    wire.send(&Message::Unchoke)?;
                    continue;
                }
                Message::Request { index, begin, len } => (index, begin, len),
                _ => continue,
            };
            let data = payload.block(index, begin, len).expect("ropewalk asks only for what exists");
            answered += 1;
            match self {
                Self::StallsAfterAFewBlocks if answered > 5 => {}
                Self::DiesAfterAFewBlocks if answered > 5 => return Ok(()),
                Self::DiesMidBlock => {
                    let mut out = Vec::new();
                    Message::Piece { index, begin, data }.encode_into(&mut out);
                    out.truncate(out.len() / 2);
                    wire.stream.write_all(&out)?;
                    return Ok(());
                }
                Self::Trickles => {
                    let mut out = Vec::new();
                    Message::Piece { index, begin, data }.encode_into(&mut out);
                    for byte in out {
                        wire.stream.write_all(&[byte])?;
                        std::thread::park_timeout(std::time::Duration::from_millis(50));
                    }
                }
                Self::ChokesMidPiece if answered % 8 == 0 => {
                    wire.send(&Message::Choke)?;
                    wire.send(&Message::Unchoke)?;
                }
                Self::RejectsEverything => wire.send(&Message::Reject { index, begin, len })?,
                Self::SendsTooMuchOfABlock => {
                    let data = [data, &[7; 100]].concat();
                    wire.send(&Message::Piece { index, begin, data: &data })?;
                }
                Self::SendsShiftedBlocks => {
                    wire.send(&Message::Piece { index, begin: begin + 1, data: &data[1..] })?;
                }
                Self::SendsWrongBytes => wire.send(&Message::Piece { index, begin, data: &vec![0x55; data.len()] })?,
                Self::SendsSomeWrongBytes if answered % 4 == 0 => {
                    wire.send(&Message::Piece { index, begin, data: &vec![0x55; data.len()] })?;
                }
                Self::ChokesMidPiece
                | Self::SendsSomeWrongBytes
                | Self::StallsAfterAFewBlocks
                | Self::DiesAfterAFewBlocks => wire.send(&Message::Piece { index, begin, data })?,
                // Who floods gives nothing else.
                _ => {}
            }
        }
    }
}

fn block_at(payload: &Payload, index: u32, begin: u32) -> &[u8] {
    let layout = payload.metainfo.layout();
    let piece = layout.piece(index).unwrap();
    let len = (layout.piece_len(piece) - begin).min(16384);
    payload.block(index, begin, len).unwrap()
}

/// Reads until the other side ends the connection.
fn drain(stream: &mut TcpStream) -> io::Result<()> {
    io::copy(stream, &mut io::sink()).map(drop)
}
