//! The command line: reads arguments, calls the library, prints.
//!
//! It owns every word that a person at a terminal reads, and the exit codes. It refuses to know how anything is done.
//! What is asked for (and `--json`) goes to stdout; progress, notes and errors go to stderr.
//!
//! - One file per command: [`get`], [`seed`], [`share`], [`create`], [`show`], [`magnet`], [`verify`], [`swarm`], [`tracker`], [`demo`],
//!   [`dht`], [`completions`].
//! - [`exit`]: exit codes and errors. [`signal`]: Ctrl-C. [`screen`]: bars, lines, logging. [`json`]: events.
//! - [`hashing`]: which way this program hashes, and `--version --verbose`.
//! - [`words`]: sizes, rates and times, as they are said and as they are read.
//! - [`source`]: where a torrent comes from. [`select`]: `--files`. [`network`]: options about connections, [`blocklist`]
//!   one of them.
//! - [`outside`]: what became of `--map-port`.
//! - [`trace`]: `--trace`, the page of a download. [`explain`]: where its time went.
//! - [`watch`]: torrents of a session followed to their end.
#![allow(unreachable_pub, reason = "a binary has no public items")]

mod blocklist;
mod completions;
mod create;
mod demo;
mod dht;
mod exit;
mod explain;
mod get;
mod hashing;
mod json;
mod magnet;
mod network;
#[cfg(feature = "upnp")]
mod outside;
mod screen;
mod seed;
mod select;
mod share;
mod show;
mod signal;
mod source;
mod swarm;
mod trace;
mod tracker;
mod verify;
mod watch;
mod words;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::builder::styling::{AnsiColor, Styles};
use clap::error::ErrorKind;
use clap::{ArgAction, Parser, Subcommand};

use exit::Code;
use screen::Screen;
use signal::Stop;

const EXAMPLES: &str = concat!(
    "\
Examples:
  ropewalk demo
  ropewalk share holiday
  ropewalk get debian.iso.torrent
  ropewalk get 'magnet:?xt=urn:btih:...'
  ropewalk get https://example.org/x.torrent -o ~/films --seed 1.5
  ropewalk create album --tracker http://tracker.example/announce
  ropewalk seed album.torrent --data ~/music
  ropewalk swarm debian.iso.torrent
  ropewalk tracker --admin 127.0.0.1:8080

Environment:
  ROPEWALK_HASH  how to hash, to find out what is slow or wrong: crate, avx2 or avx512
                 [default: the quickest here, as `ropewalk --version --verbose` shows]
  ROPEWALK_DHT   off: find no peers by the DHT, as with --no-dht
  RUST_LOG       what to log, instead of -v: info, ropewalk=trace

Exit codes:
",
    exit::meanings!(),
    "
  7  the files are not what the torrent says"
);

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// BitTorrent on plain threads: download, seed, share, make, show and verify torrents, look at swarms.
#[derive(Parser)]
#[command(name = "ropewalk", version, disable_version_flag = true, styles = STYLES, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print only errors, warnings, and what is asked for: by show, share, completions, --json, -o -
    #[arg(short, long, global = true, conflicts_with = "verbose", display_order = 100)]
    quiet: bool,
    /// Log what happens to stderr; -vv for every peer. RUST_LOG has the last word
    #[arg(short, long, global = true, action = ArgAction::Count, display_order = 100)]
    verbose: u8,
    /// Print the version; with --verbose also how it hashes, and how it was built
    #[arg(short = 'V', long, action = ArgAction::Version, display_order = 101)]
    version: (),
}

