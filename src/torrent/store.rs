//! The store thread of a torrent: opens its files, checks what is there, and keeps the journal.
//!
//! It owns the journal and does whatever may take long on a disk, so that the owner never waits for one. Jobs come in
//! order through a bounded channel; what came of them goes to the owner's inbox. Between jobs it writes stored bytes to
//! the disk when they pile up.

mod others;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded, never, select_biased};

use super::claims::{Claimed, Claims, Overlap};
use super::handle::{Data, Event, State};
use super::inbox::{Inbox, StoreFact};
use super::shared::Shared;
use super::status::JOURNAL;
use super::{Resources, wanted_files};
use crate::bits::Bits;
use crate::config::{AddOptions, Check, Priority, Start, Storing};
use crate::crew::NoThread;
use crate::hash::Hashing;
use crate::metainfo::{FileIndex, Metainfo};
use crate::storage::lock::Lock;
use crate::storage::resume::{self, Journal, Trust, touch, without_journal};
use crate::storage::{Options, Storage, StorageError, Way, check};
use others::shared;

/// Jobs that wait; the owner only tries where a job is one of many alike.
const QUEUE: usize = 1024;
/// Files of a torrent that are open at the same time.
const OPEN_FILES: usize = 128;
/// The thread's stack.
const STACK: usize = 256 * 1024;

/// Something to do about the files.
pub(super) enum Job {
    /// Look whether an earlier run has kept the metainfo.
    Recall,
    /// Keep the metainfo for later runs.
    Keep(Metainfo),
    /// Open the files and find out which pieces are right.
    Open { number: u32, check: Check, wanted: Vec<bool> },
    /// A file is wanted now, or is not.
    Want(FileIndex, bool),
    /// Files are complete.
    Finish(Vec<FileIndex>),
    /// Write the journal.
    Record(Record),
    /// Nothing arrived that would be recorded, but it may any moment.
    Alive,
    /// Try again what there was no room for, if so many bytes are free.
    Retry { needed: u64 },
    /// Remove the journal, and the files where that is wanted.
    Remove(Data),
}

/// What the journal is to say.
pub(super) struct Record {
    pub(super) have: Bits,
    pub(super) priorities: Vec<Priority>,
    pub(super) totals: Totals,
    pub(super) moment: Moment,
}

/// Payload over all sessions, in bytes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) uploaded: u64,
    pub(crate) downloaded: u64,
}

/// When a record is made, which decides what it costs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// While pieces arrive: their bytes are made durable first.
    Underway,
    /// Everything is there, more may be written later: nobody waits for the disk now.
    Finished,
    /// Nothing will be stored after this, and nobody waits for the disk.
    Leaving,
}

struct Store {
    shared: Arc<Shared>,
    /// Where the journal and the parts file are.
    folder: PathBuf,
    /// The folder is `.ropewalk` beside the files, which goes where nothing is in it.
    own_folder: bool,
    way: Way,
    hashing: Hashing,
    read_only: bool,
    /// There are no files, and none are to be.
    looking: bool,
    storage: Option<Arc<Storage>>,
    journal: Option<Journal>,
    /// Keeps others from the journal, where it can be had.
    lock: Option<Lock>,
    /// It was said that it cannot.
    said_unlocked: bool,
    /// Keep other torrents of the session from the files.
    claims: Arc<Claims>,
    claimed: Option<Claimed>,
    /// Wanted files that there was no room for.
    unmade: Vec<FileIndex>,
}

