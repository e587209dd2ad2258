//! Where the time of a download went is told as it is, among peers that each have one fault.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ropewalk::wire::message::Message;
use ropewalk::{Activity, Event, Explanation, PeerTimes};

use crate::support::payload::Payload;
use crate::support::scripted::{RESERVED, Server, Wire, random_id};
use crate::support::{Client, await_event, await_that, config};
use crate::vices::Vice;

/// Long enough to be the longest that anything took in these tests.
const LONG: Duration = Duration::from_millis(700);

fn payload() -> Arc<Payload> {
    Arc::new(Payload::file("explain.bin", 40 * 65536 + 777, 65536))
}

fn peer(explanation: &Explanation, addr: SocketAddr) -> Option<&PeerTimes> {
    explanation.peers.iter().find(|peer| peer.addr == addr)
}

/// Waits until a peer has been at something for long, and that is what the connection is said to be about.
#[track_caller]
fn comes_to(get: &Client, addr: SocketAddr, activity: Activity) -> Explanation {
    let spent = || peer(&get.torrent.explain(), addr).map(|peer| peer.connection.of(activity));
    await_that(activity.name(), &get.torrent, || spent() >= Some(LONG));
    let explanation = get.torrent.explain();
    let peer = peer(&explanation, addr).unwrap();
    let (longest, _) = peer.connection.longest()[0];
    assert_eq!(longest, activity, "{explanation:#?}");
    assert!(explanation.share(activity) > 0.5 && !peer.gone, "{explanation:#?}");
    assert!(explanation.line().contains(activity.to_string().trim_start_matches("waiting ")), "{}", explanation.line());
    assert!(explanation.to_string().contains(explanation.advice(activity)), "{explanation}");
    explanation
}

#[track_caller]
fn shows(vice: Vice, activity: Activity) {
    let payload = payload();
    let server = vice.serve(Ipv4Addr::LOCALHOST, &payload);
    let get = Client::leeching(&payload, &[server.addr]);
    let explanation = comes_to(&get, server.addr, activity);
    assert_eq!(peer(&explanation, server.addr).unwrap().current, activity);
}

#[test]
fn a_peer_that_never_unchokes_is_waited_for_to_unchoke() {
    shows(Vice::ChokesForever, Activity::Unchoke);
}

#[test]
fn a_peer_that_never_sends_is_waited_for_to_send() {
    shows(Vice::Stalls, Activity::Blocks);
}

#[test]
fn a_peer_that_has_nothing_is_not_to_blame_for_anything_else() {
    let payload = payload();
    let info_hash = payload.metainfo.info_hash();
    let server = Server::start(Ipv4Addr::LOCALHOST, move |stream| {
        let mut wire = Wire::answer(stream, info_hash, RESERVED, random_id())?;
        wire.send(&Message::HaveNone)?;
        wire.send(&Message::Unchoke)?;
        loop {
            wire.receive()?;
        }
    });
    let get = Client::leeching(&payload, &[server.addr]);
    comes_to(&get, server.addr, Activity::NothingWanted);
}

#[test]
fn a_download_limit_is_said_to_hold_a_peer() {
    let payload = payload();
    let seed = Client::seeding(&payload);
    let get = Client::leeching_with(&payload, &[seed.addr()], config(), |options| {
        options.limits.down = Some(100 << 10);
    });
    comes_to(&get, seed.addr(), Activity::Limit);
}

#[test]
fn an_upload_limit_is_said_to_hold_the_sending_thread() {
    let payload = payload();
    let seed = Client::seeding_with(&payload, config(), |options| options.limits.up = Some(200 << 10));
    let get = Client::leeching(&payload, &[seed.addr()]);
    await_that("held", &seed.torrent, || seed.torrent.explain().senders.of(Activity::UploadLimit) >= LONG);
    // On the other side, that is a peer that is no faster.
    let explanation = get.torrent.explain();
    assert_eq!(explanation.connections.longest()[0].0, Activity::Blocks, "{explanation:#?}");
}

#[test]
fn peers_that_are_gone_stay_in_the_sums() {
    let payload = payload();
    let server = Vice::DiesAfterAFewBlocks.serve(Ipv4Addr::LOCALHOST, &payload);
    let get = Client::leeching(&payload, &[]);
    let events = get.torrent.events();
    get.torrent.add_peer(server.addr).unwrap();
    await_event(&events, |event| matches!(event, Event::PeerGone { addr, .. } if *addr == server.addr));
    let explanation = get.torrent.explain();
    let [peer] = &explanation.peers[..] else { panic!("{explanation:#?}") };
    assert!(peer.gone && peer.downloaded > 0 && explanation.connected == 1);
    assert_eq!(explanation.connections, peer.connection);
    assert!(!peer.connection.total().is_zero());
    // It does not grow any more.
    assert_eq!(get.torrent.explain().connections, explanation.connections);
}

#[test]
fn a_torrent_without_peers_says_why() {
    let payload = payload();
    let get = Client::leeching(&payload, &[]);
    let spent = |activity| get.torrent.explain().torrent.of(activity);
    await_that("alone", &get.torrent, || !spent(Activity::NoPeers).is_zero());
    assert!(get.torrent.explain().to_string().contains("no peer was connected"));
    let server = Vice::NeverGreets.serve(Ipv4Addr::LOCALHOST, &payload);
    get.torrent.add_peer(server.addr).unwrap();
    await_that("dialling", &get.torrent, || spent(Activity::Dialling) > Duration::from_millis(100));
    get.torrent.pause().unwrap();
    await_that("paused", &get.torrent, || !spent(Activity::Paused).is_zero());
    let before = get.torrent.explain().elapsed();
    await_that("still paused", &get.torrent, || spent(Activity::Paused) > LONG / 10);
    assert_eq!(get.torrent.explain().elapsed(), before);
}

#[test]
fn a_download_that_is_done_took_as_long_as_it_took() {
    let payload = payload();
    let seed = Client::seeding(&payload);
    let get = Client::leeching(&payload, &[seed.addr()]);
    get.finishes(&payload);
    let explanation = get.torrent.explain();
    assert_eq!(explanation.peers.iter().map(|peer| peer.downloaded).sum::<u64>(), payload.bytes.len() as u64);
    let worked = explanation.workers.of(Activity::Hashing) + explanation.workers.of(Activity::Storing);
    assert!(!worked.is_zero() && !explanation.senders.of(Activity::Sending).is_zero(), "{explanation:#?}");
    await_that("seeding", &get.torrent, || !get.torrent.explain().torrent.of(Activity::Seeding).is_zero());
    let elapsed = get.torrent.explain().elapsed();
    await_that("seeding on", &get.torrent, || get.torrent.explain().torrent.of(Activity::Seeding) > LONG / 10);
    assert_eq!(get.torrent.explain().elapsed(), elapsed);
}
