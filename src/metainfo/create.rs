//! The building of .torrent files.
//!
//! It owns what goes in and how it is encoded: it turns a [`Creation`] into a layout, and that with the hashes of its
//! pieces into bytes. It refuses to read or hash files; whoever does asks [`Prepared`] which bytes make which piece.

use std::path::{Component, PathBuf};
use std::sync::Arc;

use super::names::{BITCOMET_PADDING, Names, repair};
use super::{Attributes, FileEntry, FileIndex, Layout, MAX_PIECE_LENGTH};
use crate::bencode::Item;

/// The shortest and longest piece that [`auto_piece_length`] chooses.
const AUTO_PIECE_LENGTHS: std::ops::RangeInclusive<u64> = 16 << 10..=16 << 20;

/// The piece length for content of `total` bytes: the smallest power of two from 16 KiB to 16 MiB that makes at most
/// 2048 pieces; so there are from 1025 to 2048, unless the content is below 16 MiB or above 32 GiB.
pub fn auto_piece_length(total: u64) -> u32 {
    let length = total.div_ceil(2048).clamp(*AUTO_PIECE_LENGTHS.start(), *AUTO_PIECE_LENGTHS.end());
    // At most 16 MiB, itself a power of two.
    length.next_power_of_two() as u32
}

/// A torrent to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Creation {
    /// The name of the file or folder.
    pub name: String,
    /// What is in it.
    pub content: Content,
    /// The length of a piece in bytes, from 1 to [`MAX_PIECE_LENGTH`].
    pub piece_length: u32,
    /// Insert padding (BEP 47) so that every file with content begins at a piece of its own.
    pub align: bool,
    /// Peers may come from the trackers only (BEP 27).
    pub private: bool,
    /// Tiers of tracker URLs (BEP 12); empty tiers are left out.
    pub trackers: Vec<Vec<String>>,
    /// Web seeds (BEP 19).
    pub web_seeds: Vec<String>,
    /// A comment.
    pub comment: Option<String>,
    /// The program that makes the torrent.
    pub created_by: Option<String>,
    /// When it is made, in seconds since 1970 UTC.
    pub creation_date: Option<i64>,
    /// A mark that gives the torrent an info-hash of its own, as some trackers want.
    pub source: Option<String>,
}

/// What a torrent to be made holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// One file, which has the torrent's name.
    File {
        /// Its length in bytes.
        len: u64,
        /// Whether it is to be executable.
        executable: bool,
    },
    /// A folder that has the torrent's name, and these files in this order.
    Folder(Vec<NewFile>),
}

/// A file in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewFile {
    /// The path within the folder.
    pub path: PathBuf,
    /// The length in bytes.
    pub len: u64,
    /// Whether it is to be executable.
    pub executable: bool,
}

impl Creation {
    /// A torrent of this content and nothing else said.
    pub fn new(name: impl Into<String>, content: Content, piece_length: u32) -> Self {
        Self {
            name: name.into(),
            content,
            piece_length,
            align: false,
            private: false,
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            comment: None,
            created_by: None,
            creation_date: None,
            source: None,
        }
    }

    /// Checks names and lengths, and lays the content out in pieces.
    pub fn prepare(self) -> Result<Prepared, CreateError> {
        if !(1..=MAX_PIECE_LENGTH).contains(&self.piece_length) {
            return Err(CreateError::PieceLength { given: self.piece_length });
        }
        check_name(&self.name, &self.name)?;
        let (entries, sources) = match &self.content {
            Content::File { len, executable } => {
                let attributes = Attributes { executable: *executable, ..Attributes::default() };
                let path = PathBuf::from(&self.name);
                (vec![FileEntry { path, len: *len, offset: 0, attributes }], vec![Some(0)])
            }
            Content::Folder(files) => self.entries(files)?,
        };
        if entries.iter().any(|entry| i64::try_from(entry.len).is_err()) {
            return Err(CreateError::TooLarge);
        }
        let layout = Layout::new(entries, self.piece_length).ok_or(CreateError::TooLarge)?;
        if layout.total_len() == 0 {
            return Err(CreateError::Empty);
        }
        Ok(Prepared { creation: self, layout: Arc::new(layout), sources })
    }

