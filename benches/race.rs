//! A race of BitTorrent clients: each downloads the same payload from the same seeders, in turns.
//!
//! `cargo bench --bench race -- --size 1024 --seeders 8 --rounds 5 --json race.json`
//!
//! Runs what it finds: ropewalk, and aria2c, transmission-cli, rqbit and python3 with libtorrent where they are on the
//! PATH. Measured of each leecher's process are the wall time, the user and system time, the peak of resident memory
//! (by GNU time) and whether its file is the payload; printed are medians.
//!
//! The seeders, a small tracker and the leechers are in a network namespace of their own where that can be had (as root,
//! or where the system allows it to everybody), since some clients refuse peers on loopback addresses. Where it cannot,
//! those are left out.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use crossbeam_channel::{RecvTimeoutError, bounded};
use ropewalk::create::{CreateOptions, create};
use ropewalk::{AddOptions, Check, Config, Metainfo, Session, State};
use rustix::process::{Pid, Signal, geteuid, kill_process_group};
use serde_json::json;

const PAYLOAD: &str = "payload.bin";
const MOST_SEEDERS: i64 = 200;
/// Says, in the environment, that the process is in its namespace.
const INSIDE: &str = "ROPEWALK_RACE_NAMESPACE";
/// Where, in the namespace, the tracker and the leechers are; the seeders are at the addresses that follow.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

