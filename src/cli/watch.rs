//! Torrents of a session, followed to their end: progress for people and programs, and when it is enough.
//!
//! It owns the loop that looks a few dozen times a second at what the torrents' owners publish. It looks instead of
//! listening to events because that costs the same at any speed. [`telling`] says what there is to say, in the words of
//! [`people`] and the fields of [`programs`]; [`stamps`] notices that what is seeded is another thing by now.

mod job;
mod people;
mod programs;
mod stamps;
mod telling;

use std::io;
use std::time::{Duration, Instant};

use console::measure_text_width;
use crossbeam_channel::Receiver;
use indicatif::ProgressBar;
#[cfg(feature = "upnp")]
use ropewalk::Session;
use ropewalk::{Data, DhtState, Event, State, Stats};

use super::exit::{Code, code_of, io_text, text_of};
use super::explain::Explain;
use super::json::Json;
#[cfg(feature = "upnp")]
use super::outside::Outside;
use super::screen::{NAME, Screen};
use super::select::{numbered, priorities};
use super::signal::Stop;
use super::words::{Until, count, in_columns, part, percent, size, time};
pub use job::{Job, Late, Patience, Pipe};
pub use people::{NO_SOURCE, NO_SOURCE_OF_MAGNET, why_alone};
use programs::{numbers, what_it_is, with_id};
pub use stamps::{Before, Stamps};

/// How often a torrent is looked at while it is opened, and afterwards.
const LOOK: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(20));

/// How to follow.
pub struct Watch<'a> {
    pub screen: &'a Screen,
    pub json: &'a Json,
    pub stop: &'a Stop,
    /// Whose torrents they are.
    #[cfg(feature = "upnp")]
    pub session: &'a Session,
    pub patience: Patience,
    /// Whether to say where the time goes.
    pub explain: bool,
}

impl Watch<'_> {
    /// Follows all of them to their end, and gives the first code that is not [`Code::Done`].
    pub fn follow(&self, jobs: Vec<Job>) -> anyhow::Result<Code> {
        let longest = jobs.iter().map(|job| measure_text_width(job.torrent.name())).max().unwrap_or(0);
        let mut rows: Vec<_> = jobs.into_iter().map(|job| Row::new(job, longest.min(NAME), self)).collect();
        let mut said_alone = false;
        #[cfg(feature = "upnp")]
        let mut outside = Outside::default();
        loop {
            #[cfg(feature = "upnp")]
            outside.look(self.session, self.screen, self.json);
            for row in rows.iter_mut().filter(|row| row.outcome.is_none()) {
                row.look(self)?;
            }
            if !said_alone && rows.iter().any(Row::is_without_nodes) {
                said_alone = true;
                self.screen
                    .note("no node of the DHT answers: peers are not found that way; check that UDP gets through");
            }
            self.json.check()?;
            if rows.iter().all(|row| row.outcome.is_some()) {
                break;
            }
            let opening = rows.iter().any(|row| row.outcome.is_none() && !row.resumed);
            if self.stop.wait(if opening { LOOK.0 } else { LOOK.1 }) {
                for row in rows.iter_mut().filter(|row| row.outcome.is_none()) {
                    row.stopped(self)?;
                }
            }
        }
        let codes = rows.iter().filter_map(|row| row.outcome);
        Ok(codes.into_iter().find(|&code| code != Code::Done).unwrap_or(Code::Done))
    }
}

/// One torrent, and what was told of it.
struct Row {
    job: Job,
    bar: Option<ProgressBar>,
    explain: Option<Explain>,
    events: Option<Receiver<Event>>,
    /// The number of each file as people see it, for `events`.
    numbers: Vec<usize>,
    /// The columns of the names beside bars.
    width: usize,
    /// Its metadata is not there yet, and so many pieces of it were when last looked at.
    searching: bool,
    metadata: u32,
    /// What it was doing when last looked at.
    doing: &'static str,
    told: Instant,
    /// The last line of progress.
    said: String,
    /// It was let loose after its files were looked at.
    resumed: bool,
    /// When it was.
    began: Instant,
    /// It was hashed at the start, not trusted.
    checked: bool,
    /// Since when it has no peer.
    alone_since: Instant,
    complete_since: Option<Instant>,
    outcome: Option<Code>,
}

impl Row {
    fn new(job: Job, width: usize, watch: &Watch<'_>) -> Self {
        let now = Instant::now();
        let label = in_columns(job.torrent.name(), width);
        let mut fields = what_it_is(&job.torrent);
        fields["folder"] = job.torrent.dir().to_string_lossy().into();
        watch.json.event("added", with_id(&job.torrent, fields));
        let numbers = if watch.json.is_wanted() { numbers(&job.torrent) } else { Vec::new() };
        Self {
            numbers,
            events: watch.json.is_wanted().then(|| job.torrent.events()),
            bar: watch.screen.is_live().then(|| watch.screen.bar(&label)),
            explain: watch.explain.then(|| Explain::new(watch.screen, width)),
            width,
            searching: job.torrent.metainfo().is_none(),
            metadata: 0,
            job,
            doing: "",
            told: now,
            said: String::new(),
            resumed: false,
            began: now,
            checked: false,
            alone_since: now,
            complete_since: None,
            outcome: None,
        }
    }

