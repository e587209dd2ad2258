//! `ropewalk swarm`.
//!
//! It owns what is told of a swarm and how. Peers that went away meanwhile count as seen, what they had does not.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use ropewalk::{
    AddError, AddOptions, PeerStats, Protection, Source, Start, State, Survey, Torrent, TrackerState, TrackerStatus,
};
use serde_json::{Value, json};

use super::exit::{Code, failed};
use super::network::Network;
use super::screen::{Screen, say};
use super::signal::Stop;
use super::source::{self, Source as Named};
use super::watch::{NO_SOURCE, NO_SOURCE_OF_MAGNET, why_alone};
use super::words::{count, in_columns, left, percent, printable, read_time, size, time};

/// How often the swarm is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How many clients are named.
const CLIENTS: usize = 12;
/// The most lines of the histogram, and the columns of its longest.
const LINES: usize = 12;
const COLUMNS: u64 = 40;

const ABOUT: &str = "\
Look at a swarm without taking part in it

Connects to peers only to see who they are and what they have. Nothing is downloaded, uploaded or kept: no file is made, \
and none is looked at. To trackers and peers you are somebody who has nothing yet.";

const EXAMPLES: &str = "\
Examples:
  ropewalk swarm debian.iso.torrent
  ropewalk swarm https://example.org/x.torrent --time 30s
  ropewalk swarm 'magnet:?xt=urn:btih:...' --time 1m
  ropewalk swarm x.torrent --json | jq .clients
  ropewalk swarm x.torrent --no-tracker --peer 192.0.2.7:6881

With --json there is one object, when the time is over:
  name, info_hash, size, pieces   size and pieces are null where only a magnet link is known
  peers         known (addresses), seen (connected at any time), connected (at the end),
                seeds, partial_seeds (want no more, BEP 21), leechers: of those seen
  sources       by source: known, seen; whoever was named by several counts for each.
                tracker, dht, exchange (PEX), local (LSD), incoming, manual (--peer),
                magnet, resume
  clients       name and version: how many
  transports    how many of each: tcp (plaintext), tcp+handshake (an encrypted handshake,
                then plaintext), tcp+rc4, and the same with utp
  availability  pieces; copies: how many copies the connected peers have together;
                histogram: of how many peers have them, how many pieces
  trackers      url, state, what its announce and its scrape say
  list          the peers seen

Exit codes:
  0  done
  1  another error
  2  wrong usage
  3  stopped by Ctrl-C before the time was over; what was seen is told
  4  no peer was reached; what the trackers say is told
  6  bad input: not a torrent, or one that cannot be fetched or used";

/// Look at a swarm without taking part in it
#[derive(clap::Args)]
#[command(long_about = ABOUT, after_help = EXAMPLES)]
pub struct Args {
    /// A .torrent file, an http(s) URL of one, `-` for stdin, or a magnet link, of which the metadata is asked for
    torrent: std::ffi::OsString,
    /// How long to look: 30, 30s, 5m
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = read_time)]
    time: Duration,
    /// Tell everything as one JSON object on stdout
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    network: Network,
}

pub fn run(args: &Args, screen: &Screen, stop: &Stop) -> anyhow::Result<Code> {
    let peers = args.network.peers()?;
    let source = source::load(&args.torrent, args.network.bind.as_ref(), stop)?;
    let (has_source, otherwise) = match &source {
        Named::Torrent(metainfo) => (args.network.has_source(metainfo, &peers), NO_SOURCE),
        Named::Magnet(magnet) => (args.network.magnet_has_source(magnet, &peers), NO_SOURCE_OF_MAGNET),
    };
    if !has_source {
        return Err(failed(Code::NoPeers, otherwise));
    }
    let session = args.network.passing_session(screen, stop)?;
    let options = AddOptions {
        start: Start::Looking,
        peers,
        announce: !args.network.no_tracker,
        // Nothing is ever there.
        ..AddOptions::new("/")
    };
    let torrent = match source {
        Named::Torrent(metainfo) => session.add(metainfo, options)?,
        Named::Magnet(magnet) => {
            // Said here, where the code is known.
            magnet.info_hash.ok_or_else(|| failed(Code::BadInput, AddError::V2Only.to_string()))?;
            session.add_magnet(*magnet, options)?
        }
    };
    let mut swarm = Swarm::default();
    if !screen.is_live() && !args.json {
        screen.note(&format!("{}: looking for {}", torrent.name(), time(args.time)));
    }
    let stopped = watch(&torrent, args.time, &mut swarm, screen, stop)?;
    let why = why_alone(&torrent, &torrent.stats());
    session.shutdown();
    if args.json {
        screen.bytes(format!("{}\n", swarm.json(&torrent)).as_bytes())?;
    } else {
        screen.print(&swarm.text(&torrent))?;
    }
    if swarm.seen.is_empty() && !stopped {
        screen.error(&format!("no peer was reached: {why}; look longer with --time, or name one with --peer"));
    }
    Ok(match stopped {
        true => Code::Stopped,
        false if swarm.seen.is_empty() => Code::NoPeers,
        false => Code::Done,
    })
}

