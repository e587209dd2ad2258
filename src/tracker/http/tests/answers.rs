//! What clients hear: in which order, about which address, and why not.

use std::sync::atomic::Ordering;

use super::{Server, announce};
use crate::tracker::config::{AccessConfig, RequestRate, TrackerConfig};
use crate::tracker::http::poller::Poller;
use crate::tracker::statistics::Counter;

#[test]
fn requests_are_answered_in_their_order() {
    many_requests_are_answered_in_their_order(Poller::new);
}

#[test]
fn requests_are_answered_in_their_order_where_there_is_no_epoll() {
    many_requests_are_answered_in_their_order(Poller::portable);
}

#[test]
fn a_connection_is_closed_when_the_client_wants_that() {
    let server = Server::start(TrackerConfig::default());
    let mut client = server.client();
    let (_, body) = client.ask_with(&announce("a", 1, 2), "Connection: close\r\n");
    assert!(body.contains("10:incompletei2e"), "{body}");
    assert_eq!(client.await_end(), 0);
    let mut old = server.client();
    old.say(&format!("GET {} HTTP/1.0\r\n\r\n", announce("a", 1, 2)));
    assert!(old.hear().1.contains("5:peers6:\\x7f") || old.await_end() == 0);
}

#[test]
fn a_peer_is_told_its_address() {
    let server = Server::start(TrackerConfig::default());
    let body = server.client().ask(&announce("a", 80, 2));
    assert!(body.contains("11:external ip4:\u{7f}\0\0\u{1}"), "{body:?}");
    assert!(body.ends_with("5:peers6:\u{7f}\0\0\u{1}\0Pe"), "{body:?}");
}

#[test]
fn only_a_trusted_proxy_says_where_a_peer_is() {
    let forwarded = "X-Forwarded-For: 198.51.100.1, 65.66.67.68\r\n";
    let server = Server::start(TrackerConfig::default());
    let (_, body) = server.client().ask_with(&announce("a", 80, 2), forwarded);
    assert!(body.ends_with("5:peers6:\u{7f}\0\0\u{1}\0Pe"), "{body:?}");
    let proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let server = Server::start(TrackerConfig { proxies, ..TrackerConfig::default() });
    let mut proxy = server.client();
    let (_, body) = proxy.ask_with(&announce("a", 80, 2), forwarded);
    assert!(body.ends_with("5:peers6:ABCD\0Pe"), "{body:?}");
    let (_, body) = proxy.ask_with(&announce("a", 80, 2), "X-Forwarded-For: 4142:4344::\r\n");
    assert!(body.contains(&format!("6:peers618:ABCD{}\0Pe", "\0".repeat(12))), "{body:?}");
    assert_eq!(proxy.ask_with(&announce("a", 80, 2), "X-Forwarded-For: me\r\n").0, 400);
}

#[test]
fn addresses_that_lead_nowhere_are_refused() {
    let server = Server::start(TrackerConfig::default());
    let mut client = server.client();
    assert_eq!(client.ask(&announce("a", 0, 1)), "d14:failure reason32:no peer can be reached at port 0e");
    assert_eq!(
        client.ask(&announce("a", server.addr.port(), 1)),
        "d14:failure reason32:the address is the tracker's owne"
    );
    assert!(client.ask(&announce("a", 1, 1)).starts_with("d8:complete"));
    server.await_count(Counter::Address, 2);
}