#[derive(Parser)]
#[command(about = "Race BitTorrent clients against each other on this machine")]
struct Args {
    /// The payload in MiB.
    #[arg(long, default_value_t = 32)]
    size: u64,
    /// The piece length in KiB.
    #[arg(long, default_value_t = 256)]
    piece: u32,
    /// How many seeders there are.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=MOST_SEEDERS))]
    seeders: u32,
    /// Who seeds.
    #[arg(long, value_enum, default_value_t = Seeder::Ropewalk)]
    seeder: Seeder,
    /// How often each client runs.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Only the clients whose names contain one of these.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Another client: NAME=COMMAND, which downloads the torrent {t} into the folder {o} and exits.
    #[arg(long)]
    also: Vec<String>,
    /// The folder for all files; by default in memory where there is /dev/shm.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The most seconds that one run may take.
    #[arg(long, default_value_t = 20)]
    timeout: u64,
    /// Where to write every run and the medians.
    #[arg(long)]
    json: Option<PathBuf>,
    /// What cargo and criterion's benches are given; of no meaning here.
    #[arg(long, hide = true)]
    bench: bool,
    #[arg(long, hide = true)]
    quick: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Seeder {
    /// Sessions in this process.
    Ropewalk,
    /// Processes of python3 with libtorrent.
    Libtorrent,
}

fn main() -> anyhow::Result<()> {
    // RUST_LOG=debug shows what the seeders think of their leechers.
    env_logger::init();
    let args = Args::parse();
    if std::env::var_os(INSIDE).is_none() {
        let error = enter_namespace();
        eprintln!("!! no network namespace ({error}): on loopback addresses, and without the clients that refuse them");
    }
    let mut racers = racers(&args)?;
    let parent = args.dir.clone().unwrap_or_else(|| {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { memory.into() } else { std::env::temp_dir() }
    });
    let folder = tempfile::Builder::new().prefix("ropewalk-race-").tempdir_in(&parent)?;
    let running = Running::default();
    running.stop_on_signals()?;

    let host = if inside() { HOST } else { Ipv4Addr::LOCALHOST };
    let seeders: Vec<_> = (1..=args.seeders).map(|at| Ipv4Addr::from_bits(host.to_bits() + at)).collect();
    let listener = TcpListener::bind((host, 0))?;
    let announce = format!("http://{}/announce", listener.local_addr()?);
    let swarm = Swarm::start(&args, folder.path(), &announce, &seeders)?;
    let peers = swarm.peers.clone();
    std::thread::Builder::new().name("tracker".into()).spawn(move || track(&listener, &peers))?;

    let mut runs = BTreeMap::<String, Vec<Run>>::new();
    for _ in 0..args.rounds {
        for racer in &racers {
            let run = race(racer, &swarm, folder.path(), &running, Duration::from_secs(args.timeout))
                .with_context(|| format!("{} could not be run", racer.name))?;
            ensure!(!running.stopped(), "stopped");
            eprintln!("{:20} {}", racer.name, run.summary());
            runs.entry(racer.name.clone()).or_default().push(run);
        }
        racers.rotate_left(1);
    }
    drop(swarm);
    report(&args, &parent, &runs)?;
    let ours = runs.get("ropewalk").into_iter().flatten();
    ensure!(ours.clone().all(|run| run.right), "ropewalk's file is not the payload");
    Ok(())
}

// ---- Clients

/// A client that can download.
struct Racer {
    name: String,
    /// The program and its arguments, `{t}` for the torrent and `{o}` for the folder to download into.
    command: Vec<String>,
    /// Writes what the client needs into its folder.
    prepare: fn(&Path) -> std::io::Result<()>,
}

/// The clients that are here, as `--only` and `--also` have them.
fn racers(args: &Args) -> anyhow::Result<Vec<Racer>> {
    let nothing = |_: &Path| Ok(());
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut racers = vec![
        Racer {
            name: "ropewalk".into(),
            command: [&[env!("CARGO_BIN_EXE_ropewalk").to_owned()], &words("get {t} -o {o}")[..]].concat(),
            prepare: nothing,
        },
        Racer {
            name: "aria2".into(),
            command: words(
                "aria2c -q --enable-dht=false --enable-dht6=false --bt-enable-lpd=false --enable-peer-exchange=false \
                 --seed-time=0 --file-allocation=falloc --bt-max-peers=0 --listen-port=7000-7999 -d {o} {t}",
            ),
            prepare: nothing,
        },
        Racer {
            name: "rqbit".into(),
            command: words("rqbit --disable-dht --disable-upnp-port-forward --disable-lsd download -e -o {o} {t}"),
            prepare: nothing,
        },
        Racer {
            name: "libtorrent".into(),
            command: [&python()[..], "-c", LIBTORRENT_LEECHER, "{t}", "{o}"].map(str::to_owned).into(),
            prepare: nothing,
        },
        Racer {
            // It seeds when it is done, until the script that it then runs ends it.
            name: "transmission".into(),
            command: words("transmission-cli -et -M -p 51999 -g {o}/cfg -w {o} -f {o}/done.sh {t}"),
            prepare: prepare_transmission,
        },
    ];
    // Those that refuse peers, or trackers, on loopback addresses.
    if !inside() {
        racers.retain(|racer| !matches!(&racer.name[..], "libtorrent" | "transmission" | "rqbit"));
    }
    for also in &args.also {
        let (name, command) = also.split_once('=').context("--also takes NAME=COMMAND")?;
        racers.push(Racer { name: name.into(), command: words(command), prepare: nothing });
    }
    racers.retain(|racer| {
        let wanted = args.only.is_empty() || args.only.iter().any(|only| racer.name.contains(only.as_str()));
        let program = Path::new(&racer.command[0]);
        let found = program.is_absolute() || on_path(program);
        if wanted && !found {
            eprintln!("-- {} is not installed: left out", racer.name);
        }
        wanted && found
    });
    ensure!(!racers.is_empty(), "no client is left to race");
    ensure!(on_path("time".as_ref()), "GNU time is not installed (Debian: time)");
    Ok(racers)
}

fn on_path(program: &Path) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// The python with libtorrent itself, not a script that chooses one and would be measured along; empty where there is none.
fn python() -> String {
    let found = Command::new("python3").args(["-c", "import libtorrent, sys; print(sys.executable)"]).output();
    found.map(|found| String::from_utf8_lossy(&found.stdout).trim().to_owned()).unwrap_or_default()
}

fn prepare_transmission(out: &Path) -> std::io::Result<()> {
    std::fs::create_dir(out.join("cfg"))?;
    let settings = json!({
        "utp-enabled": false, "dht-enabled": false, "lpd-enabled": false, "pex-enabled": false,
        "encryption": 0, "cache-size-mb": 4, "preallocation": 1,
    });
    std::fs::write(out.join("cfg/settings.json"), settings.to_string())?;
    let script = out.join("done.sh");
    // The script's parent is the client.
    std::fs::write(&script, "#!/bin/sh\nkill -TERM $PPID\n")?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))
}

