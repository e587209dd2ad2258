//! The UDP port of a session: for a node of the DHT, where there is to be one, and for saying no to who calls by uTP.
//!
//! It decides which port that is and what serves it. A session can do without, so that an error is only said.

use std::sync::Arc;
use std::time::Instant;

use crate::config::Config;
use crate::crew::{Crew, NoThread};
use crate::discovery::NodeHandle;
use crate::net::Outlet;
use crate::net::udp::{Protocol, UdpPort, Waker};
use crate::net::utp::Refusal;

/// The stack of the thread `udp` where it only refuses.
const STACK: usize = 128 * 1024;

/// What is at the port.
#[derive(Default)]
pub(super) struct Udp {
    pub(super) dht: Option<NodeHandle>,
    /// Ends the thread.
    pub(super) waker: Option<Arc<Waker>>,
}

/// Starts the thread `udp` on the port of the number that we listen on (0: we do not), so that one number serves both.
pub(super) fn start(config: &Config, port: u16, crew: &Crew, outlet: &Arc<Outlet>) -> Udp {
    let bind = |port| UdpPort::bind(config.listen.bind.as_ref(), port);
    let bound = match bind(port) {
        // Where others are looked for does not matter; where we are called does.
        Err(_) if config.dht.enabled => bind(0),
        bound => bound,
    };
    let waker = bound.as_ref().ok().map(UdpPort::waker);
    let started = bound.map_err(|error| format!("no UDP port: {error}")).and_then(|mut port| {
        port.follow(Arc::clone(outlet));
        log::debug!("UDP on {:?}", port.addrs());
        let refusal = Box::new(Refusal::new(std::array::from_fn(|_| fastrand::u64(..)), Instant::now()));
        let started = match config.dht.enabled {
            true => NodeHandle::start(port, config.dht.clone(), vec![refusal], crew).map(Some),
            false => refuse(port, refusal, crew).map(|()| None),
        };
        started.map_err(|error| error.to_string())
    });
    let dht = started.inspect_err(|error| match config.dht.enabled {
        true => log::warn!("the DHT is not used: {error}"),
        false => log::debug!("who calls by uTP is not answered: {error}"),
    });
    dht.map_or_else(|_| Udp::default(), |dht| Udp { dht, waker })
}

fn refuse(port: UdpPort, refusal: Box<dyn Protocol>, crew: &Crew) -> Result<(), NoThread> {
    crew.spawn("udp".into(), STACK, move || port.run(&mut [refusal]))
}
