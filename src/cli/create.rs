//! `ropewalk create`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use ropewalk::create::{CreateError, CreateOptions, Created, create};
use serde_json::json;

use super::exit::{Code, failed, io_text};
use super::hashing::hashing;
use super::json::Json;
use super::screen::Screen;
use super::signal::Stop;
use super::words::{count, rate, read_piece_length, shown, size, time};

/// Files left out that are named.
const NAMED: usize = 3;

const ABOUT: &str = "\
Make a .torrent of a file or folder

A folder's files go in by their paths. Left out, and said so: files and folders whose names begin with a dot (take \
them in with --hidden), symbolic links, devices and the like. The folder .ropewalk is never taken in.";

const EXAMPLES: &str = "\
Examples:
  ropewalk create album --tracker http://tracker.example/announce
  ropewalk create film.mkv -o /srv/film.torrent -l 1M -c 'My first film'

  Two trackers in the first tier, and one that is asked where both fail:
  ropewalk create album -t http://a.example/ann,http://b.example/ann \\
                        -t udp://c.example:6969

Events of --json, one object per line:
  progress  done, total (bytes), rate (bytes per second)
  created   info_hash, torrent, name, size, files, pieces, piece_length, seconds,
            left_out
  error     message, result, code

Exit codes:
  0  done
  1  another error, or the .torrent exists
  2  wrong usage
  3  stopped by Ctrl-C (or SIGTERM); nothing was written
  5  disk: full, no permission, another error of reading or writing
  6  bad input: nothing that can be in a torrent";

/// Make a .torrent of a file or folder
#[derive(clap::Args)]
#[command(long_about = ABOUT, after_help = EXAMPLES)]
pub struct Args {
    /// The file or folder
    path: PathBuf,
    /// The .torrent to write; `-` is stdout [default: NAME.torrent in the current folder]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// A tracker; commas join trackers into one tier, each further --tracker is the next tier
    #[arg(short, long, value_name = "URL[,URL]", value_parser = tier)]
    tracker: Vec<Tier>,
    /// The length of a piece, a power of two from 16K to 256M [default: by size, at most 2048 pieces up to 32 GiB]
    #[arg(short = 'l', long, value_name = "SIZE", value_parser = read_piece_length)]
    piece_length: Option<u32>,
    /// Peers may come from the trackers only
    #[arg(short, long)]
    private: bool,
    /// A comment for whoever reads it
    #[arg(short, long, value_name = "TEXT")]
    comment: Option<String>,
    /// A web server that has the same files; can be repeated
    #[arg(short, long, value_name = "URL", value_parser = url)]
    web_seed: Vec<String>,
    /// A mark that makes the info-hash another one, as some trackers want
    #[arg(long, value_name = "TEXT")]
    source: Option<String>,
    /// Let every file begin at a piece of its own
    #[arg(long)]
    align: bool,
    /// Take in files and folders whose names begin with a dot
    #[arg(long)]
    hidden: bool,
    /// Leave out the date, so that the same content makes the same .torrent
    #[arg(long)]
    no_date: bool,
    /// Replace the .torrent where it exists
    #[arg(short, long)]
    force: bool,
    /// Tell the result as JSON on stdout
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone)]
struct Tier(Vec<String>);

pub fn run(args: &Args, screen: &Screen, stop: &Stop) -> anyhow::Result<Code> {
    let json = Json::new(args.json);
    let to_stdout = args.output.as_deref().is_some_and(|output| output.as_os_str() == "-");
    if to_stdout && args.json {
        return Err(failed(Code::Usage, "-o - and --json both want stdout; leave one of them out"));
    }
    let path = find(&args.path)?;
    let name = path.file_name().unwrap_or_default();
    let output = args.output.clone().unwrap_or_else(|| {
        let mut output = name.to_owned();
        output.push(".torrent");
        output.into()
    });
    let file = Output { path: &output, force: args.force, option: "-o" };
    // Before the work, and once more when it is written.
    if !to_stdout {
        file.check()?;
        // What is not there yet does not go in.
        if output.symlink_metadata().is_ok() {
            file.check_outside(&path)?;
        }
    }
    let options = CreateOptions {
        piece_length: args.piece_length,
        align: args.align,
        hidden: args.hidden,
        private: args.private,
        trackers: args.tracker.iter().map(|tier| tier.0.clone()).collect(),
        web_seeds: args.web_seed.clone(),
        comment: args.comment.clone(),
        source: args.source.clone(),
        hashing: hashing()?,
        ..CreateOptions::default()
    };
    let options = if args.no_date { CreateOptions { creation_date: None, ..options } } else { options };
    let hashing = screen.work(&name.to_string_lossy(), &json);
    let created = create(&path, &options, &|done, total| hashing.at(done, total), stop.flag());
    let took = hashing.finish();
    let created = match created {
        Err(CreateError::Stopped) => return Err(failed(Code::Stopped, "stopped; nothing was written")),
        other => other.with_context(|| format!("cannot make a torrent of {}", path.display()))?,
    };

    let bytes = created.metainfo.as_bytes();
    if to_stdout {
        screen.bytes(bytes)?;
    } else {
        file.write(bytes)?;
    }
    let layout = created.metainfo.layout();
    let (hash, total, files) = (created.metainfo.info_hash().to_string(), layout.total_len(), count_files(&created));
    let left_out: Vec<_> = created.hidden.iter().chain(&created.special).map(|path| path.to_string_lossy()).collect();
    json.event(
        "created",
        json!({
            "info_hash": hash, "torrent": output.to_string_lossy(), "name": created.metainfo.name(), "size": total,
            "files": files, "pieces": layout.piece_count(), "piece_length": layout.piece_length(),
            "seconds": took.as_secs_f64(), "left_out": left_out,
        }),
    );
    json.check()?;
    say_left_out(screen, &created);
    let speed = rate((total as f64 / took.as_secs_f64().max(0.001)) as u64);
    let pieces = format!("{} of {}", layout.piece_count(), size(layout.piece_length().into()));
    let text = format!(
        "info-hash  {hash}\ntorrent    {}\ncontent    {} in {}, pieces: {pieces} (hashed in {}, {speed})",
        output.display(),
        size(total),
        count(files, "file", "files"),
        time(took)
    );
    if to_stdout {
        screen.note(&text);
    } else if !args.json {
        screen.print(&text)?;
    }
    if options.trackers.is_empty() {
        screen.note(match args.private {
            true => "note: it names no tracker; others need --peer to find you. Add one with --tracker URL",
            false => {
                "note: it names no tracker; others find you by the DHT, or with --peer. Add one with --tracker URL"
            }
        });
    }
    Ok(Code::Done)
}

