//! `ropewalk share`: a file or folder made a torrent, tracked, seeded and announced by one command.
//!
//! It owns the order of these steps, and what is said of them before the seeding begins. [`mod@ways`] knows where others
//! reach this machine, [`tracker`] is the tracker and the seeder's place in it, [`code`] draws QR codes.

mod code;
mod tracker;
mod ways;

use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context;
use console::Term;
use ropewalk::create::{CreateError, CreateOptions, Created, create};
use ropewalk::metainfo::Host;
use ropewalk::{AddOptions, Check, Magnet, Metainfo, Session, Start, StorageError};
use serde_json::json;

use super::create::{Output, count_files, find, say_left_out};
use super::exit::{Code, failed};
use super::hashing::hashing;
use super::json::Json;
use super::network::Network;
use super::screen::Screen;
use super::signal::Stop;
use super::watch::{Before, Job, Patience, Stamps, Watch};
use super::words::{Until, count, shown, size, until};
use code::{Room, draw};
use tracker::{OwnTracker, Registration, USUAL_PORT};
use ways::ways;

/// Rows below a QR code: what is said while seeding.
const ROWS_BELOW: usize = 3;

const ABOUT: &str = "\
Share a file or folder, at once: make a torrent of it, track it, seed it

Prints a magnet link, which anybody on the local network can open with a BitTorrent client, and a QR code of it. The \
files are hashed, then seeded where they are: nothing is copied, and nothing is written beside them. When one of them is \
changed, sharing ends, and says so. The tracker \
serves this torrent alone, and ends with the command. Peers elsewhere can find it by the DHT, if they can reach this machine.

A folder's files go in as with `ropewalk create`: hidden ones are left out, and so are links.";

const EXAMPLES: &str = "\
Examples:
  ropewalk share holiday
  ropewalk share film.mkv --until 30m
  ropewalk share holiday --limit-up 2MB --no-dht
  ropewalk share report.pdf --private --torrent report.torrent

  The link alone, for scripts:
  ropewalk share film.mkv --quiet

Events of --json: as for `ropewalk get`, with \"progress\" of the hashing as for
`ropewalk create`, and before \"added\":
  sharing    info_hash, name, size, files, magnet (null where it is private),
             trackers (URLs), port (the seeder's), torrent (the file written,
             or null)
\"seeding\" says that peers are served from now on.

Exit codes:
  0  done, or ended by Ctrl-C while seeding
  1  another error, such as a port that is taken, or the .torrent exists
  2  wrong usage
  3  stopped while the files were hashed
  5  disk: no permission, another error of reading or writing
  6  bad input: nothing that can be in a torrent
  7  the files changed since they were hashed: by their length, or the time of
     their last change, which is looked at every few moments";

