//! `ropewalk tracker`: a tracker server until it is stopped.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};
use ropewalk::tracker::{
    AccessConfig, AccessKey, IpNetwork, ListenError, MemoryConfig, RequestRate, StoreConfig, Tracker, TrackerConfig,
    TrackerServer, TrackerStats,
};
use serde_json::json;

use super::exit::{Code, failed, without_number};
use super::json::Json;
use super::screen::{EVENT, Screen, search};
use super::signal::Stop;
use super::words::{count, read_time};

/// How often a plain line says what goes on, where anything did.
const LINE: Duration = Duration::from_secs(60);

const NOT_SAVED: &str = "the state is not saved";

const ABOUT: &str = "\
Run a tracker: tell the peers of torrents about each other

Answers over HTTP and UDP, for IPv4 and IPv6, from memory or from a Redis that several trackers share. A peer is registered \
where its request comes from, whatever it says. Without options every torrent is served, at port 6969. Ctrl-C stops it; \
SIGHUP reads the lists of --allow and --deny again.";

const EXAMPLES: &str = "\
Examples:
  ropewalk tracker
  ropewalk tracker --admin 127.0.0.1:8080 --state swarms.state
  ropewalk tracker --http 127.0.0.1:6969 --proxy 127.0.0.1 --no-udp
  ropewalk tracker --store redis://127.0.0.1 --allow torrents.txt
  ropewalk tracker --http 7969 --udp 7969 --key sesame
  ropewalk create album --tracker http://tracker.example:6969/announce

Events of --json, one object per line:
  listening  http, udp (lists of ADDR:PORT), admin (or null)
  stats      once a second: torrents, seeders, leechers, announces, scrapes,
             refused (since the start), announces_per_second, state_error (why
             the file of --state cannot be written, or null); or error, where
             the store does not answer
  reloaded   after SIGHUP, where there are lists; with error, why they could
             not be read and stay as they were, where that failed
  error      message, result, code

Exit codes:
  0  stopped by Ctrl-C (or SIGTERM)
  1  another error, such as an address that is in use
  2  wrong usage
  5  disk: a list cannot be read, or the state not be read or written, or it is
     in use by another tracker";

/// Run a tracker: tell the peers of torrents about each other
#[derive(clap::Args)]
#[command(long_about = ABOUT, after_help = EXAMPLES)]
pub struct Args {
    /// Where to listen for HTTP, instead of all addresses at port 6969; a port alone is all addresses; may be given again
    #[arg(long, value_name = "[ADDR:]PORT", conflicts_with = "no_http", value_parser = place)]
    http: Vec<Place>,
    /// Where to listen for UDP, instead of all addresses at port 6969; a port alone is all addresses; may be given again
    #[arg(long, value_name = "[ADDR:]PORT", conflicts_with = "no_udp", value_parser = place)]
    udp: Vec<Place>,
    /// Do not listen for HTTP
    #[arg(long, conflicts_with = "no_udp")]
    no_http: bool,
    /// Do not listen for UDP
    #[arg(long)]
    no_udp: bool,
    /// Where to serve a page of what goes on, /stats.json and /metrics; give one that strangers do not reach
    #[arg(long, value_name = "ADDR:PORT", value_parser = address)]
    admin: Option<SocketAddr>,
    /// Where to keep the swarms: `memory`, or the URL of a Redis, such as redis://HOST; a cluster is several with commas. While
    /// Redis is away, torrents that were asked for lately are answered from memory, with peers of up to 5 minutes ago
    #[arg(long, value_name = "STORE", default_value = "memory", value_parser = store)]
    store: StoreConfig,
    /// A file that keeps the memory between runs: read at the start, if it is there, written now and then and at the end
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// How often the file of --state is written while there is something new, from 1s to 24h
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = state_interval, requires = "state")]
    state_interval: Duration,
    /// What clients are asked to wait between announces, from 1m to 8h; who is silent for half as long again is forgotten
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = interval)]
    interval: Duration,
    /// Serve only the torrents of this file: an info-hash a line, # before comments
    #[arg(long, value_name = "FILE")]
    allow: Option<PathBuf>,
    /// Do not serve the torrents of this file
    #[arg(long, value_name = "FILE")]
    deny: Option<PathBuf>,
    /// Serve only who knows this word of 1 to 100 letters, digits and -._~: announce URLs are http://HOST:PORT/WORD/announce
    /// then, and the same with udp for clients that send the path along (BEP 41)
    #[arg(long, value_name = "WORD")]
    key: Option<AccessKey>,
    /// Believe this address or network of proxies where a request came from (X-Forwarded-For); may be given again
    #[arg(long, value_name = "ADDR[/BITS]")]
    proxy: Vec<IpNetwork>,
    /// Announces and scrapes a minute that one address may make over time, from 1; twice as many may come at once. Without it
    /// there is no limit
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// The most peers in an answer, from 1 to 65535
    #[arg(long, value_name = "NUMBER", default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..))]
    peers: u16,
    /// Threads for each address that is listened on, from 1 to 256 [default: as many as there are processor cores]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// Answer scrapes over HTTP that name no torrent with so many, at most 100000; 0 refuses them
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=100_000))]
    full_scrape: u32,
    /// Tell what goes on as one JSON object per line on stdout
    #[arg(long)]
    pub json: bool,
}

