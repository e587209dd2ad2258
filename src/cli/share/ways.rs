//! Where others on the local network reach this machine.
//!
//! It owns which of the machine's addresses are worth naming to them, and in which order. Nothing is sent for it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use if_addrs::{Interface, get_if_addrs};
use ropewalk::{Bind, local_addresses};

/// Addresses that are named to others: each makes their link longer.
const MOST: usize = 4;
/// How the interfaces are called that lead to containers and virtual machines within this one.
const WITHIN: [&str; 8] = ["docker", "br-", "veth", "virbr", "vmnet", "lxc", "cni", "podman"];

/// The addresses to name to others for what listens on `bound`, the best first; never none. Loopback ones where there is
/// nothing else.
pub fn ways(bound: &[IpAddr]) -> io::Result<Vec<IpAddr>> {
    let there: Vec<_> = get_if_addrs()?.into_iter().filter(Interface::is_oper_up).map(Place::of).collect();
    Ok(choose(bound, there, &local_addresses(None)))
}

/// The interface that all is kept to, if it is to one.
pub fn interface(bind: &Bind) -> Option<String> {
    match bind {
        Bind::Interface(name) => Some(name.clone()),
        Bind::Addr(ip) => get_if_addrs().ok()?.into_iter().find(|it| it.ip() == *ip).map(|interface| interface.name),
    }
}

/// An address, and what is known of its interface.
#[derive(Clone, Debug)]
struct Place {
    ip: IpAddr,
    interface: String,
    /// It leads to a single other end, such as a VPN's, or to nobody outside of this machine.
    is_aside: bool,
}

impl Place {
    fn of(interface: Interface) -> Self {
        let is_within = WITHIN.iter().any(|name| interface.name.starts_with(name));
        Self { ip: interface.ip(), is_aside: is_within || interface.is_p2p(), interface: interface.name }
    }

    /// Whether neighbours can reach it by the address alone.
    fn is_for_neighbours(&self) -> bool {
        match self.ip {
            IpAddr::V4(ip) => !ip.is_loopback(),
            // One of the link means nothing without an interface, which no link has room for.
            IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
        }
    }

    /// The least is the best: what leads to the world, then IPv4, then what its neighbours gave to itself.
    fn rank(&self, routes: &[IpAddr]) -> (bool, bool, bool) {
        let is_makeshift = matches!(self.ip, IpAddr::V4(ip) if ip.is_link_local());
        (is_makeshift, !routes.contains(&self.ip), self.ip.is_ipv6())
    }
}

fn choose(bound: &[IpAddr], there: Vec<Place>, routes: &[IpAddr]) -> Vec<IpAddr> {
    // What is bound to certain addresses is nowhere else.
    let certain: Vec<_> = bound.iter().copied().filter(|ip| !ip.is_unspecified()).collect();
    if !certain.is_empty() {
        return certain;
    }
    let is_heard = |ip: IpAddr| bound.iter().any(|bound| bound.is_ipv4() == ip.is_ipv4());
    let mut places: Vec<_> =
        there.into_iter().filter(|place| is_heard(place.ip) && place.is_for_neighbours()).collect();
    if places.iter().any(|place| !place.is_aside) {
        places.retain(|place| !place.is_aside);
    }
    places.sort_by_key(|place| place.rank(routes));
    let mut chosen: Vec<Place> = Vec::new();
    for place in places {
        // An interface has several of IPv6, some of which last a day.
        let is_another = |other: &Place| other.interface != place.interface || other.ip.is_ipv4() != place.ip.is_ipv4();
        if chosen.len() < MOST && chosen.iter().all(is_another) {
            chosen.push(place);
        }
    }
    let mut ips: Vec<_> = chosen.into_iter().map(|place| place.ip).collect();
    if ips.is_empty() {
        let local =
            if is_heard(Ipv4Addr::LOCALHOST.into()) { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        ips.push(local);
    }
    ips
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{Place, choose};

    const ALL: [&str; 2] = ["0.0.0.0", "::"];

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn places(texts: &[(&str, &str)]) -> Vec<Place> {
        let is_aside = |interface: &str| interface.starts_with("docker") || interface.starts_with("tun");
        texts
            .iter()
            .map(|&(interface, ip)| Place {
                ip: ip.parse().unwrap(),
                interface: interface.into(),
                is_aside: is_aside(interface),
            })
            .collect()
    }

    #[test]
    fn the_way_to_the_world_comes_first_and_containers_are_not_named() {
        let there = places(&[
            ("lo", "127.0.0.1"),
            ("docker0", "172.17.0.1"),
            ("wlan0", "192.168.1.9"),
            ("eth0", "fe80::1"),
            ("eth0", "2001:db8::1"),
            ("eth0", "2001:db8::2"),
            ("eth0", "10.0.0.2"),
            ("usb0", "169.254.1.1"),
        ]);
        let chosen = choose(&ips(&ALL), there.clone(), &ips(&["10.0.0.2", "2001:db8::2"]));
        assert_eq!(chosen, ips(&["10.0.0.2", "2001:db8::2", "192.168.1.9", "169.254.1.1"]));
        assert_eq!(choose(&ips(&["::"]), there, &[]), ips(&["2001:db8::1"]));
    }

    #[test]
    fn what_is_aside_is_better_than_nothing_and_loopback_is_the_last_resort() {
        let there = places(&[("lo", "127.0.0.1"), ("lo", "::1"), ("tun0", "10.8.0.2")]);
        assert_eq!(choose(&ips(&ALL), there, &[]), ips(&["10.8.0.2"]));
        assert_eq!(choose(&ips(&ALL), places(&[("lo", "127.0.0.1")]), &[]), ips(&["127.0.0.1"]));
        assert_eq!(choose(&ips(&["::"]), Vec::new(), &[]), ips(&["::1"]));
    }

    #[test]
    fn what_is_bound_to_an_address_is_there_alone() {
        let there = places(&[("eth0", "10.0.0.2")]);
        assert_eq!(choose(&ips(&["127.0.0.1"]), there, &[]), ips(&["127.0.0.1"]));
    }

    #[test]
    fn this_machine_has_a_way() {
        assert!(!super::ways(&ips(&ALL)).unwrap().is_empty());
    }
}
