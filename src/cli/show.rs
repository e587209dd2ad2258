//! `ropewalk show`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use ropewalk::Metainfo;
use serde_json::{Value, json};

use super::exit::Code;
use super::magnet;
use super::screen::Screen;
use super::select::numbered;
use super::signal::Stop;
use super::source::{self, Source};
use super::words::{count, printable, size};

/// The last second of the year 9999: later ones are no dates.
const LAST_DATE: i64 = 253_402_300_799;

const EXAMPLES: &str = "\
Examples:
  ropewalk show album.torrent
  ropewalk show 'magnet:?xt=urn:btih:...'
  ropewalk show https://example.org/album.torrent --json | jq -r .info_hash
  ropewalk create album -o - | ropewalk show -

--json prints one object: name, info_hash, size, piece_length, pieces, private,
multi_file, files (number, path in the torrent, size, executable), trackers (a list per tier),
web_seeds, http_seeds, nodes (of the DHT), comment, created_by, created (seconds since 1970),
source, unknown_keys (top, info). Of a magnet link: magnet, info_hash, info_hash_v2, name, trackers,
web_seeds, peers, dht_nodes, select (pairs of the first and the last file, counted from 1, padding
included, for nobody knows yet which files are that).

Exit codes:
  0  done
  2  wrong usage
  3  stopped by Ctrl-C (or SIGTERM)
  6  bad input: not a torrent, or one that cannot be fetched or used";

/// Show what a .torrent or a magnet link says
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A .torrent file, an http(s) URL of one, `-` for stdin, or a magnet link
    torrent: OsString,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

pub fn run(args: &Args, screen: &Screen, stop: &Stop) -> anyhow::Result<Code> {
    let text = match source::load(&args.torrent, None, stop)? {
        Source::Torrent(metainfo) if args.json => for_programs(&metainfo).to_string(),
        Source::Torrent(metainfo) => for_people(&metainfo),
        Source::Magnet(magnet) if args.json => magnet::for_programs(&magnet).to_string(),
        Source::Magnet(magnet) => magnet::for_people(&magnet),
    };
    screen.bytes(format!("{}\n", text.trim_end()).as_bytes())?;
    Ok(Code::Done)
}

fn for_programs(metainfo: &Metainfo) -> Value {
    let layout = metainfo.layout();
    let files = numbered(layout).map(|(number, file)| {
        let file = layout.file(file);
        let executable = file.attributes().executable;
        json!({ "number": number, "path": file.path().to_string_lossy(), "size": file.len(), "executable": executable })
    });
    let unknown = metainfo.unknown_keys();
    json!({
        "name": metainfo.name(),
        "info_hash": metainfo.info_hash().to_string(),
        "size": content(metainfo),
        "piece_length": layout.piece_length(),
        "pieces": layout.piece_count(),
        "private": metainfo.is_private(),
        "multi_file": metainfo.is_multi_file(),
        "files": files.collect::<Vec<_>>(),
        "trackers": metainfo.trackers(),
        "web_seeds": metainfo.web_seeds(),
        "http_seeds": metainfo.http_seeds(),
        "nodes": metainfo.nodes(),
        "comment": metainfo.comment(),
        "created_by": metainfo.created_by(),
        "created": metainfo.creation_date(),
        "source": metainfo.source(),
        "unknown_keys": { "top": unknown.top, "info": unknown.info },
    })
}

fn for_people(metainfo: &Metainfo) -> String {
    let layout = metainfo.layout();
    let mut rows: Vec<(&str, String)> = Vec::new();
    let mut row = |name, text: &str| rows.push((name, printable(text)));
    row("name", metainfo.name());
    row("info-hash", &metainfo.info_hash().to_string());
    let files = numbered(layout).count();
    row(
        "size",
        &format!("{} in {} ({} bytes)", size(content(metainfo)), count(files, "file", "files"), content(metainfo)),
    );
    row("pieces", &format!("{} of {}", layout.piece_count(), size(layout.piece_length().into())));
    row("private", if metainfo.is_private() { "yes: peers from its trackers only" } else { "no" });
    match (created(metainfo), metainfo.created_by()) {
        (Some(date), Some(by)) => row("created", &format!("{date} by {by}")),
        (Some(text), None) => row("created", &text),
        (None, Some(by)) => row("created", &format!("by {by}")),
        (None, None) => {}
    }
    if let Some(comment) = metainfo.comment() {
        comment.lines().for_each(|line| row("comment", line));
    }
    if let Some(source) = metainfo.source() {
        row("source", source);
    }
    if metainfo.trackers().is_empty() {
        row("trackers", "none");
    }
    for (number, tier) in (1..).zip(metainfo.trackers()) {
        let several = metainfo.trackers().len() > 1;
        let tail = |at| if several && at == 0 { format!("  (tier {number})") } else { String::new() };
        tier.iter().enumerate().for_each(|(at, url)| row("trackers", &(url.to_owned() + &tail(at))));
    }
    metainfo.web_seeds().iter().for_each(|url| row("web seeds", url));
    metainfo.http_seeds().iter().for_each(|url| row("http seeds", url));
    metainfo.nodes().iter().for_each(|node| row("DHT nodes", node));
    let unknown = metainfo.unknown_keys();
    let joined = |keys: &BTreeSet<String>| keys.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    if !unknown.top.is_empty() {
        row("unknown", &joined(&unknown.top));
    }
    if !unknown.info.is_empty() {
        row("unknown", &format!("{} (in info)", joined(&unknown.info)));
    }

    let mut text = String::new();
    let mut last = "";
    for (name, value) in &rows {
        // A name is said once.
        let shown = if *name == last { "" } else { name };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{shown:<10}  {value}");
        last = name;
    }
    let width = files.to_string().len();
    let _ = writeln!(text, "files");
    for (number, file) in numbered(layout) {
        let file = layout.file(file);
        let (len, path) = (size(file.len()), printable(&file.path().to_string_lossy()));
        let _ = writeln!(text, "  {number:>width$}  {len:>10}  {path}");
    }
    text
}

/// The bytes of all files, padding left out.
fn content(metainfo: &Metainfo) -> u64 {
    metainfo.layout().files().iter().filter(|file| !file.is_padding()).map(|file| file.len()).sum()
}

fn created(metainfo: &Metainfo) -> Option<String> {
    let seconds = metainfo.creation_date().filter(|date| (0..=LAST_DATE).contains(date))?;
    let date = UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs());
    Some(humantime::format_rfc3339_seconds(date).to_string().replace('T', " ").replace('Z', " UTC"))
}
