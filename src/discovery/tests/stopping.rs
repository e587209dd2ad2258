//! The last announces: completed and stopped, and how long they may hold up the end.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{HttpScript, ONE_PEER, PATIENCE, UdpScript, Watched, hang, send, setup};
use crate::discovery::tracker::{Counters, TrackerState};

#[test]
fn completed_is_sent_once_and_does_not_wait() {
    let tracker = HttpScript::answering(b"d8:intervali7200e12:min intervali7200e5:peers0:e");
    let watched = Watched::start(&[&[tracker.url()]]);
    assert!(tracker.target().contains("event=started"));
    watched.announcer.completed();
    watched.announcer.completed();
    assert!(tracker.target().contains("event=completed"));
    watched.announcer.stop(PATIENCE);
    assert!(tracker.target().contains("event=stopped"));
}

#[test]
fn a_torrent_that_was_complete_at_the_start_never_completes() {
    let tracker = HttpScript::answering(ONE_PEER);
    let mut setup = setup(&[&[tracker.url()]]);
    setup.counters = Arc::new(Counters::default);
    let watched = Watched::with(setup);
    watched.peers();
    watched.announcer.completed();
    watched.status(|status| status.state == TrackerState::Working);
    watched.announcer.stop(PATIENCE);
    assert!(tracker.target().contains("left=0&"));
    assert!(tracker.target().contains("event=stopped"));
}

#[test]
fn stopping_tells_the_trackers_that_accepted_us_with_the_last_counters() {
    let tracker = HttpScript::answering(ONE_PEER);
    let refusing = HttpScript::answering(b"d14:failure reason2:no8:retry in5:nevere");
    let uploaded = Arc::new(AtomicU64::new(1));
    let mut setup = setup(&[&[tracker.url()], &[refusing.url()]]);
    let counted = uploaded.clone();
    setup.counters = Arc::new(move || Counters { uploaded: counted.load(Ordering::SeqCst), downloaded: 0, left: 33 });
    let watched = Watched::with(setup);
    watched.status(|status| status.state == TrackerState::Working);
    watched.failure();
    uploaded.store(99, Ordering::SeqCst);
    watched.announcer.stop(PATIENCE);
    assert!(tracker.target().contains("uploaded=1&"));
    let stopped = tracker.target();
    assert!(stopped.contains("event=stopped") && stopped.contains("uploaded=99&") && stopped.contains("numwant=0"));
    assert_eq!(refusing.targets.try_iter().count(), 1);
}

#[test]
fn a_stop_waits_no_longer_than_the_grace() {
    let tracker = HttpScript::new(|target, stream| match target.contains("event=stopped") {
        true => hang(stream),
        false => send(stream, "200 OK", "", ONE_PEER),
    });
    let watched = Watched::start(&[&[tracker.url()]]);
    watched.status(|status| status.state == TrackerState::Working);
    let start = Instant::now();
    watched.announcer.stop(Duration::from_millis(100));
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_stop_does_not_wait_for_an_announce_that_hangs() {
    let hanging = HttpScript::hanging();
    let dripping = HttpScript::new(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nd8:int");
        hang(stream);
    });
    let silent = UdpScript::new(|_| Vec::new());
    let watched = Watched::start(&[&[hanging.url()], &[dripping.url()], &[silent.url()]]);
    hanging.target();
    dripping.target();
    silent.requests.recv_timeout(PATIENCE).unwrap();
    let start = Instant::now();
    watched.announcer.stop(PATIENCE);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_stop_does_not_wait_for_a_connection_that_is_not_accepted() {
    // A full backlog leaves further connections without an answer, as a host that is gone does.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap().as_socket().unwrap();
    let fill = || TcpStream::connect_timeout(&addr, Duration::from_millis(200));
    let filled: Vec<_> = std::iter::from_fn(|| fill().ok()).take(16).collect();
    let watched = Watched::start(&[&[format!("http://{addr}/announce")]]);
    watched.status(|status| status.state == TrackerState::Announcing);
    let start = Instant::now();
    watched.announcer.stop(PATIENCE);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(watched.facts.is_empty(), "the connect did not hang");
    drop(filled);
}
