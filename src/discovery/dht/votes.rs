//! Which address the world sees us at, by what nodes say in their answers (BEP 42 `ip`).
//!
//! Each network has one vote, so that one host cannot make up our address. Only answers to our own queries count.

use std::collections::VecDeque;
use std::net::IpAddr;

use super::is_private;
use super::table::shared_bits;

/// How many votes are kept; the oldest are forgotten.
const MAX_VOTES: usize = 32;

/// How many must agree, beside being more than half.
const ENOUGH: usize = 5;

#[derive(Debug, Default)]
pub(super) struct Votes {
    /// Who says which.
    votes: VecDeque<(IpAddr, IpAddr)>,
    elected: Option<IpAddr>,
}

impl Votes {
    /// Our address, where enough agree.
    pub(super) fn elected(&self) -> Option<IpAddr> {
        self.elected
    }

    /// Takes a vote; gives our address if it is news.
    pub(super) fn vote(&mut self, voter: IpAddr, ours: IpAddr) -> Option<IpAddr> {
        // Within a private network, others do not see what the world sees.
        if is_private(voter) || is_private(ours) || voter.is_ipv4() != ours.is_ipv4() || ours.is_unspecified() {
            return None;
        }
        let bits = if voter.is_ipv4() { 24 } else { 48 };
        self.votes.retain(|(known, _)| shared_bits(*known, voter) < bits);
        if self.votes.len() >= MAX_VOTES {
            self.votes.pop_front();
        }
        self.votes.push_back((voter, ours));
        let agree = self.votes.iter().filter(|(_, ip)| *ip == ours).count();
        if agree < ENOUGH || 2 * agree <= self.votes.len() || self.elected == Some(ours) {
            return None;
        }
        self.elected = Some(ours);
        self.elected
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::Votes;

    const OURS: IpAddr = IpAddr::V4(Ipv4Addr::new(8, 8, 4, 4));

    fn voter(net: u8, host: u8) -> IpAddr {
        Ipv4Addr::new(11, 0, net, host).into()
    }

    #[test]
    fn an_address_is_ours_when_enough_networks_say_so() {
        let mut votes = Votes::default();
        assert!((0..4).all(|net| votes.vote(voter(net, 1), OURS).is_none()));
        assert_eq!(votes.vote(voter(4, 1), OURS), Some(OURS));
        assert_eq!(votes.vote(voter(5, 1), OURS), None, "no news");
        assert_eq!(votes.elected(), Some(OURS));
        let moved = "9.9.9.9".parse().unwrap();
        let news: Vec<_> = (0..30).filter_map(|net| votes.vote(voter(net, 2), moved)).collect();
        assert_eq!(news, [moved]);
    }

    #[test]
    fn one_network_has_one_vote_and_liars_need_the_majority() {
        let mut votes = Votes::default();
        assert!((0..100).all(|host| votes.vote(voter(1, host), OURS).is_none()));
        // Everybody of these says something else.
        assert!((10..20).all(|net| votes.vote(voter(net, 1), voter(99, net)).is_none()));
        assert!((20..29).all(|net| votes.vote(voter(net, 1), OURS).is_none()));
        assert_eq!(votes.vote(voter(29, 1), OURS), Some(OURS));
    }

    #[test]
    fn neighbours_on_a_private_network_have_no_say() {
        let mut votes = Votes::default();
        let private = |net| IpAddr::from(Ipv4Addr::new(10, 0, net, 1));
        assert!((0..20).all(|net| votes.vote(private(net), OURS).is_none()));
        assert!((0..20).all(|net| votes.vote(voter(net, 1), private(1)).is_none()));
    }
}
