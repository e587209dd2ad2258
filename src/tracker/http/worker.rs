//! One thread of the HTTP server: accepts, reads, has answered and sends, for many connections, none of which it waits for.
//!
//! A round goes over all sockets at which something happened, takes what requests have come, has them answered together and
//! sends the answers. Clients that are slow end at their deadlines, which are looked at once a second.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::batch::Batch;
use super::connection::{Connection, Sent, Stage};
use super::crowd::Crowd;
use super::listen;
use super::pages::Pages;
use super::poller::{Interest, Poller, Watched};
use super::request::{Ending, Head, RequestError};
use crate::tracker::service::Service;
use crate::tracker::statistics::{Counter, Tally, Transport};

/// Requests of one connection that are answered at once; those behind them wait for the next round.
const PIPELINE: usize = 16;

/// The most connections that are accepted in one round.
const ACCEPTS: usize = 128;

/// What is read at once, beyond the longest head.
const READ: usize = 16 << 10;

/// Bytes that all connections of a thread may hold, of requests that have not come whole and of answers that have not gone.
/// Beyond that, the ones that hold most are closed.
const MOST_HELD: usize = 64 << 20;

/// How often deadlines are looked at. Also the longest that a stop goes unnoticed on systems where the shutdown of a
/// listening socket wakes nobody.
const TICK: Duration = Duration::from_millis(500);

/// The number of the listening socket. Connections have those from 0.
const LISTENER: u32 = u32::MAX;

/// What a worker serves.
pub(super) enum Role {
    /// Announces and scrapes.
    Tracker,
    Pages(Pages),
}

/// What the thread owns.
pub(super) struct Worker {
    service: Arc<Service>,
    role: Role,
    crowd: Arc<Crowd>,
    listener: Arc<Socket>,
    poller: Poller,
    /// By their numbers, of which the free ones are in `free`.
    connections: Vec<Option<Connection>>,
    free: Vec<u32>,
    /// Numbers that are free once the batch has been sent: it may have answers to those that had them.
    left: Vec<u32>,
    /// Those with requests that have come and were too many to be answered at once.
    again: Vec<u32>,
    held: usize,
    batch: Batch,
    /// What has become of connections.
    tally: Tally,
    input: Box<[u8]>,
    /// Whether connections are accepted; not for a moment after there were no descriptors left.
    accepting: bool,
}

impl Worker {
    pub(super) fn new(
        service: Arc<Service>,
        role: Role,
        crowd: Arc<Crowd>,
        listener: Arc<Socket>,
        poller: Poller,
    ) -> io::Result<Self> {
        poller.add(listener.as_fd(), LISTENER, Interest::Read)?;
        let input = vec![0; service.config.limits.head + READ].into();
        Ok(Self {
            service,
            role,
            crowd,
            listener,
            poller,
            connections: Vec::new(),
            free: Vec::new(),
            left: Vec::new(),
            again: Vec::new(),
            held: 0,
            batch: Batch::default(),
            tally: Tally::default(),
            input,
            accepting: true,
        })
    }

    /// Serves until the interrupt is raised.
    pub(super) fn run(mut self) {
        let Ok(_registration) = self.service.interrupt.register(self.listener.clone()) else { return };
        let (mut ready, mut swept) = (Vec::new(), Instant::now());
        while !self.service.interrupt.is_raised() {
            self.wait(&mut ready);
            let now = Instant::now();
            let mut is_called = false;
            for &number in &ready {
                if number == LISTENER {
                    is_called = true;
                } else {
                    self.serve(number, now);
                }
                if self.batch.is_full() {
                    self.answer(now);
                }
            }
            // Last, so that a number is not given to another connection within a round.
            if is_called && self.accepting {
                self.accept(now);
            }
            self.answer(now);
            let waiting = std::mem::take(&mut self.again);
            for number in waiting {
                // Another connection may have the number by now.
                let connection = self.connections[number as usize].as_ref();
                if connection.is_some_and(|connection| connection.more && !connection.is_sending()) {
                    self.take_requests(number, None, now);
                }
                if self.batch.is_full() {
                    self.answer(now);
                }
            }
            self.answer(now);
            if now - swept >= TICK {
                self.sweep(now);
                swept = now;
            }
        }
    }

