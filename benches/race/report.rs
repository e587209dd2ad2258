//! What came of the race: medians with their spread, as a table, as Markdown and as JSON.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::args::Args;
use crate::clients::Field;
use crate::machine::Machine;
use crate::run::Run;

/// The median of several runs, the lowest and the highest.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// None of no values, or where one was not measured.
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.collect();
        values.sort_by(f64::total_cmp);
        let (low, high, half) = (*values.first()?, *values.last()?, values.len() / 2);
        let median = if values.len() % 2 == 1 { values[half] } else { f64::midpoint(values[half - 1], values[half]) };
        median.is_finite().then_some(Self { median, low, high })
    }

    fn json(&self) -> Value {
        json!({"median": self.median, "low": self.low, "high": self.high})
    }
}

/// One client's runs. Medians are of those that left the right file.
pub(crate) struct Row {
    /// With the version.
    pub(crate) label: String,
    name: String,
    pub(crate) wall: Option<Spread>,
    user: Option<Spread>,
    system: Option<Spread>,
    /// Seconds per GiB, user and system.
    pub(crate) cpu: Option<Spread>,
    pub(crate) peak_mib: Option<Spread>,
    first: Option<Spread>,
    /// The wall time and what the disk then still needed.
    durable: Option<Spread>,
    right: usize,
    runs: Vec<Run>,
}

impl Row {
    /// Whether every run left the right file.
    pub(crate) fn flawless(&self) -> bool {
        self.right == self.runs.len()
    }

    /// How runs failed, and how many; empty where none did.
    pub(crate) fn failures(&self) -> String {
        if self.flawless() {
            return String::new();
        }
        let mut reasons: Vec<_> =
            self.runs.iter().filter(|run| !run.right).filter_map(|run| run.status.as_deref()).collect();
        reasons.sort_unstable();
        reasons.dedup();
        format!("{} of {} failed: {}", self.runs.len() - self.right, self.runs.len(), reasons.join("; "))
    }

    fn new(args: &Args, (name, version): (&str, &str), runs: Vec<Run>) -> Self {
        let gib = args.size as f64 / 1024.0;
        let spread = |of: &dyn Fn(&Run) -> f64| Spread::of(runs.iter().filter(|run| run.right).map(of));
        Self {
            label: format!("{name} {version}").trim().to_owned(),
            name: name.to_owned(),
            wall: spread(&|run| run.wall),
            user: spread(&|run| run.user / gib),
            system: spread(&|run| run.system / gib),
            cpu: spread(&|run| (run.user + run.system) / gib),
            peak_mib: spread(&|run| run.peak_mib),
            first: spread(&|run| run.first),
            durable: spread(&|run| run.wall + run.flush),
            right: runs.iter().filter(|run| run.right).count(),
            runs,
        }
    }

    fn json(&self) -> Value {
        let spread = |spread: &Option<Spread>| spread.as_ref().map(Spread::json);
        json!({
            "version": self.label.strip_prefix(&self.name).unwrap_or_default().trim(),
            "right": self.flawless(), "failures": self.failures(),
            "wall": spread(&self.wall), "user_per_gib": spread(&self.user), "system_per_gib": spread(&self.system),
            "cpu_per_gib": spread(&self.cpu), "peak_mib": spread(&self.peak_mib), "first_mib": spread(&self.first),
            "durable": spread(&self.durable),
            "runs": self.runs.iter().map(Run::json).collect::<Vec<_>>(),
        })
    }
}

/// The whole race.
pub(crate) struct Report<'a> {
    pub(crate) args: &'a Args,
    pub(crate) machine: Machine,
    /// What is raced for, in words.
    pub(crate) heading: String,
    /// The fastest first, those who never got there last.
    pub(crate) rows: Vec<Row>,
    pub(crate) absent: Vec<(String, String)>,
    /// Whether the output is on something that has to be written out.
    on_disk: bool,
}

impl<'a> Report<'a> {
    /// `runs` has the runs of each of the field's racers, by name.
    pub(crate) fn new(
        args: &'a Args,
        machine: Machine,
        (seeder, file_system): (&str, &str),
        field: Field,
        mut runs: Vec<(String, Vec<Run>)>,
    ) -> Self {
        let version = |name: &str| {
            let racer = field.racers.iter().find(|racer| racer.name == name);
            racer.map_or("", |racer| racer.version.as_str())
        };
        let row = |(name, runs): (String, Vec<Run>)| Row::new(args, (&name, version(&name)), runs);
        let mut rows: Vec<_> = runs.drain(..).map(row).collect();
        let time = |row: &Row| row.wall.map_or(f64::INFINITY, |wall| wall.median);
        rows.sort_by(|a, b| time(a).total_cmp(&time(b)));
        let heading = args.what(seeder, file_system);
        Self { args, machine, heading, rows, absent: field.absent, on_disk: file_system != "tmpfs" }
    }

