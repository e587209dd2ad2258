//! Swarms that are only looked at.

use ropewalk::tracker::Tracker;
use ropewalk::{Check, Data, Priority, Source, Start, State, Transport};

use crate::support::payload::Payload;
use crate::support::{Client, PATIENCE, await_that, config};

#[test]
fn a_swarm_is_seen_as_it_is_and_nothing_is_fetched_or_made() {
    let tracker = Tracker::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let half = 10 * 65536;
    let files = [("first", half), ("second", half)];
    let payload = Payload::folder_tracked("seen", &files, 65536, false, &[tracker.announce_url()]);
    let announced = |client: &Client| {
        await_that("announced", &client.torrent, || client.torrent.trackers().iter().any(|it| it.seeders.is_some()));
    };
    let seeder = Client::seeding(&payload);
    announced(&seeder);
    // It wants the first file only, and has it.
    let first = Client::leeching_with(&payload, &[], config(), |options| {
        options.priorities = vec![Priority::Normal, Priority::Skip];
    });
    assert_eq!(first.torrent.wait(PATIENCE), State::Seeding);
    announced(&first);

    let empty = tempfile::tempdir().unwrap();
    let looker = Client::start(&payload, empty, config(), |options| {
        options.start = Start::Looking;
        // Neither is anything checked.
        options.check = Check::Full;
    });
    assert_eq!(looker.torrent.wait(PATIENCE), State::Looking);
    await_that("seen", &looker.torrent, || {
        let peers = looker.torrent.peers();
        peers.iter().any(|peer| peer.pieces == 20) && peers.iter().any(|peer| peer.pieces == 10 && peer.upload_only)
    });
    let scraped = || looker.torrent.trackers()[0].scrape;
    await_that("scraped", &looker.torrent, || scraped().is_some());
    assert_eq!(scraped().map(|scrape| scrape.seeders + scrape.leechers), Some(3));
    for peer in looker.torrent.peers() {
        assert!(peer.sources.contains(Source::Tracker) || peer.sources.contains(Source::Incoming), "{peer:?}");
        assert_eq!(peer.transport, Transport::Tcp);
        assert!(peer.client.starts_with("ropewalk "), "{}", peer.client);
        assert!(!peer.interesting && peer.downloaded == 0 && peer.outstanding == 0, "{peer:?}");
    }
    let survey = looker.torrent.survey().unwrap();
    assert_eq!(survey.availability.len(), 20);
    assert_eq!((survey.availability[0], survey.availability[19]), (2, 1));
    assert!(survey.known.contains_key(&Source::Tracker), "{survey:?}");

    // Nothing can be talked into it.
    let file = payload.metainfo.layout().file_indices().next().unwrap();
    looker.torrent.set_priority(file, Priority::High).unwrap();
    looker.torrent.recheck().unwrap();
    let mut reader = looker.torrent.open(file).unwrap();
    assert!(std::io::Read::read(&mut reader, &mut [0; 1]).unwrap_err().to_string().contains("only looked at"));
    assert_eq!((looker.torrent.state(), looker.torrent.stats().downloaded), (State::Looking, 0));
    looker.torrent.remove(Data::Delete).unwrap();
    let dir = looker.stop();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn files_that_are_there_already_are_left_alone() {
    let payload = Payload::file("there.bin", 300_000, 65536);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("there.bin"), &payload.bytes).unwrap();
    let looker = Client::start(&payload, dir, config(), |options| options.start = Start::Looking);
    assert_eq!(looker.torrent.wait(PATIENCE), State::Looking);
    assert_eq!(looker.torrent.stats().pieces_have, 0);
    looker.torrent.remove(Data::Delete).unwrap();
    let dir = looker.stop();
    assert_eq!(std::fs::read(dir.path().join("there.bin")).unwrap(), payload.bytes);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
