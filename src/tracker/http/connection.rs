//! One connection: its socket, what of a request has come and what of an answer has not gone, and until when it may stay.
//! While it waits for a request it holds no buffer.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::crowd::Place;
use super::poller::Interest;

/// How much is read and thrown away behind a request that was refused before its end, so that closing does not reset the
/// connection under the answer.
const DRAIN: usize = 64 << 10;

/// See the module.
pub(super) struct Connection {
    socket: TcpStream,
    /// Who made it, in IPv4 form where that is what it is.
    pub(super) from: IpAddr,
    /// Bytes of requests that are not answered yet.
    pub(super) input: Vec<u8>,
    /// Bytes of answers, of which so many have gone.
    output: Vec<u8>,
    sent: usize,
    pub(super) deadline: Instant,
    pub(super) stage: Stage,
    /// Whether there are more requests in `input` than are answered at once.
    pub(super) more: bool,
    /// Whether the poller knows it, and what it waits for.
    pub(super) interest: Option<Interest>,
    _place: Place,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Between requests, or before the first.
    Idle,
    /// In the middle of one.
    Request,
    /// Ends when the answer has gone.
    Last,
    /// The same, but the client may still be sending.
    Refused,
    /// Everything has gone; so much more may come before it is closed.
    Drained(usize),
}

/// What came of an attempt to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    All,
    /// The rest waits until the client takes it.
    Part,
    /// The connection has ended.
    Gone,
}

impl Connection {
    pub(super) fn new(socket: TcpStream, from: IpAddr, deadline: Instant, place: Place) -> Self {
        Self {
            socket,
            from,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            deadline,
            stage: Stage::Idle,
            more: false,
            interest: None,
            _place: place,
        }
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Puts what was kept and what has come into the buffer, which is longer than what is ever kept. Gives how much that is;
    /// `None` where nothing has come, and an error where nothing will.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let kept = self.input.len();
        let came = match (&self.socket).read(&mut buffer[kept..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(came) => came,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(None),
            Err(error) => return Err(error),
        };
        buffer[..kept].copy_from_slice(&self.input);
        Ok(Some(kept + came))
    }

    /// Keeps the beginning of a request for the next read.
    pub(super) fn keep(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            self.input = Vec::new();
        } else {
            self.input.clear();
            self.input.extend_from_slice(rest);
        }
    }

    /// Sends answers. What the socket does not take is kept.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Sent {
        let gone = if self.output.is_empty() {
            match write(&self.socket, bytes) {
                Ok(gone) => gone,
                Err(_) => return Sent::Gone,
            }
        } else {
            0
        };
        if gone == bytes.len() {
            return Sent::All;
        }
        self.output.extend_from_slice(&bytes[gone..]);
        Sent::Part
    }

    /// Sends what was kept.
    pub(super) fn resume(&mut self) -> Sent {
        match write(&self.socket, &self.output[self.sent..]) {
            Ok(gone) => self.sent += gone,
            Err(_) => return Sent::Gone,
        }
        if self.sent < self.output.len() {
            return Sent::Part;
        }
        (self.output, self.sent) = (Vec::new(), 0);
        Sent::All
    }

    pub(super) fn is_sending(&self) -> bool {
        !self.output.is_empty()
    }

    /// Bytes of memory that it holds beside itself.
    pub(super) fn held(&self) -> usize {
        self.input.capacity() + self.output.capacity()
    }

    /// Goes on to read what nobody asked for.
    pub(super) fn begin_to_drain(&mut self) {
        self.stage = Stage::Drained(DRAIN);
        // An error means that there is nobody left to be told.
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Whether it is over.
    pub(super) fn drain(&mut self, buffer: &mut [u8]) -> bool {
        let Stage::Drained(left) = &mut self.stage else { return false };
        match (&self.socket).read(buffer) {
            Ok(came) => {
                *left = left.saturating_sub(came);
                came == 0 || *left == 0
            }
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }

    /// After requests have been taken from what came: what is left is in `input`, and `answered` of them were whole.
    pub(super) fn set_deadline(&mut self, now: Instant, answered: bool, request: Duration, idle: Duration) {
        let before = self.stage;
        if matches!(before, Stage::Idle | Stage::Request) {
            self.stage = if self.input.is_empty() { Stage::Idle } else { Stage::Request };
        }
        match self.stage {
            Stage::Idle => self.deadline = now + idle,
            // The deadline of a request stays, however it trickles in.
            Stage::Request if before == Stage::Request && !answered => {}
            _ => self.deadline = now + request,
        }
    }
}

fn write(mut socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match socket.write(bytes) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        result => result,
    }
}
