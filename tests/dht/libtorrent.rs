//! ropewalk and libtorrent in one DHT, each finding what the other announced and getting what the other put.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ropewalk::dht::DhtEvent;
use ropewalk::wire::item::{Item, ItemValue};
use ropewalk::{AddOptions, Event, Magnet, Session, Transports};
use serde_json::{Value, json};

use super::{PIECE, add, await_that, config, finish, node};
use crate::rig::need;
use crate::rig::network::Network;
use crate::rig::payload::Payload;
use crate::rig::process::{PATIENCE, Process};

/// A node, with a torrent or without, which it looks for in the DHT unless it is told who has it; prints `listening PORT`, `joined N`, `announcing` when it does that first, `block`
/// when it has one, `done` when it has everything, `put TARGET` when its item is stored, `got VALUE` when it found one.
const LIBTORRENT: &str = r#"
import json, sys, time, libtorrent as lt
o = json.loads(sys.argv[1])
s = lt.session({"listen_interfaces": o["listen"], "enable_dht": True, "enable_lsd": False, "enable_upnp": False,
    "enable_natpmp": False, "enable_outgoing_utp": False, "enable_incoming_utp": False, "in_enc_policy": 1,
    "out_enc_policy": 1, "allow_multiple_connections_per_ip": True, "dht_bootstrap_nodes": "",
    "dht_restrict_routing_ips": False, "dht_restrict_search_ips": False, "dht_prefer_verified_node_ids": False,
    "dht_enforce_node_id": False, "dht_ignore_dark_internet": False, "dht_block_ratelimit": 10000,
    "dht_announce_interval": 3, "alert_mask": lt.alert.category_t.all_categories
        & ~lt.alert.category_t.session_log_notification & ~lt.alert.category_t.torrent_log_notification
        & ~lt.alert.category_t.picker_log_notification & ~lt.alert.category_t.dht_log_notification
        & ~lt.alert.category_t.dht_operation_notification & ~lt.alert.category_t.port_mapping_log_notification
        & ~lt.alert.category_t.piece_progress_notification, **o["settings"]})
print("listening", s.listen_port(), flush=True)
for ip, port in o["nodes"]: s.add_dht_node((ip, port))
joined, asked, blocks, last, h = False, False, 0, 0, None
while True:
    s.wait_for_alert(200)
    if not joined:
        s.post_dht_stats()
    elif time.time() - last > 2:
        last = time.time()
        if o.get("get"): s.dht_get_immutable_item(lt.sha1_hash(bytes.fromhex(o["get"])))
        if o.get("put") and not asked:
            asked = True
            print("putting", s.dht_put_immutable_item(o["put"]), flush=True)
        if o.get("dir") and h is None:
            p = lt.parse_magnet_uri(o["magnet"]) if o.get("magnet") else lt.load_torrent_file(o["torrent"])
            p.save_path = o["dir"]
            p.flags &= ~lt.torrent_flags.auto_managed & ~lt.torrent_flags.paused
            if o["seed"]: p.flags |= lt.torrent_flags.seed_mode
            if o.get("peers"): p.flags |= lt.torrent_flags.disable_dht
            h = s.add_torrent(p)
            print("announcing", flush=True)
            for ip, port in o.get("peers", []): h.connect_peer((ip, port))
        if h is not None: h.force_dht_announce()
    for a in s.pop_alerts():
        if isinstance(a, lt.dht_stats_alert):
            n = sum(b["num_nodes"] for b in a.routing_table)
            if n >= o["wait"] and not joined: joined = True; print("joined", n, flush=True)
        elif isinstance(a, lt.torrent_finished_alert) and not o["seed"]: h.flush_cache()
        elif isinstance(a, lt.block_finished_alert):
            blocks += 1
            if blocks == 1: print("block", flush=True)
        elif isinstance(a, (lt.block_downloading_alert, lt.block_uploaded_alert)): pass
        elif isinstance(a, lt.cache_flushed_alert): print("done", flush=True)
        elif isinstance(a, lt.dht_put_alert): print("put", a.target, a.num_success, flush=True)
        elif isinstance(a, lt.dht_immutable_item_alert): print("got", a.item, flush=True)
        else: print(type(a).__name__, a.message(), flush=True)
"#;

/// Starts libtorrent, which begins with these nodes.
fn start(ip: IpAddr, nodes: &[SocketAddr], more: &Value) -> (Process, SocketAddr) {
    let wait = usize::from(!nodes.is_empty());
    let mut options =
        json!({ "listen": format!("{ip}:0"), "nodes": places(nodes), "wait": wait, "seed": false, "settings": {} });
    for (key, value) in more.as_object().unwrap() {
        options[key] = value.clone();
    }
    let mut process = Process::start(Command::new("python3").args(["-c", LIBTORRENT, &options.to_string()]));
    let port = process.wait_until("listening", |line| line.strip_prefix("listening ")?.parse().ok());
    (process, SocketAddr::new(ip, port))
}

