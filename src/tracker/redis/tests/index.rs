//! What can be told of all swarms.

use super::*;

#[test]
fn all_swarms_are_told_with_their_sums() {
    let Some(server) = Server::start(&[]) else { return };
    let (one, other) = (store(&server.url()), store(&server.url()));
    let now = Instant::now();
    assert_eq!(one.totals(now).unwrap(), Totals::default());
    for number in 0..100 {
        ask(&one, &Announce { info_hash: InfoHash::new([number; 20]), ..leecher(1) }).unwrap();
    }
    assert_eq!(one.totals(now).unwrap(), Totals { torrents: 100, seeders: 0, leechers: 100, no_room: 0 });
    assert_eq!(other.totals(now).unwrap().torrents, 100, "what one has told the other knows");
    let all: BTreeSet<_> =
        other.all(1000, now).unwrap().into_iter().map(|(hash, counts)| (hash.as_bytes()[0], counts.leechers)).collect();
    assert_eq!(all, (0..100).map(|number| (number, 1)).collect());
    assert_eq!(other.all(7, now).unwrap().len(), 7);
    let stopped = Announce { info_hash: InfoHash::new([5; 20]), event: Some(Event::Stopped), ..leecher(1) };
    ask(&other, &stopped).unwrap();
    assert_eq!(other.totals(now).unwrap(), Totals { torrents: 99, seeders: 0, leechers: 99, no_room: 0 });
}

#[test]
fn to_ask_for_the_sums_writes_nothing() {
    let Some(server) = Server::start(&[]) else { return };
    let store = store(&server.url());
    ask(&store, &leecher(1)).unwrap();
    let now = Instant::now();
    store.totals(now).unwrap();
    let changes = || {
        let info = server.text("INFO persistence");
        info.lines().find(|line| line.starts_with("rdb_changes_since_last_save:")).unwrap().to_owned()
    };
    let before = changes();
    assert_eq!(store.totals(now).unwrap().torrents, 1);
    assert_eq!(changes(), before);
    ask(&store, &Announce { event: Some(Event::Stopped), ..leecher(1) }).unwrap();
    assert_eq!(store.totals(now).unwrap(), Totals::default());
}

#[test]
fn clients_are_told_of_seeders_and_leechers_as_there_are() {
    let Some(server) = Server::start(&[]) else { return };
    let store = store(&server.url());
    let mut batch: Vec<_> = (0..1000).map(seeder).collect();
    let mut id = *b"-qB5010-\0\0\0\0\0\0\0\0\0\0\0\0";
    batch.extend((1000..2000u32).map(|number| {
        id[16..].copy_from_slice(&number.to_be_bytes());
        Announce { peer_id: PeerId::new(id), ..leecher(number) }
    }));
    store.announce(&batch, Instant::now(), &mut Reply::default(), &mut |_, reply| assert!(reply.is_ok()));
    // The index knows that it is there.
    let health = store.health(1, Instant::now()).unwrap();
    let clients = ["Transmission 4.0.5", "qBittorrent 5.0.1"].map(|name| (name.to_owned(), 1000));
    assert_eq!(health[0].clients, clients);
}

#[test]
fn the_largest_swarms_are_told_with_clients_and_rates() {
    let Some(server) = Server::start(&[]) else { return };
    let store = store_with(&server.url(), |config| config.expiry = Duration::from_secs(16));
    let small = InfoHash::new([1; 20]);
    ask(&store, &Announce { info_hash: small, ..leecher(1) }).unwrap();
    ask(&store, &Announce { key: 3, ..seeder(1) }).unwrap();
    ask(&store, &leecher(2)).unwrap();
    let other_client = PeerId::new(*b"-qB5010-abcdefghijkl");
    ask(&store, &Announce { peer_id: other_client, ..leecher(3) }).unwrap();
    // What it says at first is from before anybody looked.
    ask(&store, &Announce { peer_id: other_client, uploaded: 1 << 50, downloaded: 1_600_000, ..leecher(3) }).unwrap();
    ask(&store, &Announce { peer_id: other_client, downloaded: 3_200_000, ..leecher(3) }).unwrap();
    // It is told of again when it is swept, every second.
    until("the index knows which is larger", || {
        ask(&store, &leecher(2)).unwrap();
        store.health(1, Instant::now()).unwrap()[0].info_hash == TORRENT
    });
    let health = store.health(10, Instant::now()).unwrap();
    assert_eq!(health.len(), 2);
    assert_eq!(health[0].counts, Counts { seeders: 1, leechers: 2, downloaded: 0 });
    assert_eq!(health[0].clients, [("Transmission 4.0.5".to_owned(), 2), ("qBittorrent 5.0.1".to_owned(), 1)]);
    // 3.2 MB in 16 s, fading since.
    assert!((100_000..=200_000).contains(&health[0].down_rate), "{health:?}");
    assert!(health[0].seen < PATIENCE);
    assert_eq!((health[1].info_hash, health[1].down_rate), (small, 0));
}
