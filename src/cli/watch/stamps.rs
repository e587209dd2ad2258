//! What files looked like before they were hashed, to notice that somebody changed them.
//!
//! It owns what counts as a change: another length, or another time of the last one. No content is read.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use ropewalk::Metainfo;

use crate::cli::exit::io_text;
use crate::cli::select::numbered;
use crate::cli::words::shown;

/// How often files are looked at, and the most at a time: the next ones have their turn later.
const EVERY: Duration = Duration::from_secs(1);
const MOST: usize = 2000;

/// What is there before it is hashed.
pub struct Before(HashMap<PathBuf, Stamp>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    len: u64,
    /// `None` where the file system does not know.
    modified: Option<SystemTime>,
}

impl Before {
    /// Looks at a file, or at everything in a folder. What cannot be looked at is left out: hashing it says why.
    pub fn of(path: &Path) -> Self {
        let mut stamps = HashMap::new();
        let mut left = vec![path.to_path_buf()];
        while let Some(path) = left.pop() {
            match fs::symlink_metadata(&path) {
                Ok(about) if about.is_dir() => {
                    left.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
                }
                Ok(about) if about.is_file() => drop(stamps.insert(path, Stamp::of(&about))),
                _ => {}
            }
        }
        Self(stamps)
    }

    /// The files of the torrent that was made of it, which is in this folder.
    pub fn hashed(self, metainfo: &Metainfo, folder: &Path) -> Stamps {
        let layout = metainfo.layout();
        let files = numbered(layout).filter_map(|(_, file)| {
            let path = folder.join(layout.file(file).path());
            let stamp = self.0.get(&path).copied().or_else(|| Stamp::at(&path).ok())?;
            Some((path, stamp))
        });
        Stamps { files: files.collect(), next: 0, looked: Instant::now() }
    }
}

/// The files of a torrent, as they were when they were hashed.
pub struct Stamps {
    files: Vec<(PathBuf, Stamp)>,
    /// The one that is looked at next.
    next: usize,
    looked: Instant,
}

impl Stamps {
    /// Looks at some of the files, where it is time. Says of one that is another now what happened, and what to do.
    pub fn look(&mut self, now: Instant) -> Option<String> {
        if now - self.looked < EVERY {
            return None;
        }
        self.looked = now;
        let some = &self.files[self.next..self.files.len().min(self.next + MOST)];
        self.next = if self.next + MOST < self.files.len() { self.next + MOST } else { 0 };
        some.iter().find_map(changed)
    }

    /// Looks at all of them at once.
    pub fn look_at_all(&self) -> Option<String> {
        self.files.iter().find_map(changed)
    }
}

impl Stamp {
    fn at(path: &Path) -> io::Result<Self> {
        fs::symlink_metadata(path).map(|about| Self::of(&about))
    }

    fn of(about: &Metadata) -> Self {
        Self { len: about.len(), modified: about.modified().ok() }
    }
}

fn changed((path, before): &(PathBuf, Stamp)) -> Option<String> {
    let what = match Stamp::at(path) {
        Ok(now) if now == *before => return None,
        Ok(now) if now.len != before.len => format!("has {} bytes now instead of {}", now.len, before.len),
        Ok(_) => "was changed after it was hashed".to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => "is gone".to_owned(),
        Err(error) => format!("cannot be looked at any more: {}", io_text(&error)),
    };
    Some(format!("{} {what}; the link is for what it was, so run share again", shown(path)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::AtomicBool;
    use std::time::{Duration, SystemTime};

    use ropewalk::create::{CreateOptions, create};

    use super::{Before, EVERY, MOST};

    #[test]
    fn what_became_of_a_file_is_said_sooner_or_later() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("album/cd")).unwrap();
        for number in 0..=MOST {
            fs::write(root.join(format!("album/cd/{number:05}")), "one").unwrap();
        }
        let before = Before::of(&root.join("album"));
        let last = root.join(format!("album/cd/{MOST:05}"));
        let created =
            create(&root.join("album"), &CreateOptions::default(), &|_, _| {}, &AtomicBool::new(false)).unwrap();
        let mut stamps = before.hashed(&created.metainfo, &root);
        let begin = stamps.looked;
        assert_eq!(
            (stamps.look(begin + EVERY), stamps.look(begin + EVERY * 2), stamps.look_at_all()),
            (None, None, None)
        );

        let file = fs::File::options().write(true).open(&last).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(9)).unwrap();
        assert_eq!(stamps.look(begin + EVERY * 3), None, "it is not among the first");
        assert_eq!(stamps.look(begin + EVERY * 3), None, "it is not time");
        let said = stamps.look(begin + EVERY * 4).unwrap();
        assert!(said.starts_with(&format!("{} was changed", last.display())), "{said}");
        file.set_len(2).unwrap();
        assert!(stamps.look_at_all().unwrap().contains("has 2 bytes now instead of 3"));
        fs::remove_file(&last).unwrap();
        assert!(stamps.look_at_all().unwrap().contains("is gone"));
    }

    #[test]
    fn a_change_while_it_is_hashed_is_one_too() {
        let folder = tempfile::tempdir().unwrap();
        let film = folder.path().canonicalize().unwrap().join("film");
        fs::write(&film, "one").unwrap();
        let before = Before::of(&film);
        let created = create(&film, &CreateOptions::default(), &|_, _| {}, &AtomicBool::new(false)).unwrap();
        let file = fs::File::options().write(true).open(&film).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(9)).unwrap();
        assert!(before.hashed(&created.metainfo, film.parent().unwrap()).look_at_all().is_some());
    }
}
