//! `--trace FILE`: what a download looked like, as a page to look at.
//!
//! It owns the thread that looks at a torrent while it is followed, and the file. [`recorder`] keeps what was seen,
//! [`page`] makes the page of it. Nothing of this runs, and nobody subscribes to events, without the option.

mod page;
mod recorder;

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use ropewalk::{Event, Metainfo, PeerStats, State, Torrent};

use super::exit::{Code, failed, io_text};
use super::screen::Screen;
use super::select::numbered;
use super::words::shown;
use page::Facts;
use recorder::{Doing, FINEST, Kind, Look, PeerLook, Phase, Recorder};

/// How often the torrent is looked at, at the least: its events must not pile up.
const SLOWEST: Duration = Duration::from_millis(100);

/// How a page begins.
const PAGE_BEGINS: &[u8; 15] = b"<!DOCTYPE html>";

/// A file that can be written when there is something to write.
pub struct Trace {
    /// As it was given.
    path: PathBuf,
    limit_down: Option<u64>,
}

/// A torrent that is being looked at.
pub struct Recording {
    trace: Trace,
    torrent: Torrent,
    started: SystemTime,
    /// Ends the thread when it is dropped.
    stop: Sender<()>,
    thread: JoinHandle<Recorder>,
}

impl Trace {
    /// Makes sure that the file can be written, and leaves no trace of that.
    pub fn new(path: &Path, limit_down: Option<u64>) -> anyhow::Result<Self> {
        let trace = Self { path: path.to_path_buf(), limit_down };
        let kind = std::fs::metadata(path).map(|metadata| metadata.file_type());
        if kind.is_ok_and(|kind| !kind.is_file()) {
            let text = format!("cannot write {}: it is no plain file; choose another with --trace", path.display());
            return Err(failed(Code::Disk, text));
        }
        if path == Path::new("-") {
            return Err(failed(Code::Usage, "--trace writes a page to a file; name one, such as trace.html"));
        }
        if trace.is_another_file() {
            let text = format!("{} is there and is no trace; choose another name with --trace", path.display());
            return Err(failed(Code::Disk, text));
        }
        trace.temporary().map_err(|error| trace.unwritable(&error))?;
        Ok(trace)
    }

    /// Looks at a torrent from now on.
    pub fn start(self, torrent: &Torrent) -> anyhow::Result<Recording> {
        let (stop, stopped) = bounded(0);
        let looker = Looker {
            recorder: Recorder::new(pieces(torrent)),
            events: torrent.events(),
            torrent: torrent.clone(),
            start: Instant::now(),
            loaded: false,
        };
        let thread = std::thread::Builder::new().name("trace".into()).spawn(move || looker.run(&stopped))?;
        Ok(Recording { trace: self, torrent: torrent.clone(), started: SystemTime::now(), stop, thread })
    }

    /// A new file where the page will be, which is not there until it is whole.
    fn temporary(&self) -> io::Result<tempfile::NamedTempFile> {
        let target = self.target();
        let folder = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // As any other new file; the user's mask takes away from it.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        tempfile::Builder::new().permissions(mode).prefix(".ropewalk-").tempfile_in(folder)
    }

    /// Where a link leads: the link stays.
    fn target(&self) -> PathBuf {
        self.path.canonicalize().unwrap_or_else(|_| self.path.clone())
    }

    /// Whether what is there is no page of an earlier run, which may be replaced: a film, or the .torrent itself.
    fn is_another_file(&self) -> bool {
        let mut begin = [0; PAGE_BEGINS.len()];
        let Ok(mut file) = std::fs::File::open(self.target()) else { return false };
        let is_empty = file.metadata().is_ok_and(|metadata| metadata.len() == 0);
        !is_empty && (file.read_exact(&mut begin).is_err() || begin != *PAGE_BEGINS)
    }

    fn write(&self, page: &str) -> anyhow::Result<()> {
        let written = self.temporary().and_then(|mut file| {
            file.write_all(page.as_bytes())?;
            file.persist(self.target()).map(drop).map_err(|error| error.error)
        });
        written.map_err(|error| self.unwritable(&error))
    }

    fn unwritable(&self, error: &io::Error) -> anyhow::Error {
        let path = self.path.display();
        failed(Code::Disk, format!("cannot write {path}: {}; choose another place with --trace", io_text(error)))
    }
}

impl Recording {
    /// Writes the page, however the download ended, and passes that on.
    pub fn finish(self, outcome: anyhow::Result<Code>, screen: &Screen) -> anyhow::Result<Code> {
        drop(self.stop);
        let recorder = self.thread.join().map_err(|_| failed(Code::Other, "the trace's thread ended early"))?;
        let (torrent, stats) = (&self.torrent, self.torrent.stats());
        let layout = torrent.metainfo().map(Metainfo::layout);
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (code, error) = match &outcome {
            Ok(code) => (*code, None),
            Err(error) => (super::exit::code_of(error), Some(super::exit::text_of(error))),
        };
        let trouble = || recorder.marks(Kind::Trouble).list.last().map(|mark| mark.text.clone());
        let facts = Facts {
            name: torrent.name().to_owned(),
            info_hash: torrent.info_hash().to_string(),
            size: layout.map_or(0, |layout| layout.total_len()),
            piece_length: layout.map_or(0, |layout| layout.piece_length()),
            files: layout.map_or(0, |layout| numbered(layout).count()),
            started: u64::try_from(started.as_millis()).unwrap_or(u64::MAX),
            wanted: stats.wanted,
            done: stats.done,
            downloaded: stats.downloaded,
            uploaded: stats.uploaded,
            wasted: stats.wasted,
            limit_down: self.trace.limit_down,
            result: code.name().to_owned(),
            why: error.or_else(|| if matches!(code, Code::Done | Code::Stopped) { None } else { trouble() }),
        };
        let written = self.trace.write(&page::page(&facts, &recorder));
        match (outcome, written) {
            (Ok(code), Ok(())) => {
                screen.note(&format!("trace: {}", shown(&self.trace.path)));
                Ok(code)
            }
            (Ok(code), Err(error)) if code != Code::Done => {
                screen.error(&super::exit::text_of(&error));
                Ok(code)
            }
            (Ok(_), Err(error)) => Err(error),
            (Err(error), _) => Err(error),
        }
    }
}

