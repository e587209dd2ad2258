//! Ropewalk itself, the library, in a process of its own: this is what is measured.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use ropewalk::bits::Bits;
use ropewalk::policy::Picker;
use ropewalk::wire::message::{Header, Limits, Message, peek};
use ropewalk::{AddOptions, Config, Event, Metainfo, Session, Start, State};
use rustix::time::ClockId;
use serde_json::{Value, json};

use crate::PATIENCE;
use crate::numbers::{nanos, peak_mib, percentiles, watch};

/// Messages that are decoded in a row.
const DECODED: usize = 100_000;

/// Downloads, or is called, as it is told, and tells what that cost.
pub(crate) fn client(task: &Value) -> anyhow::Result<()> {
    let path = |key: &str| task[key].as_str().map(PathBuf::from).context("a path");
    let metainfo = Metainfo::read(&path("torrent")?)?;
    let wanted = task["peers"].as_u64().unwrap_or(0) as usize;
    let idle = task["idle"].as_f64().unwrap_or(0.0);
    let mut config = Config::default();
    config.dht.enabled = false;
    config.listen.bind = Some(IpAddr::from(Ipv4Addr::LOCALHOST).into());
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

fn await_that(what: &str, is_it: impl Fn() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_it() {
        ensure!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
