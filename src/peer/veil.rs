//! The encrypted handshake over a socket, which comes before the one of BEP 3.
//!
//! It owns the choice between plaintext and encryption, as the configuration wants it, and the time limits. The
//! handshake itself is a machine in [`mse`].

use std::fmt;
use std::io::{ErrorKind, Read};
use std::time::Instant;

use super::PeerError;
use crate::config::Encryption;
use crate::hash::Sha1Hash;
use crate::metainfo::InfoHash;
use crate::net::mse::{Agreed, Answerer, Dialler, Entropy, Method, Methods};
use crate::net::{ReadHalf, Stream, WriteHalf, agreed, plain};
use crate::wire::handshake::{Handshake, HandshakeHead};

/// How much of a connection's beginning tells whether it is plaintext.
const MARK: usize = 20;
/// What is read at a time: more than a handshake is.
const CHUNK: usize = 2048;

/// How a connection to a peer looks to who looks on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Protection {
    /// Plaintext from the first byte.
    #[default]
    None,
    /// The handshake is encrypted, what follows is plaintext.
    Handshake,
    /// All of it is encrypted with RC4.
    Rc4,
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Handshake => "handshake",
            Self::Rc4 => "rc4",
        })
    }
}

/// A connection on which the handshake of BEP 3 comes next.
pub(super) struct Opened {
    pub(super) read: ReadHalf,
    pub(super) write: WriteHalf,
    pub(super) protection: Protection,
    /// The torrent that an encrypted handshake was for.
    pub(super) torrent: Option<InfoHash>,
}

/// Why an encrypted handshake with somebody whom we dialled failed.
pub(super) struct NotVeiled {
    pub(super) why: PeerError,
    /// It hung up on the first bytes, or never answered them: it may be one that speaks plaintext only.
    pub(super) perhaps_plain: bool,
}

impl Opened {
    fn plain(stream: Stream, early: &[u8]) -> Self {
        let (read, write) = plain(stream, early);
        Self { read, write, protection: Protection::None, torrent: None }
    }

    fn veiled(stream: Stream, end: Agreed) -> Self {
        let protection = match end.method {
            Method::Plaintext => Protection::Handshake,
            Method::Rc4 => Protection::Rc4,
        };
        let torrent = Some(end.info_hash);
        let (read, write) = agreed(stream, end);
        Self { read, write, protection, torrent }
    }
}

/// Begins a connection that we made, in plaintext: sends our handshake.
pub(super) fn dial_plain(stream: Stream, ours: &Handshake) -> Result<Opened, PeerError> {
    let mut opened = Opened::plain(stream, &[]);
    opened.write.write_all(&mut ours.encode())?;
    Ok(opened)
}

/// The same encrypted. Our handshake goes with the encrypted one only where RC4 is all that is offered: a Transmission 3 that
/// is offered plaintext too, and chooses it, takes the encrypted first words for plaintext and hangs up.
pub(super) fn dial(
    stream: Stream,
    ours: &Handshake,
    encryption: Encryption,
    deadline: Instant,
) -> Result<Opened, NotVeiled> {
    let given_up = |why: PeerError| NotVeiled { why, perhaps_plain: false };
    let entropy = Entropy::new().map_err(|error| given_up(error.into()))?;
    let methods = methods(encryption);
    let with_it = methods == Methods::Rc4;
    let first_words = if with_it { ours.encode().to_vec() } else { Vec::new() };
    let mut machine = Dialler::new(entropy, ours.info_hash, methods, first_words);
    let (mut read, mut write) = plain(stream.clone(), &[]);
    let mut first = Vec::new();
    let mut step = |machine: &mut Dialler| {
        transmit(&mut write, machine.poll_transmit())?;
        let mut bytes = [0; CHUNK];
        let n = read_some(&mut read, &mut bytes, deadline)?;
        if first.len() < MARK {
            first.extend_from_slice(&bytes[..n]);
            if first.len() >= MARK && HandshakeHead::may_begin_with(&first[..MARK]) {
                return Err(PeerError::NotEncrypted);
            }
        }
        Ok(machine.handle_bytes(&bytes[..n])?)
    };
    loop {
        match step(&mut machine) {
            Ok(None) => {}
            Ok(Some(end)) => {
                let mut opened = Opened::veiled(stream, end);
                if !with_it {
                    opened.write.write_all(&mut ours.encode()).map_err(|error| given_up(error.into()))?;
                }
                return Ok(opened);
            }
            Err(why) => return Err(NotVeiled { why, perhaps_plain: !machine.is_understood() }),
        }
    }
}

/// Begins a connection that somebody made to us: it is seen from its first bytes which of the two it is. `find` knows our
/// torrents by what stands for them in an encrypted handshake.
pub(super) fn answer(
    stream: Stream,
    encryption: Encryption,
    deadline: Instant,
    find: impl Fn(&Sha1Hash) -> Option<InfoHash>,
) -> Result<Opened, PeerError> {
    let (mut read, _) = plain(stream.clone(), &[]);
    let mut first = [0; Handshake::LEN];
    let mut filled = 0;
    while filled < MARK {
        filled += read_some(&mut read, &mut first[filled..], deadline)?;
        let plain = HandshakeHead::may_begin_with(&first[..filled.min(MARK)]);
        match encryption {
            Encryption::Off if !plain => return Err(PeerError::NotBitTorrent),
            _ if !plain => return unveil(stream, encryption, deadline, &first[..filled], find),
            // It could be a public key that happens to begin like this.
            Encryption::Require if filled >= MARK => return Err(PeerError::NotEncrypted),
            _ => {}
        }
    }
    Ok(Opened::plain(stream, &first[..filled]))
}

fn unveil(
    stream: Stream,
    encryption: Encryption,
    deadline: Instant,
    first: &[u8],
    find: impl Fn(&Sha1Hash) -> Option<InfoHash>,
) -> Result<Opened, PeerError> {
    let mut machine = Answerer::new(Entropy::new()?, methods(encryption));
    let (mut read, mut write) = plain(stream.clone(), &[]);
    let mut end = machine.handle_bytes(first, &find)?;
    let mut bytes = [0; CHUNK];
    loop {
        transmit(&mut write, machine.poll_transmit())?;
        if let Some(end) = end {
            return Ok(Opened::veiled(stream, end));
        }
        let n = read_some(&mut read, &mut bytes, deadline)?;
        end = machine.handle_bytes(&bytes[..n], &find)?;
    }
}

fn methods(encryption: Encryption) -> Methods {
    match encryption {
        Encryption::Require => Methods::Rc4,
        Encryption::Prefer | Encryption::Off => Methods::Any,
    }
}

fn transmit(stream: &mut WriteHalf, bytes: Option<Vec<u8>>) -> Result<(), PeerError> {
    bytes.map_or(Ok(()), |mut bytes| Ok(stream.write_all(&mut bytes)?))
}

/// Reads once, until the deadline at the latest; at least one byte.
pub(super) fn read_some(stream: &mut ReadHalf, bytes: &mut [u8], deadline: Instant) -> Result<usize, PeerError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(PeerError::HandshakeTimeout);
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(bytes) {
            Ok(0) => return Err(PeerError::Closed),
            Ok(n) => return Ok(n),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(PeerError::HandshakeTimeout);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}
