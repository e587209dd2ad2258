//! What a client may cost: large answers, slow ones, and many connections.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use super::{Client, PATIENCE, Server, TORRENTS, announce};
use crate::tracker::config::{RequestLimits, TrackerConfig};
use crate::tracker::statistics::{Counter, Transport};

/// Bytes of an answer that no socket takes at once.
const LARGE: usize = 14 << 20;

#[test]
fn a_full_scrape_is_served_where_it_is_allowed_and_only_then() {
    let refused = Server::start(TrackerConfig::default());
    assert!(refused.client().ask("/scrape").contains("a full scrape is not served"));
    let server = Server::start(limits(|limits| limits.full_scrape = TORRENTS as usize));
    // It does not fit into the sockets' buffers: the rest waits, and others are served.
    let mut slow = server.client();
    slow.say("GET /scrape HTTP/1.1\r\n\r\n");
    assert!(server.client().ask(&announce("a", 1, 1)).starts_with("d8:complete"));
    let (status, body) = slow.hear();
    assert_eq!((status, body.matches("8:complete").count()), (200, TORRENTS as usize));
    assert!(slow.ask(&announce("a", 1, 1)).starts_with("d8:complete"), "the connection goes on");
}

#[test]
fn large_answers_are_made_one_at_a_time() {
    let server = Server::start(limits(|limits| limits.full_scrape = TORRENTS as usize));
    let mut client = server.client();
    client.say(&"GET /scrape HTTP/1.1\r\n\r\n".repeat(3));
    server.await_count(Counter::Scrapes, 1);
    for _ in 0..3 {
        assert_eq!(client.hear().1.matches("8:complete").count(), TORRENTS as usize);
    }
    server.await_count(Counter::Scrapes, 3);
}

#[test]
fn a_client_that_does_not_take_its_answer_is_cut_off() {
    let config = limits(|limits| {
        limits.full_scrape = TORRENTS as usize;
        limits.request_time = Duration::from_millis(300);
    });
    let server = Server::start(config);
    let mut client = server.client();
    client.say("GET /scrape HTTP/1.1\r\n\r\n");
    server.await_count(Counter::TooSlow, 1);
    assert!(client.await_end() < TORRENTS as usize * 50);
}

#[test]
fn a_client_that_takes_its_answer_too_slowly_is_cut_off() {
    let server = Server::start(limits(|limits| limits.request_time = Duration::from_millis(300)));
    let (mut client, start) = (server.client(), Instant::now());
    client.say(&large_announce());
    let mut some = vec![0; 64 << 10];
    // As much at a time as lets the server send more.
    while server.service.statistics.get(Transport::Http, Counter::TooSlow) == 0 {
        client.0.read_exact(&mut some).unwrap();
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(15));
    }
}

#[test]
fn those_who_hold_most_make_room_for_the_others() {
    let server = Server::start(limits(|limits| limits.request_time = PATIENCE));
    let mut others: Vec<_> = (0..8).map(|_| server.client()).collect();
    others.iter_mut().for_each(|client| client.say("GET "));
    let mut greedy: Vec<_> = (0..20).map(|_| server.client()).collect();
    greedy.iter_mut().for_each(|client| client.say(&large_announce()));
    let start = Instant::now();
    while server.service.statistics.get(Transport::Http, Counter::Crowded) == 0 {
        assert!(start.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    for client in &mut others {
        client.say(&format!("{} HTTP/1.1\r\n\r\n", announce("a", 1, 1)));
        assert!(client.hear().1.starts_with("d8:complete"));
    }
}

#[test]
fn a_request_that_trickles_in_is_cut_off() {
    let server = Server::start(limits(|limits| limits.request_time = Duration::from_millis(300)));
    let (mut client, start) = (server.client(), Instant::now());
    let mut sent = 0;
    // Each byte comes soon after the one before; the deadline is the request's.
    while client.0.write_all(b"GET /"[sent.min(4)..][..1].as_ref()).is_ok() {
        assert!(start.elapsed() < PATIENCE);
        sent += 1;
        client.0.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        if matches!(client.0.read(&mut [0]), Ok(0)) {
            break;
        }
    }
    assert!(start.elapsed() >= Duration::from_millis(300));
    server.await_count(Counter::TooSlow, 1);
}

#[test]
fn a_connection_without_requests_ends_after_a_while() {
    let server = Server::start(limits(|limits| limits.idle_time = Duration::from_millis(300)));
    let (mut client, start) = (server.client(), Instant::now());
    client.ask(&announce("a", 1, 1));
    assert_eq!(client.await_end(), 0);
    assert!(start.elapsed() >= Duration::from_millis(300));
    server.await_count(Counter::TooSlow, 0);
}

#[test]
fn a_head_that_is_too_long_is_refused_and_the_client_can_read_why() {
    let server = Server::start(limits(|limits| limits.head = 1000));
    for text in [
        format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(1000)),
        "a".repeat(5000),
        format!("GET / HTTP/1.1\r\n{}", "A: b\r\n".repeat(500)),
    ] {
        let mut client = server.client();
        client.say(&text);
        let status = client.hear().0;
        assert!(status == 431 || status == 400, "{status}");
        drop(client.0.write_all(b"more"));
        client.0.shutdown(std::net::Shutdown::Write).ok();
        assert_eq!(client.await_end(), 0);
    }
}

#[test]
fn connections_are_bounded() {
    let config = limits(|limits| (limits.connections, limits.connections_per_address) = (5, 3));
    let server = Server::start(config);
    let mut held: Vec<_> = (0..3).map(|_| server.client()).collect();
    held.iter_mut().for_each(|client| assert!(client.ask(&announce("a", 1, 1)).starts_with("d8:complete")));
    assert_eq!(server.client().await_end(), 0);
    server.await_count(Counter::Crowded, 1);
    // Who runs the tracker is let in.
    assert_eq!(Client::connect(server.admin).ask_with("/metrics", "").0, 200);
    held.pop().unwrap().0.shutdown(std::net::Shutdown::Both).unwrap();
    let start = Instant::now();
    loop {
        let mut client = server.client();
        client.say("GET /scrape HTTP/1.1\r\n\r\n");
        if matches!(client.0.read(&mut [0]), Ok(1)) {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "a place that is given back is free");
    }
}

/// A request that is answered by more than [`LARGE`] bytes.
fn large_announce() -> String {
    format!("GET {}&uploaded={LARGE} HTTP/1.1\r\n\r\n", announce("a", 1, 1))
}

fn limits(change: impl FnOnce(&mut RequestLimits)) -> TrackerConfig {
    let mut config = TrackerConfig::default();
    change(&mut config.limits);
    config
}
