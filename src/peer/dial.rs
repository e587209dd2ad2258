//! How a connection begins: dialling out, being called, and the handshake (BEP 3).

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use parking_lot::Mutex;

use super::clock::{Processor, Tally};
use super::veil::{self, Opened, Protection, read_some};
use super::{Caller, Context, Fact, Link, Outbox, PeerError, PeerKey, Pipeline, Roster, WORK, reader, writer};
use crate::config::{Encryption, Transports};
use crate::crew::Crew;
use crate::hash::Sha1Hash;
use crate::metainfo::InfoHash;
use crate::net::{Arrival, Closer, ReadHalf, Stream, Transport, WriteHalf};
use crate::wire::handshake::{Handshake, HandshakeHead, PeerId, Reserved};

/// How long uTP is tried where TCP was answered by a no: so many times what that took, within bounds.
const TURNED_AWAY_TIMES: u32 = 8;
const TURNED_AWAY_LEAST: Duration = Duration::from_millis(250);
const TURNED_AWAY_MOST: Duration = Duration::from_secs(2);
/// How often a reader notes its processor time while it receives.
const LOOK: Duration = Duration::from_millis(500);

/// A peer that hands are shaken with, ready to be taken in by the torrent that it is here for.
pub(crate) struct Incoming {
    pub(crate) addr: SocketAddr,
    pub(crate) closer: Arc<Closer>,
    pub(super) stream: Stream,
    pub(super) read: ReadHalf,
    pub(super) write: WriteHalf,
    pub(super) protection: Protection,
    pub(super) reserved: Reserved,
    pub(super) peer_id: PeerId,
    /// When hands were shaken.
    pub(super) shaken: Instant,
    /// What the peer sent before there was anything to understand it by, to be read first.
    pub(super) said: Vec<u8>,
    /// Our first messages have been sent.
    pub(super) introduced: bool,
}

/// Whom to dial.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Callee {
    pub(crate) addr: SocketAddr,
    /// It hung up on an encrypted handshake before.
    pub(crate) plaintext_only: bool,
}

/// The thread of an outgoing connection: dials, shakes hands, and reads until the end.
pub(crate) fn dial(
    key: PeerKey,
    to: Callee,
    context: Arc<Context>,
    roster: Arc<Roster>,
    closer: Arc<Closer>,
    crew: Arc<Crew>,
) {
    let addr = to.addr;
    match call(to, &context.caller, &closer) {
        Ok(peer) => live(key, peer, false, context, roster, &crew),
        Err(why) => {
            closer.close();
            (context.facts)(Fact::Unreachable { key, addr, why });
        }
    }
}

/// Connects and shakes hands: where both are allowed over TCP, for it is quicker and yields to nobody, and over uTP where
/// that leads nowhere. Gateways may let it through all the same, and some speak nothing else, and hang up.
pub(super) fn call(to: Callee, caller: &Caller, closer: &Arc<Closer>) -> Result<Incoming, PeerError> {
    let timeout = caller.timeouts.connect;
    match caller.transports {
        Transports::Both if caller.utp.is_some() => {
            let start = Instant::now();
            call_over(Transport::Tcp, timeout / 2, to, caller, closer).or_else(|why| {
                let answer = TURNED_AWAY_TIMES * start.elapsed();
                let patience = match &why {
                    PeerError::Connect(error) if error.kind() == ErrorKind::TimedOut => timeout / 2,
                    _ if why.is_turned_away() => answer.clamp(TURNED_AWAY_LEAST, TURNED_AWAY_MOST).min(timeout / 2),
                    _ => return Err(why),
                };
                call_over(Transport::Utp, patience, to, caller, closer).map_err(|other| match other {
                    PeerError::Connect(_) => why,
                    other => other,
                })
            })
        }
        Transports::Both | Transports::Tcp => call_over(Transport::Tcp, timeout, to, caller, closer),
        Transports::Utp => call_over(Transport::Utp, timeout, to, caller, closer),
    }
}

/// The same over one of them, which may take so long to be connected.
fn call_over(
    transport: Transport,
    timeout: Duration,
    to: Callee,
    caller: &Caller,
    closer: &Arc<Closer>,
) -> Result<Incoming, PeerError> {
    let timeouts = caller.timeouts;
    let connect = || {
        let stream = match (transport, &caller.utp) {
            (Transport::Tcp, _) => Stream::connect(to.addr, caller.bind.as_ref(), timeout, closer),
            (Transport::Utp, Some(utp)) => Stream::connect_utp(to.addr, utp, timeout, closer),
            (Transport::Utp, None) => Err(io::Error::new(ErrorKind::Unsupported, "there is no UDP port for uTP")),
        };
        stream.map_err(PeerError::Connect)
    };
    let ours = ours(caller.info_hash, caller.our_id, caller.dht);
    let mut stream = connect()?;
    let mut deadline = Instant::now() + timeouts.handshake;
    let encrypt = match caller.encryption {
        Encryption::Prefer => !to.plaintext_only,
        Encryption::Require => true,
        Encryption::Off => false,
    };
    let opened = if encrypt { Some(veil::dial(stream.clone(), &ours, caller.encryption, deadline)) } else { None };
    let mut opened = match opened {
        None => veil::dial_plain(stream.clone(), &ours)?,
        Some(Ok(opened)) => opened,
        Some(Err(failed)) if failed.perhaps_plain && caller.encryption == Encryption::Prefer => {
            log::debug!("{}: again in plaintext: {}", to.addr, failed.why);
            stream.close();
            stream = connect()?;
            deadline = Instant::now() + timeouts.handshake;
            veil::dial_plain(stream.clone(), &ours)?
        }
        Some(Err(failed)) => {
            return Err(match failed.why {
                PeerError::Closed | PeerError::Io(_) if failed.perhaps_plain => PeerError::HungUpOnEncryption,
                why => why,
            });
        }
    };
    let theirs = read_handshake(&mut opened.read, deadline, |info_hash| *info_hash == caller.info_hash)?;
    if theirs.peer_id == caller.our_id {
        return Err(PeerError::Ourselves);
    }
    stream.set_read_timeout(None)?;
    Ok(Incoming::new(to.addr, Arc::clone(closer), stream, opened, &theirs))
}

