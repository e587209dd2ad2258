//! The threads of a session: named, counted against a cap, and joined.
//!
//! It owns the join handles and the cap, so that reaching it is an answer to the caller and never a crash, and so that
//! nothing outlives the session. It does not know what the threads do, nor how to wake them: whoever starts a thread can.

use std::io;
use std::thread::{Builder, JoinHandle};

use parking_lot::Mutex;

/// A set of threads that end together.
pub(crate) struct Crew {
    /// Every thread started and not yet seen to have ended. Held only to look and to push, never while joining.
    members: Mutex<Members>,
    cap: usize,
}

#[derive(Default)]
struct Members {
    handles: Vec<JoinHandle<()>>,
    /// How many handles there are when those of ended threads are next let go, and their stacks with them.
    sweep_at: usize,
}

/// Handles beyond twice the living threads that are let go of together.
const SWEEP: usize = 32;

/// Why a thread did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoThread {
    /// The configured cap is reached.
    #[error("the cap of {0} threads is reached (raise `max_threads` to allow more)")]
    Cap(usize),
    /// The operating system refused.
    #[error("the operating system gave no thread: {0}")]
    System(#[from] io::Error),
}

impl Crew {
    /// A crew of at most `cap` threads at a time.
    pub(crate) fn new(cap: usize) -> Self {
        Self { members: Mutex::default(), cap }
    }

    /// Starts a thread with a stack of `stack` bytes.
    pub(crate) fn spawn(
        &self,
        name: String,
        stack: usize,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<(), NoThread> {
        let mut members = self.members.lock();
        let Members { handles, sweep_at } = &mut *members;
        if handles.len() >= (*sweep_at).min(self.cap) {
            handles.retain(|member| !member.is_finished());
            *sweep_at = 2 * handles.len() + SWEEP;
        }
        if handles.len() >= self.cap {
            return Err(NoThread::Cap(self.cap));
        }
        handles.push(Builder::new().name(name).stack_size(stack).spawn(work)?);
        Ok(())
    }

    /// Joins every thread, those that are started meanwhile included. The caller has told them to end.
    pub(crate) fn join(&self) {
        loop {
            let members = std::mem::take(&mut self.members.lock().handles);
            if members.is_empty() {
                return;
            }
            for member in members {
                let name = member.thread().name().unwrap_or("?").to_owned();
                if member.join().is_err() {
                    log::error!("thread {name} panicked");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Crew, NoThread};
    use crossbeam_channel::bounded;

    #[test]
    fn the_cap_refuses_and_an_ended_thread_makes_room() {
        let crew = Crew::new(1);
        let (stop, wait) = bounded::<()>(0);
        crew.spawn("first".into(), 65536, move || wait.recv().map_or((), drop)).unwrap();
        assert!(matches!(crew.spawn("second".into(), 65536, || ()), Err(NoThread::Cap(1))));
        drop(stop);
        crew.join();
        crew.spawn("third".into(), 65536, || ()).unwrap();
        crew.join();
    }
}
