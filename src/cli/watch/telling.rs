//! What is said of a torrent that is followed, as a bar, in plain lines or as objects for programs, and when it is time to.

use std::path::PathBuf;
use std::time::Instant;

use ropewalk::{State, Stats};
use serde_json::json;

use super::programs::{self, with_id};
use super::{Row, Watch, people};
use crate::cli::exit::Code;
use crate::cli::explain;
use crate::cli::screen::{DRAW, EVENT, LINE, say, search, show};
use crate::cli::words::{Until, rate, shown, size, time};

impl Row {
    /// Everything wanted is there.
    pub(super) fn say_done(&self, stats: &Stats, watch: &Watch<'_>) -> anyhow::Result<()> {
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

    pub(super) fn say_seeding(&self, watch: &Watch<'_>) {
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

    /// It has ended, in this way.
    pub(super) fn say_end(
        &mut self,
        code: Code,
        why: Option<&str>,
        stats: &Stats,
        watch: &Watch<'_>,
    ) -> anyhow::Result<()> {
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
            "refused": programs::refused(stats), "missed": programs::missed(stats),
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
        Ok(())
    }

    /// Draws the bar, prints a line or tells a program, where it is time.
    pub(super) fn tell(&mut self, stats: &Stats, now: Instant, watch: &Watch<'_>) {
        let doing = programs::doing(&stats.state);
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
            watch.screen.warn(&format!("{}: {}", self.job.torrent.name(), people::waiting(why, stats)));
        }
        let goes_on = !matches!(stats.state, State::Waiting(_) | State::Failed(_) | State::Stopped);
        if self.doing == programs::WAITING && goes_on {
            watch.screen.end_of_warning(&format!("{}: it goes on", self.job.torrent.name()));
        }
        // A program hears of every change, and of progress whether there is a bar or not.
        if watch.json.is_wanted() && (changed || now - self.told >= EVENT) {
            watch.json.event("progress", with_id(&self.job.torrent, programs::progress(stats, doing)));
        }
        if !changed && now - self.told < every {
            return;
        }
        let is_first = std::mem::replace(&mut self.doing, doing).is_empty();
        self.told = now;
        if changed {
            // Why it waits was said already.
            let said = matches!(stats.state, State::Waiting(_)).then(|| people::text(&self.job.torrent, stats));
            self.said = said.unwrap_or_default();
        }
        if self.bar.is_some() {
            self.draw(stats, is_first, now);
        } else if !changed && !watch.json.is_wanted() && (self.resumed || self.checked || self.searching) {
            // The first moments of anything have nothing to tell.
            self.say_progress(stats, now, watch);
        }
    }

    fn draw(&mut self, stats: &Stats, is_first: bool, now: Instant) {
        let Some(bar) = &self.bar else { return };
        let text = || people::text(&self.job.torrent, stats);
        match stats.state {
            // It is not yet known who is asked.
            State::Metadata { .. } if is_first => search(bar, "looking for metadata"),
            State::Metadata { .. } => search(bar, &text()),
            State::Checking { done, total } => show(bar, done.into(), total.into(), &[text()]),
            State::Downloading if stats.peers > 0 => show(bar, stats.done, stats.wanted, &people::fields(stats)),
            _ => say(bar, &text()),
        }
        if let Some(explain) = &mut self.explain {
            explain.draw(&self.job.torrent, now);
        }
    }

    /// A line of what has changed since the last one.
    fn say_progress(&mut self, stats: &Stats, now: Instant, watch: &Watch<'_>) {
        let name = self.job.torrent.name();
        let text = people::text(&self.job.torrent, stats);
        if text != self.said {
            // Columns are for bars.
            let words: Vec<_> = text.split_whitespace().collect();
            watch.screen.note(&format!("{name}: {}", words.join(" ")));
            self.said = text;
        }
        if let Some(explain) = &mut self.explain {
            watch.screen.note(&format!("{name}: {}", explain.line(&self.job.torrent, now)));
        }
    }

    /// Where the content is.
    fn path(&self) -> PathBuf {
        self.job.torrent.dir().join(self.job.torrent.name())
    }

    /// Passes what happened on to a program.
    pub(super) fn pass_events(&self, watch: &Watch<'_>) {
        let Some(events) = &self.events else { return };
        let torrent = &self.job.torrent;
        for (name, fields) in events.try_iter().filter_map(|event| programs::happened(torrent, &self.numbers, event)) {
            watch.json.event(name, with_id(torrent, fields));
        }
    }
}