const LIBTORRENT_LEECHER: &str = r#"
import libtorrent as lt, sys
torrent, save = sys.argv[1:]
s = lt.session({"listen_interfaces": "0.0.0.0:0", "enable_dht": False, "enable_lsd": False, "enable_upnp": False,
    "enable_natpmp": False, "alert_mask": lt.alert.category_t.status_notification})
p = lt.add_torrent_params()
p.ti, p.save_path = lt.torrent_info(torrent), save
s.add_torrent(p)
done = False
while not done:
    s.wait_for_alert(1000)
    done = any(isinstance(a, lt.torrent_finished_alert) for a in s.pop_alerts())
"#;

/// One seeder: listens on a free port of its address, which it prints when it is ready, and serves until its input ends.
const LIBTORRENT_SEEDER: &str = r#"
import libtorrent as lt, sys, time
torrent, save, addr = sys.argv[1:]
s = lt.session({"listen_interfaces": addr + ":0", "enable_dht": False, "enable_lsd": False, "enable_upnp": False,
    "enable_natpmp": False, "alert_mask": 0, "unchoke_slots_limit": -1, "connections_limit": 2000,
    "allow_multiple_connections_per_ip": True, "enable_outgoing_utp": False, "enable_incoming_utp": False,
    "in_enc_policy": 1, "out_enc_policy": 1, "send_buffer_watermark": 3145728, "aio_threads": 2})
p = lt.load_torrent_file(torrent)
p.save_path, p.trackers = save, []
p.flags |= lt.torrent_flags.seed_mode
p.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
h = s.add_torrent(p)
h.replace_trackers([])
while not (h.status().is_seeding and s.listen_port()):
    time.sleep(.02)
print(s.listen_port(), flush=True)
sys.stdin.read()
"#;

// ---- Seeders

/// The payload, its torrent and those who seed it. Dropping it stops them.
struct Swarm {
    payload: PathBuf,
    torrent: PathBuf,
    peers: Vec<SocketAddrV4>,
    sessions: Vec<Session>,
    processes: Vec<Child>,
}

impl Swarm {
    fn start(args: &Args, folder: &Path, announce: &str, seeders: &[Ipv4Addr]) -> anyhow::Result<Self> {
        let (payload, torrent) = (folder.join(PAYLOAD), folder.join("payload.torrent"));
        let mut content = vec![0; usize::try_from(args.size << 20)?];
        fastrand::Rng::with_seed(1).fill(&mut content);
        std::fs::write(&payload, content)?;
        let options = CreateOptions {
            piece_length: Some(args.piece << 10),
            trackers: vec![vec![announce.to_owned()]],
            ..CreateOptions::default()
        };
        let metainfo = create(&payload, &options, &|_, _| (), &AtomicBool::new(false))?.metainfo;
        std::fs::write(&torrent, metainfo.as_bytes())?;

        let mut swarm = Self { payload, torrent, peers: Vec::new(), sessions: Vec::new(), processes: Vec::new() };
        match args.seeder {
            Seeder::Ropewalk => swarm.start_sessions(&metainfo, folder, seeders)?,
            Seeder::Libtorrent => swarm.start_processes(folder, seeders)?,
        }
        Ok(swarm)
    }

