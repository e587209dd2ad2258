//! When the store is saved, and what came of it: the thread `tracker-save`, which is there where there is a state file. It
//! owns the time between two saves; what is written, and where to, the store knows.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use parking_lot::Mutex;

use super::service::Service;

const STACK: usize = 256 * 1024;

/// How soon a save that failed is tried again, at the latest.
const RETRY: Duration = Duration::from_secs(15);

/// What came of the last save.
#[derive(Debug)]
pub(super) struct Saving {
    /// Written by the thread `tracker-save`, read by whoever looks at the statistics.
    last: Mutex<Last>,
}

/// See [`Saving`].
#[derive(Clone, Debug)]
pub(super) struct Last {
    /// When all that there was had been written, or was known to be.
    pub(super) at: Instant,
    /// Why the last attempt failed, if it did.
    pub(super) error: Option<String>,
}

impl Saving {
    pub(super) fn new(now: Instant) -> Self {
        Self { last: Mutex::new(Last { at: now, error: None }) }
    }

    pub(super) fn last(&self) -> Last {
        self.last.lock().clone()
    }

    /// Takes note of how an attempt ended, and says so in the log where it ended in another way than the one before.
    fn note(&self, result: Result<(), io::Error>, now: Instant) {
        let error = result.err().map(|error| error.to_string());
        let before = {
            let mut last = self.last.lock();
            if error.is_none() {
                last.at = now;
            }
            std::mem::replace(&mut last.error, error.clone())
        };
        match error {
            Some(error) if before.as_ref() != Some(&error) => log::warn!("tracker: its state is not saved: {error}"),
            None if before.is_some() => log::info!("tracker: its state is saved again"),
            _ => {}
        }
    }
}

/// How long to wait for the next save, after one that ended so.
fn pause(every: Duration, last: &io::Result<()>) -> Duration {
    if last.is_ok() { every } else { every.min(RETRY) }
}

/// Starts the thread, which ends with the service's interrupt.
pub(super) fn start(service: &Arc<Service>) -> io::Result<JoinHandle<()>> {
    let service = service.clone();
    let run = move || {
        let every = service.config.state_interval;
        // Not what there is now: the servers may have run for a moment.
        let (mut saved, mut wait) = (0, every);
        while service.interrupt.signal().recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
            let now = Instant::now();
            // Before the save: what changes meanwhile is saved the next time.
            let changes = service.store.changes();
            let result = if changes == saved { Ok(()) } else { service.store.save(now) };
            wait = pause(every, &result);
            if result.is_ok() {
                saved = changes;
            }
            service.saving.note(result, now);
        }
    };
    thread::Builder::new().name("tracker-save".into()).stack_size(STACK).spawn(run)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use super::{RETRY, pause};

    #[test]
    fn what_failed_is_tried_again_soon_and_no_more_often_than_it_is_saved() {
        let failed = Err(io::Error::other("no room"));
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(300));
        assert_eq!([pause(long, &Ok(())), pause(long, &failed), pause(short, &failed)], [long, RETRY, short]);
    }
}