/// Looks until the time is over; `true` where somebody asked to stop before.
fn watch(torrent: &Torrent, time: Duration, swarm: &mut Swarm, screen: &Screen, stop: &Stop) -> anyhow::Result<bool> {
    let began = Instant::now();
    let lines: Vec<ProgressBar> = if screen.is_live() { (0..3).map(|_| screen.bar("")).collect() } else { Vec::new() };
    loop {
        let stopped = stop.wait(LOOK.min(time.saturating_sub(began.elapsed())));
        if let State::Failed(failure) = torrent.state() {
            return Err(failed(Code::Other, failure.message.to_string()));
        }
        swarm.look(torrent, began.elapsed());
        let remaining = time.saturating_sub(began.elapsed());
        for (line, text) in lines.iter().zip(swarm.live(pieces(torrent), remaining)) {
            say(line, &text);
        }
        if stopped || remaining.is_zero() {
            lines.iter().for_each(ProgressBar::finish_and_clear);
            return Ok(stopped);
        }
    }
}

/// What was seen so far.
#[derive(Default)]
struct Swarm {
    time: Duration,
    seen: HashMap<SocketAddr, PeerStats>,
    /// Connected when last looked at.
    connected: usize,
    /// Addresses.
    known: usize,
    survey: Survey,
    trackers: Vec<TrackerStatus>,
}

impl Swarm {
    fn look(&mut self, torrent: &Torrent, time: Duration) {
        self.time = time;
        let peers = torrent.peers();
        self.connected = peers.len();
        self.known = torrent.stats().known;
        self.seen.extend(peers.into_iter().map(|peer| (peer.addr, peer)));
        self.trackers = torrent.trackers();
        // Without an owner there is nothing new.
        if let Ok(survey) = torrent.survey() {
            self.survey = survey;
        }
    }

    /// How many of those seen are alike in something.
    fn count_by<K: Ord>(&self, what: impl Fn(&PeerStats) -> K) -> BTreeMap<K, usize> {
        let mut counts = BTreeMap::new();
        self.seen.values().for_each(|peer| *counts.entry(what(peer)).or_default() += 1);
        counts
    }

    /// Clients, the most frequent first.
    fn clients(&self) -> Vec<(String, usize)> {
        let mut clients: Vec<_> = self.count_by(|peer| printable(&peer.client)).into_iter().collect();
        clients.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
        clients
    }

    /// By source: addresses known, peers seen; one that several named counts for each of them.
    fn sources(&self) -> BTreeMap<Source, (usize, usize)> {
        let mut sources: BTreeMap<_, (usize, usize)> = BTreeMap::new();
        self.survey.known.iter().for_each(|(source, known)| sources.entry(*source).or_default().0 = *known);
        let seen = self.seen.values().flat_map(|peer| peer.sources.iter());
        seen.for_each(|source| sources.entry(source).or_default().1 += 1);
        sources
    }

    fn roles(&self, pieces: u32) -> Roles {
        let mut roles = Roles::default();
        for peer in self.seen.values() {
            *match (pieces > 0 && peer.pieces == pieces, peer.upload_only) {
                (true, _) => &mut roles.seeds,
                (false, true) => &mut roles.partial_seeds,
                (false, false) => &mut roles.leechers,
            } += 1;
        }
        roles
    }

    /// The lines that change while we look.
    fn live(&self, pieces: u32, remaining: Duration) -> [String; 3] {
        let peers = count(self.connected, "peer", "peers");
        let clients: Vec<_> = self.clients().iter().take(4).map(|(name, number)| format!("{number} {name}")).collect();
        [
            format!("{peers} connected, {} known; {}; {}", self.known, self.roles(pieces).text(), left(remaining)),
            clients.join(", "),
            format!("{:.2} copies", copies(&self.survey.availability)),
        ]
    }

