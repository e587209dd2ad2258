//! Moving bytes between pieces and files: storing, reading, lending.
//!
//! It owns the loops over a piece's segments and what to do when a file turns out to be gone or the disk full. It
//! refuses to extend a file that someone cut off: that would turn lost bytes into zeros that look like a file.

use std::fs::File;
use std::io::{ErrorKind, IoSlice};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::map::Map;
use super::{Access, Lent, Place, Storage, StorageError, VerifiedPiece, Way};
use crate::metainfo::{Block, FileIndex, Segment};

/// How much of a mapping is resident at a time while a piece is stored, in bytes.
const STORE_STEP: u64 = 1024 * 1024;

/// How many slices one `pwritev` takes (`IOV_MAX`).
const MOST_SLICES: usize = 1024;

/// After how many copied bytes no further block is lent with them.
const MOST_COPIED: u64 = 256 * 1024;

impl Storage {
    /// Stores a piece. Its bytes are in the page cache afterwards (they survive the process, not yet the machine). After
    /// an error part of it may be stored; storing it again is fine. Waits a moment where the disk is far behind.
    pub(crate) fn write_piece<B: AsRef<[u8]>>(&self, piece: &VerifiedPiece<B>) -> Result<(), StorageError> {
        self.writeback.wait_for_room();
        let mut bytes = Bytes::new(piece.blocks());
        for segment in self.layout.segments(self.layout.whole(piece.piece())) {
            self.write_segment(segment, &mut bytes)?;
        }
        Ok(())
    }

    /// Reads a block by pread into `buf`, which must have its length. For hashing, readers, encrypted uploads.
    pub(crate) fn read_at(&self, block: Block, buf: &mut [u8]) -> Result<(), StorageError> {
        let mut rest = buf;
        for segment in self.layout.segments(block) {
            let (part, behind) = rest.split_at_mut(segment.len as usize);
            self.read_segment(segment, part)?;
            rest = behind;
        }
        Ok(())
    }

    /// Lends blocks, which must be stored, for an upload: from the mapping without a copy where there is one. Where much
    /// must be copied, only the first of them; but always one. `next` is what will be asked for after them: its bytes
    /// are read from the disk while these are sent.
    pub(crate) fn lend(&self, blocks: &[Block], next: &[Block]) -> Result<Lent, StorageError> {
        let mut lent = Lent::new(&self.ledger, blocks.len());
        let mut last = None;
        let mut copied = 0;
        for &block in blocks {
            for segment in self.layout.segments(block) {
                let range = segment.offset..segment.offset + u64::from(segment.len);
                match self.map_of(segment.file, &mut last)? {
                    Some(map) => {
                        map.read_ahead(range.clone());
                        lent.add_mapped(map, range);
                    }
                    None => {
                        copied += u64::from(segment.len);
                        self.read_segment(segment, lent.add_owned(segment.len as usize))?;
                    }
                }
            }
            lent.end_block();
            if copied >= MOST_COPIED {
                return Ok(lent);
            }
        }
        for segment in next.iter().flat_map(|&block| self.layout.segments(block)) {
            if let Ok(Some(map)) = self.map_of(segment.file, &mut last) {
                map.read_ahead(segment.offset..segment.offset + u64::from(segment.len));
            }
        }
        Ok(lent)
    }

    /// Reads a part of a file, wherever it is.
    pub(super) fn read_segment(&self, segment: Segment, buf: &mut [u8]) -> Result<(), StorageError> {
        loop {
            match self.place(segment.file) {
                Place::Nowhere => buf.fill(0),
                Place::Later => return Err(StorageError::Missing { path: self.path(segment.file) }),
                Place::Here => return self.read_here(segment, buf),
                Place::Aside => {
                    let mut parts = self.parts.lock();
                    if self.place(segment.file) != Place::Aside {
                        continue;
                    }
                    return parts.read(self.layout.file(segment.file).offset() + segment.offset, buf);
                }
            }
            return Ok(());
        }
    }

