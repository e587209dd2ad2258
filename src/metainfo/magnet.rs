//! Magnet links: a torrent by its info-hash, with hints where to find it (BEP 9, 53).
//!
//! It owns the text: reading one that anybody may have written, and printing one that every client reads. It resolves no
//! names and asks nobody. What names the torrent has to be right, or the whole link is an error; of everything else what
//! is of use is taken, within bounds, and the rest is left out, as other clients do: a link with one broken tracker still
//! leads to its torrent.
//!
//! ```text
//! magnet:?xt=urn:btih:HASH   40 hexadecimal digits or 32 of base32
//!        &xt=urn:btmh:1220.. the v2 info-hash (BEP 52), 64 hexadecimal digits after the code for SHA-256
//!        &dn=NAME            &tr=URL  tracker, also tr.1= and so on     &ws=URL  web seed (BEP 19)
//!        &x.pe=HOST:PORT     a peer   &dht=HOST:PORT  a node of the DHT &so=0,2-5 files to select (BEP 53)
//! ```

use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{InfoHash, Metainfo};

/// The longest link that is read, in bytes.
const MAX_LEN: usize = 64 * 1024;
/// The most trackers, web seeds, and peers or nodes that are kept of one link.
const MAX_URLS: usize = 64;
const MAX_HOSTS: usize = 128;
/// The longest URL that is kept, and the longest name, in bytes.
const MAX_URL_LEN: usize = 2048;
const MAX_NAME_LEN: usize = 1024;
/// The greatest number of a file, and the most ranges of them, that `so` may select.
const MAX_FILE: u32 = 9_999_999;
const MAX_RANGES: usize = 1024;

/// What stays as it is in a printed value: RFC 3986's unreserved characters.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A magnet link. At least one of the info-hashes is there in any that was read.
///
/// ```
/// use ropewalk::Magnet;
///
/// let link = "magnet:?xt=urn:btih:0123456789abcdef0123456789abcdef01234567&dn=a+name&x.pe=192.0.2.7:6881";
/// let magnet: Magnet = link.parse()?;
/// assert_eq!(magnet.name.as_deref(), Some("a name"));
/// assert_eq!(magnet.peers[0].to_string(), "192.0.2.7:6881");
/// # Ok::<(), ropewalk::metainfo::MagnetError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Magnet {
    /// The SHA-1 info-hash of a v1 or hybrid torrent.
    pub info_hash: Option<InfoHash>,
    /// The SHA-256 info-hash of a v2 or hybrid torrent (BEP 52).
    pub info_hash_v2: Option<[u8; 32]>,
    /// What the torrent is called until its metadata says so.
    pub name: Option<String>,
    /// The trackers (`http`, `https`, `udp`, `ws` or `wss`), none twice. Each is a tier of its own.
    pub trackers: Vec<String>,
    /// The web seeds (`http` or `https`), none twice.
    pub web_seeds: Vec<String>,
    /// Peers to connect to, none twice.
    pub peers: Vec<Host>,
    /// Nodes of the DHT to begin with, none twice.
    pub nodes: Vec<Host>,
    /// The files to download; everything where it is empty.
    pub select: Selection,
}

/// A host and a port that a link names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address.
    Addr(SocketAddr),
    /// A name that has to be looked up first, and a port.
    Name(String, u16),
}

/// Files by their places in the metainfo, counted from 0, padding included (BEP 53).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// In order, with at least one file between two of them.
    ranges: Vec<RangeInclusive<u32>>,
}

