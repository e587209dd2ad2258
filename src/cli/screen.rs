//! What people see: bars on a terminal, plain lines elsewhere, and the log between them.
//!
//! It owns stderr, and stdout as far as people read it. Bars live on stderr; whatever else is printed while they stand
//! goes above them.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use console::{Term, measure_text_width, truncate_str};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;
use serde_json::json;

use super::exit;
use super::json::Json;
use super::words::{in_columns, left, part, percent, printable, rate};

/// How often a bar changes.
pub const DRAW: Duration = Duration::from_millis(100);
/// How often a plain line is printed.
pub const LINE: Duration = Duration::from_secs(5);
/// How often a program hears of progress.
pub const EVENT: Duration = Duration::from_secs(1);
/// The most columns of a name beside a bar.
pub const NAME: usize = 16;
/// A bar has as many columns at least: with fewer it says nothing.
const LEAST_BAR: usize = 18;
/// With fewer columns left, nothing is said of a part that does not fit.
const WORTH_CUTTING: usize = 24;
/// What is done sooner needs no bar.
const WORTH_A_BAR: Duration = Duration::from_millis(400);

/// A bar takes what its fields leave. Done and not done differ without colours, too.
const BAR: &str = "{prefix}  {wide_bar:.cyan/black.bright}  {msg}";
const TEXT: &str = "{prefix}  {wide_msg}";
const SEARCH: &str = "{prefix}  {spinner:.cyan} {wide_msg}";

pub struct Screen {
    bars: MultiProgress,
    live: bool,
    quiet: bool,
}

impl Screen {
    pub fn new(quiet: bool) -> Self {
        let live = io::stderr().is_terminal() && !quiet;
        let target = if live { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bars: MultiProgress::with_draw_target(target), live, quiet }
    }

    /// Sends the log to stderr, above the bars. Without `-v` and RUST_LOG there is none: errors are told once.
    pub fn log(&self, verbose: u8) {
        let level = ["off", "info", "debug", "trace"][usize::from(verbose.min(3))];
        let level = if verbose > 0 { format!("warn,ropewalk={level}") } else { level.to_owned() };
        let mut builder = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level));
        if self.live {
            builder.target(env_logger::Target::Pipe(Box::new(AboveBars(self.bars.clone()))));
        }
        builder.init();
    }

    /// Whether there are bars.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Whether only what is asked for is printed.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// What is good to know, on stderr; nothing with `--quiet`.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.stderr(text);
        }
    }

    pub fn warn(&self, text: &str) {
        self.stderr(&format!("warning: {text}"));
    }

    /// That what was warned of is over: said to whoever was warned.
    pub fn end_of_warning(&self, text: &str) {
        self.stderr(text);
    }

    pub fn error(&self, text: &str) {
        self.stderr(&format!("error: {text}"));
    }

    /// What came of it, on stdout; nothing with `--quiet`.
    pub fn print(&self, text: &str) -> anyhow::Result<()> {
        if self.quiet { Ok(()) } else { self.bytes(format!("{}\n", tame(text)).as_bytes()) }
    }

    /// What was asked for, on stdout.
    pub fn bytes(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let written = self.bars.suspend(|| {
            let mut out = io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush())
        });
        written.map_err(exit::of_stdout)
    }

    /// A bar of which the text is told by whoever moves it.
    pub fn bar(&self, name: &str) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        bar.set_style(style(BAR));
        bar.set_prefix(name.to_owned());
        self.bars.add(bar)
    }

    /// Shows how far long work on files is.
    pub fn work<'a>(&'a self, what: &str, json: &'a Json) -> Work<'a> {
        let now = Instant::now();
        Work {
            screen: self,
            json,
            what: what.to_owned(),
            bar: OnceLock::new(),
            done: AtomicU64::new(0),
            began: now,
            told: Mutex::new(now),
        }
    }

    fn stderr(&self, text: &str) {
        // Where stderr is closed there is nobody to tell.
        self.bars.suspend(|| writeln!(io::stderr().lock(), "{}", tame(text))).ok();
    }
}

