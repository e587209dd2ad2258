//! The file that a node is kept in between runs: its id and the nodes that it knows.
//!
//! It owns the file and the lock beside it. Losing it costs a node some seconds at its next start, so it is written whole
//! but not forced to the disk, and one that cannot be understood is a warning.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::bencode::{self, Item};
use crate::discovery::dht::SavedDht;
use crate::wire::krpc::{NodeId, compact_nodes, encode_compact_nodes};
use crate::wire::tracker::Family;

/// The largest file that is looked at.
const MOST: u64 = 1 << 20;

/// The bytes of a file: a dictionary with `id`, `id6`, `nodes` and `nodes6`, the nodes in the compact form of BEP 5 and 32.
pub(super) fn encode(saved: &SavedDht) -> Vec<u8> {
    let compact = |family| {
        let mut out = Vec::new();
        encode_compact_nodes(&saved.nodes, family, &mut out);
        out
    };
    let (v4, v6) = (compact(Family::V4), compact(Family::V6));
    Item::dict([
        ("id", saved.id_v4.as_ref().map(|id| Item::bytes(id.as_bytes()))),
        ("id6", saved.id_v6.as_ref().map(|id| Item::bytes(id.as_bytes()))),
        ("nodes", Some(Item::bytes(&v4))),
        ("nodes6", Some(Item::bytes(&v6))),
    ])
    .to_bytes()
}

/// What the bytes of a file say; `None` where they make no sense.
pub(super) fn decode(bytes: &[u8]) -> Option<SavedDht> {
    let (tree, rest) = bencode::decode(bytes).ok()?;
    let top = tree.root();
    let id = |key: &str| match top.get(key) {
        None => Some(None),
        Some(id) => Some(Some(NodeId::try_from(id.as_bytes()?).ok()?)),
    };
    let nodes = |key: &str, family| {
        let compact = top.get(key)?.as_bytes()?;
        Some(compact_nodes(compact, family))
    };
    if !rest.is_empty() {
        return None;
    }
    let nodes = nodes("nodes", Family::V4)?.chain(nodes("nodes6", Family::V6)?).collect();
    Some(SavedDht { id_v4: id("id")?, id_v6: id("id6")?, nodes })
}

/// A file of which we are the only user.
pub(super) struct StateFile {
    path: PathBuf,
    /// Locked for as long as it is open.
    _lock: File,
}

/// Why there is no file to keep a node in.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError {
    #[error("{path} is in use by another ropewalk: this one begins as a new node, and keeps nothing")]
    InUse { path: PathBuf },
    #[error("cannot use {path}: {source}; the nodes of the DHT are not kept")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is larger than any that ropewalk writes; it is ignored")]
    TooLarge { path: PathBuf },
}

impl StateFile {
    /// Takes hold of a file, which need not exist, nor its folder.
    pub(super) fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |source| StateError::Io { path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(beside(path, "lock"));
        let lock = lock.map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            // Two nodes with one id would be one that lies, to all others.
            Err(fs::TryLockError::WouldBlock) => Err(StateError::InUse { path: path.to_owned() }),
            Err(fs::TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// The path, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What was kept; `None` where there is nothing yet.
    pub(super) fn load(&self) -> Result<Option<Vec<u8>>, StateError> {
        let failed = |source| StateError::Io { path: self.path.clone(), source };
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Vec::new();
        file.take(MOST + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MOST {
            return Err(StateError::TooLarge { path: self.path.clone() });
        }
        Ok(Some(bytes))
    }

    /// Keeps these bytes, and loses those before only once they are there.
    pub(super) fn store(&self, bytes: &[u8]) -> Result<(), StateError> {
        let temporary = beside(&self.path, "tmp");
        let write = || {
            fs::write(&temporary, bytes)?;
            fs::rename(&temporary, &self.path)
        };
        write().map_err(|source| StateError::Io { path: self.path.clone(), source })
    }
}

fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(what);
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::krpc::NodeInfo;

    #[test]
    fn what_is_kept_is_there_at_the_next_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/dht");
        let file = StateFile::open(&path).unwrap();
        assert_eq!(file.load().unwrap(), None);
        file.store(b"first").unwrap();
        file.store(b"second").unwrap();
        drop(file);
        assert_eq!(StateFile::open(&path).unwrap().load().unwrap().unwrap(), b"second");
        let names: Vec<_> =
            fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "nothing but the file and its lock: {names:?}");
    }

    #[test]
    fn the_bytes_of_a_node_are_read_back_and_damaged_ones_are_not() {
        let node = |addr: &str| NodeInfo { id: NodeId::new([7; 20]), addr: addr.parse().unwrap() };
        let nodes = vec![node("192.0.2.1:6881"), node("192.0.2.2:1"), node("[2001:db8::1]:6881")];
        let saved = SavedDht { id_v4: Some(NodeId::new([1; 20])), id_v6: None, nodes };
        let bytes = encode(&saved);
        assert_eq!(decode(&bytes), Some(saved));
        assert_eq!(decode(&encode(&SavedDht::default())), Some(SavedDht::default()));
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), None, "cut at {cut}");
        }
        for damaged in [&b"de"[..], b"i1e", b"d2:id3:abc5:nodes0:6:nodes60:e", b"d5:nodes0:6:nodes60:ex", b"\0\0\0\0"] {
            assert_eq!(decode(damaged), None, "{}", damaged.escape_ascii());
        }
    }

    #[test]
    fn two_do_not_use_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dht");
        let first = StateFile::open(&path).unwrap();
        assert!(matches!(StateFile::open(&path), Err(StateError::InUse { .. })));
        drop(first);
        StateFile::open(&path).unwrap();
    }

    #[test]
    fn a_file_that_is_too_large_is_not_read_and_one_that_cannot_be_made_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dht");
        File::create(&path).unwrap().set_len(MOST + 1).unwrap();
        assert!(matches!(StateFile::open(&path).unwrap().load(), Err(StateError::TooLarge { .. })));
        assert!(matches!(StateFile::open(&path.join("below")), Err(StateError::Io { .. })));
    }
}
