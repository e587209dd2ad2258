//! The page of a trace: one HTML file that needs nothing else.
//!
//! It owns the way from a timeline to the text of the page. Names, clients and messages are other people's: they are
//! made printable, go into the page as JSON in which no tag can begin or end, and its script shows them as text alone. The
//! page's own policy forbids it to load anything.

use std::time::Duration;

use serde_json::{Value, json};

use super::recorder::{Cell, Kind, Marks, PHASES, Recorder, Row};
use crate::cli::words::printable;

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// How a trace names each kind of mark.
const KINDS: [(Kind, &str); super::recorder::KINDS] = [
    (Kind::Tracker, "tracker"),
    (Kind::File, "file"),
    (Kind::Failed, "failed"),
    (Kind::Stall, "stall"),
    (Kind::Banned, "banned"),
    (Kind::Left, "left"),
    (Kind::Unreachable, "unreachable"),
    (Kind::Trouble, "trouble"),
];

/// What the page says beside the timeline.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub name: String,
    pub info_hash: String,
    /// Bytes of the torrent.
    pub size: u64,
    pub piece_length: u32,
    pub files: usize,
    /// Milliseconds since 1970.
    pub started: u64,
    /// Wanted bytes, and those of them that are verified.
    pub wanted: u64,
    pub done: u64,
    pub downloaded: u64,
    pub uploaded: u64,
    pub wasted: u64,
    /// Bytes a second.
    pub limit_down: Option<u64>,
    /// How it ended, as `--json` calls it.
    pub result: String,
    /// Why, where there is more to say.
    pub why: Option<String>,
}

/// The whole page.
pub fn page(facts: &Facts, recorder: &Recorder) -> String {
    let name = html(&printable(&facts.name));
    let data = script_json(&data(facts, recorder));
    let parts = [("{{style}}", STYLE), ("{{title}}", &name), ("{{heading}}", &name), ("{{data}}", &data)];
    let mut page = String::with_capacity(TEMPLATE.len() + STYLE.len() + SCRIPT.len() + data.len());
    let mut rest = TEMPLATE;
    // Each is looked for in the template alone: what is filled in may look like a place to fill in.
    for (place, text) in parts.into_iter().chain([("{{script}}", SCRIPT)]) {
        let (before, after) = rest.split_once(place).expect("the template has its places, in this order");
        page.push_str(before);
        page.push_str(text);
        rest = after;
    }
    page + rest
}

fn data(facts: &Facts, recorder: &Recorder) -> Value {
    let rows = recorder.rows();
    let totals = recorder.totals();
    let arrivals = recorder.arrivals().iter().map(|row| {
        let numbers = row.iter().flat_map(|arrival| {
            let by = arrival.by(&rows).map_or(-1, |row| row as i64);
            [i64::from(arrival.bin), i64::from(arrival.count), by]
        });
        numbers.collect::<Vec<_>>()
    });
    let phases: String = totals.iter().map(|total| phase(&total.phases)).collect();
    let marks = KINDS.map(|(kind, name)| (name.to_owned(), self::marks(recorder.marks(kind))));
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "name": printable(&facts.name), "hash": facts.info_hash, "size": facts.size, "files": facts.files,
        "pieceLength": facts.piece_length, "pieces": recorder.piece_count(), "started": facts.started,
        "wanted": facts.wanted, "done": facts.done, "downloaded": facts.downloaded, "uploaded": facts.uploaded,
        "wasted": facts.wasted, "limit": facts.limit_down,
        "result": facts.result, "why": facts.why.as_deref().map(printable),
        "end": millis(recorder.end()), "finished": recorder.finished().map(millis), "width": millis(recorder.width()),
        "bins": totals.len(), "peersEver": recorder.peers_ever(),
        "down": runs(totals.iter().map(|total| total.down)), "up": runs(totals.iter().map(|total| total.up)),
        "connected": runs(totals.iter().map(|total| u64::from(total.peers))), "phases": phases,
        "had": recorder.had(), "arrivals": arrivals.collect::<Vec<_>>(),
        "peers": rows.iter().map(|row| peer(row)).collect::<Vec<_>>(),
        "marks": marks.into_iter().collect::<serde_json::Map<_, _>>(),
    })
}

fn peer(row: &Row) -> Value {
    json!({
        "addr": row.addr.to_string(), "client": printable(&row.client), "incoming": row.incoming,
        "protection": row.protection.to_string(),
        "first": millis(row.first), "last": millis(row.last), "down": row.down, "up": row.up, "wasted": row.wasted,
        "pieces": row.pieces, "stalls": row.stalls, "gone": row.gone.as_deref().map(printable),
        "rates": runs(row.cells.iter().map(|cell| cell.down)),
        "states": row.cells.iter().map(state).collect::<String>(),
    })
}

fn marks(marks: &Marks) -> Value {
    let list = marks.list.iter().map(|mark| json!([millis(mark.at), printable(&mark.text), mark.piece]));
    json!({ "seen": marks.seen, "list": list.collect::<Vec<_>>() })
}

