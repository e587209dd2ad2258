//! Which files the torrents of a session are at work on, so that no two of them write into one.
//!
//! Two torrents may well name the same file: another edition under the same name, or the same file in pieces of another
//! length. Both may be seeded from it, as long as neither has anything to write there; otherwise the later one fails. What is
//! not wanted is claimed, too, for pieces reach into the next file. Files of other sessions are not seen.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::bits::Bits;
use crate::metainfo::{FileIndex, InfoHash, Layout};

/// What the torrents of a session have claimed, the earliest first. Locked to look something up or to change it, never
/// across I/O.
#[derive(Debug, Default)]
pub(crate) struct Claims(Mutex<Vec<Claim>>);

/// The files of one torrent.
#[derive(Debug)]
struct Claim {
    content: Content,
    /// The file or folder that all of them are, or are in.
    root: PathBuf,
    /// By file, whether there is nothing to write to it; `None` while that is being found out.
    complete: Option<Vec<bool>>,
    /// Nothing is ever written, whatever is missing.
    reads: bool,
}

/// What a torrent consists of.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) info_hash: InfoHash,
    pub(super) name: String,
    /// The download folder.
    pub(super) dir: PathBuf,
    pub(super) layout: Arc<Layout>,
}

/// A torrent's claim, which ends with this.
#[derive(Debug)]
pub(super) struct Claimed {
    claims: Arc<Claims>,
    info_hash: InfoHash,
}

/// A file that another torrent has, too.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overlap {
    pub(super) path: PathBuf,
    /// The other one's name.
    pub(super) other: String,
}

impl Claims {
    /// Claims the files of a torrent, before anything is done about them. Fails where another one writes to one of them, or
    /// has it with another length.
    pub(super) fn claim(self: &Arc<Self>, content: Content) -> Result<Claimed, Overlap> {
        let claim = Claim::new(content);
        let mut all = self.0.lock();
        all.iter().try_for_each(|other| {
            claim.keep_apart(other, |ours, theirs| {
                other.writes_to(theirs) || claim.layout().file(ours).len() != other.layout().file(theirs).len()
            })
        })?;
        Ok(self.add(&mut all, claim))
    }

    /// Claims them for somebody who writes to none, whoever else does.
    pub(super) fn claim_to_read(self: &Arc<Self>, content: Content) -> Claimed {
        let mut claim = Claim::new(content);
        claim.complete = Some(vec![true; claim.layout().files().len()]);
        claim.reads = true;
        self.add(&mut self.0.lock(), claim)
    }

    fn add(self: &Arc<Self>, all: &mut Vec<Claim>, claim: Claim) -> Claimed {
        let info_hash = claim.content.info_hash;
        all.push(claim);
        Claimed { claims: Arc::clone(self), info_hash }
    }
}

impl Claimed {
    /// It is looked anew what is there. The claim keeps its place among the others.
    pub(super) fn look_again(&self) {
        self.change(|claim| claim.complete = None);
    }

    /// These pieces are there, others are to be written. Fails where a file that is not complete is an earlier torrent's,
    /// too, or that of one which has looked what is there, unless it only reads.
    pub(super) fn settle(&self, have: &Bits) -> Result<(), Overlap> {
        let mut all = self.claims.0.lock();
        let Some(at) = all.iter().position(|claim| claim.is_of(self.info_hash)) else { return Ok(()) };
        let layout = all[at].layout();
        let is_complete = |file| layout.pieces_of(file).all(|piece| have.get(piece));
        let complete: Vec<bool> = layout.file_indices().map(is_complete).collect();
        for (place, other) in all.iter().enumerate().filter(|(place, _)| *place != at) {
            all[at].keep_apart(other, |ours, theirs| {
                let writes = !complete[ours.get() as usize];
                let has_looked = other.complete.is_some() && !other.reads;
                writes && (place < at || has_looked) || other.writes_to(theirs)
            })?;
        }
        all[at].complete = Some(complete);
        Ok(())
    }

    /// All of these files is there.
    pub(super) fn finish(&self, files: &[FileIndex]) {
        self.change(|claim| {
            let complete = claim.complete.as_mut();
            complete
                .into_iter()
                .for_each(|complete| files.iter().for_each(|file| complete[file.get() as usize] = true));
        });
    }