/// By which the lists are to be read again.
struct Hangups {
    asked: Receiver<()>,
    has_lists: bool,
}

/// Where to listen: one address, or all of them at one port.
#[derive(Clone, Debug)]
struct Place(Vec<SocketAddr>);

pub fn run(args: &Args, screen: &Screen, stop: &Stop) -> anyhow::Result<Code> {
    let json = Json::new(args.json);
    let hangups = Hangups { asked: stop.hangups()?, has_lists: args.allow.is_some() || args.deny.is_some() };
    if let Some(folder) = args.state.as_deref().and_then(Path::parent).filter(|it| !it.as_os_str().is_empty())
        && !folder.is_dir()
    {
        let text = format!("there is no folder {} to keep the state in; make it, or choose another", folder.display());
        return Err(failed(Code::Disk, text));
    }
    let tracker = Tracker::with(config(args)).map_err(told)?;
    tell_where(&tracker, args.key.is_some(), screen, &json);
    let outcome = follow(&tracker, screen, &json, stop, &hangups);
    tracker.stop().map_err(told)?;
    outcome?;
    json.check()?;
    Ok(Code::Done)
}

fn config(args: &Args) -> TrackerConfig {
    let mut config = TrackerConfig::default();
    match (args.no_http, args.http.is_empty()) {
        (true, _) => config.http.clear(),
        (false, true) => {}
        (false, false) => config.http = addresses(&args.http),
    }
    match (args.no_udp, args.udp.is_empty()) {
        (true, _) => config.udp.clear(),
        (false, true) => {}
        (false, false) => config.udp = addresses(&args.udp),
    }
    config.admin = args.admin;
    config.store = args.store.clone();
    let expiry = args.interval + args.interval / 2;
    match &mut config.store {
        StoreConfig::Memory(memory) => memory.expiry = expiry,
        #[cfg(feature = "redis")]
        StoreConfig::Redis(redis) => redis.expiry = expiry,
        _ => {}
    }
    config.state_file.clone_from(&args.state);
    config.state_interval = args.state_interval;
    config.workers = args.workers.and_then(|workers| NonZeroUsize::new(workers.into()));
    config.interval = args.interval;
    config.access = AccessConfig { allow: args.allow.clone(), deny: args.deny.clone(), key: args.key.clone() };
    config.proxies.clone_from(&args.proxy);
    config.rate = args.rate.map(|per_minute| RequestRate { per_minute, burst: per_minute.saturating_mul(2) });
    config.limits.peers = args.peers.into();
    config.limits.full_scrape = args.full_scrape as usize;
    config.limits.usual_peers = config.limits.usual_peers.min(config.limits.peers);
    config
}

