//! The peers of one swarm that have addresses of one family: found by where they are and by who they are, and drawn at
//! random.
//!
//! Two arrays side by side, seeders in front and leechers behind. What is handed out, endpoints, lies close together, so
//! that an answer is some slices of the first array. While there are few, they are found by looking at each; more have an
//! index of two tables of places.

use std::ops::Range;

use hashbrown::HashTable;

use super::keyed::Keyed;
use crate::wire::handshake::PeerId;

/// With so many peers an index is made, and with half as many it is dropped.
const INDEXED: usize = 32;

/// Into how many slices of random places a draw is divided, so that not always the same are neighbours.
const SLICES: usize = 4;

/// Peers with endpoints of `N` bytes, as in compact lists (BEP 23, BEP 7): 6 or 18.
#[derive(Debug, Default)]
pub(super) struct Roster<const N: usize> {
    places: Vec<Place<N>>,
    /// Of the same peers in the same order.
    details: Vec<Detail>,
    /// How many of the first are seeders.
    seeders: u32,
    index: Option<Box<Index>>,
}

/// What most announces look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<const N: usize> {
    /// The address and the port.
    pub(super) endpoint: [u8; N],
    /// The tick of the last announce, without its upper half.
    pub(super) seen: u16,
}

/// What else is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Detail {
    pub(super) id: PeerId,
    /// 0 where it has none.
    pub(super) key: u32,
    /// What it says it has sent and received, in units of [`super::swarm::UNIT`].
    pub(super) uploaded: u32,
    pub(super) downloaded: u32,
}

/// Whom a draw prefers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rather {
    Seeders,
    /// For seeders. Some say that nothing is left before they know what there is (aria2, of a magnet link): they are given
    /// seeders too, where there are too few others.
    Leechers,
}

/// Where peers are in the arrays.
#[derive(Debug, Default)]
struct Index {
    endpoints: HashTable<u32>,
    /// By id and key, of those that have a key. Ids alone would not do: many can have the same, to make the table slow.
    keys: HashTable<u32>,
}

impl<const N: usize> Roster<N> {
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn seeders(&self) -> usize {
        self.seeders as usize
    }

    pub(super) fn is_seeder(&self, at: usize) -> bool {
        at < self.seeders()
    }

    pub(super) fn place(&self, at: usize) -> &Place<N> {
        &self.places[at]
    }

    pub(super) fn detail(&self, at: usize) -> &Detail {
        &self.details[at]
    }

    /// Who is at this endpoint.
    pub(super) fn at_endpoint(&self, endpoint: &[u8; N], keyed: Keyed) -> Option<usize> {
        match &self.index {
            None => self.places.iter().position(|place| place.endpoint == *endpoint),
            Some(index) => {
                let same = |&at: &u32| self.places[at as usize].endpoint == *endpoint;
                index.endpoints.find(keyed.hash(endpoint), same).map(|&at| at as usize)
            }
        }
    }

    /// Who has this id and this key, which is not 0.
    pub(super) fn with_key(&self, id: PeerId, key: u32, keyed: Keyed) -> Option<usize> {
        let same = |detail: &Detail| detail.key == key && detail.id == id;
        match &self.index {
            None => self.details.iter().position(same),
            Some(index) => {
                let found = index.keys.find(keyed.hash(&identity(id, key)), |&at| same(&self.details[at as usize]));
                found.map(|&at| at as usize)
            }
        }
    }

    /// Adds a peer whose endpoint nobody has, nor its id with its key, and says where it is.
    pub(super) fn insert(&mut self, place: Place<N>, detail: Detail, seeder: bool, keyed: Keyed) -> usize {
        let at = self.len();
        grow(&mut self.places);
        grow(&mut self.details);
        self.places.push(place);
        self.details.push(detail);
        match self.index {
            Some(_) => self.list(at, keyed),
            None if self.len() >= INDEXED => {
                self.index = Some(Box::default());
                (0..self.len()).for_each(|at| self.list(at, keyed));
            }
            None => {}
        }
        if seeder { self.turn(at, true, keyed) } else { at }
    }

