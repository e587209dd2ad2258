//! The pages of whoever runs the tracker.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Client, Server, announce};
use crate::tracker::config::TrackerConfig;
use crate::tracker::statistics::Counter;

#[test]
fn pages_are_at_their_own_address_only() {
    let server = Server::start(TrackerConfig::default());
    let mut client = server.client();
    for path in ["/", "/stats.json", "/metrics"] {
        assert_eq!(client.ask_with(path, "").0, 404, "{path}");
        assert_eq!(Client::connect(server.admin).ask_with(path, "").0, 200, "{path}");
    }
    for path in ["/stats", &announce("a", 1, 1)] {
        let (status, said) = Client::connect(server.admin).ask_with(path, "");
        assert_eq!((status, said.as_str()), (404, "There is nothing here. See /, /stats.json or /metrics.\n"));
    }
}

#[test]
fn what_was_done_is_told_in_json_and_to_prometheus() {
    let server = Server::start(TrackerConfig::default());
    let mut client = server.client();
    client.ask(&announce("a", 1, 1));
    client.ask(&announce("a", 0, 1));
    server.await_count(Counter::Address, 1);
    server.service.statistics.sample(Instant::now() + Duration::from_secs(1));
    let mut admin = Client::connect(server.admin);
    let stats: Value = serde_json::from_str(&admin.ask("/stats.json")).unwrap();
    assert_eq!(stats["store"]["leechers"], 3);
    assert_eq!((&stats["transports"]["http"]["announces"], &stats["open_http_connections"]), (&1.into(), &1.into()));
    assert_eq!(stats["transports"]["http"]["errors"]["address"], 1);
    assert_eq!(stats["recent"]["announces"].as_array().unwrap().len(), 1);
    let swarm = &stats["swarms"][0];
    assert_eq!((&swarm["info_hash"], &swarm["seeders"]), (&"ab".repeat(20).into(), &2.into()));
    assert_eq!(swarm["clients"][0][0], "ropewalk 0.1.0");
    let metrics = admin.ask("/metrics");
    for line in [
        "ropewalk_tracker_announces_total{transport=\"http\"} 1",
        "ropewalk_tracker_errors_total{transport=\"http\",kind=\"address\"} 1",
        "ropewalk_tracker_peers{kind=\"seeder\"} 2",
        "# TYPE ropewalk_tracker_torrents gauge",
    ] {
        assert!(metrics.lines().any(|there| there == line), "{line}:\n{metrics}");
    }
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("ropewalk_tracker_") && value.parse::<u64>().is_ok(), "{line}");
    }
}

#[test]
fn pages_say_that_the_store_is_away() {
    let server = Server::start(TrackerConfig::default());
    server.store.is_down.store(true, Ordering::Relaxed);
    let mut admin = Client::connect(server.admin);
    let stats: Value = serde_json::from_str(&admin.ask("/stats.json")).unwrap();
    assert_eq!(stats["store"]["error"], "the store is away");
    assert!(admin.ask("/metrics").contains("\nropewalk_tracker_store_up 0\n"));
}
