//! A peer of a torrent whose metadata is not known yet: one thread that asks for metadata, and waits for the day on which
//! it can be an ordinary peer.
//!
//! It owns the connection for that time, and what the peer said that only the metadata can explain: its pieces, its
//! chokes, its extension handshake. When the metadata is there, the connection lives on as an ordinary one with all that
//! to be read first, so that no peer has to be called twice. What is kept is bounded, for each peer and for all together.
//! It decides nothing about the metadata: that is for the [`Assembly`], which all candidates share.

use std::io::{ErrorKind, Read};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::dial::{Callee, Incoming, call, live};
use super::metadata::{Arrival, Assembly};
use super::{Caller, Context, Fact, Facts, METADATA_ID, PeerError, PeerKey, REQUEST_QUEUE, Roster};
use crate::crew::Crew;
use crate::net::Closer;
use crate::wire::extension::{Extension, ExtensionHandshake, HANDSHAKE_ID};
use crate::wire::message::{Header, Limits, Message, peek};
use crate::wire::metadata::MetadataMessage;

/// How often a candidate that hears nothing looks whether there is something to ask, or the metadata is there.
const LOOK: Duration = Duration::from_millis(50);
/// How long a candidate waits, once the metadata is there, for files to be opened and looked at.
const FILES: Duration = Duration::from_secs(60);
/// What is kept of one peer's messages: the bitfield of 8 million pieces, or 100,000 haves.
const MAX_SAID: usize = (1 << 20) + 4096;
/// The same of all candidates of a torrent. Whoever said less than the share may go on beyond it: a few that say much cost
/// nobody else the connection.
const MAX_SAID_BY_ALL: usize = 32 << 20;
const SHARE_OF_SAID: usize = 128 << 10;
/// How much is read at a time.
const CHUNK: usize = 16 * 1024;
/// Pieces that nobody asked for, extension handshakes, and requests for metadata that we have not either: after so many of
/// each they go unheard, or the peer goes.
const MAX_UNASKED: u32 = 64;
const MAX_HANDSHAKES: u32 = 16;
const MAX_REQUESTS: u32 = 256;

/// What the candidates of one torrent share with its owner.
pub(crate) struct Hunt {
    pub(crate) caller: Caller,
    /// The port that we are reached at; 0 where we are not. The gateway may give us another.
    pub(crate) port: Arc<AtomicU16>,
    /// How long a peer may be silent.
    pub(crate) idle: Duration,
    pub(crate) facts: Facts,
    pub(crate) assembly: Mutex<Assembly>,
    /// When the metadata was there. Set once, by the owner.
    found: OnceLock<Instant>,
    /// What candidates need to become peers. Set once, by the owner, when the files are open.
    ready: OnceLock<(Arc<Context>, Arc<Roster>)>,
    /// Bytes of messages that are kept for later, of all candidates.
    said: AtomicUsize,
}

impl Hunt {
    pub(crate) fn new(caller: Caller, port: Arc<AtomicU16>, idle: Duration, facts: Facts) -> Self {
        let assembly = Mutex::new(Assembly::new(caller.info_hash));
        let (found, ready) = (OnceLock::new(), OnceLock::new());
        Self { caller, port, idle, facts, assembly, found, ready, said: AtomicUsize::new(0) }
    }

    /// The metadata is there: nobody is asked any more, and candidates wait for a while to become peers.
    pub(crate) fn found(&self, now: Instant) {
        self.found.get_or_init(|| now);
    }

    /// Candidates live on as peers.
    pub(crate) fn ready(&self, context: Arc<Context>, roster: Arc<Roster>) {
        self.ready.get_or_init(|| (context, roster));
    }
}

/// The thread of a candidate that we dial.
pub(crate) fn seek(key: PeerKey, to: Callee, hunt: &Arc<Hunt>, closer: &Arc<Closer>, crew: &Crew) {
    let addr = to.addr;
    match call(to, &hunt.caller, closer) {
        Ok(peer) => court(key, peer, false, hunt, crew),
        Err(why) => {
            closer.close();
            (hunt.facts)(Fact::CandidateGone { key, addr, why });
        }
    }
}

/// The life of a candidate after the handshake, in the thread that shook hands.
pub(crate) fn court(key: PeerKey, mut peer: Incoming, incoming: bool, hunt: &Arc<Hunt>, crew: &Crew) {
    let addr = peer.addr;
    let result = if (hunt.facts)(Fact::Candidate { key, addr, protection: peer.protection }) {
        Candidate::new(key, &mut peer, hunt).run()
    } else {
        Err(PeerError::Stopped)
    };
    hunt.assembly.lock().left(key);
    match result {
        Ok((context, roster)) => live(key, peer, incoming, context, roster, crew),
        Err(why) => {
            let why = if peer.closer.is_closed() { PeerError::Stopped } else { why };
            peer.closer.close();
            peer.stream.close();
            (hunt.facts)(Fact::CandidateGone { key, addr, why });
        }
    }
}

