//! Ranges of addresses by prefix, such as `10.0.0.0/8`.

use std::net::IpAddr;
use std::str::FromStr;

/// Addresses that begin with the same bits. In text: `10.0.0.0/8`, `2001:db8::/32`, or one address without a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpNetwork {
    ip: IpAddr,
    bits: u8,
}

impl IpNetwork {
    /// The network that `ip` is in; `None` where `bits` is more than an address has.
    pub fn new(ip: IpAddr, bits: u8) -> Option<Self> {
        let ip = ip.to_canonical();
        (bits <= if ip.is_ipv4() { 32 } else { 128 }).then_some(Self { ip, bits })
    }

    /// Whether the address is one of them. An IPv4 address in IPv6 form is that IPv4 address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.ip, ip.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(32 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(128 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// Not an address, nor an address with the length of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address or a range of addresses such as 10.0.0.0/8")]
pub struct IpNetworkSyntax;

impl FromStr for IpNetwork {
    type Err = IpNetworkSyntax;

    fn from_str(text: &str) -> Result<Self, IpNetworkSyntax> {
        let (ip, bits) = match text.split_once('/') {
            Some((ip, bits)) => (ip, Some(bits.parse().map_err(|_| IpNetworkSyntax)?)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| IpNetworkSyntax)?;
        Self::new(ip, bits.unwrap_or(if ip.to_canonical().is_ipv4() { 32 } else { 128 })).ok_or(IpNetworkSyntax)
    }
}

impl From<IpAddr> for IpNetwork {
    fn from(ip: IpAddr) -> Self {
        let ip = ip.to_canonical();
        Self { ip, bits: if ip.is_ipv4() { 32 } else { 128 } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(network: &str, ip: &str) -> bool {
        network.parse::<IpNetwork>().unwrap().contains(ip.parse().unwrap())
    }

    #[test]
    fn a_network_contains_what_begins_as_it_does() {
        assert!(contains("10.0.0.0/8", "10.255.0.1") && !contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("192.0.2.7", "192.0.2.7") && !contains("192.0.2.7", "192.0.2.6"));
        assert!(contains("192.0.2.7", "::ffff:192.0.2.7"));
        assert!(contains("0.0.0.0/0", "203.0.113.1") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("2001:db8::/33", "2001:db8:7fff::1") && !contains("2001:db8::/33", "2001:db8:8000::1"));
        assert!(contains("::/0", "2001:db8::1") && contains("::1", "::1") && !contains("::1", "::2"));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "10.0.0.0/33", "::1/129", "10.0.0.0/", "10.0.0.0/-1", "example.org", "10.0.0.0/8/8"] {
            assert_eq!(text.parse::<IpNetwork>(), Err(IpNetworkSyntax), "{text}");
        }
    }
}