    fn start_sessions(&mut self, metainfo: &Metainfo, folder: &Path, seeders: &[Ipv4Addr]) -> anyhow::Result<()> {
        for &ip in seeders {
            let mut config = Config::default();
            config.listen.bind = Some(ip.into());
            config.listen.ports = 0..=0;
            let session = Session::new(config)?;
            let mut options = AddOptions::new(folder);
            options.announce = false;
            options.check = Check::ReadOnly;
            let state = session.add(metainfo.clone(), options)?.wait(Duration::from_secs(120));
            ensure!(state == State::Seeding, "a seeder is {state:?}");
            self.peers.push(SocketAddrV4::new(ip, session.port()));
            self.sessions.push(session);
        }
        Ok(())
    }

    fn start_processes(&mut self, folder: &Path, seeders: &[Ipv4Addr]) -> anyhow::Result<()> {
        for &ip in seeders {
            let mut python = Command::new(python());
            python.args(["-c", LIBTORRENT_SEEDER]).arg(&self.torrent).arg(folder).arg(ip.to_string());
            let mut child = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
            let stdout = child.stdout.take().context("the output is a pipe")?;
            self.processes.push(child);
            let mut port = String::new();
            BufReader::new(stdout).read_line(&mut port)?;
            let port = port.trim().parse().context("a libtorrent seeder did not start (pip install libtorrent)")?;
            self.peers.push(SocketAddrV4::new(ip, port));
        }
        Ok(())
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        self.sessions.drain(..).for_each(Session::shutdown);
        for child in &mut self.processes {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Answers every announce with the same peers, so that every leecher meets the same swarm.
fn track(listener: &TcpListener, peers: &[SocketAddrV4]) {
    for stream in listener.incoming() {
        if let Err(error) = stream.and_then(|stream| answer(stream, peers)) {
            eprintln!("tracker: {error}");
        }
    }
}

fn answer(mut stream: TcpStream, peers: &[SocketAddrV4]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut lines = BufReader::new(&stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    lines.find(|line| line.as_ref().is_ok_and(String::is_empty) || line.is_err());
    let mut body = b"d8:intervali1800e5:peers".to_vec();
    if request.contains("event=stopped") {
        body.extend(b"0:");
    } else if request.contains("compact=0") {
        body.push(b'l');
        for (number, peer) in peers.iter().enumerate() {
            let ip = peer.ip().to_string();
            let id = format!("7:peer id20:-XX0000-{number:012}");
            write!(body, "d2:ip{}:{ip}{id}4:porti{}ee", ip.len(), peer.port())?;
        }
        body.push(b'e');
    } else {
        write!(body, "{}:", 6 * peers.len())?;
        peers.iter().for_each(|peer| body.extend([&peer.ip().octets()[..], &peer.port().to_be_bytes()].concat()));
    }
    body.push(b'e');
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), &body].concat())
}

// ---- Runs

/// One download.
struct Run {
    /// Seconds.
    wall: f64,
    user: f64,
    system: f64,
    peak_mib: f64,
    /// Whether the file is the payload.
    right: bool,
    /// How the process ended, if not well.
    status: Option<String>,
}

impl Run {
    fn json(&self) -> serde_json::Value {
        let Self { wall, user, system, peak_mib, right, status } = self;
        json!({"wall": wall, "user": user, "system": system, "peak_mib": peak_mib, "right": right, "status": status})
    }

    fn summary(&self) -> String {
        let Self { wall, user, system, peak_mib, right, status } = self;
        let right = if *right { "right" } else { "WRONG" };
        let status = status.as_deref().unwrap_or_default();
        format!(
            "wall {wall:6.2} s  user {user:5.2} s  system {system:5.2} s  peak {peak_mib:4.0} MiB  {right}  {status}"
        )
    }
}

/// The leecher that runs, so that a signal or the time can end it with all that it started.
#[derive(Clone, Default)]
struct Running(Arc<Mutex<(Option<Pid>, bool)>>);

impl Running {
    fn stop_on_signals(&self) -> anyhow::Result<()> {
        let mut signals =
            signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM])?;
        let running = self.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for _ in signals.forever() {
                running.lock().1 = true;
                running.kill();
            }
        })?;
        Ok(())
    }

    fn stopped(&self) -> bool {
        self.lock().1
    }

    fn kill(&self) {
        if let Some(group) = self.lock().0 {
            kill_process_group(group, Signal::KILL).ok();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Option<Pid>, bool)> {
        self.0.lock().expect("nobody panics while holding it")
    }
}