    fn text(&self, torrent: &Torrent) -> String {
        let pieces = pieces(torrent);
        let mut lines = vec![
            printable(torrent.name()),
            torrent.metainfo().map_or_else(
                || "nobody has told what is in it".to_owned(),
                |it| format!("{}, {}", size(it.layout().total_len()), count(pieces as usize, "piece", "pieces")),
            ),
            format!(
                "{} seen ({}), {} known",
                count(self.seen.len(), "peer", "peers"),
                self.roles(pieces).text(),
                self.known
            ),
        ];
        lines.push("\nSources".into());
        for (source, (known, seen)) in self.sources() {
            lines.push(format!("  {:<9} {known:>5} known  {seen:>4} seen", source.name()));
        }
        if !self.seen.is_empty() {
            lines.push("\nClients".into());
            let clients = self.clients();
            for (name, number) in clients.iter().take(CLIENTS) {
                lines.push(format!("  {number:>4}  {name}"));
            }
            if let Some(more) = clients.len().checked_sub(CLIENTS).filter(|more| *more > 0) {
                lines.push(format!("        and {more} more"));
            }
            lines.push("\nTransports".into());
            for (transport, number) in self.count_by(transport) {
                lines.push(format!("  {number:>4}  {transport}"));
            }
            lines.push(format!("\nAvailability: {:.2} copies", copies(&self.survey.availability)));
            lines.extend(bars(&histogram(&self.survey.availability)));
        }
        if !self.trackers.is_empty() {
            lines.push("\nTrackers".into());
            lines.extend(self.trackers.iter().map(tracker_text));
        }
        lines.join("\n")
    }

    fn json(&self, torrent: &Torrent) -> Value {
        let pieces = pieces(torrent);
        let roles = self.roles(pieces);
        let size = torrent.metainfo().map(|metainfo| metainfo.layout().total_len());
        let sources = self
            .sources()
            .into_iter()
            .map(|(source, (known, seen))| (source.name().to_owned(), json!({ "known": known, "seen": seen })));
        let histogram = histogram(&self.survey.availability);
        let histogram = histogram.iter().map(|(peers, pieces)| json!({ "peers": peers, "pieces": pieces }));
        let mut list: Vec<_> = self.seen.values().collect();
        list.sort_by_key(|peer| peer.addr);
        json!({
            "name": torrent.name(), "info_hash": torrent.info_hash().to_string(),
            "size": size, "pieces": size.map(|_| pieces), "seconds": self.time.as_secs_f64(),
            "peers": {
                "known": self.known, "seen": self.seen.len(), "connected": self.connected,
                "seeds": roles.seeds, "partial_seeds": roles.partial_seeds, "leechers": roles.leechers,
            },
            "sources": sources.collect::<serde_json::Map<_, _>>(),
            "clients": self.clients().into_iter().collect::<BTreeMap<_, _>>(),
            "transports": self.count_by(transport),
            "availability": {
                "pieces": size.map(|_| pieces), "copies": copies(&self.survey.availability),
                "histogram": histogram.collect::<Vec<_>>(),
            },
            "trackers": self.trackers.iter().map(tracker_json).collect::<Vec<_>>(),
            "list": list.into_iter().map(|peer| peer_json(peer, pieces)).collect::<Vec<_>>(),
        })
    }
}

/// How many pieces there are; 0 as long as nobody knows.
fn pieces(torrent: &Torrent) -> u32 {
    torrent.metainfo().map_or(0, |metainfo| metainfo.layout().piece_count())
}

/// What a connection is made of, and how it is protected.
fn transport(peer: &PeerStats) -> String {
    match peer.protection {
        Protection::None => peer.transport.name().to_owned(),
        protection => format!("{}+{protection}", peer.transport.name()),
    }
}

/// What peers are there for.
#[derive(Default)]
struct Roles {
    seeds: usize,
    partial_seeds: usize,
    leechers: usize,
}

impl Roles {
    fn text(&self) -> String {
        let mut text = count(self.seeds, "seed", "seeds");
        if self.partial_seeds > 0 {
            text = text + ", " + &count(self.partial_seeds, "partial seed", "partial seeds");
        }
        text + ", " + &count(self.leechers, "leecher", "leechers")
    }
}

/// How many copies there are: as many as the rarest pieces have, and the part of all pieces that have more (as in most
/// clients).
fn copies(availability: &[u32]) -> f64 {
    let Some(&least) = availability.iter().min() else { return 0.0 };
    let more = availability.iter().filter(|&&peers| peers > least).count();
    f64::from(least) + more as f64 / availability.len() as f64
}

/// Of how many peers have them, how many pieces.
fn histogram(availability: &[u32]) -> BTreeMap<u32, u32> {
    let mut histogram = BTreeMap::new();
    availability.iter().for_each(|&peers| *histogram.entry(peers).or_default() += 1);
    histogram
}

