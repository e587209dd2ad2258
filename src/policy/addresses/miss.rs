//! Why nobody was met at an address, for whoever wants to know why there is no peer.
//!
//! It decides nothing: whatever the reason, an address waits for its turn again.

/// Why a call came to nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Miss {
    /// There was no answer in time.
    Silent,
    /// Nobody listens there.
    Refused,
    /// No way leads there.
    Unreachable,
    /// It answered and hung up on our handshake.
    HungUp,
    /// It does not encrypt, or hung up on an encrypted handshake, and no other is allowed.
    Unencrypted,
    /// Anything else: it has not the torrent, or is no BitTorrent peer.
    Other,
}

/// How many addresses of a book were called in vain when they were called last, by why.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Misses {
    /// There was no answer in time.
    pub silent: usize,
    /// Nobody listens there.
    pub refused: usize,
    /// No way leads there.
    pub unreachable: usize,
    /// They answered and hung up on our handshake.
    pub hung_up: usize,
    /// They do not encrypt, or hung up on an encrypted handshake, and no other is allowed.
    pub unencrypted: usize,
    /// Anything else.
    pub other: usize,
}

impl Misses {
    /// All of them.
    pub fn total(&self) -> usize {
        self.silent + self.refused + self.unreachable + self.hung_up + self.unencrypted + self.other
    }

    /// What was known of an address is so no more; what is known now counts instead.
    pub(super) fn replace(&mut self, old: Option<Miss>, new: Option<Miss>) {
        old.into_iter().for_each(|miss| *self.of(miss) -= 1);
        new.into_iter().for_each(|miss| *self.of(miss) += 1);
    }

    fn of(&mut self, miss: Miss) -> &mut usize {
        match miss {
            Miss::Silent => &mut self.silent,
            Miss::Refused => &mut self.refused,
            Miss::Unreachable => &mut self.unreachable,
            Miss::HungUp => &mut self.hung_up,
            Miss::Unencrypted => &mut self.unencrypted,
            Miss::Other => &mut self.other,
        }
    }
}
