//! `ropewalk share`, and whoever gets what it shares.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use ropewalk::fetch::fetch;
use ropewalk::{Bind, Magnet};
use serde_json::Value;

use super::{PATIENCE, Running, STATE, album, event, fails, noise, run, said_to, same_album};

/// Shared on this machine alone, at free ports.
const HERE: [&str; 6] = ["--bind", "127.0.0.1", "--port", "0", "--tracker-port", "0"];

/// A running share that is ready for peers, and its event `sharing`.
fn share(folder: &Path, args: &[&str]) -> (Running, Value) {
    let mut running = Running::start(folder, &[&["share"], args, &HERE].concat());
    let sharing = running.wait_for(|event| event["event"] == "sharing");
    running.wait_for(|event| event["event"] == "seeding");
    (running, sharing)
}

fn magnet(sharing: &Value) -> Magnet {
    sharing["magnet"].as_str().unwrap().parse().unwrap()
}

/// Everything in a folder, with its content and when it was changed.
fn state(folder: &Path) -> BTreeMap<PathBuf, (SystemTime, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let content = if path.is_dir() { Vec::new() } else { fs::read(&path).unwrap() };
        found.insert(path.clone(), (fs::metadata(&path).unwrap().modified().unwrap(), content));
        if path.is_dir() {
            found.extend(state(&path));
        }
    }
    found
}

#[test]
fn a_folder_is_got_from_its_tracker_alone_and_is_left_as_it_was() {
    let folder = album();
    fs::remove_file(folder.path().join("album.torrent")).unwrap();
    fs::create_dir(folder.path().join(STATE)).unwrap();
    let shown = |state: BTreeMap<PathBuf, _>| -> BTreeMap<PathBuf, _> {
        state.into_iter().filter(|(path, _)| !path.starts_with(folder.path().join(STATE))).collect()
    };
    let before = shown(state(folder.path()));
    let (sharer, sharing) = share(folder.path(), &["album"]);
    assert_eq!(
        (&sharing["name"], &sharing["files"], &sharing["size"]),
        (&"album".into(), &4.into(), &3_700_004.into())
    );
    assert!(sharing["torrent"].is_null());
    let mut link = magnet(&sharing);
    assert_eq!(link.peers[0].to_string(), format!("127.0.0.1:{}", sharing["port"]));
    assert_eq!(serde_json::json!(link.trackers), sharing["trackers"]);
    // Without the seeder's address only the tracker leads to it.
    link.peers.clear();
    let elsewhere = tempfile::tempdir().unwrap();
    let get = ["get", &link.to_string(), "--bind", "127.0.0.1", "--port", "0", "--no-dht"];
    run(elsewhere.path(), &get, 0);
    same_album(folder.path(), elsewhere.path());
    // Over UDP it is at the same port, with the same peers.
    link.trackers[0] = link.trackers[0].replace("http://", "udp://");
    let get = ["get", &link.to_string(), "-o", "udp", "--bind", "127.0.0.1", "--port", "0", "--no-dht"];
    run(elsewhere.path(), &get, 0);
    same_album(folder.path(), &elsewhere.path().join("udp"));

    sharer.interrupt();
    let (code, events) = sharer.ended();
    assert_eq!(code, Some(0), "ending a seeder is not an error");
    assert!(event(&events, "summary")["uploaded"].as_u64().unwrap() >= 3_700_004);
    assert_eq!(before, shown(state(folder.path())), "nothing is written");
}

#[test]
fn who_changes_what_is_shared_is_told_to_share_it_again() {
    let folder = album();
    let file = folder.path().canonicalize().unwrap().join("album/two.flac");
    let change = |how: fn(&Path), part: &str| {
        let (sharer, _) = share(folder.path(), &["album"]);
        how(&file);
        let (code, events) = sharer.ended();
        assert_eq!(code, Some(7), "{events:#?}");
        let summary = event(&events, "summary");
        let said = summary["error"].as_str().unwrap();
        assert!(said.starts_with(&format!("{} {part}", file.display())) && said.contains("run share again"), "{said}");
    };
    change(|file| fs::write(file, noise(700_001).iter().map(|byte| !byte).collect::<Vec<_>>()).unwrap(), "was changed");
    change(|file| fs::write(file, "short").unwrap(), "has 5 bytes now instead of 700001");
    change(|file| fs::remove_file(file).unwrap(), "is gone");
}

