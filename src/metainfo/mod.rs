//! What a .torrent file says.
//!
//! It owns the reading and the building of metainfo (BEP 3, 12, 17, 19, 27, 47) and the arithmetic of pieces. The bytes
//! are untrusted: what a download needs and does not find in order is a typed error that names the field, other fields
//! that are malformed count as absent, and names of files are repaired (the rules stand beside [`Metainfo::layout`]).
//! It hashes no content and, [`Metainfo::read`] aside, touches no file.
//!
//! ```
//! use ropewalk::metainfo::{Content, Creation, Metainfo};
//!
//! let creation = Creation::new("hello.txt", Content::File { len: 5, executable: false }, 16 * 1024);
//! let hashes = [0; 20]; // of the one piece
//! let bytes = creation.prepare()?.finish(&hashes)?;
//! let metainfo = Metainfo::from_bytes(&bytes)?;
//! assert_eq!(metainfo.name(), "hello.txt");
//! assert_eq!(metainfo.layout().total_len(), 5);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod create;
mod layout;
mod magnet;
mod names;
mod parse;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use crate::bencode::{self, Item};

pub use create::{Content, CreateError, Creation, NewFile, Prepared, auto_piece_length};
pub use layout::{Attributes, BLOCK_LEN, Block, FileEntry, FileIndex, Layout, PieceIndex, Segment};
pub use magnet::{Host, Magnet, MagnetError, ParseHostError, Selection};

/// The longest piece that is accepted, in bytes: 256 MiB. Any length from 1 up to it will do, powers of two or not.
pub const MAX_PIECE_LENGTH: u32 = 256 << 20;

/// The largest .torrent file that [`Metainfo::read`] reads, in bytes: 256 MiB, some 13 million pieces.
pub const MAX_FILE_LEN: u64 = 256 << 20;

/// A .torrent file (BEP 3, v1; of a hybrid with BEP 52 the v1 part). Cheap to clone: the bytes are shared.
#[derive(Clone)]
pub struct Metainfo(Arc<Inner>);

struct Inner {
    bytes: Vec<u8>,
    parsed: parse::Parsed,
}

