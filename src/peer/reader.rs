//! The reading half of a peer: bytes from the socket to blocks in their pieces and facts for the owner.
//!
//! It owns what this peer has said so far. How its bytes are received is the business of [`Input`].

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crossbeam_channel::TrySendError;

use super::clock::Activity;
use super::input::Input;
use super::pipeline::Delivered;
use super::{Buffer, Context, Fact, FullPiece, LIMIT_LOOK, Link, Outgoing, PeerError, PeerKey, Said, Traffic, Wish};
use crate::bits::Bits;
use crate::metainfo::{BLOCK_LEN, Block, PieceIndex};
use crate::net::ReadHalf;
use crate::policy::{Frequency, Verdict};
use crate::wire::extension::{self, Extension, ExtensionHandshake};
use crate::wire::message::{Header, Limits, MAX_BLOCK_LEN, Message, PIECE_HEADER_LEN, peek};
use crate::wire::metadata::{METADATA_PIECE_LEN, MetadataMessage};
use crate::wire::pex::PexMessage;

/// Blocks that nobody asked for, after which the peer is no use.
const UNASKED: u32 = 64;
/// Rejects in a row, after which the peer is no use.
const REJECTS: u32 = 256;
/// Allowed-fast pieces that are remembered of a peer (BEP 6 suggests 10).
const ALLOWED_FAST: u32 = 64;
/// How often a peer may ask for the whole metadata, and so many requests more.
const METADATA_TIMES: u32 = 3;
const METADATA_EXTRA: u32 = 64;
/// Extension handshakes that a peer may send: it may repeat them, not flood with them (BEP 10).
const EXTENSION_HANDSHAKES: u32 = 16;
/// How often, for each piece, a peer may say that it has it no more (BEP 54), and how often over all beyond that.
const LOSSES: u32 = 2;
const MORE_LOSSES: u32 = 64;
/// Ports of its DHT node that are taken from a peer.
const PORTS: u32 = 4;

/// Reads until the connection ends, first what the peer `said` already.
pub(super) fn run(link: &Link, context: &Arc<Context>, stream: ReadHalf, said: Vec<u8>) -> Result<(), PeerError> {
    let pieces = context.layout.piece_count();
    let mut reader = Reader {
        input: Input::after(said, stream, Arc::clone(&context.pool), context.layout.piece_length().min(BLOCK_LEN)),
        limits: Limits::for_pieces(pieces),
        ear: Ear {
            link,
            context,
            peer: PeerState { has: Bits::new(pieces), ..PeerState::default() },
            wishes: Vec::new(),
        },
    };
    while reader.step()?.is_continue() {}
    Ok(())
}

/// Takes messages from the socket, and blocks to their pieces.
struct Reader<'a> {
    input: Input<ReadHalf>,
    limits: Limits,
    ear: Ear<'a>,
}

/// Understands what the peer says.
struct Ear<'a> {
    link: &'a Link,
    context: &'a Arc<Context>,
    peer: PeerState,
    /// What the peer asked for, until nothing more is buffered.
    wishes: Vec<Wish>,
}

/// What the peer has said, so that only changes reach the owner.
#[derive(Default)]
struct PeerState {
    has: Bits,
    choking: Option<bool>,
    interested: bool,
    /// A `bitfield`, `have all`, `have none` or `have` has come.
    said_pieces: bool,
    allowed_fast: u32,
    extension_handshakes: u32,
    upload_only: bool,
    losses: u32,
    exchanges: Frequency,
    /// Its id for `ut_metadata`.
    metadata_id: Option<u8>,
    metadata_requests: u32,
    ports: u32,
}