/// Lines that cannot drive the terminal, whatever names are in them.
fn tame(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

/// Moves a bar and says what it is at: as many of the fields, the most important first, as leave room for a bar.
pub fn show(bar: &ProgressBar, done: u64, total: u64, fields: &[String]) {
    let columns = usize::from(Term::stderr().size().1);
    bar.set_style(style(BAR));
    bar.set_length(total.max(1));
    bar.set_position(done);
    bar.set_message(fitting(columns.saturating_sub(measure_text_width(&bar.prefix())), fields));
}

/// As many of the fields as leave room for a bar in so many columns, each behind two spaces; the first in any case.
fn fitting(columns: usize, fields: &[String]) -> String {
    let room = columns.saturating_sub(LEAST_BAR + "    ".len());
    let mut text = fields.first().cloned().unwrap_or_default();
    for field in fields.iter().skip(1) {
        if measure_text_width(&text) + "  ".len() + measure_text_width(field) > room {
            break;
        }
        text = text + "  " + field;
    }
    text
}

/// Says something in place of a bar: as many of its parts as there is room for.
pub fn say(bar: &ProgressBar, text: &str) {
    bar.set_style(style(TEXT));
    bar.set_message(whole(room_beside(bar), text));
}

/// Says what is being waited for, with a sign that something goes on.
pub fn search(bar: &ProgressBar, text: &str) {
    bar.set_style(style(SEARCH));
    bar.set_message(whole(room_beside(bar).saturating_sub("⠁ ".chars().count()), text));
    bar.tick();
}

/// The columns that a bar's prefix leaves.
fn room_beside(bar: &ProgressBar) -> usize {
    let columns = usize::from(Term::stderr().size().1);
    columns.saturating_sub(measure_text_width(&bar.prefix()) + "  ".len())
}

/// As many of the parts, which are separated by commas and semicolons, as fit in so many columns. The next one is cut off
/// where more of it is seen than of nothing, the first in any case.
fn whole(columns: usize, text: &str) -> String {
    if measure_text_width(text) <= columns {
        return text.to_owned();
    }
    let ends = text.match_indices([',', ';']).filter(|&(at, _)| text[at + 1..].starts_with(' ')).map(|(at, _)| at);
    let kept = ends.take_while(|&at| measure_text_width(&text[..at]) <= columns).last();
    match kept {
        Some(end) if columns - measure_text_width(&text[..end]) < WORTH_CUTTING => text[..end].to_owned(),
        _ => truncate_str(text, columns, "…").into_owned(),
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a template of ours").progress_chars("━╸─")
}

/// Long work in bytes, which several threads do.
pub struct Work<'a> {
    screen: &'a Screen,
    json: &'a Json,
    what: String,
    bar: OnceLock<ProgressBar>,
    /// The most bytes that any thread told of.
    done: AtomicU64,
    began: Instant,
    /// When somebody was told last. Whoever finds it locked leaves the telling to the one who has it.
    told: Mutex<Instant>,
}

impl Work<'_> {
    /// `done` of `total` bytes are through.
    pub fn at(&self, done: u64, total: u64) {
        let done = done.max(self.done.fetch_max(done, Ordering::Relaxed));
        let Some(mut told) = self.told.try_lock() else { return };
        let every = if self.json.is_wanted() { EVENT } else { LINE };
        let every = if self.screen.live { DRAW } else { every };
        let now = Instant::now();
        if now - *told < every || now - self.began < WORTH_A_BAR {
            return;
        }
        *told = now;
        let speed = (done as f64 / (now - self.began).as_secs_f64()) as u64;
        let remaining = Duration::from_secs((total - done).checked_div(speed).unwrap_or(0));
        let (percent, part) = (percent(done, total), part(done, total));
        let fields = [format!("{percent:>3} %"), format!("{:>12}", rate(speed)), left(remaining), part];
        if self.screen.live {
            let name = || in_columns(&self.what, NAME.min(measure_text_width(&self.what)));
            let bar = self.bar.get_or_init(|| self.screen.bar(&name()));
            show(bar, done, total, &fields);
        } else if self.json.is_wanted() {
            self.json.event("progress", json!({ "done": done, "total": total, "rate": speed }));
        } else {
            self.screen.note(&format!("{}: {}", self.what, fields.map(|field| field.trim().to_owned()).join(", ")));
        }
    }

    /// Takes the bar away and says how long it took.
    pub fn finish(self) -> Duration {
        self.began.elapsed()
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}

/// Where the log goes while there are bars.
struct AboveBars(MultiProgress);

impl Write for AboveBars {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write_all(buf))?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::{NAME, fitting, whole};

    #[test]
    fn a_bar_has_room_whatever_there_is_to_say() {
        let fields = [" 42 %", " 12.3 MiB/s", "4m 05s left", " 8 peers", "1.2/3.4 GiB"].map(String::from);
        let beside = |columns: usize| fitting(columns - NAME, &fields);
        assert_eq!(beside(120), " 42 %   12.3 MiB/s  4m 05s left   8 peers  1.2/3.4 GiB");
        assert_eq!(beside(80), " 42 %   12.3 MiB/s  4m 05s left   8 peers");
        assert_eq!(beside(40), " 42 %");
    }

    #[test]
    fn what_does_not_fit_on_a_line_is_left_out_whole_unless_it_is_long() {
        let text = "62 % waiting for unchoke, 30 % for blocks, 8 % nothing wanted";
        assert_eq!(whole(61, text), text);
        assert_eq!(whole(60, text), "62 % waiting for unchoke, 30 % for blocks");
        assert_eq!(whole(10, text), "62 % wait…");
        let text = "looking for metadata; tracker.example:6969: cannot reach the tracker";
        assert_eq!(whole(60, text), "looking for metadata; tracker.example:6969: cannot reach th…");
        assert_eq!(whole(30, text), "looking for metadata");
    }
}
