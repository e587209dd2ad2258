//! What the command line says. Reads no file.

use std::path::PathBuf;

use clap::Parser;

/// The senders of the small swarm, which the large one is compared with.
pub(crate) const FEW: usize = 8;

#[derive(Parser, Clone)]
#[command(about = "What ropewalk costs with many peers")]
pub(crate) struct Args {
    /// The sizes that are worth publishing: 1 GiB, 500 peers of which 50 send, 1,000 callers, 3 rounds.
    #[arg(long)]
    pub(crate) full: bool,
    /// The payload in MiB.
    #[arg(long)]
    pub(crate) size: Option<u64>,
    /// The piece length in KiB.
    #[arg(long, default_value_t = 256)]
    pub(crate) piece: u32,
    /// Peers that send, in the large swarm.
    #[arg(long)]
    pub(crate) senders: Option<usize>,
    /// Peers that do not.
    #[arg(long)]
    pub(crate) others: Option<usize>,
    /// Peers that call, of which all but a tenth find room.
    #[arg(long)]
    pub(crate) callers: Option<usize>,
    /// Segments that are measured.
    #[arg(long)]
    pub(crate) messages: Option<usize>,
    /// Seconds to watch while nothing moves.
    #[arg(long)]
    pub(crate) idle: Option<f64>,
    /// How often the two downloads are done, in turns.
    #[arg(long)]
    pub(crate) rounds: Option<usize>,
    /// The folder for the download; by default in memory where there is /dev/shm.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Where to write every run and the medians.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// What cargo and criterion's benches are given; of no meaning here.
    #[arg(long, hide = true)]
    bench: bool,
    #[arg(long, hide = true)]
    test: bool,
}

impl Args {
    pub(crate) fn size(&self) -> u64 {
        self.size.unwrap_or(if self.full { 1024 } else { 64 })
    }
    pub(crate) fn senders(&self) -> usize {
        self.senders.unwrap_or(if self.full { 50 } else { 10 })
    }
    pub(crate) fn others(&self) -> usize {
        self.others.unwrap_or(if self.full { 450 } else { 90 })
    }
    pub(crate) fn callers(&self) -> usize {
        self.callers.unwrap_or(if self.full { 1100 } else { 110 })
    }
    pub(crate) fn messages(&self) -> usize {
        self.messages.unwrap_or(if self.full { 1000 } else { 100 })
    }
    pub(crate) fn idle(&self) -> f64 {
        self.idle.unwrap_or(if self.full { 5.0 } else { 0.5 })
    }
    pub(crate) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.full { 3 } else { 1 })
    }
}
