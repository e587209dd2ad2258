//! A tracker under load, beside the generator on the same machine.

mod http;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::Parser;
use ropewalk::tracker::{RequestLimits, Tracker, TrackerConfig};

use http::{Floor, Load};

#[derive(Parser)]
struct Args {
    /// How long each measurement takes.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Puts load on another tracker, at this address, over HTTP alone.
    #[arg(long)]
    against: Option<SocketAddr>,
    /// Prints info-hashes of the torrents that are announced, for a tracker's list.
    #[arg(long)]
    info_hashes: bool,
    /// Is the tracker, until standard input ends.
    #[arg(long, hide = true)]
    serve: bool,
    #[arg(long, hide = true)]
    bench: bool,
    #[arg(long, hide = true)]
    test: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if args.serve {
        let limits = RequestLimits {
            connections_per_address: 20_000,
            idle_time: Duration::from_secs(600),
            ..RequestLimits::default()
        };
        let config = TrackerConfig {
            http: vec![([127, 0, 0, 1], 0).into()],
            udp: Vec::new(),
            limits,
            ..TrackerConfig::default()
        };
        let tracker = Tracker::with(config)?;
        println!("{}", tracker.addr());
        std::io::stdin().read_to_end(&mut Vec::new())?;
        return Ok(());
    }
    if args.info_hashes {
        for hash in http::info_hashes() {
            println!("{}", ropewalk::InfoHash::new(hash));
        }
        return Ok(());
    }
    let time = Duration::from_secs_f64(args.seconds);
    let load = |tracker, rate, reconnect| Load { tracker, connections: args.connections, time, rate, reconnect };
    let report = |what: &str, load: Load| -> anyhow::Result<_> {
        let outcome = http::run(load)?;
        println!(
            "{what}: {:.0}/s, p50 {:?} p99 {:?}",
            outcome.per_second,
            outcome.percentile(50),
            outcome.percentile(99)
        );
        Ok(outcome)
    };
    if let Some(addr) = args.against {
        report("reconnect", load(addr, None, true))?;
        report("keep-alive", load(addr, None, false))?;
        return Ok(());
    }
    let mut served = Served::start()?;
    let keep = report("keep-alive", load(served.addr, None, false))?;
    let floor = Floor::start(&keep.answer, 2)?;
    println!("answer of {} bytes", keep.answer.len());
    let most = report("floor", load(floor.addr, None, false))?;
    println!("{:.2} of it", keep.per_second / most.per_second);
    drop(floor);
    report("half", load(served.addr, Some(keep.per_second / 2.0), false))?;
    report("reconnect", load(served.addr, None, true))?;
    let before = served.resident();
    let held = http::idle(served.addr, 9_000)?;
    println!("{} idle: {} KiB more", held.len(), served.resident().saturating_sub(before) >> 10);
    std::io::stdout().flush()?;
    Ok(())
}

struct Served {
    child: Child,
    addr: SocketAddr,
}

impl Served {
    fn start() -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.arg("--serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line)?;
        Ok(Self { child, addr: line.trim().parse()? })
    }

    fn resident(&mut self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let kib = |line: &str| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok();
        status.lines().find_map(kib).unwrap_or(0) * 1024
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