/// Numbers, with `-n` for `n` zeros in a row.
fn runs(numbers: impl Iterator<Item = u64>) -> Vec<i64> {
    let mut out: Vec<i64> = Vec::new();
    for number in numbers {
        match (number, out.last_mut()) {
            (0, Some(zeros)) if *zeros < 0 => *zeros -= 1,
            (0, _) => out.push(-1),
            _ => out.push(i64::try_from(number).unwrap_or(i64::MAX)),
        }
    }
    out
}

/// What the torrent did for the longest part of a bin, as a letter. To have waited is told in any case.
fn phase(times: &[u32; PHASES]) -> char {
    let letters = ['o', 'c', 'd', 'w', 's'];
    let longest = times.iter().zip(letters).rev().max_by_key(|(time, _)| **time);
    match longest {
        _ if times[super::recorder::Phase::Waiting as usize] > 0 => 'w',
        Some((1.., letter)) => letter,
        _ => '.',
    }
}

/// What a peer did in a bin, as a letter: stalled, choked us, was asked, was not asked, was not there. To have stalled is
/// told in any case.
fn state(cell: &Cell) -> char {
    match () {
        () if cell.stalled > 0 => 's',
        () if cell.choked * 2 > cell.seen => 'c',
        () if cell.asked * 2 > cell.seen => 'a',
        () if cell.seen > 0 || cell.down > 0 => 'i',
        () => '.',
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

/// JSON that can stand in a script element: outside of strings it has none of these characters.
fn script_json(value: &Value) -> String {
    let escape = |c: char| format!("\\u{:04x}", u32::from(c));
    let json = value.to_string();
    ['<', '>', '&', '\u{2028}', '\u{2029}'].into_iter().fold(json, |json, c| json.replace(c, &escape(c)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ropewalk::Protection;

    use super::super::recorder::{Doing, Kind, Look, PeerLook, Phase, Recorder};
    use super::{Facts, page, runs};

    const NASTY: &str = "</script><script>alert(1)</script><!--{{script}}\"'&\u{202e}\u{2028}\0";

    fn nasty() -> (Facts, Recorder) {
        let mut recorder = Recorder::new(10);
        let addr = ([10, 0, 0, 1], 6881).into();
        let peer = PeerLook {
            addr,
            client: NASTY.into(),
            incoming: true,
            protection: Protection::Rc4,
            down: 5,
            up: 0,
            wasted: 0,
            doing: Doing::Choking,
        };
        let look = Look { phase: Phase::Downloading, down: 5, up: 0, peers: vec![peer] };
        recorder.connected(Duration::ZERO, addr);
        recorder.look(Duration::from_secs(1), look);
        recorder.gone(Duration::from_secs(1), addr, NASTY);
        recorder.mark(Duration::from_secs(1), Kind::File, NASTY, None);
        (Facts { name: NASTY.into(), why: Some(NASTY.into()), ..Facts::default() }, recorder)
    }

    #[test]
    fn names_from_outside_cannot_leave_their_place() {
        let (facts, recorder) = nasty();
        let page = page(&facts, &recorder);
        assert_eq!(page.matches("<script").count(), 2, "the data and the script");
        assert_eq!(page.matches("</script").count(), 2);
        assert_eq!(page.matches("alert(1)").count(), page.matches("script\\u003ealert(1)").count() + 2);
        assert_eq!(page.matches("&lt;/script&gt;&lt;script&gt;alert(1)").count(), 2, "the title and the heading");
        assert!(!page.contains('\u{202e}') && !page.contains('\0'), "nothing that turns or ends the text");
        assert_eq!(page.matches('\u{2028}').count(), 2, "in the title and the heading, not in the data");
    }

    #[test]
    fn the_data_is_json_and_has_the_names_as_they_are() {
        let (facts, recorder) = nasty();
        let page = page(&facts, &recorder);
        let (_, data) = page.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
        let data: serde_json::Value = serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap();
        for text in [&data["name"], &data["why"], &data["peers"][0]["client"], &data["peers"][0]["gone"]] {
            assert!(text.as_str().unwrap().starts_with("</script><script>alert(1)</script><!--{{script}}\"'&"));
        }
        assert_eq!(data["peers"][0]["states"].as_str().unwrap().trim_end_matches('.'), "c".repeat(50));
        assert_eq!(data["phases"].as_str().unwrap().len(), data["bins"].as_u64().unwrap() as usize);
    }

    #[test]
    fn nothing_is_loaded_from_anywhere() {
        let (facts, recorder) = nasty();
        let page = page(&facts, &recorder);
        assert!(page.contains("default-src 'none'"));
        for part in ["http:", "https:", "//cdn", "@import", "url("] {
            assert!(!page.contains(part), "{part}");
        }
        assert_eq!(page.matches("src=").count(), 0);
    }

    #[test]
    fn zeros_are_told_by_their_number() {
        assert_eq!(runs([0, 0, 5, 0, 7, 0, 0, 0].into_iter()), [-2, 5, -1, 7, -3]);
        assert_eq!(runs(std::iter::empty()), [0i64; 0]);
    }
}