fn race(racer: &Racer, swarm: &Swarm, folder: &Path, running: &Running, limit: Duration) -> anyhow::Result<Run> {
    let out = tempfile::Builder::new().prefix("out-").tempdir_in(folder)?;
    (racer.prepare)(out.path())?;
    let (usage, log) = (out.path().join("usage"), std::fs::File::create(out.path().join("log"))?);
    let mut command = Command::new("time");
    command.args(["-q", "-f", "%U %S %M", "-o"]).arg(&usage);
    let text = |path: &Path| path.display().to_string();
    command.args(
        racer.command.iter().map(|word| word.replace("{t}", &text(&swarm.torrent)).replace("{o}", &text(out.path()))),
    );
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir(out.path()).process_group(0);

    let start = Instant::now();
    let mut child = command.spawn()?;
    running.lock().0 = Pid::from_raw(child.id().cast_signed());
    let (done, watch) = bounded::<()>(0);
    let status = std::thread::scope(|scope| {
        scope.spawn(|| {
            if watch.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                running.kill();
            }
        });
        let status = child.wait();
        // Its number may be another's from now on.
        running.lock().0 = None;
        drop(done);
        status
    })?;
    let wall = start.elapsed();

    let usage = std::fs::read_to_string(&usage).unwrap_or_default();
    let mut numbers = usage.split_whitespace().map(|number| number.parse().unwrap_or(f64::NAN));
    let mut number = || numbers.next().unwrap_or(f64::NAN);
    let right = same(&out.path().join(PAYLOAD), &swarm.payload).unwrap_or(false);
    let run = Run {
        wall: wall.as_secs_f64(),
        user: number(),
        system: number(),
        peak_mib: number() / 1024.0,
        right,
        status: (!status.success()).then(|| describe(status, wall >= limit)),
    };
    if !right {
        let log = std::fs::read_to_string(out.path().join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].iter().for_each(|line| eprintln!("   {}: {line}", racer.name));
    }
    Ok(run)
}

fn describe(status: ExitStatus, late: bool) -> String {
    match (late, status.signal(), status.code()) {
        (true, ..) => "took too long".into(),
        (_, Some(signal), _) => format!("signal {signal}"),
        // GNU time gives a signal as a shell does.
        (.., Some(code @ 129..)) => format!("signal {}", code - 128),
        (.., code) => format!("exit {}", code.unwrap_or_default()),
    }
}

fn same(path: &Path, payload: &Path) -> std::io::Result<bool> {
    let (mut left, mut right) = (std::fs::File::open(path)?, std::fs::File::open(payload)?);
    if left.metadata()?.len() != right.metadata()?.len() {
        return Ok(false);
    }
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let len = left.read(&mut a)?;
        right.read_exact(&mut b[..len])?;
        if len == 0 || a[..len] != b[..len] {
            return Ok(len == 0);
        }
    }
}

// ---- The report

