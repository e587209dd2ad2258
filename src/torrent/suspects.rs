//! Who spoiled a piece: found by comparing what failed with what passed.
//!
//! It owns the digests of the blocks of failed pieces, with their senders, until the piece passes. It knows nothing of
//! threads or sockets.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use crate::hash::Sha1Hash;

/// Pieces whose failed blocks are remembered. Of those beyond, a sole sender is still named, one of several is not.
const PIECES: usize = 256;
/// Failed attempts that are remembered of one piece.
const ATTEMPTS: usize = 8;

/// The failed attempts of pieces that have not passed yet.
#[derive(Default)]
pub(crate) struct Suspects {
    pieces: HashMap<u32, Vec<Vec<(SocketAddr, Sha1Hash)>>>,
}

impl Suspects {
    /// Whether a piece failed before and has not passed since.
    pub(crate) fn has(&self, piece: u32) -> bool {
        self.pieces.contains_key(&piece)
    }

    /// How often a piece failed since it was last right; only so many failures are counted.
    pub(crate) fn failures(&self, piece: u32) -> u32 {
        self.pieces.get(&piece).map_or(0, |attempts| attempts.len() as u32)
    }

    /// A piece failed: who sent which block, in order. Names the liar where only one peer sent it.
    pub(crate) fn failed(&mut self, piece: u32, blocks: Vec<(SocketAddr, Sha1Hash)>) -> Option<SocketAddr> {
        let senders: HashSet<SocketAddr> = blocks.iter().map(|(sender, _)| *sender).collect();
        if self.pieces.len() < PIECES || self.pieces.contains_key(&piece) {
            let attempts = self.pieces.entry(piece).or_default();
            if attempts.len() < ATTEMPTS {
                attempts.push(blocks);
            }
        }
        match senders.len() {
            1 => senders.into_iter().next(),
            _ => None,
        }
    }

    /// A piece passed with these blocks: names everybody whose blocks were different when it failed.
    pub(crate) fn passed(&mut self, piece: u32, blocks: &[Sha1Hash]) -> HashSet<SocketAddr> {
        let attempts = self.pieces.remove(&piece).unwrap_or_default();
        let lies = attempts.iter().flat_map(|attempt| {
            let pairs = attempt.iter().zip(blocks);
            pairs.filter(|((_, sent), right)| sent != *right).map(|((sender, _), _)| *sender)
        });
        lies.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Suspects;

    #[test]
    fn a_sole_sender_is_named_at_once_and_one_of_several_when_the_piece_passes() {
        let honest = "10.0.0.1:1".parse().unwrap();
        let liar = "10.0.0.2:2".parse().unwrap();
        let mut suspects = Suspects::default();
        assert_eq!(suspects.failed(7, vec![(liar, [1; 20]), (liar, [2; 20])]), Some(liar));
        assert_eq!(suspects.failed(8, vec![(honest, [1; 20]), (liar, [9; 20])]), None);
        assert!(suspects.has(8));
        assert_eq!((suspects.failures(8), suspects.failures(9)), (1, 0));
        let named = suspects.passed(8, &[[1; 20], [2; 20]]);
        assert_eq!(named.into_iter().collect::<Vec<_>>(), [liar]);
        assert!(!suspects.has(8));
        assert!(suspects.passed(8, &[[1; 20]]).is_empty());
    }
}