/// Starts the thread, which waits for its [`first_job`]. It ends with the last sender.
pub(super) fn start(
    resources: &Arc<Resources>,
    shared: &Arc<Shared>,
    options: &AddOptions,
    hash8: &str,
) -> Result<Sender<Job>, NoThread> {
    let (jobs, queue) = bounded(QUEUE);
    let state_dir = resources.config.state_dir.clone();
    let own_folder = state_dir.is_none();
    let folder = state_dir.unwrap_or_else(|| options.dir.join(".ropewalk"));
    let store = Store {
        shared: Arc::clone(shared),
        folder,
        own_folder,
        way: match resources.config.resources.storing {
            Storing::Write => Way::Written,
            Storing::Map => Way::Mapped,
        },
        hashing: Hashing { threads: resources.config.resources.workers, backend: resources.config.resources.hashing },
        read_only: matches!(options.check, Check::ReadOnly | Check::Hashed) || options.start == Start::Looking,
        looking: options.start == Start::Looking,
        storage: None,
        journal: None,
        lock: None,
        said_unlocked: false,
        claims: Arc::clone(&resources.claims),
        claimed: None,
        unmade: Vec::new(),
    };
    resources.crew.spawn(format!("store-{hash8}"), STACK, move || store.run(&queue))?;
    Ok(jobs)
}

/// The job that a new torrent begins with.
pub(super) fn first_job(shared: &Shared, options: &AddOptions) -> Job {
    let wanted = wanted_files(&super::priorities(shared.metainfo().layout(), &options.priorities));
    Job::Open { number: 0, check: options.check, wanted }
}

impl Store {
    fn run(mut self, queue: &Receiver<Job>) {
        let idle = never();
        loop {
            let due = self.storage.as_deref().map_or(&idle, Storage::writeback_due);
            // Jobs first: whoever stops must not wait for a slow disk to take all that piled up.
            select_biased! {
                recv(queue) -> job => match job {
                    Ok(job) => self.act(job),
                    Err(_) => break,
                },
                recv(due) -> _ => self.storage.iter().for_each(|storage| storage.write_back()),
            }
        }
        self.claimed = None;
        self.unlock();
        // The owner has let go of us, and the files are as they will stay: this is the end of the torrent.
        self.shared.publish_state(State::Stopped);
        self.shared.tell(&Event::State(State::Stopped));
    }

    fn act(&mut self, job: Job) {
        let prepared = if let Job::Want(file, true) = job { Some(file) } else { None };
        let result = match job {
            // Nothing is kept, and what was a download before is none of our business now.
            Job::Keep(_) | Job::Alive | Job::Remove(_) if self.looking => Ok(()),
            // The journal is somebody else's.
            Job::Alive if self.read_only => Ok(()),
            Job::Recall if self.looking => {
                self.tell(StoreFact::Recalled(None));
                Ok(())
            }
            Job::Recall => self.recall().map(|found| self.tell(StoreFact::Recalled(found))),
            Job::Keep(metainfo) => {
                self.keep(&metainfo);
                Ok(())
            }
            Job::Open { number, check, wanted } => {
                let opened = self.open(number, check, wanted);
                if opened.is_err() {
                    self.claimed = None;
                }
                opened
            }
            Job::Want(file, wanted) => self.want(file, wanted),
            Job::Retry { needed } => self.retry(needed),
            Job::Finish(files) => {
                self.claimed.iter().for_each(|claimed| claimed.finish(&files));
                self.with(|storage| files.iter().try_for_each(|&file| storage.finish_file(file)))
            }
            Job::Record(record) => {
                let result = self.record(&record);
                self.tell(StoreFact::Recorded { synced: record.moment == Moment::Underway });
                result
            }
            Job::Alive => {
                touch(&self.journal_path());
                Ok(())
            }
            Job::Remove(data) => self.remove(data),
        };
        if let Err(error) = result {
            self.tell(StoreFact::Failed(error));
        }
        if let Some(file) = prepared {
            self.tell(StoreFact::Prepared(file));
        }
    }

    fn tell(&self, fact: StoreFact) {
        // An owner that has ended needs no facts.
        self.shared.inbox.send(Inbox::Store(fact)).ok();
    }

    fn with(&self, act: impl FnOnce(&Storage) -> Result<(), StorageError>) -> Result<(), StorageError> {
        self.storage.as_deref().map_or(Ok(()), act)
    }

    /// Makes a file, or remembers that there was no room for it.
    fn want(&mut self, file: FileIndex, wanted: bool) -> Result<(), StorageError> {
        self.unmade.retain(|&unmade| unmade != file);
        let result = self.with(|storage| storage.set_wanted(file, wanted));
        if result.as_ref().is_err_and(StorageError::is_out_of_space) {
            self.unmade.push(file);
        }
        result
    }

