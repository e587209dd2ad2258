//! What clients and trackers say to each other, over HTTP ([`http`], BEP 3; [`scrape`], BEP 48) and over UDP
//! ([`udp`], BEP 15).
//!
//! It owns the layouts and their bounds; it refuses to know when to announce, to whom, or whom to believe. What it gives
//! is tolerant of trackers: a missing or senseless entry is left out, only what is no reply at all is an error.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::handshake::PeerId;
use crate::metainfo::InfoHash;

pub mod http;
pub mod scrape;
pub mod udp;

/// The most peers that are kept of one reply. Trackers give 50 to 200.
pub const MAX_PEERS: usize = 1000;

/// What a client tells a tracker of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AnnounceRequest {
    /// The torrent.
    pub info_hash: InfoHash,
    /// The client.
    pub peer_id: PeerId,
    /// The TCP port that it listens on.
    pub port: u16,
    /// The bytes of payload that it has sent since `started`.
    pub uploaded: u64,
    /// The bytes of payload that it has received since `started`.
    pub downloaded: u64,
    /// The bytes that it still wants.
    pub left: u64,
    /// What has happened; `None` for an announce at its interval.
    pub event: Option<Event>,
    /// How many peers it would like; `None` leaves it to the tracker.
    pub numwant: Option<u32>,
    /// A number, drawn at random once per torrent, by which a tracker knows it again at another address (BEP 7).
    pub key: u32,
    /// What the tracker gave in an earlier reply; over HTTP only.
    pub tracker_id: Option<Vec<u8>>,
    /// An IPv4 address to be reached at, where the request may go over IPv6 (BEP 7). Most trackers ignore it.
    pub ipv4: Option<Ipv4Addr>,
    /// An IPv6 address to be reached at, where the request may go over IPv4 (BEP 7); over HTTP only.
    pub ipv6: Option<Ipv6Addr>,
    /// Whether it encrypts connections: `supportcrypto` and `requirecrypto`, which no BEP has and the larger clients send;
    /// over HTTP only. A tracker may name others accordingly.
    pub crypto: Crypto,
}

/// Whether a client encrypts connections, as trackers are told.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Crypto {
    /// It does not, or says nothing of it.
    #[default]
    None,
    /// It does with whom it can.
    Supported,
    /// It has no others.
    Required,
}

/// What has happened to a download.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// It begins.
    Started,
    /// It has just become complete; never sent for one that began complete.
    Completed,
    /// It ends.
    Stopped,
    /// It wants no more pieces though it has not all: every announce of a partial seed says so (BEP 21). UDP has no
    /// number for it; there it is sent as no event.
    Paused,
}

/// What a tracker answers to an announce that it takes. Every entry is optional, and a claim.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct AnnounceReply {
    /// How long to wait before the next announce; at most `u32::MAX` seconds, possibly zero.
    pub interval: Option<Duration>,
    /// How long to wait before the next announce at the least.
    pub min_interval: Option<Duration>,
    /// To be sent back with the next announce; at most 512 bytes.
    pub tracker_id: Option<Vec<u8>>,
    /// `complete`: how many peers have it all.
    pub seeders: Option<u32>,
    /// `incomplete`: how many peers have not.
    pub leechers: Option<u32>,
    /// `downloaded`: how many peers have ever completed it.
    pub downloaded: Option<u32>,
    /// The address that the tracker sees the client at (BEP 24).
    pub external_ip: Option<IpAddr>,
    /// Something that the tracker wants people to read; at most 512 characters, none of them control characters.
    pub warning: Option<String>,
    /// Other peers, at most [`MAX_PEERS`]: IPv4 and IPv6, never with port 0.
    pub peers: Vec<SocketAddr>,
}

/// Which addresses are meant: UDP replies do not say (BEP 15).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Family {
    /// 4 bytes of address.
    V4,
    /// 16 bytes of address.
    V6,
}

impl Family {
    /// The length in bytes of an address and a port.
    pub(super) fn endpoint_len(self) -> usize {
        match self {
            Self::V4 => 6,
            Self::V6 => 18,
        }
    }
}

impl From<IpAddr> for Family {
    /// An IPv4-mapped address counts as IPv4, as such a socket speaks to an IPv4 tracker.
    fn from(ip: IpAddr) -> Self {
        if ip.to_canonical().is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// The peers of a compact list (BEP 7, 23): each an address and a port, one after the other. Those without a port
/// and an incomplete one at the end are left out.
pub fn compact_peers(bytes: &[u8], family: Family) -> impl Iterator<Item = SocketAddr> {
    bytes.chunks_exact(family.endpoint_len()).filter_map(|endpoint| {
        let (ip, port) = endpoint.split_last_chunk()?;
        let port = u16::from_be_bytes(*port);
        (port != 0).then_some(SocketAddr::new(super::compact_ip(ip)?.to_canonical(), port))
    })
}

/// Appends those peers that have an address of this family as a compact list (BEP 7, 23).
pub fn encode_compact_peers(peers: impl IntoIterator<Item = SocketAddr>, family: Family, out: &mut Vec<u8>) {
    for peer in peers {
        match (peer.ip().to_canonical(), family) {
            (IpAddr::V4(ip), Family::V4) => out.extend(ip.octets()),
            (IpAddr::V6(ip), Family::V6) => out.extend(ip.octets()),
            _ => continue,
        }
        out.extend(peer.port().to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::{Family, compact_peers, encode_compact_peers};

    #[test]
    fn compact_peers_are_an_address_and_a_port_each() {
        let peers: Vec<SocketAddr> =
            ["1.2.3.4:258", "[2001:db8::1]:6881", "5.6.7.8:1"].map(|p| p.parse().unwrap()).into();
        let mut bytes = Vec::new();
        encode_compact_peers(peers.iter().copied(), Family::V4, &mut bytes);
        assert_eq!(bytes, [1, 2, 3, 4, 1, 2, 5, 6, 7, 8, 0, 1]);
        assert_eq!(compact_peers(&bytes, Family::V4).collect::<Vec<_>>(), [peers[0], peers[2]]);
        let mut bytes = Vec::new();
        encode_compact_peers(peers.iter().copied(), Family::V6, &mut bytes);
        assert_eq!(bytes.len(), 18);
        assert_eq!(compact_peers(&bytes, Family::V6).collect::<Vec<_>>(), peers[1..2]);
    }

    #[test]
    fn peers_without_a_port_and_incomplete_ones_are_left_out() {
        let bytes = [1, 2, 3, 4, 0, 0, 1, 2, 3, 4, 0, 9, 1, 2, 3];
        assert_eq!(compact_peers(&bytes, Family::V4).collect::<Vec<_>>(), ["1.2.3.4:9".parse().unwrap()]);
        for cut in 0..bytes.len() {
            assert_eq!(compact_peers(&bytes[..cut], Family::V4).count(), usize::from(cut >= 12));
        }
    }
}