/// What a caller is received by.
pub(crate) struct Door<'a> {
    pub(crate) timeout: Duration,
    pub(crate) encryption: Encryption,
    /// Our peer id, where there is this torrent, and whether we are a node of the DHT there.
    pub(crate) find: &'a dyn Fn(&InfoHash) -> Option<(PeerId, bool)>,
    /// A torrent by [`torrent_name`](crate::net::mse::torrent_name).
    pub(crate) find_hidden: &'a dyn Fn(&Sha1Hash) -> Option<InfoHash>,
}

/// The first part of an incoming connection: reads the handshake and answers it if the torrent is known. The rest is
/// [`Incoming::live`].
pub(crate) fn greet(
    arrival: Arrival,
    addr: SocketAddr,
    closer: Arc<Closer>,
    door: &Door<'_>,
) -> Result<(InfoHash, Incoming), PeerError> {
    let stream = Stream::accepted(arrival, &closer)?;
    let deadline = Instant::now() + door.timeout;
    let mut opened = veil::answer(stream.clone(), door.encryption, deadline, door.find_hidden)?;
    let mut found = None;
    let torrent = opened.torrent;
    let theirs = read_handshake(&mut opened.read, deadline, |info_hash| {
        found = (door.find)(info_hash).filter(|_| torrent.is_none_or(|torrent| torrent == *info_hash));
        found.is_some()
    })?;
    let (our_id, dht) = found.ok_or(PeerError::OtherTorrent)?;
    // A call from ourselves is answered all the same: our dialling side recognises its own id and remembers the address.
    opened.write.write_all(&mut ours(theirs.info_hash, our_id, dht).encode())?;
    if theirs.peer_id == our_id {
        return Err(PeerError::Ourselves);
    }
    stream.set_read_timeout(None)?;
    Ok((theirs.info_hash, Incoming::new(addr, closer, stream, opened, &theirs)))
}

impl Incoming {
    fn new(addr: SocketAddr, closer: Arc<Closer>, stream: Stream, opened: Opened, theirs: &Handshake) -> Self {
        let Opened { read, write, protection, .. } = opened;
        let (reserved, peer_id) = (theirs.reserved, theirs.peer_id);
        let (said, introduced) = (Vec::new(), false);
        let shaken = Instant::now();
        Self { addr, closer, stream, read, write, protection, reserved, peer_id, shaken, said, introduced }
    }

    /// Reads until the end, in the thread that greeted the caller.
    pub(crate) fn live(self, key: PeerKey, context: Arc<Context>, roster: Arc<Roster>, crew: &Crew) {
        live(key, self, true, context, roster, crew);
    }
}

fn ours(info_hash: InfoHash, peer_id: PeerId, dht: bool) -> Handshake {
    let reserved = Reserved::NONE.with_extended().with_fast();
    Handshake { reserved: if dht { reserved.with_dht() } else { reserved }, info_hash, peer_id }
}

/// Reads a handshake of which every part is checked as soon as it is there.
fn read_handshake(
    stream: &mut ReadHalf,
    deadline: Instant,
    mut wanted: impl FnMut(&InfoHash) -> bool,
) -> Result<Handshake, PeerError> {
    let mut bytes = [0; Handshake::LEN];
    let mut filled = 0;
    let mut head = None;
    while filled < bytes.len() {
        filled += read_some(stream, &mut bytes[filled..], deadline)?;
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
pub(super) fn live(
    key: PeerKey,
    caller: Incoming,
    incoming: bool,
    context: Arc<Context>,
    roster: Arc<Roster>,
    crew: &Crew,
) {
    let (work, work_end) = bounded(WORK);
    let now = Instant::now();
    let link = Arc::new(Link {
        key,
        addr: caller.addr,
        incoming,
        transport: caller.stream.transport(),
        protection: caller.protection,
        peer_id: caller.peer_id,
        reserved: caller.reserved,
        introduced: caller.introduced,
        pipeline: Mutex::new(Pipeline::new(key, now)),
        traffic: Arc::default(),
        sender: Tally::default(),
        processor: Processor::new(LOOK, now),
        heard: AtomicU64::new(0),
        born: now,
        shaken: caller.shaken,
        outbox: Outbox::default(),
        work,
        closer: caller.closer,
        roster: Arc::clone(&roster),
    });
    roster.links.write().insert(key, Arc::downgrade(&link));
    let why = if (context.facts)(Fact::Joined(Arc::clone(&link))) {
        let writer = {
            let (link, context) = (Arc::clone(&link), Arc::clone(&context));
            move || writer::run(&link, &context, caller.write, &work_end)
        };
        match crew.spawn(format!("tx-{}", caller.addr), super::STACK, writer) {
            Ok(()) => reader::run(&link, &context, caller.read, caller.said).err().unwrap_or(PeerError::Closed),
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