fn report(args: &Args, dir: &Path, runs: &BTreeMap<String, Vec<Run>>) -> anyhow::Result<()> {
    let gib = args.size as f64 / 1024.0;
    let median = |of: &dyn Fn(&Run) -> f64, runs: &[Run]| {
        let mut values: Vec<_> = runs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let mut rows: Vec<_> = runs
        .iter()
        .map(|(name, runs)| {
            // Of a small payload, wall time is mostly what a client needs to start and to end: it is not made per GiB.
            let [wall, peak] = [|run: &Run| run.wall, |run: &Run| run.peak_mib].map(|of| median(&of, runs));
            let [user, system, cpu] = [|run: &Run| run.user, |run: &Run| run.system, |run: &Run| run.user + run.system]
                .map(|of| median(&of, runs) / gib);
            let right = runs.iter().filter(|run| run.right).count();
            (name, [wall, user, system, cpu, peak], right, runs)
        })
        .collect();
    rows.sort_by(|a, b| a.1[0].total_cmp(&b.1[0]));

    println!(
        "{} MiB, pieces of {} KiB, {} seeder(s) ({:?}), files on {}, {} round(s): medians",
        args.size,
        args.piece,
        args.seeders,
        args.seeder,
        dir.display(),
        args.rounds
    );
    println!(
        "{:18} {:>8} {:>14} {:>16} {:>14} {:>12}",
        "leecher", "wall s", "user s/GiB", "system s/GiB", "cpu s/GiB", "peak MiB"
    );
    for (name, [wall, user, system, cpu, peak], right, runs) in &rows {
        let of = runs.len();
        println!("{name:18} {wall:8.2} {user:14.2} {system:16.2} {cpu:14.2} {peak:12.0}  right {right}/{of}");
    }
    // Among those who did the job.
    let best = |at: usize| {
        let others = rows.iter().filter(|row| row.0 != "ropewalk" && row.2 == row.3.len());
        others.min_by(|a, b| a.1[at].total_cmp(&b.1[at]))
    };
    let ours = rows.iter().find(|row| row.0 == "ropewalk");
    if let (Some(ours), Some(wall), Some(cpu)) = (ours, best(0), best(3)) {
        println!(
            "ropewalk's wall time is {:.2} of {}'s, its CPU time {:.2} of {}'s",
            ours.1[0] / wall.1[0],
            wall.0,
            ours.1[3] / cpu.1[3],
            cpu.0
        );
    }
    if let Some(path) = &args.json {
        let medians: BTreeMap<_, _> = rows
            .iter()
            .map(|(name, [wall, user, system, cpu, peak], right, runs)| {
                let right = *right == runs.len();
                (
                    name,
                    json!({
                        "wall": wall, "user_per_gib": user, "system_per_gib": system, "cpu_per_gib": cpu,
                        "peak_mib": peak, "right": right,
                    }),
                )
            })
            .collect();
        let each: BTreeMap<_, Vec<_>> =
            runs.iter().map(|(name, runs)| (name, runs.iter().map(Run::json).collect())).collect();
        let document = json!({
            "size_mib": args.size, "piece_kib": args.piece, "seeders": args.seeders,
            "seeder": format!("{:?}", args.seeder).to_lowercase(), "rounds": args.rounds, "dir": dir,
            "runs": each, "medians": medians,
        });
        std::fs::write(path, serde_json::to_vec_pretty(&document)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

// ---- The namespace

fn inside() -> bool {
    std::env::var(INSIDE).is_ok_and(|it| it == "1")
}

/// Starts this process again in a network namespace of its own, which ends with it; comes back only where that fails.
fn enter_namespace() -> String {
    let last = HOST.octets()[3] + MOST_SEEDERS as u8;
    let setup = format!(
        "ip link set lo up; ip addr add {HOST}/16 dev lo; \
         for at in $(seq 2 {last}); do echo addr add 10.99.0.$at/32 dev lo; done | ip -batch -"
    );
    let own = if geteuid().is_root() { &["--net"][..] } else { &["--net", "--map-root-user"] };
    let possible = Command::new("unshare").args(own).args(["sh", "-c", &setup]).output();
    match possible {
        Ok(tried) if tried.status.success() => {}
        Ok(tried) => return String::from_utf8_lossy(&tried.stderr).trim().to_owned(),
        Err(error) => return format!("unshare: {error}"),
    }
    let this = match std::env::current_exe() {
        Ok(this) => this,
        Err(error) => return error.to_string(),
    };
    let script = format!("{setup}; exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(own).args(["sh", "-c", &script, "sh"]).arg(this).args(std::env::args_os().skip(1)).env(INSIDE, "1");
    command.exec().to_string()
}