    /// The open file, if the bytes are in one.
    pub(super) fn plain_file(&self, file: FileIndex) -> Result<Option<Arc<File>>, StorageError> {
        match self.place(file) {
            Place::Here => self.descriptor(file).map(Some),
            _ => Ok(None),
        }
    }

    /// The descriptor of a file that was made.
    pub(super) fn descriptor(&self, file: FileIndex) -> Result<Arc<File>, StorageError> {
        let there = self.open.lock().get(file.get());
        if let Some(there) = there {
            return Ok(there);
        }
        let access = if self.read_only { Access::Read } else { Access::Write };
        let opened = self.root.file(self.layout.file(file).path(), access)?;
        let (opened, gone) = self.open.lock().keep(file.get(), opened);
        drop(gone);
        Ok(opened)
    }

    fn write_segment(&self, segment: Segment, bytes: &mut Bytes<'_>) -> Result<(), StorageError> {
        let len = u64::from(segment.len);
        loop {
            match self.place(segment.file) {
                Place::Nowhere => bytes.take(len).for_each(drop),
                Place::Here => {
                    self.write_here(segment, bytes)?;
                    self.changed.lock().restamp.insert(segment.file.get());
                    // In memory there is nothing to write ahead of a sync, which is all the same right where a disk is
                    // mounted below.
                    if self.in_memory {
                        self.writeback.note_unsynced(segment.file);
                    } else {
                        self.writeback.note(segment);
                    }
                }
                place => {
                    let mut parts = self.parts.lock();
                    match self.place(segment.file) {
                        now if now != place => {}
                        Place::Later => {
                            self.make(segment.file, &mut super::Walk::new(&self.root))?;
                            self.put(segment.file, Place::Here);
                        }
                        _ => {
                            let offset = self.layout.file(segment.file).offset() + segment.offset;
                            parts.write(offset, bytes.take(len), len)?;
                            self.writeback.note_parts();
                            return Ok(());
                        }
                    }
                    continue;
                }
            }
            return Ok(());
        }
    }

