//! A file of a torrent as something to read, while it is still arriving.
//!
//! It owns its position and its window of urgency. It reads from the files, not from the network: what it gives out is
//! verified.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::handle::State;
use super::inbox::Inbox;
use super::shared::Shared;
use crate::metainfo::{FileIndex, Layout, PieceIndex};

/// How many bytes ahead of the position are fetched first, at the least: some seconds of video.
const AHEAD: u64 = 8 << 20;
/// And how many pieces, at the least.
const AHEAD_PIECES: u32 = 2;

/// Numbers readers, so that each owns its window.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Reads a file of a torrent from start to end, or from wherever it is moved to. Bytes that are not there yet are
/// waited for, and are fetched before everything else.
///
/// A read waits as long as the torrent can still get the bytes; [`FileReader::set_timeout`] and
/// [`FileReader::canceller`] end it earlier.
pub struct FileReader {
    shared: Arc<Shared>,
    file: FileIndex,
    len: u64,
    position: u64,
    timeout: Option<Duration>,
    cancelled: Arc<AtomicBool>,
    id: u64,
    /// The window that the owner knows.
    window: Range<u32>,
}

/// Ends the reads of a [`FileReader`] from another thread.
#[derive(Clone)]
pub struct CancelRead {
    shared: Arc<Shared>,
    cancelled: Arc<AtomicBool>,
}

/// Why a file cannot be opened for reading.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The metadata of the torrent is not known yet, and so neither are its files.
    #[error("the torrent's metadata is not known yet")]
    NoMetadata,
    /// The torrent has no such file.
    #[error("the torrent has no file {0}")]
    NoSuchFile(u32),
    /// It is padding (BEP 47), which is never stored.
    #[error("file {0} is padding, which is never stored")]
    Padding(u32),
}

impl FileReader {
    pub(super) fn open(shared: Arc<Shared>, file: FileIndex) -> Result<Self, OpenError> {
        if !shared.has_metainfo() {
            return Err(OpenError::NoMetadata);
        }
        let layout = shared.metainfo().layout();
        let Some(file) = layout.file_index(file.get()) else { return Err(OpenError::NoSuchFile(file.get())) };
        if layout.file(file).is_padding() {
            return Err(OpenError::Padding(file.get()));
        }
        let len = layout.file(file).len();
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let cancelled = Arc::default();
        Ok(Self { len, file, position: 0, timeout: None, cancelled, id, window: 0..0, shared })
    }

