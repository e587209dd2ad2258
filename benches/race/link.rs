//! Links with a delay and a rate between leechers and seeders, in user space, in a process of their own.
//!
//! A link listens where its seeder seems to be and forwards every connection to the seeder. Each direction of a link is a
//! clock: what arrives leaves when all before it has left at the link's rate, and gets there a delay later. The connections
//! of a link share its rate. A direction takes in no more than the delay and [`QUEUE`] hold, as a router's buffer does, so
//! that a peer that asks far enough ahead keeps it full.
//!
//! What it does not imitate: loss, and TCP's own handshake and slow start over the delay. A client meets the delay in
//! everything that it asks for, not in the connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use crossbeam_channel::{Receiver, Sender, unbounded};

/// What a direction holds besides what is under way, in time at its rate.
const QUEUE: Duration = Duration::from_millis(200);
/// Read at once, if as much is there.
const CHUNK: usize = 64 << 10;
/// What a connection may hold at least, and what one without a rate holds.
const LEAST_ROOM: usize = 256 << 10;
const UNLIMITED_ROOM: usize = 16 << 20;

/// The links to start, as one process is told.
#[derive(clap::Args)]
pub(crate) struct Links {
    /// One way, in milliseconds.
    delay: f64,
    /// Bytes a second in each direction; 0 is no limit.
    rate: f64,
    /// The seeders.
    targets: Vec<SocketAddrV4>,
}

impl Links {
    /// Prints a port for each target, on the target's own address, and forwards until the input ends.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let delay = Duration::from_secs_f64(self.delay / 1000.0);
        for &target in &self.targets {
            let listener = TcpListener::bind((*target.ip(), 0))?;
            println!("{}", listener.local_addr()?.port());
            let [up, down] = [(); 2].map(|()| Arc::new(Direction::new(delay, self.rate)));
            spawn("link", move || {
                for from in listener.incoming().flatten() {
                    // The leecher sees a peer that hangs up.
                    if let Err(error) = forward(from, target, &up, &down) {
                        eprintln!("link to {target}: {error}");
                    }
                }
            })?;
        }
        std::io::stdin().read_to_end(&mut Vec::new())?;
        Ok(())
    }
}

/// The process with the links. Dropping it ends them.
pub(crate) struct LinkProcess {
    child: Child,
    /// Where the links listen, in the order of their targets.
    pub(crate) fronts: Vec<SocketAddrV4>,
}

impl LinkProcess {
    /// Starts a link to each target. `delay` is in milliseconds, one way, `rate` in bytes a second.
    pub(crate) fn start(delay: f64, rate: f64, targets: &[SocketAddrV4]) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["link", &delay.to_string(), &rate.to_string()]).args(targets.iter().map(ToString::to_string));
        // Not in the terminal's group: Ctrl-C ends the race, which ends its links.
        let mut child = command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("the output is a pipe")?;
        let mut this = Self { child, fronts: Vec::new() };
        // The targets first: after the last there is no line to wait for.
        for (target, line) in targets.iter().zip(BufReader::new(stdout).lines()) {
            this.fronts.push(SocketAddrV4::new(*target.ip(), line?.parse()?));
        }
        ensure!(this.fronts.len() == targets.len(), "the process with the links ended early");
        Ok(this)
    }
}

impl Drop for LinkProcess {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What a link does with plain TCP, as a check that it is what it claims to be.
pub(crate) struct Probe {
    /// Bytes a second, first byte to last.
    pub(crate) rate: f64,
    /// From the request to the first byte of the answer.
    pub(crate) round_trip: Duration,
}

/// Sends `len` bytes through a link of their own.
pub(crate) fn probe(delay: f64, rate: f64, len: usize) -> anyhow::Result<Probe> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let SocketAddr::V4(target) = listener.local_addr()? else { anyhow::bail!("the address is not IPv4") };
    spawn("probe", move || {
        let Ok((mut stream, _)) = listener.accept() else { return };
        let chunk = vec![0; CHUNK];
        if stream.read(&mut [0]).is_ok() {
            let mut left = len;
            while left > 0 && stream.write_all(&chunk[..left.min(CHUNK)]).is_ok() {
                left -= left.min(CHUNK);
            }
        }
    })?;
    let link = LinkProcess::start(delay, rate, &[target])?;
    let mut stream = TcpStream::connect(link.fronts[0])?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let start = Instant::now();
    stream.write_all(b"?")?;
    let mut buffer = vec![0; CHUNK];
    let mut received = stream.read(&mut buffer)?;
    let round_trip = start.elapsed();
    let first = received;
    while received < len {
        let more = stream.read(&mut buffer)?;
        ensure!(more > 0, "the link ended early");
        received += more;
    }
    Ok(Probe { rate: (received - first) as f64 / (start.elapsed() - round_trip).as_secs_f64(), round_trip })
}