/// Share a file or folder, at once: make a torrent of it, track it, seed it
#[derive(clap::Args)]
#[command(
    long_about = ABOUT,
    after_help = EXAMPLES,
    mut_arg("no_tracker", |arg| arg.help("Start no tracker: others have the link's addresses, the DHT and the local network")),
    mut_arg("state_dir", |arg| arg.help("Keep what is remembered of peers here [default: ropewalk in the user's folder for state]")),
    // Nothing is ever stored.
    mut_arg("store_by", |arg| arg.hide(true))
)]
pub struct Args {
    /// The file or folder
    path: PathBuf,
    /// Also write the .torrent, for whoever cannot open magnet links
    #[arg(long, value_name = "FILE")]
    torrent: Option<PathBuf>,
    /// Replace the .torrent where it exists
    #[arg(short, long, requires = "torrent")]
    force: bool,
    /// Peers may come from the tracker only; others need the .torrent then, so that --torrent is needed, too
    #[arg(short, long, conflicts_with = "no_tracker")]
    private: bool,
    /// Take in files and folders whose names begin with a dot
    #[arg(long)]
    hidden: bool,
    /// When to end: at a ratio (1.5), after a time (30m), or with Ctrl-C
    #[arg(long, value_name = "RATIO|TIME|forever", default_value = "forever", value_parser = until)]
    until: Until,
    /// The tracker's port, of TCP and UDP; 0 is any [default: 6969, else any]
    #[arg(long, value_name = "PORT", conflicts_with = "no_tracker")]
    tracker_port: Option<u16>,
    /// Whether to draw a QR code of the link; auto does on a terminal that has room for it
    #[arg(long, value_name = "WHEN", value_enum, default_value = "auto")]
    qr: Qr,
    /// Tell what happens as one JSON object per line on stdout
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    network: Network,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Qr {
    Auto,
    Always,
    Never,
}

pub fn run(args: &Args, screen: &Screen, stop: &Stop) -> anyhow::Result<Code> {
    if args.json && args.qr == Qr::Always {
        return Err(failed(Code::Usage, "--qr always and --json both want stdout; leave one of them out"));
    }
    if args.private && args.torrent.is_none() {
        return Err(failed(
            Code::Usage,
            "--private needs --torrent FILE: a link to a private torrent leads to nothing, so others need the .torrent",
        ));
    }
    let json = Json::new(args.json);
    let peers = args.network.peers()?;
    let path = find(&args.path)?;
    let output = args.torrent.as_deref().map(|path| Output { path, force: args.force, option: "--torrent" });
    if let Some(output) = &output {
        output.check_outside(&path)?;
        output.check()?;
    }

    // All that can be refused, before the work.
    let session = args.network.session(screen, &json, stop)?;
    let bound: Vec<_> = session.listen_addrs().iter().map(SocketAddr::ip).collect();
    let ips = ways(&bound).context("cannot list the network interfaces")?;
    let interface = args.network.bind.as_ref().and_then(ways::interface);
    let mut tracker = match args.network.no_tracker {
        true => None,
        false => Some(OwnTracker::start(&bound, interface.as_deref(), args.tracker_port, stop)?),
    };
    if let Some(port) = tracker.as_ref().map(OwnTracker::port)
        && args.tracker_port.is_none()
        && port != USUAL_PORT
    {
        screen.note(&format!("port {USUAL_PORT} is taken: the tracker is at port {port}"));
    }
    let urls: Vec<_> =
        tracker.iter().flat_map(|tracker| ips.iter().map(|&ip| url(SocketAddr::new(ip, tracker.port())))).collect();

    let before = Before::of(&path);
    let created = hashed(args, &path, &urls, screen, &json, stop)?;
    if let Some(output) = &output {
        output.write(created.metainfo.as_bytes())?;
    }
    let info_hash = created.metainfo.info_hash();
    let registration = match &mut tracker {
        Some(tracker) => {
            tracker.serve(info_hash)?;
            let addrs = ips.iter().map(|&ip| SocketAddr::new(ip, session.port())).collect();
            Some(Registration::new(tracker, info_hash, addrs)?)
        }
        None => None,
    };
    let shared = Shared { created: &created, ips: &ips, urls: &urls, port: session.port(), torrent: output.as_ref() };
    shared.tell(args, tracker.as_ref().map(OwnTracker::port), screen, &json)?;

    let folder = path.parent().unwrap_or(Path::new("/"));
    let stamps = before.hashed(&created.metainfo, folder);
    let code = seed(
        args,
        created.metainfo,
        folder,
        stamps,
        peers,
        Place { session: &session, screen, json: &json, stop, registration },
    );
    session.shutdown();
    code
}

/// Makes the torrent.
fn hashed(
    args: &Args,
    path: &Path,
    urls: &[String],
    screen: &Screen,
    json: &Json,
    stop: &Stop,
) -> anyhow::Result<Created> {
    let options = CreateOptions {
        hidden: args.hidden,
        private: args.private,
        // Each is a tier, as in the link: who can reach several is registered with each, under different addresses.
        trackers: urls.iter().map(|url| vec![url.clone()]).collect(),
        hashing: hashing()?,
        ..CreateOptions::default()
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let work = screen.work(&name, json);
    let created = create(path, &options, &|done, total| work.at(done, total), stop.flag());
    work.finish();
    let created = match created {
        Err(CreateError::Stopped) => return Err(failed(Code::Stopped, "stopped; nothing was shared")),
        Err(CreateError::Storage(
            StorageError::Missing { path } | StorageError::Short { path, .. } | StorageError::TooLong { path, .. },
        )) => {
            let text = format!("{} changed while it was hashed; run share again once it is at rest", shown(&path));
            return Err(failed(Code::WrongData, text));
        }
        other => other.with_context(|| format!("cannot share {}", path.display()))?,
    };
    json.check()?;
    say_left_out(screen, &created);
    Ok(created)
}

/// What seeding takes beside the torrent.
struct Place<'a> {
    session: &'a Session,
    screen: &'a Screen,
    json: &'a Json,
    stop: &'a Stop,
    registration: Option<Registration>,
}

/// Seeds until it is enough.
fn seed(
    args: &Args,
    metainfo: Metainfo,
    folder: &Path,
    stamps: Stamps,
    peers: Vec<SocketAddr>,
    place: Place<'_>,
) -> anyhow::Result<Code> {
    let options = AddOptions {
        start: Start::Paused,
        check: Check::Hashed,
        peers,
        // Its tracker is told by the registration.
        announce: false,
        ..AddOptions::new(folder)
    };
    let torrent = place.session.add(metainfo, options)?;
    let _kept = place.registration.map(|registration| registration.keep(torrent.clone())).transpose()?;
    let job = Job::of_seeder(torrent, args.until, Some(stamps));
    Watch {
        screen: place.screen,
        json: place.json,
        stop: place.stop,
        #[cfg(feature = "upnp")]
        session: place.session,
        patience: Patience::default(),
        explain: false,
    }
    .follow(vec![job])
}

/// What is shared, and where.
struct Shared<'a> {
    created: &'a Created,
    /// Where others reach us.
    ips: &'a [IpAddr],
    /// The tracker, once for each of them.
    urls: &'a [String],
    /// The seeder's.
    port: u16,
    torrent: Option<&'a Output<'a>>,
}