fn addresses(places: &[Place]) -> Vec<SocketAddr> {
    places.iter().flat_map(|place| place.0.iter().copied()).collect()
}

fn place(text: &str) -> Result<Place, String> {
    match text.parse::<u16>() {
        Ok(port) => Ok(Place(vec![(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()])),
        Err(_) => text.parse().map(|addr| Place(vec![addr])).map_err(|_| {
            "not an address with a port, such as 192.0.2.1:6969 or [2001:db8::1]:6969, nor a port such as 6969".into()
        }),
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "not an address with a port, such as 127.0.0.1:8080 or [::1]:8080".into())
}

/// Between a minute and eight hours: a store remembers nobody for longer than half as long again.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = read_time(text)?;
    let allowed = Duration::from_secs(60)..=Duration::from_secs(8 * 60 * 60);
    if allowed.contains(&interval) { Ok(interval) } else { Err("it is from 1m to 8h".into()) }
}

fn state_interval(text: &str) -> Result<Duration, String> {
    let interval = read_time(text)?;
    let allowed = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);
    if allowed.contains(&interval) { Ok(interval) } else { Err("it is from 1s to 24h".into()) }
}

fn store(text: &str) -> Result<StoreConfig, String> {
    if text == "memory" {
        return Ok(StoreConfig::Memory(MemoryConfig::default()));
    }
    #[cfg(feature = "redis")]
    return match text.parse() {
        Ok(place) => Ok(StoreConfig::Redis(ropewalk::tracker::RedisConfig::new(place))),
        Err(error) => Err(error.to_string()),
    };
    #[cfg(not(feature = "redis"))]
    Err("only `memory`: this program was built without Redis; `cargo install ropewalk --features redis` has it".into())
}

/// An error of the library, with the code that it means.
fn told(error: io::Error) -> anyhow::Error {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<ListenError>()) {
        return not_listening(error);
    }
    let text = error.to_string();
    match error.kind() {
        io::ErrorKind::InvalidInput => failed(Code::Usage, text),
        io::ErrorKind::NotFound | io::ErrorKind::InvalidData | io::ErrorKind::Other => failed(Code::Disk, text),
        _ => anyhow::Error::new(error),
    }
}

/// Which option has to be another.
fn not_listening(error: &ListenError) -> anyhow::Error {
    let option = match error.server {
        TrackerServer::Http => "--http",
        TrackerServer::Udp => "--udp",
        TrackerServer::Pages => "--admin",
    };
    let text = without_number(&error.to_string());
    match error.source.kind() {
        _ if error.itself.is_some() => failed(Code::Usage, format!("{text}; give {option} another port")),
        io::ErrorKind::AddrInUse => {
            let next = format!("is a tracker running there already? Stop it, or give {option} another port");
            failed(Code::Other, format!("{text}; {next}"))
        }
        _ => failed(Code::Other, format!("{text}; give {option} another address or port")),
    }
}

fn tell_where(tracker: &Tracker, keyed: bool, screen: &Screen, json: &Json) {
    let texts = |addrs: &[SocketAddr]| addrs.iter().map(SocketAddr::to_string).collect::<Vec<_>>();
    let (http, udp) = (texts(tracker.http()), texts(tracker.udp()));
    let admin = tracker.admin().map(|addr| addr.to_string());
    json.event("listening", json!({ "http": http, "udp": udp, "admin": admin }));
    for (scheme, addrs) in [("http", &http), ("udp", &udp)] {
        for addr in addrs {
            // The key itself is nobody's business who reads what a service says.
            screen.note(&match keyed {
                true => format!("listening: {scheme} at {addr}, path /WORD/announce with the word of --key"),
                false => format!("listening: {scheme}://{addr}/announce"),
            });
        }
    }
    if let Some(admin) = admin {
        screen.note(&format!("what goes on: http://{admin}/"));
    }
}

