//! Rate limits hold within 5 %.

use std::time::{Duration, Instant};

use ropewalk::{Config, RateLimits, Torrent};

use crate::support::payload::Payload;
use crate::support::{Client, await_that, config};

const RATE: u64 = 1 << 20;

/// Bytes per second over some seconds in the middle of a transfer.
fn measure(payload: &Payload, torrent: &Torrent, bytes: impl Fn(&Torrent) -> u64) -> f64 {
    // After the start, in which the burst is spent.
    let total = payload.bytes.len() as u64;
    await_that("under way", torrent, || bytes(torrent) > total / 16);
    let (start, before) = look(torrent, &bytes);
    await_that("half", torrent, || start.elapsed() > Duration::from_secs(3) || bytes(torrent) > total * 15 / 16);
    let (end, after) = look(torrent, &bytes);
    (after - before) as f64 / (end - start).as_secs_f64()
}

/// A snapshot may be a quarter of a second old; this one is new.
fn look(torrent: &Torrent, bytes: impl Fn(&Torrent) -> u64) -> (Instant, u64) {
    let old = bytes(torrent);
    await_that("moving", torrent, || bytes(torrent) != old);
    (Instant::now(), bytes(torrent))
}

#[track_caller]
fn holds(what: &str, rate: f64, limit: u64) {
    let off = rate / limit as f64 - 1.0;
    println!("{what}: {rate:.0} B/s, {:+.1} %", off * 100.0);
    assert!(off.abs() < 0.05, "{what}: {rate:.0} B/s instead of {limit}");
}

fn limited(down: Option<u64>, up: Option<u64>) -> Config {
    Config { limits: RateLimits { down, up }, ..config() }
}

#[test]
fn a_limit_on_a_session_s_download_holds_over_several_peers() {
    let payload = Payload::file("down", 6 << 20, 65536);
    let seeders = [Client::seeding(&payload), Client::seeding(&payload), Client::seeding(&payload)];
    let peers: Vec<_> = seeders.iter().map(Client::addr).collect();
    let getter = Client::leeching_with(&payload, &peers, limited(Some(RATE), None), |_| ());
    holds("session, down", measure(&payload, &getter.torrent, |torrent| torrent.stats().downloaded), RATE);
}

#[test]
fn a_limit_on_a_session_s_upload_holds_over_several_peers() {
    let payload = Payload::file("up", 6 << 20, 65536);
    let seeder = Client::seeding_with(&payload, limited(None, Some(RATE)), |_| ());
    let _getters = [0; 3].map(|_| Client::leeching(&payload, &[seeder.addr()]));
    holds("session, up", measure(&payload, &seeder.torrent, |torrent| torrent.stats().uploaded), RATE);
}

#[test]
fn a_limit_on_a_torrent_s_download_holds() {
    let payload = Payload::file("torrent-down", 6 << 20, 65536);
    let seeder = Client::seeding(&payload);
    let getter =
        Client::leeching_with(&payload, &[seeder.addr()], config(), |options| options.limits.down = Some(RATE));
    holds("torrent, down", measure(&payload, &getter.torrent, |torrent| torrent.stats().downloaded), RATE);
}

#[test]
fn a_limit_on_a_torrent_s_upload_holds_and_can_be_changed() {
    let payload = Payload::file("torrent-up", 6 << 20, 65536);
    let seeder = Client::seeding_with(&payload, config(), |options| options.limits.up = Some(RATE / 16));
    let _getter = Client::leeching(&payload, &[seeder.addr()]);
    await_that("begun", &seeder.torrent, || seeder.torrent.stats().uploaded > 0);
    seeder.torrent.set_limits(RateLimits { down: None, up: Some(RATE) }).unwrap();
    holds("torrent, up", measure(&payload, &seeder.torrent, |torrent| torrent.stats().uploaded), RATE);
}
