//! `ropewalk create` and `ropewalk verify` of a file in the page cache against mktorrent and libtorrent, in turns.
//!
//! `cargo bench --bench create -- --size 2048 --rounds 5 --json create.json`
//!
//! Runs what it finds: mktorrent with a thread per core, and python3 with libtorrent: a recheck with two hashing threads,
//! and `set_piece_hashes`, which has no setting for them. Programs are measured from their start to their end, by GNU time;
//! libtorrent measures itself, without the start of Python. Printed are medians, and how many times the throughput of the
//! others that is. All of them have to find the same hashes.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use ropewalk::Metainfo;
use ropewalk::hash::Backend;
use serde_json::{Map, Value, json};

const PAYLOAD: &str = "payload.bin";
/// The torrent that all others are compared with and that is verified, and the one that a run makes.
const RIGHT: &str = "right.torrent";
const MADE: &str = "made.torrent";
const OURS: [&str; 2] = ["ropewalk create", "ropewalk verify"];

#[derive(Parser)]
#[command(about = "Race programs that hash files for .torrent files")]
struct Args {
    /// The file in MiB.
    #[arg(long, default_value_t = 64)]
    size: u64,
    /// The piece length in KiB, a power of two.
    #[arg(long, default_value_t = 1024, value_parser = power_of_two)]
    piece: u32,
    /// How often each of them runs, after a round that does not count.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The folder for all files; by default in memory where there is /dev/shm.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Where to write every run.
    #[arg(long)]
    json: Option<PathBuf>,
    /// What cargo gives; of no meaning here.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What one run took, in seconds.
#[derive(Clone, Copy)]
struct Run {
    wall: f64,
    /// User and system time.
    cpu: f64,
}

/// Something that hashes the payload.
struct Racer {
    name: &'static str,
    command: Vec<String>,
    /// It prints what its run took, instead of being measured from outside.
    measures_itself: bool,
    /// It makes a torrent.
    makes: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let memory = Path::new("/dev/shm");
    let parent = args.dir.clone().unwrap_or_else(|| if memory.is_dir() { memory.into() } else { std::env::temp_dir() });
    let folder = tempfile::Builder::new().prefix("ropewalk-create-").tempdir_in(&parent)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    write_payload(&folder.path().join(PAYLOAD), args.size << 20)?;
    println!(
        "{} MiB in pieces of {} KiB in {}, {cores} cores; ropewalk hashes by {}",
        args.size,
        args.piece,
        parent.display(),
        Backend::best()
    );

