//! Which files the torrents of a session are at work on, so that no two of them write into one.
//!
//! Two torrents may well name the same file: another edition under the same name, or the same file in pieces of another
//! length. Both may be seeded from it, as long as neither has anything to write there. Files of other sessions are not seen.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::bits::Bits;
use crate::metainfo::{FileIndex, InfoHash, Layout};

/// What the torrents of a session have claimed. Locked to look something up or to change it, never across I/O.
#[derive(Debug, Default)]
pub(crate) struct Claims(Mutex<Vec<Claim>>);

/// The files of one torrent.
#[derive(Debug)]
struct Claim {
    info_hash: InfoHash,
    name: String,
    /// The file or folder that all of them are, or are in.
    root: PathBuf,
    layout: Arc<Layout>,
    /// Which of them it has claimed.
    files: Vec<bool>,
    /// Which of them it has nothing to write to; `None` while that is being found out.
    complete: Option<Vec<bool>>,
}

/// A torrent's claim, which ends with this.
#[derive(Debug)]
pub(super) struct Claimed {
    claims: Arc<Claims>,
    info_hash: InfoHash,
}

/// A file that another torrent is at work on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overlap {
    /// The file, below the download folder.
    pub(super) path: PathBuf,
    /// The other one's name.
    pub(super) other: String,
}

/// What a torrent has.
pub(super) struct Content<'a> {
    pub(super) info_hash: InfoHash,
    pub(super) name: &'a str,
    pub(super) dir: &'a Path,
    pub(super) layout: &'a Arc<Layout>,
}

impl Claims {
    /// Claims the wanted files of a torrent, before anything is done about them. Fails where another one writes to one of
    /// them, or has it with another length.
    pub(super) fn claim(self: &Arc<Self>, content: &Content<'_>, wanted: &[bool]) -> Result<Claimed, Overlap> {
        let Content { info_hash, name, dir, layout } = *content;
        let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
        let first = layout.files().first().and_then(|file| file.path().components().next());
        let is_wanted = |file: FileIndex| wanted.get(file.get() as usize).is_none_or(|&wanted| wanted);
        let claim = Claim {
            info_hash,
            name: name.to_owned(),
            root: first.map_or_else(|| dir.clone(), |first| dir.join(first)),
            files: layout.file_indices().map(|file| is_wanted(file) && is_claimable(layout, file)).collect(),
            layout: Arc::clone(layout),
            complete: None,
        };
        let mut all = self.0.lock();
        all.iter().try_for_each(|other| {
            claim.keep_apart(other, |ours, theirs| {
                other.writes_to(theirs) || layout.file(ours).len() != other.layout.file(theirs).len()
            })
        })?;
        all.push(claim);
        Ok(Claimed { claims: Arc::clone(self), info_hash })
    }
}

impl Claimed {
    /// These pieces are there, others are to be written. Fails where another torrent has a file that is not complete.
    pub(super) fn settle(&self, have: &Bits) -> Result<(), Overlap> {
        self.change(|claim, others| {
            let layout = &claim.layout;
            let is_complete = |file| layout.pieces_of(file).all(|piece| have.get(piece));
            claim.complete = Some(layout.file_indices().map(is_complete).collect());
            // One that is still looking finds out when it has looked.
            others.iter().filter(|other| other.complete.is_some()).try_for_each(|other| {
                claim.keep_apart(other, |ours, theirs| claim.writes_to(ours) || other.writes_to(theirs))
            })
        })
    }

    /// Nothing is ever written.
    pub(super) fn settle_to_read(&self) {
        let mut all = self.claims.0.lock();
        let claim = all.iter_mut().find(|claim| claim.info_hash == self.info_hash);
        claim.into_iter().for_each(|claim| claim.complete = Some(vec![true; claim.files.len()]));
    }

    /// All of a file is there.
    pub(super) fn finish(&self, file: FileIndex) {
        let mut all = self.claims.0.lock();
        let claim = all.iter_mut().find(|claim| claim.info_hash == self.info_hash);
        let complete = claim.and_then(|claim| claim.complete.as_mut());
        complete.into_iter().for_each(|complete| complete[file.get() as usize] = true);
    }

    /// Claims one more file, to write to it.
    pub(super) fn want(&self, file: FileIndex) -> Result<(), Overlap> {
        self.change(|claim, others| {
            let place = file.get() as usize;
            if claim.files[place] || !is_claimable(&claim.layout, file) {
                return Ok(());
            }
            claim.files[place] = true;
            claim.complete.iter_mut().for_each(|complete| complete[place] = false);
            others.iter().try_for_each(|other| claim.keep_apart(other, |ours, _| ours == file))
        })
    }

    /// Changes the claim, where the others allow it.
    fn change(&self, change: impl FnOnce(&mut Claim, &[Claim]) -> Result<(), Overlap>) -> Result<(), Overlap> {
        let mut all = self.claims.0.lock();
        let at =
            all.iter().position(|claim| claim.info_hash == self.info_hash).expect("it is there until this is dropped");
        let mut claim = all.swap_remove(at);
        let before = (claim.files.clone(), claim.complete.clone());
        let changed = change(&mut claim, &all);
        if changed.is_err() {
            (claim.files, claim.complete) = before;
        }
        all.push(claim);
        changed
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        self.claims.0.lock().retain(|claim| claim.info_hash != self.info_hash);
    }
}

