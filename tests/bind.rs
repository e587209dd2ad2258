//! What is bound to an interface leaves by it or not at all: seen by the other end of another cable.

mod rig;
mod support;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rig::links::{Links, ip};
use ropewalk::tracker::Tracker;
use ropewalk::{Bind, Config, Event, Session, SessionError, State};
use support::payload::Payload;
use support::{Client, await_event, await_that};

/// How the first cable is cut.
#[derive(Clone, Copy)]
enum Cut {
    /// The interface goes down and comes up, with all its addresses.
    Down,
    /// It is gone, and another one of the same name comes later.
    Gone,
}

fn bound(to: Bind, down: u64) -> Config {
    let mut config = Config::default();
    config.listen.ports = 0..=0;
    config.listen.bind = Some(to);
    config.limits.down = Some(down);
    config.dht.bootstrap = vec!["10.2.0.2:6881".into(), "10.1.0.2:6881".into()];
    config
}

/// A download from the other end, over the first cable; it is cut in the middle while a way around remains.
fn scenario(bind: Bind, cut: Cut) {
    env_logger::builder().is_test(true).try_init().ok();
    Links::run(|links| {
        let there: SocketAddr = "10.1.0.2:0".parse().unwrap();
        let tracker = links.there(|| Tracker::start(there).unwrap());
        let urls = [tracker.announce_url(), "udp://10.1.0.2:9/announce".into(), "udp://10.2.0.2:9/announce".into()];
        let payload = Payload::file_tracked("cable.bin", 2 << 20, 65536, &urls);
        let seeding = |port| {
            let mut config = Config::default();
            config.listen.ports = port..=port;
            config.dht.enabled = false;
            Client::seeding_with(&payload, config, |options| options.announce = false)
        };
        let seeder = links.there(|| seeding(0));
        let port = seeder.session.port();
        let decoy = links.aside(|| seeding(port));
        // Nobody is there by the first cable; a route leads there by the second. It takes a port that the decoy does not want.
        let elsewhere = links.aside(|| TcpListener::bind("10.2.0.2:0").unwrap());
        let peers = [SocketAddr::from(([10, 1, 0, 2], port)), format!("[fd01::2]:{port}").parse().unwrap()];
        let capture = links.capture();
        let client = Client::leeching_with(&payload, &peers, bound(bind.clone(), 200_000), |_| ());
        let (events, torrent) = (client.torrent.events(), &client.torrent);
        torrent.add_peer(elsewhere.local_addr().unwrap()).unwrap();
        await_event(&events, |event| matches!(event, Event::Piece { .. }));

        match cut {
            Cut::Down => ip("link set a0 down"),
            Cut::Gone => ip("link del a0"),
        }
        let waits = |event: &Event| matches!(event, Event::State(State::Waiting(why)) if why.contains("a0") || why.contains("10.1.0.1"));
        await_event(&events, waits);
        // What a person may try meanwhile.
        torrent.add_peer(SocketAddr::from(([10, 2, 0, 2], port))).unwrap();
        torrent.announce().unwrap();
        torrent.pause().unwrap();
        torrent.resume().unwrap();
        await_event(&events, waits);
        let error = ropewalk::fetch::fetch(&format!("http://{}/", tracker.addr()), Some(&bind), 100).unwrap_err();
        assert!(matches!(error, ropewalk::fetch::FetchError::Io(_)), "{error}");
        let error = Session::new(bound(bind.clone(), 1)).map(drop).unwrap_err();
        assert!(matches!(error, SessionError::Bind { .. }), "{error}");

        // Somebody who is not bound goes around, all the while that the other one waits.
        assert_eq!(capture.seen(), [""; 0]);
        let mut config = Config::default();
        config.listen.ports = 0..=0;
        config.dht.enabled = false;
        let around = Client::leeching_with(&payload, &peers[..1], config, |options| options.announce = false);
        around.finishes(&payload);
        assert!(!capture.seen().is_empty());
        around.stop();
        capture.seen();
        assert!(matches!(torrent.state(), State::Waiting(_)), "{:?}", torrent.state());

        match cut {
            Cut::Down => {
                ip("-6 addr flush dev a0");
                ip("-6 addr add fd01::1/64 dev a0 nodad");
                ip("link set a0 up");
            }
            Cut::Gone => links.plug_first(),
        }
        await_event(&events, |event| matches!(event, Event::State(State::Downloading)));
        client.session.set_limits(ropewalk::RateLimits::default());
        client.finishes(&payload);
        // It can be called again, too.
        let door = SocketAddr::from(([10, 1, 0, 1], client.session.port()));
        await_that("listening again", torrent, || {
            links.there(|| TcpStream::connect_timeout(&door, Duration::from_secs(1))).is_ok()
        });
        client.stop();
        assert_eq!(capture.seen(), [""; 0]);
        drop((seeder, decoy, tracker));
    });
}

#[test]
fn bound_to_an_interface_that_goes_down_nothing_leaves_another_way_and_it_goes_on_when_it_is_up() {
    scenario(Bind::Interface("a0".into()), Cut::Down);
}

#[test]
fn bound_to_an_interface_that_is_removed_nothing_leaves_another_way_and_it_goes_on_with_its_successor() {
    scenario(Bind::Interface("a0".into()), Cut::Gone);
}

#[test]
fn bound_to_an_address_nothing_leaves_by_another_interface_than_the_one_that_has_it() {
    scenario(Bind::Addr([10, 1, 0, 1].into()), Cut::Down);
}
