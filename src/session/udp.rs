//! The UDP port of a session: for a node of the DHT, where there is to be one, and for uTP, or for saying no to who calls
//! by it.
//!
//! It decides which port that is and what serves it. A session can do without, so that an error is only said.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, bounded};

use crate::config::{Config, Transports};
use crate::crew::Crew;
use crate::discovery::NodeHandle;
use crate::net::Outlet;
use crate::net::udp::{Protocol, UdpPort, Waker};
use crate::net::utp::{Refusal, Resets, Utp, UtpStream};

/// The stack of the thread `udp` where there is no node.
const STACK: usize = 128 * 1024;
/// Callers by uTP that wait to be taken in; more are hung up on.
const CALLS: usize = 64;

/// Callers by uTP, and where they call from.
pub(super) type Calls = Receiver<(UtpStream, SocketAddr)>;

/// What is at the port.
#[derive(Default)]
pub(super) struct Udp {
    pub(super) dht: Option<NodeHandle>,
    pub(super) utp: Option<Utp>,
    pub(super) calls: Option<Calls>,
    /// Its number; 0 where there is none.
    #[cfg(feature = "upnp")]
    pub(super) port: u16,
    /// Ends the thread.
    pub(super) waker: Option<Arc<Waker>>,
}

/// The port of the number that we listen on (0: we do not), so that one number serves both; `None` where it would be of no
/// use.
pub(super) fn bind(config: &Config, port: u16) -> Option<io::Result<UdpPort>> {
    // Where nobody can call, there is nobody to be told that uTP is not spoken.
    (port != 0 || is_needed(config)).then(|| UdpPort::bind(config.listen.bind.as_ref(), port))
}

/// Starts the thread `udp` on a port.
pub(super) fn start(bound: Option<io::Result<UdpPort>>, config: &Config, crew: &Crew, outlet: &Arc<Outlet>) -> Udp {
    let Some(bound) = bound else { return Udp::default() };
    let is_needed = is_needed(config);
    let bound = match bound {
        // Where others are looked for and dialled from does not matter; where we are called does.
        Err(_) if is_needed => UdpPort::bind(config.listen.bind.as_ref(), 0),
        bound => bound,
    };
    bound.map_err(|error| error.to_string()).and_then(|port| serve(port, config, crew, outlet)).unwrap_or_else(
        |error| {
            let level = if is_needed { log::Level::Warn } else { log::Level::Debug };
            log::log!(level, "no UDP port, so neither DHT nor uTP: {error}");
            Udp::default()
        },
    )
}

/// Whether there is more to do at the port than to say no.
fn is_needed(config: &Config) -> bool {
    config.dht.enabled || config.peers.transports != Transports::Tcp
}

fn serve(mut port: UdpPort, config: &Config, crew: &Crew, outlet: &Arc<Outlet>) -> Result<Udp, String> {
    port.follow(Arc::clone(outlet));
    log::debug!("UDP on {:?}", port.addrs());
    let mut udp = Udp {
        #[cfg(feature = "upnp")]
        port: port.addrs().first().map_or(0, SocketAddr::port),
        waker: Some(port.waker()),
        ..Udp::default()
    };
    let key = std::array::from_fn(|_| fastrand::u64(..));
    let utp: Box<dyn Protocol> = match config.peers.transports {
        Transports::Tcp => Box::new(Refusal(Resets::new(key, Instant::now()))),
        Transports::Both | Transports::Utp => {
            let (sender, calls) = bounded(CALLS);
            let (utp, machine) = Utp::new(&port, config.listen.accept.then_some(sender), key);
            udp.utp = Some(utp);
            udp.calls = config.listen.accept.then_some(calls);
            machine
        }
    };
    if config.dht.enabled {
        let node = NodeHandle::start(port, config.dht.clone(), vec![utp], crew);
        udp.dht = Some(node.map_err(|error| error.to_string())?);
    } else {
        let run = move || port.run(&mut [utp]);
        crew.spawn("udp".into(), STACK, run).map_err(|error| error.to_string())?;
    }
    Ok(udp)
}
