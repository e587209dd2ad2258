//! `ropewalk seed`.

use std::fs;
use std::path::{Path, PathBuf};

use ropewalk::{AddOptions, Check, Metainfo, Seeding, Start};

use super::exit::{Code, failed, io_text};
use super::json::Json;
use super::network::Network;
use super::screen::Screen;
use super::select::numbered;
use super::signal::Stop;
use super::source;
use super::watch::{Job, Patience, Watch};
use super::words::{Until, shown, until};

/// Missing files that are named.
const NAMED: usize = 10;

const ABOUT: &str = "\
Seed files that are there

The files are hashed first, with every core, unless `ropewalk get` downloaded them into this folder and they have not \
changed since: then its journal is trusted. Without such a journal nothing is ever written, so that data on a \
read-only disk can be seeded.";

const EXAMPLES: &str = "\
Examples:
  ropewalk seed album.torrent --data ~/music     (~/music/album is its folder)
  ropewalk seed album.torrent --until 2
  ropewalk seed album.torrent --until 8h --limit-up 2MB
  ropewalk seed new.torrent --super

Events of --json: as for `ropewalk get`. \"listening\" has the port, \"seeding\" says
that everything is verified and peers are served.

Exit codes:
  0  done, or ended by Ctrl-C while seeding
  1  another error
  2  wrong usage
  3  stopped while the files were checked
  5  disk: no permission, in use by another ropewalk, another error of reading
  6  bad input: not a torrent, or one that cannot be fetched or used
  7  the files are not what the torrent says";

/// Seed files that are there
#[derive(clap::Args)]
#[command(long_about = ABOUT, after_help = EXAMPLES)]
pub struct Args {
    /// A .torrent file, an http(s) URL of one, or `-` for stdin
    torrent: std::ffi::OsString,
    /// The folder that holds the torrent's file or folder
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    data: PathBuf,
    /// When to end: at a ratio (1.5), after a time (30m), or with Ctrl-C
    #[arg(long, value_name = "RATIO|TIME|forever", default_value = "forever", value_parser = until)]
    until: Until,
    /// Show each peer one piece at a time, so that the first copies spread with the least upload (BEP 16)
    #[arg(long = "super")]
    super_seeding: bool,
    /// Tell what happens as one JSON object per line on stdout
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    network: Network,
}

pub fn run(args: &Args, screen: &Screen, stop: &Stop) -> anyhow::Result<Code> {
    let json = Json::new(args.json);
    let peers = args.network.peers()?;
    let bind = args.network.bind.as_ref();
    let metainfo = source::load_metainfo(&args.torrent, bind, stop, "seeding")?;
    look(&metainfo, &args.data)?;
    let folder = args.network.state_dir.clone().unwrap_or_else(|| args.data.join(".ropewalk"));
    let trusted = journal_fits(&metainfo, &args.data, &folder);

    let session = args.network.session(screen, &json, stop)?;
    if !args.json {
        screen.note(&format!("listening on port {}", session.port()));
    }
    if !args.network.has_source(&metainfo, &peers) {
        screen.note("nobody is told of it, by no tracker, DHT or local network: others have to be given your address");
    }
    let options = AddOptions {
        start: Start::Paused,
        check: if trusted { Check::Journal } else { Check::ReadOnly },
        seeding: if args.super_seeding { Seeding::Super } else { Seeding::Normal },
        peers,
        announce: !args.network.no_tracker,
        ..AddOptions::new(&args.data)
    };
    let torrent = session.add(metainfo, options)?;
    let job = Job::of_seeder(torrent, args.until, None);
    let code = Watch {
        screen,
        json: &json,
        stop,
        #[cfg(feature = "upnp")]
        session: &session,
        patience: Patience::default(),
        explain: false,
    }
    .follow(vec![job]);
    session.shutdown();
    code
}

/// Whether every file is there with its length: an error that names those that are not.
fn look(metainfo: &Metainfo, data: &Path) -> anyhow::Result<()> {
    let layout = metainfo.layout();
    let mut wrong = Vec::new();
    for (_, file) in numbered(layout) {
        let (path, expected) = (data.join(layout.file(file).path()), layout.file(file).len());
        match fs::symlink_metadata(&path) {
            Ok(about) if about.is_symlink() => wrong.push(format!("{}: a link, which is not followed", shown(&path))),
            Ok(about) if !about.is_file() => wrong.push(format!("{}: not a file", shown(&path))),
            Ok(about) if about.len() != expected => {
                wrong.push(format!("{}: {} bytes instead of {expected}", shown(&path), about.len()));
            }
            Ok(_) => {}
            Err(error) => wrong.push(format!("{}: {}", shown(&path), io_text(&error))),
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let inside = data.canonicalize().is_ok_and(|data| data.file_name().is_some_and(|name| name == metainfo.name()));
    let next = if inside && metainfo.is_multi_file() {
        "--data is the folder that holds it, so one above this"
    } else if !data.join(metainfo.name()).exists() {
        "give the folder that holds it with --data"
    } else {
        "`ropewalk get` fetches what is missing, once what is too long is moved away, and with --files and --seed seeds a part"
    };
    let all = numbered(layout).count();
    let which = if all == 1 { String::new() } else { format!("{} of the {all} files of ", wrong.len()) };
    let text = format!("{which}{} cannot be seeded; {next}", metainfo.name());
    let more = wrong.len().saturating_sub(NAMED);
    wrong.truncate(NAMED);
    let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
    Err(failed(Code::WrongData, format!("{text}\n  {}{more}", wrong.join("\n  "))))
}

/// Whether there is a journal of the torrent, and everything can be written that keeping it may want to.
fn journal_fits(metainfo: &Metainfo, data: &Path, folder: &Path) -> bool {
    let writable = |path: &Path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
    let layout = metainfo.layout();
    folder.join(format!("{}.resume", metainfo.info_hash())).exists()
        && writable(folder)
        && writable(data)
        && numbered(layout).all(|(_, file)| writable(&data.join(layout.file(file).path())))
}
