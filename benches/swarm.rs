//! Many peers at once: what ropewalk costs with 500 connections, of which 50 send, and with 1,000 callers.
//!
//! `cargo bench --bench swarm -- --full --json swarm.json`
//!
//! Each part is a process of its own, so that only ropewalk's is measured: this one makes the torrent, is its tracker and
//! prints; a child is ropewalk (the library); another child plays all other peers on few threads, each peer at a loopback
//! address of its own. The payload is a pattern that is made as it is sent, so only the download takes room.
//!
//! | number | is |
//! |---|---|
//! | announce to peer | from the tracker's reading of the request to the first message of ropewalk to a peer, hands shaken |
//! | resume to peer | from `Torrent::resume`, in ropewalk's process, to its event of the first connected peer |
//! | idle | processor time of the process while all are connected and choke us, percent of one core |
//! | cpu s/GiB | user and system time of the process from the first unchoke to the last verified piece, per GiB |
//! | peak | the most resident memory (`VmHWM`) |
//! | rx | processor time of a peer's reading thread for one `have`: waking up, `read`, decoding, telling the owner |
//! | rx, 32 at once | the same for 32 in one segment, per message: a message under load rarely comes alone |
//! | owner | processor time of the torrent's thread for one `have` |
//! | decoding | wall time of framing and decoding one message, and of counting a `have` in the bitfield and the picker |
//!
//! Those of rx and owner are the kernel's own count of a thread's time (`schedstat`) before and after a segment; what the
//! kernel does for others in that thread's name is in them. Every other `have` is the `lt_donthave` (BEP 54) that takes it
//! back. They are taken while the senders send, and so is decoding, message by message in ropewalk's process, without any
//! system call; the owner's, whose thread does much else then, are taken with all connected and nothing else going on.

use std::collections::{BTreeMap, VecDeque};
use std::hint::black_box;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use ropewalk::bits::Bits;
use ropewalk::hash::sha1;
use ropewalk::metainfo::{Content, Creation};
use ropewalk::policy::Picker;
use ropewalk::wire::handshake::{Handshake, PeerId, Reserved};
use ropewalk::wire::message::{Header, Limits, Message, peek, piece_header};
use ropewalk::{AddOptions, Config, Event, InfoHash, Metainfo, Session, Start, State};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// Says, in the environment, which part of the bench a process is.
const PART: &str = "ROPEWALK_SWARM_PART";
/// Messages that are decoded in a row.
const DECODED: usize = 100_000;
/// How long anything may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(300);
/// The threads that play peers.
const THREADS: usize = 4;
/// The payload repeats after so many bytes, which is no multiple of a piece: no two pieces are alike.
const PERIOD: usize = (1 << 20) + 4099;
/// The most bytes of one request.
const MOST: usize = 128 << 10;
/// The id by which ropewalk is told that a piece is gone (BEP 54), as its extension handshake says.
const DONT_HAVE: u8 = 7;
/// The chosen peer that measures messages.
const PROBE: Ipv4Addr = Ipv4Addr::new(127, 99, 0, 1);

#[derive(Parser, Clone)]
#[command(about = "What ropewalk costs with many peers")]
struct Args {
    /// The sizes that are worth publishing: 1 GiB, 500 peers of which 50 send, 1,000 callers, 3 rounds.
    #[arg(long)]
    full: bool,
    /// The payload in MiB.
    #[arg(long)]
    size: Option<u64>,
    /// The piece length in KiB.
    #[arg(long, default_value_t = 256)]
    piece: u32,
    /// Peers that send, in the large swarm.
    #[arg(long)]
    senders: Option<usize>,
    /// Peers that do not.
    #[arg(long)]
    others: Option<usize>,
    /// Peers that call, of which all but a tenth find room.
    #[arg(long)]
    callers: Option<usize>,
    /// Segments that are measured.
    #[arg(long)]
    messages: Option<usize>,
    /// Seconds to watch while nothing moves.
    #[arg(long)]
    idle: Option<f64>,
    /// How often the two downloads are done, in turns.
    #[arg(long)]
    rounds: Option<usize>,
    /// The folder for the download; by default in memory where there is /dev/shm.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Where to write every run and the medians.
    #[arg(long)]
    json: Option<PathBuf>,
    /// What cargo and criterion's benches are given; of no meaning here.
    #[arg(long, hide = true)]
    bench: bool,
    #[arg(long, hide = true)]
    test: bool,
}

/// The senders of the small swarm, which the large one is compared with.
const FEW: usize = 8;

