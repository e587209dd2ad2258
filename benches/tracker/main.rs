//! The tracker under load, beside the generator on the same machine.
//!
//! `cargo bench --bench tracker -- --full`
//!
//! The tracker is a process of its own, so that only its memory is measured; this one plays all clients. With `--against` or
//! `--against-udp` it is another one that runs already, with `--pid` so that its memory can be seen.
//!
//! | number | is |
//! |---|---|
//! | memory per peer | what the process's resident memory (`VmRSS`) has grown by when every peer has announced once, divided |
//! | announces/s | answered while as many are under way at a time as there are connections, or as `--window` says |
//! | p50, p99 | from when an announce was due to its answer, at half of that rate, whatever is late: the generator's own stalls too |
//! | lost | announces over UDP without an answer |
//!
//! On a machine of few cores the generator and the tracker wait for each other's turns. `--workers 1` leaves the generator a
//! core of two, and `chrt -f 1` before the command (as root) has both go first: without it the times are mostly those of the
//! scheduler, as what the bare thread takes shows.
//!
//! | module | owns |
//! |---|---|
//! | `args` | the command line |
//! | `server` | the process that is measured |
//! | `http`, `udp` | clients |

mod args;
mod http;
mod server;
mod udp;

use std::num::NonZeroU64;
use std::time::Duration;

use clap::Parser;
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::set_current_timer_slack;

use crate::args::Args;
use crate::http::Floor;
use crate::server::Server;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    // Thousands of connections need more than the usual 1,024; the tracker inherits it.
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    if args.serve {
        return server::serve(&args);
    }
    if args.info_hashes {
        http::info_hashes().for_each(|hash| println!("{}", ropewalk::InfoHash::new(hash)));
        return Ok(());
    }
    // Otherwise the kernel takes the liberty to have a sleep between announces last 50 us longer.
    set_current_timer_slack(NonZeroU64::new(1))?;
    match (args.against, args.against_udp) {
        (None, None) => {
            over_udp(&args)?;
            over_http(&args)
        }
        (Some(_), None) => over_http(&args),
        (None, Some(_)) => over_udp(&args),
        (Some(_), Some(_)) => over_udp(&args).and_then(|()| over_http(&args)),
    }
}

fn over_udp(args: &Args) -> anyhow::Result<()> {
    let server = match args.against_udp {
        Some(addr) => Server::running(addr, args.pid),
        None => Server::start(args)?,
    };
    let (peers, torrents) = (args.peers(), args.torrents());
    println!("udp: {peers} peers in {torrents} torrents, {} peers wanted by each announce", args.wanted);
    let mut load = udp::Load::connect(server.udp(), args)?;
    let before = server.resident()?;
    let filled = load.fill(peers)?;
    if let (Some(before), Some(after)) = (before, server.resident()?) {
        let grown = after.saturating_sub(before);
        println!("udp: {:.1} bytes of memory per peer, {} KiB for all", grown as f64 / f64::from(peers), grown >> 10);
    }
    println!("udp: {filled:.0} announces/s of peers that are new");
    let full = load.saturate(args.seconds())?;
    println!("udp: {:.0} announces/s, {:.1} peers in each answer, {} lost", full.rate, full.peers, full.lost);
    let rate = args.rate.unwrap_or(full.rate / 2.0);
    at_rate("", &mut load, rate, args)?;
    drop(server);
    let floor = udp::Floor::start(full.peers.round() as usize)?;
    let mut load = udp::Load::connect(floor.addr, args)?;
    let most = load.saturate(args.seconds())?;
    println!("udp: {:.0} announces/s by a thread that answers the same bytes to everybody", most.rate);
    at_rate("the same thread: ", &mut load, rate, args)
}

fn at_rate(what: &str, load: &mut udp::Load, rate: f64, args: &Args) -> anyhow::Result<()> {
    let paced = load.pace(rate, args.seconds())?;
    let [p50, p99] = [50, 99].map(|percent| paced.percentile(percent));
    println!("udp: {what}p50 {p50:?}, p99 {p99:?} at {:.0} announces/s, {} lost", paced.rate, paced.lost);
    Ok(())
}

fn over_http(args: &Args) -> anyhow::Result<()> {
    let load = |tracker, rate, reconnect| http::Load {
        tracker,
        connections: args.connections,
        threads: if reconnect { args.threads.get() } else { 1 },
        time: args.seconds(),
        rate,
        reconnect,
    };
    if let Some(addr) = args.against {
        report("reconnect", load(addr, None, true))?;
        report("keep-alive", load(addr, None, false))?;
        return Ok(());
    }
    let server = Server::start(args)?;
    let keep = report("keep-alive", load(server.http(), None, false))?;
    let floor = Floor::start(&keep.answer, 2)?;
    println!("http: an answer has {} bytes", keep.answer.len());
    let most = report("a server of nothing but these bytes", load(floor.addr, None, false))?;
    println!("http: {:.2} of it", keep.per_second / most.per_second);
    drop(floor);
    report("half load", load(server.http(), Some(keep.per_second / 2.0), false))?;
    report("reconnect", load(server.http(), None, true))?;
    let before = server.resident()?;
    let held = http::idle(server.http(), args.idle())?;
    if let (Some(before), Some(after)) = (before, server.resident()?) {
        println!("http: {} KiB more with {} idle connections", after.saturating_sub(before) >> 10, held.len());
    }
    Ok(())
}

fn report(what: &str, load: http::Load) -> anyhow::Result<http::Outcome> {
    let outcome = http::run(load)?;
    let [p50, p99]: [Duration; 2] = [50, 99].map(|percent| outcome.percentile(percent));
    println!("http: {what}: {:.0} announces/s, p50 {p50:?}, p99 {p99:?}", outcome.per_second);
    Ok(outcome)
}
