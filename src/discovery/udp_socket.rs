//! One announce to a UDP tracker, or one scrape: a socket, and the machine of `udp_tracker` that it is driven by. Blocking, and ended by
//! an interrupt.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Socket, Type};

use super::interrupt::{Interrupt, Interrupted};
use super::udp_tracker::{Answer, Errand, Refusal, Schedule, UdpTracker};
use crate::config::Bind;
use crate::net::bind;

/// Room for 900 IPv6 peers. A datagram that is longer loses its end, and with it some peers.
const MAX_DATAGRAM: usize = 16 << 10;

/// The longest that a raise goes unnoticed on systems where the shutdown of a UDP socket does not end a read.
const SLICE: Duration = Duration::from_secs(1);

/// A UDP tracker at one address. It keeps its socket, because a tracker may tie the connection id to the port.
#[derive(Debug)]
pub(super) struct UdpEndpoint {
    socket: UdpSocket,
    remote: SocketAddr,
    machine: UdpTracker,
}

/// Why an announce brought nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum UdpError {
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    #[error("the tracker at {remote} did not answer")]
    TimedOut { remote: SocketAddr },
    #[error("cannot reach the tracker at {remote}: {source}")]
    Unreachable { remote: SocketAddr, source: io::Error },
    #[error("the tracker refuses: {0}")]
    Refused(String),
}

impl UdpEndpoint {
    /// A socket that only hears `remote`.
    pub(super) fn open(remote: SocketAddr, bind: Option<&Bind>, seed: u64) -> Result<Self, UdpError> {
        let connect = || {
            let socket = bind::dialling(bind, remote, Type::DGRAM)?;
            socket.connect(&remote.into())?;
            Ok(socket.into())
        };
        let socket = connect().map_err(|source| UdpError::Unreachable { remote, source })?;
        Ok(Self { socket, remote, machine: UdpTracker::new(remote, seed) })
    }

    /// Until when the tracker's connection id is good; then there is nothing left that is worth keeping the socket for.
    pub(super) fn fresh_until(&self) -> Option<Instant> {
        self.machine.connected_until()
    }

    /// Sends `request` until it is answered, given up by the schedule, or `deadline`, if any, has passed.
    pub(super) fn ask(
        &mut self,
        errand: Errand,
        interrupt: &Interrupt,
        deadline: Option<Instant>,
        schedule: Schedule,
    ) -> Result<Answer, UdpError> {
        let unreachable = |remote| move |source| UdpError::Unreachable { remote, source };
        let handle: Socket = self.socket.try_clone().map_err(unreachable(self.remote))?.into();
        let _registration = interrupt.register(Arc::new(handle))?;
        let mut buffer = vec![0; MAX_DATAGRAM];
        self.machine.begin(errand, schedule, Instant::now());
        loop {
            while let Some(datagram) = self.machine.poll_transmit() {
                self.socket.send(&datagram).map_err(unreachable(self.remote))?;
            }
            if let Some(outcome) = self.machine.poll_outcome() {
                return outcome.map_err(|refusal| match refusal {
                    Refusal::TimedOut => UdpError::TimedOut { remote: self.remote },
                    Refusal::Message(message) => UdpError::Refused(message),
                });
            }
            if interrupt.is_raised() {
                return Err(Interrupted.into());
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| now >= deadline) {
                return Err(UdpError::TimedOut { remote: self.remote });
            }
            let until = self.machine.poll_timeout().into_iter().chain(deadline).min().unwrap_or(now + SLICE);
            // Zero would mean for ever.
            let wait = until.saturating_duration_since(now).clamp(Duration::from_millis(1), SLICE);
            self.socket.set_read_timeout(Some(wait)).map_err(unreachable(self.remote))?;
            match self.socket.recv_from(&mut buffer) {
                Ok((length, from)) => self.machine.handle_datagram(from, &buffer[..length], Instant::now()),
                Err(error) if is_lull(&error) => {}
                // What a read from a socket that was shut down looks like differs; this is why it ended.
                Err(_) if interrupt.is_raised() => return Err(Interrupted.into()),
                Err(error) => return Err(unreachable(self.remote)(error)),
            }
            self.machine.handle_timeout(Instant::now());
        }
    }
}

/// Nothing came, which is no failure.
fn is_lull(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
