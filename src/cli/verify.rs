//! `ropewalk verify`.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;

use ropewalk::Metainfo;
use ropewalk::verify::{Report, Verdict, VerifyError, verify};
use serde_json::json;

use super::exit::{Code, failed};
use super::hashing::hashing;
use super::json::Json;
use super::screen::Screen;
use super::select::numbered;
use super::signal::Stop;
use super::source;
use super::words::{count, printable, rate, size, time};

const ABOUT: &str = "\
Check files against a .torrent

Hashes every piece, with every core, and says of each file whether it is right. Nothing is changed. A piece may hold \
the end of one file and the begin of the next: where one of them is wrong or missing, the other shows a wrong piece.";

const EXAMPLES: &str = "\
Examples:
  ropewalk verify album.torrent --data ~/music   (~/music/album is its folder)
  ropewalk verify album.torrent -q && echo right

Events of --json, one object per line:
  progress  done, total (bytes), rate (bytes per second)
  file      number, path (in the torrent, as `ropewalk show` prints it; below
            the folder), verdict (ok, missing, wrong, too-long, too-short),
            wrong_pieces, pieces
  summary   right (true or false), files, files_right, pieces, pieces_right,
            folder, seconds, info_hash, name
  error     message, result, code

Exit codes:
  0  every file is right
  1  another error
  2  wrong usage
  3  stopped by Ctrl-C (or SIGTERM)
  5  disk: no permission, another error of reading
  6  bad input: not a torrent, or one that cannot be fetched or used
  7  a file is missing or wrong";

/// Check files against a .torrent
#[derive(clap::Args)]
#[command(long_about = ABOUT, after_help = EXAMPLES)]
pub struct Args {
    /// A .torrent file, an http(s) URL of one, or `-` for stdin
    torrent: OsString,
    /// The folder that holds the torrent's file or folder
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    data: PathBuf,
    /// Tell the verdicts as one JSON object per line on stdout
    #[arg(long)]
    pub json: bool,
}

pub fn run(args: &Args, screen: &Screen, stop: &Stop) -> anyhow::Result<Code> {
    let json = Json::new(args.json);
    let metainfo = source::load_metainfo(&args.torrent, None, stop, "checking files")?;
    if !args.data.is_dir() {
        let text = format!("there is no folder {}; give the one that holds {}", args.data.display(), metainfo.name());
        return Err(failed(Code::WrongData, text));
    }
    let how = hashing()?;
    let hashing = screen.work(metainfo.name(), &json);
    let report = verify(&metainfo, &args.data, how, &|done, total| hashing.at(done, total), stop.flag());
    let took = hashing.finish();
    let report = match report {
        Err(VerifyError::Stopped) => return Err(failed(Code::Stopped, "stopped before everything was hashed")),
        other => other?,
    };
    let layout = metainfo.layout();
    let (files, pieces) = (report.files.len(), layout.piece_count());
    let (files_right, pieces_right) = (right(&report), report.pieces.count());
    if args.json {
        tell(&report, &metainfo, &json);
        json.event(
            "summary",
            json!({
                "right": report.is_right(), "files": files, "files_right": files_right,
                "pieces": pieces, "pieces_right": pieces_right,
                "folder": args.data.to_string_lossy(), "seconds": took.as_secs_f64(),
                "info_hash": metainfo.info_hash().to_string(), "name": metainfo.name(),
            }),
        );
    } else {
        let hashed = u64::from(pieces_right) * u64::from(layout.piece_length());
        let speed = rate((hashed.min(layout.total_len()) as f64 / took.as_secs_f64().max(0.001)) as u64);
        let mut text = table(&report, &metainfo);
        let total = size(layout.total_len());
        let _ = match report.is_right() {
            true => write!(text, "right: {}, {total} ({}, {speed})", count(files, "file", "files"), time(took)),
            false => write!(
                text,
                "wrong: {} of {}, {} of {}",
                files - files_right,
                count(files, "file", "files"),
                pieces - pieces_right,
                count(pieces as usize, "piece", "pieces")
            ),
        };
        screen.print(&text)?;
    }
    json.check()?;
    if report.is_right() {
        return Ok(Code::Done);
    }
    if !args.json {
        let data = args.data.display();
        let next = if args.data.join(metainfo.name()).exists() {
            // `get` overwrites no file that is longer: it may be another one.
            let too_long = report.files.iter().any(|file| matches!(file.verdict, Verdict::TooLong { .. }));
            let before = if too_long { "move away what is too long, then " } else { "" };
            format!("{before}`ropewalk get TORRENT -o {data}` fetches what is wrong again")
        } else {
            format!("{data} has no {}; give the folder that holds it with --data", metainfo.name())
        };
        screen.error(&format!("the files are not what the torrent says; {next}"));
    }
    Ok(Code::WrongData)
}

fn right(report: &Report) -> usize {
    report.files.iter().filter(|file| file.verdict == Verdict::Right).count()
}

/// A verdict per line.
fn table(report: &Report, metainfo: &Metainfo) -> String {
    let mut text = String::new();
    for file in &report.files {
        let path = printable(&metainfo.layout().file(file.file).path().to_string_lossy());
        let expected = metainfo.layout().file(file.file).len();
        let more = match file.verdict {
            Verdict::Wrong { wrong, of } => format!("  ({wrong} of {})", count(of as usize, "piece", "pieces")),
            Verdict::TooLong { len, .. } | Verdict::TooShort { len, .. } => {
                format!("  ({len} bytes instead of {expected})")
            }
            _ => String::new(),
        };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{:<9}  {path}{more}", name(file.verdict).replace('-', " "));
    }
    text
}

fn tell(report: &Report, metainfo: &Metainfo, json: &Json) {
    for ((number, _), file) in numbered(metainfo.layout()).zip(&report.files) {
        let pieces = metainfo.layout().pieces_of(file.file).len() as u32;
        let wrong = match file.verdict {
            Verdict::Wrong { wrong, .. } | Verdict::TooLong { wrong, .. } | Verdict::TooShort { wrong, .. } => wrong,
            Verdict::Missing => pieces,
            _ => 0,
        };
        let path = metainfo.layout().file(file.file).path().to_string_lossy();
        json.event(
            "file",
            json!({
                "number": number, "path": path, "verdict": name(file.verdict),
                "wrong_pieces": wrong, "pieces": pieces,
            }),
        );
    }
}

fn name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Right => "ok",
        Verdict::Missing => "missing",
        Verdict::TooLong { .. } => "too-long",
        Verdict::TooShort { .. } => "too-short",
        _ => "wrong",
    }
}
