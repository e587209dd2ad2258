//! .torrent files that other programs made, and ours in theirs.

use std::path::Path;
use std::process::Command;

use ropewalk::{InfoHash, Metainfo};

use crate::PIECE;
use crate::rig::need;
use crate::rig::payload::Payload;

/// Makes a .torrent of a folder with libtorrent, and prints the info-hash of its v1 part.
const MAKE: &str = r#"
import sys, libtorrent as lt
folder, out, kind = sys.argv[1:]
flags = {"v1": lt.create_torrent.v1_only, "hybrid": lt.create_torrent.canonical_files}[kind]
t = lt.create_torrent(lt.list_files(folder), 32768, flags) if hasattr(lt, "list_files") else None
if t is None:
    files = lt.file_storage()
    lt.add_files(files, folder)
    t = lt.create_torrent(files, 32768, flags)
t.add_tracker("http://127.0.0.1:1/announce", 0)
lt.set_piece_hashes(t, folder.rpartition("/")[0])
open(out, "wb").write(lt.bencode(t.generate()))
print(lt.torrent_info(out).info_hashes().v1)
"#;

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn shown_by_transmission(torrent: &Path) -> InfoHash {
    let said = said(Command::new("transmission-show").arg(torrent));
    said.lines().find_map(|line| line.trim().strip_prefix("Hash: ")).unwrap().parse().unwrap()
}

/// The torrent is of the payload: the same files with the same bytes. Padding aside, and empty files, which transmission
/// leaves out.
fn assert_same(metainfo: &Metainfo, payload: &Payload) {
    let layout = metainfo.layout();
    let files = layout.files().iter().filter(|file| !file.is_padding() && !file.is_empty());
    let mut found: Vec<_> = files.map(|file| (file.path().to_owned(), file.len())).collect();
    let files = payload.files.iter().filter(|(_, bytes)| !bytes.is_empty());
    let mut expected: Vec<_> = files.map(|(path, bytes)| (path.clone(), bytes.len() as u64)).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let bytes_of = |path: &Path| payload.files.iter().find(|(there, _)| there == path).map(|(_, bytes)| bytes);
    for piece in layout.pieces() {
        let segments = layout.segments(layout.whole(piece)).flat_map(|segment| {
            let (start, len) = (segment.offset as usize, segment.len as usize);
            match bytes_of(layout.file(segment.file).path()) {
                Some(bytes) => bytes[start..start + len].to_vec(),
                None => vec![0; len],
            }
        });
        let bytes: Vec<u8> = segments.collect();
        assert_eq!(ropewalk::hash::sha1([bytes.as_slice()]), *metainfo.piece_hash(piece), "piece {}", piece.get());
    }
}

fn from_libtorrent(kind: &str) {
    if !need::libtorrent() {
        return;
    }
    let payload = Payload::folder(PIECE, None);
    let torrent = payload.data().join("made.torrent");
    let mut command = Command::new("python3");
    let said = said(command.args(["-c", MAKE]).arg(payload.data().join("set")).arg(&torrent).arg(kind));
    let metainfo = Metainfo::read(&torrent).unwrap();
    assert_eq!(metainfo.info_hash().to_string(), said.trim());
    assert_same(&metainfo, &payload);
}

#[test]
fn a_v1_torrent_of_libtorrent_has_the_info_hash_that_libtorrent_says() {
    from_libtorrent("v1");
}

#[test]
fn a_hybrid_torrent_of_libtorrent_has_the_info_hash_that_libtorrent_says() {
    from_libtorrent("hybrid");
}

#[test]
fn a_torrent_of_transmission_create_has_the_info_hash_that_transmission_shows() {
    if !need::programs(&["transmission-create", "transmission-show"]) {
        return;
    }
    let payload = Payload::folder(PIECE, None);
    let torrent = payload.data().join("made.torrent");
    let mut command = Command::new("transmission-create");
    command.args(["-p", "-s", "32", "-c", "a comment", "-t", "http://127.0.0.1:1/announce", "-o"]);
    said(command.arg(&torrent).arg(payload.data().join("set")));
    let metainfo = Metainfo::read(&torrent).unwrap();
    assert_eq!(metainfo.info_hash(), shown_by_transmission(&torrent));
    assert_same(&metainfo, &payload);
    assert!(metainfo.is_private());
    assert_eq!(metainfo.comment(), Some("a comment"));
    assert_eq!(metainfo.trackers(), [["http://127.0.0.1:1/announce"]]);
}

#[test]
fn a_torrent_of_mktorrent_has_the_info_hash_that_transmission_shows() {
    if !need::programs(&["mktorrent", "transmission-show"]) {
        return;
    }
    let payload = Payload::folder(PIECE, None);
    let torrent = payload.data().join("made.torrent");
    let mut command = Command::new("mktorrent");
    command.args(["-l", "15", "-a", "http://a.example/announce,http://b.example/announce"]);
    command.args(["-a", "udp://c.example:1/announce", "-w", "http://seed.example/", "-o"]);
    said(command.arg(&torrent).arg(payload.data().join("set")));
    let metainfo = Metainfo::read(&torrent).unwrap();
    assert_eq!(metainfo.info_hash(), shown_by_transmission(&torrent));
    assert_same(&metainfo, &payload);
    let tiers: [&[&str]; 2] =
        [&["http://a.example/announce", "http://b.example/announce"], &["udp://c.example:1/announce"]];
    assert_eq!(metainfo.trackers(), tiers);
    assert_eq!(metainfo.web_seeds(), ["http://seed.example/"]);
}

/// Our .torrent files are read by the others with the info-hash that we say.
fn ours_elsewhere(payload: &Payload) {
    let ours = payload.metainfo.info_hash();
    if need::programs(&["transmission-show"]) {
        assert_eq!(shown_by_transmission(&payload.torrent()), ours);
    }
    if need::programs(&["aria2c"]) {
        let said = said(Command::new("aria2c").arg("-S").arg(payload.torrent()));
        assert!(said.contains(&format!("Info Hash: {ours}")), "{ours}: {said}");
        for (path, _) in payload.files.iter().filter(|(path, _)| path.to_str().is_some_and(str::is_ascii)) {
            assert!(said.contains(path.to_str().unwrap()), "{path:?}: {said}");
        }
    }
    if need::libtorrent() {
        let show = "import sys, libtorrent as lt; t = lt.torrent_info(sys.argv[1]); f = t.files()\n\
            print(t.info_hashes().v1, *sorted(f.file_path(i) for i in range(f.num_files())), sep='\\n')";
        let said = said(Command::new("python3").args(["-c", show]).arg(payload.torrent()));
        let mut expected: Vec<_> = payload.files.iter().map(|(path, _)| path.to_str().unwrap().to_owned()).collect();
        expected.sort();
        assert_eq!(said.trim(), format!("{ours}\n{}", expected.join("\n")));
    }
}

#[test]
fn a_torrent_of_ours_of_a_folder_is_the_same_to_everyone() {
    ours_elsewhere(&Payload::folder(PIECE, Some("http://127.0.0.1:1/announce")));
}

#[test]
fn a_torrent_of_ours_of_a_file_is_the_same_to_everyone() {
    ours_elsewhere(&Payload::single(100_000, PIECE, None));
}
