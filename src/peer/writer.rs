//! The writing half of a peer: requests as the window has room, answers to the peer's own, and what the owner says.
//!
//! It owns the upload queue, which never holds more than we announce (BEP 10 `reqq`). Payload goes from the mapped file
//! to the socket by one call for several blocks; short messages go first, so that a long queue delays nothing.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::clock::Activity;
use super::{Context, Fact, LIMIT_LOOK, Link, Outgoing, PeerError, REQUEST_QUEUE, Traffic, Wish, Work};
use crate::bits::Bits;
use crate::metainfo::{BLOCK_LEN, Block, PieceIndex};
use crate::net::{Stream, WriteHalf};
use crate::storage::Storage;
use crate::wire::message::{Message, PIECE_HEADER_LEN, piece_header};
use crate::wire::metadata::{self, MetadataMessage};

/// The most blocks in one call, to a peer that takes them quickly.
const BATCH: usize = 64;
/// A call that takes longer than this shows a path that is full: fewer blocks at a time leave room for other messages.
const QUICK: Duration = Duration::from_millis(20);
/// Bytes that may wait to be written when metadata is asked for; behind more of them requests are rejected.
const METADATA_WAITING: usize = 256 * 1024;
/// Slices that one call takes (`UIO_MAXIOV`): a block of very small files has a slice for each.
const SLICES: usize = 1024;
/// How much is read, perhaps encrypted, and sent at a time: it stays in the processor's cache between the three.
const CHUNK: usize = 4 * (PIECE_HEADER_LEN + BLOCK_LEN as usize);

/// Writes until the connection ends.
pub(super) fn run(link: &Link, context: &Arc<Context>, stream: WriteHalf, work: &Receiver<Work>) {
    let pieces = context.layout.piece_count();
    let mut writer = Writer {
        link,
        context,
        stream,
        work,
        taken: VecDeque::new(),
        out: Vec::new(),
        uploads: VecDeque::new(),
        choking: true,
        allowed_fast: Bits::new(pieces),
        chunk: Vec::new(),
        batch: 1,
        paid: 0,
        gate: None,
        held: None,
        written: Instant::now(),
    };
    if let Err(error) = writer.run() {
        log::debug!("{}: writing ended: {error}", link.addr);
        if let PeerError::Storage(error) = error {
            (context.facts)(Fact::Unreadable { error });
        }
    }
    link.outbox.close();
    // The reader notices and says that the peer is gone.
    link.close();
}

struct Writer<'a> {
    link: &'a Link,
    context: &'a Arc<Context>,
    stream: WriteHalf,
    work: &'a Receiver<Work>,
    /// What was taken out of the outbox and is handled next.
    taken: VecDeque<Outgoing>,
    /// Whole messages without payload, ready to go.
    out: Vec<u8>,
    uploads: VecDeque<Block>,
    choking: bool,
    /// What the peer may ask for while we choke it (BEP 6).
    allowed_fast: Bits,
    /// Where payload is encrypted; empty while there is none to send.
    chunk: Vec<u8>,
    /// How many blocks to send at once.
    batch: usize,
    /// How many of the first uploads the limits have granted.
    paid: usize,
    /// When those may go, and the changes of the limits when that was decided.
    gate: Option<(Instant, u32)>,
    /// Since when the limits hold them.
    held: Option<Instant>,
    written: Instant,
}

