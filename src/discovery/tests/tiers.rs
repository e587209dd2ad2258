//! Which tracker is asked, and when.

use std::time::{Duration, Instant};

use super::{HttpScript, ONE_PEER, UdpScript, Watched, peer, setup, udp_answer};
use crate::config::Bind;
use crate::discovery::tracker::{TrackerState, TrackerStatus};

#[test]
fn a_tracker_that_hangs_delays_no_other_tier() {
    let (slow, quick) = (HttpScript::hanging(), HttpScript::answering(ONE_PEER));
    let watched = Watched::start(&[&[slow.url()], &[quick.url()]]);
    slow.target();
    assert_eq!(watched.peers(), [peer(7)]);
    watched.status(|status| status.state == TrackerState::Announcing);
}

#[test]
fn a_tier_falls_back_to_a_tracker_that_works_and_stays_with_it() {
    let broken = HttpScript::answering(b"d14:failure reason2:noe");
    let works = HttpScript::answering(b"d8:intervali0e5:peers6:\x0a\0\0\x07\x01\x07e");
    let mut setup = setup(&[&[broken.url(), works.url()]]);
    setup.timing.first_retry = Duration::from_secs(3600);
    setup.timing.longest_retry = Duration::from_secs(3600);
    let watched = Watched::with(setup);
    assert!(works.target().contains("event=started"));
    for _ in 0..3 {
        assert!(!works.target().contains("event="));
    }
    drop(watched);
    assert!(broken.targets.try_iter().count() <= 1);
}

#[test]
fn hurrying_moves_the_next_announce_up_to_the_minimum_interval() {
    let tracker = HttpScript::answering(b"d8:intervali7200e12:min intervali3600e5:peers0:e");
    let watched = Watched::start(&[&[tracker.url()]]);
    let after = |status: &TrackerStatus| status.next_announce.unwrap() - Instant::now();
    let working = watched.status(|status| status.state == TrackerState::Working && status.next_announce.is_some());
    assert!(after(&working) > Duration::from_secs(7000));
    watched.announcer.announce_now();
    let hurried = watched.status(|status| after(status) < Duration::from_secs(7000));
    assert!(after(&hurried) > Duration::from_secs(3500));
    assert_eq!(tracker.targets.len(), 1);
}

#[test]
fn what_cannot_be_asked_is_shown_and_never_tried() {
    let urls = ["ws://127.0.0.1:1/", "wss://127.0.0.1:1/", "udp://127.0.0.1/announce", "nonsense", "http:///x y"];
    let urls: Vec<_> = urls.map(String::from).into();
    let watched = Watched::start(&[&urls]);
    let statuses = watched.announcer.snapshot();
    assert_eq!(statuses.len(), 5);
    assert!(statuses[0].error.as_ref().unwrap().contains("ws://"));
    assert!(statuses[..4].iter().all(|status| status.state == TrackerState::Unsupported && status.error.is_some()));
}

#[test]
fn many_tiers_share_the_last_thread() {
    let tracker = HttpScript::answering(ONE_PEER);
    let dead: Vec<_> = (1..=18).map(|port| vec![format!("http://127.0.0.1:{port}/announce")]).collect();
    let mut tiers: Vec<&[String]> = dead.iter().map(Vec::as_slice).collect();
    let last = [tracker.url()];
    tiers.push(&last);
    let watched = Watched::start(&tiers);
    assert_eq!(watched.peers(), [peer(7)]);
    assert_eq!(watched.announcer.snapshot().last().unwrap().tier, 18);
}

#[test]
fn a_name_with_several_addresses_reaches_the_one_that_answers() {
    let http = HttpScript::answering(ONE_PEER);
    let udp = UdpScript::new(|request| vec![udp_answer(request)]);
    for url in
        [format!("http://localhost:{}/announce", http.addr.port()), format!("udp://localhost:{}", udp.addr.port())]
    {
        let watched = Watched::start(&[&[url]]);
        assert_eq!(watched.peers(), [peer(7)]);
    }
}

#[test]
fn a_tracker_of_the_family_we_are_not_bound_to_is_not_asked() {
    let tracker = HttpScript::answering(ONE_PEER);
    let mut setup = setup(&[&[tracker.url()]]);
    setup.bind = Some(Bind::Addr("::1".parse().unwrap()));
    assert!(Watched::with(setup.clone()).failure().contains("bound"));
    setup.bind = Some(Bind::Addr("127.0.0.1".parse().unwrap()));
    assert_eq!(Watched::with(setup).peers(), [peer(7)]);
}
