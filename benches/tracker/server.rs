//! The process of the tracker that is measured.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use ropewalk::tracker::{RequestLimits, Tracker, TrackerConfig};

use crate::args::Args;

/// A tracker. Dropping it ends the process, if it was started here.
pub(crate) struct Server {
    http: Option<SocketAddr>,
    udp: Option<SocketAddr>,
    pid: Option<u32>,
    child: Option<Child>,
}

impl Server {
    /// Starts one.
    pub(crate) fn start(args: &Args) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--serve").stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(workers) = args.workers {
            command.args(["--workers", &workers.to_string()]);
        }
        let mut child = command.spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("the tracker's output")?).read_line(&mut line)?;
        let (http, udp) = line.trim().split_once(' ').context("the tracker has not started")?;
        Ok(Self { http: Some(http.parse()?), udp: Some(udp.parse()?), pid: Some(child.id()), child: Some(child) })
    }

    /// One that runs already.
    pub(crate) fn running(udp: SocketAddr, pid: Option<u32>) -> Self {
        Self { http: None, udp: Some(udp), pid, child: None }
    }

    pub(crate) fn http(&self) -> SocketAddr {
        self.http.expect("one that was started here serves HTTP")
    }

    pub(crate) fn udp(&self) -> SocketAddr {
        self.udp.expect("every one that is asked for it serves UDP")
    }

    /// Its resident memory in bytes, where that can be known.
    pub(crate) fn resident(&self) -> anyhow::Result<Option<u64>> {
        let Some(pid) = self.pid else { return Ok(None) };
        if !cfg!(target_os = "linux") {
            return Ok(None);
        }
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(Some(kib << 10))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Its input ends.
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }
}

/// The tracker: says where it is, and runs until its input ends.
pub(crate) fn serve(args: &Args) -> anyhow::Result<()> {
    let limits = RequestLimits {
        connections_per_address: 20_000,
        idle_time: Duration::from_secs(600),
        ..RequestLimits::default()
    };
    let loopback = vec![(Ipv4Addr::LOCALHOST, 0).into()];
    let config = TrackerConfig {
        http: loopback.clone(),
        udp: loopback,
        limits,
        workers: args.workers,
        ..TrackerConfig::default()
    };
    let tracker = Tracker::with(config)?;
    println!("{} {}", tracker.http()[0], tracker.udp()[0]);
    io::stdout().flush()?;
    io::stdin().read_line(&mut String::new())?;
    Ok(())
}