impl Args {
    fn size(&self) -> u64 {
        self.size.unwrap_or(if self.full { 1024 } else { 64 })
    }
    fn senders(&self) -> usize {
        self.senders.unwrap_or(if self.full { 50 } else { 10 })
    }
    fn others(&self) -> usize {
        self.others.unwrap_or(if self.full { 450 } else { 90 })
    }
    fn callers(&self) -> usize {
        self.callers.unwrap_or(if self.full { 1100 } else { 110 })
    }
    fn messages(&self) -> usize {
        self.messages.unwrap_or(if self.full { 1000 } else { 100 })
    }
    fn idle(&self) -> f64 {
        self.idle.unwrap_or(if self.full { 5.0 } else { 0.5 })
    }
    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.full { 3 } else { 1 })
    }
}

fn main() -> anyhow::Result<()> {
    // RUST_LOG=debug shows what ropewalk thinks of its peers.
    env_logger::init();
    allow_descriptors();
    match std::env::var(PART) {
        Ok(part) => {
            let task: Value = serde_json::from_str(&std::env::var(TASK)?)?;
            match &part[..] {
                "client" => client(&task),
                "peers" => peers(&task),
                _ => callers(&task),
            }
        }
        Err(_) => drive(&Args::parse()),
    }
}

// ---- This process: the torrent, its tracker, the numbers

fn drive(args: &Args) -> anyhow::Result<()> {
    let parent = args.dir.clone().unwrap_or_else(|| {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { memory.into() } else { std::env::temp_dir() }
    });
    let folder = tempfile::Builder::new().prefix("ropewalk-swarm-").tempdir_in(&parent)?;
    let tracker = Tracker::start()?;
    let torrent = folder.path().join("swarm.torrent");
    std::fs::write(&torrent, make_torrent(args, &tracker.url)?)?;

    let mut runs = BTreeMap::<&str, Vec<Value>>::new();
    for _ in 0..args.rounds() {
        for (name, senders, others) in [("few", FEW, 0), ("many", args.senders(), args.others())] {
            let run = download(args, &torrent, folder.path(), &tracker, (senders, others))?;
            eprintln!("{name}: {run}");
            runs.entry(name).or_default().push(run);
        }
    }
    let messages = measure_messages(args, &torrent, folder.path(), &tracker)?;
    eprintln!("messages: {messages}");
    let called = be_called(args, &torrent, folder.path())?;
    eprintln!("called: {called}");
    report(args, &runs, &messages, &called)
}

