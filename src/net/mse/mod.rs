//! Message stream encryption (MSE, "protocol encryption"): the handshake as two machines, one for who dials and one for who
//! is called, that take bytes in any portions and never touch a socket.
//!
//! It owns the layout of the handshake and what must be bounded in it. It refuses more padding than the specification
//! allows, keys that would make the secret known, and what was not offered; so it buffers some 1,200 bytes of a handshake,
//! whatever the other side sends or claims. There is no BEP; what is here is what is said at
//! <https://wiki.vuze.com/w/Message_Stream_Encryption>, as libtorrent and Transmission speak it.
//!
//! ```text
//! A dials, B is called; SKEY is the info-hash, S the shared secret; all numbers are big-endian
//!
//! A -> B  Ya (96 bytes), PadA (0..=512)
//! B -> A  Yb (96 bytes), PadB (0..=512)
//! A -> B  HASH("req1", S), HASH("req2", SKEY) xor HASH("req3", S),
//!         encrypted with RC4, key HASH("keyA", S, SKEY):
//!         VC (8 zeros), crypto_provide (4), len PadC (2), PadC (0..=512), len IA (2), IA
//! B -> A  encrypted with RC4, key HASH("keyB", S, SKEY):
//!         VC (8 zeros), crypto_select (4), len PadD (2), PadD (0..=512)
//! ```
//!
//! What follows in both directions goes on in the same RC4 streams, or is plaintext, as `crypto_select` says. IA, the
//! beginning of what A has to say, is encrypted in either case.

mod dh;
mod rc4;

use std::io;

use self::dh::{KeyBytes, PRIVATE_LEN, PrivateKey};
pub(crate) use self::rc4::Rc4;
use crate::hash::{Sha1Hash, sha1};
use crate::metainfo::InfoHash;

/// The most padding in one place.
const MAX_PADDING: usize = 512;
/// The verification constant: so many zeros.
const VC_LEN: usize = 8;
/// What stands encrypted before PadC and PadD: VC, methods, length.
const CHOICE_LEN: usize = VC_LEN + 4 + 2;

/// How the bytes after the handshake are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Method {
    /// As they are.
    Plaintext,
    /// Encrypted.
    Rc4,
}

/// The methods that one side offers or takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Methods {
    /// Both. Who is asked takes plaintext.
    Any,
    /// RC4 alone.
    Rc4,
}

/// What nobody may be able to guess, for one handshake.
#[derive(Debug)]
pub(crate) struct Entropy {
    private: PrivateKey,
    padding: fastrand::Rng,
}

/// The end of a handshake: what both sides agreed on, and where the byte streams stand.
#[derive(Debug)]
pub(crate) struct Agreed {
    /// The torrent whose info-hash the dialling side knows.
    pub(crate) info_hash: InfoHash,
    pub(crate) method: Method,
    /// How to read what follows: so many bytes are to be decrypted.
    pub(crate) reading: Option<(Box<Rc4>, u64)>,
    /// By what to encrypt what is sent from now on.
    pub(crate) writing: Option<Box<Rc4>>,
    /// What was received behind the handshake, as it came.
    pub(crate) early: Vec<u8>,
}

/// What is wrong with the other side's handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum MseError {
    #[error("a public key that gives the secret away")]
    PublicKey,
    #[error("more than 512 bytes of padding")]
    Padding,
    #[error("it knows no torrent of ours")]
    UnknownTorrent,
    #[error("a verification constant that is not zero")]
    Verification,
    #[error("a method that was not offered, or none in common")]
    Method,
}

/// Who dials.
#[derive(Debug)]
pub(crate) struct Dialler {
    entropy: Entropy,
    info_hash: InfoHash,
    offer: Methods,
    /// What goes with the handshake.
    first: Vec<u8>,
    input: Input,
    out: Vec<u8>,
    state: Dialling,
}

#[derive(Debug)]
enum Dialling {
    Key,
    /// Looks for the encrypted VC behind the padding.
    Answer(Keys),
    /// So much padding is left.
    Padding(Keys, Method, usize),
    Over,
}

/// Who is called.
#[derive(Debug)]
pub(crate) struct Answerer {
    entropy: Entropy,
    takes: Methods,
    input: Input,
    out: Vec<u8>,
    state: Answering,
}