    /// Its files are to be deleted: nobody else may have them from here on. Fails where somebody has one, and then the claim
    /// is given up, so that the last of them can.
    pub(super) fn give_up(&self) -> Result<(), Overlap> {
        let mut all = self.claims.0.lock();
        let Some(at) = all.iter().position(|claim| claim.is_of(self.info_hash)) else { return Ok(()) };
        let mut claim = all.remove(at);
        all.iter().try_for_each(|other| claim.keep_apart(other, |_, _| true))?;
        claim.complete = Some(vec![false; claim.layout().files().len()]);
        all.push(claim);
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut Claim)) {
        let mut all = self.claims.0.lock();
        if let Some(claim) = all.iter_mut().find(|claim| claim.is_of(self.info_hash)) {
            change(claim);
        }
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        self.claims.0.lock().retain(|claim| !claim.is_of(self.info_hash));
    }
}

impl Claim {
    fn new(mut content: Content) -> Self {
        content.dir = content.dir.canonicalize().unwrap_or(content.dir);
        let first = content.layout.files().first().and_then(|file| file.path().components().next());
        let root = first.map_or_else(|| content.dir.clone(), |first| content.dir.join(first));
        Self { content, root, complete: None, reads: false }
    }

    fn is_of(&self, info_hash: InfoHash) -> bool {
        self.content.info_hash == info_hash
    }

    fn layout(&self) -> &Arc<Layout> {
        &self.content.layout
    }

    /// Fails where a file that both have is `in_the_way`, of which the numbers here and there are given.
    fn keep_apart(&self, other: &Self, in_the_way: impl Fn(FileIndex, FileIndex) -> bool) -> Result<(), Overlap> {
        if !self.root.starts_with(&other.root) && !other.root.starts_with(&self.root) {
            return Ok(());
        }
        let theirs: HashMap<PathBuf, FileIndex> = other.files().collect();
        for (path, ours) in self.files() {
            if theirs.get(&path).is_some_and(|&theirs| in_the_way(ours, theirs)) {
                return Err(Overlap { path, other: other.content.name.clone() });
            }
        }
        Ok(())
    }

    /// Those that are made.
    fn files(&self) -> impl Iterator<Item = (PathBuf, FileIndex)> {
        let layout = self.layout();
        let files = layout.file_indices().filter(|&file| !layout.file(file).is_padding());
        files.map(|file| (self.content.dir.join(layout.file(file).path()), file))
    }

    fn writes_to(&self, file: FileIndex) -> bool {
        self.complete.as_ref().is_some_and(|complete| !complete[file.get() as usize])
    }
}

#[cfg(test)]
mod tests {
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

    fn content(number: u8, dir: &str, layout: &Arc<Layout>) -> Content {
        let (info_hash, dir) = (InfoHash::new([number; 20]), format!("/none/{dir}").into());
        Content { info_hash, name: number.to_string(), dir, layout: Arc::clone(layout) }
    }

    fn claim(claims: &Arc<Claims>, number: u8, dir: &str, layout: &Arc<Layout>) -> Result<Claimed, Overlap> {
        claims.claim(content(number, dir, layout))
    }

    fn overlap<T: std::fmt::Debug>(result: Result<T, Overlap>) -> String {
        let Overlap { path, other } = result.unwrap_err();
        format!("{} of {other}", path.display())
    }

    #[test]
    fn of_two_that_would_write_to_a_file_the_earlier_may() {
        let claims = Arc::default();
        let (first, second) = (layout("x", &[("a", 9), ("b", 9)]), layout("x", &[("b", 9), ("c", 9)]));
        let (one, two) = (claim(&claims, 1, "d", &first).unwrap(), claim(&claims, 2, "d", &second).unwrap());
        assert_eq!(overlap(two.settle(&Bits::new(1))), "/none/d/x/b of 1", "the earlier is still looking");
        one.settle(&Bits::new(1)).unwrap();
        assert_eq!(overlap(two.settle(&Bits::full(1))), "/none/d/x/b of 1", "the earlier writes");
        drop(two);
        assert_eq!(overlap(claim(&claims, 2, "d", &second)), "/none/d/x/b of 1");
        one.finish(&[first.file_index(1).unwrap()]);
        let two = claim(&claims, 2, "d", &second).unwrap();
        assert_eq!(overlap(two.settle(&Bits::new(1))), "/none/d/x/b of 1", "it is not as the second one wants it");
        two.settle(&Bits::full(1)).unwrap();
    }