    fn wait(&mut self, ready: &mut Vec<u32>) {
        let listening = if self.accepting { Interest::Read } else { Interest::Nothing };
        let listener = Watched { socket: self.listener.as_fd(), number: LISTENER, interest: listening };
        let connections = (0..).zip(&self.connections).filter_map(|(number, connection)| {
            let connection = connection.as_ref()?;
            Some(Watched { socket: connection.socket(), number, interest: connection.interest? })
        });
        let timeout = if self.again.is_empty() { TICK } else { Duration::ZERO };
        if let Err(error) = self.poller.wait([listener].into_iter().chain(connections), timeout, ready)
            && error != rustix::io::Errno::INTR
        {
            log::warn!("tracker: cannot wait: {error}");
            // Not to spin; the signal is disconnected when it is time to stop.
            let _ = self.service.interrupt.signal().recv_timeout(TICK);
        }
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..ACCEPTS {
            match listen::accept(&self.listener) {
                Ok((socket, from)) => {
                    let from = from.ip().to_canonical();
                    let is_proxy = self.service.config.proxies.iter().any(|proxy| proxy.contains(from));
                    self.tally.count(Counter::Connections);
                    let Some(place) = self.crowd.enter(from, is_proxy) else {
                        self.tally.count(Counter::Crowded);
                        continue;
                    };
                    let deadline = now + self.service.config.limits.request_time;
                    let number = self.insert(Connection::new(socket, from, deadline, place));
                    // The request has often come with the connection, which may then end without the poller's hearing of it.
                    self.serve(number, now);
                    if self.batch.is_full() {
                        self.answer(now);
                    }
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    if !self.service.interrupt.is_raised() {
                        log::debug!("tracker: cannot accept: {error}");
                        // Out of descriptors is no reason to spin; connections that end free some.
                        self.accept_again(false);
                    }
                    return;
                }
            }
        }
    }

    fn accept_again(&mut self, accepting: bool) {
        self.accepting = accepting;
        let interest = if accepting { Interest::Read } else { Interest::Nothing };
        if let Err(error) = self.poller.change(self.listener.as_fd(), LISTENER, interest) {
            log::warn!("tracker: cannot wait for connections: {error}");
        }
    }

    fn insert(&mut self, connection: Connection) -> u32 {
        match self.free.pop() {
            Some(number) => {
                self.connections[number as usize] = Some(connection);
                number
            }
            None => {
                self.connections.push(Some(connection));
                self.connections.len() as u32 - 1
            }
        }
    }

    fn close(&mut self, number: u32) {
        if let Some(connection) = self.connections[number as usize].take() {
            self.held -= connection.held();
            self.left.push(number);
        }
    }

    /// Closes the connections that hold most, until all together hold what they may.
    fn make_room(&mut self) {
        while self.held > MOST_HELD {
            let connections = (0..).zip(&self.connections);
            let held = connections.filter_map(|(number, connection)| Some((connection.as_ref()?.held(), number)));
            let Some((_, number)) = held.max() else { return };
            self.tally.count(Counter::Crowded);
            self.close(number);
        }
    }

    /// Does what can be done at a connection.
    fn serve(&mut self, number: u32, now: Instant) {
        let Some(connection) = &mut self.connections[number as usize] else { return };
        if let Stage::Drained(_) = connection.stage {
            if connection.drain(&mut self.input) {
                self.close(number);
            }
        } else if connection.is_sending() {
            let before = connection.held();
            let sent = connection.resume();
            self.held = self.held + connection.held() - before;
            if sent == Sent::All {
                let limits = &self.service.config.limits;
                connection.set_deadline(now, true, limits.request_time, limits.idle_time);
            }
            self.go_on(number, sent);
        } else if !connection.more {
            // Else what has come has its turn in this round, before more of it, or its end, is read.
            match connection.read(&mut self.input) {
                Ok(Some(len)) => self.take_requests(number, Some(len), now),
                Ok(None) => self.watch(number, Interest::Read),
                Err(_) => self.close(number),
            }
        }
    }