    /// Replaces what is known of a peer, by what no other has, and says where it is from now on.
    pub(super) fn replace(&mut self, at: usize, place: Place<N>, detail: Detail, seeder: bool, keyed: Keyed) -> usize {
        let known = &self.details[at];
        if self.places[at].endpoint != place.endpoint || known.key != detail.key || known.id != detail.id {
            self.unlist(at, keyed);
            (self.places[at], self.details[at]) = (place, detail);
            self.list(at, keyed);
        } else {
            (self.places[at], self.details[at]) = (place, detail);
        }
        self.turn(at, seeder, keyed)
    }

    pub(super) fn remove(&mut self, at: usize, keyed: Keyed) {
        // The hole is moved to the end of the seeders, then to the end of all.
        let at = self.turn(at, false, keyed);
        self.swap(at, self.len() - 1, keyed);
        self.unlist(self.len() - 1, keyed);
        self.places.pop();
        self.details.pop();
        if self.len() < INDEXED / 2 {
            self.index = None;
        }
        shrink(&mut self.places);
        shrink(&mut self.details);
    }

    /// Removes who announced longer than `expiry` ticks ago, at most `room`, which becomes as many fewer. The longest time
    /// since, of those who stay: longer than `expiry` where there was no room for all.
    pub(super) fn expire(&mut self, now: u16, expiry: u16, room: &mut usize, keyed: Keyed) -> Option<u16> {
        let mut oldest = None;
        // From behind, as removing fills the hole with those behind it, which have been looked at.
        for at in (0..self.len()).rev() {
            let age = now.wrapping_sub(self.places[at].seen);
            if age <= expiry {
                oldest = oldest.max(Some(age));
            } else if *room > 0 {
                self.remove(at, keyed);
                *room -= 1;
            } else {
                return Some(age);
            }
        }
        oldest
    }

    /// How many could be drawn at most, without the one that is `asking`.
    pub(super) fn available(&self, asking: Option<usize>) -> usize {
        self.len() - usize::from(asking.is_some())
    }

    /// Appends endpoints, and ids if there is somewhere to, of `wanted` random peers, or of all that are available.
    pub(super) fn draw(
        &self,
        rather: Rather,
        asking: Option<usize>,
        wanted: usize,
        rng: &mut fastrand::Rng,
        endpoints: &mut Vec<u8>,
        mut ids: Option<&mut Vec<PeerId>>,
    ) {
        let asks_as_seeder = asking.is_some_and(|at| self.is_seeder(at));
        let seeders = self.seeders() - usize::from(asks_as_seeder);
        let leechers = self.available(asking) - seeders;
        let for_leechers = match rather {
            Rather::Leechers => wanted,
            // Leechers that knew none of each other would leave all the work to the seeders.
            Rather::Seeders => wanted / 4,
        };
        let from_seeders = seeders.min(wanted - leechers.min(for_leechers));
        let from_leechers = leechers.min(wanted - from_seeders);
        endpoints.reserve((from_seeders + from_leechers) * N);
        for (range, amount) in [(0..self.seeders(), from_seeders), (self.seeders()..self.len(), from_leechers)] {
            self.slices(range, asking, amount, rng, |range| {
                self.places[range.clone()].iter().for_each(|place| endpoints.extend_from_slice(&place.endpoint));
                if let Some(ids) = &mut ids {
                    ids.extend(self.details[range].iter().map(|detail| detail.id));
                }
            });
        }
    }

    /// The ids of the first and of each that is `step` further.
    pub(super) fn ids(&self, step: usize) -> impl Iterator<Item = PeerId> {
        self.details.iter().step_by(step).map(|detail| detail.id)
    }

