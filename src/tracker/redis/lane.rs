//! One connection to one server: a thread that takes parcels of commands from a bounded queue, sends all that wait as one
//! pipeline, and hands the answers back.
//!
//! It owns the connection: it makes a new one when that is lost, at once the first time, so that who waits does not notice,
//! and then ever more seldom. While there is none it keeps nobody waiting. It knows no swarms and refuses to decide what an
//! error of the server means, with two exceptions: a script that the server has forgotten is loaded again, and one that may
//! only be read is looked for again, as another may have its name by now.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, bounded};
use parking_lot::Mutex;
use redis::{Client, Connection, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, RedisResult, Value};

use super::command::Scripts;

/// Parcels that wait for a connection. Who brings one waits for its answer, so there are hardly more than threads.
const QUEUE: usize = 256;

/// Where a pipeline ends, in commands: so many take Redis a few milliseconds.
const PIPELINE: usize = 256;

/// How long to wait before another try to connect, at first and at most.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// From this age on a connection to a server that may only be read is given up.
const READ_ONLY_FOR: Duration = Duration::from_secs(1);

/// TLS needs some of it.
const STACK: usize = 512 * 1024;

/// Why nothing came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// There is no connection, or it was lost.
    Unreachable,
    /// It took too long.
    Late,
}

/// Commands and who waits for the answers, which come in the same order.
pub(super) struct Parcel {
    pub(super) bytes: Vec<u8>,
    /// Where each of the commands ends.
    pub(super) ends: Vec<usize>,
    /// By which the receiver tells parcels apart.
    pub(super) place: usize,
    /// Has room for one from each that was given a clone.
    pub(super) answers: Sender<(usize, Result<Vec<Value>, Silence>)>,
}

/// What all lanes of a store have in common.
pub(super) struct Terms {
    pub(super) scripts: Scripts,
    pub(super) timeout: Duration,
    /// Whether the servers are of a cluster: said so, or found out. A flag and nothing else.
    pub(super) cluster: AtomicBool,
    /// Which server a connection to could not be made, or was lost, the last time, and why. Written by lanes, read by who
    /// has to say why there is no answer.
    pub(super) cause: Mutex<Option<String>>,
}