/// Why a text is no magnet link that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MagnetError {
    /// It does not begin like one, and is no info-hash either.
    #[error("not a magnet link: it has to begin with `magnet:?`")]
    NotAMagnet,
    /// It is longer than any real one.
    #[error("the magnet link has {len} bytes, at most {MAX_LEN} are read")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// It names no torrent.
    #[error("the magnet link names no torrent: `xt=urn:btih:` and an info-hash are missing")]
    NoInfoHash,
    /// It names something that changes over time.
    #[error("the magnet link is of a torrent that its publisher can change (BEP 46), which ropewalk cannot follow")]
    Mutable,
    /// The text after `urn:btih:` is no info-hash.
    #[error("`{found}` is no info-hash: after `urn:btih:` come 40 hexadecimal digits, or 32 of base32")]
    InfoHash {
        /// The beginning of what is there.
        found: String,
    },
    /// The text after `urn:btmh:` is no v2 info-hash.
    #[error("`{found}` is no v2 info-hash: after `urn:btmh:` come 1220 and 64 hexadecimal digits")]
    InfoHashV2 {
        /// The beginning of what is there.
        found: String,
    },
    /// A `%` of `xt` is not followed by two hexadecimal digits.
    #[error("a `%` in `xt` is not followed by two hexadecimal digits")]
    Escape,
    /// Two different info-hashes of the same kind.
    #[error("the magnet link names two different torrents")]
    TwoTorrents,
}

impl Magnet {
    /// A link to a torrent and nothing else.
    pub fn new(info_hash: InfoHash) -> Self {
        Self { info_hash: Some(info_hash), ..Self::default() }
    }

    /// The link to a torrent, with its name, trackers and web seeds.
    pub fn of(metainfo: &Metainfo) -> Self {
        Self {
            name: Some(metainfo.name().to_owned()),
            trackers: metainfo.trackers().concat(),
            web_seeds: metainfo.web_seeds().to_vec(),
            ..Self::new(metainfo.info_hash())
        }
    }

    /// Takes in one `key=value`, both as they stand in the link.
    fn take(&mut self, key: &str, value: &str) -> Result<(), MagnetError> {
        // Keys may be numbered, to be different from each other: `tr.1`.
        let base = match key.rsplit_once('.') {
            Some((base, number)) if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => base,
            _ => key,
        };
        match base.to_ascii_lowercase().as_str() {
            "xt" => self.take_topic(&unescape(value).ok_or(MagnetError::Escape)?),
            "dn" => {
                let name = unescape(&value.replace('+', " ")).filter(|name| !name.is_empty());
                if let (None, Some(mut name)) = (&self.name, name) {
                    let fits = |&at: &usize| name.is_char_boundary(at);
                    name.truncate((0..=name.len().min(MAX_NAME_LEN)).rev().find(fits).unwrap_or(0));
                    self.name = Some(name);
                }
                Ok(())
            }
            "tr" => {
                keep(&mut self.trackers, MAX_URLS, url(value, &["http", "https", "udp", "ws", "wss"]));
                Ok(())
            }
            "ws" => {
                keep(&mut self.web_seeds, MAX_URLS, url(value, &["http", "https"]));
                Ok(())
            }
            "x.pe" => {
                keep(&mut self.peers, MAX_HOSTS, unescape(value).and_then(|host| host.parse().ok()));
                Ok(())
            }
            "dht" => {
                keep(&mut self.nodes, MAX_HOSTS, unescape(value).and_then(|host| host.parse().ok()));
                Ok(())
            }
            "so" => {
                unescape(value).iter().for_each(|list| self.select.take(list));
                Ok(())
            }
            // BEP 46, which has the key in another parameter.
            "xs" if self.info_hash.is_none() && value.to_ascii_lowercase().starts_with("urn:btpk:") => {
                Err(MagnetError::Mutable)
            }
            _ => Ok(()),
        }
    }

    /// Takes in an `xt`; other networks' are let pass.
    fn take_topic(&mut self, topic: &str) -> Result<(), MagnetError> {
        let found = |hash: &str| hash.chars().filter(|c| !c.is_control()).take(80).collect();
        if let Some(hash) = after(topic, "urn:btih:") {
            let hash = info_hash(hash).ok_or_else(|| MagnetError::InfoHash { found: found(hash) })?;
            return put(&mut self.info_hash, hash);
        }
        if let Some(hash) = after(topic, "urn:btmh:") {
            // A multihash: 0x12 is SHA-256, 0x20 its length.
            let digits = after(hash, "1220").and_then(hex::<32>);
            return put(&mut self.info_hash_v2, digits.ok_or_else(|| MagnetError::InfoHashV2 { found: found(hash) })?);
        }
        Ok(())
    }
}

/// Reads a link, or a bare info-hash of 40 hexadecimal or 32 base32 digits.
impl FromStr for Magnet {
    type Err = MagnetError;

