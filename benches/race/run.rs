//! One download by one client, measured from outside: nothing of the measuring is in the client's own numbers.
//!
//! CPU times come from /proc when the process has ended and is not yet reaped, with all that it waited for. The peak of
//! resident memory is the kernel's own mark of it, read every few milliseconds while the process lives.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::Context;
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use rustix::fs::syncfs;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::clients::Racer;
use crate::namespace;
use crate::swarm::{PAYLOAD, Swarm};

/// How often a running client is looked at, before its first bytes and after.
const SAMPLE_FIRST: Duration = Duration::from_millis(2);
const SAMPLE: Duration = Duration::from_millis(10);
/// Traffic that is more than greetings and bitfields.
const FIRST_BYTES: u64 = 1 << 20;

/// One download. Times are in seconds; what could not be measured is not a number.
pub(crate) struct Run {
    pub(crate) wall: f64,
    pub(crate) user: f64,
    pub(crate) system: f64,
    pub(crate) peak_mib: f64,
    /// Until the first MiB had moved.
    pub(crate) first: f64,
    /// How long the file system took, after the client had ended, to put all on its disk.
    pub(crate) flush: f64,
    /// Whether the file is the payload.
    pub(crate) right: bool,
    /// How the process ended, if not well.
    pub(crate) status: Option<String>,
}

impl Run {
    /// A client that could not even be started.
    fn failed(error: &anyhow::Error) -> Self {
        let [wall, user, system, peak_mib, first, flush] = [f64::NAN; 6];
        Self { wall, user, system, peak_mib, first, flush, right: false, status: Some(format!("{error:#}")) }
    }

    pub(crate) fn json(&self) -> Value {
        let Self { wall, user, system, peak_mib, first, flush, right, status } = self;
        json!({
            "wall": wall, "user": user, "system": system, "peak_mib": peak_mib, "first_mib": first, "flush": flush,
            "right": right, "status": status,
        })
    }

    pub(crate) fn summary(&self) -> String {
        let Self { wall, user, system, peak_mib, right, status, .. } = self;
        let right = if *right { "right" } else { "WRONG" };
        let status = status.as_deref().unwrap_or_default();
        format!(
            "wall {wall:6.2} s  user {user:5.2} s  system {system:5.2} s  peak {peak_mib:4.0} MiB  {right}  {status}"
        )
    }
}

/// What all runs share.
pub(crate) struct Course<'a> {
    pub(crate) swarm: &'a Swarm,
    /// Where the clients' folders are made.
    pub(crate) folder: &'a Path,
    pub(crate) limit: Duration,
    /// Whether a link counts every byte twice, so that the first ones cannot be seen in the traffic.
    pub(crate) linked: bool,
    pub(crate) running: Running,
}

