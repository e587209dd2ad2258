//! Which addresses lead where: the special ranges of IPv4 and IPv6, and which of them make sense where we are.
//!
//! It owns the table, which is that of the IANA's special-purpose registries (RFC 6890 and what followed). It refuses to
//! look at interfaces: where we are is told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::Source;

/// From where an address can be reached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reach {
    /// From anywhere.
    Global,
    /// From within a private network or a provider's (RFC 1918, 6598, 4193), or one of tests (RFC 2544).
    Private,
    /// From the same link alone.
    Link,
    /// From this machine alone.
    Machine,
    /// From nowhere: reserved, multicast, for documentation, or no address of a host at all.
    Nowhere,
}

impl Reach {
    /// From where `ip` can be reached; IPv4 in IPv6 is IPv4.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => of_v4(ip),
            IpAddr::V6(ip) => of_v6(ip),
        }
    }
}

/// Where we are: which addresses can be ours to reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Surroundings {
    /// We have an address in a private network.
    pub private: bool,
    /// We have nothing but an address of one link.
    pub link: bool,
    /// We have nothing but this machine.
    pub machine: bool,
    /// The address that our connections come from, where only one is used.
    pub bound: Option<IpAddr>,
    /// The port that we are reached at; 0 where we are not.
    pub port: u16,
}

impl Surroundings {
    /// Where we are, judging by the addresses that our connections would come from; by none, that is this machine.
    pub fn of(ours: &[IpAddr], bound: Option<IpAddr>, port: u16) -> Self {
        let any = |reach| ours.iter().any(|&ip| Reach::of(ip) == reach);
        Self {
            private: any(Reach::Private),
            link: any(Reach::Link),
            machine: ours.is_empty() || any(Reach::Machine),
            bound,
            port,
        }
    }

    /// Whether somebody at `ip` can be connected to from here, if this source and this teller name it. Who lives near may
    /// name who lives as near; a person, the local network and an earlier run know what they say.
    pub(super) fn reaches(&self, ip: IpAddr, source: Source, teller: Option<IpAddr>) -> bool {
        let reach = Reach::of(ip);
        let here = match reach {
            Reach::Global => true,
            Reach::Private => self.private,
            Reach::Link => self.link,
            Reach::Machine => self.machine,
            Reach::Nowhere => false,
        };
        here || match source {
            Source::Manual | Source::Resume | Source::Incoming => true,
            Source::Local => reach != Reach::Nowhere,
            _ => reach != Reach::Nowhere && teller.is_some_and(|teller| Reach::of(teller) == reach),
        }
    }
}

/// One form for one address: IPv4 in IPv6 is IPv4, and of an IPv6 address only the scope of a link-local one is kept.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    match (addr.ip().to_canonical(), addr) {
        (IpAddr::V6(ip), SocketAddr::V6(v6)) if ip.is_unicast_link_local() => {
            SocketAddr::V6(SocketAddrV6::new(ip, v6.port(), 0, v6.scope_id()))
        }
        (ip, _) => SocketAddr::new(ip, addr.port()),
    }
}

/// Whether anybody can be connected to at an address, whoever names it.
pub(super) fn is_dialable(addr: SocketAddr) -> bool {
    let broadcast = matches!(addr.ip(), IpAddr::V4(ip) if ip.is_broadcast());
    addr.port() != 0 && !addr.ip().is_unspecified() && !addr.ip().is_multicast() && !broadcast
}

/// What is held against or for an address: the address with port 0 for all ports; on this machine's own addresses
/// (loopback), where every peer has the same, that port alone.
pub(crate) fn person(addr: SocketAddr) -> SocketAddr {
    let addr = canonical(addr);
    if addr.ip().is_loopback() { addr } else { SocketAddr::new(addr.ip(), 0) }
}

/// The network that an address is in, as far as one owner's addresses are likely to go: the /24, or the /64.
pub(super) fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & (u32::MAX << 8)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into(),
    }
}

/// The ranges of IPv4 that are not global, with the length of their prefix. The first that fits counts.
const V4: &[([u8; 4], u32, Reach)] = &[
    ([192, 0, 0, 9], 32, Reach::Global),
    ([192, 0, 0, 10], 32, Reach::Global),
    ([0, 0, 0, 0], 8, Reach::Nowhere),
    ([10, 0, 0, 0], 8, Reach::Private),
    ([100, 64, 0, 0], 10, Reach::Private),
    ([127, 0, 0, 0], 8, Reach::Machine),
    ([169, 254, 0, 0], 16, Reach::Link),
    ([172, 16, 0, 0], 12, Reach::Private),
    ([192, 0, 0, 0], 24, Reach::Nowhere),
    ([192, 0, 2, 0], 24, Reach::Nowhere),
    ([192, 88, 99, 0], 24, Reach::Nowhere),
    ([192, 168, 0, 0], 16, Reach::Private),
    ([198, 18, 0, 0], 15, Reach::Private),
    ([198, 51, 100, 0], 24, Reach::Nowhere),
    ([203, 0, 113, 0], 24, Reach::Nowhere),
    // Multicast, and what is reserved above it.
    ([224, 0, 0, 0], 3, Reach::Nowhere),
];