#[test]
fn who_asks_its_tracker_is_called_and_need_not_call() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("film.mkv"), noise(300_000)).unwrap();
    let (_sharer, sharing) = share(folder.path(), &["film.mkv"]);
    let leecher = TcpListener::bind("127.0.0.1:0").unwrap();
    let hash: String =
        magnet(&sharing).info_hash.unwrap().as_bytes().iter().map(|byte| format!("%{byte:02x}")).collect();
    let (tracker, port) = (sharing["trackers"][0].as_str().unwrap(), leecher.local_addr().unwrap().port());
    let url = format!("{tracker}?info_hash={hash}&peer_id=-XX0000-abcdefghijkl&port={port}&left=300000&event=started");
    let here = Bind::Addr(Ipv4Addr::LOCALHOST.into());
    assert!(fetch(&url, Some(&here), 10_000).unwrap().starts_with(b"d8:complete"));
    let (sender, called) = crossbeam_channel::bounded(1);
    std::thread::spawn(move || sender.send(leecher.accept().is_ok()));
    assert!(called.recv_timeout(PATIENCE).expect("nobody called"));
}

#[test]
fn a_file_is_shared_until_it_is_enough_and_its_torrent_is_written_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("film.mkv"), noise(300_000)).unwrap();
    let (sharer, sharing) = share(folder.path(), &["film.mkv", "--torrent", "film.torrent", "--until", "1"]);
    assert_eq!(sharing["torrent"], "film.torrent");
    let elsewhere = tempfile::tempdir().unwrap();
    let torrent = folder.path().join("film.torrent");
    run(elsewhere.path(), &["get", torrent.to_str().unwrap(), "--bind", "127.0.0.1", "--port", "0"], 0);
    let read = |folder: &Path| fs::read(folder.join("film.mkv")).unwrap();
    assert!(read(folder.path()) == read(elsewhere.path()));
    assert_eq!(sharer.ended().0, Some(0), "it ends by itself");

    let over = [&["share", "film.mkv", "--torrent", "film.mkv", "--force"], &HERE[..]].concat();
    fails(folder.path(), &over, 2, "choose a place outside with --torrent");
    let again = [&["share", "film.mkv", "--torrent", "film.torrent"], &HERE[..]].concat();
    fails(folder.path(), &again, 1, "choose another with --torrent");
    fs::write(&torrent, "x").unwrap();
    drop(share(folder.path(), &["film.mkv", "--torrent", "film.torrent", "--force"]));
    assert!(fs::read(&torrent).unwrap().starts_with(b"d8:announce"));
}

#[test]
fn a_torrent_is_not_written_into_what_it_is_made_of() {
    let folder = album();
    let share = [&["share", "album", "--torrent", "album/cd/../a.torrent"], &HERE[..]].concat();
    fails(
        folder.path(),
        &share,
        2,
        "album/cd/../a.torrent would be part of album, which it describes; choose a place out",
    );
    assert!(!folder.path().join("album/a.torrent").exists());
    // The first time it is not there, and so no part of it.
    let create = ["create", "album", "-o", "album/a.torrent", "--force"];
    run(folder.path(), &create, 0);
    fails(folder.path(), &create, 2, "choose a place outside with -o");
}

#[test]
fn a_private_folder_is_got_by_its_torrent_and_has_no_link() {
    let folder = album();
    let (_sharer, sharing) = share(folder.path(), &["album", "--private", "--torrent", "private.torrent"]);
    assert!(sharing["magnet"].is_null());
    let get = ["get", "private.torrent", "-o", "out", "--bind", "127.0.0.1", "--port", "0"];
    run(folder.path(), &get, 0);
    same_album(folder.path(), &folder.path().join("out"));
    fails(
        folder.path(),
        &["share", "album", "--private"],
        2,
        "needs --torrent FILE: a link to a private torrent leads",
    );
    let share = ["share", "album", "--private", "--torrent", "x.torrent", "--until", "0s", "--qr", "always"];
    let (_, err) = run(folder.path(), &[&share[..], &HERE].concat(), 0);
    assert!(err.contains("no QR code: a private torrent has no link"), "{err}");
}

