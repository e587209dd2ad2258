//! What goes over HTTP: the query, the answers, and what is refused.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::thread;

use super::{HttpScript, ONE_PEER, PATIENCE, Watched, hang, peer, send, setup};
use crate::discovery::tracker::{Setup, TrackerFact, TrackerState};
use crate::wire::tracker::udp::ScrapeEntry;

#[test]
fn an_announce_says_who_we_are_and_brings_compact_peers() {
    let tracker = HttpScript::answering(ONE_PEER);
    let watched = Watched::start(&[&[tracker.url()]]);
    assert_eq!(watched.peers(), [peer(7)]);
    let target = tracker.target();
    for part in [
        "/announce?",
        "info_hash=%FE%FE",
        "peer_id=-RW0001-abcdefghijkl",
        "port=6881",
        "uploaded=11",
        "downloaded=22",
        "left=33",
        "event=started",
        "compact=1",
        "numwant=80",
        "requirecrypto=1",
    ] {
        assert!(target.contains(part), "{part} in {target}");
    }
    let status = watched.status(|status| status.state == TrackerState::Working);
    assert_eq!((status.seeders, status.leechers, status.peers), (Some(3), Some(4), 1));
    assert_eq!((&*status.url, status.tier, status.error), (&*tracker.url(), 0, None));
}

#[test]
fn an_http_tracker_is_scraped_where_that_is_wanted() {
    let tracker = HttpScript::new(|target, stream| {
        let body = [b"d5:filesd20:".as_slice(), &[0xfe; 20], b"d8:completei5e10:downloadedi6e10:incompletei7eeee"];
        let scrape = body.concat();
        send(stream, "200 OK", "", if target.starts_with("/scrape?info_hash=%FE") { &scrape } else { ONE_PEER });
    });
    let watched = Watched::with(Setup { scrape: true, ..setup(&[&[tracker.url()]]) });
    let entry = ScrapeEntry { seeders: 5, completed: 6, leechers: 7 };
    assert_eq!(watched.status(|status| status.scrape.is_some()).scrape, Some(entry));
}

#[test]
fn peers_may_come_as_dictionaries_in_chunks() {
    let tracker = HttpScript::new(|_, stream| {
        let _ = stream.write_all(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
              11\r\nd8:intervali1800e\r\n\
              25\r\n5:peersld2:ip8:10.0.0.14:porti257eeee\r\n0\r\n\r\n",
        );
    });
    let watched = Watched::start(&[&[tracker.url()]]);
    assert_eq!(watched.peers(), [peer(1)]);
}

#[test]
fn a_failure_reason_is_read_whatever_the_status() {
    let tracker = HttpScript::new(|_, stream| {
        send(stream, "400 Bad Request", "", b"d14:failure reason12:unregisterede");
    });
    let watched = Watched::start(&[&[tracker.url()]]);
    assert_eq!(watched.failure(), "the tracker refuses: unregistered");
    watched.status(|status| status.error.as_deref() == Some("the tracker refuses: unregistered"));
}

#[test]
fn a_status_without_a_reason_is_named() {
    let tracker = HttpScript::new(|_, stream| send(stream, "503 Service Unavailable", "", b"<html>"));
    let watched = Watched::start(&[&[tracker.url()]]);
    assert_eq!(watched.failure(), "the tracker answers with HTTP status 503");
}

#[test]
fn a_warning_and_our_own_address_are_passed_on() {
    let tracker =
        HttpScript::answering(b"d11:external ip4:\xc0\0\x02\x018:intervali1800e5:peers0:15:warning message4:hey!e");
    let watched = Watched::start(&[&[tracker.url()]]);
    let url: Arc<str> = tracker.url().into();
    assert_eq!(watched.fact(), TrackerFact::ExternalIp { url: url.clone(), ip: Ipv4Addr::new(192, 0, 2, 1).into() });
    assert_eq!(watched.fact(), TrackerFact::Warning { url, message: "hey!".into() });
    watched.status(|status| status.warning.as_deref() == Some("hey!"));
}

#[test]
fn the_tracker_id_is_sent_back() {
    let tracker = HttpScript::answering(b"d8:intervali0e5:peers0:10:tracker id3:a &e");
    let _watched = Watched::start(&[&[tracker.url()]]);
    assert!(!tracker.target().contains("trackerid"));
    assert!(tracker.target().contains("trackerid=a%20%26"));
}

#[test]
fn a_reply_that_is_too_large_is_refused() {
    let tracker = HttpScript::new(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b'x'; 65536]).is_ok() {}
    });
    let watched = Watched::start(&[&[tracker.url()]]);
    assert!(watched.failure().contains("larger than"));
}

#[test]
fn a_reply_that_is_too_large_once_decompressed_is_refused() {
    /// 64 KiB of zeros by gzip.
    const MEMBER: [u8; 96] = *b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xed\xc1\x01\x01\x00\x00\x00\x80\x90\xfe\xaf\xee\x08\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x6a\xeb\x8e\x97\xd7\x00\x00\x01\x00";
    let tracker = HttpScript::new(|_, stream| send(stream, "200 OK", "Content-Encoding: gzip\r\n", &MEMBER.repeat(64)));
    let watched = Watched::start(&[&[tracker.url()]]);
    assert!(watched.failure().contains("larger than"));
}

#[test]
fn a_redirect_is_followed_and_a_circle_is_not() {
    let tracker = HttpScript::answering(ONE_PEER);
    let url = tracker.url();
    let moved = HttpScript::new(move |target, stream| {
        let query = target.split_once('?').unwrap().1;
        send(stream, "302 Found", &format!("Location: {url}?{query}\r\n"), b"");
    });
    let circle = HttpScript::new(|target, stream| {
        send(stream, "301 Moved Permanently", &format!("Location: {target}\r\n"), b"");
    });
    let watched = Watched::start(&[&[moved.url()], &[circle.url()]]);
    assert_eq!(watched.peers(), [peer(7)]);
    circle.target();
    drop(watched);
    assert!(tracker.target().contains("info_hash=%FE%FE"));
}

#[test]
fn raw_characters_in_a_url_are_escaped_and_escapes_are_kept() {
    let tracker = HttpScript::answering(ONE_PEER);
    let url = format!("http://{}/a b|\u{e9}/%41nnounce?key=\"<\u{e9}>&x=%ff", tracker.addr);
    let watched = Watched::start(&[&[url]]);
    assert_eq!(watched.peers(), [peer(7)]);
    let target = tracker.target();
    assert!(target.starts_with("/a%20b|%C3%A9/%41nnounce?key=%22%3C%C3%A9%3E&x=%ff&info_hash="), "{target}");
}

#[test]
fn a_tls_handshake_with_what_speaks_no_tls_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/announce", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        hang(&mut stream);
    });
    let mut setup = setup(&[&[url]]);
    setup.timing.first_retry = PATIENCE;
    setup.timing.longest_retry = PATIENCE;
    let watched = Watched::with(setup);
    assert!(!watched.failure().is_empty());
    server.join().unwrap();
}