/// The ranges of IPv6 that say something, with the length of their prefix. The first that fits counts; the rest is not
/// given to anybody.
const V6: &[([u16; 8], u32, Reach)] = &[
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, Reach::Machine),
    // IPv4 behind a translator (RFC 6052).
    ([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, Reach::Global),
    // Local use of such a translator (RFC 8215).
    ([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, Reach::Private),
    // Teredo.
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, Reach::Global),
    ([0x2001, 2, 0, 0, 0, 0, 0, 0], 48, Reach::Private),
    // Hashes of keys, protocols, and what else is no host (RFC 2928).
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, Reach::Nowhere),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, Reach::Nowhere),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, Reach::Nowhere),
    ([0x2000, 0, 0, 0, 0, 0, 0, 0], 3, Reach::Global),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, Reach::Private),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, Reach::Link),
];

fn of_v4(ip: Ipv4Addr) -> Reach {
    let fits = |&&(range, bits, _): &&([u8; 4], u32, Reach)| {
        (ip.to_bits() ^ u32::from_be_bytes(range)).leading_zeros() >= bits
    };
    V4.iter().find(fits).map_or(Reach::Global, |&(.., reach)| reach)
}

fn of_v6(ip: Ipv6Addr) -> Reach {
    let fits = |&&(range, bits, _): &&([u16; 8], u32, Reach)| {
        (ip.to_bits() ^ Ipv6Addr::from(range).to_bits()).leading_zeros() >= bits
    };
    V6.iter().find(fits).map_or(Reach::Nowhere, |&(.., reach)| reach)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::super::Source;
    use super::{Reach, Surroundings};

    #[test]
    fn each_special_range_is_known_to_its_borders() {
        let table = [
            (Reach::Global, "1.0.0.0 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0"),
            (
                Reach::Global,
                "172.15.255.255 172.32.0.0 192.0.0.9 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0",
            ),
            (
                Reach::Global,
                "223.255.255.255 169.253.255.255 169.255.0.0 64:ff9b::808:808 2001::1 2001:200:: 2002:102:304::",
            ),
            (Reach::Global, "2600:: 3ffe::1 3fff:1000:: 3fff:ffff::1 ::ffff:8.8.8.8"),
            (Reach::Private, "10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.1 192.168.255.255"),
            (
                Reach::Private,
                "100.64.0.0 100.127.255.255 198.18.0.0 198.19.255.255 fc00::1 fdff::1 64:ff9b:1::5 2001:2::1",
            ),
            (Reach::Link, "169.254.0.1 169.254.255.255 fe80::1 febf::1"),
            (Reach::Machine, "127.0.0.1 127.255.255.255 ::1 ::ffff:127.0.0.1"),
            (Reach::Nowhere, "0.0.0.0 0.255.255.255 192.0.0.1 192.0.2.1 192.88.99.1 198.51.100.1 203.0.113.255"),
            (
                Reach::Nowhere,
                "224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 :: ::2 100::1 2001:db8::1 2001:10::1",
            ),
            (Reach::Nowhere, "3fff::1 3fff:fff:: 4000::1 5f00::1 fec0::1 ff02::1 1::"),
        ];
        for (reach, ips) in table {
            for ip in ips.split(' ') {
                assert_eq!(Reach::of(ip.parse().unwrap()), reach, "{ip}");
            }
        }
    }

    #[test]
    fn what_is_near_makes_sense_to_those_who_are_near_or_are_told_by_those_who_are() {
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let abroad = Surroundings::of(&[ip("9.9.9.9")], None, 1);
        let home = Surroundings::of(&[ip("192.168.1.5"), ip("2600::5")], None, 1);
        let alone = Surroundings::of(&[], None, 1);
        for (from, to, reached) in [
            (abroad, "10.0.0.1", false),
            (abroad, "127.0.0.1", false),
            (abroad, "8.8.8.8", true),
            (abroad, "203.0.113.1", false),
            (home, "10.0.0.1", true),
            (home, "fd00::1", true),
            (home, "127.0.0.1", false),
            (home, "169.254.1.1", false),
            (alone, "127.0.0.1", true),
            (alone, "10.0.0.1", false),
        ] {
            assert_eq!(from.reaches(ip(to), Source::Dht, None), reached, "{to} from {from:?}");
            assert!(from.reaches(ip(to), Source::Manual, None), "a person knows");
        }
        assert!(abroad.reaches(ip("192.168.0.9"), Source::Local, None));
        assert!(!abroad.reaches(ip("203.0.113.1"), Source::Local, None));
        assert!(abroad.reaches(ip("127.0.0.1"), Source::Tracker, Some(ip("127.0.0.9"))));
        assert!(!abroad.reaches(ip("127.0.0.1"), Source::Tracker, Some(ip("10.0.0.1"))));
    }
}
