//! Numbers that the kernel keeps of processes and threads, and what is made of many of them.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// The median and the 99th percentile.
pub(crate) fn percentiles(mut spent: Vec<f64>) -> Value {
    spent.sort_by(f64::total_cmp);
    json!({"median": spent[spent.len() / 2], "p99": spent[spent.len() * 99 / 100]})
}

/// The share of a core, in percent, that this process takes over so many seconds.
pub(crate) fn watch(seconds: f64) -> Value {
    if seconds == 0.0 {
        return Value::Null;
    }
    // What came of the connections is over by then.
    std::thread::sleep(Duration::from_millis(500));
    let (cpu, start) = (nanos(ClockId::ProcessCPUTime), Instant::now());
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let spent = nanos(ClockId::ProcessCPUTime) - cpu;
    json!(spent as f64 / start.elapsed().as_nanos() as f64 * 100.0)
}

/// Nanoseconds that a thread has run, and how often it was put on a processor.
pub(crate) fn ran(schedstat: &Path) -> anyhow::Result<(u64, u64)> {
    let text = std::fs::read_to_string(schedstat).context("ropewalk's thread has ended")?;
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.nth(1)) {
        (Some(Ok(ran)), Some(Ok(times))) => Ok((ran, times)),
        _ => anyhow::bail!("no schedstat: {text}"),
    }
}

/// The most memory that this process had resident so far.
pub(crate) fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| kib / 1024.0)
}

pub(crate) fn nanos(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}
