//! Ctrl-C: the first asks everything to end in order, the second ends the process.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use super::exit::Code;

/// Whether to stop. Clones are the same one.
#[derive(Clone)]
pub struct Stop {
    flag: Arc<AtomicBool>,
    /// Disconnected by the first signal.
    asked: Receiver<()>,
    /// Told of SIGHUP instead of stopping, where somebody wants that. Locked to say so, and at each signal.
    hangups: Arc<Mutex<Option<Sender<()>>>>,
    handle: Handle,
    /// Folders that the second signal removes before it ends the process. Locked to add one and then.
    temporary: Arc<Mutex<Vec<PathBuf>>>,
}

impl Stop {
    /// Listens for SIGINT, SIGTERM and SIGHUP (a closed terminal) from now on.
    pub fn on_signals() -> io::Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        // `nohup` ignores it for us, and is right.
        if !is_ignored(SIGHUP) {
            signals.add_signal(SIGHUP)?;
        }
        let (ask, asked) = bounded::<()>(0);
        let handle = signals.handle();
        let stop = Self { flag: Arc::default(), asked, hangups: Arc::default(), handle, temporary: Arc::default() };
        let theirs = stop.clone();
        // Not joined: it waits for signals until the process ends.
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            let mut ask = Some(ask);
            for signal in signals.forever() {
                let hangups = theirs.hangups.lock().clone().filter(|_| signal == SIGHUP);
                if let Some(hangups) = hangups {
                    hangups.try_send(()).ok();
                    continue;
                }
                if ask.take().is_none() {
                    theirs.temporary.lock().iter().for_each(|folder| drop(std::fs::remove_dir_all(folder)));
                    std::process::exit(Code::Stopped as i32);
                }
                theirs.flag.store(true, Ordering::Release);
            }
        })?;
        Ok(stop)
    }

    /// Becomes true when it is time to stop.
    pub fn flag(&self) -> &AtomicBool {
        &self.flag
    }

    pub fn is_asked(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    /// Waits so long, or until it is time to stop, which `true` says.
    pub fn wait(&self, timeout: Duration) -> bool {
        matches!(self.asked.recv_timeout(timeout), Err(RecvTimeoutError::Disconnected)) || self.is_asked()
    }

    /// Disconnected when it is time to stop.
    pub fn asked(&self) -> &Receiver<()> {
        &self.asked
    }

    /// SIGHUP means something else from now on than to stop, even where the process was told to ignore it (`nohup`).
    pub fn hangups(&self) -> io::Result<Receiver<()>> {
        let (sender, hangups) = bounded(1);
        *self.hangups.lock() = Some(sender);
        self.handle.add_signal(SIGHUP)?;
        Ok(hangups)
    }

    /// A folder that is removed even where the process is ended by a second signal.
    pub fn removes(&self, folder: &Path) {
        self.temporary.lock().push(folder.to_path_buf());
    }
}

/// Whether whoever started the process ignores a signal for it, where the system tells.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