    /// The entries of a folder's files, with padding where wanted, and which file each is.
    fn entries(&self, files: &[NewFile]) -> Result<(Vec<FileEntry>, Vec<Option<usize>>), CreateError> {
        let mut names = Names::default();
        let mut entries = Vec::with_capacity(files.len());
        let mut sources = Vec::with_capacity(files.len());
        // How far the last piece is filled.
        let mut filled = 0u64;
        let length = u64::from(self.piece_length);
        for (at, file) in files.iter().enumerate() {
            let path = self.path(file, &mut names)?;
            if self.align && filled > 0 && file.len > 0 {
                let len = length - filled;
                let path = [&self.name, ".pad", &len.to_string()].iter().collect();
                let attributes = Attributes { padding: true, ..Attributes::default() };
                entries.push(FileEntry { path, len, offset: 0, attributes });
                sources.push(None);
                filled = 0;
            }
            let attributes = Attributes { executable: file.executable, ..Attributes::default() };
            entries.push(FileEntry { path, len: file.len, offset: 0, attributes });
            sources.push(Some(at));
            filled = (filled + file.len % length) % length;
        }
        Ok((entries, sources))
    }

    /// The path of a file with the torrent's name in front, where every client can have it under this path.
    fn path(&self, file: &NewFile, names: &mut Names) -> Result<PathBuf, CreateError> {
        let shown = || file.path.display().to_string();
        let mut components = vec![self.name.clone()];
        for component in file.path.components() {
            let Component::Normal(name) = component else {
                return Err(CreateError::NotInFolder { path: shown() });
            };
            let name = name.to_str().ok_or_else(|| CreateError::NotUtf8 { path: shown() })?;
            check_name(name, &file.path.display().to_string())?;
            components.push(name.to_owned());
        }
        let Some((last, folders @ [_, ..])) = components.split_last_mut() else {
            return Err(CreateError::NotInFolder { path: shown() });
        };
        if last.as_bytes().starts_with(BITCOMET_PADDING) {
            return Err(CreateError::PaddingName { path: shown() });
        }
        let collides = || CreateError::Collision { path: shown() };
        names.place(folders, last).map_err(|_| collides())?;
        let placed: PathBuf = components.iter().collect();
        if placed == PathBuf::from(&self.name).join(&file.path) { Ok(placed) } else { Err(collides()) }
    }
}

/// A torrent to be made, of which only the hashes are wanted.
#[derive(Clone, Debug)]
pub struct Prepared {
    creation: Creation,
    layout: Arc<Layout>,
    sources: Vec<Option<usize>>,
}

impl Prepared {
    /// The pieces to hash, and which bytes of which files are in each. Padding is zeros.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Which file of [`Content::Folder`] a file of the layout is, by its place there (0 for [`Content::File`]); `None`
    /// for padding.
    pub fn source(&self, file: FileIndex) -> Option<usize> {
        self.sources[file.get() as usize]
    }

    /// The .torrent file. `hashes` are the SHA-1 of all pieces in order, 20 bytes each.
    pub fn finish(&self, hashes: &[u8]) -> Result<Vec<u8>, CreateError> {
        let expected = self.layout.piece_count() as usize * 20;
        if hashes.len() != expected {
            return Err(CreateError::Hashes { expected, found: hashes.len() });
        }
        let creation = &self.creation;
        let tiers: Vec<_> = creation.trackers.iter().filter(|tier| !tier.is_empty()).collect();
        let text = |text: &'_ Option<String>| text.clone().map(Item::from);
        let top = Item::dict([
            ("announce", tiers.first().map(|tier| Item::from(&tier[0]))),
            // One tracker is said by `announce` alone.
            ("announce-list", {
                let several = tiers.iter().map(|tier| tier.len()).sum::<usize>() > 1;
                several.then(|| Item::list(tiers.iter().map(|&tier| Item::list(tier))))
            }),
            ("comment", text(&creation.comment)),
            ("created by", text(&creation.created_by)),
            ("creation date", creation.creation_date.map(Item::Int)),
            ("encoding", Some("UTF-8".into())),
            ("info", Some(self.info(hashes))),
            (
                "url-list",
                match &creation.web_seeds[..] {
                    [] => None,
                    [one] => Some(one.into()),
                    several => Some(Item::list(several)),
                },
            ),
        ]);
        Ok(top.to_bytes())
    }

    fn info<'a>(&'a self, hashes: &'a [u8]) -> Item<'a> {
        let creation = &self.creation;
        let folder = matches!(creation.content, Content::Folder(_));
        let only = self.layout.files().first().filter(|_| !folder);
        Item::dict([
            ("attr", only.and_then(attr)),
            ("files", folder.then(|| Item::list(self.layout.files().iter().map(file)))),
            ("length", only.map(|file| Item::Int(file.len as i64))),
            ("name", Some((&creation.name).into())),
            ("piece length", Some(Item::Int(i64::from(creation.piece_length)))),
            ("pieces", Some(Item::bytes(hashes))),
            ("private", creation.private.then_some(Item::Int(1))),
            ("source", creation.source.as_ref().map(Item::from)),
        ])
    }
}