struct Candidate<'a> {
    key: PeerKey,
    peer: &'a mut Incoming,
    hunt: &'a Hunt,
    /// Received and not understood yet.
    received: Vec<u8>,
    /// Whole messages for later.
    said: Said<'a>,
    /// Whole messages to send.
    out: Vec<u8>,
    /// Its id for `ut_metadata`.
    metadata_id: Option<u8>,
    handshakes: u32,
    unasked: u32,
    requests: u32,
    written: Instant,
    heard: Instant,
}

/// Messages for later, counted against what all candidates may keep.
struct Said<'a> {
    bytes: Vec<u8>,
    of_all: &'a AtomicUsize,
}

impl<'a> Candidate<'a> {
    fn new(key: PeerKey, peer: &'a mut Incoming, hunt: &'a Hunt) -> Self {
        let now = Instant::now();
        Self {
            key,
            peer,
            hunt,
            received: Vec::new(),
            said: Said { bytes: Vec::new(), of_all: &hunt.said },
            out: Vec::new(),
            metadata_id: None,
            handshakes: 0,
            unasked: 0,
            requests: 0,
            written: now,
            heard: now,
        }
    }

    /// Asks and waits until the peer can be an ordinary one.
    fn run(&mut self) -> Result<(Arc<Context>, Arc<Roster>), PeerError> {
        self.introduce();
        self.peer.stream.set_read_timeout(Some(LOOK))?;
        loop {
            self.take_messages()?;
            let now = Instant::now();
            if let Some((context, roster)) = self.hunt.ready.get() {
                self.flush(now)?;
                self.peer.stream.set_read_timeout(None)?;
                let mut said = std::mem::take(&mut self.said.bytes);
                self.said.of_all.fetch_sub(said.len(), Ordering::Relaxed);
                said.append(&mut self.received);
                (self.peer.said, self.peer.introduced) = (said, true);
                return Ok((Arc::clone(context), Arc::clone(roster)));
            }
            self.ask(now);
            self.look_at_clock(now)?;
            self.flush(now)?;
            self.read()?;
        }
    }

    /// The first messages: we have nothing (BEP 6 wants that said), and who we are.
    fn introduce(&mut self) {
        if self.peer.reserved.fast() {
            Message::HaveNone.encode_into(&mut self.out);
        }
        if self.peer.reserved.extended() {
            let handshake = ExtensionHandshake {
                m: [(Extension::Metadata, METADATA_ID)].into_iter().collect(),
                p: Some(self.hunt.port.load(Ordering::Relaxed)).filter(|&port| port != 0),
                v: Some(format!("ropewalk {}", env!("CARGO_PKG_VERSION"))),
                yourip: Some(self.peer.addr.ip()),
                reqq: Some(REQUEST_QUEUE),
                ..ExtensionHandshake::default()
            };
            Message::Extended { id: HANDSHAKE_ID, payload: &handshake.encode() }.encode_into(&mut self.out);
        }
    }

    /// Asks for as much as the peer is to be asked for now.
    fn ask(&mut self, now: Instant) {
        let Some(id) = self.metadata_id else { return };
        let mut assembly = self.hunt.assembly.lock();
        while let Some(piece) = assembly.next(self.key, now) {
            let payload = MetadataMessage::Request { piece }.encode();
            Message::Extended { id, payload: &payload }.encode_into(&mut self.out);
        }
    }

    fn look_at_clock(&mut self, now: Instant) -> Result<(), PeerError> {
        if self.hunt.found.get().is_some_and(|found| now.duration_since(*found) > FILES) {
            return Err(PeerError::Stopped);
        }
        if now.duration_since(self.heard) > self.hunt.idle {
            return Err(PeerError::Closed);
        }
        if now.duration_since(self.written) >= self.hunt.caller.timeouts.keep_alive {
            Message::KeepAlive.encode_into(&mut self.out);
        }
        if self.metadata_id.is_some() && self.hunt.assembly.lock().is_stalled(self.key, now) {
            return Err(PeerError::NoMetadata);
        }
        Ok(())
    }

    fn flush(&mut self, now: Instant) -> Result<(), PeerError> {
        if !self.out.is_empty() {
            self.peer.write.write_all(&mut self.out)?;
            self.out.clear();
            self.written = now;
        }
        Ok(())
    }