    /// Makes what there was no room for, as far as there is room now, and says that there is some.
    fn retry(&mut self, needed: u64) -> Result<(), StorageError> {
        // Where the system does not say what is free, trying says it.
        if self.storage.as_ref().is_some_and(|storage| storage.free_space().is_ok_and(|free| free < needed)) {
            return Ok(());
        }
        self.tell(StoreFact::Room);
        let mut result = Ok(());
        for file in std::mem::take(&mut self.unmade) {
            result = self.want(file, true).and(result);
        }
        result
    }

    fn name(&self) -> String {
        self.shared.info_hash.to_string()
    }

    fn torrent_path(&self) -> PathBuf {
        self.folder.join(self.name() + ".torrent")
    }

    /// The metainfo that an earlier run has kept. Fails where another session is at work on the torrent, before anybody looks
    /// for what it has. Where the download folder is not there yet, nobody is, and it is not made for what may not be found.
    fn recall(&mut self) -> Result<Option<Metainfo>, StorageError> {
        if !self.own_folder || self.shared.dir.exists() {
            self.lock_unless_read_only()?;
        }
        let path = self.torrent_path();
        if !path.exists() {
            return Ok(None);
        }
        let found = Metainfo::read(&path).inspect_err(|error| log::warn!("{error}; it is looked for again"));
        Ok(found.ok().filter(|metainfo| metainfo.info_hash() == self.shared.info_hash))
    }

    /// Keeps the metainfo beside the journal, so that a magnet link needs no search the next time. Nothing is lost where
    /// that does not work.
    fn keep(&mut self, metainfo: &Metainfo) {
        if self.lock().is_err() {
            return;
        }
        let path = self.torrent_path();
        if std::fs::read(&path).is_ok_and(|there| there == metainfo.as_bytes()) {
            return;
        }
        if let Err(error) = resume::replace(&path, metainfo.as_bytes()) {
            log::warn!("{}: the metadata is not kept: {error}", metainfo.name());
        }
    }

    fn journal_path(&self) -> PathBuf {
        self.folder.join(self.name() + ".resume")
    }

    fn open(&mut self, opening: u32, how: Check, wanted: Vec<bool>) -> Result<(), StorageError> {
        // A second opening looks at the files anew.
        self.storage = None;
        self.lock_unless_read_only()?;
        if !self.looking {
            self.claim()?;
        }
        let layout = Arc::clone(self.shared.metainfo().layout());
        let options = Options {
            state_dir: self.folder.clone(),
            name: self.name(),
            wanted,
            read_only: self.read_only,
            way: self.way,
            max_open_files: OPEN_FILES,
        };
        let storage = Arc::new(match self.looking {
            true => Storage::of_nothing(Arc::clone(&layout))?,
            false => Storage::open(Arc::clone(&layout), &self.shared.dir, options)?,
        });
        let info_hash = self.shared.info_hash;
        let found = match how {
            _ if self.looking => None,
            Check::Journal => Journal::load(&self.journal_path(), info_hash, &layout).unwrap_or_else(|error| {
                log::warn!("{}: {error}; the files are hashed instead", self.shared.metainfo().name());
                None
            }),
            Check::Full | Check::ReadOnly | Check::Hashed => None,
        };
        let Trust { mut have, recheck } = match &found {
            Some(journal) => journal.trusted(&storage),
            None if self.looking => {
                Trust { have: Bits::new(layout.piece_count()), recheck: Bits::new(layout.piece_count()) }
            }
            None if how == Check::Hashed => {
                Trust { have: without_journal(&storage).recheck, recheck: Bits::new(layout.piece_count()) }
            }
            None => without_journal(&storage),
        };
        let totals = found.as_ref().map_or_else(Totals::default, |journal| Totals {
            uploaded: journal.uploaded,
            downloaded: journal.downloaded,
        });
        if recheck.count() > 0 {
            for piece in self.check(&storage, &recheck).iter() {
                have.set(piece);
            }
        }
        if let Some(claimed) = self.claimed.as_ref().filter(|_| !self.read_only) {
            claimed.settle(&have).map_err(shared)?;
        }
        let mut journal = found.unwrap_or_else(|| Journal::new(info_hash, &layout, JOURNAL * 2));
        // Only what was durable and is still right stays durable.
        let mut durable = Bits::new(have.len());
        journal.durable.iter().filter(|&piece| have.get(piece)).for_each(|piece| {
            durable.set(piece);
        });
        journal.durable = durable;
        storage.distrust(have.iter().filter(|&piece| !journal.durable.get(piece)));
        let first = Record {
            have: have.clone(),
            priorities: self.shared.snapshot().priorities.clone(),
            totals,
            moment: Moment::Finished,
        };
        self.journal = Some(journal);
        self.storage = Some(Arc::clone(&storage));
        self.tell(StoreFact::Ready { opening, storage, have, totals });
        // From now on the journal says that somebody is at work on these files.
        self.record(&first)?;
        Ok(())
    }