    /// Gives `amount` different places of `range`, in slices, and never that of the one that is `asking`.
    fn slices(
        &self,
        range: Range<usize>,
        asking: Option<usize>,
        amount: usize,
        rng: &mut fastrand::Rng,
        mut give: impl FnMut(Range<usize>),
    ) {
        // As if who asks were not there.
        let hole = asking.filter(|at| range.contains(at)).unwrap_or(range.end);
        let len = range.len() - usize::from(hole < range.end);
        let mut give = |start: usize, end: usize| {
            let (start, end) = (range.start + start, range.start + end);
            if start < hole {
                give(start..end.min(hole));
            }
            if end > hole {
                give(start.max(hole) + 1..end + 1);
            }
        };
        if amount >= len {
            return give(0, len);
        }
        let part = |of: usize, number: usize| of * number / SLICES;
        for number in 0..SLICES {
            let (zone, end) = (part(len, number), part(len, number + 1));
            let taken = (part(amount, number + 1) - part(amount, number)).min(end - zone);
            if taken > 0 {
                // What goes beyond the end of the zone is taken from its beginning, so that all are drawn as often.
                let start = rng.usize(zone..end);
                let beyond = (start + taken).saturating_sub(end);
                give(start, start + taken - beyond);
                give(zone, zone + beyond);
            }
        }
    }

    /// Makes a seeder or a leecher of a peer, and says where it is from now on.
    fn turn(&mut self, at: usize, seeder: bool, keyed: Keyed) -> usize {
        let border = self.seeders();
        match (at < border, seeder) {
            (false, true) => {
                self.swap(at, border, keyed);
                self.seeders += 1;
                border
            }
            (true, false) => {
                self.swap(at, border - 1, keyed);
                self.seeders -= 1;
                border - 1
            }
            _ => at,
        }
    }

    fn swap(&mut self, a: usize, b: usize, keyed: Keyed) {
        if a != b {
            // Both could be looked for by the same hash: neither must be taken for the other in between.
            self.relist(a, a, usize::MAX, keyed);
            self.relist(b, b, a, keyed);
            self.relist(a, usize::MAX, b, keyed);
            self.places.swap(a, b);
            self.details.swap(a, b);
        }
    }

    /// Takes note in the index, if there is one, of where a peer is.
    fn list(&mut self, at: usize, keyed: Keyed) {
        let Self { places, details, index: Some(index), .. } = self else { return };
        let endpoint = |&at: &u32| keyed.hash(&places[at as usize].endpoint);
        let identity = |&at: &u32| keyed.hash(&details[at as usize].identity());
        let listed = at as u32;
        index.endpoints.insert_unique(endpoint(&listed), listed, endpoint);
        if details[at].key != 0 {
            index.keys.insert_unique(identity(&listed), listed, identity);
        }
    }

    /// Undoes that.
    fn unlist(&mut self, at: usize, keyed: Keyed) {
        let Self { places, details, index: Some(index), .. } = self else { return };
        let same = |&listed: &u32| listed as usize == at;
        if let Ok(listed) = index.endpoints.find_entry(keyed.hash(&places[at].endpoint), same) {
            listed.remove();
        }
        if details[at].key != 0
            && let Ok(listed) = index.keys.find_entry(keyed.hash(&details[at].identity()), same)
        {
            listed.remove();
        }
    }

    /// Has the peer that is at `at`, and listed as at `from`, listed as at `to`.
    fn relist(&mut self, at: usize, from: usize, to: usize, keyed: Keyed) {
        let Self { places, details, index: Some(index), .. } = self else { return };
        let same = |&listed: &u32| listed == from as u32;
        if let Some(listed) = index.endpoints.find_mut(keyed.hash(&places[at].endpoint), same) {
            *listed = to as u32;
        }
        if details[at].key != 0
            && let Some(listed) = index.keys.find_mut(keyed.hash(&details[at].identity()), same)
        {
            *listed = to as u32;
        }
    }
}

impl Detail {
    fn identity(&self) -> [u8; 24] {
        identity(self.id, self.key)
    }
}

fn identity(id: PeerId, key: u32) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..20].copy_from_slice(id.as_bytes());
    bytes[20..].copy_from_slice(&key.to_ne_bytes());
    bytes
}

