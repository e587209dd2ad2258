//! A .torrent file from a file or folder on the disk, hashed with every core.
//!
//! It owns the choice of what goes in: plain files, in the order of their paths. It refuses to follow links below the
//! path that it is given, and it writes nothing; encoding is [`crate::metainfo`]'s.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::hash::Hashing;
use crate::metainfo::{self, Content, Creation, Metainfo, NewFile, auto_piece_length};
use crate::storage::StorageError;
use crate::storage::check::hash_all;

/// Folders within folders that are looked into; deeper ones are an error.
const DEEPEST: usize = 64;

/// What a torrent is to say beside its content. Start from `CreateOptions::default()` and change what you need.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// The length of a piece in bytes; `None` for [`auto_piece_length`].
    pub piece_length: Option<u32>,
    /// Let every file begin at a piece of its own (padding, BEP 47).
    pub align: bool,
    /// Take files and folders in whose names begin with a dot. `.ropewalk` is never taken in.
    pub hidden: bool,
    /// Peers may come from the trackers only (BEP 27).
    pub private: bool,
    /// Tiers of tracker URLs (BEP 12).
    pub trackers: Vec<Vec<String>>,
    /// Web seeds (BEP 19).
    pub web_seeds: Vec<String>,
    /// A comment.
    pub comment: Option<String>,
    /// The `created by` field. Default: `ropewalk VERSION`.
    pub created_by: Option<String>,
    /// When it is made; `None` leaves it out, so that the same content gives the same bytes. Default: now.
    pub creation_date: Option<SystemTime>,
    /// A mark that gives the torrent an info-hash of its own, as some trackers want.
    pub source: Option<String>,
    /// How the files are hashed. Default: by one thread per core, in the way that is quickest here.
    pub hashing: Hashing,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self {
            piece_length: None,
            align: false,
            hidden: false,
            private: false,
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            comment: None,
            created_by: Some(concat!("ropewalk ", env!("CARGO_PKG_VERSION")).to_owned()),
            creation_date: Some(SystemTime::now()),
            source: None,
            hashing: Hashing::default(),
        }
    }
}

/// A torrent that was made, and what was left out of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Created {
    /// The torrent; [`Metainfo::as_bytes`] is the file to write.
    pub metainfo: Metainfo,
    /// Files and folders whose names begin with a dot.
    pub hidden: Vec<PathBuf>,
    /// Links, sockets, devices: whatever is neither a file nor a folder.
    pub special: Vec<PathBuf>,
}

/// Why a torrent was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// A file or folder could not be looked at.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path has no name that could be the torrent's.
    #[error("{} is neither a file nor a folder that has a name", path.display())]
    NoName {
        /// The path.
        path: PathBuf,
    },
    /// Folders within folders without end.
    #[error("{} is more than {DEEPEST} folders deep", path.display())]
    TooDeep {
        /// The folder.
        path: PathBuf,
    },
    /// The content or its names are not such as a torrent can have.
    #[error(transparent)]
    Content(#[from] metainfo::CreateError),
    /// A file could not be hashed, or changed meanwhile.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The caller asked to stop.
    #[error("stopped before everything was hashed")]
    Stopped,
}

/// Makes a torrent of a file or of a folder's files. `progress` hears the bytes hashed so far and the bytes in all, from
/// several threads and in no particular order; `stop` ends the work early.
///
/// ```
/// use ropewalk::create::{CreateOptions, create};
/// use std::sync::atomic::AtomicBool;
///
/// let folder = tempfile::tempdir()?;
/// std::fs::write(folder.path().join("hello.txt"), "hello")?;
/// let created = create(&folder.path().join("hello.txt"), &CreateOptions::default(), &|_, _| {}, &AtomicBool::new(false))?;
/// std::fs::write(folder.path().join("hello.torrent"), created.metainfo.as_bytes())?;
/// assert_eq!(created.metainfo.name(), "hello.txt");
/// assert_eq!(created.metainfo.layout().total_len(), 5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn create(
    path: &Path,
    options: &CreateOptions,
    progress: &(dyn Fn(u64, u64) + Sync),
    stop: &AtomicBool,
) -> Result<Created, CreateError> {
    // `.` and `x/..` have names too, and the path itself may be a link.
    let path = &fs::canonicalize(path).map_err(|source| CreateError::Io { path: path.into(), source })?;
    let no_name = || CreateError::NoName { path: path.clone() };
    let name = path.file_name().ok_or_else(no_name)?;
    let name = name.to_str().ok_or_else(|| metainfo::CreateError::NotUtf8 { path: path.display().to_string() })?;
    let mut found = Found::new(path, options.hidden);
    let about = look(path)?;
    let content = if about.is_dir() {
        found.folder(Path::new(""), 0)?;
        // By path, so that the same folder gives the same torrent everywhere.
        found.files.sort_by(|a, b| a.path.cmp(&b.path));
        Content::Folder(found.files)
    } else if about.is_file() {
        Content::File { len: about.len(), executable: is_executable(&about) }
    } else {
        return Err(no_name());
    };
    let sources: Vec<PathBuf> = match &content {
        Content::Folder(files) => files.iter().map(|file| path.join(&file.path)).collect(),
        Content::File { .. } => vec![path.clone()],
    };
    let prepared = options.creation(name, content).prepare()?;
    let layout = prepared.layout();
    let (done, total) = (AtomicU64::new(0), layout.total_len());
    let on_piece = |piece| {
        let len = u64::from(layout.piece_len(piece));
        progress(done.fetch_add(len, Ordering::Relaxed) + len, total);
    };
    // Padding, which has no source, is never asked for.
    let path_of = |file| prepared.source(file).map_or_else(PathBuf::new, |source| sources[source].clone());
    let hashes = hash_all(layout, &path_of, options.hashing, &on_piece, stop)?.ok_or(CreateError::Stopped)?;
    let bytes = prepared.finish(hashes.as_flattened())?;
    // What we encode is in order; a torrent that we could not read would be a fault of ours.
    let metainfo = Metainfo::from_bytes(&bytes)
        .map_err(|error| CreateError::Io { path: path.clone(), source: io::Error::other(error) })?;
    Ok(Created { metainfo, hidden: found.hidden, special: found.special })
}

