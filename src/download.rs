//! The simple case in one call: a .torrent file in, its files out.
//!
//! It owns a session for as long as the call lasts. Whoever wants more takes a [`Session`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{AddOptions, Config};
use crate::metainfo::{Metainfo, ReadError};
use crate::session::{AddError, Session, SessionError};
use crate::torrent::{State, Stats};

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// Why a download did not end well. What was verified stays in the folder, and the next call goes on from there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {
    /// The .torrent file cannot be read or used.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// No session.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The torrent was not taken in.
    #[error(transparent)]
    Add(#[from] AddError),
    /// It failed: what went wrong, with the path, and what to do next.
    #[error("{0}")]
    Failed(String),
    /// `progress` said to stop.
    #[error("stopped before everything was there")]
    Stopped,
}

/// Downloads everything that the .torrent file `torrent` names into the folder `dir`, and gives the paths of its files
/// (padding left out) once all of their bytes are verified. `progress` is called a few times a second; when it says
/// `false` the download stops. Calling again goes on where the last call ended.
///
/// ```
/// use ropewalk::create::{CreateOptions, create};
/// use ropewalk::{AddOptions, Config, Session, tracker::Tracker};
/// use std::sync::atomic::AtomicBool;
///
/// // A swarm of one seeding session, with a tracker, on this machine; private, so that nobody else is asked.
/// let (theirs, ours) = (tempfile::tempdir()?, tempfile::tempdir()?);
/// std::fs::write(theirs.path().join("hello.txt"), "hello")?;
/// let tracker = Tracker::start(([127, 0, 0, 1], 0).into())?;
/// let trackers = vec![vec![tracker.announce_url()]];
/// let options = CreateOptions { trackers, private: true, ..CreateOptions::default() };
/// let created = create(&theirs.path().join("hello.txt"), &options, &|_, _| {}, &AtomicBool::new(false))?;
/// std::fs::write(ours.path().join("hello.torrent"), created.metainfo.as_bytes())?;
/// let seeder = Session::new(Config::default())?;
/// seeder.add(created.metainfo, AddOptions::new(theirs.path()))?;
///
/// let paths = ropewalk::download(&ours.path().join("hello.torrent"), ours.path(), |stats| {
///     println!("{} of {} bytes", stats.done, stats.wanted);
///     true
/// })?;
/// assert_eq!(std::fs::read(&paths[0])?, b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn download(
    torrent: &Path,
    dir: &Path,
    mut progress: impl FnMut(&Stats) -> bool,
) -> Result<Vec<PathBuf>, DownloadError> {
    let metainfo = Metainfo::read(torrent)?;
    let layout = metainfo.layout().clone();
    let session = Session::new(Config::default())?;
    let torrent = session.add(metainfo, AddOptions::new(dir))?;
    loop {
        let state = torrent.wait(TELL_EVERY);
        let go_on = progress(&torrent.stats());
        match state {
            State::Seeding => break,
            State::Failed(failure) => return Err(DownloadError::Failed(failure.message.to_string())),
            State::Stopped => return Err(DownloadError::Stopped),
            _ if !go_on => return Err(DownloadError::Stopped),
            _ => {}
        }
    }
    session.shutdown();
    let real = layout.file_indices().filter(|&file| !layout.file(file).is_padding());
    Ok(real.map(|file| dir.join(layout.file(file).path())).collect())
}