#[test]
fn without_a_tracker_the_link_names_the_seeder() {
    let folder = album();
    let args = ["share", "album", "--no-tracker", "--bind", "127.0.0.1", "--port", "0"];
    let mut sharer = Running::start(folder.path(), &args);
    let sharing = sharer.wait_for(|event| event["event"] == "sharing");
    sharer.wait_for(|event| event["event"] == "seeding");
    assert_eq!(sharing["trackers"], serde_json::json!([]));
    let link = magnet(&sharing);
    assert!(link.trackers.is_empty());
    run(folder.path(), &["get", &link.to_string(), "-o", "out", "--bind", "127.0.0.1", "--port", "0"], 0);
    same_album(folder.path(), &folder.path().join("out"));
}

#[test]
fn what_cannot_be_shared_is_said_and_no_port_is_taken_from_others() {
    let folder = album();
    let fails = |args: &[&str], code, part| fails(folder.path(), &[&["share"], args].concat(), code, part);
    fails(&[&["gone"], &HERE[..]].concat(), 6, "gone: there is no such file or folder; check the path");
    fs::create_dir(folder.path().join("hollow")).unwrap();
    fails(&[&["/dev/null"], &HERE[..]].concat(), 6, "/dev/null is neither a file nor a folder; check");
    fails(&[&["hollow"], &HERE[..]].concat(), 6, "there is no content");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let at = ["album", "--bind", "127.0.0.1", "--port", "0", "--tracker-port", &port];
    fails(&at, 1, "choose another port with --tracker-port");
    let (out, _) = run(folder.path(), &[&["share", "album", "--json", "--qr", "always"], &HERE[..]].concat(), 2);
    assert!(out.contains("--qr always and --json"), "{out}");
    fails(&["album", "--no-tracker", "--tracker-port", "0"], 2, "--no-tracker");
}

#[test]
fn where_the_usual_port_is_taken_another_one_is_and_it_is_said() {
    let folder = album();
    // Taken by us, or by whoever has it already.
    let _taken = TcpListener::bind("127.0.0.1:6969");
    let args = ["share", "album", "--bind", "127.0.0.1", "--port", "0", "--until", "0s"];
    let (out, err) = run(folder.path(), &args, 0);
    let port = err.split("port 6969 is taken: the tracker is at port ").nth(1).unwrap_or_else(|| panic!("{err}"));
    let port = port.lines().next().unwrap();
    assert!(out.contains(&format!("http://127.0.0.1:{port}/announce\n")), "{out}");
}

#[test]
fn people_are_told_the_link_and_what_to_do_with_it() {
    let folder = album();
    let share = [&["share", "album", "--until", "0s"], &HERE[..]].concat();
    let (out, err) = run(folder.path(), &share, 0);
    let link = out.lines().find(|line| line.starts_with("magnet:")).unwrap();
    assert!(link.parse::<Magnet>().is_ok());
    assert!(out.starts_with("sharing  album (4 files, 3.5 MiB)\n"), "{out}");
    assert!(out.ends_with(&format!("\nropewalk get '{link}'\n")), "no code where there is no terminal: {out}");
    assert!(err.contains("left out 1 hidden") && err.contains("only this machine can reach it"), "{err}");
    let (out, _) = run(folder.path(), &[&share[..], &["--quiet"]].concat(), 0);
    assert!(out.lines().count() == 1 && out.starts_with("magnet:"), "the link alone: {out}");
    let (out, _) = run(folder.path(), &[&share[..], &["--qr", "always"]].concat(), 0);
    let (before, code) = out.split_once("QR code:\n").unwrap();
    let link = before.lines().find(|line| line.starts_with("magnet:")).unwrap();
    assert_eq!(decoded(code), link);
}

