//! `ropewalk tracker`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use ropewalk::fetch::fetch;
use ropewalk::wire::tracker::http::Reply;
use serde_json::Value;

use super::{Running, album, fails, run, same_album};

/// A tracker on a free port, over HTTP alone. Gives its announce URL.
pub(super) fn tracker(folder: &Path, more: &[&str]) -> (Running, String) {
    let mut tracker = Running::start(folder, &[&["tracker", "--http", "127.0.0.1:0", "--no-udp"], more].concat());
    let listening = tracker.wait_for(|event| event["event"] == "listening");
    (tracker, format!("http://{}/announce", listening["http"][0].as_str().unwrap()))
}

pub(super) fn has(torrents: u64) -> impl Fn(&Value) -> bool {
    move |event| event["event"] == "stats" && event["torrents"] == torrents
}

/// Announces a torrent of the tests as a leecher at this port of 127.0.0.1, and gives the ports of the others.
pub(super) fn announce(url: &str, port: u16) -> Vec<u16> {
    let ask = format!("{url}?info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=-XX0001-{port:012}&port={port}&left=1");
    let answer = fetch(&ask, None, 10_000).unwrap();
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

/// A tracker as a service has it: lines of words, none of them to a terminal.
fn service(folder: &Path, args: &[&str]) -> Running {
    let program = assert_cmd::cargo::cargo_bin("ropewalk");
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" 2>&1"]).arg(program).arg("tracker").args(args);
    let mut child = command.current_dir(folder).env_remove("RUST_LOG").stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    Running { child, lines }
}

