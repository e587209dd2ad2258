//! Who is blocked, and who lied before, in this run or an earlier one.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ropewalk::wire::message::Message;
use ropewalk::{AddOptions, Encryption, Event, IpFilter, Session, Standing};

use crate::support::payload::Payload;
use crate::support::scripted::{RESERVED, Server, Wire};
use crate::support::{Client, await_event, await_that, config};

fn filter(ips: &[Ipv4Addr]) -> Arc<IpFilter> {
    let mut builder = IpFilter::builder();
    for &ip in ips {
        assert!(builder.block(IpAddr::V4(ip)..=IpAddr::V4(ip)));
    }
    Arc::new(builder.build())
}

fn host(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, last)
}

/// A seed that sends wrong bytes, and how often it was called.
fn liar(payload: &Payload) -> (Server, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let (info_hash, counter) = (payload.metainfo.info_hash(), Arc::clone(&calls));
    let server = Server::start(host(2), move |stream| {
        counter.fetch_add(1, Ordering::SeqCst);
        let mut wire = Wire::answer_seeding(stream, info_hash)?;
        loop {
            let (index, begin, len) = wire.next_request()?;
            wire.send(&Message::Piece { index, begin, data: &vec![0x55; len as usize] })?;
        }
    });
    (server, calls)
}

#[test]
fn a_filter_refuses_callers_and_closes_those_that_it_comes_to_block() {
    let payload = Payload::file("filtered", 100_000, 16384);
    let mut config = config();
    config.peers.filter = filter(&[host(3)]);
    let seed = Client::seeding_with(&payload, config, |_| ());
    let call = |from| Wire::call(from, seed.addr(), payload.metainfo.info_hash(), RESERVED);
    assert!(call(host(3)).is_err());
    let mut other = call(host(4)).unwrap();
    await_that("connected", &seed.torrent, || seed.torrent.stats().peers == 1);
    assert_eq!(seed.torrent.stats().blocked_callers, 1);
    seed.session.set_filter(filter(&[host(4)]));
    other.expect_end();
    assert!(call(host(4)).is_err());
    call(host(3)).unwrap();
}

#[test]
fn who_is_blocked_is_not_dialled_whoever_names_it_and_is_again_once_it_is_not() {
    let payload = Payload::file("not-dialled", 300_000, 16384);
    let mut elsewhere = config();
    elsewhere.listen.bind = Some(host(5).into());
    let seed = Client::seeding_with(&payload, elsewhere, |_| ());
    let mut blocking = config();
    blocking.peers.filter = filter(&[host(5)]);
    let get = Client::leeching_with(&payload, &[], blocking, |_| ());
    get.torrent.add_peer(seed.addr()).unwrap();
    await_that("refused", &get.torrent, || get.torrent.stats().refused.blocked == 1);
    assert_eq!(get.torrent.stats().known, 0);
    get.session.set_filter(Arc::default());
    get.torrent.add_peer(seed.addr()).unwrap();
    get.finishes(&payload);
}

#[test]
fn a_liar_found_in_one_torrent_is_not_dialled_by_another_nor_in_the_next_run() {
    let (payload, other) = (Payload::file("lied-to", 300_000, 65536), Payload::file("spared", 200_000, 65536));
    let (server, calls) = liar(&payload);
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    // The liar speaks plaintext only: it would be called twice each time.
    config.peers.encryption = Encryption::Off;
    config.peers.reputation_file = Some(folder.path().join("state/peers"));
    let get = Client::leeching_with(&payload, &[], config.clone(), |_| ());
    let events = get.torrent.events();
    get.torrent.add_peer(server.addr).unwrap();
    await_event(&events, |event| matches!(event, Event::PeerBanned(addr) if *addr == server.addr));
    let gone = await_event(&events, |event| matches!(event, Event::PeerGone { .. }));
    let Event::PeerGone { record: Some(record), .. } = gone else { panic!("{gone:?}") };
    assert!(record.standing() == Standing::Cheat && record.lies > 0.9, "{record:?}");

    let options = AddOptions { peers: vec![server.addr], ..AddOptions::new(folder.path().join("other")) };
    let second = get.session.add(other.metainfo.clone(), options).unwrap();
    second.add_peer(server.addr).unwrap();
    await_that("refused", &second, || second.stats().refused.banned > 0);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    get.stop();

    let honest = Client::seeding(&payload);
    let session = Session::new(config).unwrap();
    let options = AddOptions { peers: vec![server.addr, honest.addr()], ..AddOptions::new(folder.path().join("next")) };
    let torrent = session.add(payload.metainfo.clone(), options).unwrap();
    assert!(torrent.wait(crate::support::PATIENCE).is_final());
    payload.assert_in(&folder.path().join("next"));
    assert_eq!((calls.load(Ordering::SeqCst), torrent.stats().pieces_failed), (1, 0));
}

#[test]
fn who_gave_much_is_known_for_it_in_the_next_run() {
    let payload = Payload::file("generous", 2 << 20, 65536);
    let seed = Client::seeding(&payload);
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config.peers.reputation_file = Some(folder.path().join("peers"));
    let get = Client::leeching_with(&payload, &[seed.addr()], config.clone(), |_| ());
    get.finishes(&payload);
    get.stop();
    let again = Client::leeching_with(&payload, &[], config, |options| options.limits.down = Some(500_000));
    again.torrent.add_peer(seed.addr()).unwrap();
    await_that("known to be good", &again.torrent, || {
        again.torrent.peers().iter().any(|peer| peer.addr == seed.addr() && peer.standing == Standing::Good)
    });
}
