//! Exit codes, and how errors are said.
//!
//! It owns which error means which code. The codes are part of the interface: `--help` lists them.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::process::ExitCode;

use ropewalk::metainfo::{MetainfoError, ReadError};
use ropewalk::{StorageError, create, verify};

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Done = 0,
    Other = 1,
    Usage = 2,
    Stopped = 3,
    NoPeers = 4,
    Disk = 5,
    BadInput = 6,
    WrongData = 7,
}

/// What the codes mean, as `--help` lists them. A macro, because only literals can be put together for clap.
macro_rules! meanings {
    () => {
        "  0  done
  1  another error
  2  wrong usage
  3  stopped by Ctrl-C (or SIGTERM) before it was done
  4  nothing to connect to: no tracker and no peer, or none within --timeout,
     or no metadata of a magnet link within it (5 minutes where it is not given)
  5  disk: full, no permission, in use by another ropewalk, another error of
     reading or writing
  6  bad input: not a torrent, or one that cannot be fetched or used"
    };
}
pub(super) use meanings;

impl Code {
    /// The code in words that stay the same, for `--json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Other => "error",
            Self::Usage => "usage",
            Self::Stopped => "stopped",
            Self::NoPeers => "no-peers",
            Self::Disk => "disk",
            Self::BadInput => "bad-input",
            Self::WrongData => "wrong-data",
        }
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// An error of which the code is known. The text says what happened and what to do next.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Failed {
    pub code: Code,
    pub text: String,
}

/// An error with a code.
pub fn failed(code: Code, text: impl Into<String>) -> anyhow::Error {
    Failed { code, text: text.into() }.into()
}

/// Which code an error means.
pub fn code_of(error: &anyhow::Error) -> Code {
    error.chain().find_map(code_of_link).unwrap_or(Code::Other)
}

/// The whole chain in one line, without what only programmers read.
pub fn text_of(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for link in error.chain() {
        let link = without_number(&link.to_string());
        // Some errors say their source themselves.
        if !text.contains(&link) {
            let separator = if text.is_empty() { "" } else { ": " };
            text = text + separator + &link;
        }
    }
    text
}

/// What the system said, in words.
pub fn io_text(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "there is no such file or folder".into(),
        ErrorKind::PermissionDenied => "permission denied".into(),
        _ => {
            let text = without_number(&error.to_string());
            let mut letters = text.chars();
            letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
        }
    }
}

/// The error of a write to stdout: where its reader has gone, still one that [`is_broken_pipe`] knows.
pub fn of_stdout(error: io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::BrokenPipe => error.into(),
        _ => failed(Code::Disk, format!("cannot write to stdout: {}; check where it goes", io_text(&error))),
    }
}

pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = |link: &(dyn Error + 'static)| link.downcast_ref::<io::Error>().map(io::Error::kind);
    error.chain().filter_map(io).any(|kind| kind == ErrorKind::BrokenPipe)
}

fn code_of_link(link: &(dyn Error + 'static)) -> Option<Code> {
    if let Some(failed) = link.downcast_ref::<Failed>() {
        Some(failed.code)
    } else if link.is::<ReadError>() || link.is::<MetainfoError>() {
        Some(Code::BadInput)
    } else if link.is::<StorageError>() {
        Some(Code::Disk)
    } else if let Some(error) = link.downcast_ref::<create::CreateError>() {
        Some(match error {
            create::CreateError::Stopped => Code::Stopped,
            create::CreateError::Io { source, .. } if source.kind() != ErrorKind::NotFound => Code::Disk,
            create::CreateError::Storage(_) => Code::Disk,
            _ => Code::BadInput,
        })
    } else if let Some(error) = link.downcast_ref::<verify::VerifyError>() {
        Some(if matches!(error, verify::VerifyError::Stopped) { Code::Stopped } else { Code::Disk })
    } else {
        let kind = link.downcast_ref::<io::Error>()?.kind();
        let disk = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::ReadOnlyFilesystem];
        (disk.contains(&kind) || kind == ErrorKind::PermissionDenied).then_some(Code::Disk)
    }
}

/// Without the ` (os error 2)` that the standard library appends.
pub fn without_number(text: &str) -> String {
    let Some((before, after)) = text.split_once(" (os error ") else { return text.to_owned() };
    match after.split_once(')') {
        Some((_, rest)) => before.to_owned() + rest,
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{Code, code_of, failed, is_broken_pipe, text_of};

    #[test]
    fn the_code_comes_from_anywhere_in_the_chain() {
        let error = failed(Code::NoPeers, "no peers").context("x.torrent");
        assert_eq!(code_of(&error), Code::NoPeers);
        assert_eq!(text_of(&error), "x.torrent: no peers");
        assert_eq!(code_of(&anyhow::anyhow!("?")), Code::Other);
    }

    #[test]
    fn system_errors_are_said_without_their_number() {
        let error = anyhow::Error::from(io::Error::from_raw_os_error(28)).context("cannot write x");
        assert_eq!(text_of(&error), "cannot write x: No space left on device");
        assert_eq!(code_of(&error), Code::Disk);
        assert!(is_broken_pipe(&io::Error::from(io::ErrorKind::BrokenPipe).into()));
    }
}