fn report(args: &Args, runs: &BTreeMap<&str, Vec<Value>>, messages: &Value, called: &Value) -> anyhow::Result<()> {
    let median = |name: &str, key: &str| {
        let mut values: Vec<f64> = runs[name].iter().filter_map(|run| run[key].as_f64()).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    println!("{} MiB, pieces of {} KiB, {} round(s): medians", args.size(), args.piece, args.rounds());
    println!(
        "{:>8} {:>8} {:>10} {:>10} {:>7} {:>9} {:>16} {:>14}",
        "peers", "senders", "cpu s/GiB", "peak MiB", "idle %", "wall s", "announce to ms", "resume to ms"
    );
    let keys = ["cpu_per_gib", "peak_mib", "idle_percent", "wall", "announce_to_peer_ms", "resume_to_peer_ms"];
    let mut medians = serde_json::Map::new();
    for (name, senders, others) in [("few", FEW, 0), ("many", args.senders(), args.others())] {
        let [cpu, peak, idle, wall, announce, resume] = keys.map(|key| median(name, key));
        println!(
            "{:>8} {senders:>8} {cpu:10.2} {peak:10.0} {idle:7.2} {wall:9.2} {announce:16.1} {resume:14.1}",
            senders + others
        );
        medians.insert(name.into(), keys.iter().map(|&key| (key.to_owned(), json!(median(name, key)))).collect());
    }
    let ratio = median("many", "cpu_per_gib") / median("few", "cpu_per_gib");
    println!("CPU per GiB with many is {ratio:.2} of that with {FEW}");
    println!("microseconds for a message:                  median      99 %");
    let rows = [("rx", "rx, alone"), ("rx_batch", "rx, 32 at once, each"), ("owner", "owner"), ("decode", "decoding")];
    for (key, what) in rows {
        let of = |at: &str| messages[key][at].as_f64().unwrap_or(f64::NAN);
        println!("  {what:40} {:8.2} {:9.2}", of("median"), of("p99"));
    }
    println!("callers: {called}");
    if let Some(path) = &args.json {
        let document = json!({
            "size_mib": args.size(), "piece_kib": args.piece, "senders": args.senders(), "others": args.others(),
            "rounds": args.rounds(), "runs": runs, "medians": medians, "cpu_ratio": ratio, "messages": messages,
            "callers": called,
        });
        std::fs::write(path, serde_json::to_vec_pretty(&document)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// A download from `senders`, with `others` beside them.
fn download(
    args: &Args,
    torrent: &Path,
    folder: &Path,
    tracker: &Tracker,
    (senders, others): (usize, usize),
) -> anyhow::Result<Value> {
    let mut peers = Part::start("peers", &json!({"torrent": torrent, "senders": senders, "others": others}))?;
    tracker.answer_with(peers.addrs()?);
    let out = tempfile::Builder::new().prefix("out-").tempdir_in(folder)?;
    let task = json!({"torrent": torrent, "dir": out.path(), "peers": senders + others, "idle": args.idle()});
    let mut client = Part::start("client", &task)?;
    let ready = client.line()?;
    peers.say("go")?;
    client.say("go")?;
    let done = client.line()?;
    client.end()?;
    let first = peers.line()?["first_word"].as_u64().context("no peer heard of ropewalk")?;
    peers.end()?;
    let announced = tracker.announced.load(Ordering::SeqCst);
    Ok(json!({
        "cpu_per_gib": done["cpu"].as_f64().unwrap_or(f64::NAN) * 1024.0 / args.size() as f64,
        "wall": done["wall"], "peak_mib": done["peak_mib"], "connected_peak_mib": ready["peak_mib"],
        "idle_percent": ready["idle_percent"], "all_connected_ms": ready["all_connected_ms"],
        "resume_to_peer_ms": ready["resume_to_peer_ms"],
        "announce_to_peer_ms": first.saturating_sub(announced) as f64 / 1e6,
    }))
}

/// The time of threads for single messages, from a peer of its own among the others.
fn measure_messages(args: &Args, torrent: &Path, folder: &Path, tracker: &Tracker) -> anyhow::Result<Value> {
    let (senders, others) = (args.senders(), args.others());
    let mut peers = Part::start("peers", &json!({"torrent": torrent, "senders": senders, "others": others}))?;
    tracker.answer_with(peers.addrs()?);
    let out = tempfile::Builder::new().prefix("out-").tempdir_in(folder)?;
    // Slowly enough that it lasts.
    let down = (args.size() << 20) / 8;
    let peers_wanted = senders + others;
    let task = json!({"torrent": torrent, "dir": out.path(), "peers": peers_wanted, "idle": 0.0, "down": down});
    let mut client = Part::start("client", &task)?;
    let ready = client.line()?;
    let port = ready["port"].as_u64().context("a client that does not listen")?;
    let info_hash = Metainfo::read(torrent)?.info_hash();
    let probe = Probe::call(SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(port)?)), info_hash, client.id())?;
    let owner = probe.measure("torrent-", 1, args.messages())?;
    peers.say("go")?;
    client.say("go")?;
    let rx = probe.measure("rx-127.99.0.1", 1, args.messages())?;
    let batch = probe.measure("rx-127.99.0.1", 32, args.messages())?;
    client.say("decode")?;
    let decode = client.line()?;
    Ok(json!({"rx": rx, "rx_batch": batch, "owner": owner, "decode": decode}))
}

/// More callers than there is room for.
fn be_called(args: &Args, torrent: &Path, folder: &Path) -> anyhow::Result<Value> {
    let calls = args.callers();
    let room = calls - calls / 11;
    let out = tempfile::Builder::new().prefix("out-").tempdir_in(folder)?;
    let task = json!({"torrent": torrent, "dir": out.path(), "peers": 0, "room": room, "idle": args.idle()});
    let mut client = Part::start("client", &task)?;
    let port = client.line()?["port"].as_u64();
    let mut callers = Part::start("callers", &json!({"torrent": torrent, "port": port, "calls": calls}))?;
    let result = callers.line()?;
    client.say("go")?;
    let rest = client.line()?;
    client.end()?;
    callers.end()?;
    let (accepted, refused) = (result["accepted"].as_u64(), result["refused"].as_u64());
    ensure!(accepted == Some(room as u64) && refused == Some((calls - room) as u64), "{result} of {room}: {rest}");
    Ok(json!({
        "room": room, "accepted": accepted, "refused": refused, "wall": result["wall"], "peers": rest["peers"],
        "peak_mib": rest["peak_mib"], "idle_percent": rest["idle_percent"],
    }))
}

fn make_torrent(args: &Args, tracker: &str) -> anyhow::Result<Vec<u8>> {
    let (len, piece) = (args.size() << 20, args.piece << 10);
    let pattern = pattern();
    let mut creation = Creation::new("swarm.bin", Content::File { len, executable: false }, piece);
    creation.trackers = vec![vec![tracker.to_owned()]];
    let mut hashes = Vec::new();
    let mut content = Vec::new();
    for start in (0..len).step_by(piece as usize) {
        content.clear();
        let end = (start + u64::from(piece)).min(len);
        for at in (start..end).step_by(MOST) {
            content.extend(slice(&pattern, at, (end - at).min(MOST as u64) as usize));
        }
        hashes.extend(sha1([&content[..]]));
    }
    Ok(creation.prepare()?.finish(&hashes)?)
}

/// The payload, as far as it does not repeat, and then so much of its start that every request is in one piece.
fn pattern() -> Vec<u8> {
    let mut bytes = vec![0; PERIOD];
    fastrand::Rng::with_seed(1).fill(&mut bytes);
    bytes.extend_from_within(..MOST);
    bytes
}

fn slice(pattern: &[u8], at: u64, len: usize) -> &[u8] {
    let start = (at % PERIOD as u64) as usize;
    &pattern[start..start + len]
}

/// A tracker that knows all peers.
struct Tracker {
    url: String,
    peers: Arc<std::sync::Mutex<Vec<SocketAddrV4>>>,
    /// When the last leecher that began asked, in nanoseconds of the monotonic clock.
    announced: Arc<AtomicU64>,
}

impl Tracker {
    fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let url = format!("http://{}/announce", listener.local_addr()?);
        let tracker = Self { url, peers: Arc::default(), announced: Arc::default() };
        let (peers, announced) = (Arc::clone(&tracker.peers), Arc::clone(&tracker.announced));
        std::thread::Builder::new().name("tracker".into()).spawn(move || {
            for stream in listener.incoming() {
                let answered = stream.and_then(|stream| answer(stream, &peers, &announced));
                if let Err(error) = answered {
                    eprintln!("tracker: {error}");
                }
            }
        })?;
        Ok(tracker)
    }

    fn answer_with(&self, peers: Vec<SocketAddrV4>) {
        *self.peers.lock().expect("nobody panics while holding it") = peers;
    }
}

fn answer(
    mut stream: TcpStream,
    peers: &std::sync::Mutex<Vec<SocketAddrV4>>,
    announced: &AtomicU64,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut lines = BufReader::new(&stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    lines.find(|line| line.as_ref().is_ok_and(String::is_empty) || line.is_err());
    if request.contains("event=started") {
        announced.store(nanos(ClockId::Monotonic), Ordering::SeqCst);
    }
    let peers = peers.lock().expect("nobody panics while holding it");
    let mut body = b"d8:intervali1800e5:peers".to_vec();
    write!(body, "{}:", 6 * peers.len())?;
    peers.iter().for_each(|peer| body.extend([&peer.ip().octets()[..], &peer.port().to_be_bytes()].concat()));
    body.push(b'e');
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), &body].concat())
}