fn torrent_at(payload: &Payload, dir: &Path, seed: bool) -> Value {
    json!({ "torrent": payload.torrent(), "dir": dir, "seed": seed })
}

fn places(addrs: &[SocketAddr]) -> Value {
    addrs.iter().map(|addr| json!([addr.ip().to_string(), addr.port()])).collect()
}

/// What libtorrent does by default, where the script chooses otherwise.
fn as_it_is() -> Value {
    json!({ "enable_outgoing_utp": true, "enable_incoming_utp": true, "allow_multiple_connections_per_ip": false })
}

/// libtorrent has tried uTP, was sent on, and has dialled by TCP: in this order, and without having waited in vain.
fn assert_sent_on(theirs: &mut Process) {
    theirs.wait_for("outgoing connection to peer (uTP)");
    let end = theirs.wait_for("disconnecting (uTP)");
    assert!(end.contains("reset by peer"), "{end}");
    theirs.wait_for("outgoing connection to peer (TCP)");
}

/// That much for looking, metadata and the first block, from the first announce to it; some half a second of it is how
/// often libtorrent dials. It would wait longer for an answer by uTP.
const SOON: Duration = Duration::from_secs(3);

#[test]
fn libtorrent_that_tries_utp_where_that_is_not_spoken_gives_metadata_and_content_by_tcp_at_once() {
    if !need::libtorrent() {
        return;
    }
    let payload = Payload::single(3_000_000, 4096, None);
    Network::run(|network| {
        // Nobody else tells of either, so that it is libtorrent who dials.
        let (_node, addr) = node(network.ours, &[]);
        let mut config = config(network.ours, &[]);
        config.peers.transports = Transports::Tcp;
        let session = Session::new(config).unwrap();
        let folder = payload.empty_folder("out");
        let torrent = session.add_magnet(Magnet::new(payload.metainfo.info_hash()), AddOptions::new(&folder)).unwrap();
        let mut more = torrent_at(&payload, &payload.data(), true);
        (more["peers"], more["settings"]) = (places(&session.listen_addrs()), as_it_is());
        let (mut theirs, _) = start(network.theirs, &[addr], &more);
        assert_sent_on(&mut theirs);
        finish(&torrent);
        assert_eq!(torrent.explain().connected, 1);
        session.shutdown();
        payload.assert_in(&folder);
    });
}

#[test]
fn libtorrent_that_tries_utp_where_that_is_not_spoken_gets_metadata_and_content_by_tcp_at_once() {
    if !need::libtorrent() {
        return;
    }
    let payload = Payload::single(3_000_000, 4096, None);
    Network::run(|network| {
        let (_node, addr) = node(network.ours, &[]);
        let mut config = config(network.ours, &[]);
        config.peers.transports = Transports::Tcp;
        let session = Session::new(config).unwrap();
        finish(&add(&session, &payload.metainfo, &payload.data(), &[]));
        let folder = payload.empty_folder("out");
        let magnet = Magnet::new(payload.metainfo.info_hash()).to_string();
        let peers = places(&session.listen_addrs());
        let more = json!({ "magnet": magnet, "dir": folder, "peers": peers, "settings": as_it_is() });
        let (mut theirs, _) = start(network.theirs, &[addr], &more);
        assert_sent_on(&mut theirs);
        theirs.wait_for("done");
        payload.assert_bytes_in(&folder);
    });
}

#[test]
fn a_link_is_answered_soon_by_libtorrent_as_it_is_by_default() {
    if !need::libtorrent() {
        return;
    }
    let payload = Payload::single(3_000_000, 4096, None);
    Network::run(|network| {
        let (node, addr) = node(network.ours, &[]);
        let session = Session::new(config(network.ours, &[addr])).unwrap();
        let folder = payload.empty_folder("out");
        let torrent = session.add_magnet(Magnet::new(payload.metainfo.info_hash()), AddOptions::new(&folder)).unwrap();
        let events = torrent.events();
        // From here on each finds the other: both may dial, at the same moment even.
        await_that("announced", || node.status().stats.peers > 0);
        let mut more = torrent_at(&payload, &payload.data(), true);
        more["settings"] = as_it_is();
        let (mut theirs, _) = start(network.theirs, &[addr], &more);
        theirs.wait_for("announcing");
        let begun = Instant::now();
        while !matches!(events.recv_timeout(PATIENCE).unwrap(), Event::Piece { .. }) {}
        let took = begun.elapsed();
        log::info!("the first piece after {took:?}");
        assert!(took < SOON, "{took:?}");
        finish(&torrent);
        session.shutdown();
        payload.assert_in(&folder);
    });
}