impl Metainfo {
    /// Reads the bytes of a .torrent file. White space after them is let pass, anything else there is an error.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MetainfoError> {
        let parsed = parse::parse(bytes)?;
        Ok(Self(Arc::new(Inner { bytes: bytes.to_vec(), parsed })))
    }

    /// Reads a .torrent file of at most [`MAX_FILE_LEN`] bytes.
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        let bytes = read_bounded(path)
            .map_err(|source| ReadError::Io { path: path.into(), source })?
            .ok_or_else(|| ReadError::TooLarge { path: path.into() })?;
        match parse::parse(&bytes) {
            Ok(parsed) => Ok(Self(Arc::new(Inner { bytes, parsed }))),
            Err(source) => Err(ReadError::Metainfo { path: path.into(), source }),
        }
    }

    /// Makes the .torrent file of an info dictionary that came from elsewhere, such as from peers (BEP 9), with the
    /// trackers and web seeds that its magnet link names: each tracker in a tier of its own. The bytes are kept as they are,
    /// so that the info-hash is.
    pub fn from_info(info: &[u8], trackers: &[String], web_seeds: &[String]) -> Result<Self, MetainfoError> {
        let list = |urls: &[String]| Item::List(urls.iter().map(Item::from).collect::<Vec<_>>()).to_bytes();
        let tiers = Item::List(trackers.iter().map(|url| Item::List(vec![url.into()])).collect()).to_bytes();
        let mut bytes = b"d".to_vec();
        let mut put = |key: &[u8], value: &[u8]| {
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(value);
        };
        if let Some(first) = trackers.first() {
            put(b"8:announce", &Item::from(first).to_bytes());
            put(b"13:announce-list", &tiers);
        }
        put(b"4:info", info);
        if !web_seeds.is_empty() {
            put(b"8:url-list", &list(web_seeds));
        }
        bytes.push(b'e');
        // What is more than one dictionary could bring keys of its own with it.
        match bencode::decode(info)? {
            (tree, []) if tree.root().is_dict() => {}
            (_, rest) => return Err(MetainfoError::TrailingBytes { count: rest.len() }),
        }
        let parsed = parse::parse(&bytes)?;
        Ok(Self(Arc::new(Inner { bytes, parsed })))
    }

    /// The SHA-1 of [`info_bytes`](Self::info_bytes).
    pub fn info_hash(&self) -> InfoHash {
        self.0.parsed.info_hash
    }

    /// The name of the file or folder, repaired like every name (see [`layout`](Self::layout)).
    pub fn name(&self) -> &str {
        &self.0.parsed.name
    }

    /// The files and pieces.
    ///
    /// The paths are safe to create below a folder. On every platform alike, `_` replaces bytes that are not UTF-8,
    /// control characters, separators of either kind, characters that turn the direction of writing, and names that
    /// are empty, `.` or `..`; it goes before bare device names of Windows (`CON`); names above 255 bytes are cut.
    /// Of paths that are equal but for upper and lower case, or of which one is a file and the other a folder on the
    /// way to a file, the later gets a number before its extension. `name.utf-8` and `path.utf-8` go before `name` and
    /// `path`.
    ///
    /// Padding (BEP 47, or by BitComet's names for it) is an entry with [`FileEntry::is_padding`], never a file.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.0.parsed.layout
    }

    /// The SHA-1 of a piece. Panics where the piece is from another, larger torrent.
    pub fn piece_hash(&self, piece: PieceIndex) -> &[u8; 20] {
        let pieces = &self.0.bytes[self.0.parsed.pieces.clone()];
        // Parsing made sure that there are 20 bytes for each piece of the layout.
        pieces.as_chunks().0.get(piece.get() as usize).expect("a piece of this torrent")
    }

    /// Whether peers may come from the trackers only (BEP 27).
    pub fn is_private(&self) -> bool {
        self.0.parsed.private
    }

    /// The tiers of trackers (BEP 12), none of them empty, no tracker twice; `announce` alone is a single tier, and
    /// counts only where there is no usable `announce-list`. The URLs are text that nobody has checked yet.
    pub fn trackers(&self) -> &[Vec<String>] {
        &self.0.parsed.trackers
    }

    /// The web seeds of BEP 19 (`url-list`), unchecked.
    pub fn web_seeds(&self) -> &[String] {
        &self.0.parsed.web_seeds
    }

    /// The web seeds of BEP 17 (`httpseeds`), unchecked.
    pub fn http_seeds(&self) -> &[String] {
        &self.0.parsed.http_seeds
    }

    /// The nodes of the DHT to begin with (BEP 5, `nodes`), as `HOST:PORT` or `[IPV6]:PORT`, at most 16. The hosts are text
    /// that nobody has checked yet.
    pub fn nodes(&self) -> &[String] {
        &self.0.parsed.nodes
    }

    /// The comment; `comment.utf-8` goes before `comment`.
    pub fn comment(&self) -> Option<&str> {
        self.0.parsed.comment.as_deref()
    }

    /// The program that made the torrent.
    pub fn created_by(&self) -> Option<&str> {
        self.0.parsed.created_by.as_deref()
    }

    /// When it was made, in seconds since 1970 UTC; whatever the file claims.
    pub fn creation_date(&self) -> Option<i64> {
        self.0.parsed.creation_date
    }

    /// The encoding that the file claims for its strings. It is not acted upon: what is not UTF-8 is repaired.
    pub fn encoding(&self) -> Option<&str> {
        self.0.parsed.encoding.as_deref()
    }

    /// The `source` in the info dictionary, which trackers set to tell their torrents from others'.
    pub fn source(&self) -> Option<&str> {
        self.0.parsed.source.as_deref()
    }

    /// Whether the content is a folder, be it of one file.
    pub fn is_multi_file(&self) -> bool {
        self.0.parsed.multi_file
    }

    /// The bytes of the info dictionary as they stand in the file, which the info-hash is over.
    pub fn info_bytes(&self) -> &[u8] {
        &self.0.bytes[self.0.parsed.info.clone()]
    }

    /// The file, byte by byte as it was read.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// The keys that ropewalk has no use for.
    pub fn unknown_keys(&self) -> UnknownKeys {
        parse::unknown_keys(self.as_bytes())
    }
}

/// Equal where the bytes are.
impl PartialEq for Metainfo {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Metainfo {}

impl std::fmt::Debug for Metainfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Metainfo({:?}, {})", self.name(), self.info_hash())
    }
}

/// The keys of a .torrent file that ropewalk has no use for, sorted, in text that is safe to print. They stay in
/// [`Metainfo::as_bytes`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnknownKeys {
    /// Those of the file's dictionary.
    pub top: BTreeSet<String>,
    /// Those of the info dictionary.
    pub info: BTreeSet<String>,
}

