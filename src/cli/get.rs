//! `ropewalk get`.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use crossbeam_channel::bounded;
use ropewalk::{AddError, AddOptions, Choose, InfoHash, Magnet, Metainfo, OpenError, Order, Priority, Start, Torrent};

use super::exit::{self, Code, failed};
use super::json::Json;
use super::network::Network;
use super::screen::Screen;
use super::select::{Pattern, numbered, priorities};
use super::signal::Stop;
use super::source::{self, Source};
use super::trace::Trace;
use super::watch::{Job, Late, NO_SOURCE, NO_SOURCE_OF_MAGNET, Patience, Pipe, Watch};
use super::words::{Until, read_time, until};

/// How long a search for metadata may get nowhere: each tracker and the DHT have been asked by then.
const METADATA_PATIENCE: Duration = Duration::from_secs(5 * 60);
/// How much is read at a time for stdout.
const CHUNK: usize = 256 * 1024;

const ABOUT: &str = "\
Download torrents

Every byte is verified before it is written. A download that was stopped, however it was stopped, goes on with the \
same command: what is verified is recorded in the folder .ropewalk beside the files. That folder stays after the end, \
so that the same command says at once that there is nothing to do; it can be removed. Of a magnet link it also holds the \
.torrent file, so that nothing has to be looked for the next time. A disk with too little room is an error at the start; \
one that fills up later is waited for.";

const EXAMPLES: &str = concat!(
    "\
Examples:
  ropewalk get debian.iso.torrent
  ropewalk get https://example.org/album.torrent -o ~/music

  A magnet link, whose metadata comes from peers first:
  ropewalk get 'magnet:?xt=urn:btih:0123456789abcdef0123456789abcdef01234567'

  Some files, by the numbers that `ropewalk show` prints, and by pattern:
  ropewalk get album.torrent --files 1,3-5 --files '*.jpg'

  Seed until 1.5 times the size was sent; for half an hour; until Ctrl-C:
  ropewalk get album.torrent --seed 1.5
  ropewalk get album.torrent --seed 30m
  ropewalk get album.torrent --seed

  Play while it arrives:
  ropewalk get film.torrent -o - | mpv -

  Why is it slow? In words, and as a page that shows every piece and every peer over time:
  ropewalk get debian.iso.torrent --explain
  ropewalk get debian.iso.torrent --trace trace.html

  Have nothing to do with some networks:
  ropewalk get debian.iso.torrent --blocklist level1.gz --blocklist https://example.org/list

  Without a tracker:
  ropewalk get x.torrent --no-tracker --peer 192.0.2.7:6881

  By the VPN or not at all:
  ropewalk get debian.iso.torrent --bind wg0

Events of --json, one object per line, each with the field \"event\", and with
\"info_hash\" and \"name\" where it is about a torrent. A \"path\" is that of a file in
the torrent, as `ropewalk show` prints it, below the folder:
  blocklist     list, ranges, allowed, bad_lines
  listening     port, addresses
  added         size, pieces, files, folder; of a magnet link the folder alone
  metadata      size, pieces, files: the metadata of a magnet link has come
  progress      once a second, and when the state changes:
                state (metadata, opening, checking, downloading, seeding, waiting),
                why it waits (a full disk),
                wanted, done (verified), downloaded, uploaded, wasted (bytes),
                down_rate, up_rate (bytes per second), eta (seconds or null),
                pieces, pieces_total, peers, seeds, known, dht (nodes known, or
                null where the DHT is not used); while metadata is looked for also
                metadata: tried, offering (peers), pieces, total
  file          number, path: every byte of this file is verified
  tracker       message
  dht           message: no node answers; said once
  mapping       port: with --map-port, the gateway is asked
  mapped        external (address), protocol (pcp, nat-pmp, upnp): with --map-port
  not-mapped    error: with --map-port; where a gateway failed, it is tried again
  peer          address: connected
  peer-gone     address, why, reputation (null, or standing: good, unknown, poor,
                cheat; useful (bytes), lies, faults, stalls, which fade; last_seen)
  banned        address: it sent wrong data
  piece-failed  piece: it is fetched again
  finished      folder, downloaded: everything wanted is verified
  seeding       from now on
  summary       result (done, stopped, no-peers, disk, ...), code, error, folder,
                wanted, done, downloaded, uploaded, wasted, seconds, refused
                (addresses of peers not called by why, blocked_callers), missed
                (known addresses where nobody was met, by why: silent, refused,
                unreachable, hung_up, unencrypted, other); with
                --explain also explanation: seconds by activity, of the torrent,
                its connections, sending threads, verify workers and each peer
  error         message, result, code: nothing was begun

Exit codes:
",
    exit::meanings!()
);

