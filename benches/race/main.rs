//! A race of BitTorrent clients: each downloads the same payload from the same seeders, in turns.
//!
//! `cargo bench --bench race -- --size 1024 --seeders 8 --rounds 5 --json race.json --svg race.svg`
//!
//! Runs what it finds: ropewalk, and aria2c, rqbit, transmission-cli and python3 with libtorrent where they are on PATH.
//! Measured of each leecher's process are the wall time, the user and system time, the peak of resident memory, and
//! whether its file is the payload. A client that fails or takes too long is in the report as one that did.
//!
//! What makes it fair: the order moves on by one each round, the payload is in memory, the output's file system is synced
//! before each run, each run has a folder of its own that is removed after it, DHT, local discovery and peer exchange are
//! off, and the tracker knows the same peers for everybody. Seeders, links and tracker are not in the clients' CPU times;
//! they are on the same cores, so that wall times hold the swarm's work too.
//!
//! | module | owns |
//! |---|---|
//! | `args` | the command line |
//! | `namespace` | a network of its own |
//! | `swarm` | payload, seeders, tracker |
//! | `link` | delay and rate before the seeders |
//! | `clients` | who races |
//! | `run` | one download, measured |
//! | `machine` | where the numbers come from |
//! | `report`, `chart` | what came of it |

mod args;
mod chart;
mod clients;
mod link;
mod machine;
mod namespace;
mod report;
mod run;
mod swarm;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, ensure};
use clap::Parser;

use crate::args::{Args, Part};
use crate::clients::Field;
use crate::machine::Machine;
use crate::report::Report;
use crate::run::{Course, Run, Running};
use crate::swarm::Swarm;

fn main() -> anyhow::Result<()> {
    // RUST_LOG=debug shows what the seeders think of their leechers.
    env_logger::init();
    let args = Args::parse();
    if let Some(Part::Link(links)) = &args.part {
        return links.run();
    }
    args.check()?;
    if !namespace::inside() {
        let error = namespace::enter();
        eprintln!("!! no network namespace ({error}): on loopback addresses, and without the clients that refuse them");
    }
    let (machine, mut field) = (Machine::here(), Field::find(&args)?);
    for (name, why) in &field.absent {
        eprintln!("-- {name} is left out: {why}");
    }
    let running = Running::default();
    running.stop_on_signals()?;
    if args.linked() {
        try_link(&args)?;
    }

    let (payload, output) = (temporary(&args.payload_folder())?, temporary(&args.output_folder()?)?);
    let file_system = machine::file_system(output.path());
    ensure_room(&args, payload.path(), output.path())?;
    let swarm = Swarm::start(&args, payload.path())?;
    let course = Course {
        swarm: &swarm,
        folder: output.path(),
        limit: args.limit(),
        linked: args.linked(),
        running: running.clone(),
    };
    let mut runs: Vec<(String, Vec<Run>)> = field.racers.iter().map(|racer| (racer.name.clone(), Vec::new())).collect();
    for round in 1..=args.rounds {
        for racer in &field.racers {
            ensure!(!running.stopped(), "stopped");
            let run = course.run(racer);
            ensure!(!running.stopped(), "stopped");
            eprintln!("{round:3}  {:14} {}", racer.name, run.summary());
            let of = runs.iter_mut().find(|(name, _)| *name == racer.name).context("every racer has its runs")?;
            of.1.push(run);
        }
        field.racers.rotate_left(1);
    }
    let seeder = swarm.seeder;
    drop(swarm);

    let report = Report::new(&args, machine, (seeder, &file_system), field, runs);
    print!("{}", report.text());
    if let Some(path) = &args.json {
        write(path, &(serde_json::to_string_pretty(&report.json())? + "\n"))?;
    }
    if let Some(path) = &args.svg {
        write(path, &chart::svg(&report))?;
    }
    let failed = report.rows.iter().find(|row| row.label.starts_with("ropewalk") && !row.flawless());
    ensure!(failed.is_none(), "ropewalk failed: {}", failed.map(|row| row.failures()).unwrap_or_default());
    Ok(())
}

/// Says what a link does with plain TCP: where this machine cannot carry its rate, no client will see it either.
fn try_link(args: &Args) -> anyhow::Result<()> {
    let rate = args.rate * 1e6;
    let second = if rate > 0.0 { rate.clamp(64e3, 64e6) } else { 64e6 };
    let probe = link::probe(args.delay, rate, second as usize).context("the link does not work")?;
    let round_trip = probe.round_trip.as_secs_f64() * 1000.0;
    eprintln!("-- a link alone, by plain TCP: {:.1} MB/s, round trip {round_trip:.1} ms", probe.rate / 1e6);
    Ok(())
}

fn temporary(parent: &Path) -> anyhow::Result<tempfile::TempDir> {
    let made = std::fs::create_dir_all(parent)
        .and_then(|()| tempfile::Builder::new().prefix("ropewalk-race-").tempdir_in(parent));
    made.with_context(|| format!("cannot make a folder in {}", parent.display()))
}

/// The payload, and one client's output at a time.
fn ensure_room(args: &Args, payload: &Path, output: &Path) -> anyhow::Result<()> {
    let shared = std::fs::metadata(payload)?.dev() == std::fs::metadata(output)?.dev();
    machine::ensure_room(payload, args.bytes() * if shared { 2 } else { 1 })?;
    machine::ensure_room(output, args.bytes())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
