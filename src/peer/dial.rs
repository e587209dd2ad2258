//! How a connection begins: dialling out, being called, and the handshake (BEP 3).

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use parking_lot::Mutex;
use socket2::Socket;

use super::clock::{Processor, Tally};
use super::{Context, Fact, Link, Outbox, PeerError, PeerKey, Pipeline, Roster, WORK, reader, writer};
use crate::crew::Crew;
use crate::metainfo::InfoHash;
use crate::net::{Closer, Stream};
use crate::wire::handshake::{Handshake, HandshakeHead, PeerId, Reserved};

/// How often a reader notes its processor time while it receives.
const LOOK: Duration = Duration::from_millis(500);

/// A caller whose handshake named a torrent, ready to be taken in by that torrent.
pub(crate) struct Incoming {
    pub(crate) addr: SocketAddr,
    pub(crate) closer: Arc<Closer>,
    stream: Stream,
    reserved: Reserved,
    peer_id: PeerId,
}

/// The thread of an outgoing connection: dials, shakes hands, and reads until the end.
pub(crate) fn dial(
    key: PeerKey,
    addr: SocketAddr,
    context: Arc<Context>,
    roster: Arc<Roster>,
    closer: Arc<Closer>,
    crew: Arc<Crew>,
) {
    let result = call(addr, &context, &closer);
    match result {
        Ok((stream, theirs)) => {
            let caller = Incoming { addr, closer, stream, reserved: theirs.reserved, peer_id: theirs.peer_id };
            live(key, caller, false, context, roster, &crew);
        }
        Err(why) => {
            closer.close();
            (context.facts)(Fact::Unreachable { key, addr, why });
        }
    }
}

fn call(addr: SocketAddr, context: &Context, closer: &Closer) -> Result<(Stream, Handshake), PeerError> {
    let timeouts = context.timeouts;
    let mut stream = Stream::connect(addr, context.bind, timeouts.connect, closer).map_err(PeerError::Connect)?;
    stream.write_all(&ours(context.info_hash, context.our_id).encode())?;
    let theirs = read_handshake(&mut stream, timeouts.handshake, |info_hash| *info_hash == context.info_hash)?;
    if theirs.peer_id == context.our_id {
        return Err(PeerError::Ourselves);
    }
    stream.set_read_timeout(None)?;
    Ok((stream, theirs))
}

/// The first part of an incoming connection: reads the handshake and answers it if `find` knows the torrent and our
/// peer id there. The rest is [`Incoming::live`].
pub(crate) fn greet(
    socket: Socket,
    addr: SocketAddr,
    closer: Arc<Closer>,
    timeout: Duration,
    find: impl Fn(&InfoHash) -> Option<PeerId>,
) -> Result<(InfoHash, Incoming), PeerError> {
    let mut stream = Stream::accepted(socket, &closer)?;
    let mut our_id = None;
    let theirs = read_handshake(&mut stream, timeout, |info_hash| {
        our_id = find(info_hash);
        our_id.is_some()
    })?;
    let our_id = our_id.ok_or(PeerError::OtherTorrent)?;
    // A call from ourselves is answered all the same: our dialling side recognises its own id and remembers the address.
    stream.write_all(&ours(theirs.info_hash, our_id).encode())?;
    if theirs.peer_id == our_id {
        return Err(PeerError::Ourselves);
    }
    stream.set_read_timeout(None)?;
    let incoming = Incoming { addr, closer, stream, reserved: theirs.reserved, peer_id: theirs.peer_id };
    Ok((theirs.info_hash, incoming))
}

impl Incoming {
    /// Reads until the end, in the thread that greeted the caller.
    pub(crate) fn live(self, key: PeerKey, context: Arc<Context>, roster: Arc<Roster>, crew: &Crew) {
        live(key, self, true, context, roster, crew);
    }
}

fn ours(info_hash: InfoHash, peer_id: PeerId) -> Handshake {
    Handshake { reserved: Reserved::NONE.with_extended().with_fast(), info_hash, peer_id }
}

/// Reads a handshake of which every part is checked as soon as it is there.
fn read_handshake(
    stream: &mut Stream,
    timeout: Duration,
    mut wanted: impl FnMut(&InfoHash) -> bool,
) -> Result<Handshake, PeerError> {
    let deadline = Instant::now() + timeout;
    let mut bytes = [0; Handshake::LEN];
    let mut filled = 0;
    let mut head = None;
    while filled < bytes.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(PeerError::HandshakeTimeout);
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut bytes[filled..]) {
            Ok(0) => return Err(PeerError::Closed),
            Ok(n) => filled += n,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                return Err(PeerError::HandshakeTimeout);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
        if !HandshakeHead::may_begin_with(&bytes[..filled]) {
            return Err(PeerError::NotBitTorrent);
        }
        if let (None, Some((first, _))) = (&head, bytes[..filled].split_first_chunk::<{ HandshakeHead::LEN }>()) {
            let first = HandshakeHead::decode(first).map_err(|_| PeerError::NotBitTorrent)?;
            if !wanted(&first.info_hash) {
                return Err(PeerError::OtherTorrent);
            }
            head = Some(first);
        }
    }
    let peer_id = bytes.last_chunk::<{ PeerId::LEN }>().map(|id| PeerId::new(*id));
    head.zip(peer_id).map(|(head, peer_id)| head.with_peer_id(peer_id)).ok_or(PeerError::NotBitTorrent)
}

/// The life of a connection after the handshake.
fn live(key: PeerKey, caller: Incoming, incoming: bool, context: Arc<Context>, roster: Arc<Roster>, crew: &Crew) {
    let (work, work_end) = bounded(WORK);
    let now = Instant::now();
    let link = Arc::new(Link {
        key,
        addr: caller.addr,
        incoming,
        peer_id: caller.peer_id,
        reserved: caller.reserved,
        pipeline: Mutex::new(Pipeline::new(key, now)),
        traffic: Arc::default(),
        sender: Tally::default(),
        processor: Processor::new(LOOK, now),
        heard: AtomicU64::new(0),
        born: now,
        outbox: Outbox::default(),
        work,
        closer: caller.closer,
        roster: Arc::clone(&roster),
    });
    roster.links.write().insert(key, Arc::downgrade(&link));
    let why = if (context.facts)(Fact::Joined(Arc::clone(&link))) {
        let writer = {
            let (link, context, stream) = (Arc::clone(&link), Arc::clone(&context), caller.stream.clone());
            move || writer::run(&link, &context, stream, &work_end)
        };
        match crew.spawn(format!("tx-{}", caller.addr), super::STACK, writer) {
            Ok(()) => reader::run(&link, &context, caller.stream.clone()).err().unwrap_or(PeerError::Closed),
            Err(no_thread) => no_thread.into(),
        }
    } else {
        PeerError::Stopped
    };
    let why = if link.closer.is_closed() { PeerError::Stopped } else { why };
    link.close();
    caller.stream.close();
    roster.links.write().remove(&key);
    link.processor.note_now();
    link.pipeline.lock().end(Instant::now());
    link.outbox.close();
    (context.facts)(Fact::Gone { key, why });
}
