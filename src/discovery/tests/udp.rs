//! What goes over UDP.

use std::net::UdpSocket;

use super::{PATIENCE, UdpScript, Watched, peer, setup, udp_answer};
use crate::discovery::tracker::{Setup, TrackerFact, TrackerState};
use crate::wire::tracker::Event;
use crate::wire::tracker::udp::{Request, Response, ScrapeEntry};

#[test]
fn a_udp_tracker_is_announced_to_and_told_of_the_stop_on_the_same_connection() {
    let tracker = UdpScript::new(|request| vec![udp_answer(request)]);
    let watched = Watched::start(&[&[tracker.url()]]);
    assert_eq!(watched.peers(), [peer(7)]);
    watched.status(|status| status.state == TrackerState::Working && status.seeders == Some(2));
    let started = tracker.announced();
    assert_eq!((started.event, started.left, started.numwant), (Some(Event::Started), 33, Some(80)));
    watched.announcer.stop(PATIENCE);
    let Request::Announce { announce, connection_id, url_data, .. } = tracker.requests.recv().unwrap() else {
        panic!()
    };
    assert_eq!((announce.event, connection_id), (Some(Event::Stopped), 42));
    assert_eq!(url_data, b"/announce");
}

#[test]
fn a_udp_tracker_is_scraped_where_that_is_wanted() {
    let entry = ScrapeEntry { seeders: 5, completed: 6, leechers: 7 };
    let tracker = UdpScript::new(move |request| match request {
        Request::Scrape { transaction_id, .. } => {
            vec![Response::Scrape { transaction_id: *transaction_id, torrents: vec![entry] }]
        }
        _ => vec![udp_answer(request)],
    });
    let watched = Watched::with(Setup { scrape: true, ..setup(&[&[tracker.url()]]) });
    assert_eq!(watched.status(|status| status.scrape.is_some()).scrape, Some(entry));
}

#[test]
fn lost_udp_packets_are_sent_again_and_strangers_ignored() {
    let mut lost = 0;
    let tracker = UdpScript::new(move |request| {
        lost += 1;
        // Every second packet is lost; before each answer comes one to a request that nobody made.
        if lost % 2 == 1 {
            return Vec::new();
        }
        let transaction_id = request.transaction_id().wrapping_add(1);
        vec![Response::Error { transaction_id, message: "forged".into() }, udp_answer(request)]
    });
    let watched = Watched::start(&[&[tracker.url()]]);
    assert!(matches!(watched.fact(), TrackerFact::Peers { peers, .. } if peers == [peer(7)]));
}

#[test]
fn a_udp_error_is_passed_on_in_the_trackers_words() {
    let tracker = UdpScript::new(|request| match request {
        Request::Connect { .. } => vec![udp_answer(request)],
        _ => vec![Response::Error { transaction_id: request.transaction_id(), message: "go away".into() }],
    });
    let watched = Watched::start(&[&[tracker.url()]]);
    assert_eq!(watched.failure(), "the tracker refuses: go away");
}

#[test]
fn a_udp_tracker_that_is_not_there_fails_at_once_and_one_that_is_silent_in_time() {
    let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let watched = Watched::start(&[&[format!("udp://{gone}")]]);
    assert!(watched.failure().starts_with("cannot reach the tracker"));
    let silent = UdpScript::new(|_| Vec::new());
    let watched = Watched::start(&[&[silent.url()]]);
    assert!(watched.failure().ends_with("did not answer"));
}