/// Why a torrent cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The piece length is 0 or too large.
    #[error("a piece of {given} bytes: it may have from 1 to {MAX_PIECE_LENGTH}")]
    PieceLength {
        /// The length asked for.
        given: u32,
    },
    /// There is nothing to hash.
    #[error("there is no content: no file, or empty ones only")]
    Empty,
    /// More pieces than the protocol can number.
    #[error("more than 4294967295 pieces; choose longer ones")]
    TooLarge,
    /// A name that clients, ropewalk included, would have to change.
    #[error("{path}: clients would have to call this {becomes:?}; rename it first")]
    Name {
        /// The path with that name.
        path: String,
        /// The name as clients would have it.
        becomes: String,
    },
    /// A name that marks padding since before BEP 47: no client would download the file.
    #[error("{path}: clients take a file of this name for padding; rename it first")]
    PaddingName {
        /// The path.
        path: String,
    },
    /// A path that is not UTF-8, as .torrent files have to be.
    #[error("{path}: the name is not UTF-8; rename it first")]
    NotUtf8 {
        /// The path, as far as it can be shown.
        path: String,
    },
    /// An absolute or empty path, or one with `..`.
    #[error("{path:?} is not a path within the folder")]
    NotInFolder {
        /// The path.
        path: String,
    },
    /// Two files that are one where upper and lower case do not differ, or a file and folder of one name.
    #[error("{path}: another file's path is the same but for upper and lower case; rename one of them first")]
    Collision {
        /// The later of them.
        path: String,
    },
    /// The hashes are not those of the layout's pieces.
    #[error("{found} bytes of hashes where the pieces make {expected}")]
    Hashes {
        /// The bytes that are needed.
        expected: usize,
        /// The bytes given.
        found: usize,
    },
}

fn check_name(name: &str, path: &str) -> Result<(), CreateError> {
    let becomes = repair(name.as_bytes());
    if becomes == name { Ok(()) } else { Err(CreateError::Name { path: path.into(), becomes }) }
}

/// An entry of `files`; the path is without the torrent's name.
fn file(file: &FileEntry) -> Item<'_> {
    // `prepare` made the paths of UTF-8.
    let path = file.path.iter().skip(1).map(|name| Item::bytes(name.as_encoded_bytes()));
    Item::dict([("attr", attr(file)), ("length", Some(Item::Int(file.len as i64))), ("path", Some(Item::list(path)))])
}

