//! What can go wrong with a torrent's files, in words that a person can act on.
//!
//! It owns the one error type of the storage and the translation from the system's errors; it refuses to guess: what is
//! not known stays [`StorageError::Io`] with its source.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use bytesize::ByteSize;

/// Why the files of a torrent could not be opened, read or written. It ends that torrent (or pauses it, see
/// [`is_out_of_space`](Self::is_out_of_space)), never a peer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(unreachable_pub, reason = "part of the public error type of a torrent")]
pub enum StorageError {
    /// There is less free room than the files that are still missing need, both in bytes. Nothing was written.
    #[error(
        "disk full: {} needed in {path:?}, {} more than is free; free some room or choose another folder",
        size(*.needed),
        size(.needed.saturating_sub(*.available))
    )]
    NotEnoughSpace {
        /// The download folder.
        path: PathBuf,
        /// What the wanted files still need, in bytes.
        needed: u64,
        /// What is free there, in bytes.
        available: u64,
    },
    /// The disk became full while writing.
    #[error("disk full: no room for {} of {path:?}; free some room, it goes on by itself", more(*.needed))]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// How much was to be written, in bytes.
        needed: u64,
    },
    /// The user's quota is used up.
    #[error("disk quota exceeded: no room for {} of {path:?}; free some room, it goes on by itself", more(*.needed))]
    QuotaExceeded {
        /// The file.
        path: PathBuf,
        /// How much was to be written, in bytes.
        needed: u64,
    },
    /// Somebody else downloads the same torrent with the same journal: each would undo what the other records.
    #[error(
        "another ropewalk is at work on this torrent here ({path:?} is locked); let that one end first, or choose other \
         folders for the files and the journal"
    )]
    InUse {
        /// What stands beside the journal to be locked.
        path: PathBuf,
    },
    /// Another torrent of the session has the same file, and one of the two is to write to it.
    #[error(
        "{path:?} is a file of another torrent, too ({other}); download them into different folders, or one after the \
         other"
    )]
    Shared {
        /// The file.
        path: PathBuf,
        /// The name of the other torrent.
        other: String,
    },
    /// The file system is mounted read-only.
    #[error("{path:?} is on a read-only file system; choose another folder, or mount it writable")]
    ReadOnly {
        /// The file or folder.
        path: PathBuf,
    },
    /// The process may not open or create this.
    #[error("no permission for {path:?}; change its owner or mode, or choose another folder")]
    Denied {
        /// The file or folder.
        path: PathBuf,
    },
    /// The file does not exist.
    #[error("{path:?} is missing; put it back and check the torrent again")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file ends before the bytes that it should hold.
    #[error("{path:?} is too short: it ends before byte {end}; put it back and check the torrent again")]
    Short {
        /// The file.
        path: PathBuf,
        /// The offset just behind the bytes that were asked for.
        end: u64,
    },
    /// The file is longer than the torrent says, so it is some other file; it is left alone.
    #[error(
        "{path:?} has {len} bytes where the torrent's file has {expected}: it seems to be another file; \
         move it away or choose another folder"
    )]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
        /// The length that the torrent names, in bytes.
        expected: u64,
    },
    /// A symbolic link, folder, device or the like where a file of the torrent belongs, or a link or file where one of
    /// its folders belongs.
    #[error(
        "{path:?} is not a plain {wanted} (ropewalk follows no links there); move it away or choose another folder"
    )]
    NotPlain {
        /// What is in the way.
        path: PathBuf,
        /// What belongs there: `file` or `folder`.
        wanted: &'static str,
    },
    /// The folder to download into cannot be made.
    #[error("the folder {path:?} cannot be made there; choose another one")]
    NoFolder {
        /// The folder.
        path: PathBuf,
    },
    /// The file was cut off or removed by someone else while it was in use.
    #[error("{path:?} was truncated or removed while in use; check the torrent again")]
    Vanished {
        /// The file.
        path: PathBuf,
    },
    /// Any other error of the system.
    #[error("{path:?}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl StorageError {
    /// Whether it passes once there is more room: the torrent waits and tries again.
    #[allow(unreachable_pub, reason = "see the type")]
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Self::NotEnoughSpace { .. } | Self::DiskFull { .. } | Self::QuotaExceeded { .. })
    }

    /// How many bytes must be free for it to be worth trying again; 0 where what is free says nothing.
    pub(crate) fn needed(&self) -> u64 {
        match self {
            Self::NotEnoughSpace { needed, .. } | Self::DiskFull { needed, .. } => *needed,
            _ => 0,
        }
    }

    /// What the system's `source` means for `path`, of which `needed` bytes were to be written (0 when only reading).
    pub(super) fn new(path: &Path, needed: u64, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.raw_os_error() {
            Some(libc::ENOSPC) => Self::DiskFull { path, needed },
            Some(libc::EDQUOT) => Self::QuotaExceeded { path, needed },
            Some(libc::EROFS) => Self::ReadOnly { path },
            Some(libc::EACCES | libc::EPERM) => Self::Denied { path },
            Some(libc::ENOENT) => Self::Missing { path },
            _ => Self::Io { path, source },
        }
    }
}

/// `10 B more`, or just `more`.
fn more(bytes: u64) -> String {
    if bytes == 0 { "more".to_owned() } else { format!("{} more", size(bytes)) }
}

/// As people read it.
fn size(bytes: u64) -> impl fmt::Display {
    ByteSize::b(bytes).display().iec()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::StorageError;

    fn of(code: i32) -> StorageError {
        StorageError::new(Path::new("/x/y"), 10, io::Error::from_raw_os_error(code))
    }

    #[test]
    fn the_errors_that_a_person_can_act_on_say_where_and_what_to_do() {
        let full = of(libc::ENOSPC);
        assert!(full.is_out_of_space() && full.needed() == 10);
        assert_eq!(
            full.to_string(),
            r#"disk full: no room for 10 B more of "/x/y"; free some room, it goes on by itself"#
        );
        assert!(of(libc::EDQUOT).is_out_of_space() && of(libc::EDQUOT).needed() == 0);
        assert!(matches!(of(libc::EROFS), StorageError::ReadOnly { .. }));
        assert!(matches!(of(libc::EACCES), StorageError::Denied { .. }));
        assert!(matches!(of(libc::ENOENT), StorageError::Missing { .. }));
        assert!(matches!(of(libc::EIO), StorageError::Io { .. }));
        assert!(!of(libc::EIO).is_out_of_space());
    }
}
