//! What is remembered, for how long, and of how many.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::{prop_assert, proptest};

use super::{Deed, Reputation, Standing};

const MIB: u64 = 1 << 20;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn peer(number: u32) -> SocketAddr {
    SocketAddr::from(((0x0a00_0001 + number).to_be_bytes(), 6881))
}

fn after(deeds: &[Deed]) -> Standing {
    let mut known = Reputation::new(10);
    deeds.iter().for_each(|&deed| known.note(peer(1), deed, start()));
    known.standing(peer(1), start())
}

#[test]
fn who_gives_is_good_who_stalls_is_poor_and_who_lies_is_a_cheat_whatever_it_gave() {
    use Deed::{Fault, Lie, Stall, Useful};
    assert_eq!(after(&[]), Standing::Unknown);
    assert_eq!(after(&[Useful(MIB - 1)]), Standing::Unknown);
    assert_eq!(after(&[Useful(MIB)]), Standing::Good);
    assert_eq!(after(&[Stall]), Standing::Unknown);
    assert_eq!(after(&[Stall, Stall]), Standing::Poor);
    assert_eq!(after(&[Fault]), Standing::Poor);
    assert_eq!(after(&[Useful(8 * MIB), Stall, Stall]), Standing::Good);
    assert_eq!(after(&[Useful(8 * MIB), Fault]), Standing::Poor);
    assert_eq!(after(&[Useful(100 * MIB), Lie]), Standing::Cheat);
    assert!(
        Standing::Good < Standing::Unknown && Standing::Unknown < Standing::Poor && Standing::Poor < Standing::Cheat
    );
}

#[test]
fn a_record_is_of_an_address_with_all_its_ports_but_on_this_machine_of_one() {
    let mut known = Reputation::new(10);
    let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
    known.note(at("[::ffff:9.9.9.9]:1"), Deed::Lie, start());
    known.note(at("127.0.0.1:1"), Deed::Lie, start());
    assert_eq!(known.standing(at("9.9.9.9:2"), start()), Standing::Cheat);
    assert_eq!(known.standing(at("127.0.0.1:1"), start()), Standing::Cheat);
    assert_eq!(known.standing(at("127.0.0.1:2"), start()), Standing::Unknown);
}

#[test]
fn one_lie_is_forgiven_after_a_day_and_two_after_two_and_what_was_given_is_forgotten_later() {
    let mut known = Reputation::new(10);
    known.note(peer(1), Deed::Lie, start());
    known.note(peer(2), Deed::Lie, start());
    known.note(peer(2), Deed::Lie, start());
    known.note(peer(3), Deed::Useful(2 * MIB), start());
    let standings =
        |days: u32| [1, 2, 3].map(|number| known.standing(peer(number), start() + DAY * days - Duration::from_secs(1)));
    use Standing::{Cheat, Good, Unknown};
    assert_eq!(standings(1), [Cheat, Cheat, Good]);
    let later = |days: u32| {
        [1, 2, 3].map(|number| known.standing(peer(number), start() + DAY * days + Duration::from_secs(60)))
    };
    assert_eq!(later(1), [Unknown, Cheat, Good]);
    assert_eq!(later(2), [Unknown, Unknown, Good]);
    assert_eq!(later(7), [Unknown, Unknown, Unknown]);
    assert_eq!(known.record(peer(3), start() + DAY * 7).unwrap().useful, MIB);
    assert_eq!(known.record(peer(1), start() + DAY * 30), None);
    // A clock that was set back changes nothing.
    assert_eq!(known.standing(peer(1), start() - DAY), Cheat);
}

#[test]
fn of_too_many_those_who_matter_least_are_forgotten_first() {
    let mut known = Reputation::new(100);
    known.note(peer(0), Deed::Lie, start());
    known.note(peer(1), Deed::Useful(2 * MIB), start());
    for number in 2..1000 {
        known.note(peer(number), Deed::Stall, start() + Duration::from_secs(number.into()));
        assert!(known.len() <= 100);
    }
    let now = start() + Duration::from_secs(1000);
    assert_eq!((known.standing(peer(0), now), known.standing(peer(1), now)), (Standing::Cheat, Standing::Good));
    assert!(known.record(peer(999), now).is_some() && known.record(peer(2), now).is_none());
}

#[test]
fn what_is_saved_is_read_again_and_the_later_of_two_records_counts() {
    let mut known = Reputation::new(10);
    known.note(peer(1), Deed::Lie, start());
    known.note(peer(1), Deed::Stall, start() + DAY / 3);
    known.note(peer(2), Deed::Useful(MIB), start());
    known.note(peer(3), Deed::Useful(1), start());
    let now = start() + DAY / 3;
    let text = known.encode(now);
    let read = Reputation::decode(&text, 10, now).unwrap();
    assert_eq!(read.len(), 2, "what is nothing is not saved: {text}");
    assert_eq!(
        [1, 2].map(|number| read.record(peer(number), now)),
        [1, 2].map(|number| known.record(peer(number), now))
    );
    let mut newer = Reputation::new(10);
    newer.note(peer(2), Deed::Lie, now);
    newer.note(peer(1), Deed::Useful(MIB), start());
    newer.merge(read, now);
    assert_eq!(newer.standing(peer(2), now), Standing::Cheat);
    assert!(newer.record(peer(1), now).unwrap().stalls > 0.0);
}

#[test]
fn a_file_of_another_kind_is_refused_and_lines_that_are_wrong_are_left_out() {
    assert!(Reputation::decode("", 10, start()).is_err());
    assert!(Reputation::decode("ropewalk peers 2\n", 10, start()).is_err());
    let text = "ropewalk peers 1\n9.9.9.9:0 9999999 0 0 0 99999999999\n8.8.8.8:0 1 NaN 0 0 1\n8.8.8.8:0 1 -1 0 0 1\n\
                8.8.8.8:0 1 inf 0 0 1\n8.8.8.8:0 1 0 0 0\n8.8.8.8:0 1 0 0 0 1 1\nx\n\n";
    let known = Reputation::decode(text, 10, start()).unwrap();
    assert_eq!(known.len(), 1);
    let record = known.record("9.9.9.9:1".parse().unwrap(), start()).unwrap();
    assert_eq!(record.last_seen, 1_700_000_000, "not in the future");
}

proptest! {
    #[test]
    fn no_text_panics_or_grows_beyond_its_bound(lines in "(([0-9.:]{0,12} ?){0,7}\n){0,20}") {
        if let Ok(known) = Reputation::decode(&format!("ropewalk peers 1\n{lines}"), 4, start()) {
            prop_assert!(known.len() <= 4);
        }
    }
}
