//! Torrents with bytes to compare.

use std::path::{Path, PathBuf};

use ropewalk::Metainfo;
use ropewalk::metainfo::{Content, Creation, NewFile};
use tempfile::TempDir;

/// A torrent and its files, in a folder that is removed in the end.
pub(crate) struct Payload {
    pub(crate) metainfo: Metainfo,
    /// Each file's path within a download folder, and its bytes.
    pub(crate) files: Vec<(PathBuf, Vec<u8>)>,
    dir: TempDir,
}

impl Payload {
    /// A file `payload.bin`.
    pub(crate) fn single(len: usize, piece: u32, tracker: Option<&str>) -> Self {
        let files = vec![(PathBuf::from("payload.bin"), bytes(len, 1))];
        Self::new("payload.bin", files, Content::File { len: len as u64, executable: false }, piece, tracker)
    }

    /// A file of any name.
    pub(crate) fn named(name: &str, len: usize, piece: u32) -> Self {
        let files = vec![(PathBuf::from(name), bytes(len, 1))];
        Self::new(name, files, Content::File { len: len as u64, executable: false }, piece, None)
    }

    /// A folder `set` with files of many sizes: mapped, not mapped, empty, of one byte, nested, not ASCII.
    pub(crate) fn folder(piece: u32, tracker: Option<&str>) -> Self {
        let sizes = [
            ("a.bin", 1_500_000),
            ("empty", 0),
            ("nested/deep/b.bin", 3_000_001),
            ("nested/one", 1),
            ("nested/tiny.txt", 100),
            ("nested/ümläut.txt", 70_000),
            ("z.bin", 700_000),
        ];
        let new = |&(path, len): &(&str, usize)| NewFile { path: path.into(), len: len as u64, executable: false };
        let content = Content::Folder(sizes.iter().map(new).collect());
        let files = (0..).zip(sizes).map(|(seed, (path, len))| (Path::new("set").join(path), bytes(len, seed)));
        Self::new("set", files.collect(), content, piece, tracker)
    }

    /// A folder `many`: a large file, which is mapped, among `small` ones that are not, so that files are completed all
    /// the time.
    pub(crate) fn many(large: usize, small: usize, piece: u32) -> Self {
        let sizes = (0..small).map(|i| (format!("small/{i:03}"), 40_000 + i * 97)).chain([("large".into(), large)]);
        let sizes: Vec<(String, usize)> = sizes.collect();
        let new = |(path, len): &(String, usize)| NewFile { path: path.into(), len: *len as u64, executable: false };
        let content = Content::Folder(sizes.iter().map(new).collect());
        let files = (0..).zip(sizes).map(|(seed, (path, len))| (Path::new("many").join(path), bytes(len, seed)));
        Self::new("many", files.collect(), content, piece, None)
    }

    /// A torrent whose files are the test's own business.
    pub(crate) fn of(metainfo: Metainfo) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("the.torrent"), metainfo.as_bytes()).unwrap();
        Self { metainfo, files: Vec::new(), dir }
    }

    fn new(name: &str, files: Vec<(PathBuf, Vec<u8>)>, content: Content, piece: u32, tracker: Option<&str>) -> Self {
        let mut creation = Creation::new(name, content, piece);
        creation.trackers = tracker.map(|url| vec![url.to_owned()]).into_iter().collect();
        let all: Vec<u8> = files.iter().flat_map(|(_, bytes)| bytes).copied().collect();
        let hashes: Vec<u8> = all.chunks(piece as usize).flat_map(|piece| ropewalk::hash::sha1([piece])).collect();
        let metainfo = Metainfo::from_bytes(&creation.prepare().unwrap().finish(&hashes).unwrap()).unwrap();
        let payload = Self { files, ..Self::of(metainfo) };
        payload.write_to(&payload.data());
        payload
    }

    /// The .torrent file.
    pub(crate) fn torrent(&self) -> PathBuf {
        self.dir.path().join("the.torrent")
    }

    /// The folder that the complete files are in.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A new folder to download into.
    pub(crate) fn empty_folder(&self, name: &str) -> PathBuf {
        let folder = self.dir.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        folder
    }

    /// Bytes of all files.
    pub(crate) fn len(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// Writes the complete files into a folder.
    pub(crate) fn write_to(&self, folder: &Path) {
        for (path, bytes) in &self.files {
            std::fs::create_dir_all(folder.join(path).parent().unwrap()).unwrap();
            std::fs::write(folder.join(path), bytes).unwrap();
        }
    }

    /// Fails unless the folder has every file, right to the last bit.
    pub(crate) fn assert_in(&self, folder: &Path) {
        self.assert_bytes_in(folder);
        let empty = self.files.iter().filter(|(_, bytes)| bytes.is_empty());
        empty.for_each(|(path, _)| assert_eq!(std::fs::metadata(folder.join(path)).unwrap().len(), 0, "{path:?}"));
    }

    /// As [`assert_in`](Self::assert_in); files without bytes may be missing, as some clients make none.
    pub(crate) fn assert_bytes_in(&self, folder: &Path) {
        for (path, bytes) in self.files.iter().filter(|(_, bytes)| !bytes.is_empty()) {
            let there = std::fs::read(folder.join(path)).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            assert_eq!(there.len(), bytes.len(), "{path:?}");
            let wrong = there.iter().zip(bytes).position(|(is, should)| is != should);
            assert_eq!(wrong, None, "the first wrong byte of {path:?}");
        }
    }
}

/// Bytes that do not repeat in any useful way.
fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}
