//! A cluster of three masters.

use redis::Value;

use super::*;

struct Cluster {
    masters: Vec<Server>,
}

const ARGUMENTS: &[&str] = &["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"];

impl Cluster {
    fn start() -> Option<Self> {
        let masters: Vec<_> = (0..3).map(|_| Server::start(ARGUMENTS)).collect::<Option<_>>()?;
        for (server, range) in masters.iter().zip(["0 5000", "5001 10000", "10001 16383"]) {
            server.text(&format!("CLUSTER ADDSLOTSRANGE {range}"));
            server.meet(&masters[0]);
        }
        let cluster = Self { masters };
        until("the cluster is complete", || cluster.masters.iter().all(|server| knows(server, 3)));
        Some(cluster)
    }

    fn url(&self) -> String {
        self.masters[0].url().replace("redis://", "redis+cluster://")
    }

    /// A server that stands in for the first master.
    fn replica(&self) -> Server {
        let replica = Server::start(ARGUMENTS).expect("as the masters");
        replica.meet(&self.masters[0]);
        until("the replica is known", || knows(&replica, 4) && self.masters.iter().all(|server| knows(server, 4)));
        replica.text(&format!("CLUSTER REPLICATE {}", self.masters[0].text("CLUSTER MYID")));
        until("the replica has what its master has", || {
            replica.text("INFO replication").contains("master_link_status:up")
        });
        replica
    }
}

/// Whether a server sees a working cluster with so many servers.
fn knows(server: &Server, servers: usize) -> bool {
    let info = server.text("CLUSTER INFO");
    info.contains("cluster_state:ok") && info.contains(&format!("cluster_known_nodes:{servers}\r"))
}

fn torrent(number: u32) -> InfoHash {
    let mut hash = [0; 20];
    hash[..4].copy_from_slice(&number.to_be_bytes());
    InfoHash::new(hash)
}

/// One swarm for each number.
fn batch(numbers: std::ops::Range<u32>, peer: u32) -> Vec<Announce> {
    numbers.map(|number| Announce { info_hash: torrent(number), ..leecher(peer) }).collect()
}

fn all_noted(store: &RedisStore, batch: &[Announce]) -> bool {
    let mut noted = 0;
    store.announce(batch, Instant::now(), &mut Reply::default(), &mut |_, reply| {
        noted += usize::from(reply.is_ok_and(|reply| reply.again.is_none()));
    });
    noted == batch.len()
}

#[test]
fn swarms_are_spread_over_a_cluster_and_every_tracker_finds_them() {
    let Some(cluster) = Cluster::start() else { return };
    let one = store(&cluster.url());
    // It is told of one server alone, and not that it is one of a cluster.
    let other = store(&cluster.masters[2].url());
    assert!(all_noted(&one, &batch(0..300, 1)));
    assert!(all_noted(&other, &batch(0..300, 2)));
    let hashes: Vec<_> = (0..300).map(torrent).collect();
    let counts = one.scrape(&hashes, Instant::now()).unwrap();
    assert!(counts.iter().all(|counts| counts.leechers == 2));
    for server in &cluster.masters {
        let keys: u32 = server.text("DBSIZE").parse().unwrap();
        assert!(keys > 100, "every server has some: {keys}");
    }
    let now = Instant::now();
    other.tidy(now);
    assert_eq!(one.totals(now).unwrap().torrents, 300);
    assert_eq!(other.all(1000, now).unwrap().len(), 300);
    assert_eq!(other.health(5, now).unwrap().len(), 5);
}

#[test]
fn a_slot_that_has_moved_is_followed() {
    let Some(cluster) = Cluster::start() else { return };
    let store = store(&cluster.url());
    assert!(all_noted(&store, &batch(0..50, 1)));
    // The first one's slot goes from where it is to the next server, with all that is in it.
    let slot = command::swarm_slot(&torrent(0));
    let from = [5000, 10000, 16383].iter().position(|last| slot <= *last).unwrap();
    let (from, to) = (&cluster.masters[from], &cluster.masters[(from + 1) % 3]);
    let (from_id, to_id) = (from.text("CLUSTER MYID"), to.text("CLUSTER MYID"));
    to.text(&format!("CLUSTER SETSLOT {slot} IMPORTING {from_id}"));
    from.text(&format!("CLUSTER SETSLOT {slot} MIGRATING {to_id}"));
    let Value::Array(keys) = from.command(&[b"CLUSTER", b"GETKEYSINSLOT", slot.to_string().as_bytes(), b"100"]) else {
        panic!("no keys")
    };
    assert!(!keys.is_empty());
    // A key that is not there may be at the other server already: Redis wants to be asked again later.
    assert_eq!(ask(&store, &batch(0..1, 2)[0]).unwrap_err().why, "the tracker's store is moving");
    for key in &keys {
        let Value::BulkString(key) = key else { panic!("{key:?}") };
        let port = to.port.to_string();
        let moved = from.command(&[b"MIGRATE", b"127.0.0.1", port.as_bytes(), key, b"0", b"5000"]);
        assert_eq!(moved, Value::Okay);
    }
    // Whoever asks for what is not there any more is sent on, while the slot is still said to be here.
    assert_eq!(sizes(&store, torrent(0)).1, 1);
    to.text(&format!("CLUSTER SETSLOT {slot} NODE {to_id}"));
    from.text(&format!("CLUSTER SETSLOT {slot} NODE {to_id}"));
    assert!(all_noted(&store, &batch(0..50, 2)));
    assert_eq!(sizes(&store, torrent(0)).1, 2);
}

#[test]
fn a_replica_takes_over_from_a_master_that_dies() {
    let Some(mut cluster) = Cluster::start() else { return };
    let replica = cluster.replica();
    // Told of a server that stays.
    let store = store(&cluster.masters[1].url().replace("redis://", "redis+cluster://"));
    let batch = batch(0..300, 1);
    assert!(all_noted(&store, &batch));
    until("the replica has all of it", || replica.text("DBSIZE") == cluster.masters[0].text("DBSIZE"));
    cluster.masters[0].kill();
    let others = batch.iter().filter(|announce| command::swarm_slot(&announce.info_hash) > 5000);
    let others: Vec<_> = others.copied().collect();
    assert!(all_noted(&store, &others), "what is on other servers is served meanwhile");
    until("the replica has taken over", || all_noted(&store, &batch));
    let hashes: Vec<_> = batch.iter().map(|announce| announce.info_hash).collect();
    let counts = store.scrape(&hashes, Instant::now()).unwrap();
    assert!(counts.iter().all(|counts| counts.leechers == 1));
}
