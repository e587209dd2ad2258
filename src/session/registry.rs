//! The torrents of a session, by info-hash and by what stands for it in an encrypted handshake.

use std::collections::HashMap;
use std::sync::Arc;

use crate::hash::Sha1Hash;
use crate::metainfo::InfoHash;
use crate::net::mse::torrent_name;
use crate::torrent::Shared;

/// Torrents that callers may ask for.
#[derive(Default)]
pub(super) struct Torrents {
    by_hash: HashMap<InfoHash, Arc<Shared>>,
    /// So that an encrypted caller costs one look, however many torrents there are.
    by_name: HashMap<Sha1Hash, InfoHash>,
}

impl Torrents {
    pub(super) fn get(&self, info_hash: &InfoHash) -> Option<&Arc<Shared>> {
        self.by_hash.get(info_hash)
    }

    pub(super) fn contains_key(&self, info_hash: &InfoHash) -> bool {
        self.by_hash.contains_key(info_hash)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Arc<Shared>> {
        self.by_hash.values()
    }

    /// Which torrent is meant by an encrypted caller.
    pub(super) fn find_hidden(&self, name: &Sha1Hash) -> Option<InfoHash> {
        self.by_name.get(name).copied()
    }

    pub(super) fn insert(&mut self, info_hash: InfoHash, shared: Arc<Shared>) {
        self.by_name.insert(torrent_name(&info_hash), info_hash);
        self.by_hash.insert(info_hash, shared);
    }

    /// Forgets the others.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&InfoHash, &Arc<Shared>) -> bool) {
        self.by_hash.retain(|info_hash, shared| keep(info_hash, shared));
        self.by_name.retain(|_, info_hash| self.by_hash.contains_key(info_hash));
    }
}