impl Shared<'_> {
    fn tell(&self, args: &Args, tracker: Option<u16>, screen: &Screen, json: &Json) -> anyhow::Result<()> {
        let metainfo = &self.created.metainfo;
        let (total, files) = (metainfo.layout().total_len(), count_files(self.created));
        // Nobody is given the metadata of a private torrent, so that the link would lead to nothing.
        let magnet = (!metainfo.is_private()).then(|| self.magnet());
        let link = magnet.as_ref().map(Magnet::to_string);
        let torrent = self.torrent.map(|output| output.path.to_string_lossy());
        json.event(
            "sharing",
            json!({
                "info_hash": metainfo.info_hash().to_string(), "name": metainfo.name(), "size": total, "files": files,
                "magnet": link, "trackers": self.urls, "port": self.port, "torrent": torrent,
            }),
        );
        json.check()?;
        if screen.is_quiet() && !args.json {
            // What was asked for.
            link.iter().try_for_each(|link| screen.bytes(format!("{link}\n").as_bytes()))?;
        } else if !args.json {
            screen.print(&self.text(total, files, link.as_deref()))?;
        }
        if self.ips.iter().all(IpAddr::is_loopback) {
            screen.note(match args.network.bind {
                Some(_) => "only this machine can reach it: it is bound to a loopback address",
                None => "only this machine can reach it: it is in no network; connect it to one and share again",
            });
        }
        let is_wanted = match args.qr {
            Qr::Never => false,
            Qr::Always => true,
            Qr::Auto => !args.json && !screen.is_quiet() && io::stdout().is_terminal(),
        };
        match magnet {
            Some(magnet) if is_wanted => self.draw(magnet, tracker, args.qr, screen),
            None if args.qr == Qr::Always => {
                screen.note("no QR code: a private torrent has no link; send others the .torrent");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn text(&self, total: u64, files: usize, link: Option<&str>) -> String {
        let addrs = self.ips.iter().map(|&ip| SocketAddr::new(ip, self.port).to_string());
        let what = format!("{} ({}, {})", self.created.metainfo.name(), count(files, "file", "files"), size(total));
        let rows = std::iter::once(("sharing", what))
            .chain(self.urls.iter().map(|url| ("tracker", url.clone())))
            .chain(addrs.map(|addr| ("seeder", addr)))
            .chain(self.torrent.map(|output| ("torrent", shown(output.path))));
        let (mut text, mut last) = (String::new(), "");
        for (name, value) in rows {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{:<8} {value}", if name == last { "" } else { name });
            last = name;
        }
        match (link, self.torrent) {
            (Some(link), _) => text + &format!("\n{link}\n\nElsewhere, get it with:\nropewalk get '{link}'"),
            (None, Some(output)) => {
                let file = output.path.file_name().unwrap_or_default().to_string_lossy();
                text + &format!("\nSend others the .torrent; they get it with:\nropewalk get {}", quoted(&file))
            }
            (None, None) => text,
        }
    }

    /// The link, with all that leads to us.
    fn magnet(&self) -> Magnet {
        let mut magnet = Magnet::of(&self.created.metainfo);
        magnet.peers.extend(self.ips.iter().map(|&ip| Host::Addr(SocketAddr::new(ip, self.port))));
        magnet
    }

    fn draw(&self, magnet: Magnet, tracker: Option<u16>, when: Qr, screen: &Screen) -> anyhow::Result<()> {
        let terminal = Term::stdout();
        let room = terminal.size_checked().map(|(rows, columns)| Room {
            columns: columns.into(),
            rows: usize::from(rows).saturating_sub(ROWS_BELOW),
        });
        let links = self.shorter(magnet, tracker);
        let colours = console::colors_enabled() || has_colours(&terminal);
        let fitting = draw(&links, room, colours);
        let drawn = match fitting {
            // Whoever wants it always may scroll, or make the letters smaller; the smallest needs that the least.
            Err(Some(least)) if when == Qr::Always => draw(&links, Some(least), colours),
            other => other,
        };
        match drawn {
            Ok(drawing) => {
                let what = if drawing.link == 0 { "QR code" } else { "QR code of a shorter link to the same" };
                screen.bytes(format!("\n{what}:\n{}", drawing.text).as_bytes())
            }
            Err(Some(needed)) => {
                screen.note(&format!(
                    "no QR code: it takes {} columns and {} rows; make the terminal larger, or copy the link",
                    needed.columns,
                    needed.rows + ROWS_BELOW
                ));
                Ok(())
            }
            Err(None) => {
                screen.note("no QR code: the link is too long for one; copy it");
                Ok(())
            }
        }
    }

    /// The link, and shorter ones that lead to the same, for smaller codes.
    fn shorter(&self, full: Magnet, tracker: Option<u16>) -> Vec<String> {
        let mut one = full.clone();
        one.trackers.truncate(1);
        one.peers.truncate(1);
        let mut nameless = one.clone();
        nameless.name = None;
        let mut least = nameless.clone();
        if let (Some(port), Some(&ip)) = (tracker, self.ips.first()) {
            // Over UDP the URL is shorter, and the tracker knows the seeder.
            least.trackers = vec![format!("udp://{}", SocketAddr::new(ip, port))];
            least.peers.clear();
        }
        [full, one, nameless, least].iter().map(Magnet::to_string).collect()
    }
}

/// Whether there can be colours, wanted or not (NO_COLOR): without them a code would be inverted on a light terminal.
fn has_colours(terminal: &Term) -> bool {
    terminal.is_term() && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}

fn url(addr: SocketAddr) -> String {
    format!("http://{addr}/announce")
}

/// A word of a shell's command line.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
    if !word.starts_with('-') && !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let dash = if word.starts_with('-') { "./" } else { "" };
    format!("'{dash}{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_command_can_be_copied_whatever_the_file_is_called() {
        assert_eq!(quoted("album.torrent"), "album.torrent");
        assert_eq!(quoted("Anna's album.torrent"), r"'Anna'\''s album.torrent'");
        assert_eq!(quoted("-o"), "'./-o'");
    }
}