    fn look(&mut self, watch: &Watch<'_>) -> anyhow::Result<()> {
        let now = Instant::now();
        let stats = self.job.torrent.stats();
        self.pass_events(watch);
        if let Some(why) = self.job.stamps.as_mut().and_then(|stamps| stamps.look(now)) {
            return self.end(Code::WrongData, Some(&why), &stats, watch);
        }
        match stats.state {
            // Peers that do not have it are of no use; whatever comes of it is.
            State::Metadata { pieces, .. } if pieces == self.metadata => {}
            State::Metadata { pieces, .. } => (self.metadata, self.alone_since) = (pieces, now),
            // It is not peers that are waited for.
            State::Waiting(_) => self.alone_since = now,
            _ if stats.peers > 0 => self.alone_since = now,
            _ => {}
        }
        if self.searching && self.job.torrent.metainfo().is_some() {
            self.met(watch);
        }
        match &stats.state {
            State::Metadata { .. } if self.waited(watch.patience.metadata, now) => self.found_nothing(&stats, watch)?,
            State::Paused if !self.resumed => self.begin(&stats, watch)?,
            State::Checking { .. } => self.checked = true,
            State::Downloading if self.is_alone(now, watch) => {
                self.gave_up(&stats, watch)?;
            }
            State::Seeding => self.seeding(&stats, now, watch)?,
            State::Failed(failure) => {
                let of_library = if failure.disk { Code::Disk } else { Code::Other };
                let (code, why) = match self.what_changed() {
                    Some(why) => (Code::WrongData, why),
                    None => (of_library, people::what_to_do(&failure.message)),
                };
                self.end(code, Some(&why), &stats, watch)?;
            }
            State::Stopped => self.end(Code::Other, Some("it ended by itself"), &stats, watch)?,
            _ => {}
        }
        if self.outcome.is_none() {
            self.look_at_pipe(&stats, watch)?;
        }
        if self.outcome.is_none() {
            self.tell(&stats, now, watch);
        }
        Ok(())
    }

    /// Whether it would use the DHT and cannot.
    fn is_without_nodes(&self) -> bool {
        self.outcome.is_none() && self.job.torrent.stats().dht.is_some_and(|dht| dht.state == DhtState::Alone)
    }

    /// Whether there has been no peer for longer than was asked for. Statistics may be a moment old, and somebody may have
    /// come just now.
    fn is_alone(&self, now: Instant, watch: &Watch<'_>) -> bool {
        self.waited(watch.patience.peers, now) && self.job.torrent.explain().peers.iter().all(|peer| peer.gone)
    }

    /// Whether nobody, or nothing, has come for so long.
    fn waited(&self, patience: Option<Duration>, now: Instant) -> bool {
        patience.is_some_and(|patience| now - self.alone_since >= patience)
    }

    /// The metadata of a magnet link is there.
    fn met(&mut self, watch: &Watch<'_>) {
        let torrent = &self.job.torrent;
        (self.searching, self.job.has_source) = (false, true);
        if let Some(bar) = &self.bar {
            bar.set_prefix(in_columns(torrent.name(), self.width));
        }
        if watch.json.is_wanted() {
            self.numbers = numbers(torrent);
            watch.json.event("metadata", with_id(torrent, what_it_is(torrent)));
        } else if let Some(metainfo) = torrent.metainfo() {
            let files = count(numbered(metainfo.layout()).count(), "file", "files");
            watch.screen.note(&format!("{}: {}, {files}", torrent.name(), size(metainfo.layout().total_len())));
        }
    }

    /// The metadata of a magnet link did not come in time.
    fn found_nothing(&mut self, stats: &Stats, watch: &Watch<'_>) -> anyhow::Result<()> {
        let patience = watch.patience.metadata.map_or_else(String::new, time);
        let tries = people::what_was_tried(&self.job.torrent, stats);
        let text = format!(
            "no metadata for {patience}; check that all of the link is there, give an address with --peer, try again \
             later, or wait for as long as it takes with --timeout 0\n  {}",
            tries.join("\n  ")
        );
        self.end(Code::NoPeers, Some(&text), stats, watch)
    }

    /// What had to wait for the metadata of a magnet link.
    fn catch_up(&mut self) -> anyhow::Result<()> {
        let (Some(late), Some(metainfo)) = (self.job.late.take(), self.job.torrent.metainfo()) else { return Ok(()) };
        priorities(&late.files, metainfo)?;
        if late.to_stdout {
            self.job.pipe = Some(super::get::pipe(&self.job.torrent, &self.job.torrent.priorities())?);
        }
        Ok(())
    }

