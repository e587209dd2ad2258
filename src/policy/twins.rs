//! Two connections between the same two peers: which of them stays.
//!
//! Two that dial each other at the same moment must agree without a word on which connection goes, or each closes the
//! other's. A peer that was connected and calls again is another matter: it may have lost the older connection without our
//! hearing of it, as behind a cable that was pulled, and must not be turned away for the sake of a dead one.

use std::time::Duration;

/// As long as both may have dialled before either knew of the other: what connecting and shaking hands may take.
const AT_ONCE: Duration = Duration::from_secs(10);

/// How long an older connection that is in doubt has to show that it is dead.
pub const DOUBT: Duration = Duration::from_secs(10);

/// Who made a connection, and how long hands have been shaken.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    /// By the other side.
    pub incoming: bool,
    /// Since hands were shaken.
    pub age: Duration,
}

/// What becomes of two connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stays {
    /// The older one; the newer one goes.
    Older,
    /// The newer one; the older one goes.
    Newer,
    /// Both for now. The older one is sent something: where the other side does not know it any more, that ends it. If it
    /// still stands after [`DOUBT`], [`which_stays_at_last`] says which goes.
    Both,
}

/// Judges two connections between us and one peer, `we_are_greater` by our ids.
pub fn which_stays(older: Made, newer_incoming: bool, we_are_greater: bool) -> Stays {
    match (older.incoming, newer_incoming) {
        // Both ends keep the one that the greater id made.
        (false, true) | (true, false) if older.age < AT_ONCE => {
            if older.incoming == we_are_greater {
                Stays::Newer
            } else {
                Stays::Older
            }
        }
        // We know it by two addresses.
        (false, false) => Stays::Older,
        _ => Stays::Both,
    }
}

/// Judges two that both still stand after [`DOUBT`]: never `Both`. The ends may not agree on which is the older one, where
/// each made one of them.
pub fn which_stays_at_last(older_incoming: bool, newer_incoming: bool, we_are_greater: bool) -> Stays {
    if older_incoming != newer_incoming && older_incoming == we_are_greater { Stays::Newer } else { Stays::Older }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;
    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn two_that_dial_each_other_at_once_agree_on_one_connection() {
        // Each end has seen either connection first.
        for (greater_sees_own_first, lesser_sees_own_first) in
            [(true, true), (true, false), (false, true), (false, false)]
        {
            let kept_is_outgoing = |own_first: bool, greater: bool| {
                let older = Made { incoming: !own_first, age: NOW };
                match which_stays(older, own_first, greater) {
                    Stays::Older => own_first,
                    Stays::Newer => !own_first,
                    Stays::Both => panic!("both"),
                }
            };
            assert!(kept_is_outgoing(greater_sees_own_first, true));
            assert!(!kept_is_outgoing(lesser_sees_own_first, false));
        }
    }

    #[test]
    fn who_calls_again_is_not_turned_away_for_a_connection_that_may_be_dead() {
        for greater in [true, false] {
            for age in [NOW, LONG] {
                assert_eq!(which_stays(Made { incoming: true, age }, true, greater), Stays::Both);
            }
            assert_eq!(which_stays(Made { incoming: false, age: LONG }, true, greater), Stays::Both);
            assert_eq!(which_stays(Made { incoming: true, age: LONG }, false, greater), Stays::Both);
        }
    }

    #[test]
    fn of_two_that_stand_to_the_last_both_ends_close_the_same() {
        for (greater_saw_own_first, lesser_saw_own_first) in
            [(true, true), (true, false), (false, true), (false, false)]
        {
            // The greater one's stays, whichever either end takes for the older one.
            let stays = which_stays_at_last(!greater_saw_own_first, greater_saw_own_first, true);
            assert_eq!(stays, if greater_saw_own_first { Stays::Older } else { Stays::Newer });
            let stays = which_stays_at_last(!lesser_saw_own_first, lesser_saw_own_first, false);
            assert_eq!(stays, if lesser_saw_own_first { Stays::Newer } else { Stays::Older });
        }
        assert_eq!(which_stays_at_last(true, true, true), Stays::Older);
    }

    #[test]
    fn a_peer_that_we_know_by_two_addresses_is_kept_by_the_first() {
        assert_eq!(which_stays(Made { incoming: false, age: LONG }, false, true), Stays::Older);
    }
}
