//! The machine that the numbers come from, in words, and whether its file systems have room.

use std::path::Path;

use anyhow::ensure;
use serde_json::{Value, json};

/// Processor features, as Linux calls them, that make hashing quick.
const HASHING: [&str; 3] = ["sha_ni", "avx2", "avx512bw"];

/// What a reader has to know to compare.
pub(crate) struct Machine {
    cpu: String,
    /// Those of [`HASHING`] that it has.
    hashing: Vec<&'static str>,
    cores: usize,
    memory_gib: f64,
    kernel: String,
    /// Runnable threads over the last minute, before the race: others' work is in the wall times.
    load: f64,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let cpus = read("/proc/cpuinfo");
        let flags = after(&cpus, "flags").unwrap_or_default();
        let model = after(&cpus, "model name").unwrap_or_else(|| std::env::consts::ARCH.into());
        let hashing = HASHING.iter().filter(|name| flags.split(' ').any(|flag| flag == **name));
        let number = |text: Option<&str>| text.and_then(|text| text.parse().ok()).unwrap_or(f64::NAN);
        let memory = after(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        Self {
            cpu: model,
            hashing: hashing.copied().collect(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: number(memory.split(' ').next()) / f64::from(1 << 20),
            kernel: [read("/proc/sys/kernel/ostype").trim(), read("/proc/sys/kernel/osrelease").trim()].join(" "),
            load: number(read("/proc/loadavg").split(' ').next()),
        }
    }

    pub(crate) fn describe(&self) -> String {
        let Self { cpu, hashing, cores, memory_gib, kernel, load } = self;
        let hashing = if hashing.is_empty() { String::new() } else { format!(" ({})", hashing.join(", ")) };
        format!("{cpu}{hashing}, {cores} cores, {memory_gib:.0} GiB, {kernel}, load before {load:.1}")
    }

    pub(crate) fn json(&self) -> Value {
        let Self { cpu, hashing, cores, memory_gib, kernel, load } = self;
        json!({"cpu": cpu, "hashing": hashing, "cores": cores, "memory_gib": memory_gib, "kernel": kernel, "load_before": load})
    }
}

/// The kind of file system that holds a folder, as the kernel calls it.
pub(crate) fn file_system(folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.into());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut words = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    let holding = |at: &str| folder.starts_with(at);
    // Of two at the same place the later one is on top.
    let longest = words.by_ref().filter(|(at, _)| holding(at)).max_by_key(|(at, _)| at.len());
    longest.map_or_else(|| "an unknown file system".into(), |(_, kind)| kind.into())
}

/// Fails where a folder's file system has no room for so many bytes.
pub(crate) fn ensure_room(folder: &Path, bytes: u64) -> anyhow::Result<()> {
    let stat = rustix::fs::statvfs(folder)?;
    let free = stat.f_bavail * stat.f_frsize;
    ensure!(
        free >= bytes,
        "{} has room for {} MiB, and the race needs {}: choose a smaller --size, or other folders by --output, --payload",
        folder.display(),
        free >> 20,
        bytes >> 20
    );
    Ok(())
}