impl Reader<'_> {
    fn step(&mut self) -> Result<ControlFlow<()>, PeerError> {
        match peek(self.input.head(), &self.limits)? {
            Header::NeedMore => {
                self.ear.hand_on_wishes()?;
                if !self.input.read_more()? {
                    return Ok(ControlFlow::Break(()));
                }
                self.ear.link.hear(Instant::now());
            }
            Header::KeepAlive => {
                self.input.put_in_order();
                self.input.take(4);
            }
            Header::Piece { index, begin, len } => {
                let block = self.ear.context.layout.range(index, begin, len);
                self.receive(block.ok_or(PeerError::Protocol("a block outside the torrent"))?)?;
            }
            Header::Message { len } => {
                self.input.put_in_order();
                if self.input.pending().len() < 4 + len {
                    self.ear.hand_on_wishes()?;
                }
                if !self.input.read_until(4 + len)? {
                    return Ok(ControlFlow::Break(()));
                }
                self.ear.handle(Message::decode(&self.input.take(4 + len)[4..])?)?;
                if self.ear.peer.choking == Some(true) {
                    self.input.expect(0);
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Receives a `piece` message.
    fn receive(&mut self, block: Block) -> Result<(), PeerError> {
        self.ear.hand_on_wishes()?;
        if block.len > BLOCK_LEN {
            return self.discard(block);
        }
        let (mut buffer, mut received) = self.input.take_block(block.len);
        self.ear.pay(received as u64)?;
        let bytes = buffer.as_mut();
        while received < bytes.len() {
            let n = self.input.read_rest(&mut bytes[received..])?.ok_or(PeerError::Closed)?;
            received += n;
            self.ear.pay(n as u64)?;
        }
        let expected = self.ear.arrived(block, buffer)?;
        self.input.expect(expected);
        Ok(())
    }

    /// Reads past a block that is larger than any that we ask for.
    fn discard(&mut self, block: Block) -> Result<(), PeerError> {
        self.ear.unasked(block)?;
        self.input.put_in_order();
        self.input.take(PIECE_HEADER_LEN);
        let mut left = block.len.min(MAX_BLOCK_LEN) as usize;
        while left > 0 {
            if self.input.pending().is_empty() && !self.input.read_until(1)? {
                return Err(PeerError::Closed);
            }
            let n = self.input.take(left.min(self.input.pending().len())).len();
            left -= n;
            self.ear.pay(n as u64)?;
        }
        Ok(())
    }
}

impl Ear<'_> {
    /// Puts a block into its piece and says how many more are expected.
    fn arrived(&self, block: Block, buffer: Buffer) -> Result<usize, PeerError> {
        let now = Instant::now();
        self.link.hear(now);
        self.link.processor.note(now);
        let (delivered, room, expected) = {
            let mut pipeline = self.link.pipeline.lock();
            (pipeline.arrived(block, buffer, now), pipeline.wants_refill(), pipeline.outstanding())
        };
        if room {
            self.link.kick();
        }
        match delivered {
            Some(Delivered::Kept(others)) => self.cancel(block, &others),
            Some(Delivered::Complete(piece, others)) => {
                self.cancel(block, &others);
                self.hand_over(FullPiece { piece, context: Arc::clone(self.context) })?;
            }
            Some(Delivered::Late) => self.waste(block.len),
            None => self.unasked(block)?,
        }
        Ok(expected)
    }

    /// Hands a piece to the verify workers, and waits where they are behind.
    fn hand_over(&self, full: FullPiece) -> Result<(), PeerError> {
        match self.context.verify.try_send(full) {
            Ok(()) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err(PeerError::Stopped),
            Err(TrySendError::Full(full)) => {
                // It is we who hold the peer up: that is no stall of its.
                self.link.pipeline.lock().hold(Activity::VerifyQueue, Instant::now());
                self.context.verify.send(full).map_err(|_| PeerError::Stopped)?;
                self.link.pipeline.lock().go_on(Instant::now());
                Ok(())
            }
        }
    }

    /// The peer sent a block that nobody asked for.
    fn unasked(&self, block: Block) -> Result<(), PeerError> {
        self.waste(block.len);
        match self.link.pipeline.lock().unasked() {
            ..=UNASKED => Ok(()),
            _ => Err(PeerError::Protocol("many blocks that nobody asked for")),
        }
    }

    fn waste(&self, len: u32) {
        Traffic::add(&self.link.traffic.wasted, u64::from(len));
        Traffic::add(&self.context.traffic.wasted, u64::from(len));
    }

    /// Counts payload and waits where a limit says so.
    fn pay(&self, bytes: u64) -> Result<(), PeerError> {
        Traffic::add(&self.link.traffic.down, bytes);
        Traffic::add(&self.context.traffic.down, bytes);
        let valves = &self.context.down;
        let now = Instant::now();
        let wait = valves.iter().map(|valve| valve.take(bytes, now)).max().unwrap_or_default();
        if wait.is_zero() {
            return Ok(());
        }
        // It is we who hold the peer up: that is no stall of its.
        self.link.pipeline.lock().hold(Activity::Limit, now);
        let (until, changes) = (now + wait, Context::changes(valves));
        while Context::changes(valves) == changes {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if self.link.closer.wait(left.min(LIMIT_LOOK)) {
                return Err(PeerError::Stopped);
            }
        }
        self.link.pipeline.lock().go_on(Instant::now());
        Ok(())
    }

    /// Takes back what other peers were asked for.
    fn cancel(&self, block: Block, others: &[PeerKey]) {
        for other in others.iter().filter_map(|&key| self.link.roster.find(key)) {
            other.send(Outgoing::Cancel(block));
        }
    }

    fn handle(&mut self, message: Message<'_>) -> Result<(), PeerError> {
        if message.needs_fast() && !self.link.fast() {
            return Err(PeerError::Protocol("a message of the Fast extension, which was not agreed on"));
        }
        match message {
            Message::KeepAlive | Message::Unknown { .. } | Message::Piece { .. } => Ok(()),
            Message::Port(port) => self.port(port),
            Message::Choke => self.choke(true),
            Message::Unchoke => self.choke(false),
            Message::Interested => self.interested(true),
            Message::NotInterested => self.interested(false),
            Message::Have(index) => {
                let piece = self.piece(index)?;
                self.peer.said_pieces = true;
                if self.peer.has.set(index) { self.say(Said::Have(piece)) } else { Ok(()) }
            }
            Message::Bitfield(bits) => {
                let bits = Bits::from_wire(bits, self.context.layout.piece_count());
                self.pieces(bits.ok_or(PeerError::Protocol("a bitfield with spare bits set"))?)
            }
            // What says nothing new costs nothing, however often it comes.
            Message::HaveAll if self.peer.has.is_full() => Ok(()),
            Message::HaveNone if self.peer.said_pieces => Ok(()),
            Message::HaveAll => self.pieces(Bits::full(self.context.layout.piece_count())),
            Message::HaveNone => self.pieces(Bits::new(self.context.layout.piece_count())),
            Message::Request { index, begin, len } => {
                self.wishes.push(Wish::Upload(self.block(index, begin, len)?));
                Ok(())
            }
            Message::Cancel { index, begin, len } => {
                self.wishes.push(Wish::Forget(self.block(index, begin, len)?));
                Ok(())
            }
            // A suggestion is a hint about the other side's cache (BEP 6); rarest first is better for the swarm.
            Message::Suggest(index) => self.piece(index).map(drop),
            Message::AllowedFast(index) => self.allowed_fast(index),
            Message::Reject { index, begin, len } => self.rejected(self.block(index, begin, len)?),
            Message::Extended { id, payload } => self.extended(id, payload),
        }
    }

    /// Lets the writer know what the peer asks for: many requests at a time, before waiting for more.
    fn hand_on_wishes(&mut self) -> Result<(), PeerError> {
        if self.wishes.is_empty() || self.link.outbox.wish(&mut self.wishes) {
            return Ok(());
        }
        Err(PeerError::Protocol("more requests than it may have outstanding"))
    }

    fn choke(&mut self, choking: bool) -> Result<(), PeerError> {
        if self.peer.choking.replace(choking) == Some(choking) {
            return Ok(());
        }
        let mut pipeline = self.link.pipeline.lock();
        if choking {
            pipeline.choke(self.link.fast(), Instant::now());
        } else {
            pipeline.unchoke(Instant::now());
        }
        drop(pipeline);
        self.say(if choking { Said::Choke } else { Said::Unchoke })?;
        self.link.kick();
        Ok(())
    }

    fn interested(&mut self, interested: bool) -> Result<(), PeerError> {
        if std::mem::replace(&mut self.peer.interested, interested) == interested {
            return Ok(());
        }
        // What it asked for before is refused before this has it unchoked.
        self.hand_on_wishes()?;
        self.say(if interested { Said::Interested } else { Said::NotInterested })
    }

    /// What it has: the first message of most peers. aria2 sends another one instead of many haves, so a later one adds
    /// to what is known; it costs the owner nothing unless it does.
    fn pieces(&mut self, has: Bits) -> Result<(), PeerError> {
        if !std::mem::replace(&mut self.peer.said_pieces, true) {
            self.peer.has = has.clone();
            return self.say(Said::Pieces(has));
        }
        let known = self.peer.has.count();
        for piece in has.iter() {
            self.peer.has.set(piece);
        }
        if self.peer.has.count() > known { self.say(Said::Pieces(self.peer.has.clone())) } else { Ok(()) }
    }

    /// The peer says that it is a node of the DHT (BEP 5). Clients say so once, or again when their port changes.
    fn port(&mut self, port: u16) -> Result<(), PeerError> {
        self.peer.ports += 1;
        if self.peer.ports > PORTS || port == 0 || !self.context.caller.dht {
            return Ok(());
        }
        self.say(Said::Node(port))
    }

    fn allowed_fast(&mut self, index: u32) -> Result<(), PeerError> {
        let piece = self.piece(index)?;
        self.peer.allowed_fast += 1;
        if self.peer.allowed_fast > ALLOWED_FAST {
            return Ok(());
        }
        self.link.pipeline.lock().allow_fast(piece, self.context.layout.piece_count());
        self.say(Said::AllowedFast(piece))?;
        self.link.kick();
        Ok(())
    }

    fn rejected(&mut self, block: Block) -> Result<(), PeerError> {
        let rejects = self.link.pipeline.lock().reject(block, Instant::now());
        let choking = self.peer.choking != Some(false);
        match rejects {
            Some(REJECTS..) if !choking => Err(PeerError::Protocol("it rejects everything while it unchokes us")),
            Some(_) if !choking => {
                self.say(Said::Refused(block.piece))?;
                self.link.kick();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn extended(&mut self, id: u8, payload: &[u8]) -> Result<(), PeerError> {
        match id {
            0 => {
                self.peer.extension_handshakes += 1;
                if self.peer.extension_handshakes > EXTENSION_HANDSHAKES {
                    return Err(PeerError::Protocol("too many extension handshakes"));
                }
                let handshake = ExtensionHandshake::decode(payload)
                    .map_err(|_| PeerError::Protocol("an extension handshake that is not bencode"))?;
                if let Some(reqq) = handshake.reqq {
                    self.link.pipeline.lock().window.set_allowed(reqq);
                }
                self.peer.upload_only = handshake.upload_only.unwrap_or(self.peer.upload_only);
                self.peer.metadata_id = handshake.m.id(Extension::Metadata).or(self.peer.metadata_id);
                self.say(Said::Extension(Box::new(handshake)))
            }
            super::METADATA_ID => self.metadata(payload),
            super::UPLOAD_ONLY_ID => {
                let Some(&flag) = payload.first() else { return Ok(()) };
                let before = std::mem::replace(&mut self.peer.upload_only, flag != 0);
                // What says nothing new costs nothing.
                if before == (flag != 0) { Ok(()) } else { self.say(Said::UploadOnly(flag != 0)) }
            }
            super::DONT_HAVE_ID => {
                let index = extension::decode_dont_have(payload)
                    .map_err(|_| PeerError::Protocol("an lt_donthave of the wrong length"))?;
                self.lost(self.piece(index)?)
            }
            super::PEX_ID if self.context.exchange => match self.peer.exchanges.heard(Instant::now()) {
                Verdict::Take => {
                    let message =
                        PexMessage::decode(payload).map_err(|_| PeerError::Protocol("a ut_pex that is not bencode"))?;
                    self.say(Said::Exchange(Box::new(message)))
                }
                Verdict::Ignore => Ok(()),
                Verdict::Cut => Err(PeerError::Protocol("many ut_pex messages a minute")),
            },
            // An extension that we did not offer: nothing that was agreed on, nothing to lose.
            _ => Ok(()),
        }
    }

    /// It does not have a piece any more: what it was asked for of it counts as rejected (BEP 54).
    fn lost(&mut self, piece: PieceIndex) -> Result<(), PeerError> {
        if !self.peer.has.clear(piece.get()) {
            return Ok(());
        }
        self.peer.losses += 1;
        if self.peer.losses > self.context.layout.piece_count().saturating_mul(LOSSES).saturating_add(MORE_LOSSES) {
            return Err(PeerError::Protocol("it loses pieces over and over"));
        }
        self.link.pipeline.lock().lost(piece, Instant::now());
        self.say(Said::DontHave(piece))?;
        self.link.kick();
        Ok(())
    }

    /// Hands on what it asks for of the metadata; what nobody needs so often goes unanswered.
    fn metadata(&mut self, payload: &[u8]) -> Result<(), PeerError> {
        let message = MetadataMessage::decode(payload)
            .map_err(|_| PeerError::Protocol("a metadata message that makes no sense"))?;
        // We have the metadata: data and rejects are answers to questions of earlier times.
        let Some(MetadataMessage::Request { piece }) = message else { return Ok(()) };
        self.peer.metadata_requests += 1;
        let pieces = self.context.metainfo.info_bytes().len().div_ceil(METADATA_PIECE_LEN) as u32;
        if self.peer.metadata_requests <= METADATA_TIMES * pieces + METADATA_EXTRA {
            self.peer.metadata_id.map(|id| self.link.send(Outgoing::Metadata { id, piece }));
        }
        Ok(())
    }

    fn piece(&self, index: u32) -> Result<PieceIndex, PeerError> {
        self.context.layout.piece(index).ok_or(PeerError::Protocol("a piece that does not exist"))
    }

    fn block(&self, index: u32, begin: u32, len: u32) -> Result<Block, PeerError> {
        let block = self.context.layout.range(index, begin, len);
        block
            .filter(|block| block.len <= MAX_BLOCK_LEN)
            .ok_or(PeerError::Protocol("a request outside the torrent or above 128 KiB"))
    }

    fn say(&self, said: Said) -> Result<(), PeerError> {
        if (self.context.facts)(Fact::Said(self.link.key, said)) { Ok(()) } else { Err(PeerError::Stopped) }
    }
}

impl Link {
    /// Milliseconds are exact enough for timeouts of minutes, and one atomic needs no lock.
    fn hear(&self, now: Instant) {
        let millis = now.saturating_duration_since(self.born).as_millis() as u64;
        self.heard.store(millis, Ordering::Relaxed);
    }
}
