//! What is blocked and what is not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use proptest::collection::vec;
use proptest::prelude::{Strategy, any};
use proptest::{prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::{IpFilter, network};

fn v4(bits: u32) -> IpAddr {
    Ipv4Addr::from_bits(bits).into()
}

fn filter(ranges: &[RangeInclusive<IpAddr>]) -> IpFilter {
    let mut builder = IpFilter::builder();
    for range in ranges {
        builder.block(range.clone());
    }
    builder.build()
}

#[test]
fn ranges_that_touch_or_overlap_become_one() {
    let filter = filter(&[v4(20)..=v4(30), v4(5)..=v4(9), v4(10)..=v4(12), v4(8)..=v4(8), v4(32)..=v4(40)]);
    assert_eq!(filter.v4[..], [(5, 12), (20, 30), (32, 40)]);
    assert_eq!(filter.len(), 3);
}

#[test]
fn the_whole_space_and_its_ends_are_ranges() {
    let all = filter(&[v4(0)..=v4(u32::MAX), v4(u32::MAX)..=v4(u32::MAX), v4(7)..=v4(9)]);
    assert_eq!(all.v4[..], [(0, u32::MAX)]);
    let six = |bits| IpAddr::from(Ipv6Addr::from_bits(bits));
    let ends = filter(&[six(u128::MAX)..=six(u128::MAX), six(0)..=six(0)]);
    assert!(ends.blocks(six(u128::MAX)) && ends.blocks(six(0)) && !ends.blocks(six(1)));
    assert!(!IpFilter::default().blocks(v4(1)) && IpFilter::default().is_empty());
}

#[test]
fn ipv4_in_ipv6_is_the_ipv4_address() {
    let filter = filter(&["::ffff:1.2.3.0".parse().unwrap()..="::ffff:1.2.3.9".parse().unwrap()]);
    assert!(filter.blocks([1, 2, 3, 4].into()) && filter.blocks("::ffff:1.2.3.4".parse().unwrap()));
    assert!(filter.v6.is_empty());
}

#[test]
fn ends_in_the_wrong_order_or_of_two_kinds_are_no_range() {
    let mut builder = IpFilter::builder();
    assert!(!builder.block(v4(2)..=v4(1)));
    assert!(!builder.block(v4(2)..="::9".parse().unwrap()));
    assert!(builder.build().is_empty());
}

#[test]
fn a_million_ranges_take_eight_bytes_each() {
    let mut builder = IpFilter::builder();
    for number in 0..1_000_000u32 {
        // Twice, and the second time in another order: what is the same is not kept.
        builder.block(v4(number * 4)..=v4(number * 4 + 1));
    }
    for number in (0..1_000_000u32).rev() {
        builder.block(v4(number * 4)..=v4(number * 4));
        assert!(builder.v4.capacity() <= 1 << 21);
    }
    let filter = builder.build();
    assert_eq!(size_of_val(&*filter.v4), 8_000_000);
    assert!(filter.blocks(v4(3_999_997)) && !filter.blocks(v4(3_999_998)));
}

fn any_range() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    let near = (0..60u32, 0..9u32).prop_map(|(first, more)| (v4(first), v4(first + more)));
    let far = (any::<u32>(), any::<u32>()).prop_map(|(a, b)| (v4(a.min(b)), v4(a.max(b))));
    let six = |bits: u128| IpAddr::from(Ipv6Addr::from_bits(bits));
    let high =
        (0..60u128, 0..9u128).prop_map(move |(first, more)| (six(u128::MAX - first - more), six(u128::MAX - first)));
    let net = (any::<IpAddr>(), 0..=128u32).prop_filter_map("no such network", |(ip, bits)| {
        network(ip, bits).map(RangeInclusive::into_inner).filter(|(first, _)| first.to_canonical() == *first)
    });
    prop_oneof![8 => near, 1 => far, 4 => high, 1 => net]
}

proptest! {
    #[test]
    fn the_filter_blocks_what_any_of_its_ranges_holds(
        ranges in vec(any_range(), 0..40), others in vec(any::<IpAddr>(), 0..10),
    ) {
        let ranges: Vec<_> = ranges.into_iter().map(|(first, last)| first..=last).collect();
        let filter = filter(&ranges);
        prop_assert!(filter.v4.iter().zip(filter.v4.iter().skip(1)).all(|(a, b)| a.1 < u32::MAX && a.1 + 1 < b.0));
        let near = (0..80).map(v4).chain((0..80).map(|bits| Ipv6Addr::from_bits(u128::MAX - bits).into()));
        let ends = ranges.iter().flat_map(|range| [*range.start(), *range.end()]);
        for ip in near.chain(ends).chain(others).map(|ip| ip.to_canonical()) {
            let naive = ranges.iter().any(|range| range.start().is_ipv4() == ip.is_ipv4() && range.contains(&ip));
            prop_assert_eq!(filter.blocks(ip), naive, "{}", ip);
        }
    }
}
