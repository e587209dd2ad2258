//! Where a torrent comes from: a file, an http(s) URL of one, stdin, or a magnet link.
//!
//! It owns what is said of a fetch that failed. It refuses what ropewalk cannot read yet, and says so.

use std::ffi::OsStr;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use crossbeam_channel::{bounded, select};
use ropewalk::fetch::{FetchError, fetch};
use ropewalk::metainfo::{MAX_FILE_LEN, MetainfoError, ReadError};
use ropewalk::{Bind, Magnet, Metainfo};

use super::exit::{Code, failed, io_text};
use super::signal::Stop;
use super::words::printable;

/// What a SOURCE names.
pub enum Source {
    Torrent(Metainfo),
    Magnet(Box<Magnet>),
}

/// The torrent or the magnet link that a SOURCE names; what is fetched comes the way that `bind` allows.
pub fn load(source: &OsStr, bind: Option<&Bind>, stop: &Stop) -> anyhow::Result<Source> {
    let text = source.to_str().unwrap_or_default();
    let scheme = text.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase()).unwrap_or_default();
    if scheme == "magnet" {
        // Copied from somewhere, it may bring a line end along.
        let magnet = text.trim().parse::<Magnet>();
        let magnet =
            magnet.map_err(|error| failed(Code::BadInput, format!("{error}; check that all of it is there")))?;
        return Ok(Source::Magnet(Box::new(magnet)));
    }
    // A bare info-hash, unless it is the name of a file.
    if matches!(text.len(), 32 | 40)
        && !Path::new(source).exists()
        && let Ok(magnet) = text.parse::<Magnet>()
    {
        return Ok(Source::Magnet(Box::new(magnet)));
    }
    load_torrent(source, bind, stop).map(Source::Torrent)
}

/// The torrent that a SOURCE names, where a magnet link does not do: `for_what` needs more than it says.
pub fn load_metainfo(source: &OsStr, bind: Option<&Bind>, stop: &Stop, for_what: &str) -> anyhow::Result<Metainfo> {
    match load(source, bind, stop)? {
        Source::Torrent(metainfo) => Ok(metainfo),
        Source::Magnet(_) => {
            let text = format!(
                "{for_what} needs the .torrent file, and a magnet link only names it; give that file \
                 (`ropewalk get MAGNET` keeps it as .ropewalk/INFO-HASH.torrent beside what it downloads)"
            );
            Err(failed(Code::BadInput, text))
        }
    }
}

fn load_torrent(source: &OsStr, bind: Option<&Bind>, stop: &Stop) -> anyhow::Result<Metainfo> {
    let text = source.to_str().unwrap_or_default();
    let scheme = text.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase()).unwrap_or_default();
    if text == "-" {
        return unless_stopped(stop, "stdin", read_stdin);
    }
    if !text.contains("://") || Path::new(source).exists() {
        let path = Path::new(source).to_path_buf();
        return unless_stopped(stop, &path.display().to_string(), move || read(&path));
    }
    if scheme != "http" && scheme != "https" {
        let text =
            format!("{scheme}: URLs cannot be fetched; give a .torrent file, an http(s) URL of one, or a magnet link");
        return Err(failed(Code::BadInput, text));
    }
    let (url, bind) = (text.to_owned(), bind.cloned());
    let fetched = move || download(&url, bind.as_ref(), MAX_FILE_LEN, "a .torrent file");
    let bytes = unless_stopped(stop, text, fetched)?;
    Metainfo::from_bytes(&bytes).map_err(|error| unusable(&printable(text), &error))
}

/// The torrent in a file.
pub fn read(path: &Path) -> anyhow::Result<Metainfo> {
    let shown = path.display();
    Metainfo::read(path).map_err(|error| match error {
        ReadError::Io { source, .. } => {
            let next = match source.kind() {
                ErrorKind::NotFound => "check the path",
                ErrorKind::PermissionDenied => "make it readable for you",
                ErrorKind::IsADirectory => "give the .torrent file (`ropewalk create` makes one of a folder)",
                _ => "check the disk",
            };
            failed(Code::BadInput, format!("cannot read {shown}: {}; {next}", io_text(&source)))
        }
        ReadError::Metainfo { source, .. } => unusable(&shown.to_string(), &source),
        other => failed(Code::BadInput, format!("{other}; give the .torrent file, not the content")),
    })
}

fn read_stdin() -> anyhow::Result<Metainfo> {
    let mut bytes = Vec::new();
    let read = io::stdin().lock().take(MAX_FILE_LEN + 1).read_to_end(&mut bytes);
    read.map_err(|error| failed(Code::BadInput, format!("cannot read stdin: {}; give a file", io_text(&error))))?;
    if bytes.len() as u64 > MAX_FILE_LEN {
        return Err(failed(
            Code::BadInput,
            format!("stdin has more than {} MiB: not a .torrent file", MAX_FILE_LEN >> 20),
        ));
    }
    Metainfo::from_bytes(&bytes).map_err(|error| unusable("what came from stdin", &error))
}

fn unusable(from: &str, error: &MetainfoError) -> anyhow::Error {
    let text = match error {
        MetainfoError::Bencode(_) => format!("{from} is not a .torrent file; check that it is the right file"),
        MetainfoError::V2Only => format!("{from} is {error}"),
        other => format!("{from} is a broken .torrent file: {other}; get it again or from elsewhere"),
    };
    failed(Code::BadInput, text)
}

/// Reads in a thread of its own, so that Ctrl-C need not wait for a server, a pipe or a disk.
pub(super) fn unless_stopped<T: Send + 'static>(
    stop: &Stop,
    what: &str,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let (sender, receiver) = bounded(1);
    std::thread::Builder::new().name("source".into()).spawn(move || sender.send(work()))?;
    select! {
        recv(receiver) -> result => result?,
        recv(stop.asked()) -> _ => Err(failed(Code::Stopped, format!("stopped while reading {what}"))),
    }
}

/// What is at a URL: at most so many bytes, or it is not `what` it should be. It comes the way that `bind` allows.
pub(super) fn download(url: &str, bind: Option<&Bind>, most: u64, what: &str) -> anyhow::Result<Vec<u8>> {
    fetch(url, bind, most).map_err(|error| {
        let text = match error {
            FetchError::Status { code, .. } => {
                let next = match code {
                    401 | 403 => "download it with a browser and give the file",
                    500.. => "try again later",
                    _ => "check the URL",
                };
                format!("{error}; {next}")
            }
            FetchError::TooLarge(_) => format!("more than {} MiB: not {what}", most >> 20),
            FetchError::Io(error) => format!("{}; check the URL and the network", io_text(&error)),
            error => format!("{}; check the URL and the network", printable(&error.to_string())),
        };
        failed(Code::BadInput, format!("cannot fetch {}: {text}", printable(url)))
    })
}