/// Download torrents
#[derive(clap::Args)]
#[command(long_about = ABOUT, after_help = EXAMPLES)]
pub struct Args {
    /// .torrent files, http(s) URLs of them, `-` for stdin, magnet links, or info-hashes
    #[arg(required = true)]
    source: Vec<OsString>,
    /// The folder to download into; `-` writes the bytes in order to stdout and leaves no files
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    /// Only these files: numbers (3, 2-5) or patterns ('*.flac'), separated by commas or repeated
    #[arg(long, value_name = "FILES", value_delimiter = ',', value_parser = Pattern::read)]
    files: Vec<Pattern>,
    /// Seed afterwards: until a ratio (1.5), for a time (30m), or, without a value, until Ctrl-C
    #[arg(
        long, value_name = "RATIO|TIME|forever", value_parser = until,
        num_args = 0..=1, require_equals = true, default_missing_value = "forever"
    )]
    seed: Option<Until>,
    /// Fetch from the first byte to the last instead of what is rarest first
    #[arg(long)]
    sequential: bool,
    /// Give up when there has been no peer, or nothing new of a magnet link's metadata, for so long (30s, 10m); 0 is never
    /// [default: 5m for metadata, never for peers]
    #[arg(long, value_name = "TIME", value_parser = read_time)]
    timeout: Option<Duration>,
    /// Say where the time goes, and in the end what it went to, what that means and what could be done
    #[arg(long)]
    explain: bool,
    /// Write what happened to FILE in the end: a page (HTML) with all pieces and peers over time
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Tell what happens as one JSON object per line on stdout
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    network: Network,
}

pub fn run(args: &Args, screen: &Screen, stop: &Stop) -> anyhow::Result<Code> {
    let to_stdout = args.output.as_os_str() == "-";
    if to_stdout && (args.source.len() > 1 || args.json || args.seed.is_some()) {
        let text = "-o - writes the bytes of one torrent to stdout and nothing else; \
                    it goes with a single SOURCE, without --json and --seed";
        return Err(failed(Code::Usage, text));
    }
    if to_stdout && io::stdout().is_terminal() {
        return Err(failed(
            Code::Usage,
            "-o - would write the bytes to the terminal; pipe them into a program or a file",
        ));
    }
    if args.trace.is_some() && args.source.len() > 1 {
        return Err(failed(Code::Usage, "--trace shows one torrent; give a single SOURCE"));
    }
    let trace = args.trace.as_deref().map(|path| Trace::new(path, args.network.limit_down)).transpose()?;
    let json = Json::new(args.json);
    let peers = args.network.peers()?;
    let mut sources = Vec::new();
    for source in &args.source {
        let wanted = Wanted::load(args, source, stop)?;
        if let Some(at) = sources.iter().position(|other: &Wanted| other.info_hash() == wanted.info_hash()) {
            let (first, second) = (args.source[at].to_string_lossy(), source.to_string_lossy());
            return Err(failed(
                Code::Usage,
                format!("{first} and {second} are the same torrent; give each torrent once"),
            ));
        }
        sources.push(wanted);
    }
    // Where nothing is there and nothing can come, nothing is made either.
    let hopeless = |wanted: &&Wanted| {
        !wanted.has_source(&args.network, &peers) && (to_stdout || !wanted.is_there(&args.output, &args.network))
    };
    if let Some(wanted) = sources.iter().find(hopeless) {
        return Err(failed(Code::NoPeers, format!("{}: {}", wanted.name(), wanted.no_source())));
    }
    let temporary = if to_stdout { Some(temporary(stop)?) } else { None };
    let dir = temporary.as_ref().map_or(args.output.as_path(), |folder| folder.path());

    let session = args.network.session(screen, &json, stop)?;
    if args.seed.is_some() && !args.json {
        screen.note(&format!("listening on port {}", session.port()));
    }
    let mut jobs = Vec::new();
    for wanted in sources {
        let has_source = wanted.has_source(&args.network, &peers);
        let options = AddOptions {
            start: Start::Paused,
            order: if args.sequential || to_stdout { Order::Sequential } else { Order::RarestFirst },
            peers: peers.clone(),
            announce: !args.network.no_tracker,
            ..AddOptions::new(dir)
        };
        let mut given = Vec::new();
        let (torrent, late) = match wanted {
            Wanted::Torrent(metainfo, priorities) => {
                given.clone_from(&priorities);
                (session.add(metainfo, AddOptions { priorities, ..options })?, None)
            }
            Wanted::Magnet(magnet, _) => {
                let late = Late { files: args.files.clone(), to_stdout };
                let files = args.files.clone();
                // A pattern that takes no file is told of when the files are known; nothing is made until then.
                let choose = Choose::new(move |metainfo| {
                    priorities(&files, metainfo)
                        .unwrap_or_else(|_| vec![Priority::Skip; metainfo.layout().files().len()])
                });
                let choose = (!args.files.is_empty()).then_some(choose);
                (session.add_magnet(*magnet, AddOptions { choose, ..options })?, Some(late))
            }
        };
        let pipe = if to_stdout && late.is_none() { Some(pipe(&torrent, &given)?) } else { None };
        jobs.push(Job { torrent, seed: args.seed, seed_only: false, has_source, pipe, late, stamps: None });
    }
    let recording = trace.zip(jobs.first()).map(|(trace, job)| trace.start(&job.torrent)).transpose()?;
    let code = Watch {
        screen,
        json: &json,
        stop,
        #[cfg(feature = "upnp")]
        session: &session,
        patience: patience(args.timeout),
        explain: args.explain,
    }
    .follow(jobs);
    let code = match recording {
        Some(recording) => recording.finish(code, screen),
        None => code,
    };
    session.shutdown();
    code
}

