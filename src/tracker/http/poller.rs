//! Waits for many sockets at once: by epoll on Linux, by poll(2) elsewhere. It owns the difference between the two, and
//! knows sockets by the numbers that it was given for them.

#[cfg(target_os = "linux")]
use std::mem::MaybeUninit;
#[cfg(target_os = "linux")]
use std::os::fd::OwnedFd;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

#[cfg(target_os = "linux")]
use rustix::event::epoll;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io;

/// The most sockets that one wait reports, so that the first need not wait long for the last. Those left out are reported
/// by the next.
const ROUND: usize = 256;

/// What is waited for at a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    Read,
    Write,
    Nothing,
}

/// A socket, for the system that has to be told all of them each time.
pub(super) struct Watched<'a> {
    pub(super) socket: BorrowedFd<'a>,
    pub(super) number: u32,
    pub(super) interest: Interest,
}

/// One thread's way to wait.
pub(super) enum Poller {
    #[cfg(target_os = "linux")]
    Epoll(OwnedFd),
    /// Has where the next round begins, so that all get their turn.
    Poll { next: usize },
}

impl Poller {
    /// The best that the system has.
    pub(super) fn new() -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        return Ok(Self::Epoll(epoll::create(epoll::CreateFlags::CLOEXEC)?));
        #[cfg(not(target_os = "linux"))]
        Self::portable()
    }

    /// What every system has.
    #[cfg_attr(target_os = "linux", cfg_attr(not(test), expect(dead_code, reason = "for other systems and for tests")))]
    pub(super) fn portable() -> io::Result<Self> {
        Ok(Self::Poll { next: 0 })
    }

    /// From now on, until it is closed, `socket` is known by its number.
    pub(super) fn add(&self, socket: impl AsFd, number: u32, interest: Interest) -> io::Result<()> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Epoll(epoll) => epoll::add(epoll, socket, epoll::EventData::new_u64(number.into()), flags(interest)),
            Self::Poll { .. } => {
                let _ = (socket, number, interest);
                Ok(())
            }
        }
    }

    /// As [`add`](Self::add), for one that was added.
    pub(super) fn change(&self, socket: impl AsFd, number: u32, interest: Interest) -> io::Result<()> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Epoll(epoll) => {
                epoll::modify(epoll, socket, epoll::EventData::new_u64(number.into()), flags(interest))
            }
            Self::Poll { .. } => {
                let _ = (socket, number, interest);
                Ok(())
            }
        }
    }

    /// Waits until something can be done at a socket, or its peer has gone, but no longer than `timeout`. Puts the numbers of
    /// such sockets into `ready`. `watched` has to be all that were added and are not closed.
    pub(super) fn wait<'a>(
        &mut self,
        watched: impl Iterator<Item = Watched<'a>>,
        timeout: Duration,
        ready: &mut Vec<u32>,
    ) -> io::Result<()> {
        ready.clear();
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
        match self {
            #[cfg(target_os = "linux")]
            Self::Epoll(epoll) => {
                drop(watched);
                let mut events = [const { MaybeUninit::uninit() }; ROUND];
                let (events, _) = epoll::wait(epoll, &mut events, Some(&timeout))?;
                ready.extend(events.iter().map(|event| event.data.u64() as u32));
                Ok(())
            }
            Self::Poll { next } => {
                let (mut numbers, mut sockets) = (Vec::new(), Vec::new());
                for Watched { socket, number, interest } in watched {
                    let flags = match interest {
                        Interest::Read => PollFlags::IN,
                        Interest::Write => PollFlags::OUT,
                        Interest::Nothing => continue,
                    };
                    numbers.push(number);
                    sockets.push(PollFd::from_borrowed_fd(socket, flags));
                }
                poll(&mut sockets, Some(&timeout))?;
                let from = if *next < sockets.len() { *next } else { 0 };
                let places = (from..sockets.len()).chain(0..from);
                ready.extend(places.filter(|&at| !sockets[at].revents().is_empty()).map(|at| numbers[at]).take(ROUND));
                *next = from + ROUND;
                Ok(())
            }
        }
    }
}

#[cfg(target_os = "linux")]
fn flags(interest: Interest) -> epoll::EventFlags {
    match interest {
        Interest::Read => epoll::EventFlags::IN,
        Interest::Write => epoll::EventFlags::OUT,
        Interest::Nothing => epoll::EventFlags::empty(),
    }
}
