//! Load over HTTP: threads with many connections each, all of which announce and wait for their answers before they do so
//! again; or, at a given rate, whenever it is due.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

/// Different announces that are made in turn.
const REQUESTS: usize = 8192;

/// Torrents that they are about.
const TORRENTS: usize = 1000;

/// How a tracker is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) tracker: SocketAddr,
    /// Of all threads together.
    pub(crate) connections: usize,
    pub(crate) threads: usize,
    pub(crate) time: Duration,
    /// Announces a second; `None` for as many as there are answers.
    pub(crate) rate: Option<f64>,
    /// Whether each announce has a connection of its own.
    pub(crate) reconnect: bool,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) per_second: f64,
    /// From when an announce was due until its answer was there, the quickest first.
    pub(crate) latencies: Vec<Duration>,
    /// Bytes of the last answer.
    pub(crate) answer: Vec<u8>,
}

impl Outcome {
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        self.latencies[(self.latencies.len() - 1) * percent / 100]
    }
}

struct Connection {
    stream: Option<TcpStream>,
    /// When what it waits for was due.
    due: Instant,
    heard: Vec<u8>,
}

/// Announces until the time is over. Fails where an answer is none.
pub(crate) fn run(load: Load) -> io::Result<Outcome> {
    let threads = load.threads;
    let each = Load {
        connections: load.connections.div_ceil(threads),
        rate: load.rate.map(|rate| rate / threads as f64),
        ..load
    };
    thread::scope(|scope| {
        let run = |number| scope.spawn(move || run_one(each, number * REQUESTS / threads));
        let threads: Vec<_> = (0..threads).map(run).collect();
        let mut all = Outcome { per_second: 0.0, latencies: Vec::new(), answer: Vec::new() };
        for thread in threads {
            let one = thread.join().expect("a thread that fails says so")?;
            all.per_second += one.per_second;
            all.latencies.extend(one.latencies);
            all.answer = one.answer;
        }
        all.latencies.sort_unstable();
        Ok(all)
    })
}

/// The part of one thread, which begins with this one of the requests: no two ask the same at the same time.
fn run_one(load: Load, first: usize) -> io::Result<Outcome> {
    let poller = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let requests = requests(load.reconnect);
    let begin = Instant::now();
    let mut connections = Vec::new();
    for _ in 0..load.connections {
        connections.push(Connection { stream: None, due: begin, heard: Vec::new() });
    }
    if !load.reconnect {
        for (number, connection) in connections.iter_mut().enumerate() {
            connection.stream = Some(connect(load.tracker, &poller, number)?);
        }
    }
    let begin = Instant::now();
    let (mut asked, mut latencies, mut answer) = (0, Vec::new(), Vec::new());
    let mut idle: VecDeque<usize> = (0..load.connections).collect();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let now = Instant::now();
        if now - begin >= load.time {
            break;
        }
        while let Some(&number) = idle.front() {
            let due = match load.rate {
                Some(rate) => begin + Duration::from_secs_f64(f64::from(asked) / rate),
                None => now,
            };
            if due > now {
                break;
            }
            idle.pop_front();
            let connection = &mut connections[number];
            connection.due = due;
            if load.reconnect {
                connection.stream = Some(connect(load.tracker, &poller, number)?);
            }
            let mut stream = connection.stream.as_ref().expect("connected");
            stream.write_all(&requests[(first + asked as usize) % REQUESTS])?;
            asked += 1;
        }
        // Until the next is due, which epoll's own wait only knows to a millisecond.
        let next = load.rate.map(|rate| (begin + Duration::from_secs_f64(f64::from(asked) / rate)).duration_since(now));
        let wait =
            next.filter(|_| !idle.is_empty()).unwrap_or(Duration::from_millis(10)).min(Duration::from_millis(10));
        let wait = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        poll(&mut [PollFd::new(&poller, PollFlags::IN)], Some(&wait))?;
        let mut events = [const { MaybeUninit::uninit() }; 256];
        let (events, _) = epoll::wait(&poller, &mut events, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        for event in events {
            let number = event.data.u64() as usize;
            let connection = &mut connections[number];
            let Some(stream) = &mut connection.stream else { continue };
            let len = match stream.read(&mut buffer) {
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            connection.heard.extend_from_slice(&buffer[..len]);
            if !is_whole(&connection.heard) {
                if len == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                continue;
            }
            latencies.push(connection.due.elapsed());
            std::mem::swap(&mut answer, &mut connection.heard);
            connection.heard.clear();
            if load.reconnect {
                connection.stream = None;
            }
            idle.push_back(number);
        }
    }
    let per_second = latencies.len() as f64 / begin.elapsed().as_secs_f64();
    Ok(Outcome { per_second, latencies, answer })
}

/// Connections that say nothing, after a first announce.
pub(crate) fn idle(tracker: SocketAddr, count: usize) -> io::Result<Vec<TcpStream>> {
    let request = &requests(false)[0];
    let mut buffer = [0; 4096];
    let connect = |_| {
        let mut stream = TcpStream::connect(tracker)?;
        stream.write_all(request)?;
        let len = stream.read(&mut buffer)?;
        assert!(is_whole(&buffer[..len]), "{}", buffer[..len].escape_ascii());
        Ok(stream)
    };
    (0..count).map(connect).collect()
}

/// What answers with the same bytes whatever is asked: all that the sockets and the generator leave time for. Stops and joins
/// its threads when dropped.
pub(crate) struct Floor {
    pub(crate) addr: SocketAddr,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Floor {
    pub(crate) fn start(answer: &[u8], threads: usize) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let listener = Arc::new(listener);
        let serve = |_| {
            let (listener, answer, stop) = (listener.clone(), answer.to_vec(), stop.clone());
            thread::spawn(move || echo(&listener, &answer, &stop).expect("a socket that works"))
        };
        let threads = (0..threads).map(serve).collect();
        Ok(Self { addr, stop, threads })
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn echo(listener: &TcpListener, answer: &[u8], stop: &AtomicBool) -> io::Result<()> {
    let poller = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poller, listener, epoll::EventData::new_u64(u64::MAX), epoll::EventFlags::IN)?;
    let mut streams: Vec<TcpStream> = Vec::new();
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        let mut events = [const { MaybeUninit::uninit() }; 256];
        let timeout = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let (events, _) = epoll::wait(&poller, &mut events, Some(&timeout))?;
        for event in events {
            let number = event.data.u64();
            if number == u64::MAX {
                if let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    let data = epoll::EventData::new_u64(streams.len() as u64);
                    epoll::add(&poller, &stream, data, epoll::EventFlags::IN)?;
                    streams.push(stream);
                }
                continue;
            }
            let stream = &mut streams[number as usize];
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => drop(epoll::delete(&poller, stream)),
                Ok(_) => stream.write_all(answer)?,
            }
        }
    }
    Ok(())
}