fn attr(file: &FileEntry) -> Option<Item<'static>> {
    let attributes = file.attributes;
    let letter = if attributes.padding { Some("p") } else { attributes.executable.then_some("x") };
    letter.map(Item::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::{Content, CreateError, Creation, NewFile, auto_piece_length};
    use crate::metainfo::{Metainfo, PieceIndex};

    fn folder(files: &[(&str, u64)]) -> Content {
        let file = |&(path, len): &(&str, u64)| NewFile { path: path.into(), len, executable: path.ends_with(".sh") };
        Content::Folder(files.iter().map(file).collect())
    }

    #[test]
    fn piece_lengths_are_powers_of_two_for_one_to_two_thousand_pieces() {
        for (total, length) in [
            (0, 16 << 10),
            (1, 16 << 10),
            (32 << 20, 16 << 10),
            ((32 << 20) + 1, 32 << 10),
            (1 << 30, 512 << 10),
            (100 << 30, 16 << 20),
            (u64::MAX, 16 << 20),
        ] {
            assert_eq!(auto_piece_length(total), length, "{total}");
        }
    }

    #[test]
    fn everything_that_is_said_is_read_back() {
        let mut creation = Creation::new("dir", folder(&[("a/b.txt", 30), ("empty", 0), ("run.sh", 5)]), 16);
        creation.private = true;
        creation.trackers = vec![vec!["http://a/".into(), "http://b/".into()], vec![], vec!["udp://c:1".into()]];
        creation.web_seeds = vec!["http://seed/".into()];
        creation.comment = Some("hello".into());
        creation.created_by = Some("test".into());
        creation.creation_date = Some(1_700_000_000);
        creation.source = Some("mark".into());
        let prepared = creation.prepare().unwrap();
        let hashes: Vec<u8> = (0..60).collect();
        let bytes = prepared.finish(&hashes).unwrap();
        let metainfo = Metainfo::from_bytes(&bytes).unwrap();
        assert_eq!(metainfo.layout(), prepared.layout());
        assert_eq!(metainfo.as_bytes(), bytes);
        assert_eq!(metainfo.trackers(), [vec!["http://a/", "http://b/"], vec!["udp://c:1"]]);
        assert_eq!(metainfo.web_seeds(), ["http://seed/"]);
        assert_eq!((metainfo.comment(), metainfo.created_by()), (Some("hello"), Some("test")));
        assert_eq!((metainfo.creation_date(), metainfo.encoding()), (Some(1_700_000_000), Some("UTF-8")));
        assert_eq!((metainfo.source(), metainfo.is_private()), (Some("mark"), true));
        assert!(metainfo.is_multi_file());
        assert_eq!(metainfo.unknown_keys(), Default::default());
        let read: Vec<u8> =
            metainfo.layout().pieces().flat_map(|piece: PieceIndex| *metainfo.piece_hash(piece)).collect();
        assert_eq!(read, hashes);
        assert_eq!(prepared.finish(&hashes[1..]), Err(CreateError::Hashes { expected: 60, found: 59 }));
    }

    #[test]
    fn a_single_file_may_be_executable() {
        let prepared = Creation::new("run", Content::File { len: 1, executable: true }, 1).prepare().unwrap();
        let metainfo = Metainfo::from_bytes(&prepared.finish(&[7; 20]).unwrap()).unwrap();
        assert!(metainfo.layout().files()[0].attributes().executable && !metainfo.is_multi_file());
        assert_eq!(metainfo.layout(), prepared.layout());
    }

    #[test]
    fn names_that_clients_would_change_are_refused() {
        let prepare = |name: &str, path: &str| Creation::new(name, folder(&[("x/y", 1), (path, 1)]), 16).prepare();
        for (name, path) in [("..", "a"), ("d", "con"), ("d", "a\\b"), ("", "a"), ("a/b", "a")] {
            assert!(matches!(prepare(name, path), Err(CreateError::Name { .. })), "{name} {path}");
        }
        for path in ["../a", "/a", ""] {
            assert!(matches!(prepare("d", path), Err(CreateError::NotInFolder { .. })), "{path}");
        }
        assert!(matches!(prepare("d", "_____padding_file_1"), Err(CreateError::PaddingName { .. })));
        for path in ["x/Y", "x", "x/y/z"] {
            assert!(matches!(prepare("d", path), Err(CreateError::Collision { .. })), "{path}");
        }
    }

    #[test]
    fn content_that_no_torrent_can_hold_is_refused() {
        let prepare = |files: &[(&str, u64)], length| Creation::new("d", folder(files), length).prepare().unwrap_err();
        assert_eq!(prepare(&[], 16), CreateError::Empty);
        assert_eq!(prepare(&[("a", 0)], 16), CreateError::Empty);
        assert_eq!(prepare(&[("a", 1)], 0), CreateError::PieceLength { given: 0 });
        assert_eq!(prepare(&[("a", u64::MAX)], 16), CreateError::TooLarge);
        assert_eq!(prepare(&[("a", 1 << 40)], 1), CreateError::TooLarge);
    }

    proptest! {
        #[test]
        fn aligned_files_begin_at_a_piece_and_any_layout_is_read_back(
            lens in proptest::collection::vec(0u64..50, 1..8),
            length in 1u32..20,
            align in any::<bool>(),
        ) {
            let names: Vec<_> = (0..lens.len()).map(|i| format!("f{i}")).collect();
            let files: Vec<_> = names.iter().map(String::as_str).zip(lens.iter().copied()).collect();
            let mut creation = Creation::new("d", folder(&files), length);
            creation.align = align;
            if lens.iter().sum::<u64>() == 0 {
                prop_assert_eq!(creation.prepare().unwrap_err(), CreateError::Empty);
                return Ok(());
            }
            let prepared = creation.prepare().unwrap();
            let layout = prepared.layout();
            let sources: Vec<_> = layout.file_indices().filter_map(|file| prepared.source(file)).collect();
            prop_assert_eq!(sources, (0..lens.len()).collect::<Vec<_>>());
            for file in layout.file_indices().filter(|&file| align && !layout.file(file).is_empty()) {
                let aligned = layout.file(file).offset().is_multiple_of(u64::from(length));
                prop_assert_eq!(aligned, prepared.source(file).is_some());
            }
            let bytes = prepared.finish(&vec![1; layout.piece_count() as usize * 20]).unwrap();
            let metainfo = Metainfo::from_bytes(&bytes).unwrap();
            prop_assert_eq!(metainfo.layout(), layout);
        }
    }
}
