use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::{any, prop_assert, proptest};

use super::{FIRST, Frequency, HEARD, Hearsay, LATER, MOST_IGNORED, MOST_TOLD, MOST_WAITING, PERIOD, TAKEN};
use super::{Receiver, Told, Verdict, may_name};

const SENDER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(5, 0, 0, 1));

fn addr(number: usize) -> SocketAddr {
    SocketAddr::from(([6, (number >> 16) as u8, (number >> 8) as u8, number as u8], 6881))
}

fn peers(numbers: std::ops::Range<usize>) -> BTreeMap<SocketAddr, bool> {
    numbers.map(|number| (addr(number), false)).collect()
}

fn receiver(own: &[SocketAddr]) -> Receiver<'_> {
    Receiver { own, seed: false }
}

fn minutes(minutes: u32) -> Duration {
    PERIOD * minutes
}

#[test]
fn a_peer_is_told_of_others_at_once_and_of_changes_a_minute_later() {
    let start = Instant::now();
    let mut told = Told::new(addr(1000));
    assert!(told.is_due(start) && !told.has_begun());
    assert_eq!(told.news(receiver(&[]), &peers(0..0), start), None, "nobody to tell of");
    let news = told.news(receiver(&[]), &peers(0..3), start).unwrap();
    assert_eq!((news.added.len(), news.dropped.len()), (3, 0));
    assert!(told.has_begun());
    let early = start + minutes(1) - Duration::from_millis(1);
    assert_eq!(told.news(receiver(&[]), &peers(1..9), early), None, "too early");
    let news = told.news(receiver(&[]), &peers(1..5), start + minutes(1)).unwrap();
    assert_eq!(news.added.into_iter().collect::<BTreeSet<_>>(), [addr(3), addr(4)].into());
    assert_eq!(news.dropped, [addr(0)]);
    assert_eq!(told.news(receiver(&[]), &peers(1..5), start + minutes(2)), None, "nothing changed");
    // What comes after a quiet minute is told at once.
    let later = start + minutes(2) + Duration::from_secs(1);
    assert_eq!(told.news(receiver(&[]), &peers(1..6), later).unwrap().added, [addr(5)]);
}

#[test]
fn who_came_and_went_between_two_messages_is_not_mentioned() {
    let start = Instant::now();
    let mut told = Told::new(addr(1000));
    told.news(receiver(&[]), &peers(0..2), start);
    assert_eq!(told.news(receiver(&[]), &peers(0..2), start + minutes(1)), None);
}

#[test]
fn a_peer_is_never_told_of_itself_nor_a_seed_of_seeds() {
    let connected = BTreeMap::from([(addr(1), true), (addr(2), false), (addr(3), false)]);
    let own = [addr(3), addr(9)];
    let now = Instant::now();
    let mut told = Told::new(own[0]);
    assert_eq!(told.news(Receiver { own: &own, seed: true }, &connected, now).unwrap().added, [addr(2)]);
    let mut told = Told::new(own[0]);
    assert_eq!(told.news(receiver(&own), &connected, now).unwrap().added, [addr(1), addr(2)]);
    // Somebody of whom it was told and who becomes a seed has not left.
    let connected = connected.keys().map(|&addr| (addr, true)).collect();
    assert_eq!(told.news(Receiver { own: &own, seed: true }, &connected, now + minutes(1)), None);
}

#[test]
fn nobody_is_told_of_those_whom_it_cannot_reach() {
    let [world, network, machine] = ["1.2.3.4:1", "10.1.2.3:1", "127.0.0.1:1"].map(|addr| addr.parse().unwrap());
    let connected = BTreeMap::from([world, network, machine].map(|addr: SocketAddr| (addr, false)));
    for (to, of) in [
        ("5.6.7.8:9", vec![world]),
        ("10.9.9.9:9", vec![world, network]),
        ("127.0.0.1:9", vec![world, network, machine]),
    ] {
        let news = Told::new(to.parse().unwrap()).news(receiver(&[]), &connected, Instant::now()).unwrap();
        assert_eq!(news.added.into_iter().collect::<BTreeSet<_>>(), of.into_iter().collect(), "{to}");
    }
}