#[test]
fn a_code_fits_the_terminal_or_it_is_said_why_there_is_none() {
    let folder = album();
    let share = [&["share", "album", "--until", "0s"], &HERE[..]].concat();
    let said = on_a_terminal(folder.path(), (80, 24), &share);
    let (_, code) = said.split_once("QR code of a shorter link to the same:\r\n").unwrap_or_else(|| panic!("{said}"));
    let lines: Vec<_> = code.lines().take_while(|line| line.starts_with("\x1b[38;5;231;48;5;16m")).collect();
    assert!((10..=21).contains(&lines.len()), "{said}");
    let short: Magnet = decoded(&lines.join("\n")).parse().unwrap();
    let (link, _) = said.split_once("magnet:").unwrap().1.split_once("\r\n").unwrap();
    let full: Magnet = format!("magnet:{link}").parse().unwrap();
    assert_eq!(short.info_hash, full.info_hash);
    assert!(short.trackers[0].starts_with("udp://127.0.0.1:"));

    let said = on_a_terminal(folder.path(), (80, 60), &share);
    let (before, code) = said.split_once("QR code:\r\n").unwrap_or_else(|| panic!("{said}"));
    let lines: Vec<_> = code.lines().take_while(|line| line.starts_with("\x1b[38")).collect();
    assert!(before.contains(&format!("\r\n{}\r\n", decoded(&lines.join("\n")))), "{said}");

    let said = on_a_terminal(folder.path(), (30, 24), &share);
    assert!(said.contains("no QR code: it takes 41 columns and 24 rows") && !said.contains('█'), "{said}");
    assert!(!on_a_terminal(folder.path(), (80, 60), &[&share[..], &["--qr", "never"]].concat()).contains('█'));
    let said = on_a_terminal(folder.path(), (30, 24), &[&share[..], &["--qr", "always"]].concat());
    let lines: Vec<_> = said.lines().filter(|line| line.starts_with("\x1b[38;5;231;48;5;16m")).collect();
    let small: Magnet = decoded(&lines.join("\n")).parse().unwrap();
    assert_eq!(small.info_hash, full.info_hash);
}

#[test]
fn whoever_opens_a_link_with_a_tracker_is_never_told_that_none_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let link = format!("magnet:?xt=urn:btih:{}&tr=http://127.0.0.1:9/announce", "ab".repeat(20));
    let get = ["get", &link, "--bind", "127.0.0.1", "--port", "0", "--timeout", "1s"];
    let said = on_a_terminal(folder.path(), (100, 24), &get);
    assert!(said.contains("looking for metadata") && said.contains("no metadata for 1 s"), "{said}");
    assert!(!said.contains("no tracker is asked"), "{said}");
}

/// What `ropewalk` says on a terminal of so many columns and rows.
pub(super) fn on_a_terminal(folder: &Path, size: (u16, u16), args: &[&str]) -> String {
    let (terminal, other) = super::terminal(size);
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("ropewalk"));
    command.current_dir(folder).args(args).arg("--no-lsd").env("XDG_STATE_HOME", folder.join(STATE));
    // The colours of a code are no decoration: without them it is inverted on a light terminal.
    command.env_remove("RUST_LOG").env("NO_COLOR", "1").env("ROPEWALK_DHT", "off").env("TERM", "xterm-256color");
    command.stdin(Stdio::null()).stdout(other.try_clone().unwrap()).stderr(other);
    said_to(terminal, command)
}

/// What a reader sees in a code on a dark terminal.
fn decoded(code: &str) -> String {
    let lines: Vec<Vec<char>> = code
        .lines()
        .map(|line| line.trim_end().chars().filter(|c| matches!(c, '█' | '▀' | '▄' | ' ')).collect())
        .collect();
    let (scale, around) = (4, 8);
    let side = lines[0].len();
    let size = |modules: usize| modules * scale + 2 * around;
    let mut image = rqrr::PreparedImage::prepare_from_greyscale(size(side), size(lines.len() * 2), |x, y| {
        let at = |at: usize| at.checked_sub(around).map(|at| at / scale);
        let drawn = at(x).zip(at(y)).and_then(|(x, y)| Some((*lines.get(y / 2)?.get(x)?, y % 2)));
        if matches!(drawn, Some(('█', _) | ('▀', 0) | ('▄', 1))) { 255 } else { 0 }
    });
    let grids = image.detect_grids();
    assert_eq!(grids.len(), 1, "one code in\n{code}");
    grids[0].decode().unwrap().1
}