/// What `--timeout` means, given or not.
fn patience(timeout: Option<Duration>) -> Patience {
    let unless_zero = |timeout: Duration| (!timeout.is_zero()).then_some(timeout);
    Patience { peers: timeout.and_then(unless_zero), metadata: unless_zero(timeout.unwrap_or(METADATA_PATIENCE)) }
}

/// A folder for `-o -`, which goes with the process.
fn temporary(stop: &Stop) -> anyhow::Result<tempfile::TempDir> {
    let parent = std::env::temp_dir();
    let folder = tempfile::Builder::new().prefix("ropewalk-").tempdir_in(&parent);
    let folder =
        folder.with_context(|| format!("no temporary folder in {}; set TMPDIR to another", parent.display()))?;
    stop.removes(folder.path());
    Ok(folder)
}

/// Something to download, before it is added.
enum Wanted {
    Torrent(Metainfo, Vec<Priority>),
    Magnet(Box<Magnet>, InfoHash),
}

impl Wanted {
    fn load(args: &Args, source: &OsStr, stop: &Stop) -> anyhow::Result<Self> {
        Ok(match source::load(source, args.network.bind.as_ref(), stop)? {
            Source::Torrent(metainfo) => {
                let priorities = priorities(&args.files, &metainfo)?;
                Self::Torrent(metainfo, priorities)
            }
            Source::Magnet(magnet) => {
                let info_hash = magnet.info_hash.ok_or_else(|| failed(Code::BadInput, AddError::V2Only.to_string()))?;
                Self::Magnet(magnet, info_hash)
            }
        })
    }

    fn info_hash(&self) -> InfoHash {
        match self {
            Self::Torrent(metainfo, _) => metainfo.info_hash(),
            Self::Magnet(_, info_hash) => *info_hash,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Torrent(metainfo, _) => metainfo.name().to_owned(),
            Self::Magnet(magnet, info_hash) => magnet.name.clone().unwrap_or_else(|| info_hash.to_string()),
        }
    }

    /// Whether there is anything that could lead to a peer.
    fn has_source(&self, network: &Network, peers: &[SocketAddr]) -> bool {
        match self {
            Self::Torrent(metainfo, _) => network.has_source(metainfo, peers),
            Self::Magnet(magnet, _) => network.magnet_has_source(magnet, peers),
        }
    }

    fn no_source(&self) -> &'static str {
        match self {
            Self::Torrent(..) => NO_SOURCE,
            Self::Magnet(..) => NO_SOURCE_OF_MAGNET,
        }
    }

    /// Whether something of it is there: the content or, of a magnet link, what an earlier run found out.
    fn is_there(&self, dir: &Path, network: &Network) -> bool {
        match self {
            Self::Torrent(metainfo, _) => dir.join(metainfo.name()).exists(),
            Self::Magnet(_, info_hash) => {
                let folder = network.state_dir.clone().unwrap_or_else(|| dir.join(".ropewalk"));
                folder.join(format!("{info_hash}.torrent")).exists()
            }
        }
    }
}

/// Writes the wanted files to stdout, in order, as their bytes arrive.
pub fn pipe(torrent: &Torrent, priorities: &[Priority]) -> anyhow::Result<Pipe> {
    let metainfo = torrent.metainfo().ok_or(OpenError::NoMetadata)?;
    let layout = metainfo.layout();
    let wanted = |file: u32| priorities.get(file as usize).is_none_or(|&priority| priority != Priority::Skip);
    let mut readers = Vec::new();
    for (_, file) in numbered(layout).filter(|(_, file)| wanted(file.get())) {
        readers.push(torrent.open(file)?);
    }
    let cancels = readers.iter().map(|reader| reader.canceller()).collect();
    // Not Rust's stdout, which looks for line ends.
    let mut out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let (sender, result) = bounded(1);
    // Not joined: a write to a pipe that nobody reads could last for ever.
    std::thread::Builder::new().name("stdout".into()).spawn(move || {
        let mut chunk = vec![0; CHUNK];
        let copy = || {
            for mut reader in readers {
                loop {
                    let amount = match reader.read(&mut chunk)? {
                        0 => break,
                        amount => amount,
                    };
                    out.write_all(&chunk[..amount])?;
                }
            }
            Ok(())
        };
        sender.send(copy())
    })?;
    Ok(Pipe { result, cancels })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{METADATA_PATIENCE, patience};

    #[test]
    fn metadata_is_given_up_unless_somebody_says_otherwise_and_peers_are_waited_for() {
        let of = |timeout: Option<u64>| {
            let patience = patience(timeout.map(Duration::from_secs));
            (patience.peers, patience.metadata)
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(of(None), (None, Some(METADATA_PATIENCE)));
        assert_eq!(of(Some(7)), (seconds(7), seconds(7)));
        assert_eq!(of(Some(0)), (None, None));
    }
}