#[derive(Debug)]
enum Answering {
    Key,
    /// Looks for the hash that ends the padding.
    Proof(Box<KeyBytes>),
    Torrent(Box<KeyBytes>),
    Offer(InfoHash, Keys),
    /// So much padding comes before the length of IA.
    Padding(InfoHash, Keys, Method, usize),
    Over,
}

/// The two streams of a connection.
#[derive(Debug)]
struct Keys {
    incoming: Box<Rc4>,
    outgoing: Box<Rc4>,
}

/// What was received and not understood yet.
#[derive(Debug, Default)]
struct Input {
    bytes: Vec<u8>,
    at: usize,
    /// How much behind `at` has been searched in vain.
    searched: usize,
}

/// What stands for a torrent in the handshake, so that it cannot be read off: a session keeps it for each of its
/// torrents and finds the caller's by it.
pub(crate) fn torrent_name(info_hash: &InfoHash) -> Sha1Hash {
    sha1([b"req2", info_hash.as_bytes().as_slice()])
}

impl Method {
    fn bits(self) -> u32 {
        match self {
            Self::Plaintext => 1,
            Self::Rc4 => 2,
        }
    }
}

impl Methods {
    fn bits(self) -> u32 {
        match self {
            Self::Any => Method::Plaintext.bits() | Method::Rc4.bits(),
            Self::Rc4 => Method::Rc4.bits(),
        }
    }

    /// Of what is offered, what costs least.
    fn choose(self, offered: u32) -> Result<Method, MseError> {
        let common = self.bits() & offered;
        let choices = [Method::Plaintext, Method::Rc4];
        choices.into_iter().find(|method| method.bits() & common != 0).ok_or(MseError::Method)
    }
}

impl Entropy {
    /// From the system.
    pub(crate) fn new() -> io::Result<Self> {
        let mut bytes = [0; PRIVATE_LEN + 8];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        let (private, seed) = bytes.split_first_chunk().expect("it is longer than a private key");
        Ok(Self::from_seed(private, u64::from_ne_bytes(seed.try_into().expect("the other 8 bytes"))))
    }

    /// As given, for tests.
    pub(crate) fn from_seed(private: &[u8; PRIVATE_LEN], padding: u64) -> Self {
        Self { private: PrivateKey::new(private), padding: fastrand::Rng::with_seed(padding) }
    }

    /// Some padding that looks like what is encrypted.
    fn pad(&mut self, out: &mut Vec<u8>) {
        let len = self.padding.usize(..=MAX_PADDING);
        let at = out.len();
        out.resize(at + len, 0);
        self.padding.fill(&mut out[at..]);
    }
}

impl Dialler {
    /// Calls for a torrent. `first` is what goes with the handshake, at most 64 KiB: the other side has it a round trip
    /// sooner.
    pub(crate) fn new(mut entropy: Entropy, info_hash: InfoHash, offer: Methods, first: Vec<u8>) -> Self {
        let mut out = entropy.private.public().to_vec();
        entropy.pad(&mut out);
        Self { entropy, info_hash, offer, first, input: Input::default(), out, state: Dialling::Key }
    }

    /// Takes bytes in; says when hands are shaken. After that, or after an error, it takes nothing any more.
    pub(crate) fn handle_bytes(&mut self, bytes: &[u8]) -> Result<Option<Agreed>, MseError> {
        self.input.bytes.extend_from_slice(bytes);
        loop {
            match std::mem::replace(&mut self.state, Dialling::Over) {
                Dialling::Key => {
                    let Some(theirs) = self.input.take() else {
                        self.state = Dialling::Key;
                        return Ok(None);
                    };
                    let secret = self.entropy.private.shared(theirs).ok_or(MseError::PublicKey)?;
                    let mut keys = Keys::new(&secret, &self.info_hash, true);
                    self.offer(&secret, &mut keys);
                    self.state = Dialling::Answer(keys);
                }
                Dialling::Answer(mut keys) => {
                    // What zeros look like when they are encrypted.
                    let mut verification = [0; VC_LEN];
                    keys.incoming.clone().apply(&mut verification);
                    if !self.input.find(&verification)? {
                        self.state = Dialling::Answer(keys);
                        return Ok(None);
                    }
                    let Some(answer) = self.input.take::<CHOICE_LEN>() else {
                        self.state = Dialling::Answer(keys);
                        return Ok(None);
                    };
                    let (selected, padding) = read_choice(answer, &mut keys.incoming)?;
                    let choices = [Method::Plaintext, Method::Rc4];
                    let method = choices.into_iter().find(|method| method.bits() == selected);
                    let method = method.filter(|method| method.bits() & self.offer.bits() != 0);
                    self.state = Dialling::Padding(keys, method.ok_or(MseError::Method)?, padding);
                }
                Dialling::Padding(mut keys, method, left) => {
                    let left = self.input.skip(left, &mut keys.incoming);
                    if left > 0 {
                        self.state = Dialling::Padding(keys, method, left);
                        return Ok(None);
                    }
                    return Ok(Some(self.input.agree(self.info_hash, method, keys, 0)));
                }
                Dialling::Over => return Ok(None),
            }
        }
    }

