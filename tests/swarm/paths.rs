//! Long paths between two sessions: the link is the limit, not the requests.

use std::time::{Duration, Instant};

use crate::support::Client;
use crate::support::link::{Path, link};
use crate::support::payload::Payload;

/// How long a download over the path takes, from the call to the last piece. `calls`: the downloader calls the seeder,
/// or else is called by it.
fn download(payload: &Payload, path: Path, calls: bool) -> Duration {
    let seeder = Client::seeding(payload);
    if calls {
        let link = link(seeder.addr(), path);
        let start = Instant::now();
        Client::leeching(payload, &[link.addr]).finishes(payload);
        start.elapsed()
    } else {
        let getter = Client::leeching(payload, &[]);
        let link = link(getter.addr(), path);
        let start = Instant::now();
        seeder.torrent.add_peer(link.addr).unwrap();
        getter.finishes(payload);
        start.elapsed()
    }
}

#[track_caller]
fn fills(round_trip: u64, rate: u32, len: usize) {
    let payload = Payload::file(&format!("path-{round_trip}-{rate}"), len, 128 << 10);
    let path = Path::new(round_trip, rate);
    for calls in [true, false] {
        let took = download(&payload, path, calls);
        // A tutorial's five requests at a time would need ten times as long where the path is long; the rest is for a
        // machine that has other things to do. How few round trips are lost is tested on a clock, with the window.
        let most = path.needs(len) * 2 + path.round_trip * 12 + Duration::from_secs(2);
        assert!(took < most, "{path:?}, calls: {calls}: {took:.2?} instead of {:.2?}", path.needs(len));
    }
}

#[test]
fn a_path_of_ten_milliseconds_is_filled() {
    fills(10, 10, 12 << 20);
}

#[test]
fn a_path_of_a_hundred_milliseconds_is_filled() {
    fills(100, 10, 12 << 20);
}

#[test]
fn a_path_of_two_hundred_milliseconds_is_filled() {
    fills(200, 4, 6 << 20);
}

/// Prints the whole table. To be run alone and optimised, or the processor is the limit.
#[test]
#[ignore = "a measurement: it takes some minutes, and a quiet machine"]
fn paths_of_all_kinds() {
    for round_trip in [10, 50, 100, 200] {
        for rate in [1, 10, 40, 100] {
            let len = rate as usize * 4_000_000;
            let payload = Payload::file(&format!("path-{round_trip}-{rate}"), len, 256 << 10);
            let path = Path::new(round_trip, rate);
            for calls in [true, false] {
                let (took, needs) = (download(&payload, path, calls), path.needs(len));
                let lost = (took.as_secs_f64() - needs.as_secs_f64()) / path.round_trip.as_secs_f64();
                println!(
                    "{round_trip:3} ms, {rate:3} MB/s, {}: {took:.2?} of {needs:.2?}, {:.2} x, {lost:.1} round trips",
                    if calls { "calls " } else { "called" },
                    took.as_secs_f64() / needs.as_secs_f64()
                );
            }
        }
    }
}
