//! A rate limit that threads wait at.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::policy::Bucket;

/// A rate limit shared by threads. Without a limit it costs one load.
pub(crate) struct Valve {
    limited: AtomicBool,
    /// Counts the changes of the rate, so that those who wait at the old one stop waiting.
    changes: AtomicU32,
    /// Locked to take a share or to change the rate, never while waiting.
    bucket: Mutex<Bucket>,
}

impl Valve {
    /// A limit of `rate` bytes per second; `None` for no limit.
    pub(crate) fn new(rate: Option<u64>) -> Self {
        Self {
            limited: AtomicBool::new(rate.is_some()),
            changes: AtomicU32::new(0),
            bucket: Mutex::new(Bucket::new(rate)),
        }
    }

    /// The limit in bytes per second.
    pub(crate) fn rate(&self) -> Option<u64> {
        self.bucket.lock().rate()
    }

    /// Changes the limit.
    pub(crate) fn set_rate(&self, rate: Option<u64>, now: Instant) {
        self.bucket.lock().set_rate(rate, now);
        self.limited.store(rate.is_some(), Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// How often the rate was changed. A wait given out before a change is void after it.
    pub(crate) fn changes(&self) -> u32 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Takes a share of `bytes` and says how long to wait before (or after) using it.
    pub(crate) fn take(&self, bytes: u64, now: Instant) -> Duration {
        if !self.limited.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        self.bucket.lock().take(bytes, now)
    }
}
