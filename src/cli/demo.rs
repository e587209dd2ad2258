//! `ropewalk demo`: a whole swarm on this machine, with real sockets and files.
//!
//! It owns a temporary folder and removes it, whatever happens.

use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use ropewalk::create::{CreateOptions, create};
use ropewalk::tracker::Tracker;
use ropewalk::verify::{VerifyError, verify};
use ropewalk::{AddOptions, Check, Config, Metainfo, Session, State, Torrent};

use super::exit::{Code, failed};
use super::hashing::hashing;
use super::json::Json;
use super::screen::{DRAW, Screen, show};
use super::signal::Stop;
use super::words::{count, part, percent, rate, read_size, size, time};

/// The files of the payload, and how much of it each is, in thousandths.
const FILES: [(&str, u64); 6] = [
    ("strand-1.bin", 500),
    ("strand-2.bin", 300),
    ("yarns/hemp.bin", 149),
    ("yarns/flax.bin", 50),
    ("yarns/thread.bin", 1),
    ("yarns/empty", 0),
];
const SEEDERS: usize = 2;
const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// How often the download is looked at.
const LOOK: Duration = Duration::from_millis(10);

const ABOUT: &str = "\
Show a whole swarm at work on this machine

Makes some files, a torrent of them, and a small tracker; lets two sessions seed and a third one download over real \
sockets on 127.0.0.1; verifies every byte and removes everything. Nothing leaves this machine. It takes seconds, and \
room for the files twice in the temporary folder (TMPDIR).";

/// Show a whole swarm at work on this machine
#[derive(clap::Args)]
#[command(long_about = ABOUT)]
pub struct Args {
    /// How much to download
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = read_size)]
    size: u64,
}

pub fn run(args: &Args, screen: &Screen, stop: &Stop) -> anyhow::Result<Code> {
    let parent = std::env::temp_dir();
    if args.size == 0 {
        return Err(failed(Code::Usage, "--size 0 leaves nothing to download; choose more"));
    }
    look(args.size, &parent)?;
    let folder = tempfile::Builder::new().prefix("ropewalk-demo-").tempdir_in(&parent);
    let folder =
        folder.with_context(|| format!("no temporary folder in {}; set TMPDIR to another", parent.display()))?;
    stop.removes(folder.path());
    let result = swarm(args, folder.path(), screen, stop);
    let path = folder.path().to_path_buf();
    folder.close().with_context(|| format!("cannot remove {}; please do", path.display()))?;
    match result {
        Ok(()) => {
            step(screen, "removed", &path.display().to_string())?;
            Ok(Code::Done)
        }
        Err(error) if stop.is_asked() => {
            log::info!("{error:#}");
            Err(failed(Code::Stopped, format!("stopped; {} is removed", path.display())))
        }
        Err(error) => Err(error),
    }
}

fn swarm(args: &Args, folder: &Path, screen: &Screen, stop: &Stop) -> anyhow::Result<()> {
    let (theirs, ours) = (folder.join("seeders"), folder.join("downloader"));
    let (began, json, how) = (Instant::now(), Json::new(false), hashing()?);
    let work = screen.work("payload", &json);
    make_payload(&theirs.join("rope"), args.size, &|done, total| work.at(done, total), stop)
        .with_context(|| format!("cannot make the files in {}; choose less with --size", folder.display()))?;
    work.finish();
    let files = count(FILES.len(), "file", "files");
    step(screen, "payload", &format!("{} in {files}, {}", size(args.size), folder.display()))?;

    let tracker = Tracker::start(SocketAddr::new(LOCAL, 0)).context("cannot listen on 127.0.0.1")?;
    let trackers = vec![vec![tracker.announce_url()]];
    let options = CreateOptions { trackers, hashing: how, ..CreateOptions::default() };
    let hashing = screen.work("torrent", &json);
    let created = create(&theirs.join("rope"), &options, &|done, total| hashing.at(done, total), stop.flag())?;
    let (took, metainfo) = (hashing.finish(), created.metainfo);
    let layout = metainfo.layout();
    let pieces = format!(
        "{} of {}",
        count(layout.piece_count() as usize, "piece", "pieces"),
        size(layout.piece_length().into())
    );
    let speed = per_second(args.size, took);
    step(screen, "torrent", &metainfo.info_hash().to_string())?;
    step(screen, "", &format!("{pieces}, hashed at {speed}"))?;
    step(screen, "tracker", &tracker.announce_url())?;

    let mut seeders = Vec::new();
    for _ in 0..SEEDERS {
        seeders.push(seeder(&metainfo, &theirs, stop)?);
    }
    let ports: Vec<_> = seeders.iter().map(|(session, _)| format!("127.0.0.1:{}", session.port())).collect();
    step(screen, "seeders", &ports.join(" and "))?;

    let downloader = Session::new(local()?)?;
    let begun = Instant::now();
    let torrent = downloader.add(metainfo.clone(), AddOptions::new(&ours))?;
    let threads = follow(&torrent, screen, stop)?;
    let took = begun.elapsed();
    let stats = torrent.stats();
    let speed = per_second(stats.wanted, took);
    step(screen, "download", &format!("{} in {}, {speed}", size(stats.wanted), time(took)))?;
    for ((_, seeder), port) in seeders.iter().zip(&ports) {
        step(screen, "", &format!("{} from {port}", size(sent(seeder, &seeders, stats.wanted, stop))))?;
    }
    if let Some(threads) = threads {
        step(screen, "threads", &format!("{threads} at most: the tracker's, the sessions', two for each connection"))?;
    }
    downloader.shutdown();
    drop(seeders);

    let hashing = screen.work("verify", &json);
    let report = verify(&metainfo, &ours, how, &|done, total| hashing.at(done, total), stop.flag());
    hashing.finish();
    let report = report.map_err(|error| match error {
        VerifyError::Stopped => failed(Code::Stopped, "stopped"),
        other => other.into(),
    })?;
    if !report.is_right() {
        let text = "the downloaded files are not right, which should never happen; please report it";
        return Err(failed(Code::WrongData, text));
    }
    step(screen, "verified", &format!("{files}, every byte is right; {} in all", time(began.elapsed())))?;
    Ok(())
}

