//! What people are told of a torrent that is followed: what it is at, why it has no peer, and what to do next.

use ropewalk::{DhtState, Metainfo, State, Stats, Torrent, TrackerState, TrackerStatus};

use crate::cli::exit::without_number;
use crate::cli::select::numbered;
use crate::cli::words::{count, left, part, percent, printable, rate, shown, size};

/// Nothing could lead to a peer.
pub const NO_SOURCE: &str = "nothing to connect to: no tracker that ropewalk can ask, and no --peer; \
                             give an address with --peer HOST:PORT, or let the DHT look for one (no --no-dht)";
/// The same for a magnet link.
pub const NO_SOURCE_OF_MAGNET: &str = "nothing to ask for the metadata: the magnet link names no peer and no tracker that \
                                       ropewalk can ask, and there is no --peer; give an address with --peer HOST:PORT, \
                                       let the DHT look for one (no --no-dht), or give the .torrent file";
/// Wrong files that are named.
const NAMED: usize = 10;

/// What it is at.
pub fn text(torrent: &Torrent, stats: &Stats) -> String {
    let peers = count(stats.peers, "peer", "peers");
    match &stats.state {
        State::Metadata { tried, offering, pieces, total } => {
            let tried = count(*tried, "connection tried", "connections tried");
            match (total, stats.peers) {
                (0, 0) => format!("looking for metadata; {}", why_alone(torrent, stats)),
                (0, _) => format!("looking for metadata: {peers}, which have none yet; {tried}"),
                (total, _) => {
                    let total = count(*total as usize, "piece", "pieces");
                    format!("looking for metadata: {peers}, {pieces} of {total} from {offering}; {tried}")
                }
            }
        }
        State::Opening | State::Paused => "opening the files".into(),
        State::Checking { done, total } => {
            format!("{:>3} %  checking the files", percent(u64::from(*done), u64::from(*total)))
        }
        State::Waiting(why) => format!("waiting: {}", waiting(why, stats)),
        State::Seeding => {
            let (up, sent) = (rate(stats.up_rate), size(stats.uploaded));
            // Nobody may come where no tracker tells anybody.
            let trackers = if stats.peers == 0 { torrent.trackers() } else { Vec::new() };
            let failing = if one_works(&trackers) { None } else { failing(&trackers) };
            let failed = failing.map_or_else(String::new, |failed| format!("  {failed}"));
            format!("seeding  {up:>12} up  {peers}  {sent} sent{failed}")
        }
        _ if stats.peers == 0 => {
            let percent = percent(stats.done, stats.wanted);
            format!("{percent:>3} %  no peers yet: {}", why_alone(torrent, stats))
        }
        _ => {
            let (percent, part) = (percent(stats.done, stats.wanted), part(stats.done, stats.wanted));
            let (down, left) = (rate(stats.down_rate), stats.eta().map_or_else(String::new, left));
            let up = if stats.up_rate > 0 { format!(", {} up", rate(stats.up_rate)) } else { String::new() };
            let left = if left.is_empty() { left } else { format!(", {left}") };
            format!("{percent} %, {part}, {down}{up}, {peers}{left}")
        }
    }
}

/// What it waits for, and how much will come then.
pub fn waiting(why: &str, stats: &Stats) -> String {
    let left = stats.wanted.saturating_sub(stats.done);
    if left == 0 { why.to_owned() } else { format!("{why} ({} still to come)", size(left)) }
}

/// Why there is no peer, as far as is known; what says most comes first.
pub fn why_alone(torrent: &Torrent, stats: &Stats) -> String {
    let trackers = torrent.trackers();
    let works = one_works(&trackers);
    let asked = match failing(&trackers) {
        _ if trackers.is_empty() => stats.dht.is_none().then(|| "no tracker is asked".to_owned()),
        _ if works && stats.known == 0 => Some("the tracker knows nobody else".to_owned()),
        _ if works => None,
        failing => Some(failing.unwrap_or_else(|| "asking the tracker".to_owned())),
    };
    let dht = stats.dht.as_ref().and_then(|dht| match dht.state {
        DhtState::Alone => Some("no node of the DHT answers"),
        DhtState::Joined => (stats.known == 0).then_some("the DHT knows nobody else"),
        _ => Some("joining the DHT"),
    });
    let asked = asked.into_iter().chain(dht.map(str::to_owned));
    addresses(stats).into_iter().chain(refused(stats)).chain(asked).collect::<Vec<_>>().join("; ")
}

fn one_works(trackers: &[TrackerStatus]) -> bool {
    trackers.iter().any(|tracker| tracker.state == TrackerState::Working)
}

/// What the first tracker that failed says.
fn failing(trackers: &[TrackerStatus]) -> Option<String> {
    let said = |error: &String, url: &str| format!("{}: {}", host_of(url), printable(&without_number(error)));
    trackers.iter().find_map(|tracker| Some(said(tracker.error.as_ref()?, &tracker.url)))
}