/// Says what goes on until it is time to stop.
fn follow(tracker: &Tracker, screen: &Screen, json: &Json, stop: &Stop, hangups: &Hangups) -> anyhow::Result<()> {
    let bar = screen.is_live().then(|| screen.bar("tracker"));
    let ticks = crossbeam_channel::tick(EVENT);
    let (mut told, mut announces, mut troubles) = (Instant::now(), 0, Troubles::default());
    loop {
        select! {
            recv(stop.asked()) -> _ => break,
            recv(hangups.asked) -> _ => match hangups.has_lists {
                true => reload(tracker, screen, json),
                false => screen.note("there are no lists to read again; --allow and --deny name them"),
            },
            recv(ticks) -> _ => {
                // Also where nothing is printed: what is wrong is said as it begins.
                let stats = tracker.stats();
                match &stats {
                    Ok(stats) => json.event("stats", fields(stats)),
                    Err(error) => json.event("stats", json!({ "error": without_number(&error.to_string()) })),
                }
                json.check()?;
                troubles.tell(&stats, screen);
                let text = stats.as_ref().map_or_else(io::Error::to_string, said);
                if let Some(bar) = &bar {
                    search(bar, &text);
                } else if told.elapsed() >= LINE && !json.is_wanted() {
                    told = Instant::now();
                    let before = announces;
                    announces = stats.map_or(announces, |stats| stats.announces);
                    if announces != before {
                        screen.note(&text);
                    }
                }
            }
        }
    }
    bar.inspect(|bar| bar.finish_and_clear());
    Ok(())
}

/// What is wrong, and has been said.
#[derive(Default)]
struct Troubles {
    /// The store does not answer.
    away: bool,
    /// Why the state is not saved.
    unsaved: Option<String>,
}

impl Troubles {
    /// Says what has begun, and what is over.
    fn tell(&mut self, stats: &io::Result<TrackerStats>, screen: &Screen) {
        let was_away = std::mem::replace(&mut self.away, stats.is_err());
        let stats = match stats {
            Ok(stats) => stats,
            Err(error) if was_away => return log::debug!("tracker: {error}"),
            Err(error) => return screen.warn(&without_number(&error.to_string())),
        };
        if was_away {
            screen.end_of_warning("the store answers again");
        }
        if stats.state_error != self.unsaved {
            self.unsaved.clone_from(&stats.state_error);
            match &self.unsaved {
                Some(error) => screen.warn(&format!("{NOT_SAVED}: {}", without_number(error))),
                None => screen.end_of_warning("the state is saved again"),
            }
        }
    }
}

fn reload(tracker: &Tracker, screen: &Screen, json: &Json) {
    match tracker.reload() {
        Ok(()) => {
            json.event("reloaded", json!({}));
            screen.note("the lists of torrents are read again");
        }
        Err(error) => {
            let text = without_number(&error.to_string());
            json.event("reloaded", json!({ "error": text }));
            screen.warn(&format!("{text}; the lists stay as they were"));
        }
    }
}

fn fields(stats: &TrackerStats) -> serde_json::Value {
    json!({
        "torrents": stats.torrents, "seeders": stats.seeders, "leechers": stats.leechers,
        "announces": stats.announces, "scrapes": stats.scrapes, "refused": stats.refused,
        "announces_per_second": stats.announces_per_second, "state_error": stats.state_error.as_deref().map(without_number),
    })
}

fn said(stats: &TrackerStats) -> String {
    let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    format!(
        "{}, {}, {}, {:.0} announces a second, {} refused{}",
        count(number(stats.torrents), "torrent", "torrents"),
        count(number(stats.seeders), "seeder", "seeders"),
        count(number(stats.leechers), "leecher", "leechers"),
        stats.announces_per_second,
        stats.refused,
        if stats.state_error.is_some() { format!("; {NOT_SAVED}") } else { String::new() },
    )
}
