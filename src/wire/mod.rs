//! Bytes of the peer and tracker protocols to types and back.
//!
//! It owns the layouts: the handshake and messages between peers (BEP 3, 6, 10, 11), the requests and replies of trackers
//! (BEP 3, 15, 23), the messages between nodes of the DHT (BEP 5), the items that they store (BEP 44), what is announced on
//! the local network (BEP 14), and the header of uTP (BEP 29). It refuses sockets, clocks and randomness, and whatever a
//! length field claims beyond the bytes that are there: lengths are checked before anything is allocated.

use std::net::IpAddr;

mod client;
pub mod extension;
pub mod handshake;
pub mod item;
pub mod krpc;
pub mod lsd;
pub mod message;
pub mod metadata;
pub mod pex;
pub mod tracker;
pub mod utp;

/// The bytes ended before the value did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{wanted} more bytes wanted, {left} left")]
pub struct Truncated {
    /// How many bytes the value takes.
    pub wanted: usize,
    /// How many bytes there were.
    pub left: usize,
}

/// A cursor over received bytes, big endian, that never reads past their end.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A cursor at the first of these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The bytes not yet read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether every byte has been read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Truncated> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Truncated { wanted: len, left: self.rest.len() })?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Truncated { wanted: N, left: self.rest.len() })?;
        self.rest = rest;
        Ok(*taken)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Result<u8, Truncated> {
        self.array().map(u8::from_be_bytes)
    }

    /// The next 2 bytes as a number.
    pub fn u16(&mut self) -> Result<u16, Truncated> {
        self.array().map(u16::from_be_bytes)
    }

    /// The next 4 bytes as a number.
    pub fn u32(&mut self) -> Result<u32, Truncated> {
        self.array().map(u32::from_be_bytes)
    }

    /// The next 8 bytes as a number.
    pub fn u64(&mut self) -> Result<u64, Truncated> {
        self.array().map(u64::from_be_bytes)
    }
}

/// 4 or 16 bytes as an address (BEP 10, 24).
fn compact_ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Text that somebody unknown wrote, for people: at most `max_chars` characters, what is not UTF-8 and what could
/// play with a terminal (control and direction characters) replaced.
fn display_text(bytes: &[u8], max_chars: usize) -> String {
    // A character takes at most 4 bytes; more need not be looked at.
    let bytes = &bytes[..bytes.len().min(4 * max_chars)];
    let harmless = |c: char| {
        !c.is_control() && !matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    String::from_utf8_lossy(bytes)
        .chars()
        .take(max_chars)
        .map(|c| if harmless(c) { c } else { char::REPLACEMENT_CHARACTER })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Reader, Truncated, display_text};

    #[test]
    fn text_for_people_is_short_and_harmless() {
        assert_eq!(display_text("\u{b5}Torrent 1.2".as_bytes(), 64), "\u{b5}Torrent 1.2");
        assert_eq!(display_text(b"\x1b[31m\xff\n", 64), "\u{fffd}[31m\u{fffd}\u{fffd}");
        assert_eq!(display_text("a\u{202e}b".as_bytes(), 64), "a\u{fffd}b");
        assert_eq!(display_text(&[b'x'; 1000], 64).len(), 64);
        assert_eq!(display_text("\u{10348}".repeat(3).as_bytes(), 2).chars().count(), 2);
    }

    #[test]
    fn a_reader_gives_big_endian_numbers_and_stops_at_the_end() {
        let mut reader = Reader::new(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(reader.u16(), Ok(0x0203));
        assert_eq!(reader.u32(), Ok(0x0405_0607));
        assert_eq!(reader.u64(), Ok(0x0809_0a0b_0c0d_0e0f));
        assert_eq!(reader.u16(), Err(Truncated { wanted: 2, left: 1 }));
        assert_eq!(reader.take(1), Ok([16].as_slice()));
        assert!(reader.is_empty());
        assert_eq!(reader.take(usize::MAX), Err(Truncated { wanted: usize::MAX, left: 0 }));
    }
}