    /// Takes requests: out of the buffer where so many bytes are there, else out of what the connection has kept.
    fn take_requests(&mut self, number: u32, len: Option<usize>, now: Instant) {
        let Some(connection) = &mut self.connections[number as usize] else { return };
        let len = len.unwrap_or_else(|| {
            self.input[..connection.input.len()].copy_from_slice(&connection.input);
            connection.input.len()
        });
        let limits = &self.service.config.limits;
        let (mut begin, mut taken) = (0, 0);
        connection.more = false;
        while begin < len {
            if taken == PIPELINE || taken > 0 && self.batch.is_full() {
                connection.more = true;
                break;
            }
            let bytes = &self.input[begin..len];
            let refused = match Head::parse(bytes, connection.from, &self.service.config.proxies) {
                Ok(Some(head)) if head.len <= limits.head => {
                    begin += head.len;
                    taken += 1;
                    match &mut self.role {
                        Role::Tracker => self.batch.take(number, &head, &self.service, now),
                        Role::Pages(pages) => self.batch.page(number, &head, pages, &self.service, now),
                    }
                    if head.ending == Ending::Close {
                        connection.stage = Stage::Last;
                        break;
                    }
                    continue;
                }
                Ok(None) if bytes.len() < limits.head => break,
                Ok(_) => RequestError::TooLong,
                Err(error) => error,
            };
            self.batch.fail(number, refused, Ending::Close, &self.service, now);
            connection.stage = Stage::Refused;
            break;
        }
        let before = connection.held();
        let ends = matches!(connection.stage, Stage::Last | Stage::Refused);
        connection.keep(if ends { &[] } else { &self.input[begin..len] });
        self.held = self.held + connection.held() - before;
        connection.set_deadline(now, taken > 0, limits.request_time, limits.idle_time);
        self.make_room();
        if taken == 0 && !ends {
            self.watch(number, Interest::Read);
        }
    }

    /// Has everything answered that was taken, and sends it.
    fn answer(&mut self, now: Instant) {
        self.batch.answer(&self.service, now);
        if self.batch.is_answered() {
            let mut batch = std::mem::take(&mut self.batch);
            let service = self.service.clone();
            batch.send(&service, |number, bytes| {
                let Some(connection) = &mut self.connections[number as usize] else { return };
                let (before, was_sending) = (connection.held(), connection.is_sending());
                let sent = connection.send(bytes);
                self.held = self.held + connection.held() - before;
                if sent == Sent::Part && !was_sending {
                    // For all of it, however slowly it is taken.
                    connection.deadline = now + service.config.limits.request_time;
                }
                self.go_on(number, sent);
            });
            self.batch = batch;
        }
        self.free.append(&mut self.left);
    }

    /// After something was sent.
    fn go_on(&mut self, number: u32, sent: Sent) {
        let Some(connection) = &mut self.connections[number as usize] else { return };
        match (sent, connection.stage) {
            (Sent::Gone, _) | (Sent::All, Stage::Last) => self.close(number),
            (Sent::Part, _) => {
                self.watch(number, Interest::Write);
                self.make_room();
            }
            (Sent::All, Stage::Refused) => {
                connection.begin_to_drain();
                self.watch(number, Interest::Read);
            }
            (Sent::All, _) => {
                if connection.more {
                    self.again.push(number);
                }
                self.watch(number, Interest::Read);
            }
        }
    }

    /// Tells the poller what the connection waits for.
    fn watch(&mut self, number: u32, interest: Interest) {
        let Some(connection) = &mut self.connections[number as usize] else { return };
        let told = match connection.interest {
            Some(known) if known == interest => return,
            Some(_) => self.poller.change(connection.socket(), number, interest),
            None => self.poller.add(connection.socket(), number, interest),
        };
        connection.interest = Some(interest);
        if let Err(error) = told {
            log::debug!("tracker: cannot wait for {}: {error}", connection.from);
            self.close(number);
        }
    }

    /// Ends connections that are past their deadlines.
    fn sweep(&mut self, now: Instant) {
        for number in 0..self.connections.len() {
            let Some(connection) = &self.connections[number] else { continue };
            if now < connection.deadline {
                continue;
            }
            if connection.stage != Stage::Idle || connection.is_sending() {
                self.tally.count(Counter::TooSlow);
            }
            self.close(number as u32);
        }
        self.service.statistics.add(Transport::Http, &mut self.tally);
        if !self.accepting {
            self.accept_again(true);
        }
    }
}