    fn from_str(text: &str) -> Result<Self, MagnetError> {
        if let Some(hash) = info_hash(text) {
            return Ok(Self::new(hash));
        }
        if text.len() > MAX_LEN {
            return Err(MagnetError::TooLong { len: text.len() });
        }
        // Some write it like a URL with an empty host.
        let rest = after(text, "magnet:").ok_or(MagnetError::NotAMagnet)?;
        let query = rest.strip_prefix("///").unwrap_or(rest).strip_prefix('?').ok_or(MagnetError::NotAMagnet)?;
        let mut magnet = Self::default();
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            magnet.take(key, value)?;
        }
        match (magnet.info_hash, magnet.info_hash_v2) {
            (None, None) => Err(MagnetError::NoInfoHash),
            _ => Ok(magnet),
        }
    }
}

impl fmt::Display for Magnet {
    /// The link, in the order and with the escapes that other clients print.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escaped = |text: &String| utf8_percent_encode(text, ESCAPED).to_string();
        let mut pairs: Vec<(&str, String)> = Vec::new();
        pairs.extend(self.info_hash.iter().map(|hash| ("xt", format!("urn:btih:{hash}"))));
        if let Some(hash) = &self.info_hash_v2 {
            let mut topic = String::from("urn:btmh:1220");
            for byte in hash {
                write!(topic, "{byte:02x}")?;
            }
            pairs.push(("xt", topic));
        }
        pairs.extend(self.name.iter().map(|name| ("dn", escaped(name))));
        pairs.extend(self.trackers.iter().map(|url| ("tr", escaped(url))));
        pairs.extend(self.web_seeds.iter().map(|url| ("ws", escaped(url))));
        pairs.extend(self.peers.iter().map(|host| ("x.pe", host.to_string())));
        pairs.extend(self.nodes.iter().map(|host| ("dht", host.to_string())));
        if !self.select.is_empty() {
            pairs.push(("so", self.select.to_string()));
        }
        f.write_str("magnet:")?;
        for (at, (key, value)) in pairs.iter().enumerate() {
            write!(f, "{}{key}={value}", if at == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

impl Host {
    /// The address, where it is one.
    pub fn addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Addr(addr) => Some(*addr),
            Self::Name(..) => None,
        }
    }

    /// The name and the port, where it has to be looked up.
    pub fn name(&self) -> Option<(String, u16)> {
        match self {
            Self::Addr(_) => None,
            Self::Name(name, port) => Some((name.clone(), *port)),
        }
    }
}

/// From `HOST:PORT`, `[IPV6]:PORT` or an address and a port; the port is not 0.
impl FromStr for Host {
    type Err = ParseHostError;

    fn from_str(text: &str) -> Result<Self, ParseHostError> {
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return if addr.port() == 0 { Err(ParseHostError) } else { Ok(Self::Addr(addr)) };
        }
        let (name, port) = text.rsplit_once(':').ok_or(ParseHostError)?;
        let port = port.parse().ok().filter(|&port| port != 0).ok_or(ParseHostError)?;
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        let is_name = !name.is_empty() && name.len() <= 253 && name.bytes().all(letters);
        // What has no letter is no name, but an address that is none.
        if !is_name || !name.bytes().any(|byte| byte.is_ascii_alphabetic()) {
            return Err(ParseHostError);
        }
        Ok(Self::Name(name.to_ascii_lowercase(), port))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(addr) => addr.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// The text is not a host and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a host is written like 192.0.2.7:6881, [2001:db8::7]:6881 or host.example:6881")]
pub struct ParseHostError;

impl Selection {
    /// Whether nothing is selected, which means everything.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether it names this file.
    pub fn contains(&self, file: u32) -> bool {
        self.ranges.iter().any(|range| range.contains(&file))
    }

    /// The ranges, in order and apart from each other.
    pub fn ranges(&self) -> &[RangeInclusive<u32>] {
        &self.ranges
    }