/// The histogram as lines, with several numbers of peers in each where there are too many.
fn bars(histogram: &BTreeMap<u32, u32>) -> Vec<String> {
    let (Some((&first, _)), Some((&last, _))) = (histogram.first_key_value(), histogram.last_key_value()) else {
        return Vec::new();
    };
    let step = (last - first + 1).div_ceil(LINES as u32);
    let mut rows: BTreeMap<u32, u32> = BTreeMap::new();
    for (peers, pieces) in histogram {
        *rows.entry((peers - first) / step).or_default() += pieces;
    }
    let most = rows.values().copied().max().unwrap_or(1);
    let row = |(row, pieces): (u32, u32)| {
        let from = first + row * step;
        let to = last.min(from + step - 1);
        let peers = if from == to { from.to_string() } else { format!("{from}-{to}") };
        // What is there is seen, however little it is.
        let len = (u64::from(pieces) * COLUMNS).div_ceil(u64::from(most));
        let bar = "#".repeat(len as usize);
        let unit = if from == to && to == 1 { "peer " } else { "peers" };
        format!(
            "  {peers:>9} {unit}  {bar:<width$}  {}",
            count(pieces as usize, "piece", "pieces"),
            width = COLUMNS as usize
        )
    };
    rows.into_iter().map(row).collect()
}

fn tracker_text(tracker: &TrackerStatus) -> String {
    let mut said: Vec<String> = Vec::new();
    if let (Some(seeders), Some(leechers)) = (tracker.seeders, tracker.leechers) {
        let [seeds, leechers] = [(seeders, "seed", "seeds"), (leechers, "leecher", "leechers")]
            .map(|(number, one, more)| count(number as usize, one, more));
        said.push(format!("{seeds}, {leechers}"));
    }
    if let Some(scrape) = tracker.scrape {
        said.push(format!("scrape: {} and {}, completed {}", scrape.seeders, scrape.leechers, scrape.completed));
    }
    if let Some(error) = &tracker.error {
        said.push(error.clone());
    }
    if said.is_empty() {
        said.push(tracker_state(tracker.state).into());
    }
    format!("  {}  {}", in_columns(&printable(&tracker.url), 40), printable(&said.join("; ")))
}

fn tracker_json(tracker: &TrackerStatus) -> Value {
    let scrape = tracker
        .scrape
        .map(|scrape| json!({ "seeders": scrape.seeders, "leechers": scrape.leechers, "completed": scrape.completed }));
    json!({
        "url": &*tracker.url, "state": tracker_state(tracker.state), "seeders": tracker.seeders,
        "leechers": tracker.leechers, "peers": tracker.peers, "error": tracker.error, "scrape": scrape,
    })
}

fn tracker_state(state: TrackerState) -> &'static str {
    match state {
        TrackerState::Untried => "untried",
        TrackerState::Announcing => "asked",
        TrackerState::Working => "working",
        TrackerState::Failed => "failed",
        _ => "unsupported",
    }
}

fn peer_json(peer: &PeerStats, pieces: u32) -> Value {
    json!({
        "address": peer.addr.to_string(), "client": peer.client, "sources": peer.sources.iter().map(Source::name).collect::<Vec<_>>(),
        "transport": transport(peer), "incoming": peer.incoming, "pieces": peer.pieces,
        "percent": percent(peer.pieces.into(), pieces.into()), "upload_only": peer.upload_only,
    })
}

#[cfg(test)]
mod tests {
    use super::{bars, copies, histogram};

    #[test]
    fn copies_are_those_of_the_rarest_and_the_part_that_has_more() {
        assert_eq!(copies(&[]), 0.0);
        assert_eq!(copies(&[0, 0, 0]), 0.0);
        assert_eq!(copies(&[2, 2, 3, 9]), 2.5);
    }

    #[test]
    fn each_number_of_peers_has_its_line_as_long_as_there_are_few() {
        let lines = bars(&histogram(&[1, 1, 1, 2, 2, 0]));
        assert_eq!(lines.len(), 3);
        assert!(lines[0].contains("0 peers") && lines[0].ends_with("1 piece"), "{}", lines[0]);
        assert!(lines[1].contains("1 peer ") && lines[1].contains(&"#".repeat(40)), "{}", lines[1]);
        assert!(bars(&histogram(&[])).is_empty());
    }

    #[test]
    fn many_numbers_of_peers_share_lines() {
        let availability: Vec<u32> = (100..1100).collect();
        let lines = bars(&histogram(&availability));
        assert_eq!(lines.len(), 12);
        assert!(lines[0].contains("100-183 peers") && lines[11].contains("1024-1099 peers"), "{lines:?}");
    }
}