/// The handle. Dropping it ends the thread, which may take as long as an answer.
pub(super) struct Lane {
    parcels: Option<Sender<Parcel>>,
    /// Whether there is hope; written by the thread.
    up: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Lane {
    pub(super) fn start(info: ConnectionInfo, number: usize, terms: Arc<Terms>) -> std::io::Result<Self> {
        let (sender, parcels) = bounded(QUEUE);
        let up = Arc::new(AtomicBool::new(true));
        let name = match info.addr() {
            ConnectionAddr::Tcp(_, port) | ConnectionAddr::TcpTls { port, .. } => format!("redis-{port}-{number}"),
            _ => format!("redis-{number}"),
        };
        let runner =
            Runner { info, terms, parcels, up: up.clone(), opened: Instant::now(), wait: FIRST_WAIT, quiet: false };
        let thread = thread::Builder::new().name(name).stack_size(STACK).spawn(move || runner.run())?;
        Ok(Self { parcels: Some(sender), up, thread: Some(thread) })
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Gives it a parcel. What does not fit by then is not taken.
    pub(super) fn send(&self, parcel: Parcel, deadline: Instant) -> Result<(), Silence> {
        let Some(parcels) = &self.parcels else { return Err(Silence::Unreachable) };
        parcels.send_deadline(parcel, deadline).map_err(|error| match error {
            SendTimeoutError::Timeout(_) => Silence::Late,
            SendTimeoutError::Disconnected(_) => Silence::Unreachable,
        })
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.parcels = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the thread owns.
struct Runner {
    info: ConnectionInfo,
    terms: Arc<Terms>,
    parcels: Receiver<Parcel>,
    up: Arc<AtomicBool>,
    /// When the connection was made.
    opened: Instant,
    /// Before the next try.
    wait: Duration,
    /// It has been said that there is no connection.
    quiet: bool,
}

impl Runner {
    fn run(mut self) {
        let mut connection = None;
        loop {
            let Some(open) = &mut connection else {
                connection = self.connect();
                if connection.is_none() && !self.turn_away() {
                    return;
                }
                continue;
            };
            let Ok(first) = self.parcels.recv() else { return };
            let mut count = first.ends.len();
            let mut load = vec![first];
            while count < PIPELINE {
                let Ok(parcel) = self.parcels.try_recv() else { break };
                count += parcel.ends.len();
                load.push(parcel);
            }
            let bytes = load.iter().map(|parcel| parcel.bytes.as_slice()).collect::<Vec<_>>().concat();
            let ends = ends(&load);
            let mut answers = self.exchange(open, &bytes, &ends);
            if let Err(error) = &answers {
                log::debug!("redis: {}: {error}", self.info.addr());
                self.note(error);
                connection = None;
                if error.is_timeout() {
                    // Nobody else shall wait for it, until it takes a connection again.
                    self.up.store(false, Ordering::Relaxed);
                } else if let Some(mut open) = self.connect() {
                    // Perhaps it was only this connection. To announce twice is to announce.
                    answers = self.exchange(&mut open, &bytes, &ends);
                    if answers.is_ok() {
                        connection = Some(open);
                    }
                }
            }
            if answers.as_ref().is_ok_and(|answers| answers.iter().any(is_read_only)) && self.may_be_elsewhere() {
                connection = None;
            }
            deliver(load, answers);
        }
    }

    /// Whether it may help to connect again to a server that may only be read. In a cluster the map says who may be written.
    fn may_be_elsewhere(&self) -> bool {
        !self.terms.cluster.load(Ordering::Relaxed) && self.opened.elapsed() >= READ_ONLY_FOR
    }

    fn connect(&mut self) -> Option<Connection> {
        let opened = Client::open(self.info.clone())
            .and_then(|client| client.get_connection_with_timeout(self.terms.timeout))
            .and_then(|mut connection| {
                connection.set_read_timeout(Some(self.terms.timeout))?;
                connection.set_write_timeout(Some(self.terms.timeout))?;
                self.load_scripts(&mut connection)?;
                Ok(connection)
            });
        match opened {
            Ok(connection) => {
                if self.quiet {
                    log::info!("redis: {} is there", self.info.addr());
                }
                self.up.store(true, Ordering::Relaxed);
                self.opened = Instant::now();
                (self.wait, self.quiet) = (FIRST_WAIT, false);
                Some(connection)
            }
            Err(error) => {
                // Once, until it is there again.
                let level = if self.quiet { log::Level::Debug } else { log::Level::Warn };
                log::log!(level, "redis: cannot connect to {}: {error}", self.info.addr());
                self.note(&error);
                self.up.store(false, Ordering::Relaxed);
                self.quiet = true;
                None
            }
        }
    }

    fn note(&self, error: &RedisError) {
        *self.terms.cause.lock() = Some(format!("{}: {}", self.info.addr(), reason(error)));
    }

    /// Until it is time to try again. False where nobody will ask any more.
    fn turn_away(&mut self) -> bool {
        let until = Instant::now() + self.wait.mul_f64(0.75 + 0.5 * fastrand::f64());
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        loop {
            match self.parcels.recv_deadline(until) {
                Ok(parcel) => parcel.fail(Silence::Unreachable),
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Sends commands and takes the answers to all of them.
    fn exchange(&self, connection: &mut Connection, bytes: &[u8], ends: &[usize]) -> RedisResult<Vec<Value>> {
        connection.send_packed_command(bytes)?;
        let mut answers = Vec::with_capacity(ends.len());
        for _ in ends {
            answers.push(connection.recv_response()?);
        }
        let forgotten: Vec<_> = (0..ends.len()).filter(|&n| is_error(&answers[n], "NOSCRIPT")).collect();
        if forgotten.is_empty() {
            return Ok(answers);
        }
        self.load_scripts(connection)?;
        let starts = |n: usize| if n == 0 { 0 } else { ends[n - 1] };
        let again = forgotten.iter().map(|&n| &bytes[starts(n)..ends[n]]).collect::<Vec<_>>().concat();
        connection.send_packed_command(&again)?;
        for n in forgotten {
            answers[n] = connection.recv_response()?;
        }
        Ok(answers)
    }

    fn load_scripts(&self, connection: &mut Connection) -> RedisResult<()> {
        for command in self.terms.scripts.load() {
            connection.send_packed_command(&command)?;
            // One that is still loading its data says so here, and to every command: that is for others to judge.
            if let Value::ServerError(error) = connection.recv_response()? {
                let error = RedisError::from(error);
                if error.code() != Some("LOADING") {
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

impl Parcel {
    fn fail(self, silence: Silence) {
        // Nobody waits any more where this fails.
        let _ = self.answers.send((self.place, Err(silence)));
    }
}

/// Why there is no connection, in words for who runs the tracker, which have no password.
fn reason(error: &RedisError) -> String {
    if error.is_connection_refusal() {
        return "connection refused; is Redis running there?".into();
    }
    if error.is_timeout() {
        return "no answer in time".into();
    }
    match (error.kind(), error.code()) {
        (ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS")) => {
            "wrong user or password; see the URL of the store".into()
        }
        (_, Some("NOAUTH")) => "it wants a password: redis://:PASSWORD@HOST".into(),
        _ => error.to_string(),
    }
}

/// Whether a server refused a command with this code.
pub(super) fn is_error(answer: &Value, code: &str) -> bool {
    matches!(answer, Value::ServerError(error) if error.code() == code)
}

/// Whether a server has refused to write because it is a replica. Redis 6.2 says so of a script in the text alone.
fn is_read_only(answer: &Value) -> bool {
    let Value::ServerError(error) = answer else { return false };
    error.code() == "READONLY" || error.details().is_some_and(|details| details.contains("-READONLY "))
}

/// Where the commands of all parcels end.
fn ends(load: &[Parcel]) -> Vec<usize> {
    let mut before = 0;
    let mut ends = Vec::new();
    for parcel in load {
        ends.extend(parcel.ends.iter().map(|end| before + end));
        before += parcel.bytes.len();
    }
    ends
}

fn deliver(load: Vec<Parcel>, answers: RedisResult<Vec<Value>>) {
    match answers {
        Ok(answers) => {
            let mut answers = answers.into_iter();
            for parcel in load {
                let own = answers.by_ref().take(parcel.ends.len()).collect();
                let _ = parcel.answers.send((parcel.place, Ok(own)));
            }
        }
        Err(error) => {
            let silence = if error.is_timeout() { Silence::Late } else { Silence::Unreachable };
            load.into_iter().for_each(|parcel| parcel.fail(silence));
        }
    }
}