    /// Reads what is there, or waits for a moment.
    fn read(&mut self) -> Result<(), PeerError> {
        let mut chunk = [0; CHUNK];
        match self.peer.read.read(&mut chunk) {
            Ok(0) => Err(PeerError::Closed),
            Ok(n) => {
                self.received.extend_from_slice(&chunk[..n]);
                self.heard = Instant::now();
                Ok(())
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) =>
            {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Understands what has come as whole messages.
    fn take_messages(&mut self) -> Result<(), PeerError> {
        let limits = Limits::without_metadata();
        let mut received = std::mem::take(&mut self.received);
        let mut rest = &received[..];
        loop {
            let len = match peek(rest, &limits)? {
                Header::NeedMore => break,
                Header::KeepAlive => 4,
                Header::Piece { .. } => return Err(PeerError::Protocol("a block that nobody asked for")),
                Header::Message { len } => 4 + len,
            };
            let Some((frame, after)) = rest.split_at_checked(len) else { break };
            self.take(frame)?;
            rest = after;
        }
        // A message that comes in small portions is not copied for each of them.
        let understood = received.len() - rest.len();
        received.drain(..understood);
        self.received = received;
        Ok(())
    }

    /// Understands one message with its length prefix, or keeps it for later.
    fn take(&mut self, frame: &[u8]) -> Result<(), PeerError> {
        let message = Message::decode(&frame[4..])?;
        if message.needs_fast() && !self.peer.reserved.fast() {
            return Err(PeerError::Protocol("a message of the Fast extension, which was not agreed on"));
        }
        match message {
            Message::Extended { id: METADATA_ID, payload } => self.metadata(payload),
            Message::Extended { id: HANDSHAKE_ID, payload } => {
                self.handshake(payload)?;
                self.said.keep(frame)
            }
            Message::Choke
            | Message::Unchoke
            | Message::Interested
            | Message::NotInterested
            | Message::Have(_)
            | Message::Bitfield(_)
            | Message::HaveAll
            | Message::HaveNone
            | Message::AllowedFast(_)
            | Message::Port(_)
            | Message::Extended { .. } => self.said.keep(frame),
            // We have nothing to be asked for, and asked for nothing.
            _ => Ok(()),
        }
    }

    fn handshake(&mut self, payload: &[u8]) -> Result<(), PeerError> {
        self.handshakes += 1;
        if self.handshakes > MAX_HANDSHAKES {
            return Err(PeerError::Protocol("too many extension handshakes"));
        }
        let handshake = ExtensionHandshake::decode(payload)
            .map_err(|_| PeerError::Protocol("an extension handshake that is not bencode"))?;
        // Told at once, so that nobody dials there meanwhile, and once.
        if let Some(port) = handshake.p.filter(|_| self.handshakes == 1)
            && !(self.hunt.facts)(Fact::CandidateListens { key: self.key, port })
        {
            return Err(PeerError::Stopped);
        }
        self.metadata_id = handshake.m.id(Extension::Metadata).or(self.metadata_id);
        if self.metadata_id.is_none() {
            return Ok(());
        }
        let sane = self.hunt.assembly.lock().offers(self.key, self.peer.addr, handshake.metadata_size, Instant::now());
        if sane { Ok(()) } else { Err(PeerError::Protocol("metadata of more than 32 MiB")) }
    }

    fn metadata(&mut self, payload: &[u8]) -> Result<(), PeerError> {
        let message = MetadataMessage::decode(payload)
            .map_err(|_| PeerError::Protocol("a metadata message that makes no sense"))?;
        let now = Instant::now();
        match message {
            Some(MetadataMessage::Request { piece }) => {
                self.requests += 1;
                if let Some(id) = self.metadata_id.filter(|_| self.requests <= MAX_REQUESTS) {
                    let payload = MetadataMessage::Reject { piece }.encode();
                    Message::Extended { id, payload: &payload }.encode_into(&mut self.out);
                }
                Ok(())
            }
            Some(MetadataMessage::Reject { piece }) => {
                let gives = self.hunt.assembly.lock().rejected(self.key, piece, now);
                if gives { Ok(()) } else { Err(PeerError::NoMetadata) }
            }
            Some(MetadataMessage::Data { piece, total, bytes }) => {
                let arrival = self.hunt.assembly.lock().arrived(self.key, piece, total, bytes, now);
                self.arrived(arrival)
            }
            None => Ok(()),
        }
    }

    fn arrived(&mut self, arrival: Arrival) -> Result<(), PeerError> {
        let tell = |fact| if (self.hunt.facts)(fact) { Ok(()) } else { Err(PeerError::Stopped) };
        match arrival {
            Arrival::Kept => Ok(()),
            Arrival::Unasked => {
                self.unasked += 1;
                let many = self.unasked > MAX_UNASKED;
                if many { Err(PeerError::Protocol("much metadata that nobody asked for")) } else { Ok(()) }
            }
            Arrival::OtherSize => Err(PeerError::Protocol("metadata of another size than it had said")),
            Arrival::Found(metadata, liars) => {
                if !liars.is_empty() {
                    tell(Fact::Liars(liars))?;
                }
                tell(Fact::Metadata(metadata))
            }
            Arrival::Wrong(None) => Ok(()),
            Arrival::Wrong(Some(liar)) => {
                tell(Fact::Liars(vec![liar]))?;
                if liar == self.peer.addr { Err(PeerError::WrongMetadata) } else { Ok(()) }
            }
        }
    }
}

impl Said<'_> {
    fn keep(&mut self, frame: &[u8]) -> Result<(), PeerError> {
        let of_all = self.of_all.fetch_add(frame.len(), Ordering::Relaxed) + frame.len();
        self.bytes.extend_from_slice(frame);
        if self.bytes.len() > MAX_SAID || (of_all > MAX_SAID_BY_ALL && self.bytes.len() > SHARE_OF_SAID) {
            return Err(PeerError::Protocol("it says too much before there is metadata"));
        }
        Ok(())
    }
}

impl Drop for Said<'_> {
    fn drop(&mut self) {
        self.of_all.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}