/// What a child is told to do.
const TASK: &str = "ROPEWALK_SWARM_TASK";

/// A child: told by lines, tells by lines of JSON, and ends when its input does. Dropping it kills it.
struct Part {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Part {
    fn start(part: &str, task: &Value) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.env(PART, part).env(TASK, task.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let output = child.stdout.take().context("the output is a pipe")?;
        Ok(Self { input: child.stdin.take(), output: BufReader::new(output), child })
    }

    fn id(&self) -> u32 {
        self.child.id()
    }

    fn line(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).context("a part of the bench ended early")
    }

    fn addrs(&mut self) -> anyhow::Result<Vec<SocketAddrV4>> {
        let line = self.line()?;
        let addrs = line["addrs"].as_array().into_iter().flatten().filter_map(Value::as_str);
        addrs.map(|addr| Ok(addr.parse()?)).collect()
    }

    fn say(&mut self, word: &str) -> anyhow::Result<()> {
        let input = self.input.as_mut().context("told before its end")?;
        writeln!(input, "{word}")?;
        Ok(input.flush()?)
    }

    fn end(mut self) -> anyhow::Result<()> {
        self.input.take();
        let status = self.child.wait()?;
        ensure!(status.success(), "a part of the bench ended with {status}");
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A peer that sends one message at a time and looks at what that cost.
struct Probe {
    stream: TcpStream,
    client: u32,
}

impl Probe {
    fn call(to: SocketAddr, info_hash: InfoHash, client: u32) -> anyhow::Result<Self> {
        let mut stream = call(PROBE, to)?;
        shake_hands(&mut stream, info_hash, 0xffff)?;
        let mut hello = Vec::new();
        Message::HaveNone.encode_into(&mut hello);
        stream.write_all(&hello)?;
        // It is told of pieces, and must go on reading.
        let mut sink = stream.try_clone()?;
        std::thread::spawn(move || std::io::copy(&mut sink, &mut std::io::sink()));
        Ok(Self { stream, client })
    }

    /// The median and the 99th percentile, in microseconds, of what a thread spends on one of `count` messages sent
    /// together.
    fn measure(&self, thread: &str, count: u32, segments: usize) -> anyhow::Result<Value> {
        let thread = self.thread(thread)?;
        let mut spent = Vec::new();
        let mut said = 0;
        // What is left of an earlier measurement is over.
        std::thread::sleep(Duration::from_millis(100));
        for _ in 0..segments {
            let mut out = Vec::new();
            for _ in 0..count {
                // Each is news: a piece that it has is taken back by the next message.
                let taken_back = Message::Extended { id: DONT_HAVE, payload: &[0; 4] };
                if said % 2 == 0 { Message::Have(0) } else { taken_back }.encode_into(&mut out);
                said += 1;
            }
            let before = ran(&thread)?;
            (&self.stream).write_all(&out)?;
            let deadline = Instant::now() + PATIENCE;
            let after = loop {
                std::thread::sleep(Duration::from_millis(2));
                let after = ran(&thread)?;
                if after.1 > before.1 && ran(&thread)? == after {
                    break after;
                }
                ensure!(Instant::now() < deadline, "ropewalk does not read");
            };
            spent.push((after.0 - before.0) as f64 / 1e3 / f64::from(count));
        }
        Ok(percentiles(spent))
    }

    /// The `schedstat` of the client's thread whose name begins so.
    fn thread(&self, name: &str) -> anyhow::Result<PathBuf> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            for task in std::fs::read_dir(format!("/proc/{}/task", self.client))? {
                let task = task?.path();
                if std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.starts_with(name)) {
                    return Ok(task.join("schedstat"));
                }
            }
        }
        anyhow::bail!("ropewalk has no thread {name}")
    }
}