/// Why bytes are not a .torrent file that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetainfoError {
    /// Not bencode, or beyond its limits.
    #[error("not a .torrent file: {0}")]
    Bencode(#[from] bencode::DecodeError),
    /// Something other than white space follows the dictionary.
    #[error("{count} bytes follow the end of the .torrent's dictionary")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// A field that a download needs is not there.
    #[error("`{field}` is missing")]
    Missing {
        /// The field.
        field: String,
    },
    /// A field is of another type than it has to be.
    #[error("`{field}` is not {expected}")]
    WrongType {
        /// The field.
        field: String,
        /// What it has to be.
        expected: &'static str,
    },
    /// A number is not one that is possible there.
    #[error("`{field}` is not a number from {min} to {max}")]
    OutOfRange {
        /// The field.
        field: String,
        /// The smallest that is possible.
        min: u64,
        /// The largest that is possible.
        max: u64,
    },
    /// There are no SHA-1 hashes: a torrent of BEP 52 alone.
    #[error("a v2-only torrent (BEP 52), which ropewalk cannot read; ask for a v1 or hybrid .torrent")]
    V2Only,
    /// `pieces` is cut within a hash.
    #[error("`info.pieces` has {len} bytes, which is not a multiple of 20")]
    PiecesLength {
        /// Its length in bytes.
        len: usize,
    },
    /// There are more or fewer hashes than the files have pieces.
    #[error("`info.pieces` has {found} hashes for {expected} pieces")]
    HashCount {
        /// How many pieces the lengths make.
        expected: u32,
        /// How many hashes there are.
        found: usize,
    },
    /// Both ways of saying what the content is.
    #[error("`info.length` and `info.files` are both there, and only one may be")]
    LengthAndFiles,
    /// `files` is an empty list.
    #[error("`info.files` is empty")]
    NoFiles,
    /// The files have no bytes at all.
    #[error("the lengths in `info` add up to nothing")]
    Empty,
    /// The sum of the lengths, or the number of pieces, is beyond what the protocol can say.
    #[error("the lengths in `info` make more than 4294967295 pieces")]
    TooLarge,
    /// A path is longer than any system takes.
    #[error("`{field}` is longer than 4096 bytes")]
    PathTooLong {
        /// The field.
        field: String,
    },
    /// The names collide in a way that only malice explains.
    #[error("the paths in `info.files` collide too often")]
    TooManyCollisions,
}

/// Why a .torrent file could not be read. The source says more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The system did not let us.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// More than [`MAX_FILE_LEN`].
    #[error("{} is larger than {} MiB: not a .torrent file", path.display(), MAX_FILE_LEN >> 20)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The content is not usable.
    #[error("{} is not a .torrent file that can be used", path.display())]
    Metainfo {
        /// The file.
        path: PathBuf,
        /// Why.
        source: MetainfoError,
    },
}

/// The SHA-1 of the original bytes of the `info` dictionary: the name of a torrent (BEP 3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InfoHash([u8; 20]);

impl InfoHash {
    /// The info-hash with these bytes.
    pub const fn new(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// The 20 bytes.
    pub fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

/// From 40 hexadecimal digits, of either case.
impl FromStr for InfoHash {
    type Err = ParseInfoHashError;

    fn from_str(text: &str) -> Result<Self, ParseInfoHashError> {
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(ParseInfoHashError);
        let (pairs, odd) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != 20 || !odd.is_empty() {
            return Err(ParseInfoHashError);
        }
        let mut bytes = [0; 20];
        for (byte, &[high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = (digit(high)? << 4 | digit(low)?) as u8;
        }
        Ok(Self(bytes))
    }
}

impl std::fmt::Display for InfoHash {
    /// 40 lower-case hexadecimal digits.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for InfoHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "InfoHash({self})")
    }
}

/// The text is not an info-hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an info-hash is 40 hexadecimal digits")]
pub struct ParseInfoHashError;

/// A file's content; `None` where it is longer than [`MAX_FILE_LEN`], be it a device that never ends.
fn read_bounded(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = File::open(path)?;
    if file.metadata()?.len() > MAX_FILE_LEN {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_LEN + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= MAX_FILE_LEN).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::{InfoHash, MAX_FILE_LEN, Metainfo, MetainfoError, ReadError};

    #[test]
    fn an_info_hash_is_read_as_it_is_written() {
        let hash = InfoHash::new(std::array::from_fn(|i| i as u8 * 13));
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!(hash.to_string().to_uppercase().parse(), Ok(hash));
        for bad in ["", &"0".repeat(39), &"0".repeat(41), &"0".repeat(42), &"g".repeat(40), &"é".repeat(20)] {
            assert!(bad.parse::<InfoHash>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_or_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let absent = folder.path().join("absent.torrent");
        assert!(Metainfo::read(&absent).unwrap_err().to_string().contains("absent.torrent"));
        assert!(matches!(Metainfo::read(folder.path()), Err(ReadError::Io { .. })));

        let mut html = tempfile::NamedTempFile::new().unwrap();
        html.write_all(b"<html>").unwrap();
        match Metainfo::read(html.path()).unwrap_err() {
            ReadError::Metainfo { path, source: MetainfoError::Bencode(_) } => assert_eq!(path, html.path()),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_file_beyond_the_limit_is_refused_unread() {
        let sparse = tempfile::NamedTempFile::new().unwrap();
        sparse.as_file().set_len(MAX_FILE_LEN * 4).unwrap();
        assert!(matches!(Metainfo::read(sparse.path()), Err(ReadError::TooLarge { .. })));
    }
}