    /// Adds files. Numbers above 9,999,999 and ranges that end before they begin are left out, as is what would make more
    /// than 1,024 ranges.
    pub fn add(&mut self, files: RangeInclusive<u32>) {
        if files.is_empty() || *files.end() > MAX_FILE || self.ranges.len() >= MAX_RANGES {
            return;
        }
        self.ranges.push(files);
        self.ranges.sort_unstable_by_key(|range| *range.start());
        self.ranges.dedup_by(|next, range| {
            let touches = *next.start() <= range.end().saturating_add(1);
            if touches {
                *range = *range.start()..=*range.end().max(next.end());
            }
            touches
        });
    }

    /// Adds what a list like `0,2,4-7` names; what makes no sense is left out.
    fn take(&mut self, list: &str) {
        for part in list.split(',').take(MAX_RANGES) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Some(first), Some(last)) = (number(first), number(last)) {
                self.add(first..=last);
            }
        }
    }
}

impl FromIterator<u32> for Selection {
    fn from_iter<I: IntoIterator<Item = u32>>(files: I) -> Self {
        let mut selection = Self::default();
        files.into_iter().for_each(|file| selection.add(file..=file));
        selection
    }
}

impl fmt::Display for Selection {
    /// As in `so`: `0,2,4-7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.ranges.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { "," })?;
            match range.start() == range.end() {
                true => write!(f, "{}", range.start())?,
                false => write!(f, "{}-{}", range.start(), range.end())?,
            }
        }
        Ok(())
    }
}

/// Sets what may be said once, or twice the same.
fn put<T: PartialEq>(slot: &mut Option<T>, value: T) -> Result<(), MagnetError> {
    if slot.as_ref().is_some_and(|before| *before != value) {
        return Err(MagnetError::TwoTorrents);
    }
    *slot = Some(value);
    Ok(())
}

/// Keeps a value that is of use and new, where there is room.
fn keep<T: PartialEq>(list: &mut Vec<T>, most: usize, value: Option<T>) {
    if let Some(value) = value.filter(|value| list.len() < most && !list.contains(value)) {
        list.push(value);
    }
}

/// An unescaped URL with one of these schemes and a host.
fn url(value: &str, schemes: &[&str]) -> Option<String> {
    let url = unescape(value)?;
    let (scheme, rest) = url.split_once("://")?;
    let known = schemes.iter().any(|known| scheme.eq_ignore_ascii_case(known));
    let odd = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '<' | '>' | '"');
    let host = rest.starts_with(|c: char| c.is_alphanumeric() || c == '[');
    (known && host && url.len() <= MAX_URL_LEN && !url.contains(odd)).then_some(url)
}

/// The info-hash in 40 hexadecimal digits or 32 of base32 (RFC 4648), of either case.
fn info_hash(text: &str) -> Option<InfoHash> {
    if text.len() == 40 {
        return hex(text).map(InfoHash::new);
    }
    if text.len() != 32 {
        return None;
    }
    let mut bytes = [0; 20];
    for (chunk, digits) in bytes.chunks_exact_mut(5).zip(text.as_bytes().chunks_exact(8)) {
        let mut bits = 0_u64;
        for digit in digits {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a',
                b'2'..=b'7' => digit - b'2' + 26,
                _ => return None,
            };
            bits = bits << 5 | u64::from(value);
        }
        chunk.copy_from_slice(&bits.to_be_bytes()[3..]);
    }
    Some(InfoHash::new(bytes))
}

/// `N` bytes in hexadecimal digits.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (pairs, odd) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !odd.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, &[high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = (digit(high)? << 4 | digit(low)?) as u8;
    }
    Some(bytes)
}

/// What follows a beginning that is ASCII, of either case.
fn after<'a>(text: &'a str, beginning: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(beginning.len())?;
    start.eq_ignore_ascii_case(beginning).then_some(rest)
}

/// A value without its escapes; `None` where one of them is broken, or where they hide what is not UTF-8.
fn unescape(value: &str) -> Option<String> {
    let mut parts = value.split('%');
    let whole =
        |part: &str| part.as_bytes().first_chunk::<2>().is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
    parts.next();
    if !parts.all(whole) {
        return None;
    }
    percent_decode_str(value).decode_utf8().ok().map(Into::into)
}

/// A number in digits alone.
fn number(text: &str) -> Option<u32> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests;
