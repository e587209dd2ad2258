//! Torrents of a session, followed to their end: progress for people and programs, and when it is enough.
//!
//! It owns the loop that looks a few dozen times a second at what the torrents' owners publish. It looks instead of
//! listening to events because that costs the same at any speed.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use console::measure_text_width;
use crossbeam_channel::Receiver;
use indicatif::ProgressBar;
#[cfg(feature = "upnp")]
use ropewalk::Session;
use ropewalk::{
    CancelRead, Data, DhtState, DhtStatus, Event, Metainfo, Record, Standing, State, Stats, Torrent, TrackerState,
};
use serde_json::{Value, json};

use super::exit::{Code, code_of, io_text, text_of, without_number};
use super::explain::{self, Explain};
use super::json::Json;
#[cfg(feature = "upnp")]
use super::outside::Outside;
use super::screen::{DRAW, EVENT, LINE, NAME, Screen, say, search, show};
use super::select::{Pattern, numbered, priorities};
use super::signal::Stop;
use super::words::{Until, count, in_columns, left, part, percent, printable, rate, shown, size, time};

/// How often a torrent is looked at while it is opened, and afterwards.
const LOOK: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(20));
/// Nothing could lead to a peer.
pub const NO_SOURCE: &str = "nothing to connect to: no tracker that ropewalk can ask, and no --peer; \
                             give an address with --peer HOST:PORT, or let the DHT look for one";
/// The same for a magnet link.
pub const NO_SOURCE_OF_MAGNET: &str = "nothing to ask for the metadata: the magnet link names no peer and no tracker that \
                                       ropewalk can ask, and there is no --peer; give an address with --peer HOST:PORT, \
                                       let the DHT look for one, or give the .torrent file";
/// Wrong files that are named.
const NAMED: usize = 10;

/// One torrent to follow. It was added paused.
pub struct Job {
    pub torrent: Torrent,
    /// How long to seed once everything is there; `None` for not at all.
    pub seed: Option<Until>,
    /// Everything has to be there already.
    pub seed_only: bool,
    /// Whether there is anything that could lead to a peer.
    pub has_source: bool,
    /// Where the bytes go in order, for `-o -`.
    pub pipe: Option<Pipe>,
    /// Of a magnet link: what is to be done when its files are known.
    pub late: Option<Late>,
}

/// What cannot be done before the metadata of a magnet link is there.
pub struct Late {
    /// The files that are wanted.
    pub files: Vec<Pattern>,
    /// Their bytes go to stdout.
    pub to_stdout: bool,
}

/// A thread that writes the files to stdout.
pub struct Pipe {
    pub result: Receiver<io::Result<()>>,
    pub cancels: Vec<CancelRead>,
}