    fn write_here(&self, segment: Segment, bytes: &mut Bytes<'_>) -> Result<(), StorageError> {
        let map = if self.way == Way::Mapped { self.map(segment.file)? } else { None };
        let Some(map) = map else { return self.write_plain(segment, bytes) };
        let end = segment.offset + u64::from(segment.len);
        let mut at = segment.offset;
        while at < end {
            let upto = end.min((at / STORE_STEP + 1) * STORE_STEP);
            let len = (upto - at) as usize;
            match map.populate(at, len) {
                Ok(()) => {
                    map.store(at, bytes.take(len as u64));
                    map.drop_pages(at, len);
                    if map.vanished() {
                        return Err(self.vanished(segment.file));
                    }
                }
                Err(error) => {
                    // The bytes go the portable way, which also says what is wrong: `madvise` only knows EFAULT for
                    // a full disk, an I/O error and a file that was cut off alike. EINVAL is a kernel before 5.14.
                    log::debug!("{:?}: cannot populate: {error}", self.path(segment.file));
                    if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) {
                        self.state(segment.file).portable.store(true, Ordering::Relaxed);
                    }
                    self.write_plain(Segment { offset: at, len: len as u32, ..segment }, bytes)?;
                }
            }
            at = upto;
        }
        Ok(())
    }

    fn write_plain(&self, segment: Segment, bytes: &mut Bytes<'_>) -> Result<(), StorageError> {
        let file = self.descriptor(segment.file)?;
        let fail = |error| StorageError::new(&self.path(segment.file), u64::from(segment.len), error);
        let there = file.metadata().map_err(fail)?;
        let full = self.state(segment.file).full.load(Ordering::Relaxed);
        if there.nlink() == 0 || (full && there.len() < self.layout.file(segment.file).len()) {
            return Err(self.vanished(segment.file));
        }
        let mut at = segment.offset;
        let mut parts: Vec<_> = bytes.take(u64::from(segment.len)).map(IoSlice::new).collect();
        let mut rest = parts.as_mut_slice();
        while !rest.is_empty() {
            let some = &rest[..rest.len().min(MOST_SLICES)];
            match rustix::io::pwritev(&*file, some, at) {
                Ok(0) => return Err(fail(ErrorKind::WriteZero.into())),
                Ok(written) => {
                    at += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(fail(error.into())),
            }
        }
        Ok(())
    }

    fn read_here(&self, segment: Segment, buf: &mut [u8]) -> Result<(), StorageError> {
        self.descriptor(segment.file)?.read_exact_at(buf, segment.offset).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => {
                StorageError::Short { path: self.path(segment.file), end: segment.offset + u64::from(segment.len) }
            }
            _ => StorageError::new(&self.path(segment.file), 0, error),
        })
    }

    /// The mapping to lend from, if the bytes are in one. `last` is the answer before, for the next segment is mostly of
    /// the same file.
    fn map_of<'a>(
        &self,
        file: FileIndex,
        last: &'a mut Option<(FileIndex, Option<Arc<Map>>)>,
    ) -> Result<Option<&'a Arc<Map>>, StorageError> {
        if last.as_ref().is_none_or(|(before, _)| *before != file) {
            let map = if self.place(file) == Place::Here { self.map(file)? } else { None };
            *last = Some((file, map));
        }
        Ok(last.as_ref().and_then(|(_, map)| map.as_ref()))
    }

    /// The mapping of a file that was made, if it is one to be mapped.
    fn map(&self, file: FileIndex) -> Result<Option<Arc<Map>>, StorageError> {
        if self.state(file).portable.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let there = self.maps.lock().get(file.get());
        match there {
            Some(map) if map.vanished() => return Err(self.vanished(file)),
            Some(map) => return Ok(Some(map)),
            None => {}
        }
        let opened = self.descriptor(file)?;
        let len = self.layout.file(file).len();
        let there = opened.metadata().map_err(|error| StorageError::new(&self.path(file), 0, error))?;
        if there.len() < len {
            return match self.state(file).full.load(Ordering::Relaxed) {
                true => Err(self.vanished(file)),
                false => Ok(None),
            };
        }
        match Map::new(&opened, len, !self.read_only) {
            Ok(map) => {
                let (map, gone) = self.maps.lock().keep(file.get(), map);
                drop(gone);
                Ok(Some(map))
            }
            Err(error) => {
                log::debug!("{:?}: not mapped: {error}", self.path(file));
                Ok(None)
            }
        }
    }

    /// Forgets a file that was cut off or removed, so that it is opened afresh should it come back.
    fn vanished(&self, file: FileIndex) -> StorageError {
        let map = self.maps.lock().forget(file.get());
        let open = self.open.lock().forget(file.get());
        drop((map, open));
        StorageError::Vanished { path: self.path(file) }
    }
}

/// A piece's bytes, taken from the front.
#[derive(Debug)]
struct Bytes<'a> {
    blocks: Vec<&'a [u8]>,
    /// The block that is next, and how much of it is gone.
    at: usize,
    within: usize,
}

impl<'a> Bytes<'a> {
    fn new(blocks: impl Iterator<Item = &'a [u8]>) -> Self {
        Self { blocks: blocks.collect(), at: 0, within: 0 }
    }

    /// The next `len` bytes, slice by slice; taken as they are iterated.
    fn take(&mut self, len: u64) -> impl Iterator<Item = &'a [u8]> {
        let mut left = len;
        std::iter::from_fn(move || {
            while left > 0 {
                let rest = &self.blocks.get(self.at)?[self.within..];
                let part = &rest[..rest.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
                left -= part.len() as u64;
                self.within += part.len();
                if part.len() == rest.len() {
                    (self.at, self.within) = (self.at + 1, 0);
                }
                if !part.is_empty() {
                    return Some(part);
                }
            }
            None
        })
    }
}