    #[test]
    fn other_folders_other_names_and_other_files_are_apart_and_nested_folders_are_not() {
        let claims = Arc::default();
        let layouts = [layout("x", &[("a", 9)]), layout("x", &[("y/b", 9)]), layout("y", &[("a", 9)])];
        let held: Vec<_> = (0..).zip(&layouts).map(|(number, layout)| claim(&claims, number, "d", layout)).collect();
        let elsewhere = claim(&claims, 7, "e", &layouts[0]);
        for held in held.iter().chain([&elsewhere]) {
            held.as_ref().unwrap().settle(&Bits::new(1)).unwrap();
        }
        assert_eq!(overlap(claim(&claims, 8, "d/x", &layout("y", &[("b", 9)]))), "/none/d/x/y/b of 1");
        claim(&claims, 8, "d/x", &layouts[2]).unwrap();
    }

    #[test]
    fn what_is_complete_may_be_seeded_by_many_and_is_nobodys_to_write_to() {
        let claims = Arc::default();
        let (whole, more) = (layout("x", &[("a", 9)]), layout("x", &[("a", 9), ("b", 2 * u64::from(PIECE))]));
        let seeds = [1, 2].map(|number| claim(&claims, number, "d", &whole).unwrap());
        seeds.iter().for_each(|seed| seed.settle(&Bits::full(1)).unwrap());
        assert_eq!(overlap(claim(&claims, 3, "d", &more).unwrap().settle(&Bits::new(3))), "/none/d/x/a of 1");
        assert_eq!(overlap(claim(&claims, 3, "d", &layout("x", &[("a", 8)]))), "/none/d/x/a of 1", "another length");
        // It is found to be damaged, and is to be written to after all.
        seeds[0].look_again();
        assert_eq!(overlap(seeds[0].settle(&Bits::new(1))), "/none/d/x/a of 2");
        drop(seeds);
        let reads = claims.claim_to_read(content(4, "d", &whole));
        assert_eq!(overlap(claim(&claims, 3, "d", &more).unwrap().settle(&Bits::new(3))), "/none/d/x/a of 4");
        drop(reads);
        claim(&claims, 3, "d", &more).unwrap().settle(&Bits::new(3)).unwrap();
    }

    #[test]
    fn a_later_reader_is_in_nobodys_way() {
        let claims = Arc::default();
        let whole = layout("x", &[("a", 9)]);
        let one = claim(&claims, 1, "d", &whole).unwrap();
        let reads = claims.claim_to_read(content(2, "d", &whole));
        one.settle(&Bits::new(1)).unwrap();
        one.look_again();
        one.settle(&Bits::new(1)).unwrap();
        drop(reads);
    }

    #[test]
    fn what_several_have_is_the_last_ones_to_delete() {
        let claims = Arc::default();
        let whole = layout("x", &[("a", 9), ("empty", 0)]);
        let empty = layout("x", &[("b", 9), ("empty", 0)]);
        let [one, two] =
            [(1, &whole), (2, &empty)].map(|(number, layout)| claim(&claims, number, "d", layout).unwrap());
        assert_eq!(overlap(one.give_up()), "/none/d/x/empty of 2");
        two.give_up().unwrap();
        assert_eq!(overlap(claim(&claims, 3, "d", &empty)), "/none/d/x/b of 2", "it is being deleted");
        drop(two);
        claim(&claims, 3, "d", &empty).unwrap();
    }

    #[test]
    fn one_that_looks_anew_keeps_its_place() {
        let claims = Arc::default();
        let whole = layout("x", &[("a", 9)]);
        let (one, two) = (claim(&claims, 1, "d", &whole).unwrap(), claim(&claims, 2, "d", &whole).unwrap());
        one.settle(&Bits::full(1)).unwrap();
        one.look_again();
        assert_eq!(overlap(two.settle(&Bits::new(1))), "/none/d/x/a of 1");
        drop(two);
        one.settle(&Bits::new(1)).unwrap();
    }
}