/// The file or folder that is meant, by its real path: `.` and `x/..` have names, too.
pub fn find(path: &Path) -> anyhow::Result<PathBuf> {
    let found = path.canonicalize().and_then(|real| Ok((real.metadata()?, real)));
    let (about, real) = found.map_err(|error| {
        let text = format!("cannot read {}: {}; check the path", path.display(), io_text(&error));
        failed(Code::BadInput, text)
    })?;
    if about.is_file() || about.is_dir() {
        return Ok(real);
    }
    Err(failed(Code::BadInput, format!("{} is neither a file nor a folder; check the path", path.display())))
}

/// A .torrent to be written.
pub struct Output<'a> {
    pub path: &'a Path,
    /// Replace what is there.
    pub force: bool,
    /// What it is chosen with, for who has to choose again.
    pub option: &'static str,
}

impl Output<'_> {
    /// Whether it may be written: an error where something is there that is not to be replaced.
    pub fn check(&self) -> anyhow::Result<()> {
        if !self.force && self.path.symlink_metadata().is_ok() { Err(self.exists()) } else { Ok(()) }
    }

    /// Whether it is no part of the content, by its real path: it would be hashed, and then replaced by something else.
    pub fn check_outside(&self, content: &Path) -> anyhow::Result<()> {
        let is_inside = self.folder().canonicalize().is_ok_and(|folder| {
            let path = self.path.file_name().map_or(folder.clone(), |name| folder.join(name));
            path.starts_with(content)
        });
        if !is_inside {
            return Ok(());
        }
        let text = format!(
            "{} would be part of {}, which it describes; choose a place outside with {}",
            self.path.display(),
            shown(content.file_name().unwrap_or_default().as_ref()),
            self.option
        );
        Err(failed(Code::Usage, text))
    }

    /// Where it is to be.
    fn folder(&self) -> &Path {
        self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// Writes the whole file or none of it.
    pub fn write(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let folder = self.folder();
        let next = format!("choose another place with {}", self.option);
        let context = || format!("cannot write {}", self.path.display());
        let mut builder = tempfile::Builder::new();
        // As any other new file; the user's mask takes away from it.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        let file = builder.permissions(mode).prefix(".ropewalk-").tempfile_in(folder);
        let written = file.and_then(|mut file| {
            file.write_all(bytes)?;
            let placed = if self.force { file.persist(self.path) } else { file.persist_noclobber(self.path) };
            placed.map(drop).map_err(|error| error.error)
        });
        written.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => self.exists(),
            io::ErrorKind::NotFound => {
                failed(Code::Disk, format!("{}: there is no folder {}; {next}", context(), folder.display()))
            }
            _ => failed(Code::Disk, format!("{}: {}; {next}", context(), io_text(&error))),
        })
    }

    fn exists(&self) -> anyhow::Error {
        let (path, option) = (self.path.display(), self.option);
        let text = if self.path.is_dir() {
            format!("{path} is a folder; say which file in it with {option}")
        } else {
            format!("{path} exists already; replace it with --force, or choose another with {option}")
        };
        failed(Code::Other, text)
    }
}

/// Its files, padding left out.
pub fn count_files(created: &Created) -> usize {
    created.metainfo.layout().files().iter().filter(|file| !file.is_padding()).count()
}

/// Says what did not go in.
pub fn say_left_out(screen: &Screen, created: &Created) {
    let say = |paths: &[PathBuf], what: &str, more: &str| {
        let some: Vec<_> = paths.iter().take(NAMED).map(|path| path.display().to_string()).collect();
        let dots = if paths.len() > NAMED { ", ..." } else { "" };
        if !paths.is_empty() {
            screen.note(&format!("left out {} {what} ({}{dots}){more}", paths.len(), some.join(", ")));
        }
    };
    say(&created.hidden, "hidden", "; take them in with --hidden");
    say(&created.special, "that are neither files nor folders", "");
}

fn tier(text: &str) -> Result<Tier, String> {
    text.split(',').map(|part| url(part.trim())).collect::<Result<_, _>>().map(Tier)
}

fn url(text: &str) -> Result<String, String> {
    match text.split_once("://") {
        Some((scheme, rest)) if !scheme.is_empty() && !rest.is_empty() => Ok(text.to_owned()),
        _ => Err("not a URL; write it like http://tracker.example/announce".into()),
    }
}
