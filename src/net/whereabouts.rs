//! Where we are: the addresses that our connections come from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The addresses that connections to elsewhere come from: `bind` where one is given, else one of each family that has a
/// route. None at all on a machine that is on its own. Nothing is sent for it.
pub(crate) fn local_addresses(bind: Option<IpAddr>) -> Vec<IpAddr> {
    if let Some(ip) = bind.filter(|ip| !ip.is_unspecified()) {
        return vec![ip];
    }
    // To connect a UDP socket is to look up a route. These are addresses of the root servers of the DNS.
    let far: [(IpAddr, IpAddr); 2] = [
        (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(198, 41, 0, 4).into()),
        (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30).into()),
    ];
    let from = |(any, far): (IpAddr, IpAddr)| {
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
        socket.connect(SocketAddr::new(far, 53)).ok()?;
        socket.local_addr().ok().map(|addr| addr.ip())
    };
    far.into_iter().filter_map(from).collect()
}

#[cfg(test)]
mod tests {
    use super::local_addresses;

    #[test]
    fn where_one_address_is_used_it_is_that_and_none_is_unspecified() {
        assert_eq!(local_addresses(Some([127, 0, 0, 1].into())), [std::net::IpAddr::from([127, 0, 0, 1])]);
        for bind in [None, Some([0, 0, 0, 0].into())] {
            assert!(local_addresses(bind).iter().all(|ip| !ip.is_unspecified()));
        }
    }
}