#[test]
fn messages_are_bounded_and_go_on_where_the_last_one_ended() {
    let start = Instant::now();
    let mut told = Told::new(addr(500));
    let all = peers(0..1000);
    let first = told.news(receiver(&[]), &all, start).unwrap().added;
    assert_eq!((first.len(), first[0]), (FIRST, addr(501)));
    let second = told.news(receiver(&[]), &all, start + minutes(1)).unwrap().added;
    assert_eq!((second.len(), second[0]), (LATER, addr(501 + FIRST)));
    let third = told.news(receiver(&[]), &all, start + minutes(2)).unwrap().added;
    assert_eq!(first.len() + second.len() + third.len(), MOST_TOLD);
    assert_eq!(told.news(receiver(&[]), &all, start + minutes(3)), None, "it knows enough");
    // Who left is told in parts, and makes room.
    let news = told.news(receiver(&[]), &peers(0..10), start + minutes(4)).unwrap();
    assert_eq!((news.added.len(), news.dropped.len()), (10, LATER));
    let news = told.news(receiver(&[]), &peers(0..10), start + minutes(5)).unwrap();
    assert_eq!((news.added.len(), news.dropped.len()), (0, LATER));
}

#[test]
fn different_peers_are_told_of_different_others_first() {
    let now = Instant::now();
    let all = peers(0..1000);
    let first = |from| Told::new(addr(from)).news(receiver(&[]), &all, now).unwrap().added[0];
    assert_ne!(first(100), first(700));
    assert_eq!(first(999), addr(0), "from the beginning again");
}

#[test]
fn a_peer_may_tell_us_of_others_now_and_then_and_is_cut_off_when_it_floods() {
    let start = Instant::now();
    let mut frequency = Frequency::default();
    for minute in 0..10 {
        assert_eq!(frequency.heard(start + minutes(minute)), Verdict::Take);
    }
    let mut frequency = Frequency::default();
    for _ in 0..HEARD {
        assert_eq!(frequency.heard(start), Verdict::Take);
    }
    for _ in 0..MOST_IGNORED {
        assert_eq!(frequency.heard(start + PERIOD / 2), Verdict::Ignore);
    }
    assert_eq!(frequency.heard(start + PERIOD / 2), Verdict::Cut);
    // Patience comes back with a message that is in time.
    let mut frequency = Frequency::default();
    let before: Vec<_> = (0..HEARD + MOST_IGNORED as usize).map(|_| frequency.heard(start)).collect();
    assert_eq!(before.last(), Some(&Verdict::Ignore));
    assert_eq!(frequency.heard(start + PERIOD), Verdict::Take);
}

#[test]
fn peers_take_turns_whoever_names_most() {
    let mut hearsay = Hearsay::default();
    hearsay.named(7, SENDER, (0..1000).map(|number| (addr(number), false)));
    assert_eq!(hearsay.len(), TAKEN, "of one message");
    for _ in 0..10 {
        hearsay.named(7, SENDER, (0..1000).map(|number| (addr(number + 10_000), false)));
    }
    assert!(hearsay.len() <= MOST_WAITING);
    hearsay.named(3, SENDER, (2000..2003).map(|number| (addr(number), false)));
    hearsay.named(9, SENDER, (3000..3003).map(|number| (addr(number), false)));
    let taken = hearsay.take(9, false);
    let of =
        |range: std::ops::Range<usize>| taken.iter().filter(|(_, at)| range.clone().any(|n| addr(n) == *at)).count();
    assert_eq!((of(2000..2003), of(3000..3003)), (3, 3), "{taken:?}");
    assert_eq!(hearsay.take(5, false).len(), 5);
    assert_eq!(hearsay.take(0, false), []);
}

#[test]
fn what_waits_goes_when_it_is_dropped_when_its_peer_goes_and_when_it_is_taken() {
    let mut hearsay = Hearsay::default();
    hearsay.named(1, SENDER, (0..4).map(|number| (addr(number), false)));
    hearsay.named(2, SENDER, (10..12).map(|number| (addr(number), false)));
    hearsay.dropped(1, &[addr(0), addr(1), addr(99)]);
    hearsay.dropped(2, &[addr(2)]);
    assert_eq!(hearsay.len(), 4);
    hearsay.forget(2);
    assert_eq!(hearsay.take(10, false), [(1, addr(2)), (1, addr(3))]);
    assert!(hearsay.is_empty());
    hearsay.named(1, SENDER, [(addr(5), false)]);
    hearsay.dropped(1, &[addr(5)]);
    assert!(hearsay.is_empty());
    hearsay.named(1, SENDER, [(addr(5), false)]);
    hearsay.clear();
    assert_eq!(hearsay.take(10, false), []);
}