impl Writer<'_> {
    fn run(&mut self) -> Result<(), PeerError> {
        loop {
            self.take_in();
            if self.link.closer.is_closed() {
                return Err(PeerError::Stopped);
            }
            let now = Instant::now();
            if self.out.is_empty() && now.duration_since(self.written) >= self.context.caller.timeouts.keep_alive {
                Message::KeepAlive.encode_into(&mut self.out);
            }
            if !self.out.is_empty() {
                self.stream.write_all(&mut self.out)?;
                self.out.clear();
                self.out.shrink_to(4096);
                self.written = Instant::now();
                self.link.sender.add(Activity::Sending, self.written.duration_since(now));
            }
            self.upload()?;
        }
    }

    /// Waits for something to do and takes in all that waits.
    fn take_in(&mut self) {
        let mut until = self.written + self.context.caller.timeouts.keep_alive;
        if !self.uploads.is_empty() {
            let now = Instant::now();
            until = until.min(self.gate.map_or(now, |(gate, _)| gate.min(now + LIMIT_LOOK)));
        }
        let kicked = self.link.outbox.take(&mut self.taken, until);
        while let Some(message) = self.taken.pop_front() {
            self.handle(message);
        }
        if kicked {
            self.refill();
        }
    }

    fn handle(&mut self, message: Outgoing) {
        match message {
            Outgoing::Metadata { id, piece } => self.metadata(id, piece),
            Outgoing::Raw(bytes) => self.out.extend_from_slice(&bytes),
            Outgoing::Have(pieces) => pieces.iter().for_each(|piece| self.put(&Message::Have(piece.get()))),
            Outgoing::Choke => self.choke(),
            Outgoing::Unchoke => {
                self.choking = false;
                self.put(&Message::Unchoke);
            }
            Outgoing::Interested => self.put(&Message::Interested),
            Outgoing::NotInterested => self.put(&Message::NotInterested),
            Outgoing::AllowFast(pieces) => pieces.iter().for_each(|piece| self.allow_fast(*piece)),
            Outgoing::Cancel(block) => {
                if self.link.pipeline.lock().cancel(block) {
                    let Block { piece, begin, len } = block;
                    self.put(&Message::Cancel { index: piece.get(), begin, len });
                    self.refill();
                }
            }
            Outgoing::Wish(Wish::Upload(block)) => self.enqueue(block),
            Outgoing::Wish(Wish::Forget(block)) => self.forget(block),
        }
    }

    fn put(&mut self, message: &Message<'_>) {
        message.encode_into(&mut self.out);
    }

    /// Answers a request for metadata, which a private torrent keeps to itself, as libtorrent has it: who may have it gets
    /// it where its tracker is.
    fn metadata(&mut self, id: u8, piece: u32) {
        let metainfo = &self.context.metainfo;
        let answer = match metainfo.is_private() || self.out.len() > METADATA_WAITING {
            true => MetadataMessage::Reject { piece },
            false => metadata::answer(metainfo.info_bytes(), piece),
        };
        self.put(&Message::Extended { id, payload: &answer.encode() });
    }

    fn refill(&mut self) {
        let refill = self.link.pipeline.lock().refill(self.work, Instant::now());
        for Block { piece, begin, len } in refill.requests {
            self.put(&Message::Request { index: piece.get(), begin, len });
        }
        if let Some(blocks) = refill.hungry_for {
            (self.context.facts)(Fact::Hungry(self.link.key, blocks));
        }
    }

    fn allow_fast(&mut self, piece: PieceIndex) {
        self.allowed_fast.set(piece.get());
        self.put(&Message::AllowedFast(piece.get()));
    }

    fn choke(&mut self) {
        self.choking = true;
        self.put(&Message::Choke);
        // With the Fast extension each request that will not be answered is rejected; without, a choke voids them all.
        let fast = self.link.fast();
        for block in std::mem::take(&mut self.uploads) {
            if fast && self.allowed_fast.get(block.piece.get()) {
                self.uploads.push_back(block);
            } else {
                self.reject(block);
            }
        }
        (self.paid, self.gate) = (0, None);
    }

    fn enqueue(&mut self, block: Block) {
        let index = block.piece.get();
        let allowed = !self.choking || (self.link.fast() && self.allowed_fast.get(index));
        if allowed && self.uploads.len() < REQUEST_QUEUE as usize && self.context.have.read().get(index) {
            self.uploads.push_back(block);
        } else {
            self.reject(block);
        }
    }

    fn forget(&mut self, block: Block) {
        if let Some(at) = self.uploads.iter().position(|waiting| *waiting == block) {
            self.uploads.remove(at);
            if at < self.paid {
                self.paid -= 1;
            }
            self.reject(block);
        }
    }

    fn reject(&mut self, block: Block) {
        if self.link.fast() {
            let Block { piece, begin, len } = block;
            self.put(&Message::Reject { index: piece.get(), begin, len });
        }
    }

    /// Sends the next blocks, where there are any and the limits allow.
    fn upload(&mut self) -> Result<(), PeerError> {
        if self.uploads.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        if self.paid == 0 {
            self.pay(now);
        }
        let changes = Context::changes(&self.context.up);
        if self.gate.is_some_and(|(gate, then)| gate > now && then == changes) {
            return Ok(());
        }
        self.gate = None;
        if let Some(since) = self.held.take() {
            self.link.sender.add(Activity::UploadLimit, now.saturating_duration_since(since));
        }
        let sent = self.send()?;
        self.uploads.drain(..sent);
        if self.uploads.is_empty() {
            self.chunk = Vec::new();
        }
        self.paid -= sent;
        self.written = Instant::now();
        let took = self.written.duration_since(now);
        self.link.sender.add(Activity::Sending, took);
        self.batch = if took < QUICK { (self.batch * 2).min(BATCH) } else { (self.batch / 2).max(1) };
        Ok(())
    }

    /// Takes a share of the limits for the next batch: all of it at once where there is no limit, else block by block.
    fn pay(&mut self, now: Instant) {
        self.held = None;
        for block in self.uploads.iter().take(self.batch) {
            let wait = self.context.up.iter().map(|valve| valve.take(u64::from(block.len), now)).max();
            self.paid += 1;
            if let Some(wait) = wait.filter(|wait| *wait > Duration::ZERO) {
                self.gate = Some((now + wait, Context::changes(&self.context.up)));
                self.held = Some(now);
                return;
            }
        }
    }

    /// Sends the first of the uploads that are paid for and says how many.
    fn send(&mut self) -> Result<usize, PeerError> {
        let (blocks, next) = self.uploads.make_contiguous().split_at(self.paid);
        let storage = &*self.context.storage();
        let sent = match &mut self.stream {
            WriteHalf::Plain(stream) if stream.is_served_by_kernel() => {
                send_lent(stream, storage, blocks, &next[..next.len().min(self.batch)])?
            }
            WriteHalf::Plain(_) | WriteHalf::Rc4(..) => {
                send_copied(&mut self.stream, storage, blocks, &mut self.chunk)?
            }
        };
        let bytes = blocks[..sent].iter().map(|block| u64::from(block.len)).sum();
        Traffic::add(&self.link.traffic.up, bytes);
        Traffic::add(&self.context.traffic.up, bytes);
        Ok(sent)
    }
}