    ensure!(runs("time", &["--version"]), "GNU time is not installed (Debian: time)");
    let mut racers = racers(args.piece, cores);
    race(&racers[0], folder.path(), None)?;
    std::fs::rename(folder.path().join(MADE), folder.path().join(RIGHT))?;
    let right = Metainfo::read(&folder.path().join(RIGHT))?;
    let mut runs = BTreeMap::<&str, Vec<Run>>::new();
    for round in 0..=args.rounds {
        for racer in &racers {
            let run = race(racer, folder.path(), Some(&right));
            let run = run.with_context(|| format!("{} could not be run", racer.name))?;
            if round > 0 {
                runs.entry(racer.name).or_default().push(run);
            }
        }
        racers.rotate_left(1);
    }
    report(&args, &runs)
}

/// What is here; `ropewalk create` comes first.
fn racers(piece_kib: u32, cores: usize) -> Vec<Racer> {
    let words = |line: String| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let ropewalk = |line: String| [vec![env!("CARGO_BIN_EXE_ropewalk").to_owned()], words(line)].concat();
    let racer = |name, command, measures_itself, makes| Racer { name, command, measures_itself, makes };
    let (create, verify) = (format!("create {PAYLOAD} -q -l {piece_kib}K -o {MADE}"), format!("verify {RIGHT} -q"));
    let mut racers =
        vec![racer(OURS[0], ropewalk(create), false, true), racer(OURS[1], ropewalk(verify), false, false)];
    if runs("mktorrent", &["-h"]) {
        let log = (piece_kib << 10).trailing_zeros();
        let line = format!("mktorrent -t {cores} -l {log} -a http://tracker.example/ -o {MADE} {PAYLOAD}");
        racers.push(racer("mktorrent", words(line), false, true));
    } else {
        println!("mktorrent is not installed: left out");
    }
    if runs("python3", &["-c", "import libtorrent"]) {
        let piece = (piece_kib << 10).to_string();
        let python = |script, to, more| ["python3", "-c", script, PAYLOAD, to, more].map(str::to_owned).to_vec();
        racers.push(racer("libtorrent recheck", python(LIBTORRENT_RECHECK, RIGHT, ""), true, false));
        racers.push(racer("libtorrent create", python(LIBTORRENT_CREATE, MADE, &piece), true, true));
    } else {
        println!("python3 with libtorrent is not installed: left out");
    }
    racers
}

/// Whether a program is there and does this.
fn runs(program: &str, arguments: &[&str]) -> bool {
    // The help of mktorrent ends with a failure of its own.
    let ran = Command::new(program).args(arguments).output();
    ran.is_ok_and(|output| output.status.success() || !output.stdout.is_empty())
}

/// Runs it once, and compares what it made.
fn race(racer: &Racer, folder: &Path, right: Option<&Metainfo>) -> anyhow::Result<Run> {
    let (made, times) = (folder.join(MADE), folder.join("times"));
    // Nobody replaces a file unasked.
    if made.exists() {
        std::fs::remove_file(&made)?;
    }
    let mut command = Command::new("time");
    command.args(["-f", "%U %S", "-o"]).arg(&times).args(&racer.command).current_dir(folder);
    let start = Instant::now();
    let output = command.output()?;
    let wall = start.elapsed().as_secs_f64();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{}: {out}{err}", output.status);
    if let Some(right) = right.filter(|_| racer.makes) {
        let made = Metainfo::read(&made)?;
        let hashes =
            |torrent: &Metainfo| torrent.layout().pieces().map(|at| *torrent.piece_hash(at)).collect::<Vec<_>>();
        ensure!(hashes(&made) == hashes(right), "it found other hashes");
    }
    let told = if racer.measures_itself { out.into_owned() } else { std::fs::read_to_string(&times)? };
    let numbers = told.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>();
    match numbers.with_context(|| told.clone())?[..] {
        [wall, cpu] if racer.measures_itself => Ok(Run { wall, cpu }),
        [user, system] => Ok(Run { wall, cpu: user + system }),
        _ => bail!("it told: {told}"),
    }
}

fn report(args: &Args, runs: &BTreeMap<&str, Vec<Run>>) -> anyhow::Result<()> {
    let sorted = |name: &str, of: fn(&Run) -> f64| {
        let mut values: Vec<f64> = runs[name].iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let median = |name: &str, of| {
        let values = sorted(name, of);
        values[values.len() / 2]
    };
    println!("{:20} {:>8} {:>16} {:>8} {:>8}", "", "wall", "from to", "GiB/s", "CPU");
    for name in runs.keys() {
        let walls = sorted(name, |run| run.wall);
        let (wall, cpu) = (median(name, |run| run.wall), median(name, |run| run.cpu));
        let speed = args.size as f64 / 1024.0 / wall;
        let (least, most) = (walls[0], walls[walls.len() - 1]);
        println!("{name:20} {wall:>6.2} s {least:>8.2} {most:>5.2} s {speed:>8.2} {cpu:>6.2} s");
    }
    for ours in OURS {
        for theirs in runs.keys().filter(|name| !OURS.contains(name)) {
            let times = |of| median(theirs, of) / median(ours, of);
            let (wall, cpu) = (times(|run| run.wall), times(|run| run.cpu));
            println!("{ours}: {wall:.2} x the throughput of {theirs}, which takes {cpu:.2} x the CPU time");
        }
    }
    let Some(path) = &args.json else { return Ok(()) };
    let each = |run: &Run| json!({ "wall": run.wall, "cpu": run.cpu });
    let all = runs.iter().map(|(name, runs)| ((*name).to_owned(), runs.iter().map(each).collect::<Value>()));
    let text = json!({ "mib": args.size, "piece_kib": args.piece, "seconds": all.collect::<Map<_, _>>() }).to_string();
    std::fs::write(path, text + "\n").with_context(|| path.display().to_string())
}

fn write_payload(path: &Path, len: u64) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut file = std::fs::File::create(path)?;
    let mut chunk = vec![0; 1 << 20];
    for _ in 0..len >> 20 {
        random.fill(&mut chunk);
        file.write_all(&chunk).with_context(|| format!("no room for {len} bytes at {}", path.display()))?;
    }
    Ok(())
}

fn power_of_two(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|kib: &u32| kib.is_power_of_two() && (16..=1 << 18).contains(kib));
    number.ok_or_else(|| "it is 16, 32, 64 and so on".into())
}

/// From adding the torrent to the word that it was checked; prints the wall and the CPU time.
const LIBTORRENT_RECHECK: &str = r#"
import libtorrent as lt, sys, time
session = lt.session({
    'hashing_threads': 2, 'alert_mask': lt.alert.category_t.status_notification | lt.alert.category_t.error_notification,
    'listen_interfaces': '', 'enable_dht': False, 'enable_lsd': False, 'enable_upnp': False, 'enable_natpmp': False,
})
params = lt.add_torrent_params()
params.ti, params.save_path = lt.torrent_info(sys.argv[2]), '.'
params.flags &= ~(lt.torrent_flags.paused | lt.torrent_flags.auto_managed)
start, cpu = time.monotonic(), time.process_time()
handle = session.add_torrent(params)
while not any(isinstance(alert, lt.torrent_checked_alert) for alert in session.pop_alerts()):
    session.wait_for_alert(1000)
took = time.monotonic() - start, time.process_time() - cpu
assert handle.status().is_seeding, handle.status().state
print(*took)
"#;

/// Hashes for a new torrent of version 1; prints the wall and the CPU time.
const LIBTORRENT_CREATE: &str = r#"
import libtorrent as lt, sys, time
files = lt.file_storage()
lt.add_files(files, sys.argv[1])
torrent = lt.create_torrent(files, int(sys.argv[3]), lt.create_torrent.v1_only)
start, cpu = time.monotonic(), time.process_time()
lt.set_piece_hashes(torrent, '.')
took = time.monotonic() - start, time.process_time() - cpu
with open(sys.argv[2], 'wb') as out:
    out.write(lt.bencode(torrent.generate()))
print(*took)
"#;
