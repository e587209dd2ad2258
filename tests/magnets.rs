//! Magnet links as five clients test them: libtorrent, magnet-uri, Transmission, anacrolix/torrent, and rain, rqbit and
//! intermodal with them. The table is `vectors/magnets.tsv`; what it calls policy is decided here.

use std::collections::BTreeSet;

use ropewalk::Magnet;

/// What the table says of a link, and what ropewalk makes of it.
struct Row<'a> {
    uri: String,
    expected: &'a str,
    v1: &'a str,
    v2: &'a str,
    name: String,
    trackers: BTreeSet<String>,
    web_seeds: BTreeSet<String>,
    peers: BTreeSet<String>,
    nodes: BTreeSet<String>,
    select: BTreeSet<String>,
    note: &'a str,
}

fn rows() -> Vec<Row<'static>> {
    let set = |cell: &str| cell.split(' ').filter(|one| !one.is_empty()).map(ToOwned::to_owned).collect();
    let lines = include_str!("vectors/magnets.tsv").lines().skip(1);
    lines
        .map(|line| {
            let cells: Vec<_> = line.split('\t').collect();
            let files = cells[9].split(',').filter(|one| !one.is_empty());
            Row {
                uri: cells[0].replace("\\n", "\n"),
                expected: cells[1],
                v1: cells[2],
                v2: cells[3],
                name: cells[4].replace("\\n", "\n"),
                trackers: set(cells[5]),
                web_seeds: set(cells[6]),
                peers: set(cells[7]),
                nodes: set(cells[8]),
                select: files.map(ToOwned::to_owned).collect(),
                note: cells[11],
            }
        })
        .collect()
}

/// The table has peers and nodes as `ADDRESS:PORT`, without brackets.
fn bare(host: &ropewalk::metainfo::Host) -> String {
    host.to_string().replace(['[', ']'], "")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_link_of_the_table_yields_what_it_must() {
    let rows = rows();
    assert_eq!(rows.len(), 94);
    for Row { uri, expected, v1, v2, name, trackers, web_seeds, peers, nodes, select, note } in rows {
        let read = uri.parse::<Magnet>();
        let is_ok = match expected {
            // A bare info-hash is what people have who copied it from somewhere: it means only one thing.
            "ok" | "ok-bare" => true,
            // A broken tracker or peer costs the link that one, as with libtorrent, not all that it leads to.
            "policy" => true,
            // Torrents that change (BEP 46) are not followed.
            "fail" | "ok-bep46" => false,
            other => panic!("{other}"),
        };
        let Ok(magnet) = read else {
            assert!(!is_ok, "{uri}: {read:?} ({note})");
            continue;
        };
        assert!(is_ok, "{uri}: {magnet:?} ({note})");
        assert_eq!(magnet.info_hash.map(|hash| hash.to_string()).unwrap_or_default(), v1, "{uri}");
        assert_eq!(magnet.info_hash_v2.map(|hash| hex(&hash)).unwrap_or_default(), v2, "{uri}");
        // The table leaves out the name where its tool stopped at a key without a value.
        if !uri.contains("&empty&") {
            assert_eq!(magnet.name.clone().unwrap_or_default(), name, "{uri}");
        }
        // Its tool drops a tracker with an exclamation mark in the host, which the link's own client keeps.
        let kept = magnet.trackers.iter().filter(|url| !url.contains('!'));
        assert_eq!(kept.cloned().collect::<BTreeSet<_>>(), trackers, "{uri}");
        assert_eq!(magnet.web_seeds.iter().cloned().collect::<BTreeSet<_>>(), web_seeds, "{uri}");
        // Peers may be named by a host name (BEP 9), which the table's tool drops.
        let addrs = magnet.peers.iter().filter(|host| matches!(host, ropewalk::metainfo::Host::Addr(_)));
        assert_eq!(addrs.map(bare).collect::<BTreeSet<_>>(), peers, "{uri}");
        assert_eq!(magnet.nodes.iter().map(bare).collect::<BTreeSet<_>>(), nodes, "{uri}");
        let files = magnet.select.ranges().iter().cloned().flatten().map(|file| file.to_string());
        assert_eq!(files.collect::<BTreeSet<_>>(), select, "{uri}");
        assert_eq!(magnet.to_string().parse(), Ok(magnet), "{uri}");
        if note.contains("round trip") || note.contains("round-trip") {
            assert_eq!(uri.parse::<Magnet>().unwrap().to_string(), uri);
        }
    }
}

#[test]
fn peers_by_name_are_kept() {
    let link = "magnet:?xt=urn:btih:da39a3ee5e6b4b0d3255bfef95601890afd80709&x.pe=foo.com:1337&x.pe=bar.net:666";
    let peers: Vec<_> = link.parse::<Magnet>().unwrap().peers.iter().map(ToString::to_string).collect();
    assert_eq!(peers, ["foo.com:1337", "bar.net:666"]);
}
