//! What the command line says. Reads no file.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use clap::Parser;

#[derive(Parser, Clone)]
#[command(about = "The tracker under load")]
pub(crate) struct Args {
    /// The sizes that are worth publishing: 1,000,000 peers, 10,000 idle connections, 10 s for each measurement.
    #[arg(long)]
    full: bool,
    /// Seconds that each measurement takes.
    #[arg(long)]
    seconds: Option<f64>,
    /// Peers in all, over UDP.
    #[arg(long)]
    peers: Option<u32>,
    /// Torrents, over UDP; by default a tenth as many.
    #[arg(long)]
    torrents: Option<u32>,
    /// Peers that each announce over UDP asks for.
    #[arg(long, default_value_t = 30)]
    pub(crate) wanted: u32,
    /// Sockets of the clients over UDP, all of one thread.
    #[arg(long, default_value = "4")]
    pub(crate) sockets: NonZeroUsize,
    /// Announces over UDP that are under way at a time.
    #[arg(long, default_value_t = 128)]
    pub(crate) window: usize,
    /// Announces over UDP a second to measure answers' times at; by default half of what was reached.
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// HTTP connections.
    #[arg(long, default_value_t = 64)]
    pub(crate) connections: usize,
    /// Threads of the clients that connect anew for each announce over HTTP: one of them has more to do than the tracker.
    #[arg(long, default_value = "2")]
    pub(crate) threads: NonZeroUsize,
    /// Threads of the tracker for each kind of server; by default as many as there are cores.
    #[arg(long)]
    pub(crate) workers: Option<NonZeroUsize>,
    /// Puts load on another tracker, at this address, over HTTP.
    #[arg(long)]
    pub(crate) against: Option<SocketAddr>,
    /// The same over UDP.
    #[arg(long)]
    pub(crate) against_udp: Option<SocketAddr>,
    /// The process of that.
    #[arg(long, requires = "against_udp")]
    pub(crate) pid: Option<u32>,
    /// Prints info-hashes of the torrents that are announced over HTTP, for a tracker's list.
    #[arg(long)]
    pub(crate) info_hashes: bool,
    /// Is the tracker, until standard input ends.
    #[arg(long, hide = true)]
    pub(crate) serve: bool,
    /// What cargo and criterion's benches are given; of no meaning here.
    #[arg(long, hide = true)]
    bench: bool,
    #[arg(long, hide = true)]
    test: bool,
}

impl Args {
    pub(crate) fn peers(&self) -> u32 {
        self.peers.unwrap_or(if self.full { 1_000_000 } else { 20_000 }).max(1)
    }

    pub(crate) fn torrents(&self) -> u32 {
        self.torrents.unwrap_or(self.peers() / 10).max(1)
    }

    pub(crate) fn idle(&self) -> usize {
        if self.full { 10_000 } else { 500 }
    }

    pub(crate) fn seconds(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.unwrap_or(if self.full { 10.0 } else { 0.5 }))
    }
}
