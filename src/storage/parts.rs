//! The bytes of skipped files that wanted pieces brought along.
//!
//! It owns one sparse file beside the resume journal, `NAME.parts`, that holds such bytes at their offset within the
//! torrent, so that a skipped file is not created and its pieces can still be uploaded and checked. It refuses to know
//! which bytes it has: the pieces' hashes know.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::StorageError;
use super::files::Stamp;

/// How much is moved at a time, in bytes.
const STEP: usize = 64 * 1024;

/// The parts file, opened when first needed.
#[derive(Debug)]
pub(super) struct Parts {
    path: PathBuf,
    file: Option<File>,
    read_only: bool,
}

impl Parts {
    /// The parts file of the torrent `name` in `folder`; neither need exist.
    pub(super) fn new(folder: &Path, name: &str, read_only: bool) -> Self {
        Self { path: folder.join(format!("{name}.parts")), file: None, read_only }
    }

    /// Whether there is one.
    pub(super) fn exists(&mut self) -> bool {
        self.open(false).is_ok()
    }

    /// Keeps `parts`, one after the other, at `offset`.
    pub(super) fn write<'a>(
        &mut self,
        offset: u64,
        parts: impl Iterator<Item = &'a [u8]>,
        len: u64,
    ) -> Result<(), StorageError> {
        let result = self.open(true).and_then(|file| {
            let mut at = offset;
            for part in parts {
                file.write_all_at(part, at)?;
                at += part.len() as u64;
            }
            Ok(())
        });
        result.map_err(|error| StorageError::new(&self.path, len, error))
    }

    /// Reads what is kept at `offset`.
    pub(super) fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        let end = offset + buf.len() as u64;
        match self.open(false).and_then(|file| file.read_exact_at(buf, offset)) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                Err(StorageError::Short { path: self.path.clone(), end })
            }
            Err(error) => Err(StorageError::new(&self.path, 0, error)),
        }
    }

    /// Gives what is kept of `range` to `sink` as (offset within the torrent, bytes). Stretches of zeros are left out: a
    /// new file has them already.
    pub(super) fn each(
        &mut self,
        range: Range<u64>,
        mut sink: impl FnMut(u64, &[u8]) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let mut buf = [0; STEP];
        let mut at = range.start;
        while at < range.end {
            let want = (range.end - at).min(STEP as u64) as usize;
            let read = match self.open(false).and_then(|file| file.read_at(&mut buf[..want], at)) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(StorageError::new(&self.path, 0, error)),
            };
            if buf[..read].iter().any(|&byte| byte != 0) {
                sink(at, &buf[..read])?;
            }
            at += read as u64;
        }
        Ok(())
    }

    /// Length and time of the last change, if it exists.
    pub(super) fn stamp(&mut self) -> Option<Stamp> {
        self.open(false).and_then(Stamp::of).ok()
    }

    /// Makes what is kept durable.
    pub(super) fn sync(&mut self) -> Result<(), StorageError> {
        let sync = || {
            // It may have been written by an earlier process, and not be open now.
            match &self.file {
                Some(file) => file.sync_data()?,
                None => File::open(&self.path)?.sync_data()?,
            }
            File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
        };
        match sync() {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        }
        .map_err(|error| StorageError::new(&self.path, 0, error))
    }

    /// Removes the file.
    pub(super) fn remove(&mut self) -> Result<(), StorageError> {
        self.file = None;
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(StorageError::new(&self.path, 0, error)),
            _ => Ok(()),
        }
    }

    fn open(&mut self, create: bool) -> io::Result<&File> {
        if self.file.is_none() {
            let create = create && !self.read_only;
            if let (true, Some(folder)) = (create, self.path.parent()) {
                std::fs::create_dir_all(folder)?;
            }
            let mut options = OpenOptions::new();
            options.read(true).write(!self.read_only).create(create).truncate(false).custom_flags(libc::O_NOFOLLOW);
            self.file = Some(options.open(&self.path)?);
        }
        Ok(self.file.as_ref().expect("opened just above"))
    }
}