/// Whether there is room for the files twice: a demo must not fill a disk first and fail then.
fn look(len: u64, parent: &Path) -> anyhow::Result<()> {
    let Ok(about) = rustix::fs::statvfs(parent) else { return Ok(()) };
    let (needed, free) = (len.saturating_mul(2), about.f_bavail.saturating_mul(about.f_frsize));
    if needed <= free {
        return Ok(());
    }
    let text = format!("the demo needs {} in {}, which has {} free", size(needed), parent.display(), size(free));
    Err(failed(Code::Disk, text + "; choose less with --size, or another folder with TMPDIR"))
}

/// A line of the account.
fn step(screen: &Screen, what: &str, text: &str) -> anyhow::Result<()> {
    screen.print(&format!("{what:<9} {text}"))
}

fn make_payload(folder: &Path, total: u64, progress: &dyn Fn(u64, u64), stop: &Stop) -> std::io::Result<()> {
    std::fs::create_dir_all(folder.join("yarns"))?;
    let mut random = fastrand::Rng::new();
    let mut chunk = vec![0; 1 << 20];
    let mut done = 0;
    for (at, (name, share)) in FILES.iter().enumerate() {
        // The first file takes what rounding leaves, so that the sum is right.
        let others: u64 = FILES[1..].iter().map(|(_, share)| total / 1000 * share).sum();
        let mut left = if at == 0 { total - others } else { total / 1000 * share };
        let mut file = File::create(folder.join(name))?;
        while left > 0 {
            if stop.is_asked() {
                return Err(std::io::Error::other("stopped"));
            }
            let len = left.min(chunk.len() as u64) as usize;
            random.fill(&mut chunk[..len]);
            file.write_all(&chunk[..len])?;
            left -= len as u64;
            done += len as u64;
            progress(done, total);
        }
    }
    Ok(())
}

/// A configuration that keeps to this machine.
fn local() -> anyhow::Result<Config> {
    let mut config = Config::default();
    config.dht.enabled = false;
    config.listen.bind = Some(LOCAL.into());
    config.listen.ports = 0..=0;
    config.resources.hashing = hashing()?.backend;
    Ok(config)
}

fn seeder(metainfo: &Metainfo, data: &Path, stop: &Stop) -> anyhow::Result<(Session, Torrent)> {
    let session = Session::new(local()?)?;
    let options = AddOptions { check: Check::ReadOnly, ..AddOptions::new(data) };
    let torrent = session.add(metainfo.clone(), options)?;
    loop {
        match torrent.wait(LOOK) {
            State::Seeding => return Ok((session, torrent)),
            State::Failed(failure) => return Err(failed(Code::Disk, failure.message.to_string())),
            _ if stop.is_asked() => return Err(failed(Code::Stopped, "stopped")),
            _ => {}
        }
    }
}

/// What a seeder has sent. Its numbers are published a few times a second: waits until all of it has been counted.
fn sent(seeder: &Torrent, all: &[(Session, Torrent)], wanted: u64, stop: &Stop) -> u64 {
    let patience = Instant::now() + Duration::from_secs(1);
    let counted = || all.iter().map(|(_, torrent)| torrent.stats().uploaded).sum::<u64>() >= wanted;
    while !counted() && Instant::now() < patience && !stop.wait(LOOK) {}
    seeder.stats().uploaded
}

/// Waits for the end of the download and draws its bar. Gives the most threads there were.
fn follow(torrent: &Torrent, screen: &Screen, stop: &Stop) -> anyhow::Result<Option<usize>> {
    let bar = screen.is_live().then(|| screen.bar("download"));
    let mut drawn = Instant::now();
    let mut most = None;
    let result = loop {
        let stats = torrent.stats();
        most = most.max(threads());
        match &stats.state {
            State::Seeding => break Ok(()),
            State::Failed(failure) => break Err(failed(Code::Disk, failure.message.to_string())),
            _ => {}
        }
        if let Some(bar) = &bar
            && drawn.elapsed() >= DRAW
        {
            drawn = Instant::now();
            let fields = [
                format!("{:>3} %", percent(stats.done, stats.wanted)),
                format!("{:>11}", rate(stats.down_rate)),
                count(stats.peers, "peer", "peers"),
                part(stats.done, stats.wanted),
            ];
            show(bar, stats.done, stats.wanted, &fields);
        }
        if stop.wait(LOOK) {
            break Err(failed(Code::Stopped, "stopped"));
        }
    };
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    result.map(|()| most)
}

/// The threads of this process, where the system tells.
fn threads() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/task").ok()?.count())
}

fn per_second(bytes: u64, took: Duration) -> String {
    rate((bytes as f64 / took.as_secs_f64().max(0.001)) as u64)
}
