//! Torrents as files: made, shown, verified, read from wherever they are.

use std::fs;
use std::net::TcpListener;

use serde_json::Value;

use super::{album, event, events, fails, ropewalk, run, said, serve};

#[test]
fn names_cannot_drive_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("odd")).unwrap();
    fs::write(folder.path().join("odd/a\x1b[31m"), "x").unwrap();
    let (_, err) = run(folder.path(), &["create", "odd"], 6);
    assert!(err.contains("rename it") && !err.contains('\x1b'), "{err}");
}

#[test]
fn what_is_not_a_torrent_is_code_6() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("x.torrent"), "<html>").unwrap();
    for command in ["get", "seed", "show", "verify"] {
        fails(folder.path(), &[command, "x.torrent"], 6, "not a .torrent file");
        fails(folder.path(), &[command, "absent.torrent"], 6, "there is no such file");
        fails(folder.path(), &[command, "."], 6, "is a directory");
        fails(folder.path(), &[command, "magnet:?xt=urn:btih:00"], 6, "`00` is no info-hash");
        fails(folder.path(), &[command, "ftp://example.org/x.torrent"], 6, "ftp: URLs cannot be fetched");
    }
    let (out, err) = run(folder.path(), &["get", "x.torrent", "--json"], 6);
    let events = events(&out);
    assert_eq!((event(&events, "error")["code"].clone(), err.is_empty()), (6.into(), false));
}

#[test]
fn a_torrent_is_fetched_from_a_web_server() {
    let folder = album();
    let torrent = fs::read(folder.path().join("album.torrent")).unwrap();
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", torrent.len()).into_bytes();
    answer.extend(torrent);
    let (out, _) = run(folder.path(), &["show", &serve(answer)], 0);
    assert_eq!(out, run(folder.path(), &["show", "album.torrent"], 0).0);

    let absent = serve(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec());
    fails(folder.path(), &["get", &absent], 6, "404 Not Found; check the URL");
    let page = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>".to_vec());
    fails(folder.path(), &["get", &page], 6, "is not a .torrent file");
    let nobody = format!("http://{}/x", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    fails(folder.path(), &["get", &nobody], 6, "onnection refused");
}

#[test]
fn create_and_show_agree() {
    let folder = album();
    let path = folder.path();
    let trackers = ["-t", "http://a.example/x,http://b.example/x", "-t", "udp://c.example:1"];
    let more = ["-o", "b.torrent", "-l", "32K", "-p", "-c", "line\x1bone", "-w", "http://web.example/", "--json"];
    let (out, _) = run(path, &[&["create", "album"], &trackers[..], &more[..]].concat(), 0);
    let events = events(&out);
    let created = event(&events, "created");
    assert_eq!(created["left_out"], serde_json::json!([".hidden"]));

    let shown: Value = serde_json::from_str(&run(path, &["show", "b.torrent", "--json"], 0).0).unwrap();
    assert_eq!(shown["info_hash"], created["info_hash"]);
    assert_eq!(
        shown["trackers"],
        serde_json::json!([["http://a.example/x", "http://b.example/x"], ["udp://c.example:1"]])
    );
    assert_eq!((shown["private"].clone(), shown["piece_length"].clone()), (true.into(), 32768.into()));
    assert_eq!(shown["web_seeds"], serde_json::json!(["http://web.example/"]));
    assert_eq!(shown["files"][0]["path"], "album/cd/one.flac");
    assert_eq!(shown["size"], 3_700_004);

    let (out, _) = run(path, &["show", "b.torrent"], 0);
    assert!(out.contains(shown["info_hash"].as_str().unwrap()) && out.contains("album/two.flac"));
    assert!(!out.contains('\x1b'), "a comment cannot drive the terminal");
}

#[test]
fn create_is_the_same_every_time_and_replaces_nothing_unasked() {
    let folder = album();
    let path = folder.path();
    fails(path, &["create", "album"], 1, "--force");
    run(path, &["create", "album", "--force", "--no-date"], 0);
    let first = fs::read(path.join("album.torrent")).unwrap();
    run(path, &["create", "album/../album/", "-o", "again.torrent", "--no-date", "-q"], 0);
    assert!(first == fs::read(path.join("again.torrent")).unwrap());
    let output = ropewalk(path, &["create", "album", "-o", "-", "--no-date"]).output().unwrap();
    assert!(first == output.stdout && output.status.success());

    fails(path, &["create", "absent"], 6, "absent");
    fails(path, &["create", "album/empty"], 6, "no content");
    fails(path, &["create", "album", "-o", "no/such/folder.torrent"], 5, "there is no folder no/such");
    let left: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn verify_says_which_file_is_wrong_and_how() {
    let folder = album();
    let path = folder.path();
    let (out, _) = run(path, &["verify", "album.torrent"], 0);
    assert!(out.lines().last().unwrap().starts_with("right: 4 files"), "{out}");
    assert_eq!(run(path, &["verify", "album.torrent", "-q"], 0), Default::default());

    let one = path.join("album/cd/one.flac");
    let mut bytes = fs::read(&one).unwrap();
    bytes[1_000_000] ^= 1;
    fs::write(&one, bytes).unwrap();
    fs::remove_file(path.join("album/tiny.jpg")).unwrap();
    fs::write(path.join("album/empty"), "not").unwrap();
    let (out, err) = run(path, &["verify", "album.torrent"], 7);
    assert!(err.starts_with("error: ") && err.contains("ropewalk get"), "{err}");
    assert!(out.contains("missing    album/tiny.jpg") && out.contains("too long   album/empty"), "{out}");

    let events = events(&run(path, &["verify", "album.torrent", "--json"], 7).0);
    let verdicts: Vec<_> =
        events.iter().filter(|event| event["event"] == "file").map(|file| &file["verdict"]).collect();
    assert_eq!(verdicts[..3], ["wrong", "too-long", "missing"]);
    assert_eq!(event(&events, "summary")["right"], false);
    assert_eq!(event(&events, "file")["path"], "album/cd/one.flac", "as `show` prints it");

    fails(path, &["verify", "album.torrent", "-d", "absent"], 7, "there is no folder absent");
}

#[test]
fn a_torrent_is_read_from_stdin() {
    let folder = album();
    let torrent = fs::read(folder.path().join("album.torrent")).unwrap();
    let output = ropewalk(folder.path(), &["show", "-"]).write_stdin(torrent).output().unwrap();
    assert_eq!(said(&output, 0), run(folder.path(), &["show", "album.torrent"], 0));
    let output = ropewalk(folder.path(), &["verify", "-"]).write_stdin("<html>").output().unwrap();
    assert!(said(&output, 6).1.contains("what came from stdin is not a .torrent file"));
}
