//! `swarm`: looking without taking part.

use std::fs;
use std::net::TcpListener;

use super::{Running, album, events, run};

#[test]
fn a_swarm_is_looked_at_and_nothing_is_made() {
    let folder = album();
    let (_seeder, addr) = Running::seeder(folder.path(), &[]);
    let empty = tempfile::tempdir().unwrap();
    let torrent = folder.path().join("album.torrent").display().to_string();
    let args = |more: &[&str]| {
        [&["swarm", &torrent, "--bind", "127.0.0.1", "--port", "0", "--time", "1s"], more].concat().join(" ")
    };
    let swarm = |more: &[&str], code| {
        let args = args(more);
        run(empty.path(), &args.split(' ').collect::<Vec<_>>(), code)
    };
    let (out, _) = swarm(&["--peer", &addr, "--json"], 0);
    let [seen] = events(&out).try_into().unwrap();
    assert_eq!(seen["peers"]["seen"], 1);
    assert_eq!((&seen["peers"]["seeds"], &seen["peers"]["leechers"]), (&1.into(), &0.into()));
    assert_eq!(seen["sources"]["manual"]["seen"], 1);
    assert_eq!(seen["transports"].as_object().unwrap().values().collect::<Vec<_>>(), [1]);
    assert_eq!(seen["availability"]["copies"], 1.0);
    assert_eq!(seen["availability"]["histogram"][0]["pieces"], seen["pieces"]);
    assert_eq!(seen["list"][0]["address"], addr);
    assert!(seen["clients"].as_object().unwrap().keys().all(|client| client.starts_with("ropewalk ")));
    let (out, _) = swarm(&["--peer", &addr], 0);
    assert!(out.contains("1 seed, 0 leechers") && out.contains("ropewalk "), "{out}");

    // By its magnet link alone, the metadata comes from the peer.
    let (link, _) = run(folder.path(), &["magnet", "album.torrent"], 0);
    let (port, bind) = (["--port", "0"], ["--bind", "127.0.0.1"]);
    let magnet = [&["swarm", link.trim(), "--time", "3s", "--peer", &addr, "--json"], &port[..], &bind].concat();
    let [by_link] = events(&run(empty.path(), &magnet, 0).0).try_into().unwrap();
    assert_eq!((&by_link["pieces"], &by_link["availability"]), (&seen["pieces"], &seen["availability"]));
    assert_eq!(by_link["peers"]["seeds"], 1);

    // Nobody is there, which is told as well.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (out, err) = swarm(&["--peer", &nobody, "--json"], 4);
    assert_eq!(events(&out)[0]["peers"]["seen"], 0);
    assert!(err.contains("no peer was reached: 1 address known: refusing connections; "), "{err}");
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
}