#[test]
fn while_we_seed_those_who_are_said_to_seed_wait() {
    let mut hearsay = Hearsay::default();
    hearsay.named(1, SENDER, [(addr(1), true), (addr(2), false)]);
    hearsay.named(2, SENDER, [(addr(3), true)]);
    assert_eq!(hearsay.take(10, true), [(1, addr(2))]);
    assert_eq!(hearsay.take(10, true), []);
    let mut rest = hearsay.take(10, false);
    rest.sort_unstable();
    assert_eq!(rest, [(1, addr(1)), (2, addr(3))]);
}

#[test]
fn further_ports_of_an_address_are_left_out_but_on_this_machine() {
    let mut hearsay = Hearsay::default();
    let ports = |ip: [u8; 4]| (1..50).map(move |port| (SocketAddr::from((ip, port)), false));
    hearsay.named(1, SENDER, ports([8, 8, 8, 8]));
    assert_eq!(hearsay.len(), 1);
    hearsay.clear();
    hearsay.named(1, [127, 0, 0, 1].into(), ports([127, 0, 0, 1]));
    assert_eq!(hearsay.len(), 49);
}

#[test]
fn addresses_count_only_where_the_sender_can_know_of_them() {
    let world = ["1.2.3.4:1", "[2a00::1]:6881", "[::ffff:1.2.3.4]:1"];
    let network = ["10.1.2.3:1", "192.168.0.1:1", "172.31.0.1:1", "169.254.1.1:1", "100.64.0.1:1", "[fd00::1]:1"];
    let machine = ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"];
    let nobody = [
        "1.2.3.4:0",
        "0.0.0.0:1",
        "0.1.2.3:1",
        "224.0.0.1:1",
        "255.255.255.255:1",
        "250.0.0.1:1",
        "192.0.2.1:1",
        "[::]:1",
        "[ff02::1]:1",
        "[fe80::1]:1",
        "[2001:db8::1]:1",
        "[fec0::1]:1",
        "[::ffff:224.0.0.1]:1",
    ];
    let all = [&world[..], &network, &machine, &nobody].concat();
    for (sender, known) in [
        ("5.6.7.8", world.to_vec()),
        ("2a00::2", world.to_vec()),
        ("192.168.1.1", [&world[..], &network].concat()),
        ("fd00::2", [&world[..], &network].concat()),
        ("127.0.0.1", [&world[..], &network, &machine].concat()),
        ("::ffff:127.0.0.1", [&world[..], &network, &machine].concat()),
    ] {
        let sender: IpAddr = sender.parse().unwrap();
        let may: Vec<_> = all.iter().filter(|named| may_name(sender, named.parse().unwrap())).copied().collect();
        assert_eq!(may, known, "{sender}");
    }
}

proptest! {
    #[test]
    fn a_peer_knows_in_the_end_whom_we_are_connected_to(rounds in vec(vec(any::<u8>(), 0..60), 1..8), own: u8) {
        let own = [addr(own.into())];
        let mut told = Told::new(own[0]);
        let mut knows = BTreeSet::new();
        let mut now = Instant::now();
        let last = rounds.last().cloned().unwrap_or_default();
        // As many quiet minutes behind as it takes to say it all.
        for numbers in rounds.into_iter().chain(std::iter::repeat_n(last.clone(), 8)) {
            let connected: BTreeMap<_, _> = numbers.into_iter().map(|number| (addr(number.into()), false)).collect();
            if let Some(news) = told.news(receiver(&own), &connected, now) {
                prop_assert!(news.added.len() <= FIRST && news.dropped.len() <= LATER);
                prop_assert!(news.added.iter().all(|addr| connected.contains_key(addr) && knows.insert(*addr)));
                prop_assert!(news.dropped.iter().all(|addr| !connected.contains_key(addr) && knows.remove(addr)));
            }
            now += PERIOD;
        }
        let connected: BTreeSet<_> = last.into_iter().map(|number| addr(number.into())).collect();
        prop_assert!(knows == &connected - &own.into());
    }
}
