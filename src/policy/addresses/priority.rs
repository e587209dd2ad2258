//! Canonical peer priority (BEP 40): a number that both ends of a connection come to by themselves, so that a swarm of full
//! peers agrees on which connections stay, and a newcomer finds a place.
//!
//! It owns the formula and how often somebody is let go for it. It refuses to know who is connected.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// At most one connection in this time is let go for a newcomer with a better priority: a flood of newcomers must not cost
/// more than that.
const BETWEEN_SWAPS: Duration = Duration::from_secs(5);

/// The priority of the connection between two addresses, the same from both ends; higher is better (BEP 40). 0 between an
/// IPv4 and an IPv6 address, which cannot be connected.
///
/// Where libtorrent's values for IPv6 addresses of the same /32 are others than those of the BEP's text, this is the text:
/// `FFFF:FFFF:FFFF:5555..`, and one byte more for each that both have in common from the sixth on.
pub fn canonical_priority(one: SocketAddr, other: SocketAddr) -> u32 {
    match (one.ip().to_canonical(), other.ip().to_canonical()) {
        (a, b) if a == b => {
            let (low, high) = in_order(one.port(), other.port());
            crc32c::crc32c(&[low.to_be_bytes(), high.to_be_bytes()].concat())
        }
        (IpAddr::V4(a), IpAddr::V4(b)) => of_masked(a.octets(), b.octets(), 2),
        (IpAddr::V6(a), IpAddr::V6(b)) => of_masked(a.octets(), b.octets(), 6),
        _ => 0,
    }
}

/// When a full torrent lets somebody go for a newcomer.
#[derive(Debug, Default)]
pub struct Swaps {
    not_before: Option<Instant>,
}

impl Swaps {
    /// Who is to go for a newcomer with this priority, of those who could: the one with the lowest priority, where that is
    /// lower than the newcomer's. Nobody, for a while after the last one.
    pub fn loser<K>(&mut self, newcomer: u32, idle: impl IntoIterator<Item = (K, u32)>, now: Instant) -> Option<K> {
        if self.not_before.is_some_and(|at| now < at) {
            return None;
        }
        let (loser, _) = idle.into_iter().min_by_key(|&(_, priority)| priority).filter(|&(_, low)| low < newcomer)?;
        self.not_before = Some(now + BETWEEN_SWAPS);
        Some(loser)
    }
}

/// Of each address the first `whole` bytes count in full, and one more where these are the same, and so on; of the other
/// bytes every second bit does.
fn of_masked<const N: usize>(a: [u8; N], b: [u8; N], whole: usize) -> u32 {
    let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let whole = if same < whole { whole } else { same + 1 };
    let masked =
        |bytes: [u8; N]| -> [u8; N] { std::array::from_fn(|at| if at < whole { bytes[at] } else { bytes[at] & 0x55 }) };
    let (low, high) = in_order(masked(a), masked(b));
    crc32c::crc32c(&[low, high].concat())
}

fn in_order<T: Ord>(a: T, b: T) -> (T, T) {
    if a <= b { (a, b) } else { (b, a) }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};
    use std::time::{Duration, Instant};

    use proptest::{prop_assert_eq, proptest};

    use super::{Swaps, canonical_priority};

    /// From the BEP itself, and from the tests of libtorrent and anacrolix/torrent.
    const VECTORS: &[(&str, &str, u32)] = &[
        ("123.213.32.10", "98.76.54.32", 0xec2d_7224),
        ("123.213.32.10", "123.213.32.234", 0x9956_8189),
        ("206.248.98.111", "142.147.89.224", 0x2b41_d456),
        ("230.12.123.1", "230.12.123.3", 0x99c5_4d79),
        ("230.12.23.1", "230.12.123.3", 0x21fd_5f80),
        ("230.120.23.1", "230.12.123.3", 0xfa9a_860e),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff:0fff:ffff:ffff:ffff:ffff:ffff:ffff", 0x59d7_1f38),
        // libtorrent has others for these two; the text of the BEP gives these.
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff:ffff:ff0f:ffff:ffff:ffff:ffff:ffff", 0x755f_8512),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff:ffff:ffff:0fff:ffff:ffff:ffff:ffff", 0x27a8_8382),
    ];

    fn at(ip: &str, port: u16) -> SocketAddr {
        SocketAddr::new(ip.parse().unwrap(), port)
    }

    #[test]
    fn the_priorities_are_those_of_the_specification() {
        for (one, other, priority) in VECTORS {
            for (a, b) in [(one, other), (other, one)] {
                assert_eq!(canonical_priority(at(a, 1), at(b, 2)), *priority, "{a} {b}");
            }
        }
        assert_eq!(canonical_priority(at("1.2.3.4", 1234), at("1.2.3.4", 300)), 0xae8b_7034);
        assert_eq!(canonical_priority(at("::ffff:1.2.3.4", 300), at("1.2.3.4", 1234)), 0xae8b_7034);
        assert_eq!(canonical_priority(at("1.2.3.4", 1), at("::5", 1)), 0);
    }

    #[test]
    fn only_the_worst_goes_for_a_better_one_and_only_now_and_then() {
        let (mut swaps, now) = (Swaps::default(), Instant::now());
        let idle = [("a", 7), ("b", 3), ("c", 5)];
        assert_eq!(swaps.loser(3, idle, now), None, "no better than the worst");
        assert_eq!(swaps.loser(4, idle, now), Some("b"));
        assert_eq!(swaps.loser(9, idle, now + Duration::from_millis(4999)), None);
        assert_eq!(swaps.loser(9, idle, now + Duration::from_secs(5)), Some("b"));
    }

    proptest! {
        #[test]
        fn both_ends_come_to_the_same_priority(a: IpAddr, b: IpAddr, ports: [u16; 2]) {
            let (a, b) = (SocketAddr::new(a, ports[0]), SocketAddr::new(b, ports[1]));
            prop_assert_eq!(canonical_priority(a, b), canonical_priority(b, a));
        }
    }
}
