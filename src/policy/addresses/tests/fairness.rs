//! Nobody fills the book, or keeps others waiting, with what only it says.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use proptest::{collection, prop_assert, proptest};

use super::super::entry::Source;
use super::super::special::network;
use super::super::{AddressBook, DialLimits};
use super::{book_with, seconds};

/// An address of a network of its own.
fn far(number: u32) -> SocketAddr {
    SocketAddr::from(((0x2000_0001 + number * 256).to_be_bytes(), 6881))
}

fn small(max_addresses: usize) -> AddressBook {
    book_with(DialLimits { max_addresses, max_half_open: 10_000, dials_per_second: 1_000_000 })
}

fn count(book: &AddressBook, addrs: impl IntoIterator<Item = SocketAddr>) -> usize {
    addrs.into_iter().filter(|&addr| !book.sources(addr).is_empty()).count()
}

#[test]
fn a_flood_from_one_source_leaves_the_others_their_share() {
    let (mut book, now) = (small(100), Instant::now());
    for number in 0..10_000 {
        book.add(far(number), Source::Dht, now);
    }
    let honest = 20_000..20_040;
    honest.clone().for_each(|number| assert!(book.add(far(number), Source::Tracker, now)));
    assert!(book.add(far(30_000), Source::Exchange, now) && book.add(far(30_001), Source::Local, now));
    for number in 10_000..15_000 {
        book.add(far(number), Source::Dht, now);
    }
    assert_eq!((count(&book, honest.map(far)), book.len()), (40, 100));
    assert_eq!(count(&book, (0..58).map(far)), 58, "and of the flood the first stay");
    // Two who want everything end up with the same.
    for number in 40_000..50_000 {
        book.add(far(number), Source::Tracker, now);
    }
    let trackers = count(&book, (20_000..50_000).map(far)) - 2;
    assert!((49..=50).contains(&trackers), "{trackers}");
}

#[test]
fn a_flood_from_one_network_or_one_peer_leaves_the_others_of_its_source_theirs() {
    let now = Instant::now();
    let (liar, honest): (IpAddr, IpAddr) = ([66, 6, 6, 6].into(), [5, 5, 5, 5].into());
    let mut by_peer = small(100);
    let mut by_network = small(100);
    let mut by_network_6 = small(100);
    for number in 0..1000u32 {
        by_peer.add_told(far(number), Source::Exchange, Some(liar), now);
        let [.., high, low] = number.to_be_bytes();
        by_network.add(([66, 6, 6, low], 1000 + u16::from(high)).into(), Source::Dht, now);
        by_network_6.add(([0x2600, 1, 2, 3, number as u16, 5, 6, 7], 80).into(), Source::Dht, now);
    }
    for number in 2000..2040 {
        assert!(by_peer.add_told(far(number), Source::Exchange, Some(honest), now), "{number}");
        assert!(by_network.add(far(number), Source::Dht, now));
        assert!(by_network_6.add(far(number), Source::Dht, now));
    }
    for mut book in [by_peer, by_network, by_network_6] {
        assert_eq!((count(&book, (2000..2040).map(far)), book.len()), (40, 100));
        // In the order of dialling they do not wait behind the flood either.
        let first: Vec<_> = (0..60).filter_map(|_| book.next(now)).collect();
        let honest = first.iter().filter(|addr| (2000..2040).map(far).any(|other| other == **addr)).count();
        assert!(honest >= 15, "{honest}");
    }
}

#[test]
fn whom_several_sources_name_stays_longest() {
    let (mut book, now) = (small(10), Instant::now());
    (0..10).for_each(|number| assert!(book.add(far(number), Source::Dht, now)));
    for number in 7..10 {
        book.add(far(number), Source::Exchange, now);
    }
    // Counted with the better source from then on.
    (20..23).for_each(|number| assert!(book.add(far(number), Source::Tracker, now)));
    assert_eq!(count(&book, (7..10).map(far)), 3);
    assert_eq!(count(&book, (0..4).map(far)), 4);
}

#[test]
fn sources_take_turns_in_being_dialled_and_save_no_turns_up() {
    let (mut book, now) = (small(1000), Instant::now());
    (0..100).for_each(|number| assert!(book.add(far(number), Source::Dht, now)));
    (0..60).for_each(|_| assert!(book.next(now).is_some()));
    (200..300).for_each(|number| assert!(book.add(far(number), Source::Tracker, now)));
    let dialled: Vec<_> = (0..20).filter_map(|_| book.next(now)).collect();
    let trackers = dialled.iter().filter(|addr| book.sources(**addr).contains(Source::Tracker)).count();
    assert!((9..=11).contains(&trackers), "{trackers}");
}

#[test]
fn what_a_person_gave_is_never_displaced() {
    let (mut book, now) = (small(10), Instant::now());
    (0..10).for_each(|number| assert!(book.add(far(number), Source::Dht, now)));
    (100..110).for_each(|number| assert!(book.add(far(number), Source::Manual, now)));
    for source in Source::ALL {
        (200..300).for_each(|number| assert!(!book.add(far(number), source, now)));
    }
    assert_eq!(count(&book, (100..110).map(far)), 10);
}

proptest! {
    #[test]
    fn no_source_falls_below_its_share_because_of_others(
        names in collection::vec((1..8usize, 0..30u32, 0..5u8), 1..300),
    ) {
        let (mut book, now) = (small(21), Instant::now());
        let mut alone: HashMap<Source, Vec<SocketAddr>> = HashMap::new();
        for (source, number, teller) in names {
            let source = Source::ALL[source];
            let addr = far(number * 8 + source as u32);
            let teller = (teller > 0).then(|| IpAddr::from([9, teller, 1, 1]));
            book.add_told(addr, source, teller, now + seconds(1));
            let named = alone.entry(source).or_default();
            if !named.contains(&addr) {
                named.push(addr);
            }
        }
        prop_assert!(book.len() <= 21);
        for (source, named) in alone {
            let kept = count(&book, named.iter().copied());
            prop_assert!(kept >= named.len().min(3), "{source:?} has {kept} of {}", named.len());
        }
        prop_assert!(book.entries.keys().all(|addr| book.census.crowd(addr.ip(), None) > 0));
        let networks = book.entries.keys().map(|addr| network(addr.ip())).collect::<std::collections::HashSet<_>>();
        prop_assert!(networks.iter().all(|&ip| book.census.crowd(ip, None) as usize == book.entries.keys().filter(|addr| network(addr.ip()) == ip).count()));
    }
}