    /// The table, for a terminal or as Markdown, with all that has to be said below it.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}; {}\n\n", self.heading, self.args.how());
        let columns = self.columns();
        text += &if self.args.markdown { self.markdown(&columns) } else { self.plain(&columns) };
        text.push('\n');
        for line in self.remarks() {
            writeln!(text, "{line}").expect("a String takes all");
        }
        text
    }

    /// Every run, and the medians.
    pub(crate) fn json(&self) -> Value {
        let args = self.args;
        let clients: Map<_, _> = self.rows.iter().map(|row| (row.name.clone(), row.json())).collect();
        let absent: Map<_, _> = self.absent.iter().map(|(name, why)| (name.clone(), json!(why))).collect();
        json!({
            "race": self.heading, "conditions": args.how(), "size_mib": args.size, "piece_kib": args.piece, "seeders": args.seeders,
            "delay_ms": args.delay, "rate_mb_per_s": args.rate, "rounds": args.rounds, "ideal": args.ideal(),
            "machine": self.machine.json(), "clients": clients, "absent": absent,
        })
    }

    fn columns(&self) -> Vec<Column> {
        let mut columns = vec![
            Column { head: "wall s", digits: 2, of: |row| row.wall },
            Column { head: "CPU s/GiB", digits: 2, of: |row| row.cpu },
            Column { head: "user s/GiB", digits: 2, of: |row| row.user },
            Column { head: "system s/GiB", digits: 2, of: |row| row.system },
            Column { head: "peak MiB", digits: 0, of: |row| row.peak_mib },
        ];
        if self.rows.iter().any(|row| row.first.is_some()) {
            columns.push(Column { head: "first MiB s", digits: 2, of: |row| row.first });
        }
        if self.on_disk {
            columns.push(Column { head: "on disk s", digits: 2, of: |row| row.durable });
        }
        columns
    }

    fn plain(&self, columns: &[Column]) -> String {
        let line = |first: &str, cells: Vec<String>, last: &str| {
            let cells: String = cells.iter().map(|cell| format!("  {cell:>18}")).collect();
            format!("{first:20}{cells}  {last}").trim_end().to_owned() + "\n"
        };
        let mut text = line("", columns.iter().map(|column| column.head.to_owned()).collect(), &self.ratio_head());
        for row in &self.rows {
            let cells = columns.iter().map(|column| column.cell(row)).collect();
            let last = format!("{}  {}", self.ratio(row), row.failures());
            text += &line(&row.label, cells, last.trim());
        }
        text
    }

    fn markdown(&self, columns: &[Column]) -> String {
        let heads: Vec<_> = columns.iter().map(|column| column.head).collect();
        let ideal = self.ratio_head();
        let ideal = if ideal.is_empty() { ideal } else { format!(" {ideal} |") };
        let rules = "---:|".repeat(columns.len() + usize::from(!ideal.is_empty()));
        let mut text = format!("| | {} |{ideal}\n|---|{rules}\n", heads.join(" | "));
        for row in &self.rows {
            let mut cells: Vec<_> = columns.iter().map(|column| column.cell(row)).collect();
            if !ideal.is_empty() {
                cells.push(self.ratio(row));
            }
            let failures = if row.flawless() { String::new() } else { format!(" ({})", row.failures()) };
            let label = format!("{}{failures}", row.label).replace('|', "\\|");
            writeln!(text, "| {label} | {} |", cells.join(" | ")).expect("a String takes all");
        }
        text
    }

    fn ratio_head(&self) -> String {
        let ideal = self.args.ideal();
        if self.args.rate > 0.0 { format!("of the link's {ideal:.2} s") } else { String::new() }
    }

    fn ratio(&self, row: &Row) -> String {
        match row.wall {
            Some(wall) if self.args.rate > 0.0 => format!("{:.2} x", wall.median / self.args.ideal()),
            _ => String::new(),
        }
    }

    /// What is not in the table.
    fn remarks(&self) -> Vec<String> {
        let mut lines = vec![self.machine.describe()];
        lines.push("CPU is user and system time; the order moved on by one each round.".into());
        lines.extend(self.absent.iter().map(|(name, why)| format!("Not here: {name}: {why}.")));
        // Among those who did the job.
        let ours = self.rows.iter().find(|row| row.name == "ropewalk");
        let best = |of: Measure| {
            let others = self.rows.iter().filter(|row| row.name != "ropewalk" && row.flawless());
            let others = others.filter_map(|row| Some((of(row)?.median, &row.name)));
            let (theirs, name) = others.min_by(|a, b| a.0.total_cmp(&b.0))?;
            Some(format!("{:.2} x {name}'s", of(ours?)?.median / theirs))
        };
        let measures: [(&str, Measure); 3] =
            [("wall time", |row| row.wall), ("CPU time", |row| row.cpu), ("peak memory", |row| row.peak_mib)];
        let ratios: Vec<_> = measures.iter().filter_map(|(name, of)| Some(format!("{name} {}", best(*of)?))).collect();
        if !ratios.is_empty() {
            lines.push(format!("ropewalk beside the best of the others: {}.", ratios.join(", ")));
        }
        lines
    }
}

/// What is read from a row; None where no run has it.
pub(crate) type Measure = fn(&Row) -> Option<Spread>;

struct Column {
    head: &'static str,
    digits: usize,
    of: Measure,
}

impl Column {
    fn cell(&self, row: &Row) -> String {
        let Some(Spread { median, low, high }) = (self.of)(row) else { return "-".into() };
        let digits = self.digits;
        if row.runs.len() == 1 {
            return format!("{median:.digits$}");
        }
        format!("{median:.digits$} ({low:.digits$}-{high:.digits$})")
    }
}