fn connect(tracker: SocketAddr, poller: &OwnedFd, number: usize) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(tracker)?;
    stream.set_nonblocking(true)?;
    epoll::add(poller, &stream, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
    Ok(stream)
}

/// The info-hashes of the torrents that are announced.
pub(crate) fn info_hashes() -> impl Iterator<Item = [u8; 20]> {
    let mut random = fastrand::Rng::with_seed(1);
    std::iter::repeat_with(move || std::array::from_fn(|_| random.u8(..))).take(TORRENTS)
}

fn requests(reconnect: bool) -> Vec<Vec<u8>> {
    let escape = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("%{byte:02X}")).collect() };
    let hashes: Vec<_> = info_hashes().map(|hash| escape(&hash)).collect();
    let mut random = fastrand::Rng::with_seed(2);
    let connection = if reconnect { "Connection: close\r\n" } else { "" };
    let request = |number: usize| {
        let id = format!("-RW0001-{number:012}");
        let (hash, port, left) = (&hashes[random.usize(..TORRENTS)], random.u16(1024..32_768), random.u32(..) % 4);
        let query = format!("info_hash={hash}&peer_id={id}&port={port}&uploaded=0&downloaded=0&left={left}&compact=1");
        format!("GET /announce?{query}&numwant=30&key=0000002A HTTP/1.1\r\nHost: tracker\r\n{connection}\r\n")
            .into_bytes()
    };
    (0..REQUESTS).map(request).collect()
}

/// Whether these bytes are an answer. Fails where they say that something went wrong.
fn is_whole(bytes: &[u8]) -> bool {
    const LENGTH: &[u8] = b"\r\nContent-Length: ";
    let find = |what: &[u8]| bytes.windows(what.len()).position(|window| window == what);
    let (Some(end), Some(length)) = (find(b"\r\n\r\n"), find(LENGTH)) else { return false };
    let digits = bytes[length + LENGTH.len()..].iter().take_while(|byte| byte.is_ascii_digit());
    let length = digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0'));
    assert!(bytes.starts_with(b"HTTP/1.") && bytes[8..].starts_with(b" 200"), "{}", bytes.escape_ascii());
    let whole = bytes.len() >= end + 4 + length;
    assert!(!whole || !bytes[end..].starts_with(b"\r\n\r\nd14:failure"), "{}", bytes.escape_ascii());
    whole
}