/// One direction of a link.
struct Direction {
    delay: Duration,
    rate: f64,
    /// When all that it was given has left; touched by the readers of the link's connections.
    free: Mutex<Instant>,
}

impl Direction {
    fn new(delay: Duration, rate: f64) -> Self {
        Self { delay, rate, free: Mutex::new(Instant::now()) }
    }

    /// When `len` bytes that are here now get to the other end.
    fn carry(&self, len: usize, now: Instant) -> Instant {
        if self.rate <= 0.0 {
            return now + self.delay;
        }
        let mut free = lock(&self.free);
        *free = (*free).max(now) + Duration::from_secs_f64(len as f64 / self.rate);
        *free + self.delay
    }

    /// Waits until the queue is short enough to take in more.
    fn wait_for_room(&self) {
        let queued = lock(&self.free).saturating_duration_since(Instant::now());
        if self.rate > 0.0 && queued > QUEUE {
            std::thread::sleep(queued - QUEUE);
        }
    }

    /// What one connection may hold: a peer that does not read must not fill the memory.
    fn room(&self) -> usize {
        if self.rate <= 0.0 {
            return UNLIMITED_ROOM;
        }
        LEAST_ROOM + (self.rate * (self.delay + QUEUE).as_secs_f64()) as usize
    }
}

/// Bytes that a connection may still take in; shared by its reader and its writer.
struct Room {
    left: Mutex<usize>,
    more: Condvar,
}

impl Room {
    /// Waits for some, and takes up to a chunk.
    fn take(&self) -> usize {
        let mut left = self.more.wait_while(lock(&self.left), |left| *left == 0).expect("nobody panics holding it");
        let taken = (*left).min(CHUNK);
        *left -= taken;
        taken
    }

    fn give(&self, bytes: usize) {
        *lock(&self.left) += bytes;
        self.more.notify_one();
    }
}

/// A chunk, and when it gets to the other end.
type Parcel = (Instant, Vec<u8>);

fn forward(from: TcpStream, target: SocketAddrV4, up: &Arc<Direction>, down: &Arc<Direction>) -> anyhow::Result<()> {
    let to = TcpStream::connect(target)?;
    for stream in [&from, &to] {
        stream.set_nodelay(true)?;
    }
    for (direction, from, to) in [(up, from.try_clone()?, to.try_clone()?), (down, to, from)] {
        let room = Arc::new(Room { left: Mutex::new(direction.room()), more: Condvar::new() });
        // As many bytes as there is room for.
        let (send, receive) = unbounded();
        spawn("in", {
            let (room, direction) = (Arc::clone(&room), Arc::clone(direction));
            move || take_in(from, &direction, &room, &send)
        })?;
        spawn("out", move || let_out(to, &room, receive))?;
    }
    Ok(())
}

fn take_in(mut from: TcpStream, direction: &Direction, room: &Room, parcels: &Sender<Parcel>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let space = room.take();
        direction.wait_for_room();
        let len = from.read(&mut buffer[..space]).unwrap_or(0);
        room.give(space - len);
        if len == 0 || parcels.send((direction.carry(len, Instant::now()), buffer[..len].to_vec())).is_err() {
            return;
        }
    }
}

fn let_out(mut to: TcpStream, room: &Room, parcels: Receiver<Parcel>) {
    for (due, chunk) in &parcels {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&chunk).is_err() {
            // Ends the way back, of which the other side then hears.
            to.shutdown(Shutdown::Both).ok();
            break;
        }
        room.give(chunk.len());
    }
    to.shutdown(Shutdown::Write).ok();
    // A reader that waits for room finds some, and that nobody takes its parcels any more.
    drop(parcels);
    room.give(CHUNK);
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.into()).stack_size(128 << 10).spawn(work).map(drop)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics holding it")
}
