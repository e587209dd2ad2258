//! At which address the world sees us.
//!
//! It owns what trackers (BEP 24 `external ip`), peers (BEP 10 `yourip`) and the DHT (BEP 42) said of it. A single peer can
//! lie: a majority of at least three counts, one voice for each network. A tracker is believed until such a majority says
//! otherwise. What the DHT says is a vote of nodes already, but a patient liar has nodes in many networks, which cost less
//! than peers of a torrent: it counts only where nobody else says anything.

use std::collections::VecDeque;
use std::net::IpAddr;

use super::special::{Reach, network};

/// So many voices are remembered, the latest of each network.
const VOICES: usize = 64;
/// So many peers have to agree at least.
const QUORUM: usize = 3;

#[derive(Debug, Default)]
pub(super) struct OwnAddress {
    /// The network of each peer, and what it said; the latest last.
    peers: VecDeque<(IpAddr, IpAddr)>,
    /// What a tracker said last, of IPv4 and of IPv6.
    trackers: [Option<IpAddr>; 2],
    /// What the DHT says, of IPv4 and of IPv6.
    dht: [Option<IpAddr>; 2],
}

impl OwnAddress {
    /// A peer says that it sees us there. Only what is said and heard over the open internet counts.
    pub(super) fn peer_says(&mut self, peer: IpAddr, ours: IpAddr) {
        let (voice, ours) = (network(peer), ours.to_canonical());
        if Reach::of(peer) != Reach::Global || Reach::of(ours) != Reach::Global {
            return;
        }
        let family = ours.is_ipv4();
        self.peers.retain(|(other, said)| *other != voice || said.is_ipv4() != family);
        if self.peers.len() == VOICES {
            self.peers.pop_front();
        }
        self.peers.push_back((voice, ours));
    }

    /// A tracker says that it sees us there.
    pub(super) fn tracker_says(&mut self, ours: IpAddr) {
        let ours = ours.to_canonical();
        if Reach::of(ours) == Reach::Global {
            self.trackers[usize::from(ours.is_ipv6())] = Some(ours);
        }
    }

    /// The DHT says that it sees us there.
    pub(super) fn dht_says(&mut self, ours: IpAddr) {
        let ours = ours.to_canonical();
        if Reach::of(ours) == Reach::Global {
            self.dht[usize::from(ours.is_ipv6())] = Some(ours);
        }
    }

    /// Our address of a family, as far as it is known.
    pub(super) fn known(&self, v4: bool) -> Option<IpAddr> {
        let said = || self.peers.iter().map(|(_, said)| *said).filter(|said| said.is_ipv4() == v4);
        let voices = said().count();
        let agree = |ip: IpAddr| said().filter(|&other| other == ip).count();
        let majority = said().rev().find(|&ip| agree(ip) >= QUORUM && agree(ip) * 2 > voices);
        majority.or(self.trackers[usize::from(!v4)]).or(self.dht[usize::from(!v4)])
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::OwnAddress;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_majority_of_peers_from_different_networks_is_believed_and_a_lone_one_is_not() {
        let mut own = OwnAddress::default();
        for last in 0..9 {
            own.peer_says(IpAddr::from([5, 5, 5, last]), ip("66.66.66.66"));
        }
        assert_eq!(own.known(true), None, "nine in one network are one");
        own.peer_says(ip("1.1.1.1"), ip("9.9.9.9"));
        own.peer_says(ip("2.2.2.2"), ip("9.9.9.9"));
        assert_eq!(own.known(true), None);
        own.peer_says(ip("3.3.3.3"), ip("9.9.9.9"));
        assert_eq!(own.known(true), Some(ip("9.9.9.9")));
        for other in 20..23 {
            own.peer_says(IpAddr::from([other, 1, 1, 1]), ip("66.66.66.66"));
        }
        assert_eq!(own.known(true), Some(ip("66.66.66.66")), "four of seven");
        own.peer_says(ip("4.4.4.4"), ip("9.9.9.9"));
        assert_eq!(own.known(true), None, "four of eight are no majority");
        assert_eq!(own.known(false), None);
    }

    #[test]
    fn a_tracker_is_believed_until_peers_agree_on_something_else() {
        let mut own = OwnAddress::default();
        own.tracker_says(ip("::ffff:8.8.8.8"));
        own.tracker_says(ip("2600::1"));
        own.tracker_says(ip("10.0.0.1"));
        assert_eq!((own.known(true), own.known(false)), (Some(ip("8.8.8.8")), Some(ip("2600::1"))));
        for peer in 1..4 {
            own.peer_says(IpAddr::from([peer, 0, 0, 1]), ip("9.9.9.9"));
            own.peer_says(IpAddr::from([10, 0, peer, 1]), ip("7.7.7.7"));
        }
        assert_eq!((own.known(true), own.known(false)), (Some(ip("9.9.9.9")), Some(ip("2600::1"))));
    }

    #[test]
    fn the_dht_is_believed_where_nobody_else_says_anything() {
        let mut own = OwnAddress::default();
        own.dht_says(ip("192.168.1.1"));
        assert_eq!(own.known(true), None);
        own.dht_says(ip("66.66.66.66"));
        own.dht_says(ip("2600::1"));
        assert_eq!((own.known(true), own.known(false)), (Some(ip("66.66.66.66")), Some(ip("2600::1"))));
        own.tracker_says(ip("8.8.8.8"));
        assert_eq!(own.known(true), Some(ip("8.8.8.8")));
        own.dht_says(ip("77.77.77.77"));
        assert_eq!((own.known(true), own.known(false)), (Some(ip("8.8.8.8")), Some(ip("2600::1"))));
        for peer in 1..4 {
            own.peer_says(IpAddr::from([peer, 0, 0, 1]), ip("9.9.9.9"));
        }
        assert_eq!(own.known(true), Some(ip("9.9.9.9")));
    }

    #[test]
    fn old_voices_give_way_to_new_ones() {
        let mut own = OwnAddress::default();
        for peer in 0..200u8 {
            own.peer_says(IpAddr::from([20, peer, 0, 1]), ip("9.9.9.9"));
        }
        for peer in 0..60u8 {
            own.peer_says(IpAddr::from([30, peer, 0, 1]), ip("8.8.8.8"));
        }
        assert_eq!(own.known(true), Some(ip("8.8.8.8")));
    }
}