/// How to follow.
pub struct Watch<'a> {
    pub screen: &'a Screen,
    pub json: &'a Json,
    pub stop: &'a Stop,
    /// Whose torrents they are.
    #[cfg(feature = "upnp")]
    pub session: &'a Session,
    /// How long a download may be without any peer.
    pub patience: Option<Duration>,
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
        match stats.state {
            // Peers that do not have it are of no use; whatever comes of it is.
            State::Metadata { pieces, .. } if pieces == self.metadata => {}
            State::Metadata { pieces, .. } => (self.metadata, self.alone_since) = (pieces, now),
            _ if stats.peers > 0 => self.alone_since = now,
            _ => {}
        }
        if self.searching && self.job.torrent.metainfo().is_some() {
            self.met(watch);
        }
        match &stats.state {
            State::Metadata { .. } if watch.patience.is_some_and(|patience| now - self.alone_since >= patience) => {
                self.found_nothing(&stats, watch)?;
            }
            State::Paused if !self.resumed => self.begin(&stats, watch)?,
            State::Checking { .. } => self.checked = true,
            State::Downloading if self.is_alone(now, watch) => {
                self.gave_up(&stats, watch)?;
            }
            State::Seeding => self.seeding(&stats, now, watch)?,
            State::Failed(failure) => {
                let code = if failure.disk { Code::Disk } else { Code::Other };
                self.end(code, Some(&what_to_do(&failure.message)), &stats, watch)?;
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
        watch.patience.is_some_and(|patience| now - self.alone_since >= patience)
            && self.job.torrent.explain().peers.iter().all(|peer| peer.gone)
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
        let patience = watch.patience.map_or_else(String::new, time);
        let State::Metadata { tried, offering, .. } = stats.state else { return Ok(()) };
        let mut tries = vec![format!(
            "{}: {} connected, {offering} with metadata",
            count(tried, "connection tried", "connections tried"),
            stats.peers
        )];
        let trackers = self.job.torrent.trackers();
        for tracker in &trackers {
            let came = match (&tracker.error, tracker.state) {
                (Some(error), _) => without_number(error),
                (None, TrackerState::Working) => count(tracker.peers, "peer", "peers"),
                (None, _) => "no answer yet".to_owned(),
            };
            tries.push(printable(&format!("{}: {came}", tracker.url)));
        }
        if trackers.is_empty() {
            tries.push("no tracker was asked".to_owned());
        }
        if let Some(dht) = &stats.dht {
            let nodes = count(dht.nodes(), "node", "nodes");
            tries.push(match dht.state {
                DhtState::Alone => "the DHT: no node answers".to_owned(),
                DhtState::Joined => format!("the DHT: {nodes} known, nobody with this torrent answered"),
                _ => format!("the DHT: being joined, {nodes} known"),
            });
        }
        let text = format!(
            "no metadata for {patience}; try again later, or give an address with --peer\n  {}",
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
            return self.end(Code::WrongData, Some(&self.what_is_wrong()), stats, watch);
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
        if enough { self.end(Code::Done, None, stats, watch) } else { Ok(()) }
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
        let patience = watch.patience.map_or_else(String::new, time);
        let why = self.why_alone(stats);
        let text = format!("no peer for {patience} ({why}); try again later, or give an address with --peer");
        self.end(Code::NoPeers, Some(&text), stats, watch)
    }

    fn stopped(&mut self, watch: &Watch<'_>) -> anyhow::Result<()> {
        let stats = self.job.torrent.stats();
        if self.complete_since.is_some() {
            return self.end(Code::Done, None, &stats, watch);
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

    /// Everything wanted is there.
    fn say_done(&self, stats: &Stats, watch: &Watch<'_>) -> anyhow::Result<()> {
        let path = self.path();
        let folder = self.job.torrent.dir().to_string_lossy();
        let fields = json!({ "folder": folder, "downloaded": stats.downloaded });
        watch.json.event("finished", with_id(&self.job.torrent, fields));
        if watch.json.is_wanted() {
            return Ok(());
        }
        let took = self.began.elapsed();
        let how = match stats.downloaded {
            0 if self.checked => "all there already, every byte checked".to_owned(),
            0 => "complete already".to_owned(),
            bytes => {
                let speed = (bytes as f64 / took.as_secs_f64().max(0.001)) as u64;
                let wasted = match stats.wasted {
                    0 => String::new(),
                    // Received twice, or in a piece that was wrong.
                    of => format!(", {} wasted, {:.1} %", size(of), of as f64 * 100.0 / bytes as f64),
                };
                format!("{} in {}, {}{wasted}", size(bytes), time(took), rate(speed))
            }
        };
        watch.screen.print(&format!("done: {} ({how})", shown(&path)))?;
        Ok(())
    }

    fn say_seeding(&self, watch: &Watch<'_>) {
        let until = match self.job.seed {
            Some(Until::Ratio(ratio)) => format!("until {ratio} times its size is sent"),
            Some(Until::Time(long)) => format!("for {}", time(long)),
            Some(Until::Forever) => "until Ctrl-C".to_owned(),
            None => return,
        };
        watch.json.event("seeding", with_id(&self.job.torrent, json!({})));
        if !watch.json.is_wanted() {
            watch.screen.note(&format!("seeding {} {until}", self.job.torrent.name()));
        }
    }

    fn end(&mut self, code: Code, why: Option<&str>, stats: &Stats, watch: &Watch<'_>) -> anyhow::Result<()> {
        self.outcome = Some(code);
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        for cancel in self.job.pipe.iter().flat_map(|pipe| &pipe.cancels) {
            cancel.cancel();
        }
        let name = self.job.torrent.name();
        self.pass_events(watch);
        let explanation = self.explain.take().map(|mut explain| {
            explain.clear();
            self.job.torrent.explain()
        });
        let mut summary = json!({
            "result": code.name(), "code": code as u8, "error": why, "folder": self.job.torrent.dir().to_string_lossy(),
            "wanted": stats.wanted, "done": stats.done, "downloaded": stats.downloaded,
            "uploaded": stats.uploaded, "wasted": stats.wasted, "seconds": self.began.elapsed().as_secs_f64(),
            "refused": refused(stats),
        });
        if let Some(explanation) = &explanation {
            summary["explanation"] = explain::numbers(explanation);
        }
        watch.json.event("summary", with_id(&self.job.torrent, summary));
        let of = stats.refused;
        let all = of.blocked + of.unreachable + of.banned + stats.blocked_callers;
        if all > 0 {
            log::info!(
                "{name}: refused {} blocked, {} unreachable and {} banned addresses of peers, and {} blocked callers",
                of.blocked,
                of.unreachable,
                of.banned,
                stats.blocked_callers
            );
        }
        match (code, why) {
            (Code::Stopped, Some(why)) => watch.screen.note(&format!("{name}: {why}")),
            (_, Some(why)) => watch.screen.error(&format!("{name}: {why}")),
            (_, None) if self.complete_since.is_some() && !watch.json.is_wanted() => {
                let ratio = stats.uploaded_ever as f64 / stats.wanted.max(1) as f64;
                watch.screen.note(&format!("{name}: sent {} (ratio {ratio:.2} in all)", size(stats.uploaded)));
            }
            _ => {}
        }
        if let Some(explanation) = explanation.filter(|_| !watch.json.is_wanted()) {
            let table = explain::table(&explanation, stats);
            // With a pipe, stdout is for the content alone.
            if self.job.pipe.is_some() { watch.screen.note(&table) } else { watch.screen.print(&table)? }
        }
        // The others go on.
        self.job.torrent.remove(Data::Keep).ok();
        Ok(())
    }

    /// Draws the bar, prints a line or tells a program, where it is time.
    fn tell(&mut self, stats: &Stats, now: Instant, watch: &Watch<'_>) {
        let doing = doing(&stats.state);
        let changed = doing != self.doing;
        if changed && self.searching && !watch.screen.is_live() && !watch.json.is_wanted() {
            watch.screen.note(&format!("{}: looking for its metadata", self.job.torrent.name()));
        }
        let every = match () {
            () if watch.screen.is_live() => DRAW,
            () if watch.json.is_wanted() => EVENT,
            () => LINE,
        };
        if changed && let State::Waiting(why) = &stats.state {
            watch.screen.warn(&format!("{}: {why}", self.job.torrent.name()));
        }
        // A program hears of every change, and of progress whether there is a bar or not.
        if watch.json.is_wanted() && (changed || now - self.told >= EVENT) {
            watch.json.event("progress", with_id(&self.job.torrent, progress(stats, doing)));
        }
        if !changed && now - self.told < every {
            return;
        }
        self.doing = doing;
        if let Some(bar) = &self.bar {
            match stats.state {
                State::Metadata { .. } => search(bar, self.text(stats)),
                State::Checking { done, total } => show(bar, done.into(), total.into(), &[self.text(stats)]),
                State::Downloading if stats.peers > 0 => show(bar, stats.done, stats.wanted, &fields(stats)),
                _ => say(bar, self.text(stats)),
            }
            if let Some(explain) = &mut self.explain {
                explain.draw(&self.job.torrent, now);
            }
        } else if !watch.json.is_wanted() && (self.resumed || self.checked || self.searching) {
            // The first moments of anything have nothing to tell.
            if !changed {
                watch.screen.note(&format!("{}: {}", self.job.torrent.name(), self.text(stats).trim_start()));
                if let Some(explain) = &mut self.explain {
                    let line = explain.line(&self.job.torrent, now);
                    watch.screen.note(&format!("{}: {line}", self.job.torrent.name()));
                }
            }
        }
        self.told = now;
    }

    /// What it is at.
    fn text(&self, stats: &Stats) -> String {
        let peers = count(stats.peers, "peer", "peers");
        match &stats.state {
            State::Metadata { tried, offering, pieces, total } => {
                let mut text = format!("looking for metadata: {peers} connected, {tried} tried");
                if *total > 0 {
                    text += &format!(", {pieces} of {} from {offering}", count(*total as usize, "piece", "pieces"));
                } else if stats.peers == 0 {
                    text = text + ", " + &self.why_alone(stats);
                }
                text
            }
            State::Opening | State::Paused => "opening the files".into(),
            State::Checking { done, total } => {
                format!("{:>3} %  checking the files", percent(u64::from(*done), u64::from(*total)))
            }
            State::Waiting(why) => format!("waiting: {why}"),
            State::Seeding => {
                let (up, sent) = (rate(stats.up_rate), size(stats.uploaded));
                format!("seeding  {up:>12} up  {peers}  {sent} sent")
            }
            _ if stats.peers == 0 => {
                let percent = percent(stats.done, stats.wanted);
                format!("{percent:>3} %  no peers yet: {}", self.why_alone(stats))
            }
            _ => {
                let (percent, part) = (percent(stats.done, stats.wanted), part(stats.done, stats.wanted));
                let (down, left) = (rate(stats.down_rate), stats.eta().map_or_else(String::new, left));
                let up = if stats.up_rate > 0 { format!(", {} up", rate(stats.up_rate)) } else { String::new() };
                let left = if left.is_empty() { left } else { format!(", {left}") };
                format!("{percent} %, {part}, {down}{up}, {peers}{left}")
            }
        }
    }

    /// Why there is no peer, as far as is known.
    fn why_alone(&self, stats: &Stats) -> String {
        let trackers = self.job.torrent.trackers();
        let known = count(stats.known, "address", "addresses");
        let addresses = match (stats.known, stats.dialling) {
            (0, _) => None,
            (_, 0) => Some(format!("{known} known, none answers")),
            (_, tried) => Some(format!("{known} known, {tried} being tried")),
        };
        let works = trackers.iter().any(|tracker| tracker.state == TrackerState::Working);
        let failed = trackers.iter().find_map(|tracker| Some((tracker, tracker.error.as_ref()?)));
        let asked = match failed {
            _ if trackers.is_empty() => stats.dht.is_none().then(|| "no tracker is asked".to_owned()),
            _ if works && stats.known == 0 => Some("the tracker knows nobody else".to_owned()),
            _ if works => None,
            Some((tracker, error)) => Some(printable(&format!("{}: {}", tracker.url, without_number(error)))),
            None => Some("asking the tracker".to_owned()),
        };
        let dht = stats.dht.as_ref().and_then(|dht| match dht.state {
            DhtState::Alone => Some("no node of the DHT answers"),
            DhtState::Joined => (stats.known == 0).then_some("the DHT knows nobody else"),
            _ => Some("joining the DHT"),
        });
        let asked = asked.into_iter().chain(dht.map(str::to_owned));
        addresses.into_iter().chain(asked).collect::<Vec<_>>().join("; ")
    }

    /// Where the content is.
    fn path(&self) -> PathBuf {
        self.job.torrent.dir().join(self.job.torrent.name())
    }

    /// The files that are not as the torrent says.
    fn what_is_wrong(&self) -> String {
        let (torrent, have) = (&self.job.torrent, self.job.torrent.pieces());
        let layout = torrent.metainfo().map(Metainfo::layout);
        let mut wrong = Vec::new();
        for (layout, file) in
            layout.into_iter().flat_map(|layout| numbered(layout).map(move |(_, file)| (layout, file)))
        {
            let of = layout.pieces_of(file);
            let bad = of.clone().filter(|&piece| !have.get(piece)).count();
            if bad > 0 {
                let path = torrent.path_of(file);
                wrong.push(match path.exists() {
                    true => format!("{}: {bad} of {}", shown(&path), count(of.len(), "piece", "pieces")),
                    false => format!("{}: missing", shown(&path)),
                });
            }
        }
        let more = wrong.len().saturating_sub(NAMED);
        wrong.truncate(NAMED);
        let more = if more > 0 { format!("\n  and {}", count(more, "file more", "files more")) } else { String::new() };
        format!(
            "the files are not what the torrent says; `ropewalk get` into {} fetches them again\n  {}{more}",
            torrent.dir().display(),
            wrong.join("\n  ")
        )
    }

    /// Passes what happened on to a program.
    fn pass_events(&self, watch: &Watch<'_>) {
        let Some(events) = &self.events else { return };
        for event in events.try_iter() {
            let torrent = &self.job.torrent;
            let (name, fields) = match event {
                Event::File(file) => {
                    let number = self.numbers.get(file.get() as usize);
                    let path = torrent.metainfo().map(|metainfo| metainfo.layout().file(file).path().to_string_lossy());
                    ("file", json!({ "number": number, "path": path }))
                }
                Event::PeerConnected(addr) => ("peer", json!({ "address": addr.to_string() })),
                Event::PeerGone { addr, why, record } => {
                    let reputation = record.as_ref().map(reputation);
                    let why = printable(&why);
                    ("peer-gone", json!({ "address": addr.to_string(), "why": why, "reputation": reputation }))
                }
                Event::PeerBanned(addr) => ("banned", json!({ "address": addr.to_string() })),
                Event::PieceFailed(piece) => ("piece-failed", json!({ "piece": piece })),
                Event::Dht(message) => ("dht", json!({ "message": message })),
                Event::Tracker(message) => ("tracker", json!({ "message": printable(&message) })),
                _ => continue,
            };
            watch.json.event(name, with_id(torrent, fields));
        }
    }
}

/// What it is at beside a bar, in fields of a constant width, the most important first.
fn fields(stats: &Stats) -> [String; 5] {
    let left = stats.eta().map_or_else(String::new, left);
    [
        format!("{:>3} %", percent(stats.done, stats.wanted)),
        format!("{:>12}", rate(stats.down_rate)),
        format!("{left:<11}"),
        format!("{:>8}", count(stats.peers, "peer", "peers")),
        format!("{:>14}", part(stats.done, stats.wanted).replace(" of ", "/")),
    ]
}

/// A failure of the library, said to someone who can only run a command again.
fn what_to_do(message: &str) -> String {
    let message = without_number(message);
    match message.strip_suffix("it goes on by itself") {
        Some(before) => format!("{before}then the same command goes on"),
        None if message.contains(';') => message,
        None => format!("{message}; check the disk and its permissions, then the same command goes on"),
    }
}

/// Who was refused, by why.
fn refused(stats: &Stats) -> Value {
    let of = stats.refused;
    json!({
        "blocked": of.blocked, "unreachable": of.unreachable, "banned": of.banned, "own": of.own,
        "no_room": of.no_room, "blocked_callers": stats.blocked_callers,
    })
}

/// What is remembered of a peer.
fn reputation(record: &Record) -> Value {
    let standing = match record.standing() {
        Standing::Good => "good",
        Standing::Unknown => "unknown",
        Standing::Poor => "poor",
        Standing::Cheat => "cheat",
    };
    json!({
        "standing": standing, "useful": record.useful, "lies": record.lies, "faults": record.faults,
        "stalls": record.stalls, "last_seen": record.last_seen,
    })
}

/// What is known of it, for a program; nothing before its metadata is there.
fn what_it_is(torrent: &Torrent) -> Value {
    torrent.metainfo().map(Metainfo::layout).map_or_else(
        || json!({}),
        |layout| {
            json!({
                "size": layout.total_len(), "pieces": layout.piece_count(), "files": numbered(layout).count(),
            })
        },
    )
}

/// The number of each file as people see it, by its place.
fn numbers(torrent: &Torrent) -> Vec<usize> {
    let Some(layout) = torrent.metainfo().map(Metainfo::layout) else { return Vec::new() };
    let mut numbers = vec![0; layout.files().len()];
    numbered(layout).for_each(|(number, file)| numbers[file.get() as usize] = number);
    numbers
}

fn with_id(torrent: &Torrent, mut fields: Value) -> Value {
    fields["info_hash"] = torrent.info_hash().to_string().into();
    fields["name"] = torrent.name().into();
    fields
}

fn progress(stats: &Stats, doing: &str) -> Value {
    let mut fields = json!({
        "state": doing, "done": stats.done, "wanted": stats.wanted, "pieces": stats.pieces_have,
        "pieces_total": stats.pieces_total, "downloaded": stats.downloaded, "uploaded": stats.uploaded,
        "wasted": stats.wasted, "down_rate": stats.down_rate, "up_rate": stats.up_rate, "peers": stats.peers,
        "seeds": stats.seeds, "known": stats.known, "eta": stats.eta().map(|eta| eta.as_secs()),
        "dht": stats.dht.as_ref().map(DhtStatus::nodes),
    });
    match &stats.state {
        State::Metadata { tried, offering, pieces, total } => {
            fields["metadata"] = json!({ "tried": tried, "offering": offering, "pieces": pieces, "total": total });
        }
        State::Checking { done, total } => fields["checked"] = json!({ "done": done, "total": total }),
        State::Waiting(why) => fields["why"] = json!(&**why),
        _ => {}
    }
    fields
}

fn doing(state: &State) -> &'static str {
    match state {
        // Paused is only how it waits between being opened and being let loose.
        State::Opening | State::Paused => "opening",
        State::Metadata { .. } => "metadata",
        State::Checking { .. } => "checking",
        State::Downloading => "downloading",
        State::Seeding => "seeding",
        State::Waiting(_) => "waiting",
        State::Failed(_) => "failed",
        _ => "stopped",
    }
}