/// Makes room for one more: by a quarter, as many small arrays that are doubled would be half empty.
fn grow<T>(array: &mut Vec<T>) {
    if array.len() == array.capacity() {
        array.reserve_exact((array.len() / 4).max(array.len().clamp(1, 4)));
    }
}

fn shrink<T>(array: &mut Vec<T>) {
    if array.capacity() > 8 && array.len() < array.capacity() / 2 {
        array.shrink_to(array.len() + array.len() / 4);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn roster(seeders: usize, leechers: usize, keyed: Keyed) -> Roster<6> {
        let mut roster = Roster::default();
        for number in 0..seeders + leechers {
            let [low, high, ..] = number.to_le_bytes();
            let place = Place { endpoint: [10, 0, high, low, 1, 1], seen: 0 };
            let detail =
                Detail { id: PeerId::new([number as u8; 20]), key: 1 + number as u32, uploaded: 0, downloaded: 0 };
            roster.insert(place, detail, number < seeders, keyed);
        }
        roster
    }

    #[test]
    fn every_draw_has_as_many_as_there_can_be_all_different_and_not_the_one_who_asks() {
        let (keyed, mut rng) = (Keyed::new(1), fastrand::Rng::with_seed(1));
        for (seeders, leechers) in [(0, 1), (1, 0), (3, 20), (20, 3), (30, 30), (100, 1)] {
            let roster = roster(seeders, leechers, keyed);
            for (asking, wanted) in
                (0..roster.len()).flat_map(|at| [0, 1, 2, 3, 5, 9, 30, 70].map(|wanted| (at, wanted)))
            {
                for rather in [Rather::Seeders, Rather::Leechers] {
                    let (mut endpoints, mut ids, mut others) = (Vec::new(), Vec::new(), 0);
                    roster.draw(rather, Some(asking), wanted, &mut rng, &mut endpoints, Some(&mut ids));
                    let drawn: HashSet<_> = endpoints.chunks_exact(6).collect();
                    assert_eq!(drawn.len(), wanted.min(roster.available(Some(asking))));
                    assert_eq!((drawn.len() * 6, drawn.len()), (endpoints.len(), ids.len()));
                    assert!(!drawn.contains(roster.places[asking].endpoint.as_slice()));
                    for (endpoint, id) in endpoints.chunks_exact(6).zip(ids) {
                        let at = roster.at_endpoint(endpoint.try_into().unwrap(), keyed).unwrap();
                        assert_eq!(roster.details[at].id, id);
                        others += usize::from(rather == Rather::Leechers && roster.is_seeder(at));
                    }
                    let left = roster.len() - roster.seeders() - usize::from(!roster.is_seeder(asking));
                    assert_eq!(others, if rather == Rather::Leechers { drawn.len() - left.min(wanted) } else { 0 });
                }
            }
        }
    }

    #[test]
    fn in_many_draws_everybody_is_drawn_about_as_often() {
        let (keyed, mut rng) = (Keyed::new(1), fastrand::Rng::with_seed(1));
        let roster = roster(0, 200, keyed);
        let mut drawn = vec![0; 200];
        for _ in 0..4000 {
            let mut endpoints = Vec::new();
            roster.draw(Rather::Seeders, None, 20, &mut rng, &mut endpoints, None);
            for endpoint in endpoints.chunks_exact(6) {
                drawn[usize::from(endpoint[3])] += 1;
            }
        }
        assert_eq!(drawn.iter().sum::<i32>(), 80_000);
        assert!(drawn.iter().all(|times| (300..500).contains(times)), "400 each would be even: {drawn:?}");
    }

    #[test]
    fn a_leecher_gets_seeders_first_and_still_some_leechers() {
        let (keyed, mut rng) = (Keyed::new(1), fastrand::Rng::with_seed(1));
        let mut endpoints = Vec::new();
        roster(100, 100, keyed).draw(Rather::Seeders, None, 40, &mut rng, &mut endpoints, None);
        assert_eq!(endpoints.chunks_exact(6).filter(|endpoint| endpoint[3] < 100).count(), 30);
    }
}
