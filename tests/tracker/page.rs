//! The page for who runs the tracker, as a browser draws it.

use std::process::Command;

use crate::rig::need;
use crate::rig::process::Process;
use crate::{get, stats, tracker};

/// What a browser makes of the page, once it has asked for numbers.
fn dom(url: &str) -> String {
    let profile = tempfile::tempdir().unwrap();
    let mut browser = Command::new("chromium");
    browser.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
    browser.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    browser.arg(format!("--user-data-dir={}", profile.path().display()));
    // Its clock stands still while an answer is waited for.
    browser.args(["--virtual-time-budget=3000", "--dump-dom", url]);
    let (status, said) = Process::start(&mut browser).end();
    assert!(status.success(), "{said}");
    said
}

#[test]
fn a_browser_shows_swarms_and_clients() {
    if !need::programs(&["chromium"]) {
        return;
    }
    let tracker = tracker("127.0.0.1:0".parse().unwrap(), |config| {
        config.proxies = vec!["127.0.0.0/8".parse().unwrap()];
    });
    // Eight swarms, each with one leecher more than the one before.
    for torrent in 1..=8_u8 {
        for peer in 0..=torrent {
            // One of the clients has a name that is not to become a part of the page.
            let id = ["-RW0100-", "-qB5020-", "-TR4060-", "<img%20x>"][usize::from(peer) % 4];
            let length = id.replace("%20", " ").len();
            let id = format!("{id}{}{peer:02}", "x".repeat(18 - length));
            let (hash, left) = (format!("%{torrent:02X}").repeat(20), u8::from(peer > 0));
            let query = format!("info_hash={hash}&peer_id={id}&port=6881&left={left}&uploaded=0&downloaded=0");
            let from = format!("X-Forwarded-For: 198.51.{torrent}.{peer}\r\n");
            let answer = get(tracker.addr(), &format!("/announce?{query}"), &from);
            assert!(answer.starts_with(b"d8:complete"), "{}", answer.escape_ascii());
        }
    }
    assert_eq!(stats(&tracker)["store"]["leechers"], 36);
    let dom = dom(&format!("http://{}/", tracker.admin().unwrap()));
    assert!(dom.contains("<html lang=\"en\" data-page=\"drawn\">"), "{dom:.3000}");
    assert!(dom.contains("id=\"torrents\">8<") && dom.contains("id=\"leechers\" class=\"leech\">36<"), "{dom}");
    let (first, last) = (dom.find(&"08".repeat(20)).unwrap(), dom.find(&"01".repeat(20)).unwrap());
    assert!(first < last, "the largest swarm comes first");
    assert!(!dom.contains("<img"), "names stay names");
    assert!(dom.contains("qBittorrent"));
}

#[cfg(feature = "redis")]
#[test]
fn a_browser_shows_which_store_is_away_and_does_not_say_that_nobody_is_there() {
    use ropewalk::tracker::{RedisConfig, StoreConfig};

    if !need::programs(&["chromium"]) {
        return;
    }
    let tracker = tracker("127.0.0.1:0".parse().unwrap(), |config| {
        config.store = StoreConfig::Redis(RedisConfig::new("redis://:sesame@127.0.0.1:1".parse().unwrap()));
    });
    let dom = dom(&format!("http://{}/", tracker.admin().unwrap()));
    let said = "Swarms are not known: the tracker does not reach its store (127.0.0.1:1: connection refused;";
    assert!(dom.contains(said), "{dom}");
    assert_eq!(dom.matches("<p class=\"empty\">Not known at present.</p>").count(), 2, "{dom}");
    assert!(!dom.contains("sesame"));
}