#[test]
fn torrents_that_are_denied_are_not_served() {
    let folder = tempfile::tempdir().unwrap();
    let deny = folder.path().join("deny");
    std::fs::write(&deny, "61".repeat(20)).unwrap();
    let access = AccessConfig { deny: Some(deny.clone()), ..AccessConfig::default() };
    let server = Server::start(TrackerConfig { access, ..TrackerConfig::default() });
    let mut client = server.client();
    let refused = "d14:failure reason31:this torrent is not served heree";
    assert_eq!(client.ask(&announce("a", 1, 1)), refused);
    let scrape = format!("/scrape?info_hash={}&info_hash={}", "a".repeat(20), "b".repeat(20));
    assert_eq!(client.ask(&scrape).matches("8:complete").count(), 1);
    std::fs::write(&deny, "62".repeat(20)).unwrap();
    server.service.access.reload().unwrap();
    assert_eq!(client.ask(&announce("b", 1, 1)), refused);
    assert!(client.ask(&announce("a", 1, 1)).starts_with("d8:complete"));
}

#[test]
fn who_asks_too_often_is_told_when_to_ask_again() {
    let rate = Some(RequestRate { per_minute: 1, burst: 2 });
    let server = Server::start(TrackerConfig { rate, ..TrackerConfig::default() });
    let mut client = server.client();
    assert!(client.ask(&announce("a", 1, 1)).starts_with("d8:complete"));
    assert!(client.ask(&announce("a", 1, 1)).starts_with("d8:complete"));
    let refused = "d14:failure reason35:too many requests from this address8:retry ini1ee";
    assert_eq!(client.ask(&announce("a", 1, 1)), refused);
    server.await_count(Counter::TooOften, 1);
}

#[test]
fn a_store_that_is_away_is_a_failure_with_a_time_to_ask_again() {
    let server = Server::start(TrackerConfig::default());
    server.store.is_down.store(true, Ordering::Relaxed);
    let mut client = server.client();
    let failure = "d14:failure reason17:the store is away8:retry ini2ee";
    assert_eq!(client.ask(&announce("a", 1, 1)), failure);
    assert_eq!(client.ask(&format!("/scrape?info_hash={}", "a".repeat(20))), failure);
    server.await_count(Counter::Unavailable, 2);
}

#[test]
fn parameters_that_are_wrong_are_named_in_an_answer_that_clients_read() {
    let server = Server::start(TrackerConfig::default());
    let failure = "d14:failure reason45:the parameter info_hash is missing or invalide".to_owned();
    assert_eq!(server.client().ask_with("/announce?info_hash=abc", ""), (200, failure));
    server.await_count(Counter::Malformed, 1);
}

#[test]
fn requests_that_came_before_the_end_are_answered() {
    let server = Server::start(TrackerConfig::default());
    let mut client = server.client();
    client.say(&format!("GET {} HTTP/1.1\r\n\r\n", announce("a", 1, 1)).repeat(100));
    client.0.shutdown(std::net::Shutdown::Write).unwrap();
    for _ in 0..100 {
        assert!(client.hear().1.starts_with("d8:complete"));
    }
    assert_eq!(client.await_end(), 0);
}

fn many_requests_are_answered_in_their_order(poller: fn() -> rustix::io::Result<Poller>) {
    let server = Server::start_with(TrackerConfig::default(), poller);
    let mut clients: Vec<_> = (0..20).map(|_| server.client()).collect();
    for round in 0..5 {
        for (number, client) in clients.iter_mut().enumerate() {
            let request = |left: usize| match left % 10 {
                // Between announces, and answered in its place.
                9 => format!("GET /scrape?info_hash={} HTTP/1.1\r\n\r\n", "%07".repeat(20)),
                _ => format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", announce("%ff", 1000, (number * 100 + left) as u64)),
            };
            client.say(&(0..20 * round + 1).map(request).collect::<String>());
        }
        for (number, client) in clients.iter_mut().enumerate() {
            for left in 0..20 * round + 1 {
                let (status, body) = client.hear();
                let expected = match left % 10 {
                    9 => "8:completei7e".to_owned(),
                    _ => format!("10:incompletei{}e", number * 100 + left),
                };
                assert!(status == 200 && body.contains(&expected), "{expected}: {body}");
            }
        }
    }
    assert!(server.store.largest_batch.load(Ordering::Relaxed) > 1, "the store is asked about several at once");
}