/// Nanoseconds that a thread has run, and how often it was put on a processor.
fn ran(schedstat: &Path) -> anyhow::Result<(u64, u64)> {
    let text = std::fs::read_to_string(schedstat).context("ropewalk's thread has ended")?;
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.nth(1)) {
        (Some(Ok(ran)), Some(Ok(times))) => Ok((ran, times)),
        _ => anyhow::bail!("no schedstat: {text}"),
    }
}

// ---- The client

fn client(task: &Value) -> anyhow::Result<()> {
    let path = |key: &str| task[key].as_str().map(PathBuf::from).context("a path");
    let metainfo = Metainfo::read(&path("torrent")?)?;
    let wanted = task["peers"].as_u64().unwrap_or(0) as usize;
    let idle = task["idle"].as_f64().unwrap_or(0.0);
    let mut config = Config::default();
    config.listen.bind = Some(Ipv4Addr::LOCALHOST.into());
    config.listen.ports = 0..=0;
    config.peers.per_torrent = task["room"].as_u64().map_or(wanted + 1, |room| room as usize);
    config.peers.dials_per_second = 10_000;
    config.trackers.stop_grace = Duration::ZERO;
    config.state_dir = Some(path("dir")?.join("state"));
    let session = Session::new(config)?;
    let mut options = AddOptions::new(path("dir")?);
    options.start = Start::Paused;
    options.limits.down = task["down"].as_u64();
    options.announce = wanted > 0;
    let torrent = session.add(metainfo, options)?;
    await_that("the files", || torrent.state() == State::Paused)?;

    let events = torrent.events();
    let start = Instant::now();
    torrent.resume()?;
    let mut first = None;
    if wanted > 0 {
        while !matches!(events.recv_timeout(PATIENCE)?, Event::PeerConnected(_)) {}
        first = Some(start.elapsed());
    }
    drop(events);
    await_that("all peers", || torrent.stats().peers >= wanted)?;
    let all = start.elapsed();
    let watched = if wanted > 0 { watch(idle) } else { Value::Null };
    let tell = |value: &Value| writeln!(std::io::stdout(), "{value}");
    tell(&json!({
        "resume_to_peer_ms": first.map(|first| first.as_secs_f64() * 1e3), "all_connected_ms": all.as_secs_f64() * 1e3,
        "idle_percent": watched, "peak_mib": peak_mib(), "port": session.port(),
    }))?;

    let (cpu, start) = (nanos(ClockId::ProcessCPUTime), Instant::now());
    let mut word = String::new();
    std::io::stdin().read_line(&mut word)?;
    if task["down"].is_u64() {
        std::io::stdin().read_line(&mut word)?;
        tell(&decode(torrent.pieces().len()))?;
    } else if wanted > 0 {
        let state = torrent.wait(PATIENCE);
        ensure!(state == State::Seeding, "{state:?}: {:?}", torrent.stats());
        let cpu = (nanos(ClockId::ProcessCPUTime) - cpu) as f64 / 1e9;
        let wasted = torrent.stats().wasted;
        tell(&json!({
            "cpu": cpu, "wall": start.elapsed().as_secs_f64(), "peak_mib": peak_mib(), "wasted": wasted,
        }))?;
    } else {
        let watched = watch(idle);
        tell(&json!({"peers": torrent.stats().peers, "idle_percent": watched, "peak_mib": peak_mib()}))?;
    }
    // Ends with its input.
    std::io::stdin().read_to_string(&mut word)?;
    Ok(())
}

