//! The two halves of a connection: what is read and what is written may be encrypted, each for itself, or not.
//!
//! A plaintext connection is a plain [`Stream`] in both directions: reading asks one branch per call whether there is
//! anything else to do, and who writes is told which of the two it has.

use std::io::{self, IoSliceMut, Read, Write};
use std::time::Duration;

use super::mse::{Agreed, Rc4};
use super::stream::Stream;

/// Reads a connection.
pub(crate) struct ReadHalf {
    stream: Stream,
    /// Nothing where bytes are read as they come.
    veil: Option<Box<Veil>>,
}

/// What stands between the socket and who reads.
#[derive(Default)]
struct Veil {
    /// What was received before there was this half, as it came, read up to `at`.
    early: Vec<u8>,
    at: usize,
    /// By what to decrypt, and how many bytes; what comes after them is plaintext.
    cipher: Option<(Box<Rc4>, u64)>,
}

/// Writes a connection.
pub(crate) enum WriteHalf {
    /// As it is.
    Plain(Stream),
    /// Encrypted.
    Rc4(Stream, Box<Rc4>),
}

/// A connection on which an encrypted handshake was agreed.
pub(crate) fn agreed(stream: Stream, agreed: Agreed) -> (ReadHalf, WriteHalf) {
    let veil = Veil { early: agreed.early, at: 0, cipher: agreed.reading };
    let write = match agreed.writing {
        Some(cipher) => WriteHalf::Rc4(stream.clone(), cipher),
        None => WriteHalf::Plain(stream.clone()),
    };
    (ReadHalf { stream, veil: veil.boxed() }, write)
}

/// A connection without encryption, of which these bytes were received already.
pub(crate) fn plain(stream: Stream, early: &[u8]) -> (ReadHalf, WriteHalf) {
    let veil = Veil { early: early.to_vec(), ..Veil::default() };
    (ReadHalf { stream: stream.clone(), veil: veil.boxed() }, WriteHalf::Plain(stream))
}

impl ReadHalf {
    /// How long a read may wait; `None` for as long as it takes.
    pub(crate) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(timeout)
    }

    fn read_veiled(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let Some(veil) = &mut self.veil else { return self.stream.read_vectored(bufs) };
        let n = match veil.read_early(bufs) {
            0 => self.stream.read_vectored(bufs)?,
            n => n,
        };
        veil.decrypt(bufs, n);
        if veil.is_over() {
            self.veil = None;
        }
        Ok(n)
    }
}

impl Veil {
    /// Fills the buffers with what was received before; says with how much.
    fn read_early(&mut self, bufs: &mut [IoSliceMut<'_>]) -> usize {
        let mut read = 0;
        for buf in bufs {
            let early = &self.early[self.at + read..];
            let n = early.len().min(buf.len());
            buf[..n].copy_from_slice(&early[..n]);
            read += n;
        }
        self.at += read;
        if self.at == self.early.len() {
            (self.early, self.at) = (Vec::new(), 0);
        }
        read
    }

    /// Decrypts the next `len` bytes, where they are encrypted.
    fn decrypt(&mut self, bufs: &mut [IoSliceMut<'_>], mut len: usize) {
        let Some((cipher, left)) = &mut self.cipher else { return };
        for buf in bufs {
            let received = len.min(buf.len());
            let encrypted = received.min(usize::try_from(*left).unwrap_or(usize::MAX));
            cipher.apply(&mut buf[..encrypted]);
            // All that there ever is, where the whole stream is encrypted: its end is out of reach.
            *left -= encrypted as u64;
            len -= received;
        }
    }

    /// Whether what comes from now on is to be read as it is.
    fn is_over(&self) -> bool {
        self.early.is_empty() && self.cipher.as_ref().is_none_or(|(_, left)| *left == 0)
    }

    fn boxed(self) -> Option<Box<Self>> {
        (!self.is_over()).then(|| Box::new(self))
    }
}

impl WriteHalf {
    /// Writes bytes that are not needed afterwards: they are encrypted where they are.
    pub(crate) fn write_all(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes),
            Self::Rc4(stream, cipher) => {
                cipher.apply(bytes);
                stream.write_all(bytes)
            }
        }
    }
}

impl Read for ReadHalf {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.veil {
            None => self.stream.read(buf),
            Some(_) => self.read_veiled(&mut [IoSliceMut::new(buf)]),
        }
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match self.veil {
            None => self.stream.read_vectored(bufs),
            Some(_) => self.read_veiled(bufs),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::{ReadHalf, WriteHalf, agreed, plain};
    use crate::metainfo::InfoHash;
    use crate::net::mse::{Agreed, Method, Rc4};
    use crate::net::{Arrival, Closer, Stream};

    fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let here = listener.accept().unwrap().0;
        (Stream::accepted(Arrival::Tcp(here.into()), &Closer::default()).unwrap(), there)
    }

    fn cipher() -> Box<Rc4> {
        Box::new(Rc4::new(&[1; 20]))
    }

    fn encrypted(text: &[u8]) -> Vec<u8> {
        let mut bytes = text.to_vec();
        cipher().apply(&mut bytes);
        bytes
    }

    fn end(method: Method, reading: Option<u64>, early: Vec<u8>) -> Agreed {
        let writing = (method == Method::Rc4).then(cipher);
        Agreed {
            info_hash: InfoHash::new([0; 20]),
            method,
            reading: reading.map(|left| (cipher(), left)),
            writing,
            early,
        }
    }

    fn read(half: &mut ReadHalf, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        half.read_exact(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_was_received_before_comes_first_and_costs_nothing_after() {
        let (here, mut there) = pair();
        let (mut half, _) = plain(here, b"early");
        there.write_all(b" and late").unwrap();
        assert_eq!(read(&mut half, 3), b"ear");
        assert!(half.veil.is_some());
        assert_eq!(read(&mut half, 11), b"ly and late");
        assert!(half.veil.is_none());
    }

    #[test]
    fn decryption_ends_in_the_middle_of_what_was_received() {
        for received_early in 0..=14 {
            let (here, mut there) = pair();
            let bytes = [&encrypted(b"hidden")[..], b" or open"].concat();
            let (mut half, write) = agreed(here, end(Method::Plaintext, Some(6), bytes[..received_early].to_vec()));
            assert!(matches!(write, WriteHalf::Plain(_)));
            there.write_all(&bytes[received_early..]).unwrap();
            assert_eq!(read(&mut half, 14), b"hidden or open");
            assert!(half.veil.is_none());
        }
    }

    #[test]
    fn both_directions_are_encrypted() {
        let (here, mut there) = pair();
        let (mut half, mut write) = agreed(here, end(Method::Rc4, Some(u64::MAX), encrypted(b"there")));
        assert_eq!(read(&mut half, 5), b"there");
        write.write_all(&mut b"and ".to_vec()).unwrap();
        write.write_all(&mut b"back".to_vec()).unwrap();
        let mut bytes = [0; 8];
        there.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes[..], encrypted(b"and back"));
    }
}
