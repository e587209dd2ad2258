//! What is to be followed: a torrent, and what is wanted of it.

use std::io;
use std::time::Duration;

use crossbeam_channel::Receiver;
use ropewalk::{CancelRead, Torrent};

use super::Stamps;
use crate::cli::select::Pattern;
use crate::cli::words::Until;

/// One torrent to follow. It was added paused.
pub struct Job {
    pub torrent: Torrent,
    /// How long to seed once everything is there; `None` for not at all.
    pub seed: Option<Until>,
    /// Everything has to be there already.
    pub seed_only: bool,
    /// Whether there is anything that could lead to a peer.
    pub has_source: bool,
    /// Where the bytes go in order, for `-o -`.
    pub pipe: Option<Pipe>,
    /// Of a magnet link: what is to be done when its files are known.
    pub late: Option<Late>,
    /// Of what was hashed to be seeded: what its files looked like.
    pub stamps: Option<Stamps>,
}

impl Job {
    /// To seed what is there already.
    pub fn of_seeder(torrent: Torrent, until: Until, stamps: Option<Stamps>) -> Self {
        Self { torrent, seed: Some(until), seed_only: true, has_source: true, pipe: None, late: None, stamps }
    }
}

/// What cannot be done before the metadata of a magnet link is there.
pub struct Late {
    /// The files that are wanted.
    pub files: Vec<Pattern>,
    /// Their bytes go to stdout.
    pub to_stdout: bool,
}

/// A thread that writes the files to stdout.
pub struct Pipe {
    pub result: Receiver<io::Result<()>>,
    pub cancels: Vec<CancelRead>,
}

/// How long to wait for others; `None` for as long as it takes.
#[derive(Default)]
pub struct Patience {
    /// How long a download may be without any peer.
    pub peers: Option<Duration>,
    /// How long a search for metadata may get nowhere.
    pub metadata: Option<Duration>,
}