/// What the thread works with.
struct Looker {
    recorder: Recorder,
    torrent: Torrent,
    events: Receiver<Event>,
    start: Instant,
    /// The pieces that were there before are known.
    loaded: bool,
}

impl Looker {
    fn run(mut self, stopped: &Receiver<()>) -> Recorder {
        // What a magnet link's torrent consists of shows only its metadata: the page begins there.
        while self.torrent.metainfo().is_none() {
            if self.torrent.state().is_final() || stopped.recv_timeout(FINEST) != Err(RecvTimeoutError::Timeout) {
                return self.recorder;
            }
            self.events.try_iter().for_each(drop);
            self.start = Instant::now();
            self.recorder = Recorder::new(pieces(&self.torrent));
        }
        while self.look() {
            let pause = self.recorder.width().clamp(FINEST, SLOWEST);
            if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                self.look();
                break;
            }
        }
        let at = self.start.elapsed();
        self.recorder.pieces(at, &self.torrent.pieces(), !self.loaded);
        self.recorder
    }

    /// Takes in how things are; `false` at the torrent's end.
    fn look(&mut self) -> bool {
        let (at, stats) = (self.start.elapsed(), self.torrent.stats());
        // After the numbers: whatever they count was told before.
        while let Ok(event) = self.events.try_recv() {
            // At the end all connections end, which tells nothing of any.
            if !(matches!(event, Event::PeerGone { .. }) && self.torrent.is_ending()) {
                self.take(at, event);
            }
        }
        let phase = match stats.state {
            State::Opening => Phase::Opening,
            State::Checking { .. } => Phase::Checking,
            // How it waits between being opened and being let loose.
            State::Paused => Phase::Opening,
            State::Downloading => Phase::Downloading,
            State::Seeding => Phase::Seeding,
            State::Waiting(_) => Phase::Waiting,
            _ => return false,
        };
        if !self.loaded && !matches!(stats.state, State::Opening | State::Checking { .. }) {
            self.loaded = true;
            self.recorder.pieces(at, &self.torrent.pieces(), true);
        } else if stats.pieces_have > self.recorder.known() {
            // More came at once than events are kept.
            self.recorder.pieces(at, &self.torrent.pieces(), false);
        }
        let peers = self.torrent.peers().into_iter().map(peer).collect();
        self.recorder.look(at, Look { phase, down: stats.downloaded, up: stats.uploaded, peers });
        true
    }

    fn take(&mut self, at: Duration, event: Event) {
        let recorder = &mut self.recorder;
        match event {
            Event::Piece { index, from } => recorder.piece(at, index, from),
            Event::PieceFailed(piece) => {
                recorder.mark(at, Kind::Failed, &format!("piece {piece} failed its hash"), Some(piece));
            }
            Event::File(file) => {
                let path = self.torrent.metainfo().map(|metainfo| metainfo.layout().file(file).path());
                recorder.mark(at, Kind::File, &path.unwrap_or(Path::new("")).to_string_lossy(), None);
            }
            Event::Finished => recorder.finish(at),
            Event::PeerConnected(addr) => recorder.connected(at, addr),
            Event::PeerGone { addr, why, .. } => recorder.gone(at, addr, &why),
            Event::PeerBanned(addr) => recorder.mark(at, Kind::Banned, &format!("{addr} sent wrong data"), None),
            Event::Tracker(message) => recorder.mark(at, Kind::Tracker, &message, None),
            Event::Dht(message) => recorder.mark(at, Kind::Trouble, &message, None),
            Event::State(State::Waiting(why)) => recorder.mark(at, Kind::Trouble, &why, None),
            Event::State(State::Failed(failure)) => recorder.mark(at, Kind::Trouble, &failure.message, None),
            _ => {}
        }
    }
}

fn pieces(torrent: &Torrent) -> u32 {
    torrent.metainfo().map_or(0, |metainfo| metainfo.layout().piece_count())
}

fn peer(stats: PeerStats) -> PeerLook {
    let doing = match () {
        () if stats.choking_us && stats.interesting => Doing::Choking,
        () if stats.snubbed => Doing::Stalling,
        () if stats.outstanding > 0 => Doing::Asked,
        () => Doing::Idle,
    };
    PeerLook {
        addr: stats.addr,
        client: stats.client,
        incoming: stats.incoming,
        protection: stats.protection,
        down: stats.downloaded,
        up: stats.uploaded,
        wasted: stats.wasted,
        doing,
    }
}
