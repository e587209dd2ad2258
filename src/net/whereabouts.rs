//! Where we are: the addresses that our connections come from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::Type;

use super::bind;
use crate::config::Bind;

/// The addresses that connections to elsewhere come from: those that `bind` allows where it is given, else one of each
/// family that has a route. None at all on a machine that is on its own. Nothing is sent for it.
pub fn local_addresses(bind: Option<&Bind>) -> Vec<IpAddr> {
    match bind.map(bind::look) {
        Some(Ok(Some(way))) => return way.v4.map(IpAddr::V4).into_iter().chain(way.v6.map(IpAddr::V6)).collect(),
        Some(Err(_)) => return Vec::new(),
        Some(Ok(None)) | None => {}
    }
    // To connect a UDP socket is to look up a route. These are addresses of the root servers of the DNS.
    let far: [IpAddr; 2] =
        [Ipv4Addr::new(198, 41, 0, 4).into(), Ipv6Addr::new(0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30).into()];
    let from = |far: IpAddr| {
        let far = SocketAddr::new(far, 53);
        let socket = bind::dialling(bind, far, Type::DGRAM).ok()?;
        socket.connect(&far.into()).ok()?;
        socket.local_addr().ok()?.as_socket().map(|addr| addr.ip())
    };
    far.into_iter().filter_map(from).collect()
}

#[cfg(test)]
mod tests {
    use super::{Bind, local_addresses};

    #[test]
    fn where_one_address_is_used_it_is_that_and_none_is_unspecified() {
        let local = std::net::IpAddr::from([127, 0, 0, 1]);
        assert_eq!(local_addresses(Some(&Bind::Addr(local))), [local]);
        for bind in [None, Some(Bind::Addr([0, 0, 0, 0].into()))] {
            assert!(local_addresses(bind.as_ref()).iter().all(|ip| !ip.is_unspecified()));
        }
    }
}