/// Sends blocks by one call, from the mapped files to the socket. Says how many: the first of them where much had to be
/// copied.
fn send_lent(stream: &mut Stream, storage: &Storage, blocks: &[Block], next: &[Block]) -> Result<usize, PeerError> {
    let lent = storage.lend(blocks, next)?;
    let blocks = &blocks[..lent.len()];
    let headers: Vec<_> = blocks.iter().map(header).collect();
    let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(2 * blocks.len());
    for (number, header) in headers.iter().enumerate() {
        slices.push(IoSlice::new(header));
        slices.extend(lent.io_slices(number));
    }
    if let Err(error) = write_all(stream, &mut slices) {
        return Err(unreadable(storage, blocks, &error).unwrap_or(error));
    }
    Ok(blocks.len())
}

/// Sends blocks encrypted or over uTP, some at a time. They are read from the files: the mapping is not to be read from
/// here.
fn send_copied(
    stream: &mut WriteHalf,
    storage: &Storage,
    blocks: &[Block],
    chunk: &mut Vec<u8>,
) -> Result<usize, PeerError> {
    for (number, block) in blocks.iter().enumerate() {
        let at = chunk.len();
        chunk.extend(header(block));
        chunk.resize(at + PIECE_HEADER_LEN + block.len as usize, 0);
        storage.read_at(*block, &mut chunk[at + PIECE_HEADER_LEN..])?;
        let following = blocks.get(number + 1).map_or(CHUNK, |next| PIECE_HEADER_LEN + next.len as usize);
        if chunk.len() + following > CHUNK {
            stream.write_all(chunk)?;
            chunk.clear();
        }
    }
    Ok(blocks.len())
}

fn header(block: &Block) -> [u8; PIECE_HEADER_LEN] {
    piece_header(block.piece.get(), block.begin, block.len)
}

/// What is wrong with the files, where a write failed because a mapped page is gone: the file was cut off.
fn unreadable(storage: &Storage, blocks: &[Block], error: &PeerError) -> Option<PeerError> {
    let PeerError::Io(error) = error else { return None };
    if error.raw_os_error() != Some(libc::EFAULT) {
        return None;
    }
    let mut buffer = Vec::new();
    blocks.iter().find_map(|&block| {
        buffer.resize(block.len as usize, 0);
        storage.read_at(block, &mut buffer).err().map(PeerError::from)
    })
}

fn write_all(stream: &mut Stream, mut slices: &mut [IoSlice<'_>]) -> Result<(), PeerError> {
    while !slices.is_empty() {
        match stream.write_vectored(&slices[..slices.len().min(SLICES)]) {
            Ok(0) => return Err(PeerError::Closed),
            Ok(n) => IoSlice::advance_slices(&mut slices, n),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
