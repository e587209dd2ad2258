//! What programs are told of a torrent that is followed: the fields of its events.

use ropewalk::{DhtStatus, Event, Metainfo, Record, Standing, State, Stats, Torrent};
use serde_json::{Value, json};

use crate::cli::select::numbered;
use crate::cli::words::printable;

/// An event of the library, as one for programs: its name and fields. `numbers` are those of its files.
pub fn happened(torrent: &Torrent, numbers: &[usize], event: Event) -> Option<(&'static str, Value)> {
    Some(match event {
        Event::File(file) => {
            let number = numbers.get(file.get() as usize);
            let path = torrent.metainfo().map(|metainfo| metainfo.layout().file(file).path().to_string_lossy());
            ("file", json!({ "number": number, "path": path }))
        }
        Event::PeerConnected(addr) => ("peer", json!({ "address": addr.to_string() })),
        Event::PeerGone { addr, why, record } => {
            let reputation = record.as_ref().map(reputation);
            let why = printable(&why);
            ("peer-gone", json!({ "address": addr.to_string(), "why": why, "reputation": reputation }))
        }
        Event::PeerBanned(addr) => ("banned", json!({ "address": addr.to_string() })),
        Event::PieceFailed(piece) => ("piece-failed", json!({ "piece": piece })),
        Event::Dht(message) => ("dht", json!({ "message": message })),
        Event::Tracker(message) => ("tracker", json!({ "message": printable(&message) })),
        _ => return None,
    })
}

/// Who was refused, by why.
pub fn refused(stats: &Stats) -> Value {
    let of = stats.refused;
    json!({
        "blocked": of.blocked, "unreachable": of.unreachable, "banned": of.banned, "own": of.own,
        "no_room": of.no_room, "blocked_callers": stats.blocked_callers,
    })
}

/// Where nobody was met, by why.
pub fn missed(stats: &Stats) -> Value {
    let of = stats.missed;
    json!({
        "silent": of.silent, "refused": of.refused, "unreachable": of.unreachable, "hung_up": of.hung_up,
        "unencrypted": of.unencrypted, "other": of.other,
    })
}

/// What is remembered of a peer.
fn reputation(record: &Record) -> Value {
    let standing = match record.standing() {
        Standing::Good => "good",
        Standing::Unknown => "unknown",
        Standing::Poor => "poor",
        Standing::Cheat => "cheat",
    };
    json!({
        "standing": standing, "useful": record.useful, "lies": record.lies, "faults": record.faults,
        "stalls": record.stalls, "last_seen": record.last_seen,
    })
}

/// What is known of it, for a program; nothing before its metadata is there.
pub fn what_it_is(torrent: &Torrent) -> Value {
    torrent.metainfo().map(Metainfo::layout).map_or_else(
        || json!({}),
        |layout| {
            json!({
                "size": layout.total_len(), "pieces": layout.piece_count(), "files": numbered(layout).count(),
            })
        },
    )
}

/// The number of each file as people see it, by its place.
pub fn numbers(torrent: &Torrent) -> Vec<usize> {
    let Some(layout) = torrent.metainfo().map(Metainfo::layout) else { return Vec::new() };
    let mut numbers = vec![0; layout.files().len()];
    numbered(layout).for_each(|(number, file)| numbers[file.get() as usize] = number);
    numbers
}

pub fn with_id(torrent: &Torrent, mut fields: Value) -> Value {
    fields["info_hash"] = torrent.info_hash().to_string().into();
    fields["name"] = torrent.name().into();
    fields
}

pub fn progress(stats: &Stats, doing: &str) -> Value {
    let mut fields = json!({
        "state": doing, "done": stats.done, "wanted": stats.wanted, "pieces": stats.pieces_have,
        "pieces_total": stats.pieces_total, "downloaded": stats.downloaded, "uploaded": stats.uploaded,
        "wasted": stats.wasted, "down_rate": stats.down_rate, "up_rate": stats.up_rate, "peers": stats.peers,
        "seeds": stats.seeds, "known": stats.known, "eta": stats.eta().map(|eta| eta.as_secs()),
        "dht": stats.dht.as_ref().map(DhtStatus::nodes),
    });
    match &stats.state {
        State::Metadata { tried, offering, pieces, total } => {
            fields["metadata"] = json!({ "tried": tried, "offering": offering, "pieces": pieces, "total": total });
        }
        State::Checking { done, total } => fields["checked"] = json!({ "done": done, "total": total }),
        State::Waiting(why) => fields["why"] = json!(&**why),
        _ => {}
    }
    fields
}

/// What a torrent is at that waits.
pub const WAITING: &str = "waiting";

pub fn doing(state: &State) -> &'static str {
    match state {
        // Paused is only how it waits between being opened and being let loose.
        State::Opening | State::Paused => "opening",
        State::Metadata { .. } => "metadata",
        State::Checking { .. } => "checking",
        State::Downloading => "downloading",
        State::Seeding => "seeding",
        State::Waiting(_) => WAITING,
        State::Failed(_) => "failed",
        _ => "stopped",
    }
}