/// The median and the 99th percentile, in microseconds, of decoding a message of a peer and of what it changes.
fn decode(pieces: u32) -> Value {
    let (mut has, mut picker) = (Bits::new(pieces), Picker::new(pieces, fastrand::Rng::with_seed(1)));
    let limits = Limits::for_pieces(pieces);
    let mut input = Vec::new();
    for number in 0..DECODED {
        let (index, begin, len) = (fastrand::u32(0..pieces), 0, 16384);
        match number % 8 {
            0 => Message::Request { index, begin, len }.encode_into(&mut input),
            1 => Message::Cancel { index, begin, len }.encode_into(&mut input),
            2 => Message::Unchoke.encode_into(&mut input),
            _ => Message::Have(index).encode_into(&mut input),
        }
    }
    let mut spent = Vec::with_capacity(DECODED);
    let mut rest = &input[..];
    while !rest.is_empty() {
        let start = Instant::now();
        let Ok(Header::Message { len }) = peek(rest, &limits) else { unreachable!("it was encoded above") };
        let message = Message::decode(&rest[4..4 + len]).expect("it was encoded above");
        if let Message::Have(piece) = black_box(message)
            && has.set(piece)
        {
            picker.peer_has(piece);
        }
        rest = &rest[4 + len..];
        spent.push(start.elapsed().as_nanos() as f64 / 1e3);
    }
    percentiles(spent)
}

fn percentiles(mut spent: Vec<f64>) -> Value {
    spent.sort_by(f64::total_cmp);
    json!({"median": spent[spent.len() / 2], "p99": spent[spent.len() * 99 / 100]})
}

/// The share of a core, in percent, that this process takes over so many seconds.
fn watch(seconds: f64) -> Value {
    if seconds == 0.0 {
        return Value::Null;
    }
    // What came of the connections is over by then.
    std::thread::sleep(Duration::from_millis(500));
    let (cpu, start) = (nanos(ClockId::ProcessCPUTime), Instant::now());
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let spent = nanos(ClockId::ProcessCPUTime) - cpu;
    json!(spent as f64 / start.elapsed().as_nanos() as f64 * 100.0)
}

fn await_that(what: &str, is_it: impl Fn() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_it() {
        ensure!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| kib / 1024.0)
}

fn nanos(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// Thousands of connections need more descriptors than the usual 1,024.
fn allow_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).ok();
}

// ---- The other peers

/// What a scripted peer is like.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Has everything and answers every request.
    Sender,
    /// Has half, chokes us, and gets more.
    Growing,
    /// Has nothing and wants everything.
    Wanting,
    /// Has half, lets us ask and has nothing that it would send.
    Silent,
}

