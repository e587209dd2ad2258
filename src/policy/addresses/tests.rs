//! Who is dialled when, on a fake clock.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proptest::prelude::any;
use proptest::{collection, prop_assert, prop_assert_eq, proptest};

use super::super::reputation::Standing;
use super::{AddressBook, BACKOFF, DialLimits, IpFilter, Miss, Misses, Source, Surroundings, canonical_priority};

mod fairness;

/// A book in the private network that [`peer`] is in.
fn book() -> AddressBook {
    book_with(DialLimits::default())
}

fn book_with(limits: DialLimits) -> AddressBook {
    let mut book = AddressBook::new(limits);
    book.set_surroundings(Surroundings { private: true, port: 6881, ..Surroundings::default() });
    book
}

fn peer(number: u32) -> SocketAddr {
    SocketAddr::from(((0x0a00_0001 + number).to_be_bytes(), 6881))
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn addresses_are_dialled_once_in_the_order_in_which_they_came_but_a_persons_first() {
    let (mut book, now) = (book(), Instant::now());
    assert!(book.add(peer(1), Source::Tracker, now) && book.add(peer(2), Source::Exchange, now));
    assert!(!book.add(peer(1), Source::Dht, now));
    assert!(book.add(peer(3), Source::Local, now) && book.add(peer(4), Source::Manual, now));
    let order: Vec<_> = std::iter::from_fn(|| book.next(now)).collect();
    assert_eq!(order, [4, 3, 1, 2].map(peer));
    assert_eq!((book.half_open(), book.next_deadline(now)), (4, None));
}

#[test]
fn nobody_can_be_dialled_at_port_0_or_at_an_unspecified_multicast_or_broadcast_address() {
    let (mut book, now) = (book(), Instant::now());
    for addr in [
        "1.2.3.4:0",
        "0.0.0.0:1",
        "224.0.0.1:1",
        "255.255.255.255:1",
        "[::]:1",
        "[ff02::1]:1",
        "[::ffff:0.0.0.0]:1",
        "[::ffff:255.255.255.255]:1",
    ] {
        assert!(!book.add(addr.parse().unwrap(), Source::Manual, now), "{addr}");
    }
    assert!(book.is_empty());
}

#[test]
fn ipv4_in_ipv6_is_the_ipv4_address() {
    let (mut book, now) = (book(), Instant::now());
    let (mapped, plain) = ("[::ffff:1.2.3.4]:5".parse().unwrap(), "1.2.3.4:5".parse().unwrap());
    assert!(book.add(mapped, Source::Tracker, now) && !book.add(plain, Source::Tracker, now));
    assert_eq!(book.next(now), Some(plain));
    book.connected(mapped);
    assert_eq!((book.half_open(), book.connected_count()), (0, 1));
    book.ban("[::ffff:9.9.9.9]:7".parse().unwrap());
    assert!(book.is_banned("9.9.9.9:1".parse().unwrap()));
}

#[test]
fn a_failed_address_waits_a_minute_for_each_failure_and_is_gone_after_three() {
    let (mut book, start) = (book(), Instant::now());
    let mut now = start;
    book.add(peer(1), Source::Tracker, now);
    for wait in [60, 120] {
        assert_eq!(book.next(now), Some(peer(1)));
        book.failed(peer(1), now);
        assert_eq!(book.next_deadline(now), Some(now + seconds(wait)));
        assert_eq!(book.next(now + seconds(wait - 1)), None);
        now += seconds(wait);
    }
    assert_eq!(book.next(now), Some(peer(1)));
    book.failed(peer(1), now);
    assert_eq!((book.next(now + seconds(3600)), book.next_deadline(now)), (None, None));
    assert!(!book.add(peer(1), Source::Exchange, now + seconds(60)));
    assert_eq!(book.next(now + seconds(60)), None);
    assert!(book.add(peer(1), Source::Exchange, now + seconds(1800)));
    assert_eq!(book.next(now + seconds(1800)), Some(peer(1)));
}

#[test]
fn why_the_last_call_of_an_address_came_to_nothing_counts_until_it_is_met_or_forgotten() {
    let (mut book, now) = (book(), Instant::now());
    for number in 1..=3 {
        book.add(peer(number), Source::Tracker, now);
        assert_eq!(book.next(now), Some(peer(number)));
    }
    book.missed(peer(1), Miss::Silent, now);
    book.missed(peer(2), Miss::Silent, now);
    book.missed(peer(3), Miss::Unencrypted, now);
    assert_eq!(book.misses(), Misses { silent: 2, unencrypted: 1, ..Misses::default() });
    let later = now + BACKOFF;
    assert_eq!(book.next(later), Some(peer(1)));
    book.missed(peer(1), Miss::HungUp, later);
    assert_eq!(book.misses(), Misses { silent: 1, hung_up: 1, unencrypted: 1, ..Misses::default() });
    book.connected(peer(2));
    book.ban(peer(3));
    assert_eq!(book.misses(), Misses { hung_up: 1, ..Misses::default() });
    // One that is not in the book counts for nothing.
    book.missed(peer(4), Miss::Other, later);
    assert_eq!(book.misses().total(), 1);
}

#[test]
fn an_address_that_a_person_gave_is_retried_soon_and_for_ever() {
    let (mut book, mut now) = (book(), Instant::now());
    book.add(peer(1), Source::Manual, now);
    for failures in 1..100 {
        assert_eq!(book.next(now), Some(peer(1)));
        book.failed(peer(1), now);
        let wait = seconds((5 * failures).min(60));
        assert_eq!(book.next_deadline(now), Some(now + wait));
        now += wait;
    }
}

#[test]
fn a_useful_peer_that_got_lost_is_dialled_again_soon_and_a_useless_one_later() {
    let (mut book, now) = (book(), Instant::now());
    for number in [1, 2] {
        book.add(peer(number), Source::Tracker, now);
        assert_eq!(book.next(now), Some(peer(number)));
        book.connected(peer(number));
    }
    assert_eq!(book.next(now + seconds(1000)), None);
    book.disconnected(peer(1), now, false);
    book.disconnected(peer(2), now, true);
    book.add(peer(3), Source::Tracker, now);
    assert_eq!(book.next(now + seconds(5)), Some(peer(2)));
    assert_eq!(book.next(now + seconds(5)), Some(peer(3)));
    assert_eq!(book.next(now + seconds(59)), None);
    assert_eq!(book.next(now + seconds(60)), Some(peer(1)));
}

#[test]
fn an_incoming_connection_is_not_dialled_back_unless_somebody_listens_there() {
    let (mut book, now) = (book(), Instant::now());
    book.connected(peer(1));
    book.connected(peer(2));
    assert!(book.add(peer(2), Source::Incoming, now));
    assert_eq!(book.next(now), None);
    book.disconnected(peer(1), now, true);
    book.disconnected(peer(2), now, true);
    assert_eq!(book.next(now + seconds(10)), Some(peer(2)));
    assert_eq!(book.len(), 1);
}

#[test]
fn a_ban_covers_all_ports_of_an_address_and_outlasts_its_connection() {
    let (mut book, now) = (book(), Instant::now());
    let other = SocketAddr::new(peer(1).ip(), 7000);
    book.add(peer(1), Source::Tracker, now);
    assert_eq!(book.next(now), Some(peer(1)));
    book.connected(peer(1));
    book.add(other, Source::Tracker, now);
    book.ban(peer(1));
    assert!(!book.add(peer(1), Source::Manual, now) && !book.add(other, Source::Manual, now));
    assert!(book.is_banned(other) && !book.is_banned(peer(2)));
    book.disconnected(peer(1), now, true);
    assert_eq!((book.next(now + seconds(100)), book.len()), (None, 0));
}

#[test]
fn our_own_address_is_dialled_at_most_until_it_is_known() {
    let (mut book, now) = (book(), Instant::now());
    book.add(peer(1), Source::Tracker, now);
    assert_eq!(book.next(now), Some(peer(1)));
    book.learn_self(peer(1));
    book.failed(peer(1), now);
    assert!(book.is_self(peer(1)) && book.is_empty());
    assert!(!book.add(peer(1), Source::Manual, now));
}

#[test]
fn ten_dials_go_at_once_then_thirty_a_second() {
    let mut book = book_with(DialLimits { max_half_open: 1000, ..DialLimits::default() });
    let start = Instant::now();
    (0..1000).for_each(|number| assert!(book.add(peer(number), Source::Tracker, start)));
    let (mut now, mut dials) = (start, 0);
    while now < start + seconds(10) {
        while book.next(now).is_some() {
            dials += 1;
        }
        assert!(now > start || dials == 10);
        let next = book.next_deadline(now).unwrap();
        assert!(next > now);
        now = next;
    }
    assert!((305..=311).contains(&dials), "{dials}");
}

#[test]
fn no_more_are_dialled_at_the_same_time_than_allowed() {
    let mut book = book_with(DialLimits { max_half_open: 3, ..DialLimits::default() });
    let now = Instant::now();
    (0..9).for_each(|number| assert!(book.add(peer(number), Source::Tracker, now)));
    assert_eq!(std::iter::from_fn(|| book.next(now)).count(), 3);
    assert_eq!(book.next_deadline(now), None);
    book.connected(peer(0));
    assert_eq!(book.next_deadline(now), Some(now));
    assert_eq!(book.next(now), Some(peer(3)));
    book.not_dialled(peer(3), now);
    assert_eq!(book.next(now), Some(peer(3)));
}

#[test]
fn a_full_book_lets_go_of_failed_addresses_first_and_never_of_earlier_good_ones() {
    let mut book = book_with(DialLimits { max_addresses: 3, ..DialLimits::default() });
    let now = Instant::now();
    (0..3).for_each(|number| assert!(book.add(peer(number), Source::Tracker, now)));
    assert!(!book.add(peer(3), Source::Tracker, now));
    assert_eq!((book.next(now), book.refused().no_room), (Some(peer(0)), 1));
    book.failed(peer(0), now);
    assert!(book.add(peer(3), Source::Tracker, now));
    assert!(book.add(peer(4), Source::Manual, now));
    assert_eq!(book.len(), 3);
    let order: Vec<_> = std::iter::from_fn(|| book.next(now)).collect();
    assert_eq!(order, [4, 1, 2].map(peer));
    assert!(!book.add(peer(5), Source::Manual, now));
}

#[test]
fn seeds_are_not_dialled_while_we_are_seeding() {
    let (mut book, now) = (book(), Instant::now());
    book.add(peer(1), Source::Tracker, now);
    book.mark_seed(peer(1));
    book.set_seeding(true);
    assert_eq!((book.next(now), book.next_deadline(now), book.dialable_count()), (None, None, 0));
    book.set_seeding(false);
    assert_eq!(book.next(now), Some(peer(1)));
}

#[test]
fn after_a_pause_of_our_own_whoever_did_not_fail_is_dialled_at_once() {
    let (mut book, now) = (book(), Instant::now());
    for (number, useful) in [(1, true), (2, false)] {
        book.add(peer(number), Source::Tracker, now);
        assert_eq!(book.next(now), Some(peer(number)));
        book.connected(peer(number));
        book.disconnected(peer(number), now, useful);
    }
    assert_eq!(book.next(now), None);
    book.hurry();
    assert_eq!(book.next(now), Some(peer(1)));
    assert_eq!(book.next(now), None, "the other one failed");
}

#[test]
fn what_cannot_be_reached_from_where_we_are_is_refused_unless_a_person_or_a_neighbour_names_it() {
    let (mut book, now) = (AddressBook::new(DialLimits::default()), Instant::now());
    let addr = |text: &str| -> SocketAddr { text.parse().unwrap() };
    for near in ["10.0.0.1:1", "127.0.0.1:1", "[fe80::1]:1", "[fd00::1]:1", "192.0.2.1:1", "100.64.0.1:1"] {
        for source in [Source::Tracker, Source::Dht, Source::Exchange, Source::Magnet] {
            assert!(!book.add(addr(near), source, now), "{near} {source:?}");
        }
    }
    assert_eq!(book.refused().unreachable, 24);
    assert!(book.add(addr("10.0.0.1:1"), Source::Local, now));
    assert!(book.add(addr("192.0.2.1:1"), Source::Manual, now));
    assert!(book.add_told(addr("127.0.0.1:1"), Source::Tracker, Some([127, 0, 0, 9].into()), now));
    assert!(book.add(addr("9.9.9.9:1"), Source::Dht, now));
}

#[test]
fn where_the_world_sees_us_is_our_own_address() {
    let (mut book, now) = (book(), Instant::now());
    let us: SocketAddr = "9.9.9.9:6881".parse().unwrap();
    assert!(book.add(us, Source::Tracker, now) && !book.is_self(us));
    book.tracker_sees_us(us.ip());
    assert!(book.is_self(us) && book.is_empty());
    assert!(!book.add(us, Source::Dht, now) && book.refused().own == 1);
    assert!(book.add("9.9.9.9:6882".parse().unwrap(), Source::Dht, now), "somebody behind the same router");
    for voice in 1..=3 {
        book.peer_sees_us(([voice, 1, 1, 1], 1).into(), [8, 8, 8, 8].into());
    }
    assert!(!book.is_self(us) && book.is_self("8.8.8.8:6881".parse().unwrap()));
}

#[test]
fn among_equals_the_better_canonical_priority_is_dialled_first_once_we_know_our_address() {
    let (mut book, now) = (book(), Instant::now());
    let mut addrs: Vec<SocketAddr> = (1..=9).map(|net| ([20 + net, 5, net, 1], 6881).into()).collect();
    addrs.iter().for_each(|&addr| assert!(book.add(addr, Source::Tracker, now)));
    assert_eq!(book.priority(addrs[0]), None);
    book.tracker_sees_us([9, 9, 9, 9].into());
    let us = "9.9.9.9:6881".parse().unwrap();
    assert_eq!(book.our_address(true), Some(us));
    let late = "77.1.2.3:6881".parse().unwrap();
    assert!(book.add(late, Source::Tracker, now));
    addrs.push(late);
    addrs.sort_by_key(|&addr| std::cmp::Reverse(canonical_priority(us, addr)));
    let order: Vec<_> = std::iter::from_fn(|| book.next(now)).collect();
    assert_eq!(order, addrs);
}

#[test]
fn blocked_addresses_are_refused_and_go_when_they_become_blocked() {
    let (mut book, now) = (book(), Instant::now());
    for number in 0..4 {
        assert!(book.add(peer(number), Source::Tracker, now));
    }
    book.dialled(peer(0), now);
    book.connected(peer(0));
    let mut builder = IpFilter::builder();
    builder.block(peer(0).ip()..=peer(1).ip());
    book.set_filter(builder.build().into());
    assert_eq!(book.len(), 3, "who is connected stays until it is not");
    assert!(book.is_blocked(peer(0)) && !book.is_blocked(peer(2)));
    assert!(!book.add(peer(1), Source::Manual, now) && book.refused().blocked == 1);
    book.disconnected(peer(0), now, true);
    assert_eq!(book.len(), 2);
    book.set_filter(IpFilter::default().into());
    assert!(book.add(peer(1), Source::Tracker, now));
}

#[test]
fn good_ones_are_dialled_first_poor_ones_last_and_cheats_not_at_all() {
    let (mut book, now) = (book(), Instant::now());
    for (number, standing) in [(1, Standing::Poor), (2, Standing::Unknown), (3, Standing::Cheat), (4, Standing::Good)] {
        assert!(book.add(peer(number), Source::Tracker, now));
        book.set_standing(peer(number), standing);
    }
    let order: Vec<_> = std::iter::from_fn(|| book.next(now)).collect();
    assert_eq!(order, [4, 2, 1].map(peer));
    assert!(book.is_banned(peer(3)) && !book.add(peer(3), Source::Manual, now) && book.refused().banned == 1);
}

#[test]
fn all_who_named_an_address_are_remembered() {
    let (mut book, now) = (book(), Instant::now());
    for source in [Source::Dht, Source::Tracker, Source::Exchange, Source::Dht] {
        book.add(peer(1), source, now);
    }
    let sources: Vec<_> = book.sources(peer(1)).iter().collect();
    assert_eq!(sources, [Source::Tracker, Source::Exchange, Source::Dht]);
    assert!(book.sources(peer(2)).is_empty() && !book.is_manual(peer(1)));
}

proptest! {
    #[test]
    fn whatever_happens_the_book_is_bounded_and_gives_only_what_may_be_dialled(
        events in collection::vec((0..10u8, 0..12u32, any::<bool>()), 1..200),
    ) {
        let limits = DialLimits { max_addresses: 8, max_half_open: 3, dials_per_second: 5 };
        let mut book = book_with(limits);
        let mut now = Instant::now();
        let (mut dialling, mut connected) = (HashSet::new(), HashSet::new());
        for (event, number, flag) in events {
            let addr = peer(number);
            match event {
                0..3 => drop(book.add(addr, if flag { Source::Manual } else { Source::Dht }, now)),
                3..6 => {
                    let due = book.next_deadline(now).is_some_and(|at| at <= now);
                    let next = book.next(now);
                    prop_assert_eq!(due, next.is_some());
                    if let Some(next) = next {
                        prop_assert!(!connected.contains(&next) && dialling.insert(next));
                        prop_assert!(!book.is_banned(next) && !book.is_self(next));
                    }
                }
                6 => if dialling.remove(&addr) && flag {
                    book.connected(addr);
                    connected.insert(addr);
                } else {
                    book.failed(addr, now);
                    connected.remove(&addr);
                },
                7 => {
                    book.disconnected(addr, now, flag);
                    connected.remove(&addr);
                    dialling.remove(&addr);
                }
                8 if number < 2 => if flag { book.ban(addr) } else { book.learn_self(addr) },
                _ => now += Duration::from_millis(u64::from(number) * 5_000),
            }
            prop_assert!(book.len() <= 8 && book.half_open() <= 3);
            prop_assert_eq!((book.half_open(), book.connected_count()), (dialling.len(), connected.len()));
        }
    }
}
