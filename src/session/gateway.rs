//! The port at the gateway: whether asking for it makes sense, for what it is wanted, and who learns where it is.
//!
//! It owns what follows from a mapping: trackers, the DHT and the torrents are told of the port and the address outside.
//! How a gateway is asked is `discovery::portmap`'s.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{STACK, Session};
use crate::config::Bind;
use crate::crew::NoThread;
use crate::discovery::{MapState, PortMapSetup, PortMapper, Transport};
use crate::torrent::Inbox;

impl Session {
    /// How it stands with the port at the gateway.
    pub fn port_mapping(&self) -> MapState {
        let pointless = self.no_mapping().filter(|_| self.resources.config.port_map.enabled);
        let none = pointless.map_or(MapState::Off, MapState::Pointless);
        self.port_map.as_ref().map_or(none, PortMapper::state)
    }

    /// Starts the thread that asks the gateway, where that is wanted.
    pub(super) fn map_port(&mut self) -> Result<(), NoThread> {
        let (resources, config) = (&self.resources, &self.resources.config);
        if !config.port_map.enabled || self.no_mapping().is_some() {
            return Ok(());
        }
        let (torrents, outside_port) = (Arc::clone(&self.torrents), Arc::clone(&resources.outside_port));
        let node = resources.dht.clone();
        let mapped = move |external: SocketAddr| {
            outside_port.store(external.port(), Ordering::Relaxed);
            if let Some(node) = &node {
                node.set_port(external.port());
            }
            for shared in torrents.read().values().filter(|_| !external.ip().is_unspecified()) {
                // One that is busy learns it from its trackers.
                shared.inbox.try_send(Inbox::Outside(external)).ok();
            }
        };
        // The UDP port has the same number, unless somebody else had it.
        let is_used = resources.dht.is_some() || resources.utp.is_some();
        let transports = match is_used && resources.udp_port == resources.port {
            true => vec![Transport::Tcp, Transport::Udp],
            false => vec![Transport::Tcp],
        };
        let (handle, thread) = PortMapper::new(PortMapSetup {
            config: config.port_map.clone(),
            bind: config.listen.bind.clone(),
            port: resources.port,
            transports,
            grace: config.trackers.stop_grace,
            mapped: Box::new(mapped),
        });
        resources.crew.spawn("port-map".into(), 4 * STACK, move || thread.run())?;
        self.port_map = Some(handle);
        Ok(())
    }

    /// Why no gateway could help, whatever it does.
    fn no_mapping(&self) -> Option<&'static str> {
        let config = &self.resources.config;
        match config.listen.bind {
            _ if self.resources.port == 0 => Some("no port is listened to"),
            _ if config.port_map.gateway.is_some() => None,
            Some(Bind::Addr(ip)) if ip.is_loopback() => Some("it is bound to an address of this machine alone"),
            Some(Bind::Addr(ip)) if ip.is_ipv6() => Some("it is bound to an IPv6 address, which no gateway translates"),
            _ => None,
        }
    }
}