fn peers(task: &Value) -> anyhow::Result<()> {
    let number = |key: &str| task[key].as_u64().unwrap_or(0) as usize;
    let (senders, others) = (number("senders"), number("others"));
    let metainfo = Metainfo::read(task["torrent"].as_str().context("a torrent")?.as_ref())?;
    let world = Arc::new(World {
        info_hash: metainfo.info_hash(),
        pieces: metainfo.layout().piece_count(),
        piece_length: metainfo.layout().piece_length(),
        pattern: pattern(),
        going: AtomicBool::new(false),
        first_word: AtomicU64::new(0),
    });
    let mut crews: Vec<Crew> = (0..THREADS).map(|_| Crew { world: Arc::clone(&world), seats: Vec::new() }).collect();
    let mut addrs = Vec::new();
    for number in 0..senders + others {
        let kind = match number {
            _ if number < senders => Kind::Sender,
            _ => [Kind::Growing, Kind::Wanting, Kind::Silent][number % 3],
        };
        let listener = TcpListener::bind((address(number), 0))?;
        listener.set_nonblocking(true)?;
        addrs.push(listener.local_addr()?.to_string());
        crews[number % THREADS].seats.push(Seat { number, kind, listener, line: None });
    }
    for crew in crews {
        std::thread::Builder::new().name("peers".into()).spawn(move || crew.run())?;
    }
    println!("{}", json!({"addrs": addrs}));
    let mut word = String::new();
    std::io::stdin().read_line(&mut word)?;
    world.going.store(true, Ordering::SeqCst);
    println!("{}", json!({"first_word": world.first_word.load(Ordering::SeqCst)}));
    std::io::stdin().read_to_string(&mut word)?;
    Ok(())
}

/// The loopback address of a peer.
fn address(number: usize) -> Ipv4Addr {
    let [.., high, low] = (number as u32 + 1).to_be_bytes();
    Ipv4Addr::new(127, 50, high, low)
}

/// What all scripted peers share.
struct World {
    info_hash: InfoHash,
    pieces: u32,
    piece_length: u32,
    pattern: Vec<u8>,
    /// The senders unchoke.
    going: AtomicBool,
    /// When the first message came after a handshake, in nanoseconds of the monotonic clock.
    first_word: AtomicU64,
}

/// A thread that plays some peers.
struct Crew {
    world: Arc<World>,
    seats: Vec<Seat>,
}

struct Seat {
    number: usize,
    kind: Kind,
    listener: TcpListener,
    line: Option<Line>,
}

/// A scripted peer's connection.
struct Line {
    stream: TcpStream,
    input: Vec<u8>,
    output: VecDeque<u8>,
    shaken: bool,
    unchoked: bool,
    /// The pieces that it has said to have got, and when it says the next.
    grown: u32,
    next: Instant,
}

/// How often a growing peer gets a piece.
const GROWS: Duration = Duration::from_millis(250);
/// Bytes that wait to be written beyond which no more requests are read.
const ENOUGH: usize = 4 << 20;

impl Crew {
    fn run(mut self) {
        let mut chunk = vec![0; 256 << 10];
        loop {
            let ready = self.wait();
            let going = self.world.going.load(Ordering::Relaxed);
            for (seat, ready) in self.seats.iter_mut().zip(ready) {
                if seat.line.is_none() && ready {
                    seat.line = seat.listener.accept().ok().and_then(|(stream, _)| Line::new(stream).ok());
                }
                let Some(line) = &mut seat.line else { continue };
                if line.work(&self.world, seat.number, seat.kind, going, ready, &mut chunk).is_err() {
                    seat.line = None;
                }
            }
        }
    }

    /// Which seats have something to do.
    fn wait(&self) -> Vec<bool> {
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(self.seats.len());
        for seat in &self.seats {
            fds.push(match &seat.line {
                None => PollFd::from_borrowed_fd(seat.listener.as_fd(), PollFlags::IN),
                Some(line) => {
                    let mut flags = PollFlags::empty();
                    flags.set(PollFlags::OUT, !line.output.is_empty());
                    flags.set(PollFlags::IN, line.output.len() < ENOUGH);
                    PollFd::from_borrowed_fd(line.stream.as_fd(), flags)
                }
            });
        }
        let most = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        poll(&mut fds, Some(&most)).ok();
        fds.iter().map(|fd| !fd.revents().is_empty()).collect()
    }
}

impl Line {
    fn new(stream: TcpStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let (input, output) = (Vec::new(), VecDeque::new());
        Ok(Self { stream, input, output, shaken: false, unchoked: false, grown: 0, next: Instant::now() })
    }