impl CreateOptions {
    fn creation(&self, name: &str, content: Content) -> Creation {
        let total = match &content {
            Content::File { len, .. } => *len,
            Content::Folder(files) => files.iter().fold(0, |sum, file| u64::saturating_add(sum, file.len)),
        };
        let seconds = |date: SystemTime| date.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        Creation {
            align: self.align,
            private: self.private,
            trackers: self.trackers.clone(),
            web_seeds: self.web_seeds.clone(),
            comment: self.comment.clone(),
            created_by: self.created_by.clone(),
            creation_date: self.creation_date.map(seconds),
            source: self.source.clone(),
            ..Creation::new(name, content, self.piece_length.unwrap_or_else(|| auto_piece_length(total)))
        }
    }
}

/// What is in a folder.
struct Found<'a> {
    root: &'a Path,
    take_hidden: bool,
    files: Vec<NewFile>,
    hidden: Vec<PathBuf>,
    special: Vec<PathBuf>,
}

impl<'a> Found<'a> {
    fn new(root: &'a Path, take_hidden: bool) -> Self {
        Self { root, take_hidden, files: Vec::new(), hidden: Vec::new(), special: Vec::new() }
    }

    /// Takes in a folder, named by its path below the root.
    fn folder(&mut self, below: &Path, depth: usize) -> Result<(), CreateError> {
        let path = self.root.join(below);
        if depth > DEEPEST {
            return Err(CreateError::TooDeep { path });
        }
        let failed = |source| CreateError::Io { path: path.clone(), source };
        for entry in fs::read_dir(&path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let below = below.join(&name);
            // The journals of ropewalk are nobody else's business.
            if name == ".ropewalk" {
                continue;
            }
            if name.as_encoded_bytes().starts_with(b".") && !self.take_hidden {
                self.hidden.push(below);
                continue;
            }
            let about = look(&self.root.join(&below))?;
            if about.is_dir() {
                self.folder(&below, depth + 1)?;
            } else if about.is_file() {
                self.files.push(NewFile { path: below, len: about.len(), executable: is_executable(&about) });
            } else {
                self.special.push(below);
            }
        }
        Ok(())
    }
}

fn look(path: &Path) -> Result<fs::Metadata, CreateError> {
    fs::symlink_metadata(path).map_err(|source| CreateError::Io { path: path.into(), source })
}

fn is_executable(about: &fs::Metadata) -> bool {
    about.permissions().mode() & 0o100 != 0
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::{CreateError, CreateOptions, create};

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("album/b/c")).unwrap();
        fs::create_dir_all(folder.path().join("album/.ropewalk")).unwrap();
        for (path, bytes) in [("b/c/2", "two"), ("1", "one"), (".hidden", "x"), (".ropewalk/j", "x"), ("b.txt", "")] {
            fs::write(folder.path().join("album").join(path), bytes).unwrap();
        }
        std::os::unix::fs::symlink("1", folder.path().join("album/link")).unwrap();
        folder
    }

    #[test]
    fn plain_files_go_in_by_path_and_the_rest_is_named() {
        let folder = folder();
        let hashed = AtomicU64::new(0);
        let progress = |done, total| {
            assert_eq!(total, 6);
            hashed.fetch_max(done, Ordering::Relaxed);
        };
        let options = CreateOptions::default();
        let created = create(&folder.path().join("album"), &options, &progress, &AtomicBool::new(false)).unwrap();
        let paths: Vec<_> = created.metainfo.layout().files().iter().map(|file| file.path().to_owned()).collect();
        assert_eq!(paths, ["album/1", "album/b/c/2", "album/b.txt"].map(PathBuf::from));
        assert_eq!(created.hidden, [PathBuf::from(".hidden")]);
        assert_eq!(created.special, [PathBuf::from("link")]);
        assert_eq!(hashed.into_inner(), 6);

        let options = CreateOptions { hidden: true, ..options };
        let created = create(&folder.path().join("album"), &options, &|_, _| {}, &AtomicBool::new(false)).unwrap();
        assert_eq!(created.metainfo.layout().files().len(), 4);
    }

    #[test]
    fn stopping_and_absence_are_errors() {
        let folder = folder();
        let stop = AtomicBool::new(true);
        let make = |name: &str| create(&folder.path().join(name), &CreateOptions::default(), &|_, _| {}, &stop);
        assert!(matches!(make("album"), Err(CreateError::Stopped)));
        assert!(make("absent").unwrap_err().to_string().contains("absent"));
        assert!(matches!(make("album/.ropewalk"), Err(CreateError::Content(_)) | Err(CreateError::Stopped)));
    }
}