impl Claim {
    /// Fails where a file that both have is `in_the_way`, of which the numbers here and there are given.
    fn keep_apart(&self, other: &Self, in_the_way: impl Fn(FileIndex, FileIndex) -> bool) -> Result<(), Overlap> {
        if self.root != other.root {
            return Ok(());
        }
        let theirs: HashMap<&Path, FileIndex> = other.claimed().collect();
        for (path, ours) in self.claimed() {
            if theirs.get(path).is_some_and(|&theirs| in_the_way(ours, theirs)) {
                return Err(Overlap { path: path.to_path_buf(), other: other.name.clone() });
            }
        }
        Ok(())
    }

    fn claimed(&self) -> impl Iterator<Item = (&Path, FileIndex)> {
        let files = self.layout.file_indices().filter(|file| self.files[file.get() as usize]);
        files.map(|file| (self.layout.file(file).path(), file))
    }

    fn writes_to(&self, file: FileIndex) -> bool {
        self.complete.as_ref().is_some_and(|complete| !complete[file.get() as usize])
    }
}

/// Whether there is anything to write to in a file.
fn is_claimable(layout: &Layout, file: FileIndex) -> bool {
    !layout.file(file).is_padding() && !layout.file(file).is_empty()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::{Claimed, Claims, Content, Overlap};
    use crate::bits::Bits;
    use crate::metainfo::{Content as Files, Creation, InfoHash, Layout, NewFile};

    const PIECE: u32 = 16384;

    fn layout(name: &str, files: &[(&str, u64)]) -> Arc<Layout> {
        let new = |&(path, len): &(&str, u64)| NewFile { path: path.into(), len, executable: false };
        let files = Files::Folder(files.iter().map(new).collect());
        Arc::clone(Creation::new(name, files, PIECE).prepare().unwrap().layout())
    }

    fn claim(claims: &Arc<Claims>, number: u8, dir: &str, layout: &Arc<Layout>) -> Result<Claimed, Overlap> {
        let content = Content { info_hash: InfoHash::new([number; 20]), name: "x", dir: Path::new(dir), layout };
        claims.claim(&content, &[])
    }

    fn overlap<T: std::fmt::Debug>(result: Result<T, Overlap>) -> String {
        result.unwrap_err().path.display().to_string()
    }

    #[test]
    fn of_two_that_would_write_to_a_file_the_first_one_may() {
        let claims = Arc::default();
        let (first, second) = (layout("x", &[("a", 9), ("b", 9)]), layout("x", &[("b", 9), ("c", 9)]));
        let (one, two) = (claim(&claims, 1, "d", &first).unwrap(), claim(&claims, 2, "d", &second).unwrap());
        two.settle(&Bits::new(1)).unwrap();
        assert_eq!(overlap(one.settle(&Bits::new(1))), "x/b");
        // What failed has no say, and may try again.
        assert_eq!(overlap(claim(&claims, 3, "d", &first)), "x/b");
        drop(two);
        one.settle(&Bits::new(1)).unwrap();
        assert_eq!(overlap(claim(&claims, 2, "d", &second)), "x/b");
        one.finish(first.file_index(1).unwrap());
        let two = claim(&claims, 2, "d", &second).unwrap();
        assert_eq!(overlap(two.settle(&Bits::new(1))), "x/b", "it is not as the second one wants it");
        two.settle(&Bits::full(1)).unwrap();
    }

    #[test]
    fn other_folders_other_names_and_other_files_are_apart() {
        let claims = Arc::default();
        let layouts = [layout("x", &[("a", 9)]), layout("x", &[("b", 9)]), layout("y", &[("a", 9)])];
        let held: Vec<_> = (0..).zip(&layouts).map(|(number, layout)| claim(&claims, number, "d", layout)).collect();
        let elsewhere = claim(&claims, 7, "e", &layouts[0]);
        for held in held.iter().chain([&elsewhere]) {
            held.as_ref().unwrap().settle(&Bits::new(1)).unwrap();
        }
    }

    #[test]
    fn what_is_complete_may_be_seeded_by_many_and_is_nobodys_to_write_to() {
        let claims = Arc::default();
        let (whole, more) = (layout("x", &[("a", 9)]), layout("x", &[("a", 9), ("b", 2 * u64::from(PIECE))]));
        let seeds = [1, 2].map(|number| claim(&claims, number, "d", &whole).unwrap());
        seeds.iter().for_each(|seed| seed.settle(&Bits::full(1)).unwrap());
        assert_eq!(overlap(claim(&claims, 3, "d", &more).unwrap().settle(&Bits::new(3))), "x/a");
        assert_eq!(overlap(claim(&claims, 3, "d", &layout("x", &[("a", 8)]))), "x/a", "another length");
        let reads = claim(&claims, 3, "d", &whole).unwrap();
        reads.settle_to_read();
        // It is found to be damaged, and is to be written to after all.
        assert_eq!(overlap(seeds[0].settle(&Bits::new(1))), "x/a");
        drop((seeds, reads));
        claim(&claims, 3, "d", &more).unwrap().settle(&Bits::new(3)).unwrap();
    }

    #[test]
    fn a_file_that_was_not_wanted_is_claimed_when_it_is() {
        let claims: Arc<Claims> = Arc::default();
        let layout = layout("x", &[("a", 9), ("b", 9)]);
        let select = |number: u8, wanted: [bool; 2]| {
            let info_hash = InfoHash::new([number; 20]);
            let content = Content { info_hash, name: "x", dir: Path::new("d"), layout: &layout };
            let claimed = claims.claim(&content, &wanted).unwrap();
            claimed.settle(&Bits::new(1)).unwrap();
            claimed
        };
        let (one, two) = (select(1, [true, false]), select(2, [false, true]));
        let file = |index| layout.file_index(index).unwrap();
        one.want(file(0)).unwrap();
        assert_eq!(overlap(one.want(file(1))), "x/b");
        drop(two);
        one.want(file(1)).unwrap();
    }
}