#[test]
fn a_link_at_libtorrent_as_it_is_by_default_is_answered_soon() {
    if !need::libtorrent() {
        return;
    }
    let payload = Payload::single(3_000_000, 4096, None);
    Network::run(|network| {
        let (node, addr) = node(network.ours, &[]);
        let session = Session::new(config(network.ours, &[addr])).unwrap();
        finish(&add(&session, &payload.metainfo, &payload.data(), &[]));
        await_that("announced", || node.status().stats.peers > 0);
        let folder = payload.empty_folder("out");
        let magnet = Magnet::new(payload.metainfo.info_hash()).to_string();
        let more = json!({ "magnet": magnet, "dir": folder, "settings": as_it_is() });
        let (mut theirs, _) = start(network.theirs, &[addr], &more);
        theirs.wait_for("announcing");
        let begun = Instant::now();
        theirs.wait_until("block", |line| (line == "block").then_some(()));
        let took = begun.elapsed();
        log::info!("the first block after {took:?}");
        assert!(took < SOON, "{took:?}");
        theirs.wait_for("done");
        payload.assert_bytes_in(&folder);
    });
}

#[test]
fn libtorrent_finds_what_ropewalk_announced() {
    if !need::libtorrent() {
        return;
    }
    let payload = Payload::folder(PIECE, None);
    Network::run(|network| {
        let (_node, addr) = node(network.ours, &[]);
        let seeder = Session::new(config(network.ours, &[addr])).unwrap();
        finish(&add(&seeder, &payload.metainfo, &payload.data(), &[]));
        let folder = payload.empty_folder("out");
        let (mut theirs, _) = start(network.theirs, &[addr], &torrent_at(&payload, &folder, false));
        theirs.wait_for("joined");
        theirs.wait_for("done");
        payload.assert_bytes_in(&folder);
    });
}

#[test]
fn ropewalk_finds_what_libtorrent_announced() {
    if !need::libtorrent() {
        return;
    }
    let payload = Payload::folder(PIECE, None);
    Network::run(|network| {
        // Between them there is only another libtorrent.
        let (_middle, middle) = start(network.theirs, &[], &json!({}));
        let (mut theirs, _) = start(network.theirs, &[middle], &torrent_at(&payload, &payload.data(), true));
        theirs.wait_for("joined");
        let folder = payload.empty_folder("out");
        let leecher = Session::new(config(network.ours, &[middle])).unwrap();
        let torrent = add(&leecher, &payload.metainfo, &folder, &[]);
        finish(&torrent);
        leecher.shutdown();
        payload.assert_in(&folder);
    });
}

#[test]
fn libtorrent_gets_what_ropewalk_put() {
    if !need::libtorrent() {
        return;
    }
    Network::run(|network| {
        let (_middle, middle) = start(network.theirs, &[], &json!({}));
        let (ours, _) = node(network.ours, &[middle]);
        assert!(ours.wait_until_joined(Duration::from_secs(30)));
        let item = Item::immutable(ItemValue::from_bytes(b"made by ropewalk").unwrap());
        let events: Vec<_> = ours.put_item(item.clone(), None).iter().collect();
        assert!(matches!(&events[..], [.., DhtEvent::Done { summary, .. }] if summary.stored > 0), "{events:?}");
        let (mut theirs, _) = start(network.theirs, &[middle], &json!({ "get": item.target().to_string() }));
        theirs.wait_until("the item", |line| {
            (line.starts_with("got") && line.contains("made by ropewalk")).then_some(())
        });
    });
}

#[test]
fn ropewalk_gets_what_libtorrent_put() {
    if !need::libtorrent() {
        return;
    }
    Network::run(|network| {
        let (ours, addr) = node(network.ours, &[]);
        let (mut theirs, _) = start(network.theirs, &[addr], &json!({ "put": "made by libtorrent" }));
        let item = Item::immutable(ItemValue::from_bytes(b"made by libtorrent").unwrap());
        theirs
            .wait_until("put", |line| line.strip_prefix("put ")?.starts_with(&item.target().to_string()).then_some(()));
        assert!(ours.wait_until_joined(Duration::from_secs(30)));
        let events: Vec<_> = ours.get_item(item.target(), Vec::new()).iter().collect();
        let found = |event: &DhtEvent| matches!(event, DhtEvent::Item { item: found, .. } if *found == item);
        assert!(events.iter().any(found), "{events:?}");
    });
}