    fn check(&self, storage: &Storage, which: &Bits) -> Bits {
        let metainfo = self.shared.metainfo();
        let total = which.count();
        let done = AtomicU32::new(0);
        let step = (total / 200).max(1);
        log::info!("{}: hashing {total} of {} pieces", metainfo.name(), which.len());
        self.tell(StoreFact::Progress(0, total));
        let on_piece = |_, _| {
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if done.is_multiple_of(step) {
                self.tell(StoreFact::Progress(done, total));
            }
        };
        check::check(
            storage,
            which,
            &|piece| *metainfo.piece_hash(piece),
            self.hashing,
            &on_piece,
            &self.shared.stopping,
        )
    }

    /// Writes the journal. While pieces arrive their bytes are made durable first; at other moments they are only recorded
    /// as stored, which is enough unless the machine itself goes down before they reach the disk.
    /// What could not be made durable is a failure of the torrent: its bytes may be lost.
    fn record(&mut self, record: &Record) -> Result<(), StorageError> {
        let path = self.journal_path();
        let (Some(storage), Some(journal)) = (self.storage.as_deref(), self.journal.as_mut()) else { return Ok(()) };
        if self.read_only {
            return Ok(());
        }
        let mut synced = Ok(());
        if record.moment == Moment::Underway {
            synced = storage.sync();
            if synced.is_ok() {
                journal.durable.clone_from(&record.have);
            }
        }
        journal.verified.clone_from(&record.have);
        journal.clean = record.moment == Moment::Leaving;
        (journal.uploaded, journal.downloaded) = (record.totals.uploaded, record.totals.downloaded);
        journal.priorities = record.priorities.iter().map(|&priority| priority as u8).collect();
        let written = journal.record(storage).map_err(|error| error.to_string());
        if let Err(error) = written.and_then(|()| journal.store(&path).map_err(|error| error.to_string())) {
            log::warn!("{}: no resume journal: {error}", self.shared.metainfo().name());
        }
        synced
    }

    fn remove(&mut self, data: Data) -> Result<(), StorageError> {
        if data == Data::Keep {
            return Ok(());
        }
        if self.storage.is_none() && !self.folder.exists() {
            return Ok(());
        }
        // Not what somebody else is at work on.
        self.lock().inspect_err(|error| log::warn!("{}: nothing is removed: {error}", self.shared.name()))?;
        for path in [self.journal_path(), self.torrent_path()] {
            if let Err(error) = resume::remove(&path) {
                log::warn!("{}: {error}", self.shared.name());
            }
        }
        match self.claimed.as_ref().map_or(Ok(()), Claimed::give_up) {
            Ok(()) => self.with(Storage::remove_files),
            Err(Overlap { path, other }) => {
                let name = self.shared.name();
                log::warn!("{name}: its files stay, for {} is a file of {other}, too", path.display());
                self.with(Storage::remove_parts)
            }
        }
    }
}
