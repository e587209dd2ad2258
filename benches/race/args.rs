//! What the command line says, and what follows from it. Reads no file but to choose a folder.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::ensure;
use clap::{Parser, Subcommand, ValueEnum};

/// The addresses of the namespace reach no further.
pub(crate) const MOST_SEEDERS: u32 = 200;

#[derive(Parser)]
#[command(
    about = "Race BitTorrent clients against each other on this machine",
    after_help = "Examples:\n  \
        cargo bench --bench race -- --size 1024 --seeders 8 --rounds 5\n  \
        cargo bench --bench race -- --size 256 --seeders 1 --delay 50 --rate 40 --rounds 5 --svg link.svg\n  \
        cargo bench --bench race -- --size 1024 --seeders 8 --output disk --markdown --only ropewalk,aria2\n\n\
        Needs Linux. Races ropewalk and whichever of aria2c, rqbit, transmission-cli and python3 with libtorrent are on \
        PATH."
)]
pub(crate) struct Args {
    /// The payload
    #[arg(long, value_name = "MIB", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub(crate) size: u64,
    /// The piece length
    #[arg(long, value_name = "KIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=65536))]
    pub(crate) piece: u32,
    /// How many seeders there are
    #[arg(long, value_name = "N", default_value_t = 2,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_SEEDERS)))]
    pub(crate) seeders: u32,
    /// Who seeds
    #[arg(long, value_enum, default_value_t = Seeder::Auto)]
    pub(crate) seeder: Seeder,
    /// Put each seeder behind a link that delays both directions by so much, one way
    #[arg(long, value_name = "MS", default_value_t = 0.0)]
    pub(crate) delay: f64,
    /// Put each seeder behind a link that carries at most so much each way, in MB/s (10^6 bytes); 0 is no limit
    #[arg(long, value_name = "MB/S", default_value_t = 0.0)]
    pub(crate) rate: f64,
    /// Where the clients download to: tmpfs (/dev/shm), disk (cargo's target folder), or a folder [default: tmpfs,
    /// where there is one]
    #[arg(long, value_name = "KIND|FOLDER")]
    pub(crate) output: Option<Output>,
    /// Where the seeders' payload lies [default: /dev/shm, where there is one]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) payload: Option<PathBuf>,
    /// How often each client runs; the order moves on by one each round
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Only the clients whose names contain one of these, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Another client: a command that downloads the torrent {t} into the folder {o} and exits; can be repeated
    #[arg(long, value_name = "NAME=COMMAND")]
    pub(crate) also: Vec<String>,
    /// The most that one run may take [default: by size and link]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    /// Print the table as Markdown
    #[arg(long)]
    pub(crate) markdown: bool,
    /// Write every run, and the medians, to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Draw a chart of the medians into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// What cargo and criterion's benches are given; of no meaning here.
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
    #[arg(long, hide = true)]
    pub(crate) quick: bool,
    #[command(subcommand)]
    pub(crate) part: Option<Part>,
}

impl Args {
    /// Refuses numbers that mean nothing.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        ensure!((0.0..=10_000.0).contains(&self.delay), "--delay takes 0 to 10000 ms, not {}", self.delay);
        ensure!(
            self.rate == 0.0 || (0.01..=100_000.0).contains(&self.rate),
            "--rate takes 0.01 to 100000 MB/s, or 0 for no limit, not {}",
            self.rate
        );
        Ok(())
    }

    /// Whether the seeders stand behind links.
    pub(crate) fn linked(&self) -> bool {
        self.delay > 0.0 || self.rate > 0.0
    }

    /// The payload in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.size << 20
    }

    /// What the links alone need for the payload, in seconds: one request out and all seeders' links full from its answer
    /// on. Zero without links.
    pub(crate) fn ideal(&self) -> f64 {
        let carry =
            if self.rate > 0.0 { self.bytes() as f64 / (self.rate * 1e6 * f64::from(self.seeders)) } else { 0.0 };
        2.0 * self.delay / 1000.0 + carry
    }

    /// The most that one run may take. Slow clients need a dozen times what the link does; nobody is cut off who works.
    pub(crate) fn limit(&self) -> Duration {
        let seconds = || 30.0 + self.size as f64 / 16.0 + 20.0 * self.ideal();
        self.timeout.map_or_else(|| Duration::from_secs_f64(seconds()), Duration::from_secs)
    }

    /// The folder that the clients' folders are made in.
    pub(crate) fn output_folder(&self) -> anyhow::Result<PathBuf> {
        match &self.output {
            None => Ok(memory().unwrap_or_else(std::env::temp_dir)),
            Some(Output::Tmpfs) => {
                memory().ok_or_else(|| anyhow::anyhow!("no /dev/shm here: name a folder by --output"))
            }
            Some(Output::Disk) => Ok(env!("CARGO_TARGET_TMPDIR").into()),
            Some(Output::Folder(folder)) => Ok(folder.clone()),
        }
    }

    /// The folder that the payload's folder is made in.
    pub(crate) fn payload_folder(&self) -> PathBuf {
        self.payload.clone().or_else(memory).unwrap_or_else(std::env::temp_dir)
    }

    /// What is raced for, in words.
    pub(crate) fn what(&self, seeder: &str, file_system: &str) -> String {
        let Self { size, seeders, .. } = self;
        let plural = if *seeders == 1 { "" } else { "s" };
        format!("{size} MiB from {seeders} {seeder} seeder{plural}, into {file_system}")
    }

    /// Under what conditions, in words.
    pub(crate) fn how(&self) -> String {
        let Self { piece, delay, rate, rounds, .. } = self;
        let mut text = format!("pieces of {piece} KiB");
        if self.linked() {
            let rate = if *rate > 0.0 { format!(" and {rate} MB/s") } else { String::new() };
            text += &format!("; each seeder behind a link of {} ms round trip{rate}", delay * 2.0);
        }
        text + &match rounds {
            1 => "; one run each".to_owned(),
            _ => format!("; medians of {rounds} rounds, with the lowest and highest"),
        }
    }
}

/// Who seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Seeder {
    /// libtorrent where python3 has it, else ropewalk
    Auto,
    /// Sessions in this process
    Ropewalk,
    /// Processes of python3 with libtorrent
    Libtorrent,
}

/// Where the clients download to.
#[derive(Clone, Debug)]
pub(crate) enum Output {
    Tmpfs,
    Disk,
    Folder(PathBuf),
}

impl FromStr for Output {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "tmpfs" => Self::Tmpfs,
            "disk" => Self::Disk,
            folder => Self::Folder(folder.into()),
        })
    }
}

/// What the bench starts itself as.
#[derive(Subcommand)]
pub(crate) enum Part {
    /// The links, in a process of their own: see `link`.
    #[command(hide = true)]
    Link(crate::link::Links),
}

fn memory() -> Option<PathBuf> {
    let memory = Path::new("/dev/shm");
    memory.is_dir().then(|| memory.into())
}
