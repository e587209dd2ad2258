//! `get --explain`: where the time goes, as a line while it goes and as a table in the end.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use console::measure_text_width;
use indicatif::ProgressBar;
use ropewalk::{Explanation, Stats, Times, Torrent};
use serde_json::{Map, Value, json};

use super::screen::{Screen, say};
use super::words::{percent, printable, size, time};

/// How often the live line changes.
const EVERY: Duration = Duration::from_millis(500);
/// How many of these it looks back: what was long ago is the table's.
const BACK: usize = 10;
/// The peers in the table.
const PEERS: usize = 10;
/// What a terminal has at least.
const COLUMNS: usize = 80;

/// What is told of one torrent.
pub struct Explain {
    bar: Option<ProgressBar>,
    /// Earlier explanations and when they were made, the latest last.
    seen: VecDeque<(Instant, Explanation)>,
}

impl Explain {
    /// `width` is that of the names beside bars.
    pub fn new(screen: &Screen, width: usize) -> Self {
        Self { bar: screen.is_live().then(|| screen.bar(&" ".repeat(width))), seen: VecDeque::new() }
    }

    /// Changes the live line, where it is time.
    pub fn draw(&mut self, torrent: &Torrent, now: Instant) {
        if self.bar.is_none() || self.seen.back().is_some_and(|(then, _)| now - *then < EVERY) {
            return;
        }
        let text = self.line(torrent, now);
        if let Some(bar) = &self.bar {
            say(bar, &text);
        }
    }

    /// What the time of the last seconds, or since the last few calls, went to.
    pub fn line(&mut self, torrent: &Torrent, now: Instant) -> String {
        let mut explanation = torrent.explain();
        // The sums are enough to compare with.
        explanation.peers.clear();
        let earliest = self.seen.front().map(|(_, earlier)| earlier);
        let line = earliest.map_or_else(|| explanation.clone(), |earlier| explanation.since(earlier)).line();
        if self.seen.len() == BACK {
            self.seen.pop_front();
        }
        self.seen.push_back((now, explanation));
        line
    }

    /// Takes the live line away.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// The closing table.
pub fn table(explanation: &Explanation, stats: &Stats) -> String {
    let mut lines = vec![explanation.to_string()];
    lines.extend(waste(stats.wasted, stats.downloaded));
    let mut peers: Vec<_> = explanation.peers.iter().collect();
    peers.sort_by_key(|peer| std::cmp::Reverse((peer.downloaded, peer.connection.total())));
    if !peers.is_empty() {
        lines.push(format!("{:>9}  {:>7}  {:<31}  mostly", "received", "for", "peer"));
    }
    for peer in peers.iter().take(PEERS) {
        let (total, longest) = (peer.connection.total(), peer.connection.longest());
        let mostly = longest.first().map_or_else(String::new, |(activity, spent)| {
            format!("{activity} ({} %)", percent(spent.as_millis() as u64, total.as_millis() as u64))
        });
        let name = format!("{} ({})", peer.addr, printable(&peer.client));
        let line = format!("{:>9}  {:>7}  {name:<31}", size(peer.downloaded), time(total));
        match measure_text_width(&line) + 2 + measure_text_width(&mostly) {
            ..=COLUMNS => lines.push(format!("{line}  {mostly}")),
            _ => lines.extend([line.trim_end().to_owned(), format!("{:20}{mostly}", "")]),
        }
    }
    if peers.len() > PEERS {
        lines.push(format!("{:>9}  and {} more", "", peers.len() - PEERS));
    }
    lines.join("\n")
}

/// What came in vain, where anything did.
fn waste(wasted: u64, downloaded: u64) -> Option<String> {
    let part = 100.0 * wasted as f64 / downloaded.max(1) as f64;
    (wasted > 0)
        .then(|| format!("received in vain: {} ({part:.2} % of all), late, unasked, wrong or not stored", size(wasted)))
}

/// The same for programs: seconds by activity.
pub fn numbers(explanation: &Explanation) -> Value {
    let (connected, asked) = explanation.mean_peers();
    let peers = explanation.peers.iter().map(|peer| {
        json!({
            "address": peer.addr.to_string(), "client": peer.client, "incoming": peer.incoming,
            "transport": peer.transport.name(), "encryption": peer.protection.to_string(), "gone": peer.gone,
            "current": peer.current.name(), "downloaded": peer.downloaded, "uploaded": peer.uploaded,
            "connection": seconds(&peer.connection), "sender": seconds(&peer.sender),
        })
    });
    json!({
        "seconds": explanation.elapsed().as_secs_f64(), "torrent": seconds(&explanation.torrent),
        "connections": seconds(&explanation.connections), "senders": seconds(&explanation.senders),
        "workers": seconds(&explanation.workers), "worker_threads": explanation.worker_threads,
        "connected": explanation.connected, "callers": explanation.callers, "mean_connected": connected,
        "mean_asked": asked, "peers": peers.collect::<Vec<_>>(),
    })
}

fn seconds(times: &Times) -> Value {
    let each =
        times.longest().into_iter().map(|(activity, spent)| (activity.name().into(), json!(spent.as_secs_f64())));
    Value::Object(each.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::waste;

    #[test]
    fn what_came_in_vain_is_told_where_anything_did() {
        assert_eq!(waste(0, 1 << 30), None);
        let told = waste(1 << 20, 1 << 30).unwrap();
        assert_eq!(told, "received in vain: 1.0 MiB (0.10 % of all), late, unasked, wrong or not stored");
    }
}