/// What came of the addresses that are known.
fn addresses(stats: &Stats) -> Option<String> {
    let missed = &stats.missed;
    let mut ways = [
        (missed.unencrypted, "refusing encryption, and --encryption require was given"),
        (missed.refused, "refusing connections"),
        (missed.hung_up, "hanging up"),
        (missed.silent, "silent"),
        (missed.unreachable, "out of reach"),
        (missed.other, "answering something else"),
    ];
    ways.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    let ways = ways.into_iter().filter(|(number, _)| *number > 0);
    // What all of them do needs no number.
    let mut ways: Vec<_> = ways
        .map(|(number, way)| if number == stats.known { way.to_owned() } else { format!("{number} {way}") })
        .collect();
    if stats.dialling > 0 {
        ways.push(format!("{} being tried", stats.dialling));
    }
    let known = count(stats.known, "address", "addresses");
    match &ways[..] {
        _ if stats.known == 0 => None,
        [] => Some(format!("{known} known, to be tried again")),
        ways => Some(format!("{known} known: {}", ways.join(", "))),
    }
}

/// Addresses that were named and are not called.
fn refused(stats: &Stats) -> impl Iterator<Item = String> {
    let of = stats.refused;
    let ways = [
        (of.blocked, "blocked by --blocklist"),
        (of.unreachable, "not to be reached from here"),
        (of.banned, "banned for what was sent from there"),
    ];
    ways.into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, why)| format!("{} {why}", count(number as usize, "address", "addresses")))
}

/// The part of a tracker's URL that people know it by.
fn host_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    printable(rest.split(['/', '?']).next().unwrap_or(rest))
}

/// What was tried to find metadata, in lines.
pub fn what_was_tried(torrent: &Torrent, stats: &Stats) -> Vec<String> {
    let State::Metadata { tried, offering, .. } = stats.state else { return Vec::new() };
    let mut tries = vec![format!(
        "{}: {} connected, {offering} with metadata",
        count(tried, "connection tried", "connections tried"),
        stats.peers
    )];
    tries.extend(addresses(stats));
    tries.extend(refused(stats));
    let trackers = torrent.trackers();
    for tracker in &trackers {
        let came = match (&tracker.error, tracker.state) {
            (Some(error), _) => without_number(error),
            (None, TrackerState::Working) => count(tracker.peers, "peer", "peers"),
            (None, _) => "no answer yet".to_owned(),
        };
        tries.push(printable(&format!("{}: {came}", tracker.url)));
    }
    if trackers.is_empty() {
        tries.push("no tracker was asked".to_owned());
    }
    if let Some(dht) = &stats.dht {
        let nodes = count(dht.nodes(), "node", "nodes");
        tries.push(match dht.state {
            DhtState::Alone => "the DHT: no node answers".to_owned(),
            DhtState::Joined => format!("the DHT: {nodes} known, nobody with this torrent answered"),
            _ => format!("the DHT: being joined, {nodes} known"),
        });
    }
    tries
}

/// The files that are not as the torrent says.
pub fn what_is_wrong(torrent: &Torrent) -> String {
    let have = torrent.pieces();
    let layout = torrent.metainfo().map(Metainfo::layout);
    let mut wrong = Vec::new();
    for (layout, file) in layout.into_iter().flat_map(|layout| numbered(layout).map(move |(_, file)| (layout, file))) {
        let of = layout.pieces_of(file);
        let bad = of.clone().filter(|&piece| !have.get(piece)).count();
        if bad > 0 {
            let path = torrent.path_of(file);
            wrong.push(match path.exists() {
                true => format!("{}: {bad} of {} wrong", shown(&path), count(of.len(), "piece", "pieces")),
                false => format!("{}: missing", shown(&path)),
            });
        }
    }
    let more = wrong.len().saturating_sub(NAMED);
    wrong.truncate(NAMED);
    let more = if more > 0 { format!("\n  and {}", count(more, "file more", "files more")) } else { String::new() };
    format!(
        "the files are not what the torrent says; `ropewalk get` into {} fetches what is wrong\n  {}{more}",
        torrent.dir().display(),
        wrong.join("\n  ")
    )
}

/// What it is at beside a bar, in fields of a constant width, the most important first.
pub fn fields(stats: &Stats) -> [String; 5] {
    let left = stats.eta().map_or_else(String::new, left);
    [
        format!("{:>3} %", percent(stats.done, stats.wanted)),
        format!("{:>12}", rate(stats.down_rate)),
        format!("{left:<11}"),
        format!("{:>8}", count(stats.peers, "peer", "peers")),
        format!("{:>14}", part(stats.done, stats.wanted).replace(" of ", "/")),
    ]
}

/// A failure of the library, said to someone who can only run a command again.
pub fn what_to_do(message: &str) -> String {
    let message = without_number(message);
    match message.strip_suffix("it goes on by itself") {
        Some(before) => format!("{before}then the same command goes on"),
        None if message.contains(';') => message,
        None => format!("{message}; check the disk and its permissions, then the same command goes on"),
    }
}
