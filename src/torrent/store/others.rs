//! Others that want the same files or the same journal: they are kept out, or have come first.
//!
//! It owns the lock against other sessions and the claim against other torrents of this one. It refuses to wait for either.

use std::io::ErrorKind;
use std::sync::Arc;

use super::Store;
use crate::storage::StorageError;
use crate::storage::lock::{Lock, LockError};
use crate::torrent::claims::{Content, Overlap};

/// How often the folder for the journal is made again where another torrent's end removes it, empty, at that moment.
const LOCK_TRIES: u32 = 10;

impl Store {
    /// Nobody is kept out by one that writes nothing.
    pub(super) fn lock_unless_read_only(&mut self) -> Result<(), StorageError> {
        if self.read_only { Ok(()) } else { self.lock() }
    }

    /// Makes sure that nobody else is at work beside this journal. Where there can be no lock, nobody is kept out.
    pub(super) fn lock(&mut self) -> Result<(), StorageError> {
        if self.lock.is_some() {
            return Ok(());
        }
        let path = self.folder.join(self.name() + ".lock");
        let mut tries = 0..LOCK_TRIES;
        let error = loop {
            let made = std::fs::create_dir_all(&self.folder).map_err(LockError::from);
            match made.and_then(|()| Lock::take(&path)) {
                Ok(lock) => {
                    self.lock = Some(lock);
                    return Ok(());
                }
                Err(LockError::Held) => return Err(StorageError::InUse { path }),
                Err(LockError::Io(error)) if error.kind() == ErrorKind::NotFound && tries.next().is_some() => {}
                Err(LockError::Io(error)) => break error,
            }
        };
        // Where there is no folder, or nothing can be written, what follows says so.
        let said = match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => true,
            _ => std::mem::replace(&mut self.said_unlocked, true) || !self.folder.is_dir(),
        };
        let level = if said { log::Level::Debug } else { log::Level::Warn };
        log::log!(level, "{}: not locked, see that nobody else downloads it: {error}", path.display());
        Ok(())
    }

    /// Lets others at the journal.
    pub(super) fn unlock(&mut self) {
        if let Some(lock) = self.lock.take() {
            lock.remove();
        }
        if self.own_folder {
            // Only where it is empty.
            std::fs::remove_dir(&self.folder).ok();
        }
    }

    /// Makes sure that no other torrent of the session writes to the files that this one may write to. What was claimed
    /// before, and is looked at anew, keeps its place.
    pub(super) fn claim(&mut self) -> Result<(), StorageError> {
        match &self.claimed {
            Some(claimed) if !self.read_only => claimed.look_again(),
            Some(_) => {}
            None if self.read_only => self.claimed = Some(self.claims.claim_to_read(self.content())),
            None => {
                // Where it is not there yet, another torrent may name it in another way. What goes wrong is said later.
                std::fs::create_dir_all(&self.shared.dir).ok();
                self.claimed = Some(self.claims.claim(self.content()).map_err(shared)?);
            }
        }
        Ok(())
    }

    /// What there is to claim.
    pub(super) fn content(&self) -> Content {
        let metainfo = self.shared.metainfo();
        Content {
            info_hash: self.shared.info_hash,
            name: metainfo.name().to_owned(),
            dir: self.shared.dir.clone(),
            layout: Arc::clone(metainfo.layout()),
        }
    }
}

/// Says that another torrent has a file, too.
pub(super) fn shared(Overlap { path, other }: Overlap) -> StorageError {
    StorageError::Shared { path, other }
}
