//! `ropewalk tracker`.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::time::Instant;

use ropewalk::wire::tracker::http::Reply;
use serde_json::Value;

use super::{Running, album, fails, run, same_album};

/// A tracker on a free port, over HTTP alone. Gives its announce URL.
fn tracker(folder: &std::path::Path, more: &[&str]) -> (Running, String) {
    let mut tracker = Running::start(folder, &[&["tracker", "--http", "127.0.0.1:0", "--no-udp"], more].concat());
    let listening = tracker.wait_for(|event| event["event"] == "listening");
    (tracker, format!("http://{}/announce", listening["http"][0].as_str().unwrap()))
}

fn has(torrents: u64) -> impl Fn(&Value) -> bool {
    move |event| event["event"] == "stats" && event["torrents"] == torrents
}

/// Announces a torrent of the tests as a leecher at this port of 127.0.0.1, and gives the ports of the others.
fn announce(url: &str, port: u16) -> Vec<u16> {
    let ask = format!("{url}?info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=-XX0001-{port:012}&port={port}&left=1");
    let answer = ropewalk::fetch::fetch(&ask, None, 10_000).unwrap();
    match Reply::decode(&answer).unwrap() {
        Reply::Announced(reply) => reply.peers.iter().map(SocketAddr::port).collect(),
        other => panic!("{other:?}"),
    }
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < super::PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn peers_find_each_other_by_a_tracker_that_remembers_them_in_its_next_run() {
    let folder = album();
    let (mut first, url) = tracker(folder.path(), &["--state", "swarms"]);
    run(folder.path(), &["create", "album", "-f", "--tracker", &url], 0);
    let (_seeder, _) = Running::seeder(folder.path(), &[]);
    first.wait_for(has(1));
    run(folder.path(), &["get", "album.torrent", "-o", "copy", "--bind", "127.0.0.1", "--port", "0"], 0);
    same_album(folder.path(), &folder.path().join("copy"));
    first.interrupt();
    assert_eq!(first.ended().0, Some(0));

    let (mut second, _) = tracker(folder.path(), &["--state", "swarms"]);
    second.wait_for(has(1));
}

#[test]
fn a_tracker_that_is_killed_has_lost_nothing_of_what_it_saved_and_its_file_is_free() {
    let folder = album();
    let (mut first, url) = tracker(folder.path(), &["--state", "swarms", "--state-interval", "1s"]);
    announce(&url, 7);
    until("the state is saved", || folder.path().join("swarms").is_file());
    let other = ["tracker", "--http", "127.0.0.1:0", "--no-udp", "--state", "swarms"];
    fails(folder.path(), &other, 5, "swarms is in use by another tracker; stop that one");
    first.signal(rustix::process::Signal::KILL);
    first.child.wait().unwrap();

    let (mut second, url) = tracker(folder.path(), &["--state", "swarms"]);
    second.wait_for(has(1));
    assert_eq!(announce(&url, 8), [7]);
}

#[test]
fn lists_of_torrents_are_read_again_when_the_tracker_is_told_to() {
    let folder = album();
    let hash = "0123456789abcdef0123456789abcdef01234567";
    fs::write(folder.path().join("allow"), format!("{hash} # only this one\n")).unwrap();
    let (mut tracker, url) = tracker(folder.path(), &["--allow", "allow"]);
    let escaped = "%01%23%45%67%89%ab%cd%ef%01%23%45%67%89%ab%cd%ef%01%23%45%67";
    let ask = format!("{url}?info_hash={escaped}&peer_id=-XX0001-123456789012&port=7&left=1");
    let answer = |ask: &str| ropewalk::fetch::fetch(ask, None, 10_000).unwrap();
    assert!(answer(&ask).windows(8).any(|part| part == b"interval"));
    fs::write(folder.path().join("allow"), "# none\n").unwrap();
    tracker.hang_up();
    tracker.wait_for(|event| event["event"] == "reloaded" && event["error"].is_null());
    assert!(answer(&ask).windows(14).any(|part| part == b"failure reason"));
    fs::write(folder.path().join("allow"), "nonsense\n").unwrap();
    tracker.hang_up();
    tracker.wait_for(|event| event["event"] == "reloaded" && event["error"].is_string());
}

#[test]
fn what_a_tracker_cannot_do_is_said_before_it_listens() {
    let folder = album();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    fails(folder.path(), &["tracker", "--http", &addr, "--no-udp"], 1, "is a tracker running there already?");
    let free = ["tracker", "--http", "127.0.0.1:0", "--no-udp"];
    fails(folder.path(), &[&free[..], &["--allow", "gone"]].concat(), 5, "gone");
    fs::create_dir(folder.path().join("lists")).unwrap();
    fails(folder.path(), &[&free[..], &["--deny", "lists"]].concat(), 5, "lists");
    fs::write(folder.path().join("state"), "no state of a tracker").unwrap();
    fails(folder.path(), &[&free[..], &["--state", "state"]].concat(), 5, "state");
    fails(folder.path(), &[&free[..], &["--admin", &addr]].concat(), 1, &addr);
    fails(folder.path(), &[&free[..], &["--state", "gone/state"]].concat(), 5, "no folder gone");
    for option in ["--rate", "--peers"] {
        fails(folder.path(), &[&free[..], &[option, "0"]].concat(), 2, option);
    }
    for interval in ["0", "59s", "9h", "18446744073709551615"] {
        fails(folder.path(), &[&free[..], &["--interval", interval]].concat(), 2, "--interval");
    }
    for interval in ["0s", "25h"] {
        let state = ["--state", "new", "--state-interval", interval];
        fails(folder.path(), &[&free[..], &state].concat(), 2, "--state-interval");
    }
    fails(folder.path(), &[&free[..], &["--state-interval", "5m"]].concat(), 2, "required arguments");
    fails(folder.path(), &["tracker", "--no-http", "--no-udp"], 2, "--no-udp");
    fails(folder.path(), &[&free[..], &["--store", "nowhere"]].concat(), 2, "nowhere");
}
