//! Super-seeding (BEP 16): the only seed of a new torrent shows each peer one piece at a time.
//!
//! It owns what was shown to whom. A peer is shown its next piece when somebody else has the one before: then it has
//! passed it on, and our upload was worth a copy. It knows nothing of threads or sockets.

use std::collections::HashMap;

use crate::bits::Bits;

/// Which piece each peer has been shown last, and which pieces were shown at all.
#[derive(Debug)]
pub struct SuperSeeder {
    pieces: u32,
    /// By peer: what was shown last, and everything shown or had.
    peers: HashMap<u32, Shown>,
    /// How often each piece was shown.
    shown: Vec<u32>,
}

#[derive(Debug)]
struct Shown {
    last: Option<u32>,
    known: Bits,
}

impl SuperSeeder {
    /// For a torrent of `pieces` pieces.
    pub fn new(pieces: u32) -> Self {
        Self { pieces, peers: HashMap::new(), shown: vec![0; pieces as usize] }
    }

    /// A peer connected: the piece to show to it.
    pub fn joined(&mut self, peer: u32) -> Option<u32> {
        self.peers.entry(peer).or_insert_with(|| Shown { last: None, known: Bits::new(self.pieces) });
        self.show(peer, |_| 0)
    }

    /// A peer is gone. What it was shown and did not pass on will be shown again.
    pub fn left(&mut self, peer: u32) {
        if let Some(shown) = self.peers.remove(&peer)
            && let Some(last) = shown.last
        {
            self.shown[last as usize] = self.shown[last as usize].saturating_sub(1);
        }
    }

    /// A peer says what it has, all at once: the piece to show to it instead, where it has what it was shown last.
    pub fn knows(&mut self, peer: u32, has: &Bits, availability: impl Fn(u32) -> u32) -> Option<u32> {
        let shown = self.peers.get_mut(&peer)?;
        has.iter().for_each(|piece| {
            shown.known.set(piece);
        });
        let last = shown.last.filter(|&last| has.get(last))?;
        self.shown[last as usize] = self.shown[last as usize].saturating_sub(1);
        self.show(peer, availability)
    }

    /// A peer has a piece: those who were shown it last, and are not that peer, get the next. `availability` says how
    /// many connected peers have a piece. A peer that is alone would wait for ever, so it gets the next at once.
    pub fn has(&mut self, from: u32, piece: u32, availability: impl Fn(u32) -> u32) -> Vec<(u32, u32)> {
        if let Some(shown) = self.peers.get_mut(&from) {
            shown.known.set(piece);
        }
        let alone = self.peers.len() == 1;
        // Where others had it before, it has been passed on already, and nobody will say so again.
        let spread = alone || availability(piece) > 1;
        let earned = self.peers.iter().filter(|(peer, shown)| shown.last == Some(piece) && (**peer != from || spread));
        let earned: Vec<u32> = earned.map(|(&peer, _)| peer).collect();
        earned.into_iter().filter_map(|peer| Some((peer, self.show(peer, &availability)?))).collect()
    }

    /// The piece that has been shown the least and is the rarest, among those that the peer does not know.
    fn show(&mut self, peer: u32, availability: impl Fn(u32) -> u32) -> Option<u32> {
        let known = &self.peers.get(&peer)?.known;
        let unknown = (0..self.pieces).filter(|&piece| !known.get(piece));
        let piece = unknown.min_by_key(|&piece| (self.shown[piece as usize], availability(piece)))?;
        self.shown[piece as usize] += 1;
        let shown = self.peers.get_mut(&peer)?;
        shown.last = Some(piece);
        shown.known.set(piece);
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::SuperSeeder;
    use crate::bits::Bits;

    #[test]
    fn a_peer_gets_its_next_piece_when_another_one_has_the_last() {
        let mut seeder = SuperSeeder::new(4);
        assert_eq!(seeder.joined(1), Some(0));
        assert_eq!(seeder.joined(2), Some(1));
        assert!(seeder.has(1, 0, |_| 1).is_empty(), "its own arrival earns nothing");
        assert_eq!(seeder.has(2, 0, |_| 1), [(1, 2)]);
        seeder.left(2);
        assert_eq!(seeder.joined(3), Some(1), "what the lost peer did not pass on is shown again");
    }

    #[test]
    fn a_peer_is_not_shown_what_it_has_and_does_not_wait_for_what_others_have() {
        let mut seeder = SuperSeeder::new(4);
        assert_eq!(seeder.joined(1), Some(0));
        let mut has = Bits::new(4);
        assert_eq!(seeder.knows(1, &has, |_| 0), None, "it lacks what it was shown");
        has.set(0);
        has.set(1);
        assert_eq!(seeder.knows(1, &has, |_| 0), Some(2));
        assert_eq!(seeder.joined(2), Some(0));
        assert_eq!(seeder.has(2, 0, |_| 2), [(2, 1)], "the other one had it before");
    }

    #[test]
    fn a_peer_that_is_alone_gets_everything_one_by_one() {
        let mut seeder = SuperSeeder::new(3);
        let mut next = seeder.joined(1);
        let mut seen = Vec::new();
        while let Some(piece) = next {
            seen.push(piece);
            next = seeder.has(1, piece, |_| 0).first().map(|&(_, piece)| piece);
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2]);
    }
}