#[test]
fn a_service_says_once_that_its_state_is_not_saved_and_once_that_it_is_again() {
    let folder = album();
    let (states, away) = (folder.path().join("states"), folder.path().join("away"));
    fs::create_dir(&states).unwrap();
    let state = ["--state", "states/swarms", "--state-interval", "1s"];
    let mut running = service(folder.path(), &[&["--http", "127.0.0.1:0", "--no-udp"], &state[..]].concat());
    let mut line = || running.lines.next().unwrap().unwrap();
    let url = line().replace("listening: ", "");
    fs::rename(&states, &away).unwrap();
    announce(&url, 7);
    let said = line();
    assert!(said.starts_with("warning: the state is not saved: ") && said.contains("swarms: "), "{said}");
    fs::rename(&away, &states).unwrap();
    assert_eq!(line(), "the state is saved again");
    running.signal(rustix::process::Signal::TERM);
    assert!(running.lines.next().is_none());
    assert_eq!(running.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_tracker_has_as_many_threads_as_it_is_told() {
    let folder = album();
    let udp = ["--udp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--workers", "3"];
    let mut running = Running::start(folder.path(), &[&["tracker"], &udp[..]].concat());
    running.wait_for(|event| event["event"] == "listening");
    let tasks = format!("/proc/{}/task", running.child.id());
    let servers = || {
        let tasks = fs::read_dir(&tasks).unwrap();
        // One may end meanwhile, and one that begins has no name yet.
        let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        let mut names: Vec<_> = names
            .filter_map(|name| Some(name.strip_prefix("tracker-")?.trim_end().to_owned()))
            .filter(|name| name.starts_with("http") || name.starts_with("udp"))
            .collect();
        names.sort();
        names
    };
    until("three threads each", || servers() == ["http-0", "http-1", "http-2", "udp-0", "udp-1", "udp-2"]);
    fails(folder.path(), &["tracker", "--workers", "0"], 2, "0 is not in 1..=256");
}

#[test]
fn a_service_tells_no_key_and_of_no_lists_where_there_are_none() {
    let folder = album();
    let mut running = service(folder.path(), &["--http", "127.0.0.1:0", "--no-udp", "--key", "sesame"]);
    let mut line = || running.lines.next().unwrap().unwrap();
    let said = line();
    assert!(said.starts_with("listening: http at 127.0.0.1:"), "{said}");
    assert!(said.ends_with(", path /WORD/announce with the word of --key"), "{said}");
    running.hang_up();
    assert_eq!(
        running.lines.next().unwrap().unwrap(),
        "there are no lists to read again; --allow and --deny name them"
    );
}

#[test]
fn a_full_scrape_is_answered_where_it_is_allowed_and_with_no_more_than_that() {
    let folder = album();
    let (_plain, url) = tracker(folder.path(), &[]);
    let scrape = |url: &str| fetch(&url.replace("announce", "scrape"), None, 10_000).unwrap();
    assert!(scrape(&url).starts_with(b"d14:failure reason"));
    let (_full, url) = tracker(folder.path(), &["--full-scrape", "2"]);
    for torrent in ["a", "b", "c"] {
        let ask = format!("{url}?info_hash={}&peer_id=-XX0001-123456789012&port=7&left=1", torrent.repeat(20));
        fetch(&ask, None, 10_000).unwrap();
    }
    let answer = scrape(&url);
    assert!(answer.starts_with(b"d5:filesd20:"), "{}", answer.escape_ascii());
    assert_eq!(answer.windows(10).filter(|part| part == b"8:complete").count(), 2, "{}", answer.escape_ascii());
}

#[test]
fn a_tracker_with_a_key_serves_who_knows_it_and_does_not_tell_it() {
    let folder = album();
    let (mut tracker, open) = tracker(folder.path(), &["--key", "sesame"]);
    let keyed = open.replace("/announce", "/sesame/announce");
    assert_eq!((announce(&keyed, 7), announce(&keyed, 8)), (vec![], vec![7]));
    for wrong in [&open, &open.replace("/announce", "/open/announce"), &open.replace("/announce", "/scrape")] {
        let answer = fetch(wrong, None, 10_000).unwrap();
        assert!(answer.starts_with(b"d14:failure reason"), "{}", answer.escape_ascii());
        assert!(answer.windows(14).any(|part| part == b"wants its key "), "{}", answer.escape_ascii());
    }
    tracker.wait_for(|event| event["refused"] == 3);
    tracker.interrupt();
    let (code, events) = tracker.ended();
    assert_eq!(code, Some(0));
    assert!(!format!("{events:?}").contains("sesame"));
}

#[test]
fn a_port_alone_is_all_addresses() {
    let folder = album();
    let mut tracker = Running::start(folder.path(), &["tracker", "--http", "0", "--no-udp"]);
    let listening = tracker.wait_for(|event| event["event"] == "listening");
    let addrs: Vec<SocketAddr> = serde_json::from_value(listening["http"].clone()).unwrap();
    let has_ipv6 = TcpListener::bind("[::]:0").is_ok();
    assert_eq!(addrs.len(), if has_ipv6 { 2 } else { 1 }, "{addrs:?}");
    assert!(addrs.iter().all(|addr| addr.ip().is_unspecified()));
    assert!(announce(&format!("http://127.0.0.1:{}/announce", addrs[0].port()), 7).is_empty());
}

#[test]
fn lists_of_torrents_are_read_again_when_the_tracker_is_told_to() {
    let folder = album();
    let hash = "0123456789abcdef0123456789abcdef01234567";
    fs::write(folder.path().join("allow"), format!("{hash} # only this one\n")).unwrap();
    let (mut tracker, url) = tracker(folder.path(), &["--allow", "allow"]);
    let escaped = "%01%23%45%67%89%ab%cd%ef%01%23%45%67%89%ab%cd%ef%01%23%45%67";
    let ask = format!("{url}?info_hash={escaped}&peer_id=-XX0001-123456789012&port=7&left=1");
    let answer = |ask: &str| fetch(ask, None, 10_000).unwrap();
    assert!(answer(&ask).windows(8).any(|part| part == b"interval"));
    fs::write(folder.path().join("allow"), "# none\n").unwrap();
    tracker.hang_up();
    tracker.wait_for(|event| event["event"] == "reloaded" && event["error"].is_null());
    assert!(answer(&ask).windows(14).any(|part| part == b"failure reason"));
    for (what, expected) in
        [(Some("nonsense\n"), "allow, line 1: not an info-hash; a list has"), (None, "there is no list allow; make it")]
    {
        match what {
            Some(text) => fs::write(folder.path().join("allow"), text).unwrap(),
            None => fs::remove_file(folder.path().join("allow")).unwrap(),
        }
        tracker.hang_up();
        let told = tracker.wait_for(|event| event["event"] == "reloaded" && event["error"].is_string());
        let error = told["error"].as_str().unwrap();
        assert!(error.contains(expected) && !error.contains("os error"), "{error}");
    }
}

#[test]
fn what_a_tracker_cannot_do_is_said_before_it_listens() {
    let folder = album();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    fails(
        folder.path(),
        &["tracker", "--http", &addr, "--no-udp"],
        1,
        "running there already? Stop it, or give --http",
    );
    let free = ["tracker", "--http", "127.0.0.1:0", "--no-udp"];
    fails(folder.path(), &[&free[..], &["--allow", "gone"]].concat(), 5, "there is no list gone; make it");
    fs::create_dir(folder.path().join("lists")).unwrap();
    fails(folder.path(), &[&free[..], &["--deny", "lists"]].concat(), 5, "lists");
    fs::write(folder.path().join("state"), "no state of a tracker").unwrap();
    fails(folder.path(), &[&free[..], &["--state", "state"]].concat(), 5, "state; name another file, or remove it");
    fails(folder.path(), &[&free[..], &["--state", "lists"]].concat(), 5, "name a file for the state, such as lists/");
    fails(folder.path(), &[&free[..], &["--admin", &addr]].concat(), 1, "or give --admin another port");
    // A loopback address that nobody else uses.
    let there = format!("127.77.0.1:{}", taken.local_addr().unwrap().port());
    for (option, expected) in
        [("--http", "already listens there for HTTP; give --http"), ("--admin", "HTTP; give --admin")]
    {
        fails(folder.path(), &["tracker", "--no-udp", "--http", &there, option, &there], 2, expected);
    }
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    fails(folder.path(), &["tracker", "--no-http", "--udp", &addr], 1, "cannot listen for UDP on 127.0.0.1:");
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
    for option in ["--http", "--udp"] {
        fails(folder.path(), &["tracker", option, "localhost"], 2, "such as 192.0.2.1:6969 or [2001:db8::1]:6969");
    }
    fails(folder.path(), &[&free[..], &["--admin", "8080"]].concat(), 2, "such as 127.0.0.1:8080");
    fails(folder.path(), &[&free[..], &["--key", "a/b"]].concat(), 2, "letters, digits and");
    fails(folder.path(), &["tracker", "--no-http", "--no-udp"], 2, "--no-udp");
    fails(folder.path(), &[&free[..], &["--store", "nowhere"]].concat(), 2, "nowhere");
}

#[cfg(not(feature = "redis"))]
#[test]
fn without_redis_it_is_said_how_to_build_with_it() {
    let folder = album();
    fails(folder.path(), &["tracker", "--store", "redis://127.0.0.1"], 2, "`cargo install ropewalk --features redis`");
}