    /// What to send now, if anything.
    pub(crate) fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        (!self.out.is_empty()).then(|| std::mem::take(&mut self.out))
    }

    /// Whether the other side has sent a public key: it is one that knows this encryption.
    pub(crate) fn is_understood(&self) -> bool {
        !matches!(self.state, Dialling::Key)
    }

    fn offer(&mut self, secret: &KeyBytes, keys: &mut Keys) {
        let torrent = torrent_name(&self.info_hash);
        self.out.extend(sha1([b"req1", secret.as_slice()]));
        self.out.extend(masked(&torrent, secret));
        let at = self.out.len();
        write_choice(self.offer.bits(), &mut self.entropy, &mut self.out);
        let first = std::mem::take(&mut self.first);
        let len = u16::try_from(first.len()).unwrap_or(u16::MAX);
        self.out.extend(len.to_be_bytes());
        self.out.extend_from_slice(&first[..len.into()]);
        keys.outgoing.apply(&mut self.out[at..]);
    }
}

impl Answerer {
    pub(crate) fn new(entropy: Entropy, takes: Methods) -> Self {
        Self { entropy, takes, input: Input::default(), out: Vec::new(), state: Answering::Key }
    }

    /// Takes bytes in; says when hands are shaken, which is before IA has come. `find` knows torrents by their
    /// [`torrent_name`] and is asked once at most. After that, or after an error, nothing is taken in any more.
    pub(crate) fn handle_bytes(
        &mut self,
        bytes: &[u8],
        find: impl Fn(&Sha1Hash) -> Option<InfoHash>,
    ) -> Result<Option<Agreed>, MseError> {
        self.input.bytes.extend_from_slice(bytes);
        loop {
            match std::mem::replace(&mut self.state, Answering::Over) {
                Answering::Key => {
                    let Some(theirs) = self.input.take() else {
                        self.state = Answering::Key;
                        return Ok(None);
                    };
                    let secret = self.entropy.private.shared(theirs).ok_or(MseError::PublicKey)?;
                    self.out.extend(self.entropy.private.public());
                    self.entropy.pad(&mut self.out);
                    self.state = Answering::Proof(Box::new(secret));
                }
                Answering::Proof(secret) => {
                    if !self.input.find(&sha1([b"req1", secret.as_slice()]))? {
                        self.state = Answering::Proof(secret);
                        return Ok(None);
                    }
                    self.input.at += size_of::<Sha1Hash>();
                    self.state = Answering::Torrent(secret);
                }
                Answering::Torrent(secret) => {
                    let Some(name) = self.input.take::<20>() else {
                        self.state = Answering::Torrent(secret);
                        return Ok(None);
                    };
                    let info_hash = find(&masked(name, &secret)).ok_or(MseError::UnknownTorrent)?;
                    self.state = Answering::Offer(info_hash, Keys::new(&secret, &info_hash, false));
                }
                Answering::Offer(info_hash, mut keys) => {
                    let Some(offer) = self.input.take::<CHOICE_LEN>() else {
                        self.state = Answering::Offer(info_hash, keys);
                        return Ok(None);
                    };
                    let (provided, padding) = read_choice(offer, &mut keys.incoming)?;
                    let method = self.takes.choose(provided)?;
                    let at = self.out.len();
                    write_choice(method.bits(), &mut self.entropy, &mut self.out);
                    keys.outgoing.apply(&mut self.out[at..]);
                    self.state = Answering::Padding(info_hash, keys, method, padding);
                }
                Answering::Padding(info_hash, mut keys, method, left) => {
                    let left = self.input.skip(left, &mut keys.incoming);
                    let len = if left == 0 { self.input.take::<2>() } else { None };
                    let Some(mut len) = len.copied() else {
                        self.state = Answering::Padding(info_hash, keys, method, left);
                        return Ok(None);
                    };
                    keys.incoming.apply(&mut len);
                    return Ok(Some(self.input.agree(info_hash, method, keys, u16::from_be_bytes(len))));
                }
                Answering::Over => return Ok(None),
            }
        }
    }