    /// The files have been looked at.
    fn begin(&mut self, stats: &Stats, watch: &Watch<'_>) -> anyhow::Result<()> {
        if let Err(error) = self.catch_up() {
            return self.end(code_of(&error), Some(&text_of(&error)), stats, watch);
        }
        let complete = stats.done == stats.wanted;
        if !complete && self.job.seed_only {
            let why = self.what_changed().unwrap_or_else(|| people::what_is_wrong(&self.job.torrent));
            return self.end(Code::WrongData, Some(&why), stats, watch);
        }
        if !complete && !self.job.has_source {
            return self.end(Code::NoPeers, Some(NO_SOURCE), stats, watch);
        }
        (self.began, self.alone_since, self.resumed) = (Instant::now(), Instant::now(), true);
        if complete && self.job.seed.is_none() && self.job.pipe.is_none() {
            return self.done(stats, watch);
        }
        if complete {
            self.complete_since = Some(self.began);
            self.say_seeding(watch);
        }
        self.job.torrent.resume().ok();
        Ok(())
    }

    fn seeding(&mut self, stats: &Stats, now: Instant, watch: &Watch<'_>) -> anyhow::Result<()> {
        if self.job.pipe.is_some() {
            return Ok(());
        }
        let Some(until) = self.job.seed else { return self.done(stats, watch) };
        let since = match self.complete_since {
            Some(since) => since,
            None => {
                self.say_done(stats, watch)?;
                self.say_seeding(watch);
                *self.complete_since.insert(now)
            }
        };
        let enough = match until {
            Until::Ratio(ratio) => stats.uploaded_ever as f64 >= ratio * stats.wanted as f64,
            Until::Time(time) => now - since >= time,
            Until::Forever => false,
        };
        if enough { self.seeded(stats, watch) } else { Ok(()) }
    }

    /// It was seeded for long enough: well, if the files are still the same.
    fn seeded(&mut self, stats: &Stats, watch: &Watch<'_>) -> anyhow::Result<()> {
        let why = self.what_changed();
        let code = if why.is_some() { Code::WrongData } else { Code::Done };
        self.end(code, why.as_deref(), stats, watch)
    }

    /// What happened to the files since they were hashed to be seeded.
    fn what_changed(&self) -> Option<String> {
        self.job.stamps.as_ref().and_then(Stamps::look_at_all)
    }

    fn look_at_pipe(&mut self, stats: &Stats, watch: &Watch<'_>) -> anyhow::Result<()> {
        let Some(Ok(result)) = self.job.pipe.as_ref().map(|pipe| pipe.result.try_recv()) else { return Ok(()) };
        match result {
            Ok(()) => self.done(stats, watch),
            // Whoever read has had enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.end(Code::Done, None, stats, watch),
            Err(error) => {
                let text = format!("cannot write to stdout: {}; check where it goes", io_text(&error));
                self.end(Code::Disk, Some(&text), stats, watch)
            }
        }
    }

    fn gave_up(&mut self, stats: &Stats, watch: &Watch<'_>) -> anyhow::Result<()> {
        let patience = watch.patience.peers.map_or_else(String::new, time);
        let why = people::why_alone(&self.job.torrent, stats);
        let text = format!("no peer for {patience} ({why}); try again later, or give an address with --peer");
        self.end(Code::NoPeers, Some(&text), stats, watch)
    }

    fn stopped(&mut self, watch: &Watch<'_>) -> anyhow::Result<()> {
        let stats = self.job.torrent.stats();
        if self.complete_since.is_some() {
            return self.seeded(&stats, watch);
        }
        let text = match () {
            () if self.searching => "stopped while its metadata was looked for".to_owned(),
            () if !self.resumed => "stopped while its files were checked".to_owned(),
            () if self.job.pipe.is_some() => "stopped".to_owned(),
            () => format!(
                "stopped at {} % ({}); the same command goes on from there",
                percent(stats.done, stats.wanted),
                part(stats.done, stats.wanted)
            ),
        };
        self.end(Code::Stopped, Some(&text), &stats, watch)
    }

    fn done(&mut self, stats: &Stats, watch: &Watch<'_>) -> anyhow::Result<()> {
        if self.job.pipe.is_none() {
            self.say_done(stats, watch)?;
        }
        self.end(Code::Done, None, stats, watch)
    }

    fn end(&mut self, code: Code, why: Option<&str>, stats: &Stats, watch: &Watch<'_>) -> anyhow::Result<()> {
        self.outcome = Some(code);
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        for cancel in self.job.pipe.iter().flat_map(|pipe| &pipe.cancels) {
            cancel.cancel();
        }
        self.say_end(code, why, stats, watch)?;
        // The others go on.
        self.job.torrent.remove(Data::Keep).ok();
        Ok(())
    }
}
