//! Magnet links: printed, shown, and what comes of them.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{Running, album, event, events, fails, ropewalk, run, same_album, serve};

/// The album's magnet link.
fn album_link(folder: &Path) -> String {
    run(folder, &["magnet", "album.torrent"], 0).0.trim().to_owned()
}

#[test]
fn magnet_prints_the_link_of_a_torrent_and_show_says_what_is_in_one() {
    let folder = album();
    run(
        folder.path(),
        &["create", "album", "-o", "x", "-f", "-t", "http://127.0.0.1:9/a", "-t", "udp://127.0.0.1:9"],
        0,
    );
    let (link, _) = run(folder.path(), &["magnet", "x"], 0);
    let (shown, _) = run(folder.path(), &["show", link.trim()], 0);
    assert!(shown.contains("album") && shown.contains("http://127.0.0.1:9/a"), "{shown}");
    let json = |args: &[&str]| -> Value { serde_json::from_str(&run(folder.path(), args, 0).0).unwrap() };
    let about = json(&["magnet", "x", "--json"]);
    assert_eq!(about, json(&["show", link.trim(), "--json"]));
    assert_eq!(about["trackers"].as_array().unwrap().len(), 2);
    assert_eq!(about["info_hash"], json(&["show", "x", "--json"])["info_hash"]);
    let short = json(&["magnet", "x", "--no-trackers", "--files", "2", "--peer", "192.0.2.7:6881", "--json"]);
    assert_eq!((&short["trackers"], &short["select"]), (&serde_json::json!([]), &serde_json::json!([[2, 2]])));
    assert!(short["magnet"].as_str().unwrap().ends_with("&x.pe=192.0.2.7:6881&so=1"), "{short}");
    // The link counts from 0, whoever reads it from 1.
    let (link, _) = run(folder.path(), &["magnet", "x", "--files", "1,3-4"], 0);
    assert!(link.trim().ends_with("&so=0,2-3"), "{link}");
    let (shown, _) = run(folder.path(), &["show", link.trim()], 0);
    assert!(shown.contains("selects       files 1,3-4\n"), "{shown}");
    fails(folder.path(), &["magnet", "x", "--files", "99"], 2, "99");
}

#[test]
fn what_needs_the_torrent_says_so_of_a_magnet_link() {
    let folder = album();
    let link = album_link(folder.path());
    for command in ["seed", "verify"] {
        fails(folder.path(), &[command, &link], 6, "needs the .torrent file");
    }
    fails(folder.path(), &["get", "magnet:?xt=urn:btih:123"], 6, "`123` is no info-hash");
    fails(folder.path(), &["get", "magnet:?dn=x"], 6, "names no torrent");
    let v2 = format!("magnet:?xt=urn:btmh:1220{}", "ab".repeat(32));
    fails(folder.path(), &["get", &v2], 6, "v2-only");
}

#[test]
fn get_takes_a_magnet_link_and_a_second_run_needs_nobody() {
    let folder = album();
    let link = album_link(folder.path());
    let (seeder, addr) = Running::seeder(folder.path(), &[]);
    let get = ["get", &link, "-o", "out", "--port", "0", "--bind", "127.0.0.1", "--peer", &addr];
    let (out, err) = run(folder.path(), &get, 0);
    assert!(out.contains("done: out/album"), "{out}");
    assert!(err.contains("looking for its metadata") && err.contains("4 files"), "{err}");
    same_album(folder.path(), &folder.path().join("out"));
    drop(seeder);
    let (out, _) = run(folder.path(), &["get", &link, "-o", "out", "--port", "0", "--bind", "127.0.0.1"], 0);
    assert!(out.contains("complete already"), "{out}");
}

#[test]
fn json_tells_of_the_search_for_metadata_and_files_are_chosen_when_it_is_there() {
    let folder = album();
    let link = album_link(folder.path());
    let (_seeder, addr) = Running::seeder(folder.path(), &[]);
    let common = ["-o", "out", "--port", "0", "--bind", "127.0.0.1", "--peer", &addr];
    let (out, _) = run(folder.path(), &[&["get", &link, "--json", "--files", "1"], &common[..]].concat(), 0);
    let events = events(&out);
    assert_eq!(event(&events, "progress")["state"], "metadata");
    assert!(event(&events, "progress")["metadata"]["tried"].is_number());
    assert_eq!(event(&events, "metadata")["files"], 4);
    assert!(event(&events, "added")["size"].is_null());
    assert_eq!(fs::read_dir(folder.path().join("out/album")).unwrap().count(), 1);
    // What takes no file is an error as soon as there are files, and makes none.
    let missing = ["get", &link, "-o", "none", "--port", "0", "--bind", "127.0.0.1", "--peer", &addr, "--files", "77"];
    let (_, err) = run(folder.path(), &missing, 2);
    assert!(err.contains("77"), "{err}");
    assert!(!folder.path().join("none/album").exists());
}

#[test]
fn a_magnet_link_goes_to_stdout_too() {
    let folder = album();
    let link = album_link(folder.path());
    let (_seeder, addr) = Running::seeder(folder.path(), &[]);
    let get = ["get", &link, "-o", "-", "--port", "0", "--bind", "127.0.0.1", "--peer", &addr, "--files", "1"];
    let whole = ropewalk(folder.path(), &get).output().unwrap();
    let plain =
        ["get", "album.torrent", "-o", "-", "--port", "0", "--bind", "127.0.0.1", "--peer", &addr, "--files", "1"];
    let expected = ropewalk(folder.path(), &plain).output().unwrap();
    assert!(whole.status.success() && whole.stdout == expected.stdout && !whole.stdout.is_empty());
}

#[test]
fn metadata_that_never_comes_is_code_4_with_what_was_tried() {
    let folder = album();
    let link = album_link(folder.path());
    let get = ["get", &link, "-o", "out", "--port", "0", "--bind", "127.0.0.1"];
    fails(folder.path(), &get, 4, "nothing to ask for the metadata");
    assert!(!folder.path().join("out").exists());
    let answer = b"d14:failure reason12:unregisterede";
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len());
    let tracker = serve([head.as_bytes(), answer].concat());
    let tracked = format!("{link}&tr={tracker}");
    let get = ["get", &tracked, "-o", "out", "--port", "0", "--bind", "127.0.0.1", "--timeout", "1s"];
    let (_, err) = run(folder.path(), &[&get[..], &["--peer", "127.0.0.1:9"]].concat(), 4);
    assert!(err.contains("no metadata for") && err.contains("1 connection tried"), "{err}");
    assert!(err.contains("unregistered"), "{err}");
}

#[test]
fn ctrl_c_ends_a_search_for_metadata() {
    let folder = album();
    let link = album_link(folder.path());
    let get = ["get", &link, "-o", "out", "--port", "0", "--bind", "127.0.0.1", "--peer", "127.0.0.1:9"];
    let mut running = Running::start(folder.path(), &get);
    running.wait_for(|event| event["event"] == "progress");
    running.interrupt();
    let (code, events) = running.ended();
    assert_eq!(code, Some(3));
    assert!(event(&events, "summary")["error"].as_str().unwrap().contains("metadata was looked for"));
}
