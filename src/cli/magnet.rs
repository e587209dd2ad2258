//! `ropewalk magnet`, and magnet links in words.

use std::ffi::OsString;
use std::fmt::Write;

use ropewalk::{Magnet, Priority};
use serde_json::{Value, json};

use super::exit::Code;
use super::screen::Screen;
use super::select::{Pattern, priorities};
use super::signal::Stop;
use super::source::{self, Source};
use super::words::printable;

const EXAMPLES: &str = "\
Examples:
  ropewalk magnet album.torrent
  ropewalk magnet album.torrent --files '*.flac' --no-trackers
  ropewalk create album -o - | ropewalk magnet -

--json prints one object: magnet, info_hash, info_hash_v2, name, trackers, web_seeds, peers,
dht_nodes, select (pairs of the first and the last file, counted from 1, padding included).

Exit codes:
  0  done
  2  wrong usage
  3  stopped by Ctrl-C (or SIGTERM)
  6  bad input: not a torrent, or one that cannot be fetched or used";

/// Print the magnet link of a torrent
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A .torrent file, an http(s) URL of one, `-` for stdin, or a magnet link to be written anew
    torrent: OsString,
    /// Leave its trackers out
    #[arg(long)]
    no_trackers: bool,
    /// Leave its web seeds out
    #[arg(long)]
    no_web_seeds: bool,
    /// Select these files for whoever opens the link: numbers (3, 2-5) or patterns ('*.flac')
    #[arg(long, value_name = "FILES", value_delimiter = ',', value_parser = Pattern::read)]
    files: Vec<Pattern>,
    /// Name a peer; can be repeated
    #[arg(long, value_name = "HOST:PORT", value_parser = read_host)]
    peer: Vec<ropewalk::metainfo::Host>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

pub fn run(args: &Args, screen: &Screen, stop: &Stop) -> anyhow::Result<Code> {
    let mut magnet = match source::load(&args.torrent, None, stop)? {
        Source::Magnet(magnet) if args.files.is_empty() => *magnet,
        Source::Magnet(_) => {
            source::load_metainfo(&args.torrent, None, stop, "--files")?;
            return Ok(Code::BadInput);
        }
        Source::Torrent(metainfo) => {
            if metainfo.is_private() {
                screen.warn(
                    "the torrent is private: many clients, ropewalk among them, do not give its metadata to others",
                );
            }
            let mut magnet = Magnet::of(&metainfo);
            let chosen = priorities(&args.files, &metainfo)?;
            let places = (0..).zip(chosen).filter(|(_, priority)| *priority != Priority::Skip);
            magnet.select = places.map(|(place, _)| place).collect();
            magnet
        }
    };
    if args.no_trackers {
        magnet.trackers.clear();
    }
    if args.no_web_seeds {
        magnet.web_seeds.clear();
    }
    magnet.peers.extend(args.peer.iter().cloned());
    let text = if args.json { for_programs(&magnet).to_string() } else { magnet.to_string() };
    screen.bytes(format!("{text}\n").as_bytes())?;
    Ok(Code::Done)
}

fn read_host(text: &str) -> Result<ropewalk::metainfo::Host, String> {
    text.parse().map_err(|error: ropewalk::metainfo::ParseHostError| error.to_string())
}

/// What a link holds, as one object.
pub fn for_programs(magnet: &Magnet) -> Value {
    json!({
        "magnet": magnet.to_string(),
        "info_hash": magnet.info_hash.map(|hash| hash.to_string()),
        "info_hash_v2": magnet.info_hash_v2.map(|hash| hex(&hash)),
        "name": magnet.name,
        "trackers": magnet.trackers,
        "web_seeds": magnet.web_seeds,
        "peers": magnet.peers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "dht_nodes": magnet.nodes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "select": selected(magnet).collect::<Vec<_>>(),
    })
}

/// The first and the last of each range of files that a link selects, counted from 1 as everywhere; the link itself counts
/// from 0. Padding counts here, as nobody knows before the metadata is there what of the torrent is padding.
fn selected(magnet: &Magnet) -> impl Iterator<Item = [u64; 2]> {
    magnet.select.ranges().iter().map(|range| [u64::from(*range.start()) + 1, u64::from(*range.end()) + 1])
}

/// What a link holds, line by line.
pub fn for_people(magnet: &Magnet) -> String {
    let mut rows: Vec<(&str, String)> = Vec::new();
    rows.extend(magnet.name.iter().map(|name| ("name", name.clone())));
    rows.extend(magnet.info_hash.iter().map(|hash| ("info-hash", hash.to_string())));
    rows.extend(magnet.info_hash_v2.iter().map(|hash| ("info-hash v2", hex(hash))));
    if magnet.trackers.is_empty() {
        rows.push(("trackers", "none".to_owned()));
    }
    rows.extend(magnet.trackers.iter().map(|url| ("trackers", url.clone())));
    rows.extend(magnet.web_seeds.iter().map(|url| ("web seeds", url.clone())));
    rows.extend(magnet.peers.iter().map(|peer| ("peers", peer.to_string())));
    rows.extend(magnet.nodes.iter().map(|node| ("DHT nodes", node.to_string())));
    if !magnet.select.is_empty() {
        let range = |[first, last]: [u64; 2]| if first == last { first.to_string() } else { format!("{first}-{last}") };
        let ranges: Vec<_> = selected(magnet).map(range).collect();
        rows.push(("selects", format!("files {}", ranges.join(","))));
    }
    let mut text = String::new();
    let mut last = "";
    for (name, value) in &rows {
        let shown = if *name == last { "" } else { name };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{shown:<12}  {}", printable(value));
        last = name;
    }
    text + "files are listed by its metadata, which only peers have: `ropewalk get` fetches it\n"
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