    fn work(
        &mut self,
        world: &World,
        number: usize,
        kind: Kind,
        going: bool,
        ready: bool,
        chunk: &mut [u8],
    ) -> std::io::Result<()> {
        if ready && self.output.len() < ENOUGH {
            match self.stream.read(chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.input.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if !self.shaken {
            if self.input.len() < Handshake::LEN {
                return Ok(());
            }
            self.input.drain(..Handshake::LEN);
            self.shaken = true;
            self.greet(world, number, kind);
        }
        self.answer(world, kind)?;
        if going && !self.unchoked {
            self.unchoked = true;
            if matches!(kind, Kind::Sender) {
                self.put(&Message::Unchoke);
            }
            self.next = Instant::now() + GROWS.mul_f64(f64::from(number as u32 % 64) / 64.0);
        }
        if going && kind == Kind::Growing && Instant::now() >= self.next && self.grown < world.pieces / 2 {
            self.next += GROWS;
            self.put(&Message::Have(world.pieces / 2 + self.grown));
            self.grown += 1;
        }
        while !self.output.is_empty() {
            match self.stream.write(self.output.as_slices().0) {
                Ok(n) => drop(self.output.drain(..n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn greet(&mut self, world: &World, number: usize, kind: Kind) {
        self.output.extend(handshake(world.info_hash, number).encode());
        let half = || {
            let mut has = Bits::new(world.pieces);
            for piece in 0..world.pieces / 2 {
                has.set(piece);
            }
            has
        };
        match kind {
            Kind::Sender => self.put(&Message::HaveAll),
            Kind::Growing | Kind::Silent => self.put(&Message::Bitfield(half().as_wire())),
            Kind::Wanting => {
                self.put(&Message::HaveNone);
                self.put(&Message::Interested);
            }
        }
    }

    fn put(&mut self, message: &Message<'_>) {
        let mut out = Vec::new();
        message.encode_into(&mut out);
        self.output.extend(out);
    }

    /// Reads what came and answers requests.
    fn answer(&mut self, world: &World, kind: Kind) -> std::io::Result<()> {
        let mut at = 0;
        while let Some((len, rest)) = self.input[at..].split_first_chunk::<4>() {
            let len = u32::from_be_bytes(*len) as usize;
            let Some(body) = rest.get(..len) else { break };
            at += 4 + len;
            if world.first_word.load(Ordering::Relaxed) == 0 {
                world.first_word.store(nanos(ClockId::Monotonic), Ordering::SeqCst);
            }
            let message = Message::decode(body).map_err(std::io::Error::other)?;
            if let (Message::Request { index, begin, len }, Kind::Sender) = (message, kind) {
                let offset = u64::from(index) * u64::from(world.piece_length) + u64::from(begin);
                self.output.extend(piece_header(index, begin, len));
                self.output.extend(slice(&world.pattern, offset, len as usize));
            }
        }
        self.input.drain(..at);
        Ok(())
    }
}

fn handshake(info_hash: InfoHash, number: usize) -> Handshake {
    let mut id = *b"-XX0000-000000000000";
    id[12..].copy_from_slice(format!("{number:08}").as_bytes());
    Handshake { reserved: Reserved::NONE.with_fast().with_extended(), info_hash, peer_id: PeerId::new(id) }
}

// ---- Callers

/// Calls as many times as it is told to, keeps every connection, and says how many were kept by the other side.
fn callers(task: &Value) -> anyhow::Result<()> {
    let calls = task["calls"].as_u64().unwrap_or(0) as usize;
    let port = u16::try_from(task["port"].as_u64().context("a port")?)?;
    let info_hash = Metainfo::read(task["torrent"].as_str().context("a torrent")?.as_ref())?.info_hash();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let start = Instant::now();
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            std::thread::spawn(move || {
                let calls = (thread..calls).step_by(THREADS);
                calls.map(|number| be_taken_in(number, to, info_hash).ok()).collect::<Vec<_>>()
            })
        })
        .collect();
    let lines: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().expect("no caller panics")).collect();
    let accepted = lines.iter().flatten().count();
    let wall = start.elapsed().as_secs_f64();
    println!("{}", json!({"accepted": accepted, "refused": calls - accepted, "wall": wall}));
    let mut word = String::new();
    std::io::stdin().read_to_string(&mut word)?;
    Ok(())
}

/// Calls and hears the first message after the handshake, by which it is known to be taken in.
fn be_taken_in(number: usize, to: SocketAddr, info_hash: InfoHash) -> std::io::Result<TcpStream> {
    let mut stream = call(address(number), to)?;
    shake_hands(&mut stream, info_hash, number)?;
    stream.read_exact(&mut [0; 4])?;
    Ok(stream)
}

fn call(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect(&to.into())?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

fn shake_hands(stream: &mut TcpStream, info_hash: InfoHash, number: usize) -> std::io::Result<()> {
    stream.write_all(&handshake(info_hash, number).encode())?;
    stream.read_exact(&mut [0; Handshake::LEN])
}