    /// How long one read may wait for its bytes; `None`, the default, for as long as it takes. A read that waited longer
    /// fails with [`io::ErrorKind::TimedOut`] and can be tried again.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
    }

    /// Something that ends this reader's reads from another thread.
    pub fn canceller(&self) -> CancelRead {
        CancelRead { shared: Arc::clone(&self.shared), cancelled: Arc::clone(&self.cancelled) }
    }

    /// The length of the file in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes from the position on could be read without waiting.
    pub fn ready(&self) -> u64 {
        let layout = Arc::clone(self.shared.metainfo().layout());
        let have = self.shared.have.read();
        let mut at = self.position;
        while at < self.len {
            let Some(piece) = self.piece_at(&layout, at) else { break };
            if !have.get(piece.get()) {
                break;
            }
            at = self.end_of(&layout, piece);
        }
        at - self.position
    }

    fn piece_at(&self, layout: &Layout, position: u64) -> Option<PieceIndex> {
        let offset = layout.file(self.file).offset() + position;
        layout.piece((offset / u64::from(layout.piece_length())) as u32)
    }

    /// Where, within the file, the bytes of a piece end.
    fn end_of(&self, layout: &Layout, piece: PieceIndex) -> u64 {
        let end = layout.piece_offset(piece) + u64::from(layout.piece_len(piece));
        (end - layout.file(self.file).offset()).min(self.len)
    }

    /// Moves the window of urgency to the position.
    fn announce(&mut self, layout: &Layout) {
        let Some(first) = self.piece_at(layout, self.position) else { return };
        let ahead = (AHEAD.div_ceil(u64::from(layout.piece_length())) as u32).max(AHEAD_PIECES);
        let last = layout.pieces_of(self.file).end;
        let window = first.get()..last.min(first.get().saturating_add(ahead));
        // Each step forward changes it; the owner need not hear of every one.
        let near = window.start >= self.window.start && window.start < self.window.start + ahead.div_ceil(4);
        if near && self.window.end > window.start {
            return;
        }
        self.window = window.clone();
        {
            let mut windows = self.shared.windows.lock();
            windows.retain(|(id, _)| *id != self.id);
            windows.push((self.id, window));
        }
        self.shared.inbox.send(Inbox::Windows).ok();
    }

    fn withdraw(&mut self) {
        // Taken, so that a reader that is moved back from the end says again what it waits for.
        if !std::mem::take(&mut self.window).is_empty() {
            self.shared.windows.lock().retain(|(id, _)| *id != self.id);
            self.shared.inbox.try_send(Inbox::Windows).ok();
        }
    }

    /// Waits until a piece is verified.
    fn wait_for(&self, piece: PieceIndex) -> io::Result<()> {
        let deadline = self.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let arrived = || self.shared.have.read().get(piece.get()) && self.shared.storage.read().is_some();
            if self.cancelled.load(Ordering::Acquire) {
                // Not `Interrupted`, which `read_exact` and `read_to_end` take for an invitation to try again.
                return Err(io::Error::other(Cancelled));
            }
            if arrived() {
                return Ok(());
            }
            match self.shared.snapshot().stats.state.clone() {
                State::Failed(failure) => return Err(io::Error::other(failure.message.to_string())),
                State::Looking => return Err(io::Error::other("nothing is downloaded: the torrent is only looked at")),
                State::Stopped => return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the torrent was stopped")),
                _ => {}
            }
            let done = |state: &State| {
                arrived()
                    || self.cancelled.load(Ordering::Acquire)
                    || matches!(state, State::Failed(_) | State::Looking | State::Stopped)
            };
            if !self.shared.wait_for_change(deadline, done) && !arrived() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the bytes did not arrive in time"));
            }
        }
    }
}

/// A read was ended by [`CancelRead::cancel`].
#[derive(Debug, thiserror::Error)]
#[error("the read was cancelled")]
struct Cancelled;

impl Read for FileReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.len || buf.is_empty() {
            return Ok(0);
        }
        let layout = Arc::clone(self.shared.metainfo().layout());
        let Some(piece) = self.piece_at(&layout, self.position) else { return Ok(0) };
        if !self.shared.have.read().get(piece.get()) {
            self.announce(&layout);
        }
        self.wait_for(piece)?;
        let storage = self.shared.storage.read().clone();
        let storage = storage.ok_or_else(|| io::Error::other("the files are not open"))?;
        let at = layout.file(self.file).offset() + self.position;
        let begin = (at - layout.piece_offset(piece)) as u32;
        let left = (self.end_of(&layout, piece) - self.position).min(buf.len() as u64) as u32;
        let Some(range) = layout.range(piece.get(), begin, left) else { return Ok(0) };
        storage.read_at(range, &mut buf[..left as usize]).map_err(io::Error::other)?;
        self.position += u64::from(left);
        if self.position < self.len {
            self.announce(&layout);
        } else {
            self.withdraw();
        }
        Ok(left as usize)
    }
}

impl Seek for FileReader {
    /// Moves to another place; past the end is allowed and reads nothing.
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.len.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a position before the start of the file"))?;
        Ok(self.position)
    }
}

impl Drop for FileReader {
    fn drop(&mut self) {
        self.withdraw();
    }
}

impl std::fmt::Debug for FileReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileReader(file {} at {} of {})", self.file.get(), self.position, self.len)
    }
}

impl CancelRead {
    /// Ends the read that is waiting, and every later one, with an error of which the text says so.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.shared.wake();
    }
}
