//! Made-up content and the torrent of it.

use std::path::{Path, PathBuf};

use ropewalk::Metainfo;
use ropewalk::hash::sha1;
use ropewalk::metainfo::{Block, Content, Creation, NewFile};

/// A torrent and its bytes.
#[derive(Clone)]
pub struct Payload {
    pub metainfo: Metainfo,
    /// All pieces one after the other, padding included.
    pub bytes: Vec<u8>,
    /// The files below the download folder.
    pub files: Vec<(PathBuf, Vec<u8>)>,
}

impl Payload {
    /// One file of random bytes.
    pub fn file(name: &str, len: usize, piece_length: u32) -> Self {
        Self::file_tracked(name, len, piece_length, &[])
    }

    /// The same with trackers, all in one tier.
    pub fn file_tracked(name: &str, len: usize, piece_length: u32, trackers: &[String]) -> Self {
        let mut creation = Creation::new(name, Content::File { len: len as u64, executable: false }, piece_length);
        creation.trackers = vec![trackers.to_vec()];
        Self::build(creation, &[len])
    }

    /// One file of a private torrent (BEP 27).
    pub fn private(name: &str, len: usize, piece_length: u32) -> Self {
        let mut creation = Creation::new(name, Content::File { len: len as u64, executable: false }, piece_length);
        creation.private = true;
        Self::build(creation, &[len])
    }

    /// A folder of files of random bytes, each file beginning at a piece of its own if `align`.
    pub fn folder(name: &str, files: &[(&str, usize)], piece_length: u32, align: bool) -> Self {
        Self::folder_tracked(name, files, piece_length, align, &[])
    }

    /// The same with trackers, all in one tier.
    pub fn folder_tracked(
        name: &str,
        files: &[(&str, usize)],
        piece_length: u32,
        align: bool,
        trackers: &[String],
    ) -> Self {
        let new = |&(path, len): &(&str, usize)| NewFile { path: path.into(), len: len as u64, executable: false };
        let content = Content::Folder(files.iter().map(new).collect());
        let mut creation = Creation::new(name, content, piece_length);
        creation.align = align;
        creation.trackers = vec![trackers.to_vec()];
        Self::build(creation, &files.iter().map(|&(_, len)| len).collect::<Vec<_>>())
    }

    fn build(creation: Creation, lens: &[usize]) -> Self {
        // The same bytes each time, others for each name.
        let seed = creation.name.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        let mut rng = fastrand::Rng::with_seed(seed);
        let prepared = creation.prepare().unwrap();
        let (mut bytes, mut files) = (Vec::new(), Vec::new());
        for index in prepared.layout().file_indices() {
            let entry = prepared.layout().file(index);
            let mut content = vec![0; entry.len() as usize];
            if let Some(source) = prepared.source(index) {
                assert_eq!(lens[source], content.len());
                rng.fill(&mut content);
                files.push((entry.path().to_owned(), content.clone()));
            }
            bytes.append(&mut content);
        }
        let pieces = bytes.chunks(prepared.layout().piece_length() as usize);
        let hashes: Vec<u8> = pieces.flat_map(|piece| sha1([piece])).collect();
        let metainfo = Metainfo::from_bytes(&prepared.finish(&hashes).unwrap()).unwrap();
        Self { metainfo, bytes, files }
    }

    pub fn pieces(&self) -> u32 {
        self.metainfo.layout().piece_count()
    }

    /// The bytes that a request names, where they exist.
    pub fn block(&self, index: u32, begin: u32, len: u32) -> Option<&[u8]> {
        let Block { piece, begin, len } = self.metainfo.layout().range(index, begin, len)?;
        let start = (self.metainfo.layout().piece_offset(piece) + u64::from(begin)) as usize;
        Some(&self.bytes[start..start + len as usize])
    }

    pub fn write_to(&self, dir: &Path) {
        for (path, content) in &self.files {
            let path = dir.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }

    #[track_caller]
    pub fn assert_in(&self, dir: &Path) {
        for (path, content) in &self.files {
            let found = std::fs::read(dir.join(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(found == *content, "{} differs", path.display());
        }
    }
}