    /// What to send now, if anything.
    pub(crate) fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        (!self.out.is_empty()).then(|| std::mem::take(&mut self.out))
    }
}

impl Keys {
    fn new(secret: &KeyBytes, info_hash: &InfoHash, dials: bool) -> Self {
        let stream = |name: &[u8; 4]| {
            let key = sha1([name.as_slice(), secret.as_slice(), info_hash.as_bytes().as_slice()]);
            Box::new(Rc4::new(&key))
        };
        let (a, b) = (stream(b"keyA"), stream(b"keyB"));
        if dials { Self { incoming: b, outgoing: a } } else { Self { incoming: a, outgoing: b } }
    }
}

impl Input {
    /// The next bytes, if all of them are there.
    fn take<const N: usize>(&mut self) -> Option<&[u8; N]> {
        let taken = self.bytes[self.at..].first_chunk()?;
        self.at += N;
        Some(taken)
    }

    /// Goes on to where `pattern` begins, which padding may stand before. `false`: it has not come yet.
    fn find(&mut self, pattern: &[u8]) -> Result<bool, MseError> {
        let rest = &self.bytes[self.at..];
        let found = rest[self.searched..].windows(pattern.len()).position(|window| window == pattern);
        match found.map(|found| self.searched + found) {
            Some(padding) if padding <= MAX_PADDING => {
                (self.at, self.searched) = (self.at + padding, 0);
                Ok(true)
            }
            None if rest.len() < MAX_PADDING + pattern.len() => {
                self.searched = rest.len().saturating_sub(pattern.len() - 1);
                Ok(false)
            }
            _ => Err(MseError::Padding),
        }
    }

    /// Goes past padding and says how much of it is still to come.
    fn skip(&mut self, padding: usize, cipher: &mut Rc4) -> usize {
        let there = padding.min(self.bytes.len() - self.at);
        cipher.apply(&mut self.bytes[self.at..][..there]);
        self.at += there;
        padding - there
    }

    /// Ends the handshake; `first` is the length of IA.
    fn agree(&mut self, info_hash: InfoHash, method: Method, keys: Keys, first: u16) -> Agreed {
        let early = self.bytes.split_off(self.at);
        let (reading, writing) = match method {
            Method::Rc4 => (Some((keys.incoming, u64::MAX)), Some(keys.outgoing)),
            Method::Plaintext => (Some((keys.incoming, first.into())).filter(|_| first > 0), None),
        };
        Agreed { info_hash, method, reading, writing, early }
    }
}

/// The name of a torrent, hidden or brought to light.
fn masked(name: &Sha1Hash, secret: &KeyBytes) -> Sha1Hash {
    let mask = sha1([b"req3", secret.as_slice()]);
    std::array::from_fn(|at| name[at] ^ mask[at])
}

/// VC, methods, the length of padding, and padding: not encrypted yet.
fn write_choice(methods: u32, entropy: &mut Entropy, out: &mut Vec<u8>) {
    out.extend([0; VC_LEN]);
    out.extend(methods.to_be_bytes());
    let at = out.len();
    out.extend([0; 2]);
    entropy.pad(out);
    let len = (out.len() - at - 2) as u16;
    out[at..at + 2].copy_from_slice(&len.to_be_bytes());
}

/// The methods and how much padding follows.
fn read_choice(bytes: &[u8; CHOICE_LEN], cipher: &mut Rc4) -> Result<(u32, usize), MseError> {
    let mut bytes = *bytes;
    cipher.apply(&mut bytes);
    let [verification @ .., m0, m1, m2, m3, len0, len1] = bytes;
    if verification != [0; VC_LEN] {
        return Err(MseError::Verification);
    }
    let padding = usize::from(u16::from_be_bytes([len0, len1]));
    if padding > MAX_PADDING {
        return Err(MseError::Padding);
    }
    Ok((u32::from_be_bytes([m0, m1, m2, m3]), padding))
}

#[cfg(test)]
mod tests;