impl Course<'_> {
    /// Runs a client; whatever goes wrong is in the result.
    pub(crate) fn run(&self, racer: &Racer) -> Run {
        self.try_run(racer).unwrap_or_else(|error| Run::failed(&error))
    }

    fn try_run(&self, racer: &Racer) -> anyhow::Result<Run> {
        let out = tempfile::Builder::new().prefix("out-").tempdir_in(self.folder)?;
        (racer.prepare)(out.path())?;
        // What the client before left to be written is not this one's to wait for.
        let folder = File::open(out.path())?;
        syncfs(&folder)?;
        let mut command = self.command(racer, out.path())?;

        let start = Instant::now();
        let mut child = command.spawn().with_context(|| format!("cannot start {}", racer.command[0]))?;
        let pid = Pid::from_child(&child);
        self.running.lock().0 = Some(pid);
        let mut watch = Watch { pid, start, peak_kib: f64::NAN, first: f64::NAN };
        let (done, ended) = bounded::<()>(0);
        let (wall, user, system) = std::thread::scope(|scope| {
            scope.spawn(|| watch.watch(self, &ended));
            // Not reaped yet: /proc has its times, and its number is nobody else's.
            let waited = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            let wall = start.elapsed();
            let [user, system] = cpu(pid).unwrap_or([f64::NAN; 2]);
            self.running.lock().0 = None;
            drop(done);
            waited.map(|_| (wall, user, system))
        })?;
        let status = child.wait()?;
        let flushing = Instant::now();
        syncfs(&folder)?;
        let flush = flushing.elapsed().as_secs_f64();

        let right = same(&out.path().join(PAYLOAD), &self.swarm.payload).unwrap_or(false);
        if !right {
            let log = std::fs::read_to_string(out.path().join("log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            lines[lines.len().saturating_sub(5)..].iter().for_each(|line| eprintln!("   {}: {line}", racer.name));
        }
        let status = describe(status, wall >= self.limit).or((!right).then(|| "wrong file".to_owned()));
        let (peak_mib, first, wall) = (watch.peak_kib / 1024.0, watch.first, wall.as_secs_f64());
        Ok(Run { wall, user, system, peak_mib, first, flush, right, status })
    }

    fn command(&self, racer: &Racer, out: &Path) -> anyhow::Result<Command> {
        let text = |path: &Path| path.display().to_string();
        let port = std::net::TcpListener::bind((namespace::host(), 0))?.local_addr()?.port().to_string();
        let (torrent, folder) = (text(&self.swarm.torrent), text(out));
        let mut words = racer
            .command
            .iter()
            .map(|word| word.replace("{t}", &torrent).replace("{o}", &folder).replace("{p}", &port));
        let mut command = Command::new(words.next().context("a client has no command")?);
        let log = File::create(out.join("log"))?;
        command.args(words).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Nothing of one run is to help or hinder the next, nor to be left in the user's own folders.
        command.env("XDG_STATE_HOME", out.join("state"));
        command.current_dir(out).process_group(0);
        Ok(command)
    }
}

/// The leecher that runs, so that a signal or the time can end it with all that it started.
#[derive(Clone, Default)]
pub(crate) struct Running(Arc<Mutex<(Option<Pid>, bool)>>);

impl Running {
    /// The first signal ends the leecher and with it the race, the second one the process.
    pub(crate) fn stop_on_signals(&self) -> anyhow::Result<()> {
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let running = self.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for _ in signals.forever() {
                if std::mem::replace(&mut running.lock().1, true) {
                    // Asked twice. Seeders and links end with their input.
                    std::process::exit(130);
                }
                running.kill();
            }
        })?;
        Ok(())
    }

    pub(crate) fn stopped(&self) -> bool {
        self.lock().1
    }

    /// Under the lock, so that the number is still this client's.
    fn kill(&self) {
        if let Some(group) = self.lock().0 {
            kill_process_group(group, Signal::KILL).ok();
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Option<Pid>, bool)> {
        self.0.lock().expect("nobody panics while holding it")
    }
}

/// What is seen of a client while it runs.
struct Watch {
    pid: Pid,
    start: Instant,
    peak_kib: f64,
    first: f64,
}

impl Watch {
    /// Looks until the run has ended, and ends one that takes too long.
    fn watch(&mut self, course: &Course<'_>, ended: &Receiver<()>) {
        let status = format!("/proc/{}/status", self.pid.as_raw_nonzero());
        // Elsewhere the traffic is everybody's.
        let before = if namespace::inside() && !course.linked { traffic() } else { None };
        loop {
            let interval = if before.is_some() && self.first.is_nan() { SAMPLE_FIRST } else { SAMPLE };
            if ended.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            if let Some(peak) = std::fs::read_to_string(&status).ok().and_then(|status| field(&status, "VmHWM:")) {
                self.peak_kib = self.peak_kib.max(peak);
            }
            if self.first.is_nan()
                && before.zip(traffic()).is_some_and(|(before, now)| now.saturating_sub(before) >= FIRST_BYTES)
            {
                self.first = self.start.elapsed().as_secs_f64();
            }
            if self.start.elapsed() >= course.limit {
                course.running.kill();
            }
        }
    }
}

/// The number that follows a word.
fn field(text: &str, name: &str) -> Option<f64> {
    text.split_once(name)?.1.split_whitespace().next()?.parse().ok()
}

/// Bytes that the namespace's loopback interface has carried.
fn traffic() -> Option<u64> {
    let interfaces = std::fs::read_to_string("/proc/thread-self/net/dev").ok()?;
    interfaces.split_once("lo:")?.1.split_whitespace().next()?.parse().ok()
}

/// User and system seconds of a process that has ended, and of those that it waited for (proc_pid_stat(5): fields 14 to 17).
fn cpu(pid: Pid) -> Option<[f64; 2]> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The second field is a name that may hold anything, in parentheses; the third comes next.
    let fields: Vec<f64> =
        stat.rsplit_once(')')?.1.split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect();
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let of = |number: usize| fields.get(number - 3).copied();
    Some([(of(14)? + of(16)?) / ticks, (of(15)? + of(17)?) / ticks])
}

fn describe(status: ExitStatus, late: bool) -> Option<String> {
    if status.success() {
        return None;
    }
    Some(match (late, status.signal(), status.code()) {
        (true, ..) => "took too long".into(),
        (_, Some(signal), _) => format!("ended by signal {signal}"),
        (.., code) => format!("exit code {}", code.unwrap_or_default()),
    })
}

fn same(path: &Path, payload: &Path) -> std::io::Result<bool> {
    let (mut left, mut right) = (File::open(path)?, File::open(payload)?);
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