#[derive(Subcommand)]
enum Command {
    Get(Box<get::Args>),
    Seed(seed::Args),
    Share(Box<share::Args>),
    Create(create::Args),
    Show(show::Args),
    Magnet(magnet::Args),
    Verify(verify::Args),
    Swarm(swarm::Args),
    Tracker(Box<tracker::Args>),
    Demo(demo::Args),
    Dht(dht::Args),
    Completions(completions::Args),
}

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    let args = joined(std::env::args_os());
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) if error.kind() == ErrorKind::DisplayVersion && args.iter().any(|arg| is_verbose(arg)) => {
            return tell_version();
        }
        Err(error) => error.exit(),
    };
    let screen = Screen::new(cli.quiet);
    screen.log(cli.verbose);
    let outcome = Stop::on_signals().map_err(Into::into).and_then(|stop| match &cli.command {
        Command::Get(args) => get::run(args, &screen, &stop),
        Command::Seed(args) => seed::run(args, &screen, &stop),
        Command::Share(args) => share::run(args, &screen, &stop),
        Command::Create(args) => create::run(args, &screen, &stop),
        Command::Show(args) => show::run(args, &screen, &stop),
        Command::Magnet(args) => magnet::run(args, &screen, &stop),
        Command::Verify(args) => verify::run(args, &screen, &stop),
        Command::Swarm(args) => swarm::run(args, &screen, &stop),
        Command::Tracker(args) => tracker::run(args, &screen, &stop),
        Command::Demo(args) => demo::run(args, &screen, &stop),
        Command::Dht(args) => dht::run(args, &screen, &stop),
        Command::Completions(args) => completions::run(args, &screen),
    });
    ended(outcome, &screen, cli.command.is_json())
}

/// Tells an error, and gives the code to end with.
fn ended(outcome: anyhow::Result<Code>, screen: &Screen, json: bool) -> ExitCode {
    let code = match outcome {
        Ok(code) => code,
        // Whoever read our output has gone: there is nobody to tell.
        Err(error) if exit::is_broken_pipe(&error) => Code::Done,
        Err(error) => {
            let code = exit::code_of(&error);
            let text = exit::text_of(&error);
            json::Json::new(json).error(&text, code);
            screen.error(&text);
            code
        }
    };
    code.into()
}

/// Says more about the version than clap can, which ends at `--version` whatever follows.
fn tell_version() -> ExitCode {
    let screen = Screen::new(false);
    let told = hashing::version().and_then(|text| screen.print(&text));
    ended(told.map(|()| Code::Done), &screen, false)
}

/// Whether it is `--verbose`, or `-v` alone or among others.
fn is_verbose(arg: &OsStr) -> bool {
    let arg = arg.to_string_lossy();
    arg == "--verbose" || (arg.starts_with('-') && !arg.starts_with("--") && arg.contains('v'))
}

impl Command {
    fn is_json(&self) -> bool {
        match self {
            Self::Get(args) => args.json,
            Self::Seed(args) => args.json,
            Self::Share(args) => args.json,
            Self::Create(args) => args.json,
            Self::Show(args) => args.json,
            Self::Magnet(args) => args.json,
            Self::Verify(args) => args.json,
            Self::Dht(args) => args.json,
            Self::Swarm(args) => args.json,
            Self::Tracker(args) => args.json,
            Self::Demo(_) | Self::Completions(_) => false,
        }
    }
}

/// Gives `--seed` its value only where what follows is one, so that `get --seed x.torrent` means what it says.
fn joined(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut out = Vec::new();
    let mut args = args.peekable();
    while let Some(arg) = args.next() {
        if arg == "--" {
            out.push(arg);
            out.extend(args);
            break;
        }
        if arg == "--seed" {
            let value = args.next_if(|next| next.to_str().is_some_and(|next| words::until(next).is_ok()));
            let mut joined = OsString::from("--seed=");
            joined.push(value.unwrap_or_else(|| "forever".into()));
            out.push(joined);
        } else {
            out.push(arg);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::{Cli, joined};

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn seed_takes_the_next_argument_only_where_it_is_a_value() {
        let join = |args: &[&str]| joined(args.iter().map(Into::into)).join(" ".as_ref()).into_string().unwrap();
        assert_eq!(join(&["get", "--seed", "a.torrent"]), "get --seed=forever a.torrent");
        assert_eq!(join(&["get", "--seed", "1.5", "a.torrent"]), "get --seed=1.5 a.torrent");
        assert_eq!(join(&["get", "a.torrent", "--seed"]), "get a.torrent --seed=forever");
        assert_eq!(join(&["get", "--", "--seed", "2"]), "get -- --seed 2");
    }
}
