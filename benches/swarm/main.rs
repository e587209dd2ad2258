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
//! | rx | processor time of a peer's reading thread for one `interested`, or what takes it back: `read`, decoding, telling |
//! | rx, 32 at once | the same for 32 in one segment, per message: a message under load rarely comes alone |
//! | owner | processor time of the torrent's thread for the same: waking up, finding it a free slot among all peers |
//! | owner, 32 at once | the same for 32 in one segment, per message |
//! | decoding | wall time of framing and decoding one message, and of counting a `have` in the bitfield and the picker |
//!
//! Those of rx and owner are the kernel's own count of a thread's time (`schedstat`) before and after a segment; what the
//! kernel does for others in that thread's name is in them. They are taken while the senders send, and so is decoding, message by message in ropewalk's process, without any
//! system call; the owner's, whose thread does much else then, are taken with all connected and nothing else going on.
//!
//! | module | owns |
//! |---|---|
//! | `args` | the command line |
//! | `part` | a process of the bench, as seen by the first one |
//! | `payload`, `tracker` | what all parts share |
//! | `client` | ropewalk, which is measured |
//! | `peers`, `callers` | the other peers |
//! | `probe` | the peer that measures messages |
//! | `numbers` | what the kernel knows |
//! | `report` | what came of it |

mod args;
mod callers;
mod client;
mod numbers;
mod part;
mod payload;
mod peers;
mod probe;
mod report;
mod tracker;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use ropewalk::Metainfo;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::args::{Args, FEW};
use crate::part::{PART, Part, TASK};
use crate::payload::make_torrent;
use crate::probe::Probe;
use crate::report::report;
use crate::tracker::Tracker;

/// How long anything may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(300);
/// The threads that play peers.
const THREADS: usize = 4;

fn main() -> anyhow::Result<()> {
    // RUST_LOG=debug shows what ropewalk thinks of its peers.
    env_logger::init();
    allow_descriptors();
    match std::env::var(PART) {
        Ok(part) => {
            let task: Value = serde_json::from_str(&std::env::var(TASK)?)?;
            match &part[..] {
                "client" => client::client(&task),
                "peers" => peers::peers(&task),
                _ => callers::callers(&task),
            }
        }
        Err(_) => drive(&Args::parse()),
    }
}

/// Makes the torrent, is its tracker, has everything measured in turns, and prints.
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
    let owner_batch = probe.measure("torrent-", 32, args.messages())?;
    peers.say("go")?;
    client.say("go")?;
    let rx = probe.measure("rx-127.99.0.1", 1, args.messages())?;
    let batch = probe.measure("rx-127.99.0.1", 32, args.messages())?;
    client.say("decode")?;
    let decode = client.line()?;
    Ok(json!({"rx": rx, "rx_batch": batch, "owner": owner, "owner_batch": owner_batch, "decode": decode}))
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

/// Thousands of connections need more descriptors than the usual 1,024.
fn allow_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).ok();
}
